//! What a port may send, and how much of it.

use ipnet::IpNet;

/// Most entries of each list of a [`GuardSpec`].
pub const MAX_ALLOWED: usize = 64;

/// What a port may send, and how much of it. Nothing of it is asked of a port
/// by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardSpec {
    /// Ethernet addresses that its frames may come from, in order; empty: any.
    pub allowed_macs: Vec<[u8; 6]>,
    /// VLANs that its frames may have when they come in, in order, 0 being
    /// none; empty: any.
    pub allowed_vlans: Vec<u16>,
    /// IP addresses that its packets may come from, and that it may say are
    /// its own by ARP and neighbour discovery, in order; empty: any.
    pub allowed_ips: Vec<IpNet>,
    /// Stations that may be learned on it; frames of further ones are dropped.
    /// `None`: most of the bridge's table, and nothing is dropped.
    pub max_macs: Option<u32>,
    /// Whether stations that were heard on it may move to other ports.
    pub mac_move: MacMove,
    /// Frames to many that it may send a second (broadcast, multicast, and to
    /// stations that are not known).
    pub storm: RateSpec,
    /// Kilobits that it may send a second.
    pub ingress_kbits: RateSpec,
    /// Thousands of packets that it may send a second.
    pub ingress_kpkts: RateSpec,
}

/// A rate with a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSpec {
    /// Per second; 0: no limit.
    pub rate: u32,
    /// At once, after a time of silence; 0: what is usual.
    pub burst: u32,
}

/// Whether stations that were heard on a port may move to other ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MacMove {
    /// They move as soon as they are heard there.
    #[default]
    Allow,
    /// Not while they are known here and the port is up: frames that say to be
    /// from one of them are dropped on other ports.
    Deny,
}

impl GuardSpec {
    /// Burst of `ingress_kbits` if none is given, in kilobits: Open vSwitch's.
    pub const KBITS_BURST: u32 = 8000;
    /// Burst of `ingress_kpkts` if none is given, in thousands of packets: Open
    /// vSwitch's.
    pub const KPKTS_BURST: u32 = 16;

    /// Frames to many that may come at once: as given, or what comes in a tenth
    /// of a second, at least 32.
    pub fn storm_burst(&self) -> u32 {
        match self.storm.burst {
            0 => (self.storm.rate / 10).max(32),
            burst => burst,
        }
    }

    /// Why it cannot be, if it cannot.
    pub fn check(&self) -> Result<(), String> {
        let lengths = [
            ("allowed_macs", self.allowed_macs.len()),
            ("allowed_ips", self.allowed_ips.len()),
        ];
        for (option, length) in lengths {
            if length > MAX_ALLOWED {
                return Err(format!(
                    "{option} lists {length} addresses; at most {MAX_ALLOWED} are possible"
                ));
            }
        }
        let group = |mac: &&[u8; 6]| mac[0] & 1 != 0 || **mac == [0; 6];
        if let Some(mac) = self.allowed_macs.iter().find(group) {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            return Err(format!(
                "allowed_macs={mac}: no station has that address: it is a group's or all zero"
            ));
        }
        if let Some(vlan) = self.allowed_vlans.iter().find(|vlan| **vlan > 4095) {
            return Err(format!(
                "allowed_vlans={vlan}: a VLAN is a number from 0 (no tag) to 4095"
            ));
        }
        if self.max_macs == Some(0) {
            return Err("max_macs=0: nobody could send; at least 1, or not given".to_owned());
        }
        // Open vSwitch takes its bursts without a rate; so do we.
        if let RateSpec {
            rate: 0,
            burst: 1..,
        } = self.storm
        {
            return Err("storm_burst needs a rate: give storm_pps=N, too".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        assert_eq!(GuardSpec::default().check(), Ok(()));
        let refused = |change: &dyn Fn(&mut GuardSpec), option: &str| {
            let mut spec = GuardSpec::default();
            change(&mut spec);
            let why = spec.check().unwrap_err();
            assert!(why.contains(option), "{why}");
        };
        refused(&|spec| spec.allowed_macs = vec![[1; 6]], "allowed_macs");
        refused(&|spec| spec.allowed_macs = vec![[0; 6]], "allowed_macs");
        refused(&|spec| spec.allowed_macs = vec![[2; 6]; 65], "at most 64");
        refused(&|spec| spec.allowed_vlans = vec![1, 4096], "allowed_vlans");
        refused(&|spec| spec.max_macs = Some(0), "max_macs");
        refused(&|spec| spec.storm.burst = 5, "storm_pps");
    }

    #[test]
    fn a_storm_has_a_burst_of_a_tenth_of_a_second() {
        let mut spec = GuardSpec::default();
        spec.storm.rate = 10_000;
        assert_eq!(spec.storm_burst(), 1000);
        spec.storm.rate = 1;
        assert_eq!(spec.storm_burst(), 32);
        spec.storm.burst = 3;
        assert_eq!(spec.storm_burst(), 3);
    }
}
