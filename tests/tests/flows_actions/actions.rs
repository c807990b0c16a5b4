//! Every action: a frame in, exactly these bytes out of exactly these ports.

use std::net::{Ipv4Addr, Ipv6Addr};

use ringway_tests::frames::{
    Body, Frame, Payload, arp, icmp, icmp6, mac, neighbour, plain, tcp, tcp6, udp, udp6, v4, v6,
};
use ringway_tests::lab::{Failures, Lab, Sent};

/// Actions, a frame from vm1, and what comes out.
type Case = (&'static str, Frame, Vec<(&'static str, Frame)>);

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn ip6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

/// The frame comes out of vm2, so changed.
fn becomes(actions: &'static str, sent: Frame, got: Frame) -> Case {
    (actions, sent, vec![("vm2", got)])
}

fn outputs() -> Vec<Case> {
    let to = |ports: &[&'static str]| -> Vec<(&'static str, Frame)> {
        ports.iter().map(|port| (*port, plain())).collect()
    };
    vec![
        ("output:vm2", plain(), to(&["vm2"])),
        ("2", plain(), to(&["vm2"])),
        ("output:3", plain(), to(&["vm3"])),
        ("vm2,vm3,output:vm4", plain(), to(&["vm2", "vm3", "vm4"])),
        // A port may be named more than once.
        ("vm2,vm2", plain(), to(&["vm2", "vm2"])),
        ("drop", plain(), to(&[])),
        ("", plain(), to(&[])),
        // Back only if the rule says so by name.
        ("output:vm1", plain(), to(&[])),
        ("output:vm1,vm3", plain(), to(&["vm3"])),
        ("in_port", plain(), to(&["vm1"])),
        ("output:in_port,vm2", plain(), to(&["vm1", "vm2"])),
        ("flood", plain(), to(&["vm2", "vm3", "vm4", "vm5"])),
        ("all", plain(), to(&["vm2", "vm3", "vm4", "vm5"])),
        (
            "flood,in_port",
            plain(),
            to(&["vm1", "vm2", "vm3", "vm4", "vm5"]),
        ),
        // There is neither an interface of the bridge's own nor a port 999.
        ("local", plain(), to(&[])),
        ("999,vm2", plain(), to(&["vm2"])),
        ("note:00.01.02.ff,vm2", plain(), to(&["vm2"])),
        ("set_field:3->reg1,output:reg1[]", plain(), to(&["vm3"])),
        (
            "load:0x30000->NXM_NX_REG2[],output:NXM_NX_REG2[16..31]",
            plain(),
            to(&["vm3"]),
        ),
        ("vm2,exit,vm3", plain(), to(&["vm2"])),
        // MPLS goes as it is.
        (
            "vm2",
            Frame::new(Body::Other(0x8847, vec![0, 1, 1, 64, 0x45, 0, 0, 20])),
            vec![(
                "vm2",
                Frame::new(Body::Other(0x8847, vec![0, 1, 1, 64, 0x45, 0, 0, 20])),
            )],
        ),
        (
            "mod_nw_dst:1.2.3.4,mod_dl_dst:02:00:00:00:00:09,vm2",
            plain(),
            vec![("vm2", plain().with(|f| f.dst = mac(9)))],
        ),
    ]
}

fn several_outputs() -> Vec<Case> {
    let ttl = |ttl| udp().v4(|p| p.ttl = ttl);
    let to = |last| udp().v4(|p| p.dst = ip(last));
    vec![
        // Each gets what it was when it was sent.
        (
            "vm2,mod_nw_dst:10.0.0.7,vm3,mod_nw_dst:10.0.0.8,vm4,in_port",
            udp(),
            vec![
                ("vm2", udp()),
                ("vm3", to(7)),
                ("vm4", to(8)),
                ("vm1", to(8)),
            ],
        ),
        (
            "vm2,dec_ttl,vm2,dec_ttl,vm2",
            udp(),
            vec![("vm2", ttl(64)), ("vm2", ttl(63)), ("vm2", ttl(62))],
        ),
        (
            "push_vlan:0x8100,set_field:4101->vlan_vid,vm2,pop_vlan,vm3,mod_vlan_vid:6,vm4",
            udp(),
            vec![
                ("vm2", udp().tagged(0x8100, 5)),
                ("vm3", udp()),
                ("vm4", udp().tagged(0x8100, 6)),
            ],
        ),
        // What is written and undone before an output is no change.
        (
            "mod_nw_ttl:9,mod_nw_ttl:64,vm2",
            udp(),
            vec![("vm2", udp())],
        ),
        (
            "mod_dl_src:02:00:00:00:00:0a,flood,mod_dl_src:02:00:00:00:00:0b,vm2",
            plain(),
            vec![
                ("vm2", plain().with(|f| f.src = mac(10))),
                ("vm3", plain().with(|f| f.src = mac(10))),
                ("vm4", plain().with(|f| f.src = mac(10))),
                ("vm5", plain().with(|f| f.src = mac(10))),
                ("vm2", plain().with(|f| f.src = mac(11))),
            ],
        ),
    ]
}

