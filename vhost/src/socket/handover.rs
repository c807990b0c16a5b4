//! A port's socket and session from one process to another.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{GuestPort, GuestPortConfig, Live, Mode, Parked, Shared};
use crate::handover::{Descriptors, HandoverError};
use crate::listen::SocketFile;
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
        let asked = self.shared.parking.load(Ordering::Acquire);
        let mut thread = self.thread.iter();
        thread.all(|thread| !asked || thread.is_finished())
    }

    /// Takes what a thread has left that has stopped.
    pub(super) fn take_parked(&mut self) {
        let stopped = self.shared.parking.load(Ordering::Acquire);
        if let Some(thread) = self
            .thread
            .take_if(|thread| stopped && thread.is_finished())
        {
            // One that panicked has said so; its frontend connects anew.
            self.parked = Some(thread.join().unwrap_or_default());
        }
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
        self.take_parked();
        if self.thread.is_some() {
            return Err(HandoverError::Unfit("the port is not parked".to_owned()));
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
            // Somebody may have removed it; then there is nothing to be removed.
            port.file = SocketFile::left(&port.config().path).ok();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features;
    use std::io::{Read, Write};
    use std::path::Path;
    use std::time::Instant;
    use vhost::VhostBackend;
    use vhost::vhost_user::message::VhostUserHeaderFlag;
    use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};

    struct Nobody;

    impl RingPublisher for Nobody {
        fn publish(&self, _: Arc<DeviceRings>) {}
        fn announce(&self, _: [u8; 6]) {}
    }

    fn config(folder: &Path) -> GuestPortConfig {
        GuestPortConfig {
            name: "vm1".to_owned(),
            path: folder.join("vm1.sock"),
            mode: Mode::Server,
            queue_pairs: 1,
            owner: None,
            permissions: None,
            features: u64::MAX,
            marks: Some(folder.join("marks")),
            keeper: None,
            cpus: Vec::new(),
        }
    }

    fn park(port: &GuestPort) -> bool {
        port.ask_to_park();
        let deadline = Instant::now() + Duration::from_secs(2);
        while !port.is_parked() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        port.is_parked()
    }

    /// The frontend has acknowledged all that is offered and wants answers.
    fn negotiate(path: &Path) -> Frontend {
        let mut frontend = Frontend::connect(path, 2).expect("connected");
        let offered = frontend.get_features().expect("features");
        let protocol = frontend.get_protocol_features().expect("protocol features");
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK));
        frontend.set_protocol_features(protocol).expect("taken");
        frontend.set_owner().expect("taken");
        frontend.set_features(offered).expect("taken");
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        // By then all of this has been taken in.
        frontend.set_vring_num(0, 256).expect("answered");
        frontend
    }

    #[test]
    fn a_frontend_goes_on_with_another_port_over_the_same_connection() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut old = GuestPort::start(config(folder.path()), Arc::new(Nobody)).expect("started");
        let mut frontend = negotiate(&folder.path().join("vm1.sock"));
        frontend.set_vring_num(0, 256).expect("answered");
        frontend.set_vring_enable(1, true).expect("answered");

        // One that changes its mind goes on.
        assert!(park(&old));
        old.export(&mut Descriptors::default()).expect("exported");
        old.go_on().expect("a thread");
        frontend.set_vring_num(1, 128).expect("answered");

        for generation in 0..3 {
            assert!(park(&old));
            let mut descriptors = Descriptors::default();
            let form = old.export(&mut descriptors).expect("exported");
            let text = serde_json::to_string(&form).expect("text");
            let form = serde_json::from_str(&text).expect("the same");
            let mut new = GuestPort::adopt(
                config(folder.path()),
                Arc::new(Nobody),
                form,
                &mut descriptors,
            )
            .expect("taken over");
            new.set_positions(&new.positions());
            new.go_on().expect("a thread");
            // The old process ends: nothing is closed or removed by it.
            drop(old);
            let status = new.status();
            assert_eq!(status.features, features::OFFERED, "{status:?}");
            assert_eq!(status.connections, 1 + generation);
            // Requests that need what was acknowledged, and are answered.
            frontend
                .set_vring_enable(0, generation % 2 == 0)
                .expect("answered");
            frontend.set_vring_num(0, 512).expect("answered");
            assert!(frontend.set_vring_num(0, 0).is_err(), "a refusal is heard");
            old = new;
            // It closed the connection, so the next one is a new one.
            frontend = negotiate(&folder.path().join("vm1.sock"));
        }
        drop(old);
        assert!(!folder.path().join("vm1.sock").exists());
        assert!(!folder.path().join("marks").exists());
    }

    #[test]
    fn half_a_message_holds_up_nobody_for_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut port = GuestPort::start(config(folder.path()), Arc::new(Nobody)).expect("started");
        let path = folder.path().join("vm1.sock");
        let mut stalling = UnixStream::connect(&path).expect("connected");
        stalling.write_all(&[1, 0, 0]).expect("written");
        let deadline = Instant::now() + Duration::from_secs(2);
        while port.status().connections == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Long enough for the three bytes to be looked at.
        std::thread::sleep(Duration::from_millis(50));
        port.ask_to_park();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!port.is_parked());
        assert!(port.export(&mut Descriptors::default()).is_err());
        port.hang_up();
        assert!(park(&port));
        assert_eq!(stalling.read(&mut [0; 8]).unwrap_or(0), 0, "still open");
        port.go_on().expect("a thread");
        negotiate(&path);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut old = GuestPort::start(config(folder.path()), Arc::new(Nobody)).expect("started");
        let _frontend = negotiate(&folder.path().join("vm1.sock"));
        assert!(park(&old));
        let mut adopt = |change: &dyn Fn(&mut GuestPortConfig), less: bool| {
            let mut descriptors = Descriptors::default();
            let form = old.export(&mut descriptors).expect("exported");
            if less {
                descriptors = Descriptors::default();
            }
            let mut config = config(folder.path());
            change(&mut config);
            GuestPort::adopt(config, Arc::new(Nobody), form, &mut descriptors).err()
        };
        assert!(adopt(&|_| {}, false).is_none());
        assert!(adopt(&|_| {}, true).is_some(), "no descriptors came");
        assert!(adopt(&|config| config.queue_pairs = 2, false).is_some());
        assert!(adopt(&|config| config.mode = Mode::Client, false).is_some());
        assert!(adopt(&|config| config.path.push("x"), false).is_some());
        // This version offers less than the frontend has acknowledged.
        assert!(adopt(&|config| config.features = 1 << 30, false).is_some());
    }
}
