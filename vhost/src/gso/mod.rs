//! Oversized frames (generic segmentation offload): frames of up to 64 KiB
//! that a sender leaves to be cut later, by whoever cannot take them whole.
//!
//! The virtio-net header says how (VirtIO 1.2, 5.1.6.2): `gso_type`, the bytes
//! of payload for each segment in `gso_size`, and a partial checksum. What a
//! sender says is checked once, when the frame comes ([`headers`]). A taker
//! gets the frame as it is, with a smaller `gso_size`, or in segments
//! ([`cut`]): each is a packet of the burst with a head of its own; its body is
//! a slice of the frame's. Nothing of the payload is copied.

mod cut;
mod headers;
#[cfg(any(test, feature = "test-utils"))]
pub mod naive;
#[cfg(test)]
mod tests;

pub use cut::{Cut, Next, Offer, Taker};
pub use headers::Headers;
pub(crate) use headers::accept;

use std::ops::BitOr;

// `gso_type` (VirtIO 1.2, 5.1.6).
/// TCP over IPv4.
pub const GSO_TCP4: u8 = 1;
/// A UDP datagram, to be cut into IP fragments.
pub const GSO_UFO: u8 = 3;
/// TCP over IPv6.
pub const GSO_TCP6: u8 = 4;
/// UDP datagrams of one size.
pub const GSO_USO: u8 = 5;
/// With any TCP type: CWR is set, for the first segment.
pub const GSO_ECN: u8 = 0x80;

/// Kinds of oversized frames, as features have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GsoKinds(u8);

impl GsoKinds {
    /// None.
    pub const NONE: Self = Self(0);
    /// TCP over IPv4 (`TSO4`).
    pub const TCP4: Self = Self(1);
    /// TCP over IPv6 (`TSO6`).
    pub const TCP6: Self = Self(2);
    /// TCP with the CWR flag, which belongs to the first segment only (`ECN`).
    pub const ECN: Self = Self(4);
    /// One UDP datagram, to be cut into IP fragments (`UFO`).
    pub const UFO: Self = Self(8);
    /// UDP datagrams of one size over IPv4 (`USO4`).
    pub const USO4: Self = Self(16);
    /// UDP datagrams of one size over IPv6 (`USO6`).
    pub const USO6: Self = Self(32);
    /// All of them.
    pub const ALL: Self = Self(63);

    /// Whether all of `kinds` are among these.
    #[inline(always)]
    pub const fn has(self, kinds: Self) -> bool {
        self.0 & kinds.0 == kinds.0
    }
}

impl BitOr for GsoKinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
