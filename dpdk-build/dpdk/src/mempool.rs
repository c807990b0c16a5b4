//! Pools of packet buffers.

// UNSAFETY: owns an rte_mempool.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::mbuf::MbufBurst;
use crate::{Eal, Errno, log};

/// Why a pool could not be created.
#[derive(Debug, Error)]
pub enum MempoolError {
    /// Numbers that no pool can have.
    #[error("mempool `{name}` cannot be created: {why}")]
    Shape {
        /// The pool's name.
        name: String,
        /// Which number, and what it may be.
        why: String,
    },
    /// DPDK could not create it.
    #[error(
        "mempool `{name}` of {count} buffers with {data_room_bytes} bytes each was not to be had: \
         {errno}; DPDK may take {limit_mib} MiB in all (ringwayd: raise --memory). DPDK says: {log}"
    )]
    Refused {
        /// The pool's name.
        name: String,
        /// Buffers asked for.
        count: u32,
        /// Bytes per buffer asked for.
        data_room_bytes: u16,
        /// DPDK's error number.
        errno: Errno,
        /// The limit given to `Eal::init`.
        limit_mib: u32,
        /// What DPDK logged.
        log: String,
    },
}

/// The pool itself, freed when this is dropped.
#[derive(Debug)]
struct RawPool(NonNull<dpdk_sys::rte_mempool>);

// SAFETY: DPDK's pools may be used from any thread.
unsafe impl Send for RawPool {}
// SAFETY: as above; getting and putting buffers is synchronised by the pool.
unsafe impl Sync for RawPool {}

impl RawPool {
    fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as self.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.0.as_ptr()) }
    }
}

impl Drop for RawPool {
    fn drop(&mut self) {
        // SAFETY: created by us, freed once, and only with all its buffers
        // back (`reap`).
        unsafe { dpdk_sys::rte_mempool_free(self.0.as_ptr()) };
    }
}

#[derive(Debug)]
struct Inner {
    /// Taken out only by drop.
    pool: Option<RawPool>,
    name: String,
    count: u32,
    data_room: usize,
    memory_bytes: usize,
}

/// A pool of equal packet buffers. Cheap to clone; any thread may use it.
///
/// When its last handle goes, packets of it may still be somewhere (in a burst,
/// in a port's queue): the memory stays until they are back, and is freed when
/// a pool is next created or dropped.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Inner>);

/// A pool without handles, waiting for the last of its buffers.
struct Retired {
    pool: RawPool,
    count: u32,
    full_since: Option<Instant>,
}

static RETIRED: Mutex<Vec<Retired>> = Mutex::new(Vec::new());
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// A thread counts a buffer as back just before it writes it into its cache
/// (rte_mempool_do_generic_put); this long after the count is full, it has.
const GRACE: Duration = Duration::from_millis(100);

/// Frees the retired pools whose buffers are all back. Says how many wait on.
fn reap() -> usize {
    let mut retired = RETIRED.lock().unwrap_or_else(PoisonError::into_inner);
    retired.retain_mut(|waiting| {
        if waiting.pool.available() < waiting.count {
            waiting.full_since = None;
            return true;
        }
        let since = *waiting.full_since.get_or_insert_with(Instant::now);
        since.elapsed() < GRACE
    });
    retired.len()
}

impl Mempool {
    /// Creates a pool of `count` buffers.
    ///
    /// `data_room_bytes` is what one buffer holds of a packet; DPDK's headroom
    /// of 128 bytes comes on top. Frames over it need a chain of buffers:
    /// devices make them by themselves on receive where they can, and
    /// [`MbufBurst::extend_chain`] does on transmit.
    /// `cache` (0 to 512, at most count / 1.5) is how many buffers each
    /// registered thread keeps for itself. `name` is for people; two pools may
    /// have the same.
    pub fn create(
        eal: &Eal,
        name: &str,
        count: u32,
        data_room_bytes: u16,
        cache: u32,
    ) -> Result<Mempool, MempoolError> {
        let waiting = reap();
        let shape = |why: String| MempoolError::Shape {
            name: name.to_owned(),
            why,
        };
        if count == 0 {
            return Err(shape("it must have at least one buffer".to_owned()));
        }
        if cache > dpdk_sys::RW_MEMPOOL_CACHE_MAX || u64::from(cache) * 3 > u64::from(count) * 2 {
            return Err(shape(format!(
                "a cache of {cache} is more than {} or than {count} buffers allow ({})",
                dpdk_sys::RW_MEMPOOL_CACHE_MAX,
                u64::from(count) * 2 / 3
            )));
        }
        let headroom = dpdk_sys::RW_HEADROOM as u16;
        let room = match data_room_bytes.checked_add(headroom) {
            Some(room) if data_room_bytes > 0 => room,
            _ => {
                return Err(shape(format!(
                    "a buffer holds 1 to {} bytes, not {data_room_bytes}",
                    u16::MAX - headroom
                )));
            }
        };
        let refused = |errno, log| MempoolError::Refused {
            name: name.to_owned(),
            count,
            data_room_bytes,
            errno,
            limit_mib: eal.memory_mib(),
            log,
        };
        // A name of our own: a retired pool may still have the last one's.
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let c_name = CString::new(format!("ringway_{sequence}"))
            .map_err(|_| refused(Errno::from_raw(libc::EINVAL), String::new()))?;
        let mark = log::mark();
        // SAFETY: EAL runs, the name is a C string, the numbers were checked.
        let create = || unsafe { dpdk_sys::rw_mempool_create(c_name.as_ptr(), count, cache, room) };
        let mut pool = create();
        if pool.is_null() && waiting > 0 {
            // A pool dropped a moment ago may hold the memory still.
            std::thread::sleep(GRACE);
            reap();
            pool = create();
        }
        let Some(pool) = NonNull::new(pool) else {
            return Err(refused(Errno::last(), log::errors_since(mark)));
        };
        // SAFETY: the pool was just created.
        let memory_bytes = unsafe { dpdk_sys::rw_mempool_memory(pool.as_ptr()) };
        Ok(Mempool(Arc::new(Inner {
            pool: Some(RawPool(pool)),
            name: name.to_owned(),
            count,
            data_room: usize::from(data_room_bytes),
            memory_bytes,
        })))
    }

    /// The name given.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Buffers in all.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Buffers to be had now, those in threads' caches included. Walks all
    /// caches: for reports, not for bursts.
    pub fn available(&self) -> u32 {
        self.0.pool.as_ref().map_or(0, RawPool::available)
    }

    /// Buffers that packets hold now. Walks all caches.
    pub fn in_use(&self) -> u32 {
        self.0.count.saturating_sub(self.available())
    }

    /// Bytes of a packet that one buffer holds behind its headroom.
    pub fn data_room(&self) -> usize {
        self.0.data_room
    }

    /// Bytes of DPDK's memory under this pool.
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes
    }

    /// Adds up to `n` empty packets (0 bytes long) at the end of `burst`. Says
    /// how many: fewer when the pool or the burst's room is exhausted.
    #[inline]
    pub fn alloc_burst(&self, burst: &mut MbufBurst, n: usize) -> usize {
        burst.fill(n, self.raw())
    }

    pub(crate) fn raw(&self) -> *mut dpdk_sys::rte_mempool {
        self.0
            .pool
            .as_ref()
            .map_or(std::ptr::null_mut(), |pool| pool.0.as_ptr())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            RETIRED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Retired {
                    pool,
                    count: self.count,
                    full_since: None,
                });
        }
        reap();
    }
}
