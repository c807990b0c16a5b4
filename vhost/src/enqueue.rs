//! Switch → guest: copies packets into a guest's receive ring.
//!
//! 1. find as many receive chains as there are packets,
//! 2. read each descriptor once, resolve it, prefetch the buffer for writing
//!    (both `ring/`),
//! 3. write virtio-net header, head and body,
//! 4. publish all with one write that shows them, notify if wanted.

#![allow(unsafe_code)]
// UNSAFETY: copies into guest memory through pointers resolved here.

use arrayvec::ArrayVec;

use crate::packet::{BURST, MAX_SEGMENTS, Packets, Segment, VNET_HEADER_BYTES, copy_short};
use crate::ring::{AnyLayout, Buffer, Chain, Found, Layout, Progress, Ring, RingFault, Written};

/// Most receive chains that one frame may be spread over (mergeable buffers):
/// a 64 KiB frame needs 43 of the usual 1,526 bytes. More would let a guest
/// with tiny buffers keep the switch busy.
const MAX_CHAINS: usize = 128;

/// How often a ring in use by another PMD is looked at before giving up; a
/// burst of that PMD takes a few microseconds.
const CLAIM_ATTEMPTS: u32 = 2000;

/// What came of an enqueue; every packet is in one of the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enqueued {
    /// Packets the guest has now.
    pub delivered: u32,
    /// Their bytes, without virtio-net headers.
    pub bytes: u64,
    /// Dropped: no receive buffers.
    pub ring_full: u32,
    /// Dropped: the frame does not fit the buffers.
    pub too_small: u32,
    /// Which of the list these are, the first in the lowest bit: of an
    /// oversized frame there may be segments that fit.
    pub too_small_at: u64,
    /// Dropped: another PMD kept the ring.
    pub contended: u32,
    /// Dropped: the guest broke the ring, now or before.
    pub faulted: u32,
    /// Dropped: the memory that the packets come from went away.
    pub lost: u32,
    /// The fault, if it happened now.
    pub fault: Option<RingFault>,
    /// Guest notifications sent.
    pub notified: bool,
}

/// Why a packet did not get in.
enum Miss {
    RingFull,
    TooSmall,
    /// The memory that the packet lies in is gone.
    Lost,
    Fault(RingFault),
}

impl Ring {
    /// Copies the packets whose indexes are in `list`, in that order; at most
    /// 64 of them.
    #[inline]
    pub fn enqueue(&self, packets: &Packets<'_>, list: &[u8]) -> Enqueued {
        match &self.layout {
            _ if self.log.is_some() => self.enqueue_logged(packets, list),
            AnyLayout::Split(split) => self.enqueue_in::<_, false>(split, packets, list),
            AnyLayout::Packed(packed) => self.enqueue_in::<_, false>(packed, packets, list),
        }
    }

    /// The same, noting what is written: compiled apart, so that it costs
    /// nothing while no guest is moved.
    #[cold]
    #[inline(never)]
    fn enqueue_logged(&self, packets: &Packets<'_>, list: &[u8]) -> Enqueued {
        match &self.layout {
            AnyLayout::Split(split) => self.enqueue_in::<_, true>(split, packets, list),
            AnyLayout::Packed(packed) => self.enqueue_in::<_, true>(packed, packets, list),
        }
    }

    #[inline(always)]
    fn enqueue_in<L: Layout, const LOG: bool>(
        &self,
        layout: &L,
        packets: &Packets<'_>,
        list: &[u8],
    ) -> Enqueued {
        let mut outcome = Enqueued::default();
        let Some(mut progress) = self.state.progress.claim_within(CLAIM_ATTEMPTS) else {
            outcome.contended = list.len() as u32;
            return outcome;
        };
        if self.state.fault().is_some() {
            outcome.faulted = list.len() as u32;
            return outcome;
        }
        layout.prefetch(&progress);
        let mut left = list;
        while !left.is_empty() {
            match self.deliver::<L, LOG>(layout, &mut progress, packets, left, &mut outcome) {
                Ok(rest) => left = rest,
                Err((rest, Miss::TooSmall)) => {
                    outcome.too_small += 1;
                    outcome.too_small_at |= 1 << (list.len() - rest.len()).min(63);
                    left = &rest[1..];
                }
                Err((rest, Miss::RingFull)) => {
                    outcome.ring_full = rest.len() as u32;
                    break;
                }
                Err((rest, Miss::Lost)) => {
                    outcome.lost = rest.len() as u32;
                    break;
                }
                Err((rest, Miss::Fault(fault))) => {
                    self.state.set_fault(fault);
                    outcome.fault = Some(fault);
                    outcome.faulted = rest.len() as u32;
                    break;
                }
            }
        }
        if self.state.device_fault().has_lost_memory() {
            // Nobody knows what the guest got.
            return Enqueued {
                faulted: list.len() as u32,
                fault: Some(RingFault::MemoryLost),
                ..Enqueued::default()
            };
        }
        if outcome.delivered > 0 {
            // It was noted when it was completed; a frontend may have looked since.
            let held = layout.held_written(&progress).filter(|_| LOG);
            layout.publish(&mut progress);
            if LOG {
                let written = held.into_iter().chain(layout.publish_written(&progress));
                written.for_each(|written| self.note_ring(written));
            }
            outcome.notified = self.notify_if_wanted(layout, &mut progress);
        }
        outcome
    }

