//! Flows, groups and meters as text, as `ovs-ofctl` prints them.

use std::fmt::Write;

use super::ports::{PortNames, write_port};
use super::print_actions::write_actions;
use super::print_match::write_match;
use crate::action::{GroupSpec, GroupType, MeterSpec};
use crate::matching::Match;
use crate::rule::{DEFAULT_PRIORITY, FlowFlags, FlowSpec, Rule};
use crate::stats::Counts;

/// What `dump-flows` tells of a rule beside the rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowAges {
    /// Packets and bytes, and when they came.
    pub counts: Counts,
    /// Now, in milliseconds of the datapath's clock.
    pub now_ms: u64,
    /// Print `idle_age` and, of a modified rule, `hard_age`; ovs-ofctl does so
    /// when it prints ports by number.
    pub ages: bool,
}

/// A rule as a line of `ovs-ofctl dump-flows`, which begins with a space; without
/// `ages` of `ovs-ofctl --no-stats dump-flows`.
pub fn print_flow(rule: &Rule, ages: Option<&FlowAges>, ports: &dyn PortNames) -> String {
    let mut out = String::with_capacity(160);
    out.push(' ');
    let stats = ages.is_some();
    if stats || rule.cookie != 0 {
        let _ = write!(out, "cookie={:#x}, ", rule.cookie);
    }
    if let Some(ages) = ages {
        let age = ages.now_ms.saturating_sub(rule.created_ms);
        let _ = write!(out, "duration={}", age / 1000);
        if age % 1000 != 0 {
            let _ = write!(out, ".{:03}", age % 1000);
        }
        out.push_str("s, ");
    }
    if stats || rule.table != 0 {
        let _ = write!(out, "table={}, ", rule.table);
    }
    if let Some(FlowAges { counts, .. }) = ages {
        let Counts { packets, bytes, .. } = counts;
        let _ = write!(out, "n_packets={packets}, n_bytes={bytes}, ");
    }
    write_lasting(
        &mut out,
        rule.idle_timeout,
        rule.hard_timeout,
        rule.importance,
        // The other flags are of the command, not of the rule.
        FlowFlags {
            check_overlap: false,
            reset_counts: false,
            ..rule.flags
        },
    );
    if let Some(ages) = ages.filter(|ages| ages.ages) {
        let seconds = |since: u64| ages.now_ms.saturating_sub(since) / 1000;
        let used = ages.counts.used_ms.max(rule.created_ms);
        let _ = write!(out, "idle_age={}, ", seconds(used));
        if seconds(rule.modified_ms) != seconds(rule.created_ms) {
            let _ = write!(out, "hard_age={}, ", seconds(rule.modified_ms));
        }
    }
    write_end(
        &mut out,
        rule.priority,
        &rule.matching.full(),
        &rule.actions,
        ports,
    );
    out
}

/// A flow as it can be added again, as `ovs-ofctl diff-flows` prints it.
pub fn print_spec(flow: &FlowSpec, ports: &dyn PortNames) -> String {
    let mut out = String::with_capacity(128);
    if flow.cookie != 0 || flow.cookie_mask != 0 || flow.sets_cookie {
        let _ = write!(out, "cookie={:#x}", flow.cookie);
        if flow.cookie_mask != 0 {
            let _ = write!(out, "/{:#x}", flow.cookie_mask);
        }
        out.push_str(", ");
    }
    if let Some(table) = flow.table {
        let _ = write!(out, "table={table}, ");
    }
    write_lasting(
        &mut out,
        flow.idle_timeout,
        flow.hard_timeout,
        flow.importance,
        flow.flags,
    );
    write_end(
        &mut out,
        flow.priority,
        &flow.matching,
        &flow.actions,
        ports,
    );
    out
}

/// How long a flow lasts, and its flags.
fn write_lasting(out: &mut String, idle: u16, hard: u16, importance: u16, flags: FlowFlags) {
    if idle != 0 {
        let _ = write!(out, "idle_timeout={idle}, ");
    }
    if hard != 0 {
        let _ = write!(out, "hard_timeout={hard}, ");
    }
    let flags = [
        (flags.send_flow_rem, "send_flow_rem "),
        (flags.check_overlap, "check_overlap "),
        (flags.reset_counts, "reset_counts "),
        (flags.no_packet_counts, "no_packet_counts "),
        (flags.no_byte_counts, "no_byte_counts "),
    ];
    for (_, flag) in flags.into_iter().filter(|(set, _)| *set) {
        out.push_str(flag);
    }
    if importance != 0 {
        let _ = write!(out, "importance={importance}, ");
    }
}

/// Priority, match and actions.
fn write_end(
    out: &mut String,
    priority: u16,
    matching: &Match,
    actions: &[crate::action::Action],
    ports: &dyn PortNames,
) {
    let start = out.len();
    if priority != DEFAULT_PRIORITY {
        let _ = write!(out, "priority={priority},");
    }
    let fields = out.len();
    write_match(out, matching, ports);
    if out.len() == fields && fields > start {
        // Nothing behind the priority's comma.
        out.pop();
    }
    if out.len() > start {
        out.push(' ');
    }
    out.push_str("actions=");
    write_actions(out, actions, ports);
}

/// A group as `ovs-ofctl dump-groups` prints it.
pub fn print_group(group: &GroupSpec, ports: &dyn PortNames) -> String {
    let kind = match group.kind {
        GroupType::All => "all",
        GroupType::Select => "select",
        GroupType::Indirect => "indirect",
        GroupType::FastFailover => "ff",
    };
    let mut out = format!("group_id={},type={kind}", group.id);
    if let [field] = group.hash_fields[..] {
        let name = field.info().name;
        let _ = write!(out, ",selection_method=hash,fields={name}");
    } else if !group.hash_fields.is_empty() {
        out.push_str(",selection_method=hash,fields(");
        for (i, field) in group.hash_fields.iter().enumerate() {
            let between = if i == 0 { "" } else { "," };
            let _ = write!(out, "{between}{}", field.info().name);
        }
        out.push(')');
    }
    for bucket in &group.buckets {
        let _ = write!(out, ",bucket=bucket_id:{},", bucket.id);
        if bucket.weight != u16::from(group.kind == GroupType::Select) {
            let _ = write!(out, "weight:{},", bucket.weight);
        }
        if let Some(port) = bucket.watch_port {
            out.push_str("watch_port:");
            write_port(&mut out, port, ports);
            out.push(',');
        }
        if let Some(watched) = bucket.watch_group {
            let _ = write!(out, "watch_group:{watched},");
        }
        out.push_str("actions=");
        write_actions(&mut out, &bucket.actions, ports);
    }
    out
}

/// A meter as `ovs-ofctl dump-meters` prints it: a line, and one for its band.
pub fn print_meter(meter: &MeterSpec) -> String {
    let unit = if meter.packets { "pktps" } else { "kbps" };
    let mut out = format!("meter={} {unit} ", meter.id);
    if meter.has_burst {
        out.push_str("burst ");
    }
    if meter.stats {
        out.push_str("stats ");
    }
    let _ = write!(out, "bands=\ntype=drop rate={}", meter.rate);
    if meter.has_burst {
        let _ = write!(out, " burst_size={}", meter.burst);
    }
    out
}
