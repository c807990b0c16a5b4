//! Rules' counts, megaflows' counts, ports' counts: the same packets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringway_frontend::NetDriver;
use ringway_tests::daemon::DaemonOptions;
use ringway_tests::frames::{Frame, Payload, arp, mac, plain, tcp, udp};
use ringway_tests::lab::{Lab, Rule, Sent};
use ringway_tests::scripted::{LIMIT, even_balance};
use ringway_tests::wait;

/// Each packet belongs to one rule of table 0, and that sends it to table 1 or not.
const PARTITION: &str = "priority=9,udp,tp_dst=53,actions=vm2
     priority=8,udp,actions=mod_nw_dst:10.9.9.9,resubmit(,1)
     priority=7,tcp,actions=drop
     priority=6,arp,actions=flood
     priority=0,actions=goto_table:1
     table=1,udp,actions=vm2,dec_ttl,vm3
     table=1,priority=0,actions=normal";

fn daemon(arguments: &[&str]) -> DaemonOptions {
    DaemonOptions {
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        ..DaemonOptions::default()
    }
}

/// Frame number `n` of a mixture.
fn mixed(n: u32) -> Frame {
    let port = 1000 + (n % 97) as u16;
    match n % 5 {
        0 => udp().payload(Payload::Udp(port, 53, vec![0; 3])),
        1 => udp().payload(Payload::Udp(port, 54, vec![0; 30])),
        2 => tcp().payload(Payload::Tcp(port, 80, 2, vec![0; 300])),
        3 => arp(),
        _ => plain().with(|frame| frame.src = mac((n % 7) as u8)),
    }
}

/// Sends until it is told to stop; receives whatever comes. Ends with the
/// number of frames and bytes, and the guests.
fn traffic(
    mut from: NetDriver,
    mut to: Vec<NetDriver>,
    stop: Arc<AtomicBool>,
) -> thread::JoinHandle<(u64, u64)> {
    thread::spawn(move || {
        let (mut frames, mut bytes) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..16 {
                let frame = mixed(frames as u32).bytes();
                if from.send(0, &frame) {
                    frames += 1;
                    bytes += frame.len() as u64;
                }
            }
            for guest in &mut to {
                while guest.recv(0).is_some() {}
            }
            while from.recv(0).is_some() {}
            thread::sleep(Duration::from_micros(200));
        }
        assert!(from.flush(0, LIMIT), "the switch did not take all frames");
        (frames, bytes)
    })
}

/// Packets of the rules that every packet meets exactly one of.
fn in_table_0(rules: &[Rule]) -> (u64, u64) {
    let first = rules.iter().filter(|rule| rule.table == 0);
    first.fold((0, 0), |(packets, bytes), rule| {
        (packets + rule.packets, bytes + rule.bytes)
    })
}

#[test]
fn counts_add_up_after_and_during_traffic() {
    let mut lab = Lab::start_with(
        daemon(&["--max-idle", "200"]),
        &[("vm1", 0), ("vm2", 0), ("vm3", 0)],
    )
    .unwrap();
    lab.load(PARTITION).unwrap();
    let mut guest = |port| lab.guests.remove(port).unwrap();
    let (from, to) = (guest("vm1"), vec![guest("vm2"), guest("vm3")]);
    let stop = Arc::new(AtomicBool::new(false));
    let sender = traffic(from, to, Arc::clone(&stop));

    // What is asked for later has counted at least as much, whoever counts.
    let of_megaflows = |lab: &Lab| -> u64 {
        let megaflows = lab.megaflows().unwrap();
        megaflows.iter().map(|megaflow| megaflow.packets).sum()
    };
    let mut last = 0;
    for _ in 0..12 {
        let one = in_table_0(&lab.rules().unwrap()).0;
        let two = of_megaflows(&lab);
        let three = in_table_0(&lab.rules().unwrap()).0;
        let four = lab.daemon.port("vm1").unwrap().rx_packets;
        assert!(last <= one, "rules' counts went down: {last}, then {one}");
        assert!(
            one <= two && two <= three,
            "rules {one}, megaflows {two}, rules {three}"
        );
        assert!(
            three <= four,
            "rules count {three} packets, the port only {four}"
        );
        last = one;
    }
    assert!(
        last > 1000,
        "there was no traffic to speak of: {last} packets"
    );
    stop.store(true, Ordering::Relaxed);
    let (frames, bytes) = sender.join().unwrap();

    // Afterwards it is all the same number.
    even_balance(&lab.daemon).unwrap();
    let rules = lab.rules().unwrap();
    assert_eq!(in_table_0(&rules), (frames, bytes), "{rules:#?}");
    assert_eq!(of_megaflows(&lab), frames);
    let port = lab.daemon.port("vm1").unwrap();
    assert_eq!((port.rx_packets, port.rx_bytes), (frames, bytes));
    let of = |text: &str| {
        let mut found = rules
            .iter()
            .filter(|rule| rule.table == 0 && rule.matching == text);
        found
            .next()
            .unwrap_or_else(|| panic!("no rule {text}: {rules:#?}"))
            .packets
    };
    let fifth = |kind| (0..frames).filter(|n| n % 5 == kind).count() as u64;
    assert_eq!(of("udp,tp_dst=53"), fifth(0));
    assert_eq!(of("udp"), fifth(1));
    assert_eq!(of("tcp"), fifth(2));
    assert_eq!(of("arp"), fifth(3));
    assert_eq!(of(""), fifth(4));
    let second: u64 = rules
        .iter()
        .filter(|rule| rule.table == 1)
        .map(|rule| rule.packets)
        .sum();
    assert_eq!(second, fifth(1) + fifth(4));
    let dropped: u64 = lab
        .daemon
        .drops()
        .unwrap()
        .iter()
        .filter(|drop| drop.reason == "flow_drop")
        .map(|drop| drop.packets)
        .sum();
    assert_eq!(dropped, fifth(2));

    let cache = lab.cache().unwrap();
    assert_eq!(cache.hits + cache.missed + cache.lost, frames, "{cache:?}");
    let tables = lab.daemon.json(&["dump-tables", "br0"]).unwrap();
    let table = |number: usize| tables["tables"][number].clone();
    for (number, looked_up) in [(0, frames), (1, fifth(1) + fifth(4))] {
        let shown = table(number);
        assert_eq!(shown["table"], number, "{tables}");
        assert_eq!(shown["lookups"], looked_up, "{shown}");
        assert_eq!(shown["matched"], looked_up, "{shown}");
    }
    assert_eq!(
        (&table(0)["active"], &table(1)["active"]),
        (&5.into(), &2.into())
    );
}

