//! The packet path makes no system calls while no guest asks to be notified.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::lab::Lab;
use ringway_tests::process::Thread;
use ringway_tests::testpmd::{Forward, Testpmd, VirtioUser};
use ringway_tests::{frames, machine};

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

/// Rules in two tables that tell flows apart by their stations and ports.
const RULES: &str = "priority=9,udp,actions=set_field:3->reg0,resubmit(,1)
     table=1,priority=9,udp,reg0=3,dl_src=02:00:00:00:00:99,actions=drop
     table=1,priority=8,udp,tp_src=0x8000/0x8000,actions=mod_nw_dst:192.0.2.1,dec_ttl,vm2
     table=1,priority=7,udp,actions=push_vlan:0x8100,mod_vlan_vid:5,vm2,pop_vlan,mod_tp_dst:9,vm2";

/// New flows, one after the other: each misses, is translated, has its
/// megaflow installed and its packet rewritten.
#[test]
fn translating_new_flows_makes_no_system_calls() {
    machine::need_tools(&["strace"]).unwrap();
    let options = DaemonOptions {
        arguments: ["--sleep-after", "off", "--max-idle", "0.2"]
            .map(str::to_owned)
            .into(),
        ..DaemonOptions::default()
    };
    let mut lab = Lab::start_with(options, &[("vm1", 0), ("vm2", 0)]).unwrap();
    lab.load(RULES).unwrap();
    let [mut from, mut to] = ["vm1", "vm2"].map(|port| lab.guests.remove(port).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sender = thread::spawn(move || {
        let mut frame = frames::udp().bytes();
        let mut number = 0u32;
        while !stopped.load(Ordering::Relaxed) {
            // Neither wants to be notified.
            for ring in from.guest.rings.iter().chain(&to.guest.rings) {
                ring.want_calls(false);
            }
            for _ in 0..32 {
                frame[8..12].copy_from_slice(&number.to_be_bytes());
                frame[34..36].copy_from_slice(&(number as u16).to_be_bytes());
                if from.send(0, &frame) {
                    number = number.wrapping_add(1);
                }
            }
            while to.recv(0).is_some() {}
        }
    });
    let thread = poll_mode_thread(&mut lab.daemon);
    let before = lab.cache().unwrap().missed;
    let calls = count_calls(thread.tid);
    let missed = lab.cache().unwrap().missed - before;
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    println!("{missed} flows, {calls} system calls");
    assert!(missed > 10_000, "there were no new flows to speak of");
    assert!(
        calls * 1000 < missed,
        "{calls} system calls for {missed} new flows"
    );
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
