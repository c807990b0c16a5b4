//! What a `ringwayd --hold-fds` has started.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The daemons that the holder has started; killed when this is dropped, which
/// must be before the holder ends.
pub struct Children(u32);

impl Children {
    /// Of the holder with this process id.
    pub fn of(holder: u32) -> Self {
        Self(holder)
    }

    /// Those that live.
    pub fn now(&self) -> Vec<Pid> {
        let path = format!("/proc/{0}/task/{0}/children", self.0);
        let text = fs::read_to_string(path).unwrap_or_default();
        let pids = text.split_whitespace();
        pids.filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
            .filter(|pid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                !stat.contains(") Z ")
            })
            .collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for pid in self.now() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
