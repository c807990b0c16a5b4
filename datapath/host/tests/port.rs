//! Ports with the kernel at their other end: frames both ways, and what becomes of
//! them when the interface is not as it should be.

mod core;
mod namespace;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use ringway_host::link;
use ringway_host::port::{HostPort, HostPortKind};
use ringway_vhost::VnetHeader;

use core::{Core, Forwarder, LIMIT, internal, start, wait_for, wait_status};
use namespace::{in_namespace, sh};

const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An interface with an address, and a neighbour whom it knows already.
fn set_up(name: &str) {
    sh(&format!(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip addr add 10.9.0.1/24 dev {name}; \
         ip link set {name} up; \
         ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev {name} nud permanent"
    ));
}

/// A UDP socket of the host that talks to the neighbour.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.9.0.1:7000").expect("bind");
    socket.connect("10.9.0.2:8000").expect("connect");
    socket.set_read_timeout(Some(LIMIT)).expect("timeout");
    socket
}

fn is_udp(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == 17
}

/// A frame of the neighbour's to the socket.
fn udp(payload: &[u8]) -> Vec<u8> {
    let mut frame = [OWN, OTHER].concat();
    frame.extend([8, 0]);
    let total = 28 + payload.len() as u16;
    let mut ip = [
        &[0x45, 0][..],
        &total.to_be_bytes(),
        &[0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1],
    ]
    .concat();
    let sum = checksum(0, &ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(
        [8000u16, 7000, 8 + payload.len() as u16, 0]
            .map(u16::to_be_bytes)
            .concat(),
    );
    frame.extend(payload);
    frame
}

/// The Internet checksum of `start` and `bytes`.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|two| {
        let low = two.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([two[0], low]))
    });
    let mut sum: u64 = u64::from(start) + words.map(u64::from).sum::<u64>();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// Whether an IPv4 packet with UDP has a right UDP checksum.
fn udp_sum_is_right(packet: &[u8]) -> bool {
    let udp = &packet[20..];
    let pseudo: u32 = packet[12..20]
        .chunks(2)
        .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
        .sum();
    udp[6..8] != [0, 0] && checksum(pseudo + 17 + udp.len() as u32, udp) == 0
}

#[test]
fn an_internal_ports_frames_go_both_ways() {
    in_namespace("internal, both ways", || {
        let port = start("tp0", internal(1));
        set_up("tp0");
        let mut core = Core::of(&port);
        let socket = socket();
        for len in [0, 1, 100, 1472] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            socket.send(&payload).expect("send");
            let came = core.wait_for("a datagram", |frame| is_udp(&frame.bytes));
            assert_eq!(came.bytes[..12], [OTHER, OWN].concat());
            assert_eq!(came.bytes[42..], payload);
            assert!(udp_sum_is_right(&came.bytes[14..]));

            assert_eq!(core.give(0, &udp(&payload)).delivered, 1);
            let mut got = vec![0; 2000];
            let n = socket.recv(&mut got).expect("the answer comes");
            assert_eq!(got[..n], payload);
        }
        // A frame is counted once it has gone.
        wait_status(&port, "four frames written", |status| {
            status.queues[0].to_kernel == 4
        });
        let status = port.status();
        let link = status.link.expect("it is there");
        assert_eq!((link.mac, link.admin_up), (Some(OWN), true));
        assert_eq!(status.gone, None);
        let queue = status.queues[0];
        assert_eq!((queue.to_kernel, queue.refused()), (4, 0));
        assert!(queue.from_kernel >= 4);
        port.remove().expect("removed");
        assert_eq!(link::find("tp0").expect("asked"), None);
    });
}

