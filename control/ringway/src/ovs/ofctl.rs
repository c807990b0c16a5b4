//! `ovs-ofctl`: flows, groups, meters and ports of a bridge.

use std::fmt::Write;
use std::path::Path;

use clap::Parser;
use ringway_proto::v1 as pb;

use super::convert::LOCAL;
use super::getopt::{self, Flag, Given, LOGGING, TLS, flag, perhaps_with, refuse_tls, with};
use super::{Io, refuse, version};
use crate::answers::flows;
use crate::cli::Cli;
use crate::client::{Client, Error, Rpc, TIMEOUT};
use crate::verbs::Request;

/// What does a command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    /// ringway's verb of the same name.
    Verb,
    /// `show`
    Show,
    /// `dump-ports-desc`
    DumpPortsDesc,
    /// `dump-ports`
    DumpPorts,
    /// `dump-flows`
    DumpFlows,
    /// `dump-aggregate`
    DumpAggregate,
    /// Nothing; the text says what ringway has not.
    Refuse(&'static str),
}

use Action::{DumpAggregate, DumpFlows, DumpPorts, DumpPortsDesc, Refuse, Show, Verb};

/// A command: name, least and greatest number of arguments, own options, what
/// does it.
type Syntax = (&'static str, usize, usize, &'static [&'static str], Action);

const SORTED: &[&str] = &["names", "no-names", "no-stats", "sort", "rsort"];
const STRICT: &[&str] = &["strict"];
const NAMES: &[&str] = &["names", "no-names"];
const ANY: usize = usize::MAX;

const COMMANDS: &[Syntax] = &[
    ("show", 1, 1, &[], Show),
    ("monitor", 1, ANY, &[], Verb),
    ("snoop", 1, 1, &[], Refuse("OpenFlow connections")),
    ("dump-desc", 1, 1, &[], Refuse("OpenFlow description")),
    ("dump-tables", 1, 1, &[], Verb),
    ("dump-table-features", 1, 1, &[], Refuse("table features")),
    ("dump-table-desc", 1, 1, &[], Refuse("table settings")),
    (
        "mod-port",
        3,
        3,
        &[],
        Refuse("OpenFlow port configuration (ip link set does up and down)"),
    ),
    ("mod-table", 3, 3, &[], Refuse("table settings")),
    (
        "get-frags",
        1,
        1,
        &[],
        Refuse("choice in how fragments are matched: it is frags=normal"),
    ),
    (
        "set-frags",
        2,
        2,
        &[],
        Refuse("choice in how fragments are matched: it is frags=normal"),
    ),
    ("dump-ports", 1, 2, NAMES, DumpPorts),
    ("dump-ports-desc", 1, 2, NAMES, DumpPortsDesc),
    ("dump-flows", 1, 2, SORTED, DumpFlows),
    ("dump-aggregate", 1, 2, &[], DumpAggregate),
    (
        "queue-stats",
        1,
        3,
        &[],
        Refuse("queues (a meter limits rates)"),
    ),
    (
        "queue-get-config",
        1,
        3,
        &[],
        Refuse("queues (a meter limits rates)"),
    ),
    ("add-flow", 2, 2, &[], Verb),
    ("add-flows", 2, 2, &[], Verb),
    ("mod-flows", 2, 2, STRICT, Verb),
    ("del-flows", 1, 2, STRICT, Verb),
    ("replace-flows", 2, 2, &[], Verb),
    ("diff-flows", 2, 2, &[], Verb),
    ("packet-out", 2, ANY, &[], Verb),
    ("bundle", 2, 2, &[], Verb),
    ("add-group", 2, 2, &[], Verb),
    ("add-groups", 2, 2, &[], Verb),
    ("mod-group", 2, 2, &["may-create"], Verb),
    ("del-groups", 1, 2, &[], Verb),
    ("del-group", 1, 2, &[], Verb),
    (
        "insert-buckets",
        2,
        2,
        &[],
        Refuse("changes of single buckets (mod-group does it)"),
    ),
    (
        "remove-buckets",
        2,
        2,
        &[],
        Refuse("changes of single buckets (mod-group does it)"),
    ),
    ("dump-groups", 1, 2, NAMES, Verb),
    ("dump-group-stats", 1, 2, &[], Verb),
    ("dump-group-features", 1, 1, &[], Refuse("group features")),
    ("add-meter", 2, 2, &[], Verb),
    ("mod-meter", 2, 2, &[], Verb),
    ("del-meters", 1, 2, &[], Verb),
    ("del-meter", 1, 2, &[], Verb),
    ("dump-meters", 1, 2, &[], Verb),
    ("dump-meter", 1, 2, &[], Verb),
    ("meter-stats", 1, 2, &[], Verb),
    ("meter-features", 1, 1, &[], Refuse("meter features")),
    ("add-tlv-map", 2, 2, &[], Refuse("tunnel options")),
    ("del-tlv-map", 1, 2, &[], Refuse("tunnel options")),
    ("dump-tlv-map", 1, 1, &[], Refuse("tunnel options")),
    ("ct-flush-zone", 2, 2, &[], Refuse("connection tracking")),
    ("ct-flush", 1, 3, &[], Refuse("connection tracking")),
    ("dump-ipfix-bridge", 1, 1, &[], Refuse("IPFIX")),
    ("dump-ipfix-flow", 1, 1, &[], Refuse("IPFIX")),
    ("probe", 1, 1, &[], Refuse("OpenFlow connections")),
    ("ping", 1, 2, &[], Refuse("OpenFlow connections")),
    ("benchmark", 3, 3, &[], Refuse("OpenFlow connections")),
];

const FLAGS: &[Flag] = &[
    flag("strict"),
    flag("read-only"),
    flag("bundle"),
    flag("names"),
    flag("no-names"),
    flag("no-stats"),
    flag("may-create"),
    flag("timestamp"),
    flag("help").or('h'),
    flag("version").or('V'),
    perhaps_with("sort"),
    perhaps_with("rsort"),
    perhaps_with("color"),
    with("timeout").or('t'),
    with("protocols").or('O'),
    with("flow-format").or('F'),
    with("packet-in-format").or('P'),
    flag("more").or('m'),
];

/// Every command with what becomes of it, for the table of names.
pub fn commands() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    COMMANDS.iter().map(|(name, _, _, _, action)| match action {
        Refuse(what) => (*name, Some(*what)),
        _ => (*name, None),
    })
}

fn has(given: &[Given], name: &str) -> bool {
    given.iter().any(|(flag, _)| *flag == name)
}

fn value<'a>(given: &'a [Given], name: &str) -> Option<&'a str> {
    let mut found = given.iter().rev().filter(|(flag, _)| *flag == name);
    found.next()?.1.as_deref()
}

