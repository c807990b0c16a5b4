//! Oversized TCP frames, as guests with TSO send them (`pktgen --tso`): cases,
//! what must come of them, and their table.

use std::fmt::Write;

use clap::ValueEnum;
use pktgen::Report;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::group::{Cell, Grouped};
use crate::pingpong::Distance;
use crate::results::Case;
use crate::stats::Summary;
use crate::switches::SwitchKind;
use crate::table::ratio;

/// Frame size in bytes: what a Linux guest sends at most, a multiple of what
/// fits into a segment, and headers.
pub const SIZE: u32 = 65_226;

/// How oversized frames go to the guests.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Tso {
    /// Whole, into mergeable buffers of 1,536 bytes: Linux' least.
    Whole,
    /// Whole, into mergeable buffers of 4,096 bytes: Linux' once frames are long.
    WholePages,
    /// In segments: the guests take no oversized frames (no GUEST_TSO4).
    Cut,
}

impl Tso {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Whole, Self::WholePages, Self::Cut];

    /// The words for tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Whole => "whole, buffers of 1,536",
            Self::WholePages => "whole, buffers of 4,096",
            Self::Cut => "cut, buffers of 1,536",
        }
    }

    /// What pktgen is told.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Whole => &["--tso", "--listen"],
            Self::WholePages => &["--tso", "--listen", "--receive-buffer", "4096"],
            Self::Cut => &["--tso", "--listen", "--cut"],
        }
    }

    /// In how many pieces a frame is to arrive.
    fn pieces(self) -> usize {
        match self {
            Self::Whole | Self::WholePages => 1,
            Self::Cut => pktgen::oversized::segments(SIZE as usize),
        }
    }

    /// Why a switch is not measured.
    pub fn skipped(self, switch: SwitchKind) -> Option<&'static str> {
        match (switch, self) {
            (SwitchKind::Ovs, Self::Cut) => Some(
                "Open vSwitch 3.1 has no segmentation in software: \
                 it hands a guest that takes none the frames uncut",
            ),
            (SwitchKind::Testpmd, _) => Some(
                "testpmd's vhost ports offer no TSO as they come, \
                 and io forwarding hands on no more than bytes",
            ),
            _ => None,
        }
    }
}

/// What came of oversized frames.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Oversized {
    /// Gigabits per second of frames as they were sent, both directions added.
    pub gbps: f64,
    /// Bytes of such frames per busy cycle of the switch.
    pub bytes_per_cycle: Option<f64>,
    /// In how many pieces a frame arrived.
    pub pieces_per_frame: f64,
}

impl Oversized {
    /// From pktgen's report and the switch's cycles per frame; an error if
    /// the switch did not cut frames, or did, against what was negotiated.
    pub fn of(tso: Tso, report: &Report, cycles: Option<f64>) -> Result<Self, Error> {
        let got = report.tso.map_or(0.0, |tso| tso.pieces_per_frame);
        let expected = tso.pieces();
        // A frame may be under way when measuring begins or ends.
        if (got / expected as f64 - 1.0).abs() > 0.02 {
            return Err(Error::Pieces { expected, got });
        }
        Ok(Self {
            gbps: gbps(report.total_mpps),
            bytes_per_cycle: cycles.map(|cycles| f64::from(SIZE) / cycles),
            pieces_per_frame: got,
        })
    }
}

fn gbps(mpps: f64) -> f64 {
    mpps * f64::from(SIZE) * 8.0 / 1e3
}

