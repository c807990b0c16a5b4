//! Which system calls the daemon makes, found by tracing it through the
//! end-to-end tests (and those that other versions of the C library take in their
//! place), and which end it at once.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

/// System calls, each with the rules of which one must hold; none: any call.
pub type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Never made by the daemon, nor by a library that it uses: whoever makes one
/// has taken the daemon over.
const HOSTILE: &[c_long] = &[
    // Other programs, other processes' memory.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    // Another kernel, or more of this one.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    // Ways round the file system's permissions.
    libc::SYS_open_by_handle_at,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    // The machine as a whole.
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Made with whatever arguments.
const ALLOWED: &[c_long] = &[
    // Memory; mappings, see `conditional`.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_memfd_create,
    libc::SYS_mbind,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_move_pages,
    // Files: the state, the journal, hugepages, taps, sysfs, capture files.
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_lseek,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_getdents64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_umask,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_rmdir,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Sockets that are there; new ones, see `conditional`.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // AF_XDP's program and its map of sockets; CAP_BPF bounds it.
    libc::SYS_bpf,
    // Waiting.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_create,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_signalfd4,
    libc::SYS_pipe,
    libc::SYS_pipe2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_pause,
    libc::SYS_restart_syscall,
    // Time, where the vDSO cannot tell it.
    libc::SYS_time,
    libc::SYS_gettimeofday,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    // Threads and signals; new threads, see `conditional`.
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // What and where this is.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_getrusage,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// Calls that end the process.
pub fn hostile() -> Result<Rules, BackendError> {
    let mut rules: Rules = HOSTILE.iter().map(|call| (*call, Vec::new())).collect();
    // Typing into somebody's terminal.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX];
    let typing = typing.map(|request| when(&[(1, Dword, Eq, request)]));
    rules.insert(
        libc::SYS_ioctl,
        typing.into_iter().collect::<Result<_, _>>()?,
    );
    Ok(rules)
}

/// Calls that are made.
pub fn allowed() -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.extend(conditional()?);
    Ok(rules)
}

/// Calls that are made with some arguments only.
fn conditional() -> Result<Rules, BackendError> {
    let number = |value: i32| u64::from(value.unsigned_abs());
    // No code is loaded or made any more.
    let not_executable = || when(&[(2, Dword, MaskedEq(number(libc::PROT_EXEC)), 0)]);
    let family = |family: i32| when(&[(0, Dword, Eq, number(family))]);
    // SOCK_CLOEXEC and SOCK_NONBLOCK lie above the type. Addresses of ours are
    // bound before the filter; connections to elsewhere are never made.
    let datagram = |family: i32| {
        when(&[
            (0, Dword, Eq, number(family)),
            (1, Dword, MaskedEq(0xf), number(libc::SOCK_DGRAM)),
        ])
    };
    let own = |pid: u32| when(&[(0, Dword, Eq, u64::from(pid))]);
    let pid = std::process::id();
    let name_only = [
        libc::PR_SET_NAME,
        libc::PR_GET_NAME,
        PR_SET_VMA,
        libc::PR_GET_DUMPABLE,
    ];
    let prctl = name_only.map(|option| when(&[(0, Dword, Eq, number(option))]));
    let thread = number(libc::CLONE_THREAD);
    Ok([
        (libc::SYS_mmap, vec![not_executable()?]),
        (libc::SYS_mprotect, vec![not_executable()?]),
        (libc::SYS_ioctl, Vec::new()),
        (
            libc::SYS_socket,
            vec![
                family(libc::AF_UNIX)?,
                family(libc::AF_NETLINK)?,
                family(libc::AF_PACKET)?,
                family(libc::AF_XDP)?,
                datagram(libc::AF_INET)?,
                datagram(libc::AF_INET6)?,
            ],
        ),
        (libc::SYS_socketpair, vec![family(libc::AF_UNIX)?]),
        // Threads, no processes. Where clone3 cannot be looked into, glibc takes
        // this one.
        (
            libc::SYS_clone,
            vec![when(&[(0, Qword, MaskedEq(thread), thread)])?],
        ),
        (
            libc::SYS_prctl,
            prctl.into_iter().collect::<Result<_, _>>()?,
        ),
        (libc::SYS_prlimit64, vec![own(0)?, own(pid)?]),
        (libc::SYS_tgkill, vec![own(pid)?]),
        (libc::SYS_kill, vec![own(pid)?]),
        // A daemon that is to take over and hangs must end before this one goes on.
        // It has given a descriptor of itself; none can be made here.
        (
            libc::SYS_pidfd_send_signal,
            vec![when(&[(1, Dword, Eq, number(libc::SIGKILL))])?],
        ),
    ]
    .into())
}

/// `PR_SET_VMA`, by which allocators name their mappings.
const PR_SET_VMA: i32 = 0x5356_4d41;

/// A rule of conditions that all must hold: argument, its length, comparison, value.
fn when(
    conditions: &[(u8, SeccompCmpArgLen, SeccompCmpOp, u64)],
) -> Result<SeccompRule, BackendError> {
    let conditions = conditions
        .iter()
        .map(|(argument, length, comparison, value)| {
            SeccompCondition::new(*argument, length.clone(), comparison.clone(), *value)
        });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}
