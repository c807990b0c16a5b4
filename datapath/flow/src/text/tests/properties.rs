//! What is printed reads back as the same thing; no text breaks the reader.

use proptest::prelude::*;
use proptest::sample::select;

use super::{Named, Ports};
use crate::action::{Action, Controller, Reason};
use crate::field::{FIELDS, Field, Maskable, Subfield};
use crate::matching::Match;
use crate::rule::{FlowCommand, FlowFlags, FlowSpec};
use crate::text::check::Packet;
use crate::text::matching::normalize;
use crate::text::values::full_mask;
use crate::text::{
    parse_actions, parse_bundle_file, parse_flow, parse_group, parse_match, parse_meter,
    parse_packet, print_actions, print_match, print_spec,
};

/// A field's bits: any, few or all.
fn mask(field: Field) -> impl Strategy<Value = u128> {
    let full = full_mask(field);
    let masks = match field {
        // Only some masks of fragments have names.
        Field::IpFrag => vec![3].boxed_masks(),
        _ if field.info().maskable == Maskable::Never => vec![full].boxed_masks(),
        _ => prop_oneof![
            Just(full),
            any::<u128>().prop_map(move |mask| mask & full),
            (0..=u32::from(field.info().width))
                .prop_map(move |bits| full & !full.checked_shr(bits).unwrap_or(0)),
        ]
        .boxed(),
    };
    masks.prop_filter("an empty mask says nothing", |mask| *mask != 0)
}

trait BoxedMasks {
    fn boxed_masks(self) -> BoxedStrategy<u128>;
}

impl BoxedMasks for Vec<u128> {
    fn boxed_masks(self) -> BoxedStrategy<u128> {
        select(self).boxed()
    }
}

/// Matches as texts make them: a protocol, some fields, normalized.
fn matches() -> impl Strategy<Value = Match> {
    let protocols = vec![
        (0, 0),
        (0x88cc, 0),
        (0x0800, 0),
        (0x0800, 1),
        (0x0800, 6),
        (0x0800, 17),
        (0x0800, 132),
        (0x0800, 47),
        (0x0806, 0),
        (0x8035, 0),
        (0x86dd, 0),
        (0x86dd, 6),
        (0x86dd, 58),
        (0x8847, 0),
        (0x8848, 0),
    ];
    let all: Vec<_> = FIELDS.iter().map(|info| info.field).collect();
    let field = select(all).prop_flat_map(|field| (Just(field), any::<u128>(), mask(field)));
    let fields = prop::collection::vec(field, 0..8);
    (select(protocols), any::<bool>(), fields).prop_map(|(protocol, solicit, fields)| {
        let mut matching = Match::default();
        for (field, value, mask) in fields {
            let value = match field {
                Field::IpFrag if value & 3 == 2 => 3,
                // No port has these numbers, and no name is printed for them.
                Field::InPort => value % 0xff00,
                _ => value,
            };
            field.set_masked(&mut matching.key, 0, field.ones());
            field.set_masked(&mut matching.mask, 0, field.ones());
            matching.masked(field, value, mask);
        }
        let (eth_type, number) = protocol;
        for (field, value) in [(Field::EthType, eth_type), (Field::IpProto, number)] {
            field.set_masked(&mut matching.key, 0, field.ones());
            field.set_masked(&mut matching.mask, 0, field.ones());
            if value != 0 {
                matching.exact(field, value);
            }
        }
        if number == 58 {
            let kind = if solicit { 135 } else { 136 };
            matching.exact(Field::TcpSrc, kind);
        }
        let later = Field::IpFrag.get(&matching.key) & 2 != 0;
        if later && matches!(number, 6 | 17 | 132) {
            // They have no ports, and are not asked for any.
            matching.exact(Field::IpFrag, 0);
        }
        if matches!(number, 1 | 58) {
            // Types and codes have eight bits, all or none of which are matched.
            for field in [Field::TcpSrc, Field::TcpDst] {
                if field.get(&matching.mask) != 0 {
                    let value = field.get(&matching.key) & 0xff;
                    matching.masked(field, 0, 0xffff);
                    field.set_masked(&mut matching.mask, 0, 0xffff);
                    matching.masked(field, value, 0xff);
                }
            }
        }
        normalize(&mut matching);
        matching
    })
}

