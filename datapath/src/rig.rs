//! For tests: the packet's way from head to lists, without rings: frames in,
//! frames out, one bridge.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway_flow::action::Action;
use ringway_flow::extract::extract_slice;
use ringway_flow::pipeline::FlowTables;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringway_flow::stats::StatsTable;
use ringway_vhost::{BURST, BURST_PACKETS, Burst};

use crate::action::{self, TxLists};
use crate::actual::lock;
use crate::cache::table::{CacheTable, Shape};
use crate::cache::{FlowCache, Found};
use crate::clock::CoarseClock;
use crate::counters::{PmdCounterCells, PortCounterTable, QueueCounters};
use crate::cpu::tsc;
use crate::drop_reason::DropReason;
use crate::execute::Surroundings;
use crate::fdb::Fdb;
use crate::lookup::Normal;
use crate::packet_in::PacketInRing;
use crate::parse::{self, Key};
use crate::snapshot::{BridgeView, LOCAL, NO_LIMIT, Output, PortView, Snapshot};
use crate::spec::VlanSpec;
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

/// One core, one bridge.
pub struct Rig {
    pub tables: FlowTables,
    pub table: Arc<CacheTable>,
    pub cache: FlowCache,
    pub counters: PmdCounterCells,
    pub packet_ins: PacketInRing,
    queue: QueueCounters,
    snapshot: Snapshot,
    burst: Burst,
    keys: Box<[Key; BURST_PACKETS]>,
    found: Found,
    lists: TxLists,
    now_ms: u64,
    /// By how many cycles its clock is ahead.
    pub ahead: u64,
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
        let stats = Arc::<StatsTable>::default();
        let clock = CoarseClock::start(1_000_000_000);
        let mut rig = Self {
            tables: FlowTables::new(Arc::clone(&stats)),
            cache: FlowCache::new(Arc::clone(&table), clock, Duration::from_secs(10)),
            table,
            counters: PmdCounterCells::default(),
            packet_ins: PacketInRing::default(),
            queue: QueueCounters::default(),
            snapshot: Snapshot::default(),
            burst: Burst::default(),
            keys: Box::new([Key::default(); BURST_PACKETS]),
            found: Found::default(),
            lists: TxLists::default(),
            now_ms: 1,
            ahead: 0,
        };
        let memory = TableMemory::ordinary(Fdb::words_for(1024));
        rig.snapshot.bridges.push(BridgeView {
            id: 1,
            fdb: Arc::new(Fdb::new(memory, 1024)),
            pipeline: rig.tables.pipeline(),
            stats,
            meters: Vec::new(),
            members: members.to_vec(),
            local: LOCAL,
            has_vlans: false,
        });
        for number in 0..=members.iter().copied().max().unwrap_or(0) {
            let port = members.contains(&number).then(|| PortView {
                bridge: 0,
                bridge_id: 1,
                output: Output::Sink(Mutex::default()),
                max_frame: NO_LIMIT,
                vlans: None,
                counters: Arc::new(PortCounterTable::new(1, 1)),
            });
            rig.snapshot.ports.push(port);
        }
        rig.change(&rules);
        rig
    }

    pub fn bridge(&self) -> &BridgeView {
        &self.snapshot.bridges[0]
    }

    /// Gives a port VLANs.
    pub fn set_vlans(&mut self, number: u32, spec: &VlanSpec) {
        if let Some(port) = &mut self.snapshot.ports[number as usize] {
            port.vlans = PortVlans::of(spec);
        }
        let mut ports = self.snapshot.ports.iter().flatten();
        self.snapshot.bridges[0].has_vlans = ports.any(|port| port.vlans.is_some());
    }

    /// Changes the rules; from now on packets meet the new ones.
    pub fn change(&mut self, changes: &[Change]) {
        self.now_ms += 3_000;
        self.tables.apply(changes, self.now_ms).expect("changes");
        self.snapshot.bridges[0].pipeline = self.tables.pipeline();
    }

    /// Cycles.
    pub fn now(&self) -> u64 {
        tsc() + self.ahead
    }

    /// Time goes by, in which the cache looks after all that it has.
    pub fn pass(&mut self, time: Duration) {
        const STEPS: u32 = 8;
        for _ in 0..STEPS {
            self.ahead += (time / STEPS).as_nanos() as u64;
            let now = self.now();
            self.cache.keep(&self.snapshot, now);
        }
    }

    /// Sends a burst from a port.
    pub fn burst(&mut self, ingress: u32, frames: &[Vec<u8>]) -> Outcome {
        assert!(frames.len() <= BURST);
        let before = self.queue.rx_drops.nonzero();
        let replicated = self.counters.replicated.get();
        let mut outcome = Outcome::default();
        let now = self.now();
        let Self {
            cache,
            counters,
            packet_ins,
            queue,
            snapshot,
            burst,
            keys,
            found,
            lists,
            ..
        } = self;
        let bridge = &snapshot.bridges[0];
        let with = Surroundings {
            snapshot,
            ingress,
            counters: queue,
            own: counters,
            pmd: 0,
            now,
            packet_ins,
        };
        burst.lend_slices(
            frames.len(),
            |i| std::iter::once(&frames[i][..]),
            |packets| {
                let mut flow_keys = [Default::default(); BURST];
                let mut lens = [0; BURST];
                for (i, frame) in frames.iter().enumerate() {
                    flow_keys[i] = extract_slice(frame, bridge.id, ingress as u16);
                    lens[i] = frame.len() as u32;
                    parse::parse(packets.head_slot(i), packets.head(i).len(), &mut keys[i]);
                }
                match cache.catch_all(bridge) {
                    Some(all) => {
                        let bytes = lens[..frames.len()].iter().map(|len| u64::from(*len)).sum();
                        cache.count_all(all, ingress as u16, packets, keys, bytes, now);
                        found.fill(frames.len(), all);
                    }
                    None => cache.classify(
                        &flow_keys,
                        &lens,
                        frames.len(),
                        bridge,
                        found,
                        counters,
                        now,
                    ),
                }
                let mut learning = Normal::new(bridge, ingress, 1);
                action::apply(
                    found,
                    packets,
                    keys,
                    cache,
                    &mut learning,
                    lists,
                    None,
                    &with,
                );
                with.flush(lists, packets, keys, bridge);
                cache.finish();
            },
        );
        for (number, port) in snapshot.ports.iter().enumerate() {
            if let Some(Output::Sink(frames)) = port.as_ref().map(|port| &port.output) {
                let frames = std::mem::take(&mut *lock(frames));
                if !frames.is_empty() {
                    outcome.sent.insert(number as u32, frames);
                }
            }
        }
        outcome.replicated = self.counters.replicated.get() - replicated;
        for (reason, count) in self.queue.rx_drops.nonzero() {
            let old = before.iter().find(|(old, _)| *old == reason);
            let new = count - old.map_or(0, |(_, count)| *count);
            if new > 0 {
                outcome.drops.insert(reason, new);
            }
        }
        outcome
    }
}
