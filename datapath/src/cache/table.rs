//! The memory of one poll-mode core's flow cache: words in hugepages, written
//! by that core alone, read by the control plane at any time.
//!
//! ```text
//! entry: 32 words, four cache lines; a hit on an IPv4 megaflow touches the first only
//!   0 … 4   key words 0 … 4
//!   5       used (16 bits, see UsedClock) | version (16) | mask (16, 0: no entry) | verdict (16)
//!   6, 7    packets, bytes
//!   8 … 16  key words 5 … 13
//!   17      state: FREE, BUSY, LIVE in the lower bits, a count of changes above
//!   18      dependencies: tables
//!   19      dependencies: modified words (32) | groups (1) | program words (8) | counted cells (8)
//!   20      version when it was made (32) | hash (32)
//!   21      when the rest was last used (16) | unused (16) | next block of the payload, plus one (32)
//!   22 … 31 payload: program words, then counted cells, two to a word
//! block: more payload; words 5 and 17 say that it is no entry, the last is the next block plus one
//! conversation: a cache line, see [`super::conversations`]
//! index and exact-match cache: buckets of 8 words, each hash (32) | entry plus one (32)
//! ```
//!
//! A reader takes an entry's state before and after copying it: the same and
//! LIVE, or the copy is not to be trusted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use dpdk::{Eal, MemzoneError};
use ringway_flow::key::{PACKET_WORDS, PacketKey};
use ringway_flow::pipeline::Dependencies;
use ringway_flow::program::PROGRAM_WORDS;
use ringway_flow::translate::MAX_COUNTED;

use super::conversations::{CONVERSATIONS, LINE_WORDS, Line};
use crate::table_memory::TableMemory;

pub const ENTRY_WORDS: usize = 32;
pub const BUCKET_WORDS: usize = 8;
/// Masks of one core, over all bridges; number 0 stands for none.
pub const MASKS: usize = 1024;
const MASK_WORDS: usize = 16;
/// Blocks beyond the limit: verdicts of packets whose megaflow finds no room.
const RESERVE: usize = 512;

/// Key words that lie in an entry's first line.
pub const HOT: usize = 5;
pub const META: usize = 5;
pub const PACKETS: usize = 6;
pub const BYTES: usize = 7;
const COLD: usize = 8;
const STATE: usize = 17;
const TABLES: usize = 18;
const SIZES: usize = 19;
const MADE: usize = 20;
const NEXT: usize = 21;
const PAYLOAD: usize = 22;

const FREE: u64 = 0;
const BUSY: u64 = 1;
const LIVE: u64 = 2;
const STATE_BITS: u64 = 3;

/// Most payload words of one entry.
const PAYLOAD_WORDS: usize = PROGRAM_WORDS + MAX_COUNTED.div_ceil(2);

pub type Entry = [AtomicU64; ENTRY_WORDS];
pub type Bucket = [AtomicU64; BUCKET_WORDS];

/// Word 5 of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub used: u16,
    pub version: u16,
    pub mask: u16,
    pub verdict: u16,
}

/// As [`Meta::verdict`]: NORMAL, and packets are counted by conversation.
pub const NORMAL_APART: u16 = 2 << 12 | 1;

impl Meta {
    /// Whether packets are counted by conversation.
    #[inline(always)]
    pub fn tells_apart(self) -> bool {
        self.verdict == NORMAL_APART
    }

    #[inline(always)]
    pub fn load(entry: &Entry) -> Self {
        let word = entry[META].load(Ordering::Relaxed);
        Self {
            used: (word >> 48) as u16,
            version: (word >> 32) as u16,
            mask: (word >> 16) as u16,
            verdict: word as u16,
        }
    }

    #[inline(always)]
    pub fn store(self, entry: &Entry) {
        let word = u64::from(self.used) << 48
            | u64::from(self.version) << 32
            | u64::from(self.mask) << 16
            | u64::from(self.verdict);
        entry[META].store(word, Ordering::Relaxed);
    }
}

