//! A packed virtqueue from the driver's side (VirtIO 1.2, 2.8): plain
//! accesses to every field, and a driver that behaves.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::layout::PackedDescriptor;
use super::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, NoDescriptors, RingLayout, UsedElem};
use crate::{Error, Gpa, GuestMemory};

/// Descriptor flag: available, in the laps in which the wrap counter is 1.
pub const PACKED_AVAIL: u16 = 1 << 7;
/// Descriptor flag: used, in the laps in which the wrap counter is 1.
pub const PACKED_USED: u16 = 1 << 15;
/// Event flags: notify always.
pub const EVENT_ENABLE: u16 = 0;
/// Event flags: never notify.
pub const EVENT_DISABLE: u16 = 1;
/// Event flags: notify when a position is passed.
pub const EVENT_DESCRIPTOR: u16 = 2;

/// A slot and the wrap counter there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Below the ring's size.
    pub slot: u16,
    /// The wrap counter.
    pub wrap: bool,
}

impl Place {
    /// As 16 bits, the wrap counter in the highest.
    pub fn bits(self) -> u16 {
        self.slot | u16::from(self.wrap) << 15
    }
}

/// A ring in guest memory with its kick and call descriptors.
pub struct PackedRing {
    memory: Arc<GuestMemory>,
    /// `avail` is the driver event structure, `used` the device event structure.
    layout: RingLayout,
    event_idx: bool,
    kick: EventFd,
    call: EventFd,
    free_ids: Vec<u16>,
    /// Descriptors of the chain that has each id; 0: none has.
    chains: Vec<u16>,
    free: u16,
    next_avail: Place,
    next_used: Place,
    /// Where the ring was at the time of the last kick decision.
    kicked_at: Place,
}

impl PackedRing {
    /// Zeroes the ring in `memory` and starts in its first lap, at slot `base`
    /// modulo the size; slots before it have been used.
    pub fn new(
        memory: Arc<GuestMemory>,
        layout: RingLayout,
        event_idx: bool,
        base: u16,
    ) -> Result<Self, Error> {
        memory.write_bytes(layout.desc, &vec![0; 16 * usize::from(layout.size)]);
        memory.write(layout.avail, 0_u32);
        memory.write(layout.used, 0_u32);
        let start = Place {
            slot: base % layout.size,
            wrap: true,
        };
        let ring = Self {
            free_ids: (0..layout.size).rev().collect(),
            chains: vec![0; usize::from(layout.size)],
            free: layout.size,
            memory,
            layout,
            event_idx,
            kick: EventFd::new(EFD_NONBLOCK).map_err(Error::EventFd)?,
            call: EventFd::new(EFD_NONBLOCK).map_err(Error::EventFd)?,
            next_avail: start,
            next_used: start,
            kicked_at: start,
        };
        for slot in 0..start.slot {
            ring.set_flags(slot, PACKED_AVAIL | PACKED_USED);
        }
        Ok(ring)
    }

