//! Random actions.

use super::matches::Kind;
use super::{Dialect, Place, TABLES};
use crate::dice::Dice;
use crate::domain::{self, mac};

/// Actions of a rule, or `drop`.
pub fn of_rule(dice: &mut Dice, place: Place) -> String {
    if dice.one_in(12) {
        return "drop".into();
    }
    let mut place = place;
    let mut actions = Vec::new();
    for _ in 0..dice.between(0, 4) {
        actions.push(action(dice, &mut place));
    }
    if dice.percent(70) {
        actions.push(output(dice));
    }
    if place.dialect.is_standard() && dice.percent(50) {
        instructions(dice, &place, &mut actions);
    }
    if actions.is_empty() {
        actions.push(output(dice));
    }
    if dice.one_in(60) {
        let last = actions.len() - 1;
        actions.swap(0, last);
    }
    actions.join(",")
}

/// Actions of a bucket of the group `id`, which is of higher number than the
/// groups that it may call: never itself.
pub fn of_bucket(dice: &mut Dice, id: u32) -> String {
    let mut place = Place {
        // Groups are added in 1.5.
        dialect: Dialect::Latest,
        kind: Kind::Any,
        tagged: false,
        table: 0,
        groups: 0,
    };
    let mut actions = Vec::new();
    for _ in 0..dice.between(0, 2) {
        actions.push(match dice.below(6) {
            0 => format!("push_vlan:{}", tpid(dice)),
            1 => "pop_vlan".into(),
            2 if id > 1 => format!("group:{}", dice.between(1, id as usize - 1)),
            3 => register_write(dice, &place),
            4 => resubmit(dice, 0),
            _ => set_any(dice, &mut place),
        });
    }
    if dice.percent(85) || actions.is_empty() {
        actions.push(output(dice));
    }
    format!("actions={}", actions.join(","))
}

fn action(dice: &mut Dice, place: &mut Place) -> String {
    match dice.below(100) {
        0..20 => output(dice),
        20..32 => register_write(dice, place),
        32..40 => register_move(dice),
        40..52 => resubmit(dice, place.table),
        52..55 => format!("note:{:02x}.{:02x}", dice.byte(), dice.byte()),
        55..58 => "exit".into(),
        58..61 => "controller".into(),
        61..67 if place.kind.is_ipv4() || place.kind.is_ipv6() => "dec_ttl".into(),
        61..67 if place.dialect == Dialect::Nicira && dice.one_in(5) => "dec_ttl".into(),
        // Later versions of OpenFlow want the match to promise a tag.
        67..73 if place.dialect == Dialect::Nicira || place.tagged || dice.one_in(30) => {
            place.tagged = false;
            "strip_vlan".into()
        }
        67..79 if place.dialect.is_standard() => {
            place.tagged = true;
            format!("push_vlan:{}", tpid(dice))
        }
        79..85 if place.dialect.is_standard() => match group(dice, place.groups) {
            Some(group) => group,
            None => output(dice),
        },
        67..85 => {
            place.tagged = true;
            match dice.one_in(3) {
                true => format!("mod_vlan_pcp:{}", dice.of(&domain::PCPS)),
                false => format!("mod_vlan_vid:{}", dice.of(&domain::VIDS)),
            }
        }
        85..93 => field_move(dice, place),
        _ => match place.dialect {
            Dialect::Nicira => modify(dice, place),
            _ => set_any(dice, place),
        },
    }
}

/// A group, now and then one that is not there.
fn group(dice: &mut Dice, groups: usize) -> Option<String> {
    if dice.one_in(40) {
        return Some("group:9".into());
    }
    (groups > 0).then(|| format!("group:{}", dice.between(1, groups)))
}

fn tpid(dice: &mut Dice) -> &'static str {
    dice.of(&["0x8100", "0x8100", "0x88a8"])
}

fn output(dice: &mut Dice) -> String {
    let port = dice.between(1, usize::from(domain::PORTS));
    match dice.below(30) {
        0 => "in_port".into(),
        1 => "LOCAL".into(),
        2 => "flood".into(),
        3 => "all".into(),
        4 => "normal".into(),
        5 => "output:77".into(),
        6 => "output:reg0[0..15]".into(),
        7 => "output:NXM_NX_REG1[]".into(),
        8 => "output:in_port".into(),
        9 => port.to_string(),
        _ => format!("output:{port}"),
    }
}

