//! Changes: validate, write the desired state durably, apply, answer.

mod flow_changes;

pub use flow_changes::{Asked, Modified, Side};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringway_datapath::spec::BridgeSpec;
use ringway_datapath::status::BridgeStatus;
use ringway_proto::v1 as pb;
use tokio::sync::{Notify, watch};

use crate::convert;
use crate::flows::Flows;
use crate::journal::{Journal, JournalError};
use crate::model::{self, Desired, Port};
use crate::reconcile::{self, BringUpError, Notes, Now, Retry};
use crate::state::{StateError, StateFile};
use crate::switch::Switch;
use crate::view;

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// An option has no meaning. Nothing was changed.
    #[error("{0}")]
    Invalid(String),
    /// No object of that name. Nothing was changed.
    #[error("no {object} named {name}")]
    NotFound {
        /// `bridge` or `port`.
        object: &'static str,
        /// The name.
        name: String,
    },
    /// The name is taken. Nothing was changed.
    #[error("cannot create {object} {name}: there is a {other} of that name already{hint}")]
    Exists {
        /// What was to be created.
        object: &'static str,
        /// Its name.
        name: String,
        /// What has the name.
        other: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// The port is there, on another bridge. Nothing was changed.
    #[error("port {name} is on bridge {actual}, not on {asked}")]
    OtherBridge {
        /// The port.
        name: String,
        /// Its bridge.
        actual: String,
        /// The bridge that was named.
        asked: String,
        /// The port was to be created.
        creating: bool,
    },
    /// It is desired now, but the datapath cannot take it over yet.
    #[error(
        "{object} {name} is not up: {reason}\nIt is kept and ringwayd goes on trying; \
         `ringway show` tells how it stands. To give it up: ringway {remove} {name}"
    )]
    NotUp {
        /// `bridge` or `port`.
        object: &'static str,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
        /// The verb that removes it.
        remove: &'static str,
    },
    /// It is no longer desired, but the datapath still has it.
    #[error("{object} {name} is not gone yet: {reason}\nringwayd goes on trying")]
    NotGone {
        /// `bridge` or `port`.
        object: &'static str,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The desired state could not be stored. Nothing was changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A text is not understood. Nothing was changed.
    #[error("{why}")]
    Text {
        /// What is wrong and where, with the text around it.
        why: String,
        /// Line of the file, or number of the change, from 1.
        line: Option<usize>,
        /// Byte in the text (of that line), from 0.
        at: usize,
    },
    /// The bridge's tables do not allow a change. Nothing was changed.
    #[error("{}{why}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
    Refused {
        /// Line of the file, or number of the change, from 1, if there are
        /// several.
        line: Option<usize>,
        /// Why.
        why: String,
    },
    /// The bridge is desired, but its flows cannot be changed now. Nothing was
    /// changed.
    #[error(
        "bridge {bridge} is not up, so its flows cannot be changed: {reason}\nringwayd goes on \
         trying to bring it up; `ringway show` tells how it stands"
    )]
    BridgeNotUp {
        /// The bridge.
        bridge: String,
        /// Why.
        reason: String,
    },
    /// The flows could not be stored. Nothing was changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
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

/// What is desired, and how each object stood after the last try.
#[derive(Debug)]
struct Book {
    desired: Desired,
    notes: Notes,
}

