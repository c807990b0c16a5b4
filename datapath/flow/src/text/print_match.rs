//! Matches as text, as `ovs-ofctl` prints them.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::names::{
    ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_MPLS, ETH_MPLS_MULTICAST, ETH_RARP, ICMP, ICMPV6, SCTP, TCP,
    UDP,
};
use super::ports::{PortNames, write_port};
use super::values::{FRAGS, TCP_FLAGS};
use crate::field::Field;
use crate::key::{FlowKey, VLAN_PRESENT};
use crate::matching::Match;

/// A match as `ovs-ofctl` prints it: `tcp,in_port=1,nw_src=10.0.0.0/8`. Empty if it
/// matches everything.
pub fn print_match(matching: &Match, ports: &dyn PortNames) -> String {
    let mut out = String::new();
    write_match(&mut out, matching, ports);
    out
}

/// A port as `ovs-ofctl` prints it: a reserved name, a name, or its number.
pub fn print_port(port: u16, ports: &dyn PortNames) -> String {
    let mut out = String::new();
    write_port(&mut out, port, ports);
    out
}

/// The word whose lowest 16 bits are the inner tag's.
const INNER_TCI_WORD: usize = 2;

/// The registers.
const REGISTERS: [Field; 16] = [
    Field::Reg0,
    Field::Reg1,
    Field::Reg2,
    Field::Reg3,
    Field::Reg4,
    Field::Reg5,
    Field::Reg6,
    Field::Reg7,
    Field::Reg8,
    Field::Reg9,
    Field::Reg10,
    Field::Reg11,
    Field::Reg12,
    Field::Reg13,
    Field::Reg14,
    Field::Reg15,
];

/// Appends a match; nothing if it matches everything.
pub(super) fn write_match(out: &mut String, matching: &Match, ports: &dyn PortNames) {
    let start = out.len();
    Writer { out, matching }.all(ports);
    if out.len() > start {
        // Each field ends in a comma.
        out.pop();
    }
}

struct Writer<'o, 'm> {
    out: &'o mut String,
    matching: &'m Match,
}

impl Writer<'_, '_> {
    fn get(&self, field: Field) -> (u128, u128) {
        (
            field.get(&self.matching.key),
            field.get(&self.matching.mask),
        )
    }

    fn text(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(text);
    }

    /// A field that is whole or not there.
    fn decimal(&mut self, name: &str, field: Field) {
        if let (value, 1..) = self.get(field) {
            self.text(format_args!("{name}={value},"));
        }
    }

    /// `0x5` or `0x5/0xf`; 0 is printed without `0x`.
    fn hex(&mut self, field: Field) {
        if let (value, mask @ 1..) = self.get(field) {
            self.text(format_args!("{}=", field.info().name));
            write_hex(self.out, value);
            if mask != field.ones() {
                self.text(format_args!("/{mask:#x}"));
            }
            self.out.push(',');
        }
    }

    fn mac(&mut self, name: &str, field: Field) {
        if let (value, mask @ 1..) = self.get(field) {
            self.text(format_args!("{name}="));
            write_mac(self.out, value, mask);
            self.out.push(',');
        }
    }

    fn ipv4(&mut self, name: &str, field: Field) {
        if let (value, mask @ 1..) = self.get(field) {
            self.text(format_args!("{name}="));
            write_ipv4(self.out, value, mask);
            self.out.push(',');
        }
    }

    fn ipv6(&mut self, name: &str, field: Field) {
        if let (value, mask @ 1..) = self.get(field) {
            self.text(format_args!("{name}="));
            write_ipv6(self.out, value, mask);
            self.out.push(',');
        }
    }

    /// A transport port.
    fn transport(&mut self, name: &str, field: Field) {
        match self.get(field) {
            (_, 0) => {}
            (value, 0xffff) => self.text(format_args!("{name}={value},")),
            (value, mask) => self.text(format_args!("{name}={value:#x}/{mask:#x},")),
        }
    }

    /// An ICMP type or code, which is the low byte of a transport port.
    fn icmp(&mut self, name: &str, port: &str, field: Field) {
        match self.get(field) {
            (value @ 0..=0xff, 0xff | 0xffff) => self.text(format_args!("{name}={value},")),
            // What is not a type can only be read in again as a port.
            _ => self.transport(port, field),
        }
    }

