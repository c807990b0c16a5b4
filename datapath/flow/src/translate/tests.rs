//! Translations, by hand: what is sent, and what was looked at.

use std::sync::Arc;

use super::*;
use crate::action::{Controller, Reason};
use crate::field::Field;
use crate::key::VLAN_PRESENT;
use crate::matching::Match;
use crate::pipeline::FlowTables;
use crate::rule::{Change, FlowCommand, FlowSpec};
use crate::stats::StatsTable;

/// A rule: table, priority, match, actions.
type Row = (u8, u16, Match, Vec<Action>);

fn pipeline(rows: Vec<Row>) -> Pipeline {
    let mut tables = FlowTables::new(Arc::new(StatsTable::default()));
    let changes: Vec<_> = (rows.into_iter())
        .map(|(table, priority, matching, actions)| {
            let spec = FlowSpec {
                table: Some(table),
                priority,
                matching,
                actions,
                ..FlowSpec::default()
            };
            Change::Flow(FlowCommand::Add, Box::new(spec))
        })
        .collect();
    tables.apply(&changes, 0).unwrap();
    tables.pipeline()
}

fn key(fields: &[(Field, u128)]) -> PacketKey {
    let mut flow = FlowKey::default();
    for (field, value) in fields {
        field.set(&mut flow, *value);
    }
    flow.packet()
}

fn matching(fields: &[(Field, u128)]) -> Match {
    let mut matching = Match::default();
    for (field, value) in fields {
        matching.exact(*field, *value);
    }
    matching
}

/// A TCP packet that came in on port 1.
fn tcp() -> PacketKey {
    key(&[
        (Field::InPort, 1),
        (Field::EthSrc, 0xa1),
        (Field::EthDst, 0xb2),
        (Field::EthType, 0x0800),
        (Field::IpSrc, 0x0a00_0001),
        (Field::IpDst, 0x0a00_0002),
        (Field::IpProto, 6),
        (Field::IpTtl, 64),
        (Field::TcpSrc, 1000),
        (Field::TcpDst, 80),
    ])
}

fn with_tag(mut packet: PacketKey, vid: u64) -> PacketKey {
    packet.0[1] |= u64::from(VLAN_PRESENT) | vid;
    packet.0[5] |= 0x8100 << 48;
    packet
}

fn run(pipeline: &Pipeline, packet: &PacketKey) -> Translation {
    let mut out = Translation::default();
    translate(pipeline, packet, Start::Tables, &mut out, &mut Untraced);
    out
}

fn steps(out: &Translation) -> Vec<DpAction> {
    out.program.steps().collect()
}

/// What one list of actions comes to for a packet.
fn actions(actions: Vec<Action>, packet: &PacketKey) -> Translation {
    run(&pipeline(vec![(0, 1, Match::default(), actions)]), packet)
}

/// The mask that these fields make, with `bridge`.
fn mask(fields: &[Field]) -> PacketKey {
    let mut flow = FlowKey::default();
    flow.0[0] = BRIDGE;
    for field in fields {
        field.set(&mut flow, u128::MAX);
    }
    flow.packet()
}

fn set(field: Field, value: u128) -> Action {
    Action::SetField {
        field,
        value,
        mask: field.ones(),
        load: false,
    }
}

fn set_step(field: Field, value: u128) -> DpAction {
    let (words, value, mask) = field.spread(value, u128::MAX);
    DpAction::Set {
        word: words.start as u8,
        value: value[0],
        mask: mask[0],
    }
}

fn resubmit(table: u8) -> Action {
    Action::Resubmit {
        port: None,
        table: Some(table),
    }
}

#[test]
fn a_miss_in_the_first_table_is_a_drop_that_looked_at_what_the_lookup_did() {
    let rows = vec![(0, 1, matching(&[(Field::InPort, 2)]), vec![])];
    let out = run(&pipeline(rows), &tcp());
    assert_eq!(steps(&out), [DpAction::Drop(DropCause::NoFlow)]);
    assert_eq!(out.mask, mask(&[Field::InPort]));
    assert_eq!(out.dependencies.tables, 1);
    assert_eq!(out.counted.as_slice(), [0], "table 0's cell of misses");
}

#[test]
fn a_packet_does_not_go_back_by_output_but_by_in_port() {
    let out = actions(vec![Action::Output(1)], &tcp());
    assert_eq!(steps(&out), [DpAction::Drop(DropCause::SameIngress)]);
    assert_eq!(out.mask, mask(&[Field::InPort]));
    let out = actions(vec![Action::InPort], &tcp());
    assert_eq!(steps(&out), [DpAction::Output(1)]);
    let out = actions(vec![Action::Output(0xfff0)], &tcp());
    assert_eq!(steps(&out), [DpAction::Drop(DropCause::NoPort)]);
    let out = actions(vec![], &tcp());
    assert_eq!(steps(&out), [DpAction::Drop(DropCause::Rule)]);
    assert_eq!(out.mask, mask(&[]));
}

