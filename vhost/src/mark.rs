//! Which burst of a transmit ring is under way, in a file that outlives this
//! process.
//!
//! A burst is delivered first and given back to its guest afterwards. A process
//! that is killed in between has delivered packets that the used index does not
//! tell of, and the next one would deliver them once more. So a core notes the
//! burst before it delivers; who starts a ring at exactly that place gives the
//! burst back unseen. A packet may thus be lost by a kill, never be doubled.
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

    /// The note of the ring with this index.
    pub(crate) fn of(self: &Arc<Self>, ring: usize) -> Mark {
        Mark {
            line: ring % RINGS,
            marks: Arc::clone(self),
        }
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
    #[inline(always)]
    fn cell(&self) -> &AtomicU64 {
        // SAFETY: within the mapping, which lives as long as `self`; aligned to a
        // line; accessed as an atomic only.
        unsafe { AtomicU64::from_ptr(self.marks.0.as_ptr().add(self.line * LINE).cast()) }
    }

    /// A core is about to deliver `count` packets from entry `start` on. What it
    /// then tells a receiver is released after this.
    #[inline(always)]
    pub(crate) fn note(&self, start: u16, count: u16) {
        let note = NOTED | u64::from(start) << 16 | u64::from(count);
        self.cell().store(note, Ordering::Relaxed);
    }

    /// How many packets were being delivered when a process ended that had given
    /// back all before entry `used`.
    pub(crate) fn unfinished(&self, used: u16) -> u16 {
        let note = self.cell().load(Ordering::Relaxed);
        match note & NOTED != 0 && (note >> 16) as u16 == used {
            true => note as u16,
            false => 0,
        }
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
    fn a_note_is_found_by_the_next_process_at_its_place_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("port-1");
        let mark = Marks::open(&path).expect("made").of(3);
        assert_eq!(mark.unfinished(0), 0);
        mark.note(65_530, 32);
        drop(mark);

        let marks = Marks::open(&path).expect("opened");
        assert_eq!(marks.of(3).unfinished(65_530), 32);
        // It was given back.
        assert_eq!(marks.of(3).unfinished(65_530u16.wrapping_add(32)), 0);
        assert_eq!(marks.of(1).unfinished(65_530), 0);
        assert!(!marks.is_busy());
        marks.set_busy(true);
        assert!(Marks::open(&path).expect("opened").is_busy());
        marks.of(3).clear();
        assert_eq!(marks.of(3).unfinished(65_530), 0);
    }
}
