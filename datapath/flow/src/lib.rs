//! Flows: OpenFlow-style rules in Open vSwitch's syntax, and what becomes of them.
//!
//! ```text
//!  text ──▶ Change ──▶ FlowTables (control plane) ──▶ Pipeline      an immutable snapshot
//!                                                       │
//!  frame ──▶ extract ──▶ PacketKey ──▶ translate ───────┴─▶ Translation: mask, program, rules
//!                                                                          │
//!  frame ◀── rewrite (headers, checksums) ◀──────────────────────────── Program
//! ```
//!
//! Nothing here knows DPDK, rings or threads. `translate` neither allocates
//! nor locks, so that a poll-mode core can call it on a miss.

// What comes from outside must never end the daemon.
#![cfg_attr(
    not(any(test, feature = "test-utils")),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented
    )
)]

pub mod action;
pub mod compose;
pub mod datapath_text;
pub mod extract;
pub mod field;
pub mod key;
pub mod matching;
pub mod pipeline;
pub mod program;
#[cfg(any(test, feature = "test-utils"))]
pub mod reference;
pub mod rewrite;
pub mod rule;
pub mod stats;
pub mod table;
pub mod text;
pub mod trace;
pub mod translate;
