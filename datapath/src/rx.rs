//! Stage 1: a burst from one ring or NIC queue, and its way through the rest.

use ringway_vhost::{BURST, Burst, Dequeued, Packets};

use crate::action::{self, TxLists};
use crate::clock::CoarseClock;
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::lookup::{self, Verdicts};
use crate::parse::{self, Key};
use crate::snapshot::{Plan, Poll, PortView, Source};
use crate::tx;

/// What one PMD needs for a burst; allocated once.
pub struct Workspace {
    burst: Burst,
    stages: Stages,
}

struct Stages {
    /// Which PMD this is, for its own counters and transmit queues.
    pmd: usize,
    clock: CoarseClock,
    keys: [Key; BURST],
    verdicts: Verdicts,
    lists: TxLists,
}

impl Workspace {
    /// For the PMD with this index.
    pub fn new(pmd: usize, clock: CoarseClock) -> Self {
        Self {
            burst: Burst::default(),
            stages: Stages {
                pmd,
                clock,
                keys: [Key::default(); BURST],
                verdicts: Verdicts::default(),
                lists: TxLists::default(),
            },
        }
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
    for (reason, count) in [
        (DropReason::FrameTooShort, dequeued.too_short),
        (DropReason::FrameTooLong, dequeued.too_long),
        (DropReason::ChainTooLong, dequeued.too_many_parts),
        (DropReason::BadOffload, dequeued.bad_offload),
        (DropReason::GuestFault, u32::from(dequeued.fault.is_some())),
    ] {
        own.drop_rx(counters, reason, count);
        received += count;
    }
    received
}

impl Stages {
    /// parse → lookup → action → tx, each for the whole burst.
    #[inline(always)]
    fn run(
        &mut self,
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
        let count = packets.len();
        let mut bytes = 0;
        for (index, key) in self.keys.iter_mut().enumerate().take(count) {
            parse::parse(packets.head_slot(index), packets.head(index).len(), key);
            bytes += packets.frame_len(index);
        }
        counters.rx_bytes.add(bytes as u64);

        let second = self.clock.seconds_at(now);
        lookup::lookup(
            &self.keys[..count],
            bridge,
            number,
            second,
            &mut self.verdicts,
        );

        let replicated = action::apply(
            &self.verdicts,
            count,
            number,
            bridge,
            &mut self.lists,
            |reason| own.drop_rx(counters, reason, 1),
        );
        own.replicated.add(replicated);

        tx::flush(
            &mut self.lists,
            packets,
            &self.keys,
            &plan.snapshot,
            self.pmd,
            own,
        );
    }
}
