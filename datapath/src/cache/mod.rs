//! The flow cache of one poll-mode core: keys → megaflows → verdicts.
//!
//! ```text
//! burst of keys ─▶ exact-match cache ─▶ masks, most successful first ─▶ translation (a miss)
//!                  a hint, verified     one probe each                  budgeted, installs a megaflow
//! (a mask to which most packets belong is tried before the cache)
//! ```
//!
//! - The exact-match cache (EMC) maps the hash of *all bits that any mask of
//!   the bridge looks at* to a megaflow, and is believed only when the megaflow's
//!   key and mask say so too. It needs no flushing.
//! - Any living megaflow that matches is right: verdicts of overlapping
//!   megaflows are the same. So the order in which masks are tried is free.
//! - The core is its table's only writer. What it does not need for the
//!   verdict (counts, dependencies) it leaves in the entry, where the control
//!   plane reads it ([`table`]).
//! - A megaflow remembers the version of the rules that it was made from. When
//!   it meets a packet under another version it is kept if none of the changes
//!   since touches it, else made anew.
//! - Packets of NORMAL are counted by conversation ([`conversations`]).

mod budget;
#[cfg(test)]
mod conversation_tests;
pub mod conversations;
mod find;
mod install;
mod masks;
mod owners;
mod read;
mod sweep;
pub mod table;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use ringway_flow::key::PacketKey;
use ringway_flow::translate::Translation;
use ringway_vhost::{BURST, Packets};

use self::budget::Budget;
use self::conversations::{Conversations, Run};
use self::masks::{BridgeMasks, MaskPool};
use self::owners::Owners;
use self::sweep::Sweep;
use self::table::{CacheTable, Entry, Meta, Parts, Payload};
use self::verdict::NONE;
use crate::clock::CoarseClock;
use crate::conversation::Conversation;
use crate::counters::{Counter, PmdCounterCells};
use crate::parse::Key;
use crate::patch::Which;
use crate::snapshot::{BridgeView, Snapshot};

pub use self::conversations::{ConversationRecord, name_station};
pub use self::masks::{BRIDGE_BITS, MAX_MASKS};
pub use self::read::{Hold, MegaflowRecord, hold, read_all};
pub use self::verdict::{Found, Verdict};

/// Bridges that a core caches for at the same time.
pub const BRIDGES: usize = 256;

/// A unit of `used`, as a shift of TSC cycles: about 3 ms.
pub const USED_SHIFT: u32 = 23;

/// What lookups came to, counted by the core.
#[derive(Debug, Default)]
pub struct LookupCounters {
    pub emc_hits: Counter,
    pub megaflow_hits: Counter,
    pub missed: Counter,
    pub lost: Counter,
    pub not_installed: Counter,
    pub probes: Counter,
}

/// A core's flow cache.
pub struct FlowCache {
    table: Arc<CacheTable>,
    core: Core,
}

/// What the core keeps for itself.
struct Core {
    /// Entries and blocks that are free, lowest last.
    free: Vec<u32>,
    pool: MaskPool,
    bridges: Box<[BridgeMasks; BRIDGES]>,
    translation: Box<Translation>,
    /// Entries that hold the programs of this burst's packets whose megaflow
    /// found no room.
    loose: ArrayVec<u32, BURST>,
    /// Megaflows that are in their second bucket.
    overflowed: u32,
    budget: Budget,
    owners: Owners,
    clock: CoarseClock,
    sweep: Sweep,
    conversations: Conversations,
}

/// The one megaflow of all packets of a bridge.
#[derive(Clone, Copy)]
pub struct CatchAll {
    entry: u32,
    verdict: Verdict,
    tells_apart: bool,
}

