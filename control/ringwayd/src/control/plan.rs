//! What a list of changes makes of the desired state, before anything of it is
//! stored: each is checked against what those before it made.

use std::path::Path;

use super::{ChangeError, not_found, other_bridge};
use crate::convert;
use crate::model::{self, Bridge, Columns, Desired, Kind, Port};
use crate::reconcile::Targets;

/// A change of the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a bridge, with its own interface unless it says no.
    AddBridge {
        /// The bridge.
        bridge: Bridge,
        /// Do nothing if it is there already.
        may_exist: bool,
    },
    /// Deletes a bridge with its ports.
    DelBridge {
        /// Its name.
        name: String,
        /// Do nothing if it is not there.
        if_exists: bool,
    },
    /// Adds a port.
    AddPort {
        /// The port.
        port: Port,
        /// Do nothing if it is there already.
        may_exist: bool,
    },
    /// Deletes a port.
    DelPort {
        /// The bridge it must be on, if that matters.
        bridge: Option<String>,
        /// Its name.
        name: String,
        /// Do nothing if it is not there.
        if_exists: bool,
    },
    /// Gives a bridge exactly these options.
    SetBridge(Bridge),
    /// Gives a port exactly these options; no number means its own.
    SetPort(Port),
    /// Gives the switch exactly these settings.
    SetSwitch(Columns),
}

/// What a list of changes comes to.
#[derive(Debug)]
pub struct Plan {
    /// The state that shall be.
    pub desired: Desired,
    /// By change: whether it created, deleted or changed something.
    pub changed: Vec<bool>,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// Every object that was named, also those that are there already.
    pub targets: Targets,
}

impl Change {
    /// Whether it is about that object.
    pub fn is_about(&self, object: &str, name: &str) -> bool {
        match self {
            Change::AddBridge { bridge, .. } | Change::SetBridge(bridge) => bridge.name() == name,
            Change::DelBridge { name: about, .. } => object == "bridge" && about == name,
            Change::AddPort { port, .. } | Change::SetPort(port) => {
                object == "port" && port.name == name
            }
            Change::DelPort { name: about, .. } => object == "port" && about == name,
            Change::SetSwitch(_) => false,
        }
    }
}

/// Makes the changes in order. An error tells which of them (from 0) cannot be.
pub fn plan(
    old: &Desired,
    changes: &[Change],
    control_socket: &Path,
) -> Result<Plan, (usize, ChangeError)> {
    let mut plan = Plan {
        desired: old.clone(),
        changed: Vec::with_capacity(changes.len()),
        warnings: Vec::new(),
        targets: Targets::default(),
    };
    for (index, change) in changes.iter().enumerate() {
        let changed = plan.make(change, control_socket);
        plan.changed.push(changed.map_err(|error| (index, error))?);
    }
    Ok(plan)
}

impl Plan {
    fn make(&mut self, change: &Change, control_socket: &Path) -> Result<bool, ChangeError> {
        match change {
            Change::AddBridge { bridge, may_exist } => self.add_bridge(bridge, *may_exist),
            Change::DelBridge { name, if_exists } => self.del_bridge(name, *if_exists),
            Change::AddPort { port, may_exist } => self.add_port(port, *may_exist, control_socket),
            Change::DelPort {
                bridge,
                name,
                if_exists,
            } => self.del_port(bridge.as_deref(), name, *if_exists),
            Change::SetBridge(bridge) => self.set_bridge(bridge),
            Change::SetPort(port) => self.set_port(port, control_socket),
            Change::SetSwitch(columns) => {
                let of_switch = |why| ChangeError::Invalid(format!("switch: {why}"));
                columns.check().map_err(of_switch)?;
                let changed = self.desired.switch != *columns;
                self.desired.switch = columns.clone();
                Ok(changed)
            }
        }
    }

    fn add_bridge(&mut self, bridge: &Bridge, may_exist: bool) -> Result<bool, ChangeError> {
        bridge.check().map_err(ChangeError::Invalid)?;
        let name = bridge.name();
        if let Some(existing) = self.desired.bridge(name).filter(|_| may_exist) {
            if existing != bridge {
                let why = format!("bridge {name} was there already and keeps its options");
                self.warnings.push(why);
            }
            self.targets.bridges.insert(name.to_owned());
            return Ok(false);
        }
        refuse_taken(self.desired.taken(name), "bridge", name)?;
        self.targets.bridges.insert(name.to_owned());
        self.desired.bridges.push(bridge.clone());
        if !bridge.no_internal {
            self.give_local_port(name)?;
        }
        Ok(true)
    }

