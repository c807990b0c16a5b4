//! Results of `compare host` as Markdown.

use std::fmt::Write;

use super::{Figures, HostCase, HostRun, HostSwitch, PortTimes, Traffic};
use crate::results::Results;
use crate::stats::Summary;
use crate::table::ratio;

use HostSwitch::{Linux, Ovs, Ringway};

const SWITCHES: [HostSwitch; 3] = [Ringway, Ovs, Linux];
/// Ports at the end of the adding (and the beginning of the deleting) that are
/// told apart: almost all others are there then.
const LAST: usize = 10;

/// The whole report.
pub fn markdown(results: &Results) -> String {
    let settings = &results.settings;
    let dirty = if results.dirty { " with changes" } else { "" };
    let mut text = format!(
        "{} at revision {}{dirty}: {} rounds of {} s each, alternating; ringway's poll-mode core is {}; \
         Open vSwitch with NORMAL, for TCP with userspace TSO.\n\nMachine: {}.\n\n\
         Each figure is a median (min–max) of the rounds.\n",
        results.date,
        results.revision.get(..12).unwrap_or(&results.revision),
        settings.rounds,
        settings.seconds,
        settings.switch_core,
        results.machine.line(),
    );
    let mut cases: Vec<HostCase> = results.host.iter().map(|run| run.case).collect();
    cases.sort();
    cases.dedup();
    let rows = |row: fn(&Runs<'_>) -> Option<String>| -> String {
        let runs = |&case| Runs {
            all: &results.host,
            case,
        };
        cases
            .iter()
            .map(runs)
            .filter_map(|runs| row(&runs))
            .collect()
    };
    text += &table(
        "Packet rate of system and internal ports, Mpps",
        &[
            "way",
            "bytes",
            "runs",
            "ringway",
            "Open vSwitch",
            "Linux bridge",
            "÷ Open vSwitch",
            "÷ Linux bridge",
            "daemon's cycles per frame",
            "offered",
        ],
        &rows(rate_row),
    );
    text += &table(
        "TCP between two stacks, Gbit/s",
        &[
            "way",
            "runs",
            "ringway",
            "Open vSwitch",
            "Linux bridge",
            "÷ Open vSwitch",
            "÷ Linux bridge",
            "ringway, bytes per busy PMD cycle",
            "bytes per cycle of the daemon",
            "bytes per busy cycle of the machine",
        ],
        &rows(tcp_row),
    );
    text += &table(
        "Adding and deleting ports, ms per command",
        &[
            "ports",
            "command",
            "runs",
            "ringway",
            "Open vSwitch",
            "÷ Open vSwitch",
            "the ten with the most others there",
        ],
        &rows(port_rows),
    );
    for failure in &results.host_failures {
        let case = failure.case.map_or("start".into(), |case| case.to_string());
        let _ = write!(
            text,
            "\nRound {}, {}, {case}: {}\n",
            failure.round,
            failure.switch.word(),
            failure.error
        );
    }
    text
}

/// A line for whoever waits.
pub fn progress(run: &HostRun) -> String {
    let figures = match &run.figures {
        Figures::Traffic(traffic) => match traffic.frames {
            Some(_) => format!("{:.3} Mpps", mpps(traffic).unwrap_or(f64::NAN)),
            None => format!("{:.2} Gbit/s", gbits(traffic)),
        },
        Figures::Ports(PortTimes { add, del }) => {
            let median = |times: &[f64]| Summary::of(times.iter().copied()).map(|s| s.median);
            format!(
                "add {:.2} ms, del {:.2} ms",
                median(add).unwrap_or(f64::NAN),
                median(del).unwrap_or(f64::NAN)
            )
        }
    };
    let (round, switch, case) = (run.round, run.switch.word(), run.case);
    format!("round {round} {switch}, {case}: {figures}")
}

/// A heading and a table, or nothing if there are no rows.
fn table(title: &str, columns: &[&str], rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rule = "---|".repeat(columns.len());
    format!(
        "\n### {title}\n\n| {} |\n|{rule}\n{rows}",
        columns.join(" | ")
    )
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// The runs of a case.
struct Runs<'a> {
    all: &'a [HostRun],
    case: HostCase,
}

