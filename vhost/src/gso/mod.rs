//! Oversized frames (generic segmentation offload): frames of up to 64 KiB
//! that a sender leaves to be cut later, by whoever cannot take them whole.

use std::ops::BitOr;

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
