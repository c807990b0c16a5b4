//! A bridge with every kind of port on it and a real network stack behind each:
//! two guests on vhost-user and one on a tap, a neighbouring host behind a
//! veth, the host itself.

use std::time::Duration;

use crate::daemon::Daemon;
use crate::machine::{self, Exclusive};
use crate::netns::Namespace;
use crate::process::Process;
use crate::qemu::{Guest, GuestOptions, Listener, Nic};
use crate::{Error, Result, wait};

const LIMIT: Duration = Duration::from_secs(30);
const GUEST_LIMIT: Duration = Duration::from_secs(120);

/// Where each member is in [`Lan::members`].
pub const NEIGHBOUR: usize = 3;

/// Somebody with a network stack.
#[derive(Debug)]
pub enum Stack {
    /// A virtual machine.
    Guest(Box<Guest>),
    /// A network namespace.
    Space {
        /// It.
        namespace: Namespace,
        /// Its interface.
        device: &'static str,
        /// Answers.
        echo: Process,
    },
    /// The host: the daemon's own namespace.
    Host {
        /// Answers.
        echo: Process,
    },
}

/// Somebody on the bridge.
#[derive(Debug)]
pub struct Member {
    /// Its port, which is also its name.
    pub port: &'static str,
    /// Last byte of its address.
    pub number: u8,
    /// What answers there.
    pub stack: Stack,
}

/// Bridge br0 with everybody on it.
#[derive(Debug)]
pub struct Lan {
    // Dropped before the daemon.
    /// vm1 (all offloads), vm2 (none), tap1 (a guest as well), up0, br0.
    pub members: Vec<Member>,
    /// The switch.
    pub daemon: Daemon,
    _alone: Exclusive,
}

impl Member {
    /// Its address in 10.1.`network`.0/24.
    pub fn address(&self, network: u8) -> String {
        format!("10.1.{network}.{}", self.number)
    }

    /// The interface of its stack.
    pub fn device(&self) -> &'static str {
        match &self.stack {
            Stack::Guest(_) => "eth0",
            Stack::Space { device, .. } => device,
            Stack::Host { .. } => "br0",
        }
    }

    /// Runs a line of shell there.
    pub fn run(&mut self, daemon: &Daemon, line: &str) -> Result<String> {
        match &mut self.stack {
            Stack::Guest(guest) => guest.ok_within(line, GUEST_LIMIT),
            Stack::Space { namespace, .. } => namespace.shell(line),
            Stack::Host { .. } => daemon.namespace().shell(line),
        }
    }

    /// `probe …` there (tests/guest/probe.rs).
    pub fn probe(&mut self, daemon: &Daemon, args: &str) -> Result<String> {
        let probe = match &self.stack {
            Stack::Guest(_) => "probe".to_owned(),
            _ => machine::build_dir()
                .join("guest/probe")
                .display()
                .to_string(),
        };
        self.run(daemon, &format!("{probe} {args}"))
    }

    /// Whether it is a virtual machine, which is slow.
    pub fn is_guest(&self) -> bool {
        matches!(self.stack, Stack::Guest(_))
    }
}

impl Lan {
    /// Starts everybody, with this MTU everywhere and addresses in 10.1.0.0/24.
    pub fn start(mtu: u16) -> Result<Self> {
        let alone = machine::exclusive()?;
        let daemon = Daemon::start()?;
        daemon.ok(&["add-br", "br0"])?;
        daemon.ok(&["add-port", "br0", "tap1", "type=tap"])?;
        let on_socket = |name: &str, number| {
            let socket = daemon.add_vhost_port("br0", name, &["mode=server"])?;
            Ok(Nic::new(socket, Listener::Switch, number))
        };
        let plain = Nic {
            offloads: false,
            ..on_socket("vm2", 2)?
        };
        let guests = [
            ("vm1", 1, on_socket("vm1", 1)?),
            ("vm2", 2, plain),
            ("tap1", 3, Nic::on_tap("tap1", daemon.namespace(), 3)),
        ];
        let boot = |(port, number, nic)| {
            let guest = Guest::start(&GuestOptions::new(port, nic), daemon.dir())?;
            let stack = Stack::Guest(Box::new(guest));
            Ok(Member {
                port,
                number,
                stack,
            })
        };
        let mut members = guests
            .into_iter()
            .map(boot)
            .collect::<Result<Vec<Member>>>()?;
        members.push(neighbour(&daemon)?);
        let echo = daemon.namespace().serve_echo(daemon.dir())?;
        members.push(Member {
            port: "br0",
            number: 5,
            stack: Stack::Host { echo },
        });
        let mut lan = Self {
            members,
            daemon,
            _alone: alone,
        };
        for interface in ["tap1", "up0", "br0"] {
            let line = format!("ip link set {interface} mtu {mtu} up");
            lan.daemon.shell_ok(&line)?;
        }
        for member in &mut lan.members {
            if let Stack::Guest(guest) = &mut member.stack {
                guest.wait_ready()?;
                guest.ok("(probe serve 7 >/dev/null 2>&1 &)")?;
            }
            let (address, device) = (member.address(0), member.device());
            let line = format!(
                "ip addr add {address}/24 dev {device} && ip link set {device} mtu {mtu} up"
            );
            member.run(&lan.daemon, &line)?;
        }
        let ports: Vec<_> = lan.members.iter().map(|member| member.port).collect();
        lan.daemon.wait_forwarding(&ports)?;
        Ok(lan)
    }

