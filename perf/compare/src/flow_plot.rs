//! Results of `compare flows` as a picture: lines over the numbers of flows
//! and of masks, rates above and cycles below.

use std::path::Path;

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::group::{Cell, Grouped, group_all};
use crate::plot::{
    Area, Chart, DrawError, FONT, METRICS, Metric, SIZE, SWITCHES, draw_spreads, text,
};
use crate::results::Results;
use crate::scenario::{Rules, Scenario};
use crate::stats::Summary;
use crate::switches::SwitchKind;

/// Height of a panel as a multiple of its highest figure: the legend is above.
const LEGEND_ROOM: f64 = 1.4;

/// What a column of panels has on its x axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    Flows,
    Masks,
}

impl Axis {
    fn words(self) -> &'static str {
        match self {
            Self::Flows => "concurrent flows",
            Self::Masks => "masks per direction",
        }
    }

    /// Kind of line and x of a scenario, if it belongs here.
    fn place(self, scenario: Scenario) -> Option<(Option<Rules>, f64)> {
        match (self, scenario) {
            (Self::Flows, Scenario::Rate { rules, flows }) => Some((Some(rules), flows.into())),
            (Self::Masks, Scenario::Masks { masks }) => Some((None, masks.into())),
            _ => None,
        }
    }
}

/// Lines of one panel: kind, switch, points as (log10 of x, figure).
type Line = (Option<Rules>, SwitchKind, Vec<(f64, Summary)>);

/// Whether there is anything to draw.
pub fn can_be_drawn(results: &Results) -> bool {
    !axes(&group_all(results)).is_empty()
}

fn axes(grouped: &Grouped) -> Vec<Axis> {
    let has = |axis: &Axis| {
        let mut scenarios = grouped.keys().filter_map(|case| case.scenario);
        scenarios.any(|scenario| axis.place(scenario).is_some())
    };
    [Axis::Flows, Axis::Masks].into_iter().filter(has).collect()
}

/// Draws all usable runs, however far the cores were apart.
pub fn draw(results: &Results, path: &Path) -> Result<(), String> {
    let grouped = group_all(results);
    let axes = axes(&grouped);
    if axes.is_empty() {
        return Err("there are no usable runs over flows or masks".into());
    }
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(text)?;
    let title = "Two guests, one switch core, the same rules (cores near and far together); \
                 points: median, lines: min–max";
    let root = root.titled(title, (FONT, 18)).map_err(text)?;
    let panels = root.split_evenly((METRICS.len(), axes.len()));
    for (index, panel) in panels.iter().enumerate() {
        let metric = METRICS[index / axes.len()];
        draw_panel(panel, &grouped, axes[index % axes.len()], metric).map_err(text)?;
    }
    root.present().map_err(text)
}

fn lines(grouped: &Grouped, axis: Axis, figure: fn(&Cell) -> Option<Summary>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (case, cells) in grouped {
        let Some((kind, x)) = case.scenario.and_then(|scenario| axis.place(scenario)) else {
            continue;
        };
        for (&switch, cell) in cells {
            let Some(summary) = figure(cell) else {
                continue;
            };
            let point = (x.log10(), summary);
            match lines
                .iter_mut()
                .find(|line| (line.0, line.1) == (kind, switch))
            {
                Some((_, _, points)) => points.push(point),
                None => lines.push((kind, switch, vec![point])),
            }
        }
    }
    lines
}

fn draw_panel<'a>(
    panel: &Area<'a>,
    grouped: &Grouped,
    axis: Axis,
    (label, figure): Metric,
) -> Result<(), DrawError<'a>> {
    let lines = lines(grouped, axis, figure);
    let points = || lines.iter().flat_map(|(_, _, points)| points);
    let highest = points().map(|(_, summary)| summary.max).fold(1.0, f64::max);
    let last = points().map(|&(x, _)| x).fold(1.0, f64::max);
    let mut chart: Chart = ChartBuilder::on(panel)
        .caption(format!("{label}, over {}", axis.words()), (FONT, 15))
        .margin(10)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.15..last + 0.15, 0.0..highest * LEGEND_ROOM)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(last.ceil() as usize + 1)
        .x_label_formatter(&|&x| power_of_ten(x))
        .draw()?;
    for (kind, switch, points) in &lines {
        let colour = SWITCHES
            .iter()
            .find(|(known, _)| known == switch)
            .map_or(BLACK, |&(_, colour)| colour);
        let dash = dash(*kind);
        let name = match kind {
            Some(rules) => format!("{}, {}", switch.word(), rules.words()),
            None => switch.word().into(),
        };
        let medians = points.iter().map(|&(x, summary)| (x, summary.median));
        let style = colour.stroke_width(2);
        chart
            .draw_series(DashedLineSeries::new(
                medians.clone(),
                dash.0,
                dash.1,
                style,
            ))?
            .label(name)
            .legend(move |(x, y)| {
                DashedPathElement::new([(x, y), (x + 24, y)], dash.0, dash.1, style)
            });
        chart.draw_series(medians.map(|point| Circle::new(point, 3, colour.filled())))?;
        draw_spreads(&mut chart, points.iter().copied())?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .legend_area_size(30)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
}

/// Length and gap of a line's dashes, in pixels.
fn dash(kind: Option<Rules>) -> (u32, u32) {
    match kind {
        Some(Rules::Wildcard) => (8, 5),
        Some(Rules::Port) => (2, 4),
        Some(Rules::Exact) | None => (1000, 0),
    }
}

/// `1`, `10`, `1 k`, `1 M`; nothing between powers of ten.
fn power_of_ten(exponent: f64) -> String {
    if (exponent - exponent.round()).abs() > 0.01 || exponent < -0.1 {
        return String::new();
    }
    let power = exponent.round() as u32;
    let unit = ["", " k", " M", " G"][(power as usize / 3).min(3)];
    format!("{}{unit}", 10_u32.pow(power % 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample;

    #[test]
    fn labels_of_powers_of_ten() {
        let labels: Vec<String> = [0.0, 1.0, 3.0, 5.0, 6.0].map(power_of_ten).into();
        assert_eq!(labels, ["1", "10", "1 k", "100 k", "1 M"]);
        assert_eq!(power_of_ten(2.5), "");
    }

    #[test]
    fn a_picture_has_a_line_for_each_switch_and_kind_of_rules() {
        let mut results = sample::results();
        results.settings.flow_limit = Some(1);
        for flows in [1, 1000, 1_000_000] {
            for rules in [Rules::Exact, Rules::Wildcard] {
                let scenario = Scenario::Rate { rules, flows };
                let run = sample::flow_run(1, SwitchKind::Ringway, scenario, 10.0);
                results.runs.push(run);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        draw(&results, &path).unwrap();
        let picture = std::fs::read_to_string(&path).unwrap();
        for words in [
            "concurrent flows",
            "ringway, one per flow",
            "ringway, one wildcard",
            "1 M",
            "<circle",
        ] {
            assert!(picture.contains(words), "{words} is missing");
        }
        assert!(!picture.contains("masks per direction"));
    }

    #[test]
    fn nothing_to_draw_is_known_beforehand() {
        let mut results = sample::results();
        assert!(!can_be_drawn(&results));
        let run = sample::flow_run(1, SwitchKind::Ovs, Scenario::SetUp { flows: 1 }, 1.0);
        results.runs.push(run);
        assert!(!can_be_drawn(&results));
    }
}
