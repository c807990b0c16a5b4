//! Transport headers, ICMP and neighbour discovery.

use super::Head;
use super::checksum::Covered;
use crate::extract::layout::{Layout, PROTO_IGMP, Transport};

impl Head<'_> {
    /// Ports of TCP and UDP, type and code of ICMP and ICMPv6: the upper half
    /// of word 4.
    pub(super) fn set_ports(&mut self, layout: &Layout, value: u64, mask: u64) {
        let upper = |word: u64| ((word >> 32) as u32).to_be_bytes();
        let (value, mask) = (upper(value), upper(mask));
        if mask == [0; 4] {
            return;
        }
        let at = layout.payload.l4;
        let change = match layout.payload.transport {
            Transport::Tcp | Transport::Udp => self.put(at, value, mask),
            Transport::Icmp if layout.payload.proto == PROTO_IGMP => return,
            Transport::Icmp | Transport::Icmpv6 | Transport::Nd(_) => {
                self.put(at, [value[1], value[3]], [mask[1], mask[3]])
            }
            Transport::None | Transport::Sctp => return,
        };
        self.update_transport_checksum(layout, Covered::Message, change);
    }

    /// A link-layer address option's MAC, if there is such an option.
    pub(super) fn set_nd_mac(&mut self, layout: &Layout, at: Option<usize>, value: u64, mask: u64) {
        if let Some(at) = at {
            let change = self.put_mac(at, value, mask);
            self.update_transport_checksum(layout, Covered::Message, change);
        }
    }

    /// Half a target address; `word` is the key's.
    pub(super) fn set_nd_target(
        &mut self,
        layout: &Layout,
        target: Option<usize>,
        word: u8,
        value: u64,
        mask: u64,
    ) {
        if let Some(target) = target {
            let at = target + 8 * usize::from(word == 13);
            let change = self.put(at, value.to_be_bytes(), mask.to_be_bytes());
            self.update_transport_checksum(layout, Covered::Message, change);
        }
    }
}
