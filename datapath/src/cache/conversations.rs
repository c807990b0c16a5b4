//! Who talks to whom under NORMAL: counts by conversation.
//!
//! A megaflow of NORMAL is as wide as the rules allow; on a bridge without other
//! rules it is one for all packets. Who asks for the megaflows wants to see who
//! talks to whom, as Open vSwitch's show it. So each core counts the packets of
//! such megaflows by conversation: megaflow, port, addresses, outer VLAN, type.
//! Verdicts do not depend on it.
//!
//! ```text
//! line: 8 words, one cache line; in one of four neighbouring lines
//!   0, 1    destination, source: MAC and VLAN, see Station
//!   2       kind (32) | port (16) | 0
//!   3       count of changes (32) | entry of its megaflow, plus one (32, 0: the line is free)
//!   4, 5    packets, bytes
//!   6       used (16), see UsedClock
//! ```
//!
//! - Packets come in runs of one conversation: a line is touched once for a run.
//! - A packet counts once: in its conversation's line, or, if that found no
//!   room, in its megaflow's entry, which is the rest.
//! - A conversation takes a free line, or that of one which has been silent
//!   for [`SILENT`] and whose counts then go to its megaflow's rest. So whoever
//!   makes up addresses displaces the silent ones' counts and nothing else.
//! - One without a packet for `max_idle` goes, and its counts go to the
//!   rules' cells as an ended megaflow's do.
//! - Counts move only when no reader holds them ([`super::move_counts`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use ringway_flow::key::{PacketKey, VLAN_PRESENT};
use ringway_flow::stats::Counts;
use ringway_vhost::{BURST, Packets};

use super::table::{self, CacheTable, Entry, Meta, Parts, made, rest_used, set_rest_used};
use super::{Core, USED_SHIFT, add, move_counts, used_now};
use crate::conversation::{Conversation, Kind};
use crate::cpu::crc32c;
use crate::parse::{Key, Station};
use crate::patch::Which;
use crate::snapshot::BridgeView;

pub const LINE_WORDS: usize = 8;
/// Most conversations of one core.
pub const CONVERSATIONS: usize = 4096;
/// Lines in which a conversation may be.
const WAYS: usize = 4;
/// Whoever had no packet for so long gives its line to another.
const SILENT: Duration = Duration::from_millis(100);

const DESTINATION: usize = 0;
const SOURCE: usize = 1;
const KIND: usize = 2;
const OWNER: usize = 3;
const PACKETS: usize = 4;
const BYTES: usize = 5;
const USED: usize = 6;

pub type Line = [AtomicU64; LINE_WORDS];

/// Packets in a row that are counted together: of one conversation, or of one
/// megaflow if its conversations are not told apart.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    tells_apart: bool,
    port: u16,
    conversation: Conversation,
    packets: u32,
    bytes: u64,
}

impl Run {
    /// Not told apart; `port` is where all come from.
    #[inline(always)]
    pub fn of_megaflow(port: u16, packets: u32, bytes: u64) -> Self {
        Self {
            tells_apart: false,
            port,
            conversation: Conversation::default(),
            packets,
            bytes,
        }
    }

    /// Packets of this conversation.
    #[inline(always)]
    pub fn of(port: u16, conversation: Conversation, packets: u32, bytes: u64) -> Self {
        Self {
            tells_apart: true,
            port,
            conversation,
            packets,
            bytes,
        }
    }

    /// One packet more.
    #[inline(always)]
    pub fn add(&mut self, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
    }

    /// The line's words by which it is known.
    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        let Conversation {
            destination,
            source,
            kind,
        } = self.conversation;
        let kind = u64::from(kind.bits()) << 32 | u64::from(self.port) << 16;
        [destination.bits(), source.bits(), kind]
    }
}

/// What the core keeps for itself: which conversations a megaflow has, as
/// lists. Numbers are plus one, 0 is none.
pub struct Conversations {
    /// By entry.
    first: Box<[u32]>,
    /// By line.
    next: Box<[u32]>,
    previous: Box<[u32]>,
    /// How many there are.
    pub count: usize,
    /// [`SILENT`], in units of `used`.
    silent: u16,
}

impl Conversations {
    /// For a table with so many entries and blocks, and a counter of `hz` cycles
    /// per second.
    pub fn new(blocks: usize, hz: u64) -> Self {
        let silent = (SILENT.as_secs_f64() * hz as f64) as u64 >> USED_SHIFT;
        Self {
            first: vec![0; blocks].into_boxed_slice(),
            next: vec![0; CONVERSATIONS].into_boxed_slice(),
            previous: vec![0; CONVERSATIONS].into_boxed_slice(),
            count: 0,
            silent: u16::try_from(silent).unwrap_or(u16::MAX).max(1),
        }
    }

