//! Stage 3, second part: NORMAL. What the flow cache ([`crate::cache`]) says of
//! a packet is final, except this: it is looked up now, in the bridge's FDB.

use crate::drop_reason::DropReason;
use crate::fdb::{Fdb, Learned};
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
            learned: Station::NONE,
            decided: (Station::NONE, Destination::Flood),
        }
    }

    /// Learns the source and looks up the destination.
    #[inline(always)]
    pub fn decide(&mut self, key: &Key) -> Destination {
        if key.source != self.learned {
            if !key.source.is_group() {
                match self.bridge.fdb.learn(key.source, self.ingress, self.second) {
                    Learned::Known => {}
                    // Asked again for the station's next packet.
                    Learned::OverLimit => return Destination::Drop(DropReason::FdbLimit),
                    Learned::Stays => return Destination::Drop(DropReason::MacMoveDenied),
                    // What was decided may have been about this very station.
                    Learned::New | Learned::Moved | Learned::Refused => {
                        self.decided.0 = Station::NONE;
                    }
                }
            }
            self.learned = key.source;
        }
        if key.destination != self.decided.0 {
            self.decided = (
                key.destination,
                normal(key.destination, &self.bridge.fdb, self.ingress),
            );
        }
        self.decided.1
    }
}

/// Where a learning switch sends a frame.
#[inline(always)]
pub fn normal(destination: Station, fdb: &Fdb, ingress: u32) -> Destination {
    if destination.is_group() {
        return if destination.is_reserved() {
            Destination::Drop(DropReason::ReservedMulticast)
        } else {
            Destination::Flood
        };
    }
    match fdb.lookup(destination) {
        None => Destination::Flood,
        Some(port) if port == ingress => Destination::Drop(DropReason::SameIngress),
        Some(port) => Destination::Port(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{Rig, standalone};
    use proptest::prelude::*;
    use ringway_vhost::BURST;
    use std::collections::HashMap;

    /// One frame: source, destination and VLAN.
    type Frame = (u8, u8, u16);

    fn mac(n: u8) -> [u8; 6] {
        match n {
            0 => [0xff; 6],
            1 => [1, 0x80, 0xc2, 0, 0, 2],
            n => [2, 0, 0, 0, 0, n],
        }
    }

    fn bytes((source, destination, vlan): Frame) -> Vec<u8> {
        let mut frame = [mac(destination), mac(source)].concat();
        if vlan > 0 {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend([0x12, 0x34]);
        frame.resize(60, 0);
        frame
    }

    /// A learning switch as one would write it down: one frame after the other.
    #[derive(Default)]
    struct Naive(HashMap<([u8; 6], u16), u32>);

    impl Naive {
        fn forward(
            &mut self,
            (source, destination, vlan): Frame,
            ingress: u32,
            members: &[u32],
        ) -> Result<Vec<u32>, DropReason> {
            let (source, destination) = (mac(source), mac(destination));
            if source[0] & 1 == 0 {
                self.0.insert((source, vlan), ingress);
            }
            if destination[..5] == [1, 0x80, 0xc2, 0, 0] {
                return Err(DropReason::ReservedMulticast);
            }
            match self.0.get(&(destination, vlan)) {
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
        /// Bursts through flow cache, NORMAL and action come to what the naive
        /// switch does with the same frames one by one: same ports, same order,
        /// same drops.
        #[test]
        fn bursts_equal_the_naive_switch(
            ports in 1u32..5,
            bursts in proptest::collection::vec(
                (1u32..5, proptest::collection::vec((0u8..8, 0u8..8, 0u16..3), 1..BURST)),
                1..20,
            ),
        ) {
            let members: Vec<u32> = (1..=ports).collect();
            let mut rig = Rig::new(standalone(), &members);
            let mut naive = Naive::default();
            for (ingress, frames) in bursts {
                let ingress = ingress.min(ports);
                let frames_bytes: Vec<_> = frames.iter().map(|frame| bytes(*frame)).collect();
                let outcome = rig.burst(ingress, &frames_bytes);

                let mut expected: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
                let mut expected_drops: HashMap<DropReason, u64> = HashMap::new();
                let mut copies = 0;
                for (bytes, frame) in frames_bytes.iter().zip(&frames) {
                    match naive.forward(*frame, ingress, &members) {
                        Err(reason) => *expected_drops.entry(reason).or_default() += 1,
                        Ok(to) => {
                            copies += to.len() as u64 - 1;
                            for port in to {
                                expected.entry(port).or_default().push(bytes.clone());
                            }
                        }
                    }
                }
                prop_assert_eq!(outcome.sent, expected);
                prop_assert_eq!(outcome.drops, expected_drops);
                prop_assert_eq!(outcome.replicated, copies);
            }
        }
    }

    #[test]
    fn without_rules_nothing_passes_and_nothing_is_learned() {
        let mut rig = Rig::new(Vec::new(), &[1, 2]);
        let outcome = rig.burst(1, &[bytes((5, 0, 0))]);
        assert_eq!(outcome.drops, HashMap::from([(DropReason::NoFlow, 1)]));
        assert!(outcome.sent.is_empty());
        assert_eq!(rig.bridge().fdb.len(), 0);
    }
}
