//! Each check finds what it is for, names the commands, and is silent otherwise.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ringway_proto::v1 as pb;

use ringway_datapath::DropReason;

use super::facts::{Refused, SocketFile};
use super::*;

fn port(name: &str, kind: pb::port_spec::Kind) -> pb::Port {
    pb::Port {
        name: name.into(),
        bridge: "br0".into(),
        desired: Some(pb::PortSpec {
            name: name.into(),
            bridge: "br0".into(),
            kind: Some(kind),
            ..pb::PortSpec::default()
        }),
        actual: Some(pb::PortStatus::default()),
        ..pb::Port::default()
    }
}

fn system() -> pb::port_spec::Kind {
    pb::port_spec::Kind::System(pb::SystemSpec::default())
}

fn internal() -> pb::port_spec::Kind {
    pb::port_spec::Kind::Internal(pb::InternalSpec::default())
}

fn up(name: &str) -> Interface {
    Interface {
        name: name.into(),
        admin_up: true,
        carrier: true,
        mtu: 1500,
        kind: "veth".into(),
        ..Interface::default()
    }
}

/// A healthy bridge with an attached tap and its own interface.
fn healthy() -> Facts {
    let ports = vec![port("br0", internal()), port("tap124", system())];
    let bridge = pb::Bridge {
        name: "br0".into(),
        desired: Some(pb::BridgeSpec {
            name: "br0".into(),
            ..pb::BridgeSpec::default()
        }),
        ports,
        ..pb::Bridge::default()
    };
    Facts {
        shown: pb::ShowResponse {
            bridges: vec![bridge],
            differences: 0,
        },
        interfaces: ["br0", "tap124"]
            .map(|name| (name.to_owned(), up(name)))
            .into_iter()
            .collect(),
        nodes: vec![NumaPages {
            node: 0,
            total_kib: 1 << 20,
        }],
        cores: vec![Core { cpu: 1, node: 0 }],
        cpus: vec![0, 1, 2],
        ..Facts::default()
    }
}

fn bridge(facts: &mut Facts) -> &mut pb::Bridge {
    &mut facts.shown.bridges[0]
}

/// The only finding.
fn only(facts: &Facts) -> pb::Finding {
    let told = examine(facts);
    assert_eq!(told.findings.len(), 1, "{:#?}", told.findings);
    told.findings.into_iter().next().unwrap()
}

#[test]
fn a_healthy_switch_has_no_findings() {
    let told = examine(&healthy());
    assert_eq!(told.findings, []);
    assert!(told.checks.len() > 10);
}

#[test]
fn an_address_on_an_attached_interface_is_found_with_its_commands() {
    let mut facts = healthy();
    let commands = vec!["ip addr del 10.10.10.11/16 dev tap124".to_owned()];
    let tap = facts.interfaces.get_mut("tap124").unwrap();
    tap.addresses = vec!["10.10.10.11/16".into()];
    tap.move_addresses = commands.clone();
    let found = only(&facts);
    assert_eq!(found.check, "address-on-port");
    assert_eq!(found.severity(), pb::Severity::Error);
    assert!(found.what.contains("10.10.10.11/16"), "{found:?}");
    assert_eq!(found.remedy, commands);

    // On the bridge's own interface it is where it belongs.
    let mut facts = healthy();
    facts.interfaces.get_mut("br0").unwrap().addresses = vec!["10.10.10.11/16".into()];
    assert_eq!(examine(&facts).findings, []);
}

#[test]
fn an_internal_port_that_is_down_matters_if_it_has_addresses() {
    let mut facts = healthy();
    let own = facts.interfaces.get_mut("br0").unwrap();
    own.admin_up = false;
    assert_eq!(only(&facts).severity(), pb::Severity::Note);
    let own = facts.interfaces.get_mut("br0").unwrap();
    own.addresses = vec!["10.0.0.1/24".into()];
    let found = only(&facts);
    assert_eq!(found.check, "internal-port-down");
    assert_eq!(found.severity(), pb::Severity::Error);
    assert_eq!(found.remedy, ["ip link set br0 up"]);
}

#[test]
fn attached_interfaces_have_to_be_up_with_a_carrier() {
    let mut facts = healthy();
    facts.interfaces.get_mut("tap124").unwrap().admin_up = false;
    let found = only(&facts);
    assert_eq!(found.check, "interface-down");
    assert_eq!(found.remedy, ["ip link set tap124 up"]);
    let tap = facts.interfaces.get_mut("tap124").unwrap();
    (tap.admin_up, tap.carrier) = (true, false);
    assert_eq!(only(&facts).severity(), pb::Severity::Warning);
}

