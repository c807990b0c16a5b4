//! What the switches and testpmd print, as numbers. The tests hold captured
//! output.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a switch's poll core spent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cycles {
    /// Cycles of polls that brought packets.
    pub busy: f64,
    /// Cycles of polls that brought none (and asleep), where the switch tells.
    pub idle: Option<f64>,
    /// Packets.
    pub packets: f64,
}

impl Cycles {
    /// Busy cycles per packet, if there were packets.
    pub fn per_packet(&self) -> Option<f64> {
        (self.packets > 0.0).then_some(self.busy / self.packets)
    }

    /// Share of busy cycles, where the switch tells.
    pub fn busy_fraction(&self) -> Option<f64> {
        let idle = self.idle?;
        (self.busy + idle > 0.0).then_some(self.busy / (self.busy + idle))
    }

    /// What was spent since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            busy: self.busy - before.busy,
            idle: self.idle.zip(before.idle).map(|(now, then)| now - then),
            packets: self.packets - before.packets,
        }
    }
}

/// What a switch's flow caches did, and hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lookups {
    /// Packets whose megaflow was there.
    pub hit: u64,
    /// Packets that went through the slow path.
    pub missed: u64,
    /// Packets that should have and were dropped.
    pub lost: u64,
    /// Megaflows now.
    pub flows: u64,
    /// Masks now, where the switch tells.
    pub masks: Option<u64>,
    /// Of `hit`, packets that a cache before the masks knew.
    pub cached: u64,
    /// Packets for which masks were tried.
    pub masked: u64,
    /// Masks tried for them.
    pub probes: f64,
    /// Bytes of one megaflow, where the switch tells.
    pub flow_bytes: Option<u64>,
}

impl Lookups {
    /// Counts since `before`; what is there now stays.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            hit: self.hit.saturating_sub(before.hit),
            missed: self.missed.saturating_sub(before.missed),
            lost: self.lost.saturating_sub(before.lost),
            cached: self.cached.saturating_sub(before.cached),
            masked: self.masked.saturating_sub(before.masked),
            probes: (self.probes - before.probes).max(0.0),
            ..*self
        }
    }

    /// Share of packets that a cache before the masks knew.
    pub fn cached_share(&self) -> Option<f64> {
        let packets = self.hit + self.missed;
        (packets > 0).then(|| self.cached as f64 / packets as f64)
    }

    /// Masks tried per packet for which any were.
    pub fn probes_each(&self) -> Option<f64> {
        (self.masked > 0).then(|| self.probes / self.masked as f64)
    }
}

