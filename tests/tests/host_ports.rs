//! Every kind of port on one bridge, with real network stacks behind each:
//! guests on vhost-user and on a tap, the host itself, a neighbouring host
//! behind a veth. Everybody talks with everybody.

use std::time::Duration;

use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::lan::{Lan, offloads};
use ringway_tests::netns::Namespace;
use ringway_tests::{machine, wait};

const LIMIT: Duration = Duration::from_secs(30);
/// The largest UDP payload in a frame of 9,000 bytes behind the Ethernet header.
const JUMBO_PAYLOAD: usize = 9_000 - 28;

#[test]
fn everybody_talks_with_everybody() {
    let mut lan = Lan::start(9_000).unwrap();
    lan.everybody_talks(0);

    // Every size of frame that there is, up to 9,000 bytes; with guests, which
    // are translated instruction by instruction, not every one of them.
    lan.each_pair(0, |daemon, from, to, slow| {
        let step = if slow { 97 } else { 1 };
        let args = format!("udp {to}:7 1 {JUMBO_PAYLOAD} {step}");
        from.probe(daemon, &args).map(drop)
    });

    // Large segments, with offloads where they are wanted and without.
    let pairs = |lan: &mut Lan, what: &str| {
        lan.each_pair(0, |daemon, from, to, slow| {
            let bytes = if slow { 2_000_000 } else { 30_000_000 };
            let done = from.probe(daemon, &format!("tcp {to}:7 {bytes}"));
            done.map(drop).inspect_err(|_| eprintln!("{what}"))
        });
    };
    pairs(&mut lan, "offloads on");
    offloads(lan.daemon.namespace(), "br0", false).unwrap();
    offloads(lan.neighbour(), "eth0", false).unwrap();
    pairs(&mut lan, "offloads of the host and its neighbour off");

    let balance = lan.daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");
}

#[test]
fn vlans_part_and_join_every_kind_of_port() {
    let mut lan = Lan::start(9_000).unwrap();
    let shell = |lan: &Lan, line: &str| lan.daemon.shell_ok(line).unwrap();

    // Access ports of one VLAN: as if there were none.
    for port in ["vm1", "vm2", "tap1", "up0", "br0"] {
        shell(&lan, &format!("ovs-vsctl set port {port} tag=10"));
    }
    lan.everybody_talks(0);

    // One of them in another VLAN: reached by nobody.
    shell(&lan, "ovs-vsctl set port up0 tag=20");
    let to = lan.members[3].address(0);
    for member in [0, 2, 4] {
        let from = &mut lan.members[member];
        let line = format!("ping -c 2 -W 1 {to}");
        let reached = from.run(&lan.daemon, &line);
        assert!(reached.is_err(), "{} reaches VLAN 20", from.port);
    }

    // Guests on trunks tag for themselves, with large segments as well; the host
    // and its neighbour are in one of these VLANs.
    for port in ["vm1", "vm2", "tap1"] {
        shell(&lan, &format!("ovs-vsctl clear port {port} tag"));
        shell(&lan, &format!("ovs-vsctl set port {port} trunks=30,40"));
    }
    shell(&lan, "ovs-vsctl set port up0 tag=30 -- set port br0 tag=30");
    for member in &mut lan.members {
        let (device, address) = (member.device(), member.address(30));
        let line = match member.is_guest() {
            true => format!(
                "ip link add link {device} name v30 type vlan id 30 && \
                 ip addr add {address}/24 dev v30 && ip link set v30 up"
            ),
            false => format!("ip addr add {address}/24 dev {device}"),
        };
        member.run(&lan.daemon, &line).unwrap();
    }
    lan.everybody_talks(30);
    lan.each_pair(30, |daemon, from, to, _| {
        let args = format!("udp {to}:7 1400 1472 12");
        from.probe(daemon, &args).map(drop)
    });

    // Untagged frames and other VLANs do not pass these trunks.
    let to = lan.members[1].address(0);
    let reached = lan.members[0].run(&lan.daemon, &format!("ping -c 2 -W 1 {to}"));
    assert!(
        reached.is_err(),
        "an untagged frame passed a trunk of 30,40"
    );

    // A native VLAN joins a guest's untagged frames with an access port's.
    shell(
        &lan,
        "ovs-vsctl set port vm1 vlan_mode=native-untagged tag=50",
    );
    shell(&lan, "ovs-vsctl set port br0 tag=50");
    let to = lan.members[4].address(0);
    let reach = format!("ping -c 3 -W 2 {to}");
    lan.members[0].run(&lan.daemon, &reach).unwrap();
    let balance = lan.daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");
}

