//! VLAN tags. The key shows two; those that pushing hides behind them are kept
//! apart, so that they come back when the outer ones are taken away. (Open
//! vSwitch loses them: it takes a packet with two tags for one with the new
//! tag and the outer of the two.)

use crate::key::{PACKET_WORDS, PacketKey, VLAN_PRESENT};

use super::commit::Committed;
use super::{DropCause, Tracer, Way};

/// A TCI in words 1 and 2.
pub(super) const TCI: u64 = 0xffff;
/// In a word of its own: there is a tag.
const PRESENT: u64 = VLAN_PRESENT as u64;
/// Where the TPIDs are in word 5.
const TPID_SHIFT: [u32; 2] = [48, 32];
/// Both TPIDs in word 5.
pub(super) const TPIDS: u64 = 0xffff_ffff << 32;
const TPID_8021Q: u16 = 0x8100;

/// Tags that the key shows.
pub(super) const SHOWN: usize = 2;
/// Tags behind them.
const MOST_HIDDEN: usize = 2;
/// Tags that are known of a packet.
const MOST_TAGS: usize = SHOWN + MOST_HIDDEN;

/// A tag: TPID in the upper half, TCI in the lower.
pub(super) type Tag = u32;

/// Tags behind the second, the outermost last.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hidden {
    tags: [Tag; MOST_HIDDEN],
    count: u8,
}

impl Hidden {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// False: no more can be kept.
    fn push(&mut self, tag: Tag) -> bool {
        let place = self.tags.get_mut(usize::from(self.count));
        let Some(place) = place else {
            return false;
        };
        *place = tag;
        self.count += 1;
        true
    }

    fn pop(&mut self) -> Tag {
        if self.count == 0 {
            return 0;
        }
        self.count -= 1;
        let place = self.tags.get_mut(usize::from(self.count));
        place.map_or(0, std::mem::take)
    }
}

/// Takes out of a mask what another bit of it implies: a tag that is not there
/// is all zeros, and so is what would be behind it.
pub(super) fn leave_out_implied(packet: &PacketKey, mask: &mut PacketKey) {
    let known_absent = |word: usize, mask: &PacketKey| {
        mask.0[word] & PRESENT != 0 && packet.0[word] & PRESENT == 0
    };
    if known_absent(1, mask) {
        mask.0[1] &= !TCI | PRESENT;
        mask.0[2] &= !TCI;
        mask.0[5] &= !TPIDS;
    } else if known_absent(2, mask) {
        mask.0[2] &= !TCI | PRESENT;
        mask.0[5] &= !(TCI << TPID_SHIFT[1]);
    }
}

/// The tags of a packet, the outermost first.
#[derive(Clone, Copy, Default)]
pub(super) struct Tags {
    pub(super) tags: [Tag; MOST_TAGS],
    pub(super) count: usize,
}

impl Tags {
    /// Takes the outer tag away.
    pub(super) fn pop(&mut self) {
        self.tags.rotate_left(1);
        self.tags[MOST_TAGS - 1] = 0;
        self.count = self.count.saturating_sub(1);
    }

    /// Shows the tags in a key's words, and those that it does not show.
    pub(super) fn show(&self, words: &mut [u64; PACKET_WORDS]) -> Hidden {
        let [outer, inner, behind @ ..] = self.tags;
        for (place, tag) in [outer, inner].into_iter().enumerate() {
            words[1 + place] = words[1 + place] & !TCI | u64::from(tag) & TCI;
            let shift = TPID_SHIFT[place];
            words[5] = words[5] & !(TCI << shift) | u64::from(tag >> 16) << shift;
        }
        let mut hidden = Hidden::default();
        for tag in behind.into_iter().rev().filter(|tag| *tag != 0) {
            // There are as many places as tags behind.
            hidden.push(tag);
        }
        hidden
    }
}

/// The tag at a place (0: outer, 1: inner) in a key's words.
fn tag_at(words: &[u64], place: usize) -> Tag {
    let (Some(tci), Some(tpids)) = (words.get(1 + place), words.get(5)) else {
        return 0;
    };
    let tpid = tpids >> TPID_SHIFT[place & 1] & TCI;
    (tpid << 16 | tci & TCI) as Tag
}

