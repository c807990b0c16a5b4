//! Virtqueues as seen by the device.
//!
//! A [`Ring`] is resolved once against guest memory, with the whole length of
//! each of its parts checked, and never again until the frontend changes them.
//! Everything read through it was written by the guest and may change at any
//! moment: each field is read once into a local, checked, and never looked at
//! again.
//!
//! Two layouts, [`split`] and [`packed`]. `dequeue.rs` and `enqueue.rs` are
//! written once, for any [`Layout`], and compiled for each; which it is is asked
//! once per burst.

mod fault;
pub(crate) mod packed;
mod position;
pub(crate) mod split;
mod state;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

pub use fault::{DeviceFault, RingFault};
pub(crate) use state::Progress;
pub use state::{Position, RingState};

use crate::dirty::{DirtyLog, LogError, RingLog};
use crate::gso::GsoKinds;
use crate::mark::Mark;
use crate::memory::GuestMemory;
use crate::notify;
use crate::packet::{BURST, VNET_HEADER_BYTES};
use packed::PackedLayout;
use split::SplitLayout;

/// Largest queue (VirtIO 1.2, 2.7 and 2.8: 32768).
pub const MAX_RING_SIZE: u16 = 32768;

/// What was negotiated, as far as a ring cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// `VIRTIO_F_RING_PACKED`: which layout the ring has.
    pub packed: bool,
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
    /// Descriptor table, or a packed ring's descriptor ring.
    pub descriptor: u64,
    /// Available ring, or a packed ring's driver event suppression.
    pub available: u64,
    /// Used ring, or a packed ring's device event suppression.
    pub used: u64,
}

/// Why a ring cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Its writes cannot be noted where they are to be.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Zero, too large, or, of a split ring, not a power of two.
    #[error("queue size {size} is not {} 1 and {MAX_RING_SIZE}", wanted_size(*packed))]
    BadSize {
        /// Entries wanted.
        size: u32,
        /// Whether of a packed ring.
        packed: bool,
    },
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
    /// Misaligned (VirtIO 1.2, 2.7: 16, 2 and 4 bytes; 2.8.10.1: 16, 4 and 4 bytes).
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

fn wanted_size(packed: bool) -> &'static str {
    if packed {
        "between"
    } else {
        "a power of two between"
    }
}

/// A queue size as the frontend may set it (VirtIO 1.2, 2.7 and 2.8.10.1).
pub fn checked_size(size: u32, packed: bool) -> Result<u16, RingError> {
    match u16::try_from(size) {
        Ok(entries @ 1..=MAX_RING_SIZE) if packed || entries.is_power_of_two() => Ok(entries),
        _ => Err(RingError::BadSize { size, packed }),
    }
}

/// Our address of a part of a ring, whose whole range must lie in `memory`.
fn resolve_part(
    memory: &GuestMemory,
    part: &'static str,
    address: u64,
    bytes: u64,
    align: u64,
) -> Result<*mut u8, RingError> {
    let misaligned = RingError::Misaligned {
        part,
        address,
        align,
    };
    if !address.is_multiple_of(align) {
        return Err(misaligned);
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
        return Err(misaligned);
    }
    Ok(host)
}

/// A chain that the driver has made available.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chain {
    /// What the driver knows it by: head (split) or buffer id (packed).
    pub(crate) id: u16,
    /// Its first descriptor.
    pub(crate) first: u16,
    /// Packed: descriptors that it has in the ring.
    pub(crate) slots: u16,
}

/// The buffer of a chain that is one buffer, resolved; null: walk the chain.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) ptr: *mut u8,
    pub(crate) len: u32,
    /// What the driver knows the chain by. Kept here for those who go on with the
    /// buffer at once: in the ring's progress it would be loaded anew after every
    /// write to guest memory, which may be anywhere for all that is known.
    pub(crate) id: u16,
}

impl Buffer {
    pub(crate) const NONE: Self = Self {
        ptr: std::ptr::null_mut(),
        len: 0,
        id: 0,
    };
}

/// Bytes of a ring that were written to: where, and how many.
pub(crate) type Written = (*const u8, usize);

/// Chains found at a time: how many, and the fault that ended the search.
pub(crate) type Found = (usize, Option<RingFault>);

