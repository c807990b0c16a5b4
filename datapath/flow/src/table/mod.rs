//! One table: which rule matches a packet best, and what had to be looked at
//! to know.
//!
//! After Open vSwitch's classifier (lib/classifier.c): the rules with one mask
//! are a subtable, a hash map of their keys. Subtables are looked into in the
//! order of their highest priority until no better rule can come. A lookup in
//! a subtable goes by stages, and sets of addresses and ports tell how few of
//! their bits were needed to find nothing.

mod hash;
mod prefix;
mod stages;
mod subtable;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use self::hash::WordHasher;
use self::subtable::Subtable;
use crate::key::{FLOW_WORDS, FlowKey};
use crate::matching::Match;
use crate::rule::{MiniMatch, Rule};

/// A table at one version. Cloning is cheap: what did not change is shared.
#[derive(Clone, Default)]
pub struct Table {
    /// Sorted by [`Entry::order`].
    subtables: Vec<Entry>,
    rules: usize,
    /// Of the rules themselves, and what they point to.
    bytes: usize,
}

#[derive(Clone)]
struct Entry {
    /// The highest priority in the subtable.
    max_priority: u16,
    rank: u64,
    subtable: Arc<Subtable>,
}

/// Which of two masks comes first if rules of the same priority match: the one
/// with fewer bits. It hangs on the masks alone, so that no other rule's coming
/// or going makes a verdict another.
fn rank(mask: &FlowKey) -> u64 {
    let bits: u32 = mask.0.iter().map(|word| word.count_ones()).sum();
    let mut hasher = WordHasher::default();
    mask.0.hash(&mut hasher);
    u64::from(bits) << 48 | hasher.finish() >> 16
}

impl Entry {
    fn order(&self) -> (Reverse<u16>, u64, &[u64; FLOW_WORDS]) {
        let mask = &self.subtable.mask().0;
        (Reverse(self.max_priority), self.rank, mask)
    }

    /// Whether its rules win over `other`'s of the same priority.
    fn wins_tie(&self, other: &Self) -> bool {
        let key = |entry: &Self| (entry.rank, entry.subtable.mask().0);
        match self.rank == other.rank {
            false => self.rank < other.rank,
            true => key(self) < key(other),
        }
    }
}

impl Table {
    /// The rule of highest priority that matches `flow`. Adds to `looked_at`
    /// every bit that the answer depends on: whatever agrees with `flow` there
    /// gets the same answer.
    ///
    /// Among rules of the same priority with different masks the one whose mask
    /// has the fewest bits is taken (OpenFlow leaves it open).
    pub fn lookup(&self, flow: &FlowKey, looked_at: &mut FlowKey) -> Option<&Arc<Rule>> {
        let mut best: Option<(&Arc<Rule>, &Entry)> = None;
        for entry in &self.subtables {
            if let Some((rule, from)) = best
                && (rule.priority > entry.max_priority
                    || rule.priority == entry.max_priority && from.wins_tie(entry))
            {
                break;
            }
            let Some(rule) = entry.subtable.lookup(flow, looked_at) else {
                continue;
            };
            let better = best.is_none_or(|(other, from)| {
                rule.priority > other.priority
                    || rule.priority == other.priority && entry.wins_tie(from)
            });
            if better {
                best = Some((rule, entry));
            }
        }
        best.map(|(rule, _)| rule)
    }

    /// The rule with exactly this match and priority.
    pub fn get(&self, matching: &MiniMatch, priority: u16) -> Option<&Arc<Rule>> {
        let (at, _) = self.find(&mask_of(matching))?;
        let subtable = &self.subtables[at].subtable;
        subtable.get(matching.keys(), priority)
    }

    /// Puts a rule in, in place of one with the same priority and match.
    pub fn insert(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let mask = mask_of(&rule.matching);
        let (at, found) = match self.find(&mask) {
            Some((at, _)) => (at, true),
            None => (self.subtables.len(), false),
        };
        if !found {
            self.subtables.push(Entry {
                max_priority: rule.priority,
                rank: rank(&mask),
                subtable: Arc::new(Subtable::new(&mask)),
            });
        }
        self.bytes += rule_bytes(&rule);
        let replaced = Arc::make_mut(&mut self.subtables[at].subtable).insert(rule);
        match &replaced {
            Some(replaced) => self.bytes -= rule_bytes(replaced),
            None => self.rules += 1,
        }
        self.put_in_order(at, !found);
        replaced
    }

    /// Takes the rule with this match and priority out.
    pub fn remove(&mut self, matching: &MiniMatch, priority: u16) -> Option<Arc<Rule>> {
        let (at, entry) = self.find(&mask_of(matching))?;
        entry.subtable.get(matching.keys(), priority)?;
        let subtable = Arc::make_mut(&mut self.subtables[at].subtable);
        let removed = subtable.remove(matching.keys(), priority)?;
        self.rules -= 1;
        self.bytes -= rule_bytes(&removed);
        self.put_in_order(at, false);
        Some(removed)
    }

