//! `ovs-appctl`: what Open vSwitch's daemon tells of itself.

use std::fmt::Write;
use std::path::Path;

use clap::Parser;
use ringway_proto::spelling::Spelling;
use ringway_proto::v1 as pb;

use super::convert::LOCAL;
use super::dpctl::{self, DATAPATH};
use super::getopt::{self, Flag, LOGGING, flag, with};
use super::{Io, refuse, version};
use crate::cli::Cli;
use crate::client::{Client, Error, TIMEOUT};
use crate::verbs::Request;

/// Exit code when the daemon refuses, as ovs-appctl has it.
const EXIT_REFUSED: u8 = 2;

/// A command: name, least and greatest number of arguments, and what ringway
/// has not, if it is refused.
type Syntax = (&'static str, usize, usize, Option<&'static str>);

const ANY: usize = usize::MAX;
const LOG: &str = "log levels that could be changed while it runs (ringwayd --log)";

const COMMANDS: &[Syntax] = &[
    ("version", 0, 0, None),
    ("list-commands", 0, 0, None),
    ("fdb/show", 1, 1, None),
    ("fdb/flush", 0, 1, None),
    (
        "fdb/stats-show",
        1,
        1,
        Some("such counters of its FDB (ringway dpctl show has some)"),
    ),
    (
        "fdb/stats-clear",
        0,
        1,
        Some("counters that can be cleared"),
    ),
    (
        "fdb/add",
        4,
        4,
        Some("stations that are not learned (a flow does it)"),
    ),
    (
        "fdb/del",
        3,
        3,
        Some("way to forget one station (fdb/flush)"),
    ),
    ("ofproto/list", 0, 0, None),
    ("ofproto/trace", 1, ANY, None),
    (
        "ofproto/trace-packet-out",
        1,
        ANY,
        Some("such trace (ofproto/trace)"),
    ),
    (
        "bridge/dump-flows",
        1,
        ANY,
        Some("hidden flows (ovs-ofctl dump-flows)"),
    ),
    ("dpif/show", 0, 0, None),
    ("dpif/dump-dps", 0, 0, None),
    ("dpif/dump-flows", 1, ANY, None),
    ("dpif-netdev/pmd-rxq-show", 0, ANY, None),
    ("dpif-netdev/pmd-stats-show", 0, ANY, None),
    (
        "dpif-netdev/pmd-stats-clear",
        0,
        ANY,
        Some("counters that can be cleared"),
    ),
    (
        "dpif-netdev/pmd-perf-show",
        0,
        ANY,
        Some("such histograms (dpif-netdev/pmd-stats-show)"),
    ),
    (
        "dpif-netdev/pmd-rxq-rebalance",
        0,
        ANY,
        Some("way to rebalance queues by hand"),
    ),
    ("dpctl/…", 0, ANY, None),
    ("coverage/show", 0, 0, None),
    (
        "coverage/read-counter",
        1,
        1,
        Some("such counters (coverage/show lists the drops)"),
    ),
    (
        "memory/show",
        0,
        0,
        Some("such report (ringway dpctl show has one)"),
    ),
    (
        "upcall/show",
        0,
        0,
        Some("upcall threads (ringway dpctl show has the flow cache)"),
    ),
    (
        "revalidator/purge",
        0,
        0,
        Some("revalidators (ovs-dpctl del-flows forgets megaflows)"),
    ),
    ("vlog/list", 0, 0, Some(LOG)),
    ("vlog/set", 1, ANY, Some(LOG)),
    ("vlog/reopen", 0, 0, Some(LOG)),
    ("vlog/close", 0, 0, Some(LOG)),
    ("vlog/disable-rate-limit", 0, ANY, Some(LOG)),
    ("vlog/enable-rate-limit", 0, ANY, Some(LOG)),
    (
        "exit",
        0,
        1,
        Some("way to be stopped from here (systemctl stop ringwayd)"),
    ),
    ("bond/list", 0, 0, Some("bonds")),
    ("bond/show", 0, 1, Some("bonds")),
    ("lacp/show", 0, 1, Some("LACP")),
    ("stp/show", 0, 1, Some("spanning trees")),
    ("rstp/show", 0, 1, Some("spanning trees")),
    ("mdb/show", 1, 1, Some("multicast snooping")),
    ("cfm/show", 0, 1, Some("connectivity fault management")),
    ("bfd/show", 0, 1, Some("BFD")),
    ("qos/show", 1, 1, Some("QoS (a meter limits rates)")),
    ("tnl/ports/show", 0, 1, Some("tunnels")),
];

/// Every command with what becomes of it, for the table of names.
pub fn commands() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    COMMANDS
        .iter()
        .map(|(name, _, _, refused)| (*name, *refused))
}

const FLAGS: &[Flag] = &[
    with("target").or('t'),
    with("timeout").or('T'),
    flag("execute").or('e'),
    flag("help").or('h'),
    flag("option").or('o'),
    flag("version").or('V'),
];

