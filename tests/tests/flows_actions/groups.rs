//! Groups of all four types, and meters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ringway_tests::frames::{Frame, Payload, mac, plain, udp};
use ringway_tests::lab::{BRIDGE, Failures, Lab, Sent};
use ringway_tests::scripted::LIMIT;
use ringway_tests::wait;

fn flow(port: u16) -> Frame {
    udp().payload(Payload::Udp(port, 53, vec![1, 2, 3]))
}

/// Where frames of 64 flows go, each sent twice: which must be the same place.
fn spread(lab: &mut Lab, failures: &mut Failures, case: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for port in 0..64 {
        let places = [(); 2].map(|()| {
            let outputs = lab.send("vm1", &Sent::from(&flow(2000 + port))).unwrap();
            let places: Vec<String> = outputs.keys().cloned().collect();
            places
        });
        let outcome = match &places {
            [one, two] if one == two && one.len() == 1 => Ok(()),
            _ => Err(format!("a flow went to {places:?}")),
        };
        failures.note(case, outcome);
        for place in &places[0] {
            *counts.entry(place.clone()).or_default() += 1;
        }
    }
    counts
}

/// `all` gives each bucket a copy of its own, `indirect` has one bucket.
pub fn all_and_indirect(lab: &mut Lab, failures: &mut Failures) {
    let changed = |last| plain().with(|f| f.dst = mac(last)).bytes();
    let cases = [
        (
            "group add group_id=7,type=all,bucket=mod_dl_dst:02:00:00:00:00:09,vm2,\
             bucket=vm3,bucket=mod_dl_dst:02:00:00:00:00:0a,vm4
             actions=group:7,vm5",
            vec![
                ("vm2", changed(9)),
                ("vm3", plain().bytes()),
                ("vm4", changed(10)),
                // What buckets do to their copies is not seen behind the group.
                ("vm5", plain().bytes()),
            ],
        ),
        (
            "group add group_id=7,type=indirect,bucket=push_vlan:0x8100,vm2
             actions=group:7",
            vec![("vm2", plain().tagged(0x8100, 0).bytes())],
        ),
        (
            "group add group_id=7,type=all
             actions=group:7,vm3",
            vec![("vm3", plain().bytes())],
        ),
        (
            "group add group_id=8,type=indirect,bucket=vm3
             group add group_id=7,type=all,bucket=group:8,bucket=vm2
             actions=group:7",
            vec![("vm3", plain().bytes()), ("vm2", plain().bytes())],
        ),
        // In the action set a group takes the place of an output.
        (
            "group add group_id=7,type=indirect,bucket=vm2
             actions=write_actions(group:7,output:vm3)",
            vec![("vm2", plain().bytes())],
        ),
    ];
    for (rules, expected) in cases {
        lab.load(rules)
            .unwrap_or_else(|error| panic!("{rules}: {error}"));
        for _ in 0..2 {
            failures.note(rules, lab.expect("vm1", &Sent::from(&plain()), &expected));
        }
    }
    let shown = lab.daemon.json(&["dump-group-stats", BRIDGE]).unwrap();
    let group = &shown["groups"][0];
    let outcome = match (&group["packets"], &group["buckets"][0]["packets"]) {
        (packets, bucket) if *packets == 2 && *bucket == 2 => Ok(()),
        _ => Err(format!("{shown}")),
    };
    failures.note("a group's counters", outcome);
}

/// `select` keeps a flow where it is, and shares by weight.
pub fn select(lab: &mut Lab, failures: &mut Failures) {
    lab.load(
        "group add group_id=1,type=select,bucket=weight:100,vm2,bucket=weight:100,vm3
         actions=group:1",
    )
    .unwrap();
    let even = spread(lab, failures, "select");
    let outcome = match (even.get("vm2"), even.get("vm3")) {
        // Of 64 flows 32 are expected; fewer than 12 happens less than once in a million.
        (Some(12..), Some(12..)) if even.len() == 2 => Ok(()),
        _ => Err(format!("{even:?}")),
    };
    failures.note("select with equal weights", outcome);

    lab.load(
        "group add group_id=1,type=select,bucket=weight:1,vm2,bucket=weight:15,vm3,bucket=weight:0,vm4
         actions=group:1",
    )
    .unwrap();
    let uneven = spread(lab, failures, "select by weight");
    let outcome = match (uneven.get("vm3"), uneven.get("vm4")) {
        (Some(45..), None) => Ok(()),
        _ => Err(format!("{uneven:?}")),
    };
    failures.note("select with weights 1, 15 and 0", outcome);

    // All flows of one source together.
    lab.load(
        "group add group_id=1,type=select,selection_method=hash,fields(ip_src),\
         bucket=weight:100,vm2,bucket=weight:100,vm3
         actions=group:1",
    )
    .unwrap();
    let together = spread(lab, failures, "select by ip_src");
    let outcome = match together.len() {
        1 => Ok(()),
        _ => Err(format!("{together:?}")),
    };
    failures.note("select by ip_src", outcome);
}

