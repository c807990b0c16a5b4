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
        let new = [0, old & !mask | value & mask];
        self.put(at, new, [0xff; 2]).ignore();
    }

    pub(super) fn set_arp_addresses(&mut self, l3: usize, value: u64, mask: u64) {
        let halves = |word: u64| {
            (
                ((word >> 32) as u32).to_be_bytes(),
                (word as u32).to_be_bytes(),
            )
        };
        let ((spa, tpa), (spa_mask, tpa_mask)) = (halves(value), halves(mask));
        self.put(l3 + 14, spa, spa_mask).ignore();
        self.put(l3 + 24, tpa, tpa_mask).ignore();
    }

    pub(super) fn set_ipv4_addresses(&mut self, layout: &Layout, value: u64, mask: u64) {
        let change = self.put(layout.l3 + 12, value.to_be_bytes(), mask.to_be_bytes());
        self.update_ipv4_checksum(layout.l3, change);
        self.update_transport_checksum(layout, Covered::Pseudo, change);
    }

    /// TOS in the upper byte, TTL in the lower.
    pub(super) fn set_ipv4_tos_ttl(&mut self, l3: usize, value: u16, mask: u16) {
        let ([tos, ttl], [tos_mask, ttl_mask]) = (value.to_be_bytes(), mask.to_be_bytes());
        if tos_mask != 0 {
            let change = self.put(l3, [0, tos], [0, tos_mask]);
            self.update_ipv4_checksum(l3, change);
        }
        if ttl_mask != 0 {
            let change = self.put(l3 + 8, [ttl, 0], [ttl_mask, 0]);
            self.update_ipv4_checksum(l3, change);
        }
    }

    /// Traffic class in the upper byte, hop limit in the lower.
    pub(super) fn set_ipv6_class_hop_limit(&mut self, l3: usize, value: u16, mask: u16) {
        let class = |word: u16| (word << 4 & 0xff0).to_be_bytes();
        let ([class_value, limit], [class_mask, limit_mask]) =
            (value.to_be_bytes(), mask.to_be_bytes());
        self.put(l3, class(class_value.into()), class(class_mask.into()))
            .ignore();
        self.put(l3 + 6, [0, limit], [0, limit_mask]).ignore();
    }

    pub(super) fn set_ipv6_label(&mut self, l3: usize, value: u32, mask: u32) {
        let mask = mask & 0xf_ffff;
        self.put(l3, value.to_be_bytes(), mask.to_be_bytes())
            .ignore();
    }

    /// Half an address; `word` is the key's. The transport checksum covers the
    /// source and the final destination, which under a routing header is not
    /// the one in the IPv6 header (RFC 8200, 8.1).
    pub(super) fn set_ipv6_address(&mut self, layout: &Layout, word: u8, value: u64, mask: u64) {
        let at = layout.l3 + 8 + 8 * usize::from(word.saturating_sub(8));
        let change = self.put(at, value.to_be_bytes(), mask.to_be_bytes());
        let is_destination = word >= 10;
        if !(is_destination && layout.payload.routed) {
            self.update_transport_checksum(layout, Covered::Pseudo, change);
        }
    }
}
