//! Rings of both layouts over any guest memory, which another thread changes
//! while they are worked on: dequeued by one core, enqueued to the same guest.
//!
//! Whatever is in memory: every packet is accounted for, what is read of one is
//! as long as it says, a fault is a quarantine, each ring can be stopped and
//! tells where. While nobody else writes, the plain reading ([`naive`](super::naive))
//! must agree: packets are the chains' bytes, in order; chains come back in order
//! with what was written to them; nothing is written but to the rings' own places
//! and buffers that the guest lent for that; and every page that is written to is
//! noted in the dirty log, which also holds while the guest writes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arbitrary::{Arbitrary, Result, Unstructured};
use ringway_frontend::features;
use ringway_vhost::{
    Burst, DeviceRings, Enqueued, LOG_PAGE, MAX_FRAME_BYTES, Packets, Ring, SessionState,
};

use super::machine::{GPA, Machine, Queue, REGION, USER, write_to};
use super::naive::{Chain, RingAt};

/// Where the rings lie, for the guest; the second region holds buffers only.
const RINGS: [(u64, u64, u64); 2] = [(0x0000, 0x1800, 0x2000), (0x4000, 0x5800, 0x6000)];
/// How much further on descriptors and used ring lie over the edge of a page.
const ACROSS: (u64, u64) = (0xf00, 0xffc);
/// Where indirect tables lie.
const TABLES: u64 = 0x8000;
/// Where buffers begin.
const BUFFERS: u64 = 0xc000;
/// Bytes of a virtio-net header.
const HEADER: usize = 12;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Bit 15 of a packed ring's positions.
const WRAP: u16 = 1 << 15;

/// The address that a packed ring's device gives a chain that it is returning, and
/// finds there if it died then.
const MARK: u64 = u64::from_le_bytes(*b"returned");

type Machines = Mutex<BTreeMap<u64, Machine>>;

/// One guest for each set of features, kept from one input to the next.
fn machines() -> &'static Machines {
    static MACHINES: Machines = Mutex::new(BTreeMap::new());
    &MACHINES
}

/// Memory before the driver has written to it: now and then a byte that tells
/// where it is, so that one buffer's bytes are not another's; most are 0, as those
/// of a header that asks for nothing.
fn fresh() -> &'static [u8] {
    static FRESH: OnceLock<Vec<u8>> = OnceLock::new();
    FRESH.get_or_init(|| {
        let byte = |at| match at % 16 {
            5 if at >= BUFFERS => (at / 16) as u8 | 1,
            _ => 0,
        };
        (0..2 * REGION).map(byte).collect()
    })
}

/// Bytes of memory and what becomes of them.
pub fn law(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let _ = run(&mut input);
}

/// Ends the guests that are kept.
pub fn end() {
    machines().lock().expect("no panic").clear();
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let acked = acked(input.arbitrary()?);
    let packed = acked & features::RING_PACKED != 0;
    let mut machines = machines().lock().expect("no panic");
    let mut machine = machines
        .remove(&acked)
        .unwrap_or_else(|| Machine::new(acked));
    machine.write(GPA, fresh());
    let mut queues = [Queue::at(0), Queue::at(1)];
    let mut known = [None; 2];
    for (index, queue) in queues.iter_mut().enumerate() {
        known[index] = fill(input, &machine, index, queue, acked)?;
    }
    let pokes = pokes(input)?;
    let racing = input.ratio(1, 2)? && !pokes.is_empty();
    machine.take_marked();
    let untouched = machine.all();
    let started = machine.start(queues);
    let possible = packed || queues.iter().all(|queue| queue.base <= u16::MAX.into());
    assert_eq!(started, possible, "{queues:x?}");
    if !started {
        // The port has hung up.
        return Ok(());
    }
    check_log(&machine, &untouched, &[]);
    let mut look = Look {
        rings: machine.rings(),
        machine: &machine,
        at: queues.map(|queue| RingAt::of(&queue, packed)),
        mergeable: acked & features::MRG_RXBUF != 0,
        changed: false,
    };
    for (known, ring) in known.into_iter().zip([look.to(), look.from()]) {
        let position = position(ring);
        let within = !packed || position & !WRAP < ring.size();
        assert!(within, "{position:#x} of {}", ring.size());
        let known = known.unwrap_or(position);
        assert_eq!(position, known, "not where the ring was left");
    }
    match racing {
        true => race(&look, &pokes),
        false => look.work(),
    }
    for (gpa, bytes) in &pokes {
        machine.write(*gpa, bytes);
    }
    look.changed = !pokes.is_empty();
    look.work();
    let bases = [look.to(), look.from()].map(|ring| ring.state().base());
    drop(look);
    assert_eq!(bases, machine.stop().map(Some), "stopped elsewhere");
    machines.insert(acked, machine);
    Ok(())
}

