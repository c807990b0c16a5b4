//! What may be asked of the datapath: bridges, ports and their options.

use std::path::PathBuf;
use std::time::Duration;

/// How the poll-mode cores run and how much memory they get.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// One pinned poll-mode thread is started per entry (a CPU number).
    pub pmd_cores: Vec<usize>,
    /// Where the tables and mbufs live.
    pub hugepages: Hugepages,
    /// Memory DPDK may take for tables and mbufs, in MiB.
    pub memory_mib: u32,
    /// With nothing to do for this long a PMD sleeps until a guest kicks;
    /// zero means it never sleeps.
    pub sleep_after: Duration,
    /// Most megaflows of each poll-mode core.
    pub flow_limit: u32,
    /// Entries of each poll-mode core's exact-match cache, rounded up to a
    /// power of two.
    pub emc_entries: u32,
    /// A megaflow without a packet for this long is forgotten, at most 200 s.
    pub max_idle: Duration,
}

impl Default for DatapathConfig {
    fn default() -> Self {
        Self {
            pmd_cores: vec![0],
            hugepages: Hugepages::Auto,
            memory_mib: 256,
            sleep_after: Duration::from_micros(500),
            flow_limit: 65_536,
            emc_entries: 65_536,
            max_idle: Duration::from_secs(10),
        }
    }
}

/// `--hugepages auto|off|SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hugepages {
    /// Hugepages where there are enough of them, ordinary memory otherwise.
    Auto,
    /// Ordinary memory.
    Off,
    /// Pages of this many bytes, or an error.
    Size(u64),
}

/// Options of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// The bridge's name, unique in the datapath.
    pub name: String,
    /// What passes when no flow says so.
    pub fail_mode: FailMode,
    /// Seconds until a silent station is forgotten.
    pub fdb_ageing: Duration,
    /// Most stations the bridge learns.
    pub fdb_limit: u32,
}

impl BridgeSpec {
    /// A bridge with Open vSwitch's defaults: 300 s ageing, 8,192 stations.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            fail_mode: FailMode::Standalone,
            fdb_ageing: Duration::from_secs(300),
            fdb_limit: 8192,
        }
    }
}

/// What a bridge begins with. A packet that no flow matches is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailMode {
    /// One flow, `priority=0,actions=NORMAL`: it learns and forwards.
    #[default]
    Standalone,
    /// No flow: nothing passes.
    Secure,
}

/// A port to be added to a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The port's name, unique in the datapath.
    pub name: String,
    /// The bridge it belongs to.
    pub bridge: String,
    /// The number it shall have, 1 to 1023; `None`: the lowest that is free.
    pub number: Option<u32>,
    /// What kind of port, with that kind's options.
    pub kind: PortKind,
}

/// The kinds of port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A guest's virtio-net device.
    VhostUser(VhostUserSpec),
    /// A DPDK device, real or virtual.
    Dpdk(DpdkSpec),
}

/// Options of a vhost-user port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserSpec {
    /// The unix socket.
    pub path: PathBuf,
    /// Who listens on it.
    pub mode: SocketMode,
    /// Queue pairs offered to the guest, 1 to 128.
    pub queues: u16,
    /// Owner of the socket file (server mode): user and group ids.
    pub owner: Option<(u32, u32)>,
    /// Permission bits of the socket file (server mode).
    pub permissions: Option<u32>,
}

/// Who listens on a vhost-user socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketMode {
    /// ringway listens, QEMU connects.
    #[default]
    Server,
    /// QEMU listens, ringway connects, again and again.
    Client,
}

/// Options of a DPDK port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkSpec {
    /// DPDK device arguments: a PCI address or a virtual device such as
    /// `net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap`.
    pub devargs: String,
    /// NIC receive queues.
    pub rx_queues: u16,
}
