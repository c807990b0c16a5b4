//! The routes that go through an interface.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::name_of;
use super::remedy::word;
use crate::HostError;
use crate::netlink;

/// A route of the main table. `Display` prints it as `ip route add` takes it
/// (`ip -6 route add` if [`Route::v6`]):
/// `default via 10.10.0.1 dev tap124 metric 100`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whereto, and bits of the network; none is the default route.
    pub destination: Option<(IpAddr, u8)>,
    /// It is an IPv6 route.
    pub v6: bool,
    /// The ways to there; several share the traffic.
    pub hops: Vec<Hop>,
    /// The address that the host's own packets get.
    pub source: Option<IpAddr>,
    /// The smaller one wins; 0 is none.
    pub metric: u32,
    /// Packets of this type of service alone; 0 is all.
    pub tos: u8,
    /// What else was set: `mtu 1400`, `advmss 1360`, …
    pub options: Vec<String>,
}

/// One way of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The router; none if the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The interface's name.
    pub interface: String,
    /// The router need not be of a network that the interface has.
    pub onlink: bool,
    /// Its share of the traffic, beside the other hops'.
    pub weight: u16,
}

impl Route {
    /// The same route, with its ways through one interface led through another.
    #[must_use]
    pub fn moved(&self, from: &str, to: &str) -> Self {
        let mut moved = self.clone();
        for hop in &mut moved.hops {
            if hop.interface == from {
                to.clone_into(&mut hop.interface);
            }
        }
        moved
    }

    /// It leads to the link itself. Such routes come before those over a router.
    #[must_use]
    pub fn direct(&self) -> bool {
        self.hops.iter().all(|hop| hop.gateway.is_none())
    }

    fn write_hop(&self, hop: &Hop, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match hop.gateway {
            Some(gateway) if gateway.is_ipv6() && !self.v6 => write!(f, " via inet6 {gateway}")?,
            Some(gateway) => write!(f, " via {gateway}")?,
            None => {}
        }
        write!(f, " dev {}", word(&hop.interface))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination {
            Some((ip, prefix)) => write!(f, "{ip}/{prefix}")?,
            None => f.write_str("default")?,
        }
        if self.tos != 0 {
            write!(f, " tos {:#04x}", self.tos)?;
        }
        if let [hop] = self.hops.as_slice() {
            self.write_hop(hop, f)?;
            if hop.onlink {
                f.write_str(" onlink")?;
            }
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        for option in &self.options {
            write!(f, " {option}")?;
        }
        if self.hops.len() > 1 {
            for hop in &self.hops {
                f.write_str(" nexthop")?;
                self.write_hop(hop, f)?;
                write!(f, " weight {}", hop.weight)?;
                if hop.onlink {
                    f.write_str(" onlink")?;
                }
            }
        }
        Ok(())
    }
}

/// The routes of the main table through the interface, IPv4 first, in the
/// kernel's order. Left out are the kernel's own, which come with an address,
/// and those that a router advertised, which come anew.
///
/// # Errors
///
/// As the kernel refuses to tell. An interface that is gone has none.
pub fn routes(index: u32) -> Result<Vec<Route>, HostError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.attributes.push(RouteAttribute::Oif(index));
        let answers = match netlink::list(&RouteNetlinkMessage::GetRoute(request)) {
            // No such interface; or no route was ever in the table, or no IPv6 in the kernel.
            Err(failure)
                if matches!(
                    failure.errno(),
                    Some(libc::ENODEV | libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
                ) =>
            {
                continue;
            }
            answers => answers
                .map_err(|failure| failure.about("list the routes of", &name_of(index), None))?,
        };
        routes.extend(answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => read(message, index),
            _ => None,
        }));
    }
    Ok(routes)
}

/// None if the route is not of our kind.
fn read(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    let renewed = matches!(
        header.protocol,
        RouteProtocol::Kernel | RouteProtocol::Ra | RouteProtocol::IcmpRedirect
    );
    // Kernels before 4.20 do not filter.
    if renewed
        || header.kind != RouteType::Unicast
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let mut route = Route {
        destination: None,
        v6: header.address_family == AddressFamily::Inet6,
        hops: Vec::new(),
        source: None,
        metric: 0,
        tos: header.tos,
        options: Vec::new(),
    };
    let (mut gateway, mut interface, mut several) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination = ip(address).map(|ip| (ip, header.destination_prefix_length));
            }
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(via) => gateway = via_ip(via),
            RouteAttribute::MultiPath(hops) => several = Some(hops),
            RouteAttribute::Metrics(metrics) => route.options = options(metrics),
            _ => {}
        }
    }
    let through_us = match (several, interface) {
        (Some(hops), _) => {
            route.hops = hops.iter().map(read_hop).collect();
            hops.iter().any(|hop| hop.interface_index == index)
        }
        (None, Some(interface)) => {
            route.hops.push(Hop {
                gateway,
                interface: name_of(interface),
                onlink: header.flags.contains(RouteFlags::Onlink),
                weight: 1,
            });
            interface == index
        }
        (None, None) => false,
    };
    through_us.then_some(route)
}

fn read_hop(hop: &RouteNextHop) -> Hop {
    Hop {
        gateway: hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            RouteAttribute::Via(via) => via_ip(via),
            _ => None,
        }),
        interface: name_of(hop.interface_index),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        weight: u16::from(hop.hops) + 1,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(ip) => Some((*ip).into()),
        RouteVia::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// The metrics that people set, in iproute2's words.
fn options(metrics: &[RouteMetric]) -> Vec<String> {
    // RTAX_MTU of linux/rtnetlink.h, as a bit of RTAX_LOCK.
    const LOCK_MTU: u32 = 1 << 2;
    let lock = metrics
        .iter()
        .any(|metric| matches!(metric, RouteMetric::Lock(locked) if locked & LOCK_MTU != 0));
    metrics
        .iter()
        .filter_map(|metric| match metric {
            RouteMetric::Mtu(mtu) if lock => Some(format!("mtu lock {mtu}")),
            RouteMetric::Mtu(mtu) => Some(format!("mtu {mtu}")),
            RouteMetric::Advmss(bytes) => Some(format!("advmss {bytes}")),
            RouteMetric::Window(bytes) => Some(format!("window {bytes}")),
            RouteMetric::Hoplimit(hops) => Some(format!("hoplimit {hops}")),
            RouteMetric::InitCwnd(packets) => Some(format!("initcwnd {packets}")),
            RouteMetric::InitRwnd(packets) => Some(format!("initrwnd {packets}")),
            RouteMetric::QuickAck(on) => Some(format!("quickack {on}")),
            RouteMetric::CcAlgo(name) => Some(format!("congctl {name}")),
            _ => None,
        })
        .collect()
}
