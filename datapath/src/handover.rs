//! From one process to the next, without a frontend noticing.
//!
//! ```text
//! old                                              new
//! park: sessions read no more messages    forms ▶  adopt, then add_bridge, add_port as ever:
//!   packets go on                                    memory is mapped, rings are resolved
//! halt: PMDs let go of all ports         moment ▶  go_on: counts and stations are taken over,
//!                                                    PMDs begin where the others stopped
//! ```
//!
//! Until it has said that it goes on the new one has touched nothing of a guest,
//! and [`Datapath::resume`] lets the old one go on as if nothing had happened.
//! Megaflows are translated anew from their keys, before the old one halts ([`warm`](crate::warm)).
//! DPDK's devices cannot be: they are closed here and opened there.

use std::collections::{BTreeMap, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use ringway_flow::pipeline::TABLES;
use ringway_flow::rule::{FlowSpec, Rule};
use ringway_flow::stats::{Counts, StatsId};
use ringway_flow::text::{NoNames, print_match};
use ringway_host::port::{HostPort, HostPortConfig, HostPortForm};
use ringway_vhost::GuestPort;
pub use ringway_vhost::{Descriptors, GuestPortForm, HandoverError, SessionKeeper};
use serde::{Deserialize, Serialize};

use crate::actual::{Actual, Bridge, lock};
use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;
use crate::engine::Datapath;
use crate::error::DatapathError;
use crate::host::{self, HostBacking};
use crate::meter::MeterCounts;
use crate::parse::Station;
use crate::port::{Backing, Port};
use crate::spec::{PortKind, PortSpec};
use crate::status::PortCounters;
use crate::warm::MegaflowForm;

/// How long a session may take to park before this process goes on without it.
const RESUME: Duration = Duration::from_secs(1);

/// What ports are made of, and the rules by name. Fields may be added.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Forms {
    guests: BTreeMap<String, GuestPortForm>,
    hosts: BTreeMap<String, HostPortForm>,
    /// Each bridge's rules in the order in which [`Moment`] has their counts.
    rules: BTreeMap<String, Vec<String>>,
    pub(crate) megaflows: Option<MegaflowForm>,
}

/// Where everything stood when the poll-mode cores had let go. Fields may be
/// added; names that are not known are passed over.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Moment {
    /// Next entry of each guest port's rings.
    positions: BTreeMap<String, Vec<Option<u32>>>,
    /// Each port's counters by queue.
    ports: BTreeMap<String, Vec<QueueMoment>>,
    bridges: BTreeMap<String, BridgeMoment>,
    cores: Vec<CoreMoment>,
}