/// Its megaflow goes; what it counted stays with the rule.
#[test]
fn idle_megaflows_expire_and_their_counts_stay() {
    let mut lab = Lab::start_with(daemon(&["--max-idle", "1"]), &[("vm1", 0), ("vm2", 0)]).unwrap();
    lab.load("udp,actions=vm2").unwrap();
    let got = [("vm2", udp().bytes())];
    for round in 1..=2u64 {
        for _ in 0..5 {
            lab.expect("vm1", &Sent::from(&udp()), &got).unwrap();
        }
        assert_eq!(lab.megaflows().unwrap().len(), 1);
        assert_eq!(lab.cache().unwrap().missed, round);
        wait::until("the megaflow to expire", LIMIT, || {
            match lab.cache().unwrap() {
                cache if cache.flows == 0 => Ok(()),
                cache => Err(cache),
            }
        })
        .unwrap();
        assert_eq!(lab.megaflows().unwrap(), []);
        let rules = lab.rules().unwrap();
        assert_eq!(rules[0].packets, 5 * round, "{rules:?}");
        assert_eq!(lab.cache().unwrap().masks, 0);
    }
    // One that is used stays, however long it takes.
    lab.expect("vm1", &Sent::from(&udp()), &got).unwrap();
    for _ in 0..12 {
        thread::sleep(Duration::from_millis(250));
        lab.expect("vm1", &Sent::from(&udp()), &got).unwrap();
    }
    assert_eq!(lab.cache().unwrap().missed, 3);
}

/// Timeouts end flows, by the clock or for want of packets; also those that
/// megaflows hide from the rules.
#[test]
fn timeouts_end_flows_for_good() {
    let mut lab = Lab::start(&[("vm1", 0), ("vm2", 0)]).unwrap();
    lab.load(
        "priority=3,udp,idle_timeout=1,actions=vm2
         priority=3,tcp,hard_timeout=2,actions=vm2
         priority=3,arp,actions=vm2
         priority=1,idle_timeout=1,icmp,actions=vm2",
    )
    .unwrap();
    let there = |lab: &Lab| -> Vec<String> {
        let mut rules: Vec<String> = lab
            .rules()
            .unwrap()
            .into_iter()
            .map(|rule| rule.matching)
            .collect();
        rules.sort();
        rules
    };
    // Traffic keeps the first, and not the second.
    let (mut saw_tcp_end, begin) = (false, std::time::Instant::now());
    while begin.elapsed() < Duration::from_secs(4) {
        lab.expect("vm1", &Sent::from(&udp()), &[("vm2", udp().bytes())])
            .unwrap();
        let tcp_came = lab
            .expect("vm1", &Sent::from(&tcp()), &[("vm2", tcp().bytes())])
            .is_ok();
        assert!(!(saw_tcp_end && tcp_came), "the flow came back");
        saw_tcp_end |= !tcp_came;
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(there(&lab), ["arp", "udp"]);
    wait::until("the idle flow to end", LIMIT, || match there(&lab) {
        rules if rules == ["arp"] => Ok(()),
        rules => Err(rules),
    })
    .unwrap();
    lab.expect("vm1", &Sent::from(&udp()), &[]).unwrap();
    lab.daemon.kill();
    lab.guests.clear();
    lab.daemon.start_again().unwrap();
    assert_eq!(there(&lab), ["arp"]);
}
