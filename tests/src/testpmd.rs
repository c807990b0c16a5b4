//! DPDK's testpmd with virtio-user ports: guests that are cheap to start and
//! send millions of packets a second.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process::Process;
use crate::{machine, wait};

/// testpmd's prompt, printed after each command's output.
const PROMPT: &str = "testpmd> ";
/// Longest a command takes; the start of two ports takes about 1 s.
const LIMIT: Duration = Duration::from_secs(30);
/// Hugepage memory that one testpmd takes, in MiB.
pub const MEMORY_MIB: u64 = 256;

/// An address that no port has.
const NOBODY: &str = "02:00:00:00:ff:ff";

/// One virtio-user port: a virtio-net driver that is a vhost-user frontend.
#[derive(Clone, Debug)]
pub struct VirtioUser {
    /// The vhost-user socket.
    pub path: PathBuf,
    /// True when testpmd listens on it (`mode=client` in the switch).
    pub listens: bool,
    /// Its MAC address as text.
    pub mac: String,
    /// Queue pairs.
    pub queues: u16,
    /// Ring entries.
    pub ring: u16,
    /// Which of the driver's ways over the rings.
    pub mode: RingMode,
}

impl VirtioUser {
    /// One queue pair with 1,024 entries, mergeable, ringway listens.
    pub fn new(path: impl Into<PathBuf>, last_byte: u8) -> Self {
        Self {
            path: path.into(),
            listens: false,
            mac: format!("02:00:00:00:01:{last_byte:02x}"),
            queues: 1,
            ring: 1024,
            mode: RingMode::Mergeable,
        }
    }

    fn vdev(&self, index: usize) -> String {
        let Self { queues, ring, .. } = self;
        let mut text = format!(
            "net_virtio_user{index},path={},mac={},queues={queues},queue_size={ring}",
            self.path.display(),
            self.mac,
        );
        if self.listens {
            text += ",server=1";
        }
        text + match self.mode {
            RingMode::Mergeable => ",mrg_rxbuf=1,in_order=0",
            RingMode::NonMergeable => ",mrg_rxbuf=0,in_order=0",
            RingMode::InOrderMergeable => ",mrg_rxbuf=1,in_order=1",
            RingMode::InOrderNonMergeable => ",mrg_rxbuf=0,in_order=1",
            RingMode::Vectorized => ",mrg_rxbuf=0,in_order=1,vectorized=1",
            RingMode::Packed => ",packed_vq=1,mrg_rxbuf=1,in_order=0",
            RingMode::PackedNonMergeable => ",packed_vq=1,mrg_rxbuf=0,in_order=0",
            RingMode::PackedInOrder => ",packed_vq=1,mrg_rxbuf=1,in_order=1",
            RingMode::PackedInOrderNonMergeable => ",packed_vq=1,mrg_rxbuf=0,in_order=1",
            RingMode::PackedVectorized => ",packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1",
        }
    }
}

/// The paths over a ring that DPDK's virtio driver has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingMode {
    /// Mergeable receive buffers.
    Mergeable,
    /// One buffer per packet.
    NonMergeable,
    /// Mergeable, buffers used in order.
    InOrderMergeable,
    /// One buffer per packet, in order.
    InOrderNonMergeable,
    /// One buffer per packet, by vector instructions.
    Vectorized,
    /// Packed rings, mergeable receive buffers.
    Packed,
    /// Packed rings, one buffer per packet.
    PackedNonMergeable,
    /// Packed rings, mergeable, in order.
    PackedInOrder,
    /// Packed rings, one buffer per packet, in order.
    PackedInOrderNonMergeable,
    /// Packed rings by vector instructions, where the processor has AVX-512.
    PackedVectorized,
}

impl RingMode {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Mergeable,
        Self::NonMergeable,
        Self::InOrderMergeable,
        Self::InOrderNonMergeable,
        Self::Vectorized,
        Self::Packed,
        Self::PackedNonMergeable,
        Self::PackedInOrder,
        Self::PackedInOrderNonMergeable,
        Self::PackedVectorized,
    ];
}

/// What testpmd does with received packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Sends them out of the other port as they are.
    Io,
    /// Sends them out of the other port with that port's MAC as source and
    /// the peer's as destination, so that each MAC stays on one switch port.
    Mac,
    /// As `Mac`, and the packets belong to many flows.
    MacManyFlows,
    /// Counts and drops them.
    RxOnly,
    /// Sends packets of its own to addresses that nobody has, receives nothing.
    TxOnlyToNobody,
}

impl Forward {
    fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Mac | Self::MacManyFlows => "mac",
            Self::RxOnly => "rxonly",
            Self::TxOnlyToNobody => "txonly",
        }
    }
}

/// What a port of testpmd counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets received broken.
    pub rx_errors: u64,
    /// Packets given to the ring.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

/// A running testpmd. Killed when dropped.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
    stdin: ChildStdin,
    ports: usize,
    answered: usize,
}

