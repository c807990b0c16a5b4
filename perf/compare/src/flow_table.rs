//! Results of `compare flows` as Markdown.

use std::fmt::Write;

use crate::group::{Cell, group, group_all};
use crate::pingpong::Distance;
use crate::results::{Addition, Case, Results};
use crate::scenario::Scenario;
use crate::stats::Summary;
use crate::switches::{Adding, SwitchKind};
use crate::table::{figures, ratio};

use SwitchKind::{Ovs, Ringway};

/// All sections that there are runs for. Rates are told for near and for far
/// cores too; else there are few runs of a kind.
pub fn sections(results: &Results) -> String {
    let all = rows(group_all(results));
    let mut text = String::new();
    for distance in [Distance::Near, Distance::Far] {
        text += &rates(&rows(group(results, distance)), distance.word());
    }
    text + &rates(&all, "near, far and mixed together")
        + &masks(&all)
        + &attacks(&all)
        + &set_up(&all)
        + &additions(&results.additions)
        + &memory(results, &all)
}

/// A case's scenario with both switches' figures.
#[derive(Clone)]
struct Row {
    scenario: Scenario,
    ringway: Option<Cell>,
    ovs: Option<Cell>,
}

type Rows = Vec<Row>;

fn rows(grouped: crate::group::Grouped) -> Rows {
    let row = |(case, cells): (Case, std::collections::BTreeMap<SwitchKind, Cell>)| {
        Some(Row {
            scenario: case.scenario?,
            ringway: cells.get(&Ringway).copied(),
            ovs: cells.get(&Ovs).copied(),
        })
    };
    grouped.into_iter().filter_map(row).collect()
}

impl Row {
    /// `3/3`: runs of ringway and of Open vSwitch.
    fn runs(&self) -> String {
        self.both(|cell| Some(cell.mpps.count.to_string()), "0")
    }

    /// Something of both, or `missing`.
    fn both(&self, of: impl Fn(&Cell) -> Option<String>, missing: &str) -> String {
        let one = |cell: &Option<Cell>| cell.as_ref().and_then(&of).unwrap_or(missing.into());
        format!("{} / {}", one(&self.ringway), one(&self.ovs))
    }

    fn rates(&self) -> (Option<f64>, Option<f64>) {
        let rate = |cell: &Option<Cell>| cell.map(|cell| cell.mpps.median);
        (rate(&self.ringway), rate(&self.ovs))
    }

    fn figures(&self) -> [String; 2] {
        [self.ringway, self.ovs].map(|cell| cell.as_ref().map_or("–".into(), figures))
    }

    /// Rate and cycles beside Open vSwitch's.
    fn beside_ovs(&self) -> [String; 2] {
        let cycles = |cell: &Option<Cell>| Some(cell.as_ref()?.cycles?.median);
        let (ours, theirs) = self.rates();
        [
            ratio(ours, theirs),
            ratio(cycles(&self.ringway), cycles(&self.ovs)),
        ]
    }

    /// Both rates beside those of `base`.
    fn beside(&self, base: Option<&Row>) -> [String; 2] {
        let (ours, theirs) = self.rates();
        let (our_base, their_base) = base.map_or((None, None), Row::rates);
        [ratio(ours, our_base), ratio(theirs, their_base)]
    }
}

fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    format!("| {} |\n", cells.join(" | "))
}

/// A heading and a table, or nothing if there are no rows.
fn table(title: &str, columns: &[&str], rows: &[String]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = line(columns.iter().map(|&column| column.to_owned()));
    let rule = line(columns.iter().map(|_| "---".to_owned()));
    format!("\n### {title}\n\n{head}{rule}{}", rows.concat())
}

fn whole(summary: Option<Summary>) -> Option<String> {
    Some(format!("{:.0}", summary?.median))
}

/// Percent of packets that a cache before the masks knew. Near 100 the rate
/// says nothing of masks.
fn cached(cell: &Cell) -> Option<String> {
    Some(format!("{:.0}", 100.0 * cell.cached?.median))
}

/// Percent of the generator's time.
fn generator_busy(cell: &Cell) -> Option<String> {
    Some(format!("{:.0}", 100.0 * cell.generator_busy?.median))
}