    fn give_local_port(&mut self, bridge: &str) -> Result<(), ChangeError> {
        let mut local = Port::local(bridge);
        let invalid = |why| ChangeError::Invalid(format!("bridge {bridge}: its own port: {why}"));
        local.number = Some(number_for(&self.desired, &local).map_err(invalid)?);
        self.targets.ports.insert(local.name.clone());
        self.desired.ports.push(local);
        Ok(())
    }

    fn del_bridge(&mut self, name: &str, if_exists: bool) -> Result<bool, ChangeError> {
        if self.desired.bridge(name).is_none() {
            return match if_exists {
                true => Ok(false),
                false => Err(not_found("bridge", name)),
            };
        }
        self.targets.bridges.insert(name.to_owned());
        let ports = self.desired.ports_of(name).map(|port| port.name.clone());
        self.targets.ports.extend(ports);
        self.desired.bridges.retain(|bridge| bridge.name() != name);
        self.desired.ports.retain(|port| port.bridge != name);
        Ok(true)
    }

    fn add_port(
        &mut self,
        asked: &Port,
        may_exist: bool,
        control_socket: &Path,
    ) -> Result<bool, ChangeError> {
        let name = &asked.name;
        let invalid = |why| ChangeError::Invalid(format!("port {name}: {why}"));
        asked.check().map_err(invalid)?;
        if let Some(existing) = self.desired.port(name).filter(|_| may_exist) {
            if existing.bridge != asked.bridge {
                return Err(other_bridge(existing, &asked.bridge, true));
            }
            if !existing.is_as_asked(asked) {
                self.warnings.push(format!(
                    "port {name} was there already and keeps its options; to change them: ringway \
                     set-port {name} key=value…"
                ));
            }
            self.targets.ports.insert(name.clone());
            return Ok(false);
        }
        refuse_taken(self.desired.taken_for(asked), "port", name)?;
        if self.desired.bridge(&asked.bridge).is_none() {
            return Err(not_found("bridge", &asked.bridge));
        }
        let mut port = asked.clone();
        self.check_among_others(&port, control_socket)
            .map_err(invalid)?;
        port.number = Some(number_for(&self.desired, &port).map_err(invalid)?);
        if port.is_local() {
            self.set_no_internal(&port.bridge, false);
        }
        self.targets.ports.insert(name.clone());
        self.desired.ports.push(port);
        Ok(true)
    }

    fn del_port(
        &mut self,
        bridge: Option<&str>,
        name: &str,
        if_exists: bool,
    ) -> Result<bool, ChangeError> {
        if let Some(bridge) = bridge.filter(|bridge| self.desired.bridge(bridge).is_none()) {
            return Err(not_found("bridge", bridge));
        }
        let Some(port) = self.desired.port(name) else {
            return match if_exists {
                true => Ok(false),
                false => Err(not_found("port", name)),
            };
        };
        if let Some(asked) = bridge.filter(|bridge| *bridge != port.bridge) {
            return Err(other_bridge(port, asked, false));
        }
        if port.is_local() {
            return Err(ChangeError::Local {
                name: name.to_owned(),
            });
        }
        self.targets.ports.insert(name.to_owned());
        self.desired.ports.retain(|port| port.name != name);
        Ok(true)
    }

    fn set_bridge(&mut self, bridge: &Bridge) -> Result<bool, ChangeError> {
        let name = bridge.name();
        let Some(existing) = self.desired.bridge(name) else {
            return Err(not_found("bridge", name));
        };
        bridge.check().map_err(ChangeError::Invalid)?;
        let changed = existing != bridge;
        self.targets.bridges.insert(name.to_owned());
        let local = self.desired.port(name).is_some();
        if bridge.no_internal && local {
            self.targets.ports.insert(name.to_owned());
            self.desired.ports.retain(|port| port.name != name);
        } else if !bridge.no_internal && !local {
            self.give_local_port(name)?;
        }
        let bridges = self.desired.bridges.iter_mut();
        for known in bridges.filter(|known| known.name() == name) {
            known.clone_from(bridge);
        }
        Ok(changed)
    }

