//! The flow journal: what was answered comes back, what was not is cut off,
//! damage is told, history is compacted.

use std::fs;
use std::path::Path;

use ringway_datapath::flows::FlowTotals;
use ringway_datapath::spec::{BridgeSpec, FailMode};
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringwayd::flow_text;
use ringwayd::flows::{Flows, FlowsError};
use ringwayd::journal::{Journal, JournalError, path_beside};
use ringwayd::switch::Switch;
use tempfile::tempdir;

use crate::daemon::journal as content;
use crate::fake::Fake;

const NOW: u64 = 1_764_064_111_123;

fn secure(name: &str) -> BridgeSpec {
    BridgeSpec {
        fail_mode: FailMode::Secure,
        ..BridgeSpec::new(name)
    }
}

fn change(line: &str) -> Change {
    flow_text::parse_journal_line(line).unwrap()
}

fn open(dir: &Path) -> Result<Flows, JournalError> {
    Journal::open(&dir.join("state.toml")).map(Flows::new)
}

fn write(dir: &Path, text: &str) {
    fs::write(path_beside(&dir.join("state.toml")), text).unwrap();
}

/// A datapath with empty bridges whose flows were loaded.
fn loaded(flows: &Flows, bridges: &[BridgeSpec], now: u64) -> Fake {
    let fake = Fake::default();
    for bridge in bridges {
        fake.add_bridge(bridge.clone()).unwrap();
        flows.load(&fake, bridge, now).unwrap();
    }
    fake
}

/// The flows of a bridge as lines of the journal.
fn lines(fake: &Fake, bridge: &str) -> Vec<String> {
    let rules = fake.rules(bridge, &FlowSpec::default()).unwrap();
    let line = |status: &ringway_datapath::flows::RuleStatus| {
        let spec = ringwayd::flows::spec_of(&status.rule);
        flow_text::journal_line(&Change::Flow(FlowCommand::Add, Box::new(spec)))
    };
    rules.iter().map(line).collect()
}

#[test]
fn changes_are_readable_lines_and_come_back() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    assert!(!path_beside(&dir.path().join("state.toml")).exists());
    let fake = loaded(&flows, &[BridgeSpec::new("br0"), secure("br1")], NOW);
    let changes = [
        change("meter add meter=1,kbps,burst,bands=type=drop,rate=1000,burst_size=50"),
        change("group add group_id=5,type=all,bucket=actions=output:1,bucket=actions=output:2"),
        change(
            "flow add table=3,priority=7,cookie=0x12,idle_timeout=60,hard_timeout=70,importance=2,send_flow_rem,tcp,tp_dst=80/0xfff0,actions=meter:1,group:5",
        ),
    ];
    flows.change(&fake, "br1", &changes, NOW + 1).unwrap();
    let delete = change("flow delete table=3,cookie=0x12/0xff,out_group=5,ip");
    let modify = change("flow modify tcp,actions=drop");
    flows
        .change(&fake, "br1", &[modify, delete], NOW + 2)
        .unwrap();
    assert_eq!(
        content(dir.path()),
        "version 1
bridge br0
flow add table=0, priority=0 actions=NORMAL
commit 1764064111.123
bridge br1
meter add meter=1,kbps,burst,bands=type=drop,rate=1000,burst_size=50
group add group_id=5,type=all,bucket=bucket_id:0,actions=output:1,bucket=bucket_id:1,actions=output:2
flow add cookie=0x12, table=3, idle_timeout=60, hard_timeout=70, send_flow_rem importance=2, \
priority=7,tcp,tp_dst=0x50/0xfff0 actions=meter:1,group:5
commit 1764064111.124
bridge br1
flow modify tcp actions=drop
flow delete table=3,cookie=0x12/0xff,out_group=5,ip
commit 1764064111.125
"
    );
    let flows = open(dir.path()).unwrap();
    let again = loaded(&flows, &[BridgeSpec::new("br0"), secure("br1")], NOW + 3);
    for bridge in ["br0", "br1"] {
        assert_eq!(lines(&again, bridge), lines(&fake, bridge));
        assert_eq!(
            again.flow_totals(bridge).unwrap(),
            fake.flow_totals(bridge).unwrap()
        );
    }
    let totals = FlowTotals {
        flows: 1,
        groups: 1,
        meters: 1,
    };
    assert_eq!(flows.totals(&again, "br1"), (Some(totals), Some(totals)));
}

