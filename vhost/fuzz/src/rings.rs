//! Rings over any guest memory, which another thread changes while they are
//! worked on: dequeued by one core, enqueued to the same guest and to another.
//! Every chain is returned, every packet accounted for, and what is read of a
//! packet lies within it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Result, Unstructured};
use ringway_frontend::features;
use ringway_vhost::{Burst, DeviceRings, MAX_FRAME_BYTES};

use super::machine::{GPA, Machine, Queue, REGION, USER, write_to};

/// Where the rings lie, for the guest; the second region holds buffers only.
const RINGS: [(u64, u64, u64); 2] = [(0x0000, 0x1000, 0x2000), (0x4000, 0x5000, 0x6000)];
/// Where indirect tables lie.
const TABLES: u64 = 0x8000;
/// Where buffers begin.
const BUFFERS: u64 = 0xc000;

type Machines = Mutex<BTreeMap<u64, Machine>>;

/// One guest for each set of features, kept from one input to the next.
fn machines() -> &'static Machines {
    static MACHINES: Machines = Mutex::new(BTreeMap::new());
    &MACHINES
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
    let mut machines = machines().lock().expect("no panic");
    let mut machine = machines
        .remove(&acked)
        .unwrap_or_else(|| Machine::new(acked));
    machine.clear();
    let mut queues = [Queue::at(0), Queue::at(1)];
    for (index, queue) in queues.iter_mut().enumerate() {
        queue.size = 1 << input.int_in_range(0..=6)?;
        queue.base = match input.ratio(1, 4)? {
            // Indexes wrap within a burst.
            true => 0_u16.wrapping_sub(input.int_in_range(0..=40)?),
            false => 0,
        };
        if acked & features::RING_PACKED != 0 {
            queue.base = 0x8000 | queue.base & (queue.size as u16 - 1);
        }
        fill(input, &machine, index, queue, acked)?;
    }
    let pokes = pokes(input)?;
    let racing = input.ratio(1, 2)?;
    if !machine.start(queues) {
        return Ok(());
    }
    let rings = machine.rings();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if racing && !pokes.is_empty() {
            let (pokes, regions, done) = (&pokes, &machine.regions, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for (gpa, bytes) in pokes {
                        write_to(regions, *gpa, bytes);
                    }
                }
            });
        }
        work(&rings, racing);
        done.store(true, Ordering::Relaxed);
    });
    for (gpa, bytes) in &pokes {
        machine.write(*gpa, bytes);
    }
    work(&rings, false);
    drop(rings);
    machine.stop();
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

/// The features of one byte. Few, for each set is a guest.
fn acked(byte: u8) -> u64 {
    let some = [
        features::EVENT_IDX,
        features::INDIRECT_DESC,
        features::MRG_RXBUF,
        features::CSUM | features::HOST_TSO4 | features::HOST_TSO6 | features::GUEST_CSUM,
    ];
    let some = some.into_iter().enumerate();
    let acked = some
        .filter(|(bit, _)| byte >> bit & 1 == 1)
        .map(|(_, feature)| feature);
    let acked = acked.fold(0, |all, feature| all | feature);
    match byte >> 4 & 1 == 1 && ringway_vhost::features::OFFERED & features::RING_PACKED != 0 {
        true => acked | features::RING_PACKED,
        false => acked,
    }
}

/// What the driver of one queue has put there.
fn fill(
    input: &mut Unstructured<'_>,
    machine: &Machine,
    index: usize,
    queue: &Queue,
    acked: u64,
) -> Result<()> {
    let (descriptors, available, _) = RINGS[index];
    let writable = index == 0;
    let packed = acked & features::RING_PACKED != 0;
    for entry in 0..queue.size {
        let descriptor = descriptor(input, queue.size, writable, packed, acked)?;
        machine.write(GPA + descriptors + 16 * u64::from(entry), &descriptor);
    }
    if input.arbitrary()? {
        let entries = input.int_in_range(1..=8)?;
        for entry in 0..entries {
            // In a table there are ordinary descriptors, of either kind of ring.
            let descriptor = self::descriptor(input, entries as u32, writable, packed, 0)?;
            let at = TABLES + 0x1000 * index as u64 + 16 * entry;
            machine.write(GPA + at, &descriptor);
        }
    }
    if packed {
        return Ok(());
    }
    let count: u16 = match input.ratio(1, 12)? {
        true => input.arbitrary()?,
        false => input.int_in_range(0..=queue.size as u16)?,
    };
    let mut ring = input.arbitrary::<u8>()?.to_le_bytes().to_vec();
    ring.push(0);
    ring.extend(queue.base.wrapping_add(count).to_le_bytes());
    let mut heads = vec![0_u16; queue.size as usize];
    for at in 0..count.min(queue.size as u16) {
        let head = match input.ratio(1, 24)? {
            true => input.arbitrary()?,
            false => input.int_in_range(0..=queue.size as u16 - 1)?,
        };
        heads[usize::from(queue.base.wrapping_add(at)) % queue.size as usize] = head;
    }
    ring.extend(heads.iter().flat_map(|head| head.to_le_bytes()));
    ring.extend(input.arbitrary::<u16>()?.to_le_bytes());
    machine.write(GPA + available, &ring);
    Ok(())
}

