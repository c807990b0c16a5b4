//! Memory that its owner takes away: SIGBUS.
//!
//! A frontend may truncate the file behind its guest's memory while we have it
//! mapped, or the hugepages behind it may run out: the next access is SIGBUS
//! for whoever makes it, a poll-mode core or a session's thread. It must cost
//! that frontend's port and nothing else.
//!
//! So every mapping of guest memory is entered in a table. The handler looks
//! for the faulting address there, marks the device as lost, puts zeroed memory
//! of our own in the place of what is gone, and returns: the access is made
//! again and succeeds. Whoever read from such memory finds the mark before it
//! passes anything on. A fault anywhere else gets what it would have got
//! without us.
//!
//! # Why the handler may read the table
//!
//! It runs on the faulting thread, in the midst of anything, also of an
//! allocation or with any lock held: so it takes no lock, allocates nothing and
//! follows no pointer that could be gone.
//!
//! * A thread that touches guest memory holds an `Arc` of it. The mapping, its
//!   entry and the device's mark therefore outlive the fault, and nobody
//!   changes that entry meanwhile. [`Registered`] is dropped *before* the
//!   mapping (`munmap`): no address is in the table that might be another's.
//! * Other entries may come and go on other threads while the handler looks.
//!   Each has a version that is odd during a change; an entry that changes
//!   under the look is passed over, for it cannot be ours. Thus start and end of
//!   two different mappings are never taken for one.
//! * Several threads may fault in the same mapping at once. Each replaces what it
//!   found missing; the second one replaces zeroes by zeroes. What we wrote
//!   there in between is gone, and nobody was to have it.
//! * The mark is set before the memory is replaced, and `mmap` replaces it at
//!   once as far as other threads' accesses can tell. So who read a zero that
//!   was put there, and looks at the mark afterwards, sees it.
//! * Truncation has already taken away what lies behind the fault, so all of
//!   that is replaced at once: the number of mappings stays small whatever
//!   order an attacker makes us touch them in.
//!
//! One gap is left. While DPDK maps more hugepages than it has (a new table or
//! device beyond what was reserved at start) it has SIGBUS to itself, for some
//! microseconds for each page.

#![allow(unsafe_code)]
// UNSAFETY: a signal handler, and memory mapped over memory registered here.

use std::ffi::{c_int, c_void};
use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::ring::DeviceFault;

/// Most mappings of guest memory in the process; 40 bytes each, touched when
/// first used.
const SLOTS: usize = 1 << 16;

/// Most bytes of guest memory mapped at a time. A process has 128 TiB of
/// addresses, and a sparse file of that size costs its owner nothing.
const MAX_BYTES: usize = 64 << 40;

/// Memory is replaced from a multiple of this on, so that faults that come from
/// behind to the front are few.
const STEP: usize = 2 << 20;

/// One mapping. Written by whoever maps and unmaps, under [`FREE`]'s lock; read
/// by the handler.
struct Slot {
    /// Odd while the others change.
    version: AtomicU32,
    /// First address; equal to `end` in a free slot.
    start: AtomicUsize,
    end: AtomicUsize,
    /// Page size of the file behind it.
    page: AtomicUsize,
    /// The device whose memory it is; kept alive by the [`Registered`].
    fault: AtomicPtr<DeviceFault>,
}

