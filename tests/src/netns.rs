//! Network namespaces, made for one test and removed after it. Every daemon
//! has one, so that its bridges' interfaces and whatever carries an address
//! are never the machine's own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Result;
use crate::machine;
use crate::process::Process;

/// A network namespace. Its interfaces go with it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; its name carries this process's id and `role`.
    pub fn new(role: &str) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (id, nth) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let namespace = Self {
            name: format!("ringway-{id}-{nth}-{role}"),
        };
        machine::sh("ip", &["netns", "add", &namespace.name])?;
        // Frames of the test only: no IPv6 chatter from its interfaces.
        for which in ["all", "default"] {
            let setting = format!("net.ipv6.conf.{which}.disable_ipv6=1");
            namespace.exec(&["sysctl", "-q", "-w", &setting])?;
        }
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip …` in it.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        machine::sh("ip", &[&["-n", &self.name], args].concat())
    }

    /// Runs a command in it that must succeed; what it printed.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        machine::sh("ip", &[&["netns", "exec", &self.name], command].concat())
    }

    /// Runs a line of shell in it that must succeed; what it printed.
    pub fn shell(&self, line: &str) -> Result<String> {
        self.exec(&["bash", "-c", line])
    }

    /// Starts a program in it on the guests' CPUs.
    pub fn spawn(&self, name: &str, command: &[&str], log: &Path) -> Result<Process> {
        let (program, args) = self.entered(command)?;
        Process::spawn(name, &program, &args, &machine::cores(1)?.guests, log)
    }

    /// What to start so that a command runs in it.
    pub fn entered(&self, command: &[&str]) -> Result<(PathBuf, Vec<String>)> {
        let enter = format!("--net=/run/netns/{}", self.name);
        let command = command.iter().map(|word| (*word).to_owned());
        Ok((
            machine::find_tool("nsenter")?,
            [enter].into_iter().chain(command).collect(),
        ))
    }

    /// A veth pair: `near` in this namespace, `far` in another; both up.
    pub fn veth_to(&self, near: &str, other: &Self, far: &str) -> Result<()> {
        let far_end = ["peer", "name", far, "netns", &other.name];
        self.ip(&[&["link", "add", near, "type", "veth"], &far_end[..]].concat())?;
        self.ip(&["link", "set", near, "up"])?;
        other.ip(&["link", "set", far, "up"])?;
        Ok(())
    }

    /// Gives an interface an address (`10.0.0.1/24`) and sets it up.
    pub fn configure(&self, device: &str, address: &str) -> Result<()> {
        self.ip(&["address", "add", address, "dev", device])?;
        self.ip(&["link", "set", device, "up"]).map(drop)
    }

    /// Serves echoes over UDP and TCP on port 7, for others' `probe`.
    pub fn serve_echo(&self, dir: &Path) -> Result<Process> {
        let probe = machine::build_dir().join("guest/probe");
        let log = dir.join(format!("{}-echo.log", self.name));
        self.spawn("echo", &[&probe.to_string_lossy(), "serve", "7"], &log)
    }

    /// Runs `probe …` (tests/guest/probe.rs), which must succeed.
    pub fn probe(&self, args: &[&str]) -> Result<String> {
        let probe = machine::build_dir().join("guest/probe");
        self.exec(&[&[&*probe.to_string_lossy()], args].concat())
    }

    /// Sends `count` echo requests 0.2 s apart; the number of answers.
    pub fn ping(&self, address: &str, count: u32, payload: u32) -> Result<u32> {
        let line = format!("ping -n -i 0.2 -c {count} -W 2 -s {payload} {address} || true");
        let said = self.shell(&line)?;
        // "3 packets transmitted, 3 received, 0% packet loss, time 402ms"
        let answers = said.lines().find_map(|line| {
            let (_, rest) = line.split_once("packets transmitted, ")?;
            rest.split_whitespace().next()?.parse().ok()
        });
        answers.ok_or_else(|| crate::Error::Unexpected(format!("ping said: {said}")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // An error means that it was never made.
        let _ = machine::sh("ip", &["netns", "del", &self.name]);
    }
}

/// Two namespaces joined by a veth pair: the switch runs in one, the other is
/// a neighbouring host.
#[derive(Debug)]
pub struct VethPair {
    /// The switch's namespace.
    pub switch: Namespace,
    /// The neighbour's namespace.
    pub neighbour: Namespace,
}

impl VethPair {
    /// The veth end in the switch's namespace.
    pub const SWITCH_DEVICE: &'static str = "uplink0";
    /// The veth end in the neighbour's namespace.
    pub const NEIGHBOUR_DEVICE: &'static str = "host0";

    /// Makes both namespaces and the pair; the neighbour gets the address
    /// (`10.0.9.2/24`).
    pub fn new(address: &str) -> Result<Self> {
        let pair = Self {
            switch: Namespace::new("switch")?,
            neighbour: Namespace::new("host")?,
        };
        let (near, far) = (Self::SWITCH_DEVICE, Self::NEIGHBOUR_DEVICE);
        pair.switch.veth_to(near, &pair.neighbour, far)?;
        pair.neighbour.configure(far, address)?;
        Ok(pair)
    }
}
