//! Finding the megaflows of a burst: the exact-match cache and the masks, each
//! for all packets at once, so that their cache lines come together.

use std::ops::Range;
use std::sync::atomic::Ordering;

use ringway_flow::key::PacketKey;
use ringway_vhost::BURST;

use super::table::{self, Bucket, Entry, Meta, Parts, dependencies, key_word, made};
use super::verdict::{Found, NONE, Verdict};
use super::{Core, Work, bits, move_counts};
use crate::cpu::{prefetch, tsc};
use crate::snapshot::BridgeView;

/// Masks that are tried in any case. What it takes to try more is paid out of
/// the budget for misses: with none left, a packet that is in none of the most
/// successful masks, nor known to the exact-match cache, is not looked for any
/// longer. So made-up headers cost no more than this, however many there are.
const FREE_ROUNDS: usize = 8;

impl Core {
    /// Looks for hints in the exact-match cache.
    #[inline(always)]
    pub(super) fn emc(&mut self, work: &Work<'_>, found: &mut Found) {
        let Work { parts, keys, .. } = work;
        let mut hashes = [0u32; BURST];
        let mut candidates = [NONE; BURST];
        let union = self.bridges[work.place].union();
        for i in bits(found.pending) {
            hashes[i] = union.hash(&keys[i]);
            prefetch(parts.emc_bucket(hashes[i]));
        }
        for i in bits(found.pending) {
            candidates[i] = find_slot(parts.emc_bucket(hashes[i]), hashes[i]);
            if let Some(entry) = parts.entries.get(candidates[i] as usize) {
                prefetch(entry);
            }
        }
        for i in bits(found.pending) {
            if let Some(meta) = self.is_of(parts, candidates[i], &keys[i])
                && self.take(work, candidates[i], meta, i, found)
            {
                self.pool.get_mut(meta.mask).hits += 1;
            }
        }
    }

    /// Tries some of the masks, one after the other, each on all packets without
    /// a verdict. Returns how many probes that took.
    #[inline(always)]
    pub(super) fn masks(
        &mut self,
        work: &Work<'_>,
        found: &mut Found,
        rounds: Range<usize>,
    ) -> u64 {
        let Work { parts, keys, .. } = work;
        let mut probes = 0;
        let mut round = rounds.start;
        // By index: taking a packet may take a stale mask out of the order.
        let mut tail_begin = None;
        while let Some(number) = self.bridges[work.place].order().get(round).copied() {
            let packets = found.pending & !found.stale;
            if packets == 0 || round >= rounds.end {
                break;
            }
            if round == FREE_ROUNDS {
                if !self.budget.allows(work.port()) {
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
                if self.take(work, candidates[i], meta, i, found) {
                    hits += 1;
                    if round > 1 {
                        let union = self.bridges[work.place].union();
                        remember(parts, union.hash(&keys[i]), candidates[i]);
                    }
                }
            }
            self.pool.get_mut(number).hits += hits;
        }
        if let Some(begin) = tail_begin {
            self.budget.spend(work.port(), tsc().saturating_sub(begin));
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
    pub(super) fn probe(&self, parts: &Parts<'_>, hash: u32, key: &PacketKey) -> Option<u32> {
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
    pub(super) fn is_of(&self, parts: &Parts<'_>, entry: u32, key: &PacketKey) -> Option<Meta> {
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
    pub(super) fn take(
        &mut self,
        work: &Work<'_>,
        entry: u32,
        meta: Meta,
        i: usize,
        found: &mut Found,
    ) -> bool {
        if meta.version != work.view.pipeline.version() as u16
            && !self.is_current(&work.parts.entries[entry as usize], meta, work.view)
        {
            found.stale |= 1 << i;
            let Work {
                table,
                parts,
                view,
                now,
                ..
            } = *work;
            move_counts(table, || self.evict(table, &parts, entry, Some(view), now));
            return false;
        }
        found.pending &= !(1 << i);
        found.entries[i] = entry;
        found.verdicts[i] = Verdict::decode(meta.verdict, entry);
        true
    }

    /// Whether a megaflow's verdict is what the rules say now; notes it if so.
    #[inline(never)]
    pub(super) fn is_current(&self, entry: &Entry, meta: Meta, view: &BridgeView) -> bool {
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
