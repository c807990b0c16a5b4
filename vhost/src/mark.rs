//! Which burst of a transmit ring is under way, in a file that outlives this
//! process.
//!
//! A burst is delivered first and given back to its guest afterwards. A process
//! that is killed in between has delivered packets that the used index does not
//! tell of, and the next one would deliver them once more. So a core notes the
//! burst before it delivers; who starts a ring that stands within that burst
//! gives the rest of it back unseen. A packet may thus be lost by a kill, never
//! be doubled.
//!
//! The note is one plain store into a line that no other core touches. The file
//! is to lie in a tmpfs (`/run`): a disk's would be written back now and then.

#![allow(unsafe_code)]
// UNSAFETY: a mapped file viewed as atomic words.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::FileOffset;
use vm_memory::mmap::MmapRegion;

/// A cache line for each ring, as many as a port can have.
const LINE: usize = 64;
const RINGS: usize = 256;
/// Set in a note that says something.
const NOTED: u64 = 1 << 32;

/// The notes of a port's rings.
pub(crate) struct Marks(MmapRegion);

impl Marks {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.set_len((LINE * RINGS) as u64)?;
        let mapping = MmapRegion::build(
            Some(FileOffset::new(file, 0)),
            LINE * RINGS,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
        .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Arc::new(Self(mapping)))
    }
}

/// The word for [`Marks::set_busy`]: behind that of ring 0, a receive ring.
const BUSY_AT: usize = 8;

impl Marks {
    fn busy(&self) -> &AtomicU64 {
        // SAFETY: within the mapping, aligned; accessed as an atomic only.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(BUSY_AT).cast()) }
    }

    /// A message is being handled: who finds it so cannot know how far it came.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy().store(busy.into(), Ordering::SeqCst);
    }

    /// Whether a message was being handled when a process ended.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy().load(Ordering::SeqCst) != 0
    }
}

/// The note of a ring.
pub(crate) struct Mark {
    marks: Arc<Marks>,
    line: usize,
}

impl Mark {
    /// That of the ring with this index in its device. Receive rings need none.
    pub(crate) fn of_transmit_ring(marks: Option<&Arc<Marks>>, ring: usize) -> Option<Self> {
        let marks = marks.filter(|_| ring % 2 == 1)?;
        Some(Self {
            line: ring % RINGS,
            marks: Arc::clone(marks),
        })
    }

    #[inline(always)]
    fn cell(&self) -> &AtomicU64 {
        // SAFETY: within the mapping, which lives as long as `self`; aligned to a
        // line; accessed as an atomic only.
        unsafe { AtomicU64::from_ptr(self.marks.0.as_ptr().add(self.line * LINE).cast()) }
    }

    /// A core is about to deliver the packets between these two places of the
    /// ring. What it then tells a receiver is released after this.
    #[inline(always)]
    pub(crate) fn note(&self, start: u16, end: u16) {
        let note = NOTED | u64::from(start) << 16 | u64::from(end);
        self.cell().store(note, Ordering::Relaxed);
    }

    /// The burst that a core has delivered last, or was delivering when its
    /// process ended.
    pub(crate) fn noted(&self) -> Option<(u16, u16)> {
        let note = self.cell().load(Ordering::Relaxed);
        (note & NOTED != 0).then_some(((note >> 16) as u16, note as u16))
    }

    /// The ring has stopped in good order.
    pub(crate) fn clear(&self) {
        self.cell().store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_by_the_next_process() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("port-1");
        let of = |marks: &Arc<Marks>, ring| {
            Mark::of_transmit_ring(Some(marks), ring).expect("a transmit ring")
        };
        let mark = of(&Marks::open(&path).expect("made"), 3);
        assert_eq!(mark.noted(), None);
        mark.note(65_530, 26);
        drop(mark);

        let marks = Marks::open(&path).expect("opened");
        assert_eq!(of(&marks, 3).noted(), Some((65_530, 26)));
        assert_eq!(of(&marks, 1).noted(), None);
        assert!(Mark::of_transmit_ring(Some(&marks), 2).is_none());
        assert!(!marks.is_busy());
        marks.set_busy(true);
        assert!(Marks::open(&path).expect("opened").is_busy());
        of(&marks, 3).clear();
        assert_eq!(of(&marks, 3).noted(), None);
    }
}