impl Queue {
    fn at(index: usize) -> Self {
        let (descriptors, available, used) = RINGS[index];
        Self {
            size: 16,
            descriptors: USER + descriptors,
            available: USER + available,
            used: USER + used,
            base: 0,
        }
    }
}

impl RingAt {
    fn of(queue: &Queue, packed: bool) -> Self {
        let offset = |address| (address - USER) as usize;
        Self {
            packed,
            size: queue.size as u16,
            descriptors: offset(queue.descriptors),
            available: offset(queue.available),
            used: offset(queue.used),
        }
    }
}

/// The features of one byte. Few, for each set is a guest.
fn acked(byte: u8) -> u64 {
    let some = [
        features::EVENT_IDX,
        features::INDIRECT_DESC,
        features::MRG_RXBUF,
        features::CSUM | features::HOST_TSO4 | features::HOST_TSO6 | features::GUEST_CSUM,
        features::RING_PACKED,
        features::LOG_ALL,
    ];
    let some = some.into_iter().enumerate();
    some.filter(|(bit, _)| byte >> bit & 1 == 1)
        .fold(0, |all, (_, feature)| all | feature)
}

/// What the driver of one queue has put there; where the device must go on, if
/// that can be told.
fn fill(
    input: &mut Unstructured<'_>,
    machine: &Machine,
    index: usize,
    queue: &mut Queue,
    acked: u64,
) -> Result<Option<u16>> {
    let packed = acked & features::RING_PACKED != 0;
    let writable = index == 0;
    if input.arbitrary()? {
        let entries = input.int_in_range(1..=8)?;
        for entry in 0..entries {
            // In a table there are ordinary descriptors, of either kind of ring.
            let descriptor = descriptor(input, entries as u16, writable, 0)?;
            let at = TABLES + 0x1000 * index as u64 + 16 * entry;
            machine.write(GPA + at, &descriptor.bytes(packed));
        }
    }
    if input.ratio(1, 4)? {
        queue.descriptors += ACROSS.0;
        queue.used += ACROSS.1;
    }
    match packed {
        true => fill_packed(input, machine, index, queue, acked),
        false => fill_split(input, machine, index, queue, acked),
    }
}

