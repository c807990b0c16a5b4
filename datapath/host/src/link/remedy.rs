//! The commands that move addresses to a bridge's own interface.
//!
//! An interface that is a bridge's port is dead for the host's own stack, with
//! all its addresses: what it receives is the bridge's. The host speaks through
//! the bridge's own (internal) port, so that is where its addresses belong.

use super::{Address, Link, Route, addresses, routes};
use crate::HostError;

/// The `ip` commands, in the right order, that move all global addresses of
/// `link`, and the routes through it, to the interface named `bridge`, and set
/// that up. Empty if the interface has neither, or is that one itself.
///
/// Each line is one command for a shell. As long as not all have run, the host
/// cannot be reached by these addresses: who works over the network should join
/// them by `&&` on one line.
///
/// # Errors
///
/// As the kernel refuses to tell.
pub fn remedy(link: &Link, bridge: &str) -> Result<Vec<String>, HostError> {
    Ok(commands(
        &link.name,
        bridge,
        &addresses(link.index)?,
        &routes(link.index)?,
    ))
}

fn commands(from: &str, to: &str, addresses: &[Address], routes: &[Route]) -> Vec<String> {
    let global: Vec<&Address> = addresses.iter().filter(|a| !a.scope_link).collect();
    if from == to || global.is_empty() && routes.is_empty() {
        return Vec::new();
    }
    let (from_word, to_word) = (word(from), word(to));
    let mut commands = Vec::new();
    // From the last to the first: with a network's first address its others go too.
    for address in global.iter().rev() {
        commands.push(format!("ip addr del {address} dev {from_word}"));
    }
    for address in &global {
        let mut command = format!("ip addr add {address} dev {to_word}");
        if let Some(broadcast) = address.broadcast {
            command += &format!(" brd {broadcast}");
        }
        // Until an IPv6 address is known to be alone on the link no route can name
        // it; this one was known to be before it moved.
        if address.ip.is_ipv6() {
            command += " nodad";
        }
        commands.push(command);
    }
    commands.push(format!("ip link set {to_word} up"));
    // The kernel drops some of the routes with the addresses, and leaves others where
    // they were (IPv6, or beside a link's own address): `replace` is right for both.
    // A router must be reachable before a route can name it.
    let (direct, over): (Vec<&Route>, Vec<&Route>) = routes.iter().partition(|r| r.direct());
    for route in direct.into_iter().chain(over) {
        let family = if route.v6 { "ip -6" } else { "ip" };
        commands.push(format!("{family} route replace {}", route.moved(from, to)));
    }
    commands
}

/// A name as a word of a shell: the kernel takes names such as `a;b`.
pub(super) fn word(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}
