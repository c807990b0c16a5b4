//! Rule sets and frames through both switches.
//!
//! `RINGWAY_SOAK_SECONDS=N` goes on with ever new seeds for N seconds, and
//! `RINGWAY_SEED=N` repeats one.

use std::time::{Duration, Instant, SystemTime};

use ringway_differential::compare::{Difference, Sent, Tally, compare};
use ringway_differential::dice::Dice;
use ringway_differential::oracle::Oracle;
use ringway_differential::rules::RuleSet;
use ringway_differential::{domain, frames};

/// Seeds that every run begins with.
const FIXED_SEEDS: std::ops::Range<u64> = 0..60;
/// Frames sent through each rule set.
const FRAMES: usize = 60;
/// No more differences than this are shown; each has been made small.
const SHOWN: usize = 8;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Compares all that one seed gives.
fn compare_seed(oracle: &mut Oracle, seed: u64, tally: &mut Tally) -> Vec<Difference> {
    let mut dice = Dice::new(seed);
    let size = dice.of(&[3, 10, 30, 60]);
    let set = RuleSet::random(&mut dice, size);
    let mut sent = |_| Sent {
        port: dice.between(1, 4) as u16,
        frame: frames::random(&mut dice),
    };
    let sent: Vec<Sent> = (0..FRAMES).map(&mut sent).collect();
    compare(oracle, &set, &sent, tally).unwrap()
}

#[test]
fn ringway_does_what_open_vswitch_does() {
    let mut oracle = Oracle::start(domain::PORTS).unwrap();
    let mut tally = Tally::default();
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let random = since.as_micros() as u64;
    let seeds: Vec<u64> = match number("RINGWAY_SEED") {
        Some(seed) => vec![seed],
        None => FIXED_SEEDS.collect(),
    };
    let soak = Duration::from_secs(number("RINGWAY_SOAK_SECONDS").unwrap_or(0));
    let begin = Instant::now();
    let more = (0..).map(|i| random.wrapping_add(i));
    let more = more.take_while(|_| begin.elapsed() < soak);
    let mut shown = 0;
    for seed in seeds.into_iter().chain(more) {
        for difference in compare_seed(&mut oracle, seed, &mut tally) {
            println!("RINGWAY_SEED={seed} {difference}");
            shown += 1;
        }
        assert!(shown < SHOWN, "too many differences to go on");
    }
    println!("random seed {random}; {tally:#?}");
    assert_eq!(shown, 0, "differences, printed above");
    // Else the comparison says little.
    assert!(tally.accepted > tally.refused, "most rules were refused");
    assert!(
        tally.came_out * 4 > tally.frames,
        "most frames were dropped"
    );
}
