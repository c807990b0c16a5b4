//! `Apply`: several changes, all or none; options that change under traffic.

use proptest::prelude::*;
use ringway_proto::v1::{self as pb, desired_change::Change, port_spec::Kind};
use ringwayd::model::Desired;
use ringwayd::state;
use tempfile::{TempDir, tempdir};
use tonic::{Code, Status};

use crate::daemon::Daemon;
use crate::fake::{Fake, Fault};

fn bridge(name: &str) -> pb::BridgeSpec {
    pb::BridgeSpec {
        name: name.into(),
        ..Default::default()
    }
}

fn add_bridge(name: &str) -> Change {
    Change::AddBridge(pb::AddBridgeRequest {
        bridge: Some(bridge(name)),
        ..Default::default()
    })
}

fn del_bridge(name: &str) -> Change {
    Change::DelBridge(pb::DelBridgeRequest {
        name: name.into(),
        ..Default::default()
    })
}

fn port(bridge: &str, name: &str) -> pb::PortSpec {
    pb::PortSpec {
        name: name.into(),
        bridge: bridge.into(),
        kind: Some(Kind::Dpdk(pb::DpdkSpec {
            devargs: "net_null0".into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn add_port(bridge: &str, name: &str) -> Change {
    Change::AddPort(pb::AddPortRequest {
        port: Some(port(bridge, name)),
        ..Default::default()
    })
}

fn del_port(name: &str) -> Change {
    Change::DelPort(pb::DelPortRequest {
        name: name.into(),
        ..Default::default()
    })
}

async fn apply(daemon: &mut Daemon, changes: Vec<Change>) -> Result<pb::ApplyResponse, Status> {
    let some = |change| pb::DesiredChange {
        change: Some(change),
    };
    let request = pb::ApplyRequest {
        changes: changes.into_iter().map(some).collect(),
        no_wait: false,
    };
    Ok(daemon.rpc.apply(request).await?.into_inner())
}

#[track_caller]
fn refused(outcome: Result<pb::ApplyResponse, Status>, code: Code, line: u32, telling: &str) {
    let status = outcome.expect_err("a refusal");
    let message = status.message();
    assert_eq!(status.code(), code, "{message}");
    assert!(message.contains(telling), "{telling:?} not in {message:?}");
    let told = status.metadata().get(ringway_proto::LINE_TRAILER);
    let told = told.expect("the number of the change").to_str().unwrap();
    assert_eq!(told, line.to_string(), "{message}");
}

/// br0 with its own interface and p0.
async fn one_port(dir: &TempDir) -> Daemon {
    let mut daemon = Daemon::start(dir).await;
    let changes = vec![add_bridge("br0"), add_port("br0", "p0")];
    let done = apply(&mut daemon, changes).await.unwrap();
    assert_eq!(done.numbers["p0"], 1);
    assert!(done.warnings.is_empty(), "{done:?}");
    let calls = ["add_bridge br0", "add_port br0", "add_port p0"];
    assert_eq!(daemon.fake.calls(), calls);
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn later_changes_stand_on_earlier_ones() {
    let dir = tempdir().unwrap();
    let mut daemon = one_port(&dir).await;
    let changes = vec![
        del_port("p0"),
        add_bridge("br1"),
        add_port("br1", "p0"),
        add_port("br1", "p1"),
    ];
    let done = apply(&mut daemon, changes).await.unwrap();
    assert_eq!((done.numbers["p0"], done.numbers["p1"]), (1, 2));
    assert_eq!(daemon.ok("list-ports br1").await, "p0\np1\n");
    assert_eq!(daemon.ok("port-to-br p0").await, "br1\n");
    let calls = [
        "del_port p0",
        "add_bridge br1",
        "add_port br1",
        "add_port p0",
        "add_port p1",
    ];
    assert_eq!(daemon.fake.calls(), calls, "what goes goes first");
    daemon.ok("show").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_undoes_those_before_it() {
    let dir = tempdir().unwrap();
    let mut daemon = one_port(&dir).await;
    let before = daemon.state_file();
    let cases = [
        (
            vec![add_bridge("br1"), add_port("br9", "p1")],
            Code::NotFound,
            2,
            "change 2: no bridge",
        ),
        (
            vec![add_bridge("br1"), add_bridge("br1")],
            Code::AlreadyExists,
            2,
            "br1",
        ),
        (
            vec![del_port("p0"), del_port("p0")],
            Code::NotFound,
            2,
            "no port named p0",
        ),
        (
            vec![del_port("br0"), del_bridge("br0")],
            Code::FailedPrecondition,
            1,
            "local port",
        ),
        (
            vec![add_bridge("a b")],
            Code::InvalidArgument,
            1,
            "not allowed",
        ),
        (
            vec![add_port("br0", "p1"), Change::SetPort(port("br0", "p2"))],
            Code::NotFound,
            2,
            "no port named p2",
        ),
    ];
    for (changes, code, line, telling) in cases {
        refused(apply(&mut daemon, changes).await, code, line, telling);
        assert_eq!(daemon.state_file(), before, "{telling}");
    }
    let nothing = pb::ApplyRequest {
        changes: vec![pb::DesiredChange { change: None }],
        no_wait: false,
    };
    let status = daemon.rpc.apply(nothing).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(daemon.fake.calls(), [""; 0], "nothing reached the datapath");

    // What only the datapath knows to have no meaning.
    daemon
        .fake
        .fail("p2", Fault::BadOption("the NIC has one queue"));
    let changes = vec![
        del_port("p0"),
        add_bridge("br1"),
        add_port("br1", "p1"),
        add_port("br1", "p2"),
    ];
    let outcome = apply(&mut daemon, changes).await;
    refused(outcome, Code::InvalidArgument, 4, "the NIC has one queue");
    assert_eq!(daemon.state_file(), before);
    let mut names = daemon.fake.port_names();
    names.sort_unstable();
    assert_eq!(names, ["br0", "p0"], "the datapath is as before too");
    daemon.ok("show").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_come_later_is_kept_and_the_rest_is_made() {
    let dir = tempdir().unwrap();
    let mut daemon = one_port(&dir).await;
    daemon.fake.fail("p1", Fault::Unavailable("no such device"));
    daemon.fake.fail("p2", Fault::Unavailable("in use"));
    let changes = vec![
        add_port("br0", "p1"),
        add_port("br0", "p2"),
        add_port("br0", "p3"),
    ];
    let outcome = apply(&mut daemon, changes).await;
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.metadata().contains_key(ringway_proto::KEPT_TRAILER));
    for telling in [
        "port p1 is not up: no such device",
        "port p2 is not up: in use",
    ] {
        assert!(status.message().contains(telling), "{}", status.message());
    }
    assert!(daemon.fake.port_names().contains(&"p3".to_owned()));
    assert_eq!(daemon.ringway("show").await.code, 3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_deleted_and_added_again_keeps_its_flows() {
    let dir = tempdir().unwrap();
    let mut daemon = one_port(&dir).await;
    daemon.ok("add-flow br0 priority=7,ip,actions=drop").await;
    let changes = vec![del_bridge("br0"), add_bridge("br0"), add_port("br0", "p0")];
    apply(&mut daemon, changes).await.unwrap();
    assert_eq!(
        daemon.fake.calls(),
        [""; 0],
        "before and after are the same"
    );
    let flows = daemon.ok("dump-flows br0 --no-stats").await;
    assert!(flows.contains("priority=7"), "{flows}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_change_under_traffic_where_they_can() {
    let dir = tempdir().unwrap();
    let daemon = one_port(&dir).await;
    daemon.ok("set-port p0 tag=7 mtu=1500").await;
    assert_eq!(daemon.fake.calls(), ["set_port p0"]);
    let told = daemon.fake.state().specs["p0"].clone();
    assert_eq!(
        (told.vlan.tag, told.mtu, told.number),
        (Some(7), Some(1500), Some(1))
    );
    let text = "type=dpdk devargs=net_null0 n_rxq=1 mtu=1500 tag=7 number=1\n";
    assert!(daemon.ok("show").await.contains(text));
    assert!(daemon.state_file().contains("tag = 7\n"));

    daemon.ok("set-port p0 external_ids:iface-id=x").await;
    assert_eq!(daemon.fake.calls(), [""; 0], "nothing for the datapath");
    assert!(daemon.state_file().contains("iface-id = \"x\""));
    daemon.ok("set-port p0 tag= mtu=").await;
    assert!(
        !daemon.state_file().contains("tag"),
        "{}",
        daemon.state_file()
    );
    assert_eq!(daemon.fake.calls(), ["set_port p0"]);
    assert_eq!(daemon.fake.state().specs["p0"].mtu, None);

    daemon
        .ok("set-port p0 allowed_macs=02:00:00:00:00:01 storm_pps=100 max_macs=2")
        .await;
    assert_eq!(daemon.fake.calls(), ["set_port p0"]);
    let guard = daemon.fake.state().specs["p0"].guard.clone();
    assert_eq!(guard.allowed_macs, [[2, 0, 0, 0, 0, 1]]);
    assert_eq!((guard.storm.rate, guard.max_macs), (100, Some(2)));
    let text = " allowed_macs=02:00:00:00:00:01 max_macs=2 storm_pps=100 number=1 ";
    assert!(daemon.ok("show").await.contains(text));
    assert!(daemon.state_file().contains("storm_pps = 100\n"));
    daemon
        .ok("set-port p0 allowed_macs= storm_pps= max_macs=")
        .await;
    assert_eq!(daemon.fake.calls(), ["set_port p0"]);
    assert!(!daemon.state_file().contains("storm"));

    daemon.ok("set-port p0 n_rxq=2").await;
    assert_eq!(daemon.fake.calls(), ["del_port p0", "add_port p0"]);
    daemon.ok("set-port br0 mac=02:00:00:00:00:01").await;
    let calls = daemon.fake.calls();
    assert_eq!(calls[0], "set_port br0", "the datapath is asked first");
    let printed = daemon.ringway("set-port p0 type=patch peer=q0").await;
    assert_eq!(printed.code, 0, "{printed:?}");

    for (line, code, telling) in [
        ("set-port p9 tag=1", 1, "no port named p9"),
        ("set-port p0 speed=9", 2, "not known for type=patch"),
        ("set-port p0 number=7", 1, "its number is 1, which stays"),
        ("set-port p0 mtu=10", 1, "mtu 10 is not between 68"),
        ("set-port p0 max_macs=0", 1, "max_macs=0"),
        ("set-port p0 storm_burst=9", 1, "storm_pps"),
        ("set-port p0 allowed_ips=10.0.0.1/8", 2, "10.0.0.0/8"),
        ("set-port br0 type=tap", 1, "its bridge's own interface"),
        ("set-br br9 fail_mode=secure", 1, "no bridge named br9"),
        ("set-br br0 fdb_limit=0", 1, "fdb-limit 0"),
        ("set-br br0 speed=0", 2, "not known for a bridge"),
    ] {
        let before = daemon.state_file();
        let printed = daemon.ringway(line).await;
        assert_eq!(printed.code, code, "{line}: {printed:?}");
        assert!(printed.err.contains(telling), "{line}: {}", printed.err);
        assert_eq!(daemon.state_file(), before, "{line}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_option_that_cannot_be_had_now_is_shown() {
    let dir = tempdir().unwrap();
    let daemon = one_port(&dir).await;
    daemon
        .fake
        .fail("p0", Fault::Unavailable("the device has only 1400"));
    let printed = daemon.ringway("set-port p0 mtu=1500").await;
    assert_eq!(printed.code, 1, "{printed:?}");
    assert!(
        printed.err.contains("the device has only 1400"),
        "{printed:?}"
    );
    let shown = daemon.ringway("show").await;
    assert_eq!(shown.code, 3);
    assert!(
        shown.out.contains("reason:  the device has only 1400"),
        "{}",
        shown.out
    );
    daemon.fake.heal("p0");
    daemon.ok("set-port p0 external_ids:a=b").await;
    daemon.ok("show").await;
    assert_eq!(daemon.fake.state().specs["p0"].mtu, Some(1500));

    daemon
        .fake
        .fail("p0", Fault::BadOption("68 bytes are too few for it"));
    let before = daemon.state_file();
    let printed = daemon.ringway("set-port p0 mtu=68").await;
    assert!(printed.err.contains("68 bytes are too few"), "{printed:?}");
    assert_eq!(daemon.state_file(), before);
    daemon.fake.heal("p0");
    daemon.ok("show").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_change_in_place_and_a_new_fail_mode_begins_anew() {
    let dir = tempdir().unwrap();
    let daemon = one_port(&dir).await;
    daemon.ok("set-br br0 fdb_limit=100 external_ids:a=b").await;
    assert_eq!(daemon.fake.calls(), ["set_bridge br0"]);
    assert_eq!(daemon.fake.state().bridges["br0"].fdb_limit, 100);
    let flows = async || daemon.ok("dump-flows br0 --no-stats").await;
    assert_eq!(flows().await, " priority=0 actions=NORMAL\n");

    daemon.ok("set-br br0 fail_mode=secure").await;
    assert_eq!(flows().await, "");
    let note = "    note:    nothing passes: fail_mode is secure and there are no flows\n";
    assert!(daemon.ok("show").await.contains(note));
    let json = daemon.json("show").await;
    assert!(
        json["bridges"][0]["notes"][0]
            .as_str()
            .unwrap()
            .contains("nothing passes")
    );
    daemon.ok("add-flow br0 actions=NORMAL").await;
    assert!(!daemon.ok("show").await.contains("note:"));
    daemon.ok("set-br br0 fail_mode=").await;
    assert_eq!(flows().await, " priority=0 actions=NORMAL\n");

    daemon.fake.calls();
    daemon.ok("set-br br0 no_internal=true").await;
    assert_eq!(daemon.fake.calls(), ["del_port br0"]);
    assert!(daemon.state_file().contains("no-internal = true"));
    daemon.ok("set-br br0 no_internal=false").await;
    assert_eq!(daemon.fake.calls(), ["add_port br0"]);
    daemon.ok("show").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switchs_settings_are_kept_over_a_restart() {
    let dir = tempdir().unwrap();
    let mut daemon = one_port(&dir).await;
    let settings = pb::SwitchSpec {
        external_ids: [("system-id".to_owned(), "x".to_owned())].into(),
        other_config: [("dpdk-init".to_owned(), "true".to_owned())].into(),
    };
    let set = Change::SetSwitch(settings.clone());
    apply(&mut daemon, vec![set]).await.unwrap();
    daemon.stop().await;
    let mut daemon = Daemon::start(&dir).await;
    let answer = daemon.rpc.get_switch(pb::GetSwitchRequest {}).await;
    assert_eq!(answer.unwrap().into_inner(), settings);
    daemon.stop().await;
}

fn any_change() -> impl Strategy<Value = Change> {
    let bridge_name = || (0..3u8).prop_map(|n| format!("br{n}"));
    let port_name = || (0..4u8).prop_map(|n| format!("p{n}"));
    prop_oneof![
        bridge_name().prop_map(|name| add_bridge(&name)),
        bridge_name().prop_map(|name| del_bridge(&name)),
        (bridge_name(), any::<bool>()).prop_map(|(name, no_internal)| {
            Change::SetBridge(pb::BridgeSpec {
                no_internal,
                ..bridge(&name)
            })
        }),
        (bridge_name(), port_name()).prop_map(|(bridge, name)| add_port(&bridge, &name)),
        (bridge_name(), port_name(), 0..3u32).prop_map(|(bridge, name, tag)| {
            let vlan = Some(pb::VlanSpec {
                tag: Some(tag),
                ..Default::default()
            });
            Change::SetPort(pb::PortSpec {
                vlan,
                ..port(&bridge, &name)
            })
        }),
        port_name().prop_map(|name| del_port(&name)),
        bridge_name().prop_map(|name| del_port(&name)),
    ]
}

/// What the datapath has, by name.
fn actual(fake: &Fake) -> String {
    let state = fake.state();
    let ports: std::collections::BTreeMap<_, _> = state.specs.iter().collect();
    format!("{:?}\n{ports:?}", state.bridges)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever the changes: done as a whole they come to what they come to one
    /// by one, or nothing is changed at all, in the file as in the datapath.
    #[test]
    fn changes_are_made_all_or_none(
        before in proptest::collection::vec(any_change(), 0..8),
        changes in proptest::collection::vec(any_change(), 1..8),
        bad in proptest::option::of(0..4u8),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (one, other) = (tempdir().unwrap(), tempdir().unwrap());
            let mut whole = Daemon::start(&one).await;
            let mut single = Daemon::start(&other).await;
            for change in before {
                let of_whole = apply(&mut whole, vec![change.clone()]).await.is_ok();
                let of_single = apply(&mut single, vec![change]).await.is_ok();
                assert_eq!(of_whole, of_single);
            }
            if let Some(port) = bad {
                for daemon in [&whole, &single] {
                    daemon.fake.fail(&format!("port p{port}"), Fault::BadOption("no"));
                }
            }
            let was = (whole.state_file(), actual(&whole.fake));
            let outcome = apply(&mut whole, changes.clone()).await;
            let mut all = true;
            for change in changes {
                all &= apply(&mut single, vec![change]).await.is_ok();
            }
            let is = (whole.state_file(), actual(&whole.fake));
            if outcome.is_err() {
                assert_eq!(is, was, "{outcome:?}");
                assert!(!all || bad.is_some());
            } else if all {
                // What comes to nothing is not stored; a file without anything
                // says the same as none.
                let nothing = || state::render(&Desired::default()).unwrap();
                let stored = |file: String| match file.is_empty() {
                    true => nothing(),
                    false => file,
                };
                let is = (stored(is.0), is.1);
                assert_eq!(is, (stored(single.state_file()), actual(&single.fake)));
            }
            let shown = whole.ringway("show").await;
            assert_eq!(shown.code, 0, "{}", shown.out);
            whole.stop().await;
            single.stop().await;
        });
    }
}
