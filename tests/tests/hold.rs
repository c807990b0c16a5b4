//! `ringwayd --hold-fds`: a daemon that is killed is started again, and no
//! frontend sees its connection end.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::holder::Children;
use ringway_tests::machine;
use ringway_tests::numbered::{KINDS, Layout, Numbered};
use ringway_tests::wait;

/// Longest that a new daemon takes.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_killed_daemon_is_started_again_and_nobody_reconnects() {
    for (mode, listens, layout) in KINDS {
        let _alone = machine::exclusive().unwrap();
        let mut daemon = Daemon::start_with(DaemonOptions {
            arguments: vec!["--hold-fds".into()],
            ..DaemonOptions::default()
        })
        .unwrap();
        let children = Children::of(daemon.process().pid());
        daemon.ok(&["add-br", "br0", "--no-internal"]).unwrap();
        for port in ["vm1", "vm2"] {
            daemon.add_vhost_port("br0", port, &[mode]).unwrap();
        }
        let mut traffic =
            Numbered::start(&daemon, ["vm1", "vm2"], [1, 2], listens, layout).unwrap();
        traffic.go_on(20_000).unwrap();
        let fds = daemon.process().open_fds().unwrap();
        for _ in 0..3 {
            // Longer than what counts as dying at its start.
            std::thread::sleep(Duration::from_millis(1200));
            let pid = children.now()[0];
            kill(pid, Signal::SIGKILL).unwrap();
            let begin = Instant::now();
            wait::until("another daemon", LIMIT, || match children.now()[..] {
                [other] if other != pid => Ok(()),
                ref other => Err(format!("{other:?}")),
            })
            .unwrap();
            traffic.go_on(20_000).unwrap();
            println!(
                "{mode} {layout:?}: traffic again after {:?}",
                begin.elapsed()
            );
        }
        // An upgrade, and a kill after it.
        for signal in [Signal::SIGUSR2, Signal::SIGKILL] {
            let pid = children.now()[0];
            let told = match signal {
                Signal::SIGUSR2 => Pid::from_raw(daemon.process().pid() as i32),
                _ => pid,
            };
            std::thread::sleep(Duration::from_millis(1200));
            kill(told, signal).unwrap();
            wait::until("another daemon", LIMIT, || match children.now()[..] {
                [other] if other != pid => Ok(()),
                ref other => Err(format!("{other:?}")),
            })
            .unwrap();
            traffic.go_on(20_000).unwrap();
        }
        let log = daemon.log().unwrap();
        assert!(log.contains("took over 4 rings"), "{log}");
        daemon.wait_forwarding(&["vm1", "vm2"]).unwrap();
        let outcome = traffic.end().unwrap();
        println!(
            "{mode} {layout:?}: outage {:?}, {outcome:?}",
            outcome.outage()
        );
        outcome.assert_clean();
        assert_eq!(outcome.reconnects, 0, "{outcome:?}");
        assert!(
            outcome.lost() <= 4 * 2 * 32,
            "more than a burst: {outcome:?}"
        );
        for port in ["vm1", "vm2"] {
            daemon.wait_state(port, "waiting-for-socket").unwrap();
        }
        let left = daemon.process().open_fds().unwrap();
        assert!(left < fds, "the holder holds what is gone: {left} of {fds}");
        // Told to end, all end, whoever is told.
        let told = match layout {
            Layout::Split => children.now()[0],
            Layout::Packed => Pid::from_raw(daemon.process().pid() as i32),
        };
        kill(told, Signal::SIGTERM).unwrap();
        let status = daemon.process().wait_exit(LIMIT).unwrap();
        assert!(status.success(), "{status}");
    }
}
