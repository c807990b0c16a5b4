//! ringwayd with a bridge that learns, or does what rules say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Adding, Job, Switch, SwitchSetup};
use crate::error::Error;
use crate::parse::{Cycles, Lookups, ringway_lookups, ringway_pmd_stats};
use crate::process::{Process, command, output, output_within, pinned, wait_for_path};

const START: Duration = Duration::from_secs(10);

pub struct Ringway {
    daemon: Process,
    cli: PathBuf,
    control: PathBuf,
    sockets: Vec<PathBuf>,
    other_core: usize,
}

impl Ringway {
    pub fn start(setup: &SwitchSetup) -> Result<Self, Error> {
        let dir = &setup.dir;
        let control = dir.join("control.sock");
        let mut daemon = command(setup.binaries.join("ringwayd"));
        daemon
            .args(["--hugepages", "auto", "--log", "warn"])
            .args(["--pmd-cores", &setup.core.to_string()])
            .arg("--socket")
            .arg(&control)
            .arg("--state")
            .arg(dir.join("state.toml"));
        let mut bridge = vec!["add-br", "br0", "--no-internal"];
        if let Job::Rules { flow_limit } = setup.job {
            daemon.args(["--flow-limit", &flow_limit.to_string()]);
            bridge.extend(["--fail-mode", "secure"]);
        }
        let (ports, sockets): (Vec<_>, Vec<_>) = setup.ports(".sock").into_iter().unzip();
        let ringway = Self {
            daemon: Process::start("ringwayd", daemon)?,
            cli: setup.binaries.join("ringway"),
            control,
            sockets,
            other_core: setup.other_core,
        };
        wait_for_path(&ringway.control, START)?;
        ringway.say(&bridge)?;
        for (port, socket) in ports.iter().zip(&ringway.sockets) {
            let path = format!("path={}", socket.display());
            ringway.say(&[
                "add-port",
                "br0",
                port,
                "type=vhost-user",
                &path,
                "mode=server",
            ])?;
            wait_for_path(socket, START)?;
        }
        Ok(ringway)
    }

    fn say(&self, words: &[&str]) -> Result<String, Error> {
        output("ringway", &mut self.cli(words))
    }

    fn cli(&self, words: &[&str]) -> Command {
        let mut cli = pinned(self.other_core, &self.cli);
        cli.arg("--socket").arg(&self.control).args(words);
        cli
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
        let text = self.say(&["--json", "pmd", "stats"])?;
        ringway_pmd_stats(&text).ok_or(Error::Unreadable {
            name: "ringway pmd stats",
            text,
        })
    }

    fn add_flows(&mut self, file: &Path, adding: Adding, timeout: Duration) -> Result<(), Error> {
        if adding == Adding::Single {
            return Err(Error::NoSingle);
        }
        let mut cli = self.cli(&["add-flows", "br0"]);
        cli.arg(file);
        output_within("ringway add-flows", cli, timeout).map(drop)
    }

    fn lookups(&mut self) -> Result<Lookups, Error> {
        let text = self.say(&["--json", "dpctl", "show"])?;
        ringway_lookups(&text).ok_or(Error::Unreadable {
            name: "ringway dpctl show",
            text,
        })
    }
}