fn vlans() -> Vec<Case> {
    let tagged = |tci| udp().tagged(0x8100, tci);
    // A service tag around a customer's.
    let double = || udp().tagged(0x8100, 7).tagged(0x88a8, 0x6064);
    vec![
        becomes("push_vlan:0x8100,vm2", udp(), tagged(0)),
        becomes("push_vlan:0x88a8,vm2", udp(), udp().tagged(0x88a8, 0)),
        becomes(
            "push_vlan:0x8100,set_field:4196->vlan_vid,vm2",
            udp(),
            tagged(100),
        ),
        becomes(
            "push_vlan:0x88a8,set_field:4196->vlan_vid,set_field:3->vlan_pcp,vm2",
            tagged(7),
            double(),
        ),
        becomes(
            "push_vlan:0x8100,mod_vlan_vid:7,push_vlan:0x88a8,mod_vlan_vid:100,mod_vlan_pcp:3,vm2",
            udp(),
            double(),
        ),
        becomes("mod_vlan_vid:100,vm2", udp(), tagged(100)),
        becomes("mod_vlan_vid:100,vm2", tagged(0x6005), tagged(0x6064)),
        becomes("mod_vlan_pcp:3,vm2", udp(), tagged(0x6000)),
        becomes("mod_vlan_pcp:3,vm2", tagged(5), tagged(0x6005)),
        becomes("set_vlan_vid:9,vm2", tagged(5), tagged(9)),
        becomes("strip_vlan,vm2", tagged(5), udp()),
        becomes("pop_vlan,vm2", tagged(0xefff), udp()),
        becomes("strip_vlan,vm2", udp(), udp()),
        becomes("pop_vlan,vm2", double(), tagged(7)),
        becomes("pop_vlan,pop_vlan,vm2", double(), udp()),
        becomes(
            "mod_vlan_vid:9,vm2",
            double(),
            tagged(7).tagged(0x88a8, 0x6009),
        ),
        becomes("set_field:4105->vlan_vid,vm2", tagged(5), tagged(9)),
        becomes(
            "load:9->NXM_OF_VLAN_TCI[0..11],vm2",
            tagged(0x6005),
            tagged(0x6009),
        ),
        // An address within tags.
        becomes(
            "mod_nw_dst:10.0.0.9,mod_tp_dst:99,vm2",
            double(),
            udp()
                .v4(|p| {
                    p.dst = ip(9);
                    p.payload = Payload::Udp(1000, 99, b"a question".to_vec());
                })
                .tagged(0x8100, 7)
                .tagged(0x88a8, 0x6064),
        ),
    ]
}

fn ethernet() -> Vec<Case> {
    vec![
        becomes(
            "mod_dl_src:02:00:00:00:00:09,vm2",
            plain(),
            plain().with(|f| f.src = mac(9)),
        ),
        becomes(
            "mod_dl_dst:02:00:00:00:00:09,vm2",
            plain(),
            plain().with(|f| f.dst = mac(9)),
        ),
        becomes(
            "set_field:02:00:00:00:00:09->eth_src,vm2",
            plain(),
            plain().with(|f| f.src = mac(9)),
        ),
        becomes(
            "set_field:00:00:00:00:00:f0/00:00:00:00:00:f0->eth_dst,vm2",
            plain(),
            plain().with(|f| f.dst = mac(0xf2)),
        ),
        becomes(
            "load:0xabcd->NXM_OF_ETH_DST[0..15],vm2",
            plain(),
            plain().with(|f| f.dst = [2, 0, 0, 0, 0xab, 0xcd]),
        ),
        // Addresses change places.
        becomes(
            "move:NXM_OF_ETH_SRC[]->OXM_OF_PKT_REG0[0..47],move:NXM_OF_ETH_DST[]->NXM_OF_ETH_SRC[],\
             move:OXM_OF_PKT_REG0[0..47]->NXM_OF_ETH_DST[],vm2",
            plain(),
            plain().with(|f| (f.src, f.dst) = (mac(2), mac(1))),
        ),
    ]
}

