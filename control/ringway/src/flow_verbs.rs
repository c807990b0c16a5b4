//! The verbs about flows: their requests, the calls, their answers.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use ringway_proto::FILE_PIECE;
use ringway_proto::v1 as pb;
use serde_json::{Value, json};
use tonic::{Code, Streaming};

use crate::answers::{flows, groups, megaflows, packets};
use crate::cli::{Chosen, File, FlowVerb};
use crate::client::{Error, Rpc, TIMEOUT};
use crate::verbs::Printer;
use crate::{EXIT_FLOWS_DIFFER, EXIT_OK};

/// Longest time to wait for a file to be taken over.
const FILE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A request about flows, ready to be sent.
pub enum FlowRequest {
    /// A change of one flow, group or meter.
    Change(String, pb::FlowCommand, String),
    /// `add-flows`, `add-groups`, `bundle`
    File(String, pb::FlowFileKind, String),
    /// `replace-flows`
    Replace(String, String),
    /// `diff-flows`
    Diff(String, String),
    /// `dump-flows`; with counters or without.
    DumpFlows(pb::DumpFlowsRequest, bool),
    /// `dump-tables`
    DumpTables(String),
    /// `dump-groups`, `dump-group-stats`
    DumpGroups(pb::DumpGroupsRequest, bool),
    /// `dump-meters`, `meter-stats`
    DumpMeters(pb::DumpMetersRequest, bool),
    /// `dpctl dump-flows`
    DumpMegaflows(pb::DumpMegaflowsRequest),
    /// `dpctl del-flows`
    FlushMegaflows,
    /// `trace BR`
    Trace(pb::TraceRequest),
    /// `trace --port`
    TraceNext(pb::TraceNextRequest),
    /// `packet-out`
    PacketOut(Vec<pb::PacketOutRequest>),
    /// `monitor`
    Monitor(pb::PacketInsRequest),
}

impl FlowRequest {
    /// How long its answer may take.
    pub fn patience(&self) -> Duration {
        match self {
            FlowRequest::File(..) | FlowRequest::Replace(..) | FlowRequest::Diff(..) => {
                FILE_TIMEOUT
            }
            FlowRequest::TraceNext(request) => {
                TIMEOUT + Duration::from_millis(request.timeout_ms().into())
            }
            _ => TIMEOUT,
        }
    }

    /// The request of a verb; refuses what cannot have a meaning, and reads
    /// files.
    pub fn from_verb(verb: &FlowVerb, terminal: bool) -> Result<Self, Error> {
        use pb::FlowCommand as Command;
        use pb::FlowFileKind as Kind;
        let change = |bridge: &String, command, text: &String| {
            FlowRequest::Change(bridge.clone(), command, text.clone())
        };
        let either = |strict: bool, one, other| if strict { one } else { other };
        let file = |kind, File { bridge, file }: &File| {
            read(file).map(|text| FlowRequest::File(bridge.clone(), kind, text))
        };
        Ok(match verb {
            FlowVerb::AddFlow { bridge, flow } => change(bridge, Command::Add, flow),
            FlowVerb::AddFlows(args) => file(Kind::Flows, args)?,
            FlowVerb::ModFlows {
                strict,
                bridge,
                flow,
            } => {
                let command = either(*strict, Command::ModifyStrict, Command::Modify);
                change(bridge, command, flow)
            }
            FlowVerb::DelFlows {
                strict,
                bridge,
                flow,
            } => {
                let command = either(*strict, Command::DeleteStrict, Command::Delete);
                change(bridge, command, &flow.clone().unwrap_or_default())
            }
            FlowVerb::ReplaceFlows(File { bridge, file }) => {
                FlowRequest::Replace(bridge.clone(), read(file)?)
            }
            FlowVerb::DiffFlows { first, second } => {
                FlowRequest::Diff(first.clone(), second.clone())
            }
            FlowVerb::DumpFlows(args) => FlowRequest::DumpFlows(
                pb::DumpFlowsRequest {
                    bridge: args.bridge.clone(),
                    filter: args.flow.clone().unwrap_or_default(),
                    names: args.names.or(terminal),
                    sort: args.sort_keys().collect(),
                },
                !args.no_stats,
            ),
            FlowVerb::DumpTables { bridge } => FlowRequest::DumpTables(bridge.clone()),
            FlowVerb::Bundle(args) => file(Kind::Bundle, args)?,
            FlowVerb::AddGroup(args) => change(&args.bridge, Command::AddGroup, &args.text),
            FlowVerb::AddGroups(args) => file(Kind::Groups, args)?,
            FlowVerb::ModGroup { may_create, group } => {
                let command = either(*may_create, Command::AddOrModifyGroup, Command::ModifyGroup);
                change(&group.bridge, command, &group.text)
            }
            FlowVerb::DelGroups(args) => change(
                &args.bridge,
                Command::DeleteGroups,
                &which(args, "group_id"),
            ),
            FlowVerb::DumpGroups { groups, names } => {
                FlowRequest::DumpGroups(dump_groups(groups, names.or(terminal))?, false)
            }
            FlowVerb::DumpGroupStats(groups) => {
                FlowRequest::DumpGroups(dump_groups(groups, false)?, true)
            }
            FlowVerb::AddMeter(args) => change(&args.bridge, Command::AddMeter, &args.text),
            FlowVerb::ModMeter(args) => change(&args.bridge, Command::ModifyMeter, &args.text),
            FlowVerb::DelMeters(args) => {
                change(&args.bridge, Command::DeleteMeters, &which(args, "meter"))
            }
            FlowVerb::DumpMeters(args) => FlowRequest::DumpMeters(dump_meters(args)?, false),
            FlowVerb::MeterStats(args) => FlowRequest::DumpMeters(dump_meters(args)?, true),
            FlowVerb::Trace(args) => trace(args)?,
            FlowVerb::PacketOut { bridge, words } => packet_out(bridge, words)?,
            FlowVerb::Monitor { bridge, .. } => FlowRequest::Monitor(pb::PacketInsRequest {
                bridge: bridge.clone(),
            }),
        })
    }
}

