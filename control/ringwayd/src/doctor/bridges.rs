//! Bridges and their ports: desired against actual, MTUs, loops.

use std::collections::BTreeMap;

use ringway_proto::v1 as pb;

use super::{Facts, Found};

/// Whatever is desired and not there, or there and not desired, with its reason.
pub fn not_actual(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    let why = "it is not as desired; ringwayd goes on trying by itself";
    for bridge in &facts.shown.bridges {
        let object = format!("bridge {}", bridge.name);
        if bridge.differs {
            found.push(Found::error(&object, &bridge.reason, why));
        }
        if let Some(flows) = bridge.flows.as_ref().filter(|flows| flows.differs) {
            found.push(Found::error(&object, &flows.reason, why));
        }
        let differing = bridge.ports.iter().filter(|port| port.differs);
        found.extend(differing.map(|port| {
            let object = format!("port {}", port.name);
            Found::error(object, &port.reason, why)
        }));
    }
    found
}

/// MTU of a port: as asked for, or as its device has it. A patch port has none.
fn mtu(port: &pb::Port) -> Option<u32> {
    let spec = port.desired.as_ref();
    if matches!(spec?.kind, Some(pb::port_spec::Kind::Patch(_))) {
        return None;
    }
    let asked = port.desired.as_ref().and_then(|spec| spec.mtu);
    let link = port.actual.as_ref().and_then(|status| status.link.as_ref());
    asked.or(link.map(|link| link.mtu)).filter(|mtu| *mtu > 0)
}

/// Frames that one port of a bridge sends and another cannot take.
pub fn mtu_mismatch(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    for bridge in &facts.shown.bridges {
        let known: Vec<(&pb::Port, u32)> = (bridge.ports.iter())
            .filter_map(|port| Some((port, mtu(port)?)))
            .collect();
        let Some((largest, most)) = known.iter().max_by_key(|(_, mtu)| *mtu) else {
            continue;
        };
        for (port, mtu) in known.iter().filter(|(_, mtu)| mtu < most) {
            let (name, other) = (&port.name, &largest.name);
            let what = format!("its MTU of {mtu} is smaller than port {other}'s of {most}");
            let why = "longer frames for it are dropped as exceeds_mtu";
            let remedy = vec![format!("ringway set-port {name} mtu={most}")];
            found.push(Found::warning(format!("port {name}"), what, why).mended_by(remedy));
        }
    }
    found
}

/// The same station on several ports in turn: two ways between two switches.
pub fn flapping(facts: &Facts) -> Vec<Found> {
    let mut loops: BTreeMap<(&str, &[String]), Vec<String>> = BTreeMap::new();
    for flapping in &facts.flapping {
        let station = match flapping.vlan {
            0 => flapping.mac.clone(),
            vlan => format!("{} in VLAN {vlan}", flapping.mac),
        };
        let stations = loops.entry((&flapping.bridge, &flapping.ports));
        stations.or_default().push(station);
    }
    let loops = loops.into_iter();
    loops
        .map(|((bridge, ports), stations)| {
            let what = format!(
                "station {} moves to and fro between the ports {}",
                stations.join(", "),
                ports.join(", ")
            );
            let why = "there is a loop behind these ports, or two machines have one address: \
                       frames go round, or to the wrong one. Take one of the ports away until \
                       the other ends are looked at";
            let remedy = ports.iter().next_back();
            let remedy = remedy.map(|port| format!("ringway del-port {bridge} {port}"));
            Found::error(format!("bridge {bridge}"), what, why)
                .mended_by(remedy.into_iter().collect())
        })
        .collect()
}

/// A bridge that passes nothing, as it was asked to.
pub fn secure_without_flows(facts: &Facts) -> Vec<Found> {
    let secure = facts.shown.bridges.iter().filter(|bridge| {
        let spec = bridge.desired.as_ref();
        let flows = bridge.flows.as_ref().and_then(|flows| flows.actual);
        spec.is_some_and(|spec| spec.fail_mode() == pb::FailMode::Secure)
            && flows.is_some_and(|totals| totals.flows == 0)
    });
    secure
        .map(|bridge| {
            let name = &bridge.name;
            Found::warning(
                format!("bridge {name}"),
                "its fail mode is secure and it has no flows",
                "nothing passes. Add flows, or let it learn and forward",
            )
            .mended_by(vec![format!("ringway add-flow {name} actions=NORMAL")])
        })
        .collect()
}
