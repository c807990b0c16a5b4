//! `compare host`: the host's side of each switch, alternating.
//!
//! ```text
//! namespace.rs   network namespaces, removed with us
//! lab.rs         a switch between two neighbours and the host
//! switch.rs      ringway, Open vSwitch, the kernel's bridge; what they spend
//! blast.rs       frames as fast as a packet socket takes them
//! measure.rs     packets, TCP, adding and deleting ports
//! table.rs       Markdown
//! ```

mod blast;
mod lab;
mod measure;
mod namespace;
mod switch;
pub mod table;

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::results::Results;
use crate::run::{Method, directory};
use crate::switches::{Job, OvsForwarding};
use lab::Lab;

/// A switch that has a host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostSwitch {
    /// ringwayd with a bridge that learns.
    Ringway,
    /// Open vSwitch with DPDK, its datapath in user space, NORMAL.
    Ovs,
    /// The Linux kernel's bridge.
    Linux,
}

impl HostSwitch {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ringway => "ringway",
            Self::Ovs => "Open vSwitch",
            Self::Linux => "Linux bridge",
        }
    }
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// Packet rate of system and internal ports.
    Rate,
    /// TCP between the kernel's stacks.
    Tcp,
    /// Adding and deleting ports.
    Ports,
}

/// From where to where frames go. A namespace is behind a veth whose other end
/// is a system port; the host is behind the bridge's internal port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// System port to system port.
    Between,
    /// System port to internal port.
    ToHost,
    /// Internal port to system port.
    FromHost,
}

impl Way {
    /// The words for tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Between => "namespace → namespace",
            Self::ToHost => "namespace → host",
            Self::FromHost => "host → namespace",
        }
    }
}

/// A kind of ports to add and delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// A guest's, connecting to a socket that is not there yet.
    VhostUserClient,
    /// An interface of the host.
    Internal,
}

impl PortKind {
    /// The words for tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::VhostUserClient => "vhost-user client",
            Self::Internal => "internal",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "test", rename_all = "lowercase")]
pub enum HostCase {
    /// Frames one way, more than the switch takes.
    Rate {
        /// From where to where.
        way: Way,
        /// Bytes of a frame, without FCS.
        size: u16,
    },
    /// One TCP connection.
    Tcp {
        /// From where to where.
        way: Way,
    },
    /// Ports added one after the other, then deleted.
    Ports {
        /// Which.
        kind: PortKind,
        /// How many.
        count: u16,
    },
}

impl fmt::Display for HostCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate { way, size } => write!(f, "{}, {size} bytes", way.words()),
            Self::Tcp { way } => write!(f, "{}, TCP", way.words()),
            Self::Ports { kind, count } => write!(f, "{count} {} ports", kind.words()),
        }
    }
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Figures {
    /// Of frames or TCP.
    Traffic(Traffic),
    /// Of ports.
    Ports(PortTimes),
}

/// What traffic reached, and what the switch spent on it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Seconds of sending.
    pub seconds: f64,
    /// Frames that the sender's kernel took; of packet rates only.
    pub offered: Option<u64>,
    /// Frames that the receiver's interface counted; of packet rates only.
    pub frames: Option<u64>,
    /// Bytes received: of frames without FCS, of TCP what the reader read.
    pub bytes: u64,
    /// What the switch spent meanwhile.
    pub spent: Spent,
}

/// What a switch spent, in cycles of the time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Busy cycles of the poll-mode core, by the switch's own account; only of
    /// one whose poll-mode core carries kernel interfaces (not Open vSwitch).
    pub pmd_busy: Option<f64>,
    /// CPU time of all threads of the daemon, system calls included, without
    /// polls in vain. `None`: there is no daemon.
    pub daemon: Option<f64>,
    /// Busy time of the whole machine: sender, receiver, kernel, polls in vain.
    pub machine: f64,
}

/// How long commands took, in milliseconds, in the order they were given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortTimes {
    /// Each `add-port`.
    pub add: Vec<f64>,
    /// Each `del-port`, the last one added first.
    pub del: Vec<f64>,
}

