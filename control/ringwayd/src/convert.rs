//! One place for every translation between the protocol, the desired state and
//! the datapath's types.

mod guard;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringway_datapath::DropReason;
use ringway_datapath::flows::FlowTotals;
use ringway_datapath::spec::{
    DpdkSpec, FailMode, InternalSpec, PatchSpec, PortKind, PortSpec, PriorityTags, SocketMode,
    SystemSpec, TapSpec, VhostUserSpec, VlanMode, VlanSpec, XdpMode,
};
use ringway_datapath::status::{
    BridgeStatus, FdbEntry, LINK_DOWN, LinkStatus, MemoryKind, PmdCounters, PortCounters,
    PortState, PortStatus,
};
use ringway_proto::spelling::{self, Spelling};
use ringway_proto::v1 as pb;

pub use guard::{guard_from_proto, guard_to_proto};

use crate::model::{Bridge, Columns, Kind, Port, Tap, VhostUser};
use crate::owner;

/// The protocol's value.
pub fn fail_mode_to_proto(mode: FailMode) -> pb::FailMode {
    match mode {
        FailMode::Standalone => pb::FailMode::Standalone,
        FailMode::Secure => pb::FailMode::Secure,
    }
}

/// The datapath's value; not said is standalone.
pub fn fail_mode_from_proto(mode: pb::FailMode) -> FailMode {
    match mode {
        pb::FailMode::Unspecified | pb::FailMode::Standalone => FailMode::Standalone,
        pb::FailMode::Secure => FailMode::Secure,
    }
}

/// The protocol's value.
pub fn socket_mode_to_proto(mode: SocketMode) -> pb::SocketMode {
    match mode {
        SocketMode::Server => pb::SocketMode::Server,
        SocketMode::Client => pb::SocketMode::Client,
    }
}

/// The datapath's value; not said is server.
pub fn socket_mode_from_proto(mode: pb::SocketMode) -> SocketMode {
    match mode {
        pb::SocketMode::Unspecified | pb::SocketMode::Server => SocketMode::Server,
        pb::SocketMode::Client => SocketMode::Client,
    }
}

/// The protocol's value.
pub fn kind_to_proto(kind: &Kind) -> pb::PortKind {
    match kind {
        Kind::VhostUser(_) => pb::PortKind::VhostUser,
        Kind::Dpdk(_) => pb::PortKind::Dpdk,
        Kind::System(_) => pb::PortKind::System,
        Kind::Internal(_) => pb::PortKind::Internal,
        Kind::Tap(_) => pb::PortKind::Tap,
        Kind::Patch(_) => pb::PortKind::Patch,
    }
}

/// The protocol's value.
pub fn xdp_to_proto(xdp: XdpMode) -> pb::XdpMode {
    match xdp {
        XdpMode::Auto => pb::XdpMode::Auto,
        XdpMode::On => pb::XdpMode::On,
        XdpMode::Off => pb::XdpMode::Off,
    }
}

/// The datapath's value; not said is auto.
pub fn xdp_from_proto(xdp: pb::XdpMode) -> XdpMode {
    match xdp {
        pb::XdpMode::Unspecified | pb::XdpMode::Auto => XdpMode::Auto,
        pb::XdpMode::On => XdpMode::On,
        pb::XdpMode::Off => XdpMode::Off,
    }
}

/// The protocol's value.
pub fn vlan_mode_to_proto(mode: Option<VlanMode>) -> pb::VlanMode {
    match mode {
        None => pb::VlanMode::Unspecified,
        Some(VlanMode::Access) => pb::VlanMode::Access,
        Some(VlanMode::Trunk) => pb::VlanMode::Trunk,
        Some(VlanMode::NativeTagged) => pb::VlanMode::NativeTagged,
        Some(VlanMode::NativeUntagged) => pb::VlanMode::NativeUntagged,
        Some(VlanMode::Dot1qTunnel) => pb::VlanMode::Dot1qTunnel,
    }
}

/// The datapath's value.
pub fn vlan_mode_from_proto(mode: pb::VlanMode) -> Option<VlanMode> {
    match mode {
        pb::VlanMode::Unspecified => None,
        pb::VlanMode::Access => Some(VlanMode::Access),
        pb::VlanMode::Trunk => Some(VlanMode::Trunk),
        pb::VlanMode::NativeTagged => Some(VlanMode::NativeTagged),
        pb::VlanMode::NativeUntagged => Some(VlanMode::NativeUntagged),
        pb::VlanMode::Dot1qTunnel => Some(VlanMode::Dot1qTunnel),
    }
}

