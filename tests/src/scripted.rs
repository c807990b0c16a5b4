//! Scripted guests on the switch: frames that tell themselves apart, and a
//! pair of well-behaved guests whose traffic must never stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use ringway_frontend::{NetDriver, Session, SessionConfig};

use crate::counters::Balance;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::machine;
use crate::wait;

/// Longest anything may take that should come at once.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Frames that go each way per round of the bystanders.
const ROUND: u32 = 8;

/// How long they rest after a round: short enough to keep the core awake at
/// times, long enough to let it fall asleep at others.
const REST: Duration = Duration::from_micros(400);

/// The same in a hurry: a core that is kept from them for some microseconds
/// shows, and others have time on their CPU.
const SHORT_REST: Duration = Duration::from_micros(100);

/// A frame of `len` bytes (14 or more) of an experimental Ethernet type from
/// station `from` to station `to`, filled from `number` on.
pub fn frame(to: u8, from: u8, len: usize, number: u32) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    // A period that no buffer size shares, so that a shifted body shows.
    frame.extend((0..len).map(|at| ((at as u32).wrapping_add(number) % 251) as u8));
    frame.truncate(len);
    frame
}

/// An error of the scripted frontend as one of the harness.
pub fn scripted(error: ringway_frontend::Error) -> Error {
    Error::Unexpected(error.to_string())
}

/// Connects to a port's socket.
pub fn connect(daemon: &Daemon, port: &str) -> Result<Session> {
    Session::connect_within(daemon.path(&format!("{port}.sock")), LIMIT).map_err(scripted)
}

/// A driver on a port, up and forwarding.
pub fn driver(daemon: &Daemon, port: &str, config: &SessionConfig) -> Result<NetDriver> {
    let guest = connect(daemon, port)?.bring_up(config).map_err(scripted)?;
    daemon.wait_state(port, "forwarding")?;
    NetDriver::new(guest).map_err(scripted)
}

/// Sends one frame and gets it, the next one on the other side.
pub fn pass(from: &mut NetDriver, to: &mut NetDriver, sent: &[u8]) -> Result<()> {
    if !from.send(0, sent) {
        return Err(Error::Unexpected("the transmit ring is full".into()));
    }
    match to.recv_within(0, LIMIT) {
        Some(got) if got == sent => Ok(()),
        Some(got) => Err(Error::Unexpected(format!(
            "sent {sent:02x?}, got {got:02x?}"
        ))),
        None => Err(Error::Unexpected(format!(
            "a frame of {} bytes did not arrive",
            sent.len()
        ))),
    }
}

/// The balance once nothing moves any more; fails unless it holds.
pub fn even_balance(daemon: &Daemon) -> Result<Balance> {
    let balance = daemon.settled_balance()?;
    if balance.holds() {
        return Ok(balance);
    }
    Err(Error::Unexpected(format!(
        "packets were lost unseen: {balance:?}"
    )))
}

/// Two guests that exchange frames in lockstep on a thread of their own: every
/// frame must arrive, whole and in order, before the next ones are sent.
pub struct Bystanders {
    rounds: Arc<AtomicU64>,
    /// Microseconds of rest after a round.
    rest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Bystanders {
    /// Brings two guests up on two ports and starts their traffic.
    pub fn start(daemon: &Daemon, ports: [&str; 2]) -> Result<Self> {
        let config = SessionConfig {
            memory_size: 4 << 20,
            ..SessionConfig::default()
        };
        let mut one = driver(daemon, ports[0], &config)?;
        let mut two = driver(daemon, ports[1], &config)?;
        let rounds = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let rest = Arc::new(AtomicU64::new(REST.as_micros() as u64));
        let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
        let resting = Arc::clone(&rest);
        let cpus = machine::cores(1)?.guests;
        let thread = thread::spawn(move || {
            keep_to(&cpus)?;
            come_first()?;
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                round(&mut one, &mut two, (0xb2, 0xb1), number)?;
                round(&mut two, &mut one, (0xb1, 0xb2), number)?;
                number = number.wrapping_add(ROUND);
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(resting.load(Ordering::Relaxed)));
            }
            Ok(u64::from(number) * 2)
        });
        Ok(Self {
            rounds,
            rest,
            stop,
            thread: Some(thread),
        })
    }

    /// Rounds that have passed.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Lets them hurry, or not.
    pub fn hurry(&self, hurry: bool) {
        let rest = if hurry { SHORT_REST } else { REST };
        let micros = rest.as_micros() as u64;
        self.rest.store(micros, Ordering::Relaxed);
    }

    /// Waits until `rounds` more rounds, begun and ended from now on, have passed.
    pub fn go_on(&mut self, rounds: u64) -> Result<()> {
        let goal = self.rounds.load(Ordering::Relaxed) + rounds + 1;
        wait::until("the bystanders' frames", 2 * LIMIT, || {
            let now = self.rounds.load(Ordering::Relaxed);
            match (now >= goal, &self.thread) {
                (true, _) => Ok(Ok(())),
                (false, Some(thread)) if thread.is_finished() => Ok(Err(())),
                _ => Err(now),
            }
        })?
        .or_else(|()| self.end().map(drop))
    }

    /// Ends the traffic; how many frames went both ways together.
    pub fn end(&mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::Unexpected("the bystanders panicked".into())),
            None => Err(Error::Unexpected("the bystanders have ended".into())),
        }
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The calling thread, and those that it starts, stay off the switch's CPUs.
pub fn keep_off_the_switch() -> Result<()> {
    keep_to(&machine::cores(1)?.guests)
}

/// The calling thread runs before all others on its CPUs: what it waits for is
/// the switch and not an attacker's own work.
fn come_first() -> Result<()> {
    let thread = gettid().to_string();
    machine::sh("renice", &["-n", "-20", "-p", &thread]).map(drop)
}

fn keep_to(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)
            .map_err(|errno| Error::Unexpected(errno.to_string()))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|errno| Error::Unexpected(format!("cannot pin a thread: {errno}")))
}

fn round(from: &mut NetDriver, to: &mut NetDriver, way: (u8, u8), first: u32) -> Result<()> {
    for number in first..first + ROUND {
        let len = 60 + (number as usize * 37) % 1400;
        if !from.send(0, &frame(way.0, way.1, len, number)) {
            return Err(Error::Unexpected("a bystander's ring is full".into()));
        }
    }
    for number in first..first + ROUND {
        let len = 60 + (number as usize * 37) % 1400;
        let got = to.recv_within(0, LIMIT);
        if got.as_ref() != Some(&frame(way.0, way.1, len, number)) {
            return Err(Error::Unexpected(format!(
                "a bystander waited for frame {number} of {len} bytes and got {got:02x?}"
            )));
        }
    }
    Ok(())
}
