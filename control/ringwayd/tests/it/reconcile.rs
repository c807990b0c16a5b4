//! Reconciliation: actual follows desired, failures are noted and retried.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use ringway_datapath::spec::{BridgeSpec, DpdkSpec, PortKind, PortSpec};
use ringway_datapath::status::PortState;
use ringwayd::flows::Flows;
use ringwayd::journal::Journal;
use ringwayd::model::{Bridge, Desired, Kind, Port};
use ringwayd::reconcile::{
    FIRST_RETRY, LAST_RETRY, Means, Note, Notes, Now, Retry, Standing, pass,
};
use ringwayd::switch::Switch;
use ringwayd::view;

use tempfile::{TempDir, tempdir};

use crate::fake::{Fake, Fault};
use crate::fake_host::FakeHost;

/// On a host without interfaces.
fn means<'a>(switch: &'a Fake, flows: &'a Flows) -> Means<'a, Fake> {
    static HOST: LazyLock<FakeHost> = LazyLock::new(FakeHost::default);
    Means {
        switch,
        flows,
        host: &*HOST,
    }
}

fn dpdk() -> DpdkSpec {
    DpdkSpec::new("net_null0")
}

fn desired(bridges: &[&str], ports: &[(&str, &str)]) -> Desired {
    let port = |(bridge, name): &(&str, &str)| Port::new(*name, *bridge, Kind::Dpdk(dpdk()));
    Desired {
        bridges: bridges.iter().map(|name| Bridge::new(*name)).collect(),
        ports: ports.iter().map(port).collect(),
        ..Desired::default()
    }
}

/// Flows of bridges that never had any.
fn no_flows() -> (Flows, TempDir) {
    let dir = tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("state.toml")).unwrap();
    (Flows::new(journal), dir)
}

/// A clock that the test moves.
struct Clock(Now);

impl Clock {
    fn new() -> Self {
        Self(Now {
            instant: Instant::now(),
            wall: SystemTime::now(),
        })
    }

    fn after(&mut self, duration: Duration) -> Now {
        self.0.instant += duration;
        self.0.wall += duration;
        self.0
    }
}

#[test]
fn everything_is_brought_up_in_order_and_then_left_alone() {
    let (fake, clock, (flows, _dir)) = (Fake::default(), Clock::new(), no_flows());
    let desired = desired(&["br1", "br0"], &[("br0", "b"), ("br1", "a")]);
    let mut notes = Notes::pending(&desired, clock.0);
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    let expected = [
        "add_bridge br1",
        "add_bridge br0",
        "add_port b",
        "add_port a",
    ];
    assert_eq!(fake.calls(), expected);
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    assert!(fake.calls().is_empty());
    assert!(notes.ports.values().all(|note| note.reason().is_empty()));
}

#[test]
fn one_failure_hinders_nothing_else_and_is_retried_ever_slower() {
    let (fake, mut clock, (flows, _dir)) = (Fake::default(), Clock::new(), no_flows());
    let desired = desired(&["br0"], &[("br0", "bad"), ("br0", "good")]);
    let mut notes = Notes::pending(&desired, clock.0);
    fake.fail("bad", Fault::Unavailable("no such device"));
    let first = clock.0;
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        first,
        Retry::Due,
    );
    assert_eq!(
        fake.calls(),
        ["add_bridge br0", "add_port bad", "add_port good"]
    );
    assert_eq!(notes.ports["bad"].reason(), "no such device");

    let mut wait = FIRST_RETRY;
    for _ in 0..6 {
        let early = clock.after(wait - Duration::from_millis(1));
        pass(
            means(&fake, &flows),
            &desired,
            &mut notes,
            early,
            Retry::Due,
        );
        assert!(fake.calls().is_empty(), "retried before {wait:?}");
        let due = clock.after(Duration::from_millis(1));
        pass(means(&fake, &flows), &desired, &mut notes, due, Retry::Due);
        assert_eq!(fake.calls(), ["add_port bad"], "not retried after {wait:?}");
        wait = (wait * 2).min(LAST_RETRY);
    }
    assert_eq!(
        notes.ports["bad"].since, first.wall,
        "since the first failure"
    );

    fake.heal("bad");
    let now = clock.after(Duration::from_millis(1));
    pass(means(&fake, &flows), &desired, &mut notes, now, Retry::All);
    assert_eq!(fake.port_names(), ["good", "bad"]);
    assert_eq!(notes.ports["bad"].standing, Standing::Settled);
    assert_eq!(notes.ports["bad"].since, now.wall);
}

