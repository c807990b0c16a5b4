//! For tests: the packet's way from head to lists, without rings: frames in,
//! frames out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway_flow::action::Action;
use ringway_flow::pipeline::FlowTables;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringway_flow::stats::StatsTable;
use ringway_vhost::{Ring, VnetHeader};

use crate::actual::lock;
use crate::cache::FlowCache;
use crate::cache::table::{CacheTable, Shape};
use crate::clock::CoarseClock;
use crate::counters::{PmdCounterCells, PortCounterTable};
use crate::cpu::tsc;
use crate::drop_reason::DropReason;
use crate::fdb::Fdb;
use crate::packet_in::PacketInRing;
use crate::port::Guarding;
use crate::rx::Workspace;
use crate::snapshot::{BridgeView, LOCAL, NO_LIMIT, Output, Plan, PortView, Snapshot};
use crate::spec::{GuardSpec, MacMove, VlanSpec};
use crate::status::PortCounters;
use crate::table_memory::TableMemory;
use crate::vlan::PortVlans;

/// The rules of a bridge whose fail mode is standalone.
pub fn standalone() -> Vec<Change> {
    let rule = FlowSpec {
        priority: 0,
        actions: vec![Action::Normal],
        ..FlowSpec::default()
    };
    vec![Change::Flow(FlowCommand::Add, Box::new(rule))]
}

/// Cycles of a guard's second: so many that none passes by itself in a test.
pub const GUARD_HZ: u64 = 1 << 40;

/// One core, one bridge or more.
pub struct Rig {
    /// Of the first bridge.
    pub tables: FlowTables,
    pub table: Arc<CacheTable>,
    pub counters: PmdCounterCells,
    pub packet_ins: Arc<PacketInRing>,
    workspace: Workspace,
    plan: Plan,
    now_ms: u64,
    /// By how many cycles its clock is ahead.
    pub ahead: u64,
}

fn port_view(bridge: usize, bridge_id: u16, output: Output) -> PortView {
    PortView {
        bridge,
        bridge_id,
        output,
        max_frame: NO_LIMIT,
        vlans: None,
        guard: None,
        storm: None,
        counters: Arc::new(PortCounterTable::new(1, 1)),
    }
}

/// What came of a burst.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Frames by port, in order.
    pub sent: HashMap<u32, Vec<Vec<u8>>>,
    pub drops: HashMap<DropReason, u64>,
    pub replicated: u64,
}

impl Rig {
    pub fn new(rules: Vec<Change>, members: &[u32]) -> Self {
        Self::sized(rules, members, 1024, 1024)
    }

    pub fn sized(rules: Vec<Change>, members: &[u32], flow_limit: u32, emc: u32) -> Self {
        let shape = Shape::new(flow_limit, emc);
        let table = CacheTable::new(TableMemory::ordinary(shape.words()), shape);
        let table = Arc::new(table);
        let clock = CoarseClock::start(1_000_000_000);
        let cache = FlowCache::new(Arc::clone(&table), clock, Duration::from_secs(10));
        let packet_ins = Arc::<PacketInRing>::default();
        let mut rig = Self {
            tables: FlowTables::new(Arc::default()),
            table,
            counters: PmdCounterCells::default(),
            workspace: Workspace::new(0, clock, cache, Arc::clone(&packet_ins)),
            packet_ins,
            plan: Plan {
                version: 1,
                snapshot: Arc::default(),
                polls: Vec::new(),
                wakeups: None,
                polls_nic: false,
                only_kernel: false,
                warm: None,
                watch: None,
                stop: false,
            },
            now_ms: 1,
            ahead: 0,
        };
        rig.tables = rig.add_bridge(members);
        rig.change(&rules);
        rig
    }

    fn snapshot(&mut self) -> &mut Snapshot {
        Arc::get_mut(&mut self.plan.snapshot).expect("nobody else has it")
    }

    /// Adds a bridge without rules; returns its tables.
    fn add_bridge(&mut self, members: &[u32]) -> FlowTables {
        let stats = Arc::<StatsTable>::default();
        let tables = FlowTables::new(Arc::clone(&stats));
        let memory = TableMemory::ordinary(Fdb::words_for(1024));
        let snapshot = self.snapshot();
        let bridge = snapshot.bridges.len();
        let id = bridge as u16 + 1;
        snapshot.bridges.push(BridgeView {
            id,
            fdb: Arc::new(Fdb::new(memory, 1024)),
            pipeline: tables.pipeline(),
            stats,
            meters: Vec::new(),
            members: members.to_vec(),
            local: LOCAL,
            has_vlans: false,
        });
        for number in members {
            let place = *number as usize;
            if snapshot.ports.len() <= place {
                snapshot.ports.resize_with(place + 1, || None);
            }
            let sink = Output::Sink(Mutex::default());
            snapshot.ports[place] = Some(port_view(bridge, id, sink));
        }
        tables
    }