/// When the watched port's guest goes, the next bucket takes over; when it
/// comes back, so does the first.
pub fn fast_failover(lab: &mut Lab, failures: &mut Failures) {
    lab.load(
        "group add group_id=1,type=ff,bucket=watch_port:vm4,actions=vm4,\
         bucket=watch_port:vm3,actions=mod_dl_dst:02:00:00:00:00:09,vm3
         actions=group:1",
    )
    .unwrap();
    let first = [("vm4", plain().bytes())];
    let second = [("vm3", plain().with(|f| f.dst = mac(9)).bytes())];
    let sent = Sent::from(&plain());
    for _ in 0..2 {
        failures.note("fast failover: both live", lab.expect("vm1", &sent, &first));
    }
    lab.unplug("vm4").unwrap();
    // Nothing but the port's state tells; a megaflow of before must not stay.
    let taken_over = wait::until("the other bucket", LIMIT, || {
        lab.expect("vm1", &sent, &second)
    });
    failures.note(
        "fast failover: the other bucket",
        taken_over.map_err(|e| e.to_string()),
    );
    for _ in 0..3 {
        failures.note(
            "fast failover: it stays so",
            lab.expect("vm1", &sent, &second),
        );
    }
    lab.plug_in("vm4", 0).unwrap();
    let back = wait::until("the first bucket", LIMIT, || {
        lab.expect("vm1", &sent, &first)
    });
    failures.note("fast failover: back again", back.map_err(|e| e.to_string()));
}

/// A meter lets its rate pass, no more by much and no less by much.
pub fn meters(lab: &mut Lab, failures: &mut Failures) {
    const RATE: f64 = 400.0;
    const BURST: f64 = 40.0;
    lab.load(&format!(
        "meter add meter=3,pktps,burst,stats,bands=type=drop,rate={RATE},burst_size={BURST}
         priority=2,udp,actions=meter:3,vm2
         priority=1,actions=vm3"
    ))
    .unwrap();
    let dropped = |lab: &Lab| -> u64 {
        let drops = lab.daemon.drops().unwrap().into_iter();
        let drops = drops.filter(|drop| drop.reason == "meter_exceeded" && drop.port == "vm1");
        drops.map(|drop| drop.packets).sum()
    };
    let before = dropped(lab);
    let metered = vec![Sent::from(&udp()); 32];
    let (begin, mut sent, mut passed) = (Instant::now(), 0u64, 0u64);
    while begin.elapsed() < Duration::from_millis(1500) {
        let outputs = lab.send_all("vm1", &metered).unwrap();
        sent += metered.len() as u64;
        passed += outputs.get("vm2").map_or(0, Vec::len) as u64;
    }
    let most = RATE * begin.elapsed().as_secs_f64() + BURST;
    let passes = passed as f64;
    let outcome = match sent as f64 > 2.0 * most && passes > most / 3.0 && passes < most * 1.5 {
        true => Ok(()),
        false => Err(format!(
            "{passed} of {sent} passed, about {most:.0} should have"
        )),
    };
    failures.note("a meter's rate", outcome);
    let exceeded = dropped(lab) - before;
    let outcome = match exceeded + passed == sent {
        true => Ok(()),
        false => Err(format!(
            "{sent} sent, {passed} passed, {exceeded} counted as exceeding"
        )),
    };
    failures.note("what exceeds the meter is counted", outcome);
    let shown = lab.daemon.json(&["meter-stats", BRIDGE]).unwrap();
    let meter = &shown["meters"][0];
    let outcome = match meter["packets"] == sent && meter["band_packets"] == exceeded {
        true => Ok(()),
        false => Err(format!("{sent} sent, {exceeded} exceeded: {meter}")),
    };
    failures.note("meter-stats", outcome);
    // Others are not metered.
    let others = lab.expect("vm1", &Sent::from(&plain()), &[("vm3", plain().bytes())]);
    failures.note("beside the meter", others);

    // Kilobits: 1 kbit/s with a burst of 2 kbit is two frames of 125 bytes.
    lab.load(
        "meter add meter=3,kbps,burst,bands=type=drop,rate=1,burst_size=2
         actions=meter:3,vm2",
    )
    .unwrap();
    let frame = plain()
        .with(|f| f.padding = 125 - plain().bytes().len())
        .bytes();
    let outputs = lab.send_all("vm1", &vec![frame.into(); 20]).unwrap();
    let passed = outputs.get("vm2").map_or(0, Vec::len);
    let outcome = match passed {
        1..=4 => Ok(()),
        _ => Err(format!("{passed} frames passed")),
    };
    failures.note("a meter in kbps", outcome);
}
