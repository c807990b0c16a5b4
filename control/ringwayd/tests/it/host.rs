//! The host's interfaces: what stands in a port's way, what the user is told,
//! and that a port comes back with its interface.

use std::time::Duration;

use ringway_datapath::status::{LinkStatus, PortState};
use tempfile::tempdir;

use crate::daemon::Daemon;
use crate::fake::{Fake, Fault};
use crate::fake_host::FakeHost;

/// Waits, for a test machine's slowness only, until it is so.
async fn until(daemon: &Daemon, wanted: impl Fn(&str) -> bool) {
    let wait = async {
        while !wanted(&daemon.ringway("show").await.out) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("in a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_has_an_interface_of_its_own() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0").await;
    assert_eq!(
        daemon.json("add-port br0 vm1 type=vhost-user").await["number"],
        1
    );
    assert_eq!(daemon.ok("list-ports br0").await, "vm1\n");
    let shown = daemon.ok("show").await;
    assert!(shown.contains("    Port br0\n"), "{shown}");
    assert!(
        shown.contains("type=internal queues=1 number=1023\n"),
        "{shown}"
    );
    assert!(
        daemon
            .ok("dpctl show")
            .await
            .contains("  port 1023: br0 (internal)\n")
    );
    assert_eq!(
        daemon.json("show").await["bridges"][0]["ports"][0]["actual"]["local"],
        true
    );

    daemon.fake.set_port("br0", |port| {
        port.link = Some(LinkStatus {
            mac: Some([2, 0, 0, 0, 0, 0xab]),
            mtu: 1500,
            admin_up: true,
            link_up: false,
            driver: "tun".into(),
            via: "tap",
            ..LinkStatus::default()
        });
    });
    let device = "device:  up, no carrier, mtu 1500, mac 02:00:00:00:00:ab, tun by tap\n";
    assert!(daemon.ok("show").await.contains(device));
    let json = daemon.json("show").await;
    let link = &json["bridges"][0]["ports"][0]["actual"]["link"];
    assert_eq!((&link["mtu"], &link["via"]), (&1500.into(), &"tap".into()));

    let printed = daemon.ringway("del-port br0").await;
    assert_eq!(printed.code, 1);
    let why = "ringway: cannot delete port br0 because it is the local port for bridge br0 \
               (deleting this port requires deleting the entire bridge)\n";
    assert!(printed.err.starts_with(why), "{}", printed.err);
    for line in [
        "add-port br0 br0 type=internal",
        "add-port br0 br0 type=vhost-user",
    ] {
        let printed = daemon.ringway(line).await;
        assert!(
            printed.err.contains("of that name already"),
            "{}",
            printed.err
        );
    }
    daemon.ok("add-br br1 --no-internal").await;
    let printed = daemon.ringway("add-port br0 br1 type=internal").await;
    assert!(
        printed.err.contains("there is a bridge of that name"),
        "{}",
        printed.err
    );
    daemon.ok("add-port br1 br1 type=internal mtu=1500").await;
    assert!(
        !daemon.state_file().contains("no-internal"),
        "it has one now"
    );
    let printed = daemon.ringway("add-br a-name-of-15-by").await;
    assert_eq!(printed.code, 0, "15 bytes: {printed:?}");
    let printed = daemon.ringway("add-br a-name-of-16-byte").await;
    assert!(printed.err.contains("--no-internal"), "{}", printed.err);
    daemon.ok("add-br a-name-of-16-byte --no-internal").await;

    // Flows know it as LOCAL.
    daemon
        .ok("add-flow br0 in_port=br0,actions=output:br0")
        .await;
    let flows = daemon.ok("dump-flows br0 --no-stats --no-names").await;
    assert!(flows.contains("in_port=LOCAL actions=LOCAL"), "{flows}");

    daemon.ok("del-br br0").await;
    assert!(!daemon.fake.port_names().contains(&"br0".to_owned()));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_works_without_its_interface_and_says_so() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    let why = "/dev/net/tun cannot be opened; modprobe tun";
    daemon.fake.fail("port br0", Fault::Unavailable(why));
    let printed = daemon.ringway("add-br br0").await;
    assert_eq!(printed.code, 0);
    assert!(
        printed
            .err
            .starts_with("ringway: warning: port br0 is not up: /dev/net/tun"),
        "{}",
        printed.err
    );
    assert!(
        printed.err.contains("set-br br0 no-internal=true"),
        "{}",
        printed.err
    );
    let shown = daemon.ringway("show").await;
    assert_eq!(shown.code, 3);
    assert!(shown.out.contains("Port br0  (differs)"), "{}", shown.out);
    assert!(
        shown.out.contains("reason:  /dev/net/tun cannot"),
        "{}",
        shown.out
    );
    daemon.ok("set-br br0 no-internal=true").await;
    daemon.ok("show").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_of_an_older_state_file_get_their_interface() {
    let dir = tempdir().unwrap();
    let old = "version = 1\n[[bridge]]\nname = 'br0'\n[[bridge]]\nname = 'longer-than-16-bytes'\n";
    std::fs::write(dir.path().join("state.toml"), old).unwrap();
    let daemon = Daemon::start(&dir).await;
    assert_eq!(daemon.fake.port_names(), ["br0"]);
    let file = daemon.state_file();
    assert!(
        file.contains("type = \"internal\"\nnumber = 1023\n"),
        "{file}"
    );
    assert!(
        file.contains("no-internal = true"),
        "of the long name: {file}"
    );
    daemon.ok("show").await;
    daemon.stop().await;
    let daemon = Daemon::start(&dir).await;
    assert_eq!(daemon.state_file(), file, "once");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_on_an_attached_interface_is_told_with_its_remedy() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br-new").await;
    daemon.host.add("tap124", |interface| {
        interface.addresses = vec!["10.10.10.11/16".into()];
    });
    let printed = daemon.ringway("add-port br-new tap124 type=system").await;
    assert_eq!(printed.code, 0);
    assert_eq!(
        printed.err,
        "ringway: warning: port tap124: interface tap124 has the address 10.10.10.11/16, which no \
         longer works there: an attached interface's own addresses are dead. They belong on the \
         bridge's internal port. To move them:
  ip address del 10.10.10.11/16 dev tap124
  ip address add 10.10.10.11/16 dev br-new
  ip link set br-new up
"
    );
    daemon.ok("set-port tap124 external_ids:a=b").await;

    daemon.ok("add-br lone --no-internal").await;
    daemon.host.add("t1", |interface| {
        interface.addresses = vec!["10.0.0.1/8".into(), "fd00::1/64".into()];
        interface.admin_up = false;
    });
    let json = daemon.json("add-port lone t1 type=system").await;
    let warnings = json["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let first = warnings[0].as_str().unwrap();
    assert!(
        first.contains("has addresses 10.0.0.1/8, fd00::1/64, which no longer work"),
        "{first}"
    );
    assert!(
        first.contains(":\n  ringway set-br lone no-internal=false\n  ip address del"),
        "{first}"
    );
    let second = warnings[1].as_str().unwrap();
    assert!(second.ends_with("is down, so no frame passes. To set it up:\n  ip link set t1 up"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_of_another_bridge_is_not_taken() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0").await;
    daemon
        .host
        .add("eth1", |interface| interface.master = Some("virbr0".into()));
    let before = daemon.state_file();
    let printed = daemon.ringway("add-port br0 eth1 type=system").await;
    assert_eq!(printed.code, 1);
    assert_eq!(
        printed.err,
        "ringway: port eth1: interface eth1 is a member of virbr0, which takes its frames. To take \
         it out:\n  ip link set eth1 nomaster\n"
    );
    assert_eq!(daemon.state_file(), before);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mtus_that_differ_across_a_bridge_are_told_once() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0 --no-internal").await;
    daemon.ok("add-port br0 vm1 type=vhost-user mtu=1500").await;
    // A guest without one is given frames of any length.
    daemon.ok("add-port br0 vm0 type=vhost-user").await;
    daemon.host.add("eth1", |interface| interface.mtu = 9000);
    let printed = daemon.ringway("add-port br0 eth1 type=system").await;
    assert_eq!(printed.code, 0);
    assert_eq!(
        printed.err,
        "ringway: warning: bridge br0: port vm1 has an MTU of 1500, smaller than port eth1's 9000: \
         longer frames cannot leave through it and are dropped (`ringway drops` counts them as \
         exceeds_mtu). To raise it:\n  ringway set-port vm1 mtu=9000\n"
    );
    daemon.ok("set-port vm1 mtu=9000").await;
    let line = "add-port br0 vm2 type=vhost-user mtu=1500";
    let printed = daemon.ringway(line).await;
    assert!(
        printed.err.contains("port vm2 has an MTU of 1500"),
        "{}",
        printed.err
    );
    assert!(
        printed.err.contains("ringway set-port vm2 mtu=9000"),
        "{}",
        printed.err
    );
    daemon.ok("add-port br0 vm3 type=vhost-user mtu=4000").await;
    // Told when it comes about, not at each change of anything after that.
    for line in ["set-port vm2 tag=7", "set-port vm2 tag= external_ids:a=b"] {
        assert_eq!(daemon.ringway(line).await.err, "", "{line}");
    }
    let printed = daemon.ringway("set-port vm2 mtu=2000").await;
    let now = "port vm2 has an MTU of 2000";
    assert!(printed.err.contains(now), "{}", printed.err);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlan_options_without_effect_are_told() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0").await;
    let line = "add-port br0 vm1 type=vhost-user tag=5 trunks=1,2";
    let printed = daemon.ringway(line).await;
    assert_eq!(printed.code, 0);
    let telling = "ringway: warning: port vm1: trunks is ignored";
    assert!(printed.err.starts_with(telling), "{}", printed.err);
    daemon.ok("set-port vm1 mtu=1500").await;
    let printed = daemon
        .ringway("set-port vm1 vlan_mode=native-tagged tag=")
        .await;
    assert!(printed.err.contains("needs the VLAN"), "{}", printed.err);
    assert_eq!(printed.code, 1);
    daemon.ok("set-port vm1 vlan_mode=native-tagged").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patch_ports_need_each_other() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0").await;
    daemon.ok("add-br br1").await;
    let printed = daemon.ringway("add-port br0 a type=patch peer=b").await;
    assert_eq!(printed.code, 0);
    assert!(
        printed
            .err
            .ends_with(":\n  ringway add-port BR b type=patch peer=a\n"),
        "{printed:?}"
    );
    for (line, telling) in [
        ("add-port br0 b type=patch peer=a", "is on the same bridge"),
        ("add-port br1 b type=patch peer=br0", "is no patch port"),
        (
            "add-port br1 b type=patch peer=b",
            "peer is the port itself",
        ),
    ] {
        let printed = daemon.ringway(line).await;
        assert_eq!(printed.code, 1, "{line}");
        assert!(printed.err.contains(telling), "{line}: {}", printed.err);
    }
    daemon.ok("add-port br1 b type=patch peer=a").await;
    let printed = daemon.ringway("set-port b mtu=9000").await;
    assert_eq!(printed.code, 0);
    let telling = "port b: mtu=9000 is without effect on a patch port";
    assert!(printed.err.contains(telling), "{}", printed.err);
    assert_eq!(daemon.ringway("set-port b mtu=").await.err, "");
    let printed = daemon.ringway("add-port br1 c type=patch peer=a").await;
    assert!(printed.err.contains("has another peer, b"), "{printed:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_comes_back_with_its_interface() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0").await;
    daemon.host.add("tap124", |_| ());
    daemon.ok("add-port br0 tap124 type=system").await;

    daemon.host.remove("tap124");
    let why = "the interface has gone".to_owned();
    daemon
        .fake
        .set_port("tap124", |port| port.state = PortState::Failed { why });
    daemon.fake.calls();
    daemon.links_changed();
    let reason = "reason:  there is no interface tap124; it comes back by itself when the interface \
                  does (QEMU makes it, or: ip tuntap add tap124 mode tap)\n";
    until(&daemon, |shown| shown.contains(reason)).await;
    assert_eq!(
        daemon.fake.calls(),
        ["del_port tap124"],
        "taken down at once"
    );
    let shown = daemon.ringway("show").await;
    assert_eq!(shown.code, 3);
    assert!(
        shown
            .out
            .contains("desired: type=system xdp=auto queues=1 number=1\n"),
        "{}",
        shown.out
    );
    assert!(shown.out.contains("actual:  absent\n"), "{}", shown.out);
    daemon.stop().await;

    // The same after a restart, as after a reboot.
    let (fake, host) = (Fake::default(), FakeHost::default());
    let daemon = Daemon::start_on(&dir, fake, host).await;
    assert_eq!(daemon.ringway("show").await.code, 3);
    assert!(daemon.ringway("show").await.out.contains(reason));
    daemon.host.add("tap124", |_| ());
    daemon.links_changed();
    until(&daemon, |shown| {
        shown.contains("actual:  forwarding, port 1\n")
    })
    .await;
    daemon.ok("show").await;
    assert!(daemon.fake.state().looks > 0, "interfaces are looked at");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn details_tell_drops_and_what_the_device_counts() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0 --no-internal").await;
    daemon.ok("add-port br0 vm1 type=vhost-user").await;
    daemon
        .ok("add-port br0 p0 type=dpdk devargs=net_null0")
        .await;
    daemon.fake.add_traffic();
    let counters = vec![("rx_good_packets".to_owned(), 5)];
    daemon.fake.state().device.insert("p0".into(), counters);
    let text = daemon.ok("dump-ports br0 --detail").await;
    for line in [
        "             rx drops: bad_offload=3\n",
        "             tx drops: ring_full=12\n",
        "             device rx_good_packets: 5\n",
    ] {
        assert!(text.contains(line), "{line:?}\n{text}");
    }
    let json = daemon.json("dump-ports --detail").await;
    assert_eq!(json["ports"][0]["drops"]["tx"]["ring_full"], 12);
    assert_eq!(json["ports"][1]["device"]["rx_good_packets"], 5);
    assert!(daemon.json("dump-ports").await["ports"][1]["device"].is_null());
    daemon.stop().await;
}
