//! `show`: desired and actual, side by side.

use std::fmt::Write;

use ringway_proto::spelling::Spelling;
use ringway_proto::v1::{self as pb, port_spec};
use serde_json::{Value, json};

use super::{memory_json, memory_text, rfc3339, since};

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
    let desired = port.desired.as_ref().map(port_options);
    line(out, 2, "desired", &desired.unwrap_or("none".into()));
    let actual = match &port.actual {
        Some(actual) => format!("{}, port {}", actual.state_name, actual.number),
        None => "absent".into(),
    };
    line(out, 2, "actual", &actual);
    line(out, 2, "since", &since(port.since_unix_ms, now_ms));
    line(out, 2, "reason", &port.reason);
    for detail in port.actual.iter().flat_map(|actual| &actual.details) {
        line(out, 2, &detail.name, &detail.value);
    }
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

/// A bridge's options as `add-br` takes them.
fn bridge_options(spec: &pb::BridgeSpec) -> String {
    format!(
        "fail-mode={} fdb-ageing={} fdb-limit={}",
        spec.fail_mode().spelled(),
        spec.fdb_ageing_seconds(),
        spec.fdb_limit()
    )
}

/// A port's options as `add-port` takes them.
pub fn port_options(spec: &pb::PortSpec) -> String {
    let options = kind_options(spec);
    match spec.number {
        Some(number) => format!("{options} number={number}"),
        None => options,
    }
}

fn kind_options(spec: &pb::PortSpec) -> String {
    match &spec.kind {
        None => String::new(),
        Some(port_spec::Kind::System(_)) => "type=system".to_owned(),
        Some(port_spec::Kind::Internal(_)) => "type=internal".to_owned(),
        Some(port_spec::Kind::Tap(_)) => "type=tap".to_owned(),
        Some(port_spec::Kind::Patch(options)) => format!("type=patch peer={}", options.peer),
        Some(port_spec::Kind::Dpdk(options)) => format!(
            "type=dpdk devargs={} n_rxq={}",
            options.devargs,
            options.rx_queues()
        ),
        Some(port_spec::Kind::VhostUser(options)) => {
            let mut text = format!(
                "type=vhost-user path={} mode={} queues={}",
                options.path,
                options.mode().spelled(),
                options.queues()
            );
            if !options.owner.is_empty() {
                let _ = write!(text, " owner={}", options.owner);
            }
            if let Some(bits) = options.permissions {
                let _ = write!(text, " permissions={bits:04o}");
            }
            text
        }
    }
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
        })),
        "actual": bridge.actual.as_ref().map(status_json),
        "differs": bridge.differs,
        "reason": bridge.reason,
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
        "desired": port.desired.as_ref().map(spec_json),
        "actual": port.actual.as_ref().map(port_status_json),
        "differs": port.differs,
        "reason": port.reason,
        "since": rfc3339(port.since_unix_ms),
    })
}

fn spec_json(spec: &pb::PortSpec) -> Value {
    match &spec.kind {
        None => Value::Null,
        Some(port_spec::Kind::System(_)) => json!({"type": "system"}),
        Some(port_spec::Kind::Internal(_)) => json!({"type": "internal"}),
        Some(port_spec::Kind::Tap(_)) => json!({"type": "tap"}),
        Some(port_spec::Kind::Patch(options)) => json!({"type": "patch", "peer": options.peer}),
        Some(port_spec::Kind::Dpdk(options)) => json!({
            "type": "dpdk",
            "devargs": options.devargs,
            "n_rxq": options.rx_queues(),
            "number": spec.number,
        }),
        Some(port_spec::Kind::VhostUser(options)) => json!({
            "number": spec.number,
            "type": "vhost-user",
            "path": options.path,
            "mode": options.mode().spelled(),
            "queues": options.queues(),
            "owner": Some(&options.owner).filter(|owner| !owner.is_empty()),
            "permissions": options.permissions.map(|bits| format!("{bits:04o}")),
        }),
    }
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
    })
}
