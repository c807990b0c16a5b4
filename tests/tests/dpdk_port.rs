//! A guest exchanges frames with DPDK devices: a capture file, a source and
//! sink, and a kernel interface with a Linux host behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ringway_frontend::{NetDriver, Session, SessionConfig};
use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::netns::VethPair;
use ringway_tests::{pcap, wait};

const LIMIT: Duration = Duration::from_secs(10);
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn bridge(options: DaemonOptions) -> (Daemon, Exclusive) {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start_with(options).unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    (daemon, alone)
}

/// A guest on a port of its own.
fn guest(daemon: &Daemon, port: &str) -> NetDriver {
    let socket = daemon
        .add_vhost_port("br0", port, &["mode=server"])
        .unwrap();
    let session = Session::connect_within(&socket, LIMIT).unwrap();
    let guest = session.bring_up(&SessionConfig::default()).unwrap();
    daemon.wait_state(port, "forwarding").unwrap();
    NetDriver::new(guest).unwrap()
}

fn add_dpdk_port(daemon: &Daemon, port: &str, devargs: &str) {
    let devargs = format!("devargs={devargs}");
    daemon
        .ok(&["add-port", "br0", port, "type=dpdk", &devargs])
        .unwrap();
    daemon.wait_state(port, "forwarding").unwrap();
}

/// The next `count` frames of the guest.
fn receive(guest: &mut NetDriver, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while frames.len() < count {
        match guest.recv_within(0, LIMIT) {
            Some(frame) => frames.push(frame),
            None => panic!("{} of {count} frames came", frames.len()),
        }
    }
    frames
}

fn send(guest: &mut NetDriver, frames: &[Vec<u8>]) {
    for frame in frames {
        assert!(guest.send(0, frame), "the guest's ring is full");
    }
    assert!(guest.flush(0, LIMIT), "the switch did not take the frames");
}

fn capture() -> PathBuf {
    machine::workspace().join("tests/data/mixed.pcap")
}

/// The frames of the capture file with the guest as their sender.
fn answers(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames
        .iter()
        .map(|frame| {
            let mut frame = frame.clone();
            let source: [u8; 6] = frame[6..12].try_into().unwrap();
            // What came to the guest goes back; groups stay groups.
            if frame[..6] == GUEST_MAC {
                frame[..6].copy_from_slice(&source);
            }
            frame[6..12].copy_from_slice(&GUEST_MAC);
            frame
        })
        .collect()
}

/// Compares frame by frame, so that a failure says which.
fn assert_same(got: &[Vec<u8>], wanted: &[Vec<u8>]) {
    for (number, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert_eq!(got, wanted, "frame {number} differs");
    }
    assert_eq!(got.len(), wanted.len(), "number of frames");
}

#[test]
fn a_capture_file_reaches_the_guest_and_its_frames_are_captured() {
    let (daemon, _alone) = bridge(DaemonOptions::default());
    let mut guest = guest(&daemon, "vm1");
    let sent = daemon.path("sent.pcap");
    let devargs = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        capture().display(),
        sent.display()
    );
    // The device reads its file as soon as it is there.
    add_dpdk_port(&daemon, "p0", &devargs);

    let wanted = pcap::read(&capture()).unwrap();
    assert!(wanted.len() > 30, "the capture file is nearly empty");
    let got = receive(&mut guest, wanted.len());
    assert_same(&got, &wanted);

    let answers = answers(&wanted);
    send(&mut guest, &answers);
    let p0 = wait::until("the frames to leave through p0", LIMIT, || {
        let port = daemon.port("p0").unwrap();
        if port.tx_packets >= answers.len() as u64 {
            return Ok(port);
        }
        Err(port)
    })
    .unwrap();
    assert_eq!(p0.rx_packets, wanted.len() as u64);
    let bytes: usize = wanted.iter().map(Vec::len).sum();
    assert_eq!(p0.rx_bytes, bytes as u64);
    assert_eq!(p0.tx_bytes, bytes as u64);
    let balance = daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");
    assert_eq!(balance.dropped, 0, "{:?}", daemon.drops());
    assert_eq!(guest.recv(0), None, "more frames than there are");

    // The device writes its file out when it is closed.
    daemon.ok(&["del-port", "br0", "p0"]).unwrap();
    assert_same(&pcap::read(&sent).unwrap(), &answers);
}

