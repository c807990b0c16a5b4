//! Kernel interfaces that ports stand on.

use ringway_proto::v1 as pb;

use super::{Facts, Found, Interface};

/// Ports with their kernel interfaces, and whether that is the bridge's end of
/// a tap of ours.
fn ports(facts: &Facts) -> impl Iterator<Item = (&pb::PortSpec, &Interface, bool)> {
    let desired = facts.shown.bridges.iter().flat_map(|bridge| &bridge.ports);
    desired.filter_map(|port| {
        let spec = port.desired.as_ref()?;
        let interface = facts.interfaces.get(&spec.name)?;
        let internal = matches!(spec.kind, Some(pb::port_spec::Kind::Internal(_)));
        Some((spec, interface, internal))
    })
}

/// An address on an attached interface is dead: what comes in goes to the
/// bridge, not to the host's stack.
pub fn address_on_port(facts: &Facts) -> Vec<Found> {
    let attached = ports(facts)
        .filter(|(_, interface, internal)| !internal && !interface.addresses.is_empty());
    attached
        .map(|(port, interface, _)| {
            let (name, bridge) = (&interface.name, &port.bridge);
            let addresses = interface.addresses.join(", ");
            let what = format!("interface {name} has the address {addresses}");
            let why = format!(
                "{name} is attached to bridge {bridge}: what it receives goes to the bridge, so \
                 the host does not answer on this address. It belongs on the bridge's own \
                 interface {bridge}"
            );
            Found::error(format!("port {}", port.name), what, why)
                .mended_by(interface.move_addresses.clone())
        })
        .collect()
}

/// The host's end of a bridge is down, though it has addresses or is the only
/// way to the host.
pub fn internal_down(facts: &Facts) -> Vec<Found> {
    let down = ports(facts).filter(|(_, interface, internal)| *internal && !interface.admin_up);
    down.map(|(port, interface, _)| {
        let name = &interface.name;
        let object = format!("port {}", port.name);
        let up = vec![format!("ip link set {name} up")];
        match interface.addresses.as_slice() {
            [] => Found::note(
                object,
                format!("interface {name} is down"),
                "the host takes no part in this bridge; that is right if it shall not",
            ),
            addresses => Found::error(
                object,
                format!("interface {name} is down and has {}", addresses.join(", ")),
                "the host does not answer on this address",
            ),
        }
        .mended_by(up)
    })
    .collect()
}

/// An attached interface that is down, or has no carrier.
pub fn interface_down(facts: &Facts) -> Vec<Found> {
    let attached = ports(facts).filter(|(_, _, internal)| !internal);
    attached
        .filter_map(|(port, interface, _)| {
            let name = &interface.name;
            let object = format!("port {}", port.name);
            if !interface.admin_up {
                let what = format!("interface {name} is down");
                let found = Found::error(object, what, "nothing passes through this port");
                return Some(found.mended_by(vec![format!("ip link set {name} up")]));
            }
            if interface.carrier {
                return None;
            }
            let why = match interface.kind.as_str() {
                "tun" => "nobody has its other end open: the guest does not run",
                "veth" => "its other end is down",
                _ => "no cable, or nobody at its other end",
            };
            let what = format!("interface {name} has no carrier");
            Some(Found::warning(object, what, why))
        })
        .collect()
}

/// Frames whose checksums were left to a device that is none.
pub fn offloads_clash(facts: &Facts) -> Vec<Found> {
    let soft = |kind: &str| matches!(kind, "veth" | "tun" | "bridge" | "macvlan" | "dummy");
    let bare =
        ports(facts).filter(|(_, interface, _)| interface.bare_frames && soft(&interface.kind));
    bare.map(|(port, interface, _)| {
        let (name, kind) = (&interface.name, &interface.kind);
        let what =
            format!("the frames of interface {name} ({kind}) are had without their offloads");
        let why = "what its other end leaves to a NIC never happens: partial checksums leave \
                   wrong, frames longer than the MTU are lost. Turn these offloads off at the \
                   other end (ethtool -K … tx off tso off gso off), or let the port be of \
                   type=system without xdp=on, which knows them";
        let (bridge, name) = (&port.bridge, &port.name);
        let remedy = match port.kind {
            Some(pb::port_spec::Kind::System(_)) => {
                vec![format!("ringway set-port {name} xdp=off")]
            }
            _ => vec![
                format!("ringway del-port {bridge} {name}"),
                format!("ringway add-port {bridge} {} type=system", interface.name),
            ],
        };
        Found::warning(format!("port {name}"), what, why).mended_by(remedy)
    })
    .collect()
}
