//! One set of changes in the making, on a copy; nothing of it is seen until it
//! is whole. What Open vSwitch does (ofproto/ofproto.c) is what is done here.

use std::sync::Arc;

use super::changes::Changed;
use super::error::{ChangeError, ErrorCode};
use super::flow_tables::Applied;
use super::ids::Ids;
use super::index::{Index, any_action, for_each_action};
use super::{Pipeline, TABLES};
use crate::action::Action;
use crate::matching::Match;
use crate::rule::{Change, FlowCommand, FlowSpec, MiniMatch, Rule};
use crate::stats::{Counts, MAX_STATS, StatsId, StatsTable};
use crate::table::Table;

/// What changes together. Copies share what they have in common.
#[derive(Clone)]
pub(super) struct State {
    pub pipeline: Pipeline,
    pub index: Index,
}

/// Changes in the making.
pub(super) struct Edit<'a> {
    pub state: State,
    pub changed: Changed,
    pub applied: Applied,
    pub(super) now_ms: u64,
    /// The version that it will be.
    pub(super) version: u32,
    /// Some change was made, be it one that no verdict hangs on.
    pub touched: bool,
    ids: &'a mut Ids,
    stats: &'a StatsTable,
    /// Cells taken.
    taken: Vec<StatsId>,
    /// Cells of what is no more.
    pub(super) freed: Vec<StatsId>,
    /// Cells that count from zero, and those whose last use they take over.
    reset: Vec<(StatsId, StatsId)>,
}

/// The table that a spec names: in OpenFlow 255 is no table but all.
fn table_of(spec: &FlowSpec) -> Option<u8> {
    spec.table.filter(|table| usize::from(*table) < TABLES)
}

impl<'a> Edit<'a> {
    pub(super) fn new(state: &State, ids: &'a mut Ids, stats: &'a StatsTable, now_ms: u64) -> Self {
        Self {
            version: state.pipeline.version + 1,
            state: state.clone(),
            changed: Changed::default(),
            applied: Applied::default(),
            now_ms,
            touched: false,
            ids,
            stats,
            taken: Vec::new(),
            freed: Vec::new(),
            reset: Vec::new(),
        }
    }

    /// Gives back what was taken.
    pub(super) fn abandon(self) {
        for id in self.taken.into_iter().rev() {
            self.ids.untake(id);
        }
    }

    /// The new state, if anything is another.
    pub(super) fn finish(mut self) -> (Option<State>, Applied) {
        if !self.touched {
            return (None, self.applied);
        }
        for (id, old) in self.reset {
            if let (Some(cell), Some(old)) = (self.stats.cell(id), self.stats.cell(old)) {
                cell.add(Counts {
                    used_ms: old.read().used_ms,
                    ..Counts::default()
                });
            }
        }
        for id in self.freed {
            self.ids.free(id, self.now_ms);
        }
        self.state.pipeline.version = self.version;
        (self.state.pipeline.log).record(self.version, self.changed);
        (Some(self.state), self.applied)
    }

