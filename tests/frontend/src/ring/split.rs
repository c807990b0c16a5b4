//! A split virtqueue, driver side: every field raw, and helpers for a driver
//! that behaves.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    AVAIL_NO_INTERRUPT, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor, RingLayout,
    USED_NO_NOTIFY, UsedElem, need_event,
};
use crate::{Error, Gpa, GuestMemory};

/// Fewer free descriptors than the chain needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring has no free descriptors left; collect used chains first")]
pub struct NoDescriptors;

/// A ring in guest memory with its kick and call descriptors.
pub struct SplitRing {
    memory: Arc<GuestMemory>,
    layout: RingLayout,
    event_idx: bool,
    kick: EventFd,
    call: EventFd,
    free: Vec<u16>,
    /// Descriptors of the chain that begins at each head, for recycling.
    chains: Vec<Vec<u16>>,
    next_avail: u16,
    next_used: u16,
    /// Available index at the time of the last kick decision.
    kicked_at: u16,
}

impl SplitRing {
    /// Zeroes the ring in `memory` and starts both indices at `base`.
    pub fn new(
        memory: Arc<GuestMemory>,
        layout: RingLayout,
        event_idx: bool,
        base: u16,
    ) -> Result<Self, Error> {
        let length = (layout.end() - layout.desc) as usize;
        memory.write_bytes(layout.desc, &vec![0; length]);
        let mut ring = Self {
            memory,
            layout,
            event_idx,
            kick: EventFd::new(EFD_NONBLOCK).map_err(Error::EventFd)?,
            call: EventFd::new(EFD_NONBLOCK).map_err(Error::EventFd)?,
            free: (0..layout.size).rev().collect(),
            chains: vec![Vec::new(); usize::from(layout.size)],
            next_avail: base,
            next_used: base,
            kicked_at: base,
        };
        ring.set_avail_idx(base);
        ring.memory
            .store(layout.used_idx(), base.to_le(), Ordering::Release);
        ring.set_used_event(base);
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

    /// Writes descriptor `index`, as it is.
    pub fn write_desc(&self, index: u16, desc: Descriptor) {
        self.memory.write(self.layout.descriptor(index), desc);
    }

    /// Reads descriptor `index`.
    pub fn read_desc(&self, index: u16) -> Descriptor {
        self.memory.read(self.layout.descriptor(index))
    }

    /// Writes `avail.ring[slot]`.
    pub fn write_avail_entry(&self, slot: u16, head: u16) {
        let gpa = self.layout.avail_entry(slot);
        self.memory.store(gpa, head.to_le(), Ordering::Relaxed);
    }

    /// Publishes `avail.idx` (release), and goes on counting from it.
    pub fn set_avail_idx(&mut self, idx: u16) {
        let gpa = self.layout.avail_idx();
        self.memory.store(gpa, idx.to_le(), Ordering::Release);
        self.next_avail = idx;
    }

    /// `avail.idx` as the backend sees it.
    pub fn avail_idx(&self) -> u16 {
        self.load(self.layout.avail_idx())
    }

    /// Writes `avail.flags`.
    pub fn set_avail_flags(&self, flags: u16) {
        let gpa = self.layout.avail_flags();
        self.memory.store(gpa, flags.to_le(), Ordering::Relaxed);
    }

    /// Writes `avail.used_event`.
    pub fn set_used_event(&self, idx: u16) {
        let gpa = self.layout.used_event();
        self.memory.store(gpa, idx.to_le(), Ordering::Relaxed);
    }

    /// `used.idx` (acquire).
    pub fn used_idx(&self) -> u16 {
        self.load(self.layout.used_idx())
    }

    /// `used.flags`.
    pub fn used_flags(&self) -> u16 {
        self.load(self.layout.used_flags())
    }

    /// `used.avail_event`.
    pub fn avail_event(&self) -> u16 {
        self.load(self.layout.avail_event())
    }

    /// `used.ring[slot]`.
    pub fn used_elem(&self, slot: u16) -> UsedElem {
        self.memory.read(self.layout.used_elem(slot))
    }

    /// Kicks unconditionally.
    pub fn kick(&self) {
        // A full eventfd counter is already a pending kick.
        let _ = self.kick.write(1);
    }

    /// Takes the pending calls; their number, 0 if none.
    pub fn take_calls(&self) -> u64 {
        self.call.read().unwrap_or(0)
    }

    /// Waits for a call (without taking it); false on timeout.
    pub fn wait_call(&self, timeout: Duration) -> bool {
        let fd = borrow(&self.call);
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
    }

    // A driver that behaves.

    /// Free descriptors.
    pub fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    /// The descriptor that the next single-buffer chain will take.
    pub fn peek_free(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Makes a chain of `(gpa, length, backend writes)` buffers available and
    /// publishes it; returns its head.
    pub fn add_chain(&mut self, buffers: &[(Gpa, u32, bool)]) -> Result<u16, NoDescriptors> {
        if buffers.is_empty() || buffers.len() > self.free.len() {
            return Err(NoDescriptors);
        }
        let chain = self.free.split_off(self.free.len() - buffers.len());
        for (position, &(addr, len, write)) in buffers.iter().enumerate() {
            let next = chain.get(position + 1).copied();
            let mut flags = if write { DESC_WRITE } else { 0 };
            flags |= if next.is_some() { DESC_NEXT } else { 0 };
            let desc = Descriptor {
                addr,
                len,
                flags,
                next: next.unwrap_or(0),
            };
            self.write_desc(chain[position], desc);
        }
        Ok(self.publish(chain))
    }

    /// The same by way of an indirect table, written at `table`.
    pub fn add_indirect(
        &mut self,
        table: Gpa,
        buffers: &[(Gpa, u32, bool)],
    ) -> Result<u16, NoDescriptors> {
        for (position, &(addr, len, write)) in buffers.iter().enumerate() {
            let last = position + 1 == buffers.len();
            let mut flags = if write { DESC_WRITE } else { 0 };
            flags |= if last { 0 } else { DESC_NEXT };
            let desc = Descriptor {
                addr,
                len,
                flags,
                next: if last { 0 } else { position as u16 + 1 },
            };
            self.memory.write(table + 16 * position as u64, desc);
        }
        self.add_descriptor(Descriptor {
            addr: table,
            len: 16 * buffers.len() as u32,
            flags: DESC_INDIRECT,
            next: 0,
        })
    }

    /// Makes one descriptor available exactly as given, well-formed or not;
    /// it is recycled when the backend returns it.
    pub fn add_descriptor(&mut self, desc: Descriptor) -> Result<u16, NoDescriptors> {
        let index = self.free.pop().ok_or(NoDescriptors)?;
        self.write_desc(index, desc);
        Ok(self.publish(vec![index]))
    }

    /// Writes the next available entry and publishes it, whatever `head` is;
    /// nothing is recycled for it.
    pub fn push_avail(&mut self, head: u16) {
        let slot = self.next_avail & (self.layout.size - 1);
        self.write_avail_entry(slot, head);
        self.set_avail_idx(self.next_avail.wrapping_add(1));
    }

    fn publish(&mut self, chain: Vec<u16>) -> u16 {
        let head = chain[0];
        self.chains[usize::from(head)] = chain;
        self.push_avail(head);
        head
    }

    /// Kicks if the backend asked for it since the last call; true if it did.
    pub fn kick_if_wanted(&mut self) -> bool {
        // The index must be visible before the backend's wish is read.
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked_at, self.next_avail);
        let wanted = if self.event_idx {
            need_event(self.avail_event(), self.next_avail, old)
        } else {
            self.used_flags() & USED_NO_NOTIFY == 0 && old != self.next_avail
        };
        if wanted {
            self.kick();
        }
        wanted
    }

    /// Asks for calls from the next used chain on, or for none.
    pub fn want_calls(&self, wanted: bool) {
        if self.event_idx {
            // "None" is an index just passed: half the index space away.
            let away = if wanted { 0 } else { 0x8000 };
            self.set_used_event(self.next_used.wrapping_add(away));
        } else {
            self.set_avail_flags(if wanted { 0 } else { AVAIL_NO_INTERRUPT });
        }
        fence(Ordering::SeqCst);
    }

    /// Chains used by the backend and not yet collected.
    pub fn used_pending(&self) -> u16 {
        self.used_idx().wrapping_sub(self.next_used)
    }

    /// Collects the next used chain and recycles its descriptors.
    ///
    /// # Panics
    /// If the backend returns a head that is not in use: its bug.
    pub fn poll_used(&mut self) -> Option<UsedElem> {
        if self.used_pending() == 0 {
            return None;
        }
        let elem = self.used_elem(self.next_used & (self.layout.size - 1));
        self.next_used = self.next_used.wrapping_add(1);
        let chain = self.chains.get_mut(elem.id as usize).map(std::mem::take);
        match chain {
            Some(chain) if !chain.is_empty() => self.free.extend(chain.iter().rev()),
            _ => panic!("the backend returned {elem:?}, a chain it was not given"),
        }
        Some(elem)
    }

    /// The index the driver will publish next.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    fn load(&self, gpa: Gpa) -> u16 {
        u16::from_le(self.memory.load(gpa, Ordering::Acquire))
    }
}

