//! pktgen's oversized frames (TSO) through the switch: uncut to a guest that
//! takes them, in right segments to one that does not. What arrived is
//! verified to the last byte; the switch's counters must say the same.

use std::path::PathBuf;

use clap::Parser;
use pktgen::{Options, Report};
use ringway_tests::counters::Port;
use ringway_tests::daemon::Daemon;
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::scripted::even_balance;

/// Ethernet to TCP, with time stamps.
const HEADERS: u64 = 66;
const GSO_SIZE: u64 = 1448;

fn bridge(options: &[&str]) -> (Daemon, Exclusive, [PathBuf; 2]) {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let sockets = ["a1", "a2"].map(|port| daemon.add_vhost_port("br0", port, options).unwrap());
    (daemon, alone, sockets)
}

/// Verified traffic both ways for a moment.
fn traffic(sockets: &[PathBuf; 2], more: &[&str]) -> Report {
    let mut args = vec!["pktgen", "--tso", "--verify", "--seconds", "0.3"];
    args.extend(["--warmup", "0.1", "--flows", "3"]);
    for socket in sockets {
        args.extend(["--port", socket.to_str().unwrap()]);
    }
    args.extend(more);
    let report = pktgen::run(&Options::try_parse_from(args).unwrap()).unwrap();
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    for direction in &report.directions {
        assert!(direction.total_received > 50, "{report}");
        assert_eq!(direction.lost, 0, "{report}");
    }
    report
}

/// Every frame that came in was `len` bytes long; what went out, segments or
/// frames, carried the same payload and `pieces` headers for each frame.
fn check_counters(daemon: &Daemon, len: u64, pieces: u64) {
    let balance = even_balance(daemon).unwrap();
    assert_eq!(balance.dropped, 0, "{balance:?}");
    let ports = daemon.ports().unwrap();
    let sum = |field: fn(&Port) -> u64| ports.iter().map(field).sum::<u64>();
    let frames = sum(|port| port.rx_packets);
    assert_eq!(sum(|port| port.rx_bytes), frames * len, "{ports:?}");
    assert_eq!(sum(|port| port.tx_packets), frames * pieces, "{ports:?}");
    let bytes = frames * (len + (pieces - 1) * HEADERS);
    assert_eq!(sum(|port| port.tx_bytes), bytes, "{ports:?}");
}

#[test]
fn frames_of_64_kib_cross_uncut_between_guests_that_take_them() {
    let (daemon, _alone, sockets) = bridge(&["mode=server"]);
    let report = traffic(&sockets, &["--page", "4096"]);
    assert_eq!(report.tso.unwrap().pieces_per_frame, 1.0, "{report}");
    check_counters(&daemon, 65_226, 1);
}

#[test]
fn frames_of_64_kib_are_cut_for_guests_that_take_none() {
    let (daemon, _alone, sockets) = bridge(&["mode=server"]);
    traffic(&sockets, &["--cut"]);
    check_counters(&daemon, 65_226, (65_226 - HEADERS) / GSO_SIZE);
}

#[test]
fn the_longest_frames_that_ipv4_knows_cross_to_guests_that_listen() {
    let (daemon, _alone, sockets) = bridge(&["mode=client"]);
    let longest = ["--listen", "--size", "65549"];
    let more = ["--receive-buffer", "4096", "--page", "65536"];
    traffic(&sockets, &[&longest[..], &more].concat());
    check_counters(&daemon, 65_549, 1);
}
