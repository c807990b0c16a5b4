//! Offloads in every combination, with real TCP: between guests on vhost-user
//! and on a tap, the host and a neighbour behind a veth, each with checksum and
//! segmentation offloads and without them, untagged and under VLAN tags.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use ringway_tests::daemon::Daemon;
use ringway_tests::frames::sum;
use ringway_tests::lan::{Lan, Member, NEIGHBOUR, Stack, offloads, reach};
use ringway_tests::netns::Namespace;
use ringway_tests::process::Process;
use ringway_tests::{pcap, wait};

const MTU: usize = 1500;
const LIMIT: Duration = Duration::from_secs(20);
const ETHERNET: usize = 14;

const VM1: usize = 0;
const VM2: usize = 1;
const TAP1: usize = 2;
const HOST: usize = 4;
const PORTS: [&str; 5] = ["vm1", "vm2", "tap1", "up0", "br0"];

/// Who has offloads, by member. vm2 never has: its device was made without.
/// Every two of the others meet in all four combinations.
const RUNS: [[bool; 5]; 5] = [
    [true, false, true, true, false],
    [true, false, true, false, true],
    [true, false, false, true, true],
    [false, false, true, true, true],
    [false, false, false, false, false],
];

/// How the bridge's ports are set, and by which network everybody is reached
/// then: a VLAN device `vN` has 10.1.N.x, an access port's untagged device too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vlans {
    None,
    /// Guests tag for themselves; the host and its neighbour, whose kernel may
    /// know no VLANs, are in VLAN 30.
    Guests,
    /// vm2 tags, the others are in VLAN 40.
    Vm2,
    /// The other guests tag, vm2 is in VLAN 41 as the others are.
    OtherGuests,
}

impl Vlans {
    const ALL: [Self; 4] = [Self::None, Self::Guests, Self::Vm2, Self::OtherGuests];

    fn network(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Guests => 30,
            Self::Vm2 => 40,
            Self::OtherGuests => 41,
        }
    }

    fn tags_itself(self, member: usize) -> bool {
        let tagging: &[usize] = match self {
            Self::None => &[],
            Self::Guests => &[VM1, VM2, TAP1],
            Self::Vm2 => &[VM2],
            Self::OtherGuests => &[VM1, TAP1],
        };
        tagging.contains(&member)
    }

    /// Sets all ports in one transaction.
    fn set(self, daemon: &Daemon) {
        let network = self.network();
        let commands: Vec<String> = PORTS
            .iter()
            .enumerate()
            .map(|(member, port)| {
                let clear = format!("clear port {port} tag -- clear port {port} trunks");
                match self {
                    Self::None => clear,
                    _ if self.tags_itself(member) => {
                        format!("{clear} -- set port {port} trunks={network}")
                    }
                    _ => format!("{clear} -- set port {port} tag={network}"),
                }
            })
            .collect();
        let line = format!("ovs-vsctl {}", commands.join(" -- "));
        daemon.shell_ok(&line).unwrap();
    }
}

/// The addresses and VLAN devices of a member. A device's untagged address in
/// 10.1.0.0/24 is there already, except after a driver came anew.
fn configure(lan: &mut Lan, number: usize, from_scratch: bool) {
    let member = &mut lan.members[number];
    let device = member.device();
    let mut lines = vec![format!("ip link set {device} up")];
    if from_scratch {
        let address = member.address(0);
        lines.push(format!("ip addr add {address}/24 dev {device}"));
    }
    for vlans in [Vlans::Guests, Vlans::Vm2, Vlans::OtherGuests] {
        let network = vlans.network();
        let address = member.address(network);
        lines.push(match vlans.tags_itself(number) {
            true => format!(
                "ip link add link {device} name v{network} type vlan id {network} && \
                 ip addr add {address}/24 dev v{network} && ip link set v{network} up"
            ),
            false => format!("ip addr add {address}/24 dev {device}"),
        });
    }
    member.run(&lan.daemon, &lines.join(" && ")).unwrap();
}

