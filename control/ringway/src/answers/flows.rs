//! `dump-flows` and `dump-tables`, in ovs-ofctl's forms.

use std::fmt::Write;

use ringway_proto::v1 as pb;
use serde_json::{Value, json};

/// Priority of a flow whose text says none.
const DEFAULT_PRIORITY: u32 = 32_768;
/// Tables of a bridge: 0 to 254.
const TABLES: u32 = 255;

/// Seconds with the decimals that are there, as ovs-ofctl prints a duration.
pub fn seconds(ms: u64) -> String {
    match ms % 1000 {
        0 => format!("{}s", ms / 1000),
        part => format!("{}.{part:03}s", ms / 1000),
    }
}

/// A flow for people, with counters or without.
pub fn line(flow: &pb::Flow, stats: bool) -> String {
    let mut out = String::from(" ");
    if stats || flow.cookie != 0 {
        let _ = write!(out, "cookie={:#x}, ", flow.cookie);
    }
    if stats {
        let _ = write!(out, "duration={}, ", seconds(flow.duration_ms));
    }
    if stats || flow.table != 0 {
        let _ = write!(out, "table={}, ", flow.table);
    }
    if stats {
        let (packets, bytes) = (flow.packets, flow.bytes);
        let _ = write!(out, "n_packets={packets}, n_bytes={bytes}, ");
    }
    for (name, value) in [
        ("idle_timeout", flow.idle_timeout),
        ("hard_timeout", flow.hard_timeout),
    ] {
        if value > 0 {
            let _ = write!(out, "{name}={value}, ");
        }
    }
    for flag in &flow.flags {
        let _ = write!(out, "{flag} ");
    }
    if flow.importance > 0 {
        let _ = write!(out, "importance={}, ", flow.importance);
    }
    let mut matching = Vec::new();
    if flow.priority != DEFAULT_PRIORITY {
        matching.push(format!("priority={}", flow.priority));
    }
    if !flow.r#match.is_empty() {
        matching.push(flow.r#match.clone());
    }
    if !matching.is_empty() {
        let _ = write!(out, "{} ", matching.join(","));
    }
    let _ = writeln!(out, "actions={}", flow.actions);
    out
}

/// A flow for programs.
pub fn json(flow: &pb::Flow) -> Value {
    json!({
        "table": flow.table,
        "priority": flow.priority,
        "cookie": flow.cookie,
        "idle_timeout": flow.idle_timeout,
        "hard_timeout": flow.hard_timeout,
        "importance": flow.importance,
        "flags": flow.flags,
        "packets": flow.packets,
        "bytes": flow.bytes,
        "duration_ms": flow.duration_ms,
        "idle_ms": flow.idle_ms,
        "match": flow.r#match,
        "actions": flow.actions,
    })
}

/// Tables for people: one that is as the table before it is `ditto`.
pub fn tables_text(answer: &pb::DumpTablesResponse) -> String {
    let mut out = String::from("OFPST_TABLE reply (OF1.3) (xid=0x2):\n");
    let of = |number: u32| {
        let mut known = answer.tables.iter();
        let known = known.find(|table| table.table == number);
        known.map_or((0, 0, 0), |table| {
            (table.active, table.lookups, table.matched)
        })
    };
    let mut number = 0;
    while number < TABLES {
        let (active, lookups, matched) = of(number);
        let _ = writeln!(
            out,
            "  table {number}:\n    active={active}, lookup={lookups}, matched={matched}\n"
        );
        let first = number + 1;
        let last = (first..TABLES)
            .take_while(|next| of(*next) == of(number))
            .last();
        number = match last {
            None => first,
            Some(last) => {
                let _ = match last == first {
                    true => writeln!(out, "  table {first}: ditto\n"),
                    false => writeln!(out, "  tables {first}...{last}: ditto\n"),
                };
                last + 1
            }
        };
    }
    // No empty line at the end.
    out.pop();
    out
}

/// Tables for programs: those that have flows or were looked into.
pub fn tables_json(answer: &pb::DumpTablesResponse) -> Value {
    let tables = answer.tables.iter().map(|table| {
        json!({
            "table": table.table,
            "active": table.active,
            "lookups": table.lookups,
            "matched": table.matched,
        })
    });
    json!({"tables": tables.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> pb::Flow {
        pb::Flow {
            priority: DEFAULT_PRIORITY,
            actions: "NORMAL".into(),
            ..Default::default()
        }
    }

    // Lines as ovs-ofctl 3.1 printed them.
    #[test]
    fn flows_look_like_ovs_ofctls() {
        let plain = flow();
        assert_eq!(
            line(&plain, true),
            " cookie=0x0, duration=0s, table=0, n_packets=0, n_bytes=0, actions=NORMAL\n"
        );
        assert_eq!(line(&plain, false), " actions=NORMAL\n");
        let full = pb::Flow {
            cookie: 0x12,
            duration_ms: 20,
            idle_timeout: 60,
            hard_timeout: 100,
            flags: vec!["send_flow_rem".into(), "reset_counts".into()],
            priority: 10,
            r#match: "ip,in_port=1,nw_src=10.0.0.0/8".into(),
            actions: "output:2".into(),
            ..flow()
        };
        assert_eq!(
            line(&full, true),
            " cookie=0x12, duration=0.020s, table=0, n_packets=0, n_bytes=0, idle_timeout=60, \
             hard_timeout=100, send_flow_rem reset_counts \
             priority=10,ip,in_port=1,nw_src=10.0.0.0/8 actions=output:2\n"
        );
        let third = pb::Flow { table: 3, ..flow() };
        assert_eq!(line(&third, false), " table=3, actions=NORMAL\n");
        let zero = pb::Flow {
            priority: 0,
            ..flow()
        };
        assert_eq!(line(&zero, false), " priority=0 actions=NORMAL\n");
    }

    #[test]
    fn equal_tables_are_ditto() {
        let table = |table, active| pb::Table {
            table,
            active,
            ..Default::default()
        };
        let tables = vec![table(0, 1), table(3, 1)];
        assert_eq!(
            tables_text(&pb::DumpTablesResponse { tables }),
            "OFPST_TABLE reply (OF1.3) (xid=0x2):
  table 0:
    active=1, lookup=0, matched=0

  table 1:
    active=0, lookup=0, matched=0

  table 2: ditto

  table 3:
    active=1, lookup=0, matched=0

  table 4:
    active=0, lookup=0, matched=0

  tables 5...254: ditto
"
        );
    }
}
