//! Flows that are beside flows that shall be.

use std::collections::HashMap;

use ringway_datapath::flows::RuleStatus;
use ringway_flow::matching::Match;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec, Rule};

use super::delete_strict;

/// A rule as it would be asked for.
pub fn spec_of(rule: &Rule) -> FlowSpec {
    FlowSpec {
        table: Some(rule.table),
        priority: rule.priority,
        cookie: rule.cookie,
        cookie_mask: 0,
        sets_cookie: false,
        matching: rule.matching.full(),
        actions: rule.actions.to_vec(),
        idle_timeout: rule.idle_timeout,
        hard_timeout: rule.hard_timeout,
        importance: rule.importance,
        flags: rule.flags,
        out_port: None,
        out_group: None,
    }
}

/// Whether two flows differ in nothing that `replace-flows` and `diff-flows`
/// look at.
pub fn is_same(one: &FlowSpec, other: &FlowSpec) -> bool {
    one.cookie == other.cookie
        && one.idle_timeout == other.idle_timeout
        && one.hard_timeout == other.hard_timeout
        && one.importance == other.importance
        && one.actions == other.actions
}

/// The changes that make `there` into `wanted`. Of two wanted flows with the
/// same table, priority and match the later counts.
pub(super) fn replacing(there: &[RuleStatus], wanted: Vec<FlowSpec>) -> Vec<Change> {
    let mut last: HashMap<(u8, u16, Match), usize> = HashMap::with_capacity(wanted.len());
    for (index, spec) in wanted.iter().enumerate() {
        let table = spec.table.unwrap_or(0);
        last.insert((table, spec.priority, spec.matching), index);
    }
    let mut changes = Vec::new();
    for status in there {
        let spec = spec_of(&status.rule);
        let key = (status.rule.table, spec.priority, spec.matching);
        match last.get(&key) {
            Some(index)
                if wanted
                    .get(*index)
                    .is_some_and(|wanted| is_same(wanted, &spec)) =>
            {
                last.remove(&key);
            }
            Some(_) => {}
            None => changes.push(delete_strict(key.0, key.1, key.2)),
        }
    }
    for (index, mut spec) in wanted.into_iter().enumerate() {
        let table = spec.table.unwrap_or(0);
        if last.get(&(table, spec.priority, spec.matching)) == Some(&index) {
            spec.table = Some(table);
            changes.push(Change::Flow(FlowCommand::Add, Box::new(spec)));
        }
    }
    changes
}