/// Does what the words say. Returns the exit code.
pub async fn run(words: &[String], socket: &Path, io: &mut Io<'_>) -> Result<u8, Error> {
    let flags: Vec<Flag> = FLAGS.iter().chain(LOGGING).copied().collect();
    let (given, words) = getopt::parse(words, &flags, false).map_err(Error::Usage)?;
    for (name, value) in &given {
        let value = value.as_deref().unwrap_or_default();
        match (*name, value) {
            ("help", _) => return io.print(&help()),
            ("version", _) => return io.print(&version("ovs-appctl")),
            ("target", "ovs-vswitchd" | "ringwayd") => {}
            ("target", other) => {
                return refuse(format!(
                    "--target={other} is not supported: there is ringwayd (ovs-vswitchd means it)"
                ));
            }
            _ => {}
        }
    }
    let Some((name, args)) = words.split_first() else {
        return refuse("at least one non-option argument is required (use --help for help)");
    };
    if let Some(command) = name.strip_prefix("dpctl/") {
        let words: Vec<_> = [command.to_owned()]
            .into_iter()
            .chain(args.iter().cloned())
            .collect();
        return match dpctl::run(&words, socket, io).await {
            Err(Error::Usage(why)) => refused(&why, io),
            outcome => outcome,
        };
    }
    let Some((_, least, most, what)) = COMMANDS.iter().find(|(known, ..)| known == name) else {
        let why = "is not a valid command (use \"list-commands\" to see a list of valid commands)";
        return refused(&format!("\"{name}\" {why}"), io);
    };
    if let Some(what) = what {
        return refused(&super::syntax::refusal(name, what), io);
    }
    if args.len() < *least {
        return refused(
            &format!("\"{name}\" command requires at least {least} arguments"),
            io,
        );
    }
    if args.len() > *most {
        return refused(
            &format!("\"{name}\" command takes at most {most} arguments"),
            io,
        );
    }
    match perform(name, args, socket, io).await {
        Err(Error::Usage(why)) => refused(&why, io),
        Err(Error::Refused(status)) => refused(status.message(), io),
        outcome => outcome,
    }
}

/// The daemon's refusal, as ovs-appctl tells it.
fn refused(why: &str, io: &mut Io<'_>) -> Result<u8, Error> {
    let _ = writeln!(io.err, "{why}");
    io.complain("ringwayd: server returned an error");
    Ok(EXIT_REFUSED)
}

fn help() -> String {
    "ovs-appctl: ringway by the name of Open vSwitch's command\n\
     usage: ovs-appctl [-t ovs-vswitchd] COMMAND [ARG...]\n\
     `ovs-appctl list-commands` lists the commands.\n"
        .into()
}

fn list() -> String {
    let mut text = String::from("The available commands are:\n");
    for (name, refused) in commands().filter(|(_, refused)| refused.is_none()) {
        debug_assert!(refused.is_none());
        text += &format!("  {name}\n");
    }
    text
}

async fn perform(name: &str, args: &[String], socket: &Path, io: &mut Io<'_>) -> Result<u8, Error> {
    let first = args.first().cloned().unwrap_or_default();
    let mut client = match name {
        "list-commands" => return io.print(&list()),
        "dpif/dump-dps" => return io.print(&format!("{DATAPATH}\n")),
        _ => Client::connect_for(socket, TIMEOUT).await?,
    };
    let rpc = &mut client.rpc;
    if matches!(name, "fdb/show" | "dpif/dump-flows") || (name == "fdb/flush" && !first.is_empty())
    {
        let known = rpc
            .list_bridges(pb::ListBridgesRequest {})
            .await?
            .into_inner()
            .names;
        let bridge = args.iter().find(|arg| !arg.starts_with('-'));
        if !bridge.is_some_and(|bridge| known.contains(bridge)) {
            return refuse("no such bridge");
        }
    }
    match name {
        "version" => {
            let version = rpc.version(pb::VersionRequest {}).await?.into_inner();
            io.print(&format!(
                "ringwayd (ringway) {}\n{}\n",
                version.ringwayd, version.dpdk
            ))
        }
        "ofproto/list" => {
            let known = rpc
                .list_bridges(pb::ListBridgesRequest {})
                .await?
                .into_inner()
                .names;
            io.print(
                &known
                    .iter()
                    .map(|name| format!("{name}\n"))
                    .collect::<String>(),
            )
        }
        "fdb/flush" => {
            let request = pb::FdbFlushRequest { bridge: first };
            rpc.fdb_flush(request).await?;
            io.print("table successfully flushed\n")
        }
        "dpif/show" => {
            let datapath = rpc
                .datapath_show(pb::DatapathShowRequest {})
                .await?
                .into_inner();
            io.print(&dpif_show(&datapath))
        }
        "dpif-netdev/pmd-rxq-show" => {
            let pmds = rpc.pmd_show(pb::PmdShowRequest {}).await?.into_inner();
            io.print(&rxqs(&pmds))
        }
        "dpif-netdev/pmd-stats-show" => {
            let pmds = rpc.pmd_stats(pb::PmdStatsRequest {}).await?.into_inner();
            io.print(&stats(&pmds))
        }
        "ofproto/trace" => own(&trace(args)?, socket, io).await,
        "dpif/dump-flows" => {
            let names = args.iter().any(|arg| arg == "--names");
            let bridge = args.iter().find(|arg| !arg.starts_with('-')).cloned();
            let mut words = vec!["dpctl".to_owned(), "dump-flows".into()];
            words.extend(names.then(|| "--names".to_owned()));
            words.extend(bridge);
            own(&words, socket, io).await
        }
        "coverage/show" => own(&["drops".into()], socket, io).await,
        _ => own(&["fdb".into(), "show".into(), first], socket, io).await,
    }
}

