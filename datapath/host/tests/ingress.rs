//! Taking what an interface receives from the host's stack.
//!
//! UNSAFETY: packet sockets are not in nix; a `sockaddr_ll` is handed to bind(2).

#![allow(unsafe_code)]

mod namespace;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use namespace::{in_namespace, sh};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use ringway_host::{HostError, ingress, link};

/// `v0` with 10.1.0.1 and its other end `v1`, where a packet socket plays 10.1.0.2.
struct Pair {
    index: u32,
    /// At v0, beside the host's stack.
    near: Packets,
    /// At v1.
    far: Packets,
}

impl Pair {
    fn new() -> Self {
        sh("ip link add v0 type veth peer name v1; ip link set v0 address 02:00:00:00:00:0a");
        sh("sysctl -qw net.ipv6.conf.v0.disable_ipv6=1 net.ipv6.conf.v1.disable_ipv6=1");
        sh("ip addr add 10.1.0.1/24 dev v0; ip link set v0 up; ip link set v1 up");
        let index = link::find("v0").unwrap().unwrap().index;
        let far = link::find("v1").unwrap().unwrap().index;
        Self {
            index,
            near: Packets::at(index),
            far: Packets::at(far),
        }
    }

    /// Sends an ARP request for 10.1.0.1 from the far end. Tells whether a packet
    /// socket at the near end saw it, and whether the host answered.
    fn ask(&self) -> (bool, bool) {
        self.far.send(&REQUEST);
        (
            self.near.receives(&[0, 1], Duration::from_secs(5)),
            self.far.receives(&[0, 2], Duration::from_millis(300)),
        )
    }
}

/// Who has 10.1.0.1? Tell 10.1.0.2.
const REQUEST: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0xb, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0,
    0, 0, 0xb, 10, 1, 0, 2, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1,
];

struct Packets(OwnedFd);

impl Packets {
    fn at(index: u32) -> Self {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .unwrap();
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
            sll_protocol: u16::try_from(libc::ETH_P_ALL).unwrap().to_be(),
            sll_ifindex: i32::try_from(index).unwrap(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address is a whole sockaddr_ll and lives over the call.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                u32::try_from(size_of_val(&address)).unwrap(),
            )
        };
        assert_eq!(bound, 0);
        Self(socket)
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(nix::unistd::write(&self.0, frame), Ok(frame.len()));
    }

    /// Whether an ARP message of that operation comes within the time.
    fn receives(&self, operation: &[u8; 2], within: Duration) -> bool {
        let end = std::time::Instant::now() + within;
        let mut frame = [0; 2048];
        loop {
            while let Ok(length) = nix::unistd::read(&self.0, &mut frame) {
                if length >= 42 && frame[12..14] == [8, 6] && frame[20..22] == *operation {
                    return true;
                }
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut descriptors = [PollFd::new(
                std::os::fd::AsFd::as_fd(&self.0),
                PollFlags::POLLIN,
            )];
            let milliseconds = u16::try_from(left.as_millis()).unwrap() + 1;
            poll(&mut descriptors, PollTimeout::from(milliseconds)).unwrap();
        }
    }
}

fn qdiscs() -> String {
    sh("tc qdisc show dev v0")
}

fn filters() -> String {
    sh("tc filter show dev v0 ingress; tc filter show dev v0 egress")
}

#[test]
fn the_stack_is_deaf_and_packet_sockets_are_not() {
    in_namespace("the_stack_is_deaf_and_packet_sockets_are_not", || {
        let pair = Pair::new();
        assert_eq!(pair.ask(), (true, true));
        assert!(!ingress::taken(pair.index).unwrap());
        ingress::take(pair.index).unwrap();
        ingress::take(pair.index).unwrap();
        assert!(ingress::taken(pair.index).unwrap());
        assert_eq!(pair.ask(), (true, false), "{}", filters());
        assert_eq!(
            filters().matches("direct-action").count(),
            1,
            "{}",
            filters()
        );
        ingress::give_back(pair.index).unwrap();
        assert_eq!(pair.ask(), (true, true));
        assert!(!qdiscs().contains("clsact"), "{}", qdiscs());
        ingress::give_back(pair.index).unwrap();
        assert!(!ingress::taken(pair.index).unwrap());
    });
}

#[test]
fn what_the_administrator_has_there_stays() {
    in_namespace("what_the_administrator_has_there_stays", || {
        let pair = Pair::new();
        // His qdisc, with a filter that lets all pass to the next one (verdict -1).
        sh("tc qdisc add dev v0 clsact");
        sh("tc filter add dev v0 ingress prio 1 protocol all bpf da bytecode '1,6 0 0 4294967295'");
        sh("tc filter add dev v0 egress prio 7 protocol all bpf da bytecode '1,6 0 0 4294967295'");
        let before = filters();
        ingress::take(pair.index).unwrap();
        assert_eq!(pair.ask(), (true, false), "{}", filters());
        assert!(filters().contains("pref 2 bpf"), "{}", filters());
        ingress::give_back(pair.index).unwrap();
        assert_eq!(filters(), before);
        // The same without filters: the qdisc is his.
        sh("tc filter del dev v0 ingress; tc filter del dev v0 egress");
        ingress::take(pair.index).unwrap();
        assert!(filters().contains("pref 1 bpf"), "{}", filters());
        ingress::give_back(pair.index).unwrap();
        assert_eq!(filters(), "");
        assert!(qdiscs().contains("clsact"), "{}", qdiscs());
    });
}

#[test]
fn our_qdisc_stays_while_others_use_it() {
    in_namespace("our_qdisc_stays_while_others_use_it", || {
        let pair = Pair::new();
        ingress::take(pair.index).unwrap();
        sh("tc filter add dev v0 egress prio 7 protocol all bpf da bytecode '1,6 0 0 4294967295'");
        ingress::give_back(pair.index).unwrap();
        assert!(filters().contains("pref 7 bpf"), "{}", filters());
        assert_eq!(pair.ask(), (true, true));
    });
}

#[test]
fn an_older_ingress_qdisc_does_as_well() {
    in_namespace("an_older_ingress_qdisc_does_as_well", || {
        let pair = Pair::new();
        sh("tc qdisc add dev v0 ingress");
        ingress::take(pair.index).unwrap();
        assert_eq!(pair.ask(), (true, false));
        ingress::give_back(pair.index).unwrap();
        assert_eq!(pair.ask(), (true, true));
        assert!(qdiscs().contains("ingress"), "{}", qdiscs());
    });
}

#[test]
fn an_interface_that_is_gone_is_named() {
    in_namespace("an_interface_that_is_gone_is_named", || {
        let error = ingress::take(4711).unwrap_err();
        assert!(matches!(error, HostError::NoInterface { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "there is no interface with index 4711 in this network namespace (`ip link` lists them)"
        );
        ingress::give_back(4711).unwrap();
        assert!(!ingress::taken(4711).unwrap());
    });
}
