//! Guest → switch: takes a burst of packets out of a guest's transmit ring.
//!
//! 1. find the chains that are available,
//! 2. read each descriptor once, resolve it, prefetch the buffer (both `ring/`),
//! 3. copy virtio-net header and head into our slot; the body stays,
//! 4. lend the packets to the caller,
//! 5. give all descriptors back, in order, with one write that shows them.

#![allow(unsafe_code)]
// UNSAFETY: copies out of guest memory through pointers resolved here.

use std::marker::PhantomData;
use std::sync::atomic::{Ordering, compiler_fence};

use arrayvec::ArrayVec;

use crate::dirty::RingLog;
use crate::gso;
use crate::packet::{
    BURST, BURST_SEGMENTS, Burst, HEAD_BYTES, MAX_FRAME_BYTES, MAX_SEGMENTS, Packet, Packets,
    Segment, VNET_F_NEEDS_CSUM, VNET_HEADER_BYTES, VnetHeader, copy_short,
};
use crate::ring::{AnyLayout, Buffer, Chain, Layout, Progress, Ring, RingFault, Written};

/// Bytes that are copied at once from the start of a buffer.
const COPY_BYTES: usize = VNET_HEADER_BYTES + HEAD_BYTES;

/// Shortest frame: an Ethernet header.
const MIN_FRAME_BYTES: usize = 14;

/// What came of a dequeue. `packets` were lent to the caller; the others were
/// returned to the guest without being looked at further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dequeued {
    /// Packets lent.
    pub packets: u32,
    /// Chains that end before an Ethernet header does.
    pub too_short: u32,
    /// Frames longer than [`MAX_FRAME_BYTES`].
    pub too_long: u32,
    /// Chains of more than [`MAX_SEGMENTS`] parts.
    pub too_many_parts: u32,
    /// virtio-net headers that ask for what was not negotiated.
    pub bad_offload: u32,
    /// Packets in memory that went away before they could be lent.
    pub lost: u32,
    /// The guest broke the ring; no more is taken from it.
    pub fault: Option<RingFault>,
}

impl Dequeued {
    #[cold]
    fn refuse(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::TooShort => self.too_short += 1,
            Refusal::TooLong => self.too_long += 1,
            Refusal::TooManyParts => self.too_many_parts += 1,
            Refusal::BadOffload => self.bad_offload += 1,
        }
    }
}

enum Refusal {
    TooShort,
    TooLong,
    TooManyParts,
    BadOffload,
}

