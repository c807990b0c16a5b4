//! What is to be changed so that the switch becomes what the rows say: one
//! `Apply`, all or nothing.

use std::path::Path;

use ringway_proto::v1::desired_change::Change;
use ringway_proto::v1::{self as pb, port_spec};

use super::convert;
use super::datum::Datum;
use super::kinds;
use super::records::{Bridge, Database, Port, Row};

/// The changes that make `before` into `after`, in their order. The sentence
/// says which row has no meaning for ringway.
pub fn changes(before: &Database, after: &Database) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    removals(before, after, &mut changes);
    let (is_changed, switch) = (
        after
            .switch
            .differs(&before.switch, &["external_ids", "other_config"]),
        &after.switch,
    );
    if is_changed {
        changes.push(Change::SetSwitch(pb::SwitchSpec {
            external_ids: convert::texts(&switch.value("external_ids")),
            other_config: convert::texts(&switch.value("other_config")),
        }));
    }
    for bridge in &after.bridges {
        let spec = convert::bridge_spec(bridge)?;
        if bridge.was.is_none() {
            changes.push(Change::AddBridge(pb::AddBridgeRequest {
                bridge: Some(spec),
                ..Default::default()
            }));
        } else if before.bridge(&bridge.name()).is_some_and(|was| {
            bridge.row.differs(
                &was.row,
                &["fail_mode", "protocols", "external_ids", "other_config"],
            )
        }) {
            changes.push(Change::SetBridge(spec));
        }
    }
    for bridge in &after.bridges {
        let was = before
            .bridge(&bridge.name())
            .filter(|_| bridge.was.is_some());
        for port in &bridge.ports {
            port_changes(bridge, was, port, after, &mut changes)?;
        }
    }
    Ok(changes)
}

/// Ports and bridges of `before` that are not in `after`, or only anew.
fn removals(before: &Database, after: &Database, changes: &mut Vec<Change>) {
    for bridge in &before.bridges {
        let name = bridge.name();
        let kept = after.bridges.iter().filter(|kept| kept.was.is_some());
        let Some(kept) = kept.into_iter().find(|kept| kept.name() == name) else {
            changes.push(Change::DelBridge(pb::DelBridgeRequest {
                name,
                ..Default::default()
            }));
            continue;
        };
        for port in &bridge.ports {
            let stays = |kept: &Port| kept.was.is_some() && kept.name() == port.name();
            if !kept.ports.iter().any(stays) {
                changes.push(removal(&name, port));
            }
        }
    }
}

fn removal(bridge: &str, port: &Port) -> Change {
    Change::DelPort(pb::DelPortRequest {
        name: port.name(),
        bridge: bridge.to_owned(),
        ..Default::default()
    })
}

fn port_changes(
    bridge: &Bridge,
    bridge_was: Option<&Bridge>,
    port: &Port,
    after: &Database,
    changes: &mut Vec<Change>,
) -> Result<(), String> {
    let name = bridge.name();
    let is_local = port.name() == name;
    let ports_were = bridge_was.map_or([].as_slice(), |was| was.ports.as_slice());
    let rows = ports_were.iter().find(|was| was.name() == port.name());
    let rows = rows.filter(|_| port.was.is_some());
    let mut spec = convert::port_spec(&name, port, rows, after)?;
    if is_local {
        take_hwaddr(bridge, bridge_was, &mut spec);
    }
    let Some(was) = &port.was else {
        // A bridge comes with its own interface.
        match is_local {
            true if is_default_local(&spec) => {}
            true => changes.push(Change::SetPort(spec)),
            false => changes.push(addition(spec)),
        }
        return Ok(());
    };
    if *was == spec {
        return Ok(());
    }
    match was.number == spec.number {
        true => changes.push(Change::SetPort(spec)),
        false if is_local => {
            return Err(format!(
                "port {name}: ofport_request cannot be set: flows know the bridge's own interface \
                 as LOCAL"
            ));
        }
        // A number is for life.
        false => changes.extend([removal(&name, port), addition(spec)]),
    }
    Ok(())
}

fn addition(spec: pb::PortSpec) -> Change {
    Change::AddPort(pb::AddPortRequest {
        port: Some(spec),
        ..Default::default()
    })
}

