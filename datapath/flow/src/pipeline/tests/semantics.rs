//! What each change does.

use super::*;
use crate::rule::Rule;
use crate::stats::{Counts, MAX_STATS};

fn ok(tables: &mut FlowTables, changes: &[Change], now_ms: u64) -> Applied {
    tables.apply(changes, now_ms).expect("they are possible")
}

fn refused(tables: &mut FlowTables, changes: &[Change]) -> (usize, ErrorCode) {
    let before = listing(tables);
    let version = tables.pipeline().version();
    let (index, error) = tables.apply(changes, 0).expect_err("one is not possible");
    assert!(error.to_string().contains(error.code.name()), "{error}");
    assert_eq!(listing(tables), before);
    assert_eq!(tables.pipeline().version(), version);
    (index, error.code)
}

/// All rules, for comparison.
fn listing(tables: &FlowTables) -> Vec<String> {
    let rules = tables.rules(&FlowSpec::default());
    let text = |rule: &Arc<Rule>| format!("{rule:?}");
    rules.iter().map(text).collect()
}

fn only(tables: &FlowTables) -> Arc<Rule> {
    let rules = tables.rules(&FlowSpec::default());
    assert_eq!(rules.len(), 1);
    rules[0].clone()
}

#[test]
fn add_replaces_and_counts_anew() {
    let mut tables = tables();
    ok(&mut tables, &[add(flow(5, in_port(1), 2))], 100);
    let old = only(&tables);
    let cell = |id| tables.stats().clone().cell(id).map(|cell| cell.read());
    assert_eq!(cell(old.stats), Some(Counts::default()));

    let applied = ok(&mut tables, &[add(flow(5, in_port(1), 3))], 200);
    assert_eq!((applied.added, applied.deleted), (1, 0));
    assert!(Arc::ptr_eq(&applied.removed[0], &old));
    let new = only(&tables);
    assert_ne!(new.stats, old.stats);
    assert_eq!(*new.actions, [Action::Output(3)]);
    assert_eq!(new.created_ms, 200);
    assert_eq!(tables.pipeline().version(), 3);
}

#[test]
fn a_new_cell_takes_nothing_from_megaflows_of_before() {
    let mut tables = tables();
    let stats = tables.stats().clone();
    let counts = Counts {
        packets: 1,
        bytes: 60,
        used_ms: 9,
    };
    ok(&mut tables, &[add(flow(5, in_port(1), 2))], 0);
    let first = only(&tables).stats;
    let made = tables.pipeline().version();
    assert!(stats.cell(first).unwrap().add_if(counts, made));
    let all = change(FlowCommand::Delete, FlowSpec::default());
    ok(&mut tables, &[all], 0);

    // Within two seconds the cell rests, then another rule has it.
    ok(&mut tables, &[add(flow(5, in_port(2), 2))], 1_999);
    assert_ne!(only(&tables).stats, first);
    ok(&mut tables, &[add(flow(6, in_port(3), 2))], 2_000);
    let owner = &tables.rules(&FlowSpec::default())[0];
    assert_eq!((owner.priority, owner.stats), (6, first));
    let cell = stats.cell(first).unwrap();
    assert!(!cell.add_if(counts, made));
    assert_eq!(cell.read(), Counts::default());
    assert!(cell.add_if(counts, tables.pipeline().version()));
}

#[test]
fn check_overlap_refuses_what_overlaps() {
    let mut tables = tables();
    ok(&mut tables, &[add(flow(5, in_port(1), 2))], 0);
    let mut other = flow(5, Match::default(), 3);
    other.matching.exact(Field::EthType, 0x800);
    other.flags.check_overlap = true;
    let changes = [add(flow(9, in_port(4), 2)), add(other.clone())];
    assert_eq!(refused(&mut tables, &changes), (1, ErrorCode::Overlap));

    // Another priority, another port, or the same match: none overlaps.
    other.priority = 6;
    ok(&mut tables, &[add(other.clone())], 0);
    ok(&mut tables, &[add(other.clone())], 0);
    other.priority = 5;
    other.matching.exact(Field::InPort, 2);
    ok(&mut tables, &[add(other)], 0);
    assert_eq!(tables.len(), 3);
}

