//! What the datapath has now, and how it becomes what PMDs work by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dpdk::Eal;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use ringway_flow::pipeline::FlowTables;
use ringway_flow::stats::StatsTable;
use ringway_flow::translate::Start;

use crate::cache;
use crate::clock::CoarseClock;
use crate::cpu::tsc;
use crate::error::DatapathError;
use crate::fdb::Fdb;
use crate::handover::Adopting;
use crate::housekeeping::Bell;
use crate::inject::{Injected, Injector};
use crate::meter::Meter;
use crate::port::{Backing, Port};
use crate::publish::{PmdShared, publish};
use crate::snapshot::{BridgeView, LOCAL, MAX_PORTS, Plan, Poll, PortView, Snapshot, Source};
use crate::spec::{BridgeSpec, DatapathConfig, MacMove, PortKind, PortSpec};
use crate::status::MemoryKind;
use crate::table_memory::TableMemory;
use crate::vlan::PortVlans;
use crate::warm::WarmUp;
use crate::watch::Watch;

pub struct Bridge {
    pub spec: BridgeSpec,
    pub fdb: Arc<Fdb>,
    /// See [`BridgeView::id`].
    pub id: u16,
    pub tables: FlowTables,
    pub stats: Arc<StatsTable>,
    /// By id.
    pub meters: BTreeMap<u32, Arc<Meter>>,
}

#[derive(Default)]
pub struct Actual {
    pub bridges: BTreeMap<String, Bridge>,
    /// By number.
    pub ports: BTreeMap<u32, Port>,
    pub version: u64,
    /// The last bridge's id.
    pub last_bridge_id: u16,
    /// Somebody waits for a packet.
    pub watch: Option<Arc<Watch>>,
    /// Names of table memory are unique; bridges may come and go.
    pub tables_made: u64,
    /// The PMDs have ended: there is nobody to publish to.
    pub stopped: bool,
    /// The PMDs have no ports: another process has them, or is about to.
    pub halted: bool,
    /// What another process has handed over, until this one goes on.
    pub adopting: Option<Adopting>,
    /// What the next plan of a poll-mode core has it make megaflows of.
    pub warm: Option<(usize, WarmUp)>,
}

pub struct Inner {
    pub config: DatapathConfig,
    pub eal: Eal,
    pub clock: CoarseClock,
    pub pmds: Vec<Arc<PmdShared>>,
    pub actual: Mutex<Actual>,
    /// What it takes to send a packet from the control plane.
    pub injector: Mutex<Injector>,
    /// Calls the housekeeper.
    pub bell: Arc<Bell>,
}

/// Most bridges: [`crate::cache::BRIDGES`].
const BRIDGES: u16 = cache::BRIDGES as u16;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is whole after every statement that changes it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Sends a frame through a bridge as if it had come from `in_port`, with the
    /// datapath's lock held: nobody publishes meanwhile, so what it meets stays.
    /// False: there is no poll-mode core.
    pub fn inject(
        &self,
        actual: &Actual,
        bridge: &str,
        in_port: u16,
        start: Start<'_>,
        frame: &[u8],
    ) -> bool {
        let Some(pmd) = self.pmds.first() else {
            return false;
        };
        let place = actual.bridges.keys().position(|known| known == bridge);
        let plan = pmd.plan();
        let packet = Injected {
            bridge: place.unwrap_or(usize::MAX),
            in_port,
            start,
            frame,
            row: self.pmds.len(),
            second: self.second(),
            now: tsc(),
        };
        lock(&self.injector).send(&packet, &plan.snapshot);
        true
    }
}

