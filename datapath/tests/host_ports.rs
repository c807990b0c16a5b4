//! A datapath between interfaces of the kernel: a bridge's own interface, taps of
//! ours, a veth; in network namespaces of the test's own.
//!
//! One test: DPDK can be started once per process.

use std::net::UdpSocket;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use ringway_datapath::spec::*;
use ringway_datapath::status::{LINK_DOWN, PortState, PortStatus};
use ringway_datapath::{Datapath, DatapathError, DropReason};
use ringway_flow::rule::{Change, FlowCommand};
use ringway_flow::text::{self, NoNames};

/// How long something may take at the most that takes no time to speak of.
const LIMIT: Duration = Duration::from_secs(20);

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output();
    let output = output.expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn port(datapath: &Datapath, name: &str) -> PortStatus {
    let mut ports = datapath.ports().into_iter();
    ports.find(|port| port.name == name).expect("the port")
}

/// Another network namespace, with a thread that runs commands there.
struct Neighbour {
    say: mpsc::Sender<String>,
    answers: mpsc::Receiver<String>,
}

impl Neighbour {
    /// Moves interface `name` there and gives it an address.
    fn with(name: &str, address: &str) -> Self {
        let (say, said) = mpsc::channel::<String>();
        let (answer, answers) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("another namespace");
            answer.send(gettid().to_string()).expect("told");
            for command in said {
                answer.send(sh(&command)).expect("told");
            }
        });
        let there = answers.recv().expect("it has a namespace");
        sh(&format!("ip link set {name} netns {there}"));
        let neighbour = Self { say, answers };
        neighbour.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip link set lo up");
        neighbour.sh(&format!(
            "ip addr add {address}/24 dev {name}; ip link set {name} up"
        ));
        neighbour
    }

    fn sh(&self, command: &str) -> String {
        self.say.send(command.to_owned()).expect("it listens");
        self.answers.recv().expect("it answers")
    }
}

fn rules(datapath: &Datapath, rules: &[&str]) {
    let delete = text::parse_flow("", FlowCommand::Delete, &NoNames);
    let delete = Change::Flow(
        FlowCommand::Delete,
        Box::new(delete.expect("all flows").value),
    );
    let add = |text: &&str| {
        let flow = text::parse_flow(text, FlowCommand::Add, &NoNames).expect("a flow");
        Change::Flow(FlowCommand::Add, Box::new(flow.value))
    };
    let changes: Vec<Change> = std::iter::once(delete)
        .chain(rules.iter().map(add))
        .collect();
    let changed = datapath.change_flows("br0", &changes, &mut || Ok(()));
    changed.expect("rules");
}

const PING: &str = "ping -c3 -i0.05 -W2 10.9.0.2 >/dev/null && echo yes || echo no";

fn internal(name: &str) -> PortSpec {
    PortSpec::new(name, "br0", PortKind::Internal(InternalSpec::default()))
}