/// How large the parts are.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Most megaflows, and blocks of theirs.
    pub limit: usize,
    index_buckets: usize,
    emc_buckets: usize,
}

impl Shape {
    /// For so many megaflows and exact-match entries.
    pub fn new(flow_limit: u32, emc_entries: u32) -> Self {
        let limit = (flow_limit as usize).max(1);
        let buckets = |slots: usize| (slots / BUCKET_WORDS).next_power_of_two();
        Self {
            limit,
            // Half full at the most, so that two buckets hardly ever overflow.
            index_buckets: buckets(limit * 2 + BUCKET_WORDS),
            emc_buckets: buckets((emc_entries as usize).max(BUCKET_WORDS)),
        }
    }

    /// Entries and blocks.
    pub fn blocks(&self) -> usize {
        self.limit + RESERVE
    }

    pub fn emc_entries(&self) -> usize {
        self.emc_buckets * BUCKET_WORDS
    }

    pub fn words(&self) -> usize {
        self.blocks() * ENTRY_WORDS
            + (self.index_buckets + self.emc_buckets) * BUCKET_WORDS
            + MASKS * MASK_WORDS
            + CONVERSATIONS * LINE_WORDS
    }
}

/// The memory and what is said across threads about it.
pub struct CacheTable {
    memory: TableMemory,
    pub shape: Shape,
    /// Megaflows now. Written by the core.
    pub flows: AtomicU64,
    /// Masks now. Written by the core.
    pub masks: AtomicU64,
    /// No entry above has been used. Written by the core.
    pub high_water: AtomicU64,
    /// Odd while the core moves counts from an entry to the rules' cells.
    pub moving: AtomicU64,
    /// Readers that want no counts to be moved now. Written by readers.
    pub holds: AtomicU64,
    /// Forget everything. Set by the control plane, cleared by the core.
    pub flush: AtomicBool,
}

/// The parts of the memory.
#[derive(Clone, Copy)]
pub struct Parts<'t> {
    pub entries: &'t [Entry],
    pub index: &'t [Bucket],
    pub emc: &'t [Bucket],
    masks: &'t [[AtomicU64; MASK_WORDS]],
    pub conversations: &'t [Line],
}

impl CacheTable {
    /// Reserves the memory.
    pub fn reserve(eal: &Eal, name: &str, shape: Shape) -> Result<Self, MemzoneError> {
        TableMemory::reserve(eal, name, shape.words()).map(|memory| Self::new(memory, shape))
    }

    /// In `memory`, which has [`Shape::words`] zeroed words.
    pub fn new(memory: TableMemory, shape: Shape) -> Self {
        Self {
            memory,
            shape,
            flows: AtomicU64::new(0),
            masks: AtomicU64::new(0),
            high_water: AtomicU64::new(0),
            moving: AtomicU64::new(0),
            holds: AtomicU64::new(0),
            flush: AtomicBool::new(false),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.shape.words() * size_of::<u64>()
    }

    /// The parts; once per burst.
    #[inline(always)]
    pub fn parts(&self) -> Parts<'_> {
        let shape = &self.shape;
        let words = self.memory.words();
        let (entries, rest) = words.split_at(shape.blocks() * ENTRY_WORDS);
        let (index, rest) = rest.split_at(shape.index_buckets * BUCKET_WORDS);
        let (emc, rest) = rest.split_at(shape.emc_buckets * BUCKET_WORDS);
        let (masks, conversations) = rest.split_at(MASKS * MASK_WORDS);
        Parts {
            entries: entries.as_chunks().0,
            index: index.as_chunks().0,
            emc: emc.as_chunks().0,
            masks: masks.as_chunks().0,
            conversations: conversations.as_chunks().0,
        }
    }
}

impl<'t> Parts<'t> {
    /// The two buckets in which an entry with this hash may be.
    #[inline(always)]
    pub fn buckets(&self, hash: u32) -> [&'t Bucket; 2] {
        let mask = self.index.len() - 1;
        let first = hash as usize & mask;
        // Another bucket, of which the first can be computed back.
        let second = (first ^ (hash >> 16 | 1) as usize) & mask;
        [&self.index[first], &self.index[second]]
    }

