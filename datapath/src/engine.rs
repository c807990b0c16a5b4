//! The handle that the control plane holds: bridges and ports as they are, and
//! every change on its way to the PMDs.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dpdk::{Eal, EalConfig, MemoryChoice};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ringway_flow::action::Action;
use ringway_flow::pipeline::FlowTables;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringway_flow::stats::StatsTable;
use ringway_host::link;
use ringway_host::port::HostPortKind;

use crate::actual::{Bridge, Inner, lock, wakeups};
use crate::bring_up::{check_cores, start_pmd};
use crate::cache::table::{CacheTable, Shape};
use crate::clock::CoarseClock;
use crate::error::DatapathError;
use crate::housekeeping::{Bell, keep_house};
use crate::port::{Backing, PatchBacking, Port};
use crate::publish::PmdShared;
use crate::snapshot::Plan;
use crate::spec::{
    BridgeSpec, DatapathConfig, FailMode, Hugepages, InternalSpec, PatchSpec, PortKind, PortSpec,
    SystemSpec, TapSpec,
};
use crate::status::{BridgeStatus, DatapathInfo, FdbEntry, PmdStatus, PortPlace, PortStatus};

/// What a bridge begins with whose fail mode is standalone.
fn normal_rule() -> Change {
    let rule = FlowSpec {
        priority: 0,
        actions: vec![Action::Normal],
        ..FlowSpec::default()
    };
    Change::Flow(FlowCommand::Add, Box::new(rule))
}

fn shape(config: &DatapathConfig) -> Shape {
    Shape::new(config.flow_limit, config.emc_entries)
}

/// Memory that the flow caches of all cores take, in MiB.
fn cache_mib(config: &DatapathConfig) -> u32 {
    let bytes = shape(config).words() * size_of::<u64>() * config.pmd_cores.len();
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX >> 1) + 1
}

/// The running datapath. Calls return once every PMD works by the new state.
pub struct Datapath {
    pub(crate) inner: Arc<Inner>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    pmds: Vec<JoinHandle<()>>,
    housekeeper: Option<JoinHandle<()>>,
}

impl Datapath {
    /// Starts DPDK and one pinned thread per PMD core. Once per process.
    pub fn start(config: DatapathConfig) -> Result<Self, DatapathError> {
        check_cores(&config.pmd_cores)?;
        let eal = Eal::init(EalConfig {
            memory: match config.hugepages {
                Hugepages::Auto => MemoryChoice::Auto,
                Hugepages::Off => MemoryChoice::Off,
                Hugepages::Size(bytes) => MemoryChoice::PageSize(bytes),
            },
            memory_mib: config.memory_mib + cache_mib(&config),
            pci: true,
        })
        .map_err(|error| DatapathError::Start(error.to_string()))?;
        Self::start_on(eal, config)
    }

