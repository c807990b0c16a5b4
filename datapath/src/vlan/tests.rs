//! Bursts on a bridge with VLANs against the manual page, followed for one frame
//! at a time.

use std::collections::{BTreeSet, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use ringway_flow::action::Action;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringway_vhost::BURST;

use super::*;
use crate::drop_reason::DropReason;
use crate::rig::{Rig, standalone};

const MEMBERS: [u32; 5] = [1, 2, 3, 4, 5];
/// Sees every frame as it came.
const TAP: u32 = 6;
const SOME_VLANS: [u16; 6] = [0, 1, 2, 3, 100, 4095];

/// One tag as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wire {
    tpid: u16,
    pcp: u16,
    dei: bool,
    vid: u16,
}

impl Wire {
    fn same(self, other: Self) -> bool {
        (self.tpid, self.pcp, self.vid) == (other.tpid, other.pcp, other.vid)
    }
}

/// A frame in pieces.
#[derive(Clone, Debug)]
struct Pieces {
    destination: u8,
    source: u8,
    tags: Vec<Wire>,
}

fn mac(n: u8) -> [u8; 6] {
    match n {
        0 => [0xff; 6],
        1 => [1, 0x80, 0xc2, 0, 0, 2],
        n => [2, 0, 0, 0, 0, n],
    }
}

impl Pieces {
    fn bytes(&self) -> Vec<u8> {
        let mut frame = [mac(self.destination), mac(self.source)].concat();
        for tag in &self.tags {
            frame.extend(tag.tpid.to_be_bytes());
            let tci = tag.pcp << 13 | u16::from(tag.dei) << 12 | tag.vid;
            frame.extend(tci.to_be_bytes());
        }
        frame.extend([0x12, 0x34]);
        frame.extend((0..50).map(|n| self.source ^ n));
        frame
    }

    fn outer(&self) -> Option<Wire> {
        self.tags.first().copied()
    }
}

fn listed(list: &[u16], vlan: u16) -> bool {
    list.is_empty() || list.contains(&vlan)
}

/// "A native-tagged or native-untagged port always trunks its native VLAN,
/// regardless of whether trunks includes that VLAN."
fn trunks(spec: &VlanSpec, vlan: u16) -> bool {
    match spec.mode() {
        VlanMode::NativeTagged | VlanMode::NativeUntagged => {
            let native = spec.tag.unwrap_or(0);
            vlan == native || (vlan != 0 && listed(&spec.trunks, vlan))
        }
        _ => listed(&spec.trunks, vlan),
    }
}

/// The frame's tags inside the bridge, if it may come in.
fn ingress(spec: &VlanSpec, frame: &Pieces) -> Option<Vec<Wire>> {
    // More than two are not looked at.
    let mut tags: Vec<Wire> = frame.tags.iter().copied().take(2).collect();
    let outer = frame.outer();
    let vid = outer.map_or(0, |tag| tag.vid);
    let own = Wire {
        tpid: outer.map_or(0x8100, |tag| tag.tpid),
        pcp: outer.map_or(0, |tag| tag.pcp),
        dei: false,
        vid: spec.tag.unwrap_or(0),
    };
    match spec.mode() {
        // "Any packet with an 802.1Q header with a nonzero VLAN ID that ingresses
        // on an access port is dropped".
        VlanMode::Access if vid != 0 => return None,
        VlanMode::Access => tags = vec![own],
        VlanMode::NativeTagged | VlanMode::NativeUntagged if vid == 0 => {
            tags.splice(..tags.len().min(1), [own]);
        }
        VlanMode::Trunk | VlanMode::NativeTagged | VlanMode::NativeUntagged => {
            if !trunks(spec, vid) {
                return None;
            }
        }
        VlanMode::Dot1qTunnel => {
            if !listed(&spec.cvlans, vid) {
                return None;
            }
            let tpid = if spec.qinq_8021q { 0x8100 } else { 0x88a8 };
            let service = Wire {
                tpid,
                pcp: 0,
                ..own
            };
            tags.insert(0, service);
        }
    }
    Some(tags)
}

fn may_leave(spec: &VlanSpec, tags: &[Wire]) -> bool {
    let vid = |nth: usize| tags.get(nth).map_or(0, |tag| tag.vid);
    let tag = spec.tag.unwrap_or(0);
    match spec.mode() {
        VlanMode::Access => vid(0) == tag && vid(1) == 0,
        VlanMode::Dot1qTunnel => vid(0) == tag && listed(&spec.cvlans, vid(1)),
        _ => trunks(spec, vid(0)),
    }
}

