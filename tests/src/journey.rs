//! Two hosts' switches, each with a wire to the same LAN, and a guest that moves
//! from one to the other while a neighbour on the LAN pings it and talks TCP.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::machine;
use crate::monitor::Moved;
use crate::netns::Namespace;
use crate::process::Process;
use crate::qemu::{Guest, GuestOptions, Listener, Nic};

/// The guest's address.
pub const GUEST: &str = "10.0.0.1";
/// The neighbour's.
pub const NEIGHBOUR: &str = "10.0.0.9";
/// Said of a guest that does not talk any more.
pub const BROKE: &str = "TCP broke";
/// Longest that the last TCP transfer takes.
const LAST_TRANSFER: Duration = Duration::from_secs(60);

/// The LAN between them: a bridge of the kernel's, which is the neighbour too.
pub struct TwoHosts {
    neighbour: Namespace,
}

/// What the guest is connected to.
#[derive(Clone, Debug)]
pub enum Plug {
    /// A switch that listens on this socket.
    Switch(PathBuf),
    /// A tap on the LAN itself: QEMU does what a switch does elsewhere.
    Tap(&'static str),
}

/// One of the hosts.
#[derive(Clone, Debug)]
pub struct Side {
    /// The guest's end.
    pub plug: Plug,
    /// Folder for whatever is written here.
    pub dir: PathBuf,
}

/// A guest that has moved.
pub struct Journey {
    /// What is left of it where it was.
    pub here: Guest,
    /// Where it is now.
    pub there: Guest,
    /// What QEMU says.
    pub moved: Moved,
    /// Longest time between two answers to the neighbour's pings, in ms.
    pub longest_ms: f64,
    /// Answers.
    pub answers: usize,
    /// Requests before the last answer that have none.
    pub lost: usize,
    /// TCP transfers of 20 MB, there and back, every byte compared.
    pub transfers: u32,
}

impl TwoHosts {
    /// Without anybody on it but the neighbour.
    pub fn new() -> Result<Self> {
        let neighbour = Namespace::new("lan")?;
        let bridge = ["link", "add", "lan0", "type", "bridge"];
        neighbour.ip(&[&bridge[..], &["forward_delay", "0"]].concat())?;
        neighbour.configure("lan0", &format!("{NEIGHBOUR}/24"))?;
        Ok(Self { neighbour })
    }

    /// A veth `wire` in a switch's namespace, whose other end is on the LAN.
    pub fn wire(&self, switch: &Namespace, wire: &str) -> Result<()> {
        let far = format!("far-{wire}");
        switch.veth_to(wire, &self.neighbour, &far)?;
        let enslave = ["link", "set", &far, "master", "lan0"];
        self.neighbour.ip(&enslave).map(drop)
    }

    /// A tap on the LAN, for [`Plug::Tap`].
    pub fn tap(&self, tap: &str) -> Result<()> {
        let ip = |words: &[&str]| self.neighbour.ip(words).map(drop);
        ip(&["tuntap", "add", tap, "mode", "tap"])?;
        ip(&["link", "set", tap, "master", "lan0", "up"])
    }

    /// Checksums of the neighbour's frames are whole: for switches that do not
    /// take others from a system port.
    pub fn with_whole_checksums(&self) -> Result<()> {
        let off = ["ethtool", "-K", "lan0", "tx", "off"];
        self.neighbour.exec(&off).map(drop)
    }

