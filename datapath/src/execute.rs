//! A megaflow's program, done with one packet.
//!
//! Outputs only list the packet; it is copied to its ports when the burst is
//! done. Before a listed packet is rewritten for its next output it is copied
//! within the burst, so that what was listed stays what it was.

use ringway_flow::action::Reason;
use ringway_flow::program::{DpAction, DropCause, Steps};
use ringway_flow::rewrite::{Head, Partial};
use ringway_vhost::{BURST_PACKETS, Packets, VNET_F_NEEDS_CSUM};

use crate::action::TxLists;
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::lookup::{Destination, Normal};
use crate::packet_in::{PACKET_IN_BYTES, PacketInMeta, PacketInRing};
use crate::parse::{self, Key};
use crate::snapshot::{BridgeView, Snapshot};
use crate::tx;

/// What a program needs beside the packet.
pub struct Surroundings<'a> {
    pub snapshot: &'a Snapshot,
    /// Number of the port that the packet came from.
    pub ingress: u32,
    /// Counters of the queue that it came from.
    pub counters: &'a QueueCounters,
    pub own: &'a PmdCounterCells,
    pub pmd: usize,
    /// Cycles, for meters.
    pub now: u64,
    pub packet_ins: &'a PacketInRing,
}

impl Surroundings<'_> {
    /// Delivers what is listed so far.
    pub fn flush(
        &self,
        lists: &mut TxLists,
        packets: &mut Packets<'_>,
        keys: &[Key; BURST_PACKETS],
        bridge: &BridgeView,
    ) {
        tx::flush(
            lists,
            packets,
            keys,
            self.snapshot,
            bridge.id,
            self.pmd,
            self.own,
        );
    }
}

impl From<DropCause> for DropReason {
    fn from(cause: DropCause) -> Self {
        match cause {
            DropCause::NoFlow => Self::NoFlow,
            DropCause::Rule => Self::FlowDrop,
            DropCause::ResubmitLimit => Self::ResubmitLimit,
            DropCause::TtlExpired => Self::TtlExpired,
            DropCause::TooManyActions => Self::TooManyActions,
            DropCause::NoLiveBucket => Self::NoLiveBucket,
            DropCause::NoGroup => Self::NoGroup,
            DropCause::NoMeter => Self::NoMeter,
            DropCause::SameIngress => Self::SameIngress,
            DropCause::NoPort => Self::NoDestination,
        }
    }
}

/// One packet on its way through a program.
struct Run<'r, 'p, 'm, 'b> {
    with: &'r Surroundings<'r>,
    learning: &'r mut Normal<'b>,
    packets: &'p mut Packets<'m>,
    keys: &'r mut [Key; BURST_PACKETS],
    lists: &'r mut TxLists,
    /// The packet, or the copy of it that is being worked on.
    index: usize,
    /// It is listed for a port: rewriting needs a copy.
    listed: bool,
    outputs: u64,
    /// Why it goes nowhere, if it goes nowhere.
    reason: DropReason,
}

/// Does what `program` says with packet `index`. Counts it: as dropped if it
/// goes nowhere, as replicated for every output beyond the first.
#[inline(never)]
pub fn execute(
    program: &[u64],
    index: usize,
    packets: &mut Packets<'_>,
    keys: &mut [Key; BURST_PACKETS],
    lists: &mut TxLists,
    learning: &mut Normal<'_>,
    with: &Surroundings<'_>,
) {
    let mut run = Run {
        with,
        learning,
        packets,
        keys,
        lists,
        index,
        listed: false,
        outputs: 0,
        reason: DropReason::FlowDrop,
    };
    for step in Steps::of(program) {
        if !run.step(step) {
            break;
        }
    }
    match run.outputs {
        0 => {
            run.lists.note_drop(run.reason);
            with.own.drop_rx(with.counters, run.reason, 1);
        }
        outputs => with.own.replicated.add(outputs - 1),
    }
}

