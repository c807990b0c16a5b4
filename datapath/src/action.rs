//! Stage 4: verdicts → what goes to which port. Frames for several ports are
//! listed several times and copied from the same place.

use arrayvec::ArrayVec;
use ringway_vhost::{BURST, PacketSet, Packets};

use crate::cache::{FlowCache, Found, Verdict};
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::execute::{self, Surroundings, execute};
use crate::lookup::{Destination, Normal};
use crate::parse::Key;
use crate::patch::{Crossing, Crossings, Which};
use crate::snapshot::MAX_PORTS;

/// For every port, which packets of the burst go to it, in order.
pub struct TxLists {
    lists: Box<[ArrayVec<u8, BURST>]>,
    active: ArrayVec<u32, MAX_PORTS>,
    /// What waits behind patch ports.
    crossings: Crossings,
    /// Packets in it, and those that the bridge meets more than once: they
    /// must stay what they are.
    pub waiting: PacketSet,
    /// Packets that the bridge still has to do with.
    current: PacketSet,
    /// What is listed now is of the packet that somebody watches.
    recording: bool,
    record: Record,
}

/// Where a watched packet went.
#[derive(Default)]
pub struct Record {
    pub ports: ArrayVec<u32, 64>,
    pub dropped: Option<DropReason>,
}

impl Default for TxLists {
    fn default() -> Self {
        Self {
            lists: (0..MAX_PORTS).map(|_| ArrayVec::new()).collect(),
            active: ArrayVec::new(),
            crossings: Crossings::default(),
            waiting: PacketSet::default(),
            current: PacketSet::default(),
            recording: false,
            record: Record::default(),
        }
    }
}

impl TxLists {
    /// Lists a packet for a port. False: no port can have that number.
    #[inline(always)]
    pub fn push(&mut self, port: u32, packet: usize) -> bool {
        let Some(list) = self.lists.get_mut(port as usize) else {
            return false;
        };
        if list.is_empty() {
            self.active.push(port);
        }
        list.push(packet as u8);
        if self.recording && !self.record.ports.is_full() {
            self.record.ports.push(port);
        }
        true
    }

    /// Lists all packets for a port, if nothing is listed for it.
    #[inline(always)]
    fn push_all(&mut self, port: u32, which: impl Which) -> bool {
        let list = self.lists.get_mut(port as usize);
        let Some(list) = list.filter(|list| list.is_empty()) else {
            return false;
        };
        self.active.push(port);
        *list = which.list();
        true
    }

    /// The packet ends here.
    #[inline(always)]
    pub fn note_drop(&mut self, reason: DropReason) {
        if self.recording {
            self.record.dropped = Some(reason);
        }
    }

    /// Where the watched packet went.
    pub fn take_record(&mut self) -> Record {
        std::mem::take(&mut self.record)
    }

    /// Whether no more packets can be listed for a port.
    #[inline(always)]
    pub fn is_full(&self, port: u32) -> bool {
        (self.lists.get(port as usize)).is_some_and(|list| list.is_full())
    }

    /// Packets that were listed for a patch port, with its counters, are to come
    /// in by its peer.
    pub fn cross(
        &mut self,
        peer: Option<u32>,
        packets: &Packets<'_>,
        list: ArrayVec<u8, BURST>,
        counters: &QueueCounters,
        own: &PmdCounterCells,
    ) {
        let indices = list.clone();
        if self.crossings.cross(peer, packets, list, counters, own) {
            for index in indices {
                self.waiting.insert(usize::from(index));
            }
        }
    }

    /// Whether packets wait behind patch ports.
    #[inline(always)]
    pub fn has_crossings(&self) -> bool {
        !self.crossings.is_empty()
    }

    /// The next packets that come in by a patch port; nothing may be listed.
    /// Copies that nobody needs any more make room. `None`: the burst is done.
    pub fn next_crossing(&mut self, packets: &mut Packets<'_>) -> Option<Crossing> {
        let next = self.crossings.pop();
        self.waiting = self.crossings.waiting();
        self.current = PacketSet::default();
        for index in next.iter().flat_map(|crossing| &crossing.packets) {
            let index = usize::from(*index);
            if self.current.contains(index) {
                // Listed twice.
                self.waiting.insert(index);
            }
            self.current.insert(index);
        }
        packets.keep_copies(&self.kept());
        next
    }

    /// Packets that are needed although nothing is listed.
    pub fn kept(&self) -> PacketSet {
        self.waiting.union(&self.current)
    }

    /// Takes the next port with its list; the list is empty afterwards.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<(u32, ArrayVec<u8, BURST>)> {
        let port = self.active.pop()?;
        Some((port, std::mem::take(self.lists.get_mut(port as usize)?)))
    }
}

