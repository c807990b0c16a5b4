//! The filter of system calls: three short programs, of which the strictest
//! answer counts.

#![allow(
    unsafe_code,
    reason = "UNSAFETY: seccomp(2) takes a pointer to a program; no crate passes the flags it needs"
)]

use std::collections::BTreeMap;
use std::io;

use clap::ValueEnum;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter,
};

use super::syscalls::{Rules, allowed, hostile};

/// What happens to system calls that the daemon is not known to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Seccomp {
    /// They fail with EPERM, and hostile ones end the process; both are logged
    /// by the kernel.
    On,
    /// They are made.
    Off,
    /// They are made, and logged by the kernel.
    Log,
}

/// Why system calls cannot be filtered.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The filter could not be made.
    #[error("the system-call filter cannot be made: {0}")]
    Program(#[from] BackendError),
    /// The kernel did not take it.
    #[error("the kernel does not take the system-call filter: {0}; --seccomp off starts without")]
    Kernel(#[from] io::Error),
}

/// Filters the system calls of every thread, also of those that will be
/// started. Cannot be undone.
pub fn filter_system_calls(seccomp: Seccomp) -> Result<(), FilterError> {
    for (program, logs) in programs(seccomp)? {
        install(&program, logs | libc::SECCOMP_FILTER_FLAG_TSYNC)?;
    }
    Ok(())
}

/// The programs, in the order in which they are to be installed (each must let
/// the next one's seccomp(2) pass), and the flag by which a program's errors are
/// logged.
fn programs(seccomp: Seccomp) -> Result<Vec<(BpfProgram, libc::c_ulong)>, BackendError> {
    use SeccompAction::{Allow, Errno, KillProcess, Log};
    const LOGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_LOG;
    let errno = |errno: i32| Errno(errno.unsigned_abs());
    // Its arguments lie in memory, where a filter cannot look: without it glibc
    // takes clone. Of two programs that answer with errors the last one's counts.
    let clone3: Rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    match seccomp {
        Seccomp::Off => Ok(Vec::new()),
        Seccomp::Log => {
            let mut rules = allowed()?;
            rules.insert(libc::SYS_clone3, Vec::new());
            Ok(vec![(program(rules, Allow, Log)?, LOGS)])
        }
        Seccomp::On => {
            let mut rules = allowed()?;
            // Only for the last of these programs; it lets a thread confine
            // itself further, never less.
            rules.insert(libc::SYS_seccomp, Vec::new());
            Ok(vec![
                (program(hostile()?, KillProcess, Allow)?, LOGS),
                (program(rules, Allow, errno(libc::EPERM))?, LOGS),
                // Nothing to be told: every new thread asks for it.
                (program(clone3, errno(libc::ENOSYS), Allow)?, 0),
            ])
        }
    }
}

fn program(
    rules: Rules,
    of_these: SeccompAction,
    of_others: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, of_others, of_these, architecture)?.try_into()
}

/// Gives a program to the kernel, with `flags` of seccomp(2).
fn install(program: &[sock_filter], flags: libc::c_ulong) -> io::Result<()> {
    let description = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // Older kernels would else turn off speculative stores for filtered threads,
    // which poll-mode cores would feel.
    let flags = flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: `description` points to `program`'s instructions, which have the
    // kernel's layout and their own number; the kernel copies and checks them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const description,
        )
    };
    match answer {
        0 => Ok(()),
        thread if thread > 0 => Err(io::Error::other(format!(
            "thread {thread} has a filter of its own"
        ))),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// Filters the calling thread alone: the other tests' threads stay as they are.
    fn confine_this_thread() {
        for (program, logs) in programs(Seccomp::On).unwrap() {
            install(&program, logs).unwrap();
        }
    }

    fn confined<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        // A thread needs this to be let filter itself; other tests do not mind it.
        nix::sys::prctl::set_no_new_privs().unwrap();
        let thread = std::thread::spawn(|| {
            confine_this_thread();
            work()
        });
        thread.join().unwrap()
    }

    #[test]
    fn what_the_daemon_does_passes() {
        confined(|| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("state.toml"), "x").unwrap();
            std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
            let other = std::thread::spawn(|| std::thread::current().id());
            other.join().unwrap();
            let file = std::fs::File::open("/proc/self/status").unwrap();
            assert!(file.as_raw_fd() > 0);
        });
    }

    #[test]
    fn what_it_does_not_do_fails() {
        confined(|| {
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
            let stream = |family| {
                let flags = SockFlag::SOCK_CLOEXEC;
                socket(family, SockType::Stream, flags, None).map(drop)
            };
            let eperm = Err(nix::errno::Errno::EPERM);
            assert_eq!(stream(AddressFamily::Inet), eperm);
            assert_eq!(stream(AddressFamily::Inet6), eperm);
            assert_eq!(stream(AddressFamily::Vsock), eperm);
            assert_eq!(stream(AddressFamily::Unix), Ok(()));
            assert_eq!(nix::unistd::setsid().map(drop), eperm);
            assert_eq!(
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET),
                eperm
            );
            let parent = nix::unistd::getppid();
            assert_eq!(nix::sys::signal::kill(parent, None), eperm);
            // Nor is any process named that has not given its descriptor, and such
            // a one can be ended, but not told anything.
            use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
            assert_eq!(
                pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map(drop),
                Err(rustix::io::Errno::PERM)
            );
            assert_eq!(
                pidfd_send_signal(std::io::stdin(), Signal::TERM),
                Err(rustix::io::Errno::PERM)
            );
            assert_eq!(
                pidfd_send_signal(std::io::stdin(), Signal::KILL),
                Err(rustix::io::Errno::BADF)
            );
            // A child process would be without the filter's later threads, and is never needed.
            let exited = std::thread::spawn(|| {
                // SAFETY: no process is made: the call fails.
                unsafe { libc::syscall(libc::SYS_fork) }
            });
            assert_eq!(exited.join().unwrap(), -1);
            let size = std::num::NonZeroUsize::new(4096).unwrap();
            use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
            let both = ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
            // SAFETY: a fresh mapping, of which there is nothing, for it fails.
            let mapped = unsafe { mmap_anonymous(None, size, both, MapFlags::MAP_PRIVATE) };
            assert_eq!(mapped.map(drop), eperm);
        });
    }

    /// In a process of its own, which is to die.
    #[test]
    fn a_hostile_call_ends_the_process() {
        const PROBE: &str = "RINGWAY_TEST_EXECVE";
        if std::env::var_os(PROBE).is_some() {
            let error = confined(|| {
                let name = std::ffi::CString::new("/bin/true").unwrap();
                nix::unistd::execv(&name, &[&name])
            });
            panic!("still there: {error:?}");
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "confine::filter::tests::a_hostile_call_ends_the_process",
            ])
            .env(PROBE, "1")
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{status:?}");
    }

    #[test]
    fn without_and_with_logging_only_there_is_nothing_to_fail() {
        assert!(programs(Seccomp::Off).unwrap().is_empty());
        nix::sys::prctl::set_no_new_privs().unwrap();
        let thread = std::thread::spawn(|| {
            for (program, logs) in programs(Seccomp::Log).unwrap() {
                install(&program, logs).unwrap();
            }
            nix::sys::signal::kill(nix::unistd::getppid(), None)
        });
        assert_eq!(thread.join().unwrap(), Ok(()));
    }
}
