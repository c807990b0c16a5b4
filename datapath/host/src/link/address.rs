//! The addresses of an interface.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};

use crate::HostError;
use crate::netlink;

/// An address that the host has on an interface. `Display` prints it as
/// `ip address add` and `del` take it: `10.10.10.11/16`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address itself.
    pub ip: IpAddr,
    /// The other end's, where the interface has one other end.
    pub peer: Option<IpAddr>,
    /// Bits of the network (of the peer's, if there is one).
    pub prefix: u8,
    /// The network's broadcast address, if one was set.
    pub broadcast: Option<Ipv4Addr>,
    /// It is of use on this link, or this host, alone (fe80::/10, 169.254/16 by its scope).
    pub scope_link: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{} peer {peer}/{}", self.ip, self.prefix),
            None => write!(f, "{}/{}", self.ip, self.prefix),
        }
    }
}

/// The addresses of an interface, IPv4 first, in the kernel's order: a network's
/// first address before those that go when it goes.
///
/// # Errors
///
/// As the kernel refuses to tell. An interface that is gone has none.
pub fn addresses(index: u32) -> Result<Vec<Address>, HostError> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    let answers = match netlink::list(&RouteNetlinkMessage::GetAddress(request)) {
        Err(failure) if failure.errno() == Some(libc::ENODEV) => return Ok(Vec::new()),
        answers => answers.map_err(|failure| {
            failure.about("list the addresses of", &super::name_of(index), None)
        })?,
    };
    let mut addresses: Vec<Address> = answers
        .iter()
        .filter_map(|answer| match answer {
            // Kernels before 4.20 do not filter.
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                read(message)
            }
            _ => None,
        })
        .collect();
    addresses.sort_by_key(|address| address.ip.is_ipv6());
    Ok(addresses)
}

fn read(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut other, mut broadcast) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(*ip),
            _ => {}
        }
    }
    // Without a peer, IPv4 gives the same twice and IPv6 gives no local one.
    let ip = local.or(other)?;
    Some(Address {
        ip,
        peer: other.filter(|other| *other != ip),
        prefix: message.header.prefix_len,
        broadcast,
        scope_link: matches!(
            message.header.scope,
            AddressScope::Link | AddressScope::Host | AddressScope::Nowhere
        ),
    })
}
