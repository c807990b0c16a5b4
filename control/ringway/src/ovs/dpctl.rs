//! `ovs-dpctl`: the datapath and its megaflows; also `ovs-appctl dpctl/…`.

use std::fmt::Write;
use std::path::Path;

use ringway_proto::v1 as pb;

use super::getopt::{self, Flag, LOGGING, flag, with};
use super::{Io, refuse, version};
use crate::answers::dpctl;
use crate::client::{Client, Error};
use crate::flow_verbs::FlowRequest;
use crate::verbs::Request;

/// The datapath's name.
pub const DATAPATH: &str = "netdev@ringway";

/// What else names it, for scripts that were written for Open vSwitch.
const ALSO: &[&str] = &[
    "ringway",
    "netdev@ovs-netdev",
    "ovs-netdev",
    "system@ovs-system",
    "ovs-system",
];

const PORTS: &str = "commands on the datapath's ports (ovs-vsctl add-port and del-port)";
const FLOWS: &str = "way to write single megaflows (they follow from the flows: ovs-ofctl)";
const CONNECTIONS: &str = "connection tracking";

/// A command and what ringway has not, if it is refused.
const COMMANDS: &[(&str, Option<&str>)] = &[
    ("show", None),
    ("dump-dps", None),
    ("dump-flows", None),
    ("del-flows", None),
    ("version", None),
    ("list-commands", None),
    (
        "add-dp",
        Some("datapaths beside its one (ovs-vsctl add-br)"),
    ),
    (
        "del-dp",
        Some("datapaths beside its one (ovs-vsctl del-br)"),
    ),
    ("add-if", Some(PORTS)),
    ("set-if", Some(PORTS)),
    ("del-if", Some(PORTS)),
    ("add-flow", Some(FLOWS)),
    ("add-flows", Some(FLOWS)),
    ("mod-flow", Some(FLOWS)),
    ("mod-flows", Some(FLOWS)),
    ("get-flow", Some(FLOWS)),
    ("del-flow", Some(FLOWS)),
    ("dump-conntrack", Some(CONNECTIONS)),
    ("flush-conntrack", Some(CONNECTIONS)),
    ("ct-stats-show", Some(CONNECTIONS)),
    ("ct-bkts", Some(CONNECTIONS)),
    ("ct-get-maxconns", Some(CONNECTIONS)),
    ("ct-set-maxconns", Some(CONNECTIONS)),
    ("ct-get-nconns", Some(CONNECTIONS)),
    ("ct-set-limits", Some(CONNECTIONS)),
    ("ct-get-limits", Some(CONNECTIONS)),
    ("ct-del-limits", Some(CONNECTIONS)),
];

/// Every command with what becomes of it, for the table of names.
pub fn commands() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    COMMANDS.iter().copied()
}

const FLAGS: &[Flag] = &[
    flag("statistics").or('s'),
    flag("clear"),
    flag("may-create"),
    flag("read-only"),
    flag("more").or('m'),
    flag("names"),
    flag("no-names"),
    flag("help").or('h'),
    flag("version").or('V'),
    with("timeout").or('t'),
];

/// Does what the words say. Returns the exit code.
pub async fn run(words: &[String], socket: &Path, io: &mut Io<'_>) -> Result<u8, Error> {
    let flags: Vec<Flag> = FLAGS.iter().chain(LOGGING).copied().collect();
    let (given, words) = getopt::parse(words, &flags, true).map_err(Error::Usage)?;
    let has = |name: &str| given.iter().any(|(flag, _)| *flag == name);
    if has("help") {
        return io.print(&help());
    }
    if has("version") {
        return io.print(&version("ovs-dpctl"));
    }
    let Some((name, args)) = words.split_first() else {
        return refuse("missing command name; use --help for help");
    };
    match COMMANDS.iter().find(|(known, _)| known == name) {
        None => return refuse(format!("unknown command '{name}'; use --help for help")),
        Some((name, Some(what))) => return refuse(super::syntax::refusal(name, what)),
        Some(_) => {}
    }
    let names = has("names");
    let work = async {
        match name.as_str() {
            "version" => io.print(&version("ovs-dpctl")),
            "list-commands" => io.print(&help()),
            "dump-dps" => io.print(&format!("{DATAPATH}\n")),
            "show" => {
                args.iter().try_for_each(|name| check_datapath(name))?;
                show(has("statistics"), socket, io).await
            }
            "del-flows" => {
                args.iter().try_for_each(|name| check_datapath(name))?;
                io.perform(socket, Request::Flows(FlowRequest::FlushMegaflows))
                    .await
            }
            _ => {
                let Some(filter) = filter(args)? else {
                    return Ok(crate::EXIT_OK);
                };
                let request = pb::DumpMegaflowsRequest { filter, names };
                let request = Request::Flows(FlowRequest::DumpMegaflows(request));
                io.perform(socket, request).await
            }
        }
    };
    work.await
}