#[test]
fn modify_keeps_what_open_vswitch_keeps() {
    let mut tables = tables();
    let mut spec = flow(5, in_port(1), 2);
    spec.cookie = 7;
    spec.idle_timeout = 10;
    spec.flags.send_flow_rem = true;
    ok(&mut tables, &[add(spec.clone())], 100);
    let old = only(&tables);

    let mut other = flow(1, Match::default(), 9);
    other.table = None;
    other.hard_timeout = 3;
    let applied = ok(
        &mut tables,
        &[change(FlowCommand::Modify, other.clone())],
        300,
    );
    assert_eq!(
        (applied.modified, applied.added, applied.removed.len()),
        (1, 0, 0)
    );
    let new = only(&tables);
    assert_eq!(*new.actions, [Action::Output(9)]);
    assert_eq!((new.stats, new.cookie, new.priority), (old.stats, 7, 5));
    assert_eq!((new.idle_timeout, new.hard_timeout), (10, 0));
    assert_eq!((new.created_ms, new.modified_ms), (100, 300));
    assert!(new.flags.send_flow_rem);

    // A cookie without a mask is a new cookie.
    other.cookie = 8;
    ok(
        &mut tables,
        &[change(FlowCommand::Modify, other.clone())],
        0,
    );
    assert_eq!(only(&tables).cookie, 8);
    // With a mask it says which; there is none, and none is added.
    other.cookie = 9;
    other.cookie_mask = u64::MAX;
    let version = tables.pipeline().version();
    let applied = ok(
        &mut tables,
        &[change(FlowCommand::Modify, other.clone())],
        0,
    );
    assert_eq!((applied.modified, applied.added), (0, 0));
    assert_eq!(tables.pipeline().version(), version);

    // reset_counts: another cell, with the last use of the old one.
    let used = Counts {
        packets: 5,
        bytes: 300,
        used_ms: 250,
    };
    tables.stats().cell(old.stats).unwrap().add(used);
    let mut reset = flow(1, Match::default(), 9);
    reset.flags.reset_counts = true;
    let applied = ok(&mut tables, &[change(FlowCommand::Modify, reset)], 0);
    assert_eq!(applied.removed[0].stats, old.stats);
    let cell = tables.stats().cell(only(&tables).stats).unwrap().read();
    assert_eq!((cell.packets, cell.bytes, cell.used_ms), (0, 0, 250));
    assert!(!only(&tables).flags.reset_counts);
}

#[test]
fn modify_adds_what_is_not_there() {
    let mut tables = tables();
    let applied = ok(
        &mut tables,
        &[change(FlowCommand::ModifyStrict, flow(5, in_port(1), 2))],
        0,
    );
    assert_eq!((applied.added, applied.modified), (1, 0));
    let applied = ok(
        &mut tables,
        &[change(FlowCommand::ModifyStrict, flow(6, in_port(1), 2))],
        0,
    );
    assert_eq!((applied.added, applied.modified), (1, 0));
    let applied = ok(
        &mut tables,
        &[change(FlowCommand::Modify, flow(7, in_port(1), 3))],
        0,
    );
    assert_eq!((applied.added, applied.modified), (0, 2));
}

#[test]
fn deletes_by_output_look_at_the_rules_own_actions() {
    let mut tables = tables();
    let mut nested = flow(1, in_port(1), 2);
    nested.actions = vec![Action::WriteActions(vec![
        Action::Output(7),
        Action::Group(1),
    ])];
    let normal = FlowSpec {
        actions: vec![Action::Normal],
        ..flow(2, in_port(1), 2)
    };
    let through_group = FlowSpec {
        actions: vec![Action::Group(2)],
        ..flow(3, in_port(1), 2)
    };
    let changes = [
        Change::AddGroup(group(1, vec![])),
        Change::AddGroup(group(2, vec![bucket(0, vec![Action::Output(7)])])),
        add(nested),
        add(normal),
        add(through_group),
    ];
    ok(&mut tables, &changes, 0);
    let by = |port: Option<u16>, group: Option<u32>| FlowSpec {
        out_port: port,
        out_group: group,
        ..FlowSpec::default()
    };
    let priorities = |tables: &FlowTables, spec: FlowSpec| -> Vec<u16> {
        tables
            .rules(&spec)
            .iter()
            .map(|rule| rule.priority)
            .collect()
    };
    assert_eq!(priorities(&tables, by(Some(7), None)), [1]);
    assert_eq!(priorities(&tables, by(Some(0xfffa), None)), [2]);
    assert_eq!(priorities(&tables, by(None, Some(2))), [3]);
    assert_eq!(priorities(&tables, by(Some(7), Some(1))), [1]);
    assert_eq!(priorities(&tables, by(Some(7), Some(2))), [0u16; 0]);
    let applied = ok(
        &mut tables,
        &[change(FlowCommand::Delete, by(Some(7), None))],
        0,
    );
    assert_eq!((applied.deleted, applied.removed[0].priority), (1, 1));
}