fn rates(rows: &[Row], distance: &str) -> String {
    let mut lines = Vec::new();
    for row in rows {
        let Scenario::Rate { rules, flows } = row.scenario else {
            continue;
        };
        let one = Scenario::Rate { rules, flows: 1 };
        let base = rows.iter().find(|row| row.scenario == one);
        let mut cells = vec![rules.words().into(), thousands(flows.into()), row.runs()];
        cells.extend(row.figures());
        cells.extend(row.beside_ovs());
        cells.extend(row.beside(base));
        cells.push(row.both(|cell| whole(cell.flows), "–"));
        cells.push(row.both(cached, "–"));
        cells.push(row.both(generator_busy, "–"));
        lines.push(line(cells));
    }
    let columns = [
        "rules",
        "flows",
        "runs",
        "ringway",
        "Open vSwitch",
        "rate ÷ Open vSwitch",
        "cycles ÷ Open vSwitch",
        "ringway ÷ its rate at 1",
        "Open vSwitch ÷ its rate at 1",
        "megaflows",
        "found before masks, %",
        "generator busy, %",
    ];
    let title = format!("Rate against concurrent flows, cores {distance}");
    table(&title, &columns, &lines)
}

fn masks(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    for row in rows {
        let Scenario::Masks { masks } = row.scenario else {
            continue;
        };
        let one = rows
            .iter()
            .find(|row| row.scenario == Scenario::Masks { masks: 1 });
        let mut cells = vec![masks.to_string(), row.runs()];
        cells.extend(row.figures());
        cells.extend(row.beside_ovs());
        cells.extend(row.beside(one));
        cells.push(row.both(|cell| whole(cell.flows), "–"));
        cells.push(row.both(cached, "–"));
        cells.push(row.both(|cell| Some(format!("{:.1}", cell.probes?.median)), "–"));
        lines.push(line(cells));
    }
    let columns = [
        "masks",
        "runs",
        "ringway",
        "Open vSwitch",
        "rate ÷ Open vSwitch",
        "cycles ÷ Open vSwitch",
        "ringway ÷ its rate at 1",
        "Open vSwitch ÷ its rate at 1",
        "megaflows",
        "found before masks, %",
        "masks tried per other packet",
    ];
    table("Rate against masks in each direction", &columns, &lines)
}

fn attacks(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    for row in rows {
        let Scenario::Attack { rate, flows } = row.scenario else {
            continue;
        };
        let quiet = Scenario::Attack { rate: 0, flows };
        let peace = rows.iter().find(|row| row.scenario == quiet);
        let mut cells = vec![thousands(flows.into()), thousands(rate.into()), row.runs()];
        cells.extend(
            [row.ringway, row.ovs].map(|cell| cell.map_or("–".into(), |c| thin_spread(c.mpps))),
        );
        cells.extend(row.beside(peace));
        cells.push(row.both(|cell| whole(cell.crafted), "–"));
        cells.push(row.both(|cell| whole(cell.flows), "–"));
        cells.push(row.both(cached, "–"));
        lines.push(line(cells));
    }
    let columns = [
        "established flows",
        "crafted frames/s",
        "runs",
        "ringway, Mpps",
        "Open vSwitch, Mpps",
        "ringway ÷ its rate without",
        "Open vSwitch ÷ its rate without",
        "crafted frames/s taken",
        "megaflows",
        "found before masks, %",
    ];
    table("Established flows beside an attacker", &columns, &lines)
}

/// `1.23 (1.11–1.30)`.
fn spread(summary: Summary) -> String {
    let Summary {
        median, min, max, ..
    } = summary;
    format!("{median:.2} ({min:.2}–{max:.2})")
}

/// The same for rates that may be next to nothing.
fn thin_spread(summary: Summary) -> String {
    let Summary {
        median, min, max, ..
    } = summary;
    format!("{median:.3} ({min:.3}–{max:.3})")
}

fn set_up(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    for row in rows {
        let (name, flows) = match row.scenario {
            Scenario::SetUp { flows } => ("one that reads the five-tuple", flows),
            Scenario::Rate { rules, flows } if flows >= 100_000 => (rules.words(), flows),
            _ => continue,
        };
        let summaries = [row.ringway, row.ovs].map(|cell| cell?.set_up);
        if summaries == [None, None] {
            continue;
        }
        let mut cells = vec![name.into(), thousands(flows.into()), row.runs()];
        cells.extend(summaries.map(|summary| {
            summary.map_or("–".into(), |s| {
                let [median, min, max] = [s.median, s.min, s.max].map(|f| f / 1e3);
                format!("{median:.0} ({min:.0}–{max:.0})")
            })
        }));
        let [ours, theirs] = summaries.map(|summary| summary.map(|s| s.median));
        cells.push(ratio(ours, theirs));
        cells.push(row.both(|cell| whole(cell.missed), "–"));
        cells.push(row.both(|cell| whole(cell.flows), "–"));
        cells.push(row.both(|cell| whole(cell.lost), "–"));
        lines.push(line(cells));
    }
    let columns = [
        "rules",
        "new flows",
        "runs",
        "ringway, thousand flows/s",
        "Open vSwitch, thousand flows/s",
        "÷ Open vSwitch",
        "packets through the slow path",
        "megaflows then",
        "frames lost",
    ];
    table("New flows", &columns, &lines)
}

