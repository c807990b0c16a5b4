//! A virtqueue of either layout, as far as they are alike to a driver.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

use super::{NoDescriptors, PackedRing, RingLayout, SplitRing, UsedElem};
use crate::{Error, Gpa, GuestMemory};

/// A ring in guest memory with its kick and call descriptors.
pub enum Ring {
    /// VirtIO 1.2, 2.7.
    Split(SplitRing),
    /// VirtIO 1.2, 2.8.
    Packed(PackedRing),
}

/// The same call of whichever it is.
macro_rules! either {
    ($self:ident, $ring:ident => $call:expr) => {
        match $self {
            Ring::Split($ring) => $call,
            Ring::Packed($ring) => $call,
        }
    };
}

impl Ring {
    /// Zeroes a ring in `memory` and starts it at `base` (a packed one at slot
    /// `base` modulo its size, in its first lap).
    pub fn new(
        memory: Arc<GuestMemory>,
        layout: RingLayout,
        packed: bool,
        event_idx: bool,
        base: u16,
    ) -> Result<Self, Error> {
        Ok(if packed {
            Self::Packed(PackedRing::new(memory, layout, event_idx, base)?)
        } else {
            Self::Split(SplitRing::new(memory, layout, event_idx, base)?)
        })
    }

    /// The split ring that it is.
    ///
    /// # Panics
    /// If it is a packed one.
    pub fn split(&mut self) -> &mut SplitRing {
        match self {
            Self::Split(ring) => ring,
            Self::Packed(_) => panic!("a packed ring has no such fields"),
        }
    }

    /// The packed ring that it is.
    ///
    /// # Panics
    /// If it is a split one.
    pub fn packed(&mut self) -> &mut PackedRing {
        match self {
            Self::Packed(ring) => ring,
            Self::Split(_) => panic!("a split ring has no such fields"),
        }
    }

    /// What SET_VRING_BASE says of where the driver is now, if the backend has
    /// used all that was made available.
    pub fn base(&self) -> u16 {
        match self {
            Self::Split(ring) => ring.next_avail(),
            Self::Packed(ring) => ring.next_avail().bits(),
        }
    }

    /// What SET_VRING_BASE says if the backend has died, as QEMU does it: the used
    /// index, or, as nothing tells where the device stood in a packed ring, where
    /// that begins.
    pub fn base_after_crash(&self) -> u16 {
        match self {
            Self::Split(ring) => ring.used_idx(),
            Self::Packed(_) => 1 << 15,
        }
    }

    /// Where the ring lies.
    pub fn layout(&self) -> &RingLayout {
        either!(self, ring => ring.layout())
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        either!(self, ring => ring.memory())
    }

    /// Descriptor to be given to SET_VRING_KICK.
    pub fn kick_fd(&self) -> &EventFd {
        either!(self, ring => ring.kick_fd())
    }

    /// Descriptor to be given to SET_VRING_CALL.
    pub fn call_fd(&self) -> &EventFd {
        either!(self, ring => ring.call_fd())
    }

    /// Kicks unconditionally.
    pub fn kick(&self) {
        either!(self, ring => ring.kick());
    }

    /// Takes the pending calls; their number, 0 if none.
    pub fn take_calls(&self) -> u64 {
        self.call_fd().read().unwrap_or(0)
    }

    /// Waits for a call (without taking it); false on timeout.
    pub fn wait_call(&self, timeout: Duration) -> bool {
        let fd = borrow(self.call_fd());
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
    }

    /// Free descriptors.
    pub fn free_descriptors(&self) -> usize {
        either!(self, ring => ring.free_descriptors())
    }

    /// What the next single-buffer chain will be known by.
    pub fn peek_free(&self) -> Option<u16> {
        either!(self, ring => ring.peek_free())
    }

    /// Makes a chain of `(gpa, length, backend writes)` buffers available and
    /// returns what it is known by.
    pub fn add_chain(&mut self, buffers: &[(Gpa, u32, bool)]) -> Result<u16, NoDescriptors> {
        either!(self, ring => ring.add_chain(buffers))
    }

    /// The same by way of an indirect table, written at `table`.
    pub fn add_indirect(
        &mut self,
        table: Gpa,
        buffers: &[(Gpa, u32, bool)],
    ) -> Result<u16, NoDescriptors> {
        either!(self, ring => ring.add_indirect(table, buffers))
    }

    /// Kicks if the backend asked for it since the last call; true if it did.
    pub fn kick_if_wanted(&mut self) -> bool {
        either!(self, ring => ring.kick_if_wanted())
    }

    /// Asks for calls from the next used chain on, or for none.
    pub fn want_calls(&self, wanted: bool) {
        either!(self, ring => ring.want_calls(wanted));
    }

    /// Whether the backend has used a chain that was not collected yet.
    pub fn has_used(&self) -> bool {
        match self {
            Self::Split(ring) => ring.used_pending() > 0,
            Self::Packed(ring) => {
                ring.free_descriptors() < usize::from(ring.layout().size) && ring.has_used()
            }
        }
    }

    /// Collects the next used chain and recycles its descriptors.
    ///
    /// # Panics
    /// If the backend returns a chain that is not in use: its bug.
    pub fn poll_used(&mut self) -> Option<UsedElem> {
        either!(self, ring => ring.poll_used())
    }
}

fn borrow(fd: &EventFd) -> BorrowedFd<'_> {
    #![allow(unsafe_code)]
    // UNSAFETY: `vmm-sys-util`'s EventFd has no `AsFd` yet.
    // SAFETY: the descriptor is open as long as `fd` is borrowed.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}
