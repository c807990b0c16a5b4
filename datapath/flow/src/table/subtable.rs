//! The rules of a table that have one mask.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrayvec::ArrayVec;
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdMap};

use super::hash::{WordHash, WordHasher};
use super::prefix::Values;
use super::stages::{STAGE_MASKS, STAGES, TP_SRC, TRACKED, TrackedField};
use crate::key::{FLOW_WORDS, FlowKey};
use crate::matching::Match;
use crate::rule::Rule;

type Map<K, V> = GenericHashMap<K, V, WordHash, DefaultSharedPtr>;

/// A stage's index is looked into before the rules are if it has no more
/// entries than this. A miss in so small an index is cheap and ends the search;
/// a hit in a large one costs as much as the rules themselves. Tests go both ways.
const SMALL_INDEX: usize = if cfg!(test) { 2 } else { 64 };

/// Most runs of bits that are in one word and one stage: words 0, 4 and 5 have
/// bits of several.
const MAX_PARTS: usize = FLOW_WORDS + 4;

/// The rules with one mask. Copies share what they have in common.
#[derive(Clone)]
pub(super) struct Subtable {
    mask: FlowKey,
    /// The words with mask bits, in order, and those.
    words: ArrayVec<Part, FLOW_WORDS>,
    /// The same, sorted by stage.
    parts: ArrayVec<Part, MAX_PARTS>,
    /// Stages with mask bits, in order, but the last: that is the rules.
    stages: ArrayVec<Stage, { STAGES - 1 }>,
    tracked: ArrayVec<Tracked, { TRACKED.len() }>,
    /// By key words: the rule of highest priority, and the others.
    rules: Map<Head, Lower>,
    /// How many rules have each priority.
    priorities: OrdMap<u16, u32>,
}

#[derive(Clone, Copy)]
struct Part {
    word: u8,
    mask: u64,
}

#[derive(Clone)]
struct Stage {
    /// Its number.
    stage: u8,
    /// The end of its and earlier stages' parts.
    end: u8,
    /// Hashes of the rules' keys up to here, and how many have each. That two
    /// keys may have one hash only makes a lookup go on.
    index: Map<u32, u32>,
}

#[derive(Clone)]
struct Tracked {
    field: TrackedField,
    /// The mask's bits in the (first) word and the next.
    mask: [u64; 2],
    values: Set,
}

#[derive(Clone)]
enum Set {
    Short(Values<u64>),
    Long(Values<u128>),
}

/// A rule, known by its key words.
#[derive(Clone)]
struct Head(Arc<Rule>);

/// Rules with the same match and a lower priority, the highest first.
type Lower = Option<Arc<Vec<Arc<Rule>>>>;

impl std::borrow::Borrow<[u64]> for Head {
    fn borrow(&self) -> &[u64] {
        self.0.matching.keys()
    }
}

impl Hash for Head {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.matching.keys().hash(state);
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.0.matching.keys() == other.0.matching.keys()
    }
}

impl Eq for Head {}

impl Part {
    #[inline(always)]
    fn of(self, key: &FlowKey) -> u64 {
        word(key, self.word) & self.mask
    }

    /// How many of its bits `mask` lacks.
    #[inline(always)]
    fn lacking(self, mask: &FlowKey) -> u32 {
        (self.mask & !word(mask, self.word)).count_ones()
    }
}

#[inline(always)]
fn word(key: &FlowKey, index: u8) -> u64 {
    key.0.get(usize::from(index)).copied().unwrap_or_default()
}

#[inline(always)]
fn set_bits(key: &mut FlowKey, index: u8, bits: u64) {
    if let Some(word) = key.0.get_mut(usize::from(index)) {
        *word |= bits;
    }
}

impl Tracked {
    fn new(field: TrackedField, mask: [u64; 2]) -> Self {
        let values = match field.long {
            true => Set::Long(Values::default()),
            false => Set::Short(Values::default()),
        };
        Self {
            field,
            mask,
            values,
        }
    }

    fn short(&self, key: &FlowKey) -> u64 {
        (word(key, self.field.word) & self.mask[0]) << self.field.bits.leading_zeros()
    }

