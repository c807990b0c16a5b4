//! `show`: desired and actual, side by side.

use std::fmt::Write;

use ringway_proto::spelling::Spelling;
use ringway_proto::v1 as pb;
use serde_json::{Value, json};

use super::{memory_json, memory_text, port_options, rfc3339, since};

/// For people. `now_ms` is the present, in milliseconds since 1970.
pub fn text(shown: &pb::ShowResponse, now_ms: i64) -> String {
    let mut out = String::new();
    for bridge in &shown.bridges {
        let _ = writeln!(out, "Bridge {}{}", bridge.name, mark(bridge.differs));
        let desired = bridge.desired.as_ref().map(bridge_options);
        line(&mut out, 1, "desired", &desired.unwrap_or("none".into()));
        line(&mut out, 1, "actual", &bridge_actual(bridge));
        line(&mut out, 1, "since", &since(bridge.since_unix_ms, now_ms));
        line(&mut out, 1, "reason", &bridge.reason);
        for note in &bridge.notes {
            line(&mut out, 1, "note", note);
        }
        if let Some(flows) = &bridge.flows {
            flows_text(&mut out, flows, now_ms);
        }
        for port in &bridge.ports {
            port_text(&mut out, port, now_ms);
        }
    }
    match (shown.bridges.len(), shown.differences) {
        (0, _) => out.push_str("no bridges; add one with: ringway add-br br0\n"),
        (_, 0) => {}
        (_, 1) => out.push_str("1 object differs from what is desired\n"),
        (_, n) => {
            let _ = writeln!(out, "{n} objects differ from what is desired");
        }
    }
    out
}

fn port_text(out: &mut String, port: &pb::Port, now_ms: i64) {
    let _ = writeln!(out, "    Port {}{}", port.name, mark(port.differs));
    let desired = port.desired.as_ref().map(port_options::text);
    line(out, 2, "desired", &desired.unwrap_or("none".into()));
    let actual = match &port.actual {
        Some(actual) => format!("{}, port {}", actual.state_name, actual.number),
        None => "absent".into(),
    };
    line(out, 2, "actual", &actual);
    line(out, 2, "since", &since(port.since_unix_ms, now_ms));
    line(out, 2, "reason", &port.reason);
    if let Some(link) = port.actual.as_ref().and_then(|actual| actual.link.as_ref()) {
        line(out, 2, "device", &link_text(link));
    }
    line(out, 2, "stations", &stations_text(port));
    for detail in port.actual.iter().flat_map(|actual| &actual.details) {
        line(out, 2, &detail.name, &detail.value);
    }
}

/// Stations of a port that has a limit for them, or was refused some.
fn stations_text(port: &pb::Port) -> String {
    let guard = port.desired.as_ref().and_then(|spec| spec.guard.as_ref());
    let limit = guard.and_then(|guard| guard.max_macs);
    match (&port.actual, limit) {
        (Some(actual), Some(limit)) => format!(
            "{} of {limit}, {} refused",
            actual.stations, actual.stations_refused
        ),
        (Some(actual), None) if actual.stations_refused > 0 => {
            format!("{}, {} refused", actual.stations, actual.stations_refused)
        }
        _ => String::new(),
    }
}

/// A port's device.
fn link_text(link: &pb::LinkStatus) -> String {
    let mut facts = vec![match (link.admin_up, link.link_up) {
        (false, _) => "down".to_owned(),
        (true, false) => "up, no carrier".to_owned(),
        (true, true) => "up".to_owned(),
    }];
    facts.push(format!("mtu {}", link.mtu));
    if !link.mac.is_empty() {
        facts.push(format!("mac {}", link.mac));
    }
    if link.speed_mbps > 0 {
        facts.push(format!("{} Mbit/s", link.speed_mbps));
    }
    facts.push(match link.driver.is_empty() {
        true => format!("by {}", link.via),
        false => format!("{} by {}", link.driver, link.via),
    });
    facts.join(", ")
}

/// A bridge's flows: in one line while they are as desired.
fn flows_text(out: &mut String, flows: &pb::FlowsStatus, now_ms: i64) {
    let told = |totals: Option<&pb::FlowTotals>| {
        totals.map(|totals| {
            let pb::FlowTotals {
                flows,
                groups,
                meters,
            } = totals;
            let some = |count: u64, what: &str| match count {
                1 => format!("1 {what}"),
                _ => format!("{count} {what}s"),
            };
            let all = [
                some(*flows, "flow"),
                some(*groups, "group"),
                some(*meters, "meter"),
            ];
            all.join(", ")
        })
    };
    let (desired, actual) = (told(flows.desired.as_ref()), told(flows.actual.as_ref()));
    if !flows.differs {
        line(out, 1, "flows", &actual.unwrap_or_default());
        return;
    }
    let _ = writeln!(out, "    Flows{}", mark(true));
    line(out, 2, "desired", &desired.unwrap_or("not known".into()));
    line(out, 2, "actual", &actual.unwrap_or("none".into()));
    line(out, 2, "since", &since(flows.since_unix_ms, now_ms));
    line(out, 2, "reason", &flows.reason);
}

fn totals_json(totals: &pb::FlowTotals) -> Value {
    json!({
        "flows": totals.flows,
        "groups": totals.groups,
        "meters": totals.meters,
    })
}

