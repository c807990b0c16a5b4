//! For tests: a ring of ours with its driver's end, without a session.

use std::sync::Arc;

use ringway_frontend::{Backing, GuestMemory, RingLayout};
use ringway_vhost::ring::{Position, RingAddresses, RingState};
use ringway_vhost::{RegionSpec, Ring, RingFeatures, VnetHeader};

/// Bytes of the virtio-net header.
const HEADER: usize = 12;
/// Of the memory, the rings' part.
const RING_BYTES: u64 = 64 << 10;

/// A ring, from both sides.
pub struct RingEnd {
    pub ring: Arc<Ring>,
    driver: ringway_frontend::Ring,
    memory: Arc<GuestMemory>,
    mergeable: bool,
    next: u64,
    /// Where each chain's buffer begins, in order.
    posted: std::collections::VecDeque<u64>,
}

/// A frame with its header as it is in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub header: VnetHeader,
    pub frame: Vec<u8>,
}

impl RingEnd {
    pub fn new(size: u16, features: RingFeatures, bytes: u64) -> Self {
        let bytes = RING_BYTES + bytes;
        let memory = GuestMemory::single(bytes, Backing::Shared).expect("memory");
        let memory = Arc::new(memory);
        let layout = RingLayout::at(0, size);
        assert!(layout.end() <= RING_BYTES);
        let driver = ringway_frontend::Ring::new(
            memory.clone(),
            layout,
            features.packed,
            features.event_idx,
            0,
        )
        .expect("a ring");
        let region = RegionSpec {
            gpa: 0,
            size: bytes,
            user_addr: memory.user_addr(0),
            file_offset: 0,
        };
        let file = memory.file(0).try_clone().expect("a descriptor");
        let mapped = ringway_vhost::GuestMemory::map(vec![(region, file)]).expect("mapped");
        let addresses = RingAddresses {
            descriptor: memory.user_addr(layout.desc),
            available: memory.user_addr(layout.avail),
            used: memory.user_addr(layout.used),
        };
        let start = Position::from_base(driver.base().into(), features.packed);
        let start = start.expect("a base");
        let state = Arc::new(RingState::new(start, features.packed, Arc::default()));
        let ring = Ring::resolve(
            size.into(),
            addresses,
            features,
            Arc::new(mapped),
            state,
            None,
            None,
        );
        Self {
            ring: Arc::new(ring.expect("resolved")),
            driver,
            memory,
            mergeable: features.mergeable,
            next: RING_BYTES,
            posted: Default::default(),
        }
    }

    fn room(&mut self, len: usize) -> u64 {
        let at = self.next;
        self.next += len as u64;
        assert!(self.memory.contains(at, len), "the memory is used up");
        at
    }

    /// Makes `count` receive buffers of `len` bytes available.
    pub fn post(&mut self, count: usize, len: usize) {
        for _ in 0..count {
            let at = self.room(len);
            let added = self.driver.add_chain(&[(at, len as u32, true)]);
            added.expect("room in the ring");
            self.posted.push_back(at);
        }
    }

    /// Hands over a frame in pieces that end at `cuts`, modulo its length.
    pub fn send(&mut self, header: VnetHeader, frame: &[u8], cuts: &[usize]) {
        let mut packet = vec![header.flags, header.gso_type];
        let VnetHeader {
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
            ..
        } = header;
        for word in [hdr_len, gso_size, csum_start, csum_offset, 0] {
            packet.extend(word.to_le_bytes());
        }
        packet.extend(frame);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut % packet.len()).collect();
        cuts.extend([0, packet.len()]);
        cuts.sort_unstable();
        let mut chain = Vec::new();
        for cut in cuts.windows(2) {
            let piece = &packet[cut[0]..cut[1]];
            // Not side by side, or they would be one segment.
            let at = self.room(piece.len() + 1);
            self.memory.write_bytes(at, piece);
            chain.push((at, piece.len() as u32, false));
        }
        let added = self.driver.add_chain(&chain);
        added.expect("room in the ring");
    }

    /// Takes back what was sent; how many chains.
    pub fn reclaim(&mut self) -> usize {
        std::iter::from_fn(|| self.driver.poll_used()).count()
    }

    /// The next frame that was delivered.
    pub fn take(&mut self) -> Option<Got> {
        let first = self.take_chain()?;
        let word = |at: usize| u16::from_le_bytes([first[at], first[at + 1]]);
        let header = VnetHeader {
            flags: first[0],
            gso_type: first[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        };
        let chains = if self.mergeable { word(10) } else { 1 };
        let mut frame = first[HEADER..].to_vec();
        for _ in 1..chains {
            frame.extend(self.take_chain().expect("as many chains as announced"));
        }
        Some(Got { header, frame })
    }

    fn take_chain(&mut self) -> Option<Vec<u8>> {
        let used = self.driver.poll_used()?;
        let at = self.posted.pop_front().expect("a buffer was posted");
        Some(self.memory.read_bytes(at, used.len as usize))
    }
}
