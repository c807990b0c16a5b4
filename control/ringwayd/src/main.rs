//! The ringway daemon: datapath, desired state and gRPC services.

fn main() {}
