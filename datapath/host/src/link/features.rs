//! What an interface's driver does for us (ethtool).

use crate::HostError;

/// What ethtool tells about an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// The driver's name (`ethtool -i`); empty if it has none.
    pub driver: String,
    /// Megabits per second, if the link has a speed.
    pub speed: Option<u32>,
    /// It computes checksums of what it sends.
    pub tx_checksum: bool,
    /// It cuts large TCP frames over IPv4 while it sends them.
    pub tso4: bool,
    /// It cuts large TCP frames over IPv6 while it sends them.
    pub tso6: bool,
    /// The kernel joins TCP frames that came in (generic receive offload).
    pub gro: bool,
}

/// What ethtool tells about the interface of that name. What the driver does not
/// tell is false, empty or none.
///
/// # Errors
///
/// There is no such interface.
pub fn features(name: &str) -> Result<Features, HostError> {
    let _ = name;
    todo!()
}
