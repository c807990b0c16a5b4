//! What the checks look at: the host's side from the kernel, the switch's side
//! from desired state and datapath.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway_datapath::DropReason;
use ringway_datapath::spec::{SocketMode, XdpMode};
use ringway_datapath::status::{MemoryKind, PortStatus};
use ringway_proto::v1 as pb;

use crate::control::Control;
use crate::model::{Desired, Kind};
use crate::switch::Switch;

/// Looks at the FDB, and what is between two of them.
const LOOKS: usize = 6;
const BETWEEN: Duration = Duration::from_millis(60);

/// Everything that the checks look at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Desired and actual, as `show` has them.
    pub shown: pb::ShowResponse,
    /// Kernel interfaces of ports, by port.
    pub interfaces: BTreeMap<String, Interface>,
    /// Stations that were seen on several ports in turn.
    pub flapping: Vec<Flapping>,
    /// What ports' guards are refusing now.
    pub refused: Vec<Refused>,
    /// Where the tables lie; the reason why not in hugepages, if so.
    pub ordinary_memory: Option<String>,
    /// The machine's NUMA nodes.
    pub nodes: Vec<NumaPages>,
    /// The poll-mode cores.
    pub cores: Vec<Core>,
    /// The machine's CPUs.
    pub cpus: Vec<usize>,
    /// Other threads that poll, or run a guest's CPU, on some CPUs only.
    pub polling: Vec<PollingThread>,
    /// Sockets of ports in server mode, by port, with what may connect to it.
    pub sockets: BTreeMap<String, SocketFile>,
    /// User and group id of the account that runs guests, if there is one.
    pub qemu_user: Option<(String, u32, u32)>,
}

/// A kernel interface that a port stands on.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Set up by its administrator.
    pub admin_up: bool,
    /// It has a carrier.
    pub carrier: bool,
    /// Bytes behind the Ethernet header.
    pub mtu: u32,
    /// `veth`, `tun`, …
    pub kind: String,
    /// Its addresses, other than link-local ones: `10.10.10.11/16`.
    pub addresses: Vec<String>,
    /// Commands that move them to the bridge's own interface.
    pub move_addresses: Vec<String>,
    /// Its frames are had in a way that knows nothing of partial checksums and
    /// oversized frames.
    pub bare_frames: bool,
}

/// A station that moves to and fro.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flapping {
    /// The bridge.
    pub bridge: String,
    /// Its address.
    pub mac: String,
    /// Its VLAN.
    pub vlan: u32,
    /// The ports it was seen on.
    pub ports: Vec<String>,
}

/// What a port's guard, or its bridge's table, has refused it while somebody
/// looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The port.
    pub port: String,
    /// Why; `None`: its stations were not learned.
    pub reason: Option<DropReason>,
    /// How many frames or stations.
    pub count: u64,
}

/// Hugepages of a NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumaPages {
    /// The node.
    pub node: u32,
    /// Hugepages that it has, in KiB, of all sizes.
    pub total_kib: u64,
}

/// A poll-mode core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its CPU.
    pub cpu: usize,
    /// The NUMA node of that CPU.
    pub node: u32,
}

/// A thread of another process that is bound to CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollingThread {
    /// Its process.
    pub pid: u32,
    /// The process's name.
    pub process: String,
    /// Its own number and name.
    pub tid: u32,
    /// Its own name.
    pub thread: String,
    /// CPUs that it may run on.
    pub cpus: Vec<usize>,
}

/// A socket file and the folders that lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFile {
    /// The file.
    pub path: PathBuf,
    /// The file and its folders: path, user id, group id, permission bits.
    pub way: Vec<(PathBuf, u32, u32, u32)>,
}

