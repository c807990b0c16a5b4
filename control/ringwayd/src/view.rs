//! Desired and actual state side by side, as `Show` answers them.

use std::collections::BTreeMap;

use ringway_datapath::flows::FlowTotals;
use ringway_datapath::spec::FailMode;
use ringway_datapath::status::{BridgeStatus, PortState, PortStatus};
use ringway_proto::v1 as pb;

use crate::convert;
use crate::model::{Desired, Port};
use crate::reconcile::{Note, Notes};

/// Why an object differs that is there with other options than are desired now.
const OTHERWISE: &str = "the datapath has it with other options, which are about to be changed";

/// Numbers of flows, groups and meters of each bridge, desired and actual.
pub type AllTotals = BTreeMap<String, (Option<FlowTotals>, Option<FlowTotals>)>;

/// Everything that is desired or there, by name.
pub fn show(
    desired: &Desired,
    notes: &Notes,
    bridges: &[BridgeStatus],
    ports: &[PortStatus],
    flows: &AllTotals,
) -> pb::ShowResponse {
    let mut views: BTreeMap<&str, pb::Bridge> = BTreeMap::new();
    for bridge in &desired.bridges {
        let view = views.entry(bridge.name()).or_default();
        view.desired = Some(convert::bridge_to_proto(bridge));
    }
    for status in bridges {
        let view = views.entry(&status.name).or_default();
        view.actual = Some(convert::bridge_status_to_proto(status));
    }
    for (name, view) in &mut views {
        let note = notes.bridges.get(*name);
        view.name = (*name).to_owned();
        let told = notes.told_bridges.get(*name);
        let wish = desired.bridge(name).map(|bridge| &bridge.spec);
        let otherwise = told.is_some_and(|told| wish.is_some_and(|wish| wish != told));
        view.differs = view.desired.is_some() != view.actual.is_some() || otherwise;
        view.reason = bridge_reason(view, note);
        view.since_unix_ms = note.map_or(0, |note| convert::unix_ms(note.since));
        let totals = flows.get(*name).copied().unwrap_or_default();
        view.flows = Some(flows_view(view, totals, notes.flows.get(*name)));
        view.notes = bridge_notes(desired, view, name);
    }
    for view in ports_of(desired, notes, ports) {
        if let Some(bridge) = views.get_mut(view.bridge.as_str()) {
            bridge.ports.push(view);
        }
    }

    let bridges: Vec<_> = views.into_values().collect();
    let differing = |bridge: &pb::Bridge| {
        let flows = bridge.flows.as_ref().is_some_and(|flows| flows.differs);
        usize::from(bridge.differs)
            + usize::from(flows)
            + bridge.ports.iter().filter(|port| port.differs).count()
    };
    let differences: usize = bridges.iter().map(differing).sum();
    pb::ShowResponse {
        differences: differences.try_into().unwrap_or(u32::MAX),
        bridges,
    }
}

fn bridge_reason(view: &pb::Bridge, note: Option<&Note>) -> String {
    match (&view.desired, &view.actual) {
        (Some(_), None) => note.map_or("not brought up yet", Note::reason).to_owned(),
        (None, _) => surplus_reason(note),
        (Some(_), Some(_)) if view.differs => match note.map_or("", Note::reason) {
            "" => OTHERWISE.to_owned(),
            reason => reason.to_owned(),
        },
        _ => String::new(),
    }
}

/// What is worth knowing of a bridge though it is as desired.
fn bridge_notes(desired: &Desired, view: &pb::Bridge, name: &str) -> Vec<String> {
    let (Some(bridge), Some(flows)) = (desired.bridge(name), &view.flows) else {
        return vec![];
    };
    let count = flows.actual.as_ref().map(|totals| totals.flows);
    match (bridge.spec.fail_mode, count) {
        (FailMode::Secure, Some(0)) => {
            vec!["nothing passes: fail_mode is secure and there are no flows".into()]
        }
        _ => vec![],
    }
}

/// A bridge's flows. While the bridge itself is absent or surplus, that is the
/// difference.
fn flows_view(
    bridge: &pb::Bridge,
    (desired, actual): (Option<FlowTotals>, Option<FlowTotals>),
    note: Option<&Note>,
) -> pb::FlowsStatus {
    let both = bridge.desired.is_some() && bridge.actual.is_some();
    let noted = note.map_or("", Note::reason);
    let differ = desired.is_some() && actual.is_some() && desired != actual;
    let reason = match (noted, differ) {
        _ if !both => "",
        ("", true) => "the datapath has others than were asked for",
        (noted, _) => noted,
    };
    pb::FlowsStatus {
        desired: desired.map(convert::totals_to_proto),
        actual: actual.map(convert::totals_to_proto),
        differs: both && (differ || !noted.is_empty()),
        reason: reason.to_owned(),
        since_unix_ms: note.map_or(0, |note| convert::unix_ms(note.since)),
    }
}

fn surplus_reason(note: Option<&Note>) -> String {
    match note.map_or("", Note::reason) {
        "" => "not desired; it is about to be taken down".to_owned(),
        reason => reason.to_owned(),
    }
}

fn ports_of(desired: &Desired, notes: &Notes, ports: &[PortStatus]) -> Vec<pb::Port> {
    let mut pairs: BTreeMap<&str, (Option<&Port>, Option<&PortStatus>)> = BTreeMap::new();
    for port in &desired.ports {
        pairs.entry(&port.name).or_default().0 = Some(port);
    }
    for status in ports {
        pairs.entry(&status.name).or_default().1 = Some(status);
    }
    pairs
        .into_iter()
        .map(|(name, (wish, status))| port_view(name, wish, status, notes))
        .collect()
}

fn port_view(
    name: &str,
    wish: Option<&Port>,
    status: Option<&PortStatus>,
    notes: &Notes,
) -> pb::Port {
    let note = notes.ports.get(name);
    let noted = || note.map_or("", Note::reason).to_owned();
    let (differs, reason) = match (wish, status) {
        (None, _) => (true, surplus_reason(note)),
        (Some(_), None) => (true, noted()),
        (Some(wish), Some(status)) if wish.bridge != status.bridge => {
            (true, format!("the datapath has it on {}", status.bridge))
        }
        (Some(wish), Some(_)) if notes.is_told_otherwise(wish) => match noted() {
            reason if reason.is_empty() => (true, OTHERWISE.to_owned()),
            reason => (true, reason),
        },
        (Some(_), Some(status)) => (is_difference(&status.state), status.state.reason().into()),
    };
    let bridge = wish
        .map(|wish| &wish.bridge)
        .or(status.map(|status| &status.bridge));
    pb::Port {
        name: name.to_owned(),
        bridge: bridge.cloned().unwrap_or_default(),
        desired: wish.map(convert::port_to_proto),
        actual: status.map(convert::port_status_to_proto),
        differs,
        reason,
        since_unix_ms: match (status, note) {
            (Some(status), _) => convert::unix_ms(status.since),
            (None, Some(note)) => convert::unix_ms(note.since),
            (None, None) => 0,
        },
    }
}

/// A port that waits for its guest is as desired: guests come and go. So is one whose
/// interface nobody has set up, which is the administrator's to do. One that failed or
/// was shut out is not, nor one whose link has no carrier.
fn is_difference(state: &PortState) -> bool {
    match state {
        PortState::Forwarding | PortState::Waiting { .. } => false,
        PortState::LinkDown { .. } | PortState::Quarantined { .. } | PortState::Failed { .. } => {
            true
        }
    }
}
