//! Results as a picture: bars with their spread, rates above and cycles below.

use std::path::Path;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::error::Error;
use crate::flow_plot;
use crate::generators::GeneratorKind;
use crate::group::{Cell, Grouped, group, usual_distance};
use crate::results::{Case, Results};
use crate::stats::Summary;
use crate::switches::SwitchKind;
use crate::table::name;

/// Colours of the switches.
pub const SWITCHES: [(SwitchKind, RGBColor); 3] = [
    (SwitchKind::Ringway, RGBColor(0x1b, 0x7f, 0x5c)),
    (SwitchKind::Ovs, RGBColor(0xd9, 0x7b, 0x29)),
    (SwitchKind::Testpmd, RGBColor(0x8a, 0x93, 0x9e)),
];
/// Size of a picture.
pub const SIZE: (u32, u32) = (1100, 760);
/// Its font.
pub const FONT: &str = "sans-serif";

/// What a panel shows: its label and a cell's figure.
pub type Metric = (&'static str, fn(&Cell) -> Option<Summary>);
/// Rates above, cycles below.
pub const METRICS: [Metric; 2] = [
    ("Mpps, both directions", |cell| Some(cell.mpps)),
    ("busy cycles per packet", |cell| cell.cycles),
];

/// Whether there is anything to draw.
pub fn can_be_drawn(results: &Results) -> bool {
    match results.settings.flow_limit {
        Some(_) => flow_plot::can_be_drawn(results),
        None => results.runs.iter().any(|run| run.case.tso.is_none()),
    }
}

/// Draws the runs of the usual distance into an SVG file.
pub fn svg(results: &Results, path: &Path) -> Result<(), Error> {
    let drawn = match results.settings.flow_limit {
        Some(_) => flow_plot::draw(results, path),
        None => draw(results, path),
    };
    drawn.map_err(|why| Error::Plot {
        path: path.to_owned(),
        why,
    })
}

fn draw(results: &Results, path: &Path) -> Result<(), String> {
    let distance = usual_distance(results);
    let grouped = group(results, distance);
    let kinds = [GeneratorKind::Pktgen, GeneratorKind::Testpmd];
    let generators: Vec<_> = kinds
        .into_iter()
        .filter(|&kind| grouped.keys().any(|case| is_in_panel(case, kind)))
        .collect();
    if generators.is_empty() {
        return Err("there are no usable runs".into());
    }
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(text)?;
    let title = format!(
        "Two guests, one switch core (cores {}); bars: median, lines: min–max",
        distance.word()
    );
    let root = root.titled(&title, (FONT, 18)).map_err(text)?;
    let panels = root.split_evenly((METRICS.len(), generators.len()));
    for (index, panel) in panels.iter().enumerate() {
        let metric = METRICS[index / generators.len()];
        let generator = generators[index % generators.len()];
        draw_panel(panel, &grouped, generator, metric).map_err(text)?;
    }
    root.present().map_err(text)
}

/// An error as text.
pub fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Where a panel is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
/// Why it cannot be.
pub type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// Rates of oversized frames are in the table; beside packets they say nothing.
fn is_in_panel(case: &Case, generator: GeneratorKind) -> bool {
    case.generator == generator && case.tso.is_none()
}

fn draw_panel<'a>(
    panel: &Area<'a>,
    grouped: &Grouped,
    generator: GeneratorKind,
    (label, metric): Metric,
) -> Result<(), DrawError<'a>> {
    let cases: Vec<&Case> = grouped
        .keys()
        .filter(|case| is_in_panel(case, generator))
        .collect();
    let summaries = cases.iter().flat_map(|case| grouped[case].values());
    let highest = summaries
        .filter_map(metric)
        .map(|s| s.max)
        .fold(1.0, f64::max);
    let caption = format!("{label}, generator {}", generator.word());
    let mut chart = ChartBuilder::on(panel)
        .caption(caption, (FONT, 15))
        .margin(10)
        .x_label_area_size(32)
        .y_label_area_size(48)
        .build_cartesian_2d(-0.5..cases.len() as f64 - 0.5, 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(2 * cases.len() + 1)
        .x_label_formatter(&|x| {
            let whole = (x - x.round()).abs() < 0.01 && *x > -0.1;
            let case = whole.then(|| cases.get(x.round() as usize)).flatten();
            case.map_or(String::new(), |case| name(case))
        })
        .draw()?;
    for (position, (switch, colour)) in SWITCHES.into_iter().enumerate() {
        let bars = cases.iter().enumerate().filter_map(|(index, case)| {
            let summary = metric(grouped[*case].get(&switch)?)?;
            Some((index as f64 - 0.4 + 0.27 * position as f64, summary))
        });
        let bars: Vec<(f64, Summary)> = bars.collect();
        chart
            .draw_series(bars.iter().map(|&(left, summary)| {
                Rectangle::new(
                    [(left, 0.0), (left + 0.25, summary.median)],
                    colour.filled(),
                )
            }))?
            .label(switch.word())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        let middles = bars.iter().map(|&(left, summary)| (left + 0.125, summary));
        draw_spreads(&mut chart, middles)?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
}

/// A panel's coordinates.
pub type Chart<'a, 'b> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Lines from the least to the greatest figure.
pub fn draw_spreads<'b>(
    chart: &mut Chart<'_, 'b>,
    points: impl Iterator<Item = (f64, Summary)>,
) -> Result<(), DrawError<'b>> {
    chart.draw_series(
        points.map(|(x, summary)| PathElement::new([(x, summary.min), (x, summary.max)], BLACK)),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample;

    #[test]
    fn a_picture_names_switches_and_cases() {
        let mut results = sample::results();
        for (switch, _) in SWITCHES {
            results.runs.push(sample::run(1, switch, 10.0, 100.0));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        svg(&results, &path).unwrap();
        let picture = std::fs::read_to_string(&path).unwrap();
        for words in [
            "Open vSwitch",
            "ringway",
            "testpmd io",
            "64 mergeable",
            "<rect",
        ] {
            assert!(picture.contains(words), "{words} is missing");
        }
    }

    #[test]
    fn nothing_to_draw_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = svg(&sample::results(), &dir.path().join("p.svg")).unwrap_err();
        assert!(error.to_string().contains("no usable runs"));
    }
}
