//! Flows from text, single and in files.

use super::actions::{Place, Reader};
use super::check::Packet;
use super::groups::read_group;
use super::matching::{check_ports, normalize, read_field};
use super::names::unknown_field;
use super::ports::{PortNames, parse_port};
use super::scan::{Items, Scan, fault, number16, number32, number64, table};
use super::{Parsed, TextError};
use crate::rule::{Change, FlowCommand, FlowSpec};

/// Reads a flow: what to add or modify (`…,actions=…`), or which flows to delete
/// or show (without actions: give [`FlowCommand::Delete`]).
pub fn parse_flow(
    text: &str,
    command: FlowCommand,
    ports: &dyn PortNames,
) -> Result<Parsed<FlowSpec>, TextError> {
    read_flow(text, command, ports).map_err(|fault| TextError::new(fault, text, None))
}

/// Reads a file of flows, one a line: `#` begins a comment, and a line may begin
/// with `add`, `modify`, `modify_strict`, `delete` or `delete_strict` in place
/// of the `default`.
pub fn parse_flow_file(
    text: &str,
    default: FlowCommand,
    ports: &dyn PortNames,
) -> Result<Vec<(FlowCommand, Parsed<FlowSpec>)>, TextError> {
    let mut flows = Vec::new();
    for (number, line) in lines(text) {
        let (command, rest) = command(line).unwrap_or((default, line));
        let flow = read_flow(rest, command, ports);
        let flow = flow.map_err(|fault| TextError::new(fault, line, Some(number)))?;
        flows.push((command, flow));
    }
    Ok(flows)
}

/// Reads a file for `bundle`: lines of `flow [COMMAND] FLOW` or `group [COMMAND]
/// GROUP`, where a group's command is `add`, `modify`, `add_or_mod` or `delete`.
/// A line that begins with neither word is a flow.
pub fn parse_bundle_file(
    text: &str,
    ports: &dyn PortNames,
) -> Result<Vec<Parsed<Change>>, TextError> {
    let mut changes = Vec::new();
    for (number, line) in lines(text) {
        let change = read_change(line, ports);
        changes.push(change.map_err(|fault| TextError::new(fault, line, Some(number)))?);
    }
    Ok(changes)
}

/// The lines of a file that are not empty, with their numbers, without comments.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(i, line)| {
        let line = line.split('#').next().unwrap_or(line);
        (!line.trim().is_empty()).then_some((i + 1, line))
    })
}

/// The first word of a line, and what comes behind it.
fn first_word(line: &str) -> (&str, &str) {
    let line = line.trim_start();
    line.split_at(line.find([',', ' ', '\t', '\r']).unwrap_or(line.len()))
}

fn command(line: &str) -> Option<(FlowCommand, &str)> {
    let (word, rest) = first_word(line);
    let command = match word {
        "add" => FlowCommand::Add,
        "modify" => FlowCommand::Modify,
        "modify_strict" => FlowCommand::ModifyStrict,
        "delete" => FlowCommand::Delete,
        "delete_strict" => FlowCommand::DeleteStrict,
        _ => return None,
    };
    Some((command, rest))
}

fn read_change<'t>(line: &'t str, ports: &dyn PortNames) -> Scan<'t, Parsed<Change>> {
    let (word, rest) = first_word(line);
    let flow = match word {
        "group" => {
            let (word, behind) = first_word(rest);
            let quiet = |value| Parsed {
                value,
                warnings: Vec::new(),
            };
            return Ok(quiet(match word {
                "add" => Change::AddGroup(read_group(behind, ports)?),
                "modify" => Change::ModifyGroup(read_group(behind, ports)?, false),
                "add_or_mod" => Change::ModifyGroup(read_group(behind, ports)?, true),
                "delete" => Change::DeleteGroups(super::groups::read_group_id(behind)?),
                "insert_bucket" | "remove_bucket" => {
                    return fault!(word, "{word} is not supported: modify the whole group");
                }
                _ => Change::AddGroup(read_group(rest, ports)?),
            }));
        }
        "packet-out" => {
            return fault!(word, "a packet-out cannot be part of a bundle of changes");
        }
        "flow" => rest,
        _ => line,
    };
    let (command, text) = command(flow).unwrap_or((FlowCommand::Add, flow));
    let Parsed { value, warnings } = read_flow(text, command, ports)?;
    Ok(Parsed {
        value: Change::Flow(command, Box::new(value)),
        warnings,
    })
}

/// Cuts `…actions=…` in two.
fn split_actions(text: &str) -> (&str, Option<&str>) {
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find("action")) {
        let at = from + at;
        let behind = &text[at + "action".len()..];
        let behind = behind.strip_prefix('s').unwrap_or(behind);
        if let Some(actions) = behind.strip_prefix('=') {
            return (&text[..at], Some(actions));
        }
        from = at + 1;
    }
    (text, None)
}

