//! A split virtqueue (VirtIO 1.2, 2.7).
//!
//! ```text
//! guest writes:  descriptor table   16 × size    addr, len, flags, next
//!                available ring     4 + 2 × size (+2) flags, idx, heads…, used_event
//! we write:      used ring          4 + 8 × size (+2) flags, idx, {id, len}…, avail_event
//! ```
//!
//! Chains complete in order, so the used index alone says where a ring stands
//! that another process left behind.

#![allow(unsafe_code)]
// UNSAFETY: volatile and atomic access to ring memory shared with the guest.

use std::sync::atomic::{AtomicU16, Ordering};

use super::state::{Position, Progress};
use super::table::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, MAX_CHAIN_DESCRIPTORS, Walk, each_part,
    indirect_table, is_single, prefetch_read, prefetch_write,
};
use super::{
    Buffer, Chain, Found, Layout, Ring, RingAddresses, RingError, RingFault, Written, resolve_part,
};
use crate::memory::GuestMemory;
use crate::packet::BURST;

const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

/// Where the parts of a split ring lie in our address space.
pub(crate) struct SplitLayout {
    descriptors: *const u8,
    available: *mut u8,
    used: *mut u8,
    mask: u16,
}

// SAFETY: the pointers are into memory that the ring keeps alive; all
// access through them is volatile or atomic, as with any memory shared with a
// guest, and what is ours alone is behind the claim in the ring's state.
unsafe impl Send for SplitLayout {}
// SAFETY: as above.
unsafe impl Sync for SplitLayout {}

impl SplitLayout {
    pub(super) fn resolve(
        entries: u16,
        addresses: RingAddresses,
        memory: &GuestMemory,
    ) -> Result<Self, RingError> {
        let n = u64::from(entries);
        let event = 2; // used_event and avail_event are always reserved
        let part = |part, address, bytes, align| resolve_part(memory, part, address, bytes, align);
        let (available, used) = (4 + 2 * n + event, 4 + 8 * n + event);
        Ok(Self {
            descriptors: part("descriptor table", addresses.descriptor, 16 * n, 16)?,
            available: part("available ring", addresses.available, available, 2)?,
            used: part("used ring", addresses.used, used, 4)?,
            mask: entries - 1,
        })
    }

    /// Number of entries.
    #[inline(always)]
    pub(super) fn size(&self) -> u16 {
        // 32768 fits; mask is at most 32767.
        self.mask + 1
    }

    /// Where whoever served this ring before has stopped.
    pub(super) fn position(&self) -> Position {
        // SAFETY: within the used ring, aligned.
        let index = unsafe { AtomicU16::from_ptr(self.used.add(2).cast()) };
        Position {
            index: u16::from_le(index.load(Ordering::Acquire)),
            wrap: false,
        }
    }

    /// The used ring and its bytes.
    pub(super) fn used_ring(&self) -> (*const u8, u64) {
        (self.used, 4 + 8 * u64::from(self.size()) + 2)
    }

    /// How many entries the guest has made available beyond
    /// `progress.next`, at least `wanted` if there are as many. The
    /// index in guest memory, whose cache line the guest is writing to, is only
    /// touched when what was seen before does not do.
    #[inline(always)]
    fn available(&self, progress: &mut Progress, wanted: u16) -> Result<u16, RingFault> {
        let known = progress.seen_avail.wrapping_sub(progress.next.index);
        if known >= wanted {
            return Ok(known);
        }
        // SAFETY: within the available ring, 2-aligned.
        let index = unsafe { AtomicU16::from_ptr(self.available.add(2).cast()) };
        let seen = u16::from_le(index.load(Ordering::Acquire));
        let available = seen.wrapping_sub(progress.next.index);
        if available > self.size() {
            return Err(RingFault::AvailIndexJump);
        }
        progress.seen_avail = seen;
        Ok(available)
    }

    /// Entry `index` (free running) of the available ring: the head of a chain.
    #[inline(always)]
    fn head(&self, index: u16) -> Result<u16, RingFault> {
        let at = 4 + 2 * usize::from(index & self.mask);
        // SAFETY: at + 2 <= 4 + 2 * size.
        let head = u16::from_le(unsafe { self.available.add(at).cast::<u16>().read_volatile() });
        if head > self.mask {
            return Err(RingFault::HeadOutOfRange);
        }
        Ok(head)
    }

    /// Descriptor `index`; must be below the size (see [`head`](Self::head)).
    #[inline(always)]
    fn descriptor(&self, index: u16) -> Descriptor {
        let at = 16 * usize::from(index & self.mask);
        // SAFETY: at + 16 <= 16 * size, 16-aligned.
        unsafe { Descriptor::read(self.descriptors.add(at)) }
    }

    /// Asks the processor to fetch descriptor `index`.
    #[inline(always)]
    fn prefetch_descriptor(&self, index: u16) {
        let at = 16 * usize::from(index & self.mask);
        prefetch_read(self.descriptors.wrapping_add(at));
    }

