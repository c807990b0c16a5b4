//! The handle that the control plane holds: bridges and ports as they are, and
//! every change on its way to the PMDs.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use core_affinity::CoreId;
use dpdk::{Eal, EalConfig, MemoryChoice, Mempool, Port as DpdkDevice, PortConfig};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ringway_vhost::{DeviceRings, GuestPort, GuestPortConfig, MAX_QUEUE_PAIRS, RingPublisher};

use crate::clock::CoarseClock;
use crate::counters::{PmdCounterCells, PortCounterTable};
use crate::cpu::tsc;
use crate::fdb::Fdb;
use crate::nic::Nic;
use crate::pmd;
use crate::port::{Backing, Port, vhost_mode};
use crate::publish::{PmdShared, publish};
use crate::snapshot::{BridgeView, MAX_PORTS, Plan, Poll, PortView, Snapshot, Source};
use crate::spec::{
    BridgeSpec, DatapathConfig, DpdkSpec, Hugepages, PortKind, PortSpec, VhostUserSpec,
};
use crate::status::{
    BridgeStatus, DatapathInfo, FdbEntry, MemoryKind, PmdCounters, PmdStatus, PortStatus,
};
use crate::table_memory::TableMemory;

/// Mbufs for NIC ports: room for their descriptors and bursts in flight.
const MBUFS: u32 = 8192;
/// Largest frame one mbuf holds: jumbo frames fit without chaining.
const MBUF_DATA_BYTES: u16 = 9_728;
const MBUF_CACHE: u32 = 256;

/// Why the datapath refused something. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A bridge or port of that name is there already.
    #[error("{object} {name} exists already")]
    Exists {
        /// `bridge` or `port`.
        object: &'static str,
        /// Its name.
        name: String,
    },
    /// No bridge or port of that name.
    #[error("no {object} named {name}")]
    NotFound {
        /// `bridge` or `port`.
        object: &'static str,
        /// The name looked for.
        name: String,
    },
    /// An option has no possible meaning.
    #[error("port {port}: {why}")]
    BadOption {
        /// The port's name.
        port: String,
        /// Which option, what is wrong with it, what is allowed.
        why: String,
    },
    /// The system refused something that may work later (a device that is
    /// missing, a path in use).
    #[error("port {port}: {why}")]
    Unavailable {
        /// The port's name.
        port: String,
        /// What happened and what to do about it.
        why: String,
    },
    /// No memory for a bridge's tables.
    #[error("bridge {bridge}: {why}; give ringwayd more with --memory, or learn fewer stations")]
    NoMemory {
        /// The bridge's name.
        bridge: String,
        /// What happened.
        why: String,
    },
    /// The datapath could not start.
    #[error("the datapath could not start: {0}")]
    Start(String),
}

struct Bridge {
    spec: BridgeSpec,
    fdb: Arc<Fdb>,
}

#[derive(Default)]
struct Actual {
    bridges: BTreeMap<String, Bridge>,
    /// By number.
    ports: BTreeMap<u32, Port>,
    mempool: Option<Mempool>,
    version: u64,
    /// Names of table memory are unique; bridges may come and go.
    tables_made: u64,
    /// The PMDs have ended: there is nobody to publish to.
    stopped: bool,
}

struct Inner {
    config: DatapathConfig,
    eal: Eal,
    clock: CoarseClock,
    pmds: Vec<Arc<PmdShared>>,
    actual: Mutex<Actual>,
}