/// What two real hosts said to each other, recorded at one of them: address
/// resolution, echoes with fragments, TCP and UDP of many sizes.
fn record(path: &Path, daemon: &Daemon) {
    let veth = VethPair::new("10.0.9.2/24").unwrap();
    let (host, device) = (&veth.switch, VethPair::SWITCH_DEVICE);
    host.configure(device, "10.0.9.1/24").unwrap();
    for (namespace, device) in [
        (host, device),
        (&veth.neighbour, VethPair::NEIGHBOUR_DEVICE),
    ] {
        let off = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
        let ethtool = [&["ethtool", "-K", device], &off[..]].concat();
        namespace.exec(&ethtool).unwrap();
    }
    let _echo = veth.neighbour.serve_echo(daemon.dir()).unwrap();
    let file = path.to_string_lossy();
    let line = ["tcpdump", "-i", device, "-U", "-w", &file];
    let log = daemon.path("tcpdump.log");
    let mut tcpdump = host.spawn("tcpdump", &line, &log).unwrap();
    wait::until("tcpdump to listen", LIMIT, || {
        match tcpdump.log().contains("listening on") {
            true => Ok(()),
            false => Err(tcpdump.log()),
        }
    })
    .unwrap();
    assert_eq!(host.ping("10.0.9.2", 3, 4000).unwrap(), 3);
    host.probe(&["udp", "10.0.9.2:7", "1", "1472", "50"])
        .unwrap();
    host.probe(&["tcp", "10.0.9.2:7", "150000"]).unwrap();
    tcpdump.signal(Signal::SIGTERM).unwrap();
    tcpdump.wait_exit(LIMIT).unwrap();
}

#[test]
fn a_recorded_conversation_goes_through_a_guest_into_another_file() {
    let (daemon, _alone) = bridge(DaemonOptions::default());
    let (recorded, passed) = (daemon.path("recorded.pcap"), daemon.path("passed.pcap"));
    record(&recorded, &daemon);
    let frames = pcap::read(&recorded).unwrap();
    assert!(
        (100..1000).contains(&frames.len()),
        "{} frames",
        frames.len()
    );
    assert!(frames.iter().any(|frame| frame.len() == 1514));

    // The ring holds all of them, however fast the file is read.
    let socket = daemon
        .add_vhost_port("br0", "vm1", &["mode=server"])
        .unwrap();
    let session = Session::connect_within(&socket, LIMIT).unwrap();
    let config = SessionConfig {
        ring_size: 1024,
        memory_size: 16 << 20,
        ..SessionConfig::default()
    };
    let mut guest = NetDriver::new(session.bring_up(&config).unwrap()).unwrap();
    daemon.wait_forwarding(&["vm1"]).unwrap();
    let devargs = format!("net_pcap1,tx_pcap={}", passed.display());
    add_dpdk_port(&daemon, "p1", &devargs);
    daemon.ok(&["del-flows", "br0"]).unwrap();
    for flow in [
        "in_port=7,actions=output:vm1",
        "in_port=vm1,actions=output:p1",
    ] {
        daemon.ok(&["add-flow", "br0", flow]).unwrap();
    }
    let devargs = format!("devargs=net_pcap0,rx_pcap={}", recorded.display());
    daemon
        .ok(&["add-port", "br0", "p0", "type=dpdk", &devargs, "number=7"])
        .unwrap();

    let got = receive(&mut guest, frames.len());
    assert_same(&got, &frames);
    // As a guest does that passes on what it gets.
    for some in got.chunks(200) {
        send(&mut guest, some);
    }
    wait::until("the frames to leave through p1", LIMIT, || {
        let port = daemon.port("p1").unwrap();
        match port.tx_packets >= frames.len() as u64 {
            true => Ok(()),
            false => Err(port),
        }
    })
    .unwrap();
    let balance = daemon.settled_balance().unwrap();
    assert!(balance.holds() && balance.dropped == 0, "{balance:?}");
    daemon.ok(&["del-port", "br0", "p1"]).unwrap();
    assert_same(&pcap::read(&passed).unwrap(), &frames);
    assert_eq!(guest.recv(0), None, "more frames than there are");
}

#[test]
fn a_capture_file_reaches_every_guest_on_the_bridge() {
    let (daemon, _alone) = bridge(DaemonOptions::default());
    let mut guests = ["vm1", "vm2", "vm3"].map(|name| guest(&daemon, name));
    let sent = daemon.path("sent.pcap");
    let devargs = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        capture().display(),
        sent.display()
    );
    add_dpdk_port(&daemon, "p0", &devargs);
    // Nobody has said anything yet: all is flooded.
    let wanted = pcap::read(&capture()).unwrap();
    for guest in &mut guests {
        let got = receive(guest, wanted.len());
        assert_same(&got, &wanted);
    }
    daemon.ok(&["del-port", "br0", "p0"]).unwrap();
    assert_same(&pcap::read(&sent).unwrap(), &[]);
}

