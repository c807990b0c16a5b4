//! What the daemon may do, once it has started: few capabilities, no new
//! privileges, and those system calls only that it makes.
//!
//! Capabilities go before the first thread is started, so every thread starts
//! without them. System calls are filtered once the datapath stands on DPDK, in
//! all threads that are and will be, and before the first port comes up: no
//! guest, frontend or client is ever met by a daemon that may do more.

mod capabilities;
mod filter;
mod syscalls;

pub use capabilities::{CapabilityError, Keep, Left, drop_others, keep};
pub use filter::{FilterError, Seccomp, filter_system_calls};