#[test]
fn frames_of_sixty_kilobytes_go_both_ways() {
    in_namespace("long frames", || {
        let mut port = start("tp0", internal(1));
        port.set_mtu(65_000).expect("a tap takes it");
        set_up("tp0");
        let mut core = Core::of(&port);
        let socket = socket();
        for round in 0..200u32 {
            // From one buffer to all that there are.
            let len = 1 + (round * 313) as usize;
            let payload: Vec<u8> = (0..len).map(|i| (i as u32 * 7 + round) as u8).collect();
            socket.send(&payload).expect("send");
            let came = core.wait_for("a long datagram", |frame| is_udp(&frame.bytes));
            assert!(came.bytes[42..] == payload, "{len} bytes arrived changed");
            assert_eq!(core.give(0, &udp(&payload)).delivered, 1);
            let mut got = vec![0; 65_536];
            let n = socket.recv(&mut got).expect("the answer comes");
            assert!(got[..n] == payload, "{len} bytes went out changed");
        }
        port.remove().expect("removed");
    });
}

#[test]
fn a_port_that_is_down_refuses_and_says_so() {
    in_namespace("down", || {
        let port = start("tp0", internal(1));
        let mut core = Core::of(&port);
        for _ in 0..3 {
            assert_eq!(core.give(0, &udp(b"nobody there")).delivered, 1);
        }
        wait_status(&port, "refusals", |status| {
            status.queues[0].refused_down == 3
        });
        let bytes = 3 * udp(b"nobody there").len() as u64;
        assert_eq!(port.status().queues[0].refused_bytes, bytes);
        set_up("tp0");
        let socket = socket();
        core.give(0, &udp(b"hello"));
        let mut got = [0; 64];
        assert_eq!(socket.recv(&mut got).expect("it came up"), 5);
        // No Ethernet frame.
        core.give(0, &[0; 6]);
        wait_status(&port, "a refusal", |status| {
            status.queues[0].refused_rejected == 1
        });
        port.remove().expect("removed");
    });
}

#[test]
fn more_frames_than_buffers_are_not_lost_without_a_count() {
    in_namespace("more than buffers", || {
        const FRAMES: u64 = 3000;
        let port = start("tp0", internal(1));
        set_up("tp0");
        let mut core = Core::of(&port);
        let socket = socket();
        let mut came = 0;
        for round in 0..3 {
            // Nobody takes them: the ring fills, then the tap's queue, then it drops.
            for n in 0..FRAMES {
                socket.send(&n.to_be_bytes()).expect("send");
            }
            let mut last = None;
            wait_for("all that were not dropped", || {
                for frame in core.take().iter().filter(|frame| is_udp(&frame.bytes)) {
                    let n = u64::from_be_bytes(frame.bytes[42..50].try_into().expect("8"));
                    assert!(last < Some(n), "out of order");
                    last = Some(n);
                    came += 1;
                }
                let counters = port.device_counters();
                let dropped = counters.iter().find(|(name, _)| *name == "tx_dropped");
                came + dropped.expect("counted").1 == (round + 1) * FRAMES
            });
        }
        assert!(came >= 3 * 512, "{came}");
        port.remove().expect("removed");
    });
}

#[test]
fn a_core_that_sleeps_is_woken_for_every_frame() {
    in_namespace("wakeups", || {
        let port = start("tp0", internal(1));
        set_up("tp0");
        let mut core = Core::of(&port);
        let socket = socket();
        let ring = core.transmit_ring(0);
        let mut fds = [PollFd::new(
            ring.kick_fd().expect("a kick").as_fd(),
            PollFlags::POLLIN,
        )];
        for n in 0..2000u32 {
            socket.send(&n.to_be_bytes()).expect("send");
            let frame = loop {
                if let Some(frame) = core.take().into_iter().find(|f| is_udp(&f.bytes)) {
                    break frame;
                }
                if ring.want_kicks(true) {
                    continue;
                }
                let timeout = PollTimeout::try_from(LIMIT).expect("short");
                assert_eq!(poll(&mut fds, timeout), Ok(1), "frame {n}: no kick");
                let mut count = [0; 8];
                nix::unistd::read(ring.kick_fd().expect("a kick"), &mut count).expect("kicks");
            };
            assert_eq!(frame.bytes[42..46], n.to_be_bytes());
            // And the port's thread, which sleeps by now, for the answer.
            core.give(0, &udp(&n.to_be_bytes()));
            let mut got = [0; 8];
            assert_eq!(socket.recv(&mut got).expect("the answer"), 4);
        }
        assert!(port.status().queues[0].sleeps > 0);
        port.remove().expect("removed");
    });
}

