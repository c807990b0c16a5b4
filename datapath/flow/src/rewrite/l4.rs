//! Transport headers, ICMP and neighbour discovery.

use super::Head;
use super::checksum::Covered;
use crate::extract::layout::{Layout, Nd, PROTO_IGMP, Transport};

impl Head<'_> {
    /// Ports of TCP and UDP, type and code of ICMP and ICMPv6: the upper half
    /// of word 4.
    pub(super) fn set_ports(&mut self, layout: &Layout, value: u64, mask: u64) {
        let (value, mask) = ((value >> 32) as u32, (mask >> 32) as u32);
        let at = layout.payload.l4;
        let change = match layout.payload.transport {
            _ if mask == 0 => return,
            Transport::Tcp | Transport::Udp => self.put_u32(at, value, mask),
            Transport::Icmp if layout.payload.proto == PROTO_IGMP => return,
            Transport::Icmp | Transport::Icmpv6 | Transport::Nd => {
                // Each is a byte, at the lower end of a port's place.
                let bytes = |ports: u32| (ports >> 8 & 0xff00 | ports & 0xff) as u16;
                self.put_u16(at, bytes(value), bytes(mask))
            }
            Transport::None | Transport::Sctp => return,
        };
        self.update_transport_checksum(layout, Covered::Message, change);
    }

    /// What words 6, 7, 12 and 13 have of neighbour discovery: options' MACs
    /// (no option is made where there is none) and the target.
    #[inline(never)]
    pub(super) fn set_nd(&mut self, layout: &Layout, word: u8, value: u64, mask: u64) {
        let nd = layout.nd(self.frame());
        let change = match (word, nd) {
            (6, Nd { sll: Some(at), .. }) | (7, Nd { tll: Some(at), .. }) => {
                self.put_mac(at, value, mask)
            }
            (
                12,
                Nd {
                    target: Some(at), ..
                },
            ) => self.put_u64(at, value, mask),
            (
                13,
                Nd {
                    target: Some(at), ..
                },
            ) => self.put_u64(at + 8, value, mask),
            _ => return,
        };
        self.update_transport_checksum(layout, Covered::Message, change);
    }
}
