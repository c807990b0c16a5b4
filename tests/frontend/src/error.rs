//! What can go wrong between a scripted guest and a backend.

use std::io;
use std::path::PathBuf;

/// An error of the scripted frontend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Guest memory could not be created or mapped.
    #[error("guest memory at {gpa:#x}, {size} bytes: {what}: {source}")]
    Memory {
        /// Guest-physical start of the region.
        gpa: u64,
        /// Its size in bytes.
        size: u64,
        /// The step that failed.
        what: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The regions overlap or are not sorted.
    #[error("guest memory layout: {0}; give regions sorted by address, without overlap")]
    Layout(String),
    /// A vhost-user socket could not be opened.
    #[error(
        "vhost-user socket {path}: {source}; is the backend listening there (or connecting to it)?"
    )]
    Socket {
        /// Path of the socket.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// No connection or answer came within the time allowed.
    #[error("{what} did not happen within {millis} ms")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long, in milliseconds.
        millis: u128,
    },
    /// A vhost-user request failed: refused, connection closed or broken answer.
    #[error("vhost-user {request}: {source}")]
    Request {
        /// The request's name in the specification.
        request: &'static str,
        /// The `vhost` crate's reason.
        source: vhost::Error,
    },
    /// A raw transfer on the socket failed.
    #[error("raw vhost-user transfer: {0}")]
    Raw(#[source] io::Error),
    /// An event file descriptor could not be made.
    #[error("eventfd: {0}")]
    EventFd(#[source] io::Error),
    /// The backend lacks a feature that the configuration insists on.
    #[error("the backend does not offer {missing:#x} (it offers {offered:#x})")]
    MissingFeatures {
        /// Required bits that were not offered.
        missing: u64,
        /// What was offered.
        offered: u64,
    },
    /// The memory given cannot hold the rings.
    #[error("guest memory ends before the {need} bytes that the rings need at {gpa:#x}")]
    NoRoom {
        /// Guest-physical start of the rings.
        gpa: u64,
        /// Bytes needed.
        need: u64,
    },
}
