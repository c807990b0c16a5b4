//! DPDK's log, kept in memory: errors quote it (drivers say there, and only
//! there, what went wrong) and the daemon hands it on to its own log.

// UNSAFETY: reads the text that DPDK's log stream hands to `sink`.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lines kept until somebody takes them; older ones are let go.
const KEPT_LINES: usize = 256;
/// An unterminated line is cut here, so that the buffer stays bounded.
const LINE_BYTES: usize = 1024;

/// How grave a line of DPDK's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// DPDK's emergency, alert, critical and error levels.
    Error,
    /// Something is not as it should be, but works.
    Warning,
    /// Normal but significant.
    Notice,
    /// Informational.
    Info,
    /// For DPDK's developers.
    Debug,
}

impl LogLevel {
    fn from_raw(level: u32) -> LogLevel {
        match level {
            0..=4 => LogLevel::Error,
            5 => LogLevel::Warning,
            6 => LogLevel::Notice,
            7 => LogLevel::Info,
            _ => LogLevel::Debug,
        }
    }
}

/// One line of DPDK's log, without its line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How grave it is.
    pub level: LogLevel,
    /// What DPDK said, for example `EAL: Cannot find resource`.
    pub text: String,
}

struct Log {
    partial: String,
    lines: VecDeque<LogLine>,
    /// Lines ever completed; a position in the log.
    written: u64,
}

static LOG: Mutex<Log> = Mutex::new(Log {
    partial: String::new(),
    lines: VecDeque::new(),
    written: 0,
});

fn lock() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    fn add(&mut self, level: LogLevel, text: &str) {
        for piece in text.split_inclusive('\n') {
            self.partial.push_str(piece.trim_end_matches('\n'));
            if !piece.ends_with('\n') && self.partial.len() < LINE_BYTES {
                continue;
            }
            let text = std::mem::take(&mut self.partial);
            self.written += 1;
            if self.lines.len() == KEPT_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(LogLine { level, text });
        }
    }
}

/// Called by the log stream in the shim.
pub(crate) unsafe extern "C" fn sink(level: u32, text: *const c_char, len: usize) {
    // SAFETY: the shim hands over `len` readable bytes for the time of the call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    lock().add(LogLevel::from_raw(level), &String::from_utf8_lossy(bytes));
}

/// The log's current end, for [`errors_since`].
pub(crate) fn mark() -> u64 {
    lock().written
}

/// Warnings and errors logged since `mark`, joined into one phrase for an error
/// message; empty when there were none. They stay in the log.
pub(crate) fn errors_since(mark: u64) -> String {
    let log = lock();
    let new = usize::try_from(log.written - mark).unwrap_or(usize::MAX);
    let mut said = String::new();
    for line in log.lines.iter().skip(log.lines.len().saturating_sub(new)) {
        let text = line.text.trim();
        if line.level > LogLevel::Warning || text.is_empty() {
            continue;
        }
        if !said.is_empty() {
            said.push_str("; ");
        }
        said.push_str(text);
    }
    said
}

/// All lines kept since the last call.
pub(crate) fn take() -> Vec<LogLine> {
    lock().lines.drain(..).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Log {
        Log {
            partial: String::new(),
            lines: VecDeque::new(),
            written: 0,
        }
    }

    #[test]
    fn pieces_become_lines() {
        let mut log = empty();
        log.add(LogLevel::Error, "EAL: can");
        log.add(LogLevel::Error, "not\nnext\n");
        let texts: Vec<&str> = log.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["EAL: cannot", "next"]);
        assert_eq!(log.written, 2);
    }

    #[test]
    fn old_lines_are_let_go() {
        let mut log = empty();
        for number in 0..KEPT_LINES + 3 {
            log.add(LogLevel::Notice, &format!("{number}\n"));
        }
        assert_eq!(log.lines.len(), KEPT_LINES);
        assert_eq!(log.lines[0].text, "3");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut log = empty();
        for _ in 0..10 {
            log.add(LogLevel::Notice, &"x".repeat(LINE_BYTES));
        }
        assert_eq!(log.lines.len(), 10);
        assert!(log.partial.is_empty());
    }
}
