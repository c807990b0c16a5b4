//! Everything at once: rings rewritten under traffic, connections that come
//! and go, random messages.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringway_frontend::net::{receiveq, transmitq};
use ringway_frontend::raw::{NEED_REPLY, RawMessage, VERSION};
use ringway_frontend::ring::{DESC_NEXT, DESC_WRITE};
use ringway_frontend::{Descriptor, Error, Gpa, Guest, GuestMemory, NetDriver, Session};
use ringway_tests::scripted::{self, LIMIT, frame};

use crate::arena::{Arena, REGION, RING, SECOND, config, memory};
use crate::messages::request;

/// xorshift64*: enough to be nasty, and the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Rewrites descriptors, indices and headers of a running guest until told to
/// stop; `wild` also breaks the ring's rules.
pub fn mutate(
    memory: &GuestMemory,
    layouts: &[ringway_frontend::RingLayout],
    room: Gpa,
    seed: u64,
    wild: bool,
    stop: &AtomicBool,
) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        for (queue, layout) in layouts.iter().enumerate() {
            let direction = if queue == receiveq(0) { DESC_WRITE } else { 0 };
            let index = random.below(u64::from(RING)) as u16;
            let mut desc = Descriptor {
                addr: room + random.below(REGION / 4),
                len: random.below(3000) as u32,
                flags: direction | (random.below(2) as u16 * DESC_NEXT),
                // Forward only, so that chains end.
                next: (index + 1).min(RING - 1),
            };
            if index == RING - 1 {
                desc.flags &= !DESC_NEXT;
            }
            if queue == receiveq(0) {
                desc.len = desc.len.max(64);
            }
            if wild && random.below(200) == 0 {
                desc.flags = random.next() as u16;
                desc.next = random.next() as u16;
                desc.len = random.next() as u32;
                desc.addr = match random.below(2) {
                    0 => random.next(),
                    _ => SECOND + REGION - random.below(64),
                };
            }
            memory.write(layout.descriptor(index), desc);
            // Headers and frame heads are rewritten while they are copied.
            let at = room + random.below(REGION / 4);
            memory.write(at & !7, random.next());
            let slot = random.below(u64::from(RING)) as u16;
            memory.write(
                layout.avail_entry(slot),
                random.below(u64::from(RING)) as u16,
            );
            // All chains are always available.
            let used: u16 = memory.read(layout.used_idx());
            let ahead = match wild && random.below(2000) == 0 {
                true => random.next() as u16,
                false => used.wrapping_add(RING),
            };
            memory.store(layout.avail_idx(), ahead, Ordering::Release);
            if wild && random.below(50) == 0 {
                memory.write(layout.used_elem(slot), random.next());
                memory.write(layout.used_flags(), random.next() as u16);
            }
        }
    }
}

