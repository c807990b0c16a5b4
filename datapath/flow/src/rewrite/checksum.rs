//! Checksums after a rewrite.

use super::Head;
use crate::extract::layout::{
    FRAG_LATER, Layout, Network, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP,
};

/// What a rewrite adds to a one's complement sum of 16-bit words: for each
/// word `!old + new` (RFC 1624, equation 3).
#[derive(Clone, Copy, Default)]
#[must_use]
pub(super) struct Change {
    /// Counts only if bits have changed.
    sum: u64,
    /// The bits that have changed.
    bits: u32,
}

/// What a transport checksum covers of what was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Covered {
    /// An address of the pseudo header.
    Pseudo,
    /// Some of the transport header or what is behind it.
    Message,
}

impl Change {
    /// Of two words at once, which may be added as one number: 2^16 is 1 in
    /// one's complement. (A word above that is zero before and after adds
    /// 0xffff, another zero.)
    #[inline(always)]
    pub(super) fn of_u32(old: u32, new: u32) -> Self {
        Self {
            sum: u64::from(!old) + u64::from(new),
            bits: old ^ new,
        }
    }

    /// Both.
    #[inline(always)]
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            bits: self.bits | other.bits,
        }
    }

    /// No checksum covers it.
    pub(super) fn ignore(self) {}

    /// Whether all is as it was.
    fn is_nothing(self) -> bool {
        self.bits == 0
    }

    /// The sum, changed.
    fn add_to_sum(self, sum: u16) -> u16 {
        let mut sum = u64::from(sum) + self.sum;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
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
    #[inline(always)]
    fn map_u16(&mut self, at: usize, new: impl Fn(u16) -> u16) {
        if let Some(place) = self.place(at) {
            *place = new(u16::from_be_bytes(*place)).to_be_bytes();
        }
    }
}