    fn walk_table(
        ring: &Ring,
        mut descriptor: Descriptor,
        entries: u16,
        writable: bool,
        each: &mut impl FnMut(*mut u8, u32) -> bool,
        entry: impl Fn(u16) -> Descriptor,
    ) -> Result<(), RingFault> {
        for _ in 0..entries.min(MAX_CHAIN_DESCRIPTORS) {
            let flags = descriptor.split_flags();
            if flags & DESC_F_INDIRECT != 0 {
                return Err(RingFault::NestedIndirect);
            }
            if (flags & DESC_F_WRITE != 0) != writable {
                return Err(RingFault::WrongDirection);
            }
            if let Walk::Enough = each_part(&ring.memory, descriptor, each)? {
                return Ok(());
            }
            if flags & DESC_F_NEXT == 0 {
                return Ok(());
            }
            if descriptor.next() >= entries {
                return Err(RingFault::NextOutOfRange);
            }
            descriptor = entry(descriptor.next());
        }
        Err(RingFault::ChainLoop)
    }

    /// Asks for the available entries of the next burst, at once with the
    /// index: one wait for the guest's core instead of two.
    #[inline(always)]
    fn prefetch_available(&self, progress: &Progress) {
        let entry = |index: u16| 4 + 2 * usize::from(index & self.mask);
        let next = progress.next.index;
        prefetch_read(self.available.wrapping_add(entry(next)));
        let last = next.wrapping_add(BURST as u16 - 1);
        prefetch_read(self.available.wrapping_add(entry(last)));
    }

    /// Asks for the lines of the used ring that a burst will write, so that
    /// the fence before a notification does not have to wait for them.
    #[inline(always)]
    fn prefetch_used(&self, progress: &Progress) {
        const ELEMENTS_PER_LINE: u16 = 8;
        prefetch_write(self.used);
        for line in 0..=(BURST as u16 / ELEMENTS_PER_LINE) {
            let index = progress.next_used.wrapping_add(line * ELEMENTS_PER_LINE) & self.mask;
            prefetch_write(self.used.wrapping_add(4 + 8 * usize::from(index)));
        }
    }

    /// Writes entry `index` (free running) of the used ring.
    #[inline(always)]
    fn write_used(&self, index: u16, head: u16, len: u32) {
        let at = 4 + 8 * usize::from(index & self.mask);
        let element = u64::from(head) | (u64::from(len) << 32);
        // SAFETY: at + 8 <= 4 + 8 * size; only 4-aligned, hence unaligned.
        unsafe {
            self.used
                .add(at)
                .cast::<u64>()
                .write_unaligned(element.to_le());
        }
    }
}

impl Layout for SplitLayout {
    #[inline(always)]
    fn prefetch(&self, progress: &Progress) {
        self.prefetch_available(progress);
        self.prefetch_used(progress);
    }

    #[inline(always)]
    fn find(
        &self,
        ring: &Ring,
        progress: &mut Progress,
        wanted: usize,
        writable: bool,
        buffers: &mut [Buffer; BURST],
    ) -> Found {
        // An enqueue has asked for these before.
        if !writable && progress.busy {
            self.prefetch_available(progress);
        }
        let available = match self.available(progress, wanted as u16) {
            Ok(available) => available,
            Err(fault) => return (0, Some(fault)),
        };
        progress.busy = available > 0;
        if available == 0 {
            return (0, None);
        }
        if !writable {
            self.prefetch_used(progress);
        }
        let mut count = usize::from(available).min(wanted).min(BURST);
        let mut fault = None;
        for (i, buffer) in buffers[..count].iter_mut().enumerate() {
            match self.head(progress.next.index.wrapping_add(i as u16)) {
                Ok(head) => {
                    if !writable {
                        progress.ids[i] = head;
                    }
                    buffer.id = head;
                    self.prefetch_descriptor(head);
                }
                Err(bad_head) => {
                    fault = Some(bad_head);
                    count = i;
                    break;
                }
            }
        }
        for buffer in &mut buffers[..count] {
            let descriptor = self.descriptor(buffer.id);
            if is_single(descriptor.split_flags(), writable)
                && ring.features.long_header
                && let Some(ptr) = ring
                    .memory
                    .translate(descriptor.addr, u64::from(descriptor.len))
            {
                prefetch_buffer(ptr, writable);
                buffer.ptr = ptr;
                buffer.len = descriptor.len;
            }
        }
        (count, fault)
    }

    #[inline(always)]
    fn found(&self, _: &Progress, _: usize, id: u16) -> Chain {
        Chain {
            id,
            first: id,
            slots: 1,
        }
    }

    fn chain(
        &self,
        progress: &mut Progress,
        at: Position,
    ) -> Result<Option<(Chain, Position)>, RingFault> {
        let wanted = at.index.wrapping_sub(progress.next.index).wrapping_add(1);
        if self.available(progress, wanted)? < wanted {
            return Ok(None);
        }
        let head = self.head(at.index)?;
        let chain = Chain {
            id: head,
            first: head,
            slots: 1,
        };
        let next = Position {
            index: at.index.wrapping_add(1),
            ..at
        };
        Ok(Some((chain, next)))
    }

