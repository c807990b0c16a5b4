//! To rings: bursts with oversized frames, or with frames that may be longer
//! than the taker's MTU. Each frame goes as it is, cut, or not at all.
//!
//! Segments count as what they are: frames that were sent or dropped. Those
//! beyond a frame's first count as replicated, so that what came in and was
//! replicated is what went out and was dropped.

use arrayvec::ArrayVec;
use ringway_vhost::{BURST, Cut, GsoKinds, Next, Offer, Packets, Ring, Taker};

use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::tx;

/// What is enqueued next.
#[derive(Default)]
struct Portion {
    /// Indexes of packets, in the order of the burst.
    packets: ArrayVec<u8, BURST>,
    /// Which frame of the burst each is (of).
    frames: ArrayVec<u8, BURST>,
}

struct ToRing<'a> {
    ring: &'a Ring,
    taker: Taker,
    counters: &'a QueueCounters,
    own: &'a PmdCounterCells,
    portion: Portion,
    /// The ring had no buffers left: what comes behind need not be cut.
    is_full: bool,
}

/// As in [`tx`], packet by packet.
#[inline(never)]
pub fn to_ring(
    ring: &Ring,
    limit: u32,
    packets: &mut Packets<'_>,
    list: &[u8],
    counters: &QueueCounters,
    own: &PmdCounterCells,
) {
    let mut to = ToRing {
        ring,
        taker: Taker::of_ring(ring.features(), limit),
        counters,
        own,
        portion: Portion::default(),
        is_full: false,
    };
    to.give(list, packets);
}

impl ToRing<'_> {
    fn give(&mut self, frames: &[u8], packets: &mut Packets<'_>) {
        for frame in frames {
            let index = usize::from(*frame);
            match packets.offer(index, &self.taker) {
                Offer::Whole => {
                    if !self.taker.partial {
                        packets.complete_checksum(index);
                    }
                    self.make_room(packets);
                    self.list(index, *frame);
                }
                Offer::Cut(cut) => self.cut(cut, *frame, packets),
                Offer::TooLong => self.own.drop_tx(self.counters, DropReason::ExceedsMtu, 1),
            }
        }
        self.enqueue(packets);
    }

    fn cut(&mut self, mut cut: Cut, frame: u8, packets: &mut Packets<'_>) {
        self.own.replicated.add(u64::from(cut.count() - 1));
        loop {
            // Before it is made: delivery takes all that were made away.
            self.make_room(packets);
            match packets.next_cut(&mut cut) {
                Next::Packet(index) => self.list(index, frame),
                Next::Full => self.enqueue(packets),
                Next::Done => return,
            }
            if self.is_full {
                let rest = cut.give_up();
                self.own.drop_tx(self.counters, DropReason::RingFull, rest);
            }
        }
    }

    fn make_room(&mut self, packets: &mut Packets<'_>) {
        if self.portion.packets.is_full() {
            self.enqueue(packets);
        }
    }

    fn list(&mut self, packet: usize, frame: u8) {
        self.portion.packets.push(packet as u8);
        self.portion.frames.push(frame);
    }

    /// Delivers what is listed.
    fn enqueue(&mut self, packets: &mut Packets<'_>) {
        let Portion {
            packets: list,
            frames,
        } = std::mem::take(&mut self.portion);
        if list.is_empty() {
            return;
        }
        let mut enqueued = self.ring.enqueue(packets, &list);
        self.is_full = enqueued.ring_full > 0;
        // Of oversized frames that no chain has room for, segments may fit.
        let mut missed: ArrayVec<u8, BURST> = ArrayVec::new();
        if enqueued.too_small_at != 0 {
            for (nth, (packet, frame)) in list.iter().zip(&frames).enumerate() {
                if enqueued.too_small_at >> nth & 1 != 0 && packets.is_gso(usize::from(*packet)) {
                    missed.push(*frame);
                }
            }
        }
        enqueued.too_small -= missed.len() as u32;
        let counted = list.len() - missed.len();
        tx::count(&enqueued, counted, self.counters, self.own);
        packets.clear_cuts();
        if !missed.is_empty() {
            let gso = std::mem::replace(&mut self.taker.gso, GsoKinds::NONE);
            self.give(&missed, packets);
            self.taker.gso = gso;
        }
    }
}

#[cfg(test)]
mod tests;
