//! Open vSwitch as a library would be: a database and a daemon of our own in a
//! temporary folder, with dummy devices instead of DPDK or a kernel. Frames are
//! put in through the control socket and come out in capture files.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ringway_tests::process::Process;
use ringway_tests::{Error, Result, machine, pcap, wait};
use tempfile::TempDir;

use crate::rules::{Dialect, GroupText, RuleText};
use crate::unixctl::Unixctl;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const BRIDGE: &str = "br0";
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes before the first frame of a capture file.
const PCAP_HEADER: u64 = 24;

/// The bridge's own port.
pub const LOCAL: u16 = ringway_flow::key::PORT_LOCAL;

/// Frames that came out, in order, by port. Ports without frames are not in it.
pub type Outputs = BTreeMap<u16, Vec<Vec<u8>>>;

/// What Open vSwitch said to a list of texts: `None` where it accepted one.
pub type Refusals = Vec<Option<String>>;

/// A private Open vSwitch with one bridge in `fail_mode=secure`, its ports
/// being 1 to N and LOCAL. Stopped when dropped.
#[derive(Debug)]
pub struct Oracle {
    control: Unixctl,
    ports: u16,
    received: u64,
    // Dropped, and so killed, in this order.
    _vswitchd: Process,
    _database: Process,
    dir: TempDir,
}

impl Oracle {
    /// Starts it.
    pub fn start(ports: u16) -> Result<Self> {
        machine::need_tools(&["ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl"])?;
        machine::need_tools(&["ovs-ofctl", "env"])?;
        let dir = tempfile::Builder::new()
            .prefix("ringway-oracle-")
            .tempdir_in("/tmp")
            .map_err(Error::io("make a temporary folder"))?;
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        machine::sh("ovsdb-tool", &["create", &path("conf.db"), SCHEMA])?;
        let cpus = machine::cpus()?;
        // Debian's default folders stay untouched: `env` replaces itself by
        // the daemon, so that the process id is the daemon's.
        let spawn = |name: &str, args: &[String], log: &str| {
            let mut all = ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"]
                .map(|variable| format!("{variable}={}", dir.path().display()))
                .to_vec();
            all.push(machine::find_tool(name)?.to_string_lossy().into_owned());
            all.extend_from_slice(args);
            let env = machine::find_tool("env")?;
            Process::spawn(name, &env, all, &cpus, &dir.path().join(log))
        };
        let database = spawn(
            "ovsdb-server",
            &[
                format!("--remote=punix:{}", path("db.sock")),
                format!("--unixctl={}", path("db.ctl")),
                path("conf.db"),
            ],
            "ovsdb.log",
        )?;
        let db = format!("--db=unix:{}", path("db.sock"));
        let vsctl = |args: &[&str]| machine::sh("ovs-vsctl", &[&[db.as_str()], args].concat());
        wait::until("ovsdb-server to answer", LIMIT, || {
            vsctl(&["--no-wait", "init"])
        })?;
        let limit = ["set", "Open_vSwitch", ".", "other_config:vlan-limit=2"];
        vsctl(&[&["--no-wait"], &limit[..]].concat())?;
        let vswitchd = spawn(
            "ovs-vswitchd",
            &[
                "--enable-dummy=override".into(),
                "--disable-system".into(),
                format!("--unixctl={}", path("vswitchd.ctl")),
                format!("unix:{}", path("db.sock")),
            ],
            "vswitchd.log",
        )?;
        let commands = bridge_commands(dir.path(), ports);
        vsctl(&commands.iter().map(String::as_str).collect::<Vec<_>>())?;
        let control = Unixctl::connect(&dir.path().join("vswitchd.ctl"))?;
        Ok(Self {
            control,
            ports,
            received: 0,
            _vswitchd: vswitchd,
            _database: database,
            dir,
        })
    }

