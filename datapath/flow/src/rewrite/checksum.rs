//! Checksums after a rewrite.

use super::Head;
use crate::extract::layout::{
    FRAG_LATER, Layout, Network, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, bytes_at,
};

/// What a rewrite adds to a one's complement sum of 16-bit words: for each
/// word `!old + new` (RFC 1624, equation 3). `None`: no byte has changed.
#[derive(Clone, Copy, Default)]
#[must_use]
pub(super) struct Change(Option<u64>);

/// What a transport checksum covers of what was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Covered {
    /// An address of the pseudo header.
    Pseudo,
    /// Some of the transport header or what is behind it.
    Message,
}

impl Change {
    /// From `old` to `new`.
    #[inline(always)]
    pub(super) fn of<const N: usize>(old: &[u8; N], new: &[u8; N]) -> Self {
        if old == new {
            return Self::default();
        }
        let (old, new) = (old.as_chunks::<2>().0, new.as_chunks::<2>().0);
        let change = old.iter().zip(new).map(|(old, new)| {
            u64::from(!u16::from_be_bytes(*old)) + u64::from(u16::from_be_bytes(*new))
        });
        Self(Some(change.sum()))
    }

    /// No checksum covers it.
    pub(super) fn ignore(self) {}

    /// Whether all is as it was.
    fn is_nothing(self) -> bool {
        self.0.is_none()
    }

    /// The sum, changed.
    fn add_to_sum(self, sum: u16) -> u16 {
        // A few words' sum is below 2^20: folded twice it is below 2^16.
        let fold = |sum: u64| (sum & 0xffff) + (sum >> 16);
        fold(fold(u64::from(sum) + self.0.unwrap_or(0))) as u16
    }

    /// The checksum, which is the sum's complement, changed. From a right one,
    /// this is the one that computing it anew would give, also where both
    /// 0 and 0xffff would do (RFC 1624, 3).
    fn add_to_checksum(self, checksum: u16) -> u16 {
        !self.add_to_sum(!checksum)
    }
}

impl Head<'_> {
    /// The checksum of the IPv4 header at `l3`, some of which was changed.
    pub(super) fn update_ipv4_checksum(&mut self, l3: usize, change: Change) {
        if !change.is_nothing() {
            self.map_u16(l3 + 10, |checksum| change.add_to_checksum(checksum));
        }
    }

    /// The transport checksum, if there is one and it is in the head.
    ///
    /// A partial checksum holds the sum of the pseudo header as it is: an
    /// address is added to it, the rest is summed up later by whoever
    /// completes it.
    pub(super) fn update_transport_checksum(
        &mut self,
        layout: &Layout,
        covered: Covered,
        change: Change,
    ) {
        let payload = &layout.payload;
        if change.is_nothing() || payload.frag & FRAG_LATER != 0 {
            return;
        }
        let has_pseudo = covered == Covered::Pseudo;
        let (offset, header) = match payload.proto {
            PROTO_TCP => (16, 20),
            PROTO_UDP => (6, 8),
            PROTO_ICMP if !has_pseudo => (2, 8),
            PROTO_ICMPV6 if !has_pseudo || layout.network == Network::Ipv6 => (2, 4),
            _ => return,
        };
        if payload.size < header {
            return;
        }
        let at = payload.l4 + offset;
        if self.partial.is_some_and(|partial| partial.field() == at) {
            if has_pseudo {
                self.map_u16(at, |sum| change.add_to_sum(sum));
            }
        } else if payload.proto == PROTO_UDP {
            // RFC 768: zero means none, so that a zero is sent as its other form.
            self.map_u16(at, |checksum| match checksum {
                0 => 0,
                _ => match change.add_to_checksum(checksum) {
                    0 => 0xffff,
                    checksum => checksum,
                },
            });
        } else {
            self.map_u16(at, |checksum| change.add_to_checksum(checksum));
            if payload.proto == PROTO_ICMP && self.is_zero(payload.l4) {
                // An empty echo reply with identifier and sequence number 0
                // has no pseudo header to make its sum more than zero, and
                // the checksum of zero is this.
                self.map_u16(at, |_| 0xffff);
            }
        }
    }

    /// Whether there is nothing but zeros in the head from `at` on.
    fn is_zero(&self, at: usize) -> bool {
        let bytes = self.frame().get(at..).unwrap_or_default();
        bytes.iter().all(|byte| *byte == 0)
    }

    /// Replaces the number at `at`, if it is in the head.
    fn map_u16(&mut self, at: usize, new: impl Fn(u16) -> u16) {
        if let Some(old) = bytes_at(self.frame(), at) {
            let new = new(u16::from_be_bytes(old)).to_be_bytes();
            self.put(at, new, [0xff; 2]).ignore();
        }
    }
}