    /// Makes one change.
    pub(super) fn change(&mut self, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::Flow(FlowCommand::Add, spec) => self.add(spec),
            Change::Flow(command @ (FlowCommand::Modify | FlowCommand::ModifyStrict), spec) => {
                let strict = *command == FlowCommand::ModifyStrict;
                let found = self.select(spec, strict, false);
                self.modify(spec, found)
            }
            Change::Flow(command, spec) => {
                let strict = *command == FlowCommand::DeleteStrict;
                for rule in self.select(spec, strict, true) {
                    self.remove(&rule);
                }
                Ok(())
            }
            Change::AddGroup(spec) => self.add_group(spec),
            Change::ModifyGroup(spec, may_create) => self.modify_group(spec, *may_create),
            Change::DeleteGroups(id) => {
                self.delete_groups(*id);
                Ok(())
            }
            Change::AddMeter(spec) => self.add_meter(spec),
            Change::ModifyMeter(spec) => self.modify_meter(spec),
            Change::DeleteMeters(id) => {
                self.delete_meters(*id);
                Ok(())
            }
        }
    }

    fn add(&mut self, spec: &FlowSpec) -> Result<(), ChangeError> {
        let table = table_of(spec).unwrap_or(0);
        self.check_actions(table, &spec.actions)?;
        let matching = MiniMatch::new(&spec.matching);
        if let Some(found) = self.table(table)
            && spec.flags.check_overlap
            && found.get(&matching, spec.priority).is_none()
            && let Some(other) = found.overlapping(&spec.matching, spec.priority)
        {
            return Err(ErrorCode::Overlap.because(format!(
                "flow in table {table}: overlaps a flow of the same priority {} with cookie {:#x}; \
                 give it another priority or leave out check_overlap",
                spec.priority, other.cookie
            )));
        }
        let rule = Arc::new(Rule {
            stats: self.take_cell()?,
            table,
            priority: spec.priority,
            cookie: spec.cookie,
            matching,
            actions: spec.actions.clone().into(),
            idle_timeout: spec.idle_timeout,
            hard_timeout: spec.hard_timeout,
            importance: spec.importance,
            flags: spec.flags,
            created_ms: self.now_ms,
            modified_ms: self.now_ms,
        });
        self.changed.rule(&rule);
        self.applied.added += 1;
        if let Some(old) = self.put(rule) {
            self.retire(old);
        }
        Ok(())
    }

    /// Rules get the spec's actions and, if it has one, its cookie; if there is
    /// none the spec is added, unless its cookie was to be one's already.
    fn modify(&mut self, spec: &FlowSpec, found: Vec<Arc<Rule>>) -> Result<(), ChangeError> {
        if found.is_empty() {
            return match spec.cookie_mask {
                0 => self.add(spec),
                _ => Ok(()),
            };
        }
        for old in found {
            self.check_actions(old.table, &spec.actions)?;
            let keeps_counts = !spec.flags.reset_counts;
            let stats = match keeps_counts {
                true => old.stats,
                false => self.take_cell()?,
            };
            let sets_cookie = spec.cookie_mask == 0 && spec.cookie != 0;
            let rule = Arc::new(Rule {
                stats,
                cookie: if sets_cookie { spec.cookie } else { old.cookie },
                matching: old.matching.clone(),
                actions: spec.actions.clone().into(),
                modified_ms: self.now_ms,
                ..*old
            });
            if rule.actions != old.actions || !keeps_counts {
                self.changed.rule(&rule);
            }
            self.applied.modified += 1;
            self.put(rule);
            if !keeps_counts {
                self.reset.push((stats, old.stats));
                self.retire(old);
            }
        }
        Ok(())
    }

    /// Takes a rule out.
    pub(super) fn remove(&mut self, rule: &Arc<Rule>) {
        let tables = Arc::make_mut(&mut self.state.pipeline.tables);
        let Some(cell) = tables.get_mut(usize::from(rule.table)) else {
            return;
        };
        let Some(table) = cell else {
            return;
        };
        let Some(removed) = Arc::make_mut(table).remove(&rule.matching, rule.priority) else {
            return;
        };
        if table.is_empty() {
            *cell = None;
        }
        self.touched = true;
        self.state.index.remove(&removed);
        self.changed.rule(&removed);
        self.applied.deleted += 1;
        self.retire(removed);
    }

    /// Puts a rule where it belongs, and in place of the one with its match and
    /// priority.
    fn put(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        self.touched = true;
        let tables = Arc::make_mut(&mut self.state.pipeline.tables);
        let cell = tables.get_mut(usize::from(rule.table))?;
        let table = Arc::make_mut(cell.get_or_insert_default());
        let replaced = table.insert(rule.clone());
        if let Some(old) = &replaced {
            self.state.index.remove(old);
        }
        self.state.index.add(&rule);
        replaced
    }

    /// A rule's cell counts no more.
    fn retire(&mut self, rule: Arc<Rule>) {
        self.freed.push(rule.stats);
        self.applied.removed.push(rule);
    }

    /// The rules that are meant: with just this match and priority (strict), or
    /// within the match; and with the cookie's bits. `outputs`: also with the
    /// port or group to which they output.
    fn select(&self, spec: &FlowSpec, strict: bool, outputs: bool) -> Vec<Arc<Rule>> {
        let mut found = Vec::new();
        if strict {
            let matching = MiniMatch::new(&spec.matching);
            for table in self.state.pipeline.tables_of(spec) {
                if let Some(rule) = table.get(&matching, spec.priority)
                    && is_meant(rule, spec, outputs)
                {
                    found.push(rule.clone());
                }
            }
            return found;
        }
        select_loose(&self.state, spec, outputs, &mut |rule| {
            found.push(rule.clone());
        });
        found
    }

    /// A cell for a new owner.
    pub(super) fn take_cell(&mut self) -> Result<StatsId, ChangeError> {
        let free = self.ids.take(self.now_ms);
        let Some(id) = free.filter(|id| self.stats.prepare(*id)) else {
            return Err(ErrorCode::TableFull.because(format!(
                "no statistics cell is left: the bridge's flows, groups and buckets use {} of {}; \
                 delete some; those of deleted flows are free after two seconds",
                self.ids.used(),
                MAX_STATS
            )));
        };
        self.taken.push(id);
        if let Some(cell) = self.stats.cell(id) {
            cell.reset(self.version);
        }
        Ok(id)
    }

    fn table(&self, table: u8) -> Option<&Table> {
        self.state.pipeline.table(table)
    }

    /// Refuses what would lead nowhere: unknown groups and meters, and a
    /// `goto_table` that does not go forward.
    fn check_actions(&self, table: u8, actions: &[Action]) -> Result<(), ChangeError> {
        let pipeline = &self.state.pipeline;
        let mut result = Ok(());
        for_each_action(actions, &mut |action| {
            if result.is_err() {
                return;
            }
            result = match action {
                Action::Group(id) if pipeline.group(*id).is_none() => Err(ErrorCode::BadOutGroup
                    .because(format!(
                        "flow in table {table}: there is no group {id}; add it first"
                    ))),
                Action::Meter(id) if pipeline.meter(*id).is_none() => Err(ErrorCode::InvalidMeter
                    .because(format!(
                        "flow in table {table}: there is no meter {id}; add it first"
                    ))),
                Action::GotoTable(to) if *to <= table || usize::from(*to) >= TABLES => {
                    Err(ErrorCode::BadGoto.because(format!(
                        "flow in table {table}: goto_table:{to} must go to a table above it, \
                         at most {}",
                        TABLES - 1
                    )))
                }
                _ => Ok(()),
            };
        });
        result
    }
}