fn ipv4() -> Vec<Case> {
    let src = |frame: Frame, last| frame.v4(|p| p.src = ip(last));
    let ports = |src, dst| tcp().payload(Payload::Tcp(src, dst, 2, b"some data".to_vec()));
    let unchecked = |src, dst| v4(Payload::UdpUnchecked(src, dst, vec![1, 2, 3]));
    let later = |last| {
        v4(Payload::Other(17, (0..40).collect())).v4(|p| {
            p.fragment = 0x0003;
            p.dst = ip(last);
        })
    };
    // The checksum in a first fragment covers bytes that are elsewhere: any
    // value changes by the same difference, so take that of the whole.
    let first = |last: u8| udp().v4(|p| (p.fragment, p.dst) = (0x2000, ip(last)));
    vec![
        becomes("mod_nw_src:10.0.0.9,vm2", tcp(), src(tcp(), 9)),
        becomes("mod_nw_src:10.0.0.9,vm2", udp(), src(udp(), 9)),
        becomes(
            "mod_nw_dst:10.0.0.9,vm2",
            icmp(),
            icmp().v4(|p| p.dst = ip(9)),
        ),
        becomes("set_field:10.0.0.9->ip_src,vm2", tcp(), src(tcp(), 9)),
        becomes(
            "set_field:192.168.0.0/255.255.0.0->nw_dst,vm2",
            udp(),
            udp().v4(|p| p.dst = Ipv4Addr::new(192, 168, 0, 2)),
        ),
        becomes("load:0x0a000009->NXM_OF_IP_SRC[],vm2", udp(), src(udp(), 9)),
        becomes(
            "move:NXM_OF_IP_SRC[0..7]->NXM_OF_IP_DST[8..15],vm2",
            udp(),
            udp().v4(|p| p.dst = Ipv4Addr::new(10, 0, 1, 2)),
        ),
        // NAT with all there is.
        becomes(
            "mod_nw_src:192.0.2.1,mod_nw_dst:198.51.100.1,mod_tp_src:40000,mod_tp_dst:8080,dec_ttl,vm2",
            tcp(),
            ports(40000, 8080).v4(|p| {
                (p.src, p.dst) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1));
                p.ttl = 63;
            }),
        ),
        becomes(
            "mod_nw_tos:184,vm2",
            udp().v4(|p| p.tos = 3),
            udp().v4(|p| p.tos = 0xbb),
        ),
        becomes(
            "set_field:46->ip_dscp,vm2",
            udp().v4(|p| p.tos = 1),
            udp().v4(|p| p.tos = 0xb9),
        ),
        becomes(
            "mod_nw_ecn:3,vm2",
            udp().v4(|p| p.tos = 0xb8),
            udp().v4(|p| p.tos = 0xbb),
        ),
        becomes("mod_nw_ttl:7,vm2", udp(), udp().v4(|p| p.ttl = 7)),
        becomes("set_field:7->nw_ttl,vm2", udp(), udp().v4(|p| p.ttl = 7)),
        becomes("dec_ttl,vm2", udp(), udp().v4(|p| p.ttl = 63)),
        becomes(
            "dec_ttl,vm2",
            udp().v4(|p| p.ttl = 2),
            udp().v4(|p| p.ttl = 1),
        ),
        ("dec_ttl,vm2", udp().v4(|p| p.ttl = 1), vec![]),
        // What was sent before is sent.
        (
            "vm3,dec_ttl,vm2",
            udp().v4(|p| p.ttl = 0),
            vec![("vm3", udp().v4(|p| p.ttl = 0))],
        ),
        becomes("mod_tp_src:7,vm2", tcp(), ports(7, 80)),
        becomes("set_field:7->tcp_dst,vm2", tcp(), ports(1000, 7)),
        becomes("mod_tp_dst:7,vm2", unchecked(1, 2), unchecked(1, 7)),
        becomes(
            "mod_nw_src:10.0.0.9,vm2",
            unchecked(1, 2),
            src(unchecked(1, 2), 9),
        ),
        // Options stay, and the transport's header is found behind them.
        becomes(
            "mod_nw_src:10.0.0.9,mod_tp_src:7,vm2",
            tcp().v4(|p| p.options = vec![7, 7, 4, 0, 0, 0, 0, 0]),
            ports(7, 80).v4(|p| {
                p.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
                p.src = ip(9);
            }),
        ),
        becomes("mod_nw_dst:10.0.0.9,mod_tp_dst:7,vm2", later(2), later(9)),
        becomes("mod_nw_dst:10.0.0.9,vm2", first(2), first(9)),
        // Padding behind the packet is not summed and stays.
        becomes(
            "mod_nw_src:10.0.0.9,vm2",
            tcp().with(|f| f.padding = 11),
            src(tcp(), 9).with(|f| f.padding = 11),
        ),
        // A large body stays where it is.
        becomes(
            "mod_nw_src:10.0.0.9,mod_tp_dst:7,push_vlan:0x8100,vm2",
            v4(Payload::Tcp(1, 2, 0x10, vec![0xc3; 1400])),
            v4(Payload::Tcp(1, 7, 0x10, vec![0xc3; 1400]))
                .v4(|p| p.src = ip(9))
                .tagged(0x8100, 0),
        ),
        becomes(
            "set_field:0->icmp_type,vm2",
            icmp(),
            icmp().payload(Payload::Icmp(0, 0, vec![0, 7, 0, 1, 0xaa, 0xbb])),
        ),
        becomes(
            "set_field:5->icmp_code,vm2",
            icmp(),
            icmp().payload(Payload::Icmp(8, 5, vec![0, 7, 0, 1, 0xaa, 0xbb])),
        ),
        // To packets that have no such field nothing is done.
        becomes("mod_nw_src:10.0.0.9,vm2", arp(), arp()),
    ]
}

