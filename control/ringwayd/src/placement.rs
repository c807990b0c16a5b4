//! Keeps the control plane off the PMD cores: a PMD that shares its CPU with
//! another thread loses milliseconds at a time to it.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Takes this thread, and all that it will start, off `pmd_cores`, unless no
/// other CPU is left.
pub fn stay_off(pmd_cores: &[usize]) {
    let this_thread = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this_thread) else {
        return;
    };
    let Some(rest) = without(&allowed, pmd_cores) else {
        tracing::warn!(
            "every CPU is a PMD core: the control plane shares one and will delay packets; \
             leave a CPU out of --pmd-cores"
        );
        return;
    };
    if let Err(error) = sched_setaffinity(this_thread, &rest) {
        tracing::warn!(%error, "the control plane could not be kept off the PMD cores");
    }
}

/// `allowed` without `taken`; `None` if nothing is left.
fn without(allowed: &CpuSet, taken: &[usize]) -> Option<CpuSet> {
    let mut rest = CpuSet::new();
    let mut left = false;
    for cpu in 0..CpuSet::count() {
        if allowed.is_set(cpu).unwrap_or(false) && !taken.contains(&cpu) {
            // `cpu` is below the set's size, so this cannot fail.
            left |= rest.set(cpu).is_ok();
        }
    }
    left.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu).expect("a CPU"));
        set
    }

    #[test]
    fn takes_the_pmd_cores_out_and_leaves_something() {
        assert_eq!(without(&set(&[0, 1, 5]), &[1, 2]), Some(set(&[0, 5])));
        assert_eq!(without(&set(&[1]), &[1]), None);
    }
}
