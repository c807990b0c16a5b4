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

mod budget;
mod masks;
mod read;
pub mod table;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrayvec::ArrayVec;
use ringway_flow::key::PacketKey;
use ringway_flow::program::{DpAction, DropCause, Program};
use ringway_flow::stats::Counts;
use ringway_flow::translate::{Start, Translation, Untraced, translate};
use ringway_vhost::BURST;

use self::budget::Budget;
use self::masks::{BridgeMasks, MaskPool};
use self::table::{
    Bucket, CacheTable, Entry, Meta, Parts, Payload, begin, blocks_needed, dependencies,
    for_each_block, key_word, made, publish, release, write_facts, write_payload,
};
use crate::clock::CoarseClock;
use crate::counters::{Counter, PmdCounterCells};
use crate::cpu::{prefetch, tsc};
use crate::snapshot::{BridgeView, Snapshot};
use crate::watch::FoundBy;

pub use self::masks::MAX_MASKS;
pub use self::read::{Hold, MegaflowRecord, hold, read_all};

/// Bridges that a core caches for at the same time.
pub const BRIDGES: usize = 256;

/// A unit of `used`, as a shift of TSC cycles: about 3 ms.
pub const USED_SHIFT: u32 = 23;

/// Masks that are tried in any case. What it takes to try more is paid out of
/// the budget for misses: with none left, a packet that is in none of the most
/// successful masks, nor known to the exact-match cache, is not looked for any
/// longer. So made-up headers cost no more than this, however many there are.
const FREE_ROUNDS: usize = 8;

/// Between two slices of the sweep over all entries.
const SLICE: Duration = Duration::from_millis(1);

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the port with this number.
    Output(u32),
    /// As a learning switch does.
    Normal,
    /// To every other port of the bridge.
    Flood,
    /// Nowhere.
    Drop(DropCause),
    /// Nowhere: there was no time to find out.
    Lost,
    /// The program of this entry.
    Program(u32),
}

impl Verdict {
    /// Of a program; `entry` is where it is kept.
    fn of(program: &Program, entry: u32) -> Self {
        let mut steps = program.steps();
        match (steps.next(), steps.next()) {
            (Some(DpAction::Output(port)), None) if port < 1 << 12 => Self::Output(port.into()),
            (Some(DpAction::Normal), None) => Self::Normal,
            (Some(DpAction::Flood), None) => Self::Flood,
            (Some(DpAction::Drop(cause)), None) => Self::Drop(cause),
            (None, _) => Self::Drop(DropCause::Rule),
            _ => Self::Program(entry),
        }
    }

    fn code(self) -> u16 {
        let (kind, argument) = match self {
            Self::Output(port) => (1, port as u16),
            Self::Normal => (2, 0),
            Self::Flood => (3, 0),
            Self::Drop(cause) => (4, cause as u16),
            Self::Program(_) => (5, 0),
            Self::Lost => (0, 0),
        };
        kind << 12 | argument & 0xfff
    }

    #[inline(always)]
    fn decode(code: u16, entry: u32) -> Self {
        let argument = code & 0xfff;
        match code >> 12 {
            1 => Self::Output(argument.into()),
            2 => Self::Normal,
            3 => Self::Flood,
            4 => Self::Drop(
                DropCause::ALL
                    .get(usize::from(argument))
                    .copied()
                    .unwrap_or(DropCause::Rule),
            ),
            _ => Self::Program(entry),
        }
    }
}

/// No entry.
const NONE: u32 = u32::MAX;

/// The verdicts on a burst.
pub struct Found {
    /// The entry that each packet is counted in, or [`NONE`].
    entries: [u32; BURST],
    verdicts: [Verdict; BURST],
    /// Packets found in the exact-match cache, and by a mask.
    emc: u32,
    mask: u32,
    catch_all: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            entries: [NONE; BURST],
            verdicts: [Verdict::Lost; BURST],
            emc: 0,
            mask: 0,
            catch_all: false,
        }
    }
}

impl Found {
    /// The verdict on packet `index`.
    #[inline(always)]
    pub fn verdict(&self, index: usize) -> Verdict {
        self.verdicts[index]
    }

    /// Where its megaflow is, if it has one.
    pub fn entry(&self, index: usize) -> Option<u32> {
        Some(self.entries[index]).filter(|entry| *entry != NONE)
    }

