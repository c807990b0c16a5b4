//! Safe RAII wrappers over DPDK: EAL, memory, mbufs, ports.
