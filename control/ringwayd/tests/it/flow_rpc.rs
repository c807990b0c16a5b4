//! The RPCs about flows: what they do, which status they give, and what they
//! keep over a restart.

use std::time::Duration;

use ringway_datapath::flows::PacketIn;
use ringway_flow::action::{Action, Reason};
use ringway_proto::v1::{self as pb, FlowCommand, FlowFileKind};
use ringway_proto::{AT_TRAILER, LINE_TRAILER};
use tempfile::{TempDir, tempdir};
use tonic::{Code, Status};

use crate::daemon::Daemon;
use crate::fake::{Fake, Fault};

const FRAME: &str = "50540000000a505400000009080045000026000000004011ae6a0a0000010a000002\
                     0050005100120000deadbeefcafe0102030405";

/// br0 with vm1 (1), vm2 (2); br1 secure with p3 (3).
async fn start(dir: &TempDir) -> Daemon {
    let daemon = Daemon::start(dir).await;
    for line in [
        "add-br br0",
        "add-br br1 --fail-mode secure",
        "add-port br0 vm1 type=vhost-user path=/tmp/a",
        "add-port br0 vm2 type=vhost-user path=/tmp/b",
        "add-port br1 p3 type=dpdk devargs=net_null0",
    ] {
        daemon.ok(line).await;
    }
    daemon
}

fn changes(bridge: &str, changes: &[(FlowCommand, &str)]) -> pb::ModifyFlowsRequest {
    let change = |(command, text): &(FlowCommand, &str)| pb::FlowChange {
        command: (*command).into(),
        text: (*text).into(),
    };
    pb::ModifyFlowsRequest {
        bridge: bridge.into(),
        changes: changes.iter().map(change).collect(),
        ..Default::default()
    }
}

/// A file in pieces of so many bytes.
fn file(bridge: &str, kind: FlowFileKind, text: &str, piece: usize) -> Vec<pb::ModifyFlowsRequest> {
    let pieces = text.as_bytes().chunks(piece).enumerate();
    let request = |(index, piece): (usize, &[u8])| pb::ModifyFlowsRequest {
        bridge: if index == 0 {
            bridge.into()
        } else {
            String::new()
        },
        file_kind: kind.into(),
        file: String::from_utf8(piece.to_vec()).unwrap(),
        ..Default::default()
    };
    pieces.map(request).collect()
}

async fn modify(
    daemon: &mut Daemon,
    requests: Vec<pb::ModifyFlowsRequest>,
) -> Result<pb::ModifyFlowsResponse, Status> {
    let outcome = daemon.rpc.modify_flows(tokio_stream::iter(requests)).await;
    outcome.map(|answer| answer.into_inner())
}

async fn add(daemon: &mut Daemon, bridge: &str, flow: &str) {
    let request = changes(bridge, &[(FlowCommand::Add, flow)]);
    modify(daemon, vec![request]).await.unwrap();
}

/// The flows of a bridge as `priority match -> actions`.
async fn flows(daemon: &mut Daemon, bridge: &str) -> Vec<String> {
    let request = pb::DumpFlowsRequest {
        bridge: bridge.into(),
        names: true,
        ..Default::default()
    };
    let mut answers = daemon.rpc.dump_flows(request).await.unwrap().into_inner();
    let mut flows = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        flows.extend(answer.flows);
    }
    let told = |flow: pb::Flow| format!("{} {} -> {}", flow.priority, flow.r#match, flow.actions);
    flows.into_iter().map(told).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, telling: &str) -> Status {
    let status = outcome.expect_err("a refusal");
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(telling), "{}", status.message());
    status
}

