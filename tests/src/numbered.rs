//! Two scripted guests that send each other numbered frames for as long as they
//! are left alone, and tell what became of each: lost, doubled, out of order,
//! torn, and how long nothing came.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringway_frontend::{NetDriver, Session, SessionConfig, SessionListener, features};

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::scripted::{LIMIT, frame, scripted};
use crate::wait;

/// Frames on their way at the most, in each direction: fewer than a ring has, so
/// that none is lost for want of room.
const WINDOW: u32 = 128;
/// After so long without a frame one more is sent, for those on their way may be
/// lost.
const PROBE: Duration = Duration::from_millis(2);
/// How often a connection is looked at.
const LOOK: Duration = Duration::from_micros(500);

/// What became of the frames of one direction.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Frames that came, each once and as it was sent.
    pub received: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Frames whose number had come before, or was passed over.
    pub doubled_or_late: u64,
    /// Frames that are not what was sent under their number.
    pub torn: u64,
    /// Longest time in which none came.
    pub longest_gap: Duration,
}

impl Record {
    /// Every frame at most once, in order and whole.
    pub fn is_clean(&self) -> bool {
        self.doubled_or_late == 0 && self.torn == 0
    }
}

/// Who listens on the guests' sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listens {
    /// ringway: a guest tries again and again when its connection has ended.
    Switch,
    /// The guest.
    Guest,
}

/// How the guests' rings lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// VirtIO 1.2, 2.7.
    Split,
    /// VirtIO 1.2, 2.8.
    Packed,
}

/// Every kind of guest: the port's mode, who listens, and the rings' layout.
pub const KINDS: [(&str, Listens, Layout); 4] = [
    ("mode=server", Listens::Switch, Layout::Split),
    ("mode=client", Listens::Guest, Layout::Split),
    ("mode=server", Listens::Switch, Layout::Packed),
    ("mode=client", Listens::Guest, Layout::Packed),
];

/// The traffic, on a thread of its own.
pub struct Numbered {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Outcome>>>,
}

/// What became of all frames.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first port to the second, and back.
    pub ways: [Record; 2],
    /// Connections that had to be made anew, of both guests together.
    pub reconnects: u32,
}

impl Outcome {
    /// Longest time in which nothing came in some direction.
    pub fn outage(&self) -> Duration {
        self.ways[0].longest_gap.max(self.ways[1].longest_gap)
    }

    /// Frames lost in both directions.
    pub fn lost(&self) -> u64 {
        self.ways.iter().map(|way| way.lost).sum()
    }

    /// Fails unless every frame came at most once, in order and whole.
    ///
    /// # Panics
    /// Then.
    pub fn assert_clean(&self) {
        assert!(self.ways.iter().all(Record::is_clean), "{self:?}");
    }
}

impl Numbered {
    /// Brings guests up on two ports of the switch, which are there already, and
    /// starts their traffic. `stations` are the last bytes of their addresses.
    pub fn start(
        daemon: &Daemon,
        ports: [&str; 2],
        stations: [u8; 2],
        listens: Listens,
        layout: Layout,
    ) -> Result<Self> {
        let sockets = ports.map(|port| daemon.path(&format!("{port}.sock")));
        let guests = Guest::pair(sockets, listens, layout)?;
        for port in ports {
            daemon.wait_state(port, "forwarding")?;
        }
        Ok(Self::between(guests, stations))
    }

    /// The same on the sockets of any switch.
    pub fn start_at(
        sockets: [PathBuf; 2],
        stations: [u8; 2],
        listens: Listens,
        layout: Layout,
    ) -> Result<Self> {
        Ok(Self::between(
            Guest::pair(sockets, listens, layout)?,
            stations,
        ))
    }

    fn between(mut guests: [Guest; 2], stations: [u8; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&received));
        let thread = thread::spawn(move || run(&mut guests, stations, &stopped, &counted));
        Self {
            stop,
            received,
            thread: Some(thread),
        }
    }

    /// Waits until so many frames more have come.
    pub fn go_on(&mut self, frames: u64) -> Result<()> {
        self.go_on_within(frames, 3 * LIMIT)
    }

    /// The same, with a limit of one's own.
    pub fn go_on_within(&mut self, frames: u64, limit: Duration) -> Result<()> {
        let goal = self.received.load(Ordering::Relaxed) + frames;
        wait::until("numbered frames", limit, || {
            let now = self.received.load(Ordering::Relaxed);
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            match (now >= goal, ended) {
                (true, _) => Ok(Ok(())),
                (false, true) => Ok(Err(())),
                _ => Err(now),
            }
        })?
        .or_else(|()| self.end().map(drop))
    }

    /// Ends the traffic; what became of it.
    pub fn end(&mut self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(Error::Unexpected("the numbered guests panicked".into())),
            None => Err(Error::Unexpected("the numbered guests have ended".into())),
        }
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Guest {
    driver: NetDriver,
    config: SessionConfig,
    path: PathBuf,
    listener: Option<SessionListener>,
    looked: Instant,
    reconnects: u32,
}