/// Lists the packets of a burst under their ports and counts those that go
/// nowhere, and the copies beyond the first. Where the one with place `watched` goes is
/// kept for [`TxLists::take_record`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub fn apply(
    found: &Found,
    which: impl Which,
    packets: &mut Packets<'_>,
    keys: &[Key; BURST],
    cache: &FlowCache,
    learning: &mut Normal<'_>,
    lists: &mut TxLists,
    watched: Option<usize>,
    with: &Surroundings<'_>,
) {
    if learning.bridge.has_vlans {
        apply_in_vlans(
            found, which, packets, keys, cache, learning, lists, watched, with,
        );
    } else {
        apply_as::<false>(
            found, which, packets, keys, cache, learning, lists, watched, with,
        );
    }
}

/// On a bridge with VLANs; apart, so that the way of the others stays short.
#[inline(never)]
#[allow(clippy::too_many_arguments)]
fn apply_in_vlans(
    found: &Found,
    which: impl Which,
    packets: &mut Packets<'_>,
    keys: &[Key; BURST],
    cache: &FlowCache,
    learning: &mut Normal<'_>,
    lists: &mut TxLists,
    watched: Option<usize>,
    with: &Surroundings<'_>,
) {
    apply_as::<true>(
        found, which, packets, keys, cache, learning, lists, watched, with,
    );
}

/// `VLANS`: NORMAL has to look at tags and ports' VLANs.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn apply_as<const VLANS: bool>(
    found: &Found,
    which: impl Which,
    packets: &mut Packets<'_>,
    keys: &[Key; BURST],
    cache: &FlowCache,
    learning: &mut Normal<'_>,
    lists: &mut TxLists,
    watched: Option<usize>,
    with: &Surroundings<'_>,
) {
    // Most bursts are of one conversation, which goes to one port.
    let one = found.is_one();
    if one
        && !VLANS
        && watched.is_none()
        && found.verdict(0) == Verdict::Normal
        && let Destination::Port(port) = learning.decide(&keys[0])
        && lists.push_all(port, which)
    {
        return;
    }
    let mut replicated = 0;
    let drop = |lists: &mut TxLists, reason| {
        lists.note_drop(reason);
        with.own.drop_rx(with.counters, reason, 1);
    };
    for nth in 0..which.count() {
        let packet = which.index(nth);
        lists.recording = watched == Some(nth);
        let destination = match found.verdict(nth) {
            Verdict::Normal if VLANS => {
                execute::normal(packet, packets, lists, learning, with);
                continue;
            }
            Verdict::Normal => learning.decide(&keys[if one { 0 } else { nth }]),
            Verdict::Output(port) => Destination::Port(learning.bridge.number(port)),
            Verdict::Flood => Destination::Flood,
            Verdict::Drop(cause) => Destination::Drop(cause.into()),
            Verdict::Lost => Destination::Drop(DropReason::UpcallLimit),
            Verdict::Program(entry) => {
                let payload = cache.program(entry);
                let program = payload.program();
                execute(program, packet, packets, lists, learning, with);
                continue;
            }
        };
        match destination {
            Destination::Port(port) => {
                // Programs may have listed more for a port than a burst has.
                if lists.is_full(port) {
                    with.flush(lists, packets, learning.bridge);
                }
                if !lists.push(port, packet) {
                    drop(lists, DropReason::NoDestination);
                }
            }
            Destination::Drop(reason) => drop(lists, reason),
            Destination::Flood if with.stops_storm() => drop(lists, DropReason::StormPoliced),
            Destination::Flood => {
                let members = learning.bridge.members.iter();
                let mut copies = 0u64;
                for port in members.filter(|port| **port != with.ingress) {
                    if lists.is_full(*port) {
                        with.flush(lists, packets, learning.bridge);
                    }
                    lists.push(*port, packet);
                    copies += 1;
                }
                match copies {
                    0 => drop(lists, DropReason::NoDestination),
                    copies => replicated += copies - 1,
                }
            }
        }
    }
    lists.recording = false;
    with.own.replicated.add(replicated);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_the_order_and_are_empty_after_use() {
        let mut lists = TxLists::default();
        for packet in 0..5 {
            assert!(lists.push(if packet % 2 == 0 { 7 } else { 9 }, packet));
        }
        let mut seen = Vec::new();
        while let Some((port, list)) = lists.pop() {
            seen.push((port, list.to_vec()));
        }
        seen.sort();
        assert_eq!(seen, [(7, vec![0, 2, 4]), (9, vec![1, 3])]);
        assert!(lists.pop().is_none());
    }
}