/// The frame as it leaves.
fn egress(spec: &VlanSpec, frame: &Pieces, inside: &[Wire]) -> Pieces {
    let mut tags = inside.to_vec();
    match spec.mode() {
        VlanMode::Access => tags.clear(),
        VlanMode::Dot1qTunnel => drop(tags.drain(..tags.len().min(1))),
        VlanMode::NativeUntagged => {
            let vid = tags.first().map_or(0, |tag| tag.vid);
            if vid == spec.tag.unwrap_or(0) && !tags.is_empty() {
                tags.remove(0);
            }
        }
        _ => {}
    }
    let pcp = frame.outer().map_or(0, |tag| tag.pcp);
    if spec.priority_tags != PriorityTags::Never {
        match tags.first_mut() {
            Some(tag) => tag.pcp = pcp,
            None if pcp != 0 => tags.push(Wire {
                tpid: 0x8100,
                pcp,
                dei: false,
                vid: 0,
            }),
            None => {}
        }
    }
    if spec.priority_tags != PriorityTags::Always {
        let empty = tags.iter().position(|tag| (tag.vid, tag.pcp) == (0, 0));
        tags.truncate(empty.unwrap_or(tags.len()));
    }
    // Only those that stay where they are keep their DEI bit.
    let had = &frame.tags[..frame.tags.len().min(2)];
    let pairs = tags.iter().rev().zip(had.iter().rev());
    let kept = pairs.take_while(|(new, old)| new.same(**old)).count();
    for (tag, old) in tags
        .iter_mut()
        .rev()
        .zip(had.iter().rev().map(Some).chain(std::iter::repeat(None)))
        .enumerate()
        .map(|(nth, (tag, old))| (tag, old.filter(|_| nth < kept)))
    {
        tag.dei = old.is_some_and(|old| old.dei);
    }
    tags.extend(frame.tags.iter().skip(2));
    Pieces {
        tags,
        ..frame.clone()
    }
}

type Sent = HashMap<u32, Vec<Vec<u8>>>;

/// The switch, one frame after the other.
struct Naive<'a> {
    specs: &'a [VlanSpec],
    members: &'a [u32],
    stations: HashMap<([u8; 6], u16), u32>,
}

impl Naive<'_> {
    fn spec(&self, port: u32) -> &VlanSpec {
        &self.specs[port as usize - 1]
    }

    fn forward(&mut self, port: u32, frame: &Pieces) -> Result<Vec<(u32, Vec<u8>)>, DropReason> {
        let inside = ingress(self.spec(port), frame).ok_or(DropReason::VlanNotAllowed)?;
        let vlan = inside.first().map_or(0, |tag| tag.vid);
        let (source, destination) = (mac(frame.source), mac(frame.destination));
        if source[0] & 1 == 0 {
            self.stations.insert((source, vlan), port);
        }
        if frame.destination == 1 {
            return Err(DropReason::ReservedMulticast);
        }
        let others: Vec<u32> = match self.stations.get(&(destination, vlan)) {
            Some(known) if *known == port => return Err(DropReason::SameIngress),
            Some(known) => vec![*known],
            None => self
                .members
                .iter()
                .copied()
                .filter(|p| *p != port)
                .collect(),
        };
        if others.is_empty() {
            return Err(DropReason::NoDestination);
        }
        let mut takers = others;
        takers.retain(|to| may_leave(self.spec(*to), &inside));
        if takers.is_empty() {
            return Err(DropReason::VlanNotCarried);
        }
        let leaves = |to| (to, egress(self.spec(to), frame, &inside).bytes());
        Ok(takers.into_iter().map(leaves).collect())
    }
}

fn a_vlan() -> impl Strategy<Value = u16> {
    select(&SOME_VLANS[..])
}

fn spec() -> impl Strategy<Value = VlanSpec> {
    let mode = select(vec![
        None,
        Some(VlanMode::Access),
        Some(VlanMode::Trunk),
        Some(VlanMode::NativeTagged),
        Some(VlanMode::NativeUntagged),
        Some(VlanMode::Dot1qTunnel),
    ]);
    let lists = || subsequence(SOME_VLANS.to_vec(), 0..=4);
    let priority_tags = select(vec![
        PriorityTags::Never,
        PriorityTags::IfNonzero,
        PriorityTags::Always,
    ]);
    let parts = (
        mode,
        proptest::option::weighted(0.8, a_vlan()),
        lists(),
        lists(),
        priority_tags,
        any::<bool>(),
    );
    let spec = parts.prop_map(
        |(mode, tag, trunks, cvlans, priority_tags, qinq_8021q)| VlanSpec {
            mode,
            tag,
            trunks,
            cvlans,
            priority_tags,
            qinq_8021q,
        },
    );
    spec.prop_filter("possible", |spec| spec.check().is_ok())
}

fn frame() -> impl Strategy<Value = Pieces> {
    let tag = (
        select(vec![0x8100u16, 0x88a8]),
        select(vec![0u16, 0, 3, 7]),
        any::<bool>(),
        a_vlan(),
    );
    let tag = tag.prop_map(|(tpid, pcp, dei, vid)| Wire {
        tpid,
        pcp,
        dei,
        vid,
    });
    (0u8..7, 2u8..7, vec(tag, 0..4)).prop_map(|(destination, source, tags)| Pieces {
        destination,
        source,
        tags,
    })
}