    /// The neighbour's namespace; its interface is `eth0`.
    ///
    /// # Panics
    /// The members are not those that it was started with.
    pub fn neighbour(&self) -> &Namespace {
        match &self.members[NEIGHBOUR].stack {
            Stack::Space { namespace, .. } => namespace,
            other => panic!("{other:?} is no neighbour"),
        }
    }

    /// Runs `check` for a pair: who asks, the address of who answers, and
    /// whether a guest, which is slow, is one of them.
    pub fn pair(
        &mut self,
        network: u8,
        (asking, answering): (usize, usize),
        check: impl FnOnce(&Daemon, &mut Member, &str, bool) -> Result<()>,
    ) -> Result<()> {
        let (to, guest) = {
            let member = &self.members[answering];
            (member.address(network), member.is_guest())
        };
        let name = self.members[answering].port;
        let from = &mut self.members[asking];
        let slow = guest || from.is_guest();
        check(&self.daemon, from, &to, slow).map_err(|error| {
            let drops = self.daemon.drops();
            Error::Unexpected(format!("{} to {name}: {error}\n{drops:?}", from.port))
        })
    }

    /// [`Lan::pair`] for each.
    ///
    /// # Panics
    /// At the first pair whose check fails.
    pub fn each_pair(
        &mut self,
        network: u8,
        mut check: impl FnMut(&Daemon, &mut Member, &str, bool) -> Result<()>,
    ) {
        let all = self.members.len();
        for pair in (0..all).flat_map(|asking| (0..all).map(move |other| (asking, other))) {
            if pair.0 != pair.1 {
                self.pair(network, pair, &mut check).unwrap();
            }
        }
    }

    /// Everybody reaches everybody, with a million bytes there and back.
    ///
    /// # Panics
    /// Somebody is not reached.
    pub fn everybody_talks(&mut self, network: u8) {
        self.each_pair(network, |daemon, from, to, _| {
            reach(daemon, from, to)?;
            from.probe(daemon, &format!("tcp {to}:7 1000000")).map(drop)
        });
    }
}

/// Pings until one answer comes: the first contact.
pub fn reach(daemon: &Daemon, from: &mut Member, to: &str) -> Result<()> {
    wait::until(&format!("{} to reach {to}", from.port), LIMIT, || {
        from.run(daemon, &format!("ping -c 1 -W 1 {to}"))
    })
    .map(drop)
}

/// A host of its own behind a veth, whose near end is port up0.
fn neighbour(daemon: &Daemon) -> Result<Member> {
    let namespace = Namespace::new("neighbour")?;
    daemon.namespace().veth_to("up0", &namespace, "eth0")?;
    daemon.ok(&["add-port", "br0", "up0", "type=system"])?;
    let echo = namespace.serve_echo(daemon.dir())?;
    Ok(Member {
        port: "up0",
        number: 4,
        stack: Stack::Space {
            namespace,
            device: "eth0",
            echo,
        },
    })
}

/// Switches checksum and segmentation offloads of an interface on or off.
pub fn offloads(namespace: &Namespace, device: &str, on: bool) -> Result<()> {
    let word = if on { "on" } else { "off" };
    let names = ["tx", "tso", "gso", "gro"];
    let settings = names.iter().flat_map(|name| [*name, word]);
    let line: Vec<&str> = ["ethtool", "-K", device]
        .into_iter()
        .chain(settings)
        .collect();
    namespace.exec(&line).map(drop)
}
