//! Groups: which bucket is chosen, and what is undone behind it.

use std::sync::Arc;

use super::*;
use crate::action::{Bucket, GroupSpec, GroupType};
use crate::field::Field;
use crate::pipeline::FlowTables;
use crate::rule::{Change, FlowCommand, FlowSpec};
use crate::stats::StatsTable;

fn group(kind: GroupType, buckets: Vec<(u16, Vec<Action>)>) -> GroupSpec {
    let buckets = (buckets.into_iter().zip(0..))
        .map(|((weight, actions), id)| Bucket {
            id,
            weight,
            watch_port: None,
            watch_group: None,
            actions,
        })
        .collect();
    GroupSpec {
        id: 1,
        kind,
        hash_fields: Vec::new(),
        buckets,
    }
}

/// A bridge whose one rule leads to the group and then does this.
fn bridge(group: GroupSpec, then: Vec<Action>) -> Pipeline {
    let mut tables = FlowTables::new(Arc::new(StatsTable::default()));
    let mut actions = vec![Action::Group(1)];
    actions.extend(then);
    let flow = FlowSpec {
        actions,
        ..FlowSpec::default()
    };
    let flow = Change::Flow(FlowCommand::Add, Box::new(flow));
    tables.apply(&[Change::AddGroup(group), flow], 0).unwrap();
    tables.pipeline()
}

fn packet(src: u128, dst: u128, ports: (u128, u128)) -> PacketKey {
    let mut flow = FlowKey::default();
    for (field, value) in [
        (Field::InPort, 1),
        (Field::EthSrc, src),
        (Field::EthDst, dst),
        (Field::EthType, 0x0800),
        (Field::IpSrc, src),
        (Field::IpDst, dst),
        (Field::IpProto, 17),
        (Field::UdpSrc, ports.0),
        (Field::UdpDst, ports.1),
    ] {
        field.set(&mut flow, value);
    }
    flow.packet()
}

fn run(pipeline: &Pipeline, packet: &PacketKey) -> Translation {
    let mut out = Translation::default();
    translate(pipeline, packet, Start::Tables, &mut out, &mut Untraced);
    out
}

fn steps(out: &Translation) -> Vec<DpAction> {
    out.program.steps().collect()
}

#[test]
fn select_shares_by_weight_and_keeps_conversations_together() {
    let out = |port| vec![Action::Output(port)];
    let weights = vec![(1, out(2)), (2, out(3)), (0, out(4)), (5, out(5))];
    let pipeline = bridge(group(GroupType::Select, weights), vec![]);
    let mut chosen = [0_u32; 6];
    for i in 0..8000 {
        let there = packet(1, 2, (i, 53));
        let back = packet(2, 1, (53, i));
        let found = steps(&run(&pipeline, &there));
        assert_eq!(found, steps(&run(&pipeline, &back)));
        match found[..] {
            [DpAction::Output(port)] => chosen[usize::from(port)] += 1,
            _ => panic!("{found:?}"),
        }
    }
    let near = |count: u32, expected: u32| count.abs_diff(expected) < 200;
    assert!(near(chosen[2], 1000) && near(chosen[3], 2000), "{chosen:?}");
    assert!(chosen[4] == 0 && near(chosen[5], 5000), "{chosen:?}");
}

#[test]
fn no_bucket_with_a_weight_is_no_live_bucket() {
    let pipeline = bridge(
        group(GroupType::Select, vec![(0, vec![Action::Normal])]),
        vec![],
    );
    let out = run(&pipeline, &packet(1, 2, (3, 4)));
    assert_eq!(steps(&out), [DpAction::Drop(DropCause::NoLiveBucket)]);
    assert!(out.dependencies.groups);
}

#[test]
fn what_a_bucket_writes_is_undone_with_the_packets_own_bits() {
    let write = Action::Mod(Field::IpDst, 9);
    let buckets = vec![
        (1, vec![write, Action::Output(2)]),
        (1, vec![Action::Output(3)]),
    ];
    let pipeline = bridge(group(GroupType::All, buckets), vec![Action::Output(4)]);
    let out = run(&pipeline, &packet(1, 2, (3, 4)));
    let set = |value| DpAction::Set {
        word: 3,
        value,
        mask: 0xffff_ffff,
    };
    let expected = [
        set(9),
        DpAction::Output(2),
        set(2),
        DpAction::Output(3),
        DpAction::Output(4),
    ];
    assert_eq!(steps(&out), expected);
    assert_eq!(out.mask.0[3], 0xffff_ffff);
    // Rule, group, two buckets.
    assert_eq!(out.counted.len(), 4);
    assert_eq!(out.flow, packet(1, 2, (3, 4)).to_flow());
}

#[test]
fn exit_in_a_bucket_ends_only_the_bucket() {
    let buckets = vec![(
        1,
        vec![Action::Resubmit {
            port: None,
            table: Some(9),
        }],
    )];
    let mut tables = FlowTables::new(Arc::new(StatsTable::default()));
    let flow = |table, actions| {
        let spec = FlowSpec {
            table: Some(table),
            actions,
            ..FlowSpec::default()
        };
        Change::Flow(FlowCommand::Add, Box::new(spec))
    };
    let changes = [
        Change::AddGroup(group(GroupType::Indirect, buckets)),
        flow(0, vec![Action::Group(1), Action::Output(3)]),
        flow(9, vec![Action::Output(2), Action::Exit, Action::Output(4)]),
    ];
    tables.apply(&changes, 0).unwrap();
    let out = run(&tables.pipeline(), &packet(1, 2, (3, 4)));
    assert_eq!(steps(&out), [DpAction::Output(2), DpAction::Output(3)]);
}