fn help() -> String {
    let mut text = String::from(
        "ovs-ofctl: ringway by the name of Open vSwitch's command\n\
         usage: ovs-ofctl [OPTIONS] COMMAND [ARG...]\n\n\
         Commands (ovs-ofctl(8) describes them):\n",
    );
    for (name, refused) in commands() {
        let refused = refused.map_or("", |_| "   (not supported)");
        text += &format!("  {name}{refused}\n");
    }
    text + "\nOptions:\n  \
        --strict  --may-create  --bundle  --names  --no-names  --no-stats\n  \
        --sort[=FIELD]  --rsort[=FIELD]  -O, --protocols=SET  -t, --timeout=SECS\n  \
        -h, --help  -V, --version\n"
}

/// The newest OpenFlow version that `-O` allows, 10 if nothing is said.
fn protocol(given: &[Given]) -> Result<u32, String> {
    let Some(text) = value(given, "protocols") else {
        return Ok(10);
    };
    let versions = text.split(',').map(|name| {
        let number = name.trim().to_ascii_lowercase();
        let number = number
            .strip_prefix("openflow")
            .and_then(|number| number.parse().ok());
        let number = number.filter(|number| (10u32..=15).contains(number));
        number.ok_or_else(|| format!("{name}: unknown OpenFlow version"))
    });
    let versions: Vec<_> = versions.collect::<Result<_, _>>()?;
    Ok(versions.into_iter().max().unwrap_or(10))
}

