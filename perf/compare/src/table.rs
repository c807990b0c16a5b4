//! Results as Markdown.

use std::fmt::Write;

use crate::flow_table;
use crate::generators::GeneratorKind;
use crate::group::{Cell, Grouped, group};
use crate::host;
use crate::pingpong::{Distance, NEAR_NS};
use crate::restart;
use crate::results::{Case, DISTURBED, Results};
use crate::stats::Summary;
use crate::switches::{OvsForwarding, SwitchKind};
use crate::tso;

const SWITCHES: [SwitchKind; 3] = [SwitchKind::Ringway, SwitchKind::Ovs, SwitchKind::Testpmd];

/// The whole report.
pub fn markdown(results: &Results) -> String {
    if !results.host.is_empty() || !results.host_failures.is_empty() {
        return host::table::markdown(results);
    }
    if !results.restart.is_empty() {
        return restart::table::markdown(results);
    }
    let mut text = head(results);
    if results.settings.flow_limit.is_some() {
        return text + &flow_table::sections(results) + &tail(results);
    }
    for distance in [Distance::Near, Distance::Far, Distance::Mixed] {
        let grouped = group(results, distance);
        for generator in [GeneratorKind::Pktgen, GeneratorKind::Testpmd] {
            text += &section(&grouped, distance, generator);
        }
        text += &tso::section(&grouped, distance);
    }
    text + &tail(results)
}

fn head(results: &Results) -> String {
    let dirty = if results.dirty { " with changes" } else { "" };
    let settings = &results.settings;
    let ovs = match (settings.flow_limit, settings.ovs_forwarding) {
        (Some(_), _) => "the same rules, its revalidators paused",
        (None, OvsForwarding::Flows) => "two port-to-port flows",
        (None, OvsForwarding::Normal) => "NORMAL",
    };
    format!(
        "{} at revision {}{dirty}: {} rounds of {} s each, alternating; ring {}; switch on core {}, \
         generator on core {}; Open vSwitch with {ovs}.\n\nMachine: {}.\n\n\
         Each cell: Mpps, both directions added, median (min–max) / busy cycles per packet. \
         Frame sizes are bytes on the ring, without FCS.\n",
        results.date,
        results.revision.get(..12).unwrap_or(&results.revision),
        settings.rounds,
        settings.seconds,
        settings.ring_size,
        settings.switch_core,
        settings.generator_core,
        results.machine.line(),
    )
}

fn section(grouped: &Grouped, distance: Distance, generator: GeneratorKind) -> String {
    let mut cases = grouped
        .iter()
        .filter(|(case, _)| case.generator == generator && case.tso.is_none())
        .peekable();
    if cases.peek().is_none() {
        return String::new();
    }
    let mut text = format!(
        "\n### Generator {}, cores {}\n\n| frame, receive buffers | runs |",
        generator.word(),
        distance.word()
    );
    for switch in SWITCHES {
        let _ = write!(text, " {} |", switch.word());
    }
    text += " rate ÷ Open vSwitch | cycles ÷ Open vSwitch | rate ÷ testpmd |";
    if generator == GeneratorKind::Pktgen {
        text += " generator busy |";
    }
    text += "\n|---|---|---|---|---|---|---|---|";
    text += if generator == GeneratorKind::Pktgen {
        "---|\n"
    } else {
        "\n"
    };
    for (case, cells) in cases {
        let cell = |switch| cells.get(&switch);
        let counts: Vec<String> = SWITCHES
            .iter()
            .map(|&s| cell(s).map_or("0".into(), |c| c.mpps.count.to_string()))
            .collect();
        let _ = write!(text, "| {} | {} |", name(case), counts.join("/"));
        for switch in SWITCHES {
            let _ = write!(text, " {} |", cell(switch).map_or("–".into(), figures));
        }
        let ours = cell(SwitchKind::Ringway);
        let (ovs, testpmd) = (cell(SwitchKind::Ovs), cell(SwitchKind::Testpmd));
        let ratios = [
            ratio(ours.map(rate), ovs.map(rate)),
            ratio(ours.and_then(cycles), ovs.and_then(cycles)),
            ratio(ours.map(rate), testpmd.map(rate)),
        ];
        for ratio in ratios {
            let _ = write!(text, " {ratio} |");
        }
        if generator == GeneratorKind::Pktgen {
            let busy = cells.values().filter_map(|c| c.generator_busy);
            let most = busy.map(|b| b.median).fold(0.0, f64::max);
            let _ = write!(text, " {:.0} % |", most * 100.0);
        }
        text.push('\n');
    }
    text
}

