//! What a port may send, case by case, and bursts of anything against a naive
//! guard that takes one frame after the other.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::rig::{GUARD_HZ, Rig, standalone};
use crate::spec::MacMove;

const HZ: u64 = 1_000_000_000;
const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
const ALL: [u8; 6] = [0xff; 6];

fn ips(list: &[&str]) -> Vec<IpNet> {
    let parse = |text: &&str| match text.parse() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().unwrap()),
    };
    list.iter().map(parse).collect()
}

fn own_mac() -> GuardSpec {
    GuardSpec {
        allowed_macs: vec![OWN],
        ..GuardSpec::default()
    }
}

fn own_addresses() -> GuardSpec {
    GuardSpec {
        allowed_ips: ips(&["10.0.0.5", "10.1.0.0/16", "2001:db8::5"]),
        ..own_mac()
    }
}

/// What becomes of one frame.
fn verdict(spec: &GuardSpec, frame: &[u8]) -> Option<DropReason> {
    let guard = Guard::of(spec, HZ).unwrap();
    let mut head = [0xaa; HEAD_BYTES];
    let len = frame.len().min(HEAD_BYTES);
    head[..len].copy_from_slice(&frame[..len]);
    guard.spoofs(&head, len, frame.len())
}

fn ethernet(source: [u8; 6], dl_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [ALL, source].concat();
    frame.extend(dl_type.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn tagged(frame: &[u8], tpid: u16, vlan: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend(tpid.to_be_bytes());
    tagged.extend(vlan.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

fn udp4(source: &str, ports: (u16, u16)) -> Vec<u8> {
    let source: Ipv4Addr = source.parse().unwrap();
    let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend([10, 9, 9, 9]);
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    packet.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    ethernet(OWN, 0x0800, &packet)
}

fn arp(sha: [u8; 6], spa: &str) -> Vec<u8> {
    let spa: Ipv4Addr = spa.parse().unwrap();
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(sha);
    packet.extend(spa.octets());
    packet.extend([0; 6]);
    packet.extend([10, 0, 0, 1]);
    ethernet(OWN, 0x0806, &packet)
}

/// An IPv6 packet with extension headers: kind and bytes behind the first two.
fn ipv6(source: &str, extensions: &[(u8, Vec<u8>)], proto: u8, payload: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let first = extensions.first().map_or(proto, |(kind, _)| *kind);
    let mut chain = Vec::new();
    for (nth, (_, bytes)) in extensions.iter().enumerate() {
        let next = extensions.get(nth + 1).map_or(proto, |(kind, _)| *kind);
        chain.extend([next, ((bytes.len() + 2) / 8 - 1) as u8]);
        chain.extend(bytes);
    }
    chain.extend(payload);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((chain.len() as u16).to_be_bytes());
    packet.extend([first, 255]);
    packet.extend(source.octets());
    packet.extend("ff02::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(chain);
    ethernet(OWN, 0x86dd, &packet)
}

/// A neighbour solicitation or advertisement with a link-layer address.
fn nd(kind: u8, target: &str, option: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.parse::<Ipv6Addr>().unwrap().octets());
    message.extend([option, 1]);
    message.extend(mac);
    message
}

const LINK_LOCAL: &str = "fe80::5054:ff:fe00:1";

#[test]
fn only_its_own_mac_passes() {
    let spec = own_mac();
    assert_eq!(verdict(&spec, &udp4("192.0.2.1", (1, 2))), None);
    let other = ethernet(OTHER, 0x1234, &[]);
    assert_eq!(verdict(&spec, &other), Some(DropReason::SpoofedMac));
    let group = ethernet(ALL, 0x1234, &[]);
    assert_eq!(verdict(&spec, &group), Some(DropReason::SpoofedMac));
    assert_eq!(verdict(&spec, &ethernet(OWN, 0x1234, &[])), None);
    let both = GuardSpec {
        allowed_macs: vec![OTHER, OWN],
        ..GuardSpec::default()
    };
    assert_eq!(verdict(&both, &other), None);
}

#[test]
fn its_own_mac_counts_in_arp_and_neighbour_discovery_too() {
    let spec = own_mac();
    assert_eq!(verdict(&spec, &arp(OWN, "10.0.0.9")), None);
    let spoofed = Some(DropReason::SpoofedMac);
    assert_eq!(verdict(&spec, &arp(OTHER, "10.0.0.9")), spoofed);
    let hidden = tagged(&arp(OTHER, "10.0.0.9"), 0x8100, 7);
    assert_eq!(verdict(&spec, &hidden), spoofed, "behind a tag");
    let mut strange = arp(OWN, "10.0.0.9");
    strange[14 + 4] = 8;
    assert_eq!(verdict(&spec, &strange), spoofed, "no Ethernet address");
    for (kind, option) in [(135, 1), (136, 2)] {
        let own = ipv6(LINK_LOCAL, &[], 58, &nd(kind, "2001:db8::5", option, OWN));
        assert_eq!(verdict(&spec, &own), None);
        let other = nd(kind, "2001:db8::5", option, OTHER);
        let other = ipv6(LINK_LOCAL, &[], 58, &other);
        assert_eq!(verdict(&spec, &other), spoofed);
    }
}

#[test]
fn only_its_own_vlans_pass() {
    let spec = GuardSpec {
        allowed_vlans: vec![0, 7],
        ..GuardSpec::default()
    };
    let plain = ethernet(OTHER, 0x1234, &[]);
    let spoofed = Some(DropReason::SpoofedVlan);
    assert_eq!(verdict(&spec, &plain), None);
    assert_eq!(verdict(&spec, &tagged(&plain, 0x8100, 0xe007)), None);
    assert_eq!(verdict(&spec, &tagged(&plain, 0x8100, 8)), spoofed);
    assert_eq!(verdict(&spec, &tagged(&plain, 0x88a8, 8)), spoofed);
    assert_eq!(verdict(&spec, &tagged(&plain, 0x8100, 0xe000)), None);
    let inner = tagged(&plain, 0x8100, 8);
    assert_eq!(
        verdict(&spec, &tagged(&inner, 0x8100, 7)),
        None,
        "a customer's"
    );
    let hidden = tagged(&inner, 0x8100, 0);
    assert_eq!(verdict(&spec, &hidden), spoofed, "behind a priority tag");
    let twice = tagged(&tagged(&inner, 0x8100, 0), 0x8100, 0);
    assert_eq!(verdict(&spec, &twice), spoofed, "behind two");
    assert_eq!(
        verdict(&spec, &[&plain[..12], &[0x81, 0]].concat()),
        spoofed
    );
    let tagged_only = GuardSpec {
        allowed_vlans: vec![7],
        ..GuardSpec::default()
    };
    assert_eq!(verdict(&tagged_only, &plain), spoofed);
}

#[test]
fn only_its_own_addresses_pass() {
    let spec = own_addresses();
    let spoofed = Some(DropReason::SpoofedIp);
    for source in ["10.0.0.5", "10.1.2.3"] {
        assert_eq!(verdict(&spec, &udp4(source, (1, 2))), None);
        assert_eq!(verdict(&spec, &arp(OWN, source)), None);
        let in_vlan = tagged(&udp4(source, (1, 2)), 0x8100, 7);
        assert_eq!(verdict(&spec, &in_vlan), None);
    }
    for source in ["10.0.0.6", "10.2.0.1", "0.0.0.0"] {
        assert_eq!(verdict(&spec, &udp4(source, (1, 2))), spoofed, "{source}");
        let hidden = tagged(&udp4(source, (1, 2)), 0x88a8, 7);
        assert_eq!(verdict(&spec, &tagged(&hidden, 0x8100, 7)), spoofed);
        assert_eq!(
            verdict(&spec, &tagged(&tagged(&hidden, 0x8100, 1), 0x8100, 1)),
            spoofed
        );
    }
    assert_eq!(verdict(&spec, &arp(OWN, "10.0.0.6")), spoofed);
    // An address that is not there yet: a probe, and a DHCP client.
    assert_eq!(verdict(&spec, &arp(OWN, "0.0.0.0")), None);
    assert_eq!(verdict(&spec, &udp4("0.0.0.0", (68, 67))), None);
    let mut fragment = udp4("0.0.0.0", (68, 67));
    fragment[14 + 6] = 0x20;
    assert_eq!(verdict(&spec, &fragment), spoofed);
    // Nobody can tell what these come from.
    let mut cut = udp4("10.0.0.5", (1, 2));
    cut.truncate(30);
    assert_eq!(verdict(&spec, &cut), spoofed);
    for dl_type in [0x1234, 0x8847, 0x8863, 0x88cc] {
        assert_eq!(verdict(&spec, &ethernet(OWN, dl_type, &[])), spoofed);
    }
}

#[test]
fn only_its_own_ipv6_addresses_pass() {
    let spec = own_addresses();
    let spoofed = Some(DropReason::SpoofedIp);
    let udp = [0, 1, 0, 2, 0, 8, 0, 0];
    for source in ["2001:db8::5", LINK_LOCAL] {
        assert_eq!(verdict(&spec, &ipv6(source, &[], 17, &udp)), None);
        let solicit = nd(135, "2001:db8::77", 1, OWN);
        assert_eq!(verdict(&spec, &ipv6(source, &[], 58, &solicit)), None);
        let advert = nd(136, "2001:db8::5", 2, OWN);
        assert_eq!(verdict(&spec, &ipv6(source, &[], 58, &advert)), None);
        let advert = nd(136, "2001:db8::6", 2, OWN);
        assert_eq!(verdict(&spec, &ipv6(source, &[], 58, &advert)), spoofed);
    }
    for source in ["2001:db8::6", "fe80::1", "::"] {
        assert_eq!(
            verdict(&spec, &ipv6(source, &[], 17, &udp)),
            spoofed,
            "{source}"
        );
    }
    // Before there is an address.
    for kind in [133, 135, 143] {
        let message = nd(kind, "2001:db8::5", 14, OWN);
        assert_eq!(
            verdict(&spec, &ipv6("::", &[], 58, &message)),
            None,
            "{kind}"
        );
    }
    let advert = nd(136, "2001:db8::5", 2, OWN);
    assert_eq!(verdict(&spec, &ipv6("::", &[], 58, &advert)), spoofed);
}

/// What RFC 7113 tells of: headers in front of what is to be hidden.
#[test]
fn nothing_is_hidden_behind_extension_headers() {
    let spec = own_addresses();
    let spoofed = Some(DropReason::SpoofedIp);
    let theirs = nd(136, "2001:db8::6", 2, OWN);
    let ours = nd(136, "2001:db8::5", 2, OWN);
    let short = |kind| (kind, vec![0; 6]);
    for extensions in [
        vec![short(0)],
        vec![short(60)],
        vec![short(0), short(60), short(60)],
    ] {
        assert_eq!(
            verdict(&spec, &ipv6(LINK_LOCAL, &extensions, 58, &ours)),
            None
        );
        assert_eq!(
            verdict(&spec, &ipv6(LINK_LOCAL, &extensions, 58, &theirs)),
            spoofed
        );
    }
    // Beyond what is looked at.
    for bytes in [70, 78, 86, 94, 150, 1000] {
        let long = [(60, vec![0; bytes])];
        assert_eq!(
            verdict(&spec, &ipv6(LINK_LOCAL, &long, 58, &theirs)),
            spoofed,
            "{bytes}"
        );
    }
    // A first fragment of neighbour discovery, and one without its header.
    let fragment = |offset: u16| {
        let [high, low] = (offset << 3 | 1).to_be_bytes();
        (44, vec![high, low, 0, 0, 0, 1])
    };
    assert_eq!(
        verdict(&spec, &ipv6(LINK_LOCAL, &[fragment(0)], 58, &ours)),
        spoofed
    );
    assert_eq!(
        verdict(&spec, &ipv6(LINK_LOCAL, &[fragment(0)], 58, &[])),
        spoofed
    );
    assert_eq!(
        verdict(&spec, &ipv6(LINK_LOCAL, &[fragment(9)], 58, &[7; 64])),
        None
    );
}

#[test]
fn a_port_without_options_has_no_guard() {
    assert!(Guard::of(&GuardSpec::default(), HZ).is_none());
    let of_the_fdb = GuardSpec {
        max_macs: Some(3),
        mac_move: MacMove::Deny,
        storm: RateSpec { rate: 1, burst: 0 },
        ..GuardSpec::default()
    };
    assert!(Guard::of(&of_the_fdb, HZ).is_none());
    assert!(storm_bucket(&of_the_fdb, HZ).is_some());
}

#[test]
fn beyond_the_rate_frames_end_before_anything_is_learned() {
    let mut rig = Rig::new(standalone(), &[1, 2]);
    let spec = GuardSpec {
        // 125 bytes a second, 1,000 at once.
        ingress_kbits: RateSpec { rate: 1, burst: 8 },
        ..GuardSpec::default()
    };
    rig.set_guard(1, &spec);
    let frames: Vec<_> = (0..20)
        .map(|n| ethernet([2, 0, 0, 0, 1, n], 0x1234, &[0; 86]))
        .collect();
    let outcome = rig.burst(1, &frames);
    assert_eq!(outcome.sent[&2], frames[..10]);
    assert_eq!(
        outcome.drops,
        HashMap::from([(DropReason::IngressPoliced, 10)])
    );
    assert_eq!(rig.bridge().fdb.len(), 10);
    // The other direction has no rate.
    assert!(rig.burst(2, &frames).drops.is_empty());
    let counters = rig.port_counters(1);
    assert_eq!(counters.rx_bytes, 20 * 100);
    // Time brings new tokens: 200 bytes.
    rig.ahead += 8 * GUARD_HZ / 5;
    assert_eq!(rig.burst(1, &frames[..5]).sent[&2].len(), 2);
}

#[test]
fn packets_may_be_counted_in_thousands_as_well() {
    let mut rig = Rig::new(standalone(), &[1, 2]);
    let spec = GuardSpec {
        ingress_kpkts: RateSpec { rate: 1, burst: 1 },
        ..GuardSpec::default()
    };
    rig.set_guard(1, &spec);
    let frames = vec![ethernet(OWN, 0x1234, &[]); 32];
    let mut passed = 0;
    for _ in 0..40 {
        passed += rig.burst(1, &frames).sent.get(&2).map_or(0, Vec::len);
    }
    assert_eq!(passed, 1000);
}

#[test]
fn a_storm_ends_and_known_stations_are_reached_all_the_same() {
    let mut rig = Rig::new(standalone(), &[1, 2, 3]);
    rig.set_guard(
        1,
        &GuardSpec {
            storm: RateSpec { rate: 1, burst: 4 },
            ..GuardSpec::default()
        },
    );
    let to = |destination: [u8; 6]| {
        let mut frame = ethernet(OWN, 0x1234, &[]);
        frame[..6].copy_from_slice(&destination);
        frame
    };
    rig.burst(2, &[ethernet(OTHER, 0x1234, &[])]);
    let many = [to(ALL), to([1, 0, 0x5e, 0, 0, 1]), to([2, 0, 0, 0, 0, 99])];
    let mut frames = Vec::new();
    for _ in 0..4 {
        frames.extend(many.iter().cloned());
        frames.push(to(OTHER));
    }
    let outcome = rig.burst(1, &frames);
    assert_eq!(
        outcome.drops,
        HashMap::from([(DropReason::StormPoliced, 8)])
    );
    assert_eq!(outcome.sent[&3].len(), 4);
    assert_eq!(outcome.sent[&2].len(), 4 + 4);
    // Others have no limit.
    assert!(rig.burst(3, &vec![many[0].clone(); 32]).drops.is_empty());
}

#[test]
fn what_a_port_may_learn_is_bounded_and_what_is_beyond_ends() {
    let mut rig = Rig::new(standalone(), &[1, 2]);
    rig.set_guard(
        1,
        &GuardSpec {
            max_macs: Some(2),
            ..GuardSpec::default()
        },
    );
    let frames: Vec<_> = [1, 2, 3, 3, 1, 4]
        .map(|n| ethernet([2, 0, 0, 0, 0, n], 0x1234, &[]))
        .into();
    let outcome = rig.burst(1, &frames);
    assert_eq!(outcome.drops, HashMap::from([(DropReason::FdbLimit, 3)]));
    assert_eq!(outcome.sent[&2].len(), 3);
}

#[test]
fn who_takes_a_stations_address_is_not_heard() {
    let mut rig = Rig::new(standalone(), &[1, 2, 3]);
    rig.set_guard(
        1,
        &GuardSpec {
            mac_move: MacMove::Deny,
            ..GuardSpec::default()
        },
    );
    rig.burst(1, &[ethernet(OWN, 0x1234, &[])]);
    let stolen = vec![ethernet(OWN, 0x1234, &[]); 3];
    let outcome = rig.burst(2, &stolen);
    assert_eq!(
        outcome.drops,
        HashMap::from([(DropReason::MacMoveDenied, 3)])
    );
    assert!(outcome.sent.is_empty());
    let mut to_owner = ethernet(OTHER, 0x1234, &[]);
    to_owner[..6].copy_from_slice(&OWN);
    let outcome = rig.burst(3, &[to_owner]);
    assert_eq!(outcome.sent.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn what_comes_in_by_a_patch_port_is_guarded_as_well() {
    let mut rig = Rig::new(standalone(), &[1, 10]);
    rig.another_bridge(&standalone(), &[11, 2]);
    rig.join(10, 11);
    rig.set_guard(11, &own_mac());
    let outcome = rig.burst(
        1,
        &[ethernet(OWN, 0x1234, &[]), ethernet(OTHER, 0x1234, &[])],
    );
    assert_eq!(outcome.sent[&2], [ethernet(OWN, 0x1234, &[])]);
    assert_eq!(outcome.drops, HashMap::from([(DropReason::SpoofedMac, 1)]));
    assert_eq!(outcome.replicated, 0);
}

/// A frame in pieces, few of each so that they meet.
#[derive(Clone, Debug)]
struct Pieces {
    source: u8,
    destination: u8,
    vlan: Option<u16>,
}

impl Pieces {
    fn bytes(&self) -> Vec<u8> {
        let mac = |n: u8| match n {
            0 => ALL,
            n => [2, 0, 0, 0, 0, n],
        };
        let mut frame = ethernet(mac(self.source), 0x1234, &[]);
        frame[..6].copy_from_slice(&mac(self.destination));
        match self.vlan {
            None => frame,
            Some(vlan) => tagged(&frame, 0x8100, vlan),
        }
    }
}

/// The switch with guards as one would write it down. No time passes.
struct Naive {
    specs: Vec<GuardSpec>,
    /// Tokens of each port: packets, and frames to many.
    tokens: Vec<(u32, u32)>,
    stations: HashMap<(u8, u16), u32>,
}

impl Naive {
    fn receive(&mut self, ingress: u32, frame: &Pieces) -> Result<Vec<u32>, DropReason> {
        let port = ingress as usize - 1;
        let (spec, tokens) = (&self.specs[port], &mut self.tokens[port]);
        let mac = [2, 0, 0, 0, 0, frame.source];
        if !spec.allowed_macs.is_empty() && !spec.allowed_macs.contains(&mac) {
            return Err(DropReason::SpoofedMac);
        }
        let vlan = frame.vlan.unwrap_or(0);
        if !spec.allowed_vlans.is_empty() && !spec.allowed_vlans.contains(&vlan) {
            return Err(DropReason::SpoofedVlan);
        }
        if spec.ingress_kpkts.rate > 0 {
            match tokens.0.checked_sub(1) {
                Some(left) => tokens.0 = left,
                None => return Err(DropReason::IngressPoliced),
            }
        }
        let station = (frame.source, vlan);
        let has = self
            .stations
            .values()
            .filter(|port| **port == ingress)
            .count();
        let is_full = spec.max_macs.is_some_and(|most| has >= most as usize);
        match self.stations.get(&station) {
            _ if frame.source == 0 => {}
            Some(known) if *known == ingress => {}
            Some(known) if self.specs[*known as usize - 1].mac_move == MacMove::Deny => {
                return Err(DropReason::MacMoveDenied);
            }
            _ if is_full => return Err(DropReason::FdbLimit),
            _ => {
                self.stations.insert(station, ingress);
            }
        }
        match self.stations.get(&(frame.destination, vlan)) {
            Some(port) if *port == ingress => return Err(DropReason::SameIngress),
            Some(port) if frame.destination != 0 => return Ok(vec![*port]),
            _ => {}
        }
        if spec.storm.rate > 0 {
            match tokens.1.checked_sub(1) {
                Some(left) => tokens.1 = left,
                None => return Err(DropReason::StormPoliced),
            }
        }
        let all = 1..=self.specs.len() as u32;
        Ok(all.filter(|port| *port != ingress).collect())
    }
}

prop_compose! {
    fn guards()(
        macs in vec(select((1..5u8).collect::<Vec<_>>()), 0..3),
        vlans in vec(select(vec![0u16, 1, 2]), 0..3),
        max_macs in proptest::option::of(1u32..4),
        deny in any::<bool>(),
        storm in proptest::option::of(1u32..12),
        policed in any::<bool>(),
    ) -> GuardSpec {
        // One per second: none comes within the test.
        let rate = |burst: u32| RateSpec { rate: u32::from(burst > 0), burst };
        GuardSpec {
            allowed_macs: macs.into_iter().map(|n| [2, 0, 0, 0, 0, n]).collect(),
            allowed_vlans: vlans,
            max_macs,
            mac_move: if deny { MacMove::Deny } else { MacMove::Allow },
            storm: rate(storm.unwrap_or(0)),
            // A thousand packets at once: more than are sent.
            ingress_kpkts: rate(policed.into()),
            ..GuardSpec::default()
        }
    }
}

prop_compose! {
    fn frames()(
        source in 0u8..6,
        destination in 0u8..6,
        vlan in select(vec![None, Some(0), Some(1), Some(2)]),
    ) -> Pieces {
        Pieces { source, destination, vlan }
    }
}

proptest! {
    #[test]
    fn bursts_equal_the_naive_switch_with_guards(
        specs in vec(guards(), 3),
        bursts in vec((1u32..4, vec(frames(), 1..BURST)), 1..12),
    ) {
        let mut rig = Rig::new(standalone(), &[1, 2, 3]);
        for (port, spec) in (1..).zip(&specs) {
            rig.set_guard(port, spec);
        }
        let tokens = specs.iter().map(|spec| (1000, spec.storm_burst())).collect();
        let mut naive = Naive { specs, tokens, stations: HashMap::new() };
        for (ingress, frames) in bursts {
            let bytes: Vec<_> = frames.iter().map(Pieces::bytes).collect();
            let outcome = rig.burst(ingress, &bytes);
            let mut sent: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
            let mut drops: HashMap<DropReason, u64> = HashMap::new();
            for (frame, bytes) in frames.iter().zip(&bytes) {
                match naive.receive(ingress, frame) {
                    Err(reason) => *drops.entry(reason).or_default() += 1,
                    Ok(ports) => for port in ports {
                        sent.entry(port).or_default().push(bytes.clone());
                    },
                }
            }
            prop_assert_eq!(&outcome.sent, &sent, "from {}", ingress);
            prop_assert_eq!(&outcome.drops, &drops, "from {}", ingress);
            // In and replicated are out and drops.
            let out: usize = sent.values().map(Vec::len).sum();
            let dropped: u64 = drops.values().sum();
            prop_assert_eq!(frames.len() as u64 + outcome.replicated, out as u64 + dropped);
        }
    }

    /// What is told of a packet beforehand is what is done with it.
    #[test]
    fn a_key_is_refused_as_its_frame_is(
        frame in vec(any::<u8>(), 22..200),
        types in vec(select(vec![0x0800u16, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x1234]), 3),
        own in any::<bool>(),
        proto in select(vec![17u8, 58, 0, 60]),
        which in 0u8..8,
    ) {
        let mut frame = frame;
        for (at, dl_type) in [12, 16, 20].into_iter().zip(types) {
            frame[at..at + 2].copy_from_slice(&dl_type.to_be_bytes());
        }
        if own {
            frame[6..12].copy_from_slice(&OWN);
        }
        if frame.len() > 60 {
            frame[20] = proto;
            (frame[14], frame[18], frame[19]) = (0x60, 0, 20);
        }
        let all = own_addresses();
        let spec = GuardSpec {
            allowed_macs: if which & 1 == 0 { vec![] } else { all.allowed_macs },
            allowed_ips: if which & 2 == 0 { vec![] } else { all.allowed_ips },
            allowed_vlans: if which & 4 == 0 { vec![] } else { (0..2048).collect() },
            ..GuardSpec::default()
        };
        prop_assume!(which > 0);
        let key = ringway_flow::extract::extract_slice(&frame, 1, 1);
        let told = Guard::of(&spec, HZ).unwrap().refuses(&key);
        prop_assert_eq!(told, verdict(&spec, &frame));
    }

    /// Whatever comes, nothing panics, and who may send everything does.
    #[test]
    fn any_bytes_are_taken(frame in vec(any::<u8>(), 14..200), dl_type in select(vec![
        0x0800u16, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x8035, 100])) {
        let mut frame = frame;
        frame[12..14].copy_from_slice(&dl_type.to_be_bytes());
        let _ = verdict(&own_addresses(), &frame);
        let spec = GuardSpec { allowed_vlans: (0..4096).collect(), ..GuardSpec::default() };
        if !is_hidden(&frame) {
            prop_assert_eq!(verdict(&spec, &frame), None);
        }
    }
}

/// A second tag without a VLAN behind the first, or a tag that is cut off.
fn is_hidden(frame: &[u8]) -> bool {
    let is_tag = |at: usize| {
        let tpid = frame.get(at..at + 2);
        tpid.is_some_and(|tpid| tpid == [0x81, 0] || tpid == [0x88, 0xa8])
    };
    is_tag(12) && (frame.len() < 18 || is_tag(16))
}
