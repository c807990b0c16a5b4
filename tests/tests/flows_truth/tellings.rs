//! `trace`, `dpctl` and `dump-tables` beside what really happens.

use std::thread;
use std::time::Duration;

use ringway_tests::frames::{arp, hex, mac, tcp, udp};
use ringway_tests::lab::{BRIDGE, Lab, Sent};
use ringway_tests::scripted::LIMIT;

const RULES: &str = "priority=9,udp,nw_dst=10.0.0.0/8,actions=set_field:7->reg3,resubmit(,4),vm3
     priority=8,arp,actions=drop
     table=4,priority=2,reg3=7,udp,actions=mod_nw_dst:192.0.2.7,dec_ttl,vm2
     table=4,priority=1,actions=drop";

fn lab() -> Lab {
    let lab = Lab::start(&[("vm1", 0), ("vm2", 0), ("vm3", 0)]).unwrap();
    lab.load(RULES).unwrap();
    lab
}

/// What follows a closing line's name.
fn closing<'t>(trace: &'t str, name: &str) -> &'t str {
    let mut lines = trace.lines().filter_map(|line| line.strip_prefix(name));
    lines
        .next_back()
        .unwrap_or_else(|| panic!("no {name} in\n{trace}"))
        .trim()
}

#[test]
fn a_trace_says_what_the_megaflow_then_does() {
    let mut lab = lab();
    let bytes = udp().bytes();
    let by_fields = "in_port=vm1,udp,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,\
                     nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_ttl=64,tp_src=1000,tp_dst=53";
    let by_frame = lab
        .daemon
        .ok(&["trace", BRIDGE, "in_port=vm1", &hex(&bytes)])
        .unwrap();
    let trace = lab.daemon.ok(&["trace", BRIDGE, by_fields]).unwrap();
    for name in ["Final flow:", "Megaflow:", "Datapath actions:"] {
        assert_eq!(closing(&trace, name), closing(&by_frame, name), "{name}");
    }
    // Tables and rules in the order in which they were visited.
    let places: Vec<usize> = [
        "bridge(\"br0\")",
        " 0. udp,nw_dst=10.0.0.0/8, priority 9",
        "reg3",
        " 4. udp,reg3=0x7, priority 2",
        "Final flow:",
        "Megaflow:",
        "Datapath actions:",
    ]
    .iter()
    .map(|part| {
        trace
            .find(part)
            .unwrap_or_else(|| panic!("no {part:?} in\n{trace}"))
    })
    .collect();
    assert!(places.is_sorted(), "{places:?} in\n{trace}");
    assert!(
        closing(&trace, "Final flow:").contains("reg3=0x7"),
        "{trace}"
    );

    // A trace sends nothing and counts nothing.
    assert!(lab.collect().is_empty());
    assert!(lab.rules().unwrap().iter().all(|rule| rule.packets == 0));
    assert_eq!(lab.cache().unwrap().flows, 0);

    let changed = udp().v4(|p| (p.dst, p.ttl) = ([192, 0, 2, 7].into(), 63));
    let got = [("vm2", changed.bytes()), ("vm3", changed.bytes())];
    lab.expect("vm1", &Sent::from(bytes), &got).unwrap();
    let megaflows = lab.megaflows().unwrap();
    assert_eq!(megaflows.len(), 1, "{megaflows:?}");
    let shown = (lab.daemon.ok(&["dpctl", "dump-flows", "--names"])).unwrap();
    let actions = format!("actions:{}\n", closing(&trace, "Datapath actions:"));
    assert!(shown.ends_with(&actions), "{shown} and not {actions}");
    // Ports and addresses that were not looked at are not in the mask.
    let flow = &megaflows[0].flow;
    assert!(
        flow.contains("dst=10.0.0.0/255.0.0.0") && flow.contains("ttl=64"),
        "{flow}"
    );
    assert!(!flow.contains("udp(") && !flow.contains("53"), "{flow}");
}

/// Waits with `trace --next` while `sent` frames go by.
fn caught(lab: &mut Lab, matching: &str, frames: &[Vec<u8>]) -> String {
    let words = [
        "trace",
        "--port",
        "vm1",
        "--next",
        matching,
        "--timeout",
        "10",
    ];
    let Lab { daemon, guests, .. } = lab;
    let daemon = &*daemon;
    thread::scope(|scope| {
        let told = scope.spawn(move || daemon.ok(&words).unwrap());
        while !told.is_finished() {
            let guest = guests.get_mut("vm1").unwrap();
            for frame in frames {
                assert!(guest.send(0, frame));
            }
            assert!(guest.flush(0, LIMIT));
            for guest in guests.values_mut() {
                while guest.recv(0).is_some() {}
            }
            thread::sleep(Duration::from_millis(10));
        }
        told.join().unwrap()
    })
}

