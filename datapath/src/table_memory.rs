//! Memory for tables: words in DPDK's memory (hugepages where there are any).

#![allow(unsafe_code)]
// UNSAFETY: views DPDK's raw memory as atomic words.

use std::sync::atomic::AtomicU64;

use dpdk::{Eal, Memzone, MemzoneError};

/// Zeroed words that all threads may use.
pub enum TableMemory {
    /// In DPDK's memory: hugepages, unless EAL runs without.
    Reserved(Memzone),
    /// On the heap.
    #[cfg(test)]
    Ordinary(Box<[AtomicU64]>),
}

impl TableMemory {
    /// Reserves `words` words of DPDK's memory under a name of at most 31 bytes.
    pub fn reserve(eal: &Eal, name: &str, words: usize) -> Result<Self, MemzoneError> {
        Memzone::reserve(eal, name, words * size_of::<AtomicU64>(), 64).map(Self::Reserved)
    }

    /// Words on the heap.
    #[cfg(test)]
    pub fn ordinary(words: usize) -> Self {
        Self::Ordinary((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// The words.
    #[inline(always)]
    pub fn words(&self) -> &[AtomicU64] {
        match self {
            // SAFETY: the zone is `len` zeroed bytes, 64-aligned, lives as long
            // as `self`, and is accessed as atomics only.
            Self::Reserved(zone) => unsafe {
                std::slice::from_raw_parts(
                    zone.as_ptr().as_ptr().cast::<AtomicU64>(),
                    zone.len() / size_of::<AtomicU64>(),
                )
            },
            #[cfg(test)]
            Self::Ordinary(words) => words,
        }
    }
}
