//! The packet path makes no system calls while no guest asks to be notified.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringway_tests::daemon::Daemon;
use ringway_tests::machine;
use ringway_tests::process::Thread;
use ringway_tests::testpmd::{Forward, Testpmd, VirtioUser};

/// How long the poll-mode thread is watched.
const WATCH: Duration = Duration::from_secs(3);

#[test]
fn a_busy_poll_mode_thread_makes_no_system_calls() {
    let _alone = machine::exclusive().unwrap();
    machine::need_tools(&["strace"]).unwrap();
    let mut daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    // DPDK's driver polls: it tells the switch that it wants no notifications.
    let ports = ["vm1", "vm2"].map(|name| {
        let socket = daemon
            .add_vhost_port("br0", name, &["mode=server"])
            .unwrap();
        VirtioUser::new(socket, name.as_bytes()[2] - b'0')
    });
    let mut testpmd = Testpmd::start("pair", &ports, Forward::Mac, 64, daemon.dir()).unwrap();
    daemon.wait_forwarding(&["vm1", "vm2"]).unwrap();
    testpmd.start_with_bursts(8).unwrap();
    testpmd.wait_received(10_000).unwrap();

    let thread = poll_mode_thread(&mut daemon);
    let before = daemon.balance().unwrap().received;
    let calls = count_calls(thread.tid);
    let packets = daemon.balance().unwrap().received - before;
    println!("{packets} packets, {calls} system calls");
    assert!(packets > 10_000, "there was no traffic to speak of");
    // Tracing begins and ends with a call or two of its own.
    assert!(
        calls * 1000 < packets,
        "{calls} system calls for {packets} packets"
    );
    testpmd.stop().unwrap();
    testpmd.quit().unwrap();
}

/// The thread that is pinned to the switch's core.
fn poll_mode_thread(daemon: &mut Daemon) -> Thread {
    let core = daemon.pmds().unwrap()[0].core.to_string();
    let threads = daemon.process().threads().unwrap();
    let pinned: Vec<&Thread> = threads
        .iter()
        .filter(|thread| thread.cpus == core && thread.name.contains("pmd"))
        .collect();
    assert_eq!(
        pinned.len(),
        1,
        "which is the poll-mode thread? {threads:?}"
    );
    pinned[0].clone()
}

/// System calls of a thread within [`WATCH`], as `strace -c` counts them.
fn count_calls(tid: i32) -> u64 {
    let strace = Command::new("strace")
        .args(["-c", "-p", &tid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(WATCH);
    kill(Pid::from_raw(strace.id() as i32), Signal::SIGINT).unwrap();
    let output = strace.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("attached"), "strace did not attach: {text}");
    println!("{text}");
    total_calls(&text)
}

/// The calls column of the line `100.00  0.000123  1  45  2 total`; without
/// a single call strace prints no table.
fn total_calls(text: &str) -> u64 {
    text.lines()
        .find(|line| line.trim_end().ends_with(" total"))
        .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn straces_table_is_read() {
    let text = "strace: Process 7 attached\n\
                % time     seconds  usecs/call     calls    errors syscall\n\
                ------ ----------- ----------- --------- --------- ----------------\n\
                100.00    0.000123           1        45         2 write\n\
                ------ ----------- ----------- --------- --------- ----------------\n\
                100.00    0.000123           1        45         2 total\n";
    assert_eq!(total_calls(text), 45);
    assert_eq!(total_calls("strace: Process 7 attached\n"), 0);
}
