//! Interfaces, addresses, routes and their changes on the kernel that runs this.

mod namespace;

use std::os::fd::AsFd;

use namespace::{in_namespace, sh};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_host::link::{self, LinkWatch, addresses, remedy, routes};
use ringway_host::{HostError, xdp};

fn index(name: &str) -> u32 {
    link::find(name).unwrap().unwrap().index
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn facts_are_as_ip_tells_them() {
    in_namespace("facts_are_as_ip_tells_them", || {
        sh("ip link add b0 type bridge; ip link add v0 type veth peer name v1");
        sh("ip link set v0 address 02:00:00:00:00:0a mtu 9000 master b0 up; ip link set v1 up");
        let v0 = link::find("v0").unwrap().unwrap();
        assert_eq!(v0.mac, Some([2, 0, 0, 0, 0, 10]));
        assert_eq!((v0.mtu, v0.kind.as_str()), (9000, "veth"));
        assert_eq!((v0.min_mtu, v0.max_mtu), (68, 65535));
        assert!(v0.admin_up && v0.carrier);
        assert_eq!(v0.master, Some(index("b0")));
        assert!(v0.promiscuity > 0, "a bridge hears all");
        sh("ip link set v1 down");
        assert!(!link::find("v0").unwrap().unwrap().carrier);
        let lo = link::find("lo").unwrap().unwrap();
        assert_eq!((lo.mac, lo.admin_up, lo.master), (None, false, None));
        let names: Vec<String> = link::all().unwrap().into_iter().map(|l| l.name).collect();
        assert_eq!(names.first().map(String::as_str), Some("lo"));
        assert!(
            ["b0", "v0", "v1"]
                .iter()
                .all(|n| names.contains(&(*n).to_owned()))
        );
        assert_eq!(link::find("v2").unwrap(), None);
    });
}

#[test]
fn knobs_turn_and_refusals_name_the_limits() {
    in_namespace("knobs_turn_and_refusals_name_the_limits", || {
        sh("ip link add v0 type veth peer name v1");
        let v0 = index("v0");
        link::set_mac(v0, [2, 0, 0, 0, 0, 1]).unwrap();
        link::set_mtu(v0, 9000).unwrap();
        link::set_up(v0, true).unwrap();
        let found = link::find("v0").unwrap().unwrap();
        assert_eq!(
            (found.mac, found.mtu, found.admin_up),
            (Some([2, 0, 0, 0, 0, 1]), 9000, true)
        );
        link::set_up(v0, false).unwrap();
        assert!(!link::find("v0").unwrap().unwrap().admin_up);

        let error = link::set_mtu(v0, 70_000).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot set the MTU of v0: Invalid argument")
                && error.ends_with("its driver takes 68 to 65535, 70000 was asked for"),
            "{error}"
        );
        let error = link::set_mac(v0, [1, 0, 0, 0, 0, 1])
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("the first byte must be even"), "{error}");
        assert_eq!(link::find("v0").unwrap().unwrap().mtu, 9000);

        link::delete(v0).unwrap();
        assert_eq!(link::find("v1").unwrap(), None, "a pair goes together");
        link::delete(v0).unwrap();
        let error = link::set_up(v0, true).unwrap_err();
        assert!(matches!(error, HostError::NoInterface { .. }), "{error}");
        let lo = index("lo");
        let error = link::delete(lo).unwrap_err().to_string();
        assert!(error.starts_with("cannot delete lo: "), "{error}");
    });
}