#[test]
fn a_port_waits_for_its_bridge_and_says_so() {
    let (fake, clock, (flows, _dir)) = (Fake::default(), Clock::new(), no_flows());
    let desired = desired(&["br0"], &[("br0", "p0")]);
    let mut notes = Notes::pending(&desired, clock.0);
    fake.fail("br0", Fault::Unavailable("no memory for the FDB"));
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    let reason = notes.ports["p0"].reason();
    assert!(
        reason.contains("br0") && reason.contains("no memory for the FDB"),
        "{reason}"
    );
    fake.heal("br0");
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    assert_eq!(fake.port_names(), ["p0"]);
}

#[test]
fn surplus_objects_go_and_a_port_on_the_wrong_bridge_moves() {
    let (fake, clock, (flows, _dir)) = (Fake::default(), Clock::new(), no_flows());
    for bridge in ["br0", "old"] {
        fake.add_bridge(BridgeSpec::new(bridge)).unwrap();
    }
    for name in ["stray", "p0"] {
        let spec = PortSpec::new(name, "old", PortKind::Dpdk(dpdk()));
        fake.add_port(spec).unwrap();
    }
    fake.fail("stray", Fault::Unavailable("busy"));
    let desired = desired(&["br0"], &[("br0", "p0")]);
    let mut notes = Notes::pending(&desired, clock.0);
    let shown = view::show(
        &desired,
        &notes,
        &fake.bridges(),
        &fake.ports(),
        &Default::default(),
    );
    assert_eq!(
        shown.differences, 3,
        "old, stray and the misplaced p0: {shown:#?}"
    );

    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    assert_eq!(fake.port_names(), ["p0"], "stray goes with its bridge");
    assert_eq!(fake.ports()[0].bridge, "br0");
    assert_eq!(fake.bridges().len(), 1);
    assert!(!notes.ports.contains_key("stray") && !notes.bridges.contains_key("old"));
}

#[test]
fn a_surplus_object_that_will_not_go_is_shown_and_retried() {
    let (fake, clock, (flows, _dir)) = (Fake::default(), Clock::new(), no_flows());
    fake.add_bridge(BridgeSpec::new("old")).unwrap();
    fake.fail("old", Fault::Unavailable("busy"));
    let desired = Desired::default();
    let mut notes = Notes::default();
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::Due,
    );
    let shown = view::show(
        &desired,
        &notes,
        &fake.bridges(),
        &fake.ports(),
        &Default::default(),
    );
    assert_eq!(shown.differences, 1);
    assert!(shown.bridges[0].desired.is_none());
    assert!(
        shown.bridges[0].reason.contains("busy"),
        "{}",
        shown.bridges[0].reason
    );
    fake.heal("old");
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    assert!(fake.bridges().is_empty());
}

#[test]
fn a_failed_port_stays_in_sight_and_is_then_made_anew() {
    let (fake, mut clock, (flows, _dir)) = (Fake::default(), Clock::new(), no_flows());
    let desired = desired(&["br0"], &[("br0", "p0")]);
    let mut notes = Notes::pending(&desired, clock.0);
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    let break_it = || {
        let why = "device unplugged".to_owned();
        fake.set_port("p0", |port| port.state = PortState::Failed { why });
    };
    break_it();
    fake.calls();
    let now = clock.after(Duration::from_secs(1));
    pass(means(&fake, &flows), &desired, &mut notes, now, Retry::Due);
    assert!(fake.calls().is_empty());
    let shown = view::show(
        &desired,
        &notes,
        &fake.bridges(),
        &fake.ports(),
        &Default::default(),
    );
    assert_eq!(shown.differences, 1);
    assert_eq!(shown.bridges[0].ports[0].reason, "device unplugged");

    let now = clock.after(FIRST_RETRY);
    pass(means(&fake, &flows), &desired, &mut notes, now, Retry::Due);
    assert_eq!(fake.calls(), ["del_port p0", "add_port p0"]);
    let shown = view::show(
        &desired,
        &notes,
        &fake.bridges(),
        &fake.ports(),
        &Default::default(),
    );
    assert_eq!(shown.differences, 0);
}