/// The text of a file, or of the standard input.
fn read(file: &str) -> Result<String, Error> {
    let mut text = String::new();
    let outcome = match file {
        "-" => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::read_to_string(file).map(|content| text = content),
    };
    let path = file.to_owned();
    outcome
        .map(|()| text)
        .map_err(|error| Error::Input { path, error })
}

/// `group_id=1`, `meter=1` or just the number, as the daemon reads it.
fn which(args: &Chosen, key: &str) -> String {
    match args.which.as_deref() {
        None => String::new(),
        Some(which) if which.contains('=') => which.to_owned(),
        Some(which) => format!("{key}={which}"),
    }
}

/// The same as a number; `None` is all.
fn number(args: &Chosen, key: &str) -> Result<Option<u32>, Error> {
    let which = which(args, key);
    let value = which
        .strip_prefix(key)
        .and_then(|rest| rest.strip_prefix('='));
    match value {
        None if which.is_empty() => Ok(None),
        Some("all") => Ok(None),
        Some(value) => match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::Usage(format!("{key}={value} is not a number"))),
        },
        None => Err(Error::Usage(format!("{which} is not of the form {key}=N"))),
    }
}

fn dump_groups(args: &Chosen, names: bool) -> Result<pb::DumpGroupsRequest, Error> {
    Ok(pb::DumpGroupsRequest {
        bridge: args.bridge.clone(),
        group: number(args, "group_id")?,
        names,
    })
}

fn dump_meters(args: &Chosen) -> Result<pb::DumpMetersRequest, Error> {
    Ok(pb::DumpMetersRequest {
        bridge: args.bridge.clone(),
        meter: number(args, "meter")?,
    })
}

fn trace(args: &crate::cli::Trace) -> Result<FlowRequest, Error> {
    if let Some(port) = &args.port {
        let ms = args.timeout * 1000.0;
        if !(0.0..=3_600_000.0).contains(&ms) {
            let why = format!("--timeout {} is not between 0 and 3600", args.timeout);
            return Err(Error::Usage(why));
        }
        return Ok(FlowRequest::TraceNext(pb::TraceNextRequest {
            port: port.clone(),
            r#match: args.next.clone().unwrap_or_default(),
            timeout_ms: Some(ms as u32),
        }));
    }
    let frame = match &args.packet {
        Some(hex) => from_hex(hex)
            .ok_or_else(|| Error::Usage("the packet is not in hexadecimal digits".into()))?,
        None => Vec::new(),
    };
    Ok(FlowRequest::Trace(pb::TraceRequest {
        bridge: args.bridge.clone().unwrap_or_default(),
        flow: args.flow.clone().unwrap_or_default(),
        frame,
        generate: args.generate,
    }))
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some((high * 16 + low) as u8),
        _ => None,
    });
    pairs.collect()
}

