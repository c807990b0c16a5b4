//! What can go wrong in the harness, in sentences.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Shorthand for results of the harness.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a step of a test did not work.
#[derive(thiserror::Error)]
pub enum Error {
    /// The machine lacks something that the tests need.
    #[error("{what} is missing on this machine; {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// The operating system refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A condition did not come true in time.
    #[error("waited {waited:?} for {what}, in vain; last seen: {seen}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The state at the end.
        seen: String,
    },
    /// A command ended with another exit status than it should have.
    #[error("`{command}` ended with {status}\n{output}")]
    Command {
        /// The command as typed.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed on both streams.
        output: String,
    },
    /// A command inside a guest failed.
    #[error("in guest {guest}: `{command}` ended with {status}\n{output}")]
    Guest {
        /// The guest's name.
        guest: String,
        /// The command as sent.
        command: String,
        /// Its exit status.
        status: i32,
        /// What it printed.
        output: String,
    },
    /// A process ended although it should be running.
    #[error("{name} ended by itself: {status}; the end of {log}:\n{tail}")]
    Died {
        /// Which process.
        name: String,
        /// How it ended.
        status: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// An answer that cannot be understood or is not what it must be.
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// For `map_err`: an I/O error while doing `what`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl fmt::Debug for Error {
    /// The sentence of `Display`, so that `unwrap` in a test reads well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