#[test]
fn differences_are_told_with_their_reasons() {
    let mut facts = healthy();
    let tap = &mut bridge(&mut facts).ports[1];
    (tap.differs, tap.reason) = (true, "there is no interface tap124".into());
    let found = only(&facts);
    assert_eq!(found.check, "desired-not-actual");
    assert_eq!(found.what, "there is no interface tap124");
}

#[test]
fn the_smaller_mtu_is_named() {
    let mut facts = healthy();
    let link = |mtu| pb::LinkStatus {
        mtu,
        ..pb::LinkStatus::default()
    };
    let ports = &mut bridge(&mut facts).ports;
    ports[0].actual.as_mut().unwrap().link = Some(link(9000));
    ports[1].actual.as_mut().unwrap().link = Some(link(1500));
    let found = only(&facts);
    assert_eq!(found.check, "mtu-mismatch");
    assert_eq!(found.object, "port tap124");
    assert_eq!(found.remedy, ["ringway set-port tap124 mtu=9000"]);
    bridge(&mut facts).ports[1].desired.as_mut().unwrap().mtu = Some(9000);
    assert_eq!(examine(&facts).findings, []);
}

#[test]
fn a_station_that_flaps_is_a_loop() {
    let mut facts = healthy();
    let flapping = |mac: &str| Flapping {
        bridge: "br0".into(),
        mac: mac.into(),
        vlan: 0,
        ports: vec!["p0".into(), "p1".into()],
    };
    facts.flapping = vec![flapping("02:00:00:00:00:01"), flapping("02:00:00:00:00:02")];
    let found = only(&facts);
    assert_eq!(found.check, "loop");
    assert!(
        found.what.contains("02:00:00:00:00:01, 02:00:00:00:00:02"),
        "{found:?}"
    );
    assert_eq!(found.remedy, ["ringway del-port br0 p1"]);
}

#[test]
fn what_guards_refuse_is_told_by_port() {
    let mut facts = healthy();
    let refused = |reason| Refused {
        port: "tap124".into(),
        reason,
        count: 7,
    };
    for (reason, told) in [
        (DropReason::SpoofedMac, "allowed_macs"),
        (DropReason::SpoofedVlan, "allowed_vlans"),
        (DropReason::SpoofedIp, "allowed_ips"),
        (DropReason::MacMoveDenied, "mac_move"),
        (DropReason::FdbLimit, "max_macs"),
        (DropReason::StormPoliced, "rate"),
    ] {
        // Its stations were not learned either, which is told once.
        facts.refused = vec![refused(Some(reason))];
        if reason == DropReason::FdbLimit {
            facts.refused.push(refused(None));
        }
        let found = only(&facts);
        let expected = ("guard", "port tap124");
        assert_eq!((found.check.as_str(), found.object.as_str()), expected);
        assert!(found.what.contains("7 frames") && found.what.contains(reason.name()));
        assert!(found.why.contains(told), "{found:?}");
        // A rate that somebody asked for is no illness.
        let is_note = found.severity() == pb::Severity::Note;
        assert_eq!(is_note, reason == DropReason::StormPoliced);
    }
    facts.refused = vec![refused(None)];
    let larger = "ringway set-br br0 fdb_limit=65536";
    let bounded = "ringway set-port tap124 max_macs=16";
    assert_eq!(only(&facts).remedy, [larger, bounded]);
}

#[test]
fn bare_frames_of_a_veth_clash_with_its_offloads() {
    let mut facts = healthy();
    facts.interfaces.get_mut("tap124").unwrap().bare_frames = true;
    let found = only(&facts);
    assert_eq!(found.check, "offloads-clash");
    assert_eq!(found.remedy, ["ringway set-port tap124 xdp=off"]);
    // A real NIC completes what was left to it.
    facts.interfaces.get_mut("tap124").unwrap().kind = "ixgbe".into();
    assert_eq!(examine(&facts).findings, []);
}

