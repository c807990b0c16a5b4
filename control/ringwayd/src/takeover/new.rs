//! The daemon that takes over.

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use ringway_datapath::Datapath;
use ringway_datapath::handover::{Descriptors, HandoverError};
use rustix::process::{PidfdFlags, pidfd_open};

use super::{FromNew, FromOld, VERSIONS, path_beside, wire};

/// Longest that the old daemon takes for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest that it takes to end.
const END: Duration = Duration::from_secs(20);

/// Why nothing is taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// A message did not come, or not whole.
    #[error("takeover: the ringwayd that runs does not answer as it should: {0}")]
    Peer(#[from] io::Error),
    /// It answered something else.
    #[error("takeover: the ringwayd that runs said {0} out of turn")]
    OutOfTurn(String),
    /// A descriptor is missing.
    #[error("takeover: {0}")]
    Handover(#[from] HandoverError),
    /// The old daemon speaks no version that this one does, and does not end.
    #[error(
        "takeover: {why}; asked to end so that frontends connect anew, process {pid} still runs: \
         stop it, and start this one without --takeover"
    )]
    NoVersion {
        /// What it said.
        why: String,
        /// The old daemon.
        pid: Pid,
    },
}

/// A connection to the daemon that runs.
#[derive(Debug)]
pub struct Successor {
    stream: UnixStream,
    started_tsc: u64,
}

/// What was handed over beside the ports.
#[derive(Debug)]
pub struct Begun {
    /// The control socket's listener.
    pub control_socket: UnixListener,
    /// The lock of the state file.
    pub state_lock: File,
}

impl Successor {
    /// Greets the daemon that runs on this control socket. `None`: there is
    /// nobody to take over from (any more).
    ///
    /// # Errors
    ///
    /// It answers nothing that is understood.
    pub fn greet(control_socket: &Path) -> Result<Option<Self>, TakeoverError> {
        let path: PathBuf = path_beside(control_socket);
        let mut stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(
                    "nobody to take over from at {}: {error}; starting as ever",
                    path.display()
                );
                return Ok(None);
            }
        };
        let peer = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let hello = FromNew::Hello {
            versions: VERSIONS.to_vec(),
        };
        wire::send(&mut stream, &hello, Descriptors::default())?;
        match wire::receive(&mut stream)?.0 {
            FromOld::Welcome { started_tsc, .. } => Ok(Some(Self {
                stream,
                started_tsc,
            })),
            FromOld::Refused { why } => {
                tracing::warn!("{why}: it is ended, and frontends connect anew");
                let pid = Pid::from_raw(peer.pid());
                match end(&mut stream, pid) {
                    true => Ok(None),
                    false => Err(TakeoverError::NoVersion { why, pid }),
                }
            }
            other => Err(TakeoverError::OutOfTurn(format!("{other:?}"))),
        }
    }

    /// When the old daemon's datapath was started.
    pub fn started_tsc(&self) -> u64 {
        self.started_tsc
    }

    /// The old daemon takes no more changes; its ports are given to the
    /// datapath, to be taken when they are added.
    ///
    /// # Errors
    ///
    /// The old daemon has ended or broken off.
    pub fn begin(&mut self, datapath: &Datapath) -> Result<Begun, TakeoverError> {
        let this = rustix::process::getpid();
        let this = pidfd_open(this, PidfdFlags::empty()).map_err(io::Error::from)?;
        let mut descriptors = Descriptors::default();
        let process = descriptors.give(&this)?;
        wire::send(&mut self.stream, &FromNew::Begin { process }, descriptors)?;
        let (message, mut descriptors) = wire::receive(&mut self.stream)?;
        let FromOld::Begun(form) = message else {
            return Err(TakeoverError::OutOfTurn(format!("{message:?}")));
        };
        let begun = Begun {
            control_socket: descriptors.take(form.control_socket)?.into(),
            state_lock: descriptors.take(form.state_lock)?.into(),
        };
        datapath.adopt(form.ports, descriptors);
        Ok(begun)
    }

    /// Takes over: all bridges, flows and ports are there. Returns when the old
    /// daemon has ended and packets flow here.
    ///
    /// # Errors
    ///
    /// The old daemon has ended or broken off. Nothing was taken over.
    pub fn take_over(mut self, datapath: &Datapath) -> Result<(), TakeoverError> {
        datapath.match_rules();
        datapath.warm_up();
        wire::send(&mut self.stream, &FromNew::Ready, Descriptors::default())?;
        let (message, _) = wire::receive(&mut self.stream)?;
        let FromOld::Halted(moment) = message else {
            return Err(TakeoverError::OutOfTurn(format!("{message:?}")));
        };
        let began = Instant::now();
        let rings = moment.rings();
        wire::send(&mut self.stream, &FromNew::Done, Descriptors::default())?;
        datapath.go_on(*moment);
        tracing::info!(
            "took over {rings} rings; packets flow after {} µs here",
            began.elapsed().as_micros()
        );
        self.wait_for_the_end();
        Ok(())
    }

    /// The connection closes with the old daemon's last breath.
    fn wait_for_the_end(&mut self) {
        if !is_closed_within(&mut self.stream, END) {
            tracing::warn!("the old ringwayd does not end; it holds nothing that guests use");
        }
    }
}

fn is_closed_within(stream: &mut UnixStream, limit: Duration) -> bool {
    use std::io::Read;
    let closed = |read: &io::Result<usize>| match read {
        Ok(length) => *length == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    };
    let set = stream.set_read_timeout(Some(limit));
    set.is_ok() && closed(&stream.read(&mut [0]))
}

/// Ends the old daemon in the ordinary way.
fn end(stream: &mut UnixStream, pid: Pid) -> bool {
    if kill(pid, Signal::SIGTERM).is_err() {
        return false;
    }
    // Its connection ends when it has refused; the process takes a moment more.
    let _ = is_closed_within(stream, END);
    let deadline = Instant::now() + END;
    while kill(pid, None).is_ok() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
