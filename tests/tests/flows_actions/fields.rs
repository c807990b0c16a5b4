//! Every field that rules can ask for: a frame that has it, and the same frame
//! but for that field.

use std::net::{Ipv4Addr, Ipv6Addr};

use ringway_tests::frames::{
    Body, Frame, Payload, arp, icmp, icmp6, mac, neighbour, plain, tcp, tcp6, udp, udp6, v4, v6,
};
use ringway_tests::lab::{Failures, Lab, Sent};

/// A match, a frame that it means, and one that it does not.
type Case = (&'static str, Frame, Frame);

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn ip6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

fn tcp_flags(flags: u16) -> Frame {
    tcp().payload(Payload::Tcp(1000, 80, flags, vec![1, 2, 3]))
}

fn ports(frame: &Frame, src: u16, dst: u16) -> Frame {
    let v4 = matches!(&frame.body, Body::V4(packet) if matches!(packet.payload, Payload::Udp(..)));
    let v6 = matches!(&frame.body, Body::V6(packet) if matches!(packet.payload, Payload::Udp(..)));
    frame.payload(match v4 || v6 {
        true => Payload::Udp(src, dst, vec![9; 7]),
        false => Payload::Tcp(src, dst, 0x10, vec![9; 7]),
    })
}

fn ethernet() -> Vec<Case> {
    vec![
        (
            "dl_src=02:00:00:00:00:01",
            plain(),
            plain().with(|f| f.src = mac(9)),
        ),
        (
            "eth_dst=02:00:00:00:00:02",
            plain(),
            plain().with(|f| f.dst = mac(9)),
        ),
        (
            "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
            plain().with(|f| f.dst = [1, 0, 0x5e, 0, 0, 1]),
            plain(),
        ),
        (
            "dl_src=02:00:00:00:00:00/ff:ff:ff:ff:ff:f0",
            plain().with(|f| f.src = mac(15)),
            plain().with(|f| f.src = mac(16)),
        ),
        ("dl_type=0x88b5", plain(), tcp()),
        ("dl_type=0x800", tcp(), tcp6()),
        (
            "dl_type=0x05ff",
            Frame::new(Body::Other(46, vec![0xaa, 0xaa, 3, 1, 2, 3, 4, 5, 6, 7]))
                .with(|f| f.padding = 36),
            plain(),
        ),
        (
            "mpls",
            Frame::new(Body::Other(0x8847, vec![0, 1, 1, 64, 0x45, 0, 0, 20])),
            plain(),
        ),
        ("ip", tcp(), arp()),
        ("ipv6", tcp6(), tcp()),
        ("arp", arp(), tcp()),
        ("tcp", tcp(), udp()),
        ("udp", udp(), tcp()),
        ("icmp", icmp(), udp()),
        ("tcp6", tcp6(), udp6()),
        ("udp6", udp6(), tcp6()),
        ("icmp6", icmp6(), udp6()),
        ("sctp", v4(Payload::Other(132, vec![0; 12])), udp()),
    ]
}

fn vlans() -> Vec<Case> {
    let tagged = |tci| udp().tagged(0x8100, tci);
    let service = |tci| udp().tagged(0x8100, 7).tagged(0x88a8, tci);
    vec![
        ("dl_vlan=5", tagged(5), tagged(6)),
        ("dl_vlan=5", tagged(0xe005), udp()),
        ("vlan_vid=0x1005/0x1fff", tagged(5), udp()),
        ("vlan_vid=0x1000/0x1000", tagged(0), udp()),
        ("dl_vlan=0xffff", udp(), tagged(0)),
        ("vlan_tci=0", udp(), tagged(0)),
        ("dl_vlan=0,ip", tagged(0), udp()),
        ("dl_vlan_pcp=3", tagged(0x6005), tagged(0x8005)),
        ("vlan_pcp=0", tagged(5), udp()),
        ("vlan_tci=0x7005", tagged(0x6005), tagged(0x8005)),
        ("vlan_tci=0x1000/0x1000", tagged(99), udp()),
        ("vlan_tci=0x1004/0x1004", tagged(0x0fff), tagged(0x0ffb)),
        // The outer tag counts.
        ("dl_vlan=100", service(100), service(7)),
        (
            "dl_vlan=100,udp,tp_dst=53",
            service(100),
            ports(&service(100), 1000, 54),
        ),
    ]
}

fn ipv4() -> Vec<Case> {
    let tos = |tos| udp().v4(|p| p.tos = tos);
    let piece = |fragment| udp().v4(|p| p.fragment = fragment);
    // What is behind the IP header of a later fragment is no UDP header.
    let later = || v4(Payload::Other(17, vec![0x5a; 16])).v4(|p| p.fragment = 0x0002);
    vec![
        ("ip,nw_src=10.0.0.1", udp(), udp().v4(|p| p.src = ip(3))),
        ("ip,nw_dst=10.0.0.2", udp(), udp().v4(|p| p.dst = ip(3))),
        (
            "ip,nw_src=10.0.0.0/8",
            udp(),
            udp().v4(|p| p.src = Ipv4Addr::new(11, 0, 0, 1)),
        ),
        (
            "ip,ip_dst=10.0.0.0/255.255.255.252",
            udp(),
            udp().v4(|p| p.dst = ip(4)),
        ),
        // A mask that is no prefix.
        (
            "ip,nw_dst=0.0.0.2/0.0.0.3",
            udp(),
            udp().v4(|p| p.dst = ip(3)),
        ),
        ("ip,nw_proto=17", udp(), tcp()),
        (
            "ip,nw_proto=99",
            v4(Payload::Other(99, vec![1, 2, 3])),
            udp(),
        ),
        ("ip,nw_tos=184", tos(0xb8), tos(0xb4)),
        // The tos of a match has no ECN.
        ("ip,nw_tos=184", tos(0xbb), tos(0xb4)),
        ("ip,ip_dscp=46", tos(0xb9), tos(0xb1)),
        ("ip,ip_ecn=1", tos(0xb9), tos(0xba)),
        ("ip,nw_ecn=3", tos(3), tos(2)),
        ("ip,nw_ttl=64", udp(), udp().v4(|p| p.ttl = 63)),
        ("ip,nw_frag=no", udp(), piece(0x2000)),
        ("ip,nw_frag=yes", piece(0x2000), udp()),
        ("ip,nw_frag=yes", later(), udp()),
        ("ip,nw_frag=first", piece(0x2000), later()),
        ("ip,nw_frag=later", later(), piece(0x2000)),
        ("ip,nw_frag=not_later", piece(0x2000), later()),
        ("ip,nw_frag=not_later", udp(), later()),
        // "Don't fragment" makes no fragment.
        ("ip,nw_frag=no", piece(0x4000), later()),
        // Fragments have no ports, not even the first one (Open vSwitch's
        // `set-frags normal`).
        ("udp,nw_frag=first,tp_dst=0", piece(0x2000), udp()),
        ("udp,tp_dst=53", udp(), piece(0x2000)),
        // A later fragment has no ports, whatever its bytes.
        ("udp,tp_src=0x5a5a", ports(&udp(), 0x5a5a, 1), later()),
        ("udp,tp_src=0", later(), udp()),
        (
            "udp,tp_dst=53",
            udp().v4(|p| p.options = vec![1; 12]),
            ports(&udp(), 1, 2).v4(|p| p.options = vec![1; 12]),
        ),
    ]
}

fn ipv6() -> Vec<Case> {
    // Hop-by-hop options and destination options: eight bytes each.
    let options = || {
        vec![
            (0, vec![0, 1, 4, 0, 0, 0, 0]),
            (60, vec![0, 1, 4, 0, 0, 0, 0]),
        ]
    };
    // Offset in units of eight bytes above the flags; identification 7.
    let piece = |offset: u16, more: bool| {
        let word = (offset << 3 | u16::from(more)).to_be_bytes();
        vec![(44, vec![0, word[0], word[1], 0, 0, 0, 7])]
    };
    let first = move || udp6().v6(|p| p.extensions = piece(0, true));
    let later =
        move || v6(Payload::Other(17, vec![0x5a; 16])).v6(|p| p.extensions = piece(2, false));
    vec![
        (
            "ipv6,ipv6_src=2001:db8::1",
            udp6(),
            udp6().v6(|p| p.src = ip6(3)),
        ),
        (
            "ipv6,ipv6_dst=2001:db8::2",
            udp6(),
            udp6().v6(|p| p.dst = ip6(3)),
        ),
        (
            "ipv6,ipv6_src=2001:db8::/32",
            udp6(),
            udp6().v6(|p| p.src = Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 1)),
        ),
        (
            "ipv6,ipv6_dst=::2/::ffff",
            udp6(),
            udp6().v6(|p| p.dst = ip6(6)),
        ),
        (
            "ipv6,ipv6_label=0x12345",
            udp6().v6(|p| p.label = 0x12345),
            udp6(),
        ),
        (
            "ipv6,ipv6_label=0x5/0xf",
            udp6().v6(|p| p.label = 0xf0005),
            udp6().v6(|p| p.label = 4),
        ),
        ("ipv6,nw_proto=17", udp6(), tcp6()),
        ("ipv6,nw_tos=184", udp6().v6(|p| p.class = 0xb9), udp6()),
        (
            "ipv6,ip_ecn=1",
            udp6().v6(|p| p.class = 0xb9),
            udp6().v6(|p| p.class = 0xb8),
        ),
        ("ipv6,nw_ttl=64", udp6(), udp6().v6(|p| p.hops = 255)),
        ("ipv6,nw_frag=first", first(), udp6()),
        ("ipv6,nw_frag=later", later(), first()),
        ("udp6,nw_frag=first,tp_dst=0", first(), udp6()),
        ("udp6,tp_dst=53", udp6(), first()),
        // Open vSwitch looks no further in a later fragment.
        ("ipv6,nw_proto=44", later(), first()),
        // Behind extension headers.
        (
            "udp6,tp_dst=53",
            udp6().v6(|p| p.extensions = options()),
            ports(&udp6(), 1, 2).v6(|p| p.extensions = options()),
        ),
        (
            "ipv6,nw_proto=6",
            tcp6().v6(|p| p.extensions = options()),
            udp6().v6(|p| p.extensions = options()),
        ),
    ]
}

