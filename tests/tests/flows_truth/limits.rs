//! A full megaflow table, and headers that are made up to fill it.

use std::time::{Duration, Instant};

use ringway_frontend::{NetDriver, SessionConfig};
use ringway_tests::daemon::DaemonOptions;
use ringway_tests::frames::{Frame, Payload, mac, plain, tcp, udp};
use ringway_tests::lab::{BRIDGE, Lab, Sent};
use ringway_tests::scripted::{LIMIT, even_balance};

const FLOW_LIMIT: u64 = 64;

fn flow(port: u16) -> Frame {
    udp().payload(Payload::Udp(port, 53, vec![4; 10]))
}

/// Thousands of flows in a table for 64: every packet goes its way all the
/// same, those who were there first are not put out, and it is told.
#[test]
fn a_full_table_is_told_and_keeps_established_flows() {
    let options = DaemonOptions {
        arguments: ["--flow-limit", "64", "--emc-entries", "1024"]
            .map(str::to_owned)
            .into(),
        ..DaemonOptions::default()
    };
    let ports = [("vm1", 0), ("vm2", 0), ("vm3", 0), ("vm4", 0)];
    let mut lab = Lab::start_with(options, &ports).unwrap();
    let mut rules = String::from("priority=9,in_port=vm3,actions=vm4\n");
    for port in 1000..3000 {
        let to = ["vm2", "vm4"][usize::from(port % 2 == 1)];
        rules += &format!("priority=5,udp,tp_src={port},actions={to}\n");
    }
    lab.load(&rules).unwrap();
    let established = |lab: &mut Lab| {
        lab.expect("vm3", &Sent::from(&plain()), &[("vm4", plain().bytes())])
            .unwrap();
    };
    established(&mut lab);
    let before = lab.cache().unwrap();
    assert_eq!((before.flows, before.flow_limit), (1, FLOW_LIMIT));
    for port in 1000..3000u16 {
        let to = ["vm2", "vm4"][usize::from(port % 2 == 1)];
        let frame = flow(port);
        lab.expect("vm1", &Sent::from(&frame), &[(to, frame.bytes())])
            .unwrap();
        if port % 50 == 0 {
            let before = lab.cache().unwrap();
            established(&mut lab);
            let after = lab.cache().unwrap();
            assert_eq!((after.missed, after.hits), (before.missed, before.hits + 1));
        }
    }
    let cache = lab.cache().unwrap();
    assert!(
        cache.flows <= FLOW_LIMIT && cache.flows >= FLOW_LIMIT / 2,
        "{cache:?}"
    );
    assert!(cache.not_installed >= 2000 - FLOW_LIMIT, "{cache:?}");
    assert_eq!(lab.megaflows().unwrap().len() as u64, cache.flows);
    let shown = lab.daemon.ok(&["dpctl", "show"]).unwrap();
    let told = format!("limit:{FLOW_LIMIT} not-installed:{}", cache.not_installed);
    assert!(shown.contains(&told), "no {told:?} in\n{shown}");
    // Rules count packets that no megaflow counts.
    let counted: u64 = lab.rules().unwrap().iter().map(|rule| rule.packets).sum();
    assert_eq!(counted, 2000 + 1 + 40);
    // Room again: new flows are installed again.
    lab.daemon.ok(&["dpctl", "del-flows"]).unwrap();
    let frame = flow(1000);
    for _ in 0..2 {
        lab.expect("vm1", &Sent::from(&frame), &[("vm2", frame.bytes())])
            .unwrap();
    }
    let again = lab.cache().unwrap();
    assert_eq!(again.not_installed, cache.not_installed);
    even_balance(&lab.daemon).unwrap();
}

/// Longer rings than usual, so that a burst of them keeps the switch busy.
const RING: u16 = 1024;
/// Frames per turn of each sender.
const TURN: u32 = 480;
/// Most established frames under way: what the receiver's ring always takes.
const UNDER_WAY: u64 = 960;

/// Chance that repeats itself (xorshift).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Established traffic from vm1 to vm2, and vm3 beside it.
struct Race {
    from: NetDriver,
    to: NetDriver,
    other: NetDriver,
    established: Vec<u8>,
    dice: Dice,
    sent: u64,
    received: u64,
}

