//! The guest's memory: one or several regions, each a memfd, mapped here and
//! handed to the backend by file descriptor.
//!
//! All accesses go through `vm-memory`'s volatile slices, since the backend
//! reads and writes the same pages at any time.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    AtomicAccess, ByteValued, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionMmap,
};

use crate::Error;

/// A guest-physical address in bytes.
pub type Gpa = u64;

/// What lies behind a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Shared pages of the usual size.
    Shared,
    /// Shared pages of a file that cannot be truncated (`F_SEAL_SHRINK`), as
    /// QEMU's memory-backend-memfd makes them.
    Sealed,
    /// Shared 2 MiB pages (`MFD_HUGETLB`); the size is rounded up to them.
    SharedHuge,
    /// Mapped privately, as QEMU does without `share=on`: what the driver
    /// writes never reaches the backend.
    Private,
}

/// One region of guest memory.
#[derive(Clone, Copy, Debug)]
pub struct RegionSpec {
    /// Guest-physical start.
    pub gpa: Gpa,
    /// Size in bytes.
    pub size: u64,
    /// What lies behind it.
    pub backing: Backing,
}

/// Mapped guest memory.
pub struct GuestMemory {
    mmap: GuestMemoryMmap<()>,
    files: Vec<File>,
}

const HUGE: u64 = 2 << 20;

impl GuestMemory {
    /// Maps the regions given, sorted by address and without overlap.
    pub fn new(specs: &[RegionSpec]) -> Result<Self, Error> {
        let mut regions = Vec::new();
        let mut files = Vec::new();
        for spec in specs {
            let (region, file) = map_region(spec)?;
            regions.push(region);
            files.push(file);
        }
        let mmap = GuestMemoryMmap::from_regions(regions)
            .map_err(|error| Error::Layout(error.to_string()))?;
        Ok(Self { mmap, files })
    }

    /// One region from guest-physical 0.
    pub fn single(size: u64, backing: Backing) -> Result<Self, Error> {
        Self::new(&[RegionSpec {
            gpa: 0,
            size,
            backing,
        }])
    }

    /// One region from guest-physical 0 on hugepages, or on ordinary pages if
    /// there are none; the second value says which.
    pub fn single_huge_or_not(size: u64) -> Result<(Self, bool), Error> {
        match Self::single(size, Backing::SharedHuge) {
            Ok(memory) => Ok((memory, true)),
            Err(_) => Ok((Self::single(size, Backing::Shared)?, false)),
        }
    }

    /// The regions as SET_MEM_TABLE wants them. The address in this process
    /// serves as the frontend's user address.
    pub fn region_infos(&self) -> Vec<VhostUserMemoryRegionInfo> {
        self.mmap
            .iter()
            .zip(&self.files)
            .map(|(region, file)| VhostUserMemoryRegionInfo {
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.get_mmap().as_ptr() as u64,
                mmap_offset: 0,
                mmap_handle: file.as_raw_fd(),
            })
            .collect()
    }

    /// Guest-physical end (one past the last byte) of the last region.
    pub fn end(&self) -> Gpa {
        self.mmap.last_addr().0 + 1
    }

    /// The frontend's user address of `gpa`, as SET_VRING_ADDR wants it.
    ///
    /// # Panics
    /// If `gpa` is in no region.
    pub fn user_addr(&self, gpa: Gpa) -> u64 {
        self.pointer(gpa, 1) as u64
    }

    /// Pointer to `len` bytes that lie in one region. Other processes may
    /// read and write behind it at any time.
    ///
    /// # Panics
    /// If the range leaves its region.
    pub fn pointer(&self, gpa: Gpa, len: usize) -> *mut u8 {
        let slice = self
            .mmap
            .get_slice(GuestAddress(gpa), len)
            .unwrap_or_else(|error| panic!("guest memory {gpa:#x}+{len}: {error}"));
        slice.ptr_guard_mut().as_ptr()
    }

    /// Whether `len` bytes at `gpa` are all inside guest memory.
    pub fn contains(&self, gpa: Gpa, len: usize) -> bool {
        self.mmap.check_range(GuestAddress(gpa), len)
    }

    /// Reads a plain value.
    ///
    /// # Panics
    /// If it is not in guest memory.
    pub fn read<T: ByteValued>(&self, gpa: Gpa) -> T {
        self.mmap
            .read_obj(GuestAddress(gpa))
            .unwrap_or_else(|error| panic!("read guest memory {gpa:#x}: {error}"))
    }

    /// Writes a plain value.
    ///
    /// # Panics
    /// If it is not in guest memory.
    pub fn write<T: ByteValued>(&self, gpa: Gpa, value: T) {
        self.mmap
            .write_obj(value, GuestAddress(gpa))
            .unwrap_or_else(|error| panic!("write guest memory {gpa:#x}: {error}"));
    }

    /// Reads an aligned integer atomically.
    ///
    /// # Panics
    /// If it is not in guest memory or not aligned.
    pub fn load<T: AtomicAccess>(&self, gpa: Gpa, order: Ordering) -> T {
        self.mmap
            .load(GuestAddress(gpa), order)
            .unwrap_or_else(|error| panic!("load guest memory {gpa:#x}: {error}"))
    }