fn ipv6() -> Vec<Case> {
    let dst = |frame: Frame, last| frame.v6(|p| p.dst = ip6(last));
    let options = |frame: Frame| frame.v6(|p| p.extensions = vec![(0, vec![0, 1, 4, 0, 0, 0, 0])]);
    let later = |last| {
        v6(Payload::Other(17, (0..24).collect())).v6(|p| {
            p.extensions = vec![(44, vec![0, 0, 0x10, 0, 0, 0, 7])];
            p.dst = ip6(last);
        })
    };
    vec![
        becomes(
            "set_field:2001:db8::9->ipv6_dst,vm2",
            tcp6(),
            dst(tcp6(), 9),
        ),
        becomes(
            "set_field:2001:db8::9->ipv6_dst,vm2",
            udp6(),
            dst(udp6(), 9),
        ),
        becomes(
            "set_field:2001:db8::9->ipv6_dst,vm2",
            icmp6(),
            dst(icmp6(), 9),
        ),
        becomes(
            "set_field:2001:db8::9->ipv6_src,vm2",
            udp6(),
            udp6().v6(|p| p.src = ip6(9)),
        ),
        becomes("set_field:::9/::ffff->ipv6_dst,vm2", tcp6(), dst(tcp6(), 9)),
        becomes(
            "set_field:0x54321->ipv6_label,vm2",
            udp6(),
            udp6().v6(|p| p.label = 0x54321),
        ),
        becomes(
            "mod_nw_tos:184,vm2",
            udp6().v6(|p| p.class = 3),
            udp6().v6(|p| p.class = 0xbb),
        ),
        becomes(
            "set_field:1->nw_ecn,vm2",
            udp6(),
            udp6().v6(|p| p.class = 1),
        ),
        becomes("dec_ttl,vm2", udp6(), udp6().v6(|p| p.hops = 63)),
        ("dec_ttl,vm2", udp6().v6(|p| p.hops = 1), vec![]),
        becomes("mod_nw_ttl:9,vm2", udp6(), udp6().v6(|p| p.hops = 9)),
        becomes(
            "mod_tp_dst:7,vm2",
            udp6(),
            udp6().payload(Payload::Udp(1000, 7, b"a question".to_vec())),
        ),
        becomes(
            "set_field:7->tcp_src,vm2",
            tcp6(),
            tcp6().payload(Payload::Tcp(7, 80, 0x10, b"some data".to_vec())),
        ),
        becomes(
            "set_field:2001:db8::9->ipv6_dst,vm2",
            options(tcp6()),
            dst(options(tcp6()), 9),
        ),
        becomes("set_field:2001:db8::9->ipv6_dst,vm2", later(2), later(9)),
        becomes(
            "set_field:129->icmpv6_type,vm2",
            icmp6(),
            icmp6().payload(Payload::Icmp(129, 0, vec![0, 7, 0, 1, 0xaa, 0xbb])),
        ),
    ]
}

