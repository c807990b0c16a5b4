//! vhost-user messages that make no sense: the connection is closed, with the
//! reason in `last_disconnect`, and the next one works.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ringway_frontend::raw::{NEED_REPLY, REPLY, RawMessage, VERSION};
use ringway_tests::scripted::{self, LIMIT};

use crate::arena::{Arena, REGION, config, memory};

/// Requests by number (vhost-user, "Front-end message types").
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const CREATE_CRYPTO_SESSION: u32 = 26;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const CHECK_DEVICE_STATE: u32 = 43;
    /// The last one of the specification.
    pub const LAST: u32 = 44;
}

/// A message that ends the connection.
pub struct Bad {
    pub case: String,
    pub message: RawMessage,
    pub fds: Vec<RawFd>,
    pub reason: &'static str,
}

pub fn bad(case: impl Into<String>, request: u32, body: &[u64], reason: &'static str) -> Bad {
    let body = body.iter().flat_map(|word| word.to_le_bytes()).collect();
    Bad {
        case: case.into(),
        message: RawMessage::numbered(request, body),
        fds: Vec::new(),
        reason,
    }
}

/// A vring state body: index and number.
pub fn state(index: u32, number: u32) -> [u64; 1] {
    [u64::from(index) | u64::from(number) << 32]
}

pub const MALFORMED: &str = "malformed or not known";

#[test]
fn rings_that_cannot_be_are_refused() {
    use request::*;
    let mut arena = Arena::new();
    let mut cases = Vec::new();
    for size in [0, 3, 255, 65_535, 65_536, u32::MAX] {
        cases.push(bad(
            format!("a ring of {size}"),
            SET_VRING_NUM,
            &state(1, size),
            "is not a power of two",
        ));
    }
    for index in [2, 255, 0x1_0000, u32::MAX] {
        for (name, request, number) in [
            ("NUM", SET_VRING_NUM, 16),
            ("BASE", SET_VRING_BASE, 0),
            ("GET_BASE", GET_VRING_BASE, 0),
            ("ENABLE", SET_VRING_ENABLE, 1),
        ] {
            let case = format!("{name} of ring {index:#x}");
            cases.push(bad(case, request, &state(index, number), "does not exist"));
        }
        let address = [u64::from(index), 0x1000, 0x1000, 0x1000, 0];
        let case = format!("ADDR of ring {index:#x}");
        cases.push(bad(case, SET_VRING_ADDR, &address, "does not exist"));
    }
    for (name, request) in [
        ("KICK", SET_VRING_KICK),
        ("CALL", SET_VRING_CALL),
        ("ERR", SET_VRING_ERR),
    ] {
        let case = format!("{name} of ring 255");
        cases.push(bad(case, request, &[0x1ff], "does not exist"));
        let case = format!("{name} without the descriptor it announces");
        cases.push(bad(case, request, &[1], MALFORMED));
    }
    cases.push(bad(
        "a base of 17 bits",
        SET_VRING_BASE,
        &state(1, 0x1_0000),
        "does not fit",
    ));
    cases.push(bad(
        "ENABLE with 2",
        SET_VRING_ENABLE,
        &state(1, 2),
        "closed because of a bad message",
    ));
    cases.push(bad(
        "features not offered",
        SET_FEATURES,
        &[1 << 63 | 1 << 32],
        "were not offered",
    ));
    cases.push(bad(
        "protocol features not offered",
        SET_PROTOCOL_FEATURES,
        &[1 << 62],
        "were not offered",
    ));
    for case in &cases {
        refused(&mut arena, case);
    }

    // Addresses, relative to a running guest's.
    for (part, align) in [(0, 16), (1, 4), (2, 2)] {
        for (case, reason) in [
            ("misaligned", MALFORMED),
            ("outside", "not inside one region"),
            ("at the end", "not inside one region"),
            ("wrapping", "not inside one region"),
        ] {
            let guest = arena.attack(&config());
            let layout = guest.rings[1].layout();
            let user = |gpa| guest.memory.user_addr(gpa);
            // Descriptor table, used ring, available ring: the message's order.
            let mut parts = [user(layout.desc), user(layout.used), user(layout.avail)];
            parts[part] = match case {
                "misaligned" => parts[part] + align / 2,
                "outside" => 0x1000,
                "at the end" => user(0) + REGION - 16,
                _ => u64::MAX - 15,
            };
            let body = [1, parts[0], parts[1], parts[2], 0];
            let case = format!("part {part} {case}");
            let message = bad(case, SET_VRING_ADDR, &body, reason);
            guest.session.send(&message.message, &[]).unwrap();
            arena.closed(&message.case, &guest.session, reason);
        }
        arena.bystanders.go_on(1).unwrap();
    }

    // Descriptors that a core must not write to or wait on.
    let null = File::open("/dev/null").unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let memory = memory();
    for (what, fd) in [
        ("/dev/null", null.as_raw_fd()),
        ("a socket", socket.as_raw_fd()),
        ("a memory file", memory.file(0).as_raw_fd()),
    ] {
        for request in [SET_VRING_KICK, SET_VRING_CALL] {
            let case = format!("request {request} with {what}");
            let mut message = bad(case, request, &[1], "not an eventfd");
            message.fds.push(fd);
            refused(&mut arena, &message);
        }
    }
    arena.end();
}

