//! Two bridges joined by patch ports against two models joined by a queue.

use std::collections::{HashMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;
use ringway_flow::action::Action;
use ringway_flow::field::Field;
use ringway_flow::reference::arbitrary::{self, Rules};
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};

use super::*;
use crate::model_tests::{Stations, changes, one_choice, outputs, possible};
use crate::rig::{Outcome, Rig, standalone};

/// The bridges' ports. The rules of both name all of them.
const MEMBERS: [[u32; 3]; 2] = [[1, 3, 0x100], [2, 4, 0x101]];
const PATCH: [u32; 2] = [0x100, 0x101];

type Sent = HashMap<u32, Vec<Vec<u8>>>;

fn rule(actions: Vec<Action>) -> Vec<Change> {
    let rule = FlowSpec {
        actions,
        ..FlowSpec::default()
    };
    vec![Change::Flow(FlowCommand::Add, Box::new(rule))]
}

/// Two bridges, joined.
fn joined(rules: [Vec<Change>; 2]) -> Rig {
    let [first, second] = rules;
    let mut rig = Rig::new(first, &MEMBERS[0]);
    rig.another_bridge(&second, &MEMBERS[1]);
    rig.join(PATCH[0], PATCH[1]);
    rig
}

fn frame(destination: u8, source: u8) -> Vec<u8> {
    let mac = |n: u8| match n {
        0 => [0xff; 6],
        n => [2, 0, 0, 0, 0, n],
    };
    let mut frame = [mac(destination), mac(source)].concat();
    frame.extend([0x12, 0x34, source, destination]);
    frame.resize(60, 0);
    frame
}

/// In and copies are out and drops.
fn balanced(rig: &Rig) {
    let own = rig.counters.read();
    let dropped: u64 = own.dropped.iter().map(|(_, count)| count).sum();
    assert_eq!(
        own.received + own.replicated,
        own.transmitted + dropped,
        "{own:?}"
    );
    for (one, other) in [(PATCH[0], PATCH[1]), (PATCH[1], PATCH[0])] {
        let (one, other) = (rig.port_counters(one), rig.port_counters(other));
        assert_eq!(
            (one.tx_packets, one.tx_bytes),
            (other.rx_packets, other.rx_bytes)
        );
    }
}

/// What two models, joined, do with a frame. `None`: one has no answer.
fn expect(
    rules: [&Rules; 2],
    stations: &mut [Stations; 2],
    port: u32,
    frame: &[u8],
) -> Option<Sent> {
    let mut sent = Sent::new();
    let mut queue = VecDeque::from([(port, frame.to_vec(), 0)]);
    while let Some((port, frame, depth)) = queue.pop_front() {
        let nth = usize::from(MEMBERS[1].contains(&port));
        let came = outputs(
            rules[nth],
            &mut stations[nth],
            port as u16,
            &frame,
            &MEMBERS[nth],
        );
        for (to, frame) in came?.0 {
            if to != PATCH[nth] {
                sent.entry(to).or_default().push(frame);
            } else if depth < MAX_DEPTH {
                queue.push_back((PATCH[1 - nth], frame, depth + 1));
            }
            if queue.len() > 64 {
                return None;
            }
        }
    }
    Some(sent)
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 1 << 20, ..ProptestConfig::default() })]

    /// Whatever the rules do to the packets on either side.
    #[test]
    fn joined_bridges_do_what_joined_models_do(
        mut rules in [arbitrary::rules(), arbitrary::rules()],
        frames in vec((arbitrary::frame(), 0usize..4), 1..24),
    ) {
        rules.iter_mut().for_each(one_choice);
        prop_assume!(rules.iter().all(possible));
        let mut rig = joined([changes(&rules[0]), changes(&rules[1])]);
        let mut stations = [Stations::default(), Stations::default()];
        for ((frame, _), port) in frames {
            let port = [1, 2, 3, 4][port];
            let expected = expect([&rules[0], &rules[1]], &mut stations, port, &frame);
            let outcome = rig.burst(port, &[frame]);
            let Some(expected) = expected else {
                // The models have other limits.
                return Ok(());
            };
            if outcome.drops.contains_key(&DropReason::TooManyActions) {
                return Ok(());
            }
            prop_assert_eq!(outcome.sent, expected, "from {}", port);
            balanced(&rig);
        }
    }

    /// Whole bursts between switches that learn.
    #[test]
    fn joined_switches_learn_through_the_patch(
        bursts in vec((0usize..4, vec((0u8..7, 1u8..7), 1..BURST)), 1..12),
    ) {
        let rules = Rules {
            rules: vec![FlowSpec { actions: vec![Action::Normal], ..FlowSpec::default() }],
            groups: Vec::new(),
        };
        let mut rig = joined([standalone(), standalone()]);
        let mut stations = [Stations::default(), Stations::default()];
        for (port, frames) in bursts {
            let port = [1, 2, 3, 4][port];
            let frames: Vec<_> = frames.into_iter().map(|(to, from)| frame(to, from)).collect();
            let mut expected = Sent::new();
            for frame in &frames {
                let sent = expect([&rules, &rules], &mut stations, port, frame).unwrap();
                for (port, frames) in sent {
                    expected.entry(port).or_default().extend(frames);
                }
            }
            prop_assert_eq!(rig.burst(port, &frames).sent, expected, "from {}", port);
            balanced(&rig);
        }
    }
}

