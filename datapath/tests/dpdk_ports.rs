//! Ports on DPDK's virtual devices: options, links, counters, frames.
//!
//! Those on kernel interfaces run in a network namespace of their own, which a
//! process enters before it has threads: the outer test runs this program again,
//! under `unshare`, with the inner test.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dpdk::Eal;
use ringway_datapath::spec::{
    BridgeSpec, DatapathConfig, DpdkSpec, PortKind, PortSpec, SocketMode, VhostUserSpec,
};
use ringway_datapath::status::{PortState, PortStatus};
use ringway_datapath::{Datapath, DatapathError, DropReason};

/// Says to the inner tests that they are in the namespace.
const INSIDE: &str = "RINGWAY_TEST_NAMESPACE";

fn datapath(cores: &[usize]) -> Datapath {
    let config = DatapathConfig {
        pmd_cores: cores.to_vec(),
        flow_limit: 1024,
        emc_entries: 1024,
        ..DatapathConfig::default()
    };
    let datapath = Datapath::start_on(Eal::for_tests(), config).unwrap();
    datapath.add_bridge(BridgeSpec::new("br0")).unwrap();
    datapath
}

/// A device name of its own for every test: they share one EAL.
fn device(driver: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{driver}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A DPDK port with few descriptors, for tests share little memory.
fn port(name: &str, bridge: &str, devargs: impl Into<String>) -> (PortSpec, DpdkSpec) {
    let options = DpdkSpec {
        rx_descriptors: 256,
        tx_descriptors: 256,
        ..DpdkSpec::new(devargs)
    };
    let kind = PortKind::Dpdk(options.clone());
    (PortSpec::new(name, bridge, kind), options)
}

fn status(datapath: &Datapath, name: &str) -> PortStatus {
    let ports = datapath.ports();
    let mut found = ports.into_iter().filter(|port| port.name == name);
    found.next().unwrap_or_else(|| panic!("no port {name}"))
}

fn detail(status: &PortStatus, name: &str) -> String {
    let mut found = status.details.iter().filter(|(detail, _)| detail == name);
    let (_, value) = found.next().unwrap_or_else(|| panic!("{status:?}: {name}"));
    value.clone()
}

/// Waits until `what` holds, but not for ever.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now();
    while !holds() {
        assert!(
            patience.elapsed() < Duration::from_secs(10),
            "never: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_port_has_what_its_options_say() {
    let datapath = datapath(&[0, 1]);
    let (mut spec, options) = port("p0", "br0", device("net_null"));
    spec.mtu = Some(9000);
    spec.kind = PortKind::Dpdk(DpdkSpec {
        rx_queues: 2,
        tx_queues: Some(3),
        tx_descriptors: 512,
        ..options
    });
    datapath.add_port(spec).unwrap();
    let p0 = status(&datapath, "p0");
    assert_eq!(p0.state, PortState::Forwarding);
    for (name, value) in [
        ("driver", "net_null"),
        ("rx_queues", "2"),
        ("tx_queues", "3"),
        ("rx_descriptors", "256"),
        ("tx_descriptors", "512"),
        ("rss", "ip tcp udp"),
        ("mtu", "9000"),
        ("max_mtu", "9702"),
        ("tx_offloads", "none"),
    ] {
        assert_eq!(detail(&p0, name), value, "{name}");
    }
    let link = p0.link.clone().unwrap();
    assert_eq!((link.mtu, link.link_up, link.via), (9000, true, "dpdk"));
    // Each queue has its core, and both are polled: a null device never ends.
    let mut cores: Vec<_> = p0.queues.iter().map(|queue| queue.pmd_core).collect();
    cores.sort();
    assert_eq!(cores, [Some(0), Some(1)]);
    wait_for("packets from both queues", || {
        let p0 = status(&datapath, "p0");
        p0.queues.iter().all(|queue| queue.counters.rx_packets > 0)
    });
    let counters = datapath.port_device_counters("p0").unwrap();
    let received = counters.iter().find(|(name, _)| name == "rx_good_packets");
    assert!(received.unwrap().1 > 0);
    datapath.del_port("p0").unwrap();
}

#[test]
fn the_core_count_decides_how_many_transmit_queues() {
    let datapath = datapath(&[0, 1]);
    let (spec, _) = port("p0", "br0", device("net_null"));
    datapath.add_port(spec).unwrap();
    let p0 = status(&datapath, "p0");
    assert_eq!(detail(&p0, "tx_queues"), "2");
}

#[test]
fn options_that_no_device_has_are_refused_and_nothing_stays() {
    let datapath = datapath(&[0]);
    let name = device("net_null");
    let refused = |change: &dyn Fn(&mut PortSpec, &mut DpdkSpec)| {
        let (mut spec, mut options) = port("p0", "br0", &name);
        change(&mut spec, &mut options);
        spec.kind = PortKind::Dpdk(options);
        match datapath.add_port(spec).unwrap_err() {
            DatapathError::BadOption { port, why } => {
                assert_eq!(port, "p0");
                why
            }
            other => panic!("{other}"),
        }
    };
    let why = refused(&|_, options| options.rx_queues = 0);
    assert!(why.starts_with("n_rxq=0"), "{why}");
    let why = refused(&|_, options| options.tx_queues = Some(0));
    assert!(why.starts_with("n_txq=0"), "{why}");
    let why = refused(&|_, options| options.tx_descriptors = 0);
    assert!(why.starts_with("n_txq_desc=0"), "{why}");
    let why = refused(&|_, options| options.rx_queues = 2000);
    assert!(why.contains("2000 receive queues"), "{why}");
    let why = refused(&|spec, _| spec.mtu = Some(9703));
    assert!(why.contains("9703") && why.contains("to 9702 is"), "{why}");
    let (spec, _) = port("p0", "br0", &name);
    datapath.add_port(spec).unwrap();
}

#[test]
fn the_mtu_of_a_running_port_changes() {
    let datapath = datapath(&[0]);
    let (mut spec, _) = port("p0", "br0", device("net_ring"));
    datapath.add_port(spec.clone()).unwrap();
    assert_eq!(detail(&status(&datapath, "p0"), "mtu"), "1500");
    spec.mtu = Some(9000);
    datapath.set_port(spec.clone()).unwrap();
    assert_eq!(detail(&status(&datapath, "p0"), "mtu"), "9000");
    spec.mtu = Some(20);
    let error = datapath.set_port(spec.clone()).unwrap_err().to_string();
    assert!(error.contains("an MTU of 20 is not possible"), "{error}");
    assert_eq!(detail(&status(&datapath, "p0"), "mtu"), "9000");
    spec.mtu = None;
    assert!(matches!(
        datapath.set_port(spec),
        Err(DatapathError::NotLive { .. })
    ));
}

/// A classic pcap file.
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [1_700_000_000, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).unwrap();
}

fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let stored = word(at + 8);
        frames.push(file[at + 16..at + 16 + stored].to_vec());
        at += 16 + stored;
    }
    frames
}