/// Does what the words say. Returns the exit code.
pub async fn run(words: &[String], socket: &Path, io: &mut Io<'_>) -> Result<u8, Error> {
    let flags: Vec<Flag> = FLAGS.iter().chain(LOGGING).chain(TLS).copied().collect();
    let (given, words) = getopt::parse(words, &flags, true).map_err(Error::Usage)?;
    if has(&given, "help") {
        return io.print(&help());
    }
    if has(&given, "version") {
        return io.print(&(version("ovs-ofctl") + "OpenFlow versions 0x1:0x6\n"));
    }
    for (name, _) in &given {
        refuse_tls(name).map_err(Error::Usage)?;
    }
    let protocol = protocol(&given).map_err(Error::Usage)?;
    let Some((name, args)) = words.split_first() else {
        return refuse("missing command name; use --help for help");
    };
    let Some(syntax) = COMMANDS.iter().find(|syntax| syntax.0 == name) else {
        return refuse(format!("unknown command '{name}'; use --help for help"));
    };
    let (_, least, most, ..) = *syntax;
    if args.len() < least {
        return refuse(format!(
            "'{name}' command requires at least {least} arguments"
        ));
    }
    if args.len() > most {
        return refuse(format!("'{name}' command takes at most {most} arguments"));
    }
    let work = perform(syntax, args, &given, protocol, socket, io);
    let limit = value(&given, "timeout").map(|text| match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(std::time::Duration::from_secs(seconds)),
        _ => Err(Error::Usage(format!(
            "value {text} on -t or --timeout is invalid"
        ))),
    });
    match limit.transpose()? {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(super::vsctl::EXIT_TIMEOUT),
        },
    }
}

/// A bridge that is there, as Open vSwitch says it of one that is not.
async fn expect_bridge(rpc: &mut Rpc, name: &str) -> Result<(), Error> {
    let listed = rpc
        .list_bridges(pb::ListBridgesRequest {})
        .await?
        .into_inner();
    match listed.names.iter().any(|known| known == name) {
        true => Ok(()),
        false => refuse(format!("{name} is not a bridge or a socket")),
    }
}

async fn perform(
    (name, _, _, options, action): &Syntax,
    args: &[String],
    given: &[Given],
    protocol: u32,
    socket: &Path,
    io: &mut Io<'_>,
) -> Result<u8, Error> {
    if let Refuse(what) = action {
        return refuse(super::syntax::refusal(name, what));
    }
    let bridge = &args[0];
    if let Some((scheme, _)) = bridge.split_once(':') {
        return refuse(format!(
            "{bridge}: OpenFlow connections ({scheme}:) are not supported; name a bridge of ringwayd"
        ));
    }
    let mut client = Client::connect_for(socket, TIMEOUT).await?;
    let rpc = &mut client.rpc;
    if *name != "diff-flows" {
        expect_bridge(rpc, bridge).await?;
    }
    let port = args.get(1).map(String::as_str);
    let names = has(given, "names") || (io.terminal && !has(given, "no-names"));
    match action {
        Show => {
            let shown = shown(rpc, bridge).await?;
            io.print(&show(&shown, names))
        }
        DumpPortsDesc => {
            let shown = shown(rpc, bridge).await?;
            let ports = port_lines(&shown, port, names);
            io.print(&format!("OFPST_PORT_DESC reply (xid=0x2):\n{ports}"))
        }
        DumpPorts => {
            let request = pb::DumpPortsRequest {
                bridge: bridge.clone(),
                ..Default::default()
            };
            let counted = rpc.dump_ports(request).await?.into_inner();
            let shown = shown(rpc, bridge).await?;
            io.print(&counters(&shown, &counted, port, names))
        }
        DumpAggregate => {
            let totals = aggregate(rpc, bridge, port.unwrap_or_default()).await?;
            io.print(&totals)
        }
        DumpFlows if !has(given, "no-stats") && !has(given, "sort") && !has(given, "rsort") => {
            let request = pb::DumpFlowsRequest {
                bridge: bridge.clone(),
                filter: port.unwrap_or_default().to_owned(),
                names,
                sort: vec![],
            };
            dump_flows(rpc, request, protocol, io).await
        }
        _ => {
            let request = verb(name, args, given, options, io.terminal)?;
            io.perform(socket, request).await
        }
    }
}

