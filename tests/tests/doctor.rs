//! `ringway doctor` on a running switch: each condition is really made, found with
//! its commands, and gone once these were run as they were printed.

use std::time::Duration;

use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::netns::Namespace;
use ringway_tests::qemu::{Guest, GuestOptions, Listener, Nic};
use ringway_tests::{machine, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// What a check has found of an object.
fn finding(daemon: &Daemon, check: &str, object: &str) -> Option<Value> {
    let told = daemon.json(&["doctor"]).unwrap();
    let findings = told["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["check"] == check)
        .find(|finding| finding["object"] == object)
        .cloned()
}

fn found(daemon: &Daemon, check: &str, object: &str) -> Value {
    wait::until(&format!("{check} to find {object}"), LIMIT, || {
        finding(daemon, check, object).ok_or_else(|| daemon.ringway(&["doctor"]))
    })
    .unwrap()
}

/// Runs the commands that a finding names; it is found no more then.
fn mended(daemon: &Daemon, finding_was: &Value) {
    let commands = finding_was["remedy"].as_array().unwrap();
    assert!(!commands.is_empty(), "no commands: {finding_was}");
    for command in commands {
        daemon.shell_ok(command.as_str().unwrap()).unwrap();
    }
    let (check, object) = (&finding_was["check"], &finding_was["object"]);
    let (check, object) = (check.as_str().unwrap(), object.as_str().unwrap());
    wait::until(&format!("{check} to be mended"), LIMIT, || {
        finding(daemon, check, object).map_or(Ok(()), Err)
    })
    .unwrap();
}

#[track_caller]
fn says(finding: &Value, severity: &str, what: &str) {
    assert_eq!(finding["severity"], severity, "{finding}");
    let said = finding["what"].as_str().unwrap();
    assert!(said.contains(what), "{what} is not in: {finding}");
}

#[test]
fn what_is_wrong_with_interfaces_is_found_and_mended() {
    let _alone = machine::exclusive().unwrap();
    let daemon = Daemon::start_with(DaemonOptions::with_xdp()).unwrap();
    let far = Namespace::new("far").unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();

    // The bridge's own interface is down: a note, and an error once it has an
    // address.
    let note = found(&daemon, "internal-port-down", "port br0");
    says(&note, "note", "interface br0 is down");
    assert_eq!(daemon.port_state("br0").unwrap(), "link-down");
    assert!(
        daemon.as_desired().unwrap(),
        "who sets it up is the administrator"
    );
    assert!(daemon.ringway(&["doctor"]).unwrap().status.success());
    let address = ["address", "add", "10.1.0.1/24", "dev", "br0"];
    daemon.namespace().ip(&address).unwrap();
    let error = found(&daemon, "internal-port-down", "port br0");
    says(&error, "error", "10.1.0.1/24");
    let text = daemon.ringway(&["doctor"]).unwrap();
    assert_eq!(text.status.code(), Some(3), "{}", text.stdout);
    assert!(
        text.stdout.contains(" checks: 1 error, "),
        "{}",
        text.stdout
    );
    mended(&daemon, &error);
    daemon.wait_forwarding(&["br0"]).unwrap();

    // An attached interface that is down.
    daemon.namespace().veth_to("up0", &far, "eth0").unwrap();
    daemon
        .namespace()
        .ip(&["link", "set", "up0", "down"])
        .unwrap();
    daemon
        .ok(&["add-port", "br0", "up0", "type=system"])
        .unwrap();
    assert_eq!(daemon.port_state("up0").unwrap(), "link-down");
    let down = found(&daemon, "interface-down", "port up0");
    says(&down, "error", "interface up0 is down");
    mended(&daemon, &down);

    // One without a carrier is not as desired.
    far.ip(&["link", "set", "eth0", "down"]).unwrap();
    let bare = found(&daemon, "interface-down", "port up0");
    says(&bare, "warning", "no carrier");
    let differs = found(&daemon, "desired-not-actual", "port up0");
    says(&differs, "error", "no carrier");
    assert!(!daemon.as_desired().unwrap());
    far.ip(&["link", "set", "eth0", "up"]).unwrap();
    daemon.wait_forwarding(&["up0"]).unwrap();
    assert_eq!(finding(&daemon, "desired-not-actual", "port up0"), None);

    // MTUs.
    daemon.ok(&["set-port", "up0", "mtu=9000"]).unwrap();
    let smaller = found(&daemon, "mtu-mismatch", "port br0");
    says(&smaller, "warning", "smaller than port up0's of 9000");
    mended(&daemon, &smaller);
    daemon.ok(&["set-port", "up0", "mtu="]).unwrap();
    daemon.ok(&["set-port", "br0", "mtu="]).unwrap();
    for interface in ["up0", "br0"] {
        let shown = daemon.namespace().ip(&["link", "show", interface]).unwrap();
        assert!(shown.contains("mtu 1500"), "{shown}");
    }
    assert_eq!(finding(&daemon, "mtu-mismatch", "port up0"), None);

    // Offloads of the other end, and frames without any.
    daemon.ok(&["set-port", "up0", "xdp=on"]).unwrap();
    let clash = found(&daemon, "offloads-clash", "port up0");
    says(&clash, "warning", "without their offloads");
    mended(&daemon, &clash);

    // A port whose interface has gone.
    far.ip(&["link", "del", "eth0"]).unwrap();
    let gone = found(&daemon, "desired-not-actual", "port up0");
    says(&gone, "error", "no interface up0");
    daemon.ok(&["del-port", "br0", "up0"]).unwrap();

    // A bridge that passes nothing.
    daemon
        .ok(&["add-br", "br1", "--fail-mode", "secure"])
        .unwrap();
    let secure = found(&daemon, "secure-without-flows", "bridge br1");
    says(&secure, "warning", "has no flows");
    mended(&daemon, &secure);
}

#[test]
fn a_loop_is_found_by_its_moving_stations() {
    let _alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    let far = Namespace::new("far").unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    daemon.namespace().configure("br0", "10.1.0.1/24").unwrap();
    // Another switch, with two ways to it.
    far.ip(&["link", "add", "other", "type", "bridge"]).unwrap();
    far.ip(&["link", "set", "other", "up"]).unwrap();
    for (near, there) in [("up0", "eth0"), ("up1", "eth1")] {
        daemon.namespace().veth_to(near, &far, there).unwrap();
        far.ip(&["link", "set", there, "master", "other"]).unwrap();
        daemon
            .ok(&["add-port", "br0", near, "type=system"])
            .unwrap();
    }
    daemon.wait_forwarding(&["br0", "up0", "up1"]).unwrap();
    let looping = wait::until("the loop to be found", LIMIT, || {
        // One broadcast is enough: it goes round for ever.
        let _ = daemon.shell("ping -c 1 -W 0.1 10.1.0.9").unwrap();
        finding(&daemon, "loop", "bridge br0").ok_or_else(|| daemon.ringway(&["doctor"]))
    })
    .unwrap();
    says(&looping, "error", "moves to and fro between the ports");
    mended(&daemon, &looping);
}

#[test]
fn memory_cores_and_guests_are_looked_at() {
    let _alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    for check in ["hugepages", "core-shared"] {
        assert_eq!(finding(&daemon, check, "host"), None);
    }

    // A guest as people start it who have not read about share=on.
    let socket = daemon
        .add_vhost_port("br0", "vm1", &["mode=server"])
        .unwrap();
    let nic = Nic::new(socket, Listener::Switch, 1);
    let mut options = GuestOptions::new("vm1", nic);
    options.share_memory = false;
    let guest = Guest::start(&options, daemon.dir()).unwrap();

    // Another switch, on the same core and without hugepages.
    let other = Daemon::start_with(DaemonOptions {
        hugepages: "off",
        ..DaemonOptions::default()
    })
    .unwrap();
    let core = daemon.pmds().unwrap()[0].core;
    let shared = format!("poll-mode core {core} is shared with thread \"pmd-{core}\" of ringwayd");
    for daemon in [&daemon, &other] {
        let found = found(daemon, "core-shared", "host");
        says(&found, "warning", &shared);
        let remedy = found["remedy"][0].as_str().unwrap();
        assert!(remedy.starts_with("taskset -cp "), "{found}");
    }
    let ordinary = found(&other, "hugepages", "host");
    says(&ordinary, "warning", "ordinary memory");
    assert_eq!(ordinary["remedy"][0], "sysctl -w vm.nr_hugepages=512");
    assert_eq!(finding(&daemon, "hugepages", "host"), None);
    drop(other);
    assert_eq!(finding(&daemon, "core-shared", "host"), None);

    let unshared = found(&daemon, "memory-not-shared", "port vm1");
    says(&unshared, "error", "share=on");
    let why = unshared["why"].as_str().unwrap();
    assert!(why.contains("<access mode='shared'/>"), "{unshared}");
    guest.kill();
    options.share_memory = true;
    let _guest = Guest::start(&options, daemon.dir()).unwrap();
    wait::until(
        "a guest that shares its memory to be no fault",
        LIMIT,
        || finding(&daemon, "memory-not-shared", "port vm1").map_or(Ok(()), Err),
    )
    .unwrap();
}
