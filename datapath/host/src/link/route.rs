//! The routes that go through an interface.

use std::fmt;
use std::net::IpAddr;

use crate::HostError;

/// A route of the main table, without the interface it goes through.
/// `Display` prints what `ip route add` takes before `dev NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whereto, and bits of the network; none is the default route.
    pub destination: Option<(IpAddr, u8)>,
    /// It is an IPv6 route.
    pub v6: bool,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The next hop need not be of a network that the interface has.
    pub onlink: bool,
    /// The address that the host's own packets have.
    pub source: Option<IpAddr>,
    /// The smaller one wins; 0 is none.
    pub metric: u32,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}

/// The routes of the main table through the interface that are not the
/// kernel's own for an address.
///
/// # Errors
///
/// As the kernel refuses to tell.
pub fn routes(index: u32) -> Result<Vec<Route>, HostError> {
    let _ = index;
    todo!()
}
