//! What a poll-mode core really did with the next packet that somebody wants
//! to know about.
//!
//! A [`Watch`] is in the plan while it waits. The first core that sees such a
//! packet takes it, writes down what it knew and did, and says that it is done.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ringway_flow::key::PacketKey;
use ringway_flow::matching::Match;

use crate::drop_reason::DropReason;

const WAITS: u32 = 0;
const TAKEN: u32 = 1;
const DONE: u32 = 2;

/// Bytes of the packet that are kept.
const FRAME: usize = 128;
/// Ports that are kept.
const PORTS: usize = 64;

/// How a packet's megaflow was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FoundBy {
    /// It is the only one, for all packets.
    CatchAll = 0,
    /// In the exact-match cache.
    Emc = 1,
    /// By its mask.
    Mask = 2,
    /// It was not known: the packet was translated.
    Upcall = 3,
    /// It was not known, and there was no time to translate.
    Lost = 4,
    /// It was not looked for: the packet did not pass its port's guard.
    NotLookedFor = 5,
}

const ALL_FOUND_BY: [FoundBy; 6] = [
    FoundBy::CatchAll,
    FoundBy::Emc,
    FoundBy::Mask,
    FoundBy::Upcall,
    FoundBy::Lost,
    FoundBy::NotLookedFor,
];

/// A packet that is waited for, and what was done with it.
pub struct Watch {
    /// Number of the port from which it shall come.
    pub port: u32,
    matching: Match,
    state: AtomicU32,
    words: [AtomicU64; FRAME / 8],
    ports: [AtomicU32; PORTS],
    /// Length (32), bytes kept (32).
    len: AtomicU64,
    /// Entry plus one (32), core (16), ports (8), found by (8).
    facts: AtomicU64,
    /// Drop reason plus one.
    reason: AtomicU32,
}

/// What was done with the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// The frame's first bytes.
    pub head: Vec<u8>,
    pub frame_len: usize,
    /// Index of the core.
    pub pmd: usize,
    pub found_by: FoundBy,
    /// The megaflow's entry in that core's table.
    pub entry: Option<u32>,
    /// Ports for which it was listed.
    pub ports: Vec<u32>,
    /// Why it went nowhere, if it did.
    pub dropped: Option<DropReason>,
}

impl Watch {
    pub fn new(port: u32, matching: Match) -> Self {
        Self {
            port,
            matching,
            state: AtomicU32::new(WAITS),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            ports: std::array::from_fn(|_| AtomicU32::new(0)),
            len: AtomicU64::new(0),
            facts: AtomicU64::new(0),
            reason: AtomicU32::new(0),
        }
    }

    /// Whether the packet is one that is waited for; then the caller must
    /// [`keep`](Self::keep) it and [`finish`](Self::finish).
    pub fn takes(&self, key: &PacketKey) -> bool {
        self.state.load(Ordering::Relaxed) == WAITS
            && self.matching.matches(&key.to_flow())
            && (self.state)
                .compare_exchange(WAITS, TAKEN, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Writes the packet down as it came, before it is rewritten.
    pub fn keep(&self, head: &[u8], frame_len: usize) {
        let head = &head[..head.len().min(FRAME)];
        for (word, bytes) in self.words.iter().zip(head.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
        let lengths = (frame_len as u64) << 32 | head.len() as u64;
        self.len.store(lengths, Ordering::Relaxed);
    }

    /// Writes down what was done.
    pub fn finish(
        &self,
        pmd: usize,
        found_by: FoundBy,
        entry: Option<u32>,
        ports: &[u32],
        dropped: Option<DropReason>,
    ) {
        for (to, port) in self.ports.iter().zip(ports) {
            to.store(*port, Ordering::Relaxed);
        }
        let facts = u64::from(entry.map_or(0, |entry| entry + 1)) << 32
            | (pmd as u64 & 0xffff) << 16
            | (ports.len().min(PORTS) as u64) << 8
            | found_by as u64;
        self.facts.store(facts, Ordering::Relaxed);
        let reason = dropped.map_or(0, |reason| reason as u32 + 1);
        self.reason.store(reason, Ordering::Relaxed);
        self.state.store(DONE, Ordering::Release);
    }

    /// What was done, once it was.
    pub fn caught(&self) -> Option<Caught> {
        if self.state.load(Ordering::Acquire) != DONE {
            return None;
        }
        let (lengths, facts) = (
            self.len.load(Ordering::Relaxed),
            self.facts.load(Ordering::Relaxed),
        );
        let words = self.words.iter().map(|word| word.load(Ordering::Relaxed));
        let mut head: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        head.truncate(lengths as u32 as usize);
        let ports = self.ports.iter().take(usize::from((facts >> 8) as u8));
        Some(Caught {
            head,
            frame_len: (lengths >> 32) as usize,
            pmd: usize::from((facts >> 16) as u16),
            found_by: ALL_FOUND_BY[usize::from(facts as u8).min(5)],
            entry: ((facts >> 32) as u32).checked_sub(1),
            ports: ports.map(|port| port.load(Ordering::Relaxed)).collect(),
            dropped: (self.reason.load(Ordering::Relaxed) as usize)
                .checked_sub(1)
                .and_then(|reason| DropReason::ALL.get(reason).copied()),
        })
    }
}
