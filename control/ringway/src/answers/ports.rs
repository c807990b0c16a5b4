//! `dump-ports`, in `ovs-ofctl dump-ports`'s form.

use std::fmt::Write;

use ringway_proto::v1 as pb;
use serde_json::{Value, json};

/// For people. A `?` stands for what a port does not count, as in ovs-ofctl.
pub fn text(answer: &pb::DumpPortsResponse) -> String {
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
    }
    out
}

/// For programs.
pub fn json(answer: &pb::DumpPortsResponse) -> Value {
    let ports = answer.ports.iter().map(|port| {
        let queues = port.queues.iter().map(|queue| {
            json!({
                "queue": queue.queue,
                "counters": counters(queue.counters.as_ref()),
            })
        });
        json!({
            "number": port.number,
            "name": port.name,
            "bridge": port.bridge,
            "counters": counters(port.total.as_ref()),
            "queues": queues.collect::<Vec<_>>(),
        })
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
