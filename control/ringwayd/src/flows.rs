//! Flows, groups and meters of every bridge: in the journal first, then in the
//! datapath. No copy of them is kept here: the datapath is asked when the
//! journal is rewritten, the journal is read when a bridge comes up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringway_datapath::flows::{FlowChangeError, FlowTotals, FlowsChanged, RuleStatus};
use ringway_datapath::spec::{BridgeSpec, FailMode};
use ringway_flow::action::{Action, GroupSpec};
use ringway_flow::matching::Match;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec, Rule};

use crate::flow_text;
use crate::journal::{Journal, JournalError, Line, Rewrite};
use crate::switch::Switch;

/// Most changes that are given to the datapath at once while a bridge's flows
/// are loaded; no port is up then, so nobody sees a part of them.
const LOAD_BATCH: usize = 8_192;
/// Most lines of one transaction when the journal is rewritten.
const REWRITE_BATCH: usize = 8_192;
/// The journal is rewritten once it has this many lines more than twice its
/// live content.
const SPARE_LINES: usize = 4_096;

/// Lines of the journal that so many need at least.
fn lines_of(totals: &FlowTotals) -> usize {
    let FlowTotals {
        flows,
        groups,
        meters,
    } = totals;
    usize::try_from(flows + groups + meters).unwrap_or(usize::MAX)
}

/// Why flows were not changed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// The datapath has no such bridge now.
    #[error("the datapath has no bridge {0} now")]
    NoBridge(String),
    /// One of the changes cannot be.
    #[error("{why}")]
    Refused {
        /// Which one, from 0.
        index: usize,
        /// Why.
        why: String,
    },
    /// The change could not be stored.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The flows of every bridge. The control plane makes one call after another.
pub struct Flows {
    inner: Mutex<Inner>,
    /// As many shall be, of the bridges whose flows are in the datapath.
    desired: Mutex<BTreeMap<String, FlowTotals>>,
    /// Odd while a change is under way.
    era: AtomicU64,
}

struct Inner {
    journal: Journal,
    /// Loaded flows whose hard timeout began before they were loaded.
    deadlines: BinaryHeap<Reverse<Deadline>>,
    /// Lines of the journal at which it is looked at again.
    look_at: usize,
}

