//! One place for every translation between the protocol, the desired state and
//! the datapath's types.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringway_datapath::DropReason;
use ringway_datapath::flows::FlowTotals;
use ringway_datapath::spec::{
    BridgeSpec, DpdkSpec, FailMode, PortKind, PortSpec, SocketMode, VhostUserSpec,
};
use ringway_datapath::status::{
    BridgeStatus, FdbEntry, MemoryKind, PmdCounters, PortCounters, PortState, PortStatus,
};
use ringway_proto::spelling::Spelling;
use ringway_proto::v1 as pb;

use crate::model::{Kind, Port, VhostUser};
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
    }
}

/// A requested bridge with its defaults filled in.
pub fn bridge_from_proto(asked: pb::BridgeSpec) -> Result<BridgeSpec, String> {
    let mode = pb::FailMode::try_from(asked.fail_mode)
        .map_err(|_| format!("fail mode number {} is not known", asked.fail_mode))?;
    let mut bridge = BridgeSpec::new(asked.name);
    bridge.fail_mode = fail_mode_from_proto(mode);
    if let Some(seconds) = asked.fdb_ageing_seconds {
        bridge.fdb_ageing = Duration::from_secs(seconds.into());
    }
    bridge.fdb_limit = asked.fdb_limit.unwrap_or(bridge.fdb_limit);
    Ok(bridge)
}

/// The bridge as answers carry it.
pub fn bridge_to_proto(bridge: &BridgeSpec) -> pb::BridgeSpec {
    pb::BridgeSpec {
        name: bridge.name.clone(),
        fail_mode: fail_mode_to_proto(bridge.fail_mode).into(),
        fdb_ageing_seconds: Some(bridge.fdb_ageing.as_secs().try_into().unwrap_or(u32::MAX)),
        fdb_limit: Some(bridge.fdb_limit),
        ..Default::default()
    }
}

/// A requested port with its defaults filled in.
pub fn port_from_proto(asked: pb::PortSpec) -> Result<Port, String> {
    let kind = match asked.kind {
        Some(pb::port_spec::Kind::VhostUser(options)) => {
            Kind::VhostUser(vhost_user_from_proto(&asked.name, options)?)
        }
        Some(pb::port_spec::Kind::Dpdk(options)) => Kind::Dpdk(DpdkSpec {
            rx_queues: narrow("n_rxq", options.rx_queues.unwrap_or(1))?,
            ..DpdkSpec::new(options.devargs)
        }),
        Some(_) => return Err("this type of port is not supported yet".into()),
        None => return Err("the type is missing: type=vhost-user or type=dpdk".into()),
    };
    Ok(Port {
        name: asked.name,
        bridge: asked.bridge,
        number: asked.number,
        kind,
    })
}

fn vhost_user_from_proto(port: &str, options: pb::VhostUserSpec) -> Result<VhostUser, String> {
    let mode = pb::SocketMode::try_from(options.mode)
        .map_err(|_| format!("mode number {} is not known", options.mode))?;
    Ok(VhostUser {
        path: match options.path.is_empty() {
            true => VhostUser::default_path(port),
            false => options.path.into(),
        },
        mode: socket_mode_from_proto(mode),
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
    let kind = match &port.kind {
        Kind::VhostUser(options) => pb::port_spec::Kind::VhostUser(pb::VhostUserSpec {
            path: options.path.to_string_lossy().into_owned(),
            mode: socket_mode_to_proto(options.mode).into(),
            queues: Some(options.queues.into()),
            owner: options.owner.clone().unwrap_or_default(),
            permissions: options.permissions,
        }),
        Kind::Dpdk(options) => pb::port_spec::Kind::Dpdk(pb::DpdkSpec {
            devargs: options.devargs.clone(),
            rx_queues: Some(options.rx_queues.into()),
            ..Default::default()
        }),
    };
    pb::PortSpec {
        name: port.name.clone(),
        bridge: port.bridge.clone(),
        kind: Some(kind),
        number: port.number,
        ..Default::default()
    }
}

/// The port as the datapath takes it. Fails when the socket's owner is not
/// known on this host.
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
    };
    Ok(PortSpec {
        number: port.number,
        ..PortSpec::new(&port.name, &port.bridge, kind)
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
        link: None,
    }
}

fn port_state_to_proto(state: &PortState) -> pb::PortState {
    match state {
        PortState::Forwarding => pb::PortState::Forwarding,
        PortState::Quarantined { .. } => pb::PortState::Quarantined,
        PortState::Failed { .. } => pb::PortState::Failed,
        PortState::Waiting { state, .. } => match *state {
            "waiting-for-socket" => pb::PortState::WaitingForSocket,
            "negotiating" => pb::PortState::Negotiating,
            "memory-mapped" => pb::PortState::MemoryMapped,
            "rings-enabled" => pb::PortState::RingsEnabled,
            _ => pb::PortState::Waiting,
        },
    }
}

/// A learned station.
pub fn fdb_entry_to_proto(entry: &FdbEntry) -> pb::FdbEntry {
    let octets: Vec<_> = entry.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    pb::FdbEntry {
        port: entry.port,
        port_name: entry.port_name.clone(),
        vlan: entry.vlan.into(),
        mac: octets.join(":"),
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
