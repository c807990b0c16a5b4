//! How much a guest may send, and what it may fill, beside a pair of guests
//! that do nothing out of the ordinary.

use std::time::Duration;

use ringway_tests::frames::{Frame, Payload, mac, udp};
use ringway_tests::lab::{BRIDGE, Sent};
use ringway_tests::scripted::frame;

use crate::crowd::{ATTACK_LEN, Crowd, PAIR, ROUND};

const NORMAL: &str = "priority=0,actions=NORMAL";

/// A station of the guest that is neither the attacker nor one of the pair.
const PEER: u8 = 0x0e;

/// A frame from a station of that guest's.
fn from_peer(station: u8) -> Sent {
    let frame = udp().with(|frame| (frame.src, frame.dst) = (mac(station), mac(PEER)));
    Sent::from(&frame)
}

/// A frame of the pair's, of some length.
fn plain(to: u8, from: u8, number: u32) -> Vec<u8> {
    frame(to, from, 60 + (number as usize * 37) % 1400, number)
}

#[test]
fn a_spoofing_guest_costs_the_others_nothing() {
    let options = ["allowed_macs=02:00:00:00:00:aa"];
    let mut crowd = Crowd::start(NORMAL, &options, plain, |frame, n| {
        // Says to be one of the pair, or a station of its own making.
        frame[11] = PAIR[n as usize % 2];
        frame[10] = (n / 2 % 3) as u8;
    });
    crowd.pair_keeps_its_rate();
    let spoofed = crowd.dropped("bad", "spoofed_mac");
    assert_eq!(spoofed, crowd.lab.daemon.port("bad").unwrap().rx_packets);
    crowd.end();
}

#[test]
fn a_storm_is_policed_and_the_others_lose_nothing() {
    let options = ["storm_pps=1000", "storm_burst=50"];
    let mut crowd = Crowd::start(NORMAL, &options, plain, |frame, n| {
        // Broadcast, multicast, and stations that nobody knows.
        match n % 3 {
            0 => frame[..6].copy_from_slice(&[0xff; 6]),
            1 => frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]),
            _ => frame[..6].copy_from_slice(&mac(0xee)),
        }
    });
    crowd.pair_keeps_its_rate();
    let before = crowd.lab.daemon.port("bad").unwrap().rx_packets;
    let policed = crowd.dropped("bad", "storm_policed");
    let time = crowd.attack(Duration::from_millis(500));
    let sent = crowd.lab.daemon.port("bad").unwrap().rx_packets - before;
    let passed = sent - (crowd.dropped("bad", "storm_policed") - policed);
    println!("{sent} frames to all, {passed} passed in {time:?}");
    let allowed = 1000.0 * time.as_secs_f64() + 50.0;
    assert!(
        sent > 10_000 && passed as f64 <= allowed * 1.1,
        "{passed} of {allowed}"
    );
    assert!(passed as f64 >= allowed * 0.5, "{passed} of {allowed}");
    crowd.end();
}

#[test]
fn made_up_stations_displace_their_own() {
    let mut crowd = Crowd::start(NORMAL, &[], plain, |frame, n| {
        // A new station each time; to a station that is there.
        frame[7] = 0xee;
        frame[8..12].copy_from_slice(&(n as u32).to_be_bytes());
        frame[..6].copy_from_slice(&mac(PEER));
    });
    crowd.lab.send("peer", &from_peer(PEER)).unwrap();
    crowd.pair_keeps_its_rate();
    let known = || {
        let shown = crowd.lab.daemon.json(&["fdb", "show", BRIDGE]).unwrap();
        shown["entries"].as_array().unwrap().clone()
    };
    let at = |port: &str| {
        let known = known();
        known
            .iter()
            .filter(|entry| entry["port_name"] == port)
            .count()
    };
    let all = known().len();
    println!("{all} stations, {} of them the attacker's", at("bad"));
    assert!((4000..=8192 - 1024).contains(&at("bad")), "of {all}");
    assert_eq!((at("good1"), at("good2"), at("peer")), (1, 1, 1));
    let shown = crowd.lab.daemon.show_port("bad").unwrap();
    assert!(
        shown["actual"]["stations_refused"].as_u64().unwrap() > 1000,
        "{shown}"
    );
    // There is room for others all the same.
    for station in 0x10..0x40 {
        crowd.lab.send("peer", &from_peer(station)).unwrap();
    }
    let learned = {
        let shown = crowd.lab.daemon.json(&["fdb", "show", BRIDGE]).unwrap();
        let entries = shown["entries"].as_array().unwrap().clone();
        entries
            .iter()
            .filter(|entry| entry["port_name"] == "peer")
            .count()
    };
    assert_eq!(learned, 1 + 0x30);

    // With a bound of its own it is told by name, and stays at that.
    crowd.lab.daemon.ok(&["fdb", "flush", BRIDGE]).unwrap();
    crowd
        .lab
        .daemon
        .ok(&["set-port", "bad", "max_macs=4"])
        .unwrap();
    crowd.lab.send("peer", &from_peer(PEER)).unwrap();
    crowd.pair_keeps_its_rate();
    let shown = crowd.lab.daemon.show_port("bad").unwrap();
    assert_eq!(shown["actual"]["stations"], 4, "{shown}");
    assert!(crowd.dropped("bad", "fdb_limit") > 10_000);
    crowd.end();
}

