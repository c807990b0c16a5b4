//! A megaflow's program, done with one packet.
//!
//! Outputs only list the packet; it is copied to its ports when the burst is
//! done. Before a listed packet is rewritten for its next output it is copied
//! within the burst, so that what was listed stays what it was.

mod normal;

use arrayvec::ArrayVec;
use ringway_flow::action::Reason;
use ringway_flow::program::{DpAction, DropCause, Steps};
use ringway_flow::rewrite::{Head, Partial};
use ringway_vhost::{Packets, VNET_F_NEEDS_CSUM};

use crate::action::TxLists;
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::lookup::Normal;
use crate::meter::TokenBucket;
use crate::packet_in::{PACKET_IN_BYTES, PacketInMeta, PacketInRing};
use crate::snapshot::{BridgeView, Snapshot};
use crate::tx;
use crate::vlan::Tags;

/// See [`Run::forms`]. There are seldom more than two: with a tag, and without.
type Forms = ArrayVec<(Tags, u8), 4>;

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
    /// Rate of the port's frames to many.
    pub storm: Option<&'a TokenBucket>,
    pub packet_ins: &'a PacketInRing,
}

impl Surroundings<'_> {
    /// Whether a frame to many is one too many.
    #[inline(always)]
    pub fn stops_storm(&self) -> bool {
        (self.storm).is_some_and(|bucket| !bucket.takes(1, self.now))
    }

    /// Delivers what is listed so far.
    pub fn flush(&self, lists: &mut TxLists, packets: &mut Packets<'_>, bridge: &BridgeView) {
        tx::flush(lists, packets, self.snapshot, bridge.id, self.pmd, self.own);
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
    lists: &'r mut TxLists,
    /// The packet, or the copy of it that is being worked on.
    index: usize,
    /// It is listed for a port: rewriting needs a copy.
    listed: bool,
    outputs: u64,
    /// Why it goes nowhere, if it goes nowhere.
    reason: DropReason,
    /// Nothing comes behind this step: the packet needs not stay what it is.
    is_last: bool,
    /// Copies of the packet with other tags, listed for some port, by tags.
    forms: Forms,
}

impl<'r, 'p, 'm, 'b> Run<'r, 'p, 'm, 'b> {
    #[inline(always)]
    fn new(
        index: usize,
        packets: &'p mut Packets<'m>,
        lists: &'r mut TxLists,
        learning: &'r mut Normal<'b>,
        with: &'r Surroundings<'r>,
    ) -> Self {
        Self {
            listed: lists.waiting.contains(index),
            with,
            learning,
            packets,
            lists,
            index,
            outputs: 0,
            reason: DropReason::FlowDrop,
            is_last: false,
            forms: Forms::new(),
        }
    }

    /// Counts the packet: as dropped if it goes nowhere, as replicated for every
    /// output beyond the first.
    #[inline(always)]
    fn finish(self) {
        let Surroundings { own, counters, .. } = *self.with;
        match self.outputs {
            0 => {
                self.lists.note_drop(self.reason);
                own.drop_rx(counters, self.reason, 1);
            }
            outputs => own.replicated.add(outputs - 1),
        }
    }
}

/// Does what `program` says with packet `index`, and counts it.
#[inline(never)]
pub fn execute(
    program: &[u64],
    index: usize,
    packets: &mut Packets<'_>,
    lists: &mut TxLists,
    learning: &mut Normal<'_>,
    with: &Surroundings<'_>,
) {
    let mut run = Run::new(index, packets, lists, learning, with);
    for step in Steps::of(program) {
        if !run.step(step) {
            break;
        }
    }
    run.finish();
}

/// NORMAL, and nothing else, on a bridge with VLANs.
#[inline(never)]
pub fn normal(
    index: usize,
    packets: &mut Packets<'_>,
    lists: &mut TxLists,
    learning: &mut Normal<'_>,
    with: &Surroundings<'_>,
) {
    let mut run = Run::new(index, packets, lists, learning, with);
    run.is_last = true;
    run.normal();
    run.finish();
}

impl Run<'_, '_, '_, '_> {
    /// One step; false: the packet ends here.
    fn step(&mut self, step: DpAction) -> bool {
        match step {
            DpAction::Output(port) => self.output(self.learning.bridge.number(port.into())),
            DpAction::Flood => self.flood(),
            DpAction::Normal => self.normal(),
            DpAction::Set { word, value, mask } => {
                return self.rewrite(|head| head.set(word, value, mask));
            }
            DpAction::PushVlan { tpid, tci } => {
                return self.rewrite(|head| {
                    head.push_vlan(tpid, tci);
                });
            }
            DpAction::PopVlan => return self.rewrite(|head| head.pop_vlan()),
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
        if self.list(port, self.index) {
            self.listed = true;
        }
    }

    /// Lists a packet (this one, or a copy with other tags) for a port.
    fn list(&mut self, port: u32, packet: usize) -> bool {
        if self.lists.is_full(port) {
            self.deliver();
        }
        let can_be = self.lists.push(port, packet);
        match can_be {
            true => self.outputs += 1,
            // Not a number that a port can have: the bridge's own interface
            // for instance, while there is none.
            false => self.reason = DropReason::NoDestination,
        }
        can_be
    }

    fn flood(&mut self) {
        if self.with.stops_storm() {
            self.reason = DropReason::StormPoliced;
            return;
        }
        self.reason = DropReason::NoDestination;
        let members = &self.learning.bridge.members;
        for port in members.iter().filter(|port| **port != self.with.ingress) {
            self.output(*port);
        }
    }

    /// A copy of the packet. `None`: there is no room, although everything that
    /// can be delivered now was.
    fn copy(&mut self) -> Option<usize> {
        let copy = match self.packets.copy_packet(self.index) {
            Some(copy) => copy,
            None => {
                self.flush();
                self.packets.copy_packet(self.index)?
            }
        };
        Some(copy)
    }

    /// From now on the packet may be changed: what is listed stays what it is.
    /// False: there is no room for that, and the packet ends here.
    fn own(&mut self) -> bool {
        if !self.listed {
            return true;
        }
        match self.copy() {
            Some(copy) => self.index = copy,
            // All that is listed may have been delivered.
            None if self.listed => {
                self.lose(DropReason::NoRoomForCopy);
                return false;
            }
            None => {}
        }
        self.listed = false;
        true
    }

    /// What would have come out now does not.
    #[cold]
    fn lose(&mut self, reason: DropReason) {
        self.lists.note_drop(reason);
        self.with.own.drop_rx(self.with.counters, reason, 1);
        self.outputs += 1;
    }

    /// Changes the packet. False: it ends here.
    fn rewrite(&mut self, change: impl FnOnce(&mut Head<'_>)) -> bool {
        if !self.own() {
            return false;
        }
        self.change(self.index, change);
        true
    }

    /// Changes a packet that nobody else has.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Head<'_>)) {
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
        if self.packets.are_lost() {
            self.reason = DropReason::MemoryLost;
            return;
        }
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

    /// Delivers what is listed so far.
    fn deliver(&mut self) {
        (self.with).flush(self.lists, self.packets, self.learning.bridge);
        self.listed = self.lists.waiting.contains(self.index);
    }

    /// Delivers, and makes room for copies.
    fn flush(&mut self) {
        self.deliver();
        self.forms.clear();
        let mut kept = self.lists.kept();
        kept.insert(self.index);
        self.packets.keep_copies(&kept);
    }
}