/// The table of one distance; empty if there are no such runs.
pub fn section(grouped: &Grouped, distance: Distance) -> String {
    let rows: Vec<(Tso, _)> = grouped
        .iter()
        .filter_map(|(case, cells)| Some((case.tso?, cells)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n### TCP frames of {SIZE} bytes (TSO), generator pktgen, cores {}\n\n\
         Each cell: Gbit/s, both directions added, median (min–max) / bytes per busy cycle.\n\n\
         | frames go to the guests | runs | ringway | Open vSwitch, userspace TSO | \
         rate ÷ Open vSwitch | bytes per cycle ÷ Open vSwitch |\n|---|---|---|---|---|---|\n",
        distance.word()
    );
    for (tso, cells) in &rows {
        let [ours, theirs] =
            [SwitchKind::Ringway, SwitchKind::Ovs].map(|switch| cells.get(&switch));
        let count = |cell: Option<&Cell>| cell.map_or(0, |cell| cell.mpps.count);
        let rate = |cell: Option<&Cell>| cell.map(|cell| cell.mpps.median);
        let _ = writeln!(
            text,
            "| {} | {}/{} | {} | {} | {} | {} |",
            tso.words(),
            count(ours),
            count(theirs),
            figures(ours),
            figures(theirs),
            ratio(rate(ours), rate(theirs)),
            ratio(ours.and_then(efficiency), theirs.and_then(efficiency)),
        );
    }
    for switch in [SwitchKind::Ovs, SwitchKind::Testpmd] {
        let mut why: Vec<_> = rows
            .iter()
            .filter_map(|row| row.0.skipped(switch))
            .collect();
        why.dedup();
        for why in why {
            let _ = write!(text, "\nNot measured: {why}.");
        }
    }
    text.push('\n');
    text
}

/// Bytes per busy cycle, the median.
fn efficiency(cell: &Cell) -> Option<f64> {
    cell.cycles.map(|cycles| f64::from(SIZE) / cycles.median)
}

fn figures(cell: Option<&Cell>) -> String {
    let Some(cell) = cell else {
        return "–".into();
    };
    let Summary {
        median, min, max, ..
    } = cell.mpps;
    let [median, min, max] = [median, min, max].map(gbps);
    let bytes = efficiency(cell).map_or("?".into(), |bytes| format!("{bytes:.2}"));
    format!("{median:.1} ({min:.1}–{max:.1}) / {bytes}")
}

/// A case of oversized frames.
pub fn case(tso: Tso) -> Case {
    Case {
        generator: crate::generators::GeneratorKind::Pktgen,
        size: SIZE,
        mrg_rxbuf: true,
        packed: false,
        scenario: None,
        tso: Some(tso),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample;
    use crate::table::markdown;

    #[test]
    fn rates_and_bytes_per_cycle_beside_open_vswitch() {
        let mut results = sample::results();
        for (round, mpps) in [(1, 0.1), (2, 0.12), (3, 0.11)] {
            let mut run = |switch, tso, mpps, cycles| {
                let mut run = sample::run(round, switch, mpps, cycles);
                run.case = case(tso);
                results.runs.push(run);
            };
            run(SwitchKind::Ringway, Tso::Whole, mpps, 6522.6);
            run(SwitchKind::Ovs, Tso::Whole, mpps / 2.0, 13_045.2);
            run(SwitchKind::Ringway, Tso::Cut, mpps, 32_613.0);
        }
        let text = markdown(&results);
        let whole = "| whole, buffers of 1,536 | 3/3 | 57.4 (52.2–62.6) / 10.00 | \
                     28.7 (26.1–31.3) / 5.00 | **2.00** | **2.00** |";
        assert!(text.contains(whole), "{text}");
        let cut = "| cut, buffers of 1,536 | 3/0 | 57.4 (52.2–62.6) / 2.00 | – | – | – |";
        assert!(text.contains(cut), "{text}");
        assert!(text.contains("Not measured: Open vSwitch 3.1"), "{text}");
        // … and in no table of packets.
        assert!(!text.contains("| 65226"), "{text}");
    }

    #[test]
    fn only_open_vswitch_cutting_and_testpmd_are_left_out() {
        let measured = |switch| Tso::ALL.map(|tso| tso.skipped(switch).is_none());
        assert_eq!(measured(SwitchKind::Ringway), [true; 3]);
        assert_eq!(measured(SwitchKind::Ovs), [true, true, false]);
        assert_eq!(measured(SwitchKind::Testpmd), [false; 3]);
    }
}
