//! The addresses of an interface.

use std::fmt;
use std::net::IpAddr;

use crate::HostError;

/// An address that the host has on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address itself.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
    /// It is of use on this link alone (169.254/16 by scope, fe80::/10).
    pub scope_link: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// The addresses of an interface, IPv4 first, in the kernel's order.
///
/// # Errors
///
/// As the kernel refuses to tell.
pub fn addresses(index: u32) -> Result<Vec<Address>, HostError> {
    let _ = index;
    todo!()
}
