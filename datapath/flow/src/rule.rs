//! Rules, and what can be done to tables.

use crate::action::{Action, GroupSpec, MeterSpec};
use crate::matching::Match;
use crate::stats::StatsId;

/// Priority of a rule whose text says none.
pub const DEFAULT_PRIORITY: u16 = 32_768;

/// Flags of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFlags {
    /// `send_flow_rem`: kept and printed.
    pub send_flow_rem: bool,
    /// `check_overlap`: refused if a rule of the same priority overlaps.
    pub check_overlap: bool,
    /// `reset_counts`
    pub reset_counts: bool,
    /// `no_packet_counts`: kept and printed.
    pub no_packet_counts: bool,
    /// `no_byte_counts`: kept and printed.
    pub no_byte_counts: bool,
}

/// A flow as text says it: a rule to add, or which rules are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// `table=`; none: 0 for a new rule, every table otherwise.
    pub table: Option<u8>,
    /// `priority=`
    pub priority: u16,
    /// `cookie=`
    pub cookie: u64,
    /// `cookie=VALUE` was there: modified flows get this cookie too.
    pub sets_cookie: bool,
    /// `cookie=VALUE/MASK`: which rules are meant; 0 when none is given.
    pub cookie_mask: u64,
    /// The match.
    pub matching: Match,
    /// `actions=`; empty is drop.
    pub actions: Vec<Action>,
    /// `idle_timeout=`, seconds; 0: none.
    pub idle_timeout: u16,
    /// `hard_timeout=`, seconds; 0: none.
    pub hard_timeout: u16,
    /// `importance=`
    pub importance: u16,
    /// Flags.
    pub flags: FlowFlags,
    /// `out_port=`: only rules that output there are meant.
    pub out_port: Option<u16>,
    /// `out_group=`: only rules that use that group are meant.
    pub out_group: Option<u32>,
}

impl Default for FlowSpec {
    fn default() -> Self {
        Self {
            table: None,
            priority: DEFAULT_PRIORITY,
            cookie: 0,
            sets_cookie: false,
            cookie_mask: 0,
            matching: Match::default(),
            actions: Vec::new(),
            idle_timeout: 0,
            hard_timeout: 0,
            importance: 0,
            flags: FlowFlags::default(),
            out_port: None,
            out_group: None,
        }
    }
}

/// What is to be done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowCommand {
    /// `add-flow`: in place of a rule of the same table, priority and match.
    Add,
    /// `mod-flows`: the actions of every rule within the match; adds one if there is none
    /// (with a cookie mask: does nothing then), as OpenFlow 1.0 has it.
    Modify,
    /// `--strict mod-flows`: of the rule with this match and priority.
    ModifyStrict,
    /// `del-flows`: every rule within the match.
    Delete,
    /// `--strict del-flows`: the rule with this match and priority.
    DeleteStrict,
}

/// One change to a bridge's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Of rules.
    Flow(FlowCommand, Box<FlowSpec>),
    /// `add-group`
    AddGroup(GroupSpec),
    /// `mod-group`; with the flag also if there is none (`--may-create`).
    ModifyGroup(GroupSpec, bool),
    /// `del-groups`: this one, or all; rules that use them go with them.
    DeleteGroups(Option<u32>),
    /// `add-meter`
    AddMeter(MeterSpec),
    /// `mod-meter`
    ModifyMeter(MeterSpec),
    /// `del-meters`: this one, or all; rules that use them go with them.
    DeleteMeters(Option<u32>),
}

/// A rule in a table. Changes make a new one in its place.
#[derive(Debug)]
pub struct Rule {
    /// The cell of its counts; stays when actions are modified.
    pub stats: StatsId,
    /// Its table.
    pub table: u8,
    /// Higher wins.
    pub priority: u16,
    /// The controller's mark.
    pub cookie: u64,
    /// What it matches.
    pub matching: MiniMatch,
    /// What it does; empty is drop.
    pub actions: Box<[Action]>,
    /// Seconds without a packet until it goes; 0: stays.
    pub idle_timeout: u16,
    /// Seconds until it goes; 0: stays.
    pub hard_timeout: u16,
    /// Kept and printed.
    pub importance: u16,
    /// Kept and printed.
    pub flags: FlowFlags,
    /// When it was added, in milliseconds of the datapath's clock.
    pub created_ms: u64,
    /// When its actions were last modified.
    pub modified_ms: u64,
}

/// A match without its zero words: rules are many.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MiniMatch {
    /// Which words have mask bits.
    words: u32,
    /// Key words, then mask words, each `words.count_ones()` of them.
    data: Box<[u64]>,
}

impl MiniMatch {
    /// The same match in less room.
    pub fn new(full: &Match) -> Self {
        let used = |i: &usize| full.mask.0[*i] != 0;
        let words = (0..crate::key::FLOW_WORDS).filter(used);
        let data = (words.clone().map(|i| full.key.0[i]))
            .chain(words.clone().map(|i| full.mask.0[i]))
            .collect();
        Self {
            words: words.fold(0, |bits, i| bits | 1 << i),
            data,
        }
    }

    /// The match in full.
    pub fn full(&self) -> Match {
        let mut full = Match::default();
        let (keys, masks) = self.data.split_at(self.data.len() / 2);
        for ((word, key), mask) in self.words().zip(keys).zip(masks) {
            full.key.0[word] = *key;
            full.mask.0[word] = *mask;
        }
        full
    }

    /// The words with mask bits, in order.
    pub fn words(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        let bits = self.words;
        (0..crate::key::FLOW_WORDS).filter(move |word| bits >> word & 1 == 1)
    }

    /// Key words in the order of [`words`](Self::words).
    pub fn keys(&self) -> &[u64] {
        &self.data[..self.data.len() / 2]
    }

    /// Mask words in the order of [`words`](Self::words).
    pub fn masks(&self) -> &[u64] {
        &self.data[self.data.len() / 2..]
    }
}
