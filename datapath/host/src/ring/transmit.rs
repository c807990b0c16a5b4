//! Kernel → switch: buffers that frames are read into.

use nix::sys::eventfd::EventFd;
use ringway_vhost::{MAX_FRAME_BYTES, VNET_HEADER_BYTES};

use super::BATCH;
use super::fields::Fields;

/// Frames on their way at the most.
const SLOTS: u16 = 512;
/// Of these, frames longer than [`SMALL_BYTES`] at the most.
const LARGE: u16 = 64;

/// In front of the virtio-net header, so that the frame begins on a cache line
/// and a VLAN tag can be put back into it.
const HEADROOM: usize = 52;
/// Bytes of a frame that its small buffer holds.
pub(crate) const SMALL_BYTES: usize = 2048;
/// An odd number of cache lines, so that frames' heads spread over the cache.
const SMALL_STRIDE: usize = HEADROOM + VNET_HEADER_BYTES + SMALL_BYTES;
/// Bytes of a frame that its large buffer holds: one more than any frame has, so
/// that one that was cut is known.
pub(crate) const LARGE_BYTES: usize = MAX_FRAME_BYTES - SMALL_BYTES + 1;
const LARGE_STRIDE: usize = LARGE_BYTES.next_multiple_of(4096);

pub(super) const SMALL_ALL: usize = SLOTS as usize * SMALL_STRIDE;
pub(super) const LARGE_ALL: usize = LARGE as usize * LARGE_STRIDE;

const NO_LARGE: u16 = u16::MAX;

/// Where to read a frame into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    /// [`VNET_HEADER_BYTES`] of header and [`SMALL_BYTES`] of frame; there are
    /// bytes to spare in front of it.
    pub(crate) small: *mut u8,
    /// [`LARGE_BYTES`] for the rest of the frame.
    pub(crate) large: *mut u8,
}

/// A frame that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Its bytes without header, as they were read.
    pub(crate) len: usize,
    /// Bytes that it has more, for its header was moved down by as many.
    pub(crate) grown: usize,
}

/// A transmit ring, its driver's side. Descriptors below [`SLOTS`] are the small
/// buffers', those from there on the large ones'.
pub(crate) struct TransmitRing {
    fields: Fields,
    small: *mut u8,
    small_address: u64,
    large: *mut u8,
    large_address: u64,
    /// Slots and large buffers to be used next, from the end: those that came
    /// back last are still in the cache.
    free_slots: Vec<u16>,
    free_large: Vec<u16>,
    /// The large buffer of each slot's frame.
    large_of: Box<[u16]>,
    kick: EventFd,
}

// SAFETY: as `Fields`: the buffers lie in the same memory.
unsafe impl Send for TransmitRing {}

impl TransmitRing {
    pub(super) fn new(
        fields: Fields,
        small: *mut u8,
        small_address: u64,
        large: *mut u8,
        large_address: u64,
        kick: EventFd,
    ) -> Self {
        Self {
            fields,
            small,
            small_address,
            large,
            large_address,
            free_slots: (0..SLOTS).rev().collect(),
            free_large: (0..LARGE).rev().collect(),
            large_of: vec![NO_LARGE; usize::from(SLOTS)].into(),
            kick,
        }
    }

    /// Takes back what the switch is done with; returns for how many frames
    /// there are buffers now.
    pub(crate) fn room(&mut self) -> usize {
        let done = self.fields.pending();
        for position in 0..done {
            let (slot, _) = self.fields.used(position);
            let Some(large) = self.large_of.get_mut(usize::from(slot)) else {
                continue;
            };
            if *large != NO_LARGE {
                self.free_large.push(*large);
                *large = NO_LARGE;
            }
            self.free_slots.push(slot);
        }
        self.fields.take(done);
        self.free_slots.len().min(self.free_large.len())
    }

    /// The buffers of the `nth` next frame, which must be below
    /// [`room`](Self::room).
    pub(crate) fn buffers(&self, nth: usize) -> Buffers {
        let slot = self.free_slots[self.free_slots.len() - 1 - nth];
        let large = self.free_large[self.free_large.len() - 1 - nth];
        let small = SMALL_STRIDE * usize::from(slot) + HEADROOM;
        Buffers {
            small: self.small.wrapping_add(small),
            large: self.large.wrapping_add(LARGE_STRIDE * usize::from(large)),
        }
    }

    /// Makes available what was read into the next buffers: `frames[n]` into the
    /// `nth`. `None`: those are to be used again. At most [`BATCH`].
    pub(crate) fn commit(&mut self, frames: &[Option<Received>]) {
        let (slots, larges) = (self.free_slots.len(), self.free_large.len());
        let mut taken = [(0, 0); BATCH];
        for (nth, pair) in taken.iter_mut().enumerate().take(frames.len()) {
            *pair = (
                self.free_slots[slots - 1 - nth],
                self.free_large[larges - 1 - nth],
            );
        }
        self.free_slots.truncate(slots - frames.len());
        self.free_large.truncate(larges - frames.len());
        for ((slot, large), frame) in taken.into_iter().zip(frames) {
            let Some(frame) = frame else {
                self.free_slots.push(slot);
                self.free_large.push(large);
                continue;
            };
            let start = HEADROOM - frame.grown;
            let address = self.small_address + (SMALL_STRIDE * usize::from(slot) + start) as u64;
            let in_small = VNET_HEADER_BYTES + frame.grown + frame.len.min(SMALL_BYTES);
            let in_large = frame.len.saturating_sub(SMALL_BYTES);
            if in_large == 0 {
                self.fields
                    .describe(slot, address, in_small as u32, false, None);
                self.free_large.push(large);
            } else {
                let next = SLOTS + large;
                self.fields
                    .describe(slot, address, in_small as u32, false, Some(next));
                let address = self.large_address + (LARGE_STRIDE * usize::from(large)) as u64;
                self.fields
                    .describe(next, address, in_large as u32, false, None);
                self.large_of[usize::from(slot)] = large;
            }
            self.fields.push(slot);
        }
        self.fields.publish();
    }

    /// Wakes the poll-mode core if it sleeps.
    pub(crate) fn kick(&mut self) -> bool {
        let wanted = self.fields.kick_is_wanted();
        if wanted {
            // A full eventfd wakes as well as a fuller one.
            let _ = self.kick.write(1);
        }
        wanted
    }

    /// Asks to be called when a frame's buffers come back. True: some have come
    /// already.
    pub(crate) fn want_call(&mut self) -> bool {
        self.fields.want_call();
        self.fields.pending() > 0
    }
}
