//! What the control plane needs of a datapath. [`Datapath`] is the one that
//! moves packets; tests put a fake in its place.

use std::time::Duration;

use ringway_datapath::flows::{
    CacheStatus, ExpiredRule, FlowChangeError, FlowTotals, FlowsChanged, GroupStatus,
    MegaflowStatus, MeterStatus, PacketIn, RuleStatus, TableStatus,
};
use ringway_datapath::spec::{BridgeSpec, PortSpec};
use ringway_datapath::status::{
    BridgeStatus, DatapathInfo, FdbEntry, PmdStatus, PortPlace, PortStatus,
};
use ringway_datapath::{Datapath, DatapathError};
use ringway_flow::action::Action;
use ringway_flow::matching::Match;
use ringway_flow::rule::{Change, FlowSpec};

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
    /// Gives a bridge that is there other options. See [`Datapath::set_bridge`].
    fn set_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError>;
    /// See [`Datapath::set_port`].
    fn set_port(&self, spec: PortSpec) -> Result<(), DatapathError>;
    /// See [`Datapath::bridges`].
    fn bridges(&self) -> Vec<BridgeStatus>;
    /// See [`Datapath::ports`].
    fn ports(&self) -> Vec<PortStatus>;
    /// See [`Datapath::port_places`].
    fn port_places(&self) -> Vec<PortPlace>;
    /// See [`Datapath::links_changed`].
    fn links_changed(&self);
    /// See [`Datapath::port_device_counters`].
    fn device_counters(&self, port: &str) -> Result<Vec<(String, u64)>, DatapathError>;
    /// See [`Datapath::pmds`].
    fn pmds(&self) -> Vec<PmdStatus>;
    /// See [`Datapath::fdb`].
    fn fdb(&self, bridge: &str) -> Result<Vec<FdbEntry>, DatapathError>;
    /// See [`Datapath::fdb_flush`].
    fn fdb_flush(&self, bridge: &str) -> Result<usize, DatapathError>;
    /// See [`Datapath::change_flows`].
    fn change_flows(
        &self,
        bridge: &str,
        changes: &[Change],
        store: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<FlowsChanged, FlowChangeError>;
    /// See [`Datapath::rules`].
    fn rules(&self, bridge: &str, filter: &FlowSpec) -> Result<Vec<RuleStatus>, DatapathError>;
    /// See [`Datapath::flow_totals`].
    fn flow_totals(&self, bridge: &str) -> Result<FlowTotals, DatapathError>;
    /// See [`Datapath::groups`].
    fn groups(&self, bridge: &str) -> Result<Vec<GroupStatus>, DatapathError>;
    /// See [`Datapath::meters`].
    fn meters(&self, bridge: &str) -> Result<Vec<MeterStatus>, DatapathError>;
    /// See [`Datapath::tables`].
    fn tables(&self, bridge: &str) -> Result<Vec<TableStatus>, DatapathError>;
    /// See [`Datapath::expire_flows`].
    fn expire_flows(&self) -> Vec<ExpiredRule>;
    /// See [`Datapath::megaflows`].
    fn megaflows(&self) -> Vec<MegaflowStatus>;
    /// See [`Datapath::flush_megaflows`].
    fn flush_megaflows(&self) -> u64;
    /// See [`Datapath::cache`].
    fn cache(&self) -> CacheStatus;
    /// See [`Datapath::trace`].
    fn trace(
        &self,
        bridge: &str,
        matching: &Match,
        frame: Option<&[u8]>,
        generate: bool,
    ) -> Result<String, DatapathError>;
    /// See [`Datapath::trace_next`].
    fn trace_next(
        &self,
        port: &str,
        matching: &Match,
        timeout: Duration,
    ) -> Result<Option<String>, DatapathError>;
    /// See [`Datapath::packet_out`].
    fn packet_out(
        &self,
        bridge: &str,
        in_port: u16,
        actions: &[Action],
        frame: &[u8],
    ) -> Result<(), DatapathError>;
    /// See [`Datapath::take_packet_ins`].
    fn take_packet_ins(&self) -> Vec<PacketIn>;
    /// See [`Datapath::packet_ins_lost`].
    fn packet_ins_lost(&self) -> u64;
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
    fn set_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        Datapath::set_bridge(self, spec)
    }
    fn set_port(&self, spec: PortSpec) -> Result<(), DatapathError> {
        Datapath::set_port(self, spec)
    }
    fn bridges(&self) -> Vec<BridgeStatus> {
        Datapath::bridges(self)
    }
    fn ports(&self) -> Vec<PortStatus> {
        Datapath::ports(self)
    }
    fn port_places(&self) -> Vec<PortPlace> {
        Datapath::port_places(self)
    }
    fn links_changed(&self) {
        Datapath::links_changed(self);
    }
    fn device_counters(&self, port: &str) -> Result<Vec<(String, u64)>, DatapathError> {
        Datapath::port_device_counters(self, port)
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
    fn change_flows(
        &self,
        bridge: &str,
        changes: &[Change],
        store: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<FlowsChanged, FlowChangeError> {
        Datapath::change_flows(self, bridge, changes, store)
    }
    fn rules(&self, bridge: &str, filter: &FlowSpec) -> Result<Vec<RuleStatus>, DatapathError> {
        Datapath::rules(self, bridge, filter)
    }
    fn flow_totals(&self, bridge: &str) -> Result<FlowTotals, DatapathError> {
        Datapath::flow_totals(self, bridge)
    }
    fn groups(&self, bridge: &str) -> Result<Vec<GroupStatus>, DatapathError> {
        Datapath::groups(self, bridge)
    }
    fn meters(&self, bridge: &str) -> Result<Vec<MeterStatus>, DatapathError> {
        Datapath::meters(self, bridge)
    }
    fn tables(&self, bridge: &str) -> Result<Vec<TableStatus>, DatapathError> {
        Datapath::tables(self, bridge)
    }
    fn expire_flows(&self) -> Vec<ExpiredRule> {
        Datapath::expire_flows(self)
    }
    fn megaflows(&self) -> Vec<MegaflowStatus> {
        Datapath::megaflows(self)
    }
    fn flush_megaflows(&self) -> u64 {
        Datapath::flush_megaflows(self)
    }
    fn cache(&self) -> CacheStatus {
        Datapath::cache(self)
    }
    fn trace(
        &self,
        bridge: &str,
        matching: &Match,
        frame: Option<&[u8]>,
        generate: bool,
    ) -> Result<String, DatapathError> {
        Datapath::trace(self, bridge, matching, frame, generate)
    }
    fn trace_next(
        &self,
        port: &str,
        matching: &Match,
        timeout: Duration,
    ) -> Result<Option<String>, DatapathError> {
        Datapath::trace_next(self, port, matching, timeout)
    }
    fn packet_out(
        &self,
        bridge: &str,
        in_port: u16,
        actions: &[Action],
        frame: &[u8],
    ) -> Result<(), DatapathError> {
        Datapath::packet_out(self, bridge, in_port, actions, frame)
    }
    fn take_packet_ins(&self) -> Vec<PacketIn> {
        Datapath::take_packet_ins(self)
    }
    fn packet_ins_lost(&self) -> u64 {
        Datapath::packet_ins_lost(self)
    }
}
