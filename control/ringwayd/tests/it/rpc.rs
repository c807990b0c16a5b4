//! The RPCs over a unix socket: what they do and which status they give.

use std::time::Duration;

use ringway_datapath::status::PortState;
use ringway_proto::KEPT_TRAILER;
use ringway_proto::v1::{self as pb, port_spec::Kind};
use tempfile::tempdir;
use tokio_stream::{StreamExt, once};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::daemon::Daemon;
use crate::fake::Fault;

fn bridge(name: &str) -> pb::AddBridgeRequest {
    pb::AddBridgeRequest {
        bridge: Some(pb::BridgeSpec {
            name: name.into(),
            no_internal: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn port(bridge: &str, name: &str, kind: Kind) -> pb::AddPortRequest {
    pb::AddPortRequest {
        port: Some(pb::PortSpec {
            name: name.into(),
            bridge: bridge.into(),
            kind: Some(kind),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn vhost(change: impl FnOnce(&mut pb::VhostUserSpec)) -> Kind {
    let mut spec = pb::VhostUserSpec::default();
    change(&mut spec);
    Kind::VhostUser(spec)
}

fn dpdk() -> Kind {
    Kind::Dpdk(pb::DpdkSpec {
        devargs: "net_null0".into(),
        ..Default::default()
    })
}

fn del_port(bridge: &str, name: &str) -> pb::DelPortRequest {
    pb::DelPortRequest {
        name: name.into(),
        bridge: bridge.into(),
        ..Default::default()
    }
}

fn del_bridge(name: &str) -> pb::DelBridgeRequest {
    pb::DelBridgeRequest {
        name: name.into(),
        ..Default::default()
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, telling: &str) -> Status {
    let status = outcome.expect_err("a refusal");
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(telling), "{}", status.message());
    status
}

fn is_kept(status: &Status) -> bool {
    status.metadata().contains_key(KEPT_TRAILER)
}

async fn show(daemon: &mut Daemon) -> pb::ShowResponse {
    let shown = daemon.rpc.show(pb::ShowRequest {}).await;
    shown.unwrap().into_inner()
}

/// Waits, for a test machine's slowness only, until `show` says so.
async fn until(daemon: &mut Daemon, wanted: impl Fn(&pb::ShowResponse) -> bool) {
    let mut stream = daemon
        .rpc
        .watch(pb::WatchRequest {})
        .await
        .unwrap()
        .into_inner();
    let wait = async { while !wanted(&stream.message().await.unwrap().unwrap()) {} };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("in a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_come_and_go() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    let done = daemon
        .rpc
        .add_bridge(bridge("br0"))
        .await
        .unwrap()
        .into_inner();
    assert!(done.created && daemon.state_file().contains("br0"));
    refused(
        daemon.rpc.add_bridge(bridge("br0")).await,
        Code::AlreadyExists,
        "--may-exist",
    );

    let mut again = bridge("br0");
    again.may_exist = true;
    let done = daemon
        .rpc
        .add_bridge(again.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(!done.created && done.warnings.is_empty());
    again
        .bridge
        .as_mut()
        .unwrap()
        .set_fail_mode(pb::FailMode::Secure);
    let done = daemon.rpc.add_bridge(again).await.unwrap().into_inner();
    assert!(!done.created && done.warnings[0].contains("keeps its options"));

    let before = daemon.state_file();
    for bad in ["", "-br", "b r", "bräu", "a/b", &"x".repeat(65)] {
        refused(
            daemon.rpc.add_bridge(bridge(bad)).await,
            Code::InvalidArgument,
            "not allowed",
        );
    }
    let mut odd = bridge("br1");
    odd.bridge.as_mut().unwrap().fail_mode = 77;
    refused(
        daemon.rpc.add_bridge(odd).await,
        Code::InvalidArgument,
        "77",
    );
    refused(
        daemon.rpc.add_bridge(pb::AddBridgeRequest::default()).await,
        Code::InvalidArgument,
        "not allowed",
    );
    assert_eq!(daemon.state_file(), before);

    refused(
        daemon.rpc.del_bridge(del_bridge("br9")).await,
        Code::NotFound,
        "br9",
    );
    let mut gone = del_bridge("br9");
    gone.if_exists = true;
    assert!(
        !daemon
            .rpc
            .del_bridge(gone)
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    daemon
        .rpc
        .add_port(port("br0", "p0", dpdk()))
        .await
        .unwrap();
    assert!(
        daemon
            .rpc
            .del_bridge(del_bridge("br0"))
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    assert!(show(&mut daemon).await.bridges.is_empty());
    assert!(
        !daemon.state_file().contains("p0"),
        "the ports go with their bridge"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_come_and_go() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    for name in ["br0", "br1"] {
        daemon.rpc.add_bridge(bridge(name)).await.unwrap();
    }
    let added = daemon.rpc.add_port(port("br0", "vm1", vhost(|_| ()))).await;
    let added = added.unwrap().into_inner();
    assert!(added.created && added.number == 1);
    let added = daemon.rpc.add_port(port("br1", "p0", dpdk())).await;
    assert_eq!(added.unwrap().into_inner().number, 2);

    refused(
        daemon.rpc.add_port(port("br0", "vm1", vhost(|_| ()))).await,
        Code::AlreadyExists,
        "a port of that name",
    );
    refused(
        daemon.rpc.add_port(port("br0", "br1", vhost(|_| ()))).await,
        Code::AlreadyExists,
        "a bridge of that name",
    );
    refused(
        daemon.rpc.add_bridge(bridge("vm1")).await,
        Code::AlreadyExists,
        "a port",
    );

    let mut again = port("br0", "vm1", vhost(|_| ()));
    again.may_exist = true;
    let done = daemon
        .rpc
        .add_port(again.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(!done.created && done.number == 1 && done.warnings.is_empty());
    again.port.as_mut().unwrap().kind = Some(vhost(|spec| spec.queues = Some(4)));
    let done = daemon
        .rpc
        .add_port(again.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(!done.created && done.warnings[0].contains("keeps its options"));
    again.port.as_mut().unwrap().bridge = "br1".into();
    refused(
        daemon.rpc.add_port(again).await,
        Code::AlreadyExists,
        "on bridge br0, not on br1",
    );

    refused(
        daemon.rpc.del_port(del_port("", "no")).await,
        Code::NotFound,
        "no port named no",
    );
    refused(
        daemon.rpc.del_port(del_port("br9", "vm1")).await,
        Code::NotFound,
        "br9",
    );
    let mut wrong = del_port("br1", "vm1");
    wrong.if_exists = true;
    let status = refused(
        daemon.rpc.del_port(wrong).await,
        Code::FailedPrecondition,
        "br0",
    );
    assert!(!is_kept(&status), "nothing was changed");
    let mut missing = del_port("br1", "no");
    missing.if_exists = true;
    assert!(
        !daemon
            .rpc
            .del_port(missing)
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    assert!(
        daemon
            .rpc
            .del_port(del_port("br0", "vm1"))
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    assert!(
        daemon
            .rpc
            .del_port(del_port("", "p0"))
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    assert!(daemon.fake.port_names().is_empty());
    assert!(!daemon.state_file().contains("[[port]]"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_ports_are_refused_and_change_nothing() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    daemon.rpc.add_bridge(bridge("br0")).await.unwrap();
    let taken = vhost(|spec| spec.path = "/tmp/taken.sock".into());
    daemon
        .rpc
        .add_port(port("br0", "vm0", taken.clone()))
        .await
        .unwrap();
    let (before, calls) = (daemon.state_file(), daemon.fake.calls());
    assert_eq!(calls, ["add_bridge br0", "add_port vm0"]);
    daemon
        .fake
        .fail("odd", Fault::BadOption("queues: the NIC has two"));

    let own_socket = daemon.socket().to_str().unwrap().to_owned();
    let long = format!("/{}", "x".repeat(107));
    let cases: Vec<(&str, Kind, &str)> = vec![
        ("v m", dpdk(), "not allowed"),
        (
            "vm1",
            vhost(|spec| spec.path = "vm1.sock".into()),
            "not absolute",
        ),
        ("vm1", vhost(|spec| spec.path = long), "108 bytes"),
        (
            "vm1",
            vhost(|spec| spec.path = "/".into()),
            "does not name a socket",
        ),
        (
            "vm1",
            vhost(|spec| spec.path = own_socket),
            "own control socket",
        ),
        ("vm1", taken, "port vm0's already"),
        ("vm1", vhost(|spec| spec.mode = 9), "mode number 9"),
        ("vm1", vhost(|spec| spec.queues = Some(0)), "queues 0"),
        (
            "vm1",
            vhost(|spec| spec.queues = Some(129)),
            "between 1 and 128",
        ),
        ("vm1", vhost(|spec| spec.queues = Some(65_537)), "too large"),
        (
            "vm1",
            vhost(|spec| spec.permissions = Some(0o1777)),
            "above 0777",
        ),
        (
            "vm1",
            vhost(|spec| spec.owner = "no-such-user".into()),
            "no user",
        ),
        (
            "vm1",
            vhost(|spec| spec.owner = "a:b:c".into()),
            "USER[:GROUP]",
        ),
        (
            "vm1",
            vhost(|spec| {
                spec.set_mode(pb::SocketMode::Client);
                spec.permissions = Some(0o660);
            }),
            "for mode=server",
        ),
        (
            "p0",
            Kind::Dpdk(pb::DpdkSpec::default()),
            "devargs is missing",
        ),
        ("odd", dpdk(), "the NIC has two"),
    ];
    for (name, kind, telling) in cases {
        let outcome = daemon.rpc.add_port(port("br0", name, kind)).await;
        let status = refused(outcome, Code::InvalidArgument, telling);
        assert!(!is_kept(&status), "{telling}");
        assert_eq!(daemon.state_file(), before, "{telling}");
    }
    let mut untyped = port("br0", "p0", dpdk());
    untyped.port.as_mut().unwrap().kind = None;
    refused(
        daemon.rpc.add_port(untyped).await,
        Code::InvalidArgument,
        "the type is missing",
    );
    refused(
        daemon.rpc.add_port(port("br9", "p0", dpdk())).await,
        Code::NotFound,
        "br9",
    );
    assert_eq!(daemon.state_file(), before);
    let shown = show(&mut daemon).await;
    assert_eq!((shown.bridges[0].ports.len(), shown.differences), (1, 0));
    assert_eq!(
        daemon.fake.calls(),
        ["add_port odd"],
        "the rest never reached the datapath"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_come_later_is_kept_and_comes() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    daemon.rpc.add_bridge(bridge("br0")).await.unwrap();
    daemon
        .fake
        .fail("p0", Fault::Unavailable("no such device; is it bound?"));
    let outcome = daemon.rpc.add_port(port("br0", "p0", dpdk())).await;
    let status = refused(
        outcome,
        Code::FailedPrecondition,
        "no such device; is it bound?",
    );
    assert!(is_kept(&status) && status.message().contains("ringway del-port p0"));
    assert!(daemon.state_file().contains("p0"));

    let shown = show(&mut daemon).await;
    assert_eq!(shown.differences, 1);
    let absent = &shown.bridges[0].ports[0];
    assert!(absent.actual.is_none() && absent.differs && absent.since_unix_ms > 0);
    assert_eq!(absent.reason, "no such device; is it bound?");

    let mut again = port("br0", "p0", dpdk());
    again.may_exist = true;
    let status = refused(
        daemon.rpc.add_port(again).await,
        Code::FailedPrecondition,
        "no such",
    );
    assert!(is_kept(&status));

    daemon.fake.heal("p0");
    until(&mut daemon, |shown| shown.differences == 0).await;
    assert_eq!(daemon.fake.port_names(), ["p0"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wait_answers_before_the_datapath() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    daemon.fake.fail("br0", Fault::Unavailable("no memory"));
    let mut unwaited = bridge("br0");
    unwaited.no_wait = true;
    daemon.rpc.add_bridge(unwaited).await.unwrap();
    let mut unwaited = port("br0", "p0", dpdk());
    unwaited.no_wait = true;
    let done = daemon.rpc.add_port(unwaited).await.unwrap().into_inner();
    assert!(done.created && done.number == 0);
    until(&mut daemon, |shown| {
        shown.differences == 2 && shown.bridges[0].reason == "no memory"
    })
    .await;
    daemon.fake.heal("br0");
    until(&mut daemon, |shown| shown.differences == 0).await;

    let mut unwaited = del_port("br0", "p0");
    unwaited.no_wait = true;
    assert!(
        daemon
            .rpc
            .del_port(unwaited)
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    until(&mut daemon, |shown| shown.bridges[0].ports.is_empty()).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_not_go_is_told_and_goes_later() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    daemon.rpc.add_bridge(bridge("br0")).await.unwrap();
    daemon
        .rpc
        .add_port(port("br0", "p0", dpdk()))
        .await
        .unwrap();
    daemon.fake.fail("p0", Fault::Unavailable("still in use"));
    let outcome = daemon.rpc.del_port(del_port("", "p0")).await;
    let status = refused(outcome, Code::FailedPrecondition, "still in use");
    assert!(is_kept(&status) && !daemon.state_file().contains("p0"));
    let shown = show(&mut daemon).await;
    let surplus = &shown.bridges[0].ports[0];
    assert!(surplus.desired.is_none() && surplus.differs, "{surplus:?}");
    assert!(surplus.reason.contains("still in use"), "{surplus:?}");
    daemon.fake.heal("p0");
    until(&mut daemon, |shown| shown.bridges[0].ports.is_empty()).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_state_file_cannot_be_written_nothing_changes() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    daemon.rpc.add_bridge(bridge("br0")).await.unwrap();
    // A directory in the draft's place: the file cannot be replaced.
    std::fs::create_dir(dir.path().join(".state.toml.new")).unwrap();
    daemon.fake.calls();
    refused(
        daemon.rpc.add_bridge(bridge("br1")).await,
        Code::Internal,
        "cannot be written",
    );
    refused(
        daemon.rpc.add_port(port("br0", "p0", dpdk())).await,
        Code::Internal,
        "state.toml",
    );
    refused(
        daemon.rpc.del_bridge(del_bridge("br0")).await,
        Code::Internal,
        "as it was",
    );
    assert!(daemon.fake.calls().is_empty());
    let shown = show(&mut daemon).await;
    assert_eq!((shown.bridges.len(), shown.differences), (1, 0));

    std::fs::remove_dir(dir.path().join(".state.toml.new")).unwrap();
    daemon.rpc.add_bridge(bridge("br1")).await.unwrap();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desired_state_survives_a_restart() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    daemon.rpc.add_bridge(bridge("br0")).await.unwrap();
    let spec = vhost(|spec| {
        spec.queues = Some(2);
        spec.owner = "0:0".into();
        spec.permissions = Some(0o600);
    });
    daemon.rpc.add_port(port("br0", "vm1", spec)).await.unwrap();
    daemon
        .rpc
        .add_port(port("br0", "p0", dpdk()))
        .await
        .unwrap();
    let before: Vec<_> = show(&mut daemon).await.bridges[0]
        .ports
        .iter()
        .map(|port| port.desired.clone())
        .collect();
    daemon.stop().await;
    assert!(!dir.path().join("control.sock").exists());

    let fake = crate::fake::Fake::default();
    fake.fail("vm1", Fault::Unavailable("directory is missing"));
    let mut daemon = Daemon::start_over(&dir, fake).await;
    assert_eq!(
        daemon.fake.port_names(),
        ["p0"],
        "what can be is up before ready"
    );
    let shown = show(&mut daemon).await;
    let after: Vec<_> = shown.bridges[0]
        .ports
        .iter()
        .map(|port| port.desired.clone())
        .collect();
    assert_eq!(after, before);
    assert_eq!(shown.differences, 1);
    daemon.fake.heal("vm1");
    until(&mut daemon, |shown| shown.differences == 0).await;
    let state = daemon.fake.state().specs["vm1"].clone();
    let ringway_datapath::spec::PortKind::VhostUser(spec) = state.kind else {
        panic!("{state:?}")
    };
    assert_eq!(
        (spec.queues, spec.owner, spec.permissions),
        (2, Some((0, 0)), Some(0o600))
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_tells_changes_and_ends_with_the_daemon() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    let mut stream = daemon
        .rpc
        .watch(pb::WatchRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(stream.message().await.unwrap().unwrap().bridges.is_empty());
    daemon.rpc.add_bridge(bridge("br0")).await.unwrap();
    daemon
        .rpc
        .add_port(port("br0", "p0", dpdk()))
        .await
        .unwrap();
    let forwards = |shown: &pb::ShowResponse| {
        let ports = shown.bridges.iter().flat_map(|bridge| &bridge.ports);
        ports
            .flat_map(|port| &port.actual)
            .any(|actual| actual.state_name == "forwarding")
    };
    while !forwards(&stream.message().await.unwrap().unwrap()) {}
    // A state that changes by itself, without any request.
    let why = "avail index jumped".to_owned();
    daemon
        .fake
        .set_port("p0", |port| port.state = PortState::Quarantined { why });
    let shown = stream.message().await.unwrap().unwrap();
    assert_eq!(shown.differences, 1);
    assert_eq!(shown.bridges[0].ports[0].reason, "avail index jumped");

    daemon.stop().await;
    let end = stream.message().await;
    refused(end, Code::Unavailable, "stopping");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_listed_in_order() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    for name in ["br1", "br0"] {
        daemon.rpc.add_bridge(bridge(name)).await.unwrap();
    }
    for (on, name) in [("br0", "z"), ("br1", "m"), ("br0", "a")] {
        daemon.rpc.add_port(port(on, name, dpdk())).await.unwrap();
    }
    let listed = daemon
        .rpc
        .list_bridges(pb::ListBridgesRequest {})
        .await
        .unwrap();
    assert_eq!(listed.into_inner().names, ["br0", "br1"]);
    let ports = |bridge: &str| pb::ListPortsRequest {
        bridge: bridge.into(),
    };
    let listed = daemon.rpc.list_ports(ports("br0")).await.unwrap();
    assert_eq!(listed.into_inner().names, ["a", "z"]);
    refused(
        daemon.rpc.list_ports(ports("a")).await,
        Code::NotFound,
        "no bridge named a",
    );
    let of = |port: &str| pb::PortToBridgeRequest { port: port.into() };
    let found = daemon.rpc.port_to_bridge(of("m")).await.unwrap();
    assert_eq!(found.into_inner().bridge, "br1");
    refused(
        daemon.rpc.port_to_bridge(of("br0")).await,
        Code::NotFound,
        "no port named br0",
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_what_is_not_there_are_not_found() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    daemon.rpc.add_bridge(bridge("br0")).await.unwrap();
    let fdb = |bridge: &str| pb::FdbShowRequest {
        bridge: bridge.into(),
    };
    assert!(
        daemon
            .rpc
            .fdb_show(fdb("br0"))
            .await
            .unwrap()
            .into_inner()
            .entries
            .is_empty()
    );
    refused(daemon.rpc.fdb_show(fdb("br9")).await, Code::NotFound, "br9");
    let flush = |bridge: &str| pb::FdbFlushRequest {
        bridge: bridge.into(),
    };
    refused(
        daemon.rpc.fdb_flush(flush("br9")).await,
        Code::NotFound,
        "br9",
    );
    let dump = |bridge: &str, port: &str| pb::DumpPortsRequest {
        bridge: bridge.into(),
        port: port.into(),
        detail: false,
    };
    assert!(
        daemon
            .rpc
            .dump_ports(dump("", ""))
            .await
            .unwrap()
            .into_inner()
            .ports
            .is_empty()
    );
    refused(
        daemon.rpc.dump_ports(dump("br9", "")).await,
        Code::NotFound,
        "br9",
    );
    refused(
        daemon.rpc.dump_ports(dump("br0", "no")).await,
        Code::NotFound,
        "bridge br0",
    );
    refused(
        daemon.rpc.dump_ports(dump("", "no")).await,
        Code::NotFound,
        "no port named no",
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    let path = daemon.socket();
    let channel = tonic::transport::Endpoint::from_shared(format!("unix:{}", path.display()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let request = HealthCheckRequest {
        service: "ringway.v1.Ringway".into(),
    };
    let health = HealthClient::new(channel.clone())
        .check(request)
        .await
        .unwrap();
    assert_eq!(health.into_inner().status().as_str_name(), "SERVING");

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection
        .server_reflection_info(once(ask))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for wanted in ["ringway.v1.Ringway", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == wanted), "{names:?}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_from_many_clients_come_one_after_another() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    let adding = (0..20).map(|n| {
        let mut rpc = daemon.rpc.clone();
        tokio::spawn(async move {
            // Half of them want the same name: one may have it.
            let name = format!("br{}", if n % 2 == 0 { 100 } else { n });
            rpc.add_bridge(bridge(&name))
                .await
                .map_err(|status| status.code())
        })
    });
    let mut refusals = 0;
    for task in adding.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(_) => {}
            Err(code) => {
                assert_eq!(code, Code::AlreadyExists);
                refusals += 1;
            }
        }
    }
    assert_eq!(refusals, 9);
    assert_eq!(daemon.state_file().matches("[[bridge]]").count(), 11);
    assert_eq!(daemon.fake.state().bridges.len(), 11);
    daemon.stop().await;
}
