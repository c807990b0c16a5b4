//! DPDK's virtio-user ports as guests: every way that driver has over a split
//! ring, at full speed.

use std::path::Path;

use ringway_tests::counters::{Balance, Port};
use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::testpmd::{Forward, RingMode, Testpmd, VirtioUser};

/// Resident memory allowed beyond hugepages, with two ports.
const RESIDENT_LIMIT_KIB: u64 = 64 * 1024;

fn bridge(pmds: usize) -> (Daemon, Exclusive) {
    let alone = machine::exclusive().unwrap();
    let options = DaemonOptions {
        pmds,
        ..DaemonOptions::default()
    };
    let daemon = Daemon::start_with(options).unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    (daemon, alone)
}

/// Adds two ports, `NAME1` and `NAME2`; testpmd's side of them.
fn port_pair(daemon: &Daemon, name: &str, options: &[&str]) -> [VirtioUser; 2] {
    [1, 2].map(|number| {
        let port = format!("{name}{number}");
        let socket = daemon.add_vhost_port("br0", &port, options).unwrap();
        let letter = name.as_bytes()[0] - b'a';
        VirtioUser::new(socket, letter * 16 + number)
    })
}

fn names(pair: &[VirtioUser; 2]) -> [String; 2] {
    [0, 1].map(|index| {
        let stem = pair[index].path.file_stem().unwrap();
        stem.to_string_lossy().into_owned()
    })
}

fn start(
    daemon: &Daemon,
    name: &str,
    pair: &[VirtioUser; 2],
    forward: Forward,
    frame: u32,
    dir: &Path,
) -> Testpmd {
    let testpmd = Testpmd::start(name, pair, forward, frame, dir).unwrap();
    let names = names(pair);
    daemon
        .wait_forwarding(&names.each_ref().map(String::as_str))
        .unwrap();
    testpmd
}

/// The sums over all ports, and that they agree with the poll-mode cores'
/// balance and with the list of drops.
fn check_conservation(daemon: &Daemon) -> Balance {
    let balance = daemon.settled_balance().unwrap();
    assert!(balance.holds(), "packets were lost unseen: {balance:?}");
    let ports = daemon.ports().unwrap();
    let sum = |field: fn(&Port) -> u64| ports.iter().map(field).sum::<u64>();
    assert_eq!(sum(|port| port.rx_packets), balance.received, "{ports:?}");
    assert_eq!(
        sum(|port| port.tx_packets),
        balance.transmitted,
        "{ports:?}"
    );
    assert_eq!(
        sum(|port| port.rx_dropped + port.tx_dropped),
        balance.dropped,
        "{ports:?}"
    );
    let drops = daemon.drops().unwrap();
    let named: u64 = drops.iter().map(|drop| drop.packets).sum();
    assert_eq!(named, balance.dropped, "{drops:?}");
    balance
}

#[test]
fn every_ring_mode_forwards_both_ways() {
    let (daemon, _alone) = bridge(1);
    let pair = port_pair(&daemon, "a", &["mode=server"]);
    for mode in RingMode::ALL {
        for frame in [64, 1514] {
            println!("{mode:?}, {frame} bytes");
            let mut pair = pair.clone();
            for port in &mut pair {
                port.mode = mode;
            }
            let before = ["a1", "a2"].map(|name| daemon.port(name).unwrap());
            let mut testpmd = start(&daemon, "pair", &pair, Forward::Mac, frame, daemon.dir());
            testpmd.start_with_bursts(4).unwrap();
            testpmd.wait_received(10_000).unwrap();
            testpmd.stop().unwrap();
            check_conservation(&daemon);
            let guests = testpmd.stats().unwrap();
            let after = ["a1", "a2"].map(|name| daemon.port(name).unwrap());
            for ((before, after), guest) in before.iter().zip(&after).zip(&guests) {
                // Whatever the guest put in the ring came out of it …
                let packets = after.rx_packets - before.rx_packets;
                assert_eq!(packets, guest.tx_packets, "{after:?} {guest:?}");
                let bytes = after.rx_bytes - before.rx_bytes;
                assert_eq!(bytes, packets * u64::from(frame), "{after:?}");
                // … and it got no packet that was not sent. What it had not
                // yet taken when it stopped is still in its ring.
                let sent = after.tx_packets - before.tx_packets;
                assert!(guest.rx_packets <= sent, "{after:?} {guest:?}");
                let left = sent - guest.rx_packets;
                assert!(left <= u64::from(pair[0].ring), "{after:?} {guest:?}");
                assert_eq!(guest.rx_errors, 0, "{guest:?}");
                assert_eq!(after.rx_dropped, before.rx_dropped, "{after:?}");
            }
            testpmd.quit().unwrap();
            for name in ["a1", "a2"] {
                daemon.wait_state(name, "waiting-for-socket").unwrap();
            }
        }
    }
}

