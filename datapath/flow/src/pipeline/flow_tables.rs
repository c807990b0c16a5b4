//! The tables of a bridge, to be changed.

use std::convert::Infallible;
use std::sync::Arc;

use super::edit::{Edit, State, select_loose};
use super::error::ChangeError;
use super::ids::Ids;
use super::index::{Deadlines, Index, deadlines};
use super::{Group, Pipeline, TABLES};
use crate::action::MeterSpec;
use crate::rule::{Change, FlowSpec, Rule};
use crate::stats::{Counts, StatsId, StatsTable};

/// What changes came to.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Rules added, those in another's place included.
    pub added: usize,
    /// Rules that got other actions.
    pub modified: usize,
    /// Rules deleted, those whose group or meter was deleted included.
    pub deleted: usize,
    /// Rules that count no more: deleted, replaced, or modified with
    /// `reset_counts`. Their last counts are to be given to
    /// [`FlowTables::settle_removed`].
    pub removed: Vec<Arc<Rule>>,
}

/// Why a rule expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// No packet for as long as its `idle_timeout`.
    Idle,
    /// As old as its `hard_timeout`.
    Hard,
}

/// The tables of a bridge, to be changed.
pub struct FlowTables {
    pub(super) state: State,
    stats: Arc<StatsTable>,
    pub(super) ids: Ids,
    /// Packets of removed rules, by table.
    bases: Box<[u64]>,
}

impl FlowTables {
    /// Empty tables. Every port counts as live until [`set_live_ports`](Self::set_live_ports).
    pub fn new(stats: Arc<StatsTable>) -> Self {
        let misses: Arc<[StatsId]> = (0..TABLES as StatsId).collect();
        for id in misses.iter() {
            stats.prepare(*id);
        }
        Self {
            state: State {
                pipeline: Pipeline::new(misses),
                index: Index::default(),
            },
            stats,
            ids: Ids::new(TABLES as StatsId),
            bases: vec![0; TABLES].into(),
        }
    }

    /// How they are now.
    pub fn pipeline(&self) -> Pipeline {
        self.state.pipeline.clone()
    }

    /// The cells of the tables' statistics.
    pub fn stats(&self) -> &Arc<StatsTable> {
        &self.stats
    }

    /// Makes all changes, in their order, or none: then the index of the one
    /// that was refused comes with the reason. Where nothing changes the
    /// version stays.
    pub fn apply(
        &mut self,
        changes: &[Change],
        now_ms: u64,
    ) -> Result<Applied, (usize, ChangeError)> {
        match self.apply_if(changes, now_ms, || Ok::<_, Infallible>(())) {
            Ok(result) => result,
        }
    }

    /// Like [`apply`](Self::apply), but when all changes are known to be
    /// possible, and before any is seen, asks `keep` (which may write them down);
    /// when it fails nothing is changed.
    pub fn apply_if<E>(
        &mut self,
        changes: &[Change],
        now_ms: u64,
        keep: impl FnOnce() -> Result<(), E>,
    ) -> Result<Result<Applied, (usize, ChangeError)>, E> {
        let mut edit = Edit::new(&self.state, &mut self.ids, &self.stats, now_ms);
        for (index, change) in changes.iter().enumerate() {
            if let Err(error) = edit.change(change) {
                edit.abandon();
                return Ok(Err((index, error)));
            }
        }
        if let Err(error) = keep() {
            edit.abandon();
            return Err(error);
        }
        let (state, applied) = edit.finish();
        if let Some(state) = state {
            self.state = state;
        }
        Ok(Ok(applied))
    }

    /// Which ports can take frames: bit `n % 64` of word `n / 64`. Counts as a
    /// change of groups if it is another than before.
    pub fn set_live_ports(&mut self, live: &[u64; 16]) {
        if self.state.pipeline.live_ports == *live {
            return;
        }
        let mut edit = Edit::new(&self.state, &mut self.ids, &self.stats, 0);
        edit.state.pipeline.live_ports = *live;
        edit.touched = true;
        // Without groups nobody has looked.
        edit.changed.groups = !edit.state.pipeline.groups.is_empty();
        if let (Some(state), _) = edit.finish() {
            self.state = state;
        }
    }

    /// Removes the rules whose time has come, as Open vSwitch does: after
    /// `hard_timeout` seconds since they were added or modified, or
    /// `idle_timeout` seconds since they were added or used. `used` is the last
    /// use of a rule by its statistics cell, in milliseconds. Rules without
    /// timeouts cost nothing.
    pub fn expire(
        &mut self,
        now_ms: u64,
        used: &dyn Fn(StatsId) -> u64,
    ) -> Vec<(Arc<Rule>, Expiry)> {
        if self.state.index.due(now_ms).is_none() {
            return Vec::new();
        }
        let mut edit = Edit::new(&self.state, &mut self.ids, &self.stats, now_ms);
        let mut expired = Vec::new();
        while let Some(rule) = edit.state.index.due(now_ms) {
            let Deadlines { hard_ms, idle_ms } = deadlines(&rule, used(rule.stats));
            let why = match () {
                () if hard_ms < now_ms => Expiry::Hard,
                () if idle_ms < now_ms => Expiry::Idle,
                () => {
                    edit.state.index.expect(&rule, hard_ms.min(idle_ms));
                    continue;
                }
            };
            edit.remove(&rule);
            expired.push((rule, why));
        }
        // If none has expired, just the index knows of later uses.
        let index = edit.state.index.clone();
        match edit.finish() {
            (Some(state), _) => self.state = state,
            (None, _) => self.state.index = index,
        }
        expired
    }

    /// Keeps the last counts of a removed rule for its table's sum.
    pub fn settle_removed(&mut self, rule: &Rule, counts: Counts) {
        if let Some(base) = self.bases.get_mut(usize::from(rule.table)) {
            *base += counts.packets;
        }
    }

    /// Packets that removed rules of a table have matched, as far as settled.
    pub fn table_base(&self, table: u8) -> u64 {
        self.bases.get(usize::from(table)).copied().unwrap_or(0)
    }

    /// The rules within a filter: its match (loosely), table, cookie and output.
    /// By table, then from the highest priority down, then as they were added.
    pub fn rules(&self, filter: &FlowSpec) -> Vec<Arc<Rule>> {
        let mut rules = Vec::new();
        select_loose(&self.state, filter, true, &mut |rule| {
            rules.push(rule.clone());
        });
        rules.sort_unstable_by_key(|rule| {
            let priority = std::cmp::Reverse(rule.priority);
            (rule.table, priority, rule.created_ms, rule.stats)
        });
        rules
    }

    /// All groups, by number.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.state.pipeline.groups.values().cloned().collect()
    }

    /// All meters, by number.
    pub fn meters(&self) -> Vec<Arc<MeterSpec>> {
        self.state.pipeline.meters.values().cloned().collect()
    }

    /// How many rules a table has.
    pub fn table_len(&self, table: u8) -> usize {
        self.state
            .pipeline
            .table(table)
            .map_or(0, |table| table.len())
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        let tables = self.state.pipeline.tables.iter().flatten();
        tables.map(|table| table.len()).sum()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.state.pipeline.tables.iter().flatten().next().is_none()
    }

    /// Bytes that the rules and the ways to them take, about; statistics cells
    /// not included.
    pub fn memory(&self) -> usize {
        let tables = self.state.pipeline.tables.iter().flatten();
        let tables: usize = tables.map(|table| table.memory()).sum();
        tables + self.state.index.memory() + self.ids.memory()
    }
}
