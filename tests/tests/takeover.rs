//! `ringwayd --takeover`: no frontend sees its connection end, no frame is lost,
//! doubled or torn; what was learned and counted stays; a new daemon that fails
//! leaves the old one as it was.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use ringway_frontend::SessionConfig;
use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::frames::{self, Payload};
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::numbered::{KINDS, Layout, Listens, Numbered};
use ringway_tests::qemu::{Guest, GuestOptions, Listener, Nic};
use ringway_tests::scripted;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Frames that are to pass before and after something happens.
const FRAMES: u64 = 20_000;

fn switch(mode: &str) -> (Daemon, Exclusive) {
    let alone = machine::exclusive().unwrap();
    // Whether or not the cores sleep is nothing that guests are to notice.
    let options = DaemonOptions {
        arguments: vec!["--sleep-after".into(), "off".into()],
        ..DaemonOptions::default()
    };
    let daemon = Daemon::start_with(options).unwrap();
    daemon.ok(&["add-br", "br0", "--no-internal"]).unwrap();
    for port in ["vm1", "vm2"] {
        daemon.add_vhost_port("br0", port, &[mode]).unwrap();
    }
    (daemon, alone)
}

fn rx_packets(daemon: &Daemon, port: &str) -> u64 {
    daemon.port(port).unwrap().rx_packets
}

fn connections(daemon: &Daemon, port: &str) -> String {
    let shown = daemon.show_port(port).unwrap();
    let details = &shown["actual"]["details"]["connections"];
    assert!(!details.is_null(), "{shown}");
    details.to_string()
}

/// What a daemon has learned, with all that is counted of rules.
fn stations(daemon: &Daemon) -> Vec<String> {
    let shown = daemon.ok(&["fdb", "show", "br0"]).unwrap();
    let mut stations: Vec<String> = shown
        .lines()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with("02:"))
                .map(str::to_owned)
        })
        .collect();
    stations.sort();
    stations
}

#[test]
fn ten_takeovers_in_a_row_lose_and_double_nothing_and_leak_nothing() {
    for (mode, listens, layout) in KINDS {
        let (mut daemon, _alone) = switch(mode);
        let flow = "priority=7,dl_type=0x0999,actions=drop";
        daemon.ok(&["add-flow", "br0", flow]).unwrap();
        let mut traffic =
            Numbered::start(&daemon, ["vm1", "vm2"], [1, 2], listens, layout).unwrap();
        traffic.go_on(FRAMES).unwrap();
        let before = connections(&daemon, "vm1");
        let mut sizes = Vec::new();
        for round in 0..10 {
            let counted = rx_packets(&daemon, "vm1");
            let begin = Instant::now();
            daemon.take_over().unwrap();
            let took = begin.elapsed();
            assert!(rx_packets(&daemon, "vm1") >= counted, "counters went back");
            assert_eq!(stations(&daemon).len(), 2, "stations were forgotten");
            traffic.go_on(FRAMES).unwrap();
            let process = daemon.process();
            let size = (process.open_fds().unwrap(), process.rss_kib().unwrap());
            println!("{mode} {layout:?} takeover {round}: {took:?}, descriptors and KiB {size:?}");
            sizes.push(size);
        }
        assert_eq!(connections(&daemon, "vm1"), before, "somebody reconnected");
        let outcome = traffic.end().unwrap();
        println!("{mode} {layout:?}: {outcome:?}");
        outcome.assert_clean();
        assert_eq!((outcome.lost(), outcome.reconnects), (0, 0), "{outcome:?}");
        let balance = daemon.settled_balance().unwrap();
        assert!(balance.holds(), "{balance:?}");
        let ports = daemon.ports().unwrap();
        let received: u64 = ports.iter().map(|port| port.rx_packets).sum();
        assert_eq!(
            received, balance.received,
            "counts of ports and cores differ"
        );
        let passed: u64 = outcome.ways.iter().map(|way| way.received).sum();
        assert!(received >= passed, "{received} counted, {passed} came");
        // Every successor is as large as the first.
        let (first, last) = (sizes[0], sizes[9]);
        assert_eq!(first.0, last.0, "descriptors leak: {sizes:?}");
        assert!(last.1 < first.1 + 4096, "memory leaks: {sizes:?}");
        println!("{}", grep(&mut daemon, "nothing was forwarded"));
    }
}

/// A count of the flow cache's.
fn cached(daemon: &Daemon, what: &str) -> u64 {
    let shown = daemon.json(&["dpctl", "show"]).unwrap();
    let count = shown["cache"][what].as_u64();
    count.unwrap_or_else(|| panic!("no {what} in {shown}"))
}

