//! What the fuzzers check (see `control/fuzz/README.md`), for their seeds and for
//! whatever they once found.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

#[path = "../../../fuzz/src/laws/mod.rs"]
mod laws;

/// Puts every file of a target's folders through its law.
fn replay(target: &str, law: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut files = Vec::new();
    for kind in ["seeds", "regressions"] {
        let Ok(found) = fuzz.join(kind).join(target).read_dir() else {
            continue;
        };
        files.extend(found.map(|file| file.expect("a file").path()));
    }
    assert!(files.len() > 5, "{}: where are the seeds?", files.len());
    files.sort();
    for file in files {
        let input = std::fs::read(&file).expect("readable");
        let result = catch_unwind(AssertUnwindSafe(|| law(&input)));
        result.unwrap_or_else(|panic| {
            eprintln!("the input is {}", file.display());
            resume_unwind(panic)
        });
    }
}

#[test]
fn requests() {
    replay("requests", laws::requests::law);
}

#[test]
fn states() {
    replay("state", laws::state::law);
}

#[test]
fn ovs_lines() {
    replay("ovs", laws::ovs::law);
}
