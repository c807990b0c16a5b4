//! The host's network as ringway's ports use it.
//!
//! A port whose other end is the kernel looks to a PMD like a guest: rings in
//! memory of ours, with a thread of ours at the driver's end ([`port`]). So a PMD
//! makes no system call for it, sleeps and is woken as with guests, and passes
//! virtio-net headers through; the thread hands frames with their headers to a
//! tap device or a packet socket, which take and give the same header.

pub mod error;
mod fanout;
pub mod ingress;
pub mod link;
mod netlink;
mod packet;
pub mod port;
mod ring;
pub mod tap;
pub mod xdp;

pub use error::HostError;
