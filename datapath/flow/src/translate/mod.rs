//! A packet's way through the tables: which rules it meets, what they do, and
//! which bits of it had to be looked at.
//!
//! ```text
//!  PacketKey ─▶ look_up ─▶ rule ─▶ run ─┬─▶ writes, pushes, pops    change `flow`; nothing is emitted yet
//!     ▲            (lookup)  (actions)  ├─▶ resubmit, goto_table ─▶ look_up
//!     │                                 ├─▶ group ─▶ a bucket's actions on a copy
//!     └── mask: what was looked at      └─▶ output, normal …       commit what changed, then the step itself
//! ```
//!
//! What the actions mean is Open vSwitch's (ofproto/ofproto-dpif-xlate.c and
//! ovs-actions(7), 3.1), but for the mask: Open vSwitch puts every field that
//! is written into the mask; here only what was *read* is in it, so that
//! packets which differ in what is overwritten anyway share a megaflow.
//!
//! Every bit of the packet as it is now is either *written* (an action put a
//! value there that depends on nothing but the mask) or still the packet's
//! own, in its own place. Reading a written bit adds nothing to the mask.
//!
//! Neither allocates nor locks nor panics: poll-mode cores call it on a miss.

mod action_set;
mod actions;
mod commit;
mod fields;
#[cfg(test)]
mod group_tests;
mod groups;
#[cfg(test)]
mod tests;
mod vlan;

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::action::Action;
use crate::field::Subfield;
use crate::key::{FlowKey, PACKET_WORDS, PacketKey};
use crate::pipeline::{Dependencies, Pipeline};
use crate::program::{DpAction, DropCause, Program};
use crate::rule::Rule;
use crate::stats::StatsId;

use action_set::ActionSet;
use commit::Committed;
use vlan::Hidden;

/// Most cells that one packet is counted in. A packet that meets more rules
/// goes its way all the same and is not counted in the others.
pub const MAX_COUNTED: usize = 128;

/// Deepest nesting of resubmits to the same or an earlier table, and of
/// groups (Open vSwitch's `MAX_DEPTH`).
pub const MAX_DEPTH: u16 = 64;
/// Most resubmits and buckets for one packet (Open vSwitch's `MAX_RESUBMITS`).
pub const MAX_RESUBMITS: u16 = 4096;
/// Deepest nesting of anything that has to be come back to: what bounds the
/// stack. A resubmit that is a rule's last action is not come back to.
const MAX_NESTING: u16 = 256;

/// `bridge` in word 0.
const BRIDGE: u64 = 0xffff << 48;
/// `in_port` in word 0.
const IN_PORT: u64 = 0xffff << 32;
/// In word 0: the packet is a fragment (`nw_frag`'s lower bit).
const FRAGMENT: u64 = 1 << 8;
/// `tp_src` and `tp_dst` in word 4.
const PORTS: u64 = 0xffff_ffff << 32;

/// Where a packet's way begins.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// In table 0.
    Tables,
    /// With these actions (a packet-out).
    Actions(&'a [Action]),
}

/// What a translation comes to. Reused: [`translate`] clears it.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// Every bit that was looked at, and no other. (`bridge` is always in it.)
    pub mask: PacketKey,
    /// What the datapath is to do; ends in `Drop` if the packet goes nowhere.
    pub program: Program,
    /// The cells in which packets are to be counted: rules met (once per
    /// visit), tables that had no rule, groups and buckets used.
    pub counted: ArrayVec<StatsId, MAX_COUNTED>,
    /// What else the verdict hangs on.
    pub dependencies: Dependencies,
    /// The pipeline's version.
    pub version: u32,
    /// The packet as it is at the end.
    pub flow: FlowKey,
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// How an action came to its result.
    Detail,
    /// An action did less than it says.
    Warning,
    /// The packet is dropped for it.
    Error,
}

