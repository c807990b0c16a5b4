//! Switch → kernel: mergeable buffers that frames are written from.

use super::RING_SIZE;
use super::fields::Fields;

/// Bytes of a buffer: a frame of 4 KiB in one, one of 64 KiB in sixteen. An odd
/// number of cache lines, so that frames' heads spread over the cache.
const BUFFER_BYTES: usize = 4096 + 64;

pub(super) const ALL: usize = RING_SIZE as usize * BUFFER_BYTES;

/// Where `num_buffers` is in the virtio-net header.
const NUM_BUFFERS: usize = 10;

/// A receive ring, its driver's side: descriptor N is buffer N's.
pub(crate) struct ReceiveRing {
    fields: Fields,
    buffers: *mut u8,
    /// Used buffers that were looked at and are not given back yet.
    looked_at: u16,
}

// SAFETY: as `Fields`: the buffers lie in the same memory.
unsafe impl Send for ReceiveRing {}

impl ReceiveRing {
    pub(super) fn new(mut fields: Fields, buffers: *mut u8, address: u64) -> Self {
        for buffer in 0..RING_SIZE {
            let address = address + (BUFFER_BYTES * usize::from(buffer)) as u64;
            fields.describe(buffer, address, BUFFER_BYTES as u32, true, None);
            fields.push(buffer);
        }
        fields.publish();
        Self {
            fields,
            buffers,
            looked_at: 0,
        }
    }

    /// The next frame: appends its parts, header first, to `parts`, and returns in
    /// how many buffers it lies. The parts stay until that many are
    /// [`given back`](Self::give_back).
    pub(crate) fn next(&mut self, parts: &mut Vec<libc::iovec>) -> Option<u16> {
        let pending = self.fields.pending();
        if pending <= self.looked_at {
            return None;
        }
        let (first, _) = self.fields.used(self.looked_at);
        let count = self.buffer(first).wrapping_add(NUM_BUFFERS).cast::<u16>();
        // SAFETY: within the first buffer, which begins with a header of 12 bytes.
        let count = u16::from_le(unsafe { count.read_unaligned() }).max(1);
        if count > pending - self.looked_at {
            return None;
        }
        for position in self.looked_at..self.looked_at + count {
            let (buffer, len) = self.fields.used(position);
            parts.push(libc::iovec {
                iov_base: self.buffer(buffer).cast(),
                iov_len: (len as usize).min(BUFFER_BYTES),
            });
        }
        self.looked_at += count;
        Some(count)
    }

    fn buffer(&self, index: u16) -> *mut u8 {
        self.buffers
            .wrapping_add(BUFFER_BYTES * usize::from(index % RING_SIZE))
    }

    /// Gives the switch `count` buffers back, those of the oldest frames that
    /// [`next`](Self::next) told of.
    pub(crate) fn give_back(&mut self, count: u16) {
        let count = count.min(self.looked_at);
        for position in 0..count {
            let (buffer, _) = self.fields.used(position);
            self.fields.push(buffer);
        }
        self.fields.take(count);
        self.looked_at -= count;
        self.fields.publish();
    }

    /// Asks to be called when a frame comes. True: one is there already.
    pub(crate) fn want_call(&mut self) -> bool {
        self.fields.want_call();
        self.fields.pending() > 0
    }
}