/// The protocol's value.
pub fn priority_tags_to_proto(tags: PriorityTags) -> pb::PriorityTags {
    match tags {
        PriorityTags::Never => pb::PriorityTags::Never,
        PriorityTags::IfNonzero => pb::PriorityTags::IfNonzero,
        PriorityTags::Always => pb::PriorityTags::Always,
    }
}

/// The datapath's value; not said is never.
pub fn priority_tags_from_proto(tags: pb::PriorityTags) -> PriorityTags {
    match tags {
        pb::PriorityTags::Unspecified | pb::PriorityTags::Never => PriorityTags::Never,
        pb::PriorityTags::IfNonzero => PriorityTags::IfNonzero,
        pb::PriorityTags::Always => PriorityTags::Always,
    }
}

/// An enum's value by its number.
fn known<T: TryFrom<i32>>(what: &str, number: i32) -> Result<T, String> {
    T::try_from(number).map_err(|_| format!("{what} number {number} is not known"))
}

type Map = std::collections::HashMap<String, String>;

fn columns_from_proto(external_ids: Map, other_config: Map) -> Columns {
    Columns {
        external_ids: external_ids.into_iter().collect(),
        other_config: other_config.into_iter().collect(),
    }
}

fn map_to_proto(map: &BTreeMap<String, String>) -> Map {
    map.clone().into_iter().collect()
}

/// The switch's settings.
pub fn switch_from_proto(asked: pb::SwitchSpec) -> Columns {
    columns_from_proto(asked.external_ids, asked.other_config)
}

/// The switch's settings as answers carry them.
pub fn switch_to_proto(switch: &Columns) -> pb::SwitchSpec {
    pb::SwitchSpec {
        external_ids: map_to_proto(&switch.external_ids),
        other_config: map_to_proto(&switch.other_config),
    }
}

/// A requested bridge with its defaults filled in.
pub fn bridge_from_proto(asked: pb::BridgeSpec) -> Result<Bridge, String> {
    let mode = known("fail mode", asked.fail_mode)?;
    let mut bridge = Bridge::new(asked.name);
    bridge.spec.fail_mode = fail_mode_from_proto(mode);
    if let Some(seconds) = asked.fdb_ageing_seconds {
        bridge.spec.fdb_ageing = Duration::from_secs(seconds.into());
    }
    bridge.spec.fdb_limit = asked.fdb_limit.unwrap_or(bridge.spec.fdb_limit);
    bridge.columns = columns_from_proto(asked.external_ids, asked.other_config);
    bridge.no_internal = asked.no_internal;
    Ok(bridge)
}

/// The bridge as answers carry it.
pub fn bridge_to_proto(bridge: &Bridge) -> pb::BridgeSpec {
    let ageing = bridge.spec.fdb_ageing.as_secs();
    pb::BridgeSpec {
        name: bridge.name().to_owned(),
        fail_mode: fail_mode_to_proto(bridge.spec.fail_mode).into(),
        fdb_ageing_seconds: Some(ageing.try_into().unwrap_or(u32::MAX)),
        fdb_limit: Some(bridge.spec.fdb_limit),
        external_ids: map_to_proto(&bridge.columns.external_ids),
        other_config: map_to_proto(&bridge.columns.other_config),
        no_internal: bridge.no_internal,
    }
}

