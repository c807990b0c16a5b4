//! `kill -9` of the daemon under traffic: guests keep running, and what they get
//! is whole, in order, and told. What is stored is intact at every instant.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringway_frontend::{Session, features};
use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::numbered::{KINDS, Numbered};
use ringway_tests::scripted::{self, LIMIT};
use ringway_tests::testpmd::{Forward, Testpmd, VirtioUser};

fn switch(mode: &str) -> (Daemon, Exclusive) {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0", "--no-internal"]).unwrap();
    for port in ["vm1", "vm2"] {
        daemon.add_vhost_port("br0", port, &[mode]).unwrap();
    }
    (daemon, alone)
}

#[test]
fn numbered_frames_go_on_after_kill_9() {
    for (mode, listens, layout) in KINDS {
        let (mut daemon, _alone) = switch(mode);
        let mut traffic =
            Numbered::start(&daemon, ["vm1", "vm2"], [1, 2], listens, layout).unwrap();
        traffic.go_on(20_000).unwrap();
        let kills = 10;
        for _ in 0..kills {
            daemon.kill();
            let begin = Instant::now();
            daemon.start_again().unwrap();
            println!("{mode} {layout:?}: started again in {:?}", begin.elapsed());
            traffic.go_on(20_000).unwrap();
        }
        let outcome = traffic.end().unwrap();
        println!(
            "{mode} {layout:?}: outage with the start {:?}; {outcome:?}",
            outcome.outage()
        );
        assert_eq!(outcome.reconnects, 2 * kills, "{outcome:?}");
        outcome.assert_clean();
        let balance = daemon.settled_balance().unwrap();
        assert!(balance.holds(), "{balance:?}");
    }
}

#[test]
fn virtio_user_goes_on_after_kill_9() {
    let (mut daemon, _alone) = switch("mode=client");
    let ports = ["vm1", "vm2"].map(|name| {
        let digit = name.as_bytes()[2] - b'0';
        let mut port = VirtioUser::new(daemon.path(&format!("{name}.sock")), digit);
        port.listens = true;
        port
    });
    let mut testpmd = Testpmd::start("pair", &ports, Forward::Mac, 64, daemon.dir()).unwrap();
    daemon.wait_forwarding(&["vm1", "vm2"]).unwrap();
    testpmd.start_with_bursts(4).unwrap();
    testpmd.wait_received(10_000).unwrap();
    for _ in 0..2 {
        daemon.kill();
        daemon.start_again().unwrap();
        daemon.wait_forwarding(&["vm1", "vm2"]).unwrap();
        // That driver drops what was in its rings when it reconnects: it has to be
        // told to send again.
        testpmd.stop().unwrap();
        testpmd.start_with_bursts(4).unwrap();
        testpmd.wait_received(10_000).unwrap();
        assert!(daemon.port("vm1").unwrap().rx_packets > 1000);
    }
    testpmd.stop().unwrap();
    assert!(daemon.settled_balance().unwrap().holds());
    testpmd.quit().unwrap();
}

/// How long after a frontend listens ringway connects.
fn connected_after(listener: &UnixListener, since: Instant) -> Duration {
    listener.set_nonblocking(false).unwrap();
    listener.accept().unwrap();
    since.elapsed()
}

#[test]
fn ringway_connects_as_soon_as_a_frontend_listens() {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0", "--no-internal"]).unwrap();
    let socket = daemon
        .add_vhost_port("br0", "vm1", &["mode=client"])
        .unwrap();
    let deep = daemon.path("not/there/yet/vm2.sock");
    let path = format!("path={}", deep.display());
    let port = [
        "add-port",
        "br0",
        "vm2",
        "type=vhost-user",
        &path,
        "mode=client",
    ];
    daemon.ok(&port).unwrap();

    let mut times = Vec::new();
    for round in 0..20 {
        // Long enough for any back-off to have grown.
        std::thread::sleep(Duration::from_millis(if round == 7 { 1500 } else { 30 }));
        let since = Instant::now();
        let listener = UnixListener::bind(&socket).unwrap();
        times.push(connected_after(&listener, since));
        drop(listener);
        if round % 3 != 0 {
            // Else the dead frontend's file is there when the next one comes.
            fs::remove_file(&socket).unwrap();
        } else {
            std::thread::sleep(Duration::from_millis(700));
            fs::remove_file(&socket).unwrap();
        }
    }
    times.sort();
    println!(
        "connected after: median {:?}, worst {:?}",
        times[10], times[19]
    );
    assert!(times[19] < Duration::from_secs(2), "{times:?}");

    // The directories come one after the other.
    let since = Instant::now();
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&deep).unwrap();
    let after = connected_after(&listener, since);
    println!("in a new directory: {after:?}");
    assert!(after < Duration::from_secs(2), "{after:?}");
    drop(alone);
}

