//! Virtqueues from the driver's side.

mod any;
pub mod fast;
mod layout;
pub mod packed;
mod split;

pub use any::Ring;
pub use layout::{Descriptor, PackedDescriptor, RingLayout, UsedElem};
pub use packed::PackedRing;
pub use split::{NoDescriptors, SplitRing};

/// Descriptor flag: the chain goes on at `next`.
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the backend writes into the buffer.
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;
/// Available-ring flag: no calls, please.
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// Used-ring flag: no kicks, please.
pub const USED_NO_NOTIFY: u16 = 1;

/// Whether the other side, waiting for index `event`, is to be notified when
/// the index moves from `old` to `new` (VirtIO 1.2, 2.7.7.2).
pub fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::need_event;

    #[test]
    fn an_event_counts_when_the_index_passes_it_also_over_the_wrap() {
        assert!(need_event(5, 6, 5));
        assert!(!need_event(6, 6, 5));
        assert!(!need_event(4, 6, 5));
        assert!(need_event(0xffff, 1, 0xfffe));
        assert!(need_event(0, 1, 0xfffe));
        assert!(!need_event(1, 1, 0xfffe));
    }
}