#[test]
fn unknown_groups_meters_and_tables_are_refused() {
    let mut tables = tables();
    let with = |action: Action| FlowSpec {
        actions: vec![action],
        ..flow(1, in_port(1), 2)
    };
    let one = |action| [add(with(action))];
    assert_eq!(
        refused(&mut tables, &one(Action::Group(1))),
        (0, ErrorCode::BadOutGroup)
    );
    assert_eq!(
        refused(&mut tables, &one(Action::Meter(1))),
        (0, ErrorCode::InvalidMeter)
    );
    assert_eq!(
        refused(&mut tables, &one(Action::GotoTable(0))),
        (0, ErrorCode::BadGoto)
    );
    assert_eq!(
        refused(&mut tables, &one(Action::GotoTable(255))),
        (0, ErrorCode::BadGoto)
    );
    let nested = Action::WriteActions(vec![Action::Group(1)]);
    assert_eq!(
        refused(&mut tables, &one(nested)),
        (0, ErrorCode::BadOutGroup)
    );

    ok(&mut tables, &[add(flow(1, in_port(1), 2))], 0);
    let modify = [change(FlowCommand::Modify, with(Action::Group(1)))];
    assert_eq!(refused(&mut tables, &modify), (0, ErrorCode::BadOutGroup));
    assert_eq!(
        refused(&mut tables, &[Change::ModifyGroup(group(1, vec![]), false)]),
        (0, ErrorCode::UnknownGroup)
    );
    assert_eq!(
        refused(&mut tables, &[Change::ModifyMeter(meter(1, 1))]),
        (0, ErrorCode::UnknownMeter)
    );
    assert_eq!(
        refused(&mut tables, &[Change::AddGroup(group(u32::MAX, vec![]))]),
        (0, ErrorCode::InvalidGroup)
    );
    let twice = group(1, vec![bucket(3, vec![]), bucket(3, vec![])]);
    assert_eq!(
        refused(&mut tables, &[Change::AddGroup(twice)]),
        (0, ErrorCode::BucketExists)
    );
}

#[test]
fn groups_and_meters_take_their_rules_along() {
    let mut tables = tables();
    let uses = |priority, action| FlowSpec {
        actions: vec![action],
        ..flow(priority, in_port(1), 2)
    };
    let changes = [
        Change::AddGroup(group(1, vec![bucket(0, vec![Action::Output(1)])])),
        Change::AddMeter(meter(4, 1000)),
        add(uses(1, Action::Group(1))),
        add(uses(2, Action::Meter(4))),
        add(uses(3, Action::Output(4))),
    ];
    ok(&mut tables, &changes, 10);
    assert_eq!(
        refused(&mut tables, &changes[..1]),
        (0, ErrorCode::GroupExists)
    );
    assert_eq!(
        refused(&mut tables, &changes[1..2]),
        (0, ErrorCode::MeterExists)
    );

    let old = tables.groups()[0].clone();
    let more = group(1, vec![bucket(0, vec![]), bucket(1, vec![])]);
    ok(
        &mut tables,
        &[
            Change::ModifyGroup(more.clone(), false),
            Change::ModifyMeter(meter(4, 5)),
        ],
        20,
    );
    let new = tables.groups()[0].clone();
    assert_eq!(
        (&new.spec, new.bucket_stats.len(), new.created_ms),
        (&more, 2, 10)
    );
    assert_ne!(new.stats, old.stats);
    assert_eq!(tables.pipeline().meter(4).unwrap().rate, 5);
    assert_eq!(tables.meters()[0].rate, 5);

    let applied = ok(&mut tables, &[Change::DeleteGroups(Some(1))], 0);
    assert_eq!((applied.deleted, applied.removed[0].priority), (1, 1));
    let applied = ok(
        &mut tables,
        &[Change::DeleteMeters(None), Change::DeleteGroups(None)],
        0,
    );
    assert_eq!((applied.deleted, applied.removed[0].priority), (1, 2));
    assert_eq!(
        (
            only(&tables).priority,
            tables.groups().len(),
            tables.meters().len()
        ),
        (3, 0, 0)
    );
    ok(&mut tables, &[Change::ModifyGroup(more, true)], 0);
    assert!(tables.pipeline().group(1).is_some());
}

