//! Between texts of flows, groups and meters and what they stand for: changes
//! as they are asked for, lines of the journal, lines of `diff-flows`.

use std::collections::BTreeMap;
use std::fmt::Write;

use ringway_flow::action::MeterSpec;
use ringway_flow::matching::Match;
use ringway_flow::rule::{Change, DEFAULT_PRIORITY, FlowCommand, FlowSpec};
use ringway_flow::text::{self, NoNames, Parsed, PortNames, TextError};
use ringway_proto::v1 as pb;

/// The names and numbers of ports.
#[derive(Clone, Debug, Default)]
pub struct Names {
    numbers: BTreeMap<String, u16>,
    names: BTreeMap<u16, String>,
}

impl Names {
    /// Of these ports; of two with one number the later counts.
    pub fn of(ports: impl Iterator<Item = (String, u32)>) -> Self {
        let mut names = Self::default();
        for (name, number) in ports {
            if let Ok(number) = u16::try_from(number) {
                names.numbers.insert(name.clone(), number);
                names.names.insert(number, name);
            }
        }
        names
    }
}

impl PortNames for Names {
    fn number(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    fn name(&self, number: u16) -> Option<&str> {
        self.names.get(&number).map(String::as_str)
    }
}

/// A text was not understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong and where, with the text around it.
    pub why: String,
    /// Line of the file, or number of the change, from 1.
    pub line: Option<usize>,
    /// Byte in the text (of that line), from 0.
    pub at: usize,
}

impl From<TextError> for Fault {
    fn from(error: TextError) -> Self {
        Self {
            why: error.to_string(),
            line: error.line,
            at: error.offset,
        }
    }
}

fn on_line(mut error: TextError, line: usize) -> Fault {
    error.line = Some(line);
    error.into()
}

