//! A list of changes, all or none: planned, stored, brought up, answered. A
//! single change is a list of one.

use std::collections::BTreeMap;

use ringway_datapath::spec::BridgeSpec;

use super::plan::{Change, Plan, plan};
use super::{ChangeError, Control, lock, not_gone, not_up};
use crate::host;
use crate::model::{Bridge, Columns, Desired, Port};
use crate::reconcile::{self, BringUpError, Now, Retry, Targets, Trouble, TroubleKind};
use crate::switch::Switch;

/// What a list of changes did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// By change: whether it created, deleted or changed something.
    pub changed: Vec<bool>,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// Numbers of the ports that were to be added, if they are up.
    pub numbers: BTreeMap<String, u32>,
}

/// Why a list of changes was refused, or is not fulfilled yet.
#[derive(Debug)]
pub struct Failed {
    /// Which change it was, from 0.
    pub index: usize,
    /// Why.
    pub error: ChangeError,
}

/// What adding did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// False if it was there already.
    pub created: bool,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// A port's number, 0 if it was not waited for.
    pub number: u32,
}

/// Flags of an adding change.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddFlags {
    /// Do nothing if it is there already.
    pub may_exist: bool,
    /// Do not wait for the datapath.
    pub no_wait: bool,
}

/// Flags of a deleting change.
#[derive(Clone, Copy, Debug, Default)]
pub struct DelFlags {
    /// Do nothing if it is not there.
    pub if_exists: bool,
    /// Do not wait for the datapath.
    pub no_wait: bool,
}

impl<S: Switch> Control<S> {
    /// Adds a bridge.
    pub fn add_bridge(&self, bridge: Bridge, flags: AddFlags) -> Result<Added, ChangeError> {
        let AddFlags { may_exist, no_wait } = flags;
        let applied = self.apply_one(Change::AddBridge { bridge, may_exist }, no_wait)?;
        Ok(Added {
            created: applied.changed == [true],
            warnings: applied.warnings,
            number: 0,
        })
    }

    /// Adds a port.
    pub fn add_port(&self, port: Port, flags: AddFlags) -> Result<Added, ChangeError> {
        let AddFlags { may_exist, no_wait } = flags;
        let name = port.name.clone();
        let applied = self.apply_one(Change::AddPort { port, may_exist }, no_wait)?;
        Ok(Added {
            created: applied.changed == [true],
            warnings: applied.warnings,
            number: applied.numbers.get(&name).copied().unwrap_or(0),
        })
    }

    /// Deletes a bridge with its ports. Returns whether there was one.
    pub fn del_bridge(&self, name: &str, flags: DelFlags) -> Result<bool, ChangeError> {
        let change = Change::DelBridge {
            name: name.to_owned(),
            if_exists: flags.if_exists,
        };
        Ok(self.apply_one(change, flags.no_wait)?.changed == [true])
    }

    /// Deletes a port, which must be on `bridge` if that is given. Returns
    /// whether there was one.
    pub fn del_port(
        &self,
        bridge: Option<&str>,
        name: &str,
        flags: DelFlags,
    ) -> Result<bool, ChangeError> {
        let change = Change::DelPort {
            bridge: bridge.map(str::to_owned),
            name: name.to_owned(),
            if_exists: flags.if_exists,
        };
        Ok(self.apply_one(change, flags.no_wait)?.changed == [true])
    }

    /// The settings of the whole switch.
    pub fn switch_columns(&self) -> Columns {
        lock(&self.book).desired.switch.clone()
    }

    fn apply_one(&self, change: Change, no_wait: bool) -> Result<Applied, ChangeError> {
        self.apply(&[change], no_wait)
            .map_err(|Failed { error, .. }| error)
    }

    /// Makes changes: all of them, or none. What comes about is the difference
    /// between the state before and the state after: a bridge that is deleted
    /// and added again stays, with its flows.
    pub fn apply(&self, changes: &[Change], no_wait: bool) -> Result<Applied, Failed> {
        let _changing = lock(&self.changing);
        let old = self.desired();
        let failed = |(index, error)| Failed { index, error };
        let Plan {
            desired: new,
            changed,
            warnings,
            targets,
        } = plan(&old, changes, &self.control_socket).map_err(failed)?;
        let about = |object: &str, name: &str| {
            let found = changes
                .iter()
                .rposition(|change| change.is_about(object, name));
            found.unwrap_or(0)
        };
        for port in &new.ports {
            let before = old.port(&port.name);
            if let Some(why) = host::belongs_elsewhere(&*self.host, before, port) {
                let why = format!("port {}: {why}", port.name);
                let index = about("port", &port.name);
                let error = ChangeError::Refused { line: None, why };
                return Err(Failed { index, error });
            }
        }

        let of_all = |error| Failed { index: 0, error };
        if new != old {
            // What a bridge of that name had once is not this one's.
            for bridge in new.bridges.iter().map(Bridge::name) {
                if old.bridge(bridge).is_none() {
                    self.flows.forget(bridge, Now::read().unix_ms());
                }
            }
            self.commit(&old, new.clone()).map_err(of_all)?;
        }
        let mut applied = Applied {
            changed,
            warnings,
            numbers: BTreeMap::new(),
        };
        if !no_wait {
            let troubles = self.carry_out(&old, &new, &targets, about)?;
            applied.warnings.extend(troubles);
            applied.numbers = self.numbers(changes);
        }
        self.change_flows_with(&old, &new).map_err(of_all)?;
        let told = host::warnings(&*self.switch, &*self.host, &old, &new);
        applied.warnings.extend(told);
        Ok(applied)
    }

