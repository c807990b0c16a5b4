//! `ringwayd --hold-fds`: a small parent that holds what guests' sessions are
//! made of, and starts the daemon again when it has died.
//!
//! ```text
//! holder ── starts ──▶ ringwayd ── Keep {port, form} + descriptors, at each change ──▶ holder
//!   killed: its connection here closes without Goodbye ── starts ──▶ ringwayd
//!                                ◀── Held {port, form} + descriptors, for each port ── Take
//! SIGUSR2 ── starts ──▶ ringwayd --takeover ── takes over from the one that runs
//! ```
//!
//! Connections, listening sockets, guests' memory and eventfds stay open here, so
//! that no frontend sees its connection end. Where rings stand is in the rings.
//! The holder knows nothing of what it holds, allocates little and parses one
//! message at a time: there is not much in it to die of.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringway_datapath::handover::{Descriptors, GuestPortForm, KeptPorts, SessionKeeper};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::takeover::wire;

/// How often daemons are looked after that never connected.
const LOOK: Duration = Duration::from_millis(200);
/// Longest that a daemon that was killed takes to be gone altogether.
const GONE: Duration = Duration::from_secs(2);
/// A daemon that dies sooner after its start is not started again at once.
const TOO_SOON: Duration = Duration::from_secs(1);

/// Where the holder of a daemon is: beside the control socket.
pub fn path_beside(control_socket: &Path) -> PathBuf {
    let mut name = control_socket.as_os_str().to_owned();
    name.push(".holder");
    name.into()
}

#[derive(Debug, Serialize, Deserialize)]
enum FromDaemon {
    Take,
    Keep { port: String, form: Value },
    Forget { port: String },
    Goodbye,
}

#[derive(Debug, Serialize, Deserialize)]
enum FromHolder {
    Held { port: String, form: Value },
    End,
}

/// A daemon's connection to its holder.
#[derive(Debug)]
pub struct HolderLink(Mutex<UnixStream>);

impl HolderLink {
    /// Connects to the holder. `None`: there is none.
    pub fn connect(control_socket: &Path) -> Option<Arc<Self>> {
        let stream = UnixStream::connect(path_beside(control_socket)).ok()?;
        Some(Arc::new(Self(Mutex::new(stream))))
    }

    /// What the daemon before has left.
    ///
    /// # Errors
    ///
    /// The holder does not answer as it should.
    pub fn take(&self) -> io::Result<KeptPorts> {
        let mut stream = lock(&self.0);
        wire::send(&mut stream, &FromDaemon::Take, Descriptors::default())?;
        let mut kept = KeptPorts::new();
        loop {
            let (message, descriptors) = wire::receive(&mut stream)?;
            let FromHolder::Held { port, form } = message else {
                return Ok(kept);
            };
            match serde_json::from_value(form) {
                Ok(form) => {
                    kept.insert(port, (form, descriptors));
                }
                Err(error) => tracing::warn!(port, %error, "what was held is not understood"),
            }
        }
    }

    /// The daemon ends in good order: so may the holder.
    pub fn goodbye(&self) {
        self.say(&FromDaemon::Goodbye, Descriptors::default());
    }

    fn say(&self, message: &FromDaemon, descriptors: Descriptors) {
        if let Err(error) = wire::send(&mut lock(&self.0), message, descriptors) {
            tracing::warn!("the holder of descriptors does not take them: {error}");
        }
    }
}

impl SessionKeeper for HolderLink {
    fn keep(&self, port: &str, form: &GuestPortForm, descriptors: Descriptors) {
        let port = port.to_owned();
        match serde_json::to_value(form) {
            Ok(form) => self.say(&FromDaemon::Keep { port, form }, descriptors),
            Err(error) => tracing::warn!(port, %error, "a session cannot be held"),
        }
    }