/// What was read, and what its author should know.
#[derive(Debug)]
pub struct Read<T> {
    /// The thing itself.
    pub value: T,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Changes that are asked for one after another. Of a single one the fault has
/// no line.
pub fn read_changes(changes: &[pb::FlowChange], names: &Names) -> Result<Read<Vec<Change>>, Fault> {
    let mut read = Read {
        value: Vec::with_capacity(changes.len()),
        warnings: Vec::new(),
    };
    for (index, change) in changes.iter().enumerate() {
        let line = (changes.len() > 1).then_some(index + 1);
        let Some(parsed) = read_change(change.command(), &change.text, names) else {
            let number = change.command;
            return Err(Fault {
                why: format!("flow command number {number} is not known"),
                line,
                at: 0,
            });
        };
        let Parsed { value, warnings } = parsed.map_err(|mut error| {
            error.line = line;
            Fault::from(error)
        })?;
        read.value.push(value);
        read.warnings.extend(warnings);
    }
    Ok(read)
}

/// `None`: there is no such command.
fn read_change(
    command: pb::FlowCommand,
    text: &str,
    names: &Names,
) -> Option<Result<Parsed<Change>, TextError>> {
    use pb::FlowCommand as Asked;
    let flow = |command| {
        let parsed = text::parse_flow(text, command, names);
        parsed.map(|Parsed { value, warnings }| Parsed {
            value: Change::Flow(command, Box::new(value)),
            warnings,
        })
    };
    let quiet = |value| Parsed {
        value,
        warnings: Vec::new(),
    };
    let group = || text::parse_group(text, names);
    let meter = || text::parse_meter(text);
    Some(match command {
        Asked::Unspecified => return None,
        Asked::Add => flow(FlowCommand::Add),
        Asked::Modify => flow(FlowCommand::Modify),
        Asked::ModifyStrict => flow(FlowCommand::ModifyStrict),
        Asked::Delete => flow(FlowCommand::Delete),
        Asked::DeleteStrict => flow(FlowCommand::DeleteStrict),
        Asked::AddGroup => group().map(Change::AddGroup).map(quiet),
        Asked::ModifyGroup => group().map(|spec| quiet(Change::ModifyGroup(spec, false))),
        Asked::AddOrModifyGroup => group().map(|spec| quiet(Change::ModifyGroup(spec, true))),
        Asked::DeleteGroups => text::parse_group_id(text)
            .map(Change::DeleteGroups)
            .map(quiet),
        Asked::AddMeter => meter().map(Change::AddMeter).map(quiet),
        Asked::ModifyMeter => meter().map(Change::ModifyMeter).map(quiet),
        Asked::DeleteMeters => text::parse_meter_id(text)
            .map(Change::DeleteMeters)
            .map(quiet),
    })
}

/// A file of changes.
pub fn read_file(
    kind: pb::FlowFileKind,
    file: &str,
    names: &Names,
) -> Result<Read<Vec<Change>>, Fault> {
    let mut read = Read {
        value: Vec::new(),
        warnings: Vec::new(),
    };
    if kind == pb::FlowFileKind::Flows {
        for (command, parsed) in text::parse_flow_file(file, FlowCommand::Add, names)? {
            (read.value).push(Change::Flow(command, Box::new(parsed.value)));
            read.warnings.extend(parsed.warnings);
        }
        return Ok(read);
    }
    for (number, line) in lines(file) {
        let groups = kind == pb::FlowFileKind::Groups;
        let parsed = read_line(line, groups, names).map_err(|error| on_line(error, number))?;
        read.value.push(parsed.value);
        read.warnings.extend(parsed.warnings);
    }
    Ok(read)
}

/// A file of flows that shall be: one a line, without commands.
pub fn read_flows(file: &str, names: &Names) -> Result<Read<Vec<FlowSpec>>, Fault> {
    let mut read = Read {
        value: Vec::new(),
        warnings: Vec::new(),
    };
    for (number, line) in lines(file) {
        let parsed = text::parse_flow(line, FlowCommand::Add, names);
        let parsed = parsed.map_err(|error| on_line(error, number))?;
        read.value.push(parsed.value);
        read.warnings.extend(parsed.warnings);
    }
    Ok(read)
}

/// The number of the file's line that holds its `nth` thing (from 1).
pub fn line_number(file: &str, nth: usize) -> Option<usize> {
    lines(file)
        .nth(nth.checked_sub(1)?)
        .map(|(number, _)| number)
}

/// Lines that hold something, with their numbers.
fn lines(file: &str) -> impl Iterator<Item = (usize, &str)> {
    file.lines().enumerate().filter_map(|(index, line)| {
        let line = line.split('#').next().unwrap_or(line);
        (!line.trim().is_empty()).then_some((index + 1, line))
    })
}

/// A line of a bundle, or of a file of groups.
fn read_line(line: &str, group: bool, names: &Names) -> Result<Parsed<Change>, TextError> {
    let quiet = |value| Parsed {
        value,
        warnings: Vec::new(),
    };
    // A place in what is behind the words becomes one in the line.
    let behind = |rest: &str, mut error: TextError| {
        error.offset += line.len() - rest.len();
        error
    };
    let (word, rest) = first_word(line);
    if word == "meter" {
        let (command, meter) = first_word(rest);
        let parsed = match command {
            "modify" => text::parse_meter(meter).map(Change::ModifyMeter),
            "delete" => text::parse_meter_id(meter).map(Change::DeleteMeters),
            "add" => text::parse_meter(meter).map(Change::AddMeter),
            _ => {
                let parsed = text::parse_meter(rest).map(Change::AddMeter);
                return parsed.map(quiet).map_err(|error| behind(rest, error));
            }
        };
        return parsed.map(quiet).map_err(|error| behind(meter, error));
    }
    let read = match group {
        true => {
            let whole = format!("group {line}");
            let read = text::parse_bundle_file(&whole, names);
            read.map_err(|mut error| {
                error.offset = error.offset.saturating_sub("group ".len());
                error
            })
        }
        false => text::parse_bundle_file(line, names),
    }?;
    match <[_; 1]>::try_from(read) {
        Ok([change]) => Ok(change),
        // One line that is not empty is one change; let the flow parser say
        // what it thinks of anything else.
        Err(_) => text::parse_flow(line, FlowCommand::Add, names).map(|parsed| Parsed {
            value: Change::Flow(FlowCommand::Add, Box::new(parsed.value)),
            warnings: parsed.warnings,
        }),
    }
}

fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find([' ', '\t', ',']).unwrap_or(text.len()))
}

/// The change that a line of the journal stands for.
pub fn parse_journal_line(line: &str) -> Result<Change, String> {
    let parsed = read_line(line, false, &Names::default());
    parsed.map(|parsed| parsed.value).map_err(|mut error| {
        error.line = None;
        error.to_string()
    })
}

/// A change as a line of the journal, with ports by number.
pub fn journal_line(change: &Change) -> String {
    let group = |command: &str, spec| {
        let spec = text::print_group(spec, &NoNames);
        format!("group {command} {spec}\n")
    };
    let all_or = |what: &str, id: &Option<u32>| match id {
        Some(id) => format!("{what}={id}"),
        None => format!("{what}=all"),
    };
    match change {
        Change::Flow(command, spec) => flow_line(*command, spec),
        Change::AddGroup(spec) => group("add", spec),
        Change::ModifyGroup(spec, false) => group("modify", spec),
        Change::ModifyGroup(spec, true) => group("add_or_mod", spec),
        Change::DeleteGroups(id) => format!("group delete {}\n", all_or("group_id", id)),
        Change::AddMeter(spec) => format!("meter add {}\n", meter_line(spec)),
        Change::ModifyMeter(spec) => format!("meter modify {}\n", meter_line(spec)),
        Change::DeleteMeters(id) => format!("meter delete {}\n", all_or("meter", id)),
    }
}

