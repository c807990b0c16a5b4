//! Tap devices on the kernel that runs this.

mod namespace;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use namespace::{in_namespace, sh};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_host::tap::{Tap, TapOptions, delete_tap, make_persistent};
use ringway_host::{HostError, link};

const ONE: TapOptions = TapOptions {
    queues: 1,
    persistent: false,
    owner: None,
};
const KEPT: TapOptions = TapOptions {
    persistent: true,
    ..ONE
};

#[test]
fn a_tap_is_there_while_it_is_held() {
    in_namespace("a_tap_is_there_while_it_is_held", || {
        let tap = Tap::open("t0", &ONE).unwrap();
        assert_eq!((tap.name(), tap.queues().len()), ("t0", 1));
        let found = link::find("t0").unwrap().unwrap();
        assert_eq!(
            (found.kind.as_str(), found.mtu, found.admin_up),
            ("tun", 1500, false)
        );
        drop(tap);
        assert_eq!(link::find("t0").unwrap(), None);
    });
}

#[test]
fn a_persistent_tap_keeps_what_the_administrator_gave_it() {
    in_namespace(
        "a_persistent_tap_keeps_what_the_administrator_gave_it",
        || {
            let tap = Tap::open("t0", &KEPT).unwrap();
            sh(
                "ip addr add 10.1.0.1/24 dev t0; ip link set t0 up; ip route add 10.2.0.0/16 via 10.1.0.2",
            );
            let before = link::find("t0").unwrap().unwrap();
            assert!(before.carrier && before.admin_up);
            drop(tap);
            let between = link::find("t0").unwrap().unwrap();
            assert!(!between.carrier, "nobody holds it");
            let tap = Tap::open("t0", &KEPT).unwrap();
            assert_eq!(link::find("t0").unwrap().unwrap(), before);
            assert_eq!(
                link::addresses(before.index).unwrap()[0].to_string(),
                "10.1.0.1/24"
            );
            assert_eq!(
                link::routes(before.index).unwrap()[0].to_string(),
                "10.2.0.0/16 via 10.1.0.2 dev t0"
            );
            delete_tap("t0").unwrap();
            assert_eq!(link::find("t0").unwrap(), None);
            delete_tap("t0").unwrap();
            drop(tap);
        },
    );
}

#[test]
fn frames_carry_a_header_of_twelve_bytes() {
    in_namespace("frames_carry_a_header_of_twelve_bytes", || {
        let tap = Tap::open("t0", &KEPT).unwrap();
        sh("sysctl -qw net.ipv6.conf.t0.disable_ipv6=1");
        sh("ip addr add 10.1.0.1/24 dev t0; ip link set t0 up");
        let mut queue = File::from(tap.into_queues().remove(0));
        host_answers(&mut queue);
        // When there is no more, the descriptor does not block.
        let error = (0..200)
            .find_map(|_| queue.read(&mut [0; 2048]).err())
            .unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        // The header's size and the offloads are set again on the same device.
        drop(queue);
        let tap = Tap::open("t0", &KEPT).unwrap();
        host_answers(&mut File::from(tap.into_queues().remove(0)));
    });
}

#[test]
fn the_host_may_send_large_frames_uncut() {
    in_namespace("the_host_may_send_large_frames_uncut", || {
        let tap = Tap::open("t0", &ONE).unwrap();
        let udp = sh("ethtool -k t0").contains("tx-udp-segmentation: on");
        assert_eq!(tap.udp_segmentation(), udp);
        let features = link::features("t0").unwrap();
        assert_eq!(features.driver, "tun");
        assert!(
            features.tso4 && features.tso6 && features.tx_checksum,
            "{features:?}"
        );
    });
}

