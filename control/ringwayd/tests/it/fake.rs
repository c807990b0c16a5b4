//! A datapath that only remembers, and fails where it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use std::time::Instant;

use ringway_datapath::flows::*;
use ringway_datapath::spec::{BridgeSpec, PortKind, PortSpec};
use ringway_datapath::status::*;
use ringway_datapath::{DatapathError, DropReason};
use ringway_flow::action::Action;
use ringway_flow::matching::Match;
use ringway_flow::pipeline::FlowTables;
use ringway_flow::rule::{Change, FlowSpec};
use ringway_flow::stats::StatsTable;
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
    /// What the devices count themselves, by port.
    pub device: BTreeMap<String, Vec<(String, u64)>>,
    /// How often interfaces were to be looked at.
    pub looks: usize,
    /// How often all ports were asked for.
    pub asked: usize,
    pub fdb: BTreeMap<String, Vec<FdbEntry>>,
    pub pmds: Vec<PmdStatus>,
    /// Adding, changing or deleting an object of that name fails; `port NAME`
    /// stands for the port alone where there is a bridge of the name.
    pub faults: BTreeMap<String, Fault>,
    /// Every changing call, e.g. `add_port vm1`.
    pub calls: Vec<String>,
    /// Every change of flows: the bridge and how many at once.
    pub flow_calls: Vec<(String, usize)>,
    /// By bridge.
    pub tables: BTreeMap<String, FlowTables>,
    pub megaflows: Vec<MegaflowStatus>,
    pub packet_ins: Vec<PacketIn>,
    pub packet_ins_lost: u64,
    /// What the next packet that is waited for will be told as.
    pub next_trace: Option<String>,
    /// Packets that were sent: in_port, actions, frame.
    pub sent: Vec<(u16, Vec<Action>, Vec<u8>)>,
    /// Added to the clock.
    pub ahead: Duration,
}

