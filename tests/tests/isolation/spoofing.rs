//! Who a guest may say to be: frame by frame, changed while it runs, and kept
//! over a restart.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ringway_tests::frames::{Frame, arp, mac, neighbour, plain, tcp, tcp6, udp, udp6};
use ringway_tests::lab::{Lab, Sent};
use ringway_tests::scripted::even_balance;

fn lab() -> Lab {
    let lab = Lab::start(&[("bad", 0), ("good", 0), ("peer", 0)]).unwrap();
    lab.load("priority=0,actions=NORMAL").unwrap();
    lab
}

fn set(lab: &Lab, options: &str) {
    let line = format!("ringway set-port bad {options}");
    lab.daemon.shell_ok(&line).unwrap();
}

fn dropped(lab: &Lab, reason: &str) -> u64 {
    let drops = lab.daemon.drops().unwrap();
    let of_bad = drops.iter().filter(|drop| drop.port == "bad");
    of_bad
        .filter(|drop| drop.reason == reason)
        .map(|drop| drop.packets)
        .sum()
}

/// It reaches both others, whose stations are not known.
fn passes(lab: &mut Lab, frame: &Frame) {
    let bytes = frame.bytes();
    let both = [("good", bytes.clone()), ("peer", bytes)];
    lab.expect("bad", &Sent::from(frame), &both).unwrap();
}

fn is_refused(lab: &mut Lab, frame: &Frame, reason: &str) {
    let before = dropped(lab, reason);
    lab.expect("bad", &Sent::from(frame), &[]).unwrap();
    assert_eq!(dropped(lab, reason), before + 1, "{frame:?}");
}

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

#[test]
fn a_guest_that_says_to_be_another_reaches_nobody() {
    let mut lab = lab();
    let stolen = tcp().with(|frame| frame.src = mac(9));
    passes(&mut lab, &stolen);
    set(&lab, "allowed_macs=02:00:00:00:00:01");
    passes(&mut lab, &tcp());
    passes(&mut lab, &arp());
    passes(&mut lab, &plain());
    for frame in [
        stolen.clone(),
        plain().with(|frame| frame.src = mac(9)).tagged(0x8100, 5),
        arp().arp(|arp| arp.sha = mac(9)),
        arp().arp(|arp| arp.sha = mac(9)).tagged(0x8100, 5),
        neighbour(136, v6(1), mac(9)),
        neighbour(135, v6(1), mac(9)),
    ] {
        is_refused(&mut lab, &frame, "spoofed_mac");
    }

    set(&lab, "allowed_ips=10.0.0.1,2001:db8::1 allowed_vlans=0,5");
    for frame in [
        tcp(),
        udp().tagged(0x8100, 5),
        arp(),
        arp().arp(|arp| arp.spa = Ipv4Addr::UNSPECIFIED),
        tcp6(),
        neighbour(136, v6(1), mac(1)),
        neighbour(135, v6(2), mac(1)),
    ] {
        passes(&mut lab, &frame);
    }
    for frame in [
        udp().v4(|packet| packet.src = v4(9)),
        udp().v4(|packet| packet.src = v4(9)).tagged(0x8100, 5),
        arp().arp(|arp| arp.spa = v4(9)),
        arp().arp(|arp| (arp.op, arp.spa) = (2, v4(9))),
        udp6().v6(|packet| packet.src = v6(9)),
        neighbour(136, v6(9), mac(1)),
        neighbour(136, v6(9), mac(1)).v6(|packet| packet.extensions.push((60, vec![0; 7]))),
        plain(),
    ] {
        is_refused(&mut lab, &frame, "spoofed_ip");
    }
    is_refused(&mut lab, &tcp().tagged(0x8100, 6), "spoofed_vlan");
    is_refused(
        &mut lab,
        &tcp().tagged(0x8100, 6).tagged(0x8100, 0),
        "spoofed_vlan",
    );

    // Nothing of a refused frame was learned.
    let known = lab.daemon.ok(&["fdb", "show", "br0"]).unwrap();
    assert!(known.contains("02:00:00:00:00:01"), "{known}");
    let fresh = tcp().with(|frame| frame.src = mac(0x77));
    is_refused(&mut lab, &fresh, "spoofed_mac");
    let known = lab.daemon.ok(&["fdb", "show", "br0"]).unwrap();
    assert!(!known.contains("02:00:00:00:00:77"), "{known}");

    // Others are asked nothing.
    let back = tcp().with(|frame| (frame.dst, frame.src) = (mac(1), mac(9)));
    lab.expect("peer", &Sent::from(&back), &[("bad", back.bytes())])
        .unwrap();
    // Taken away while it runs.
    set(&lab, "allowed_macs= allowed_ips= allowed_vlans=");
    lab.expect(
        "bad",
        &Sent::from(&fresh),
        &[("good", fresh.bytes()), ("peer", fresh.bytes())],
    )
    .unwrap();
    even_balance(&lab.daemon).unwrap();
}