fn register_write(dice: &mut Dice, place: &Place) -> String {
    let value = dice.of(&domain::REGISTERS);
    if place.dialect == Dialect::Latest {
        let mask = dice.of(&[0xff, 0xffff, 0xf0]);
        return match dice.below(6) {
            0 => format!(
                "set_field:{:#x}/{mask:#x}->reg{}",
                value & mask,
                dice.below(4)
            ),
            1 => format!(
                "set_field:{:#x}/{mask:#x}->xreg{}",
                value & mask,
                dice.below(2)
            ),
            2 => format!("set_field:{:#x}/{mask:#x}->metadata", value & mask),
            3 => format!("set_field:{value:#x}->tun_id"),
            _ => format!("set_field:{value:#x}->reg{}", dice.below(4)),
        };
    }
    match dice.below(8) {
        0 => format!(
            "load:{:#x}->NXM_NX_REG{}[0..15]",
            value & 0xffff,
            dice.below(4)
        ),
        1 => format!("load:{:#x}->NXM_NX_REG{}[4..7]", value & 0xf, dice.below(4)),
        2 => format!("load:{value:#x}->OXM_OF_METADATA[]"),
        3 => format!("load:{:#x}->NXM_NX_TUN_ID[0..31]", value),
        4 => format!("load:{:#x}->reg{}[]", value, dice.below(16)),
        _ => format!("load:{value:#x}->NXM_NX_REG{}[]", dice.below(4)),
    }
}

fn register_move(dice: &mut Dice) -> String {
    let (from, to) = (dice.below(4), dice.below(4));
    match dice.below(6) {
        0 => format!("move:NXM_NX_REG{from}[0..15]->NXM_NX_REG{to}[16..31]"),
        1 => format!("move:NXM_OF_IN_PORT[]->NXM_NX_REG{to}[0..15]"),
        2 => format!("move:NXM_OF_ETH_SRC[0..31]->NXM_NX_REG{to}[]"),
        3 => format!("move:NXM_OF_VLAN_TCI[0..11]->NXM_NX_REG{to}[0..11]"),
        4 => format!("move:OXM_OF_METADATA[0..31]->NXM_NX_REG{to}[]"),
        _ => format!("move:NXM_NX_REG{from}[]->NXM_NX_REG{to}[]"),
    }
}

fn resubmit(dice: &mut Dice, table: usize) -> String {
    // Onwards, or, rarely, anywhere: loops are to end alike.
    let next = match dice.one_in(25) {
        true => dice.between(0, TABLES),
        false => dice.between((table + 1).min(TABLES + 1), TABLES + 1),
    };
    match dice.below(8) {
        0 => format!(
            "resubmit({},{next})",
            dice.between(1, usize::from(domain::PORTS))
        ),
        1 if table > 0 => format!("resubmit:{}", dice.between(1, usize::from(domain::PORTS))),
        _ => format!("resubmit(,{next})"),
    }
}

/// A name as `move` takes it, with its bits, that the kind of packet has.
fn nxm_fields(place: &Place) -> Vec<(&'static str, u32)> {
    let mut fields = vec![
        ("NXM_OF_ETH_SRC", 48),
        ("NXM_OF_ETH_DST", 48),
        ("NXM_OF_VLAN_TCI", 16),
    ];
    let kind = place.kind;
    if kind.is_ipv4() {
        fields.extend([
            ("NXM_OF_IP_SRC", 32),
            ("NXM_OF_IP_DST", 32),
            ("NXM_NX_IP_TTL", 8),
        ]);
        fields.push(("NXM_NX_IP_ECN", 2));
    }
    if kind.is_ipv6() {
        fields.extend([("NXM_NX_IPV6_SRC", 128), ("NXM_NX_IPV6_DST", 128)]);
        fields.extend([("NXM_NX_IPV6_LABEL", 20), ("NXM_NX_IP_TTL", 8)]);
    }
    match kind {
        Kind::Tcp | Kind::Tcp6 => fields.extend([("NXM_OF_TCP_SRC", 16), ("NXM_OF_TCP_DST", 16)]),
        Kind::Udp | Kind::Udp6 => fields.extend([("NXM_OF_UDP_SRC", 16), ("NXM_OF_UDP_DST", 16)]),
        Kind::Icmp => fields.extend([("NXM_OF_ICMP_TYPE", 8), ("NXM_OF_ICMP_CODE", 8)]),
        Kind::Icmp6 => fields.extend([("NXM_NX_ICMPV6_TYPE", 8), ("NXM_NX_ICMPV6_CODE", 8)]),
        Kind::Arp => {
            fields.extend([("NXM_OF_ARP_SPA", 32), ("NXM_OF_ARP_TPA", 32)]);
            fields.extend([("NXM_NX_ARP_SHA", 48), ("NXM_NX_ARP_THA", 48)]);
            fields.push(("NXM_OF_ARP_OP", 16));
        }
        Kind::NdSolicit => fields.extend([("NXM_NX_ND_TARGET", 128), ("NXM_NX_ND_SLL", 48)]),
        Kind::NdAdvert => fields.extend([("NXM_NX_ND_TARGET", 128), ("NXM_NX_ND_TLL", 48)]),
        _ => {}
    }
    fields
}

