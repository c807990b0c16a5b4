//! Drives the datapath towards the desired state and notes, per object, why
//! it is not there yet and since when. No object is given up.

mod notes;

pub use notes::{FIRST_RETRY, LAST_RETRY, Note, Notes, Now, Retry, Standing};

use std::collections::{BTreeMap, BTreeSet};

use ringway_datapath::DatapathError;
use ringway_datapath::spec::BridgeSpec;
use ringway_datapath::status::{PortState, PortStatus};

use self::notes::{settle, unsettle};
use crate::convert;
use crate::flows::Flows;
use crate::host::{self, Host};
use crate::model::{Bridge, Desired, Port};
use crate::switch::Switch;

/// What is worked with.
pub struct Means<'a, S> {
    /// The datapath.
    pub switch: &'a S,
    /// The flows that shall be.
    pub flows: &'a Flows,
    /// The host's interfaces.
    pub host: &'a dyn Host,
}

impl<S> Clone for Means<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Means<'_, S> {}

/// Names of objects that a change is about.
#[derive(Debug, Default)]
pub struct Targets {
    /// Bridges.
    pub bridges: BTreeSet<String>,
    /// Ports.
    pub ports: BTreeSet<String>,
}

/// An object that did not become as desired.
#[derive(Debug)]
pub struct Trouble {
    /// `bridge` or `port`.
    pub object: &'static str,
    /// Its name.
    pub name: String,
    /// Why.
    pub why: TroubleKind,
}

