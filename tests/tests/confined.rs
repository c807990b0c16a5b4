//! What the daemon may do after its start, in each of its threads, and that
//! every kind of port works with that.

use std::fs;
use std::time::Duration;

use ringway_frontend::{NetDriver, Session, SessionConfig};
use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::machine;
use ringway_tests::netns::Namespace;

const LIMIT: Duration = Duration::from_secs(20);

/// net_admin (12), net_raw (13), ipc_lock (14), chown (0).
const KEPT: u64 = 1 << 12 | 1 << 13 | 1 << 14 | 1;
/// bpf (39), perfmon (38), sys_admin (21).
const XDP: u64 = 1 << 39 | 1 << 38 | 1 << 21;
/// sys_nice.
const NICE: u64 = 1 << 23;

/// A thread's status as the kernel tells it.
struct Thread {
    name: String,
    status: String,
}

impl Thread {
    fn field(&self, name: &str) -> &str {
        let lines = self.status.lines();
        let value = lines.filter_map(|line| line.strip_prefix(name)).next();
        value
            .unwrap_or_else(|| panic!("no {name} in {}", self.status))
            .trim()
    }

    fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(self.field(name), 16).expect("a set of capabilities")
    }
}

fn threads(daemon: &mut Daemon) -> Vec<Thread> {
    let tasks = format!("/proc/{}/task", daemon.process().pid());
    let mut threads = Vec::new();
    for task in fs::read_dir(tasks).unwrap() {
        // A thread may end between listing and reading.
        if let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) {
            let name = status.lines().next().unwrap_or_default().to_owned();
            threads.push(Thread { name, status });
        }
    }
    assert!(threads.len() > 5, "too few threads: is that the daemon?");
    threads
}

fn check_threads(daemon: &mut Daemon, seccomp: &str, capabilities: u64) {
    for thread in threads(daemon) {
        let name = &thread.name;
        assert_eq!(thread.field("Seccomp:"), seccomp, "{name}");
        assert_eq!(thread.field("NoNewPrivs:"), "1", "{name}");
        for set in ["CapEff:", "CapPrm:"] {
            assert_eq!(thread.set(set), capabilities, "{name} {set}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(thread.set(set), 0, "{name} {set}");
        }
    }
}

/// A guest of our own on a port's socket.
fn guest(daemon: &Daemon, port: &str) -> NetDriver {
    let socket = daemon.path(&format!("{port}.sock"));
    let session = Session::connect_within(&socket, LIMIT).unwrap();
    let guest = session.bring_up(&SessionConfig::default()).unwrap();
    daemon.wait_state(port, "forwarding").unwrap();
    NetDriver::new(guest).unwrap()
}

/// Ports of every kind that this machine can have, on br0.
fn ports_of_every_kind(daemon: &Daemon, neighbour: &Namespace, owner: &str) {
    let space = daemon.namespace();
    space.veth_to("eth1", neighbour, "far1").unwrap();
    space.veth_to("eth3", neighbour, "far3").unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let lines = [
        "add-port br0 web0 type=internal queues=2".to_owned(),
        format!("add-port br0 tap1 type=tap owner={owner}"),
        "add-port br0 eth1 type=system xdp=off mtu=1500".to_owned(),
        "add-port br0 null0 type=dpdk devargs=net_null0,no-rx=1".to_owned(),
        "add-port br0 pkt0 type=dpdk devargs=net_af_packet0,iface=eth3".to_owned(),
        "add-port br0 ring0 type=dpdk devargs=net_ring0".to_owned(),
        "add-br br1".to_owned(),
        "add-port br0 to1 type=patch peer=to0".to_owned(),
        "add-port br1 to0 type=patch peer=to1".to_owned(),
    ];
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        daemon.ok(&words).unwrap();
    }
    let owned = format!("owner={owner}");
    daemon
        .add_vhost_port("br0", "vm1", &["mode=server", &owned, "permissions=0660"])
        .unwrap();
    daemon
        .add_vhost_port("br0", "vm2", &["mode=server"])
        .unwrap();
    daemon
        .add_vhost_port("br0", "vm3", &["mode=client"])
        .unwrap();
    assert!(
        daemon.as_desired().unwrap(),
        "{}",
        daemon.ringway(&["show"]).unwrap().stdout
    );
    let (mut one, mut other) = (guest(daemon, "vm1"), guest(daemon, "vm2"));
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.resize(60, 7);
    assert!(one.send(0, &frame));
    assert_eq!(other.recv_within(0, LIMIT), Some(frame));
}

