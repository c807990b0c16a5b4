//! Numbers of statistics cells: given out, and reused when they have rested.

use std::collections::VecDeque;

use crate::stats::{MAX_STATS, StatsId};

/// Milliseconds that a freed cell rests: megaflows that still name it end and
/// cores that are about to add to it have done so.
const REST_MS: u64 = 2_000;

/// Which cells are free.
pub(super) struct Ids {
    /// This one and those above were never given out.
    next: StatsId,
    /// Freed ones and when they have rested, the first to have so first.
    freed: VecDeque<(u64, StatsId)>,
}

impl Ids {
    /// All but the first `used`.
    pub(super) fn new(used: StatsId) -> Self {
        Self {
            next: used,
            freed: VecDeque::new(),
        }
    }

    /// A free one, if there is any.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<StatsId> {
        match self.freed.front() {
            Some((rested_ms, id)) if *rested_ms <= now_ms => {
                let id = *id;
                self.freed.pop_front();
                Some(id)
            }
            _ if (self.next as usize) < MAX_STATS => {
                self.next += 1;
                Some(self.next - 1)
            }
            _ => None,
        }
    }

    /// Gives back one that nobody has seen.
    pub(super) fn untake(&mut self, id: StatsId) {
        self.freed.push_front((0, id));
    }

    /// Frees one.
    pub(super) fn free(&mut self, id: StatsId, now_ms: u64) {
        let rested_ms = now_ms.saturating_add(REST_MS);
        self.freed.push_back((rested_ms, id));
    }

    /// How many are in use.
    pub(super) fn used(&self) -> usize {
        self.next as usize - self.freed.len()
    }

    /// Bytes that the list takes.
    pub(super) fn memory(&self) -> usize {
        self.freed.capacity() * size_of::<(u64, StatsId)>()
    }

    /// As if all but `left` were in use.
    #[cfg(test)]
    pub(super) fn leave(&mut self, left: u32) {
        self.next = MAX_STATS as StatsId - left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_one_rests() {
        let mut ids = Ids::new(10);
        assert_eq!(ids.take(0), Some(10));
        ids.free(10, 5_000);
        assert_eq!(ids.take(6_999), Some(11));
        assert_eq!(ids.take(7_000), Some(10));
        assert_eq!(ids.take(7_000), Some(12));
        ids.free(11, 8_000);
        ids.untake(12);
        // One that nobody has seen needs no rest.
        assert_eq!(ids.take(0), Some(12));
        assert_eq!(ids.take(9_999), Some(13));
        assert_eq!(ids.used(), 13);
        ids.leave(1);
        assert!(ids.take(9_999).is_some());
        assert_eq!(ids.take(9_999), None);
        assert_eq!(ids.take(10_000), Some(11));
    }
}