fn fill_split(
    input: &mut Unstructured<'_>,
    machine: &Machine,
    index: usize,
    queue: &mut Queue,
    acked: u64,
) -> Result<Option<u16>> {
    let (descriptors, available, used) = (queue.descriptors, queue.available, queue.used);
    queue.size = 1 << input.int_in_range(0..=6)?;
    let size = queue.size as u16;
    // Indexes wrap within a burst.
    let base = match input.ratio(1, 4)? {
        true => 0_u16.wrapping_sub(input.int_in_range(0..=40)?),
        false => 0,
    };
    queue.base = match input.ratio(1, 32)? {
        true => input.arbitrary()?,
        false => base.into(),
    };
    for entry in 0..size {
        let descriptor = descriptor(input, size, index == 0, acked)?;
        let at = descriptors + 16 * u64::from(entry);
        machine.write(at - USER + GPA, &descriptor.bytes(false));
    }
    let count: u16 = match input.ratio(1, 12)? {
        true => input.arbitrary()?,
        false => input.int_in_range(0..=size)?,
    };
    let mut ring = input.arbitrary::<u8>()?.to_le_bytes().to_vec();
    ring.push(0);
    ring.extend(base.wrapping_add(count).to_le_bytes());
    let mut heads = vec![0_u16; usize::from(size)];
    for at in 0..count.min(size) {
        let head = match input.ratio(1, 24)? {
            true => input.arbitrary()?,
            false => input.int_in_range(0..=size - 1)?,
        };
        heads[usize::from(base.wrapping_add(at) % size)] = head;
    }
    ring.extend(heads.iter().flat_map(|head| head.to_le_bytes()));
    ring.extend(input.arbitrary::<u16>()?.to_le_bytes());
    machine.write(available - USER + GPA, &ring);
    // Memory tells where the ring goes on, whatever the frontend says.
    machine.write(used - USER + GPA + 2, &base.to_le_bytes());
    Ok(Some(base))
}

fn fill_packed(
    input: &mut Unstructured<'_>,
    machine: &Machine,
    index: usize,
    queue: &mut Queue,
    acked: u64,
) -> Result<Option<u16>> {
    let (descriptors, available, used) = (queue.descriptors, queue.available, queue.used);
    let size: u16 = input.int_in_range(1..=64)?;
    queue.size = size.into();
    let first = match input.ratio(1, 2)? {
        true => input.int_in_range(0..=size - 1)?,
        false => 0,
    };
    let wrap = input.ratio(3, 4)?;
    let position = first | if wrap { WRAP } else { 0 };
    queue.base = match input.ratio(1, 8)? {
        true => input.arbitrary()?,
        false => u32::from(position) * 0x1_0001,
    };
    let count = input.int_in_range(0..=size)?;
    let mut is_sound = queue.base as u16 == position;
    for nth in 0..size {
        let slot = (first + nth) % size;
        let lap = wrap ^ (slot < first);
        let mut descriptor = descriptor(input, size, index == 0, acked)?;
        let of_lap = match (nth < count, lap) {
            (true, true) => AVAIL,
            (true, false) => USED,
            // Returned, the lap before.
            (false, true) => 0,
            (false, false) => AVAIL | USED,
        };
        if nth >= count {
            descriptor.flags &= !1;
        }
        descriptor.flags |= of_lap;
        is_sound &= descriptor.place != MARK;
        if input.ratio(1, 32)? {
            descriptor.flags ^= *input.choose(&[AVAIL, USED, AVAIL | USED, 1])?;
            is_sound = false;
        }
        let at = descriptors + 16 * u64::from(slot);
        machine.write(at - USER + GPA, &descriptor.bytes(true));
    }
    let driver_event: u32 = match input.ratio(1, 2)? {
        true => input.arbitrary()?,
        false => 0,
    };
    machine.write(available - USER + GPA, &driver_event.to_le_bytes());
    // What a device that has died has left: nothing, a position, anything.
    let device_event: u32 = match input.int_in_range(0..=7_u8)? {
        0 => input.arbitrary()?,
        1 => 0x7fff,
        2 => u32::from(position) | 1 << 16,
        _ => 0,
    };
    is_sound &= device_event == 0;
    machine.write(used - USER + GPA, &device_event.to_le_bytes());
    Ok(is_sound.then_some(position))
}

struct Descriptor {
    place: u64,
    length: u32,
    flags: u16,
    /// Or buffer id.
    next: u16,
}

impl Descriptor {
    fn bytes(&self, packed: bool) -> Vec<u8> {
        let mut bytes = self.place.to_le_bytes().to_vec();
        bytes.extend(self.length.to_le_bytes());
        let words = match packed {
            true => [self.next, self.flags],
            false => [self.flags, self.next],
        };
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }
}

