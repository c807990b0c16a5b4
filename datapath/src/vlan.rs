//! VLANs of ports, as NORMAL knows them (ovs-vswitchd.conf.db(5), "VLAN
//! Configuration").
//!
//! ```text
//! tags of the frame ─ PortVlans::admits, inside ─▶ tags inside the bridge ─ carries, outside ─▶ tags on the wire
//! ```
//!
//! Inside the bridge the first tag names the VLAN that the frame belongs to:
//! stations are learned in it, and ports are asked whether they carry it. Two tags
//! of a frame are looked at; what is behind them is never touched.
//!
//! Explicit `output:` and `flood` send frames as they are, as Open vSwitch does.

use ringway_flow::extract::is_tpid;
use ringway_flow::key::{PacketKey, VLAN_PRESENT};
use ringway_flow::program::DpAction;

use crate::spec::{PriorityTags, VlanMode, VlanSpec};

#[cfg(test)]
mod tests;

const TPID_8021Q: u16 = 0x8100;
const TPID_8021AD: u16 = 0x88a8;
const VID: u16 = 0x0fff;
const PCP: u16 = 0xe000;
/// VLANs there are.
const VLANS: usize = 4096;

/// A tag: TPID and TCI without its DEI bit. Zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tag(u32);

impl Tag {
    const NONE: Self = Self(0);

    fn new(tpid: u16, tci: u16) -> Self {
        Self(u32::from(tpid) << 16 | u32::from(tci & (VID | PCP)))
    }

    fn tpid(self) -> u16 {
        (self.0 >> 16) as u16
    }

    fn vid(self) -> u16 {
        self.0 as u16 & VID
    }

    fn pcp(self) -> u16 {
        self.0 as u16 & PCP
    }

    fn tci(self) -> u16 {
        self.0 as u16
    }
}

/// A frame's tags, the outermost first: those that it has, or is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags([Tag; 3]);

impl Tags {
    /// The first two tags of a frame that begins with `head`. `None`: the
    /// first one is cut off.
    #[inline(always)]
    pub fn read(head: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = head.get(at..at + 2)?;
            Some(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let tag = |at: usize| match word(at) {
            Some(tpid) if is_tpid(tpid) => Some((tpid, word(at + 2).zip(word(at + 4)))),
            _ => None,
        };
        let Some((tpid, rest)) = tag(12) else {
            return Some(Self::default());
        };
        let (tci, _) = rest?;
        let outer = Tag::new(tpid, tci);
        let inner = match tag(16) {
            Some((tpid, Some((tci, _)))) => Tag::new(tpid, tci),
            _ => Tag::NONE,
        };
        Some(Self([outer, inner, Tag::NONE]))
    }

    /// The tags that a packet's key has.
    pub fn of_key(key: &PacketKey) -> Self {
        let tag = |tpid: u64, tci: u64| match tci as u16 & VLAN_PRESENT {
            0 => Tag::NONE,
            _ => Tag::new(tpid as u16, tci as u16),
        };
        let words = &key.0;
        let (outer, inner) = (words[5] >> 48, words[5] >> 32);
        Self([tag(outer, words[1]), tag(inner, words[2]), Tag::NONE])
    }

    /// VLAN of the first tag, 0 if there is none.
    #[inline(always)]
    pub fn vlan(&self) -> u16 {
        self.0[0].vid()
    }

    /// Whether the VLAN is one of these. Behind a priority tag the next tag
    /// counts, too: it is the first one for whoever takes that off.
    pub(crate) fn are_in(&self, vlans: &VlanSet) -> bool {
        let [outer, inner, _] = self.0;
        let is_hidden = outer.vid() == 0 && inner != Tag::NONE;
        vlans.contains(outer.vid())
            && (!is_hidden || inner.vid() != 0 && vlans.contains(inner.vid()))
    }

    fn count(&self) -> usize {
        self.0.iter().take_while(|tag| **tag != Tag::NONE).count()
    }

    fn pushed(mut self, tag: Tag) -> Self {
        self.0.rotate_right(1);
        self.0[0] = tag;
        self
    }

    fn popped(mut self) -> Self {
        self.0[0] = Tag::NONE;
        self.0.rotate_left(1);
        self
    }

    /// What has to be done to a frame with these tags so that it has those of
    /// `to`. Innermost tags that stay are not touched.
    pub fn changes(&self, to: &Self) -> impl Iterator<Item = DpAction> + use<> {
        let (have, want) = (self.count(), to.count());
        let inward = |tags: &Self, count: usize, nth: usize| tags.0[count - 1 - nth];
        let kept = (0..have.min(want))
            .take_while(|nth| inward(self, have, *nth) == inward(to, want, *nth))
            .count();
        let pops = (kept..have).map(|_| DpAction::PopVlan);
        let tags = to.0;
        pops.chain((0..want - kept).rev().map(move |at| DpAction::PushVlan {
            tpid: tags[at].tpid(),
            tci: tags[at].tci() | VLAN_PRESENT,
        }))
    }
}

/// A set of VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VlanSet(Box<[u64; VLANS / 64]>);

impl VlanSet {
    pub(crate) fn of(vlans: impl IntoIterator<Item = u16>) -> Self {
        let mut words = Box::new([0; VLANS / 64]);
        for vlan in vlans {
            words[usize::from(vlan & VID) / 64] |= 1 << (vlan % 64);
        }
        Self(words)
    }

