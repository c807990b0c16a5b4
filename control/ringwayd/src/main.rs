//! ringwayd: claims its files, starts the datapath, serves until told to stop.

// What comes from outside must never end the daemon.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use std::error::Error;
use std::fs::DirBuilder;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use ringway_datapath::Datapath;
use ringway_datapath::handover::{KeptPorts, Moment, SessionKeeper};
use ringway_datapath::spec::DatapathConfig;
use ringwayd::cli::Cli;
use ringwayd::confine::{Seccomp, drop_others, filter_system_calls};
use ringwayd::control::Control;
use ringwayd::doors::Doors;
use ringwayd::holder::{self, HolderLink};
use ringwayd::host::{KernelHost, watch_links};
use ringwayd::journal::Journal;
use ringwayd::model::Desired;
use ringwayd::notify::notify;
use ringwayd::owner;
use ringwayd::placement;
use ringwayd::reconcile::Retry;
use ringwayd::serve::serve;
use ringwayd::socket::ControlSocket;
use ringwayd::state::StateFile;
use ringwayd::takeover::{self, Offer, Successor};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match ringwayd::logging::start(&cli.log)
        .map_err(Into::into)
        .and_then(|()| run(&cli))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringwayd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error + Send + Sync>> {
    if cli.hold_fds {
        return Ok(holder::hold(&cli.socket)?);
    }
    let left = drop_others(&cli.keep_capabilities)?;
    tracing::info!("no new privileges; capabilities kept: {left}");
    if let Some(missing) = left.missing() {
        tracing::warn!(
            "without the capabilities {missing} some ports will fail: start ringwayd as root, or \
             with AmbientCapabilities= of ringwayd.service"
        );
    }
    let link = HolderLink::connect(&cli.socket);
    let successor = match cli.takeover {
        true => Successor::greet(&cli.socket)?,
        false => None,
    };
    let Started {
        datapath,
        control,
        socket,
        listener,
    } = match successor {
        Some(successor) => take_over(cli, successor, link.clone())?,
        None => start(cli, link.clone())?,
    };
    let tls = match cli.tls_door() {
        // Guests are here already: they are not to pay for it.
        Err(error) if cli.takeover => {
            tracing::error!("no clients are served over TCP: {error}");
            None
        }
        door => door?,
    };
    owner::load_name_services();
    filter_system_calls(cli.seccomp)?;
    match cli.seccomp {
        Seccomp::On => tracing::info!("system calls are filtered"),
        Seccomp::Log => tracing::warn!("--seccomp log: unexpected system calls are only logged"),
        Seccomp::Off => tracing::warn!("--seccomp off: system calls are not filtered"),
    }
    let takeover = takeover::path_beside(&cli.socket);
    let offered = takeover::offer(Offer {
        control: Arc::clone(&control),
        listener: listener.as_fd().try_clone_to_owned()?,
        path: takeover.clone(),
    });
    if let Err(error) = offered {
        tracing::warn!(
            "no other ringwayd can take over from this one: {}: {error}",
            takeover.display()
        );
    }
    let watched = Arc::downgrade(&control);
    std::thread::Builder::new()
        .name("ringwayd-links".into())
        .spawn(move || {
            watch_links(|| match watched.upgrade() {
                Some(control) => {
                    control.links_changed();
                    true
                }
                None => false,
            });
        })?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("ringwayd-control")
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let stop = stop_signal()?;
        if let Some(tls) = &tls {
            tracing::info!(
                "clients with a certificate are served on {}",
                tls.address()?
            );
        }
        let doors = Doors {
            unix: listener,
            tls,
        };
        let ready = || {
            tracing::info!("ready on {}", cli.socket.display());
            notify("READY=1");
        };
        serve(control, doors, stop, ready).await?;
        Ok(())
    });

    notify("STOPPING=1");
    datapath.stop();
    let _ = std::fs::remove_file(takeover);
    if let Some(link) = link {
        link.goodbye();
    }
    drop(socket);
    tracing::info!("stopped");
    served
}