fn transport() -> Vec<Case> {
    vec![
        ("tcp,tp_src=1000", tcp(), ports(&tcp(), 1001, 80)),
        ("tcp,tcp_dst=80", tcp(), ports(&tcp(), 1000, 81)),
        ("udp,udp_src=1000", udp(), ports(&udp(), 1001, 53)),
        ("udp,tp_dst=53", udp(), ports(&udp(), 1000, 54)),
        ("tcp6,tcp_src=1000", tcp6(), ports(&tcp6(), 1001, 80)),
        ("udp6,udp_dst=53", udp6(), ports(&udp6(), 1000, 54)),
        (
            "tcp,tp_src=1000/0xfff8",
            ports(&tcp(), 1007, 80),
            ports(&tcp(), 1008, 80),
        ),
        ("udp,tp_dst=0x1/0x1", udp(), ports(&udp(), 1000, 54)),
        (
            "sctp,tp_dst=7",
            v4(Payload::Other(
                132,
                vec![0, 5, 0, 7, 0, 0, 0, 0, 1, 2, 3, 4],
            )),
            udp(),
        ),
        ("tcp,tcp_flags=0x2", tcp_flags(2), tcp_flags(0x12)),
        ("tcp,tcp_flags=+syn-ack", tcp_flags(0x42), tcp_flags(0x12)),
        (
            "tcp,tcp_flags=0x010/0x010",
            tcp_flags(0x18),
            tcp_flags(0x02),
        ),
        (
            "icmp,icmp_type=8",
            icmp(),
            icmp().payload(Payload::Icmp(0, 0, vec![0; 6])),
        ),
        (
            "icmp,icmp_type=3,icmp_code=1",
            icmp().payload(Payload::Icmp(3, 1, vec![0; 6])),
            icmp().payload(Payload::Icmp(3, 2, vec![0; 6])),
        ),
        (
            "icmp6,icmpv6_type=128",
            icmp6(),
            icmp6().payload(Payload::Icmp(129, 0, vec![0; 6])),
        ),
        (
            "icmp6,icmp_type=1,icmp_code=4",
            icmp6().payload(Payload::Icmp(1, 4, vec![0; 6])),
            icmp6().payload(Payload::Icmp(1, 3, vec![0; 6])),
        ),
    ]
}