/// When a flow that was loaded has lived as long as it may.
#[derive(PartialEq, Eq)]
struct Deadline {
    /// Milliseconds since 1970.
    at_ms: u64,
    /// When it was added or modified last.
    born_ms: u64,
    loaded: Instant,
    bridge: String,
    table: u8,
    priority: u16,
    matching: Box<Match>,
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at_ms.cmp(&other.at_ms)
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Deadline {
    /// Whether this is the rule that was loaded, neither modified since nor added
    /// in its place.
    fn is_of(&self, status: &RuleStatus) -> bool {
        let rule = &status.rule;
        rule.table == self.table
            && rule.priority == self.priority
            && rule.hard_timeout > 0
            && since_modified(status) + Duration::from_millis(100) >= self.loaded.elapsed()
            && rule.matching.full() == *self.matching
    }
}

/// From when on a rule's hard timeout counts.
fn since_modified(status: &RuleStatus) -> Duration {
    let rule = &status.rule;
    let later = rule.modified_ms.saturating_sub(rule.created_ms);
    status.age.saturating_sub(Duration::from_millis(later))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes [`Flows::era`] odd, and even again at the end.
struct Changing<'a>(&'a AtomicU64);

impl<'a> Changing<'a> {
    fn begin(era: &'a AtomicU64) -> Self {
        era.fetch_add(1, Ordering::SeqCst);
        Self(era)
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Flows {
    /// Takes over what the journal has; nothing is loaded yet.
    pub fn new(journal: Journal) -> Self {
        Self {
            inner: Mutex::new(Inner {
                journal,
                deadlines: BinaryHeap::new(),
                look_at: SPARE_LINES,
            }),
            desired: Mutex::default(),
            era: AtomicU64::new(0),
        }
    }

    /// How many flows, groups and meters a bridge shall have, and has. Of a
    /// bridge that is being changed right now both are the same.
    pub fn totals<S: Switch>(
        &self,
        switch: &S,
        bridge: &str,
    ) -> (Option<FlowTotals>, Option<FlowTotals>) {
        let before = self.era.load(Ordering::SeqCst);
        let desired = lock(&self.desired).get(bridge).copied();
        let actual = switch.flow_totals(bridge).ok();
        match before % 2 == 0 && self.era.load(Ordering::SeqCst) == before {
            true => (desired, actual),
            false => (desired.and(actual), actual),
        }
    }

    /// Puts a bridge's flows into the datapath, which has the bridge (and no
    /// ports of it). A standalone bridge that never had any gets the one flow
    /// that makes it a learning switch.
    pub fn load<S: Switch>(
        &self,
        switch: &S,
        bridge: &BridgeSpec,
        unix_ms: u64,
    ) -> Result<(), String> {
        let name = &bridge.name;
        lock(&self.desired).remove(name);
        let loaded = lock(&self.desired).clone();
        let mut inner = lock(&self.inner);
        let _changing = Changing::begin(&self.era);
        let healed = inner.heal(switch, &loaded, unix_ms);
        healed.map_err(|error| error.to_string())?;
        let outcome = match inner.journal.mentions(name) {
            true => inner.replay(switch, name, unix_ms),
            false => inner.begin(switch, bridge, unix_ms),
        };
        outcome?;
        self.recount(switch, name);
        Ok(())
    }

    /// Makes changes: all of them, or none.
    pub fn change<S: Switch>(
        &self,
        switch: &S,
        bridge: &str,
        changes: &[Change],
        unix_ms: u64,
    ) -> Result<FlowsChanged, FlowsError> {
        if !lock(&self.desired).contains_key(bridge) {
            return Err(FlowsError::NoBridge(bridge.to_owned()));
        }
        let mut inner = lock(&self.inner);
        let _changing = Changing::begin(&self.era);
        inner.heal(switch, &lock(&self.desired).clone(), unix_ms)?;
        let changed = inner.change(switch, bridge, changes, unix_ms)?;
        self.recount(switch, bridge);
        Ok(changed)
    }

    /// Makes a bridge's flows exactly `wanted`; those that are so already stay
    /// with their counts.
    pub fn replace<S: Switch>(
        &self,
        switch: &S,
        bridge: &str,
        wanted: Vec<FlowSpec>,
        unix_ms: u64,
    ) -> Result<FlowsChanged, FlowsError> {
        let no_bridge = |_| FlowsError::NoBridge(bridge.to_owned());
        let there = switch.rules(bridge, &FlowSpec::default()).map_err(no_bridge)?;
        let changes = replacing(&there, wanted);
        drop(there);
        match changes.is_empty() {
            true => Ok(FlowsChanged::default()),
            false => self.change(switch, bridge, &changes, unix_ms),
        }
    }

    /// Takes away the flows whose time has come; returns how many.
    pub fn expire<S: Switch>(&self, switch: &S, unix_ms: u64) -> usize {
        let mut inner = lock(&self.inner);
        let _changing = Changing::begin(&self.era);
        let mut gone: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        for expired in switch.expire_flows() {
            let rule = &expired.status.rule;
            let change = delete_strict(rule.table, rule.priority, rule.matching.full());
            gone.entry(expired.bridge).or_default().push(change);
        }
        let mut count = 0;
        for (bridge, changes) in &gone {
            count += changes.len();
            let lines: String = changes.iter().map(flow_text::journal_line).collect();
            if let Err(error) = inner.journal.append(bridge, &lines, unix_ms) {
                inner.journal.set_unsound(format!("expired flows are still in it: {error}"));
            }
        }
        let mut touched: Vec<String> = gone.into_keys().collect();
        for (bridge, changes) in inner.overdue(switch, unix_ms) {
            match inner.change(switch, &bridge, &changes, unix_ms) {
                Ok(_) => count += changes.len(),
                Err(error) => tracing::warn!("bridge {bridge}: flows cannot expire: {error}"),
            }
            touched.push(bridge);
        }
        for bridge in touched {
            self.recount(switch, &bridge);
        }
        count
    }

    /// Forgets the flows of a bridge that is not desired any more, or begins
    /// anew.
    pub fn forget(&self, bridge: &str, unix_ms: u64) {
        lock(&self.desired).remove(bridge);
        let mut inner = lock(&self.inner);
        (inner.deadlines).retain(|Reverse(deadline)| deadline.bridge != bridge);
        inner.journal.forget(bridge, unix_ms);
    }

    /// Rewrites the journal if it is much larger than what is live in it, or
    /// (`at_start`) somewhat larger. Bridges that `is_desired` does not know
    /// are left out.
    pub fn compact<S: Switch>(
        &self,
        switch: &S,
        is_desired: &dyn Fn(&str) -> bool,
        at_start: bool,
        unix_ms: u64,
    ) -> Result<bool, JournalError> {
        let mut inner = lock(&self.inner);
        let lines = inner.journal.lines();
        let sound = inner.journal.unsound().is_none();
        if sound && !at_start && lines < inner.look_at {
            return Ok(false);
        }
        let loaded = lock(&self.desired).clone();
        let live = loaded.values().map(|totals| lines_of(totals) + 2).sum::<usize>();
        let most = match at_start {
            true => live + live / 4 + 8,
            false => live * 2 + SPARE_LINES,
        };
        if sound && lines <= most {
            inner.look_at = most;
            return Ok(false);
        }
        inner.rewrite(switch, &loaded, is_desired, unix_ms)?;
        inner.look_at = live * 2 + SPARE_LINES;
        Ok(true)
    }

    /// Lines of the journal.
    pub fn journal_lines(&self) -> usize {
        lock(&self.inner).journal.lines()
    }

    /// What was just done is as desired.
    fn recount<S: Switch>(&self, switch: &S, bridge: &str) {
        if let Ok(totals) = switch.flow_totals(bridge) {
            lock(&self.desired).insert(bridge.to_owned(), totals);
        }
    }
}

impl Inner {
    fn change<S: Switch>(
        &mut self,
        switch: &S,
        bridge: &str,
        changes: &[Change],
        unix_ms: u64,
    ) -> Result<FlowsChanged, FlowsError> {
        let lines: String = changes.iter().map(flow_text::journal_line).collect();
        let mut not_stored = None;
        let journal = &mut self.journal;
        let outcome = switch.change_flows(bridge, changes, &mut || {
            journal.append(bridge, &lines, unix_ms).map_err(|error| {
                let why = error.to_string();
                not_stored = Some(error);
                why
            })
        });
        outcome.map_err(|error| match (not_stored, error) {
            (Some(error), _) => FlowsError::Journal(error),
            (None, FlowChangeError::NoBridge(name)) => FlowsError::NoBridge(name),
            (None, FlowChangeError::Refused { index, error }) => FlowsError::Refused {
                index,
                why: error.to_string(),
            },
            (None, error) => FlowsError::Refused {
                index: 0,
                why: error.to_string(),
            },
        })
    }

    /// A bridge that never had flows.
    fn begin<S: Switch>(
        &mut self,
        switch: &S,
        bridge: &BridgeSpec,
        unix_ms: u64,
    ) -> Result<(), String> {
        if bridge.fail_mode == FailMode::Secure {
            return Ok(());
        }
        let normal = FlowSpec {
            table: Some(0),
            priority: 0,
            actions: vec![Action::Normal],
            ..FlowSpec::default()
        };
        let add = Change::Flow(FlowCommand::Add, Box::new(normal));
        self.change(switch, &bridge.name, &[add], unix_ms)
            .map(drop)
            .map_err(|error| format!("its first flow cannot be added: {error}"))
    }

    /// Puts what the journal has of a bridge in the place of what the datapath
    /// has of it.
    fn replay<S: Switch>(&mut self, switch: &S, bridge: &str, unix_ms: u64) -> Result<(), String> {
        let empty = || {
            vec![
                (0, delete_all()),
                (0, Change::DeleteGroups(None)),
                (0, Change::DeleteMeters(None)),
            ]
        };
        let mut batch = empty();
        let mut born: HashMap<(u8, u16, Match), u64> = HashMap::new();
        let flush = |batch: &mut Vec<(usize, Change)>| {
            let (lines, changes): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            let outcome = switch.change_flows(bridge, &changes, &mut || Ok(()));
            outcome.map(drop).map_err(|error| match error {
                FlowChangeError::Refused { index, error } => format!(
                    "line {} cannot be done: {error}",
                    lines.get(index).copied().unwrap_or(0)
                ),
                error => error.to_string(),
            })
        };
        let read = self.journal.read(bridge, &mut |number, line, at_ms| {
            match line {
                Line::Forget => {
                    batch.extend(empty());
                    born.clear();
                }
                Line::Change(change) => {
                    note_birth(&mut born, &change, at_ms);
                    batch.push((number, change));
                }
            }
            match batch.len() >= LOAD_BATCH {
                true => flush(&mut batch),
                false => Ok(()),
            }
        });
        let path = self.journal.path().display();
        read.map_err(|error| match error {
            JournalError::Damaged { why, .. } => format!("{path}, {why}"),
            error => error.to_string(),
        })?;
        flush(&mut batch).map_err(|why| format!("{path}, {why}"))?;
        self.remember_births(switch, bridge, &born)?;
        for (bridge, changes) in self.overdue(switch, unix_ms) {
            let outcome = self.change(switch, &bridge, &changes, unix_ms);
            outcome.map_err(|error| format!("flows whose time is over cannot go: {error}"))?;
        }
        Ok(())
    }

    /// Notes when the loaded flows with a hard timeout shall end.
    fn remember_births<S: Switch>(
        &mut self,
        switch: &S,
        bridge: &str,
        born: &HashMap<(u8, u16, Match), u64>,
    ) -> Result<(), String> {
        self.deadlines.retain(|Reverse(deadline)| deadline.bridge != bridge);
        if born.is_empty() {
            return Ok(());
        }
        let rules = switch.rules(bridge, &FlowSpec::default());
        let loaded = Instant::now();
        for status in rules.map_err(|error| error.to_string())? {
            let rule = &status.rule;
            let matching = rule.matching.full();
            let key = (rule.table, rule.priority, matching);
            if let (1.., Some(born_ms)) = (rule.hard_timeout, born.get(&key)) {
                self.deadlines.push(Reverse(Deadline {
                    at_ms: born_ms + 1000 * u64::from(rule.hard_timeout),
                    born_ms: *born_ms,
                    loaded,
                    bridge: bridge.to_owned(),
                    table: rule.table,
                    priority: rule.priority,
                    matching: Box::new(matching),
                }));
            }
        }
        Ok(())
    }

    /// Changes that delete the loaded flows whose hard timeout is over.
    fn overdue<S: Switch>(&mut self, switch: &S, unix_ms: u64) -> BTreeMap<String, Vec<Change>> {
        let mut changes: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        while let Some(Reverse(next)) = self.deadlines.peek()
            && next.at_ms <= unix_ms
            && let Some(Reverse(due)) = self.deadlines.pop()
        {
            let filter = FlowSpec {
                table: Some(due.table),
                matching: *due.matching,
                ..FlowSpec::default()
            };
            let found = switch.rules(&due.bridge, &filter).unwrap_or_default();
            if found.iter().any(|status| due.is_of(status)) {
                let delete = delete_strict(due.table, due.priority, *due.matching);
                changes.entry(due.bridge).or_default().push(delete);
            }
        }
        changes
    }

    /// Rewrites a journal that is not sound, so that it can be added to.
    fn heal<S: Switch>(
        &mut self,
        switch: &S,
        loaded: &BTreeMap<String, FlowTotals>,
        unix_ms: u64,
    ) -> Result<(), JournalError> {
        match self.journal.unsound() {
            None => Ok(()),
            Some(_) => self.rewrite(switch, loaded, &|_| true, unix_ms),
        }
    }

    fn rewrite<S: Switch>(
        &mut self,
        switch: &S,
        loaded: &BTreeMap<String, FlowTotals>,
        is_desired: &dyn Fn(&str) -> bool,
        unix_ms: u64,
    ) -> Result<(), JournalError> {
        let mut born: HashMap<(&str, u8, u16, &Match), &Deadline> = HashMap::new();
        for Reverse(deadline) in &self.deadlines {
            let Deadline {
                bridge,
                table,
                priority,
                matching,
                ..
            } = deadline;
            born.insert((bridge, *table, *priority, matching), deadline);
        }
        let before = self.journal.lines();
        let bridges: Vec<_> = self.journal.bridges().map(str::to_owned).collect();
        self.journal.rewrite(&mut |new| {
            for bridge in bridges.iter().filter(|bridge| is_desired(bridge)) {
                match loaded.contains_key(bridge) {
                    true => write_bridge(switch, bridge, new, unix_ms, &|status, matching| {
                        let rule = &status.rule;
                        let key = (bridge.as_str(), rule.table, rule.priority, matching);
                        let known = born.get(&key).filter(|deadline| deadline.is_of(status));
                        known.map_or_else(
                            || unix_ms.saturating_sub(since_modified(status).as_millis() as u64),
                            |deadline| deadline.born_ms,
                        )
                    })?,
                    false => new.keep(bridge)?,
                }
            }
            Ok(())
        })?;
        tracing::info!(
            "flow journal {}: rewritten, {before} lines became {}",
            self.journal.path().display(),
            self.journal.lines()
        );
        Ok(())
    }
}

/// Writes what the datapath has of a bridge. Flows with a hard timeout keep the
/// time at which they were added, as `born` knows it.
fn write_bridge<S: Switch>(
    switch: &S,
    bridge: &str,
    new: &mut Rewrite<'_>,
    unix_ms: u64,
    born: &dyn Fn(&RuleStatus, &Match) -> u64,
) -> Result<(), JournalError> {
    let (Ok(rules), Ok(groups), Ok(meters)) = (
        switch.rules(bridge, &FlowSpec::default()),
        switch.groups(bridge),
        switch.meters(bridge),
    ) else {
        // The datapath lost the bridge; it is about to come up again.
        return new.keep(bridge);
    };
    let mut lines = String::new();
    for meter in meters {
        lines.push_str(&flow_text::journal_line(&Change::AddMeter(meter.spec)));
    }
    for group in in_order(groups.into_iter().map(|group| group.spec).collect()) {
        lines.push_str(&flow_text::journal_line(&Change::AddGroup(group)));
    }
    // Even without any line the bridge is named: its flows were all deleted.
    new.add(bridge, &lines, unix_ms)?;
    lines.clear();
    let mut count = 0;
    for status in &rules {
        let spec = spec_of(&status.rule);
        if spec.hard_timeout > 0 {
            let at = born(status, &spec.matching);
            let add = Change::Flow(FlowCommand::Add, Box::new(spec));
            new.add(bridge, &flow_text::journal_line(&add), at)?;
            continue;
        }
        let add = Change::Flow(FlowCommand::Add, Box::new(spec));
        lines.push_str(&flow_text::journal_line(&add));
        count += 1;
        if count % REWRITE_BATCH == 0 {
            new.add(bridge, &lines, unix_ms)?;
            lines.clear();
        }
    }
    match lines.is_empty() {
        true => Ok(()),
        false => new.add(bridge, &lines, unix_ms),
    }
}

/// Groups so that each comes behind those that its buckets use.
fn in_order(mut groups: Vec<GroupSpec>) -> Vec<GroupSpec> {
    let mut ordered: Vec<GroupSpec> = Vec::with_capacity(groups.len());
    while !groups.is_empty() {
        let waiting: Vec<_> = groups.iter().map(|group| group.id).collect();
        let waits = |group: &GroupSpec| {
            let mut actions = group.buckets.iter().flat_map(|bucket| &bucket.actions);
            actions.any(|action| matches!(action, Action::Group(id) if waiting.contains(id)))
        };
        let (later, now): (Vec<_>, Vec<_>) = groups.into_iter().partition(waits);
        if now.is_empty() {
            // A ring, which tables do not allow: any order is as good.
            ordered.extend(later);
            return ordered;
        }
        ordered.extend(now);
        groups = later;
    }
    ordered
}

/// A rule as it would be asked for.
pub fn spec_of(rule: &Rule) -> FlowSpec {
    FlowSpec {
        table: Some(rule.table),
        priority: rule.priority,
        cookie: rule.cookie,
        cookie_mask: 0,
        sets_cookie: false,
        matching: rule.matching.full(),
        actions: rule.actions.to_vec(),
        idle_timeout: rule.idle_timeout,
        hard_timeout: rule.hard_timeout,
        importance: rule.importance,
        flags: rule.flags,
        out_port: None,
        out_group: None,
    }
}

/// Whether two flows differ in nothing that `replace-flows` and `diff-flows`
/// look at.
pub fn is_same(one: &FlowSpec, other: &FlowSpec) -> bool {
    one.cookie == other.cookie
        && one.idle_timeout == other.idle_timeout
        && one.hard_timeout == other.hard_timeout
        && one.importance == other.importance
        && one.actions == other.actions
}

/// The changes that make `there` into `wanted`. Of two wanted flows with the
/// same table, priority and match the later counts.
fn replacing(there: &[RuleStatus], wanted: Vec<FlowSpec>) -> Vec<Change> {
    let mut last: HashMap<(u8, u16, Match), usize> = HashMap::with_capacity(wanted.len());
    for (index, spec) in wanted.iter().enumerate() {
        let table = spec.table.unwrap_or(0);
        last.insert((table, spec.priority, spec.matching), index);
    }
    let mut changes = Vec::new();
    for status in there {
        let spec = spec_of(&status.rule);
        let key = (status.rule.table, spec.priority, spec.matching);
        match last.get(&key) {
            Some(index) if is_same(&wanted[*index], &spec) => drop(last.remove(&key)),
            Some(_) => {}
            None => changes.push(delete_strict(key.0, key.1, key.2)),
        }
    }
    for (index, mut spec) in wanted.into_iter().enumerate() {
        let table = spec.table.unwrap_or(0);
        if last.get(&(table, spec.priority, spec.matching)) == Some(&index) {
            spec.table = Some(table);
            changes.push(Change::Flow(FlowCommand::Add, Box::new(spec)));
        }
    }
    changes
}

/// Follows when flows with a hard timeout were added or modified.
fn note_birth(born: &mut HashMap<(u8, u16, Match), u64>, change: &Change, at_ms: u64) {
    let Change::Flow(command, spec) = change else {
        return;
    };
    let key = (spec.table.unwrap_or(0), spec.priority, spec.matching);
    match (command, spec.hard_timeout) {
        (FlowCommand::Add, 0) => drop(born.remove(&key)),
        (FlowCommand::Add, _) => drop(born.insert(key, at_ms)),
        (FlowCommand::Modify, hard) => {
            let touched = |in_table: u8, matching: &Match| {
                spec.table.is_none_or(|table| table == in_table)
                    && matching.is_within(&spec.matching)
            };
            for ((table, _, matching), at) in born.iter_mut() {
                if touched(*table, matching) {
                    *at = at_ms;
                }
            }
            if hard > 0 {
                born.insert(key, at_ms);
            }
        }
        (FlowCommand::ModifyStrict, hard) => {
            if hard > 0 || born.contains_key(&key) {
                born.insert(key, at_ms);
            }
        }
        (FlowCommand::DeleteStrict, _) => drop(born.remove(&key)),
        // Those within the match may be added again; a filter by cookie or
        // output spares some, so they keep their time.
        (FlowCommand::Delete, _)
            if spec.cookie_mask == 0 && spec.out_port.is_none() && spec.out_group.is_none() =>
        {
            let table = spec.table;
            born.retain(|(in_table, _, matching), _| {
                table.is_some_and(|table| table != *in_table) || !matching.is_within(&spec.matching)
            });
        }
        _ => {}
    }
}

fn delete_all() -> Change {
    Change::Flow(FlowCommand::Delete, Box::default())
}

fn delete_strict(table: u8, priority: u16, matching: Match) -> Change {
    let spec = FlowSpec {
        table: Some(table),
        priority,
        matching,
        ..FlowSpec::default()
    };
    Change::Flow(FlowCommand::DeleteStrict, Box::new(spec))
}
