//! What a frontend makes us log, within limits: it can connect and send bad
//! messages thousands of times a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many lines at once …
const BURST: u32 = 10;
/// … and then one for each of these.
const EVERY: Duration = Duration::from_secs(10);

/// Lines that one port may write to the log.
pub struct LogLimit(Mutex<State>);

struct State {
    /// Lines that may be written now.
    left: u32,
    /// Since when `left` grows.
    since: Instant,
    /// Lines not written since the last one that was.
    silent: u64,
}

impl LogLimit {
    pub fn new() -> Self {
        Self(Mutex::new(State {
            left: BURST,
            since: Instant::now(),
            silent: 0,
        }))
    }

    /// Whether a line may be written: how many were not, since the last one.
    pub fn allows(&self) -> Option<u64> {
        self.allows_at(Instant::now())
    }

    fn allows_at(&self, now: Instant) -> Option<u64> {
        // The numbers are whole after every statement, whoever panicked.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.since).as_millis() / EVERY.as_millis();
        let grown = u32::try_from(passed).unwrap_or(u32::MAX);
        if grown > 0 {
            state.left = state.left.saturating_add(grown).min(BURST);
            state.since = now;
        }
        if state.left == 0 {
            state.silent += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_now_and_then_and_counted() {
        let limit = LogLimit::new();
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let told = (0..100).filter_map(|_| limit.allows_at(begin)).count();
        assert_eq!(told, BURST as usize);
        assert_eq!(limit.allows_at(after(9)), None);
        // 90 at once and the one just now.
        assert_eq!(limit.allows_at(after(11)), Some(91));
        assert_eq!(limit.allows_at(after(12)), None);
        let told = (0..100)
            .filter_map(|_| limit.allows_at(after(3600)))
            .count();
        assert_eq!(told, BURST as usize);
    }
}