#[test]
fn every_kind_of_change_reads_back() {
    for line in [
        "flow add table=0, priority=0 actions=NORMAL",
        "flow modify cookie=0x5/0xff, ip actions=output:3",
        "flow modify_strict cookie=0x5, table=1, priority=9,ip actions=output:3",
        "flow delete ",
        "flow delete_strict table=2,priority=9,tcp,in_port=1,tp_dst=80",
        "flow delete cookie=0x1/0xffffffffffffffff,out_port=LOCAL,out_group=4",
        "group add group_id=1,type=select,bucket=bucket_id:0,weight:5,actions=output:1",
        "group modify group_id=1,type=ff,bucket=bucket_id:0,watch_port:1,actions=output:1",
        "group add_or_mod group_id=1,type=indirect,bucket=bucket_id:0,actions=drop",
        "group delete group_id=7",
        "group delete group_id=all",
        "meter add meter=1,pktps,stats,bands=type=drop,rate=10",
        "meter modify meter=1,kbps,burst,stats,bands=type=drop,rate=10,burst_size=20",
        "meter delete meter=3",
        "meter delete meter=all",
    ] {
        let read = change(line);
        assert_eq!(flow_text::journal_line(&read), format!("{line}\n"));
    }
    // What was checked when it was asked for is not checked again.
    let checked = change("flow add check_overlap,ip,actions=drop");
    assert_eq!(
        flow_text::journal_line(&checked),
        "flow add ip actions=drop\n"
    );
}

