//! Waiting for a condition, never for a length of time.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// Calls `probe` until it gives `Ok`, for at most `limit`. The last `Err`
/// becomes part of the message when it never does.
pub fn until<T, E: Debug>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> std::result::Result<T, E>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(seen) if begin.elapsed() >= limit => {
                return Err(Error::Timeout {
                    what: what.to_owned(),
                    waited: begin.elapsed(),
                    seen: format!("{seen:?}"),
                });
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// Waits until a value that grows has stopped growing: two equal readings
/// `quiet` apart. Gives the settled value.
pub fn settled<T: PartialEq + Debug>(
    what: &str,
    quiet: Duration,
    limit: Duration,
    mut read: impl FnMut() -> Result<T>,
) -> Result<T> {
    let begin = Instant::now();
    let mut before = read()?;
    loop {
        std::thread::sleep(quiet);
        let now = read()?;
        if now == before {
            return Ok(now);
        }
        if begin.elapsed() >= limit {
            return Err(Error::Timeout {
                what: format!("{what} to settle"),
                waited: begin.elapsed(),
                seen: format!("{before:?}, then {now:?}"),
            });
        }
        before = now;
    }
}
