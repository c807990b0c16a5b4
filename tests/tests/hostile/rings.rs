//! Rings that break the rules of VirtIO: the port is quarantined, with the
//! reason in `show`, until its driver starts anew.

use ringway_frontend::net::{receiveq, transmitq};
use ringway_frontend::ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE};
use ringway_frontend::{
    Descriptor, Gpa, NetDriver, PackedDescriptor, PackedRing, Ring, SessionConfig, SplitRing,
    features,
};

use crate::arena::{Arena, REGION, RING, config, without};

/// A ring about to be broken.
struct Target<'a> {
    ring: &'a mut SplitRing,
    /// The direction flag that is right for this ring.
    direction: u16,
    /// Memory for buffers and tables.
    room: Gpa,
}

impl Target<'_> {
    fn desc(&self, index: u16, addr: Gpa, len: u32, flags: u16, next: u16) {
        let flags = flags ^ self.direction;
        let desc = Descriptor {
            addr,
            len,
            flags,
            next,
        };
        self.ring.write_desc(index, desc);
    }

    /// Entry `index` of a table in the room.
    fn entry(&self, index: u64, addr: Gpa, len: u32, flags: u16, next: u16) {
        let flags = flags ^ self.direction;
        let desc = Descriptor {
            addr,
            len,
            flags,
            next,
        };
        self.ring
            .memory()
            .write(self.room + 0x1000 + 16 * index, desc);
    }

    /// Makes the table in the room available, as if it had this length.
    fn table(&mut self, len: u32) {
        self.desc(0, self.room + 0x1000, len, DESC_INDIRECT, 0);
        self.ring.push_avail(0);
    }
}

type Break = fn(&mut Target);

/// A packed ring about to be broken.
struct PackedTarget<'a> {
    ring: &'a mut PackedRing,
    /// The direction flag that is right for this ring.
    direction: u16,
    /// Memory for buffers and tables.
    room: Gpa,
}

impl PackedTarget<'_> {
    /// Makes a chain available; flags beyond the right direction.
    fn add(&mut self, list: &[(Gpa, u32, u16)]) {
        let direction = self.direction;
        let list = list
            .iter()
            .map(|&(addr, len, flags)| (addr, len, flags ^ direction));
        self.ring.add(list.collect()).unwrap();
    }

    /// Entry `index` of a table in the room.
    fn entry(&self, index: u64, addr: Gpa, len: u32, flags: u16) {
        let desc = PackedDescriptor {
            addr,
            len,
            id: 0xffff,
            flags: flags ^ self.direction,
        };
        let table = self.room + 0x1000;
        self.ring.memory().write(table + 16 * index, desc);
    }
}

type BreakPacked = fn(&mut PackedTarget);

/// What is done to a packed ring, and what of it `show` must tell.
const BROKEN_PACKED: &[(&str, BreakPacked, &str)] = &[
    (
        "a buffer outside memory",
        |t| t.add(&[(1 << 40, 64, 0)]),
        "outside guest memory",
    ),
    (
        "a buffer from a region into the hole",
        |t| t.add(&[(REGION - 32, 200, 0)]),
        "outside guest memory",
    ),
    (
        "a buffer whose end overflows",
        |t| t.add(&[(u64::MAX - 15, 200, 0)]),
        "outside guest memory",
    ),
    (
        "the second buffer outside memory",
        |t| t.add(&[(t.room, 20, DESC_NEXT), (1 << 40, 64, 0)]),
        "outside guest memory",
    ),
    (
        "a chain as long as the ring that goes on",
        |t| t.add(&[(t.room, 1, DESC_NEXT); RING as usize]),
        "chain loops",
    ),
    (
        "a chain of nothing as long as the ring that goes on",
        |t| t.add(&[(t.room, 0, DESC_NEXT); RING as usize]),
        "chain loops",
    ),
    (
        "a chain that goes on where nothing is available",
        |t| t.add(&[(t.room, 12, DESC_NEXT)]),
        "was not made available",
    ),
    (
        "an indirect table within a chain",
        |t| {
            t.entry(0, t.room, 72, 0);
            t.add(&[(t.room, 4, DESC_NEXT), (t.room + 0x1000, 16, DESC_INDIRECT)]);
        },
        "indirect descriptor is chained",
    ),
    (
        "an indirect descriptor with a next one",
        |t| {
            t.entry(0, t.room, 72, 0);
            let indirect = DESC_INDIRECT | DESC_NEXT;
            t.add(&[(t.room + 0x1000, 16, indirect), (t.room, 72, 0)]);
        },
        "indirect descriptor is chained",
    ),
    (
        "an empty indirect table",
        |t| t.add(&[(t.room + 0x1000, 0, DESC_INDIRECT)]),
        "indirect table's length",
    ),
    (
        "an indirect table of 17 bytes",
        |t| t.add(&[(t.room + 0x1000, 17, DESC_INDIRECT)]),
        "indirect table's length",
    ),
    (
        "an indirect table of 4 GiB",
        |t| t.add(&[(t.room + 0x1000, 0xffff_fff0, DESC_INDIRECT)]),
        "indirect table's length",
    ),
    (
        "an indirect table into the hole",
        |t| t.add(&[(REGION - 16, 32, DESC_INDIRECT)]),
        "outside guest memory",
    ),
    (
        "an indirect table with a buffer outside memory",
        |t| {
            t.entry(0, 1 << 40, 72, 0);
            t.add(&[(t.room + 0x1000, 16, DESC_INDIRECT)]);
        },
        "outside guest memory",
    ),
    (
        "a buffer of the wrong direction",
        |t| t.add(&[(t.room, 72, DESC_WRITE)]),
        "direction is wrong",
    ),
    (
        "a second buffer of the wrong direction",
        |t| t.add(&[(t.room, 12, DESC_NEXT), (t.room, 60, DESC_WRITE)]),
        "direction is wrong",
    ),
    (
        "a wrong direction in an indirect table",
        |t| {
            t.entry(0, t.room, 72, DESC_WRITE);
            t.add(&[(t.room + 0x1000, 16, DESC_INDIRECT)]);
        },
        "direction is wrong",
    ),
];

