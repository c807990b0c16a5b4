//! The story that ringway comes from, step by step, with the commands that
//! its author typed: an address on an attached tap, and a port that is gone
//! after a reboot.

use std::time::Duration;

use ringway_tests::daemon::Daemon;
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::qemu::{Guest, GuestOptions, Nic};
use ringway_tests::wait;

const GUEST: &str = "10.10.10.10";
const HOST: &str = "10.10.10.11";
const LIMIT: Duration = Duration::from_secs(20);

/// A daemon with bridge br-new, and a guest on QEMU's tap124 whose host end has
/// 10.10.10.11/16: ping works, without ringway.
fn beginning() -> (Daemon, Guest, Exclusive) {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.shell_ok("ovs-vsctl add-br br-new").unwrap();
    let guest = boot(&daemon);
    daemon
        .shell_ok("ip addr add 10.10.10.11/16 dev tap124 && ip link set tap124 up")
        .unwrap();
    (daemon, guest, alone)
}

fn boot(daemon: &Daemon) -> Guest {
    let nic = Nic::on_tap("tap124", daemon.namespace(), 10);
    let mut guest = Guest::start(&GuestOptions::new("vm1", nic), daemon.dir()).unwrap();
    guest.wait_ready().unwrap();
    guest.configure("10.10.10.10/16").unwrap();
    guest
}

/// The commands that a message names: lines of their own, indented.
fn commands(message: &str) -> Vec<String> {
    let indented = message.lines().filter(|line| line.starts_with("  "));
    let commands: Vec<String> = indented.map(|line| line.trim().to_owned()).collect();
    assert!(!commands.is_empty(), "no commands in: {message}");
    commands
}

/// Attaches tap124; gives what was said.
fn attach(daemon: &Daemon) -> String {
    let attached = daemon.shell("ovs-vsctl add-port br-new tap124").unwrap();
    assert!(attached.status.success(), "{}", attached.stderr);
    attached.stderr
}

fn mend(daemon: &Daemon, warning: &str) {
    for command in commands(warning) {
        daemon.shell_ok(&command).unwrap();
    }
}

#[test]
fn an_address_on_an_attached_tap_is_named_and_moved() {
    let (daemon, mut guest, _alone) = beginning();
    guest.reach(HOST).unwrap();
    assert_eq!(guest.ping(HOST, 3, 56).unwrap(), 3);

    // Attached: the address is dead, and that is said before anybody asks.
    let warning = attach(&daemon);
    for told in ["tap124", "10.10.10.11/16", "br-new"] {
        assert!(warning.contains(told), "{told} is not in: {warning}");
    }
    daemon.wait_forwarding(&["tap124"]).unwrap();
    assert_eq!(
        guest.ping(HOST, 3, 56).unwrap(),
        0,
        "the dead address answers"
    );

    // The doctor finds it later.
    let doctor = daemon.shell("ringway doctor").unwrap();
    assert!(!doctor.status.success(), "{}", doctor.stdout);
    for told in ["tap124", "10.10.10.11/16"] {
        assert!(doctor.stdout.contains(told), "{told}: {}", doctor.stdout);
    }
    for command in commands(&warning) {
        assert!(doctor.stdout.contains(&command), "{}", doctor.stdout);
    }

    // What the message says is done as it stands there.
    mend(&daemon, &warning);
    guest.reach(HOST).unwrap();
    assert_eq!(guest.ping(HOST, 5, 56).unwrap(), 5);
    assert_eq!(daemon.namespace().ping(GUEST, 3, 1400).unwrap(), 3);
    let healthy = daemon.shell("ringway doctor").unwrap();
    assert!(!healthy.stdout.contains("10.10.10.11/16"), "{healthy:?}");

    truth(&daemon, &mut guest);
    capture(&daemon, &mut guest);

    // Taken off again, the tap is as it was. Nobody tells the guest that the
    // address is the tap's again; it would find out within a minute.
    daemon.shell_ok("ovs-vsctl del-port br-new tap124").unwrap();
    daemon
        .shell_ok("ip addr del 10.10.10.11/16 dev br-new && ip addr add 10.10.10.11/16 dev tap124")
        .unwrap();
    guest.ok("ip neigh flush dev eth0").unwrap();
    guest.reach(HOST).unwrap();
    assert_eq!(guest.ping(HOST, 3, 56).unwrap(), 3);
    let balance = daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");
}

/// `ovs-dpctl show` lists the ports by number, `dump-flows` the conversations.
fn truth(daemon: &Daemon, guest: &mut Guest) {
    let shown = daemon.shell_ok("ovs-dpctl show").unwrap();
    let number = daemon.show_port("tap124").unwrap()["actual"]["number"].to_string();
    let line = format!("port {number}: tap124");
    assert!(shown.contains(&line), "{line} is not in {shown}");
    for part in [
        "lookups: hit:",
        "missed:",
        "lost:",
        "flows:",
        "br-new (internal)",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }

    guest
        .ok(&format!(
            "ip neigh flush dev eth0; arping -c 1 -I eth0 {HOST}"
        ))
        .unwrap();
    assert_eq!(guest.ping(HOST, 5, 56).unwrap(), 5);
    let flows = daemon.shell_ok("ovs-dpctl dump-flows").unwrap();
    let conversation = |parts: &[&str]| {
        let has = |line: &&str| parts.iter().all(|part| line.contains(part));
        let line = flows.lines().find(has);
        line.unwrap_or_else(|| panic!("no flow with {parts:?} in:\n{flows}"))
    };
    let in_port = format!("in_port({number})");
    let from_guest = "src=52:54:00:00:00:0a";
    conversation(&[&in_port, from_guest, "eth_type(0x0806)"]);
    // What was sent to the tap's own address before is a conversation too.
    let bridge = daemon.show_port("br-new").unwrap();
    let mac = bridge["actual"]["link"]["mac"].as_str().unwrap();
    let to_bridge = format!("dst={mac}");
    let ip = conversation(&[&in_port, from_guest, &to_bridge, "eth_type(0x0800)"]);
    let local = bridge["actual"]["number"].to_string();
    assert!(ip.ends_with(&format!("actions:{local}")), "{ip}");
    for part in ["packets:", "bytes:", "used:"] {
        assert!(ip.contains(part), "{part} is not in {ip}");
    }
    let count = ip
        .split("packets:")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let count: u64 = count.and_then(|count| count.parse().ok()).unwrap();
    assert!(count >= 4, "{ip}");

    let named = daemon.shell_ok("ovs-dpctl dump-flows --names").unwrap();
    assert!(named.contains("in_port(tap124)"), "{named}");
    assert!(named.contains("actions:br-new"), "{named}");
}