impl Runs<'_> {
    fn figures(&self, switch: HostSwitch) -> impl Iterator<Item = &Figures> {
        let ours = move |run: &&HostRun| run.switch == switch && run.case == self.case;
        self.all.iter().filter(ours).map(|run| &run.figures)
    }

    /// A figure of traffic over the rounds.
    fn traffic(&self, switch: HostSwitch, of: impl Fn(&Traffic) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.figures(switch).filter_map(|figures| match figures {
            Figures::Traffic(traffic) => of(traffic),
            Figures::Ports(_) => None,
        }))
    }

    /// Times of commands over the rounds, all in one.
    fn ports(&self, switch: HostSwitch, of: impl Fn(&PortTimes) -> &[f64]) -> Option<Summary> {
        let times = self.figures(switch).flat_map(|figures| match figures {
            Figures::Ports(times) => of(times),
            Figures::Traffic(_) => &[],
        });
        Summary::of(times.copied())
    }

    fn counts(&self, switches: &[HostSwitch]) -> String {
        let counts = switches
            .iter()
            .map(|&s| self.figures(s).count().to_string());
        counts.collect::<Vec<_>>().join("/")
    }

    /// Medians of switches, `1.5 / –`.
    fn medians(
        &self,
        switches: &[HostSwitch],
        digits: usize,
        of: fn(&Traffic) -> Option<f64>,
    ) -> String {
        let median = |&switch: &HostSwitch| {
            let summary = self.traffic(switch, of);
            summary.map_or("–".into(), |s| format!("{:.digits$}", s.median))
        };
        switches.iter().map(median).collect::<Vec<_>>().join(" / ")
    }

    /// The three switches, and ringway beside the others.
    fn compared(&self, digits: usize, of: fn(&Traffic) -> Option<f64>) -> Vec<String> {
        let summaries = SWITCHES.map(|switch| self.traffic(switch, of));
        let [ours, ovs, linux] = summaries.map(|s| s.map(|s| s.median));
        let figures = summaries.iter().map(|&summary| figure(summary, digits));
        figures
            .chain([ratio(ours, ovs), ratio(ours, linux)])
            .collect()
    }
}

/// `1.50 (1.40–1.60)`.
fn figure(summary: Option<Summary>, digits: usize) -> String {
    summary.map_or(
        "–".into(),
        |Summary {
             median, min, max, ..
         }| { format!("{median:.digits$} ({min:.digits$}–{max:.digits$})") },
    )
}

fn mpps(traffic: &Traffic) -> Option<f64> {
    Some(traffic.frames? as f64 / traffic.seconds / 1e6)
}

fn offered(traffic: &Traffic) -> Option<f64> {
    Some(traffic.offered? as f64 / traffic.seconds / 1e6)
}

fn gbits(traffic: &Traffic) -> f64 {
    8.0 * traffic.bytes as f64 / traffic.seconds / 1e9
}

fn per(figure: f64, cycles: f64) -> Option<f64> {
    (cycles > 0.0).then_some(figure / cycles)
}

fn rate_row(runs: &Runs<'_>) -> Option<String> {
    let HostCase::Rate { way, size } = runs.case else {
        return None;
    };
    let cycles = |traffic: &Traffic| per(traffic.spent.daemon?, traffic.frames? as f64);
    let mut cells = vec![way.words().into(), size.to_string(), runs.counts(&SWITCHES)];
    cells.extend(runs.compared(3, mpps));
    cells.push(runs.medians(&[Ringway, Ovs], 0, cycles));
    cells.push(runs.medians(&SWITCHES, 2, offered));
    Some(line(&cells))
}

fn tcp_row(runs: &Runs<'_>) -> Option<String> {
    let HostCase::Tcp { way } = runs.case else {
        return None;
    };
    let mut cells = vec![way.words().into(), runs.counts(&SWITCHES)];
    cells.extend(runs.compared(2, |traffic| Some(gbits(traffic))));
    cells.push(runs.medians(&[Ringway], 2, |t| per(t.bytes as f64, t.spent.pmd_busy?)));
    cells.push(runs.medians(&[Ringway, Ovs], 2, |t| per(t.bytes as f64, t.spent.daemon?)));
    cells.push(runs.medians(&SWITCHES, 2, |t| per(t.bytes as f64, t.spent.machine)));
    Some(line(&cells))
}

