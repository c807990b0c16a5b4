//! Ports on kernel interfaces, in a network namespace of their own, which any
//! user may make where user namespaces are allowed.
//!
//! A namespace is entered by a process before it has threads: the outer test
//! runs this program again, under `unshare`, with the inner tests.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use dpdk::{
    Eal, MbufBurst, Mempool, Network, Port, PortConfig, RunningPort, RxQueue, Transport, TxOffload,
    TxQueue,
};

/// Says to the inner tests that they are in the namespace.
const INSIDE: &str = "RINGWAY_TEST_NAMESPACE";
/// Local experimental EtherType: tells our frames from the kernel's own.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

fn in_namespace(test: &str) {
    let root = fs::metadata("/proc/self").is_ok_and(|proc| {
        use std::os::unix::fs::MetadataExt;
        proc.uid() == 0
    });
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !root {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Inner tests change interfaces: never outside a namespace of their own.
fn assert_inside() {
    assert!(
        std::env::var_os(INSIDE).is_some(),
        "run by the test of the same name, in a namespace"
    );
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip (iproute2) is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn start(eal: &Eal, devargs: &str, config: &PortConfig) -> (RunningPort, RxQueue, TxQueue) {
    let port = Port::attach(eal, devargs).unwrap();
    let (port, mut rx, mut tx) = port.configure(config).unwrap().start().unwrap();
    (port, rx.remove(0), tx.remove(0))
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i * 13 + number) as u8).collect();
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&ETHER_TYPE);
    frame
}

/// Sends all frames on `tx`, waiting when it is full.
fn send(tx: &mut TxQueue, pool: &Mempool, frames: &[Vec<u8>]) {
    for chunk in frames.chunks(8) {
        let mut burst = MbufBurst::new();
        assert_eq!(pool.alloc_burst(&mut burst, chunk.len()), chunk.len());
        for (i, frame) in chunk.iter().enumerate() {
            burst.append(i, frame.len()).unwrap().copy_from_slice(frame);
        }
        let patience = Instant::now();
        while !burst.is_empty() && patience.elapsed() < Duration::from_secs(10) {
            tx.tx_burst(&mut burst);
        }
        assert!(burst.is_empty(), "{} frames were not taken", burst.len());
    }
}

/// Receives `count` frames of ours on `rx`.
fn receive(rx: &mut RxQueue, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut burst = MbufBurst::new();
    let patience = Instant::now();
    while frames.len() < count && patience.elapsed() < Duration::from_secs(10) {
        rx.rx_burst(&mut burst);
        frames.extend(
            burst
                .iter()
                .map(|packet| packet.segments().flatten().copied().collect::<Vec<u8>>())
                .filter(|frame| frame[12..14] == ETHER_TYPE),
        );
        burst.clear();
    }
    frames
}

#[test]
fn af_packet_carries_frames_between_interfaces() {
    in_namespace("inner_af_packet");
}

#[test]
#[ignore = "run by af_packet_carries_frames_between_interfaces"]
fn inner_af_packet() {
    assert_inside();
    ip("link add left type veth peer name right");
    ip("link set left up");
    ip("link set right up");
    let eal = Eal::for_tests();
    let pool = Mempool::create(&eal, "frames", 1024, 2048, 0).unwrap();
    let config = PortConfig::new(pool.clone());
    let (left, mut left_rx, mut left_tx) = start(&eal, "net_af_packet0,iface=left", &config);
    let (right, mut right_rx, mut right_tx) = start(&eal, "net_af_packet1,iface=right", &config);
    assert_eq!(left.info().driver, "net_af_packet");
    let address = fs::read_to_string("/sys/class/net/left/address").unwrap_or_else(|_| {
        // /sys may show the outer namespace.
        let line = ip("-brief link show left");
        line.split_whitespace().nth(2).unwrap().to_owned()
    });
    let mac = left
        .mac()
        .unwrap()
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    assert_eq!(mac, address.trim());
    assert!(ip("-details link show left").contains("promiscuity 1"));

    let frames: Vec<Vec<u8>> = (0..100).map(|n| frame(n, 60 + n * 14)).collect();
    send(&mut left_tx, &pool, &frames);
    assert_eq!(receive(&mut right_rx, 100), frames);
    send(&mut right_tx, &pool, &frames[..50]);
    assert_eq!(receive(&mut left_rx, 50), frames[..50]);
    assert!(right.stats().unwrap().rx_packets >= 100);

    drop((left, left_rx, left_tx, right, right_rx, right_tx));
    assert!(ip("-details link show left").contains("promiscuity 0"));
    assert_eq!(pool.available(), pool.count());
}

