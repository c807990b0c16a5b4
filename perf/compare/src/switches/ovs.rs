//! A private Open vSwitch with DPDK: own database, own directories, own
//! network namespace (for its tap devices), own sockets. The system's Open
//! vSwitch is not touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{OvsForwarding, Switch, SwitchSetup};
use crate::error::Error;
use crate::parse::{Cycles, ovs_pmd_stats};
use crate::process::{Process, command, output, pinned, wait_for_path};

const START: Duration = Duration::from_secs(20);
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Debian's DPDK build; `ovs-vswitchd` itself is an alternative that may
/// point to the one without.
const VSWITCHD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const BRIDGE: &str = "cmpbr0";

pub struct Ovs {
    // Dropped in this order: the daemon before its database.
    vswitchd: Process,
    _ovsdb: Process,
    dir: PathBuf,
    sockets: [PathBuf; 2],
    other_core: usize,
}

impl Ovs {
    pub fn start(setup: &SwitchSetup) -> Result<Self, Error> {
        let dir = &setup.dir;
        let database = dir.join("conf.db");
        let mut create = command("ovsdb-tool");
        output(
            "ovsdb-tool",
            in_dir(&mut create, dir)
                .arg("create")
                .arg(&database)
                .arg(SCHEMA),
        )?;
        let mut server = command("ovsdb-server");
        in_dir(&mut server, dir)
            .arg(&database)
            .arg(format!("--remote=punix:{}", dir.join("db.sock").display()))
            .arg(unixctl(dir, "ovsdb"));
        let ovsdb = Process::start("ovsdb-server", server)?;
        wait_for_path(&dir.join("db.sock"), START)?;

        let vsctl = |words: &[&str]| {
            let mut vsctl = pinned(setup.other_core, "ovs-vsctl");
            in_dir(&mut vsctl, dir)
                .arg(format!("--db=unix:{}", dir.join("db.sock").display()))
                .arg("--timeout=20")
                .args(words);
            output("ovs-vsctl", &mut vsctl)
        };
        vsctl(&["--no-wait", "init"])?;
        let masks = [
            format!("other_config:pmd-cpu-mask={:#x}", 1_u64 << setup.core),
            format!(
                "other_config:dpdk-lcore-mask={:#x}",
                1_u64 << setup.other_core
            ),
        ];
        vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            &masks[0],
            &masks[1],
            "other_config:dpdk-socket-mem=512",
            "other_config:dpdk-extra=--in-memory --no-pci --no-telemetry",
        ])?;

        let mut vswitchd = command("unshare");
        in_dir(&mut vswitchd, dir)
            .args(["--net", "--", VSWITCHD])
            .arg(format!("unix:{}", dir.join("db.sock").display()))
            .arg(unixctl(dir, "vswitchd"));
        let vswitchd = Process::start("ovs-vswitchd", vswitchd)?;
        let ovs = Self {
            vswitchd,
            _ovsdb: ovsdb,
            dir: dir.clone(),
            sockets: [dir.join("p0"), dir.join("p1")],
            other_core: setup.other_core,
        };
        let bridge = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE];
        let bridge = [&bridge[..], &["datapath_type=netdev", "fail-mode=secure"]].concat();
        vsctl(&bridge)?;
        for (port, number) in [("p0", "1"), ("p1", "2")] {
            let request = format!("ofport_request={number}");
            let add = ["add-port", BRIDGE, port, "--", "set", "Interface", port];
            vsctl(&[&add[..], &["type=dpdkvhostuser", &request]].concat())?;
        }
        match setup.ovs_forwarding {
            OvsForwarding::Flows => {
                ovs.add_flow("in_port=1,actions=output:2")?;
                ovs.add_flow("in_port=2,actions=output:1")?;
            }
            OvsForwarding::Normal => ovs.add_flow("actions=NORMAL")?,
        }
        for socket in &ovs.sockets {
            wait_for_path(socket, START)?;
        }
        Ok(ovs)
    }

    fn add_flow(&self, flow: &str) -> Result<(), Error> {
        let mut ofctl = pinned(self.other_core, "ovs-ofctl");
        in_dir(&mut ofctl, &self.dir).args(["add-flow", BRIDGE, flow]);
        output("ovs-ofctl", &mut ofctl).map(drop)
    }

    fn appctl(&self, words: &[&str]) -> Result<String, Error> {
        let mut appctl = pinned(self.other_core, "ovs-appctl");
        in_dir(&mut appctl, &self.dir)
            .arg(format!(
                "--target={}",
                self.dir.join("vswitchd.ctl").display()
            ))
            .args(words);
        output("ovs-appctl", &mut appctl)
    }
}

/// Has a program of Open vSwitch keep to `dir`.
fn in_dir<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
    command
}

fn unixctl(dir: &Path, name: &str) -> String {
    format!("--unixctl={}", dir.join(format!("{name}.ctl")).display())
}

impl Switch for Ovs {
    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    fn pid(&self) -> u32 {
        self.vswitchd.pid()
    }

    fn cycles(&mut self) -> Result<Cycles, Error> {
        let text = self.appctl(&["dpif-netdev/pmd-stats-show"])?;
        ovs_pmd_stats(&text).ok_or(Error::Unreadable {
            name: "ovs-appctl dpif-netdev/pmd-stats-show",
            text,
        })
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        // Deletes the bridge's devices; SIGTERM follows if it does not work.
        if self.appctl(&["exit", "--cleanup"]).is_ok() {
            self.vswitchd.await_end();
        }
    }
}