#[test]
fn ports_connect_when_the_guest_listens() {
    let (daemon, _alone) = bridge(1);
    let mut pair = port_pair(&daemon, "a", &["mode=client"]);
    for port in &mut pair {
        port.listens = true;
    }
    for _ in 0..2 {
        let mut testpmd = start(&daemon, "pair", &pair, Forward::Mac, 64, daemon.dir());
        testpmd.start_with_bursts(1).unwrap();
        testpmd.wait_received(1000).unwrap();
        testpmd.quit().unwrap();
    }
}

#[test]
fn flooded_and_overrun_packets_are_all_accounted_for() {
    let (daemon, _alone) = bridge(1);
    // Nobody has the destination addresses: each packet goes to three ports,
    // two of which never take any off their rings.
    let senders = port_pair(&daemon, "a", &["mode=server"]);
    let idle = port_pair(&daemon, "b", &["mode=server"]);
    let mut sending = start(
        &daemon,
        "senders",
        &senders,
        Forward::TxOnlyToNobody,
        64,
        daemon.dir(),
    );
    let idle = start(&daemon, "idle", &idle, Forward::RxOnly, 64, daemon.dir());
    sending.start_forwarding().unwrap();
    let wanted = 100_000;
    ringway_tests::wait::until(
        "packets to flood",
        std::time::Duration::from_secs(20),
        || {
            let received = daemon.port("a1").unwrap().rx_packets;
            if received > wanted {
                Ok(())
            } else {
                Err(received)
            }
        },
    )
    .unwrap();
    sending.stop().unwrap();
    let balance = check_conservation(&daemon);
    assert_eq!(
        balance.replicated,
        2 * balance.received,
        "three copies of each: {balance:?}"
    );
    let drops = daemon.drops().unwrap();
    let full = drops
        .iter()
        .any(|drop| drop.port == "b1" && drop.reason == "ring_full" && drop.packets > 0);
    assert!(full, "the idle guest's ring was never full: {drops:?}");
    let sent: u64 = sending
        .stats()
        .unwrap()
        .iter()
        .map(|port| port.tx_packets)
        .sum();
    assert_eq!(balance.received, sent);
    sending.quit().unwrap();
    idle.quit().unwrap();
}

#[test]
fn several_queues_are_all_used() {
    let (daemon, _alone) = bridge(1);
    let mut pair = port_pair(&daemon, "a", &["mode=server", "queues=2"]);
    for port in &mut pair {
        port.queues = 2;
    }
    let mut testpmd = start(
        &daemon,
        "pair",
        &pair,
        Forward::MacManyFlows,
        64,
        daemon.dir(),
    );
    testpmd.start_with_bursts(8).unwrap();
    testpmd.wait_received(10_000).unwrap();
    testpmd.stop().unwrap();
    check_conservation(&daemon);
    for name in ["a1", "a2"] {
        let port = daemon.port(name).unwrap();
        for by_queue in [&port.rx_packets_by_queue, &port.tx_packets_by_queue] {
            assert_eq!(by_queue.len(), 2, "{port:?}");
            assert!(by_queue.iter().all(|&packets| packets > 0), "{port:?}");
        }
    }
    testpmd.quit().unwrap();
}

