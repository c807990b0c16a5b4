//! Memory that is plugged in and out: as many regions as a guest may have, added
//! and removed under traffic, and told twice.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use ringway_frontend::net::transmitq;
use ringway_frontend::{Gpa, Guest, MemoryRegion, NetDriver};
use ringway_tests::scripted::{LIMIT, frame};
use ringway_tests::wait;

use crate::arena::{Arena, config};

/// Each of the many regions is a page.
const PAGE: u64 = 4096;

/// Where the `n`-th region lies: of every three, two touch.
fn gpa(n: u64) -> Gpa {
    (1 << 36) + (n / 2) * 3 * PAGE + (n % 2) * PAGE
}

/// A guest with many regions, all in one file.
struct Plugged {
    guest: Guest,
    file: File,
}

impl Plugged {
    fn new(arena: &Arena, regions: u64) -> Self {
        let file = memfd_create(c"ringway-frontend", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(regions * PAGE).unwrap();
        let guest = arena.attack(&config());
        Self { guest, file }
    }

    fn region(&self, n: u64) -> MemoryRegion {
        let mut region = self.guest.memory.region_infos()[0];
        region.guest_phys_addr = gpa(n);
        region.memory_size = PAGE;
        region.userspace_addr = gpa(n);
        region.mmap_offset = n * PAGE;
        region.mmap_handle = self.file.as_raw_fd();
        region
    }

    fn add(&mut self, n: u64) {
        let region = self.region(n);
        self.guest.session.add_mem_reg(&region).unwrap();
    }

    fn remove(&mut self, n: u64) {
        let region = self.region(n);
        self.guest.session.rem_mem_reg(&region).unwrap();
    }

    /// Hands over a frame that begins `at` bytes into region `n`.
    fn send(&mut self, n: u64, at: u64, sent: &[u8]) {
        let packet = [&[0; 12], sent].concat();
        self.file.write_all_at(&packet, n * PAGE + at).unwrap();
        let ring = &mut self.guest.rings[transmitq(0)];
        while ring.poll_used().is_some() {}
        let chain = [(gpa(n) + at, packet.len() as u32, false)];
        ring.add_chain(&chain).unwrap();
        ring.kick();
    }

    /// … and the peer gets it.
    fn passes(&mut self, arena: &mut Arena, n: u64, at: u64) {
        let sent = frame(0xee, 0xba, 200, n as u32);
        self.send(n, at, &sent);
        assert_eq!(arena.peer.recv_within(0, LIMIT), Some(sent), "region {n}");
    }
}

#[test]
fn five_hundred_regions_come_and_go_under_traffic() {
    let mut arena = Arena::new();
    let mut plugged = Plugged::new(&arena, 508);
    let slots = plugged.guest.session.get_max_mem_slots().unwrap();
    assert!(slots >= 32, "{slots} slots");
    // Two are the guest's from the start.
    let many = slots - 2;
    for n in 0..many {
        plugged.add(n);
        if n % 16 == 15 {
            plugged.passes(&mut arena, n, 0);
            plugged.passes(&mut arena, n / 2, 100);
        }
    }
    let shown = arena.daemon.show_port("bad").unwrap();
    let told = shown["actual"]["details"]["guest_memory"].as_str();
    assert!(
        told.is_some_and(|told| told.contains(&format!("{slots} regions"))),
        "{shown}"
    );
    // A frame over the border of two regions that touch; none does over a hole.
    plugged.passes(&mut arena, 6, PAGE - 50);
    arena.bystanders.go_on(2).unwrap();

    // Out and in again, in no order, each told twice: QEMU before version 8
    // tells each once for every queue pair.
    let mut n = 0;
    for _ in 0..100 {
        n = (n + 197) % many;
        plugged.add(n);
        plugged.remove(n);
        plugged.passes(&mut arena, n, 8);
        plugged.remove(n);
        let other = (n + 251) % many;
        plugged.passes(&mut arena, other, 16);
        plugged.add(n);
        plugged.passes(&mut arena, n, 24);
    }
    for n in (0..many).rev() {
        if n % 3 != 0 {
            plugged.remove(n);
        }
    }
    plugged.passes(&mut arena, 0, 0);
    plugged.passes(&mut arena, 501, 0);
    // One that is gone is gone.
    plugged.send(4, 0, &frame(0xee, 0xba, 200, 4));
    arena.quarantined("a region taken out", "outside guest memory");
    drop(plugged);
    arena.gone();
    arena.end();
}

/// A frontend that adds and removes as fast as it can.
#[test]
fn a_storm_of_regions_disturbs_nobody() {
    let mut arena = Arena::new();
    let mut plugged = Plugged::new(&arena, 300);
    for round in 0..5 {
        for n in 0..300 {
            plugged.add(n);
        }
        plugged.passes(&mut arena, 299 - round, 0);
        for n in 0..300 {
            plugged.remove(n);
        }
    }
    arena.bystanders.go_on(2).unwrap();
    wait::until("two regions", LIMIT, || {
        let shown = arena.daemon.show_port("bad").unwrap();
        let told = shown["actual"]["details"]["guest_memory"].to_string();
        if told.contains("in 2 regions") {
            Ok(())
        } else {
            Err(told)
        }
    })
    .unwrap();
    // Its ring has gone on meanwhile.
    let mut guest = plugged.guest;
    guest.stop().unwrap();
    guest.start_again(0).unwrap();
    let mut driver = NetDriver::new(guest).unwrap();
    arena.daemon.wait_state("bad", "forwarding").unwrap();
    arena.forwards(&mut driver);
    drop(driver);
    arena.end();
}