    /// Where the ring lies.
    pub fn layout(&self) -> &RingLayout {
        &self.layout
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Descriptor to be given to SET_VRING_KICK.
    pub fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    /// Descriptor to be given to SET_VRING_CALL.
    pub fn call_fd(&self) -> &EventFd {
        &self.call
    }

    // Raw fields: nothing is checked, nothing is tracked.

    /// Writes the descriptor in `slot`, as it is.
    pub fn write_desc(&self, slot: u16, desc: PackedDescriptor) {
        self.memory.write(self.layout.descriptor(slot), desc);
    }

    /// Reads the descriptor in `slot`.
    pub fn read_desc(&self, slot: u16) -> PackedDescriptor {
        self.memory.read(self.layout.descriptor(slot))
    }

    /// Writes the flags in `slot` (release).
    pub fn set_flags(&self, slot: u16, flags: u16) {
        let gpa = self.layout.descriptor(slot) + 14;
        self.memory.store(gpa, flags.to_le(), Ordering::Release);
    }

    /// The flags in `slot` (acquire).
    pub fn flags(&self, slot: u16) -> u16 {
        let gpa = self.layout.descriptor(slot) + 14;
        u16::from_le(self.memory.load(gpa, Ordering::Acquire))
    }

    /// AVAIL and USED of a descriptor that is available at `place`.
    pub fn available_flags(place: Place) -> u16 {
        if place.wrap {
            PACKED_AVAIL
        } else {
            PACKED_USED
        }
    }

    /// `place`, `by` slots further on.
    pub fn advance(&self, place: Place, by: u16) -> Place {
        let slot = place.slot + by;
        Place {
            slot: slot % self.layout.size,
            wrap: place.wrap ^ (slot >= self.layout.size),
        }
    }

    /// Writes the driver event structure: when to call.
    pub fn set_driver_event(&self, place: Place, flags: u16) {
        let event = u32::from(place.bits()) | u32::from(flags) << 16;
        let gpa = self.layout.avail;
        self.memory.store(gpa, event.to_le(), Ordering::Relaxed);
    }

    /// The device event structure: where and whether to kick.
    pub fn device_event(&self) -> (u16, u16) {
        let event = u32::from_le(self.memory.load(self.layout.used, Ordering::Acquire));
        (event as u16, (event >> 16) as u16)
    }

    /// Kicks unconditionally.
    pub fn kick(&self) {
        // A full eventfd counter is already a pending kick.
        let _ = self.kick.write(1);
    }

    // A driver that behaves.

    /// Free descriptors.
    pub fn free_descriptors(&self) -> usize {
        self.free.into()
    }

    /// The id that the next chain will have.
    pub fn peek_free(&self) -> Option<u16> {
        (self.free > 0).then(|| self.free_ids.last().copied())?
    }

    /// Makes a chain of `(gpa, length, backend writes)` buffers available;
    /// returns its id.
    pub fn add_chain(&mut self, buffers: &[(Gpa, u32, bool)]) -> Result<u16, NoDescriptors> {
        let last = buffers.len().wrapping_sub(1);
        let flags = |at: usize, write| {
            let next = if at < last { DESC_NEXT } else { 0 };
            next | if write { DESC_WRITE } else { 0 }
        };
        let list = buffers.iter().enumerate();
        let list = list.map(|(at, &(addr, len, write))| (addr, len, flags(at, write)));
        self.add(list.collect())
    }

    /// The same by way of an indirect table, written at `table`.
    pub fn add_indirect(
        &mut self,
        table: Gpa,
        buffers: &[(Gpa, u32, bool)],
    ) -> Result<u16, NoDescriptors> {
        for (position, &(addr, len, write)) in buffers.iter().enumerate() {
            let desc = PackedDescriptor {
                addr,
                len,
                id: 0,
                flags: u16::from(write) * DESC_WRITE,
            };
            self.memory.write(table + 16 * position as u64, desc);
        }
        self.add(vec![(table, 16 * buffers.len() as u32, DESC_INDIRECT)])
    }

    /// Makes a chain of `(address, length, flags)` available exactly as given;
    /// it is recycled when the backend returns it.
    pub fn add(&mut self, list: Vec<(u64, u32, u16)>) -> Result<u16, NoDescriptors> {
        let count = list.len() as u16;
        if list.is_empty() || count > self.free {
            return Err(NoDescriptors);
        }
        let id = self.free_ids.pop().ok_or(NoDescriptors)?;
        self.chains[usize::from(id)] = count;
        self.free -= count;
        // The first one's flags last: they make the chain visible.
        for (nth, (addr, len, flags)) in list.into_iter().enumerate().rev() {
            let place = self.advance(self.next_avail, nth as u16);
            let gpa = self.layout.descriptor(place.slot);
            self.memory.write(gpa, addr.to_le());
            self.memory.write(gpa + 8, len.to_le());
            self.memory.write(gpa + 12, id.to_le());
            self.set_flags(place.slot, flags | Self::available_flags(place));
        }
        self.next_avail = self.advance(self.next_avail, count);
        Ok(id)
    }

    /// Kicks if the backend asked for it since the last call; true if it did.
    pub fn kick_if_wanted(&mut self) -> bool {
        // Flags must be visible before the backend's wish is read.
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked_at, self.next_avail);
        let (at, flags) = self.device_event();
        let wanted = match flags & 3 {
            EVENT_DISABLE => false,
            EVENT_DESCRIPTOR if self.event_idx => self.passed(at, old, self.next_avail),
            _ => old != self.next_avail,
        };
        if wanted {
            self.kick();
        }
        wanted
    }

    /// Whether `event` was passed on the way from `old` to `new`.
    fn passed(&self, event: u16, old: Place, new: Place) -> bool {
        let mut at = old;
        while at != new {
            if at.bits() == event {
                return true;
            }
            at = self.advance(at, 1);
        }
        false
    }