#[test]
fn every_thread_is_confined_and_every_kind_of_port_works() {
    let _alone = machine::exclusive().unwrap();
    let mut daemon = Daemon::start().unwrap();
    let neighbour = Namespace::new("beside").unwrap();
    check_threads(&mut daemon, "2", KEPT);
    ports_of_every_kind(&daemon, &neighbour, "daemon:daemon");
    // Threads of ports, too.
    check_threads(&mut daemon, "2", KEPT);
    // What a restart finds is brought up under the filter, too.
    assert!(daemon.terminate().unwrap().success());
    daemon.start_again().unwrap();
    assert!(
        daemon.as_desired().unwrap(),
        "{}",
        daemon.ringway(&["show"]).unwrap().stdout
    );
    daemon
        .ok(&["doctor"])
        .unwrap_or_else(|error| error.to_string());
    daemon.ok(&["del-br", "br0"]).unwrap();
    check_threads(&mut daemon, "2", KEPT);
    assert!(daemon.process().log().contains("system calls are filtered"));
}

#[test]
fn it_runs_as_a_user_of_its_own() {
    let _alone = machine::exclusive().unwrap();
    // nobody: no files, no groups.
    let options = DaemonOptions {
        user: Some(65_534),
        ..DaemonOptions::default()
    };
    let mut daemon = Daemon::start_with(options).unwrap();
    let neighbour = Namespace::new("beside").unwrap();
    ports_of_every_kind(&daemon, &neighbour, "daemon:daemon");
    check_threads(&mut daemon, "2", KEPT);
    for thread in threads(&mut daemon) {
        let ids: Vec<&str> = thread.field("Uid:").split_whitespace().collect();
        assert_eq!(ids, ["65534"; 4], "{}", thread.name);
    }
}

#[test]
fn af_xdp_is_had_by_those_who_ask_for_it() {
    let _alone = machine::exclusive().unwrap();
    let port = ["add-port", "br0", "eth2", "type=system", "xdp=on"];
    for keep in [false, true] {
        let options = match keep {
            true => DaemonOptions::with_xdp(),
            false => DaemonOptions::default(),
        };
        let mut daemon = Daemon::start_with(options).unwrap();
        let neighbour = Namespace::new("beside").unwrap();
        daemon
            .namespace()
            .veth_to("eth2", &neighbour, "far2")
            .unwrap();
        daemon.ok(&["add-br", "br0"]).unwrap();
        if !keep {
            let why = daemon.fails(&port).unwrap();
            assert!(why.contains("--keep-capabilities xdp"), "{why}");
            continue;
        }
        daemon.ok(&port).unwrap();
        check_threads(&mut daemon, "2", KEPT | XDP);
    }
}

#[test]
fn what_is_asked_for_is_kept() {
    let _alone = machine::exclusive().unwrap();
    let arguments = ["--seccomp", "off", "--keep-capabilities", "sys_nice"];
    let options = DaemonOptions {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..DaemonOptions::default()
    };
    let mut daemon = Daemon::start_with(options).unwrap();
    check_threads(&mut daemon, "0", KEPT | NICE);
    assert!(daemon.process().log().contains("--seccomp off"));
}

#[test]
fn sockets_are_for_those_who_are_named() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let _alone = machine::exclusive().unwrap();
    let arguments = ["--socket-group", "daemon", "--socket-mode", "0620"];
    let options = DaemonOptions {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..DaemonOptions::default()
    };
    let daemon = Daemon::start_with(options).unwrap();
    let found = fs::metadata(daemon.socket()).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o620);
    assert_eq!((found.uid(), found.gid()), (0, 1));
    // Nobody else: not even to be told that it is there.
    let said = machine::sh(
        "setpriv",
        &[
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            &machine::bin_dir()
                .unwrap()
                .join("ringway")
                .to_string_lossy(),
            "--socket",
            &daemon.socket().to_string_lossy(),
            "version",
        ],
    );
    assert!(
        said.is_err(),
        "anybody may use the control socket: {said:?}"
    );
}