impl Ring {
    /// Takes up to [`BURST`] packets and lends them to `use_packets`, if there
    /// are any. Returns all their descriptors to the guest before it returns.
    /// Does nothing while another PMD has the ring or after a fault.
    #[inline]
    pub fn dequeue(
        &self,
        burst: &mut Burst,
        use_packets: impl FnOnce(&mut Packets<'_>),
    ) -> Dequeued {
        let mut outcome = Dequeued::default();
        let Some(mut progress) = self.state.progress.try_claim() else {
            return outcome;
        };
        if self.state.fault().is_some() {
            return outcome;
        }
        burst.clear();
        // The layout is asked before and after, so that what is done with the
        // packets is compiled once.
        let taken = match &self.layout {
            AnyLayout::Split(split) => self.take(split, &mut progress, burst, &mut outcome),
            AnyLayout::Packed(packed) => self.take(packed, &mut progress, burst, &mut outcome),
        };
        let taken = match taken {
            Ok(taken) => taken,
            Err((taken, fault)) => {
                self.state.set_fault(fault);
                outcome.fault = Some(fault);
                taken
            }
        };
        if self.state.device_fault().has_lost_memory() {
            return self.take_lost(burst, outcome);
        }
        if burst.len > 0 {
            outcome.packets = burst.len as u32;
            burst.note_lengths();
            if let Some(mark) = &self.state.mark {
                let (start, end) = self.extent(&progress, taken);
                mark.note(start, end);
            }
            let mut packets = Packets {
                burst,
                source: self.state.device_fault(),
                memory: PhantomData,
            };
            use_packets(&mut packets);
        }
        if taken > 0 {
            match &self.layout {
                AnyLayout::Split(split) => self.give_back(split, &mut progress, taken),
                AnyLayout::Packed(packed) => self.give_back(packed, &mut progress, taken),
            }
        }
        outcome
    }

    /// Guest memory went away while heads were copied: some may be zeroes.
    #[cold]
    fn take_lost(&self, burst: &mut Burst, mut outcome: Dequeued) -> Dequeued {
        outcome.lost = burst.len as u32;
        outcome.fault = Some(RingFault::MemoryLost);
        burst.clear();
        outcome
    }

    /// Copies heads and resolves bodies; returns how many chains were taken.
    #[inline(always)]
    fn take<L: Layout>(
        &self,
        layout: &L,
        progress: &mut Progress,
        burst: &mut Burst,
        outcome: &mut Dequeued,
    ) -> Result<usize, (usize, RingFault)> {
        // The common case is one buffer, in one region, read by us only.
        let mut buffers = [Buffer::NONE; BURST];
        let (count, fault) = layout.find(self, progress, BURST, false, &mut buffers);
        for (i, Buffer { ptr, len, id }) in buffers.into_iter().enumerate().take(count) {
            let copied = if ptr.is_null() {
                if burst.segments_used + MAX_SEGMENTS > BURST_SEGMENTS {
                    // The rest of the ring comes with the next burst.
                    return Ok(i);
                }
                match self.copy_chain(layout, burst, layout.found(progress, i, id)) {
                    Ok(copied) => copied,
                    Err(fault) => return Err((i, fault)),
                }
            } else {
                copy_buffer(burst, ptr, len as usize)
            };
            match copied.and_then(|()| self.accept_header(burst)) {
                Ok(()) => burst.len += 1,
                Err(refusal) => outcome.refuse(refusal),
            }
        }
        match fault {
            Some(fault) => Err((count, fault)),
            None => Ok(count),
        }
    }

    /// Any chain: several descriptors, an indirect table, a header split over
    /// buffers, a legacy header. Copies what belongs to the slot and notes
    /// the rest as segments.
    #[inline(never)]
    fn copy_chain<L: Layout>(
        &self,
        layout: &L,
        burst: &mut Burst,
        chain: Chain,
    ) -> Result<Result<(), Refusal>, RingFault> {
        let header_bytes = self.features.header_bytes();
        let slot = burst.vnet_ptr(burst.len);
        let first_segment = burst.segments_used;
        let mut segments_used = first_segment;
        let segments = &mut burst.segments;
        let (mut header_len, mut head_len, mut len) = (0usize, 0usize, 0usize);
        let mut refusal = None;
        layout.walk(self, chain, false, |ptr, part_len| {
            let (mut ptr, mut left) = (ptr.cast_const(), part_len as usize);
            // SAFETY: `walk` gives `part_len` readable bytes; the slot has
            // VNET_HEADER_BYTES and HEAD_BYTES behind `slot`, and the lengths
            // below never exceed what is left of either.
            unsafe {
                let to_header = left.min(header_bytes - header_len);
                std::ptr::copy_nonoverlapping(ptr, slot.add(header_len), to_header);
                header_len += to_header;
                ptr = ptr.add(to_header);
                left -= to_header;
                len += left;
                let to_head = left.min(HEAD_BYTES - head_len);
                std::ptr::copy_nonoverlapping(ptr, slot.add(VNET_HEADER_BYTES + head_len), to_head);
                head_len += to_head;
                ptr = ptr.add(to_head);
                left -= to_head;
            }
            if left == 0 {
                return true;
            }
            if len > MAX_FRAME_BYTES {
                refusal = Some(Refusal::TooLong);
                return false;
            }
            // Buffers that lie side by side are one segment.
            if segments_used > first_segment {
                let last = &mut segments[segments_used - 1];
                if last.ptr.wrapping_add(last.len as usize) == ptr {
                    last.len += left as u32;
                    return true;
                }
            }
            if segments_used - first_segment == MAX_SEGMENTS {
                refusal = Some(Refusal::TooManyParts);
                return false;
            }
            segments[segments_used] = Segment {
                ptr,
                len: left as u32,
            };
            segments_used += 1;
            true
        })?;
        if let Some(refusal) = refusal {
            return Ok(Err(refusal));
        }
        if len < MIN_FRAME_BYTES {
            return Ok(Err(Refusal::TooShort));
        }
        burst.segments_used = segments_used;
        burst.packets[burst.len] = Packet {
            len: len as u32,
            head_len: head_len as u16,
            first_segment: first_segment as u16,
            segment_count: (segments_used - first_segment) as u16,
        };
        Ok(Ok(()))
    }

    /// Checks our copy of the virtio-net header and clears what it does not use.
    #[inline(always)]
    fn accept_header(&self, burst: &mut Burst) -> Result<(), Refusal> {
        // What follows must look at the slot, not at the guest's memory again.
        compiler_fence(Ordering::SeqCst);
        let index = burst.len;
        let mut packets = Packets {
            burst,
            source: self.state.device_fault(),
            memory: PhantomData,
        };
        if packets.asks_offload(index) {
            return self.accept_offload(&mut packets, index);
        }
        packets.set_vnet_header(index, VnetHeader::default());
        Ok(())
    }

    /// The same for a partial checksum or an oversized frame; apart, so that the
    /// header's fields take no registers where most have none.
    #[inline(never)]
    fn accept_offload(&self, packets: &mut Packets<'_>, index: usize) -> Result<(), Refusal> {
        let header = packets.vnet_header(index);
        if header.gso_type != 0 {
            return self.accept_gso(packets, index, header);
        }
        let checksum_end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        if !self.features.csum
            || checksum_end > packets.head_len(index)
            || usize::from(header.csum_start) < MIN_FRAME_BYTES
        {
            return Err(Refusal::BadOffload);
        }
        packets.set_vnet_header(
            index,
            VnetHeader {
                flags: VNET_F_NEEDS_CSUM,
                csum_start: header.csum_start,
                csum_offset: header.csum_offset,
                ..VnetHeader::default()
            },
        );
        Ok(())
    }

    /// The same for an oversized frame.
    fn accept_gso(
        &self,
        packets: &mut Packets<'_>,
        index: usize,
        header: VnetHeader,
    ) -> Result<(), Refusal> {
        let (head, frame_len) = (packets.head(index), packets.frame_len(index));
        let (header, pseudo) = gso::accept(header, head, frame_len, self.features.host_gso)
            .ok_or(Refusal::BadOffload)?;
        if let Some(pseudo) = pseudo {
            let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
            if let Some(bytes) = packets.head_mut(index).get_mut(field..field + 2) {
                bytes.copy_from_slice(&pseudo.to_be_bytes());
            }
        }
        packets.set_vnet_header(index, header);
        Ok(())
    }

    /// Where the first `taken` chains begin that were found, and where the next
    /// one begins, as [`Layout::returned`] tells it.
    #[inline(always)]
    fn extent(&self, progress: &Progress, taken: usize) -> (u16, u16) {
        match &self.layout {
            AnyLayout::Split(split) => (split.returned(progress), split.behind(progress, taken)),
            AnyLayout::Packed(packed) => {
                (packed.returned(progress), packed.behind(progress, taken))
            }
        }
    }

    /// Gives back what another process was delivering when it ended, and may have
    /// delivered: how many packets are lost so.
    pub(crate) fn give_back_unfinished(&self) -> usize {
        let Some(mark) = &self.state.mark else {
            return 0;
        };
        let noted = mark.noted();
        mark.clear();
        match (noted, self.state.progress.try_claim(), &self.layout) {
            (Some(noted), Some(mut progress), AnyLayout::Split(split)) => {
                self.give_back_noted(split, &mut progress, noted)
            }
            (Some(noted), Some(mut progress), AnyLayout::Packed(packed)) => {
                self.give_back_noted(packed, &mut progress, noted)
            }
            _ => 0,
        }
    }

    /// The same, if the ring stands within the burst that was noted: a packed
    /// ring's chains become visible one by one.
    fn give_back_noted<L: Layout>(
        &self,
        layout: &L,
        progress: &mut Progress,
        (start, end): (u16, u16),
    ) -> usize {
        let left = layout.between(layout.returned(progress), end);
        if left == 0 || left > layout.between(start, end) {
            return 0;
        }
        // A guest that has started anew meanwhile may have fewer. What is broken
        // is found again by the PMD that takes it.
        let mut buffers = [Buffer::NONE; BURST];
        let (found, _) = layout.find(self, progress, BURST, false, &mut buffers);
        let here = layout.returned(progress);
        let count = (1..=found)
            .take_while(|count| layout.between(here, layout.behind(progress, *count)) <= left)
            .count();
        if count > 0 {
            self.give_back(layout, progress, count);
        }
        count
    }

    #[inline(always)]
    fn give_back<L: Layout>(&self, layout: &L, progress: &mut Progress, taken: usize) {
        let Some(log) = &self.log else {
            layout.give_back(progress, taken);
            layout.publish(progress);
            self.notify_if_wanted(layout, progress);
            return;
        };
        self.give_back_logged(layout, progress, taken, log);
    }

    /// The same, noting what is written.
    #[cold]
    fn give_back_logged<L: Layout>(
        &self,
        layout: &L,
        progress: &mut Progress,
        taken: usize,
        log: &RingLog,
    ) {
        let written: ArrayVec<Written, BURST> = (0..taken)
            .map(|nth| layout.nth_written(progress, nth))
            .collect();
        layout.give_back(progress, taken);
        layout.publish(progress);
        for written in written.into_iter().chain(layout.publish_written(progress)) {
            log.mark_ring(&self.memory, written);
        }
        self.notify_if_wanted(layout, progress);
    }
}

/// One buffer with a whole packet: header and head are copied in one go.
#[inline(always)]
fn copy_buffer(burst: &mut Burst, ptr: *const u8, len: usize) -> Result<(), Refusal> {
    if len < VNET_HEADER_BYTES + MIN_FRAME_BYTES {
        return Err(Refusal::TooShort);
    }
    if len > VNET_HEADER_BYTES + MAX_FRAME_BYTES {
        return Err(Refusal::TooLong);
    }
    let index = burst.len;
    let copied = len.min(COPY_BYTES);
    let slot = burst.vnet_ptr(index);
    // SAFETY: `ptr` has `len` readable bytes, the slot has COPY_BYTES behind
    // `slot`; guest memory and the slot never overlap.
    unsafe { copy_short(ptr, slot, copied) };
    let first_segment = burst.segments_used;
    if len > COPY_BYTES {
        burst.segments[first_segment] = Segment {
            // SAFETY: COPY_BYTES < len, so this is still inside the buffer.
            ptr: unsafe { ptr.add(COPY_BYTES) },
            len: (len - COPY_BYTES) as u32,
        };
        burst.segments_used += 1;
    }
    burst.packets[index] = Packet {
        len: (len - VNET_HEADER_BYTES) as u32,
        head_len: (copied - VNET_HEADER_BYTES) as u16,
        first_segment: first_segment as u16,
        segment_count: (len > COPY_BYTES) as u16,
    };
    Ok(())
}