    /// Asks for calls from the next used chain on, or for none.
    pub fn want_calls(&self, wanted: bool) {
        let flags = match (wanted, self.event_idx) {
            (false, _) => EVENT_DISABLE,
            (true, true) => EVENT_DESCRIPTOR,
            (true, false) => EVENT_ENABLE,
        };
        self.set_driver_event(self.next_used, flags);
        fence(Ordering::SeqCst);
    }

    /// Whether the backend has used the next chain.
    pub fn has_used(&self) -> bool {
        let flags = self.flags(self.next_used.slot);
        let both = PACKED_AVAIL | PACKED_USED;
        flags & both == if self.next_used.wrap { both } else { 0 }
    }

    /// Collects the next used chain and recycles its descriptors.
    ///
    /// # Panics
    /// If the backend returns an id that is not in use: its bug.
    pub fn poll_used(&mut self) -> Option<UsedElem> {
        if self.free == self.layout.size || !self.has_used() {
            return None;
        }
        let PackedDescriptor { len, id, .. } = self.read_desc(self.next_used.slot);
        let count = self.chains.get_mut(usize::from(id)).map(std::mem::take);
        match count {
            Some(count) if count > 0 => {
                self.free_ids.push(id);
                self.free += count;
                self.next_used = self.advance(self.next_used, count);
            }
            _ => panic!("the backend returned id {id}, a chain it was not given"),
        }
        Some(UsedElem { id: id.into(), len })
    }

    /// Where the driver makes the next chain available.
    pub fn next_avail(&self) -> Place {
        self.next_avail
    }

    /// Where the driver looks for the next used chain.
    pub fn next_used(&self) -> Place {
        self.next_used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backing;

    fn ring(size: u16, event_idx: bool) -> PackedRing {
        let memory = GuestMemory::single(1 << 16, Backing::Shared).unwrap();
        let layout = RingLayout::at(0x1000, size);
        PackedRing::new(Arc::new(memory), layout, event_idx, 0).unwrap()
    }

    /// What a backend does with the next chain, in the plainest way.
    fn backend_uses(ring: &PackedRing, place: Place, id: u16, len: u32) {
        let both = PACKED_AVAIL | PACKED_USED;
        let desc = PackedDescriptor {
            addr: 0,
            len,
            id,
            flags: if place.wrap { both } else { 0 },
        };
        ring.write_desc(place.slot, desc);
    }

    #[test]
    fn a_chain_is_available_by_its_first_descriptor_and_recycled_as_a_whole() {
        let mut ring = ring(3, false);
        let start = ring.next_avail();
        let id = ring
            .add_chain(&[(0x4000, 12, false), (0x5000, 60, false)])
            .unwrap();
        let first = ring.read_desc(0);
        assert_eq!((first.addr, first.len), (0x4000, 12));
        assert_eq!(first.flags, DESC_NEXT | PACKED_AVAIL);
        let second = ring.read_desc(1);
        assert_eq!(
            (second.addr, second.id, second.flags),
            (0x5000, id, PACKED_AVAIL)
        );
        assert_eq!(ring.free_descriptors(), 1);
        assert_eq!(ring.poll_used(), None);

        backend_uses(&ring, start, id, 0);
        assert_eq!(ring.poll_used().map(|used| used.id), Some(id.into()));
        assert_eq!(ring.free_descriptors(), 3);
        // Over the end: the second one is in the next lap.
        ring.add_chain(&[(0x4000, 12, true), (0x5000, 60, true)])
            .unwrap();
        assert_eq!(ring.flags(2), DESC_NEXT | DESC_WRITE | PACKED_AVAIL);
        assert_eq!(ring.flags(0), DESC_WRITE | PACKED_USED);
        assert_eq!(
            ring.next_avail(),
            Place {
                slot: 1,
                wrap: false
            }
        );
    }

    #[test]
    fn kicks_follow_the_device_event_structure() {
        let mut ring = ring(4, true);
        let wish = |ring: &PackedRing, place: u16, flags: u16| {
            ring.memory().write(
                ring.layout().used,
                u32::from(place) | u32::from(flags) << 16,
            );
        };
        wish(&ring, 0x8001, EVENT_DESCRIPTOR);
        ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        assert!(!ring.kick_if_wanted());
        ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        assert!(ring.kick_if_wanted());
        wish(&ring, 0, EVENT_DISABLE);
        ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        assert!(!ring.kick_if_wanted());
        wish(&ring, 0, EVENT_ENABLE);
        assert!(!ring.kick_if_wanted(), "nothing new, no kick");
    }
}
