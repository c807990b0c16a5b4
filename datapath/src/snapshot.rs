//! What PMDs work by: an immutable picture of bridges, ports and rings.
//!
//! The control plane builds a new [`Snapshot`] for every change and publishes
//! it (see [`crate::publish`]); a PMD picks it up between two iterations and
//! never sees half a change.

use std::sync::Arc;

use nix::sys::epoll::Epoll;
use ringway_vhost::SplitRing;

use crate::counters::PortCounterTable;
use crate::fdb::Fdb;
use crate::nic::Nic;
use crate::spec::FailMode;

/// Port numbers are below this; 0 is never used.
pub const MAX_PORTS: usize = 1024;

/// Bridges and ports as they are now.
#[derive(Default)]
pub struct Snapshot {
    pub bridges: Vec<BridgeView>,
    /// By port number.
    pub ports: Vec<Option<PortView>>,
}

impl Snapshot {
    /// The port with this number.
    #[inline(always)]
    pub fn port(&self, number: u32) -> Option<&PortView> {
        self.ports.get(number as usize)?.as_ref()
    }
}

/// A bridge.
pub struct BridgeView {
    pub fdb: Arc<Fdb>,
    pub fail_mode: FailMode,
    /// Numbers of the ports that can take frames now.
    pub members: Vec<u32>,
}

/// A port.
pub struct PortView {
    /// Index in [`Snapshot::bridges`].
    pub bridge: usize,
    pub output: Output,
    pub counters: Arc<PortCounterTable>,
}

/// Where frames for a port go.
pub enum Output {
    /// Running receive rings of a guest, with their queue numbers.
    Guest(Vec<(u16, Arc<SplitRing>)>),
    /// A DPDK device.
    Nic(Arc<Nic>),
}

/// Where frames come from.
pub enum Source {
    /// A guest's transmit ring.
    Ring(Arc<SplitRing>),
    /// A receive queue of a DPDK device.
    Nic(Arc<Nic>),
}

/// One queue that a PMD polls.
pub struct Poll {
    pub port: u32,
    pub queue: u16,
    pub source: Source,
}

/// One PMD's share of a snapshot.
pub struct Plan {
    /// Grows with every publication.
    pub version: u64,
    pub snapshot: Arc<Snapshot>,
    pub polls: Vec<Poll>,
    /// Becomes ready when a guest of `polls` kicks or a new plan is there.
    /// `None`: no set could be made; the PMD polls without sleep.
    pub wakeups: Option<Epoll>,
    /// A NIC cannot kick: the PMD naps instead of sleeping.
    pub polls_nic: bool,
    /// The PMD is to end.
    pub stop: bool,
}