/// NORMAL, and then the packet as it came to [`TAP`].
fn normal_and_tap() -> Vec<Change> {
    let rule = FlowSpec {
        actions: vec![Action::Normal, Action::Output(TAP as u16)],
        ..FlowSpec::default()
    };
    vec![Change::Flow(FlowCommand::Add, Box::new(rule))]
}

proptest! {
    #[test]
    fn bursts_do_what_the_manual_page_says(
        specs in vec(spec(), MEMBERS.len()),
        bursts in vec((1..=MEMBERS.len() as u32, vec(frame(), 1..BURST)), 1..12),
        with_tap in any::<bool>(),
    ) {
        let (rules, members) = match with_tap {
            false => (standalone(), MEMBERS.to_vec()),
            true => (normal_and_tap(), [&MEMBERS[..], &[TAP]].concat()),
        };
        let mut specs = specs;
        // Carries nothing that anybody sends: nobody has this VLAN.
        specs.push(VlanSpec { tag: Some(4000), ..VlanSpec::default() });
        let mut rig = Rig::new(rules, &members);
        for port in &members {
            rig.set_vlans(*port, &specs[*port as usize - 1]);
        }
        let mut naive = Naive { specs: &specs, members: &members, stations: HashMap::new() };
        for (ingress, frames) in bursts {
            let bytes: Vec<_> = frames.iter().map(Pieces::bytes).collect();
            let outcome = rig.burst(ingress, &bytes);
            let mut expected = Sent::new();
            let mut drops: HashMap<DropReason, u64> = HashMap::new();
            let mut copies = 0;
            for (frame, bytes) in frames.iter().zip(&bytes) {
                let mut sent = match naive.forward(ingress, frame) {
                    Ok(sent) => sent,
                    Err(reason) if !with_tap => {
                        *drops.entry(reason).or_default() += 1;
                        continue;
                    }
                    Err(_) => Vec::new(),
                };
                if with_tap {
                    sent.push((TAP, bytes.clone()));
                }
                copies += sent.len() as u64 - 1;
                for (port, bytes) in sent {
                    expected.entry(port).or_default().push(bytes);
                }
            }
            prop_assert_eq!(outcome.sent, expected, "from {}", ingress);
            prop_assert_eq!(outcome.drops, drops);
            prop_assert_eq!(outcome.replicated, copies);
        }
        let mut learned = BTreeSet::new();
        rig.bridge().fdb.for_each(|station, port, _| {
            learned.insert((station.mac(), station.vlan(), port));
        });
        let known = naive.stations.iter();
        let known: BTreeSet<_> = known.map(|((mac, vlan), port)| (*mac, *vlan, *port)).collect();
        prop_assert_eq!(learned, known);
    }
}

#[test]
fn a_tag_that_is_cut_off_goes_nowhere() {
    let mut rig = Rig::new(standalone(), &[1, 2]);
    let access = VlanSpec {
        tag: Some(5),
        ..VlanSpec::default()
    };
    rig.set_vlans(1, &access);
    let mut frame = [mac(0), mac(2)].concat();
    frame.extend([0x81, 0, 0, 5]);
    let outcome = rig.burst(2, &[frame]);
    assert_eq!(
        outcome.drops,
        HashMap::from([(DropReason::VlanNotAllowed, 1)])
    );
}

#[test]
fn a_port_without_options_is_nothing_special() {
    assert_eq!(PortVlans::of(&VlanSpec::default()), None);
    let ignored = VlanSpec {
        mode: Some(VlanMode::Trunk),
        tag: Some(5),
        cvlans: vec![1],
        qinq_8021q: true,
        ..VlanSpec::default()
    };
    assert_eq!(PortVlans::of(&ignored), None);
    assert_eq!(ignored.check(), Ok(()));
    assert_eq!(ignored.ignored().len(), 3);
}

#[test]
fn what_cannot_be_is_refused() {
    let needs_tag = VlanSpec {
        mode: Some(VlanMode::NativeUntagged),
        ..VlanSpec::default()
    };
    let why = needs_tag.check().unwrap_err();
    assert!(why.contains("vlan_mode=native-untagged needs"), "{why}");
    for spec in [
        VlanSpec {
            tag: Some(4096),
            ..VlanSpec::default()
        },
        VlanSpec {
            trunks: vec![1, 4096],
            ..VlanSpec::default()
        },
    ] {
        assert!(spec.check().unwrap_err().contains("=4096"));
    }
    let access = VlanSpec {
        tag: Some(7),
        trunks: vec![1],
        ..VlanSpec::default()
    };
    assert_eq!(access.check(), Ok(()), "as Open vSwitch takes it");
    assert!(access.ignored()[0].starts_with("trunks is ignored"));
}
