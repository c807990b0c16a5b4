//! Kernel interfaces, asked and changed through rtnetlink (rtnetlink(7)), in
//! the network namespace of the calling thread.

mod address;
mod features;
mod remedy;
mod route;
mod watch;

pub use address::{Address, addresses};
pub use features::{Features, features};
pub use remedy::remedy;
pub use route::{Route, routes};
pub use watch::LinkWatch;

use crate::HostError;

/// What the kernel tells about an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it. A device that was deleted and made anew has another one.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its Ethernet address; none for interfaces that have no frames.
    pub mac: Option<[u8; 6]>,
    /// Bytes of payload after the Ethernet header.
    pub mtu: u32,
    /// The smallest MTU that it takes; 0 if the driver does not tell.
    pub min_mtu: u32,
    /// The largest MTU that it takes; 0 if the driver does not tell.
    pub max_mtu: u32,
    /// The administrator's wish: `ip link set NAME up`.
    pub admin_up: bool,
    /// A cable, a peer or an opened tap at its other end.
    pub carrier: bool,
    /// `tun`, `veth`, `bridge`, …, or the name of a NIC's driver; empty if neither is known.
    pub kind: String,
    /// The index of the bridge or bond that it is enslaved to.
    pub master: Option<u32>,
    /// How many have asked for frames to all addresses.
    pub promiscuity: u32,
}

/// The interface of that name, if there is one.
///
/// # Errors
///
/// As the kernel refuses to tell; that there is none is no error.
pub fn find(name: &str) -> Result<Option<Link>, HostError> {
    let _ = name;
    todo!()
}

/// All interfaces, by index.
///
/// # Errors
///
/// As the kernel refuses to tell.
pub fn all() -> Result<Vec<Link>, HostError> {
    todo!()
}

/// Gives the interface another Ethernet address.
///
/// # Errors
///
/// The kernel's, such as an address that is a group's.
pub fn set_mac(index: u32, mac: [u8; 6]) -> Result<(), HostError> {
    let _ = (index, mac);
    todo!()
}

/// Sets the interface's MTU.
///
/// # Errors
///
/// The kernel's, with the limits that the driver tells.
pub fn set_mtu(index: u32, mtu: u32) -> Result<(), HostError> {
    let _ = (index, mtu);
    todo!()
}

/// `ip link set NAME up` or `down`.
///
/// # Errors
///
/// The kernel's.
pub fn set_up(index: u32, up: bool) -> Result<(), HostError> {
    let _ = (index, up);
    todo!()
}

/// `ip link del NAME`. That it is gone already is no error.
///
/// # Errors
///
/// The kernel's, such as a NIC, which cannot be deleted.
pub fn delete(index: u32) -> Result<(), HostError> {
    let _ = index;
    todo!()
}
