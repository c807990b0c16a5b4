//! What of a ring changes while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::{DeviceFault, RingFault};
use crate::claim::Claimed;
use crate::mark::Mark;
use crate::packet::BURST;

/// A place in a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Split: entry of the available ring, counted without end. Packed: slot of
    /// the descriptor ring, below its size.
    pub index: u16,
    /// Packed: the wrap counter (VirtIO 1.2, 2.8.1), which starts as true.
    pub wrap: bool,
}

impl Position {
    /// Bit 15 of a packed ring's position in messages and event structures.
    const WRAP: u16 = 1 << 15;

    /// Index and wrap counter in 16 bits, as event structures have them.
    pub fn packed(bits: u16) -> Self {
        Self {
            index: bits & !Self::WRAP,
            wrap: bits & Self::WRAP != 0,
        }
    }

    /// The same as 16 bits.
    pub fn to_packed(self) -> u16 {
        self.index & !Self::WRAP | if self.wrap { Self::WRAP } else { 0 }
    }

    /// From `SET_VRING_BASE`. `None`: no such base. A packed ring's has the
    /// available position in its low half and the used position in its high
    /// one; they are the same, for nothing is in flight while a ring is stopped.
    pub fn from_base(base: u32, packed: bool) -> Option<Self> {
        if packed {
            return Some(Self::packed(base as u16));
        }
        let index = u16::try_from(base).ok()?;
        Some(Self { index, wrap: false })
    }

    /// For `GET_VRING_BASE`.
    pub fn to_base(self, packed: bool) -> u32 {
        if packed {
            let half = u32::from(self.to_packed());
            return half | half << 16;
        }
        self.index.into()
    }
}

/// What of a ring changes while it runs. Kept by the session over new views of
/// the same ring; used by one PMD at a time.
#[derive(Debug, Default)]
pub struct Progress {
    /// The next chain to be taken.
    pub(crate) next: Position,
    /// Split: the guest's available index when it was last read.
    pub(crate) seen_avail: u16,
    /// Split: next entry of the used ring to be written.
    pub(crate) next_used: u16,
    /// The last look at the ring found something.
    pub(crate) busy: bool,
    /// Where the ring stood at the last decision whether to notify (EVENT_IDX).
    pub(crate) notified: u16,
    /// Of the chains found for this burst, in order: what the driver knows each
    /// by, of those that are only read.
    pub(crate) ids: [u16; BURST],
    /// Packed: the slot in which each begins, and how many it has.
    pub(crate) firsts: [u16; BURST],
    pub(crate) slots: [u16; BURST],
    /// Packed: the burst's first used descriptor, which is written last.
    pub(crate) held: Option<Held>,
    /// Packed: some chain had more than one slot, so the position must be left
    /// in guest memory (see [`packed`](super::packed)).
    pub(crate) has_long_chains: bool,
}

impl Progress {
    /// About to go on from `next`.
    fn at(next: Position, packed: bool) -> Self {
        Self {
            next,
            seen_avail: next.index,
            next_used: next.index,
            notified: if packed { next.to_packed() } else { next.index },
            ..Self::default()
        }
    }
}

/// A used descriptor that the driver cannot see yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) slot: u16,
    pub(crate) element: u64,
}

/// Where a ring stands; read by the control plane after the PMDs let go.
pub struct RingState {
    pub(crate) progress: Claimed<Progress>,
    packed: bool,
    fault: Arc<DeviceFault>,
    pub(crate) notifications: AtomicU64,
    /// Where bursts under way are noted; written by the PMD that works on the
    /// ring, read when it is started.
    pub(crate) mark: Option<Mark>,
}

impl RingState {
    /// A split ring about to run from entry `index` on.
    pub fn at(index: u16, fault: Arc<DeviceFault>) -> Self {
        Self::new(Position { index, wrap: false }, false, fault)
    }

    /// A ring about to run from `next` on.
    pub fn new(next: Position, packed: bool, fault: Arc<DeviceFault>) -> Self {
        Self {
            progress: Claimed::new(Progress::at(next, packed)),
            packed,
            fault,
            notifications: AtomicU64::new(0),
            mark: None,
        }
    }

    /// The same, with a place for notes.
    pub(crate) fn noting(self, mark: Option<Mark>) -> Self {
        Self { mark, ..self }
    }

    /// Goes on where another process has stopped, as its [`base`](Self::base)
    /// told. False while a PMD works on the ring, or if there is no such base.
    pub(crate) fn move_to(&self, base: u32, has_long_chains: bool) -> bool {
        let next = Position::from_base(base, self.packed);
        let (Some(mut progress), Some(next)) = (self.progress.try_claim(), next) else {
            return false;
        };
        *progress = Progress {
            has_long_chains,
            ..Progress::at(next, self.packed)
        };
        true
    }

    /// Whether it is a packed ring's.
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// Where the ring stands, for `GET_VRING_BASE`; `None` while a PMD works on it.
    pub fn base(&self) -> Option<u32> {
        let progress = self.progress.try_claim()?;
        Some(progress.next.to_base(self.packed))
    }

    /// How the guest broke the ring, if it did.
    #[inline(always)]
    pub fn fault(&self) -> Option<RingFault> {
        self.fault.get()
    }

    /// The device's fault, set or not.
    #[inline(always)]
    pub fn device_fault(&self) -> &DeviceFault {
        &self.fault
    }

    pub(crate) fn set_fault(&self, fault: RingFault) {
        self.fault.set(fault);
    }

    /// Notifications sent to the guest since the ring was started.
    pub fn notifications(&self) -> u64 {
        self.notifications.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_what_the_protocol_says() {
        let split = Position::from_base(0xfffe, false);
        assert_eq!(split.map(|at| at.to_base(false)), Some(0xfffe));
        assert_eq!(Position::from_base(0x1_0000, false), None);
        let packed = Position::from_base(0x8005, true);
        let five = Position {
            index: 5,
            wrap: true,
        };
        assert_eq!(packed, Some(five));
        assert_eq!(five.to_base(true), 0x8005_8005);
        assert_eq!(
            Position::from_base(0x7fff_0003, true).map(|at| at.wrap),
            Some(false)
        );
    }
}