impl Race {
    /// What vm3 sends: new flows, each with other addresses and ports, near to
    /// and far from what the rules name; or always the same.
    fn other_frame(&mut self, attack: bool, frame: &mut [u8]) {
        if !attack {
            return;
        }
        let (one, two) = (self.dice.next(), self.dice.next());
        // Source MAC address.
        frame[8..12].copy_from_slice(&(one as u32).to_be_bytes());
        // One bit differs from the rule's address and ports, so that each
        // length of prefix comes up.
        let address = 0x0a00_000au32 ^ (1 << (two % 32));
        frame[26..30].copy_from_slice(&address.to_be_bytes());
        let source = 12345u16 ^ 1 << ((two >> 8) % 16);
        frame[34..36].copy_from_slice(&source.to_be_bytes());
        let destination = 80u16 ^ 1 << ((two >> 16) % 16);
        frame[36..38].copy_from_slice(&destination.to_be_bytes());
    }

    /// Goes on for a while; how many established frames got through.
    fn run(&mut self, attack: bool, time: Duration) -> u64 {
        let begin = Instant::now();
        let before = self.received;
        let mut frame = tcp().with(|frame| frame.src = mac(3)).bytes();
        while begin.elapsed() < time {
            self.receive();
            for _ in 0..TURN {
                if self.sent - self.received < UNDER_WAY {
                    self.sent += u64::from(self.from.send(0, &self.established));
                }
            }
            for _ in 0..TURN {
                self.other_frame(attack, &mut frame);
                self.other.send(0, &frame);
            }
        }
        assert!(self.from.flush(0, LIMIT) && self.other.flush(0, LIMIT));
        self.receive();
        self.received - before
    }

    fn receive(&mut self) {
        while let Some(frame) = self.to.recv(0) {
            assert_eq!(frame, self.established);
            self.received += 1;
        }
    }
}

/// Headers that are made up to need ever new masks and megaflows do not stop
/// those who have theirs.
#[test]
fn made_up_headers_do_not_stop_established_traffic() {
    let mut lab = Lab::start(&[("vm2", 0)]).unwrap();
    for port in ["vm1", "vm3"] {
        lab.daemon
            .add_vhost_port(BRIDGE, port, &["mode=server"])
            .unwrap();
    }
    let large = SessionConfig {
        ring_size: RING,
        memory_size: 16 << 20,
        ..SessionConfig::default()
    };
    for port in ["vm1", "vm2", "vm3"] {
        if port == "vm2" {
            lab.unplug(port).unwrap();
        }
        lab.plug_in_with(port, 0, large.clone()).unwrap();
    }
    lab.load(
        "priority=90,udp,in_port=vm1,actions=vm2
         priority=40,tcp,dl_src=02:00:00:00:00:99,actions=vm2
         priority=30,tcp,tp_dst=80,nw_src=10.0.0.10,actions=drop
         priority=20,tcp,nw_src=10.0.0.10,tp_src=12345,actions=drop
         priority=15,tcp,tp_src=12345,actions=drop
         priority=0,actions=drop",
    )
    .unwrap();
    let mut guest = |port| lab.guests.remove(port).unwrap();
    let mut race = Race {
        from: guest("vm1"),
        to: guest("vm2"),
        other: guest("vm3"),
        established: udp().bytes(),
        dice: Dice(0x1234_5678_9abc_def1),
        sent: 0,
        received: 0,
    };
    let window = Duration::from_millis(250);
    race.run(false, window);
    let (mut quiet, mut attacked) = (0, 0);
    for _ in 0..5 {
        quiet += race.run(false, window);
        attacked += race.run(true, window);
        let cache = lab.cache().unwrap();
        assert!(cache.masks <= cache.mask_limit + 1, "{cache:?}");
        assert!(cache.flows <= cache.flow_limit, "{cache:?}");
    }
    let cache = lab.cache().unwrap();
    println!("{quiet} frames without the attack, {attacked} under it; {cache:?}");
    assert!(
        cache.missed > 10_000,
        "there was no attack to speak of: {cache:?}"
    );
    // Each of the frames got through: made-up headers cost others time only.
    assert_eq!(race.received, race.sent);
    assert!(
        attacked * 4 > quiet,
        "{quiet} frames without, {attacked} under the attack"
    );
    let drops = lab.daemon.drops().unwrap();
    let lost = drops.iter().filter(|drop| drop.reason == "upcall_limit");
    let lost: Vec<(&str, u64)> = lost
        .map(|drop| (drop.port.as_str(), drop.packets))
        .collect();
    assert_eq!(lost, [("vm3", cache.lost)], "{drops:?}");
    assert!(cache.lost > 0);
    let text = lab.daemon.ok(&["dpctl", "show"]).unwrap();
    assert!(text.contains(&format!("lost:{}", cache.lost)), "{text}");
    even_balance(&lab.daemon).unwrap();
}