impl FlowCache {
    /// Over `table`, which is all zeros. `max_idle`: a megaflow without a
    /// packet for so long goes, 200 s at the most.
    pub fn new(table: Arc<CacheTable>, clock: CoarseClock, max_idle: Duration) -> Self {
        Self {
            core: Core {
                free: (0..table.shape.blocks() as u32).rev().collect(),
                pool: MaskPool::default(),
                bridges: Box::new(std::array::from_fn(|_| BridgeMasks::default())),
                translation: Box::default(),
                loose: ArrayVec::new(),
                overflowed: 0,
                budget: Budget::default(),
                owners: Owners::new(table.shape.blocks()),
                clock,
                sweep: Sweep::new(clock.tsc_hz(), max_idle),
                conversations: Conversations::new(table.shape.blocks(), clock.tsc_hz()),
            },
            table,
        }
    }

    /// The one megaflow that all packets of the bridge belong to, if it is so:
    /// then nobody has to look at them.
    #[inline(always)]
    pub fn catch_all(&self, view: &BridgeView) -> Option<CatchAll> {
        let core = &self.core;
        let masks = &core.bridges[usize::from(view.id) % BRIDGES];
        let [number] = masks.order() else {
            return None;
        };
        let mask = core.pool.get(*number);
        if masks.bridge != view.id
            || mask.bits.0[0] != masks::BRIDGE_BITS
            || mask.cold
            || mask.bits.0[1..table::HOT] != [0; table::HOT - 1]
        {
            return None;
        }
        let mut key = PacketKey::default();
        key.0[0] = u64::from(view.id) << 48;
        let parts = self.table.parts();
        let entry = core.probe(&parts, mask.hash(&key), &key)?;
        let meta = Meta::load(&parts.entries[entry as usize]);
        // A stale one is for `classify` to judge.
        (meta.version == view.pipeline.version() as u16).then(|| CatchAll {
            entry,
            verdict: Verdict::decode(meta.verdict, entry),
            tells_apart: meta.tells_apart(),
        })
    }

    /// Counts a burst of packets, with `bytes` bytes in all, that came from `port`
    /// (as flows know it) and went by [`catch_all`](Self::catch_all); `one`: what all
    /// are of.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub fn count_all(
        &mut self,
        all: CatchAll,
        port: u16,
        one: Option<Conversation>,
        which: impl Which,
        packets: &Packets<'_>,
        keys: &[Key; BURST],
        bytes: u64,
        now: u64,
    ) {
        let Self { table, core } = self;
        let count = which.count() as u32;
        core.budget.known(count);
        let run = match one {
            Some(one) if all.tells_apart => Run::of(port, one, count, bytes),
            None if all.tells_apart => {
                return core.count_conversations(table, all.entry, port, which, packets, keys, now);
            }
            _ => Run::of_megaflow(port, count, bytes),
        };
        core.count_run(table, &table.parts(), all.entry, &run, now);
    }

    /// Finds the verdicts on the first `count` keys, packets of `lens` bytes
    /// that came to the bridge in `view`, and counts them.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    pub fn classify(
        &mut self,
        keys: &[PacketKey; BURST],
        lens: &[u32; BURST],
        count: usize,
        view: &BridgeView,
        found: &mut Found,
        counters: &PmdCounterCells,
        now: u64,
    ) {
        let Self { table, core } = self;
        let place = usize::from(view.id) % BRIDGES;
        if core.bridges[place].bridge != view.id {
            core.bridges[place].reset(view.id);
        }
        let work = Work {
            parts: table.parts(),
            table,
            view,
            place,
            keys,
            now,
        };
        found.begin(count);
        let all = found.pending;
        let several = core.bridges[place].order().len() > 1;
        let lead = usize::from(several && core.bridges[place].leads());
        let mut probes = core.masks(&work, found, 0..lead);
        let before = found.pending;
        if several && before != 0 {
            core.emc(&work, found);
        }
        found.emc = before & !found.pending;
        probes += core.masks(&work, found, lead..usize::MAX);
        let known = all & !found.pending;
        found.mask = known & !found.emc;
        counters.lookups.probes.add(probes);
        let hits = [
            (found.emc, &counters.lookups.emc_hits),
            (found.mask, &counters.lookups.megaflow_hits),
        ];
        for (packets, counter) in hits {
            counter.add(packets.count_ones().into());
        }
        core.budget.known(known.count_ones());
        if found.pending != 0 {
            core.upcalls(&work, lens, found, counters);
        }
        core.count_burst(&work, found, lens, count);
    }

    /// Makes the megaflow that a packet with this key would belong to, without the
    /// packet: it counts nothing, and takes no time of its port's for misses.
    #[cold]
    pub fn prepare(&mut self, view: &BridgeView, key: &PacketKey, now: u64) {
        let Self { table, core } = self;
        let place = usize::from(view.id) % BRIDGES;
        if core.bridges[place].bridge != view.id {
            core.bridges[place].reset(view.id);
        }
        core.prepare(table, view, key, place, now);
    }

    /// The program of an entry.
    #[inline]
    pub fn program(&self, entry: u32) -> Payload {
        let parts = self.table.parts();
        parts.verdict(&parts.entries[entry as usize])
    }

    /// The burst is done: what was kept for it alone is free.
    #[inline(always)]
    pub fn finish(&mut self) {
        if !self.core.loose.is_empty() {
            self.free_loose();
        }
    }

    #[cold]
    fn free_loose(&mut self) {
        let parts = self.table.parts();
        while let Some(entry) = self.core.loose.pop() {
            self.core.free_blocks(&parts, entry);
        }
    }

    /// A poll took `cycles`.
    #[inline(always)]
    pub fn poll_took(&mut self, now: u64, cycles: u64, busy: bool) {
        self.core.budget.poll(now, cycles, busy);
    }

    /// Whether megaflows are there, which have to be looked after.
    pub fn is_empty(&self) -> bool {
        self.table.flows.load(Ordering::Relaxed) == 0
    }

    /// Looks after some entries when it is time: those without packets go,
    /// those that a change of rules touches too.
    #[inline(always)]
    pub fn keep(&mut self, snapshot: &Snapshot, now: u64) {
        if self.core.sweep.is_due(now) {
            self.core.sweep(&self.table, snapshot, now);
        }
    }
}

