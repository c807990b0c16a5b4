//! The figures of a run, for people and for programs.

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::attack::Crafted;
use crate::verify::Verdict;

/// The figures of a run. Rates are of frames that arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Frame size in bytes on the ring (without FCS), or `imix`.
    pub frame: String,
    /// Flows per direction.
    pub flows: u64,
    /// Descriptors per ring.
    pub ring_size: u16,
    /// Frames under way per direction, in a closed loop.
    pub in_flight: Option<u64>,
    /// Frames per second and direction asked for, in an open loop.
    pub rate: Option<f64>,
    /// Negotiated virtio features of port 0, in hexadecimal.
    pub features: String,
    /// Whether receive buffers were mergeable.
    pub mrg_rxbuf: bool,
    /// Whether all guest memory was on hugepages.
    pub hugepages: bool,
    /// Of oversized frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tso: Option<Tso>,
    /// What went before measuring.
    pub warmup: Warmup,
    /// Seconds measured.
    pub seconds: f64,
    /// Ticks of the time-stamp counter per second.
    pub tsc_hertz: f64,
    /// Million frames per second, all directions together.
    pub total_mpps: f64,
    /// Gigabits of frames (without preamble and FCS) per second, likewise.
    pub total_gbps: f64,
    /// Each direction.
    pub directions: Vec<Direction>,
    /// The attacker's frames while measuring, if there was one.
    pub crafted: Option<Crafted>,
    /// What the generator itself cost.
    pub generator: Generator,
}

/// What is so with oversized frames.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tso {
    /// Bytes of a page of payload, each with a descriptor of its own.
    pub page: u32,
    /// Bytes of a receive buffer.
    pub receive_buffer: u32,
    /// Whether the guests take none, and the switch has to cut.
    pub cut: bool,
    /// In how many pieces a frame arrived while measuring: 1 is uncut.
    pub pieces_per_frame: f64,
}

/// Traffic before measuring.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Warmup {
    /// How long it took.
    pub seconds: f64,
    /// How often every flow had been sent when it ended.
    pub passes: f64,
    /// Seconds until every flow had been sent once, if that was waited for.
    pub first_pass: Option<f64>,
}

/// The traffic from one port to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Direction {
    /// Sending port.
    pub from: usize,
    /// Receiving port.
    pub to: usize,
    /// Frames sent while measuring.
    pub sent: u64,
    /// Frames that arrived while measuring.
    pub received: u64,
    /// Million frames per second that arrived.
    pub mpps: f64,
    /// Gigabits per second that arrived.
    pub gbps: f64,
    /// Frames sent from start to end.
    pub total_sent: u64,
    /// Frames that arrived from start until all had drained.
    pub total_received: u64,
    /// `total_sent - total_received`: dropped by the switch.
    pub lost: u64,
    /// Frames an open loop could not send when they were due.
    pub skipped: u64,
    /// Times that nothing arrived for 20 ms although frames were under way.
    pub stalls: u64,
    /// Receive buffers that the switch returned out of order.
    pub out_of_order: u64,
    /// With `--verify`, over the whole run.
    pub verdict: Option<Verdict>,
    /// With `--latency`, while measuring.
    pub latency: Option<Latency>,
}

/// Time from sending to receiving, in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Frames measured.
    pub count: u64,
    /// Shortest.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Half of the frames took no longer.
    pub p50: f64,
    /// 90 % took no longer.
    pub p90: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer.
    pub p999: f64,
    /// Longest.
    pub max: f64,
}

impl Latency {
    /// From a histogram in ticks of `nanos` nanoseconds each.
    pub fn from_ticks(histogram: &Histogram<u64>, nanos: f64) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 * nanos;
        Self {
            count: histogram.len(),
            min: histogram.min() as f64 * nanos,
            mean: histogram.mean() * nanos,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 * nanos,
        }
    }
}