#[test]
fn a_secure_bridge_without_flows_passes_nothing() {
    let mut facts = healthy();
    let bridge = bridge(&mut facts);
    let spec = bridge.desired.as_mut().unwrap();
    spec.fail_mode = pb::FailMode::Secure.into();
    let totals = |flows| {
        Some(pb::FlowsStatus {
            actual: Some(pb::FlowTotals {
                flows,
                ..pb::FlowTotals::default()
            }),
            ..pb::FlowsStatus::default()
        })
    };
    bridge.flows = totals(0);
    assert_eq!(only(&facts).check, "secure-without-flows");
    facts.shown.bridges[0].flows = totals(1);
    assert_eq!(examine(&facts).findings, []);
}

#[test]
fn memory_that_is_not_shared_is_found_by_its_reason() {
    let mut facts = healthy();
    let status = bridge(&mut facts).ports[1].actual.as_mut().unwrap();
    status.reason = "the guest's memory seems not to be shared: give QEMU share=on".into();
    assert_eq!(only(&facts).check, "memory-not-shared");
    let status = bridge(&mut facts).ports[1].actual.as_mut().unwrap();
    status.reason = "the frontend has not shared the guest's memory; with QEMU this comes when \
                     the guest's driver starts"
        .into();
    assert_eq!(examine(&facts).findings, [], "a guest that boots");
}

#[test]
fn a_socket_that_guests_cannot_reach_is_found_with_what_closes_it() {
    let mut facts = healthy();
    facts.qemu_user = Some(("libvirt-qemu".into(), 64055, 108));
    let way = |socket: u32, folder: u32| {
        let path = PathBuf::from("/run/ringway/vm1.sock");
        let way = vec![
            (path.clone(), 0, 0, socket),
            (PathBuf::from("/run/ringway"), 0, 0, folder),
            (PathBuf::from("/run"), 0, 0, 0o755),
            (PathBuf::from("/"), 0, 0, 0o755),
        ];
        BTreeMap::from([("vm1".to_owned(), SocketFile { path, way })])
    };
    facts.sockets = way(0o666, 0o755);
    assert_eq!(examine(&facts).findings, []);
    facts.sockets = way(0o600, 0o755);
    let found = only(&facts);
    assert_eq!(found.check, "socket-permissions");
    let remedy = "ringway set-port vm1 owner=libvirt-qemu permissions=0660";
    assert_eq!(found.remedy, [remedy]);
    facts.sockets = way(0o666, 0o750);
    assert_eq!(only(&facts).remedy, ["chmod o+x /run/ringway"]);
    // The owner's and the group's bits count for them alone.
    facts.sockets = way(0o660, 0o755);
    facts.sockets.get_mut("vm1").unwrap().way[0].2 = 108;
    assert_eq!(examine(&facts).findings, []);
}

#[test]
fn hugepages_are_missing_or_on_another_node() {
    let mut facts = healthy();
    facts.ordinary_memory = Some("no hugepages are free".into());
    assert_eq!(only(&facts).check, "hugepages");
    let mut facts = healthy();
    facts.nodes.push(NumaPages {
        node: 1,
        total_kib: 0,
    });
    assert_eq!(examine(&facts).findings, []);
    facts.cores.push(Core { cpu: 2, node: 1 });
    let found = only(&facts);
    assert!(found.what.contains("NUMA node 1"), "{found:?}");
}

#[test]
fn a_poll_mode_core_is_nobody_elses() {
    let mut facts = healthy();
    let thread = |thread: &str, cpus: &[usize]| PollingThread {
        pid: 10,
        process: "qemu-system-x86".into(),
        tid: 11,
        thread: thread.into(),
        cpus: cpus.to_vec(),
    };
    facts.polling = vec![thread("CPU 0/KVM", &[0]), thread("pmd-7", &[0, 1])];
    assert_eq!(examine(&facts).findings, []);
    facts.polling = vec![thread("CPU 0/KVM", &[0, 1])];
    let found = only(&facts);
    assert_eq!(found.check, "core-shared");
    assert_eq!(found.remedy, ["taskset -cp 0,2 11"]);
    facts.polling = vec![thread("pmd-c01/id:8", &[1])];
    assert_eq!(only(&facts).check, "core-shared");
}

#[test]
fn the_worst_comes_first() {
    let mut facts = healthy();
    facts.interfaces.get_mut("br0").unwrap().admin_up = false;
    facts.ordinary_memory = Some("no hugepages are free".into());
    facts.interfaces.get_mut("tap124").unwrap().admin_up = false;
    let told = examine(&facts);
    let severities: Vec<_> = told.findings.iter().map(|found| found.severity()).collect();
    use pb::Severity::{Error, Note, Warning};
    assert_eq!(severities, [Error, Warning, Note]);
}
