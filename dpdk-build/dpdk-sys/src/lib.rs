//! Raw bindings to DPDK, generated from the installed headers.
//!
//! Nothing here is written by hand: `build.rs` runs bindgen over `shim/shim.h`
//! (which explains the division of labour) and links DPDK statically. Use the
//! `dpdk` crate; it is the safe face of this one.

// UNSAFETY: generated `extern "C"` declarations; this crate holds nothing else.
#![allow(unsafe_code)]
#![allow(missing_docs, non_camel_case_types, non_upper_case_globals)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
include!(concat!(env!("OUT_DIR"), "/drivers.rs"));
