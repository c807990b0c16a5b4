//! What actions wrote reaches the program only when the packet is about to be
//! sent somewhere, and only where it may differ from what the program has made
//! of the packet so far.

use crate::key::{PACKET_WORDS, PacketKey};
use crate::program::DpAction;

use super::vlan::{self, Hidden, Tag};
use super::{Tracer, Way};

/// The packet as the program has made it so far.
pub(super) struct Committed {
    /// Its bits, for the packet that is being translated.
    pub(super) key: PacketKey,
    /// The bits that are not the packet's own.
    pub(super) written: PacketKey,
    pub(super) hidden: Hidden,
}

impl Committed {
    pub(super) fn new(packet: &PacketKey) -> Self {
        Self {
            key: *packet,
            written: PacketKey::default(),
            hidden: Hidden::default(),
        }
    }
}

/// VID and PCP of the outer tag: as long as no tag is pushed or popped.
const TCI_UNITS: [u64; 2] = [0x0fff, 0xe000];

/// The fields of each word that go out together: if any bit of one may differ,
/// all its written bits are set. Tags are not among them.
const UNITS: [&[u64]; PACKET_WORDS] = [
    // An ARP packet's opcode.
    &[0xff],
    &[0xffff_ffff_ffff << 16],
    &[0xffff_ffff_ffff << 16],
    &[0xffff_ffff << 32, 0xffff_ffff],
    &[0xffff << 48, 0xffff << 32, 0xff00, 0x00ff],
    &[0xf_ffff],
    &[0xffff_ffff_ffff << 16],
    &[0xffff_ffff_ffff << 16],
    &[u64::MAX],
    &[u64::MAX],
    &[u64::MAX],
    &[u64::MAX],
    &[u64::MAX],
    &[u64::MAX],
];

