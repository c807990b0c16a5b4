//! The file of results.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::generators::{FlowOutcome, GeneratorKind};
use crate::host::{HostFailure, HostRun};
use crate::machine::Machine;
use crate::pingpong::Distance;
use crate::process::Memory;
use crate::restart::RestartRun;
use crate::scenario::Scenario;
use crate::switches::{Adding, OvsForwarding, SwitchKind};
use crate::tso::{Oversized, Tso};

/// Above this share of the time that a poll thread waited for its core, a run
/// was disturbed by other programs and is left out of tables.
pub const DISTURBED: f64 = 0.05;

/// Everything that one `compare run` measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// When it began, UTC.
    pub date: String,
    /// Git revision of the working tree.
    pub revision: String,
    /// Whether the tree had changes beyond it.
    pub dirty: bool,
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// Each run.
    pub runs: Vec<Run>,
    /// Runs without figures.
    pub failures: Vec<Failure>,
    /// Each file of rules that was added, of `compare flows`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additions: Vec<Addition>,
    /// Each measurement of `compare host`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<HostRun>,
    /// What `compare host` could not measure, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_failures: Vec<HostFailure>,
    /// Each measurement of `compare restart`, and why there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<RestartRun>,
}

/// What all runs have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds over all switches and cases.
    pub rounds: u32,
    /// Seconds measured per run.
    pub seconds: f64,
    /// Seconds of traffic before.
    pub warmup: f64,
    /// Descriptors per ring.
    pub ring_size: u16,
    /// Core of the switch.
    pub switch_core: usize,
    /// Core of the generator.
    pub generator_core: usize,
    /// How Open vSwitch forwards.
    pub ovs_forwarding: OvsForwarding,
    /// Room for megaflows, of `compare flows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_limit: Option<u32>,
}

/// What is measured: two runs of the same case are comparable, if the cores
/// were equally far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Case {
    /// Generator.
    pub generator: GeneratorKind,
    /// Frame size in bytes on the ring, without FCS.
    pub size: u32,
    /// Mergeable receive buffers.
    pub mrg_rxbuf: bool,
    /// Packed rings.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub packed: bool,
    /// Rules and flows, of `compare flows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<Scenario>,
    /// Oversized frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tso: Option<Tso>,
}

/// One run of one switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Round, from 1.
    pub round: u32,
    /// Switch.
    pub switch: SwitchKind,
    /// Case.
    #[serde(flatten)]
    pub case: Case,
    /// Million frames per second that arrived, both directions added.
    pub mpps: f64,
    /// Busy cycles of the switch per packet.
    pub cycles_per_packet: Option<f64>,
    /// Share of the switch's cycles that were busy, where it tells.
    pub switch_busy: Option<f64>,
    /// Share of the generator's time that was busy, where it tells.
    pub generator_busy: Option<f64>,
    /// The generator's own cycles per frame, where it tells.
    pub generator_cycles: Option<f64>,
    /// Frames lost, where the generator tells.
    pub lost: Option<u64>,
    /// Cache-line ping-pong between the two cores before, ns there and back.
    pub pingpong_before: f64,
    /// The same afterwards.
    pub pingpong_after: f64,
    /// Class of the two.
    pub distance: Distance,
    /// Share of the time that the switch's poll thread waited for its core.
    pub switch_waited: Option<f64>,
    /// Likewise the generator's thread.
    pub generator_waited: Option<f64>,
    /// What came of flows, of `compare flows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<FlowOutcome>,
    /// What came of oversized frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oversized: Option<Oversized>,
}

/// A file of rules given to a switch that had none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Addition {
    /// Round, from 1.
    pub round: u32,
    /// Switch.
    pub switch: SwitchKind,
    /// How.
    pub adding: Adding,
    /// Rules.
    pub rules: u32,
    /// Seconds that the command took.
    pub seconds: f64,
    /// What the switch has grown by for them.
    pub grown: Option<Memory>,
}

