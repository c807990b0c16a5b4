//! ringway and Open vSwitch with two guests' ports, which are killed, stopped and
//! started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::holder::Children;
use ringway_tests::wait;

use nix::sys::signal::{Signal, kill};

use super::{Event, Listens, Plan};
use crate::error::Error;
use crate::process::wait_for_path;
use crate::switches::ovs::Daemons;
use crate::switches::{Job, OvsForwarding, SwitchKind};

/// Longest that a switch takes to make a socket, or to start another of itself.
const LIMIT: Duration = Duration::from_secs(20);
const BRIDGE: &str = "br0";

/// A switch that learns.
pub enum Restartable {
    /// ringway; before it, so that it ends first, what its holder has started.
    Ringway(Option<Children>, Daemon),
    /// Open vSwitch.
    Ovs(Daemons, PathBuf),
}

impl Restartable {
    /// Starts one with a bridge. `namespace`: by name, or one of its own.
    pub fn start(
        plan: &Plan,
        kind: SwitchKind,
        dir: &Path,
        namespace: Option<&str>,
        held: bool,
    ) -> Result<Self, Error> {
        match kind {
            SwitchKind::Ovs => {
                let job = Job::Forward(OvsForwarding::Normal);
                let setup = plan.method.setup(dir, job, 2);
                let file = namespace.map(|name| Path::new("/run/netns").join(name));
                let daemons = Daemons::start(&setup, file.as_deref(), &[])?;
                let bridge = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE];
                daemons.vsctl(&[&bridge[..], &["datapath_type=netdev"]].concat())?;
                Ok(Self::Ovs(daemons, dir.to_owned()))
            }
            SwitchKind::Ringway | SwitchKind::Testpmd => {
                let arguments = if held {
                    vec!["--hold-fds".into()]
                } else {
                    vec![]
                };
                let mut daemon = Daemon::start_with(DaemonOptions {
                    arguments,
                    namespace: namespace.map(str::to_owned),
                    bin_dir: Some(plan.method.binaries()),
                    ..DaemonOptions::default()
                })?;
                daemon.ok(&["add-br", BRIDGE])?;
                let children = held.then(|| Children::of(daemon.process().pid()));
                Ok(Self::Ringway(children, daemon))
            }
        }
    }

    /// Adds a guest's port; its socket.
    pub fn add_guest(&self, port: &str, listens: Listens) -> Result<PathBuf, Error> {
        match self {
            Self::Ringway(_, daemon) => {
                let mode = match listens {
                    Listens::Guest => "mode=client",
                    Listens::Switch => "mode=server",
                };
                Ok(daemon.add_vhost_port(BRIDGE, port, &[mode])?)
            }
            Self::Ovs(daemons, dir) => {
                let add = ["add-port", BRIDGE, port, "--", "set", "Interface", port];
                let socket = match listens {
                    Listens::Guest => dir.join(format!("{port}.sock")),
                    Listens::Switch => dir.join(port),
                };
                let path = format!("options:vhost-server-path={}", socket.display());
                let kind: &[&str] = match listens {
                    Listens::Guest => &["type=dpdkvhostuserclient", &path],
                    Listens::Switch => &["type=dpdkvhostuser"],
                };
                daemons.vsctl(&[&add[..], kind].concat())?;
                if listens == Listens::Switch {
                    wait_for_path(&socket, LIMIT)?;
                }
                Ok(socket)
            }
        }
    }

    /// Attaches an interface of its namespace.
    pub fn add_system(&self, interface: &str) -> Result<(), Error> {
        match self {
            Self::Ringway(_, daemon) => {
                daemon.ok(&["add-port", BRIDGE, interface, "type=system"])?;
            }
            Self::Ovs(daemons, _) => {
                daemons.vsctl(&["add-port", BRIDGE, interface])?;
            }
        }
        Ok(())
    }

    /// Has it happen. Returns when the next one has been started, of ringway when
    /// it answers.
    pub fn suffer(&mut self, event: Event) -> Result<(), Error> {
        match (self, event) {
            (Self::Ringway(Some(children), daemon), Event::KillHeld) => {
                let [pid] = children.now()[..] else {
                    return Err(Error::NoChild);
                };
                kill(pid, Signal::SIGKILL).map_err(|errno| Error::Talk {
                    name: "ringwayd",
                    source: errno.into(),
                })?;
                wait::until("another ringwayd", LIMIT, || match children.now()[..] {
                    [other] if other != pid => Ok(()),
                    ref others => Err(format!("{others:?}")),
                })?;
                daemon.ok(&["version"])?;
            }
            (Self::Ringway(_, daemon), Event::Takeover) => daemon.take_over()?,
            (Self::Ringway(_, daemon), Event::Stop) => {
                daemon.terminate()?;
                daemon.start_again()?;
            }
            (Self::Ringway(_, daemon), _) => {
                daemon.kill();
                daemon.start_again()?;
            }
            (Self::Ovs(daemons, _), Event::Stop) => daemons.exit_and_start()?,
            (Self::Ovs(daemons, _), _) => daemons.kill_and_start()?,
        }
        Ok(())
    }
}
