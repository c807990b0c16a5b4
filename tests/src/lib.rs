//! The end-to-end harness: a real `ringwayd`, real Linux guests under QEMU,
//! DPDK's testpmd with virtio-user ports as fast guests, and the machine that
//! they all run on. The tests are in `tests/tests`, the demo in `bin/demo.rs`.
//!
//! Everything returns [`Error`], whose `Debug` is a sentence for people, so
//! that a test may say `.unwrap()` and still fail with the reason.

pub mod console;
pub mod counters;
pub mod daemon;
mod error;
pub mod frames;
pub mod holder;
pub mod journey;
pub mod lab;
pub mod lan;
pub mod machine;
pub mod monitor;
pub mod netns;
pub mod numbered;
pub mod ovs;
pub mod pcap;
pub mod process;
pub mod qemu;
pub mod scripted;
pub mod testpmd;
pub mod wait;

pub use error::{Error, Result};
