//! Both layouts, in both directions, against a driver that keeps the rules and
//! a model that knows nothing of rings: what the driver sends is lent, what is
//! delivered arrives, in order and byte for byte, however it is laid out.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use proptest::prelude::*;
use ringway_frontend::ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE};
use ringway_frontend::{Backing, PackedRing, RingLayout};

use super::*;
use crate::mark::{Mark, Marks};
use crate::memory::RegionSpec;
use crate::packet::Burst;

const HEADER: usize = VNET_HEADER_BYTES;
const MEMORY: u64 = 1 << 20;
/// Where buffers begin; before are the ring and, from half on, tables.
const BUFFERS: u64 = 0x4000;
const TABLES: u64 = 0x2000;

/// A ring with both its ends.
struct Ends {
    driver: ringway_frontend::Ring,
    ring: Ring,
    memory: Arc<ringway_frontend::GuestMemory>,
    next: u64,
    next_table: u64,
}

fn features(packed: bool, event_idx: bool) -> RingFeatures {
    RingFeatures {
        packed,
        event_idx,
        indirect: true,
        mergeable: true,
        long_header: true,
        ..RingFeatures::default()
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> OwnedFd {
    fd.try_clone_to_owned().expect("a descriptor")
}

impl Ends {
    fn new(size: u16, base: u16, features: RingFeatures) -> Self {
        let memory = ringway_frontend::GuestMemory::single(MEMORY, Backing::Shared);
        let memory = Arc::new(memory.expect("memory"));
        let layout = RingLayout::at(0, size);
        let (packed, event_idx) = (features.packed, features.event_idx);
        let driver = ringway_frontend::Ring::new(memory.clone(), layout, packed, event_idx, base)
            .expect("a ring");
        let ring = view(&driver, features, None);
        Self {
            driver,
            ring,
            memory,
            next: BUFFERS,
            next_table: TABLES,
        }
    }

    fn room(&mut self, len: usize) -> u64 {
        if self.next + len as u64 + 1 > MEMORY {
            self.next = BUFFERS;
        }
        let at = self.next;
        // Not side by side, or they would be one segment.
        self.next += len as u64 + 1;
        at
    }

    /// A table's place, for the next chain if it is to be indirect.
    fn table(&mut self, entries: usize) -> u64 {
        if self.next_table + 16 * entries as u64 > BUFFERS {
            self.next_table = TABLES;
        }
        let at = self.next_table;
        self.next_table += 16 * entries as u64;
        at
    }

    /// Makes a chain of such buffers available.
    fn add(&mut self, buffers: &[(u64, u32, bool)], indirect: bool) -> bool {
        if indirect {
            let table = self.table(buffers.len());
            return self.driver.add_indirect(table, buffers).is_ok();
        }
        self.driver.add_chain(buffers).is_ok()
    }

    /// Hands over a frame, in pieces that end at `cuts` modulo its length.
    fn send(&mut self, frame: &[u8], cuts: &[usize], indirect: bool) -> bool {
        let mut packet = vec![0; HEADER];
        packet.extend(frame);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut % packet.len()).collect();
        cuts.extend([0, packet.len()]);
        cuts.sort_unstable();
        let mut chain = Vec::new();
        for cut in cuts.windows(2) {
            let piece = &packet[cut[0]..cut[1]];
            let at = self.room(piece.len());
            self.memory.write_bytes(at, piece);
            chain.push((at, piece.len() as u32, false));
        }
        self.add(&chain, indirect)
    }
}

/// The device's end of a driver's ring, from `base` on or where it is found.
fn view(driver: &ringway_frontend::Ring, features: RingFeatures, base: Option<u32>) -> Ring {
    let memory = driver.memory();
    let region = RegionSpec {
        gpa: 0,
        size: MEMORY,
        user_addr: memory.user_addr(0),
        file_offset: 0,
    };
    let file = memory.file(0).try_clone().expect("a descriptor");
    let mapped = GuestMemory::map(vec![(region, file)]).expect("mapped");
    let layout = driver.layout();
    let addresses = RingAddresses {
        descriptor: memory.user_addr(layout.desc),
        available: memory.user_addr(layout.avail),
        used: memory.user_addr(layout.used),
    };
    let start = Position::from_base(driver.base().into(), features.packed).expect("a base");
    // SAFETY: the driver's descriptor is open for as long as it is borrowed.
    let call = duplicate(driver.call_fd().as_fd_of());
    let mut ring = Ring::resolve(
        layout.size.into(),
        addresses,
        features,
        Arc::new(mapped),
        Arc::new(RingState::new(start, features.packed, Arc::default())),
        None,
        Some(call),
    )
    .expect("resolved");
    if let Some(base) = base {
        ring.restart(base, &Arc::default(), None);
    }
    ring
}

/// `vmm-sys-util`'s EventFd has no `AsFd` yet.
trait AsFdOf {
    fn as_fd_of(&self) -> BorrowedFd<'_>;
}

impl AsFdOf for vmm_sys_util::eventfd::EventFd {
    fn as_fd_of(&self) -> BorrowedFd<'_> {
        #![allow(unsafe_code)]
        // UNSAFETY: a descriptor is borrowed from its owner.
        // SAFETY: it is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at * 7) as u8).collect()
}

/// Takes everything that is there.
fn take_all(ring: &Ring, burst: &mut Burst) -> (Vec<Vec<u8>>, Option<RingFault>) {
    let mut frames = Vec::new();
    loop {
        let taken = ring.dequeue(burst, |packets| {
            for index in 0..packets.len() {
                let mut bytes = vec![0; packets.frame_len(index)];
                assert!(packets.copy_frame(index, &mut bytes));
                frames.push(bytes);
            }
        });
        if taken.packets == 0 || taken.fault.is_some() {
            return (frames, taken.fault);
        }
    }
}

/// Delivers frames; returns how many got in.
fn give(ring: &Ring, frames: &[Vec<u8>]) -> crate::Enqueued {
    let list: Vec<u8> = (0..frames.len() as u8).collect();
    let mut outcome = crate::Enqueued::default();
    Burst::default().lend_slices(
        frames.len(),
        |index| std::iter::once(&frames[index][..]),
        |packets| outcome = ring.enqueue(packets, &list),
    );
    outcome
}

#[derive(Clone, Debug)]
struct Sent {
    len: usize,
    cuts: Vec<usize>,
    indirect: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let cuts = prop_oneof![
        3 => Just(Vec::new()),
        2 => proptest::collection::vec(any::<usize>(), 1..4),
    ];
    (14usize..600, cuts, any::<bool>()).prop_map(|(len, cuts, indirect)| Sent {
        len,
        cuts,
        indirect,
    })
}

/// What a test of a whole ring is made of.
#[derive(Clone, Copy, Debug)]
struct Shape {
    size: u16,
    base: u16,
    features: RingFeatures,
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        any::<bool>(),
        any::<bool>(),
        2u32..7,
        0u16..70,
        any::<u16>(),
    )
        .prop_map(|(packed, event_idx, log, odd, base)| Shape {
            // A packed ring may have any size.
            size: if packed { 4 + odd } else { 1 << log },
            base,
            features: features(packed, event_idx),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_a_driver_sends_is_what_comes_out(
        shape in shape(),
        rounds in proptest::collection::vec(proptest::collection::vec(sent(), 0..40), 1..12),
    ) {
        let mut ends = Ends::new(shape.size, shape.base, shape.features);
        let mut burst = Burst::default();
        let mut number = 0;
        for round in rounds {
            let mut expected = Vec::new();
            for sent in round {
                number += 1;
                let bytes = frame(number, sent.len);
                if ends.send(&bytes, &sent.cuts, sent.indirect) {
                    expected.push(bytes);
                }
            }
            let count = expected.len();
            let (frames, fault) = take_all(&ends.ring, &mut burst);
            prop_assert_eq!(fault, None);
            prop_assert_eq!(frames, expected);
            let back: Vec<_> = std::iter::from_fn(|| ends.driver.poll_used()).collect();
            prop_assert_eq!(back.len(), count);
            prop_assert_eq!(ends.driver.free_descriptors(), usize::from(shape.size));
            // Nothing is in flight, so the ring's base is the driver's.
            let base = ends.ring.state().base().unwrap_or_default() as u16;
            prop_assert_eq!(base, ends.driver.base());
        }
    }

    #[test]
    fn what_is_delivered_arrives(
        shape in shape(),
        mergeable in any::<bool>(),
        // Receive chains: lengths of their buffers, and whether through a table.
        chains in proptest::collection::vec(
            (proptest::collection::vec(13usize..400, 1..4), any::<bool>()), 1..60),
        frames in proptest::collection::vec(14usize..700, 1..60),
        batch in 1usize..32,
    ) {
        let mut features = shape.features;
        features.mergeable = mergeable;
        let mut ends = Ends::new(shape.size, shape.base, features);
        // What is posted: by id (or head), where its bytes go.
        let mut posted = VecDeque::new();
        let mut chains = chains.into_iter().cycle();
        let frames: Vec<_> = frames.into_iter().enumerate().map(|(n, len)| frame(n, len)).collect();
        for batch in frames.chunks(batch) {
            for _ in 0..shape.size {
                let Some((lengths, indirect)) = chains.next() else { break };
                let buffers: Vec<_> = lengths
                    .iter()
                    .map(|len| (ends.room(*len), *len as u32, true))
                    .collect();
                if !ends.add(&buffers, indirect) {
                    break;
                }
                posted.push_back(buffers);
            }
            // The model: frames take chains in order, whole or not at all.
            let room = |chain: &Vec<(u64, u32, bool)>| -> usize {
                chain.iter().map(|buffer| buffer.1 as usize).sum()
            };
            let (mut used, mut expected) = (0, Vec::new());
            let mut is_full = false;
            for bytes in batch {
                let total = HEADER + bytes.len();
                let (mut have, mut count) = (0, 0);
                while have < total && (count == 0 || mergeable) {
                    let Some(chain) = posted.get(used + count) else { break };
                    have += room(chain);
                    count += 1;
                }
                if have < total && (count == 0 || mergeable) {
                    is_full = true;
                    break;
                }
                if have >= total {
                    expected.push((bytes, count));
                    used += count;
                }
            }
            let outcome = give(&ends.ring, batch);
            prop_assert_eq!(outcome.fault, None);
            prop_assert_eq!(outcome.delivered as usize, expected.len());
            prop_assert_eq!(outcome.ring_full > 0, is_full);
            for (bytes, count) in expected {
                let mut got = Vec::new();
                for _ in 0..count {
                    let element = ends.driver.poll_used().expect("a used chain");
                    let mut left = element.len as usize;
                    for (at, len, _) in posted.pop_front().expect("a chain was posted") {
                        let len = left.min(len as usize);
                        got.extend(ends.memory.read_bytes(at, len));
                        left -= len;
                    }
                    prop_assert_eq!(left, 0, "more was reported than the chain holds");
                }
                let chains = u16::from_le_bytes([got[10], got[11]]);
                prop_assert_eq!(usize::from(chains), count);
                prop_assert_eq!(&got[HEADER..], &bytes[..]);
            }
            prop_assert!(ends.driver.poll_used().is_none());
        }
    }

    /// The driver asks to be told at one place; it is told when that is passed,
    /// and not before or after.
    #[test]
    fn a_driver_is_told_when_its_event_is_passed(
        packed in any::<bool>(), size in 3u32..6, base in any::<u16>(),
        bursts in proptest::collection::vec(1usize..8, 1..30),
    ) {
        let size = 1 << size;
        let mut ends = Ends::new(size, base, features(packed, true));
        let mut burst = Burst::default();
        for (nth, count) in bursts.into_iter().enumerate() {
            let asks = nth % 3 != 0;
            ends.driver.want_calls(asks);
            let sent = (0..count).filter(|at| ends.send(&frame(*at, 60), &[], false)).count();
            take_all(&ends.ring, &mut burst);
            let told = ends.driver.take_calls();
            prop_assert_eq!(told, u64::from(asks && sent > 0));
            while ends.driver.poll_used().is_some() {}
        }
    }

    /// The process dies between bursts; the next one knows nothing but the ring.
    #[test]
    fn a_ring_goes_on_where_it_was_left(
        shape in shape(),
        rounds in proptest::collection::vec((0usize..20, 0usize..20), 1..20),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
    ) {
        let mut ends = Ends::new(shape.size, shape.base, shape.features);
        let first_base = u32::from(ends.driver.base());
        let mut burst = Burst::default();
        let (mut number, mut expected) = (0, VecDeque::new());
        for (sent, reclaimed) in rounds {
            for _ in 0..sent {
                let bytes = frame(number, 30 + number % 200);
                if ends.send(&bytes, &cuts[..number % (cuts.len() + 1)], number % 5 == 0) {
                    expected.push_back(bytes);
                }
                number += 1;
            }
            // One burst, then a new process; chains may be left.
            let taken = ends.ring.dequeue(&mut burst, |packets| {
                for index in 0..packets.len() {
                    let mut bytes = vec![0; packets.frame_len(index)];
                    assert!(packets.copy_frame(index, &mut bytes));
                    assert_eq!(Some(bytes), expected.pop_front());
                }
            });
            prop_assert_eq!(taken.fault, None);
            for _ in 0..reclaimed {
                ends.driver.poll_used();
            }
            ends.ring = view(&ends.driver, shape.features, Some(first_base));
        }
        let (frames, fault) = take_all(&ends.ring, &mut burst);
        prop_assert_eq!(fault, None);
        prop_assert_eq!(frames, Vec::from(expected));
    }
}

/// Pages of guest memory that differ from what they were.
fn changed(before: &[u8], after: &[u8]) -> Vec<u64> {
    let pages = before.chunks(4096).zip(after.chunks(4096)).enumerate();
    let changed = pages.filter(|(_, (before, after))| before != after);
    changed.map(|(page, _)| page as u64).collect()
}

/// A log for all of memory, and the file that it lies in.
fn new_log() -> (Arc<DirtyLog>, std::fs::File) {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let fd = memfd_create(c"log", MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
    let file = std::fs::File::from(fd);
    file.set_len(MEMORY / 4096 / 8).expect("ftruncate");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("sealed");
    let copy = file.try_clone().expect("a copy");
    let log = DirtyLog::map(copy, MEMORY / 4096 / 8, 0).expect("mapped");
    (Arc::new(log), file)
}

/// The pages whose bits are set; clears them.
fn take_marked(file: &std::fs::File) -> Vec<u64> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; (MEMORY / 4096 / 8) as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    file.write_all_at(&vec![0; bytes.len()], 0)
        .expect("cleared");
    let set = |page: &u64| bytes[(page / 8) as usize] >> (page % 8) & 1 != 0;
    (0..MEMORY / 4096).filter(set).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// While a guest is moved, the pages that were written to are noted, all of
    /// them and no other.
    #[test]
    fn exactly_the_pages_written_to_are_noted(
        shape in shape(),
        rounds in proptest::collection::vec(
            (proptest::collection::vec(sent(), 0..20), any::<bool>()), 1..8),
        chains in proptest::collection::vec(
            (proptest::collection::vec(13usize..2000, 1..4), any::<bool>()), 1..20),
        frames in proptest::collection::vec(14usize..9000, 1..20),
    ) {
        let (log, file) = new_log();
        // Transmit.
        let mut ends = Ends::new(shape.size, shape.base, shape.features);
        let used = ends.driver.layout().used;
        ends.ring.log_to(Arc::clone(&log), Some(used)).expect("covered");
        let mut burst = Burst::default();
        let memory = |ends: &Ends| ends.memory.read_bytes(0, MEMORY as usize);
        for (sent, wanted) in rounds {
            for (nth, sent) in sent.iter().enumerate() {
                ends.send(&frame(nth, sent.len), &sent.cuts, sent.indirect);
            }
            let before = memory(&ends);
            let taken = ends.ring.dequeue(&mut burst, |_| {});
            let (marked, after) = (take_marked(&file), memory(&ends));
            prop_assert_eq!(&marked, &changed(&before, &after), "{:?}", taken);
            prop_assert_eq!(marked.is_empty(), taken.packets == 0);
            ends.ring.want_kicks(wanted);
            let (marked, now) = (take_marked(&file), memory(&ends));
            for page in changed(&after, &now) {
                prop_assert!(marked.contains(&page));
            }
            prop_assert!(marked.len() <= 1);
            while ends.driver.poll_used().is_some() {}
        }
        // Receive.
        let mut ends = Ends::new(shape.size, shape.base, shape.features);
        ends.ring.log_to(Arc::clone(&log), Some(used)).expect("covered");
        let mut chains = chains.into_iter().cycle();
        for batch in frames.chunks(3) {
            for _ in 0..shape.size {
                let Some((lengths, indirect)) = chains.next() else { break };
                let mut buffers = Vec::new();
                for len in lengths {
                    let at = ends.room(len);
                    ends.memory.write_bytes(at, &vec![0xee; len]);
                    buffers.push((at, len as u32, true));
                }
                if !ends.add(&buffers, indirect) {
                    break;
                }
            }
            let batch: Vec<Vec<u8>> = (batch.iter().enumerate())
                .map(|(nth, len)| {
                    let bytes = frame(nth, *len).into_iter();
                    bytes.map(|byte| if byte == 0xee { 0xed } else { byte }).collect()
                })
                .collect();
            let before = memory(&ends);
            let outcome = give(&ends.ring, &batch);
            prop_assert_eq!(outcome.fault, None);
            prop_assert_eq!(take_marked(&file), changed(&before, &memory(&ends)));
            while ends.driver.poll_used().is_some() {}
        }
    }
}

/// What publishing writes is told, so that it can be noted behind it: a frontend
/// may have cleared the bit and copied the page since the chain was completed.
#[test]
fn publishing_writes_what_it_says_it_does() {
    fn check(ends: &Ends, layout: &impl Layout, long: bool) {
        let mut progress = ends.ring.state.progress.try_claim().expect("nobody has it");
        for _ in 0..3 {
            let at = progress.next;
            let found = layout.chain(&mut progress, at).expect("sound");
            let (chain, _) = found.expect("a chain");
            layout.complete(&mut progress, chain, 20);
        }
        let held = layout.held_written(&progress);
        let before = ends.memory.read_bytes(0, MEMORY as usize);
        layout.publish(&mut progress);
        let after = ends.memory.read_bytes(0, MEMORY as usize);
        let told: Vec<_> = held
            .into_iter()
            .chain(layout.publish_written(&progress))
            .map(|(at, len)| {
                let gpa = ends.ring.memory.guest_address(at).expect("in guest memory");
                gpa as usize..gpa as usize + len
            })
            .collect();
        let written: Vec<_> = (0..before.len())
            .filter(|at| before[*at] != after[*at])
            .collect();
        assert!(!written.is_empty(), "long: {long}");
        for at in written {
            assert!(
                told.iter().any(|place| place.contains(&at)),
                "{at:#x} of {told:x?}"
            );
        }
    }
    for (packed, long) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut ends = Ends::new(8, 0, features(packed, false));
        for _ in 0..3 {
            let buffers = [(ends.room(30), 30, true), (ends.room(30), 30, true)];
            assert!(ends.add(&buffers[..1 + usize::from(long)], false));
        }
        match &ends.ring.layout {
            AnyLayout::Split(split) => check(&ends, split, long),
            AnyLayout::Packed(packed) => check(&ends, packed, long),
        }
    }
}

/// The frontend names another address for the used ring's pages, or none.
#[test]
fn the_used_ring_is_noted_where_the_frontend_wants_it() {
    for packed in [false, true] {
        for address in [None, Some(0x5_0000)] {
            let (log, file) = new_log();
            let mut ends = Ends::new(8, 0, features(packed, false));
            ends.ring.log_to(log, address).expect("covered");
            ends.send(&frame(1, 60), &[], false);
            take_all(&ends.ring, &mut Burst::default());
            ends.ring.want_kicks(true);
            let marked = take_marked(&file);
            // A packed ring's used descriptors lie in the descriptor ring.
            let expected = match (address, packed) {
                (None, _) => vec![],
                (Some(_), false) => vec![0x50],
                (Some(_), true) => vec![0, 0x50],
            };
            assert_eq!(marked, expected, "packed: {packed}");
        }
    }
    let (log, _) = new_log();
    let beyond = Ends::new(8, 0, features(false, false))
        .ring
        .log_to(log, Some(MEMORY - 10));
    assert!(matches!(beyond, Err(LogError::TooSmall { .. })));
}

#[test]
fn a_driver_that_is_asked_for_kicks_gives_them() {
    for (packed, event_idx) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut ends = Ends::new(8, 6, features(packed, event_idx));
        let mut burst = Burst::default();
        for round in 0..40 {
            assert!(!ends.ring.want_kicks(false));
            assert!(ends.send(&frame(round, 60), &[], false));
            assert!(!ends.driver.kick_if_wanted(), "{packed} {event_idx}");
            assert!(ends.ring.want_kicks(true), "something is there already");
            take_all(&ends.ring, &mut burst);
            assert!(!ends.ring.want_kicks(true));
            assert!(ends.send(&frame(round, 60), &[], false));
            assert!(ends.driver.kick_if_wanted(), "{packed} {event_idx}");
            take_all(&ends.ring, &mut burst);
            while ends.driver.poll_used().is_some() {}
        }
    }
}

