//! Runs of a kind together: same case, same switch, cores equally far apart,
//! not disturbed.

use std::collections::BTreeMap;

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
}

/// All cells of one distance.
pub type Grouped = BTreeMap<Case, BTreeMap<SwitchKind, Cell>>;

/// Groups the runs made while the cores were `distance` apart.
pub fn group(results: &Results, distance: Distance) -> Grouped {
    let mut runs: BTreeMap<(Case, SwitchKind), Vec<&Run>> = BTreeMap::new();
    for run in &results.runs {
        if run.distance == distance && !run.disturbed() {
            runs.entry((run.case, run.switch)).or_default().push(run);
        }
    }
    let mut grouped = Grouped::new();
    for ((case, switch), runs) in runs {
        let all =
            |field: fn(&Run) -> Option<f64>| Summary::of(runs.iter().filter_map(|r| field(r)));
        if let Some(mpps) = all(|run| Some(run.mpps)) {
            let cell = Cell {
                mpps,
                cycles: all(|run| run.cycles_per_packet),
                generator_busy: all(|run| run.generator_busy),
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
