//! Poll-mode cores: rx, parse, lookup, actions, tx; FDB, counters, drop reasons.
//!
//! ```text
//! pmd ─▶ rx ─▶ guard ─▶ parse ─▶ lookup ─▶ action ─▶ tx        one burst, one core, start to end
//!        │                        │                   │
//!   rings, nic                   fdb             rings, nic
//! ```
//!
//! The control plane changes things through [`Datapath`]; PMDs see the changes
//! as immutable snapshots (`snapshot`, `publish`).

mod action;
mod actual;
mod bring_up;
mod cache;
mod clock;
mod conversation;
mod counters;
mod cpu;
pub mod drop_reason;
mod dump;
mod engine;
mod error;
mod execute;
mod fdb;
mod flow_control;
pub mod flows;
mod guard;
pub mod handover;
mod host;
mod housekeeping;
mod inject;
mod lookup;
mod meter;
#[cfg(test)]
mod model_tests;
mod nic;
mod nic_bring_up;
mod nic_health;
mod nic_status;
mod nic_transmit;
mod offload;
mod packet_in;
mod parse;
mod patch;
mod pmd;
mod port;
mod publish;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod ring_end;
mod rx;
mod snapshot;
pub mod spec;
pub mod status;
mod table_memory;
mod trace;
mod tx;
pub mod vlan;
mod warm;
mod watch;

pub use drop_reason::DropReason;
pub use engine::Datapath;
pub use error::DatapathError;