    fn forget(&self, port: &str) {
        let port = port.to_owned();
        self.say(&FromDaemon::Forget { port }, Descriptors::default());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Held {
    ports: Mutex<BTreeMap<String, (Value, Vec<OwnedFd>)>>,
    /// Connections that are open.
    daemons: AtomicUsize,
    /// There was one.
    served: AtomicBool,
}

/// What the holder is told.
enum Event {
    /// The last connection has ended, or a daemon in good order.
    Ended { goodbye: bool },
    /// SIGUSR2: another daemon, of a newer version perhaps, is to take over.
    TakeOver,
    /// SIGTERM and its like: the daemon is to end, and so is this.
    Stop,
}

/// Holds, and starts daemons, until one says goodbye.
///
/// # Errors
///
/// The socket cannot be had, or no daemon started.
pub fn hold(control_socket: &Path) -> io::Result<()> {
    let path = path_beside(control_socket);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if UnixStream::connect(&path).is_ok() {
        let why = format!("another holder answers on {}", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    // Nobody listens there.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let (tell, events) = std::sync::mpsc::channel();
    watch_signals(tell.clone())?;
    let held = Arc::new(Held::default());
    let serving = Arc::clone(&held);
    std::thread::Builder::new()
        .name("holder".into())
        .spawn(move || serve_all(&listener, &serving, &tell))?;
    let outcome = keep_one_running(&events, &held);
    let _ = fs::remove_file(&path);
    outcome
}

fn serve_all(listener: &UnixListener, held: &Arc<Held>, tell: &Sender<Event>) {
    for stream in listener.incoming().flatten() {
        held.daemons.fetch_add(1, Ordering::SeqCst);
        held.served.store(true, Ordering::SeqCst);
        let (held, tell) = (Arc::clone(held), tell.clone());
        std::thread::spawn(move || {
            let goodbye = serve(&held, stream);
            let left = held.daemons.fetch_sub(1, Ordering::SeqCst) - 1;
            // A daemon that was taken over from leaves another behind.
            if goodbye || left == 0 {
                let _ = tell.send(Event::Ended { goodbye });
            }
        });
    }
}

fn keep_one_running(events: &Receiver<Event>, held: &Held) -> io::Result<()> {
    let mut daemons = vec![start(None)?];
    let mut started = Instant::now();
    let mut is_to_end = false;
    loop {
        match events.recv_timeout(LOOK) {
            Ok(Event::Ended { goodbye }) => {
                is_to_end = goodbye;
                // One that was killed is just about to be gone.
                let deadline = Instant::now() + GONE;
                while !reap(&mut daemons)? && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            Ok(Event::TakeOver) => match start(Some("--takeover")) {
                Ok(successor) => {
                    tracing::info!("process {} is to take over", successor.id());
                    daemons.push(successor);
                    is_to_end = false;
                }
                Err(error) => tracing::error!("no ringwayd can be started: {error}"),
            },
            Ok(Event::Stop) => {
                is_to_end = true;
                for daemon in &daemons {
                    // It is not reaped yet: the number is still its own.
                    let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM);
                }
            }
            Err(_) => {}
        }
        if !reap(&mut daemons)? {
            continue;
        }
        if is_to_end {
            return Ok(());
        }
        if !held.served.load(Ordering::SeqCst) {
            // As likely as not it never will; it has said why itself.
            return Err(io::Error::other("ringwayd does not start"));
        }
        if held.daemons.load(Ordering::SeqCst) > 0 {
            // One that somebody else has started.
            continue;
        }
        tracing::error!("ringwayd has died; it is started again");
        if started.elapsed() < TOO_SOON {
            std::thread::sleep(TOO_SOON);
        }
        started = Instant::now();
        daemons.push(start(None)?);
    }
}

/// Takes notice of daemons that have ended; true: there is none left.
fn reap(daemons: &mut Vec<Child>) -> io::Result<bool> {
    let mut left = Vec::new();
    for mut daemon in daemons.drain(..) {
        match daemon.try_wait()? {
            None => left.push(daemon),
            Some(status) => tracing::info!("process {} has ended: {status}", daemon.id()),
        }
    }
    *daemons = left;
    Ok(daemons.is_empty())
}

/// Starts a daemon with this process's arguments, and one more.
fn start(more: Option<&str>) -> io::Result<Child> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| "ringwayd".into());
    Command::new(program)
        .args(arguments.filter(|argument| argument != "--hold-fds"))
        .args(more)
        .spawn()
}

fn watch_signals(tell: Sender<Event>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let within = runtime.enter();
    let mut take_over = signal(SignalKind::user_defined2())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(within);
    std::thread::Builder::new()
        .name("holder-signals".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    let event = tokio::select! {
                        _ = take_over.recv() => Event::TakeOver,
                        _ = terminate.recv() => Event::Stop,
                        _ = interrupt.recv() => Event::Stop,
                        _ = hangup.recv() => Event::Stop,
                    };
                    if tell.send(event).is_err() {
                        return;
                    }
                }
            });
        })
        .map(drop)
}