#[test]
fn groups_do_not_lead_back_to_themselves() {
    let mut tables = tables();
    let to = |id| vec![bucket(0, vec![Action::Group(id)])];
    assert_eq!(
        refused(&mut tables, &[Change::AddGroup(group(1, to(1)))]),
        (0, ErrorCode::GroupLoop)
    );
    // A group that is not there yet is no mistake, as in Open vSwitch.
    ok(
        &mut tables,
        &[
            Change::AddGroup(group(1, to(2))),
            Change::AddGroup(group(2, to(3))),
        ],
        0,
    );
    assert_eq!(
        refused(&mut tables, &[Change::AddGroup(group(3, to(1)))]),
        (0, ErrorCode::GroupLoop)
    );
    let watch = |id| {
        let mut bucket = bucket(0, vec![]);
        bucket.watch_group = Some(id);
        group(3, vec![bucket])
    };
    assert_eq!(
        refused(&mut tables, &[Change::AddGroup(watch(2))]),
        (0, ErrorCode::GroupLoop)
    );
    ok(&mut tables, &[Change::AddGroup(watch(4))], 0);
    assert_eq!(
        refused(&mut tables, &[Change::ModifyGroup(watch(1), false)]),
        (0, ErrorCode::GroupLoop)
    );
}

#[test]
fn buckets_live_with_what_they_watch() {
    let mut tables = tables();
    let watching = |id, port, group| Bucket {
        watch_port: port,
        watch_group: group,
        ..bucket(id, vec![])
    };
    let inner = group(
        1,
        vec![watching(0, Some(3), None), watching(1, Some(70), None)],
    );
    ok(&mut tables, &[Change::AddGroup(inner)], 0);
    let live =
        |tables: &FlowTables, port, group| tables.pipeline().is_live(&watching(9, port, group));
    assert!(live(&tables, Some(3), None));
    let mut ports = [0; 16];
    tables.set_live_ports(&ports);
    assert!(!live(&tables, Some(3), None));
    assert!(!live(&tables, None, Some(1)));
    assert!(!live(&tables, None, Some(2)));
    assert!(!live(&tables, Some(5000), None));
    assert!(live(&tables, None, None));
    assert!(live(&tables, Some(PORT_LOCAL), None));
    ports[1] = 1 << 6;
    tables.set_live_ports(&ports);
    assert!(live(&tables, None, Some(1)));
    assert!(live(&tables, Some(3), Some(1)));
    assert!(live(&tables, Some(70), None));
    assert!(!live(&tables, Some(3), None));
}

#[test]
fn watching_many_dead_groups_ends() {
    let mut tables = tables();
    tables.set_live_ports(&[0; 16]);
    let mut changes = Vec::new();
    for id in 1..=40 {
        let dead = Bucket {
            watch_group: Some(id - 1),
            ..bucket(0, vec![])
        };
        let again = Bucket {
            id: 1,
            ..dead.clone()
        };
        changes.push(Change::AddGroup(group(id, vec![dead, again])));
    }
    ok(&mut tables, &changes, 0);
    let top = Bucket {
        watch_group: Some(40),
        ..bucket(0, vec![])
    };
    assert!(!tables.pipeline().is_live(&top));
}

#[test]
fn too_many_rules_change_nothing() {
    let mut tables = tables();
    tables.ids.leave(2);
    let three = [1, 2, 3].map(|port| add(flow(1, in_port(port), 2)));
    assert_eq!(refused(&mut tables, &three), (2, ErrorCode::TableFull));
    ok(&mut tables, &three[..2], 0);
    assert_eq!(refused(&mut tables, &three[2..]), (0, ErrorCode::TableFull));
    assert!((only_stats(&tables)).all(|id| (id as usize) < MAX_STATS));
}

fn only_stats(tables: &FlowTables) -> impl Iterator<Item = StatsId> {
    let rules = tables.rules(&FlowSpec::default());
    rules.into_iter().map(|rule| rule.stats)
}