    /// Adds a bridge with rules.
    pub fn another_bridge(&mut self, rules: &[Change], members: &[u32]) {
        let mut tables = self.add_bridge(members);
        tables.apply(rules, 1).expect("changes");
        if let Some(bridge) = self.snapshot().bridges.last_mut() {
            bridge.pipeline = tables.pipeline();
        }
    }

    /// Makes two ports a pair of patch ports.
    pub fn join(&mut self, one: u32, other: u32) {
        for (port, peer) in [(one, other), (other, one)] {
            if let Some(port) = &mut self.snapshot().ports[port as usize] {
                port.output = Output::Patch(Some(peer));
            }
        }
    }

    /// Takes a patch port's peer away.
    pub fn part(&mut self, number: u32) {
        if let Some(port) = &mut self.snapshot().ports[number as usize] {
            port.output = Output::Patch(None);
        }
    }

    pub fn bridge(&self) -> &BridgeView {
        &self.plan.snapshot.bridges[0]
    }

    /// What was counted at a port.
    pub fn port_counters(&self, number: u32) -> PortCounters {
        let port = self.plan.snapshot.port(number).expect("a port");
        port.counters.total()
    }

    /// Gives a port VLANs.
    pub fn set_vlans(&mut self, number: u32, spec: &VlanSpec) {
        let snapshot = self.snapshot();
        if let Some(port) = &mut snapshot.ports[number as usize] {
            port.vlans = PortVlans::of(spec);
            let bridge = port.bridge;
            let ports = snapshot.ports.iter().flatten();
            let mut ports = ports.filter(|port| port.bridge == bridge);
            snapshot.bridges[bridge].has_vlans = ports.any(|port| port.vlans.is_some());
        }
    }

    /// Gives a port a guard, whose seconds have [`GUARD_HZ`] cycles.
    pub fn set_guard(&mut self, number: u32, spec: &GuardSpec) {
        let guarding = Guarding::of(spec, GUARD_HZ);
        let snapshot = self.snapshot();
        if let Some(port) = &mut snapshot.ports[number as usize] {
            (port.guard, port.storm) = (guarding.guard, guarding.storm);
            let sticky = spec.mac_move == MacMove::Deny;
            let fdb = &snapshot.bridges[port.bridge].fdb;
            fdb.set_policy(number, spec.max_macs, sticky);
        }
    }

    /// Changes the rules; from now on packets meet the new ones.
    pub fn change(&mut self, changes: &[Change]) {
        self.now_ms += 3_000;
        self.tables.apply(changes, self.now_ms).expect("changes");
        let pipeline = self.tables.pipeline();
        self.snapshot().bridges[0].pipeline = pipeline;
    }

    /// Frames for a port go to a ring from now on.
    pub fn connect(&mut self, port: u32, ring: Arc<Ring>) {
        let view = self.snapshot().ports[port as usize].as_mut();
        view.expect("a member").output = Output::Guest(vec![(0, ring)]);
    }

    /// Cycles.
    pub fn now(&self) -> u64 {
        tsc() + self.ahead
    }

    /// Whether its flow cache has no megaflows.
    pub fn cache_is_empty(&mut self) -> bool {
        self.workspace.cache().is_empty()
    }

    /// Time goes by, in which the cache looks after all that it has.
    pub fn pass(&mut self, time: Duration) {
        const STEPS: u32 = 8;
        for _ in 0..STEPS {
            self.ahead += (time / STEPS).as_nanos() as u64;
            let now = self.now();
            self.workspace.cache().keep(&self.plan.snapshot, now);
        }
    }

    /// Sends a burst from a port.
    pub fn burst(&mut self, ingress: u32, frames: &[Vec<u8>]) -> Outcome {
        self.burst_with(ingress, frames, &[])
    }

    /// The same with the first frames' virtio-net headers.
    pub fn burst_with(
        &mut self,
        ingress: u32,
        frames: &[Vec<u8>],
        headers: &[VnetHeader],
    ) -> Outcome {
        let before = self.counters.read();
        let now = self.now();
        let Self {
            workspace,
            plan,
            counters,
            ..
        } = self;
        // Rules may name any port: one that is not there takes nothing.
        let nowhere = port_view(0, 1, Output::Guest(Vec::new()));
        let port = plan.snapshot.port(ingress).unwrap_or(&nowhere);
        workspace.receive(frames, headers, plan, (ingress, port), counters, now);
        let mut outcome = Outcome::default();
        for (number, port) in self.plan.snapshot.ports.iter().enumerate() {
            if let Some(Output::Sink(frames)) = port.as_ref().map(|port| &port.output) {
                let frames = std::mem::take(&mut *lock(frames));
                if !frames.is_empty() {
                    outcome.sent.insert(number as u32, frames);
                }
            }
        }
        let after = self.counters.read();
        outcome.replicated = after.replicated - before.replicated;
        for (reason, count) in after.dropped {
            let old = before.dropped.iter().find(|(old, _)| *old == reason);
            let new = count - old.map_or(0, |(_, count)| *count);
            if new > 0 {
                outcome.drops.insert(reason, new);
            }
        }
        outcome
    }
}
