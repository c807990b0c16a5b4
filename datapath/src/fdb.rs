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
//!   was last heard) or when it moves,
//! - a value changes by exchange only, and is 0 while its slot is free: who
//!   exchanges it counts, so that it is known how many stations each port has.
//!
//! What a port may have is bounded: by its own limit, or else by the table less
//! an eighth of it. In a full table a new station takes the place of one of its
//! own port's, so whoever makes up addresses displaces its own; one of a port
//! with few stations takes that of the port that has most.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::parse::{Station, hash_word};
use crate::snapshot::MAX_PORTS;
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
    /// The port has as many as it may; what comes from the station is dropped.
    OverLimit,
    /// It stays where it is known; what comes from the station is dropped.
    Stays,
}

/// A port has few stations with less than one part in so many of the table.
const FEW: u32 = 64;

/// The port is one whose stations do not move.
const STICKY: u64 = 1 << 32;

/// What a port may learn, and what it has.
#[derive(Default)]
struct PortCell {
    /// Most stations (lower half, 0: no limit of its own) and [`STICKY`].
    /// Written by the control plane.
    policy: AtomicU64,
    /// Written by PMDs and the control plane.
    stations: AtomicU32,
    refused: AtomicU64,
}

impl PortCell {
    fn stations(&self) -> u32 {
        self.stations.load(Ordering::Relaxed)
    }

    fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn is_at_limit(&self) -> bool {
        let most = self.policy.load(Ordering::Relaxed) as u32;
        most > 0 && self.stations() >= most
    }

    fn is_sticky(&self) -> bool {
        self.policy.load(Ordering::Relaxed) & STICKY != 0
    }
}

/// A bridge's table.
pub struct Fdb {
    memory: TableMemory,
    bucket_mask: usize,
    /// By port number.
    ports: Box<[PortCell]>,
    limit: AtomicU32,
    entries: AtomicU32,
    moves: AtomicU64,
    refused: AtomicU64,
}

/// Port number and the second it was last heard, in one word.
fn value(port: u32, second: u32) -> u64 {
    u64::from(port) << 32 | u64::from(second)
}