/// The number behind `label` in `text`, as far as it goes.
fn number_after(text: &str, label: &str) -> Option<f64> {
    let rest = &text[text.find(label)? + label.len()..];
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// `ovs-appctl dpif-netdev/pmd-stats-show`, all poll cores added.
pub fn ovs_pmd_stats(text: &str) -> Option<Cycles> {
    let mut total: Option<Cycles> = None;
    // The last section is the main thread's.
    for section in text.split("pmd thread numa_id").skip(1) {
        let section = section.split("main thread:").next()?;
        // Absent until the core has polled anything.
        let cycles = Cycles {
            busy: number_after(section, "processing cycles:").unwrap_or(0.0),
            idle: Some(number_after(section, "idle cycles:").unwrap_or(0.0)),
            packets: number_after(section, "packets received:")?,
        };
        let sum = total.get_or_insert(Cycles {
            idle: Some(0.0),
            ..Cycles::default()
        });
        sum.busy += cycles.busy;
        sum.idle = sum.idle.zip(cycles.idle).map(|(a, b)| a + b);
        sum.packets += cycles.packets;
    }
    total
}

/// `ovs-appctl dpctl/show`, and the masks tried of
/// `dpif-netdev/pmd-stats-show` (which has one poll core here).
pub fn ovs_lookups(show: &str, pmd_stats: &str) -> Option<Lookups> {
    let count = |label| number_after(show, label).map(|count| count as u64);
    let stat = |label| number_after(pmd_stats, label);
    let cached = stat("simple match hits:")? + stat("emc hits:")? + stat("smc hits:")?;
    let masked = stat("megaflow hits:")?;
    Some(Lookups {
        hit: count("hit:")?,
        missed: count("missed:")?,
        lost: count("lost:")?,
        flows: count("flows:")?,
        masks: None,
        cached: cached as u64,
        masked: masked as u64,
        // Told as a mean since the start, with two digits.
        probes: stat("avg. subtable lookups per megaflow hit:")? * masked,
        flow_bytes: None,
    })
}

/// `ringway --json dpctl show`.
pub fn ringway_lookups(text: &str) -> Option<Lookups> {
    let answer: Value = serde_json::from_str(text).ok()?;
    let cache = answer.get("cache")?;
    let number = |name: &str| cache.get(name).and_then(Value::as_u64);
    Some(Lookups {
        hit: number("emc_hits")? + number("megaflow_hits")?,
        missed: number("missed")?,
        lost: number("lost")?,
        flows: number("flows")?,
        masks: number("masks"),
        cached: number("emc_hits")?,
        masked: number("megaflow_hits")? + number("missed")?,
        probes: number("mask_probes")? as f64,
        flow_bytes: number("megaflow_bytes"),
    })
}

/// testpmd's `show fwd stats all` with `--record-core-cycles`.
pub fn testpmd_fwd_stats(text: &str) -> Option<Cycles> {
    Some(Cycles {
        busy: number_after(text, "total cycles=")?,
        idle: None,
        packets: number_after(text, "total io packets=")
            .or_else(|| number_after(text, "total RX packets="))?,
    })
}

/// `ringway --json pmd stats`, all poll cores added.
pub fn ringway_pmd_stats(text: &str) -> Option<Cycles> {
    let answer: Value = serde_json::from_str(text).ok()?;
    let mut total = Cycles {
        idle: Some(0.0),
        ..Cycles::default()
    };
    for pmd in answer.get("pmds")?.as_array()? {
        let number = |name: &str| pmd.get(name).and_then(Value::as_f64);
        total.busy += number("busy_cycles")?;
        let idle = number("idle_cycles")? + number("sleep_cycles").unwrap_or(0.0);
        total.idle = total.idle.map(|sum| sum + idle);
        total.packets += pmd.get("packets")?.get("received")?.as_f64()?;
    }
    Some(total)
}

/// `RX-packets` of every port in testpmd's `show port stats all`.
pub fn testpmd_port_stats(text: &str) -> Vec<u64> {
    text.split("NIC statistics for port")
        .skip(1)
        .filter_map(|section| number_after(section, "RX-packets:"))
        .map(|packets| packets as u64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_vswitch() {
        let cycles = ovs_pmd_stats(include_str!("../fixtures/ovs-pmd-stats.txt")).unwrap();
        assert_eq!(cycles.packets, 10_224_996.0);
        assert_eq!(cycles.busy, 3_269_088_316.0);
        assert_eq!(cycles.idle, Some(933_948_678.0));
        // What it says itself: 319.72 cycles, 77.78 %.
        assert!((cycles.per_packet().unwrap() - 319.72).abs() < 0.01);
        assert!((cycles.busy_fraction().unwrap() - 0.7778).abs() < 0.0001);
    }

    #[test]
    fn testpmd_cycles() {
        let text = include_str!("../fixtures/testpmd-fwd-stats.txt");
        let cycles = testpmd_fwd_stats(text).unwrap();
        let said = number_after(text, "CPU cycles/packet=").unwrap();
        assert!((cycles.per_packet().unwrap() - said).abs() < 0.01);
        assert_eq!(cycles.busy_fraction(), None);
    }

    #[test]
    fn testpmd_ports() {
        let text = include_str!("../fixtures/testpmd-port-stats.txt");
        let packets = testpmd_port_stats(text);
        assert_eq!(packets.len(), 2);
        assert!(
            packets.iter().all(|&count| count > 1_000_000),
            "{packets:?}"
        );
    }

    #[test]
    fn ringway() {
        let text = r#"{"tsc_hz": 2596000000, "pmds": [
            {"core": 1, "iterations": 9, "busy_polls": 4, "busy_cycles": 1200,
             "idle_cycles": 300, "sleep_cycles": 100, "sleeps": 1,
             "packets": {"received": 10, "transmitted": 10, "replicated": 0, "dropped": 0},
             "balanced": true, "drops": []}]}"#;
        let cycles = ringway_pmd_stats(text).unwrap();
        assert_eq!(cycles.per_packet(), Some(120.0));
        assert_eq!(cycles.busy_fraction(), Some(0.75));
        assert_eq!(ringway_pmd_stats("{}"), None);
    }

    #[test]
    fn open_vswitch_lookups() {
        let show = include_str!("../fixtures/ovs-dpctl-show.txt");
        let stats = include_str!("../fixtures/ovs-pmd-stats-flows.txt");
        let lookups = ovs_lookups(show, stats).unwrap();
        assert_eq!(lookups.missed, 1_000_000);
        assert_eq!(lookups.flows, 1_000_000);
        assert_eq!(lookups.lost, 0);
        assert_eq!((lookups.cached, lookups.masked), (803, 147_137));
        assert_eq!(lookups.probes_each(), Some(1.0));
    }

    #[test]
    fn ringway_flow_caches() {
        let text = r#"{"name": "netdev@ringway", "cache": {
            "emc_hits": 60, "megaflow_hits": 30, "missed": 10, "lost": 2, "not_installed": 0,
            "flows": 9, "flow_limit": 1000, "masks": 3, "mask_limit": 64, "mask_probes": 100,
            "emc_entries": 4096, "bytes": 1000000, "megaflow_bytes": 256, "rules": 2}}"#;
        let lookups = ringway_lookups(text).unwrap();
        assert_eq!((lookups.hit, lookups.missed, lookups.lost), (90, 10, 2));
        assert_eq!((lookups.flows, lookups.masks), (9, Some(3)));
        // The exact-match cache tries no mask.
        assert_eq!(lookups.probes_each(), Some(2.5));
        assert_eq!(lookups.cached_share(), Some(0.6));
        assert_eq!(lookups.flow_bytes, Some(256));
        assert_eq!(ringway_lookups(r#"{"name": "netdev@ringway"}"#), None);
    }

    #[test]
    fn counts_are_subtracted_and_what_is_there_stays() {
        let at = |hit, missed, flows| Lookups {
            hit,
            missed,
            flows,
            ..Lookups::default()
        };
        assert_eq!(at(10, 7, 5).since(&at(4, 2, 3)), at(6, 5, 5));
    }

    #[test]
    fn a_difference_of_two_readings() {
        let at = |busy, idle, packets| Cycles {
            busy,
            idle: Some(idle),
            packets,
        };
        let delta = at(300.0, 80.0, 5.0).since(&at(100.0, 30.0, 3.0));
        assert_eq!(delta, at(200.0, 50.0, 2.0));
        assert_eq!(delta.per_packet(), Some(100.0));
        assert_eq!(at(0.0, 0.0, 0.0).per_packet(), None);
    }
}