/// Does what ringway's own verb does.
async fn own(words: &[String], socket: &Path, io: &mut Io<'_>) -> Result<u8, Error> {
    let words = ["ringway".to_owned()]
        .into_iter()
        .chain(words.iter().cloned());
    let cli = Cli::try_parse_from(words).map_err(|error| Error::Usage(error.to_string()))?;
    let request = Request::from_verb(&cli.verb, io.terminal)?;
    io.perform(socket, request).await
}

/// `[DATAPATH] BRIDGE|FLOW [-generate|PACKET]` as ringway's words.
fn trace(args: &[String]) -> Result<Vec<String>, Error> {
    let mut words = vec!["trace".to_owned()];
    let flags = ["-generate", "--generate"];
    let rest: Vec<_> = args
        .iter()
        .filter(|arg| !flags.contains(&arg.as_str()))
        .cloned()
        .collect();
    if rest.len() < args.len() {
        words.push("--generate".into());
    }
    if let Some(odd) = rest.iter().find(|arg| arg.starts_with('-')) {
        return refuse(format!("ofproto/trace has no option {odd} in ringway"));
    }
    if rest.len() < 2 {
        return refuse(
            "ofproto/trace of a datapath flow alone is not supported: ofproto/trace BRIDGE FLOW",
        );
    }
    words.push("--".into());
    words.extend(rest);
    Ok(words)
}

fn dpif_show(datapath: &pb::DatapathShowResponse) -> String {
    let cache = datapath.cache.clone().unwrap_or_default();
    let hits = cache.emc_hits + cache.megaflow_hits;
    let mut out = format!("{DATAPATH}: hit:{hits} missed:{}\n", cache.missed);
    for bridge in &datapath.bridges {
        let _ = writeln!(out, "  {}:", bridge.name);
        let mut ports: Vec<_> = datapath.ports.iter().collect();
        ports.retain(|port| port.bridge == bridge.name);
        ports.sort_by(|one, other| one.name.cmp(&other.name));
        for port in ports {
            let is_local = port.local || port.name == bridge.name;
            let number = if is_local { LOCAL } else { port.number.into() };
            let (name, own, kind) = (&port.name, port.number, port.kind().spelled());
            let _ = writeln!(out, "    {name} {number}/{own}: ({kind})");
        }
    }
    out
}

/// The NUMA node that a CPU of this machine is on.
fn numa_of(core: u32) -> String {
    let dir = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}"));
    let names = dir.into_iter().flatten().flatten();
    let mut nodes = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let node = name.strip_prefix("node")?.parse::<u32>();
        node.ok().map(|node| node.to_string())
    });
    nodes.next().unwrap_or_else(|| "0".into())
}

fn rxqs(pmds: &pb::PmdShowResponse) -> String {
    let mut out = String::new();
    for pmd in &pmds.pmds {
        let (core, numa) = (pmd.core, numa_of(pmd.core));
        let _ = writeln!(
            out,
            "pmd thread numa_id {numa} core_id {core}:\n  isolated : false"
        );
        for poll in &pmd.polls {
            let state = match poll.dequeue_size {
                0 => "(disabled)",
                _ => "(enabled) ",
            };
            let _ = writeln!(
                out,
                "  port: {:<16}  queue-id: {:>2} {state}  pmd usage: NOT AVAIL",
                poll.port, poll.queue
            );
        }
    }
    out
}

fn stats(pmds: &pb::PmdStatsResponse) -> String {
    let mut out = String::new();
    for pmd in &pmds.pmds {
        let received = pmd.packets.unwrap_or_default().received;
        let all = pmd.busy_cycles + pmd.idle_cycles;
        let percent = |part: u64| match all {
            0 => 0.0,
            _ => 100.0 * part as f64 / all as f64,
        };
        let (core, numa) = (pmd.core, numa_of(pmd.core));
        let _ = writeln!(
            out,
            "pmd thread numa_id {numa} core_id {core}:\n  packets received: {received}\n  idle \
             cycles: {} ({:.2}%)\n  processing cycles: {} ({:.2}%)",
            pmd.idle_cycles,
            percent(pmd.idle_cycles),
            pmd.busy_cycles,
            percent(pmd.busy_cycles)
        );
        if received > 0 {
            let each = |cycles: u64| cycles as f64 / received as f64;
            let _ = writeln!(
                out,
                "  avg cycles per packet: {:.2} ({all}/{received})\n  avg processing cycles per \
                 packet: {:.2} ({}/{received})",
                each(all),
                each(pmd.busy_cycles),
                pmd.busy_cycles
            );
        }
    }
    out
}
