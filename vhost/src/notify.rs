//! Notifications that end.
//!
//! A guest is notified by a write to its call eventfd. That is non-blocking, but
//! the flag belongs to the open file, which the frontend has too: it can take
//! the flag away and fill the counter, and the write would wait until somebody
//! reads it. A poll-mode core that waits there serves nobody.
//!
//! So every thread notes when it begins and ends such a write, and a watch looks
//! every [`ROUND`] for a thread that is still in the same one. It gets a signal,
//! whose handler does nothing, but which ends the wait: the write fails with
//! `EINTR`, which it never does without having waited. Whoever gets that knows
//! that the frontend did it on purpose.
//!
//! ```text
//! poll-mode core                        watch
//! writes odd number  ("in the n-th")
//! write(call, 1) …waits                 sees an odd number
//!                                       … and the same one a round later: tgkill
//! EINTR
//! writes even number
//! ```
//!
//! A signal that comes late interrupts something else, which can bear it (an
//! epoll wait ends early); one that comes before the thread waits is followed by
//! another one a round later. Cost of a write: two plain stores.

#![allow(unsafe_code)]
// UNSAFETY: a signal handler that does nothing, and a signal to a thread of ours.

use std::ffi::c_int;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use crate::cpus::keep_to;

/// How often the watch looks; a write that waits ends after two of them.
const ROUND: Duration = Duration::from_millis(10);

/// Most threads that can be in a write: poll-mode cores, and threads of the
/// control plane that send packets.
const WRITERS: usize = 1024;

/// The notification did not go through: its eventfd is full and blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked;

/// A thread that notifies. Written by it, read by the watch.
#[repr(align(64))]
struct Writer {
    /// Its id in the kernel; 0: free.
    thread: AtomicI32,
    /// Odd while it is in a write.
    writes: AtomicU64,
}

static TABLE: [Writer; WRITERS] = [const {
    Writer {
        thread: AtomicI32::new(0),
        writes: AtomicU64::new(0),
    }
}; WRITERS];

/// A thread's place in the table, given back when it ends.
struct Place(Option<&'static Writer>);

thread_local! {
    static PLACE: Place = Place::take();
}

impl Place {
    fn take() -> Self {
        let thread = nix::unistd::gettid().as_raw();
        let relaxed = Ordering::Relaxed;
        let free = |writer: &&Writer| {
            let taken = (writer.thread).compare_exchange(0, thread, relaxed, relaxed);
            taken.is_ok()
        };
        Self(TABLE.iter().find(free))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(writer) = self.0 {
            writer.thread.store(0, Ordering::Relaxed);
        }
    }
}

/// Adds 1 to a guest's call eventfd.
pub fn signal(call: &OwnedFd) -> Result<(), Blocked> {
    let write = || nix::unistd::write(call, &1u64.to_ne_bytes());
    let written = PLACE.try_with(|place| {
        // With no place nobody would end the wait: better no notification.
        let writer = place.0?;
        let writes = writer.writes.load(Ordering::Relaxed);
        writer.writes.store(writes + 1, Ordering::Relaxed);
        let written = write();
        writer.writes.store(writes + 2, Ordering::Relaxed);
        Some(written)
    });
    match written {
        Ok(Some(Err(Errno::EINTR))) => Err(Blocked),
        // An eventfd that is full holds a notification already; nothing else can
        // go wrong with it that the frontend would not notice.
        _ => Ok(()),
    }
}

/// Starts the watch, once for the process, on these CPUs (empty: all).
pub fn watch(cpus: &[usize]) -> io::Result<()> {
    static STARTED: OnceLock<Result<(), i32>> = OnceLock::new();
    let started =
        STARTED.get_or_init(|| start(cpus).map_err(|error| error.raw_os_error().unwrap_or(0)));
    started.map_err(io::Error::from_raw_os_error)
}

/// The signal that ends a wait.
fn interruption() -> c_int {
    libc::SIGRTMIN() + 4
}

extern "C" fn do_nothing(_: c_int) {}

fn start(cpus: &[usize]) -> io::Result<()> {
    let handler: extern "C" fn(c_int) = do_nothing;
    // SAFETY: zeroes are an empty mask and no flags, so interrupted calls are
    // not begun anew (no SA_RESTART); the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        if libc::sigaction(interruption(), &action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let cpus = cpus.to_vec();
    thread::Builder::new()
        .name("vhost-watch".to_owned())
        .spawn(move || {
            keep_to(nix::unistd::gettid(), &cpus);
            let mut seen = vec![0; WRITERS];
            loop {
                thread::sleep(ROUND);
                look(&mut seen);
            }
        })
        .map(drop)
}

/// Interrupts the threads that are where they were at the last look.
fn look(seen: &mut [u64]) {
    for (writer, seen) in TABLE.iter().zip(seen) {
        let thread = writer.thread.load(Ordering::Relaxed);
        if thread == 0 {
            continue;
        }
        let writes = writer.writes.load(Ordering::Relaxed);
        if writes % 2 == 1 && writes == *seen {
            // SAFETY: a plain system call. If the thread has ended meanwhile it
            // fails, or another thread of ours is interrupted for nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, interruption()) };
        }
        *seen = writes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::eventfd::{EfdFlags, EventFd};
    use std::time::Instant;

    fn eventfd() -> (EventFd, OwnedFd) {
        let eventfd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let call = nix::unistd::dup(&eventfd).unwrap();
        (eventfd, call)
    }

    #[test]
    fn a_full_blocking_eventfd_holds_nobody() {
        watch(&[]).unwrap();
        let (theirs, call) = eventfd();
        theirs.write(u64::MAX - 1).unwrap();
        // Full, but as it was given to us: a notification waits there already.
        assert_eq!(signal(&call), Ok(()));
        fcntl(&theirs, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let begin = Instant::now();
        for _ in 0..3 {
            assert_eq!(signal(&call), Err(Blocked));
        }
        assert!(begin.elapsed() < Duration::from_secs(30));
        // It is read after all.
        theirs.read().unwrap();
        assert_eq!(signal(&call), Ok(()));
        assert_eq!(theirs.read(), Ok(1));
    }

    #[test]
    fn who_ends_gives_its_place_back() {
        for _ in 0..WRITERS + 10 {
            let (theirs, call) = eventfd();
            let told = thread::spawn(move || signal(&call)).join().unwrap();
            assert_eq!(told, Ok(()));
            // Only who has a place writes.
            assert_eq!(theirs.read(), Ok(1));
        }
    }
}
