//! Packets for controllers: from a poll-mode core to the control plane.
//!
//! One ring per core, made once. The core copies a packet into the next slot,
//! or counts it as lost when nobody took the last ones; it never waits.

use std::sync::atomic::{AtomicU64, Ordering};

use ringway_flow::action::Reason;

/// Packets that wait at the most.
const SLOTS: usize = 64;
/// Bytes of a packet that controllers get at the most: a jumbo frame.
pub const PACKET_IN_BYTES: usize = 9_728;
const DATA_WORDS: usize = PACKET_IN_BYTES / 8;
const META_WORDS: usize = 3;

/// What is told with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketInMeta {
    /// Id of its bridge.
    pub bridge: u16,
    pub in_port: u32,
    pub reason: Reason,
    pub table: u8,
    pub controller: u16,
    pub frame_len: u32,
}

type Slot = [AtomicU64; META_WORDS + DATA_WORDS];

/// A ring of packets for controllers.
pub struct PacketInRing {
    slots: Box<[Slot]>,
    /// Packets put in. Written by the core.
    put: AtomicU64,
    /// Packets taken out. Written by the control plane.
    taken: AtomicU64,
    /// Packets that found no place. Written by the core.
    lost: AtomicU64,
}

impl Default for PacketInRing {
    fn default() -> Self {
        let slot = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            slots: (0..SLOTS).map(slot).collect(),
            put: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }
}

impl PacketInRing {
    /// The core: a packet with (the beginning of) its bytes. False: it is lost.
    pub fn put(&self, meta: PacketInMeta, bytes: &[u8]) -> bool {
        let put = self.put.load(Ordering::Relaxed);
        if put - self.taken.load(Ordering::Acquire) >= SLOTS as u64 {
            self.lost
                .store(self.lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return false;
        }
        let slot = &self.slots[put as usize % SLOTS];
        let bytes = &bytes[..bytes.len().min(PACKET_IN_BYTES)];
        let words = [
            u64::from(meta.in_port) << 32 | u64::from(meta.bridge),
            (meta.reason as u64) << 32 | u64::from(meta.table) << 16 | u64::from(meta.controller),
            u64::from(meta.frame_len) << 32 | bytes.len() as u64,
        ];
        let (whole, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let data = whole
            .iter()
            .chain([&last])
            .map(|bytes| u64::from_le_bytes(*bytes));
        for (to, word) in slot.iter().zip(words.into_iter().chain(data)) {
            to.store(word, Ordering::Relaxed);
        }
        self.put.store(put + 1, Ordering::Release);
        true
    }

    /// The control plane, one at a time: the oldest packet.
    pub fn take(&self) -> Option<(PacketInMeta, Vec<u8>)> {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken == self.put.load(Ordering::Acquire) {
            return None;
        }
        let slot = &self.slots[taken as usize % SLOTS];
        let word = |i: usize| slot[i].load(Ordering::Relaxed);
        let meta = PacketInMeta {
            bridge: word(0) as u16,
            in_port: (word(0) >> 32) as u32,
            reason: match word(1) >> 32 {
                0 => Reason::NoMatch,
                2 => Reason::InvalidTtl,
                _ => Reason::Action,
            },
            table: (word(1) >> 16) as u8,
            controller: word(1) as u16,
            frame_len: (word(2) >> 32) as u32,
        };
        let len = (word(2) as u32 as usize).min(PACKET_IN_BYTES);
        let words = (META_WORDS..).take(len.div_ceil(8)).map(word);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(len);
        self.taken.store(taken + 1, Ordering::Release);
        Some((meta, bytes))
    }

    /// Packets lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_as_they_went_in_until_the_ring_is_full() {
        let ring = PacketInRing::default();
        let meta = |n: usize| PacketInMeta {
            bridge: 7,
            in_port: n as u32,
            reason: Reason::InvalidTtl,
            table: 200,
            controller: 9,
            frame_len: 100_000,
        };
        for round in 0..3 {
            for n in 0..SLOTS {
                assert!(ring.put(meta(n), &vec![n as u8; n * 160 + round]));
            }
            assert!(!ring.put(meta(0), &[]));
            for n in 0..SLOTS {
                let bytes = vec![n as u8; (n * 160 + round).min(PACKET_IN_BYTES)];
                assert_eq!(ring.take(), Some((meta(n), bytes)));
            }
            assert_eq!(ring.take(), None);
        }
        assert_eq!(ring.lost(), 3);
    }
}
