//! The unix socket of a guest's port and the thread that serves it.
//!
//! Server mode: we listen, the frontend connects. Client mode: the frontend
//! listens, we connect, again after every disconnect, woken by inotify when
//! the socket file appears. One connection at a time; each is a new
//! [`Device`].

mod handover;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::gettid;
use vhost::vhost_user::{BackendReqHandler, Error as VhostError, VhostUserBackendReqHandlerMut};

pub use handover::GuestPortForm;

use crate::cool_down::CoolDown;
use crate::cpus::keep_to;
use crate::early::{self, Early};
use crate::features;
use crate::handover::{Descriptors, SessionKeeper};
use crate::listen::{Access, ListenError, MAX_PATH_BYTES, SocketFile, listen_on};
use crate::log_limit::LogLimit;
use crate::mark::Marks;
use crate::notify;
use crate::ring::{DeviceFault, RingFault};
use crate::session::{Device, RingPublisher};
use crate::status::{SessionState, SessionStatus, StatusCell};

/// Most queue pairs of a port: vhost-user names rings by one byte.
pub const MAX_QUEUE_PAIRS: u16 = 128;

/// Waits between attempts while a socket file is there but nobody answers.
const RETRY_MIN: Duration = Duration::from_millis(2);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Who listens on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// We do.
    Server,
    /// The frontend does.
    Client,
}

/// What a guest's port is made of.
#[derive(Clone, Debug)]
pub struct GuestPortConfig {
    /// Name of the port, for the thread and messages.
    pub name: String,
    /// The socket.
    pub path: PathBuf,
    /// Who listens on it.
    pub mode: Mode,
    /// Queue pairs offered, 1 to [`MAX_QUEUE_PAIRS`].
    pub queue_pairs: u16,
    /// User and group of the socket file (server mode).
    pub owner: Option<(u32, u32)>,
    /// Permission bits of the socket file (server mode).
    pub permissions: Option<u32>,
    /// Virtio features that frontends are offered, as far as they are known
    /// here: those of the port's first day, so that a guest never sees them
    /// change.
    pub features: u64,
    /// A file, best in a tmpfs, in which bursts under way are noted, so that a
    /// killed process's are not delivered twice.
    pub marks: Option<PathBuf>,
    /// Who keeps the session for the next process if this one is killed; needs
    /// `marks`.
    pub keeper: Option<Arc<dyn SessionKeeper>>,
    /// CPUs that the port's thread may run on: not the polling ones. Empty: all.
    pub cpus: Vec<usize>,
}

/// Why a port could not be started. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum GuestPortError {
    /// The path does not fit a socket address.
    #[error(
        "socket path {} has {length} bytes, a unix socket's path may have {MAX_PATH_BYTES}: use a shorter one",
        path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// Zero or too many queue pairs.
    #[error("queues={0} is not between 1 and {MAX_QUEUE_PAIRS}")]
    BadQueueCount(u16),
    /// Something other than a socket is there.
    #[error("{} exists and is not a socket: remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error("another process is listening on {}: stop it or choose another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy(action, source))]
    System {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

fn remedy(action: &str, error: &io::Error) -> &'static str {
    match (action, error.kind()) {
        ("listen on", ErrorKind::NotFound) => "; create its directory first",
        (_, ErrorKind::PermissionDenied) => {
            "; check the directory's owner and mode, or run ringwayd as root"
        }
        _ => "",
    }
}

/// A guest's port: its socket, its thread, its session. Dropping it ends the
/// connection, waits until the PMDs have let go, and removes the socket.
pub struct GuestPort {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Parked>>,
    /// What the thread works with, while there is none.
    parked: Option<Parked>,
    /// Goes last.
    file: Option<SocketFile>,
}

/// What the thread of a port works with.
#[derive(Default)]
struct Parked {
    /// In server mode.
    listener: Option<UnixListener>,
    live: Option<Live>,
}

/// A connection between two messages.
struct Live {
    device: Arc<Mutex<Device>>,
    handler: BackendReqHandler<Mutex<Device>>,
    /// The handler's socket, once more.
    connection: UnixStream,
}

