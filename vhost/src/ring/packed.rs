//! A packed virtqueue (VirtIO 1.2, 2.8).
//!
//! ```text
//! both write:    descriptor ring          16 × size   addr, len, id, flags
//! guest writes:  driver event suppression 4           position, flags
//! we write:      device event suppression 4           position, flags
//! ```
//!
//! Driver and device go round the same ring. A wrap counter tells their laps
//! apart: a descriptor is available if its AVAIL flag is the counter and USED is
//! not, and used if both are. Only a chain's first descriptor is written when
//! the chain is returned, and of a burst's chains the first one's last, so that
//! the driver, who looks there next, sees all of them at once.
//!
//! No field says where the device stands. What a killed process left behind is
//! found out by [`position`](super::position), for which four things are done:
//! chains complete in order; a burst's first chain is marked, in a field that
//! drivers do not look at, before the others are written; the first descriptor of
//! a chain keeps its NEXT flag when it is returned (drivers ignore it there,
//! 2.8.6); and in rings with such chains the position goes into the device event
//! structure with every burst. There it means nothing to a driver unless it is
//! asked to kick, and then the position is what it is to kick at.

#![allow(unsafe_code)]
// UNSAFETY: volatile and atomic access to ring memory shared with the guest.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::position::{self, AVAIL, Left, USED};
use super::split::prefetch_buffer;
use super::state::{Held, Position, Progress};
use super::table::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, MAX_CHAIN_DESCRIPTORS, Walk, each_part,
    indirect_table, is_single, prefetch_write,
};
use super::{
    Buffer, Chain, Found, Layout, Ring, RingAddresses, RingError, RingFault, Written, resolve_part,
};
use crate::memory::GuestMemory;
use crate::packet::BURST;

/// Values of an event structure's flags (2.8.10).
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESCRIPTOR: u16 = 2;

/// A position that no ring below the largest size has: no chain of several
/// slots was ever returned, so the slots' flags tell where the device stands.
const NOWHERE: u16 = 0x7fff;

const DESCRIPTORS_PER_LINE: u16 = 4;

/// Address of a chain that is about to be returned. No guest has memory there.
const MARK: u64 = u64::from_le_bytes(*b"returned");

/// AVAIL and USED of a used descriptor.
#[inline(always)]
fn used(wrap: bool) -> u16 {
    if wrap { AVAIL | USED } else { 0 }
}

/// Where the parts of a packed ring lie in our address space.
pub(crate) struct PackedLayout {
    descriptors: *mut u8,
    driver_event: *mut u8,
    device_event: *mut u8,
    size: u16,
}

// SAFETY: the pointers are into memory that the ring keeps alive; all
// access through them is volatile or atomic, as with any memory shared with a
// guest, and what is ours alone is behind the claim in the ring's state.
unsafe impl Send for PackedLayout {}
// SAFETY: as above.
unsafe impl Sync for PackedLayout {}

impl PackedLayout {
    pub(super) fn resolve(
        size: u16,
        addresses: RingAddresses,
        memory: &GuestMemory,
    ) -> Result<Self, RingError> {
        let part = |part, address, bytes, align| resolve_part(memory, part, address, bytes, align);
        let ring_bytes = 16 * u64::from(size);
        Ok(Self {
            descriptors: part("descriptor ring", addresses.descriptor, ring_bytes, 16)?,
            driver_event: part("driver event suppression", addresses.available, 4, 4)?,
            device_event: part("device event suppression", addresses.used, 4, 4)?,
            size,
        })
    }

