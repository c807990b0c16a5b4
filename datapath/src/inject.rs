//! Packets that the control plane sends: through the same programs and the
//! same rings as any other, from a thread of its own.
//!
//! The caller holds the datapath's lock, so that rings and ports stay; it
//! counts in the row behind the poll-mode cores'.

use ringway_flow::extract::{extract, extract_slice};
use ringway_flow::key::PacketKey;
use ringway_flow::program::{DpAction, DropCause};
use ringway_flow::translate::{Start, Translation, Untraced, translate};
use ringway_vhost::{Burst, Packets};

use crate::action::TxLists;
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::execute::{Surroundings, execute};
use crate::lookup::Normal;
use crate::packet_in::PacketInRing;
use crate::snapshot::{BridgeView, Snapshot};

/// What it takes; made once.
#[derive(Default)]
pub struct Injector {
    burst: Burst,
    lists: TxLists,
    translation: Box<Translation>,
    /// Packets that the control plane sent.
    pub counters: PmdCounterCells,
    /// Packets that came from no port.
    origin: QueueCounters,
    pub packet_ins: PacketInRing,
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
        let ingress = bridge.number(packet.in_port.into());
        let Self {
            burst,
            lists,
            translation,
            counters,
            origin,
            packet_ins,
        } = self;
        let with = Surroundings {
            snapshot,
            ingress,
            counters: origin,
            own: counters,
            pmd: packet.row,
            now: packet.now,
            storm: None,
            packet_ins,
        };
        let mut refused = None;
        burst.lend_slices(
            1,
            |_| std::iter::once(packet.frame),
            |packets| {
                counters.received.add(1);
                let mut one = |index: usize,
                               key: &PacketKey,
                               start: Start<'_>,
                               packets: &mut Packets<'_>,
                               lists: &mut TxLists,
                               bridge: &BridgeView,
                               with: &Surroundings<'_>| {
                    translate(&bridge.pipeline, key, start, translation, &mut Untraced);
                    let first = translation.program.steps().next();
                    let program = translation.program.words().to_vec();
                    let mut learning = Normal::new(bridge, with.ingress, packet.second);
                    execute(&program, index, packets, lists, &mut learning, with);
                    with.flush(lists, packets, bridge);
                    first
                };
                let first = one(0, &key, packet.start, packets, lists, bridge, &with);
                if let Some(DpAction::Drop(cause)) = first {
                    refused = Some(cause);
                }
                while let Some(crossing) = lists.next_crossing(packets) {
                    let Some((port, bridge)) = (snapshot.port(crossing.port))
                        .and_then(|port| Some((port, snapshot.bridges.get(port.bridge)?)))
                    else {
                        let count = crossing.packets.len() as u64;
                        counters.dropped.add(DropReason::NoDestination, count);
                        continue;
                    };
                    let counters = port.counters.of(packet.row, 0);
                    let with = Surroundings {
                        ingress: crossing.port,
                        counters,
                        ..with
                    };
                    for index in crossing.packets.into_iter().map(usize::from) {
                        let frame_len = packets.frame_len(index);
                        let mut key = PacketKey::default();
                        extract(
                            packets.head_slot(index),
                            packets.head(index).len(),
                            frame_len,
                            bridge.id,
                            bridge.flow_port(crossing.port),
                            &mut key,
                        );
                        counters.rx_packets.add(1);
                        counters.rx_bytes.add(frame_len as u64);
                        one(index, &key, Start::Tables, packets, lists, bridge, &with);
                    }
                }
            },
        );
        refused
    }
}