/// One measurement of one switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostRun {
    /// Round, from 1.
    pub round: u32,
    /// Switch.
    pub switch: HostSwitch,
    /// What.
    pub case: HostCase,
    /// Result.
    pub figures: Figures,
}

/// A measurement that gave no figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostFailure {
    /// Round, from 1.
    pub round: u32,
    /// Switch.
    pub switch: HostSwitch,
    /// What was to be measured; `None`: the switch could not be brought up.
    pub case: Option<HostCase>,
    /// Why.
    pub error: String,
}

/// What to compare.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Switches, in the order of each alternation.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ringway,ovs,linux"
    )]
    pub switch: Vec<HostSwitch>,
    /// Parts of the suite.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "rate,tcp,ports"
    )]
    pub test: Vec<Test>,
    /// From where to where traffic goes.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "between,to-host,from-host"
    )]
    pub way: Vec<Way>,
    /// Frame sizes of packet rates in bytes, without FCS.
    #[arg(long, value_delimiter = ',', default_value = "64,1500",
          value_parser = clap::value_parser!(u16).range(60..=1514))]
    pub size: Vec<u16>,
    /// Kinds of ports to add and delete.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "vhost-user-client,internal"
    )]
    pub kind: Vec<PortKind>,
    /// Ports to add and delete.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub ports: u16,
    #[command(flatten)]
    pub method: Method,
}

impl Plan {
    /// Cases of a test. They share one start of a switch.
    fn cases(&self, test: Test, switch: HostSwitch) -> Vec<HostCase> {
        match test {
            Test::Rate => {
                let pairs = self
                    .way
                    .iter()
                    .flat_map(|&way| self.size.iter().map(move |&size| (way, size)));
                pairs
                    .map(|(way, size)| HostCase::Rate { way, size })
                    .collect()
            }
            Test::Tcp => self.way.iter().map(|&way| HostCase::Tcp { way }).collect(),
            // The kernel's bridge has neither of the kinds.
            Test::Ports if switch == HostSwitch::Linux => Vec::new(),
            Test::Ports => {
                let count = self.ports;
                let kinds = self.kind.iter();
                kinds.map(|&kind| HostCase::Ports { kind, count }).collect()
            }
        }
    }
}

/// Runs the plan and writes the file after every part; returns its path too.
pub fn run(plan: &Plan) -> Result<(Results, PathBuf), Error> {
    let (mut results, path) = plan.method.results("-host");
    for round in 1..=plan.method.rounds {
        for &test in &plan.test {
            for &switch in &plan.switch {
                part(plan, round, test, switch, &mut results)?;
                results.write(&path)?;
            }
        }
    }
    Ok((results, path))
}

/// One test of one switch, which is started for it.
fn part(
    plan: &Plan,
    round: u32,
    test: Test,
    switch: HostSwitch,
    results: &mut Results,
) -> Result<(), Error> {
    let cases = plan.cases(test, switch);
    if cases.is_empty() {
        return Ok(());
    }
    let _lock = plan.method.lock()?;
    let dir = directory()?;
    let mut fail = |case: Option<HostCase>, error: Error| {
        eprintln!("round {round} {}: {error}", switch.word());
        results.host_failures.push(HostFailure {
            round,
            switch,
            case,
            error: error.to_string(),
        });
    };
    let lab = match bring_up(plan, test, switch, dir.path()) {
        Ok(lab) => lab,
        Err(error) => {
            fail(None, error);
            return Ok(());
        }
    };
    for case in cases {
        match measure::case(&lab, case, plan.method.seconds) {
            Ok(figures) => {
                let run = HostRun {
                    round,
                    switch,
                    case,
                    figures,
                };
                eprintln!("{}", table::progress(&run));
                results.host.push(run);
            }
            Err(error) => fail(Some(case), error),
        }
    }
    Ok(())
}

fn bring_up(plan: &Plan, test: Test, switch: HostSwitch, dir: &Path) -> Result<Lab, Error> {
    let job = Job::Forward(OvsForwarding::Normal);
    let setup = plan.method.setup(dir, job, 0);
    // Only TCP is the better for it; frames of packet rates need no offloads.
    let offloads = test == Test::Tcp;
    Lab::new(switch, &setup, offloads)
}