fn trailer(status: &Status, name: &str) -> Option<u64> {
    let value = status.metadata().get(name)?.to_str().unwrap();
    Some(value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_made_all_or_none() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    assert_eq!(flows(&mut daemon, "br0").await, ["0  -> NORMAL"]);
    assert!(flows(&mut daemon, "br1").await.is_empty());
    let request = changes(
        "br0",
        &[
            (
                FlowCommand::AddMeter,
                "meter=1,kbps,bands=type=drop,rate=1000",
            ),
            (
                FlowCommand::AddGroup,
                "group_id=1,type=all,bucket=output:vm2",
            ),
            (
                FlowCommand::Add,
                "priority=5,in_port=vm1,actions=meter:1,group:1",
            ),
            (FlowCommand::Add, "priority=6,ip,actions=drop"),
            (FlowCommand::Modify, "ip,actions=output:vm2"),
            (FlowCommand::DeleteStrict, "priority=0"),
        ],
    );
    let done = modify(&mut daemon, vec![request]).await.unwrap();
    assert_eq!((done.added, done.modified, done.deleted), (2, 1, 1));
    let expected = ["6 ip -> output:vm2", "5 in_port=vm1 -> meter:1,group:1"];
    assert_eq!(flows(&mut daemon, "br0").await, expected);

    let before = daemon.journal();
    let bad = [
        (FlowCommand::Add, "arp,actions=drop"),
        (FlowCommand::Add, "udp,actions=drop"),
        (FlowCommand::Add, "priority=7,ip,actions=output:vm9"),
    ];
    let status = refused(
        modify(&mut daemon, vec![changes("br0", &bad)]).await,
        Code::InvalidArgument,
        "vm9",
    );
    assert_eq!(trailer(&status, LINE_TRAILER), Some(3));
    let at = trailer(&status, AT_TRAILER).unwrap() as usize;
    assert!(bad[2].1[at..].contains("vm9"), "{at}");
    let bad = [
        (FlowCommand::Add, "arp,actions=drop"),
        (FlowCommand::Add, "ip,actions=group:9"),
    ];
    let status = refused(
        modify(&mut daemon, vec![changes("br0", &bad)]).await,
        Code::FailedPrecondition,
        "OFPBAC_BAD_OUT_GROUP",
    );
    assert_eq!(trailer(&status, LINE_TRAILER), Some(2));
    assert_eq!(trailer(&status, AT_TRAILER), None);
    assert_eq!(flows(&mut daemon, "br0").await, expected);
    assert_eq!(daemon.journal(), before);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_meaning_are_refused() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    let before = daemon.journal();
    let drop_ip = [(FlowCommand::Add, "ip,actions=drop")];
    let file_of = |kind: i32| pb::ModifyFlowsRequest {
        bridge: "br0".into(),
        file_kind: kind,
        file: "ip,actions=drop".into(),
        ..Default::default()
    };
    let both = pb::ModifyFlowsRequest {
        changes: changes("br0", &drop_ip).changes,
        ..file_of(FlowFileKind::Flows.into())
    };
    let another = vec![changes("br0", &drop_ip), changes("br1", &drop_ip)];
    for (requests, code, telling) in [
        (
            vec![changes("br9", &drop_ip)],
            Code::NotFound,
            "no bridge named br9",
        ),
        (
            vec![changes("", &drop_ip)],
            Code::NotFound,
            "no bridge named",
        ),
        (vec![], Code::NotFound, "no bridge named"),
        (
            another,
            Code::InvalidArgument,
            "one request is about one bridge",
        ),
        (vec![file_of(0)], Code::InvalidArgument, "kind is not said"),
        (vec![file_of(77)], Code::InvalidArgument, "77"),
        (vec![both], Code::InvalidArgument, "not both"),
        (
            vec![changes(
                "br0",
                &[(FlowCommand::Unspecified, "ip,actions=drop")],
            )],
            Code::InvalidArgument,
            "not known",
        ),
        (
            // A port of another bridge.
            vec![changes(
                "br0",
                &[(FlowCommand::Add, "in_port=p3,actions=drop")],
            )],
            Code::InvalidArgument,
            "p3",
        ),
        (
            vec![changes("br0", &[(FlowCommand::DeleteGroups, "group=1")])],
            Code::InvalidArgument,
            "group_id",
        ),
        (
            vec![changes("br0", &[(FlowCommand::AddMeter, "meter=1,kbps")])],
            Code::InvalidArgument,
            "",
        ),
    ] {
        refused(modify(&mut daemon, requests).await, code, telling);
    }
    assert_eq!(daemon.journal(), before);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_100_000_lines_comes_in_pieces_and_goes_out_in_pieces() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    let flow = |n: u32| {
        let (high, low) = (n >> 8 & 255, n & 255);
        format!(
            "table={},priority=9,ip,nw_dst=10.0.{high}.{low},actions=output:vm2\n",
            n >> 16
        )
    };
    let mut text: String = (0..100_000).map(flow).collect();
    text.push_str("# the end\n\n");
    let requests = file("br1", FlowFileKind::Flows, &text, 100_000);
    // p3 is br1's, vm2 is not.
    let status = refused(
        modify(&mut daemon, requests).await,
        Code::InvalidArgument,
        "vm2",
    );
    assert_eq!(trailer(&status, LINE_TRAILER), Some(1));

    let done = modify(
        &mut daemon,
        file("br0", FlowFileKind::Flows, &text, 100_000),
    )
    .await;
    assert_eq!(done.unwrap().added, 100_000);
    assert_eq!(flows(&mut daemon, "br0").await.len(), 100_001);
    let shown = daemon
        .rpc
        .show(pb::ShowRequest {})
        .await
        .unwrap()
        .into_inner();
    let status = shown.bridges[0].flows.clone().unwrap();
    assert_eq!(status.desired.unwrap().flows, 100_001);
    assert!(!status.differs);

    // A fault far behind: nothing of it is taken over, and its line is told.
    let bad = text.replacen(
        "table=1,priority=9,ip,nw_dst=10.0.100.7,",
        "table=1,pie=9,",
        1,
    );
    let requests = file("br0", FlowFileKind::Flows, &bad, 100_000);
    let status = refused(
        modify(&mut daemon, requests).await,
        Code::InvalidArgument,
        "pie",
    );
    assert_eq!(trailer(&status, LINE_TRAILER), Some(65_536 + 25_607 + 1));
    assert_eq!(trailer(&status, AT_TRAILER), Some(8));

    // The same with one other flow: one is deleted, one added.
    let other = text.replacen("nw_dst=10.0.0.7,", "nw_dst=10.9.0.7,", 1);
    let pieces = other.as_bytes().chunks(1 << 20);
    let request = |piece: &[u8]| pb::ReplaceFlowsRequest {
        bridge: "br0".into(),
        file: String::from_utf8(piece.to_vec()).unwrap(),
    };
    let requests: Vec<_> = pieces.map(request).collect();
    daemon.fake.state().flow_calls.clear();
    let done = daemon.rpc.replace_flows(tokio_stream::iter(requests)).await;
    let done = done.unwrap().into_inner();
    assert_eq!(
        (done.added, done.modified, done.deleted),
        (1, 0, 2),
        "NORMAL goes too"
    );
    assert_eq!(daemon.fake.state().flow_calls, [("br0".to_owned(), 3)]);
    daemon.stop().await;

    let mut daemon = Daemon::start(&dir).await;
    assert_eq!(flows(&mut daemon, "br0").await.len(), 100_000);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_come_back_after_a_restart_with_their_ports_numbers() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    daemon
        .ok("add-port br0 vm7 type=vhost-user path=/tmp/c number=77")
        .await;
    daemon.ok("del-port vm1").await;
    add(
        &mut daemon,
        "br0",
        "priority=1,in_port=vm7,actions=output:vm2",
    )
    .await;
    let before = flows(&mut daemon, "br0").await;
    assert_eq!(before[0], "1 in_port=vm7 -> output:vm2");
    daemon.stop().await;

    // The bridge comes late, and its ports too.
    let fake = Fake::default();
    fake.fail("br0", Fault::Unavailable("no memory"));
    let mut daemon = Daemon::start_over(&dir, fake).await;
    let request = changes("br0", &[(FlowCommand::Add, "ip,actions=drop")]);
    let status = refused(
        modify(&mut daemon, vec![request]).await,
        Code::FailedPrecondition,
        "no memory",
    );
    assert!(
        status.message().contains("bridge br0 is not up"),
        "{status}"
    );
    let shown = daemon
        .rpc
        .show(pb::ShowRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        !shown.bridges[0].flows.as_ref().unwrap().differs,
        "the bridge is what differs"
    );
    daemon.fake.heal("br0");
    let wait = async {
        while daemon.fake.port_names().len() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap();
    assert_eq!(flows(&mut daemon, "br0").await, before);
    let numbers: Vec<_> = daemon
        .fake
        .state()
        .ports
        .values()
        .map(|p| (p.number, p.name.clone()))
        .collect();
    let expected = [
        (2, "vm2"),
        (3, "p3"),
        (77, "vm7"),
        (1022, "br1"),
        (1023, "br0"),
    ];
    assert_eq!(
        numbers,
        expected.map(|(number, name)| (number, name.to_owned()))
    );
    let added = daemon
        .json("add-port br0 vm8 type=vhost-user path=/tmp/d")
        .await;
    assert_eq!(added["number"], 1, "the lowest that is free");
    let printed = daemon
        .ringway("add-port br0 vm9 type=vhost-user path=/tmp/e number=77")
        .await;
    assert!(
        printed.err.contains("number 77 is port vm7's already"),
        "{printed:?}"
    );
    let printed = daemon
        .ringway("add-port br0 vm9 type=vhost-user path=/tmp/e number=1024")
        .await;
    assert!(
        printed
            .err
            .contains("number 1024 is not between 1 and 1023"),
        "{printed:?}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_of_an_older_state_file_get_their_first_flow_and_numbers() {
    let dir = tempdir().unwrap();
    let old = "version = 1
        [[bridge]]
        name = 'br0'
        [[bridge]]
        name = 'br1'
        fail-mode = 'secure'
        [[port]]
        name = 'p0'
        bridge = 'br0'
        type = 'dpdk'
        devargs = 'net_null0'
        [[port]]
        name = 'p1'
        bridge = 'br1'
        type = 'dpdk'
        devargs = 'net_null1'
        number = 1
    ";
    std::fs::write(dir.path().join("state.toml"), old).unwrap();
    let mut daemon = Daemon::start(&dir).await;
    assert_eq!(flows(&mut daemon, "br0").await, ["0  -> NORMAL"]);
    assert!(flows(&mut daemon, "br1").await.is_empty());
    let expected = "version 1\nbridge br0\nflow add table=0, priority=0 actions=NORMAL\n";
    assert!(
        daemon.journal().starts_with(expected),
        "{}",
        daemon.journal()
    );
    let numbers: Vec<_> = daemon
        .fake
        .state()
        .ports
        .values()
        .map(|p| p.name.clone())
        .collect();
    assert_eq!(numbers, ["p1", "p0", "br1", "br0"]);
    // Deleted flows stay deleted.
    let request = changes("br0", &[(FlowCommand::Delete, "")]);
    modify(&mut daemon, vec![request]).await.unwrap();
    daemon.stop().await;
    let mut daemon = Daemon::start(&dir).await;
    assert!(flows(&mut daemon, "br0").await.is_empty());
    // A new bridge of the same name begins anew.
    daemon.ok("del-br br0").await;
    assert!(daemon.journal().contains("bridge br0\nforget\n"));
    daemon.ok("add-br br0").await;
    assert_eq!(flows(&mut daemon, "br0").await, ["0  -> NORMAL"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_whose_time_has_come_is_gone_for_good() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    add(
        &mut daemon,
        "br1",
        "priority=3,hard_timeout=30,actions=drop",
    )
    .await;
    add(
        &mut daemon,
        "br1",
        "priority=2,idle_timeout=20,actions=drop",
    )
    .await;
    add(&mut daemon, "br1", "priority=1,actions=drop").await;
    daemon.fake.state().ahead = Duration::from_secs(25);
    let gone = |daemon: &Daemon, priority: u32| {
        daemon
            .journal()
            .contains(&format!("flow delete_strict table=0,priority={priority}\n"))
    };
    let wait = async {
        while !gone(&daemon, 2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap();
    assert!(!gone(&daemon, 3));
    assert_eq!(flows(&mut daemon, "br1").await.len(), 2);
    let shown = daemon
        .rpc
        .show(pb::ShowRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.differences, 0, "{shown:?}");
    daemon.stop().await;
    let mut daemon = Daemon::start(&dir).await;
    assert_eq!(
        flows(&mut daemon, "br1").await,
        ["3  -> drop", "1  -> drop"]
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_differ_are_shown_with_their_reason() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    add(&mut daemon, "br1", "in_port=p3,actions=drop").await;
    // Somebody takes it out of the datapath.
    let filter = ringway_flow::rule::FlowSpec::default();
    let delete =
        ringway_flow::rule::Change::Flow(ringway_flow::rule::FlowCommand::Delete, Box::new(filter));
    {
        let mut state = daemon.fake.state();
        state
            .tables
            .get_mut("br1")
            .unwrap()
            .apply(&[delete], 0)
            .unwrap();
    }
    let printed = daemon.ringway("show").await;
    assert_eq!(printed.code, 3);
    for telling in [
        "    Flows  (differs)\n        desired: 1 flow, 0 groups, 0 meters\n        actual:  0 flows,",
        "        reason:  the datapath has others than were asked for\n",
        "1 object differs",
    ] {
        assert!(printed.out.contains(telling), "{telling}\n{}", printed.out);
    }
    daemon.stop().await;

    // A journal whose flows the tables refuse.
    let path = dir.path().join("state.toml.flows");
    let journal = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        journal.replace("in_port=3 actions=drop", "actions=group:9"),
    )
    .unwrap();
    let mut daemon = Daemon::start(&dir).await;
    let printed = daemon.ringway("show").await;
    assert_eq!(printed.code, 3);
    assert!(
        printed.out.contains("desired: not known"),
        "{}",
        printed.out
    );
    assert!(
        printed.out.contains("line 8 cannot be done"),
        "{}",
        printed.out
    );
    let request = changes("br1", &[(FlowCommand::Add, "ip,actions=drop")]);
    refused(
        modify(&mut daemon, vec![request]).await,
        Code::FailedPrecondition,
        "line 8 cannot be done",
    );
    assert_eq!(
        flows(&mut daemon, "br0").await.len(),
        1,
        "other bridges go on"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_journal_cannot_be_written_nothing_changes() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br1 --fail-mode secure").await;
    let path = dir.path().join("state.toml.flows");
    std::fs::create_dir(&path).unwrap();
    let request = || vec![changes("br1", &[(FlowCommand::Add, "ip,actions=drop")])];
    let status = refused(
        modify(&mut daemon, request()).await,
        Code::Internal,
        "state.toml.flows cannot be written",
    );
    assert!(status.message().contains("as they were"));
    assert!(flows(&mut daemon, "br1").await.is_empty());
    std::fs::remove_dir(&path).unwrap();
    modify(&mut daemon, request()).await.unwrap();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_asked_and_waited_for() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    let trace = |bridge: &str, flow: &str, frame: &[u8]| pb::TraceRequest {
        bridge: bridge.into(),
        flow: flow.into(),
        frame: frame.to_vec(),
        generate: true,
    };
    let told = daemon.rpc.trace(trace("br0", "in_port=vm1,arp", &[])).await;
    let told = told.unwrap().into_inner().text;
    assert_eq!(told, "Flow: arp,in_port=1\nframe None generate true\n");
    let told = daemon.rpc.trace(trace("br0", "in_port=2", &[7; 14])).await;
    assert!(told.unwrap().into_inner().text.contains("frame Some([7, 7"));
    for (request, code, telling) in [
        (trace("br9", "arp", &[]), Code::NotFound, "br9"),
        (trace("br0", "arpp", &[]), Code::InvalidArgument, "arpp"),
        (trace("br0", "arp", &[1]), Code::InvalidArgument, "14 to"),
    ] {
        refused(daemon.rpc.trace(request).await, code, telling);
    }

    let next = |port: &str, matching: &str, ms| pb::TraceNextRequest {
        port: port.into(),
        r#match: matching.into(),
        timeout_ms: Some(ms),
    };
    daemon.fake.state().next_trace = Some("it was dropped".into());
    let told = daemon.rpc.trace_next(next("vm1", "arp", 10_000)).await;
    assert_eq!(told.unwrap().into_inner().text, "it was dropped");
    for (request, code, telling) in [
        (
            next("vm1", "arp", 50),
            Code::DeadlineExceeded,
            "arp fits came from port vm1",
        ),
        (next("vm9", "arp", 50), Code::NotFound, "no port named vm9"),
        (next("vm1", "foo", 50), Code::InvalidArgument, "foo"),
        (next("vm1", "", 3_600_001), Code::InvalidArgument, "3600000"),
    ] {
        refused(daemon.rpc.trace_next(request).await, code, telling);
    }
    // A daemon that stops keeps nobody waiting.
    let mut rpc = daemon.rpc.clone();
    let waiting = tokio::spawn(async move { rpc.trace_next(next("vm1", "", 60_000)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    daemon.stop().await;
    refused(waiting.await.unwrap(), Code::Unavailable, "stopping");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_for_controllers_reach_who_listens() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    let packet = |bridge: &str, last: u8| PacketIn {
        bridge: bridge.into(),
        in_port: 1,
        reason: Reason::InvalidTtl,
        table: 4,
        controller: 5,
        frame_len: 100,
        frame: vec![last; 14],
    };
    let push = |daemon: &Daemon, packet: PacketIn| daemon.fake.state().packet_ins.push(packet);
    // Before anybody listens.
    push(&daemon, packet("br0", 0));
    daemon.fake.state().packet_ins_lost = 50;
    let listen = |bridge: &str| pb::PacketInsRequest {
        bridge: bridge.into(),
    };
    refused(
        daemon.rpc.packet_ins(listen("br9")).await,
        Code::NotFound,
        "br9",
    );
    let mut all = daemon
        .rpc
        .packet_ins(listen(""))
        .await
        .unwrap()
        .into_inner();
    let mut of_br1 = daemon
        .rpc
        .packet_ins(listen("br1"))
        .await
        .unwrap()
        .into_inner();
    push(&daemon, packet("br0", 1));
    push(&daemon, packet("br1", 2));
    let got = all.message().await.unwrap().unwrap();
    assert_eq!(got.lost, 0);
    let got = got.packet.unwrap();
    assert_eq!(
        (got.bridge.as_str(), got.in_port_name.as_str()),
        ("br0", "vm1")
    );
    assert_eq!((got.table, got.controller, got.frame_length), (4, 5, 100));
    assert_eq!(got.reason(), pb::PacketInReason::InvalidTtl);
    assert_eq!(got.frame, [1; 14]);
    assert_eq!(
        all.message().await.unwrap().unwrap().packet.unwrap().frame,
        [2; 14]
    );
    let got = of_br1.message().await.unwrap().unwrap().packet.unwrap();
    assert_eq!(got.frame, [2; 14]);

    daemon.fake.state().packet_ins_lost = 53;
    let told = all.message().await.unwrap().unwrap();
    assert_eq!((told.lost, told.packet), (3, None));
    // Who is too slow is told what was lost for it.
    for _ in 0..3 {
        let many = (0..20_000).map(|_| packet("br1", 9));
        daemon.fake.state().packet_ins.extend(many);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut got, mut lost) = (0, 0);
    while got + lost < 60_000 {
        let told = of_br1.message().await.unwrap().unwrap();
        got += u64::from(told.packet.is_some());
        lost += told.lost;
    }
    assert!(lost >= 3, "{got} {lost}");
    daemon.stop().await;
    let end = async {
        loop {
            if let Err(status) = all.message().await {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(60), end)
        .await
        .unwrap();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_are_sent_through_actions() {
    let dir = tempdir().unwrap();
    let mut daemon = start(&dir).await;
    let request = |bridge: &str, text: String| pb::PacketOutRequest {
        bridge: bridge.into(),
        text,
    };
    let text = format!("in_port=vm1,packet={FRAME},actions=output:vm2,flood");
    daemon.rpc.packet_out(request("br0", text)).await.unwrap();
    let sent = std::mem::take(&mut daemon.fake.state().sent);
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (sent[0].0, &sent[0].1),
        (1, &vec![Action::Output(2), Action::Flood])
    );
    assert_eq!(sent[0].2.len(), 53);
    let text = |actions: &str| format!("in_port=1,packet={FRAME},actions={actions}");
    refused(
        daemon.rpc.packet_out(request("br9", text("drop"))).await,
        Code::NotFound,
        "br9",
    );
    let status = refused(
        daemon
            .rpc
            .packet_out(request("br0", text("output:vm9")))
            .await,
        Code::InvalidArgument,
        "vm9",
    );
    let at = trailer(&status, AT_TRAILER).unwrap() as usize;
    assert_eq!(text("output:vm9")[at..], *"vm9");
    assert!(daemon.fake.state().sent.is_empty());
    daemon.stop().await;
}

#[test]
fn a_packets_fields_are_summed_up_as_ovs_ofctl_does() {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digits).collect()
    };
    assert_eq!(
        ringwayd::flow_report::summary(&bytes(FRAME)),
        "udp,vlan_tci=0x0000,dl_src=50:54:00:00:00:09,dl_dst=50:54:00:00:00:0a,nw_src=10.0.0.1,\
         nw_dst=10.0.0.2,nw_tos=0,nw_ecn=0,nw_ttl=64,nw_frag=no,tp_src=80,tp_dst=81"
    );
}
