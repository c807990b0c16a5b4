//! What the datapath says of itself: always the actual state, never the wish.

use std::time::{Duration, SystemTime};

use crate::drop_reason::DropReason;

/// A bridge as the datapath has it.
#[derive(Clone, Debug)]
pub struct BridgeStatus {
    /// Its name.
    pub name: String,
    /// Stations learned now.
    pub fdb_entries: u32,
    /// Most stations it learns.
    pub fdb_limit: u32,
    /// Stations not learned because the table was full.
    pub fdb_refused: u64,
    /// Stations seen moving from one port to another.
    pub fdb_moves: u64,
    /// Where the FDB's memory is.
    pub memory: MemoryKind,
}

/// Where a table's memory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Hugepages of this size, in bytes.
    Hugepages(u64),
    /// Ordinary memory, and why.
    Ordinary(String),
}

/// A port as the datapath has it.
#[derive(Clone, Debug)]
pub struct PortStatus {
    /// Number in the datapath: 1 and up, reused only after the port is gone.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// The bridge it is on.
    pub bridge: String,
    /// It is the bridge's own interface, which flows know as LOCAL.
    pub local: bool,
    /// Kind as users spell it: `vhost-user`, `dpdk`, `system`, `internal`,
    /// `tap`, `patch`.
    pub kind: &'static str,
    /// Where it stands.
    pub state: PortState,
    /// Since when.
    pub since: SystemTime,
    /// MTU-independent facts worth showing, as name and value: negotiated
    /// features, socket, memory size, link.
    pub details: Vec<(String, String)>,
    /// Its device; `None` for guests and patches.
    pub link: Option<LinkStatus>,
    /// Each queue's ring and the PMD that polls it.
    pub queues: Vec<QueueStatus>,
    /// Totals over queues and PMDs.
    pub counters: PortCounters,
    /// Stations that are known on it.
    pub stations: u32,
    /// How often a station was not learned on it: it had as many as it may, or
    /// the table was full.
    pub stations_refused: u64,
}

/// A port's device as the kernel or DPDK has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Bytes behind the Ethernet header.
    pub mtu: u32,
    /// Set up by its administrator.
    pub admin_up: bool,
    /// It has a carrier.
    pub link_up: bool,
    /// Speed in Mbit/s, if it is known.
    pub speed_mbps: Option<u32>,
    /// Number of the kernel interface, if it is one.
    pub ifindex: Option<u32>,
    /// Its driver, e.g. `tun`, `veth`, `net_pcap`.
    pub driver: String,
    /// How its frames are had: `tap`, `af_packet`, `af_xdp`, `dpdk`.
    pub via: &'static str,
}

/// The state of a port whose device takes no frames now.
pub const LINK_DOWN: &str = "link-down";

/// Where a port is, for who needs no more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlace {
    /// The number by which flows know it.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// The bridge it is on.
    pub bridge: String,
}

/// Where a port stands on its way to forwarding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Forwards packets.
    Forwarding,
    /// Takes part in the bridge but its peer is not ready: the state's name
    /// (`waiting-for-socket`, `negotiating`, `memory-mapped`, `rings-enabled`,
    /// `waiting-for-peer`, [`LINK_DOWN`]) and what it waits for.
    Waiting {
        /// The session state's name.
        state: &'static str,
        /// What it waits for, and what to do about it.
        why: String,
    },
    /// Its device's link is down. It is back by itself when the link is.
    LinkDown {
        /// What to look at.
        why: String,
    },
    /// Shut out because its guest or frontend broke the rules.
    Quarantined {
        /// What it did.
        why: String,
    },
    /// Could not be brought up, or its device went away.
    Failed {
        /// What happened and what to do about it.
        why: String,
    },
}

impl PortState {
    /// The state's name as shown to users.
    pub fn name(&self) -> &'static str {
        match self {
            PortState::Forwarding => "forwarding",
            PortState::Waiting { state, .. } => state,
            PortState::LinkDown { .. } => LINK_DOWN,
            PortState::Quarantined { .. } => "quarantined",
            PortState::Failed { .. } => "failed",
        }
    }

    /// Why the port does not forward; empty when it does.
    pub fn reason(&self) -> &str {
        match self {
            PortState::Forwarding => "",
            PortState::Waiting { why, .. }
            | PortState::LinkDown { why }
            | PortState::Quarantined { why }
            | PortState::Failed { why } => why,
        }
    }
}

/// One queue pair (vhost-user) or queue (dpdk) of a port.
#[derive(Clone, Debug)]
pub struct QueueStatus {
    /// Queue number from 0.
    pub queue: u16,
    /// The CPU whose PMD polls it, if any does.
    pub pmd_core: Option<usize>,
    /// Entries of the dequeue ring, 0 while it is stopped.
    pub dequeue_size: u16,
    /// Entries of the enqueue ring, 0 while it is stopped.
    pub enqueue_size: u16,
    /// What went through this queue.
    pub counters: PortCounters,
}

/// Packets and bytes as the switch sees them: `rx` came from the port's peer,
/// `tx` went to it. `drops` lists the reasons with a count above zero, each
/// counted at the port where the packet ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received from the peer.
    pub rx_packets: u64,
    /// Their bytes, without virtio-net headers.
    pub rx_bytes: u64,
    /// Packets delivered to the peer.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets received here that ended here (rx side), by reason.
    pub rx_drops: Vec<(DropReason, u64)>,
    /// Packets meant for this port that ended here (tx side), by reason.
    pub tx_drops: Vec<(DropReason, u64)>,
    /// Notifications sent to the guest.
    pub guest_notifications: u64,
}

/// One poll-mode core.
#[derive(Clone, Debug)]
pub struct PmdStatus {
    /// The CPU it is pinned to.
    pub core: usize,
    /// Port name and queue of each ring that it polls.
    pub polls: Vec<(String, u16)>,
    /// Its counters since start.
    pub counters: PmdCounters,
    /// Asleep on kicks right now.
    pub sleeping: bool,
}

/// A PMD's counters. `received + replicated = transmitted + Σ dropped` at every
/// quiescent point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PmdCounters {
    /// Loop iterations.
    pub iterations: u64,
    /// Polls of a ring or NIC queue that brought packets.
    pub busy_polls: u64,
    /// TSC cycles spent in busy polls.
    pub busy_cycles: u64,
    /// TSC cycles spent in polls that brought nothing.
    pub idle_cycles: u64,
    /// TSC cycles asleep.
    pub sleep_cycles: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Packets taken from rings and NIC queues.
    pub received: u64,
    /// Copies beyond the first when a packet goes to several ports.
    pub replicated: u64,
    /// Packets delivered.
    pub transmitted: u64,
    /// Packets dropped, by reason (only those above zero).
    pub dropped: Vec<(DropReason, u64)>,
}

/// One learned station.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// MAC address.
    pub mac: [u8; 6],
    /// VLAN, 0 for untagged.
    pub vlan: u16,
    /// Port number.
    pub port: u32,
    /// Port name.
    pub port_name: String,
    /// Since it was last heard.
    pub age: Duration,
}

/// Facts that do not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct DatapathInfo {
    /// Where tables and mbufs live.
    pub memory: MemoryKind,
    /// TSC cycles per second.
    pub tsc_hz: u64,
    /// DPDK's version string.
    pub dpdk_version: String,
}
