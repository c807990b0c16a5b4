//! Rewrites headers in a packet's head, and the checksums that cover them.

/// A packet's head, as rewrites see it.
pub struct Head<'a> {
    /// The head's bytes, with room behind them for tags to be pushed.
    pub bytes: &'a mut [u8],
    /// How many of them are the frame's.
    pub len: &'a mut usize,
    /// Bytes of the whole frame (head and body); grows and shrinks with tags.
    pub frame_len: &'a mut usize,
    /// The guest left a partial checksum (VirtIO 1.2, 5.1.6.2): it sums from
    /// `csum_start` on, and only the pseudo header is in the field at
    /// `csum_start + csum_offset`.
    pub partial: Option<Partial>,
}

/// Where a partial checksum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// From the frame's first byte.
    pub csum_start: u16,
    /// From `csum_start`.
    pub csum_offset: u16,
}

impl Head<'_> {
    /// Writes the bits of `mask` in `word` of the packet's key to those of `value`.
    pub fn set(&mut self, word: u8, value: u64, mask: u64) {
        let _ = (word, value, mask);
    }

    /// Puts a tag in front. False: there is no room, and nothing was changed.
    pub fn push_vlan(&mut self, tpid: u16, tci: u16) -> bool {
        let _ = (tpid, tci);
        false
    }

    /// Takes the outer tag away, if there is one.
    pub fn pop_vlan(&mut self) {}
}