/// An epoll set that is ready when `wake` or one of the polled rings' kicks is
/// written. Edge-triggered: nobody has to read the eventfds.
pub fn wakeups(wake: &EventFd, polls: &[Poll]) -> nix::Result<Epoll> {
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
    pub fn assign(&self, queues: usize, pmds: usize) -> Vec<usize> {
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

    /// An id for another bridge: not the last one's, nor one in the place of a
    /// living bridge's.
    pub fn new_bridge_id(&mut self) -> Option<u16> {
        let taken: Vec<u16> = self
            .bridges
            .values()
            .map(|bridge| bridge.id % BRIDGES)
            .collect();
        let mut ids = (0..BRIDGES).map(|n| self.last_bridge_id.wrapping_add(1 + n));
        let id = ids.find(|id| *id != 0 && !taken.contains(&(id % BRIDGES)))?;
        self.last_bridge_id = id;
        Some(id)
    }

    /// The number that a new port gets: the one it asks for, or the lowest that
    /// is free.
    pub fn number_for(&self, spec: &PortSpec) -> Result<u32, DatapathError> {
        if !self.bridges.contains_key(&spec.bridge) {
            return Err(DatapathError::not_found("bridge", &spec.bridge));
        }
        if self.ports.values().any(|p| p.spec.name == spec.name) {
            return Err(DatapathError::exists("port", &spec.name));
        }
        if let PortKind::Internal(_) = spec.kind
            && spec.name != spec.bridge
            && self.bridges.contains_key(&spec.name)
        {
            let port = spec.name.clone();
            let why = "a bridge has that name: its own interface would have it too".to_owned();
            return Err(DatapathError::BadOption { port, why });
        }
        let free = |number: &u32| !self.ports.contains_key(number);
        let wanted = spec.number.filter(|n| (1..MAX_PORTS as u32).contains(n));
        if let (Some(number), None) = (spec.number, wanted.filter(free)) {
            let why = match self.ports.get(&number) {
                Some(other) => format!("number {number} is port {}'s", other.spec.name),
                None => format!("number {number} is not between 1 and {}", MAX_PORTS - 1),
            };
            let port = spec.name.clone();
            return Err(DatapathError::BadOption { port, why });
        }
        // Bridges' own interfaces keep out of the numbers that people use.
        let numbers = 1..MAX_PORTS as u32;
        let unused = match spec.is_local() {
            true => numbers.rev().find(free),
            false => numbers.clone().find(free),
        };
        (wanted.filter(free).or(unused)).ok_or_else(|| DatapathError::Unavailable {
            port: spec.name.clone(),
            why: format!("all {} port numbers are in use", MAX_PORTS - 1),
        })
    }

    /// Looks for each patch port's peer.
    fn join_patch_ports(&mut self) {
        let ports = self.ports.values();
        let peers: Vec<_> = ports
            .filter_map(|port| Some((port.number, self.find_peer(port)?)))
            .collect();
        for (number, peer) in peers {
            if let Some(port) = self.ports.get_mut(&number)
                && let Backing::Patch(patch) = &mut port.backing
                && patch.peer != peer
            {
                (patch.peer, patch.since) = (peer, SystemTime::now());
            }
        }
    }

    /// Number of a patch port's peer, or why there is no way to it. `None`: it is
    /// no patch port.
    fn find_peer(&self, port: &Port) -> Option<Result<u32, String>> {
        let name = port.patch_peer()?;
        let Some(peer) = self.ports.values().find(|peer| peer.spec.name == name) else {
            return Some(Err(format!(
                "there is no port {name}: add it to the other bridge, type=patch, with peer={}",
                port.spec.name
            )));
        };
        Some(match peer.patch_peer() {
            None => Err(format!("{name} is no patch port")),
            Some(other) if other != port.spec.name => Err(format!(
                "{name} names another peer: {other} instead of {}",
                port.spec.name
            )),
            Some(_) if peer.spec.bridge == port.spec.bridge => Err(format!(
                "{name} is on the same bridge: a pair joins two bridges"
            )),
            Some(_) => Ok(peer.number),
        })
    }

    /// Fast-failover groups choose by which ports can take frames.
    fn tell_live_ports(&mut self) {
        let mut live = [0u64; MAX_PORTS / 64];
        for port in self.ports.values().filter(|port| port.takes_frames()) {
            live[port.number as usize / 64] |= 1 << (port.number % 64);
        }
        for bridge in self.bridges.values_mut() {
            bridge.tables.set_live_ports(&live);
        }
    }

    /// FDBs learn on each port as much as it may. Stations of a port that is
    /// down are nobody's: its guest may have moved to another host.
    fn tell_fdbs(&self) {
        for port in self.ports.values() {
            if let Some(bridge) = self.bridges.get(&port.spec.bridge) {
                let guard = &port.spec.guard;
                let stay = guard.mac_move == MacMove::Deny && port.takes_frames();
                bridge.fdb.set_policy(port.number, guard.max_macs, stay);
            }
        }
    }

    /// Number of a bridge's own interface, [`LOCAL`] if it has none.
    pub fn local(&self, bridge: &str) -> u32 {
        (self.ports.values())
            .find(|port| port.spec.bridge == bridge && port.spec.is_local())
            .map_or(LOCAL, |port| port.number)
    }

    pub fn snapshot(&self) -> Snapshot {
        let names: Vec<&String> = self.bridges.keys().collect();
        let bridges = self.bridges.values().map(|bridge| BridgeView {
            id: bridge.id,
            fdb: Arc::clone(&bridge.fdb),
            pipeline: bridge.tables.pipeline(),
            stats: Arc::clone(&bridge.stats),
            meters: (bridge.meters.iter())
                .map(|(id, meter)| (*id, Arc::clone(meter)))
                .collect(),
            members: self
                .ports
                .values()
                .filter(|port| port.spec.bridge == bridge.spec.name && port.takes_frames())
                .map(|port| port.number)
                .collect(),
            local: self.local(&bridge.spec.name),
            has_vlans: (self.ports.values())
                .filter(|port| port.spec.bridge == bridge.spec.name)
                .any(|port| PortVlans::of(&port.spec.vlan).is_some()),
        });
        let last = self.ports.keys().next_back().copied().unwrap_or(0);
        let ports = (0..=last).map(|number| {
            let port = self.ports.get(&number)?;
            let bridge = names.binary_search(&&port.spec.bridge).ok()?;
            Some(PortView {
                bridge,
                bridge_id: self.bridges.get(&port.spec.bridge)?.id,
                output: port.output(),
                max_frame: port.max_frame(),
                vlans: PortVlans::of(&port.spec.vlan),
                guard: port.guarding.guard.clone(),
                storm: port.guarding.storm.clone(),
                counters: Arc::clone(&port.counters),
            })
        });
        Snapshot {
            bridges: bridges.collect(),
            ports: ports.collect(),
        }
    }

    /// The queues that the PMD with index `pmd` polls.
    pub fn polls(&self, pmd: usize) -> Vec<Poll> {
        let mut polls = Vec::new();
        for port in self.ports.values() {
            for (queue, assigned) in (0u16..).zip(&port.assignment) {
                if *assigned != pmd {
                    continue;
                }
                let source = match &port.backing {
                    Backing::Nic(nic) => Some(Source::Nic(Arc::clone(nic))),
                    backing => (backing.rings())
                        .and_then(|rings| rings.pairs.get(usize::from(queue)))
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

    /// Whether the port's other end is the kernel.
    fn leads_to_kernel(&self, number: u32) -> bool {
        let port = self.ports.get(&number);
        port.is_some_and(|port| matches!(port.backing, Backing::Host(_)))
    }
}

impl Inner {
    /// Milliseconds of the datapath's clock.
    pub fn now_ms(&self) -> u64 {
        self.clock.ms_at(tsc())
    }

    pub fn second(&self) -> u32 {
        let mut clock = self.clock;
        clock.seconds_at(tsc())
    }

    pub fn memory_kind(&self) -> MemoryKind {
        match self.eal.memory() {
            dpdk::MemoryKind::Hugepages { page_bytes } => MemoryKind::Hugepages(*page_bytes),
            dpdk::MemoryKind::Ordinary { reason } => MemoryKind::Ordinary(reason.clone()),
        }
    }

    pub fn new_fdb(
        &self,
        actual: &mut Actual,
        spec: &BridgeSpec,
    ) -> Result<Arc<Fdb>, DatapathError> {
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
    pub fn publish(&self, actual: &mut Actual) {
        self.publish_plans(actual, false);
    }

    pub fn publish_plans(&self, actual: &mut Actual, stop: bool) {
        if actual.stopped {
            return;
        }
        actual.version += 1;
        actual.join_patch_ports();
        actual.tell_live_ports();
        actual.tell_fdbs();
        let mut snapshot = actual.snapshot();
        if actual.halted {
            // Bridges stay: their megaflows still have cells to count in.
            snapshot.ports.clear();
            snapshot
                .bridges
                .iter_mut()
                .for_each(|bridge| bridge.members.clear());
        }
        let snapshot = Arc::new(snapshot);
        let mut warm = actual.warm.take();
        let mut plans = Vec::with_capacity(self.pmds.len());
        for (index, pmd) in self.pmds.iter().enumerate() {
            let polls = match actual.halted {
                true => Vec::new(),
                false => actual.polls(index),
            };
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
                only_kernel: (polls.iter()).all(|poll| actual.leads_to_kernel(poll.port)),
                polls,
                wakeups,
                warm: warm
                    .take_if(|(core, _)| *core == index)
                    .map(|(_, warm)| warm),
                watch: actual.watch.clone(),
                stop,
            });
        }
        self.share_cpus(actual, &plans);
        publish(&self.pmds, plans);
    }
}
