//! Open vSwitch with DPDK in a folder of its own: the stand-in that shows
//! whether the harness is right when ringway is in doubt.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::process::Process;
use crate::{machine, wait};

/// Where Debian puts the variant that is built with DPDK.
const VSWITCHD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// Where its database's shape is described.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Hugepages that it takes.
const MEMORY_MIB: u64 = 512;
const LIMIT: Duration = Duration::from_secs(30);

/// A private Open vSwitch with one bridge, `br0`. Stopped when dropped.
#[derive(Debug)]
pub struct OpenVswitch {
    // Dropped, and so killed, in this order.
    _vswitchd: Process,
    _database: Process,
    dir: TempDir,
}

impl OpenVswitch {
    /// Starts it with one poll-mode core.
    pub fn start() -> Result<Self> {
        machine::need_root()?;
        machine::need_hugepages(MEMORY_MIB)?;
        machine::need_tools(&["ovsdb-tool", "ovsdb-server", "ovs-vsctl"])?;
        if !Path::new(VSWITCHD).exists() {
            return Err(Error::Missing {
                what: format!("Open vSwitch with DPDK ({VSWITCHD})"),
                remedy: machine::SETUP.into(),
            });
        }
        let dir = tempfile::Builder::new()
            .prefix("ringway-ovs-")
            .tempdir_in("/tmp")
            .map_err(Error::io("make a temporary folder"))?;
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        machine::sh("ovsdb-tool", &["create", &path("conf.db"), SCHEMA])?;
        let cpus = machine::cpus()?;
        // `env` replaces itself by the daemon. Debian's folders stay untouched.
        let env = machine::find_tool("env")?;
        let folder = format!("OVS_RUNDIR={}", dir.path().display());
        let ovsdb = machine::find_tool("ovsdb-server")?;
        let database = Process::spawn(
            "ovsdb-server",
            &env,
            [
                folder.clone(),
                ovsdb.to_string_lossy().into_owned(),
                format!("--remote=punix:{}", path("db.sock")),
                format!("--unixctl={}", path("db.ctl")),
                path("conf.db"),
            ],
            &cpus,
            &dir.path().join("ovsdb.log"),
        )?;
        let db = format!("unix:{}", path("db.sock"));
        let mask = machine::cores(1)?
            .pmd
            .iter()
            .fold(0u64, |mask, cpu| mask | 1 << cpu);
        wait::until("ovsdb-server to answer", LIMIT, || {
            let db = format!("--db={db}");
            machine::sh("ovs-vsctl", &[&db, "--no-wait", "init"])
        })?;
        let vsctl = |args: &[&str]| {
            let db = format!("--db={db}");
            machine::sh("ovs-vsctl", &[&[db.as_str()], args].concat())
        };
        vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            "other_config:dpdk-extra=--in-memory --no-pci --no-telemetry",
            &format!("other_config:dpdk-socket-mem={MEMORY_MIB}"),
            &format!("other_config:pmd-cpu-mask={mask:#x}"),
            "other_config:vlan-limit=2",
        ])?;
        let vswitchd = Process::spawn(
            "ovs-vswitchd",
            &env,
            [
                folder,
                VSWITCHD.to_owned(),
                format!("--unixctl={}", path("vswitchd.ctl")),
                db.clone(),
            ],
            &cpus,
            &dir.path().join("vswitchd.log"),
        )?;
        vsctl(&[
            "--timeout=30",
            "add-br",
            "br0",
            "--",
            "set",
            "bridge",
            "br0",
            "datapath_type=netdev",
        ])?;
        Ok(Self {
            _vswitchd: vswitchd,
            _database: database,
            dir,
        })
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The socket for `ovs-ofctl`.
    pub fn management(&self) -> PathBuf {
        self.dir.path().join("br0.mgmt")
    }

    /// The socket for `ovs-appctl`.
    pub fn control(&self) -> PathBuf {
        self.dir.path().join("vswitchd.ctl")
    }

    /// Runs `ovs-vsctl`.
    pub fn vsctl(&self, args: &[&str]) -> Result<String> {
        let db = format!("--db=unix:{}", self.dir.path().join("db.sock").display());
        machine::sh("ovs-vsctl", &[&[&db, "--timeout=30"], args].concat())
    }

    /// Where QEMU listens for a port.
    pub fn client_socket(&self, port: &str) -> PathBuf {
        self.dir.path().join(format!("{port}.sock"))
    }

    /// Adds a vhost-user port whose socket QEMU listens on.
    pub fn add_client_port(&self, port: &str) -> Result<PathBuf> {
        let socket = self.client_socket(port);
        let path = format!("options:vhost-server-path={}", socket.display());
        let kind = "type=dpdkvhostuserclient";
        let add = [
            "add-port",
            "br0",
            port,
            "--",
            "set",
            "Interface",
            port,
            kind,
        ];
        self.vsctl(&[&add[..], &[&path]].concat())?;
        Ok(socket)
    }
}
