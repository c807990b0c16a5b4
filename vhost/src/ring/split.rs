//! A split virtqueue as seen by the device (VirtIO 1.2, 2.7).
//!
//! ```text
//! guest writes:  descriptor table   16 × size    addr, len, flags, next
//!                available ring     4 + 2 × size (+2) flags, idx, heads…, used_event
//! we write:      used ring          4 + 8 × size (+2) flags, idx, {id, len}…, avail_event
//! ```
//!
//! The three addresses are resolved once, with the whole length checked, and
//! never again until the frontend changes them. Everything read here was
//! written by the guest and may change at any moment: each field is read once
//! into a local, checked, and never looked at again.

#![allow(unsafe_code)]
// UNSAFETY: volatile and atomic access to ring memory shared with the guest.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering, fence};

use crate::claim::Claimed;
use crate::gso::GsoKinds;
use crate::memory::GuestMemory;
use crate::notify;
use crate::packet::{BURST, VNET_HEADER_BYTES};

/// Largest queue (VirtIO 1.2, 2.7: 32768).
pub const MAX_RING_SIZE: u16 = 32768;

/// Most descriptors of one chain that are looked at: twice what one packet may
/// use. Chains as long as the largest ring would keep a PMD for milliseconds.
const MAX_CHAIN_DESCRIPTORS: u16 = 2048;

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

/// A descriptor, copied out of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    /// One buffer, nothing chained, direction as wanted.
    #[inline(always)]
    pub(crate) fn is_single(self, writable: bool) -> bool {
        self.flags & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT)
            == if writable { DESC_F_WRITE } else { 0 }
    }
}

/// How a guest broke the rules of its ring. Its port is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum RingFault {
    /// The available index moved by more than the ring's size.
    #[error("the available index jumped by more entries than the ring has")]
    AvailIndexJump = 1,
    /// A chain starts at a descriptor that does not exist.
    #[error("a chain starts at a descriptor index that is not below the ring's size")]
    HeadOutOfRange,
    /// A `next` field points to a descriptor that does not exist.
    #[error("a descriptor's next field is not below its table's size")]
    NextOutOfRange,
    /// A chain has more descriptors than the table: it loops.
    #[error("a descriptor chain loops, or has more than {MAX_CHAIN_DESCRIPTORS} descriptors")]
    ChainLoop,
    /// A buffer is not in guest memory.
    #[error("a descriptor points outside guest memory")]
    OutsideMemory,
    /// An indirect table within an indirect table or with a chained descriptor.
    #[error("an indirect descriptor is chained or lies inside an indirect table")]
    NestedIndirect,
    /// An indirect table of a length that is no multiple of 16, zero, or longer than allowed.
    #[error("an indirect table's length is zero, not a multiple of 16, or too long")]
    BadIndirectLength,
    /// Indirect descriptors were not negotiated.
    #[error("an indirect descriptor although VIRTIO_F_INDIRECT_DESC was not negotiated")]
    IndirectNotNegotiated,
    /// A device-writable buffer in the transmit queue or a readable one in the receive queue.
    #[error("a buffer's direction is wrong for its queue")]
    WrongDirection,
    /// A receive buffer too small to hold even the virtio-net header.
    #[error("a receive chain has no room for the virtio-net header")]
    NoRoomForHeader,
    /// Guest memory was there when it was mapped and is gone.
    #[error(
        "the frontend truncated its memory file, or its hugepages ran out: memory that it shared is gone"
    )]
    MemoryLost,
    /// A notification would have waited for ever.
    #[error(
        "the frontend filled its call eventfd and made it blocking: notifying its guest never ended"
    )]
    CallBlocked,
}

impl RingFault {
    const ALL: [RingFault; 12] = [
        RingFault::AvailIndexJump,
        RingFault::HeadOutOfRange,
        RingFault::NextOutOfRange,
        RingFault::ChainLoop,
        RingFault::OutsideMemory,
        RingFault::NestedIndirect,
        RingFault::BadIndirectLength,
        RingFault::IndirectNotNegotiated,
        RingFault::WrongDirection,
        RingFault::NoRoomForHeader,
        RingFault::MemoryLost,
        RingFault::CallBlocked,
    ];

