//! The command line and the daemon's state: what people and scripts rely on.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use ringway_frontend::{NetDriver, Session, SessionConfig};
use ringway_tests::counters;
use ringway_tests::daemon::Daemon;
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::{Result, wait};

const LIMIT: Duration = Duration::from_secs(10);

fn daemon() -> (Daemon, Exclusive) {
    let alone = machine::exclusive().unwrap();
    (Daemon::start().unwrap(), alone)
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// A guest of our own on a port's socket.
fn guest(daemon: &Daemon, port: &str) -> NetDriver {
    let socket = daemon.path(&format!("{port}.sock"));
    let session = Session::connect_within(&socket, LIMIT).unwrap();
    let guest = session.bring_up(&SessionConfig::default()).unwrap();
    daemon.wait_state(port, "forwarding").unwrap();
    NetDriver::new(guest).unwrap()
}

/// An Ethernet frame of 60 bytes with an experimental type.
fn frame(to: u8, from: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5];
    frame.resize(60, from);
    frame
}

/// A frame passes from one guest to the other.
fn passes(from: &mut NetDriver, to: &mut NetDriver) {
    let sent = frame(2, 1);
    assert!(from.send(0, &sent));
    assert_eq!(to.recv_within(0, LIMIT), Some(sent));
}

#[test]
fn bridges_and_ports_come_and_go() {
    let (daemon, _alone) = daemon();
    let run = |args: &[&str]| daemon.ok(args).unwrap();
    run(&["add-br", "br0"]);
    run(&["add-br", "br1", "--fail-mode", "secure"]);
    assert_eq!(lines(&run(&["list-br"])), ["br0", "br1"]);

    let vm1 = daemon
        .add_vhost_port("br0", "vm1", &["mode=server"])
        .unwrap();
    daemon
        .add_vhost_port("br0", "vm2", &["mode=client", "queues=2"])
        .unwrap();
    daemon
        .add_vhost_port("br1", "vm3", &["mode=server"])
        .unwrap();
    assert_eq!(lines(&run(&["list-ports", "br0"])), ["vm1", "vm2"]);
    assert_eq!(lines(&run(&["list-ports", "br1"])), ["vm3"]);
    assert_eq!(run(&["port-to-br", "vm3"]).trim(), "br1");

    // Every object is in what people read …
    let shown = run(&["show"]);
    for name in ["br0", "br1", "vm1", "vm2", "vm3", "waiting-for-socket"] {
        assert!(shown.contains(name), "show lacks {name}:\n{shown}");
    }
    let datapath = run(&["dpctl", "show"]);
    for name in ["vm1", "vm2", "vm3"] {
        assert!(
            datapath.contains(name),
            "dpctl show lacks {name}:\n{datapath}"
        );
    }
    for command in [
        &["dump-ports", "br0"][..],
        &["pmd", "show"],
        &["pmd", "stats"],
        &["drops"],
        &["version"],
        &["fdb", "show", "br0"],
    ] {
        run(command);
        daemon.json(command).unwrap();
    }

    // … and the socket is there as long as the port.
    assert!(fs::metadata(&vm1).unwrap().file_type().is_socket());
    run(&["del-port", "br0", "vm1"]);
    assert!(!vm1.exists(), "{} outlived its port", vm1.display());
    assert_eq!(lines(&run(&["list-ports", "br0"])), ["vm2"]);
    run(&["del-br", "br1"]);
    assert_eq!(lines(&run(&["list-br"])), ["br0"]);
    assert!(!daemon.path("vm3.sock").exists());
}

#[test]
fn mistakes_are_refused_by_name() {
    let (daemon, _alone) = daemon();
    daemon.ok(&["add-br", "br0"]).unwrap();
    daemon
        .add_vhost_port("br0", "vm1", &["mode=server"])
        .unwrap();
    let path = format!("path={}", daemon.path("x.sock").display());
    let long = format!("path=/tmp/{}.sock", "x".repeat(108));
    // What was typed, and what the complaint must name.
    let cases: &[(&[&str], &[&str])] = &[
        (&["add-br", "br0"], &["br0"]),
        (&["del-br", "br9"], &["br9"]),
        (&["del-port", "br0", "vm9"], &["vm9"]),
        (&["port-to-br", "vm9"], &["vm9"]),
        (&["list-ports", "br9"], &["br9"]),
        (&["fdb", "show", "br9"], &["br9"]),
        (
            &["add-port", "br9", "vm2", "type=vhost-user", &path],
            &["br9"],
        ),
        (
            &["add-port", "br0", "vm1", "type=vhost-user", &path],
            &["vm1"],
        ),
        (
            &["add-port", "br0", "vm2", "type=vhost-user", &long],
            &["107"],
        ),
        (
            &["add-port", "br0", "vm2", "type=token-ring", &path],
            &["token-ring", "vhost-user"],
        ),
        (
            &[
                "add-port",
                "br0",
                "vm2",
                "type=vhost-user",
                &path,
                "mode=both",
            ],
            &["both", "server", "client"],
        ),
        (
            &[
                "add-port",
                "br0",
                "vm2",
                "type=vhost-user",
                &path,
                "queues=0",
            ],
            &["queues"],
        ),
        (
            &[
                "add-port",
                "br0",
                "vm2",
                "type=vhost-user",
                &path,
                "colour=blue",
            ],
            &["colour"],
        ),
        (&["add-br", "br2", "--fail-mode", "maybe"], &["maybe"]),
    ];
    for (args, wanted) in cases {
        let complaint = daemon.fails(args).unwrap();
        for word in *wanted {
            assert!(
                complaint.contains(word),
                "the complaint about {args:?} does not name {word}: {complaint}"
            );
        }
    }
    // Nothing of it was taken over.
    assert_eq!(lines(&daemon.ok(&["list-br"]).unwrap()), ["br0"]);
    assert_eq!(lines(&daemon.ok(&["list-ports", "br0"]).unwrap()), ["vm1"]);
    assert!(daemon.as_desired().unwrap());
}

