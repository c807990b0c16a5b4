//! Each verb: its request, the call, its answer.

use std::io::Write;
use std::time::Duration;

use ringway_proto::v1::{self as pb, desired_change::Change};
use serde_json::{Value, json};
use tonic::Status;

use crate::answers::{self, doctor, dpctl, drops, fdb, pmd, ports, show};
use crate::cli::{Dpctl, Fdb, Pmd, Verb};
use crate::client::{self, Client, Error, Rpc};
use crate::flow_verbs::{self, FlowRequest};
use crate::{EXIT_DIFFERS, EXIT_OK, options};

/// A verb's request, ready to be sent.
pub enum Request {
    /// `add-br`
    AddBridge(pb::AddBridgeRequest),
    /// `del-br`
    DelBridge(pb::DelBridgeRequest),
    /// `set-br`
    SetBridge(Set),
    /// `set-port`
    SetPort(Set),
    /// `list-br`
    ListBridges,
    /// `add-port`
    AddPort(Box<pb::AddPortRequest>),
    /// `del-port`
    DelPort(pb::DelPortRequest),
    /// `list-ports`
    ListPorts(pb::ListPortsRequest),
    /// `port-to-br`
    PortToBridge(pb::PortToBridgeRequest),
    /// `show`
    Show,
    /// `show --watch`
    Watch,
    /// `fdb show`
    FdbShow(pb::FdbShowRequest),
    /// `fdb flush`
    FdbFlush(pb::FdbFlushRequest),
    /// `dpctl show`
    DatapathShow,
    /// About flows, groups, meters, megaflows and packets for controllers
    Flows(FlowRequest),
    /// `dump-ports`
    DumpPorts(pb::DumpPortsRequest),
    /// `pmd show`
    PmdShow,
    /// `pmd stats`
    PmdStats,
    /// `drops`
    Drops,
    /// `doctor`
    Doctor,
    /// `version`
    Version,
}

/// Options to be changed of an object.
pub struct Set {
    name: String,
    options: Vec<String>,
    no_wait: bool,
}

impl Request {
    /// How long its answer may take.
    pub fn patience(&self) -> Duration {
        match self {
            Request::Flows(request) => request.patience(),
            _ => client::TIMEOUT,
        }
    }

