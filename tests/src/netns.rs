//! Network namespaces with a veth pair between them, made for one test and
//! removed after it.

use crate::error::Result;
use crate::machine;

/// Two namespaces joined by a veth pair: the switch runs in one, the other is
/// a neighbouring host.
#[derive(Debug)]
pub struct VethPair {
    /// The switch's namespace.
    pub switch: String,
    /// The neighbour's namespace.
    pub neighbour: String,
}

impl VethPair {
    /// The veth end in the switch's namespace.
    pub const SWITCH_DEVICE: &'static str = "uplink0";
    /// The veth end in the neighbour's namespace.
    pub const NEIGHBOUR_DEVICE: &'static str = "host0";

    /// Makes both namespaces and the pair; the neighbour gets the address
    /// (`10.0.9.2/24`). Names carry this process's id.
    pub fn new(address: &str) -> Result<Self> {
        let id = std::process::id();
        let pair = Self {
            switch: format!("ringway-{id}-switch"),
            neighbour: format!("ringway-{id}-host"),
        };
        ip(&["netns", "add", &pair.switch])?;
        ip(&["netns", "add", &pair.neighbour])?;
        let (near, far) = (Self::SWITCH_DEVICE, Self::NEIGHBOUR_DEVICE);
        pair.in_switch(&[
            "link",
            "add",
            near,
            "type",
            "veth",
            "peer",
            "name",
            far,
            "netns",
            &pair.neighbour,
        ])?;
        // Frames of the test only: no IPv6 chatter from either kernel.
        for (namespace, device) in [(&pair.switch, near), (&pair.neighbour, far)] {
            let setting = format!("net.ipv6.conf.{device}.disable_ipv6=1");
            machine::sh(
                "ip",
                &["netns", "exec", namespace, "sysctl", "-q", "-w", &setting],
            )?;
        }
        pair.in_switch(&["link", "set", near, "up"])?;
        pair.in_neighbour(&["address", "add", address, "dev", far])?;
        pair.in_neighbour(&["link", "set", far, "up"])?;
        Ok(pair)
    }

    /// Runs `ip …` in the switch's namespace.
    pub fn in_switch(&self, args: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.switch], args].concat())
    }

    /// Runs `ip …` in the neighbour's namespace.
    pub fn in_neighbour(&self, args: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.neighbour], args].concat())
    }

    /// Runs a program in the neighbour's namespace.
    pub fn exec_in_neighbour(&self, command: &[&str]) -> Result<String> {
        ip(&[&["netns", "exec", &self.neighbour], command].concat())
    }
}

fn ip(args: &[&str]) -> Result<String> {
    machine::sh("ip", args)
}

impl Drop for VethPair {
    fn drop(&mut self) {
        // The veth pair goes with its namespaces. An error means that it was
        // never made.
        for namespace in [&self.switch, &self.neighbour] {
            let _ = ip(&["netns", "del", namespace]);
        }
    }
}
