//! A bridge's tables: [`FlowTables`] changes them (control plane), a
//! [`Pipeline`] is how they are at one version, immutable.

mod changes;
mod edit;
mod error;
mod flow_tables;
mod groups;
mod ids;
mod index;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use imbl::OrdMap;

use self::changes::Log;
pub use self::error::{ChangeError, ErrorCode};
pub use self::flow_tables::{Applied, Expiry, FlowTables};
use crate::action::{Bucket, GroupSpec, GroupType, MeterSpec};
use crate::key::{PACKET_WORDS, PORT_LOCAL};
use crate::stats::StatsId;
use crate::table::Table;

/// Tables of a bridge: 0 to 254.
pub const TABLES: usize = 255;

/// Most buckets that are looked at to tell whether one that watches a group is
/// live; beyond it counts as dead.
const MAX_WATCHED: u32 = 256;

/// A bridge's tables at one version. Cloning is cheap.
///
/// Whoever drops the last clone frees what no other version has; that is for
/// the control plane to do, not for a poll-mode core.
#[derive(Clone)]
pub struct Pipeline {
    version: u32,
    tables: Arc<[Option<Arc<Table>>]>,
    /// Cells that count the lookups that found nothing, by table.
    misses: Arc<[StatsId]>,
    groups: OrdMap<u32, Arc<Group>>,
    meters: OrdMap<u32, Arc<MeterSpec>>,
    /// Which ports can take frames, a bit each.
    live_ports: [u64; 16],
    log: Log,
}

/// A group in a pipeline.
#[derive(Debug)]
pub struct Group {
    /// As it was asked for.
    pub spec: GroupSpec,
    /// The cell of its counts.
    pub stats: StatsId,
    /// The cells of its buckets' counts, in their order.
    pub bucket_stats: Box<[StatsId]>,
    /// When it was added, in milliseconds of the datapath's clock.
    pub created_ms: u64,
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
    fn new(misses: Arc<[StatsId]>) -> Self {
        Self {
            version: 1,
            tables: vec![None; TABLES].into(),
            misses,
            groups: OrdMap::new(),
            meters: OrdMap::new(),
            live_ports: [u64::MAX; 16],
            log: Log::default(),
        }
    }

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
    pub fn group(&self, id: u32) -> Option<&Arc<Group>> {
        self.groups.get(&id)
    }

    /// A meter.
    pub fn meter(&self, id: u32) -> Option<&MeterSpec> {
        self.meters.get(&id).map(|meter| &**meter)
    }

    /// Whether a bucket may be chosen by a fast-failover group: the port or
    /// group that it watches is live. A bucket that watches nothing is live.
    /// Its weight says nothing here.
    pub fn is_live(&self, bucket: &Bucket) -> bool {
        self.is_live_within(bucket, &mut { MAX_WATCHED })
    }

    fn is_live_within(&self, bucket: &Bucket, buckets_left: &mut u32) -> bool {
        let Some(left) = buckets_left.checked_sub(1) else {
            return false;
        };
        *buckets_left = left;
        let port = bucket.watch_port.map(|port| self.is_live_port(port));
        if port == Some(true) {
            return true;
        }
        match bucket.watch_group {
            None => port.is_none(),
            Some(id) => self.groups.get(&id).is_some_and(|group| {
                // A select group's bucket of weight 0 is never chosen.
                let by_weight = group.spec.kind == GroupType::Select;
                let mut buckets = group.spec.buckets.iter();
                buckets.any(|bucket| {
                    !(by_weight && bucket.weight == 0) && self.is_live_within(bucket, buckets_left)
                })
            }),
        }
    }

    /// The bridge's own port is always live.
    fn is_live_port(&self, port: u16) -> bool {
        let word = self.live_ports.get(usize::from(port / 64));
        port == PORT_LOCAL || word.is_some_and(|word| word >> (port % 64) & 1 == 1)
    }

    /// Whether a verdict reached at `version` may be another now: some change
    /// since then touches what it hangs on. Never false for a verdict that
    /// would be another; may be true for one that would not.
    ///
    /// `key` and `mask` are the megaflow's. Changed rules are remembered for
    /// some versions and compared one by one if they are few.
    pub fn is_stale(
        &self,
        version: u32,
        dependencies: &Dependencies,
        key: &[u64; PACKET_WORDS],
        mask: &[u64; PACKET_WORDS],
    ) -> bool {
        (self.log).is_stale(self.version, version, dependencies, key, mask)
    }
}
