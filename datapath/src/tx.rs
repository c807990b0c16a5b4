//! Stage 5: to the destination ports, one burst per port. Every packet of
//! every list ends in a counter: transmitted, or dropped under its reason.

use arrayvec::ArrayVec;
use ringway_vhost::{BURST, Enqueued, Packets, Ring};

use crate::action::TxLists;
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::offload;
use crate::parse::flow_hash;
use crate::snapshot::{Output, PortView, Snapshot};

/// Delivers what packets of a bridge are listed, and empties the lists.
#[inline(always)]
pub fn flush(
    lists: &mut TxLists,
    packets: &mut Packets<'_>,
    snapshot: &Snapshot,
    bridge: u16,
    pmd: usize,
    own: &PmdCounterCells,
) {
    while let Some((number, list)) = lists.pop() {
        let port = snapshot.port(number);
        let Some(port) = port.filter(|port| port.bridge_id == bridge) else {
            // Learned on a port that is just being removed, or a rule names a
            // number that no port of this bridge has.
            own.dropped
                .add(DropReason::NoDestination, list.len() as u64);
            continue;
        };
        let counters = |queue: u16| port.counters.of(pmd, usize::from(queue));
        match &port.output {
            #[cfg(test)]
            Output::Sink(frames) => {
                let mut frames = crate::actual::lock(frames);
                for index in &list {
                    let index = usize::from(*index);
                    let mut frame = vec![0; packets.frame_len(index)];
                    assert!(packets.copy_frame(index, &mut frame));
                    frames.push(frame);
                }
                own.sent(counters(0), list.len() as u32, 0);
            }
            Output::Patch(peer) => lists.cross(*peer, packets, list, counters(0), own),
            Output::Nic(nic) => nic.transmit(pmd, packets, &list, counters(0), own),
            Output::Guest(rings) => match rings.as_slice() {
                [(queue, ring)] => {
                    let limit = port.max_frame;
                    to_ring(ring, limit, packets, &list, counters(*queue), own);
                }
                [] => own.drop_tx(counters(0), DropReason::RingStopped, list.len() as u32),
                rings => spread(port, rings, packets, &list, pmd, own),
            },
        }
    }
}

/// To one receive ring of a guest, frames of at most `limit` bytes.
#[inline(always)]
fn to_ring(
    ring: &Ring,
    limit: u32,
    packets: &mut Packets<'_>,
    list: &[u8],
    counters: &QueueCounters,
    own: &PmdCounterCells,
) {
    // Two flags of the burst; most have neither.
    if packets.any_gso() || packets.longest() > limit {
        return offload::to_ring(ring, limit, packets, list, counters, own);
    }
    if packets.any_partial_checksum() && !ring.features().guest_csum {
        for packet in list {
            packets.complete_checksum(usize::from(*packet));
        }
    }
    let enqueued = ring.enqueue(packets, list);
    count(&enqueued, list.len(), counters, own);
}

/// Counts what came of an enqueue of `listed` packets.
#[inline(always)]
pub fn count(enqueued: &Enqueued, listed: usize, counters: &QueueCounters, own: &PmdCounterCells) {
    own.sent(counters, enqueued.delivered, enqueued.bytes);
    if enqueued.notified {
        counters.tx_notifications.add(1);
    }
    if enqueued.delivered as usize != listed {
        own.drop_tx(counters, DropReason::RingFull, enqueued.ring_full);
        own.drop_tx(counters, DropReason::BufferTooSmall, enqueued.too_small);
        own.drop_tx(counters, DropReason::RingContended, enqueued.contended);
        own.drop_tx(counters, DropReason::DestinationFault, enqueued.faulted);
        own.drop_tx(counters, DropReason::MemoryLost, enqueued.lost);
    }
}

/// Over several receive rings: the flow's hash, of the packet as it goes out, picks
/// the ring, so the order within a flow is kept.
#[inline(never)]
fn spread(
    port: &PortView,
    rings: &[(u16, std::sync::Arc<Ring>)],
    packets: &mut Packets<'_>,
    list: &[u8],
    pmd: usize,
    own: &PmdCounterCells,
) {
    let picks: ArrayVec<(u8, u64), BURST> = list
        .iter()
        .map(|packet| {
            let index = usize::from(*packet);
            let hash = flow_hash(packets.head_slot(index), packets.head(index).len());
            // Multiply and shift: as even as a division, and cheaper.
            (*packet, (u64::from(hash) * rings.len() as u64) >> 32)
        })
        .collect();
    for ((queue, ring), nth) in rings.iter().zip(0..) {
        let share: ArrayVec<u8, BURST> = picks
            .iter()
            .filter(|(_, pick)| *pick == nth)
            .map(|(packet, _)| *packet)
            .collect();
        if !share.is_empty() {
            let counters = port.counters.of(pmd, usize::from(*queue));
            to_ring(ring, port.max_frame, packets, &share, counters, own);
        }
    }
}
