//! Memory tables that make no sense, and memory that goes away under traffic.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use ringway_frontend::NetDriver;
use ringway_frontend::net::{receiveq, transmitq};
use ringway_tests::scripted::{LIMIT, frame};

use crate::arena::{Arena, REGION, SECOND, config, memory};
use crate::messages::{MALFORMED, bad, refused, request};

#[test]
fn memory_tables_that_make_no_sense_are_refused() {
    let mut arena = Arena::new();
    let memory = memory();
    let infos = memory.region_infos();
    let table = |regions: &[[u64; 4]]| {
        let mut body = vec![regions.len() as u64];
        body.extend(regions.iter().flatten());
        body
    };
    let user = infos[0].userspace_addr;
    let whole = [0, REGION, user, 0];
    let cases: Vec<(&str, Vec<u64>, usize, &'static str)> = vec![
        ("no regions", table(&[]), 0, MALFORMED),
        ("an empty region", table(&[[0, 0, user, 0]]), 1, MALFORMED),
        (
            "overlapping regions",
            table(&[whole, [REGION - 0x1000, REGION, user + REGION, 0]]),
            2,
            "overlap",
        ),
        ("a region twice", table(&[whole, whole]), 2, "overlap"),
        (
            "a wrapping guest address",
            table(&[[u64::MAX - 0xfff, REGION, user, 0]]),
            1,
            MALFORMED,
        ),
        (
            "a wrapping user address",
            table(&[[0, REGION, u64::MAX - 0xfff, 0]]),
            1,
            MALFORMED,
        ),
        (
            "a wrapping file offset",
            table(&[[0, REGION, user, u64::MAX - 0xfff]]),
            1,
            MALFORMED,
        ),
        (
            "a file shorter than its region",
            table(&[[0, REGION + 1, user, 0]]),
            1,
            "its file",
        ),
        (
            "an offset behind the file",
            table(&[[0, 0x1000, user, REGION]]),
            1,
            "its file",
        ),
        (
            "a region of terabytes",
            table(&[[0, 1 << 42, 0x1000, 0]]),
            1,
            "its file",
        ),
        (
            "a region of half the address space",
            table(&[[0, 1 << 62, 0x1000, 0]]),
            1,
            "at most",
        ),
        ("fewer files than regions", table(&[whole]), 0, MALFORMED),
        ("more files than regions", table(&[whole]), 2, MALFORMED),
        (
            "more regions than the message has",
            [vec![5], whole.to_vec()].concat(),
            1,
            MALFORMED,
        ),
        (
            "four billion regions",
            [vec![0xffff_ffff], whole.to_vec()].concat(),
            1,
            MALFORMED,
        ),
    ];
    for (case, body, files, reason) in cases {
        let mut message = bad(case, request::SET_MEM_TABLE, &body, reason);
        message.fds = (0..files)
            .map(|index| memory.file(index).as_raw_fd())
            .collect();
        refused(&mut arena, &message);
    }

    // What cannot be mapped at all, whatever its size.
    let (socket, _other) = UnixStream::pair().unwrap();
    let null = File::open("/dev/null").unwrap();
    for fd in [socket.as_raw_fd(), null.as_raw_fd()] {
        let mut message = bad(
            "no file",
            request::SET_MEM_TABLE,
            &table(&[[0, 0x1000, user, 0]]),
            "memory region 0",
        );
        message.fds.push(fd);
        refused(&mut arena, &message);
    }

    // Slot by slot.
    let slot = |region: [u64; 4]| [&[0][..], &region].concat();
    let mut overlapping = bad(
        "ADD_MEM_REG over a region",
        request::ADD_MEM_REG,
        &slot([0x1000, 0x1000, user, 0]),
        "overlap",
    );
    overlapping.fds.push(memory.file(0).as_raw_fd());
    refused(&mut arena, &overlapping);
    let unknown = bad(
        "REM_MEM_REG of nothing",
        request::REM_MEM_REG,
        &slot([0x1000, 0x1000, user, 0]),
        "no memory region",
    );
    refused(&mut arena, &unknown);

    // More slots than there are.
    let mut guest = arena.attack(&config());
    let slots = guest.session.get_max_mem_slots().unwrap();
    let mut region = infos[1];
    region.memory_size = 0x1000;
    for slot in 2..slots {
        region.guest_phys_addr = (slot + 100) << 20;
        guest.session.add_mem_reg(&region).unwrap();
    }
    region.guest_phys_addr = 1 << 40;
    let error = guest.session.add_mem_reg(&region).unwrap_err();
    arena.closed(&error.to_string(), &guest.session, "at most");
    arena.end();
}