#[test]
fn addresses_and_routes_are_told_in_the_words_of_ip() {
    in_namespace("addresses_and_routes_are_told_in_the_words_of_ip", || {
        sh("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up");
        sh("ip addr add 10.1.0.1/24 brd + dev v0; ip addr add 10.1.0.2/24 dev v0");
        sh(
            "ip addr add 10.9.0.1 peer 10.9.0.2/32 dev v0; ip addr add 169.254.1.1/16 scope link dev v0",
        );
        sh("ip addr add 2001:db8::1/64 dev v0 nodad; ip addr add 10.7.0.1/24 dev v1");
        let v0 = index("v0");
        let all = addresses(v0).unwrap();
        let global: Vec<_> = all.iter().filter(|a| !a.scope_link).cloned().collect();
        assert_eq!(
            texts(&global),
            [
                "10.1.0.1/24",
                "10.9.0.1 peer 10.9.0.2/32",
                "10.1.0.2/24",
                "2001:db8::1/64"
            ]
        );
        assert_eq!(global[0].broadcast, Some([10, 1, 0, 255].into()));
        let linked: Vec<_> = all.iter().filter(|a| a.scope_link).cloned().collect();
        assert!(
            texts(&linked).contains(&"169.254.1.1/16".to_owned()),
            "{linked:?}"
        );

        let written = [
            "default via 10.1.0.254 dev v0 src 10.1.0.2 metric 50 mtu 1400 advmss 1360",
            "10.2.0.0/16 dev v0",
            "10.3.0.0/16 via 192.0.2.1 dev v0 onlink",
            "10.4.0.0/16 via inet6 2001:db8::ff dev v0",
            "10.5.0.0/16 nexthop via 10.1.0.3 dev v0 weight 1 nexthop via 10.7.0.3 dev v1 weight 5",
            "10.6.0.0/16 tos 0x10 via 10.1.0.4 dev v0 mtu lock 1300",
        ];
        let written6 = [
            "default via 2001:db8::fe dev v0 metric 1024",
            "2001:db8:1::/48 dev v0 metric 7",
        ];
        for route in written {
            sh(&format!("ip route add {route}"));
        }
        for route in written6 {
            sh(&format!("ip -6 route add {route}"));
        }
        sh(
            "ip route add 10.8.0.0/16 via 10.7.0.3 dev v1; ip route add 10.8.0.0/16 dev v0 table 100",
        );
        let mut told = texts(&routes(v0).unwrap());
        let mut wanted: Vec<String> = [&written[..], &written6[..]]
            .concat()
            .iter()
            .map(|r| (*r).to_owned())
            .collect();
        told.sort();
        wanted.sort();
        assert_eq!(told, wanted);
        assert!(addresses(4711).unwrap().is_empty());
        assert!(routes(4711).unwrap().is_empty());
    });
}

#[test]
fn the_remedy_moves_all_when_its_commands_are_run() {
    in_namespace("the_remedy_moves_all_when_its_commands_are_run", || {
        sh("ip link add tap124 type veth peer name far; ip link set tap124 up; ip link set far up");
        sh(
            "ip link add br-new type veth peer name p1; ip link set p1 up; ip link add name 'a;b' type veth peer name p2; ip link set p2 up",
        );
        assert!(
            remedy(&link::find("tap124").unwrap().unwrap(), "br-new")
                .unwrap()
                .is_empty()
        );
        // The story's own case.
        sh("ip addr add 10.10.10.11/16 dev tap124");
        let tap = link::find("tap124").unwrap().unwrap();
        assert!(remedy(&tap, "tap124").unwrap().is_empty());
        assert_eq!(
            remedy(&tap, "br-new").unwrap(),
            [
                "ip addr del 10.10.10.11/16 dev tap124",
                "ip addr add 10.10.10.11/16 dev br-new",
                "ip link set br-new up"
            ]
        );
        // And one with all there can be.
        sh(
            "ip addr add 10.10.10.12/16 dev tap124; ip addr add 10.9.0.1 peer 10.9.0.2/32 dev tap124",
        );
        sh("ip addr add 10.5.0.1/24 brd + dev tap124");
        sh(
            "ip addr add 169.254.1.1/16 scope link dev tap124; ip addr add 2001:db8::1/64 dev tap124 nodad",
        );
        sh("ip addr add 10.7.0.1/24 dev far");
        sh("ip route add 10.2.0.0/16 dev tap124; ip route add 10.3.0.0/16 via 10.2.0.1");
        sh("ip route add default via 10.10.0.1 src 10.10.10.12 metric 50");
        sh("ip route add 10.6.0.0/16 nexthop via 10.10.0.3 nexthop via 10.7.0.3 weight 5");
        sh("ip -6 route add default via 2001:db8::fe src 2001:db8::1");
        let moved = |interface: &str| {
            let index = index(interface);
            let addresses: Vec<_> = addresses(index)
                .unwrap()
                .into_iter()
                .filter(|a| !a.scope_link)
                .collect();
            let mut routes: Vec<_> = routes(index)
                .unwrap()
                .iter()
                .map(|r| r.moved(interface, "X").to_string())
                .collect();
            routes.sort();
            (addresses, routes)
        };
        let before = moved("tap124");
        assert_eq!((before.0.len(), before.1.len()), (5, 5), "{before:?}");
        for (from, to) in [("tap124", "br-new"), ("br-new", "a;b")] {
            for command in remedy(&link::find(from).unwrap().unwrap(), to).unwrap() {
                sh(&command);
            }
            assert_eq!(moved(to), before);
            assert!(link::find(to).unwrap().unwrap().admin_up);
            assert_eq!(moved(from), (vec![], vec![]));
        }
    });
}

