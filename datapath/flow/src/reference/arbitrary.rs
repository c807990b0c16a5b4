//! Strategies: rules, groups and frames over so few values that they meet.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::action::{Action, Bucket, Controller, GroupSpec, GroupType};
use crate::compose::arbitrary::packet_key_of_few;
use crate::compose::compose_with_payload;
use crate::field::{Field, Prereq, Subfield};
use crate::key::PacketKey;
use crate::matching::Match;
use crate::rule::FlowSpec;

/// Tables that have rules; actions lead to one more, which has none.
pub const TABLES: u8 = 4;
/// Groups, from 1 on; buckets name one more, which is not there.
pub const GROUPS: u32 = 3;
/// The one meter.
pub const METER: u32 = 1;
/// Ports that actions send to, and that packets come from.
pub const PORTS: [u16; 5] = [1, 2, 0x100, 0x101, 0xfffe];

/// A bridge's rules and groups.
#[derive(Clone, Debug)]
pub struct Rules {
    /// No two in a table have the same priority.
    pub rules: Vec<FlowSpec>,
    /// Buckets lead only to groups with greater numbers.
    pub groups: Vec<GroupSpec>,
}

/// Rules of up to 24 for four tables, and three groups.
pub fn rules() -> impl Strategy<Value = Rules> {
    let meter = proptest::option::weighted(0.05, Just(Action::Meter(METER)));
    let list = (meter, vec(action(), 0..6))
        .prop_map(|(meter, actions)| meter.into_iter().chain(actions).collect::<Vec<_>>());
    let rule = (0..TABLES, matching(), list, rest_of_rule());
    let groups = (1..=GROUPS).map(group).collect::<Vec<_>>();
    (vec(rule, 1..24), groups).prop_map(|(rules, groups)| {
        let rules = (rules.into_iter().enumerate())
            .map(|(i, (table, matching, mut actions, rest))| {
                actions.extend(rest);
                for action in &mut actions {
                    make_possible(action, table);
                }
                FlowSpec {
                    table: Some(table),
                    priority: i as u16 + 1,
                    matching,
                    actions,
                    ..FlowSpec::default()
                }
            })
            // Most packets should meet something first of all.
            .chain([FlowSpec {
                table: Some(0),
                priority: 0,
                actions: vec![Action::Resubmit {
                    port: None,
                    table: Some(1),
                }],
                ..FlowSpec::default()
            }])
            .collect();
        Rules { rules, groups }
    })
}

/// Rules lead forward, and to groups that are there.
fn make_possible(action: &mut Action, table: u8) {
    match action {
        Action::GotoTable(to) => *to = (table + *to).min(TABLES),
        Action::Group(id) => *id = *id % GROUPS + 1,
        Action::WriteActions(actions) => {
            for action in actions {
                make_possible(action, table);
            }
        }
        _ => {}
    }
}

/// Instructions, which come last.
fn rest_of_rule() -> impl Strategy<Value = Vec<Action>> {
    let write = vec(action(), 1..4).prop_map(Action::WriteActions);
    let write = proptest::option::weighted(0.2, write);
    let clear = proptest::option::weighted(0.05, Just(Action::ClearActions));
    let metadata = (few(), few()).prop_map(|(value, mask)| Action::WriteMetadata {
        value: value as u64 & mask as u64,
        mask: mask as u64,
    });
    let metadata = proptest::option::weighted(0.1, metadata);
    let goto = proptest::option::weighted(0.3, (1..=TABLES).prop_map(Action::GotoTable));
    (clear, write, metadata, goto).prop_map(|(clear, write, metadata, goto)| {
        [clear, write, metadata, goto]
            .into_iter()
            .flatten()
            .collect()
    })
}

/// A value whose bytes are 0 or 1.
fn few() -> impl Strategy<Value = u128> {
    any::<u128>().prop_map(|value| value & (u128::MAX / 255))
}

