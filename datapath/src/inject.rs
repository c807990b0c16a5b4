//! Packets that the control plane sends: through the same programs and the
//! same rings as any other, from a thread of its own.
//!
//! The caller holds the datapath's lock, so that rings and ports stay; it
//! counts in the row behind the poll-mode cores'.

use ringway_flow::extract::extract_slice;
use ringway_flow::program::{DpAction, DropCause};
use ringway_flow::translate::{Start, Translation, Untraced, translate};
use ringway_vhost::{BURST_PACKETS, Burst};

use crate::action::TxLists;
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::execute::{Surroundings, execute};
use crate::lookup::Normal;
use crate::packet_in::PacketInRing;
use crate::parse::Key;
use crate::snapshot::Snapshot;

/// What it takes; made once.
pub struct Injector {
    burst: Burst,
    keys: Box<[Key; BURST_PACKETS]>,
    lists: TxLists,
    translation: Box<Translation>,
    /// Packets that the control plane sent.
    pub counters: PmdCounterCells,
    /// Packets that came from no port.
    origin: QueueCounters,
    pub packet_ins: PacketInRing,
}

impl Default for Injector {
    fn default() -> Self {
        Self {
            burst: Burst::default(),
            keys: Box::new([Key::default(); BURST_PACKETS]),
            lists: TxLists::default(),
            translation: Box::default(),
            counters: PmdCounterCells::default(),
            origin: QueueCounters::default(),
            packet_ins: PacketInRing::default(),
        }
    }
}

/// A packet to be sent.
pub struct Injected<'a> {
    /// Index of its bridge in the snapshot.
    pub bridge: usize,
    pub in_port: u16,
    /// Where its way begins.
    pub start: Start<'a>,
    pub frame: &'a [u8],
    /// Index of the row for counters, behind the cores'.
    pub row: usize,
    pub second: u32,
    pub now: u64,
}

impl Injector {
    /// Sends a packet. Returns why it cannot go anywhere, if it cannot.
    pub fn send(&mut self, packet: &Injected<'_>, snapshot: &Snapshot) -> Option<DropCause> {
        let bridge = snapshot.bridges.get(packet.bridge)?;
        let key = extract_slice(packet.frame, bridge.id, packet.in_port);
        let translation = &mut *self.translation;
        translate(
            &bridge.pipeline,
            &key,
            packet.start,
            translation,
            &mut Untraced,
        );
        let ingress = bridge.number(packet.in_port.into());
        let program = translation.program.words().to_vec();
        let refused = match translation.program.steps().next() {
            Some(DpAction::Drop(cause)) => Some(cause),
            _ => None,
        };
        let Self {
            burst,
            keys,
            lists,
            counters,
            origin,
            packet_ins,
            ..
        } = self;
        let with = Surroundings {
            snapshot,
            ingress,
            counters: origin,
            own: counters,
            pmd: packet.row,
            now: packet.now,
            packet_ins,
        };
        let mut learning = Normal::new(bridge, ingress, packet.second);
        burst.lend_slices(
            1,
            |_| std::iter::once(packet.frame),
            |packets| {
                counters.received.add(1);
                keys[0] = Key::of_flow(&key);
                execute(&program, 0, packets, keys, lists, &mut learning, &with);
                with.flush(lists, packets, keys, bridge);
            },
        );
        refused
    }
}