fn read_flow<'t>(
    text: &'t str,
    command: FlowCommand,
    ports: &dyn PortNames,
) -> Scan<'t, Parsed<FlowSpec>> {
    use FlowCommand::{Add, Delete, DeleteStrict, Modify, ModifyStrict};
    let makes = matches!(command, Add | Modify | ModifyStrict);
    let mut flow = FlowSpec::default();
    let mut newer = None;
    let mut cookie_set = None;
    let (fields, actions) = split_actions(text);

    let mut items = Items::of(fields);
    while let Some(item) = items.next()? {
        let (key, value) = (item.key, item.value);
        match key {
            "table" => flow.table = table(value)?,
            "cookie" => match value.split_once('/') {
                Some(_) if command == Add => {
                    return fault!(value, "a new flow's cookie has no mask");
                }
                Some((cookie, mask)) => {
                    flow.cookie_mask = number64(mask, "the cookie's mask")?;
                    flow.cookie = number64(cookie, "the cookie")? & flow.cookie_mask;
                }
                None if !makes => {
                    return fault!(
                        value,
                        "a cookie to look for needs a mask: cookie={value}/-1"
                    );
                }
                None => {
                    flow.cookie = number64(value, "the cookie")?;
                    cookie_set = Some(item.all);
                }
            },
            "priority" if makes || command == DeleteStrict => {
                flow.priority = number16(value, "the priority")?;
            }
            "priority" => {
                return fault!(
                    item.all,
                    "only strict commands look at the priority (--strict)"
                );
            }
            "idle_timeout" | "hard_timeout" | "importance" | "send_flow_rem" | "check_overlap"
            | "reset_counts" | "no_packet_counts" | "no_byte_counts"
                if !makes =>
            {
                return fault!(item.all, "{key} is of new or modified flows only");
            }
            "idle_timeout" => flow.idle_timeout = number16(value, key)?,
            "hard_timeout" => flow.hard_timeout = number16(value, key)?,
            "importance" if command == Add => flow.importance = number16(value, key)?,
            "importance" => return fault!(item.all, "importance is of new flows only"),
            "send_flow_rem" => flow.flags.send_flow_rem = true,
            "check_overlap" => flow.flags.check_overlap = true,
            "reset_counts" => {
                flow.flags.reset_counts = true;
                newer = Some(item.all);
            }
            "no_packet_counts" => {
                flow.flags.no_packet_counts = true;
                newer = Some(item.all);
            }
            "no_byte_counts" => {
                flow.flags.no_byte_counts = true;
                newer = Some(item.all);
            }
            "out_port" | "out_group" if makes => {
                return fault!(item.all, "{key} chooses flows to delete or to show only");
            }
            "out_port" => match parse_port(value, ports) {
                Some(super::ports::ANY) => flow.out_port = None,
                Some(port) => flow.out_port = Some(port),
                None => return fault!(value, "there is no port \"{value}\""),
            },
            "out_group" if value.eq_ignore_ascii_case("any") => flow.out_group = None,
            "out_group" => flow.out_group = Some(number32(value, "a group")?),
            // Of dump-flows' output, which can be read in again.
            "duration" | "n_packets" | "n_bytes" | "idle_age" | "hard_age" => {}
            "no_readonly_table" | "allow_hidden_fields" => {}
            _ if read_field(&mut flow.matching, item, ports)? => {}
            _ => return Err(unknown_field(key, "field or keyword")),
        }
    }
    if let (Some(at), true) = (cookie_set, flow.cookie_mask != 0) {
        return fault!(
            at,
            "a flow's cookie cannot be looked for and set in one command"
        );
    }
    flow.sets_cookie = cookie_set.is_some();

    match (actions, command) {
        (None, Delete | DeleteStrict) => {}
        (Some(actions), Delete | DeleteStrict) => {
            return fault!(
                actions,
                "flows to delete or to show are named without actions"
            );
        }
        (None, _) => {
            let end = &text[text.len()..];
            return fault!(
                end,
                "a flow needs actions: …,actions=drop, actions=output:1 …"
            );
        }
        (Some(actions), _) => {
            let place = Place::Flow(match command {
                Add => Some(flow.table.unwrap_or(0)),
                _ => flow.table,
            });
            let packet = Packet::of(&flow.matching);
            let mut reader = Reader::new(ports, place).with_packet(packet);
            if let Some(newer) = newer {
                reader.not_of_openflow_10(newer);
            }
            reader.list(actions, &mut flow.actions)?;
        }
    }
    let warnings = normalize(&mut flow.matching);
    check_ports(&flow.matching, fields.trim())?;
    Ok(Parsed {
        value: flow,
        warnings,
    })
}