#[test]
fn a_device_that_is_deleted_is_noticed_and_made_anew() {
    in_namespace("deleted", || {
        let port = start("tp0", internal(1));
        set_up("tp0");
        let mut core = Core::of(&port);
        sh("ip link del tp0");
        wait_status(&port, "gone", |status| status.gone.is_some());
        assert!(port.status().link.is_none());
        assert!(port.gone().expect("gone").contains("tp0"));
        for _ in 0..2000 {
            core.give(0, &udp(b"into the void"));
        }
        wait_status(&port, "all refused", |status| {
            status.queues[0].refused_down > 0 && status.queues[0].to_kernel == 0
        });
        port.remove().expect("nothing to remove is no error");

        sh("ip link add tp0 type veth peer name tp1");
        let other = HostPort::start(ringway_host::port::HostPortConfig {
            name: "tp0".to_owned(),
            kind: internal(1),
            mtu: None,
            cpus: vec![0],
        });
        assert!(other.is_err_and(|error| error.to_string().contains("veth")));
        sh("ip link del tp0");
        let port = start("tp0", internal(1));
        set_up("tp0");
        let mut core = Core::of(&port);
        core.give(0, &udp(b"back"));
        let mut got = [0; 8];
        core.give(0, &udp(b"back"));
        assert_eq!(socket_after(&mut core, &mut got), 4);
        port.remove().expect("removed");
    });
}

/// Bytes of the next datagram to a socket that is opened now.
fn socket_after(core: &mut Core, got: &mut [u8]) -> usize {
    let socket = socket();
    core.give(0, &udp(b"back"));
    socket.recv(got).expect("a datagram")
}

#[test]
fn a_port_that_stops_leaves_its_device_to_the_next() {
    in_namespace("stopped", || {
        let port = start("tp0", internal(2));
        set_up("tp0");
        sh("ip route add 10.77.0.0/16 via 10.9.0.2");
        let index = port.index();
        drop(port);
        let link = link::find("tp0").expect("asked").expect("it stays");
        assert_eq!(link.index, index);
        let port = start("tp0", internal(2));
        assert_eq!(port.index(), index);
        assert!(sh("ip addr show tp0").contains("10.9.0.1/24"));
        wait_for("the carrier", || {
            port.status().link.is_some_and(|link| link.carrier)
        });
        let mut core = Core::of(&port);
        let socket = socket();
        for n in 0..100u32 {
            socket.send(&n.to_be_bytes()).expect("send");
        }
        let mut came = 0;
        wait_for("frames on any queue", || {
            came += core.take().iter().filter(|f| is_udp(&f.bytes)).count();
            came == 100
        });
        core.give(1, &udp(b"by the second"));
        let mut got = [0; 64];
        assert_eq!(socket.recv(&mut got).expect("comes"), 13);
        port.remove().expect("removed");
        assert_eq!(link::find("tp0").expect("asked"), None);
    });
}

/// Runs `then` in another network namespace, into which interface `name` moves.
fn neighbour<T: Send + 'static>(
    name: &str,
    then: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("another namespace");
        sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip link set lo up");
        tell.send(gettid()).expect("told");
        gone.recv().expect("moved");
        then()
    });
    let there = told.recv().expect("it has a namespace");
    sh(&format!("ip link set {name} netns {there}"));
    go.send(()).expect("it waits");
    thread
}