#[test]
fn may_exist_and_if_exists_make_repetition_harmless() {
    let (daemon, _alone) = daemon();
    for _ in 0..2 {
        daemon.ok(&["add-br", "--may-exist", "br0"]).unwrap();
        let path = format!("path={}", daemon.path("vm1.sock").display());
        daemon
            .ok(&[
                "add-port",
                "--may-exist",
                "br0",
                "vm1",
                "type=vhost-user",
                &path,
            ])
            .unwrap();
    }
    assert_eq!(lines(&daemon.ok(&["list-ports", "br0"]).unwrap()), ["vm1"]);
    for _ in 0..2 {
        daemon
            .ok(&["del-port", "--if-exists", "br0", "vm1"])
            .unwrap();
    }
    for _ in 0..2 {
        daemon.ok(&["del-br", "--if-exists", "br0"]).unwrap();
    }
    assert_eq!(daemon.ok(&["list-br"]).unwrap().trim(), "");
}

#[test]
fn no_daemon_is_said_with_the_socket() {
    let (mut daemon, _alone) = daemon();
    daemon.terminate().unwrap();
    let complaint = daemon.fails(&["show"]).unwrap();
    let socket = daemon.socket();
    assert!(
        complaint.contains(&*socket.to_string_lossy()),
        "the complaint does not name {}: {complaint}",
        socket.display()
    );
}

#[test]
fn show_exits_with_an_error_while_desired_and_actual_differ() {
    let (daemon, _alone) = daemon();
    daemon.ok(&["add-br", "br0"]).unwrap();
    // Another process listens where vm1's socket shall be.
    let path = daemon.path("vm1.sock");
    let other = UnixListener::bind(&path).unwrap();
    let option = format!("path={}", path.display());
    daemon
        .fails(&["add-port", "br0", "vm1", "type=vhost-user", &option])
        .unwrap();

    assert!(!daemon.as_desired().unwrap());
    let port = daemon.show_port("vm1").unwrap();
    assert_eq!(port["differs"], true, "{port}");
    assert!(!counters::text(&port, "reason").unwrap().is_empty());
    assert!(
        daemon.path("vm1.sock").exists(),
        "the other process's socket was removed"
    );

    // It goes away, and the daemon drives actual towards desired by itself.
    drop(other);
    fs::remove_file(&path).unwrap();
    daemon.wait_state("vm1", "waiting-for-socket").unwrap();
    assert!(daemon.as_desired().unwrap());
}

/// What a daemon on the same state file must bring back.
fn build_state(daemon: &Daemon) {
    daemon.ok(&["add-br", "br0"]).unwrap();
    daemon
        .ok(&["add-br", "br1", "--fail-mode", "secure"])
        .unwrap();
    daemon
        .add_vhost_port("br0", "vm1", &["mode=server"])
        .unwrap();
    daemon
        .add_vhost_port("br0", "vm2", &["mode=server", "queues=1"])
        .unwrap();
}

/// Desired state without the times.
fn desired(daemon: &Daemon) -> Result<Vec<serde_json::Value>> {
    let shown = daemon.json(&["show"])?;
    let mut found = Vec::new();
    for bridge in counters::list(&shown, "bridges")? {
        found.push(bridge["desired"].clone());
        for port in counters::list(bridge, "ports")? {
            found.push(port["desired"].clone());
        }
    }
    Ok(found)
}

