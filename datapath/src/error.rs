//! Why the datapath refuses something.

/// Why the datapath refused something. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A bridge or port of that name is there already.
    #[error("{object} {name} exists already")]
    Exists {
        /// `bridge` or `port`.
        object: &'static str,
        /// Its name.
        name: String,
    },
    /// No bridge or port of that name.
    #[error("no {object} named {name}")]
    NotFound {
        /// `bridge` or `port`.
        object: &'static str,
        /// The name looked for.
        name: String,
    },
    /// An option has no possible meaning.
    #[error("port {port}: {why}")]
    BadOption {
        /// The port's name.
        port: String,
        /// Which option, what is wrong with it, what is allowed.
        why: String,
    },
    /// The system refused something that may work later (a device that is
    /// missing, a path in use).
    #[error("port {port}: {why}")]
    Unavailable {
        /// The port's name.
        port: String,
        /// What happened and what to do about it.
        why: String,
    },
    /// The change cannot be made to a running port.
    #[error(
        "port {port}: {what} cannot be changed while it runs; remove the port and add it again"
    )]
    NotLive {
        /// The port's name.
        port: String,
        /// Which option.
        what: &'static str,
    },
    /// No memory for a bridge's tables.
    #[error("bridge {bridge}: {why}; give ringwayd more with --memory, or learn fewer stations")]
    NoMemory {
        /// The bridge's name.
        bridge: String,
        /// What happened.
        why: String,
    },
    /// The flow caches can tell no more bridges apart.
    #[error(
        "bridge {bridge}: there are {} bridges already, which is the most",
        crate::cache::BRIDGES
    )]
    TooManyBridges {
        /// The bridge's name.
        bridge: String,
    },
    /// A packet cannot be sent or traced.
    #[error("{0}")]
    BadPacket(String),
    /// The datapath could not start.
    #[error("the datapath could not start: {0}")]
    Start(String),
}

impl DatapathError {
    /// The object is there already.
    pub(crate) fn exists(object: &'static str, name: &str) -> Self {
        Self::Exists {
            object,
            name: name.to_owned(),
        }
    }

    /// The object is not there.
    pub(crate) fn not_found(object: &'static str, name: &str) -> Self {
        Self::NotFound {
            object,
            name: name.to_owned(),
        }
    }
}
