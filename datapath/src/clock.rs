//! Seconds for ages, from the time stamp counter: the only clock on a PMD core.

use crate::cpu::tsc;

/// Seconds since the datapath started, for ages: cheap and coarse.
#[derive(Clone, Copy, Debug)]
pub struct CoarseClock {
    start_tsc: u64,
    tsc_hz: u64,
    seconds: u32,
    next_tsc: u64,
}

impl CoarseClock {
    /// A clock that says 1 now (0 means "never" in the tables).
    pub fn start(tsc_hz: u64) -> Self {
        Self::started_at(tsc(), tsc_hz)
    }

    /// A clock that said 1 when the counter was at `start_tsc`, in the past.
    pub fn started_at(start_tsc: u64, tsc_hz: u64) -> Self {
        Self {
            start_tsc,
            tsc_hz: tsc_hz.max(1),
            seconds: 1,
            next_tsc: start_tsc + tsc_hz.max(1),
        }
    }

    /// When it was started.
    pub fn start_tsc(&self) -> u64 {
        self.start_tsc
    }

    /// The second that `now` lies in.
    #[inline(always)]
    pub fn seconds_at(&mut self, now: u64) -> u32 {
        if now >= self.next_tsc {
            self.advance(now);
        }
        self.seconds
    }

    /// Cycles per second.
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// Milliseconds from the start to `now`, plus one: 0 means "never".
    pub fn ms_at(&self, now: u64) -> u64 {
        let passed = u128::from(now.saturating_sub(self.start_tsc));
        1 + (passed * 1000 / u128::from(self.tsc_hz)) as u64
    }

    #[cold]
    fn advance(&mut self, now: u64) {
        let passed = (now - self.start_tsc) / self.tsc_hz;
        self.seconds = 1 + passed as u32;
        self.next_tsc = self.start_tsc + (passed + 1) * self.tsc_hz;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_follow_the_counter() {
        let mut clock = CoarseClock::start(1000);
        let start = clock.start_tsc;
        assert_eq!(clock.seconds_at(start), 1);
        assert_eq!(clock.seconds_at(start + 999), 1);
        assert_eq!(clock.seconds_at(start + 1000), 2);
        assert_eq!(clock.seconds_at(start + 7500), 8);
    }
}