impl Pipeline {
    /// The tables that a spec means: the one that it names, or all.
    fn tables_of(&self, spec: &FlowSpec) -> impl Iterator<Item = &Table> {
        let range = match table_of(spec) {
            Some(table) => usize::from(table)..usize::from(table) + 1,
            None => 0..TABLES,
        };
        self.tables[range].iter().flatten().map(|table| &**table)
    }
}

/// Calls `each` with every rule that is within a spec's match and has the
/// cookie's bits, and with `outputs` outputs where it says.
pub(super) fn select_loose(
    state: &State,
    spec: &FlowSpec,
    outputs: bool,
    each: &mut dyn FnMut(&Arc<Rule>),
) {
    if spec.cookie_mask == u64::MAX && spec.cookie != 0 {
        let table = table_of(spec);
        for rule in state.index.of_cookie(spec.cookie) {
            if table.is_none_or(|table| table == rule.table)
                && is_loose_match(&rule.matching, &spec.matching)
                && is_meant(&rule, spec, outputs)
            {
                each(&rule);
            }
        }
        return;
    }
    for table in state.pipeline.tables_of(spec) {
        table.within(&spec.matching, |rule| {
            if is_meant(rule, spec, outputs) {
                each(rule);
            }
        });
    }
}

fn is_loose_match(matching: &MiniMatch, wider: &Match) -> bool {
    matching.full().is_within(wider)
}

/// Whether a rule has the spec's cookie bits and outputs where it says.
fn is_meant(rule: &Rule, spec: &FlowSpec, outputs: bool) -> bool {
    let outputs_to = |port: u16| any_action(&rule.actions, |action| is_output(action, port));
    let uses = |id: u32| any_action(&rule.actions, |action| *action == Action::Group(id));
    (rule.cookie ^ spec.cookie) & spec.cookie_mask == 0
        && (!outputs || spec.out_port.is_none_or(outputs_to) && spec.out_group.is_none_or(uses))
}

/// Whether an action outputs to a port; actions such as `normal` have ports of
/// their own in OpenFlow.
fn is_output(action: &Action, port: u16) -> bool {
    match action {
        Action::Output(to) => *to == port,
        Action::InPort => port == 0xfff8,
        Action::Normal => port == 0xfffa,
        Action::Flood => port == 0xfffb,
        Action::All => port == 0xfffc,
        Action::Controller(_) => port == 0xfffd,
        _ => false,
    }
}
