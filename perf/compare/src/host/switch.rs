//! The three switches, started in a namespace, and what they spend.

use std::collections::HashMap;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use super::lab::BRIDGE;
use super::namespace::Namespace;
use super::{HostSwitch, PortKind, Spent};
use crate::error::Error;
use crate::parse::Cycles;
use crate::process::thread_times;
use crate::switches::SwitchSetup;
use crate::switches::{ovs, ringway};

/// Ticks per second in /proc/stat; Linux on x86-64 has always had 100.
const USER_HZ: f64 = 100.0;

enum Daemon {
    Ringway(ringway::Daemon),
    Ovs(ovs::Daemons),
    /// It is in the kernel.
    None,
}

/// A running switch with the bridge `br0`.
pub struct Running {
    daemon: Daemon,
    /// Where guests' sockets would be.
    dir: PathBuf,
    /// Ticks of the time-stamp counter per second.
    hertz: f64,
}

impl Running {
    /// Starts it in `host` and makes the bridge with its own interface.
    /// `offloads`: Open vSwitch, which does not do so by itself, passes
    /// checksums and TCP segmentation through (userspace TSO).
    pub fn start(
        kind: HostSwitch,
        setup: &SwitchSetup,
        host: &Namespace,
        offloads: bool,
    ) -> Result<Self, Error> {
        let path = host.path();
        let daemon = match kind {
            HostSwitch::Ringway => {
                let daemon = ringway::Daemon::start(setup, Some(&path), &[])?;
                daemon.say(&["add-br", BRIDGE])?;
                Daemon::Ringway(daemon)
            }
            HostSwitch::Ovs => {
                let tso: &[&str] = match offloads {
                    true => &["other_config:userspace-tso-enable=true"],
                    false => &[],
                };
                let daemons = ovs::Daemons::start(setup, Some(&path), tso)?;
                let bridge = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE];
                daemons.vsctl(&[&bridge[..], &["datapath_type=netdev"]].concat())?;
                Daemon::Ovs(daemons)
            }
            HostSwitch::Linux => {
                host.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
                Daemon::None
            }
        };
        Ok(Self {
            daemon,
            dir: setup.dir.clone(),
            hertz: pktgen::tsc::hertz(),
        })
    }

    /// Attaches an interface that is there.
    pub fn add_system(&self, host: &Namespace, interface: &str) -> Result<(), Error> {
        match &self.daemon {
            Daemon::Ringway(daemon) => daemon.say(&["add-port", BRIDGE, interface, "type=system"]),
            Daemon::Ovs(daemons) => daemons.vsctl(&["add-port", BRIDGE, interface]),
            Daemon::None => host.ip(&["link", "set", interface, "master", BRIDGE]),
        }
        .map(drop)
    }

    /// The switch's own command for a new port; returns when the port is there.
    pub fn add_port(&self, kind: PortKind, name: &str) -> Result<(), Error> {
        let socket = self.dir.join(name);
        let path = |option| format!("{option}={}", socket.display());
        match &self.daemon {
            Daemon::Ringway(daemon) => {
                let add = ["add-port", BRIDGE, name];
                match kind {
                    PortKind::Internal => daemon.say(&[&add[..], &["type=internal"]].concat()),
                    PortKind::VhostUserClient => daemon.say(
                        &[&add[..], &["type=vhost-user", "mode=client", &path("path")]].concat(),
                    ),
                }
            }
            Daemon::Ovs(daemons) => {
                let add = ["add-port", BRIDGE, name, "--", "set", "Interface", name];
                match kind {
                    PortKind::Internal => daemons.vsctl(&[&add[..], &["type=internal"]].concat()),
                    PortKind::VhostUserClient => daemons.vsctl(
                        &[
                            &add[..],
                            &[
                                "type=dpdkvhostuserclient",
                                &path("options:vhost-server-path"),
                            ],
                        ]
                        .concat(),
                    ),
                }
            }
            Daemon::None => Err(Error::NoSuchPorts),
        }
        .map(drop)
    }

    /// The switch's own command for deleting a port.
    pub fn del_port(&self, name: &str) -> Result<(), Error> {
        match &self.daemon {
            Daemon::Ringway(daemon) => daemon.say(&["del-port", BRIDGE, name]),
            Daemon::Ovs(daemons) => daemons.vsctl(&["del-port", BRIDGE, name]),
            Daemon::None => Err(Error::NoSuchPorts),
        }
        .map(drop)
    }

    /// What has been spent since some fixed point.
    pub fn meter(&self) -> Result<Meter, Error> {
        let pid = match &self.daemon {
            Daemon::Ringway(daemon) => Some(daemon.pid()),
            Daemon::Ovs(daemons) => Some(daemons.pid()),
            Daemon::None => None,
        };
        let pmd = match &self.daemon {
            Daemon::Ringway(daemon) => Some(daemon.cycles()?),
            _ => None,
        };
        let stat = read_to_string("/proc/stat").unwrap_or_default();
        Ok(Meter {
            pmd,
            threads: pid.map(threads),
            machine: busy_ticks(&stat).unwrap_or(0.0) / USER_HZ,
            hertz: self.hertz,
        })
    }
}