/// The running datapath. Calls return once every PMD works by the new state.
pub struct Datapath {
    inner: Arc<Inner>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    pmds: Vec<JoinHandle<()>>,
    housekeeper: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is whole after every statement that changes it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            memory_mib: config.memory_mib,
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
                let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                    .map_err(|error| start("cannot make an eventfd", &error))?;
                let first = Plan {
                    version: 0,
                    snapshot: Arc::default(),
                    polls: Vec::new(),
                    wakeups: wakeups(&wake, &[]).ok(),
                    polls_nic: false,
                    stop: false,
                };
                Ok(Arc::new(PmdShared::new(*core, Arc::new(first), wake)))
            })
            .collect::<Result<Vec<_>, DatapathError>>()?;
        let datapath = Self {
            inner: Arc::new(Inner {
                clock: CoarseClock::start(eal.tsc_hz()),
                config,
                eal,
                pmds,
                actual: Mutex::default(),
            }),
            threads: Mutex::default(),
        };
        for index in 0..datapath.inner.pmds.len() {
            let handle = start_pmd(&datapath.inner, index)
                .map_err(|error| start("cannot start a PMD thread", &error))?;
            lock(&datapath.threads).pmds.push(handle);
        }
        let (stop, stopped) = mpsc::channel();
        let inner = Arc::downgrade(&datapath.inner);
        let handle = thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || keep_house(&inner, &stopped))
            .map_err(|error| start("cannot start the housekeeping thread", &error))?;
        lock(&datapath.threads).housekeeper = Some((stop, handle));
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
            return Err(exists("bridge", &spec.name));
        }
        let fdb = self.inner.new_fdb(&mut actual, &spec)?;
        actual
            .bridges
            .insert(spec.name.clone(), Bridge { spec, fdb });
        self.inner.publish(&mut actual);
        Ok(())
    }

    /// Changes a bridge's options in place. Another limit means a new, empty FDB.
    pub fn set_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        let mut actual = lock(&self.inner.actual);
        let known = actual
            .bridges
            .get(&spec.name)
            .ok_or_else(|| not_found("bridge", &spec.name))?;
        let fdb = if known.spec.fdb_limit == spec.fdb_limit {
            Arc::clone(&known.fdb)
        } else {
            self.inner.new_fdb(&mut actual, &spec)?
        };
        actual
            .bridges
            .insert(spec.name.clone(), Bridge { spec, fdb });
        self.inner.publish(&mut actual);
        Ok(())
    }

    /// Removes a bridge and its ports.
    pub fn del_bridge(&self, name: &str) -> Result<(), DatapathError> {
        let ports: Vec<String> = {
            let actual = lock(&self.inner.actual);
            if !actual.bridges.contains_key(name) {
                return Err(not_found("bridge", name));
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
        let mut actual = lock(&self.inner.actual);
        if !actual.bridges.contains_key(&spec.bridge) {
            return Err(not_found("bridge", &spec.bridge));
        }
        if actual.ports.values().any(|p| p.spec.name == spec.name) {
            return Err(exists("port", &spec.name));
        }
        let number = (1..MAX_PORTS as u32)
            .find(|number| !actual.ports.contains_key(number))
            .ok_or_else(|| DatapathError::Unavailable {
                port: spec.name.clone(),
                why: format!("all {} port numbers are in use", MAX_PORTS - 1),
            })?;
        let (backing, queues) = match &spec.kind {
            PortKind::VhostUser(options) => self.inner.start_guest(number, &spec.name, options)?,
            PortKind::Dpdk(options) => self.inner.start_nic(&mut actual, &spec.name, options)?,
        };
        let assignment = actual.assign(queues, self.inner.pmds.len());
        let counters = PortCounterTable::new(self.inner.pmds.len(), queues);
        actual.ports.insert(
            number,
            Port {
                number,
                spec,
                backing,
                counters: Arc::new(counters),
                assignment,
                since: SystemTime::now(),
            },
        );
        self.inner.publish(&mut actual);
        Ok(number)
    }

    /// Removes a port once no PMD uses it; its socket file is removed.
    pub fn del_port(&self, name: &str) -> Result<(), DatapathError> {
        let (port, fdb) = {
            let mut actual = lock(&self.inner.actual);
            let number = actual
                .ports
                .values()
                .find(|port| port.spec.name == name)
                .map(|port| port.number)
                .ok_or_else(|| not_found("port", name))?;
            let port = actual.ports.remove(&number);
            self.inner.publish(&mut actual);
            let bridge = port.as_ref().map(|port| port.spec.bridge.clone());
            let fdb = bridge.and_then(|bridge| actual.bridges.get(&bridge));
            let fdb = fdb.map(|bridge| Arc::clone(&bridge.fdb));
            // No PMD learns on it any more: forget before the number can be
            // given to another port.
            if let Some(fdb) = &fdb {
                fdb.retain(|_, port, _| port != number);
            }
            (port, fdb)
        };
        // Ends the session, whose thread may be waiting for the lock to
        // publish: not under it.
        drop(port);
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
        let actual = lock(&self.inner.actual);
        let cores = &self.inner.config.pmd_cores;
        actual
            .ports
            .values()
            .map(|port| port.status(cores))
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
            counters: pmd_counters(&pmd.counters),
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
            .ok_or_else(|| not_found("bridge", bridge))?;
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
            .ok_or_else(|| not_found("bridge", bridge))?;
        Ok(known.fdb.retain(|_, _, _| false))
    }

    /// Stops every ring and PMD and removes the sockets. Once is enough: later
    /// calls find nothing to stop.
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
        if let Some((stop, handle)) = threads.housekeeper {
            drop(stop);
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

fn exists(object: &'static str, name: &str) -> DatapathError {
    DatapathError::Exists {
        object,
        name: name.to_owned(),
    }
}

fn not_found(object: &'static str, name: &str) -> DatapathError {
    DatapathError::NotFound {
        object,
        name: name.to_owned(),
    }
}

fn check_cores(wanted: &[usize]) -> Result<(), DatapathError> {
    let there: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect();
    if wanted.is_empty() {
        return Err(DatapathError::Start(
            "no PMD core was given: name at least one CPU, as in --pmd-cores 1".to_owned(),
        ));
    }
    for (index, core) in wanted.iter().enumerate() {
        if !there.contains(core) {
            return Err(DatapathError::Start(format!(
                "PMD core {core} is not a CPU this process may run on (these are: {there:?}); \
                 choose others with --pmd-cores"
            )));
        }
        if wanted[..index].contains(core) {
            return Err(DatapathError::Start(format!(
                "PMD core {core} is named twice in --pmd-cores"
            )));
        }
    }
    Ok(())
}

fn start_pmd(inner: &Arc<Inner>, index: usize) -> std::io::Result<JoinHandle<()>> {
    let shared = Arc::clone(&inner.pmds[index]);
    let eal = inner.eal.clone();
    let clock = inner.clock;
    let sleep_after = inner.config.sleep_after.as_nanos() * u128::from(inner.eal.tsc_hz());
    let sleep_after = u64::try_from(sleep_after / 1_000_000_000).unwrap_or(u64::MAX);
    thread::Builder::new()
        .name(format!("pmd-{}", shared.core))
        .spawn(move || {
            if !core_affinity::set_for_current(CoreId { id: shared.core }) {
                tracing::warn!(core = shared.core, "could not pin the PMD to its CPU");
            }
            // Without a DPDK id the mempool works too, only without its cache.
            let registered = eal
                .register_thread()
                .inspect_err(|error| tracing::warn!(core = shared.core, %error, "PMD"));
            pmd::run(&shared, index, clock, sleep_after);
            drop(registered);
        })
}

/// Ages the FDBs once a second and reports quarantined ports.
fn keep_house(inner: &Weak<Inner>, stopped: &mpsc::Receiver<()>) {
    let mut quarantined = std::collections::BTreeSet::new();
    while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_secs(1)) {
        let Some(inner) = inner.upgrade() else { return };
        let actual = lock(&inner.actual);
        let now = inner.second();
        for bridge in actual.bridges.values() {
            let ageing = u32::try_from(bridge.spec.fdb_ageing.as_secs()).unwrap_or(u32::MAX);
            bridge
                .fdb
                .retain(|_, _, second| now.saturating_sub(second) <= ageing);
        }
        for port in actual.ports.values() {
            let status = port.status(&inner.config.pmd_cores);
            if let crate::status::PortState::Quarantined { why } = &status.state {
                if quarantined.insert(port.number) {
                    tracing::warn!(port = port.spec.name, "quarantined: {why}");
                }
            } else {
                quarantined.remove(&port.number);
            }
        }
    }
}

fn pmd_counters(cells: &PmdCounterCells) -> PmdCounters {
    PmdCounters {
        iterations: cells.iterations.get(),
        busy_polls: cells.busy_polls.get(),
        busy_cycles: cells.busy_cycles.get(),
        idle_cycles: cells.idle_cycles.get(),
        sleep_cycles: cells.sleep_cycles.get(),
        sleeps: cells.sleeps.get(),
        received: cells.received.get(),
        replicated: cells.replicated.get(),
        transmitted: cells.transmitted.get(),
        dropped: cells.dropped.nonzero(),
    }
}

/// An epoll set that is ready when `wake` or one of the polled rings' kicks is
/// written. Edge-triggered: nobody has to read the eventfds.
fn wakeups(wake: &EventFd, polls: &[Poll]) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let event = || EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
    epoll.add(wake, event())?;
    for poll in polls {
        if let Source::Ring(ring) = &poll.source
            && let Some(kick) = ring.kick_fd()
        {
            epoll.add(kick, event())?;
        }
    }
    Ok(epoll)
}

impl Actual {
    /// Gives each of a new port's queues to the PMD with the fewest.
    fn assign(&self, queues: usize, pmds: usize) -> Vec<usize> {
        let mut load = vec![0usize; pmds];
        for pmd in self.ports.values().flat_map(|port| &port.assignment) {
            load[*pmd] += 1;
        }
        (0..queues)
            .map(|_| {
                let least = (0..pmds).min_by_key(|pmd| load[*pmd]).unwrap_or(0);
                load[least] += 1;
                least
            })
            .collect()
    }

    fn snapshot(&self) -> Snapshot {
        let names: Vec<&String> = self.bridges.keys().collect();
        let bridges = self.bridges.values().map(|bridge| BridgeView {
            fdb: Arc::clone(&bridge.fdb),
            fail_mode: bridge.spec.fail_mode,
            members: self
                .ports
                .values()
                .filter(|port| port.spec.bridge == bridge.spec.name && port.takes_frames())
                .map(|port| port.number)
                .collect(),
        });
        let last = self.ports.keys().next_back().copied().unwrap_or(0);
        let ports = (0..=last).map(|number| {
            let port = self.ports.get(&number)?;
            let bridge = names.binary_search(&&port.spec.bridge).ok()?;
            Some(PortView {
                bridge,
                output: port.output(),
                counters: Arc::clone(&port.counters),
            })
        });
        Snapshot {
            bridges: bridges.collect(),
            ports: ports.collect(),
        }
    }

    /// The queues that the PMD with index `pmd` polls.
    fn polls(&self, pmd: usize) -> Vec<Poll> {
        let mut polls = Vec::new();
        for port in self.ports.values() {
            for (queue, assigned) in (0u16..).zip(&port.assignment) {
                if *assigned != pmd {
                    continue;
                }
                let source = match &port.backing {
                    Backing::Nic(nic) => Some(Source::Nic(Arc::clone(nic))),
                    Backing::Guest { rings, .. } => (rings.pairs.get(usize::from(queue)))
                        .and_then(|pair| pair.dequeue.as_ref())
                        .map(|ring| Source::Ring(Arc::clone(ring))),
                };
                polls.extend(source.map(|source| Poll {
                    port: port.number,
                    queue,
                    source,
                }));
            }
        }
        polls
    }
}

impl Inner {
    fn second(&self) -> u32 {
        let mut clock = self.clock;
        clock.seconds_at(tsc())
    }

    fn memory_kind(&self) -> MemoryKind {
        match self.eal.memory() {
            dpdk::MemoryKind::Hugepages { page_bytes } => MemoryKind::Hugepages(*page_bytes),
            dpdk::MemoryKind::Ordinary { reason } => MemoryKind::Ordinary(reason.clone()),
        }
    }

    fn new_fdb(&self, actual: &mut Actual, spec: &BridgeSpec) -> Result<Arc<Fdb>, DatapathError> {
        actual.tables_made += 1;
        let name = format!("fdb-{}", actual.tables_made);
        let memory = TableMemory::reserve(&self.eal, &name, Fdb::words_for(spec.fdb_limit))
            .map_err(|error| DatapathError::NoMemory {
                bridge: spec.name.clone(),
                why: error.to_string(),
            })?;
        Ok(Arc::new(Fdb::new(memory, spec.fdb_limit)))
    }

    /// Makes PMDs work by `actual`; returns when all do.
    fn publish(&self, actual: &mut Actual) {
        self.publish_plans(actual, false);
    }

    fn publish_plans(&self, actual: &mut Actual, stop: bool) {
        if actual.stopped {
            return;
        }
        actual.version += 1;
        let snapshot = Arc::new(actual.snapshot());
        let mut plans = Vec::with_capacity(self.pmds.len());
        for (index, pmd) in self.pmds.iter().enumerate() {
            let polls = actual.polls(index);
            let wakeups = wakeups(pmd.wake_fd(), &polls)
                .inspect_err(|error| {
                    tracing::error!(
                        core = pmd.core, %error,
                        "no epoll set for the PMD (too many open files?): it polls without sleep"
                    );
                })
                .ok();
            plans.push(Plan {
                version: actual.version,
                snapshot: Arc::clone(&snapshot),
                polls_nic: polls
                    .iter()
                    .any(|poll| matches!(poll.source, Source::Nic(_))),
                polls,
                wakeups,
                stop,
            });
        }
        publish(&self.pmds, plans);
    }

    fn start_guest(
        self: &Arc<Self>,
        number: u32,
        name: &str,
        options: &VhostUserSpec,
    ) -> Result<(Backing, usize), DatapathError> {
        if options.queues == 0 || options.queues > MAX_QUEUE_PAIRS {
            return Err(DatapathError::BadOption {
                port: name.to_owned(),
                why: format!(
                    "queues={} is not between 1 and {MAX_QUEUE_PAIRS}",
                    options.queues
                ),
            });
        }
        let config = GuestPortConfig {
            name: name.to_owned(),
            path: options.path.clone(),
            mode: vhost_mode(options.mode),
            queue_pairs: options.queues,
            owner: options.owner,
            permissions: options.permissions,
        };
        let publisher = Arc::new(PortPublisher {
            inner: Arc::downgrade(self),
            number,
            name: name.to_owned(),
        });
        let session = GuestPort::start(config, publisher).map_err(|error| {
            let (port, why) = (name.to_owned(), error.to_string());
            match error {
                ringway_vhost::GuestPortError::PathTooLong { .. } => {
                    DatapathError::BadOption { port, why }
                }
                _ => DatapathError::Unavailable { port, why },
            }
        })?;
        let backing = Backing::Guest {
            session: Some(session),
            rings: Arc::default(),
        };
        Ok((backing, usize::from(options.queues)))
    }

    fn start_nic(
        &self,
        actual: &mut Actual,
        name: &str,
        options: &DpdkSpec,
    ) -> Result<(Backing, usize), DatapathError> {
        let unavailable = |error: &dyn std::fmt::Display| DatapathError::Unavailable {
            port: name.to_owned(),
            why: error.to_string(),
        };
        if options.rx_queues == 0 {
            return Err(DatapathError::BadOption {
                port: name.to_owned(),
                why: "n_rxq=0: a DPDK port needs at least one receive queue".to_owned(),
            });
        }
        let mempool = match &actual.mempool {
            Some(mempool) => mempool.clone(),
            None => {
                let mempool =
                    Mempool::create(&self.eal, "mbufs", MBUFS, MBUF_DATA_BYTES, MBUF_CACHE)
                        .map_err(|error| unavailable(&error))?;
                actual.mempool.insert(mempool).clone()
            }
        };
        let device =
            DpdkDevice::attach(&self.eal, &options.devargs).map_err(|error| unavailable(&error))?;
        let tx_queues = (self.pmds.len() as u16)
            .min(device.info().max_tx_queues)
            .max(1);
        let mut config = PortConfig::new(mempool.clone());
        config.rx_queues = options.rx_queues;
        config.tx_queues = tx_queues;
        let (running, rx, tx) = device
            .configure(&config)
            .map_err(|error| unavailable(&error))?
            .start()
            .map_err(|error| unavailable(&error))?;
        let nic = Nic::new(running, rx, tx, mempool);
        let queues = nic.rx_queues();
        Ok((Backing::Nic(Arc::new(nic)), queues))
    }
}

/// A guest port's way to the PMDs.
struct PortPublisher {
    inner: Weak<Inner>,
    number: u32,
    name: String,
}

impl RingPublisher for PortPublisher {
    fn publish(&self, rings: Arc<DeviceRings>) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        let mut actual = lock(&inner.actual);
        // The port may be gone, and its number another's.
        match actual.ports.get_mut(&self.number) {
            Some(port) if port.spec.name == self.name => {
                if let Backing::Guest { rings: current, .. } = &mut port.backing {
                    *current = rings;
                }
                inner.publish(&mut actual);
            }
            _ => {}
        }
    }
}
