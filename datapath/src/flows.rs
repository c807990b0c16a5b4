//! What the datapath says of flows: rules with their counts, megaflows, the
//! tables' occupancy, packets for controllers.

use std::sync::Arc;
use std::time::Duration;

use ringway_flow::action::{GroupSpec, MeterSpec, Reason};
use ringway_flow::key::PacketKey;
use ringway_flow::pipeline::Expiry;
use ringway_flow::rule::Rule;
use ringway_flow::stats::Counts;

use crate::status::MemoryKind;

/// A rule as the datapath has it, with its counts: those of megaflows that
/// have ended and those of living ones, read together.
#[derive(Clone, Debug)]
pub struct RuleStatus {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Its counts.
    pub counts: Counts,
    /// Since it was added.
    pub age: Duration,
    /// Since its last packet (or since it was added).
    pub idle: Duration,
}

/// Numbers of a bridge's rules, groups and meters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Rules.
    pub flows: u64,
    /// Groups.
    pub groups: u64,
    /// Meters.
    pub meters: u64,
}

/// What a change of flows did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowsChanged {
    /// Rules added (in place of others, too).
    pub added: u64,
    /// Rules that got other actions.
    pub modified: u64,
    /// Rules deleted.
    pub deleted: u64,
}

/// A rule whose time had come.
#[derive(Clone, Debug)]
pub struct ExpiredRule {
    /// Its bridge.
    pub bridge: String,
    /// The rule with its last counts.
    pub status: RuleStatus,
    /// Idle or hard timeout.
    pub expiry: Expiry,
}

/// A group as the datapath has it.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// As it was asked for.
    pub spec: GroupSpec,
    /// Its counts.
    pub counts: Counts,
    /// Its buckets' counts, in their order.
    pub buckets: Vec<Counts>,
    /// Since it was added.
    pub age: Duration,
}

/// A meter as the datapath has it.
#[derive(Clone, Debug)]
pub struct MeterStatus {
    /// As it was asked for.
    pub spec: MeterSpec,
    /// Rules that use it.
    pub flows: u32,
    /// Packets that came to it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, packets beyond the rate.
    pub band_packets: u64,
    /// Their bytes.
    pub band_bytes: u64,
    /// Since it was added.
    pub age: Duration,
}

/// One of a bridge's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStatus {
    /// Its number.
    pub table: u8,
    /// Rules in it.
    pub active: usize,
    /// Packets that were looked up in it.
    pub lookups: u64,
    /// Packets for which there was a rule.
    pub matched: u64,
}

/// A megaflow: what a poll-mode core does with packets of its key and mask.
///
/// Packets of NORMAL are shown by conversation: each has its key and mask, as if
/// it were a megaflow of its own, and the ports that NORMAL sends it to now. Its
/// outer tag is in the mask if it has one; without one in the mask it has none.
#[derive(Clone, Debug)]
pub struct MegaflowStatus {
    /// Bridge that it belongs to.
    pub bridge: String,
    /// CPU of the poll-mode core whose table it is in.
    pub core: usize,
    /// The packets' bits; zero where the mask is.
    pub key: PacketKey,
    /// Which bits matter.
    pub mask: PacketKey,
    /// What is done, as a program's words. NORMAL and FLOOD stand for
    /// themselves only where the key does not say which ports they are. LOCAL
    /// has its port's number, here and in `key`.
    pub program: Vec<u64>,
    /// Packets, bytes.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Since its last packet; `None`: never used.
    pub used: Option<Duration>,
}

/// The flow caches of all poll-mode cores together.
#[derive(Clone, Debug)]
pub struct CacheStatus {
    /// Packets whose megaflow was known: the exact-match cache's part.
    pub emc_hits: u64,
    /// Packets whose megaflow was found by its mask.
    pub megaflow_hits: u64,
    /// Packets that had to be translated.
    pub missed: u64,
    /// Packets that were not translated, for the upcall budget was spent.
    pub lost: u64,
    /// Translations whose megaflow found no room.
    pub not_installed: u64,
    /// Megaflows now, as many as are shown.
    pub flows: u64,
    /// Most megaflows.
    pub flow_limit: u64,
    /// Masks now.
    pub masks: u64,
    /// Most masks of one bridge.
    pub mask_limit: u64,
    /// Masks that were tried, over all lookups.
    pub mask_probes: u64,
    /// Entries of the exact-match caches.
    pub emc_entries: u64,
    /// Bytes that caches and megaflow tables take.
    pub bytes: u64,
    /// Bytes of one megaflow.
    pub megaflow_bytes: u64,
    /// Where they lie.
    pub memory: MemoryKind,
    /// Rules of all bridges.
    pub rules: u64,
    /// Bytes of all bridges' rules, as far as the datapath holds them.
    pub rule_bytes: u64,
}

/// A packet for controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketIn {
    /// Bridge that it came to.
    pub bridge: String,
    /// Number of the port that it came from.
    pub in_port: u32,
    /// Why it was sent.
    pub reason: Reason,
    /// Table of the rule that sent it.
    pub table: u8,
    /// Which controllers it is for.
    pub controller: u16,
    /// Bytes of the frame when it came.
    pub frame_len: usize,
    /// As many of its bytes as were asked for.
    pub frame: Vec<u8>,
}

/// Why a change of flows was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FlowChangeError {
    /// No bridge of that name in the datapath.
    #[error("no bridge named {0} in the datapath")]
    NoBridge(String),
    /// One of the changes cannot be.
    #[error("{error}")]
    Refused {
        /// Which one, from 0.
        index: usize,
        /// Why.
        error: ringway_flow::pipeline::ChangeError,
    },
    /// The change could not be stored.
    #[error("{0}")]
    NotStored(String),
}
