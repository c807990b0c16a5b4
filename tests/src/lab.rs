//! A switch between scripted guests, for tests of flows: rules in, one frame
//! in, and exactly what came out, of every port.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ringway_frontend::net::{HEADER_LEN, Received};
use ringway_frontend::{NetDriver, SessionConfig, features};
use serde_json::Value;

use crate::counters;
use crate::daemon::{Daemon, DaemonOptions};
use crate::error::{Error, Result};
use crate::frames::{Frame, completed, hex};
use crate::machine::{self, Exclusive};
use crate::scripted::{self, LIMIT};
use crate::wait;

/// The bridge of a lab.
pub const BRIDGE: &str = "br0";

/// What a guest hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// `virtio_net_hdr`
    pub header: [u8; HEADER_LEN],
    /// The frame.
    pub frame: Vec<u8>,
}

impl Sent {
    /// A frame whose checksum is left partial.
    pub fn partial(frame: &Frame) -> Self {
        let (header, frame) = frame.partial();
        Self { header, frame }
    }
}

impl From<Vec<u8>> for Sent {
    fn from(frame: Vec<u8>) -> Self {
        let header = [0; HEADER_LEN];
        Self { header, frame }
    }
}

impl From<&Frame> for Sent {
    fn from(frame: &Frame) -> Self {
        frame.bytes().into()
    }
}

/// What came out, by port. Ports without frames are not in it.
pub type Outputs = BTreeMap<String, Vec<Received>>;

/// A running `ringwayd` with one bridge, and a scripted guest on each port.
pub struct Lab {
    /// The guests by port. Dropped before the daemon.
    pub guests: BTreeMap<String, NetDriver>,
    /// The switch.
    pub daemon: Daemon,
    _alone: Exclusive,
}

impl Lab {
    /// Starts it with these ports; port `n` (from 1) is the `n`th. The virtio
    /// features are added to those that every guest wants.
    pub fn start(ports: &[(&str, u64)]) -> Result<Self> {
        Self::start_with(DaemonOptions::default(), ports)
    }

    /// The same with options for the daemon.
    pub fn start_with(options: DaemonOptions, ports: &[(&str, u64)]) -> Result<Self> {
        let alone = machine::exclusive()?;
        let daemon = Daemon::start_with(options)?;
        // Without an interface of its own: what comes out is what guests get.
        daemon.ok(&["add-br", BRIDGE, "--fail-mode", "secure", "--no-internal"])?;
        let mut lab = Self {
            guests: BTreeMap::new(),
            daemon,
            _alone: alone,
        };
        for (port, features) in ports {
            lab.daemon.add_vhost_port(BRIDGE, port, &["mode=server"])?;
            lab.plug_in(port, *features)?;
        }
        Ok(lab)
    }

    /// Brings up a guest on a port that is there.
    pub fn plug_in(&mut self, port: &str, wanted: u64) -> Result<()> {
        let config = SessionConfig {
            memory_size: 4 << 20,
            ..SessionConfig::default()
        };
        self.plug_in_with(port, wanted, config)
    }

    /// The same with another ring or memory.
    pub fn plug_in_with(
        &mut self,
        port: &str,
        wanted: u64,
        mut config: SessionConfig,
    ) -> Result<()> {
        config.features |= wanted | features::CSUM;
        config.required |= wanted;
        let driver = scripted::driver(&self.daemon, port, &config)?;
        self.guests.insert(port.to_owned(), driver);
        Ok(())
    }

    /// Ends the guest on a port.
    pub fn unplug(&mut self, port: &str) -> Result<()> {
        drop(self.guests.remove(port));
        self.daemon.wait_state(port, "waiting-for-socket")
    }

    /// The guest on a port.
    pub fn guest(&mut self, port: &str) -> &mut NetDriver {
        (self.guests.get_mut(port)).unwrap_or_else(|| panic!("no guest on {port}"))
    }

    /// A port's number.
    pub fn number(&self, port: &str) -> u64 {
        let shown = self.daemon.json(&["dump-ports"]);
        let shown = shown.unwrap_or_else(|error| panic!("{error}"));
        let ports = shown["ports"].as_array().into_iter().flatten();
        let mut found = ports.filter(|entry| entry["name"] == port);
        found
            .next()
            .and_then(|entry| entry["number"].as_u64())
            .unwrap_or_else(|| panic!("dump-ports has no number of {port}: {shown}"))
    }

