//! The verbs about flows against a daemon: what they do, and the forms of their
//! answers.

use std::time::Duration;

use clap::Parser;
use ringway_datapath::flows::{MegaflowStatus, PacketIn};
use ringway_flow::action::Reason;
use ringway_flow::field::Field;
use ringway_flow::key::FlowKey;
use ringway_flow::program::{DpAction, Program};
use tempfile::{TempDir, tempdir};
use tokio::sync::oneshot;

use crate::daemon::Daemon;
use crate::verbs::Until;

/// br0, secure, with vm1 (1) and vm2 (2).
async fn start(dir: &TempDir) -> Daemon {
    let daemon = Daemon::start(dir).await;
    for line in [
        "add-br br0 --fail-mode secure",
        "add-port br0 vm1 type=vhost-user path=/tmp/a",
        "add-port br0 vm2 type=vhost-user path=/tmp/b",
    ] {
        daemon.ok(line).await;
    }
    daemon
}

fn file(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn bare(daemon: &Daemon) -> String {
    daemon.ok("dump-flows br0 --no-stats").await
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_added_modified_deleted_and_printed() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    assert_eq!(daemon.ok("dump-flows br0").await, "");
    for flow in [
        "priority=10,in_port=vm1,ip,nw_src=10.0.0.0/8,idle_timeout=60,cookie=0x12,actions=output:vm2",
        "priority=5,arp,actions=flood",
        "table=3,actions=NORMAL",
    ] {
        assert_eq!(daemon.ok(&format!("add-flow br0 {flow}")).await, "");
    }
    assert_eq!(
        bare(&daemon).await,
        " cookie=0x12, idle_timeout=60, priority=10,ip,in_port=1,nw_src=10.0.0.0/8 actions=output:2
 priority=5,arp actions=FLOOD
 table=3, actions=NORMAL
"
    );
    let named = daemon.ok("dump-flows br0 ip --no-stats --names").await;
    assert_eq!(
        named,
        " cookie=0x12, idle_timeout=60, priority=10,ip,in_port=vm1,nw_src=10.0.0.0/8 actions=output:vm2\n"
    );
    let counted = daemon.ok("dump-flows br0 table=3").await;
    let duration = counted.split(", ").nth(1).unwrap();
    assert!(
        duration.starts_with("duration=") && duration.ends_with('s'),
        "{counted}"
    );
    let rest = counted.replace(&format!("{duration}, "), "");
    assert_eq!(
        rest,
        " cookie=0x0, table=3, n_packets=0, n_bytes=0, actions=NORMAL\n"
    );

    let json = daemon.json("dump-flows br0 out_port=vm2").await;
    let flow = &json["flows"][0];
    assert_eq!((&flow["table"], &flow["priority"]), (&0.into(), &10.into()));
    assert_eq!(
        (&flow["cookie"], &flow["idle_timeout"]),
        (&18.into(), &60.into())
    );
    assert_eq!(flow["match"], "ip,in_port=1,nw_src=10.0.0.0/8");
    assert_eq!(flow["actions"], "output:2");
    assert_eq!(json["flows"].as_array().unwrap().len(), 1);
    let none = daemon.json("dump-flows br0 table=9").await;
    assert_eq!(none["flows"], serde_json::json!([]));

    assert_eq!(
        daemon.json("mod-flows br0 arp,actions=drop").await["modified"],
        1
    );
    let strict = daemon
        .json("mod-flows br0 --strict priority=5,arp,actions=in_port")
        .await;
    assert_eq!(
        (&strict["modified"], &strict["added"]),
        (&1.into(), &0.into())
    );
    assert_eq!(daemon.json("del-flows br0 table=3").await["deleted"], 1);
    assert_eq!(
        daemon.json("del-flows --strict br0 priority=6,arp").await["deleted"],
        0
    );
    assert_eq!(
        daemon.json("del-flows --strict br0 priority=5,arp").await["deleted"],
        1
    );
    assert_eq!(daemon.ok("del-flows br0").await, "");
    assert_eq!(bare(&daemon).await, "");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_sorted_as_asked() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    for flow in [
        "priority=3,ip,nw_src=10.0.0.2,actions=drop",
        "priority=1,ip,nw_src=10.0.0.9,actions=drop",
        "priority=2,arp,actions=drop",
        "table=1,priority=3,ip,nw_src=10.0.0.1,actions=drop",
    ] {
        daemon.ok(&format!("add-flow br0 {flow}")).await;
    }
    for (flags, expected) in [
        (
            "",
            [
                "3,ip,nw_src=10.0.0.2",
                "2,arp",
                "1,ip,nw_src=10.0.0.9",
                "3,ip,nw_src=10.0.0.1",
            ],
        ),
        (
            "--sort",
            [
                "1,ip,nw_src=10.0.0.9",
                "2,arp",
                "3,ip,nw_src=10.0.0.2",
                "3,ip,nw_src=10.0.0.1",
            ],
        ),
        (
            "--rsort=priority --rsort=nw_src",
            [
                "3,ip,nw_src=10.0.0.2",
                "3,ip,nw_src=10.0.0.1",
                "2,arp",
                "1,ip,nw_src=10.0.0.9",
            ],
        ),
        (
            "--sort=nw_src",
            [
                "3,ip,nw_src=10.0.0.1",
                "3,ip,nw_src=10.0.0.2",
                "1,ip,nw_src=10.0.0.9",
                "2,arp",
            ],
        ),
        (
            "--rsort=nw_src",
            [
                "2,arp",
                "1,ip,nw_src=10.0.0.9",
                "3,ip,nw_src=10.0.0.2",
                "3,ip,nw_src=10.0.0.1",
            ],
        ),
    ] {
        let text = daemon
            .ok(&format!("dump-flows br0 --no-stats {flags}"))
            .await;
        let found: Vec<_> = text
            .lines()
            .map(|line| {
                line.split("priority=")
                    .nth(1)
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
            })
            .collect();
        assert_eq!(found, expected, "{flags}");
    }
    let printed = daemon.ringway("dump-flows br0 --sort=foo").await;
    assert_eq!(printed.code, 1);
    assert!(
        printed.err.contains("\"foo\" is no field to sort by"),
        "{printed:?}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_taken_whole_or_not_at_all() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    let path = file(
        &dir,
        "flows.txt",
        "# two\npriority=1,ip,actions=drop # one\n\nadd priority=2,arp,actions=drop\nmodify arp,actions=vm1\n",
    );
    assert_eq!(
        daemon.json(&format!("add-flows br0 {path}")).await["added"],
        2
    );
    assert_eq!(
        bare(&daemon).await,
        " priority=2,arp actions=output:1\n priority=1,ip actions=drop\n"
    );

    let path = file(
        &dir,
        "bad.txt",
        "ip,actions=drop\n\n  priority=3,tp_dst=foo,actions=drop\n",
    );
    let printed = daemon.ringway(&format!("add-flows br0 {path}")).await;
    assert_eq!(printed.code, 1);
    let lines: Vec<_> = printed.err.lines().collect();
    assert!(
        lines[0].starts_with("ringway: line 3, byte "),
        "{}",
        printed.err
    );
    let shown = lines
        .iter()
        .position(|line| line.contains("priority=3,tp_dst=foo"))
        .unwrap();
    let caret = lines[shown + 1].find('^').unwrap();
    assert!(lines[shown][caret..].starts_with("foo"), "{}", printed.err);
    let printed = daemon
        .ringway(&format!("--json add-flows br0 {path}"))
        .await;
    let error: serde_json::Value = serde_json::from_str(&printed.err).unwrap();
    assert_eq!(error["error"]["code"], "INVALID_ARGUMENT");
    assert_eq!(
        (&error["error"]["line"], &error["error"]["at"]),
        (&3.into(), &20.into())
    );

    let path = file(
        &dir,
        "state.txt",
        "# x\nip,actions=drop\nip,actions=group:4\n",
    );
    let printed = daemon.ringway(&format!("add-flows br0 {path}")).await;
    assert_eq!(printed.code, 1);
    assert!(printed.err.contains("line 3: "), "{}", printed.err);
    assert_eq!(bare(&daemon).await.lines().count(), 2);
    let printed = daemon.ringway("add-flows br0 /no/such/file").await;
    assert_eq!(printed.code, 1);
    assert!(
        printed.err.contains("/no/such/file cannot be read"),
        "{printed:?}"
    );

    let printed = daemon
        .words(&["add-flow", "br0", "priority=3, arp, actions=outpu:3"])
        .await;
    let lines: Vec<_> = printed.err.lines().collect();
    assert_eq!(printed.code, 1);
    let caret = lines[2].find('^').unwrap();
    assert!(lines[1][caret..].starts_with("outpu"), "{}", printed.err);
    // A field without its prerequisite is left out, and that is told.
    let printed = daemon
        .ringway("add-flow br0 priority=9,tp_dst=80,actions=drop")
        .await;
    assert_eq!((printed.code, printed.out.as_str()), (0, ""));
    assert!(
        printed.err.starts_with("ringway: warning: normalization"),
        "{printed:?}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_change_flows_groups_and_meters_together() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    let path = file(
        &dir,
        "bundle.txt",
        "meter add meter=3,pktps,bands=type=drop,rate=5
group add group_id=9,type=all,bucket=output:vm1
group group_id=8,type=indirect,bucket=output:vm2
flow add priority=50,actions=meter:3,group:9
flow priority=51,ip,actions=drop
flow delete ip
group delete group_id=8
",
    );
    assert_eq!(daemon.json(&format!("bundle br0 {path}")).await["added"], 2);
    assert_eq!(
        bare(&daemon).await,
        " priority=50 actions=meter:3,group:9\n"
    );
    let groups = daemon.json("dump-groups br0").await;
    assert_eq!(groups["groups"].as_array().unwrap().len(), 1);
    for (line, number, at) in [
        ("group add group_id=9,type=foo,bucket=output:1", 2, "foo"),
        ("meter add meter=4,kbps,bands=type=drip,rate=1", 2, "drip"),
        ("flow add priority=5,actions=fool", 2, "fool"),
        (
            "packet-out in_port=1,packet=00,actions=drop",
            2,
            "packet-out",
        ),
    ] {
        let path = file(
            &dir,
            "bad.txt",
            &format!("flow add arp,actions=drop\n{line}\n"),
        );
        let printed = daemon.ringway(&format!("--json bundle br0 {path}")).await;
        let error: serde_json::Value = serde_json::from_str(&printed.err).unwrap();
        let error = &error["error"];
        assert_eq!(
            (printed.code, &error["line"]),
            (1, &number.into()),
            "{error}"
        );
        let place = error["at"].as_u64().unwrap() as usize;
        assert!(line[place..].contains(at), "{line}: {error}");
    }
    assert_eq!(bare(&daemon).await.lines().count(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_compared_and_replaced() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    daemon.ok("add-br br1").await;
    // The files and the answer are ovs-ofctl 3.1's.
    let one = file(
        &dir,
        "a.txt",
        "table=0,priority=10,in_port=1,actions=output:2
priority=5,ip,idle_timeout=4,cookie=0x5,actions=drop
table=2,tcp,tp_dst=80,actions=drop
",
    );
    let path = file(
        &dir,
        "first.txt",
        "priority=10,ip,in_port=1,nw_src=10.0.0.0/8,cookie=0x12,idle_timeout=60,hard_timeout=100,actions=output:2
table=3,actions=NORMAL
",
    );
    daemon.ok(&format!("add-flows br0 {path}")).await;
    let printed = daemon.ringway(&format!("diff-flows br0 {one}")).await;
    assert_eq!((printed.code, printed.err.as_str()), (2, ""));
    let mut lines: Vec<_> = printed.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "+priority=10,in_port=1 actions=output:2",
            "+priority=5,ip cookie=0x5 idle_timeout=4 actions=drop",
            "+table=2 tcp,tp_dst=80 actions=drop",
            "-priority=10,ip,in_port=1,nw_src=10.0.0.0/8 cookie=0x12 idle_timeout=60 \
             hard_timeout=100 actions=output:2",
            "-table=3  actions=NORMAL",
        ]
    );
    let done = daemon.json(&format!("replace-flows br0 {one}")).await;
    assert_eq!((&done["added"], &done["deleted"]), (&3.into(), &2.into()));
    assert_eq!(daemon.ok(&format!("diff-flows {one} br0")).await, "");
    let done = daemon.json(&format!("replace-flows br0 {one}")).await;
    assert_eq!(
        (&done["added"], &done["deleted"]),
        (&0.into(), &0.into()),
        "all stay"
    );
    // Only what is otherwise is added anew.
    let other = file(
        &dir,
        "b.txt",
        "in_port=vm1,priority=10,actions=vm2\npriority=5,ip,idle_timeout=5,cookie=0x5,actions=drop\n",
    );
    let printed = daemon
        .ringway(&format!("--json diff-flows {one} {other}"))
        .await;
    assert_eq!(printed.code, 2);
    let json: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    let sides: Vec<_> = json["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| &d["side"])
        .collect();
    assert_eq!(sides, ["first", "second", "first"]);
    let done = daemon.json(&format!("replace-flows br0 {other}")).await;
    assert_eq!((&done["added"], &done["deleted"]), (&1.into(), &1.into()));
    let printed = daemon.ringway("diff-flows br0 br1").await;
    assert_eq!(printed.code, 2);
    assert!(
        printed.out.contains("+priority=0 actions=NORMAL\n"),
        "{}",
        printed.out
    );
    let printed = daemon.ringway("diff-flows br0 nowhere").await;
    assert_eq!(printed.code, 1);
    assert!(
        printed
            .err
            .contains("neither a bridge nor a file named nowhere"),
        "{printed:?}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_meters_have_their_verbs() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    daemon
        .ok("add-group br0 group_id=1,type=select,bucket=weight:50,output:vm1,bucket=weight:50,output:2")
        .await;
    let printed = daemon
        .ringway("add-group br0 group_id=1,type=all,bucket=output:1")
        .await;
    assert!(printed.err.contains("OFPGMFC_GROUP_EXISTS"), "{printed:?}");
    let printed = daemon
        .ringway("mod-group br0 group_id=2,type=all,bucket=output:1")
        .await;
    assert!(printed.err.contains("OFPGMFC_UNKNOWN_GROUP"), "{printed:?}");
    daemon
        .ok("mod-group br0 --may-create group_id=2,type=all,bucket=output:1")
        .await;
    let path = file(
        &dir,
        "groups.txt",
        "group_id=3,type=all,bucket=output:1\ndelete group_id=2\n",
    );
    daemon.ok(&format!("add-groups br0 {path}")).await;
    let printed = daemon.ringway(&format!("add-groups br0 {path}")).await;
    assert!(printed.err.contains("line 1: "), "{printed:?}");
    assert_eq!(
        daemon.ok("dump-groups br0").await,
        "NXST_GROUP_DESC reply (xid=0x2):
 group_id=1,type=select,bucket=bucket_id:0,weight:50,actions=output:1,bucket=bucket_id:1,weight:50,actions=output:2
 group_id=3,type=all,bucket=bucket_id:0,actions=output:1
"
    );
    assert!(
        daemon
            .ok("dump-groups br0 3 --names")
            .await
            .contains("actions=output:vm1\n")
    );
    assert_eq!(
        daemon.ok("dump-group-stats br0 group_id=1").await,
        "NXST_GROUP reply (xid=0x2):
 group_id=1,duration=0s,packet_count=0,byte_count=0,bucket0:packet_count=0,byte_count=0,bucket1:packet_count=0,byte_count=0
"
    );
    let printed = daemon.ringway("dump-groups br0 7").await;
    assert!(
        printed.err.contains("bridge br0 has no group 7"),
        "{printed:?}"
    );
    let printed = daemon.ringway("dump-groups br0 x").await;
    assert_eq!(printed.code, 2, "{printed:?}");
    daemon.ok("del-groups br0 group_id=1").await;
    daemon.ok("del-groups br0").await;
    assert_eq!(
        daemon.json("dump-groups br0").await["groups"],
        serde_json::json!([])
    );

    daemon
        .ok("add-meter br0 meter=1,kbps,burst,stats,bands=type=drop,rate=1000,burst_size=100")
        .await;
    daemon
        .ok("add-meter br0 meter=2,pktps,bands=type=drop,rate=10")
        .await;
    daemon
        .ok("mod-meter br0 meter=2,pktps,bands=type=drop,rate=1000")
        .await;
    assert_eq!(
        daemon.ok("dump-meters br0").await,
        "OFPST_METER_CONFIG reply (OF1.3) (xid=0x2):
meter=1 kbps burst stats bands=
type=drop rate=1000 burst_size=100

meter=2 pktps bands=
type=drop rate=1000
"
    );
    assert_eq!(
        daemon.ok("meter-stats br0 meter=2").await,
        "OFPST_METER reply (OF1.3) (xid=0x2):
meter:2 flow_count:0 packet_in_count:9 byte_in_count:900 duration:0.012s bands:
0: packet_count:4 byte_count:400
"
    );
    daemon.ok("del-meters br0 2").await;
    assert_eq!(
        daemon.json("dump-meters br0").await["meters"][0]["burst"],
        100
    );
    daemon.ok("del-meter br0").await;
    assert_eq!(
        daemon.json("dump-meters br0").await["meters"],
        serde_json::json!([])
    );
    daemon.ok("add-flow br0 table=1,ip,actions=drop").await;
    let tables = daemon.ok("dump-tables br0").await;
    assert!(
        tables.contains("  table 1:\n    active=1, lookup=0, matched=0\n"),
        "{tables}"
    );
    assert_eq!(
        daemon.json("dump-tables br0").await["tables"][0]["table"],
        1
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn megaflows_are_printed_as_ovs_dpctl_does() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    daemon.ok("add-br br1").await;
    let megaflow = |bridge: &str, core, port: u16, used| {
        let mut key = FlowKey::default();
        let mut mask = FlowKey::default();
        for (field, value) in [(Field::InPort, port.into()), (Field::EthType, 0x0806)] {
            field.set(&mut key, value);
            field.set(&mut mask, u128::MAX);
        }
        let mut program = Program::default();
        program.push(DpAction::Output(2)).unwrap();
        MegaflowStatus {
            bridge: bridge.into(),
            core,
            key: key.packet(),
            mask: mask.packet(),
            program: program.words().to_vec(),
            packets: 3,
            bytes: 294,
            used,
        }
    };
    let used = Some(Duration::from_millis(1_234));
    daemon.fake.state().megaflows = vec![
        megaflow("br1", 2, 7, None),
        megaflow("br0", 1, 1, used),
        megaflow("br0", 2, 2, used),
    ];
    assert_eq!(
        daemon.ok("dpctl dump-flows").await,
        "flow-dump from pmd on cpu core: 1
recirc_id(0),in_port(1),packet_type(ns=0,id=0),eth_type(0x0806), packets:3, bytes:294, used:1.234s, actions:2
flow-dump from pmd on cpu core: 2
recirc_id(0),in_port(2),packet_type(ns=0,id=0),eth_type(0x0806), packets:3, bytes:294, used:1.234s, actions:2
recirc_id(0),in_port(7),packet_type(ns=0,id=0),eth_type(0x0806), packets:3, bytes:294, used:never, actions:2
"
    );
    let named = daemon.ok("dpctl dump-flows --names vm1").await;
    assert_eq!(named.lines().count(), 2);
    assert!(
        named.contains("in_port(vm1)") && named.contains("actions:vm2\n"),
        "{named}"
    );
    assert_eq!(daemon.ok("dpctl dump-flows br0").await.lines().count(), 4);
    let json = daemon.json("dpctl dump-flows br1").await;
    assert_eq!(json["megaflows"][0]["used_ms"], serde_json::Value::Null);
    assert_eq!(json["megaflows"].as_array().unwrap().len(), 1);
    let printed = daemon.ringway("dpctl dump-flows vm9").await;
    assert!(
        printed.err.contains("no bridge or port named vm9"),
        "{printed:?}"
    );
    assert_eq!(daemon.json("dpctl del-flows").await["flushed"], 3);
    assert_eq!(daemon.ok("dpctl del-flows").await, "");
    assert_eq!(daemon.ok("dpctl dump-flows").await, "");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_packets_have_their_verbs() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    let frame = "50540000000a5054000000090806";
    let told = daemon.ok("trace br0 in_port=vm1,arp").await;
    assert_eq!(told, "Flow: arp,in_port=1\nframe None generate false\n");
    let told = daemon
        .ok(&format!("trace br0 in_port=vm1 -generate {frame}"))
        .await;
    assert!(
        told.contains("frame Some([80, 84, 0") && told.contains("generate true"),
        "{told}"
    );
    assert!(
        daemon.json("trace br0 arp").await["trace"]
            .as_str()
            .unwrap()
            .starts_with("Flow")
    );
    daemon.fake.state().next_trace = Some("it went on".into());
    assert_eq!(
        daemon.ok("trace --port vm1 --next arp").await,
        "it went on\n"
    );
    let printed = daemon
        .ringway("--json trace --port vm1 --next --timeout 0.05")
        .await;
    let error: serde_json::Value = serde_json::from_str(&printed.err).unwrap();
    assert_eq!(
        (printed.code, &error["error"]["code"]),
        (1, &"DEADLINE_EXCEEDED".into())
    );
    for line in [
        "trace br0 arp 0g",
        "trace br0 arp 012",
        "trace --port vm1 --next --timeout -1",
    ] {
        let socket = daemon.socket();
        let words = ["ringway", "--socket", socket.to_str().unwrap()];
        let words = words.into_iter().chain(line.split(' '));
        let code = match ringway::cli::Cli::try_parse_from(words) {
            Ok(cli) => ringway::run(&cli, &mut Vec::new(), &mut Vec::new()).await,
            Err(_) => 2,
        };
        assert_eq!(code, 2, "{line}");
    }

    daemon
        .ok(&format!(
            "packet-out br0 in_port=vm1,packet={frame},actions=vm2"
        ))
        .await;
    daemon
        .ok(&format!("packet-out br0 LOCAL vm1 {frame} {frame}"))
        .await;
    let sent = std::mem::take(&mut daemon.fake.state().sent);
    let ports: Vec<_> = sent.iter().map(|(in_port, ..)| *in_port).collect();
    assert_eq!(ports, [1, 0xfffe, 0xfffe]);
    let printed = daemon.ringway("packet-out br0 1 2").await;
    assert_eq!(printed.code, 2, "{printed:?}");
    let printed = daemon
        .ringway("packet-out br0 in_port=1,packet=00,actions=2")
        .await;
    assert!(
        printed.err.contains("byte 10: a packet has 14 to"),
        "{printed:?}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_prints_packets_until_the_daemon_stops() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    let socket = daemon.socket();
    let words = [
        "ringway",
        "--socket",
        socket.to_str().unwrap(),
        "monitor",
        "br0",
        "65534",
    ];
    let cli = ringway::cli::Cli::try_parse_from(words).unwrap();
    let (sender, printed) = oneshot::channel();
    let (mut out, mut err) = (Until::new("|ABCDEFGHIJKL..", sender), Vec::new());
    let push = async {
        // Until it listens, packets are nobody's.
        let again = async {
            loop {
                daemon.fake.state().packet_ins.push(PacketIn {
                    bridge: "br0".into(),
                    in_port: 2,
                    reason: Reason::Action,
                    table: 0,
                    controller: 0,
                    frame_len: 60,
                    frame: b"ABCDEFGHIJKL\x08\x06".to_vec(),
                });
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = again => {}
            outcome = printed => outcome.unwrap(),
        }
        daemon.stop().await;
    };
    let (code, ()) = tokio::join!(ringway::run(&cli, &mut out, &mut err), push);
    assert_eq!(code, 1);
    let text = out.text();
    let expected = "NXT_PACKET_IN2 (xid=0x0): total_len=60 in_port=2 (via action) data_len=14 \
                    (unbuffered)\narp,";
    assert!(text.starts_with(expected), "{text}");
    assert!(
        String::from_utf8(err)
            .unwrap()
            .contains("ringwayd is stopping")
    );
}
