//! What is known of a packet while its actions are read, so that writes of
//! fields that it does not have are refused as Open vSwitch refuses them.

use super::names::{
    ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_RARP, ICMP, ICMPV6, ND_ADVERT, ND_SOLICIT, SCTP, TCP, UDP,
};
use super::values::FRAG_LATER;
use crate::field::{Field, Prereq};
use crate::key::VLAN_PRESENT;
use crate::matching::Match;

/// A packet as far as a match and the actions so far tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Packet {
    eth_type: u16,
    protocol: u8,
    later_fragment: bool,
    icmp_type: u16,
    icmp_code: u16,
    /// Whether there is an outer, and an inner tag.
    tags: [bool; 2],
}

impl Packet {
    /// What a match tells.
    pub fn of(matching: &Match) -> Self {
        let get = |field: Field| field.get(&matching.key);
        Self {
            eth_type: get(Field::EthType) as u16,
            protocol: get(Field::IpProto) as u8,
            later_fragment: get(Field::IpFrag) & FRAG_LATER != 0,
            icmp_type: get(Field::TcpSrc) as u16,
            icmp_code: get(Field::TcpDst) as u16,
            tags: [get(Field::VlanTci) as u16 & VLAN_PRESENT != 0, false],
        }
    }

    pub fn is_ip(&self) -> bool {
        matches!(self.eth_type, ETH_IPV4 | ETH_IPV6)
    }

    /// Whether it has TCP's or UDP's ports, which actions may write.
    pub fn has_ports(&self) -> bool {
        self.has(Prereq::Tcp) || self.has(Prereq::Udp)
    }

    /// Whether it is what a field's prerequisite asks for.
    pub fn has(&self, prereq: Prereq) -> bool {
        let transport =
            |protocol: u8| self.is_ip() && self.protocol == protocol && !self.later_fragment;
        let icmpv6 = self.eth_type == ETH_IPV6 && self.protocol == ICMPV6;
        let nd = |kind: u16| icmpv6 && self.icmp_type == kind && self.icmp_code == 0;
        match prereq {
            Prereq::None => true,
            Prereq::Vlan => self.tags[0],
            Prereq::Ipv4 => self.eth_type == ETH_IPV4,
            Prereq::Ipv6 => self.eth_type == ETH_IPV6,
            Prereq::Ip => self.is_ip(),
            Prereq::Arp => matches!(self.eth_type, ETH_ARP | ETH_RARP),
            Prereq::Tcp => transport(TCP),
            Prereq::Udp => transport(UDP),
            Prereq::Sctp => transport(SCTP),
            Prereq::Icmp => self.eth_type == ETH_IPV4 && self.protocol == ICMP,
            Prereq::Icmpv6 => icmpv6,
            Prereq::Nd => nd(ND_SOLICIT) || nd(ND_ADVERT),
            Prereq::NdSolicit => nd(ND_SOLICIT),
            Prereq::NdAdvert => nd(ND_ADVERT),
        }
    }

    /// Puts a tag in front. False: there are two already.
    pub fn push_tag(&mut self) -> bool {
        let room = !self.tags[1];
        self.tags = [true, self.tags[0]];
        room
    }

    /// Takes the outer tag away.
    pub fn pop_tag(&mut self) {
        self.tags = [self.tags[1], false];
    }

    /// There is, or is not, an outer tag from here on.
    pub fn set_tag(&mut self, there: bool) {
        self.tags[0] = there;
    }
}

/// What a match must say for a prerequisite.
pub(super) fn needs(prereq: Prereq) -> &'static str {
    match prereq {
        Prereq::None => "nothing",
        Prereq::Vlan => "a VLAN tag (dl_vlan=N, or push_vlan before)",
        Prereq::Ipv4 => "ip",
        Prereq::Ipv6 => "ipv6",
        Prereq::Ip => "ip or ipv6",
        Prereq::Arp => "arp or rarp",
        Prereq::Tcp => "tcp or tcp6",
        Prereq::Udp => "udp or udp6",
        Prereq::Sctp => "sctp or sctp6",
        Prereq::Icmp => "icmp",
        Prereq::Icmpv6 => "icmp6",
        Prereq::Nd => "icmp6,icmp_type=135 or icmp6,icmp_type=136",
        Prereq::NdSolicit => "icmp6,icmp_type=135",
        Prereq::NdAdvert => "icmp6,icmp_type=136",
    }
}
