//! What must hold for any client, and for any file that a daemon finds: one law
//! for each fuzz target. The daemon is the one of ringwayd's own tests, over
//! their fake datapath.
//!
//! `ringwayd/tests/it/fuzz_regression.rs` puts the seeds and whatever was once
//! found through the same laws.
#![allow(dead_code, reason = "the tests' daemon does more than the laws need")]

#[path = "../../ringwayd/tests/it/daemon.rs"]
mod daemon;
#[path = "../../ringwayd/tests/it/fake.rs"]
mod fake;
#[path = "../../ringwayd/tests/it/fake_host.rs"]
mod fake_host;
pub mod laws;
