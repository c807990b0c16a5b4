//! `Apply`'s request and answer.

use ringway_proto::v1::{self as pb, desired_change::Change as Asked};
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::control::{Applied, Change, Control, Failed};
use crate::convert;
use crate::switch::Switch;

/// Makes the changes: all of them, or none.
pub fn apply<S: Switch>(
    control: &Control<S>,
    request: pb::ApplyRequest,
) -> Result<pb::ApplyResponse, Status> {
    let count = request.changes.len();
    let mut changes = Vec::with_capacity(count);
    for (index, asked) in request.changes.into_iter().enumerate() {
        let change = change(asked);
        changes.push(change.map_err(|why| of_change(index, count, Status::invalid_argument(why)))?);
    }
    let applied = control.apply(&changes, request.no_wait);
    let Applied {
        warnings, numbers, ..
    } = applied.map_err(|Failed { index, error }| of_change(index, count, error.into()))?;
    Ok(pb::ApplyResponse {
        warnings,
        numbers: numbers.into_iter().collect(),
    })
}

/// Says of which change (from 0) a refusal is.
fn of_change(index: usize, count: usize, status: Status) -> Status {
    let number = index + 1;
    let message = match count {
        0 | 1 => status.message().to_owned(),
        _ => format!("change {number}: {}", status.message()),
    };
    let mut metadata = status.metadata().clone();
    metadata.insert(ringway_proto::LINE_TRAILER, MetadataValue::from(number));
    Status::with_metadata(status.code(), message, metadata)
}

fn change(asked: pb::DesiredChange) -> Result<Change, String> {
    let nothing = || "it says nothing; a change adds, deletes or sets something".to_owned();
    Ok(match asked.change.ok_or_else(nothing)? {
        Asked::AddBridge(request) => Change::AddBridge {
            bridge: convert::bridge_from_proto(request.bridge.unwrap_or_default())?,
            may_exist: request.may_exist,
        },
        Asked::DelBridge(request) => Change::DelBridge {
            name: request.name,
            if_exists: request.if_exists,
        },
        Asked::AddPort(request) => Change::AddPort {
            port: port(request.port.unwrap_or_default())?,
            may_exist: request.may_exist,
        },
        Asked::DelPort(request) => Change::DelPort {
            bridge: Some(request.bridge).filter(|bridge| !bridge.is_empty()),
            name: request.name,
            if_exists: request.if_exists,
        },
        Asked::SetBridge(bridge) => Change::SetBridge(convert::bridge_from_proto(bridge)?),
        Asked::SetPort(asked) => Change::SetPort(port(asked)?),
        Asked::SetSwitch(switch) => Change::SetSwitch(convert::switch_from_proto(switch)),
    })
}

fn port(asked: pb::PortSpec) -> Result<crate::model::Port, String> {
    let of_port = format!("port {}: ", asked.name);
    convert::port_from_proto(asked).map_err(|why| of_port + &why)
}
