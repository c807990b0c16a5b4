//! Matches from text, and what a match may not hold.

use super::check::{Packet, needs};
use super::names::{
    ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_RARP, ICMP, ICMPV6, ND_ADVERT, ND_SOLICIT, SCTP, TCP, UDP,
    field, only_subfield, shorthand, unknown_field,
};
use super::ports::PortNames;
use super::print_match::print_match;
use super::scan::{Item, Items, Scan, fault, integer, number};
use super::values::{FRAG_LATER, exact, full_mask, masked};
use super::{NoNames, Parsed, TextError};
use crate::field::{Field, Prereq};
use crate::key::VLAN_PRESENT;
use crate::matching::Match;

/// The bit of `vlan_tci` that says "there is a tag".
const PRESENT: u128 = VLAN_PRESENT as u128;

/// Reads a match: `in_port=1,tcp,nw_src=10.0.0.0/8`.
pub fn parse_match(text: &str, ports: &dyn PortNames) -> Result<Parsed<Match>, TextError> {
    let read = || {
        let mut matching = Match::default();
        let mut items = Items::of(text);
        while let Some(item) = items.next()? {
            if !read_field(&mut matching, item, ports)? {
                return Err(unknown_field(item.key, "field"));
            }
        }
        Ok(matching)
    };
    let fault = |fault| TextError::new(fault, text, None);
    let mut value = read().map_err(fault)?;
    let warnings = normalize(&mut value);
    check_ports(&value, text.trim()).map_err(fault)?;
    Ok(Parsed { value, warnings })
}

/// Reads one field, shorthand or subfield into a match. False: it is none.
pub(super) fn read_field<'t>(
    matching: &mut Match,
    item: Item<'t>,
    ports: &dyn PortNames,
) -> Scan<'t, bool> {
    let Item { key, value, .. } = item;
    if let Some((eth_type, protocol)) = shorthand(key) {
        if !value.is_empty() {
            return fault!(value, "{key} stands alone and takes no value");
        }
        set(matching, Field::EthType, eth_type.into(), 0xffff);
        if protocol != 0 {
            set(matching, Field::IpProto, protocol.into(), 0xff);
        }
        return Ok(true);
    }
    match key {
        // Every packet is an Ethernet frame.
        "eth" => {}
        "dl_vlan" => match dl_vlan(value)? {
            Vlan::Any => clear(matching, Field::VlanTci, 0xfff),
            Vlan::None => set(matching, Field::VlanTci, 0, 0xffff),
            Vlan::Id(vid) => {
                clear(matching, Field::VlanTci, 0xfff);
                matching.masked(Field::VlanTci, vid | PRESENT, 0xfff | PRESENT);
            }
        },
        "dl_vlan_pcp" | "vlan_pcp" => {
            let (value, mask) = masked(Field::VlanPcp, value, ports)?;
            clear(matching, Field::VlanTci, 0xe000);
            if mask != 0 {
                matching.masked(Field::VlanTci, value << 13 | PRESENT, 0xe000 | PRESENT);
            }
        }
        _ if key.contains('[') => {
            let bits = only_subfield(key)?;
            let ones = bits.ones() >> bits.offset;
            let Some(number) = integer(value) else {
                return fault!(value, "the value of {key} must be a number");
            };
            if number & !ones != 0 {
                return fault!(value, "the value does not fit into {} bits", bits.width);
            }
            matching.masked(bits.field, number << bits.offset, bits.ones());
        }
        _ => {
            let Some(field) = field(key) else {
                return Ok(false);
            };
            let (value, mask) = masked(field, value, ports)?;
            match field {
                // They are the low bytes of port fields whose high bytes are
                // zero in ICMP; `normalize` gives them their own width again.
                Field::IcmpType | Field::Icmpv6Type => {
                    set(matching, Field::TcpSrc, value, mask | mask << 8);
                }
                Field::IcmpCode | Field::Icmpv6Code => {
                    set(matching, Field::TcpDst, value, mask | mask << 8);
                }
                _ => set(matching, field, value, mask),
            }
        }
    }
    Ok(true)
}