    /// Delivers as much of `list` as there are one-buffer chains for, or one
    /// packet over other chains. Returns what is left of the list.
    #[inline(always)]
    fn deliver<'l, L: Layout, const LOG: bool>(
        &self,
        layout: &L,
        progress: &mut Progress,
        packets: &Packets<'_>,
        list: &'l [u8],
        outcome: &mut Enqueued,
    ) -> Result<&'l [u8], (&'l [u8], Miss)> {
        let mut buffers = [Buffer::NONE; BURST];
        let wanted = list.len().min(BURST);
        let (count, fault): Found = layout.find(self, progress, wanted, true, &mut buffers);
        for (i, buffer) in buffers.iter().enumerate().take(count) {
            let index = usize::from(list[i]);
            let frame_len = packets.frame_len(index);
            let total = VNET_HEADER_BYTES + frame_len;
            if buffer.ptr.is_null() || (buffer.len as usize) < total {
                // From here on chains and packets may no longer go in pairs.
                return match self.deliver_spanning::<L, LOG>(layout, progress, packets, index) {
                    Ok(()) => {
                        outcome.delivered += 1;
                        outcome.bytes += frame_len as u64;
                        Ok(&list[i + 1..])
                    }
                    Err(miss) => Err((&list[i..], miss)),
                };
            }
            // SAFETY: the buffer has at least `total` bytes.
            if !unsafe { write_packet(packets, index, buffer.ptr) } {
                return Err((&list[i..], Miss::Lost));
            }
            if LOG {
                self.note_buffer(buffer.ptr, total);
            }
            let chain = layout.found(progress, i, buffer.id);
            self.complete::<L, LOG>(layout, progress, chain, total as u32);
            outcome.delivered += 1;
            outcome.bytes += frame_len as u64;
        }
        match fault {
            Some(fault) => Err((&list[count..], Miss::Fault(fault))),
            None if count == 0 => Err((list, Miss::RingFull)),
            None => Ok(&list[count..]),
        }
    }

    #[inline(always)]
    fn complete<L: Layout, const LOG: bool>(
        &self,
        layout: &L,
        progress: &mut Progress,
        chain: Chain,
        len: u32,
    ) {
        let written = layout.next_written(progress);
        layout.complete(progress, chain, len);
        if LOG {
            self.note_ring(written);
        }
    }

    fn note_buffer(&self, at: *const u8, len: usize) {
        if let Some(log) = &self.log {
            log.mark_buffer(&self.memory, at, len);
        }
    }

    fn note_ring(&self, written: Written) {
        if let Some(log) = &self.log {
            log.mark_ring(&self.memory, written);
        }
    }

    /// One packet over any chains: several descriptors or indirect tables,
    /// and with mergeable buffers several chains. Takes the chains only if the
    /// whole packet fits.
    #[inline(never)]
    fn deliver_spanning<L: Layout, const LOG: bool>(
        &self,
        layout: &L,
        progress: &mut Progress,
        packets: &Packets<'_>,
        index: usize,
    ) -> Result<(), Miss> {
        let header_bytes = self.features.header_bytes();
        let total = header_bytes + packets.frame_len(index);
        let mut parts: ArrayVec<(*mut u8, u32), MAX_SEGMENTS> = ArrayVec::new();
        // Per chain how much of the packet it gets.
        let mut chains: ArrayVec<(Chain, u32), MAX_CHAINS> = ArrayVec::new();
        let (mut room, mut at) = (0usize, progress.next);
        while room < total {
            if chains.is_full() || (!self.features.mergeable && !chains.is_empty()) {
                return Err(Miss::TooSmall);
            }
            let found = layout.chain(progress, at).map_err(Miss::Fault)?;
            let (chain, next) = found.ok_or(Miss::RingFull)?;
            at = next;
            let before = room;
            let mut full = false;
            let enough = |ptr, len| {
                let useful = (len as usize).min(total - room) as u32;
                if useful > 0 && parts.try_push((ptr, useful)).is_err() {
                    full = true;
                    return false;
                }
                room += useful as usize;
                room < total
            };
            layout
                .walk(self, chain, true, enough)
                .map_err(Miss::Fault)?;
            if full {
                return Err(Miss::TooSmall);
            }
            if chains.is_empty() && room < header_bytes {
                return Err(Miss::Fault(RingFault::NoRoomForHeader));
            }
            chains.push((chain, (room - before) as u32));
        }

        let (vnet, vnet_and_head_len) = packets.vnet_and_head(index);
        let mut header = [0u8; VNET_HEADER_BYTES];
        // SAFETY: the slot starts with VNET_HEADER_BYTES of header.
        unsafe {
            std::ptr::copy_nonoverlapping(vnet, header.as_mut_ptr(), VNET_HEADER_BYTES);
        }
        header[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let head = Segment {
            // SAFETY: the head follows the header in the slot.
            ptr: unsafe { vnet.add(VNET_HEADER_BYTES) },
            len: (vnet_and_head_len - VNET_HEADER_BYTES) as u32,
        };
        let header = Segment {
            ptr: header.as_ptr(),
            len: header_bytes as u32,
        };
        let sources = [header, head];
        let sources = sources.iter().chain(packets.segments(index));
        // SAFETY: `parts` are writable buffers with room for `total` bytes,
        // which is what the sources have together.
        unsafe { scatter(sources, &parts) };
        if packets.are_lost() {
            return Err(Miss::Lost);
        }
        if LOG {
            for (at, len) in &parts {
                self.note_buffer(*at, *len as usize);
            }
        }

        for (chain, len) in chains {
            self.complete::<L, LOG>(layout, progress, chain, len);
        }
        Ok(())
    }
}