fn neighbours() -> Vec<Case> {
    vec![
        becomes("set_field:2->arp_op,vm2", arp(), arp().arp(|a| a.op = 2)),
        becomes(
            "set_field:10.0.0.9->arp_spa,vm2",
            arp(),
            arp().arp(|a| a.spa = ip(9)),
        ),
        becomes(
            "set_field:10.0.0.9->arp_tpa,vm2",
            arp(),
            arp().arp(|a| a.tpa = ip(9)),
        ),
        becomes(
            "set_field:02:00:00:00:00:09->arp_sha,vm2",
            arp(),
            arp().arp(|a| a.sha = mac(9)),
        ),
        becomes(
            "load:0x020000000009->NXM_NX_ARP_THA[],vm2",
            arp(),
            arp().arp(|a| a.tha = mac(9)),
        ),
        // An answer made from a question.
        becomes(
            "set_field:2->arp_op,move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],\
             move:NXM_OF_ARP_TPA[]->NXM_NX_REG0[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],\
             move:NXM_NX_REG0[]->NXM_OF_ARP_SPA[],set_field:02:00:00:00:00:02->arp_sha,\
             move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],mod_dl_src:02:00:00:00:00:02,vm2",
            arp(),
            arp()
                .arp(|a| {
                    (a.op, a.sha, a.spa) = (2, mac(2), ip(2));
                    (a.tha, a.tpa) = (mac(1), ip(1));
                })
                .with(|f| (f.dst, f.src) = (mac(1), mac(2))),
        ),
        becomes(
            "set_field:2001:db8::9->nd_target,vm2",
            neighbour(135, ip6(2), mac(1)),
            neighbour(135, ip6(9), mac(1)),
        ),
        becomes(
            "set_field:02:00:00:00:00:09->nd_sll,vm2",
            neighbour(135, ip6(2), mac(1)),
            neighbour(135, ip6(2), mac(9)),
        ),
        becomes(
            "set_field:02:00:00:00:00:09->nd_tll,vm2",
            neighbour(136, ip6(2), mac(1)),
            neighbour(136, ip6(2), mac(9)),
        ),
    ]
}

/// What a rule must ask for so that these actions are accepted.
fn prerequisite(frame: &Frame) -> &'static str {
    match &frame.body {
        Body::Other(..) => "",
        Body::Arp(arp) if arp.op == 1 => "arp,",
        Body::Arp(_) => "",
        Body::V4(packet) => match packet.payload {
            Payload::Tcp(..) => "tcp,",
            Payload::Icmp(..) => "icmp,",
            _ => "udp,",
        },
        Body::V6(packet) => match packet.payload {
            Payload::Tcp(..) => "tcp6,",
            Payload::Icmp(135, ..) => "icmp6,icmp_type=135,icmp_code=0,",
            Payload::Icmp(136, ..) => "icmp6,icmp_type=136,icmp_code=0,",
            Payload::Icmp(..) => "icmp6,",
            Payload::Udp(..) => "udp6,",
            _ => "ipv6,",
        },
    }
}

