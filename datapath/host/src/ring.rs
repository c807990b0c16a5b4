//! Rings in memory of ours, and the driver's side of them.
//!
//! To the poll-mode cores a pair is what a guest's would be: a [`Ring`] to
//! take frames from and one to put frames into. At the other end is no guest but
//! a thread of ours, which reads frames from the kernel straight into the buffers
//! of the one and writes them to the kernel straight out of those of the other.
//!
//! ```text
//! one memfd per pair
//! |-- rings --|-- 512 small buffers --|-- 1024 receive buffers --|-- 64 large buffers --|
//!              one per frame           mergeable                  behind a small one, for
//!              kernel → switch         switch → kernel            frames above 2 KiB
//! ```

#![allow(unsafe_code)]
// UNSAFETY: ring and buffer memory is shared with the poll-mode cores and the
// kernel, and reached through pointers into one mapping.

mod fields;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ringway_vhost::ring::{RingAddresses, RingFeatures, RingState};
use ringway_vhost::{DeviceFault, GsoKinds, GuestMemory, QueuePair, RegionSpec, Ring};

use fields::Fields;
pub(crate) use receive::ReceiveRing;
pub(crate) use transmit::{Buffers, LARGE_BYTES, Received, SMALL_BYTES, TransmitRing};

/// Entries of each ring.
pub(crate) const RING_SIZE: u16 = 1024;

/// Frames that are moved at a time.
pub(crate) const BATCH: usize = 64;

/// What both sides of our rings know to be agreed.
pub(crate) fn features() -> RingFeatures {
    RingFeatures {
        event_idx: true,
        mergeable: true,
        long_header: true,
        csum: true,
        guest_csum: true,
        host_gso: GsoKinds::ALL,
        guest_gso: GsoKinds::ALL,
        packed: false,
        indirect: false,
    }
}

/// A queue pair, both sides of it.
pub(crate) struct Pair {
    /// Kernel → switch, the driver's side.
    pub(crate) transmit: TransmitRing,
    /// Switch → kernel, the driver's side.
    pub(crate) receive: ReceiveRing,
    /// The device's side of both, for the poll-mode cores.
    pub(crate) device: QueuePair,
    /// Written by poll-mode cores when one of the rings has moved that the
    /// driver waits for. Nobody has to read it: watch it edge-triggered.
    pub(crate) call: OwnedFd,
}

/// Where things lie in a pair's memory, from its first byte on.
struct Layout {
    transmit: RingAddresses,
    receive: RingAddresses,
    small: usize,
    receive_buffers: usize,
    large: usize,
    end: usize,
}

impl Layout {
    fn new() -> Self {
        let mut end = 0usize;
        let mut place = |bytes: usize| {
            let at = end;
            end = (at + bytes).next_multiple_of(4096);
            at
        };
        let size = usize::from(RING_SIZE);
        let mut ring = || RingAddresses {
            descriptor: place(16 * size) as u64,
            available: place(6 + 2 * size) as u64,
            used: place(6 + 8 * size) as u64,
        };
        let (transmit, receive) = (ring(), ring());
        let small = place(transmit::SMALL_ALL);
        let receive_buffers = place(receive::ALL);
        let large = place(transmit::LARGE_ALL);
        Self {
            transmit,
            receive,
            small,
            receive_buffers,
            large,
            end,
        }
    }
}

impl Pair {
    /// A pair whose receive ring has all its buffers available. `fault` is the
    /// port's.
    pub(crate) fn new(fault: &Arc<DeviceFault>) -> io::Result<Self> {
        let layout = Layout::new();
        let file = File::from(memfd_create(c"ringway-port", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(layout.end as u64)?;
        let region = RegionSpec {
            gpa: 0,
            size: layout.end as u64,
            user_addr: 0,
            file_offset: 0,
        };
        let memory = GuestMemory::map(vec![(region, file)]).map_err(io::Error::other)?;
        let memory = Arc::new(memory);
        let base = memory.translate(0, layout.end as u64);
        let base = base.ok_or_else(|| io::Error::other("the memory is not mapped whole"))?;
        // The cores shall not have to wait for pages. Without it they would,
        // once for each page: no reason to fail.
        // SAFETY: a range of our own mapping, page-aligned at its start.
        let _ = unsafe { libc::madvise(base.cast(), layout.large, libc::MADV_POPULATE_WRITE) };

        let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let (kick, call) = (eventfd()?, eventfd()?);
        let copy = |fd: &EventFd| fd.as_fd().try_clone_to_owned();
        let device = |addresses, kick| {
            Ring::resolve(
                RING_SIZE.into(),
                addresses,
                features(),
                Arc::clone(&memory),
                Arc::new(RingState::at(0, Arc::clone(fault))),
                kick,
                Some(copy(&call)?),
            )
            .map(|ring| Some(Arc::new(ring)))
            .map_err(io::Error::other)
        };
        let device = QueuePair {
            dequeue: device(layout.transmit, Some(copy(&kick)?))?,
            // The cores look at it whenever they have frames for it.
            enqueue: device(layout.receive, None)?,
        };
        let fields = |addresses| Fields::new(&memory, base, addresses, RING_SIZE);
        let at = |offset: usize| base.wrapping_add(offset);
        Ok(Self {
            transmit: TransmitRing::new(
                fields(layout.transmit),
                at(layout.small),
                layout.small as u64,
                at(layout.large),
                layout.large as u64,
                kick,
            ),
            receive: ReceiveRing::new(
                fields(layout.receive),
                at(layout.receive_buffers),
                layout.receive_buffers as u64,
            ),
            device,
            call: copy(&call)?,
        })
    }
}
