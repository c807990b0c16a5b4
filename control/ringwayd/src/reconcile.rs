//! Drives the datapath towards the desired state and notes, per object, why
//! it is not there yet and since when. No object is given up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use ringway_datapath::DatapathError;
use ringway_datapath::spec::BridgeSpec;
use ringway_datapath::status::{PortState, PortStatus};

use crate::convert;
use crate::flows::Flows;
use crate::model::{Desired, Port};
use crate::switch::Switch;

/// Between the first failure and the next try; doubles with each failure.
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Most time between two tries.
pub const LAST_RETRY: Duration = Duration::from_secs(8);

/// The time of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For retries.
    pub instant: Instant,
    /// For people.
    pub wall: SystemTime,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        convert::unix_ms(self.wall).try_into().unwrap_or(0)
    }
}

/// What is to be tried in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Objects whose time has come.
    Due,
    /// All that are not as desired.
    All,
}

/// How an object stood after the last try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The datapath took it over.
    Settled,
    /// It is not as desired.
    Unsettled {
        /// Why.
        reason: String,
        /// Tries that failed in a row.
        failures: u32,
        /// When to try again.
        retry_at: Instant,
    },
}

/// A [`Standing`] and since when it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How the object stands.
    pub standing: Standing,
    /// Since when.
    pub since: SystemTime,
}

/// A note for every object that is desired, or is there without being desired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// By bridge name.
    pub bridges: BTreeMap<String, Note>,
    /// By port name.
    pub ports: BTreeMap<String, Note>,
    /// By the name of the bridge whose flows they are.
    pub flows: BTreeMap<String, Note>,
}

/// Why an object could not be brought up.
#[derive(Debug, PartialEq, Eq)]
pub enum BringUpError {
    /// It never can be: an option has no meaning.
    Never(String),
    /// It may work later.
    Later(String),
}

impl BringUpError {
    /// The reason in words.
    pub fn reason(self) -> String {
        match self {
            BringUpError::Never(why) | BringUpError::Later(why) => why,
        }
    }
}

impl Note {
    fn settled(now: Now) -> Self {
        Self {
            standing: Standing::Settled,
            since: now.wall,
        }
    }

    /// Asked for, not tried yet.
    pub fn pending(now: Now) -> Self {
        Self {
            standing: Standing::Unsettled {
                reason: "not brought up yet".into(),
                failures: 0,
                retry_at: now.instant,
            },
            since: now.wall,
        }
    }

    /// Why it is not as desired; empty when it is.
    pub fn reason(&self) -> &str {
        match &self.standing {
            Standing::Settled => "",
            Standing::Unsettled { reason, .. } => reason,
        }
    }

    fn due(&self, now: Now, retry: Retry) -> bool {
        match &self.standing {
            Standing::Settled => true,
            Standing::Unsettled { retry_at, .. } => retry == Retry::All || now.instant >= *retry_at,
        }
    }

    fn failures(&self) -> u32 {
        match &self.standing {
            Standing::Settled => 0,
            Standing::Unsettled { failures, .. } => *failures,
        }
    }
}

/// When to try again after so many failures.
fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY
        .saturating_mul(1 << failures.min(8))
        .min(LAST_RETRY)
}

/// Notes a success. The time stays if the object stood so before.
fn settle(notes: &mut BTreeMap<String, Note>, name: &str, now: Now) {
    match notes.get(name) {
        Some(note) if note.standing == Standing::Settled => {}
        _ => {
            notes.insert(name.to_owned(), Note::settled(now));
        }
    }
}

/// Notes a failure. The time stays while one failure follows another.
fn unsettle(notes: &mut BTreeMap<String, Note>, what: &str, name: &str, why: String, now: Now) {
    let before = notes.get(name);
    if before.is_none_or(|note| note.reason() != why) {
        tracing::warn!("{what} {name}: {why}");
    }
    let failures = before.map_or(0, Note::failures);
    let since = match before {
        Some(note) if note.standing != Standing::Settled => note.since,
        _ => now.wall,
    };
    let standing = Standing::Unsettled {
        reason: why,
        failures: failures.saturating_add(1),
        retry_at: now.instant + retry_after(failures),
    };
    notes.insert(name.to_owned(), Note { standing, since });
}

impl Notes {
    /// Every desired object, not tried yet.
    pub fn pending(desired: &Desired, now: Now) -> Self {
        let note = |name: &String| (name.clone(), Note::pending(now));
        Self {
            bridges: desired.bridges.iter().map(|b| note(&b.name)).collect(),
            ports: desired.ports.iter().map(|p| note(&p.name)).collect(),
            flows: BTreeMap::new(),
        }
    }
}

