//! Descriptors as they lie in memory, and what both layouts do with them.

#![allow(unsafe_code)]
// UNSAFETY: descriptors are read from memory shared with the guest.

use super::fault::RingFault;
use crate::memory::GuestMemory;

/// Most descriptors of one chain that are looked at: twice what one packet may
/// use. Chains as long as the largest ring would keep a PMD for milliseconds.
pub(crate) const MAX_CHAIN_DESCRIPTORS: u16 = 2048;

pub(super) const DESC_F_NEXT: u16 = 1;
pub(super) const DESC_F_WRITE: u16 = 2;
pub(super) const DESC_F_INDIRECT: u16 = 4;

/// A descriptor, copied out of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    /// Split: flags and next. Packed: id and flags, in that order.
    words: [u16; 2],
}

impl Descriptor {
    /// From its two halves, as a little-endian processor reads them.
    #[inline(always)]
    pub(super) fn from_halves(addr: u64, rest: u64) -> Self {
        Self {
            addr,
            len: rest as u32,
            words: [(rest >> 32) as u16, (rest >> 48) as u16],
        }
    }

    /// Reads one descriptor once.
    ///
    /// # Safety
    /// `at` must be readable for 16 bytes.
    #[inline(always)]
    pub(super) unsafe fn read(at: *const u8) -> Self {
        // Indirect tables may lie at any address, so 8-byte reads are not
        // necessarily aligned; a byte-wise volatile read would be slow. On x86 an
        // unaligned read is one read; volatile keeps the compiler from repeating it.
        // SAFETY: the caller guarantees 16 readable bytes.
        let (addr, rest) = unsafe {
            (
                at.cast::<Unaligned64>().read_volatile().0,
                at.add(8).cast::<Unaligned64>().read_volatile().0,
            )
        };
        Self::from_halves(u64::from_le(addr), u64::from_le(rest))
    }

    #[inline(always)]
    pub(super) fn split_flags(self) -> u16 {
        self.words[0]
    }

    #[inline(always)]
    pub(super) fn next(self) -> u16 {
        self.words[1]
    }

    #[inline(always)]
    pub(super) fn id(self) -> u16 {
        self.words[0]
    }

    #[inline(always)]
    pub(super) fn packed_flags(self) -> u16 {
        self.words[1]
    }
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned64(u64);

/// Whether flags say: one buffer, nothing chained, direction as wanted.
#[inline(always)]
pub(super) fn is_single(flags: u16, writable: bool) -> bool {
    flags & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT)
        == if writable { DESC_F_WRITE } else { 0 }
}

/// What of a chain's walk comes next.
pub(super) enum Walk {
    On,
    /// Whoever looks at the buffers has seen enough.
    Enough,
}

/// Calls `each` with the parts of a descriptor's buffer (our address, length).
/// One that straddles regions has several, an empty one none.
pub(super) fn each_part(
    memory: &GuestMemory,
    descriptor: Descriptor,
    each: &mut impl FnMut(*mut u8, u32) -> bool,
) -> Result<Walk, RingFault> {
    let (mut addr, mut left) = (descriptor.addr, u64::from(descriptor.len));
    while left > 0 {
        let (ptr, len) = memory
            .translate_prefix(addr, left)
            .ok_or(RingFault::OutsideMemory)?;
        if !each(ptr, len as u32) {
            return Ok(Walk::Enough);
        }
        addr = addr.wrapping_add(len);
        left -= len;
    }
    Ok(Walk::On)
}

/// The table that an indirect descriptor points to (our address), and its entries.
pub(super) fn indirect_table(
    memory: &GuestMemory,
    negotiated: bool,
    chained: bool,
    descriptor: Descriptor,
) -> Result<(*const u8, u16), RingFault> {
    if !negotiated {
        return Err(RingFault::IndirectNotNegotiated);
    }
    if chained {
        return Err(RingFault::NestedIndirect);
    }
    let entries = descriptor.len / 16;
    if entries == 0
        || !descriptor.len.is_multiple_of(16)
        || entries > u32::from(MAX_CHAIN_DESCRIPTORS)
    {
        return Err(RingFault::BadIndirectLength);
    }
    let table = memory
        .translate(descriptor.addr, u64::from(descriptor.len))
        .ok_or(RingFault::OutsideMemory)?;
    Ok((table, entries as u16))
}

/// Asks the processor to fetch a line that will be read.
#[inline(always)]
pub(crate) fn prefetch_read(at: *const u8) {
    // SAFETY: prefetching has no effect a program can see, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
}

/// Asks the processor to fetch a line that will be written.
#[inline(always)]
pub(crate) fn prefetch_write(at: *mut u8) {
    // SAFETY: as for reading; `prefetchw` faults on no address.
    unsafe {
        std::arch::asm!("prefetchw [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
}