    /// Whether a driver that starts anew does not mend it: only a new
    /// connection does.
    pub fn outlasts_driver(self) -> bool {
        matches!(self, Self::MemoryLost | Self::CallBlocked)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| *fault as u8 == code)
    }
}

/// What of a ring changes while it runs. Kept by the session over new views of
/// the same ring; used by one PMD at a time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Next entry of the available ring to be taken.
    pub(crate) next_avail: u16,
    /// The guest's available index when it was last read.
    pub(crate) seen_avail: u16,
    /// Next entry of the used ring to be written.
    pub(crate) next_used: u16,
    /// The last look at the ring found something.
    pub(crate) busy: bool,
    /// Used index at the last decision whether to notify (EVENT_IDX).
    pub(crate) notified_used: u16,
    /// Heads taken in this burst, in order.
    pub(crate) heads: [u16; BURST],
}

/// Where a ring stands; read by the control plane after the PMDs let go.
pub struct RingState {
    pub(crate) progress: Claimed<Progress>,
    fault: Arc<DeviceFault>,
    pub(crate) notifications: AtomicU64,
}

/// The first fault of any ring of a device. Shared by its rings, so that the
/// PMD that finds it shuts out the whole port at once. Written by a PMD
/// (fault) and the session (clear), read by PMDs and the control plane.
#[derive(Debug, Default)]
pub struct DeviceFault(AtomicU8);

impl DeviceFault {
    /// Nothing is wrong.
    pub(crate) const fn none() -> Self {
        Self(AtomicU8::new(0))
    }

    /// How the guest broke its rings, if it did.
    #[inline(always)]
    pub fn get(&self) -> Option<RingFault> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            code => RingFault::from_code(code),
        }
    }

    /// Sets the fault, unless there is one already.
    pub(crate) fn set(&self, fault: RingFault) {
        let relaxed = Ordering::Relaxed;
        let _ = (self.0).compare_exchange(0, fault as u8, relaxed, relaxed);
    }

    /// Guest memory is gone, whatever else may be wrong. Called by the SIGBUS
    /// handler, before it puts other memory there.
    pub(crate) fn lose_memory(&self) {
        self.0.store(RingFault::MemoryLost as u8, Ordering::SeqCst);
    }

    /// Whether guest memory is gone. What was read or written before this was
    /// asked is only to be believed if the answer is no.
    #[inline(always)]
    pub fn has_lost_memory(&self) -> bool {
        // Not before the accesses that it is about.
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) == RingFault::MemoryLost as u8
    }

    /// The guest's driver starts anew: forgives what that mends.
    pub fn forgive(&self) {
        let code = self.0.load(Ordering::Relaxed);
        if RingFault::from_code(code).is_some_and(|fault| !fault.outlasts_driver()) {
            // Unless memory has gone meanwhile.
            let _ = (self.0).compare_exchange(code, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// There is another frontend, with other memory.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl RingState {
    /// A ring about to run from entry `index` on.
    pub fn at(index: u16, fault: Arc<DeviceFault>) -> Self {
        Self {
            progress: Claimed::new(Progress {
                next_avail: index,
                seen_avail: index,
                next_used: index,
                busy: false,
                notified_used: index,
                heads: [0; BURST],
            }),
            fault,
            notifications: AtomicU64::new(0),
        }
    }

    /// The next available entry, for `GET_VRING_BASE`; `None` while a PMD works on the ring.
    pub fn next_avail(&self) -> Option<u16> {
        self.progress
            .try_claim()
            .map(|progress| progress.next_avail)
    }

    /// How the guest broke the ring, if it did.
    #[inline(always)]
    pub fn fault(&self) -> Option<RingFault> {
        self.fault.get()
    }

    pub(crate) fn set_fault(&self, fault: RingFault) {
        self.fault.set(fault);
    }

    /// The device's fault, set or not.
    #[inline(always)]
    pub fn device_fault(&self) -> &DeviceFault {
        &self.fault
    }

    /// Notifications sent to the guest since the ring was started.
    pub fn notifications(&self) -> u64 {
        self.notifications.load(Ordering::Relaxed)
    }
}

/// What was negotiated, as far as a ring cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_NET_F_MRG_RXBUF`.
    pub mergeable: bool,
    /// The header has `num_buffers` (VERSION_1 or MRG_RXBUF): 12 bytes, else 10.
    pub long_header: bool,
    /// The guest may hand over partial checksums (`VIRTIO_NET_F_CSUM`).
    pub csum: bool,
    /// The guest takes partial checksums (`VIRTIO_NET_F_GUEST_CSUM`).
    pub guest_csum: bool,
    /// Oversized frames that the guest may hand over (`VIRTIO_NET_F_HOST_*`);
    /// they need `csum` too.
    pub host_gso: GsoKinds,
    /// Oversized frames that the guest takes (`VIRTIO_NET_F_GUEST_*`); they
    /// need `guest_csum` too.
    pub guest_gso: GsoKinds,
}

impl RingFeatures {
    /// Bytes of the virtio-net header on the ring.
    #[inline(always)]
    pub fn header_bytes(self) -> usize {
        if self.long_header {
            VNET_HEADER_BYTES
        } else {
            VNET_HEADER_BYTES - 2
        }
    }
}

/// The addresses of a ring in the frontend's own address space (`SET_VRING_ADDR`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table.
    pub descriptor: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// Why a ring cannot be set up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Not a power of two, zero, or too large.
    #[error("queue size {0} is not a power of two between 1 and {MAX_RING_SIZE}")]
    BadSize(u32),
    /// Not whole in guest memory.
    #[error("the {part} at {address:#x} ({bytes} bytes) is not inside one region of guest memory")]
    OutsideMemory {
        /// Which part of the ring.
        part: &'static str,
        /// Its address.
        address: u64,
        /// Its length.
        bytes: u64,
    },
    /// Misaligned (VirtIO 1.2, 2.7: 16, 2 and 4 bytes).
    #[error("the {part} at {address:#x} is not aligned to {align} bytes")]
    Misaligned {
        /// Which part of the ring.
        part: &'static str,
        /// Its address.
        address: u64,
        /// What it must be aligned to.
        align: u64,
    },
}

