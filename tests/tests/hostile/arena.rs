//! A switch under attack, and how its outcomes are read.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_frontend::features;
use ringway_frontend::{
    Backing, Gpa, Guest, GuestMemory, NetDriver, RegionSpec, Session, SessionConfig,
};
use ringway_tests::daemon::Daemon;
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::scripted::{self, Bystanders, LIMIT, frame};
use ringway_tests::wait;

/// Descriptors of the attacker's rings.
pub const RING: u16 = 16;
/// The attacker's memory: a hole lies between its two regions.
pub const REGION: u64 = 1 << 20;
pub const SECOND: Gpa = 4 << 20;

/// What the daemon holds on to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Holdings {
    pub fds: usize,
    /// Mappings of guests' memory.
    pub mappings: usize,
    /// Memory of its own, not shared with anybody, in KiB.
    pub anonymous_kib: u64,
}

/// A switch with two bystanders on one bridge, the attacker and its peer on
/// another, and a single core for all of them.
pub struct Arena {
    pub bystanders: Bystanders,
    pub peer: NetDriver,
    before: Holdings,
    pub daemon: Daemon,
    number: u32,
    _alone: Exclusive,
}

impl Arena {
    pub fn new() -> Self {
        let alone = machine::exclusive().unwrap();
        let daemon = Daemon::start().unwrap();
        // Who is kept to some CPUs knows no others: not before the daemon has its own.
        scripted::keep_off_the_switch().unwrap();
        for (bridge, ports) in [("br0", ["good1", "good2"]), ("br1", ["bad", "peer"])] {
            daemon.ok(&["add-br", bridge]).unwrap();
            for port in ports {
                daemon
                    .add_vhost_port(bridge, port, &["mode=server"])
                    .unwrap();
            }
        }
        let bystanders = Bystanders::start(&daemon, ["good1", "good2"]).unwrap();
        let peer = scripted::driver(&daemon, "peer", &config()).unwrap();
        let mut arena = Self {
            bystanders,
            peer,
            before: Holdings {
                fds: 0,
                mappings: 0,
                anonymous_kib: 0,
            },
            daemon,
            number: 0,
            _alone: alone,
        };
        // Whatever is allocated once is allocated now.
        for _ in 0..3 {
            let mut driver = NetDriver::new(arena.attack(&config())).unwrap();
            arena.forwards(&mut driver);
            drop(driver);
            arena.gone();
        }
        arena.bystanders.go_on(100).unwrap();
        arena.before = arena.holdings();
        arena
    }