    /// Number of descriptors.
    #[inline(always)]
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Where whoever served this ring before has stopped; `base` is where the
    /// frontend believes that it did. A chain that was just being returned is;
    /// `written` is told of it. Also whether some chain in the ring has, or had,
    /// more than one slot.
    pub(super) fn position(
        &self,
        base: Position,
        mut written: impl FnMut(Written),
    ) -> (Position, bool) {
        // The driver may be filling the ring at this moment. It soon has to
        // wait for us; one that does not is only harming itself.
        let mut seen = self.all_flags();
        for _ in 0..100 {
            let again = self.all_flags();
            if again == seen {
                break;
            }
            seen = again;
        }
        let left = self.left();
        let next = position::find(&seen, left, base);
        // What is left of long chains that are no more may lie there still.
        let has_long_chains = position::has_long_chains(&seen) || matches!(left, Left::At(_));
        // This process may die as well, before anything else is written there.
        self.set_device_event(next, has_long_chains, EVENT_DISABLE);
        written((self.device_event.cast_const(), 4));
        for slot in (0..self.size).filter(|slot| self.is_marked(*slot)) {
            self.finish(slot);
            written(self.slot(slot));
        }
        (next, has_long_chains)
    }

    /// Whether some chain in the ring has, or had, more than one slot, as far as
    /// the device that was there before knew.
    pub(super) fn has_long_chains(&self) -> bool {
        matches!(self.left(), Left::At(_)) || position::has_long_chains(&self.all_flags())
    }

    /// What a device that has died has left of its place.
    fn left(&self) -> Left {
        // SAFETY: the device event structure has 4 bytes and is 4-aligned.
        let event = unsafe { AtomicU32::from_ptr(self.device_event.cast()) };
        let event = u32::from_le(event.load(Ordering::Acquire));
        match event as u16 {
            // As it is before anybody has written to it.
            _ if event == 0 => Left::Nothing,
            NOWHERE => Left::OnlyShort,
            bits => Left::At(Position::packed(bits)),
        }
    }

    /// The flags of all slots; marked ones have been returned.
    fn all_flags(&self) -> Vec<u16> {
        let flags = |slot| {
            let flags = (self.rest(slot) >> 48) as u16;
            if self.is_marked(slot) {
                return used(flags & AVAIL != 0) | flags & !(AVAIL | USED);
            }
            flags
        };
        (0..self.size).map(flags).collect()
    }

    /// Whether a chain begins there that was about to be returned.
    fn is_marked(&self, slot: u16) -> bool {
        let flags = (self.rest(slot) >> 48) as u16;
        let available = (flags & AVAIL != 0) != (flags & USED != 0);
        available && self.addr(slot) == MARK
    }

    /// Returns the chain that begins there.
    fn finish(&self, first: u16) {
        let rest = self.rest(first);
        let flags = (rest >> 48) as u16;
        let mut last = first;
        for _ in 1..self.size {
            if (self.rest(last) >> 48) as u16 & DESC_F_NEXT == 0 {
                break;
            }
            last = if last + 1 == self.size { 0 } else { last + 1 };
        }
        let id = self.rest(last) >> 32 & 0xffff;
        // An indirect descriptor does not tell the direction.
        let written = flags & (DESC_F_WRITE | DESC_F_INDIRECT) != 0;
        let flags =
            used(flags & AVAIL != 0) | flags & DESC_F_NEXT | if written { DESC_F_WRITE } else { 0 };
        let element = rest & 0xffff_ffff | id << 32 | u64::from(flags) << 48;
        self.write(first, element);
    }

    /// A descriptor's address.
    #[inline(always)]
    fn addr(&self, slot: u16) -> u64 {
        // SAFETY: slots are below the size; 16-aligned.
        let addr = unsafe {
            let at = self.descriptors.add(16 * usize::from(slot));
            at.cast::<u64>().read_volatile()
        };
        u64::from_le(addr)
    }

    /// The device event structure and its bytes.
    pub(super) fn device_event(&self) -> (*const u8, u64) {
        (self.device_event, 4)
    }

    /// A descriptor's place.
    #[inline(always)]
    fn slot(&self, slot: u16) -> Written {
        (self.descriptors.wrapping_add(16 * usize::from(slot)), 16)
    }

    /// `slot` and wrap counter `by` descriptors further on.
    #[inline(always)]
    fn advance(&self, at: Position, by: u16) -> Position {
        let index = at.index + by;
        if index < self.size {
            Position { index, ..at }
        } else {
            Position {
                index: index - self.size,
                wrap: !at.wrap,
            }
        }
    }