    /// Its port numbers, LOCAL last.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        (1..=self.ports).chain([LOCAL])
    }

    /// Forgets rules, groups, learnt addresses and cached flows.
    pub fn reset(&mut self) -> Result<()> {
        let target = self.target();
        for command in ["del-flows", "del-groups"] {
            machine::sh("ovs-ofctl", &["-O", "OpenFlow15", command, &target])?;
        }
        self.forget_learnt()?;
        self.forget_cached()
    }

    /// Gives ports columns of the Port table (`tag=5`), in place of those that
    /// they had for VLANs. Returns when the daemon works by them.
    pub fn set_vlans(&self, ports: &[(u16, Vec<String>)]) -> Result<()> {
        let mut args = vec![format!("--db=unix:{}", self.socket().display())];
        args.push("--timeout=20".into());
        for (port, columns) in ports {
            let name = device(*port);
            let clear = format!("-- clear Port {name} tag trunks cvlans vlan_mode other_config");
            args.extend(clear.split(' ').map(str::to_owned));
            if !columns.is_empty() {
                args.extend(["--", "set", "Port", &name].map(str::to_owned));
                args.extend(columns.iter().cloned());
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        machine::sh("ovs-vsctl", &args).map(drop)
    }

    /// Forgets the datapath's cached flows.
    pub fn forget_cached(&mut self) -> Result<()> {
        self.control.must("revalidator/purge", &[]).map(drop)
    }

    /// Forgets learnt addresses.
    pub fn forget_learnt(&mut self) -> Result<()> {
        self.control.must("fdb/flush", &[BRIDGE]).map(drop)
    }

    /// Adds groups, one at a time.
    pub fn add_groups(&mut self, groups: &[GroupText]) -> Result<Refusals> {
        let add = |group: &GroupText| self.ofctl(&["-O", "OpenFlow15", "add-group"], group.text());
        groups.iter().map(add).collect()
    }

    /// Adds rules, those of each dialect in their order, and tells which were
    /// refused.
    pub fn add_flows(&mut self, rules: &[RuleText]) -> Result<Refusals> {
        let mut refusals = vec![None; rules.len()];
        for dialect in Dialect::ALL {
            let mine = || (0..rules.len()).filter(|i| rules[*i].dialect == dialect);
            let lines: Vec<&str> = mine().map(|i| rules[i].text.as_str()).collect();
            if lines.is_empty() {
                continue;
            }
            let protocol = ["-O", dialect.version()];
            let file = self.dir.path().join("flows.txt");
            fs::write(&file, lines.join("\n")).map_err(Error::io("write a file of flows"))?;
            let all = self.ofctl(
                &[&protocol[..], &["add-flows"]].concat(),
                &file.to_string_lossy(),
            )?;
            if all.is_none() {
                continue;
            }
            // One of them is bad; adding a rule twice does no harm.
            for i in mine() {
                let command = [&protocol[..], &["add-flow"]].concat();
                refusals[i] = self.ofctl(&command, &rules[i].text)?;
            }
        }
        Ok(refusals)
    }

    /// The rules as `ovs-ofctl dump-flows` prints them over a version of
    /// OpenFlow (`OpenFlow10`), one a line.
    pub fn dump_flows(&self, version: &str) -> Result<Vec<String>> {
        let target = self.target();
        let printed = machine::sh("ovs-ofctl", &["-O", version, "dump-flows", &target])?;
        let rules = printed.lines().filter(|line| line.contains("actions="));
        Ok(rules.map(|line| line.trim().to_owned()).collect())
    }

    /// Puts a frame into a port and gives what came out.
    pub fn send(&mut self, port: u16, frame: &[u8]) -> Result<Outputs> {
        let name = device(port);
        let receive = ["netdev-dummy/receive", &name, &hex(frame)];
        self.control.must(receive[0], &receive[1..])?;
        self.received += 1;
        // The same thread polls the devices and answers us: when the device
        // says that it handed the frame over, the frame has been done with.
        let begin = Instant::now();
        while self.frames_received()? < self.received {
            if begin.elapsed() > LIMIT {
                return Err(Error::Unexpected(format!("{name} never took the frame")));
            }
        }
        let mut outputs = Outputs::new();
        for port in self.ports() {
            let frames = self.take_captured(port)?;
            if !frames.is_empty() {
                outputs.insert(port, frames);
            }
        }
        Ok(outputs)
    }

    /// `ofproto/trace` of a frame that comes in at a port.
    pub fn trace(&mut self, port: u16, frame: &[u8]) -> Result<String> {
        let flow = format!("in_port={port}");
        self.control
            .must("ofproto/trace", &[BRIDGE, &flow, &hex(frame)])
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("db.sock")
    }

    fn target(&self) -> String {
        format!("unix:{}", self.dir.path().join("br0.mgmt").display())
    }

    /// Runs ovs-ofctl with an argument; gives what it said if it failed.
    fn ofctl(&self, command: &[&str], argument: &str) -> Result<Option<String>> {
        let output = Command::new(machine::find_tool("ovs-ofctl")?)
            .args(command)
            .args([&self.target(), argument])
            .output()
            .map_err(Error::io("run ovs-ofctl"))?;
        if output.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok(Some(said))
    }

    fn frames_received(&mut self) -> Result<u64> {
        let shown = self.control.must("dpctl/show", &["-s"])?;
        let counts = shown.split("RX packets:").skip(1);
        let number = |text: &str| text.split(' ').next()?.parse::<u64>().ok();
        Ok(counts.filter_map(number).sum())
    }

    /// What a port sent since last asked. Open vSwitch appends, so the file
    /// may be cut behind its back.
    fn take_captured(&self, port: u16) -> Result<Vec<Vec<u8>>> {
        let path = capture(self.dir.path(), port);
        let what = || format!("read {}", path.display());
        if fs::metadata(&path).map_err(Error::io(what()))?.len() <= PCAP_HEADER {
            return Ok(Vec::new());
        }
        let frames = pcap::read(&path)?;
        let file = OpenOptions::new().write(true).open(&path);
        (file.and_then(|file| file.set_len(PCAP_HEADER))).map_err(Error::io(what()))?;
        Ok(frames)
    }
}

fn device(port: u16) -> String {
    match port {
        LOCAL => BRIDGE.into(),
        _ => format!("p{port}"),
    }
}

fn capture(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!("{}.pcap", device(port)))
}

/// What ovs-vsctl is told to make.
fn bridge_commands(dir: &Path, ports: u16) -> Vec<String> {
    let mut commands = String::from(
        "--timeout=20 add-br br0 -- set bridge br0 datapath_type=dummy fail-mode=secure",
    );
    for port in 1..=ports {
        commands += &format!(
            " -- add-port br0 p{port} -- set Interface p{port} type=dummy ofport_request={port}"
        );
    }
    for port in (1..=ports).chain([LOCAL]) {
        let file = capture(dir, port);
        commands += &format!(
            " -- set Interface {} options:tx_pcap={}",
            device(port),
            file.display()
        );
    }
    commands.split(' ').map(str::to_owned).collect()
}

/// As control sockets and people take frames.
pub fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}