/// The tags in a key's words and behind.
pub(super) fn tags(words: &[u64], hidden: &Hidden) -> Tags {
    let mut all = Tags::default();
    let shown = [tag_at(words, 0), tag_at(words, 1)];
    let behind = hidden.tags.iter().take(usize::from(hidden.count)).rev();
    let present = |tag: &Tag| tag & u32::from(VLAN_PRESENT) != 0;
    for (tag, place) in (shown.iter().chain(behind))
        .take_while(|tag| present(tag))
        .zip(&mut all.tags)
    {
        *place = *tag;
        all.count += 1;
    }
    all
}

impl<T: Tracer> Way<'_, '_, T> {
    /// Whether there is a tag.
    pub(super) fn has_tag(&mut self) -> bool {
        self.read(1, PRESENT) != 0
    }

    /// The tag at a place, all of it looked at; 0: there is none.
    fn read_tag(&mut self, place: usize) -> Tag {
        if self.read(1 + place, PRESENT) == 0 {
            return 0;
        }
        self.look_at_tag(place);
        tag_at(&self.out.flow.0, place)
    }

    /// Puts a whole tag into the mask, as far as it is the packet's own.
    pub(super) fn look_at_tag(&mut self, place: usize) {
        self.look(1 + place, TCI);
        self.look(5, TCI << TPID_SHIFT[place & 1]);
    }

    fn write_tag(&mut self, place: usize, tag: Tag) {
        self.write(1 + place, tag.into(), TCI);
        let tpid = u64::from(tag >> 16);
        let shift = TPID_SHIFT[place & 1];
        self.write(5, tpid << shift, TCI << shift);
    }

    /// Puts an empty tag in front.
    pub(super) fn push_tag(&mut self, tpid: u16) {
        if self.has_tag() {
            let outer = self.read_tag(0);
            let inner = self.read_tag(1);
            if inner != 0 && !self.hidden.push(inner) {
                self.fail(DropCause::TooManyActions);
                return;
            }
            self.write_tag(1, outer);
        }
        self.write_tag(0, Tag::from(tpid) << 16 | Tag::from(VLAN_PRESENT));
    }

    /// Takes the outer tag away, if there is one.
    pub(super) fn pop_tag(&mut self) {
        if !self.has_tag() {
            return;
        }
        let inner = self.read_tag(1);
        self.write_tag(0, inner);
        if inner != 0 {
            let hidden = self.hidden.pop();
            self.write_tag(1, hidden);
        }
    }

    /// Writes bits of the outer TCI. One with the bit that says so makes a tag
    /// where there is none; one without it takes all tags away.
    pub(super) fn write_tci(&mut self, value: u16, mask: u16) {
        let writes_present = mask & VLAN_PRESENT != 0;
        let present = value & mask & VLAN_PRESENT != 0;
        if self.has_tag() {
            if !writes_present || present {
                // The bit that says so is there already and was looked at.
                let mask = mask & !VLAN_PRESENT;
                self.write(1, value.into(), mask.into());
            } else {
                while self.has_tag() {
                    self.pop_tag();
                }
            }
        } else if present {
            let tci = value & mask | VLAN_PRESENT;
            self.write_tag(0, Tag::from(TPID_8021Q) << 16 | Tag::from(tci));
        }
    }

    /// `mod_vlan_vid`, `mod_vlan_pcp`: writes bits of the outer TCI; makes a
    /// tag if there is none.
    pub(super) fn modify_tci(&mut self, value: u16, mask: u16) {
        self.write_tci(value | VLAN_PRESENT, mask | VLAN_PRESENT);
    }

    /// Whether tags were pushed or popped: whether it is more than bits of one
    /// tag's TCI in which the packet may differ from the committed one.
    pub(super) fn tags_moved(&self, committed: &Committed) -> bool {
        let written = |word: usize| self.written.0[word] | committed.written.0[word];
        written(1) & PRESENT != 0
            || written(2) & TCI != 0
            || written(5) & TPIDS != 0
            || !self.hidden.is_empty()
            || !committed.hidden.is_empty()
    }

    /// Whether nobody has written the tag at a place, now or as committed.
    pub(super) fn tag_is_own(&self, committed: &Committed, place: usize) -> bool {
        let written = |word: usize| self.written.0[word] | committed.written.0[word];
        written(1 + (place & 1)) & TCI == 0 && written(5) & TCI << TPID_SHIFT[place & 1] == 0
    }
}