/// A running ring, resolved against one guest memory. Immutable; what moves
/// is in its [`RingState`].
pub struct SplitRing {
    descriptors: *const u8,
    available: *mut u8,
    used: *mut u8,
    mask: u16,
    pub(crate) features: RingFeatures,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) state: Arc<RingState>,
    call: Option<OwnedFd>,
    kick: Option<OwnedFd>,
}

// SAFETY: the pointers are into `memory`, which the ring keeps alive; all
// access through them is volatile or atomic, as with any memory shared with a
// guest, and what is ours alone is behind the claim in `state`.
unsafe impl Send for SplitRing {}
// SAFETY: as above.
unsafe impl Sync for SplitRing {}

impl SplitRing {
    /// Resolves a ring of `size` entries. The addresses' whole ranges must lie
    /// in `memory`.
    pub fn resolve(
        size: u32,
        addresses: RingAddresses,
        features: RingFeatures,
        memory: Arc<GuestMemory>,
        state: Arc<RingState>,
        kick: Option<OwnedFd>,
        call: Option<OwnedFd>,
    ) -> Result<Self, RingError> {
        let entries = checked_size(size)?;
        let event = 2; // used_event and avail_event are always reserved
        let part = |part, address: u64, bytes: u64, align: u64| {
            if !address.is_multiple_of(align) {
                return Err(RingError::Misaligned {
                    part,
                    address,
                    align,
                });
            }
            let host = memory
                .translate_user(address, bytes)
                .ok_or(RingError::OutsideMemory {
                    part,
                    address,
                    bytes,
                })?;
            // A region may be mapped at any file offset: our address must be
            // aligned too, or 16-byte reads and atomics would straddle lines.
            if !(host as u64).is_multiple_of(align) {
                return Err(RingError::Misaligned {
                    part,
                    address,
                    align,
                });
            }
            Ok(host)
        };
        let n = u64::from(entries);
        let descriptors = part("descriptor table", addresses.descriptor, 16 * n, 16)?;
        let available = part("available ring", addresses.available, 4 + 2 * n + event, 2)?;
        let used = part("used ring", addresses.used, 4 + 8 * n + event, 4)?;
        Ok(Self {
            descriptors,
            available,
            used,
            mask: entries - 1,
            features,
            memory,
            state,
            call,
            kick,
        })
    }

