//! The commands that move addresses to a bridge's own interface.

use super::Link;
use crate::HostError;

/// The `ip` commands, in the right order, that move all global addresses of
/// `link`, and the routes that go with them, to the interface `bridge`, and set
/// it up. Empty if the interface has no such address.
///
/// # Errors
///
/// As the kernel refuses to tell.
pub fn remedy(link: &Link, bridge: &str) -> Result<Vec<String>, HostError> {
    let _ = (link, bridge);
    todo!()
}
