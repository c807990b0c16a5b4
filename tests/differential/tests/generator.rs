//! Whether the rules and frames that are made up are worth comparing.

use ringway_differential::dice::Dice;
use ringway_differential::oracle::Oracle;
use ringway_differential::rules::RuleSet;
use ringway_differential::{domain, frames};

#[test]
fn open_vswitch_takes_most_rules_and_most_frames_come_out() {
    let mut oracle = Oracle::start(domain::PORTS).unwrap();
    let mut dice = Dice::new(1);
    let (mut rules, mut refused, mut sent, mut came_out) = (0, 0, 0, 0);
    for _ in 0..20 {
        oracle.reset().unwrap();
        let set = RuleSet::random(&mut dice, 30);
        let refusals = oracle.add_groups(&set.groups).unwrap();
        for (group, refusal) in set.groups.iter().zip(refusals) {
            if let Some(why) = refusal {
                println!("{}\n    {why}", group.text());
            }
        }
        for (rule, refusal) in set.rules.iter().zip(oracle.add_flows(&set.rules).unwrap()) {
            rules += 1;
            if let Some(why) = refusal {
                refused += 1;
                println!("{}\n    {why}", rule.text);
            }
        }
        for _ in 0..50 {
            let port = dice.between(1, 4) as u16;
            sent += 1;
            let frame = frames::random(&mut dice);
            came_out += usize::from(!oracle.send(port, &frame).unwrap().is_empty());
        }
    }
    println!("{refused} of {rules} rules refused; {came_out} of {sent} frames came out");
    assert!(refused * 4 < rules, "{refused} of {rules} rules refused");
    assert!(came_out * 4 > sent, "{came_out} of {sent} frames came out");
}
