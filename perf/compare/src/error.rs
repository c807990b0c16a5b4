//! What can go wrong while comparing.

use std::io;
use std::path::PathBuf;

/// An error, with what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started.
    #[error(
        "cannot start {name}: {source}; is it installed (dpdk-build/setup.sh) or built (cargo build --release)?"
    )]
    Start {
        /// Program.
        name: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A program ended although it should run.
    #[error("{name} ended; its last words:\n{output}")]
    Ended {
        /// Program.
        name: &'static str,
        /// Its last lines.
        output: String,
    },
    /// A program said nothing (more) in time.
    #[error(
        "{name} did not say what was expected within {seconds:.1} s; its last words:\n{output}"
    )]
    Silent {
        /// Program.
        name: &'static str,
        /// How long was waited, in seconds.
        seconds: f64,
        /// Its last lines.
        output: String,
    },
    /// A program did not take a command.
    #[error("cannot talk to {name}: {source}")]
    Talk {
        /// Program.
        name: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A short command failed.
    #[error("{name} failed: {output}")]
    Failed {
        /// Program.
        name: &'static str,
        /// What it said.
        output: String,
    },
    /// A switch did not create its socket.
    #[error("no socket at {path} after {seconds:.0} s")]
    NoSocket {
        /// Path of the socket.
        path: PathBuf,
        /// How long was waited, in seconds.
        seconds: f64,
    },
    /// A program's figures have another form than expected.
    #[error("{name} answered in an unknown form:\n{text}")]
    Unreadable {
        /// What was asked.
        name: &'static str,
        /// The answer.
        text: String,
    },
    /// What the end-to-end harness could not do.
    #[error(transparent)]
    Harness(#[from] ringway_tests::Error),
    /// A holder has not one daemon.
    #[error(
        "ringwayd --hold-fds has no daemon, or several, when its one is to be killed; \
         start it by hand to see why"
    )]
    NoChild,
    /// testpmd's frames did not come back.
    #[error("testpmd's frames do not come back through the switch")]
    NoTraffic,
    /// Oversized frames were not cut, or were.
    #[error(
        "frames arrived in {got:.2} pieces each where {expected} were due: \
         the switch does not keep to what the guests negotiated, or lost some"
    )]
    Pieces {
        /// Pieces in which a frame was to arrive.
        expected: usize,
        /// Pieces in which they did.
        got: f64,
    },
    /// A switch without rules was asked for some.
    #[error("testpmd has no rules; `compare flows --switch` takes ringway and ovs")]
    NoRules,
    /// testpmd was asked to restart.
    #[error(
        "testpmd keeps no ports over a restart; `compare restart --switch` takes ringway and ovs"
    )]
    NoRestart,
    /// ringway was asked to add rules one after the other.
    #[error("ringway adds a file of rules all at once")]
    NoSingle,
    /// The cores cannot be measured.
    #[error("cannot pin threads to cores {0} and {1}; `nproc --all` tells how many there are")]
    Cores(usize, usize),
    /// A network namespace of ours could not be entered, or not be used.
    #[error("network namespace {name}: {what}: {source}")]
    Namespace {
        /// Its name.
        name: String,
        /// What was to be done in it.
        what: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// An interface that should be there is not.
    #[error("there is no interface {interface} in network namespace {namespace}")]
    NoInterface {
        /// Where.
        namespace: String,
        /// Which.
        interface: String,
    },
    /// A switch does not carry frames between two of its ports.
    #[error("{from} gets no answer to its pings of {to} through the switch")]
    NoAnswer {
        /// Namespace that pings.
        from: String,
        /// Address it pings.
        to: &'static str,
    },
    /// The kernel's bridge was asked for a kind of port it does not have.
    #[error("the Linux bridge has neither guests' nor internal ports to add")]
    NoSuchPorts,
    /// The lock file cannot be locked.
    #[error("lock {path}: {source}")]
    Lock {
        /// Path of the lock file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file is not one of results.
    #[error("{path} is not a file of results: {why}")]
    NotResults {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The plot could not be drawn.
    #[error("plot {path}: {why}")]
    Plot {
        /// Path of the picture.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}
