//! `fdb show`, in `ovs-appctl fdb/show`'s form.

use std::fmt::Write;

use ringway_proto::v1 as pb;
use serde_json::{Value, json};

/// For people: ports by number, as Open vSwitch has them, and its own interface
/// as LOCAL.
pub fn text(table: &pb::FdbShowResponse, bridge: &str) -> String {
    let mut out = String::from(" port  VLAN  MAC                Age\n");
    for entry in &table.entries {
        let pb::FdbEntry {
            port,
            port_name,
            vlan,
            mac,
            age_seconds,
        } = entry;
        let port = match port_name == bridge {
            true => "LOCAL".to_owned(),
            false => port.to_string(),
        };
        let _ = writeln!(out, "{port:>5}  {vlan:4}  {mac}  {age_seconds:3}");
    }
    out
}

/// For programs.
pub fn json(table: &pb::FdbShowResponse) -> Value {
    let entries = table.entries.iter().map(|entry| {
        json!({
            "port": entry.port,
            "port_name": entry.port_name,
            "vlan": entry.vlan,
            "mac": entry.mac,
            "age_seconds": entry.age_seconds,
        })
    });
    json!({"entries": entries.collect::<Vec<_>>()})
}