    #[inline(always)]
    pub fn emc_bucket(&self, hash: u32) -> &'t Bucket {
        &self.emc[hash as usize & (self.emc.len() - 1)]
    }

    /// Writes a mask where readers find it.
    pub fn set_mask(&self, number: u16, mask: &PacketKey) {
        if let Some(words) = self.masks.get(usize::from(number)) {
            for (word, value) in words.iter().zip(mask.0) {
                word.store(value, Ordering::Relaxed);
            }
        }
    }

    fn mask(&self, number: u16) -> PacketKey {
        match self.masks.get(usize::from(number)) {
            Some(words) => PacketKey(std::array::from_fn(|i| words[i].load(Ordering::Relaxed))),
            None => PacketKey::ALL,
        }
    }

    /// What stands in an entry, if it lives and did not change meanwhile.
    pub fn read(&self, entry: usize) -> Option<Record> {
        let words = self.entries.get(entry)?;
        for _ in 0..4 {
            let before = words[STATE].load(Ordering::Acquire);
            if before & STATE_BITS != LIVE {
                return None;
            }
            let record = self.copy(words);
            fence(Ordering::Acquire);
            if words[STATE].load(Ordering::Relaxed) == before {
                return Some(record);
            }
        }
        None
    }

    fn copy(&self, entry: &Entry) -> Record {
        let meta = Meta::load(entry);
        let verdict = self.verdict(entry);
        Record {
            meta,
            key: key(entry),
            mask: self.mask(meta.mask),
            packets: entry[PACKETS].load(Ordering::Relaxed),
            bytes: entry[BYTES].load(Ordering::Relaxed),
            rest_used: rest_used(entry),
            made: made(entry),
            dependencies: dependencies(entry),
            program: verdict.program().to_vec(),
            counted: verdict.counted().collect(),
        }
    }

    /// An entry's program and cells.
    pub fn verdict(&self, entry: &Entry) -> Payload {
        let (program, counted) = sizes(entry);
        let mut payload = Payload {
            words: [0; PAYLOAD_WORDS],
            program,
            counted,
        };
        let total = (program + counted.div_ceil(2)).min(PAYLOAD_WORDS);
        let mut at = 0;
        let mut copy = |from: &AtomicU64| {
            if at < total {
                payload.words[at] = from.load(Ordering::Relaxed);
                at += 1;
            }
            at < total
        };
        let mut more = entry[PAYLOAD..].iter().all(&mut copy);
        let mut next = entry[NEXT].load(Ordering::Relaxed);
        // A reader may meet a chain that is being changed: it ends anyway, for
        // every round takes words.
        while more
            && let Some(number) = (next as u32 as usize).checked_sub(1)
            && let Some(block) = self.entries.get(number)
        {
            more = block_words(block).all(&mut copy);
            next = block[ENTRY_WORDS - 1].load(Ordering::Relaxed);
        }
        payload
    }
}

/// The words of a block that hold payload: not those by which an entry is known.
fn block_words(block: &Entry) -> impl Iterator<Item = &AtomicU64> {
    let (before, rest) = block.split_at(META);
    let (middle, rest) = rest.split_at(STATE - META);
    let (_, middle) = middle.split_at(1);
    let end = &rest[1..rest.len() - 1];
    before.iter().chain(middle).chain(end)
}

/// Payload words of a block.
const BLOCK_WORDS: usize = ENTRY_WORDS - 3;

/// What stands in an entry.
#[derive(Clone, Debug)]
pub struct Record {
    pub meta: Meta,
    pub key: PacketKey,
    pub mask: PacketKey,
    pub packets: u64,
    pub bytes: u64,
    /// See [`rest_used`].
    pub rest_used: u16,
    pub made: u32,
    pub dependencies: Dependencies,
    pub program: Vec<u64>,
    pub counted: Vec<u32>,
}

