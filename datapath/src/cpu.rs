//! Two instructions that the packet path needs and Rust has no safe name for.

#![allow(unsafe_code)]
// UNSAFETY: intrinsics of every processor that the build targets (x86-64-v3).

use std::arch::x86_64::{_mm_crc32_u64, _rdtsc};

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
