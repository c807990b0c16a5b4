//! The command line against a daemon: forms of the answers, exit codes, remedies.

use std::io::{self, Write};

use clap::Parser;
use ringway_datapath::status::PortState;
use tempfile::{TempDir, tempdir};
use tokio::sync::oneshot;

use crate::daemon::{Daemon, ringway};
use crate::fake::Fault;

/// br0, where the host is not, with vm1, which waits for its guest, and p0, which forwards.
async fn two_ports(dir: &TempDir) -> Daemon {
    let daemon = Daemon::start(dir).await;
    assert_eq!(daemon.ok("add-br br0 --no-internal").await, "");
    let line = "add-port br0 vm1 type=vhost-user path=/tmp/vm1.sock permissions=0660 owner=0:0";
    assert_eq!(daemon.ok(line).await, "");
    let line = "add-port br0 p0 type=dpdk devargs=net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap";
    assert_eq!(daemon.ok(line).await, "");
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_plain_names() {
    let dir = tempdir().unwrap();
    let daemon = two_ports(&dir).await;
    assert_eq!(daemon.ok("list-br").await, "br0\n");
    assert_eq!(daemon.ok("list-ports br0").await, "p0\nvm1\n");
    assert_eq!(daemon.ok("port-to-br vm1").await, "br0\n");
    assert_eq!(daemon.json("list-br").await["bridges"][0], "br0");
    assert_eq!(daemon.json("list-ports br0").await["ports"][1], "vm1");
    assert_eq!(daemon.json("port-to-br p0").await["bridge"], "br0");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_silent_and_exact_in_json() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    assert_eq!(
        daemon.json("add-br br0 --fail-mode secure").await["created"],
        true
    );
    assert_eq!(
        daemon
            .json("add-br br0 --may-exist --fail-mode secure")
            .await["created"],
        false
    );
    let printed = daemon.ringway("add-br br0 --may-exist").await;
    assert_eq!(printed.code, 0);
    assert!(
        printed
            .err
            .starts_with("ringway: warning: bridge br0 was there"),
        "{printed:?}"
    );
    let port = "add-port br0 p0 type=dpdk devargs=net_null0";
    assert_eq!(daemon.json(port).await["number"], 1);
    assert!(daemon.json(&format!("{port} --may-exist --no-wait")).await["number"].is_null());
    assert_eq!(daemon.json("del-port br0 p0").await["deleted"], true);
    assert_eq!(
        daemon.json("del-port p0 --if-exists").await["deleted"],
        false
    );
    assert_eq!(daemon.json("del-br br0").await["deleted"], true);
    assert_eq!(
        daemon.json("del-br br0 --if-exists").await["deleted"],
        false
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn show_tells_desired_actual_reason_and_since() {
    let dir = tempdir().unwrap();
    let daemon = two_ports(&dir).await;
    let text = daemon.ok("show").await;
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("since:"))
        .collect();
    let expected = [
        "Bridge br0",
        "    desired: fail-mode=standalone fdb-ageing=300 fdb-limit=8192 no-internal=true",
        "    actual:  present, 0 of 8192 stations learned, FDB memory: ordinary (no hugepages here)",
        "    flows:   1 flow, 0 groups, 0 meters",
        "    Port p0",
        "        desired: type=dpdk devargs=net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap n_rxq=1 number=2",
        "        actual:  forwarding, port 2",
        "    Port vm1",
        "        desired: type=vhost-user path=/tmp/vm1.sock mode=server queues=1 owner=0:0 \
         permissions=0660 number=1",
        "        actual:  waiting-for-socket, port 1",
        "        reason:  no guest yet",
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        text.lines().count(),
        expected.len() + 3,
        "each object has a since: {text}"
    );

    let why = "descriptor 7 points outside memory".to_owned();
    daemon
        .fake
        .set_port("vm1", |port| port.state = PortState::Quarantined { why });
    daemon.fake.fail("p1", Fault::Unavailable("no such device"));
    daemon
        .ringway("add-port br0 p1 type=dpdk devargs=net_null1")
        .await;
    let shown = daemon.ringway("show").await;
    assert_eq!(shown.code, 3);
    for telling in [
        "    Port vm1  (differs)\n",
        "        actual:  quarantined, port 1\n",
        "        reason:  descriptor 7 points outside memory\n",
        "    Port p1  (differs)\n",
        "        actual:  absent\n",
        "        reason:  no such device\n",
        "2 objects differ from what is desired\n",
    ] {
        assert!(shown.out.contains(telling), "{telling:?}\n{}", shown.out);
    }
    let shown = daemon.ringway("show --json").await;
    assert_eq!(shown.code, 3);
    let json: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(json["differences"], 2);
    let ports = &json["bridges"][0]["ports"];
    assert_eq!(ports[1]["actual"], serde_json::Value::Null);
    assert_eq!(ports[2]["actual"]["state"], "quarantined");
    assert_eq!(ports[2]["desired"]["permissions"], "0660");
    assert_eq!(ports[2]["desired"]["number"], 1);
    assert_eq!(json["bridges"][0]["flows"]["desired"]["flows"], 1);
    assert_eq!(json["bridges"][0]["flows"]["differs"], false);
    assert!(ports[2]["since"].as_str().unwrap().ends_with('Z'));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datapath_answers_have_open_vswitchs_forms() {
    let dir = tempdir().unwrap();
    let daemon = two_ports(&dir).await;
    assert_eq!(daemon.ok("drops").await, "no drops\n");
    daemon.fake.add_traffic();
    assert_eq!(
        daemon.ok("dpctl show").await,
        "netdev@ringway:
  lookups: hit:190 missed:10 lost:1
  flows: 7
  masks: hit:80 total:3 hit/pkt:0.40
  cache: hit:150 hit-rate:75.00%
  caches:
    emc: size:65536
  megaflows: limit:65536 not-installed:2 bytes-each:512 mask-limit:128
  flow memory: 1048576 bytes, hugepages of 2 MiB
  rules: 4 bytes:1000 bytes-each:250
  packets: received:200 replicated:5 transmitted:190 dropped:15
  memory: hugepages of 2 MiB
  fdb br0: stations:2 limit:8192 refused:0 moved:0
  port 1: vm1 (vhost-user: bridge=br0, state=forwarding, features=mrg_rxbuf)
  port 2: p0 (dpdk: bridge=br0, state=forwarding)
"
    );
    let vm1 = "  port  vm1: rx pkts=100, bytes=6400, drop=0, errs=3, frame=?, over=?, crc=?
             tx pkts=90, bytes=5760, drop=12, errs=0, coll=?
";
    let p0 = "  port   p0: rx pkts=0, bytes=0, drop=0, errs=0, frame=?, over=?, crc=?
             tx pkts=0, bytes=0, drop=0, errs=0, coll=?
";
    let both = daemon.ok("dump-ports").await;
    assert_eq!(both, format!("OFPST_PORT reply: 2 ports\n{vm1}{p0}"));
    let one = daemon.ok("dump-ports br0 vm1").await;
    assert_eq!(one, format!("OFPST_PORT reply: 1 ports\n{vm1}"));
    let json = daemon.json("dump-ports").await;
    assert_eq!(json["ports"][0]["queues"][0]["counters"]["tx_dropped"], 10);

    assert_eq!(
        daemon.ok("fdb show br0").await,
        " port  VLAN  MAC                Age
    1     0  52:54:00:00:00:01   12
    2     0  52:54:00:00:00:02    0
"
    );
    assert_eq!(
        daemon.json("fdb show br0").await["entries"][1]["port_name"],
        "p0"
    );
    assert_eq!(daemon.ok("fdb flush").await, "2 stations forgotten\n");
    assert_eq!(daemon.json("fdb flush br0").await["forgotten"], 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cores_and_drops_are_tables() {
    let dir = tempdir().unwrap();
    let daemon = two_ports(&dir).await;
    daemon.fake.add_traffic();
    assert_eq!(
        daemon.ok("pmd show").await,
        "CORE  STATE    PORT  QUEUE  DEQUEUE RING  ENQUEUE RING
1     polling  vm1   0      1024          256
1     polling  p0    0      stopped       stopped
"
    );
    assert_eq!(
        daemon.ok("pmd stats").await,
        "                                CORE 1
iterations                        1000
busy polls                          50
busy cycles             25000 (25.0 %)
idle cycles             70000 (70.0 %)
sleep cycles              5000 (5.0 %)
sleeps                               2
busy cycles per packet           125.0
received                           200
+ replicated                         5
= transmitted                      190
+ dropped                           15
balance                           even
dropped: bad_offload                 3
dropped: ring_full                  12
"
    );
    let stats = daemon.json("pmd stats").await;
    assert_eq!(stats["pmds"][0]["balanced"], true);
    assert_eq!(stats["pmds"][0]["busy_cycles_per_packet"], 125.0);
    daemon.fake.state().pmds[0].counters.transmitted -= 1;
    assert!(daemon.ok("pmd stats").await.contains(" +1\n"));

    let drops = daemon.ok("drops").await;
    let rows: Vec<Vec<_>> = drops
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        [
            "PORT", "QUEUE", "SIDE", "REASON", "PACKETS", "WHAT", "HAPPENED"
        ]
    );
    assert_eq!(rows[1][..5], ["vm1", "0", "rx", "bad_offload", "3"]);
    assert_eq!(rows[2][..5], ["vm1", "0", "tx", "ring_full", "10"]);
    assert_eq!(
        rows[3][..5],
        ["vm1", "-", "tx", "ring_full", "2"],
        "beyond its queues"
    );
    assert_eq!(rows.len(), 4, "only above zero: {drops}");
    let explained = ringway_datapath::DropReason::RingFull.explain().trim();
    assert!(drops.contains(explained));
    let json = daemon.json("drops").await;
    assert_eq!(json["drops"][2]["queue"], serde_json::Value::Null);
    assert_eq!(json["drops"][0]["side"], "rx");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_reason_on_stderr() {
    let dir = tempdir().unwrap();
    let daemon = two_ports(&dir).await;
    for (line, code, telling) in [
        ("add-br br0", 1, "ringway: cannot create bridge br0"),
        (
            "add-port br0 vm2 type=vhost-user path=vm2.sock",
            1,
            "not absolute",
        ),
        (
            "add-port br0 t0 type=vxlan",
            2,
            "no ports of type \"vxlan\"",
        ),
        (
            "add-port br0 t0 type=vhost-user speed=9",
            2,
            "its options: path, mode",
        ),
        ("add-port br0 t0", 2, "type= is missing"),
        ("del-port vm9", 1, "no port named vm9"),
        ("fdb show br9", 1, "no bridge named br9"),
    ] {
        let printed = daemon.ringway(line).await;
        assert_eq!((printed.code, printed.out.as_str()), (code, ""), "{line}");
        assert!(printed.err.contains(telling), "{line}: {}", printed.err);
    }
    let printed = daemon.ringway("--json del-port vm9").await;
    let json: serde_json::Value = serde_json::from_str(&printed.err).unwrap();
    assert_eq!(json["error"]["code"], "NOT_FOUND");
    assert_eq!(json["error"]["kept"], false);

    daemon.fake.fail("p1", Fault::Unavailable("no such device"));
    let printed = daemon
        .ringway("--json add-port br0 p1 type=dpdk devargs=net_null1")
        .await;
    let json: serde_json::Value = serde_json::from_str(&printed.err).unwrap();
    assert_eq!((printed.code, &json["error"]["kept"]), (1, &true.into()));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_daemon_is_told_with_its_remedy() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let printed = ringway(&path, "show").await;
    assert_eq!(printed.code, 1);
    assert!(
        printed.err.contains("is ringwayd running? Start it with"),
        "{}",
        printed.err
    );

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let printed = ringway(&path, "show").await;
    assert_eq!(printed.code, 1);
    assert!(printed.err.contains("nobody answers on"), "{}", printed.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn version_tells_all_parts() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    let version = daemon.json("version").await;
    assert_eq!(version["protocol"], "ringway.v1");
    assert_eq!(version["dpdk"], "DPDK 22.11");
    assert_eq!(version["ringway"], version["ringwayd"]);
    assert!(
        daemon
            .ok("version")
            .await
            .contains("protocol ringway.v1\nDPDK 22.11\n")
    );
    daemon.stop().await;
}

/// A pipe whose reader went away.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pipe_is_no_failure() {
    let dir = tempdir().unwrap();
    let daemon = two_ports(&dir).await;
    let socket = daemon.socket();
    for verb in ["list-br", "completions"] {
        let mut words = vec!["ringway", "--socket", socket.to_str().unwrap(), verb];
        words.extend(Some("bash").filter(|_| verb == "completions"));
        let cli = ringway::cli::Cli::try_parse_from(words).unwrap();
        assert_eq!(
            ringway::run(&cli, &mut Broken, &mut Broken).await,
            0,
            "{verb}"
        );
    }
    daemon.stop().await;
}

/// Tells once when a word was written.
pub struct Until(Vec<u8>, &'static str, Option<oneshot::Sender<()>>);

impl Until {
    pub fn new(word: &'static str, sender: oneshot::Sender<()>) -> Self {
        Self(vec![], word, Some(sender))
    }

    pub fn text(self) -> String {
        String::from_utf8(self.0).unwrap()
    }
}

impl Write for Until {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if String::from_utf8_lossy(&self.0).contains(self.1) {
            self.2.take().map(|sender| sender.send(()));
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn show_watch_prints_until_the_daemon_stops() {
    let dir = tempdir().unwrap();
    let daemon = two_ports(&dir).await;
    let socket = daemon.socket();
    let words = [
        "ringway",
        "--socket",
        socket.to_str().unwrap(),
        "show",
        "--watch",
    ];
    let cli = ringway::cli::Cli::try_parse_from(words).unwrap();
    let (sender, printed) = oneshot::channel();
    let (mut out, mut err) = (Until::new("Port late", sender), Vec::new());
    let change = async {
        daemon.ok("add-port br0 late type=vhost-user").await;
        printed.await.unwrap();
        daemon.stop().await;
    };
    let (code, ()) = tokio::join!(ringway::run(&cli, &mut out, &mut err), change);
    assert_eq!(code, 1);
    let err = String::from_utf8(err).unwrap();
    assert!(err.contains("ringwayd is stopping"), "{err}");
}
