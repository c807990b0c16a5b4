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
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use ringway_datapath::Datapath;
use ringway_datapath::spec::DatapathConfig;
use ringwayd::cli::Cli;
use ringwayd::confine::{Seccomp, drop_others, filter_system_calls};
use ringwayd::control::Control;
use ringwayd::doors::Doors;
use ringwayd::host::{KernelHost, watch_links};
use ringwayd::journal::Journal;
use ringwayd::notify::notify;
use ringwayd::owner;
use ringwayd::placement;
use ringwayd::serve::serve;
use ringwayd::socket::ControlSocket;
use ringwayd::state::StateFile;
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
    let left = drop_others(&cli.keep_capabilities)?;
    tracing::info!("no new privileges; capabilities kept: {left}");
    if let Some(missing) = left.missing() {
        tracing::warn!(
            "without the capabilities {missing} some ports will fail: start ringwayd as root, or \
             with AmbientCapabilities= of ringwayd.service"
        );
    }
    let (file, desired) = StateFile::open(&cli.state)?;
    let journal = Journal::open(&cli.state)?;
    let (socket, listener) = ControlSocket::claim(&cli.socket, cli.socket_access()?)?;
    let tls = cli.tls_door()?;
    let config = cli.datapath();
    let pmd_cores = config.pmd_cores.clone();
    let datapath = Arc::new(start_datapath(config)?);
    placement::stay_off(&pmd_cores);
    owner::load_name_services();
    filter_system_calls(cli.seccomp)?;
    match cli.seccomp {
        Seccomp::On => tracing::info!("system calls are filtered"),
        Seccomp::Log => tracing::warn!("--seccomp log: unexpected system calls are only logged"),
        Seccomp::Off => tracing::warn!("--seccomp off: system calls are not filtered"),
    }
    let control = Arc::new(Control::new(
        Arc::clone(&datapath),
        Arc::new(KernelHost),
        file,
        journal,
        desired,
        &cli.socket,
    ));
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
    drop(socket);
    tracing::info!("stopped");
    served
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
