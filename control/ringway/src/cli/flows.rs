//! The verbs about flows, with ovs-ofctl's names and flags.

use std::sync::atomic::{AtomicUsize, Ordering};

use clap::{ArgGroup, Args, Subcommand};
use ringway_proto::v1::FlowSort;

/// What to do with flows.
#[derive(Debug, Subcommand)]
pub enum FlowVerb {
    /// Add a flow
    AddFlow {
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// The flow, e.g. 'priority=10,in_port=vm1,ip,actions=output:vm2'
        #[arg(value_name = "FLOW")]
        flow: String,
    },
    /// Add, modify and delete the flows of a file: all, or none
    AddFlows(File),
    /// Give flows other actions
    ModFlows {
        /// Only the flow of exactly this match and priority
        #[arg(long)]
        strict: bool,
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Which flows, and their new actions
        #[arg(value_name = "FLOW")]
        flow: String,
    },
    /// Delete flows; all without FLOW
    DelFlows {
        /// Only the flow of exactly this match and priority
        #[arg(long)]
        strict: bool,
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Which flows
        #[arg(value_name = "FLOW")]
        flow: Option<String>,
    },
    /// Make a bridge's flows those of a file; flows that are so already stay
    ReplaceFlows(File),
    /// Compare flows: - is only in the first, + only in the second
    ///
    /// Exits with 2 if there are differences.
    DiffFlows {
        /// A bridge or a file
        #[arg(value_name = "BR|FILE")]
        first: String,
        /// Another one
        #[arg(value_name = "BR|FILE")]
        second: String,
    },
    /// Print flows with their counters, in ovs-ofctl's form
    DumpFlows(DumpFlows),
    /// Print the tables' flows and lookups, in ovs-ofctl's form
    DumpTables {
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Do what a file says to flows, groups and meters: all, or none
    ///
    /// A line is `flow [add|modify|modify_strict|delete|delete_strict] FLOW`,
    /// `group [add|modify|add_or_mod|delete] GROUP` or `meter
    /// [add|modify|delete] METER`.
    Bundle(File),
    /// Add a group
    AddGroup(One),
    /// Add, modify and delete the groups of a file: all, or none
    AddGroups(File),
    /// Change a group
    ModGroup {
        /// Add it if there is none
        #[arg(long)]
        may_create: bool,
        /// The bridge and the group
        #[command(flatten)]
        group: One,
    },
    /// Delete a group and the flows that use it; all without GROUP
    #[command(alias = "del-group")]
    DelGroups(Chosen),
    /// Print groups, in ovs-ofctl's form
    DumpGroups {
        /// The bridge and the group
        #[command(flatten)]
        groups: Chosen,
        /// How ports are shown
        #[command(flatten)]
        names: Names,
    },
    /// Print groups' counters, in ovs-ofctl's form
    DumpGroupStats(Chosen),
    /// Add a meter
    AddMeter(One),
    /// Change a meter
    ModMeter(One),
    /// Delete a meter and the flows that use it; all without METER
    #[command(alias = "del-meter")]
    DelMeters(Chosen),
    /// Print meters, in ovs-ofctl's form
    #[command(alias = "dump-meter")]
    DumpMeters(Chosen),
    /// Print meters' counters, in ovs-ofctl's form
    MeterStats(Chosen),
    /// Tell what the flows do with a packet
    ///
    /// Either with a packet that is described (`trace br0 in_port=vm1,tcp` or
    /// with its frame in hexadecimal digits), or with the next one that comes
    /// from a port (`trace --port vm1 --next arp`): then what was really done.
    Trace(Trace),
    /// Send a packet through actions
    PacketOut {
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// in_port=PORT,packet=HEX,actions=…, or ovs-ofctl's older IN_PORT ACTIONS PACKET…
        #[arg(value_name = "PACKET-OUT", required = true, num_args = 1..)]
        words: Vec<String>,
    },
    /// Print the packets that flows send to controllers, until interrupted
    Monitor {
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: String,
        /// Accepted as ovs-ofctl has it: longest packet, invalid_ttl, watch:
        #[arg(value_name = "OPTION", hide = true)]
        options: Vec<String>,
    },
}

/// A bridge and a file.
#[derive(Debug, Args)]
pub struct File {
    /// The bridge
    #[arg(value_name = "BR")]
    pub bridge: String,
    /// The file; - is the standard input
    #[arg(value_name = "FILE")]
    pub file: String,
}

/// A bridge and a group or meter.
#[derive(Debug, Args)]
pub struct One {
    /// The bridge
    #[arg(value_name = "BR")]
    pub bridge: String,
    /// The group (group_id=1,type=all,bucket=…) or meter (meter=1,kbps,bands=…)
    #[arg(value_name = "TEXT")]
    pub text: String,
}

/// A bridge and which groups or meters.
#[derive(Debug, Args)]
pub struct Chosen {
    /// The bridge
    #[arg(value_name = "BR")]
    pub bridge: String,
    /// Only this one, by number
    #[arg(value_name = "NUMBER")]
    pub which: Option<String>,
}

/// How ports are shown.
#[derive(Debug, Args)]
pub struct Names {
    /// Ports by name, as is done on a terminal
    #[arg(long)]
    names: bool,
    /// Ports by number
    #[arg(long, conflicts_with = "names")]
    no_names: bool,
}

impl Names {
    /// What was said, or else `default`.
    pub fn or(&self, default: bool) -> bool {
        self.names || (default && !self.no_names)
    }
}

/// Arguments of `dump-flows`.
#[derive(Debug, Args)]
pub struct DumpFlows {
    /// The bridge
    #[arg(value_name = "BR")]
    pub bridge: String,
    /// Which flows
    #[arg(value_name = "FLOW")]
    pub flow: Option<String>,
    /// Neither counters nor duration
    #[arg(long)]
    pub no_stats: bool,
    /// How ports are shown
    #[command(flatten)]
    pub names: Names,
    /// In ascending order of the priority, or of a field
    #[arg(long, value_name = "FIELD", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "", value_parser = sort_key)]
    sort: Vec<SortKey>,
    /// In descending order
    #[arg(long, value_name = "FIELD", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "", value_parser = sort_key)]
    rsort: Vec<SortKey>,
}

/// A field to sort by, and its place among all of the command line.
#[derive(Clone, Debug)]
struct SortKey {
    place: usize,
    field: String,
}

fn sort_key(field: &str) -> Result<SortKey, String> {
    // Values are read in the order in which they stand.
    static PLACE: AtomicUsize = AtomicUsize::new(0);
    Ok(SortKey {
        place: PLACE.fetch_add(1, Ordering::Relaxed),
        field: field.to_owned(),
    })
}

impl DumpFlows {
    /// The sort keys in the order in which they were given.
    pub fn sort_keys(&self) -> impl Iterator<Item = FlowSort> {
        let ascending = self.sort.iter().map(|key| (key, false));
        let mut keys: Vec<_> = ascending
            .chain(self.rsort.iter().map(|key| (key, true)))
            .collect();
        keys.sort_by_key(|(key, _)| key.place);
        keys.into_iter().map(|(key, descending)| FlowSort {
            field: key.field.clone(),
            descending,
        })
    }
}

/// Arguments of `trace`.
#[derive(Debug, Args)]
#[command(
    override_usage = "ringway trace [--generate] <BR> <FLOW> [PACKET_HEX]\n       \
                            ringway trace --port <PORT> --next [MATCH] [--timeout <S>]"
)]
#[command(group = ArgGroup::new("what").args(["bridge", "port"]).required(true))]
pub struct Trace {
    /// The bridge
    #[arg(value_name = "BR", requires = "flow")]
    pub bridge: Option<String>,
    /// The packet's fields, e.g. 'in_port=vm1,tcp,tp_dst=80'
    #[arg(value_name = "FLOW")]
    pub flow: Option<String>,
    /// The whole packet
    #[arg(value_name = "PACKET_HEX")]
    pub packet: Option<String>,
    /// NORMAL learns from the packet
    #[arg(long)]
    pub generate: bool,
    /// The port whose next packet is waited for
    #[arg(long, value_name = "PORT", requires = "next")]
    pub port: Option<String>,
    /// Which packet is waited for, e.g. arp; any without MATCH
    #[arg(long, value_name = "MATCH", num_args = 0..=1, default_missing_value = "")]
    #[arg(requires = "port", allow_hyphen_values = false)]
    pub next: Option<String>,
    /// How many seconds it is waited for
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub timeout: f64,
}
