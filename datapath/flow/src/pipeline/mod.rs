//! A bridge's tables: [`FlowTables`] changes them (control plane), a
//! [`Pipeline`] is how they are at one version, immutable.

use std::sync::Arc;

use crate::action::{Bucket, GroupSpec, MeterSpec};
use crate::key::PACKET_WORDS;
use crate::rule::{Change, FlowCommand, MiniMatch, Rule};
use crate::stats::{StatsId, StatsTable};
use crate::table::Table;

/// Tables of a bridge: 0 to 254.
pub const TABLES: usize = 255;

/// A bridge's tables at one version. Cloning is cheap.
#[derive(Clone)]
pub struct Pipeline {
    version: u32,
    tables: Box<[Option<Arc<Table>>]>,
    /// Cells that count the lookups that found nothing, by table.
    misses: Arc<[StatsId]>,
}

/// A group in a pipeline.
pub struct Group {
    /// As it was asked for.
    pub spec: GroupSpec,
    /// The cell of its counts.
    pub stats: StatsId,
    /// The cells of its buckets' counts, in their order.
    pub bucket_stats: Box<[StatsId]>,
}

/// What a megaflow's verdict hangs on, beside the bits in its mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// Tables that were looked into: bit `table % 64`.
    pub tables: u64,
    /// Words that actions changed before a later lookup: their bits in the
    /// megaflow's key say nothing about what that lookup saw.
    pub modified: u32,
    /// Groups were used.
    pub groups: bool,
}

impl Pipeline {
    /// Grows with every change.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A table, if it has rules.
    pub fn table(&self, table: u8) -> Option<&Table> {
        self.tables.get(usize::from(table))?.as_deref()
    }

    /// The cell that counts a table's lookups that found nothing.
    pub fn miss_stats(&self, table: u8) -> StatsId {
        self.misses.get(usize::from(table)).copied().unwrap_or(0)
    }

    /// A group.
    pub fn group(&self, _id: u32) -> Option<&Arc<Group>> {
        None
    }

    /// A meter.
    pub fn meter(&self, _id: u32) -> Option<&MeterSpec> {
        None
    }

    /// Whether a bucket may be chosen by a fast-failover group: the port or
    /// group that it watches is live. A bucket that watches nothing is live.
    pub fn is_live(&self, _bucket: &Bucket) -> bool {
        true
    }

    /// Whether a verdict reached at `version` may be another now: some change
    /// since then touches what it hangs on. Never false for a verdict that
    /// would be another; may be true for one that would not.
    pub fn is_stale(
        &self,
        version: u32,
        _dependencies: &Dependencies,
        _key: &[u64; PACKET_WORDS],
        _mask: &[u64; PACKET_WORDS],
    ) -> bool {
        version != self.version
    }
}

/// Why a change was refused. Nothing was changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChangeError {
    /// It cannot be.
    #[error("{0}")]
    Refused(String),
}

/// The tables of a bridge, to be changed.
pub struct FlowTables {
    pipeline: Pipeline,
    stats: Arc<StatsTable>,
    next_stats: StatsId,
}

impl FlowTables {
    /// Empty tables.
    pub fn new(stats: Arc<StatsTable>) -> Self {
        let misses: Arc<[StatsId]> = (0..TABLES as u32).collect();
        for id in misses.iter() {
            stats.prepare(*id);
        }
        Self {
            pipeline: Pipeline {
                version: 1,
                tables: vec![None; TABLES].into(),
                misses,
            },
            stats,
            next_stats: TABLES as u32,
        }
    }

    /// How they are now.
    pub fn pipeline(&self) -> Pipeline {
        self.pipeline.clone()
    }

    /// Makes all changes, or none: then the index of the one that was refused
    /// comes with the reason.
    pub fn apply(&mut self, changes: &[Change], now_ms: u64) -> Result<(), (usize, ChangeError)> {
        let mut pipeline = self.pipeline.clone();
        pipeline.version += 1;
        for change in changes {
            if let Change::Flow(FlowCommand::Add, spec) = change {
                let table = spec.table.unwrap_or(0);
                let id = self.next_stats;
                self.next_stats += 1;
                self.stats.prepare(id);
                let rule = Rule {
                    stats: id,
                    table,
                    priority: spec.priority,
                    cookie: spec.cookie,
                    matching: MiniMatch::new(&spec.matching),
                    actions: spec.actions.clone().into(),
                    idle_timeout: spec.idle_timeout,
                    hard_timeout: spec.hard_timeout,
                    importance: spec.importance,
                    flags: spec.flags,
                    created_ms: now_ms,
                    modified_ms: now_ms,
                };
                let cell = &mut pipeline.tables[usize::from(table)];
                Arc::make_mut(cell.get_or_insert_default()).insert(Arc::new(rule));
            }
        }
        self.pipeline = pipeline;
        Ok(())
    }
}
