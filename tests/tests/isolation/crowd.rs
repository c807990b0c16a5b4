//! A pair of guests that exchange frames all the time, and an attacker that
//! sends as many as it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringway_frontend::net::{HEADER_LEN, receiveq, transmitq};
use ringway_frontend::ring::Descriptor;
use ringway_frontend::ring::fast::Slots;
use ringway_frontend::{FastRing, NetDriver, SessionConfig, features};
use ringway_tests::lab::{BRIDGE, Lab};
use ringway_tests::scripted::{self, LIMIT, even_balance};

/// Frames that go each way per round of the pair: enough to be traffic that the
/// switch protects from others' misses.
pub const ROUND: u32 = 48;
/// A round begins this long after the last one did.
const PACE: Duration = Duration::from_micros(700);
/// Further behind than this the pair does not catch up.
const BEHIND: Duration = Duration::from_millis(20);
/// Descriptors of the attacker's rings.
const RING: u16 = 1024;
/// Bytes of the attacker's frames.
pub const ATTACK_LEN: usize = 60;
/// Time with the attack, and time without, in turn.
const WINDOW: Duration = Duration::from_millis(150);
const WINDOWS: usize = 9;
/// The attacker's station, and the pair's.
pub const BAD: u8 = 0xba;
pub const PAIR: [u8; 2] = [0xb1, 0xb2];

/// A frame of the pair's: to, from, number.
pub type Make = fn(u8, u8, u32) -> Vec<u8>;
/// Changes the attacker's frame, the `n`th.
pub type Attack = fn(&mut [u8], u64);

/// What comes to a bridge with rules: a pair, its attacker and one more guest.
pub struct Crowd {
    pub lab: Lab,
    pair: Pair,
    attacker: Attacker,
}

impl Crowd {
    /// Starts it, the attacker's port with these options; nothing attacks yet.
    pub fn start(rules: &str, options: &[&str], make: Make, attack: Attack) -> Self {
        let mut lab = Lab::start(&[("good1", 0), ("good2", 0), ("peer", 0)]).unwrap();
        let mut all = vec!["mode=server"];
        all.extend(options);
        lab.daemon.add_vhost_port(BRIDGE, "bad", &all).unwrap();
        lab.load(rules).unwrap();
        let guests = ["good1", "good2"].map(|port| lab.guests.remove(port).unwrap());
        Self {
            pair: Pair::start(guests, make),
            attacker: Attacker::start(&lab, attack),
            lab,
        }
    }

    /// Lets the attacker attack for a while; how long exactly.
    pub fn attack(&mut self, time: Duration) -> Duration {
        let begin = Instant::now();
        self.attacker.on(true);
        thread::sleep(time);
        self.attacker.on(false);
        let time = begin.elapsed();
        // What is in its ring is dealt with.
        thread::sleep(Duration::from_millis(50));
        time
    }

    /// Rounds of the pair with and without the attack, in turn: it must keep
    /// nine tenths of what it has alone, and get every frame. Medians: others may
    /// need the machine for a while.
    pub fn pair_keeps_its_rate(&mut self) {
        self.pair.rounds_in(WINDOW);
        let before = self.attacker.sent.load(Ordering::Relaxed);
        let (mut alone, mut beside) = ([0; WINDOWS], [0; WINDOWS]);
        for (alone, beside) in alone.iter_mut().zip(&mut beside) {
            *alone = self.pair.rounds_in(WINDOW);
            self.attacker.on(true);
            *beside = self.pair.rounds_in(WINDOW);
            self.attacker.on(false);
        }
        let sent = self.attacker.sent.load(Ordering::Relaxed) - before;
        alone.sort_unstable();
        beside.sort_unstable();
        println!("rounds: {alone:?} alone, {beside:?} beside {sent} frames of the attacker's");
        let (quiet, attacked) = (alone[WINDOWS / 2], beside[WINDOWS / 2]);
        assert!(
            attacked * 10 >= quiet * 9,
            "{quiet} alone, {attacked} beside"
        );
        assert!(
            sent > 50_000,
            "there was no attack to speak of: {sent} frames"
        );
    }

    pub fn dropped(&self, port: &str, reason: &str) -> u64 {
        let drops = self.lab.daemon.drops().unwrap();
        let found = drops
            .iter()
            .filter(|drop| drop.port == port && drop.reason == reason);
        found.map(|drop| drop.packets).sum()
    }

