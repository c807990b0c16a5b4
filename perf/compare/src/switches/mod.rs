//! The switches compared, each with vhost-user ports on which it listens, its
//! poll core pinned. Ports have the numbers 1, 2, …

pub mod ovs;
pub mod ringway;
mod testpmd;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::parse::{Cycles, Lookups};

/// Which switch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum SwitchKind {
    /// ringwayd with a learning bridge.
    Ringway,
    /// Open vSwitch with DPDK.
    Ovs,
    /// dpdk-testpmd forwarding between net_vhost ports: no switching at all.
    Testpmd,
}

impl SwitchKind {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ringway => "ringway",
            Self::Ovs => "Open vSwitch",
            Self::Testpmd => "testpmd io",
        }
    }
}

/// How Open vSwitch forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OvsForwarding {
    /// Two port-to-port flows.
    Flows,
    /// The learning switch.
    Normal,
}

/// What a switch is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Forwarding between two ports as it does best; ringway learns.
    Forward(OvsForwarding),
    /// Only what rules say, which come later.
    Rules {
        /// Room for this many megaflows.
        flow_limit: u32,
    },
}

/// How a file of rules is given to a switch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Adding {
    /// All or nothing: `ovs-ofctl --bundle add-flows`, `ringway add-flows`.
    Bundle,
    /// One after the other: `ovs-ofctl add-flows`; ringway has no such way.
    Single,
}

impl Adding {
    /// The words for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bundle => "as a bundle",
            Self::Single => "one by one",
        }
    }
}

/// What a switch is started with.
#[derive(Clone, Debug)]
pub struct SwitchSetup {
    /// Directory for everything it writes; removed afterwards.
    pub dir: PathBuf,
    /// Core that polls.
    pub core: usize,
    /// Core for everything else.
    pub other_core: usize,
    /// Directory of `ringwayd` and `ringway`.
    pub binaries: PathBuf,
    /// What for.
    pub job: Job,
    /// Ports.
    pub ports: usize,
    /// Oversized frames: Open vSwitch gets userspace TSO, which it has for
    /// ports that connect; so the guests listen, of every switch.
    pub tso: bool,
}

impl SwitchSetup {
    /// Name and socket of each port.
    fn ports(&self, suffix: &str) -> Vec<(String, PathBuf)> {
        let names = (0..self.ports).map(|port| format!("p{port}"));
        names
            .map(|name| {
                let socket = self.dir.join(format!("{name}{suffix}"));
                (name, socket)
            })
            .collect()
    }
}

/// A running switch.
pub trait Switch {
    /// Sockets of its ports.
    fn sockets(&self) -> &[PathBuf];
    /// Process that polls.
    fn pid(&self) -> u32;
    /// What its poll core has spent since some fixed point.
    fn cycles(&mut self) -> Result<Cycles, Error>;
    /// Gives it a file of rules and waits until it has them, `timeout` at most.
    fn add_flows(&mut self, file: &Path, adding: Adding, timeout: Duration) -> Result<(), Error>;
    /// What its flow caches did since some fixed point, and hold.
    fn lookups(&mut self) -> Result<Lookups, Error>;
}

/// Starts a switch and waits until its sockets are there.
pub fn start(kind: SwitchKind, setup: &SwitchSetup) -> Result<Box<dyn Switch>, Error> {
    Ok(match kind {
        SwitchKind::Ringway => Box::new(ringway::Ringway::start(setup)?),
        SwitchKind::Ovs => Box::new(ovs::Ovs::start(setup)?),
        SwitchKind::Testpmd => Box::new(testpmd::Testpmd::start(setup)?),
    })
}
