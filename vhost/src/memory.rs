//! A guest's memory as the frontend shared it: mapped regions and the
//! translation of guest addresses to ours.
//!
//! A [`GuestMemory`] never changes. When the frontend changes its memory
//! table, the session builds a new one and the old one is unmapped only after
//! every PMD has let go of the rings that point into it (each ring holds an
//! `Arc` of the memory that it was resolved against).

#![allow(unsafe_code)]
// UNSAFETY: this module owns the mappings that guest addresses resolve to.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use vm_memory::FileOffset;
use vm_memory::mmap::MmapRegion;

/// Most regions a guest may have (vhost-user `GET_MAX_MEM_SLOTS`).
pub const MAX_REGIONS: usize = 64;

/// `fstatfs` type of hugetlbfs (`HUGETLBFS_MAGIC` in linux/magic.h).
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Where the frontend says that a region lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// First guest-physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub size: u64,
    /// The frontend's own address of the region: ring addresses are given in it.
    pub user_addr: u64,
    /// Where in the file the region starts.
    pub file_offset: u64,
}

/// Why guest memory could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A region's numbers make no sense.
    #[error(
        "memory region {index} (guest address {:#x}, size {:#x}, offset {:#x}) is empty or wraps around",
        spec.gpa, spec.size, spec.file_offset
    )]
    BadRegion {
        /// Position in the memory table.
        index: usize,
        /// The numbers.
        spec: RegionSpec,
    },
    /// Two regions share guest addresses.
    #[error("memory regions {first} and {second} overlap in guest addresses")]
    Overlap {
        /// Position of one.
        first: usize,
        /// Position of the other.
        second: usize,
    },
    /// More regions than we take.
    #[error("{count} memory regions, at most {MAX_REGIONS} are supported")]
    TooMany {
        /// How many there would be.
        count: usize,
    },
    /// The file is shorter than the region: touching its end would be SIGBUS.
    #[error(
        "memory region {index}: its file (fd {fd}) has {file_size:#x} bytes, the region needs {needed:#x}"
    )]
    FileTooSmall {
        /// Position in the memory table.
        index: usize,
        /// File descriptor.
        fd: i32,
        /// The file's size in bytes.
        file_size: u64,
        /// Offset plus size of the region.
        needed: u64,
    },
    /// fstat or mmap failed.
    #[error(
        "memory region {index}: cannot map {size:#x} bytes of fd {fd} (page size {page_size:#x}): {source}; \
         the guest's memory must be a shareable file (memory-backend-memfd or -file with share=on)"
    )]
    Map {
        /// Position in the memory table.
        index: usize,
        /// File descriptor.
        fd: i32,
        /// Bytes to map.
        size: u64,
        /// Page size of the file.
        page_size: u64,
        /// The system's error.
        source: std::io::Error,
    },
    /// No such region to remove.
    #[error("no memory region at guest address {gpa:#x} with size {size:#x}")]
    NoSuchRegion {
        /// Its guest address.
        gpa: u64,
        /// Its size.
        size: u64,
    },
}

struct Region {
    spec: RegionSpec,
    /// Our address of `spec.gpa`.
    host: *mut u8,
    // Keeps the mapping alive; regions that stay over a change of the table
    // are shared by the old and the new memory.
    mapping: Arc<MmapRegion>,
}

// SAFETY: `host` points into `mapping`, which is owned and shared memory whose
// accesses all go through raw pointers, never through references.
unsafe impl Send for Region {}
// SAFETY: as above; nothing in a Region changes after it was built.
unsafe impl Sync for Region {}

impl Clone for Region {
    fn clone(&self) -> Self {
        Self {
            spec: self.spec,
            host: self.host,
            mapping: Arc::clone(&self.mapping),
        }
    }
}