fn borrow(fd: &EventFd) -> BorrowedFd<'_> {
    #![allow(unsafe_code)]
    // UNSAFETY: `vmm-sys-util`'s EventFd has no `AsFd` yet.
    // SAFETY: the descriptor is open as long as `fd` is borrowed.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backing;

    fn ring(event_idx: bool, base: u16) -> SplitRing {
        let memory = GuestMemory::single(1 << 16, Backing::Shared).unwrap();
        let layout = RingLayout::at(0x1000, 8);
        SplitRing::new(Arc::new(memory), layout, event_idx, base).unwrap()
    }

    /// What a backend does with the ring, in the plainest way.
    fn backend_uses(ring: &SplitRing, id: u32, len: u32) {
        let idx = ring.used_idx();
        let elem = ring.layout().used_elem(idx % ring.layout().size);
        ring.memory().write(elem, UsedElem { id, len });
        ring.memory()
            .write(ring.layout().used_idx(), idx.wrapping_add(1));
    }

    #[test]
    fn a_chain_is_linked_published_and_recycled() {
        let mut ring = ring(false, 0);
        let head = ring
            .add_chain(&[(0x4000, 12, false), (0x5000, 60, false)])
            .unwrap();
        assert_eq!(ring.avail_idx(), 1);
        let first = ring.read_desc(head);
        assert_eq!(
            (first.addr, first.len, first.flags),
            (0x4000, 12, DESC_NEXT)
        );
        let second = ring.read_desc(first.next);
        assert_eq!((second.addr, second.len, second.flags), (0x5000, 60, 0));
        assert_eq!(ring.free_descriptors(), 6);

        assert_eq!(ring.poll_used(), None);
        backend_uses(&ring, head.into(), 0);
        assert_eq!(ring.poll_used().unwrap().id, u32::from(head));
        assert_eq!(ring.free_descriptors(), 8);
    }

    #[test]
    fn an_indirect_chain_takes_one_descriptor() {
        let mut ring = ring(false, 0);
        let buffers = [(0x4000, 12, true), (0x5000, 60, true)];
        let head = ring.add_indirect(0x3000, &buffers).unwrap();
        assert_eq!(ring.free_descriptors(), 7);
        let desc = ring.read_desc(head);
        assert_eq!(
            (desc.addr, desc.len, desc.flags),
            (0x3000, 32, DESC_INDIRECT)
        );
        let first: Descriptor = ring.memory().read(0x3000);
        assert_eq!((first.flags, first.next), (DESC_NEXT | DESC_WRITE, 1));
        let last: Descriptor = ring.memory().read(0x3010);
        assert_eq!((last.addr, last.flags), (0x5000, DESC_WRITE));
    }

    #[test]
    fn a_full_ring_says_so_and_indices_wrap() {
        let mut ring = ring(false, 0xfffe);
        for _ in 0..8 {
            ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        }
        assert_eq!(ring.add_chain(&[(0x4000, 1, true)]), Err(NoDescriptors));
        assert_eq!(ring.avail_idx(), 6);
        backend_uses(&ring, 3, 1);
        assert_eq!(ring.used_pending(), 1);
        assert_eq!(ring.poll_used(), Some(UsedElem { id: 3, len: 1 }));
        assert_eq!(ring.used_pending(), 0);
    }

    #[test]
    #[should_panic(expected = "not given")]
    fn a_chain_returned_twice_is_the_backends_bug() {
        let mut ring = ring(false, 0);
        ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        backend_uses(&ring, 0, 1);
        backend_uses(&ring, 0, 1);
        ring.poll_used();
        ring.poll_used();
    }

    #[test]
    fn kicks_follow_the_flag_without_event_idx() {
        let mut ring = ring(false, 0);
        ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        assert!(ring.kick_if_wanted());
        assert!(!ring.kick_if_wanted(), "nothing new, no kick");
        ring.memory()
            .write(ring.layout().used_flags(), USED_NO_NOTIFY);
        ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        assert!(!ring.kick_if_wanted());
        assert_eq!(ring.kick_fd().read().unwrap(), 1);
    }

    #[test]
    fn kicks_follow_avail_event_with_event_idx() {
        let mut ring = ring(true, 0);
        ring.memory().write(ring.layout().avail_event(), 1_u16);
        ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        assert!(!ring.kick_if_wanted());
        ring.add_chain(&[(0x4000, 1, true)]).unwrap();
        assert!(ring.kick_if_wanted());
    }

    #[test]
    fn calls_are_asked_for_by_event_or_by_flag() {
        let plain = ring(false, 0);
        plain.want_calls(false);
        let flags: u16 = plain.memory().read(plain.layout().avail_flags());
        assert_eq!(flags, AVAIL_NO_INTERRUPT);

        let event = ring(true, 7);
        event.want_calls(true);
        let used_event: u16 = event.memory().read(event.layout().used_event());
        assert!(need_event(used_event, 8, 7));
        event.want_calls(false);
        let used_event: u16 = event.memory().read(event.layout().used_event());
        assert!(!need_event(used_event, 8, 7));

        event.call_fd().write(3).unwrap();
        assert!(event.wait_call(Duration::ZERO));
        assert_eq!(event.take_calls(), 3);
        assert_eq!(event.take_calls(), 0);
    }
}