/// Writes header (with num_buffers = 1), head and body to one buffer. False: the
/// body's memory is gone, and what was written may be zeroes in its place.
///
/// # Safety
/// `to` must be writable for the header and the whole frame.
#[inline(always)]
unsafe fn write_packet(packets: &Packets<'_>, index: usize, to: *mut u8) -> bool {
    let (from, len) = packets.vnet_and_head(index);
    // SAFETY: the slot has `len` bytes; the caller guarantees room; segments
    // are readable for their length, and source and target buffer lie in
    // different mappings or, for a guest that aliases its own buffers, are
    // bytes that this guest may garble anyway.
    unsafe {
        copy_short(from, to, len);
        to.add(10).cast::<[u8; 2]>().write_unaligned([1, 0]);
        let segments = packets.segments(index);
        if segments.is_empty() {
            // Heads were found whole before they were lent.
            return true;
        }
        let mut at = to.add(len);
        for segment in segments {
            std::ptr::copy(segment.ptr, at, segment.len as usize);
            at = at.add(segment.len as usize);
        }
    }
    !packets.are_lost()
}

/// Copies `sources` one after the other into `targets` one after the other.
///
/// # Safety
/// All must be valid for their lengths; the targets must have room for all.
unsafe fn scatter<'s>(sources: impl Iterator<Item = &'s Segment>, targets: &[(*mut u8, u32)]) {
    let mut targets = targets.iter().copied();
    let (mut to, mut room) = targets.next().unwrap_or((std::ptr::null_mut(), 0));
    for source in sources {
        let (mut from, mut left) = (source.ptr, source.len as usize);
        while left > 0 {
            if room == 0 {
                let Some(next) = targets.next() else { return };
                (to, room) = next;
                continue;
            }
            let len = left.min(room as usize);
            // SAFETY: `len` bytes are left in both, by the caller's guarantee.
            unsafe {
                std::ptr::copy(from, to, len);
                (from, to) = (from.add(len), to.add(len));
            }
            left -= len;
            room -= len as u32;
        }
    }
}