#[test]
fn what_was_not_committed_is_cut_off_wherever_the_writer_was_killed() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[BridgeSpec::new("br0")], NOW);
    let path = path_beside(&dir.path().join("state.toml"));
    let before = fs::read(&path).unwrap();
    let add = [
        change("flow add ip,actions=drop"),
        change("flow add arp,actions=drop"),
    ];
    flows.change(&fake, "br0", &add, NOW).unwrap();
    let after = fs::read(&path).unwrap();
    drop(flows);
    for length in before.len()..=after.len() {
        fs::write(&path, &after[..length]).unwrap();
        let flows = open(dir.path()).unwrap_or_else(|error| panic!("{length}: {error}"));
        let whole = length == after.len();
        let kept = if whole { &after } else { &before };
        assert_eq!(&fs::read(&path).unwrap(), kept, "{length}");
        let again = loaded(&flows, &[BridgeSpec::new("br0")], NOW);
        assert_eq!(
            again.flow_totals("br0").unwrap().flows,
            if whole { 3 } else { 1 }
        );
        // And it can be added to.
        flows.change(&again, "br0", &add[..1], NOW).unwrap();
        drop(flows);
        let flows = open(dir.path()).unwrap();
        let again = loaded(&flows, &[BridgeSpec::new("br0")], NOW);
        assert_eq!(
            again.flow_totals("br0").unwrap().flows,
            if whole { 3 } else { 2 }
        );
    }
    // Blocks that never reached the disk read as zeros, even before a commit
    // line that did.
    let mut torn = after.clone();
    let at = before.len() + 12;
    torn[at..at + 9].fill(0);
    fs::write(&path, &torn).unwrap();
    open(dir.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn damage_in_what_was_committed_is_told_by_line_and_left() {
    let whole = "# comment\nversion 1\nbridge br0\nflow add ip,actions=drop\ncommit 1.000\n\n\
                 bridge br0\nflow add arp,actions=drop\ncommit 2.000\n";
    let cases = [
        (whole.replace("version 1", "version 2"), 2, "version 2"),
        (
            whole.replace("version 1\n", ""),
            2,
            "begins its journal with version 1",
        ),
        (
            whole.replace("ip,actions=drop", "ip,actions=fool"),
            4,
            "fool",
        ),
        (whole.replace("flow add arp", "flow add arpp"), 8, "arpp"),
        (whole.replace("flow add ip", "flowers ip"), 4, ""),
        (
            whole.replace("commit 1.000", "commit 1.00"),
            5,
            "is no time",
        ),
        (
            whole.replacen("bridge br0\n", "", 1),
            3,
            "before its bridge",
        ),
        (
            whole.replace("commit 1.000", "bridge br1"),
            5,
            "within a transaction",
        ),
        (whole.replace("flow add ip", "flow \0dd ip"), 4, ""),
    ];
    for (text, line, telling) in cases {
        let dir = tempdir().unwrap();
        write(dir.path(), &text);
        match open(dir.path()).err() {
            Some(JournalError::Damaged { line: at, why, .. }) => {
                assert_eq!(at, line, "{why}\n{text}");
                assert!(why.contains(telling), "{telling}: {why}");
            }
            other => panic!("{other:?}\n{text}"),
        }
        let path = path_beside(&dir.path().join("state.toml"));
        assert_eq!(fs::read_to_string(path).unwrap(), text, "left as it is");
    }
}

#[test]
fn a_change_that_is_refused_or_cannot_be_stored_leaves_no_trace() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[BridgeSpec::new("br0")], NOW);
    let before = content(dir.path());
    let bad = [
        change("flow add ip,actions=drop"),
        change("flow add ip,actions=group:9"),
    ];
    let error = flows.change(&fake, "br0", &bad, NOW).unwrap_err();
    assert!(
        matches!(error, FlowsError::Refused { index: 1, .. }),
        "{error}"
    );
    assert_eq!(
        (content(dir.path()), lines(&fake, "br0").len()),
        (before.clone(), 1)
    );

    let error = flows.change(&fake, "br9", &bad[..1], NOW).unwrap_err();
    assert!(matches!(error, FlowsError::NoBridge(_)), "{error}");

    // A directory in the place of a journal that is to be made.
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[secure("br1")], NOW);
    fs::create_dir(path_beside(&dir.path().join("state.toml"))).unwrap();
    let error = flows.change(&fake, "br1", &bad[..1], NOW).unwrap_err();
    assert!(matches!(error, FlowsError::Journal(_)), "{error}");
    assert!(error.to_string().contains("as they were"), "{error}");
    assert!(lines(&fake, "br1").is_empty());
    fs::remove_dir(path_beside(&dir.path().join("state.toml"))).unwrap();
    flows.change(&fake, "br1", &bad[..1], NOW).unwrap();
}

#[test]
fn history_is_compacted_and_what_is_live_stays() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let bridges = [BridgeSpec::new("br0"), secure("empty"), secure("gone")];
    let fake = loaded(&flows, &bridges, NOW);
    let setup = [
        change("meter add meter=1,pktps,bands=type=drop,rate=10"),
        // 1 uses 2: it must be written behind it.
        change("group add group_id=2,type=indirect,bucket=actions=output:2"),
        change("group add group_id=1,type=indirect,bucket=actions=group:2"),
        change("flow add priority=1,actions=meter:1,group:1"),
        change("flow add hard_timeout=1000,arp,actions=drop"),
    ];
    flows.change(&fake, "br0", &setup, NOW).unwrap();
    for bridge in ["empty", "gone"] {
        let once = [change("flow add ip,actions=drop"), change("flow delete ip")];
        flows.change(&fake, bridge, &once, NOW).unwrap();
    }
    let all = |_: &str| true;
    assert!(
        !flows.compact(&fake, &all, false, NOW).unwrap(),
        "nothing to gain"
    );
    for _ in 0..2_500 {
        let flap = [
            change("flow add udp,actions=drop"),
            change("flow delete udp"),
        ];
        flows.change(&fake, "br0", &flap, NOW + 5_000).unwrap();
    }
    let (before, wanted) = (flows.journal_lines(), lines(&fake, "br0"));
    assert!(before > 10_000);
    let desired = |name: &str| name != "gone";
    assert!(flows.compact(&fake, &desired, false, NOW + 5_000).unwrap());
    assert!(flows.journal_lines() < 30, "{}", flows.journal_lines());
    let text = content(dir.path());
    assert!(!text.contains("gone"), "{text}");
    assert!(text.contains("bridge empty\ncommit"), "{text}");
    // What comes later is added behind it.
    let later = [change("flow add tcp,actions=drop")];
    flows.change(&fake, "br0", &later, NOW + 6_000).unwrap();
    drop(flows);

    let flows = open(dir.path()).unwrap();
    let again = loaded(
        &flows,
        &[BridgeSpec::new("br0"), BridgeSpec::new("empty")],
        NOW + 7_000,
    );
    let mut expected = wanted;
    expected.push("flow add table=0, tcp actions=drop\n".into());
    let mut found = lines(&again, "br0");
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(again.flow_totals("br0").unwrap().groups, 2);
    assert!(
        lines(&again, "empty").is_empty(),
        "its flows were deleted, not never there"
    );
}