/// What is the same for all packets of a burst.
#[derive(Clone, Copy)]
struct Work<'a> {
    parts: Parts<'a>,
    table: &'a CacheTable,
    /// The bridge that they came to, and the place of its masks.
    view: &'a BridgeView,
    place: usize,
    keys: &'a [PacketKey; BURST],
    now: u64,
}

impl Work<'_> {
    /// The port that the burst came from.
    #[inline(always)]
    fn port(&self) -> u16 {
        (self.keys[0].0[0] >> 32) as u16
    }
}

/// The packets whose bits are set.
#[inline(always)]
fn bits(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let next = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (next < 32).then_some(next)
    })
}

#[inline(always)]
fn used_now(now: u64) -> u16 {
    (now >> USED_SHIFT) as u16
}

#[inline(always)]
fn add(word: &AtomicU64, n: u64) {
    let sum = word.load(Ordering::Relaxed) + n;
    word.store(sum, Ordering::Relaxed);
}

#[inline(always)]
fn count(entry: &Entry, packets: u32, bytes: u64, now: u64) {
    add(&entry[table::PACKETS], packets.into());
    add(&entry[table::BYTES], bytes);
    touch(entry, now);
}

/// A megaflow is in use.
#[inline(always)]
fn touch(entry: &Entry, now: u64) {
    let meta = Meta::load(entry);
    let used = used_now(now);
    if meta.used != used {
        Meta { used, ..meta }.store(entry);
    }
}

/// Runs `work`, which moves counts from entries to cells, unless a reader asks
/// that none be moved now.
fn move_counts<T>(table: &CacheTable, work: impl FnOnce() -> T) -> Option<T> {
    // Whoever wants to read says so first and then waits until nobody moves;
    // we say that we move first and then look whether somebody reads.
    table.moving.fetch_add(1, Ordering::SeqCst);
    let done = (table.holds.load(Ordering::SeqCst) == 0).then(work);
    table.moving.fetch_add(1, Ordering::SeqCst);
    done
}