    /// Length, id and flags of a descriptor. What was written before the flags
    /// is visible after this.
    #[inline(always)]
    fn rest(&self, slot: u16) -> u64 {
        debug_assert!(slot < self.size);
        // SAFETY: slots are below the size; 8-aligned.
        let rest =
            unsafe { AtomicU64::from_ptr(self.descriptors.add(16 * usize::from(slot) + 8).cast()) };
        u64::from_le(rest.load(Ordering::Acquire))
    }

    /// The descriptor there, if the driver has made it available.
    #[inline(always)]
    fn available(&self, at: Position) -> Option<Descriptor> {
        let rest = self.rest(at.index);
        let wanted = if at.wrap { AVAIL } else { USED };
        if (rest >> 48) as u16 & (AVAIL | USED) != wanted {
            return None;
        }
        Some(Descriptor::from_halves(self.addr(at.index), rest))
    }

    /// A chain whose first descriptor, at `at`, has a next one: its length, and
    /// its last descriptor's id.
    #[inline(never)]
    fn long_chain(&self, at: Position, progress: &mut Progress) -> Result<Chain, RingFault> {
        progress.has_long_chains = true;
        let (mut end, mut slots) = (at, 1);
        loop {
            if slots >= self.size.min(MAX_CHAIN_DESCRIPTORS) {
                return Err(RingFault::ChainLoop);
            }
            end = self.advance(end, 1);
            slots += 1;
            let descriptor = self.available(end).ok_or(RingFault::ChainNotAvailable)?;
            if descriptor.packed_flags() & DESC_F_NEXT == 0 {
                return Ok(Chain {
                    id: descriptor.id(),
                    first: at.index,
                    slots,
                });
            }
        }
    }

    #[inline(always)]
    fn write(&self, slot: u16, element: u64) {
        // SAFETY: slots are below the size; 8-aligned.
        let rest =
            unsafe { AtomicU64::from_ptr(self.descriptors.add(16 * usize::from(slot) + 8).cast()) };
        rest.store(element.to_le(), Ordering::Release);
    }

    /// Writes the used descriptor of the next chain, or holds it back if it is
    /// the first one since the last [`publish`](Layout::publish).
    #[inline(always)]
    fn put(&self, progress: &mut Progress, chain: Chain, len: u32, written: u16) {
        let at = progress.next;
        let mut flags = written | used(at.wrap);
        if chain.slots > 1 {
            flags |= DESC_F_NEXT;
        }
        let element = u64::from(len) | u64::from(chain.id) << 32 | u64::from(flags) << 48;
        if progress.held.is_none() {
            let slot = at.index;
            progress.held = Some(Held { slot, element });
            self.mark(slot, len);
        } else {
            self.write(at.index, element);
        }
        progress.next = self.advance(at, chain.slots);
    }

    /// Marks a chain's first descriptor, into which `len` bytes were written.
    #[inline(always)]
    fn mark(&self, slot: u16, len: u32) {
        // SAFETY: slots are below the size; 8- and 4-aligned.
        let (addr, length) = unsafe {
            let at = self.descriptors.add(16 * usize::from(slot));
            (
                AtomicU64::from_ptr(at.cast()),
                AtomicU32::from_ptr(at.add(8).cast()),
            )
        };
        length.store(len.to_le(), Ordering::Relaxed);
        addr.store(MARK.to_le(), Ordering::Release);
    }

    fn set_device_event(&self, next: Position, has_long_chains: bool, flags: u16) {
        // Without long chains it is not kept up with every burst.
        let at = match has_long_chains || flags == EVENT_DESCRIPTOR {
            true => next.to_packed(),
            false => NOWHERE,
        };
        let event = u32::from(at) | u32::from(flags) << 16;
        // SAFETY: the device event structure has 4 bytes and is 4-aligned.
        let field = unsafe { AtomicU32::from_ptr(self.device_event.cast()) };
        field.store(event.to_le(), Ordering::Release);
    }
}

