//! A private Open vSwitch with DPDK: own database, own directories, own
//! network namespace (for its tap devices), own sockets. The system's Open
//! vSwitch is not touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Adding, Job, OvsForwarding, Switch, SwitchSetup};
use crate::error::Error;
use crate::parse::{Cycles, Lookups, ovs_lookups, ovs_pmd_stats};
use crate::process::{Process, command, entering, output, output_within, pinned, wait_for_path};

const START: Duration = Duration::from_secs(20);
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Debian's DPDK build; `ovs-vswitchd` itself is an alternative that may
/// point to the one without.
const VSWITCHD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const BRIDGE: &str = "cmpbr0";

/// Open vSwitch's daemons, still without a bridge.
pub struct Daemons {
    // Dropped in this order: the daemon before its database.
    vswitchd: Process,
    _ovsdb: Process,
    dir: PathBuf,
    other_core: usize,
    namespace: Option<PathBuf>,
}

impl Daemons {
    /// Starts them in a network namespace (`None`: one of their own), with
    /// columns of the table Open_vSwitch set before.
    pub fn start(
        setup: &SwitchSetup,
        namespace: Option<&Path>,
        columns: &[&str],
    ) -> Result<Self, Error> {
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

        let vsctl = |words: &[&str]| vsctl(dir, setup.other_core, words);
        vsctl(&["--no-wait", "init"])?;
        let masks = [
            format!("other_config:pmd-cpu-mask={:#x}", 1_u64 << setup.core),
            format!(
                "other_config:dpdk-lcore-mask={:#x}",
                1_u64 << setup.other_core
            ),
        ];
        let dpdk = [
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            &masks[0],
            &masks[1],
            "other_config:dpdk-socket-mem=512",
            "other_config:dpdk-extra=--in-memory --no-pci --no-telemetry",
        ];
        vsctl(&[&dpdk[..], columns].concat())?;

        let namespace = namespace.map(Path::to_owned);
        Ok(Self {
            vswitchd: start_vswitchd(dir, namespace.as_deref())?,
            _ovsdb: ovsdb,
            dir: dir.clone(),
            other_core: setup.other_core,
            namespace,
        })
    }

    /// `kill -9`, and another with the same database at once.
    pub fn kill_and_start(&mut self) -> Result<(), Error> {
        self.vswitchd.kill();
        self.start_again()
    }

    /// As `systemctl restart`: told to exit, and then another.
    pub fn exit_and_start(&mut self) -> Result<(), Error> {
        self.appctl(&["exit"])?;
        self.vswitchd.await_end();
        self.start_again()
    }

    fn start_again(&mut self) -> Result<(), Error> {
        self.vswitchd = start_vswitchd(&self.dir, self.namespace.as_deref())?;
        Ok(())
    }

    /// Process of the switch.
    pub fn pid(&self) -> u32 {
        self.vswitchd.pid()
    }

    /// `ovs-vsctl …`
    pub fn vsctl(&self, words: &[&str]) -> Result<String, Error> {
        vsctl(&self.dir, self.other_core, words)
    }

    fn add_flow(&self, flow: &str) -> Result<(), Error> {
        let mut ofctl = pinned(self.other_core, "/usr/bin/ovs-ofctl");
        in_dir(&mut ofctl, &self.dir).args(["add-flow", BRIDGE, flow]);
        output("ovs-ofctl", &mut ofctl).map(drop)
    }

    fn appctl(&self, words: &[&str]) -> Result<String, Error> {
        let mut appctl = pinned(self.other_core, "/usr/bin/ovs-appctl");
        in_dir(&mut appctl, &self.dir)
            .arg(format!(
                "--target={}",
                self.dir.join("vswitchd.ctl").display()
            ))
            .arg("--timeout=20")
            .args(words);
        output("ovs-appctl", &mut appctl)
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        // Deletes the bridge's devices; SIGTERM follows if it does not work.
        if self.appctl(&["exit", "--cleanup"]).is_ok() {
            self.vswitchd.await_end();
        }
    }
}

fn start_vswitchd(dir: &Path, namespace: Option<&Path>) -> Result<Process, Error> {
    let mut vswitchd = match namespace {
        Some(namespace) => entering(namespace),
        None => {
            let mut unshare = command("unshare");
            unshare.args(["--net", "--"]);
            unshare
        }
    };
    in_dir(&mut vswitchd, dir)
        .arg(VSWITCHD)
        .arg(format!("unix:{}", dir.join("db.sock").display()))
        .arg(unixctl(dir, "vswitchd"));
    Process::start("ovs-vswitchd", vswitchd)
}

