//! Looking after the entries, a few at a time: those without packets go, those
//! that a change of rules touches too, and masks are put in order.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::conversations::CONVERSATIONS;
use super::table::{CacheTable, Entry, Meta};
use super::{Core, USED_SHIFT, move_counts, used_now};
use crate::snapshot::{BridgeView, Snapshot};

/// Between two slices.
const SLICE: Duration = Duration::from_millis(1);

/// Slices between two times that masks are put in order.
const TIDY: u32 = 100;

/// Which of some things are looked at next.
#[derive(Default)]
struct Cursor(usize);

impl Cursor {
    /// Those that are due now, of `end`.
    fn slice(&mut self, end: usize, slices: usize, slices_per_pass: usize) -> Range<usize> {
        if self.0 >= end {
            self.0 = 0;
        }
        let begin = self.0;
        self.0 = begin + end * slices / slices_per_pass + 8;
        begin..self.0.min(end)
    }
}

/// Where the sweep is. Every entry is looked at four times within `max_idle`.
pub struct Sweep {
    entries: Cursor,
    conversations: Cursor,
    last: u64,
    slice_cycles: u64,
    slices_per_pass: usize,
    /// In units of `used`.
    max_idle: u16,
    /// Slices until the masks are put in order.
    tidy_in: u32,
}

impl Sweep {
    /// For a counter of `hz` cycles per second.
    pub fn new(hz: u64, max_idle: Duration) -> Self {
        let seconds = max_idle.as_secs_f64();
        let units = (seconds * hz as f64) as u64 >> USED_SHIFT;
        Self {
            entries: Cursor::default(),
            conversations: Cursor::default(),
            last: 0,
            slice_cycles: (SLICE.as_secs_f64() * hz as f64) as u64,
            slices_per_pass: ((seconds / 4.0 / SLICE.as_secs_f64()) as usize).max(1),
            max_idle: u16::try_from(units).unwrap_or(u16::MAX).clamp(1, 62_000),
            tidy_in: 0,
        }
    }

    /// Whether it is time for a slice.
    #[inline(always)]
    pub fn is_due(&self, now: u64) -> bool {
        now.wrapping_sub(self.last) >= self.slice_cycles
    }

    /// The entries of `end` and the conversations that are due now. A core that
    /// slept makes up for the slices that it missed.
    fn slice(&mut self, now: u64, end: usize) -> (Range<usize>, Range<usize>) {
        let missed = now.wrapping_sub(self.last) / self.slice_cycles.max(1);
        let slices = (missed as usize).clamp(1, self.slices_per_pass);
        self.last = now;
        let pass = self.slices_per_pass;
        (
            self.entries.slice(end, slices, pass),
            self.conversations.slice(CONVERSATIONS, slices, pass),
        )
    }
}

impl Core {
    /// Looks after the entries that are due; with a flush asked for, all go.
    #[inline(never)]
    pub(super) fn sweep(&mut self, table: &CacheTable, snapshot: &Snapshot, now: u64) {
        let end = table.high_water.load(Ordering::Relaxed) as usize;
        let flush = table.flush.load(Ordering::Acquire);
        if flush && table.holds.load(Ordering::SeqCst) > 0 {
            return;
        }
        let (slice, conversations) = self.sweep.slice(now, end);
        let parts = table.parts();
        for at in if flush { 0..end } else { slice } {
            let entry = &parts.entries[at];
            let meta = Meta::load(entry);
            if meta.mask == 0 {
                continue;
            }
            let bridge = (entry[0].load(Ordering::Relaxed) >> 48) as u16;
            let view = snapshot.bridges.iter().find(|view| view.id == bridge);
            if flush || !self.stays(entry, meta, view, now) {
                // With a reader at work it goes the next time.
                move_counts(table, || self.evict(table, &parts, at as u32, view, now));
            } else if let Some(view) = view
                && self.rest_is_silent(entry, meta, self.sweep.max_idle, used_now(now))
            {
                move_counts(table, || self.forget_rest(&parts, at as u32, view, now));
            }
        }
        if self.conversations.count > 0 {
            for at in conversations {
                let idle = self.sweep.max_idle;
                let Some(bridge) = self.is_silent(&parts, at, idle, used_now(now)) else {
                    continue;
                };
                let view = snapshot.bridges.iter().find(|view| view.id == bridge);
                move_counts(table, || self.forget(&parts, at, view, now));
            }
        }
        if flush {
            table.flush.store(false, Ordering::Release);
        }
        self.tidy();
    }

    /// Whether an entry has had packets lately, and is as its rules say.
    fn stays(&self, entry: &Entry, meta: Meta, view: Option<&BridgeView>, now: u64) -> bool {
        let idle = used_now(now).wrapping_sub(meta.used);
        let Some(view) = view else {
            return false;
        };
        idle <= self.sweep.max_idle
            && (meta.version == view.pipeline.version() as u16
                || self.is_current(entry, meta, view))
    }

    fn tidy(&mut self) {
        if let Some(left) = self.sweep.tidy_in.checked_sub(1) {
            self.sweep.tidy_in = left;
            return;
        }
        self.sweep.tidy_in = TIDY;
        let bridges = self.bridges.iter_mut();
        for masks in bridges.filter(|masks| masks.order().len() > 1) {
            masks.tidy(&mut self.pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_slept_makes_up_for_it() {
        let mut sweep = Sweep::new(1_000_000_000, Duration::from_secs(10));
        assert!(sweep.is_due(1_000_000) && !sweep.is_due(999_999));
        assert_eq!(sweep.slice(1_000_000, 1_000_000).0, 0..408);
        // 200 ms later it is a fifth of a second's share of 2.5 s.
        let slice = sweep.slice(201_000_000, 1_000_000).0;
        assert_eq!(slice, 408..408 + 80_008);
        // However long it slept, no entry is looked at twice.
        let slice = sweep.slice(1 << 40, 1_000_000).0;
        assert_eq!(slice, 80_416..1_000_000);
        assert_eq!(sweep.slice((1 << 40) + 1, 1_000_000).0, 0..408);
    }
}