impl Moment {
    /// How many rings stand somewhere.
    pub fn rings(&self) -> usize {
        self.positions.values().flatten().flatten().count()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct QueueMoment {
    counts: [u64; 5],
    rx_drops: BTreeMap<String, u64>,
    tx_drops: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct BridgeMoment {
    /// Address and VLAN as 64 bits, port number, age in seconds.
    stations: Vec<(u64, u32, u32)>,
    moves: u64,
    refused: u64,
    /// Packets, bytes, milliseconds since the last packet.
    rules: Vec<(u64, u64, u64)>,
    groups: BTreeMap<u32, Vec<(u64, u64, u64)>>,
    misses: BTreeMap<u8, (u64, u64, u64)>,
    meters: BTreeMap<u32, [u64; 4]>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct CoreMoment {
    core: usize,
    counts: BTreeMap<String, u64>,
    dropped: BTreeMap<String, u64>,
}

/// What a process that was killed has kept elsewhere, by port.
pub type KeptPorts = BTreeMap<String, (GuestPortForm, Descriptors)>;

/// What another process has handed over and nobody has taken yet.
pub struct Adopting {
    kept: KeptPorts,
    pub(crate) forms: Forms,
    pub(crate) descriptors: Descriptors,
    /// By bridge: the cells in the order of [`Forms::rules`].
    cells: BTreeMap<String, Vec<Option<StatsId>>>,
}

impl Datapath {
    /// When this datapath was started, for [`crate::spec::DatapathConfig::started_tsc`].
    pub fn started_tsc(&self) -> u64 {
        self.inner.clock.start_tsc()
    }

    /// Sessions stop between two messages; packets go on. A frontend that does not
    /// finish its message within `patience` loses its connection.
    ///
    /// # Errors
    ///
    /// Descriptors have run out. [`Datapath::resume`] lets all go on.
    pub fn park(&self, patience: Duration) -> Result<(Forms, Descriptors), HandoverError> {
        self.each_guest(|_, session| session.ask_to_park());
        self.wait_until_parked(patience);
        let mut forms = Forms::default();
        let mut descriptors = Descriptors::default();
        let mut outcome = Ok(());
        self.each_guest(|name, session| match session.export(&mut descriptors) {
            Ok(form) => {
                forms.guests.insert(name.to_owned(), form);
            }
            Err(error) => outcome = Err(error),
        });
        outcome?;
        let actual = lock(&self.inner.actual);
        for port in actual.ports.values() {
            if let Backing::Host(host) = &port.backing {
                let form = host.port.export(&mut descriptors)?;
                let name = port.spec.name.clone();
                forms.hosts.extend(form.map(|form| (name, form)));
            }
        }
        for (name, bridge) in &actual.bridges {
            let rules = bridge.tables.rules(&FlowSpec::default());
            let names = rules.iter().map(|rule| rule_name(rule)).collect();
            forms.rules.insert(name.clone(), names);
        }
        forms.megaflows = (self.inner.export_megaflows(&actual, &mut descriptors))
            .inspect_err(|error| tracing::warn!(%error, "megaflows are not handed over"))
            .ok();
        Ok((forms, descriptors))
    }

    /// The poll-mode cores let go of every port. Nothing is forwarded from here on
    /// until [`Datapath::resume`], or until another process goes on.
    pub fn halt(&self) -> Moment {
        let mut actual = lock(&self.inner.actual);
        actual.halted = true;
        self.inner.publish(&mut actual);
        let mut moment = Moment::default();
        for port in actual.ports.values_mut() {
            let name = &port.spec.name;
            match &mut port.backing {
                Backing::Guest {
                    session: Some(session),
                    ..
                } => {
                    moment.positions.insert(name.clone(), session.positions());
                }
                Backing::Host(host) => host.port.halt(),
                _ => {}
            }
            let queues = (0..port.assignment.len()).map(|queue| QueueMoment::of(port, queue));
            moment.ports.insert(name.clone(), queues.collect());
        }
        for (core, pmd) in self.inner.config.pmd_cores.iter().zip(&self.inner.pmds) {
            moment.cores.push(CoreMoment::of(*core, &pmd.counters));
        }
        let bridges: Vec<String> = actual.bridges.keys().cloned().collect();
        drop(actual);
        for name in bridges {
            moment.bridges.extend(
                self.bridge_moment(&name)
                    .map(|bridge| (name.clone(), bridge)),
            );
        }
        moment
    }

    fn bridge_moment(&self, name: &str) -> Option<BridgeMoment> {
        let idle = |counts: &Counts, idle: Duration| {
            (counts.packets, counts.bytes, idle.as_millis() as u64)
        };
        let now_ms = self.inner.now_ms();
        let since = |counts: &Counts| {
            (
                counts.packets,
                counts.bytes,
                now_ms.saturating_sub(counts.used_ms),
            )
        };
        let mut told = BridgeMoment::default();
        let rules = self.rules(name, &FlowSpec::default()).ok()?;
        told.rules = rules
            .iter()
            .map(|rule| idle(&rule.counts, rule.idle))
            .collect();
        for group in self.groups(name).ok()? {
            let all = std::iter::once(&group.counts).chain(&group.buckets);
            told.groups.insert(group.spec.id, all.map(since).collect());
        }
        let actual = lock(&self.inner.actual);
        let bridge = actual.bridges.get(name)?;
        let second = self.inner.second();
        bridge.fdb.for_each(|station, port, heard| {
            told.stations
                .push((station.bits(), port, second.saturating_sub(heard)));
        });
        (told.moves, told.refused) = (bridge.fdb.moves(), bridge.fdb.refused());
        let pipeline = bridge.tables.pipeline();
        for table in 0..TABLES as u8 {
            let cell = bridge.stats.cell(pipeline.miss_stats(table));
            let counts = cell.map(|cell| cell.read()).unwrap_or_default();
            if counts.packets > 0 {
                told.misses.insert(table, since(&counts));
            }
        }
        for (id, meter) in &bridge.meters {
            let counts = meter.counts();
            let counts = [
                counts.packets,
                counts.bytes,
                counts.band_packets,
                counts.band_bytes,
            ];
            told.meters.insert(*id, counts);
        }
        Some(told)
    }

    fn each_guest(&self, mut each: impl FnMut(&str, &mut GuestPort)) {
        for port in lock(&self.inner.actual).ports.values_mut() {
            if let Backing::Guest {
                session: Some(session),
                ..
            } = &mut port.backing
            {
                each(&port.spec.name, session);
            }
        }
    }

    /// Waits for all sessions that were asked to park, not under the lock, which
    /// one may need that is publishing. After `patience` those that are not parked
    /// lose their connection, and get as long again.
    fn wait_until_parked(&self, patience: Duration) {
        let wait = || {
            let deadline = Instant::now() + patience;
            loop {
                let mut all = true;
                self.each_guest(|_, session| all &= session.is_parked());
                if all || Instant::now() > deadline {
                    return all;
                }
                thread::sleep(Duration::from_micros(200));
            }
        };
        if wait() {
            return;
        }
        self.each_guest(|name, session| {
            if !session.is_parked() {
                tracing::warn!(
                    port = name,
                    "the frontend does not finish its message: it has to connect anew"
                );
                session.hang_up();
            }
        });
        wait();
    }

    /// Goes on as if nothing had happened, after [`Datapath::park`] or
    /// [`Datapath::halt`].
    pub fn resume(&self) {
        self.wait_until_parked(RESUME);
        let mut actual = lock(&self.inner.actual);
        if actual.halted {
            start_host_ports(&mut actual);
            actual.halted = false;
            self.inner.publish(&mut actual);
        }
        start_sessions(&mut actual);
    }

    /// Another process has gone on. The poll-mode cores end; sockets, connections
    /// and devices stay as they are, and this process is to end.
    pub fn abandon(&self) {
        let mut actual = lock(&self.inner.actual);
        self.inner.publish_plans(&mut actual, true);
        actual.stopped = true;
    }

    /// Ports that are added from now on take over what another process has handed
    /// over; poll-mode cores get none of them before [`Datapath::go_on`].
    pub fn adopt(&self, forms: Forms, descriptors: Descriptors) {
        let mut actual = lock(&self.inner.actual);
        actual.halted = true;
        actual.adopting = Some(Adopting {
            kept: KeptPorts::new(),
            forms,
            descriptors,
            cells: BTreeMap::new(),
        });
    }

    /// The same for what a process that was killed has kept; there is no moment to
    /// wait for. The others of its ports are made anew after [`Datapath::go_on`].
    pub fn revive(&self, kept: KeptPorts) {
        self.adopt(Forms::default(), Descriptors::default());
        if let Some(adopting) = &mut lock(&self.inner.actual).adopting {
            adopting.kept = kept;
        }
    }

    /// Finds the rules whose counts will come. To be called when all are there.
    pub fn match_rules(&self) {
        let mut actual = lock(&self.inner.actual);
        let actual = &mut *actual;
        let Some(adopting) = &mut actual.adopting else {
            return;
        };
        for (name, rules) in &adopting.forms.rules {
            let Some(bridge) = actual.bridges.get(name) else {
                continue;
            };
            let own = bridge.tables.rules(&FlowSpec::default());
            let own: HashMap<String, StatsId> = own
                .iter()
                .map(|rule| (rule_name(rule), rule.stats))
                .collect();
            let cells = rules.iter().map(|rule| own.get(rule).copied()).collect();
            adopting.cells.insert(name.clone(), cells);
        }
    }

    /// Takes over where the other process stopped. What nobody has taken of what
    /// it handed over is closed.
    pub fn go_on(&self, mut moment: Moment) {
        let mut actual = lock(&self.inner.actual);
        let Some(adopting) = actual.adopting.take() else {
            return;
        };
        for port in actual.ports.values_mut() {
            let name = &port.spec.name;
            if let Backing::Guest {
                session: Some(session),
                ..
            } = &mut port.backing
            {
                let positions = moment.positions.get(name);
                session.set_positions(positions.map_or(&[][..], Vec::as_slice));
            }
            let queues = moment.ports.remove(name).unwrap_or_default();
            let row = self.inner.pmds.len();
            for (queue, told) in queues.iter().enumerate().take(port.assignment.len()) {
                told.add_to(port.counters.of(row, queue));
            }
        }
        let (now_ms, second) = (self.inner.now_ms(), self.inner.second());
        let ports: Vec<u32> = actual.ports.keys().copied().collect();
        for (name, told) in moment.bridges {
            let cells = adopting.cells.get(&name).map_or(&[][..], Vec::as_slice);
            if let Some(bridge) = actual.bridges.get(&name) {
                told.add_to(bridge, cells, &ports, now_ms, second);
            }
        }
        for told in moment.cores {
            let cores = &self.inner.config.pmd_cores;
            let place = cores.iter().position(|core| *core == told.core);
            if let Some(pmd) = self.inner.pmds.get(place.unwrap_or(0)) {
                told.add_to(&pmd.counters);
            }
        }
        start_host_ports(&mut actual);
        actual.halted = false;
        self.inner.publish(&mut actual);
        start_sessions(&mut actual);
        drop(actual);
        drop(adopting);
    }

    /// Adds a port out of what was handed over.
    pub(crate) fn adopt_port(
        &self,
        actual: &mut Actual,
        spec: PortSpec,
    ) -> Result<u32, DatapathError> {
        let number = actual.number_for(&spec)?;
        let later = |why: String| {
            let port = spec.name.clone();
            Err(DatapathError::Unavailable { port, why })
        };
        let Some(adopting) = &mut actual.adopting else {
            return later("nothing was handed over".to_owned());
        };
        let (forms, descriptors) = (&mut adopting.forms, &mut adopting.descriptors);
        let name = &spec.name;
        let (backing, queues) = match &spec.kind {
            PortKind::VhostUser(options) => {
                let kept = adopting.kept.remove(name);
                let handed = forms.guests.remove(name);
                let (config, publisher) = self.inner.guest_parts(number, name, options)?;
                let adopted = match (kept, handed) {
                    (Some((form, mut own)), _) => {
                        GuestPort::revive(config, publisher, form, &mut own)
                    }
                    (None, Some(form)) => GuestPort::adopt(config, publisher, form, descriptors),
                    (None, None) => {
                        return later("the ringwayd before did not have it".to_owned());
                    }
                };
                match adopted {
                    Ok(session) => {
                        let rings = session.adopted_rings();
                        let session = Some(session);
                        let queues = usize::from(options.queues);
                        (Backing::Guest { session, rings }, queues)
                    }
                    Err(error) => return later(not_taken(name, &error)),
                }
            }
            PortKind::Patch(_) => (Backing::Patch(Default::default()), 0),
            kind => {
                let Some(form) = forms.hosts.remove(name) else {
                    return later("it is opened when the ringwayd before has ended".to_owned());
                };
                let Some(kind) = host::kind(kind) else {
                    return later("it is of another kind now".to_owned());
                };
                let config = HostPortConfig {
                    name: name.clone(),
                    kind,
                    mtu: spec.mtu,
                    cpus: self.inner.other_cpus(),
                };
                match HostPort::adopt(config, form, descriptors) {
                    Ok(port) => {
                        let queues = port.queues();
                        (Backing::Host(Box::new(HostBacking::new(port))), queues)
                    }
                    Err(error) => return later(not_taken(name, &error)),
                }
            }
        };
        self.inner
            .insert_port(actual, number, spec, backing, queues);
        self.inner.publish(actual);
        Ok(number)
    }
}

fn not_taken(port: &str, error: &HandoverError) -> String {
    tracing::warn!(port, %error, "the port is not taken over, it is made anew");
    format!("it could not be taken over: {error}")
}

fn start_host_ports(actual: &mut Actual) {
    for port in actual.ports.values_mut() {
        if let Backing::Host(host) = &mut port.backing {
            if let Err(error) = host.port.go_on() {
                tracing::error!(port = port.spec.name, %error, "the port does not go on");
            }
            host.rings = host.port.rings();
        }
    }
}

fn start_sessions(actual: &mut Actual) {
    for port in actual.ports.values_mut() {
        if let Backing::Guest {
            session: Some(session),
            ..
        } = &mut port.backing
            && let Err(error) = session.go_on()
        {
            tracing::error!(port = port.spec.name, %error, "the session does not go on");
        }
    }
}

/// What tells a bridge's rules apart.
fn rule_name(rule: &Rule) -> String {
    let matching = print_match(&rule.matching.full(), &NoNames);
    format!("{} {} {matching}", rule.table, rule.priority)
}

fn by_name(drops: &[(DropReason, u64)]) -> BTreeMap<String, u64> {
    let named = drops.iter();
    named
        .map(|(reason, count)| (reason.name().to_owned(), *count))
        .collect()
}

/// Reasons that are not known here any more are passed over.
fn by_reason(drops: &BTreeMap<String, u64>) -> impl Iterator<Item = (DropReason, u64)> {
    DropReason::ALL
        .iter()
        .filter_map(|reason| Some((*reason, *drops.get(reason.name())?)))
}

impl QueueMoment {
    fn of(port: &Port, queue: usize) -> Self {
        let mut counters = port.counters.queue_total(queue);
        if let Backing::Host(host) = &port.backing {
            host::fold(&mut counters, host.port.status().queues.get(queue));
        }
        let PortCounters {
            rx_packets,
            rx_bytes,
            tx_packets,
            tx_bytes,
            rx_drops,
            tx_drops,
            guest_notifications,
        } = counters;
        Self {
            counts: [
                rx_packets,
                rx_bytes,
                tx_packets,
                tx_bytes,
                guest_notifications,
            ],
            rx_drops: by_name(&rx_drops),
            tx_drops: by_name(&tx_drops),
        }
    }

    /// To a row that no core writes to.
    fn add_to(&self, counters: &QueueCounters) {
        let cells = [
            &counters.rx_packets,
            &counters.rx_bytes,
            &counters.tx_packets,
            &counters.tx_bytes,
            &counters.tx_notifications,
        ];
        for (cell, count) in cells.into_iter().zip(self.counts) {
            cell.add(count);
        }
        by_reason(&self.rx_drops).for_each(|(reason, count)| counters.rx_drops.add(reason, count));
        by_reason(&self.tx_drops).for_each(|(reason, count)| counters.tx_drops.add(reason, count));
    }
}

impl BridgeMoment {
    fn add_to(
        self,
        bridge: &Bridge,
        cells: &[Option<StatsId>],
        ports: &[u32],
        now_ms: u64,
        second: u32,
    ) {
        for (bits, port, age) in self.stations {
            if ports.contains(&port) {
                let heard = second.saturating_sub(age).max(1);
                bridge.fdb.learn(Station::from_bits(bits), port, heard);
            }
        }
        bridge.fdb.add_counts(self.moves, self.refused);
        let add = |id: StatsId, (packets, bytes, idle_ms): (u64, u64, u64)| {
            if packets > 0
                && let Some(cell) = bridge.stats.cell(id)
            {
                cell.add(Counts {
                    packets,
                    bytes,
                    used_ms: now_ms.saturating_sub(idle_ms),
                });
            }
        };
        for (id, counts) in cells.iter().zip(self.rules) {
            id.iter().for_each(|id| add(*id, counts));
        }
        for group in bridge.tables.groups() {
            let told = self.groups.get(&group.spec.id).into_iter().flatten();
            let own = std::iter::once(&group.stats).chain(&group.bucket_stats);
            own.zip(told).for_each(|(id, counts)| add(*id, *counts));
        }
        let pipeline = bridge.tables.pipeline();
        for (table, counts) in self.misses {
            add(pipeline.miss_stats(table), counts);
        }
        for (id, [packets, bytes, band_packets, band_bytes]) in self.meters {
            if let Some(meter) = bridge.meters.get(&id) {
                meter.add_counts(MeterCounts {
                    packets,
                    bytes,
                    band_packets,
                    band_bytes,
                });
            }
        }
    }
}

impl CoreMoment {
    /// The counts that tell of packets; how a core idles and sleeps begins anew.
    fn cells(counters: &PmdCounterCells) -> [(&'static str, &crate::counters::Counter); 11] {
        let lookups = &counters.lookups;
        [
            ("busy_polls", &counters.busy_polls),
            ("busy_cycles", &counters.busy_cycles),
            ("received", &counters.received),
            ("replicated", &counters.replicated),
            ("transmitted", &counters.transmitted),
            ("emc_hits", &lookups.emc_hits),
            ("megaflow_hits", &lookups.megaflow_hits),
            ("missed", &lookups.missed),
            ("lost", &lookups.lost),
            ("not_installed", &lookups.not_installed),
            ("probes", &lookups.probes),
        ]
    }

    fn of(core: usize, counters: &PmdCounterCells) -> Self {
        let cells = Self::cells(counters).into_iter();
        Self {
            core,
            counts: cells
                .map(|(name, cell)| (name.to_owned(), cell.get()))
                .collect(),
            dropped: by_name(&counters.dropped.nonzero()),
        }
    }

    /// To a core that has no port yet, so that it does not write to these.
    fn add_to(&self, counters: &PmdCounterCells) {
        for (name, cell) in Self::cells(counters) {
            cell.add(self.counts.get(name).copied().unwrap_or(0));
        }
        by_reason(&self.dropped).for_each(|(reason, count)| counters.dropped.add(reason, count));
    }
}
