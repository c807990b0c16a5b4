//! What may be asked of the datapath: bridges, ports and their options.

mod guard;

use std::path::PathBuf;
use std::time::Duration;

pub use guard::{GuardSpec, MAX_ALLOWED, MacMove, RateSpec};

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
    /// Which VLANs NORMAL takes from it and gives to it.
    pub vlan: VlanSpec,
    /// Bytes that a frame may have behind its Ethernet header and VLAN tags.
    /// `None`: what the device has; a guest is given frames of any length.
    pub mtu: Option<u16>,
    /// What it may send, and how much of it.
    pub guard: GuardSpec,
}

impl PortSpec {
    /// A trunk of all VLANs with the lowest number that is free.
    pub fn new(name: impl Into<String>, bridge: impl Into<String>, kind: PortKind) -> Self {
        Self {
            name: name.into(),
            bridge: bridge.into(),
            number: None,
            kind,
            vlan: VlanSpec::default(),
            mtu: None,
            guard: GuardSpec::default(),
        }
    }

    /// Whether it is the bridge's own interface, which flows know as LOCAL.
    pub fn is_local(&self) -> bool {
        self.name == self.bridge && matches!(self.kind, PortKind::Internal(_))
    }
}

/// The kinds of port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A guest's virtio-net device.
    VhostUser(VhostUserSpec),
    /// A DPDK device, real or virtual.
    Dpdk(DpdkSpec),
    /// A kernel interface that is there already, named like the port.
    System(SystemSpec),
    /// A tap device of ours, named like the port, whose other end is the
    /// host's network stack.
    Internal(InternalSpec),
    /// A tap device that we make, named like the port, for QEMU to open.
    Tap(TapSpec),
    /// One end of a pair that joins two bridges.
    Patch(PatchSpec),
}

/// Options of a system port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemSpec {
    /// How its frames are had.
    pub xdp: XdpMode,
    /// Queues that share what it receives by flow, 1 to 16.
    pub queues: u16,
}

impl Default for SystemSpec {
    fn default() -> Self {
        Self {
            xdp: XdpMode::default(),
            queues: 1,
        }
    }
}

/// Whether a system port's frames are had through AF_XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Where the interface's driver does it without a copy; else AF_PACKET.
    #[default]
    Auto,
    /// AF_XDP in whatever way the driver has. Partial checksums and oversized
    /// frames of a veth's or tap's other end must be turned off there.
    On,
    /// AF_PACKET.
    Off,
}

/// Options of an internal port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalSpec {
    /// Its Ethernet address; `None`: as the device has it or the kernel
    /// chooses.
    pub mac: Option<[u8; 6]>,
    /// Queues of the tap device, 1 to 16.
    pub queues: u16,
}

impl Default for InternalSpec {
    fn default() -> Self {
        Self {
            mac: None,
            queues: 1,
        }
    }
}

/// Options of a tap port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapSpec {
    /// User and group ids that may open it without privileges.
    pub owner: Option<(u32, u32)>,
}

/// Options of a patch port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchSpec {
    /// Name of the other end, a patch port of another bridge.
    pub peer: String,
}

/// Which VLANs NORMAL takes from a port and gives to it, as Open vSwitch's
/// Port table has it (ovs-vswitchd.conf.db(5), "VLAN Configuration").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VlanSpec {
    /// `None`: access if there is a tag, else trunk.
    pub mode: Option<VlanMode>,
    /// The access VLAN, or the native one, 0 to 4095.
    pub tag: Option<u16>,
    /// VLANs of a trunk, in order; empty: all.
    pub trunks: Vec<u16>,
    /// Inner VLANs that a dot1q-tunnel takes, in order; empty: all.
    pub cvlans: Vec<u16>,
    /// What frames without a VLAN look like when they leave the port.
    pub priority_tags: PriorityTags,
    /// TPID of the outer tag of a dot1q-tunnel: 0x88a8, or 0x8100 if true.
    pub qinq_8021q: bool,
}