/// What is there before serving begins.
struct Started {
    datapath: Arc<Datapath>,
    control: Arc<Control<Datapath>>,
    socket: ControlSocket,
    listener: UnixListener,
}

/// Starts with what the state file says.
fn start(
    cli: &Cli,
    link: Option<Arc<HolderLink>>,
) -> Result<Started, Box<dyn Error + Send + Sync>> {
    let (file, desired) = StateFile::open(&cli.state)?;
    let journal = Journal::open(&cli.state)?;
    let (socket, listener) = ControlSocket::claim(&cli.socket, cli.socket_access()?)?;
    let mut config = cli.datapath();
    config.marks = marks(&cli.socket);
    let kept = match &link {
        Some(link) => link.take()?,
        None => KeptPorts::new(),
    };
    config.keeper = link.map(|link| link as Arc<dyn SessionKeeper>);
    let pmd_cores = config.pmd_cores.clone();
    let datapath = Arc::new(start_datapath(config)?);
    placement::stay_off(&pmd_cores);
    let revives = !kept.is_empty();
    if revives {
        datapath.revive(kept);
    }
    let control = control(cli, &datapath, file, journal, desired);
    if revives {
        control.reconcile(Retry::All);
        datapath.go_on(Moment::default());
    }
    Ok(Started {
        datapath,
        control,
        socket,
        listener,
    })
}

/// Starts with what the running daemon hands over.
fn take_over(
    cli: &Cli,
    mut successor: Successor,
    link: Option<Arc<HolderLink>>,
) -> Result<Started, Box<dyn Error + Send + Sync>> {
    let mut config = cli.datapath();
    config.started_tsc = Some(successor.started_tsc());
    config.keeper = link.map(|link| link as Arc<dyn SessionKeeper>);
    config.marks = marks(&cli.socket);
    let pmd_cores = config.pmd_cores.clone();
    let datapath = Arc::new(start_datapath(config)?);
    placement::stay_off(&pmd_cores);
    let begun = successor.begin(&datapath)?;
    let (file, desired) = StateFile::adopt(&cli.state, begun.state_lock)?;
    let journal = Journal::open(&cli.state)?;
    let control = control(cli, &datapath, file, journal, desired);
    control.reconcile(Retry::All);
    successor.take_over(&datapath)?;
    Ok(Started {
        datapath,
        control,
        socket: ControlSocket::owned(&cli.socket)?,
        listener: begun.control_socket,
    })
}

/// The folder beside the control socket, in a tmpfs like all of /run, in which
/// bursts under way are noted.
fn marks(control_socket: &Path) -> Option<PathBuf> {
    let mut folder = control_socket.as_os_str().to_owned();
    folder.push(".rings");
    let made = DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&folder);
    made.inspect_err(|error| tracing::warn!("{}: {error}", Path::new(&folder).display()))
        .ok()?;
    Some(folder.into())
}

fn control(
    cli: &Cli,
    datapath: &Arc<Datapath>,
    file: StateFile,
    journal: Journal,
    desired: Desired,
) -> Arc<Control<Datapath>> {
    Arc::new(Control::new(
        Arc::clone(datapath),
        Arc::new(KernelHost),
        file,
        journal,
        desired,
        &cli.socket,
    ))
}

/// Starts the datapath on a thread of its own: DPDK pins the thread that starts
/// it, and the control plane's threads shall not inherit that.
fn start_datapath(config: DatapathConfig) -> Result<Datapath, Box<dyn Error + Send + Sync>> {
    let started = std::thread::Builder::new()
        .name("ringwayd-start".into())
        .spawn(|| Datapath::start(config))?
        .join();
    match started {
        Ok(datapath) => Ok(datapath?),
        Err(_) => Err("the datapath could not start: its starting thread panicked".into()),
    }
}

/// Ready at SIGTERM, SIGINT or SIGHUP.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => "SIGHUP",
        };
        tracing::info!("{name}: stopping");
    })
}
