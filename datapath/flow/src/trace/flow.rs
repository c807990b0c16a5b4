//! Packets, masks and fields, as a trace prints them.

use std::fmt::Write;

use crate::field::{FIELDS, Field, Form, Prereq, Subfield};
use crate::key::{FlowKey, PACKET_WORDS, PacketKey, VLAN_PRESENT};
use crate::matching::Match;
use crate::text::{PortNames, print_match, write_hex, write_ipv6_address, write_mac};

/// Whether a packet has what a field needs; a fragment's ports are taken to be
/// there.
fn has(flow: &FlowKey, prereq: Prereq) -> bool {
    let get = |field: Field| field.get(flow);
    let dl_type = get(Field::EthType);
    let ip = matches!(dl_type, 0x0800 | 0x86dd);
    let nd = |types: &[u128]| {
        (dl_type, get(Field::IpProto), get(Field::TcpDst)) == (0x86dd, 58, 0)
            && types.contains(&get(Field::TcpSrc))
    };
    match prereq {
        Prereq::None => true,
        Prereq::Vlan => get(Field::VlanTci) & u128::from(VLAN_PRESENT) != 0,
        Prereq::Ipv4 => dl_type == 0x0800,
        Prereq::Ipv6 => dl_type == 0x86dd,
        Prereq::Ip => ip,
        Prereq::Arp => matches!(dl_type, 0x0806 | 0x8035),
        Prereq::Tcp => ip && get(Field::IpProto) == 6,
        Prereq::Udp => ip && get(Field::IpProto) == 17,
        Prereq::Sctp => ip && get(Field::IpProto) == 132,
        Prereq::Icmp => dl_type == 0x0800 && get(Field::IpProto) == 1,
        Prereq::Icmpv6 => dl_type == 0x86dd && get(Field::IpProto) == 58,
        Prereq::Nd => nd(&[135, 136]),
        Prereq::NdSolicit => nd(&[135]),
        Prereq::NdAdvert => nd(&[136]),
    }
}

/// Every field that a packet has; metadata and registers unless they are zero.
pub(super) fn print_flow(flow: &FlowKey, ports: &dyn PortNames) -> String {
    let mut mask = FlowKey::default();
    for info in FIELDS {
        let in_packet = usize::from(info.word) < PACKET_WORDS;
        let shown = match info.field {
            // Shown as the registers that they are made of.
            _ if info.name.starts_with("xreg") => false,
            Field::InPort => info.field.get(flow) != 0,
            _ if in_packet => has(flow, info.prereq),
            _ => info.field.get(flow) != 0,
        };
        if shown {
            info.field.set(&mut mask, u128::MAX);
        }
    }
    // Types and codes of ICMP stand where ports do.
    if has(flow, Prereq::Icmp) || has(flow, Prereq::Icmpv6) {
        Field::TcpSrc.set(&mut mask, u128::MAX);
        Field::TcpDst.set(&mut mask, u128::MAX);
    }
    if has(flow, Prereq::Vlan) {
        mask.0[2] |= 0xffff;
    }
    print_masked(flow, &mask, ports)
}

/// What a megaflow matches.
pub(super) fn print_megaflow(
    packet: &PacketKey,
    mask: &PacketKey,
    ports: &dyn PortNames,
) -> String {
    let mut mask = mask.to_flow();
    // The bridge.
    mask.0[0] &= u64::MAX >> 16;
    let text = print_masked(&packet.to_flow(), &mask, ports);
    match text.as_str() {
        "" => "recirc_id=0,eth".to_owned(),
        text => format!("recirc_id=0,eth,{text}"),
    }
}

/// A match on the bits of `mask`.
fn print_masked(flow: &FlowKey, mask: &FlowKey, ports: &dyn PortNames) -> String {
    let mut key = flow.masked(mask);
    // They decide how the rest is called, looked at or not.
    for field in [Field::EthType, Field::IpProto] {
        field.set(&mut key, field.get(flow));
    }
    print_match(&Match { key, mask: *mask }, ports)
}

/// The fields of a packet in which a mask has bits, and which if not all:
/// `in_port,nw_src/0xff000000`.
pub(super) fn print_mask(packet: &PacketKey, mask: &PacketKey) -> String {
    let flow = packet.to_flow();
    let mut left = mask.to_flow();
    let mut out = String::new();
    let mut add = |name: &str, bits: u128, ones: u128| {
        let between = if out.is_empty() { "" } else { "," };
        let _ = match bits {
            0 => Ok(()),
            _ if bits == ones => write!(out, "{between}{name}"),
            _ => write!(out, "{between}{name}/{bits:#x}"),
        };
    };
    for info in FIELDS {
        // Bits are named once; those of a TCI and of a TOS as a whole.
        let part = matches!(info.field, Field::VlanVid | Field::VlanPcp);
        if !part && has(&flow, info.prereq) {
            add(name(info.field), info.field.get(&left), info.field.ones());
            info.field.set(&mut left, 0);
        }
    }
    add("vlan_tci1", u128::from(left.0[2] & 0xffff), 0xffff);
    add("vlan_tpid", u128::from(left.0[5] >> 48), 0xffff);
    add("vlan_tpid1", u128::from(left.0[5] >> 32 & 0xffff), 0xffff);
    left.0[2] &= !0xffff;
    left.0[5] &= 0xffff_ffff;
    // What the packet has no field for, but a lookup saw to be zero.
    for info in FIELDS {
        add(name(info.field), info.field.get(&left), info.field.ones());
        info.field.set(&mut left, 0);
    }
    out
}

/// A field's name as matches are printed with it.
fn name(field: Field) -> &'static str {
    let info = field.info();
    let old = |name: &&&str| {
        ["dl_", "nw_", "tp_"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    match info.name.starts_with("nw_") {
        true => info.name,
        false => info.aliases.iter().find(old).copied().unwrap_or(info.name),
    }
}

/// `NXM_NX_REG0[0..15] is now 0x5`
pub(super) fn print_subfield(place: Subfield, flow: &FlowKey) -> String {
    let info = place.field.info();
    let mut out = info.nxm.to_owned();
    let whole = place == Subfield::whole(place.field);
    let (first, last) = (place.offset, place.offset + place.width - 1);
    let _ = match (whole, first == last) {
        (true, _) => write!(out, "[]"),
        (_, true) => write!(out, "[{first}]"),
        _ => write!(out, "[{first}..{last}]"),
    };
    out.push_str(" is now ");
    let value = place.get(flow);
    let form = if whole { info.form } else { Form::Hex };
    match form {
        Form::Mac => write_mac(&mut out, value, place.field.ones()),
        Form::Ipv4 => {
            let _ = write!(out, "{}", std::net::Ipv4Addr::from(value as u32));
        }
        Form::Ipv6 => write_ipv6_address(&mut out, value),
        Form::Decimal | Form::Port => {
            let _ = write!(out, "{value}");
        }
        Form::Hex | Form::Frag | Form::TcpFlags => write_hex(&mut out, value),
    }
    out
}