/// A descriptor: mostly a sound one.
fn descriptor(
    input: &mut Unstructured<'_>,
    size: u32,
    writable: bool,
    packed: bool,
    acked: u64,
) -> Result<[u8; 16]> {
    let odd = input.ratio(1, 16)?;
    let place = match (odd, input.int_in_range(0..=7_u8)?) {
        (true, 0) => GPA + 2 * REGION - u64::from(u8::arbitrary(input)?),
        (true, 1) => input.arbitrary()?,
        (true, 2) => u64::MAX - u64::from(u8::arbitrary(input)?),
        (true, _) => GPA + u64::from(u16::arbitrary(input)?),
        // Over the edge between the regions.
        (_, 0) => GPA + REGION - input.int_in_range(0..=200)?,
        _ => GPA + BUFFERS + u64::from(u16::arbitrary(input)?),
    };
    let length: u32 = match (odd, input.int_in_range(0..=9_u8)?) {
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
    let (mut place, mut length) = (place, length);
    if acked & features::INDIRECT_DESC != 0 && input.ratio(1, 4)? || odd && input.ratio(1, 8)? {
        flags = 4;
        place = GPA + TABLES + if writable { 0 } else { 0x1000 };
        length = 16 * input.int_in_range(0..=9_u32)? + u32::from(odd);
    }
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&place.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    let next = match odd {
        true => input.arbitrary()?,
        false => input.int_in_range(0..=size as u16 - 1)?,
    };
    if packed {
        // Available in the first lap, mostly.
        if !input.ratio(1, 16)? {
            flags |= 1 << 7;
        }
        if input.ratio(1, 16)? {
            flags |= 1 << 15;
        }
        bytes[12..14].copy_from_slice(&next.to_le_bytes());
        bytes[14..].copy_from_slice(&u16::to_le_bytes(flags));
    } else {
        bytes[12..14].copy_from_slice(&u16::to_le_bytes(flags));
        bytes[14..].copy_from_slice(&next.to_le_bytes());
    }
    Ok(bytes)
}

/// What the guest writes meanwhile: to its rings, mostly.
fn pokes(input: &mut Unstructured<'_>) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut pokes = Vec::new();
    for _ in 0..input.int_in_range(0..=6_u8)? {
        let at = match input.arbitrary::<bool>()? {
            true => {
                let (descriptors, available, _) = *input.choose(&RINGS)?;
                *input.choose(&[descriptors, available, TABLES])? + u64::from(u8::arbitrary(input)?)
            }
            false => u64::from(u16::arbitrary(input)?) * 2,
        };
        let length = input.int_in_range(1..=16_usize)?.min(input.len());
        pokes.push((GPA + at, input.bytes(length)?.to_vec()));
    }
    Ok(pokes)
}

/// One iteration of a core, twice.
fn work(rings: &Arc<DeviceRings>, racing: bool) {
    let mut burst: Box<Burst> = Box::default();
    let pair = &rings.pairs[0];
    let (Some(from), Some(to)) = (&pair.dequeue, &pair.enqueue) else {
        panic!("rings that were started are not there");
    };
    for _ in 0..2 {
        let mut lent = 0;
        let outcome = from.dequeue(&mut burst, |packets| {
            lent = packets.len();
            let mut room = vec![0; MAX_FRAME_BYTES];
            for index in 0..packets.len() {
                let length = packets.frame_len(index);
                assert!(
                    (14..=MAX_FRAME_BYTES).contains(&length),
                    "a frame of {length} bytes"
                );
                assert!(packets.head_len(index) <= length);
                let mut reader = packets.reader(index);
                let mut read = 0;
                loop {
                    match reader.read(&mut room[read..length]) {
                        0 => break,
                        more => read += more,
                    }
                }
                assert_eq!(read, length, "what there is of a frame is not what it says");
                if !racing {
                    assert_eq!(&room[..packets.head_len(index)], packets.head(index));
                }
            }
            let list: Vec<u8> = (0..packets.len() as u8).collect();
            let outcome = to.enqueue(packets, &list);
            let sum = outcome.delivered
                + outcome.ring_full
                + outcome.too_small
                + outcome.contended
                + outcome.faulted;
            assert_eq!(sum as usize, list.len(), "{outcome:?}");
        });
        assert_eq!(outcome.packets as usize, lent);
    }
    from.want_kicks(true);
    to.want_kicks(false);
}