impl Live {
    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Shared {
    config: GuestPortConfig,
    publisher: Arc<dyn RingPublisher>,
    status: Arc<StatusCell>,
    fault: Arc<DeviceFault>,
    /// The thread is to end; how, says `parking`.
    stop: EventFd,
    /// It ends between two messages and leaves the connection as it is.
    parking: AtomicBool,
    marks: Option<Arc<Marks>>,
    connection: Mutex<Option<UnixStream>>,
    log: LogLimit,
    cool_down: CoolDown,
}

impl GuestPort {
    /// Listens (server mode) or begins to connect (client mode). `publisher`
    /// is told of every change of the rings.
    pub fn start(
        config: GuestPortConfig,
        publisher: Arc<dyn RingPublisher>,
    ) -> Result<Self, GuestPortError> {
        let mut port = Self::build(config, publisher)?;
        let (listener, file) = match port.config().mode {
            Mode::Server => Some(listen(port.config())?).unzip(),
            Mode::Client => (None, None),
        };
        port.file = file;
        port.parked = Some(Parked {
            listener,
            live: None,
        });
        if let Err(error) = port.go_on() {
            drop(port.file.take());
            return Err(error);
        }
        Ok(port)
    }

    /// A port without a thread.
    fn build(
        config: GuestPortConfig,
        publisher: Arc<dyn RingPublisher>,
    ) -> Result<Self, GuestPortError> {
        if config.queue_pairs == 0 || config.queue_pairs > MAX_QUEUE_PAIRS {
            return Err(GuestPortError::BadQueueCount(config.queue_pairs));
        }
        let length = config.path.as_os_str().len();
        if length > MAX_PATH_BYTES {
            return Err(GuestPortError::PathTooLong {
                path: config.path,
                length,
            });
        }
        notify::watch(&config.cpus).map_err(|source| GuestPortError::System {
            action: "start the watch of notifications for",
            path: config.path.clone(),
            source,
        })?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(
            |errno| GuestPortError::System {
                action: "make an eventfd for",
                path: config.path.clone(),
                source: errno.into(),
            },
        )?;
        let shared = Arc::new(Shared {
            status: Arc::new(StatusCell::new(waits_for(&config))),
            publisher,
            fault: Arc::default(),
            stop,
            parking: AtomicBool::new(false),
            marks: config.marks.as_deref().and_then(|path| {
                let opened = Marks::open(path).inspect_err(|error| {
                    tracing::warn!(
                        port = config.name, path = %path.display(), %error,
                        "packets may be delivered twice if ringwayd is killed"
                    );
                });
                opened.ok()
            }),
            connection: Mutex::new(None),
            log: LogLimit::new(),
            cool_down: CoolDown::default(),
            config,
        });
        Ok(Self {
            shared,
            thread: None,
            parked: None,
            file: None,
        })
    }

    /// Starts the thread of a port that is parked, or was taken over. Does
    /// nothing while it runs.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub fn go_on(&mut self) -> Result<(), GuestPortError> {
        self.take_parked();
        let Some(parked) = self.parked.take() else {
            return Ok(());
        };
        self.shared.parking.store(false, Ordering::Release);
        // What woke the last thread; there may be nothing.
        let _ = self.shared.stop.read();
        let server = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            // The kernel keeps 15 bytes of a thread's name.
            .name(format!("vhost-{}", server.config.name))
            .spawn(move || {
                keep_to(gettid(), &server.config.cpus);
                server.run(parked)
            })
            .map_err(|source| GuestPortError::System {
                action: "start a thread for",
                path: self.config().path.clone(),
                source,
            })?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Where the port stands. A fault that a PMD found shows as quarantine.
    pub fn status(&self) -> SessionStatus {
        self.shared.status.with_fault(|| {
            let fault = self.shared.fault.get()?;
            let until = match fault.outlasts_driver() {
                true => "its frontend has connected anew",
                false => "the guest's driver restarts its queues",
            };
            Some(format!("{fault}; the port takes part again when {until}"))
        })
    }