/// The control plane over a datapath. Methods block.
pub struct Control<S> {
    switch: Arc<S>,
    file: StateFile,
    flows: Flows,
    control_socket: PathBuf,
    /// Held over a whole change or pass, so that they come one after another.
    changing: Mutex<()>,
    /// Held for moments; written only under `changing`, read by anyone.
    book: Mutex<Book>,
    /// Asks the reconcile loop for a pass.
    wake: Notify,
    /// Tells watchers that something may have changed.
    changed: watch::Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Switch> Control<S> {
    /// Takes over what the state file and the flow journal said; nothing is
    /// brought up yet. `control_socket` is refused as a port's socket.
    pub fn new(
        switch: Arc<S>,
        file: StateFile,
        journal: Journal,
        mut desired: Desired,
        control_socket: &Path,
    ) -> Self {
        // A file of an older version: the same file gives the same numbers, so
        // they are stored no sooner than the next change.
        desired.assign_numbers();
        let notes = Notes::pending(&desired, Now::read());
        Self {
            switch,
            file,
            flows: Flows::new(journal),
            control_socket: control_socket.to_owned(),
            changing: Mutex::new(()),
            book: Mutex::new(Book { desired, notes }),
            wake: Notify::new(),
            changed: watch::Sender::new(()),
        }
    }

    /// The datapath, for questions that have nothing to do with desired state.
    pub fn switch(&self) -> &S {
        &self.switch
    }

    /// The datapath, to be kept.
    pub fn shared_switch(&self) -> Arc<S> {
        Arc::clone(&self.switch)
    }

    /// What is desired now.
    pub fn desired(&self) -> Desired {
        lock(&self.book).desired.clone()
    }

    /// Notified at every change; port states that change by themselves are not.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns when a change asks for a pass.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// One reconcile pass.
    pub fn reconcile(&self, retry: Retry) {
        let _changing = lock(&self.changing);
        let desired = self.desired();
        let before = lock(&self.book).notes.clone();
        let mut notes = before.clone();
        reconcile::pass(
            &*self.switch,
            &self.flows,
            &desired,
            &mut notes,
            Now::read(),
            retry,
        );
        if notes != before {
            lock(&self.book).notes = notes;
            self.changed.send_replace(());
        }
    }

    /// Desired and actual state.
    pub fn show(&self) -> pb::ShowResponse {
        let (bridges, ports) = (self.switch.bridges(), self.switch.ports());
        let totals = |status: &BridgeStatus| {
            let totals = self.flows.totals(&*self.switch, &status.name);
            (status.name.clone(), totals)
        };
        let flows = bridges.iter().map(totals).collect();
        let book = lock(&self.book);
        view::show(&book.desired, &book.notes, &bridges, &ports, &flows)
    }

    /// Adds a bridge.
    pub fn add_bridge(&self, bridge: BridgeSpec, flags: AddFlags) -> Result<Added, ChangeError> {
        model::check_bridge(&bridge).map_err(ChangeError::Invalid)?;
        let _changing = lock(&self.changing);
        let old = self.desired();
        if let Some(existing) = old.bridge(&bridge.name).filter(|_| flags.may_exist) {
            let warnings = match *existing == bridge {
                true => vec![],
                false => vec![format!(
                    "bridge {} was there already and keeps its options",
                    bridge.name
                )],
            };
            if !flags.no_wait {
                self.ensure_bridge(existing)?;
            }
            return Ok(Added {
                warnings,
                ..Added::default()
            });
        }
        refuse_taken(&old, "bridge", &bridge.name)?;
        // What a bridge of that name had once is not this one's.
        self.flows.forget(&bridge.name, Now::read().unix_ms());

        let mut new = old.clone();
        new.bridges.push(bridge.clone());
        self.commit(&old, new)?;
        let added = Added {
            created: true,
            ..Added::default()
        };
        if flags.no_wait {
            return Ok(added);
        }
        match self.bring_up_bridge(&bridge) {
            Ok(()) => Ok(added),
            Err(BringUpError::Never(why)) => self.roll_back(old, "bridge", &bridge.name, why),
            Err(BringUpError::Later(reason)) => Err(not_up("bridge", &bridge.name, reason)),
        }
    }

    /// Adds a port.
    pub fn add_port(&self, mut port: Port, flags: AddFlags) -> Result<Added, ChangeError> {
        let name = port.name.clone();
        let invalid = |why| ChangeError::Invalid(format!("port {name}: {why}"));
        port.check().map_err(invalid)?;
        let _changing = lock(&self.changing);
        let old = self.desired();
        if let Some(existing) = old.port(&port.name).filter(|_| flags.may_exist) {
            return self.port_exists(existing, &port, flags);
        }
        refuse_taken(&old, "port", &port.name)?;
        if old.bridge(&port.bridge).is_none() {
            return Err(not_found("bridge", &port.bridge));
        }
        self.check_socket(&old, &port).map_err(invalid)?;
        port.number = Some(number_for(&old, &port).map_err(invalid)?);
        convert::port_to_spec(&port).map_err(invalid)?;

        let mut new = old.clone();
        new.ports.push(port.clone());
        self.commit(&old, new)?;
        let added = Added {
            created: true,
            ..Added::default()
        };
        if flags.no_wait {
            return Ok(added);
        }
        match self.note(|notes, now| reconcile::bring_up_port(&*self.switch, &port, notes, now)) {
            Ok(number) => Ok(Added { number, ..added }),
            Err(BringUpError::Never(why)) => self.roll_back(old, "port", &port.name, why),
            Err(BringUpError::Later(reason)) => Err(not_up("port", &port.name, reason)),
        }
    }

    /// Deletes a bridge with its ports. Returns whether there was one.
    pub fn del_bridge(&self, name: &str, flags: DelFlags) -> Result<bool, ChangeError> {
        let _changing = lock(&self.changing);
        let old = self.desired();
        if old.bridge(name).is_none() {
            return match flags.if_exists {
                true => Ok(false),
                false => Err(not_found("bridge", name)),
            };
        }
        let mut new = old.clone();
        new.bridges.retain(|bridge| bridge.name != name);
        new.ports.retain(|port| port.bridge != name);
        self.commit(&old, new)?;
        self.flows.forget(name, Now::read().unix_ms());
        if !flags.no_wait {
            self.note(|notes, now| reconcile::take_down_bridge(&*self.switch, name, notes, now))
                .map_err(|reason| not_gone("bridge", name, reason))?;
        }
        Ok(true)
    }

    /// Deletes a port, which must be on `bridge` if that is given. Returns
    /// whether there was one.
    pub fn del_port(
        &self,
        bridge: Option<&str>,
        name: &str,
        flags: DelFlags,
    ) -> Result<bool, ChangeError> {
        let _changing = lock(&self.changing);
        let old = self.desired();
        if let Some(bridge) = bridge.filter(|bridge| old.bridge(bridge).is_none()) {
            return Err(not_found("bridge", bridge));
        }
        let Some(port) = old.port(name) else {
            return match flags.if_exists {
                true => Ok(false),
                false => Err(not_found("port", name)),
            };
        };
        if let Some(asked) = bridge.filter(|bridge| *bridge != port.bridge) {
            return Err(other_bridge(port, asked, false));
        }
        let mut new = old.clone();
        new.ports.retain(|port| port.name != name);
        self.commit(&old, new)?;
        if !flags.no_wait {
            self.note(|notes, now| reconcile::take_down_port(&*self.switch, name, notes, now))
                .map_err(|reason| not_gone("port", name, reason))?;
        }
        Ok(true)
    }

    /// Stores a new desired state in place of `old`, on disk first.
    fn commit(&self, old: &Desired, new: Desired) -> Result<(), ChangeError> {
        if let Err(error) = self.file.save(&new) {
            // The new file may be in place without being durable: put the old
            // one back so that file and daemon agree. If that fails as well,
            // the error already tells that the disk has a problem.
            let _ = self.file.save(old);
            return Err(error.into());
        }
        let mut book = lock(&self.book);
        let Notes {
            bridges,
            ports,
            flows,
        } = &mut book.notes;
        flows.retain(|name, _| new.bridge(name).is_some());
        bridges.retain(|name, _| new.bridge(name).is_some());
        ports.retain(|name, _| new.port(name).is_some());
        let pending = Notes::pending(&new, Now::read());
        for (name, note) in pending.bridges {
            bridges.entry(name).or_insert(note);
        }
        for (name, note) in pending.ports {
            ports.entry(name).or_insert(note);
        }
        book.desired = new;
        drop(book);
        self.changed.send_replace(());
        self.wake.notify_one();
        Ok(())
    }

    /// Works on the notes without holding the book, so that `show` never waits
    /// for the datapath. The caller holds `changing`.
    fn note<T>(&self, work: impl FnOnce(&mut Notes, Now) -> T) -> T {
        let mut notes = lock(&self.book).notes.clone();
        let outcome = work(&mut notes, Now::read());
        lock(&self.book).notes = notes;
        self.changed.send_replace(());
        outcome
    }

    /// The datapath found an option without meaning: nothing was changed.
    fn roll_back(
        &self,
        old: Desired,
        object: &'static str,
        name: &str,
        why: String,
    ) -> Result<Added, ChangeError> {
        self.file.save(&old)?;
        let mut book = lock(&self.book);
        book.desired = old;
        match object {
            "bridge" => book.notes.bridges.remove(name),
            _ => book.notes.ports.remove(name),
        };
        drop(book);
        self.changed.send_replace(());
        Err(ChangeError::Invalid(format!("{object} {name}: {why}")))
    }

    /// `--may-exist` on a port that is desired already.
    fn port_exists(
        &self,
        existing: &Port,
        asked: &Port,
        flags: AddFlags,
    ) -> Result<Added, ChangeError> {
        if existing.bridge != asked.bridge {
            return Err(other_bridge(existing, &asked.bridge, true));
        }
        let warnings = match existing.is_as_asked(asked) {
            true => vec![],
            false => vec![format!(
                "port {} was there already and keeps its options; to change them: ringway del-port \
                 {}, then add-port again",
                asked.name, asked.name
            )],
        };
        let number = match flags.no_wait {
            true => 0,
            false => self.ensure_port(existing)?,
        };
        Ok(Added {
            created: false,
            warnings,
            number,
        })
    }

    fn ensure_bridge(&self, bridge: &BridgeSpec) -> Result<(), ChangeError> {
        let mut there = self.switch.bridges().into_iter();
        if there.any(|status| status.name == bridge.name) {
            return Ok(());
        }
        self.bring_up_bridge(bridge)
            .map_err(|error| not_up("bridge", &bridge.name, error.reason()))
    }

    fn bring_up_bridge(&self, bridge: &BridgeSpec) -> Result<(), BringUpError> {
        self.note(|notes, now| {
            reconcile::bring_up_bridge(&*self.switch, &self.flows, bridge, notes, now)
        })
    }

    fn ensure_port(&self, port: &Port) -> Result<u32, ChangeError> {
        let mut there = self.switch.ports().into_iter();
        if let Some(status) = there.find(|status| status.name == port.name) {
            return Ok(status.number);
        }
        self.note(|notes, now| reconcile::bring_up_port(&*self.switch, port, notes, now))
            .map_err(|error| not_up("port", &port.name, error.reason()))
    }

    fn check_socket(&self, desired: &Desired, port: &Port) -> Result<(), String> {
        let Some(path) = port.socket() else {
            return Ok(());
        };
        if path == self.control_socket {
            return Err(format!(
                "path {} is ringwayd's own control socket; choose another path=",
                path.display()
            ));
        }
        match desired.port_on_socket(path) {
            Some(other) => Err(format!(
                "path {} is port {}'s already; choose another path=",
                path.display(),
                other.name
            )),
            None => Ok(()),
        }
    }
}

/// The number that a new port gets.
fn number_for(desired: &Desired, port: &Port) -> Result<u32, String> {
    let Some(number) = port.number else {
        let none = || format!("all numbers from 1 to {} are taken", model::MAX_PORT_NUMBER);
        return desired.free_number().ok_or_else(none);
    };
    match desired.port_numbered(number) {
        None => Ok(number),
        Some(other) => Err(format!(
            "number {number} is port {}'s already; choose another number=",
            other.name
        )),
    }
}

fn refuse_taken(desired: &Desired, object: &'static str, name: &str) -> Result<(), ChangeError> {
    match desired.taken(name) {
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

fn not_found(object: &'static str, name: &str) -> ChangeError {
    ChangeError::NotFound {
        object,
        name: name.to_owned(),
    }
}

fn other_bridge(port: &Port, asked: &str, creating: bool) -> ChangeError {
    ChangeError::OtherBridge {
        name: port.name.clone(),
        actual: port.bridge.clone(),
        asked: asked.to_owned(),
        creating,
    }
}

fn not_up(object: &'static str, name: &str, reason: String) -> ChangeError {
    ChangeError::NotUp {
        object,
        name: name.to_owned(),
        reason,
        remove: match object {
            "bridge" => "del-br",
            _ => "del-port",
        },
    }
}

fn not_gone(object: &'static str, name: &str, reason: String) -> ChangeError {
    ChangeError::NotGone {
        object,
        name: name.to_owned(),
        reason,
    }
}