fn port_of(value: u64) -> u32 {
    (value >> 32) as u32
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
            ports: (0..MAX_PORTS).map(|_| PortCell::default()).collect(),
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
        let (_, value) = self.find(station)?;
        // Zero: it is being forgotten.
        (value != 0).then_some(port_of(value))
    }

    #[inline(always)]
    fn cell(&self, port: u32) -> &PortCell {
        &self.ports[port as usize % MAX_PORTS]
    }

    /// A slot's value was exchanged.
    fn count(&self, before: u64, after: u64) {
        let (from, to) = (port_of(before), port_of(after));
        if from != to {
            if before != 0 {
                self.cell(from).stations.fetch_sub(1, Ordering::Relaxed);
            }
            if after != 0 {
                self.cell(to).stations.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// `station` was heard on `port` in this second.
    #[inline(always)]
    pub fn learn(&self, station: Station, port: u32, second: u32) -> Learned {
        let now = value(port, second);
        match self.find(station) {
            Some((_, old)) if old == now => Learned::Known,
            Some((_, 0)) | None => self.insert(station, port, now),
            Some((cell, old)) => self.heard(cell, old, now),
        }
    }

    /// A known station was heard in another second, or on another port.
    #[inline(never)]
    fn heard(&self, cell: &AtomicU64, old: u64, now: u64) -> Learned {
        let (from, port) = (port_of(old), port_of(now));
        // Whatever somebody else made of it meanwhile is as good.
        let exchange = || {
            let done = cell.compare_exchange(old, now, Ordering::Relaxed, Ordering::Relaxed);
            if done.is_ok() {
                self.count(old, now);
            }
        };
        if from == port {
            exchange();
            return Learned::Known;
        }
        if self.cell(from).is_sticky() {
            return Learned::Stays;
        }
        if self.cell(port).is_at_limit() {
            self.cell(port).refuse();
            return Learned::OverLimit;
        }
        exchange();
        self.moves.fetch_add(1, Ordering::Relaxed);
        Learned::Moved
    }

    #[cold]
    fn insert(&self, station: Station, port: u32, now: u64) -> Learned {
        // Not a station anybody can send to.
        if station.bits() & !0xfff == 0 || station.is_group() {
            return Learned::Refused;
        }
        let own = self.cell(port);
        if own.is_at_limit() {
            own.refuse();
            return Learned::OverLimit;
        }
        let (keys, values) = self.bucket(station.bits());
        let limit = self.limit();
        let has_share = own.stations() < limit - limit / 8;
        if has_share && self.entries.load(Ordering::Relaxed) < limit {
            for (key, value) in keys.iter().zip(values) {
                if key
                    .compare_exchange(FREE, BUSY, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    value.store(now, Ordering::Relaxed);
                    self.count(0, now);
                    key.store(station.bits(), Ordering::Release);
                    self.entries.fetch_add(1, Ordering::Relaxed);
                    return Learned::New;
                }
            }
        }
        // Full: the port's longest silent station in this bucket makes room, for
        // one that has few that of the port which has most.
        let has_few = own.stations() < (limit / FEW).max(1);
        let oldest = keys
            .iter()
            .zip(values)
            .filter_map(|(key, value)| {
                let old_key = key.load(Ordering::Acquire);
                let old = value.load(Ordering::Relaxed);
                let has = self.cell(port_of(old)).stations();
                let may = !matches!(old_key, FREE | BUSY)
                    && (port_of(old) == port || has_few && has > own.stations() + 1);
                may.then_some((has, old as u32, (key, old_key, value)))
            })
            .min_by_key(|(has, second, _)| (Reverse(*has), *second));
        if let Some((_, _, (key, old_key, value))) = oldest
            && key
                .compare_exchange(old_key, BUSY, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        {
            self.count(value.swap(now, Ordering::Relaxed), now);
            key.store(station.bits(), Ordering::Release);
            if !has_share {
                own.refuse();
            }
            return Learned::New;
        }
        own.refuse();
        self.refused.fetch_add(1, Ordering::Relaxed);
        Learned::Refused
    }

    /// What a port may learn: at most so many stations, and whether they stay.
    pub fn set_policy(&self, port: u32, most: Option<u32>, sticky: bool) {
        let sticky = if sticky { STICKY } else { 0 };
        let policy = u64::from(most.unwrap_or(0)) | sticky;
        self.cell(port).policy.store(policy, Ordering::Relaxed);
    }

    /// Stations that a port has, and how often it was refused one: it had as
    /// many as it may, or the table was full.
    pub fn of_port(&self, port: u32) -> (u32, u64) {
        let cell = self.cell(port);
        (cell.stations(), cell.refused.load(Ordering::Relaxed))
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
                let known = value.load(Ordering::Relaxed);
                if !keep(Station::from_bits(bits), port_of(known), known as u32)
                    && key
                        .compare_exchange(bits, BUSY, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok()
                {
                    self.count(value.swap(0, Ordering::Relaxed), 0);
                    key.store(FREE, Ordering::Release);
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

    /// A port is gone; its number may become another's. As
    /// [`forget_port`](Self::forget_port).
    pub fn drop_port(&self, number: u32) {
        self.forget_port(number);
        self.set_policy(number, None, false);
        self.cell(number).refused.store(0, Ordering::Relaxed);
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
    fn the_last_eighth_is_for_others_and_the_largest_makes_room() {
        let fdb = fdb(1024);
        for n in 0..100_000 {
            fdb.learn(station(n, 0), 2, 1);
        }
        assert_eq!(fdb.of_port(2).0, 1024 - 128);
        assert!(fdb.of_port(2).1 > 90_000);
        // A second one takes the rest, and no more than a few from the first.
        for n in 100_000..200_000 {
            fdb.learn(station(n, 0), 3, 2);
        }
        let (first, second) = (fdb.of_port(2).0, fdb.of_port(3).0);
        assert_eq!(first + second, fdb.len());
        assert!(
            fdb.len() <= 1024 && first > 1024 - 128 - 16,
            "{first} {second}"
        );
        // Whoever comes with a few finds room for nearly all.
        let learned = |n: &u32| fdb.learn(station(*n, 0), 1, 3) == Learned::New;
        let found = (200_000..200_010).filter(learned).count();
        assert!(found >= 9, "{found}");
        assert_eq!(fdb.of_port(1).0 as usize, found);
    }

    #[test]
    fn a_port_with_a_limit_learns_no_more() {
        let fdb = fdb(1024);
        fdb.set_policy(1, Some(2), false);
        assert_eq!(fdb.learn(station(1, 0), 1, 1), Learned::New);
        assert_eq!(fdb.learn(station(2, 0), 1, 1), Learned::New);
        assert_eq!(fdb.learn(station(3, 0), 1, 1), Learned::OverLimit);
        assert_eq!(fdb.learn(station(3, 0), 2, 1), Learned::New);
        assert_eq!(
            fdb.learn(station(3, 0), 1, 1),
            Learned::OverLimit,
            "moving is learning"
        );
        assert_eq!(fdb.lookup(station(3, 0)), Some(2));
        assert_eq!(fdb.learn(station(1, 0), 1, 2), Learned::Known);
        assert_eq!(fdb.learn(station(2, 0), 2, 2), Learned::Moved);
        assert_eq!(fdb.learn(station(4, 0), 1, 2), Learned::New);
        assert_eq!(fdb.of_port(1), (2, 2));
        fdb.drop_port(1);
        assert_eq!(fdb.of_port(1), (0, 0));
        for n in 10..20 {
            assert_eq!(fdb.learn(station(n, 0), 1, 3), Learned::New);
        }
    }

    #[test]
    fn stations_of_a_port_that_is_sticky_stay() {
        let fdb = fdb(1024);
        fdb.set_policy(1, None, true);
        assert_eq!(fdb.learn(station(1, 0), 1, 1), Learned::New);
        assert_eq!(fdb.learn(station(1, 0), 2, 2), Learned::Stays);
        assert_eq!((fdb.lookup(station(1, 0)), fdb.moves()), (Some(1), 0));
        // To it they may move.
        assert_eq!(fdb.learn(station(2, 0), 2, 2), Learned::New);
        assert_eq!(fdb.learn(station(2, 0), 1, 2), Learned::Moved);
        // Once it is down, or they are forgotten, they may move again.
        fdb.set_policy(1, None, false);
        assert_eq!(fdb.learn(station(1, 0), 2, 2), Learned::Moved);
        fdb.set_policy(1, None, true);
        assert_eq!(fdb.retain(|_, port, _| port != 1), 1);
        assert_eq!(fdb.learn(station(2, 0), 2, 3), Learned::New);
    }

    /// Whatever PMDs and the control plane do at once: the counts are those of
    /// what is there in the end.
    #[test]
    fn ports_stations_are_counted_right_under_contention() {
        let fdb = fdb(256);
        std::thread::scope(|scope| {
            for port in 1..4 {
                let fdb = &fdb;
                scope.spawn(move || {
                    for round in 0..300 {
                        for n in 0..400 {
                            fdb.learn(station(n * port % 500, 0), port, round);
                        }
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..300u32 {
                    fdb.retain(|station, port, _| {
                        station.mac()[5] as u32 % 7 != (round + port) % 7
                    });
                }
            });
        });
        let mut counts = [0u32; 4];
        fdb.for_each(|_, port, _| counts[port as usize] += 1);
        for port in 1..4 {
            assert_eq!(fdb.of_port(port).0, counts[port as usize], "port {port}");
        }
        assert_eq!(fdb.len(), counts.iter().sum::<u32>());
        assert_eq!(counts[0], 0);
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
                let has = model.values().filter(|(p, _)| *p == port).count();
                prop_assert_eq!(fdb.of_port(port).0 as usize, has);
            }
        }
    }
}
