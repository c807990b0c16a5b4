//! The host's interfaces, as far as the control plane must know them: what
//! stands in a port's way, and what the user should be told about it.

mod kernel;

pub use kernel::{KernelHost, watch_links};

use std::fmt::Write;

use crate::model::{Desired, Kind, Port};
use crate::switch::Switch;

/// Bytes behind the Ethernet header that an internal port's frames may have when
/// nobody said otherwise.
const DEFAULT_MTU: u32 = 1500;

/// A kernel interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Bytes behind the Ethernet header.
    pub mtu: u32,
    /// Set up by its administrator.
    pub admin_up: bool,
    /// The bridge or bond of the kernel's that it is a member of.
    pub master: Option<String>,
    /// Its addresses, as `ip address` prints them, without those of the link.
    pub addresses: Vec<String>,
}

/// Asked about the host's interfaces. [`KernelHost`] asks the kernel; tests put
/// a fake in its place.
pub trait Host: Send + Sync + 'static {
    /// The interface of that name, if there is one.
    fn interface(&self, name: &str) -> Result<Option<Interface>, String>;

    /// The commands that move the addresses and routes of an interface to
    /// another one, and set that up.
    fn move_addresses(&self, from: &str, to: &str) -> Result<Vec<String>, String>;
}

/// Why a port cannot be had as long as its interface is as it is, and what to
/// do about it.
pub fn obstacle(host: &dyn Host, port: &Port) -> Option<String> {
    let Kind::System(_) = port.kind else {
        return None;
    };
    let name = &port.name;
    match host.interface(name) {
        Ok(None) => Some(format!(
            "there is no interface {name}; it comes back by itself when the interface does (QEMU \
             makes it, or: ip tuntap add {name} mode tap)"
        )),
        Ok(Some(interface)) => interface.master.map(|master| taken(name, &master)),
        // The datapath will tell.
        Err(_) => None,
    }
}

/// Why a port that would take an interface from something else is refused.
pub fn belongs_elsewhere(host: &dyn Host, before: Option<&Port>, port: &Port) -> Option<String> {
    if !takes_interface(before, port) {
        return None;
    }
    let interface = host.interface(&port.name).ok()??;
    interface.master.map(|master| taken(&port.name, &master))
}

fn taken(name: &str, master: &str) -> String {
    format!(
        "interface {name} is a member of {master}, which takes its frames. To take it out:\n  ip \
         link set {name} nomaster"
    )
}

/// What the user should know about ports that were just added or changed.
pub fn warnings<S: Switch>(
    switch: &S,
    host: &dyn Host,
    old: &Desired,
    desired: &Desired,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut touched = Vec::new();
    for port in &desired.ports {
        let before = old.port(&port.name);
        if before.is_some_and(|before| before.is_same_to_datapath(port)) {
            continue;
        }
        if before.is_none_or(|before| !has_same_mtu(before, port)) {
            touched.push(port);
        }
        if before.is_none_or(|before| before.vlan != port.vlan) {
            let name = &port.name;
            let ignored = port.vlan.ignored().into_iter();
            warnings.extend(ignored.map(|what| format!("port {name}: {what}")));
        }
        if takes_interface(before, port)
            && let Ok(Some(interface)) = host.interface(&port.name)
        {
            warnings.extend(dead_addresses(host, desired, port, &interface));
            warnings.extend(is_down(port, &interface));
        }
        warnings.extend(odd_peer(desired, port));
        if before.is_none_or(|before| before.mtu != port.mtu) {
            warnings.extend(idle_mtu(port));
        }
    }
    if !touched.is_empty() {
        warnings.extend(mtu_mismatches(switch, host, desired, &touched));
    }
    warnings
}

/// Whether a change leaves a port's MTU, and who it has to do with, as they were.
fn has_same_mtu(before: &Port, port: &Port) -> bool {
    let device = |port: &Port| std::mem::discriminant(&port.kind);
    before.mtu == port.mtu && before.bridge == port.bridge && device(before) == device(port)
}

/// An MTU that nothing is measured by.
fn idle_mtu(port: &Port) -> Option<String> {
    let Kind::Patch(options) = &port.kind else {
        return None;
    };
    let (name, peer, mtu) = (&port.name, &options.peer, port.mtu?);
    Some(format!(
        "port {name}: mtu={mtu} is without effect on a patch port: what crosses to {peer} is \
         measured at the port that it leaves by. To take it off:\n  ringway set-port {name} mtu="
    ))
}

/// Whether a port takes an interface that it did not have before.
fn takes_interface(before: Option<&Port>, port: &Port) -> bool {
    let is_system = |port: &Port| matches!(port.kind, Kind::System(_));
    is_system(port) && !before.is_some_and(is_system)
}

