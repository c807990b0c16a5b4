//! Call and kick eventfds that a frontend turns against the switch.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ringway_frontend::net::{receiveq, transmitq};
use ringway_frontend::raw::RawMessage;
use ringway_frontend::{NetDriver, features};

use crate::arena::{Arena, LAYOUTS, config, without};
use crate::lost::offer;
use crate::messages::request;

/// An eventfd whose next write waits for ever.
pub fn full() -> EventFd {
    let eventfd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    eventfd.write(u64::MAX - 1).unwrap();
    eventfd
}

pub fn make_blocking(eventfd: &EventFd) {
    fcntl(eventfd, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
}

/// The flag belongs to the open file, so the frontend can take it away after the
/// switch has set it.
#[test]
fn a_call_that_never_ends_costs_its_own_port() {
    let mut arena = Arena::new();
    let cases = LAYOUTS
        .iter()
        .flat_map(|layout| [(layout, transmitq(0)), (layout, receiveq(0))]);
    for (layout, queue) in cases {
        let mut config = without(features::EVENT_IDX);
        config.features |= layout;
        let mut guest = arena.attack(&config);
        let call = full();
        let message = RawMessage::numbered(
            request::SET_VRING_CALL,
            (queue as u64).to_le_bytes().to_vec(),
        );
        guest.session.send(&message, &[call.as_raw_fd()]).unwrap();
        // Answered once the switch has the descriptor.
        guest.session.set_vring_enable(queue, true).unwrap();
        make_blocking(&call);
        let room = guest.free_gpa;
        offer(&mut guest, queue, &[room, room + 0x1000]);
        if queue == receiveq(0) {
            arena
                .peer
                .send(0, &ringway_tests::scripted::frame(0xba, 0xee, 60, 1));
        }
        // They are on the same core.
        arena.bystanders.go_on(20).unwrap();
        arena.quarantined("a full call", "call eventfd");
        drop(guest);
        arena.gone();
        let mut driver = NetDriver::new(arena.attack(&crate::arena::config())).unwrap();
        arena.forwards(&mut driver);
        drop(driver);
        arena.gone();
    }
    arena.end();
}

/// A full call that does not block holds a notification already; a kick that is
/// full, blocking, or written all the time wakes a core and nothing else.
#[test]
fn full_eventfds_and_storms_of_kicks_hurt_nobody() {
    let mut arena = Arena::new();
    let mut driver = NetDriver::new(arena.attack(&config())).unwrap();
    let (call, kick) = (full(), full());
    for (request, fd) in [
        (request::SET_VRING_CALL, &call),
        (request::SET_VRING_KICK, &kick),
    ] {
        let body = (receiveq(0) as u64).to_le_bytes().to_vec();
        let message = RawMessage::numbered(request, body);
        driver
            .guest
            .session
            .send(&message, &[fd.as_raw_fd()])
            .unwrap();
    }
    arena.forwards(&mut driver);
    make_blocking(&kick);
    arena.forwards(&mut driver);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        driver.guest.rings[transmitq(0)].kick();
    }
    arena.bystanders.go_on(10).unwrap();
    arena.forwards(&mut driver);
    drop(driver);
    arena.end();
}
