//! A packet's way through the tables: which rules it meets, what they do, and
//! which bits of it had to be looked at.
//!
//! Neither allocates nor locks nor panics: poll-mode cores call it on a miss.

use arrayvec::ArrayVec;

use crate::action::Action;
use crate::key::{FlowKey, PacketKey};
use crate::pipeline::{Dependencies, Pipeline};
use crate::program::Program;
use crate::rule::Rule;
use crate::stats::StatsId;

/// Most cells that one packet is counted in.
pub const MAX_COUNTED: usize = 128;

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

/// Hears what a translation does, for `trace`.
pub trait Tracer {
    /// A table is looked into, `depth` resubmits deep, with the packet as it
    /// is; `rule` is what was found.
    fn table(&mut self, depth: usize, table: u8, flow: &FlowKey, rule: Option<&Rule>);
    /// An action is about to be done.
    fn action(&mut self, depth: usize, action: &Action);
    /// Something worth knowing about it.
    fn note(&mut self, depth: usize, note: std::fmt::Arguments<'_>);
}

/// Hears nothing, costs nothing.
pub struct Untraced;

impl Tracer for Untraced {
    #[inline(always)]
    fn table(&mut self, _: usize, _: u8, _: &FlowKey, _: Option<&Rule>) {}
    #[inline(always)]
    fn action(&mut self, _: usize, _: &Action) {}
    #[inline(always)]
    fn note(&mut self, _: usize, _: std::fmt::Arguments<'_>) {}
}

/// Sends a packet through a pipeline.
pub fn translate<T: Tracer>(
    pipeline: &Pipeline,
    packet: &PacketKey,
    start: Start<'_>,
    out: &mut Translation,
    tracer: &mut T,
) {
    let _ = (pipeline, packet, start, out, tracer);
}
