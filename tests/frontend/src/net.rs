//! A well-behaved virtio-net driver: whole frames in and out, simple rather
//! than fast.

use std::time::{Duration, Instant};

use crate::{Error, Gpa, Guest, features};

/// Length of `virtio_net_hdr` with VERSION_1, in bytes.
pub const HEADER_LEN: usize = 12;

/// How a [`NetDriver`] lays out its buffers.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// Bytes of each receive buffer, header included. Smaller than a frame is
    /// fine with MRG_RXBUF.
    pub receive: u32,
    /// Bytes of each transmit buffer, header included.
    pub transmit: u32,
    /// Keep the receiveqs filled.
    pub fill: bool,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            receive: 2048,
            transmit: 2048,
            fill: true,
        }
    }
}

/// A frame as the backend delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// `virtio_net_hdr`, 12 bytes as they came.
    pub header: [u8; HEADER_LEN],
    /// The Ethernet frame, without FCS.
    pub frame: Vec<u8>,
    /// Chains it took (1 without MRG_RXBUF).
    pub chains: u16,
}

/// The driver of all queue pairs of a guest.
pub struct NetDriver {
    /// The guest; its rings may be used directly too.
    pub guest: Guest,
    buffers: Buffers,
    /// Guest-physical address of the buffer of each descriptor, by queue.
    areas: Vec<Gpa>,
}

/// Index of the receiveq of queue pair `pair`.
pub fn receiveq(pair: usize) -> usize {
    2 * pair
}

/// Index of the transmitq of queue pair `pair`.
pub fn transmitq(pair: usize) -> usize {
    2 * pair + 1
}

impl NetDriver {
    /// A driver with 2 KiB buffers.
    pub fn new(guest: Guest) -> Result<Self, Error> {
        Self::with_buffers(guest, Buffers::default())
    }

    /// A driver with buffers of the sizes given.
    pub fn with_buffers(guest: Guest, buffers: Buffers) -> Result<Self, Error> {
        let mut areas = Vec::new();
        let mut gpa = guest.free_gpa;
        for (queue, ring) in guest.rings.iter().enumerate() {
            let each = if queue % 2 == 0 {
                buffers.receive
            } else {
                buffers.transmit
            };
            let need = u64::from(each) * u64::from(ring.layout().size);
            if !guest.memory.contains(gpa, need as usize) {
                return Err(Error::NoRoom { gpa, need });
            }
            areas.push(gpa);
            gpa += need;
        }
        let mut driver = Self {
            guest,
            buffers,
            areas,
        };
        if buffers.fill {
            for pair in 0..driver.guest.rings.len() / 2 {
                driver.refill(pair);
            }
        }
        Ok(driver)
    }

    /// Gives all free receive buffers of a pair to the backend.
    pub fn refill(&mut self, pair: usize) {
        let queue = receiveq(pair);
        let ring = &mut self.guest.rings[queue];
        let mut added = false;
        // One descriptor per chain, and its number is the buffer's.
        while let Some(buffer) = ring.peek_free() {
            let gpa = self.areas[queue] + u64::from(buffer) * u64::from(self.buffers.receive);
            if ring
                .add_chain(&[(gpa, self.buffers.receive, true)])
                .is_err()
            {
                break;
            }
            added = true;
        }
        if added {
            ring.kick_if_wanted();
        }
    }

    /// Sends a frame with an empty header; false if the ring is full.
    ///
    /// # Panics
    /// If the frame is longer than a transmit buffer.
    pub fn send(&mut self, pair: usize, frame: &[u8]) -> bool {
        self.send_with_header(pair, &[0; HEADER_LEN], frame)
    }

    /// Sends a frame with the `virtio_net_hdr` given; false if the ring is full.
    ///
    /// # Panics
    /// If the frame is longer than a transmit buffer.
    pub fn send_with_header(
        &mut self,
        pair: usize,
        header: &[u8; HEADER_LEN],
        frame: &[u8],
    ) -> bool {
        let len = (HEADER_LEN + frame.len()) as u32;
        assert!(
            len <= self.buffers.transmit,
            "frame of {} bytes in a transmit buffer of {}",
            frame.len(),
            self.buffers.transmit
        );
        self.reclaim(pair);
        let queue = transmitq(pair);
        let ring = &mut self.guest.rings[queue];
        let Some(buffer) = ring.peek_free() else {
            return false;
        };
        let gpa = self.areas[queue] + u64::from(buffer) * u64::from(self.buffers.transmit);
        self.guest.memory.write_bytes(gpa, header);
        self.guest
            .memory
            .write_bytes(gpa + HEADER_LEN as u64, frame);
        let added = ring.add_chain(&[(gpa, len, false)]).is_ok();
        ring.kick_if_wanted();
        added
    }

    /// Collects transmitted frames; the number still at the backend is
    /// returned.
    pub fn reclaim(&mut self, pair: usize) -> usize {
        let ring = &mut self.guest.rings[transmitq(pair)];
        while ring.poll_used().is_some() {}
        usize::from(ring.layout().size) - ring.free_descriptors()
    }

    /// Waits until the backend has taken all frames; false on timeout.
    pub fn flush(&mut self, pair: usize, timeout: Duration) -> bool {
        let start = Instant::now();
        while self.reclaim(pair) > 0 {
            if start.elapsed() > timeout {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// The next frame, if there is one.
    pub fn recv(&mut self, pair: usize) -> Option<Vec<u8>> {
        self.recv_with_header(pair).map(|received| received.frame)
    }

    /// The next frame with its header, if there is one.
    ///
    /// # Panics
    /// If the backend breaks the rules: a length beyond the buffer, a frame
    /// shorter than its header, fewer buffers used than announced.
    pub fn recv_with_header(&mut self, pair: usize) -> Option<Received> {
        let first = self.take_buffer(pair)?;
        assert!(first.len() >= HEADER_LEN, "the header does not fit");
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&first[..HEADER_LEN]);
        let mut frame = first[HEADER_LEN..].to_vec();
        let mergeable = self.guest.features & features::MRG_RXBUF != 0;
        let chains = if mergeable {
            u16::from_le_bytes([header[10], header[11]])
        } else {
            1
        };
        assert!(chains >= 1, "the backend announced no buffers");
        for taken in 1..chains {
            let more = self.take_buffer(pair);
            let more = more.unwrap_or_else(|| panic!("{taken} of {chains} buffers are there"));
            frame.extend(more);
        }
        self.refill(pair);
        Some(Received {
            header,
            frame,
            chains,
        })
    }

    /// The next frame as soon as it comes; `None` on timeout.
    pub fn recv_within(&mut self, pair: usize, timeout: Duration) -> Option<Vec<u8>> {
        let start = Instant::now();
        loop {
            if let Some(frame) = self.recv(pair) {
                return Some(frame);
            }
            if start.elapsed() > timeout {
                return None;
            }
            std::thread::yield_now();
        }
    }

    fn take_buffer(&mut self, pair: usize) -> Option<Vec<u8>> {
        let queue = receiveq(pair);
        let used = self.guest.rings[queue].poll_used()?;
        assert!(used.len <= self.buffers.receive, "{used:?} is too long");
        let gpa = self.areas[queue] + u64::from(used.id) * u64::from(self.buffers.receive);
        Some(self.guest.memory.read_bytes(gpa, used.len as usize))
    }
}
