//! ringwayd with a bridge that learns, or does what rules say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Adding, Job, Switch, SwitchSetup};
use crate::error::Error;
use crate::parse::{Cycles, Lookups, ringway_lookups, ringway_pmd_stats};
use crate::process::{Process, command, entering, output, output_within, pinned, wait_for_path};

const START: Duration = Duration::from_secs(10);

/// ringwayd, still without a bridge.
pub struct Daemon {
    process: Process,
    cli: PathBuf,
    control: PathBuf,
    other_core: usize,
}

impl Daemon {
    /// Starts it in a network namespace (`None`: ours), with more options.
    pub fn start(
        setup: &SwitchSetup,
        namespace: Option<&Path>,
        options: &[&str],
    ) -> Result<Self, Error> {
        let control = setup.dir.join("control.sock");
        let program = setup.binaries.join("ringwayd");
        let mut daemon = match namespace {
            Some(namespace) => {
                let mut nsenter = entering(namespace);
                nsenter.arg(program);
                nsenter
            }
            None => command(program),
        };
        daemon
            .args(["--hugepages", "auto", "--log", "warn"])
            .args(["--pmd-cores", &setup.core.to_string()])
            .arg("--socket")
            .arg(&control)
            .arg("--state")
            .arg(setup.dir.join("state.toml"))
            .args(options);
        let daemon = Self {
            process: Process::start("ringwayd", daemon)?,
            cli: setup.binaries.join("ringway"),
            control,
            other_core: setup.other_core,
        };
        wait_for_path(&daemon.control, START)?;
        Ok(daemon)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `ringway …`
    pub fn say(&self, words: &[&str]) -> Result<String, Error> {
        output("ringway", &mut self.cli(words))
    }

    /// What its poll core has spent since some fixed point.
    pub fn cycles(&self) -> Result<Cycles, Error> {
        let text = self.say(&["--json", "pmd", "stats"])?;
        ringway_pmd_stats(&text).ok_or(Error::Unreadable {
            name: "ringway pmd stats",
            text,
        })
    }

    fn cli(&self, words: &[&str]) -> Command {
        let mut cli = pinned(self.other_core, &self.cli);
        cli.arg("--socket").arg(&self.control).args(words);
        cli
    }
}

pub struct Ringway {
    daemon: Daemon,
    sockets: Vec<PathBuf>,
}

impl Ringway {
    pub fn start(setup: &SwitchSetup) -> Result<Self, Error> {
        let mut bridge = vec!["add-br", "br0", "--no-internal"];
        let mut options = Vec::new();
        if let Job::Rules { flow_limit } = setup.job {
            options.extend(["--flow-limit".to_owned(), flow_limit.to_string()]);
            bridge.extend(["--fail-mode", "secure"]);
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let daemon = Daemon::start(setup, None, &options)?;
        let (ports, sockets): (Vec<_>, Vec<_>) = setup.ports(".sock").into_iter().unzip();
        daemon.say(&bridge)?;
        let mode = if setup.tso {
            "mode=client"
        } else {
            "mode=server"
        };
        for (port, socket) in ports.iter().zip(&sockets) {
            let path = format!("path={}", socket.display());
            daemon.say(&["add-port", "br0", port, "type=vhost-user", &path, mode])?;
            if !setup.tso {
                wait_for_path(socket, START)?;
            }
        }
        Ok(Self { daemon, sockets })
    }
}

impl Switch for Ringway {
    fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    fn cycles(&mut self) -> Result<Cycles, Error> {
        self.daemon.cycles()
    }

    fn add_flows(&mut self, file: &Path, adding: Adding, timeout: Duration) -> Result<(), Error> {
        if adding == Adding::Single {
            return Err(Error::NoSingle);
        }
        let mut cli = self.daemon.cli(&["add-flows", "br0"]);
        cli.arg(file);
        output_within("ringway add-flows", cli, timeout).map(drop)
    }

    fn lookups(&mut self) -> Result<Lookups, Error> {
        let text = self.daemon.say(&["--json", "dpctl", "show"])?;
        ringway_lookups(&text).ok_or(Error::Unreadable {
            name: "ringway dpctl show",
            text,
        })
    }
}
