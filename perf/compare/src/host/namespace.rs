//! Network namespaces, made for one switch and removed after it, so that no
//! interface and no address here is ever the machine's own.

use std::fs::{File, read_to_string};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::error::Error;
use crate::process::{command, output};

/// A network namespace. Its interfaces go with it.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; its name carries this process's id and `role`.
    pub fn new(role: &str) -> Result<Self, Error> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (id, nth) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let name = format!("rwcmp-{id}-{nth}-{role}");
        output("ip netns", command("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        // Frames of the measurement only: no IPv6 chatter from its interfaces.
        for which in ["all", "default"] {
            let setting = format!("net.ipv6.conf.{which}.disable_ipv6=1");
            namespace.exec("sysctl", &["sysctl", "-q", "-w", &setting])?;
        }
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file by which it is entered.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip …` in it.
    pub fn ip(&self, words: &[&str]) -> Result<String, Error> {
        output("ip", command("ip").args(["-n", &self.name]).args(words))
    }

    /// Runs a command in it that must succeed; what it printed.
    pub fn exec(&self, name: &'static str, words: &[&str]) -> Result<String, Error> {
        let mut exec = command("ip");
        exec.args(["netns", "exec", &self.name]).args(words);
        output(name, &mut exec)
    }

    /// Calls `action` on a thread that is in it.
    pub fn within<T: Send>(
        &self,
        action: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let enter = || {
            let file = File::open(self.path())?;
            Ok::<_, std::io::Error>(setns(file, CloneFlags::CLONE_NEWNET)?)
        };
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter().map_err(|source| self.error("enter", source))?;
                action()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Frames that an interface in it has received.
    pub fn received(&self, interface: &str) -> Result<u64, Error> {
        let text = self.within(|| {
            read_to_string("/proc/thread-self/net/dev")
                .map_err(|source| self.error("read /proc/thread-self/net/dev", source))
        })?;
        received(&text, interface).ok_or_else(|| self.no_interface(interface))
    }

    /// An error about it.
    pub fn error(&self, what: &'static str, source: std::io::Error) -> Error {
        Error::Namespace {
            name: self.name.clone(),
            what,
            source,
        }
    }

    /// An error about an interface of it.
    pub fn no_interface(&self, interface: &str) -> Error {
        Error::NoInterface {
            namespace: self.name.clone(),
            interface: interface.to_owned(),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = output("ip netns", command("ip").args(["netns", "del", &self.name]));
    }
}

/// Frames received by an interface, of the text of `/proc/net/dev`:
/// `name: bytes packets …`.
fn received(text: &str, interface: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, counters) = lines.find(|(name, _)| name.trim() == interface)?;
    counters.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::received;

    #[test]
    fn frames_of_an_interface() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes\n    \
                    lo: 100 2 0 0 0 0 0 0 100 2 0 0 0 0 0 0\n   \
                    br0: 9000 150 0 3 0 0 0 0 80 1 0 0 0 0 0 0\n";
        assert_eq!(received(text, "br0"), Some(150));
        assert_eq!(received(text, "lo"), Some(2));
        assert_eq!(received(text, "br"), None);
    }
}