fn flows_json(flows: &pb::FlowsStatus) -> Value {
    json!({
        "desired": flows.desired.as_ref().map(totals_json),
        "actual": flows.actual.as_ref().map(totals_json),
        "differs": flows.differs,
        "reason": flows.reason,
        "since": rfc3339(flows.since_unix_ms),
    })
}

fn mark(differs: bool) -> &'static str {
    match differs {
        true => "  (differs)",
        false => "",
    }
}

/// A line under an object; nothing when there is nothing to tell.
fn line(out: &mut String, depth: usize, name: &str, value: &str) {
    if !value.is_empty() {
        let label = format!("{name}:");
        // Further lines, such as commands, stand under the first.
        let below = format!("\n{:indent$}", "", indent = 4 * depth + 9);
        let value = value.replace('\n', &below);
        let _ = writeln!(out, "{:indent$}{label:<8} {value}", "", indent = 4 * depth);
    }
}

fn bridge_actual(bridge: &pb::Bridge) -> String {
    let Some(actual) = &bridge.actual else {
        return "absent".into();
    };
    let pb::BridgeStatus {
        fdb_entries,
        fdb_limit,
        ..
    } = actual;
    let memory = memory_text(actual.memory.as_ref());
    format!("present, {fdb_entries} of {fdb_limit} stations learned, FDB memory: {memory}")
}

/// A bridge's options as `set-br` takes them.
fn bridge_options(spec: &pb::BridgeSpec) -> String {
    let mut text = format!(
        "fail-mode={} fdb-ageing={} fdb-limit={}",
        spec.fail_mode().spelled(),
        spec.fdb_ageing_seconds(),
        spec.fdb_limit()
    );
    if spec.no_internal {
        text.push_str(" no-internal=true");
    }
    port_options::notes_text(&mut text, "external_ids", &spec.external_ids);
    port_options::notes_text(&mut text, "other_config", &spec.other_config);
    text
}

/// For programs.
pub fn json(shown: &pb::ShowResponse) -> Value {
    json!({
        "differences": shown.differences,
        "bridges": shown.bridges.iter().map(bridge_json).collect::<Vec<_>>(),
    })
}

fn bridge_json(bridge: &pb::Bridge) -> Value {
    json!({
        "name": bridge.name,
        "desired": bridge.desired.as_ref().map(|spec| json!({
            "fail_mode": spec.fail_mode().spelled(),
            "fdb_ageing_seconds": spec.fdb_ageing_seconds(),
            "fdb_limit": spec.fdb_limit(),
            "no_internal": spec.no_internal,
            "external_ids": spec.external_ids,
            "other_config": spec.other_config,
        })),
        "actual": bridge.actual.as_ref().map(status_json),
        "differs": bridge.differs,
        "reason": bridge.reason,
        "notes": bridge.notes,
        "since": rfc3339(bridge.since_unix_ms),
        "flows": bridge.flows.as_ref().map(flows_json),
        "ports": bridge.ports.iter().map(port_json).collect::<Vec<_>>(),
    })
}

/// A bridge as the datapath has it, for programs.
pub fn status_json(status: &pb::BridgeStatus) -> Value {
    json!({
        "fdb_entries": status.fdb_entries,
        "fdb_limit": status.fdb_limit,
        "fdb_refused": status.fdb_refused,
        "fdb_moves": status.fdb_moves,
        "memory": memory_json(status.memory.as_ref()),
    })
}

fn port_json(port: &pb::Port) -> Value {
    json!({
        "name": port.name,
        "desired": port.desired.as_ref().map(port_options::json),
        "actual": port.actual.as_ref().map(port_status_json),
        "differs": port.differs,
        "reason": port.reason,
        "since": rfc3339(port.since_unix_ms),
    })
}

/// A port as the datapath has it, for programs.
pub fn port_status_json(status: &pb::PortStatus) -> Value {
    let details = status.details.iter().map(|detail| {
        let value = Value::String(detail.value.clone());
        (detail.name.clone(), value)
    });
    let queues = status.queues.iter().map(|queue| {
        json!({
            "queue": queue.queue,
            "pmd_core": queue.pmd_core,
            "dequeue_size": queue.dequeue_size,
            "enqueue_size": queue.enqueue_size,
        })
    });
    json!({
        "number": status.number,
        "name": status.name,
        "bridge": status.bridge,
        "type": status.kind().spelled(),
        "state": status.state_name,
        "reason": status.reason,
        "since": rfc3339(status.since_unix_ms),
        "details": details.collect::<serde_json::Map<_, _>>(),
        "queues": queues.collect::<Vec<_>>(),
        "local": status.local,
        "stations": status.stations,
        "stations_refused": status.stations_refused,
        "link": status.link.as_ref().map(|link| json!({
            "mac": Some(&link.mac).filter(|mac| !mac.is_empty()),
            "mtu": link.mtu,
            "admin_up": link.admin_up,
            "link_up": link.link_up,
            "speed_mbps": Some(link.speed_mbps).filter(|speed| *speed > 0),
            "ifindex": Some(link.ifindex).filter(|index| *index > 0),
            "driver": link.driver,
            "via": link.via,
        })),
    })
}
