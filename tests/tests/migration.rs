//! Guests that move to another host: what is noted of their memory, how the
//! network learns of it, and a real one between two switches.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ringway_frontend::net::{receiveq, transmitq};
use ringway_frontend::raw::RawMessage;
use ringway_frontend::{NetDriver, SessionConfig, features};
use ringway_tests::Result;
use ringway_tests::daemon::Daemon;
use ringway_tests::journey::{BROKE, NEIGHBOUR, Plug, Side, TwoHosts};
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::qemu::{self, Accelerator};
use ringway_tests::scripted::{self, LIMIT, frame};
use ringway_tests::wait;

const SET_LOG_BASE: u32 = 6;
const SET_VRING_ADDR: u32 = 9;
const SEND_RARP: u32 = 19;
const PAGE: u64 = 4096;

fn pair(config: &SessionConfig) -> (NetDriver, NetDriver, Daemon, Exclusive) {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    let [a, b] = ["a", "b"].map(|port| {
        daemon
            .add_vhost_port("br0", port, &["mode=server"])
            .unwrap();
        scripted::driver(&daemon, port, config).unwrap()
    });
    (a, b, daemon, alone)
}

fn config(packed: bool) -> SessionConfig {
    let mut config = SessionConfig::default();
    config.features |= features::LOG_ALL;
    if packed {
        config.features |= features::RING_PACKED;
        config.required |= features::RING_PACKED;
    }
    config
}

/// Which pages' bits are set.
fn marked(log: &File) -> Vec<u64> {
    let mut bytes = vec![0; log.metadata().unwrap().len() as usize];
    log.read_exact_at(&mut bytes, 0).unwrap();
    let set = |page: &u64| bytes[(page / 8) as usize] >> (page % 8) & 1 != 0;
    (0..8 * bytes.len() as u64).filter(set).collect()
}

