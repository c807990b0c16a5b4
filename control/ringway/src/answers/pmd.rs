//! `pmd show` and `pmd stats`.

use std::collections::BTreeMap;

use ringway_proto::v1 as pb;
use serde_json::{Value, json};

use super::{packets_json, table};

/// `pmd show` for people.
pub fn show_text(answer: &pb::PmdShowResponse) -> String {
    let header = [
        "CORE",
        "STATE",
        "PORT",
        "QUEUE",
        "DEQUEUE RING",
        "ENQUEUE RING",
    ];
    let mut rows = Vec::new();
    for pmd in &answer.pmds {
        let core = [pmd.core.to_string(), state(pmd).to_owned()];
        if pmd.polls.is_empty() {
            let none = ["-"; 4].map(str::to_owned);
            rows.push([core.as_slice(), &none].concat());
        }
        for poll in &pmd.polls {
            let ring = |size: u32| match size {
                0 => "stopped".to_owned(),
                size => size.to_string(),
            };
            let poll = [
                poll.port.clone(),
                poll.queue.to_string(),
                ring(poll.dequeue_size),
                ring(poll.enqueue_size),
            ];
            rows.push([core.as_slice(), &poll].concat());
        }
    }
    table(&header.map(str::to_owned), &rows, usize::MAX)
}

fn state(pmd: &pb::Pmd) -> &'static str {
    match pmd.sleeping {
        true => "asleep",
        false => "polling",
    }
}

/// `pmd show` for programs.
pub fn show_json(answer: &pb::PmdShowResponse) -> Value {
    let pmds = answer.pmds.iter().map(|pmd| {
        let polls = pmd.polls.iter().map(|poll| {
            json!({
                "port": poll.port,
                "queue": poll.queue,
                "dequeue_size": poll.dequeue_size,
                "enqueue_size": poll.enqueue_size,
            })
        });
        json!({
            "core": pmd.core,
            "state": state(pmd),
            "polls": polls.collect::<Vec<_>>(),
        })
    });
    json!({"pmds": pmds.collect::<Vec<_>>()})
}

/// Whether a core's packets are all accounted for.
struct Balance {
    /// received + replicated − transmitted − dropped
    difference: i128,
}

impl Balance {
    fn of(packets: &pb::Packets) -> Self {
        let into = i128::from(packets.received) + i128::from(packets.replicated);
        let out = i128::from(packets.transmitted) + i128::from(packets.dropped);
        Self {
            difference: into - out,
        }
    }

    fn text(&self) -> String {
        match self.difference {
            0 => "even".into(),
            n => format!("{n:+}"),
        }
    }
}

/// `value` as a part of `whole`, in percent.
fn percent(value: u64, whole: u64) -> String {
    match whole {
        0 => format!("{value} (-)"),
        _ => format!("{value} ({:.1} %)", 100.0 * value as f64 / whole as f64),
    }
}

/// Busy cycles per received packet; none before the first packet.
fn busy_per_packet(pmd: &pb::PmdCounters) -> Option<f64> {
    let received = pmd.packets.unwrap_or_default().received;
    (received > 0).then(|| pmd.busy_cycles as f64 / received as f64)
}

/// `pmd stats` for people: a column per core.
pub fn stats_text(answer: &pb::PmdStatsResponse) -> String {
    type Row = (&'static str, fn(&pb::PmdCounters) -> String);
    const ROWS: &[Row] = &[
        ("iterations", |pmd| pmd.iterations.to_string()),
        ("busy polls", |pmd| pmd.busy_polls.to_string()),
        ("busy cycles", |pmd| percent(pmd.busy_cycles, cycles(pmd))),
        ("idle cycles", |pmd| percent(pmd.idle_cycles, cycles(pmd))),
        ("sleep cycles", |pmd| percent(pmd.sleep_cycles, cycles(pmd))),
        ("sleeps", |pmd| pmd.sleeps.to_string()),
        ("busy cycles per packet", |pmd| {
            busy_per_packet(pmd).map_or("-".into(), |cycles| format!("{cycles:.1}"))
        }),
        ("received", |pmd| packets(pmd).received.to_string()),
        ("+ replicated", |pmd| packets(pmd).replicated.to_string()),
        ("= transmitted", |pmd| packets(pmd).transmitted.to_string()),
        ("+ dropped", |pmd| packets(pmd).dropped.to_string()),
        ("balance", |pmd| Balance::of(&packets(pmd)).text()),
    ];
    let cores = answer.pmds.iter().map(|pmd| format!("CORE {}", pmd.core));
    let header: Vec<_> = [String::new()].into_iter().chain(cores).collect();
    let row = |label: &str, value: &dyn Fn(&pb::PmdCounters) -> String| -> Vec<String> {
        let values = answer.pmds.iter().map(value);
        [label.to_owned()].into_iter().chain(values).collect()
    };
    let mut rows: Vec<_> = ROWS
        .iter()
        .map(|(label, value)| row(label, value))
        .collect();
    let reasons: BTreeMap<_, _> = answer
        .pmds
        .iter()
        .flat_map(|pmd| &pmd.drops)
        .map(|count| (count.reason.as_str(), ()))
        .collect();
    for reason in reasons.keys() {
        rows.push(row(&format!("dropped: {reason}"), &|pmd| {
            let count = pmd.drops.iter().find(|count| count.reason == *reason);
            count.map_or(0, |count| count.packets).to_string()
        }));
    }
    table(&header, &rows, 1)
}

fn packets(pmd: &pb::PmdCounters) -> pb::Packets {
    pmd.packets.unwrap_or_default()
}

/// All cycles that the core accounted for.
fn cycles(pmd: &pb::PmdCounters) -> u64 {
    let awake = pmd.busy_cycles.saturating_add(pmd.idle_cycles);
    awake.saturating_add(pmd.sleep_cycles)
}

/// `pmd stats` for programs.
pub fn stats_json(answer: &pb::PmdStatsResponse) -> Value {
    let pmds = answer.pmds.iter().map(|pmd| {
        let drops = pmd.drops.iter().map(|count| {
            json!({
                "reason": count.reason,
                "explanation": count.explanation,
                "packets": count.packets,
            })
        });
        json!({
            "core": pmd.core,
            "iterations": pmd.iterations,
            "busy_polls": pmd.busy_polls,
            "busy_cycles": pmd.busy_cycles,
            "idle_cycles": pmd.idle_cycles,
            "sleep_cycles": pmd.sleep_cycles,
            "sleeps": pmd.sleeps,
            "busy_cycles_per_packet": busy_per_packet(pmd),
            "packets": packets_json(pmd.packets.as_ref()),
            "balanced": Balance::of(&packets(pmd)).difference == 0,
            "drops": drops.collect::<Vec<_>>(),
        })
    });
    json!({"tsc_hz": answer.tsc_hz, "pmds": pmds.collect::<Vec<_>>()})
}