impl VlanSpec {
    /// The mode that it comes to.
    pub fn mode(&self) -> VlanMode {
        match (self.mode, self.tag) {
            (Some(mode), _) => mode,
            (None, Some(_)) => VlanMode::Access,
            (None, None) => VlanMode::Trunk,
        }
    }

    /// Why it cannot be, if it cannot.
    pub fn check(&self) -> Result<(), String> {
        let all = (self.tag.iter().map(|vlan| ("tag", vlan)))
            .chain(self.trunks.iter().map(|vlan| ("trunks", vlan)))
            .chain(self.cvlans.iter().map(|vlan| ("cvlans", vlan)));
        for (option, vlan) in all {
            if *vlan > 4095 {
                return Err(format!(
                    "{option}={vlan}: a VLAN is a number from 0 to 4095"
                ));
            }
        }
        match self.mode() {
            VlanMode::Trunk => Ok(()),
            mode if self.tag.is_none() => Err(format!(
                "vlan_mode={} needs the VLAN: give tag=VLAN, too",
                mode.name()
            )),
            _ => Ok(()),
        }
    }

    /// Options that have no effect together with the others: as in Open
    /// vSwitch they are taken and mean nothing. One sentence each.
    pub fn ignored(&self) -> Vec<String> {
        let mode = self.mode();
        let mut ignored = Vec::new();
        let mut ignore = |given: bool, option: &str, of: &str| {
            if given {
                let mode = mode.name();
                ignored.push(format!(
                    "{option} is ignored: it is for {of}, and vlan_mode is {mode}"
                ));
            }
        };
        let tunnel = mode == VlanMode::Dot1qTunnel;
        let lists = !tunnel && mode != VlanMode::Access;
        let trunk = mode == VlanMode::Trunk;
        ignore(
            trunk && self.tag.is_some(),
            "tag",
            "access, native and tunnel ports",
        );
        ignore(
            !lists && !self.trunks.is_empty(),
            "trunks",
            "trunk and native ports",
        );
        ignore(
            !tunnel && !self.cvlans.is_empty(),
            "cvlans",
            "dot1q-tunnel ports",
        );
        ignore(
            !tunnel && self.qinq_8021q,
            "qinq-ethtype",
            "dot1q-tunnel ports",
        );
        ignored
    }
}

/// What an access, trunk or tunnel port does with its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanMode {
    /// Untagged frames of one VLAN.
    Access,
    /// Tagged frames of many VLANs; untagged ones are VLAN 0.
    Trunk,
    /// A trunk whose untagged frames belong to VLAN `tag`; that VLAN leaves tagged.
    NativeTagged,
    /// The same; that VLAN leaves untagged.
    NativeUntagged,
    /// Every frame, tagged or not, is put into VLAN `tag` with an outer tag.
    Dot1qTunnel,
}

impl VlanMode {
    /// As Open vSwitch's `vlan_mode` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Trunk => "trunk",
            Self::NativeTagged => "native-tagged",
            Self::NativeUntagged => "native-untagged",
            Self::Dot1qTunnel => "dot1q-tunnel",
        }
    }
}

/// Whether a frame with priority but without VLAN keeps an 802.1p tag of VLAN 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PriorityTags {
    /// Never: it leaves without a tag.
    #[default]
    Never,
    /// If its priority is not 0.
    IfNonzero,
    /// Always.
    Always,
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
    /// NIC transmit queues; `None`: one for each poll-mode core, as far as the
    /// device has them.
    pub tx_queues: Option<u16>,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
}

impl DpdkSpec {
    /// One receive queue, 1024 descriptors.
    pub fn new(devargs: impl Into<String>) -> Self {
        Self {
            devargs: devargs.into(),
            rx_queues: 1,
            tx_queues: None,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
        }
    }
}