#[test]
fn a_port_deleted_under_traffic_leaves_another_pair_alone() {
    let (mut daemon, _alone) = bridge(1);
    let bystanders = port_pair(&daemon, "b", &["mode=server"]);
    let mut bystanding = start(
        &daemon,
        "bystanders",
        &bystanders,
        Forward::Mac,
        64,
        daemon.dir(),
    );
    bystanding.start_with_bursts(1).unwrap();
    bystanding.wait_received(1000).unwrap();

    let mut fds = Vec::new();
    for round in 0..4 {
        let pair = port_pair(&daemon, "a", &["mode=server"]);
        let name = format!("pair{round}");
        let mut testpmd = start(&daemon, &name, &pair, Forward::Mac, 64, daemon.dir());
        testpmd.start_with_bursts(4).unwrap();
        testpmd.wait_received(1000).unwrap();
        daemon.ok(&["del-port", "br0", "a1"]).unwrap();
        bystanding.wait_received(1000).unwrap();
        daemon.ok(&["del-port", "br0", "a2"]).unwrap();
        bystanding.wait_received(1000).unwrap();
        // Gone with its ports, whatever it makes of that.
        testpmd.process().kill();
        fds.push(daemon.process().open_fds().unwrap());
    }
    assert!(
        fds.windows(2).all(|pair| pair[0] == pair[1]),
        "file descriptors pile up: {fds:?}"
    );
    for name in ["b1", "b2"] {
        let port = daemon.port(name).unwrap();
        // Flooding the other pair's first packet may have met a full ring;
        // the bystanders' own packets come round forever or not at all.
        assert_eq!(port.rx_dropped, 0, "{port:?}");
    }
    bystanding.stop().unwrap();
    bystanding.quit().unwrap();
}

#[test]
fn two_poll_mode_cores_share_the_rings() {
    let (mut daemon, _alone) = bridge(2);
    let pair = port_pair(&daemon, "a", &["mode=server"]);
    let mut testpmd = start(&daemon, "pair", &pair, Forward::Mac, 64, daemon.dir());
    testpmd.start_with_bursts(4).unwrap();
    testpmd.wait_received(10_000).unwrap();
    testpmd.stop().unwrap();
    check_conservation(&daemon);
    let pmds = daemon.pmds().unwrap();
    assert_eq!(pmds.len(), 2, "{pmds:?}");
    assert!(
        pmds.iter().all(|pmd| pmd.balance.received > 0),
        "a core had nothing to do: {pmds:?}"
    );
    let threads = daemon.process().threads().unwrap();
    for pmd in &pmds {
        let core = pmd.core.to_string();
        assert!(
            threads.iter().any(|thread| thread.cpus == core),
            "no thread is pinned to {core}: {threads:?}"
        );
    }
    testpmd.quit().unwrap();
}

#[test]
fn two_ports_cost_little_memory() {
    let (mut daemon, _alone) = bridge(1);
    let pair = port_pair(&daemon, "a", &["mode=server"]);
    let mut testpmd = start(&daemon, "pair", &pair, Forward::Mac, 64, daemon.dir());
    testpmd.start_with_bursts(4).unwrap();
    testpmd.wait_received(10_000).unwrap();
    let resident = daemon.process().rss_kib().unwrap();
    let huge = daemon.process().hugetlb_kib().unwrap();
    println!("resident {resident} KiB, hugepages {huge} KiB");
    assert!(resident < RESIDENT_LIMIT_KIB, "{resident} KiB resident");
    testpmd.stop().unwrap();
    testpmd.quit().unwrap();
}