fn additions(additions: &[Addition]) -> String {
    let ways = [
        (Ringway, Adding::Bundle),
        (Ovs, Adding::Bundle),
        (Ovs, Adding::Single),
    ];
    let mut lines = Vec::new();
    for (switch, adding) in ways {
        let these = || {
            let additions = additions.iter();
            additions.filter(move |a| a.switch == switch && a.adding == adding)
        };
        let seconds = Summary::of(these().map(|a| a.seconds));
        let bytes =
            Summary::of(these().filter_map(|a| {
                Some((a.grown?.resident + a.grown?.huge) as f64 / f64::from(a.rules))
            }));
        let (Some(seconds), Some(rules)) = (seconds, these().map(|a| a.rules).max()) else {
            continue;
        };
        lines.push(line([
            format!("{}, {}", switch.word(), adding.word()),
            seconds.count.to_string(),
            thousands(rules.into()),
            spread(seconds),
            whole(bytes).unwrap_or("–".into()),
        ]));
    }
    let columns = ["how", "runs", "rules", "seconds", "bytes per rule"];
    table("Adding rules", &columns, &lines)
}

fn memory(results: &Results, rows: &[Row]) -> String {
    let most = rows
        .iter()
        .filter(|row| matches!(row.scenario, Scenario::Rate { .. }))
        .max_by_key(|row| row.scenario.flows_in_all());
    let bytes = |cell: &Option<Cell>| whole(cell.as_ref()?.flow_bytes);
    let (Some(row), Some(limit)) = (most, results.settings.flow_limit) else {
        return String::new();
    };
    let mut text = String::new();
    let said = [
        (bytes(&row.ringway), "ringway says"),
        (bytes(&row.ovs), "Open vSwitch's process grows by"),
    ];
    for (bytes, who) in said {
        if let Some(bytes) = bytes {
            let _ = write!(text, "\n{who} {bytes} bytes per megaflow.");
        }
    }
    if !text.is_empty() {
        let _ = writeln!(
            text,
            " Every switch had room for {} megaflows.",
            thousands(limit.into())
        );
    }
    text
}

/// `1,000,000`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample;
    use crate::scenario::Rules;

    #[test]
    fn numbers_in_groups_of_three() {
        assert_eq!(thousands(1), "1");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn rates_beside_open_vswitch_and_beside_one_flow() {
        let mut results = sample::results();
        for (flows, ringway, ovs) in [(1, 20.0, 10.0), (1_000_000, 15.0, 5.0)] {
            for (switch, mpps) in [(Ringway, ringway), (Ovs, ovs)] {
                let scenario = Scenario::Rate {
                    rules: Rules::Exact,
                    flows,
                };
                let run = sample::flow_run(1, switch, scenario, mpps);
                results.runs.push(run);
            }
        }
        let text = sections(&results);
        let row = "| one per flow | 1,000,000 | 1 / 1 | 15.00 (15.00–15.00) / 100 \
                   | 5.00 (5.00–5.00) / 100 | **3.00** | **1.00** | **0.75** | **0.50** |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("cores near"), "{text}");
        assert!(!text.contains("cores far"), "{text}");
    }

    #[test]
    fn new_flows_per_second() {
        let mut results = sample::results();
        for (switch, seconds) in [(Ringway, 2.0), (Ovs, 6.0)] {
            let scenario = Scenario::SetUp { flows: 300_000 };
            let mut run = sample::flow_run(1, switch, scenario, 0.1);
            let flows = run.flows.as_mut().unwrap();
            flows.missed_before = 300_000;
            flows.first_pass = Some(seconds);
            results.runs.push(run);
        }
        let text = sections(&results);
        let row = "| one that reads the five-tuple | 300,000 | 1 / 1 | 150 (150–150) \
                   | 50 (50–50) | **3.00** | 300000 / 300000 |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn flows_that_needed_no_slow_path_were_not_set_up() {
        let mut results = sample::results();
        let scenario = Scenario::SetUp { flows: 300_000 };
        let mut run = sample::flow_run(1, Ringway, scenario, 0.1);
        let flows = run.flows.as_mut().unwrap();
        flows.missed_before = 2;
        flows.first_pass = Some(0.1);
        results.runs.push(run);
        assert!(!sections(&results).contains("New flows"));
    }

    #[test]
    fn an_attack_is_told_beside_peace() {
        let mut results = sample::results();
        for (rate, mpps) in [(0, 10.0), (10_000, 9.0)] {
            let scenario = Scenario::Attack { rate, flows: 10 };
            results
                .runs
                .push(sample::flow_run(1, Ringway, scenario, mpps));
        }
        let text = sections(&results);
        assert!(
            text.contains("| 10 | 10,000 | 1 / 0 | 9.000 (9.000–9.000) | – | **0.90** | – |"),
            "{text}"
        );
    }
}
