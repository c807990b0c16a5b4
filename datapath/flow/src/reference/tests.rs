//! The real bridge against the model, and the law of megaflows.

use std::sync::Arc;

use proptest::prelude::*;

use super::arbitrary::{METER, Rules, frame, key, rules};
use super::{Bridge, Outcome, Sent, To};
use crate::action::{Controller, GroupType, MeterSpec};
use crate::extract::extract_slice;
use crate::key::{FlowKey, PacketKey};
use crate::pipeline::{FlowTables, Pipeline};
use crate::program::{DpAction, DropCause, Program};
use crate::rewrite::Head;
use crate::rule::{Change, FlowCommand};
use crate::stats::StatsTable;
use crate::translate::{Start, Translation, Untraced, translate};

fn pipeline(rules: &Rules) -> Pipeline {
    let mut tables = FlowTables::new(Arc::new(StatsTable::default()));
    let meter = Change::AddMeter(MeterSpec {
        id: METER,
        packets: true,
        rate: 1,
        burst: 0,
        stats: false,
        has_burst: false,
    });
    let groups = rules.groups.iter().cloned().map(Change::AddGroup);
    let flows =
        (rules.rules.iter()).map(|rule| Change::Flow(FlowCommand::Add, Box::new(rule.clone())));
    let changes: Vec<_> = [meter].into_iter().chain(groups).chain(flows).collect();
    tables.apply(&changes, 0).unwrap();
    tables.pipeline()
}

fn run(pipeline: &Pipeline, key: &PacketKey) -> Translation {
    let mut out = Translation::default();
    translate(pipeline, key, Start::Tables, &mut out, &mut Untraced);
    out
}

/// What a program does with a frame.
fn execute(program: &Program, frame: &[u8]) -> Vec<Sent> {
    let mut bytes = frame.to_vec();
    let (mut len, mut frame_len) = (bytes.len(), bytes.len());
    bytes.resize(len + 64, 0);
    let mut sent = Vec::new();
    let mut send = |to: To, frame: &[u8]| {
        sent.push(Sent {
            to,
            frame: frame.to_vec(),
        });
    };
    for step in program.steps() {
        let mut head = Head {
            bytes: &mut bytes,
            len: &mut len,
            frame_len: &mut frame_len,
            partial: None,
        };
        match step {
            DpAction::Set { word, value, mask } => head.set(word, value, mask),
            DpAction::PushVlan { tpid, tci } => assert!(head.push_vlan(tpid, tci)),
            DpAction::PopVlan => head.pop_vlan(),
            DpAction::Output(port) => send(To::Port(port), &bytes[..len]),
            DpAction::Normal => send(To::Normal, &bytes[..len]),
            DpAction::Flood => send(To::Flood, &bytes[..len]),
            DpAction::Controller {
                reason,
                max_len,
                id,
                table,
            } => {
                let to = Controller {
                    reason,
                    max_len,
                    id,
                };
                send(To::Controller(to, table), &bytes[..len]);
            }
            DpAction::Meter(id) => send(To::Meter(id), &[]),
            DpAction::Drop(_) => {}
        }
    }
    sent
}

/// A program's steps without the writing of bits that the packet has already:
/// which of them a translation leaves out depends on what it happened to see,
/// and makes no difference to the packet. Behind a change of tags every step
/// counts, for other headers may have come into sight.
fn steps_that_change(program: &Program, packet: &PacketKey) -> Vec<DpAction> {
    let (mut now, mut same_tags, mut steps) = (*packet, true, Vec::new());
    for step in program.steps() {
        match step {
            DpAction::Set { word, value, mask } if same_tags => {
                let bits = &mut now.0[usize::from(word)];
                let changed = (*bits ^ value) & mask;
                *bits ^= changed;
                if changed != 0 {
                    let (value, mask) = (value & changed, changed);
                    steps.push(DpAction::Set { word, value, mask });
                }
                continue;
            }
            DpAction::PushVlan { .. } | DpAction::PopVlan => same_tags = false,
            _ => {}
        }
        steps.push(step);
    }
    steps
}

/// Select groups with one bucket that can be chosen: how one is chosen among
/// several is no concern of the model's.
fn with_one_choice(mut rules: Rules) -> Rules {
    for group in &mut rules.groups {
        if group.kind == GroupType::Select {
            for bucket in group.buckets.iter_mut().skip(1) {
                bucket.weight = 0;
            }
        }
    }
    rules
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: cases
            .and_then(|cases| cases.parse().ok())
            .unwrap_or(default),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// Whatever the rules and the frame: the same bytes on the same ports.
    #[test]
    fn programs_do_what_the_model_does(
        rules in rules().prop_map(with_one_choice),
        frames in proptest::collection::vec(frame(), 8),
    ) {
        let pipeline = pipeline(&rules);
        let bridge = Bridge {
            rules: &rules.rules,
            groups: &rules.groups,
            meters: &[METER],
            is_live: &|_| true,
            choose: &|group, _| group.buckets.iter().position(|bucket| bucket.weight > 0),
        };
        for (frame, in_port) in frames {
            let expected = bridge.receive(&frame, in_port);
            let out = run(&pipeline, &extract_slice(&frame, 0, in_port));
            let last = out.program.steps().last();
            let dropped = match last {
                Some(DpAction::Drop(cause)) => Some(cause),
                _ => None,
            };
            if dropped == Some(DropCause::TooManyActions) {
                // Longer than a program may be; the model knows no such limit.
                continue;
            }
            match expected {
                Outcome::ResubmitLimit => prop_assert_eq!(dropped, Some(DropCause::ResubmitLimit)),
                Outcome::NoMeter => prop_assert_eq!(dropped, Some(DropCause::NoMeter)),
                Outcome::Sent(sent) => {
                    prop_assert_eq!(
                        execute(&out.program, &frame), &sent[..],
                        "{:?} {:x?}", out.program.steps().collect::<Vec<_>>(), frame
                    );
                    let goes_on = |sent: &Sent| !matches!(sent.to, To::Meter(_));
                    prop_assert_eq!(dropped.is_none(), sent.iter().any(goes_on));
                }
            }
        }
    }

    /// Packets that agree on the mask have the same program and are counted in
    /// the same cells.
    #[test]
    fn packets_that_agree_on_the_mask_fare_alike(
        rules in rules(),
        first in key(),
        others in proptest::collection::vec(key(), 16),
    ) {
        let pipeline = pipeline(&rules);
        let out = run(&pipeline, &first);
        let mixed = others.iter().filter_map(|other| mixed(&first, other, &out.mask));
        for other in others.iter().copied().chain(mixed) {
            if other.matches(&first, &out.mask) {
                let others = run(&pipeline, &other);
                prop_assert_eq!(
                    steps_that_change(&others.program, &other),
                    steps_that_change(&out.program, &other),
                    "{:?}",
                    other
                );
                prop_assert_eq!(&others.counted, &out.counted);
            }
        }
    }
}

/// `other` with the bits of `first` where the mask has them, if a frame can
/// have such a key.
fn mixed(first: &PacketKey, other: &PacketKey, mask: &PacketKey) -> Option<PacketKey> {
    let mut mixed = FlowKey::default().packet();
    for word in 0..mixed.0.len() {
        mixed.0[word] = other.0[word] & !mask.0[word] | first.0[word] & mask.0[word];
    }
    let in_port = (mixed.0[0] >> 32) as u16;
    let frame = crate::compose::compose(&mixed);
    (extract_slice(&frame, 0, in_port) == mixed).then_some(mixed)
}
