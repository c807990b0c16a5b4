//! Results of `compare restart` as Markdown.

use std::fmt::Write;

use super::{Event, Figures, RestartCase, RestartRun};
use crate::results::Results;
use crate::stats::Summary;
use crate::switches::SwitchKind;

const SWITCHES: [SwitchKind; 2] = [SwitchKind::Ringway, SwitchKind::Ovs];

/// The whole report.
pub fn markdown(results: &Results) -> String {
    let dirty = if results.dirty { " with changes" } else { "" };
    let mut text = format!(
        "{} at revision {}{dirty}: {} rounds, alternating; switch on core {}, guests and all else on \
         core {}; Open vSwitch with NORMAL.\n\nMachine: {}.\n\n\
         Each figure is a median (min–max) of the rounds, in ms.\n",
        results.date,
        results.revision.get(..12).unwrap_or(&results.revision),
        results.settings.rounds,
        results.settings.switch_core,
        results.settings.generator_core,
        results.machine.line(),
    );
    let mut cases: Vec<RestartCase> = results.restart.iter().map(|run| run.case).collect();
    cases.sort();
    cases.dedup();
    let section = |title, which: fn(Event) -> bool, cell: Cell| {
        let cases = cases.iter().filter(|case| which(case.event));
        let rows: String = cases.map(|case| row(results, *case, cell)).collect();
        match rows.is_empty() {
            true => String::new(),
            false => format!(
                "\n**{title}**\n\n| what happens | ringway | Open vSwitch |\n|---|---|---|\n{rows}"
            ),
        }
    };
    text += &section(
        "Longest time without a frame / lost / doubled or late / connections made anew",
        |event| !matches!(event, Event::Listen | Event::Move),
        outage,
    );
    text += &section(
        "From the frontend's bind to the connection",
        |event| event == Event::Listen,
        connected,
    );
    text += &section(
        "QEMU's downtime / longest time between two answers to pings every 20 ms / pings lost",
        |event| event == Event::Move,
        moved,
    );
    for run in &results.restart {
        if let Err(error) = &run.figures {
            let _ = write!(
                text,
                "\nRound {}, {}, {}: {error}\n",
                run.round,
                run.switch.word(),
                run.case
            );
        }
    }
    text
}

/// A line for whoever waits.
pub fn progress(run: &RestartRun) -> String {
    let head = format!("round {} {}, {}", run.round, run.switch.word(), run.case);
    match &run.figures {
        Err(error) => format!("{head}: {error}"),
        Ok(figures) => format!("{head}: {figures:?}"),
    }
}

type Cell = fn(&[&Figures]) -> Option<String>;

fn row(results: &Results, case: RestartCase, cell: Cell) -> String {
    let cells = SWITCHES.map(|switch| {
        let runs = results.restart.iter();
        let runs = runs.filter(|run| run.case == case && run.switch == switch);
        let figures: Vec<&Figures> = runs.filter_map(|run| run.figures.as_ref().ok()).collect();
        cell(&figures).unwrap_or_else(|| "–".into())
    });
    format!("| {case} | {} | {} |\n", cells[0], cells[1])
}

fn summary(figures: impl Iterator<Item = f64>) -> Option<String> {
    let Summary {
        median, min, max, ..
    } = Summary::of(figures)?;
    Some(format!("{median:.1} ({min:.1}–{max:.1})"))
}

fn outage(figures: &[&Figures]) -> Option<String> {
    let outages: Vec<_> = figures
        .iter()
        .filter_map(|figures| match figures {
            Figures::Outage(outage) => Some(outage),
            _ => None,
        })
        .collect();
    if outages.is_empty() {
        return None;
    }
    let never = outages.iter().filter(|outage| outage.ms.is_none()).count();
    let times = summary(outages.iter().filter_map(|outage| outage.ms));
    let times = match (times, never) {
        (Some(times), 0) => times,
        (Some(times), never) => format!("{times}, {never} times never again"),
        (None, _) => "never again".into(),
    };
    let most = |of: fn(&super::Outage) -> u64| outages.iter().map(|outage| of(outage)).max();
    let counts = [
        most(|outage| outage.lost),
        most(|outage| outage.doubled_or_late + outage.torn),
        most(|outage| outage.reconnects.into()),
    ];
    let counts: Vec<String> = counts
        .into_iter()
        .flatten()
        .map(|count| count.to_string())
        .collect();
    Some(format!("{times} / {}", counts.join(" / ")))
}

fn connected(figures: &[&Figures]) -> Option<String> {
    let times = figures.iter().filter_map(|figures| match figures {
        Figures::Connected(times) => Some(times),
        _ => None,
    });
    summary(times.flatten().copied())
}

fn moved(figures: &[&Figures]) -> Option<String> {
    let moves: Vec<_> = figures
        .iter()
        .filter_map(|figures| match figures {
            Figures::Moved(moved) => Some(moved),
            _ => None,
        })
        .collect();
    let downtime = summary(moves.iter().map(|moved| moved.downtime_ms as f64))?;
    let longest = summary(moves.iter().map(|moved| moved.longest_ms))?;
    let lost = moves.iter().map(|moved| moved.lost).max()?;
    Some(format!("{downtime} / {longest} / {lost}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Listens, Outage};
    use super::*;
    use crate::results::sample;

    fn run(round: u32, switch: SwitchKind, ms: Option<f64>) -> RestartRun {
        let case = RestartCase {
            event: Event::Kill,
            listens: Listens::Guest,
            packed: false,
        };
        let outage = Outage {
            ms,
            lost: u64::from(round),
            doubled_or_late: 0,
            torn: 0,
            reconnects: 2,
        };
        RestartRun {
            round,
            switch,
            case,
            figures: Ok(Figures::Outage(outage)),
        }
    }

    #[test]
    fn medians_and_what_never_came_back_are_told() {
        let mut results = sample::results();
        for (round, ms) in [(1, 100.0), (2, 300.0), (3, 110.0)] {
            results
                .restart
                .push(run(round, SwitchKind::Ringway, Some(ms)));
        }
        results.restart.push(run(1, SwitchKind::Ovs, None));
        let text = markdown(&results);
        let row = "| kill -9, started again; guests listen | 110.0 (100.0–300.0) / 3 / 0 / 2 | \
                   never again / 1 / 0 / 2 |";
        assert!(text.contains(row), "{text}");
        let mut failed = run(2, SwitchKind::Ovs, None);
        failed.figures = Err("no socket".into());
        results.restart.push(failed);
        assert!(markdown(&results).contains("Round 2, Open vSwitch, kill -9"));
    }
}
