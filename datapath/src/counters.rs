//! Counters: one writer each (a PMD), read by the control plane at any time.
//!
//! A PMD adds with a plain load and store; no other thread writes, so nothing
//! is lost and no locked instruction is needed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::LookupCounters;
use crate::drop_reason::DropReason;
use crate::status::{PmdCounters, PortCounters};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning PMD may.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Drops by reason.
#[derive(Debug)]
pub struct DropCounters([Counter; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl DropCounters {
    /// Counts `n` packets dropped for `reason`.
    #[inline(always)]
    pub fn add(&self, reason: DropReason, n: u64) {
        self.0[reason as usize].add(n);
    }

    /// The reasons with a count above zero.
    pub fn nonzero(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.0[*reason as usize].get()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// What one PMD counted for one queue of one port.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueCounters {
    pub rx_packets: Counter,
    pub rx_bytes: Counter,
    pub tx_packets: Counter,
    pub tx_bytes: Counter,
    pub tx_notifications: Counter,
    pub rx_drops: DropCounters,
    pub tx_drops: DropCounters,
}

/// The counters of a port: `[pmd][queue]`.
#[derive(Debug)]
pub struct PortCounterTable {
    queues: usize,
    cells: Box<[QueueCounters]>,
}

impl PortCounterTable {
    /// Zeroed counters.
    pub fn new(pmds: usize, queues: usize) -> Self {
        Self {
            queues,
            cells: (0..pmds * queues)
                .map(|_| QueueCounters::default())
                .collect(),
        }
    }

    /// What `pmd` counts for `queue`.
    #[inline(always)]
    pub fn of(&self, pmd: usize, queue: usize) -> &QueueCounters {
        &self.cells[pmd * self.queues + queue]
    }

    /// One queue's counters over all PMDs.
    pub fn queue_total(&self, queue: usize) -> PortCounters {
        self.sum(self.cells.iter().skip(queue).step_by(self.queues.max(1)))
    }

    /// All queues over all PMDs.
    pub fn total(&self) -> PortCounters {
        self.sum(self.cells.iter())
    }

    fn sum<'c>(&self, cells: impl Iterator<Item = &'c QueueCounters>) -> PortCounters {
        let mut total = PortCounters::default();
        for cell in cells {
            total.rx_packets += cell.rx_packets.get();
            total.rx_bytes += cell.rx_bytes.get();
            total.tx_packets += cell.tx_packets.get();
            total.tx_bytes += cell.tx_bytes.get();
            total.guest_notifications += cell.tx_notifications.get();
            merge(&mut total.rx_drops, cell.rx_drops.nonzero());
            merge(&mut total.tx_drops, cell.tx_drops.nonzero());
        }
        total
    }
}

/// Adds `more` to `drops`, one entry per reason, in the reasons' order.
pub fn merge(drops: &mut Vec<(DropReason, u64)>, more: Vec<(DropReason, u64)>) {
    for (reason, count) in more {
        match drops.binary_search_by_key(&reason, |(reason, _)| *reason) {
            Ok(at) => drops[at].1 += count,
            Err(at) => drops.insert(at, (reason, count)),
        }
    }
}

/// What a PMD counts of itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PmdCounterCells {
    pub iterations: Counter,
    pub busy_polls: Counter,
    pub busy_cycles: Counter,
    pub idle_cycles: Counter,
    pub sleep_cycles: Counter,
    pub sleeps: Counter,
    pub received: Counter,
    pub replicated: Counter,
    pub transmitted: Counter,
    pub dropped: DropCounters,
    pub lookups: LookupCounters,
}

impl PmdCounterCells {
    /// What was counted so far (control plane).
    pub fn read(&self) -> PmdCounters {
        PmdCounters {
            iterations: self.iterations.get(),
            busy_polls: self.busy_polls.get(),
            busy_cycles: self.busy_cycles.get(),
            idle_cycles: self.idle_cycles.get(),
            sleep_cycles: self.sleep_cycles.get(),
            sleeps: self.sleeps.get(),
            received: self.received.get(),
            replicated: self.replicated.get(),
            transmitted: self.transmitted.get(),
            dropped: self.dropped.nonzero(),
        }
    }

    /// `n` packets that came from a queue end here.
    #[inline(always)]
    pub fn drop_rx(&self, queue: &QueueCounters, reason: DropReason, n: u32) {
        if n > 0 {
            queue.rx_drops.add(reason, u64::from(n));
            self.dropped.add(reason, u64::from(n));
        }
    }

    /// `n` packets meant for a queue end here.
    #[inline(always)]
    pub fn drop_tx(&self, queue: &QueueCounters, reason: DropReason, n: u32) {
        if n > 0 {
            queue.tx_drops.add(reason, u64::from(n));
            self.dropped.add(reason, u64::from(n));
        }
    }

    /// `n` packets with `bytes` bytes together went to a queue.
    #[inline(always)]
    pub fn sent(&self, queue: &QueueCounters, n: u32, bytes: u64) {
        queue.tx_packets.add(u64::from(n));
        queue.tx_bytes.add(bytes);
        self.transmitted.add(u64::from(n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sum_over_pmds_and_queues() {
        let table = PortCounterTable::new(2, 3);
        table.of(0, 1).rx_packets.add(5);
        table.of(1, 1).rx_packets.add(7);
        table.of(1, 2).rx_packets.add(100);
        table.of(0, 1).tx_drops.add(DropReason::RingFull, 1);
        table.of(1, 1).tx_drops.add(DropReason::RingFull, 2);
        table.of(1, 1).tx_drops.add(DropReason::GuestFault, 4);
        assert_eq!(table.queue_total(1).rx_packets, 12);
        assert_eq!(table.total().rx_packets, 112);
        assert_eq!(
            table.queue_total(1).tx_drops,
            [(DropReason::GuestFault, 4), (DropReason::RingFull, 3)]
        );
        assert_eq!(table.queue_total(0), PortCounters::default());
    }
}