    pub fn holdings(&mut self) -> Holdings {
        let process = self.daemon.process();
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", process.pid());
            fs::read_to_string(path).unwrap()
        };
        let status = read("status");
        let anonymous = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kib = anonymous.and_then(|line| line.split_whitespace().nth(1));
        Holdings {
            fds: process.open_fds().unwrap(),
            mappings: read("maps").matches("memfd:ringway-frontend").count(),
            anonymous_kib: kib.unwrap().parse().unwrap(),
        }
    }

    /// The attacker's guest, up and forwarding.
    pub fn attack(&self, config: &SessionConfig) -> Guest {
        let session = scripted::connect(&self.daemon, "bad").unwrap();
        let guest = session
            .bring_up_with(config, Arc::new(memory()), 0x1000)
            .unwrap();
        self.daemon.wait_state("bad", "forwarding").unwrap();
        guest
    }

    /// A frame from the peer to the attacker's port.
    pub fn feed(&mut self) {
        self.number += 1;
        assert!(self.peer.send(0, &frame(0xba, 0xee, 60, self.number)));
        assert!(self.peer.flush(0, LIMIT), "the switch does not go on");
    }

    /// The attacker's port works as any other, both ways.
    pub fn forwards(&mut self, driver: &mut NetDriver) {
        while self.peer.recv(0).is_some() {}
        for len in [60, 600] {
            self.number += 1;
            let there = frame(0xee, 0xba, len, self.number);
            scripted::pass(driver, &mut self.peer, &there).unwrap();
            let back = frame(0xba, 0xee, len, self.number);
            scripted::pass(&mut self.peer, driver, &back).unwrap();
        }
    }

    pub fn dropped(&self, reason: &str) -> u64 {
        let drops = self.daemon.drops().unwrap();
        drops
            .iter()
            .filter(|drop| drop.port == "bad" && drop.reason == reason)
            .map(|drop| drop.packets)
            .sum()
    }

    /// The port is quarantined, and `show` says why.
    pub fn quarantined(&self, case: &str, reason: &str) {
        self.daemon.wait_state("bad", "quarantined").unwrap();
        let shown = self.daemon.show_port("bad").unwrap();
        let said = shown["reason"].as_str().unwrap_or_default();
        assert!(said.contains(reason), "{case}: {said}");
    }

    /// The connection was closed, and `show` says why.
    pub fn closed(&self, case: &str, session: &Session, reason: &str) {
        assert!(session.closed_within(LIMIT), "{case}: not hung up");
        wait::until(&format!("{case}: {reason}"), LIMIT, || {
            let shown = self.daemon.show_port("bad").unwrap();
            let actual = &shown["actual"];
            let said = actual["details"]["last_disconnect"].as_str();
            match said.is_some_and(|said| said.contains(reason)) {
                true if actual["state"] == "waiting-for-socket" => Ok(()),
                _ => Err(shown.to_string()),
            }
        })
        .unwrap();
    }

    /// The bystanders keep 90 % of their rate while `attack` is made again and
    /// again, compared with quiet times in between. Noise of the machine is
    /// given some chances to pass.
    pub fn keeps_its_rate(&mut self, case: &str, mut attack: impl FnMut(&mut Self)) {
        const WINDOW: Duration = Duration::from_millis(150);
        self.bystanders.hurry(true);
        let mut shares = Vec::new();
        while shares.len() < 4 && shares.last().is_none_or(|share| *share < 0.9) {
            let (mut quiet, mut attacked, mut attacks) = ((0, 0.0), (0, 0.0), 0);
            for _ in 0..4 {
                for (busy, sum) in [(false, &mut quiet), (true, &mut attacked)] {
                    let (begin, before) = (Instant::now(), self.bystanders.rounds());
                    while begin.elapsed() < WINDOW {
                        if busy {
                            attack(self);
                            attacks += 1;
                        } else {
                            std::thread::sleep(WINDOW / 10);
                        }
                    }
                    sum.0 += self.bystanders.rounds() - before;
                    sum.1 += begin.elapsed().as_secs_f64();
                }
            }
            let rate = |(rounds, seconds): (u64, f64)| rounds as f64 / seconds;
            shares.push(rate(attacked) / rate(quiet));
            println!(
                "{case}: {attacks} attacks, {:.0} rounds/s, {:.0} when quiet: {:.2}",
                rate(attacked),
                rate(quiet),
                rate(attacked) / rate(quiet)
            );
        }
        self.bystanders.hurry(false);
        assert!(
            shares.last().is_some_and(|share| *share >= 0.9),
            "{case}: {shares:?}"
        );
        self.bystanders.go_on(1).unwrap();
    }

    /// The attacker has left.
    pub fn gone(&self) {
        self.daemon.wait_state("bad", "waiting-for-socket").unwrap();
    }

    /// After all attacks: a new guest on the port works, nothing was leaked,
    /// every packet is accounted for and the bystanders missed none.
    pub fn end(mut self) {
        self.gone();
        let mut driver = NetDriver::new(self.attack(&config())).unwrap();
        self.forwards(&mut driver);
        drop(driver);
        self.gone();
        self.bystanders.go_on(20).unwrap();

        let before = self.before;
        let limit = before.anonymous_kib + 4096;
        let settled = wait::until("the daemon to let go of everything", LIMIT, || {
            let now = self.holdings();
            let let_go = now.fds <= before.fds
                && now.mappings <= before.mappings
                && now.anonymous_kib <= limit;
            if let_go { Ok(now) } else { Err(now) }
        });
        settled.unwrap_or_else(|error| panic!("before: {before:?}; {error}"));

        let frames = self.bystanders.end().unwrap();
        assert!(frames > 1000, "only {frames} frames");
        scripted::even_balance(&self.daemon).unwrap();
        let ports = self.daemon.ports().unwrap();
        let good = |name: &str| ports.iter().find(|port| port.name == name).unwrap();
        for name in ["good1", "good2"] {
            let port = good(name);
            assert_eq!(port.rx_packets * 2, frames, "{port:?}");
            assert_eq!(port.tx_packets * 2, frames, "{port:?}");
            assert_eq!((port.rx_dropped, port.tx_dropped), (0, 0), "{port:?}");
        }
        self.daemon.process().check_running().unwrap();
    }
}

pub fn config() -> SessionConfig {
    SessionConfig {
        ring_size: RING,
        memory_size: 1 << 20,
        ..SessionConfig::default()
    }
}

/// Features that lay rings out in different ways, for tests that do not care.
pub const LAYOUTS: &[u64] = &[0, features::RING_PACKED];

/// With these features too.
pub fn with(bits: u64) -> SessionConfig {
    let mut config = config();
    config.features |= bits;
    config
}

pub fn without(bits: u64) -> SessionConfig {
    let mut config = config();
    config.features &= !bits;
    config
}

pub fn region(gpa: Gpa) -> RegionSpec {
    RegionSpec {
        gpa,
        size: REGION,
        backing: Backing::Shared,
    }
}

/// Two regions with a hole between them.
pub fn memory() -> GuestMemory {
    GuestMemory::new(&[region(0), region(SECOND)]).unwrap()
}
