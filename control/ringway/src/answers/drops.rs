//! `drops`: reason × port × queue × side.

use ringway_proto::spelling::Spelling;
use ringway_proto::v1 as pb;
use serde_json::{Value, json};

use super::table;

/// For people.
pub fn text(dropped: &pb::DropsResponse) -> String {
    if dropped.drops.is_empty() {
        return "no drops\n".into();
    }
    let header = [
        "PORT",
        "QUEUE",
        "SIDE",
        "REASON",
        "PACKETS",
        "WHAT HAPPENED",
    ];
    let rows: Vec<_> = dropped.drops.iter().map(row).collect();
    table(&header.map(str::to_owned), &rows, usize::MAX)
}

fn row(dropped: &pb::Drop) -> Vec<String> {
    let count = dropped.count.clone().unwrap_or_default();
    vec![
        dropped.port.clone(),
        dropped.queue.map_or("-".into(), |queue| queue.to_string()),
        dropped.side().spelled().to_owned(),
        count.reason,
        count.packets.to_string(),
        count.explanation,
    ]
}

/// For programs.
pub fn json(dropped: &pb::DropsResponse) -> Value {
    let drops = dropped.drops.iter().map(|dropped| {
        let count = dropped.count.clone().unwrap_or_default();
        json!({
            "port": dropped.port,
            "queue": dropped.queue,
            "side": dropped.side().spelled(),
            "reason": count.reason,
            "explanation": count.explanation,
            "packets": count.packets,
        })
    });
    json!({"drops": drops.collect::<Vec<_>>()})
}