/// What `dl_vlan` asks for.
enum Vlan {
    Any,
    /// No tag.
    None,
    Id(u128),
}

fn dl_vlan(text: &str) -> Scan<'_, Vlan> {
    if text == "*" || text.eq_ignore_ascii_case("any") {
        return Ok(Vlan::Any);
    }
    match number(text, "dl_vlan", 0xffff)? {
        0xffff => Ok(Vlan::None),
        vid @ 0..=0xfff => Ok(Vlan::Id(vid.into())),
        _ => fault!(text, "a VLAN is 0 to 4095, or 0xffff for no tag"),
    }
}

/// The field's bits become those of the value; a later word replaces an earlier.
fn set(matching: &mut Match, field: Field, value: u128, mask: u128) {
    clear(matching, field, full_mask(field));
    matching.masked(field, value, mask);
}

fn clear(matching: &mut Match, field: Field, bits: u128) {
    field.set_masked(&mut matching.key, 0, bits);
    field.set_masked(&mut matching.mask, 0, bits);
}

/// Takes out of a match what its own protocol does not have (ovs-fields(7),
/// "prerequisites"), as Open vSwitch does, and says so if it did.
pub(super) fn normalize(matching: &mut Match) -> Vec<String> {
    let mut warnings = Vec::new();
    let before = *matching;
    let get = |field: Field| field.get(&before.key);
    let eth_type = get(Field::EthType) as u16;
    let protocol = get(Field::IpProto) as u8;
    let ip = matches!(eth_type, ETH_IPV4 | ETH_IPV6);
    let arp = matches!(eth_type, ETH_ARP | ETH_RARP);
    let icmp = eth_type == ETH_IPV4 && protocol == ICMP;
    let icmpv6 = eth_type == ETH_IPV6 && protocol == ICMPV6;
    let ports = ip && matches!(protocol, TCP | UDP | SCTP) || icmp || icmpv6;
    let nd = |kind: u16| icmpv6 && get(Field::TcpSrc) == kind.into() && get(Field::TcpDst) == 0;
    let (solicit, advert) = (nd(ND_SOLICIT), nd(ND_ADVERT));

    // Open vSwitch forgets these two without a word.
    let quiet = [
        (ip, Field::IpFrag, "nw_frag", "ip or ipv6"),
        (
            ip && protocol == TCP,
            Field::TcpFlags,
            "tcp_flags",
            "tcp or tcp6",
        ),
    ];
    for (may, field, name, needs) in quiet {
        if !may && field.get(&matching.mask) != 0 {
            clear(matching, field, field.ones());
            warnings.push(format!(
                "{name} was left out of the match: it needs {needs}"
            ));
        }
    }
    let may_have: [(bool, &[Field]); 7] = [
        (arp || eth_type == ETH_IPV4, &[Field::IpSrc, Field::IpDst]),
        (ports, &[Field::TcpSrc, Field::TcpDst]),
        (arp || ip, &[Field::IpProto]),
        // nw_tos has the bits of nw_ecn too.
        (ip, &[Field::IpTos, Field::IpTtl]),
        (arp || solicit, &[Field::ArpSha]),
        (arp || advert, &[Field::ArpTha]),
        (
            eth_type == ETH_IPV6,
            &[Field::Ipv6Src, Field::Ipv6Dst, Field::Ipv6Label],
        ),
    ];
    let pre = *matching;
    for (may, fields) in may_have {
        if !may {
            for field in fields {
                clear(matching, *field, field.ones());
            }
        }
    }
    if !(solicit || advert) {
        clear(matching, Field::NdTarget, Field::NdTarget.ones());
    }
    if *matching != pre {
        warnings.push(format!(
            "normalization changed ofp_match, details:\n pre: {}\npost: {}",
            print_match(&pre, &NoNames),
            print_match(matching, &NoNames)
        ));
    }
    if icmp || icmpv6 {
        for field in [Field::TcpSrc, Field::TcpDst] {
            if field.get(&matching.mask) == 0xffff && field.get(&matching.key) < 0x100 {
                clear(matching, field, 0xff00);
            }
        }
    }
    warnings
}

