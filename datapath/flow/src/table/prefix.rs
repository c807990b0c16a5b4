//! Sets of a field's values that tell how few leading bits of another value
//! are enough to know that it is not among them.
//!
//! A tree of 16 branches a level over the values' bits, from the highest on;
//! a branch with one value ends there. Copies share what they have in common.

use std::sync::Arc;

/// Values: bits from the highest on.
pub(super) trait Bits: Copy + Eq {
    /// Four bits, the `depth`-th from the top.
    fn nibble(self, depth: u32) -> u32;
    /// How many leading bits are the same.
    fn common(self, other: Self) -> u32;
}

impl Bits for u64 {
    #[inline]
    fn nibble(self, depth: u32) -> u32 {
        (self.unbounded_shl(4 * depth) >> 60) as u32
    }

    #[inline]
    fn common(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }
}

impl Bits for u128 {
    #[inline]
    fn nibble(self, depth: u32) -> u32 {
        (self.unbounded_shl(4 * depth) >> 124) as u32
    }

    #[inline]
    fn common(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }
}

/// A set; each value is counted as often as it was added.
#[derive(Clone)]
pub(super) struct Values<V> {
    root: Arc<Node<V>>,
    /// How many different ones.
    len: usize,
}

#[derive(Clone)]
struct Node<V> {
    /// Which of the 16 branches there are.
    present: u16,
    /// Those, in order.
    branches: Vec<Branch<V>>,
}

#[derive(Clone)]
enum Branch<V> {
    /// One value, and how often it was added.
    Value(V, u32),
    Node(Arc<Node<V>>),
}

impl<V> Default for Values<V> {
    fn default() -> Self {
        Self {
            root: Arc::new(Node {
                present: 0,
                branches: Vec::new(),
            }),
            len: 0,
        }
    }
}

impl<V: Bits> Values<V> {
    /// Adds a value, once more if it is there.
    pub(super) fn add(&mut self, value: V) {
        let new = Arc::make_mut(&mut self.root).add(value, 1, 0);
        self.len += usize::from(new);
    }

    /// Takes a value away, once.
    pub(super) fn remove(&mut self, value: V) {
        let gone = Arc::make_mut(&mut self.root).remove(value, 0);
        self.len -= usize::from(gone);
    }

    /// How many leading bits of `value` tell that it is not in the set; `None`
    /// if it is.
    #[inline]
    pub(super) fn missing(&self, value: V) -> Option<u32> {
        let mut node: &Node<V> = &self.root;
        let mut depth = 0;
        loop {
            let slot = value.nibble(depth);
            let Some(branch) = node.branch(slot) else {
                return Some(4 * depth + node.bits_to_miss(slot));
            };
            match branch {
                Branch::Value(other, _) if *other == value => return None,
                Branch::Value(other, _) => return Some(value.common(*other) + 1),
                Branch::Node(next) => node = next,
            }
            depth += 1;
        }
    }

    /// How many different values there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl<V: Bits> Node<V> {
    /// Which of `branches` a slot's is, or where it would be.
    #[inline]
    fn index(&self, slot: u32) -> usize {
        (self.present & ((1 << slot) - 1)).count_ones() as usize
    }

    #[inline]
    fn branch(&self, slot: u32) -> Option<&Branch<V>> {
        match self.present >> slot & 1 {
            1 => self.branches.get(self.index(slot)),
            _ => None,
        }
    }

    /// How many bits of a slot's number tell that no branch has it.
    #[inline]
    fn bits_to_miss(&self, slot: u32) -> u32 {
        if self.present == 0 {
            return 0;
        }
        // Slots that share `bits` leading bits with this one stand side by side.
        let shared = |bits: u32| {
            let size = 16 >> bits;
            let block = ((1u32 << size) - 1) << (slot & !(size - 1));
            u32::from(self.present) & block != 0
        };
        (1..4).rev().find(|bits| shared(*bits)).unwrap_or(0) + 1
    }