#[test]
fn a_guest_that_rewrites_everything_hurts_nobody_else() {
    let mut arena = Arena::new();
    let begin = Instant::now();
    let mut lives = 0_u64;
    // Well-behaved enough to keep traffic going, and wild.
    while begin.elapsed() < Duration::from_millis(2500) {
        lives += 1;
        let wild = begin.elapsed() > Duration::from_millis(1000);
        let guest = arena.attack(&config());
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = [1_u64, 2]
            .map(|thread| {
                let memory = Arc::clone(&guest.memory);
                let layouts: Vec<_> = guest.rings.iter().map(|r| *r.layout()).collect();
                let stop = Arc::clone(&stop);
                let seed = lives << 8 | thread;
                std::thread::spawn(move || {
                    mutate(&memory, &layouts, SECOND, seed, wild, &stop);
                })
            })
            .into();
        let life = Instant::now();
        while life.elapsed() < Duration::from_millis(250) {
            guest.rings[transmitq(0)].kick();
            arena.peer.send(0, &frame(0xba, 0xee, 1000, 0));
            while arena.peer.recv(0).is_some() {}
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        arena.bystanders.go_on(2).unwrap();
        drop(guest);
        arena.gone();
    }
    let taken = arena.daemon.port("bad").unwrap();
    println!("{lives} lives: {taken:?}");
    assert!(
        taken.rx_packets > 1000 && taken.tx_packets > 10,
        "{taken:?}"
    );
    assert!(arena.peer.flush(0, LIMIT));
    while arena.peer.recv(0).is_some() {}
    arena.end();
}

#[test]
fn connections_may_come_and_go_as_they_like() {
    let mut arena = Arena::new();
    for round in 0..200 {
        let session = scripted::connect(&arena.daemon, "bad").unwrap();
        let guest = session
            .bring_up_with(&config(), Arc::new(memory()), 0x1000)
            .unwrap();
        if round % 10 == 0 {
            arena.daemon.wait_state("bad", "forwarding").unwrap();
            let mut driver = NetDriver::new(guest).unwrap();
            arena.forwards(&mut driver);
        }
    }
    arena.bystanders.go_on(1).unwrap();
    for _ in 0..1000 {
        drop(scripted::connect(&arena.daemon, "bad").unwrap());
    }
    // Many at a time: one is served, the others wait for their turn.
    let many: Vec<_> = (0..50)
        .map(|_| scripted::connect(&arena.daemon, "bad").unwrap())
        .collect();
    arena.bystanders.go_on(1).unwrap();
    drop(many);
    arena.end();
}

/// How long a request's body has to be.
fn right_length(request: u32) -> usize {
    use request::*;
    match request {
        SET_FEATURES | SET_PROTOCOL_FEATURES => 8,
        SET_VRING_NUM | SET_VRING_BASE | GET_VRING_BASE | SET_VRING_ENABLE => 8,
        SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => 8,
        SET_VRING_ADDR | SET_MEM_TABLE | ADD_MEM_REG | REM_MEM_REG => 40,
        _ => 0,
    }
}

/// A message with parts that are right and parts that are not.
fn random_message(random: &mut Random, guest: Option<&Guest>) -> RawMessage {
    let request = match random.below(50) {
        0 => random.next() as u32,
        1..10 => random.below(u64::from(request::LAST) + 2) as u32,
        // Those that are not over at once.
        _ => random.below(u64::from(request::SET_VRING_ENABLE)) as u32 + 1,
    };
    let len = match random.below(20) {
        0 => random.below(200) as usize,
        _ => right_length(request),
    };
    let mut body = random.bytes(len);
    if random.below(4) != 0 {
        // Small numbers: queue indices, sizes, counts.
        body.iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = if at % 4 == 0 { *byte % 4 } else { 0 });
    }
    if let Some(guest) = guest
        && random.below(2) == 0
    {
        // Addresses that mean something.
        for word in body.chunks_exact_mut(8).skip(1) {
            let address = guest.memory.user_addr(0) + (random.below(REGION) & !15);
            word.copy_from_slice(&address.to_le_bytes());
        }
    }
    let mut message = RawMessage::numbered(request, body);
    match random.below(40) {
        0 => message = message.flags(random.next() as u32),
        1..15 => message = message.flags(VERSION | NEED_REPLY),
        15 => {
            let size = random.below(64) as u32;
            message = message.claim_size(size);
        }
        _ => {}
    }
    message
}

/// How many messages the soak sends: a million in `make soak`.
fn messages() -> usize {
    let wanted = std::env::var("RINGWAY_SOAK_MESSAGES").ok();
    wanted.map_or(10_000, |wanted| wanted.parse().unwrap())
}

/// Waits until the switch has read what was sent: a question behind it is
/// answered. False: it hung up. Who waits for more bytes than it was sent takes
/// the question for them, hence the limit.
fn was_read(session: &Session) -> bool {
    let question = RawMessage::numbered(request::GET_FEATURES, Vec::new());
    if session.send(&question, &[]).is_err() {
        return false;
    }
    loop {
        match session.recv_bytes(Duration::from_millis(2)) {
            Ok(answer) if answer.is_empty() => return false,
            // The message itself may have been answered first.
            Ok(answers) if answers_features(&answers) => return true,
            Ok(_) => {}
            Err(Error::Timeout { .. }) => return true,
            Err(_) => return false,
        }
    }
}

