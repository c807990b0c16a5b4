#![allow(unsafe_code)]
// UNSAFETY: pktgen must cost less than the switch it measures. Going through
// `vm-memory` for every index and element costs a region lookup each; here
// the ring's pointers are resolved once.

//! A virtqueue laid out once: descriptor `i` describes buffer slot `i` for
//! ever and, in a split ring, available entry `i` names descriptor `i` for
//! ever, so that sending and refilling touch nothing but `avail.idx`. In a packed
//! ring descriptor `i` is written anew, for the backend has overwritten it.
//!
//! There may be fewer slots than descriptors; descriptor `i` then describes
//! slot `i` modulo their number.
//!
//! That works because the backends measured (ringway, DPDK's vhost library)
//! use buffers in order. [`FastRing::take`] checks it on every element.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};

use super::packed::{EVENT_DISABLE, PACKED_AVAIL, PACKED_USED, PackedRing, Place};
use super::{
    AVAIL_NO_INTERRUPT, Descriptor, Ring, RingLayout, SplitRing, USED_NO_NOTIFY, UsedElem,
};
use crate::{Error, Gpa, GuestMemory};

/// Used descriptors of a packed ring that are counted at a time.
const LOOK_AHEAD: u16 = 64;

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
    ring: Ring,
    memory: Arc<GuestMemory>,
    slots: Slots,
    slot_base: *mut u8,
    parts: Parts,
    size: u16,
    /// Buffers made available, and collected, since the start.
    next_avail: u16,
    next_used: u16,
}

/// What is touched again and again.
enum Parts {
    Split {
        avail_idx: *const AtomicU16,
        used_flags: *const AtomicU16,
        used_idx: *const AtomicU16,
        used_elems: *const UsedElem,
        /// What the indexes were at the start.
        base: u16,
    },
    Packed {
        descriptors: *const PackedHalves,
        event_flags: *const AtomicU16,
        /// What each descriptor says, but for its place.
        buffers: Vec<Descriptor>,
        avail: Place,
        used: Place,
    },
}

/// A descriptor of a packed ring: its address; length, id and flags.
#[repr(C)]
struct PackedHalves(AtomicU64, AtomicU64);

// SAFETY: the pointers are into memory that `memory` keeps mapped, no thread
// affinity is involved, and the type is not `Sync`: one thread drives a ring.
unsafe impl Send for FastRing {}

