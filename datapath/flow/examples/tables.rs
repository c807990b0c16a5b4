//! What lookups and changes of big tables cost, and what rules take:
//! `cargo run --release -p ringway-flow --example tables`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_flow::action::Action;
use ringway_flow::field::Field;
use ringway_flow::key::FlowKey;
use ringway_flow::matching::Match;
use ringway_flow::pipeline::FlowTables;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringway_flow::stats::StatsTable;

const MILLION: u32 = 1_000_000;

/// Scattered, the same in each run.
fn scatter(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1).rotate_left(13) ^ 0x5bd1_e995
}

/// TCP from one address and port to others.
fn connection(number: u32) -> Match {
    let mut matching = Match::default();
    matching
        .exact(Field::InPort, 1)
        .exact(Field::EthType, 0x800)
        .exact(Field::IpProto, 6)
        .exact(Field::IpSrc, scatter(number).into())
        .exact(Field::IpDst, scatter(!number).into())
        .exact(Field::TcpSrc, u128::from(number % 60_000))
        .exact(Field::TcpDst, 80);
    matching
}

fn add(priority: u16, matching: Match) -> Change {
    let spec = FlowSpec {
        table: Some(0),
        priority,
        matching,
        actions: vec![Action::Output(2)],
        ..FlowSpec::default()
    };
    Change::Flow(FlowCommand::Add, Box::new(spec))
}

fn tables() -> FlowTables {
    FlowTables::new(Arc::new(StatsTable::default()))
}

fn apply(tables: &mut FlowTables, changes: &[Change]) -> Duration {
    let start = Instant::now();
    let applied = tables.apply(changes, 0);
    let took = start.elapsed();
    assert!(applied.is_ok_and(|applied| applied.added + applied.deleted > 0));
    took
}

/// Nanoseconds of one lookup, the middle of five runs.
fn lookup(tables: &FlowTables, flows: &[FlowKey]) -> u128 {
    let pipeline = tables.pipeline();
    let Some(table) = pipeline.table(0) else {
        return 0;
    };
    let mut runs = [(); 5].map(|()| {
        let start = Instant::now();
        for flow in flows {
            let mut looked_at = FlowKey::default();
            black_box(table.lookup(black_box(flow), &mut looked_at));
            black_box(looked_at);
        }
        start.elapsed().as_nanos() / flows.len() as u128
    });
    runs.sort_unstable();
    runs[2]
}

/// Resident kilobytes of this process.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Rules of as many masks: prefixes of sources and destinations.
fn masks(count: u32) -> Vec<Change> {
    let one = |mask: u32| {
        let prefix = |bits: u32| (u128::MAX << (32 - bits)) & 0xffff_ffff;
        let mut matching = Match::default();
        let (source, destination) = (prefix(8 + mask / 16), prefix(8 + mask % 16));
        matching
            .exact(Field::EthType, 0x800)
            .masked(Field::IpSrc, scatter(mask).into(), source)
            .masked(Field::IpDst, scatter(!mask).into(), destination);
        add(100 + mask as u16, matching)
    };
    (0..count).map(one).collect()
}

fn main() {
    let flows: Vec<_> = (0..100_000).map(|n| connection(scatter(n)).key).collect();
    for count in [1, 10, 100] {
        let mut tables = tables();
        let mut changes = masks(count);
        changes.push(add(1, Match::default()));
        apply(&mut tables, &changes);
        println!(
            "lookup, {count} subtables that miss and one that hits: {} ns",
            lookup(&tables, &flows)
        );
    }

    let before = resident();
    let mut tables = tables();
    let bundle =
        |from: u32, to: u32| -> Vec<Change> { (from..to).map(|n| add(5, connection(n))).collect() };
    println!(
        "bundle of 100,000 adds into no rules: {:?}",
        apply(&mut tables, &bundle(0, 100_000))
    );
    for from in (100_000..MILLION).step_by(100_000) {
        apply(&mut tables, &bundle(from, from + 100_000));
    }
    let kilobytes = resident() - before;
    println!(
        "{} rules: {} B each by the process' size, {} B by FlowTables::memory",
        tables.len(),
        kilobytes * 1024 / tables.len(),
        tables.memory() / tables.len()
    );
    let hits: Vec<_> = (0..MILLION)
        .step_by(10)
        .map(|n| connection(scatter(n) % MILLION).key)
        .collect();
    println!("lookup, 1 M rules, hit: {} ns", lookup(&tables, &hits));
    println!("lookup, 1 M rules, miss: {} ns", lookup(&tables, &flows));
    println!(
        "bundle of 100,000 adds into 1 M rules: {:?}",
        apply(&mut tables, &bundle(MILLION, MILLION + 100_000))
    );

    let mut single = Vec::new();
    let mut snapshot = tables.pipeline();
    for n in 0..2_000 {
        let change = [add(5, connection(2 * MILLION + n))];
        let start = Instant::now();
        let applied = tables.apply(&change, 0);
        snapshot = tables.pipeline();
        single.push(start.elapsed());
        assert!(applied.is_ok());
    }
    drop(snapshot);
    single.sort_unstable();
    println!(
        "one add into 1.1 M rules and a snapshot: median {:?}, 99 % below {:?}",
        single[1_000], single[1_980]
    );

    let deletes: Vec<_> = bundle(0, 100_000)
        .into_iter()
        .map(|change| match change {
            Change::Flow(_, spec) => Change::Flow(FlowCommand::Delete, spec),
            other => other,
        })
        .collect();
    println!(
        "bundle of 100,000 loose deletes of one rule each: {:?}",
        apply(&mut tables, &deletes)
    );
}
