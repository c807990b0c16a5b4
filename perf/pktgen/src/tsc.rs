#![allow(unsafe_code)]
// UNSAFETY: reading the time-stamp counter is an intrinsic marked unsafe.

//! The processor's time-stamp counter: the cheapest clock there is.

use std::time::{Duration, Instant};

/// The counter, in ticks. Not serialised against neighbouring instructions.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux does not
    // disable it for user space.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Ticks per second, measured against the operating system's clock for 20 ms.
pub fn hertz() -> f64 {
    let (start, first) = (Instant::now(), now());
    std::thread::sleep(Duration::from_millis(20));
    let (elapsed, last) = (start.elapsed(), now());
    (last - first) as f64 / elapsed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_counter_counts_up() {
        let first = super::now();
        assert!(super::now() >= first);
        assert!(super::hertz() > 0.0);
    }
}