/// Brings up a bridge with its flows and notes how it went.
pub fn bring_up_bridge<S: Switch>(
    switch: &S,
    flows: &Flows,
    bridge: &BridgeSpec,
    notes: &mut Notes,
    now: Now,
) -> Result<(), BringUpError> {
    let name = &bridge.name;
    let outcome = match switch.add_bridge(bridge.clone()) {
        Ok(()) => Ok(()),
        Err(DatapathError::BadOption { why, .. }) => Err(BringUpError::Never(why)),
        Err(DatapathError::Unavailable { why, .. }) => Err(BringUpError::Later(why)),
        Err(error) => Err(BringUpError::Later(error.to_string())),
    };
    match outcome {
        Ok(()) => {
            settle(&mut notes.bridges, name, now);
            notes.flows.remove(name);
            load_flows(switch, flows, bridge, notes, now)
        }
        Err(error) => note_failure(&mut notes.bridges, "bridge", name, error, now),
    }
}

/// Puts a bridge's flows into the datapath and notes how it went.
fn load_flows<S: Switch>(
    switch: &S,
    flows: &Flows,
    bridge: &BridgeSpec,
    notes: &mut Notes,
    now: Now,
) -> Result<(), BringUpError> {
    let name = &bridge.name;
    match flows.load(switch, bridge, now.unix_ms()) {
        Ok(()) => {
            settle(&mut notes.flows, name, now);
            Ok(())
        }
        Err(why) => {
            let why = BringUpError::Later(format!("its flows are not as desired: {why}"));
            note_failure(&mut notes.flows, "bridge", name, why, now)
        }
    }
}

/// Brings up a port and notes how it went. Returns the port's number.
pub fn bring_up_port<S: Switch>(
    switch: &S,
    port: &Port,
    notes: &mut Notes,
    now: Now,
) -> Result<u32, BringUpError> {
    let name = &port.name;
    let added = match convert::port_to_spec(port) {
        Ok(spec) => match switch.add_port(spec) {
            Ok(number) => Ok(number),
            Err(error) => Err(explain(port, error, notes)),
        },
        Err(why) => Err(BringUpError::Later(why)),
    };
    match added {
        Ok(number) => {
            settle(&mut notes.ports, name, now);
            Ok(number)
        }
        Err(error) => note_failure(&mut notes.ports, "port", name, error, now),
    }
}

fn explain(port: &Port, error: DatapathError, notes: &Notes) -> BringUpError {
    match error {
        DatapathError::BadOption { why, .. } => BringUpError::Never(why),
        DatapathError::Unavailable { why, .. } => BringUpError::Later(why),
        DatapathError::NotFound { .. } => {
            let why = notes.bridges.get(&port.bridge).map_or("", Note::reason);
            let bridge = &port.bridge;
            BringUpError::Later(format!("bridge {bridge} is not in the datapath: {why}"))
        }
        error => BringUpError::Later(error.to_string()),
    }
}

fn note_failure<T>(
    notes: &mut BTreeMap<String, Note>,
    what: &str,
    name: &str,
    error: BringUpError,
    now: Now,
) -> Result<T, BringUpError> {
    let (BringUpError::Never(why) | BringUpError::Later(why)) = &error;
    unsettle(notes, what, name, why.clone(), now);
    Err(error)
}

/// Takes a port down and notes if it would not go.
pub fn take_down_port<S: Switch>(
    switch: &S,
    name: &str,
    notes: &mut Notes,
    now: Now,
) -> Result<(), String> {
    take_down(switch.del_port(name), &mut notes.ports, "port", name, now)
}

/// Takes a bridge with its ports down and notes if it would not go.
pub fn take_down_bridge<S: Switch>(
    switch: &S,
    name: &str,
    notes: &mut Notes,
    now: Now,
) -> Result<(), String> {
    let outcome = switch.del_bridge(name);
    take_down(outcome, &mut notes.bridges, "bridge", name, now)
}

fn take_down(
    outcome: Result<(), DatapathError>,
    notes: &mut BTreeMap<String, Note>,
    what: &str,
    name: &str,
    now: Now,
) -> Result<(), String> {
    match outcome {
        Ok(()) | Err(DatapathError::NotFound { .. }) => {
            notes.remove(name);
            Ok(())
        }
        Err(error) => {
            let why = format!("cannot be taken down: {error}");
            unsettle(notes, what, name, why.clone(), now);
            Err(why)
        }
    }
}

