//! The frontend against a backend that is known to be right: DPDK's vhost
//! library, as `dpdk-testpmd` forwarding between two ports.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use ringway_frontend::{NetDriver, Ring, Session, SessionConfig, features};

const LONG: Duration = Duration::from_secs(20);

struct Testpmd {
    child: Child,
    // testpmd ends when its stdin does.
    _stdin: Option<ChildStdin>,
}

impl Testpmd {
    fn start(dir: &Path) -> Self {
        let vdev = |i: usize| {
            let socket = dir.join(format!("{i}.sock"));
            format!("--vdev=net_vhost{i},iface={},queues=1", socket.display())
        };
        let mut child = Command::new("dpdk-testpmd")
            .args(["--no-huge", "--no-shconf", "-m", "256", "--no-pci"])
            .args(["--no-telemetry", "-l", "0,1"])
            // Two instances at once must not share DPDK's runtime files.
            .env("RUNTIME_DIRECTORY", dir)
            .args([vdev(0), vdev(1)])
            .args(["--", "-i", "--auto-start", "--total-num-mbufs=4096"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dpdk-testpmd (package dpdk-dev) starts");
        let stdin = child.stdin.take();
        Self {
            child,
            _stdin: stdin,
        }
    }

    fn connect(&self, dir: &Path, port: usize, config: &SessionConfig) -> NetDriver {
        let path = dir.join(format!("{port}.sock"));
        let session = Session::connect_within(path, LONG).expect("testpmd listens");
        let guest = session.bring_up(config).expect("testpmd accepts the guest");
        NetDriver::new(guest).expect("the buffers fit")
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // It may have ended by itself; both are fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|i| (i as u32 ^ number) as u8));
    frame
}

fn frames_pass_both_ways(config: &SessionConfig) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let testpmd = Testpmd::start(dir.path());
    let mut a = testpmd.connect(dir.path(), 0, config);
    let mut b = testpmd.connect(dir.path(), 1, config);

    // More frames than the ring has descriptors, so that indices wrap.
    for number in 0..600 {
        let len = [60, 64, 777, 1514][number as usize % 4];
        let sent = frame(number, len);
        let (from, to) = if number % 3 == 0 {
            (&mut b, &mut a)
        } else {
            (&mut a, &mut b)
        };
        assert!(from.send(0, &sent), "frame {number}: the ring is full");
        let got = to.recv_within(0, LONG);
        assert_eq!(got.as_ref(), Some(&sent), "frame {number}");
    }
    assert!(a.flush(0, LONG));
    let bases = a.guest.stop().expect("testpmd stops the rings");
    let rings = a.guest.rings.iter_mut();
    let indices: Vec<u32> = rings
        .map(|ring| match ring {
            Ring::Split(ring) => ring.used_idx().into(),
            Ring::Packed(ring) => ring.next_used().bits().into(),
        })
        .collect();
    // Of a packed ring DPDK (22.11) tells the available side alone, which is
    // where the used side is when everything was used.
    let bases: Vec<u32> = bases.iter().map(|base| base & 0xffff).collect();
    assert_eq!(bases, indices, "GET_VRING_BASE says what was used");
}

#[test]
fn mergeable() {
    frames_pass_both_ways(&SessionConfig::default());
}

#[test]
fn packed() {
    let mut config = SessionConfig::default();
    config.features |= features::RING_PACKED;
    config.required |= features::RING_PACKED;
    frames_pass_both_ways(&config);
}

#[test]
fn not_mergeable_and_base_near_the_wrap() {
    let mut config = SessionConfig {
        base: 0xfff0,
        ..SessionConfig::default()
    };
    config.features &= !features::MRG_RXBUF;
    frames_pass_both_ways(&config);
}
