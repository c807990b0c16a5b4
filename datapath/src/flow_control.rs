//! Flows, from the control plane's side: changes, counts, packets.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ringway_flow::action::Action;
use ringway_flow::pipeline::TABLES;
use ringway_flow::rule::{Change, FlowSpec, Rule};
use ringway_flow::stats::{Counts, StatsCell, StatsId, StatsTable};
use ringway_flow::translate::Start;

use crate::actual::{Actual, Bridge, Inner, lock};
use crate::cache::{self, Hold, MegaflowRecord};
use crate::cpu::tsc;
use crate::engine::Datapath;
use crate::error::DatapathError;
use crate::flows::*;
use crate::meter::Meter;
use crate::snapshot::MAX_PORTS;

/// How long a core may take to forget its megaflows.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// What living megaflows have counted, by cell.
pub(crate) type Living = HashMap<StatsId, Counts>;

impl Inner {
    /// Calls `each` with every living megaflow and the index of its core. Until
    /// what it returns is dropped no counts move from megaflows to cells.
    pub(crate) fn read_megaflows(&self, mut each: impl FnMut(usize, MegaflowRecord)) -> Hold<'_> {
        let tables = self.pmds.iter().map(|pmd| &*pmd.cache);
        let held = cache::hold(tables.clone());
        let now = tsc();
        for (core, table) in tables.enumerate() {
            cache::read_all(table, now, |record| each(core, record));
        }
        held
    }

    /// What a bridge's living megaflows have counted. `then` sees it while no
    /// counts move, so that it adds up with the cells.
    fn with_living<T>(&self, cells: &Cells, then: impl FnOnce(&Living) -> T) -> T {
        let now_ms = self.now_ms();
        let mut living = Living::new();
        let held = self.read_megaflows(|_, record| {
            if record.bridge == cells.bridge && record.packets > 0 {
                self.add_living(&mut living, cells, &record, now_ms);
            }
        });
        let done = then(&living);
        drop(held);
        done
    }

    fn add_living(&self, living: &mut Living, cells: &Cells, record: &MegaflowRecord, now_ms: u64) {
        let idle_ms = record.idle_cycles * 1000 / self.eal.tsc_hz().max(1);
        for id in &record.counted {
            let cell = cells.stats.cell(*id);
            if cell.is_some_and(|cell| cell.counts_for(record.version)) {
                let counts = living.entry(*id).or_default();
                counts.packets += record.packets;
                counts.bytes += record.bytes;
                counts.used_ms = counts.used_ms.max(now_ms.saturating_sub(idle_ms));
            }
        }
    }
}

/// A bridge's cells.
struct Cells {
    bridge: u16,
    stats: Arc<StatsTable>,
}

impl Bridge {
    fn cells(&self) -> Cells {
        Cells {
            bridge: self.id,
            stats: Arc::clone(&self.stats),
        }
    }
}

impl Cells {
    /// A cell's counts with those of living megaflows.
    fn counts(&self, living: &Living, id: StatsId) -> Counts {
        let cell = self.stats.cell(id);
        let mut counts = cell.map(StatsCell::read).unwrap_or_default();
        if let Some(more) = living.get(&id) {
            counts.packets += more.packets;
            counts.bytes += more.bytes;
            counts.used_ms = counts.used_ms.max(more.used_ms);
        }
        counts
    }

    fn rule_status(&self, living: &Living, rule: Arc<Rule>, now_ms: u64) -> RuleStatus {
        let counts = self.counts(living, rule.stats);
        let since = |ms: u64| Duration::from_millis(now_ms.saturating_sub(ms));
        RuleStatus {
            age: since(rule.created_ms),
            idle: since(counts.used_ms.max(rule.created_ms)),
            counts,
            rule,
        }
    }
}

fn bridge<'a>(actual: &'a Actual, name: &str) -> Result<&'a Bridge, DatapathError> {
    let bridge = actual.bridges.get(name);
    bridge.ok_or_else(|| DatapathError::not_found("bridge", name))
}

