//! What PMDs work by: an immutable picture of bridges, ports and rings.
//!
//! The control plane builds a new [`Snapshot`] for every change and publishes
//! it (see [`crate::publish`]); a PMD picks it up between two iterations and
//! never sees half a change.

use std::sync::Arc;

use nix::sys::epoll::Epoll;
use ringway_flow::key::PORT_LOCAL;
use ringway_flow::pipeline::Pipeline;
use ringway_flow::stats::StatsTable;
use ringway_vhost::Ring;

use crate::counters::PortCounterTable;
use crate::fdb::Fdb;
use crate::guard::Guard;
use crate::meter::{Meter, TokenBucket};
use crate::nic::Nic;
use crate::vlan::PortVlans;
use crate::warm::WarmUp;
use crate::watch::Watch;

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

    /// VLANs of the port with this number on the bridge with this id. One that
    /// is not there, such as a controller as ingress, is a trunk of all.
    pub fn vlans(&self, bridge: u16, number: u32) -> &PortVlans {
        const ALL: &PortVlans = &PortVlans::ALL;
        self.port(number)
            .filter(|port| port.bridge_id == bridge)
            .and_then(|port| port.vlans.as_ref())
            .unwrap_or(ALL)
    }
}

/// A bridge.
pub struct BridgeView {
    /// Never 0; another bridge gets the same only after a long time.
    pub id: u16,
    pub fdb: Arc<Fdb>,
    /// Its rules.
    pub pipeline: Pipeline,
    /// Cells of its rules' counts.
    pub stats: Arc<StatsTable>,
    /// By id, in order.
    pub meters: Vec<(u32, Arc<Meter>)>,
    /// Numbers of the ports that can take frames now.
    pub members: Vec<u32>,
    /// Number of its own interface, or [`LOCAL`] while it has none.
    pub local: u32,
    /// Some port of it is not simply a trunk of all VLANs.
    pub has_vlans: bool,
}

/// What flows call a bridge's own interface, whatever its number.
pub const LOCAL: u32 = PORT_LOCAL as u32;

impl BridgeView {
    /// The number of the port that flows call `port`.
    #[inline(always)]
    pub fn number(&self, port: u32) -> u32 {
        if port == LOCAL { self.local } else { port }
    }

    /// What flows call the port with this number.
    #[inline(always)]
    pub fn flow_port(&self, number: u32) -> u16 {
        if number == self.local {
            PORT_LOCAL
        } else {
            number as u16
        }
    }
}

/// A port.
pub struct PortView {
    /// Index in [`Snapshot::bridges`].
    pub bridge: usize,
    /// That bridge's id.
    pub bridge_id: u16,
    pub output: Output,
    /// Longest frame that may go there, without its VLAN tags: the MTU and an
    /// Ethernet header. [`NO_LIMIT`]: as long as any frame.
    pub max_frame: u32,
    /// `None`: a trunk of all VLANs.
    pub vlans: Option<PortVlans>,
    /// What comes from it has to pass here. `None`: everything passes.
    pub guard: Option<Arc<Guard>>,
    /// Rate of its frames to many.
    pub storm: Option<Arc<TokenBucket>>,
    pub counters: Arc<PortCounterTable>,
}

/// The port has no MTU of its own.
pub const NO_LIMIT: u32 = u32::MAX;

/// Where frames for a port go.
pub enum Output {
    /// Running receive rings of a guest, or of a port whose other end is the
    /// kernel, with their queue numbers.
    Guest(Vec<(u16, Arc<Ring>)>),
    /// A DPDK device.
    Nic(Arc<Nic>),
    /// They come in by the port with this number, of another bridge. `None`: it
    /// is not there.
    Patch(Option<u32>),
    /// A test that wants to see them.
    #[cfg(test)]
    Sink(std::sync::Mutex<Vec<Vec<u8>>>),
}

/// Where frames come from.
pub enum Source {
    /// A guest's transmit ring.
    Ring(Arc<Ring>),
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
    /// No queue is a guest's or a NIC's: whoever fills them is a thread of ours,
    /// which may need this very CPU.
    pub only_kernel: bool,
    /// Megaflows to be made before the first packet: once, when the plan is new.
    pub warm: Option<WarmUp>,
    /// Somebody wants to know what is done with a packet.
    pub watch: Option<Arc<Watch>>,
    /// The PMD is to end.
    pub stop: bool,
}
