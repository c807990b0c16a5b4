//! Which verdicts survive which changes.

use proptest::prelude::*;

use super::*;
use crate::key::{FlowKey, PACKET_WORDS};

/// A megaflow as a lookup in table 0 alone makes it.
struct Megaflow {
    version: u32,
    dependencies: Dependencies,
    key: [u64; PACKET_WORDS],
    mask: [u64; PACKET_WORDS],
    flow: FlowKey,
    rule: Option<StatsId>,
}

impl Megaflow {
    fn of(pipeline: &Pipeline, flow: FlowKey) -> Self {
        let mut looked_at = FlowKey::default();
        let table = pipeline.table(0);
        let rule = table.and_then(|table| table.lookup(&flow, &mut looked_at));
        Self {
            version: pipeline.version(),
            dependencies: Dependencies {
                tables: 1,
                ..Dependencies::default()
            },
            key: flow.masked(&looked_at).packet().0,
            mask: looked_at.packet().0,
            flow,
            rule: rule.map(|rule| rule.stats),
        }
    }

    fn is_stale(&self, pipeline: &Pipeline) -> bool {
        pipeline.is_stale(self.version, &self.dependencies, &self.key, &self.mask)
    }
}

fn tcp(port: u16) -> Match {
    *in_port(port)
        .exact(Field::EthType, 0x800)
        .exact(Field::IpProto, 6)
}

#[test]
fn a_change_touches_the_megaflows_that_it_may_meet() {
    let mut tables = tables();
    tables.apply(&[add(flow(5, in_port(1), 2))], 0).unwrap();
    let pipeline = tables.pipeline();
    let meets = Megaflow::of(&pipeline, tcp(1).key);
    let elsewhere = Megaflow::of(&pipeline, tcp(2).key);
    let other_table = Dependencies {
        tables: 2,
        ..Dependencies::default()
    };
    assert!(!meets.is_stale(&pipeline) && !elsewhere.is_stale(&pipeline));

    tables.apply(&[add(flow(9, tcp(1), 3))], 0).unwrap();
    let pipeline = tables.pipeline();
    assert!(meets.is_stale(&pipeline));
    assert!(!elsewhere.is_stale(&pipeline));
    assert!(!pipeline.is_stale(meets.version, &other_table, &meets.key, &meets.mask));
    // Actions changed the word in which the two differ.
    let rewritten = Dependencies {
        modified: 1,
        ..elsewhere.dependencies
    };
    assert!(pipeline.is_stale(
        elsewhere.version,
        &rewritten,
        &elsewhere.key,
        &elsewhere.mask
    ));
    // One made since holds; one of a version to come, or none, does not.
    assert!(!Megaflow::of(&pipeline, tcp(1).key).is_stale(&pipeline));
    assert!(pipeline.is_stale(
        pipeline.version() + 1,
        &other_table,
        &meets.key,
        &meets.mask
    ));

    // Deleting touches the same ones; another's cookie none.
    let now = Megaflow::of(&pipeline, tcp(1).key);
    let mut cookie = flow(9, tcp(1), 3);
    cookie.cookie = 5;
    tables
        .apply(&[change(FlowCommand::ModifyStrict, cookie)], 0)
        .unwrap();
    assert!(!now.is_stale(&tables.pipeline()));
    tables
        .apply(&[change(FlowCommand::DeleteStrict, flow(9, tcp(1), 3))], 0)
        .unwrap();
    assert!(now.is_stale(&tables.pipeline()));
}

#[test]
fn many_changed_rules_are_their_table() {
    let mut tables = tables();
    let megaflow = Megaflow::of(&tables.pipeline(), tcp(1).key);
    let with_mask = |pipeline: &Pipeline| {
        pipeline.is_stale(
            megaflow.version,
            &megaflow.dependencies,
            &tcp(1).key.packet().0,
            &tcp(1).mask.packet().0,
        )
    };
    let many = |from: u16, count: u16| -> Vec<Change> {
        (from..from + count)
            .map(|port| add(flow(5, in_port(port), 2)))
            .collect()
    };
    tables.apply(&many(10, 32), 0).unwrap();
    assert!(!with_mask(&tables.pipeline()));
    tables.apply(&many(100, 33), 0).unwrap();
    assert!(with_mask(&tables.pipeline()));
    let other_table = Dependencies {
        tables: 2,
        ..Dependencies::default()
    };
    assert!(
        !tables
            .pipeline()
            .is_stale(1, &other_table, &megaflow.key, &megaflow.mask)
    );
}

