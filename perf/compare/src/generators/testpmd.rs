//! dpdk-testpmd with two virtio-user ports: 64 bursts of 32 frames go round
//! between it and the switch, as fast as the slower of the two.

use std::time::{Duration, Instant};

use super::{Meter, Outcome, Traffic, text};
use crate::error::Error;
use crate::parse::testpmd_port_stats;
use crate::process::{Process, command};
use crate::switches::Switch;

const START: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(5);
/// The switch needs a moment from "connected" to "forwards".
const SETTLE: Duration = Duration::from_millis(700);
const ATTEMPTS: u32 = 5;
/// MAC addresses of the two guests, so that a learning switch learns.
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

pub fn run(switch: &mut dyn Switch, traffic: &Traffic) -> Result<Outcome, Error> {
    let mut process = Process::start("dpdk-testpmd", arguments(switch, traffic))?;
    process.lines_until("Done", START)?;
    std::thread::sleep(SETTLE);
    let warmup = Duration::from_secs_f64(traffic.warmup);
    for attempt in 1.. {
        process.say("start tx_first 64")?;
        std::thread::sleep(warmup);
        let (when, before) = packets(&mut process)?;
        std::thread::sleep(Duration::from_millis(100));
        let (then, after) = packets(&mut process)?;
        if after > before && then > when {
            break;
        }
        if attempt == ATTEMPTS {
            return Err(Error::NoTraffic);
        }
        process.say("stop")?;
        std::thread::sleep(SETTLE);
    }

    let meter = Meter::start(switch, process.pid(), traffic)?;
    let (start, before) = packets(&mut process)?;
    std::thread::sleep(Duration::from_secs_f64(traffic.seconds));
    let (end, after) = packets(&mut process)?;
    let mut outcome = meter.stop(switch)?;
    let seconds = end.duration_since(start).as_secs_f64();
    outcome.mpps = (after - before) as f64 / seconds / 1e6;
    Ok(outcome)
}

fn arguments(switch: &dyn Switch, traffic: &Traffic) -> std::process::Command {
    let mut testpmd = command("stdbuf");
    testpmd
        .args(["-oL", "dpdk-testpmd", "--in-memory", "-m", "256"])
        .args(["--single-file-segments", "--no-pci", "--no-telemetry"])
        // Both on one core: the first only reads commands.
        .arg("--lcores")
        .arg(format!("0@{0},1@{0}", traffic.core))
        .env("RUNTIME_DIRECTORY", &traffic.dir);
    for (port, (socket, mac)) in switch.sockets().iter().zip(MACS).enumerate() {
        testpmd.arg("--vdev").arg(format!(
            "net_virtio_user{port},path={},mac={mac},queues=1,queue_size={},mrg_rxbuf={},packed_vq={}",
            text(socket),
            traffic.ring_size,
            u8::from(traffic.mrg_rxbuf),
            u8::from(traffic.packed),
        ));
    }
    let ring = traffic.ring_size.to_string();
    testpmd
        .args(["--", "-i", "--forward-mode=io", "--total-num-mbufs=16384"])
        .arg(format!("--txpkts={}", traffic.size))
        .arg(format!("--eth-peer=0,{}", MACS[1]))
        .arg(format!("--eth-peer=1,{}", MACS[0]))
        .args(["--rxd", &ring, "--txd", &ring]);
    testpmd
}

/// Frames that have arrived at both ports, and when that was read.
fn packets(process: &mut Process) -> Result<(Instant, u64), Error> {
    process.forget_output();
    process.say("show port stats all")?;
    process.lines_until("statistics for port 0", ANSWER)?;
    let (when, mut lines) = process.lines_until("Tx-pps", ANSWER)?;
    lines.insert(0, "NIC statistics for port 0".into());
    let (_, more) = process.lines_until("Tx-pps", ANSWER)?;
    lines.extend(more);
    let ports = testpmd_port_stats(&lines.join("\n"));
    if ports.len() != 2 {
        return Err(Error::Unreadable {
            name: "testpmd's show port stats",
            text: lines.join("\n"),
        });
    }
    Ok((when, ports.iter().sum()))
}