    /// One of a megaflow's conversations.
    fn of(&self, entry: u32) -> Option<usize> {
        (self.first[entry as usize] as usize).checked_sub(1)
    }

    fn link(&mut self, entry: u32, at: usize) {
        let first = &mut self.first[entry as usize];
        (self.next[at], self.previous[at]) = (*first, 0);
        if let Some(next) = (*first as usize).checked_sub(1) {
            self.previous[next] = at as u32 + 1;
        }
        *first = at as u32 + 1;
        self.count += 1;
    }

    fn unlink(&mut self, entry: u32, at: usize) {
        let (next, previous) = (self.next[at], self.previous[at]);
        match (previous as usize).checked_sub(1) {
            Some(previous) => self.next[previous] = next,
            None => self.first[entry as usize] = next,
        }
        if let Some(next) = (next as usize).checked_sub(1) {
            self.previous[next] = previous;
        }
        self.count -= 1;
    }
}

/// Whether a key and mask say all that decides where NORMAL sends a packet: port,
/// destination and outer VLAN. Then there is one answer for all packets, and
/// their conversations need not be told apart.
pub fn name_way(key: &PacketKey, mask: &PacketKey) -> bool {
    const PORT: u64 = 0xffff << 32;
    mask.0[0] & PORT == PORT && name_station(key.0[1], mask.0[1])
}

/// The same of the word of destination and outer tag.
pub fn name_station(key: u64, mask: u64) -> bool {
    const PRESENT: u64 = VLAN_PRESENT as u64;
    let untagged = mask & PRESENT != 0 && key & PRESENT == 0;
    mask | 0xffff == u64::MAX && (untagged || mask & 0x1fff == 0x1fff)
}

#[inline(always)]
fn owner(line: &Line) -> u32 {
    line[OWNER].load(Ordering::Relaxed) as u32
}

/// What is to be moved out of a line.
struct Taken {
    entry: u32,
    packets: u64,
    bytes: u64,
    used: u16,
}

impl Core {
    /// Counts a run of packets whose megaflow is `entry`.
    #[inline(always)]
    pub(super) fn count_run(
        &mut self,
        table: &CacheTable,
        parts: &Parts<'_>,
        entry: u32,
        run: &Run,
        now: u64,
    ) {
        let Some(cell) = parts.entries.get(entry as usize) else {
            return;
        };
        match run.tells_apart {
            false => super::count(cell, run.packets, run.bytes, now),
            true => {
                self.count_conversation(table, parts, entry, run, now);
                super::touch(cell, now);
            }
        }
    }