#[test]
fn a_rewrite_that_fails_leaves_the_journal() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[BridgeSpec::new("br0")], NOW);
    for _ in 0..20 {
        let flap = [
            change("flow add udp,actions=drop"),
            change("flow delete udp"),
        ];
        flows.change(&fake, "br0", &flap, NOW).unwrap();
    }
    let before = content(dir.path());
    let draft = dir.path().join(".state.toml.flows.new");
    fs::create_dir(&draft).unwrap();
    flows.compact(&fake, &|_| true, true, NOW).unwrap_err();
    assert_eq!(content(dir.path()), before);
    flows
        .change(&fake, "br0", &[change("flow add tcp,actions=drop")], NOW)
        .unwrap();
    fs::remove_dir(&draft).unwrap();
    assert!(flows.compact(&fake, &|_| true, true, NOW).unwrap());
    assert!(content(dir.path()).lines().count() < 8);
}

#[test]
fn a_bridge_that_is_not_up_keeps_its_part_of_the_journal() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[secure("br0"), secure("br1")], NOW);
    for (bridge, at) in [("br1", 1), ("br0", 2), ("br1", 3)] {
        let add = format!("flow add priority={at},hard_timeout=100,actions=drop");
        flows
            .change(&fake, bridge, &[change(&add)], NOW + at)
            .unwrap();
    }
    drop(flows);
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[secure("br0")], NOW);
    for _ in 0..20 {
        let flap = [
            change("flow add udp,actions=drop"),
            change("flow delete udp"),
        ];
        flows.change(&fake, "br0", &flap, NOW).unwrap();
    }
    assert!(flows.compact(&fake, &|_| true, true, NOW).unwrap());
    let text = content(dir.path());
    let kept = "bridge br1
flow add hard_timeout=100, priority=1 actions=drop
commit 1764064111.124
bridge br1
flow add hard_timeout=100, priority=3 actions=drop
commit 1764064111.126
";
    assert!(text.contains(kept), "{text}");
    fake.add_bridge(secure("br1")).unwrap();
    flows.load(&fake, &secure("br1"), NOW).unwrap();
    assert_eq!(lines(&fake, "br1").len(), 2);
}