#[test]
fn net_null_is_a_source_and_a_sink() {
    let (daemon, _alone) = bridge(DaemonOptions::default());
    let mut guest = guest(&daemon, "vm1");
    add_dpdk_port(&daemon, "sink", "net_null0,no-rx=1");
    let frames = answers(&pcap::read(&capture()).unwrap());
    send(&mut guest, &frames);
    let sink = wait::until("the sink to take the frames", LIMIT, || {
        let port = daemon.port("sink").unwrap();
        if port.tx_packets == frames.len() as u64 {
            return Ok(port);
        }
        Err(port)
    })
    .unwrap();
    assert_eq!((sink.rx_packets, sink.tx_dropped), (0, 0), "{sink:?}");
    daemon.ok(&["del-port", "br0", "sink"]).unwrap();

    // The source makes frames of zeros as fast as the switch takes them.
    add_dpdk_port(&daemon, "source", "net_null1,size=200,copy=1");
    for frame in receive(&mut guest, 1000) {
        assert_eq!(frame, [0; 200]);
    }
    daemon.ok(&["del-port", "br0", "source"]).unwrap();
    let balance = daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");
}

/// Whom the guest pings.
struct Neighbour {
    mac: [u8; 6],
    address: [u8; 4],
}

const GUEST_ADDRESS: [u8; 4] = [10, 0, 9, 1];

fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(GUEST_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC);
    frame.extend(GUEST_ADDRESS);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

fn echo_request(to: &Neighbour, payload: usize) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    icmp.extend((0..payload).map(|index| index as u8));
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let length = ((20 + icmp.len()) as u16).to_be_bytes();
    let mut ip = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, 1, 0, 0];
    ip.extend(GUEST_ADDRESS);
    ip.extend(to.address);
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let mut frame = to.mac.to_vec();
    frame.extend(GUEST_MAC);
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend(icmp);
    frame
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The first frame for which `wanted` holds.
fn receive_matching(guest: &mut NetDriver, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let begin = Instant::now();
    while begin.elapsed() < LIMIT {
        if let Some(frame) = guest.recv_within(0, LIMIT).filter(|frame| wanted(frame)) {
            return Some(frame);
        }
    }
    None
}

#[test]
fn a_guest_pings_a_linux_host_through_af_packet() {
    let alone = machine::exclusive().unwrap();
    let veth = VethPair::new("10.0.9.2/24").unwrap();
    drop(alone);
    let (daemon, _alone) = bridge(DaemonOptions {
        namespace: Some(veth.switch.name().to_owned()),
        ..DaemonOptions::default()
    });
    let mut guest = guest(&daemon, "vm1");
    let devargs = format!("net_af_packet0,iface={}", VethPair::SWITCH_DEVICE);
    add_dpdk_port(&daemon, "p0", &devargs);

    // The host's kernel answers both.
    let address = [10, 0, 9, 2];
    send(&mut guest, &[arp_request(address)]);
    let reply = receive_matching(&mut guest, |frame| {
        frame[..6] == GUEST_MAC && frame[12..14] == [8, 6] && frame[20..22] == [0, 2]
    })
    .expect("no ARP reply");
    let mac = reply[22..28].try_into().unwrap();
    let link = veth
        .neighbour
        .ip(&["link", "show", VethPair::NEIGHBOUR_DEVICE])
        .unwrap();
    assert!(link.contains(&text(mac)), "{} is not in {link}", text(mac));

    let host = Neighbour { mac, address };
    for payload in [56, 1400] {
        let request = echo_request(&host, payload);
        send(&mut guest, std::slice::from_ref(&request));
        let reply = receive_matching(&mut guest, |frame| {
            frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0
        })
        .expect("no echo reply");
        assert_eq!(reply.len(), request.len());
        assert_eq!(reply[38..], request[38..], "the payload came back changed");
    }
    let fdb = daemon.ok(&["fdb", "show", "br0"]).unwrap();
    assert!(fdb.contains(&text(mac)), "the host was not learned:\n{fdb}");
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn a_device_that_cannot_be_opened_is_reported_and_retried() {
    let (daemon, _alone) = bridge(DaemonOptions::default());
    let input = daemon.path("later.pcap");
    let sent = daemon.path("sent.pcap");
    let devargs = format!(
        "devargs=net_pcap0,rx_pcap={},tx_pcap={}",
        input.display(),
        sent.display()
    );
    let complaint = daemon
        .fails(&["add-port", "br0", "p0", "type=dpdk", &devargs])
        .unwrap();
    assert!(complaint.contains("p0"), "{complaint}");
    assert!(
        !daemon.as_desired().unwrap(),
        "show must exit with an error while desired and actual differ"
    );
    copy(&capture(), &input);
    daemon.wait_state("p0", "forwarding").unwrap();
    assert!(daemon.as_desired().unwrap());
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}
