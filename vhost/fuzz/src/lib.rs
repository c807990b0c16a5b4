//! What must hold for any guest and any frontend: one law for each fuzz target,
//! a module each. They panic where it does not.
//!
//! `tests/fuzz_regression.rs` includes this file too, and puts the seeds and
//! whatever was once found through the same laws.

pub mod header;
pub mod machine;
mod naive;
pub mod rings;
pub mod session;
