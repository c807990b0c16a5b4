//! The measurements.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::blast::blast;
use super::lab::Lab;
use super::{Figures, HostCase, PortKind, PortTimes, Traffic, Way};
use crate::error::Error;
use crate::process::{Process, entering};

/// What is under way when the sender stops has arrived after this.
const DRAIN: Duration = Duration::from_millis(100);
/// How long iperf3 may take beyond its time.
const GRACE: Duration = Duration::from_secs(10);

/// Measures a case.
pub fn case(lab: &Lab, case: HostCase, seconds: f64) -> Result<Figures, Error> {
    match case {
        HostCase::Rate { way, size } => rate(lab, way, size, seconds).map(Figures::Traffic),
        HostCase::Tcp { way } => tcp(lab, way, seconds).map(Figures::Traffic),
        HostCase::Ports { kind, count } => ports(lab, kind, count).map(Figures::Ports),
    }
}

fn rate(lab: &Lab, way: Way, size: u16, seconds: f64) -> Result<Traffic, Error> {
    let (from, to) = lab.ends(way);
    // What was learned may have been forgotten.
    to.reaches(from.address)?;
    let arrived = || to.namespace.received(to.interface);
    let (before, frames) = (lab.switch.meter()?, arrived()?);
    let (offered, seconds) = blast(&from, &to, size.into(), Duration::from_secs_f64(seconds))?;
    sleep(DRAIN);
    let (frames, after) = (arrived()? - frames, lab.switch.meter()?);
    Ok(Traffic {
        seconds,
        offered: Some(offered),
        frames: Some(frames),
        bytes: frames * u64::from(size),
        spent: after.since(&before),
    })
}

fn tcp(lab: &Lab, way: Way, seconds: f64) -> Result<Traffic, Error> {
    let (from, to) = lab.ends(way);
    let mut server = entering(&to.namespace.path());
    server.args(["iperf3", "--server", "--one-off", "--forceflush"]);
    let mut server = Process::start("iperf3 --server", server)?;
    server.lines_until("listening", GRACE)?;

    let before = lab.switch.meter()?;
    let mut client = entering(&from.namespace.path());
    client
        .args(["iperf3", "--json", "--client", to.address])
        .args(["--time", &format!("{}", seconds.ceil())]);
    let limit = Duration::from_secs_f64(seconds.ceil()) + GRACE;
    let report = crate::process::output_within("iperf3 --client", client, limit)?;
    let after = lab.switch.meter()?;
    let (bytes, seconds) = received(&report).ok_or(Error::Unreadable {
        name: "iperf3 --json",
        text: report,
    })?;
    Ok(Traffic {
        seconds,
        offered: None,
        frames: None,
        bytes,
        spent: after.since(&before),
    })
}

/// Bytes and seconds of iperf3's receiver.
fn received(report: &str) -> Option<(u64, f64)> {
    let report: Value = serde_json::from_str(report).ok()?;
    let sum = report.get("end")?.get("sum_received")?;
    Some((sum.get("bytes")?.as_u64()?, sum.get("seconds")?.as_f64()?))
}

fn ports(lab: &Lab, kind: PortKind, count: u16) -> Result<PortTimes, Error> {
    let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
    let timed = |action: &dyn Fn() -> Result<(), Error>| {
        let start = Instant::now();
        action().map(|()| start.elapsed().as_secs_f64() * 1e3)
    };
    let add = |name: &String| timed(&|| lab.switch.add_port(kind, name));
    let del = |name: &String| timed(&|| lab.switch.del_port(name));
    Ok(PortTimes {
        add: names.iter().map(add).collect::<Result<_, _>>()?,
        del: names.iter().rev().map(del).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::received;

    #[test]
    fn what_iperf3_received() {
        let report = r#"{"end": {"sum_sent": {"bytes": 9}, "sum_received":
            {"start": 0, "end": 1.000174, "seconds": 1.000174, "bytes": 1276837888, "bits_per_second": 1e10}}}"#;
        assert_eq!(received(report), Some((1_276_837_888, 1.000174)));
        assert_eq!(received(r#"{"error": "unable to connect"}"#), None);
    }
}
