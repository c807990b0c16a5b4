//! Changes: validate, write the desired state durably, apply, answer.

mod apply;
mod flow_changes;
mod plan;

pub use apply::{AddFlags, Added, Applied, DelFlags, Failed};
pub use flow_changes::{Asked, Modified, Side};
pub use plan::Change;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringway_datapath::spec::GUEST_FEATURES;
use ringway_datapath::status::BridgeStatus;
use ringway_proto::v1 as pb;
use tokio::sync::{Notify, watch};

use crate::flows::Flows;
use crate::host::Host;
use crate::journal::{Journal, JournalError};
use crate::model::{Desired, Port};
use crate::reconcile::{self, Means, Notes, Now, Retry};
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
    /// The port is its bridge's own interface. Nothing was changed.
    #[error(
        "cannot delete port {name} because it is the local port for bridge {name} (deleting this \
         port requires deleting the entire bridge)\nTo have the bridge without it: ringway set-br \
         {name} no-internal=true"
    )]
    Local {
        /// The port and its bridge.
        name: String,
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
    /// Several objects are not as desired now.
    #[error("{}", list(.0))]
    Several(Vec<ChangeError>),
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

fn list(errors: &[ChangeError]) -> String {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
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
    host: Arc<dyn Host>,
    control_socket: PathBuf,
    /// Held over a whole change or pass, so that they come one after another.
    changing: Mutex<()>,
    /// Held for moments; written only under `changing`, read by anyone.
    book: Mutex<Book>,
    /// Asks the reconcile loop for a pass.
    wake: Notify,
    /// Asks it for a pass because interfaces came, changed or went.
    links: Notify,
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
        host: Arc<dyn Host>,
        file: StateFile,
        journal: Journal,
        mut desired: Desired,
        control_socket: &Path,
    ) -> Self {
        // A file of an older version: the same file gives the same numbers, so
        // they are stored no sooner than the next change.
        desired.assign_numbers();
        give_local_ports(&file, &mut desired);
        if desired.assign_features(GUEST_FEATURES)
            && let Err(error) = file.save(&desired)
        {
            tracing::warn!("{error}");
        }
        let notes = Notes::pending(&desired, Now::read());
        Self {
            switch,
            file,
            flows: Flows::new(journal),
            host,
            control_socket: control_socket.to_owned(),
            changing: Mutex::new(()),
            book: Mutex::new(Book { desired, notes }),
            wake: Notify::new(),
            links: Notify::new(),
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

    /// Returns when something asks for a pass; says what is to be tried.
    pub async fn woken(&self) -> Retry {
        tokio::select! {
            () = self.wake.notified() => Retry::All,
            () = self.links.notified() => Retry::Interfaces,
        }
    }

    /// Interfaces of the host came, changed or went.
    pub fn links_changed(&self) {
        self.links.notify_one();
    }

    fn means(&self) -> Means<'_, S> {
        Means {
            switch: &*self.switch,
            flows: &self.flows,
            host: &*self.host,
        }
    }

    /// Does something while nothing of the desired state changes and no pass
    /// runs; what would change it waits.
    pub fn frozen<T>(&self, work: impl FnOnce(&StateFile) -> T) -> T {
        let _changing = lock(&self.changing);
        work(&self.file)
    }

    /// One reconcile pass.
    pub fn reconcile(&self, retry: Retry) {
        let _changing = lock(&self.changing);
        let desired = self.desired();
        let before = lock(&self.book).notes.clone();
        let mut notes = before.clone();
        reconcile::pass(self.means(), &desired, &mut notes, Now::read(), retry);
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
            ..
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
}

/// A file of an older ringwayd, whose bridges have no interface of their own:
/// Open vSwitch's always have one, so they get it.
fn give_local_ports(file: &StateFile, desired: &mut Desired) {
    let before = desired.clone();
    let given = desired.give_local_ports();
    if *desired == before {
        return;
    }
    for bridge in &given {
        tracing::info!(
            "bridge {bridge} had no interface of its own in the host and gets the internal port \
             {bridge}, as Open vSwitch's bridges have it; to have none: ringway set-br {bridge} \
             no-internal=true"
        );
    }
    if let Err(error) = file.save(desired) {
        tracing::warn!("{error}");
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
