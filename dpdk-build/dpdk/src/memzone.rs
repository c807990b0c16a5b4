//! Named, zeroed, aligned memory out of DPDK's heap (hugepages when there are
//! any): for tables that PMD threads look up in.

// UNSAFETY: owns raw memory of DPDK's heap.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr::NonNull;

use thiserror::Error;

use crate::{Eal, Errno, log};

/// Why memory could not be reserved.
#[derive(Debug, Error)]
pub enum MemzoneError {
    /// The name cannot be used.
    #[error("`{name}` cannot name a memzone: {why}")]
    Name {
        /// The name given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The size or the alignment cannot be used.
    #[error("memzone `{name}`: {bytes} bytes aligned to {align} cannot be reserved: {why}")]
    Shape {
        /// The zone's name.
        name: String,
        /// Size asked for.
        bytes: usize,
        /// Alignment asked for.
        align: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Another zone has this name.
    #[error("a memzone called `{name}` exists already")]
    Exists {
        /// The name given.
        name: String,
    },
    /// DPDK has not that much memory in one piece.
    #[error(
        "memzone `{name}` of {bytes} bytes was not to be had: {errno}; DPDK may take {limit_mib} \
         MiB in all (ringwayd: raise --memory). DPDK says: {log}"
    )]
    Refused {
        /// The zone's name.
        name: String,
        /// Size asked for.
        bytes: usize,
        /// DPDK's error number.
        errno: Errno,
        /// The limit given to `Eal::init`.
        limit_mib: u32,
        /// What DPDK logged.
        log: String,
    },
}

/// Reserved memory, zeroed at first, freed on drop.
#[derive(Debug)]
pub struct Memzone {
    zone: NonNull<dpdk_sys::rte_memzone>,
    address: NonNull<u8>,
    len: usize,
    name: String,
}

// SAFETY: a pointer to memory that no thread owns more than another; freeing
// takes DPDK's own lock.
unsafe impl Send for Memzone {}
// SAFETY: shared access only reads the fields above.
unsafe impl Sync for Memzone {}

impl Memzone {
    /// Reserves `bytes` bytes, aligned to `align` (a power of two; at least a
    /// cache line is given). The name is unique within the process, of 1 to 31
    /// bytes. All bytes are zero.
    pub fn reserve(
        eal: &Eal,
        name: &str,
        bytes: usize,
        align: usize,
    ) -> Result<Memzone, MemzoneError> {
        let bad_name = |why| MemzoneError::Name {
            name: name.to_owned(),
            why,
        };
        let shape = |why| MemzoneError::Shape {
            name: name.to_owned(),
            bytes,
            align,
            why,
        };
        if name.is_empty() {
            return Err(bad_name("it is empty"));
        }
        if name.len() >= dpdk_sys::RW_MEMZONE_NAME_MAX as usize {
            return Err(bad_name("it is longer than 31 bytes"));
        }
        let c_name = CString::new(name).map_err(|_| bad_name("it holds a NUL byte"))?;
        if bytes == 0 {
            // DPDK would give the largest free piece for 0.
            return Err(shape("the size is 0"));
        }
        if !align.is_power_of_two() {
            return Err(shape("the alignment is not a power of two"));
        }
        let align32 = u32::try_from(align).map_err(|_| shape("the alignment is over 2 GiB"))?;

        let mark = log::mark();
        let mut address = std::ptr::null_mut();
        let mut len = 0;
        // SAFETY: EAL runs, the name is a C string, both out parameters are ours.
        let zone = unsafe {
            dpdk_sys::rw_memzone_reserve(c_name.as_ptr(), bytes, align32, &mut address, &mut len)
        };
        let (Some(zone), Some(address)) = (NonNull::new(zone.cast_mut()), NonNull::new(address))
        else {
            let errno = Errno::last();
            if errno.raw() == libc::EEXIST {
                return Err(MemzoneError::Exists {
                    name: name.to_owned(),
                });
            }
            return Err(MemzoneError::Refused {
                name: name.to_owned(),
                bytes,
                errno,
                limit_mib: eal.memory_mib(),
                log: log::errors_since(mark),
            });
        };
        Ok(Memzone {
            zone,
            address,
            len,
            name: name.to_owned(),
        })
    }

    /// The first byte; valid for [`len`](Self::len) bytes until drop.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.address
    }

    /// Bytes reserved: at least what was asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: a zone has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The name it was reserved under.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Memzone {
    fn drop(&mut self) {
        // SAFETY: reserved by us, freed once. It fails only for a pointer that
        // is no memzone.
        unsafe { dpdk_sys::rte_memzone_free(self.zone.as_ptr()) };
    }
}
