//! A datapath that only remembers, and fails where it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use ringway_datapath::spec::{BridgeSpec, PortKind, PortSpec};
use ringway_datapath::status::*;
use ringway_datapath::{DatapathError, DropReason};
use ringwayd::switch::Switch;

#[derive(Clone, Debug)]
pub enum Fault {
    Unavailable(&'static str),
    BadOption(&'static str),
}

#[derive(Default)]
pub struct State {
    pub bridges: BTreeMap<String, BridgeSpec>,
    pub ports: BTreeMap<u32, PortStatus>,
    pub specs: BTreeMap<String, PortSpec>,
    pub fdb: BTreeMap<String, Vec<FdbEntry>>,
    pub pmds: Vec<PmdStatus>,
    /// Adding or deleting an object of that name fails.
    pub faults: BTreeMap<String, Fault>,
    /// Every changing call, e.g. `add_port vm1`.
    pub calls: Vec<String>,
    last_number: u32,
}

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn fail(&self, name: &str, fault: Fault) {
        self.state().faults.insert(name.into(), fault);
    }

    pub fn heal(&self, name: &str) {
        self.state().faults.remove(name);
    }

    pub fn set_port(&self, name: &str, change: impl FnOnce(&mut PortStatus)) {
        let mut state = self.state();
        let mut ports = state.ports.values_mut();
        change(
            ports
                .find(|port| port.name == name)
                .expect("a port of that name"),
        );
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    pub fn port_names(&self) -> Vec<String> {
        let ports = self.ports().into_iter();
        ports.map(|port| port.name).collect()
    }

    /// Two ports with traffic and drops, a PMD and two stations; for br0 with
    /// vm1 and p0 on it.
    pub fn add_traffic(&self) {
        let drops = |of_queue| PortCounters {
            rx_packets: 100,
            rx_bytes: 6_400,
            tx_packets: 90,
            tx_bytes: 5_760,
            rx_drops: vec![(DropReason::BadOffload, 3)],
            tx_drops: vec![(DropReason::RingFull, of_queue), (DropReason::NoMbuf, 0)],
            guest_notifications: 7,
        };
        self.set_port("vm1", |port| {
            port.state = PortState::Forwarding;
            port.counters = drops(12);
            port.queues = vec![QueueStatus {
                queue: 0,
                pmd_core: Some(1),
                dequeue_size: 1024,
                enqueue_size: 256,
                counters: drops(10),
            }];
            port.details = vec![("features".into(), "mrg_rxbuf".into())];
        });
        let station = |port, port_name: &str, last, age| FdbEntry {
            mac: [0x52, 0x54, 0, 0, 0, last],
            vlan: 0,
            port,
            port_name: port_name.into(),
            age: Duration::from_millis(age),
        };
        let mut state = self.state();
        let stations = vec![station(2, "p0", 2, 0), station(1, "vm1", 1, 12_900)];
        state.fdb.insert("br0".into(), stations);
        state.pmds = vec![PmdStatus {
            core: 1,
            polls: vec![("vm1".into(), 0), ("p0".into(), 0)],
            counters: PmdCounters {
                iterations: 1_000,
                busy_polls: 50,
                busy_cycles: 25_000,
                idle_cycles: 70_000,
                sleep_cycles: 5_000,
                sleeps: 2,
                received: 200,
                replicated: 5,
                transmitted: 190,
                dropped: vec![(DropReason::BadOffload, 3), (DropReason::RingFull, 12)],
            },
            sleeping: false,
        }];
    }
}

impl State {
    fn check(&self, name: &str) -> Result<(), DatapathError> {
        let port = name.to_owned();
        match self.faults.get(name) {
            None => Ok(()),
            Some(Fault::Unavailable(why)) => {
                let why = (*why).into();
                Err(DatapathError::Unavailable { port, why })
            }
            Some(Fault::BadOption(why)) => {
                let why = (*why).into();
                Err(DatapathError::BadOption { port, why })
            }
        }
    }

    fn number(&self, name: &str) -> Option<u32> {
        let mut ports = self.ports.values();
        let found = ports.find(|port| port.name == name);
        found.map(|port| port.number)
    }
}

fn not_found(object: &'static str, name: &str) -> DatapathError {
    let name = name.into();
    DatapathError::NotFound { object, name }
}

impl Switch for Fake {
    fn info(&self) -> DatapathInfo {
        DatapathInfo {
            memory: MemoryKind::Hugepages(2 << 20),
            tsc_hz: 2_600_000_000,
            dpdk_version: "DPDK 22.11".into(),
        }
    }

    fn add_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.calls.push(format!("add_bridge {}", spec.name));
        state.check(&spec.name)?;
        if state.bridges.contains_key(&spec.name) {
            let (object, name) = ("bridge", spec.name);
            return Err(DatapathError::Exists { object, name });
        }
        state.bridges.insert(spec.name.clone(), spec);
        Ok(())
    }

    fn del_bridge(&self, name: &str) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.calls.push(format!("del_bridge {name}"));
        state.check(name)?;
        let gone = state.bridges.remove(name);
        gone.ok_or_else(|| not_found("bridge", name))?;
        state.ports.retain(|_, port| port.bridge != name);
        Ok(())
    }

