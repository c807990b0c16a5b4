//! Runs of a kind together: same case, same switch, cores equally far apart,
//! not disturbed.

use std::collections::BTreeMap;

use crate::generators::FlowOutcome;
use crate::pingpong::Distance;
use crate::results::{Case, Results, Run};
use crate::stats::Summary;
use crate::switches::SwitchKind;

/// Figures of one switch in one case.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Million frames per second.
    pub mpps: Summary,
    /// Busy cycles per packet.
    pub cycles: Option<Summary>,
    /// Share of the generator's time that was busy.
    pub generator_busy: Option<Summary>,
    /// New flows per second, of `compare flows`.
    pub set_up: Option<Summary>,
    /// Packets through the slow path before measuring, likewise.
    pub missed: Option<Summary>,
    /// Crafted frames per second that the switch took, likewise.
    pub crafted: Option<Summary>,
    /// Megaflows at the end, likewise.
    pub flows: Option<Summary>,
    /// Share of packets that a cache before the masks knew, likewise.
    pub cached: Option<Summary>,
    /// Masks tried per packet for which any were, likewise.
    pub probes: Option<Summary>,
    /// Bytes per megaflow, likewise.
    pub flow_bytes: Option<Summary>,
    /// Frames lost in the whole run.
    pub lost: Option<Summary>,
}

/// All cells of one distance.
pub type Grouped = BTreeMap<Case, BTreeMap<SwitchKind, Cell>>;

/// Groups the runs made while the cores were `distance` apart.
pub fn group(results: &Results, distance: Distance) -> Grouped {
    grouped(results, |run| run.distance == distance)
}

/// Groups all runs, however far the cores were apart.
pub fn group_all(results: &Results) -> Grouped {
    grouped(results, |_| true)
}

fn grouped(results: &Results, wanted: impl Fn(&Run) -> bool) -> Grouped {
    let mut runs: BTreeMap<(Case, SwitchKind), Vec<&Run>> = BTreeMap::new();
    for run in &results.runs {
        if wanted(run) && !run.disturbed() {
            runs.entry((run.case, run.switch)).or_default().push(run);
        }
    }
    let mut grouped = Grouped::new();
    for ((case, switch), runs) in runs {
        let all =
            |field: fn(&Run) -> Option<f64>| Summary::of(runs.iter().filter_map(|r| field(r)));
        let flows = |field: fn(&Run, &FlowOutcome) -> Option<f64>| {
            Summary::of(runs.iter().filter_map(|r| field(r, r.flows.as_ref()?)))
        };
        if let Some(mpps) = all(|run| Some(run.mpps)) {
            let cell = Cell {
                mpps,
                cycles: all(|run| run.cycles_per_packet),
                generator_busy: all(|run| run.generator_busy),
                set_up: flows(|run, flows| {
                    flows.set_up_per_second(run.case.scenario?.flows_in_all())
                }),
                missed: flows(|_, flows| Some(flows.missed_before as f64)),
                crafted: flows(|_, flows| flows.crafted),
                flows: flows(|_, flows| Some(flows.lookups.flows as f64)),
                cached: flows(|_, flows| flows.lookups.cached_share()),
                probes: flows(|_, flows| flows.lookups.probes_each()),
                flow_bytes: flows(|_, flows| flows.bytes_per_flow()),
                lost: all(|run| run.lost.map(|lost| lost as f64)),
            };
            grouped.entry(case).or_default().insert(switch, cell);
        }
    }
    grouped
}

/// The distance at which most usable runs were made.
pub fn usual_distance(results: &Results) -> Distance {
    let count = |distance| {
        let runs = results.runs.iter();
        runs.filter(|run| run.distance == distance && !run.disturbed())
            .count()
    };
    let candidates = [Distance::Mixed, Distance::Far, Distance::Near];
    candidates
        .into_iter()
        .max_by_key(|&distance| count(distance))
        .unwrap_or(Distance::Near)
}