/// Broadcast frames of many sizes.
fn frames(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| {
            let len = 60 + number * 1454 / count;
            let mut frame: Vec<u8> = (0..len).map(|i| (i * 31 + number * 17) as u8).collect();
            frame[..6].fill(0xff);
            frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            frame
        })
        .collect()
}

/// A capture goes through one bridge into a virtio-user device, whose other end
/// is the socket of a guest's port on another bridge, and into a capture there.
#[test]
fn a_virtio_user_device_is_a_guest_of_ours() {
    let datapath = datapath(&[0]);
    datapath.add_bridge(BridgeSpec::new("br1")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let frames = frames(200);
    write_pcap(&path("in.pcap"), &frames);
    write_pcap(&path("empty.pcap"), &[]);

    let vm = PortKind::VhostUser(VhostUserSpec {
        path: path("vm.sock"),
        mode: SocketMode::Server,
        queues: 1,
        owner: None,
        permissions: None,
        features: ringway_datapath::spec::GUEST_FEATURES,
    });
    datapath.add_port(PortSpec::new("vm", "br1", vm)).unwrap();
    let out = format!(
        "{},rx_pcap={},tx_pcap={}",
        device("net_pcap"),
        path("empty.pcap").display(),
        path("out.pcap").display()
    );
    datapath.add_port(port("out", "br1", out).0).unwrap();
    let user = format!(
        "{},path={},queue_size=1024",
        device("net_virtio_user"),
        path("vm.sock").display()
    );
    datapath.add_port(port("user", "br0", user).0).unwrap();
    let state = |name: &str| status(&datapath, name).state;
    wait_for("the guest's port forwards", || {
        state("vm") == PortState::Forwarding
    });
    assert_eq!(state("user"), PortState::Forwarding);
    let user = status(&datapath, "user");
    assert_eq!(detail(&user, "driver"), "net_virtio_user");
    // Partial checksums may go to it, but never come from it.
    let vm = status(&datapath, "vm");
    let features = detail(&vm, "features");
    assert!(
        features.contains(" CSUM") || features.starts_with("CSUM"),
        "{features}"
    );
    assert!(!features.contains("GUEST_CSUM"), "{features}");

    let input = format!(
        "{},rx_pcap={},tx_pcap={}",
        device("net_pcap"),
        path("in.pcap").display(),
        path("none.pcap").display()
    );
    datapath.add_port(port("in", "br0", input).0).unwrap();
    wait_for("all frames are through", || {
        status(&datapath, "out").counters.tx_packets == 200
    });
    datapath.del_port("out").unwrap();
    assert!(read_pcap(&path("out.pcap")) == frames);

    // Its other end goes away: the link is down, the port stays.
    let number = user.number;
    assert_eq!(detail(&user, "link_changes"), "interrupt");
    datapath.del_port("vm").unwrap();
    wait_for("the link is down", || {
        matches!(state("user"), PortState::LinkDown { .. })
    });
    assert_eq!(status(&datapath, "user").number, number);
}

fn in_namespace(test: &str) {
    let output = Command::new("unshare")
        .arg("--net")
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

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "ip {arguments}");
}

