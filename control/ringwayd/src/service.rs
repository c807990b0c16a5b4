//! The RPCs: each translates its request, asks the control plane or the
//! datapath on a thread that may block, and translates the answer.

use std::sync::Arc;

use ringway_datapath::DatapathError;
use ringway_proto::v1::{self as pb, ringway_server::Ringway};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::apply_request;
use crate::control::{AddFlags, Added, ChangeError, Control, DelFlags};
use crate::convert;
use crate::doctor;
use crate::flow_report::{self, SortKey};
use crate::flow_requests;
use crate::flow_text;
use crate::packet_ins::PacketIns;
use crate::packet_out::{self, PacketOut};
use crate::report;
use crate::stop::Stopping;
use crate::switch::Switch;
use crate::watch::Watchers;

/// Flows, groups, megaflows in one message of a long answer.
const PIECE: usize = 512;

/// Requests that are worked on at once, of all clients: the runtime's threads
/// that may block are 512, and the reconcile loop is to find one at any time.
const MOST_WORKING: usize = 64;

/// Traces that wait for a packet at once.
const MOST_TRACES: usize = 16;

/// The `ringway.v1.Ringway` service.
pub struct Service<S> {
    control: Arc<Control<S>>,
    packet_ins: Arc<PacketIns>,
    watchers: Arc<Watchers>,
    stopping: Stopping,
    working: Semaphore,
    traces: Semaphore,
}

impl<S> Service<S> {
    /// A service over `control`; its streams end at `stopping`.
    pub fn new(
        control: Arc<Control<S>>,
        packet_ins: Arc<PacketIns>,
        watchers: Arc<Watchers>,
        stopping: Stopping,
    ) -> Self {
        Self {
            control,
            packet_ins,
            watchers,
            stopping,
            working: Semaphore::new(MOST_WORKING),
            traces: Semaphore::new(MOST_TRACES),
        }
    }
}

/// A stream of answers.
type Answers<T> = ReceiverStream<Result<T, Status>>;

impl From<ChangeError> for Status {
    fn from(error: ChangeError) -> Self {
        let (code, kept) = match &error {
            ChangeError::Invalid(_) => (Code::InvalidArgument, false),
            ChangeError::NotFound { .. } => (Code::NotFound, false),
            ChangeError::Exists { .. } => (Code::AlreadyExists, false),
            ChangeError::OtherBridge { creating: true, .. } => (Code::AlreadyExists, false),
            ChangeError::OtherBridge { .. } => (Code::FailedPrecondition, false),
            ChangeError::Local { .. } => (Code::FailedPrecondition, false),
            ChangeError::NotUp { .. } | ChangeError::NotGone { .. } | ChangeError::Several(_) => {
                (Code::FailedPrecondition, true)
            }
            ChangeError::Text { .. } => (Code::InvalidArgument, false),
            ChangeError::Refused { .. } | ChangeError::BridgeNotUp { .. } => {
                (Code::FailedPrecondition, false)
            }
            ChangeError::State(_) | ChangeError::Journal(_) => (Code::Internal, false),
        };
        let mut metadata = MetadataMap::new();
        if let ChangeError::Text { at, .. } = &error {
            metadata.insert(ringway_proto::AT_TRAILER, MetadataValue::from(*at));
        }
        if let ChangeError::Text {
            line: Some(line), ..
        }
        | ChangeError::Refused {
            line: Some(line), ..
        } = &error
        {
            metadata.insert(ringway_proto::LINE_TRAILER, MetadataValue::from(*line));
        }
        if kept {
            metadata.insert(ringway_proto::KEPT_TRAILER, MetadataValue::from_static("1"));
        }
        Status::with_metadata(code, error.to_string(), metadata)
    }
}

