//! The forwarding database: which station is behind which port.
//!
//! Eight-way buckets of words in table memory (hugepages where there are
//! any). PMDs look up and learn, the control plane ages and flushes; all
//! without locks:
//!
//! - a slot is a key word and a value word; key 0 is free, key [`BUSY`] is
//!   being filled,
//! - who learns takes a free slot by exchanging its key with `BUSY`, writes the
//!   value and then the key (release); readers see a key only after its value,
//! - two PMDs that learn a station at the same instant may fill two slots; the
//!   first is found, the second ages out,
//! - a station that is known costs its PMD a write only once a second (when it
//!   was last heard) or when it moves.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::parse::{Station, hash_word};
use crate::table_memory::TableMemory;

const WAYS: usize = 8;
/// Keys and values of a bucket: two cache lines.
const BUCKET_WORDS: usize = 2 * WAYS;
const FREE: u64 = 0;
/// No station has these bits: bits 12 to 15 are always clear in a key.
const BUSY: u64 = 0xf000;

/// What learning a station did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was known there.
    Known,
    /// It is new.
    New,
    /// It was known at another port.
    Moved,
    /// There was no room for it.
    Refused,
}

/// A bridge's table.
pub struct Fdb {
    memory: TableMemory,
    bucket_mask: usize,
    limit: AtomicU32,
    entries: AtomicU32,
    moves: AtomicU64,
    refused: AtomicU64,
}

/// Port number and the second it was last heard, in one word.
fn value(port: u32, second: u32) -> u64 {
    u64::from(port) << 32 | u64::from(second)
}

impl Fdb {
    /// Words of memory for `limit` stations: twice as many slots, so that a
    /// bucket overflows only by bad luck.
    pub fn words_for(limit: u32) -> usize {
        let slots = (limit as usize * 2).next_power_of_two().max(WAYS);
        slots / WAYS * BUCKET_WORDS
    }

