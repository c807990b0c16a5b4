//! `trace` beside `ofproto/trace`: the tables and rules met, what each action
//! said, the flow at the end, and where it goes.

use ringway_differential::compare::{Sent, accepted_by_both};
use ringway_differential::dice::Dice;
use ringway_differential::oracle::{Oracle, hex};
use ringway_differential::rules::{GroupText, RuleSet};
use ringway_differential::{allowed, domain, frames, printed};

const SEEDS: u64 = 60;
const FRAMES: usize = 30;

#[test]
fn traces_say_the_same() {
    let mut oracle = Oracle::start(domain::PORTS).unwrap();
    let mut compared = 0;
    for seed in 0..SEEDS {
        let mut dice = Dice::new(seed);
        let mut set = RuleSet::random(&mut dice, 20);
        // Each tells its own hash, and its own stations.
        set.groups.retain(|group| !GroupText::is_select(group));
        set.rules.retain(|rule| !rule.text.contains("normal"));
        let (set, subject) = accepted_by_both(&mut oracle, &set).unwrap();
        for _ in 0..FRAMES {
            let sent = Sent {
                port: dice.between(1, 4) as u16,
                frame: frames::random(&mut dice),
            };
            let theirs = oracle.trace(sent.port, &sent.frame).unwrap();
            let ours = subject.trace(sent.port, &sent.frame);
            if allowed::trace(&subject, &sent, &theirs).is_some() {
                continue;
            }
            compared += 1;
            let what = format!("in_port={} {}\n{set}", sent.port, hex(&sent.frame));
            let same = printed::trace(&theirs) == printed::trace(&ours);
            assert!(
                same,
                "seed {seed}: {what}\nOpen vSwitch's:\n{theirs}\nringway's:\n{ours}"
            );
        }
    }
    assert!(
        compared > SEEDS as usize * FRAMES * 3 / 4,
        "only {compared} compared"
    );
}