#[test]
fn patched_bridges_are_one_lan() {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon
        .shell_ok(
            "ovs-vsctl add-br br0 -- add-br br1 \
             -- add-port br0 to1 -- set Interface to1 type=patch options:peer=to0 \
             -- add-port br1 to0 -- set Interface to0 type=patch options:peer=to1",
        )
        .unwrap();
    let far = Namespace::new("far").unwrap();
    daemon.namespace().veth_to("up1", &far, "eth0").unwrap();
    daemon.shell_ok("ovs-vsctl add-port br1 up1").unwrap();
    daemon.wait_forwarding(&["to0", "to1", "up1"]).unwrap();
    far.configure("eth0", "10.1.0.2/24").unwrap();
    daemon.namespace().configure("br0", "10.1.0.1/24").unwrap();
    let _echo = far.serve_echo(daemon.dir()).unwrap();
    assert_eq!(daemon.namespace().ping("10.1.0.2", 5, 56).unwrap(), 5);
    let tcp = ["tcp", "10.1.0.2:7", "20000000"];
    daemon.namespace().probe(&tcp).unwrap();
    let ports = daemon.ports().unwrap();
    let crossing = |name: &str| ports.iter().find(|port| port.name == name).unwrap();
    let (one, other) = (crossing("to1"), crossing("to0"));
    assert!(one.tx_packets > 5, "{one:?}");
    assert_eq!(one.tx_packets, other.rx_packets, "{one:?} {other:?}");
    let balance = daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");

    // A trace goes on behind the patch port, and learns on both bridges if asked to.
    let shown = far.ip(&["-br", "link", "show", "eth0"]).unwrap();
    let to = shown.split_whitespace().nth(2).unwrap();
    let flow = format!("in_port=LOCAL,dl_src=02:00:00:00:00:aa,dl_dst={to}");
    let learned = |bridge: &str| {
        let stations = daemon.ok(&["fdb", "show", bridge]).unwrap();
        stations.contains("02:00:00:00:00:aa")
    };
    let traced = daemon.ok(&["trace", "br0", &flow]).unwrap();
    assert!(
        traced.contains("Patch port to1 leads to to0 of bridge br1"),
        "{traced}"
    );
    assert!(traced.contains("Datapath actions: up1"), "{traced}");
    assert!(
        !learned("br0") && !learned("br1"),
        "a trace alone has learned"
    );
    daemon.ok(&["trace", "br0", &flow, "--generate"]).unwrap();
    assert!(learned("br0") && learned("br1"));
    drop(alone);
}

#[test]
fn queues_of_a_system_port_share_by_flow() {
    let _alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let far = Namespace::new("far").unwrap();
    daemon.namespace().veth_to("up0", &far, "eth0").unwrap();
    far.configure("eth0", "10.1.0.2/24").unwrap();
    let add = ["add-port", "br0", "up0", "type=system"];
    daemon.ok(&[&add[..], &["queues=4"]].concat()).unwrap();
    daemon.namespace().configure("br0", "10.1.0.1/24").unwrap();
    daemon.wait_forwarding(&["up0", "br0"]).unwrap();
    let _echo = daemon.namespace().serve_echo(daemon.dir()).unwrap();
    assert_eq!(far.ping("10.1.0.1", 5, 56).unwrap(), 5);
    for _ in 0..32 {
        // Each from a port of its own.
        far.probe(&["udp", "10.1.0.1:7", "99", "99", "1"]).unwrap();
    }
    far.probe(&["tcp", "10.1.0.1:7", "20000000"]).unwrap();
    let came = daemon.port("up0").unwrap();
    let sharing = (came.rx_packets_by_queue.iter())
        .filter(|packets| **packets > 0)
        .count();
    assert_eq!(came.rx_packets_by_queue.len(), 4, "{came:?}");
    assert!(sharing >= 3, "38 flows in {sharing} of 4 queues: {came:?}");
    // Each frame came in once.
    let device = daemon.json(&["dump-ports", "br0", "--detail"]).unwrap();
    let up0 = device["ports"].as_array().unwrap().iter();
    let up0 = up0.clone().find(|port| port["name"] == "up0").unwrap();
    let received = up0["device"]["rx_packets"].as_u64().unwrap();
    assert!(came.rx_packets <= received, "{received} and {came:?}");
    let balance = daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");

    // Another number of queues: the port is made anew.
    daemon.ok(&["set-port", "up0", "queues=2"]).unwrap();
    assert_eq!(far.ping("10.1.0.1", 5, 56).unwrap(), 5);
    let now = daemon.port("up0").unwrap();
    assert_eq!(now.rx_packets_by_queue.len(), 2, "{now:?}");
}