fn dead_addresses(
    host: &dyn Host,
    desired: &Desired,
    port: &Port,
    interface: &Interface,
) -> Option<String> {
    let (name, bridge) = (&port.name, &port.bridge);
    let (addresses, no_longer) = match interface.addresses.as_slice() {
        [] => return None,
        [one] => (format!("address {one}"), "which no longer works there"),
        all => (
            format!("addresses {}", all.join(", ")),
            "which no longer work there",
        ),
    };
    let article = if interface.addresses.len() == 1 {
        "the "
    } else {
        ""
    };
    let mut text = format!(
        "port {name}: interface {name} has {article}{addresses}, {no_longer}: an attached \
         interface's own addresses are dead. They belong on the bridge's internal port. To move \
         them:"
    );
    if !desired.port(bridge).is_some_and(Port::is_local) {
        let _ = write!(text, "\n  ringway set-br {bridge} no-internal=false");
    }
    match host.move_addresses(name, bridge) {
        Ok(commands) => {
            for command in commands {
                let _ = write!(text, "\n  {command}");
            }
        }
        Err(why) => {
            let _ = write!(text, " use `ip address` ({why})");
        }
    }
    Some(text)
}

fn is_down(port: &Port, interface: &Interface) -> Option<String> {
    let name = &port.name;
    (!interface.admin_up).then(|| {
        format!(
            "port {name}: interface {name} is down, so no frame passes. To set it up:\n  ip link \
             set {name} up"
        )
    })
}

/// A patch port whose other end is not there, or is another's.
fn odd_peer(desired: &Desired, port: &Port) -> Option<String> {
    let Kind::Patch(options) = &port.kind else {
        return None;
    };
    let (name, peer) = (&port.name, &options.peer);
    match desired.port(peer).map(|other| (&other.bridge, &other.kind)) {
        None => Some(format!(
            "port {name}: its peer {peer} is not there yet, so nothing passes. To add it, on \
             another bridge BR:\n  ringway add-port BR {peer} type=patch peer={name}"
        )),
        Some((_, Kind::Patch(other))) if other.peer != *name => Some(format!(
            "port {name}: its peer {peer} has another peer, {}, so nothing passes. To join \
             them:\n  ringway set-port {peer} peer={name}",
            other.peer
        )),
        Some(_) => None,
    }
}

/// Frames that one port takes and another of its bridge does not: for each
/// bridge with touched ports, the smallest MTU beside the largest.
fn mtu_mismatches<S: Switch>(
    switch: &S,
    host: &dyn Host,
    desired: &Desired,
    touched: &[&Port],
) -> Vec<String> {
    let actual = switch.ports();
    let mtu = |port: &Port| -> Option<u32> {
        let status = actual.iter().find(|status| status.name == port.name);
        let device = status
            .and_then(|status| status.link.as_ref())
            .map(|link| link.mtu);
        let interface = || Some(host.interface(&port.name).ok()??.mtu);
        match &port.kind {
            Kind::Patch(_) => None,
            _ if port.mtu.is_some() => port.mtu.map(u32::from),
            // A guest is given frames of any length.
            Kind::VhostUser(_) => None,
            Kind::Internal(_) => device.or_else(interface).or(Some(DEFAULT_MTU)),
            Kind::Dpdk(_) => device,
            Kind::System(_) | Kind::Tap(_) => device.or_else(interface),
        }
        .filter(|mtu| *mtu > 0)
    };
    let mut warnings = Vec::new();
    for bridge in &desired.bridges {
        let is_touched = |port: &Port| touched.iter().any(|other| other.name == port.name);
        let ports: Vec<_> = (desired.ports_of(bridge.name()))
            .filter_map(|port| Some((port, mtu(port)?)))
            .collect();
        let smallest = (ports.iter()).min_by_key(|(port, mtu)| (*mtu, !is_touched(port)));
        let largest = (ports.iter()).max_by_key(|(port, mtu)| (*mtu, is_touched(port)));
        let (Some((small, low)), Some((large, high))) = (smallest, largest) else {
            continue;
        };
        // Told when it comes about, not at each change after that.
        let new = is_touched(small) || is_touched(large);
        if low < high && new {
            warnings.push(format!(
                "bridge {}: port {} has an MTU of {low}, smaller than port {}'s {high}: longer \
                 frames cannot leave through it and are dropped (`ringway drops` counts them as \
                 exceeds_mtu). To raise it:\n  ringway set-port {} mtu={high}",
                bridge.name(),
                small.name,
                large.name,
                small.name
            ));
        }
    }
    warnings
}