/// Hears what a translation does, for `trace`.
///
/// `depth` says in what list an entry stands: a table's actions are one deeper
/// than the table, and so is what a resubmit among them leads to.
pub trait Tracer {
    /// A table was looked into with the packet as it is; `rule` is what was
    /// found, `added` the bits that this put into the mask.
    fn table(
        &mut self,
        depth: usize,
        table: u8,
        flow: &FlowKey,
        rule: Option<&Rule>,
        added: &PacketKey,
    );
    /// An action is about to be done.
    fn action(&mut self, depth: usize, action: &Action);
    /// There is nothing to be done: the packet is dropped here.
    fn nothing(&mut self, depth: usize);
    /// A bucket's actions are about to be done.
    fn bucket(&mut self, depth: usize, id: u32);
    /// The action set is about to be done.
    fn action_set(&mut self, depth: usize);
    /// Something worth knowing about an action, after it.
    fn note(&mut self, depth: usize, kind: Note, note: std::fmt::Arguments<'_>);
    /// The action set as it would be done now, after `clear_actions` was met
    /// (`"was"`) or actions were written into it (`"is"`).
    fn action_set_now(
        &mut self,
        depth: usize,
        verb: &str,
        actions: &mut dyn Iterator<Item = &Action>,
    );
    /// `move` was done: the field now has this value.
    fn moved(&mut self, depth: usize, to: Subfield, flow: &FlowKey);
    /// NORMAL is about to be done with the packet as it is.
    fn normal(&mut self, depth: usize, flow: &FlowKey);
}

/// Hears nothing, costs nothing.
pub struct Untraced;

impl Tracer for Untraced {
    #[inline(always)]
    fn table(&mut self, _: usize, _: u8, _: &FlowKey, _: Option<&Rule>, _: &PacketKey) {}
    #[inline(always)]
    fn action(&mut self, _: usize, _: &Action) {}
    #[inline(always)]
    fn nothing(&mut self, _: usize) {}
    #[inline(always)]
    fn bucket(&mut self, _: usize, _: u32) {}
    #[inline(always)]
    fn action_set(&mut self, _: usize) {}
    #[inline(always)]
    fn note(&mut self, _: usize, _: Note, _: std::fmt::Arguments<'_>) {}
    #[inline(always)]
    fn action_set_now(&mut self, _: usize, _: &str, _: &mut dyn Iterator<Item = &Action>) {}
    #[inline(always)]
    fn moved(&mut self, _: usize, _: Subfield, _: &FlowKey) {}
    #[inline(always)]
    fn normal(&mut self, _: usize, _: &FlowKey) {}
}

/// Sends a packet through a pipeline.
///
/// Where it goes is in `out.program`. `out.mask` holds the bits of `packet`
/// that were looked at: any packet that agrees with it there has the same
/// program and is counted in the same cells.
pub fn translate<T: Tracer>(
    pipeline: &Pipeline,
    packet: &PacketKey,
    start: Start<'_>,
    out: &mut Translation,
    tracer: &mut T,
) {
    out.mask = PacketKey::default();
    out.mask.0[0] = BRIDGE;
    out.program.clear();
    out.counted.clear();
    out.dependencies = Dependencies::default();
    out.version = pipeline.version();
    out.flow = packet.to_flow();
    let mut way = Way {
        pipeline,
        tracer,
        out,
        written: PacketKey::default(),
        touched: 0,
        dirty: false,
        hidden: Hidden::default(),
        committed: Committed::new(packet),
        action_set: ActionSet::default(),
        table: 0,
        level: 0,
        depth: 0,
        nesting: 0,
        resubmits: 0,
        exit: false,
        sent: false,
        cause: None,
        failed: None,
    };
    match start {
        Start::Tables => match way.look_up(None, 0) {
            Some(rule) => {
                way.level = 1;
                way.run(&rule.actions);
            }
            None => way.note_cause(DropCause::NoFlow),
        },
        Start::Actions(actions) => {
            way.run(actions);
        }
    }
    // As if it were the first table's.
    (way.table, way.depth, way.level) = (0, 0, usize::from(matches!(start, Start::Tables)));
    way.run_action_set();
    way.finish();
    vlan::leave_out_implied(packet, &mut out.mask);
}

/// A packet on its way.
struct Way<'p, 'w, T> {
    pipeline: &'p Pipeline,
    tracer: &'w mut T,
    /// `out.flow` is the packet as it is.
    out: &'w mut Translation,
    /// Bits of the packet as it is that actions wrote.
    written: PacketKey,
    /// Words in which something was ever written, registers too.
    touched: u32,
    /// Something may have to be committed.
    dirty: bool,
    /// Tags further in than the two that the key shows.
    hidden: Hidden,
    /// The packet as the program has made it so far.
    committed: Committed,
    action_set: ActionSet<'p>,
    /// The table whose rule is being done.
    table: u8,
    /// How deep in the tracer's lists.
    level: usize,
    /// Counted as Open vSwitch does; see [`MAX_DEPTH`].
    depth: u16,
    nesting: u16,
    resubmits: u16,
    /// `exit` was met.
    exit: bool,
    /// The program sends the packet somewhere.
    sent: bool,
    /// Why the packet goes nowhere, if it does not.
    cause: Option<DropCause>,
    /// Why nothing of it may be sent.
    failed: Option<DropCause>,
}

/// Whether the rest of a list of actions is to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    /// This list ends; the one that led to it goes on.
    Stop,
}

impl<'p, T: Tracer> Way<'p, '_, T> {
    /// The rule that the packet meets in a table, as if it had come in on
    /// `port`.
    fn look_up(&mut self, port: Option<u16>, table: u8) -> Option<&'p Arc<Rule>> {
        let out = &mut *self.out;
        let mut known = self.written;
        let mut modified = self.touched;
        let (first, fourth) = (out.flow.0[0], out.flow.0[4]);
        if let Some(port) = port {
            out.flow.0[0] = first & !IN_PORT | u64::from(port) << 32;
            known.0[0] |= IN_PORT;
            modified |= 1;
        }
        // As Open vSwitch does by default (frag_handling normal): a fragment
        // has no ports, even if its header has come with it.
        if first & FRAGMENT != 0 {
            out.flow.0[4] &= !PORTS;
            known.0[4] |= PORTS;
        }
        let mut looked_at = FlowKey::default();
        let found = match self.pipeline.table(table) {
            Some(table) => table.lookup(&out.flow, &mut looked_at),
            None => None,
        };
        out.flow.0[0] = first;
        out.flow.0[4] = fourth;
        if looked_at.0[4] & PORTS != 0 {
            looked_at.0[0] |= FRAGMENT;
            modified |= if first & FRAGMENT != 0 { 1 << 4 } else { 0 };
        }
        let mut added = PacketKey::default();
        for word in 0..PACKET_WORDS {
            let bits = looked_at.0[word] & !known.0[word];
            added.0[word] = bits & !out.mask.0[word];
            out.mask.0[word] |= bits;
        }
        out.dependencies.tables |= 1 << (table % 64);
        out.dependencies.modified |= modified;
        let cell = match found {
            Some(rule) => rule.stats,
            None => self.pipeline.miss_stats(table),
        };
        self.count(cell);
        let rule = found.map(|rule| &**rule);
        (self.tracer).table(self.level, table, &self.out.flow, rule, &added);
        if found.is_none() {
            self.tracer.nothing(self.level + 1);
        }
        found
    }

    /// Looks into another table, if the packet may go on: the actions to be
    /// done then, and by how much they are deeper.
    fn enter(&mut self, port: Option<u16>, table: u8) -> Option<(&'p [Action], u16)> {
        if !self.may_go_on() {
            return None;
        }
        let deeper = u16::from(table <= self.table);
        let rule = self.look_up(port, table)?;
        Some((&rule.actions, deeper))
    }

    /// Whether one more resubmit or bucket is allowed; if not, the packet is lost.
    fn may_go_on(&mut self) -> bool {
        let level = self.level;
        if self.depth >= MAX_DEPTH {
            let note = format_args!("over max translation depth {MAX_DEPTH}");
            self.tracer.note(level, Note::Error, note);
        } else if self.resubmits >= MAX_RESUBMITS {
            let note = format_args!("over {MAX_RESUBMITS} resubmit actions");
            self.tracer.note(level, Note::Error, note);
        } else {
            self.resubmits += 1;
            return true;
        }
        self.fail(DropCause::ResubmitLimit);
        false
    }

    /// Does actions that have to be come back from: `deeper` in Open vSwitch's
    /// count, in the tracer's list below this one.
    fn nest(&mut self, deeper: u16, what: impl FnOnce(&mut Self)) {
        if self.nesting >= MAX_NESTING {
            let note = format_args!("over max nesting {MAX_NESTING}");
            self.tracer.note(self.level, Note::Error, note);
            self.fail(DropCause::ResubmitLimit);
            return;
        }
        let (table, level, depth) = (self.table, self.level, self.depth);
        self.nesting += 1;
        self.level += 1;
        self.depth += deeper;
        what(self);
        self.nesting -= 1;
        (self.table, self.level, self.depth) = (table, level, depth);
    }

    /// Does a list of actions, and those of the rules they lead to.
    fn run(&mut self, actions: &'p [Action]) -> Then {
        let mut rest = actions;
        if rest.is_empty() {
            self.tracer.nothing(self.level);
        }
        while let Some((action, after)) = rest.split_first() {
            if self.exit || self.failed.is_some() {
                return Then::Stop;
            }
            rest = after;
            self.tracer.action(self.level, action);
            let (port, table) = match action {
                Action::Resubmit { port, table } => (*port, table.unwrap_or(self.table)),
                Action::GotoTable(table) => (None, *table),
                _ => match self.act(action) {
                    Then::GoOn => continue,
                    Then::Stop => return Then::Stop,
                },
            };
            let Some((actions, deeper)) = self.enter(port, table) else {
                continue;
            };
            if after.is_empty() {
                // Nothing is left to come back for.
                self.level += 1;
                self.depth += deeper;
                self.table = table;
                rest = actions;
                if rest.is_empty() {
                    self.tracer.nothing(self.level);
                }
            } else {
                self.nest(deeper, |way| {
                    way.table = table;
                    way.run(actions);
                });
            }
        }
        Then::GoOn
    }

    /// Adds a step to the program.
    fn emit(&mut self, step: DpAction) {
        if self.out.program.push(step).is_err() {
            self.fail(DropCause::TooManyActions);
        }
    }

    /// Nothing of the packet may be sent any more.
    fn fail(&mut self, cause: DropCause) {
        self.failed.get_or_insert(cause);
    }

    /// Why the packet may turn out to go nowhere: what is said first counts.
    fn note_cause(&mut self, cause: DropCause) {
        self.cause.get_or_insert(cause);
    }

    /// Counts the packet in a cell.
    fn count(&mut self, cell: StatsId) {
        // More than fit are not counted; see MAX_COUNTED.
        let _ = self.out.counted.try_push(cell);
    }

    /// Ends the program.
    fn finish(self) {
        let program = &mut self.out.program;
        let cause = match self.failed {
            Some(cause) => cause,
            None if self.sent => return,
            None => {
                let cause = self.cause.unwrap_or(DropCause::Rule);
                if program.push(DpAction::Drop(cause)).is_ok() {
                    return;
                }
                DropCause::TooManyActions
            }
        };
        program.clear();
        // An empty program has room for one step.
        let _ = program.push(DpAction::Drop(cause));
    }
}