/// A descriptor: mostly a sound one.
fn descriptor(
    input: &mut Unstructured<'_>,
    size: u16,
    writable: bool,
    acked: u64,
) -> Result<Descriptor> {
    let odd = input.ratio(1, 16)?;
    let mut place = match (odd, input.int_in_range(0..=7_u8)?) {
        (true, 0) => GPA + 2 * REGION - u64::from(u8::arbitrary(input)?),
        (true, 1) => input.arbitrary()?,
        (true, 2) => match u8::arbitrary(input)? {
            edge @ 0..128 => u64::MAX - u64::from(edge),
            _ => MARK,
        },
        (true, _) => GPA + u64::from(u16::arbitrary(input)?),
        // Over the edge between the regions.
        (_, 0) => GPA + REGION - input.int_in_range(0..=200)?,
        _ => GPA + BUFFERS + u64::from(u16::arbitrary(input)?),
    };
    let mut length: u32 = match (odd, input.int_in_range(0..=9_u8)?) {
        (true, _) => input.arbitrary()?,
        (_, 0) => 0,
        (_, 1) => 1,
        (_, 2) => 12,
        (_, 3) => input.int_in_range(0..=30)?,
        (_, 4) => 2048,
        _ => input.int_in_range(12..=1600)?,
    };
    let mut flags = if writable { 2 } else { 0 };
    if input.ratio(1, 3)? {
        flags |= 1;
    }
    if input.ratio(1, 32)? {
        flags ^= 2;
    }
    if acked & features::INDIRECT_DESC != 0 && input.ratio(1, 4)? || odd && input.ratio(1, 8)? {
        flags = 4;
        place = GPA + TABLES + if writable { 0 } else { 0x1000 };
        length = 16 * input.int_in_range(0..=9_u32)? + u32::from(odd);
    }
    let next = match odd {
        true => input.arbitrary()?,
        false => input.int_in_range(0..=size - 1)?,
    };
    Ok(Descriptor {
        place,
        length,
        flags,
        next,
    })
}

type Poke = (u64, Vec<u8>);

/// What the guest writes meanwhile: to its rings, mostly.
fn pokes(input: &mut Unstructured<'_>) -> Result<Vec<Poke>> {
    let mut pokes = Vec::new();
    for _ in 0..input.int_in_range(0..=6_u8)? {
        let at = match input.arbitrary::<bool>()? {
            true => {
                let (descriptors, available, used) = *input.choose(&RINGS)?;
                *input.choose(&[descriptors, descriptors, available, used, TABLES])?
                    + u64::from(u8::arbitrary(input)?)
            }
            false => u64::from(u16::arbitrary(input)?) * 2,
        };
        let length = input.int_in_range(1..=16_usize)?.min(input.len());
        pokes.push((GPA + at, input.bytes(length)?.to_vec()));
    }
    Ok(pokes)
}

/// Where a ring stands.
fn position(ring: &Ring) -> u16 {
    ring.state().base().expect("nobody works on it") as u16
}

/// A guest's rings, and what is expected of work on them.
struct Look<'m> {
    rings: Arc<DeviceRings>,
    machine: &'m Machine,
    at: [RingAt; 2],
    mergeable: bool,
    /// The guest has changed its rings since they were started.
    changed: bool,
}

