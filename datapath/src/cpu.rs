//! Three instructions that the packet path needs and Rust has no safe name for.

#![allow(unsafe_code)]
// UNSAFETY: intrinsics of every processor that the build targets (x86-64-v3).

use std::arch::x86_64::{_MM_HINT_T0, _mm_crc32_u64, _mm_prefetch, _rdtsc};

/// The time stamp counter now. Invariant and in step over cores on every
/// processor that ringway runs on (constant_tsc, nonstop_tsc).
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: reads a register; available on every x86-64.
    unsafe { _rdtsc() }
}

/// One step of CRC32C.
#[inline(always)]
pub fn crc32c(hash: u64, word: u64) -> u64 {
    // SAFETY: SSE4.2 is part of x86-64-v3, which this is built for.
    unsafe { _mm_crc32_u64(hash, word) }
}

/// Asks for the cache line at the beginning of `what`.
#[inline(always)]
pub fn prefetch<T>(what: &T) {
    // SAFETY: a hint; `what` is valid memory besides.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast()) }
}