#[test]
fn several_queues_are_another_device_than_one() {
    in_namespace("several_queues_are_another_device_than_one", || {
        let four = TapOptions { queues: 4, ..KEPT };
        let tap = Tap::open("t0", &four).unwrap();
        assert_eq!(tap.queues().len(), 4);
        // Held: not even with free queues does another one get in.
        let error = Tap::open("t0", &four).unwrap_err();
        assert!(matches!(error, HostError::TapBusy { .. }), "{error}");
        drop(tap);
        let error = Tap::open("t0", &KEPT).unwrap_err();
        assert!(
            error.to_string().contains(
                "the tap t0 exists with several queues, a single queue was asked for: remove it (`ip link del t0`"
            ),
            "{error}"
        );
        assert_eq!(Tap::open("t0", &four).unwrap().queues().len(), 4);
        delete_tap("t0").unwrap();
        let _one = Tap::open("t0", &ONE).unwrap();
        let error = Tap::open("t0", &four).unwrap_err();
        assert!(matches!(error, HostError::TapQueues { .. }), "{error}");
        let error = Tap::open("t0", &ONE).unwrap_err();
        assert!(matches!(error, HostError::TapBusy { .. }), "{error}");
        // More than the number of queues would need: all of them.
        let most = TapOptions { queues: 256, ..ONE };
        assert_eq!(Tap::open("t1", &most).unwrap().queues().len(), 256);
    });
}

#[test]
fn names_that_cannot_be_are_told() {
    in_namespace("names_that_cannot_be_are_told", || {
        sh(
            "ip link add v0 type veth peer name v1; ip link add b0 type bridge; ip tuntap add u0 mode tun",
        );
        for (name, words) in [
            ("sixteen-bytes-16", "longer than 15 bytes"),
            ("", "empty"),
            ("a/b", "not allowed"),
            ("a b", "not allowed"),
            ("tap%d", "pattern"),
            ("v0", "no tap device but an interface of kind veth"),
            ("b0", "no tap device but an interface of kind bridge"),
            ("lo", "no tap device but an interface of another kind"),
            ("u0", "no tap device but a tun device"),
        ] {
            let error = Tap::open(name, &ONE).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
            let error = make_persistent(name, None).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
        let error = delete_tap("v0").unwrap_err();
        assert!(matches!(error, HostError::NotATap { .. }), "{error}");
        assert!(link::find("v0").unwrap().is_some());
        assert_eq!(link::find("sixteen-bytes-16").unwrap(), None);
        assert!(Tap::open("fifteen-bytes-1", &ONE).is_ok());
    });
}

#[test]
fn a_tap_for_qemu_is_left_free_and_stays() {
    in_namespace("a_tap_for_qemu_is_left_free_and_stays", || {
        make_persistent("q0", Some((12345, 54321))).unwrap();
        let found = link::find("q0").unwrap().unwrap();
        assert!(!found.carrier);
        let details = sh("ip -d link show q0");
        for word in ["type tap", "persist on", "user 12345", "group 54321"] {
            assert!(details.contains(word), "{word}: {details}");
        }
        // As QEMU does it.
        let held: Vec<OwnedFd> = Tap::open("q0", &ONE).unwrap().into_queues();
        make_persistent("q0", None).unwrap();
        assert_eq!(link::find("q0").unwrap().unwrap().index, found.index);
        // It goes although it is held.
        delete_tap("q0").unwrap();
        assert_eq!(link::find("q0").unwrap(), None);
        drop(held);
    });
}

/// Asks the host by ARP for 10.1.0.1, with a header of zeros, and takes its answer.
fn host_answers(queue: &mut File) {
    let mut request = vec![0; 12];
    request.extend(arp_request([10, 1, 0, 2], [10, 1, 0, 1]));
    let mut answer = [0; 2048];
    // A carrier that just came is told to the interface's queue a little later; what
    // is sent before is lost.
    for _ in 0..100 {
        queue.write_all(&request).unwrap();
        let mut descriptors = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, PollTimeout::from(50_u8)).unwrap();
        if let Ok(length) = queue.read(&mut answer) {
            assert_eq!(length, 12 + 42);
            assert_eq!(answer[12 + 12..12 + 14], [0x08, 0x06]);
            assert_eq!(answer[12 + 20..12 + 22], [0, 2], "an answer");
            return;
        }
    }
    panic!("the host does not answer");
}

fn arp_request(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mac = [2, 0, 0, 0, 0, 1];
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(from);
    frame.extend([0; 6]);
    frame.extend(to);
    frame
}
