//! The masks of a bridge's megaflows: which ones there are, in which order
//! they are tried, and what they look at together.
//!
//! A packet is tried against at most [`MAX_MASKS`] masks and [`PacketKey::ALL`].
//! Once a bridge has that many, a megaflow that needs yet another one gets a
//! mask that there is already and that looks at more: right as well, only less
//! wide. So nobody can make lookups longer by making up headers.

use arrayvec::ArrayVec;
use ringway_flow::key::{PACKET_WORDS, PacketKey};

use super::table::{HOT, MASKS};
use crate::cpu::crc32c;

/// Most masks of one bridge, beside [`PacketKey::ALL`].
pub const MAX_MASKS: usize = 128;

/// Bits of word 0 that say which bridge: in every mask.
pub const BRIDGE_BITS: u64 = 0xffff << 48;

/// A mask in use.
#[derive(Clone, Copy)]
pub struct Mask {
    pub bits: PacketKey,
    /// Of `bits`: masks are told apart by it first.
    digest: u32,
    /// It looks at words beyond an entry's first line.
    pub cold: bool,
    /// Megaflows that have it.
    pub uses: u32,
    /// Packets found with it lately.
    pub hits: u32,
}

impl Mask {
    const UNUSED: Self = Self {
        bits: PacketKey([0; PACKET_WORDS]),
        digest: 0,
        cold: false,
        uses: 0,
        hits: 0,
    };

    fn new(bits: PacketKey) -> Self {
        Self {
            bits,
            digest: digest(&bits),
            cold: is_cold(&bits),
            ..Self::UNUSED
        }
    }

    /// The hash of what it leaves of a key.
    #[inline(always)]
    pub fn hash(&self, key: &PacketKey) -> u32 {
        hash(key, &self.bits, self.cold)
    }
}

fn digest(bits: &PacketKey) -> u32 {
    bits.0.iter().fold(0, |hash, word| crc32c(hash, *word)) as u32
}

fn is_cold(bits: &PacketKey) -> bool {
    bits.0[HOT..].iter().any(|word| *word != 0)
}

#[inline(always)]
fn hash(key: &PacketKey, bits: &PacketKey, cold: bool) -> u32 {
    let step = |hash, i: usize| crc32c(hash, key.0[i] & bits.0[i]);
    let mut hash = (0..HOT).fold(0x9e37_79b9, step);
    if cold {
        hash = (HOT..PACKET_WORDS).fold(hash, step);
    }
    // 0 is an empty slot.
    (hash as u32).max(1)
}

/// All masks of a core, by number; 0 is none.
pub struct MaskPool {
    masks: Box<[Mask; MASKS]>,
    free: Vec<u16>,
}

impl Default for MaskPool {
    fn default() -> Self {
        Self {
            masks: Box::new([Mask::UNUSED; MASKS]),
            free: (1..MASKS as u16).rev().collect(),
        }
    }
}

impl MaskPool {
    #[inline(always)]
    pub fn get(&self, number: u16) -> &Mask {
        &self.masks[usize::from(number) % MASKS]
    }

    #[inline(always)]
    pub fn get_mut(&mut self, number: u16) -> &mut Mask {
        &mut self.masks[usize::from(number) % MASKS]
    }

    /// Masks in use.
    pub fn len(&self) -> usize {
        MASKS - 1 - self.free.len()
    }

    fn add(&mut self, bits: PacketKey) -> Option<u16> {
        let number = self.free.pop()?;
        *self.get_mut(number) = Mask::new(bits);
        Some(number)
    }

    /// A megaflow less; true: it was the last.
    pub fn let_go(&mut self, number: u16) -> bool {
        let mask = self.get_mut(number);
        mask.uses = mask.uses.saturating_sub(1);
        if mask.uses > 0 {
            return false;
        }
        self.free.push(number);
        true
    }
}

/// The masks of one bridge.
pub struct BridgeMasks {
    /// Which bridge; 0: none.
    pub bridge: u16,
    /// In the order in which they are tried.
    order: ArrayVec<u16, { MAX_MASKS + 1 }>,
    /// What any of them looks at. May be more, until the next tidying.
    union: Mask,
    /// Most packets belong to the first mask.
    leads: bool,
}

impl Default for BridgeMasks {
    fn default() -> Self {
        Self {
            bridge: 0,
            order: ArrayVec::new(),
            union: Mask::UNUSED,
            leads: false,
        }
    }
}

impl BridgeMasks {
    /// Becomes another bridge's.
    pub fn reset(&mut self, bridge: u16) {
        *self = Self {
            bridge,
            ..Self::default()
        };
    }

    #[inline(always)]
    pub fn order(&self) -> &[u16] {
        &self.order
    }

    /// Whether it is better to try the first mask before the exact-match cache.
    #[inline(always)]
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// What any of the masks looks at.
    #[inline(always)]
    pub fn union(&self) -> &Mask {
        &self.union
    }

