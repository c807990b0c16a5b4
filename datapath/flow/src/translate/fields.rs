//! Reading and writing the packet's fields: what is read enters the mask, what
//! is written is no longer the packet's.

use crate::field::{Field, Prereq, Subfield};
use crate::key::PACKET_WORDS;

use super::{Tracer, Way};

/// `dl_type` in word 0.
pub(super) const DL_TYPE: u64 = 0xffff << 16;
/// `nw_proto` in word 0.
pub(super) const NW_PROTO: u64 = 0xff;
/// In word 0: the packet is a fragment but not the first (`nw_frag`'s upper bit).
const LATER: u64 = 1 << 9;

pub(super) const IPV4: u64 = 0x0800;
pub(super) const IPV6: u64 = 0x86dd;
const ARP: u64 = 0x0806;
const RARP: u64 = 0x8035;

pub(super) const TCP: u64 = 6;
pub(super) const UDP: u64 = 17;
pub(super) const SCTP: u64 = 132;
const ICMP: u64 = 1;
const ICMPV6: u64 = 58;

impl<T: Tracer> Way<'_, '_, T> {
    /// The bits of a word as they are now; those that are the packet's own
    /// enter the mask.
    pub(super) fn read(&mut self, word: usize, bits: u64) -> u64 {
        self.look(word, bits);
        self.out.flow.0.get(word).map_or(0, |value| value & bits)
    }

    /// Puts those of the bits into the mask that are the packet's own.
    pub(super) fn look(&mut self, word: usize, bits: u64) {
        let written = self.written.0.get(word);
        if let (Some(mask), Some(written)) = (self.out.mask.0.get_mut(word), written) {
            *mask |= bits & !written;
        }
    }

    /// `dl_type` (behind the tags).
    pub(super) fn dl_type(&mut self) -> u64 {
        self.read(0, DL_TYPE) >> 16
    }

    /// `nw_proto` of an IP packet.
    pub(super) fn nw_proto(&mut self) -> u64 {
        self.read(0, NW_PROTO)
    }

    /// Whether the packet is IPv4 or IPv6.
    pub(super) fn is_ip(&mut self) -> bool {
        matches!(self.dl_type(), IPV4 | IPV6)
    }

    /// Whether an IP packet carries this protocol, with its header: later
    /// fragments have none.
    fn carries(&mut self, protocol: u64) -> bool {
        self.nw_proto() == protocol && self.read(0, LATER) == 0
    }

    /// Whether the packet has the ports that `mod_tp_src` and `mod_tp_dst` write.
    pub(super) fn has_ports(&mut self) -> bool {
        self.is_ip() && matches!(self.nw_proto(), TCP | UDP) && self.read(0, LATER) == 0
    }

    /// Whether the packet is a neighbour solicitation (135) or advertisement
    /// (136): ICMPv6 of such a type and code 0.
    fn is_discovery(&mut self, types: &[u64]) -> bool {
        self.has(Prereq::Icmpv6)
            && self.read(4, 0xffff << 32) == 0
            && types.contains(&(self.read(4, 0xffff << 48) >> 48))
    }

    /// Whether the packet has what a field needs. What says so enters the mask.
    pub(super) fn has(&mut self, prereq: Prereq) -> bool {
        match prereq {
            Prereq::None => true,
            Prereq::Vlan => self.has_tag(),
            Prereq::Ipv4 => self.dl_type() == IPV4,
            Prereq::Ipv6 => self.dl_type() == IPV6,
            Prereq::Ip => self.is_ip(),
            Prereq::Arp => matches!(self.dl_type(), ARP | RARP),
            Prereq::Tcp => self.is_ip() && self.carries(TCP),
            Prereq::Udp => self.is_ip() && self.carries(UDP),
            Prereq::Sctp => self.is_ip() && self.carries(SCTP),
            Prereq::Icmp => self.dl_type() == IPV4 && self.carries(ICMP),
            Prereq::Icmpv6 => self.dl_type() == IPV6 && self.carries(ICMPV6),
            Prereq::Nd => self.is_discovery(&[135, 136]),
            Prereq::NdSolicit => self.is_discovery(&[135]),
            Prereq::NdAdvert => self.is_discovery(&[136]),
        }
    }

    /// The value of some bits of a field.
    pub(super) fn read_field(&mut self, from: Subfield) -> u128 {
        let (words, _, bits) = from.field.spread(0, from.ones());
        for (word, bits) in words.zip(bits) {
            self.look(word, bits);
        }
        from.get(&self.out.flow)
    }

    /// Writes the bits of `mask` in a field that the packet has.
    pub(super) fn write_field(&mut self, field: Field, value: u128, mask: u128) {
        // The lower two bits of the byte are nw_ecn.
        let mask = match field {
            Field::IpTos => mask & 0xfc,
            _ => mask,
        };
        let (words, value, mask) = field.spread(value, mask);
        if matches!(field, Field::VlanTci | Field::VlanVid | Field::VlanPcp) {
            self.write_tci(value[0] as u16, mask[0] as u16);
            return;
        }
        for ((word, value), mask) in words.zip(value).zip(mask) {
            self.write(word, value, mask);
        }
    }

    /// Writes the bits of `mask` in a word.
    pub(super) fn write(&mut self, word: usize, value: u64, mask: u64) {
        if let Some(place) = self.out.flow.0.get_mut(word) {
            *place = *place & !mask | value & mask;
        }
        if let Some(written) = self.written.0.get_mut(word) {
            *written |= mask;
        }
        self.touched |= 1 << word;
        self.dirty |= word < PACKET_WORDS;
    }
}
