//! Ports on kernel interfaces, in a network namespace of their own, which any
//! user may make where user namespaces are allowed.
//!
//! A namespace is entered by a process before it has threads: the outer test
//! runs this program again, under `unshare`, with the inner tests.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use dpdk::{Eal, MbufBurst, Mempool, Port, PortConfig, RunningPort, RxQueue, TxQueue};

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