    /// Writes an aligned integer atomically.
    ///
    /// # Panics
    /// If it is not in guest memory or not aligned.
    pub fn store<T: AtomicAccess>(&self, gpa: Gpa, value: T, order: Ordering) {
        self.mmap
            .store(value, GuestAddress(gpa), order)
            .unwrap_or_else(|error| panic!("store guest memory {gpa:#x}: {error}"));
    }

    /// Copies bytes out; the range may cross regions that touch.
    ///
    /// # Panics
    /// If the range is not in guest memory.
    pub fn read_bytes(&self, gpa: Gpa, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mmap
            .read_slice(&mut bytes, GuestAddress(gpa))
            .unwrap_or_else(|error| panic!("read guest memory {gpa:#x}+{len}: {error}"));
        bytes
    }

    /// Copies bytes in; the range may cross regions that touch.
    ///
    /// # Panics
    /// If the range is not in guest memory.
    pub fn write_bytes(&self, gpa: Gpa, bytes: &[u8]) {
        self.mmap
            .write_slice(bytes, GuestAddress(gpa))
            .unwrap_or_else(|error| panic!("write guest memory {gpa:#x}: {error}"));
    }

    /// The file behind region `index`.
    pub fn file(&self, index: usize) -> &File {
        &self.files[index]
    }

    /// Shrinks the file behind region `index` to `len` bytes while it stays
    /// mapped on both sides: the next access beyond is SIGBUS for whoever
    /// makes it. Do not touch the lost part from here afterwards.
    pub fn truncate(&self, index: usize, len: u64) -> Result<(), Error> {
        self.files[index]
            .set_len(len)
            .map_err(|source| Error::Memory {
                gpa: 0,
                size: len,
                what: "truncate the memory file",
                source,
            })
    }
}

fn map_region(spec: &RegionSpec) -> Result<(GuestRegionMmap<()>, File), Error> {
    let fail = |what, source| Error::Memory {
        gpa: spec.gpa,
        size: spec.size,
        what,
        source,
    };
    let (size, flags) = match spec.backing {
        Backing::SharedHuge => (
            spec.size.next_multiple_of(HUGE),
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
        ),
        Backing::Sealed => (
            spec.size,
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        ),
        Backing::Shared | Backing::Private => (spec.size, MFdFlags::MFD_CLOEXEC),
    };
    let file: File = memfd_create(c"ringway-frontend", flags)
        .map_err(|errno| fail("memfd_create", errno.into()))?
        .into();
    file.set_len(size).map_err(|e| fail("set its size", e))?;
    if spec.backing == Backing::Sealed {
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))
            .map_err(|errno| fail("seal it", errno.into()))?;
    }
    let share = match spec.backing {
        Backing::Private => libc::MAP_PRIVATE,
        // Populated at once: page faults have no place in a measurement, and
        // missing hugepages must be an error here, not a SIGBUS later.
        Backing::Shared | Backing::Sealed | Backing::SharedHuge => {
            libc::MAP_SHARED | libc::MAP_POPULATE
        }
    };
    let mapped = file.try_clone().map_err(|e| fail("duplicate its fd", e))?;
    let region = MmapRegionBuilder::new(size as usize)
        .with_file_offset(FileOffset::new(mapped, 0))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(share)
        .build()
        .map_err(|error| fail("mmap", std::io::Error::other(error)))?;
    let region = GuestRegionMmap::new(region, GuestAddress(spec.gpa))
        .ok_or_else(|| Error::Layout(format!("region at {:#x} overflows", spec.gpa)))?;
    Ok((region, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn two_regions() -> GuestMemory {
        let region = |gpa| RegionSpec {
            gpa,
            size: 0x2000,
            backing: Backing::Shared,
        };
        GuestMemory::new(&[region(0), region(0x2000), region(0x10000)]).unwrap()
    }

    #[test]
    fn what_the_driver_writes_is_in_the_file_the_backend_maps() {
        let memory = two_regions();
        memory.write(0x2010, 0x1122_3344_u32);
        let mut bytes = [0; 4];
        memory.file(1).read_exact_at(&mut bytes, 0x10).unwrap();
        assert_eq!(bytes, 0x1122_3344_u32.to_le_bytes());
    }

    #[test]
    fn private_memory_does_not_reach_the_file() {
        let memory = GuestMemory::single(0x1000, Backing::Private).unwrap();
        memory.write(0, 0xffff_ffff_u32);
        let mut bytes = [1; 4];
        memory.file(0).read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 4]);
    }

    #[test]
    fn bytes_cross_regions_that_touch_but_not_holes() {
        let memory = two_regions();
        memory.write_bytes(0x1ffe, &[1, 2, 3, 4]);
        assert_eq!(memory.read_bytes(0x1ffe, 4), [1, 2, 3, 4]);
        assert!(memory.contains(0x1ffe, 4));
        assert!(!memory.contains(0x3ffe, 4));
        assert!(!memory.contains(0xffff, 2));
        assert_eq!(memory.end(), 0x12000);
    }

    #[test]
    fn region_infos_name_address_size_and_user_address() {
        let memory = two_regions();
        let infos = memory.region_infos();
        assert_eq!(infos.len(), 3);
        assert_eq!(infos[2].guest_phys_addr, 0x10000);
        assert_eq!(infos[2].memory_size, 0x2000);
        assert_eq!(infos[2].userspace_addr + 8, memory.user_addr(0x10008));
    }

    #[test]
    #[should_panic(expected = "0x5000")]
    fn access_outside_names_the_address() {
        two_regions().read::<u8>(0x5000);
    }
}
