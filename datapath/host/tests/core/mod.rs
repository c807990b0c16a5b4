//! A poll-mode core's side of a port's rings, as plain as can be.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_host::port::{HostPort, HostPortConfig, HostPortKind, HostPortStatus};
use ringway_vhost::{Burst, DeviceRings, Enqueued, Ring, VnetHeader};

/// How long something may take at the most that takes no time to speak of.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Waits until `done`; panics with `what` if it is not in time.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a port.
pub fn start(name: &str, kind: HostPortKind) -> HostPort {
    HostPort::start(HostPortConfig {
        name: name.to_owned(),
        kind,
        mtu: None,
        cpus: Vec::new(),
    })
    .expect("the port starts")
}

/// An internal port's kind.
pub fn internal(queues: u16) -> HostPortKind {
    let mac = Some([2, 0, 0, 0, 0, 1]);
    HostPortKind::Internal { queues, mac }
}

/// Waits until the port's status is such.
pub fn wait_status(port: &HostPort, what: &str, is: impl Fn(&HostPortStatus) -> bool) {
    let end = Instant::now() + LIMIT;
    while !is(&port.status()) {
        assert!(Instant::now() < end, "{what}: {:?}", port.status());
        thread::sleep(Duration::from_millis(1));
    }
}

/// A frame with its header.
#[derive(Clone, Debug)]
pub struct Frame {
    pub header: VnetHeader,
    pub bytes: Vec<u8>,
}

/// One core with one port.
pub struct Core {
    pub rings: Arc<DeviceRings>,
    burst: Burst,
}

impl Core {
    pub fn of(port: &HostPort) -> Self {
        Self {
            rings: port.rings(),
            burst: Burst::default(),
        }
    }

    pub fn transmit_ring(&self, queue: usize) -> Arc<Ring> {
        Arc::clone(self.rings.pairs[queue].dequeue.as_ref().expect("runs"))
    }

    /// All frames that are there; checksums are made whole.
    pub fn take(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        for queue in 0..self.rings.pairs.len() {
            let ring = self.transmit_ring(queue);
            loop {
                let taken = ring.dequeue(&mut self.burst, |packets| {
                    for index in 0..packets.len() {
                        let header = packets.vnet_header(index);
                        packets.complete_checksum(index);
                        let mut bytes = vec![0; packets.frame_len(index)];
                        assert!(packets.copy_frame(index, &mut bytes));
                        frames.push(Frame { header, bytes });
                    }
                });
                assert_eq!(taken.fault, None);
                if taken.packets == 0 {
                    break;
                }
            }
        }
        frames
    }

    /// Waits for the first frame that is such.
    pub fn wait_for(&mut self, what: &str, is: impl Fn(&Frame) -> bool) -> Frame {
        let mut found = None;
        wait_for(what, || {
            found = found.take().or(self.take().into_iter().find(&is));
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// Delivers a frame.
    pub fn give(&mut self, queue: usize, frame: &[u8]) -> Enqueued {
        self.give_with(queue, frame, VnetHeader::default())
    }

    /// The same, with a header.
    pub fn give_with(&mut self, queue: usize, frame: &[u8], header: VnetHeader) -> Enqueued {
        let ring = self.rings.pairs[queue].enqueue.clone().expect("runs");
        let mut outcome = Enqueued::default();
        let refused = self.burst.lend_slices(
            1,
            |_| std::iter::once(frame),
            |packets| {
                packets.set_vnet_header(0, header);
                outcome = ring.enqueue(packets, &[0]);
            },
        );
        assert_eq!(refused, 0);
        outcome
    }
}

/// A core between two ports, which sleeps whenever it has nothing to do.
pub struct Forwarder {
    stop: Arc<AtomicBool>,
    pub counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub frames: AtomicU64,
    /// Of these, oversized.
    pub oversized: AtomicU64,
    pub lost: AtomicU64,
    pub sleeps: AtomicU64,
}

impl Forwarder {
    pub fn between(one: &HostPort, other: &HostPort) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let counts = Arc::<Counts>::default();
        let (from, to) = (one.rings(), other.rings());
        let pairs = [(from.clone(), to.clone()), (to, from)];
        let thread = thread::spawn({
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            move || {
                let mut burst = Burst::default();
                while !stop.load(Ordering::Relaxed) {
                    let moved = pairs
                        .iter()
                        .map(|(from, to)| forward(from, to, &mut burst, &counts));
                    if moved.sum::<u32>() == 0 {
                        sleep(&pairs, &counts);
                    }
                }
            }
        });
        Self {
            stop,
            counts,
            thread: Some(thread),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn forward(from: &DeviceRings, to: &DeviceRings, burst: &mut Burst, counts: &Counts) -> u32 {
    let mut moved = 0;
    for (from, to) in from.pairs.iter().zip(&to.pairs) {
        let (from, to) = (from.dequeue.as_ref(), to.enqueue.as_ref());
        let (from, to) = (from.expect("runs"), to.expect("runs"));
        let taken = from.dequeue(burst, |packets| {
            let all: Vec<u8> = (0..packets.len() as u8).collect();
            for index in 0..packets.len() {
                let oversized = packets.vnet_header(index).gso_type != 0;
                counts
                    .oversized
                    .fetch_add(oversized.into(), Ordering::Relaxed);
            }
            let delivered = to.enqueue(packets, &all).delivered;
            let lost = all.len() as u64 - u64::from(delivered);
            counts.lost.fetch_add(lost, Ordering::Relaxed);
        });
        assert_eq!(taken.fault, None);
        assert_eq!(taken.bad_offload, 0, "the kernel's header was refused");
        counts
            .frames
            .fetch_add(taken.packets.into(), Ordering::Relaxed);
        moved += taken.packets;
    }
    moved
}

/// As a poll-mode core sleeps, but wakes now and then to see whether it shall end.
fn sleep(pairs: &[(Arc<DeviceRings>, Arc<DeviceRings>)], counts: &Counts) {
    let rings: Vec<&Arc<Ring>> = pairs
        .iter()
        .flat_map(|(from, _)| &from.pairs)
        .filter_map(|pair| pair.dequeue.as_ref())
        .collect();
    let busy = rings
        .iter()
        .fold(false, |busy, ring| ring.want_kicks(true) | busy);
    if !busy {
        counts.sleeps.fetch_add(1, Ordering::Relaxed);
        let kicks = rings.iter().filter_map(|ring| ring.kick_fd());
        let mut fds: Vec<PollFd> = kicks
            .map(|kick| PollFd::new(kick.as_fd(), PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut fds, PollTimeout::from(50u8));
    }
    for ring in rings {
        ring.want_kicks(false);
        let mut count = [0; 8];
        // Empty if there was no kick.
        let _ = ring
            .kick_fd()
            .map(|kick| nix::unistd::read(kick, &mut count));
    }
}