    /// Counts a burst that belongs to one megaflow by conversation.
    #[inline(never)]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn count_conversations(
        &mut self,
        table: &CacheTable,
        entry: u32,
        port: u16,
        which: impl Which,
        packets: &Packets<'_>,
        keys: &[Key; BURST],
        now: u64,
    ) {
        let parts = table.parts();
        let mut run = Run::of(port, Conversation::default(), 0, 0);
        for (nth, key) in keys.iter().enumerate().take(which.count()) {
            let index = which.index(nth);
            let (head, len) = (packets.head_slot(index), packets.head(index).len());
            let conversation = Conversation::of(key, head, len);
            if nth == 0 {
                run.conversation = conversation;
            } else if run.conversation != conversation {
                self.count_run(table, &parts, entry, &run, now);
                run = Run::of(port, conversation, 0, 0);
            }
            run.add(packets.frame_len(index) as u64);
        }
        self.count_run(table, &parts, entry, &run, now);
    }

    /// A call for a run, so that the loops that find runs stay small.
    #[inline(never)]
    fn count_conversation(
        &mut self,
        table: &CacheTable,
        parts: &Parts<'_>,
        entry: u32,
        run: &Run,
        now: u64,
    ) {
        let words = run.words();
        let hash = words
            .iter()
            .fold(entry.into(), |hash, word| crc32c(hash, *word));
        let home = hash as usize & (CONVERSATIONS - 1);
        for way in 0..WAYS {
            let Some(line) = parts.conversations.get(home ^ way) else {
                return;
            };
            let differ = |i: usize| line[i].load(Ordering::Relaxed) ^ words[i];
            let other = u64::from(owner(line) ^ (entry + 1));
            if differ(DESTINATION) | differ(SOURCE) | differ(KIND) | other == 0 {
                add(&line[PACKETS], run.packets.into());
                add(&line[BYTES], run.bytes);
                line[USED].store(used_now(now).into(), Ordering::Relaxed);
                return;
            }
        }
        self.begin_conversation(table, parts, entry, run, home, now);
    }

    /// Gives the run's conversation a line, if there is one for it.
    #[inline(never)]
    fn begin_conversation(
        &mut self,
        table: &CacheTable,
        parts: &Parts<'_>,
        entry: u32,
        run: &Run,
        home: usize,
        now: u64,
    ) {
        let ways = || (0..WAYS).map(|way| home ^ way);
        let free = ways().find(|at| owner(&parts.conversations[*at]) == 0);
        let used = used_now(now);
        let Some(at) = free.or_else(|| self.displace(table, parts, ways(), used)) else {
            let cell = &parts.entries[entry as usize];
            return add_to_rest(cell, run.packets.into(), run.bytes, used);
        };
        let line = &parts.conversations[at];
        let changes = line[OWNER].load(Ordering::Relaxed) >> 32;
        // Whoever sees what is written now also sees that the line was free.
        fence(Ordering::Release);
        for (to, word) in line.iter().zip(run.words()) {
            to.store(word, Ordering::Relaxed);
        }
        line[PACKETS].store(run.packets.into(), Ordering::Relaxed);
        line[BYTES].store(run.bytes, Ordering::Relaxed);
        line[USED].store(used.into(), Ordering::Relaxed);
        line[OWNER].store(changes << 32 | u64::from(entry + 1), Ordering::Release);
        self.conversations.link(entry, at);
    }

    /// Takes the line of the one that has been silent the longest, if it is
    /// long enough; its counts go to its megaflow's rest.
    fn displace(
        &mut self,
        table: &CacheTable,
        parts: &Parts<'_>,
        ways: impl Iterator<Item = usize>,
        now: u16,
    ) -> Option<usize> {
        let silent = ways.map(|at| (now.wrapping_sub(used(&parts.conversations[at])), at));
        let (_, at) = silent
            .filter(|(silent, _)| *silent >= self.conversations.silent)
            .max()?;
        move_counts(table, || {
            if let Some(taken) = self.take_line(parts, at) {
                let cell = &parts.entries[taken.entry as usize];
                add_to_rest(cell, taken.packets, taken.bytes, taken.used);
            }
            at
        })
    }

    /// Frees a line. Only within [`move_counts`].
    fn take_line(&mut self, parts: &Parts<'_>, at: usize) -> Option<Taken> {
        let line = &parts.conversations[at];
        let entry = owner(line).checked_sub(1)?;
        let changes = (line[OWNER].load(Ordering::Relaxed) >> 32) + 1;
        line[OWNER].store(changes << 32, Ordering::Relaxed);
        self.conversations.unlink(entry, at);
        Some(Taken {
            entry,
            packets: line[PACKETS].load(Ordering::Relaxed),
            bytes: line[BYTES].load(Ordering::Relaxed),
            used: used(line),
        })
    }

    /// Frees all lines of a megaflow that goes; what they counted is the rest's.
    /// Only within [`move_counts`].
    pub(super) fn end_conversations(&mut self, parts: &Parts<'_>, entry: u32) {
        let cell = &parts.entries[entry as usize];
        while let Some(at) = self.conversations.of(entry) {
            if let Some(taken) = self.take_line(parts, at) {
                add(&cell[table::PACKETS], taken.packets);
                add(&cell[table::BYTES], taken.bytes);
            }
        }
    }

    /// Whether the conversation in a line has been silent for more than
    /// `max_idle`; then the bridge that it is of.
    pub(super) fn is_silent(
        &self,
        parts: &Parts<'_>,
        at: usize,
        idle: u16,
        now: u16,
    ) -> Option<u16> {
        let line = &parts.conversations[at];
        let entry = parts.entries.get(owner(line).checked_sub(1)? as usize)?;
        let bridge = (entry[0].load(Ordering::Relaxed) >> 48) as u16;
        (now.wrapping_sub(used(line)) > idle).then_some(bridge)
    }

    /// A conversation's time has come: its counts go to the rules' cells.
    /// Only within [`move_counts`].
    pub(super) fn forget(
        &mut self,
        parts: &Parts<'_>,
        at: usize,
        view: Option<&BridgeView>,
        now: u64,
    ) {
        if let (Some(taken), Some(view)) = (self.take_line(parts, at), view) {
            let cell = &parts.entries[taken.entry as usize];
            self.settle(parts, cell, view, taken, now);
        }
    }

    /// The same for a megaflow's rest, if nothing was added to it for more
    /// than `idle`.
    pub(super) fn forget_rest(
        &mut self,
        parts: &Parts<'_>,
        number: u32,
        view: &BridgeView,
        now: u64,
    ) {
        let cell = &parts.entries[number as usize];
        let taken = Taken {
            entry: number,
            packets: cell[table::PACKETS].swap(0, Ordering::Relaxed),
            bytes: cell[table::BYTES].swap(0, Ordering::Relaxed),
            used: rest_used(cell),
        };
        self.settle(parts, cell, view, taken, now);
    }

    /// Whether a megaflow has a rest that was not added to for more than `idle`.
    pub(super) fn rest_is_silent(&self, entry: &Entry, meta: Meta, idle: u16, now: u16) -> bool {
        meta.tells_apart()
            && entry[table::PACKETS].load(Ordering::Relaxed) > 0
            && now.wrapping_sub(rest_used(entry)) > idle
    }

    fn settle(&self, parts: &Parts<'_>, cell: &Entry, view: &BridgeView, taken: Taken, now: u64) {
        let idle = u64::from(used_now(now).wrapping_sub(taken.used)) << USED_SHIFT;
        let counts = Counts {
            packets: taken.packets,
            bytes: taken.bytes,
            used_ms: self.clock.ms_at(now.saturating_sub(idle)),
        };
        for id in parts.verdict(cell).counted() {
            if let Some(rule) = view.stats.cell(id) {
                rule.add_if(counts, made(cell));
            }
        }
    }

    /// Counts a burst: packets in a row that are counted together at once.
    #[inline(always)]
    pub(super) fn count_burst(
        &mut self,
        work: &super::Work<'_>,
        found: &super::Found,
        lens: &[u32; ringway_vhost::BURST],
        packets: usize,
    ) {
        let super::Work {
            table,
            ref parts,
            keys,
            now,
            ..
        } = *work;
        let port = work.port();
        let (mut entry, mut run) = (super::NONE, Run::of_megaflow(port, 0, 0));
        for i in 0..packets {
            if found.entries[i] != entry {
                self.count_run(table, parts, entry, &run, now);
                entry = found.entries[i];
                let cell = parts.entries.get(entry as usize);
                let tells_apart = cell.is_some_and(|cell| Meta::load(cell).tells_apart());
                run = Run::of_megaflow(port, 0, 0);
                if tells_apart {
                    run = Run::of(port, Conversation::of_flow(&keys[i]), 0, 0);
                }
            } else if run.tells_apart {
                let conversation = Conversation::of_flow(&keys[i]);
                if run.conversation != conversation {
                    self.count_run(table, parts, entry, &run, now);
                    run = Run::of(port, conversation, 0, 0);
                }
            }
            run.add(lens[i].into());
        }
        self.count_run(table, parts, entry, &run, now);
    }
}

