//! The loop of a poll-mode core: poll every queue, take over a new plan, and
//! with nothing to do for a while sleep until somebody kicks.
//!
//! In steady state there is no allocation, lock, system call or log here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollTimeout};

use crate::cache::FlowCache;
use crate::clock::CoarseClock;
use crate::cpu::tsc;
use crate::publish::PmdShared;
use crate::rx::{self, Workspace};
use crate::snapshot::{Plan, Source};
use crate::warm;

/// How long a PMD naps at a time when one of its queues is a NIC's, which
/// cannot wake it.
const NIC_NAP_MS: u8 = 1;

/// How long a PMD sleeps at a time while it has megaflows, which are to be
/// forgotten when they are idle.
const MEGAFLOW_NAP_MS: u8 = 200;

/// How long a PMD whose packets all come from threads of ours stays awake without
/// one. Meanwhile it yields its CPU to them.
const AWAKE_FOR_KERNEL: Duration = Duration::from_micros(50);

/// How long a PMD without a packet stays awake, in TSC cycles.
pub struct Patience {
    /// With nothing to poll but ports whose other end is the kernel.
    kernel: u64,
    /// Else. `None`: for ever, also with only the kernel's ports.
    others: Option<u64>,
}

impl Patience {
    /// That of a PMD which may sleep after `sleep_after`; zero: never.
    pub fn new(sleep_after: Duration, tsc_hz: u64) -> Self {
        let cycles = |time: Duration| {
            let cycles = time.as_nanos() * u128::from(tsc_hz) / 1_000_000_000;
            u64::try_from(cycles).unwrap_or(u64::MAX)
        };
        Self {
            kernel: cycles(sleep_after.min(AWAKE_FOR_KERNEL)),
            others: (!sleep_after.is_zero()).then(|| cycles(sleep_after)),
        }
    }

    fn is_over(&self, plan: &Plan, waited: u64) -> bool {
        let Some(others) = self.others else {
            return false;
        };
        waited
            > if plan.only_kernel {
                self.kernel
            } else {
                others
            }
    }

    /// Whether the PMD's CPU is lent to those who fill its queues.
    fn shares(&self, plan: &Plan) -> bool {
        plan.only_kernel && self.others.is_some()
    }
}

/// Runs until a plan says stop. `max_idle`: as [`FlowCache::new`]'s.
pub fn run(
    shared: &PmdShared,
    index: usize,
    clock: CoarseClock,
    patience: &Patience,
    max_idle: Duration,
) {
    let cache = FlowCache::new(Arc::clone(&shared.cache), clock, max_idle);
    let packet_ins = Arc::clone(&shared.packet_ins);
    let mut workspace = Workspace::new(index, clock, cache, packet_ins);
    let counters = &shared.counters;
    let mut plan = shared.begin();
    let mut now = tsc();
    let mut last_packet = now;
    let mut warmed = 0;
    while !plan.stop {
        shared.quiesce(&mut plan);
        if let Some(keys) = &plan.warm
            && warmed != plan.version
        {
            warmed = plan.version;
            warm::translate(workspace.cache(), &plan, keys, shared.core);
            now = tsc();
        }
        let started = now;
        counters.iterations.add(1);
        for poll in &plan.polls {
            let received = rx::poll(&mut workspace, &plan, poll, counters, now);
            let after = tsc();
            if received > 0 {
                counters.busy_polls.add(1);
                counters.busy_cycles.add(after - now);
                last_packet = after;
            } else {
                counters.idle_cycles.add(after - now);
            }
            workspace
                .cache()
                .poll_took(after, after - now, received > 0);
            now = after;
        }
        workspace.cache().keep(&plan.snapshot, now);
        if plan.polls.is_empty() {
            let after = tsc();
            counters.idle_cycles.add(after - now);
            now = after;
        }
        // Without a queue there is nothing to wait for but a new plan.
        let waited = now.saturating_sub(last_packet);
        if patience.is_over(&plan, waited) || plan.polls.is_empty() {
            sleep(shared, &plan, workspace.cache().is_empty());
            let after = tsc();
            counters.sleep_cycles.add(after - now);
            now = after;
            // A PMD with a NIC naps once per round; others were woken for a reason.
            if !plan.polls_nic {
                last_packet = now;
            }
        } else if patience.shares(&plan) && last_packet < started {
            thread::yield_now();
            let after = tsc();
            counters.sleep_cycles.add(after - now);
            now = after;
        }
    }
}

/// Asks all guests for kicks and waits for one, or for a new plan.
#[cold]
fn sleep(shared: &PmdShared, plan: &Arc<Plan>, no_megaflows: bool) {
    let Some(wakeups) = &plan.wakeups else { return };
    let rings = || {
        plan.polls.iter().filter_map(|poll| match &poll.source {
            Source::Ring(ring) => Some(ring),
            Source::Nic(_) => None,
        })
    };
    // All are asked, even when one has work already: each is un-asked below.
    let has_work = rings().fold(false, |work, ring| ring.want_kicks(true) | work);
    if !has_work {
        shared.sleeping.store(true, Ordering::Relaxed);
        shared.counters.sleeps.add(1);
        let timeout = if plan.polls_nic {
            EpollTimeout::from(NIC_NAP_MS)
        } else if no_megaflows {
            EpollTimeout::NONE
        } else {
            EpollTimeout::from(MEGAFLOW_NAP_MS)
        };
        let mut events = [EpollEvent::empty(); 8];
        // An interrupted wait is one that ended early: the loop comes back.
        let _ = wakeups.wait(&mut events, timeout);
        shared.sleeping.store(false, Ordering::Relaxed);
    }
    for ring in rings() {
        ring.want_kicks(false);
    }
}