    /// Whether it is a new one.
    fn add(&mut self, value: V, count: u32, depth: u32) -> bool {
        let slot = value.nibble(depth);
        let index = self.index(slot);
        if self.present >> slot & 1 == 0 {
            self.present |= 1 << slot;
            self.branches.insert(index, Branch::Value(value, count));
            return true;
        }
        match &mut self.branches[index] {
            Branch::Value(other, times) if *other == value => {
                *times += count;
                false
            }
            Branch::Value(other, times) => {
                let mut node = Self {
                    present: 0,
                    branches: Vec::with_capacity(2),
                };
                node.add(*other, *times, depth + 1);
                node.add(value, count, depth + 1);
                self.branches[index] = Branch::Node(Arc::new(node));
                true
            }
            Branch::Node(node) => Arc::make_mut(node).add(value, count, depth + 1),
        }
    }

    /// Whether it is gone.
    fn remove(&mut self, value: V, depth: u32) -> bool {
        let slot = value.nibble(depth);
        let index = self.index(slot);
        if self.present >> slot & 1 == 0 {
            return false;
        }
        match &mut self.branches[index] {
            Branch::Value(other, _) if *other != value => false,
            Branch::Value(_, times) if *times > 1 => {
                *times -= 1;
                false
            }
            Branch::Value(..) => {
                self.present &= !(1 << slot);
                self.branches.remove(index);
                true
            }
            Branch::Node(node) => {
                let node = Arc::make_mut(node);
                let gone = node.remove(value, depth + 1);
                // A value that is alone needs no node.
                if let [Branch::Value(last, times)] = node.branches[..] {
                    self.branches[index] = Branch::Value(last, times);
                }
                gone
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Few bits differ, so that values share prefixes.
    fn value() -> impl Strategy<Value = u64> {
        (0u32..64, 0u64..8)
            .prop_map(|(shift, low)| (0x0a00_0001_0000_0000 ^ low << 32) ^ 1 << shift)
    }

    proptest! {
        #[test]
        fn as_few_bits_as_a_search_through_all_values_finds(
            steps in prop::collection::vec((any::<bool>(), value()), 1..80),
            probes in prop::collection::vec(value(), 20),
        ) {
            let mut set = Values::default();
            let mut wide = Values::<u128>::default();
            let mut all = BTreeMap::<u64, u32>::new();
            let place = |value: u64| u128::from(value) << 32;
            for (add, value) in steps {
                if add {
                    set.add(value);
                    wide.add(place(value));
                    *all.entry(value).or_default() += 1;
                } else {
                    set.remove(value);
                    wide.remove(place(value));
                    if let Some(times) = all.get_mut(&value) {
                        *times -= 1;
                        if *times == 0 {
                            all.remove(&value);
                        }
                    }
                }
                prop_assert_eq!(set.len(), all.len());
            }
            for probe in probes {
                let nearest = all.keys().map(|other| probe.common(*other)).max();
                let expected = match nearest {
                    Some(64) => None,
                    Some(common) => Some(common + 1),
                    None => Some(0),
                };
                prop_assert_eq!(set.missing(probe), expected);
                // The same 32 bits further down.
                let expected = expected.map(|bits| if bits == 0 { 0 } else { bits + 32 });
                prop_assert_eq!(wide.missing(place(probe)), expected);
            }
        }

        #[test]
        fn a_copy_does_not_change(values in prop::collection::vec(value(), 2..40)) {
            let mut set = Values::default();
            let (before, after) = values.split_at(values.len() / 2);
            for value in before {
                set.add(*value);
            }
            let copy = set.clone();
            for value in after {
                set.add(*value);
            }
            for value in before {
                set.remove(*value);
            }
            for value in &values {
                prop_assert_eq!(copy.missing(*value).is_none(), before.contains(value));
                prop_assert_eq!(set.missing(*value).is_none(), after.contains(value));
            }
        }
    }
}
