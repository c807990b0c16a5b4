//! Rewrites headers in a packet's head, and the checksums that cover them.
//!
//! Each rewrite looks for its header anew, by the rules of
//! [`extract`](crate::extract): what is not in the packet's key is not
//! written. Nothing here allocates or panics, whatever the bytes are.
//!
//! Checksums are updated, not computed (RFC 1624): a wrong one stays wrong by
//! the same amount, and the body is not needed. One that IPv6 extension
//! headers have pushed out of the head stays as it is. SCTP ports are not written
//! (their CRC would need the body), nor are the pseudo-header checksums of
//! UDP-Lite and DCCP updated (Open vSwitch does not do so either).

mod checksum;
mod ip;
mod l4;
#[cfg(any(test, feature = "test-utils"))]
pub mod naive;
#[cfg(test)]
mod tests;
mod vlan;

use self::checksum::Change;
use crate::extract::layout::{Layout, Network};

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
    /// `csum_start + csum_offset`. Moves with tags that come and go.
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

impl Partial {
    /// Where the checksum's field is, from the frame's first byte.
    pub fn field(self) -> usize {
        usize::from(self.csum_start) + usize::from(self.csum_offset)
    }
}

impl Head<'_> {
    /// Writes the bits of `mask` in `word` of the packet's key to those of
    /// `value`, wherever the packet has the fields they belong to:
    ///
    /// | word | written |
    /// |---|---|
    /// | 0 | ARP opcode |
    /// | 1, 2 | MAC addresses; VID and priority of the outer tag |
    /// | 3 | IPv4 addresses, of ARP too |
    /// | 4 | ports (TCP, UDP), type and code (ICMP, ICMPv6), TOS or traffic class, TTL or hop limit |
    /// | 5 | IPv6 label |
    /// | 6, 7 | MAC addresses of ARP and of neighbour discovery's options |
    /// | 8 … 11 | IPv6 addresses |
    /// | 12, 13 | neighbour discovery's target |
    ///
    /// Bits of other fields (types, lengths, flags) are left alone.
    pub fn set(&mut self, word: u8, value: u64, mask: u64) {
        match word {
            1 => {
                self.set_mac(0, value, mask);
                self.set_tci(value as u16, mask as u16);
            }
            2 => self.set_mac(6, value, mask),
            _ => {
                let mut layout = Layout::NONE;
                if layout.find(self.frame(), *self.frame_len) {
                    self.set_behind_ethernet(&layout, word, value, mask);
                }
            }
        }
    }

    fn set_behind_ethernet(&mut self, layout: &Layout, word: u8, value: u64, mask: u64) {
        match (layout.network, word) {
            (Network::Arp, 0) => self.set_arp_opcode(layout.l3, value as u8, mask as u8),
            (Network::Arp, 3) => self.set_arp_addresses(layout.l3, value, mask),
            (Network::Arp, 6) => self.put_mac(layout.l3 + 8, value, mask).ignore(),
            (Network::Arp, 7) => self.put_mac(layout.l3 + 18, value, mask).ignore(),
            (Network::Ipv4, 3) => self.set_ipv4_addresses(layout, value, mask),
            (Network::Ipv4, 4) => {
                self.set_ipv4_tos_ttl(layout.l3, value as u16, mask as u16);
                self.set_ports(layout, value, mask);
            }
            (Network::Ipv6, 4) => {
                self.set_ipv6_class_hop_limit(layout.l3, value as u16, mask as u16);
                self.set_ports(layout, value, mask);
            }
            (Network::Ipv6, 5) => self.set_ipv6_label(layout.l3, value as u32, mask as u32),
            (Network::Ipv6, 8..=11) => self.set_ipv6_address(layout, word, value, mask),
            (Network::Ipv4 | Network::Ipv6, 6 | 7 | 12 | 13) => {
                self.set_nd(layout, word, value, mask);
            }
            _ => {}
        }
    }

    fn set_mac(&mut self, at: usize, value: u64, mask: u64) {
        // No Ethernet header, no addresses.
        if self.frame().len() >= 14 {
            self.put_mac(at, value, mask).ignore();
        }
    }

    /// A MAC address, which is in the upper bits of its word.
    fn put_mac(&mut self, at: usize, value: u64, mask: u64) -> Change {
        let first = self.put_u32(at, (value >> 32) as u32, (mask >> 32) as u32);
        let last = self.put_u16(at + 4, (value >> 16) as u16, (mask >> 16) as u16);
        first.and(last)
    }

    /// The bytes that are the frame's.
    #[inline(always)]
    fn frame(&self) -> &[u8] {
        let len = (*self.len).min(*self.frame_len);
        self.bytes.get(..len).unwrap_or(self.bytes)
    }

    /// The same `N` bytes, to be written.
    #[inline(always)]
    fn place<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        let len = (*self.len).min(*self.frame_len).min(self.bytes.len());
        self.bytes.get_mut(at..len)?.first_chunk_mut()
    }

    // These write the bits of `mask` at `at`, which is an even number of bytes
    // from where the checksum that covers it begins to sum, and return what
    // that comes to in the sum. Beyond the head nothing is written.

    #[inline(always)]
    fn put_u16(&mut self, at: usize, value: u16, mask: u16) -> Change {
        let Some(place) = self.place(at) else {
            return Change::default();
        };
        let old = u16::from_be_bytes(*place);
        let new = old & !mask | value & mask;
        *place = new.to_be_bytes();
        Change::of_u32(old.into(), new.into())
    }

    #[inline(always)]
    fn put_u32(&mut self, at: usize, value: u32, mask: u32) -> Change {
        let Some(place) = self.place(at) else {
            return Change::default();
        };
        let old = u32::from_be_bytes(*place);
        let new = old & !mask | value & mask;
        *place = new.to_be_bytes();
        Change::of_u32(old, new)
    }

    #[inline(always)]
    fn put_u64(&mut self, at: usize, value: u64, mask: u64) -> Change {
        let first = self.put_u32(at, (value >> 32) as u32, (mask >> 32) as u32);
        first.and(self.put_u32(at + 4, value as u32, mask as u32))
    }
}
