//! A port's guard as `key=value` options: one table of keys, used by the command
//! line and every listing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::spelling::{self, Spelling};
use crate::v1::{GuardSpec, MacMove};

/// The keys, in the order in which they are told.
pub const KEYS: &[&str] = &[
    "allowed_macs",
    "allowed_vlans",
    "allowed_ips",
    "max_macs",
    "mac_move",
    "storm_pps",
    "storm_burst",
    "ingress_policing_rate",
    "ingress_policing_burst",
    "ingress_policing_kpkts_rate",
    "ingress_policing_kpkts_burst",
];

/// An IP address or network: `10.0.0.5`, `10.0.0.0/8`, `2001:db8::/64`.
pub fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network: IpNet = text.parse().map_err(|_| {
        format!("{text:?} is not an IP address or network, such as 10.0.0.5 or 2001:db8::/64")
    })?;
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(format!(
            "{text} is an address with a prefix; for the network write {whole}, for the address {}",
            network.addr()
        )),
    }
}

/// The reverse of [`network`].
pub fn network_text(network: IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

/// What is said as a list, in order and each once.
fn list<T: Ord>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let all: BTreeSet<T> = text.split(',').map(one).collect::<Result<_, _>>()?;
    Ok(all.into_iter().collect())
}

/// Sets an option, or with `None` takes it away. False: it is no guard's.
///
/// # Errors
///
/// A sentence that names the option and what is allowed.
pub fn set(guard: &mut GuardSpec, key: &str, value: Option<&str>) -> Result<bool, String> {
    let explain = |why: String| format!("option {key}: {why}");
    let number = || match value.map(str::parse::<u32>).transpose() {
        Ok(number) => Ok(number),
        Err(_) => Err(format!(
            "option {key}={} is not a number from 0 to {}",
            value.unwrap_or_default(),
            u32::MAX
        )),
    };
    match key {
        "allowed_macs" => {
            let macs = value.map_or(Ok(vec![]), |text| list(text, spelling::mac));
            let macs = macs.map_err(explain)?;
            guard.allowed_macs = macs.into_iter().map(spelling::mac_text).collect();
        }
        "allowed_vlans" => {
            let vlans = value.map_or(Ok(vec![]), spelling::vlans);
            guard.allowed_vlans = vlans.map_err(explain)?;
        }
        "allowed_ips" => {
            let ips = value.map_or(Ok(vec![]), |text| list(text, network));
            let ips = ips.map_err(explain)?;
            guard.allowed_ips = ips.into_iter().map(network_text).collect();
        }
        "max_macs" => guard.max_macs = number()?,
        "mac_move" => {
            let how = value.map_or(Ok(MacMove::default()), MacMove::from_spelling);
            guard.mac_move = how?.into();
        }
        "storm_pps" => guard.storm_pps = number()?.unwrap_or(0),
        "storm_burst" => guard.storm_burst = number()?.unwrap_or(0),
        "ingress_policing_rate" => guard.ingress_policing_rate = number()?.unwrap_or(0),
        "ingress_policing_burst" => guard.ingress_policing_burst = number()?.unwrap_or(0),
        "ingress_policing_kpkts_rate" => {
            guard.ingress_policing_kpkts_rate = number()?.unwrap_or(0);
        }
        "ingress_policing_kpkts_burst" => {
            guard.ingress_policing_kpkts_burst = number()?.unwrap_or(0);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// What is asked of the port, by key; options that are not said are left out.
pub fn pairs(guard: &GuardSpec) -> Vec<(&'static str, String)> {
    let number = |number: u32| match number {
        0 => String::new(),
        number => number.to_string(),
    };
    let values = [
        guard.allowed_macs.join(","),
        spelling::vlan_list(&guard.allowed_vlans),
        guard.allowed_ips.join(","),
        guard
            .max_macs
            .map_or(String::new(), |most| most.to_string()),
        match guard.mac_move() {
            MacMove::Unspecified | MacMove::Allow => String::new(),
            how => how.spelled().to_owned(),
        },
        number(guard.storm_pps),
        number(guard.storm_burst),
        number(guard.ingress_policing_rate),
        number(guard.ingress_policing_burst),
        number(guard.ingress_policing_kpkts_rate),
        number(guard.ingress_policing_kpkts_burst),
    ];
    let pairs = KEYS.iter().copied().zip(values);
    pairs.filter(|(_, value)| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_reads_back() {
        let said = [
            ("allowed_macs", "52:54:00:00:00:0B,52:54:00:00:00:01"),
            ("allowed_vlans", "7,0"),
            ("allowed_ips", "2001:db8::/64,10.0.0.5,10.1.0.0/16,10.0.0.5"),
            ("max_macs", "3"),
            ("mac_move", "deny"),
            ("storm_pps", "1000"),
            ("storm_burst", "50"),
            ("ingress_policing_rate", "100000"),
            ("ingress_policing_burst", "10000"),
            ("ingress_policing_kpkts_rate", "5"),
            ("ingress_policing_kpkts_burst", "6"),
        ];
        let mut guard = GuardSpec::default();
        for (key, value) in said {
            assert_eq!(set(&mut guard, key, Some(value)), Ok(true), "{key}");
        }
        let told = pairs(&guard);
        assert_eq!(told.len(), KEYS.len());
        assert_eq!(told[0].1, "52:54:00:00:00:01,52:54:00:00:00:0b");
        assert_eq!(told[1].1, "0,7");
        assert_eq!(told[2].1, "10.0.0.5,10.1.0.0/16,2001:db8::/64");
        let mut again = GuardSpec::default();
        for (key, value) in &told {
            set(&mut again, key, Some(value)).unwrap();
        }
        assert_eq!(again, guard);
        for key in KEYS {
            assert_eq!(set(&mut guard, key, None), Ok(true));
        }
        assert_eq!(guard, GuardSpec::default());
        assert!(pairs(&guard).is_empty());
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        let mut guard = GuardSpec::default();
        for (key, value, told) in [
            ("allowed_macs", "52:54:00", "allowed_macs"),
            ("allowed_macs", "52:54:00:00:00:01,,", "allowed_macs"),
            ("allowed_vlans", "4096", "allowed_vlans"),
            ("allowed_ips", "10.0.0", "such as 10.0.0.5"),
            ("allowed_ips", "10.0.0.5/8", "write 10.0.0.0/8"),
            ("allowed_ips", "10.0.0.0/33", "such as"),
            ("max_macs", "many", "max_macs"),
            ("mac_move", "never", "allow, deny"),
            ("storm_pps", "-1", "storm_pps"),
            ("ingress_policing_rate", "1M", "ingress_policing_rate"),
        ] {
            let why = set(&mut guard, key, Some(value)).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
        assert_eq!(guard, GuardSpec::default());
        assert_eq!(set(&mut guard, "tag", Some("7")), Ok(false));
    }
}