    /// Rules as `dump-flows` counts them.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        let shown = self.daemon.json(&["dump-flows", BRIDGE])?;
        counters::list(&shown, "flows")?
            .iter()
            .map(Rule::of)
            .collect()
    }

    /// Megaflows as `dpctl dump-flows` counts them.
    pub fn megaflows(&self) -> Result<Vec<Megaflow>> {
        let shown = self.daemon.json(&["dpctl", "dump-flows"])?;
        let megaflows = counters::list(&shown, "megaflows")?.iter();
        megaflows.map(Megaflow::of).collect()
    }

    /// Lookups, megaflows and masks as `dpctl show` has them.
    pub fn cache(&self) -> Result<Cache> {
        let shown = self.daemon.json(&["dpctl", "show"])?;
        Cache::of(&shown["cache"])
    }

    /// Replaces everything by the lines of a bundle; a line without a command
    /// is a flow to add.
    pub fn load(&self, lines: &str) -> Result<()> {
        let mut text = String::from("group delete\nmeter delete meter=all\nflow delete\n");
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let command = ["flow ", "group ", "meter "];
            let add = match command.iter().any(|command| line.starts_with(command)) {
                true => "",
                false => "flow add ",
            };
            let _ = writeln!(text, "{add}{line}");
        }
        let file = self.write("bundle.txt", &text)?;
        self.daemon.ok(&["bundle", BRIDGE, &file]).map(drop)
    }

    /// Writes a file in the daemon's folder; its path.
    pub fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.daemon.path(name);
        fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Sends one frame and collects what comes out of all ports. The switch
    /// gives a guest's buffers back when it has delivered what was in them, so
    /// nothing has to be waited for.
    pub fn send(&mut self, port: &str, sent: &Sent) -> Result<Outputs> {
        self.send_all(port, std::slice::from_ref(sent))
    }

    /// The same with several frames at once.
    pub fn send_all(&mut self, port: &str, all: &[Sent]) -> Result<Outputs> {
        let guest = self.guest(port);
        for sent in all {
            if !guest.send_with_header(0, &sent.header, &sent.frame) {
                return Err(Error::Unexpected(format!("{port}'s ring is full")));
            }
        }
        if !guest.flush(0, LIMIT) {
            let why = format!("the switch did not take {port}'s frames");
            return Err(Error::Unexpected(why));
        }
        Ok(self.collect())
    }

    /// What has come out of all ports.
    pub fn collect(&mut self) -> Outputs {
        let mut outputs = Outputs::new();
        for (port, guest) in &mut self.guests {
            let frames: Vec<Received> = std::iter::from_fn(|| guest.recv_with_header(0)).collect();
            if !frames.is_empty() {
                outputs.insert(port.clone(), frames);
            }
        }
        outputs
    }

    /// Sends one frame; the error tells what came out if that is not exactly
    /// `expected`: whole frames, in order, by port.
    pub fn expect(
        &mut self,
        port: &str,
        sent: &Sent,
        expected: &[(&str, Vec<u8>)],
    ) -> std::result::Result<(), String> {
        let outputs = self.send(port, sent).map_err(|error| error.to_string())?;
        let what = format!("in at {port}: {}", hex(&sent.frame));
        compare(&what, &outputs, expected)
    }

    /// The same of a frame that was sent by other means.
    pub fn came_out(
        &mut self,
        what: &str,
        expected: &[(&str, Vec<u8>)],
    ) -> std::result::Result<(), String> {
        compare(what, &self.collect(), expected)
    }
}

fn compare(
    what: &str,
    outputs: &Outputs,
    expected: &[(&str, Vec<u8>)],
) -> std::result::Result<(), String> {
    let mut wanted = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for (port, frame) in expected {
        (wanted.entry((*port).to_owned()).or_default()).push(frame.clone());
    }
    let got = whole(outputs);
    if got == wanted {
        return Ok(());
    }
    Err(format!(
        "{what}\nexpected:{}\ncame out:{}",
        listed(&wanted),
        listed(&got)
    ))
}

/// The frames as a driver sees them: with whole checksums.
pub fn whole(outputs: &Outputs) -> BTreeMap<String, Vec<Vec<u8>>> {
    let frames = |(port, received): (&String, &Vec<Received>)| {
        let frames = received
            .iter()
            .map(|received| completed(&received.header, &received.frame));
        (port.clone(), frames.collect())
    };
    outputs.iter().map(frames).collect()
}

/// A rule and its counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its table.
    pub table: u64,
    /// Its priority.
    pub priority: u64,
    /// Its match.
    pub matching: String,
    /// Its actions.
    pub actions: String,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Rule {
    fn of(json: &Value) -> Result<Self> {
        Ok(Self {
            table: counters::number(json, "table")?,
            priority: counters::number(json, "priority")?,
            matching: counters::text(json, "match")?,
            actions: counters::text(json, "actions")?,
            packets: counters::number(json, "packets")?,
            bytes: counters::number(json, "bytes")?,
        })
    }
}