    /// The request of a verb; refuses what cannot have a meaning. On a
    /// `terminal` ports are shown by name.
    pub fn from_verb(verb: &Verb, terminal: bool) -> Result<Self, Error> {
        Ok(match verb {
            Verb::AddBr(args) => Request::AddBridge(pb::AddBridgeRequest {
                bridge: Some(pb::BridgeSpec {
                    name: args.name.clone(),
                    fail_mode: args.fail_mode.unwrap_or_default().into(),
                    fdb_ageing_seconds: args.fdb_ageing,
                    fdb_limit: args.fdb_limit,
                    no_internal: args.no_internal,
                    ..Default::default()
                }),
                may_exist: args.may_exist,
                no_wait: args.no_wait,
            }),
            Verb::SetBr(args) => Request::SetBridge(Set {
                name: args.name.clone(),
                options: args.options.clone(),
                no_wait: args.no_wait,
            }),
            Verb::SetPort(args) => Request::SetPort(Set {
                name: args.name.clone(),
                options: args.options.clone(),
                no_wait: args.no_wait,
            }),
            Verb::DelBr(args) => Request::DelBridge(pb::DelBridgeRequest {
                name: args.name.clone(),
                if_exists: args.if_exists,
                no_wait: args.no_wait,
            }),
            Verb::ListBr => Request::ListBridges,
            Verb::AddPort(args) => {
                let port = options::parse(&args.bridge, &args.name, &args.options)
                    .map_err(|why| Error::Usage(format!("port {}: {why}", args.name)))?;
                Request::AddPort(Box::new(pb::AddPortRequest {
                    port: Some(port),
                    may_exist: args.may_exist,
                    no_wait: args.no_wait,
                }))
            }
            Verb::DelPort(args) => {
                let (name, bridge) = match args.names.as_slice() {
                    [bridge, name] => (name.clone(), bridge.clone()),
                    names => (names.concat(), String::new()),
                };
                Request::DelPort(pb::DelPortRequest {
                    name,
                    bridge,
                    if_exists: args.if_exists,
                    no_wait: args.no_wait,
                })
            }
            Verb::ListPorts { bridge } => Request::ListPorts(pb::ListPortsRequest {
                bridge: bridge.clone(),
            }),
            Verb::PortToBr { port } => {
                Request::PortToBridge(pb::PortToBridgeRequest { port: port.clone() })
            }
            Verb::Show { watch: false } => Request::Show,
            Verb::Show { watch: true } => Request::Watch,
            Verb::Fdb(Fdb::Show { bridge }) => Request::FdbShow(pb::FdbShowRequest {
                bridge: bridge.clone(),
            }),
            Verb::Fdb(Fdb::Flush { bridge }) => Request::FdbFlush(pb::FdbFlushRequest {
                bridge: bridge.clone().unwrap_or_default(),
            }),
            Verb::Dpctl(Dpctl::Show) => Request::DatapathShow,
            Verb::Dpctl(Dpctl::DumpFlows { filter, names }) => {
                Request::Flows(FlowRequest::DumpMegaflows(pb::DumpMegaflowsRequest {
                    filter: filter.clone().unwrap_or_default(),
                    names: names.or(false),
                }))
            }
            Verb::Dpctl(Dpctl::DelFlows) => Request::Flows(FlowRequest::FlushMegaflows),
            Verb::Flows(verb) => Request::Flows(FlowRequest::from_verb(verb, terminal)?),
            Verb::DumpPorts {
                bridge,
                port,
                detail,
            } => Request::DumpPorts(pb::DumpPortsRequest {
                bridge: bridge.clone().unwrap_or_default(),
                port: port.clone().unwrap_or_default(),
                detail: *detail,
            }),
            Verb::Pmd(Pmd::Show) => Request::PmdShow,
            Verb::Pmd(Pmd::Stats) => Request::PmdStats,
            Verb::Drops => Request::Drops,
            Verb::Doctor => Request::Doctor,
            Verb::Version => Request::Version,
            Verb::Completions { .. } => {
                return Err(Error::Usage("completions need no daemon".into()));
            }
        })
    }
}

/// Where answers go, and in which form.
pub struct Printer<'a> {
    /// JSON instead of text.
    pub json: bool,
    /// The name by which the program was called, for warnings.
    pub name: &'static str,
    /// For results.
    pub out: &'a mut dyn Write,
    /// For warnings.
    pub err: &'a mut dyn Write,
}

