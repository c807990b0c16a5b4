//! ringwayd with a learning bridge and two vhost-user ports.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Switch, SwitchSetup};
use crate::error::Error;
use crate::parse::{Cycles, ringway_pmd_stats};
use crate::process::{Process, command, output, pinned, wait_for_path};

const START: Duration = Duration::from_secs(10);

pub struct Ringway {
    daemon: Process,
    cli: PathBuf,
    control: PathBuf,
    sockets: [PathBuf; 2],
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
        let ringway = Self {
            daemon: Process::start("ringwayd", daemon)?,
            cli: setup.binaries.join("ringway"),
            control,
            sockets: [dir.join("p0.sock"), dir.join("p1.sock")],
            other_core: setup.other_core,
        };
        wait_for_path(&ringway.control, START)?;
        ringway.say(&["add-br", "br0"])?;
        for (port, socket) in ["p0", "p1"].iter().zip(&ringway.sockets) {
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
        let mut cli = pinned(self.other_core, &self.cli);
        cli.arg("--socket").arg(&self.control).args(words);
        output("ringway", &mut cli)
    }
}

impl Switch for Ringway {
    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
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
}