/// Nanoseconds that each thread has run, and whether it is a poll-mode core's.
type Threads = HashMap<u32, (f64, bool)>;

/// What a switch has spent since some fixed point.
pub struct Meter {
    pmd: Option<Cycles>,
    threads: Option<Threads>,
    /// Seconds of all cores that were busy.
    machine: f64,
    hertz: f64,
}

impl Meter {
    /// What was spent since `before`.
    pub fn since(&self, before: &Self) -> Spent {
        let pmd_busy = self
            .pmd
            .zip(before.pmd)
            .map(|(now, then)| now.since(&then).busy);
        let threads = self.threads.as_ref().zip(before.threads.as_ref());
        let daemon = threads.map(|(now, then)| {
            let [mut polling, mut other] = [0.0; 2];
            for (thread, (ran, is_pmd)) in now {
                let ran = ran - then.get(thread).map_or(0.0, |then| then.0);
                *(if *is_pmd { &mut polling } else { &mut other }) += ran * self.hertz / 1e9;
            }
            // Busy cycles go on while the thread is kept off its core.
            other + pmd_busy.map_or(polling, |busy| busy.min(polling))
        });
        Spent {
            pmd_busy,
            daemon,
            machine: (self.machine - before.machine) * self.hertz,
        }
    }
}

fn threads(pid: u32) -> Threads {
    let name = |thread| {
        let path = Path::new("/proc").join(format!("{pid}/task/{thread}/comm"));
        read_to_string(path).unwrap_or_default()
    };
    let times = thread_times(pid).into_iter();
    times
        .map(|(thread, ran, _)| (thread, (ran as f64, name(thread).starts_with("pmd"))))
        .collect()
}

/// Ticks that the machine's cores were neither idle nor taken by others, of
/// the text of /proc/stat: user nice system idle iowait irq softirq …
fn busy_ticks(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let busy = [0, 1, 2, 5, 6];
    busy.iter().map(|&at| ticks.get(at)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_that_were_busy() {
        let stat = "cpu  10 1 20 1000 5 3 4 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(38.0));
        assert_eq!(busy_ticks("intr 5\n"), None);
    }

    #[test]
    fn polls_in_vain_are_not_counted() {
        let meter = |busy, pmd, host| Meter {
            pmd: Some(Cycles {
                busy,
                ..Cycles::default()
            }),
            threads: Some(HashMap::from([(1, (pmd, true)), (2, (host, false))])),
            machine: 0.0,
            hertz: 2e9,
        };
        let spent = meter(500.0, 1000.0, 300.0).since(&meter(100.0, 0.0, 0.0));
        // Two ticks a nanosecond: 400 of the PMD's 2000, and the other's 600.
        assert_eq!(spent.pmd_busy, Some(400.0));
        assert_eq!(spent.daemon, Some(1000.0));
    }
}
