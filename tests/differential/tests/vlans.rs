//! NORMAL between ports with random VLANs: the same frames, with the same tags,
//! on the same ports, frame after frame, while both learn.
//!
//! `RINGWAY_SOAK_SECONDS=N` goes on with more seeds for N seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ringway_datapath::spec::{PriorityTags, VlanMode, VlanSpec};
use ringway_datapath::vlan::{PortVlans, Tags};
use ringway_differential::dice::Dice;
use ringway_differential::execute::execute;
use ringway_differential::oracle::{LOCAL, Oracle, Outputs, hex};
use ringway_differential::rules::{Dialect, RuleText};
use ringway_differential::{domain, frames};
use ringway_flow::program::{DpAction, Program};

const SEEDS: u64 = 40;
const FRAMES: usize = 60;

fn some(dice: &mut Dice, most: usize) -> Vec<u16> {
    let mut vlans: Vec<u16> = (0..dice.below(most + 1))
        .map(|_| dice.of(&domain::VIDS))
        .collect();
    vlans.sort_unstable();
    vlans.dedup();
    vlans
}

fn spec(dice: &mut Dice) -> VlanSpec {
    loop {
        let mode = dice.of(&[
            None,
            None,
            Some(VlanMode::Access),
            Some(VlanMode::Trunk),
            Some(VlanMode::NativeTagged),
            Some(VlanMode::NativeUntagged),
            Some(VlanMode::Dot1qTunnel),
        ]);
        // Few VLANs, so that ports share them.
        let spec = VlanSpec {
            mode,
            tag: (!dice.one_in(4)).then(|| dice.of(&[1, 1, 1, 2, 100, 0])),
            trunks: some(dice, 3),
            cvlans: some(dice, 2),
            priority_tags: dice.of(&[
                PriorityTags::Never,
                PriorityTags::Never,
                PriorityTags::IfNonzero,
                PriorityTags::Always,
            ]),
            qinq_8021q: dice.one_in(3),
        };
        if spec.check().is_ok() {
            return spec;
        }
    }
}

/// As ovs-vsctl takes it.
fn columns(spec: &VlanSpec) -> Vec<String> {
    let list = |name: &str, vlans: &[u16]| {
        let vlans: Vec<String> = vlans.iter().map(u16::to_string).collect();
        (!vlans.is_empty()).then(|| format!("{name}={}", vlans.join(",")))
    };
    let priority_tags = match spec.priority_tags {
        PriorityTags::Never => None,
        PriorityTags::IfNonzero => Some("other_config:priority-tags=if-nonzero"),
        PriorityTags::Always => Some("other_config:priority-tags=always"),
    };
    (spec.tag.map(|tag| format!("tag={tag}")).into_iter())
        .chain(spec.mode.map(|mode| format!("vlan_mode={}", mode.name())))
        .chain(list("trunks", &spec.trunks))
        .chain(list("cvlans", &spec.cvlans))
        .chain(priority_tags.map(str::to_owned))
        .chain(
            spec.qinq_8021q
                .then(|| "other_config:qinq-ethtype=802.1q".to_owned()),
        )
        .collect()
}

struct Switch {
    specs: BTreeMap<u16, VlanSpec>,
    vlans: BTreeMap<u16, PortVlans>,
    stations: BTreeMap<([u8; 6], u16), u16>,
}

/// What a frame came to, and why that may be something else than what Open
/// vSwitch makes of it.
struct Came {
    outputs: Outputs,
    allowed: Option<&'static str>,
}

impl Switch {
    fn new(specs: BTreeMap<u16, VlanSpec>) -> Self {
        let of = |spec: &VlanSpec| PortVlans::of(spec).unwrap_or(PortVlans::ALL);
        Self {
            vlans: specs.iter().map(|(port, spec)| (*port, of(spec))).collect(),
            specs,
            stations: BTreeMap::new(),
        }
    }