    /// The used index in guest memory. Descriptors complete in order, so this
    /// alone says where a ring stands that another process left behind.
    pub fn used_index(&self) -> u16 {
        // SAFETY: within the used ring, aligned.
        let index = unsafe { AtomicU16::from_ptr(self.used.add(2).cast()) };
        u16::from_le(index.load(Ordering::Acquire))
    }

    /// Goes on where the used index says, before any PMD has the ring.
    pub(crate) fn restart_at_used_index(&mut self, fault: &Arc<DeviceFault>) {
        self.state = Arc::new(RingState::at(self.used_index(), Arc::clone(fault)));
    }

    /// Number of entries.
    #[inline(always)]
    pub fn size(&self) -> u16 {
        self.mask.wrapping_add(1)
    }

    /// Where the ring stands.
    pub fn state(&self) -> &Arc<RingState> {
        &self.state
    }

    /// What was negotiated.
    pub fn features(&self) -> RingFeatures {
        self.features
    }

    /// The eventfd by which the guest says that there is something to do.
    pub fn kick_fd(&self) -> Option<&OwnedFd> {
        self.kick.as_ref()
    }

    /// How many entries the guest has made available beyond
    /// `progress.next_avail`, at least `wanted` if there are as many. The
    /// index in guest memory, whose cache line the guest is writing to, is only
    /// touched when what was seen before does not do.
    #[inline(always)]
    pub(crate) fn available(&self, progress: &mut Progress, wanted: u16) -> Result<u16, RingFault> {
        let known = progress.seen_avail.wrapping_sub(progress.next_avail);
        if known >= wanted {
            return Ok(known);
        }
        // SAFETY: within the available ring, 2-aligned.
        let index = unsafe { AtomicU16::from_ptr(self.available.add(2).cast()) };
        let seen = u16::from_le(index.load(Ordering::Acquire));
        let available = seen.wrapping_sub(progress.next_avail);
        if available > self.size_for_compare() {
            return Err(RingFault::AvailIndexJump);
        }
        progress.seen_avail = seen;
        Ok(available)
    }

    #[inline(always)]
    fn size_for_compare(&self) -> u16 {
        // 32768 fits; mask is at most 32767.
        self.mask + 1
    }

    /// Entry `index` (free running) of the available ring: the head of a chain.
    #[inline(always)]
    pub(crate) fn head(&self, index: u16) -> Result<u16, RingFault> {
        let at = 4 + 2 * usize::from(index & self.mask);
        // SAFETY: at + 2 <= 4 + 2 * size.
        let head = u16::from_le(unsafe { self.available.add(at).cast::<u16>().read_volatile() });
        if head > self.mask {
            return Err(RingFault::HeadOutOfRange);
        }
        Ok(head)
    }

    /// Descriptor `index`; must be below the size (see [`head`](Self::head)).
    #[inline(always)]
    pub(crate) fn descriptor(&self, index: u16) -> Descriptor {
        let at = 16 * usize::from(index & self.mask);
        // SAFETY: at + 16 <= 16 * size, 16-aligned.
        unsafe { read_descriptor(self.descriptors.add(at)) }
    }

    /// Asks the processor to fetch descriptor `index`.
    #[inline(always)]
    pub(crate) fn prefetch_descriptor(&self, index: u16) {
        prefetch_read(
            self.descriptors
                .wrapping_add(16 * usize::from(index & self.mask)),
        );
    }

