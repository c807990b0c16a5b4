//! How each object stood after the last try, since when, and when the next one
//! is due.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use ringway_datapath::spec::BridgeSpec;

use crate::convert;
use crate::model::{Desired, Port};

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
    /// Of the others, ports that stand on an interface of the kernel.
    Interfaces,
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
    /// Bridges as the datapath was last told of them.
    pub told_bridges: BTreeMap<String, BridgeSpec>,
    /// Ports as the datapath was last told of them.
    pub told_ports: BTreeMap<String, Port>,
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

    pub(super) fn due(&self, now: Now, at_once: bool) -> bool {
        match &self.standing {
            Standing::Settled => true,
            Standing::Unsettled { retry_at, .. } => at_once || now.instant >= *retry_at,
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
pub(super) fn settle(notes: &mut BTreeMap<String, Note>, name: &str, now: Now) {
    match notes.get(name) {
        Some(note) if note.standing == Standing::Settled => {}
        _ => {
            notes.insert(name.to_owned(), Note::settled(now));
        }
    }
}

/// Notes a failure. The time stays while one failure follows another.
pub(super) fn unsettle(
    notes: &mut BTreeMap<String, Note>,
    what: &str,
    name: &str,
    why: String,
    now: Now,
) {
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
            bridges: (desired.bridges.iter())
                .map(|bridge| note(&bridge.spec.name))
                .collect(),
            ports: desired.ports.iter().map(|p| note(&p.name)).collect(),
            ..Self::default()
        }
    }

    /// Whether the datapath was told something else of a port than is desired.
    pub fn is_told_otherwise(&self, port: &Port) -> bool {
        let told = self.told_ports.get(&port.name);
        told.is_some_and(|told| !told.is_same_to_datapath(port))
    }
}
