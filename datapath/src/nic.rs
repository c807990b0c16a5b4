//! A DPDK device as a port: mbufs in and out. One copy out of an mbuf's body
//! or into one; heads go through the burst like any other packet's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use dpdk::{MbufBurst, Mempool, MtuError, QueryError, RunningPort, RxQueue, TxQueue};
use ringway_vhost::{Burst, Claim, Claimed, Packets};

use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::housekeeping::Bell;
use crate::nic_health::Health;
use crate::nic_transmit::Outgoing;

/// How often a queue in use by another PMD is looked at before giving up.
const CLAIM_ATTEMPTS: u32 = 2000;

struct Receiver {
    queue: RxQueue,
    mbufs: MbufBurst,
}

struct Transmitter {
    queue: TxQueue,
    mbufs: MbufBurst,
}

/// A running device with its queues.
pub struct Nic {
    port: RunningPort,
    receivers: Vec<Claimed<Receiver>>,
    transmitters: Vec<Claimed<Transmitter>>,
    mempool: Mempool,
    mtu: AtomicU16,
    health: Health,
}

/// Waits until no PMD uses it. Only the control plane waits so.
fn claim<T>(queue: &Claimed<T>) -> Claim<'_, T> {
    loop {
        if let Some(claim) = queue.try_claim() {
            return claim;
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// MTU → frame without VLAN tags.
const ETHERNET: u32 = 14;

impl Nic {
    /// Takes over a started device; rings `bell` when something happens to it.
    pub fn new(
        port: RunningPort,
        rx_queues: Vec<RxQueue>,
        tx_queues: Vec<TxQueue>,
        mempool: Mempool,
        bell: Arc<Bell>,
    ) -> Self {
        let mtu = port.mtu().unwrap_or(1500);
        // Before the first look at it, so that nothing is missed.
        port.on_event(move || bell.ring());
        Self {
            receivers: rx_queues
                .into_iter()
                .map(|queue| {
                    Claimed::new(Receiver {
                        queue,
                        mbufs: MbufBurst::new(),
                    })
                })
                .collect(),
            transmitters: tx_queues
                .into_iter()
                .map(|queue| {
                    Claimed::new(Transmitter {
                        queue,
                        mbufs: MbufBurst::new(),
                    })
                })
                .collect(),
            mempool,
            mtu: AtomicU16::new(mtu),
            health: Health::of(&port),
            port,
        }
    }

    /// The MTU that it has.
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Gives the device another MTU. One that cannot change it while it runs
    /// is stopped and started: PMDs find its queues in use for that time, and
    /// frames in them may be lost.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), MtuError> {
        let changed = match self.port.set_mtu(mtu) {
            Err(MtuError::Refused { .. }) => self.set_mtu_stopped(mtu),
            changed => changed,
        };
        if let Err(error @ MtuError::Stopped { .. }) = &changed {
            self.health.fail(error.to_string());
        }
        changed?;
        self.mtu.store(mtu, Ordering::Relaxed);
        Ok(())
    }

    fn set_mtu_stopped(&self, mtu: u16) -> Result<(), MtuError> {
        let mut receivers: Vec<_> = self.receivers.iter().map(claim).collect();
        let mut transmitters: Vec<_> = self.transmitters.iter().map(claim).collect();
        let mut rx: Vec<_> = receivers.iter_mut().map(|it| &mut it.queue).collect();
        let mut tx: Vec<_> = transmitters.iter_mut().map(|it| &mut it.queue).collect();
        self.port.set_mtu_stopped(mtu, &mut rx, &mut tx)
    }

    /// How the device is.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The device's own counters by name, in the device's order.
    pub fn device_counters(&self) -> Result<Vec<(String, u64)>, QueryError> {
        self.port.xstats()
    }

    /// The device, for what it tells of itself.
    pub fn port(&self) -> &RunningPort {
        &self.port
    }

    /// The memory of its packets.
    pub fn mempool(&self) -> &Mempool {
        &self.mempool
    }

    /// Receive queues.
    pub fn rx_queues(&self) -> usize {
        self.receivers.len()
    }

    /// Receives a burst from `queue` and lends it to `use_packets`; returns
    /// how many packets came and how many of them were too long to lend.
    #[inline]
    pub fn receive(
        &self,
        queue: u16,
        burst: &mut Burst,
        use_packets: impl FnOnce(&mut Packets<'_>),
    ) -> (u32, u32) {
        let Some(mut receiver) = self
            .receivers
            .get(usize::from(queue))
            .and_then(Claimed::try_claim)
        else {
            return (0, 0);
        };
        let Receiver { queue, mbufs } = &mut *receiver;
        let count = queue.rx_burst(mbufs);
        if count == 0 {
            return (0, 0);
        }
        let refused = burst.lend_slices(count, |i| mbufs.packet(i).segments(), use_packets);
        mbufs.clear();
        (count as u32, refused as u32)
    }

    /// Copies the packets of `list` into mbufs and sends them on the
    /// transmit queue of `pmd`.
    #[inline]
    pub fn transmit(
        &self,
        pmd: usize,
        packets: &mut Packets<'_>,
        list: &[u8],
        counters: &QueueCounters,
        own: &PmdCounterCells,
    ) {
        let drop = |reason, n: usize| own.drop_tx(counters, reason, n as u32);
        if !self.health.takes_frames() {
            drop(DropReason::LinkDown, list.len());
            return;
        }
        let queue = pmd % self.transmitters.len().max(1);
        let Some(mut transmitter) = self
            .transmitters
            .get(queue)
            .and_then(|queue| queue.claim_within(CLAIM_ATTEMPTS))
        else {
            drop(DropReason::RingContended, list.len());
            return;
        };
        let Transmitter { queue, mbufs } = &mut *transmitter;
        let mut outgoing = Outgoing {
            queue,
            mbufs,
            mempool: &self.mempool,
            offloads: self.port.info().offloads,
            counters,
            own,
        };
        outgoing.transmit(u32::from(self.mtu()) + ETHERNET, packets, list);
    }
}
