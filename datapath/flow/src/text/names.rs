//! Names: of fields, of the protocols' shorthands, and of what Open vSwitch
//! has and ringway has not.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::scan::{Fault, Scan, fault};
use crate::field::{FIELDS, Field, Subfield};

/// Ethernet types that the syntax has words for.
pub(super) const ETH_IPV4: u16 = 0x0800;
pub(super) const ETH_ARP: u16 = 0x0806;
pub(super) const ETH_RARP: u16 = 0x8035;
pub(super) const ETH_IPV6: u16 = 0x86dd;
pub(super) const ETH_MPLS: u16 = 0x8847;
pub(super) const ETH_MPLS_MULTICAST: u16 = 0x8848;

/// Protocol numbers that the syntax has words for.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;

/// ICMPv6 types of neighbour discovery.
pub(super) const ND_SOLICIT: u16 = 135;
pub(super) const ND_ADVERT: u16 = 136;

/// A shorthand: the Ethernet type and, if not 0, the protocol.
pub(super) fn shorthand(name: &str) -> Option<(u16, u8)> {
    Some(match name {
        "ip" | "ipv4" | "ip4" => (ETH_IPV4, 0),
        "arp" => (ETH_ARP, 0),
        "icmp" => (ETH_IPV4, ICMP),
        "tcp" => (ETH_IPV4, TCP),
        "udp" => (ETH_IPV4, UDP),
        "sctp" => (ETH_IPV4, SCTP),
        "ipv6" | "ip6" => (ETH_IPV6, 0),
        "icmp6" => (ETH_IPV6, ICMPV6),
        "tcp6" => (ETH_IPV6, TCP),
        "udp6" => (ETH_IPV6, UDP),
        "sctp6" => (ETH_IPV6, SCTP),
        "rarp" => (ETH_RARP, 0),
        "mpls" => (ETH_MPLS, 0),
        "mplsm" => (ETH_MPLS_MULTICAST, 0),
        _ => return None,
    })
}

/// OXM names of fields whose row in [`FIELDS`] has the NXM one.
const OXM: &[(&str, Field)] = &[
    ("OXM_OF_TUNNEL_ID", Field::TunId),
    ("OXM_OF_ETH_SRC", Field::EthSrc),
    ("OXM_OF_ETH_DST", Field::EthDst),
    ("OXM_OF_ETH_TYPE", Field::EthType),
    ("OXM_OF_IPV4_SRC", Field::IpSrc),
    ("OXM_OF_IPV4_DST", Field::IpDst),
    ("OXM_OF_IPV6_SRC", Field::Ipv6Src),
    ("OXM_OF_IPV6_DST", Field::Ipv6Dst),
    ("OXM_OF_IPV6_FLABEL", Field::Ipv6Label),
    ("OXM_OF_IP_PROTO", Field::IpProto),
    ("OXM_OF_IP_ECN", Field::IpEcn),
    ("OXM_OF_ARP_OP", Field::ArpOp),
    ("OXM_OF_ARP_SPA", Field::ArpSpa),
    ("OXM_OF_ARP_TPA", Field::ArpTpa),
    ("OXM_OF_ARP_SHA", Field::ArpSha),
    ("OXM_OF_ARP_THA", Field::ArpTha),
    ("OXM_OF_TCP_SRC", Field::TcpSrc),
    ("OXM_OF_TCP_DST", Field::TcpDst),
    ("OXM_OF_TCP_FLAGS", Field::TcpFlags),
    ("ONFOXM_ET_TCP_FLAGS", Field::TcpFlags),
    ("OXM_OF_UDP_SRC", Field::UdpSrc),
    ("OXM_OF_UDP_DST", Field::UdpDst),
    ("OXM_OF_ICMPV4_TYPE", Field::IcmpType),
    ("OXM_OF_ICMPV4_CODE", Field::IcmpCode),
    ("OXM_OF_ICMPV6_TYPE", Field::Icmpv6Type),
    ("OXM_OF_ICMPV6_CODE", Field::Icmpv6Code),
    ("OXM_OF_IPV6_ND_TARGET", Field::NdTarget),
    ("OXM_OF_IPV6_ND_SLL", Field::NdSll),
    ("OXM_OF_IPV6_ND_TLL", Field::NdTll),
];

/// The field that matches and `set_field` call so.
pub(super) fn field(name: &str) -> Option<Field> {
    static BY_NAME: OnceLock<HashMap<&str, Field>> = OnceLock::new();
    let map = BY_NAME.get_or_init(|| {
        let names = |info: &'static crate::field::FieldInfo| {
            let names = std::iter::once(info.name).chain(info.aliases.iter().copied());
            names.map(|name| (name, info.field))
        };
        FIELDS.iter().flat_map(names).collect()
    });
    map.get(name).copied()
}

/// The field that `load`, `move` and subfields call so: an NXM or OXM name
/// (with or without `_W`), or its other names.
fn nxm_field(name: &str) -> Option<Field> {
    static BY_NAME: OnceLock<HashMap<&str, Field>> = OnceLock::new();
    let map = BY_NAME.get_or_init(|| {
        let nxm = FIELDS.iter().map(|info| (info.nxm, info.field));
        nxm.chain(OXM.iter().copied()).collect()
    });
    let plain = name.strip_suffix("_W").unwrap_or(name);
    map.get(plain).copied().or_else(|| field(name))
}