    fn set_no_internal(&mut self, bridge: &str, no_internal: bool) {
        let bridges = self.desired.bridges.iter_mut();
        for known in bridges.filter(|known| known.name() == bridge) {
            known.no_internal = no_internal;
        }
    }

    fn set_port(&mut self, asked: &Port, control_socket: &Path) -> Result<bool, ChangeError> {
        let name = &asked.name;
        let invalid = |why| ChangeError::Invalid(format!("port {name}: {why}"));
        let mut ports = self.desired.ports.iter().enumerate();
        let Some((place, existing)) = ports.find(|(_, port)| port.name == *name) else {
            return Err(not_found("port", name));
        };
        let existing = existing.clone();
        if asked.bridge != existing.bridge {
            return Err(invalid(format!(
                "it is on bridge {}, where it stays; to have it on another: ringway del-port \
                 {name}, then add-port",
                existing.bridge
            )));
        }
        if let (Some(asked), Some(number)) = (asked.number, existing.number)
            && asked != number
        {
            return Err(invalid(format!(
                "its number is {number}, which stays; to have another: ringway del-port {name}, \
                 then add-port with number={asked}"
            )));
        }
        asked.check().map_err(invalid)?;
        if existing.is_local() && !asked.is_local() {
            let why = "it is its bridge's own interface, which is always of type=internal";
            return Err(invalid(why.into()));
        }
        let port = Port {
            number: existing.number,
            ..asked.clone()
        };
        self.desired.ports.remove(place);
        self.check_among_others(&port, control_socket)
            .map_err(invalid)?;
        let changed = port != existing;
        self.targets.ports.insert(name.clone());
        self.desired.ports.insert(place, port);
        Ok(changed)
    }

    /// What only the other ports tell.
    fn check_among_others(&self, port: &Port, control_socket: &Path) -> Result<(), String> {
        self.check_socket(port, control_socket)?;
        self.check_peer(port)?;
        convert::port_to_spec(port).map(drop)
    }

    fn check_socket(&self, port: &Port, control_socket: &Path) -> Result<(), String> {
        let Some(path) = port.socket() else {
            return Ok(());
        };
        if path == control_socket {
            return Err(format!(
                "path {} is ringwayd's own control socket; choose another path=",
                path.display()
            ));
        }
        match self.desired.port_on_socket(path) {
            Some(other) => Err(format!(
                "path {} is port {}'s already; choose another path=",
                path.display(),
                other.name
            )),
            None => Ok(()),
        }
    }

    fn check_peer(&self, port: &Port) -> Result<(), String> {
        let Kind::Patch(options) = &port.kind else {
            return Ok(());
        };
        let peer = &options.peer;
        match self.desired.port(peer) {
            Some(other) if !matches!(other.kind, Kind::Patch(_)) => Err(format!(
                "peer {peer} is no patch port; a patch port's peer is one, on another bridge"
            )),
            Some(other) if other.bridge == port.bridge => Err(format!(
                "peer {peer} is on the same bridge; a patch port joins two bridges"
            )),
            _ => Ok(()),
        }
    }
}

/// The number that a new port gets.
fn number_for(desired: &Desired, port: &Port) -> Result<u32, String> {
    let Some(number) = port.number else {
        let none = || format!("all numbers from 1 to {} are taken", model::MAX_PORT_NUMBER);
        return desired.free_number(port.is_local()).ok_or_else(none);
    };
    match desired.port_numbered(number) {
        None => Ok(number),
        Some(other) => Err(format!(
            "number {number} is port {}'s already; choose another number=",
            other.name
        )),
    }
}

fn refuse_taken(
    taken: Option<&'static str>,
    object: &'static str,
    name: &str,
) -> Result<(), ChangeError> {
    match taken {
        Some(other) => Err(ChangeError::Exists {
            object,
            name: name.to_owned(),
            other,
            hint: match other == object {
                true => " (--may-exist makes that no error)",
                false => "; choose another name",
            },
        }),
        None => Ok(()),
    }
}