    /// How its megaflow was found.
    pub fn found_by(&self, index: usize) -> FoundBy {
        match () {
            () if self.catch_all => FoundBy::CatchAll,
            () if self.emc >> index & 1 == 1 => FoundBy::Emc,
            () if self.mask >> index & 1 == 1 => FoundBy::Mask,
            () => FoundBy::Upcall,
        }
    }

    /// The one megaflow's verdict for all.
    #[inline(always)]
    pub fn fill(&mut self, count: usize, entry: u32, verdict: Verdict) {
        self.catch_all = true;
        self.entries[..count].fill(entry);
        self.verdicts[..count].fill(verdict);
    }
}

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
    clock: CoarseClock,
    sweep: Sweep,
}

struct Sweep {
    at: usize,
    next: u64,
    slice_cycles: u64,
    slices_per_pass: usize,
    max_idle: u16,
    /// Slices until the masks are tidied.
    tidy_in: u32,
}

impl FlowCache {
    /// Over `table`, which is all zeros. `max_idle`: a megaflow without a
    /// packet for so long goes, 200 s at the most.
    pub fn new(table: Arc<CacheTable>, clock: CoarseClock, max_idle: Duration) -> Self {
        let hz = clock.tsc_hz();
        let units = (max_idle.as_secs_f64() * hz as f64) as u64 >> USED_SHIFT;
        let slices = max_idle.as_secs_f64() / 4.0 / SLICE.as_secs_f64();
        Self {
            core: Core {
                free: (0..table.shape.blocks() as u32).rev().collect(),
                pool: MaskPool::default(),
                bridges: Box::new(std::array::from_fn(|_| BridgeMasks::default())),
                translation: Box::default(),
                loose: ArrayVec::new(),
                overflowed: 0,
                budget: Budget::default(),
                clock,
                sweep: Sweep {
                    at: 0,
                    next: 0,
                    slice_cycles: (SLICE.as_secs_f64() * hz as f64) as u64,
                    slices_per_pass: (slices as usize).max(1),
                    max_idle: u16::try_from(units).unwrap_or(u16::MAX).clamp(1, 62_000),
                    tidy_in: 0,
                },
            },
            table,
        }
    }