/// Gives a member its offloads, or takes them away.
fn switch(lan: &mut Lan, number: usize, on: bool) {
    let daemon = &lan.daemon;
    if let Stack::Guest(guest) = &mut lan.members[number].stack {
        // What it sends; the other end of the tap is what it receives.
        let word = u8::from(on);
        let line = format!("rmmod virtio_net && modprobe virtio_net csum={word} gso={word}");
        guest.ok(&line).unwrap();
        if number == TAP1 {
            offloads(daemon.namespace(), "tap1", on).unwrap();
        }
        configure(lan, number, true);
        let (to, from) = (lan.members[HOST].address(0), &mut lan.members[number]);
        reach(&lan.daemon, from, &to).unwrap();
        return;
    }
    if number == NEIGHBOUR {
        offloads(daemon.namespace(), "up0", on).unwrap();
        offloads(lan.neighbour(), "eth0", on).unwrap();
    } else {
        offloads(daemon.namespace(), "br0", on).unwrap();
    }
}

/// What an interface receives, in a file.
struct Capture {
    tcpdump: Process,
    file: std::path::PathBuf,
}

impl Capture {
    fn start(daemon: &Daemon, namespace: &Namespace, device: &str) -> Self {
        let file = daemon.path(&format!("{device}.pcap"));
        let log = daemon.path(&format!("{device}-tcpdump.log"));
        let _ = std::fs::remove_file(&file);
        let path = file.to_string_lossy();
        // Without a filter: tags that the kernel took off hide a frame from "tcp".
        let line = [
            "tcpdump", "-i", device, "-Q", "in", "-Z", "root", "-B", "32768", "-U", "-w", &*path,
        ];
        let tcpdump = namespace.spawn("tcpdump", &line, &log).unwrap();
        wait::until("tcpdump to listen", LIMIT, || {
            match tcpdump.log().contains("listening on") {
                true => Ok(()),
                false => Err(tcpdump.log()),
            }
        })
        .unwrap();
        Self { tcpdump, file }
    }

