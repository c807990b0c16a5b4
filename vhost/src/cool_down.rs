//! How long a port is left alone after its frontend did what only an attack
//! does: took mapped memory away, or made a notification wait for ever.
//!
//! Each time costs everybody on the same core some milliseconds, so it must not
//! be had as often as somebody likes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// After the first time. It stalls a core for 20 ms at most, so others keep 98 %.
const FIRST: Duration = Duration::from_secs(1);
/// It doubles so often: 64 s.
const DOUBLINGS: u32 = 6;

/// Times in a row that it happened.
#[derive(Default)]
pub struct CoolDown(AtomicU32);

impl CoolDown {
    /// It has happened again: how long to wait.
    pub fn again(&self) -> Duration {
        let times = self.0.load(Ordering::Relaxed);
        self.0.store(times.saturating_add(1), Ordering::Relaxed);
        FIRST * (1 << times.min(DOUBLINGS))
    }

    /// A frontend came and went without it.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_minute_and_is_forgotten() {
        let cool_down = CoolDown::default();
        let waits: Vec<_> = (0..9).map(|_| cool_down.again().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        cool_down.forget();
        assert_eq!(cool_down.again(), FIRST);
    }
}