    /// The one megaflow that all packets of the bridge belong to, if it is so:
    /// then nobody has to look at them.
    #[inline(always)]
    pub fn catch_all(&self, view: &BridgeView) -> Option<(u32, Verdict)> {
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
        let key = PacketKey([
            u64::from(view.id) << 48,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        let parts = self.table.parts();
        let entry = core.probe(&parts, mask.hash(&key), &key)?;
        let meta = Meta::load(&parts.entries[entry as usize]);
        // A stale one is for `classify` to judge.
        (meta.version == view.pipeline.version() as u16)
            .then(|| (entry, Verdict::decode(meta.verdict, entry)))
    }

    /// `packets` packets with `bytes` bytes went by [`catch_all`](Self::catch_all).
    #[inline(always)]
    pub fn count_all(&mut self, entry: u32, packets: u32, bytes: u64, now: u64) {
        let parts = self.table.parts();
        count(&parts.entries[entry as usize], packets, bytes, now);
        self.core.budget.known(packets);
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
        let parts = table.parts();
        let place = usize::from(view.id) % BRIDGES;
        if core.bridges[place].bridge != view.id {
            core.bridges[place].reset(view.id);
        }
        let mut pending = Pending {
            packets: ((1u64 << count) - 1) as u32,
            stale: 0,
        };
        found.entries = [NONE; BURST];
        found.catch_all = false;
        let all = pending.packets;
        let several = core.bridges[place].order().len() > 1;
        let lead = usize::from(several && core.bridges[place].leads());
        let mut probes = core.masks(
            &parts,
            keys,
            place,
            view,
            table,
            found,
            &mut pending,
            now,
            0..lead,
        );
        let before = pending.packets;
        if several && before != 0 {
            core.emc(&parts, keys, place, view, table, found, &mut pending, now);
        }
        found.emc = before & !pending.packets;
        let rest = lead..usize::MAX;
        probes += core.masks(
            &parts,
            keys,
            place,
            view,
            table,
            found,
            &mut pending,
            now,
            rest,
        );
        let hits = (all & !pending.packets).count_ones();
        let emc_hits = found.emc.count_ones();
        counters.lookups.probes.add(probes);
        counters.lookups.emc_hits.add(emc_hits.into());
        counters.lookups.megaflow_hits.add((hits - emc_hits).into());
        found.mask = all & !pending.packets & !found.emc;
        core.budget
            .known(count as u32 - pending.packets.count_ones());
        if pending.packets != 0 {
            core.upcalls(
                &parts, keys, lens, place, view, table, found, pending, counters, now,
            );
        }
        count_burst(&parts, found, lens, count, now);
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
        if now >= self.core.sweep.next {
            self.sweep(snapshot, now);
        }
    }

    #[inline(never)]
    fn sweep(&mut self, snapshot: &Snapshot, now: u64) {
        let Self { table, core } = self;
        core.sweep.next = now + core.sweep.slice_cycles;
        let parts = table.parts();
        let end = table.high_water.load(Ordering::Relaxed) as usize;
        let flush = table.flush.load(Ordering::Acquire);
        if flush && table.holds.load(Ordering::SeqCst) > 0 {
            return;
        }
        let slice = match flush {
            true => end,
            false => end / core.sweep.slices_per_pass + 8,
        };
        if flush || core.sweep.at >= end {
            core.sweep.at = 0;
        }
        for at in core.sweep.at..(core.sweep.at + slice).min(end) {
            let entry = &parts.entries[at];
            let meta = Meta::load(entry);
            if meta.mask == 0 {
                continue;
            }
            let bridge = (entry[0].load(Ordering::Relaxed) >> 48) as u16;
            let view = snapshot.bridges.iter().find(|view| view.id == bridge);
            let idle = used_now(now).wrapping_sub(meta.used);
            let goes = flush
                || idle > core.sweep.max_idle
                || match view {
                    None => true,
                    Some(view) => {
                        meta.version != view.pipeline.version() as u16
                            && !core.is_current(entry, meta, view)
                    }
                };
            if goes {
                // With a reader at work it goes the next time.
                move_counts(table, || core.evict(table, &parts, at as u32, view, now));
            }
        }
        core.sweep.at += slice;
        if flush {
            table.flush.store(false, Ordering::Release);
        }
        if let Some(left) = core.sweep.tidy_in.checked_sub(1) {
            core.sweep.tidy_in = left;
            return;
        }
        core.sweep.tidy_in = 100;
        for masks in core
            .bridges
            .iter_mut()
            .filter(|masks| masks.order().len() > 1)
        {
            masks.tidy(&mut core.pool);
        }
    }
}

/// Packets of a burst without a verdict, as bits.
#[derive(Clone, Copy)]
struct Pending {
    packets: u32,
    /// Of these, those that had a megaflow which a change of rules touched.
    stale: u32,
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

/// The port that a burst came from.
#[inline(always)]
fn port_of(keys: &[PacketKey; BURST]) -> u16 {
    (keys[0].0[0] >> 32) as u16
}

#[inline(always)]
fn used_now(now: u64) -> u16 {
    (now >> USED_SHIFT) as u16
}

#[inline(always)]
fn count(entry: &Entry, packets: u32, bytes: u64, now: u64) {
    let add = |at: usize, n: u64| {
        let sum = entry[at].load(Ordering::Relaxed) + n;
        entry[at].store(sum, Ordering::Relaxed);
    };
    add(table::PACKETS, packets.into());
    add(table::BYTES, bytes);
    let meta = Meta::load(entry);
    let used = used_now(now);
    if meta.used != used {
        Meta { used, ..meta }.store(entry);
    }
}

/// Counts a burst: packets of one megaflow in a row at once.
#[inline(always)]
fn count_burst(parts: &Parts<'_>, found: &Found, lens: &[u32; BURST], packets: usize, now: u64) {
    let (mut run, mut run_packets, mut run_bytes) = (NONE, 0, 0u64);
    for (entry, len) in found.entries[..packets].iter().zip(lens) {
        if *entry != run {
            if let Some(entry) = parts.entries.get(run as usize) {
                count(entry, run_packets, run_bytes, now);
            }
            (run, run_packets, run_bytes) = (*entry, 0, 0);
        }
        run_packets += 1;
        run_bytes += u64::from(*len);
    }
    if let Some(entry) = parts.entries.get(run as usize) {
        count(entry, run_packets, run_bytes, now);
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

impl Core {
    /// Looks for hints in the exact-match cache.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn emc(
        &mut self,
        parts: &Parts<'_>,
        keys: &[PacketKey; BURST],
        place: usize,
        view: &BridgeView,
        table: &CacheTable,
        found: &mut Found,
        pending: &mut Pending,
        now: u64,
    ) {
        let mut hashes = [0u32; BURST];
        let mut candidates = [NONE; BURST];
        let union = self.bridges[place].union();
        for i in bits(pending.packets) {
            hashes[i] = union.hash(&keys[i]);
            prefetch(parts.emc_bucket(hashes[i]));
        }
        for i in bits(pending.packets) {
            candidates[i] = find_slot(parts.emc_bucket(hashes[i]), hashes[i]);
            if let Some(entry) = parts.entries.get(candidates[i] as usize) {
                prefetch(entry);
            }
        }
        for i in bits(pending.packets) {
            if let Some(meta) = self.is_of(parts, candidates[i], &keys[i])
                && self.take(
                    parts,
                    candidates[i],
                    meta,
                    i,
                    view,
                    table,
                    found,
                    pending,
                    now,
                )
            {
                self.pool.get_mut(meta.mask).hits += 1;
            }
        }
    }

    /// Tries some of the masks, one after the other, each on all packets without
    /// a verdict. Returns how many probes that took.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn masks(
        &mut self,
        parts: &Parts<'_>,
        keys: &[PacketKey; BURST],
        place: usize,
        view: &BridgeView,
        table: &CacheTable,
        found: &mut Found,
        pending: &mut Pending,
        now: u64,
        rounds: Range<usize>,
    ) -> u64 {
        let mut probes = 0;
        let mut round = rounds.start;
        // By index: taking a packet may take a stale mask out of the order.
        let mut tail_begin = None;
        while let Some(number) = self.bridges[place].order().get(round).copied() {
            let packets = pending.packets & !pending.stale;
            if packets == 0 || round >= rounds.end {
                break;
            }
            if round == FREE_ROUNDS {
                if !self.budget.allows(port_of(keys)) {
                    break;
                }
                tail_begin = Some(tsc());
            }
            round += 1;
            let mut hashes = [0u32; BURST];
            let mut candidates = [NONE; BURST];
            let mask = self.pool.get(number);
            for i in bits(packets) {
                hashes[i] = mask.hash(&keys[i]);
                prefetch(parts.buckets(hashes[i])[0]);
                probes += 1;
            }
            for i in bits(packets) {
                candidates[i] = self.find_candidate(parts, hashes[i]);
                if let Some(entry) = parts.entries.get(candidates[i] as usize) {
                    prefetch(entry);
                }
            }
            let mut hits = 0;
            for i in bits(packets) {
                if candidates[i] == NONE {
                    continue;
                }
                let meta = match self.is_of(parts, candidates[i], &keys[i]) {
                    Some(meta) => meta,
                    // Two keys with one hash: look at the others under it.
                    None => match self.probe(parts, hashes[i], &keys[i]) {
                        Some(entry) => {
                            candidates[i] = entry;
                            Meta::load(&parts.entries[entry as usize])
                        }
                        None => continue,
                    },
                };
                if self.take(
                    parts,
                    candidates[i],
                    meta,
                    i,
                    view,
                    table,
                    found,
                    pending,
                    now,
                ) {
                    hits += 1;
                    if round > 1 {
                        let union = self.bridges[place].union();
                        remember(parts, union.hash(&keys[i]), candidates[i]);
                    }
                }
            }
            self.pool.get_mut(number).hits += hits;
        }
        if let Some(begin) = tail_begin {
            self.budget
                .spend(port_of(keys), tsc().saturating_sub(begin));
        }
        probes
    }

    /// An entry under this hash, which may be another key's.
    #[inline(always)]
    fn find_candidate(&self, parts: &Parts<'_>, hash: u32) -> u32 {
        let [first, second] = parts.buckets(hash);
        match find_slot(first, hash) {
            NONE if self.overflowed > 0 => find_slot(second, hash),
            entry => entry,
        }
    }

    /// The entry under this hash that the key belongs to.
    fn probe(&self, parts: &Parts<'_>, hash: u32, key: &PacketKey) -> Option<u32> {
        let slots = parts.buckets(hash).into_iter().flatten();
        let entries = slots.filter_map(|slot| {
            let slot = slot.load(Ordering::Relaxed);
            (slot as u32 != 0 && (slot >> 32) as u32 == hash).then(|| slot as u32 - 1)
        });
        let mut entries = entries.filter(|entry| self.is_of(parts, *entry, key).is_some());
        entries.next()
    }

    /// Whether a key belongs to an entry's megaflow.
    #[inline(always)]
    fn is_of(&self, parts: &Parts<'_>, entry: u32, key: &PacketKey) -> Option<Meta> {
        let entry = parts.entries.get(entry as usize)?;
        let meta = Meta::load(entry);
        if meta.mask == 0 {
            return None;
        }
        let mask = self.pool.get(meta.mask);
        let differ =
            |i: usize| (entry[key_word(i)].load(Ordering::Relaxed) ^ key.0[i]) & mask.bits.0[i];
        let mut bits = (0..table::HOT).fold(0, |bits, i| bits | differ(i));
        if mask.cold {
            bits = (table::HOT..key.0.len()).fold(bits, |bits, i| bits | differ(i));
        }
        (bits == 0).then_some(meta)
    }

    /// Packet `i` belongs to `entry`. False: its verdict has to be found anew.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn take(
        &mut self,
        parts: &Parts<'_>,
        entry: u32,
        meta: Meta,
        i: usize,
        view: &BridgeView,
        table: &CacheTable,
        found: &mut Found,
        pending: &mut Pending,
        now: u64,
    ) -> bool {
        if meta.version != view.pipeline.version() as u16
            && !self.is_current(&parts.entries[entry as usize], meta, view)
        {
            pending.stale |= 1 << i;
            move_counts(table, || self.evict(table, parts, entry, Some(view), now));
            return false;
        }
        pending.packets &= !(1 << i);
        found.entries[i] = entry;
        found.verdicts[i] = Verdict::decode(meta.verdict, entry);
        true
    }

    /// Whether a megaflow's verdict is what the rules say now; notes it if so.
    #[inline(never)]
    fn is_current(&self, entry: &Entry, meta: Meta, view: &BridgeView) -> bool {
        let version = view.pipeline.version();
        let mask = &self.pool.get(meta.mask).bits.0;
        let (key, dependencies) = (table::key(entry).0, dependencies(entry));
        if view
            .pipeline
            .is_stale(made(entry), &dependencies, &key, mask)
        {
            return false;
        }
        table::set_made(entry, version);
        Meta {
            version: version as u16,
            ..meta
        }
        .store(entry);
        true
    }

    /// Translates the packets that no megaflow was found for.
    #[inline(never)]
    #[allow(clippy::too_many_arguments)]
    fn upcalls(
        &mut self,
        parts: &Parts<'_>,
        keys: &[PacketKey; BURST],
        lens: &[u32; BURST],
        place: usize,
        view: &BridgeView,
        table: &CacheTable,
        found: &mut Found,
        mut pending: Pending,
        counters: &PmdCounterCells,
        mut now: u64,
    ) {
        let mut installed = ArrayVec::<u32, BURST>::new();
        for i in bits(pending.packets) {
            // A packet before it may have been of the same flow.
            if self.find_installed(
                parts,
                &keys[i],
                &installed,
                i,
                view,
                table,
                found,
                &mut pending,
                now,
            ) {
                counters.lookups.megaflow_hits.add(1);
                continue;
            }
            if pending.stale >> i & 1 == 0 && !self.budget.allows(port_of(keys)) {
                found.verdicts[i] = Verdict::Lost;
                counters.lookups.lost.add(1);
                continue;
            }
            counters.lookups.missed.add(1);
            let translation = &mut *self.translation;
            translate(
                &view.pipeline,
                &keys[i],
                Start::Tables,
                translation,
                &mut Untraced,
            );
            match self.install(table, parts, &keys[i], place, now) {
                Some(entry) => {
                    installed.push(entry);
                    found.entries[i] = entry;
                    found.verdicts[i] = Verdict::of(&self.translation.program, entry);
                }
                None => {
                    counters.lookups.not_installed.add(1);
                    found.verdicts[i] = self.keep_loose(parts);
                    let counts = Counts {
                        packets: 1,
                        bytes: lens[i].into(),
                        used_ms: self.clock.ms_at(now),
                    };
                    for id in &self.translation.counted {
                        if let Some(cell) = view.stats.cell(*id) {
                            cell.add(counts);
                        }
                    }
                }
            }
            let after = tsc();
            self.budget.spend(port_of(keys), after.saturating_sub(now));
            now = after;
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn find_installed(
        &mut self,
        parts: &Parts<'_>,
        key: &PacketKey,
        installed: &[u32],
        i: usize,
        view: &BridgeView,
        table: &CacheTable,
        found: &mut Found,
        pending: &mut Pending,
        now: u64,
    ) -> bool {
        let mut installed = installed.iter();
        let entry = installed.find(|entry| self.is_of(parts, **entry, key).is_some());
        let Some(entry) = entry.copied() else {
            return false;
        };
        let meta = Meta::load(&parts.entries[entry as usize]);
        self.take(parts, entry, meta, i, view, table, found, pending, now)
    }

    /// Makes a megaflow of the translation. `None`: there is no room for it.
    fn install(
        &mut self,
        table: &CacheTable,
        parts: &Parts<'_>,
        key: &PacketKey,
        place: usize,
        now: u64,
    ) -> Option<u32> {
        let translation = &*self.translation;
        let (program, counted) = (translation.program.words(), &translation.counted);
        let needed = 1 + blocks_needed(program.len(), counted.len());
        let used = table.shape.blocks() - self.free.len();
        // A reader wants to see counts where they are: nothing new meanwhile,
        // for what is there already might be stale and stay.
        if used + needed > table.shape.limit || table.holds.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let (number, new) = self.bridges[place].find_or_add(&mut self.pool, &translation.mask)?;
        if new {
            parts.set_mask(number, &self.pool.get(number).bits);
            table.masks.store(self.pool.len() as u64, Ordering::Relaxed);
        }
        let mask = self.pool.get_mut(number);
        let hash = mask.hash(key);
        let masked = key.masked(&mask.bits);
        mask.uses += 1;
        let [first, second] = parts.buckets(hash);
        let slot = match (free_slot(first), free_slot(second)) {
            (Some(slot), _) => slot,
            (None, Some(slot)) => {
                self.overflowed += 1;
                slot
            }
            (None, None) => {
                self.let_go(parts, table, place, number);
                return None;
            }
        };
        let entry_number = self.free.pop()?;
        let entry = &parts.entries[entry_number as usize];
        begin(entry);
        let translation = &*self.translation;
        let made = translation.version;
        let sizes = (program_len(translation), translation.counted.len());
        write_facts(entry, &masked, &translation.dependencies, sizes, made, hash);
        write_loose(&mut self.free, parts, entry, translation);
        Meta {
            used: used_now(now),
            version: made as u16,
            mask: number,
            verdict: Verdict::of(&translation.program, entry_number).code(),
        }
        .store(entry);
        publish(entry);
        slot.store(
            u64::from(hash) << 32 | u64::from(entry_number + 1),
            Ordering::Relaxed,
        );
        let flows = table.flows.load(Ordering::Relaxed);
        table.flows.store(flows + 1, Ordering::Relaxed);
        if table.high_water.load(Ordering::Relaxed) <= entry_number.into() {
            table
                .high_water
                .store(u64::from(entry_number) + 1, Ordering::Relaxed);
        }
        Some(entry_number)
    }

    /// Keeps the translation's program until the end of the burst.
    fn keep_loose(&mut self, parts: &Parts<'_>) -> Verdict {
        let translation = &*self.translation;
        let verdict = Verdict::of(&translation.program, NONE);
        if verdict != Verdict::Program(NONE) {
            return verdict;
        }
        let Some(number) = self.free.pop() else {
            return Verdict::Lost;
        };
        let entry = &parts.entries[number as usize];
        let none = Default::default();
        write_facts(
            entry,
            &PacketKey::default(),
            &none,
            (program_len(translation), 0),
            0,
            0,
        );
        write_loose(&mut self.free, parts, entry, translation);
        self.loose.push(number);
        Verdict::Program(number)
    }

    /// Takes a megaflow away; its counts go to the rules that made it.
    /// Only within [`move_counts`].
    fn evict(
        &mut self,
        table: &CacheTable,
        parts: &Parts<'_>,
        number: u32,
        view: Option<&BridgeView>,
        now: u64,
    ) {
        let entry = &parts.entries[number as usize];
        let meta = Meta::load(entry);
        let hash = table::hash(entry);
        let slot = u64::from(hash) << 32 | u64::from(number + 1);
        let buckets = parts.buckets(hash);
        for (nth, bucket) in buckets.into_iter().enumerate() {
            let mut slots = bucket.iter();
            if let Some(word) = slots.find(|word| word.load(Ordering::Relaxed) == slot) {
                word.store(0, Ordering::Relaxed);
                self.overflowed -= nth as u32;
                break;
            }
        }
        begin(entry);
        if let Some(view) = view {
            let idle = u64::from(used_now(now).wrapping_sub(meta.used)) << USED_SHIFT;
            let counts = Counts {
                packets: entry[table::PACKETS].load(Ordering::Relaxed),
                bytes: entry[table::BYTES].load(Ordering::Relaxed),
                used_ms: self.clock.ms_at(now.saturating_sub(idle)),
            };
            if counts.packets > 0 {
                for id in parts.verdict(entry).counted() {
                    if let Some(cell) = view.stats.cell(id) {
                        cell.add_if(counts, made(entry));
                    }
                }
            }
        }
        let place = usize::from((entry[0].load(Ordering::Relaxed) >> 48) as u16) % BRIDGES;
        self.let_go(parts, table, place, meta.mask);
        self.free_blocks(parts, number);
        release(entry);
        let flows = table.flows.load(Ordering::Relaxed);
        table
            .flows
            .store(flows.saturating_sub(1), Ordering::Relaxed);
    }

    fn let_go(&mut self, parts: &Parts<'_>, table: &CacheTable, place: usize, mask: u16) {
        let _ = parts;
        if self.pool.let_go(mask) {
            self.bridges[place].remove(mask);
            table.masks.store(self.pool.len() as u64, Ordering::Relaxed);
        }
    }

    /// The entry and its blocks are free.
    fn free_blocks(&mut self, parts: &Parts<'_>, number: u32) {
        let entry = &parts.entries[number as usize];
        for_each_block(parts, entry, |block| self.free.push(block));
        self.free.push(number);
    }
}

fn program_len(translation: &Translation) -> usize {
    translation.program.words().len()
}

/// Writes a translation's payload into an entry, with as many blocks as it needs.
fn write_loose(free: &mut Vec<u32>, parts: &Parts<'_>, entry: &Entry, translation: &Translation) {
    let (program, counted) = (translation.program.words(), &translation.counted);
    let needed = blocks_needed(program.len(), counted.len());
    let at = free.len().saturating_sub(needed);
    write_payload(parts, entry, &free[at..], program, counted);
    free.truncate(at);
}

/// The first entry in a bucket under this hash.
#[inline(always)]
fn find_slot(bucket: &Bucket, hash: u32) -> u32 {
    let mut found = 0;
    for slot in bucket {
        let slot = slot.load(Ordering::Relaxed);
        if (slot >> 32) as u32 == hash {
            found = slot as u32;
        }
    }
    found.wrapping_sub(1)
}

fn free_slot(bucket: &Bucket) -> Option<&std::sync::atomic::AtomicU64> {
    bucket.iter().find(|slot| slot.load(Ordering::Relaxed) == 0)
}

/// Leaves a hint in the exact-match cache, in place of another if it must be.
fn remember(parts: &Parts<'_>, hash: u32, entry: u32) {
    let bucket = parts.emc_bucket(hash);
    let same = |slot: u64| (slot >> 32) as u32 == hash;
    let slots = bucket.iter().map(|slot| slot.load(Ordering::Relaxed));
    let at = slots
        .clone()
        .position(same)
        .or_else(|| slots.clone().position(|slot| slot == 0));
    // Which one goes is as good as random: the hash's upper bits.
    let at = at.unwrap_or(hash as usize >> 29);
    let hint = u64::from(hash) << 32 | u64::from(entry + 1);
    bucket[at % bucket.len()].store(hint, Ordering::Relaxed);
}