/// When the fakes' clock was zero, somewhat after which everything happens.
fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
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
    /// Milliseconds of the fakes' clock.
    fn now_ms(&self) -> u64 {
        (epoch().elapsed() + self.ahead).as_millis() as u64 + 1_000
    }

    fn tables(&self, bridge: &str) -> Result<&FlowTables, DatapathError> {
        let tables = self.tables.get(bridge);
        tables.ok_or_else(|| not_found("bridge", bridge))
    }

    fn rule(&self, tables: &FlowTables, rule: Arc<ringway_flow::rule::Rule>) -> RuleStatus {
        let cell = tables.stats().cell(rule.stats);
        let counts = cell.map(|cell| cell.read()).unwrap_or_default();
        let since = |ms: u64| Duration::from_millis(self.now_ms().saturating_sub(ms));
        RuleStatus {
            age: since(rule.created_ms),
            idle: since(counts.used_ms.max(rule.created_ms)),
            counts,
            rule,
        }
    }

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
        let tables = FlowTables::new(Arc::new(StatsTable::default()));
        state.tables.insert(spec.name.clone(), tables);
        state.bridges.insert(spec.name.clone(), spec);
        Ok(())
    }

    fn del_bridge(&self, name: &str) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.calls.push(format!("del_bridge {name}"));
        state.check(name)?;
        let gone = state.bridges.remove(name);
        gone.ok_or_else(|| not_found("bridge", name))?;
        state.tables.remove(name);
        state.ports.retain(|_, port| port.bridge != name);
        state.specs.retain(|_, port| port.bridge != name);
        Ok(())
    }

    fn set_bridge(&self, spec: BridgeSpec) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.calls.push(format!("set_bridge {}", spec.name));
        state.check(&spec.name)?;
        match state.bridges.get_mut(&spec.name) {
            Some(known) => *known = spec,
            None => return Err(not_found("bridge", &spec.name)),
        }
        Ok(())
    }

    fn set_port(&self, spec: PortSpec) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.calls.push(format!("set_port {}", spec.name));
        state.check(&spec.name)?;
        let known = state.specs.get_mut(&spec.name);
        let known = known.ok_or_else(|| not_found("port", &spec.name))?;
        if known.kind != spec.kind || known.number != spec.number || known.bridge != spec.bridge {
            let (port, what) = (spec.name, "its kind");
            return Err(DatapathError::NotLive { port, what });
        }
        *known = spec;
        Ok(())
    }

    fn add_port(&self, spec: PortSpec) -> Result<u32, DatapathError> {
        let mut state = self.state();
        state.calls.push(format!("add_port {}", spec.name));
        state.check(&spec.name)?;
        state.check(&format!("port {}", spec.name))?;
        if !state.bridges.contains_key(&spec.bridge) {
            return Err(not_found("bridge", &spec.bridge));
        }
        if state.number(&spec.name).is_some() {
            let (object, name) = ("port", spec.name);
            return Err(DatapathError::Exists { object, name });
        }
        let taken = |number: &u32| state.ports.contains_key(number);
        let number = match spec.number {
            Some(number) if taken(&number) => {
                let (port, why) = (spec.name, format!("number {number} is taken"));
                return Err(DatapathError::Unavailable { port, why });
            }
            Some(number) => number,
            None => (1..).find(|number| !taken(number)).unwrap_or_default(),
        };
        let (kind, port_state) = match spec.kind {
            PortKind::Dpdk(_) => ("dpdk", PortState::Forwarding),
            PortKind::System(_) => ("system", PortState::Forwarding),
            PortKind::Internal(_) => ("internal", PortState::Forwarding),
            PortKind::Tap(_) => ("tap", PortState::Forwarding),
            PortKind::Patch(_) => ("patch", PortState::Forwarding),
            PortKind::VhostUser(_) => {
                let (state, why) = ("waiting-for-socket", "no guest yet".into());
                ("vhost-user", PortState::Waiting { state, why })
            }
        };
        let status = PortStatus {
            number,
            name: spec.name.clone(),
            bridge: spec.bridge.clone(),
            local: spec.is_local(),
            kind,
            state: port_state,
            since: SystemTime::now(),
            details: vec![],
            link: None,
            queues: vec![],
            counters: PortCounters::default(),
            stations: 0,
            stations_refused: 0,
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
        state.specs.remove(name);
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
        let mut state = self.state();
        state.asked += 1;
        state.ports.values().cloned().collect()
    }

    fn port_places(&self) -> Vec<PortPlace> {
        let place = |port: PortStatus| PortPlace {
            number: port.number,
            name: port.name,
            bridge: port.bridge,
        };
        self.ports().into_iter().map(place).collect()
    }

    fn links_changed(&self) {
        self.state().looks += 1;
    }

    fn device_counters(&self, port: &str) -> Result<Vec<(String, u64)>, DatapathError> {
        let state = self.state();
        state.number(port).ok_or_else(|| not_found("port", port))?;
        Ok(state.device.get(port).cloned().unwrap_or_default())
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

    fn change_flows(
        &self,
        bridge: &str,
        changes: &[Change],
        store: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<FlowsChanged, FlowChangeError> {
        let mut state = self.state();
        (state.flow_calls).push((bridge.to_owned(), changes.len()));
        let now_ms = state.now_ms();
        let tables = state.tables.get_mut(bridge);
        let tables = tables.ok_or_else(|| FlowChangeError::NoBridge(bridge.to_owned()))?;
        let applied = tables
            .apply_if(changes, now_ms, store)
            .map_err(FlowChangeError::NotStored)?
            .map_err(|(index, error)| FlowChangeError::Refused { index, error })?;
        Ok(FlowsChanged {
            added: applied.added as u64,
            modified: applied.modified as u64,
            deleted: applied.deleted as u64,
        })
    }

    fn rules(&self, bridge: &str, filter: &FlowSpec) -> Result<Vec<RuleStatus>, DatapathError> {
        let state = self.state();
        let tables = state.tables(bridge)?;
        let rules = tables.rules(filter).into_iter();
        Ok(rules.map(|rule| state.rule(tables, rule)).collect())
    }

    fn flow_totals(&self, bridge: &str) -> Result<FlowTotals, DatapathError> {
        let state = self.state();
        let tables = state.tables(bridge)?;
        Ok(FlowTotals {
            flows: tables.len() as u64,
            groups: tables.groups().len() as u64,
            meters: tables.meters().len() as u64,
        })
    }

    fn groups(&self, bridge: &str) -> Result<Vec<GroupStatus>, DatapathError> {
        let state = self.state();
        let groups = state.tables(bridge)?.groups().into_iter();
        let status = groups.map(|group| GroupStatus {
            spec: group.spec.clone(),
            counts: Default::default(),
            buckets: vec![Default::default(); group.spec.buckets.len()],
            age: Duration::ZERO,
        });
        Ok(status.collect())
    }

    fn meters(&self, bridge: &str) -> Result<Vec<MeterStatus>, DatapathError> {
        let state = self.state();
        let meters = state.tables(bridge)?.meters().into_iter();
        let status = meters.map(|spec| MeterStatus {
            spec: (*spec).clone(),
            flows: 0,
            packets: 9,
            bytes: 900,
            band_packets: 4,
            band_bytes: 400,
            age: Duration::from_millis(12),
        });
        Ok(status.collect())
    }

    fn tables(&self, bridge: &str) -> Result<Vec<TableStatus>, DatapathError> {
        let state = self.state();
        let tables = state.tables(bridge)?;
        let numbers = (0..255).filter(|table| tables.table_len(*table) > 0);
        let status = numbers.map(|table| TableStatus {
            table,
            active: tables.table_len(table),
            lookups: 0,
            matched: 0,
        });
        Ok(status.collect())
    }

    fn expire_flows(&self) -> Vec<ExpiredRule> {
        let mut state = self.state();
        let now_ms = state.now_ms();
        let mut all = std::mem::take(&mut state.tables);
        let mut expired = Vec::new();
        for (name, tables) in &mut all {
            for (rule, expiry) in tables.expire(now_ms, &|_| 0) {
                expired.push(ExpiredRule {
                    bridge: name.clone(),
                    status: state.rule(tables, rule),
                    expiry,
                });
            }
        }
        state.tables = all;
        expired
    }

    fn megaflows(&self) -> Vec<MegaflowStatus> {
        self.state().megaflows.clone()
    }

    fn flush_megaflows(&self) -> u64 {
        std::mem::take(&mut self.state().megaflows).len() as u64
    }

    fn cache(&self) -> CacheStatus {
        CacheStatus {
            emc_hits: 150,
            megaflow_hits: 40,
            missed: 10,
            lost: 1,
            not_installed: 2,
            flows: 7,
            flow_limit: 65_536,
            masks: 3,
            mask_limit: 128,
            mask_probes: 80,
            emc_entries: 65_536,
            bytes: 1 << 20,
            megaflow_bytes: 512,
            memory: MemoryKind::Hugepages(2 << 20),
            rules: 4,
            rule_bytes: 1000,
        }
    }

    fn trace(
        &self,
        bridge: &str,
        matching: &Match,
        frame: Option<&[u8]>,
        generate: bool,
    ) -> Result<String, DatapathError> {
        self.state().tables(bridge)?;
        let flow = ringway_flow::text::print_match(matching, &ringway_flow::text::NoNames);
        Ok(format!(
            "Flow: {flow}\nframe {frame:?} generate {generate}\n"
        ))
    }

    fn trace_next(
        &self,
        port: &str,
        _matching: &Match,
        timeout: Duration,
    ) -> Result<Option<String>, DatapathError> {
        let number = self.state().number(port);
        number.ok_or_else(|| not_found("port", port))?;
        let told = self.state().next_trace.take();
        if told.is_none() {
            std::thread::sleep(timeout.min(Duration::from_millis(20)));
        }
        Ok(told)
    }

    fn packet_out(
        &self,
        bridge: &str,
        in_port: u16,
        actions: &[Action],
        frame: &[u8],
    ) -> Result<(), DatapathError> {
        self.state().tables(bridge)?;
        let sent = (in_port, actions.to_vec(), frame.to_vec());
        self.state().sent.push(sent);
        Ok(())
    }

    fn take_packet_ins(&self) -> Vec<PacketIn> {
        std::mem::take(&mut self.state().packet_ins)
    }

    fn packet_ins_lost(&self) -> u64 {
        self.state().packet_ins_lost
    }
}
