//! Meters: packets beyond a rate end here.
//!
//! A meter is one number, the time at which what has been let through so far
//! would have been through at the meter's rate (GCRA, ITU-T I.371). Cores share
//! it without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use ringway_flow::action::MeterSpec;

/// Tries to be the one that writes; then the packet passes.
const TRIES: u32 = 8;

/// A meter.
#[derive(Debug)]
pub struct Meter {
    pub spec: MeterSpec,
    /// In milliseconds of the datapath's clock.
    pub created_ms: u64,
    /// TSC cycles that a packet (or a byte, times 256) takes at the rate.
    cost: u64,
    /// Cycles that may be used at once.
    burst: u64,
    /// When all let through would be through. Written by all cores.
    through: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    band_packets: AtomicU64,
    band_bytes: AtomicU64,
}

/// What a meter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeterCounts {
    pub packets: u64,
    pub bytes: u64,
    pub band_packets: u64,
    pub band_bytes: u64,
}

impl Meter {
    pub fn new(spec: MeterSpec, tsc_hz: u64, created_ms: u64) -> Self {
        let rate = u128::from(spec.rate.max(1));
        let hz = u128::from(tsc_hz);
        let cost = match spec.packets {
            true => hz / rate,
            // A kilobit is 125 bytes.
            false => hz * 256 / (rate * 125),
        };
        let burst = match spec.burst {
            0 => hz,
            burst => hz * u128::from(burst) / rate,
        };
        Self {
            spec,
            created_ms,
            cost: u64::try_from(cost).unwrap_or(u64::MAX >> 1),
            burst: u64::try_from(burst).unwrap_or(u64::MAX >> 1),
            through: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            band_packets: AtomicU64::new(0),
            band_bytes: AtomicU64::new(0),
        }
    }

    /// Whether a packet of so many bytes is within the rate now.
    pub fn passes(&self, bytes: usize, now: u64) -> bool {
        let passes = self.within(bytes, now);
        let count = |packets: &AtomicU64, sum: &AtomicU64| {
            packets.fetch_add(1, Ordering::Relaxed);
            sum.fetch_add(bytes as u64, Ordering::Relaxed);
        };
        count(&self.packets, &self.bytes);
        if !passes {
            count(&self.band_packets, &self.band_bytes);
        }
        passes
    }

    fn within(&self, bytes: usize, now: u64) -> bool {
        let takes = match self.spec.packets {
            true => self.cost,
            false => self.cost.saturating_mul(bytes as u64) / 256,
        };
        for _ in 0..TRIES {
            let through = self.through.load(Ordering::Relaxed);
            let next = through.max(now).saturating_add(takes);
            // One packet always fits, however small the burst.
            if next - now > self.burst.max(takes) {
                return false;
            }
            let swap = (self.through).compare_exchange_weak(
                through,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if swap.is_ok() {
                return true;
            }
        }
        true
    }

    /// Takes over what another process has counted.
    pub fn add_counts(&self, counts: MeterCounts) {
        self.packets.fetch_add(counts.packets, Ordering::Relaxed);
        self.bytes.fetch_add(counts.bytes, Ordering::Relaxed);
        self.band_packets
            .fetch_add(counts.band_packets, Ordering::Relaxed);
        self.band_bytes
            .fetch_add(counts.band_bytes, Ordering::Relaxed);
    }

    pub fn counts(&self) -> MeterCounts {
        MeterCounts {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            band_packets: self.band_packets.load(Ordering::Relaxed),
            band_bytes: self.band_bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 1_000_000_000;

    fn meter(packets: bool, rate: u32, burst: u32) -> Meter {
        let spec = MeterSpec {
            id: 1,
            packets,
            rate,
            burst,
            stats: false,
            has_burst: burst > 0,
        };
        Meter::new(spec, HZ, 0)
    }

    /// Packets let through in so many seconds when one comes every `every` ns.
    fn passed(meter: &Meter, bytes: usize, every: u64, seconds: u64) -> usize {
        let times = (0..seconds * HZ / every).map(|n| HZ + n * every);
        times.filter(|now| meter.passes(bytes, *now)).count()
    }

    #[test]
    fn packets_beyond_the_rate_end_here_and_are_counted() {
        let meter = meter(true, 1000, 10);
        let passed = passed(&meter, 60, 100_000, 10);
        assert!((10_000..=10_020).contains(&passed), "{passed}");
        let counts = meter.counts();
        assert_eq!(counts.packets, 100_000);
        assert_eq!(counts.band_packets, 100_000 - passed as u64);
        assert_eq!(counts.bytes, 60 * counts.packets);
    }

    #[test]
    fn kilobits_are_counted_in_bytes() {
        // 1000 kb/s are 125,000 bytes/s: 125 packets of 1000 bytes.
        let meter = meter(false, 1000, 8);
        let passed = passed(&meter, 1000, 1_000_000, 10);
        assert!((1_250..=1_253).contains(&passed), "{passed}");
    }

    #[test]
    fn slower_than_the_rate_nothing_is_dropped() {
        let meter = meter(true, 1000, 1);
        assert_eq!(passed(&meter, 60, 1_000_001, 5), 4_999);
        assert_eq!(meter.counts().band_packets, 0);
    }
}
