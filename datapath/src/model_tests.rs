//! The packet's way, flow cache and all, against the naive model: the same
//! frames on the same ports, from a cold cache and from a warm one, with the
//! rules changing in between.

use std::collections::HashMap;

use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use ringway_flow::action::Action;
use ringway_flow::key::FlowKey;
use ringway_flow::program::PROGRAM_WORDS;
use ringway_flow::reference::arbitrary::{self, Rules};
use ringway_flow::reference::{Bridge, Outcome as Expected, To};
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringway_flow::stats::Counts;
use ringway_vhost::BURST;

use crate::cache::{hold, read_all};
use crate::cpu::tsc;
use crate::drop_reason::DropReason;
use crate::rig::Rig;
use crate::spec::{GuardSpec, RateSpec};

const MEMBERS: [u32; 4] = [1, 2, 0x100, 0x101];

/// A learning switch, one packet after the other. Stations by MAC and VLAN; how
/// many frames ports may still send to many, where that is not any number.
#[derive(Default)]
pub struct Stations(HashMap<(Vec<u8>, u16), u32>, HashMap<u32, u32>);

impl Stations {
    fn forward(&mut self, frame: &[u8], ingress: u32, members: &[u32]) -> Vec<u32> {
        let tag = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let tagged = matches!(tag(12), 0x8100 | 0x88a8) && frame.len() >= 18;
        let vlan = if tagged { tag(14) & 0xfff } else { 0 };
        let (destination, source) = (frame[..6].to_vec(), frame[6..12].to_vec());
        if source[0] & 1 == 0 && source != [0; 6] {
            self.0.insert((source, vlan), ingress);
        }
        if destination[..5] == [1, 0x80, 0xc2, 0, 0] && destination[5] < 16 {
            return Vec::new();
        }
        if destination[0] & 1 == 1 {
            return self.flood(ingress, members);
        }
        match self.0.get(&(destination, vlan)) {
            Some(port) if *port == ingress => Vec::new(),
            Some(port) => vec![*port],
            None => self.flood(ingress, members),
        }
    }

    fn flood(&mut self, ingress: u32, members: &[u32]) -> Vec<u32> {
        match self.1.get_mut(&ingress) {
            Some(0) => return Vec::new(),
            Some(left) => *left -= 1,
            None => {}
        }
        let others = members.iter().copied();
        others.filter(|port| *port != ingress).collect()
    }
}

/// A frame, and the port that it is sent to.
type Sent = (u32, Vec<u8>);

/// What the model sends where, for one frame, in order; and how often it tells
/// controllers. `None`: nothing, beyond some limit.
pub fn outputs(
    rules: &Rules,
    stations: &mut Stations,
    ingress: u16,
    frame: &[u8],
    members: &[u32],
) -> Option<(Vec<Sent>, usize)> {
    let choose = |group: &ringway_flow::action::GroupSpec, _: &FlowKey| {
        group.buckets.iter().position(|bucket| bucket.weight > 0)
    };
    let bridge = Bridge {
        rules: &rules.rules,
        groups: &rules.groups,
        meters: &[],
        is_live: &|_| true,
        choose: &choose,
    };
    let Expected::Sent(outputs) = bridge.receive(frame, ingress) else {
        return None;
    };
    if outputs.len() > PROGRAM_WORDS {
        // More than a program holds; the model knows no such limit.
        return None;
    }
    let (mut sent, mut controllers) = (Vec::new(), 0);
    for output in outputs {
        let ports = match output.to {
            To::Port(port) => vec![port.into()],
            To::Normal => stations.forward(&output.frame, ingress.into(), members),
            To::Flood => stations.flood(ingress.into(), members),
            To::Controller(..) => {
                controllers += 1;
                Vec::new()
            }
            To::Meter(_) => Vec::new(),
        };
        for port in ports.into_iter().filter(|port| members.contains(port)) {
            sent.push((port, output.frame.clone()));
        }
    }
    Some((sent, controllers))
}

