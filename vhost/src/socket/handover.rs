//! A port's socket and session from one process to another.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{GuestPort, GuestPortConfig, Live, Mode, Parked, Shared};
use crate::handover::{Descriptors, HandoverError};
use crate::mark::Marks;
use crate::replay;
use crate::session::{DeviceRings, RingPublisher, SessionForm};

/// A guest's port as another process takes it over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestPortForm {
    path: String,
    server: bool,
    listener: Option<u32>,
    connection: Option<u32>,
    session: SessionForm,
    connections: u64,
    since_unix_ms: u64,
    last_disconnect: Option<String>,
}

impl Shared {
    /// What the port is made of, with its connection unless that is in quarantine.
    pub(super) fn form(
        &self,
        listener: Option<&UnixListener>,
        live: Option<&Live>,
        descriptors: &mut Descriptors,
    ) -> Result<GuestPortForm, HandoverError> {
        let status = self.status.lock().clone();
        let since = status.since.duration_since(SystemTime::UNIX_EPOCH);
        let mut form = GuestPortForm {
            path: self.config.path.to_string_lossy().into_owned(),
            server: self.config.mode == Mode::Server,
            connections: status.connections,
            since_unix_ms: since.map_or(0, |since| since.as_millis() as u64),
            last_disconnect: status.last_disconnect,
            listener: listener
                .map(|listener| descriptors.give(listener))
                .transpose()?,
            ..GuestPortForm::default()
        };
        if let Some(live) = live.filter(|_| self.fault.get().is_none()) {
            form.session = live.device().export(descriptors)?;
            form.connection = Some(descriptors.give(&live.connection)?);
        }
        Ok(form)
    }
}

impl GuestPort {
    /// Asks the thread to stop between two messages. Packets go on.
    pub fn ask_to_park(&self) {
        self.shared.parking.store(true, Ordering::Release);
        // The eventfd is ours and far from full: it can be written.
        let _ = self.shared.stop.write(1);
    }

    /// Whether the thread has stopped. One whose frontend has sent half a
    /// message waits for the rest of it.
    pub fn is_parked(&self) -> bool {
        self.thread
            .as_ref()
            .is_none_or(|thread| thread.is_finished())
    }

    /// Ends the connection, if there is one: its frontend connects anew.
    pub fn hang_up(&self) {
        self.shared.hang_up();
    }

    /// What the port is made of. It must be parked. A guest that is quarantined
    /// is not handed over: its connection ends with this process.
    ///
    /// # Errors
    ///
    /// The port is not parked; no descriptor is left. The port can go on.
    pub fn export(
        &mut self,
        descriptors: &mut Descriptors,
    ) -> Result<GuestPortForm, HandoverError> {
        if !self.is_parked() {
            return Err(HandoverError::Unfit("the port is not parked".to_owned()));
        }
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so; its frontend connects anew.
            self.parked = Some(thread.join().unwrap_or_default());
        }
        let none = Parked::default();
        let Parked { listener, live } = self.parked.as_ref().unwrap_or(&none);
        self.shared
            .form(listener.as_ref(), live.as_ref(), descriptors)
    }

    /// A port that goes on where a process was killed that kept its session: each
    /// ring at its used index, but for a burst that was being delivered.
    ///
    /// # Errors
    ///
    /// As [`GuestPort::adopt`]'s.
    pub fn revive(
        config: GuestPortConfig,
        publisher: Arc<dyn RingPublisher>,
        mut form: GuestPortForm,
        descriptors: &mut Descriptors,
    ) -> Result<Self, HandoverError> {
        let marks = config.marks.as_deref().map(Marks::open);
        let known = matches!(&marks, Some(Ok(marks)) if !marks.is_busy());
        if !known && form.connection.take().is_some() {
            tracing::warn!(
                port = config.name,
                "a message of its frontend was being handled when ringwayd was killed: the \
                 frontend has to connect anew"
            );
        }
        form.session.forget_positions();
        Self::adopt(config, publisher, form, descriptors)
    }

    /// A port that takes over where another process stopped. Nothing is read
    /// from its connection before [`GuestPort::go_on`].
    ///
    /// # Errors
    ///
    /// The port has another socket now, or the session cannot be taken over; its
    /// frontend has to connect anew.
    pub fn adopt(
        config: GuestPortConfig,
        publisher: Arc<dyn RingPublisher>,
        form: GuestPortForm,
        descriptors: &mut Descriptors,
    ) -> Result<Self, HandoverError> {
        let same_socket = config.path.to_string_lossy() == form.path
            && (config.mode == Mode::Server) == form.server;
        if !same_socket {
            return Err(HandoverError::Unfit(
                "the port has another socket now".to_owned(),
            ));
        }
        let mut port = Self::build(config, publisher)
            .map_err(|error| HandoverError::Unfit(error.to_string()))?;
        let mut parked = Parked::default();
        if let Some(place) = form.listener {
            let listener = UnixListener::from(descriptors.take(place)?);
            // Shared with the other process, where it is so too.
            listener
                .set_nonblocking(true)
                .map_err(HandoverError::system("listen without blocking"))?;
            parked.listener = Some(listener);
        } else if form.server {
            return Err(HandoverError::Unfit("its socket did not come".to_owned()));
        }
        if let Some(place) = form.connection {
            let connection = descriptors.take(place)?;
            parked.live = Some(port.adopt_session(connection, form.session, descriptors)?);
        }
        {
            let mut status = port.shared.status.lock();
            status.connections = form.connections;
            status.since = SystemTime::UNIX_EPOCH + Duration::from_millis(form.since_unix_ms);
            status.last_disconnect = form.last_disconnect;
        }
        port.parked = Some(parked);
        Ok(port)
    }

    fn adopt_session(
        &self,
        connection: OwnedFd,
        session: SessionForm,
        descriptors: &mut Descriptors,
    ) -> Result<Live, HandoverError> {
        let device = self.shared.device();
        let connection = UnixStream::from(connection);
        let (features, protocol) = session.acknowledged();
        let handler = connection
            .try_clone()
            .and_then(|connection| {
                let device = Arc::clone(&device);
                replay::handler(connection.into(), device, features, protocol)
            })
            .map_err(HandoverError::system("take over the connection"))?;
        let live = Live {
            device,
            handler,
            connection,
        };
        live.device().restore(session, descriptors)?;
        Ok(live)
    }

    /// The rings of a session that was taken over, for the poll-mode cores'
    /// first plan. Nothing was published of them.
    pub fn adopted_rings(&self) -> Arc<DeviceRings> {
        self.live()
            .map(|live| live.device().adopted_rings())
            .unwrap_or_default()
    }

    /// Where each ring stands. The port must be parked, and the poll-mode cores
    /// must have let go.
    pub fn positions(&self) -> Vec<Option<u32>> {
        self.live()
            .map(|live| live.device().positions())
            .unwrap_or_default()
    }

    /// Lets the rings that were taken over go on where they stood, just before
    /// they are published.
    pub fn set_positions(&self, positions: &[Option<u32>]) {
        if let Some(live) = self.live() {
            live.device().set_positions(positions);
            let since = self.shared.status.lock().since;
            live.device().begin_adopted();
            self.shared.status.lock().since = since;
        }
    }

    fn live(&self) -> Option<&Live> {
        self.parked.as_ref()?.live.as_ref()
    }
}