fn push(vid: u16) -> [Action; 2] {
    let field = Action::SetField {
        field: Field::VlanVid,
        value: u128::from(vid | 0x1000),
        mask: 0x1fff,
        load: false,
    };
    [Action::PushVlan(0x8100), field]
}

fn tagged(frame: &[u8], vids: &[u16]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for vid in vids {
        out.extend([0x81, 0]);
        out.extend(vid.to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}

#[test]
fn what_crosses_is_what_was_sent_whoever_rewrites_it_after() {
    // The same packet crosses as it is, twice, and then with a tag; each time
    // the other bridge puts a tag on, too.
    let patch = || Action::Output(PATCH[0] as u16);
    let mut first = vec![patch(), patch()];
    first.extend(push(5));
    first.extend([patch(), Action::Output(3)]);
    let mut second = push(9).to_vec();
    second.push(Action::Output(2));
    let mut rig = joined([rule(first), rule(second)]);
    let frames: Vec<_> = (1..=32).map(|n| frame(0, n)).collect();
    let Outcome { sent, drops, .. } = rig.burst(1, &frames);
    assert!(drops.is_empty(), "{drops:?}");
    let sorted = |mut frames: Vec<Vec<u8>>| {
        frames.sort();
        frames
    };
    let once = frames.iter().map(|frame| tagged(frame, &[9]));
    let with_tag = frames.iter().map(|frame| tagged(frame, &[9, 5]));
    let expected: Vec<_> = once.clone().chain(once).chain(with_tag).collect();
    assert_eq!(sorted(sent[&2].clone()), sorted(expected));
    let expected: Vec<_> = frames.iter().map(|frame| tagged(frame, &[5])).collect();
    assert_eq!(sent[&3], expected);
    balanced(&rig);
}

#[test]
fn a_loop_of_bridges_ends_and_is_counted() {
    let mut rig = Rig::new(standalone(), &[1, 3, 0x100, 0x102]);
    rig.another_bridge(&standalone(), &[2, 4, 0x101, 0x103]);
    rig.join(0x100, 0x101);
    rig.join(0x102, 0x103);
    let frames: Vec<_> = (1..=32).map(|n| frame(0, n)).collect();
    for _ in 0..3 {
        let outcome = rig.burst(1, &frames);
        // Once around in each direction until the depth is reached.
        let ends = outcome.drops[&DropReason::PatchTooDeep];
        assert_eq!(ends, 2 * frames.len() as u64);
        assert_eq!(outcome.drops.len(), 1, "{:?}", outcome.drops);
        balanced(&rig);
    }
}

#[test]
fn a_flood_that_multiplies_ends_by_number() {
    let patches = |from: u32| (0..8).map(move |n| from + n);
    let members = |from: u32| -> Vec<u32> { patches(from).chain([from / 100]).collect() };
    let mut rig = Rig::new(standalone(), &members(100));
    rig.another_bridge(&standalone(), &members(200));
    for (one, other) in patches(100).zip(patches(200)) {
        rig.join(one, other);
    }
    let outcome = rig.burst(1, &[frame(0, 1)]);
    assert!(outcome.drops[&DropReason::PatchTooDeep] > 0);
    let crossed: u64 = patches(100)
        .map(|port| rig.port_counters(port).tx_packets)
        .sum();
    let back: u64 = patches(200)
        .map(|port| rig.port_counters(port).tx_packets)
        .sum();
    assert!(crossed + back <= MAX_CROSSINGS as u64);
    let own = rig.counters.read();
    let dropped: u64 = own.dropped.iter().map(|(_, count)| count).sum();
    assert_eq!(own.received + own.replicated, own.transmitted + dropped);
    // The next burst has all its crossings again.
    let again = rig.burst(1, &[frame(0, 1)]);
    assert_eq!(again.drops, outcome.drops);
}

#[test]
fn copies_that_find_no_room_are_counted() {
    // Ten forms of each of 32 packets wait behind the patch port at the same time.
    let mut first = Vec::new();
    for vid in 1..=10 {
        first.push(Action::Output(PATCH[0] as u16));
        first.push(Action::Mod(Field::EthSrc, vid));
    }
    first.push(Action::Output(3));
    let mut rig = joined([rule(first), rule(vec![Action::Output(2)])]);
    let frames: Vec<_> = (1..=32).map(|n| frame(0, n)).collect();
    let outcome = rig.burst(1, &frames);
    assert!(outcome.drops[&DropReason::NoRoomForCopy] > 0);
    assert!(outcome.sent[&2].len() > 160);
    balanced(&rig);
    // One packet has room for all.
    let outcome = rig.burst(1, &frames[..1]);
    assert!(outcome.drops.is_empty());
    assert_eq!((outcome.sent[&2].len(), outcome.sent[&3].len()), (10, 1));
}

#[test]
fn a_patch_port_without_its_peer_takes_nothing() {
    let mut rig = joined([rule(vec![Action::Output(PATCH[0] as u16)]), standalone()]);
    rig.part(PATCH[0]);
    let outcome = rig.burst(1, &[frame(0, 1)]);
    assert_eq!(
        outcome.drops,
        HashMap::from([(DropReason::NoDestination, 1)])
    );
    balanced(&rig);
}