impl Slot {
    const fn free() -> Self {
        Self {
            version: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            fault: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Under the lock.
    fn set(&self, range: Range<usize>, page: usize, fault: *mut DeviceFault) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.fault.store(fault, Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// The mapping, if `address` is in it. Safe in the handler.
    fn find(&self, address: usize) -> Option<Mapping> {
        let version = self.version.load(Ordering::Acquire);
        let found = Mapping {
            range: self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed),
            page: self.page.load(Ordering::Relaxed),
            fault: self.fault.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        let at_rest = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        (at_rest && found.range.contains(&address)).then_some(found)
    }
}

/// What the handler needs to know of a mapping.
struct Mapping {
    range: Range<usize>,
    page: usize,
    fault: *const DeviceFault,
}

static TABLE: [Slot; SLOTS] = [const { Slot::free() }; SLOTS];

/// Slots from here on were never used.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

/// Which slots are free, and what is mapped; not for the handler.
static FREE: Mutex<Free> = Mutex::new(Free {
    slots: Vec::new(),
    bytes: 0,
});

struct Free {
    /// Below [`HIGHEST`].
    slots: Vec<usize>,
    /// Bytes mapped by all that is registered.
    bytes: usize,
}

/// A mapping that is watched over. To be dropped before it is unmapped.
pub struct Registered {
    slot: usize,
    bytes: usize,
    /// The handler follows a pointer to it.
    _fault: Arc<DeviceFault>,
}

impl Registered {
    /// Watches over a mapping of a file with pages of `page` bytes (a power of
    /// two that `range` is aligned to).
    pub fn new(range: Range<usize>, page: usize, fault: &Arc<DeviceFault>) -> io::Result<Self> {
        install()?;
        let full = |what: String| Err(io::Error::new(io::ErrorKind::OutOfMemory, what));
        let bytes = range.len();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > MAX_BYTES - free.bytes {
            return full(format!(
                "all guests' memory together would be more than {} TiB",
                MAX_BYTES >> 40
            ));
        }
        let unused = HIGHEST.load(Ordering::Relaxed);
        let slot = match free.slots.pop() {
            Some(slot) => slot,
            None if unused < SLOTS => unused,
            None => {
                return full(format!(
                    "all guests together would have more than {SLOTS} memory regions"
                ));
            }
        };
        free.bytes += bytes;
        TABLE[slot].set(range, page, Arc::as_ptr(fault).cast_mut());
        HIGHEST.store(unused.max(slot + 1), Ordering::Release);
        Ok(Self {
            slot,
            bytes,
            _fault: Arc::clone(fault),
        })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        TABLE[self.slot].set(0..0, 0, ptr::null_mut());
        free.slots.push(self.slot);
        free.bytes -= self.bytes;
    }
}

/// What SIGBUS did before us: Rust's own handler tells stack overflows.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Takes SIGBUS over, once for the process.
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: zeroes are an empty mask, no flags and no function in
        // sigaction, and a valid place to write the old one to.
        let (mut action, mut before): (libc::sigaction, libc::sigaction) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: both structures are valid, and the handler does only what a
        // signal handler may.
        if unsafe { libc::sigaction(libc::SIGBUS, &action, &mut before) } != 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        // Until it is stored here a foreign fault ends the process without a word.
        BEFORE.store(Box::leak(Box::new(before)), Ordering::Release);
        Ok(())
    });
    installed.map_err(io::Error::from_raw_os_error)
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the thread's own errno, to be left as it was.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel gives a valid siginfo; for faults it has an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // By a page that is not there, or one that the machine has lost.
    let is_access = matches!(
        code,
        libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR
    );
    if !is_access || !replace(address) {
        give_back(signal, is_access);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Puts memory of our own where guest memory is missing. False: it is not
/// guest memory.
fn replace(address: usize) -> bool {
    let highest = HIGHEST.load(Ordering::Acquire).min(SLOTS);
    let Some(found) = TABLE[..highest].iter().find_map(|slot| slot.find(address)) else {
        return false;
    };
    // SAFETY: the thread that faulted holds the memory, whose registration
    // holds the mark (see the module's text).
    unsafe { (*found.fault).lose_memory() };
    let Range { start, end } = found.range;
    let step = found.page.max(STEP);
    let from = (address & !(step - 1)).max(start);
    // A process that has as many mappings as it may have can replace one whole.
    map_zeroes(from..end) || map_zeroes(start..end)
}

fn map_zeroes(range: Range<usize>) -> bool {
    // SAFETY: the range lies in one mapping of guest memory, which is only
    // accessed by raw pointers that may see any bytes; its ends are aligned to
    // its pages. mmap is a plain system call.
    let mapped = unsafe {
        libc::mmap(
            range.start as *mut c_void,
            range.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

/// Not ours. An access is made again when we return, and what was there before
/// us shall have it; a signal that somebody sent ends the process.
fn give_back(signal: c_int, is_access: bool) {
    let before = BEFORE.load(Ordering::Acquire).cast_const();
    // SAFETY: zeroes are the default action; `before` was leaked, so it lives
    // for ever; sigaction and raise may be called in a handler.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        let action = before.as_ref().filter(|_| is_access).unwrap_or(&default);
        libc::sigaction(signal, action, ptr::null_mut());
        if !is_access {
            libc::raise(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{GuestMemory, RegionSpec};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::fs::File;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::atomic::AtomicBool;

    fn memfd(size: u64, flags: MFdFlags) -> Option<File> {
        let file = File::from(memfd_create(c"guest", flags).ok()?);
        file.set_len(size).unwrap();
        Some(file)
    }

    fn map(file: &File, size: u64) -> GuestMemory {
        let spec = RegionSpec {
            gpa: 0,
            size,
            user_addr: 0x1000,
            file_offset: 0,
        };
        GuestMemory::map(vec![(spec, file.try_clone().unwrap())]).unwrap()
    }

    fn memory(size: u64) -> (File, GuestMemory) {
        let file = memfd(size, MFdFlags::empty()).unwrap();
        let memory = map(&file, size);
        (file, memory)
    }

    fn read(memory: &GuestMemory, gpa: u64) -> u8 {
        let byte = memory.translate(gpa, 1).unwrap();
        // SAFETY: one mapped byte.
        unsafe { byte.read_volatile() }
    }

    fn write(memory: &GuestMemory, gpa: u64, value: u8) {
        let byte = memory.translate(gpa, 1).unwrap();
        // SAFETY: one mapped byte.
        unsafe { byte.write_volatile(value) }
    }

    #[test]
    fn truncated_memory_reads_as_zeroes_and_is_marked() {
        let (file, memory) = memory(16 << 20);
        let (_, other) = self::memory(1 << 20);
        for gpa in [0, 5 << 20, 9 << 20, (16 << 20) - 1] {
            write(&memory, gpa, 7);
        }
        file.set_len(6 << 20).unwrap();
        assert_eq!(read(&memory, 5 << 20), 7);
        assert!(!memory.fault().has_lost_memory());
        assert_eq!(read(&memory, 9 << 20), 0);
        assert!(memory.fault().has_lost_memory());
        // What lies behind is no fault any more, and takes what is written.
        write(&memory, (16 << 20) - 1, 3);
        assert_eq!(read(&memory, (16 << 20) - 1), 3);
        // Before it, nothing has changed.
        assert_eq!((read(&memory, 0), read(&memory, 5 << 20)), (7, 7));
        file.set_len(0).unwrap();
        write(&memory, 0, 9);
        assert_eq!(read(&memory, 0), 9);
        assert!(!other.fault().has_lost_memory());
    }

    #[test]
    fn hugepages_that_run_out_are_lost_memory() {
        // Of the largest pages there are none on most machines.
        let flags = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB;
        let Some(file) = memfd(2 << 30, flags) else {
            eprintln!("no pages of 1 GiB on this machine");
            return;
        };
        let memory = map(&file, 2 << 30);
        let free = std::fs::read("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages");
        if free.is_ok_and(|free| free.trim_ascii() == b"0") {
            write(&memory, (1 << 30) + 5, 1);
            assert!(memory.fault().has_lost_memory());
            assert_eq!(read(&memory, (1 << 30) + 5), 1);
        }
    }

    #[test]
    fn several_threads_may_fault_at_once_while_others_map_and_unmap() {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let (_, memory) = memory(64 << 10);
                        write(&memory, 0x5000, 1);
                        assert!(!memory.fault().has_lost_memory());
                    }
                });
            }
            for _ in 0..300 {
                let (file, memory) = memory(8 << 20);
                file.set_len(0).unwrap();
                std::thread::scope(|scope| {
                    for start in [0, 1 << 20, 5 << 20] {
                        let memory = &memory;
                        scope.spawn(move || {
                            for page in 0..8 {
                                read(memory, start + page * 4096);
                                assert!(memory.fault().has_lost_memory());
                            }
                        });
                    }
                });
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// Runs one of the tests below alone, to its end by a signal.
    fn ended_by(test: &str) -> Option<i32> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", &format!("sigbus::tests::{test}")]);
        command.output().unwrap().status.signal()
    }

    #[test]
    fn other_faults_end_the_process() {
        assert_eq!(ended_by("fault_elsewhere"), Some(libc::SIGBUS));
        assert_eq!(ended_by("sent_by_somebody"), Some(libc::SIGBUS));
    }

    #[test]
    #[ignore = "ends the process"]
    fn fault_elsewhere() {
        let (_, watched) = memory(4096);
        write(&watched, 0, 1);
        // Once mapped, now nobody's.
        let (file, memory) = memory(4096);
        let byte = memory.translate(0, 1).unwrap();
        drop(memory);
        // SAFETY: a new mapping where the old one was.
        unsafe {
            let again = libc::mmap(
                byte.cast(),
                4096,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
            );
            assert_eq!(again, byte.cast());
            file.set_len(0).unwrap();
            byte.read_volatile();
        }
    }

    #[test]
    #[ignore = "ends the process"]
    fn sent_by_somebody() {
        let (_, memory) = memory(4096);
        write(&memory, 0, 1);
        nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGBUS).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(10));
    }
}
