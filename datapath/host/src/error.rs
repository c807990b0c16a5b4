//! What can go wrong between us and the host's network.

use std::io;

/// A request to the kernel that was not granted. The message says what was
/// asked, of which interface, why it was refused and, where we know it, what to
/// do about it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel takes no such name for an interface.
    #[error(
        "{name:?} cannot be an interface's name ({why}): choose a name of 1 to 15 bytes without '/', ':' and blanks"
    )]
    BadName {
        /// The name as it was given.
        name: String,
        /// Which rule it breaks.
        why: &'static str,
    },

    /// The interface does not exist (any more) in this network namespace.
    #[error("there is no interface {interface} in this network namespace (`ip link` lists them)")]
    NoInterface {
        /// Its name, or "with index 7" where only that is known.
        interface: String,
    },

    /// A tap was asked for and the name belongs to something else.
    #[error(
        "{name} exists and is no tap device but {what}: choose another name, or remove it (`ip link del {name}`)"
    )]
    NotATap {
        /// The interface's name.
        name: String,
        /// What it is: its kind or driver.
        what: String,
    },

    /// A tap of that name exists, and its queues are not as asked.
    #[error(
        "the tap {name} exists with {found}, {wanted} was asked for: remove it (`ip link del {name}`; its addresses and routes go with it), or ask for what it is"
    )]
    TapQueues {
        /// The tap's name.
        name: String,
        /// "a single queue" or "several queues".
        found: &'static str,
        /// Likewise.
        wanted: &'static str,
    },

    /// Another process holds the tap.
    #[error(
        "the tap {name} is held by another process (a virtual machine?): a tap has one owner at a time; end that process, or attach {name} as type=system, which works beside it"
    )]
    TapBusy {
        /// The tap's name.
        name: String,
    },

    /// The tun driver cannot be reached.
    #[error("cannot open /dev/net/tun: {source}; {remedy}")]
    NoTun {
        /// Why.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },

    /// The kernel refused something.
    #[error("cannot {what} {interface}: {source}{}{}", said(.words.as_deref()), then(.remedy.as_deref()))]
    Refused {
        /// What was asked, as a verb: "set the MTU of".
        what: String,
        /// The interface's name, or "the interface with index 7".
        interface: String,
        /// The kernel's answer.
        source: io::Error,
        /// Its own words, where it had any.
        words: Option<String>,
        /// What to do, where we know.
        remedy: Option<String>,
    },

    /// The netlink socket itself failed, or an answer could not be read.
    #[error("cannot {what} through netlink: {source}")]
    Netlink {
        /// What was asked, as a verb: "list the interfaces".
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl HostError {
    /// What the kernel refused to do with an interface. An interface that is not
    /// there, and a lack of privilege, are the same whatever was asked.
    pub(crate) fn refused(
        what: &str,
        interface: &str,
        source: io::Error,
        words: Option<String>,
        remedy: Option<String>,
    ) -> Self {
        let errno = source.raw_os_error();
        if errno == Some(libc::ENODEV) {
            return Self::NoInterface {
                interface: interface.to_owned(),
            };
        }
        let privilege = matches!(errno, Some(libc::EPERM | libc::EACCES))
            .then(|| "it takes root or the capability CAP_NET_ADMIN".to_owned());
        Self::Refused {
            what: what.to_owned(),
            interface: interface.to_owned(),
            source,
            words,
            remedy: privilege.or(remedy),
        }
    }
}

fn said(words: Option<&str>) -> String {
    words.map_or_else(String::new, |words| format!(" (the kernel says: {words})"))
}

fn then(remedy: Option<&str>) -> String {
    remedy.map_or_else(String::new, |remedy| format!("; {remedy}"))
}