/// What a ring does in its own way. Every method is asked by whoever has
/// claimed the ring's [`Progress`].
pub(crate) trait Layout: Sized {
    /// Before an enqueue: what will be looked at soon.
    fn prefetch(&self, progress: &Progress);

    /// Finds up to `wanted` chains from where the ring stands and resolves the
    /// usual ones, of one buffer in one region. Nothing is taken yet.
    fn find(
        &self,
        ring: &Ring,
        progress: &mut Progress,
        wanted: usize,
        writable: bool,
        buffers: &mut [Buffer; BURST],
    ) -> Found;

    /// The `nth` chain that [`find`](Self::find) found, and left with this id.
    fn found(&self, progress: &Progress, nth: usize, id: u16) -> Chain;

    /// The chain at `at`, and where the next one begins; `None`: there is none.
    fn chain(
        &self,
        progress: &mut Progress,
        at: Position,
    ) -> Result<Option<(Chain, Position)>, RingFault>;

    /// Calls `each` with the parts of a chain's buffers (our address, length),
    /// until it says false. Buffers that straddle regions come in parts.
    fn walk(
        &self,
        ring: &Ring,
        chain: Chain,
        writable: bool,
        each: impl FnMut(*mut u8, u32) -> bool,
    ) -> Result<(), RingFault>;

    /// Takes the next chain, into which `len` bytes were written. The driver
    /// does not see it before [`publish`](Self::publish).
    fn complete(&self, progress: &mut Progress, chain: Chain, len: u32);

    /// Takes the first `count` chains that [`find`](Self::find) found, which
    /// were only read. The driver does not see it before [`publish`](Self::publish).
    fn give_back(&self, progress: &mut Progress, count: usize);

    /// Shows the driver all that was completed, with one write.
    fn publish(&self, progress: &mut Progress);

    /// How far chains were returned, as [`driver_wants`](Self::driver_wants) wants it.
    fn returned(&self, progress: &Progress) -> u16;

    /// The same after the first `count` chains that [`find`](Self::find) found.
    fn behind(&self, progress: &Progress, count: usize) -> u16;

    /// How many entries, or descriptors, lie between two such places.
    fn between(&self, from: u16, to: u16) -> u16;

    /// Whether the driver wants to be told of what was published since `old`.
    /// Between publishing and this lies a full fence.
    fn driver_wants(&self, event_idx: bool, old: u16, new: u16) -> bool;

    /// Tells the driver whether to kick for what it makes available from here
    /// on; returns what was written.
    fn want_kicks(&self, event_idx: bool, progress: &Progress, wanted: bool) -> Option<Written>;

    /// What [`complete`](Self::complete) will write next.
    fn next_written(&self, progress: &Progress) -> Written;

    /// What [`give_back`](Self::give_back) will write for the `nth` chain.
    fn nth_written(&self, progress: &Progress, nth: usize) -> Written;

    /// A used descriptor that was completed and that [`publish`](Self::publish)
    /// will write once more.
    fn held_written(&self, progress: &Progress) -> Option<Written>;

    /// What [`publish`](Self::publish) has written beside a used descriptor.
    fn publish_written(&self, progress: &Progress) -> Option<Written>;

    /// Whether a chain is there, or something broken.
    fn is_ready(&self, progress: &mut Progress) -> bool;
}

/// How a ring lies in memory.
pub(crate) enum AnyLayout {
    Split(SplitLayout),
    Packed(PackedLayout),
}

/// A running ring, resolved against one guest memory. Immutable; what moves
/// is in its [`RingState`].
pub struct Ring {
    pub(crate) layout: AnyLayout,
    pub(crate) features: RingFeatures,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) state: Arc<RingState>,
    /// While the guest is moved to another host.
    pub(crate) log: Option<RingLog>,
    call: Option<OwnedFd>,
    kick: Option<OwnedFd>,
}