    /// Has a guest come up at `from` and move to `to` under traffic. `ready` is
    /// called when it talks, and again when it has moved.
    pub fn journey(
        &self,
        from: &Side,
        to: &Side,
        packed: bool,
        ready: impl Fn() -> Result<()>,
    ) -> Result<Journey> {
        let mut here = self.guest(from, packed, None)?;
        here.wait_ready()?;
        here.configure(&format!("{GUEST}/24"))?;
        here.reach(NEIGHBOUR)?;
        here.ok("(probe serve 7 >/dev/null 2>&1 &)")?;
        here.ok("echo kept > /tmp/kept")?;
        ready()?;
        let incoming = to.dir.join("incoming.sock");
        let there = self.guest(to, packed, Some(incoming.clone()))?;
        let stop = from.dir.join("stop");
        let (mut ping, mut tcp) = self.ping_and_tcp(&from.dir, &stop)?;
        std::thread::sleep(Duration::from_secs(1));
        let moved = here.monitor()?.move_to(&incoming)?;
        std::thread::sleep(Duration::from_secs(2));
        ready()?;
        std::fs::write(&stop, "").map_err(Error::io("tell the TCP probe to stop"))?;
        tcp.wait_exit(LAST_TRANSFER)?;
        ping.kill();
        let said = tcp.log();
        let transfers = said
            .lines()
            .find_map(|line| line.strip_prefix("transfers "));
        let (longest_ms, answers, lost) = gaps(&ping.log());
        let Some(transfers) = transfers.and_then(|count| count.parse().ok()) else {
            let console = std::fs::read(to.dir.join("vm1.log")).unwrap_or_default();
            let console = String::from_utf8_lossy(&console);
            let mut lines = console.lines();
            let died = match lines.any(|line| line.contains("Kernel panic")) {
                true => console.lines().next().unwrap_or_default(),
                false => "its kernel lives",
            };
            return Err(Error::Unexpected(format!(
                "{BROKE}; the guest: {died}; pings: {answers} answers, {lost} lost, {longest_ms:.0} ms the \
                 longest time without; {said}"
            )));
        };
        Ok(Journey {
            here,
            there,
            moved,
            longest_ms,
            answers,
            lost,
            transfers,
        })
    }

    fn guest(&self, side: &Side, packed: bool, comes_over: Option<PathBuf>) -> Result<Guest> {
        let mut nic = match &side.plug {
            Plug::Switch(socket) => Nic::new(socket, Listener::Switch, 1),
            Plug::Tap(tap) => Nic::on_tap(tap, &self.neighbour, 1),
        };
        nic.packed = packed;
        let mut options = GuestOptions::new("vm1", nic);
        options.comes_over = comes_over;
        Guest::start(&options, &side.dir)
    }

    fn ping_and_tcp(&self, dir: &Path, stop: &Path) -> Result<(Process, Process)> {
        let line = format!("exec ping -n -D -i 0.02 {GUEST}");
        let ping = ["sh", "-c", &line];
        let ping = self.neighbour.spawn("ping", &ping, &dir.join("ping.log"))?;
        let probe = machine::build_dir().join("guest/probe");
        let line = format!(
            "n=0; while [ ! -e {} ]; do {} tcp {GUEST}:7 20000000 || exit 1; n=$((n+1)); done; echo transfers $n",
            stop.display(),
            probe.display(),
        );
        let tcp = ["sh", "-c", &line];
        let tcp = self.neighbour.spawn("tcp", &tcp, &dir.join("tcp.log"))?;
        Ok((ping, tcp))
    }
}

/// Longest time between two answers, in ms; how many came, and how many of the
/// requests up to the last answer have none.
fn gaps(log: &str) -> (f64, usize, usize) {
    let mut times: Vec<f64> = Vec::new();
    let mut last = 0_usize;
    for line in log.lines().filter(|line| line.contains("bytes from")) {
        let time = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let number = line.split_once("icmp_seq=");
        let number = number.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let time = time.and_then(|(time, _)| time.parse().ok());
        if let (Some(time), Some(number)) = (time, number) {
            times.push(time);
            last = last.max(number);
        }
    }
    let gaps = times.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3);
    let longest = gaps.fold(0.0, f64::max);
    (longest, times.len(), last.saturating_sub(times.len()))
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn gaps_and_losses_are_read() {
        let log = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\
            [100.00] 64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.1 ms\n\
            [100.25] 64 bytes from 10.0.0.1: icmp_seq=4 ttl=64 time=0.1 ms\n\
            [100.27] 64 bytes from 10.0.0.1: icmp_seq=5 ttl=64 time=0.1 ms\n";
        let (longest, answers, lost) = gaps(log);
        assert!((longest - 250.0).abs() < 0.01, "{longest}");
        assert_eq!((answers, lost), (3, 2));
    }
}
