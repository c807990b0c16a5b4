//! How a guest can break its rings, and the cell that shuts its port out.

use std::sync::atomic::{AtomicU8, Ordering};

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
}

impl RingFault {
    const ALL: [RingFault; 11] = [
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
    ];

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
    /// How the guest broke its rings, if it did.
    #[inline(always)]
    pub fn get(&self) -> Option<RingFault> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            code => RingFault::from_code(code),
        }
    }

    pub(super) fn set(&self, fault: RingFault) {
        self.0.store(fault as u8, Ordering::Relaxed);
    }

    /// The guest's driver starts anew.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