impl FastRing {
    /// Takes over a ring that the backend knows and that has not been used
    /// yet. `describe(slot, start)` gives the descriptor of a slot, of which
    /// the backend sees what begins at `start`.
    pub fn new(
        ring: Ring,
        slots: Slots,
        describe: impl Fn(u16, Gpa) -> Descriptor,
    ) -> Result<Self, Error> {
        let size = ring.layout().size;
        let memory = ring.memory().clone();
        let need = slots.bytes();
        if !memory.contains(slots.gpa, need as usize) {
            return Err(Error::NoRoom {
                gpa: slots.gpa,
                need,
            });
        }
        let described = |index: u16| {
            let slot = index & (slots.count - 1);
            describe(slot, slots.start(slot))
        };
        let descriptors: Vec<_> = (0..size).map(described).collect();
        let parts = match &ring {
            Ring::Split(split) => Parts::split(split, &descriptors),
            Ring::Packed(packed) => Parts::packed(packed, descriptors),
        };
        // Of both layouts `next_avail` is then the slot of the next buffer.
        let start = match &parts {
            Parts::Split { base, .. } => *base,
            Parts::Packed { avail, .. } => avail.slot,
        };
        Ok(Self {
            slot_base: memory.pointer(slots.gpa, need as usize),
            parts,
            size,
            next_avail: start,
            next_used: start,
            memory,
            slots,
            ring,
        })
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.size
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

    /// Buffers used since the last `take`: reads `used.idx`, or the flags of
    /// up to 64 descriptors.
    pub fn used(&self) -> u16 {
        match &self.parts {
            Parts::Split { used_idx, .. } => {
                // SAFETY: `used_idx` is aligned (the layout is) and mapped.
                let used = u16::from_le(unsafe { &**used_idx }.load(Ordering::Acquire));
                used.wrapping_sub(self.next_used)
            }
            Parts::Packed { used, .. } => {
                let limit = self.in_backend().min(LOOK_AHEAD);
                let (mut count, mut at) = (0, *used);
                while count < limit && self.parts.is_used(at) {
                    count += 1;
                    at = next(at, self.size);
                }
                count
            }
        }
    }

    /// Slot and length, as the backend reported them, of the used buffer that
    /// lies `position` behind the next; below [`FastRing::used`].
    pub fn peek(&self, position: u16) -> (u32, u32) {
        let slot = self.next_used.wrapping_add(position) & (self.size - 1);
        self.parts.element(slot)
    }

    /// Collects `count` used buffers (at most [`FastRing::used`]), reading
    /// their elements.
    pub fn take(&mut self, count: u16) -> Taken {
        let mask = self.size - 1;
        let mut taken = Taken {
            first: self.next_used & mask,
            count,
            ..Taken::default()
        };
        for position in 0..count {
            let slot = self.next_used.wrapping_add(position) & mask;
            let (id, len) = self.parts.element(slot);
            taken.bytes += u64::from(len);
            taken.out_of_order += u16::from(id != u32::from(slot));
        }
        self.take_unread(count);
        taken
    }

    /// Collects `count` used buffers without reading their elements: what a
    /// driver may do on a transmitq whose buffers come back in order.
    pub fn take_unread(&mut self, count: u16) {
        self.next_used = self.next_used.wrapping_add(count);
        if let Parts::Packed { used, .. } = &mut self.parts {
            *used = further(*used, count, self.size);
        }
    }

    /// Makes the next `count` buffers available.
    pub fn publish(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_add(count);
        match &mut self.parts {
            Parts::Split { avail_idx, .. } => {
                // SAFETY: `avail_idx` is aligned and mapped.
                unsafe { &**avail_idx }.store(self.next_avail.to_le(), Ordering::Release);
            }
            Parts::Packed {
                descriptors,
                buffers,
                avail,
                ..
            } => {
                let mut at = *avail;
                let mut first = None;
                for _ in 0..count {
                    let Descriptor {
                        addr, len, flags, ..
                    } = buffers[usize::from(at.slot)];
                    let flags = flags | PackedRing::available_flags(at);
                    let rest = u64::from(len) | u64::from(at.slot) << 32 | u64::from(flags) << 48;
                    // SAFETY: slots are below the size; aligned and mapped.
                    let halves = unsafe { &*descriptors.add(usize::from(at.slot)) };
                    halves.0.store(addr.to_le(), Ordering::Relaxed);
                    if first.is_none() {
                        first = Some((halves, rest));
                    } else {
                        halves.1.store(rest.to_le(), Ordering::Release);
                    }
                    at = next(at, self.size);
                }
                // The first one shows them all.
                if let Some((halves, rest)) = first {
                    halves.1.store(rest.to_le(), Ordering::Release);
                }
                *avail = at;
            }
        }
    }

    /// Kicks unless the backend asked not to be; true if kicked.
    pub fn kick_if_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: flags are aligned and mapped.
        let load = |flags: *const AtomicU16| unsafe { &*flags }.load(Ordering::Relaxed);
        let wanted = match &self.parts {
            Parts::Split { used_flags, .. } => {
                u16::from_le(load(*used_flags)) & USED_NO_NOTIFY == 0
            }
            Parts::Packed { event_flags, .. } => u16::from_le(load(*event_flags)) != EVENT_DISABLE,
        };
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
            slot < self.size && within.saturating_add(len) <= self.slots.stride,
            "slot {slot}: {len} bytes at {offset} leave the slot"
        );
        let slot = slot & (self.slots.count - 1);
        self.slot_base
            .wrapping_add(usize::from(slot) * self.slots.stride + within)
    }

    /// The ring as such, for its layout.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

impl Parts {
    fn split(ring: &SplitRing, buffers: &[Descriptor]) -> Self {
        for (slot, desc) in (0..).zip(buffers) {
            ring.write_desc(slot, *desc);
            ring.write_avail_entry(slot, slot);
        }
        ring.set_avail_flags(AVAIL_NO_INTERRUPT);
        // `pointer` panics unless the whole length asked for is mapped in one piece.
        let RingLayout { avail, used, .. } = *ring.layout();
        let avail = ring.memory().pointer(avail, 6 + 2 * buffers.len());
        let used = ring.memory().pointer(used, 6 + 8 * buffers.len());
        Self::Split {
            avail_idx: avail.wrapping_add(2).cast(),
            used_flags: used.cast(),
            used_idx: used.wrapping_add(2).cast(),
            used_elems: used.wrapping_add(4).cast(),
            base: ring.next_avail(),
        }
    }

    fn packed(ring: &PackedRing, buffers: Vec<Descriptor>) -> Self {
        ring.set_driver_event(ring.next_used(), EVENT_DISABLE);
        let RingLayout { desc, used, .. } = *ring.layout();
        let event = ring.memory().pointer(used, 4);
        Self::Packed {
            descriptors: ring.memory().pointer(desc, 16 * buffers.len()).cast(),
            event_flags: event.wrapping_add(2).cast(),
            buffers,
            avail: ring.next_avail(),
            used: ring.next_used(),
        }
    }

    /// Whether the backend has used the descriptor there (packed).
    fn is_used(&self, at: Place) -> bool {
        let Self::Packed { descriptors, .. } = self else {
            return false;
        };
        // SAFETY: slots are below the size; aligned and mapped.
        let halves = unsafe { &*descriptors.add(usize::from(at.slot)) };
        let flags = (u64::from_le(halves.1.load(Ordering::Acquire)) >> 48) as u16;
        let both = PACKED_AVAIL | PACKED_USED;
        flags & both == if at.wrap { both } else { 0 }
    }