#[test]
fn what_the_switch_writes_is_noted_from_the_log_on_and_until_its_end() {
    for packed in [false, true] {
        let config = config(packed);
        let (mut a, mut b, _daemon, _alone) = pair(&config);
        let size = b.guest.memory.end() / PAGE / 8;
        let fd = memfd_create(c"log", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let log = File::from(fd);
        log.set_len(size).unwrap();
        fcntl(&log, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();

        // As QEMU does: the log, the features with LOG_ALL, the rings' addresses.
        let session = &b.guest.session;
        let mut body = size.to_le_bytes().to_vec();
        body.extend(0_u64.to_le_bytes());
        let message = RawMessage::numbered(SET_LOG_BASE, body);
        session.send(&message, &[log.as_raw_fd()]).unwrap();
        let answer = session.recv_bytes(LIMIT).unwrap();
        assert_eq!(answer.len(), 12 + 16, "{answer:?}");
        session.set_features(b.guest.features).unwrap();
        session.want_answers(false);
        for (queue, ring) in b.guest.rings.iter().enumerate() {
            let (layout, memory) = (ring.layout(), &b.guest.memory);
            let address = |gpa| memory.user_addr(gpa);
            let (desc, used, avail) = (layout.desc, layout.used, layout.avail);
            let addresses = [address(desc), address(used), address(avail)];
            let message = RawMessage::vring_addr(
                queue as u32,
                1,
                addresses[0],
                addresses[1],
                addresses[2],
                used,
            );
            assert_eq!(message.request, SET_VRING_ADDR);
            session.send(&message, &[]).unwrap();
        }
        // Answered after the messages before it have been.
        session.get_features().unwrap();
        log.write_all_at(&vec![0; size as usize], 0).unwrap();

        let before = b.guest.memory.read_bytes(0, b.guest.memory.end() as usize);
        for number in 0..20 {
            let sent = frame(2, 1, 1400, number);
            assert!(a.send(0, &sent));
            // Looked at without its buffer going back to the switch.
            let ring = &b.guest.rings[receiveq(0)];
            wait::until("the frame", LIMIT, || match ring.has_used() {
                true => Ok(()),
                false => Err("nothing"),
            })
            .unwrap();
            assert_eq!(b.recv(0), Some(sent));
        }
        assert!(a.flush(0, LIMIT));
        let after = b.guest.memory.read_bytes(0, before.len());
        let pages = before
            .chunks(PAGE as usize)
            .zip(after.chunks(PAGE as usize));
        let changed = (0..)
            .zip(pages)
            .filter(|(_, (before, after))| before != after);
        let changed: Vec<u64> = changed.map(|(page, _)| page).collect();
        let noted = marked(&log);
        // The driver writes too: to its descriptors and the available ring.
        let layout = *b.guest.rings[receiveq(0)].layout();
        let own = layout.desc / PAGE..=layout.used / PAGE;
        for page in &changed {
            assert!(noted.contains(page) || own.contains(page), "page {page:#x}");
        }
        // To be kicked, or not, is asked for again and again.
        let sending = *b.guest.rings[transmitq(0)].layout();
        let asking = sending.used / PAGE..=sending.end() / PAGE;
        for page in &noted {
            let written = changed.contains(page) || asking.contains(page);
            assert!(written, "page {page:#x} was not written to");
        }
        assert!(
            noted.contains(&(layout.used / PAGE)) || packed,
            "{noted:x?}"
        );
        assert!(noted.iter().filter(|page| !own.contains(page)).count() >= 10);

        // The guest stays: nothing is noted any more.
        let without = b.guest.features & !features::LOG_ALL;
        b.guest.session.set_features(without).unwrap();
        b.guest.session.get_features().unwrap();
        log.write_all_at(&vec![0; size as usize], 0).unwrap();
        assert!(a.send(0, &frame(2, 1, 1400, 99)));
        assert!(b.recv_within(0, LIMIT).is_some());
        assert!(a.flush(0, LIMIT));
        assert!(marked(&log).is_empty());
    }
}

#[test]
fn an_announced_guest_is_known_at_its_port() {
    let (a, mut b, daemon, _alone) = pair(&config(false));
    let mac = [2, 0, 0, 0, 0, 0x77];
    let mut body = mac.to_vec();
    body.extend([0, 0]);
    let message = RawMessage::numbered(SEND_RARP, body);
    a.guest.session.send(&message, &[]).unwrap();
    let got = b.recv_within(0, LIMIT).expect("a broadcast");
    assert_eq!(got.len(), 60);
    assert_eq!(got[..6], [0xff; 6]);
    assert_eq!(got[6..12], mac);
    assert_eq!(got[12..14], [0x80, 0x35]);
    let shown = daemon.json(&["fdb", "show", "br0"]).unwrap().to_string();
    assert!(shown.contains("02:00:00:00:00:77"), "{shown}");
    let back = frame(0x77, 1, 60, 1);
    let mut a = a;
    assert!(b.send(0, &back));
    assert_eq!(a.recv_within(0, LIMIT), Some(back));
}

/// QEMU 7.2 under TCG loses a guest that is moved while it works hard, now and then:
/// its kernel panics, on lists that no device writes to, or its network is dead. It
/// does so without any vhost, too (`guests_move_without_any_switch`: 3 of 10). Such
/// a guest is moved once more; under KVM it would be a failure.
fn a_guest_moves(packed: bool) {
    let _alone = machine::exclusive().unwrap();
    for _ in 0..4 {
        match try_to_move_a_guest(packed) {
            Err(error)
                if error.to_string().contains(BROKE)
                    && qemu::accelerator().unwrap() == Accelerator::Tcg =>
            {
                println!("once more: {error}");
            }
            outcome => return outcome.unwrap(),
        }
    }
    panic!("four guests in a row did not survive: that is hardly QEMU's doing");
}

fn try_to_move_a_guest(packed: bool) -> Result<()> {
    let lan = TwoHosts::new().unwrap();
    let switches = ["wire0", "wire1"].map(|wire| {
        let daemon = Daemon::start().unwrap();
        lan.wire(daemon.namespace(), wire).unwrap();
        daemon.ok(&["add-br", "br0"]).unwrap();
        let add = ["add-port", "br0", wire, "type=system"];
        daemon.ok(&add).unwrap();
        daemon
    });
    let [from, to] = [0, 1].map(|index: usize| {
        let switch = &switches[index];
        let socket = switch
            .add_vhost_port("br0", "vm1", &["mode=server"])
            .unwrap();
        let (plug, dir) = (Plug::Switch(socket), switch.dir().to_owned());
        Side { plug, dir }
    });
    let arrived = Cell::new(0);
    let journey = lan.journey(&from, &to, packed, || {
        let switch = &switches[arrived.replace(1)];
        let shown = switch.show_port("vm1")?.to_string();
        assert_eq!(shown.contains("RING_PACKED"), packed, "{shown}");
        switch.wait_state("vm1", "forwarding")
    });
    let mut journey = journey?;
    println!(
        "packed {packed}: down for {} ms of {} ms, as QEMU says; longest time between answers \
         {:.0} ms (of {}, {} lost); {} transfers",
        journey.moved.downtime_ms,
        journey.moved.total_ms,
        journey.longest_ms,
        journey.answers,
        journey.lost,
        journey.transfers,
    );
    // It is the same guest, and it talks by way of the other switch.
    assert_eq!(journey.there.ok("cat /tmp/kept").unwrap(), "kept");
    assert_eq!(journey.there.ping(NEIGHBOUR, 3, 1400).unwrap(), 3);
    assert!(journey.answers > 50, "{} answers", journey.answers);
    assert!(journey.transfers > 0);
    let port = switches[1].port("vm1").unwrap();
    assert!(port.rx_packets > 0, "{port:?}");
    journey.here.kill();
    for switch in &switches {
        let balance = switch.settled_balance().unwrap();
        assert!(balance.holds(), "{balance:?}");
    }
    Ok(())
}

#[test]
fn a_guest_moves_under_ping_and_tcp() {
    a_guest_moves(false);
}

#[test]
fn a_guest_with_packed_rings_moves_too() {
    a_guest_moves(true);
}

/// The same between two taps on one bridge of the kernel's, again and again: no
/// vhost, no switch, no dirty log but QEMU's own. Tells whose fault it is when a
/// guest's kernel does not survive.
#[test]
#[ignore = "measures QEMU, not ringway: `cargo test -p ringway-tests --test migration -- --ignored`"]
fn guests_move_without_any_switch() {
    let _alone = machine::exclusive().unwrap();
    let mut died = 0;
    for round in 1..=20 {
        let lan = TwoHosts::new().unwrap();
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [from, to] = [(0, "tap0"), (1, "tap1")].map(|(index, tap): (usize, _)| {
            lan.tap(tap).unwrap();
            let dir = dirs[index].path().to_owned();
            Side {
                plug: Plug::Tap(tap),
                dir,
            }
        });
        match lan.journey(&from, &to, false, || Ok(())) {
            Ok(journey) => journey.here.kill(),
            Err(error) => {
                died += 1;
                println!("round {round}: {error}");
            }
        }
        println!("{died} of {round} broke");
    }
    assert_eq!(died, 0);
}
