//! How much of a core's time misses may take.
//!
//! A packet whose megaflow is not known costs a hundred times one whose
//! megaflow is. Whoever makes up headers must not slow down those who do not:
//! while there are packets with known megaflows, and no time to spare, misses
//! get a share of the time and no more; what exceeds it is dropped under
//! `upcall_limit`. With time to spare, or no traffic to protect, misses get
//! all the time that they need.

/// Misses get one part in so many of a busy core's time.
const SHARE: u64 = 8;

/// What may be saved up, in cycles: some hundred translations in a row.
const MOST: i64 = 1 << 20;

/// Known packets in a window that count as traffic to be protected.
const TRAFFIC: u32 = 64;
/// Cycles of a window.
const WINDOW: u64 = 1 << 21;

/// A core's account of time for misses.
#[derive(Debug, Default)]
pub struct Budget {
    cycles: i64,
    known: u32,
    window_end: u64,
    protect: bool,
}

impl Budget {
    /// So many packets were known.
    #[inline(always)]
    pub fn known(&mut self, packets: u32) {
        self.known = self.known.saturating_add(packets);
    }

    /// Whether a miss may be translated.
    #[inline(always)]
    pub fn allows(&self) -> bool {
        !self.protect || self.cycles > 0
    }

    /// Misses took so many cycles.
    pub fn spend(&mut self, cycles: u64) {
        self.cycles = self.cycles.saturating_sub(cycles as i64).max(-MOST);
    }

    /// A poll took `cycles`; `busy`: it brought packets.
    #[inline(always)]
    pub fn poll(&mut self, now: u64, cycles: u64, busy: bool) {
        let earned = match busy {
            true => cycles / SHARE,
            false => cycles,
        };
        self.cycles = (self.cycles + earned as i64).min(MOST);
        if now >= self.window_end {
            self.protect = self.known >= TRAFFIC;
            self.known = 0;
            self.window_end = now + WINDOW;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Translates as often as allowed for a while; returns the share of time.
    fn share(known_per_poll: u32, idle: bool) -> f64 {
        let (mut budget, mut now, mut spent) = (Budget::default(), 0u64, 0u64);
        for _ in 0..100_000 {
            let mut cycles = 1_000;
            budget.known(known_per_poll);
            for _ in 0..32 {
                if budget.allows() {
                    budget.spend(2_500);
                    cycles += 2_500;
                }
            }
            now += cycles;
            spent += cycles - 1_000;
            budget.poll(now, cycles, true);
            if idle {
                now += 100_000;
                budget.poll(now, 100_000, false);
            }
        }
        spent as f64 / now as f64
    }

    #[test]
    fn misses_take_a_share_only_while_there_is_traffic_and_no_time_to_spare() {
        assert!(share(32, false) < 1.2 / SHARE as f64);
        assert!(share(0, false) > 0.9);
        assert!(share(32, true) > 0.4);
    }
}
