//! The gRPC server and the reconcile loop, until told to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ringway_proto::MAX_MESSAGE;
use ringway_proto::v1::ringway_server::RingwayServer;
use tokio::time::{Instant, MissedTickBehavior};

use crate::control::Control;
use crate::doors::{Doors, MOST_CONNECTIONS, TlsDoor, let_in, limited_server};
use crate::packet_ins::PacketIns;
use crate::reconcile::{FIRST_RETRY, Retry};
use crate::service::Service;
use crate::stop::{self, Stopping};
use crate::switch::Switch;
use crate::watch::Watchers;

/// How often flows are looked at whose time may have come.
const EXPIRY_PERIOD: Duration = Duration::from_millis(500);
/// How long open connections may hold up the end.
const GRACE: Duration = Duration::from_secs(1);

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket could not be handed to the runtime.
    #[error("control socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The server failed.
    #[error("gRPC server: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The protocol's description is damaged.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves until `stop` is ready. Brings up what is desired first, then calls
/// `ready`, then keeps actual and desired together.
pub async fn serve<S: Switch>(
    control: Arc<Control<S>>,
    doors: impl Into<Doors>,
    stop: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let doors: Doors = doors.into();
    let unix = tokio::net::UnixListener::from_std(doors.unix)?;
    let tls = doors.tls.map(TlsDoor::into_parts).transpose()?;
    let (stopper, stopping) = stop::channel();

    reconcile(&control, Retry::All).await;
    blocking(&control, |control| control.compact_flows(true)).await;
    let packet_ins = Arc::new(PacketIns::default());
    let reconciling = tokio::spawn(reconcile_loop(Arc::clone(&control), stopping.clone()));

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RingwayServer<Service<S>>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ringway_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let taking = {
        let (packet_ins, stopping) = (Arc::clone(&packet_ins), stopping.clone());
        let switch = control.shared_switch();
        tokio::spawn(async move { packet_ins.run(switch, stopping).await })
    };
    let watchers = Arc::new(Watchers::default());
    let watching = {
        let (watchers, stopping) = (Arc::clone(&watchers), stopping.clone());
        let control = Arc::clone(&control);
        tokio::spawn(async move { watchers.run(control, stopping).await })
    };
    let service = Service::new(control, packet_ins, watchers, stopping.clone());
    let service = RingwayServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let served_by = |mut server: tonic::transport::Server| {
        let router = server
            .add_service(service.clone())
            .add_service(health_service.clone())
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        Ok::<_, ServeError>(router)
    };
    let accepting = || {
        let mut stopping = stopping.clone();
        async move { stopping.wait().await }
    };
    let by_socket = served_by(limited_server())?
        .serve_with_incoming_shutdown(let_in(unix, MOST_CONNECTIONS), accepting());
    let by_tcp = match tls {
        None => None,
        Some((listener, tls)) => {
            let router = served_by(limited_server().tls_config(tls)?)?;
            let incoming = let_in(listener, MOST_CONNECTIONS);
            Some(router.serve_with_incoming_shutdown(incoming, accepting()))
        }
    };
    let server = async {
        let by_tcp = async {
            match by_tcp {
                Some(by_tcp) => by_tcp.await,
                None => Ok(()),
            }
        };
        tokio::try_join!(by_socket, by_tcp).map(|((), ())| ())
    };
    ready();

    let mut grace = stopping.clone();
    tokio::spawn(async move {
        stop.await;
        health.set_not_serving::<RingwayServer<Service<S>>>().await;
        stopper.stop();
    });
    tokio::select! {
        outcome = server => outcome?,
        () = async {
            grace.wait().await;
            tokio::time::sleep(GRACE).await;
        } => tracing::debug!("closing connections that are still open"),
    }
    // A pass under way ends before the datapath is stopped.
    let _ = reconciling.await;
    let _ = taking.await;
    let _ = watching.await;
    Ok(())
}

async fn reconcile<S: Switch>(control: &Arc<Control<S>>, retry: Retry) {
    blocking(control, move |control| control.reconcile(retry)).await;
}

/// Works on a thread that may block.
async fn blocking<S: Switch>(
    control: &Arc<Control<S>>,
    work: impl FnOnce(&Control<S>) + Send + 'static,
) {
    let control = Arc::clone(control);
    if let Err(error) = tokio::task::spawn_blocking(move || work(&control)).await {
        tracing::error!("a reconcile pass broke off: {error}");
    }
}

async fn reconcile_loop<S: Switch>(control: Arc<Control<S>>, mut stopping: Stopping) {
    let every = |period| tokio::time::interval_at(Instant::now() + period, period);
    let (mut passes, mut expiries) = (every(FIRST_RETRY), every(EXPIRY_PERIOD));
    passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    expiries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let retry = tokio::select! {
            () = stopping.wait() => return,
            retry = control.woken() => retry,
            _ = passes.tick() => Retry::Due,
            _ = expiries.tick() => {
                blocking(&control, |control| {
                    control.expire_flows();
                    control.compact_flows(false);
                })
                .await;
                continue;
            }
        };
        reconcile(&control, retry).await;
    }
}
