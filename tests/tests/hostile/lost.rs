//! Memory that its owner takes away while the switch has it mapped.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ringway_frontend::net::{receiveq, transmitq};
use ringway_frontend::{Backing, Gpa, Guest, GuestMemory, MemoryRegion, NetDriver, RegionSpec};
use ringway_tests::scripted::{self, LIMIT, frame};
use ringway_tests::wait;

use crate::arena::{Arena, LAYOUTS, REGION, SECOND, config, memory, with};
use crate::messages::{bad, refused, request};

/// Guest address of regions that come later.
const HIGH: Gpa = 1 << 40;

const TRUNCATED: &str = "truncated its memory file";

/// Makes chains of one buffer each available, at these addresses.
pub fn offer(guest: &mut Guest, queue: usize, buffers: &[Gpa]) {
    let ring = &mut guest.rings[queue];
    while ring.poll_used().is_some() {}
    for addr in buffers {
        let added = ring.add_chain(&[(*addr, 1500, queue == receiveq(0))]);
        added.unwrap();
    }
    ring.kick();
}

/// Waits until the switch is done with as many chains.
fn used(guest: &mut Guest, queue: usize, count: usize) {
    let mut seen = 0;
    wait::until("used chains", LIMIT, || {
        seen += std::iter::from_fn(|| guest.rings[queue].poll_used()).count();
        if seen >= count { Ok(()) } else { Err(seen) }
    })
    .unwrap();
}

/// The port is shut until its frontend has gone and some time has passed, and
/// then it works like any other.
fn is_mended_by_a_new_frontend(arena: &mut Arena, mut guest: Guest) {
    // A driver reset does not bring it back.
    guest.stop().unwrap();
    for queue in 0..guest.rings.len() {
        let ring = &guest.rings[queue];
        guest.session.start_ring(queue, ring, ring.base()).unwrap();
        guest.session.set_vring_enable(queue, true).unwrap();
    }
    arena.quarantined("after a driver reset", TRUNCATED);
    drop(guest);
    wait::until("the port to be left alone", LIMIT, || {
        let shown = arena.daemon.show_port("bad").unwrap();
        let said = shown["reason"].as_str().unwrap_or_default().to_owned();
        match said.contains("no frontend is served for") {
            true => Ok(()),
            false => Err(shown.to_string()),
        }
    })
    .unwrap();
    arena.gone();
    let mut driver = NetDriver::new(arena.attack(&config())).unwrap();
    arena.forwards(&mut driver);
    drop(driver);
    arena.gone();
    arena.bystanders.go_on(2).unwrap();
}

#[test]
fn memory_that_is_truncated_costs_its_own_port() {
    let mut arena = Arena::new();
    let cases = LAYOUTS
        .iter()
        .flat_map(|layout| [(layout, transmitq(0)), (layout, receiveq(0))]);
    for (layout, queue) in cases {
        let counter = match queue == transmitq(0) {
            true => "memory_lost",
            false => "destination_fault",
        };
        let before = arena.dropped(counter);
        let mut guest = arena.attack(&with(*layout));
        let buffers = [SECOND, SECOND + 0x1000, SECOND + 0x2000];
        offer(&mut guest, queue, &buffers);
        if queue == transmitq(0) {
            // Taken before anything is lost.
            used(&mut guest, queue, buffers.len());
        }
        guest.memory.truncate(1, 0).unwrap();
        match queue == transmitq(0) {
            true => offer(&mut guest, queue, &[SECOND + 0x3000]),
            false => arena.feed(),
        }
        arena.quarantined("buffers", TRUNCATED);
        assert_eq!(arena.dropped(counter), before + 1);
        arena.bystanders.go_on(2).unwrap();
        is_mended_by_a_new_frontend(&mut arena, guest);
    }
    arena.end();
}

#[test]
fn rings_that_are_truncated_cost_their_own_port() {
    let mut arena = Arena::new();
    // Under a polling core.
    let guest = arena.attack(&config());
    guest.memory.truncate(0, 0).unwrap();
    arena.feed();
    arena.quarantined("rings", TRUNCATED);
    arena.bystanders.go_on(2).unwrap();
    drop(guest);
    arena.gone();
    // Under the session's thread, which reads the used index when a ring starts.
    let session = scripted::connect(&arena.daemon, "bad").unwrap();
    let memory = Arc::new(memory());
    let mut stopped = config();
    stopped.enable = false;
    let mut guest = session.bring_up_with(&stopped, memory, 0x1000).unwrap();
    guest.memory.truncate(0, 0).unwrap();
    for queue in 0..2 {
        guest.session.set_vring_enable(queue, true).unwrap();
    }
    arena.quarantined("rings that start", TRUNCATED);
    arena.bystanders.go_on(2).unwrap();
    drop(guest);
    arena.gone();
    arena.end();
}

