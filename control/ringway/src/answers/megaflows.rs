//! `dpctl dump-flows`, in `ovs-appctl dpctl/dump-flows`'s form.

use ringway_proto::v1 as pb;
use serde_json::{Value, json};

/// A megaflow for people, under a line that names its core when that is not the
/// core of the one before.
pub fn line(megaflow: &pb::Megaflow, core: &mut Option<u32>) -> String {
    let mut out = String::new();
    if core.replace(megaflow.core) != Some(megaflow.core) {
        out = format!("flow-dump from pmd on cpu core: {}\n", megaflow.core);
    }
    let used = match megaflow.used_ms {
        None => "never".to_owned(),
        Some(ms) => format!("{}.{:03}s", ms / 1000, ms % 1000),
    };
    let pb::Megaflow {
        flow,
        packets,
        bytes,
        actions,
        ..
    } = megaflow;
    out + &format!("{flow}, packets:{packets}, bytes:{bytes}, used:{used}, actions:{actions}\n")
}

/// A megaflow for programs.
pub fn json(megaflow: &pb::Megaflow) -> Value {
    json!({
        "bridge": megaflow.bridge,
        "core": megaflow.core,
        "flow": megaflow.flow,
        "packets": megaflow.packets,
        "bytes": megaflow.bytes,
        "used_ms": megaflow.used_ms,
        "actions": megaflow.actions,
    })
}
