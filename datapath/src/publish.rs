//! From the control plane to the PMDs, and back: "I have let go".
//!
//! ```text
//! publisher                               PMD, once per iteration
//! 1. plan.store(new)                      a. version.load(acquire) changed?
//! 2. version.store(n, release)            b. plan = plan.load(), dropping the old one
//! 3. wake.write(1)                        c. acked.store(n, release)
//! 4. until acked ≥ n: wait
//! 5. drop the old plan (unmaps, closes)
//! ```
//!
//! After 4 no PMD holds anything of an older plan, so the last reference is the
//! publisher's and destructors never run on a PMD core. PMDs never wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::sys::eventfd::EventFd;

use crate::cache::table::CacheTable;
use crate::counters::PmdCounterCells;
use crate::packet_in::PacketInRing;
use crate::snapshot::Plan;

/// What a PMD shares with the control plane.
pub struct PmdShared {
    /// The CPU it is pinned to.
    pub core: usize,
    /// Written by the publisher, read by the PMD.
    version: AtomicU64,
    /// Written by the publisher, read by the PMD.
    plan: ArcSwap<Plan>,
    /// Written by the PMD, read by the publisher.
    acked: AtomicU64,
    /// Written by the PMD, read by the control plane.
    pub sleeping: AtomicBool,
    /// Ends a PMD's sleep.
    wake: EventFd,
    /// Written by the PMD, read by the control plane.
    pub counters: PmdCounterCells,
    /// Its flow cache's memory: written by the PMD, read by the control plane.
    pub cache: Arc<CacheTable>,
    /// Packets for controllers: filled by the PMD, emptied by the control plane.
    pub packet_ins: Arc<PacketInRing>,
}

impl PmdShared {
    /// A PMD for `core` that begins with `plan`. `wake` must be in the epoll
    /// set of every plan.
    pub fn new(core: usize, plan: Arc<Plan>, wake: EventFd, cache: CacheTable) -> Self {
        Self {
            core,
            version: AtomicU64::new(plan.version),
            acked: AtomicU64::new(0),
            plan: ArcSwap::new(plan),
            sleeping: AtomicBool::new(false),
            wake,
            counters: PmdCounterCells::default(),
            cache: Arc::new(cache),
            packet_ins: Arc::default(),
        }
    }

    /// The eventfd that ends the PMD's sleep.
    pub fn wake_fd(&self) -> &EventFd {
        &self.wake
    }

    /// The plan now (control plane).
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// PMD: the first plan.
    pub fn begin(&self) -> Arc<Plan> {
        let plan = self.plan.load_full();
        self.acked.store(plan.version, Ordering::Release);
        plan
    }

    /// PMD: takes over a newer plan, if there is one. Called when nothing of
    /// the old plan is in use: this is the quiescent point.
    #[inline(always)]
    pub fn quiesce(&self, plan: &mut Arc<Plan>) {
        if self.version.load(Ordering::Acquire) != plan.version {
            self.take_over(plan);
        }
    }

    #[cold]
    fn take_over(&self, plan: &mut Arc<Plan>) {
        *plan = self.plan.load_full();
        self.acked.store(plan.version, Ordering::Release);
    }
}

/// Gives every PMD its new plan and waits until all have let go of the old.
pub fn publish(pmds: &[Arc<PmdShared>], plans: Vec<Plan>) {
    let mut old = Vec::with_capacity(plans.len());
    for (pmd, plan) in pmds.iter().zip(plans) {
        let version = plan.version;
        old.push(pmd.plan.swap(Arc::new(plan)));
        pmd.version.store(version, Ordering::Release);
        // A full eventfd wakes as well as a fuller one.
        let _ = pmd.wake.write(1);
    }
    for pmd in pmds {
        let version = pmd.version.load(Ordering::Relaxed);
        let mut spins = 0u32;
        while pmd.acked.load(Ordering::Acquire) < version {
            spins += 1;
            if spins < 1000 {
                std::hint::spin_loop();
            } else {
                // The PMD's core may be ours: let it run.
                thread::sleep(Duration::from_micros(20));
            }
        }
    }
    drop(old);
}
