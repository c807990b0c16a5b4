//! `dump-ports`, in `ovs-ofctl dump-ports`'s form.

use std::collections::BTreeMap;
use std::fmt::Write;

use ringway_proto::spelling::Spelling;
use ringway_proto::v1 as pb;
use serde_json::{Value, json};

/// For people. A `?` stands for what a port does not count, as in ovs-ofctl.
/// With drops, these follow by reason, then the device's own counters.
pub fn text(answer: &pb::DumpPortsResponse, drops: Option<&pb::DropsResponse>) -> String {
    let mut out = format!("OFPST_PORT reply: {} ports\n", answer.ports.len());
    for port in &answer.ports {
        let total = port.total.unwrap_or_default();
        let _ = writeln!(
            out,
            "  port {:>4}: rx pkts={}, bytes={}, drop={}, errs={}, frame=?, over=?, crc=?",
            port.name, total.rx_packets, total.rx_bytes, total.rx_dropped, total.rx_errors
        );
        let _ = writeln!(
            out,
            "             tx pkts={}, bytes={}, drop={}, errs={}, coll=?",
            total.tx_packets, total.tx_bytes, total.tx_dropped, total.tx_errors
        );
        if let Some(drops) = drops {
            detail_text(&mut out, port, drops);
        }
    }
    out
}

fn detail_text(out: &mut String, port: &pb::PortCounters, drops: &pb::DropsResponse) {
    for (side, of_side) in by_reason(port, drops) {
        let told: Vec<_> = (of_side.iter())
            .map(|(reason, packets)| format!("{reason}={packets}"))
            .collect();
        if !told.is_empty() {
            let _ = writeln!(out, "             {side} drops: {}", told.join(", "));
        }
    }
    for counter in &port.device {
        let _ = writeln!(
            out,
            "             device {}: {}",
            counter.name, counter.value
        );
    }
}

/// A port's drops, over its queues, by side and reason.
fn by_reason<'a>(
    port: &pb::PortCounters,
    drops: &'a pb::DropsResponse,
) -> [(&'static str, BTreeMap<&'a str, u64>); 2] {
    [pb::Side::Rx, pb::Side::Tx].map(|side| {
        let mut counts = BTreeMap::new();
        let of_port = drops.drops.iter().filter(|drop| drop.port == port.name);
        for count in of_port
            .filter(|drop| drop.side() == side)
            .flat_map(|drop| &drop.count)
        {
            *counts.entry(count.reason.as_str()).or_default() += count.packets;
        }
        (side.spelled(), counts)
    })
}

/// For programs.
pub fn json(answer: &pb::DumpPortsResponse, drops: Option<&pb::DropsResponse>) -> Value {
    let ports = answer.ports.iter().map(|port| {
        let queues = port.queues.iter().map(|queue| {
            json!({
                "queue": queue.queue,
                "counters": counters(queue.counters.as_ref()),
            })
        });
        let mut told = json!({
            "number": port.number,
            "name": port.name,
            "bridge": port.bridge,
            "counters": counters(port.total.as_ref()),
            "queues": queues.collect::<Vec<_>>(),
        });
        if let Some(drops) = drops {
            let [(_, rx), (_, tx)] = by_reason(port, drops);
            let device = port.device.iter();
            let device = device.map(|counter| (counter.name.clone(), counter.value.into()));
            told["drops"] = json!({"rx": rx, "tx": tx});
            told["device"] = Value::Object(device.collect());
        }
        told
    });
    json!({"ports": ports.collect::<Vec<_>>()})
}

fn counters(counters: Option<&pb::Counters>) -> Value {
    counters.map_or(Value::Null, |counters| {
        json!({
            "rx_packets": counters.rx_packets,
            "rx_bytes": counters.rx_bytes,
            "rx_dropped": counters.rx_dropped,
            "rx_errors": counters.rx_errors,
            "tx_packets": counters.tx_packets,
            "tx_bytes": counters.tx_bytes,
            "tx_dropped": counters.tx_dropped,
            "tx_errors": counters.tx_errors,
            "guest_notifications": counters.guest_notifications,
        })
    })
}
