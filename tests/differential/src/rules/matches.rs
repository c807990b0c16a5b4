//! Random matches.

use crate::dice::Dice;
use crate::domain::{self, mac};

/// What kind of packet a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whatever.
    Any,
    /// ARP.
    Arp,
    /// IPv4, nothing said of its payload.
    Ip,
    /// TCP over IPv4.
    Tcp,
    /// UDP over IPv4.
    Udp,
    /// SCTP over IPv4.
    Sctp,
    /// ICMP.
    Icmp,
    /// IPv6, nothing said of its payload.
    Ipv6,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv6.
    Udp6,
    /// ICMPv6.
    Icmp6,
    /// Neighbour solicitation.
    NdSolicit,
    /// Neighbour advertisement.
    NdAdvert,
    /// Another ethertype.
    Other,
}

use Kind::*;

const KINDS: [Kind; 19] = [
    Any, Any, Any, Any, Arp, Ip, Ip, Tcp, Tcp, Udp, Sctp, Icmp, Ipv6, Ipv6, Tcp6, Udp6, Icmp6,
    NdSolicit, NdAdvert,
];

impl Kind {
    /// IPv4 of any kind.
    pub fn is_ipv4(self) -> bool {
        matches!(self, Ip | Tcp | Udp | Sctp | Icmp)
    }

    /// IPv6 of any kind.
    pub fn is_ipv6(self) -> bool {
        matches!(self, Ipv6 | Tcp6 | Udp6 | Icmp6 | NdSolicit | NdAdvert)
    }

    /// The fields that say it.
    fn text(self, dice: &mut Dice) -> String {
        match self {
            Any => String::new(),
            Arp => dice.pick(&["arp", "dl_type=0x0806", "rarp"]).into(),
            Ip => dice.pick(&["ip", "dl_type=0x800", "eth_type=2048"]).into(),
            Tcp => dice
                .pick(&["tcp", "ip,nw_proto=6", "dl_type=0x0800,ip_proto=6"])
                .into(),
            Udp => dice.pick(&["udp", "ip,nw_proto=17"]).into(),
            Sctp => "sctp".into(),
            Icmp => dice.pick(&["icmp", "ip,nw_proto=1"]).into(),
            Ipv6 => dice.pick(&["ipv6", "dl_type=0x86dd"]).into(),
            Tcp6 => dice.pick(&["tcp6", "ipv6,nw_proto=6"]).into(),
            Udp6 => "udp6".into(),
            Icmp6 => dice.pick(&["icmp6", "ipv6,nw_proto=58"]).into(),
            NdSolicit => "icmp6,icmp_type=135,icmp_code=0".into(),
            NdAdvert => "icmp6,icmpv6_type=136,icmpv6_code=0".into(),
            Other => format!(
                "dl_type={:#06x}",
                dice.of(&[0x1234, 0x8847, 0x88cc, 0x05ff])
            ),
        }
    }
}

/// A random match for a rule in a table: its kind, whether it asks for a tag,
/// and its fields.
pub fn random(dice: &mut Dice, table: usize) -> (Kind, bool, Vec<String>) {
    let kind = if dice.one_in(20) {
        Other
    } else {
        dice.of(&KINDS)
    };
    let mut fields = Vec::new();
    let mut tagged = false;
    if dice.percent(25) {
        fields.push(format!("in_port={}", port(dice)));
    }
    if dice.percent(12) {
        fields.push(masked_mac(dice, &["dl_src", "eth_src"]));
    }
    if dice.percent(12) {
        fields.push(masked_mac(dice, &["dl_dst", "eth_dst"]));
    }
    if dice.percent(25) {
        let field = vlan(dice);
        tagged = !matches!(
            field.as_str(),
            "dl_vlan=0xffff" | "vlan_tci=0" | "vlan_vid=0"
        ) && !field.starts_with("vlan_tci=0/");
        fields.push(field);
    }
    let own = kind.text(dice);
    if !own.is_empty() {
        fields.push(own);
    }
    if dice.percent(60) {
        of_kind(dice, kind, &mut fields);
    }
    if (table > 0 && dice.percent(50)) || dice.one_in(25) {
        fields.push(of_pipeline(dice));
    }
    if dice.one_in(40) {
        // Whatever the kind is: prerequisites are to be judged alike.
        let other = dice.of(&KINDS);
        of_kind(dice, other, &mut fields);
    }
    (kind, tagged, fields)
}