/// The mapped memory of one guest. Immutable.
#[derive(Default)]
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// Maps all regions of a memory table (vhost-user `SET_MEM_TABLE`).
    pub fn map(table: Vec<(RegionSpec, File)>) -> Result<Self, MemoryError> {
        let mut memory = Self::default();
        for (spec, file) in table {
            memory = memory.with_region(spec, file)?;
        }
        Ok(memory)
    }

    /// This memory and one region more (`ADD_MEM_REG`).
    pub fn with_region(&self, spec: RegionSpec, file: File) -> Result<Self, MemoryError> {
        let index = self.regions.len();
        if index >= MAX_REGIONS {
            return Err(MemoryError::TooMany { count: index + 1 });
        }
        let wraps = spec.gpa.checked_add(spec.size).is_none()
            || spec.user_addr.checked_add(spec.size).is_none();
        let needed = spec.file_offset.checked_add(spec.size);
        let (false, Some(needed), true) = (wraps, needed, spec.size > 0) else {
            return Err(MemoryError::BadRegion { index, spec });
        };
        if let Some(first) = self.regions.iter().position(|other| {
            spec.gpa < other.spec.gpa + other.spec.size && other.spec.gpa < spec.gpa + spec.size
        }) {
            return Err(MemoryError::Overlap {
                first,
                second: index,
            });
        }
        let region = map_region(index, spec, needed, file)?;
        let mut regions = self.regions.clone();
        regions.push(region);
        Ok(Self { regions })
    }

    /// This memory without one region (`REM_MEM_REG`).
    pub fn without_region(&self, gpa: u64, size: u64) -> Result<Self, MemoryError> {
        let index = self
            .regions
            .iter()
            .position(|region| region.spec.gpa == gpa && region.spec.size == size)
            .ok_or(MemoryError::NoSuchRegion { gpa, size })?;
        let mut regions = self.regions.clone();
        regions.remove(index);
        Ok(Self { regions })
    }

    /// Whether exactly this region is there.
    pub fn has_region(&self, spec: &RegionSpec) -> bool {
        self.regions.iter().any(|region| region.spec == *spec)
    }

    /// How many regions there are.
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// Bytes of guest memory.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(|region| region.spec.size).sum()
    }

    /// Our address of the guest-physical range `[gpa, gpa + len)`, if it lies
    /// whole in one region. The pointer is good for `len` bytes as long as
    /// this memory lives; the guest may write there at any time.
    #[inline(always)]
    pub fn translate(&self, gpa: u64, len: u64) -> Option<*mut u8> {
        for region in &self.regions {
            let offset = gpa.wrapping_sub(region.spec.gpa);
            // `offset < size` also rejects addresses below the region, which wrap.
            if offset < region.spec.size {
                if len > region.spec.size - offset {
                    return None;
                }
                // SAFETY: offset + len <= size, and `host` is the start of
                // `size` mapped bytes.
                return Some(unsafe { region.host.add(offset as usize) });
            }
        }
        None
    }

    /// How many bytes from `gpa` on lie in one region, at most `len`, and our
    /// address of the first; `None` when `gpa` itself is outside memory.
    /// For buffers that straddle two adjacent regions.
    pub fn translate_prefix(&self, gpa: u64, len: u64) -> Option<(*mut u8, u64)> {
        let region = self
            .regions
            .iter()
            .find(|region| gpa.wrapping_sub(region.spec.gpa) < region.spec.size)?;
        let offset = gpa - region.spec.gpa;
        let available = len.min(region.spec.size - offset);
        // SAFETY: offset < size, and `host` is the start of `size` mapped bytes.
        Some((unsafe { region.host.add(offset as usize) }, available))
    }

    /// Our address of a range given in the frontend's own addresses (ring
    /// addresses in `SET_VRING_ADDR`), if it lies whole in one region.
    pub fn translate_user(&self, user_addr: u64, len: u64) -> Option<*mut u8> {
        self.regions.iter().find_map(|region| {
            let offset = user_addr.wrapping_sub(region.spec.user_addr);
            (offset < region.spec.size && len <= region.spec.size - offset)
                // SAFETY: offset + len <= size, and `host` is the start of
                // `size` mapped bytes.
                .then(|| unsafe { region.host.add(offset as usize) })
        })
    }

    /// The guest address of a byte of ours that lies in this memory.
    pub fn guest_address(&self, host: *const u8) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = (host as u64).wrapping_sub(region.host as u64);
            (offset < region.spec.size).then(|| region.spec.gpa + offset)
        })
    }

    /// First guest address behind all regions.
    pub fn end(&self) -> u64 {
        let ends = self
            .regions
            .iter()
            .map(|region| region.spec.gpa.saturating_add(region.spec.size));
        ends.max().unwrap_or(0)
    }

    /// Whether the memory looks as if the guest wrote to a private copy of it:
    /// not one block of the files behind it was ever allocated. QEMU does that
    /// when `share=on` is missing.
    pub fn looks_unshared(&self) -> bool {
        !self.regions.is_empty()
            && self.regions.iter().all(|region| {
                region.mapping.file_offset().is_some_and(|backing| {
                    let on_hugetlbfs = nix::sys::statfs::fstatfs(backing.file())
                        .is_ok_and(|fs| fs.filesystem_type().0 == HUGETLBFS_MAGIC);
                    !on_hugetlbfs
                        && backing
                            .file()
                            .metadata()
                            .is_ok_and(|metadata| metadata.blocks() == 0)
                })
            })
    }
}