/// ringway's own request for a command of the same name and options.
fn verb(
    name: &str,
    args: &[String],
    given: &[Given],
    options: &[&str],
    terminal: bool,
) -> Result<Request, Error> {
    let mut args = args.to_vec();
    let from_stdin = args.get(1).is_some_and(|text| text == "-");
    let name = match name {
        // A flow of that name is read from the standard input.
        "add-flow" if from_stdin => "add-flows",
        "mod-flows" | "del-flows" if from_stdin => {
            return refuse(format!(
                "{name} of the flows in a file is not supported: ovs-ofctl bundle BRIDGE FILE does \
                 it"
            ));
        }
        name => name,
    };
    if name == "monitor" {
        args.truncate(1);
    }
    let mut words = vec!["ringway".to_owned(), name.to_owned()];
    for (flag, value) in given.iter().filter(|(flag, _)| options.contains(flag)) {
        words.push(match value {
            None => format!("--{flag}"),
            Some(value) => format!("--{flag}={value}"),
        });
    }
    words.push("--".into());
    words.extend(args);
    let cli = Cli::try_parse_from(words).map_err(|error| Error::Usage(error.to_string()))?;
    Request::from_verb(&cli.verb, terminal)
}

async fn dump_flows(
    rpc: &mut Rpc,
    request: pb::DumpFlowsRequest,
    protocol: u32,
    io: &mut Io<'_>,
) -> Result<u8, Error> {
    let names = request.names;
    let mut answers = rpc.dump_flows(request).await?.into_inner();
    let mut out = match protocol {
        _ if names => String::new(),
        10 => "NXST_FLOW reply (xid=0x4):\n".to_owned(),
        _ => format!("OFPST_FLOW reply (OF1.{}) (xid=0x2):\n", protocol - 10),
    };
    while let Some(answer) = answers.message().await? {
        for flow in &answer.flows {
            let line = flows::line(flow, true);
            out += &match protocol {
                10 if !names => with_idle_age(&line, flow),
                _ => line,
            };
        }
        io.print(&std::mem::take(&mut out))?;
    }
    io.print(&out)
}

/// OpenFlow 1.0 tells when a flow was used last.
fn with_idle_age(line: &str, flow: &pb::Flow) -> String {
    let age = format!("idle_age={}, ", flow.idle_ms / 1000);
    // Behind the counters and timeouts, before flags, match and actions.
    let head = [
        " cookie=",
        "duration=",
        "table=",
        "n_packets=",
        "n_bytes=",
        "idle_timeout=",
        "hard_timeout=",
    ];
    let mut at = 0;
    for part in line.split_inclusive(", ") {
        let is_head = head.iter().any(|name| part.starts_with(name));
        if !(is_head && part.ends_with(", ")) {
            break;
        }
        at += part.len();
    }
    format!("{}{age}{}", &line[..at], &line[at..])
}

async fn aggregate(rpc: &mut Rpc, bridge: &str, filter: &str) -> Result<String, Error> {
    let request = pb::DumpFlowsRequest {
        bridge: bridge.to_owned(),
        filter: filter.to_owned(),
        ..Default::default()
    };
    let (mut packets, mut bytes, mut flows) = (0u64, 0u64, 0usize);
    let mut answers = rpc.dump_flows(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        flows += answer.flows.len();
        packets += answer.flows.iter().map(|flow| flow.packets).sum::<u64>();
        bytes += answer.flows.iter().map(|flow| flow.bytes).sum::<u64>();
    }
    Ok(format!(
        "NXST_AGGREGATE reply (xid=0x4): packet_count={packets} byte_count={bytes} \
         flow_count={flows}\n"
    ))
}

async fn shown(rpc: &mut Rpc, name: &str) -> Result<pb::Bridge, Error> {
    let shown = rpc.show(pb::ShowRequest {}).await?.into_inner();
    let found = shown.bridges.into_iter().find(|bridge| bridge.name == name);
    Ok(found.unwrap_or_default())
}

/// A bridge's ports that the datapath has, by number, its own interface last.
fn ports(bridge: &pb::Bridge) -> Vec<(i64, &pb::PortStatus)> {
    let ports = bridge.ports.iter().filter_map(|port| port.actual.as_ref());
    let mut ports: Vec<_> = ports
        .map(|port| (number(&bridge.name, port), port))
        .collect();
    ports.sort_by_key(|(number, _)| *number);
    ports
}

