//! The thread at the driver's end of a queue pair.
//!
//! ```text
//! until told to stop:
//!   receive ring → write to the kernel           (a batch)
//!   read from the kernel → transmit ring, kick   (a batch)
//!   nothing moved for a while? ask to be called, look once more, wait
//! ```
//!
//! All that it waits for is watched edge-triggered, and after each wait everything
//! is tried: a wakeup for one thing is never missed for another's sake.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::kernel::{Kernel, Trouble};
use crate::packet::Outgoing;
use crate::ring::{BATCH, ReceiveRing, TransmitRing};

/// How long frames wait for a kernel that takes none, all of a batch together.
const PATIENCE: Duration = Duration::from_millis(10);

/// How long the thread stays awake without a frame. Whoever sends the next one
/// would have to wake it, which costs him more than the frame does; meanwhile it
/// yields its CPU to all who want it.
const AWAKE: Duration = Duration::from_micros(50);

/// Reads that fail one after the other, for the frame's sake and not the
/// interface's, until others have their turn.
const FAILURES: usize = 16;

/// What a queue's thread has counted. It alone writes.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) from_kernel: AtomicU64,
    pub(super) to_kernel: AtomicU64,
    pub(super) to_kernel_bytes: AtomicU64,
    pub(super) refused_down: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) refused_rejected: AtomicU64,
    pub(super) refused_bytes: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) too_long: AtomicU64,
    pub(super) sleeps: AtomicU64,
}

fn add(counter: &AtomicU64, n: usize) {
    counter.store(
        counter.load(Ordering::Relaxed) + n as u64,
        Ordering::Relaxed,
    );
}

/// What a port's threads share with whoever holds the port.
#[derive(Debug)]
pub(super) struct Shared {
    stop: AtomicBool,
    /// Ends the threads' sleep.
    wake: EventFd,
    /// Why there is nothing at the kernel's end any more.
    gone: Mutex<Option<String>>,
    name: String,
}

impl Shared {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        Ok(Self {
            stop: AtomicBool::new(false),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            gone: Mutex::default(),
            name: name.to_owned(),
        })
    }

    /// Ends the threads, once they have written what they have.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // A full eventfd wakes as well as a fuller one.
        let _ = self.wake.write(1);
    }

    /// Why the interface is no more, if it is.
    pub(super) fn gone(&self) -> Option<String> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.clone()
    }

    pub(super) fn set_gone(&self) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.is_none() {
            tracing::warn!(port = self.name, "the interface is gone");
            *gone = Some(format!(
                "the interface {} is gone: it was deleted or moved to another network namespace; \
                 once it is there again the port is made anew",
                self.name
            ));
        }
    }
}

/// One queue pair's rings and what is at their other end.
pub(super) struct Pump {
    kernel: Arc<Kernel>,
    transmit: TransmitRing,
    receive: ReceiveRing,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    epoll: Epoll,
    outgoing: Outgoing,
    /// The kernel did not take the last frame in time: the next do not wait.
    stuck: bool,
    gone: bool,
}

impl Pump {
    pub(super) fn new(
        kernel: Arc<Kernel>,
        transmit: TransmitRing,
        receive: ReceiveRing,
        call: &OwnedFd,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let edge = || EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(kernel.as_fd(), edge())?;
        epoll.add(call, edge())?;
        epoll.add(&shared.wake, edge())?;
        Ok(Self {
            kernel,
            transmit,
            receive,
            shared,
            counters,
            epoll,
            outgoing: Outgoing::default(),
            stuck: false,
            gone: false,
        })
    }

    pub(super) fn run(mut self) {
        let mut last_frame = Instant::now();
        while !self.shared.stop.load(Ordering::Acquire) {
            let written = self.write_batch();
            let read = self.read_batch();
            if written + read > 0 {
                last_frame = Instant::now();
            } else if last_frame.elapsed() < AWAKE {
                thread::yield_now();
            } else {
                self.sleep();
            }
        }
        // The cores have let go of the rings: what they have delivered still goes.
        while self.write_batch() > 0 {}
    }