#[test]
fn the_next_packet_is_told_as_it_was_handled() {
    let mut lab = lab();
    let frames = [tcp().bytes(), arp().bytes(), udp().bytes()];
    let told = caught(&mut lab, "udp", &frames);
    let packet = format!(
        "Packet: {} bytes from vm1 (1): {}",
        frames[2].len(),
        hex(&frames[2])
    );
    for part in [
        &packet,
        "Sent to: vm2 (2), vm3 (3)",
        "Datapath actions:",
        "megaflow",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    let told = caught(&mut lab, "arp", &frames);
    for part in [&hex(&frames[1]), "Dropped: flow_drop"] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    let told = caught(&mut lab, "", &frames[..1]);
    assert!(told.contains("Dropped: no_flow"), "{told}");
    // Nobody comes.
    let complaint = lab.daemon.fails(&[
        "trace",
        "--port",
        "vm2",
        "--next",
        "udp",
        "--timeout",
        "0.3",
    ]);
    assert!(complaint.unwrap().contains("vm2"));
    // And the packets after that go on as before.
    let changed = udp().v4(|p| (p.dst, p.ttl) = ([192, 0, 2, 7].into(), 63));
    let got = [("vm2", changed.bytes()), ("vm3", changed.bytes())];
    lab.expect("vm1", &Sent::from(&udp()), &got).unwrap();
}

#[test]
fn tables_and_megaflows_are_printed_in_open_vswitchs_forms() {
    let mut lab = lab();
    for _ in 0..3 {
        lab.send("vm1", &Sent::from(&udp())).unwrap();
        lab.send("vm1", &Sent::from(&tcp())).unwrap();
    }
    let run = |words: &[&str]| lab.daemon.ok(words).unwrap();
    let tables = run(&["dump-tables", BRIDGE]);
    for part in [
        "  table 0:\n    active=2, lookup=6, matched=3\n",
        "  table 4:\n    active=2, lookup=3, matched=3\n",
        "  tables 6...254: ditto\n",
    ] {
        assert!(tables.contains(part), "no {part:?} in\n{tables}");
    }
    let shown = run(&["dpctl", "show"]);
    for part in [
        "  lookups: hit:4 missed:2 lost:0\n",
        "  flows: 2\n",
        "  masks: hit:",
        "  port 1: vm1 (vhost-user:",
        "  port 3: vm3 (vhost-user:",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let numbers = run(&["dpctl", "dump-flows", "--no-names"]);
    assert!(
        numbers.starts_with("flow-dump from pmd on cpu core:"),
        "{numbers}"
    );
    let names = run(&["dpctl", "dump-flows", "--names"]);
    let line = |text: &str| {
        let mut lines = text.lines().filter(|line| line.contains("192.0.2.7"));
        lines.next().unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let (numbers, names) = (line(&numbers), line(&names));
    assert!(
        numbers.contains("in_port(1)") && numbers.contains("packets:3, bytes:"),
        "{numbers}"
    );
    assert!(
        names.contains("in_port(vm1)") && names.ends_with("vm2,vm3"),
        "{names}"
    );
    let other = run(&["dpctl", "dump-flows", "vm2"]);
    assert!(!other.contains("in_port(1)"), "{other}");

    let flows = run(&["dump-flows", BRIDGE, "udp,table=4"]);
    assert!(flows.contains("n_packets=3, n_bytes="), "{flows}");
    assert_eq!(run(&["dpctl", "del-flows"]), "");
    assert!(lab.megaflows().unwrap().is_empty());
}

/// A bridge that only learns tells who talks to whom, as Open vSwitch does.
#[test]
fn a_learning_bridge_shows_its_conversations() {
    let mut lab = Lab::start(&[("vm1", 0), ("vm2", 0), ("vm3", 0)]).unwrap();
    lab.load("actions=normal").unwrap();
    let way = |from, to| udp().with(|frame| (frame.src, frame.dst) = (mac(from), mac(to)));
    let (ask, answer) = (way(1, 2), way(2, 1));
    lab.send("vm1", &Sent::from(&ask)).unwrap();
    for _ in 0..3 {
        lab.send("vm2", &Sent::from(&answer)).unwrap();
        lab.send("vm1", &Sent::from(&ask)).unwrap();
    }
    let len = ask.bytes().len() as u64;
    let expect = |lab: &Lab, from: (u64, &str), to: &str, (packets, actions): (u64, String)| {
        let flow = format!(
            "recirc_id(0),in_port({}),packet_type(ns=0,id=0),eth(src={},dst={to}),\
             eth_type(0x0800),ipv4(frag=no)",
            from.0, from.1
        );
        let shown = lab.megaflows().unwrap();
        let found = shown.iter().find(|one| one.flow == flow);
        let found = found.unwrap_or_else(|| panic!("no {flow} in {shown:#?}"));
        assert_eq!((found.packets, found.bytes), (packets, packets * len));
        assert_eq!(found.actions, actions);
    };
    let numbers = ["vm1", "vm2", "vm3"].map(|port| lab.number(port));
    let (one, two) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
    expect(&lab, (numbers[0], one), two, (4, numbers[1].to_string()));
    expect(&lab, (numbers[1], two), one, (3, numbers[0].to_string()));
    // As many lines as are told of, and as many packets as the rule counts.
    let shown = lab.megaflows().unwrap();
    assert_eq!((shown.len() as u64, lab.cache().unwrap().flows), (2, 2));
    assert_eq!(lab.rules().unwrap()[0].packets, 7);
    // The station moves; what is shown is where NORMAL sends its packets now.
    lab.send("vm3", &Sent::from(&way(2, 9))).unwrap();
    expect(&lab, (numbers[0], one), two, (4, numbers[2].to_string()));
    let names = lab.daemon.ok(&["dpctl", "dump-flows", "--names"]).unwrap();
    assert!(
        names.contains("in_port(vm1)") && names.contains("actions:vm3\n"),
        "{names}"
    );
}
