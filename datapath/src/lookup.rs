//! Stage 3, second part: NORMAL. What the flow cache ([`crate::cache`]) says of
//! a packet is final, except this: it is looked up now, in the bridge's FDB.

use crate::drop_reason::DropReason;
use crate::fdb::Learned;
use crate::parse::{Key, Station};
use crate::snapshot::BridgeView;

/// Where NORMAL sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To the port with this number.
    Port(u32),
    /// To every other port of the bridge.
    Flood,
    /// Nowhere.
    Drop(DropReason),
}

/// NORMAL for the packets of a burst that came in on one port, one after the
/// other.
///
/// Packets of a burst come in runs of one conversation: what was just found is
/// good for the next one.
pub struct Normal<'b> {
    pub bridge: &'b BridgeView,
    pub ingress: u32,
    pub second: u32,
    // No station has all bits clear.
    learned: Station,
    decided: (Station, Destination),
}

impl<'b> Normal<'b> {
    /// For a burst from port `ingress` in this second.
    #[inline(always)]
    pub fn new(bridge: &'b BridgeView, ingress: u32, second: u32) -> Self {
        Self {
            bridge,
            ingress,
            second,
            learned: Station::default(),
            decided: (Station::default(), Destination::Flood),
        }
    }

    /// Learns the source and looks up the destination.
    #[inline(always)]
    pub fn decide(&mut self, key: &Key) -> Destination {
        if key.source != self.learned {
            if !key.source.is_group()
                && self.bridge.fdb.learn(key.source, self.ingress, self.second) != Learned::Known
            {
                // What was decided may have been about this very station.
                self.decided.0 = Station::default();
            }
            self.learned = key.source;
        }
        if key.destination != self.decided.0 {
            self.decided = (key.destination, normal(key.destination, self.bridge, self.ingress));
        }
        self.decided.1
    }
}

/// Where a learning switch sends a frame.
#[inline(always)]
pub fn normal(destination: Station, bridge: &BridgeView, ingress: u32) -> Destination {
    if destination.is_group() {
        return if destination.is_reserved() {
            Destination::Drop(DropReason::ReservedMulticast)
        } else {
            Destination::Flood
        };
    }
    match bridge.fdb.lookup(destination) {
        None => Destination::Flood,
        Some(port) if port == ingress => Destination::Drop(DropReason::SameIngress),
        Some(port) => Destination::Port(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{self, TxLists};
    use crate::fdb::Fdb;
    use crate::table_memory::TableMemory;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::Arc;

    fn bridge(members: Vec<u32>, fail_mode: FailMode) -> BridgeView {
        let memory = TableMemory::ordinary(Fdb::words_for(1024));
        BridgeView {
            fdb: Arc::new(Fdb::new(memory, 1024)),
            fail_mode,
            members,
        }
    }

    /// One frame: source, destination and VLAN.
    type Frame = (u8, u8, u16);

    fn station(n: u8, vlan: u16) -> Station {
        match n {
            0 => Station::new([0xff; 6], vlan),
            1 => Station::new([1, 0x80, 0xc2, 0, 0, 2], vlan),
            n => Station::new([2, 0, 0, 0, 0, n], vlan),
        }
    }

    /// A learning switch as one would write it down: one frame after the other.
    #[derive(Default)]
    struct Naive(HashMap<Station, u32>);

    impl Naive {
        fn forward(
            &mut self,
            (source, destination, vlan): Frame,
            ingress: u32,
            members: &[u32],
        ) -> Result<Vec<u32>, DropReason> {
            let (source, destination) = (station(source, vlan), station(destination, vlan));
            if source.mac()[0] & 1 == 0 {
                self.0.insert(source, ingress);
            }
            if destination.mac()[..5] == [1, 0x80, 0xc2, 0, 0] {
                return Err(DropReason::ReservedMulticast);
            }
            match self.0.get(&destination) {
                Some(port) if *port == ingress => Err(DropReason::SameIngress),
                Some(port) => Ok(vec![*port]),
                None => {
                    let others: Vec<_> =
                        members.iter().copied().filter(|p| *p != ingress).collect();
                    match others.is_empty() {
                        true => Err(DropReason::NoDestination),
                        false => Ok(others),
                    }
                }
            }
        }
    }

    proptest! {
        /// Bursts through lookup and action come to what the naive switch does
        /// with the same frames one by one: same ports, same order, same drops.
        #[test]
        fn bursts_equal_the_naive_switch(
            ports in 1u32..5,
            bursts in proptest::collection::vec(
                (1u32..5, proptest::collection::vec((0u8..8, 0u8..8, 0u16..3), 1..BURST)),
                1..20,
            ),
        ) {
            let members: Vec<u32> = (1..=ports).collect();
            let bridge = bridge(members.clone(), FailMode::Standalone);
            let mut naive = Naive::default();
            let (mut verdicts, mut lists) = (Verdicts::default(), TxLists::default());
            for (ingress, frames) in bursts {
                let ingress = ingress.min(ports);
                let keys: Vec<Key> = frames.iter().map(|(source, destination, vlan)| Key {
                    source: station(*source, *vlan),
                    destination: station(*destination, *vlan),
                    flow_hash: 0,
                }).collect();
                lookup(&keys, &bridge, ingress, 1, &mut verdicts);
                let mut drops = Vec::new();
                let replicated = action::apply(
                    &verdicts, keys.len(), ingress, &bridge, &mut lists, |reason| drops.push(reason));
                let mut sent: HashMap<u32, Vec<u8>> = HashMap::new();
                while let Some((port, list)) = lists.pop() {
                    sent.insert(port, list.to_vec());
                }

                let mut expected: HashMap<u32, Vec<u8>> = HashMap::new();
                let mut expected_drops = Vec::new();
                let mut copies = 0;
                for (index, frame) in (0u8..).zip(&frames) {
                    match naive.forward(*frame, ingress, &members) {
                        Err(reason) => expected_drops.push(reason),
                        Ok(to) => {
                            copies += to.len() as u64 - 1;
                            for port in to {
                                expected.entry(port).or_default().push(index);
                            }
                        }
                    }
                }
                prop_assert_eq!(sent, expected);
                prop_assert_eq!(drops, expected_drops);
                prop_assert_eq!(replicated, copies);
            }
        }
    }

    #[test]
    fn a_secure_bridge_passes_and_learns_nothing() {
        let bridge = bridge(vec![1, 2], FailMode::Secure);
        let key = Key {
            source: station(5, 0),
            destination: station(0, 0),
            flow_hash: 0,
        };
        let mut verdicts = Verdicts::default();
        lookup(&[key], &bridge, 1, 1, &mut verdicts);
        assert_eq!(verdicts.of(0), Verdict::Drop(DropReason::NoFlow));
        assert_eq!(bridge.fdb.len(), 0);
    }
}