/// A requested port with its defaults filled in.
pub fn port_from_proto(asked: pb::PortSpec) -> Result<Port, String> {
    use pb::port_spec::Kind as Asked;
    let kind = match asked.kind {
        Some(Asked::VhostUser(options)) => {
            Kind::VhostUser(vhost_user_from_proto(&asked.name, options)?)
        }
        Some(Asked::Dpdk(options)) => Kind::Dpdk(dpdk_from_proto(options)?),
        Some(Asked::System(options)) => Kind::System(SystemSpec {
            xdp: xdp_from_proto(known("xdp", options.xdp)?),
            queues: narrow("queues", options.queues.unwrap_or(1))?,
        }),
        Some(Asked::Internal(options)) => Kind::Internal(InternalSpec {
            mac: match options.mac.is_empty() {
                true => None,
                false => Some(spelling::mac(&options.mac)?),
            },
            queues: narrow("queues", options.queues.unwrap_or(1))?,
        }),
        Some(Asked::Tap(options)) => Kind::Tap(Tap {
            owner: Some(options.owner).filter(|owner| !owner.is_empty()),
        }),
        Some(Asked::Patch(options)) => Kind::Patch(PatchSpec { peer: options.peer }),
        None => {
            let types: Vec<_> = pb::PortKind::TABLE.iter().map(|(_, text)| *text).collect();
            let types = types.join(", ");
            return Err(format!("the type is missing: type= one of {types}"));
        }
    };
    Ok(Port {
        name: asked.name,
        bridge: asked.bridge,
        number: asked.number,
        kind,
        vlan: match asked.vlan {
            Some(vlan) => vlan_from_proto(&vlan)?,
            None => VlanSpec::default(),
        },
        mtu: match asked.mtu {
            Some(mtu) => Some(narrow("mtu", mtu)?),
            None => None,
        },
        guard: guard_from_proto(&asked.guard.unwrap_or_default())?,
        columns: columns_from_proto(asked.external_ids, asked.other_config),
    })
}

fn vlan_from_proto(asked: &pb::VlanSpec) -> Result<VlanSpec, String> {
    let list = |vlans: &[u32]| -> Result<Vec<u16>, String> {
        let vlans = vlans.iter().map(|vlan| narrow("VLAN", *vlan));
        let vlans: BTreeSet<u16> = vlans.collect::<Result<_, _>>()?;
        Ok(vlans.into_iter().collect())
    };
    Ok(VlanSpec {
        mode: vlan_mode_from_proto(known("vlan_mode", asked.mode)?),
        tag: match asked.tag {
            Some(tag) => Some(narrow("tag", tag)?),
            None => None,
        },
        trunks: list(&asked.trunks)?,
        cvlans: list(&asked.cvlans)?,
        priority_tags: priority_tags_from_proto(known("priority_tags", asked.priority_tags)?),
        qinq_8021q: asked.qinq_8021q,
    })
}

/// The VLANs as answers carry them; unset for a trunk of all.
fn vlan_to_proto(vlan: &VlanSpec) -> Option<pb::VlanSpec> {
    let list = |vlans: &[u16]| vlans.iter().copied().map(u32::from).collect();
    (*vlan != VlanSpec::default()).then(|| pb::VlanSpec {
        mode: vlan_mode_to_proto(vlan.mode).into(),
        tag: vlan.tag.map(u32::from),
        trunks: list(&vlan.trunks),
        cvlans: list(&vlan.cvlans),
        priority_tags: priority_tags_to_proto(vlan.priority_tags).into(),
        qinq_8021q: vlan.qinq_8021q,
    })
}

fn dpdk_from_proto(asked: pb::DpdkSpec) -> Result<DpdkSpec, String> {
    let mut spec = DpdkSpec::new(asked.devargs);
    if let Some(queues) = asked.rx_queues {
        spec.rx_queues = narrow("n_rxq", queues)?;
    }
    if let Some(queues) = asked.tx_queues {
        spec.tx_queues = Some(narrow("n_txq", queues)?);
    }
    if let Some(number) = asked.rx_descriptors {
        spec.rx_descriptors = narrow("n_rxq_desc", number)?;
    }
    if let Some(number) = asked.tx_descriptors {
        spec.tx_descriptors = narrow("n_txq_desc", number)?;
    }
    Ok(spec)
}

fn vhost_user_from_proto(port: &str, options: pb::VhostUserSpec) -> Result<VhostUser, String> {
    Ok(VhostUser {
        path: match options.path.is_empty() {
            true => VhostUser::default_path(port),
            false => options.path.into(),
        },
        mode: socket_mode_from_proto(known("mode", options.mode)?),
        queues: narrow("queues", options.queues.unwrap_or(1))?,
        owner: Some(options.owner).filter(|owner| !owner.is_empty()),
        permissions: options.permissions,
    })
}

fn narrow(what: &str, value: u32) -> Result<u16, String> {
    u16::try_from(value).map_err(|_| format!("{what} {value} is too large"))
}