/// A chain as a driver that breaks the rules makes it, and the fault that it is.
fn broken(list: Vec<(u64, u32, u16)>, change: impl Fn(&mut PackedRing)) -> Option<RingFault> {
    let mut ends = Ends::new(8, 0, features(true, false));
    ends.driver.packed().add(list).expect("room");
    change(ends.driver.packed());
    let (frames, fault) = take_all(&ends.ring, &mut Burst::default());
    assert!(frames.is_empty() || fault.is_none());
    assert!(!ends.driver.has_used(), "a broken chain is not returned");
    fault
}

#[test]
fn broken_packed_rings_are_faults() {
    let (buffer, nothing) = (BUFFERS, |_: &mut PackedRing| {});
    let outside = broken(vec![(MEMORY - 10, 60, 0)], nothing);
    assert_eq!(outside, Some(RingFault::OutsideMemory));
    let direction = broken(vec![(buffer, 60, DESC_WRITE)], nothing);
    assert_eq!(direction, Some(RingFault::WrongDirection));
    let second = broken(
        vec![(buffer, 12, DESC_NEXT), (buffer, 60, DESC_WRITE)],
        nothing,
    );
    assert_eq!(second, Some(RingFault::WrongDirection));
    let open = broken(vec![(buffer, 12, DESC_NEXT)], nothing);
    assert_eq!(open, Some(RingFault::ChainNotAvailable));
    let endless = broken(vec![(buffer, 1, DESC_NEXT); 8], nothing);
    assert_eq!(endless, Some(RingFault::ChainLoop));
    let chained = vec![(buffer, 32, DESC_INDIRECT | DESC_NEXT), (buffer, 60, 0)];
    assert_eq!(broken(chained, nothing), Some(RingFault::NestedIndirect));
    let behind = vec![(buffer, 12, DESC_NEXT), (buffer, 32, DESC_INDIRECT)];
    assert_eq!(broken(behind, nothing), Some(RingFault::NestedIndirect));
    for len in [0, 15, 17, 16 * 2049, u32::MAX] {
        let table = broken(vec![(buffer, len, DESC_INDIRECT)], nothing);
        assert_eq!(table, Some(RingFault::BadIndirectLength), "{len}");
    }
    let table = broken(vec![(MEMORY - 16, 32, DESC_INDIRECT)], nothing);
    assert_eq!(table, Some(RingFault::OutsideMemory));
}