    fn walk(
        &self,
        ring: &Ring,
        chain: Chain,
        writable: bool,
        mut each: impl FnMut(*mut u8, u32) -> bool,
    ) -> Result<(), RingFault> {
        let descriptor = self.descriptor(chain.first);
        let flags = descriptor.split_flags();
        if flags & DESC_F_INDIRECT == 0 {
            return Self::walk_table(ring, descriptor, self.size(), writable, &mut each, |next| {
                self.descriptor(next)
            });
        }
        let (negotiated, chained) = (ring.features.indirect, flags & DESC_F_NEXT != 0);
        let (table, entries) = indirect_table(&ring.memory, negotiated, chained, descriptor)?;
        // SAFETY: `table` has `entries` descriptors; `next` is below that.
        let entry = |next: u16| unsafe { Descriptor::read(table.add(16 * usize::from(next))) };
        Self::walk_table(ring, entry(0), entries, writable, &mut each, entry)
    }

    #[inline(always)]
    fn complete(&self, progress: &mut Progress, chain: Chain, len: u32) {
        self.write_used(progress.next_used, chain.id, len);
        progress.next_used = progress.next_used.wrapping_add(1);
        progress.next.index = progress.next.index.wrapping_add(1);
    }

    #[inline(always)]
    fn give_back(&self, progress: &mut Progress, count: usize) {
        for i in 0..count {
            let index = progress.next_used.wrapping_add(i as u16);
            self.write_used(index, progress.ids[i], 0);
        }
        progress.next_used = progress.next_used.wrapping_add(count as u16);
        progress.next.index = progress.next.index.wrapping_add(count as u16);
    }

    #[inline(always)]
    fn publish(&self, progress: &mut Progress) {
        // SAFETY: within the used ring, 2-aligned.
        let field = unsafe { AtomicU16::from_ptr(self.used.add(2).cast()) };
        field.store(progress.next_used.to_le(), Ordering::Release);
    }

    #[inline(always)]
    fn returned(&self, progress: &Progress) -> u16 {
        progress.next_used
    }

    #[inline(always)]
    fn behind(&self, progress: &Progress, count: usize) -> u16 {
        progress.next_used.wrapping_add(count as u16)
    }

    #[inline(always)]
    fn between(&self, from: u16, to: u16) -> u16 {
        to.wrapping_sub(from)
    }

    #[inline(always)]
    fn driver_wants(&self, event_idx: bool, old: u16, new: u16) -> bool {
        if event_idx {
            let at = 4 + 2 * (usize::from(self.mask) + 1);
            // SAFETY: used_event lies behind the heads; its 2 bytes were
            // included in the checked range.
            let event =
                u16::from_le(unsafe { self.available.add(at).cast::<u16>().read_volatile() });
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            // SAFETY: flags are the available ring's first field.
            let flags = u16::from_le(unsafe { self.available.cast::<u16>().read_volatile() });
            flags & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    fn want_kicks(&self, event_idx: bool, progress: &Progress, wanted: bool) -> Option<Written> {
        let (at, value) = if !event_idx {
            (0, if wanted { 0 } else { USED_F_NO_NOTIFY })
        } else if wanted {
            // avail_event lies behind the elements.
            (4 + 8 * (usize::from(self.mask) + 1), progress.next.index)
        } else {
            // avail_event may stay where it is; it comes round only once in
            // 65,536 entries.
            return None;
        };
        // SAFETY: flags are the used ring's first field; avail_event's 2 bytes
        // were included in the checked range.
        let field = unsafe { self.used.add(at).cast::<u16>() };
        // SAFETY: as above; 2-aligned.
        unsafe { field.write_volatile(value.to_le()) };
        Some((field.cast::<u8>().cast_const(), 2))
    }

    #[inline(always)]
    fn next_written(&self, progress: &Progress) -> Written {
        self.nth_written(progress, 0)
    }

    #[inline(always)]
    fn nth_written(&self, progress: &Progress, nth: usize) -> Written {
        let index = progress.next_used.wrapping_add(nth as u16) & self.mask;
        (self.used.wrapping_add(4 + 8 * usize::from(index)), 8)
    }

    #[inline(always)]
    fn held_written(&self, _: &Progress) -> Option<Written> {
        None
    }

    #[inline(always)]
    fn publish_written(&self, _: &Progress) -> Option<Written> {
        Some((self.used.wrapping_add(2), 2))
    }

    fn is_ready(&self, progress: &mut Progress) -> bool {
        // A broken index ends the sleep; the next dequeue finds the fault.
        self.available(progress, 1) != Ok(0)
    }
}

/// Asks for the start of a buffer that will be read, or written.
#[inline(always)]
pub(super) fn prefetch_buffer(ptr: *mut u8, writable: bool) {
    if writable {
        prefetch_write(ptr);
        prefetch_write(ptr.wrapping_add(64));
    } else {
        prefetch_read(ptr);
        prefetch_read(ptr.wrapping_add(64));
    }
}
