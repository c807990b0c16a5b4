//! pktgen as a child, so that it has a process and a core of its own.

use std::time::Duration;

use pktgen::Report;

use super::{Meter, Outcome, Traffic, text};
use crate::error::Error;
use crate::process::{Process, command, memory};
use crate::switches::Switch;
use crate::tso::Oversized;

const START: Duration = Duration::from_secs(40);

pub fn run(switch: &mut dyn Switch, traffic: &Traffic) -> Result<Outcome, Error> {
    let mut pktgen = command(traffic.binaries.join("pktgen"));
    let (guests, others) = switch.sockets().split_at(2);
    for socket in guests {
        pktgen.args(["--port", &text(socket)]);
    }
    let mut start = START;
    if let Some(flows) = &traffic.flows {
        pktgen.args(["--flows", &flows.flows.to_string()]);
        // The same work for the generator, however many flows there are.
        pktgen.arg("--rewrite");
        pktgen.args(["--warmup-passes", &flows.passes.to_string()]);
        pktgen.args(["--warmup-limit", &flows.warmup_limit.to_string()]);
        if let (Some(rate), Some(socket)) = (flows.attack, others.first()) {
            pktgen.args(["--attacker", &text(socket)]);
            pktgen.args(["--attack-rate", &rate.to_string()]);
        }
        start += Duration::from_secs_f64(flows.warmup_limit);
    }
    if let Some(tso) = traffic.tso {
        pktgen.args(tso.arguments());
    }
    if traffic.packed {
        pktgen.arg("--packed");
    }
    let before = memory(switch.pid());
    let merge = if traffic.mrg_rxbuf { "on" } else { "off" };
    pktgen
        .args(["--json", "--progress", "--mrg-rxbuf", merge])
        .args(["--core", &traffic.core.to_string()])
        .args(["--size", &traffic.size.to_string()])
        .args(["--ring-size", &traffic.ring_size.to_string()])
        .args(["--warmup", &traffic.warmup.to_string()])
        .args(["--seconds", &traffic.seconds.to_string()]);
    let mut process = Process::start("pktgen", pktgen)?;
    process.lines_until("measuring", start)?;
    let meter = Meter::start(switch, process.pid(), traffic)?;
    let measuring = Duration::from_secs_f64(traffic.seconds) + Duration::from_secs(10);
    process.lines_until("measured", measuring)?;
    let mut outcome = meter.stop(switch)?;
    let after = memory(switch.pid());

    let (success, lines) = process.finish(START)?;
    let json = lines.join("\n");
    if !success {
        return Err(Error::Failed {
            name: "pktgen",
            output: json,
        });
    }
    let report: Report = serde_json::from_str(&json).map_err(|_| Error::Unreadable {
        name: "pktgen's report",
        text: json,
    })?;
    outcome.mpps = report.total_mpps;
    outcome.oversized = (traffic.tso)
        .map(|tso| Oversized::of(tso, &report, outcome.cycles.per_packet()))
        .transpose()?;
    outcome.generator_busy = Some(report.generator.busy_fraction);
    outcome.generator_cycles = Some(report.generator.busy_cycles_per_frame);
    outcome.lost = Some(report.directions.iter().map(|d| d.lost).sum());
    if let Some(flows) = &mut outcome.flows {
        flows.first_pass = report.warmup.first_pass;
        flows.passes = report.warmup.passes;
        let crafted = report.crafted.map(|crafted| crafted.sent as f64);
        flows.crafted = crafted.map(|sent| sent / report.seconds);
        flows.grown = before.zip(after).map(|(before, after)| after.since(before));
    }
    Ok(outcome)
}