    /// An empty table in `memory`, which must have
    /// [`words_for(limit)`](Self::words_for) zeroed words.
    pub fn new(memory: TableMemory, limit: u32) -> Self {
        let buckets = memory.words().len() / BUCKET_WORDS;
        debug_assert!(buckets.is_power_of_two());
        Self {
            memory,
            bucket_mask: buckets.saturating_sub(1),
            limit: AtomicU32::new(limit),
            entries: AtomicU32::new(0),
            moves: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    fn bucket(&self, key: u64) -> (&[AtomicU64], &[AtomicU64]) {
        let bucket = hash_word(key) as usize & self.bucket_mask;
        let words = &self.memory.words()[bucket * BUCKET_WORDS..][..BUCKET_WORDS];
        words.split_at(WAYS)
    }

    #[inline(always)]
    fn find(&self, station: Station) -> Option<(&AtomicU64, u64)> {
        // The address of all zeros in no VLAN looks like a free slot.
        if station.bits() == FREE {
            return None;
        }
        let (keys, values) = self.bucket(station.bits());
        keys.iter()
            .position(|key| key.load(Ordering::Acquire) == station.bits())
            .map(|way| (&values[way], values[way].load(Ordering::Relaxed)))
    }

    /// The port that `station` was last heard on.
    #[inline(always)]
    pub fn lookup(&self, station: Station) -> Option<u32> {
        self.find(station).map(|(_, value)| (value >> 32) as u32)
    }

    /// `station` was heard on `port` in this second.
    #[inline(always)]
    pub fn learn(&self, station: Station, port: u32, second: u32) -> Learned {
        let now = value(port, second);
        match self.find(station) {
            Some((_, old)) if old == now => Learned::Known,
            Some((cell, old)) => {
                cell.store(now, Ordering::Relaxed);
                if old >> 32 == u64::from(port) {
                    Learned::Known
                } else {
                    self.moves.fetch_add(1, Ordering::Relaxed);
                    Learned::Moved
                }
            }
            None => self.insert(station, port, now),
        }
    }

    #[cold]
    fn insert(&self, station: Station, port: u32, now: u64) -> Learned {
        // Not a station anybody can send to.
        if station.bits() & !0xfff == 0 || station.is_group() {
            return Learned::Refused;
        }
        let (keys, values) = self.bucket(station.bits());
        if self.entries.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed) {
            for (key, value) in keys.iter().zip(values) {
                if key
                    .compare_exchange(FREE, BUSY, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    value.store(now, Ordering::Relaxed);
                    key.store(station.bits(), Ordering::Release);
                    self.entries.fetch_add(1, Ordering::Relaxed);
                    return Learned::New;
                }
            }
        }
        // Full: the port's own longest silent station in this bucket makes
        // room. A guest that makes up addresses displaces only its own.
        let oldest = keys
            .iter()
            .zip(values)
            .map(|(key, value)| (value.load(Ordering::Relaxed), key, value))
            .filter(|(old, key, _)| {
                old >> 32 == u64::from(port) && !matches!(key.load(Ordering::Relaxed), FREE | BUSY)
            })
            .min_by_key(|(old, _, _)| *old as u32);
        if let Some((_, key, value)) = oldest {
            let old_key = key.load(Ordering::Relaxed);
            if old_key != FREE
                && old_key != BUSY
                && key
                    .compare_exchange(old_key, BUSY, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                value.store(now, Ordering::Relaxed);
                key.store(station.bits(), Ordering::Release);
                return Learned::New;
            }
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Learned::Refused
    }

    /// Forgets every station but those of which `keep(station, port, second)` is true.
    pub fn retain(&self, mut keep: impl FnMut(Station, u32, u32) -> bool) -> usize {
        let mut forgotten = 0;
        for bucket in self.memory.words().chunks_exact(BUCKET_WORDS) {
            let (keys, values) = bucket.split_at(WAYS);
            for (key, value) in keys.iter().zip(values) {
                let bits = key.load(Ordering::Acquire);
                if bits == FREE || bits == BUSY {
                    continue;
                }
                let value = value.load(Ordering::Relaxed);
                if !keep(Station::from_bits(bits), (value >> 32) as u32, value as u32)
                    && key
                        .compare_exchange(bits, FREE, Ordering::Relaxed, Ordering::Relaxed)
                        .is_ok()
                {
                    self.entries.fetch_sub(1, Ordering::Relaxed);
                    forgotten += 1;
                }
            }
        }
        forgotten
    }

    /// Forgets what was learned on a port: it goes, or its VLANs are others now.
    /// To be called after the snapshot in which it is so was published, else a
    /// core may learn the old again.
    pub fn forget_port(&self, number: u32) -> usize {
        self.retain(|_, port, _| port != number)
    }

    /// Calls `each(station, port, second)` for every station.
    pub fn for_each(&self, mut each: impl FnMut(Station, u32, u32)) {
        self.retain(|station, port, second| {
            each(station, port, second);
            true
        });
    }

    /// Stations known.
    pub fn len(&self) -> u32 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Most stations learned.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Times a station was seen moving to another port.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Takes over what another process has counted.
    pub fn add_counts(&self, moves: u64, refused: u64) {
        self.moves.fetch_add(moves, Ordering::Relaxed);
        self.refused.fetch_add(refused, Ordering::Relaxed);
    }

    /// Times a station was not learned for lack of room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn fdb(limit: u32) -> Fdb {
        Fdb::new(TableMemory::ordinary(Fdb::words_for(limit)), limit)
    }

    fn station(n: u32, vlan: u16) -> Station {
        let [a, b, c, d] = n.to_be_bytes();
        Station::new([2, 1, a, b, c, d], vlan)
    }

    #[test]
    fn learns_moves_and_forgets() {
        let fdb = fdb(100);
        let a = station(1, 0);
        assert_eq!(fdb.lookup(a), None);
        assert_eq!(fdb.learn(a, 1, 10), Learned::New);
        assert_eq!(fdb.learn(a, 1, 10), Learned::Known);
        assert_eq!(fdb.learn(a, 1, 11), Learned::Known);
        assert_eq!(fdb.lookup(a), Some(1));
        assert_eq!(
            fdb.lookup(station(1, 5)),
            None,
            "another VLAN is another station"
        );
        assert_eq!(fdb.learn(a, 2, 12), Learned::Moved);
        assert_eq!(fdb.lookup(a), Some(2));
        assert_eq!(fdb.moves(), 1);
        assert_eq!(fdb.retain(|_, _, second| second > 12), 1);
        assert_eq!((fdb.lookup(a), fdb.len()), (None, 0));
    }

    #[test]
    fn the_address_of_all_zeros_is_nowhere() {
        let fdb = fdb(64);
        let nobody = Station::new([0; 6], 0);
        assert_eq!(fdb.lookup(nobody), None);
        assert_eq!(fdb.learn(nobody, 3, 1), Learned::Refused);
        assert_eq!(fdb.lookup(nobody), None);
    }

    #[test]
    fn group_addresses_are_not_learned() {
        let fdb = fdb(100);
        assert_eq!(
            fdb.learn(Station::new([0xff; 6], 0), 1, 1),
            Learned::Refused
        );
        assert_eq!(fdb.learn(Station::new([0; 6], 7), 1, 1), Learned::Refused);
    }

    #[test]
    fn a_flood_of_addresses_from_one_port_leaves_the_others_stations() {
        let fdb = fdb(64);
        for n in 0..32 {
            assert_eq!(fdb.learn(station(n, 0), 1, 1), Learned::New);
        }
        for n in 1000..100_000 {
            fdb.learn(station(n, 0), 2, 2);
        }
        assert!(fdb.len() <= 64);
        for n in 0..32 {
            assert_eq!(fdb.lookup(station(n, 0)), Some(1));
        }
    }

    #[test]
    fn two_pmds_learning_the_same_stations_agree() {
        let fdb = fdb(4096);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for n in 0..2000 {
                        fdb.learn(station(n, 0), 3, 1);
                    }
                });
            }
        });
        for n in 0..2000 {
            assert_eq!(fdb.lookup(station(n, 0)), Some(3));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec(
            (0u32..50, 0u16..3, 1u32..4, 0u8..10), 1..300)) {
            let fdb = fdb(1024);
            let mut model: HashMap<Station, (u32, u32)> = HashMap::new();
            for (second, (n, vlan, port, action)) in steps.into_iter().enumerate() {
                let (station, second) = (station(n, vlan), second as u32);
                match action {
                    0 => {
                        fdb.retain(|_, p, _| p != port);
                        model.retain(|_, (p, _)| *p != port);
                    }
                    1 => {
                        fdb.retain(|_, _, heard| second - heard < 20);
                        model.retain(|_, (_, heard)| second - *heard < 20);
                    }
                    _ => {
                        let known = model.insert(station, (port, second));
                        let expected = match known {
                            None => Learned::New,
                            Some((old, _)) if old == port => Learned::Known,
                            Some(_) => Learned::Moved,
                        };
                        prop_assert_eq!(fdb.learn(station, port, second), expected);
                    }
                }
                prop_assert_eq!(fdb.lookup(station), model.get(&station).map(|(p, _)| *p));
                prop_assert_eq!(fdb.len() as usize, model.len());
            }
        }
    }
}