impl Ring {
    /// Resolves a ring of `size` entries. The addresses' whole ranges must lie
    /// in `memory`. `state` must be one of the same layout.
    pub fn resolve(
        size: u32,
        addresses: RingAddresses,
        features: RingFeatures,
        memory: Arc<GuestMemory>,
        state: Arc<RingState>,
        kick: Option<OwnedFd>,
        call: Option<OwnedFd>,
    ) -> Result<Self, RingError> {
        let entries = checked_size(size, features.packed)?;
        let layout = if features.packed {
            AnyLayout::Packed(PackedLayout::resolve(entries, addresses, &memory)?)
        } else {
            AnyLayout::Split(SplitLayout::resolve(entries, addresses, &memory)?)
        };
        Ok(Self {
            layout,
            features,
            memory,
            state,
            log: None,
            call,
            kick,
        })
    }

    /// Notes in `log` what is written from now on: buffers, and the ring itself
    /// if there is an address at which the frontend wants that noted.
    pub(crate) fn log_to(&mut self, log: Arc<DirtyLog>, used: Option<u64>) -> Result<(), LogError> {
        let (start, bytes) = match &self.layout {
            AnyLayout::Split(split) => split.used_ring(),
            AnyLayout::Packed(packed) => packed.device_event(),
        };
        if let Some(gpa) = used {
            log.covers(gpa.saturating_add(bytes))?;
        }
        let used = used.map(|gpa| (start, bytes, gpa));
        self.log = Some(RingLog { log, used });
        Ok(())
    }

    /// Goes on where whoever served this ring before has stopped, before any PMD
    /// has it. Chains complete in order, so memory tells where that is, also
    /// where the frontend cannot know it (the other side was killed). Bursts are
    /// noted in `mark`.
    pub(crate) fn restart(&mut self, base: u32, fault: &Arc<DeviceFault>, mark: Option<Mark>) {
        let (next, has_long_chains) = match &self.layout {
            AnyLayout::Split(split) => (split.position(), false),
            AnyLayout::Packed(packed) => {
                let note = |written| {
                    if let Some(log) = &self.log {
                        log.mark_ring(&self.memory, written);
                    }
                };
                packed.position(Position::packed(base as u16), note)
            }
        };
        let mut state = RingState::new(next, self.features.packed, Arc::clone(fault)).noting(mark);
        state.progress.get_mut().has_long_chains = has_long_chains;
        self.state = Arc::new(state);
    }

    /// Whether it is a packed ring with chains of more than one slot.
    pub(crate) fn has_long_chains(&self) -> bool {
        match &self.layout {
            AnyLayout::Split(_) => false,
            AnyLayout::Packed(packed) => packed.has_long_chains(),
        }
    }

    /// Number of entries.
    #[inline(always)]
    pub fn size(&self) -> u16 {
        match &self.layout {
            AnyLayout::Split(split) => split.size(),
            AnyLayout::Packed(packed) => packed.size(),
        }
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

    /// Interrupts the guest, if it wants to be told of what was published.
    #[inline(always)]
    pub(crate) fn notify_if_wanted(&self, layout: &impl Layout, progress: &mut Progress) -> bool {
        let new = layout.returned(progress);
        let old = std::mem::replace(&mut progress.notified, new);
        let wanted = self.call.is_some() && {
            // What was published must be visible before the guest's wish is
            // read, or both sides could go to sleep.
            fence(Ordering::SeqCst);
            layout.driver_wants(self.features.event_idx, old, new)
        };
        if wanted {
            self.notify();
        }
        wanted
    }

    #[cold]
    fn notify(&self) {
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
        match &self.layout {
            AnyLayout::Split(split) => self.want_kicks_in(split, wanted),
            AnyLayout::Packed(packed) => self.want_kicks_in(packed, wanted),
        }
    }

    fn want_kicks_in(&self, layout: &impl Layout, wanted: bool) -> bool {
        let Some(mut progress) = self.state.progress.try_claim() else {
            return true;
        };
        let written = layout.want_kicks(self.features.event_idx, &progress, wanted);
        if let (Some(log), Some(written)) = (&self.log, written) {
            log.mark_ring(&self.memory, written);
        }
        if !wanted {
            return false;
        }
        fence(Ordering::SeqCst);
        layout.is_ready(&mut progress)
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("size", &self.size())
            .field("features", &self.features)
            .field("kick", &self.kick.as_ref().map(AsRawFd::as_raw_fd))
            .field("call", &self.call.as_ref().map(AsRawFd::as_raw_fd))
            .finish_non_exhaustive()
    }
}
