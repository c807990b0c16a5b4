//! The log of pages that were written to, for live migration.
//!
//! While a guest is moved, the frontend copies its memory and wants to know
//! what changes meanwhile: a bit for each page of 4 KiB, by guest address, in
//! memory that it shares with us (vhost-user, "Migration"). A bit is set after
//! the write that it tells of, by an atomic operation that no earlier write can
//! overtake: the frontend clears a bit before it copies the page, so it either
//! copies what was written or finds the bit set again. Before it stops the
//! rings for good it asks for their bases, and no bit is set after that answer.

#![allow(unsafe_code)]
// UNSAFETY: this module owns the mapping of the log, and sets bits in it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use vm_memory::FileOffset;
use vm_memory::mmap::MmapRegion;

use crate::memory::GuestMemory;

/// Bytes of guest memory that one bit stands for.
pub const LOG_PAGE: u64 = 4096;

/// Why a log is refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Its numbers make no sense.
    #[error("the dirty log (size {size:#x}, offset {offset:#x}) is empty or wraps around")]
    BadSize {
        /// Bytes.
        size: u64,
        /// Where in the file it begins.
        offset: u64,
    },
    /// The file is shorter than the log.
    #[error("the dirty log's file has {file_size:#x} bytes, the log needs {needed:#x}")]
    FileTooSmall {
        /// The file's size in bytes.
        file_size: u64,
        /// Offset plus size.
        needed: u64,
    },
    /// The file could be made shorter under us: touching its end would be SIGBUS.
    #[error(
        "the dirty log's file can be shortened: it must be a memfd sealed with F_SEAL_SHRINK, as QEMU's is"
    )]
    NotSealed,
    /// There are guest addresses without a bit.
    #[error("the dirty log has {have:#x} bytes, guest memory up to {end:#x} needs {needed:#x}")]
    TooSmall {
        /// Bytes of the log.
        have: u64,
        /// Bytes needed.
        needed: u64,
        /// End of guest memory, or of a ring's log.
        end: u64,
    },
    /// fstat or mmap failed.
    #[error("cannot map {size:#x} bytes of the dirty log: {source}")]
    Map {
        /// Bytes to map.
        size: u64,
        /// The system's error.
        source: std::io::Error,
    },
}

/// A frontend's log.
pub struct DirtyLog {
    bits: *mut u8,
    size: u64,
    // Keeps `bits` mapped.
    mapping: MmapRegion,
}

// SAFETY: `bits` points into the mapping, which is owned; all access is atomic.
unsafe impl Send for DirtyLog {}
// SAFETY: as above.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// Maps `size` bytes from `offset` on (`SET_LOG_BASE`).
    pub fn map(file: File, size: u64, offset: u64) -> Result<Self, LogError> {
        let bad = LogError::BadSize { size, offset };
        if size == 0 {
            return Err(bad);
        }
        let Some(needed) = offset.checked_add(size) else {
            return Err(bad);
        };
        let failed = |source| LogError::Map {
            size: needed,
            source,
        };
        let file_size = file.metadata().map_err(failed)?.len();
        if file_size < needed {
            return Err(LogError::FileTooSmall { file_size, needed });
        }
        // SAFETY: a question about a descriptor that is open.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(LogError::NotSealed);
        }
        let length = usize::try_from(needed).map_err(|_| bad)?;
        let mapping = MmapRegion::build(
            Some(FileOffset::new(file, 0)),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        )
        .map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        // SAFETY: offset + size is the mapping's length.
        let bits = unsafe { mapping.as_ptr().add(offset as usize) };
        Ok(Self {
            bits,
            size,
            mapping,
        })
    }

    /// What it was mapped from: the file, its bytes, and where in the file it begins.
    pub(crate) fn source(&self) -> Option<(&File, u64, u64)> {
        let offset = self.mapping.size() as u64 - self.size;
        Some((self.mapping.file_offset()?.file(), self.size, offset))
    }

    /// Whether there is a bit for every page below `end`.
    pub fn covers(&self, end: u64) -> Result<(), LogError> {
        let needed = end.div_ceil(LOG_PAGE).div_ceil(8);
        if needed > self.size {
            let have = self.size;
            return Err(LogError::TooSmall { have, needed, end });
        }
        Ok(())
    }

    /// Notes that `len` bytes at guest address `gpa` were written to.
    pub fn mark(&self, gpa: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = gpa.saturating_add(len - 1) / LOG_PAGE;
        for page in gpa / LOG_PAGE..=last {
            if page / 8 >= self.size {
                return;
            }
            // SAFETY: page / 8 is below the size.
            let byte = unsafe { AtomicU8::from_ptr(self.bits.add((page / 8) as usize)) };
            byte.fetch_or(1 << (page % 8), Ordering::SeqCst);
        }
    }
}

