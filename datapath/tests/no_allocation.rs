//! A PMD core must not allocate while it forwards. Two scripted guests
//! exchange frames through a running datapath; an allocator that counts what
//! the PMD's thread asks for must count nothing.

#![allow(unsafe_code)]
// UNSAFETY: a global allocator is an unsafe trait; this one counts and
// hands on to the system's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringway_datapath::spec::{
    BridgeSpec, DatapathConfig, GuardSpec, PatchSpec, PortKind, PortSpec, RateSpec, SocketMode,
    VhostUserSpec,
};
use ringway_datapath::{Datapath, DropReason};
use ringway_flow::rule::{Change, FlowCommand};
use ringway_flow::text::{self, NoNames};
use ringway_frontend::{NetDriver, Session, SessionConfig};

/// Thread whose allocations are counted; 0 for none.
static WATCHED: AtomicI32 = AtomicI32::new(0);
static COUNTED: AtomicU64 = AtomicU64::new(0);

struct Counting;

fn count() {
    let watched = WATCHED.load(Ordering::Relaxed);
    // SAFETY: gettid has no preconditions.
    if watched != 0 && unsafe { libc::gettid() } == watched {
        COUNTED.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn pmd_thread() -> i32 {
    for entry in std::fs::read_dir("/proc/self/task").expect("threads") {
        let path = entry.expect("thread").path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("pmd-") {
            let id = path.file_name().and_then(|id| id.to_str());
            return id.and_then(|id| id.parse().ok()).expect("a thread id");
        }
    }
    panic!("no PMD thread");
}

fn frame(to: u8, from: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0];
    frame.resize(len, 0x5a);
    frame
}

fn exchange(a: &mut NetDriver, b: &mut NetDriver, rounds: usize) {
    for round in 0..rounds {
        let len = 60 + (round * 37) % 1400;
        for (from, to, sent) in [(1, 2, frame(2, 1, len)), (2, 1, frame(1, 2, len))] {
            let (sender, receiver) = if from == 1 {
                (&mut *a, &mut *b)
            } else {
                (&mut *b, &mut *a)
            };
            assert!(sender.send(0, &sent), "{from} → {to}: no room");
            let got = receiver.recv_within(0, Duration::from_secs(10));
            assert_eq!(got.as_deref(), Some(&sent[..]), "{from} → {to}");
        }
    }
}

/// Rules in several tables that look at what each flow has of its own, rewrite,
/// replicate, meter and tell controllers.
const RULES: [&str; 8] = [
    "priority=9,udp,in_port=1,actions=set_field:5->reg1,mod_nw_dst:192.0.2.9,resubmit(,1),goto_table:2",
    "priority=9,udp,in_port=2,actions=group:1",
    "table=1,priority=5,udp,reg1=5,nw_dst=192.0.2.0/24,actions=meter:1,push_vlan:0x8100,set_field:4101->vlan_vid,output:2,pop_vlan",
    "table=1,priority=4,tp_src=1/0x1,udp,actions=drop",
    "table=2,priority=7,udp,tp_src=7,actions=drop",
    "table=2,priority=6,udp,tp_src=0x200/0x200,actions=dec_ttl,mod_tp_dst:99,output:2",
    "table=2,priority=5,udp,actions=dec_ttl,mod_tp_dst:77,controller:64,output:2",
    "table=2,priority=1,actions=NORMAL",
];

fn add_rules(datapath: &Datapath, rules: &[&str]) {
    let add = |text: &&str| {
        let flow = text::parse_flow(text, FlowCommand::Add, &NoNames).expect("a flow");
        Change::Flow(FlowCommand::Add, Box::new(flow.value))
    };
    let changes: Vec<Change> = rules.iter().map(add).collect();
    let changed = datapath.change_flows("br0", &changes, &mut || Ok(()));
    changed.expect("rules");
}

/// A UDP packet without a checksum, from 10.0.0.1 to 10.0.0.2.
fn udp(source: u16) -> Vec<u8> {
    let mut udp = frame(2, 1, 14);
    udp.extend([
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0x66, 0xc3, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    udp.extend(source.to_be_bytes());
    udp.extend([0, 53, 0, 20, 0, 0]);
    udp.resize(54, 0x5a);
    udp
}

/// New flows from `a`, each packet of which comes to `b` twice: in a VLAN and
/// rewritten once more; and one packet each the other way.
/// The flow whose frame did not arrive, if any.
fn exchange_flows(
    a: &mut NetDriver,
    b: &mut NetDriver,
    flows: std::ops::Range<u16>,
) -> Result<(), String> {
    for source in flows {
        let lost = |way| format!("flow {source}: nothing came from {way}");
        let mut sent = udp(source);
        assert!(a.send(0, &sent));
        let mut receive = || {
            let got = b.recv_within(0, Duration::from_secs(10));
            got.ok_or_else(|| lost("a to b"))
        };
        let (first, second) = (receive()?, receive()?);
        assert_eq!(first[12..18], [0x81, 0, 0, 5, 8, 0], "flow {source}");
        assert_eq!(first[34..38], [192, 0, 2, 9], "flow {source}");
        assert_eq!(second[22], 63, "flow {source}");
        let port = if source & 0x200 != 0 { 99 } else { 77 };
        assert_eq!(second[36..38], [0, port], "flow {source}");

        sent.swap(5, 11);
        assert!(b.send(0, &sent));
        let got = a.recv_within(0, Duration::from_secs(10));
        let got = got.ok_or_else(|| lost("b to a"))?;
        assert_eq!(got[6..12], [2, 0, 0, 0, 0, 0xaa], "flow {source}");
    }
    Ok(())
}

fn vhost_user(folder: &Path, name: &str, bridge: &str) -> PortSpec {
    let options = VhostUserSpec {
        path: folder.join(name),
        mode: SocketMode::Server,
        queues: 1,
        owner: None,
        permissions: None,
    };
    PortSpec::new(name, bridge, PortKind::VhostUser(options))
}

/// Adds a port with a guest.
fn guest(datapath: &Datapath, folder: &Path, spec: PortSpec) -> NetDriver {
    let path = folder.join(&spec.name);
    datapath.add_port(spec).expect("port");
    let session = Session::connect_within(&path, Duration::from_secs(10)).expect("socket");
    let guest = session.bring_up(&SessionConfig::default()).expect("guest");
    NetDriver::new(guest).expect("driver")
}

fn wait_until_all_forward(datapath: &Datapath) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while datapath
        .ports()
        .iter()
        .any(|port| port.state.name() != "forwarding")
    {
        assert!(Instant::now() < deadline, "{:?}", datapath.ports());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Adds a bridge behind a pair of patch ports, with a guest in the VLAN that
/// vm1 is in from now on. vm1 has a guard then, too.
fn another_bridge(datapath: &Datapath, folder: &Path) -> NetDriver {
    let patch = |name: &str, bridge: &str, peer: &str| {
        let peer = peer.to_owned();
        PortSpec::new(name, bridge, PortKind::Patch(PatchSpec { peer }))
    };
    let state = |name: &str| {
        let ports = datapath.ports();
        let port = ports.into_iter().find(|port| port.name == name);
        port.expect("the patch port").state
    };
    datapath.add_bridge(BridgeSpec::new("br1")).expect("bridge");
    let mut to_br1 = patch("to-br1", "br0", "to-br0");
    let number = datapath.add_port(to_br1.clone()).expect("patch port");
    assert_eq!(state("to-br1").name(), "waiting-for-peer");
    datapath
        .add_port(patch("to-br0", "br1", "to-br1"))
        .expect("its peer");
    for end in ["to-br1", "to-br0"] {
        assert_eq!(state(end).name(), "forwarding");
    }
    // Without its peer it waits again, and says why.
    datapath.del_port("to-br0").expect("its peer");
    let waits = format!("{:?}", state("to-br1"));
    assert!(waits.contains("there is no port to-br0"), "{waits}");
    datapath
        .add_port(patch("to-br0", "br1", "to-br1"))
        .expect("its peer");
    to_br1.number = Some(number);
    to_br1.vlan.trunks = vec![7, 10];
    datapath.set_port(to_br1).expect("a trunk");
    let mut vm1 = vhost_user(folder, "vm1", "br0");
    vm1.vlan.tag = Some(10);
    vm1.guard = GuardSpec {
        allowed_macs: vec![[2, 0, 0, 0, 0, 1]],
        allowed_vlans: vec![0],
        ingress_kpkts: RateSpec {
            rate: 1_000_000,
            burst: 1_000,
        },
        ..GuardSpec::default()
    };
    datapath.set_port(vm1).expect("an access port");
    let mut vm3 = vhost_user(folder, "vm3", "br1");
    vm3.vlan.tag = Some(10);
    guest(datapath, folder, vm3)
}

#[test]
fn forwarding_allocates_nothing_on_the_pmd() {
    let core = core_affinity::get_core_ids()
        .and_then(|cores| cores.last().map(|core| core.id))
        .expect("a CPU");
    let datapath = Datapath::start_on(
        dpdk::Eal::for_tests(),
        DatapathConfig {
            pmd_cores: vec![core],
            // Polling without sleep: what is measured is forwarding.
            sleep_after: Duration::ZERO,
            ..DatapathConfig::default()
        },
    )
    .expect("datapath");
    let folder = tempfile::tempdir().expect("folder");
    datapath.add_bridge(BridgeSpec::new("br0")).expect("bridge");
    let [mut a, mut b] = ["vm1", "vm2"].map(|name| {
        guest(
            &datapath,
            folder.path(),
            vhost_user(folder.path(), name, "br0"),
        )
    });
    wait_until_all_forward(&datapath);

    exchange(&mut a, &mut b, 20);
    COUNTED.store(0, Ordering::Relaxed);
    WATCHED.store(pmd_thread(), Ordering::Relaxed);
    exchange(&mut a, &mut b, 500);
    let forwarding = COUNTED.load(Ordering::Relaxed);

    // Misses, programs, and rules that change meanwhile.
    let meter = text::parse_meter("meter=1,pktps,bands=type=drop,rate=1000000").expect("a meter");
    let group = "group_id=1,type=select,bucket=weight:1,mod_dl_src:02:00:00:00:00:aa,output:1";
    let group = text::parse_group(group, &NoNames).expect("a group");
    let changes = [Change::AddMeter(meter), Change::AddGroup(group)];
    let changed = datapath.change_flows("br0", &changes, &mut || Ok(()));
    changed.expect("a meter and a group");
    add_rules(&datapath, &RULES);
    let missed = datapath.cache().missed;
    let mut exchange_flows = |flows| {
        let exchanged = exchange_flows(&mut a, &mut b, flows);
        assert!(exchanged.is_ok(), "{exchanged:?}: {:?}", datapath.pmds());
    };
    exchange_flows(8..600);
    exchange_flows(8..600);
    add_rules(&datapath, &["table=2,priority=8,udp,tp_src=3,actions=drop"]);
    exchange_flows(8..600);
    let with_rules = COUNTED.load(Ordering::Relaxed) - forwarding;
    let missed = datapath.cache().missed - missed;

    // Through a pair of patch ports, with tags that come and go.
    WATCHED.store(0, Ordering::Relaxed);
    let mut c = another_bridge(&datapath, folder.path());
    wait_until_all_forward(&datapath);
    exchange(&mut a, &mut c, 20);
    let before = COUNTED.load(Ordering::Relaxed);
    WATCHED.store(pmd_thread(), Ordering::Relaxed);
    exchange(&mut a, &mut c, 500);
    // And what is not vm1's own.
    for _ in 0..100 {
        assert!(a.send(0, &frame(2, 9, 60)) && a.flush(0, Duration::from_secs(10)));
    }
    let crossing = COUNTED.load(Ordering::Relaxed) - before;

    // The allocator does count: shown on this thread.
    WATCHED.store(0, Ordering::Relaxed);
    let before = COUNTED.load(Ordering::Relaxed);
    // SAFETY: gettid has no preconditions.
    WATCHED.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(
        COUNTED.load(Ordering::Relaxed) > before,
        "the allocator does not count"
    );
    WATCHED.store(0, Ordering::Relaxed);

    assert_eq!(
        forwarding, 0,
        "allocations while 1,000 frames were forwarded"
    );
    assert_eq!(
        with_rules, 0,
        "allocations while {missed} flows were translated"
    );
    assert_eq!(
        crossing, 0,
        "allocations while 1,000 frames went through a patch"
    );
    assert!(missed >= 592, "only {missed} flows were translated");
    assert!(
        datapath.packet_ins_lost() > 0,
        "nothing was for controllers"
    );
    let counters = &datapath.pmds()[0].counters;
    assert!(counters.received >= 1040);
    let spoofed = (DropReason::SpoofedMac, 100);
    assert!(counters.dropped.contains(&spoofed), "{counters:?}");
    let dropped: u64 = counters.dropped.iter().map(|(_, count)| count).sum();
    assert_eq!(
        counters.received + counters.replicated,
        counters.transmitted + dropped
    );
}