#[test]
fn old_versions_are_stale() {
    let mut tables = tables();
    let start = tables.pipeline().version();
    let elsewhere = |pipeline: &Pipeline| {
        let dependencies = Dependencies {
            tables: 2,
            ..Dependencies::default()
        };
        pipeline.is_stale(
            start,
            &dependencies,
            &tcp(1).key.packet().0,
            &tcp(1).mask.packet().0,
        )
    };
    for port in 0..128 {
        tables.apply(&[add(flow(5, in_port(port), 2))], 0).unwrap();
        assert!(!elsewhere(&tables.pipeline()), "after {port}");
    }
    tables.apply(&[add(flow(5, in_port(500), 2))], 0).unwrap();
    assert!(elsewhere(&tables.pipeline()));
}

#[test]
fn groups_meters_and_ports_touch_who_used_them() {
    let mut tables = tables();
    tables
        .apply(
            &[Change::AddMeter(meter(1, 5)), add(flow(1, in_port(9), 1))],
            0,
        )
        .unwrap();
    let stale = |tables: &FlowTables, version: u32, groups: bool| {
        let dependencies = Dependencies {
            tables: 1,
            groups,
            ..Dependencies::default()
        };
        let pipeline = tables.pipeline();
        pipeline.is_stale(
            version,
            &dependencies,
            &tcp(1).key.packet().0,
            &tcp(1).mask.packet().0,
        )
    };
    let version = tables.pipeline().version();
    // Nobody watches ports while there are no groups.
    tables.set_live_ports(&[1; 16]);
    assert!(!stale(&tables, version, true));
    tables
        .apply(&[Change::AddGroup(group(1, vec![]))], 0)
        .unwrap();
    assert!(stale(&tables, version, true) && !stale(&tables, version, false));

    let version = tables.pipeline().version();
    tables.set_live_ports(&[1; 16]);
    assert_eq!(tables.pipeline().version(), version);
    tables.set_live_ports(&[2; 16]);
    assert!(stale(&tables, version, true) && !stale(&tables, version, false));

    let version = tables.pipeline().version();
    tables
        .apply(&[Change::ModifyMeter(meter(1, 9))], 0)
        .unwrap();
    assert!(!stale(&tables, version, true));
    assert_eq!(tables.pipeline().meter(1).unwrap().rate, 9);
    tables.apply(&[Change::DeleteMeters(Some(2))], 0).unwrap();
    assert!(!stale(&tables, version, true));
    tables.apply(&[Change::DeleteMeters(Some(1))], 0).unwrap();
    assert!(stale(&tables, version, false));
}

fn a_match() -> impl Strategy<Value = Match> {
    let address = (0..4u128, prop::sample::select(vec![0u32, 8, 31, 32]));
    (
        prop::option::of(1..3u16),
        address,
        prop::option::of(1..3u128),
    )
        .prop_map(|(port, (address, bits), tcp_port)| {
            let mut matching = port.map(in_port).unwrap_or_default();
            let mask = 0xffff_ffff_u128.unbounded_shl(32 - bits) & 0xffff_ffff;
            matching.masked(Field::IpDst, 0x0a00_0000 + address, mask);
            if let Some(port) = tcp_port {
                matching.exact(Field::TcpDst, port);
            }
            matching
        })
}

fn a_flow() -> impl Strategy<Value = FlowKey> {
    (1..4u16, 0..5u128, 0..4u128).prop_map(|(port, address, tcp_port)| {
        let mut flow = in_port(port);
        flow.exact(Field::IpDst, 0x0a00_0000 + address)
            .exact(Field::TcpDst, tcp_port);
        flow.key
    })
}

proptest! {
    /// As long as a megaflow is not called stale, every packet of it gets the
    /// rule that it was made with.
    #[test]
    fn what_is_not_stale_is_still_right(
        bundles in prop::collection::vec(
            prop::collection::vec((0..5u8, 0..3u16, a_match()), 1..4), 1..30),
        flows in prop::collection::vec(a_flow(), 10),
    ) {
        let mut tables = tables();
        let mut megaflows: Vec<Megaflow> = Vec::new();
        for (at, bundle) in bundles.iter().enumerate() {
            let changes: Vec<_> = bundle.iter().map(|(kind, priority, matching)| {
                let command = match kind {
                    0 => FlowCommand::Delete,
                    1 => FlowCommand::DeleteStrict,
                    _ => FlowCommand::Add,
                };
                change(command, flow(*priority, *matching, 1))
            }).collect();
            tables.apply(&changes, 0).unwrap();
            let pipeline = tables.pipeline();
            megaflows.push(Megaflow::of(&pipeline, flows[at % flows.len()]));
            for megaflow in &megaflows {
                if megaflow.is_stale(&pipeline) {
                    continue;
                }
                for flow in std::iter::once(&megaflow.flow).chain(&flows) {
                    let agrees = |i: usize| (flow.0[i] ^ megaflow.key[i]) & megaflow.mask[i] == 0;
                    if (0..PACKET_WORDS).all(agrees) {
                        let now = Megaflow::of(&pipeline, *flow);
                        prop_assert_eq!(now.rule, megaflow.rule);
                    }
                }
            }
        }
    }
}
