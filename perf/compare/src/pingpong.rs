//! How far apart two cores are: the time a cache line takes from one to the
//! other and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::{CoreId, set_for_current};
use serde::{Deserialize, Serialize};

/// Below this many nanoseconds there and back, two cores are near each other.
/// Seen on two virtual cores of an EPYC: about 65 when near, 320 when far.
pub const NEAR_NS: f64 = 150.0;

/// The kernel's affinity masks, as libc has them, end here.
const CPU_SETSIZE: usize = 1024;

const CHUNKS: usize = 40;
const ROUND_TRIPS: u64 = 1000;

/// Whether the cores were near each other during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// Before and after.
    Near,
    /// Neither before nor after.
    Far,
    /// It changed.
    Mixed,
}

impl Distance {
    /// From the ping-pong before and after a run, in nanoseconds.
    pub fn of(before: f64, after: f64) -> Self {
        match (before < NEAR_NS, after < NEAR_NS) {
            (true, true) => Self::Near,
            (false, false) => Self::Far,
            _ => Self::Mixed,
        }
    }

    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Mixed => "mixed",
        }
    }
}

/// Nanoseconds that a cache line takes from one core to another and back, as
/// a median. `None` if a core cannot be had.
pub fn measure(a: usize, b: usize) -> Option<f64> {
    if a.max(b) >= CPU_SETSIZE {
        return None;
    }
    let line = Arc::new(Line(AtomicU64::new(0)));
    let far_side = {
        let line = line.clone();
        thread::spawn(move || {
            let pinned = set_for_current(CoreId { id: b });
            answer(&line.0);
            pinned
        })
    };
    let near_side = thread::spawn(move || {
        let pinned = set_for_current(CoreId { id: a });
        pinned.then_some(ask(&line.0)).or_else(|| {
            // Let the other side end.
            line.0.store(STOP, Ordering::Release);
            None
        })
    });
    let mut times = near_side.join().ok()??;
    if !far_side.join().ok()? {
        return None;
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    Some(median.as_nanos() as f64 / ROUND_TRIPS as f64)
}

/// A cache line of its own (two, for the adjacent-line prefetcher).
#[repr(align(128))]
struct Line(AtomicU64);

const STOP: u64 = u64::MAX;

/// Odd numbers are questions, even ones answers.
fn ask(line: &AtomicU64) -> Vec<Duration> {
    let mut number = 0;
    let mut times = Vec::with_capacity(CHUNKS);
    for _ in 0..CHUNKS {
        let start = Instant::now();
        for _ in 0..ROUND_TRIPS {
            line.store(number + 1, Ordering::Release);
            number += 2;
            while line.load(Ordering::Acquire) != number {
                std::hint::spin_loop();
            }
        }
        times.push(start.elapsed());
    }
    line.store(STOP, Ordering::Release);
    times
}

fn answer(line: &AtomicU64) {
    loop {
        let number = line.load(Ordering::Acquire);
        if number == STOP {
            return;
        }
        if number % 2 == 1 {
            line.store(number + 1, Ordering::Release);
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_classed_by_both_measurements() {
        assert_eq!(Distance::of(55.0, 60.0), Distance::Near);
        assert_eq!(Distance::of(330.0, 300.0), Distance::Far);
        assert_eq!(Distance::of(55.0, 330.0), Distance::Mixed);
        assert_eq!(Distance::of(330.0, 55.0), Distance::Mixed);
    }

    #[test]
    fn a_core_that_is_not_there_gives_no_figure() {
        assert_eq!(measure(100_000, 100_001), None);
        assert_eq!(measure(0, 1023), None);
    }
}
