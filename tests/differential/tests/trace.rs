//! `trace` beside `ofproto/trace`.

use ringway_differential::compare::accepted_by_both;
use ringway_differential::dice::Dice;
use ringway_differential::oracle::{Oracle, hex};
use ringway_differential::rules::{GroupText, RuleSet};
use ringway_differential::{domain, frames, printed};

#[test]
fn traces_say_the_same() {
    let mut oracle = Oracle::start(domain::PORTS).unwrap();
    let mut differ = 0;
    let mut same = 0;
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut set = RuleSet::random(&mut dice, 20);
        if set.groups.iter().any(GroupText::is_select) {
            continue;
        }
        set.rules.retain(|rule| !rule.text.contains("normal"));
        let (set, subject) = accepted_by_both(&mut oracle, &set).unwrap();
        let _ = set;
        for _ in 0..20 {
            let port = dice.between(1, 4) as u16;
            let frame = frames::random(&mut dice);
            let theirs = printed::trace(&oracle.trace(port, &frame).unwrap());
            let ours = printed::trace(&subject.trace(port, &frame));
            if theirs != ours {
                differ += 1;
                if differ < 400 {
                    println!("in_port={port} {}", hex(&frame));
                    for (a, b) in theirs.iter().zip(&ours) {
                        if a != b {
                            println!("  - {a}\n  + {b}");
                        }
                    }
                    if theirs.len() != ours.len() {
                        println!("THEIRS\n{}\nOURS\n{}", theirs.join("\n"), ours.join("\n"));
                    }
                }
            } else {
                same += 1;
            }
        }
    }
    println!("{differ} differ, {same} same");
}
