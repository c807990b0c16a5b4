//! Patch ports at run time: packets listed for one become a burst from its peer.
//!
//! ```text
//! burst ─▶ bridge ─▶ lists ─▶ rings, nic
//!            ▲          └───▶ crossings
//!            └───────────────────┘          until there is none, then the burst is done
//! ```
//!
//! Nothing is copied: a crossing is a list of packets of the burst. One that
//! waits in a crossing must stay what it is; who wants to rewrite it takes a copy,
//! unless it waits nowhere else.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use ringway_vhost::{BURST, PacketSet, Packets};

use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;

#[cfg(test)]
mod tests;

/// Most patch ports that a packet goes through.
pub const MAX_DEPTH: u8 = 16;
/// Most crossings of a burst's packets, all together. Bridges that are joined in
/// loops multiply what they flood: this is where that ends.
pub const MAX_CROSSINGS: usize = 32 * 1024;
/// Most lists that wait.
const MAX_WAITING: usize = 2 * crate::snapshot::MAX_PORTS;

/// Packets on their way to a peer.
pub struct Crossing {
    /// The patch port that they come in by.
    pub port: u32,
    /// How many patch ports they went through.
    depth: u8,
    pub packets: ArrayVec<u8, BURST>,
}

/// What waits to come in by patch ports, in order.
pub struct Crossings {
    queue: VecDeque<Crossing>,
    /// The depth of what is being dealt with.
    depth: u8,
    /// How many packets of this burst may still cross.
    left: usize,
}

impl Default for Crossings {
    fn default() -> Self {
        Self {
            // It never grows: a core does not allocate.
            queue: VecDeque::with_capacity(MAX_WAITING),
            depth: 0,
            left: MAX_CROSSINGS,
        }
    }
}

impl Crossings {
    /// Whether nothing waits.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Packets that leave by a patch port, whose counters these are, are to come
    /// in by `peer`. False: they go no further.
    pub fn cross(
        &mut self,
        peer: Option<u32>,
        packets: &Packets<'_>,
        list: ArrayVec<u8, BURST>,
        counters: &QueueCounters,
        own: &PmdCounterCells,
    ) -> bool {
        let count = list.len();
        let Some(port) = peer else {
            own.drop_tx(counters, DropReason::NoDestination, count as u32);
            return false;
        };
        if self.depth == MAX_DEPTH || count > self.left || self.queue.len() == MAX_WAITING {
            own.drop_tx(counters, DropReason::PatchTooDeep, count as u32);
            return false;
        }
        self.left -= count;
        // Not transmitted: they are still on their way.
        counters.tx_packets.add(count as u64);
        counters.tx_bytes.add(bytes(packets, &list));
        self.queue.push_back(Crossing {
            port,
            depth: self.depth + 1,
            packets: list,
        });
        true
    }

    /// The next ones. `None`: the burst is done.
    pub fn pop(&mut self) -> Option<Crossing> {
        let next = self.queue.pop_front();
        match &next {
            Some(crossing) => self.depth = crossing.depth,
            None => (self.depth, self.left) = (0, MAX_CROSSINGS),
        }
        next
    }

    /// All packets that wait.
    pub fn waiting(&self) -> PacketSet {
        let mut waiting = PacketSet::default();
        for packet in self.queue.iter().flat_map(|crossing| &crossing.packets) {
            waiting.insert(usize::from(*packet));
        }
        waiting
    }
}

/// Bytes of frames together.
fn bytes(packets: &Packets<'_>, list: &[u8]) -> u64 {
    let lens = list
        .iter()
        .map(|index| packets.frame_len(usize::from(*index)));
    lens.sum::<usize>() as u64
}

/// Which packets of a burst a bridge deals with, in order.
pub trait Which: Copy {
    /// How many, at most [`BURST`].
    fn count(self) -> usize;
    /// Index of the `nth` one.
    fn index(self, nth: usize) -> usize;
    /// All of them.
    fn list(self) -> ArrayVec<u8, BURST>;
    /// Bytes of their frames together, before any of them is changed.
    fn bytes(self, packets: &Packets<'_>) -> u64;
}

/// All that came in: so many.
#[derive(Clone, Copy)]
pub struct All(pub usize);

impl Which for All {
    #[inline(always)]
    fn count(self) -> usize {
        self.0
    }

    #[inline(always)]
    fn index(self, nth: usize) -> usize {
        nth
    }

    #[inline(always)]
    fn list(self) -> ArrayVec<u8, BURST> {
        let mut list: ArrayVec<u8, BURST> = std::array::from_fn(|index| index as u8).into();
        list.truncate(self.0);
        list
    }

    #[inline(always)]
    fn bytes(self, packets: &Packets<'_>) -> u64 {
        packets.bytes()
    }
}

/// Those of a list.
impl Which for &ArrayVec<u8, BURST> {
    #[inline(always)]
    fn count(self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn index(self, nth: usize) -> usize {
        usize::from(self[nth])
    }

    fn list(self) -> ArrayVec<u8, BURST> {
        self.clone()
    }

    #[inline(always)]
    fn bytes(self, packets: &Packets<'_>) -> u64 {
        bytes(packets, self)
    }
}
