//! The switches compared, each with two vhost-user ports on which it listens,
//! its poll core pinned.

mod ovs;
mod ringway;
mod testpmd;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::parse::Cycles;

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
    /// How Open vSwitch forwards.
    pub ovs_forwarding: OvsForwarding,
}

/// A running switch.
pub trait Switch {
    /// Sockets of its two ports.
    fn sockets(&self) -> [&Path; 2];
    /// Process that polls.
    fn pid(&self) -> u32;
    /// What its poll core has spent since some fixed point.
    fn cycles(&mut self) -> Result<Cycles, Error>;
}

/// Starts a switch and waits until its sockets are there.
pub fn start(kind: SwitchKind, setup: &SwitchSetup) -> Result<Box<dyn Switch>, Error> {
    Ok(match kind {
        SwitchKind::Ringway => Box::new(ringway::Ringway::start(setup)?),
        SwitchKind::Ovs => Box::new(ovs::Ovs::start(setup)?),
        SwitchKind::Testpmd => Box::new(testpmd::Testpmd::start(setup)?),
    })
}