fn offered(daemon: &Daemon, port: &str) -> u64 {
    let session = scripted::connect(daemon, port).unwrap();
    session.get_features().unwrap()
}

#[test]
fn a_guest_is_offered_the_features_of_its_first_day() {
    let (mut daemon, _alone) = switch("mode=server");
    let today = offered(&daemon, "vm1");
    assert_ne!(today & features::MRG_RXBUF, 0);
    daemon.terminate().unwrap();
    // As an older ringwayd would have stored it.
    let text = fs::read_to_string(daemon.state_file()).unwrap();
    let line = format!("features = \"{today:#x}\"");
    assert!(text.contains(&line), "{text}");
    let older = today & !features::MRG_RXBUF;
    let older_text = text.replacen(&line, &format!("features = \"{older:#x}\""), 1);
    fs::write(daemon.state_file(), older_text).unwrap();
    daemon.start_again().unwrap();
    for _ in 0..2 {
        assert_eq!(offered(&daemon, "vm1"), older);
        assert_eq!(offered(&daemon, "vm2"), today);
        let shown = daemon.show_port("vm1").unwrap().to_string();
        assert!(shown.contains("MRG_RXBUF"), "{shown}");
        daemon.kill();
        daemon.start_again().unwrap();
    }
    // A frontend that was offered less goes on with less.
    let session = Session::connect_within(daemon.path("vm1.sock"), LIMIT).unwrap();
    assert!(session.set_features(today).is_ok());
    assert!(
        session.closed_within(LIMIT),
        "what was not offered is refused"
    );
    daemon.ok(&["del-port", "br0", "vm1"]).unwrap();
    daemon
        .add_vhost_port("br0", "vm1", &["mode=server"])
        .unwrap();
    assert_eq!(offered(&daemon, "vm1"), today);
}

/// A small file system of the test's own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let at = path.to_string_lossy();
        machine::sh("mount", &["-t", "tmpfs", "-o", "size=64k", "none", &at]).unwrap();
        Self(path.to_owned())
    }

    fn fill(&self) {
        let mut size = 32 << 10;
        let mut number = 0;
        while size > 0 {
            let file = self.0.join(format!("fill-{number}"));
            if fs::write(&file, vec![1; size]).is_err() {
                size /= 2;
            }
            number += 1;
        }
    }

    fn empty(&self) {
        for entry in fs::read_dir(&self.0).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("fill-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = machine::sh("umount", &["-l", &self.0.to_string_lossy()]);
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_what_was_stored() {
    let _alone = machine::exclusive().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(&folder.path().join("disk"));
    let mut daemon = Daemon::start_with(DaemonOptions {
        state_dir: Some(disk.0.clone()),
        ..DaemonOptions::default()
    })
    .unwrap();
    daemon.ok(&["add-br", "br0", "--no-internal"]).unwrap();
    daemon.add_vhost_port("br0", "vm1", &[]).unwrap();
    daemon.ok(&["add-flow", "br0", "udp,actions=vm1"]).unwrap();
    let state = fs::read(daemon.state_file()).unwrap();
    let content = |daemon: &Daemon| {
        let flows = daemon.ok(&["dump-flows", "--no-stats", "br0"]).unwrap();
        (daemon.ok(&["list-ports", "br0"]).unwrap(), flows)
    };
    let before = content(&daemon);
    disk.fill();

    let socket = daemon.path("vm2.sock");
    let path = format!("path={}", socket.display());
    let why = daemon
        .fails(&["add-port", "br0", "vm2", "type=vhost-user", &path])
        .unwrap();
    for words in ["state file", "No space left", "as it was"] {
        assert!(why.contains(words), "no {words:?} in {why}");
    }
    let long: String = (0..800)
        .map(|n| format!("ip,nw_dst=10.0.{}.{},actions=vm1\n", n / 250, n % 250))
        .collect();
    let file = daemon.path("flows.txt");
    fs::write(&file, long).unwrap();
    let why = daemon
        .fails(&["add-flows", "br0", &file.to_string_lossy()])
        .unwrap();
    for words in ["flow journal", "No space left"] {
        assert!(why.contains(words), "no {words:?} in {why}");
    }
    assert_eq!(content(&daemon), before);
    assert_eq!(fs::read(daemon.state_file()).unwrap(), state);
    daemon.kill();
    daemon.start_again().unwrap();
    assert_eq!(content(&daemon), before, "after a crash on a full disk");

    disk.empty();
    daemon.add_vhost_port("br0", "vm2", &[]).unwrap();
    daemon.ok(&["add-flow", "br0", "tcp,actions=vm2"]).unwrap();
    let after = content(&daemon);
    daemon.kill();
    daemon.start_again().unwrap();
    assert_eq!(content(&daemon), after);
    drop(daemon);
}