    /// Id and length that the backend wrote for a slot.
    fn element(&self, slot: u16) -> (u32, u32) {
        let slot = usize::from(slot);
        match self {
            Self::Split { used_elems, .. } => {
                // SAFETY: `slot` is within the ring; 8 mapped bytes; alignment 4.
                // Volatile, for the backend writes them.
                let elem = unsafe { used_elems.add(slot).read_volatile() };
                (u32::from_le(elem.id), u32::from_le(elem.len))
            }
            Self::Packed { descriptors, .. } => {
                // SAFETY: `slot` is within the ring; aligned and mapped.
                let halves = unsafe { &*descriptors.add(slot) };
                let rest = u64::from_le(halves.1.load(Ordering::Relaxed));
                ((rest >> 32) as u32 & 0xffff, rest as u32)
            }
        }
    }
}

fn next(at: Place, size: u16) -> Place {
    further(at, 1, size)
}

fn further(at: Place, by: u16, size: u16) -> Place {
    let slot = at.slot + by;
    if slot < size {
        Place { slot, ..at }
    } else {
        Place {
            slot: slot - size,
            wrap: !at.wrap,
        }
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
        let ring = Ring::new(Arc::new(memory), layout, false, false, 0xfffe).unwrap();
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

    fn split(fast: &mut FastRing) -> &mut SplitRing {
        fast.ring.split()
    }

    fn backend_uses(fast: &mut FastRing, elems: &[(u32, u32)]) {
        let layout = *fast.ring().layout();
        for &(id, len) in elems {
            let idx = split(fast).used_idx();
            let gpa = layout.used_elem(idx % 4);
            fast.memory().write(gpa, UsedElem { id, len });
            fast.memory().write(layout.used_idx(), idx.wrapping_add(1));
        }
    }

    #[test]
    fn descriptors_and_entries_are_laid_out_once() {
        let mut fast = fast(true);
        for slot in 0..4 {
            let desc = split(&mut fast).read_desc(slot);
            assert_eq!(desc.addr, 0x4000 + 192 * u64::from(slot) + 52);
            assert_eq!(desc.len, 76 + u32::from(slot));
            assert_eq!(desc.flags, DESC_WRITE);
            let entry: u16 = fast.memory().read(fast.ring().layout().avail_entry(slot));
            assert_eq!(entry, slot);
        }
        assert_eq!(split(&mut fast).avail_idx(), 0xfffe);
    }

    #[test]
    fn publishing_and_taking_move_the_indices_over_the_wrap() {
        let mut fast = fast(true);
        assert_eq!(fast.next_slot(), 2);
        fast.publish(3);
        assert_eq!(split(&mut fast).avail_idx(), 1);
        assert_eq!(fast.in_backend(), 3);
        backend_uses(&mut fast, &[(2, 76), (3, 90), (0, 100)]);
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
        backend_uses(&mut fast, &[(3, 0), (2, 0)]);
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
        let addrs = [0, 1, 2, 3].map(|index| split(&mut fast).read_desc(index).addr);
        assert_eq!(addrs[2..], addrs[..2]);
        assert_ne!(addrs[0], addrs[1]);
        assert_eq!(fast.free(), 2);
        fast.publish(1);
        assert_eq!((fast.free(), fast.next_slot()), (1, 1));
        fast.publish(1);
        assert_eq!((fast.free(), fast.next_slot()), (0, 0));
        backend_uses(&mut fast, &[(2, 0), (3, 0)]);
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

    #[test]
    fn a_packed_ring_goes_round_too() {
        let memory = GuestMemory::single(1 << 16, Backing::Shared).unwrap();
        let layout = RingLayout::at(0x1000, 4);
        let ring = Ring::new(Arc::new(memory), layout, true, false, 2).unwrap();
        let slots = Slots {
            gpa: 0x4000,
            stride: 192,
            offset: 52,
            count: 4,
        };
        let describe = |_, addr| Descriptor {
            addr,
            len: 76,
            flags: DESC_WRITE,
            next: 0,
        };
        let mut fast = FastRing::new(ring, slots, describe).unwrap();
        for lap in 0..5_u16 {
            let first = fast.next_slot();
            assert_eq!(first, (2 + 3 * lap) % 4);
            fast.publish(3);
            assert_eq!((fast.in_backend(), fast.used()), (3, 0));
            for nth in 0..3 {
                let slot = (first + nth) % 4;
                let packed = fast.ring.packed();
                let desc = packed.read_desc(slot);
                assert_eq!((desc.id, desc.len), (slot, 76));
                let used = desc.flags & PACKED_AVAIL == 0;
                let flags = if used { 0 } else { PACKED_AVAIL | PACKED_USED };
                packed.set_flags(slot, flags);
            }
            assert_eq!(fast.used(), 3);
            let taken = fast.take(3);
            assert_eq!((taken.bytes, taken.out_of_order), (228, 0));
            assert_eq!((fast.used(), fast.in_backend()), (0, 0));
        }
    }
}