impl Facts {
    /// The CPUs that no poll-mode core has, as a list for taskset(1).
    pub fn free_cpus(&self) -> String {
        let polled = |cpu: &usize| self.cores.iter().any(|core| core.cpu == *cpu);
        let free = self.cpus.iter().filter(|cpu| !polled(cpu));
        free.map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Asks everybody. Takes a third of a second, for a loop shows only in time.
pub fn gather<S: Switch>(control: &Control<S>) -> Facts {
    let desired = control.desired();
    let info = control.switch().info();
    let pmds = control.switch().pmds();
    let before = control.switch().ports();
    let flapping = flapping(control, &desired);
    Facts {
        flapping,
        refused: refused(&before, &control.switch().ports()),
        shown: control.show(),
        interfaces: interfaces(&desired),
        ordinary_memory: match info.memory {
            MemoryKind::Hugepages(_) => None,
            MemoryKind::Ordinary(why) => Some(why),
        },
        nodes: nodes(Path::new("/sys/devices/system/node")),
        cores: (pmds.iter())
            .map(|pmd| Core {
                cpu: pmd.core,
                node: node_of(pmd.core),
            })
            .collect(),
        cpus: {
            let online = fs::read_to_string("/sys/devices/system/cpu/online");
            cpu_list(&online.unwrap_or_default())
        },
        polling: polling_threads(Path::new("/proc"), std::process::id()),
        sockets: sockets(&desired),
        qemu_user: ["libvirt-qemu", "qemu"].iter().find_map(|name| {
            let user = nix::unistd::User::from_name(name).ok()??;
            Some(((*name).to_owned(), user.uid.as_raw(), user.gid.as_raw()))
        }),
    }
}

fn flapping<S: Switch>(control: &Control<S>, desired: &Desired) -> Vec<Flapping> {
    // By bridge, station and VLAN: the ports in the order in which they were seen.
    let mut seen: BTreeMap<(String, [u8; 6], u16), Vec<String>> = BTreeMap::new();
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN);
        }
        for bridge in &desired.bridges {
            for entry in control.switch().fdb(bridge.name()).unwrap_or_default() {
                let station = (bridge.name().to_owned(), entry.mac, entry.vlan);
                let ports = seen.entry(station).or_default();
                if ports.last() != Some(&entry.port_name) {
                    ports.push(entry.port_name);
                }
            }
        }
    }
    // A guest that moved is seen on two ports; one that comes back flaps.
    let to_and_fro = seen.into_iter().filter(|(_, ports)| ports.len() > 2);
    to_and_fro
        .map(|((bridge, mac, vlan), mut ports)| {
            ports.sort();
            ports.dedup();
            Flapping {
                bridge,
                mac: mac.map(|byte| format!("{byte:02x}")).join(":"),
                vlan: vlan.into(),
                ports,
            }
        })
        .collect()
}

/// What guards refused between two looks.
fn refused(before: &[PortStatus], after: &[PortStatus]) -> Vec<Refused> {
    let mut found = Vec::new();
    for now in after {
        let Some(old) = before.iter().find(|old| old.name == now.name) else {
            continue;
        };
        let mut note = |reason, count: u64| {
            if count > 0 {
                let port = now.name.clone();
                found.push(Refused {
                    port,
                    reason,
                    count,
                });
            }
        };
        for (reason, count) in &now.counters.rx_drops {
            let old = old.counters.rx_drops.iter().find(|(old, _)| old == reason);
            let old = old.map_or(0, |(_, count)| *count);
            if OF_GUARDS.contains(reason) {
                note(Some(*reason), count.saturating_sub(old));
            }
        }
        let not_learned = now.stations_refused.saturating_sub(old.stations_refused);
        note(None, not_learned);
    }
    found
}

/// What guards refuse.
const OF_GUARDS: [DropReason; 7] = [
    DropReason::SpoofedMac,
    DropReason::SpoofedVlan,
    DropReason::SpoofedIp,
    DropReason::IngressPoliced,
    DropReason::StormPoliced,
    DropReason::FdbLimit,
    DropReason::MacMoveDenied,
];

/// The kernel interface that a port stands on, if it does on one.
fn interface_of(port: &crate::model::Port) -> Option<String> {
    match &port.kind {
        Kind::System(_) | Kind::Internal(_) | Kind::Tap(_) => Some(port.name.clone()),
        Kind::Dpdk(options) => {
            let arguments = options.devargs.split(',');
            let mut values = arguments.filter_map(|argument| argument.strip_prefix("iface="));
            values.next().map(str::to_owned)
        }
        Kind::VhostUser(_) | Kind::Patch(_) => None,
    }
}

fn interfaces(desired: &Desired) -> BTreeMap<String, Interface> {
    let ports = desired.ports.iter();
    let found = ports.filter_map(|port| {
        let link = ringway_host::link::find(&interface_of(port)?).ok()??;
        let addresses = ringway_host::link::addresses(link.index).unwrap_or_default();
        // DPDK reads along with a packet socket; what it has by AF_XDP or a tap is
        // the host's no more.
        let shared =
            matches!(&port.kind, Kind::Dpdk(options) if options.devargs.contains("af_packet"));
        let interface = Interface {
            move_addresses: {
                let bridge = &port.bridge;
                // It has to have an interface of its own for that.
                let own = format!("ringway set-br {bridge} no-internal=false");
                let own = Some(own).filter(|_| desired.port(bridge).is_none());
                let moves = ringway_host::link::remedy(&link, bridge).unwrap_or_default();
                own.into_iter().chain(moves).collect()
            },
            addresses: (addresses.iter())
                .filter(|_| !shared)
                .filter(|address| !address.scope_link)
                .map(ToString::to_string)
                .collect(),
            bare_frames: match &port.kind {
                Kind::System(options) => options.xdp == XdpMode::On,
                kind => matches!(kind, Kind::Dpdk(_)),
            },
            name: link.name,
            admin_up: link.admin_up,
            carrier: link.carrier,
            mtu: link.mtu,
            kind: link.kind,
        };
        Some((port.name.clone(), interface))
    });
    found.collect()
}

