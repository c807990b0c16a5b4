//! Meters: packets beyond a rate end here. Policing of ports ([`crate::guard`]) has
//! its token buckets from here, too.

use std::sync::atomic::{AtomicU64, Ordering};

use ringway_flow::action::MeterSpec;

/// Tries to be the one that writes; then the packet passes.
const TRIES: u32 = 8;

/// Bytes of a kilobit.
pub const KILOBIT: u64 = 125;

/// Costs are in so many parts of a cycle, so that high rates are exact.
const PARTS: u32 = 16;

/// A token bucket: so many units (packets, bytes) a second, and so many at once.
///
/// It is one number, the time at which what has been let through so far would
/// have been through at the rate (GCRA, ITU-T I.371). Cores share it without a
/// lock, so a rate is that of all queues of a port together, whoever polls them.
#[derive(Debug)]
pub struct TokenBucket {
    /// What a unit takes at the rate, in parts of a cycle.
    cost: u64,
    /// Cycles that may be used at once.
    burst: u64,
    /// When all let through would be through. Written by all cores.
    through: AtomicU64,
}

impl TokenBucket {
    /// Lets `rate` units a second through, and `burst` at once.
    pub fn new(rate: u64, burst: u64, tsc_hz: u64) -> Self {
        let (rate, hz) = (u128::from(rate.max(1)), u128::from(tsc_hz));
        let bounded = |cycles: u128| u64::try_from(cycles).unwrap_or(u64::MAX >> 1);
        Self {
            cost: bounded((hz << PARTS) / rate),
            burst: bounded(hz * u128::from(burst) / rate),
            through: AtomicU64::new(0),
        }
    }

    /// Whether a packet of so many units is within the rate now. One that is
    /// larger than the burst passes when nothing went before it.
    #[inline]
    pub fn takes(&self, units: u64, now: u64) -> bool {
        let takes = (u128::from(self.cost) * u128::from(units)) >> PARTS;
        let takes = u64::try_from(takes).unwrap_or(u64::MAX >> 1);
        for _ in 0..TRIES {
            let through = self.through.load(Ordering::Relaxed);
            let next = through.max(now).saturating_add(takes);
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
}

/// A meter.
#[derive(Debug)]
pub struct Meter {
    pub spec: MeterSpec,
    /// In milliseconds of the datapath's clock.
    pub created_ms: u64,
    bucket: TokenBucket,
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
        let (rate, burst) = match (spec.rate.max(1), spec.burst) {
            // What comes in a second.
            (rate, 0) => (rate, rate),
            (rate, burst) => (rate, burst),
        };
        let units = match spec.packets {
            true => 1,
            false => KILOBIT,
        };
        Self {
            spec,
            created_ms,
            bucket: TokenBucket::new(u64::from(rate) * units, u64::from(burst) * units, tsc_hz),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            band_packets: AtomicU64::new(0),
            band_bytes: AtomicU64::new(0),
        }
    }

    /// Whether a packet of so many bytes is within the rate now.
    pub fn passes(&self, bytes: usize, now: u64) -> bool {
        let units = match self.spec.packets {
            true => 1,
            false => bytes as u64,
        };
        let passes = self.bucket.takes(units, now);
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
    use proptest::collection::vec;
    use proptest::prelude::*;

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

    /// A bucket as one would write it down: tokens that come with time, in
    /// units times cycles per second, so that all numbers are whole.
    struct Naive {
        rate: i128,
        most: i128,
        tokens: i128,
        last: u64,
    }

    impl Naive {
        fn takes(&mut self, units: u64, now: u64) -> bool {
            self.tokens += self.rate * i128::from(now - self.last);
            (self.tokens, self.last) = (self.tokens.min(self.most), now);
            let wanted = i128::from(units) * i128::from(HZ);
            let fits = wanted <= self.tokens || self.tokens == self.most;
            if fits {
                self.tokens -= wanted;
            }
            fits
        }
    }

    proptest! {
        /// With rates of which a unit takes whole cycles the two agree on every
        /// packet, also on one that is larger than the burst.
        #[test]
        fn a_bucket_lets_through_what_the_naive_one_does(
            rate in prop_oneof![Just(1), Just(8), Just(1000), Just(125_000), Just(HZ)],
            burst in 1u64..2000,
            packets in vec((0u64..3_000_000, 1u64..3000), 1..300),
        ) {
            let bucket = TokenBucket::new(rate, burst, HZ);
            let mut naive = Naive {
                rate: rate.into(),
                most: i128::from(burst) * i128::from(HZ),
                tokens: i128::from(burst) * i128::from(HZ),
                last: HZ,
            };
            let mut now = HZ;
            for (gap, units) in packets {
                now += gap;
                prop_assert_eq!(bucket.takes(units, now), naive.takes(units, now));
            }
        }

        /// At any rate, whoever sends all the time gets the rate and the burst, and no more.
        #[test]
        fn a_greedy_sender_gets_the_rate(
            // Beyond it the cycles of a packet are too few to be told apart well.
            rate in 1u64..10_000_000,
            burst in 1u64..1000,
            hz in 1_000_000_000u64..5_000_000_000,
        ) {
            let bucket = TokenBucket::new(rate, burst, hz);
            const STEPS: u64 = 2000;
            // Twice what the rate allows, for as long as it takes.
            let time = hz * 100 / rate.min(hz / 100);
            let mut passed = 0;
            for step in 0..STEPS {
                let now = hz + time * step / STEPS;
                while bucket.takes(1, now) {
                    passed += 1;
                }
            }
            let allowed = (u128::from(rate) * u128::from(time) / u128::from(hz)) as u64 + burst;
            prop_assert!(passed <= allowed + allowed / 100 + 2, "{} of {}", passed, allowed);
            prop_assert!(passed + passed / 100 + allowed / 1000 + 2 >= allowed, "{} of {}", passed, allowed);
        }
    }

    #[test]
    fn two_cores_share_a_bucket() {
        let bucket = TokenBucket::new(1_000_000, 100, HZ);
        let passed = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for now in (HZ..HZ + 10_000_000).step_by(100) {
                        let takes = bucket.takes(1, now);
                        passed.fetch_add(takes.into(), Ordering::Relaxed);
                    }
                });
            }
        });
        // 10 ms at a packet per microsecond. One whose turn never comes passes:
        // the two were never so close for long.
        let passed = passed.into_inner();
        assert!((10_000..=11_000).contains(&passed), "{passed}");
    }

    #[test]
    fn slower_than_the_rate_nothing_is_dropped() {
        let meter = meter(true, 1000, 1);
        assert_eq!(passed(&meter, 60, 1_000_001, 5), 4_999);
        assert_eq!(meter.counts().band_packets, 0);
    }
}