impl Look<'_> {
    fn to(&self) -> &Ring {
        self.rings.pairs[0]
            .enqueue
            .as_ref()
            .expect("it was started")
    }

    fn from(&self) -> &Ring {
        self.rings.pairs[0]
            .dequeue
            .as_ref()
            .expect("it was started")
    }

    /// Two iterations of a core.
    fn work(&self) {
        let mut burst: Box<Burst> = Box::default();
        for _ in 0..2 {
            self.iteration(&mut burst);
        }
        let before = self.machine.all();
        self.from().want_kicks(true);
        self.to().want_kicks(false);
        self.check_written(&before);
    }

    fn iteration(&self, burst: &mut Burst) {
        let (from, to) = (self.from(), self.to());
        let before = self.machine.all();
        let [to_at, from_at] = self.at;
        let (to_position, from_position) = (position(to), position(from));
        let chains = |at: RingAt, position, writable| {
            // The device may know of more than the guest says now.
            let most = match self.changed {
                true => at.size,
                false => at.entries(&before, position),
            };
            at.chains(&before, position, writable, most)
        };
        let offered = chains(from_at, from_position, false);
        let was_broken = from.state().fault().is_some();
        let mut lent = 0;
        let mut enqueued = Enqueued::default();
        let dequeued = from.dequeue(burst, |packets| {
            lent = packets.len();
            let mut contents = offered.iter().filter_map(|chain| content(&before, chain));
            for index in 0..packets.len() {
                let frame = read(packets, index);
                let mut same = contents.by_ref().filter(|content| {
                    // An oversized frame's checksum is made a partial one.
                    let is_gso = packets.vnet_header(index).gso_type != 0;
                    *content == frame || is_gso && content.len() == frame.len()
                });
                assert!(same.next().is_some(), "nobody sent {frame:x?}");
            }
            enqueued = enqueue(to, packets);
        });
        assert_eq!(dequeued.packets as usize, lent);
        assert_eq!(dequeued.lost, 0);
        let taken = dequeued.packets
            + dequeued.too_short
            + dequeued.too_long
            + dequeued.too_many_parts
            + dequeued.bad_offload;
        let faults = [dequeued.fault, enqueued.fault];
        if faults.iter().any(Option::is_some) {
            assert!(from.state().fault().is_some() && to.state().fault().is_some());
            let status = self.machine.status();
            assert_eq!(status.state, SessionState::Quarantined, "{faults:?}");
        }
        let stands_still = taken == 0 && dequeued.fault.is_none() && !was_broken;
        assert!(
            !stands_still || offered.is_empty() || self.changed,
            "{offered:x?}"
        );
        assert!(!was_broken || taken == 0, "taken from a broken ring");
        let returned = &offered[..taken as usize];
        let next = returned.last().map_or(from_position, |chain| chain.next);
        assert_eq!(position(from), next, "{dequeued:?} {offered:x?}");

        // A guest that lends its rings as buffers may garble them.
        let lent_to_us = to_at.writable(&before);
        if lent_to_us.iter().any(|(at, _)| *at < BUFFERS as usize) {
            return;
        }
        let after = self.check_written(&before);
        for (nth, chain) in (0..).zip(returned) {
            let used = from_at.used(&after, from_position, nth, chain);
            assert_eq!(used, Some((chain.id, 0)), "{chain:x?}");
        }
        let offered = chains(to_at, to_position, true);
        let next = position(to);
        let filled = match next == to_position {
            true => 0,
            false => {
                let last = offered.iter().position(|chain| chain.next == next);
                1 + last.unwrap_or_else(|| panic!("{next:#x} is no chain's: {offered:x?}"))
            }
        };
        let mut bytes = 0;
        for (nth, chain) in (0..).zip(&offered[..filled]) {
            let used = to_at.used(&after, to_position, nth, chain);
            let (id, len) = used.unwrap_or_else(|| panic!("{chain:x?} did not come back"));
            assert_eq!(id, chain.id);
            let room = chain
                .buffers
                .as_ref()
                .map(|all| all.iter().map(|(_, len)| len).sum());
            assert!(
                room.is_none_or(|room: usize| len as usize <= room),
                "{len} in {chain:x?}"
            );
            bytes += u64::from(len);
        }
        let delivered = u64::from(enqueued.delivered);
        assert_eq!(bytes, enqueued.bytes + HEADER as u64 * delivered);
        assert!(filled as u64 == delivered || self.mergeable && filled as u64 > delivered);
    }

    /// Nothing was written since `before` but where it may be; that is noted.
    fn check_written(&self, before: &[u8]) -> Vec<u8> {
        check_log(self.machine, before, &[]);
        let after = self.machine.all();
        let mut may = self.at[0].writable(before);
        may.extend(self.at.iter().flat_map(RingAt::written));
        let mut left = after.clone();
        for (at, len) in may {
            left[at..at + len].copy_from_slice(&before[at..at + len]);
        }
        // Where, only if there is any: that is looked for byte by byte.
        if left != before {
            let mut bytes = left.iter().zip(before);
            let at = bytes.position(|(left, before)| left != before);
            panic!("written to {at:x?}");
        }
        after
    }
}

