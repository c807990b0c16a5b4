//! Verdicts: what a megaflow says of a packet, and those on a whole burst.

use ringway_flow::program::{DpAction, DropCause, Program};
use ringway_vhost::BURST;

use super::CatchAll;
use crate::watch::FoundBy;

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the port with this number.
    Output(u32),
    /// As a learning switch does.
    Normal,
    /// To every other port of the bridge.
    Flood,
    /// Nowhere.
    Drop(DropCause),
    /// Nowhere: there was no time to find out.
    Lost,
    /// The program of this entry.
    Program(u32),
}

impl Verdict {
    /// Of a program; `entry` is where it is kept.
    pub(super) fn of(program: &Program, entry: u32) -> Self {
        let mut steps = program.steps();
        match (steps.next(), steps.next()) {
            (Some(DpAction::Output(port)), None) if port < 1 << 12 => Self::Output(port.into()),
            (Some(DpAction::Normal), None) => Self::Normal,
            (Some(DpAction::Flood), None) => Self::Flood,
            (Some(DpAction::Drop(cause)), None) => Self::Drop(cause),
            (None, _) => Self::Drop(DropCause::Rule),
            _ => Self::Program(entry),
        }
    }

    pub(super) fn code(self) -> u16 {
        let (kind, argument) = match self {
            Self::Output(port) => (1, port as u16),
            // 1 instead of 0 says the same, and how packets are counted: see
            // `table::NORMAL_APART`.
            Self::Normal => (2, 0),
            Self::Flood => (3, 0),
            Self::Drop(cause) => (4, cause as u16),
            Self::Program(_) => (5, 0),
            Self::Lost => (0, 0),
        };
        kind << 12 | argument & 0xfff
    }

    #[inline(always)]
    pub(super) fn decode(code: u16, entry: u32) -> Self {
        let argument = code & 0xfff;
        match code >> 12 {
            1 => Self::Output(argument.into()),
            2 => Self::Normal,
            3 => Self::Flood,
            4 => Self::Drop(
                DropCause::ALL
                    .get(usize::from(argument))
                    .copied()
                    .unwrap_or(DropCause::Rule),
            ),
            _ => Self::Program(entry),
        }
    }
}

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// The verdicts on a burst.
pub struct Found {
    /// The entry that each packet is counted in, or [`NONE`].
    pub(super) entries: [u32; BURST],
    pub(super) verdicts: [Verdict; BURST],
    /// Packets without a verdict yet, as bits; so are those below.
    pub(super) pending: u32,
    /// Of these, those that had a megaflow which a change of rules touched.
    pub(super) stale: u32,
    /// Packets found in the exact-match cache.
    pub(super) emc: u32,
    /// Packets found by a mask.
    pub(super) mask: u32,
    /// The entry that all packets belong to, or [`NONE`].
    pub(super) catch_all: u32,
    one: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            entries: [NONE; BURST],
            verdicts: [Verdict::Lost; BURST],
            pending: 0,
            stale: 0,
            emc: 0,
            mask: 0,
            catch_all: NONE,
            one: false,
        }
    }
}

impl Found {
    /// Of `count` packets nothing is known.
    #[inline(always)]
    pub(super) fn begin(&mut self, count: usize) {
        self.entries = [NONE; BURST];
        (self.catch_all, self.one) = (NONE, false);
        self.pending = ((1u64 << count) - 1) as u32;
        self.stale = 0;
    }

    /// The verdict on packet `index`.
    #[inline(always)]
    pub fn verdict(&self, index: usize) -> Verdict {
        self.verdicts[index]
    }

    /// Where its megaflow is, if it has one.
    pub fn entry(&self, index: usize) -> Option<u32> {
        let entry = match self.catch_all {
            NONE => self.entries[index],
            entry => entry,
        };
        Some(entry).filter(|entry| *entry != NONE)
    }

    /// How its megaflow was found.
    pub fn found_by(&self, index: usize) -> FoundBy {
        match () {
            () if self.catch_all != NONE => FoundBy::CatchAll,
            () if self.emc >> index & 1 == 1 => FoundBy::Emc,
            () if self.mask >> index & 1 == 1 => FoundBy::Mask,
            () => FoundBy::Upcall,
        }
    }

    /// Whether all packets are of one conversation: then only the first's key is made.
    #[inline(always)]
    pub fn is_one(&self) -> bool {
        self.one
    }

    /// The one megaflow's verdict for all; `one`: they are of one conversation.
    #[inline(always)]
    pub fn fill(&mut self, count: usize, all: CatchAll, one: bool) {
        (self.catch_all, self.one) = (all.entry, one);
        self.verdicts[..count].fill(all.verdict);
    }
}