/// `packet-out BR TEXT`, or `packet-out BR IN_PORT ACTIONS PACKET…`.
fn packet_out(bridge: &str, words: &[String]) -> Result<FlowRequest, Error> {
    let texts = match words {
        [text] => vec![text.clone()],
        [in_port, actions, packets @ ..] if !packets.is_empty() => packets
            .iter()
            .map(|packet| format!("in_port={in_port},packet={packet},actions={actions}"))
            .collect(),
        _ => {
            let why = "packet-out takes in_port=PORT,packet=HEX,actions=… in one word, or IN_PORT \
                       ACTIONS PACKET…";
            return Err(Error::Usage(why.into()));
        }
    };
    let request = |text| pb::PacketOutRequest {
        bridge: bridge.to_owned(),
        text,
    };
    Ok(FlowRequest::PacketOut(
        texts.into_iter().map(request).collect(),
    ))
}

/// The pieces of a text, cut between characters; at least one.
fn pieces(text: &str) -> Vec<String> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while rest.len() > FILE_PIECE {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(FILE_PIECE));
        pieces.push(piece.to_owned());
        rest = behind;
    }
    pieces.push(rest.to_owned());
    pieces
}

/// Sends the request and prints the answer. Returns the exit code.
pub async fn perform(
    request: FlowRequest,
    rpc: &mut Rpc,
    to: &mut Printer<'_>,
) -> Result<u8, Error> {
    match request {
        FlowRequest::Change(bridge, command, text) => {
            let change = pb::FlowChange {
                command: command.into(),
                text,
            };
            let request = pb::ModifyFlowsRequest {
                bridge,
                changes: vec![change],
                ..Default::default()
            };
            let done = rpc.modify_flows(tokio_stream::once(request)).await?;
            changed(done.into_inner(), to)
        }
        FlowRequest::File(bridge, kind, text) => {
            let requests = pieces(&text).into_iter().enumerate();
            let requests: Vec<_> = requests
                .map(|(index, file)| pb::ModifyFlowsRequest {
                    bridge: bridge.clone(),
                    changes: vec![],
                    file_kind: if index == 0 { kind.into() } else { 0 },
                    file,
                })
                .collect();
            let done = rpc.modify_flows(tokio_stream::iter(requests)).await?;
            changed(done.into_inner(), to)
        }
        FlowRequest::Replace(bridge, text) => {
            let requests = pieces(&text).into_iter();
            let requests: Vec<_> = requests
                .map(|file| pb::ReplaceFlowsRequest {
                    bridge: bridge.clone(),
                    file,
                })
                .collect();
            let done = rpc.replace_flows(tokio_stream::iter(requests)).await?;
            changed(done.into_inner(), to)
        }
        FlowRequest::Diff(first, second) => diff(&first, &second, rpc, to).await,
        FlowRequest::DumpFlows(request, stats) => {
            let answers = rpc.dump_flows(request).await?.into_inner();
            let text = |flow: &pb::Flow| flows::line(flow, stats);
            list(answers, |a| a.flows, "", text, "flows", flows::json, to).await
        }
        FlowRequest::DumpTables(bridge) => {
            let request = pb::DumpTablesRequest { bridge };
            let tables = rpc.dump_tables(request).await?.into_inner();
            to.answer(|| flows::tables_text(&tables), flows::tables_json(&tables))
        }
        FlowRequest::DumpGroups(request, stats) => {
            let answers = rpc.dump_groups(request).await?.into_inner();
            let (header, text) = groups::group_forms(stats);
            let json = groups::group_json;
            list(answers, |a| a.groups, header, text, "groups", json, to).await
        }
        FlowRequest::DumpMeters(request, stats) => {
            let answers = rpc.dump_meters(request).await?.into_inner();
            let (header, form) = groups::meter_forms(stats);
            let mut gap = "";
            let text = |meter: &pb::Meter| {
                // An empty line between two.
                let gap = std::mem::replace(&mut gap, "\n");
                format!("{gap}{}", form(meter))
            };
            let json = groups::meter_json;
            list(answers, |a| a.meters, header, text, "meters", json, to).await
        }
        FlowRequest::DumpMegaflows(request) => {
            let answers = rpc.dump_megaflows(request).await?.into_inner();
            let mut core = None;
            let text = |megaflow: &pb::Megaflow| megaflows::line(megaflow, &mut core);
            let json = megaflows::json;
            list(answers, |a| a.megaflows, "", text, "megaflows", json, to).await
        }
        FlowRequest::FlushMegaflows => {
            let answer = rpc.flush_megaflows(pb::FlushMegaflowsRequest {}).await?;
            to.change(&[], json!({"flushed": answer.into_inner().flushed}))
        }
        FlowRequest::Trace(request) => {
            let text = rpc.trace(request).await?.into_inner().text;
            traced(text, to)
        }
        FlowRequest::TraceNext(request) => {
            let text = rpc.trace_next(request).await?.into_inner().text;
            traced(text, to)
        }
        FlowRequest::PacketOut(requests) => {
            let sent = requests.len();
            for request in requests {
                rpc.packet_out(request).await?;
            }
            to.change(&[], json!({"sent": sent}))
        }
        FlowRequest::Monitor(request) => {
            let mut packets = rpc.packet_ins(request).await?.into_inner();
            while let Some(told) = packets.message().await? {
                to.line(|| packets::text(&told), packets::json(&told))?;
            }
            Ok(EXIT_OK)
        }
    }
}