fn port(dice: &mut Dice) -> String {
    match dice.below(12) {
        0 => "LOCAL".into(),
        1 => "65534".into(),
        2 => "77".into(),
        _ => dice.between(1, usize::from(domain::PORTS)).to_string(),
    }
}

fn masked_mac(dice: &mut Dice, names: &[&str]) -> String {
    let name = dice.pick(names);
    let value = mac(dice);
    match dice.below(8) {
        0 => format!("{name}=01:00:00:00:00:00/01:00:00:00:00:00"),
        1 => format!("{name}=00:00:00:00:00:00/01:00:00:00:00:00"),
        2 => format!("{name}={value}/ff:ff:ff:ff:ff:00"),
        3 => format!("{name}={value}/00:00:00:00:ff:0f"),
        _ => format!("{name}={value}"),
    }
}

fn vlan(dice: &mut Dice) -> String {
    let vid = dice.of(&domain::VIDS);
    let pcp = dice.of(&domain::PCPS);
    match dice.below(14) {
        0 => "dl_vlan=0xffff".into(),
        1 => "vlan_tci=0".into(),
        2 => "vlan_tci=0/0x1000".into(),
        3 => "vlan_tci=0x1000/0x1000".into(),
        4 => format!("vlan_tci={:#06x}/0x1fff", vid | 0x1000),
        5 => format!("vlan_tci={:#06x}", pcp << 13 | vid | 0x1000),
        6 => format!("dl_vlan_pcp={pcp}"),
        7 => format!("dl_vlan={vid},dl_vlan_pcp={pcp}"),
        8 => format!("vlan_vid={:#06x}/0x1fff", vid | 0x1000),
        9 => "vlan_vid=0x1000/0x1000".into(),
        10 => format!("vlan_vid={}", vid | 0x1000),
        _ => format!("dl_vlan={vid}"),
    }
}

fn of_pipeline(dice: &mut Dice) -> String {
    let value = dice.of(&domain::REGISTERS);
    match dice.below(12) {
        0 => format!("metadata={value:#x}"),
        1 => format!("metadata={value:#x}/0xff"),
        2 => format!("tun_id={value:#x}"),
        3 => format!("xreg{}={value:#x}", dice.below(3)),
        4 => format!("xreg{}={value:#x}/0xffff0000ffff", dice.below(3)),
        5 | 6 => format!(
            "reg{}={value:#x}/{:#x}",
            dice.below(4),
            dice.of(&[0xff, 0xffff, 0x3])
        ),
        7 => format!("reg{}={value:#x}", dice.below(16)),
        _ => format!("reg{}={value:#x}", dice.below(4)),
    }
}

fn of_kind(dice: &mut Dice, kind: Kind, fields: &mut Vec<String>) {
    let count = dice.between(1, 2);
    for _ in 0..count {
        let field = match kind {
            Any => continue,
            Other => continue,
            Arp => arp(dice),
            _ if kind.is_ipv4() && dice.percent(45) => ipv4(dice),
            _ if kind.is_ipv6() && dice.percent(45) => ipv6(dice),
            Ip | Ipv6 => ip(dice),
            _ if dice.percent(15) => ip(dice),
            Tcp | Tcp6 if dice.percent(30) => tcp_flags(dice),
            Tcp | Tcp6 => l4(dice, "tcp"),
            Udp | Udp6 => l4(dice, "udp"),
            Sctp => l4(dice, "sctp"),
            Icmp | Icmp6 => icmp(dice, kind),
            NdSolicit | NdAdvert => nd(dice, kind),
        };
        // Said twice is an error of its own; rarely, to see it judged alike.
        let name = |field: &str| field.split('=').next().unwrap_or_default().to_owned();
        if !fields.iter().any(|old| name(old) == name(&field)) || dice.one_in(50) {
            fields.push(field);
        }
    }
}

fn ipv4_value(dice: &mut Dice) -> String {
    let value = dice.of(&domain::IPV4);
    match dice.below(9) {
        0 => format!("{value}/24"),
        1 => format!("{value}/31"),
        2 => format!("{value}/8"),
        3 => format!("{value}/255.0.0.255"),
        4 => format!("{value}/0"),
        _ => value.to_string(),
    }
}