#[test]
fn waiting_is_no_difference_but_quarantine_is() {
    let (fake, clock, (flows, _dir)) = (Fake::default(), Clock::new(), no_flows());
    let desired = desired(&["br0"], &[("br0", "p0")]);
    let mut notes = Notes::pending(&desired, clock.0);
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    let why = || "because".to_owned();
    let waiting = |state| PortState::Waiting { state, why: why() };
    for (state, differences) in [
        (PortState::Forwarding, 0),
        (waiting("waiting-for-socket"), 0),
        (waiting("memory-mapped"), 0),
        (PortState::Quarantined { why: why() }, 1),
        (PortState::Failed { why: why() }, 1),
    ] {
        let name = state.name();
        fake.set_port("p0", |port| port.state = state.clone());
        let shown = view::show(
            &desired,
            &notes,
            &fake.bridges(),
            &fake.ports(),
            &Default::default(),
        );
        assert_eq!(shown.differences, differences, "{name}");
        let port = &shown.bridges[0].ports[0];
        assert_eq!(port.actual.as_ref().unwrap().state_name, name);
        assert_eq!(port.reason.is_empty(), state == PortState::Forwarding);
    }
    fake.calls();
    fake.set_port("p0", |port| {
        port.state = PortState::Quarantined { why: why() }
    });
    pass(
        means(&fake, &flows),
        &desired,
        &mut notes,
        clock.0,
        Retry::All,
    );
    assert!(
        fake.calls().is_empty(),
        "a quarantined port is not let in again by itself"
    );
}

proptest! {
    /// From any start, through any faults that heal in the end, actual becomes
    /// what is desired.
    #[test]
    fn actual_becomes_desired(
        before in proptest::collection::vec((0..3u8, 0..4u8), 0..5),
        after in proptest::collection::btree_map(0..4u8, 0..3u8, 0..5),
        faulty in proptest::collection::vec(0..4u8, 0..3),
    ) {
        let (fake, mut clock, (flows, _dir)) = (Fake::default(), Clock::new(), no_flows());
        for (bridge, port) in before {
            let bridge = format!("br{bridge}");
            let _ = fake.add_bridge(BridgeSpec::new(bridge.clone()));
            let kind = PortKind::Dpdk(dpdk());
            let _ = fake.add_port(PortSpec::new(format!("p{port}"), bridge, kind));
        }
        let names: Vec<_> = after
            .iter()
            .map(|(port, bridge)| (format!("br{bridge}"), format!("p{port}")))
            .collect();
        let ports: Vec<_> = names.iter().map(|(b, p)| (b.as_str(), p.as_str())).collect();
        let desired = desired(&["br0", "br1", "br2"], &ports);
        let mut notes = Notes::pending(&desired, clock.0);

        for port in &faulty {
            fake.fail(&format!("p{port}"), Fault::Unavailable("not now"));
        }
        for _ in 0..3 {
            pass(means(&fake, &flows), &desired, &mut notes, clock.after(FIRST_RETRY), Retry::Due);
            let shown = view::show(&desired, &notes, &fake.bridges(), &fake.ports(), &Default::default());
            let views = shown.bridges.iter().flat_map(|bridge| &bridge.ports);
            for port in views.filter(|port| port.differs) {
                prop_assert!(!port.reason.is_empty(), "{:?}", port);
            }
        }
        fake.state().faults.clear();
        pass(means(&fake, &flows), &desired, &mut notes, clock.after(LAST_RETRY), Retry::Due);
        let shown = view::show(&desired, &notes, &fake.bridges(), &fake.ports(), &Default::default());
        prop_assert_eq!(shown.differences, 0);
        prop_assert_eq!(fake.ports().len(), desired.ports.len());
        prop_assert!(notes.ports.values().all(|note: &Note| note.standing == Standing::Settled));
    }
}