pub struct Ovs {
    daemons: Daemons,
    sockets: Vec<PathBuf>,
    revalidators_paused: bool,
}

impl Ovs {
    pub fn start(setup: &SwitchSetup) -> Result<Self, Error> {
        let tso: &[&str] = match setup.tso {
            true => &["other_config:userspace-tso-enable=true"],
            false => &[],
        };
        let daemons = Daemons::start(setup, None, tso)?;
        let (ports, sockets): (Vec<_>, Vec<_>) = setup.ports("").into_iter().unzip();
        let mut ovs = Self {
            daemons,
            sockets,
            revalidators_paused: false,
        };
        let vsctl = |words: &[&str]| ovs.daemons.vsctl(words);
        let add_flow = |flow| ovs.daemons.add_flow(flow);
        let bridge = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE];
        let bridge = [&bridge[..], &["datapath_type=netdev", "fail-mode=secure"]].concat();
        vsctl(&bridge)?;
        for (number, (port, socket)) in (1..).zip(ports.iter().zip(&ovs.sockets)) {
            let request = format!("ofport_request={number}");
            let add = ["add-port", BRIDGE, port, "--", "set", "Interface", port];
            // Only ports that connect are told that they take oversized frames
            // and get buffers for them (lib/netdev-dpdk.c).
            let path = format!("options:vhost-server-path={}", socket.display());
            let kind: &[&str] = match setup.tso {
                true => &["type=dpdkvhostuserclient", &path],
                false => &["type=dpdkvhostuser"],
            };
            vsctl(&[&add[..], kind, &[request.as_str()]].concat())?;
        }
        let mut paused = false;
        match setup.job {
            Job::Forward(OvsForwarding::Flows) => {
                add_flow("in_port=1,actions=output:2")?;
                add_flow("in_port=2,actions=output:1")?;
            }
            Job::Forward(OvsForwarding::Normal) => add_flow("actions=NORMAL")?,
            Job::Rules { flow_limit } => {
                // The limit begins at 10,000 and grows slowly; ask for all of it.
                vsctl(&[
                    "set",
                    "Open_vSwitch",
                    ".",
                    &format!("other_config:flow-limit={flow_limit}"),
                    "other_config:max-idle=3600000",
                ])?;
                ovs.daemons
                    .appctl(&["upcall/set-flow-limit", &flow_limit.to_string()])?;
                // Revalidators would run on the generator's core, and lower the
                // limit for being slow there.
                ovs.daemons.appctl(&["revalidator/pause"])?;
                paused = true;
            }
        }
        ovs.revalidators_paused = paused;
        if !setup.tso {
            for socket in &ovs.sockets {
                wait_for_path(socket, START)?;
            }
        }
        Ok(ovs)
    }
}

fn vsctl(dir: &Path, core: usize, words: &[&str]) -> Result<String, Error> {
    let mut vsctl = pinned(core, "/usr/bin/ovs-vsctl");
    in_dir(&mut vsctl, dir)
        .arg(format!("--db=unix:{}", dir.join("db.sock").display()))
        .arg("--timeout=20")
        .args(words);
    output("ovs-vsctl", &mut vsctl)
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
    fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    fn pid(&self) -> u32 {
        self.daemons.pid()
    }

    fn cycles(&mut self) -> Result<Cycles, Error> {
        let text = self.daemons.appctl(&["dpif-netdev/pmd-stats-show"])?;
        ovs_pmd_stats(&text).ok_or(Error::Unreadable {
            name: "ovs-appctl dpif-netdev/pmd-stats-show",
            text,
        })
    }

    fn add_flows(&mut self, file: &Path, adding: Adding, timeout: Duration) -> Result<(), Error> {
        let mut ofctl = pinned(self.daemons.other_core, "/usr/bin/ovs-ofctl");
        in_dir(&mut ofctl, &self.daemons.dir);
        if adding == Adding::Bundle {
            ofctl.arg("--bundle");
        }
        ofctl.args(["add-flows", BRIDGE]).arg(file);
        output_within("ovs-ofctl add-flows", ofctl, timeout).map(drop)
    }

    fn lookups(&mut self) -> Result<Lookups, Error> {
        let show = self.daemons.appctl(&["dpctl/show"])?;
        let stats = self.daemons.appctl(&["dpif-netdev/pmd-stats-show"])?;
        ovs_lookups(&show, &stats).ok_or(Error::Unreadable {
            name: "ovs-appctl dpctl/show",
            text: show,
        })
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        // The daemon's end would wait for paused revalidators; resuming ones
        // that are not paused would never return.
        if self.revalidators_paused {
            let _ = self.daemons.appctl(&["revalidator/resume"]);
        }
    }
}