#[test]
fn normal_and_flood_look_at_nothing() {
    let out = actions(vec![Action::Normal, Action::All], &tcp());
    assert_eq!(steps(&out), [DpAction::Normal, DpAction::Flood]);
    assert_eq!(out.mask, mask(&[]));
}

#[test]
fn what_is_overwritten_need_not_be_looked_at_even_by_later_tables() {
    let rows = vec![
        (
            0,
            1,
            Match::default(),
            vec![set(Field::EthDst, 0xcc), set(Field::IpSrc, 5), resubmit(1)],
        ),
        (
            1,
            1,
            matching(&[(Field::EthDst, 0xcc), (Field::EthSrc, 0xa1)]),
            vec![Action::Normal],
        ),
    ];
    let out = run(&pipeline(rows), &tcp());
    assert_eq!(out.mask, mask(&[Field::EthSrc, Field::EthType]));
    let expected = [
        set_step(Field::EthDst, 0xcc),
        set_step(Field::IpSrc, 5),
        DpAction::Normal,
    ];
    assert_eq!(steps(&out), expected);
    assert_eq!(out.dependencies.modified, 1 << 1 | 1 << 3);
    assert_eq!(out.dependencies.tables, 0b11);
    assert_eq!(out.counted.len(), 2);
}

#[test]
fn fields_that_the_packet_lacks_are_left_alone() {
    let arp = key(&[(Field::InPort, 1), (Field::EthType, 0x0806)]);
    let out = actions(
        vec![
            set(Field::TcpDst, 9),
            Action::Mod(Field::IpSrc, 9),
            Action::DecTtl(vec![]),
            Action::Normal,
        ],
        &arp,
    );
    assert_eq!(steps(&out), [DpAction::Normal]);
    assert_eq!(out.mask, mask(&[Field::EthType]));
}

#[test]
fn sets_go_out_once_and_only_before_something_is_sent() {
    let out = actions(
        vec![
            set(Field::EthDst, 1),
            set(Field::EthDst, 2),
            Action::Normal,
            Action::Normal,
            set(Field::EthDst, 2),
            Action::Normal,
            set(Field::EthDst, 3),
        ],
        &tcp(),
    );
    let expected = [
        set_step(Field::EthDst, 2),
        DpAction::Normal,
        DpAction::Normal,
        DpAction::Normal,
    ];
    assert_eq!(steps(&out), expected);
}

#[test]
fn dec_ttl_looks_at_the_ttl_and_ends_the_list_when_it_has_run_out() {
    let list = vec![Action::DecTtl(vec![7]), Action::Normal];
    let out = actions(list.clone(), &tcp());
    assert_eq!(steps(&out), [set_step(Field::IpTtl, 63), DpAction::Normal]);
    assert_eq!(out.mask, mask(&[Field::EthType, Field::IpTtl]));
    let mut packet = tcp();
    packet.0[4] = packet.0[4] & !0xff | 1;
    let expired = DpAction::Controller {
        reason: Reason::InvalidTtl,
        max_len: u16::MAX,
        id: 7,
        table: 0,
    };
    assert_eq!(steps(&actions(list, &packet)), [expired]);
}

#[test]
fn moves_look_at_their_source() {
    let to = Action::Move {
        from: Subfield::whole(Field::IpSrc),
        to: Subfield::whole(Field::Reg3),
    };
    let back = Action::Move {
        from: Subfield::whole(Field::Reg3),
        to: Subfield::whole(Field::IpDst),
    };
    let out = actions(vec![to, back, Action::Normal], &tcp());
    assert_eq!(out.mask, mask(&[Field::EthType, Field::IpSrc]));
    let expected = [set_step(Field::IpDst, 0x0a00_0001), DpAction::Normal];
    assert_eq!(steps(&out), expected);
}

#[test]
fn output_to_a_register_knows_reserved_numbers() {
    let from = Subfield {
        field: Field::Reg0,
        offset: 0,
        width: 16,
    };
    for (port, step) in [
        (3, DpAction::Output(3)),
        (1, DpAction::Drop(DropCause::SameIngress)),
        (0xfff8, DpAction::Output(1)),
        (0xfffa, DpAction::Normal),
        (0xfffb, DpAction::Flood),
        (0xfffe, DpAction::Output(0xfffe)),
        (0xffff, DpAction::Drop(DropCause::NoPort)),
    ] {
        let list = vec![set(Field::Reg0, port), Action::OutputField(from)];
        assert_eq!(steps(&actions(list, &tcp())), [step], "{port:#x}");
    }
}

