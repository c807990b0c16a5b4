//! `dpctl show`, in `ovs-dpctl show`'s form, with what the datapath has.

use std::fmt::Write;

use ringway_proto::spelling::Spelling;
use ringway_proto::v1 as pb;
use serde_json::{Value, json};

use super::show::{port_status_json, status_json};
use super::{memory_json, memory_text, packets_json};

/// For people.
pub fn text(datapath: &pb::DatapathShowResponse) -> String {
    let mut out = String::from("netdev@ringway:\n");
    let packets = datapath.packets.unwrap_or_default();
    let _ = writeln!(
        out,
        "  packets: received:{} replicated:{} transmitted:{} dropped:{}",
        packets.received, packets.replicated, packets.transmitted, packets.dropped
    );
    let _ = writeln!(out, "  memory: {}", memory_text(datapath.memory.as_ref()));
    for bridge in &datapath.bridges {
        if let Some(status) = &bridge.status {
            let _ = writeln!(
                out,
                "  fdb {}: stations:{} limit:{} refused:{} moved:{}",
                bridge.name,
                status.fdb_entries,
                status.fdb_limit,
                status.fdb_refused,
                status.fdb_moves
            );
        }
    }
    for port in &datapath.ports {
        let (number, name) = (port.number, &port.name);
        let mut facts = vec![format!("bridge={}", port.bridge)];
        facts.push(format!("state={}", port.state_name));
        let details = port.details.iter();
        facts.extend(details.map(|detail| format!("{}={}", detail.name, detail.value)));
        let (kind, facts) = (port.kind().spelled(), facts.join(", "));
        let _ = writeln!(out, "  port {number}: {name} ({kind}: {facts})");
    }
    out
}

/// For programs.
pub fn json(datapath: &pb::DatapathShowResponse) -> Value {
    let bridges = datapath.bridges.iter().map(|bridge| {
        json!({
            "name": bridge.name,
            "status": bridge.status.as_ref().map(status_json),
        })
    });
    let ports = datapath.ports.iter().map(port_status_json);
    json!({
        "name": "netdev@ringway",
        "packets": packets_json(datapath.packets.as_ref()),
        "memory": memory_json(datapath.memory.as_ref()),
        "bridges": bridges.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
    })
}