/// An entry's program and cells, copied out of its blocks.
pub struct Payload {
    words: [u64; PAYLOAD_WORDS],
    program: usize,
    counted: usize,
}

impl Payload {
    pub fn program(&self) -> &[u64] {
        &self.words[..self.program.min(PAYLOAD_WORDS)]
    }

    pub fn counted(&self) -> impl Iterator<Item = u32> {
        let words = self.words.get(self.program..).unwrap_or(&[]);
        let pairs = words
            .iter()
            .flat_map(|word| [(word >> 32) as u32, *word as u32]);
        pairs.take(self.counted)
    }
}

/// How many words `program` and `counted` take, in blocks beyond the entry.
pub fn blocks_needed(program: usize, counted: usize) -> usize {
    let payload = program + counted.div_ceil(2);
    payload
        .saturating_sub(ENTRY_WORDS - PAYLOAD)
        .div_ceil(BLOCK_WORDS)
}

/// Writes program and cells into an entry and `blocks`, of which there are as
/// many as [`blocks_needed`] says.
pub fn write_payload(
    parts: &Parts<'_>,
    entry: &Entry,
    blocks: &[u32],
    program: &[u64],
    counted: &[u32],
) {
    let cells = counted
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 32 | u64::from(pair.get(1).copied().unwrap_or(0)));
    let mut words = program.iter().copied().chain(cells);
    for (to, word) in entry[PAYLOAD..].iter().zip(&mut words) {
        to.store(word, Ordering::Relaxed);
    }
    let mut link = &entry[NEXT];
    for number in blocks {
        link.store(u64::from(*number) + 1, Ordering::Relaxed);
        let Some(block) = parts.entries.get(*number as usize) else {
            return;
        };
        // Free, and so without a mask and in the state FREE: it stays so.
        for (to, word) in block_words(block).zip(&mut words) {
            to.store(word, Ordering::Relaxed);
        }
        link = &block[ENTRY_WORDS - 1];
    }
    link.store(0, Ordering::Relaxed);
}

/// The blocks that an entry has beside itself.
pub fn for_each_block(parts: &Parts<'_>, entry: &Entry, mut each: impl FnMut(u32)) {
    let mut next = entry[NEXT].load(Ordering::Relaxed) as u32;
    while let Some(number) = next.checked_sub(1) {
        let Some(block) = parts.entries.get(number as usize) else {
            return;
        };
        next = block[ENTRY_WORDS - 1].load(Ordering::Relaxed) as u32;
        each(number);
    }
}

/// When the packets were last counted that have a megaflow of NORMAL, but no
/// conversation; in units of `used`.
pub fn rest_used(entry: &Entry) -> u16 {
    (entry[NEXT].load(Ordering::Relaxed) >> 48) as u16
}

/// See [`rest_used`].
pub fn set_rest_used(entry: &Entry, used: u16) {
    let next = entry[NEXT].load(Ordering::Relaxed) & u64::from(u32::MAX);
    entry[NEXT].store(u64::from(used) << 48 | next, Ordering::Relaxed);
}

/// From now on readers leave the entry alone.
pub fn begin(entry: &Entry) {
    let state = entry[STATE].load(Ordering::Relaxed);
    entry[STATE].store(((state | STATE_BITS) + 1) | BUSY, Ordering::Relaxed);
    fence(Ordering::Release);
}

/// The entry is whole: readers may see it.
pub fn publish(entry: &Entry) {
    let state = entry[STATE].load(Ordering::Relaxed);
    entry[STATE].store(state & !STATE_BITS | LIVE, Ordering::Release);
}

/// The entry is nobody's.
pub fn release(entry: &Entry) {
    let state = entry[STATE].load(Ordering::Relaxed);
    entry[META].store(0, Ordering::Relaxed);
    entry[STATE].store(state & !STATE_BITS | FREE, Ordering::Release);
}

