//! The ringway daemon: desired state, reconciliation and gRPC services over a
//! datapath.
//!
//! A change goes `service` → `control` (validate, store, apply, answer) →
//! `state` (the file) → `reconcile` (the datapath). A question goes `service` →
//! `view` (desired beside actual) or `report` (the datapath alone).

// What comes from outside must never end the daemon.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod apply_request;
pub mod atomic;
pub mod cli;
pub mod confine;
pub mod control;
pub mod convert;
pub mod doctor;
pub mod doors;
pub mod flow_report;
mod flow_requests;
pub mod flow_text;
pub mod flows;
pub mod host;
pub mod journal;
pub mod logging;
pub mod model;
pub mod notify;
pub mod owner;
pub mod packet_ins;
pub mod packet_out;
pub mod placement;
pub mod reconcile;
pub mod report;
pub mod serve;
pub mod service;
pub mod socket;
pub mod state;
pub mod stop;
pub mod switch;
pub mod view;
pub mod watch;
