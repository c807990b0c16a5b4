//! The generators: each is two guests on one pinned core.

mod pktgen;
mod testpmd;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::parse::Cycles;
use crate::process::SchedWatch;
use crate::switches::Switch;

/// Which generator.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum GeneratorKind {
    /// Our own, see `perf/pktgen`.
    Pktgen,
    /// dpdk-testpmd with two net_virtio_user ports, io forwarding.
    Testpmd,
}

impl GeneratorKind {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pktgen => "pktgen",
            Self::Testpmd => "testpmd virtio-user",
        }
    }
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Frame size in bytes on the ring, without FCS.
    pub size: u16,
    /// Whether the guests offer mergeable receive buffers.
    pub mrg_rxbuf: bool,
    /// Descriptors per ring.
    pub ring_size: u16,
    /// Seconds of traffic before measuring.
    pub warmup: f64,
    /// Seconds to measure.
    pub seconds: f64,
    /// Core of the generator.
    pub core: usize,
    /// Directory for what it writes; removed afterwards.
    pub dir: PathBuf,
    /// Directory of `pktgen`.
    pub binaries: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Million frames per second that arrived, both directions added.
    pub mpps: f64,
    /// What the switch spent while measuring.
    pub cycles: Cycles,
    /// Share of the time that the switch's poll thread waited for its core.
    pub switch_waited: Option<f64>,
    /// Likewise the generator's thread.
    pub generator_waited: Option<f64>,
    /// Share of the generator's rounds that moved frames (pktgen only).
    pub generator_busy: Option<f64>,
    /// The generator's own cycles per frame (pktgen only).
    pub generator_cycles: Option<f64>,
    /// Frames lost in the whole run (pktgen only).
    pub lost: Option<u64>,
}

/// Drives traffic through a switch and measures.
pub fn run(
    kind: GeneratorKind,
    switch: &mut dyn Switch,
    traffic: &Traffic,
) -> Result<Outcome, Error> {
    match kind {
        GeneratorKind::Pktgen => pktgen::run(switch, traffic),
        GeneratorKind::Testpmd => testpmd::run(switch, traffic),
    }
}

/// What is read at the beginning and at the end of measuring.
struct Meter {
    cycles: Cycles,
    switch: SchedWatch,
    generator: SchedWatch,
}

impl Meter {
    fn start(switch: &mut dyn Switch, generator: u32) -> Result<Self, Error> {
        Ok(Self {
            cycles: switch.cycles()?,
            switch: SchedWatch::start(switch.pid()),
            generator: SchedWatch::start(generator),
        })
    }

    fn stop(self, switch: &mut dyn Switch) -> Result<Outcome, Error> {
        let (switch_waited, generator_waited) = (self.switch.waited(), self.generator.waited());
        Ok(Outcome {
            cycles: switch.cycles()?.since(&self.cycles),
            switch_waited,
            generator_waited,
            ..Outcome::default()
        })
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