fn help() -> String {
    let mut text = String::from(
        "ovs-dpctl: ringway by the name of Open vSwitch's command\n\
         usage: ovs-dpctl [OPTIONS] COMMAND [ARG...]\n\n\
         Commands (ovs-dpctl(8) describes them):\n",
    );
    for (name, refused) in COMMANDS {
        let refused = refused.map_or("", |_| "   (not supported)");
        text += &format!("  {name}{refused}\n");
    }
    text + "\nOptions:\n  -s, --statistics  -m, --more  --names  -h, --help  -V, --version\n"
}

fn check_datapath(name: &str) -> Result<(), Error> {
    match name == DATAPATH || ALSO.contains(&name) {
        true => Ok(()),
        false => refuse(format!(
            "opening datapath {name} failed (No such device): ringway has one, {DATAPATH}"
        )),
    }
}

/// Which megaflows `dump-flows` prints: those of a bridge or port; all if empty.
/// None: there are none of the kind that is asked for.
fn filter(args: &[String]) -> Result<Option<String>, Error> {
    let mut found = String::new();
    for arg in args {
        match arg.split_once('=') {
            Some(("type", "all" | "ovs" | "non-offloaded" | "non-offloaded,ovs")) => {}
            Some(("type", _)) => return Ok(None),
            Some(("filter", text)) => {
                let port = text
                    .strip_prefix("in_port(")
                    .and_then(|text| text.strip_suffix(')'));
                match port {
                    Some(port) => found = port.to_owned(),
                    None => {
                        return refuse(format!(
                            "filter={text} is not supported, only filter=in_port(PORT)"
                        ));
                    }
                }
            }
            Some((key, _)) => return refuse(format!("dump-flows has no {key}=")),
            None if check_datapath(arg).is_ok() => {}
            // As `ringway dpctl dump-flows` takes it.
            None => found.clone_from(arg),
        }
    }
    Ok(Some(found))
}

async fn show(counters: bool, socket: &Path, io: &mut Io<'_>) -> Result<u8, Error> {
    let mut client = Client::connect(socket).await?;
    let datapath = client
        .rpc
        .datapath_show(pb::DatapathShowRequest {})
        .await?
        .into_inner();
    let text = dpctl::text(&datapath);
    if !counters {
        return io.print(&text);
    }
    let counted = client
        .rpc
        .dump_ports(pb::DumpPortsRequest::default())
        .await?
        .into_inner();
    let mut out = String::new();
    for line in text.lines() {
        let _ = writeln!(out, "{line}");
        let port = counted
            .ports
            .iter()
            .find(|port| line.starts_with(&format!("  port {}: {} ", port.number, port.name)));
        if let Some(total) = port.and_then(|port| port.total.as_ref()) {
            let _ = writeln!(
                out,
                "    RX packets:{} errors:{} dropped:{} overruns:? frame:?\n    TX packets:{} \
                 errors:{} dropped:{} aborted:? carrier:?\n    collisions:?\n    RX bytes:{}  TX \
                 bytes:{}",
                total.rx_packets,
                total.rx_errors,
                total.rx_dropped,
                total.tx_packets,
                total.tx_errors,
                total.tx_dropped,
                total.rx_bytes,
                total.tx_bytes
            );
        }
    }
    io.print(&out)
}