fn flow_line(command: FlowCommand, spec: &FlowSpec) -> String {
    let word = match command {
        FlowCommand::Add => "add",
        FlowCommand::Modify => "modify",
        FlowCommand::ModifyStrict => "modify_strict",
        FlowCommand::Delete | FlowCommand::DeleteStrict => {
            return delete_line(command == FlowCommand::DeleteStrict, spec);
        }
    };
    let mut out = format!("flow {word} ");
    if spec.flags.check_overlap {
        // It was checked when it was asked for; what came later may overlap.
        let mut unchecked = spec.clone();
        unchecked.flags.check_overlap = false;
        out.push_str(&text::print_spec(&unchecked, &NoNames));
    } else {
        out.push_str(&text::print_spec(spec, &NoNames));
    }
    out.push('\n');
    out
}

fn delete_line(strict: bool, spec: &FlowSpec) -> String {
    let mut parts = Vec::new();
    if let Some(table) = spec.table {
        parts.push(format!("table={table}"));
    }
    if spec.cookie_mask != 0 {
        parts.push(format!("cookie={:#x}/{:#x}", spec.cookie, spec.cookie_mask));
    }
    if let Some(port) = spec.out_port {
        parts.push(format!("out_port={}", text::print_port(port, &NoNames)));
    }
    if let Some(group) = spec.out_group {
        parts.push(format!("out_group={group}"));
    }
    if strict && spec.priority != DEFAULT_PRIORITY {
        parts.push(format!("priority={}", spec.priority));
    }
    let matching = text::print_match(&spec.matching, &NoNames);
    if !matching.is_empty() {
        parts.push(matching);
    }
    let word = match strict {
        true => "delete_strict",
        false => "delete",
    };
    format!("flow {word} {}\n", parts.join(","))
}

fn meter_line(spec: &MeterSpec) -> String {
    let mut out = format!("meter={}", spec.id);
    out.push_str(match spec.packets {
        true => ",pktps",
        false => ",kbps",
    });
    for (set, word) in [(spec.has_burst, ",burst"), (spec.stats, ",stats")] {
        if set {
            out.push_str(word);
        }
    }
    let _ = write!(out, ",bands=type=drop,rate={}", spec.rate);
    if spec.has_burst {
        let _ = write!(out, ",burst_size={}", spec.burst);
    }
    out
}

/// A flow as `ovs-ofctl diff-flows` prints it.
pub fn diff_line(spec: &FlowSpec) -> String {
    let mut out = String::new();
    if let Some(table) = spec.table.filter(|table| *table > 0) {
        let _ = write!(out, "table={table} ");
    }
    let matching = text::print_match(&spec.matching, &NoNames);
    if spec.priority != DEFAULT_PRIORITY {
        let _ = write!(out, "priority={}", spec.priority);
        if !matching.is_empty() {
            out.push(',');
        }
    }
    out.push_str(&matching);
    if spec.cookie != 0 {
        let _ = write!(out, " cookie={:#x}", spec.cookie);
    }
    for (name, value) in [
        ("idle_timeout", spec.idle_timeout),
        ("hard_timeout", spec.hard_timeout),
        ("importance", spec.importance),
    ] {
        if value > 0 {
            let _ = write!(out, " {name}={value}");
        }
    }
    let actions = text::print_actions(&spec.actions, &NoNames);
    let _ = write!(out, " actions={actions}");
    out
}

/// Which flows a filter means.
pub fn read_filter(filter: &str, names: &Names) -> Result<FlowSpec, Fault> {
    let parsed = text::parse_flow(filter, FlowCommand::Delete, names);
    parsed.map(|parsed| parsed.value).map_err(Fault::from)
}

/// The match of a packet that is waited for.
pub fn read_match(matching: &str, names: &Names) -> Result<Match, Fault> {
    let parsed = text::parse_match(matching, names);
    parsed.map(|parsed| parsed.value).map_err(Fault::from)
}

/// The packet that a trace is asked about.
pub fn read_packet(packet: &str, names: &Names) -> Result<Match, Fault> {
    text::parse_packet(packet, names).map_err(Fault::from)
}