#[test]
fn a_port_whose_link_is_down_stays_and_comes_back() {
    in_namespace("inner_link");
}

#[test]
#[ignore = "run by a_port_whose_link_is_down_stays_and_comes_back"]
fn inner_link() {
    assert_inside();
    let datapath = datapath(&[0]);
    let (spec, _) = port("tap", "br0", "net_tap0,iface=rwtap0");
    let number = datapath.add_port(spec).unwrap();
    let state = || status(&datapath, "tap").state;
    wait_for("up", || state() == PortState::Forwarding);
    let up = status(&datapath, "tap");
    assert_eq!(
        detail(&up, "tx_offloads"),
        "ip-cksum tcp-cksum udp-cksum multi-segs"
    );

    ip("link set rwtap0 down");
    wait_for("down", || matches!(state(), PortState::LinkDown { .. }));
    let down = status(&datapath, "tap");
    assert!(down.state.reason().contains("the link of net_tap0 is down"));
    assert_eq!((down.state.name(), down.number), ("link-down", number));
    assert!(down.since > up.since);
    assert!(!down.link.unwrap().link_up);
    // A frame for it is not sent later on, and is counted.
    let (source, _) = port("null", "br0", "net_null0");
    datapath.add_port(source).unwrap();
    wait_for("no port is left to flood to", || {
        let drops = status(&datapath, "null").counters.rx_drops;
        drops
            .iter()
            .any(|(reason, _)| *reason == DropReason::NoDestination)
    });

    ip("link set rwtap0 up");
    wait_for("up", || state() == PortState::Forwarding);
    wait_for("frames are sent again", || {
        status(&datapath, "tap").counters.tx_packets > 0
    });
    assert_eq!(status(&datapath, "tap").number, number);
}

#[test]
fn queues_of_a_tap_and_frames_over_af_xdp() {
    in_namespace("inner_queues");
}

#[test]
#[ignore = "run by queues_of_a_tap_and_frames_over_af_xdp"]
fn inner_queues() {
    assert_inside();
    let datapath = datapath(&[0, 1]);
    let (mut spec, options) = port("tap", "br0", "net_tap0,iface=rwtap0");
    spec.kind = PortKind::Dpdk(DpdkSpec {
        rx_queues: 2,
        ..options
    });
    datapath.add_port(spec).unwrap();
    let tap = status(&datapath, "tap");
    // It wants as many transmit queues as receive queues.
    assert_eq!(detail(&tap, "tx_queues"), "2");
    datapath.del_port("tap").unwrap();

    if !Eal::for_tests().drivers().contains(&"net_af_xdp") {
        return;
    }
    ip("link add left type veth peer name right");
    ip("link set left up");
    ip("link set right up");
    datapath.add_bridge(BridgeSpec::new("br1")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let frames = frames(100);
    write_pcap(&path("in.pcap"), &frames);
    write_pcap(&path("empty.pcap"), &[]);
    let capture = |name: &str, input: &str, output: &str| {
        let (input, output) = (path(input), path(output));
        format!(
            "{name},rx_pcap={},tx_pcap={}",
            input.display(),
            output.display()
        )
    };
    let add = |name: &str, bridge: &str, devargs: String| {
        datapath.add_port(port(name, bridge, devargs).0).unwrap();
    };
    add("left", "br0", "net_af_xdp0,iface=left".to_owned());
    add("right", "br1", "net_af_xdp1,iface=right".to_owned());
    add("out", "br1", capture("net_pcap1", "empty.pcap", "out.pcap"));
    add("in", "br0", capture("net_pcap0", "in.pcap", "none.pcap"));
    wait_for("all frames are through", || {
        status(&datapath, "out").counters.tx_packets >= 100
    });
    datapath.del_port("out").unwrap();
    let mut out = read_pcap(&path("out.pcap"));
    // The kernel's own frames are there too.
    out.retain(|frame| frame[12..14] == [0x88, 0xb5]);
    assert!(out == frames);
    let link = status(&datapath, "left").link.unwrap();
    assert_eq!(link.via, "af_xdp");
    assert!(link.ifindex.is_some());

    // What becomes of the interfaces is seen.
    let state = |name: &str| status(&datapath, name).state;
    ip("link set right down");
    wait_for("both ends are down", || {
        let down = |state| matches!(state, PortState::LinkDown { .. });
        down(state("left")) && down(state("right"))
    });
    ip("link set right up");
    wait_for("both are up", || {
        state("left") == PortState::Forwarding && state("right") == PortState::Forwarding
    });
    ip("link del left");
    wait_for("left is gone", || match state("left") {
        PortState::Failed { why } => why.contains("the interface left is gone"),
        _ => false,
    });
    datapath.del_port("left").unwrap();
}