/// Addresses of a packed ring's chains that are about to be returned.
const RETURNED: [u8; 8] = *b"returned";

/// A process is killed when it has delivered a burst of 20 frames and given back
/// `given_back` chains of it; how many the next one gives back unseen.
fn killed_while_giving_back(packed: bool, given_back: usize, pieces: &[usize]) -> usize {
    let features = features(packed, false);
    let mut ends = Ends::new(64, 50, features);
    let folder = tempfile::tempdir().expect("a folder");
    let marks = Marks::open(&folder.path().join("marks")).expect("made");
    let mark = || Mark::of_transmit_ring(Some(&marks), 1);
    let start = ends.driver.base();
    (ends.ring).restart(start.into(), &Arc::default(), mark());
    for number in 0..20 {
        let cuts = &pieces[..number % (pieces.len() + 1)];
        assert!(ends.send(&frame(number, 100), cuts, false));
    }
    let snapshot = |ends: &Ends| ends.memory.read_bytes(0, TABLES as usize);
    let mut killed = Vec::new();
    let taken = ends
        .ring
        .dequeue(&mut Burst::default(), |_| killed = snapshot(&ends));
    assert_eq!(taken.packets, 20);
    // Chains become visible one by one, the first one last.
    let after = snapshot(&ends);
    let mut slot = 50;
    for number in 0..given_back {
        let at = 16 * slot;
        let bytes = if number == 0 { 8..12 } else { 8..16 };
        if number == 0 {
            killed[at..at + 8].copy_from_slice(&RETURNED);
        }
        let place = at + bytes.start..at + bytes.end;
        killed[place.clone()].copy_from_slice(&after[place]);
        slot = (slot + 1 + number % (pieces.len() + 1)) % 64;
    }
    ends.memory.write_bytes(0, &killed);

    // Where a packed ring stands nobody knows, but the ring itself.
    ends.ring = view(&ends.driver, features, None);
    let base = ends.driver.base_after_crash();
    (ends.ring).restart(base.into(), &Arc::default(), mark());
    let unseen = ends.ring.give_back_unfinished();
    let back: Vec<_> = std::iter::from_fn(|| ends.driver.poll_used()).collect();
    assert_eq!(back.len(), 20, "packed {packed}, {given_back} given back");
    assert_eq!(ends.driver.free_descriptors(), 64);
    assert!(ends.send(&frame(20, 60), &[], false));
    let (frames, fault) = take_all(&ends.ring, &mut Burst::default());
    assert_eq!((frames, fault), (vec![frame(20, 60)], None));
    // In good order nothing is left.
    ends.ring = view(&ends.driver, features, None);
    assert!(ends.send(&frame(21, 60), &[], false));
    (ends.ring).restart(base.into(), &Arc::default(), mark());
    assert_eq!(ends.ring.give_back_unfinished(), 0);
    let (frames, _) = take_all(&ends.ring, &mut Burst::default());
    assert_eq!(frames, [frame(21, 60)]);
    unseen
}

#[test]
fn what_was_being_delivered_is_given_back_unseen() {
    for pieces in [&[][..], &[40], &[30, 50]] {
        assert_eq!(killed_while_giving_back(false, 0, pieces), 20);
        for given_back in 0..=20 {
            let unseen = killed_while_giving_back(true, given_back, pieces);
            assert_eq!(unseen, 20 - given_back, "{pieces:?}");
        }
    }
}