#[test]
fn what_was_translated_is_not_translated_again() {
    const FLOWS: u16 = 300;
    let (mut daemon, _alone) = switch("mode=server");
    let rule = |port: u16| format!("udp,tp_dst={port},actions=vm2\n");
    let file = daemon.path("rules.txt");
    std::fs::write(&file, (1..=FLOWS).map(rule).collect::<String>()).unwrap();
    daemon
        .ok(&["add-flows", "br0", &file.to_string_lossy()])
        .unwrap();
    let config = SessionConfig::default();
    let [mut one, mut two] =
        ["vm1", "vm2"].map(|port| scripted::driver(&daemon, port, &config).unwrap());
    let frames = (1..=FLOWS).map(|port| {
        let payload = Payload::Udp(1000, port, vec![7; 20]);
        frames::v4(payload).bytes()
    });
    let frames: Vec<Vec<u8>> = frames.collect();
    let mut pass_all = || {
        for frame in &frames {
            scripted::pass(&mut one, &mut two, frame).unwrap();
        }
    };
    pass_all();
    let missed = cached(&daemon, "missed");
    assert!(missed >= FLOWS.into(), "{missed}");
    for passes in 2..4 {
        daemon.take_over().unwrap();
        let flows = cached(&daemon, "flows");
        assert!(flows >= FLOWS.into(), "{flows} megaflows");
        pass_all();
        assert_eq!(cached(&daemon, "missed"), missed, "something was forgotten");
        let counted = daemon.ok(&["dump-flows", "br0"]).unwrap();
        let counted = counted.matches(&format!("n_packets={passes},")).count();
        assert_eq!(counted, usize::from(FLOWS));
    }
    // What was made by rules that are no more is not believed.
    daemon.ok(&["del-flows", "br0"]).unwrap();
    daemon.ok(&["add-flow", "br0", "actions=drop"]).unwrap();
    daemon.take_over().unwrap();
    assert!(one.send(0, &frames[0]));
    assert!(one.flush(0, scripted::LIMIT));
    let got = two.recv_within(0, Duration::from_millis(300));
    assert_eq!(got, None);
}

fn grep(daemon: &mut Daemon, words: &str) -> String {
    let log = daemon.process().log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(words)).collect();
    lines.join("\n")
}

/// Speaks the handover's framing; descriptors that come are closed unseen.
struct Heir(UnixStream);