/// tshark on the bridge's interface sees the guest's echo requests.
fn capture(daemon: &Daemon, guest: &mut Guest) {
    let log = daemon.path("tshark.log");
    let line = [
        "tshark",
        "-l",
        "-i",
        "br-new",
        "-f",
        "icmp[icmptype] == icmp-echo",
    ];
    let mut tshark = daemon.namespace().spawn("tshark", &line, &log).unwrap();
    wait::until("tshark to capture", LIMIT, || {
        match tshark.log().contains("Capturing on") {
            true => Ok(()),
            false => Err(tshark.log()),
        }
    })
    .unwrap();
    wait::until("tshark to see the guest's echo requests", LIMIT, || {
        guest.ping(HOST, 2, 56).map_err(|error| error.to_string())?;
        let seen = tshark.log();
        let request = |line: &str| line.contains(GUEST) && line.contains("Echo (ping) request");
        match seen.lines().any(request) {
            true => Ok(()),
            false => Err(seen),
        }
    })
    .unwrap();
    tshark.kill();
}

#[test]
fn after_a_reboot_the_missing_port_is_told_and_comes_back_with_the_guest() {
    let (mut daemon, guest, _alone) = beginning();
    let warning = attach(&daemon);
    mend(&daemon, &warning);
    assert!(daemon.as_desired().unwrap());

    // "Reboot": the switch stops, the guest and its tap are gone.
    assert!(daemon.terminate().unwrap().success());
    guest.kill();
    wait::until("tap124 to go with QEMU", LIMIT, || {
        match daemon.namespace().ip(&["link", "show", "tap124"]) {
            Err(_) => Ok(()),
            Ok(there) => Err(there),
        }
    })
    .unwrap();
    daemon.start_again().unwrap();

    let shown = daemon.shell("ringway show").unwrap();
    assert_eq!(shown.status.code(), Some(3), "{}", shown.stdout);
    let port = daemon.show_port("tap124").unwrap();
    assert!(!port["desired"].is_null(), "{port}");
    assert!(port["actual"].is_null(), "{port}");
    let reason = port["reason"].as_str().unwrap();
    assert!(reason.contains("no interface tap124"), "{reason}");
    assert!(shown.stdout.contains(reason), "{}", shown.stdout);
    let since = port["since"].as_str().unwrap();
    assert!(since.starts_with("20"), "{since}");
    let vsctl = daemon.shell_ok("ovs-vsctl show").unwrap();
    assert!(vsctl.contains("error: \""), "{vsctl}");

    // The guest starts, its tap is there, and nobody has to do anything.
    let mut guest = boot(&daemon);
    daemon.shell_ok("ip link set tap124 up").unwrap();
    daemon.wait_forwarding(&["tap124"]).unwrap();
    assert!(daemon.as_desired().unwrap());
    // The bridge's own interface kept its address over the restart.
    guest.reach(HOST).unwrap();
    assert_eq!(guest.ping(HOST, 5, 56).unwrap(), 5);
}

#[test]
fn a_secure_bridge_passes_what_its_flows_say_and_nothing_else() {
    let (daemon, mut guest, _alone) = beginning();
    daemon
        .shell_ok("ovs-vsctl set-fail-mode br-new secure")
        .unwrap();
    daemon.shell_ok("ovs-ofctl del-flows br-new").unwrap();
    mend(&daemon, &attach(&daemon));
    daemon.wait_forwarding(&["tap124"]).unwrap();

    assert_eq!(guest.ping(HOST, 3, 56).unwrap(), 0);
    let shown = daemon.shell("ringway show").unwrap().stdout;
    assert!(shown.contains("nothing passes"), "{shown}");
    let drops = daemon.drops().unwrap();
    assert!(
        drops.iter().any(|drop| drop.reason == "no_flow"),
        "{drops:?}"
    );

    // ARP and ping only, both ways.
    for flow in [
        "priority=10,arp,actions=NORMAL",
        "priority=10,icmp,in_port=tap124,actions=LOCAL",
        "priority=10,icmp,in_port=LOCAL,actions=output:tap124",
    ] {
        let line = format!("ovs-ofctl add-flow br-new '{flow}'");
        daemon.shell_ok(&line).unwrap();
    }
    guest.reach(HOST).unwrap();
    assert_eq!(guest.ping(HOST, 3, 56).unwrap(), 3);
    let _echo = daemon.namespace().serve_echo(daemon.dir()).unwrap();
    let refused = guest.run(&format!("probe udp {HOST}:7 10 10 1")).unwrap();
    assert_ne!(refused.status, 0, "UDP passed: {}", refused.output);
    let shown = daemon.shell("ringway show").unwrap().stdout;
    assert!(!shown.contains("nothing passes"), "{shown}");
}