#[test]
fn a_tap_device_appears_and_goes() {
    in_namespace("inner_tap");
}

#[test]
#[ignore = "run by a_tap_device_appears_and_goes"]
fn inner_tap() {
    assert_inside();
    let eal = Eal::for_tests();
    // A tap device's receive descriptors hold buffers from the start.
    let pool = Mempool::create(&eal, "frames", 2048, 2048, 0).unwrap();
    let mut config = PortConfig::new(pool.clone());
    config.mtu = Some(1400);
    let (tap, tap_rx, mut tap_tx) = start(&eal, "net_tap0,iface=rwtap0", &config);
    assert_eq!(tap.mtu().unwrap(), 1400);
    assert!(ip("link show rwtap0").contains("mtu 1400"));

    // What we send arrives in the kernel's interface: a packet socket sees it.
    let (socket, mut socket_rx, socket_tx) = start(&eal, "net_af_packet2,iface=rwtap0", &config);
    let frames: Vec<Vec<u8>> = (0..20).map(|n| frame(n, 60 + n)).collect();
    send(&mut tap_tx, &pool, &frames);
    assert_eq!(receive(&mut socket_rx, 20), frames);

    assert!(pool.in_use() > 1000, "{}", pool.in_use());
    drop((socket, socket_rx, socket_tx, tap, tap_rx, tap_tx));
    assert!(!ip("link show").contains("rwtap0"));
    assert_eq!(pool.in_use(), 0);
}