fn used(line: &Line) -> u16 {
    line[USED].load(Ordering::Relaxed) as u16
}

/// Counts packets of a megaflow that have no line.
fn add_to_rest(cell: &Entry, packets: u64, bytes: u64, used: u16) {
    let newer = (used.wrapping_sub(rest_used(cell)) as i16) > 0;
    if newer || cell[table::PACKETS].load(Ordering::Relaxed) == 0 {
        set_rest_used(cell, used);
    }
    add(&cell[table::PACKETS], packets);
    add(&cell[table::BYTES], bytes);
}

/// A conversation as it was read.
#[derive(Clone, Debug)]
pub struct ConversationRecord {
    /// As flows know it.
    pub port: u16,
    pub conversation: Conversation,
    pub packets: u64,
    pub bytes: u64,
    /// TSC cycles since its last packet, within some milliseconds.
    pub idle_cycles: u64,
}

/// All conversations of a table, by their megaflow's entry.
pub fn read_conversations(table: &CacheTable, now: u64) -> HashMap<usize, Vec<ConversationRecord>> {
    let mut all: HashMap<usize, Vec<_>> = HashMap::new();
    for line in table.parts().conversations {
        if let Some((entry, record)) = read_line(line, now) {
            all.entry(entry).or_default().push(record);
        }
    }
    all
}

fn read_line(line: &Line, now: u64) -> Option<(usize, ConversationRecord)> {
    for _ in 0..4 {
        let before = line[OWNER].load(Ordering::Acquire);
        let entry = (before as u32).checked_sub(1)?;
        let [destination, source, kind, _, packets, bytes, used, _] =
            std::array::from_fn(|i| line[i].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if line[OWNER].load(Ordering::Relaxed) == before {
            let idle = used_now(now).wrapping_sub(used as u16);
            let record = ConversationRecord {
                port: (kind >> 16) as u16,
                conversation: Conversation {
                    destination: Station::from_bits(destination),
                    source: Station::from_bits(source),
                    kind: Kind::from_bits((kind >> 32) as u32),
                },
                packets,
                bytes,
                idle_cycles: u64::from(idle) << USED_SHIFT,
            };
            return Some((entry as usize, record));
        }
    }
    None
}