#[test]
fn what_a_port_sends_is_policed_as_open_vswitch_has_it() {
    // To a station that is there.
    let mut crowd = Crowd::start(NORMAL, &[], plain, |frame, _| {
        frame[..6].copy_from_slice(&mac(PEER));
    });
    crowd.lab.send("peer", &from_peer(PEER)).unwrap();
    let bits = (ATTACK_LEN * 8) as f64;
    for (settings, per_second, burst) in [
        (
            "ingress_policing_rate=10000 ingress_policing_burst=1000",
            10_000_000.0 / bits,
            1_000_000.0 / bits,
        ),
        (
            "ingress_policing_rate=0 ingress_policing_burst=0 ingress_policing_kpkts_rate=20 \
             ingress_policing_kpkts_burst=1",
            20_000.0,
            1000.0,
        ),
    ] {
        let line = format!("ovs-vsctl set interface bad {settings}");
        crowd.lab.daemon.shell_ok(&line).unwrap();
        let before = crowd.lab.daemon.port("bad").unwrap().rx_packets;
        let policed = crowd.dropped("bad", "ingress_policed");
        let time = crowd.attack(Duration::from_millis(500));
        let sent = crowd.lab.daemon.port("bad").unwrap().rx_packets - before;
        let passed = (sent - (crowd.dropped("bad", "ingress_policed") - policed)) as f64;
        let allowed = per_second * time.as_secs_f64() + burst;
        println!("{settings}: {sent} frames, {passed} passed in {time:?}");
        assert!(sent as f64 > 2.0 * allowed, "no more than {sent} were sent");
        assert!(passed <= allowed * 1.1, "{passed} of {allowed}");
        assert!(passed >= allowed * 0.5, "{passed} of {allowed}");
    }
    let told = crowd
        .lab
        .daemon
        .shell_ok("ovs-vsctl get interface bad ingress_policing_kpkts_rate");
    assert_eq!(told.unwrap().trim(), "20");
    crowd.pair_keeps_its_rate();
    crowd.end();
}

fn flow(to: u8, from: u8, ports: (u16, u16)) -> Frame {
    let udp = udp().payload(Payload::Udp(ports.0, ports.1, vec![7; 10]));
    udp.with(|frame| (frame.dst, frame.src) = (mac(to), mac(from)))
}

/// The pair has another flow for each two rounds.
fn flows(to: u8, from: u8, number: u32) -> Vec<u8> {
    let one = (number / (2 * ROUND)) as u16;
    let mut bytes = flow(to, from, (one, one ^ 0x5555)).bytes();
    bytes.extend(number.to_be_bytes());
    bytes
}

/// Every flow needs a megaflow of its own. One guest has nothing but new flows,
/// and fills the table with them; another one's new flows are set up.
#[test]
fn a_guest_with_nothing_but_misses_does_not_starve_anothers() {
    let read = "move:NXM_OF_IP_SRC[]->NXM_NX_REG0[],move:NXM_OF_UDP_SRC[]->NXM_NX_REG2[0..15],\
                move:NXM_OF_UDP_DST[]->NXM_NX_REG2[16..31]";
    let rules = format!(
        "priority=9,udp,in_port=good1,actions={read},good2
         priority=9,udp,in_port=good2,actions={read},good1
         priority=9,udp,in_port=bad,actions={read},peer"
    );
    let mut crowd = Crowd::start(&rules, &[], flows, |frame, n| {
        if n == 0 {
            let made = flow(0xee, 0xba, (0, 0)).bytes();
            frame[..made.len()].copy_from_slice(&made);
        }
        // Source address and ports.
        let [.., a, b, c, d, e, f] = n.to_be_bytes();
        frame[28..30].copy_from_slice(&[a, b]);
        frame[34..38].copy_from_slice(&[c, d, e, f]);
    });
    crowd.pair_keeps_its_rate();
    let cache = crowd.lab.cache().unwrap();
    println!("{cache:?}");
    assert!(
        cache.missed > 50_000,
        "there was no attack to speak of: {cache:?}"
    );
    assert!(cache.lost > 0, "no miss was one too many: {cache:?}");
    let lost = ["good1", "good2"].map(|port| crowd.dropped(port, "upcall_limit"));
    assert_eq!(lost, [0, 0]);
    crowd.end();
}