/// Each is done twice: once translated, once from the megaflow.
pub fn single_rules(lab: &mut Lab, failures: &mut Failures) {
    let all = [
        outputs(),
        several_outputs(),
        vlans(),
        ethernet(),
        ipv4(),
        ipv6(),
        neighbours(),
    ];
    for (actions, sent, got) in all.into_iter().flatten() {
        let asked = prerequisite(&sent);
        let tagged = match sent.tags.first() {
            Some(_) => "vlan_tci=0x1000/0x1000,",
            None => "",
        };
        let rule = format!("priority=10,in_port=vm1,{asked}{tagged}actions={actions}");
        if let Err(error) = lab.load(&rule) {
            failures.note(&rule, Err(error.to_string()));
            continue;
        }
        let got: Vec<(&str, Vec<u8>)> = got
            .iter()
            .map(|(port, frame)| (*port, frame.bytes()))
            .collect();
        for _ in 0..2 {
            failures.note(&rule, lab.expect("vm1", &Sent::from(&sent), &got));
        }
    }
}

/// Rules, a frame from vm1, and what comes out: the ways from table to table.
fn pipelines() -> Vec<Case> {
    let nat = |last| udp().v4(|p| p.dst = ip(last));
    vec![
        (
            "actions=goto_table:5
             table=5,actions=vm2",
            udp(),
            vec![("vm2", udp())],
        ),
        (
            "actions=resubmit(,5),vm3
             table=5,actions=vm2",
            udp(),
            vec![("vm2", udp()), ("vm3", udp())],
        ),
        // A resubmit looks for another port, and comes back.
        (
            "priority=1,in_port=vm1,actions=resubmit(vm4,5),resubmit:vm3,in_port
             in_port=vm3,actions=vm5
             table=5,in_port=vm4,actions=vm2
             table=5,in_port=vm1,actions=vm3",
            udp(),
            vec![("vm2", udp()), ("vm5", udp()), ("vm1", udp())],
        ),
        // Rewrites are seen by later tables, and stay.
        (
            "udp,actions=mod_nw_dst:10.0.0.9,resubmit(,1),vm3
             table=1,udp,nw_dst=10.0.0.2,actions=vm4
             table=1,udp,nw_dst=10.0.0.9,actions=vm2,mod_nw_dst:10.0.0.8",
            udp(),
            vec![("vm2", nat(9)), ("vm3", nat(8))],
        ),
        (
            "actions=set_field:2->reg0,resubmit(,1)
             table=1,reg0=2,actions=move:NXM_NX_REG0[0..15]->NXM_NX_REG5[0..15],goto_table:2
             table=2,reg5=2,actions=output:NXM_NX_REG5[]",
            udp(),
            vec![("vm2", udp())],
        ),
        (
            "actions=write_metadata:0x1234,goto_table:1
             table=1,metadata=0x1200/0xff00,actions=vm2",
            udp(),
            vec![("vm2", udp())],
        ),
        // The action set is done last, in the order of the specification.
        (
            "udp,actions=write_actions(output:vm2,dec_ttl,push_vlan:0x8100),goto_table:1
             table=1,udp,actions=vm3",
            udp(),
            vec![
                ("vm3", udp()),
                ("vm2", udp().v4(|p| p.ttl = 63).tagged(0x8100, 0)),
            ],
        ),
        // A later output takes the place of an earlier one.
        (
            "actions=write_actions(output:vm2),goto_table:1
             table=1,actions=write_actions(output:vm3)",
            udp(),
            vec![("vm3", udp())],
        ),
        (
            "actions=write_actions(output:vm2),goto_table:1
             table=1,actions=clear_actions",
            udp(),
            vec![],
        ),
        (
            "actions=write_actions(output:vm2),goto_table:1
             table=1,actions=clear_actions,write_actions(output:vm4)",
            udp(),
            vec![("vm4", udp())],
        ),
        // Without a rule in the last table the action set is done all the
        // same, as Open vSwitch does it.
        (
            "actions=write_actions(output:vm2),goto_table:1",
            udp(),
            vec![("vm2", udp())],
        ),
        // The highest priority wins, in each table.
        (
            "priority=5,actions=vm2
             priority=6,udp,actions=vm3
             priority=7,udp,tp_dst=54,actions=vm4",
            udp(),
            vec![("vm3", udp())],
        ),
        // Round and round: no deeper than 64, and then nothing goes out.
        ("actions=vm2,resubmit(,0)", udp(), vec![]),
    ]
}