#[test]
fn what_cannot_be_kept_is_not_done() {
    let mut tables = tables();
    let changes = [add(flow(5, in_port(1), 2))];
    let result = tables.apply_if(&changes, 0, || Err("disk full"));
    assert_eq!(result.unwrap_err(), "disk full");
    assert!(tables.is_empty());
    let result = tables.apply_if(&changes, 0, || Ok::<_, &str>(()));
    assert_eq!(result.unwrap().unwrap().added, 1);
    // The cell of the first attempt is no loss.
    assert_eq!(only(&tables).stats, TABLES as u32);
}

#[test]
fn matched_packets_of_removed_rules_stay_with_their_table() {
    let mut tables = tables();
    ok(&mut tables, &[add(flow(5, in_port(1), 2))], 0);
    let applied = ok(
        &mut tables,
        &[change(FlowCommand::Delete, FlowSpec::default())],
        0,
    );
    let counts = Counts {
        packets: 12,
        ..Counts::default()
    };
    tables.settle_removed(&applied.removed[0], counts);
    assert_eq!((tables.table_base(0), tables.table_base(1)), (12, 0));
}

#[test]
fn rules_expire_when_idle_or_old() {
    let mut tables = tables();
    let timed = |port, idle, hard| FlowSpec {
        idle_timeout: idle,
        hard_timeout: hard,
        ..flow(5, in_port(port), 2)
    };
    let specs = [
        timed(1, 0, 0),
        timed(2, 2, 0),
        timed(3, 0, 5),
        timed(4, 2, 5),
    ];
    ok(&mut tables, &specs.map(add), 1_000);
    let used_rule = tables.rules(&timed(4, 0, 0))[0].stats;
    let used_ms = std::cell::Cell::new(0);
    let used = |id| if id == used_rule { used_ms.get() } else { 0 };
    let ports = |tables: &mut FlowTables, now_ms| -> Vec<(u128, Expiry)> {
        let expired = tables.expire(now_ms, &used);
        let port = |rule: &Rule| Field::InPort.get(&rule.matching.full().key);
        expired
            .iter()
            .map(|(rule, why)| (port(rule), *why))
            .collect()
    };
    assert_eq!(ports(&mut tables, 3_000), []);
    used_ms.set(2_900);
    let version = tables.pipeline().version();
    assert_eq!(ports(&mut tables, 3_001), [(2, Expiry::Idle)]);
    assert_eq!(tables.pipeline().version(), version + 1);
    assert_eq!(ports(&mut tables, 4_900), []);
    used_ms.set(4_800);
    assert_eq!(ports(&mut tables, 4_901), []);
    assert_eq!(tables.pipeline().version(), version + 1);
    // Modified rules are young again.
    let modify = change(
        FlowCommand::Modify,
        FlowSpec {
            table: None,
            ..flow(5, in_port(3), 7)
        },
    );
    ok(&mut tables, &[modify], 4_901);
    used_ms.set(5_900);
    assert_eq!(ports(&mut tables, 6_001), [(4, Expiry::Hard)]);
    assert_eq!(ports(&mut tables, 9_901), []);
    assert_eq!(ports(&mut tables, 9_902), [(3, Expiry::Hard)]);
    assert_eq!(ports(&mut tables, u64::MAX), []);
    assert_eq!(tables.len(), 1);
}

#[test]
fn rules_are_listed_by_table_priority_and_age() {
    let mut tables = tables();
    let in_table = |table, priority, port| FlowSpec {
        table: Some(table),
        ..flow(priority, in_port(port), 1)
    };
    let specs = [
        in_table(1, 9, 1),
        in_table(0, 1, 3),
        in_table(0, 5, 2),
        in_table(0, 5, 1),
    ];
    ok(&mut tables, &specs.map(add), 0);
    let rules = tables.rules(&FlowSpec::default());
    let port = |rule: &Rule| Field::InPort.get(&rule.matching.full().key);
    let listed: Vec<_> = rules
        .iter()
        .map(|rule| (rule.table, rule.priority, port(rule)))
        .collect();
    assert_eq!(listed, [(0, 5, 2), (0, 5, 1), (0, 1, 3), (1, 9, 1)]);
    assert_eq!(
        (
            tables.table_len(0),
            tables.table_len(1),
            tables.table_len(2)
        ),
        (3, 1, 0)
    );
    assert!(tables.memory() > 4 * 200);
}
