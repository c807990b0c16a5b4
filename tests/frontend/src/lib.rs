//! A scripted vhost-user frontend and virtio-net driver: the guest's side of
//! a port, without a guest.
//!
//! ```text
//! GuestMemory   memfd-backed "RAM" shared with the backend      memory.rs
//! Session       the vhost-user socket, step by step or raw      session.rs, raw.rs
//!   bring_up →  Guest: features, memory, one ring per queue     bring_up.rs
//! SplitRing     every field of a split virtqueue, driver side   ring/split.rs
//! PackedRing    the same of a packed one                        ring/packed.rs
//! Ring          one of the two                                  ring/any.rs
//! FastRing      a split virtqueue laid out once, for pktgen     ring/fast.rs
//! NetDriver     send(frame) / recv() on one queue pair          net.rs
//! ```
//!
//! Hostile tests use the raw parts (any descriptor, any bytes and any file
//! descriptors on the socket); well-behaved tests use [`NetDriver`]; `pktgen`
//! uses [`FastRing`].
//!
//! Queues are named from the driver's side as the VirtIO text does: queue
//! `2n` is `receiveq n` (the backend enqueues into it), queue `2n + 1` is
//! `transmitq n` (the backend dequeues from it).
//!
//! Addresses handed to these types are guest-physical ([`Gpa`]); an access
//! outside the guest's memory is a mistake in the test and panics with the
//! address. What may be wrong on purpose (descriptors, ring addresses,
//! messages) is written as given and never checked here.

pub mod bring_up;
pub mod error;
pub mod memory;
pub mod net;
pub mod raw;
pub mod ring;
pub mod session;

pub use bring_up::{Guest, SessionConfig};
pub use error::Error;
pub use memory::{Backing, Gpa, GuestMemory, RegionSpec};
pub use net::NetDriver;
pub use ring::{
    Descriptor, PackedDescriptor, PackedRing, Ring, RingLayout, SplitRing, UsedElem, fast::FastRing,
};
pub use session::{Session, SessionListener};
pub use vhost::VhostUserMemoryRegionInfo as MemoryRegion;

/// Virtio and vhost-user feature bits by number, as `1 << N` masks.
pub mod features {
    /// The driver may send partial checksums.
    pub const CSUM: u64 = 1 << 0;
    /// The driver checks partial checksums.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// Takes oversized frames (`GUEST_TSO4`, `TSO6`, `ECN`, `UFO`).
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// TCP over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// TCP with CWR.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// UDP as IP fragments.
    pub const GUEST_UFO: u64 = 1 << 10;
    /// May send oversized frames (`HOST_TSO4`, `TSO6`, `ECN`, `UFO`).
    pub const HOST_TSO4: u64 = 1 << 11;
    /// TCP over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// TCP with CWR.
    pub const HOST_ECN: u64 = 1 << 13;
    /// UDP as IP fragments.
    pub const HOST_UFO: u64 = 1 << 14;
    /// Mergeable receive buffers: one frame may span several chains.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// A control virtqueue exists.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// Several queue pairs.
    pub const MQ: u64 = 1 << 22;
    /// The backend logs dirtied pages.
    pub const LOG_ALL: u64 = 1 << 26;
    /// Any descriptor layout.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Indirect descriptor tables.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notification suppression by `used_event` / `avail_event`.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user: protocol features may be negotiated.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Virtio 1.0: little endian, 12-byte net header.
    pub const VERSION_1: u64 = 1 << 32;
    /// Takes UDP datagrams of one size in one frame, over IPv4.
    pub const GUEST_USO4: u64 = 1 << 54;
    /// The same over IPv6.
    pub const GUEST_USO6: u64 = 1 << 55;
    /// May send them.
    pub const HOST_USO: u64 = 1 << 56;
    /// Packed virtqueues.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order they were made available.
    pub const IN_ORDER: u64 = 1 << 35;
}
