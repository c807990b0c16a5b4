//! Kernel interfaces, asked and changed through rtnetlink (rtnetlink(7)), in
//! the network namespace of the calling thread.

mod address;
mod features;
mod remedy;
mod route;
mod statistics;
mod watch;

pub use address::{Address, addresses};
pub use features::{Features, features, speed};
pub use remedy::remedy;
pub use route::{Hop, Route, routes};
pub use statistics::statistics;
pub use watch::LinkWatch;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoTun, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};

use crate::HostError;
use crate::netlink::{self, Failure};

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

/// What the tun driver tells about a device of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TunFacts {
    /// Frames (tap), not packets (tun).
    pub tap: bool,
    /// It was made for several queues.
    pub multi_queue: bool,
    /// It stays without an owner.
    pub persistent: bool,
    /// Queues that are open now. Told of multi-queue devices alone.
    pub open_queues: u32,
}

/// The interface of that name, if there is one.
///
/// # Errors
///
/// As the kernel refuses to tell; that there is none is no error.
pub fn find(name: &str) -> Result<Option<Link>, HostError> {
    Ok(message_of(name)?.map(|message| read(&message)))
}

/// All interfaces, by index.
///
/// # Errors
///
/// As the kernel refuses to tell.
pub fn all() -> Result<Vec<Link>, HostError> {
    let mut request = LinkMessage::default();
    request.attributes.push(without_statistics());
    let answers = netlink::list(&RouteNetlinkMessage::GetLink(request))
        .map_err(|failure| failure.about("list", "the interfaces", None))?;
    let mut links: Vec<Link> = answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(read(message)),
            _ => None,
        })
        .collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// Why no interface can have that name, if so (`dev_valid_name` of the kernel).
pub(crate) fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() >= libc::IFNAMSIZ {
        Some("it is longer than 15 bytes")
    } else if name == "." || name == ".." {
        Some("it is a directory's")
    } else if name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace()) {
        Some("it has a character that is not allowed")
    } else {
        None
    }
}

/// The name of the interface with that index, for messages.
pub(crate) fn name_of(index: u32) -> String {
    let mut request = LinkMessage::default();
    request.header.index = index;
    request.attributes.push(without_statistics());
    get(request)
        .ok()
        .flatten()
        .map(|message| read_name(&message))
        .unwrap_or_else(|| format!("with index {index}"))
}

/// Gives the interface another Ethernet address.
///
/// # Errors
///
/// The kernel's, such as for a group's address.
pub fn set_mac(index: u32, mac: [u8; 6]) -> Result<(), HostError> {
    let remedy = if mac[0] & 1 == 1 {
        "an interface's address cannot be a group's: the first byte must be even"
    } else {
        "some drivers take it only while the interface is down"
    };
    change(index, LinkAttribute::Address(mac.to_vec())).map_err(|failure| {
        failure.about(
            "set the Ethernet address of",
            &name_of(index),
            Some(remedy.to_owned()),
        )
    })
}

/// Sets the interface's MTU.
///
/// # Errors
///
/// The kernel's, with the limits that the driver tells.
pub fn set_mtu(index: u32, mtu: u32) -> Result<(), HostError> {
    change(index, LinkAttribute::Mtu(mtu)).map_err(|failure| {
        let name = name_of(index);
        let limits = match find(&name) {
            Ok(Some(link)) if link.max_mtu > 0 => Some(format!(
                "its driver takes {} to {}, {mtu} was asked for",
                link.min_mtu, link.max_mtu
            )),
            _ => None,
        };
        failure.about("set the MTU of", &name, limits)
    })
}

/// `ip link set NAME up` or `down`.
///
/// # Errors
///
/// The kernel's.
pub fn set_up(index: u32, up: bool) -> Result<(), HostError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    if up {
        message.header.flags = LinkFlags::Up;
    }
    let what = if up { "set up" } else { "set down" };
    netlink::route(RouteNetlinkMessage::SetLink(message), 0)
        .map(drop)
        .map_err(|failure| failure.about(what, &name_of(index), None))
}

/// `ip link del NAME`. That it is gone already is no error.
///
/// # Errors
///
/// The kernel's, such as a NIC, which cannot be deleted.
pub fn delete(index: u32) -> Result<(), HostError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    match netlink::route(RouteNetlinkMessage::DelLink(message), 0) {
        Err(failure) if failure.errno() != Some(libc::ENODEV) => {
            Err(failure.about("delete", &name_of(index), None))
        }
        _ => Ok(()),
    }
}

/// What the tun driver tells about the device of that name; none if it is not of
/// that driver. The outer none: there is no such interface.
pub(crate) fn tun_facts(name: &str) -> Result<Option<(Link, Option<TunFacts>)>, HostError> {
    Ok(message_of(name)?.map(|message| (read(&message), read_tun(&message))))
}

fn message_of(name: &str) -> Result<Option<LinkMessage>, HostError> {
    if name_fault(name).is_some() {
        return Ok(None);
    }
    let mut request = LinkMessage::default();
    request
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    request.attributes.push(without_statistics());
    get(request).map_err(|failure| failure.about("look up", name, None))
}

fn get(request: LinkMessage) -> Result<Option<LinkMessage>, Failure> {
    match netlink::route(RouteNetlinkMessage::GetLink(request), 0) {
        Err(failure) if failure.errno() == Some(libc::ENODEV) => Ok(None),
        answers => Ok(answers?.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(message),
            _ => None,
        })),
    }
}

fn read_name(message: &LinkMessage) -> String {
    let name = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
    name.unwrap_or_default()
}

/// Counters are left out of the answer: they are its larger half.
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn change(index: u32, attribute: LinkAttribute) -> Result<(), Failure> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(attribute);
    netlink::route(RouteNetlinkMessage::SetLink(message), 0).map(drop)
}

fn read(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: read_name(message),
        mac: None,
        mtu: 0,
        min_mtu: 0,
        max_mtu: 0,
        admin_up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        kind: String::new(),
        master: None,
        promiscuity: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes)
                if message.header.link_layer_type == LinkLayerType::Ether =>
            {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::MinMtu(mtu) => link.min_mtu = *mtu,
            LinkAttribute::MaxMtu(mtu) => link.max_mtu = *mtu,
            LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Promiscuity(count) => link.promiscuity = *count,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    if link.kind.is_empty() {
        link.kind = features::driver(&link.name).unwrap_or_default();
    }
    link
}

fn read_tun(message: &LinkMessage) -> Option<TunFacts> {
    // IFLA_TUN_… of linux/if_link.h; netlink-packet-route gives them as they are.
    const TYPE: u16 = 3;
    const PERSIST: u16 = 6;
    const MULTI_QUEUE: u16 = 7;
    const NUM_QUEUES: u16 = 8;
    const TYPE_TAP: u8 = 2;
    let infos = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
    let attributes = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(attributes)) => Some(attributes),
        _ => None,
    })?;
    let mut facts = TunFacts::default();
    for attribute in attributes {
        let InfoTun::Other(attribute) = attribute else {
            continue;
        };
        let value = value(attribute);
        let first = value.first().copied().unwrap_or_default();
        match attribute.kind() {
            TYPE => facts.tap = first == TYPE_TAP,
            PERSIST => facts.persistent = first != 0,
            MULTI_QUEUE => facts.multi_queue = first != 0,
            NUM_QUEUES => {
                facts.open_queues = value.try_into().map_or(0, u32::from_ne_bytes);
            }
            _ => {}
        }
    }
    Some(facts)
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}