/// What a ring needs to note what it writes.
pub(crate) struct RingLog {
    pub(crate) log: Arc<DirtyLog>,
    /// The used ring (of packed rings, the device event structure), its bytes,
    /// and the guest address that the frontend wants its writes noted at.
    /// `None`: writes to the ring itself are not to be noted.
    pub(crate) used: Option<(*const u8, u64, u64)>,
}

// SAFETY: the pointer is compared, never followed.
unsafe impl Send for RingLog {}
// SAFETY: as above.
unsafe impl Sync for RingLog {}

impl RingLog {
    /// `len` bytes of a buffer were written to.
    pub(crate) fn mark_buffer(&self, memory: &GuestMemory, at: *const u8, len: usize) {
        if let Some(gpa) = memory.guest_address(at) {
            self.log.mark(gpa, len as u64);
        }
    }

    /// The same of the ring.
    pub(crate) fn mark_ring(&self, memory: &GuestMemory, (at, len): (*const u8, usize)) {
        let Some((start, bytes, gpa)) = self.used else {
            return;
        };
        let offset = (at as u64).wrapping_sub(start as u64);
        if offset < bytes {
            self.log.mark(gpa.saturating_add(offset), len as u64);
        } else {
            self.mark_buffer(memory, at, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    fn file(size: u64, sealed: bool) -> File {
        let fd = memfd_create(c"log", MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
        let file = File::from(fd);
        file.set_len(size).expect("ftruncate");
        if sealed {
            let seals = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK);
            fcntl(&file, seals).expect("sealed");
        }
        file
    }

    #[test]
    fn bits_are_set_for_the_pages_that_were_written_to() {
        let shared = file(0x30, true);
        let log = DirtyLog::map(shared.try_clone().expect("a copy"), 0x10, 0x20).expect("mapped");
        log.mark(0, 1);
        log.mark(4095, 2);
        log.mark(9 * 4096, 0);
        log.mark(17 * 4096, 3 * 4096);
        // Beyond the log, and to the end of the address space.
        log.mark(128 * 4096, 1);
        log.mark(u64::MAX, 10);
        let mut bytes = [0; 0x30];
        std::os::unix::fs::FileExt::read_exact_at(&shared, &mut bytes, 0).expect("read");
        assert!(bytes[..0x20].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[0x20..0x24], [0b11, 0, 0b1110, 0]);
        assert!(bytes[0x24..].iter().all(|byte| *byte == 0));
        assert!(log.covers(128 * 4096).is_ok());
        assert!(log.covers(128 * 4096 + 1).is_err());
    }

    #[test]
    fn logs_that_cannot_be_right_are_refused() {
        let map = |size, offset, sealed| DirtyLog::map(file(0x1000, sealed), size, offset);
        assert!(matches!(map(0, 0, true), Err(LogError::BadSize { .. })));
        let wraps = map(2, u64::MAX, true);
        assert!(matches!(wraps, Err(LogError::BadSize { .. })));
        let short = map(0x1000, 1, true);
        assert!(matches!(short, Err(LogError::FileTooSmall { .. })));
        assert!(matches!(map(0x1000, 0, false), Err(LogError::NotSealed)));
    }
}