/// What the generator did with its core.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generator {
    /// Core it was pinned to.
    pub core: Option<usize>,
    /// Share of its cycles in rounds that moved frames; well below 1 means
    /// that it waited for the switch.
    pub busy_fraction: f64,
    /// Cycles of those rounds per frame that arrived: one send, one receive.
    pub busy_cycles_per_frame: f64,
    /// Mean number of frames found when any were.
    pub frames_per_receive: f64,
    /// Rounds over all ports.
    pub rounds: u64,
    /// Rounds in which nothing was to do.
    pub idle_rounds: u64,
    /// Kicks that the switch asked for.
    pub kicks: u64,
}

impl Report {
    /// Whether verification (if any) found nothing wrong.
    pub fn is_clean(&self) -> bool {
        let verdicts = self.directions.iter().filter_map(|d| d.verdict.as_ref());
        verdicts.into_iter().all(Verdict::is_clean)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let merge = if self.mrg_rxbuf { "on" } else { "off" };
        let pages = if self.hugepages { "huge" } else { "ordinary" };
        writeln!(
            f,
            "frame {} B, {} flow(s), ring {}, mrg_rxbuf {merge}, {pages} pages, {:.2} s",
            self.frame, self.flows, self.ring_size, self.seconds
        )?;
        if let Some(tso) = &self.tso {
            let take = if tso.cut { "no" } else { "whole" };
            writeln!(
                f,
                "oversized: guests take {take} frames, pages of {} B, receive buffers of {} B; \
                 {:.2} pieces per frame",
                tso.page, tso.receive_buffer, tso.pieces_per_frame
            )?;
        }
        for direction in &self.directions {
            write!(f, "{direction}")?;
        }
        writeln!(
            f,
            "total   {:8.3} Mpps  {:7.2} Gbit/s",
            self.total_mpps, self.total_gbps
        )?;
        if let Some(crafted) = &self.crafted {
            writeln!(
                f,
                "attacker: {:.0} crafted frames per second, {} not sent when due",
                crafted.sent as f64 / self.seconds,
                crafted.skipped
            )?;
        }
        let generator = &self.generator;
        writeln!(
            f,
            "generator: busy {:.0} %, {:.0} cycles per frame, {:.1} frames per receive, {} kicks",
            generator.busy_fraction * 100.0,
            generator.busy_cycles_per_frame,
            generator.frames_per_receive,
            generator.kicks
        )
    }
}

impl Display for Direction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} -> {}  {:8.3} Mpps  {:7.2} Gbit/s  sent {}, received {}, lost {}, stalls {}",
            self.from,
            self.to,
            self.mpps,
            self.gbps,
            self.total_sent,
            self.total_received,
            self.lost,
            self.stalls
        )?;
        if self.skipped > 0 {
            writeln!(f, "        {} not sent when due", self.skipped)?;
        }
        if self.out_of_order > 0 {
            writeln!(f, "        {} buffers out of order", self.out_of_order)?;
        }
        if let Some(v) = &self.verdict {
            let word = if v.is_clean() { "clean" } else { "NOT CLEAN" };
            writeln!(
                f,
                "        verify {word}: good {}, lost {}, duplicated {}, reordered {}, corrupt {}, stray {}",
                v.good, v.lost, v.duplicated, v.reordered, v.corrupt, v.stray
            )?;
        }
        if let Some(l) = &self.latency {
            writeln!(
                f,
                "        latency us: p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}",
                l.p50 / 1e3,
                l.p90 / 1e3,
                l.p99 / 1e3,
                l.p999 / 1e3,
                l.max / 1e3
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_quantiles_come_out_in_nanoseconds() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for ticks in 1..=1000 {
            histogram.record(ticks).unwrap();
        }
        let latency = Latency::from_ticks(&histogram, 2.0);
        assert_eq!(latency.count, 1000);
        assert_eq!(latency.p50, 1000.0);
        assert_eq!(latency.p99, 1980.0);
        assert_eq!(latency.max, 2000.0);
    }
}
