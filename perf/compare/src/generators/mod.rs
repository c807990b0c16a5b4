//! The generators: each is two guests on one pinned core.

mod pktgen;
mod testpmd;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::parse::{Cycles, Lookups};
use crate::process::{Memory, SchedWatch};
use crate::scenario::FlowTraffic;
use crate::switches::Switch;
use crate::tso::{Oversized, Tso};

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
    pub size: u32,
    /// Whether the guests offer mergeable receive buffers.
    pub mrg_rxbuf: bool,
    /// Packed rings instead of split ones.
    pub packed: bool,
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
    /// Many flows (pktgen only); `None`: one of each direction.
    pub flows: Option<FlowTraffic>,
    /// Oversized frames (pktgen only), whose guests listen.
    pub tso: Option<Tso>,
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
    /// What came of flows, if there were many.
    pub flows: Option<FlowOutcome>,
    /// What came of oversized frames.
    pub oversized: Option<Oversized>,
}

/// Megaflows from which a process' growth tells the size of one.
const ENOUGH_FLOWS: u64 = 50_000;

/// What the flow caches did while measuring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowOutcome {
    /// Counts of the time measured, and what was there at its end.
    pub lookups: Lookups,
    /// Packets that had gone through the slow path before measuring.
    pub missed_before: u64,
    /// Seconds between the two readings of the counters.
    pub seconds: f64,
    /// Seconds until every flow had been sent once, if all have.
    pub first_pass: Option<f64>,
    /// How often every flow had been sent when measuring began.
    pub passes: f64,
    /// Crafted frames per second, if there was an attacker.
    pub crafted: Option<f64>,
    /// What the switch has grown by since it had its rules.
    pub grown: Option<Memory>,
}

impl FlowOutcome {
    /// Flows per second when `flows` were sent for the first time; `None`
    /// unless each went through the slow path (or 99 %: some may be lost).
    pub fn set_up_per_second(&self, flows: u32) -> Option<f64> {
        let each = self.missed_before >= u64::from(flows / 100 * 99);
        let seconds = self.first_pass.filter(|_| each)?;
        Some(f64::from(flows) / seconds)
    }

    /// Packets per second that went through the slow path.
    pub fn missed_per_second(&self) -> f64 {
        self.lookups.missed as f64 / self.seconds
    }

    /// Bytes of a megaflow: what the switch says, or what it has grown by off
    /// hugepages (buffers and guests are there). A few flows are lost in what
    /// else it took.
    pub fn bytes_per_flow(&self) -> Option<f64> {
        let flows = self.lookups.flows;
        let said = self.lookups.flow_bytes.map(|bytes| bytes as f64);
        let grown = self.grown.filter(|_| flows >= ENOUGH_FLOWS);
        said.or(grown.map(|grown| grown.resident as f64 / flows as f64))
    }
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
    lookups: Option<(Instant, Lookups)>,
    switch: SchedWatch,
    generator: SchedWatch,
}

impl Meter {
    fn start(switch: &mut dyn Switch, generator: u32, traffic: &Traffic) -> Result<Self, Error> {
        let many = traffic.flows.is_some();
        Ok(Self {
            lookups: many.then(|| lookups(switch)).transpose()?,
            cycles: switch.cycles()?,
            switch: SchedWatch::start(switch.pid()),
            generator: SchedWatch::start(generator),
        })
    }

    fn stop(self, switch: &mut dyn Switch) -> Result<Outcome, Error> {
        let (switch_waited, generator_waited) = (self.switch.waited(), self.generator.waited());
        let cycles = switch.cycles()?.since(&self.cycles);
        let flows = match self.lookups {
            Some((start, before)) => {
                let (end, after) = lookups(switch)?;
                Some(FlowOutcome {
                    lookups: after.since(&before),
                    missed_before: before.missed,
                    seconds: end.duration_since(start).as_secs_f64(),
                    ..FlowOutcome::default()
                })
            }
            None => None,
        };
        Ok(Outcome {
            cycles,
            switch_waited,
            generator_waited,
            flows,
            ..Outcome::default()
        })
    }
}

/// The counters, and when they were asked for.
fn lookups(switch: &mut dyn Switch) -> Result<(Instant, Lookups), Error> {
    let before = Instant::now();
    let lookups = switch.lookups()?;
    Ok((before + before.elapsed() / 2, lookups))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