/// Refuses ports that no packet of the match has: those of a later fragment, as
/// Open vSwitch does (OFPBMC_BAD_PREREQ), and ICMP types and codes of more than
/// eight bits, which it cuts off.
pub(super) fn check_ports<'t>(matching: &Match, at: &'t str) -> Scan<'t, ()> {
    let get = |field: Field| field.get(&matching.key);
    let asked = |field: Field| field.get(&matching.mask) != 0;
    let ports = [Field::TcpSrc, Field::TcpDst];
    let protocol = get(Field::IpProto) as u8;
    let later = get(Field::IpFrag) & FRAG_LATER != 0;
    let transport = matches!(protocol, TCP | UDP | SCTP);
    if later && transport && (ports.into_iter().any(asked) || asked(Field::TcpFlags)) {
        return fault!(
            at,
            "later fragments have no ports and no TCP flags (OFPBMC_BAD_PREREQ): leave them out, or nw_frag=later"
        );
    }
    let icmp = matches!(protocol, ICMP | ICMPV6);
    let whole = |field: Field| matches!(field.get(&matching.mask), 0 | 0xff);
    if icmp && !ports.into_iter().all(whole) {
        return fault!(at, "ICMP's type and code are 0 to 255, without a mask");
    }
    Ok(())
}

/// Reads the packet that `ofproto/trace` is asked about, as in
/// `in_port=1,tcp,nw_src=10.0.0.1,tcp_dst=80`: whole values, each field once and
/// behind its prerequisites. The mask of the answer tells which were given.
pub fn parse_packet(text: &str, ports: &dyn PortNames) -> Result<Match, TextError> {
    let read = || {
        let mut packet = Match::default();
        let mut items = Items::of(text);
        while let Some(item) = items.next()? {
            read_packet_field(&mut packet, item, ports)?;
        }
        Ok(packet)
    };
    read().map_err(|fault| TextError::new(fault, text, None))
}

fn read_packet_field<'t>(
    packet: &mut Match,
    item: Item<'t>,
    ports: &dyn PortNames,
) -> Scan<'t, ()> {
    let Item { key, value, .. } = item;
    if let Some((_, protocol)) = shorthand(key) {
        if Field::EthType.get(&packet.mask) != 0 {
            return fault!(key, "the Ethernet type was given already");
        }
        if protocol != 0 && Field::IpProto.get(&packet.mask) != 0 {
            return fault!(key, "the IP protocol was given already");
        }
        read_field(packet, item, ports)?;
        return Ok(());
    }
    // The field to be read, and the bits that it takes up.
    let (read, (field, own)) = match key {
        "eth" => return Ok(()),
        "dl_vlan" => (None, (Field::VlanTci, 0xfff)),
        "dl_vlan_pcp" => (Some(Field::VlanPcp), (Field::VlanTci, 0xe000)),
        "vlan_pcp" => (Some(Field::VlanPcp), (Field::VlanPcp, 7)),
        _ => match field(key) {
            Some(field) => (Some(field), (field, full_mask(field))),
            None => return Err(unknown_field(key, "field")),
        },
    };
    if field.get(&packet.mask) & own != 0 {
        return fault!(key, "{key} was given already");
    }
    let prereq = field.info().prereq;
    let known = Packet::of(packet);
    // In matches, and where we print packets, these are any transport's ports;
    // `ofproto/trace` takes them for TCP's only.
    let any_port =
        matches!(key, "tp_src" | "tp_dst") && (known.has_ports() || known.has(Prereq::Sctp));
    if !any_port && !known.has(prereq) {
        let needs = needs(prereq);
        return fault!(key, "{key} stands before what it needs: give {needs} first");
    }
    if let Some(field) = read {
        exact(field, value, ports)?;
    }
    read_field(packet, item, ports)?;
    Ok(())
}