    /// Starts the PMDs on a DPDK that runs already (tests share one).
    pub fn start_on(eal: Eal, config: DatapathConfig) -> Result<Self, DatapathError> {
        check_cores(&config.pmd_cores)?;
        let start = |what: &str, error: &dyn std::fmt::Display| {
            DatapathError::Start(format!("{what}: {error}"))
        };
        let pmds = config
            .pmd_cores
            .iter()
            .map(|core| {
                let cache = CacheTable::reserve(&eal, &format!("flows-{core}"), shape(&config))
                    .map_err(|error| {
                        start(
                            "no memory for megaflows; choose a lower --flow-limit",
                            &error,
                        )
                    })?;
                let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                    .map_err(|error| start("cannot make an eventfd", &error))?;
                let first = Plan {
                    version: 0,
                    snapshot: Arc::default(),
                    polls: Vec::new(),
                    wakeups: wakeups(&wake, &[]).ok(),
                    polls_nic: false,
                    only_kernel: false,
                    warm: None,
                    watch: None,
                    stop: false,
                };
                Ok(Arc::new(PmdShared::new(
                    *core,
                    Arc::new(first),
                    wake,
                    cache,
                )))
            })
            .collect::<Result<Vec<_>, DatapathError>>()?;
        let datapath = Self {
            inner: Arc::new(Inner {
                clock: match config.started_tsc {
                    Some(tsc) => CoarseClock::started_at(tsc, eal.tsc_hz()),
                    None => CoarseClock::start(eal.tsc_hz()),
                },
                config,
                eal,
                pmds,
                actual: Mutex::default(),
                injector: Mutex::default(),
                bell: Arc::<Bell>::default(),
            }),
            threads: Mutex::default(),
        };
        for index in 0..datapath.inner.pmds.len() {
            let handle = start_pmd(&datapath.inner, index)
                .map_err(|error| start("cannot start a PMD thread", &error))?;
            lock(&datapath.threads).pmds.push(handle);
        }
        let inner = Arc::downgrade(&datapath.inner);
        let bell = Arc::clone(&datapath.inner.bell);
        let handle = thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || keep_house(&inner, &bell))
            .map_err(|error| start("cannot start the housekeeping thread", &error))?;
        lock(&datapath.threads).housekeeper = Some(handle);
        Ok(datapath)
    }

    /// Facts that do not change while the daemon runs.
    pub fn info(&self) -> DatapathInfo {
        DatapathInfo {
            memory: self.inner.memory_kind(),
            tsc_hz: self.inner.eal.tsc_hz(),
            dpdk_version: self.inner.eal.version().to_owned(),
        }
    }

    /// Adds a bridge.
    pub fn add_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        let mut actual = lock(&self.inner.actual);
        if actual.bridges.contains_key(&spec.name) {
            return Err(DatapathError::exists("bridge", &spec.name));
        }
        let fdb = self.inner.new_fdb(&mut actual, &spec)?;
        let Some(id) = actual.new_bridge_id() else {
            return Err(DatapathError::TooManyBridges { bridge: spec.name });
        };
        let stats = Arc::<StatsTable>::default();
        let mut tables = FlowTables::new(Arc::clone(&stats));
        if spec.fail_mode == FailMode::Standalone {
            // As Open vSwitch's bridges begin. It cannot be refused by empty tables.
            let _ = tables.apply(&[normal_rule()], self.inner.now_ms());
        }
        let bridge = Bridge {
            fdb,
            id,
            tables,
            stats,
            meters: BTreeMap::new(),
            spec,
        };
        actual.bridges.insert(bridge.spec.name.clone(), bridge);
        self.inner.publish(&mut actual);
        Ok(())
    }

    /// Changes a bridge's options in place; its rules stay as they are. Another
    /// limit means a new, empty FDB.
    pub fn set_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        let mut actual = lock(&self.inner.actual);
        let known = actual
            .bridges
            .get(&spec.name)
            .ok_or_else(|| DatapathError::not_found("bridge", &spec.name))?;
        let fdb = if known.spec.fdb_limit == spec.fdb_limit {
            Arc::clone(&known.fdb)
        } else {
            self.inner.new_fdb(&mut actual, &spec)?
        };
        if let Some(bridge) = actual.bridges.get_mut(&spec.name) {
            (bridge.spec, bridge.fdb) = (spec, fdb);
        }
        self.inner.publish(&mut actual);
        Ok(())
    }

    /// Removes a bridge and its ports.
    pub fn del_bridge(&self, name: &str) -> Result<(), DatapathError> {
        let ports: Vec<String> = {
            let actual = lock(&self.inner.actual);
            if !actual.bridges.contains_key(name) {
                return Err(DatapathError::not_found("bridge", name));
            }
            let on_bridge = actual.ports.values().filter(|p| p.spec.bridge == name);
            on_bridge.map(|port| port.spec.name.clone()).collect()
        };
        for port in ports {
            self.del_port(&port)?;
        }
        let mut actual = lock(&self.inner.actual);
        let removed = actual.bridges.remove(name);
        self.inner.publish(&mut actual);
        // PMDs have let go: its memory is given back here.
        drop(removed);
        Ok(())
    }

    /// Adds a port. Returns its number once all PMDs know it; a vhost-user
    /// port then waits for its peer.
    pub fn add_port(&self, spec: PortSpec) -> Result<u32, DatapathError> {
        {
            let mut actual = lock(&self.inner.actual);
            actual.number_for(&spec)?;
            if actual.adopting.is_some() {
                return self.adopt_port(&mut actual, spec);
            }
        }
        // A device may take seconds to come up: nobody else waits for it.
        let device = match &spec.kind {
            PortKind::Dpdk(options) => Some(self.inner.start_nic(&spec.name, spec.mtu, options)?),
            PortKind::System(options) => self.inner.start_xdp(&spec, options)?,
            _ => None,
        };
        let mut actual = lock(&self.inner.actual);
        // Others may have come and gone meanwhile.
        let number = actual.number_for(&spec)?;
        let (backing, queues) = match (&spec.kind, device) {
            (_, Some(device)) => device,
            (PortKind::Dpdk(options), None) => {
                self.inner.start_nic(&spec.name, spec.mtu, options)?
            }
            (PortKind::VhostUser(options), _) => {
                self.inner.start_guest(number, &spec.name, options)?
            }
            (PortKind::System(SystemSpec { queues, .. }), _) => {
                let queues = *queues;
                (self.inner).start_host(&spec, HostPortKind::System { queues })?
            }
            (PortKind::Internal(InternalSpec { mac, queues }), _) => {
                let (mac, queues) = (*mac, *queues);
                (self.inner).start_host(&spec, HostPortKind::Internal { queues, mac })?
            }
            (PortKind::Tap(TapSpec { owner }), _) => {
                (self.inner).start_host(&spec, HostPortKind::Tap { owner: *owner })?
            }
            (PortKind::Patch(PatchSpec { peer }), _) if *peer == spec.name || peer.is_empty() => {
                let port = spec.name.clone();
                let why = "peer= has to name a patch port of another bridge".to_owned();
                return Err(DatapathError::BadOption { port, why });
            }
            (PortKind::Patch(_), _) => (Backing::Patch(PatchBacking::default()), 0),
        };
        self.inner
            .insert_port(&mut actual, number, spec, backing, queues);
        self.inner.publish(&mut actual);
        Ok(number)
    }

    /// Removes a port once no PMD uses it; what was made for it is removed too:
    /// its socket file, or an internal or tap port's device.
    pub fn del_port(&self, name: &str) -> Result<(), DatapathError> {
        let (port, fdb) = {
            let mut actual = lock(&self.inner.actual);
            let number = actual
                .ports
                .values()
                .find(|port| port.spec.name == name)
                .map(|port| port.number)
                .ok_or_else(|| DatapathError::not_found("port", name))?;
            let port = actual.ports.remove(&number);
            self.inner.publish(&mut actual);
            let bridge = port.as_ref().map(|port| port.spec.bridge.clone());
            let fdb = bridge.and_then(|bridge| actual.bridges.get(&bridge));
            let fdb = fdb.map(|bridge| Arc::clone(&bridge.fdb));
            // No PMD learns on it any more: forget before the number can be
            // given to another port.
            if let Some(fdb) = &fdb {
                fdb.drop_port(number);
            }
            (port, fdb)
        };
        // Ends the session, whose thread may be waiting for the lock to
        // publish: not under it.
        if let Some(Port {
            backing: Backing::Host(host),
            ..
        }) = port
            && let Err(error) = host.port.remove()
        {
            tracing::warn!(port = name, %error, "the port is removed, its device not wholly");
        }
        drop(fdb);
        Ok(())
    }

    /// All bridges.
    pub fn bridges(&self) -> Vec<BridgeStatus> {
        let actual = lock(&self.inner.actual);
        let bridges = actual.bridges.values();
        bridges
            .map(|bridge| BridgeStatus {
                name: bridge.spec.name.clone(),
                fdb_entries: bridge.fdb.len(),
                fdb_limit: bridge.fdb.limit(),
                fdb_refused: bridge.fdb.refused(),
                fdb_moves: bridge.fdb.moves(),
                memory: self.inner.memory_kind(),
            })
            .collect()
    }

    /// All ports, by number.
    pub fn ports(&self) -> Vec<PortStatus> {
        // All interfaces are asked for at once, and while nobody waits for us.
        let is_host = |port: &Port| matches!(port.backing, Backing::Host(_));
        let links = match lock(&self.inner.actual).ports.values().any(is_host) {
            true => link::all().unwrap_or_default(),
            false => Vec::new(),
        };
        let actual = lock(&self.inner.actual);
        let cores = &self.inner.config.pmd_cores;
        actual
            .ports
            .values()
            .map(|port| {
                let bridge = actual.bridges.get(&port.spec.bridge);
                port.status(cores, &links, bridge.map(|bridge| &*bridge.fdb))
            })
            .collect()
    }

    /// Where all ports are, by number: no device is asked.
    pub fn port_places(&self) -> Vec<PortPlace> {
        let actual = lock(&self.inner.actual);
        let ports = actual.ports.values();
        ports
            .map(|port| PortPlace {
                number: port.number,
                name: port.spec.name.clone(),
                bridge: port.spec.bridge.clone(),
            })
            .collect()
    }

    /// All PMDs.
    pub fn pmds(&self) -> Vec<PmdStatus> {
        let actual = lock(&self.inner.actual);
        let pmds = self.inner.pmds.iter();
        pmds.map(|pmd| PmdStatus {
            core: pmd.core,
            polls: (pmd.plan().polls.iter())
                .filter_map(|poll| {
                    let port = actual.ports.get(&poll.port)?;
                    Some((port.spec.name.clone(), poll.queue))
                })
                .collect(),
            counters: pmd.counters.read(),
            sleeping: pmd.sleeping.load(Ordering::Relaxed),
        })
        .collect()
    }

    /// A bridge's learned stations.
    pub fn fdb(&self, bridge: &str) -> Result<Vec<FdbEntry>, DatapathError> {
        let actual = lock(&self.inner.actual);
        let known = actual
            .bridges
            .get(bridge)
            .ok_or_else(|| DatapathError::not_found("bridge", bridge))?;
        let now = self.inner.second();
        let mut entries = Vec::new();
        known.fdb.for_each(|station, port, second| {
            let name = actual.ports.get(&port).map(|port| port.spec.name.clone());
            entries.push(FdbEntry {
                mac: station.mac(),
                vlan: station.vlan(),
                port,
                port_name: name.unwrap_or_default(),
                age: Duration::from_secs(u64::from(now.saturating_sub(second))),
            });
        });
        entries.sort_by_key(|entry| (entry.port, entry.vlan, entry.mac));
        Ok(entries)
    }

    /// Forgets a bridge's stations; returns how many.
    pub fn fdb_flush(&self, bridge: &str) -> Result<usize, DatapathError> {
        let actual = lock(&self.inner.actual);
        let known = actual
            .bridges
            .get(bridge)
            .ok_or_else(|| DatapathError::not_found("bridge", bridge))?;
        Ok(known.fdb.retain(|_, _, _| false))
    }

    /// Stops every ring and PMD and removes the sockets. The devices of internal and
    /// tap ports stay. Once is enough: later calls find nothing to stop.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        if threads.pmds.is_empty() {
            return;
        }
        let ports = std::mem::take(&mut lock(&self.inner.actual).ports);
        {
            let mut actual = lock(&self.inner.actual);
            self.inner.publish(&mut actual);
        }
        drop(ports);
        if let Some(handle) = threads.housekeeper {
            self.inner.bell.stop();
            // A thread that panicked has said so already.
            let _ = handle.join();
        }
        let mut actual = lock(&self.inner.actual);
        self.inner.publish_plans(&mut actual, true);
        actual.stopped = true;
        for handle in threads.pmds {
            let _ = handle.join();
        }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.stop();
    }
}
