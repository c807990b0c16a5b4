//! A guest's port: vhost-user session, guest memory and virtio rings.
//!
//! ```text
//! socket ─ one thread per port ─▶ session ─▶ memory, rings ─▶ RingPublisher (the datapath)
//!                                                              │
//! PMD: ring.dequeue(burst, |packets| … other_ring.enqueue(packets, list)) ◀┘
//! ```
//!
//! This crate knows no DPDK and no bridge. Everything a guest or frontend says
//! is hostile until checked; `unsafe` is confined to the modules that say so
//! at their top.

// What a guest or a frontend says must never end the daemon.
#![cfg_attr(
    not(any(test, feature = "test-utils")),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented
    )
)]

mod checksum;
mod claim;
mod cool_down;
mod cpus;
mod dequeue;
mod dirty;
mod early;
mod enqueue;
pub mod features;
pub mod gso;
mod handover;
pub mod listen;
mod log_limit;
mod mark;
mod memory;
mod notify;
mod packet;
mod replay;
pub mod ring;
mod session;
mod sigbus;
mod socket;
mod status;

pub use claim::{Claim, Claimed};
pub use cpus::keep_to;
pub use dequeue::Dequeued;
pub use dirty::{DirtyLog, LOG_PAGE, LogError};
pub use enqueue::Enqueued;
pub use gso::{Cut, GsoKinds, Headers, Next, Offer, Taker};
pub use handover::{Descriptors, HandoverError, SessionKeeper};
pub use listen::MAX_PATH_BYTES;
pub use memory::{GuestMemory, MAX_GUEST_BYTES, MAX_REGIONS, MemoryError, RegionSpec};
pub use packet::{
    BURST, BURST_PACKETS, Burst, HEAD_BYTES, HEAD_CAPACITY, MAX_FRAME_BYTES, MAX_SEGMENTS,
    PacketSet, Packets, Reader, VNET_F_DATA_VALID, VNET_F_NEEDS_CSUM, VNET_HEADER_BYTES,
    VnetHeader,
};
pub use ring::{DeviceFault, Ring, RingFault, RingFeatures};
pub use session::{DeviceRings, QueuePair, RingPublisher};
pub use socket::{
    GuestPort, GuestPortConfig, GuestPortError, GuestPortForm, MAX_QUEUE_PAIRS, Mode,
};
pub use status::{SessionState, SessionStatus};
