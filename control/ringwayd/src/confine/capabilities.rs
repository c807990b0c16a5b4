//! Capabilities: what of root's power the daemon keeps.

use std::fmt;
use std::str::FromStr;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// What ports need, and nothing else does.
const NEEDED: [Capability; 4] = [
    // Interfaces, taps, traffic control.
    Capability::CAP_NET_ADMIN,
    // Packet sockets.
    Capability::CAP_NET_RAW,
    // Hugepages and memory that devices reach, beyond the limit on locked memory.
    Capability::CAP_IPC_LOCK,
    // `owner=` of sockets.
    Capability::CAP_CHOWN,
];

/// What AF_XDP needs beside: libxdp, on which DPDK's driver stands, loads a
/// program that the kernel's verifier has to trust with pointers, and asks for it
/// by number, which is the administrator's alone.
const XDP: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
];

/// What to keep beside what ports need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Whatever the daemon was started with.
    All,
    /// Those that ports need, and these.
    Also(Vec<Capability>),
}

impl Default for Keep {
    fn default() -> Self {
        Keep::Also(Vec::new())
    }
}

/// Why capabilities could not be given up.
#[derive(Debug, thiserror::Error)]
#[error(
    "capabilities cannot be given up ({what}): {error}; --keep-capabilities all starts with all of them"
)]
pub struct CapabilityError {
    what: &'static str,
    error: String,
}

/// Reads `all`, or a list such as `sys_admin,CAP_SYS_RAWIO`, which may be empty;
/// `xdp` stands for what AF_XDP needs.
pub fn keep(text: &str) -> Result<Keep, String> {
    match text {
        "all" => return Ok(Keep::All),
        "" => return Ok(Keep::default()),
        _ => {}
    }
    let named = |name: &str| {
        if name == "xdp" {
            return Ok(XDP.to_vec());
        }
        let upper = name.to_ascii_uppercase();
        let full = match upper.strip_prefix("CAP_") {
            Some(_) => upper,
            None => format!("CAP_{upper}"),
        };
        let capability = Capability::from_str(&full);
        capability
            .map(|capability| vec![capability])
            .map_err(|_| format!("{name:?} is no capability: see capabilities(7), or say all"))
    };
    let lists: Result<Vec<_>, String> = text.split(',').map(named).collect();
    Ok(Keep::Also(lists?.concat()))
}

/// Gives up, in this thread and all that it will start, every capability that is
/// not to be kept, and the way to gain any: from here on no program that is
/// started gets more than its starter has. Returns what is left.
pub fn drop_others(keep: &Keep) -> Result<Left, CapabilityError> {
    let failed = |what| {
        move |error: CapsError| CapabilityError {
            what,
            error: error.to_string(),
        }
    };
    nix::sys::prctl::set_no_new_privs().map_err(|errno| CapabilityError {
        what: "no new privileges",
        error: errno.to_string(),
    })?;
    let have = caps::read(None, CapSet::Permitted).map_err(failed("read"))?;
    let left: CapsHashSet = match keep {
        Keep::All => have,
        Keep::Also(also) => {
            let kept = NEEDED.iter().chain(also);
            kept.filter(|capability| have.contains(capability))
                .copied()
                .collect()
        }
    };
    // Taking out of the bounding set is itself a privilege; without it the
    // permitted set, which nothing can add to any more, is what counts.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed("read"))? {
        for capability in caps::runtime::thread_all_supported().difference(&left) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(failed("bounding set"))?;
        }
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient).map_err(failed("ambient set"))?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(failed("inheritable set"))?;
    caps::set(None, CapSet::Effective, &left).map_err(failed("effective set"))?;
    caps::set(None, CapSet::Permitted, &left).map_err(failed("permitted set"))?;
    let mut names: Vec<Capability> = left.into_iter().collect();
    names.sort_unstable_by_key(Capability::index);
    Ok(Left(names))
}

/// The capabilities that are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left(Vec<Capability>);

impl Left {
    /// Those that some ports need and are not had; `None` if all are.
    pub fn missing(&self) -> Option<Left> {
        let missing = NEEDED
            .iter()
            .filter(|capability| !self.0.contains(capability));
        let missing: Vec<_> = missing.copied().collect();
        (!missing.is_empty()).then_some(Left(missing))
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |capability: &Capability| {
            let name = capability.to_string().to_ascii_lowercase();
            name.trim_start_matches("cap_").to_owned()
        };
        match self.0.as_slice() {
            [] => f.write_str("none"),
            some => f.write_str(&some.iter().map(short).collect::<Vec<_>>().join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_and_without_prefix() {
        let two = vec![Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_RAWIO];
        assert_eq!(keep("sys_admin,CAP_SYS_RAWIO"), Ok(Keep::Also(two)));
        assert_eq!(keep("xdp"), Ok(Keep::Also(XDP.to_vec())));
        assert_eq!(keep("all"), Ok(Keep::All));
        assert_eq!(keep(""), Ok(Keep::default()));
        for bad in ["root", "sys_admin,", "CAP_"] {
            assert!(keep(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_thread_gives_up_all_but_what_is_kept() {
        // Capabilities are each thread's own: the test's other threads keep theirs.
        let thread = std::thread::spawn(|| {
            let had = caps::read(None, CapSet::Permitted).unwrap();
            let left = drop_others(&Keep::Also(vec![Capability::CAP_SYS_NICE])).unwrap();
            let expected: CapsHashSet = NEEDED
                .into_iter()
                .chain([Capability::CAP_SYS_NICE])
                .filter(|capability| had.contains(capability))
                .collect();
            for set in [CapSet::Permitted, CapSet::Effective] {
                assert_eq!(caps::read(None, set).unwrap(), expected);
            }
            for set in [CapSet::Inheritable, CapSet::Ambient] {
                assert!(caps::read(None, set).unwrap().is_empty());
            }
            let raised = caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN);
            assert!(raised.is_err(), "a capability came back");
            // Once more changes nothing.
            assert_eq!(drop_others(&Keep::All).unwrap(), left);
            // A thread started by it has no more.
            let child = std::thread::spawn(|| caps::read(None, CapSet::Permitted).unwrap());
            assert_eq!(child.join().unwrap(), expected);
        });
        thread.join().unwrap();
    }

    #[test]
    fn what_is_left_is_told_in_short() {
        let left = Left(vec![Capability::CAP_NET_ADMIN, Capability::CAP_BPF]);
        assert_eq!(left.to_string(), "net_admin, bpf");
        assert_eq!(
            left.missing().unwrap().to_string(),
            "net_raw, ipc_lock, chown"
        );
        assert_eq!(Left(NEEDED.to_vec()).missing(), None);
        assert_eq!(Left(Vec::new()).to_string(), "none");
    }
}
