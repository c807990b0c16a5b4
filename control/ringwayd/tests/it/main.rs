//! ringwayd without packets: the state file, reconciliation, the RPCs and the
//! command line, over a fake datapath.

mod apply;
mod daemon;
mod doors;
mod fake;
mod fake_host;
mod flow_rpc;
mod flow_verbs;
mod fuzz_regression;
mod host;
mod journal;
mod ovs_names;
mod reconcile;
mod rpc;
mod start;
mod state_file;
mod verbs;
