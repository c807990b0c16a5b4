//! Packets in memory that goes away on their way: nobody is given zeroes in
//! their place, and nobody else's ring suffers.

use std::sync::Arc;

use ringway_frontend::{Backing, GuestMemory, RingLayout};
use ringway_vhost::ring::{Position, RingAddresses, RingState};
use ringway_vhost::{Burst, Dequeued, Enqueued, RegionSpec, Ring, RingFault, RingFeatures};

const SIZE: u16 = 8;
/// The rings lie before it, buffers from here on.
const ROOM: u64 = 1 << 20;
const BYTES: u64 = 16 << 20;
/// Of a frame whose body lies apart from its head.
const HEAD: u32 = 12 + 128;
const BODY: u32 = 1000;

/// A ring from both sides.
struct End {
    ring: Ring,
    driver: ringway_frontend::Ring,
    memory: Arc<GuestMemory>,
}

impl End {
    fn new(packed: bool) -> Self {
        let memory = Arc::new(GuestMemory::single(BYTES, Backing::Shared).unwrap());
        let layout = RingLayout::at(0, SIZE);
        let driver = ringway_frontend::Ring::new(Arc::clone(&memory), layout, packed, false, 0);
        let region = RegionSpec {
            gpa: 0,
            size: BYTES,
            user_addr: memory.user_addr(0),
            file_offset: 0,
        };
        let file = memory.file(0).try_clone().unwrap();
        let mapped = ringway_vhost::GuestMemory::map(vec![(region, file)]).unwrap();
        let addresses = RingAddresses {
            descriptor: memory.user_addr(layout.desc),
            available: memory.user_addr(layout.avail),
            used: memory.user_addr(layout.used),
        };
        let features = RingFeatures {
            long_header: true,
            mergeable: true,
            packed,
            ..RingFeatures::default()
        };
        let start = Position {
            index: 0,
            wrap: packed,
        };
        let state = Arc::new(RingState::new(start, packed, Arc::clone(mapped.fault())));
        let mapped = Arc::new(mapped);
        let ring = Ring::resolve(SIZE.into(), addresses, features, mapped, state, None, None);
        Self {
            ring: ring.unwrap(),
            driver: driver.unwrap(),
            memory,
        }
    }

    /// A frame with its head at `head` and its body at `body`.
    fn send(&mut self, head: u64, body: u64, number: u8) {
        self.memory.write_bytes(head, &[0; 12]);
        self.memory.write_bytes(head + 12, &[number; 128]);
        self.memory.write_bytes(body, &[number; BODY as usize]);
        let chain = [(head, HEAD, false), (body, BODY, false)];
        self.driver.add_chain(&chain).unwrap();
    }

    /// Receive buffers at `at` and behind.
    fn post(&mut self, at: u64) {
        for n in 0..4 {
            self.driver
                .add_chain(&[(at + n * 2048, 2048, true)])
                .unwrap();
        }
    }
}

fn pass(from: &End, to: &End) -> (Dequeued, Option<Enqueued>) {
    let mut enqueued = None;
    let mut burst = Burst::default();
    let dequeued = from.ring.dequeue(&mut burst, |packets| {
        let list: Vec<u8> = (0..packets.len() as u8).collect();
        enqueued = Some(to.ring.enqueue(packets, &list));
    });
    (dequeued, enqueued)
}

#[test]
fn a_burst_whose_heads_are_gone_is_not_lent() {
    for packed in [false, true] {
        let (mut from, mut to) = (End::new(packed), End::new(packed));
        to.post(ROOM);
        from.send(ROOM, ROOM + 4096, 1);
        from.send(8 << 20, ROOM + 8192, 2);
        from.memory.truncate(0, 8 << 20).unwrap();
        let (dequeued, enqueued) = pass(&from, &to);
        assert_eq!(enqueued, None);
        assert_eq!(dequeued.fault, Some(RingFault::MemoryLost));
        assert_eq!((dequeued.packets, dequeued.lost), (0, 2));
        // From now on nothing is taken from that guest or given to it.
        assert_eq!(pass(&from, &to), (Dequeued::default(), None));
        assert_eq!(from.ring.state().fault(), Some(RingFault::MemoryLost));
        // A driver that starts anew does not mend it.
        from.ring.state().device_fault().forgive();
        assert_eq!(from.ring.state().fault(), Some(RingFault::MemoryLost));
        assert_eq!(to.ring.state().fault(), None);
    }
}

