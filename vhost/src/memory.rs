//! A guest's memory as the frontend shared it: mapped regions and the
//! translation of guest addresses to ours.
//!
//! A [`GuestMemory`] never changes. When the frontend changes its memory
//! table, the session builds a new one and the old one is unmapped only after
//! every PMD has let go of the rings that point into it (each ring holds an
//! `Arc` of the memory that it was resolved against).
//!
//! The frontend keeps the files behind it and may truncate them: `sigbus.rs`
//! watches over every mapping.

#![allow(unsafe_code)]
// UNSAFETY: this module owns the mappings that guest addresses resolve to.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    fstatfs,
};
use vm_memory::FileOffset;
use vm_memory::mmap::MmapRegion;

use crate::ring::DeviceFault;
use crate::sigbus::Registered;

/// Most regions a guest may have (vhost-user `GET_MAX_MEM_SLOTS`); KVM gives a
/// guest as many memory slots.
pub const MAX_REGIONS: usize = 509;

/// Most memory of one guest, in bytes.
pub const MAX_GUEST_BYTES: u64 = 8 << 40;

/// So many regions are tried one by one before the others are searched by
/// halves. Most guests have one or two.
const TRIED_FIRST: usize = 4;

/// File systems whose pages nobody else can keep us waiting for. A core that
/// touches memory behind a FUSE or network file system waits as long as that
/// file system's owner likes.
const FILE_SYSTEMS: [FsType; 5] = [
    TMPFS_MAGIC, // memfd too
    HUGETLBFS_MAGIC,
    EXT4_SUPER_MAGIC,
    XFS_SUPER_MAGIC,
    BTRFS_SUPER_MAGIC,
];

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
    #[error("memory regions at guest addresses {first:#x} and {second:#x} overlap")]
    Overlap {
        /// Guest address of one.
        first: u64,
        /// Guest address of the other.
        second: u64,
    },
    /// More regions than we take.
    #[error("{count} memory regions, at most {MAX_REGIONS} are supported")]
    TooMany {
        /// How many there would be.
        count: usize,
    },
    /// More memory than we take.
    #[error("{bytes:#x} bytes of guest memory, at most {MAX_GUEST_BYTES:#x} are supported")]
    TooMuch {
        /// How many bytes there would be.
        bytes: u64,
    },
    /// Something whose pages could keep us waiting, or no memory at all.
    #[error(
        "memory region {index}: fd {fd} is {what}; the guest's memory must be a file of ordinary or \
         huge pages (memory-backend-memfd or -file with share=on)"
    )]
    Backing {
        /// Position in the memory table.
        index: usize,
        /// File descriptor.
        fd: i32,
        /// What it is.
        what: String,
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

#[derive(Clone)]
struct Region {
    spec: RegionSpec,
    /// Our address of `spec.gpa`.
    host: *mut u8,
    // Keeps the mapping alive; regions that stay over a change of the table
    // are shared by the old and the new memory.
    mapping: Arc<Mapping>,
}

// SAFETY: `host` points into `mapping`, which is owned and shared memory whose
// accesses all go through raw pointers, never through references.
unsafe impl Send for Region {}
// SAFETY: as above; nothing in a Region changes after it was built.
unsafe impl Sync for Region {}

/// Fields are dropped in this order: nobody watches over what is unmapped.
struct Mapping {
    _registered: Registered,
    region: MmapRegion,
}

impl Mapping {
    fn file(&self) -> Option<&File> {
        self.region.file_offset().map(FileOffset::file)
    }
}

/// The mapped memory of one guest. Immutable.
#[derive(Default)]
pub struct GuestMemory {
    /// In the order of their guest addresses.
    regions: Vec<Region>,
    /// Told when memory goes away.
    fault: Arc<DeviceFault>,
}

impl GuestMemory {
    /// No memory yet. When some that is added goes away under us, `fault` is
    /// told.
    pub fn of_device(fault: Arc<DeviceFault>) -> Self {
        Self {
            regions: Vec::new(),
            fault,
        }
    }

    /// Maps all regions of a memory table (vhost-user `SET_MEM_TABLE`), for a
    /// device of its own.
    pub fn map(table: Vec<(RegionSpec, File)>) -> Result<Self, MemoryError> {
        Self::default().replaced_by(table)
    }

    /// Another memory for the same device.
    pub fn replaced_by(&self, table: Vec<(RegionSpec, File)>) -> Result<Self, MemoryError> {
        let mut memory = Self::of_device(Arc::clone(&self.fault));
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
        let end = spec.gpa.checked_add(spec.size);
        let user_end = spec.user_addr.checked_add(spec.size);
        let needed = spec.file_offset.checked_add(spec.size);
        let (Some(end), Some(_), Some(needed), true) = (end, user_end, needed, spec.size > 0)
        else {
            return Err(MemoryError::BadRegion { index, spec });
        };
        let bytes = self.size().saturating_add(spec.size);
        if bytes > MAX_GUEST_BYTES {
            return Err(MemoryError::TooMuch { bytes });
        }
        let at = self
            .regions
            .partition_point(|other| other.spec.gpa < spec.gpa);
        let (before, behind) = self.regions.split_at(at);
        let before = before
            .last()
            .filter(|other| other.spec.gpa + other.spec.size > spec.gpa);
        let behind = behind.first().filter(|other| other.spec.gpa < end);
        if let Some(other) = before.or(behind) {
            return Err(MemoryError::Overlap {
                first: other.spec.gpa,
                second: spec.gpa,
            });
        }
        let region = self.map_region(index, spec, needed, file)?;
        let mut regions = self.regions.clone();
        regions.insert(at, region);
        Ok(self.with(regions))
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
        Ok(self.with(regions))
    }

    fn with(&self, regions: Vec<Region>) -> Self {
        Self {
            regions,
            fault: Arc::clone(&self.fault),
        }
    }

    /// Whether exactly this region is there.
    pub fn has_region(&self, spec: &RegionSpec) -> bool {
        self.regions.iter().any(|region| region.spec == *spec)
    }

    /// How many regions there are.
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// Every region with the file behind it.
    pub fn files(&self) -> impl Iterator<Item = (RegionSpec, &File)> {
        self.regions
            .iter()
            .filter_map(|region| Some((region.spec, region.mapping.file()?)))
    }

    /// Bytes of guest memory.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(|region| region.spec.size).sum()
    }

    /// What is told when memory goes away.
    pub fn fault(&self) -> &Arc<DeviceFault> {
        &self.fault
    }

    /// The region that holds `gpa`.
    #[inline(always)]
    fn region(&self, gpa: u64) -> Option<&Region> {
        for region in self.regions.iter().take(TRIED_FIRST) {
            // Also false for addresses below the region, which wrap.
            if gpa.wrapping_sub(region.spec.gpa) < region.spec.size {
                return Some(region);
            }
        }
        if self.regions.len() <= TRIED_FIRST {
            return None;
        }
        self.search(gpa)
    }

    /// The same by halves: a guest's 509 regions cost 9 looks.
    #[inline(never)]
    fn search(&self, gpa: u64) -> Option<&Region> {
        let behind = self
            .regions
            .partition_point(|region| region.spec.gpa <= gpa);
        self.regions
            .get(behind.wrapping_sub(1))
            .filter(|region| gpa - region.spec.gpa < region.spec.size)
    }

    /// Our address of the guest-physical range `[gpa, gpa + len)`, if it lies
    /// whole in one region. The pointer is good for `len` bytes as long as
    /// this memory lives; the guest may write there at any time.
    #[inline(always)]
    pub fn translate(&self, gpa: u64, len: u64) -> Option<*mut u8> {
        let region = self.region(gpa)?;
        let offset = gpa.wrapping_sub(region.spec.gpa);
        if len > region.spec.size - offset {
            return None;
        }
        // SAFETY: offset + len <= size, and `host` is the start of `size`
        // mapped bytes.
        Some(unsafe { region.host.add(offset as usize) })
    }

    /// How many bytes from `gpa` on lie in one region, at most `len`, and our
    /// address of the first; `None` when `gpa` itself is outside memory.
    /// For buffers that straddle two adjacent regions.
    pub fn translate_prefix(&self, gpa: u64, len: u64) -> Option<(*mut u8, u64)> {
        let region = self.region(gpa)?;
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
                region.mapping.file().is_some_and(|file| {
                    let on_hugetlbfs =
                        fstatfs(file).is_ok_and(|fs| fs.filesystem_type() == HUGETLBFS_MAGIC);
                    !on_hugetlbfs && file.metadata().is_ok_and(|metadata| metadata.blocks() == 0)
                })
            })
    }

    /// Whether no file behind it can be truncated (`F_SEAL_SHRINK`, as QEMU's
    /// memory-backend-memfd has it).
    pub fn is_sealed(&self) -> bool {
        !self.regions.is_empty()
            && self.regions.iter().all(|region| {
                region.mapping.file().is_some_and(|file| {
                    fcntl(file, FcntlArg::F_GET_SEALS).is_ok_and(|seals| {
                        SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK)
                    })
                })
            })
    }

    /// Maps a region, from the start of the page that it begins in: hugetlbfs
    /// demands it.
    fn map_region(
        &self,
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
        let backing = |what| MemoryError::Backing { index, fd, what };
        if !metadata.is_file() {
            return Err(backing("no regular file".to_owned()));
        }
        let file_system = fstatfs(&file)
            .map_err(|errno| failed(needed, 0, errno.into()))?
            .filesystem_type();
        if !FILE_SYSTEMS.contains(&file_system) {
            let magic = file_system.0;
            let what = format!("on a file system (type {magic:#x}) whose pages could come late");
            return Err(backing(what));
        }
        if metadata.len() < needed {
            return Err(MemoryError::FileTooSmall {
                index,
                fd,
                file_size: metadata.len(),
                needed,
            });
        }
        let page_size = Some(metadata.blksize())
            .filter(|size| size.is_power_of_two() && *size >= 4096)
            .unwrap_or(4096);
        let begin = spec.file_offset & !(page_size - 1);
        let length = (needed - begin)
            .checked_next_multiple_of(page_size)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(MemoryError::BadRegion { index, spec })?;
        let failed = |source| failed(length as u64, page_size, source);
        let region = MmapRegion::build(
            Some(FileOffset::new(file, begin)),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        )
        .map_err(|error| match error {
            vm_memory::mmap::MmapRegionError::Mmap(source) => failed(source),
            other => failed(std::io::Error::other(other.to_string())),
        })?;
        let start = region.as_ptr() as usize;
        let registered = Registered::new(start..start + length, page_size as usize, &self.fault)
            .map_err(failed)?;
        // SAFETY: file_offset - begin + size <= the mapping's length.
        let host = unsafe { region.as_ptr().add((spec.file_offset - begin) as usize) };
        Ok(Region {
            spec,
            host,
            mapping: Arc::new(Mapping {
                _registered: registered,
                region,
            }),
        })
    }
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
    fn sparse_giants_and_foreign_files_are_refused() {
        let giant = |size| GuestMemory::map(vec![(spec(0, size), memfd(size))]);
        assert!(giant(MAX_GUEST_BYTES).is_ok());
        assert!(matches!(
            giant(MAX_GUEST_BYTES + 4096),
            Err(MemoryError::TooMuch { .. })
        ));
        // Many of the largest use up the process's addresses, but not all of them.
        let all: Vec<_> = (0..10).map_while(|_| giant(MAX_GUEST_BYTES).ok()).collect();
        assert!((4..=8).contains(&all.len()), "{}", all.len());
        let refused = giant(MAX_GUEST_BYTES).err().map(|error| error.to_string());
        assert!(
            refused.as_ref().is_some_and(|why| why.contains("64 TiB")),
            "{refused:?}"
        );
        drop(all);
        for file in ["/proc/self/status", "/dev/zero"] {
            let opened = File::options().read(true).open(file).expect("open");
            let refused = GuestMemory::map(vec![(spec(0, 0x1000), opened)]);
            assert!(
                matches!(refused, Err(MemoryError::Backing { .. })),
                "{file}"
            );
        }
    }

    #[test]
    fn a_region_is_mapped_from_its_own_page_on() {
        let file = memfd(0x10000);
        let mut wanted = spec(0x5000, 0x1800);
        wanted.file_offset = 0x2800;
        let memory = GuestMemory::map(vec![(wanted, file.try_clone().expect("dup"))]).expect("map");
        let at = memory.translate(0x5010, 1).expect("inside");
        // SAFETY: one mapped byte.
        unsafe { at.write_volatile(77) };
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 0x2810).expect("read");
        assert_eq!(byte, [77]);
    }

    #[test]
    fn memory_knows_whether_it_is_sealed() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let file = memfd(0x1000);
        let memory = GuestMemory::map(vec![(spec(0, 0x1000), file)]).expect("map");
        assert!(!memory.is_sealed());
        let fd = memfd_create(c"guest", MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
        let file = File::from(fd);
        file.set_len(0x1000).expect("ftruncate");
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("seal");
        let memory = GuestMemory::map(vec![(spec(0, 0x1000), file)]).expect("map");
        assert!(memory.is_sealed());
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

        #[test]
        fn many_regions_are_searched_as_a_few(
            order in Just((0..24u64).collect::<Vec<_>>()).prop_shuffle(),
            removed in prop::collection::vec(0u64..24, 0..12),
            addresses in prop::collection::vec(0u64..0x4a000, 50),
        ) {
            // Of one page or two; every second one ends where the next begins.
            let file = memfd(0x2000);
            let table = order.iter().map(|n| {
                (spec(n * 0x3000 + (n % 2) * 0x1000, 0x1000 + (n % 2) * 0x1000), file.try_clone().expect("dup"))
            });
            let mut memory = GuestMemory::map(table.collect()).expect("map");
            let mut there: Vec<u64> = (0..24).collect();
            for n in removed {
                let (gpa, size) = (n * 0x3000 + (n % 2) * 0x1000, 0x1000 + (n % 2) * 0x1000);
                let less = memory.without_region(gpa, size);
                prop_assert_eq!(less.is_ok(), there.contains(&n));
                there.retain(|other| *other != n);
                memory = less.unwrap_or(memory);
            }
            for gpa in addresses {
                let inside = there.iter().any(|n| {
                    let start = n * 0x3000 + (n % 2) * 0x1000;
                    (start..start + 0x1000 + (n % 2) * 0x1000).contains(&gpa)
                });
                prop_assert_eq!(memory.translate(gpa, 1).is_some(), inside, "{:#x}", gpa);
                prop_assert_eq!(memory.translate_prefix(gpa, 1).is_some(), inside, "{:#x}", gpa);
            }
        }
    }
}