    fn add_port(&self, spec: PortSpec) -> Result<u32, DatapathError> {
        let mut state = self.state();
        state.calls.push(format!("add_port {}", spec.name));
        state.check(&spec.name)?;
        if !state.bridges.contains_key(&spec.bridge) {
            return Err(not_found("bridge", &spec.bridge));
        }
        if state.number(&spec.name).is_some() {
            let (object, name) = ("port", spec.name);
            return Err(DatapathError::Exists { object, name });
        }
        state.last_number += 1;
        let number = state.last_number;
        let (kind, port_state) = match spec.kind {
            PortKind::Dpdk(_) => ("dpdk", PortState::Forwarding),
            PortKind::VhostUser(_) => {
                let (state, why) = ("waiting-for-socket", "no guest yet".into());
                ("vhost-user", PortState::Waiting { state, why })
            }
        };
        let status = PortStatus {
            number,
            name: spec.name.clone(),
            bridge: spec.bridge.clone(),
            kind,
            state: port_state,
            since: SystemTime::now(),
            details: vec![],
            queues: vec![],
            counters: PortCounters::default(),
        };
        state.ports.insert(number, status);
        state.specs.insert(spec.name.clone(), spec);
        Ok(number)
    }

    fn del_port(&self, name: &str) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.calls.push(format!("del_port {name}"));
        state.check(name)?;
        let number = state.number(name).ok_or_else(|| not_found("port", name))?;
        state.ports.remove(&number);
        Ok(())
    }

    fn bridges(&self) -> Vec<BridgeStatus> {
        let state = self.state();
        let status = |spec: &BridgeSpec| BridgeStatus {
            name: spec.name.clone(),
            fdb_entries: state.fdb.get(&spec.name).map_or(0, Vec::len) as u32,
            fdb_limit: spec.fdb_limit,
            fdb_refused: 0,
            fdb_moves: 0,
            memory: MemoryKind::Ordinary("no hugepages here".into()),
        };
        state.bridges.values().map(status).collect()
    }

    fn ports(&self) -> Vec<PortStatus> {
        self.state().ports.values().cloned().collect()
    }

    fn pmds(&self) -> Vec<PmdStatus> {
        self.state().pmds.clone()
    }

    fn fdb(&self, bridge: &str) -> Result<Vec<FdbEntry>, DatapathError> {
        let state = self.state();
        let known = state.bridges.get(bridge);
        known.ok_or_else(|| not_found("bridge", bridge))?;
        Ok(state.fdb.get(bridge).cloned().unwrap_or_default())
    }

    fn fdb_flush(&self, bridge: &str) -> Result<usize, DatapathError> {
        let stations = self.fdb(bridge)?.len();
        self.state().fdb.remove(bridge);
        Ok(stations)
    }
}