fn neighbours() -> Vec<Case> {
    let wants = |target, lladdr| neighbour(135, target, lladdr);
    let tells = |target, lladdr| neighbour(136, target, lladdr);
    vec![
        ("arp,arp_op=1", arp(), arp().arp(|a| a.op = 2)),
        ("arp,arp_spa=10.0.0.1", arp(), arp().arp(|a| a.spa = ip(3))),
        (
            "arp,arp_tpa=10.0.0.0/30",
            arp(),
            arp().arp(|a| a.tpa = ip(4)),
        ),
        ("arp,nw_dst=10.0.0.2", arp(), arp().arp(|a| a.tpa = ip(4))),
        (
            "arp,arp_sha=02:00:00:00:00:01",
            arp(),
            arp().arp(|a| a.sha = mac(3)),
        ),
        (
            "arp,arp_tha=02:00:00:00:00:00/ff:ff:ff:00:00:00",
            arp().arp(|a| a.tha = mac(3)),
            arp(),
        ),
        (
            "icmp6,icmp_type=135,nd_target=2001:db8::7",
            wants(ip6(7), mac(1)),
            wants(ip6(8), mac(1)),
        ),
        (
            "icmp6,icmp_type=135,nd_sll=02:00:00:00:00:01",
            wants(ip6(7), mac(1)),
            wants(ip6(7), mac(2)),
        ),
        (
            "icmp6,icmp_type=136,nd_tll=02:00:00:00:00:01",
            tells(ip6(7), mac(1)),
            tells(ip6(7), mac(2)),
        ),
        (
            "icmp6,icmp_type=136,nd_target=2001:db8::/64",
            tells(ip6(7), mac(1)),
            tells(Ipv6Addr::LOCALHOST, mac(1)),
        ),
    ]
}