/// As [`single_rules`], with the rules written out.
pub fn tables(lab: &mut Lab, failures: &mut Failures) {
    for (rules, sent, got) in pipelines() {
        if let Err(error) = lab.load(rules) {
            failures.note(rules, Err(error.to_string()));
            continue;
        }
        let got: Vec<(&str, Vec<u8>)> = got
            .iter()
            .map(|(port, frame)| (*port, frame.bytes()))
            .collect();
        for _ in 0..2 {
            failures.note(rules, lab.expect("vm1", &Sent::from(&sent), &got));
        }
    }
}

/// NORMAL learns, by VLAN, from what it is given: also when that was rewritten.
pub fn normal(lab: &mut Lab, failures: &mut Failures) {
    lab.load(
        "priority=1,actions=normal\npriority=2,tcp,actions=mod_dl_src:02:00:00:00:00:aa,normal",
    )
    .unwrap();
    lab.daemon.ok(&["fdb", "flush", "br0"]).unwrap();
    let way = |frame: &Frame, from, to| frame.with(|f| (f.src, f.dst) = (mac(from), mac(to)));
    let everyone = |frame: &Frame, but: &str| -> Vec<(&'static str, Vec<u8>)> {
        let ports = ["vm1", "vm2", "vm3", "vm4", "vm5"].into_iter();
        ports
            .filter(|port| *port != but)
            .map(|port| (port, frame.bytes()))
            .collect()
    };
    let mut step = |case: &str, port: &str, sent: &Frame, got: &[(&str, Vec<u8>)]| {
        failures.note(case, lab.expect(port, &Sent::from(sent), got));
    };
    let there = way(&udp(), 0x11, 0x12);
    let back = way(&udp(), 0x12, 0x11);
    step(
        "an unknown station",
        "vm1",
        &there,
        &everyone(&there, "vm1"),
    );
    step("a known one", "vm2", &back, &[("vm1", back.bytes())]);
    step("both known", "vm1", &there, &[("vm2", there.bytes())]);
    let tagged = there.tagged(0x8100, 9);
    step("another VLAN", "vm1", &tagged, &everyone(&tagged, "vm1"));
    let home = way(&udp(), 0x13, 0x11);
    step("the port it came from", "vm1", &home, &[]);
    // A station moves.
    step("a move", "vm3", &there, &[("vm2", there.bytes())]);
    step("after the move", "vm2", &back, &[("vm3", back.bytes())]);
    // Rewritten before it was learned.
    let sent = way(&tcp(), 0x14, 0x12);
    let got = way(&tcp(), 0xaa, 0x12);
    step("rewritten", "vm4", &sent, &[("vm2", got.bytes())]);
    let reply = way(&udp(), 0x12, 0xaa);
    step(
        "the rewritten source",
        "vm2",
        &reply,
        &[("vm4", reply.bytes())],
    );
}

/// Drops are counted by what they are for.
pub fn drops_have_names(lab: &mut Lab, failures: &mut Failures) {
    let cases = [
        ("tcp,actions=vm2", "no_flow"),
        ("actions=drop", "flow_drop"),
        ("actions=output:vm1", "same_ingress"),
        ("actions=local", "no_destination"),
        ("ip,actions=mod_nw_ttl:1,dec_ttl,vm2", "ttl_expired"),
        ("actions=resubmit(,0)", "resubmit_limit"),
        (
            "group add group_id=1,type=ff,bucket=watch_port:99,actions=vm2\nactions=group:1",
            "no_live_bucket",
        ),
    ];
    for (rules, reason) in cases {
        let count = |lab: &Lab| -> u64 {
            let drops = lab.daemon.drops().unwrap().into_iter();
            drops
                .filter(|drop| drop.reason == reason)
                .map(|drop| drop.packets)
                .sum()
        };
        if let Err(error) = lab.load(rules) {
            failures.note(rules, Err(error.to_string()));
            continue;
        }
        let before = count(lab);
        for _ in 0..2 {
            failures.note(rules, lab.expect("vm1", &Sent::from(&udp()), &[]));
        }
        let counted = count(lab) - before;
        let outcome = match counted {
            2 => Ok(()),
            _ => Err(format!(
                "{counted} of 2 drops are counted as {reason}: {:?}",
                lab.daemon.drops()
            )),
        };
        failures.note(rules, outcome);
    }
}