    /// What the port was made of.
    pub fn config(&self) -> &GuestPortConfig {
        &self.shared.config
    }
}

impl Drop for GuestPort {
    fn drop(&mut self) {
        if self.thread.is_none() {
            // It did not go on: socket and connection are another process's.
            self.file.take().into_iter().for_each(SocketFile::leave);
            return;
        }
        // The eventfd is ours and far from full: it can be written.
        self.shared.parking.store(false, Ordering::Release);
        let _ = self.shared.stop.write(1);
        self.shared.hang_up();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has already been reported.
            let _ = thread.join();
        }
        let config = &self.shared.config;
        if let Some(keeper) = &config.keeper {
            keeper.forget(&config.name);
        }
        if let Some(marks) = &config.marks {
            let _ = fs::remove_file(marks);
        }
    }
}

fn waits_for(config: &GuestPortConfig) -> String {
    let path = config.path.display();
    match config.mode {
        Mode::Server => format!("a frontend (QEMU) to connect to {path}"),
        Mode::Client => format!("a frontend (QEMU, server=on) to listen on {path}"),
    }
}

/// Binds the socket; a file left by a killed process is replaced.
fn listen(config: &GuestPortConfig) -> Result<(UnixListener, SocketFile), GuestPortError> {
    let access = Access {
        permissions: config.permissions,
        user: config.owner.map(|(user, _)| user),
        group: config.owner.map(|(_, group)| group),
    };
    listen_on(&config.path, &access).map_err(|error| {
        let path = config.path.clone();
        match error {
            ListenError::TooLong(length) => GuestPortError::PathTooLong { path, length },
            ListenError::NotASocket => GuestPortError::NotASocket { path },
            ListenError::InUse => GuestPortError::InUse { path },
            ListenError::System { action, source } => GuestPortError::System {
                action,
                path,
                source,
            },
        }
    })
}

impl Shared {
    /// The port's thread. What it has when it is asked to park is left to its
    /// successor.
    fn run(&self, mut parked: Parked) -> Parked {
        let listener = parked.listener.as_ref();
        self.keep(listener, parked.live.as_ref());
        parked.live = parked.live.and_then(|live| self.session(live, listener));
        if parked.live.is_none() {
            parked.live = match &parked.listener {
                Some(listener) => self.serve(listener),
                None => self.connect_again_and_again(),
            };
        }
        parked
    }