#[test]
fn state_is_reloaded_after_a_clean_stop_and_after_kill_9() {
    let (mut daemon, _alone) = daemon();
    build_state(&daemon);
    let before = desired(&daemon).unwrap();
    // Two bridges, each with its own interface, and two ports.
    assert_eq!(before.len(), 6);

    assert!(daemon.terminate().unwrap().success());
    daemon.start_again().unwrap();
    assert_eq!(desired(&daemon).unwrap(), before);

    // kill -9 leaves sockets behind: they are stale, and no obstacle.
    daemon.kill();
    for socket in ["vm1.sock", "vm2.sock", "control.sock"] {
        assert!(daemon.path(socket).exists(), "kill -9 removed {socket}");
    }
    daemon.start_again().unwrap();
    assert_eq!(desired(&daemon).unwrap(), before);
    let [mut vm1, mut vm2] = ["vm1", "vm2"].map(|port| guest(&daemon, port));
    passes(&mut vm1, &mut vm2);
    assert!(daemon.as_desired().unwrap());
}

#[test]
fn sigterm_stops_the_guests_sessions_and_removes_all_sockets() {
    let (mut daemon, _alone) = daemon();
    build_state(&daemon);
    let [mut vm1, mut vm2] = ["vm1", "vm2"].map(|port| guest(&daemon, port));
    passes(&mut vm1, &mut vm2);
    let status = daemon.terminate().unwrap();
    assert!(status.success(), "{status}");
    for socket in ["vm1.sock", "vm2.sock", "control.sock"] {
        assert!(!daemon.path(socket).exists(), "{socket} was left behind");
    }
    for guest in [&vm1, &vm2] {
        assert!(guest.guest.session.closed_within(LIMIT));
    }
    // Nothing comes any more, and nothing broke.
    assert!(vm1.send(0, &frame(2, 1)));
    assert_eq!(vm2.recv(0), None);
}

#[test]
fn two_daemons_do_not_share_a_socket() {
    let (daemon, _alone) = daemon();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let program = machine::bin_dir().unwrap().join("ringwayd");
    let second = std::process::Command::new(program)
        .arg("--socket")
        .arg(daemon.socket())
        .arg("--state")
        .arg(daemon.path("other.toml"))
        .args(["--pmd-cores", "0", "--hugepages", "off"])
        .output()
        .unwrap();
    assert!(!second.status.success());
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned()
        + &String::from_utf8_lossy(&second.stdout);
    assert!(complaint.contains("control.sock"), "{complaint}");
    // The first is unharmed.
    assert_eq!(lines(&daemon.ok(&["list-br"]).unwrap()), ["br0"]);
}

#[test]
fn a_sockets_permissions_are_as_asked_for() {
    let (daemon, _alone) = daemon();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let socket = daemon
        .add_vhost_port(
            "br0",
            "vm1",
            &["mode=server", "owner=daemon:daemon", "permissions=0660"],
        )
        .unwrap();
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
    let id = |text: String| text.trim().parse::<u32>().unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        metadata.uid(),
        id(machine::sh("id", &["-u", "daemon"]).unwrap())
    );
    assert_eq!(
        metadata.gid(),
        id(machine::sh("id", &["-g", "daemon"]).unwrap())
    );
}

#[test]
fn a_secure_bridge_passes_nothing_without_flows() {
    let (daemon, _alone) = daemon();
    daemon
        .ok(&["add-br", "br0", "--fail-mode", "secure"])
        .unwrap();
    for port in ["vm1", "vm2"] {
        daemon
            .add_vhost_port("br0", port, &["mode=server"])
            .unwrap();
    }
    let [mut vm1, mut vm2] = ["vm1", "vm2"].map(|port| guest(&daemon, port));
    for _ in 0..10 {
        assert!(vm1.send(0, &frame(2, 1)));
    }
    assert!(vm1.flush(0, LIMIT));
    let balance = daemon.settled_balance().unwrap();
    assert_eq!((balance.received, balance.dropped), (10, 10), "{balance:?}");
    let drops = daemon.drops().unwrap();
    assert_eq!(drops.len(), 1, "{drops:?}");
    assert_eq!(
        (drops[0].port.as_str(), drops[0].reason.as_str()),
        ("vm1", "no_flow")
    );
    assert_eq!(vm2.recv(0), None);
}

#[test]
fn stations_are_learned_shown_and_flushed() {
    let (daemon, _alone) = daemon();
    build_state(&daemon);
    let [mut vm1, mut vm2] = ["vm1", "vm2"].map(|port| guest(&daemon, port));
    passes(&mut vm1, &mut vm2);
    let entries = || {
        let shown = daemon.json(&["fdb", "show", "br0"]).unwrap();
        counters::list(&shown, "entries").unwrap().clone()
    };
    let learned = entries();
    assert_eq!(learned.len(), 1, "{learned:?}");
    assert_eq!(learned[0]["mac"], "02:00:00:00:00:01");
    assert_eq!(learned[0]["port_name"], "vm1");
    daemon.ok(&["fdb", "flush", "br0"]).unwrap();
    assert_eq!(entries().len(), 0);

    // The station moves to the other port.
    assert!(vm2.send(0, &frame(9, 1)));
    wait::until("the station to be learned anew", LIMIT, || {
        let learned = entries();
        if learned.len() == 1 && learned[0]["port_name"] == "vm2" {
            return Ok(());
        }
        Err(learned)
    })
    .unwrap();
}