    fn all(&mut self, ports: &dyn PortNames) {
        let (eth_type, eth_mask) = self.get(Field::EthType);
        let (protocol, protocol_mask) = self.get(Field::IpProto);
        let (eth_type, protocol) = (eth_type as u16, protocol as u8);
        let word = shorthand(eth_type, (protocol_mask != 0).then_some(protocol));
        let word = word.filter(|_| eth_mask != 0);
        if let Some((word, _)) = word {
            self.text(format_args!("{word},"));
        }
        for register in REGISTERS {
            self.hex(register);
        }
        self.hex(Field::TunId);
        self.hex(Field::Metadata);
        if let (port, 1..) = self.get(Field::InPort) {
            self.out.push_str("in_port=");
            write_port(self.out, port as u16, ports);
            self.out.push(',');
        }
        self.vlans();
        self.mac("dl_src", Field::EthSrc);
        self.mac("dl_dst", Field::EthDst);
        if word.is_none() && eth_mask != 0 {
            self.text(format_args!("dl_type={eth_type:#06x},"));
        }
        let arp = matches!(eth_type, ETH_ARP | ETH_RARP);
        match eth_type {
            ETH_IPV6 => {
                self.ipv6("ipv6_src", Field::Ipv6Src);
                self.ipv6("ipv6_dst", Field::Ipv6Dst);
                match self.get(Field::Ipv6Label) {
                    (_, 0) => {}
                    (value, mask) if mask == Field::Ipv6Label.ones() => {
                        self.text(format_args!("ipv6_label={value:#07x},"));
                    }
                    (value, mask) => {
                        self.text(format_args!("ipv6_label={value:#07x}/{mask:#07x},"));
                    }
                }
            }
            _ if arp => {
                self.ipv4("arp_spa", Field::ArpSpa);
                self.ipv4("arp_tpa", Field::ArpTpa);
            }
            _ => {
                self.ipv4("nw_src", Field::IpSrc);
                self.ipv4("nw_dst", Field::IpDst);
            }
        }
        if word.is_none_or(|(_, has_protocol)| !has_protocol) {
            self.decimal(if arp { "arp_op" } else { "nw_proto" }, Field::IpProto);
        }
        if arp {
            self.mac("arp_sha", Field::ArpSha);
            self.mac("arp_tha", Field::ArpTha);
        }
        if let (value, 1..) = self.get(Field::IpDscp) {
            self.text(format_args!("nw_tos={},", value << 2));
        }
        self.decimal("nw_ecn", Field::IpEcn);
        self.decimal("nw_ttl", Field::IpTtl);
        if let (value, mask @ 1..) = self.get(Field::IpFrag) {
            let row = (FRAGS.iter()).find(|row| (row.1, row.2) == (mask, value));
            self.text(format_args!(
                "nw_frag={},",
                row.map_or("<error>", |row| row.0)
            ));
        }
        match (eth_type, protocol) {
            (ETH_IPV4, ICMP) => {
                self.icmp("icmp_type", "tp_src", Field::TcpSrc);
                self.icmp("icmp_code", "tp_dst", Field::TcpDst);
            }
            (ETH_IPV6, ICMPV6) => {
                self.icmp("icmp_type", "tp_src", Field::TcpSrc);
                self.icmp("icmp_code", "tp_dst", Field::TcpDst);
                self.ipv6("nd_target", Field::NdTarget);
                self.mac("nd_sll", Field::NdSll);
                self.mac("nd_tll", Field::NdTll);
            }
            _ => {
                self.transport("tp_src", Field::TcpSrc);
                self.transport("tp_dst", Field::TcpDst);
            }
        }
        let ip = matches!(eth_type, ETH_IPV4 | ETH_IPV6);
        if let (flags, mask @ 1..) = self.get(Field::TcpFlags)
            && ip
            && protocol == TCP
        {
            self.out.push_str("tcp_flags=");
            write_tcp_flags(self.out, flags, mask);
            self.out.push(',');
        }
    }

    /// The outer tag (`dl_vlan`), and the inner one (`dl_vlan1`), which only a
    /// packet that is traced has.
    fn vlans(&mut self) {
        let (outer, outer_mask) = self.get(Field::VlanTci);
        self.vlan("", outer, outer_mask);
        if outer_mask != 0 {
            let inner = |key: &FlowKey| u128::from(key.0[INNER_TCI_WORD] & 0xffff);
            self.vlan("1", inner(&self.matching.key), inner(&self.matching.mask));
        }
    }