impl Run {
    /// Whether other programs took too much of a core.
    pub fn disturbed(&self) -> bool {
        let waited = [self.switch_waited, self.generator_waited];
        waited.into_iter().flatten().any(|share| share > DISTURBED)
    }
}

/// A run that gave no figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Round, from 1.
    pub round: u32,
    /// Switch.
    pub switch: SwitchKind,
    /// Case.
    #[serde(flatten)]
    pub case: Case,
    /// Why.
    pub error: String,
}

impl Results {
    /// Reads a file of results.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|error| Error::NotResults {
            path: path.to_owned(),
            why: error.to_string(),
        })
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let fail = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_string_pretty(self).map_err(|e| fail(e.into()))?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(fail)?;
        }
        let partial = path.with_extension("part");
        fs::write(&partial, text + "\n").map_err(fail)?;
        fs::rename(&partial, path).map_err(fail)
    }
}

#[cfg(test)]
pub mod sample {
    //! Made-up results for tests.

    use super::*;

    /// Results without runs.
    pub fn results() -> Results {
        Results {
            date: "2026-01-02T03:04:05Z".into(),
            revision: "0123456789abcdef".into(),
            dirty: false,
            machine: Machine {
                cpu: "A".into(),
                cores: 2,
                virtualised: true,
                kernel: "6".into(),
                hugepages: (1024, 2048),
                open_vswitch: "ovs".into(),
                dpdk: "22".into(),
                rust: "1".into(),
            },
            settings: Settings {
                rounds: 3,
                seconds: 2.0,
                warmup: 0.5,
                ring_size: 1024,
                switch_core: 1,
                generator_core: 0,
                ovs_forwarding: OvsForwarding::Flows,
                flow_limit: None,
            },
            runs: Vec::new(),
            failures: Vec::new(),
            additions: Vec::new(),
            host: Vec::new(),
            host_failures: Vec::new(),
            restart: Vec::new(),
        }
    }

    /// A run of pktgen with 64 bytes, near and undisturbed.
    pub fn run(round: u32, switch: SwitchKind, mpps: f64, cycles: f64) -> Run {
        Run {
            round,
            switch,
            case: Case {
                generator: GeneratorKind::Pktgen,
                size: 64,
                mrg_rxbuf: true,
                packed: false,
                scenario: None,
                tso: None,
            },
            mpps,
            cycles_per_packet: Some(cycles),
            switch_busy: Some(0.9),
            generator_busy: Some(0.3),
            generator_cycles: Some(15.0),
            lost: Some(0),
            pingpong_before: 55.0,
            pingpong_after: 56.0,
            distance: Distance::Near,
            switch_waited: Some(0.001),
            generator_waited: Some(0.002),
            flows: None,
            oversized: None,
        }
    }

    /// The same with a scenario, counted for two seconds.
    pub fn flow_run(round: u32, switch: SwitchKind, scenario: Scenario, mpps: f64) -> Run {
        let mut run = run(round, switch, mpps, 100.0);
        run.case.scenario = Some(scenario);
        run.flows = Some(FlowOutcome {
            seconds: 2.0,
            ..FlowOutcome::default()
        });
        run
    }

    #[test]
    fn results_survive_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/results.json");
        let mut written = results();
        written.runs.push(run(1, SwitchKind::Ovs, 10.0, 200.0));
        let masks = Scenario::Masks { masks: 10 };
        written.runs.push(flow_run(1, SwitchKind::Ovs, masks, 9.0));
        written.write(&path).unwrap();
        let read = Results::read(&path).unwrap();
        assert_eq!(read.runs[0].mpps, 10.0);
        assert_eq!(read.runs[0].case, written.runs[0].case);
        assert_eq!(read.runs[1].case.scenario, Some(masks));
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn results_from_before_flows_are_still_read() {
        let path = "fixtures/results-before-flows.json";
        let read = Results::read(Path::new(path)).unwrap();
        assert!(read.runs.iter().all(|run| run.case.scenario.is_none()));
        assert_eq!(read.settings.flow_limit, None);
    }
}