    /// A rule of this priority that some packet matches which `matching`
    /// matches, too.
    pub fn overlapping(&self, matching: &Match, priority: u16) -> Option<&Arc<Rule>> {
        let candidates = (self.subtables.iter())
            .take_while(|entry| entry.max_priority >= priority)
            .filter(|entry| entry.subtable.has_priority(priority));
        for Entry { subtable, .. } in candidates {
            // A subtable whose mask is within the match's has one key that
            // overlaps; through others there is no way but one by one.
            let found = if is_within(subtable.mask(), &matching.mask) {
                subtable.get(&subtable.keys_of(&matching.key), priority)
            } else {
                subtable
                    .iter()
                    .find(|rule| rule.priority == priority && overlaps(&rule.matching, matching))
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Calls `each` with every rule that matches nothing but what `wider` does.
    pub fn within(&self, wider: &Match, mut each: impl FnMut(&Arc<Rule>)) {
        for Entry { subtable, .. } in &self.subtables {
            if !is_within(&wider.mask, subtable.mask()) {
                continue;
            }
            if wider.mask == *subtable.mask() {
                let keys = subtable.keys_of(&wider.key);
                subtable.same_match(&keys).for_each(&mut each);
            } else if subtable.may_have(wider) {
                let rules = subtable.iter();
                rules
                    .filter(|rule| has_bits_of(&rule.matching, wider))
                    .for_each(&mut each);
            }
        }
    }

    /// Every rule, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.subtables
            .iter()
            .flat_map(|entry| entry.subtable.iter())
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// How many different masks the rules have.
    pub fn masks(&self) -> usize {
        self.subtables.len()
    }

    /// Bytes that the table takes, about.
    pub fn memory(&self) -> usize {
        let maps = self.subtables.iter().map(|entry| {
            let (matches, indexed, values) = entry.subtable.sizes();
            size_of::<Subtable>()
                + matches * MAP_ENTRY_BYTES
                + indexed * INDEX_ENTRY_BYTES
                + values * VALUE_BYTES
        });
        self.bytes + maps.sum::<usize>()
    }

    /// Where the subtable with this mask is.
    fn find(&self, mask: &FlowKey) -> Option<(usize, &Entry)> {
        let rank = rank(mask);
        let mut entries = self.subtables.iter().enumerate();
        entries.find(|(_, entry)| entry.rank == rank && entry.subtable.mask() == mask)
    }

    /// Puts an entry where it belongs after a change, or takes it out if its
    /// subtable has no rule left.
    fn put_in_order(&mut self, at: usize, new: bool) {
        let max = self.subtables[at].subtable.max_priority();
        if !new && max == Some(self.subtables[at].max_priority) {
            return;
        }
        let mut entry = self.subtables.remove(at);
        if let Some(max) = max {
            entry.max_priority = max;
            let at = (self.subtables).partition_point(|other| other.order() < entry.order());
            self.subtables.insert(at, entry);
        }
    }
}

/// Bytes of an entry of a subtable's map, of a stage's index and of a set of
/// values, with what the nodes leave unused: what a process grew by with a
/// million rules of masks that differ in just these.
const MAP_ENTRY_BYTES: usize = 132;
const INDEX_ENTRY_BYTES: usize = 60;
const VALUE_BYTES: usize = 66;

/// Bytes of a rule and what it points to, in blocks of the allocator.
fn rule_bytes(rule: &Rule) -> usize {
    let block = |bytes: usize| match bytes {
        0 => 0,
        _ => (bytes + 8).next_multiple_of(16).max(32),
    };
    let counts = 2 * size_of::<usize>();
    block(size_of::<Rule>() + counts)
        + block(size_of_val(rule.matching.keys()) * 2)
        + block(size_of_val(&*rule.actions))
}

fn mask_of(matching: &MiniMatch) -> FlowKey {
    let mut mask = FlowKey::default();
    for (word, bits) in matching.words().zip(matching.masks()) {
        mask.0[word] = *bits;
    }
    mask
}

/// Whether `mask` has no bit that `other` has not.
fn is_within(mask: &FlowKey, other: &FlowKey) -> bool {
    mask.0
        .iter()
        .zip(other.0)
        .all(|(mask, other)| mask & !other == 0)
}

/// Whether a match, whose mask has all bits of `wider`'s, has the same values.
fn has_bits_of(matching: &MiniMatch, wider: &Match) -> bool {
    let mut words = matching.words().zip(matching.keys());
    words.all(|(word, key)| (key ^ wider.key.0[word]) & wider.mask.0[word] == 0)
}

/// Whether some packet could match both.
pub(crate) fn overlaps(matching: &MiniMatch, other: &Match) -> bool {
    let mut words = matching.words().zip(matching.keys()).zip(matching.masks());
    words.all(|((word, key), mask)| (key ^ other.key.0[word]) & mask & other.mask.0[word] == 0)
}
