//! The same megaflows as ovs-vswitchd 3.1 with dummy ports had, from
//! `ovs-appctl dpctl/dump-flows`.

use super::*;
use crate::action::Reason;
use crate::program::DropCause;
use crate::text::NoNames;

struct Names;

impl PortNames for Names {
    fn number(&self, _: &str) -> Option<u16> {
        None
    }

    fn name(&self, number: u16) -> Option<&str> {
        (number == 3).then_some("p3")
    }
}

fn key(fields: &[(Field, u128)]) -> PacketKey {
    let mut flow = FlowKey::default();
    for (field, value) in fields {
        field.set(&mut flow, *value);
    }
    flow.packet()
}

/// Whole fields, and parts with masks.
fn mask(whole: &[Field], parts: &[(Field, u128)]) -> PacketKey {
    let mut flow = key(parts).to_flow();
    for field in whole {
        field.set(&mut flow, u128::MAX);
    }
    flow.packet()
}

fn set(field: Field, value: u128, mask: u128) -> impl Iterator<Item = DpAction> {
    let (words, value, mask) = field.spread(value, mask);
    (words.zip(value).zip(mask)).map(|((word, value), mask)| DpAction::Set {
        word: word as u8,
        value,
        mask,
    })
}

#[track_caller]
fn check(key: &PacketKey, mask: &PacketKey, steps: &[DpAction], expected: &str) {
    let counts = MegaflowCounts::default();
    let steps = steps.iter().copied();
    let printed = print_megaflow(&key.masked(mask), mask, counts, steps, &NoNames);
    assert_eq!(printed, expected);
}

#[test]
fn tcp_over_ipv4_with_masks() {
    use Field::*;
    let fields = [
        (InPort, 3),
        (EthType, 0x0800),
        (IpSrc, 0x0a01_0101),
        (IpProto, 6),
        (TcpDst, 80),
    ];
    check(
        &key(&fields),
        &mask(
            &[InPort, EthType, IpProto, IpFrag, TcpDst],
            &[(IpSrc, 0xff00_0000)],
        ),
        &[DpAction::Drop(DropCause::Rule)],
        "recirc_id(0),in_port(3),packet_type(ns=0,id=0),eth_type(0x0800),\
         ipv4(src=10.0.0.0/255.0.0.0,proto=6,frag=no),tcp(dst=80), \
         packets:0, bytes:0, used:never, actions:drop",
    );
    let fields = [
        (InPort, 4),
        (EthSrc, 1),
        (EthType, 0x0800),
        (IpProto, 6),
        (IpTos, 0x20),
        (IpTtl, 5),
        (TcpSrc, 16),
        (TcpFlags, 2),
    ];
    let parts = [(EthSrc, 0x0100_0000_0000), (IpTos, 0xfc), (TcpFlags, 0x12)];
    let mut steps: Vec<_> = set(TcpSrc, 5, u128::MAX).collect();
    steps.push(DpAction::Output(3));
    check(
        &key(&fields),
        &mask(&[InPort, EthType, IpProto, IpTtl, IpFrag, TcpSrc], &parts),
        &steps,
        "recirc_id(0),in_port(4),packet_type(ns=0,id=0),\
         eth(src=00:00:00:00:00:00/01:00:00:00:00:00),eth_type(0x0800),\
         ipv4(proto=6,tos=0x20/0xfc,ttl=5,frag=no),tcp(src=16),tcp_flags(+syn-ack), \
         packets:0, bytes:0, used:never, actions:set(tcp(src=5)),3",
    );
}

#[test]
fn addresses_and_ttl_are_set_together() {
    use Field::*;
    let fields = [
        (InPort, 2),
        (EthType, 0x0800),
        (IpSrc, 0x0101_0101),
        (IpProto, 6),
        (IpTtl, 64),
        (IpFrag, 1),
    ];
    let mut steps: Vec<_> = (set(IpSrc, 0x0102_0304, u128::MAX))
        .chain(set(IpTtl, 63, 0xff))
        .chain(set(IpTos, 0x14, 0xfc))
        .collect();
    steps.push(DpAction::Output(3));
    check(
        &key(&fields),
        &mask(&[InPort, EthType, IpSrc, IpProto, IpTtl, IpFrag], &[]),
        &steps,
        "recirc_id(0),in_port(2),packet_type(ns=0,id=0),eth_type(0x0800),\
         ipv4(src=1.1.1.1,proto=6,ttl=64,frag=first), packets:0, bytes:0, used:never, \
         actions:set(ipv4(src=1.2.3.4,tos=0x14/0xfc,ttl=63)),3",
    );
}