#[test]
fn tcp_between_two_internal_ports_goes_uncut() {
    in_namespace("tcp", || {
        const BYTES: usize = 8 << 20;
        let (near, far) = (start("near", internal(1)), start("far", internal(1)));
        let forwarder = Forwarder::between(&near, &far);
        let (ready, is_ready) = mpsc::channel();
        let other = neighbour("far", move || {
            sh("ip link set far address 02:00:00:00:00:02; \
                ip addr add 10.9.0.2/24 dev far; ip link set far up");
            let listener = TcpListener::bind("10.9.0.2:5000").expect("listen");
            ready.send(()).expect("told");
            let (mut stream, _) = listener.accept().expect("accept");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("read");
            let right = bytes
                .iter()
                .enumerate()
                .all(|(i, byte)| *byte == (i * 31) as u8);
            stream.write_all(&[right.into()]).expect("answer");
            bytes.len()
        });
        sh(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip addr add 10.9.0.1/24 dev near; \
            ip link set near up",
        );
        is_ready.recv().expect("listens");
        let mut stream = TcpStream::connect("10.9.0.2:5000").expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("timeout");
        stream.set_write_timeout(Some(LIMIT)).expect("timeout");
        let bytes: Vec<u8> = (0..BYTES).map(|i| (i * 31) as u8).collect();
        stream.write_all(&bytes).expect("write");
        stream.shutdown(std::net::Shutdown::Write).expect("end");
        let mut right = [0];
        stream.read_exact(&mut right).expect("answer");
        assert_eq!(right, [1], "the bytes arrived changed");
        assert_eq!(other.join().expect("no panic"), BYTES);
        let oversized = forwarder.counts.oversized.load(Ordering::Relaxed);
        assert!(oversized > 10, "{:?}", forwarder.counts);
        // It moved away, and works on, and is told nothing of.
        assert!(far.gone().is_none());
        drop(forwarder);
        near.remove().expect("removed");
        far.remove().expect("removed from where it is");
    });
}

#[test]
fn a_system_port_takes_its_interface_from_the_host() {
    in_namespace("system", || {
        sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1; \
            ip link add v0 address 02:00:00:00:00:02 type veth peer name v1; \
            ip addr add 10.9.0.2/24 dev v0; ip link set v0 up; ip link set lo up");
        let (say, said) = mpsc::channel::<&'static str>();
        let (answer, answers) = mpsc::channel();
        let other = neighbour("v1", move || {
            sh(
                "ip link set v1 address 02:00:00:00:00:01; ip addr add 10.9.0.1/24 dev v1; \
                ip link set v1 up; \
                 ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev v1 nud permanent",
            );
            while let Ok(command) = said.recv() {
                match command {
                    "ping" => {
                        let ping = "ping -c1 -W1 10.9.0.2 >/dev/null && echo yes || echo no";
                        answer.send(sh(ping).trim().to_owned()).expect("told");
                    }
                    "tagged" => {
                        // A checksum that the kernel leaves to be made.
                        let mut frame = udp(b"in VLAN five");
                        let pseudo: Vec<u8> = [&frame[26..34], &[0, 17, 0, 20]].concat();
                        let partial = !checksum(0, &pseudo);
                        frame[40..42].copy_from_slice(&partial.to_be_bytes());
                        frame.splice(12..12, [0x81, 0, 0x60, 5]);
                        let port = start("v1", HostPortKind::System { queues: 1 });
                        let header = VnetHeader {
                            flags: 1,
                            csum_start: 38,
                            csum_offset: 6,
                            ..VnetHeader::default()
                        };
                        Core::of(&port).give_with(0, &frame, header);
                        wait_status(&port, "sent", |status| status.queues[0].to_kernel == 1);
                        port.remove().expect("removed");
                    }
                    "untagged" => {
                        let socket = UdpSocket::bind("10.9.0.1:7000").expect("bind");
                        socket.set_read_timeout(Some(LIMIT)).expect("timeout");
                        socket.send_to(b"in none", "10.9.0.2:8000").expect("send");
                        let mut got = [0; 64];
                        let n = socket.recv(&mut got).expect("an answer");
                        let got = String::from_utf8_lossy(&got[..n]).into_owned();
                        answer.send(got).expect("told");
                    }
                    "mtu" => answer.send(sh("ip link set v1 mtu 9000")).expect("told"),
                    _ => break,
                }
            }
        });
        let ping = || {
            say.send("ping").expect("it listens");
            answers.recv().expect("it answers")
        };
        assert_eq!(ping(), "yes");
        let mut port = start("v0", HostPortKind::System { queues: 1 });
        assert_eq!(ping(), "no");
        let mut core = Core::of(&port);
        let echo = core.wait_for("the echo request", |f| f.bytes[23] == 1);
        assert_eq!(echo.bytes[..6], OTHER);

        say.send("tagged").expect("it listens");
        let came = core.wait_for("a tagged frame", |f| f.bytes[12..14] == [0x81, 0]);
        assert_eq!(came.bytes[14..18], [0x60, 5, 8, 0]);
        assert_eq!(came.bytes[46..], *b"in VLAN five");
        // Partial, and where it is after the tag was put back.
        assert_eq!((came.header.flags, came.header.csum_start), (1, 38));
        assert!(udp_sum_is_right(&came.bytes[18..]));

        say.send("untagged").expect("it listens");
        let came = core.wait_for("an untagged frame", |f| is_udp(&f.bytes));
        assert_eq!(came.bytes[42..], *b"in none");
        assert_eq!(core.give(0, &udp(b"an answer")).delivered, 1);
        assert_eq!(answers.recv().expect("told"), "an answer");

        // As long as it may be, and longer.
        say.send("mtu").expect("it listens");
        assert_eq!(answers.recv().expect("told"), "");
        port.set_mtu(9000).expect("a veth takes it");
        let before = port.status().queues[0];
        core.give(0, &udp(&vec![0; 9000 - 28]));
        core.give(0, &udp(&vec![0; 9200]));
        wait_status(&port, "one refusal", |status| {
            let queue = status.queues[0];
            queue.to_kernel == before.to_kernel + 1 && queue.refused_rejected == 1
        });

        sh("ip link set v0 down");
        core.give(0, &udp(b"while it is down"));
        wait_status(&port, "one more", |status| {
            status.queues[0].refused_down == 1
        });
        assert_eq!(port.status().gone, None);
        sh("ip link set v0 up");
        wait_for("the carrier", || {
            port.status().link.is_some_and(|link| link.carrier)
        });
        core.give(0, &udp(b"while it is up"));
        wait_status(&port, "it works again", |status| {
            status.queues[0].to_kernel == before.to_kernel + 2
        });

        // Stopped it keeps the interface, removed it gives it back.
        drop(port);
        assert_eq!(ping(), "no");
        let port = start("v0", HostPortKind::System { queues: 1 });
        port.remove().expect("removed");
        assert_eq!(ping(), "yes");

        let port = start("v0", HostPortKind::System { queues: 1 });
        sh("ip link del v0");
        wait_status(&port, "gone", |status| status.gone.is_some());
        port.remove().expect("nothing to give back");
        drop(say);
        other.join().expect("no panic");
    });
}