fn subfield() -> impl Strategy<Value = Subfield> {
    let fields: Vec<_> = FIELDS.iter().map(|info| info.field).collect();
    (select(fields), any::<u8>(), any::<u8>()).prop_map(|(field, offset, width)| {
        let bits = crate::text::names::whole(field).width;
        let offset = offset % bits;
        Subfield {
            field,
            offset,
            width: 1 + width % (bits - offset).min(64),
        }
    })
}

fn set_field() -> impl Strategy<Value = Action> {
    let writable = FIELDS.iter().filter(|info| info.writable);
    let writable: Vec<_> = writable.map(|info| info.field).collect();
    let plain = select(writable.clone())
        .prop_flat_map(|field| (Just(field), any::<u128>(), mask(field)))
        .prop_map(|(field, value, mask)| {
            let value = match field {
                Field::InPort => value % 0xff00,
                // A whole VLAN always has its bit.
                Field::VlanVid if mask == field.ones() => value | 0x1000,
                _ => value,
            };
            Action::SetField {
                field,
                value: value & mask,
                mask,
                load: false,
            }
        });
    let load = (subfield(), any::<u128>())
        .prop_filter("read-only", |(bits, _)| bits.field.info().writable)
        .prop_filter_map("no bits", |(bits, value)| {
            let mask = bits.ones() & full_mask(bits.field);
            (mask != 0).then_some(Action::SetField {
                field: bits.field,
                value: value & mask,
                mask,
                load: true,
            })
        });
    prop_oneof![plain, load]
}

