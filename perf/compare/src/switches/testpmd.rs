//! dpdk-testpmd between two net_vhost ports: what DPDK's vhost library costs
//! with no switching on top.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Adding, Switch, SwitchSetup};
use crate::error::Error;
use crate::parse::{Cycles, Lookups, testpmd_fwd_stats};
use crate::process::{Process, command, wait_for_path};

const START: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(5);

pub struct Testpmd {
    process: Process,
    sockets: Vec<PathBuf>,
}

impl Testpmd {
    pub fn start(setup: &SwitchSetup) -> Result<Self, Error> {
        let ports = setup.ports(".sock").into_iter();
        let sockets: Vec<PathBuf> = ports.map(|(_, socket)| socket).collect();
        let mut testpmd = command("stdbuf");
        testpmd
            .args(["-oL", "dpdk-testpmd", "--in-memory", "-m", "256"])
            .args(["--no-pci", "--no-telemetry"])
            // The first lcore reads commands, the second forwards.
            .arg("--lcores")
            .arg(format!("0@{},1@{}", setup.other_core, setup.core))
            .env("RUNTIME_DIRECTORY", &setup.dir);
        for (port, socket) in sockets.iter().enumerate() {
            let vdev = format!("net_vhost{port},iface={},queues=1", socket.display());
            testpmd.args(["--vdev", &vdev]);
        }
        testpmd.args(["--", "-i", "--auto-start", "--forward-mode=io"]);
        testpmd.args(["--record-core-cycles", "--total-num-mbufs=16384"]);
        let mut process = Process::start("dpdk-testpmd", testpmd)?;
        process.lines_until("Done", START)?;
        for socket in &sockets {
            wait_for_path(socket, START)?;
        }
        Ok(Self { process, sockets })
    }
}

impl Switch for Testpmd {
    fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn cycles(&mut self) -> Result<Cycles, Error> {
        self.process.forget_output();
        self.process.say("show fwd stats all")?;
        let (_, lines) = self.process.lines_until("CPU cycles/packet", ANSWER)?;
        let text = lines.join("\n");
        testpmd_fwd_stats(&text).ok_or(Error::Unreadable {
            name: "testpmd's show fwd stats",
            text,
        })
    }

    fn add_flows(&mut self, _: &Path, _: Adding, _: Duration) -> Result<(), Error> {
        Err(Error::NoRules)
    }

    fn lookups(&mut self) -> Result<Lookups, Error> {
        Err(Error::NoRules)
    }
}