/// A megaflow and its counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Megaflow {
    /// Key and mask.
    pub flow: String,
    /// What is done.
    pub actions: String,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Megaflow {
    fn of(json: &Value) -> Result<Self> {
        Ok(Self {
            flow: counters::text(json, "flow")?,
            actions: counters::text(json, "actions")?,
            packets: counters::number(json, "packets")?,
            bytes: counters::number(json, "bytes")?,
        })
    }
}

/// The flow cache's counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Packets whose megaflow was known.
    pub hits: u64,
    /// Packets that were translated.
    pub missed: u64,
    /// Packets that were not, for want of time.
    pub lost: u64,
    /// Translations whose megaflow found no room.
    pub not_installed: u64,
    /// Megaflows now.
    pub flows: u64,
    /// Most megaflows.
    pub flow_limit: u64,
    /// Masks now.
    pub masks: u64,
    /// Most masks of one bridge.
    pub mask_limit: u64,
}

impl Cache {
    fn of(json: &Value) -> Result<Self> {
        let number = |field: &str| counters::number(json, field);
        Ok(Self {
            hits: number("emc_hits")? + number("megaflow_hits")?,
            missed: number("missed")?,
            lost: number("lost")?,
            not_installed: number("not_installed")?,
            flows: number("flows")?,
            flow_limit: number("flow_limit")?,
            masks: number("masks")?,
            mask_limit: number("mask_limit")?,
        })
    }
}

fn listed(outputs: &BTreeMap<String, Vec<Vec<u8>>>) -> String {
    if outputs.is_empty() {
        return " nothing".into();
    }
    let mut text = String::new();
    for (port, frames) in outputs {
        for frame in frames {
            let _ = write!(text, "\n  {port} {}", hex(frame));
        }
    }
    text
}

/// The cases of a table that did not come out as they should.
#[derive(Debug, Default)]
pub struct Failures(Vec<String>);

impl Failures {
    /// Notes how a case ended.
    pub fn note(&mut self, case: &str, outcome: std::result::Result<(), String>) {
        if let Err(why) = outcome {
            self.0.push(format!("--- {case}\n{why}"));
        }
    }

    /// Fails the test if there are any.
    ///
    /// # Panics
    /// Then.
    pub fn none(self) {
        let count = self.0.len();
        assert!(count == 0, "{count} cases failed\n{}", self.0.join("\n"));
    }
}

/// `ringway monitor`, whose lines are read as they come.
pub struct Monitor {
    child: Child,
    lines: Receiver<String>,
}

impl Monitor {
    /// Starts it, and waits until it is told of packets.
    pub fn start(lab: &mut Lab) -> Result<Self> {
        let mut child = Command::new(machine::bin_dir()?.join("ringway"))
            .arg("--socket")
            .arg(lab.daemon.socket())
            .args(["--json", "monitor", BRIDGE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io("start ringway monitor"))?;
        let stdout = child.stdout.take();
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let lines = stdout
                .into_iter()
                .flat_map(|out| BufReader::new(out).lines());
            // Ends when the monitor, or who waits for its lines, is gone.
            for line in lines.map_while(std::io::Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let monitor = Self { child, lines };
        let hello = format!("packet={},actions=controller", hex(&[0; 60]));
        wait::until("ringway monitor to be told", LIMIT, || {
            (lab.daemon.ok(&["packet-out", BRIDGE, &hello])).map_err(|error| error.to_string())?;
            let told = monitor.lines.recv_timeout(Duration::from_millis(200));
            told.map_err(|error| error.to_string())
        })?;
        // Some of the greetings may come late.
        while monitor
            .lines
            .recv_timeout(Duration::from_millis(100))
            .is_ok()
        {}
        Ok(monitor)
    }

    /// The next packet that it is told of.
    pub fn next_event(&mut self) -> Result<Value> {
        let line = self.lines.recv_timeout(LIMIT);
        let line = line.map_err(|error| Error::Unexpected(format!("monitor: {error}")))?;
        serde_json::from_str(&line)
            .map_err(|error| Error::Unexpected(format!("monitor printed {line:?}: {error}")))
    }

    /// Whether it has nothing more to tell.
    pub fn silent(&self) -> std::result::Result<(), String> {
        match self.lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => Err(format!("monitor printed more: {line}")),
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