#[test]
fn a_tap_port_is_there_for_somebody_else_to_open() {
    in_namespace("tap", || {
        let port = start("tp0", HostPortKind::Tap { owner: None });
        let status = port.status();
        let link = status.link.expect("it is there");
        assert!(link.admin_up && !link.carrier, "{link:?}");
        let options = ringway_host::tap::TapOptions {
            queues: 1,
            persistent: false,
            owner: None,
        };
        let machine = ringway_host::tap::Tap::open("tp0", &options).expect("QEMU opens it");
        wait_for("the carrier", || {
            port.status().link.is_some_and(|link| link.carrier)
        });
        let mut core = Core::of(&port);
        let frame = udp(b"from the machine");
        let with_header = [&[0; 12][..], &frame].concat();
        nix::unistd::write(&machine.queues()[0], &with_header).expect("it sends");
        let came = core.wait_for("its frame", |f| is_udp(&f.bytes));
        assert_eq!(came.bytes, frame);
        core.give(0, &frame);
        let mut got = [0; 2000];
        let mut n = 0;
        wait_for("ours", || {
            n = nix::unistd::read(&machine.queues()[0], &mut got).unwrap_or(0);
            n > 12 && is_udp(&got[12..n])
        });
        assert_eq!(got[12..n], frame);

        // The machine reads no more: the rest is refused, and the thread goes on.
        for _ in 0..20_000u32 {
            if core.give(0, &frame).ring_full > 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        nix::unistd::write(&machine.queues()[0], &with_header).expect("it sends");
        core.wait_for("its frame", |f| is_udp(&f.bytes));
        port.remove().expect("removed");
        assert_eq!(link::find("tp0").expect("asked"), None);
    });
}