/// `move` and `load` of the packet's own fields.
fn field_move(dice: &mut Dice, place: &Place) -> String {
    let fields = nxm_fields(place);
    let (to, width) = dice.of(&fields);
    match dice.below(4) {
        0 => {
            let same: Vec<_> = fields
                .iter()
                .filter(|(_, bits)| *bits >= width)
                .copied()
                .collect();
            let (from, bits) = dice.of(&same);
            let offset = dice.below((bits - width + 1) as usize) as u32;
            let end = offset + width - 1;
            format!("move:{from}[{offset}..{end}]->{to}[]")
        }
        1 => {
            let width = width.min(32);
            format!(
                "move:NXM_NX_REG{}[0..{}]->{to}[0..{}]",
                dice.below(4),
                width - 1,
                width - 1
            )
        }
        _ if place.dialect == Dialect::Latest => {
            let (from, bits) = dice.of(&fields);
            let width = width.min(bits);
            format!("move:{from}[0..{}]->{to}[0..{}]", width - 1, width - 1)
        }
        _ => {
            let bits = width.min(64);
            let low = dice.below(bits as usize) as u32;
            let high = dice.between(low as usize, bits as usize - 1) as u32;
            let ones = u64::MAX >> (63 - (high - low));
            let value = match dice.one_in(2) {
                true => dice.of(&domain::REGISTERS),
                false => dice.word(),
            } & ones;
            match (low, high + 1 == width) {
                (0, true) => format!("load:{value:#x}->{to}[]"),
                _ if low == high => format!("load:{value:#x}->{to}[{low}]"),
                _ => format!("load:{value:#x}->{to}[{low}..{high}]"),
            }
        }
    }
}

fn modify(dice: &mut Dice, place: &Place) -> String {
    let ip = dice.of(&domain::IPV4);
    let port = dice.of(&domain::L4);
    let has_ip = place.kind.is_ipv4() || place.kind.is_ipv6();
    match dice.below(8) {
        0 => format!("mod_dl_src:{}", mac(dice)),
        1 => format!("mod_dl_dst:{}", mac(dice)),
        2 if place.kind.is_ipv4() || dice.one_in(4) => format!("mod_nw_src:{ip}"),
        3 if place.kind.is_ipv4() || dice.one_in(4) => format!("mod_nw_dst:{ip}"),
        4 if has_ip || dice.one_in(4) => format!("mod_nw_tos:{}", dice.of(&domain::TOS) & 0xfc),
        5 if has_ip || dice.one_in(4) => format!("mod_tp_src:{port}"),
        6 if has_ip || dice.one_in(4) => format!("mod_tp_dst:{port}"),
        _ => format!("mod_dl_dst:{}", mac(dice)),
    }
}

/// `set_field` of something that the kind of packet has.
fn set_any(dice: &mut Dice, place: &mut Place) -> String {
    let kind = place.kind;
    let mut choices = vec![
        format!("{}->eth_src", mac(dice)),
        format!("{}->eth_dst", mac(dice)),
        format!("{:#x}->reg{}", dice.of(&domain::REGISTERS), dice.below(4)),
        format!("{:#x}->metadata", dice.of(&domain::REGISTERS)),
        format!("{:#x}->tun_id", dice.of(&domain::REGISTERS)),
    ];
    if place.dialect == Dialect::Latest {
        choices.extend(masked(dice, kind));
    }
    if place.tagged || dice.one_in(30) {
        choices.push(format!("{}->vlan_vid", dice.of(&domain::VIDS) | 0x1000));
        choices.push(format!("{}->vlan_pcp", dice.of(&domain::PCPS)));
    }
    if kind.is_ipv4() {
        choices.push(format!("{}->ip_src", dice.of(&domain::IPV4)));
        choices.push(format!("{}->nw_dst", dice.of(&domain::IPV4)));
    }
    if kind.is_ipv6() {
        choices.push(format!("{}->ipv6_src", dice.of(&domain::IPV6)));
        choices.push(format!("{}->ipv6_dst", dice.of(&domain::IPV6)));
        choices.push(format!("{:#x}->ipv6_label", dice.of(&domain::LABELS)));
    }
    if kind.is_ipv4() || kind.is_ipv6() {
        choices.push(format!("{}->nw_ttl", dice.of(&domain::TTLS)));
        choices.push(format!("{}->ip_dscp", dice.of(&domain::TOS) >> 2));
        choices.push(format!("{}->nw_ecn", dice.of(&domain::TOS) & 3));
        choices.push(format!("{}->nw_tos", dice.of(&domain::TOS) & 0xfc));
    }
    let port = dice.of(&domain::L4);
    let end = dice.pick(&["src", "dst"]);
    match kind {
        Kind::Tcp | Kind::Tcp6 => choices.push(format!("{port}->tcp_{end}")),
        Kind::Udp | Kind::Udp6 => choices.push(format!("{port}->udp_{end}")),
        Kind::Icmp => {
            choices.push(format!("{}->icmp_type", dice.of(&domain::ICMP).0));
            choices.push(format!("{}->icmp_code", dice.of(&domain::ICMP).1));
        }
        Kind::Icmp6 => {
            choices.push(format!("{}->icmpv6_type", dice.of(&domain::ICMPV6).0));
            choices.push(format!("{}->icmpv6_code", dice.of(&domain::ICMPV6).1));
        }
        Kind::Arp => {
            choices.push(format!("{}->arp_op", dice.of(&domain::ARP_OPS)));
            choices.push(format!("{}->arp_spa", dice.of(&domain::IPV4)));
            choices.push(format!("{}->arp_tpa", dice.of(&domain::IPV4)));
            choices.push(format!("{}->arp_sha", mac(dice)));
            choices.push(format!("{}->arp_tha", mac(dice)));
        }
        Kind::NdSolicit | Kind::NdAdvert => {
            let layer = if kind == Kind::NdSolicit {
                "sll"
            } else {
                "tll"
            };
            choices.push(format!("{}->nd_target", dice.of(&domain::IPV6)));
            choices.push(format!("{}->nd_{layer}", mac(dice)));
        }
        _ => {}
    }
    // The packet's own fields are the later ones; they matter more.
    let at = dice.below(choices.len()).max(dice.below(choices.len()));
    format!("set_field:{}", choices[at])
}