/// Nothing, or up to three fields, with what they need.
pub fn matching() -> impl Strategy<Value = Match> {
    const FIELDS: &[Field] = &[
        Field::InPort,
        Field::InPort,
        Field::VlanTci,
        Field::VlanVid,
        Field::VlanPcp,
        Field::EthSrc,
        Field::EthDst,
        Field::EthType,
        Field::IpSrc,
        Field::IpDst,
        Field::Ipv6Src,
        Field::Ipv6Dst,
        Field::Ipv6Label,
        Field::IpProto,
        Field::IpDscp,
        Field::IpEcn,
        Field::IpTtl,
        Field::IpFrag,
        Field::ArpOp,
        Field::ArpSpa,
        Field::ArpTha,
        Field::TcpSrc,
        Field::TcpDst,
        Field::TcpFlags,
        Field::UdpSrc,
        Field::UdpDst,
        Field::SctpDst,
        Field::IcmpType,
        Field::Icmpv6Type,
        Field::NdTarget,
        Field::NdSll,
        Field::NdTll,
        Field::Metadata,
        Field::Reg0,
        Field::Xreg0,
        Field::TunId,
    ];
    let field = (select(FIELDS), few(), few(), any::<bool>());
    vec(field, 0..3).prop_map(|fields| {
        let mut matching = Match::default();
        for (field, value, mask, whole) in fields {
            let mask = if whole || field.info().maskable == crate::field::Maskable::Never {
                field.ones()
            } else {
                mask & field.ones()
            };
            let value = match field {
                Field::EthType => [0x0800, 0x86dd][value as usize & 1],
                Field::IpProto => [6, 17][value as usize & 1],
                Field::IpFrag => [0, 1, 3, 0][value as usize & 1],
                _ => value,
            };
            require(&mut matching, field.info().prereq);
            matching.masked(field, value, mask);
        }
        matching
    })
}

/// What a field needs: so that a match with it is one that text could say.
fn require(matching: &mut Match, prereq: Prereq) {
    let mut kind = |kind| {
        matching.exact(Field::EthType, kind);
    };
    match prereq {
        Prereq::None => {}
        Prereq::Vlan => {
            matching.masked(Field::VlanTci, 0x1000, 0x1000);
        }
        Prereq::Ipv4 => kind(0x0800),
        Prereq::Ipv6 => kind(0x86dd),
        Prereq::Arp => kind(0x0806),
        Prereq::Ip => kind(0x0800),
        Prereq::Tcp | Prereq::Udp | Prereq::Sctp | Prereq::Icmp => {
            kind(0x0800);
            let proto = match prereq {
                Prereq::Tcp => 6,
                Prereq::Udp => 17,
                Prereq::Sctp => 132,
                _ => 1,
            };
            matching.exact(Field::IpProto, proto);
        }
        Prereq::Icmpv6 | Prereq::Nd | Prereq::NdSolicit | Prereq::NdAdvert => {
            kind(0x86dd);
            matching.exact(Field::IpProto, 58);
            if prereq != Prereq::Icmpv6 {
                let kind = if prereq == Prereq::NdAdvert { 136 } else { 135 };
                matching.exact(Field::Icmpv6Type, kind);
                matching.exact(Field::Icmpv6Code, 0);
            }
        }
    }
}

/// An action of a list, of an action set, or of a bucket.
pub fn action() -> impl Strategy<Value = Action> {
    let port = || select(&PORTS[..]);
    let from_register = (0..2u8).prop_map(|byte| Subfield {
        field: Field::Reg0,
        offset: 8 * byte,
        width: 16,
    });
    let controller = (0..2u16, 0..2u16).prop_map(|(id, more)| {
        Action::Controller(Controller {
            id,
            max_len: 100 + more,
            ..Controller::default()
        })
    });
    let resubmit = (
        proptest::option::weighted(0.2, port()),
        proptest::option::weighted(0.9, 0..=TABLES),
    );
    prop_oneof![
        12 => port().prop_map(Action::Output),
        1 => from_register.prop_map(Action::OutputField),
        2 => Just(Action::InPort),
        2 => Just(Action::Normal),
        1 => Just(Action::Flood),
        1 => Just(Action::All),
        1 => controller,
        4 => select(&[0x8100, 0x88a8][..]).prop_map(Action::PushVlan),
        5 => Just(Action::PopVlan),
        2 => few().prop_map(|vid| Action::ModVlanVid(vid as u16 & 0xfff)),
        2 => few().prop_map(|pcp| Action::ModVlanPcp(pcp as u8 & 7)),
        5 => modify(),
        15 => set_field(),
        6 => move_field(),
        4 => vec(1..3u16, 0..2).prop_map(Action::DecTtl),
        6 => resubmit.prop_map(|(port, table)| Action::Resubmit { port, table }),
        5 => (1..=GROUPS + 1).prop_map(Action::Group),
        1 => Just(Action::Note(vec![1, 2])),
        1 => Just(Action::Exit),
    ]
}