#[test]
fn a_tag_is_pushed_where_there_is_none_and_changed_in_place_where_there_is() {
    let list = vec![Action::ModVlanVid(5), Action::Normal];
    let push = DpAction::PushVlan {
        tpid: 0x8100,
        tci: 0x1005,
    };
    let out = actions(list.clone(), &tcp());
    assert_eq!(steps(&out), [push, DpAction::Normal]);
    let mut present = mask(&[]);
    present.0[1] = 0x1000;
    assert_eq!(out.mask, present);
    let out = actions(list, &with_tag(tcp(), 9));
    let set = DpAction::Set {
        word: 1,
        value: 5,
        mask: 0xfff,
    };
    assert_eq!(steps(&out), [set, DpAction::Normal]);
    assert_eq!(out.mask, present);
}

#[test]
fn tags_are_popped_and_come_back() {
    let packet = with_tag(tcp(), 9);
    let list = vec![
        Action::PopVlan,
        Action::Output(2),
        Action::PushVlan(0x88a8),
        set(Field::VlanVid, 0x1007),
        Action::Output(3),
        Action::PushVlan(0x8100),
        Action::Output(4),
        Action::PopVlan,
        Action::Output(5),
    ];
    let expected = [
        DpAction::PopVlan,
        DpAction::Output(2),
        DpAction::PushVlan {
            tpid: 0x88a8,
            tci: 0x1007,
        },
        DpAction::Output(3),
        DpAction::PushVlan {
            tpid: 0x8100,
            tci: 0x1000,
        },
        DpAction::Output(4),
        DpAction::PopVlan,
        DpAction::Output(5),
    ];
    let out = actions(list, &packet);
    assert_eq!(steps(&out), expected);
    // That there is one tag, but not which.
    let mut expected = mask(&[Field::InPort]);
    expected.0[1] |= 0x1000;
    expected.0[2] |= 0x1000;
    assert_eq!(out.mask, expected);
}

#[test]
fn a_third_tag_hides_no_tag_for_good() {
    let mut packet = with_tag(tcp(), 9);
    packet.0[2] |= 0x1008;
    packet.0[5] |= 0x8100 << 32;
    let push = Action::PushVlan(0x8100);
    let list = vec![
        push,
        Action::Normal,
        Action::PopVlan,
        Action::PopVlan,
        Action::Normal,
    ];
    let out = actions(list, &packet);
    let expected = [
        DpAction::PushVlan {
            tpid: 0x8100,
            tci: 0x1000,
        },
        DpAction::Normal,
        DpAction::PopVlan,
        DpAction::PopVlan,
        DpAction::Normal,
    ];
    assert_eq!(steps(&out), expected);
    assert_eq!(Field::VlanVid.get(&out.flow), 0x1008);
}

#[test]
fn an_action_set_is_done_at_the_end_in_openflows_order() {
    let rows = vec![
        (
            0,
            1,
            Match::default(),
            vec![
                Action::WriteActions(vec![
                    Action::Output(2),
                    set(Field::VlanVid, 0x1003),
                    Action::PushVlan(0x8100),
                ]),
                Action::GotoTable(1),
            ],
        ),
        (
            1,
            1,
            Match::default(),
            vec![
                Action::Output(4),
                Action::WriteActions(vec![Action::Output(3)]),
            ],
        ),
    ];
    let expected = [
        DpAction::Output(4),
        DpAction::PushVlan {
            tpid: 0x8100,
            tci: 0x1003,
        },
        DpAction::Output(3),
    ];
    assert_eq!(steps(&run(&pipeline(rows), &tcp())), expected);
    let cleared = vec![
        Action::ClearActions,
        Action::WriteActions(vec![set(Field::EthSrc, 1)]),
    ];
    let out = actions(cleared, &tcp());
    assert_eq!(steps(&out), [DpAction::Drop(DropCause::Rule)]);
}

#[test]
fn resubmits_end_at_their_limits_and_nothing_is_sent() {
    let limit = [DpAction::Drop(DropCause::ResubmitLimit)];
    // Deeper and deeper, and something to come back for.
    let list = vec![Action::Output(2), resubmit(0), Action::Output(3)];
    assert_eq!(steps(&actions(list, &tcp())), limit);
    let list = vec![Action::Output(2), resubmit(0)];
    assert_eq!(steps(&actions(list, &tcp())), limit);
    // Wide: two to the power of the number of tables.
    let rows = (0..20)
        .map(|table| {
            let list = vec![resubmit(table + 1), resubmit(table + 1)];
            (table, 1, Match::default(), list)
        })
        .collect();
    assert_eq!(steps(&run(&pipeline(rows), &tcp())), limit);
    // Forward is not deep.
    let rows = (0..200)
        .map(|table| {
            let list = vec![resubmit(table + 1), Action::Note(vec![1])];
            (table, 1, Match::default(), list)
        })
        .chain([(200, 1, Match::default(), vec![Action::Normal])])
        .collect();
    assert_eq!(steps(&run(&pipeline(rows), &tcp())), [DpAction::Normal]);
}