    fn serve(&self, listener: &UnixListener) -> Option<Live> {
        while self.wait(Some(listener.as_fd()), None) {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Some(live) = self.connected(stream, Some(listener)) {
                        return Some(live);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    // Out of descriptors, most likely: say so and try again.
                    self.waiting(Some(format!("accepting a connection failed: {error}")));
                    self.wait(None, Some(RETRY_MAX));
                }
            }
        }
        None
    }

    fn connect_again_and_again(&self) -> Option<Live> {
        let mut retry = RETRY_MIN;
        // Kept over the attempts: to close one takes a while.
        let mut watched: Option<Watch> = None;
        loop {
            // The watch is set before the attempt, so no socket is missed.
            if watched.as_ref().is_none_or(Watch::is_stale) {
                if let Some(stale) = watched.take() {
                    stale.close();
                }
                watched = Watch::new(&self.config.path).ok();
            }
            let error = match UnixStream::connect(&self.config.path) {
                Ok(stream) => {
                    if let Some(live) = self.connected(stream, None) {
                        return Some(live);
                    }
                    retry = RETRY_MIN;
                    None
                }
                Err(error) => Some(error),
            };
            let go_on = match (&error, &watched) {
                (None, _) => self.wait(None, Some(RETRY_MIN)),
                (Some(error), Some(watch)) if error.kind() == ErrorKind::NotFound => {
                    retry = RETRY_MIN;
                    self.wait(Some(watch.as_fd()), None)
                }
                (Some(error), _) => {
                    // Bound but not yet listening, or left by a dead process,
                    // or in a directory that is not there yet.
                    let remedy = match error.kind() {
                        ErrorKind::PermissionDenied => {
                            "; let ringwayd's user write to the socket, by a group of both or by \
                             its mode, or start ringwayd with --keep-capabilities dac_override"
                        }
                        _ => "",
                    };
                    let why = format!(
                        "{}; last: connecting to {} failed: {error}{remedy}",
                        waits_for(&self.config),
                        self.config.path.display()
                    );
                    // No disconnect: nothing was connected.
                    self.status.set(SessionState::WaitingForSocket, why);
                    let began = Instant::now();
                    let go_on = self.wait(watched.as_ref().map(AsFd::as_fd), Some(retry));
                    // What has appeared may listen at any moment.
                    retry = match began.elapsed() < retry {
                        true => RETRY_MIN,
                        false => (retry * 2).min(RETRY_MAX),
                    };
                    go_on
                }
            };
            if !go_on {
                if let Some(watch) = watched {
                    watch.close();
                }
                return None;
            }
        }
    }

    /// Waits for `fd` to be readable, or the time to pass; false: stop.
    fn wait(&self, fd: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> bool {
        let timeout = timeout
            .and_then(|timeout| PollTimeout::try_from(timeout).ok())
            .unwrap_or(PollTimeout::NONE);
        let mut fds = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(fd.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) => !fds[0].any().unwrap_or(false),
            Err(nix::errno::Errno::EINTR) => true,
            Err(_) => false,
        }
    }

    fn waiting(&self, last_disconnect: Option<String>) {
        let mut why = waits_for(&self.config);
        if let Some(reason) = &last_disconnect {
            why = format!("{why}; last: {reason}");
        }
        {
            let mut status = self.status.lock();
            status.features = 0;
            status.memory_bytes = 0;
            status.memory_regions = 0;
            status.memory_sealed = false;
            status.last_disconnect = last_disconnect;
        }
        self.status.set(SessionState::WaitingForSocket, why);
    }

    /// A frontend has connected. Serves it until the connection ends; what is
    /// returned is parked.
    fn connected(&self, stream: UnixStream, listener: Option<&UnixListener>) -> Option<Live> {
        self.fault.clear();
        self.status.lock().connections += 1;
        self.status.set(
            SessionState::Negotiating,
            "the frontend is connected and has said nothing yet",
        );
        let connection = match stream.try_clone() {
            Ok(connection) => connection,
            Err(error) => {
                self.waiting(Some(format!("the connection was closed: {error}")));
                return None;
            }
        };
        let device = self.device();
        if let Some(silent) = self.log.allows() {
            tracing::info!(port = self.config.name, silent, "frontend connected");
        }
        let live = Live {
            handler: BackendReqHandler::from_stream(stream, Arc::clone(&device)),
            device,
            connection,
        };
        self.keep(listener, Some(&live));
        self.session(live, listener)
    }

    /// A device of which nothing is known yet.
    fn device(&self) -> Arc<Mutex<Device>> {
        Arc::new(Mutex::new(Device::new(
            self.config.queue_pairs,
            self.config.features & features::OFFERED,
            Arc::clone(&self.publisher),
            Arc::clone(&self.status),
            Arc::clone(&self.fault),
            self.marks.clone(),
        )))
    }

    /// Serves one connection until it ends; what is returned is parked.
    fn session(&self, mut live: Live, listener: Option<&UnixListener>) -> Option<Live> {
        *self.connection() = live.connection.try_clone().ok();
        let ended = loop {
            // Looked at after the connection is known to `hang_up`.
            if !self.wait(Some(live.connection.as_fd()), None) {
                if self.parking.load(Ordering::Acquire) {
                    return Some(live);
                }
                break None;
            }
            early::wait_for_message(&live.connection);
            self.set_busy(true);
            // Messages that the crate would refuse.
            let acked = live.device().features_acked();
            if let Some((early, wants_reply)) = early::take(&live.connection, acked) {
                let done = {
                    let mut device = live.device();
                    match early {
                        Early::Enable(index, enable) => device.set_vring_enable(index, enable),
                        Early::Announce(mac) => device.announce(mac),
                        Early::LogFd => device.log_fd(),
                    }
                };
                if let Err(error) = done {
                    break Some(error);
                }
                if wants_reply && let Err(error) = early::reply(&live.connection, early) {
                    break Some(VhostError::SocketBroken(error));
                }
                self.keep(listener, Some(&live));
                continue;
            }
            match live.handler.handle_request() {
                Ok(()) => self.keep(listener, Some(&live)),
                Err(error) => break Some(error),
            }
        };
        // PMDs let go before the frontend sees the connection end.
        live.device().stop();
        let fault = self.fault.get();
        self.fault.clear();
        // Its memory is unmapped now, not when the port is served again.
        drop(live);
        self.hang_up();
        let reason = match ended {
            None | Some(VhostError::Disconnected | VhostError::SocketBroken(_)) => None,
            Some(error) => Some(format!(
                "the connection was closed because of a bad message: {}",
                explain(&error)
            )),
        };
        let name = &self.config.name;
        match (&reason, self.log.allows()) {
            (_, None) => {}
            (None, Some(silent)) => tracing::info!(port = name, silent, "frontend disconnected"),
            (Some(reason), Some(silent)) => tracing::warn!(port = name, silent, "{reason}"),
        }
        match fault.filter(|fault| fault.outlasts_driver()) {
            Some(fault) => self.leave_alone(fault),
            None => self.cool_down.forget(),
        }
        self.waiting(reason);
        self.keep(listener, None);
        None
    }

    /// What follows is not done before it is kept.
    fn set_busy(&self, busy: bool) {
        if self.config.keeper.is_some()
            && let Some(marks) = &self.marks
        {
            marks.set_busy(busy);
        }
    }

    /// Gives what the port is made of now into good hands.
    fn keep(&self, listener: Option<&UnixListener>, live: Option<&Live>) {
        let (Some(keeper), Some(_)) = (&self.config.keeper, &self.marks) else {
            return;
        };
        let mut descriptors = Descriptors::default();
        match self.form(listener, live, &mut descriptors) {
            Ok(form) => {
                keeper.keep(&self.config.name, &form, descriptors);
                self.set_busy(false);
            }
            Err(error) => tracing::warn!(port = self.config.name, %error, "not kept"),
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<UnixStream>> {
        (self.connection.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves nobody for a while.
    fn leave_alone(&self, fault: RingFault) {
        let wait = self.cool_down.again();
        self.status.set(
            SessionState::Quarantined,
            format!("{fault}; no frontend is served for {} s", wait.as_secs()),
        );
        self.wait(None, Some(wait));
    }

    fn hang_up(&self) {
        let connection = self.connection().take();
        if let Some(connection) = connection {
            // It may be closed already; that is what is wanted.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn explain(error: &VhostError) -> String {
    match error {
        VhostError::ReqHandlerError(reason) => reason.to_string(),
        VhostError::InvalidMessage => "the message is malformed or not known (if QEMU's memory is \
            not shareable its memory table is empty: use memory-backend-memfd with share=on)"
            .to_owned(),
        other => other.to_string(),
    }
}

/// Tells that something came into a directory.
struct Watch {
    inotify: Inotify,
    /// It is the socket's own directory that is watched.
    deepest: bool,
}

impl Watch {
    /// Watches the socket's directory, or the deepest of its path that is there.
    fn new(socket: &Path) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE_SELF;
        let mut outcome = Err(nix::errno::Errno::ENOENT);
        let mut deepest = true;
        for directory in socket.ancestors().skip(1) {
            let directory = match directory.as_os_str().is_empty() {
                true => Path::new("."),
                false => directory,
            };
            outcome = inotify.add_watch(directory, events).map(drop);
            if outcome.is_ok() {
                break;
            }
            deepest = false;
        }
        outcome.map(|()| Self { inotify, deepest })
    }

    /// Closes it aside: the kernel takes a grace period for that, some 15 ms, and
    /// nobody who removes a port is to wait for it.
    fn close(self) {
        // If there can be no thread, it is closed here.
        let _ = thread::Builder::new()
            .name("vhost-unwatch".to_owned())
            .spawn(move || drop(self));
    }

    /// Takes in what it has to tell. True: the directory is another's now, or gone.
    fn is_stale(&self) -> bool {
        let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
        loop {
            match self.inotify.read_events() {
                Ok(events) if events.iter().all(|event| !event.mask.intersects(gone)) => {}
                Err(nix::errno::Errno::EAGAIN) => return !self.deepest,
                _ => return true,
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
