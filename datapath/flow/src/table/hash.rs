//! The hash of key words: rules come from the administrator, not from packets,
//! so that it need be quick and even, not keyed.

use std::hash::{BuildHasher, Hasher};

/// Makes [`WordHasher`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WordHash;

/// Multiplies each word to 128 bits and folds the halves, so that every bit of
/// the words reaches the low bits, which the maps use.
#[derive(Clone, Copy, Debug)]
pub(super) struct WordHasher(u64);

const SEED: u64 = 0x243f_6a88_85a3_08d3;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Default for WordHasher {
    fn default() -> Self {
        Self(SEED)
    }
}

impl WordHasher {
    /// Takes a word in.
    #[inline(always)]
    pub(super) fn add(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = (product as u64) ^ (product >> 64) as u64 ^ SEED.rotate_left(17);
    }

    /// 32 bits of the hash so far.
    #[inline(always)]
    pub(super) fn short(&self) -> u32 {
        (self.0 ^ self.0 >> 32) as u32
    }
}

impl BuildHasher for WordHash {
    type Hasher = WordHasher;

    fn build_hasher(&self) -> WordHasher {
        WordHasher::default()
    }
}

impl Hasher for WordHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_ne_bytes(*word));
        }
        for byte in rest {
            self.add(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word));
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}
