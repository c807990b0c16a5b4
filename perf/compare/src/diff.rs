//! Two files of results side by side, per switch and case.

use std::fmt::Write;

use crate::group::group;
use crate::pingpong::Distance;
use crate::results::Results;
use crate::stats::Summary;
use crate::table::name;

/// What changed from `a` to `b`, as Markdown; cases that only one has are left out.
pub fn markdown(a: &Results, b: &Results) -> String {
    let short = |results: &Results| {
        let revision = &results.revision;
        revision.get(..12).unwrap_or(revision).to_owned()
    };
    let mut text = format!(
        "From {} ({}) to {} ({}). A change counts only if the ranges have no point in common.\n",
        short(a),
        a.date,
        short(b),
        b.date
    );
    for distance in [Distance::Near, Distance::Far] {
        let (before, after) = (group(a, distance), group(b, distance));
        let mut rows = String::new();
        for (case, cells) in &before {
            for (switch, old) in cells {
                let Some(new) = after.get(case).and_then(|cells| cells.get(switch)) else {
                    continue;
                };
                let _ = writeln!(
                    rows,
                    "| {} | {}, {} | {} | {} |",
                    switch.word(),
                    case.generator.word(),
                    name(case),
                    change(old.mpps, new.mpps),
                    match (old.cycles, new.cycles) {
                        (Some(old), Some(new)) => change(old, new),
                        _ => "–".into(),
                    }
                );
            }
        }
        if !rows.is_empty() {
            let _ = write!(
                text,
                "\n### Cores {}\n\n| switch | case | Mpps | cycles per packet |\n|---|---|---|---|\n{rows}",
                distance.word()
            );
        }
    }
    text
}

fn change(old: Summary, new: Summary) -> String {
    let percent = 100.0 * (new.median / old.median - 1.0);
    let verdict = if old.apart_from(&new) {
        format!("**{percent:+.1} %**")
    } else {
        format!("{percent:+.1} %, within the spread")
    };
    format!("{:.2} → {:.2} ({verdict})", old.median, new.median)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample;
    use crate::switches::SwitchKind;

    fn results(switch: SwitchKind, rates: [f64; 2]) -> Results {
        let mut results = sample::results();
        for (round, mpps) in (1..).zip(rates) {
            results.runs.push(sample::run(round, switch, mpps, 100.0));
        }
        results
    }

    #[test]
    fn a_change_beyond_the_spread_stands_out() {
        let a = results(SwitchKind::Ringway, [10.0, 11.0]);
        let b = results(SwitchKind::Ringway, [20.0, 22.0]);
        let text = markdown(&a, &b);
        assert!(text.contains("10.50 → 21.00 (**+100.0 %**)"), "{text}");
        assert!(text.contains("100.00 → 100.00 (+0.0 %, within the spread)"));
    }

    #[test]
    fn what_only_one_has_is_left_out() {
        let a = results(SwitchKind::Ringway, [10.0, 11.0]);
        let b = results(SwitchKind::Ovs, [20.0, 22.0]);
        assert!(!markdown(&a, &b).contains('→'));
    }
}
