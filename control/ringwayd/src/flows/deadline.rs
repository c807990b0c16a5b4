//! Hard timeouts of flows that were loaded: they count from when the flow was
//! added or modified, which may have been before the daemon started.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ringway_datapath::flows::RuleStatus;
use ringway_flow::matching::Match;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};

use super::{Inner, delete_strict};
use crate::switch::Switch;

/// When a flow that was loaded has lived as long as it may.
#[derive(PartialEq, Eq)]
pub(super) struct Deadline {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// When it was added or modified last.
    pub born_ms: u64,
    loaded: Instant,
    pub bridge: String,
    pub table: u8,
    pub priority: u16,
    pub matching: Box<Match>,
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at_ms.cmp(&other.at_ms)
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Deadline {
    /// Whether this is the rule that was loaded, neither modified since nor added
    /// in its place.
    pub fn is_of(&self, status: &RuleStatus) -> bool {
        let rule = &status.rule;
        rule.table == self.table
            && rule.priority == self.priority
            && rule.hard_timeout > 0
            && since_modified(status) + Duration::from_millis(100) >= self.loaded.elapsed()
            && rule.matching.full() == *self.matching
    }
}

/// From when on a rule's hard timeout counts.
pub(super) fn since_modified(status: &RuleStatus) -> Duration {
    let rule = &status.rule;
    let later = rule.modified_ms.saturating_sub(rule.created_ms);
    status.age.saturating_sub(Duration::from_millis(later))
}

impl Inner {
    /// Notes when the loaded flows with a hard timeout shall end.
    pub(super) fn remember_births<S: Switch>(
        &mut self,
        switch: &S,
        bridge: &str,
        born: &HashMap<(u8, u16, Match), u64>,
    ) -> Result<(), String> {
        self.deadlines
            .retain(|Reverse(deadline)| deadline.bridge != bridge);
        if born.is_empty() {
            return Ok(());
        }
        let rules = switch.rules(bridge, &FlowSpec::default());
        let loaded = Instant::now();
        for status in rules.map_err(|error| error.to_string())? {
            let rule = &status.rule;
            let matching = rule.matching.full();
            let key = (rule.table, rule.priority, matching);
            if let (1.., Some(born_ms)) = (rule.hard_timeout, born.get(&key)) {
                self.deadlines.push(Reverse(Deadline {
                    at_ms: born_ms + 1000 * u64::from(rule.hard_timeout),
                    born_ms: *born_ms,
                    loaded,
                    bridge: bridge.to_owned(),
                    table: rule.table,
                    priority: rule.priority,
                    matching: Box::new(matching),
                }));
            }
        }
        Ok(())
    }

    /// Changes that delete the loaded flows whose hard timeout is over.
    pub(super) fn overdue<S: Switch>(
        &mut self,
        switch: &S,
        unix_ms: u64,
    ) -> BTreeMap<String, Vec<Change>> {
        let mut changes: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        while let Some(Reverse(next)) = self.deadlines.peek()
            && next.at_ms <= unix_ms
            && let Some(Reverse(due)) = self.deadlines.pop()
        {
            let filter = FlowSpec {
                table: Some(due.table),
                matching: *due.matching,
                ..FlowSpec::default()
            };
            let found = switch.rules(&due.bridge, &filter).unwrap_or_default();
            if found.iter().any(|status| due.is_of(status)) {
                let delete = delete_strict(due.table, due.priority, *due.matching);
                changes.entry(due.bridge).or_default().push(delete);
            }
        }
        changes
    }
}

/// Follows when flows with a hard timeout were added or modified.
pub(super) fn note_birth(born: &mut HashMap<(u8, u16, Match), u64>, change: &Change, at_ms: u64) {
    let Change::Flow(command, spec) = change else {
        return;
    };
    let key = (spec.table.unwrap_or(0), spec.priority, spec.matching);
    match (command, spec.hard_timeout) {
        (FlowCommand::Add, 0) => drop(born.remove(&key)),
        (FlowCommand::Add, _) => drop(born.insert(key, at_ms)),
        (FlowCommand::Modify, hard) => {
            let touched = |in_table: u8, matching: &Match| {
                spec.table.is_none_or(|table| table == in_table)
                    && matching.is_within(&spec.matching)
            };
            for ((table, _, matching), at) in born.iter_mut() {
                if touched(*table, matching) {
                    *at = at_ms;
                }
            }
            if hard > 0 {
                born.insert(key, at_ms);
            }
        }
        (FlowCommand::ModifyStrict, hard) if hard > 0 || born.contains_key(&key) => {
            born.insert(key, at_ms);
        }
        (FlowCommand::DeleteStrict, _) => drop(born.remove(&key)),
        // Those within the match may be added again; a filter by cookie or
        // output spares some, so they keep their time.
        (FlowCommand::Delete, _)
            if spec.cookie_mask == 0 && spec.out_port.is_none() && spec.out_group.is_none() =>
        {
            let table = spec.table;
            born.retain(|(in_table, _, matching), _| {
                table.is_some_and(|table| table != *in_table) || !matching.is_within(&spec.matching)
            });
        }
        _ => {}
    }
}
