//! ringway, Open vSwitch-DPDK and testpmd on the same core, alternating.

fn main() {}