/// The port as answers carry it.
pub fn port_to_proto(port: &Port) -> pb::PortSpec {
    use pb::port_spec::Kind as Told;
    let kind = match &port.kind {
        Kind::VhostUser(options) => Told::VhostUser(pb::VhostUserSpec {
            path: options.path.to_string_lossy().into_owned(),
            mode: socket_mode_to_proto(options.mode).into(),
            queues: Some(options.queues.into()),
            owner: options.owner.clone().unwrap_or_default(),
            permissions: options.permissions,
        }),
        Kind::Dpdk(options) => Told::Dpdk(pb::DpdkSpec {
            devargs: options.devargs.clone(),
            rx_queues: Some(options.rx_queues.into()),
            tx_queues: options.tx_queues.map(u32::from),
            rx_descriptors: Some(options.rx_descriptors.into()),
            tx_descriptors: Some(options.tx_descriptors.into()),
        }),
        Kind::System(options) => Told::System(pb::SystemSpec {
            xdp: xdp_to_proto(options.xdp).into(),
            queues: Some(options.queues.into()),
        }),
        Kind::Internal(options) => Told::Internal(pb::InternalSpec {
            mac: options.mac.map(spelling::mac_text).unwrap_or_default(),
            queues: Some(options.queues.into()),
        }),
        Kind::Tap(options) => Told::Tap(pb::TapSpec {
            owner: options.owner.clone().unwrap_or_default(),
        }),
        Kind::Patch(options) => Told::Patch(pb::PatchSpec {
            peer: options.peer.clone(),
        }),
    };
    pb::PortSpec {
        name: port.name.clone(),
        bridge: port.bridge.clone(),
        kind: Some(kind),
        number: port.number,
        vlan: vlan_to_proto(&port.vlan),
        mtu: port.mtu.map(u32::from),
        guard: guard_to_proto(&port.guard),
        external_ids: map_to_proto(&port.columns.external_ids),
        other_config: map_to_proto(&port.columns.other_config),
    }
}

/// The port as the datapath takes it. Fails when an owner is not known on this
/// host.
pub fn port_to_spec(port: &Port) -> Result<PortSpec, String> {
    let kind = match &port.kind {
        Kind::VhostUser(options) => PortKind::VhostUser(VhostUserSpec {
            path: options.path.clone(),
            mode: options.mode,
            queues: options.queues,
            owner: options.owner.as_deref().map(owner::resolve).transpose()?,
            permissions: options.permissions,
        }),
        Kind::Dpdk(options) => PortKind::Dpdk(options.clone()),
        Kind::System(options) => PortKind::System(options.clone()),
        Kind::Internal(options) => PortKind::Internal(options.clone()),
        Kind::Tap(options) => PortKind::Tap(TapSpec {
            owner: options.owner.as_deref().map(owner::resolve).transpose()?,
        }),
        Kind::Patch(options) => PortKind::Patch(options.clone()),
    };
    Ok(PortSpec {
        name: port.name.clone(),
        bridge: port.bridge.clone(),
        number: port.number,
        kind,
        vlan: port.vlan.clone(),
        mtu: port.mtu,
        guard: port.guard.clone(),
    })
}

/// Numbers of flows, groups and meters.
pub fn totals_to_proto(totals: FlowTotals) -> pb::FlowTotals {
    let FlowTotals {
        flows,
        groups,
        meters,
    } = totals;
    pb::FlowTotals {
        flows,
        groups,
        meters,
    }
}

/// Milliseconds since 1970.
pub fn unix_ms(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_millis().try_into().unwrap_or(i64::MAX)
}

/// Where memory lies.
pub fn memory_to_proto(memory: &MemoryKind) -> pb::Memory {
    match memory {
        MemoryKind::Hugepages(bytes) => pb::Memory {
            hugepage_bytes: *bytes,
            reason: String::new(),
        },
        MemoryKind::Ordinary(why) => pb::Memory {
            hugepage_bytes: 0,
            reason: why.clone(),
        },
    }
}

/// A bridge as the datapath has it.
pub fn bridge_status_to_proto(status: &BridgeStatus) -> pb::BridgeStatus {
    pb::BridgeStatus {
        fdb_entries: status.fdb_entries,
        fdb_limit: status.fdb_limit,
        fdb_refused: status.fdb_refused,
        fdb_moves: status.fdb_moves,
        memory: Some(memory_to_proto(&status.memory)),
    }
}

