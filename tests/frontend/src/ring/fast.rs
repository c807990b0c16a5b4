#![allow(unsafe_code)]
// UNSAFETY: pktgen must cost less than the switch it measures. Going through
// `vm-memory` for every index and element costs a region lookup each; here
// the ring's pointers are resolved once.

//! A split virtqueue laid out once: descriptor `i` describes buffer slot `i`
//! for ever and available entry `i` names descriptor `i` for ever, so that
//! sending and refilling touch nothing but `avail.idx`.
//!
//! There may be fewer slots than descriptors; descriptor `i` then describes
//! slot `i` modulo their number.
//!
//! That works because the backends measured (ringway, DPDK's vhost library)
//! use buffers in order. [`FastRing::take`] checks it on every element.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::{AVAIL_NO_INTERRUPT, Descriptor, RingLayout, SplitRing, USED_NO_NOTIFY, UsedElem};
use crate::{Error, Gpa, GuestMemory};

/// Buffers of one size side by side in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Guest-physical address of slot 0.
    pub gpa: Gpa,
    /// Distance between slots in bytes.
    pub stride: usize,
    /// Where what the backend sees begins: this many bytes into the slot.
    pub offset: usize,
    /// Slots, a power of two, at most as many as the ring has descriptors.
    pub count: u16,
}

impl Slots {
    /// Bytes that all slots take.
    pub fn bytes(&self) -> u64 {
        (self.stride * usize::from(self.count)) as u64
    }

    /// Where what the backend sees of slot `slot` begins.
    pub fn start(&self, slot: u16) -> Gpa {
        self.gpa + (usize::from(slot) * self.stride + self.offset) as u64
    }
}

/// What the backend did with a batch of buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Slot of the first buffer; the rest follow, modulo the ring's size.
    pub first: u16,
    /// Buffers.
    pub count: u16,
    /// Sum of the lengths that the backend reported, in bytes.
    pub bytes: u64,
    /// Elements that named another buffer than the next one.
    pub out_of_order: u16,
}

/// See the module's text.
pub struct FastRing {
    ring: SplitRing,
    memory: Arc<GuestMemory>,
    slots: Slots,
    slot_base: *mut u8,
    avail_idx: *const AtomicU16,
    used_flags: *const AtomicU16,
    used_idx: *const AtomicU16,
    used_elems: *const UsedElem,
    mask: u16,
    next_avail: u16,
    next_used: u16,
}

// SAFETY: the pointers are into memory that `memory` keeps mapped, no thread
// affinity is involved, and the type is not `Sync`: one thread drives a ring.
unsafe impl Send for FastRing {}

impl FastRing {
    /// Takes over a ring that the backend knows and that has not been used
    /// yet. `describe(slot, start)` gives the descriptor of a slot, of which
    /// the backend sees what begins at `start`.
    pub fn new(
        ring: SplitRing,
        slots: Slots,
        describe: impl Fn(u16, Gpa) -> Descriptor,
    ) -> Result<Self, Error> {
        let layout = *ring.layout();
        let memory = ring.memory().clone();
        let need = slots.bytes();
        if !memory.contains(slots.gpa, need as usize) {
            return Err(Error::NoRoom {
                gpa: slots.gpa,
                need,
            });
        }
        for index in 0..layout.size {
            let slot = index & (slots.count - 1);
            ring.write_desc(index, describe(slot, slots.start(slot)));
            ring.write_avail_entry(index, index);
        }
        ring.set_avail_flags(AVAIL_NO_INTERRUPT);
        let base = ring.next_avail();
        // `pointer` panics unless the whole length asked for is mapped in one piece.
        let RingLayout {
            avail, used, size, ..
        } = layout;
        let count = usize::from(size);
        let avail = memory.pointer(avail, 6 + 2 * count);
        let used = memory.pointer(used, 6 + 8 * count);
        Ok(Self {
            slot_base: memory.pointer(slots.gpa, need as usize),
            avail_idx: avail.wrapping_add(2).cast(),
            used_flags: used.cast(),
            used_idx: used.wrapping_add(2).cast(),
            used_elems: used.wrapping_add(4).cast(),
            mask: size - 1,
            next_avail: base,
            next_used: base,
            memory,
            slots,
            ring,
        })
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.mask + 1
    }

    /// Buffers that the backend has and has not used yet, as known here.
    pub fn in_backend(&self) -> u16 {
        self.next_avail.wrapping_sub(self.next_used)
    }

    /// Slots in all.
    pub fn slots(&self) -> u16 {
        self.slots.count
    }