impl Layout for PackedLayout {
    #[inline(always)]
    fn prefetch(&self, progress: &Progress) {
        // They will be read, and then written to when they are returned.
        for line in 0..=(BURST as u16 / DESCRIPTORS_PER_LINE) {
            let at = usize::from(progress.next.index + line * DESCRIPTORS_PER_LINE);
            let at = at.min(usize::from(self.size) - 1);
            prefetch_write(self.descriptors.wrapping_add(16 * at));
        }
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
            self.prefetch(progress);
        }
        let (mut at, mut fault) = (progress.next, None);
        let mut count = 0;
        for buffer in buffers.iter_mut().take(wanted) {
            let Some(descriptor) = self.available(at) else {
                break;
            };
            let flags = descriptor.packed_flags();
            let (mut id, mut slots) = (descriptor.id(), 1);
            if is_single(flags, writable) {
                if ring.features.long_header
                    && let Some(ptr) = ring
                        .memory
                        .translate(descriptor.addr, u64::from(descriptor.len))
                {
                    prefetch_buffer(ptr, writable);
                    buffer.ptr = ptr;
                    buffer.len = descriptor.len;
                }
            } else if flags & DESC_F_NEXT != 0 {
                match self.long_chain(at, progress) {
                    Ok(chain) => (id, slots) = (chain.id, chain.slots),
                    Err(broken) => {
                        fault = Some(broken);
                        break;
                    }
                }
            }
            buffer.id = id;
            if !writable {
                progress.ids[count] = id;
            }
            progress.firsts[count] = at.index;
            progress.slots[count] = slots;
            count += 1;
            at = self.advance(at, slots);
        }
        progress.busy = count > 0;
        (count, fault)
    }

    #[inline(always)]
    fn found(&self, progress: &Progress, nth: usize, id: u16) -> Chain {
        Chain {
            id,
            first: progress.firsts[nth],
            slots: progress.slots[nth],
        }
    }

    fn chain(
        &self,
        progress: &mut Progress,
        at: Position,
    ) -> Result<Option<(Chain, Position)>, RingFault> {
        let Some(descriptor) = self.available(at) else {
            return Ok(None);
        };
        let chain = if descriptor.packed_flags() & DESC_F_NEXT != 0 {
            self.long_chain(at, progress)?
        } else {
            Chain {
                id: descriptor.id(),
                first: at.index,
                slots: 1,
            }
        };
        Ok(Some((chain, self.advance(at, chain.slots))))
    }

    /// How many descriptors a chain has was settled when it was found: what
    /// their NEXT flags say now does not matter.
    fn walk(
        &self,
        ring: &Ring,
        chain: Chain,
        writable: bool,
        mut each: impl FnMut(*mut u8, u32) -> bool,
    ) -> Result<(), RingFault> {
        let right = |flags: u16| (flags & DESC_F_WRITE != 0) == writable;
        let mut slot = chain.first;
        for _ in 0..chain.slots {
            // SAFETY: slots are below the size.
            let descriptor =
                unsafe { Descriptor::read(self.descriptors.add(16 * usize::from(slot))) };
            let flags = descriptor.packed_flags();
            if flags & DESC_F_INDIRECT != 0 {
                let (negotiated, chained) = (ring.features.indirect, chain.slots > 1);
                let (table, entries) =
                    indirect_table(&ring.memory, negotiated, chained, descriptor)?;
                // All of the table's entries, one after the other (2.8.7).
                for entry in 0..usize::from(entries) {
                    // SAFETY: the table has that many descriptors.
                    let descriptor = unsafe { Descriptor::read(table.add(16 * entry)) };
                    if !right(descriptor.packed_flags()) {
                        return Err(RingFault::WrongDirection);
                    }
                    if let Walk::Enough = each_part(&ring.memory, descriptor, &mut each)? {
                        return Ok(());
                    }
                }
                return Ok(());
            }
            if !right(flags) {
                return Err(RingFault::WrongDirection);
            }
            if let Walk::Enough = each_part(&ring.memory, descriptor, &mut each)? {
                return Ok(());
            }
            slot = if slot + 1 == self.size { 0 } else { slot + 1 };
        }
        Ok(())
    }

    #[inline(always)]
    fn complete(&self, progress: &mut Progress, chain: Chain, len: u32) {
        self.put(progress, chain, len, DESC_F_WRITE);
    }

    #[inline(always)]
    fn give_back(&self, progress: &mut Progress, count: usize) {
        for nth in 0..count {
            let chain = self.found(progress, nth, progress.ids[nth]);
            self.put(progress, chain, 0, 0);
        }
    }

    #[inline(always)]
    fn publish(&self, progress: &mut Progress) {
        let Some(Held { slot, element }) = progress.held.take() else {
            return;
        };
        if progress.has_long_chains {
            // Behind the other chains of the burst and before the first.
            // SAFETY: within the device event structure, aligned.
            let field = unsafe { AtomicU16::from_ptr(self.device_event.cast()) };
            field.store(progress.next.to_packed().to_le(), Ordering::Release);
        }
        self.write(slot, element);
    }

    #[inline(always)]
    fn returned(&self, progress: &Progress) -> u16 {
        progress.next.to_packed()
    }

    #[inline(always)]
    fn behind(&self, progress: &Progress, count: usize) -> u16 {
        let Some(last) = count.checked_sub(1) else {
            return self.returned(progress);
        };
        let (next, first) = (progress.next, progress.firsts[last]);
        let last_chain = Position {
            index: first,
            wrap: next.wrap == (first >= next.index),
        };
        let end = self.advance(last_chain, progress.slots[last]);
        end.to_packed()
    }

    /// Modulo two laps.
    #[inline(always)]
    fn between(&self, from: u16, to: u16) -> u16 {
        let (from, to) = (Position::packed(from), Position::packed(to));
        let lap = if from.wrap == to.wrap { 0 } else { self.size };
        let ahead = (to.index.wrapping_add(lap)).wrapping_sub(from.index);
        // Behind, in the same lap: two laps less the way back. Sizes are at most
        // 32768, so this is exact in 16 bits.
        match to.index < from.index && lap == 0 {
            true => ahead.wrapping_add(self.size).wrapping_add(self.size),
            false => ahead,
        }
    }

    #[inline(always)]
    fn driver_wants(&self, event_idx: bool, old: u16, new: u16) -> bool {
        // SAFETY: the driver event structure has 4 bytes and is 4-aligned.
        let event = unsafe { AtomicU32::from_ptr(self.driver_event.cast()) };
        let event = u32::from_le(event.load(Ordering::Acquire));
        match (event >> 16) as u16 & 3 {
            EVENT_DISABLE => false,
            EVENT_DESCRIPTOR if event_idx => {
                let (old, new) = (Position::packed(old), Position::packed(new));
                let event = Position::packed(event as u16);
                // Counted from the lap that `new` is in.
                let lap = |at: Position| {
                    let back = if at.wrap == new.wrap { 0 } else { self.size };
                    at.index.wrapping_sub(back)
                };
                let passed = new.index.wrapping_sub(lap(event)).wrapping_sub(1);
                passed < new.index.wrapping_sub(lap(old))
            }
            // The reserved value: rather once too often than never.
            _ => true,
        }
    }

    fn want_kicks(&self, event_idx: bool, progress: &Progress, wanted: bool) -> Option<Written> {
        let flags = match (wanted, event_idx) {
            (false, _) => EVENT_DISABLE,
            (true, true) => EVENT_DESCRIPTOR,
            (true, false) => EVENT_ENABLE,
        };
        self.set_device_event(progress.next, progress.has_long_chains, flags);
        Some((self.device_event.cast_const(), 4))
    }

    #[inline(always)]
    fn next_written(&self, progress: &Progress) -> Written {
        self.slot(progress.next.index)
    }

    #[inline(always)]
    fn nth_written(&self, progress: &Progress, nth: usize) -> Written {
        self.slot(progress.firsts[nth])
    }

    #[inline(always)]
    fn held_written(&self, progress: &Progress) -> Option<Written> {
        let held = progress.held.as_ref()?;
        Some(self.slot(held.slot))
    }

    #[inline(always)]
    fn publish_written(&self, progress: &Progress) -> Option<Written> {
        let event = (self.device_event.cast_const(), 2);
        progress.has_long_chains.then_some(event)
    }

    fn is_ready(&self, progress: &mut Progress) -> bool {
        self.available(progress.next).is_some()
    }
}