fn pending(watch: &LinkWatch, milliseconds: u8) -> bool {
    let mut descriptors = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::from(milliseconds)).unwrap() == 1
}

/// Takes in what the kernel does by itself after a change: a carrier, an address.
fn settle(watch: &mut LinkWatch) {
    for _ in 0..100 {
        if !pending(watch, 50) {
            return;
        }
        watch.wait().unwrap();
    }
    panic!("it never ends");
}

#[test]
fn changes_are_told() {
    in_namespace("changes_are_told", || {
        let mut watch = LinkWatch::new().unwrap();
        assert!(!pending(&watch, 0));
        for change in [
            "ip link add d0 type bridge",
            "ip link set d0 up",
            "ip addr add 10.1.0.1/24 dev d0",
            "ip addr del 10.1.0.1/24 dev d0",
            "ip addr add 2001:db8::1/64 dev d0 nodad",
            "ip link set d0 mtu 1400",
            "ip link del d0",
        ] {
            sh(change);
            // An IPv6 address is told by a worker of the kernel, a little later.
            assert!(pending(&watch, 250), "{change}");
            watch.wait().unwrap();
            settle(&mut watch);
        }
    });
}

#[test]
fn a_watch_that_overflows_goes_on() {
    in_namespace("a_watch_that_overflows_goes_on", || {
        let mut watch = LinkWatch::new().unwrap();
        sh("ip link add d0 type bridge");
        let d0 = index("d0");
        // Far more than fits a socket of 208 KiB with messages of over a kilobyte.
        for change in 0..2000 {
            link::set_mtu(d0, 1400 + change % 2).unwrap();
        }
        watch.wait().unwrap();
        settle(&mut watch);
        sh("ip link del d0");
        assert!(pending(&watch, 0));
        watch.wait().unwrap();
    });
}

#[test]
fn drivers_tell_what_they_do() {
    in_namespace("drivers_tell_what_they_do", || {
        sh("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up");
        let on = link::features("v0").unwrap();
        assert_eq!(on.driver, "veth");
        assert_eq!(on.speed, Some(10_000));
        assert!(on.tx_checksum && on.tso4 && on.tso6, "{on:?}");
        sh("ethtool -K v0 tso off tx off gro on");
        let off = link::features("v0").unwrap();
        assert!(
            !off.tx_checksum && !off.tso4 && !off.tso6 && off.gro,
            "{off:?}"
        );
        sh("ethtool -K v0 gro off");
        assert!(!link::features("v0").unwrap().gro);
        let error = link::features("v2").unwrap_err();
        assert!(matches!(error, HostError::NoInterface { .. }), "{error}");
        let lo = link::features("lo").unwrap();
        assert_eq!((lo.driver.as_str(), lo.speed), ("", None));
    });
}

#[test]
fn no_veth_has_zero_copy() {
    in_namespace("no_veth_has_zero_copy", || {
        sh("ip link add v0 type veth peer name v1");
        assert!(!xdp::zero_copy(index("v0")).unwrap());
        let error = xdp::zero_copy(4711).unwrap_err();
        assert!(matches!(error, HostError::NoInterface { .. }), "{error}");
    });
}