#[test]
fn tags_enclose_what_they_are_in_front_of() {
    use Field::*;
    let mut fields = key(&[
        (InPort, 4),
        (VlanTci, 0x7005),
        (EthType, 0x86dd),
        (Ipv6Src, 0xfe80 << 112 | 1),
        (IpProto, 17),
    ]);
    fields.0[5] |= 0x8100 << 48;
    let mut looked_at = mask(&[InPort, VlanTci, EthType, Ipv6Src, IpProto, IpFrag], &[]);
    looked_at.0[5] |= 0xffff << 48;
    let mut steps: Vec<_> = set(Ipv6Src, 1, u128::MAX).collect();
    steps.extend([DpAction::PopVlan, DpAction::Output(3)]);
    check(
        &fields,
        &looked_at,
        &steps,
        "recirc_id(0),in_port(4),packet_type(ns=0,id=0),eth_type(0x8100),vlan(vid=5,pcp=3),\
         encap(eth_type(0x86dd),ipv6(src=fe80::1,proto=17,frag=no)), \
         packets:0, bytes:0, used:never, actions:set(ipv6(src=::1)),pop_vlan,3",
    );
    // Whether there is a tag is all that was looked at.
    let present = mask(&[EthType], &[(VlanTci, 0x1000)]);
    let printed = print_megaflow_key(&fields.masked(&present), &present, &NoNames);
    let expected = "recirc_id(0),packet_type(ns=0,id=0),vlan(cfi=1),encap(eth_type(0x86dd))";
    assert_eq!(printed, expected);
    let untagged = key(&[(EthType, 0x86dd)]);
    let printed = print_megaflow_key(&untagged, &present, &NoNames);
    let expected = "recirc_id(0),packet_type(ns=0,id=0),vlan(cfi=0),eth_type(0x86dd)";
    assert_eq!(printed, expected);
}

#[test]
fn arp_and_neighbour_discovery() {
    use Field::*;
    let arp = key(&[(EthType, 0x0806), (ArpOp, 1), (ArpTpa, 0x0202_0202)]);
    let printed = print_megaflow_key(&arp, &mask(&[EthType, ArpOp, ArpTpa], &[]), &NoNames);
    let expected = "recirc_id(0),packet_type(ns=0,id=0),eth_type(0x0806),arp(tip=2.2.2.2,op=1)";
    assert_eq!(printed, expected);
    let nd = key(&[
        (EthType, 0x86dd),
        (IpProto, 58),
        (Icmpv6Type, 135),
        (NdTarget, 0xfe80 << 112 | 5),
    ]);
    let looked_at = mask(&[EthType, IpProto, Icmpv6Type, Icmpv6Code, NdTarget], &[]);
    let printed = print_megaflow_key(&nd, &looked_at, &NoNames);
    let expected = "recirc_id(0),packet_type(ns=0,id=0),eth_type(0x86dd),ipv6(proto=58),\
                    icmpv6(type=135,code=0),nd(target=fe80::5)";
    assert_eq!(printed, expected);
    let steps = set(NdSll, 9, u128::MAX).chain([DpAction::Flood]);
    assert_eq!(
        print_steps(steps, &nd, &NoNames),
        "set(nd(sll=00:00:00:00:00:09)),flood"
    );
}

#[test]
fn every_kind_of_step() {
    let steps = [
        DpAction::Meter(4),
        DpAction::PushVlan {
            tpid: 0x8100,
            tci: 0x1005,
        },
        DpAction::PushVlan {
            tpid: 0x88a8,
            tci: 0x7007,
        },
        DpAction::Set {
            word: 1,
            value: 0x0000_0000_0002_0006,
            mask: 0xffff_ffff_ffff_0fff,
        },
        DpAction::Normal,
        DpAction::Controller {
            reason: Reason::InvalidTtl,
            max_len: 128,
            id: 5,
            table: 3,
        },
        DpAction::Output(3),
        DpAction::Output(0xfffe),
    ];
    let printed = print_steps(steps.into_iter(), &PacketKey::default(), &Names);
    let expected = "meter(4),push_vlan(vid=5,pcp=0),push_vlan(tpid=0x88a8,vid=7,pcp=3),\
                    set(eth(dst=00:00:00:00:00:02)),set(vlan(vid=6)),normal,\
                    userspace(controller(reason=2,controller_id=5,max_len=128)),p3,65534";
    assert_eq!(printed, expected);
}

#[test]
fn counts() {
    let counts = MegaflowCounts {
        packets: 3,
        bytes: 180,
        idle_ms: Some(1_042),
    };
    let nothing = PacketKey::default();
    let steps = [DpAction::Output(2)].into_iter();
    let printed = print_megaflow(&nothing, &nothing, counts, steps, &NoNames);
    let expected = "recirc_id(0),packet_type(ns=0,id=0), \
                    packets:3, bytes:180, used:1.042s, actions:2";
    assert_eq!(printed, expected);
}
