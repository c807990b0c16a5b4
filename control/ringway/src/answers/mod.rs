//! The answers, one file per group of verbs, each as text and as JSON.

pub mod doctor;
pub mod dpctl;
pub mod drops;
pub mod fdb;
pub mod flows;
pub mod groups;
pub mod megaflows;
pub mod packets;
pub mod pmd;
pub mod port_options;
pub mod ports;
pub mod show;

use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use ringway_proto::v1 as pb;
use serde_json::{Value, json};

/// The present, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since_epoch.unwrap_or_default().as_millis();
    ms.try_into().unwrap_or(i64::MAX)
}

/// A time in RFC 3339, UTC.
pub fn rfc3339(unix_ms: i64) -> String {
    prost_types::Timestamp {
        seconds: unix_ms.div_euclid(1000),
        nanos: (unix_ms.rem_euclid(1000) * 1_000_000) as i32,
    }
    .to_string()
}

/// A time for people: whole seconds, and how long ago that is.
pub fn since(unix_ms: i64, now_ms: i64) -> String {
    let seconds = (now_ms - unix_ms).max(0) / 1000;
    let ago = match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    };
    format!("{} ({ago})", rfc3339(unix_ms / 1000 * 1000))
}

/// Where memory lies, for people.
pub fn memory_text(memory: Option<&pb::Memory>) -> String {
    match memory {
        None => "not known".into(),
        Some(memory) if memory.hugepage_bytes > 0 => {
            let kib = memory.hugepage_bytes / 1024;
            match (kib >> 20, kib >> 10) {
                (0, 0) => format!("hugepages of {kib} KiB"),
                (0, mib) => format!("hugepages of {mib} MiB"),
                (gib, _) => format!("hugepages of {gib} GiB"),
            }
        }
        Some(memory) if memory.reason.is_empty() => "ordinary".into(),
        Some(memory) => format!("ordinary ({})", memory.reason),
    }
}

/// Where memory lies, for programs.
pub fn memory_json(memory: Option<&pb::Memory>) -> Value {
    memory.map_or(Value::Null, |memory| match memory.hugepage_bytes {
        0 => json!({"kind": "ordinary", "reason": memory.reason}),
        bytes => json!({"kind": "hugepages", "page_bytes": bytes}),
    })
}

/// Packets of a core or of all, for programs.
pub fn packets_json(packets: Option<&pb::Packets>) -> Value {
    packets.map_or(Value::Null, |packets| {
        json!({
            "received": packets.received,
            "replicated": packets.replicated,
            "transmitted": packets.transmitted,
            "dropped": packets.dropped,
        })
    })
}

/// A table without borders whose columns from `right` on stand to the right.
pub fn table(header: &[String], rows: &[Vec<String>], right: usize) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    let cells = |texts: &[String]| -> Vec<Cell> {
        let cells = texts.iter().enumerate();
        cells
            .map(|(column, text)| match column >= right {
                true => Cell::new(text).set_alignment(CellAlignment::Right),
                false => Cell::new(text),
            })
            .collect()
    };
    table.set_header(cells(header));
    for row in rows {
        table.add_row(cells(row));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.to_string();
    let lines = lines.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc_and_by_age() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        let told = since(1_700_000_000_123, 1_700_000_061_000);
        assert_eq!(told, "2023-11-14T22:13:20Z (60 s)");
        assert!(since(0, 7_200_000).ends_with("(2 h)"));
        assert!(since(5_000, 0).ends_with("(0 s)"));
    }

    #[test]
    fn memory_is_told_with_its_page_size_or_reason() {
        let huge = |hugepage_bytes| pb::Memory {
            hugepage_bytes,
            reason: String::new(),
        };
        assert_eq!(memory_text(Some(&huge(2 << 20))), "hugepages of 2 MiB");
        assert_eq!(memory_text(Some(&huge(1 << 30))), "hugepages of 1 GiB");
        let ordinary = pb::Memory {
            hugepage_bytes: 0,
            reason: "no hugepages".into(),
        };
        assert_eq!(memory_text(Some(&ordinary)), "ordinary (no hugepages)");
    }
}
