//! Groups and meters, in ovs-ofctl's forms.

use std::fmt::Write;

use ringway_proto::v1 as pb;
use serde_json::{Value, json};

use super::flows::seconds;

/// Header and line of `dump-groups`, or of `dump-group-stats`.
pub fn group_forms(stats: bool) -> (&'static str, fn(&pb::Group) -> String) {
    match stats {
        true => ("NXST_GROUP reply (xid=0x2):\n", group_stats),
        false => ("NXST_GROUP_DESC reply (xid=0x2):\n", |group| {
            format!(" {}\n", group.text)
        }),
    }
}

fn group_stats(group: &pb::Group) -> String {
    let pb::Group {
        group: id,
        packets,
        bytes,
        ..
    } = group;
    let duration = seconds(group.duration_ms);
    let mut out =
        format!(" group_id={id},duration={duration},packet_count={packets},byte_count={bytes}");
    for (index, bucket) in group.buckets.iter().enumerate() {
        let _ = write!(
            out,
            ",bucket{index}:packet_count={},byte_count={}",
            bucket.packets, bucket.bytes
        );
    }
    out.push('\n');
    out
}

/// A group for programs.
pub fn group_json(group: &pb::Group) -> Value {
    let buckets = group.buckets.iter().map(|bucket| {
        json!({
            "packets": bucket.packets,
            "bytes": bucket.bytes,
        })
    });
    json!({
        "group": group.group,
        "text": group.text,
        "packets": group.packets,
        "bytes": group.bytes,
        "duration_ms": group.duration_ms,
        "buckets": buckets.collect::<Vec<_>>(),
    })
}

/// Header and line of `dump-meters`, or of `meter-stats`.
pub fn meter_forms(stats: bool) -> (&'static str, fn(&pb::Meter) -> String) {
    match stats {
        true => ("OFPST_METER reply (OF1.3) (xid=0x2):\n", meter_stats),
        false => (
            "OFPST_METER_CONFIG reply (OF1.3) (xid=0x2):\n",
            meter_config,
        ),
    }
}

fn meter_config(meter: &pb::Meter) -> String {
    let unit = if meter.packets_per_second {
        "pktps"
    } else {
        "kbps"
    };
    let mut out = format!("meter={} {unit} ", meter.meter);
    if meter.burst.is_some() {
        out.push_str("burst ");
    }
    if meter.stats {
        out.push_str("stats ");
    }
    let _ = write!(out, "bands=\ntype=drop rate={}", meter.rate);
    if let Some(burst) = meter.burst {
        let _ = write!(out, " burst_size={burst}");
    }
    out.push('\n');
    out
}

fn meter_stats(meter: &pb::Meter) -> String {
    format!(
        "meter:{} flow_count:{} packet_in_count:{} byte_in_count:{} duration:{} bands:\n\
         0: packet_count:{} byte_count:{}\n",
        meter.meter,
        meter.flows,
        meter.packets,
        meter.bytes,
        seconds(meter.duration_ms),
        meter.band_packets,
        meter.band_bytes
    )
}

/// A meter for programs.
pub fn meter_json(meter: &pb::Meter) -> Value {
    json!({
        "meter": meter.meter,
        "unit": if meter.packets_per_second { "pktps" } else { "kbps" },
        "rate": meter.rate,
        "burst": meter.burst,
        "stats": meter.stats,
        "flows": meter.flows,
        "packets": meter.packets,
        "bytes": meter.bytes,
        "band_packets": meter.band_packets,
        "band_bytes": meter.band_bytes,
        "duration_ms": meter.duration_ms,
    })
}
