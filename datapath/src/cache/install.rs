//! A miss: translated within its budget, made a megaflow; and how megaflows go.

use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use ringway_flow::key::PacketKey;
use ringway_flow::stats::Counts;
use ringway_flow::translate::{Start, Translation, Untraced, translate};
use ringway_vhost::BURST;

use super::conversations::name_way;
use super::table::{
    self, Bucket, CacheTable, Entry, Meta, NORMAL_APART, Parts, begin, blocks_needed,
    for_each_block, made, publish, release, write_facts, write_payload,
};
use super::verdict::{Found, NONE, Verdict};
use super::{BRIDGES, Core, USED_SHIFT, Work, bits, used_now};
use crate::counters::PmdCounterCells;
use crate::cpu::tsc;
use crate::snapshot::{BridgeView, MAX_PORTS};

impl Core {
    /// Translates the packets that no megaflow was found for.
    #[inline(never)]
    pub(super) fn upcalls(
        &mut self,
        work: &Work<'_>,
        lens: &[u32; BURST],
        found: &mut Found,
        counters: &PmdCounterCells,
    ) {
        let Work {
            parts,
            table,
            view,
            keys,
            mut now,
            ..
        } = *work;
        let mut installed = ArrayVec::<u32, BURST>::new();
        for i in bits(found.pending) {
            // A packet before it may have been of the same flow.
            if self.find_installed(work, &installed, i, found) {
                counters.lookups.megaflow_hits.add(1);
                continue;
            }
            if found.stale >> i & 1 == 0 && !self.budget.allows(work.port()) {
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
            match self.install(table, &parts, &keys[i], work.place, now) {
                Some(entry) => {
                    installed.push(entry);
                    found.entries[i] = entry;
                    found.verdicts[i] = Verdict::of(&self.translation.program, entry);
                }
                None => {
                    counters.lookups.not_installed.add(1);
                    found.verdicts[i] = self.keep_loose(&parts);
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
            self.budget.spend(work.port(), after.saturating_sub(now));
            now = after;
        }
    }

    /// See [`super::FlowCache::prepare`].
    pub(super) fn prepare(
        &mut self,
        table: &CacheTable,
        view: &BridgeView,
        key: &PacketKey,
        place: usize,
        now: u64,
    ) {
        let translation = &mut *self.translation;
        translate(
            &view.pipeline,
            key,
            Start::Tables,
            translation,
            &mut Untraced,
        );
        // Without room it comes as a miss.
        let _ = self.install(table, &table.parts(), key, place, now);
    }

    /// Whether packet `i` belongs to one of the megaflows that its burst has
    /// just installed.
    fn find_installed(
        &mut self,
        work: &Work<'_>,
        installed: &[u32],
        i: usize,
        found: &mut Found,
    ) -> bool {
        let Work { parts, keys, .. } = work;
        let mut installed = installed.iter();
        let entry = installed.find(|entry| self.is_of(parts, **entry, &keys[i]).is_some());
        let Some(entry) = entry.copied() else {
            return false;
        };
        let meta = Meta::load(&parts.entries[entry as usize]);
        self.take(work, entry, meta, i, found)
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
        let port = usize::from((key.0[0] >> 32) as u16) % MAX_PORTS;
        if used + needed > self.owners.room(port, table.shape.limit)
            || table.holds.load(Ordering::Relaxed) > 0
        {
            return None;
        }
        let (number, new) = self.bridges[place].find_or_add(&mut self.pool, &translation.mask)?;
        if new {
            parts.set_mask(number, &self.pool.get(number).bits);
            table.masks.store(self.pool.len() as u64, Ordering::Relaxed);
        }
        let mask = self.pool.get_mut(number);
        let hash = mask.hash(key);
        let (masked, mask_bits) = (key.masked(&mask.bits), mask.bits);
        mask.uses += 1;
        let [first, second] = parts.buckets(hash);
        let slot = match (free_slot(first), free_slot(second)) {
            (Some(slot), _) => slot,
            (None, Some(slot)) => {
                self.overflowed += 1;
                slot
            }
            (None, None) => {
                self.let_go(table, place, number);
                return None;
            }
        };
        let entry_number = self.free.pop()?;
        self.owners.install(entry_number, port);
        let entry = &parts.entries[entry_number as usize];
        begin(entry);
        let translation = &*self.translation;
        let made = translation.version;
        let sizes = (program_len(translation), translation.counted.len());
        write_facts(entry, &masked, &translation.dependencies, sizes, made, hash);
        write_verdict(&mut self.free, parts, entry, translation);
        let verdict = match Verdict::of(&translation.program, entry_number) {
            Verdict::Normal if !name_way(&masked, &mask_bits) => NORMAL_APART,
            verdict => verdict.code(),
        };
        Meta {
            used: used_now(now),
            version: made as u16,
            mask: number,
            verdict,
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
        write_verdict(&mut self.free, parts, entry, translation);
        self.loose.push(number);
        Verdict::Program(number)
    }

    /// Takes a megaflow away; its counts go to the rules that made it.
    /// Only within [`move_counts`].
    pub(super) fn evict(
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
        self.end_conversations(parts, number);
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
        self.let_go(table, place, meta.mask);
        self.owners.evict(number);
        self.free_blocks(parts, number);
        release(entry);
        let flows = table.flows.load(Ordering::Relaxed);
        table
            .flows
            .store(flows.saturating_sub(1), Ordering::Relaxed);
    }

    fn let_go(&mut self, table: &CacheTable, place: usize, mask: u16) {
        if self.pool.let_go(mask) {
            self.bridges[place].remove(mask);
            table.masks.store(self.pool.len() as u64, Ordering::Relaxed);
        }
    }

    /// The entry and its blocks are free.
    pub(super) fn free_blocks(&mut self, parts: &Parts<'_>, number: u32) {
        let entry = &parts.entries[number as usize];
        for_each_block(parts, entry, |block| self.free.push(block));
        self.free.push(number);
    }
}

fn program_len(translation: &Translation) -> usize {
    translation.program.words().len()
}

/// Writes a translation's payload into an entry, with as many blocks as it needs.
fn write_verdict(free: &mut Vec<u32>, parts: &Parts<'_>, entry: &Entry, translation: &Translation) {
    let (program, counted) = (translation.program.words(), &translation.counted);
    let needed = blocks_needed(program.len(), counted.len());
    let at = free.len().saturating_sub(needed);
    write_payload(parts, entry, &free[at..], program, counted);
    free.truncate(at);
}

fn free_slot(bucket: &Bucket) -> Option<&AtomicU64> {
    bucket.iter().find(|slot| slot.load(Ordering::Relaxed) == 0)
}