/// A bridge's other_config:hwaddr is its own interface's address.
fn take_hwaddr(bridge: &Bridge, was: Option<&Bridge>, spec: &mut pb::PortSpec) {
    let hwaddr = |bridge: &Bridge| {
        let config: Datum = bridge.row.value("other_config");
        config.get("hwaddr").map(str::to_ascii_lowercase)
    };
    let asked = hwaddr(bridge).filter(|asked| was.and_then(hwaddr).as_ref() != Some(asked));
    if let (Some(mac), Some(port_spec::Kind::Internal(internal))) = (asked, &mut spec.kind) {
        internal.mac = mac;
    }
}

fn is_default_local(spec: &pb::PortSpec) -> bool {
    let default = pb::PortSpec {
        name: spec.name.clone(),
        bridge: spec.bridge.clone(),
        kind: Some(port_spec::Kind::Internal(pb::InternalSpec::default())),
        ..Default::default()
    };
    *spec == default
}

/// Makes the directory in which Open vSwitch's vhost-user ports listen, if the
/// changes need it; where that fails, ringwayd says what it means for a port.
pub fn make_vhost_dir(changes: &[Change], db: &Database) {
    let dir = kinds::vhost_dir(&db.switch, &db.rundir);
    let listens_there = |change: &Change| {
        let port = match change {
            Change::AddPort(request) => request.port.as_ref(),
            Change::SetPort(spec) => Some(spec),
            _ => None,
        };
        match port.and_then(|port| port.kind.as_ref()) {
            Some(port_spec::Kind::VhostUser(spec)) => {
                spec.mode() == pb::SocketMode::Server
                    && Path::new(&spec.path).parent() == Some(dir.as_path())
            }
            _ => false,
        }
    };
    if changes.iter().any(listens_there) {
        let _ = std::fs::create_dir_all(&dir);
    }
}

/// Settings that ringway acts on, or that say what is so anyway.
const HEEDED: &[(&str, &str)] = &[
    ("Open_vSwitch", "dpdk-init"),
    ("Open_vSwitch", "userspace-tso-enable"),
    ("Open_vSwitch", "vhost-sock-dir"),
    ("Bridge", "hwaddr"),
    ("Bridge", "mac-aging-time"),
    ("Bridge", "mac-table-size"),
    ("Port", "priority-tags"),
    ("Port", "qinq-ethtype"),
];

/// What does in ringway what a setting does in Open vSwitch.
const ELSEWHERE: &[(&str, &str)] = &[
    ("dpdk-hugepage-dir", "ringwayd --hugepages"),
    ("dpdk-socket-mem", "ringwayd --hugepages"),
    ("emc-insert-inv-prob", "ringwayd --emc-entries"),
    ("flow-limit", "ringwayd --flow-limit"),
    ("max-idle", "ringwayd --max-idle"),
    ("pmd-cpu-mask", "ringwayd --pmd-cores"),
];

/// Sentences about settings that were made and are only kept.
pub fn unheeded(before: &Database, after: &Database) -> Vec<String> {
    let mut sentences = Vec::new();
    let rows = |db: &Database| -> Vec<Row> {
        let bridges = db.bridges.iter().map(|bridge| bridge.row.clone());
        let ports = db
            .ports()
            .flat_map(|(_, port)| [port.row.clone(), port.interface.clone()]);
        [db.switch.clone()]
            .into_iter()
            .chain(bridges)
            .chain(ports)
            .collect()
    };
    let old = rows(before);
    for row in rows(after) {
        let was = old.iter().find(|old| old.uuid == row.uuid);
        let was = was.map_or(Datum::default(), |old| old.value("other_config"));
        let table = row.table.name;
        for (key, value) in row.value("other_config").as_map() {
            if was.get(key) == Some(value) || HEEDED.contains(&(table, key)) {
                continue;
            }
            let elsewhere = ELSEWHERE.iter().find(|(known, _)| *known == key);
            let elsewhere = elsewhere.map(|(_, what)| format!(" ({what} does)"));
            sentences.push(format!(
                "note: other_config:{key} of {table} is kept, but ringway does not act on it{}",
                elsewhere.unwrap_or_default()
            ));
        }
    }
    sentences
}