#[test]
fn a_resubmit_with_a_port_looks_up_as_if_from_there() {
    let rows = vec![
        (
            0,
            1,
            Match::default(),
            vec![Action::Resubmit {
                port: Some(9),
                table: Some(1),
            }],
        ),
        (1, 1, matching(&[(Field::InPort, 9)]), vec![Action::InPort]),
    ];
    let out = run(&pipeline(rows), &tcp());
    assert_eq!(steps(&out), [DpAction::Output(1)]);
    assert_eq!(out.dependencies.modified, 1);
}

#[test]
fn fragments_have_no_ports_to_look_at() {
    let rows = vec![
        (0, 2, matching(&[(Field::TcpDst, 80)]), vec![Action::Normal]),
        (0, 1, Match::default(), vec![Action::Flood]),
    ];
    let pipeline = pipeline(rows);
    assert_eq!(steps(&run(&pipeline, &tcp())), [DpAction::Normal]);
    let mut fragment = tcp();
    fragment.0[0] |= 1 << 8;
    let out = run(&pipeline, &fragment);
    assert_eq!(steps(&out), [DpAction::Flood]);
    let mut expected = mask(&[]);
    expected.0[0] |= 1 << 8;
    assert_eq!(out.mask, expected);
}

#[test]
fn exit_ends_everything_and_the_action_set_too() {
    let list = vec![
        Action::WriteActions(vec![Action::Output(4)]),
        resubmit(1),
        Action::Output(3),
    ];
    let rows = vec![
        (0, 1, Match::default(), list),
        (
            1,
            1,
            Match::default(),
            vec![Action::Output(2), Action::Exit],
        ),
    ];
    let out = run(&pipeline(rows), &tcp());
    assert_eq!(steps(&out), [DpAction::Output(2)]);
}

#[test]
fn too_many_actions_are_none() {
    let out = actions(vec![Action::Normal; 161], &tcp());
    assert_eq!(steps(&out), [DpAction::Drop(DropCause::TooManyActions)]);
    let out = actions(vec![Action::Normal; 160], &tcp());
    assert_eq!(out.program.words().len(), 160);
}

#[test]
fn a_packet_out_begins_with_its_actions() {
    let list = [
        set(Field::EthDst, 4),
        Action::Controller(Controller::default()),
    ];
    let mut out = Translation::default();
    let pipeline = pipeline(vec![]);
    translate(
        &pipeline,
        &tcp(),
        Start::Actions(&list),
        &mut out,
        &mut Untraced,
    );
    let controller = DpAction::Controller {
        reason: Reason::Action,
        max_len: u16::MAX,
        id: 0,
        table: 0,
    };
    assert_eq!(steps(&out), [set_step(Field::EthDst, 4), controller]);
    assert!(out.counted.is_empty());
}

#[test]
fn the_deepest_way_fits_a_small_stack() {
    // As deep as is allowed, by resubmits that are come back from.
    let mut rows: Vec<Row> = (0..=250)
        .map(|table| {
            let list = vec![resubmit(table + 1), Action::Note(vec![])];
            (table, 1, Match::default(), list)
        })
        .collect();
    rows.push((251, 1, Match::default(), vec![resubmit(0), Action::Normal]));
    let pipeline = pipeline(rows);
    let deep = std::thread::Builder::new()
        .stack_size(512 << 10)
        .spawn(move || steps(&run(&pipeline, &tcp())))
        .unwrap();
    let limit = [DpAction::Drop(DropCause::ResubmitLimit)];
    assert_eq!(deep.join().unwrap(), limit);
}

/// `cargo test -p ringway-flow --release -- --ignored --nocapture two_tables`
#[test]
#[ignore = "measures"]
fn two_tables_take_nanoseconds() {
    let rows = vec![
        (
            0,
            1,
            matching(&[(Field::InPort, 1)]),
            vec![Action::GotoTable(1)],
        ),
        (
            1,
            1,
            matching(&[(Field::EthType, 0x0800), (Field::IpDst, 0x0a00_0002)]),
            vec![
                set(Field::EthDst, 5),
                Action::DecTtl(vec![]),
                Action::Output(2),
            ],
        ),
    ];
    let (pipeline, packet) = (pipeline(rows), tcp());
    let mut out = Translation::default();
    let rounds = 1_000_000_u32;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        let packet = std::hint::black_box(&packet);
        translate(&pipeline, packet, Start::Tables, &mut out, &mut Untraced);
    }
    println!("{:?} a packet", start.elapsed() / rounds);
    assert_eq!(out.counted.len(), 2);
}