    fn end(mut self) -> Vec<Vec<u8>> {
        self.tcpdump.signal(Signal::SIGTERM).unwrap();
        self.tcpdump.wait_exit(LIMIT).unwrap();
        pcap::read(&self.file).unwrap()
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// TCP frames with the right checksum.
    whole: usize,
    /// TCP frames whose checksum is left to the receiver, rightly prepared.
    partial: usize,
    /// TCP frames with a wrong checksum.
    wrong: Vec<Vec<u8>>,
    /// Frames longer than the MTU allows.
    oversized: usize,
}

impl Seen {
    fn of(frames: &[Vec<u8>]) -> Self {
        let mut seen = Self::default();
        for frame in frames {
            let mut at = ETHERNET;
            while frame[at - 2..at] == [0x81, 0x00] {
                at += 4;
            }
            if frame[at - 2..at] != [0x08, 0x00] || frame[at + 9] != 6 {
                continue;
            }
            let ip = &frame[at..];
            let header = usize::from(ip[0] & 15) * 4;
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let tcp = &ip[header..total];
            let length = u16::try_from(tcp.len()).unwrap().to_be_bytes();
            let pseudo = [&ip[12..20], &[0, 6][..], &length[..]].concat();
            let stored = u16::from_be_bytes([tcp[16], tcp[17]]);
            if sum(&[&pseudo[..], tcp].concat()) == 0xffff {
                seen.whole += 1;
            } else if stored == sum(&pseudo) {
                seen.partial += 1;
            } else {
                seen.wrong.push(frame[..at + header + 20].to_vec());
            }
            seen.oversized += usize::from(total > MTU);
        }
        seen
    }
}

/// TCP segments that a stack refused for their checksum.
fn checksum_errors(daemon: &Daemon, member: &mut Member) -> u64 {
    let snmp = member.run(daemon, "grep ^Tcp: /proc/net/snmp").unwrap();
    let mut lines = snmp.lines().map(str::split_whitespace);
    let (names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.into_iter().position(|name| name == "InCsumErrors");
    values.nth(at.unwrap()).unwrap().parse().unwrap()
}

#[test]
fn every_combination_of_offloads_and_tags_carries_tcp() {
    let mut lan = Lan::start(MTU as u16).unwrap();
    for member in 0..lan.members.len() {
        configure(&mut lan, member, false);
    }
    let mut is = [true, false, true, true, true];
    let mut done = BTreeSet::new();
    for run in RUNS {
        Vlans::None.set(&lan.daemon);
        for member in [VM1, TAP1, NEIGHBOUR, HOST] {
            if is[member] != run[member] {
                switch(&mut lan, member, run[member]);
            }
        }
        is = run;
        for vlans in Vlans::ALL {
            vlans.set(&lan.daemon);
            let captures = [
                Capture::start(&lan.daemon, lan.neighbour(), "eth0"),
                Capture::start(&lan.daemon, lan.daemon.namespace(), "br0"),
            ];
            let mut neighbours_talked = false;
            for pair in pairs(vlans) {
                let (asking, answering) = pair;
                if !done.insert((vlans.network(), pair, run[asking], run[answering])) {
                    continue;
                }
                neighbours_talked |= [pair.0, pair.1].iter().all(|end| *end >= NEIGHBOUR);
                lan.pair(vlans.network(), pair, |daemon, from, to, slow| {
                    let bytes = if slow { 300_000 } else { 3_000_000 };
                    from.probe(daemon, &format!("tcp {to}:7 {bytes}")).map(drop)
                })
                .unwrap_or_else(|error| panic!("{vlans:?}, offloads {run:?}: {error:?}"));
            }
            let [at_neighbour, at_host] = captures.map(|capture| Seen::of(&capture.end()));
            let context = format!("{vlans:?}, offloads {run:?}: {at_neighbour:?} {at_host:?}");
            assert!(at_neighbour.wrong.is_empty(), "{context}");
            assert!(at_host.wrong.is_empty(), "{context}");
            assert!(at_neighbour.whole + at_neighbour.partial > 0, "{context}");
            assert!(at_host.whole + at_host.partial > 0, "{context}");
            if !run[NEIGHBOUR] {
                // Who takes no offloads gets finished frames.
                assert_eq!(at_neighbour.partial, 0, "{context}");
                assert_eq!(at_neighbour.oversized, 0, "{context}");
            }
            if run[NEIGHBOUR] && run[HOST] && neighbours_talked {
                // Who does gets the other's large segments uncut.
                assert!(at_neighbour.oversized > 0, "{context}");
                assert!(at_host.oversized > 0, "{context}");
            }
        }
    }
    for member in &mut lan.members {
        let errors = checksum_errors(&lan.daemon, member);
        assert_eq!(errors, 0, "{} got wrong checksums", member.port);
    }
    let balance = lan.daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");
    let drops = lan.daemon.drops().unwrap();
    let lost = ["bad_offload", "exceeds_mtu", "host_refused"];
    let lost: Vec<_> = (drops.iter())
        .filter(|drop| lost.contains(&drop.reason.as_str()))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// Every ordered pair; where some tag and some do not, each pair once. A
/// connection carries its bytes there and back.
fn pairs(vlans: Vlans) -> Vec<(usize, usize)> {
    let all = 0..PORTS.len();
    let ordered = all
        .clone()
        .flat_map(|asking| all.clone().map(move |other| (asking, other)));
    let both_ways = [Vlans::None, Vlans::Guests].contains(&vlans);
    ordered
        .filter(|(asking, other)| asking < other || (both_ways && asking > other))
        .collect()
}

#[test]
fn the_runs_bring_every_two_members_into_all_combinations() {
    for (one, other) in pairs(Vlans::None) {
        let met: BTreeSet<_> = RUNS.iter().map(|run| (run[one], run[other])).collect();
        let choices = |member| if member == VM2 { 1 } else { 2 };
        assert_eq!(
            met.len(),
            choices(one) * choices(other),
            "{one} and {other}"
        );
    }
}