fn port_rows(runs: &Runs<'_>) -> Option<String> {
    let HostCase::Ports { kind, count } = runs.case else {
        return None;
    };
    type Part = fn(&PortTimes) -> &[f64];
    let add: (_, Part, Part) = (
        "add-port",
        |times| &times.add,
        |times| &times.add[times.add.len().saturating_sub(LAST)..],
    );
    let del: (_, Part, Part) = (
        "del-port",
        |times| &times.del,
        |times| &times.del[..times.del.len().min(LAST)],
    );
    let row = |(command, all, last): (&str, Part, Part)| {
        let [ours, theirs] = [Ringway, Ovs].map(|switch| runs.ports(switch, all));
        let last = [Ringway, Ovs].map(|switch| {
            let summary = runs.ports(switch, last);
            summary.map_or("–".into(), |s| format!("{:.2}", s.median))
        });
        line(&[
            format!("{count} {}", kind.words()),
            command.into(),
            runs.counts(&[Ringway, Ovs]),
            figure(ours, 2),
            figure(theirs, 2),
            ratio(ours.map(|s| s.median), theirs.map(|s| s.median)),
            last.join(" / "),
        ])
    };
    Some(row(add) + &row(del))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostFailure, PortKind, Spent, Way};
    use crate::results::sample;

    fn traffic(frames: Option<u64>, bytes: u64, daemon: Option<f64>) -> Figures {
        Figures::Traffic(Traffic {
            seconds: 2.0,
            offered: frames.map(|frames| 2 * frames),
            frames,
            bytes,
            spent: Spent {
                pmd_busy: daemon.map(|cycles| cycles / 4.0),
                daemon,
                machine: 8e9,
            },
        })
    }

    fn results(cases: Vec<(HostSwitch, HostCase, Figures)>) -> Results {
        let mut results = sample::results();
        results.host = cases
            .into_iter()
            .map(|(switch, case, figures)| HostRun {
                round: 1,
                switch,
                case,
                figures,
            })
            .collect();
        results
    }

    #[test]
    fn rates_and_what_they_cost() {
        let way = Way::Between;
        let rate = HostCase::Rate { way, size: 64 };
        let tcp = HostCase::Tcp { way };
        let results = results(vec![
            (Ringway, rate, traffic(Some(2_000_000), 0, Some(4e9))),
            (Ovs, rate, traffic(Some(1_000_000), 0, Some(4e9))),
            (Linux, rate, traffic(Some(4_000_000), 0, None)),
            (Ringway, tcp, traffic(None, 2_000_000_000, Some(4e9))),
        ]);
        let text = markdown(&results);
        let rates = "| namespace → namespace | 64 | 1/1/1 | 1.000 (1.000–1.000) | 0.500 (0.500–0.500) \
                     | 2.000 (2.000–2.000) | **2.00** | **0.50** | 2000 / 4000 | 2.00 / 1.00 / 4.00 |";
        assert!(text.contains(rates), "{text}");
        let tcp = "| namespace → namespace | 1/0/0 | 8.00 (8.00–8.00) | – | – | – | – | 2.00 \
                   | 0.50 / – | 0.25 / – / – |";
        assert!(text.contains(tcp), "{text}");
    }

    #[test]
    fn ports_and_failures() {
        let kind = PortKind::Internal;
        let case = HostCase::Ports { kind, count: 100 };
        let times = |first: f64, last: f64| {
            let add = [vec![first; 90], vec![last; 10]].concat();
            let del = add.iter().rev().copied().collect();
            Figures::Ports(PortTimes { add, del })
        };
        let mut results = results(vec![
            (Ringway, case, times(1.0, 2.0)),
            (Ovs, case, times(10.0, 50.0)),
        ]);
        results.host_failures.push(HostFailure {
            round: 1,
            switch: Ovs,
            case: None,
            error: "no memory".into(),
        });
        let text = markdown(&results);
        for command in ["add-port", "del-port"] {
            let row = format!(
                "| 100 internal | {command} | 1/1 | 1.00 (1.00–2.00) | 10.00 (10.00–50.00) \
                 | **0.10** | 2.00 / 50.00 |"
            );
            assert!(text.contains(&row), "{text}");
        }
        assert!(
            text.contains("Round 1, Open vSwitch, start: no memory"),
            "{text}"
        );
        assert!(!text.contains("TCP between"), "{text}");
    }
}