    /// Slots that the backend does not have, as known here.
    pub fn free(&self) -> u16 {
        self.slots.count.saturating_sub(self.in_backend())
    }

    /// Slot that the next publish begins with.
    pub fn next_slot(&self) -> u16 {
        self.slot_behind(0)
    }

    /// Slot of the publish after the next `position` ones.
    pub fn slot_behind(&self, position: u16) -> u16 {
        self.next_avail.wrapping_add(position) & (self.slots.count - 1)
    }

    /// Buffers used since the last `take`: reads `used.idx`, and starts
    /// fetching the elements.
    pub fn used(&self) -> u16 {
        // SAFETY: `used_idx` is aligned (the layout is) and mapped.
        let used = u16::from_le(unsafe { &*self.used_idx }.load(Ordering::Acquire));
        used.wrapping_sub(self.next_used)
    }

    /// Slot and length, as the backend reported them, of the used buffer that
    /// lies `position` behind the next; below [`FastRing::used`].
    pub fn peek(&self, position: u16) -> (u32, u32) {
        let slot = self.next_used.wrapping_add(position) & self.mask;
        // SAFETY: as in `take`.
        let elem = unsafe { self.used_elems.add(usize::from(slot)).read_volatile() };
        (u32::from_le(elem.id), u32::from_le(elem.len))
    }

    /// Collects `count` used buffers (at most [`FastRing::used`]), reading
    /// their elements.
    pub fn take(&mut self, count: u16) -> Taken {
        let mut taken = Taken {
            first: self.next_used & self.mask,
            count,
            ..Taken::default()
        };
        for position in 0..count {
            let slot = self.next_used.wrapping_add(position) & self.mask;
            // SAFETY: `slot` is within the ring; 8 mapped bytes; alignment 4.
            // Volatile, for the backend writes them.
            let elem = unsafe { self.used_elems.add(usize::from(slot)).read_volatile() };
            taken.bytes += u64::from(u32::from_le(elem.len));
            taken.out_of_order += u16::from(u32::from_le(elem.id) != u32::from(slot));
        }
        self.next_used = self.next_used.wrapping_add(count);
        taken
    }

    /// Collects `count` used buffers without reading their elements: what a
    /// driver may do on a transmitq whose buffers come back in order.
    pub fn take_unread(&mut self, count: u16) {
        self.next_used = self.next_used.wrapping_add(count);
    }

    /// Makes the next `count` buffers available.
    pub fn publish(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_add(count);
        // SAFETY: `avail_idx` is aligned and mapped.
        unsafe { &*self.avail_idx }.store(self.next_avail.to_le(), Ordering::Release);
    }