#[test]
fn hard_timeouts_count_from_when_a_flow_was_added_also_over_restarts() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[secure("br0")], NOW);
    let timed = |priority: u32, hard: u32| {
        change(&format!(
            "flow add priority={priority},hard_timeout={hard},actions=drop"
        ))
    };
    let add = [
        timed(1, 10),
        timed(2, 60),
        timed(3, 60),
        timed(4, 60),
        timed(5, 0),
    ];
    flows.change(&fake, "br0", &add, NOW).unwrap();
    // 4 is modified later, which is when its time begins anew.
    let modify = change("flow modify_strict priority=4,actions=output:1");
    flows.change(&fake, "br0", &[modify], NOW + 30_000).unwrap();
    drop(flows);

    // A restart after 20 s: the first is over.
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[secure("br0")], NOW + 20_000);
    let priorities = |fake: &Fake| {
        let rules = fake.rules("br0", &FlowSpec::default()).unwrap();
        rules
            .iter()
            .map(|status| status.rule.priority)
            .collect::<Vec<_>>()
    };
    assert_eq!(priorities(&fake), [5, 4, 3, 2]);
    assert!(content(dir.path()).contains("flow delete_strict table=0,priority=1\n"));
    // Another keeps the time over a compaction and a second restart.
    for _ in 0..20 {
        let flap = [
            change("flow add udp,actions=drop"),
            change("flow delete udp"),
        ];
        flows.change(&fake, "br0", &flap, NOW + 21_000).unwrap();
    }
    assert!(flows.compact(&fake, &|_| true, true, NOW + 22_000).unwrap());
    drop(flows);
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[secure("br0")], NOW + 40_000);
    assert_eq!(priorities(&fake), [5, 4, 3, 2]);
    // 3 is added once more: that one has its whole time before it.
    std::thread::sleep(std::time::Duration::from_millis(150));
    flows
        .change(&fake, "br0", &[timed(3, 60)], NOW + 41_000)
        .unwrap();
    assert_eq!(flows.expire(&fake, NOW + 59_000), 0);
    assert_eq!(flows.expire(&fake, NOW + 61_000), 1);
    assert_eq!(priorities(&fake), [5, 4, 3]);
    assert_eq!(
        flows.expire(&fake, NOW + 91_000),
        1,
        "30 s later, as it was modified"
    );
    assert_eq!(priorities(&fake), [5, 3]);
    // The datapath's own clock ends the new one.
    fake.state().ahead = std::time::Duration::from_secs(62);
    assert_eq!(flows.expire(&fake, NOW + 102_000), 1);
    assert_eq!(priorities(&fake), [5]);
    let totals = flows.totals(&fake, "br0");
    assert_eq!(totals.0, totals.1);
    drop(flows);
    let flows = open(dir.path()).unwrap();
    assert_eq!(
        priorities(&loaded(&flows, &[secure("br0")], NOW + 103_000)),
        [5]
    );
}

#[test]
fn a_forgotten_bridge_begins_anew() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[BridgeSpec::new("br0")], NOW);
    flows
        .change(&fake, "br0", &[change("flow delete")], NOW)
        .unwrap();
    flows.forget("br0", NOW);
    fake.del_bridge("br0").unwrap();
    drop(flows);
    for round in 0..2 {
        let flows = open(dir.path()).unwrap();
        let fake = loaded(&flows, &[BridgeSpec::new("br0")], NOW);
        assert_eq!(
            lines(&fake, "br0"),
            ["flow add table=0, priority=0 actions=NORMAL\n"]
        );
        assert_eq!(content(dir.path()).matches("forget").count(), 1, "{round}");
    }
}

#[test]
fn adding_one_flow_to_many_is_one_line_and_one_call() {
    let dir = tempdir().unwrap();
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[secure("br0")], NOW);
    let many: Vec<_> = (0..20_000u32)
        .map(|n| {
            let (high, low) = (n >> 8, n & 255);
            change(&format!(
                "flow add ip,nw_dst=10.0.{high}.{low},actions=output:1"
            ))
        })
        .collect();
    flows.change(&fake, "br0", &many, NOW).unwrap();
    let path = path_beside(&dir.path().join("state.toml"));
    let before = fs::metadata(&path).unwrap().len();
    fake.state().flow_calls.clear();
    flows
        .change(&fake, "br0", &[change("flow add arp,actions=drop")], NOW)
        .unwrap();
    assert_eq!(fake.state().flow_calls, [("br0".to_owned(), 1)]);
    assert!(fs::metadata(&path).unwrap().len() - before < 100);
    drop(flows);
    // Loaded in steps, not as one copy of everything.
    let flows = open(dir.path()).unwrap();
    let fake = loaded(&flows, &[secure("br0")], NOW);
    assert_eq!(fake.flow_totals("br0").unwrap().flows, 20_001);
    assert!(
        fake.state()
            .flow_calls
            .iter()
            .all(|(_, changes)| *changes < 10_000)
    );
}
