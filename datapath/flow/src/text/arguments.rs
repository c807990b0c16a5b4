//! What stands behind actions' names: ports, tables, controllers, notes.

use super::ports::{self, PORT_MAX, PortNames, parse_port};
use super::scan::{Item, Items, Scan, fault, number16, table};
use crate::action::{Action, Controller, Reason};

/// Bytes of a note in an OpenFlow message: 6, and 8 for each further step.
const NOTE_FIRST: usize = 6;

/// An output to a port, which may be a reserved one.
pub(super) fn to_port(at: &str, port: u16) -> Scan<'_, Action> {
    Ok(match port {
        ports::IN_PORT => Action::InPort,
        // The tables, from the first on.
        ports::TABLE => Action::Resubmit {
            port: None,
            table: Some(0),
        },
        ports::NORMAL => Action::Normal,
        ports::FLOOD => Action::Flood,
        ports::ALL => Action::All,
        ports::CONTROLLER => Action::Controller(Controller::default()),
        ports::LOCAL => Action::Output(port),
        PORT_MAX.. => return fault!(at, "nothing can be sent to port {at}"),
        _ => Action::Output(port),
    })
}

/// `controller`, `controller:128`, `controller(reason=…,max_len=…,id=…)`
pub(super) fn controller(value: &str) -> Scan<'_, Controller> {
    let mut controller = Controller::default();
    if value.is_empty() {
        return Ok(controller);
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        controller.max_len = number16(value, "max_len")?;
        return Ok(controller);
    }
    let mut items = Items::of(value);
    while let Some(Item { key, value, all }) = items.next()? {
        match key {
            "max_len" => controller.max_len = number16(value, "max_len")?,
            "id" => controller.id = number16(value, "a controller's id")?,
            "reason" => {
                controller.reason = match value {
                    "no_match" => Reason::NoMatch,
                    "action" => Reason::Action,
                    "invalid_ttl" => Reason::InvalidTtl,
                    _ => return fault!(value, "reasons are no_match, action and invalid_ttl"),
                }
            }
            "userdata" | "pause" | "meter_id" => {
                return fault!(
                    all,
                    "{key} is not supported: controller has reason, max_len and id"
                );
            }
            _ => return fault!(key, "controller has reason, max_len and id, not \"{key}\""),
        }
    }
    Ok(controller)
}

/// `dec_ttl(1,2)`: the ids.
pub(super) fn controller_ids(value: &str) -> Scan<'_, Vec<u16>> {
    let parts = value.split([',', ' ']).filter(|part| !part.is_empty());
    parts
        .map(|part| number16(part, "a controller's id"))
        .collect()
}

/// `resubmit:PORT`, `resubmit(PORT,TABLE)`, `resubmit(,TABLE)`
pub(super) fn resubmit<'t>(item: Item<'t>, names: &dyn PortNames) -> Scan<'t, Action> {
    let mut parts = item.value.splitn(3, ',');
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let (port, target, more) = (part(), part(), part());
    if let Some(more) = more {
        return fault!(
            more,
            "resubmit has a port and a table only (no connection tracking)"
        );
    }
    let port = match port {
        None => None,
        Some(name) => match parse_port(name, names) {
            None => return fault!(name, "there is no port \"{name}\""),
            Some(ports::IN_PORT) => None,
            port => port,
        },
    };
    let table = target.map(table).transpose()?.flatten();
    if port.is_none() && table.is_none() {
        return fault!(item.all, "resubmit needs a port, a table or both");
    }
    Ok(Action::Resubmit { port, table })
}

/// Hexadecimal digits, with dots or spaces between the bytes, filled up with
/// zeros as OpenFlow's messages are.
pub(super) fn note(value: &str) -> Scan<'_, Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = value.trim_start_matches(['.', ' ']);
    while !rest.is_empty() {
        match rest
            .get(..2)
            .map(|byte| (byte, u8::from_str_radix(byte, 16)))
        {
            Some((text, Ok(byte))) if !text.starts_with('+') => bytes.push(byte),
            _ => {
                return fault!(
                    rest,
                    "a note is bytes of two hexadecimal digits: note:01.ff"
                );
            }
        }
        rest = rest[2..].trim_start_matches(['.', ' ']);
    }
    // One OpenFlow message has at most 64 KiB.
    if bytes.len() > 0xffff - 64 {
        return fault!(value, "the note is too long for one OpenFlow message");
    }
    let past = bytes.len().saturating_sub(NOTE_FIRST).next_multiple_of(8);
    bytes.resize(NOTE_FIRST + past, 0);
    Ok(bytes)
}