/// Whether one of these answers is that to GET_FEATURES.
fn answers_features(mut answers: &[u8]) -> bool {
    while let Some((header, rest)) = answers.split_first_chunk::<12>() {
        if header.starts_with(&request::GET_FEATURES.to_le_bytes()) {
            return true;
        }
        let size = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        answers = rest.get(size as usize..).unwrap_or_default();
    }
    false
}

#[test]
fn random_messages_are_survived() {
    let messages = messages();
    let mut arena = Arena::new();
    let mut random = Random(0x1234_5678_9abc_def1);
    let memory = Arc::new(memory());
    let null = File::open("/dev/null").unwrap();
    let (mut sent, mut connections) = (0, 0);
    let mut held = Vec::new();
    while sent < messages {
        connections += 1;
        let session = scripted::connect(&arena.daemon, "bad").unwrap();
        // Half of them get a good start.
        let owner = match random.below(2) {
            0 => Err(session),
            _ => Ok(session
                .bring_up_with(&config(), Arc::clone(&memory), 0x1000)
                .unwrap()),
        };
        let (session, guest) = match &owner {
            Ok(guest) => (&guest.session, Some(guest)),
            Err(session) => (session, None),
        };
        let kick = guest.map_or(&null as &dyn AsRawFd, |guest| guest.rings[0].kick_fd());
        let choices = [kick, &null, memory.file(0), kick].map(|fd| fd.as_raw_fd());
        while sent < messages {
            let message = random_message(&mut random, guest);
            let wants_one = matches!(message.request, 5 | 12..=14 | 37);
            // More than belong to it, and more than there is room for.
            let count = match random.below(400) {
                0 => 33 + random.below(200) as usize,
                1..40 => random.below(4) as usize,
                _ => usize::from(wants_one),
            };
            let fds: Vec<_> = (0..count)
                .map(|_| choices[random.below(4) as usize])
                .collect();
            // Hung up on: the next connection goes on. Messages that the
            // switch would not get to read do not count.
            if session.send(&message, &fds).is_err() {
                break;
            }
            sent += 1;
            if !was_read(session) {
                break;
            }
        }
        if connections % 500 == 0 {
            arena.bystanders.go_on(1).unwrap();
        }
        if sent * 4 / messages > held.len() {
            drop(owner);
            arena.gone();
            held.push(arena.holdings());
        }
    }
    println!("{sent} messages, {connections} connections, held after each quarter: {held:#?}");
    assert!(connections * 100 > messages, "most messages went unread");
    // Flat from the first quarter on.
    for now in &held[1..] {
        assert!(now.fds <= held[0].fds, "{held:?}");
        assert!(now.mappings <= held[0].mappings, "{held:?}");
        assert!(
            now.anonymous_kib <= held[0].anonymous_kib + 2048,
            "{held:?}"
        );
    }
    // What it made the switch say is little.
    let said = arena.daemon.log().unwrap();
    let lines = said.lines().filter(|line| line.contains("bad")).count();
    println!("{lines} lines in the log");
    assert!(lines < 200 + connections / 20, "{lines} lines");
    arena.end();
}

/// A message that comes in parts is one message.
#[test]
fn messages_may_come_in_parts() {
    let mut arena = Arena::new();
    let session = scripted::connect(&arena.daemon, "bad").unwrap();
    let question = RawMessage::numbered(request::GET_FEATURES, Vec::new());
    let own = RawMessage::numbered(request::SET_OWNER, Vec::new());
    let base = RawMessage::numbered(request::SET_VRING_BASE, vec![1, 0, 0, 0, 9, 0, 0, 0]);
    for message in [own, base.clone(), base] {
        for part in message.to_bytes().chunks(7) {
            session.send_bytes(part, &[]).unwrap();
            std::thread::sleep(Duration::from_millis(3));
        }
        session.send(&question, &[]).unwrap();
        let answer = session.recv_bytes(LIMIT).unwrap();
        assert!(
            answer.starts_with(&request::GET_FEATURES.to_le_bytes()),
            "{answer:?}"
        );
    }
    drop(session);
    arena.bystanders.go_on(2).unwrap();
    arena.end();
}
