//! What the fuzzers check (see `fuzz/README.md`), for their seeds, for whatever
//! they once found, and for some changes of each, the same in every run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

#[path = "../fuzz/src/lib.rs"]
mod laws;

/// Changed inputs for each file.
const CHANGED: usize = 20;

/// The laws count descriptors: one after the other.
static ONE: Mutex<()> = Mutex::new(());

/// Puts every file of a target's folders through its law.
fn replay(target: &'static str, law: fn(&[u8])) {
    let mut inputs = Vec::new();
    for kind in ["seeds", "regressions"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let Ok(files) = folder.join(kind).join(target).read_dir() else {
            continue;
        };
        let files = files.map(|file| file.expect("a file").path());
        inputs.extend(files.map(|file| (std::fs::read(&file).expect("readable"), file)));
    }
    assert!(inputs.len() > 10, "{}: where are the seeds?", inputs.len());
    inputs.sort();
    let mut random = Random(1);
    for (input, file) in &inputs {
        named(law, input, &file.display().to_string());
        for _ in 0..CHANGED {
            let changed = changed(input, &mut random);
            let name = format!("made of {}: {}", file.display(), changed.escape_ascii());
            named(law, &changed, &name);
        }
    }
}

/// Says which input it was if the law is broken.
fn named(law: fn(&[u8]), input: &[u8], name: &str) {
    let result = catch_unwind(AssertUnwindSafe(|| law(input)));
    result.unwrap_or_else(|panic| {
        eprintln!("the input is {name}");
        resume_unwind(panic)
    });
}

/// Some bytes changed or left out.
fn changed(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut changed = input.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(changed.len());
        let end = (at + random.below(12)).min(changed.len());
        match random.below(4) {
            0 => drop(changed.drain(at..end)),
            1 => changed.insert(at, random.below(256) as u8),
            _ => {
                if let Some(byte) = changed.get_mut(at) {
                    *byte = random.below(256) as u8;
                }
            }
        }
    }
    changed
}

/// Xorshift.
struct Random(u64);

impl Random {
    /// A number below `end`; 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }
}

#[test]
fn sessions() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    replay("session", laws::session::law);
}

#[test]
fn rings() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    replay("rings", laws::rings::law);
    laws::rings::end();
}

#[test]
fn headers() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    replay("header", laws::header::law);
    laws::header::end();
}