/// The same for a burst from one port.
fn expect(
    rules: &Rules,
    stations: &mut Stations,
    ingress: u16,
    frames: &[Vec<u8>],
) -> (HashMap<u32, Vec<Vec<u8>>>, usize) {
    let mut sent: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
    let mut controllers = 0;
    for frame in frames {
        let came = outputs(rules, stations, ingress, frame, &MEMBERS);
        let (outputs, told) = came.unwrap_or_default();
        controllers += told;
        for (port, frame) in outputs {
            sent.entry(port).or_default().push(frame);
        }
    }
    (sent, controllers)
}

fn add(rule: &FlowSpec) -> Change {
    Change::Flow(FlowCommand::Add, Box::new(rule.clone()))
}

pub fn changes(rules: &Rules) -> Vec<Change> {
    let groups = rules.groups.iter().rev().cloned().map(Change::AddGroup);
    groups.chain(rules.rules.iter().map(add)).collect()
}

/// A change of rules, in the model and as it is asked for.
fn change(rules: &mut Rules, what: u8, which: usize, action: Action) -> Option<Change> {
    let count = rules.rules.len();
    let rule = &mut rules.rules[which % count];
    match what {
        // A rule goes.
        0 if count > 1 => {
            let change = Change::Flow(FlowCommand::DeleteStrict, Box::new(rule.clone()));
            rules.rules.remove(which % count);
            Some(change)
        }
        // Its actions become others.
        1 => {
            rule.actions = vec![action];
            Some(Change::Flow(
                FlowCommand::ModifyStrict,
                Box::new(rule.clone()),
            ))
        }
        // One comes that matches as much and counts for more.
        _ => {
            let rule = FlowSpec {
                priority: 1000 + (which % 1000) as u16,
                actions: vec![action],
                ..rule.clone()
            };
            let same =
                |other: &FlowSpec| (other.table, other.priority) == (rule.table, rule.priority);
            if rules.rules.iter().any(same) {
                return None;
            }
            rules.rules.push(rule.clone());
            Some(add(&rule))
        }
    }
}

/// Living megaflows and cells add up to what was sent.
fn counts_of(rig: &Rig, id: u32) -> Counts {
    let mut counts = rig
        .bridge()
        .stats
        .cell(id)
        .map(|cell| cell.read())
        .unwrap_or_default();
    let held = hold(std::iter::once(&*rig.table));
    read_all(&rig.table, tsc(), |record| {
        let times = record
            .counted
            .iter()
            .filter(|counted| **counted == id)
            .count() as u64;
        let cell = rig.bridge().stats.cell(id);
        if cell.is_some_and(|cell| cell.counts_for(record.version)) {
            counts.packets += times * record.packets;
            counts.bytes += times * record.bytes;
        }
    });
    drop(held);
    counts
}

/// Select groups choose by a hash, which the model does not know: leaves them
/// one bucket to choose.
pub fn one_choice(rules: &mut Rules) {
    for group in &mut rules.groups {
        let chosen = group.buckets.iter().position(|bucket| bucket.weight > 0);
        let others = group.buckets.iter_mut().enumerate();
        for (_, bucket) in others.filter(|(i, _)| Some(*i) != chosen) {
            bucket.weight = 0;
        }
    }
}

/// Rules that the tables accept: no unknown group or meter.
pub fn possible(rules: &Rules) -> bool {
    let bridge = &mut Rig::new(Vec::new(), &[]);
    bridge.tables.apply(&changes(rules), 1).is_ok()
}

