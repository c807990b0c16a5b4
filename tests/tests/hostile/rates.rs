//! A pair of bystanders on the same core keeps its rate, and misses no frame,
//! while an attacker does its worst again and again.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringway_frontend::net::{receiveq, transmitq};
use ringway_frontend::raw::RawMessage;
use ringway_frontend::{Guest, features};
use ringway_tests::scripted::{self, frame};

use crate::arena::{Arena, SECOND, config, memory, without};
use crate::calls::{full, make_blocking};
use crate::lost::offer;
use crate::messages::request;
use crate::storms::mutate;

/// A guest of the attacker's, without waiting for more than its rings.
fn guest(arena: &Arena) -> Guest {
    let session = scripted::connect(&arena.daemon, "bad").unwrap();
    session
        .bring_up_with(&config(), Arc::new(memory()), 0x1000)
        .unwrap()
}

#[test]
fn connections_and_messages_take_nobody_elses_rate() {
    let mut arena = Arena::new();
    arena.keeps_its_rate("connections that say nothing", |arena| {
        drop(scripted::connect(&arena.daemon, "bad").unwrap());
    });
    arena.keeps_its_rate("guests that come and go", |arena| drop(guest(arena)));
    arena.keeps_its_rate("messages that make no sense", |arena| {
        let session = scripted::connect(&arena.daemon, "bad").unwrap();
        let nonsense = RawMessage::numbered(request::LAST + 1, vec![0; 64]);
        session.send(&nonsense, &[]).unwrap();
        session.closed_within(scripted::LIMIT);
    });
    let mut flip = false;
    let mut plugged = guest(&arena);
    arena.keeps_its_rate("a ring that is switched off and on", |_| {
        plugged.session.set_vring_enable(0, flip).unwrap();
        flip = !flip;
    });
    let infos = plugged.memory.region_infos();
    arena.keeps_its_rate("memory that is replaced", |_| {
        plugged.session.set_mem_regions(&infos).unwrap();
    });
    drop(plugged);
    arena.end();
}

#[test]
fn broken_rings_take_nobody_elses_rate() {
    let mut arena = Arena::new();
    for (case, queue) in [("transmit", transmitq(0)), ("receive", receiveq(0))] {
        arena.keeps_its_rate(&format!("{case} rings that are broken"), |arena| {
            let mut guest = guest(arena);
            let outside = [(1 << 40, 64, queue == receiveq(0))];
            guest.rings[queue].add_chain(&outside).unwrap();
            guest.rings[queue].kick();
            if queue == receiveq(0) {
                arena.feed();
            }
            // It goes on where it is shut out.
            for _ in 0..50 {
                guest.rings[queue].kick();
            }
        });
    }
    // Everything rewritten all the time, by a thread of its own.
    let shaken = guest(&arena);
    let stop = Arc::new(AtomicBool::new(false));
    let thread = {
        let (memory, stop) = (Arc::clone(&shaken.memory), Arc::clone(&stop));
        let layouts: Vec<_> = shaken.rings.iter().map(|ring| *ring.layout()).collect();
        std::thread::spawn(move || mutate(&memory, &layouts, SECOND, 7, true, &stop))
    };
    arena.daemon.wait_state("bad", "quarantined").unwrap();
    arena.keeps_its_rate("memory that is rewritten all the time", |arena| {
        arena.peer.send(0, &frame(0xba, 0xee, 1000, 0));
        while arena.peer.recv(0).is_some() {}
        std::thread::yield_now();
    });
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    drop(shaken);
    arena.end();
}

/// These are made once for each connection, and the port is left alone for a
/// second and more after it.
#[test]
fn lost_memory_and_endless_calls_take_nobody_elses_rate() {
    let mut arena = Arena::new();
    let mut held = None;
    arena.keeps_its_rate("memory that is taken away", |arena| {
        if arena.daemon.port_state("bad").unwrap() != "waiting-for-socket" {
            held = None;
            std::thread::sleep(std::time::Duration::from_millis(20));
            return;
        }
        let mut guest = guest(arena);
        guest.memory.truncate(1, 0).unwrap();
        offer(&mut guest, transmitq(0), &[SECOND]);
        arena.quarantined("memory taken away", "truncated");
        held = Some(guest);
    });
    drop(held);
    arena.gone();
    let mut held = None;
    arena.keeps_its_rate("calls that never end", |arena| {
        if arena.daemon.port_state("bad").unwrap() != "waiting-for-socket" {
            held = None;
            std::thread::sleep(std::time::Duration::from_millis(20));
            return;
        }
        let session = scripted::connect(&arena.daemon, "bad").unwrap();
        let config = without(features::EVENT_IDX);
        let guest = session.bring_up_with(&config, Arc::new(memory()), 0x1000);
        let mut guest = guest.unwrap();
        let call = full();
        let body = (transmitq(0) as u64).to_le_bytes().to_vec();
        let message = RawMessage::numbered(request::SET_VRING_CALL, body);
        guest.session.send(&message, &[call.as_raw_fd()]).unwrap();
        guest.session.set_vring_enable(0, true).unwrap();
        make_blocking(&call);
        let room = guest.free_gpa;
        offer(&mut guest, transmitq(0), &[room]);
        arena.quarantined("a full call", "call eventfd");
        held = Some((guest, call));
    });
    drop(held);
    arena.gone();
    arena.end();
}