/// Every page that was written to since `before` is noted in the log. What the
/// guest itself writes is not looked at.
fn check_log(machine: &Machine, before: &[u8], pokes: &[Poke]) {
    let Some(marked) = machine.take_marked() else {
        return;
    };
    let mut after = machine.all();
    for (gpa, bytes) in pokes {
        let at = (gpa - GPA) as usize;
        let end = after.len().min(at + bytes.len());
        after[at..end].copy_from_slice(&before[at..end]);
    }
    let page = LOG_PAGE as usize;
    let pages = before.chunks(page).zip(after.chunks(page)).zip(marked);
    for (number, ((before, after), marked)) in pages.enumerate() {
        assert!(marked || before == after, "page {number} is not noted");
    }
}

/// What a chain holds behind the header, if it is sound.
fn content(memory: &[u8], chain: &Chain) -> Option<Vec<u8>> {
    let buffers = chain.buffers.as_ref()?;
    let parts = buffers.iter().map(|(at, len)| &memory[*at..at + len]);
    let whole = parts.collect::<Vec<_>>().concat();
    whole.get(HEADER..).map(<[u8]>::to_vec)
}

/// All of a packet. It has as many bytes as it says.
fn read(packets: &Packets<'_>, index: usize) -> Vec<u8> {
    let length = packets.frame_len(index);
    assert!(
        (14..=MAX_FRAME_BYTES).contains(&length),
        "a frame of {length} bytes"
    );
    assert!(packets.head_len(index) <= length);
    let mut frame = vec![0; length];
    let mut reader = packets.reader(index);
    let mut done = 0;
    loop {
        match reader.read(&mut frame[done..]) {
            0 => break,
            more => done += more,
        }
    }
    assert_eq!(done, length, "what there is of a frame is not what it says");
    frame
}

/// Every packet of the list is in one of the counts.
fn enqueue(to: &Ring, packets: &Packets<'_>) -> Enqueued {
    let list: Vec<u8> = (0..packets.len() as u8).collect();
    let outcome = to.enqueue(packets, &list);
    let sum = outcome.delivered
        + outcome.ring_full
        + outcome.too_small
        + outcome.contended
        + outcome.faulted
        + outcome.lost;
    assert_eq!(sum as usize, list.len(), "{outcome:?}");
    outcome
}

/// Ends the guest's writing, also where a law is broken.
struct End<'d>(&'d AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two iterations of a core while the guest writes all the time.
fn race(look: &Look<'_>, pokes: &[Poke]) {
    let before = look.machine.all();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (regions, done) = (&look.machine.regions, &done);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                for (gpa, bytes) in pokes {
                    write_to(regions, *gpa, bytes);
                }
            }
        });
        let _end = End(done);
        let mut burst: Box<Burst> = Box::default();
        for _ in 0..2 {
            let mut lent = 0;
            let outcome = look.from().dequeue(&mut burst, |packets| {
                lent = packets.len();
                for index in 0..packets.len() {
                    read(packets, index);
                }
                enqueue(look.to(), packets);
            });
            assert_eq!(outcome.packets as usize, lent);
        }
        look.from().want_kicks(true);
        look.to().want_kicks(false);
    });
    check_log(look.machine, &before, pokes);
}
