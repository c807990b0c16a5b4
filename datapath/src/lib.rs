//! Poll-mode cores: rx, parse, lookup, actions, tx; FDB, counters, drop reasons.

pub mod drop_reason;
mod engine;
pub mod spec;
pub mod status;

pub use drop_reason::DropReason;
pub use engine::{Datapath, DatapathError};