/// More with PROPTEST_CASES, as `make soak` does.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").is_ok();
    ProptestConfig {
        cases: if cases {
            ProptestConfig::default().cases
        } else {
            1500
        },
        // Rules that name a group which is not there are many.
        max_global_rejects: 1 << 24,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn cold_and_warm_and_after_changes_it_does_what_the_model_does(
        mut rules in arbitrary::rules(),
        frames in vec(arbitrary::frame(), 1..48),
        steps in vec((0u8..3, any::<usize>(), arbitrary::action()), 0..6),
        flow_limit in prop_oneof![Just(1u32), Just(8), Just(1024)],
        storms in hash_map(select(MEMBERS.to_vec()), 1u32..20, 0..3),
    ) {
        one_choice(&mut rules);
        prop_assume!(possible(&rules));
        let mut rig = Rig::sized(changes(&rules), &MEMBERS, flow_limit, 64);
        let mut stations = Stations::default();
        for (port, burst) in storms {
            let storm = RateSpec { rate: 1, burst };
            rig.set_guard(port, &GuardSpec { storm, ..GuardSpec::default() });
            stations.1.insert(port, burst);
        }
        let mut bursts: HashMap<u16, Vec<Vec<u8>>> = HashMap::new();
        for (frame, port) in frames {
            bursts.entry(port).or_default().push(frame);
        }
        let mut steps = steps.into_iter();
        loop {
            // Twice: what the first pass installs, the second finds.
            for _ in 0..2 {
                for (ingress, frames) in &bursts {
                    for frames in frames.chunks(BURST) {
                        let outcome = rig.burst((*ingress).into(), frames);
                        let (expected, controllers) =
                            expect(&rules, &mut stations, *ingress, frames);
                        if outcome.drops.contains_key(&DropReason::TooManyActions) {
                            // The model knows no such limit: begin anew with it.
                            return Ok(());
                        }
                        prop_assert_eq!(&outcome.sent, &expected, "from {}", ingress);
                        let taken = std::iter::from_fn(|| rig.packet_ins.take()).count();
                        prop_assert!(taken as u64 + rig.packet_ins.lost() >= controllers as u64);
                    }
                }
            }
            let Some((what, which, action)) = steps.next() else {
                break;
            };
            let mut next = rules.clone();
            if let Some(change) = change(&mut next, what, which, action)
                && possible(&next)
            {
                rig.change(&[change]);
                rules = next;
            }
        }
        // In equals out and drops.
        let own = &rig.counters;
        let dropped: u64 = own.dropped.nonzero().iter().map(|(_, count)| count).sum();
        let sent: u64 = bursts.values().map(|frames| frames.len() as u64).sum();
        prop_assert!(own.transmitted.get() + dropped >= sent);
    }

    /// However megaflows come and go, a rule's packets are those that met it.
    #[test]
    fn rules_count_what_met_them(
        frames in vec(arbitrary::frame(), 1..32),
        rounds in vec(any::<bool>(), 1..8),
    ) {
        let rule = FlowSpec {
            table: Some(0),
            priority: 7,
            actions: vec![Action::Flood],
            ..FlowSpec::default()
        };
        let mut narrow = rule.clone();
        narrow.priority = 8;
        narrow.matching.exact(ringway_flow::field::Field::EthDst, 0x0100_0000_0001);
        let mut rig = Rig::new(vec![add(&rule), add(&narrow)], &MEMBERS);
        let ids: Vec<_> = rig.tables.rules(&FlowSpec::default()).iter().map(|r| r.stats).collect();
        let frames: Vec<_> = frames.into_iter().map(|(frame, _)| frame).collect();
        let bytes: usize = frames.iter().map(Vec::len).sum();
        for (round, change) in (1u64..).zip(rounds) {
            rig.burst(1, &frames);
            let counts: Vec<_> = ids.iter().map(|id| counts_of(&rig, *id)).collect();
            let packets: u64 = counts.iter().map(|counts| counts.packets).sum();
            prop_assert_eq!(packets, round * frames.len() as u64);
            let all: u64 = counts.iter().map(|counts| counts.bytes).sum();
            prop_assert_eq!(all, round * bytes as u64);
            if change {
                // Of a table that nobody looks into: all megaflows stay.
                let mut other = rule.clone();
                other.table = Some(9);
                rig.change(&[add(&other)]);
            } else {
                // Of the table itself: all are made anew.
                let mut modified = narrow.clone();
                modified.actions = vec![Action::Flood, Action::Note(vec![round as u8])];
                rig.change(&[Change::Flow(FlowCommand::ModifyStrict, Box::new(modified))]);
            }
        }
    }
}