impl Printer<'_> {
    /// Prints one answer.
    pub fn answer(&mut self, text: impl FnOnce() -> String, json: Value) -> Result<u8, Error> {
        let output = match self.json {
            true => format!("{json:#}\n"),
            false => text(),
        };
        self.out.write_all(output.as_bytes())?;
        self.out.flush()?;
        Ok(EXIT_OK)
    }

    /// Prints one of many answers; in JSON each is one line.
    pub fn line(&mut self, text: impl FnOnce() -> String, json: Value) -> Result<(), Error> {
        let output = match self.json {
            true => format!("{json}\n"),
            false => text(),
        };
        self.out.write_all(output.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// The answer of a change: silence is success; warnings go to stderr, or
    /// into the JSON.
    pub fn change(&mut self, warnings: &[String], json: Value) -> Result<u8, Error> {
        if !self.json {
            for warning in warnings {
                writeln!(self.err, "{}: warning: {warning}", self.name)?;
            }
        }
        self.answer(String::new, json)
    }

    fn names(&mut self, names: Vec<String>, key: &str) -> Result<u8, Error> {
        let json = json!({ key: names });
        self.answer(
            || names.iter().map(|name| format!("{name}\n")).collect(),
            json,
        )
    }

    fn show(&mut self, shown: &pb::ShowResponse) -> Result<u8, Error> {
        self.answer(|| show::text(shown, answers::now_ms()), show::json(shown))?;
        Ok(match shown.differences {
            0 => EXIT_OK,
            _ => EXIT_DIFFERS,
        })
    }
}

/// Sends the request and prints the answer. Returns the exit code.
pub async fn perform(
    request: Request,
    client: &mut Client,
    to: &mut Printer<'_>,
) -> Result<u8, Error> {
    let rpc = &mut client.rpc;
    match request {
        Request::AddBridge(request) => {
            let done = rpc.add_bridge(request).await?.into_inner();
            let json = json!({"created": done.created, "warnings": done.warnings});
            to.change(&done.warnings, json)
        }
        Request::DelBridge(request) => {
            let done = rpc.del_bridge(request).await?.into_inner();
            to.change(&[], json!({"deleted": done.deleted}))
        }
        Request::SetBridge(set) => set_bridge(set, rpc, to).await,
        Request::SetPort(set) => set_port(set, rpc, to).await,
        Request::ListBridges => {
            let answer = rpc.list_bridges(pb::ListBridgesRequest {}).await?;
            to.names(answer.into_inner().names, "bridges")
        }
        Request::AddPort(request) => {
            let done = rpc.add_port(*request).await?.into_inner();
            let number = Some(done.number).filter(|number| *number > 0);
            let json = json!({
                "created": done.created,
                "number": number,
                "warnings": done.warnings,
            });
            to.change(&done.warnings, json)
        }
        Request::DelPort(request) => {
            let done = rpc.del_port(request).await?.into_inner();
            to.change(&[], json!({"deleted": done.deleted}))
        }
        Request::ListPorts(request) => {
            let answer = rpc.list_ports(request).await?;
            to.names(answer.into_inner().names, "ports")
        }
        Request::PortToBridge(request) => {
            let bridge = rpc.port_to_bridge(request).await?.into_inner().bridge;
            to.answer(|| format!("{bridge}\n"), json!({"bridge": bridge}))
        }
        Request::Show => {
            let shown = rpc.show(pb::ShowRequest {}).await?.into_inner();
            to.show(&shown)
        }
        Request::Watch => watch(rpc, to).await,
        Request::FdbShow(request) => {
            let bridge = request.bridge.clone();
            let table = rpc.fdb_show(request).await?.into_inner();
            to.answer(|| fdb::text(&table, &bridge), fdb::json(&table))
        }
        Request::FdbFlush(request) => {
            let forgotten = rpc.fdb_flush(request).await?.into_inner().forgotten;
            to.answer(
                || format!("{forgotten} stations forgotten\n"),
                json!({"forgotten": forgotten}),
            )
        }
        Request::DatapathShow => {
            let answer = rpc.datapath_show(pb::DatapathShowRequest {}).await?;
            let datapath = answer.into_inner();
            to.answer(|| dpctl::text(&datapath), dpctl::json(&datapath))
        }
        Request::Flows(request) => flow_verbs::perform(request, rpc, to).await,
        Request::DumpPorts(request) => {
            let detail = request.detail;
            let counters = rpc.dump_ports(request).await?.into_inner();
            let dropped = match detail {
                true => Some(rpc.drops(pb::DropsRequest {}).await?.into_inner()),
                false => None,
            };
            let dropped = dropped.as_ref();
            to.answer(
                || ports::text(&counters, dropped),
                ports::json(&counters, dropped),
            )
        }
        Request::PmdShow => {
            let pmds = rpc.pmd_show(pb::PmdShowRequest {}).await?.into_inner();
            to.answer(|| pmd::show_text(&pmds), pmd::show_json(&pmds))
        }
        Request::PmdStats => {
            let stats = rpc.pmd_stats(pb::PmdStatsRequest {}).await?.into_inner();
            to.answer(|| pmd::stats_text(&stats), pmd::stats_json(&stats))
        }
        Request::Doctor => {
            let told = rpc.doctor(pb::DoctorRequest {}).await?.into_inner();
            to.answer(|| doctor::text(&told), doctor::json(&told))?;
            Ok(if doctor::ill(&told) {
                EXIT_DIFFERS
            } else {
                EXIT_OK
            })
        }
        Request::Drops => {
            let dropped = rpc.drops(pb::DropsRequest {}).await?.into_inner();
            to.answer(|| drops::text(&dropped), drops::json(&dropped))
        }
        Request::Version => {
            let daemon = rpc.version(pb::VersionRequest {}).await?.into_inner();
            version(&daemon, to)
        }
    }
}

/// Changes some options of a bridge: the others are asked for first.
async fn set_bridge(set: Set, rpc: &mut Rpc, to: &mut Printer<'_>) -> Result<u8, Error> {
    let shown = rpc.show(pb::ShowRequest {}).await?.into_inner();
    let bridges = shown
        .bridges
        .into_iter()
        .filter_map(|bridge| bridge.desired);
    let found = bridges.into_iter().find(|bridge| bridge.name == set.name);
    let mut bridge = found.ok_or_else(|| not_found("bridge", &set.name))?;
    options::change_bridge(&mut bridge, &set.options)
        .map_err(|why| Error::Usage(format!("bridge {}: {why}", set.name)))?;
    apply(Change::SetBridge(bridge), set.no_wait, rpc, to).await
}

/// Changes some options of a port: the others are asked for first.
async fn set_port(set: Set, rpc: &mut Rpc, to: &mut Printer<'_>) -> Result<u8, Error> {
    let shown = rpc.show(pb::ShowRequest {}).await?.into_inner();
    let ports = shown.bridges.into_iter().flat_map(|bridge| bridge.ports);
    let mut ports = ports.filter_map(|port| port.desired);
    let found = ports.find(|port| port.name == set.name);
    let mut port = found.ok_or_else(|| not_found("port", &set.name))?;
    options::change(&mut port, &set.options)
        .map_err(|why| Error::Usage(format!("port {}: {why}", set.name)))?;
    apply(Change::SetPort(port), set.no_wait, rpc, to).await
}

fn not_found(object: &str, name: &str) -> Status {
    Status::not_found(format!("no {object} named {name}"))
}

async fn apply(
    change: Change,
    no_wait: bool,
    rpc: &mut Rpc,
    to: &mut Printer<'_>,
) -> Result<u8, Error> {
    let change = Some(change);
    let changes = vec![pb::DesiredChange { change }];
    let request = pb::ApplyRequest { changes, no_wait };
    let done = rpc.apply(request).await?.into_inner();
    to.change(&done.warnings, json!({"warnings": done.warnings}))
}

async fn watch(rpc: &mut Rpc, to: &mut Printer<'_>) -> Result<u8, Error> {
    let mut shown = rpc.watch(pb::WatchRequest {}).await?.into_inner();
    let mut code = EXIT_OK;
    while let Some(shown) = shown.message().await? {
        code = to.show(&shown)?;
    }
    Ok(code)
}

fn version(daemon: &pb::VersionResponse, to: &mut Printer<'_>) -> Result<u8, Error> {
    let own = env!("CARGO_PKG_VERSION");
    let text = || {
        format!(
            "ringway  {own}\nringwayd {}\nprotocol {}\n{}\n",
            daemon.ringwayd, daemon.protocol, daemon.dpdk
        )
    };
    to.answer(
        text,
        json!({
            "ringway": own,
            "ringwayd": daemon.ringwayd,
            "protocol": daemon.protocol,
            "dpdk": daemon.dpdk,
        }),
    )
}
