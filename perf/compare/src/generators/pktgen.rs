//! pktgen as a child, so that it has a process and a core of its own.

use std::time::Duration;

use pktgen::Report;

use super::{Meter, Outcome, Traffic, text};
use crate::error::Error;
use crate::process::{Process, command};
use crate::switches::Switch;

const START: Duration = Duration::from_secs(40);

pub fn run(switch: &mut dyn Switch, traffic: &Traffic) -> Result<Outcome, Error> {
    let mut pktgen = command(traffic.binaries.join("pktgen"));
    for socket in switch.sockets() {
        pktgen.args(["--port", &text(socket)]);
    }
    let merge = if traffic.mrg_rxbuf { "on" } else { "off" };
    pktgen
        .args(["--json", "--progress", "--mrg-rxbuf", merge])
        .args(["--core", &traffic.core.to_string()])
        .args(["--size", &traffic.size.to_string()])
        .args(["--ring-size", &traffic.ring_size.to_string()])
        .args(["--warmup", &traffic.warmup.to_string()])
        .args(["--seconds", &traffic.seconds.to_string()]);
    let mut process = Process::start("pktgen", pktgen)?;
    process.lines_until("measuring", START)?;
    let meter = Meter::start(switch, process.pid())?;
    let measuring = Duration::from_secs_f64(traffic.seconds) + Duration::from_secs(10);
    process.lines_until("measured", measuring)?;
    let mut outcome = meter.stop(switch)?;

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
    outcome.generator_busy = Some(report.generator.busy_fraction);
    outcome.generator_cycles = Some(report.generator.busy_cycles_per_frame);
    outcome.lost = Some(report.directions.iter().map(|d| d.lost).sum());
    Ok(outcome)
}