    fn vlan(&mut self, which: &str, tci: u128, mask: u128) {
        let present = u128::from(VLAN_PRESENT);
        let (vid, pcp) = (mask & 0xfff, mask & 0xe000);
        let whole = matches!(vid, 0 | 0xfff) && matches!(pcp, 0 | 0xe000) && vid | pcp != 0;
        if mask == 0 {
        } else if mask & tci & present != 0 && whole {
            if vid != 0 {
                self.text(format_args!("dl_vlan{which}={},", tci & 0xfff));
            }
            if pcp != 0 {
                self.text(format_args!("dl_vlan_pcp{which}={},", tci >> 13));
            }
        } else if mask == 0xffff {
            self.text(format_args!("vlan_tci{which}={tci:#06x},"));
        } else {
            self.text(format_args!("vlan_tci{which}={tci:#06x}/{mask:#06x},"));
        }
    }
}

/// The word for an Ethernet type and a protocol, and whether it names the protocol.
fn shorthand(eth_type: u16, protocol: Option<u8>) -> Option<(&'static str, bool)> {
    Some(match (eth_type, protocol) {
        (ETH_IPV4, Some(ICMP)) => ("icmp", true),
        (ETH_IPV4, Some(TCP)) => ("tcp", true),
        (ETH_IPV4, Some(UDP)) => ("udp", true),
        (ETH_IPV4, Some(SCTP)) => ("sctp", true),
        (ETH_IPV4, _) => ("ip", false),
        (ETH_IPV6, Some(ICMPV6)) => ("icmp6", true),
        (ETH_IPV6, Some(TCP)) => ("tcp6", true),
        (ETH_IPV6, Some(UDP)) => ("udp6", true),
        (ETH_IPV6, Some(SCTP)) => ("sctp6", true),
        (ETH_IPV6, _) => ("ipv6", false),
        (ETH_ARP, _) => ("arp", false),
        (ETH_RARP, _) => ("rarp", false),
        (ETH_MPLS, _) => ("mpls", false),
        (ETH_MPLS_MULTICAST, _) => ("mplsm", false),
        _ => return None,
    })
}

/// As C's `%#x` has it: zero stays `0`.
pub(crate) fn write_hex(out: &mut String, value: u128) {
    let _ = match value {
        0 => write!(out, "0"),
        _ => write!(out, "{value:#x}"),
    };
}

pub(crate) fn write_mac(out: &mut String, value: u128, mask: u128) {
    let octets = |out: &mut String, value: u128| {
        for i in (0..6).rev() {
            let end = if i == 0 { "" } else { ":" };
            let _ = write!(out, "{:02x}{end}", value >> (8 * i) & 0xff);
        }
    };
    octets(out, value);
    if mask != Field::EthSrc.ones() {
        out.push('/');
        octets(out, mask);
    }
}

pub(super) fn write_ipv4(out: &mut String, value: u128, mask: u128) {
    let _ = write!(out, "{}", Ipv4Addr::from(value as u32));
    let mask = mask as u32;
    let _ = match mask.leading_ones() {
        32 => Ok(()),
        ones if ones == mask.count_ones() => write!(out, "/{ones}"),
        _ => write!(out, "/{}", Ipv4Addr::from(mask)),
    };
}

pub(super) fn write_ipv6(out: &mut String, value: u128, mask: u128) {
    write_ipv6_address(out, value);
    match mask.leading_ones() {
        128 => {}
        ones if ones == mask.count_ones() => {
            let _ = write!(out, "/{ones}");
        }
        _ => {
            out.push('/');
            write_ipv6_address(out, mask);
        }
    }
}

/// As inet_ntop(3) prints it: also ::192.0.2.1 with its IPv4 part.
pub(crate) fn write_ipv6_address(out: &mut String, value: u128) {
    let _ = if value >> 32 == 0 && value >> 16 != 0 {
        write!(out, "::{}", Ipv4Addr::from(value as u32))
    } else {
        write!(out, "{}", Ipv6Addr::from(value))
    };
}

pub(crate) fn write_tcp_flags(out: &mut String, flags: u128, mask: u128) {
    let whole = mask == Field::TcpFlags.ones();
    if whole && flags == 0 {
        out.push('0');
    }
    let mut first = true;
    for (bit, name) in TCP_FLAGS.iter().enumerate() {
        let set = flags >> bit & 1 == 1;
        let _ = match (mask >> bit & 1 == 1, whole) {
            (false, _) => Ok(()),
            (true, false) => write!(out, "{}{name}", if set { '+' } else { '-' }),
            (true, true) if !set => Ok(()),
            (true, true) => {
                let between = if first { "" } else { "|" };
                first = false;
                write!(out, "{between}{name}")
            }
        };
    }
}