/// What a packet brings along: each pair is sent twice, so that the second
/// time a megaflow decides. A field that were left out of its mask would let
/// the miss go the hit's way.
pub fn packet_fields(lab: &mut Lab, failures: &mut Failures) {
    let all = [
        ethernet(),
        vlans(),
        ipv4(),
        ipv6(),
        transport(),
        neighbours(),
    ];
    for (text, hit, miss) in all.into_iter().flatten() {
        let rules = format!("priority=10,{text},actions=output:vm2\npriority=0,actions=output:vm3");
        lab.load(&rules)
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        for _ in 0..2 {
            for (frame, to) in [(&hit, "vm2"), (&miss, "vm3")] {
                let outcome = lab.expect("vm1", &Sent::from(frame), &[(to, frame.bytes())]);
                failures.note(text, outcome);
            }
        }
    }
}

/// What only a translation knows: a first table sets it, a second asks for it.
pub fn pipeline_fields(lab: &mut Lab, failures: &mut Failures) {
    let mut cases: Vec<(String, String, String)> = Vec::new();
    for register in 0..16 {
        let value = |n: u32| format!("set_field:{n:#x}->reg{register}");
        cases.push((
            value(0x1234_5678),
            value(7),
            format!("reg{register}=0x12345678"),
        ));
        let masked = format!("reg{register}=0x5600/0xff00");
        cases.push((value(0x1234_5678), value(0x1234_5778), masked));
    }
    let pair = |set: &str, other: &str, text: &str| (set.into(), other.into(), text.into());
    cases.extend([
        pair(
            "set_field:0x1122334455667788->metadata",
            "set_field:0x1122334455667789->metadata",
            "metadata=0x1122334455667788",
        ),
        pair(
            "write_metadata:0x0f00",
            "write_metadata:0x0e00",
            "metadata=0x0f00/0x0f00",
        ),
        pair("set_field:7->tun_id", "set_field:8->tun_id", "tun_id=7"),
        pair(
            "set_field:0x17->tun_id",
            "set_field:0x27->tun_id",
            "tun_id=0x10/0xf0",
        ),
        pair(
            "load:1->NXM_NX_REG0[31]",
            "load:1->NXM_NX_REG0[30]",
            "reg0=0x80000000",
        ),
        pair("set_field:1->xreg0", "set_field:2->xreg0", "reg1=1"),
    ]);
    for (set, other, text) in cases {
        let rules = format!(
            "priority=10,udp,actions={set},goto_table:1
             priority=10,tcp,actions={other},goto_table:1
             table=1,priority=10,{text},actions=output:vm2
             table=1,priority=0,actions=output:vm3"
        );
        lab.load(&rules)
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        for _ in 0..2 {
            for (frame, to) in [(udp(), "vm2"), (tcp(), "vm3")] {
                let outcome = lab.expect("vm1", &Sent::from(&frame), &[(to, frame.bytes())]);
                failures.note(&format!("{set} then {text}"), outcome);
            }
        }
    }
}

/// By name and by number, and LOCAL, which is no guest's.
pub fn in_port(lab: &mut Lab, failures: &mut Failures) {
    let number = lab.number("vm4");
    for text in ["in_port=vm4".to_owned(), format!("in_port={number}")] {
        lab.load(&format!(
            "priority=10,{text},actions=output:vm2
             priority=11,in_port=LOCAL,actions=drop
             priority=0,actions=output:vm3"
        ))
        .unwrap();
        for (port, to) in [
            ("vm4", "vm2"),
            ("vm1", "vm3"),
            ("vm4", "vm2"),
            ("vm1", "vm3"),
        ] {
            let outcome = lab.expect(port, &Sent::from(&udp()), &[(to, udp().bytes())]);
            failures.note(&text, outcome);
        }
    }
}
