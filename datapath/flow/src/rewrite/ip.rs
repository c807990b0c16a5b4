//! ARP, IPv4 and IPv6 headers.

use super::Head;
use super::checksum::Covered;
use crate::extract::layout::Layout;

impl Head<'_> {
    /// An opcode beyond 255 has zero in the key; it becomes that one, changed.
    pub(super) fn set_arp_opcode(&mut self, l3: usize, value: u8, mask: u8) {
        if mask == 0 {
            return;
        }
        let at = l3 + 6;
        let old = match self.frame().get(at..at + 2) {
            Some([0, low]) => *low,
            _ => 0,
        };
        let new = old & !mask | value & mask;
        self.put_u16(at, new.into(), 0xffff).ignore();
    }

    pub(super) fn set_arp_addresses(&mut self, l3: usize, value: u64, mask: u64) {
        self.put_u32(l3 + 14, (value >> 32) as u32, (mask >> 32) as u32)
            .ignore();
        self.put_u32(l3 + 24, value as u32, mask as u32).ignore();
    }

    pub(super) fn set_ipv4_addresses(&mut self, layout: &Layout, value: u64, mask: u64) {
        let change = self.put_u64(layout.l3 + 12, value, mask);
        self.update_ipv4_checksum(layout.l3, change);
        self.update_transport_checksum(layout, Covered::Pseudo, change);
    }

    /// TOS in the upper byte, TTL in the lower.
    pub(super) fn set_ipv4_tos_ttl(&mut self, l3: usize, value: u16, mask: u16) {
        let tos = self.put_u16(l3, value >> 8, mask >> 8);
        let ttl = self.put_u16(l3 + 8, value << 8, mask << 8);
        self.update_ipv4_checksum(l3, tos.and(ttl));
    }

    /// Traffic class in the upper byte, hop limit in the lower.
    pub(super) fn set_ipv6_class_hop_limit(&mut self, l3: usize, value: u16, mask: u16) {
        self.put_u16(l3, value >> 4 & 0xff0, mask >> 4 & 0xff0)
            .ignore();
        self.put_u16(l3 + 6, value & 0xff, mask & 0xff).ignore();
    }

    pub(super) fn set_ipv6_label(&mut self, l3: usize, value: u32, mask: u32) {
        self.put_u32(l3, value, mask & 0xf_ffff).ignore();
    }

    /// Half an address; `word` is the key's. The transport checksum covers the
    /// source and the final destination, which under a routing header is not
    /// the one in the IPv6 header (RFC 8200, 8.1).
    pub(super) fn set_ipv6_address(&mut self, layout: &Layout, word: u8, value: u64, mask: u64) {
        let at = layout.l3 + 8 + 8 * usize::from(word.saturating_sub(8));
        let change = self.put_u64(at, value, mask);
        let is_destination = word >= 10;
        if !(is_destination && layout.payload.routed) {
            self.update_transport_checksum(layout, Covered::Pseudo, change);
        }
    }
}