impl<T: Tracer> Way<'_, '_, T> {
    /// Brings the program's packet to what the packet is now.
    #[inline]
    pub(super) fn commit(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.commit_changes();
        }
    }

    #[inline(never)]
    fn commit_changes(&mut self) {
        let mut words = self.touched & ((1 << PACKET_WORDS) - 1);
        let mut sets = [0; PACKET_WORDS];
        while words != 0 {
            let word = words.trailing_zeros() as usize;
            words &= words - 1;
            sets[word] = self.word_to_set(word);
        }
        if sets[0] | sets[3] | sets[4] | sets[5] != 0 || sets[6..].iter().any(|set| *set != 0) {
            self.uncover_headers();
        }
        // Neighbour discovery's fields are written while the packet's type
        // says that it has them.
        let last = self.type_goes_last();
        for (word, set) in sets.iter().enumerate() {
            if word != 4 || !last {
                self.emit_set(word, self.out.flow.0[word], *set);
            }
        }
        if last {
            self.emit_set(4, self.out.flow.0[4], sets[4]);
        }
        self.commit_tags();
        self.committed.key = self.out.flow.packet();
        self.committed.written = self.written;
        self.committed.hidden = self.hidden;
    }

    /// Whether the committed packet is known to be of neighbour discovery.
    fn type_goes_last(&self) -> bool {
        const TYPE_AND_CODE: u64 = 0xffff_ffff << 32;
        let known = self.committed.written.0[4] | self.out.mask.0[4];
        let type_and_code = (self.committed.key.0[4] & TYPE_AND_CODE) >> 32;
        !known & TYPE_AND_CODE == 0
            && matches!(type_and_code, 0x0087_0000 | 0x0088_0000)
            && self.touched & (1 << 6 | 1 << 7 | 1 << 12 | 1 << 13) != 0
    }

    /// Behind more than two tags, headers are not found: takes some away from
    /// the committed packet, for [`commit_tags`](Self::commit_tags) to push again.
    fn uncover_headers(&mut self) {
        let mut tags = vlan::tags(&self.committed.key.0, &self.committed.hidden);
        while tags.count > vlan::SHOWN {
            self.emit(DpAction::PopVlan);
            tags.pop();
            // There were pushes, so that all tags are known.
            self.committed.hidden = tags.show(&mut self.committed.key.0);
        }
    }

    /// The bits of a word that have to be set, tags excepted.
    fn word_to_set(&mut self, word: usize) -> u64 {
        let mut set = 0;
        for unit in UNITS[word] {
            set |= self.unit_to_set(word, *unit);
        }
        // The other half of an IPv6 address goes with it.
        if word >= 8 && set == 0 && self.unit_to_set(word ^ 1, u64::MAX) != 0 {
            set = self.written_in(word);
        }
        set
    }

    /// Bits of a word that were written in the packet as it is or as it is
    /// committed.
    fn written_in(&self, word: usize) -> u64 {
        self.written.0[word] | self.committed.written.0[word]
    }

    /// The bits of a unit that have to be set, if it may differ from the
    /// committed one in any of the packets that agree on the mask.
    fn unit_to_set(&mut self, word: usize, unit: u64) -> u64 {
        let candidates = self.written_in(word) & unit;
        if candidates == 0 {
            return 0;
        }
        // Back to the packet's own bits: which are they?
        self.look(word, candidates);
        let own = !self.committed.written.0[word] & !self.out.mask.0[word];
        let differ = self.out.flow.0[word] ^ self.committed.key.0[word];
        match candidates & (own | differ) {
            0 => 0,
            _ => candidates,
        }
    }

    fn emit_set(&mut self, word: usize, value: u64, mask: u64) {
        if mask != 0 {
            self.emit(DpAction::Set {
                word: word as u8,
                value: value & mask,
                mask,
            });
        }
    }

    /// Tags: pops those that have to go, sets the one that can be kept, pushes
    /// those that are new.
    fn commit_tags(&mut self) {
        if !self.tags_moved(&self.committed) {
            let set = TCI_UNITS.map(|unit| self.unit_to_set(1, unit));
            self.emit_set(1, self.out.flow.0[1], set[0] | set[1]);
            return;
        }
        let now = vlan::tags(&self.out.flow.0, &self.hidden);
        let before = vlan::tags(&self.committed.key.0, &self.committed.hidden);
        // What says how many there are was looked at when they were moved.
        let (mut new, mut old) = (now.count, before.count);
        let at = |tags: &vlan::Tags, count: usize| -> Tag {
            let place = count.checked_sub(1);
            place
                .and_then(|place| tags.tags.get(place))
                .map_or(0, |tag| *tag)
        };
        while new > 0 && old > 0 {
            if new == old && new <= 2 && self.tag_is_own(&self.committed, new - 1) {
                (new, old) = (new - 1, old - 1);
                continue;
            }
            self.look_at_both(new, old);
            if at(&now, new) != at(&before, old) {
                break;
            }
            (new, old) = (new - 1, old - 1);
        }
        // The innermost of those that differ: only its TCI does?
        let kept = new > 0 && old > 0 && at(&now, new) >> 16 == at(&before, old) >> 16;
        for _ in 0..old.saturating_sub(kept.into()) {
            self.emit(DpAction::PopVlan);
        }
        if kept {
            let (tci, differ) = (at(&now, new), at(&now, new) ^ at(&before, old));
            let unit = |unit: u64| {
                if u64::from(differ) & unit == 0 {
                    0
                } else {
                    unit
                }
            };
            self.emit_set(1, tci.into(), unit(TCI_UNITS[0]) | unit(TCI_UNITS[1]));
            new -= 1;
        }
        while new > 0 {
            self.look_at_both(new, 0);
            let tag = at(&now, new);
            self.emit(DpAction::PushVlan {
                tpid: (tag >> 16) as u16,
                tci: tag as u16,
            });
            new -= 1;
        }
    }

    /// Looks at the `new`th tag of the packet as it is, and at the `old`th of
    /// the committed one, where they are the packet's own (0: at none).
    fn look_at_both(&mut self, new: usize, old: usize) {
        if let 1 | 2 = new {
            self.look_at_tag(new - 1);
        }
        if let 1 | 2 = old {
            // Written ones are known; so mask what the committed packet has of its own.
            let written = self.written;
            self.written = self.committed.written;
            self.look_at_tag(old - 1);
            self.written = written;
        }
    }
}
