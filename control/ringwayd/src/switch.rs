//! What the control plane needs of a datapath. [`Datapath`] is the one that
//! moves packets; tests put a fake in its place.

use ringway_datapath::spec::{BridgeSpec, PortSpec};
use ringway_datapath::status::{BridgeStatus, DatapathInfo, FdbEntry, PmdStatus, PortStatus};
use ringway_datapath::{Datapath, DatapathError};

/// A datapath. Calls may block for some milliseconds and are made from threads
/// that may block.
pub trait Switch: Send + Sync + 'static {
    /// See [`Datapath::info`].
    fn info(&self) -> DatapathInfo;
    /// See [`Datapath::add_bridge`].
    fn add_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError>;
    /// See [`Datapath::del_bridge`].
    fn del_bridge(&self, name: &str) -> Result<(), DatapathError>;
    /// See [`Datapath::add_port`].
    fn add_port(&self, spec: PortSpec) -> Result<u32, DatapathError>;
    /// See [`Datapath::del_port`].
    fn del_port(&self, name: &str) -> Result<(), DatapathError>;
    /// See [`Datapath::bridges`].
    fn bridges(&self) -> Vec<BridgeStatus>;
    /// See [`Datapath::ports`].
    fn ports(&self) -> Vec<PortStatus>;
    /// See [`Datapath::pmds`].
    fn pmds(&self) -> Vec<PmdStatus>;
    /// See [`Datapath::fdb`].
    fn fdb(&self, bridge: &str) -> Result<Vec<FdbEntry>, DatapathError>;
    /// See [`Datapath::fdb_flush`].
    fn fdb_flush(&self, bridge: &str) -> Result<usize, DatapathError>;
}

impl Switch for Datapath {
    fn info(&self) -> DatapathInfo {
        Datapath::info(self)
    }
    fn add_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        Datapath::add_bridge(self, spec)
    }
    fn del_bridge(&self, name: &str) -> Result<(), DatapathError> {
        Datapath::del_bridge(self, name)
    }
    fn add_port(&self, spec: PortSpec) -> Result<u32, DatapathError> {
        Datapath::add_port(self, spec)
    }
    fn del_port(&self, name: &str) -> Result<(), DatapathError> {
        Datapath::del_port(self, name)
    }
    fn bridges(&self) -> Vec<BridgeStatus> {
        Datapath::bridges(self)
    }
    fn ports(&self) -> Vec<PortStatus> {
        Datapath::ports(self)
    }
    fn pmds(&self) -> Vec<PmdStatus> {
        Datapath::pmds(self)
    }
    fn fdb(&self, bridge: &str) -> Result<Vec<FdbEntry>, DatapathError> {
        Datapath::fdb(self, bridge)
    }
    fn fdb_flush(&self, bridge: &str) -> Result<usize, DatapathError> {
        Datapath::fdb_flush(self, bridge)
    }
}
