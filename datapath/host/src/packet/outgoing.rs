//! Frames on their way from a receive ring to the kernel.

use std::mem::zeroed;

use super::{HEADER, SHORT_HEADER};
use crate::ring::{BATCH, ReceiveRing};

/// Message headers for sending; made once.
#[derive(Default)]
pub(crate) struct Outgoing {
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
    frames: Vec<Frame>,
}

/// A frame to be sent.
struct Frame {
    /// Where its parts begin.
    start: usize,
    /// Its buffers in the ring.
    buffers: u16,
    /// Its bytes without header.
    len: usize,
}

// SAFETY: the pointers are written anew before each use, by the thread that uses
// them.
unsafe impl Send for Outgoing {}

impl Outgoing {
    /// Takes up to [`BATCH`] frames out of `ring`; returns how many.
    pub(crate) fn fill(&mut self, ring: &mut ReceiveRing) -> usize {
        self.headers.clear();
        self.parts.clear();
        self.frames.clear();
        while self.frames.len() < BATCH {
            let start = self.parts.len();
            // The frame's first part is to become two.
            self.parts.push(libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            });
            let Some(buffers) = ring.next(&mut self.parts) else {
                self.parts.truncate(start);
                break;
            };
            let len: usize = self.parts[start..].iter().map(|part| part.iov_len).sum();
            self.frames.push(Frame {
                start,
                buffers,
                len: len.saturating_sub(HEADER),
            });
        }
        self.frames.len()
    }

    /// Writes the headers: without `num_buffers`.
    pub(crate) fn shorten(&mut self) {
        for (nth, frame) in self.frames.iter().enumerate() {
            let next = self.frames.get(nth + 1);
            let end = next.map_or(self.parts.len(), |next| next.start);
            let parts = &mut self.parts[frame.start..end];
            let base = parts[1].iov_base.cast::<u8>();
            parts[0] = libc::iovec {
                iov_base: base.cast(),
                iov_len: SHORT_HEADER,
            };
            parts[1].iov_base = base.wrapping_add(HEADER).cast();
            parts[1].iov_len = parts[1].iov_len.saturating_sub(HEADER);
            // SAFETY: zero is a value of the structure.
            let mut header: libc::mmsghdr = unsafe { zeroed() };
            header.msg_hdr.msg_iov = parts.as_mut_ptr();
            header.msg_hdr.msg_iovlen = parts.len();
            self.headers.push(header);
        }
    }

    /// The parts of the `nth` frame, whole header first, as long as they are not
    /// [`shortened`](Self::shorten).
    pub(crate) fn parts(&self, nth: usize) -> &[libc::iovec] {
        let next = self.frames.get(nth + 1);
        let end = next.map_or(self.parts.len(), |next| next.start);
        &self.parts[self.frames[nth].start + 1..end]
    }

    /// Buffers of the ring that the `nth` frame takes.
    pub(crate) fn buffers(&self, nth: usize) -> u16 {
        self.frames[nth].buffers
    }

    /// Bytes of the `nth` frame without its header.
    pub(crate) fn frame_len(&self, nth: usize) -> usize {
        self.frames[nth].len
    }

    pub(super) fn headers(&mut self, from: usize) -> &mut [libc::mmsghdr] {
        &mut self.headers[from..]
    }
}
