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
    if let Some(cache) = &datapath.cache {
        cache_text(&mut out, cache);
    }
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
        // As ovs-dpctl has them; `show` tells more.
        if matches!(
            port.kind(),
            pb::PortKind::System | pb::PortKind::Internal | pb::PortKind::Tap | pb::PortKind::Patch
        ) {
            let kind = port.kind().spelled();
            let _ = writeln!(out, "  port {number}: {name} ({kind})");
            continue;
        }
        let mut facts = vec![format!("bridge={}", port.bridge)];
        facts.push(format!("state={}", port.state_name));
        let details = port.details.iter();
        facts.extend(details.map(|detail| format!("{}={}", detail.name, detail.value)));
        let (kind, facts) = (port.kind().spelled(), facts.join(", "));
        let _ = writeln!(out, "  port {number}: {name} ({kind}: {facts})");
    }
    out
}

/// Lookups and megaflows; the first lines have ovs-dpctl's form.
fn cache_text(out: &mut String, cache: &pb::CacheStatus) {
    let hits = cache.emc_hits + cache.megaflow_hits;
    let packets = hits + cache.missed;
    let of_packets = |count: u64| match packets {
        0 => 0.0,
        _ => count as f64 / packets as f64,
    };
    let _ = writeln!(
        out,
        "  lookups: hit:{hits} missed:{} lost:{}\n  flows: {}\n  masks: hit:{} total:{} \
         hit/pkt:{:.2}\n  cache: hit:{} hit-rate:{:.2}%\n  caches:\n    emc: size:{}",
        cache.missed,
        cache.lost,
        cache.flows,
        cache.mask_probes,
        cache.masks,
        of_packets(cache.mask_probes),
        cache.emc_hits,
        100.0 * of_packets(cache.emc_hits),
        cache.emc_entries
    );
    let _ = writeln!(
        out,
        "  megaflows: limit:{} not-installed:{} bytes-each:{} mask-limit:{}",
        cache.flow_limit, cache.not_installed, cache.megaflow_bytes, cache.mask_limit
    );
    let _ = writeln!(
        out,
        "  flow memory: {} bytes, {}",
        cache.bytes,
        memory_text(cache.memory.as_ref())
    );
    let each = cache.rule_bytes.checked_div(cache.rules).unwrap_or(0);
    let _ = writeln!(
        out,
        "  rules: {} bytes:{} bytes-each:{each}",
        cache.rules, cache.rule_bytes
    );
}

fn cache_json(cache: &pb::CacheStatus) -> Value {
    json!({
        "emc_hits": cache.emc_hits,
        "megaflow_hits": cache.megaflow_hits,
        "missed": cache.missed,
        "lost": cache.lost,
        "not_installed": cache.not_installed,
        "flows": cache.flows,
        "flow_limit": cache.flow_limit,
        "masks": cache.masks,
        "mask_limit": cache.mask_limit,
        "mask_probes": cache.mask_probes,
        "emc_entries": cache.emc_entries,
        "bytes": cache.bytes,
        "megaflow_bytes": cache.megaflow_bytes,
        "memory": memory_json(cache.memory.as_ref()),
        "rules": cache.rules,
        "rule_bytes": cache.rule_bytes,
    })
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
        "cache": datapath.cache.as_ref().map(cache_json),
        "bridges": bridges.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
    })
}