/// A port as the datapath has it.
pub fn port_status_to_proto(status: &PortStatus) -> pb::PortStatus {
    let kind = pb::PortKind::from_spelling(status.kind).unwrap_or_default();
    pb::PortStatus {
        number: status.number,
        name: status.name.clone(),
        bridge: status.bridge.clone(),
        kind: kind.into(),
        state: port_state_to_proto(&status.state).into(),
        state_name: status.state.name().to_owned(),
        reason: status.state.reason().to_owned(),
        since_unix_ms: unix_ms(status.since),
        details: status
            .details
            .iter()
            .map(|(name, value)| pb::Detail {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        queues: status
            .queues
            .iter()
            .map(|queue| pb::Queue {
                queue: queue.queue.into(),
                pmd_core: queue.pmd_core.and_then(|core| core.try_into().ok()),
                dequeue_size: queue.dequeue_size.into(),
                enqueue_size: queue.enqueue_size.into(),
            })
            .collect(),
        local: status.local,
        stations: status.stations,
        stations_refused: status.stations_refused,
        link: status.link.as_ref().map(link_to_proto),
    }
}

fn link_to_proto(link: &LinkStatus) -> pb::LinkStatus {
    pb::LinkStatus {
        mac: link.mac.map(spelling::mac_text).unwrap_or_default(),
        mtu: link.mtu,
        admin_up: link.admin_up,
        link_up: link.link_up,
        speed_mbps: link.speed_mbps.unwrap_or(0),
        ifindex: link.ifindex.unwrap_or(0),
        driver: link.driver.clone(),
        via: link.via.to_owned(),
    }
}

fn port_state_to_proto(state: &PortState) -> pb::PortState {
    match state {
        PortState::Forwarding => pb::PortState::Forwarding,
        PortState::LinkDown { .. } => pb::PortState::LinkDown,
        PortState::Quarantined { .. } => pb::PortState::Quarantined,
        PortState::Failed { .. } => pb::PortState::Failed,
        PortState::Waiting { state, .. } => match *state {
            "waiting-for-socket" => pb::PortState::WaitingForSocket,
            "negotiating" => pb::PortState::Negotiating,
            "memory-mapped" => pb::PortState::MemoryMapped,
            "rings-enabled" => pb::PortState::RingsEnabled,
            LINK_DOWN => pb::PortState::LinkDown,
            _ => pb::PortState::Waiting,
        },
    }
}

/// A learned station.
pub fn fdb_entry_to_proto(entry: &FdbEntry) -> pb::FdbEntry {
    pb::FdbEntry {
        port: entry.port,
        port_name: entry.port_name.clone(),
        vlan: entry.vlan.into(),
        mac: spelling::mac_text(entry.mac),
        age_seconds: entry.age.as_secs(),
    }
}

/// Whether the reason blames the packet (or its ring) and not the bridge or the
/// load: an error in the sense of `ovs-ofctl dump-ports`, not a drop.
fn is_error(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::FrameTooShort
            | DropReason::FrameTooLong
            | DropReason::ChainTooLong
            | DropReason::BadOffload
            | DropReason::GuestFault
            | DropReason::MemoryLost
            | DropReason::DestinationFault
    )
}

/// Counters of a port or queue, drops summed up as drops and errors.
pub fn counters_to_proto(counters: &PortCounters) -> pb::Counters {
    let sum = |drops: &[(DropReason, u64)], errors: bool| -> u64 {
        let wanted = drops.iter().filter(|(r, _)| is_error(*r) == errors);
        wanted.map(|(_, packets)| packets).sum()
    };
    pb::Counters {
        rx_packets: counters.rx_packets,
        rx_bytes: counters.rx_bytes,
        rx_dropped: sum(&counters.rx_drops, false),
        rx_errors: sum(&counters.rx_drops, true),
        tx_packets: counters.tx_packets,
        tx_bytes: counters.tx_bytes,
        tx_dropped: sum(&counters.tx_drops, false),
        tx_errors: sum(&counters.tx_drops, true),
        guest_notifications: counters.guest_notifications,
    }
}

/// A count of drops with its explanation.
pub fn drop_count(reason: DropReason, packets: u64) -> pb::DropCount {
    pb::DropCount {
        reason: reason.name().to_owned(),
        explanation: reason.explain().trim().to_owned(),
        packets,
    }
}

/// A poll-mode core's packets.
pub fn packets_to_proto(counters: &PmdCounters) -> pb::Packets {
    pb::Packets {
        received: counters.received,
        replicated: counters.replicated,
        transmitted: counters.transmitted,
        dropped: counters.dropped.iter().map(|(_, packets)| packets).sum(),
    }
}
