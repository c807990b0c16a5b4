//! The fields of a split virtqueue (VirtIO 1.2, 2.7) as its driver uses them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use ringway_vhost::GuestMemory;
use ringway_vhost::ring::RingAddresses;

/// A chain goes on at `next`.
const DESC_F_NEXT: u16 = 1;
/// The device writes into the buffer.
const DESC_F_WRITE: u16 = 2;

/// One ring, its driver's side, with EVENT_IDX agreed.
pub(super) struct Fields {
    descriptors: *mut u8,
    available: *mut u8,
    used: *mut u8,
    mask: u16,
    /// Next entry of the available ring to be written; not published yet.
    next_avail: u16,
    /// Next entry of the used ring to be read.
    next_used: u16,
    /// Available index at the last decision whether to kick.
    kicked_at: u16,
    /// Keeps the pointers good.
    _memory: Arc<GuestMemory>,
}

// SAFETY: the pointers are into the memory that it keeps alive; one thread at a
// time writes what is the driver's, and the rest is read with volatile or
// atomic loads.
unsafe impl Send for Fields {}

impl Fields {
    /// The ring of `size` entries at `addresses` behind `base`, all zero. Its
    /// parts must lie in `memory` (the device's side has checked it).
    pub(super) fn new(
        memory: &Arc<GuestMemory>,
        base: *mut u8,
        addresses: RingAddresses,
        size: u16,
    ) -> Self {
        let at = |address: u64| base.wrapping_add(address as usize);
        Self {
            descriptors: at(addresses.descriptor),
            available: at(addresses.available),
            used: at(addresses.used),
            mask: size - 1,
            next_avail: 0,
            next_used: 0,
            kicked_at: 0,
            _memory: Arc::clone(memory),
        }
    }

    /// Writes descriptor `index`: a buffer at `address` in the memory, which the
    /// device reads or, `writable`, writes, and which goes on at `next`.
    pub(super) fn describe(
        &mut self,
        index: u16,
        address: u64,
        len: u32,
        writable: bool,
        next: Option<u16>,
    ) {
        let flags = if writable { DESC_F_WRITE } else { 0 } | next.map_or(0, |_| DESC_F_NEXT);
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next.unwrap_or(0)) << 48;
        let at = self
            .descriptors
            .wrapping_add(16 * usize::from(index & self.mask));
        // SAFETY: within the descriptor table, 16-aligned.
        unsafe {
            at.cast::<u64>().write_volatile(address.to_le());
            at.add(8).cast::<u64>().write_volatile(rest.to_le());
        }
    }

    /// Puts a chain into the available ring. The device sees it after
    /// [`publish`](Self::publish).
    pub(super) fn push(&mut self, head: u16) {
        let at = 4 + 2 * usize::from(self.next_avail & self.mask);
        // SAFETY: within the available ring, 2-aligned.
        unsafe {
            self.available
                .add(at)
                .cast::<u16>()
                .write_volatile(head.to_le());
        }
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Lets the device see what was pushed.
    pub(super) fn publish(&mut self) {
        // SAFETY: the available index, 2-aligned.
        let index = unsafe { AtomicU16::from_ptr(self.available.add(2).cast()) };
        index.store(self.next_avail.to_le(), Ordering::Release);
    }

    /// Whether the device waits to be told of what was published since this was
    /// asked last (VirtIO 1.2, 2.7.7.2).
    pub(super) fn kick_is_wanted(&mut self) -> bool {
        let old = std::mem::replace(&mut self.kicked_at, self.next_avail);
        // The index must be visible before the device's wish is read, or both
        // sides could go to sleep.
        fence(Ordering::SeqCst);
        let at = 4 + 8 * (usize::from(self.mask) + 1);
        // SAFETY: avail_event, behind the used ring's elements.
        let event = u16::from_le(unsafe { self.used.add(at).cast::<u16>().read_volatile() });
        let new = self.next_avail;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Chains that the device has used and that were not taken back yet.
    pub(super) fn pending(&self) -> u16 {
        // SAFETY: the used index, 2-aligned.
        let index = unsafe { AtomicU16::from_ptr(self.used.add(2).cast()) };
        u16::from_le(index.load(Ordering::Acquire)).wrapping_sub(self.next_used)
    }

    /// Head and length of the used chain `position` places behind the next, which
    /// must be below [`pending`](Self::pending).
    pub(super) fn used(&self, position: u16) -> (u16, u32) {
        let entry = self.next_used.wrapping_add(position) & self.mask;
        let at = self.used.wrapping_add(4 + 8 * usize::from(entry));
        // SAFETY: within the used ring, 4-aligned.
        let (id, len) = unsafe {
            (
                at.cast::<u32>().read_volatile(),
                at.add(4).cast::<u32>().read_volatile(),
            )
        };
        (u32::from_le(id) as u16 & self.mask, u32::from_le(len))
    }

    /// Takes `count` used chains back.
    pub(super) fn take(&mut self, count: u16) {
        self.next_used = self.next_used.wrapping_add(count);
    }

    /// Asks to be called when the device uses one more chain. Afterwards
    /// [`pending`](Self::pending) must be asked again before sleeping.
    pub(super) fn want_call(&mut self) {
        let at = 4 + 2 * (usize::from(self.mask) + 1);
        // SAFETY: used_event, behind the available ring's heads.
        unsafe {
            self.available
                .add(at)
                .cast::<u16>()
                .write_volatile(self.next_used.to_le());
        }
        // The wish must be visible before the used index is read again.
        fence(Ordering::SeqCst);
    }
}