#[test]
fn a_bridge_between_interfaces_of_the_kernel() {
    let test = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run this as root");
        whole_story();
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

fn whole_story() {
    sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip link set lo up");
    let cores = core_affinity::get_core_ids().expect("cores");
    let datapath = Datapath::start(DatapathConfig {
        pmd_cores: vec![cores.last().expect("a core").id],
        hugepages: Hugepages::Off,
        memory_mib: 64,
        ..DatapathConfig::default()
    })
    .expect("the datapath starts");
    datapath.add_bridge(BridgeSpec::new("br0")).expect("bridge");

    // The bridge's own interface, and a veth whose other end is elsewhere.
    assert_eq!(datapath.add_port(internal("br0")).expect("br0"), 1023);
    sh("ip link add v0 type veth peer name v1; ip link set v0 up");
    let veth = PortSpec::new("v0", "br0", PortKind::System(SystemSpec::default()));
    assert_eq!(datapath.add_port(veth.clone()).expect("v0"), 1);
    let far = Neighbour::with("v1", "10.9.0.2");
    sh("ip addr add 10.9.0.1/24 dev br0; ip link set br0 up");
    assert_eq!(sh(PING).trim(), "yes");
    let own = port(&datapath, "br0");
    assert!(own.local && own.kind == "internal" && own.state == PortState::Forwarding);
    let link = own.link.expect("it is there");
    assert!(link.admin_up && link.link_up && link.via == "tap");
    assert!(own.counters.rx_packets >= 3 && own.counters.tx_packets >= 3);
    let link = port(&datapath, "v0").link.expect("there");
    assert_eq!(link.via, "af_packet");
    assert_eq!(link.speed_mbps, Some(10_000), "as a veth's driver tells it");
    let asleep = || datapath.pmds()[0].sleeping;
    wait_for("the core to sleep", asleep);
    assert_eq!(sh(PING).trim(), "yes", "a core that sleeps is woken");

    // Flows know it as LOCAL, whatever its number is.
    rules(
        &datapath,
        &["in_port=LOCAL,actions=1", "in_port=1,actions=LOCAL"],
    );
    assert_eq!(sh(PING).trim(), "yes");
    rules(
        &datapath,
        &["in_port=1023,actions=1", "in_port=1,actions=LOCAL"],
    );
    assert_eq!(sh(PING).trim(), "no", "1023 is not what flows call it");
    rules(
        &datapath,
        &["in_port=LOCAL,actions=FLOOD", "in_port=1,actions=NORMAL"],
    );
    assert_eq!(sh(PING).trim(), "yes");
    let asked = text::parse_match("in_port=1,dl_dst=ff:ff:ff:ff:ff:ff", &NoNames);
    let asked = asked.expect("a match").value;
    let traced = datapath.trace("br0", &asked, None, false).expect("a trace");
    assert!(
        traced.contains("Datapath actions: br0") && !traced.contains("1023"),
        "{traced}"
    );
    rules(&datapath, &["actions=NORMAL"]);

    // A packet from the control plane.
    let actions = text::parse_actions("LOCAL", &NoNames).expect("actions");
    let before = port(&datapath, "br0").counters.tx_packets;
    let sent = datapath.packet_out("br0", 0xfffd, &actions, &[0; 60]);
    sent.expect("sent");
    assert_eq!(port(&datapath, "br0").counters.tx_packets, before + 1);

    // What can be changed while it runs, and what not.
    let mut changed = internal("br0");
    changed.mtu = Some(9000);
    changed.kind = PortKind::Internal(InternalSpec {
        mac: Some([2, 0, 0, 0, 0, 9]),
        queues: 1,
    });
    datapath.set_port(changed.clone()).expect("MTU and address");
    let link = port(&datapath, "br0").link.expect("it is there");
    assert_eq!((link.mtu, link.mac), (9000, Some([2, 0, 0, 0, 0, 9])));
    assert!(sh("ip link show br0").contains("mtu 9000"));
    changed.kind = PortKind::Internal(InternalSpec {
        mac: None,
        queues: 2,
    });
    let refused = datapath.set_port(changed);
    assert!(
        matches!(refused, Err(DatapathError::NotLive { .. })),
        "{refused:?}"
    );
    far.sh("ip link set v1 mtu 9000");
    datapath
        .set_port(PortSpec {
            mtu: Some(9000),
            ..veth.clone()
        })
        .expect("MTU");
    let big = "ping -c1 -W2 -M do -s 8972 10.9.0.2 >/dev/null && echo yes || echo no";
    wait_for("the neighbour by its new address", || {
        sh(PING).trim() == "yes"
    });
    assert_eq!(sh(big).trim(), "yes");

    // Without the option the device has the MTU again that it had before.
    datapath.set_port(veth.clone()).expect("no MTU");
    assert_eq!(port(&datapath, "v0").link.expect("there").mtu, 1500);
    assert_eq!(sh(big).trim(), "no");
    let drops = port(&datapath, "v0").counters.tx_drops;
    assert_eq!(drops, [(DropReason::ExceedsMtu, 1)], "{drops:?}");
    let again = PortSpec {
        mtu: Some(9000),
        ..veth.clone()
    };
    datapath.set_port(again).expect("MTU");
    assert_eq!(sh(big).trim(), "yes");

    // What the kernel refuses is told as dropped, not as delivered.
    let device = datapath.port_device_counters("br0").expect("counters");
    assert!(
        device
            .iter()
            .any(|(name, n)| name == "tx_packets" && *n > 0)
    );
    sh("ip link set br0 down");
    let before = port(&datapath, "br0").counters;
    far.sh("ping -c2 -i0.05 -W1 10.9.0.1 >/dev/null; true");
    let told = |port: &PortStatus| {
        let mut drops = port.counters.tx_drops.iter();
        let down = drops.find(|(reason, _)| *reason == DropReason::HostLinkDown);
        down.map_or(0, |(_, n)| *n)
    };
    wait_for("refusals", || told(&port(&datapath, "br0")) > 0);
    let after = port(&datapath, "br0");
    assert_eq!(after.counters.tx_packets, before.tx_packets);
    assert!(!after.link.expect("there").admin_up);
    let reason = after.state.reason();
    assert_eq!(after.state.name(), "link-down");
    assert!(reason.contains("ip link set dev br0 up"), "{reason}");
    sh("ip link set br0 up");
    assert_eq!(port(&datapath, "br0").state, PortState::Forwarding);
    far.sh("ip link set v1 down");
    let state = port(&datapath, "v0").state;
    assert!(matches!(state, PortState::LinkDown { .. }), "{state:?}");
    far.sh("ip link set v1 up");
    wait_for("it to be up again", || sh(PING).trim() == "yes");

    // Another internal port, with an end in the same stack.
    let number = datapath.add_port(internal("inner")).expect("inner");
    assert_eq!(number, 2);
    let inner = Neighbour::with("inner", "10.9.0.3");
    let answered = inner.sh(PING);
    assert_eq!(answered.trim(), "yes");
    assert!(!port(&datapath, "inner").local);
    assert_eq!(port(&datapath, "inner").state, PortState::Forwarding);

    // Datagrams to a port that nobody listens at come back as errors: both ways work.
    let socket = UdpSocket::bind("10.9.0.1:0").expect("bind");
    socket.connect("10.9.0.3:9").expect("connect");
    socket.set_read_timeout(Some(LIMIT)).expect("timeout");
    // Longer than the other's MTU: it is dropped there, and counted.
    socket.send(&[1; 3000]).expect("send");
    wait_for("a frame that is too long", || {
        let drops = port(&datapath, "inner").counters.tx_drops;
        drops.contains(&(DropReason::ExceedsMtu, 1))
    });
    socket.send(&[1; 1400]).expect("send");
    let refused = socket.recv(&mut [0; 8]).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    // It is deleted behind our back, and made anew.
    inner.sh("ip link del inner");
    wait_for("that to be noticed", || {
        matches!(port(&datapath, "inner").state, PortState::Failed { .. })
    });
    datapath.del_port("inner").expect("removed");
    datapath.add_port(internal("inner")).expect("again");
    assert!(sh("ip link show inner").contains("inner"));
    datapath.del_port("inner").expect("removed");
    assert!(sh("ip link").contains("br0") && !sh("ip link").contains("inner"));

    // A tap for a machine.
    let tap = PortKind::Tap(TapSpec::default());
    datapath
        .add_port(PortSpec::new("tp0", "br0", tap))
        .expect("tap");
    assert!(sh("ip link show tp0").contains("tp0"));
    let unopened = port(&datapath, "tp0").state;
    assert!(
        matches!(&unopened, PortState::Waiting { state: LINK_DOWN, why } if why.contains("nobody")),
        "{unopened:?}"
    );
    datapath.del_port("tp0").expect("removed");
    assert!(!sh("ip link").contains("tp0"));
    let nowhere = PortKind::System(SystemSpec::default());
    let missing = datapath.add_port(PortSpec::new("nowhere", "br0", nowhere));
    assert!(
        matches!(missing, Err(DatapathError::Unavailable { .. })),
        "{missing:?}"
    );

    // Removed, the interface is the host's own again; stopped, ours stays.
    datapath.del_port("v0").expect("removed");
    sh("ip addr flush dev br0; ip addr add 10.9.0.1/24 dev v0");
    assert_eq!(sh(PING).trim(), "yes");
    sh("ip addr flush dev v0; ip addr add 10.9.0.1/24 dev br0");
    let pmd = &datapath.pmds()[0].counters;
    let dropped: u64 = pmd.dropped.iter().map(|(_, n)| n).sum();
    assert_eq!(pmd.received + pmd.replicated, pmd.transmitted + dropped);
    datapath.stop();
    assert!(sh("ip addr show br0").contains("10.9.0.1/24"));
}
