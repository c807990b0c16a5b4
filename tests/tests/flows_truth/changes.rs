//! Changes of rules, seen by packets whose megaflows and cache entries are warm.

use ringway_tests::frames::{Frame, Payload, mac, plain, udp};
use ringway_tests::lab::{BRIDGE, Lab, Sent};

fn to(last: u8, port: u16) -> Frame {
    udp()
        .payload(Payload::Udp(port, 53, vec![1, 2, 3]))
        .v4(|packet| packet.dst = [10, 0, 0, last].into())
}

#[test]
fn a_change_holds_from_the_very_next_packet_on() {
    let mut lab = Lab::start(&[("vm1", 0), ("vm2", 0), ("vm3", 0)]).unwrap();
    lab.load(
        "group add group_id=1,type=indirect,bucket=vm2
         udp,actions=goto_table:1
         table=1,udp,actions=vm2
         dl_type=0x88b5,actions=group:1",
    )
    .unwrap();
    let udp_goes = |lab: &mut Lab, ports: &[&'static str]| {
        let got: Vec<_> = ports.iter().map(|port| (*port, udp().bytes())).collect();
        // The first is translated anew, the second is not.
        for _ in 0..2 {
            lab.expect("vm1", &Sent::from(&udp()), &got).unwrap();
        }
    };
    let run = |lab: &Lab, words: &[&str]| lab.daemon.ok(words).unwrap();
    udp_goes(&mut lab, &["vm2"]);
    for round in 0..25 {
        let port = ["vm3", "vm2"][round % 2];
        run(
            &lab,
            &["mod-flows", BRIDGE, &format!("table=1,udp,actions={port}")],
        );
        udp_goes(&mut lab, &[port]);
        run(
            &lab,
            &[
                "mod-group",
                BRIDGE,
                &format!("group_id=1,type=indirect,bucket={port}"),
            ],
        );
        let got = [(port, plain().bytes())];
        lab.expect("vm1", &Sent::from(&plain()), &got).unwrap();
    }
    run(
        &lab,
        &[
            "add-flow",
            BRIDGE,
            "table=1,priority=40000,udp,tp_dst=53,actions=vm2,vm3",
        ],
    );
    udp_goes(&mut lab, &["vm2", "vm3"]);
    run(
        &lab,
        &[
            "del-flows",
            "--strict",
            BRIDGE,
            "table=1,priority=40000,udp,tp_dst=53",
        ],
    );
    udp_goes(&mut lab, &["vm3"]);
    run(&lab, &["del-flows", BRIDGE, "table=1"]);
    udp_goes(&mut lab, &[]);
    run(&lab, &["add-flow", BRIDGE, "table=1,actions=vm2"]);
    udp_goes(&mut lab, &["vm2"]);
    run(&lab, &["del-flows", BRIDGE]);
    udp_goes(&mut lab, &[]);
    let file = lab
        .write("flows.txt", "udp,actions=vm3\ntcp,actions=drop\n")
        .unwrap();
    run(&lab, &["replace-flows", BRIDGE, &file]);
    udp_goes(&mut lab, &["vm3"]);
    // A bundle with one bad line changes nothing.
    let bad = lab
        .write(
            "bad.txt",
            "flow delete\nflow add udp,actions=vm2\nflow add fool\n",
        )
        .unwrap();
    let complaint = lab.daemon.fails(&["bundle", BRIDGE, &bad]).unwrap();
    assert!(complaint.contains("line 3"), "{complaint}");
    udp_goes(&mut lab, &["vm3"]);
    assert_eq!(lab.rules().unwrap().len(), 2);
}

#[test]
fn unrelated_changes_keep_megaflows() {
    let mut lab = Lab::start(&[("vm1", 0), ("vm2", 0), ("vm3", 0)]).unwrap();
    let mut rules = String::new();
    for last in 1..=32 {
        rules += &format!("priority=10,udp,nw_dst=10.0.0.{last},actions=resubmit(,2)\n");
    }
    rules += "table=2,in_port=vm1,actions=vm2\n";
    lab.load(&rules).unwrap();
    let round = |lab: &mut Lab| {
        for last in 1..=32 {
            let frame = to(last, 1000);
            lab.expect("vm1", &Sent::from(&frame), &[("vm2", frame.bytes())])
                .unwrap();
        }
    };
    round(&mut lab);
    let before = lab.cache().unwrap();
    assert_eq!((before.missed, before.flows), (32, 32));
    let changes: [&[&str]; 7] = [
        &[
            "add-flow",
            BRIDGE,
            "priority=10,udp,nw_dst=192.168.0.1,actions=vm3",
        ],
        &["add-flow", BRIDGE, "priority=99,tcp,actions=vm3"],
        &["add-flow", BRIDGE, "table=7,actions=vm3"],
        &["mod-flows", BRIDGE, "priority=99,tcp,actions=drop"],
        &["add-flow", BRIDGE, "table=2,in_port=vm3,actions=drop"],
        &["add-group", BRIDGE, "group_id=5,type=all,bucket=vm3"],
        &["del-flows", BRIDGE, "udp,nw_dst=192.168.0.1"],
    ];
    for change in changes {
        lab.daemon.ok(change).unwrap();
        round(&mut lab);
        let now = lab.cache().unwrap();
        assert_eq!((now.missed, now.flows), (32, 32), "after {change:?}");
    }
    let megaflows = lab.megaflows().unwrap();
    assert!(
        megaflows.iter().all(|megaflow| megaflow.packets == 8),
        "{megaflows:#?}"
    );
    // One of them changes: one miss.
    lab.daemon
        .ok(&[
            "mod-flows",
            BRIDGE,
            "udp,nw_dst=10.0.0.7,actions=resubmit(,2),vm3",
        ])
        .unwrap();
    let changed = to(7, 1000);
    let both = [("vm2", changed.bytes()), ("vm3", changed.bytes())];
    lab.expect("vm1", &Sent::from(&changed), &both).unwrap();
    let other = to(8, 1000);
    lab.expect("vm1", &Sent::from(&other), &[("vm2", other.bytes())])
        .unwrap();
    assert_eq!(lab.cache().unwrap().missed, 33);
}

/// NORMAL's verdicts are never cached beyond what the FDB says.
#[test]
fn a_station_that_moves_is_followed_at_once() {
    let mut lab = Lab::start(&[("vm1", 0), ("vm2", 0), ("vm3", 0)]).unwrap();
    lab.load("actions=normal").unwrap();
    let way = |from, to| plain().with(|frame| (frame.src, frame.dst) = (mac(from), mac(to)));
    let ask = way(1, 9);
    for round in 0..20 {
        let port = ["vm2", "vm3"][round % 2];
        let hello = way(9, 1);
        lab.send(port, &Sent::from(&hello)).unwrap();
        for _ in 0..2 {
            lab.expect("vm1", &Sent::from(&ask), &[(port, ask.bytes())])
                .unwrap();
        }
    }
    let cache = lab.cache().unwrap();
    assert!(cache.missed <= 3, "moves made misses: {cache:?}");
    lab.daemon.ok(&["fdb", "flush", BRIDGE]).unwrap();
    let everywhere = [("vm2", ask.bytes()), ("vm3", ask.bytes())];
    lab.expect("vm1", &Sent::from(&ask), &everywhere).unwrap();
}