impl Guest {
    fn pair(sockets: [PathBuf; 2], listens: Listens, layout: Layout) -> Result<[Self; 2]> {
        let [one, two] = sockets.map(|path| Self::start(path, listens, layout));
        Ok([one?, two?])
    }

    fn start(path: PathBuf, listens: Listens, layout: Layout) -> Result<Self> {
        let mut config = SessionConfig {
            memory_size: 4 << 20,
            ..SessionConfig::default()
        };
        if layout == Layout::Packed {
            config.features |= features::RING_PACKED;
            config.required |= features::RING_PACKED;
        }
        let listener = match listens {
            Listens::Switch => None,
            Listens::Guest => Some(Session::listen(&path).map_err(scripted)?),
        };
        let session = match &listener {
            None => Session::connect_within(&path, LIMIT),
            Some(listener) => listener.accept(LIMIT),
        };
        let guest = session.and_then(|session| session.bring_up(&config));
        Ok(Self {
            driver: NetDriver::new(guest.map_err(scripted)?).map_err(scripted)?,
            config,
            path,
            listener,
            looked: Instant::now(),
            reconnects: 0,
        })
    }

    /// Connects anew if the backend has hung up, as soon as it is there again.
    fn keep_connected(&mut self) -> Result<()> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        if !self.driver.guest.session.closed_within(Duration::ZERO) {
            return Ok(());
        }
        let session = match &self.listener {
            None => Session::connect(&self.path),
            Some(listener) => listener.accept(Duration::ZERO),
        };
        // Not there yet.
        let Ok(session) = session else { return Ok(()) };
        self.reconnects += 1;
        let again = self.driver.guest.reconnect(session, &self.config);
        // A backend may be killed before it has answered all.
        if let Err(error) = again
            && !matches!(error, ringway_frontend::Error::Request { .. })
        {
            return Err(scripted(error));
        }
        Ok(())
    }
}

/// One direction.
struct Way {
    to: u8,
    from: u8,
    next: u32,
    expected: u32,
    last: Instant,
    sent: Instant,
    record: Record,
}

impl Way {
    fn new(to: u8, from: u8) -> Self {
        Self {
            to,
            from,
            next: 0,
            expected: 0,
            last: Instant::now(),
            sent: Instant::now(),
            record: Record::default(),
        }
    }

    fn frame(&self, number: u32) -> Vec<u8> {
        frame(self.to, self.from, 60 + number as usize % 1400, number)
    }

    fn send(&mut self, driver: &mut NetDriver) {
        for _ in 0..16 {
            let waiting = self.next.wrapping_sub(self.expected);
            if waiting >= WINDOW && self.sent.elapsed() < PROBE {
                return;
            }
            if !driver.send(0, &self.frame(self.next)) {
                return;
            }
            self.next = self.next.wrapping_add(1);
            self.sent = Instant::now();
            if waiting >= WINDOW {
                return;
            }
        }
    }

    /// How many frames came.
    fn receive(&mut self, driver: &mut NetDriver) -> u64 {
        let mut came = 0;
        while let Some(got) = driver.recv(0) {
            // Frames of others, such as the host's own, are not ours.
            if got.len() < 18 || got[12..14] != [0x88, 0xb5] || got[5] != self.to {
                continue;
            }
            let number = u32::from_be_bytes([got[14], got[15], got[16], got[17]]);
            if got != self.frame(number) {
                self.record.torn += 1;
                continue;
            }
            if number < self.expected {
                self.record.doubled_or_late += 1;
                continue;
            }
            self.record.lost += u64::from(number - self.expected);
            self.expected = number + 1;
            self.record.received += 1;
            self.record.longest_gap = self.record.longest_gap.max(self.last.elapsed());
            self.last = Instant::now();
            came += 1;
        }
        came
    }
}

fn run(
    guests: &mut [Guest; 2],
    stations: [u8; 2],
    stop: &AtomicBool,
    received: &AtomicU64,
) -> Result<Outcome> {
    let [one, two] = stations;
    let mut ways = [Way::new(two, one), Way::new(one, two)];
    let mut first_come = false;
    while !stop.load(Ordering::Relaxed) {
        let mut came = 0;
        for (index, way) in ways.iter_mut().enumerate() {
            way.send(&mut guests[index].driver);
            came += way.receive(&mut guests[1 - index].driver);
        }
        received.fetch_add(came, Ordering::Relaxed);
        if came > 0 && !first_come {
            // The first frames wait for the switch to wake up; that is no outage.
            first_come = true;
            ways.iter_mut()
                .for_each(|way| way.record.longest_gap = Duration::ZERO);
        }
        for guest in guests.iter_mut() {
            guest.keep_connected()?;
        }
        if came == 0 {
            thread::yield_now();
        }
    }
    let reconnects = guests.iter().map(|guest| guest.reconnects).sum();
    let ways = ways.map(|way| way.record);
    Ok(Outcome { ways, reconnects })
}