    /// Kicks unless the backend asked not to be; true if kicked.
    pub fn kick_if_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: `used_flags` is aligned and mapped.
        let flags = u16::from_le(unsafe { &*self.used_flags }.load(Ordering::Relaxed));
        let wanted = flags & USED_NO_NOTIFY == 0;
        if wanted {
            self.ring.kick();
        }
        wanted
    }

    /// Writes into the slot of descriptor `slot`, `offset` bytes behind where
    /// the backend's part begins.
    ///
    /// # Panics
    /// If the bytes leave the slot.
    pub fn write_slot(&mut self, slot: u16, offset: usize, bytes: &[u8]) {
        let start = self.slot_start(slot, offset, bytes.len());
        // SAFETY: `slot_start` checked that the range is inside one slot,
        // which is mapped; the source cannot overlap guest memory, of which
        // no references exist.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
    }

    /// Copies out of a slot, likewise.
    ///
    /// # Panics
    /// If the bytes leave the slot.
    pub fn read_slot(&self, slot: u16, offset: usize, bytes: &mut [u8]) {
        let start = self.slot_start(slot, offset, bytes.len());
        // SAFETY: as in `write_slot`; the backend has returned the buffer.
        unsafe { std::ptr::copy_nonoverlapping(start, bytes.as_mut_ptr(), bytes.len()) };
    }

    fn slot_start(&self, slot: u16, offset: usize, len: usize) -> *mut u8 {
        let within = self.slots.offset.saturating_add(offset);
        assert!(
            slot <= self.mask && within.saturating_add(len) <= self.slots.stride,
            "slot {slot}: {len} bytes at {offset} leave the slot"
        );
        let slot = slot & (self.slots.count - 1);
        self.slot_base
            .wrapping_add(usize::from(slot) * self.slots.stride + within)
    }

    /// The ring as such, for its layout and raw fields.
    pub fn ring(&self) -> &SplitRing {
        &self.ring
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backing;
    use crate::ring::DESC_WRITE;

    fn fast(write: bool) -> FastRing {
        fast_with(write, 4)
    }

    fn fast_with(write: bool, count: u16) -> FastRing {
        let memory = GuestMemory::single(1 << 16, Backing::Shared).unwrap();
        let layout = RingLayout::at(0x1000, 4);
        let ring = SplitRing::new(Arc::new(memory), layout, false, 0xfffe).unwrap();
        let slots = Slots {
            gpa: 0x4000,
            stride: 192,
            offset: 52,
            count,
        };
        let describe = |slot, addr| Descriptor {
            addr,
            len: 76 + u32::from(slot),
            flags: if write { DESC_WRITE } else { 0 },
            next: 0,
        };
        FastRing::new(ring, slots, describe).unwrap()
    }

    fn backend_uses(fast: &FastRing, elems: &[(u32, u32)]) {
        let layout = fast.ring().layout();
        for &(id, len) in elems {
            let idx = fast.ring().used_idx();
            let gpa = layout.used_elem(idx % 4);
            fast.memory().write(gpa, UsedElem { id, len });
            fast.memory().write(layout.used_idx(), idx.wrapping_add(1));
        }
    }

    #[test]
    fn descriptors_and_entries_are_laid_out_once() {
        let fast = fast(true);
        for slot in 0..4 {
            let desc = fast.ring().read_desc(slot);
            assert_eq!(desc.addr, 0x4000 + 192 * u64::from(slot) + 52);
            assert_eq!(desc.len, 76 + u32::from(slot));
            assert_eq!(desc.flags, DESC_WRITE);
            let entry: u16 = fast.memory().read(fast.ring().layout().avail_entry(slot));
            assert_eq!(entry, slot);
        }
        assert_eq!(fast.ring().avail_idx(), 0xfffe);
    }

    #[test]
    fn publishing_and_taking_move_the_indices_over_the_wrap() {
        let mut fast = fast(true);
        assert_eq!(fast.next_slot(), 2);
        fast.publish(3);
        assert_eq!(fast.ring().avail_idx(), 1);
        assert_eq!(fast.in_backend(), 3);
        backend_uses(&fast, &[(2, 76), (3, 90), (0, 100)]);
        assert_eq!(fast.used(), 3);
        assert_eq!(fast.peek(1), (3, 90));
        let taken = fast.take(3);
        assert_eq!((taken.first, taken.bytes, taken.out_of_order), (2, 266, 0));
        assert_eq!((fast.used(), fast.in_backend()), (0, 0));
    }

    #[test]
    fn a_backend_that_reorders_is_noticed() {
        let mut fast = fast(false);
        fast.publish(2);
        backend_uses(&fast, &[(3, 0), (2, 0)]);
        assert_eq!(fast.take(2).out_of_order, 2);
    }

    #[test]
    fn slots_are_where_the_descriptors_point() {
        let mut fast = fast(false);
        fast.write_slot(1, 12, &[1, 2, 3]);
        assert_eq!(
            fast.memory().read_bytes(0x4000 + 192 + 52 + 12, 3),
            [1, 2, 3]
        );
        let mut back = [0; 3];
        fast.read_slot(1, 12, &mut back);
        assert_eq!(back, [1, 2, 3]);
    }

    #[test]
    fn descriptors_share_slots_if_there_are_fewer() {
        let mut fast = fast_with(false, 2);
        let addr = |index| fast.ring().read_desc(index).addr;
        assert_eq!((addr(2), addr(3)), (addr(0), addr(1)));
        assert_ne!(addr(0), addr(1));
        assert_eq!(fast.free(), 2);
        fast.publish(1);
        assert_eq!((fast.free(), fast.next_slot()), (1, 1));
        fast.publish(1);
        assert_eq!((fast.free(), fast.next_slot()), (0, 0));
        backend_uses(&fast, &[(2, 0), (3, 0)]);
        let used = fast.used();
        fast.take_unread(used);
        fast.write_slot(2, 0, &[9]);
        assert_eq!(
            (fast.free(), fast.memory().read_bytes(0x4000 + 52, 1)[0]),
            (2, 9)
        );
    }

    #[test]
    #[should_panic(expected = "leave the slot")]
    fn writing_beyond_a_slot_is_refused() {
        fast(false).write_slot(0, 139, &[0, 0]);
    }

    #[test]
    fn kicks_follow_the_flag() {
        let mut fast = fast(false);
        fast.publish(1);
        assert!(fast.kick_if_wanted());
        let flags = fast.ring().layout().used_flags();
        fast.memory().write(flags, USED_NO_NOTIFY);
        assert!(!fast.kick_if_wanted());
    }
}