/// One pass over every object: surplus ones go, missing ones come, a bridge's
/// flows before its ports, failed ports are made anew.
pub fn pass<S: Switch>(
    switch: &S,
    flows: &Flows,
    desired: &Desired,
    notes: &mut Notes,
    now: Now,
    retry: Retry,
) {
    remove_surplus(switch, desired, notes, now, retry);

    let actual: Vec<_> = switch.bridges().into_iter().map(|b| b.name).collect();
    for bridge in &desired.bridges {
        if actual.contains(&bridge.name) {
            settle(&mut notes.bridges, &bridge.name, now);
            let loaded = notes.flows.get(&bridge.name);
            if loaded.is_none_or(|note| note.standing != Standing::Settled)
                && due(&notes.flows, &bridge.name, now, retry)
            {
                let _ = load_flows(switch, flows, bridge, notes, now);
            }
        } else if due(&notes.bridges, &bridge.name, now, retry) {
            let _ = bring_up_bridge(switch, flows, bridge, notes, now);
        }
    }

    let actual: BTreeMap<_, _> = switch
        .ports()
        .into_iter()
        .map(|status| (status.name.clone(), status))
        .collect();
    for port in &desired.ports {
        reconcile_port(switch, port, actual.get(&port.name), notes, now, retry);
    }
    forget_gone(switch, desired, notes);
}

fn reconcile_port<S: Switch>(
    switch: &S,
    port: &Port,
    actual: Option<&PortStatus>,
    notes: &mut Notes,
    now: Now,
    retry: Retry,
) {
    let name = &port.name;
    match actual.map(|status| &status.state) {
        Some(PortState::Failed { why }) => {
            let known = notes.ports.get(name);
            if known.is_none_or(|note| note.standing == Standing::Settled) {
                // Just failed: leave it in sight until the first retry is due.
                unsettle(&mut notes.ports, "port", name, why.clone(), now);
            } else if due(&notes.ports, name, now, retry)
                && take_down_and_count(switch, name, notes, now)
            {
                let _ = bring_up_port(switch, port, notes, now);
            }
        }
        Some(_) => settle(&mut notes.ports, name, now),
        None if due(&notes.ports, name, now, retry) => {
            let _ = bring_up_port(switch, port, notes, now);
        }
        None => {}
    }
}

/// Takes a failed port down but keeps count of its failures.
fn take_down_and_count<S: Switch>(switch: &S, name: &str, notes: &mut Notes, now: Now) -> bool {
    let before = notes.ports.get(name).cloned();
    let gone = take_down_port(switch, name, notes, now).is_ok();
    if let (true, Some(note)) = (gone, before) {
        notes.ports.insert(name.to_owned(), note);
    }
    gone
}

fn due(notes: &BTreeMap<String, Note>, name: &str, now: Now, retry: Retry) -> bool {
    notes.get(name).is_none_or(|note| note.due(now, retry))
}

/// Takes down what is not desired, or is on the wrong bridge.
fn remove_surplus<S: Switch>(
    switch: &S,
    desired: &Desired,
    notes: &mut Notes,
    now: Now,
    retry: Retry,
) {
    for status in switch.ports() {
        let wanted = desired.port(&status.name);
        if wanted.is_none_or(|port| port.bridge != status.bridge)
            && due(&notes.ports, &status.name, now, retry)
        {
            let _ = take_down_port(switch, &status.name, notes, now);
        }
    }
    for status in switch.bridges() {
        if desired.bridge(&status.name).is_none() && due(&notes.bridges, &status.name, now, retry) {
            let _ = take_down_bridge(switch, &status.name, notes, now);
        }
    }
}

/// Drops the notes of objects that are neither desired nor there.
fn forget_gone<S: Switch>(switch: &S, desired: &Desired, notes: &mut Notes) {
    let bridges: Vec<_> = switch.bridges().into_iter().map(|b| b.name).collect();
    let ports: Vec<_> = switch.ports().into_iter().map(|p| p.name).collect();
    notes
        .bridges
        .retain(|name, _| desired.bridge(name).is_some() || bridges.contains(name));
    notes
        .ports
        .retain(|name, _| desired.port(name).is_some() || ports.contains(name));
    notes
        .flows
        .retain(|name, _| desired.bridge(name).is_some() && bridges.contains(name));
}
