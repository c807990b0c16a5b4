//! What `compare flows` measures: rules, and the traffic that meets them.
//!
//! Ports have the numbers 1, 2 (and 3, the attacker's) on every switch. Rules
//! are in Open vSwitch's syntax and all switches get the same file.

use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use clap::ValueEnum;
use pktgen::frame::Tuple;
use serde::{Deserialize, Serialize};

/// Flows in all while masks vary. Each is a megaflow of its own, and no
/// exact-match cache has entries for more than a third of them (ringway's has
/// 65,536, Open vSwitch's 8,192), so that masks have to be tried.
const MASKS_FLOWS: u32 = 200_000;
/// Shortest time that an attack lasts before it is measured: at 10,000 frames
/// per second all combinations of nw_src, tp_src and tp_dst have come twice.
const ATTACK_SECONDS: f64 = 2.0;

/// Which rules the flows of [`Scenario::Rate`] meet.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Rules {
    /// One for each flow: in_port and the five-tuple.
    Exact,
    /// One for each direction: in_port and a prefix of nw_dst.
    Wildcard,
    /// One for each direction: in_port alone, which Open vSwitch looks up in
    /// a table of its own ("simple match").
    Port,
}

impl Rules {
    /// The words for tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Exact => "one per flow",
            Self::Wildcard => "one wildcard",
            Self::Port => "in_port alone",
        }
    }
}

/// One measurement with flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "test", rename_all = "kebab-case")]
pub enum Scenario {
    /// Established flows, `flows` in all: half of them in each direction.
    Rate {
        /// Rules.
        rules: Rules,
        /// Flows of both directions; 1 is one in each.
        flows: u32,
    },
    /// Established flows that `masks` megaflow masks in each direction match.
    Masks {
        /// Masks of each direction.
        masks: u8,
    },
    /// Flows that each need a megaflow of their own though there is one rule;
    /// what counts is the time until all have been sent once.
    SetUp {
        /// Flows of both directions.
        flows: u32,
    },
    /// Established flows while a third port sends crafted headers.
    Attack {
        /// Crafted frames per second; 0 is no attacker.
        rate: u32,
        /// Established flows of both directions.
        flows: u32,
    },
}

/// What pktgen has to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowTraffic {
    /// Flows of each direction.
    pub flows: u32,
    /// Crafted frames per second from a third port.
    pub attack: Option<u32>,
    /// How often every flow is sent before measuring.
    pub passes: u32,
    /// Longest time for that, in seconds.
    pub warmup_limit: f64,
}

impl Display for Scenario {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate { rules, flows } => write!(f, "{} rule, {flows} flows", rules.words()),
            Self::Masks { masks } => write!(f, "{masks} masks"),
            Self::SetUp { flows } => write!(f, "set-up of {flows} flows"),
            Self::Attack { rate: 0, flows } => write!(f, "{flows} flows, no attacker"),
            Self::Attack { rate, flows } => write!(f, "{flows} flows, {rate} crafted frames/s"),
        }
    }
}

impl Scenario {
    /// How many ports it needs.
    pub fn ports(self) -> usize {
        match self {
            Self::Attack { .. } => 3,
            _ => 2,
        }
    }

    /// Flows of both directions.
    pub fn flows_in_all(self) -> u32 {
        2 * self.flows()
    }

    /// Flows of each direction.
    fn flows(self) -> u32 {
        match self {
            Self::Rate { flows, .. } | Self::SetUp { flows } | Self::Attack { flows, .. } => {
                per_direction(flows)
            }
            Self::Masks { .. } => per_direction(MASKS_FLOWS),
        }
    }

    /// Seconds of traffic before measuring: what is wanted, but an attacker
    /// needs some time.
    pub fn warmup(self, wanted: f64) -> f64 {
        match self {
            Self::Attack { rate: 1.., .. } => wanted.max(ATTACK_SECONDS),
            _ => wanted,
        }
    }

    /// The traffic; warming up gets `warmup_limit` seconds at most.
    pub fn traffic(self, warmup_limit: f64) -> FlowTraffic {
        let attack = match self {
            Self::Attack { rate, .. } => Some(rate).filter(|&rate| rate > 0),
            _ => None,
        };
        FlowTraffic {
            flows: self.flows(),
            attack,
            // Once to set all flows up, and once more through the caches.
            passes: 2,
            warmup_limit,
        }
    }

    /// Writes its rules into a file.
    pub fn write_rules(self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for (from, to) in [(0, 1), (1, 0)] {
            match self {
                Self::Rate { rules, flows } => match rules {
                    Rules::Exact => exact(&mut file, from, to, per_direction(flows))?,
                    Rules::Wildcard => writeln!(
                        file,
                        "in_port={},udp,nw_dst=198.18.{to}.0/24,actions=output:{}",
                        from + 1,
                        to + 1
                    )?,
                    Rules::Port => {
                        writeln!(file, "in_port={},actions=output:{}", from + 1, to + 1)?;
                    }
                },
                Self::Masks { masks } => many_masks(&mut file, from, to, masks)?,
                Self::SetUp { .. } => reading_rule(&mut file, from, to)?,
                Self::Attack { flows, .. } => exact(&mut file, from, to, per_direction(flows))?,
            }
        }
        if let Self::Attack { .. } = self {
            attacked(&mut file)?;
        }
        file.flush()
    }
}

/// Flows of each direction, if there are `flows` in all.
fn per_direction(flows: u32) -> u32 {
    (flows / 2).max(1)
}

