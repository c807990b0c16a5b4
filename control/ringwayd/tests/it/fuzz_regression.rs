//! What the fuzzers check (see `control/fuzz/README.md`), for their seeds, for
//! whatever they once found, and, where an input takes no time, for some changes
//! of each.

use ringway_replay::replay;

#[path = "../../../fuzz/src/laws/mod.rs"]
mod laws;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz");

#[test]
fn requests() {
    replay(FUZZ, "requests", 2, laws::requests::law);
}

#[test]
fn states() {
    replay(FUZZ, "state", 100, laws::state::law);
}

#[test]
fn ovs_lines() {
    replay(FUZZ, "ovs", 1, laws::ovs::law);
}