/// Values and masks of parts of fields, as only [`Dialect::Latest`] keeps them.
fn masked(dice: &mut Dice, kind: Kind) -> Vec<String> {
    let mut choices = vec![
        format!(
            "01:00:00:00:00:{:02x}/ff:00:00:00:00:ff->eth_dst",
            dice.byte()
        ),
        format!(
            "00:00:00:00:{:02x}:00/00:00:00:00:ff:00->eth_src",
            dice.byte()
        ),
    ];
    let octet = dice.byte();
    if kind.is_ipv4() {
        choices.push(format!("10.{octet}.0.0/255.255.0.0->ip_dst"));
        choices.push(format!("0.0.0.{octet}/0.0.0.255->ip_src"));
    }
    if kind.is_ipv6() {
        choices.push(format!("2001:{octet:x}::/ffff:ffff::->ipv6_dst"));
        choices.push(format!("::{octet:x}/::ffff->ipv6_src"));
        choices.push(format!("{octet:#x}/0xff->ipv6_label"));
    }
    match kind {
        Kind::Tcp | Kind::Tcp6 => choices.push(format!("{octet}/0xff->tcp_dst")),
        Kind::Udp | Kind::Udp6 => choices.push(format!("{octet}/0xff->udp_src")),
        Kind::Arp => choices.push(format!("0.0.0.{octet}/0.0.0.255->arp_tpa")),
        Kind::NdSolicit | Kind::NdAdvert => {
            choices.push(format!("::{octet:x}/::ffff->nd_target"));
        }
        _ => {}
    }
    choices
}

/// Instructions, in the order that they must have.
fn instructions(dice: &mut Dice, place: &Place, actions: &mut Vec<String>) {
    if dice.one_in(8) {
        actions.push("clear_actions".into());
    }
    if dice.percent(60) {
        actions.push(format!("write_actions({})", action_set(dice, place)));
    }
    if dice.one_in(5) {
        let value = dice.of(&domain::REGISTERS);
        actions.push(match dice.one_in(2) {
            true => format!("write_metadata:{value:#x}"),
            false => format!("write_metadata:{value:#x}/0xff"),
        });
    }
    if dice.percent(40) && (place.table < TABLES || dice.one_in(10)) {
        let next = match dice.one_in(40) {
            true => dice.between(0, TABLES + 1),
            false => dice.between(place.table + 1, TABLES + 1),
        };
        actions.push(format!("goto_table:{next}"));
    }
}

/// What `write_actions` may hold.
fn action_set(dice: &mut Dice, place: &Place) -> String {
    let mut place = *place;
    let mut actions = Vec::new();
    for _ in 0..dice.between(0, 3) {
        actions.push(match dice.below(8) {
            0 => "pop_vlan".into(),
            1 => {
                place.tagged = true;
                format!("push_vlan:{}", tpid(dice))
            }
            2 if place.kind.is_ipv4() || place.kind.is_ipv6() => "dec_ttl".into(),
            3 if place.groups > 0 => format!("group:{}", dice.between(1, place.groups)),
            4 => register_write(dice, &place),
            5 => register_move(dice),
            _ => set_any(dice, &mut place),
        });
    }
    if dice.percent(80) || actions.is_empty() {
        actions.push(output(dice));
    }
    actions.join(",")
}