    /// Walks the chain at `head`, following an indirect table, and calls
    /// `each` with every buffer (our address, length). Buffers that straddle
    /// regions come in parts; empty ones not at all.
    pub(crate) fn walk(
        &self,
        head: u16,
        writable: bool,
        mut each: impl FnMut(*mut u8, u32) -> bool,
    ) -> Result<(), RingFault> {
        let descriptor = self.descriptor(head);
        if descriptor.flags & DESC_F_INDIRECT == 0 {
            return self.walk_table(descriptor, self.size(), writable, &mut each, |next| {
                self.descriptor(next)
            });
        }
        if !self.features.indirect {
            return Err(RingFault::IndirectNotNegotiated);
        }
        if descriptor.flags & DESC_F_NEXT != 0 {
            return Err(RingFault::NestedIndirect);
        }
        let entries = descriptor.len / 16;
        if entries == 0
            || !descriptor.len.is_multiple_of(16)
            || entries > u32::from(MAX_CHAIN_DESCRIPTORS)
        {
            return Err(RingFault::BadIndirectLength);
        }
        let table = self
            .memory
            .translate(descriptor.addr, u64::from(descriptor.len))
            .ok_or(RingFault::OutsideMemory)?;
        // SAFETY: `table` has `entries` descriptors; `next` is below that.
        let entry = |next: u16| unsafe { read_descriptor(table.add(16 * usize::from(next))) };
        let first = entry(0);
        self.walk_table(first, entries as u16, writable, &mut each, entry)
    }

    fn walk_table(
        &self,
        mut descriptor: Descriptor,
        entries: u16,
        writable: bool,
        each: &mut impl FnMut(*mut u8, u32) -> bool,
        entry: impl Fn(u16) -> Descriptor,
    ) -> Result<(), RingFault> {
        for _ in 0..entries.min(MAX_CHAIN_DESCRIPTORS) {
            if descriptor.flags & DESC_F_INDIRECT != 0 {
                return Err(RingFault::NestedIndirect);
            }
            if (descriptor.flags & DESC_F_WRITE != 0) != writable {
                return Err(RingFault::WrongDirection);
            }
            let (mut addr, mut left) = (descriptor.addr, u64::from(descriptor.len));
            while left > 0 {
                let (ptr, len) = self
                    .memory
                    .translate_prefix(addr, left)
                    .ok_or(RingFault::OutsideMemory)?;
                if !each(ptr, len as u32) {
                    return Ok(());
                }
                addr = addr.wrapping_add(len);
                left -= len;
            }
            if descriptor.flags & DESC_F_NEXT == 0 {
                return Ok(());
            }
            if descriptor.next >= entries {
                return Err(RingFault::NextOutOfRange);
            }
            descriptor = entry(descriptor.next);
        }
        Err(RingFault::ChainLoop)
    }

    /// Asks for the available entries of the next burst, at once with the
    /// index: one wait for the guest's core instead of two.
    #[inline(always)]
    pub(crate) fn prefetch_available(&self, progress: &Progress) {
        let entry = |index: u16| 4 + 2 * usize::from(index & self.mask);
        prefetch_read(self.available.wrapping_add(entry(progress.next_avail)));
        prefetch_read(
            self.available
                .wrapping_add(entry(progress.next_avail.wrapping_add(BURST as u16 - 1))),
        );
    }

    /// Asks for the lines of the used ring that a burst will write, so that
    /// the fence before a notification does not have to wait for them.
    #[inline(always)]
    pub(crate) fn prefetch_used(&self, progress: &Progress) {
        const ELEMENTS_PER_LINE: u16 = 8;
        prefetch_write(self.used);
        for line in 0..=(BURST as u16 / ELEMENTS_PER_LINE) {
            let index = progress.next_used.wrapping_add(line * ELEMENTS_PER_LINE) & self.mask;
            prefetch_write(self.used.wrapping_add(4 + 8 * usize::from(index)));
        }
    }

    /// Writes entry `index` (free running) of the used ring.
    #[inline(always)]
    pub(crate) fn write_used(&self, index: u16, head: u16, len: u32) {
        let at = 4 + 8 * usize::from(index & self.mask);
        let element = u64::from(head) | (u64::from(len) << 32);
        // SAFETY: at + 8 <= 4 + 8 * size; only 4-aligned, hence unaligned.
        unsafe {
            self.used
                .add(at)
                .cast::<u64>()
                .write_unaligned(element.to_le());
        }
    }

    /// Tells the guest that everything below `index` is done.
    #[inline(always)]
    pub(crate) fn publish_used(&self, index: u16) {
        // SAFETY: within the used ring, 2-aligned.
        let field = unsafe { AtomicU16::from_ptr(self.used.add(2).cast()) };
        field.store(index.to_le(), Ordering::Release);
    }