fn number(bridge: &str, port: &pb::PortStatus) -> i64 {
    match port.local || port.name == bridge {
        true => LOCAL,
        false => port.number.into(),
    }
}

fn shown_number(number: i64) -> String {
    match number {
        LOCAL => "LOCAL".into(),
        _ => number.to_string(),
    }
}

/// Whether a word names the port, by number or name; nothing names all.
fn is_meant(word: Option<&str>, number: i64, name: &str) -> bool {
    word.is_none_or(|word| {
        word == name
            || word.eq_ignore_ascii_case("any")
            || word.eq_ignore_ascii_case(&shown_number(number))
            || word == number.to_string()
    })
}

fn port_lines(bridge: &pb::Bridge, only: Option<&str>, names: bool) -> String {
    let mut out = String::new();
    for (number, port) in ports(bridge) {
        if !is_meant(only, number, &port.name) {
            continue;
        }
        let none = pb::LinkStatus {
            admin_up: true,
            link_up: port.state() == pb::PortState::Forwarding,
            ..Default::default()
        };
        let link = port.link.as_ref().unwrap_or(&none);
        let mac = Some(link.mac.as_str()).filter(|mac| !mac.is_empty());
        let id = match names {
            true => port.name.clone(),
            false => shown_number(number),
        };
        let flag = |set: bool, name: &'static str| if set { name } else { "0" };
        let _ = writeln!(
            out,
            " {id}({}): addr:{}\n     config:     {}\n     state:      {}\n     speed: {} Mbps now, \
             0 Mbps max",
            port.name,
            mac.unwrap_or("00:00:00:00:00:00"),
            flag(!link.admin_up, "PORT_DOWN"),
            flag(!link.link_up, "LINK_DOWN"),
            link.speed_mbps,
        );
    }
    out
}

fn show(bridge: &pb::Bridge, names: bool) -> String {
    let local = ports(bridge)
        .into_iter()
        .find(|(number, _)| *number == LOCAL);
    let mac = local.and_then(|(_, port)| Some(port.link.as_ref()?.mac.replace(':', "")));
    format!(
        "OFPT_FEATURES_REPLY (xid=0x2): dpid:{:0>16}\nn_tables:254, n_buffers:0\ncapabilities: \
         FLOW_STATS TABLE_STATS PORT_STATS GROUP_STATS ARP_MATCH_IP\nactions: output set_vlan_vid \
         set_vlan_pcp strip_vlan mod_dl_src mod_dl_dst mod_nw_src mod_nw_dst mod_nw_tos mod_tp_src \
         mod_tp_dst\n{}OFPT_GET_CONFIG_REPLY (xid=0x4): frags=normal miss_send_len=0\n",
        mac.unwrap_or_default(),
        port_lines(bridge, None, names)
    )
}

fn counters(
    bridge: &pb::Bridge,
    counted: &pb::DumpPortsResponse,
    only: Option<&str>,
    names: bool,
) -> String {
    let mut lines = Vec::new();
    for (number, port) in ports(bridge) {
        let found = counted
            .ports
            .iter()
            .find(|counted| counted.name == port.name);
        let Some(total) = found.and_then(|found| found.total.as_ref()) else {
            continue;
        };
        if !is_meant(only, number, &port.name) {
            continue;
        }
        let id = match names {
            true => port.name.clone(),
            false => shown_number(number),
        };
        lines.push(format!(
            "  port {id:>2}: rx pkts={}, bytes={}, drop={}, errs={}, frame=?, over=?, crc=?\n          \
             \u{20}tx pkts={}, bytes={}, drop={}, errs={}, coll=?\n",
            total.rx_packets,
            total.rx_bytes,
            total.rx_dropped,
            total.rx_errors,
            total.tx_packets,
            total.tx_bytes,
            total.tx_dropped,
            total.tx_errors
        ));
    }
    format!(
        "OFPST_PORT reply (xid=0x2): {} ports\n{}",
        lines.len(),
        lines.concat()
    )
}