/// What went wrong with it.
#[derive(Debug)]
pub enum TroubleKind {
    /// It is desired and not up, or not with these options.
    NotUp(BringUpError),
    /// It is not desired any more and is still there.
    NotGone(String),
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

/// Brings up a bridge with its flows and notes how it went.
pub fn bring_up_bridge<S: Switch>(
    means: Means<'_, S>,
    bridge: &BridgeSpec,
    notes: &mut Notes,
    now: Now,
) -> Result<(), BringUpError> {
    let name = &bridge.name;
    match means.switch.add_bridge(bridge.clone()) {
        Ok(()) => {
            settle(&mut notes.bridges, name, now);
            notes.told_bridges.insert(name.clone(), bridge.clone());
            notes.flows.remove(name);
            load_flows(means, bridge, notes, now)
        }
        Err(error) => {
            let error = explain_bridge(error);
            note_failure(&mut notes.bridges, "bridge", name, error, now)
        }
    }
}

fn explain_bridge(error: DatapathError) -> BringUpError {
    match error {
        DatapathError::BadOption { why, .. } => BringUpError::Never(why),
        DatapathError::Unavailable { why, .. } => BringUpError::Later(why),
        error => BringUpError::Later(error.to_string()),
    }
}

/// Gives a bridge that is there other options.
fn change_bridge<S: Switch>(
    means: Means<'_, S>,
    bridge: &BridgeSpec,
    notes: &mut Notes,
    now: Now,
) -> Result<(), BringUpError> {
    let name = &bridge.name;
    match means.switch.set_bridge(bridge.clone()) {
        Ok(()) => {
            settle(&mut notes.bridges, name, now);
            notes.told_bridges.insert(name.clone(), bridge.clone());
            Ok(())
        }
        Err(error) => {
            let error = explain_bridge(error);
            note_failure(&mut notes.bridges, "bridge", name, error, now)
        }
    }
}

/// Puts a bridge's flows into the datapath and notes how it went.
fn load_flows<S: Switch>(
    means: Means<'_, S>,
    bridge: &BridgeSpec,
    notes: &mut Notes,
    now: Now,
) -> Result<(), BringUpError> {
    let name = &bridge.name;
    match means.flows.load(means.switch, bridge, now.unix_ms()) {
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
    means: Means<'_, S>,
    port: &Port,
    notes: &mut Notes,
    now: Now,
) -> Result<u32, BringUpError> {
    let name = &port.name;
    let added = match host::obstacle(means.host, port) {
        Some(why) => Err(BringUpError::Later(why)),
        None => match convert::port_to_spec(port) {
            Ok(spec) => match means.switch.add_port(spec) {
                Ok(number) => Ok(number),
                Err(error) => Err(explain(port, error, notes)),
            },
            Err(why) => Err(BringUpError::Later(why)),
        },
    };
    match added {
        Ok(number) => {
            settle(&mut notes.ports, name, now);
            notes.told_ports.insert(name.clone(), port.clone());
            Ok(number)
        }
        Err(error) => note_failure(&mut notes.ports, "port", name, error, now),
    }
}

/// Gives a port that is there other options: while packets flow where the
/// datapath can, else it is made anew.
fn change_port<S: Switch>(
    means: Means<'_, S>,
    port: &Port,
    notes: &mut Notes,
    now: Now,
) -> Result<(), BringUpError> {
    let name = &port.name;
    let changed = match convert::port_to_spec(port) {
        Ok(spec) => match means.switch.set_port(spec) {
            Ok(()) => Ok(()),
            Err(DatapathError::NotLive { .. }) => {
                take_down_and_count(means.switch, name, notes, now).map_err(BringUpError::Later)?;
                return bring_up_port(means, port, notes, now).map(drop);
            }
            Err(error) => Err(explain(port, error, notes)),
        },
        Err(why) => Err(BringUpError::Later(why)),
    };
    match changed {
        Ok(()) => {
            settle(&mut notes.ports, name, now);
            notes.told_ports.insert(name.clone(), port.clone());
            Ok(())
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
    take_down(switch.del_port(name), &mut notes.ports, "port", name, now)?;
    notes.told_ports.remove(name);
    Ok(())
}

/// Takes a bridge with its ports down and notes if it would not go.
pub fn take_down_bridge<S: Switch>(
    switch: &S,
    name: &str,
    notes: &mut Notes,
    now: Now,
) -> Result<(), String> {
    let outcome = switch.del_bridge(name);
    take_down(outcome, &mut notes.bridges, "bridge", name, now)?;
    notes.told_bridges.remove(name);
    notes.told_ports.retain(|_, port| port.bridge != name);
    Ok(())
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

/// Makes the objects that a change is about as they are desired now, whether
/// or not their time has come: what goes goes first, bridges come before ports.
pub fn carry_out<S: Switch>(
    means: Means<'_, S>,
    desired: &Desired,
    targets: &Targets,
    notes: &mut Notes,
    now: Now,
) -> Vec<Trouble> {
    let switch = means.switch;
    let mut troubles = Vec::new();
    let mut tell = |object, name: &str, why| {
        let name = name.to_owned();
        troubles.push(Trouble { object, name, why });
    };

    for status in switch.port_places() {
        let name = &status.name;
        let goes_with_bridge =
            targets.bridges.contains(&status.bridge) && desired.bridge(&status.bridge).is_none();
        if !targets.ports.contains(name) || goes_with_bridge {
            continue;
        }
        let stays = desired.port(name).is_some_and(|port| {
            let told = notes.told_ports.get(name);
            port.bridge == status.bridge
                && told.is_none_or(|told| told.differs_in_live_options_only(port))
        });
        if !stays && let Err(why) = take_down_port(switch, name, notes, now) {
            tell("port", name, TroubleKind::NotGone(why));
        }
    }
    for name in &targets.bridges {
        if desired.bridge(name).is_none()
            && let Err(why) = take_down_bridge(switch, name, notes, now)
        {
            tell("bridge", name, TroubleKind::NotGone(why));
        }
    }

    let there: BTreeSet<_> = switch.bridges().into_iter().map(|b| b.name).collect();
    let is_target = |bridge: &&Bridge| targets.bridges.contains(bridge.name());
    for bridge in desired.bridges.iter().filter(is_target) {
        let name = bridge.name();
        let outcome = match there.contains(name) {
            false => bring_up_bridge(means, &bridge.spec, notes, now),
            true if notes.told_bridges.get(name) != Some(&bridge.spec) => {
                change_bridge(means, &bridge.spec, notes, now)
            }
            true => Ok(()),
        };
        if let Err(error) = outcome {
            tell("bridge", name, TroubleKind::NotUp(error));
        }
    }

    let there: BTreeSet<_> = (switch.port_places().into_iter())
        .map(|place| place.name)
        .collect();
    let is_target = |port: &&Port| targets.ports.contains(&port.name);
    for port in desired.ports.iter().filter(is_target) {
        let outcome = match there.contains(&port.name) {
            false => bring_up_port(means, port, notes, now).map(drop),
            true if notes.is_told_otherwise(port) => change_port(means, port, notes, now),
            true => Ok(()),
        };
        if let Err(error) = outcome {
            tell("port", &port.name, TroubleKind::NotUp(error));
        }
    }
    troubles
}

/// One pass over every object: surplus ones go, missing ones come, a bridge's
/// flows before its ports, failed ports are made anew.
pub fn pass<S: Switch>(
    means: Means<'_, S>,
    desired: &Desired,
    notes: &mut Notes,
    now: Now,
    retry: Retry,
) {
    let switch = means.switch;
    if retry == Retry::Interfaces {
        switch.links_changed();
    }
    remove_surplus(switch, desired, notes, now, retry);

    let at_once = retry == Retry::All;
    let actual: Vec<_> = switch.bridges().into_iter().map(|b| b.name).collect();
    for bridge in desired.bridges.iter().map(|bridge| &bridge.spec) {
        let name = &bridge.name;
        if !actual.contains(name) {
            if due(&notes.bridges, name, now, at_once) {
                let _ = bring_up_bridge(means, bridge, notes, now);
            }
            continue;
        }
        let told = notes.told_bridges.get(name);
        if told.is_none_or(|told| told == bridge) {
            settle(&mut notes.bridges, name, now);
        } else if due(&notes.bridges, name, now, at_once) {
            let _ = change_bridge(means, bridge, notes, now);
        }
        let loaded = notes.flows.get(name);
        if loaded.is_none_or(|note| note.standing != Standing::Settled)
            && due(&notes.flows, name, now, at_once)
        {
            let _ = load_flows(means, bridge, notes, now);
        }
    }

    let actual: BTreeMap<_, _> = switch
        .ports()
        .into_iter()
        .map(|status| (status.name.clone(), status))
        .collect();
    for port in &desired.ports {
        let at_once = at_once || (retry == Retry::Interfaces && port.has_interface());
        reconcile_port(means, port, actual.get(&port.name), notes, now, at_once);
    }
    forget_gone(switch, desired, notes);
}

fn reconcile_port<S: Switch>(
    means: Means<'_, S>,
    port: &Port,
    actual: Option<&PortStatus>,
    notes: &mut Notes,
    now: Now,
    at_once: bool,
) {
    let name = &port.name;
    match actual.map(|status| &status.state) {
        Some(PortState::Failed { why }) => {
            let known = notes.ports.get(name);
            let just_failed = known.is_none_or(|note| note.standing == Standing::Settled);
            if just_failed {
                unsettle(&mut notes.ports, "port", name, why.clone(), now);
            }
            // One that just failed is left in sight until the first retry is
            // due, but not where an interface has gone: nothing is left there.
            let anew = match just_failed {
                true => port.has_interface(),
                false => due(&notes.ports, name, now, at_once),
            };
            if anew && take_down_and_count(means.switch, name, notes, now).is_ok() {
                let _ = bring_up_port(means, port, notes, now);
            }
        }
        Some(_) if notes.is_told_otherwise(port) && due(&notes.ports, name, now, at_once) => {
            let _ = change_port(means, port, notes, now);
        }
        Some(_) if notes.is_told_otherwise(port) => {}
        Some(_) => settle(&mut notes.ports, name, now),
        None if due(&notes.ports, name, now, at_once) => {
            let _ = bring_up_port(means, port, notes, now);
        }
        None => {}
    }
}

/// Takes a port down that is to be made anew, and keeps count of its failures.
fn take_down_and_count<S: Switch>(
    switch: &S,
    name: &str,
    notes: &mut Notes,
    now: Now,
) -> Result<(), String> {
    let before = notes.ports.get(name).cloned();
    take_down_port(switch, name, notes, now)?;
    if let Some(note) = before {
        notes.ports.insert(name.to_owned(), note);
    }
    Ok(())
}

fn due(notes: &BTreeMap<String, Note>, name: &str, now: Now, at_once: bool) -> bool {
    notes.get(name).is_none_or(|note| note.due(now, at_once))
}

/// Takes down what is not desired, or is on the wrong bridge.
fn remove_surplus<S: Switch>(
    switch: &S,
    desired: &Desired,
    notes: &mut Notes,
    now: Now,
    retry: Retry,
) {
    let at_once = retry == Retry::All;
    for status in switch.port_places() {
        let wanted = desired.port(&status.name);
        if wanted.is_none_or(|port| port.bridge != status.bridge)
            && due(&notes.ports, &status.name, now, at_once)
        {
            let _ = take_down_port(switch, &status.name, notes, now);
        }
    }
    for status in switch.bridges() {
        if desired.bridge(&status.name).is_none() && due(&notes.bridges, &status.name, now, at_once)
        {
            let _ = take_down_bridge(switch, &status.name, notes, now);
        }
    }
}

/// Drops the notes of objects that are neither desired nor there.
fn forget_gone<S: Switch>(switch: &S, desired: &Desired, notes: &mut Notes) {
    let bridges: Vec<_> = switch.bridges().into_iter().map(|b| b.name).collect();
    let ports: Vec<_> = (switch.port_places().into_iter())
        .map(|place| place.name)
        .collect();
    notes
        .bridges
        .retain(|name, _| desired.bridge(name).is_some() || bridges.contains(name));
    notes
        .ports
        .retain(|name, _| desired.port(name).is_some() || ports.contains(name));
    notes
        .flows
        .retain(|name, _| desired.bridge(name).is_some() && bridges.contains(name));
    notes.told_bridges.retain(|name, _| bridges.contains(name));
    notes.told_ports.retain(|name, _| ports.contains(name));
}
