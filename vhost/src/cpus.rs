//! Which CPUs a thread may run on. Threads that serve one port stay off those
//! that poll: a frontend that keeps its session's thread busy must not take a
//! core's time.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Lets a thread run on these CPUs only; changes nothing if
/// there are none.
pub fn keep_to(thread: Pid, cpus: &[usize]) {
    if cpus.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    let known = cpus.iter().filter(|cpu| set.set(**cpu).is_ok()).count();
    if known == 0 || sched_setaffinity(thread, &set).is_err() {
        tracing::warn!(?cpus, "a port's thread cannot be kept to these CPUs");
    }
}