/// Bits of the field that `[]` stands for.
pub(super) fn whole(field: Field) -> Subfield {
    let mut whole = Subfield::whole(field);
    if field == Field::VlanVid {
        // Open vSwitch has the bit that says "there is a tag" outside of it.
        whole.width = 12;
    }
    whole
}

/// Reads `NAME[]`, `NAME[bit]`, `NAME[from..to]` or `NAME` from the beginning of
/// `text`; also gives what comes behind.
pub(super) fn subfield(text: &str) -> Scan<'_, (Subfield, &str)> {
    let name_len = text.find(['[', '-']).unwrap_or(text.len());
    let (name, rest) = text.split_at(name_len);
    let Some(field) = nxm_field(name) else {
        return Err(unknown_field(name, "field"));
    };
    let whole = whole(field);
    let Some(inner) = rest.strip_prefix('[') else {
        return Ok((whole, rest));
    };
    let Some(len) = inner.find(']') else {
        return fault!(&rest[..1], "this bracket is not closed");
    };
    let (bits, rest) = (&inner[..len], &inner[len + 1..]);
    if bits.is_empty() {
        return Ok((whole, rest));
    }
    let (from, to) = bits.split_once("..").unwrap_or((bits, bits));
    let (Ok(from), Ok(to)) = (from.trim().parse::<u32>(), to.trim().parse::<u32>()) else {
        return fault!(
            bits,
            "bits of a field are written [], [bit] or [first..last]"
        );
    };
    let width = u32::from(whole.width);
    if from > to {
        return fault!(bits, "the first bit {from} is behind the last bit {to}");
    }
    if to >= width {
        return fault!(
            bits,
            "there is no bit {to}: {name} is only {width} bits wide"
        );
    }
    let bits = Subfield {
        field,
        offset: from as u8,
        width: (to - from + 1) as u8,
    };
    Ok((bits, rest))
}

/// A subfield and nothing behind it.
pub(super) fn only_subfield(text: &str) -> Scan<'_, Subfield> {
    let (bits, rest) = subfield(text)?;
    match rest {
        "" => Ok(bits),
        rest => fault!(rest, "nothing is expected behind the field"),
    }
}

/// Fields that Open vSwitch has, and why ringway has not.
fn missing_field(name: &str) -> Option<&'static str> {
    let starts = |prefix: &str| name.starts_with(prefix);
    Some(match name {
        "conj_id" => "there are no conjunctive matches",
        "recirc_id" | "dp_hash" => "the datapath does not recirculate",
        "packet_type" => "every packet is an Ethernet frame",
        "pkt_mark" | "skb_priority" => "packets do not pass a kernel",
        "actset_output" => "the action set is not a field",
        "in_port_oxm" => "use in_port",
        "nd_reserved" | "nd_options_type" => {
            "of neighbour discovery there are nd_target, nd_sll and nd_tll"
        }
        _ if starts("ct_") => "there is no connection tracking",
        _ if starts("tun_") || starts("gtpu_") => "of tunnels there is tun_id only",
        _ if starts("mpls_") => "MPLS is passed through; match its frames with mpls or mplsm",
        _ if starts("nsh_") => "there is no NSH",
        _ if starts("xxreg") => "use reg0 to reg15 or xreg0 to xreg7",
        _ => return None,
    })
}

/// The error for a name that is no field; `kind` says what it was taken for.
pub(super) fn unknown_field<'t>(name: &'t str, kind: &str) -> Fault<'t> {
    let what = match missing_field(name) {
        Some(why) => format!("field {name} is not supported: {why}"),
        None => format!("unknown {kind} \"{name}\" (ovs-fields(7) has the names of fields)"),
    };
    Fault { at: name, what }
}

/// Actions that Open vSwitch has, and what to do without them.
pub(super) fn missing_action(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    Some(match lower.as_str() {
        "ct" | "ct_clear" | "nat" => "there is no connection tracking",
        "learn" | "fin_timeout" => "flows do not make flows; NORMAL learns addresses",
        "encap" | "decap" | "dec_nsh_ttl" => "there is no encapsulation",
        "set_tunnel" | "set_tunnel64" => {
            "there are no tunnels; set_field:N->tun_id writes the field"
        }
        "push_mpls" | "pop_mpls" | "set_mpls_label" | "set_mpls_tc" | "set_mpls_ttl"
        | "dec_mpls_ttl" => "MPLS is passed through as it is",
        "enqueue" | "set_queue" | "pop_queue" => {
            "ports have no queues of different service; use meter"
        }
        "conjunction" => "there are no conjunctive matches",
        "bundle" | "bundle_load" | "multipath" => "use a group of type=select",
        "sample" => "there is no sampling",
        "push" | "pop" => "there is no stack; use a register",
        "clone" => "use a group of type=all, whose buckets work on copies",
        "output_reg" => "write output:FIELD[BITS]",
        "output_trunc" | "check_pkt_larger" | "delete_field" | "unroll_xlate" | "debug_recirc"
        | "debug_slow" => "there is nothing like it",
        _ => return None,
    })
}