    /// Makes actual what was stored. Returns warnings; what cannot have a
    /// meaning is taken back, all of it.
    fn carry_out(
        &self,
        old: &Desired,
        new: &Desired,
        targets: &Targets,
        about: impl Fn(&str, &str) -> usize,
    ) -> Result<Vec<String>, Failed> {
        let mut troubles =
            self.note(|notes, now| reconcile::carry_out(self.means(), new, targets, notes, now));
        let is_never =
            |trouble: &Trouble| matches!(trouble.why, TroubleKind::NotUp(BringUpError::Never(_)));
        if let Some(at) = troubles.iter().position(is_never).filter(|_| new != old) {
            let Trouble { object, name, why } = troubles.swap_remove(at);
            let index = about(object, &name);
            let error = match self.roll_back(old) {
                Ok(()) => ChangeError::Invalid(format!("{object} {name}: {}", why.reason())),
                Err(error) => error,
            };
            return Err(Failed { index, error });
        }

        let bridges_down: Vec<_> = (troubles.iter())
            .filter(|trouble| trouble.object == "bridge")
            .map(|trouble| trouble.name.clone())
            .collect();
        let mut warnings = Vec::new();
        let mut errors = Vec::new();
        let mut index = None;
        for Trouble { object, name, why } in troubles {
            let port = new.port(&name).filter(|_| object == "port");
            if port.is_some_and(|port| bridges_down.contains(&port.bridge)) {
                // The bridge's reason is the port's.
                continue;
            }
            if port.is_some_and(Port::is_local) && old.bridge(&name).is_none() {
                warnings.push(format!(
                    "port {name} is not up: {}\nBridge {name} works without it; ringwayd goes on \
                     trying, and `ringway show` tells how it stands. To have the bridge without \
                     it: ringway set-br {name} no-internal=true",
                    why.reason()
                ));
                continue;
            }
            index = index.or_else(|| Some(about(object, &name)));
            errors.push(match why {
                TroubleKind::NotUp(error) => not_up(object, &name, error.reason()),
                TroubleKind::NotGone(reason) => not_gone(object, &name, reason),
            });
        }
        let error = match errors.len() {
            0 => return Ok(warnings),
            1 => errors.remove(0),
            _ => ChangeError::Several(errors),
        };
        // It stays as it was stored: the flows go with it.
        let index = index.unwrap_or(0);
        if let Err(error) = self.change_flows_with(old, new) {
            return Err(Failed { index, error });
        }
        Err(Failed { index, error })
    }

    /// Takes back what was stored, and then whatever was brought up of it.
    fn roll_back(&self, old: &Desired) -> Result<(), ChangeError> {
        self.file.save(old)?;
        lock(&self.book).desired = old.clone();
        self.note(|notes, now| {
            reconcile::pass(self.means(), old, notes, now, Retry::All);
        });
        Ok(())
    }

    /// A bridge's flows go with it, and begin anew with another fail mode.
    fn change_flows_with(&self, old: &Desired, new: &Desired) -> Result<(), ChangeError> {
        let unix_ms = Now::read().unix_ms();
        for before in &old.bridges {
            let BridgeSpec {
                name, fail_mode, ..
            } = &before.spec;
            match new.bridge(name) {
                None => self.flows.forget(name, unix_ms),
                Some(now) if now.spec.fail_mode != *fail_mode => {
                    self.begin_flows_anew(&now.spec, unix_ms)?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Numbers of the ports that are up, of those that were to be added.
    fn numbers(&self, changes: &[Change]) -> BTreeMap<String, u32> {
        let is_added = |name: &str| {
            let mut changes = changes.iter();
            changes
                .any(|change| matches!(change, Change::AddPort { port, .. } if port.name == name))
        };
        let there = self.switch.port_places().into_iter();
        there
            .filter(|status| is_added(&status.name))
            .map(|status| (status.name, status.number))
            .collect()
    }
}

impl TroubleKind {
    fn reason(self) -> String {
        match self {
            TroubleKind::NotUp(error) => error.reason(),
            TroubleKind::NotGone(reason) => reason,
        }
    }
}
