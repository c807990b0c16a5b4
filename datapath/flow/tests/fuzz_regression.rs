//! What the fuzzers check (see `fuzz/README.md`), for their seeds, for whatever
//! they once found, and for some changes of each.

use ringway_replay::replay;

#[path = "../fuzz/src/lib.rs"]
mod laws;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
/// Changed inputs for each file.
const CHANGES: usize = 500;

#[test]
fn packets() {
    replay(FUZZ, "packet", CHANGES, laws::packet::law);
}

#[test]
fn texts() {
    replay(FUZZ, "text", CHANGES, laws::text::law);
}

#[test]
fn rewrites() {
    replay(FUZZ, "rewrite", CHANGES, laws::rewrite::law);
}

#[test]
fn tables() {
    replay(FUZZ, "tables", CHANGES, laws::tables::law);
}
