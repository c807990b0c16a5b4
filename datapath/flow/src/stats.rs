//! Packets and bytes of rules, groups and buckets.
//!
//! While a megaflow lives it counts for itself. When it ends, its counts are
//! added to the cells of all rules that made it, so that a rule's count is its
//! cell plus the megaflows that name it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const CHUNK: usize = 4096;
const CHUNKS: usize = 1024;

/// Number of a cell.
pub type StatsId = u32;

/// Most cells.
pub const MAX_STATS: usize = CHUNK * CHUNKS;

/// Counts that outlive megaflows. Any thread may add.
#[derive(Debug, Default)]
pub struct StatsCell {
    packets: AtomicU64,
    bytes: AtomicU64,
    /// Milliseconds, of the datapath's clock.
    used: AtomicU64,
    /// The pipeline's version at which it was given to its owner.
    since: AtomicU32,
}

/// Counts, read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// When last used, in milliseconds of the datapath's clock; 0 for never.
    pub used_ms: u64,
}

impl StatsCell {
    /// Adds what a megaflow counted.
    pub fn add(&self, counts: Counts) {
        self.packets.fetch_add(counts.packets, Ordering::Relaxed);
        self.bytes.fetch_add(counts.bytes, Ordering::Relaxed);
        self.used.fetch_max(counts.used_ms, Ordering::Relaxed);
    }

    /// Adds what a megaflow counted that was made at `made_version` of the
    /// pipeline, unless the cell belonged to another owner then. Whether it did add.
    ///
    /// A cell that changes owners has rested for seconds, so that no core is
    /// between the look at `since` and the sums meanwhile.
    pub fn add_if(&self, counts: Counts, made_version: u32) -> bool {
        let ours = self.counts_for(made_version);
        if ours {
            self.add(counts);
        }
        ours
    }

    /// Whether the cell has the owner that it had at `version`.
    pub fn counts_for(&self, version: u32) -> bool {
        self.since.load(Ordering::Relaxed) <= version
    }

    /// The counts now.
    pub fn read(&self) -> Counts {
        Counts {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            used_ms: self.used.load(Ordering::Relaxed),
        }
    }

    /// Starts anew, for an owner who comes with version `since` of the pipeline.
    pub fn reset(&self, since: u32) {
        self.since.store(since, Ordering::Relaxed);
        self.packets.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.used.store(0, Ordering::Relaxed);
    }
}

/// All cells. Chunks are made by the control plane before an id of theirs is
/// given out; readers never wait.
pub struct StatsTable {
    chunks: Box<[OnceLock<Box<[StatsCell]>>]>,
}

impl Default for StatsTable {
    fn default() -> Self {
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl StatsTable {
    /// Makes sure that the cell is there (control plane). False: no such id.
    pub fn prepare(&self, id: StatsId) -> bool {
        let Some(chunk) = self.chunks.get(id as usize / CHUNK) else {
            return false;
        };
        chunk.get_or_init(|| (0..CHUNK).map(|_| StatsCell::default()).collect());
        true
    }

    /// The cell, if it was prepared.
    pub fn cell(&self, id: StatsId) -> Option<&StatsCell> {
        self.chunks
            .get(id as usize / CHUNK)?
            .get()?
            .get(id as usize % CHUNK)
    }
}

impl std::fmt::Debug for StatsTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatsTable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Counts = Counts {
        packets: 3,
        bytes: 180,
        used_ms: 1_000,
    };

    #[test]
    fn a_cell_takes_nothing_from_its_former_owners_megaflows() {
        let table = StatsTable::default();
        assert!(table.cell(5000).is_none());
        assert!(table.prepare(5000));
        let cell = table.cell(5000).unwrap();
        assert!(cell.add_if(SOME, 0));
        assert_eq!(cell.read(), SOME);

        cell.reset(8);
        assert!(!cell.add_if(SOME, 7));
        assert_eq!(cell.read(), Counts::default());
        assert!(cell.add_if(SOME, 8));
        assert!(cell.add_if(SOME, 9));
        assert_eq!(cell.read().packets, 6);
    }

    #[test]
    fn there_are_no_cells_beyond_the_last() {
        let table = StatsTable::default();
        assert!(table.prepare(MAX_STATS as StatsId - 1));
        assert!(table.cell(MAX_STATS as StatsId - 1).is_some());
        assert!(!table.prepare(MAX_STATS as StatsId));
        assert!(table.cell(MAX_STATS as StatsId).is_none());
    }
}
