//! Stage 4: verdicts → what goes to which port. Frames for several ports are
//! listed several times and copied from the same place.

use arrayvec::ArrayVec;
use ringway_vhost::BURST;

use crate::drop_reason::DropReason;
use crate::lookup::{Verdict, Verdicts};
use crate::snapshot::{BridgeView, MAX_PORTS};

/// For every port, which packets of the burst go to it, in order.
pub struct TxLists {
    lists: Box<[ArrayVec<u8, BURST>]>,
    active: ArrayVec<u32, MAX_PORTS>,
}

impl Default for TxLists {
    fn default() -> Self {
        Self {
            lists: (0..MAX_PORTS).map(|_| ArrayVec::new()).collect(),
            active: ArrayVec::new(),
        }
    }
}

impl TxLists {
    #[inline(always)]
    fn push(&mut self, port: u32, packet: usize) {
        let Some(list) = self.lists.get_mut(port as usize) else {
            return;
        };
        if list.is_empty() {
            self.active.push(port);
        }
        list.push(packet as u8);
    }

    /// Takes the next port with its list; the list is empty afterwards.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<(u32, ArrayVec<u8, BURST>)> {
        let port = self.active.pop()?;
        Some((port, std::mem::take(self.lists.get_mut(port as usize)?)))
    }
}

/// Lists the packets of a burst under their ports, calls `drop` for those that
/// go nowhere, and returns how many copies beyond the first will be made.
#[inline(always)]
pub fn apply(
    verdicts: &Verdicts,
    count: usize,
    ingress: u32,
    bridge: &BridgeView,
    lists: &mut TxLists,
    mut drop: impl FnMut(DropReason),
) -> u64 {
    let mut replicated = 0;
    for packet in 0..count {
        match verdicts.of(packet) {
            Verdict::Output(port) => lists.push(port, packet),
            Verdict::Drop(reason) => drop(reason),
            Verdict::Flood => {
                let mut copies = 0u64;
                for port in bridge.members.iter().filter(|port| **port != ingress) {
                    lists.push(*port, packet);
                    copies += 1;
                }
                match copies {
                    0 => drop(DropReason::NoDestination),
                    copies => replicated += copies - 1,
                }
            }
        }
    }
    replicated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_the_order_and_are_empty_after_use() {
        let mut lists = TxLists::default();
        for packet in 0..5 {
            lists.push(if packet % 2 == 0 { 7 } else { 9 }, packet);
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