    #[inline(always)]
    fn contains(&self, vlan: u16) -> bool {
        self.0[usize::from(vlan & VID) / 64] >> (vlan % 64) & 1 != 0
    }
}

/// A port's VLANs, ready to be used by poll-mode cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortVlans {
    mode: VlanMode,
    /// The access, native or service VLAN.
    tag: u16,
    /// VLANs that a trunk carries; for a tunnel the customers' that it takes.
    /// `None`: all.
    set: Option<VlanSet>,
    priority_tags: PriorityTags,
    /// TPID of a tunnel's outer tag.
    tpid: u16,
}

impl PortVlans {
    /// A trunk of all VLANs: what a port is that nobody gave any.
    pub const ALL: Self = Self {
        mode: VlanMode::Trunk,
        tag: 0,
        set: None,
        priority_tags: PriorityTags::Never,
        tpid: TPID_8021AD,
    };

    /// Of a port with this `spec`. `None`: it is a trunk of all VLANs, and
    /// nothing special.
    pub fn of(spec: &VlanSpec) -> Option<Self> {
        let tag = spec.tag.unwrap_or(0) & VID;
        let mode = spec.mode();
        let listed = |vlans: &[u16]| (!vlans.is_empty()).then(|| VlanSet::of(vlans.to_vec()));
        let set = match mode {
            VlanMode::Access => None,
            VlanMode::Trunk => listed(&spec.trunks),
            VlanMode::Dot1qTunnel => listed(&spec.cvlans),
            // They always carry their native VLAN, and with it nothing is in VLAN 0.
            VlanMode::NativeTagged | VlanMode::NativeUntagged => {
                let all = 0..VLANS as u16;
                let vlans = match spec.trunks.as_slice() {
                    [] => all.collect(),
                    trunks => trunks.to_vec(),
                };
                let others = vlans.into_iter().filter(|vlan| *vlan != 0);
                Some(VlanSet::of(others.chain([tag])))
            }
        };
        let vlans = Self {
            mode,
            tag: if mode == VlanMode::Trunk { 0 } else { tag },
            set,
            priority_tags: spec.priority_tags,
            tpid: match (mode, spec.qinq_8021q) {
                (VlanMode::Dot1qTunnel, true) => TPID_8021Q,
                _ => TPID_8021AD,
            },
        };
        (vlans != Self::ALL).then_some(vlans)
    }

    #[inline(always)]
    fn lists(&self, vlan: u16) -> bool {
        self.set.as_ref().is_none_or(|set| set.contains(vlan))
    }

    /// Whether a frame with these tags may come in on the port.
    #[inline(always)]
    pub fn admits(&self, frame: &Tags) -> bool {
        let vlan = frame.vlan();
        match self.mode {
            VlanMode::Access => vlan == 0,
            VlanMode::NativeTagged | VlanMode::NativeUntagged if vlan == 0 => true,
            _ => self.lists(vlan),
        }
    }

    /// What tags a frame that came in on the port has inside the bridge. A
    /// second tag of a frame from an access port, behind a priority tag, is
    /// taken off: its sender may not choose a VLAN for it further on.
    #[inline(always)]
    pub fn inside(&self, frame: &Tags) -> Tags {
        let first = frame.0[0];
        let ours = || match first {
            Tag::NONE => Tag::new(TPID_8021Q, self.tag),
            tag => Tag::new(tag.tpid(), self.tag | tag.pcp()),
        };
        match self.mode {
            VlanMode::Access => Tags::default().pushed(ours()),
            VlanMode::Trunk => *frame,
            VlanMode::NativeTagged | VlanMode::NativeUntagged if frame.vlan() != 0 => *frame,
            VlanMode::NativeTagged | VlanMode::NativeUntagged => frame.popped().pushed(ours()),
            VlanMode::Dot1qTunnel => frame.pushed(Tag::new(self.tpid, self.tag)),
        }
    }

    /// Whether a frame with these tags inside the bridge may leave by the port.
    #[inline(always)]
    pub fn carries(&self, inside: &Tags) -> bool {
        let customer = inside.0[1].vid();
        match self.mode {
            VlanMode::Access => inside.vlan() == self.tag && customer == 0,
            VlanMode::Dot1qTunnel => inside.vlan() == self.tag && self.lists(customer),
            _ => self.lists(inside.vlan()),
        }
    }

    /// What tags a frame leaves with by the port that came as `frame` and has
    /// those of `inside` inside the bridge.
    #[inline(always)]
    pub fn outside(&self, inside: &Tags, frame: &Tags) -> Tags {
        let mut tags = match self.mode {
            VlanMode::Access => Tags::default(),
            VlanMode::NativeUntagged if inside.vlan() == self.tag => inside.popped(),
            VlanMode::Dot1qTunnel => inside.popped(),
            _ => *inside,
        };
        let always = self.priority_tags == PriorityTags::Always;
        if self.priority_tags != PriorityTags::Never {
            let (first, pcp) = (tags.0[0], frame.0[0].pcp());
            let tpid = match first {
                Tag::NONE if pcp == 0 => return tags.without_empty(always),
                Tag::NONE => TPID_8021Q,
                tag => tag.tpid(),
            };
            tags.0[0] = Tag::new(tpid, first.vid() | pcp);
        }
        tags.without_empty(always)
    }
}

impl Tags {
    /// A tag with neither VLAN nor priority says nothing: it is not sent, nor
    /// what is behind it, except where priority tags are `always` to be.
    fn without_empty(mut self, keep: bool) -> Self {
        let mut end = false;
        for tag in &mut self.0 {
            end |= tag.tci() == 0 && !keep;
            if end {
                *tag = Tag::NONE;
            }
        }
        self
    }
}