#[test]
fn an_interface_that_goes_and_comes_back_is_told_and_taken_up() {
    let _alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let far = Namespace::new("far").unwrap();
    let pair = || {
        daemon.namespace().veth_to("up0", &far, "eth0").unwrap();
        // The same host, so that nobody's ARP entry is wrong.
        let mac = ["link", "set", "eth0", "address", "02:00:00:00:00:02"];
        far.ip(&mac).unwrap();
        far.configure("eth0", "10.1.0.2/24").unwrap();
    };
    pair();
    daemon
        .ok(&["add-port", "br0", "up0", "type=system"])
        .unwrap();
    daemon.namespace().configure("br0", "10.1.0.1/24").unwrap();
    for _ in 0..3 {
        daemon.wait_forwarding(&["up0"]).unwrap();
        assert_eq!(daemon.namespace().ping("10.1.0.2", 3, 56).unwrap(), 3);
        far.ip(&["link", "del", "eth0"]).unwrap();
        wait::until("show to say that up0 is gone", LIMIT, || {
            let port = daemon.show_port("up0").unwrap();
            let reason = port["reason"].as_str().unwrap_or_default().to_owned();
            match port["actual"].is_null() && reason.contains("no interface up0") {
                true => Ok(()),
                false => Err(port),
            }
        })
        .unwrap();
        assert!(!daemon.as_desired().unwrap());
        pair();
    }
    daemon.wait_forwarding(&["up0"]).unwrap();
    assert!(daemon.as_desired().unwrap());
}

#[test]
fn frames_come_by_af_xdp_where_that_is_asked_for() {
    let _alone = machine::exclusive().unwrap();
    let daemon = Daemon::start_with(DaemonOptions::with_xdp()).unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let far = Namespace::new("far").unwrap();
    daemon.namespace().veth_to("up0", &far, "eth0").unwrap();
    // AF_XDP knows no offloads: the other end must not leave anything to it.
    offloads(daemon.namespace(), "up0", false).unwrap();
    offloads(&far, "eth0", false).unwrap();
    far.configure("eth0", "10.1.0.2/24").unwrap();
    daemon
        .ok(&["add-port", "br0", "up0", "type=system", "xdp=on"])
        .unwrap();
    daemon.namespace().configure("br0", "10.1.0.1/24").unwrap();
    daemon.wait_forwarding(&["up0"]).unwrap();
    let shown = daemon.show_port("up0").unwrap();
    assert_eq!(shown["actual"]["link"]["via"], "af_xdp", "{shown}");
    let _echo = far.serve_echo(daemon.dir()).unwrap();
    let host = daemon.namespace();
    wait::until("the neighbour to answer", LIMIT, || {
        match host.ping("10.1.0.2", 3, 56) {
            Ok(3) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    host.probe(&["udp", "10.1.0.2:7", "1", "1472", "7"])
        .unwrap();
    host.probe(&["tcp", "10.1.0.2:7", "3000000"]).unwrap();
    // Given back, the interface is the host's again.
    daemon.ok(&["del-port", "br0", "up0"]).unwrap();
    host.ip(&["addr", "flush", "dev", "br0"]).unwrap();
    host.configure("up0", "10.1.0.1/24").unwrap();
    wait::until(
        "the neighbour to answer the host itself",
        LIMIT,
        || match host.ping("10.1.0.2", 3, 56) {
            Ok(3) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .unwrap();
}

#[test]
fn the_bridges_interface_outlives_the_daemon_with_addresses_and_routes() {
    let _alone = machine::exclusive().unwrap();
    let mut daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    daemon
        .ok(&[
            "add-port",
            "br0",
            "web0",
            "type=internal",
            "mac=02:00:00:00:00:77",
        ])
        .unwrap();
    daemon.namespace().configure("br0", "10.1.0.1/24").unwrap();
    let up = ["link", "set", "web0", "up"];
    daemon.namespace().ip(&up).unwrap();
    let route = ["route", "add", "10.9.0.0/16", "via", "10.1.0.9"];
    daemon.namespace().ip(&route).unwrap();
    let web = daemon.namespace().ip(&["link", "show", "web0"]).unwrap();
    assert!(web.contains("02:00:00:00:00:77"), "{web}");
    let index = |daemon: &Daemon| {
        let shown = daemon.namespace().ip(&["-o", "link", "show", "br0"]);
        shown.unwrap().split(':').next().unwrap().to_owned()
    };
    let before = index(&daemon);

    for kill in [false, true] {
        match kill {
            true => daemon.kill(),
            false => assert!(daemon.terminate().unwrap().success()),
        }
        daemon.start_again().unwrap();
        daemon.wait_forwarding(&["br0", "web0"]).unwrap();
        assert_eq!(index(&daemon), before, "another interface");
        let addresses = daemon.namespace().ip(&["addr", "show", "br0"]).unwrap();
        assert!(addresses.contains("10.1.0.1/24"), "{addresses}");
        let routes = daemon.namespace().ip(&["route"]).unwrap();
        assert!(routes.contains("10.9.0.0/16"), "{routes}");
    }

    daemon.ok(&["del-port", "br0", "web0"]).unwrap();
    assert!(gone(&daemon, "web0"));
    daemon.ok(&["del-br", "br0"]).unwrap();
    assert!(gone(&daemon, "br0"));
}

fn gone(daemon: &Daemon, interface: &str) -> bool {
    daemon.namespace().ip(&["link", "show", interface]).is_err()
}