impl Datapath {
    /// Makes all changes to a bridge's tables, or none. `store` is called once
    /// they are known to be possible and before any packet sees them; if it
    /// fails nothing is changed.
    pub fn change_flows(
        &self,
        bridge: &str,
        changes: &[Change],
        store: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<FlowsChanged, FlowChangeError> {
        let inner = &self.inner;
        let now_ms = inner.now_ms();
        let mut actual = lock(&inner.actual);
        let known = (actual.bridges.get_mut(bridge))
            .ok_or_else(|| FlowChangeError::NoBridge(bridge.to_owned()))?;
        let applied = (known.tables.apply_if(changes, now_ms, store))
            .map_err(FlowChangeError::NotStored)?
            .map_err(|(index, error)| FlowChangeError::Refused { index, error })?;
        known.take_over_meters(changes, inner.eal.tsc_hz(), now_ms);
        inner.publish(&mut actual);
        if !applied.removed.is_empty()
            && let Some(known) = actual.bridges.get_mut(bridge)
        {
            inner.settle(known, &applied.removed);
        }
        Ok(FlowsChanged {
            added: applied.added as u64,
            modified: applied.modified as u64,
            deleted: applied.deleted as u64,
        })
    }

    /// The rules that `filter` means (loosely), with their counts, by table
    /// and priority.
    pub fn rules(&self, name: &str, filter: &FlowSpec) -> Result<Vec<RuleStatus>, DatapathError> {
        let inner = &self.inner;
        let actual = lock(&inner.actual);
        let bridge = bridge(&actual, name)?;
        let cells = bridge.cells();
        let rules = bridge.tables.rules(filter);
        let now_ms = inner.now_ms();
        Ok(inner.with_living(&cells, |living| {
            let rules = rules.into_iter();
            rules
                .map(|rule| cells.rule_status(living, rule, now_ms))
                .collect()
        }))
    }

    /// How many rules, groups and meters a bridge has; looks at none of them.
    pub fn flow_totals(&self, name: &str) -> Result<FlowTotals, DatapathError> {
        let actual = lock(&self.inner.actual);
        let tables = &bridge(&actual, name)?.tables;
        Ok(FlowTotals {
            flows: tables.len() as u64,
            groups: tables.groups().len() as u64,
            meters: tables.meters().len() as u64,
        })
    }

    /// A bridge's groups, by id.
    pub fn groups(&self, name: &str) -> Result<Vec<GroupStatus>, DatapathError> {
        let actual = lock(&self.inner.actual);
        let bridge = bridge(&actual, name)?;
        let cells = bridge.cells();
        let now_ms = self.inner.now_ms();
        Ok(self.inner.with_living(&cells, |living| {
            let groups = bridge.tables.groups().into_iter();
            let status = groups.map(|group| GroupStatus {
                spec: group.spec.clone(),
                counts: cells.counts(living, group.stats),
                buckets: (group.bucket_stats.iter())
                    .map(|id| cells.counts(living, *id))
                    .collect(),
                age: Duration::from_millis(now_ms.saturating_sub(group.created_ms)),
            });
            status.collect()
        }))
    }

    /// A bridge's meters, by id.
    pub fn meters(&self, name: &str) -> Result<Vec<MeterStatus>, DatapathError> {
        let actual = lock(&self.inner.actual);
        let bridge = bridge(&actual, name)?;
        let rules = bridge.tables.rules(&FlowSpec::default());
        let uses = |id: u32| {
            let uses = |rule: &&Arc<Rule>| rule.actions.contains(&Action::Meter(id));
            rules.iter().filter(uses).count() as u32
        };
        let now_ms = self.inner.now_ms();
        let meters = bridge.meters.iter();
        Ok(meters
            .map(|(id, meter)| {
                let counts = meter.counts();
                MeterStatus {
                    spec: meter.spec.clone(),
                    flows: uses(*id),
                    packets: counts.packets,
                    bytes: counts.bytes,
                    band_packets: counts.band_packets,
                    band_bytes: counts.band_bytes,
                    age: Duration::from_millis(now_ms.saturating_sub(meter.created_ms)),
                }
            })
            .collect())
    }

    /// A bridge's tables that have rules or were looked into, by number.
    pub fn tables(&self, name: &str) -> Result<Vec<TableStatus>, DatapathError> {
        let actual = lock(&self.inner.actual);
        let bridge = bridge(&actual, name)?;
        let cells = bridge.cells();
        let pipeline = bridge.tables.pipeline();
        let rules = bridge.tables.rules(&FlowSpec::default());
        Ok(self.inner.with_living(&cells, |living| {
            let mut matched: BTreeMap<u8, u64> = BTreeMap::new();
            for rule in &rules {
                *matched.entry(rule.table).or_default() += cells.counts(living, rule.stats).packets;
            }
            let status = (0..TABLES as u8).map(|table| {
                let now = matched.get(&table).copied().unwrap_or(0);
                let matched = now + bridge.tables.table_base(table);
                let missed = cells.counts(living, pipeline.miss_stats(table)).packets;
                TableStatus {
                    table,
                    active: bridge.tables.table_len(table),
                    lookups: matched + missed,
                    matched,
                }
            });
            status
                .filter(|table| table.active > 0 || table.lookups > 0)
                .collect()
        }))
    }

    /// Takes away the rules whose time has come. The caller stores that.
    pub fn expire_flows(&self) -> Vec<ExpiredRule> {
        let inner = &self.inner;
        let now_ms = inner.now_ms();
        let mut actual = lock(&inner.actual);
        let mut expired = Vec::new();
        for (name, bridge) in &mut actual.bridges {
            let cells = bridge.cells();
            // Asked for only if some rule's time may have come.
            let all = OnceCell::new();
            let living = || all.get_or_init(|| inner.with_living(&cells, Living::clone));
            let used = |id| cells.counts(living(), id).used_ms;
            let gone = bridge.tables.expire(now_ms, &used);
            for (rule, expiry) in gone {
                let status = cells.rule_status(living(), rule, now_ms);
                (bridge.tables).settle_removed(&status.rule, status.counts);
                expired.push(ExpiredRule {
                    bridge: name.clone(),
                    status,
                    expiry,
                });
            }
        }
        if !expired.is_empty() {
            inner.publish(&mut actual);
        }
        expired
    }

    /// Every living megaflow of every poll-mode core. One that a change of
    /// rules touched is none any more: its next packet is translated anew. Of
    /// NORMAL's there is one for each conversation.
    pub fn megaflows(&self) -> Vec<MegaflowStatus> {
        self.inner.shown_megaflows(&lock(&self.inner.actual))
    }

    /// Forgets all megaflows; returns how many there were. Their counts stay with the rules.
    pub fn flush_megaflows(&self) -> u64 {
        let _actual = lock(&self.inner.actual);
        let mut flows = 0;
        for pmd in &self.inner.pmds {
            flows += pmd.cache.flows.load(Ordering::Relaxed);
            pmd.cache.flush.store(true, Ordering::Release);
            // A full eventfd wakes as well as a fuller one.
            let _ = pmd.wake_fd().write(1);
        }
        let deadline = Instant::now() + FLUSH_WAIT;
        for pmd in &self.inner.pmds {
            while pmd.cache.flush.load(Ordering::Acquire) && Instant::now() < deadline {
                thread::sleep(Duration::from_micros(50));
            }
        }
        flows
    }

    /// Occupancy and hits of the flow caches.
    pub fn cache(&self) -> CacheStatus {
        let inner = &self.inner;
        let actual = lock(&inner.actual);
        let mut status = CacheStatus {
            emc_hits: 0,
            megaflow_hits: 0,
            missed: 0,
            lost: 0,
            not_installed: 0,
            flows: inner.shown_megaflows(&actual).len() as u64,
            flow_limit: 0,
            masks: 0,
            mask_limit: cache::MAX_MASKS as u64,
            mask_probes: 0,
            emc_entries: 0,
            bytes: 0,
            megaflow_bytes: (cache::table::ENTRY_WORDS * size_of::<u64>()) as u64,
            memory: inner.memory_kind(),
            rules: 0,
            rule_bytes: 0,
        };
        for pmd in &inner.pmds {
            let (lookups, table) = (&pmd.counters.lookups, &pmd.cache);
            status.emc_hits += lookups.emc_hits.get();
            status.megaflow_hits += lookups.megaflow_hits.get();
            status.missed += lookups.missed.get();
            status.lost += lookups.lost.get();
            status.not_installed += lookups.not_installed.get();
            status.mask_probes += lookups.probes.get();
            status.flow_limit += table.shape.limit as u64;
            status.masks += table.masks.load(Ordering::Relaxed);
            status.emc_entries += table.shape.emc_entries() as u64;
            status.bytes += table.bytes() as u64;
        }
        for bridge in actual.bridges.values() {
            let rules = (0..TABLES as u8).map(|table| bridge.tables.table_len(table) as u64);
            status.rules += rules.sum::<u64>();
            status.rule_bytes += bridge.tables.memory() as u64;
        }
        status
    }

    /// Does `actions` with `frame`, as if it had come from `in_port` (a port's
    /// number, or a reserved one).
    pub fn packet_out(
        &self,
        name: &str,
        in_port: u16,
        actions: &[Action],
        frame: &[u8],
    ) -> Result<(), DatapathError> {
        self.inject(name, in_port, Start::Actions(actions), frame)
    }

    fn inject(
        &self,
        name: &str,
        in_port: u16,
        start: Start<'_>,
        frame: &[u8],
    ) -> Result<(), DatapathError> {
        let bad = |why: String| Err(DatapathError::BadPacket(why));
        if frame.len() < 14 || frame.len() > ringway_vhost::MAX_FRAME_BYTES {
            return bad(format!(
                "a packet of {} bytes cannot be sent: an Ethernet header has 14, and {} are the most",
                frame.len(),
                ringway_vhost::MAX_FRAME_BYTES
            ));
        }
        // Ports, and the reserved ones from OFPP_MAX on (0xff00).
        if usize::from(in_port) >= MAX_PORTS && in_port < 0xff00 {
            return bad(format!("in_port {in_port} is no port's number"));
        }
        let inner = &self.inner;
        let actual = lock(&inner.actual);
        bridge(&actual, name)?;
        if !inner.inject(&actual, name, in_port, start, frame) {
            return bad("no poll-mode core runs".to_owned());
        }
        Ok(())
    }

    /// The packets for controllers that came since the last call, oldest first.
    pub fn take_packet_ins(&self) -> Vec<PacketIn> {
        let actual = lock(&self.inner.actual);
        let injector = lock(&self.inner.injector);
        let rings =
            (self.inner.pmds.iter().map(|pmd| &*pmd.packet_ins)).chain([&injector.packet_ins]);
        let mut packets = Vec::new();
        for ring in rings {
            while let Some((meta, frame)) = ring.take() {
                let mut bridges = actual.bridges.values();
                let bridge = bridges.find(|bridge| bridge.id == meta.bridge);
                packets.push(PacketIn {
                    bridge: bridge.map(|b| b.spec.name.clone()).unwrap_or_default(),
                    in_port: meta.in_port,
                    reason: meta.reason,
                    table: meta.table,
                    controller: meta.controller,
                    frame_len: meta.frame_len as usize,
                    frame,
                });
            }
        }
        packets
    }

    /// Packets for controllers that were lost, for nobody took them in time.
    pub fn packet_ins_lost(&self) -> u64 {
        let injector = lock(&self.inner.injector).packet_ins.lost();
        let cores = self.inner.pmds.iter().map(|pmd| pmd.packet_ins.lost());
        cores.sum::<u64>() + injector
    }
}

impl Inner {
    /// Rules are gone: what they counted stays in their tables' sums.
    fn settle(&self, bridge: &mut Bridge, removed: &[Arc<Rule>]) {
        let cells = bridge.cells();
        let last: Vec<Counts> = self.with_living(&cells, |living| {
            let counts = |rule: &Arc<Rule>| cells.counts(living, rule.stats);
            removed.iter().map(counts).collect()
        });
        for (rule, counts) in removed.iter().zip(last) {
            bridge.tables.settle_removed(rule, counts);
        }
    }
}

impl Bridge {
    /// Makes the meters that the tables now have, and keeps those that stay as
    /// they were, with their counts.
    fn take_over_meters(&mut self, changes: &[Change], tsc_hz: u64, now_ms: u64) {
        let meters = |change: &Change| {
            matches!(
                change,
                Change::AddMeter(_) | Change::ModifyMeter(_) | Change::DeleteMeters(_)
            )
        };
        if !changes.iter().any(meters) {
            return;
        }
        let old = std::mem::take(&mut self.meters);
        for spec in self.tables.meters() {
            let meter = match old.get(&spec.id) {
                Some(meter) if meter.spec == *spec => Arc::clone(meter),
                _ => Arc::new(Meter::new((*spec).clone(), tsc_hz, now_ms)),
            };
            self.meters.insert(spec.id, meter);
        }
    }
}