/// A rule for each flow, all of one mask.
pub fn exact(file: &mut impl Write, from: usize, to: usize, flows: u32) -> io::Result<()> {
    for flow in 0..flows {
        let Tuple {
            nw_src,
            nw_dst,
            tp_src,
            tp_dst,
        } = Tuple::of(from, to, flow);
        writeln!(
            file,
            "priority=1000,in_port={},udp,nw_src={nw_src},nw_dst={nw_dst},tp_src={tp_src},\
             tp_dst={tp_dst},actions=output:{}",
            from + 1,
            to + 1
        )?;
    }
    Ok(())
}

/// Table 0 sends every source address to one of `masks` tables; each of these
/// looks at other bits of nw_dst and reads the UDP ports. So there are just as
/// many masks, and nearly each flow is a megaflow: were there fewer, an
/// exact-match cache over the bits that masks look at would know them all, and
/// no mask would be tried.
fn many_masks(file: &mut impl Write, from: usize, to: usize, masks: u8) -> io::Result<()> {
    for host in 0..=255_u8 {
        writeln!(
            file,
            "in_port={},udp,nw_src=198.18.{from}.{host},actions=resubmit(,{})",
            from + 1,
            1 + host % masks
        )?;
    }
    for table in 1..=masks {
        // Bits of the third byte, which is the receiving port's number: never
        // a prefix, and the same for all packets.
        writeln!(
            file,
            "table={table},in_port={},udp,nw_dst=0.0.{}.0/0.0.{table}.0,actions={READ_PORTS},output:{}",
            from + 1,
            to as u8 & table,
            to + 1
        )?;
    }
    Ok(())
}

/// Actions that read the UDP ports, whole; together with nw_src they tell
/// nearly all flows apart. Not nw_dst: Open vSwitch would look at all of it.
const READ_PORTS: &str = "move:NXM_OF_UDP_SRC[]->NXM_NX_REG2[0..15],\
                          move:NXM_OF_UDP_DST[]->NXM_NX_REG2[16..31]";

/// One rule whose actions read the whole five-tuple, so that every five-tuple
/// is a megaflow of its own.
fn reading_rule(file: &mut impl Write, from: usize, to: usize) -> io::Result<()> {
    writeln!(
        file,
        "in_port={},udp,actions=move:NXM_OF_IP_SRC[]->NXM_NX_REG0[],\
         move:NXM_OF_IP_DST[]->NXM_NX_REG1[],move:NXM_OF_UDP_SRC[]->NXM_NX_REG2[0..15],\
         move:NXM_OF_UDP_DST[]->NXM_NX_REG2[16..31],output:{}",
        from + 1,
        to + 1
    )
}

/// What a tenant may write for the third port: three rules that each match
/// one field exactly, and nothing else passes. The attacker's frames differ
/// from all three (`pktgen --attacker`).
fn attacked(file: &mut impl Write) -> io::Result<()> {
    let base = Tuple::of(2, 0, 0);
    writeln!(
        file,
        "priority=300,in_port=3,udp,nw_src={},actions=output:1\n\
         priority=200,in_port=3,udp,tp_src={},actions=output:1\n\
         priority=100,in_port=3,udp,tp_dst={},actions=output:1\n\
         priority=0,actions=drop",
        base.nw_src, base.tp_src, base.tp_dst
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn rules(scenario: Scenario) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules");
        scenario.write_rules(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn exact_rules_are_as_many_as_flows_and_differ() {
        let exact = rules(Scenario::Rate {
            rules: Rules::Exact,
            flows: 1000,
        });
        assert_eq!(exact.len(), 1000);
        assert_eq!(exact.iter().collect::<HashSet<_>>().len(), 1000);
        assert_eq!(
            exact[0],
            "priority=1000,in_port=1,udp,nw_src=198.18.0.0,nw_dst=198.18.1.0,tp_src=1024,\
             tp_dst=2000,actions=output:2"
        );
    }

    #[test]
    fn one_flow_is_one_in_each_direction() {
        let one = Scenario::Rate {
            rules: Rules::Exact,
            flows: 1,
        };
        assert_eq!(one.traffic(1.0).flows, 1);
        assert_eq!(rules(one).len(), 2);
    }

    #[test]
    fn masks_are_as_many_as_asked_for() {
        let lines = rules(Scenario::Masks { masks: 100 });
        let masks: HashSet<&str> = lines
            .iter()
            .filter_map(|line| line.split("/0.0.").nth(1)?.split(',').next())
            .collect();
        assert_eq!(masks.len(), 100);
        assert_eq!(lines.len(), 2 * (256 + 100));
        // Table 3 looks at the lowest bit of port 1's number, among others.
        let third = "table=3,in_port=1,udp,nw_dst=0.0.1.0/0.0.3.0,actions=move:";
        assert!(lines.iter().any(|line| line.starts_with(third)));
        // What the rules look at tells more flows apart than caches hold.
        let seen = |flow| {
            let tuple = Tuple::of(0, 1, flow);
            (tuple.nw_src, tuple.tp_src, tuple.tp_dst)
        };
        let differ: HashSet<_> = (0..per_direction(MASKS_FLOWS)).map(seen).collect();
        assert!(differ.len() > 95_000, "{}", differ.len());
    }

    #[test]
    fn an_attack_has_a_third_port_and_its_absence_the_same_rules() {
        let (with, without) = [5, 0]
            .map(|rate| Scenario::Attack { rate, flows: 10 })
            .into();
        assert_eq!(with.traffic(1.0).attack, Some(5));
        assert_eq!(without.traffic(1.0).attack, None);
        assert_eq!(with.ports(), 3);
        assert_eq!(rules(with), rules(without));
    }
}
