//! The daemon that runs, asked by another to make room.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, geteuid};
use ringway_datapath::Datapath;
use ringway_datapath::handover::{Descriptors, HandoverError};
use rustix::process::{Signal, pidfd_send_signal};

use super::{BegunForm, FromNew, FromOld, common_version, wire};
use crate::control::Control;
use crate::state::StateFile;

/// Longest that the other daemon takes to start DPDK.
const START: Duration = Duration::from_secs(60);
/// Longest that it takes to make bridges, flows and ports, in which no change of
/// these is possible.
const PREPARE: Duration = Duration::from_secs(60);
/// Longest that nothing is forwarded for a new daemon that does not answer.
const TAKE: Duration = Duration::from_secs(2);
/// Longest that a frontend may take to finish a message.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a new daemon is offered to take over.
pub struct Offer {
    /// The daemon.
    pub control: Arc<Control<Datapath>>,
    /// The control socket's listener.
    pub listener: OwnedFd,
    /// Where new daemons ask.
    pub path: PathBuf,
}

/// Why a takeover was broken off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("it is gone or took too long: {0}")]
    Peer(#[from] io::Error),
    #[error("{0}")]
    Handover(#[from] HandoverError),
    #[error("it said {0} out of turn")]
    OutOfTurn(String),
}

/// Listens for new daemons, on a thread of its own. A takeover that succeeds
/// ends the process.
///
/// # Errors
///
/// The socket cannot be had.
pub fn offer(offer: Offer) -> io::Result<()> {
    let listener = listen(&offer.path)?;
    std::thread::Builder::new()
        .name("ringwayd-heir".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let served = stream.and_then(|stream| {
                    let peer = getsockopt(&stream, PeerCredentials)?;
                    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
                        tracing::warn!("user {} may not take over", peer.uid());
                        return Ok(());
                    }
                    serve(&offer, stream, Pid::from_raw(peer.pid()))
                });
                if let Err(error) = served {
                    tracing::warn!("takeover: {error}");
                    // Out of descriptors, most likely: not at once again.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        })
        .map(drop)
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // The control socket is ours: so is what stands beside it.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The process that takes over.
struct Heir {
    pid: Pid,
    /// Names it for as long as this is open, also when it has ended.
    process: OwnedFd,
}

/// Serves one new daemon; returns if this one goes on.
fn serve(offer: &Offer, mut stream: UnixStream, peer: Pid) -> io::Result<()> {
    let datapath = offer.control.switch();
    stream.set_read_timeout(Some(START))?;
    stream.set_write_timeout(Some(TAKE))?;
    let (hello, _) = wire::receive::<FromNew>(&mut stream)?;
    let FromNew::Hello { versions } = hello else {
        return Err(io::Error::other(format!("{hello:?} is no greeting")));
    };
    let Some(version) = common_version(&versions) else {
        let why = format!(
            "this ringwayd speaks versions {:?} of the handover, the new one {versions:?}",
            super::VERSIONS
        );
        let refused = FromOld::Refused { why };
        return wire::send(&mut stream, &refused, Descriptors::default());
    };
    let welcome = FromOld::Welcome {
        version,
        started_tsc: datapath.started_tsc(),
    };
    wire::send(&mut stream, &welcome, Descriptors::default())?;
    let heir = match wire::receive(&mut stream)? {
        (FromNew::Begin { process }, mut descriptors) => Heir {
            pid: peer,
            process: descriptors.take(process).map_err(io::Error::other)?,
        },
        (other, _) => return Err(io::Error::other(format!("{other:?} out of turn"))),
    };
    tracing::info!("process {peer} takes over");
    let outcome = offer
        .control
        .frozen(|file| hand_over(offer, file, &mut stream, &heir));
    let Err(why) = outcome else { return Ok(()) };
    tracing::warn!("the takeover by process {peer} was broken off, this one goes on: {why}");
    Ok(())
}

/// Does not return if the new daemon has taken over.
fn hand_over(
    offer: &Offer,
    file: &StateFile,
    stream: &mut UnixStream,
    heir: &Heir,
) -> Result<(), Broken> {
    let datapath = offer.control.switch();
    let outcome = until_done(offer, file, datapath, stream);
    if let Err(why) = outcome {
        end(stream, heir);
        datapath.resume();
        return Err(why);
    }
    // From here on guests are the other's: nothing is touched any more.
    datapath.abandon();
    tracing::info!("process {} has taken over", heir.pid);
    std::process::exit(0);
}

fn until_done(
    offer: &Offer,
    file: &StateFile,
    datapath: &Datapath,
    stream: &mut UnixStream,
) -> Result<(), Broken> {
    let (ports, mut descriptors) = datapath.park(PATIENCE)?;
    let form = BegunForm {
        ports,
        control_socket: descriptors.give(&offer.listener)?,
        state_lock: descriptors.give(file.lock())?,
    };
    wire::send(stream, &FromOld::Begun(Box::new(form)), descriptors)?;
    stream.set_read_timeout(Some(PREPARE))?;
    expect(stream, "Ready", |message| matches!(message, FromNew::Ready))?;

    let began = Instant::now();
    let moment = datapath.halt();
    let halted = began.elapsed();
    let moment = FromOld::Halted(Box::new(moment));
    wire::send(stream, &moment, Descriptors::default())?;
    stream.set_read_timeout(Some(TAKE))?;
    expect(stream, "Done", |message| matches!(message, FromNew::Done))?;
    tracing::info!(
        "nothing was forwarded for {} µs, of which {} µs went by until all was told",
        began.elapsed().as_micros(),
        halted.as_micros()
    );
    Ok(())
}

fn expect(
    stream: &mut UnixStream,
    what: &str,
    is_it: impl Fn(&FromNew) -> bool,
) -> Result<(), Broken> {
    let (message, _) = wire::receive::<FromNew>(stream)?;
    match is_it(&message) {
        true => Ok(()),
        false => Err(Broken::OutOfTurn(format!("{message:?} instead of {what}"))),
    }
}

/// Makes sure that the new daemon is no more, before this one goes on: it might
/// have heard all and be slow to say so.
fn end(stream: &mut UnixStream, heir: &Heir) {
    use std::io::Read;
    let peer = heir.pid;
    let deadline = Instant::now() + TAKE;
    let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            // Its end is closed: the process has ended, or has given up.
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
            Err(_) => {
                if let Err(error) = pidfd_send_signal(heir.process.as_fd(), Signal::KILL) {
                    tracing::error!("process {peer} could not be ended: {error}");
                }
            }
        }
        if Instant::now() > deadline {
            tracing::error!("process {peer} does not end; guests may see packets twice");
            return;
        }
    }
}