    /// The number of a mask that looks at no less than `bits`: just these if
    /// there is room for one more. `None`: the core has no mask left. The
    /// flag says that the mask is new.
    pub fn find_or_add(&mut self, pool: &mut MaskPool, bits: &PacketKey) -> Option<(u16, bool)> {
        let digest = digest(bits);
        let same = |number: &&u16| {
            let mask = pool.get(**number);
            mask.digest == digest && mask.bits == *bits
        };
        if let Some(number) = self.order.iter().find(same) {
            return Some((*number, false));
        }
        if self.order.len() < MAX_MASKS
            && let Some(number) = self.add(pool, *bits)
        {
            return Some((number, true));
        }
        let wide_enough = |number: &&u16| {
            let mask = pool.get(**number);
            mask.bits
                .0
                .iter()
                .zip(bits.0)
                .all(|(has, needs)| has & needs == needs)
        };
        let bits_of = |number: &&u16| -> u32 {
            pool.get(**number)
                .bits
                .0
                .iter()
                .map(|word| word.count_ones())
                .sum()
        };
        if let Some(number) = self.order.iter().filter(wide_enough).min_by_key(bits_of) {
            return Some((*number, false));
        }
        let number = self.add(pool, PacketKey::ALL)?;
        Some((number, true))
    }

    fn add(&mut self, pool: &mut MaskPool, bits: PacketKey) -> Option<u16> {
        if self.order.is_full() {
            return None;
        }
        let number = pool.add(bits)?;
        self.order.push(number);
        let both = |i: usize| self.union.bits.0[i] | bits.0[i];
        self.union = Mask::new(PacketKey(std::array::from_fn(both)));
        Some(number)
    }

    /// A mask that no megaflow has any more.
    pub fn remove(&mut self, number: u16) {
        self.order.retain(|other| *other != number);
        if self.order.is_empty() {
            self.union = Mask::UNUSED;
        }
    }

    /// Puts the masks that found most lately in front, and looks at no more
    /// than they do.
    pub fn tidy(&mut self, pool: &mut MaskPool) {
        // Nearly sorted, short: insertion sort, which allocates nothing.
        for i in 1..self.order.len() {
            let mut at = i;
            while at > 0 && pool.get(self.order[at]).hits > pool.get(self.order[at - 1]).hits {
                self.order.swap(at, at - 1);
                at -= 1;
            }
        }
        let hits = |number: &u16| u64::from(pool.get(*number).hits);
        let all: u64 = self.order.iter().map(hits).sum();
        self.leads = self.order.first().map_or(0, hits) * 2 > all;
        let mut bits = PacketKey::default();
        for number in &self.order {
            let mask = pool.get_mut(*number);
            mask.hits /= 2;
            for (all, word) in bits.0.iter_mut().zip(mask.bits.0) {
                *all |= word;
            }
        }
        if bits != self.union.bits {
            self.union = Mask::new(bits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(word: usize, bits: u64) -> PacketKey {
        let mut key = PacketKey::default();
        key.0[0] = BRIDGE_BITS;
        key.0[word] |= bits;
        key
    }

    #[test]
    fn a_bridge_has_no_more_masks_than_allowed_and_they_stay_right() {
        let (mut pool, mut masks) = (MaskPool::default(), BridgeMasks::default());
        let mut needs = Vec::new();
        for word in 1..10 {
            for bit in 0..40 {
                needs.push(bits(word, 1 << bit));
            }
        }
        for need in &needs {
            let (number, _) = masks.find_or_add(&mut pool, need).unwrap();
            let has = pool.get(number).bits;
            assert_eq!(has.masked(need), *need);
            pool.get_mut(number).uses += 1;
        }
        assert_eq!(masks.order().len(), MAX_MASKS + 1);
        assert_eq!(
            pool.get(*masks.order().last().unwrap()).bits,
            PacketKey::ALL
        );
    }

    #[test]
    fn masks_that_find_much_come_first_and_the_union_shrinks() {
        let (mut pool, mut masks) = (MaskPool::default(), BridgeMasks::default());
        let (a, _) = masks.find_or_add(&mut pool, &bits(1, 1)).unwrap();
        let (b, new) = masks.find_or_add(&mut pool, &bits(9, 1)).unwrap();
        assert!(new && masks.union().cold);
        assert_eq!(masks.find_or_add(&mut pool, &bits(9, 1)), Some((b, false)));
        pool.get_mut(b).hits = 10;
        masks.tidy(&mut pool);
        assert_eq!(masks.order(), [b, a]);
        assert!(masks.leads());
        pool.get_mut(b).uses = 1;
        assert!(pool.let_go(b));
        masks.remove(b);
        masks.tidy(&mut pool);
        assert!(!masks.union().cold);
        assert_eq!(pool.len(), 1);
    }
}