/// `64 mergeable`, `256 single, packed`.
pub fn name(case: &Case) -> String {
    let merge = if case.mrg_rxbuf {
        "mergeable"
    } else {
        "single"
    };
    let ring = if case.packed { ", packed" } else { "" };
    match (case.scenario, case.tso) {
        (Some(scenario), _) => format!("{} {merge}{ring}, {scenario}", case.size),
        (None, Some(tso)) => format!("{} {}{ring}", case.size, tso.words()),
        (None, None) => format!("{} {merge}{ring}", case.size),
    }
}

fn rate(cell: &Cell) -> f64 {
    cell.mpps.median
}

fn cycles(cell: &Cell) -> Option<f64> {
    cell.cycles.map(|cycles| cycles.median)
}

/// `22.00 (20.00–24.00) / 100`.
pub fn figures(cell: &Cell) -> String {
    let Summary {
        median, min, max, ..
    } = cell.mpps;
    let cycles = cycles(cell).map_or("?".into(), |cycles| format!("{cycles:.0}"));
    format!("{median:.2} ({min:.2}–{max:.2}) / {cycles}")
}

/// One median beside another.
pub fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("**{:.2}**", ours / theirs),
        _ => "–".into(),
    }
}

fn tail(results: &Results) -> String {
    let disturbed = results.runs.iter().filter(|run| run.disturbed()).count();
    let pingpong = results
        .runs
        .iter()
        .flat_map(|run| [run.pingpong_before, run.pingpong_after]);
    let mut text = String::new();
    if let Some(all) = Summary::of(pingpong) {
        let _ = write!(
            text,
            "\nCache-line ping-pong between the two cores, there and back: {:.0} ns ({:.0}–{:.0}); \
             near is below {NEAR_NS:.0} ns before and after a run.",
            all.median, all.min, all.max
        );
    }
    if disturbed > 0 {
        let _ = write!(
            text,
            "\n{disturbed} of {} runs are left out: other programs took more than {:.0} % of a core.",
            results.runs.len(),
            DISTURBED * 100.0
        );
    }
    for failure in &results.failures {
        let _ = write!(
            text,
            "\nRound {}, {}, {}, {}: {}",
            failure.round,
            failure.switch.word(),
            failure.case.generator.word(),
            name(&failure.case),
            failure.error
        );
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample;

    #[test]
    fn medians_and_ratios_of_like_runs_only() {
        let mut results = sample::results();
        for (round, mpps) in [(1, 20.0), (2, 24.0), (3, 22.0)] {
            results
                .runs
                .push(sample::run(round, SwitchKind::Ringway, mpps, 100.0));
            results
                .runs
                .push(sample::run(round, SwitchKind::Ovs, mpps / 2.0, 200.0));
        }
        let mut far = sample::run(4, SwitchKind::Ringway, 1.0, 900.0);
        far.distance = Distance::Far;
        let mut disturbed = sample::run(5, SwitchKind::Ringway, 0.1, 900.0);
        disturbed.switch_waited = Some(0.5);
        results.runs.extend([far, disturbed]);

        let text = markdown(&results);
        let near = "| 64 mergeable | 3/3/0 | 22.00 (20.00–24.00) / 100 | 11.00 (10.00–12.00) / 200 \
                    | – | **2.00** | **0.50** | – | 30 % |";
        assert!(text.contains(near), "{text}");
        assert!(text.contains("cores far"), "{text}");
        assert!(text.contains("1 of 8 runs are left out"), "{text}");
    }
}