#[test]
fn a_guard_is_kept_over_a_restart_and_wrong_ones_are_refused_by_name() {
    let mut lab = lab();
    let text = "allowed_macs=02:00:00:00:00:01 allowed_ips=10.0.0.0/24 max_macs=3 mac_move=deny \
                storm_pps=100";
    set(&lab, text);
    for (wrong, told) in [
        ("allowed_macs=ff:ff:ff:ff:ff:ff", "allowed_macs"),
        ("allowed_ips=10.0.0.1/8", "10.0.0.0/8"),
        ("max_macs=0", "max_macs"),
        ("mac_move=never", "allow, deny"),
        ("storm_pps= storm_burst=9", "storm_pps"),
    ] {
        let args: Vec<_> = ["set-port", "bad"]
            .into_iter()
            .chain(wrong.split(' '))
            .collect();
        let why = lab.daemon.fails(&args).unwrap();
        assert!(why.contains(told), "{wrong}: {why}");
    }
    let shown = lab.daemon.ok(&["show"]).unwrap();
    assert!(shown.contains(text), "{shown}");
    lab.guests.clear();
    lab.daemon.kill();
    lab.daemon.start_again().unwrap();
    let shown = lab.daemon.ok(&["show"]).unwrap();
    assert!(shown.contains(text), "{shown}");
    for port in ["bad", "good", "peer"] {
        lab.plug_in(port, 0).unwrap();
    }
    passes(&mut lab, &tcp());
    is_refused(
        &mut lab,
        &tcp().with(|frame| frame.src = mac(9)),
        "spoofed_mac",
    );
}

#[test]
fn who_looks_sees_why_a_frame_was_refused() {
    let mut lab = lab();
    set(&lab, "allowed_macs=02:00:00:00:00:01");
    let flow = "in_port=bad,tcp,dl_src=02:00:00:00:00:09,dl_dst=02:00:00:00:00:02";
    let told = lab.daemon.ok(&["trace", "br0", flow]).unwrap();
    assert!(
        told.contains("guard refuses it before that, as spoofed_mac"),
        "{told}"
    );
    let own = flow.replace("00:09", "00:01");
    let told = lab.daemon.ok(&["trace", "br0", &own]).unwrap();
    assert!(!told.contains("guard"), "{told}");
    let mut bad = lab.guests.remove("bad").unwrap();
    let frame = tcp().with(|frame| frame.src = mac(9)).bytes();
    let daemon = &lab.daemon;
    for (command, told) in [
        (
            &["trace", "--port", "bad", "--next", "--timeout", "20"][..],
            "Dropped: spoofed_mac",
        ),
        (&["doctor"][..], "allowed_macs"),
    ] {
        std::thread::scope(|scope| {
            // The doctor fails when it has found something.
            let asked = scope.spawn(|| daemon.ringway(command).unwrap().stdout);
            while !asked.is_finished() {
                bad.send(0, &frame);
                std::thread::sleep(Duration::from_millis(5));
            }
            let said = asked.join().unwrap();
            assert!(said.contains(told), "{command:?}: {said}");
            assert!(said.contains("guard"), "{command:?}: {said}");
        });
    }
}

/// Stations of a port that keeps them are not taken over, as long as the
/// port's guest is there.
#[test]
fn an_address_is_not_taken_away_from_its_guest() {
    let mut lab = lab();
    lab.daemon
        .ok(&["set-port", "good", "mac_move=deny"])
        .unwrap();
    let own = plain().with(|frame| (frame.dst, frame.src) = (mac(0xff), mac(5)));
    let to_all = |from: &str| {
        let others = ["bad", "good", "peer"]
            .into_iter()
            .filter(|port| *port != from);
        others.map(|port| (port, own.bytes())).collect::<Vec<_>>()
    };
    lab.expect("good", &Sent::from(&own), &to_all("good"))
        .unwrap();
    let to_own = plain().with(|frame| (frame.dst, frame.src) = (mac(5), mac(6)));
    for _ in 0..3 {
        is_refused(&mut lab, &own, "mac_move_denied");
        lab.expect("peer", &Sent::from(&to_own), &[("good", to_own.bytes())])
            .unwrap();
    }
    // Its guest has gone, to another host perhaps.
    lab.unplug("good").unwrap();
    lab.expect("bad", &Sent::from(&own), &[("peer", own.bytes())])
        .unwrap();
    lab.expect("peer", &Sent::from(&to_own), &[("bad", to_own.bytes())])
        .unwrap();
    even_balance(&lab.daemon).unwrap();
}
