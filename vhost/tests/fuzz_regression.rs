//! What the fuzzers check (see `fuzz/README.md`), for their seeds, for whatever
//! they once found, and for some changes of each.

use std::sync::{Mutex, PoisonError};

use ringway_replay::replay;

#[path = "../fuzz/src/lib.rs"]
mod laws;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
/// Changed inputs for each file.
const CHANGES: usize = 20;

/// The laws count descriptors: one after the other.
static ONE: Mutex<()> = Mutex::new(());

#[test]
fn sessions() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    replay(FUZZ, "session", CHANGES, laws::session::law);
}

#[test]
fn rings() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    replay(FUZZ, "rings", CHANGES, laws::rings::law);
    laws::rings::end();
}

#[test]
fn headers() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    replay(FUZZ, "header", CHANGES, laws::header::law);
    laws::header::end();
}
