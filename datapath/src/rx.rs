//! Stage 1: a burst from one ring or NIC queue, and its way through the rest.

use std::sync::Arc;

use arrayvec::ArrayVec;
use ringway_flow::extract::extract;
use ringway_flow::key::PacketKey;
use ringway_vhost::{BURST, Burst, Dequeued, Packets, RingFault};

use crate::action::{self, TxLists};
use crate::cache::{FlowCache, Found};
use crate::clock::CoarseClock;
use crate::conversation::Conversation;
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::execute::Surroundings;
use crate::guard::Guard;
use crate::lookup::Normal;
use crate::packet_in::PacketInRing;
use crate::parse::{self, Key};
use crate::patch::{All, Which};
use crate::snapshot::{BridgeView, Plan, Poll, PortView, Source};
use crate::watch::{FoundBy, Watch};
#[cfg(test)]
use ringway_vhost::VnetHeader;

/// What one PMD needs for a burst; allocated once.
pub struct Workspace {
    burst: Burst,
    stages: Stages,
}

struct Stages {
    /// Which PMD this is, for its own counters and transmit queues.
    pmd: usize,
    clock: CoarseClock,
    keys: Box<[Key; BURST]>,
    flow_keys: Box<[PacketKey; BURST]>,
    lens: [u32; BURST],
    cache: FlowCache,
    found: Found,
    lists: TxLists,
    packet_ins: Arc<PacketInRing>,
}

impl Workspace {
    /// For the PMD with this index.
    pub fn new(
        pmd: usize,
        clock: CoarseClock,
        cache: FlowCache,
        packet_ins: Arc<PacketInRing>,
    ) -> Self {
        Self {
            burst: Burst::default(),
            stages: Stages {
                pmd,
                clock,
                keys: Box::new([Key::default(); BURST]),
                flow_keys: Box::new([PacketKey::default(); BURST]),
                lens: [0; BURST],
                cache,
                found: Found::default(),
                lists: TxLists::default(),
                packet_ins,
            },
        }
    }

    /// For tests: a burst from a port without rings; the first frames with these
    /// virtio-net headers.
    #[cfg(test)]
    pub fn receive(
        &mut self,
        frames: &[Vec<u8>],
        headers: &[VnetHeader],
        plan: &Plan,
        (number, port): (u32, &PortView),
        own: &PmdCounterCells,
        now: u64,
    ) {
        assert!(frames.len() <= BURST);
        let Self { burst, stages } = self;
        let counters = port.counters.of(stages.pmd, 0);
        let ingress = Ingress {
            number,
            port,
            counters,
        };
        own.received.add(frames.len() as u64);
        let parts = |i: usize| std::iter::once(&frames[i][..]);
        burst.lend_slices(frames.len(), parts, |packets| {
            for (i, header) in headers.iter().enumerate() {
                packets.set_vnet_header(i, *header);
            }
            stages.run(packets, plan, &ingress, own, now);
        });
    }

    /// The flow cache, for what is to be done between polls.
    #[inline(always)]
    pub fn cache(&mut self) -> &mut FlowCache {
        &mut self.stages.cache
    }
}

/// Where a burst came in.
struct Ingress<'a> {
    number: u32,
    port: &'a PortView,
    /// Of the queue that it came from.
    counters: &'a QueueCounters,
}

/// Polls one queue; returns how many packets came out of it.
#[inline]
pub fn poll(
    workspace: &mut Workspace,
    plan: &Plan,
    poll: &Poll,
    own: &PmdCounterCells,
    now: u64,
) -> u32 {
    let Some(port) = plan.snapshot.port(poll.port) else {
        return 0;
    };
    let Workspace { burst, stages } = workspace;
    let counters = port.counters.of(stages.pmd, usize::from(poll.queue));
    let ingress = Ingress {
        number: poll.port,
        port,
        counters,
    };
    let mut through = |packets: &mut Packets<'_>| {
        stages.run(packets, plan, &ingress, own, now);
    };
    let received = match &poll.source {
        Source::Ring(ring) => {
            let dequeued = ring.dequeue(burst, through);
            count_refused(&dequeued, counters, own)
        }
        Source::Nic(nic) => {
            let (received, refused) = nic.receive(poll.queue, burst, &mut through);
            own.drop_rx(counters, DropReason::FrameTooLong, refused);
            received
        }
    };
    if received > 0 {
        counters.rx_packets.add(u64::from(received));
        own.received.add(u64::from(received));
    }
    received
}

