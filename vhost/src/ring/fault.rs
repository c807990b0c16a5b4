//! How a guest can break its rings, and the cell that shuts its port out.

use std::sync::atomic::{AtomicU8, Ordering, fence};

use super::table::MAX_CHAIN_DESCRIPTORS;

/// How a guest broke the rules of its ring. Its port is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum RingFault {
    /// The available index moved by more than the ring's size (split rings).
    #[error("the available index jumped by more entries than the ring has")]
    AvailIndexJump = 1,
    /// A chain starts at a descriptor that does not exist (split rings).
    #[error("a chain starts at a descriptor index that is not below the ring's size")]
    HeadOutOfRange,
    /// A `next` field points to a descriptor that does not exist (split rings).
    #[error("a descriptor's next field is not below its table's size")]
    NextOutOfRange,
    /// A chain has more descriptors than the table: it loops.
    #[error("a descriptor chain loops, or has more than {MAX_CHAIN_DESCRIPTORS} descriptors")]
    ChainLoop,
    /// A buffer is not in guest memory.
    #[error("a descriptor points outside guest memory")]
    OutsideMemory,
    /// An indirect table within an indirect table or with a chained descriptor.
    #[error("an indirect descriptor is chained or lies inside an indirect table")]
    NestedIndirect,
    /// An indirect table of a length that is no multiple of 16, zero, or longer than allowed.
    #[error("an indirect table's length is zero, not a multiple of 16, or too long")]
    BadIndirectLength,
    /// Indirect descriptors were not negotiated.
    #[error("an indirect descriptor although VIRTIO_F_INDIRECT_DESC was not negotiated")]
    IndirectNotNegotiated,
    /// A device-writable buffer in the transmit queue or a readable one in the receive queue.
    #[error("a buffer's direction is wrong for its queue")]
    WrongDirection,
    /// A receive buffer too small to hold even the virtio-net header.
    #[error("a receive chain has no room for the virtio-net header")]
    NoRoomForHeader,
    /// A chain runs into a descriptor that the driver has not made available (packed rings).
    #[error("a descriptor chain goes on in a descriptor that was not made available")]
    ChainNotAvailable,
    /// Guest memory was there when it was mapped and is gone.
    #[error(
        "the frontend truncated its memory file, or its hugepages ran out: memory that it shared is gone"
    )]
    MemoryLost,
    /// A notification would have waited for ever.
    #[error(
        "the frontend filled its call eventfd and made it blocking: notifying its guest never ended"
    )]
    CallBlocked,
}

impl RingFault {
    const ALL: [RingFault; 13] = [
        RingFault::AvailIndexJump,
        RingFault::HeadOutOfRange,
        RingFault::NextOutOfRange,
        RingFault::ChainLoop,
        RingFault::OutsideMemory,
        RingFault::NestedIndirect,
        RingFault::BadIndirectLength,
        RingFault::IndirectNotNegotiated,
        RingFault::WrongDirection,
        RingFault::NoRoomForHeader,
        RingFault::ChainNotAvailable,
        RingFault::MemoryLost,
        RingFault::CallBlocked,
    ];

    /// Whether a driver that starts anew does not mend it: only a new
    /// connection does.
    pub fn outlasts_driver(self) -> bool {
        matches!(self, Self::MemoryLost | Self::CallBlocked)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| *fault as u8 == code)
    }
}

/// The first fault of any ring of a device. Shared by its rings, so that the
/// PMD that finds it shuts out the whole port at once. Written by a PMD
/// (fault) and the session (clear), read by PMDs and the control plane.
#[derive(Debug, Default)]
pub struct DeviceFault(AtomicU8);

impl DeviceFault {
    /// Nothing is wrong.
    pub(crate) const fn none() -> Self {
        Self(AtomicU8::new(0))
    }

    /// How the guest broke its rings, if it did.
    #[inline(always)]
    pub fn get(&self) -> Option<RingFault> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            code => RingFault::from_code(code),
        }
    }

    /// Sets the fault, unless there is one already.
    pub(crate) fn set(&self, fault: RingFault) {
        let relaxed = Ordering::Relaxed;
        let _ = (self.0).compare_exchange(0, fault as u8, relaxed, relaxed);
    }

    /// Guest memory is gone, whatever else may be wrong. Called by the SIGBUS
    /// handler, before it puts other memory there.
    pub(crate) fn lose_memory(&self) {
        self.0.store(RingFault::MemoryLost as u8, Ordering::SeqCst);
    }

    /// Whether guest memory is gone. What was read or written before this was
    /// asked is only to be believed if the answer is no.
    #[inline(always)]
    pub fn has_lost_memory(&self) -> bool {
        // Not before the accesses that it is about.
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) == RingFault::MemoryLost as u8
    }

    /// The guest's driver starts anew: forgives what that mends.
    pub fn forgive(&self) {
        let code = self.0.load(Ordering::Relaxed);
        if RingFault::from_code(code).is_some_and(|fault| !fault.outlasts_driver()) {
            // Unless memory has gone meanwhile.
            let _ = (self.0).compare_exchange(code, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// There is another frontend, with other memory.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