fn ipv6_value(dice: &mut Dice) -> String {
    let value = dice.of(&domain::IPV6);
    match dice.below(8) {
        0 => format!("{value}/64"),
        1 => format!("{value}/127"),
        2 => format!("{value}/ffff::ffff"),
        3 => format!("{value}/16"),
        _ => value.to_string(),
    }
}

fn arp(dice: &mut Dice) -> String {
    match dice.below(6) {
        0 => format!("arp_op={}", dice.of(&domain::ARP_OPS)),
        1 => format!("arp_spa={}", ipv4_value(dice)),
        2 => format!("arp_tpa={}", ipv4_value(dice)),
        3 => masked_mac(dice, &["arp_sha"]),
        4 => masked_mac(dice, &["arp_tha"]),
        _ => format!("{}={}", dice.pick(&["nw_src", "nw_dst"]), ipv4_value(dice)),
    }
}

fn ipv4(dice: &mut Dice) -> String {
    let name = dice.pick(&["nw_src", "nw_dst", "ip_src", "ip_dst"]);
    format!("{name}={}", ipv4_value(dice))
}

fn ipv6(dice: &mut Dice) -> String {
    match dice.below(5) {
        0 => format!("ipv6_label={:#x}", dice.of(&domain::LABELS)),
        1 => format!("ipv6_label={:#x}/0xff", dice.of(&domain::LABELS)),
        _ => {
            let name = dice.pick(&["ipv6_src", "ipv6_dst"]);
            format!("{name}={}", ipv6_value(dice))
        }
    }
}

fn ip(dice: &mut Dice) -> String {
    let tos = dice.of(&domain::TOS);
    match dice.below(8) {
        0 => format!("nw_tos={}", tos & 0xfc),
        1 => format!("ip_dscp={}", tos >> 2),
        2 => format!("{}={}", dice.pick(&["nw_ecn", "ip_ecn"]), tos & 3),
        3 | 4 => format!("nw_ttl={}", dice.of(&domain::TTLS)),
        5 => format!("nw_proto={}", dice.of(&[0, 1, 6, 17, 58, 99, 255])),
        _ => {
            let frags = ["no", "yes", "first", "later", "not_later"];
            format!(
                "{}={}",
                dice.pick(&["nw_frag", "ip_frag"]),
                dice.pick(&frags)
            )
        }
    }
}

fn l4(dice: &mut Dice, protocol: &str) -> String {
    let end = dice.pick(&["src", "dst"]);
    let name = match dice.one_in(2) {
        true => format!("{protocol}_{end}"),
        false => format!("tp_{end}"),
    };
    let value = dice.of(&domain::L4);
    match dice.below(6) {
        0 => format!("{name}={value:#x}/0xfff0"),
        1 => format!("{name}={value:#x}/0x1"),
        _ => format!("{name}={value}"),
    }
}

fn tcp_flags(dice: &mut Dice) -> String {
    let flags = dice.of(&domain::TCP_FLAGS);
    match dice.below(3) {
        0 => format!("tcp_flags={flags:#x}/0x017"),
        1 => format!(
            "tcp_flags={}",
            dice.pick(&["+syn-ack", "+ack", "-fin-rst", "+syn+ack"])
        ),
        _ => format!("tcp_flags={flags:#x}"),
    }
}

fn icmp(dice: &mut Dice, kind: Kind) -> String {
    let ((of_type, code), prefix) = match kind {
        Icmp => (dice.of(&domain::ICMP), "icmp"),
        _ => (dice.of(&domain::ICMPV6), dice.pick(&["icmp", "icmpv6"])),
    };
    match dice.one_in(3) {
        true => format!("{prefix}_code={code}"),
        false => format!("{prefix}_type={of_type}"),
    }
}

fn nd(dice: &mut Dice, kind: Kind) -> String {
    match dice.one_in(2) {
        true => format!("nd_target={}", ipv6_value(dice)),
        false if kind == NdSolicit => masked_mac(dice, &["nd_sll"]),
        false => masked_mac(dice, &["nd_tll"]),
    }
}