    /// Reads a batch. Returns how many frames came.
    fn read_batch(&mut self) -> usize {
        if self.gone {
            return 0;
        }
        for _ in 0..FAILURES {
            let room = self.transmit.room();
            if room == 0 {
                return 0;
            }
            let limit = room.min(BATCH);
            let came = self.kernel.read(&mut self.transmit, limit);
            match came {
                Ok(came) => {
                    add(&self.counters.from_kernel, came.frames - came.cut);
                    add(&self.counters.too_long, came.cut);
                    return came.frames;
                }
                Err(Trouble::Later | Trouble::Down) => return 0,
                Err(Trouble::Gone) => {
                    self.lose();
                    return 0;
                }
                Err(Trouble::Full | Trouble::Rejected) => add(&self.counters.unreadable, 1),
            }
        }
        0
    }

    /// Writes a batch. Returns how many frames there were.
    fn write_batch(&mut self) -> usize {
        let frames = self.outgoing.fill(&mut self.receive);
        if frames == 0 {
            return 0;
        }
        if let Kernel::Packet(_) = *self.kernel {
            self.outgoing.shorten();
        }
        let mut at = 0;
        let mut deadline = None;
        while at < frames {
            let written = match self.gone {
                true => Err(Trouble::Gone),
                false => self.kernel.write(&mut self.outgoing, at),
            };
            match written {
                Ok(went) => {
                    self.stuck = false;
                    let lens = (at..at + went).map(|nth| self.outgoing.frame_len(nth));
                    add(&self.counters.to_kernel_bytes, lens.sum());
                    add(&self.counters.to_kernel, went);
                    at += went;
                }
                Err(Trouble::Later) if self.wait_until_writable(&mut deadline) => {}
                Err(trouble) => {
                    self.refuse(at, trouble);
                    at += 1;
                }
            }
        }
        let buffers = (0..frames).map(|nth| self.outgoing.buffers(nth)).sum();
        self.receive.give_back(buffers);
        frames
    }

    fn refuse(&mut self, nth: usize, trouble: Trouble) {
        let counter = match trouble {
            Trouble::Gone => {
                self.lose();
                &self.counters.refused_down
            }
            Trouble::Down => &self.counters.refused_down,
            Trouble::Later | Trouble::Full => &self.counters.refused_full,
            Trouble::Rejected => &self.counters.refused_rejected,
        };
        add(counter, 1);
        let len = self.outgoing.frame_len(nth);
        add(&self.counters.refused_bytes, len);
    }

    /// Whether the kernel is worth another try.
    fn wait_until_writable(&mut self, deadline: &mut Option<Instant>) -> bool {
        if self.stuck {
            return false;
        }
        let now = Instant::now();
        let deadline = *deadline.get_or_insert(now + PATIENCE);
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            self.stuck = true;
            return false;
        }
        let mut fds = [PollFd::new(self.kernel.as_fd(), PollFlags::POLLOUT)];
        let timeout = PollTimeout::try_from(left.max(Duration::from_millis(1)));
        // Whatever comes of it, writing tells more.
        let _ = poll(&mut fds, timeout.unwrap_or(PollTimeout::ZERO));
        true
    }

    /// The interface is no more: frames for it are refused from now on.
    fn lose(&mut self) {
        self.gone = true;
        self.shared.set_gone();
    }

    /// Waits until there is something to do.
    fn sleep(&mut self) {
        if self.receive.want_call() {
            return;
        }
        // With all buffers on their way to the switch nothing can be read until
        // some come back.
        if self.transmit.room() == 0 && self.transmit.want_call() {
            return;
        }
        add(&self.counters.sleeps, 1);
        let mut events = [EpollEvent::empty(); 4];
        // An interrupted wait is one that ended early.
        let _ = self.epoll.wait(&mut events, EpollTimeout::NONE);
    }
}