fn sockets(desired: &Desired) -> BTreeMap<String, SocketFile> {
    let servers = desired.ports.iter().filter_map(|port| match &port.kind {
        Kind::VhostUser(options) if options.mode == SocketMode::Server => {
            Some((port.name.clone(), options.path.clone()))
        }
        _ => None,
    });
    let found = servers.filter_map(|(port, path)| {
        let mut way = Vec::new();
        for part in path.ancestors() {
            let meta = fs::metadata(part).ok()?;
            let bits = meta.permissions().mode() & 0o777;
            way.push((part.to_owned(), meta.uid(), meta.gid(), bits));
        }
        Some((port, SocketFile { path, way }))
    });
    found.collect()
}

fn nodes(root: &Path) -> Vec<NumaPages> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut nodes: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let node = name.strip_prefix("node")?.parse().ok()?;
            let sizes = fs::read_dir(entry.path().join("hugepages")).into_iter();
            let total = sizes.flatten().flatten().filter_map(|size| {
                let name = size.file_name().into_string().ok()?;
                let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
                let pages = fs::read_to_string(size.path().join("nr_hugepages")).ok()?;
                Some(kib.parse::<u64>().ok()? * pages.trim().parse::<u64>().ok()?)
            });
            Some(NumaPages {
                node,
                total_kib: total.sum(),
            })
        })
        .collect();
    nodes.sort_by_key(|pages: &NumaPages| pages.node);
    nodes
}

fn node_of(cpu: usize) -> u32 {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}"));
    let mut names = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .find_map(|name| name.strip_prefix("node")?.parse().ok())
        .unwrap_or(0)
}

/// Threads of other processes that keep a CPU busy: other switches' poll-mode
/// threads, DPDK's, and guests' CPUs.
fn polling_threads(proc: &Path, own: u32) -> Vec<PollingThread> {
    let numbered = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
            .collect::<Vec<(u32, PathBuf)>>()
    };
    let name = |folder: &Path| {
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        name.trim().to_owned()
    };
    let mut threads = Vec::new();
    for (pid, folder) in numbered(proc) {
        if pid == own {
            continue;
        }
        for (tid, of_thread) in numbered(&folder.join("task")) {
            let thread = name(&of_thread);
            let status = fs::read_to_string(of_thread.join("status")).unwrap_or_default();
            let cpus = allowed_cpus(&status);
            if polls(&thread) && !cpus.is_empty() {
                threads.push(PollingThread {
                    pid,
                    process: name(&folder),
                    tid,
                    thread,
                    cpus,
                });
            }
        }
    }
    threads
}

/// Names of threads that keep a CPU busy: ringway's and Open vSwitch's poll-mode
/// threads, DPDK's, VPP's, and QEMU's for the guests' CPUs.
fn polls(thread: &str) -> bool {
    let begins = [
        "pmd-",
        "lcore-worker",
        "rte-worker",
        "dpdk-worker",
        "vpp_wk",
    ];
    begins.iter().any(|begin| thread.starts_with(begin))
        || (thread.starts_with("CPU ") && (thread.ends_with("/KVM") || thread.ends_with("/TCG")))
}

/// The CPUs of `Cpus_allowed_list:` in a thread's status (proc(5)).
fn allowed_cpus(status: &str) -> Vec<usize> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cpu_list(list.unwrap_or_default())
}

/// `0,2-4`
fn cpu_list(text: &str) -> Vec<usize> {
    let ranges = text.trim().split(',');
    ranges
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read() {
        let status = "Name:\tx\nCpus_allowed_list:\t0,2-4,7\nMems_allowed:\t1\n";
        assert_eq!(allowed_cpus(status), [0, 2, 3, 4, 7]);
        assert_eq!(allowed_cpus("Name:\tx\n"), [0usize; 0]);
    }

    #[test]
    fn polling_threads_are_known_by_their_names() {
        for name in [
            "pmd-1",
            "pmd-c01/id:9",
            "CPU 0/KVM",
            "CPU 12/TCG",
            "lcore-worker-3",
        ] {
            assert!(polls(name), "{name}");
        }
        for name in ["ringwayd", "bash", "CPU", "host-br0"] {
            assert!(!polls(name), "{name}");
        }
    }

    #[test]
    fn threads_are_found_in_proc() {
        let dir = tempfile::tempdir().unwrap();
        let thread = |pid: &str, tid: &str, name: &str, cpus: &str| {
            let task = dir.path().join(pid).join("task").join(tid);
            fs::create_dir_all(&task).unwrap();
            fs::write(dir.path().join(pid).join("comm"), "qemu\n").unwrap();
            fs::write(task.join("comm"), format!("{name}\n")).unwrap();
            fs::write(task.join("status"), format!("Cpus_allowed_list:\t{cpus}\n")).unwrap();
        };
        thread("10", "11", "CPU 0/KVM", "1");
        thread("10", "10", "qemu", "0-1");
        thread("20", "20", "pmd-1", "1");
        let found = polling_threads(dir.path(), 20);
        let expected = PollingThread {
            pid: 10,
            process: "qemu".into(),
            tid: 11,
            thread: "CPU 0/KVM".into(),
            cpus: vec![1],
        };
        assert_eq!(found, [expected]);
    }
}