    /// The pair has got all that it sent; every packet is accounted for.
    pub fn end(mut self) {
        self.attacker.end();
        let rounds = self.pair.end();
        assert!(rounds > 100, "only {rounds} rounds");
        even_balance(&self.lab.daemon).unwrap();
        let ports = self.lab.daemon.ports().unwrap();
        for name in ["good1", "good2"] {
            let port = ports.iter().find(|port| port.name == name).unwrap();
            assert_eq!(port.rx_packets, rounds * u64::from(ROUND), "{port:?}");
            assert_eq!((port.rx_dropped, port.tx_dropped), (0, 0), "{port:?}");
        }
    }
}

/// Two guests that exchange frames at a pace of their own: each must arrive, in
/// order, whatever else comes in between.
struct Pair {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pair {
    fn start([mut one, mut two]: [NetDriver; 2], make: Make) -> Self {
        let (rounds, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut number = 0;
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let now = Instant::now();
                thread::sleep(next.saturating_duration_since(now));
                next = (next + PACE).max(now.checked_sub(BEHIND).unwrap_or(now));
                round(
                    &mut one,
                    &mut two,
                    |number| make(PAIR[1], PAIR[0], number),
                    number,
                );
                round(
                    &mut two,
                    &mut one,
                    |number| make(PAIR[0], PAIR[1], number),
                    number,
                );
                number += ROUND;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            rounds,
            stop,
            thread: Some(thread),
        }
    }

    fn rounds_in(&self, time: Duration) -> u64 {
        let before = self.rounds.load(Ordering::Relaxed);
        thread::sleep(time);
        let running = self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished());
        assert!(running, "the pair has stopped");
        self.rounds.load(Ordering::Relaxed) - before
    }

    fn end(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn round(from: &mut NetDriver, to: &mut NetDriver, make: impl Fn(u32) -> Vec<u8>, first: u32) {
    for number in first..first + ROUND {
        assert!(from.send(0, &make(number)), "a ring of the pair's is full");
    }
    for number in first..first + ROUND {
        let expected = make(number);
        let begin = Instant::now();
        loop {
            match to.recv(0) {
                Some(got) if got == expected => break,
                // Of its partner every frame comes, in order.
                Some(got) if got[6..12] == expected[6..12] => {
                    panic!("frame {number} of the pair's did not come, but {got:02x?}")
                }
                Some(_) => {}
                None if begin.elapsed() > LIMIT => {
                    panic!("frame {number} of the pair's did not come")
                }
                None => thread::yield_now(),
            }
        }
    }
}

/// A guest that sends as fast as it can, and takes nothing.
struct Attacker {
    on: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    fn start(lab: &Lab, attack: Attack) -> Self {
        let config = SessionConfig {
            features: features::VERSION_1 | features::MRG_RXBUF,
            ring_size: RING,
            memory_size: 4 << 20,
            ..SessionConfig::default()
        };
        let guest = scripted::connect(&lab.daemon, "bad").unwrap();
        let mut guest = guest.bring_up(&config).unwrap();
        lab.daemon.wait_state("bad", "forwarding").unwrap();
        let slots = Slots {
            gpa: guest.free_gpa.next_multiple_of(4096),
            stride: 128,
            offset: 64 - HEADER_LEN,
            count: RING,
        };
        let len = (HEADER_LEN + ATTACK_LEN) as u32;
        let transmit = guest.rings.remove(transmitq(0));
        let mut ring = FastRing::new(transmit, slots, |_, addr| Descriptor {
            addr,
            len,
            flags: 0,
            next: 0,
        })
        .unwrap();
        assert_eq!(receiveq(0), 0, "the other one stays, empty");
        let (on, stop) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let sent = Arc::new(AtomicU64::new(0));
        let (is_on, stopped, counted) = (Arc::clone(&on), Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let _guest = guest;
            let mut number = 0;
            let mut frame = scripted::frame(0xee, BAD, ATTACK_LEN, 0);
            while !stopped.load(Ordering::Relaxed) {
                let used = ring.used();
                ring.take_unread(used);
                if !is_on.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                let free = ring.size() - ring.in_backend();
                for nth in 0..free {
                    attack(&mut frame, number);
                    number += 1;
                    let slot = (ring.next_slot() + nth) % ring.size();
                    ring.write_slot(slot, HEADER_LEN, &frame);
                }
                ring.publish(free);
                ring.kick_if_wanted();
                counted.store(number, Ordering::Relaxed);
                // The pair needs this CPU, too.
                thread::sleep(Duration::from_micros(100));
            }
        });
        Self {
            on,
            stop,
            sent,
            thread: Some(thread),
        }
    }

    fn on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
