//! Poll-mode cores, and who else is on them.

use super::{Facts, Found};

/// A poll-mode core on which another poll-mode thread or a guest's CPU runs.
pub fn shared(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    for core in &facts.cores {
        let cpu = core.cpu;
        // Whoever may run elsewhere as well is moved by the scheduler, except
        // a guest's CPU, which then still comes here at times.
        let on_it = facts.polling.iter().filter(|thread| {
            let guest = thread.thread.starts_with("CPU ");
            thread.cpus.contains(&cpu) && (guest || thread.cpus.len() == 1)
        });
        for thread in on_it {
            let (process, pid, tid) = (&thread.process, thread.pid, thread.tid);
            let what = format!(
                "poll-mode core {cpu} is shared with thread {:?} of {process} (process {pid})",
                thread.thread
            );
            let why = "each takes the core from the other for milliseconds at a time: packets \
                       wait and are lost. Give one of them other CPUs";
            let others = facts.free_cpus();
            let remedy = match others.is_empty() {
                true => Vec::new(),
                false => vec![format!("taskset -cp {others} {tid}")],
            };
            found.push(Found::warning("host", what, why).mended_by(remedy));
        }
    }
    found
}