    fn long(&self, key: &FlowKey) -> u128 {
        let half = |i: u8| u128::from(word(key, self.field.word + i) & self.mask[usize::from(i)]);
        half(0) << 64 | half(1)
    }

    fn add(&mut self, key: &FlowKey) {
        let (short, long) = (self.short(key), self.long(key));
        match &mut self.values {
            Set::Short(values) => values.add(short),
            Set::Long(values) => values.add(long),
        }
    }

    fn remove(&mut self, key: &FlowKey) {
        let (short, long) = (self.short(key), self.long(key));
        match &mut self.values {
            Set::Short(values) => values.remove(short),
            Set::Long(values) => values.remove(long),
        }
    }

    /// The bits that tell that no rule has the key's value; `None` if some has.
    #[inline]
    fn missing(&self, key: &FlowKey) -> Option<[u64; 2]> {
        match &self.values {
            Set::Short(values) => {
                let bits = values.missing(self.short(key))?;
                let top = !u64::MAX.unbounded_shr(bits);
                Some([(top >> self.field.bits.leading_zeros()) & self.mask[0], 0])
            }
            Set::Long(values) => {
                let bits = values.missing(self.long(key))?;
                let top = !u128::MAX.unbounded_shr(bits);
                Some([(top >> 64) as u64 & self.mask[0], top as u64 & self.mask[1]])
            }
        }
    }
}

impl Subtable {
    /// For rules with this mask; none yet.
    pub(super) fn new(mask: &FlowKey) -> Self {
        let mut words = ArrayVec::new();
        for (index, mask) in mask.0.iter().enumerate() {
            if *mask != 0 {
                words.push(Part {
                    word: index as u8,
                    mask: *mask,
                });
            }
        }
        let mut parts = ArrayVec::<Part, MAX_PARTS>::new();
        let mut stages = ArrayVec::<Stage, STAGES>::new();
        for (stage, bits) in STAGE_MASKS.iter().enumerate() {
            let before = parts.len();
            for (index, (mask, bits)) in mask.0.iter().zip(bits).enumerate() {
                if mask & bits != 0 {
                    parts.push(Part {
                        word: index as u8,
                        mask: mask & bits,
                    });
                }
            }
            if parts.len() > before {
                stages.push(Stage {
                    stage: stage as u8,
                    end: parts.len() as u8,
                    index: Map::default(),
                });
            }
        }
        stages.pop();
        let tracked = TRACKED.iter().filter_map(|field| {
            let index = usize::from(field.word);
            let next = if field.long { mask.0[index + 1] } else { 0 };
            let bits = [mask.0[index] & field.bits, next];
            // tp_dst alone is already told by both ports.
            let twice = index == 4 && field.bits & TP_SRC == 0 && mask.0[4] & TP_SRC == 0;
            (bits != [0, 0] && !twice).then(|| Tracked::new(*field, bits))
        });
        Self {
            mask: *mask,
            words,
            parts,
            stages: stages.into_iter().collect(),
            tracked: tracked.collect(),
            rules: Map::default(),
            priorities: OrdMap::new(),
        }
    }

    /// The mask.
    pub(super) fn mask(&self) -> &FlowKey {
        &self.mask
    }

    /// The highest priority of a rule.
    pub(super) fn max_priority(&self) -> Option<u16> {
        self.priorities.get_max().map(|(priority, _)| *priority)
    }

    /// Whether some rule has this priority.
    pub(super) fn has_priority(&self, priority: u16) -> bool {
        self.priorities.contains_key(&priority)
    }