/// Counts what the guest handed over that was no packet. Returns all that
/// was received, good and bad.
#[inline(always)]
fn count_refused(dequeued: &Dequeued, counters: &QueueCounters, own: &PmdCounterCells) -> u32 {
    let good = Dequeued {
        packets: dequeued.packets,
        ..Dequeued::default()
    };
    if *dequeued == good {
        return dequeued.packets;
    }
    let mut received = dequeued.packets;
    // Packets in lost memory are counted one by one.
    let broke_a_rule = (dequeued.fault).is_some_and(|fault| fault != RingFault::MemoryLost);
    for (reason, count) in [
        (DropReason::FrameTooShort, dequeued.too_short),
        (DropReason::FrameTooLong, dequeued.too_long),
        (DropReason::ChainTooLong, dequeued.too_many_parts),
        (DropReason::BadOffload, dequeued.bad_offload),
        (DropReason::MemoryLost, dequeued.lost),
        (DropReason::GuestFault, u32::from(broke_a_rule)),
    ] {
        own.drop_rx(counters, reason, count);
        received += count;
    }
    received
}

impl Stages {
    /// A burst's whole way.
    #[inline(always)]
    fn run(
        &mut self,
        packets: &mut Packets<'_>,
        plan: &Plan,
        ingress: &Ingress<'_>,
        own: &PmdCounterCells,
        now: u64,
    ) {
        match &ingress.port.guard {
            None => self.through_bridge(All(packets.len()), packets, plan, ingress, own, now),
            Some(guard) => {
                let all: ArrayVec<u8, BURST> = (0..packets.len()).map(|at| at as u8).collect();
                self.through_guard(guard, &all, packets, plan, ingress, own, now);
            }
        }
        if self.lists.has_crossings() {
            self.cross(packets, plan, own, now);
        }
    }

    /// What went out by patch ports comes in by their peers.
    #[inline(never)]
    fn cross(&mut self, packets: &mut Packets<'_>, plan: &Plan, own: &PmdCounterCells, now: u64) {
        while let Some(crossing) = self.lists.next_crossing(packets) {
            let count = crossing.packets.len() as u64;
            let Some(port) = plan.snapshot.port(crossing.port) else {
                own.dropped.add(DropReason::NoDestination, count);
                continue;
            };
            let counters = port.counters.of(self.pmd, 0);
            counters.rx_packets.add(count);
            let ingress = Ingress {
                number: crossing.port,
                port,
                counters,
            };
            match &port.guard {
                None => {
                    self.through_bridge(&crossing.packets, packets, plan, &ingress, own, now);
                }
                Some(guard) => {
                    let list = &crossing.packets;
                    self.through_guard(guard, list, packets, plan, &ingress, own, now);
                }
            }
        }
    }

    /// The same with a guard in front, see [`crate::guard`].
    #[inline(never)]
    #[allow(clippy::too_many_arguments)]
    fn through_guard(
        &mut self,
        guard: &Guard,
        list: &ArrayVec<u8, BURST>,
        packets: &mut Packets<'_>,
        plan: &Plan,
        ingress: &Ingress<'_>,
        own: &PmdCounterCells,
        now: u64,
    ) {
        let counters = ingress.counters;
        let watch = (plan.watch.as_ref()).filter(|watch| watch.port == ingress.number);
        let passed = guard.admit(list, packets, now, |index, reason| {
            own.drop_rx(counters, reason, 1);
            let frame_len = packets.frame_len(usize::from(index));
            counters.rx_bytes.add(frame_len as u64);
            if let Some(watch) = watch
                && let Some(bridge) = plan.snapshot.bridges.get(ingress.port.bridge)
            {
                let one = ArrayVec::from_iter([index]);
                let in_port = bridge.flow_port(ingress.number);
                if find_watched(watch, &one, packets, bridge, in_port).is_some() {
                    watch.finish(self.pmd, FoundBy::NotLookedFor, None, &[], Some(reason));
                }
            }
        });
        if !passed.is_empty() {
            self.through_bridge(&passed, packets, plan, ingress, own, now);
        }
    }