/// As many faults as one packet can have, from behind to the front.
#[test]
fn a_thousand_faults_at_once_do_not_stop_the_core() {
    const PIECE: u32 = 24;
    let mut arena = Arena::new();
    let mut guest = arena.attack(&config());
    let huge = 4 << 30;
    let file = sparse(huge, MFdFlags::empty());
    let region = region_at(&guest, HIGH, huge, &file);
    guest.session.add_mem_reg(&region).unwrap();
    // The head is there, the body in a thousand pieces of missing memory.
    let (room, table) = (guest.free_gpa, guest.free_gpa + 0x1000);
    guest.memory.write_bytes(room, &[0; 12]);
    guest
        .memory
        .write_bytes(room + 12, &frame(0xee, 0xba, 188, 1));
    let pieces = (1..1020).map(|n| (HIGH + huge - n * (4 << 20), PIECE, false));
    let chain: Vec<_> = std::iter::once((room, 200, false)).chain(pieces).collect();
    nix::unistd::ftruncate(&file, 0).unwrap();
    let ring = &mut guest.rings[transmitq(0)];
    ring.add_indirect(table, &chain).unwrap();
    ring.kick();
    arena.quarantined("a thousand faults", TRUNCATED);
    arena.bystanders.go_on(2).unwrap();
    // It was on its way to the peer, which got nothing.
    let drops = arena.daemon.drops().unwrap();
    assert!(
        drops.iter().any(|drop| drop.reason == "memory_lost"),
        "{drops:?}"
    );
    assert!(arena.peer.recv(0).is_none());
    drop(guest);
    arena.gone();
    arena.end();
}

/// A memory file of `size` bytes with nothing in it.
fn sparse(size: u64, flags: MFdFlags) -> OwnedFd {
    let file = memfd_create(c"ringway-frontend", flags).unwrap();
    nix::unistd::ftruncate(&file, size as i64).unwrap();
    file
}

/// A region with that file behind it.
fn region_at(guest: &Guest, gpa: Gpa, size: u64, file: &OwnedFd) -> MemoryRegion {
    let mut region = guest.memory.region_infos()[1];
    region.guest_phys_addr = gpa;
    region.memory_size = size;
    region.userspace_addr = gpa;
    region.mmap_handle = file.as_raw_fd();
    region
}

#[test]
fn holes_seals_and_hugepages_that_ran_out() {
    let mut arena = Arena::new();
    // Pages that are punched out come back empty: a frame of zeroes, no fault.
    let mut guest = arena.attack(&config());
    guest.memory.write_bytes(SECOND, &[1; 4096]);
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(guest.memory.file(1), punch, 0, REGION as i64).unwrap();
    offer(&mut guest, transmitq(0), &[SECOND]);
    used(&mut guest, transmitq(0), 1);
    arena.daemon.wait_state("bad", "forwarding").unwrap();
    while arena.peer.recv(0).is_some() {}
    drop(guest);
    arena.gone();

    // QEMU's memfds are sealed, which `show` tells.
    let details = |arena: &Arena| {
        let shown = arena.daemon.show_port("bad").unwrap();
        let told = shown["actual"]["details"]["guest_memory"].as_str();
        told.unwrap_or_default().to_owned()
    };
    let guest = arena.attack(&config());
    assert!(
        details(&arena).ends_with("in 2 regions"),
        "{}",
        details(&arena)
    );
    drop(guest);
    arena.gone();
    let session = scripted::connect(&arena.daemon, "bad").unwrap();
    let sealed = RegionSpec {
        backing: Backing::Sealed,
        ..crate::arena::region(0)
    };
    let sealed = Arc::new(GuestMemory::new(&[sealed]).unwrap());
    let guest = session.bring_up_with(&config(), sealed, 0x1000).unwrap();
    arena.daemon.wait_state("bad", "forwarding").unwrap();
    assert!(details(&arena).ends_with("sealed"), "{}", details(&arena));
    assert!(guest.memory.truncate(0, 0).is_err());
    drop(guest);
    arena.gone();

    // Hugepages that are not there when they are touched: of the largest kind
    // most machines have none.
    let pages = "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages";
    if std::fs::read_to_string(pages).is_ok_and(|free| free.trim() == "0") {
        let size = 1 << 30;
        let huge = sparse(size, MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB);
        for queue in [transmitq(0), receiveq(0)] {
            let mut guest = arena.attack(&config());
            let region = region_at(&guest, HIGH, size, &huge);
            guest.session.add_mem_reg(&region).unwrap();
            offer(&mut guest, queue, &[HIGH + 0x5000]);
            if queue == receiveq(0) {
                arena.feed();
            }
            arena.quarantined("no hugepages", "its hugepages ran out");
            arena.bystanders.go_on(2).unwrap();
            drop(guest);
            arena.gone();
        }
    } else {
        println!("this machine has pages of 1 GiB: not exhausted");
    }
    arena.end();
}

#[test]
fn memory_that_could_keep_a_core_waiting_is_refused() {
    let mut arena = Arena::new();
    // Of a file system whose pages somebody may hold back, as FUSE's owner can.
    for path in ["/proc/self/mem", "/proc/version"] {
        let file = File::open(path).unwrap();
        let body = [1, 0, 0x1000, 0x10_0000, 0];
        let mut message = bad(path, request::SET_MEM_TABLE, &body, "could come late");
        message.fds.push(file.as_raw_fd());
        refused(&mut arena, &message);
    }
    // More addresses than a process has.
    let giant = sparse(1 << 50, MFdFlags::empty());
    let mut guest = arena.attack(&config());
    let region = region_at(&guest, 1 << 51, 1 << 50, &giant);
    let error = guest.session.add_mem_reg(&region).unwrap_err();
    arena.closed(&error.to_string(), &guest.session, "bytes of guest memory");
    arena.end();
}