fn action() -> impl Strategy<Value = Action> {
    let port = || prop_oneof![0u16..0xff00, Just(1u16), Just(2), Just(0xfffe)];
    let controller = (0..3usize, any::<u16>(), prop_oneof![Just(0), any::<u16>()]);
    prop_oneof![
        port().prop_map(Action::Output),
        subfield().prop_map(Action::OutputField),
        select(vec![
            Action::InPort,
            Action::Normal,
            Action::Flood,
            Action::All,
            Action::PopVlan,
            Action::Exit,
            Action::PushVlan(0x8100),
            Action::PushVlan(0x88a8),
        ]),
        controller.prop_map(|(reason, max_len, id)| {
            let reason = [Reason::NoMatch, Reason::Action, Reason::InvalidTtl][reason];
            Action::Controller(Controller {
                reason,
                max_len,
                id,
            })
        }),
        (0u16..4096).prop_map(Action::ModVlanVid),
        (0u8..8).prop_map(Action::ModVlanPcp),
        any::<u128>().prop_flat_map(|value| {
            let fields = [
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
            select(fields.to_vec())
                .prop_map(move |field| Action::Mod(field, value & full_mask(field)))
        }),
        set_field(),
        (subfield(), subfield()).prop_filter_map("read-only", |(from, to)| {
            let width = from.width.min(to.width);
            let to = Subfield { width, ..to };
            let from = Subfield { width, ..from };
            to.field
                .info()
                .writable
                .then_some(Action::Move { from, to })
        }),
        prop::collection::vec(any::<u16>(), 0..3).prop_map(Action::DecTtl),
        (prop::option::of(port()), prop::option::of(0u8..255))
            .prop_filter("neither", |(port, table)| port.is_some() || table.is_some())
            .prop_map(|(port, table)| Action::Resubmit { port, table }),
        any::<u32>().prop_map(Action::Group),
        (0usize..4, any::<u8>())
            .prop_map(|(steps, byte)| { Action::Note(vec![byte; 6 + 8 * steps]) }),
    ]
}

/// Actions with instructions around them, in their order.
fn actions() -> impl Strategy<Value = Vec<Action>> {
    let in_set = |action: &Action| match action {
        Action::OutputField(_) | Action::Note(_) | Action::Exit => false,
        Action::Controller(controller) => controller.reason == Reason::Action && controller.id == 0,
        _ => true,
    };
    let set = prop::collection::vec(action().prop_filter("in a set", in_set), 1..4);
    (
        prop::option::of(1u32..0xffff_0000),
        prop::collection::vec(action(), 0..6),
        any::<bool>(),
        prop::option::of(set),
        prop::option::of(any::<(u64, u64)>()),
        prop::option::of(1u8..255),
    )
        .prop_map(|(meter, list, clear, set, metadata, goto)| {
            let mut all: Vec<_> = meter.map(Action::Meter).into_iter().collect();
            all.extend(list);
            all.extend(clear.then_some(Action::ClearActions));
            all.extend(set.map(Action::WriteActions));
            all.extend(metadata.map(|(value, mask)| Action::WriteMetadata {
                value: value & mask,
                mask,
            }));
            all.extend(goto.map(Action::GotoTable));
            all
        })
}

/// Reads actions without a match to check them against.
fn read_actions(text: &str) -> Result<Vec<Action>, String> {
    use crate::text::actions::{Place, Reader};
    let mut actions = Vec::new();
    let mut reader = Reader::new(&Ports, Place::Flow(None));
    match reader.list(text, &mut actions) {
        Ok(()) => Ok(actions),
        Err(fault) => Err(format!("{}: {}", fault.at, fault.what)),
    }
}

proptest! {
    #[test]
    fn matches_come_back(matching in matches()) {
        for text in [print_match(&matching, &Ports), print_match(&matching, &Named)] {
            let read = parse_match(&text, &Ports);
            let read = read.unwrap_or_else(|error| panic!("{error}"));
            prop_assert_eq!(read.value, matching, "{}", text);
            prop_assert!(read.warnings.is_empty(), "{}", text);
        }
    }

    #[test]
    fn actions_come_back(actions in actions()) {
        for text in [print_actions(&actions, &Ports), print_actions(&actions, &Named)] {
            let read = read_actions(&text);
            prop_assert_eq!(read.as_ref(), Ok(&actions), "{}", text);
        }
    }

    #[test]
    fn flows_come_back(
        matching in matches(),
        numbers in any::<(u16, u64, u16, u16, u16)>(),
        table in prop::option::of(0u8..255),
        flags in any::<[bool; 5]>(),
    ) {
        let (priority, cookie, idle_timeout, hard_timeout, importance) = numbers;
        let flow = FlowSpec {
            table,
            priority,
            cookie,
            sets_cookie: true,
            matching,
            actions: vec![Action::Normal],
            idle_timeout,
            hard_timeout,
            importance,
            flags: FlowFlags {
                send_flow_rem: flags[0],
                check_overlap: flags[1],
                reset_counts: flags[2],
                no_packet_counts: flags[3],
                no_byte_counts: flags[4],
            },
            ..FlowSpec::default()
        };
        let text = print_spec(&flow, &Ports);
        let read = parse_flow(&text, FlowCommand::Add, &Ports);
        prop_assert_eq!(read.map(|read| read.value), Ok(flow), "{}", text);
    }

    #[test]
    fn no_text_breaks_the_reader(text in "\\PC{0,60}", at in any::<prop::sample::Index>()) {
        let line = "table=1,tcp,nw_src=1.2.3.4/8,tcp_flags=+syn-ack,reg0[0..3]=5,actions=\
                    load:5->NXM_NX_REG0[0..3],resubmit(,2),controller(id=1),note:01";
        let cut = at.index(line.len());
        for text in [format!("{}{text}{}", &line[..cut], &line[cut..]), text] {
            // What is read, and what the errors show, is not looked at here.
            let shown = |error: crate::text::TextError| error.to_string();
            let _ = parse_flow(&text, FlowCommand::Add, &Ports).map_err(shown);
            let _ = parse_flow(&text, FlowCommand::Delete, &Ports).map_err(shown);
            let _ = parse_match(&text, &Ports).map_err(shown);
            let _ = parse_packet(&text, &Ports).map_err(shown);
            let _ = parse_actions(&text, &Ports).map_err(shown);
            let _ = parse_group(&format!("group_id=1,type=all,bucket={text}"), &Ports).map_err(shown);
            let _ = parse_meter(&text).map_err(shown);
            let _ = parse_bundle_file(&text, &Ports).map_err(shown);
        }
    }

    #[test]
    fn what_is_known_of_a_packet_follows_the_match(matching in matches()) {
        // A normalized match has no field without its prerequisite.
        let packet = Packet::of(&matching);
        let ports = [Field::TcpSrc, Field::UdpSrc, Field::SctpSrc, Field::IcmpType, Field::Icmpv6Type];
        if Field::TcpSrc.get(&matching.mask) != 0 && Field::IpFrag.get(&matching.key) & 2 == 0 {
            prop_assert!(ports.iter().any(|field| packet.has(field.info().prereq)));
        }
        for field in [Field::Ipv6Src, Field::NdTarget, Field::IpTtl] {
            let there = field.get(&matching.mask) != 0;
            let code = Field::TcpDst.get(&matching.key);
            prop_assert!(!there || packet.has(field.info().prereq) || code != 0);
        }
    }
}