    /// How many different matches, and entries of stages' indexes and sets of
    /// values, there are.
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let indexed = self.stages.iter().map(|stage| stage.index.len());
        let values = self.tracked.iter().map(|tracked| match &tracked.values {
            Set::Short(values) => values.len(),
            Set::Long(values) => values.len(),
        });
        (self.rules.len(), indexed.sum(), values.sum())
    }

    /// The rule of highest priority that matches. Adds to `looked_at` the whole
    /// mask if there is one, else what tells that there is none.
    #[inline]
    pub(super) fn lookup(&self, flow: &FlowKey, looked_at: &mut FlowKey) -> Option<&Arc<Rule>> {
        let mut hasher = WordHasher::default();
        let mut done = 0;
        for stage in &self.stages {
            if stage.index.len() > SMALL_INDEX {
                break;
            }
            self.hash_parts(&mut hasher, done, stage.end, flow);
            done = stage.end;
            if !stage.index.contains_key(&hasher.short()) {
                self.look_at_miss(stage.stage, stage.end, flow, looked_at);
                return None;
            }
        }
        let mut keys = [0; FLOW_WORDS];
        for (key, part) in keys.iter_mut().zip(&self.words) {
            *key = part.of(flow);
        }
        let keys = keys.get(..self.words.len()).unwrap_or_default();
        if let Some((Head(rule), _)) = self.rules.get_key_value(keys) {
            for part in &self.words {
                set_bits(looked_at, part.word, part.mask);
            }
            return Some(rule);
        }
        for stage in &self.stages {
            if stage.end <= done {
                continue;
            }
            self.hash_parts(&mut hasher, done, stage.end, flow);
            done = stage.end;
            if !stage.index.contains_key(&hasher.short()) {
                self.look_at_miss(stage.stage, stage.end, flow, looked_at);
                return None;
            }
        }
        self.look_at_miss(STAGES as u8, self.parts.len() as u8, flow, looked_at);
        None
    }

    #[inline(always)]
    fn hash_parts(&self, hasher: &mut WordHasher, from: u8, to: u8, flow: &FlowKey) {
        for part in self.parts.get(from.into()..to.into()).unwrap_or_default() {
            hasher.add(part.of(flow));
        }
    }

    /// No rule has the flow's bits in the parts before `end`, which are those
    /// of the stages up to `stage`: adds the fewest bits that tell so, which
    /// are all of these parts', or some leading bits of one field.
    #[inline]
    fn look_at_miss(&self, stage: u8, end: u8, flow: &FlowKey, looked_at: &mut FlowKey) {
        let parts = self.parts.get(..end.into()).unwrap_or_default();
        let mut fewest: u32 = parts.iter().map(|part| part.lacking(looked_at)).sum();
        if fewest == 0 {
            return;
        }
        let mut best = None;
        for tracked in self
            .tracked
            .iter()
            .filter(|tracked| tracked.field.stage <= stage)
        {
            let Some(bits) = tracked.missing(flow) else {
                continue;
            };
            let prerequisite = self.mask.0[0] & tracked.field.prerequisite;
            let lacking = [
                (tracked.field.word, bits[0]),
                (tracked.field.word + 1, bits[1]),
                (0, prerequisite),
            ]
            .map(|(word, mask)| Part { word, mask }.lacking(looked_at));
            let lacking = lacking.iter().sum();
            if lacking < fewest {
                fewest = lacking;
                best = Some((tracked.field.word, bits, prerequisite));
            }
        }
        match best {
            Some((word, bits, prerequisite)) => {
                set_bits(looked_at, word, bits[0]);
                set_bits(looked_at, word + 1, bits[1]);
                set_bits(looked_at, 0, prerequisite);
            }
            None => {
                for part in parts {
                    set_bits(looked_at, part.word, part.mask);
                }
            }
        }
    }

    /// The rule with these key words and this priority.
    pub(super) fn get(&self, keys: &[u64], priority: u16) -> Option<&Arc<Rule>> {
        self.same_match(keys).find(|rule| rule.priority == priority)
    }

    /// All rules with these key words, the highest priority first.
    pub(super) fn same_match(&self, keys: &[u64]) -> impl Iterator<Item = &Arc<Rule>> {
        let entry = self.rules.get_key_value(keys);
        entry
            .into_iter()
            .flat_map(|(head, lower)| entry_rules(head, lower))
    }

    /// All rules.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules
            .iter()
            .flat_map(|(head, lower)| entry_rules(head, lower))
    }

    /// The key words that a match of this mask, or of one with more bits, has here.
    pub(super) fn keys_of(&self, key: &FlowKey) -> ArrayVec<u64, FLOW_WORDS> {
        self.words.iter().map(|part| part.of(key)).collect()
    }

    /// Whether some rule may lie within `wider`, whose mask is within this
    /// one's. False only if none does.
    pub(super) fn may_have(&self, wider: &Match) -> bool {
        let covers = |part: &Part| word(&wider.mask, part.word) & part.mask == part.mask;
        let mut hasher = WordHasher::default();
        let mut done = 0;
        for stage in &self.stages {
            let parts = &self.parts[usize::from(done)..usize::from(stage.end)];
            if !parts.iter().all(covers) {
                break;
            }
            self.hash_parts(&mut hasher, done, stage.end, &wider.key);
            done = stage.end;
            if !stage.index.contains_key(&hasher.short()) {
                return false;
            }
        }
        self.tracked.iter().all(|tracked| {
            let halves = [(tracked.field.word, 0), (tracked.field.word + 1, 1)];
            let covered = halves.into_iter().all(|(word, half)| {
                let mask = tracked.mask[half];
                covers(&Part { word, mask })
            });
            !covered || tracked.missing(&wider.key).is_none()
        })
    }

    /// Puts a rule in, in place of one with the same match and priority.
    pub(super) fn insert(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let priority = rule.priority;
        let keys = rule.matching.keys();
        let replaced = match self.rules.get_key_value(keys) {
            None => {
                self.index(&rule.matching.full().key, true);
                self.rules.insert(Head(rule), None);
                None
            }
            Some((Head(head), lower)) if priority >= head.priority => {
                let head = head.clone();
                let mut lower = lower.clone();
                let replaced = if priority == head.priority {
                    Some(head)
                } else {
                    Arc::make_mut(lower.get_or_insert_default()).insert(0, head);
                    None
                };
                self.rules.insert(Head(rule), lower);
                replaced
            }
            Some(_) => {
                let lower = self.rules.get_mut(keys)?;
                let lower = Arc::make_mut(lower.get_or_insert_default());
                let at = lower.partition_point(|other| other.priority > priority);
                match lower.get_mut(at) {
                    Some(other) if other.priority == priority => {
                        Some(std::mem::replace(other, rule))
                    }
                    _ => {
                        lower.insert(at, rule);
                        None
                    }
                }
            }
        };
        if replaced.is_none() {
            *self.priorities.entry(priority).or_insert(0) += 1;
        }
        replaced
    }

    /// Takes a rule out.
    pub(super) fn remove(&mut self, keys: &[u64], priority: u16) -> Option<Arc<Rule>> {
        let (Head(head), lower) = self.rules.get_key_value(keys)?;
        let removed = if head.priority == priority {
            let head = head.clone();
            match lower.clone() {
                None => {
                    self.index(&head.matching.full().key, false);
                    self.rules.remove(keys);
                }
                Some(mut rest) => {
                    let next = Arc::make_mut(&mut rest).remove(0);
                    let rest = Some(rest).filter(|rest| !rest.is_empty());
                    self.rules.insert(Head(next), rest);
                }
            }
            head
        } else {
            let lower = self.rules.get_mut(keys)?;
            let rest = Arc::make_mut(lower.as_mut()?);
            let at = rest.iter().position(|rule| rule.priority == priority)?;
            let removed = rest.remove(at);
            if rest.is_empty() {
                *lower = None;
            }
            removed
        };
        match self.priorities.get_mut(&priority) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.priorities.remove(&priority)),
        }
        Some(removed)
    }

    /// Adds a key to the stages' indexes and the sets of values, or takes it out.
    fn index(&mut self, key: &FlowKey, add: bool) {
        let mut hasher = WordHasher::default();
        let mut done = 0;
        for stage in &mut self.stages {
            for part in &self.parts[usize::from(done)..usize::from(stage.end)] {
                hasher.add(part.of(key));
            }
            done = stage.end;
            let hash = hasher.short();
            match stage.index.get_mut(&hash) {
                Some(count) if add => *count += 1,
                Some(count) if *count > 1 => *count -= 1,
                Some(_) => drop(stage.index.remove(&hash)),
                None if add => drop(stage.index.insert(hash, 1)),
                None => {}
            }
        }
        for tracked in &mut self.tracked {
            match add {
                true => tracked.add(key),
                false => tracked.remove(key),
            }
        }
    }
}

fn entry_rules<'a>(Head(head): &'a Head, lower: &'a Lower) -> impl Iterator<Item = &'a Arc<Rule>> {
    let lower = lower.iter().flat_map(|lower| lower.iter());
    std::iter::once(head).chain(lower)
}