impl Testpmd {
    /// Starts testpmd and waits for its prompt: every port has then connected.
    /// With two ports each is the other's peer. `frame` is the length of the
    /// frames it makes, without CRC.
    pub fn start(
        name: &str,
        ports: &[VirtioUser],
        forward: Forward,
        frame: u32,
        dir: &Path,
    ) -> Result<Self> {
        let cpus = machine::cores(1)?.guests;
        machine::need_hugepages(MEMORY_MIB)?;
        machine::need_tools(&["stdbuf", "dpdk-testpmd"])?;
        let queues = ports.iter().map(|port| port.queues).max().unwrap_or(1);
        let ring = ports.iter().map(|port| port.ring).max().unwrap_or(1024);
        let cpu = cpus.first().copied().unwrap_or(0);
        let mut args: Vec<String> = vec![
            "-oL".into(),
            "dpdk-testpmd".into(),
            // Two threads of DPDK's on one CPU: the prompt sleeps.
            format!("--lcores=0@{cpu},1@{cpu}"),
            "--no-pci".into(),
            "--in-memory".into(),
            "--single-file-segments".into(),
            "--no-telemetry".into(),
            format!("-m{MEMORY_MIB}"),
        ];
        for (index, port) in ports.iter().enumerate() {
            args.push(format!("--vdev={}", port.vdev(index)));
        }
        args.extend([
            "--".into(),
            "-i".into(),
            "--total-num-mbufs=16384".into(),
            format!("--forward-mode={}", forward.name()),
            format!("--txpkts={frame}"),
            format!("--rxq={queues}"),
            format!("--txq={queues}"),
            format!("--rxd={ring}"),
            format!("--txd={ring}"),
        ]);
        if forward == Forward::MacManyFlows {
            args.push("--txonly-multi-flow".into());
        }
        // testpmd sends out of port 0 what came in from port 1. A frame that
        // leaves port 0 must come back at port 1: that port's MAC is its peer.
        for (index, _) in ports.iter().enumerate() {
            let peer = match ports.get(index ^ 1) {
                Some(peer) if forward != Forward::TxOnlyToNobody => &peer.mac,
                _ => NOBODY,
            };
            args.push(format!("--eth-peer={index},{peer}"));
        }
        let log = dir.join(format!("{name}.log"));
        // Prompts of an earlier testpmd of that name are no answers of this one.
        let _ = fs::remove_file(&log);
        let program = machine::find_tool("stdbuf")?;
        let mut process = Process::spawn(&format!("testpmd {name}"), &program, &args, &cpus, &log)?;
        let stdin = process
            .take_stdin()
            .ok_or_else(|| Error::Unexpected("testpmd has no standard input".into()))?;
        let mut testpmd = Self {
            process,
            stdin,
            ports: ports.len(),
            answered: 0,
        };
        testpmd.answer("start")?;
        Ok(testpmd)
    }

    /// Types a command and gives what it printed.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.stdin
            .write_all(format!("{command}\n").as_bytes())
            .map_err(Error::io("write to testpmd"))?;
        self.answer(command)
    }

    fn answer(&mut self, command: &str) -> Result<String> {
        let Self {
            process, answered, ..
        } = self;
        let what = format!("testpmd's answer to `{command}`");
        wait::until(&what, LIMIT, || {
            if let Err(died) = process.check_running() {
                return Ok(Err(died));
            }
            let log = process.log();
            match log[*answered..].find(PROMPT) {
                Some(at) => {
                    let text = log[*answered..*answered + at].to_owned();
                    *answered += at + PROMPT.len();
                    Ok(Ok(text))
                }
                None => Err(process.log_tail()),
            }
        })?
    }

    /// Puts `bursts` bursts of 32 packets per queue in flight and forwards.
    pub fn start_with_bursts(&mut self, bursts: u32) -> Result<()> {
        self.command(&format!("start tx_first {bursts}")).map(drop)
    }

    /// Starts forwarding.
    pub fn start_forwarding(&mut self) -> Result<()> {
        self.command("start").map(drop)
    }

    /// Stops forwarding; rings keep what is in them.
    pub fn stop(&mut self) -> Result<()> {
        self.command("stop").map(drop)
    }

    /// Each port's counters.
    pub fn stats(&mut self) -> Result<Vec<PortStats>> {
        let text = self.command("show port stats all")?;
        let stats: Vec<PortStats> = text
            .split("NIC statistics for port")
            .skip(1)
            .map(parse_stats)
            .collect();
        if stats.len() != self.ports {
            return Err(Error::Unexpected(format!(
                "testpmd shows {} ports instead of {}: {text}",
                stats.len(),
                self.ports
            )));
        }
        Ok(stats)
    }

    /// Received packets of all ports.
    pub fn received(&mut self) -> Result<u64> {
        Ok(self.stats()?.iter().map(|port| port.rx_packets).sum())
    }

    /// Waits until each port has received this many packets more than now.
    pub fn wait_received(&mut self, more: u64) -> Result<()> {
        let before = self.stats()?;
        wait::until("testpmd's ports to receive", LIMIT, || {
            let now = self.stats().map_err(|error| error.to_string())?;
            let enough = before
                .iter()
                .zip(&now)
                .all(|(before, now)| now.rx_packets >= before.rx_packets + more);
            if enough {
                return Ok(());
            }
            Err(format!("{now:?}"))
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it in the proper way: rings are stopped, sockets closed.
    pub fn quit(mut self) -> Result<()> {
        self.stdin
            .write_all(b"quit\n")
            .map_err(Error::io("write to testpmd"))?;
        self.process.wait_exit(LIMIT).map(drop)
    }
}

fn parse_stats(text: &str) -> PortStats {
    let field = |name: &str| {
        text.split_once(name)
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    PortStats {
        rx_packets: field("RX-packets:"),
        rx_bytes: field("RX-bytes:"),
        rx_errors: field("RX-errors:"),
        tx_packets: field("TX-packets:"),
        tx_bytes: field("TX-bytes:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn testpmds_statistics_are_read() {
        let text = "  0  ####\n  RX-packets: 3787264    RX-missed: 0          RX-bytes:  242384896\n  \
                    RX-errors: 0\n  RX-nombuf:  0         \n  \
                    TX-packets: 3787296    TX-errors: 0          TX-bytes:  242386944\n";
        let expected = PortStats {
            rx_packets: 3_787_264,
            rx_bytes: 242_384_896,
            rx_errors: 0,
            tx_packets: 3_787_296,
            tx_bytes: 242_386_944,
        };
        assert_eq!(parse_stats(text), expected);
    }
}
