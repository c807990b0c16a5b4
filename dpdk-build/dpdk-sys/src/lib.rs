//! Raw bindings to DPDK, generated from the installed headers.
