//! What the fuzzers check, as ordinary tests: a target's seeds, whatever it once
//! found, and some changes of each that are the same in every run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::thread;

use fastrand::Rng;

/// Fewest files that a target has: with fewer they are being looked for in the
/// wrong place.
const FEWEST: usize = 8;

/// Puts every file of `seeds/target` and `regressions/target` below `fuzz` through
/// the target's law, which panics where it is broken, and `changes` changed inputs
/// for each. Says then which input it was.
pub fn replay(fuzz: impl AsRef<Path>, target: &str, changes: usize, law: fn(&[u8])) {
    let inputs = inputs(fuzz.as_ref(), target);
    assert!(
        inputs.len() >= FEWEST,
        "{}: where are the seeds?",
        inputs.len()
    );
    let run = move || {
        let mut random = Rng::with_seed(1);
        for (input, file) in &inputs {
            named(law, input, &file.display().to_string());
            for _ in 0..changes {
                let (other, _) = random.choice(&inputs).expect("there are some");
                let changed = changed(input, other, &mut random);
                let name = format!("made of {}: {}", file.display(), changed.escape_ascii());
                named(law, &changed, &name);
            }
        }
    };
    // Models that call themselves need more than a test's thread has.
    let thread = thread::Builder::new().stack_size(64 << 20);
    let result = thread.spawn(run).expect("a thread").join();
    result.unwrap_or_else(|panic| resume_unwind(panic));
}

fn inputs(fuzz: &Path, target: &str) -> Vec<(Vec<u8>, PathBuf)> {
    let mut inputs = Vec::new();
    for kind in ["seeds", "regressions"] {
        // A target that never found anything has no regressions.
        let Ok(files) = fuzz.join(kind).join(target).read_dir() else {
            continue;
        };
        let files = files.map(|file| file.expect("a file").path());
        inputs.extend(files.map(|file| (std::fs::read(&file).expect("readable"), file)));
    }
    inputs.sort();
    inputs
}

/// Says which input it was if the law is broken.
fn named(law: fn(&[u8]), input: &[u8], name: &str) {
    let result = catch_unwind(AssertUnwindSafe(|| law(input)));
    result.unwrap_or_else(|panic| {
        eprintln!("the input is {name}");
        resume_unwind(panic)
    });
}

/// Some bytes changed, left out, or put in from another input.
fn changed(input: &[u8], other: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut changed = input.to_vec();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=changed.len());
        let end = changed.len().min(at + random.usize(..12));
        match random.u8(..5) {
            0 => drop(changed.drain(at..end)),
            1 => {
                let from = random.usize(..=other.len());
                let to = other.len().min(from + random.usize(..40));
                changed.splice(at..end, other[from..to].iter().copied());
            }
            2 => changed.insert(at, random.u8(..)),
            kind => {
                if let Some(byte) = changed.get_mut(at) {
                    *byte = match kind {
                        3 => *byte ^ 1 << random.u8(..8),
                        _ => random.u8(..),
                    };
                }
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_changes_and_the_same_in_every_run() {
        let all = || {
            let mut random = Rng::with_seed(1);
            let change = |_| changed(b"some input", b"another", &mut random);
            (0..100).map(change).collect::<Vec<_>>()
        };
        assert_eq!(all(), all());
        let unchanged = all()
            .iter()
            .filter(|changed| *changed == b"some input")
            .count();
        assert!(unchanged < 20, "{unchanged}");
        // Also of nothing.
        let mut random = Rng::with_seed(1);
        assert!((0..100).any(|_| !changed(b"", b"", &mut random).is_empty()));
    }

    #[test]
    #[should_panic = "broken"]
    fn a_broken_law_is_told() {
        let law = |_: &[u8]| panic!("broken");
        named(law, b"", "an input of this test");
    }
}