pub(crate) fn datapath_status(error: DatapathError) -> Status {
    let code = match &error {
        DatapathError::Exists { .. } => Code::AlreadyExists,
        DatapathError::NotFound { .. } => Code::NotFound,
        DatapathError::BadOption { .. } | DatapathError::BadPacket(_) => Code::InvalidArgument,
        DatapathError::Unavailable { .. } | DatapathError::NotLive { .. } => {
            Code::FailedPrecondition
        }
        DatapathError::NoMemory { .. } | DatapathError::TooManyBridges { .. } => {
            Code::ResourceExhausted
        }
        DatapathError::Start(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

impl<S: Switch> Service<S> {
    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Control<S>) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let control = Arc::clone(&self.control);
        // Nobody closes the semaphore.
        let _place = self.working.acquire().await;
        match tokio::task::spawn_blocking(move || work(&control)).await {
            Ok(outcome) => outcome.map(Response::new),
            Err(error) => Err(Status::internal(format!("the request broke off: {error}"))),
        }
    }

    /// Runs `work`, whose answer may be long, on a thread that may block, and
    /// sends what it found in pieces: each thing made by `make`, each piece by
    /// `piece`. A reader that takes its time holds up nobody.
    async fn stream<T: Send + 'static, U: Send + 'static, P: Send + 'static>(
        &self,
        work: impl FnOnce(&Control<S>) -> Result<Vec<T>, Status> + Send + 'static,
        piece: impl Fn(Vec<U>) -> P + Send + 'static,
        make: impl Fn(T) -> U + Send + 'static,
    ) -> Result<Response<Answers<P>>, Status> {
        let found = self.blocking(work).await?.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut found = found.into_iter();
            loop {
                let made: Vec<U> = found.by_ref().take(PIECE).map(&make).collect();
                // The reader may go away.
                if made.is_empty() || sender.send(Ok(piece(made))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// All things, or the one that is asked for by number.
fn only<T>(
    mut things: Vec<T>,
    asked: Option<u32>,
    what: &str,
    bridge: &str,
    number: impl Fn(&T) -> u32,
) -> Result<Vec<T>, Status> {
    if let Some(asked) = asked {
        things.retain(|thing| number(thing) == asked);
        if things.is_empty() {
            let why = format!("bridge {bridge} has no {what} {asked}");
            return Err(Status::not_found(why));
        }
    }
    Ok(things)
}

#[tonic::async_trait]
impl<S: Switch> Ringway for Service<S> {
    type WatchStream = Answers<pb::ShowResponse>;
    type DiffFlowsStream = Answers<pb::DiffFlowsResponse>;
    type DumpFlowsStream = Answers<pb::DumpFlowsResponse>;
    type DumpGroupsStream = Answers<pb::DumpGroupsResponse>;
    type DumpMetersStream = Answers<pb::DumpMetersResponse>;
    type DumpMegaflowsStream = Answers<pb::DumpMegaflowsResponse>;
    type PacketInsStream = Answers<pb::PacketInsResponse>;

    async fn add_bridge(
        &self,
        request: Request<pb::AddBridgeRequest>,
    ) -> Result<Response<pb::AddBridgeResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |control| {
            let asked = request.bridge.unwrap_or_default();
            let bridge = convert::bridge_from_proto(asked).map_err(Status::invalid_argument)?;
            let flags = AddFlags {
                may_exist: request.may_exist,
                no_wait: request.no_wait,
            };
            let Added {
                created, warnings, ..
            } = control.add_bridge(bridge, flags)?;
            Ok(pb::AddBridgeResponse { created, warnings })
        })
        .await
    }

    async fn del_bridge(
        &self,
        request: Request<pb::DelBridgeRequest>,
    ) -> Result<Response<pb::DelBridgeResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |control| {
            let flags = DelFlags {
                if_exists: request.if_exists,
                no_wait: request.no_wait,
            };
            let deleted = control.del_bridge(&request.name, flags)?;
            Ok(pb::DelBridgeResponse { deleted })
        })
        .await
    }

    async fn list_bridges(
        &self,
        _request: Request<pb::ListBridgesRequest>,
    ) -> Result<Response<pb::ListBridgesResponse>, Status> {
        let bridges = self.control.desired().bridges.into_iter();
        let mut names: Vec<_> = bridges.map(|bridge| bridge.spec.name).collect();
        names.sort_unstable();
        Ok(Response::new(pb::ListBridgesResponse { names }))
    }

    async fn add_port(
        &self,
        request: Request<pb::AddPortRequest>,
    ) -> Result<Response<pb::AddPortResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |control| {
            let asked = request.port.unwrap_or_default();
            let of_port = format!("port {}: ", asked.name);
            let port = convert::port_from_proto(asked)
                .map_err(|why| Status::invalid_argument(of_port + &why))?;
            let flags = AddFlags {
                may_exist: request.may_exist,
                no_wait: request.no_wait,
            };
            let Added {
                created,
                warnings,
                number,
            } = control.add_port(port, flags)?;
            Ok(pb::AddPortResponse {
                created,
                warnings,
                number,
            })
        })
        .await
    }

    async fn del_port(
        &self,
        request: Request<pb::DelPortRequest>,
    ) -> Result<Response<pb::DelPortResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |control| {
            let bridge = Some(request.bridge.as_str()).filter(|bridge| !bridge.is_empty());
            let flags = DelFlags {
                if_exists: request.if_exists,
                no_wait: request.no_wait,
            };
            let deleted = control.del_port(bridge, &request.name, flags)?;
            Ok(pb::DelPortResponse { deleted })
        })
        .await
    }

    async fn list_ports(
        &self,
        request: Request<pb::ListPortsRequest>,
    ) -> Result<Response<pb::ListPortsResponse>, Status> {
        let bridge = request.into_inner().bridge;
        let desired = self.control.desired();
        if desired.bridge(&bridge).is_none() {
            return Err(Status::not_found(format!("no bridge named {bridge}")));
        }
        let ports = desired.ports.into_iter();
        let mut names: Vec<_> = ports
            .filter(|port| port.bridge == bridge && !port.is_local())
            .map(|port| port.name)
            .collect();
        names.sort_unstable();
        Ok(Response::new(pb::ListPortsResponse { names }))
    }

    async fn port_to_bridge(
        &self,
        request: Request<pb::PortToBridgeRequest>,
    ) -> Result<Response<pb::PortToBridgeResponse>, Status> {
        let name = request.into_inner().port;
        match self.control.desired().port(&name) {
            Some(port) => Ok(Response::new(pb::PortToBridgeResponse {
                bridge: port.bridge.clone(),
            })),
            None => Err(Status::not_found(format!("no port named {name}"))),
        }
    }

    async fn show(
        &self,
        _request: Request<pb::ShowRequest>,
    ) -> Result<Response<pb::ShowResponse>, Status> {
        self.blocking(|control| Ok(control.show())).await
    }

    async fn watch(
        &self,
        _request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let control = Arc::clone(&self.control);
        let watchers = Arc::clone(&self.watchers);
        tokio::spawn(watchers.tell(control, self.stopping.clone(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fdb_show(
        &self,
        request: Request<pb::FdbShowRequest>,
    ) -> Result<Response<pb::FdbShowResponse>, Status> {
        let bridge = request.into_inner().bridge;
        self.blocking(move |control| {
            let mut entries = control.switch().fdb(&bridge).map_err(datapath_status)?;
            entries.sort_unstable_by_key(|entry| (entry.port, entry.vlan, entry.mac));
            Ok(pb::FdbShowResponse {
                entries: entries.iter().map(convert::fdb_entry_to_proto).collect(),
            })
        })
        .await
    }

    async fn fdb_flush(
        &self,
        request: Request<pb::FdbFlushRequest>,
    ) -> Result<Response<pb::FdbFlushResponse>, Status> {
        let bridge = request.into_inner().bridge;
        self.blocking(move |control| {
            let bridges = match bridge.is_empty() {
                true => {
                    let all = control.switch().bridges().into_iter();
                    all.map(|status| status.name).collect()
                }
                false => vec![bridge],
            };
            let mut forgotten = 0;
            for bridge in bridges {
                let flushed = control.switch().fdb_flush(&bridge);
                forgotten += flushed.map_err(datapath_status)? as u64;
            }
            Ok(pb::FdbFlushResponse { forgotten })
        })
        .await
    }

    async fn datapath_show(
        &self,
        _request: Request<pb::DatapathShowRequest>,
    ) -> Result<Response<pb::DatapathShowResponse>, Status> {
        self.blocking(|control| Ok(report::datapath(control.switch())))
            .await
    }

    async fn dump_ports(
        &self,
        request: Request<pb::DumpPortsRequest>,
    ) -> Result<Response<pb::DumpPortsResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |control| report::ports(control.switch(), &request))
            .await
    }

    async fn pmd_show(
        &self,
        _request: Request<pb::PmdShowRequest>,
    ) -> Result<Response<pb::PmdShowResponse>, Status> {
        self.blocking(|control| Ok(report::pmds(control.switch())))
            .await
    }

    async fn pmd_stats(
        &self,
        _request: Request<pb::PmdStatsRequest>,
    ) -> Result<Response<pb::PmdStatsResponse>, Status> {
        self.blocking(|control| Ok(report::pmd_stats(control.switch())))
            .await
    }

    async fn drops(
        &self,
        _request: Request<pb::DropsRequest>,
    ) -> Result<Response<pb::DropsResponse>, Status> {
        self.blocking(|control| Ok(report::drops(control.switch())))
            .await
    }

    async fn modify_flows(
        &self,
        request: Request<Streaming<pb::ModifyFlowsRequest>>,
    ) -> Result<Response<pb::ModifyFlowsResponse>, Status> {
        let (bridge, asked) = flow_requests::modify(request.into_inner()).await?;
        self.blocking(move |control| {
            let modified = control.modify_flows(&bridge, asked)?;
            Ok(flow_requests::modified(modified))
        })
        .await
    }

    async fn replace_flows(
        &self,
        request: Request<Streaming<pb::ReplaceFlowsRequest>>,
    ) -> Result<Response<pb::ModifyFlowsResponse>, Status> {
        let (bridge, file) = flow_requests::replace(request.into_inner()).await?;
        self.blocking(move |control| {
            let modified = control.replace_flows(&bridge, &file)?;
            Ok(flow_requests::modified(modified))
        })
        .await
    }

    async fn diff_flows(
        &self,
        request: Request<Streaming<pb::DiffFlowsRequest>>,
    ) -> Result<Response<Self::DiffFlowsStream>, Status> {
        let (first, second) = flow_requests::diff(request.into_inner()).await?;
        self.stream(
            move |control| Ok(control.diff_flows(&first, &second)?),
            |differences| pb::DiffFlowsResponse { differences },
            |difference| difference,
        )
        .await
    }

    async fn dump_flows(
        &self,
        request: Request<pb::DumpFlowsRequest>,
    ) -> Result<Response<Self::DumpFlowsStream>, Status> {
        let request = request.into_inner();
        let names = Arc::new(self.control.port_names(Some(&request.bridge)));
        let (by_name, to_print) = (request.names, Arc::clone(&names));
        self.stream(
            move |control| {
                let keys = request.sort.iter().map(SortKey::from_proto);
                let keys = keys
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(Status::invalid_argument)?;
                let filter = flow_text::read_filter(&request.filter, &names);
                let filter = filter.map_err(ChangeError::from)?;
                let rules = control.switch().rules(&request.bridge, &filter);
                let mut rules = rules.map_err(datapath_status)?;
                if !keys.is_empty() {
                    flow_report::sort(&mut rules, &keys);
                }
                Ok(rules)
            },
            |flows| pb::DumpFlowsResponse { flows },
            move |status| flow_report::flow(&status, &to_print, by_name),
        )
        .await
    }

    async fn dump_tables(
        &self,
        request: Request<pb::DumpTablesRequest>,
    ) -> Result<Response<pb::DumpTablesResponse>, Status> {
        let bridge = request.into_inner().bridge;
        self.blocking(move |control| {
            let tables = control.switch().tables(&bridge).map_err(datapath_status)?;
            Ok(pb::DumpTablesResponse {
                tables: tables.iter().map(flow_report::table).collect(),
            })
        })
        .await
    }

    async fn dump_groups(
        &self,
        request: Request<pb::DumpGroupsRequest>,
    ) -> Result<Response<Self::DumpGroupsStream>, Status> {
        let request = request.into_inner();
        let names = self.control.port_names(Some(&request.bridge));
        let by_name = request.names;
        self.stream(
            move |control| {
                let groups = control.switch().groups(&request.bridge);
                let groups = groups.map_err(datapath_status)?;
                only(groups, request.group, "group", &request.bridge, |g| {
                    g.spec.id
                })
            },
            |groups| pb::DumpGroupsResponse { groups },
            move |status| flow_report::group(&status, &names, by_name),
        )
        .await
    }

    async fn dump_meters(
        &self,
        request: Request<pb::DumpMetersRequest>,
    ) -> Result<Response<Self::DumpMetersStream>, Status> {
        let request = request.into_inner();
        self.stream(
            move |control| {
                let meters = control.switch().meters(&request.bridge);
                let meters = meters.map_err(datapath_status)?;
                only(meters, request.meter, "meter", &request.bridge, |m| {
                    m.spec.id
                })
            },
            |meters| pb::DumpMetersResponse { meters },
            |status| flow_report::meter(&status),
        )
        .await
    }

    async fn dump_megaflows(
        &self,
        request: Request<pb::DumpMegaflowsRequest>,
    ) -> Result<Response<Self::DumpMegaflowsStream>, Status> {
        let request = request.into_inner();
        let names = self.control.datapath_names();
        let by_name = request.names;
        self.stream(
            move |control| {
                let megaflows = flow_report::megaflows(control.switch(), &request.filter);
                megaflows.map_err(datapath_status)
            },
            |megaflows| pb::DumpMegaflowsResponse { megaflows },
            move |status| flow_report::megaflow(&status, &names, by_name),
        )
        .await
    }

    async fn flush_megaflows(
        &self,
        _request: Request<pb::FlushMegaflowsRequest>,
    ) -> Result<Response<pb::FlushMegaflowsResponse>, Status> {
        self.blocking(|control| {
            let flushed = control.switch().flush_megaflows();
            Ok(pb::FlushMegaflowsResponse { flushed })
        })
        .await
    }

    async fn trace(
        &self,
        request: Request<pb::TraceRequest>,
    ) -> Result<Response<pb::TraceResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |control| flow_requests::trace(control, &request))
            .await
    }

    async fn trace_next(
        &self,
        request: Request<pb::TraceNextRequest>,
    ) -> Result<Response<pb::TraceResponse>, Status> {
        let request = request.into_inner();
        let Ok(_place) = self.traces.try_acquire() else {
            let why = format!("{MOST_TRACES} traces wait for a packet already");
            return Err(Status::resource_exhausted(why));
        };
        let control = Arc::clone(&self.control);
        flow_requests::trace_next(control, self.stopping.clone(), request)
            .await
            .map(Response::new)
    }

    async fn packet_out(
        &self,
        request: Request<pb::PacketOutRequest>,
    ) -> Result<Response<pb::PacketOutResponse>, Status> {
        let pb::PacketOutRequest { bridge, text } = request.into_inner();
        self.blocking(move |control| {
            let names = control.names_of(&bridge)?;
            let PacketOut {
                in_port,
                frame,
                actions,
            } = packet_out::parse(&text, &names).map_err(ChangeError::from)?;
            let sent = (control.switch()).packet_out(&bridge, in_port, &actions, &frame);
            sent.map_err(datapath_status)?;
            Ok(pb::PacketOutResponse {})
        })
        .await
    }

    async fn packet_ins(
        &self,
        request: Request<pb::PacketInsRequest>,
    ) -> Result<Response<Self::PacketInsStream>, Status> {
        let request = request.into_inner();
        let packet_ins = Arc::clone(&self.packet_ins);
        let bridge = request.bridge.clone();
        let listening = self.blocking(move |control| {
            if !bridge.is_empty() {
                control.names_of(&bridge)?;
            }
            Ok(packet_ins.listen(control.switch()))
        });
        let events = listening.await?.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let control = Arc::clone(&self.control);
        let stopping = self.stopping.clone();
        tokio::spawn(flow_requests::tell_packet_ins(
            control, stopping, request, events, sender,
        ));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |control| apply_request::apply(control, request))
            .await
    }

    async fn get_switch(
        &self,
        _request: Request<pb::GetSwitchRequest>,
    ) -> Result<Response<pb::SwitchSpec>, Status> {
        let switch = self.control.switch_columns();
        Ok(Response::new(convert::switch_to_proto(&switch)))
    }

    async fn doctor(
        &self,
        _request: Request<pb::DoctorRequest>,
    ) -> Result<Response<pb::DoctorResponse>, Status> {
        self.blocking(|control| Ok(doctor::examine(&doctor::gather(control))))
            .await
    }

    async fn version(
        &self,
        _request: Request<pb::VersionRequest>,
    ) -> Result<Response<pb::VersionResponse>, Status> {
        self.blocking(|control| {
            Ok(pb::VersionResponse {
                ringwayd: env!("CARGO_PKG_VERSION").to_owned(),
                dpdk: control.switch().info().dpdk_version,
                protocol: ringway_proto::PROTOCOL.to_owned(),
            })
        })
        .await
    }
}
