//! What must hold for any input: one law for each fuzz target, a module each.
//! They panic where it does not.
//!
//! `tests/fuzz_regression.rs` includes this file too, and puts the seeds and
//! whatever was once found through the same laws.

pub mod input;
pub mod packet;
pub mod rewrite;
pub mod tables;
pub mod text;
