//! The RPCs: each translates its request, asks the control plane or the
//! datapath on a thread that may block, and translates the answer.

use std::sync::Arc;
use std::time::Duration;

use ringway_datapath::DatapathError;
use ringway_proto::v1::{self as pb, ringway_server::Ringway};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};

use crate::control::{AddFlags, Added, ChangeError, Control, DelFlags};
use crate::convert;
use crate::report;
use crate::stop::Stopping;
use crate::switch::Switch;

/// How often `Watch` looks for port states that changed by themselves.
const WATCH_PERIOD: Duration = Duration::from_millis(200);

/// The `ringway.v1.Ringway` service.
pub struct Service<S> {
    control: Arc<Control<S>>,
    stopping: Stopping,
}

impl<S> Service<S> {
    /// A service over `control`; its streams end at `stopping`.
    pub fn new(control: Arc<Control<S>>, stopping: Stopping) -> Self {
        Self { control, stopping }
    }
}

impl From<ChangeError> for Status {
    fn from(error: ChangeError) -> Self {
        let (code, kept) = match &error {
            ChangeError::Invalid(_) => (Code::InvalidArgument, false),
            ChangeError::NotFound { .. } => (Code::NotFound, false),
            ChangeError::Exists { .. } => (Code::AlreadyExists, false),
            ChangeError::OtherBridge { creating: true, .. } => (Code::AlreadyExists, false),
            ChangeError::OtherBridge { .. } => (Code::FailedPrecondition, false),
            ChangeError::NotUp { .. } | ChangeError::NotGone { .. } => {
                (Code::FailedPrecondition, true)
            }
            ChangeError::State(_) => (Code::Internal, false),
        };
        let mut metadata = MetadataMap::new();
        if kept {
            metadata.insert(ringway_proto::KEPT_TRAILER, MetadataValue::from_static("1"));
        }
        Status::with_metadata(code, error.to_string(), metadata)
    }
}

fn datapath_status(error: DatapathError) -> Status {
    let code = match &error {
        DatapathError::Exists { .. } => Code::AlreadyExists,
        DatapathError::NotFound { .. } => Code::NotFound,
        DatapathError::BadOption { .. } => Code::InvalidArgument,
        DatapathError::Unavailable { .. } => Code::FailedPrecondition,
        DatapathError::NoMemory { .. } => Code::ResourceExhausted,
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
        match tokio::task::spawn_blocking(move || work(&control)).await {
            Ok(outcome) => outcome.map(Response::new),
            Err(error) => Err(Status::internal(format!("the request broke off: {error}"))),
        }
    }
}

#[tonic::async_trait]
impl<S: Switch> Ringway for Service<S> {
    type WatchStream = ReceiverStream<Result<pb::ShowResponse, Status>>;

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
        let mut names: Vec<_> = bridges.map(|bridge| bridge.name).collect();
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
            .filter(|port| port.bridge == bridge)
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
        tokio::spawn(watch_show(control, self.stopping.clone(), sender));
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
        let pb::DumpPortsRequest { bridge, port } = request.into_inner();
        self.blocking(move |control| report::ports(control.switch(), &bridge, &port))
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

/// Sends `Show`'s answer at once and whenever it has changed, until the reader
/// goes away or the daemon stops.
async fn watch_show<S: Switch>(
    control: Arc<Control<S>>,
    mut stopping: Stopping,
    sender: mpsc::Sender<Result<pb::ShowResponse, Status>>,
) {
    let mut changed = control.subscribe();
    let mut last = None;
    loop {
        let control = Arc::clone(&control);
        let Ok(now) = tokio::task::spawn_blocking(move || control.show()).await else {
            return;
        };
        if last.as_ref() != Some(&now) {
            if sender.send(Ok(now.clone())).await.is_err() {
                return;
            }
            last = Some(now);
        }
        tokio::select! {
            () = stopping.wait() => {
                let _ = sender.send(Err(Status::unavailable("ringwayd is stopping"))).await;
                return;
            }
            () = sender.closed() => return,
            outcome = changed.changed() => if outcome.is_err() { return },
            () = tokio::time::sleep(WATCH_PERIOD) => {}
        }
    }
}