fn changed(done: pb::ModifyFlowsResponse, to: &mut Printer<'_>) -> Result<u8, Error> {
    let json = json!({
        "added": done.added,
        "modified": done.modified,
        "deleted": done.deleted,
        "warnings": done.warnings,
    });
    to.change(&done.warnings, json)
}

fn traced(text: String, to: &mut Printer<'_>) -> Result<u8, Error> {
    let json = json!({"trace": text});
    let text = match text.ends_with('\n') {
        true => text,
        false => text + "\n",
    };
    to.answer(|| text, json)
}

/// Prints a list that comes in pieces, piece by piece.
async fn list<A, T>(
    mut answers: Streaming<A>,
    things: impl Fn(A) -> Vec<T>,
    header: &str,
    mut text: impl FnMut(&T) -> String,
    key: &str,
    json: impl Fn(&T) -> Value,
    to: &mut Printer<'_>,
) -> Result<u8, Error> {
    let mut first = true;
    match to.json {
        true => write!(to.out, "{{\n  \"{key}\": [")?,
        false => to.out.write_all(header.as_bytes())?,
    }
    while let Some(answer) = answers.message().await? {
        let mut piece = String::new();
        for thing in things(answer) {
            if to.json {
                piece += if first { "\n    " } else { ",\n    " };
                piece += &json(&thing).to_string();
            } else {
                piece += &text(&thing);
            }
            first = false;
        }
        to.out.write_all(piece.as_bytes())?;
    }
    if to.json {
        to.out.write_all(b"\n  ]\n}\n")?;
    }
    to.out.flush()?;
    Ok(EXIT_OK)
}

/// A side of `diff-flows`: a bridge's name, or a file's text.
async fn side(name: &str, rpc: &mut Rpc) -> Result<(String, String), Error> {
    let listed = rpc.list_bridges(pb::ListBridgesRequest {}).await?;
    let is_bridge = listed
        .into_inner()
        .names
        .iter()
        .any(|bridge| bridge == name);
    match is_bridge {
        true => Ok((name.to_owned(), String::new())),
        false if name == "-" || Path::new(name).exists() => Ok((String::new(), read(name)?)),
        false => {
            let why = format!("there is neither a bridge nor a file named {name}");
            Err(tonic::Status::new(Code::NotFound, why).into())
        }
    }
}

async fn diff(first: &str, second: &str, rpc: &mut Rpc, to: &mut Printer<'_>) -> Result<u8, Error> {
    let ((first_bridge, first_file), (second_bridge, second_file)) =
        (side(first, rpc).await?, side(second, rpc).await?);
    let (firsts, seconds) = (pieces(&first_file), pieces(&second_file));
    let mut requests = Vec::new();
    for index in 0..firsts.len().max(seconds.len()) {
        requests.push(pb::DiffFlowsRequest {
            first_bridge: first_bridge.clone(),
            first_file: firsts.get(index).cloned().unwrap_or_default(),
            second_bridge: second_bridge.clone(),
            second_file: seconds.get(index).cloned().unwrap_or_default(),
        });
    }
    let answers = rpc.diff_flows(tokio_stream::iter(requests)).await?;
    let text = |difference: &pb::FlowDifference| {
        let sign = if difference.second { '+' } else { '-' };
        format!("{sign}{}\n", difference.text)
    };
    let json = |difference: &pb::FlowDifference| {
        let side = if difference.second { "second" } else { "first" };
        json!({"side": side, "flow": difference.text})
    };
    let count = std::cell::Cell::new(0usize);
    let counted = |answer: pb::DiffFlowsResponse| {
        count.set(count.get() + answer.differences.len());
        answer.differences
    };
    let answers = answers.into_inner();
    list(answers, counted, "", text, "differences", json, to).await?;
    Ok(match count.get() {
        0 => EXIT_OK,
        _ => EXIT_FLOWS_DIFFER,
    })
}