/// Serves a daemon until its connection ends. True: in good order.
fn serve(held: &Held, mut stream: UnixStream) -> bool {
    loop {
        let Ok((message, descriptors)) = wire::receive(&mut stream) else {
            return false;
        };
        match message {
            FromDaemon::Keep { port, form } => {
                let kept = (form, descriptors.into_inner());
                lock(&held.ports).insert(port, kept);
            }
            FromDaemon::Forget { port } => {
                lock(&held.ports).remove(&port);
            }
            FromDaemon::Goodbye => {
                lock(&held.ports).clear();
                return true;
            }
            FromDaemon::Take => {
                // The last words of the one before are to be read first.
                let deadline = Instant::now() + GONE;
                while held.daemons.load(Ordering::SeqCst) > 1 && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if let Err(error) = give(held, &mut stream) {
                    tracing::warn!("what is held was not taken: {error}");
                    return false;
                }
            }
        }
    }
}

fn give(held: &Held, stream: &mut UnixStream) -> io::Result<()> {
    for (port, (form, fds)) in &*lock(&held.ports) {
        let mut descriptors = Descriptors::default();
        for fd in fds {
            descriptors.give(fd).map_err(io::Error::other)?;
        }
        let message = FromHolder::Held {
            port: port.clone(),
            form: form.clone(),
        };
        wire::send(stream, &message, descriptors)?;
    }
    wire::send(stream, &FromHolder::End, Descriptors::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_was_kept_last_is_given_to_the_next_daemon() {
        let held = Arc::new(Held::default());
        let daemon = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let held = Arc::clone(&held);
            held.daemons.fetch_add(1, Ordering::SeqCst);
            let served = std::thread::spawn(move || {
                let goodbye = serve(&held, theirs);
                held.daemons.fetch_sub(1, Ordering::SeqCst);
                goodbye
            });
            (HolderLink(Mutex::new(ours)), served)
        };
        let (first, served) = daemon();
        let (mut frontend, backend) = UnixStream::pair().unwrap();
        for round in 0..2 {
            let mut descriptors = Descriptors::default();
            descriptors.give(&backend).unwrap();
            let mut form = serde_json::to_value(GuestPortForm::default()).unwrap();
            form["connections"] = round.into();
            form["connection"] = 0.into();
            let form: GuestPortForm = serde_json::from_value(form).unwrap();
            first.keep("vm1", &form, descriptors);
            first.keep("vm2", &form, Descriptors::default());
        }
        first.forget("vm2");
        drop(backend);
        // Killed: what it said is read first, and the connection stays open.
        drop(first);
        assert!(!served.join().unwrap());

        let (second, served) = daemon();
        let mut kept = second.take().unwrap();
        assert_eq!(kept.len(), 1);
        let (form, mut descriptors) = kept.remove("vm1").unwrap();
        let form = serde_json::to_value(form).unwrap();
        assert_eq!(form["connections"], 1);
        let mut backend = UnixStream::from(descriptors.take(0).unwrap());
        backend.write_all(b"still there").unwrap();
        let mut words = [0; 11];
        frontend.read_exact(&mut words).unwrap();
        assert_eq!(&words, b"still there");
        second.goodbye();
        assert!(served.join().unwrap());
        assert!(lock(&held.ports).is_empty());
    }
}