/// Those that only make sense where the switch writes.
const BROKEN_PACKED_ENQUEUE: &[(&str, BreakPacked, &str)] = &[
    (
        "no room for the header",
        |t| t.add(&[(t.room, 11, 0)]),
        "no room for the virtio-net header",
    ),
    (
        "a second mergeable buffer outside memory",
        |t| {
            t.add(&[(t.room, 20, 0)]);
            t.add(&[(1 << 40, 100, 0)]);
        },
        "outside guest memory",
    ),
];

/// The same as [`config`], with packed rings.
fn packed() -> SessionConfig {
    let mut config = config();
    config.features |= features::RING_PACKED;
    config.required |= features::RING_PACKED;
    config
}

/// What is done to a ring, and what of it `show` must tell.
const BROKEN: &[(&str, Break, &str)] = &[
    (
        "a buffer outside memory",
        |t| {
            t.desc(0, 1 << 40, 64, 0, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "a buffer in the hole",
        |t| {
            t.desc(0, REGION, 64, 0, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "the second buffer outside memory",
        |t| {
            t.desc(0, t.room, 20, DESC_NEXT, 1);
            t.desc(1, 1 << 40, 64, 0, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "a buffer from a region into the hole",
        |t| {
            t.desc(0, REGION - 32, 200, 0, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "a buffer whose end overflows",
        |t| {
            t.desc(0, u64::MAX - 15, 200, 0, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "a buffer that overflows into the first region",
        |t| {
            t.desc(0, 0_u64.wrapping_sub(64), u32::MAX, 0, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "a descriptor that follows itself",
        |t| {
            t.desc(3, t.room, 1, DESC_NEXT, 3);
            t.ring.push_avail(3);
        },
        "chain loops",
    ),
    (
        "an empty descriptor that follows itself",
        |t| {
            t.desc(3, t.room, 0, DESC_NEXT, 3);
            t.ring.push_avail(3);
        },
        "chain loops",
    ),
    (
        "two descriptors that follow each other",
        |t| {
            t.desc(0, t.room, 1, DESC_NEXT, 1);
            t.desc(1, t.room, 1, DESC_NEXT, 0);
            t.ring.push_avail(0);
        },
        "chain loops",
    ),
    (
        "next just behind the table",
        |t| {
            t.desc(0, t.room, 4, DESC_NEXT, RING);
            t.ring.push_avail(0);
        },
        "next field is not below",
    ),
    (
        "next far behind the table",
        |t| {
            t.desc(0, t.room, 4, DESC_NEXT, 0xffff);
            t.ring.push_avail(0);
        },
        "next field is not below",
    ),
    (
        "a head just behind the table",
        |t| t.ring.push_avail(RING),
        "not below the ring's size",
    ),
    (
        "a head far behind the table",
        |t| t.ring.push_avail(0xffff),
        "not below the ring's size",
    ),
    (
        "an indirect table within one",
        |t| {
            t.entry(0, t.room, 4, DESC_NEXT, 1);
            t.entry(1, t.room + 0x1000, 32, DESC_INDIRECT, 0);
            t.table(32);
        },
        "inside an indirect table",
    ),
    (
        "an indirect table that is itself",
        |t| {
            t.entry(0, t.room + 0x1000, 16, DESC_INDIRECT, 0);
            t.table(16);
        },
        "inside an indirect table",
    ),
    (
        "an indirect descriptor with a next one",
        |t| {
            t.entry(0, t.room, 72, 0, 0);
            t.desc(0, t.room + 0x1000, 16, DESC_INDIRECT | DESC_NEXT, 1);
            t.desc(1, t.room, 72, 0, 0);
            t.ring.push_avail(0);
        },
        "indirect descriptor is chained",
    ),
    (
        "an indirect table behind a direct descriptor",
        |t| {
            t.entry(0, t.room, 72, 0, 0);
            t.desc(0, t.room, 4, DESC_NEXT, 1);
            t.desc(1, t.room + 0x1000, 16, DESC_INDIRECT, 0);
            t.ring.push_avail(0);
        },
        "indirect descriptor is chained",
    ),
    (
        "an empty indirect table",
        |t| t.table(0),
        "indirect table's length",
    ),
    (
        "an indirect table of 17 bytes",
        |t| t.table(17),
        "indirect table's length",
    ),
    (
        "an indirect table of 15 bytes",
        |t| t.table(15),
        "indirect table's length",
    ),
    (
        "an indirect table of 32,769 entries",
        |t| t.table(16 * 32_769),
        "indirect table's length",
    ),
    (
        "an indirect table of 4 GiB",
        |t| t.table(0xffff_fff0),
        "indirect table's length",
    ),
    (
        "an indirect table outside memory",
        |t| {
            t.desc(0, 1 << 40, 32, DESC_INDIRECT, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "an indirect table into the hole",
        |t| {
            t.desc(0, REGION - 16, 32, DESC_INDIRECT, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "an indirect table whose end overflows",
        |t| {
            t.desc(0, u64::MAX - 15, 32, DESC_INDIRECT, 0);
            t.ring.push_avail(0);
        },
        "outside guest memory",
    ),
    (
        "an indirect table that loops",
        |t| {
            t.entry(0, t.room, 1, DESC_NEXT, 1);
            t.entry(1, t.room, 1, DESC_NEXT, 0);
            t.table(32);
        },
        "chain loops",
    ),
    (
        "an indirect table with next behind it",
        |t| {
            t.entry(0, t.room, 1, DESC_NEXT, 2);
            t.table(32);
        },
        "next field is not below",
    ),
    (
        "an indirect table with a buffer outside memory",
        |t| {
            t.entry(0, 1 << 40, 72, 0, 0);
            t.table(16);
        },
        "outside guest memory",
    ),
    (
        "a buffer of the wrong direction",
        |t| {
            t.desc(0, t.room, 72, DESC_WRITE, 0);
            t.ring.push_avail(0);
        },
        "direction is wrong",
    ),
    (
        "a second buffer of the wrong direction",
        |t| {
            t.desc(0, t.room, 12, DESC_NEXT, 1);
            t.desc(1, t.room, 60, DESC_WRITE, 0);
            t.ring.push_avail(0);
        },
        "direction is wrong",
    ),
    (
        "a wrong direction in an indirect table",
        |t| {
            t.entry(0, t.room, 72, DESC_WRITE, 0);
            t.table(16);
        },
        "direction is wrong",
    ),
    (
        "an available index one too far",
        |t| {
            let next = t.ring.next_avail();
            t.ring.set_avail_idx(next.wrapping_add(RING + 1));
        },
        "available index jumped",
    ),
    (
        "an available index that goes back",
        |t| {
            let next = t.ring.next_avail();
            t.ring.set_avail_idx(next.wrapping_sub(1));
        },
        "available index jumped",
    ),
    (
        "an available index half the space away",
        |t| {
            let next = t.ring.next_avail();
            t.ring.set_avail_idx(next.wrapping_add(0x8000));
        },
        "available index jumped",
    ),
];

/// Those that only make sense where the switch writes.
const BROKEN_ENQUEUE: &[(&str, Break, &str)] = &[
    (
        "no room for the header",
        |t| {
            t.desc(0, t.room, 11, 0, 0);
            t.ring.push_avail(0);
        },
        "no room for the virtio-net header",
    ),
    (
        "a chain of nothing",
        |t| {
            t.desc(0, t.room, 0, 0, 0);
            t.ring.push_avail(0);
        },
        "no room for the virtio-net header",
    ),
    (
        "a second mergeable buffer outside memory",
        |t| {
            t.desc(0, t.room, 20, 0, 0);
            t.desc(1, 1 << 40, 100, 0, 0);
            t.ring.push_avail(0);
            t.ring.push_avail(1);
        },
        "outside guest memory",
    ),
    (
        "a second mergeable buffer with a bad head",
        |t| {
            t.desc(0, t.room, 20, 0, 0);
            t.ring.push_avail(0);
            t.ring.push_avail(RING);
        },
        "not below the ring's size",
    ),
];

/// Breaks one ring of a new guest, and brings the port back twice: by a
/// driver reset, and after another fault by a new connection.
fn break_ring(
    arena: &mut Arena,
    config: &SessionConfig,
    queue: usize,
    (case, broken, reason): (&str, impl Fn(&mut Ring, u16, Gpa), &str),
) {
    let enqueue = queue == receiveq(0);
    println!(
        "{} ring: {case}",
        if enqueue { "enqueue" } else { "dequeue" }
    );
    arena.bystanders.go_on(1).unwrap();
    let (counter, direction) = match enqueue {
        true => ("destination_fault", DESC_WRITE),
        false => ("guest_fault", 0),
    };
    let before = arena.dropped(counter);
    let mut guest = arena.attack(config);
    let room = guest.free_gpa;
    broken(&mut guest.rings[queue], direction, room);
    guest.rings[queue].kick();
    if enqueue {
        arena.feed();
    }
    arena.quarantined(case, reason);
    assert_eq!(arena.dropped(counter), before + 1, "{case}");
    assert!(!guest.rings[queue].has_used(), "{case}");

    // The other ring is shut as well: nothing comes in, nothing goes out.
    let refused = arena.dropped("destination_fault");
    arena.feed();
    assert_eq!(arena.dropped("destination_fault"), refused + 1, "{case}");
    arena.bystanders.go_on(1).unwrap();

    // A driver reset: GET_VRING_BASE on all rings, then all anew.
    let base = match guest.rings[queue] {
        Ring::Split(_) => 0,
        Ring::Packed(_) => 0x8000_8000,
    };
    assert_eq!(guest.stop().unwrap(), [base, base], "{case}");
    guest.start_again(0).unwrap();
    arena.daemon.wait_state("bad", "forwarding").unwrap();
    let mut driver = NetDriver::new(guest).unwrap();
    arena.forwards(&mut driver);

    // The next guest of this function is the new connection.
    let ring = &mut driver.guest.rings[transmitq(0)];
    ring.add_chain(&[(1 << 40, 64, false)]).unwrap();
    ring.kick();
    arena.quarantined(case, "outside guest memory");
    drop(driver);
    arena.gone();
}

/// For a split ring.
fn split(broken: Break) -> impl Fn(&mut Ring, u16, Gpa) {
    move |ring, direction, room| {
        broken(&mut Target {
            ring: ring.split(),
            direction,
            room,
        });
    }
}

#[test]
fn broken_packed_rings_are_quarantined_and_come_back() {
    let mut arena = Arena::new();
    let both = [(transmitq(0), BROKEN_PACKED), (receiveq(0), BROKEN_PACKED)];
    let last = [(receiveq(0), BROKEN_PACKED_ENQUEUE)];
    for (queue, cases) in both.into_iter().chain(last) {
        for (case, broken, reason) in cases {
            let broken = |ring: &mut Ring, direction, room| {
                broken(&mut PackedTarget {
                    ring: ring.packed(),
                    direction,
                    room,
                });
            };
            break_ring(&mut arena, &packed(), queue, (*case, broken, *reason));
        }
    }
    arena.end();
}

#[test]
fn broken_transmit_rings_are_quarantined_and_come_back() {
    let mut arena = Arena::new();
    for (case, broken, reason) in BROKEN {
        let how = (*case, split(*broken), *reason);
        break_ring(&mut arena, &config(), transmitq(0), how);
    }
    arena.end();
}

#[test]
fn broken_receive_rings_are_quarantined_and_come_back() {
    let mut arena = Arena::new();
    for (case, broken, reason) in BROKEN.iter().chain(BROKEN_ENQUEUE) {
        let how = (*case, split(*broken), *reason);
        break_ring(&mut arena, &config(), receiveq(0), how);
    }
    arena.end();
}

#[test]
fn indirect_tables_need_to_be_negotiated() {
    let mut arena = Arena::new();
    let case: (&str, Break, &str) = (
        "an indirect table not negotiated",
        |t| {
            t.entry(0, t.room, 72, 0, 0);
            t.table(16);
        },
        "not negotiated",
    );
    for queue in [transmitq(0), receiveq(0)] {
        let how = (case.0, split(case.1), case.2);
        break_ring(&mut arena, &without(features::INDIRECT_DESC), queue, how);
    }
    arena.end();
}

#[test]
fn half_a_driver_reset_does_not_lift_the_quarantine() {
    let arena = Arena::new();
    let mut guest = arena.attack(&config());
    guest.rings[transmitq(0)].split().push_avail(RING);
    guest.rings[transmitq(0)].kick();
    arena.quarantined("a bad head", "not below the ring's size");
    let queue = receiveq(0);
    guest.session.get_vring_base(queue).unwrap();
    let ring = &guest.rings[queue];
    guest.session.start_ring(queue, ring, 0).unwrap();
    guest.session.set_vring_enable(queue, true).unwrap();
    arena.quarantined("after half a reset", "not below the ring's size");
    drop(guest);
    arena.end();
}