/// Waits until `what` holds, but not for ever.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now();
    while !holds() {
        assert!(patience.elapsed() < Duration::from_secs(10), "never {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_taps_link_and_mtu_follow() {
    in_namespace("inner_link");
}

#[test]
#[ignore = "run by a_taps_link_and_mtu_follow"]
fn inner_link() {
    assert_inside();
    let eal = Eal::for_tests();
    let pool = Mempool::create(&eal, "frames", 4096, 2048, 0).unwrap();
    let config = PortConfig::new(pool.clone());
    let (tap, mut rx, mut tx) = start(&eal, "net_tap1,iface=rwtap1", &config);
    assert!(tap.settings().link_events);
    wait_for("up", || tap.link().unwrap().up);
    ip("link set rwtap1 down");
    wait_for("down", || !tap.link().unwrap().up);
    ip("link set rwtap1 up");
    wait_for("up", || tap.link().unwrap().up);
    assert!(!tap.removed());

    let error = tap.set_mtu(1505).unwrap_err().to_string();
    assert!(error.contains("to 1504 is"), "{error}");

    // Stopped and started with another MTU, it works as before.
    tap.set_mtu(1200).unwrap();
    assert!(ip("link show rwtap1").contains("mtu 1200"));
    tap.set_mtu_stopped(1300, &mut [&mut rx], &mut [&mut tx])
        .unwrap();
    assert!(ip("link show rwtap1").contains("mtu 1300"));
    let frames = [frame(1, 100)];
    let (socket, mut socket_rx, socket_tx) = start(&eal, "net_af_packet3,iface=rwtap1", &config);
    send(&mut tx, &pool, &frames);
    assert_eq!(receive(&mut socket_rx, 1), frames);
    drop((socket, socket_rx, socket_tx, tap, rx, tx));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn af_xdp_carries_frames_between_interfaces() {
    in_namespace("inner_af_xdp");
}

#[test]
#[ignore = "run by af_xdp_carries_frames_between_interfaces"]
fn inner_af_xdp() {
    assert_inside();
    ip("link add left type veth peer name right");
    ip("link set left up");
    ip("link set right up");
    let eal = Eal::for_tests();
    if !eal.drivers().contains(&"net_af_xdp") {
        return;
    }
    let pool = Mempool::create(&eal, "frames", 8192, 2048, 0).unwrap();
    let config = PortConfig::new(pool.clone());
    let (left, mut left_rx, mut left_tx) = start(&eal, "net_af_xdp0,iface=left", &config);
    let (right, mut right_rx, mut right_tx) = start(&eal, "net_af_xdp1,iface=right", &config);
    assert_eq!(left.info().driver, "net_af_xdp");
    assert!(left.info().equal_queues());
    let frames: Vec<Vec<u8>> = (0..100).map(|n| frame(n, 60 + n * 14)).collect();
    send(&mut left_tx, &pool, &frames);
    assert_eq!(receive(&mut right_rx, 100), frames);
    send(&mut right_tx, &pool, &frames[..50]);
    assert_eq!(receive(&mut left_rx, 50), frames[..50]);
    drop((left, left_rx, left_tx, right, right_rx, right_tx));
}

/// One's complement sum of a TCP segment with its pseudo header: 0xffff when
/// its checksum is right. `ip` is the offset of the IPv4 header of 20 bytes.
fn tcp_sum(frame: &[u8], ip: usize) -> u16 {
    let total = usize::from(u16::from_be_bytes([frame[ip + 2], frame[ip + 3]]));
    let segment = &frame[ip + 20..ip + total];
    let mut bytes = frame[ip + 12..ip + 20].to_vec();
    bytes.extend([0, 6]);
    bytes.extend((segment.len() as u16).to_be_bytes());
    bytes.extend(segment);
    sum(&bytes)
}

fn sum(bytes: &[u8]) -> u16 {
    let mut total: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// A TCP frame behind a VLAN tag if `tagged`, whose checksum field is as a
/// guest leaves it, and nothing in it tells what it will have to be.
fn tcp_frame(payload: usize, tagged: bool) -> (Vec<u8>, usize) {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    if tagged {
        frame.extend([0x81, 0, 0, 7]);
    }
    frame.extend([8, 0]);
    let ip = frame.len();
    frame.extend([0x45, 0]);
    frame.extend((40 + payload as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    let check = !sum(&frame[ip..ip + 20]);
    frame[ip + 10..ip + 12].copy_from_slice(&check.to_be_bytes());
    frame.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0]);
    // The pseudo header's sum.
    let mut pseudo = frame[ip + 12..ip + 20].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend((20 + payload as u16).to_be_bytes());
    frame.extend(sum(&pseudo).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload).map(|i| (i * 7) as u8));
    (frame, ip)
}

#[test]
fn a_device_completes_checksums() {
    in_namespace("inner_offloads");
}

#[test]
#[ignore = "run by a_device_completes_checksums"]
fn inner_offloads() {
    assert_inside();
    let eal = Eal::for_tests();
    let pool = Mempool::create(&eal, "frames", 8192, 2048, 0).unwrap();
    let config = PortConfig::new(pool.clone());
    let (tap, _rx, mut tx) = start(&eal, "net_tap2,iface=rwtap2", &config);
    let offloads = tap.info().offloads;
    assert!(offloads.tcp_cksum && offloads.udp_cksum && offloads.multi_segs);
    let (_socket, mut seen, _) = start(&eal, "net_af_packet4,iface=rwtap2", &config);

    let ask = |l2_len, transport| TxOffload {
        l2_len,
        l3_len: 20,
        network: Network::Ipv4,
        transport,
    };
    let mut burst = MbufBurst::new();
    for (payload, tagged) in [(1001, false), (1000, true), (1460, true)] {
        let (frame, ip) = tcp_frame(payload, tagged);
        assert_ne!(tcp_sum(&frame, ip), 0xffff);
        assert_eq!(pool.alloc_burst(&mut burst, 1), 1);
        for (number, piece) in frame.chunks(900).enumerate() {
            assert!(number == 0 || burst.extend_chain(0, &pool));
            burst.append(0, piece.len()).unwrap().copy_from_slice(piece);
        }
        assert!(burst.set_tx_offload(0, ask(ip, Transport::TcpChecksum)));
        assert_eq!(tx.prepare(&mut burst), 0);
        assert_eq!(tx.tx_burst(&mut burst), 1);
        let got = tcp_frames(&mut seen, 1, ip);
        assert_eq!(tcp_sum(&got[0], ip), 0xffff);
        assert_eq!(got[0][ip + 40..], frame[ip + 40..]);
    }
}

/// Receives `count` frames with an IPv4 header at `ip` from us.
fn tcp_frames(rx: &mut RxQueue, count: usize, ip: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut burst = MbufBurst::new();
    let patience = Instant::now();
    while frames.len() < count && patience.elapsed() < Duration::from_secs(10) {
        rx.rx_burst(&mut burst);
        frames.extend(
            burst
                .iter()
                .map(|packet| packet.segments().flatten().copied().collect::<Vec<u8>>())
                .filter(|frame| frame.len() > ip + 40 && frame[ip..ip + 2] == [0x45, 0]),
        );
        burst.clear();
    }
    frames
}