/// Maps the file from its start to the region's end, so that the mapping is
/// aligned to the file's page size whatever the offset (hugetlbfs demands it).
fn map_region(
    index: usize,
    spec: RegionSpec,
    needed: u64,
    file: File,
) -> Result<Region, MemoryError> {
    let fd = file.as_raw_fd();
    let failed = |size, page_size, source| MemoryError::Map {
        index,
        fd,
        size,
        page_size,
        source,
    };
    let metadata = file
        .metadata()
        .map_err(|source| failed(needed, 0, source))?;
    if metadata.len() < needed {
        return Err(MemoryError::FileTooSmall {
            index,
            fd,
            file_size: metadata.len(),
            needed,
        });
    }
    let page_size = metadata.blksize().max(4096);
    let length = needed
        .checked_next_multiple_of(page_size)
        .and_then(|length| usize::try_from(length).ok())
        .ok_or(MemoryError::BadRegion { index, spec })?;
    let mapping = MmapRegion::build(
        Some(FileOffset::new(file, 0)),
        length,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_NORESERVE,
    )
    .map_err(|error| {
        let source = match error {
            vm_memory::mmap::MmapRegionError::Mmap(source) => source,
            other => std::io::Error::other(other.to_string()),
        };
        failed(length as u64, page_size, source)
    })?;
    // SAFETY: file_offset + size = needed <= the mapping's length.
    let host = unsafe { mapping.as_ptr().add(spec.file_offset as usize) };
    Ok(Region {
        spec,
        host,
        mapping: Arc::new(mapping),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memfd(size: u64) -> File {
        let fd = nix::sys::memfd::memfd_create(c"guest", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .expect("memfd");
        let file = File::from(fd);
        file.set_len(size).expect("ftruncate");
        file
    }

    fn spec(gpa: u64, size: u64) -> RegionSpec {
        RegionSpec {
            gpa,
            size,
            user_addr: gpa.wrapping_add(0x7000_0000_0000),
            file_offset: 0,
        }
    }

    #[test]
    fn ranges_must_lie_whole_in_one_region() {
        let memory = GuestMemory::map(vec![
            (spec(0, 0x2000), memfd(0x2000)),
            (spec(0x2000, 0x1000), memfd(0x1000)),
        ])
        .expect("map");
        assert!(memory.translate(0, 0x2000).is_some());
        assert!(memory.translate(0x1fff, 1).is_some());
        assert!(
            memory.translate(0x1fff, 2).is_none(),
            "straddles two regions"
        );
        assert!(memory.translate(0x3000, 1).is_none(), "behind the last");
        assert!(
            memory.translate(0x10, u64::MAX).is_none(),
            "length overflow"
        );
        assert_eq!(memory.translate_prefix(0x1fff, 5).map(|p| p.1), Some(1));
        assert!(memory.translate_user(0x7000_0000_1000, 0x1000).is_some());
        assert!(memory.translate_user(0x7000_0000_1000, 0x1001).is_none());
        assert_eq!(memory.size(), 0x3000);
    }

    #[test]
    fn bad_tables_are_refused_by_name() {
        let overlap = GuestMemory::map(vec![
            (spec(0, 0x2000), memfd(0x2000)),
            (spec(0x1000, 0x1000), memfd(0x1000)),
        ]);
        assert!(matches!(overlap, Err(MemoryError::Overlap { .. })));
        let wraps = GuestMemory::map(vec![(spec(u64::MAX - 10, 0x1000), memfd(0x1000))]);
        assert!(matches!(wraps, Err(MemoryError::BadRegion { .. })));
        let small = GuestMemory::map(vec![(spec(0, 0x2000), memfd(0x1000))]);
        assert!(matches!(small, Err(MemoryError::FileTooSmall { .. })));
        let memory = GuestMemory::map(vec![(spec(0, 0x1000), memfd(0x1000))]).expect("map");
        assert!(matches!(
            memory.without_region(0, 0x2000),
            Err(MemoryError::NoSuchRegion { .. })
        ));
    }

    #[test]
    fn memory_that_nobody_wrote_looks_unshared() {
        let file = memfd(0x10000);
        let memory = GuestMemory::map(vec![(spec(0, 0x10000), file)]).expect("map");
        assert!(memory.looks_unshared());
        let byte = memory.translate(0x1234, 1).expect("inside");
        // SAFETY: one mapped byte.
        unsafe { byte.write_volatile(1) };
        assert!(!memory.looks_unshared());
    }

    proptest! {
        #[test]
        fn translation_agrees_with_a_naive_model(
            gpa in 0u64..0x8000, len in 0u64..0x8000,
        ) {
            let memory = GuestMemory::map(vec![
                (spec(0x1000, 0x1000), memfd(0x1000)),
                (spec(0x3000, 0x3000), memfd(0x3000)),
            ]).expect("map");
            let inside = |start: u64, size: u64| gpa >= start && gpa < start + size
                && gpa + len <= start + size;
            let expected = inside(0x1000, 0x1000) || inside(0x3000, 0x3000);
            prop_assert_eq!(memory.translate(gpa, len).is_some(), expected);
        }
    }
}