#[test]
fn a_body_that_is_gone_is_delivered_to_nobody() {
    for packed in [false, true] {
        let (mut from, mut to) = (End::new(packed), End::new(packed));
        to.post(ROOM);
        from.send(ROOM, ROOM + 4096, 1);
        from.send(ROOM + 2048, 8 << 20, 2);
        from.memory.truncate(0, 8 << 20).unwrap();
        let (dequeued, enqueued) = pass(&from, &to);
        // Heads alone were looked at before; the loss shows when bodies are copied.
        assert_eq!((dequeued.packets, dequeued.lost), (2, 0));
        let enqueued = enqueued.unwrap();
        assert_eq!((enqueued.delivered, enqueued.lost), (1, 1));
        // The first one was copied before, and is whole.
        let used = to.driver.poll_used().unwrap();
        let got = to.memory.read_bytes(ROOM, used.len as usize);
        assert!(got[12..].iter().all(|byte| *byte == 1));
        assert!(to.driver.poll_used().is_none());

        // The buffer that it would have gone to is still there for others.
        let mut other = End::new(packed);
        other.send(ROOM, ROOM + 4096, 5);
        let (_, enqueued) = pass(&other, &to);
        assert_eq!(enqueued.unwrap().delivered, 1);
        let used = to.driver.poll_used().unwrap();
        assert_eq!(used.len, HEAD + BODY);
        let got = to.memory.read_bytes(ROOM + 2048, used.len as usize);
        assert!(got[12..].iter().all(|byte| *byte == 5));
    }
}

#[test]
fn a_receiver_whose_buffers_are_gone_loses_its_own_packets_only() {
    for packed in [false, true] {
        let (mut from, mut to, mut other) = (End::new(packed), End::new(packed), End::new(packed));
        to.post(8 << 20);
        other.post(ROOM);
        from.send(ROOM, ROOM + 4096, 3);
        to.memory.truncate(0, 8 << 20).unwrap();
        let mut burst = Burst::default();
        let mut outcomes = Vec::new();
        let dequeued = from.ring.dequeue(&mut burst, |packets| {
            outcomes.push(to.ring.enqueue(packets, &[0]));
            outcomes.push(other.ring.enqueue(packets, &[0]));
        });
        assert_eq!((dequeued.packets, dequeued.fault), (1, None));
        let (lost, delivered) = (outcomes[0], outcomes[1]);
        assert_eq!((lost.delivered, lost.faulted), (0, 1));
        assert_eq!(lost.fault, Some(RingFault::MemoryLost));
        assert_eq!(delivered.delivered, 1);
        assert_eq!(from.ring.state().fault(), None);
        assert!(
            from.driver.poll_used().is_some(),
            "the sender has its buffers back"
        );
    }
}

#[test]
fn rings_that_are_gone_are_a_loss_too() {
    for packed in [false, true] {
        for from_lost in [true, false] {
            let (mut from, mut to) = (End::new(packed), End::new(packed));
            to.post(ROOM);
            from.send(ROOM, ROOM + 4096, 1);
            let lost = if from_lost { &from } else { &to };
            lost.memory.truncate(0, 0).unwrap();
            let (dequeued, enqueued) = pass(&from, &to);
            assert_eq!(dequeued.fault.is_some(), from_lost);
            assert_eq!(
                enqueued.map(|enqueued| enqueued.faulted),
                (!from_lost).then_some(1)
            );
            assert!(lost.ring.state().device_fault().has_lost_memory());
            lost.ring.want_kicks(true);
        }
    }
}