    fn send(&mut self, port: u16, bytes: &[u8]) -> Came {
        let mut came = Came {
            outputs: Outputs::new(),
            allowed: None,
        };
        let (ingress, spec) = (&self.vlans[&port], &self.specs[&port]);
        let Some(frame) = Tags::read(bytes).filter(|frame| ingress.admits(frame)) else {
            return came;
        };
        let inside = ingress.inside(&frame);
        let two = Tags::read(bytes.get(4..).unwrap_or_default());
        let two = is_tag(bytes, 12) && is_tag(bytes, 16) && two.is_some();
        if spec.mode() == VlanMode::Dot1qTunnel && two {
            came.allowed = Some("A third tag");
        }
        let mac = |at: usize| <[u8; 6]>::try_from(&bytes[at..at + 6]).unwrap();
        let (to, from) = (mac(0), mac(6));
        if from[0] & 1 == 0 {
            self.stations.insert((from, inside.vlan()), port);
        }
        let takers: Vec<u16> = match self.stations.get(&(to, inside.vlan())) {
            Some(known) if *known == port => Vec::new(),
            Some(known) => {
                if !self.vlans[known].carries(&inside) {
                    came.allowed = Some("A learned port that does not carry the VLAN");
                }
                vec![*known]
            }
            None => self.vlans.keys().copied().filter(|p| *p != port).collect(),
        };
        for taker in takers {
            let (vlans, spec) = (&self.vlans[&taker], &self.specs[&taker]);
            let native = matches!(
                spec.mode(),
                VlanMode::NativeTagged | VlanMode::NativeUntagged
            );
            if native && inside.vlan() == 0 && !spec.trunks.contains(&0) {
                came.allowed = Some("A native VLAN of 0");
            }
            if !vlans.carries(&inside) {
                continue;
            }
            let mut program = Program::default();
            for change in frame.changes(&vlans.outside(&inside, &frame)) {
                program.push(change).unwrap();
            }
            program.push(DpAction::Output(taker)).unwrap();
            came.outputs
                .extend(execute(&program, bytes, port, &[taker]).outputs);
        }
        came
    }
}

/// The same frames without the DEI bits of their first two tags.
fn without_dei(outputs: &Outputs) -> Outputs {
    let mut outputs = outputs.clone();
    for frame in outputs.values_mut().flatten() {
        for at in [12, 16] {
            if !is_tag(frame, at) {
                break;
            }
            if let Some(byte) = frame.get_mut(at + 2) {
                *byte &= !0x10;
            }
        }
    }
    outputs
}

fn is_tag(frame: &[u8], at: usize) -> bool {
    matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8]))
}

#[test]
fn ports_with_vlans_do_what_open_vswitch_does() {
    let mut oracle = Oracle::start(domain::PORTS).unwrap();
    let normal = RuleText {
        text: "priority=0,actions=NORMAL".into(),
        dialect: Dialect::ALL[0],
    };
    let (mut came_out, mut changed, mut allowed) = (0, 0, BTreeMap::new());
    let soak = std::env::var("RINGWAY_SOAK_SECONDS").ok();
    let soak = soak.and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    let (begin, soak) = (Instant::now(), Duration::from_secs(soak));
    let seeds = (0..).take_while(|seed| *seed < SEEDS || begin.elapsed() < soak);
    let mut all = 0;
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let mut specs: BTreeMap<u16, VlanSpec> =
            oracle.ports().map(|port| (port, spec(&mut dice))).collect();
        if specs.values().all(|spec| PortVlans::of(spec).is_none()) {
            // Such a bridge has no VLANs at all.
            let access = VlanSpec {
                tag: Some(1),
                ..VlanSpec::default()
            };
            specs.insert(1, access);
        }
        let given: Vec<_> = specs.iter().map(|(p, spec)| (*p, columns(spec))).collect();
        oracle.set_vlans(&given).unwrap();
        oracle.reset().unwrap();
        assert_eq!(
            oracle.add_flows(std::slice::from_ref(&normal)).unwrap(),
            [None]
        );
        let mut switch = Switch::new(specs);
        for nth in 0..FRAMES {
            all += 1;
            let port = dice.of(&[1, 2, 3, 4, 5, LOCAL]);
            let frame = frames::random(&mut dice);
            let ours = switch.send(port, &frame);
            // Cached flows hear of stations that move, but not at once.
            oracle.forget_cached().unwrap();
            let theirs = oracle.send(port, &frame).unwrap();
            if theirs != ours.outputs {
                let what = || {
                    let trace = format!("seed {seed}, frame {nth}: in_port={port} {}", hex(&frame));
                    format!(
                        "{trace}\n{given:#?}\nOpen vSwitch {theirs:x?}\nringway {:x?}",
                        ours.outputs
                    )
                };
                let dei = (without_dei(&theirs) == without_dei(&ours.outputs))
                    .then_some("A DEI bit that was popped");
                let decision = dei.or(ours.allowed).unwrap_or_else(|| panic!("{}", what()));
                *allowed.entry(decision).or_insert(0) += 1;
                continue;
            }
            came_out += usize::from(!theirs.is_empty());
            changed += usize::from(theirs.values().flatten().any(|sent| *sent != frame));
        }
    }
    println!("{all} frames: {came_out} came out, {changed} with other tags, allowed: {allowed:?}");
    assert!(
        came_out * 3 > all && changed * 8 > all,
        "little was compared"
    );
}
