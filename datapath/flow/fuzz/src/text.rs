//! The readers of texts: none panics, faults are within the text, and what is
//! read is printed as something that reads as the same.

use std::fmt::Debug;

use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringway_flow::text::{
    NoNames, PortNames, TextError, parse_actions, parse_bundle_file, parse_flow, parse_flow_file,
    parse_group, parse_group_id, parse_match, parse_meter, parse_meter_id, parse_packet,
    print_actions, print_group, print_match, print_meter, print_spec,
};

/// Ports with names that are printed as they are, and in quotes.
pub struct Ports;

const PORTS: [(&str, u16); 4] = [("p1", 1), ("p-2", 2), ("vm\"3", 3), ("4", 4)];

impl PortNames for Ports {
    fn number(&self, name: &str) -> Option<u16> {
        let port = PORTS.iter().find(|port| port.0 == name);
        port.map(|port| port.1)
    }

    fn name(&self, number: u16) -> Option<&str> {
        let port = PORTS.iter().find(|port| port.1 == number);
        port.map(|port| port.0)
    }
}

/// The first byte says which reader.
pub fn law(data: &[u8]) {
    let Some((reader, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match reader {
        b'a' => flow(text, FlowCommand::Add),
        b'm' => flow(text, FlowCommand::Modify),
        b'M' => flow(text, FlowCommand::ModifyStrict),
        b'd' => flow(text, FlowCommand::Delete),
        b'D' => flow(text, FlowCommand::DeleteStrict),
        b'f' => flow_file(text),
        b'b' => bundle(text),
        b'g' => group(text),
        b't' => meter(text),
        b'l' => actions(text),
        b'x' => matches(text),
        b'p' => packet(text),
        _ => {}
    }
}

/// The value, or nothing if the text was refused for a place within it.
fn read<T>(text: &str, result: Result<T, TextError>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let line = match error.line {
        None => text,
        Some(line) => text.lines().nth(line - 1).expect("such a line"),
    };
    let place = error.offset..error.offset + error.length;
    assert!(line.get(place.clone()).is_some(), "{place:?} of {line:?}");
    let shown = error.to_string();
    assert_eq!(
        shown.lines().count(),
        3 + error.message.matches('\n').count(),
        "{shown}"
    );
    assert!(!error.message.is_empty());
    None
}

/// Reads what was printed.
fn again<T: PartialEq + Debug>(printed: &str, result: Result<T, TextError>, value: &T) {
    match result {
        Ok(again) => assert_eq!(again, *value, "{printed:?}"),
        Err(error) => panic!("{printed:?} is refused: {error}"),
    }
}

fn flow(text: &str, command: FlowCommand) {
    if let Some(flow) = read(text, parse_flow(text, command, &Ports)) {
        flow_again(command, &flow.value);
    }
}

fn flow_again(command: FlowCommand, flow: &FlowSpec) {
    match_again(&flow.matching);
    if matches!(command, FlowCommand::Delete | FlowCommand::DeleteStrict) {
        assert!(flow.actions.is_empty());
        return;
    }
    for ports in [&Ports as &dyn PortNames, &NoNames] {
        let printed = print_spec(flow, ports);
        let parsed = parse_flow(&printed, command, ports);
        again(&printed, parsed.map(|parsed| parsed.value), flow);
    }
}

fn match_again(matching: &ringway_flow::matching::Match) {
    for ports in [&Ports as &dyn PortNames, &NoNames] {
        let printed = print_match(matching, ports);
        let parsed = parse_match(&printed, ports);
        again(&printed, parsed.map(|parsed| parsed.value), matching);
    }
}

fn flow_file(text: &str) {
    let flows = parse_flow_file(text, FlowCommand::Add, &Ports);
    for (command, flow) in read(text, flows).into_iter().flatten() {
        flow_again(command, &flow.value);
    }
}

fn bundle(text: &str) {
    let changes = parse_bundle_file(text, &Ports);
    for change in read(text, changes).into_iter().flatten() {
        match change.value {
            Change::Flow(command, flow) => flow_again(command, &flow),
            Change::AddGroup(group) | Change::ModifyGroup(group, _) => group_again(&group),
            _ => {}
        }
    }
}

fn group(text: &str) {
    read(text, parse_group_id(text));
    if let Some(group) = read(text, parse_group(text, &Ports)) {
        group_again(&group);
    }
}

fn group_again(group: &ringway_flow::action::GroupSpec) {
    for ports in [&Ports as &dyn PortNames, &NoNames] {
        let printed = print_group(group, ports);
        again(&printed, parse_group(&printed, ports), group);
    }
}

fn meter(text: &str) {
    read(text, parse_meter_id(text));
    if let Some(meter) = read(text, parse_meter(text)) {
        let printed = print_meter(&meter);
        again(&printed, parse_meter(&printed), &meter);
    }
}

fn actions(text: &str) {
    if let Some(actions) = read(text, parse_actions(text, &Ports)) {
        for ports in [&Ports as &dyn PortNames, &NoNames] {
            let printed = print_actions(&actions, ports);
            again(&printed, parse_actions(&printed, ports), &actions);
        }
    }
}

fn matches(text: &str) {
    if let Some(matching) = read(text, parse_match(text, &Ports)) {
        match_again(&matching.value);
    }
}

fn packet(text: &str) {
    if let Some(packet) = read(text, parse_packet(text, &Ports)) {
        for ports in [&Ports as &dyn PortNames, &NoNames] {
            let printed = print_match(&packet, ports);
            // As in Open vSwitch a packet's fields have stricter names
            // (icmpv6_type, where a match may say icmp_type too).
            if let Ok(again) = parse_packet(&printed, ports) {
                assert_eq!(again, packet, "{printed:?}");
            }
            match parse_match(&printed, ports) {
                Ok(again) => assert_eq!(print_match(&again.value, ports), printed),
                Err(error) => panic!("{printed:?} is refused: {error}"),
            }
        }
    }
}
