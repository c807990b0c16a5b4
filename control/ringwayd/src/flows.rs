//! Flows, groups and meters of every bridge: in the journal first, then in the
//! datapath. No copy of them is kept here: the datapath is asked when the
//! journal is rewritten, the journal is read when a bridge comes up.

mod compare;
mod deadline;
mod rewrite;

pub use compare::{is_same, spec_of};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringway_datapath::flows::{FlowChangeError, FlowTotals, FlowsChanged};
use ringway_datapath::spec::{BridgeSpec, FailMode};
use ringway_flow::action::Action;
use ringway_flow::matching::Match;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};

use self::compare::replacing;
use self::deadline::{Deadline, note_birth};
use crate::flow_text;
use crate::journal::{Journal, JournalError, Line};
use crate::switch::Switch;

/// Most changes that are given to the datapath at once while a bridge's flows
/// are loaded; no port is up then, so nobody sees a part of them.
const LOAD_BATCH: usize = 8_192;
/// Between a rewrite that failed and the next try.
const REWRITE_RETRY: Duration = Duration::from_secs(10);
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
    /// When a rewrite that failed may be tried again.
    again_at: Option<Instant>,
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
                again_at: None,
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
        match before.is_multiple_of(2) && self.era.load(Ordering::SeqCst) == before {
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
        let there = switch
            .rules(bridge, &FlowSpec::default())
            .map_err(no_bridge)?;
        let changes = replacing(&there, wanted);
        drop(there);
        match changes.is_empty() {
            true => Ok(FlowsChanged::default()),
            false => self.change(switch, bridge, &changes, unix_ms),
        }
    }

    /// Gives a bridge the flows with which it begins, in place of those it has.
    /// One that the datapath does not have begins so when it comes up.
    pub fn begin_anew<S: Switch>(
        &self,
        switch: &S,
        bridge: &BridgeSpec,
        unix_ms: u64,
    ) -> Result<(), FlowsError> {
        let mut changes = vec![delete_all()];
        changes.extend(first_flow(bridge));
        if lock(&self.desired).contains_key(&bridge.name) {
            return self
                .change(switch, &bridge.name, &changes, unix_ms)
                .map(drop);
        }
        let mut inner = lock(&self.inner);
        if inner.journal.mentions(&bridge.name) {
            let lines: String = changes.iter().map(flow_text::journal_line).collect();
            inner.journal.append(&bridge.name, &lines, unix_ms)?;
        }
        Ok(())
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
                inner
                    .journal
                    .set_unsound(format!("expired flows are still in it: {error}"));
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
        let rests = !at_start && inner.again_at.is_some_and(|at| Instant::now() < at);
        if rests || (sound && !at_start && lines < inner.look_at) {
            return Ok(false);
        }
        let loaded = lock(&self.desired).clone();
        let live = loaded
            .values()
            .map(|totals| lines_of(totals) + 2)
            .sum::<usize>();
        let most = match at_start {
            true => live + live / 4 + 8,
            false => live * 2 + SPARE_LINES,
        };
        if sound && lines <= most {
            inner.look_at = most;
            return Ok(false);
        }
        inner.again_at = Some(Instant::now() + REWRITE_RETRY);
        inner.rewrite(switch, &loaded, is_desired, unix_ms)?;
        inner.again_at = None;
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
        let Some(add) = first_flow(bridge) else {
            return Ok(());
        };
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
}

/// What makes a standalone bridge a learning switch.
fn first_flow(bridge: &BridgeSpec) -> Option<Change> {
    let normal = || FlowSpec {
        table: Some(0),
        priority: 0,
        actions: vec![Action::Normal],
        ..FlowSpec::default()
    };
    (bridge.fail_mode != FailMode::Secure)
        .then(|| Change::Flow(FlowCommand::Add, Box::new(normal())))
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
