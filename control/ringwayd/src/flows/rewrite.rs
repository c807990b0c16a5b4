//! The journal's live content, asked of the datapath.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use ringway_datapath::flows::{FlowTotals, RuleStatus};
use ringway_flow::action::{Action, GroupSpec};
use ringway_flow::matching::Match;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};

use super::Inner;
use super::compare::spec_of;
use super::deadline::{Deadline, since_modified};
use crate::flow_text;
use crate::journal::{JournalError, Rewrite};
use crate::switch::Switch;

/// Most lines of one transaction when the journal is rewritten.
const REWRITE_BATCH: usize = 8_192;

impl Inner {
    /// Rewrites a journal that is not sound, so that it can be added to.
    pub(super) fn heal<S: Switch>(
        &mut self,
        switch: &S,
        loaded: &BTreeMap<String, FlowTotals>,
        unix_ms: u64,
    ) -> Result<(), JournalError> {
        match self.journal.unsound() {
            None => Ok(()),
            Some(_) => self.rewrite(switch, loaded, &|_| true, unix_ms),
        }
    }

    pub(super) fn rewrite<S: Switch>(
        &mut self,
        switch: &S,
        loaded: &BTreeMap<String, FlowTotals>,
        is_desired: &dyn Fn(&str) -> bool,
        unix_ms: u64,
    ) -> Result<(), JournalError> {
        let mut born: HashMap<(&str, u8, u16, &Match), &Deadline> = HashMap::new();
        for Reverse(deadline) in &self.deadlines {
            let Deadline {
                bridge,
                table,
                priority,
                matching,
                ..
            } = deadline;
            born.insert((bridge, *table, *priority, matching), deadline);
        }
        let before = self.journal.lines();
        let bridges: Vec<_> = self.journal.bridges().map(str::to_owned).collect();
        self.journal.rewrite(&mut |new| {
            for bridge in bridges.iter().filter(|bridge| is_desired(bridge)) {
                match loaded.contains_key(bridge) {
                    true => write_bridge(switch, bridge, new, unix_ms, &|status, matching| {
                        let rule = &status.rule;
                        let key = (bridge.as_str(), rule.table, rule.priority, matching);
                        let known = born.get(&key).filter(|deadline| deadline.is_of(status));
                        known.map_or_else(
                            || unix_ms.saturating_sub(since_modified(status).as_millis() as u64),
                            |deadline| deadline.born_ms,
                        )
                    })?,
                    false => new.keep(bridge)?,
                }
            }
            Ok(())
        })?;
        tracing::info!(
            "flow journal {}: rewritten, {before} lines became {}",
            self.journal.path().display(),
            self.journal.lines()
        );
        Ok(())
    }
}

/// Writes what the datapath has of a bridge. Flows with a hard timeout keep the
/// time at which they were added, as `born` knows it.
fn write_bridge<S: Switch>(
    switch: &S,
    bridge: &str,
    new: &mut Rewrite<'_>,
    unix_ms: u64,
    born: &dyn Fn(&RuleStatus, &Match) -> u64,
) -> Result<(), JournalError> {
    let (Ok(rules), Ok(groups), Ok(meters)) = (
        switch.rules(bridge, &FlowSpec::default()),
        switch.groups(bridge),
        switch.meters(bridge),
    ) else {
        // The datapath lost the bridge; it is about to come up again.
        return new.keep(bridge);
    };
    let mut lines = String::new();
    for meter in meters {
        lines.push_str(&flow_text::journal_line(&Change::AddMeter(meter.spec)));
    }
    for group in in_order(groups.into_iter().map(|group| group.spec).collect()) {
        lines.push_str(&flow_text::journal_line(&Change::AddGroup(group)));
    }
    // Even without any line the bridge is named: its flows were all deleted.
    new.add(bridge, &lines, unix_ms)?;
    lines.clear();
    let mut count = 0;
    for status in &rules {
        let spec = spec_of(&status.rule);
        if spec.hard_timeout > 0 {
            let at = born(status, &spec.matching);
            let add = Change::Flow(FlowCommand::Add, Box::new(spec));
            new.add(bridge, &flow_text::journal_line(&add), at)?;
            continue;
        }
        let add = Change::Flow(FlowCommand::Add, Box::new(spec));
        lines.push_str(&flow_text::journal_line(&add));
        count += 1;
        if count % REWRITE_BATCH == 0 {
            new.add(bridge, &lines, unix_ms)?;
            lines.clear();
        }
    }
    match lines.is_empty() {
        true => Ok(()),
        false => new.add(bridge, &lines, unix_ms),
    }
}

/// Groups so that each comes behind those that its buckets use.
fn in_order(mut groups: Vec<GroupSpec>) -> Vec<GroupSpec> {
    let mut ordered: Vec<GroupSpec> = Vec::with_capacity(groups.len());
    while !groups.is_empty() {
        let waiting: Vec<_> = groups.iter().map(|group| group.id).collect();
        let waits = |group: &GroupSpec| {
            let mut actions = group.buckets.iter().flat_map(|bucket| &bucket.actions);
            actions.any(|action| matches!(action, Action::Group(id) if waiting.contains(id)))
        };
        let (later, now): (Vec<_>, Vec<_>) = groups.into_iter().partition(waits);
        if now.is_empty() {
            // A ring, which tables do not allow: any order is as good.
            ordered.extend(later);
            return ordered;
        }
        ordered.extend(now);
        groups = later;
    }
    ordered
}