impl Heir {
    fn greet(daemon: &Daemon, version: u32) -> (Self, String) {
        let stream = UnixStream::connect(daemon.path("control.sock.takeover")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut heir = Self(stream);
        heir.say(&format!(r#"{{"Hello":{{"versions":[{version}]}}}}"#));
        let answer = heir.hear();
        (heir, answer)
    }

    fn say(&mut self, message: &str) {
        let mut bytes = (message.len() as u64).to_le_bytes().to_vec();
        bytes.extend([0; 8]);
        bytes.extend(message.bytes());
        self.0.write_all(&bytes).unwrap();
    }

    /// Says that process `of` takes over.
    fn begin(&mut self, of: u32) {
        let message = r#"{"Begin":{"process":0}}"#;
        let of = Pid::from_raw(of as i32).unwrap();
        let process = pidfd_open(of, PidfdFlags::empty()).unwrap();
        for number in [message.len() as u64, 1] {
            self.0.write_all(&number.to_le_bytes()).unwrap();
        }
        let fds = [process.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let byte = [IoSlice::new(&[0])];
        let socket = self.0.as_raw_fd();
        sendmsg::<()>(socket, &byte, &rights, MsgFlags::empty(), None).unwrap();
        self.0.write_all(message.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut header = [0; 16];
        self.0.read_exact(&mut header).unwrap();
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let handfuls = number(8).div_ceil(128);
        let mut bytes = vec![0; (number(0) + handfuls) as usize];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[handfuls as usize..]).into_owned()
    }
}

#[test]
fn a_new_daemon_that_fails_at_any_point_leaves_the_old_one_serving() {
    let (mut daemon, _alone) = switch("mode=server");
    let mut traffic = Numbered::start(
        &daemon,
        ["vm1", "vm2"],
        [1, 2],
        Listens::Switch,
        Layout::Split,
    )
    .unwrap();
    traffic.go_on(FRAMES).unwrap();
    let pid = daemon.process().pid();
    let fds = daemon.process().open_fds().unwrap();

    let (heir, answer) = Heir::greet(&daemon, 1);
    assert!(answer.contains("Welcome"), "{answer}");
    drop(heir);
    traffic.go_on(FRAMES).unwrap();

    // Another version, nonsense, nothing.
    let (_heir, answer) = Heir::greet(&daemon, 99);
    assert!(answer.contains("Refused"), "{answer}");
    let mut nonsense = UnixStream::connect(daemon.path("control.sock.takeover")).unwrap();
    nonsense.write_all(&[7; 64]).unwrap();
    drop(nonsense);
    traffic.go_on(FRAMES).unwrap();

    // It has all ports' descriptors, and dies.
    let (mut heir, _) = Heir::greet(&daemon, 1);
    heir.begin(std::process::id());
    let begun = heir.hear();
    assert!(begun.contains("vm1"), "{begun}");
    traffic.go_on(FRAMES).unwrap();
    drop(heir);
    traffic.go_on(FRAMES).unwrap();
    daemon.ok(&["add-br", "br1", "--no-internal"]).unwrap();

    // The old one has stopped forwarding, and it dies.
    let (mut heir, _) = Heir::greet(&daemon, 1);
    heir.begin(std::process::id());
    heir.hear();
    heir.say(r#""Ready""#);
    let halted = heir.hear();
    assert!(halted.contains("Halted"), "{halted}");
    drop(heir);
    traffic.go_on(FRAMES).unwrap();
    daemon.ok(&["del-br", "br1"]).unwrap();

    // A real one, killed at some moment of its start.
    for after in [10, 30, 50] {
        let mut successor = daemon.start_successor().unwrap();
        std::thread::sleep(Duration::from_millis(after));
        successor.kill();
        if daemon.process().check_running().is_err() {
            // A fast machine: it had taken over, and nobody is left.
            println!("taken over within {after} ms");
            return;
        }
        traffic.go_on(FRAMES).unwrap();
    }
    let outcome = traffic.end().unwrap();
    println!("{outcome:?}");
    outcome.assert_clean();
    assert_eq!((outcome.lost(), outcome.reconnects), (0, 0), "{outcome:?}");
    assert_eq!(daemon.process().pid(), pid);
    // At first some of the commands' connections may not have been closed yet.
    let left = daemon.process().open_fds().unwrap();
    assert!(left <= fds, "descriptors leak: {fds}, now {left}");
    // One that hangs when nothing is forwarded is ended, two seconds later.
    let mut hanging = Command::new("sleep").arg("60").spawn().unwrap();
    let (mut heir, _) = Heir::greet(&daemon, 1);
    heir.begin(hanging.id());
    heir.hear();
    heir.say(r#""Ready""#);
    heir.hear();
    let status = hanging.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    drop(heir);
    let mut traffic = Numbered::start(
        &daemon,
        ["vm1", "vm2"],
        [1, 2],
        Listens::Switch,
        Layout::Split,
    )
    .unwrap();
    traffic.go_on(FRAMES).unwrap();
    traffic.end().unwrap().assert_clean();
    assert_eq!(daemon.process().pid(), pid);
    daemon.ok(&["show"]).unwrap();
}

#[test]
fn linux_guests_and_the_host_notice_nothing() {
    let alone = machine::exclusive().unwrap();
    let mut daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let mut guests =
        [("vm1", Listener::Switch), ("vm2", Listener::Qemu)].map(|(name, listener)| {
            let mode = match listener {
                Listener::Switch => "mode=server",
                Listener::Qemu => "mode=client",
            };
            let socket = daemon.add_vhost_port("br0", name, &[mode]).unwrap();
            let digit = name.as_bytes()[2] - b'0';
            let nic = Nic::new(socket, listener, digit);
            Guest::start(&GuestOptions::new(name, nic), daemon.dir()).unwrap()
        });
    for (guest, address) in guests.iter_mut().zip(["10.0.0.1/24", "10.0.0.2/24"]) {
        guest.wait_ready().unwrap();
        guest.configure(address).unwrap();
    }
    daemon
        .shell_ok("ip address add 10.0.0.9/24 dev br0; ip link set br0 up")
        .unwrap();
    let [vm1, vm2] = &mut guests;
    vm1.reach("10.0.0.2").unwrap();
    vm1.reach("10.0.0.9").unwrap();
    let before = (connections(&daemon, "vm1"), connections(&daemon, "vm2"));
    let carrier = "cat /sys/class/net/br0/carrier_changes";
    let changes = daemon.shell_ok(carrier).unwrap();
    vm1.ok(
        "ping -c 400 -i 0.02 10.0.0.2 >/tmp/peer & ping -c 400 -i 0.02 10.0.0.9 >/tmp/host & true",
    )
    .unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(500));
        daemon.take_over().unwrap();
    }
    assert_eq!(
        (connections(&daemon, "vm1"), connections(&daemon, "vm2")),
        before
    );
    assert_eq!(
        daemon.shell_ok(carrier).unwrap(),
        changes,
        "br0 lost its carrier"
    );
    let told = |guest: &mut Guest, file: &str| {
        let wait =
            format!("while ! grep -q transmitted {file}; do sleep 0.2; done; tail -2 {file}");
        guest.ok_within(&wait, Duration::from_secs(60)).unwrap()
    };
    let (peer, host) = (told(vm1, "/tmp/peer"), told(vm1, "/tmp/host"));
    println!("to the peer: {peer}\nto the host: {host}");
    assert!(peer.contains("400 packets received"), "{peer}");
    // What a tap's thread had read and no core had taken is lost.
    let answered = |text: &str| {
        let (_, rest) = text.split_once("transmitted, ").unwrap();
        rest.split_whitespace()
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    assert!(answered(&host) >= 394, "{host}");
    // Both can still come and go.
    vm2.reboot().unwrap();
    vm2.configure("10.0.0.2/24").unwrap();
    vm1.reach("10.0.0.2").unwrap();
    drop(alone);
}