/// Writes all but payload, meta and state.
pub fn write_facts(
    entry: &Entry,
    key: &PacketKey,
    dependencies: &Dependencies,
    sizes: (usize, usize),
    made: u32,
    hash: u32,
) {
    for (i, word) in key.0.iter().enumerate() {
        entry[key_word(i)].store(*word, Ordering::Relaxed);
    }
    entry[PACKETS].store(0, Ordering::Relaxed);
    entry[BYTES].store(0, Ordering::Relaxed);
    entry[TABLES].store(dependencies.tables, Ordering::Relaxed);
    let (program, counted) = sizes;
    let facts = u64::from(dependencies.modified) << 32
        | u64::from(dependencies.groups) << 16
        | (program as u64 & 0xff) << 8
        | counted as u64 & 0xff;
    entry[SIZES].store(facts, Ordering::Relaxed);
    let made = u64::from(made) << 32 | u64::from(hash);
    entry[MADE].store(made, Ordering::Relaxed);
}

/// Where a key's word is in an entry.
#[inline(always)]
pub const fn key_word(word: usize) -> usize {
    match word < HOT {
        true => word,
        false => word - HOT + COLD,
    }
}

pub fn key(entry: &Entry) -> PacketKey {
    let word = |i: usize| entry[key_word(i)].load(Ordering::Relaxed);
    PacketKey(std::array::from_fn::<_, PACKET_WORDS, _>(word))
}

fn sizes(entry: &Entry) -> (usize, usize) {
    let facts = entry[SIZES].load(Ordering::Relaxed);
    ((facts >> 8 & 0xff) as usize, (facts & 0xff) as usize)
}

pub fn dependencies(entry: &Entry) -> Dependencies {
    let facts = entry[SIZES].load(Ordering::Relaxed);
    Dependencies {
        tables: entry[TABLES].load(Ordering::Relaxed),
        modified: (facts >> 32) as u32,
        groups: facts >> 16 & 1 == 1,
    }
}

/// The version in which an entry was made.
pub fn made(entry: &Entry) -> u32 {
    (entry[MADE].load(Ordering::Relaxed) >> 32) as u32
}

/// The entry is as good in this version as in the one it was made in.
pub fn set_made(entry: &Entry, version: u32) {
    let made = u64::from(version) << 32 | u64::from(hash(entry));
    entry[MADE].store(made, Ordering::Relaxed);
}

/// The hash under which an entry is in the index.
pub fn hash(entry: &Entry) -> u32 {
    entry[MADE].load(Ordering::Relaxed) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_every_length_come_back() {
        let shape = Shape::new(64, 8);
        let table = CacheTable::new(TableMemory::ordinary(shape.words()), shape);
        let parts = table.parts();
        let entry = &parts.entries[0];
        for program_len in 0..=PROGRAM_WORDS {
            for counted_len in [0, 1, 2, 7, MAX_COUNTED] {
                let program: Vec<u64> = (0..program_len as u64).map(|i| i + 1000).collect();
                let counted: Vec<u32> = (0..counted_len as u32).map(|i| i + 5000).collect();
                let blocks: Vec<u32> = (1..)
                    .take(blocks_needed(program_len, counted_len))
                    .collect();
                let sizes = (program_len, counted_len);
                let (key, none) = (PacketKey::default(), Dependencies::default());
                write_facts(entry, &key, &none, sizes, 1, 1);
                write_payload(&parts, entry, &blocks, &program, &counted);
                for block in &parts.entries[1..] {
                    assert_eq!(Meta::load(block).mask, 0);
                    assert_eq!(block[STATE].load(Ordering::Relaxed) & STATE_BITS, FREE);
                }
                let payload = parts.verdict(entry);
                assert_eq!(payload.program(), program);
                assert_eq!(payload.counted().collect::<Vec<_>>(), counted);
                let mut linked = Vec::new();
                for_each_block(&parts, entry, |block| linked.push(block));
                assert_eq!(linked, blocks);
            }
        }
    }
}