impl Run<'_, '_, '_, '_> {
    /// One step; false: the packet ends here.
    fn step(&mut self, step: DpAction) -> bool {
        match step {
            DpAction::Output(port) => self.output(self.learning.bridge.number(port.into())),
            DpAction::Flood => self.flood(),
            DpAction::Normal => self.normal(),
            DpAction::Set { word, value, mask } => {
                self.rewrite(|head| head.set(word, value, mask));
            }
            DpAction::PushVlan { tpid, tci } => self.rewrite(|head| {
                head.push_vlan(tpid, tci);
            }),
            DpAction::PopVlan => self.rewrite(|head| head.pop_vlan()),
            DpAction::Controller {
                reason,
                max_len,
                id,
                table,
            } => {
                let meta = PacketInMeta {
                    bridge: self.learning.bridge.id,
                    in_port: (self.learning.bridge).flow_port(self.with.ingress).into(),
                    reason,
                    table,
                    controller: id,
                    frame_len: self.packets.frame_len(self.index) as u32,
                };
                self.send_to_controllers(meta, max_len.into());
            }
            DpAction::Meter(id) => {
                let bytes = self.packets.frame_len(self.index);
                let meters = &self.learning.bridge.meters;
                let meter = meters.binary_search_by_key(&id, |(id, _)| *id);
                if let Ok(at) = meter
                    && !meters[at].1.passes(bytes, self.with.now)
                {
                    self.reason = DropReason::MeterExceeded;
                    return false;
                }
            }
            DpAction::Drop(cause) => {
                self.reason = cause.into();
                return false;
            }
        }
        true
    }

    fn output(&mut self, port: u32) {
        if self.lists.is_full(port) {
            self.flush();
        }
        if !self.lists.push(port, self.index) {
            // Not a number that a port can have: the bridge's own interface
            // for instance, while there is none.
            self.reason = DropReason::NoDestination;
            return;
        }
        self.listed = true;
        self.outputs += 1;
    }

    fn flood(&mut self) {
        self.reason = DropReason::NoDestination;
        let members = &self.learning.bridge.members;
        for port in members.iter().filter(|port| **port != self.with.ingress) {
            self.output(*port);
        }
    }

    fn normal(&mut self) {
        let mut key = Key::default();
        let len = self.packets.head(self.index).len();
        parse::parse(self.packets.head_slot(self.index), len, &mut key);
        match self.learning.decide(&key) {
            Destination::Port(port) => self.output(port),
            Destination::Drop(reason) => self.reason = reason,
            Destination::Flood => self.flood(),
        }
    }

    /// From now on the packet may be changed: what is listed stays what it is.
    fn own(&mut self) {
        if !self.listed {
            return;
        }
        let before = self.index;
        self.index = match self.packets.copy_packet(before) {
            Some(copy) => copy,
            None => {
                // All that is listed is delivered: nobody needs the copies.
                self.flush();
                self.packets.keep_copy(before)
            }
        };
        self.keys[self.index] = self.keys[before];
        self.listed = false;
    }

    fn rewrite(&mut self, change: impl FnOnce(&mut Head<'_>)) {
        self.own();
        let index = self.index;
        let mut vnet = self.packets.vnet_header(index);
        let mut head_len = self.packets.head_len(index);
        let mut frame_len = self.packets.frame_len(index);
        let partial = (vnet.flags & VNET_F_NEEDS_CSUM != 0).then_some(Partial {
            csum_start: vnet.csum_start,
            csum_offset: vnet.csum_offset,
        });
        let mut head = Head {
            bytes: self.packets.head_room(index),
            len: &mut head_len,
            frame_len: &mut frame_len,
            partial,
        };
        change(&mut head);
        if let Some(partial) = head.partial {
            // What an oversized frame has in front of its payload moves along.
            let moved = partial.csum_start.wrapping_sub(vnet.csum_start);
            if vnet.hdr_len != 0 {
                vnet.hdr_len = vnet.hdr_len.wrapping_add(moved);
            }
            vnet.csum_start = partial.csum_start;
            self.packets.set_vnet_header(index, vnet);
        }
        self.packets.set_lengths(index, head_len, frame_len);
    }

    fn send_to_controllers(&mut self, meta: PacketInMeta, max_len: usize) {
        let mut bytes = [0; PACKET_IN_BYTES];
        let room = max_len.min(PACKET_IN_BYTES);
        let len = self.packets.copy_prefix(self.index, &mut bytes[..room]);
        // A controller has no use for a partial checksum.
        if let Some((field, checksum)) = self.packets.whole_checksum(self.index)
            && let Some(place) = bytes[..len].get_mut(field..field + 2)
        {
            place.copy_from_slice(&checksum);
        }
        let put = self.with.packet_ins.put(meta, &bytes[..len]);
        self.reason = match (meta.reason, put) {
            // That controllers are told is not why it ends.
            (Reason::InvalidTtl, _) => DropReason::TtlExpired,
            (_, true) => DropReason::ToController,
            (_, false) => DropReason::ControllerQueueFull,
        };
    }

    fn flush(&mut self) {
        (self.with).flush(self.lists, self.packets, self.keys, self.learning.bridge);
        self.listed = false;
    }
}
