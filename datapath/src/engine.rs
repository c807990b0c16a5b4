//! The handle that the control plane holds.

use crate::spec::{BridgeSpec, DatapathConfig, PortSpec};
use crate::status::{BridgeStatus, DatapathInfo, FdbEntry, PmdStatus, PortStatus};

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
    /// The datapath could not start.
    #[error("the datapath could not start: {0}")]
    Start(String),
}

/// The running datapath. Calls return once every PMD works by the new state.
pub struct Datapath {}

impl Datapath {
    /// Starts the PMDs.
    pub fn start(_config: DatapathConfig) -> Result<Self, DatapathError> {
        Ok(Self {})
    }
    /// Facts that do not change.
    pub fn info(&self) -> DatapathInfo {
        DatapathInfo {
            memory: crate::status::MemoryKind::Ordinary(String::new()),
            tsc_hz: 1,
            dpdk_version: String::new(),
        }
    }
    /// Adds a bridge.
    pub fn add_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        Err(DatapathError::Exists {
            object: "bridge",
            name: spec.name,
        })
    }
    /// Changes a bridge's options in place.
    pub fn set_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        Err(DatapathError::NotFound {
            object: "bridge",
            name: spec.name,
        })
    }
    /// Removes a bridge and its ports.
    pub fn del_bridge(&self, name: &str) -> Result<(), DatapathError> {
        Err(DatapathError::NotFound {
            object: "bridge",
            name: name.into(),
        })
    }
    /// Adds a port. Returns its number once all PMDs know it; a vhost-user port then waits for its peer.
    pub fn add_port(&self, spec: PortSpec) -> Result<u32, DatapathError> {
        Err(DatapathError::Exists {
            object: "port",
            name: spec.name,
        })
    }
    /// Removes a port once no PMD uses it; its socket file is removed.
    pub fn del_port(&self, name: &str) -> Result<(), DatapathError> {
        Err(DatapathError::NotFound {
            object: "port",
            name: name.into(),
        })
    }
    /// All bridges.
    pub fn bridges(&self) -> Vec<BridgeStatus> {
        Vec::new()
    }
    /// All ports, by number.
    pub fn ports(&self) -> Vec<PortStatus> {
        Vec::new()
    }
    /// All PMDs.
    pub fn pmds(&self) -> Vec<PmdStatus> {
        Vec::new()
    }
    /// A bridge's learned stations.
    pub fn fdb(&self, bridge: &str) -> Result<Vec<FdbEntry>, DatapathError> {
        Err(DatapathError::NotFound {
            object: "bridge",
            name: bridge.into(),
        })
    }
    /// Forgets a bridge's stations; returns how many.
    pub fn fdb_flush(&self, bridge: &str) -> Result<usize, DatapathError> {
        Err(DatapathError::NotFound {
            object: "bridge",
            name: bridge.into(),
        })
    }
    /// Stops every ring and PMD and removes the sockets.
    pub fn stop(&self) {}
}