/// A driver whose buffers lie in the second region, its rings in the first.
fn driver_in_second_region(arena: &Arena) -> NetDriver {
    let mut guest = arena.attack(&config());
    guest.free_gpa = SECOND;
    NetDriver::new(guest).unwrap()
}

#[test]
fn a_region_may_go_while_its_buffers_are_in_use() {
    let mut arena = Arena::new();
    for queue in [transmitq(0), receiveq(0)] {
        let mut driver = driver_in_second_region(&arena);
        arena.forwards(&mut driver);
        let second = driver.guest.memory.region_infos()[1];
        driver.guest.session.rem_mem_reg(&second).unwrap();
        // What was offered before, or is offered now, is not there any more.
        match queue == transmitq(0) {
            true => assert!(driver.send(0, &frame(0xee, 0xba, 60, 1))),
            false => arena.feed(),
        }
        arena.quarantined("buffers in a removed region", "outside guest memory");
        arena.bystanders.go_on(2).unwrap();
        // It comes back, and so does the port after a driver reset.
        driver.guest.session.add_mem_reg(&second).unwrap();
        let mut guest = driver.guest;
        guest.stop().unwrap();
        guest.start_again(0).unwrap();
        arena.daemon.wait_state("bad", "forwarding").unwrap();
        guest.free_gpa = SECOND;
        let mut driver = NetDriver::new(guest).unwrap();
        arena.forwards(&mut driver);
        drop(driver);
        arena.gone();
    }
    // A region with rings in it.
    let mut guest = arena.attack(&config());
    let first = guest.memory.region_infos()[0];
    assert!(guest.session.rem_mem_reg(&first).is_err());
    arena.closed("rings", &guest.session, "not inside one region");
    let guest = arena.attack(&config());
    let second = guest.memory.region_infos()[1];
    assert!(guest.session.set_mem_regions(&[second]).is_err());
    arena.closed("rings", &guest.session, "not inside one region");
    arena.end();
}

#[test]
fn memory_may_be_replaced_under_traffic_without_a_loss() {
    let mut arena = Arena::new();
    let mut driver = driver_in_second_region(&arena);
    let regions = driver.guest.memory.region_infos();
    let mut received = 0;
    for round in 0..200 {
        // Frames on their way in both directions while the table changes.
        for number in 0..4 {
            assert!(driver.send(0, &frame(0xee, 0xba, 300, round * 4 + number)));
            assert!(
                arena
                    .peer
                    .send(0, &frame(0xba, 0xee, 300, round * 4 + number))
            );
        }
        driver.guest.session.set_mem_regions(&regions).unwrap();
        for number in 0..4 {
            let there = frame(0xee, 0xba, 300, round * 4 + number);
            let back = frame(0xba, 0xee, 300, round * 4 + number);
            assert_eq!(arena.peer.recv_within(0, LIMIT), Some(there));
            assert_eq!(driver.recv_within(0, LIMIT), Some(back));
            received += 2;
        }
        assert!(driver.flush(0, LIMIT) && arena.peer.flush(0, LIMIT));
    }
    assert_eq!(received, 1600);
    // Removed and added again while the wire is busy: in between frames are
    // lost with the port, but nothing else is.
    drop(driver);
    arena.gone();
    for round in 0..20 {
        let mut driver = driver_in_second_region(&arena);
        let second = driver.guest.memory.region_infos()[1];
        for number in 0..8 {
            assert!(driver.send(0, &frame(0xee, 0xba, 300, round * 8 + number)));
            assert!(
                arena
                    .peer
                    .send(0, &frame(0xba, 0xee, 300, round * 8 + number))
            );
        }
        driver.guest.session.rem_mem_reg(&second).unwrap();
        driver.guest.session.add_mem_reg(&second).unwrap();
        assert!(arena.peer.flush(0, LIMIT), "the switch does not go on");
        while arena.peer.recv(0).is_some() {}
        drop(driver);
        arena.gone();
    }
    while arena.peer.recv(0).is_some() {}
    arena.end();
}