    /// Whether the guest wants to be told of what was completed since the last
    /// time (VirtIO 1.2, 2.7.7).
    #[inline(always)]
    pub(crate) fn wants_notification(&self, progress: &mut Progress) -> bool {
        let old = std::mem::replace(&mut progress.notified_used, progress.next_used);
        if self.call.is_none() {
            return false;
        }
        // The used index must be visible before the guest's wish is read, or
        // both sides could go to sleep.
        fence(Ordering::SeqCst);
        if self.features.event_idx {
            let at = 4 + 2 * (usize::from(self.mask) + 1);
            // SAFETY: used_event lies behind the heads; its 2 bytes were
            // included in the checked range.
            let event =
                u16::from_le(unsafe { self.available.add(at).cast::<u16>().read_volatile() });
            let new = progress.next_used;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            // SAFETY: flags are the available ring's first field.
            let flags = u16::from_le(unsafe { self.available.cast::<u16>().read_volatile() });
            flags & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Interrupts the guest.
    #[cold]
    pub(crate) fn notify(&self) {
        if let Some(call) = &self.call {
            if notify::signal(call).is_err() {
                self.state.set_fault(RingFault::CallBlocked);
            }
            self.state.notifications.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says whether we want to be kicked when the guest makes something
    /// available. Returns true if something is available already.
    pub fn want_kicks(&self, wanted: bool) -> bool {
        let Some(mut progress) = self.state.progress.try_claim() else {
            return true;
        };
        if self.features.event_idx {
            // Unwanted: leave avail_event where it is; it comes round only
            // once in 65,536 entries.
            if wanted {
                let at = 4 + 8 * (usize::from(self.mask) + 1);
                // SAFETY: avail_event lies behind the elements; its 2 bytes
                // were included in the checked range.
                unsafe {
                    self.used
                        .add(at)
                        .cast::<u16>()
                        .write_volatile(progress.next_avail.to_le());
                }
            }
        } else {
            let flags = if wanted { 0 } else { USED_F_NO_NOTIFY };
            // SAFETY: flags are the used ring's first field.
            unsafe { self.used.cast::<u16>().write_volatile(flags.to_le()) };
        }
        if !wanted {
            return false;
        }
        fence(Ordering::SeqCst);
        // A broken index ends the sleep; the next dequeue finds the fault.
        self.available(&mut progress, 1) != Ok(0)
    }
}

/// A queue size as the frontend may set it (VirtIO 1.2, 2.7).
pub fn checked_size(size: u32) -> Result<u16, RingError> {
    match u16::try_from(size) {
        Ok(entries) if entries.is_power_of_two() && entries <= MAX_RING_SIZE => Ok(entries),
        _ => Err(RingError::BadSize(size)),
    }
}

/// Reads one descriptor once.
///
/// # Safety
/// `at` must be readable for 16 bytes.
#[inline(always)]
unsafe fn read_descriptor(at: *const u8) -> Descriptor {
    // Indirect tables may lie at any address, so 8-byte reads are not
    // necessarily aligned; a byte-wise volatile read would be slow. On x86 an
    // unaligned read is one read; the fences keep the compiler from repeating it.
    // SAFETY: the caller guarantees 16 readable bytes.
    let (addr, rest) = unsafe {
        (
            at.cast::<Unaligned64>().read_volatile().0,
            at.add(8).cast::<Unaligned64>().read_volatile().0,
        )
    };
    let rest = u64::from_le(rest);
    Descriptor {
        addr: u64::from_le(addr),
        len: rest as u32,
        flags: (rest >> 32) as u16,
        next: (rest >> 48) as u16,
    }
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned64(u64);

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

impl std::fmt::Debug for SplitRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitRing")
            .field("size", &self.size())
            .field("features", &self.features)
            .field("kick", &self.kick.as_ref().map(AsRawFd::as_raw_fd))
            .field("call", &self.call.as_ref().map(AsRawFd::as_raw_fd))
            .finish_non_exhaustive()
    }
}