/// Fields that actions write.
const WRITTEN: &[Field] = &[
    Field::InPort,
    Field::VlanTci,
    Field::VlanVid,
    Field::VlanVid,
    Field::VlanPcp,
    Field::EthSrc,
    Field::EthDst,
    Field::IpSrc,
    Field::IpDst,
    Field::Ipv6Src,
    Field::Ipv6Dst,
    Field::Ipv6Label,
    Field::IpTos,
    Field::IpDscp,
    Field::IpEcn,
    Field::IpTtl,
    Field::ArpOp,
    Field::ArpSpa,
    Field::ArpTpa,
    Field::ArpSha,
    Field::ArpTha,
    Field::TcpSrc,
    Field::TcpDst,
    Field::UdpSrc,
    Field::UdpDst,
    Field::IcmpType,
    Field::IcmpCode,
    Field::Icmpv6Type,
    Field::Icmpv6Code,
    Field::NdTarget,
    Field::NdSll,
    Field::NdTll,
    Field::Metadata,
    Field::TunId,
    Field::Reg0,
    Field::Reg1,
    Field::Xreg0,
];

fn modify() -> impl Strategy<Value = Action> {
    const FIELDS: &[Field] = &[
        Field::EthSrc,
        Field::EthDst,
        Field::IpSrc,
        Field::IpDst,
        Field::IpTos,
        Field::IpEcn,
        Field::IpTtl,
        Field::TcpSrc,
        Field::TcpDst,
    ];
    (select(FIELDS), few()).prop_map(|(field, value)| {
        let value = match field {
            Field::IpTos => value << 2,
            _ => value,
        };
        Action::Mod(field, value & field.ones())
    })
}

fn set_field() -> impl Strategy<Value = Action> {
    let values = (
        select(WRITTEN),
        few(),
        any::<u128>(),
        any::<bool>(),
        any::<bool>(),
    );
    values.prop_map(|(field, value, mask, whole, present)| {
        let mask = if whole { u128::MAX } else { mask } & field.ones();
        let value = match field {
            Field::VlanTci | Field::VlanVid if present => value | 0x1000,
            _ => value,
        };
        Action::SetField {
            field,
            value: value & mask,
            mask,
            load: !whole,
        }
    })
}

fn move_field() -> impl Strategy<Value = Action> {
    const READ: &[Field] = &[
        Field::EthType,
        Field::IpProto,
        Field::IpFrag,
        Field::TcpFlags,
    ];
    let from = prop_oneof![4 => select(WRITTEN), 1 => select(READ)];
    let bits = (any::<u8>(), any::<u8>(), any::<u8>());
    (from, select(WRITTEN), bits).prop_map(|(from, to, (width, at_from, at_to))| {
        let most = from.info().width.min(to.info().width);
        let width = if width < 128 { most } else { width % most + 1 };
        let part = |field: Field, at: u8| Subfield {
            field,
            offset: at % (field.info().width - width + 1),
            width,
        };
        Action::Move {
            from: part(from, at_from),
            to: part(to, at_to),
        }
    })
}

/// A group, whose buckets lead only to groups with greater numbers.
pub fn group(id: u32) -> BoxedStrategy<GroupSpec> {
    let kind = select(
        &[
            GroupType::All,
            GroupType::All,
            GroupType::Select,
            GroupType::Indirect,
            GroupType::FastFailover,
        ][..],
    );
    let bucket = (0..3u16, vec(action(), 0..4));
    let fields = select(
        &[
            &[] as &[Field],
            &[Field::IpSrc],
            &[Field::VlanVid, Field::EthDst],
            &[Field::NdTarget, Field::TcpDst, Field::Reg0],
        ][..],
    );
    (kind, fields, vec(bucket, 0..4))
        .prop_map(move |(kind, fields, mut buckets)| {
            if kind == GroupType::Indirect {
                buckets.truncate(1);
            }
            let buckets = (buckets.into_iter().enumerate())
                .map(|(i, (weight, mut actions))| {
                    actions.retain(|action| !matches!(action, Action::Group(to) if *to <= id));
                    Bucket {
                        id: i as u32,
                        weight,
                        watch_port: None,
                        watch_group: None,
                        actions,
                    }
                })
                .collect();
            GroupSpec {
                id,
                kind,
                hash_fields: match kind {
                    GroupType::Select => fields.to_vec(),
                    _ => Vec::new(),
                },
                buckets,
            }
        })
        .boxed()
}

/// Keys that meet those rules. The bridge is 0.
pub fn key() -> impl Strategy<Value = PacketKey> {
    (packet_key_of_few(), select(&PORTS[..])).prop_map(|(mut key, port)| {
        key.0[0] = key.0[0] & 0xffff_ffff | u64::from(port) << 32;
        key
    })
}

/// Frames that meet those rules, and the ports they come from.
pub fn frame() -> impl Strategy<Value = (Vec<u8>, u16)> {
    (key(), vec(any::<u8>(), 0..64)).prop_map(|(key, payload)| {
        let frame = compose_with_payload(&key, &payload);
        (frame, (key.0[0] >> 32) as u16)
    })
}