    /// parse → flow cache → action → tx, each for all packets.
    #[inline(always)]
    fn through_bridge(
        &mut self,
        which: impl Which,
        packets: &mut Packets<'_>,
        plan: &Plan,
        ingress: &Ingress<'_>,
        own: &PmdCounterCells,
        now: u64,
    ) {
        let Ingress {
            number,
            port,
            counters,
        } = *ingress;
        let Some(bridge) = plan.snapshot.bridges.get(port.bridge) else {
            return;
        };
        let in_port = bridge.flow_port(number);
        let bytes = which.bytes(packets);
        counters.rx_bytes.add(bytes);
        self.find_verdicts(which, bytes, packets, bridge, in_port, own, now);

        let watch = plan.watch.as_ref().filter(|watch| watch.port == number);
        let watched = watch.and_then(|watch| find_watched(watch, which, packets, bridge, in_port));
        let with = Surroundings {
            snapshot: &plan.snapshot,
            ingress: number,
            counters,
            own,
            pmd: self.pmd,
            now,
            storm: port.storm.as_deref(),
            packet_ins: &self.packet_ins,
        };
        let mut learning = Normal::new(bridge, number, self.clock.seconds_at(now));
        action::apply(
            &self.found,
            which,
            packets,
            &self.keys,
            &self.cache,
            &mut learning,
            &mut self.lists,
            watched,
            &with,
        );
        if let (Some(watch), Some(watched)) = (watch, watched) {
            tell(watch, watched, &self.found, &mut self.lists, self.pmd);
        }
        with.flush(&mut self.lists, packets, bridge);
        self.cache.finish();
    }

    /// Heads → keys → verdicts. `bytes`: of all frames.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn find_verdicts(
        &mut self,
        which: impl Which,
        bytes: u64,
        packets: &Packets<'_>,
        bridge: &BridgeView,
        in_port: u16,
        own: &PmdCounterCells,
        now: u64,
    ) {
        let count = which.count();
        if let Some(all) = self.cache.catch_all(bridge) {
            let one = Conversation::of_all(which, packets);
            match &one {
                Some(one) => self.keys[0] = one.key(),
                None => {
                    for nth in 0..count {
                        let (index, key) = (which.index(nth), &mut self.keys[nth]);
                        parse::parse(packets.head_slot(index), packets.head(index).len(), key);
                    }
                }
            }
            self.found.fill(count, all, one.is_some());
            (self.cache).count_all(all, in_port, one, which, packets, &self.keys, bytes, now);
            own.lookups.megaflow_hits.add(count as u64);
            own.lookups.probes.add(count as u64);
            return;
        }
        for nth in 0..count {
            let index = which.index(nth);
            let (head, frame_len) = (packets.head_slot(index), packets.frame_len(index));
            let key = &mut self.flow_keys[nth];
            extract(
                head,
                packets.head(index).len(),
                frame_len,
                bridge.id,
                in_port,
                key,
            );
            self.keys[nth] = Key::of_flow(key);
            self.lens[nth] = frame_len as u32;
        }
        self.cache.classify(
            &self.flow_keys,
            &self.lens,
            count,
            bridge,
            &mut self.found,
            own,
            now,
        );
    }
}

/// Tells what was done with the watched packet.
#[cold]
fn tell(watch: &Watch, watched: usize, found: &Found, lists: &mut TxLists, pmd: usize) {
    let record = lists.take_record();
    let found_by = match record.dropped {
        Some(DropReason::UpcallLimit) => FoundBy::Lost,
        _ => found.found_by(watched),
    };
    watch.finish(
        pmd,
        found_by,
        found.entry(watched),
        &record.ports,
        record.dropped,
    );
}

/// The first packet of a burst that somebody waits for, kept as it is now.
#[cold]
fn find_watched(
    watch: &Watch,
    which: impl Which,
    packets: &Packets<'_>,
    bridge: &BridgeView,
    in_port: u16,
) -> Option<usize> {
    let mut key = PacketKey::default();
    let found = (0..which.count()).find(|nth| {
        let index = which.index(*nth);
        let head = packets.head_slot(index);
        let (len, frame_len) = (packets.head(index).len(), packets.frame_len(index));
        extract(head, len, frame_len, bridge.id, in_port, &mut key);
        watch.takes(&key)
    })?;
    let index = which.index(found);
    watch.keep(packets.head(index), packets.frame_len(index));
    Some(found)
}