#[test]
fn dirty_logs_that_cannot_be_right_are_refused() {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    let mut arena = Arena::new();
    let log = |bytes: u64, sealed: bool| {
        let fd = memfd_create(c"log", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let file = File::from(fd);
        file.set_len(bytes).unwrap();
        if sealed {
            fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        }
        file
    };
    // The attacker's memory ends at 5 MiB: 1,280 pages, 160 bytes.
    for (what, bytes, sealed, size, offset, reason) in [
        ("empty", 4096, true, 0, 0, MALFORMED),
        ("wrapping", 4096, true, 160, u64::MAX - 8, MALFORMED),
        ("longer than its file", 4096, true, 4097, 0, "needs 0x1001"),
        ("beyond its file", 4096, true, 4096, 1, "needs 0x1001"),
        (
            "beyond all files",
            4096,
            true,
            1 << 62,
            0,
            "needs 0x4000000000000000",
        ),
        ("too small for the memory", 4096, true, 159, 0, "needs 0xa0"),
        ("without a seal", 4096, false, 160, 0, "F_SEAL_SHRINK"),
    ] {
        let file = log(bytes, sealed);
        let case = format!("a log that is {what}");
        let mut message = bad(case, request::SET_LOG_BASE, &[size, offset], reason);
        message.fds.push(file.as_raw_fd());
        refused(&mut arena, &message);
    }
    let mut none = bad("no log", request::SET_LOG_BASE, &[160, 0], "");
    refused(&mut arena, &none);
    none.case = "two logs".to_owned();
    let file = log(4096, true);
    none.fds.extend([file.as_raw_fd(), file.as_raw_fd()]);
    refused(&mut arena, &none);
    arena.end();
}

/// Sends a bad message to a session that forwards.
pub fn refused(arena: &mut Arena, message: &Bad) {
    println!("{}", message.case);
    let guest = arena.attack(&config());
    guest.session.send(&message.message, &message.fds).unwrap();
    arena.closed(&message.case, &guest.session, message.reason);
    arena.bystanders.go_on(1).unwrap();
}

#[test]
fn surplus_descriptors_are_refused_and_closed() {
    let mut arena = Arena::new();
    let file = File::open("/dev/null").unwrap();
    for count in [1, 3, 32] {
        let fds = vec![file.as_raw_fd(); count];
        for request in 1..=request::LAST {
            // One is right for some, but no body like this is.
            let session = scripted::connect(&arena.daemon, "bad").unwrap();
            let body = [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
            let message = RawMessage::numbered(request, body.to_vec());
            session.send(&message, &fds).unwrap();
            assert!(
                session.closed_within(LIMIT),
                "request {request} with {count} descriptors"
            );
        }
        arena.bystanders.go_on(1).unwrap();
    }
    // More than the switch has room for: the message is passed over.
    for count in [33, 253] {
        let fds = vec![file.as_raw_fd(); count];
        for request in 1..=request::LAST {
            let session = scripted::connect(&arena.daemon, "bad").unwrap();
            let message = RawMessage::numbered(request, Vec::new());
            session.send(&message, &fds).unwrap();
        }
        arena.bystanders.go_on(1).unwrap();
    }
    // Requests that carry none, well-formed but for that.
    for (request, body) in [
        (request::GET_FEATURES, &[][..]),
        (request::SET_FEATURES, &[1 << 32][..]),
        (request::SET_VRING_NUM, &state(1, 16)[..]),
        (request::GET_VRING_BASE, &state(1, 0)[..]),
    ] {
        let mut message = bad(
            format!("request {request} with a descriptor"),
            request,
            body,
            MALFORMED,
        );
        message.fds.push(file.as_raw_fd());
        refused(&mut arena, &message);
    }
    arena.end();
}

#[test]
fn messages_of_wrong_size_kind_or_flags_are_refused() {
    let mut arena = Arena::new();
    for request in 1..=request::LAST {
        for body in [1, 7, 13, 4096 - 12] {
            // No request has a body of such a length.
            let session = scripted::connect(&arena.daemon, "bad").unwrap();
            let message = RawMessage::numbered(request, vec![0; body]);
            session.send(&message, &[]).unwrap();
            // Its body, if any, is not looked at.
            let ignored =
                request == request::CHECK_DEVICE_STATE && !session.closed_within(Duration::ZERO);
            assert!(
                ignored || session.closed_within(LIMIT),
                "request {request} of {body} bytes"
            );
        }
    }
    arena.bystanders.go_on(1).unwrap();
    for request in [0, request::LAST + 1, 255, 0x1_0001, u32::MAX] {
        let message = bad(format!("request {request}"), request, &[0], MALFORMED);
        refused(&mut arena, &message);
    }
    for flags in [
        0,
        2,
        3,
        VERSION | REPLY,
        VERSION | 1 << 4,
        VERSION | NEED_REPLY | 1 << 31,
        u32::MAX,
    ] {
        let mut message = bad(
            format!("flags {flags:#x}"),
            request::GET_FEATURES,
            &[],
            MALFORMED,
        );
        message.message = message.message.flags(flags);
        refused(&mut arena, &message);
    }
    for size in [4097, 0x7fff_ffff, u32::MAX] {
        let mut message = bad(
            format!("{size} bytes announced"),
            request::SET_FEATURES,
            &[1 << 32],
            MALFORMED,
        );
        message.message = message.message.claim_size(size);
        refused(&mut arena, &message);
    }
    arena.end();
}

#[test]
fn messages_cut_off_anywhere_leave_nothing_behind() {
    let mut arena = Arena::new();
    let memory = memory();
    let fds: Vec<_> = [0, 1].map(|index| memory.file(index).as_raw_fd()).into();
    let mut table = vec![2];
    for info in memory.region_infos() {
        table.extend([
            info.guest_phys_addr,
            info.memory_size,
            info.userspace_addr,
            info.mmap_offset,
        ]);
    }
    for (message, fds) in [
        (bad("", request::GET_FEATURES, &[], ""), vec![]),
        (bad("", request::SET_FEATURES, &[1 << 32], ""), vec![]),
        (
            bad("", request::SET_VRING_KICK, &[0], ""),
            fds[..1].to_vec(),
        ),
        (bad("", request::SET_MEM_TABLE, &table, ""), fds),
    ] {
        let bytes = message.message.to_bytes();
        for cut in 1..=bytes.len() {
            let session = scripted::connect(&arena.daemon, "bad").unwrap();
            session.send_bytes(&bytes[..cut], &fds).unwrap();
            session.hang_up();
        }
        arena.bystanders.go_on(1).unwrap();
    }
    arena.end();
}

#[test]
fn a_frontend_that_stalls_can_be_removed() {
    let mut arena = Arena::new();
    let again = |arena: &mut Arena| {
        arena.bystanders.go_on(1).unwrap();
        arena.daemon.ok(&["del-port", "br1", "bad"]).unwrap();
        arena
            .daemon
            .add_vhost_port("br1", "bad", &["mode=server"])
            .unwrap();
    };
    // One that stops in the middle of a header.
    let message = RawMessage::numbered(request::SET_FEATURES, vec![0; 8]).to_bytes();
    let session = scripted::connect(&arena.daemon, "bad").unwrap();
    session.send_bytes(&message[..5], &[]).unwrap();
    arena.daemon.wait_state("bad", "negotiating").unwrap();
    again(&mut arena);
    assert!(session.closed_within(LIMIT));
    // One that asks and asks and reads no answer.
    let question = RawMessage::numbered(request::GET_FEATURES, Vec::new()).to_bytes();
    let mut socket = UnixStream::connect(arena.daemon.path("bad.sock")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let begin = Instant::now();
    let mut refusals = 0;
    // Blocked for good: the switch reads no more, since it cannot answer.
    while refusals < 100 && begin.elapsed() < LIMIT {
        match socket.write(&question) {
            Ok(_) => refusals = 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refusals, 100, "the switch keeps reading");
    again(&mut arena);
    drop(socket);
    arena.end();
}

/// Messages of features that were not offered, with the numbers of old holes in
/// other switches (CVE-2020-10722, CVE-2020-10724, CVE-2020-10726, CVE-2021-3839).
#[test]
fn what_was_not_offered_is_refused() {
    use request::*;
    let mut arena = Arena::new();
    let memory = memory();
    let cases: [(&str, u32, &[u64], bool); 5] = [
        ("a log that wraps", SET_LOG_BASE, &[u64::MAX, 2], true),
        ("a log behind its file", SET_LOG_BASE, &[4096, REGION], true),
        (
            "a crypto session",
            CREATE_CRYPTO_SESSION,
            &[u64::MAX; 4],
            false,
        ),
        (
            "65,535 queues in flight",
            GET_INFLIGHT_FD,
            &[0, 0, 0xffff_ffff],
            false,
        ),
        (
            "a flight of 65,535 queues",
            SET_INFLIGHT_FD,
            &[4096, 0, 0xffff_ffff],
            true,
        ),
    ];
    for (case, request, body, with_file) in cases {
        let guest = arena.attack(&config());
        let message = bad(case, request, body, "");
        let fd = memory.file(0).as_raw_fd();
        let fds: &[RawFd] = if with_file { &[fd] } else { &[] };
        guest.session.send(&message.message, fds).unwrap();
        arena.closed(case, &guest.session, "");
        arena.bystanders.go_on(1).unwrap();
    }
    // As many queues as there may be, and one more (DPDK 7cc4f260bf).
    arena.daemon.ok(&["del-port", "br1", "bad"]).unwrap();
    arena
        .daemon
        .add_vhost_port("br1", "bad", &["mode=server", "queues=128"])
        .unwrap();
    let session = scripted::connect(&arena.daemon, "bad").unwrap();
    let last = RawMessage::numbered(SET_VRING_NUM, state(255, 16)[0].to_le_bytes().into());
    let behind = RawMessage::numbered(SET_VRING_NUM, state(256, 16)[0].to_le_bytes().into());
    session.send(&last, &[]).unwrap();
    assert!(!session.closed_within(Duration::from_millis(50)));
    session.send(&behind, &[]).unwrap();
    arena.closed("virtqueue 256", &session, "does not exist");
    arena.daemon.ok(&["del-port", "br1", "bad"]).unwrap();
    arena
        .daemon
        .add_vhost_port("br1", "bad", &["mode=server"])
        .unwrap();
    arena.end();
}
