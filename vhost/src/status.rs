//! Where a guest's port stands, for `show`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The steps of a vhost-user session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionState {
    /// Nobody is connected.
    WaitingForSocket,
    /// Connected; features are being agreed on.
    Negotiating,
    /// The guest's memory is mapped; its driver has no rings running yet.
    MemoryMapped,
    /// Some ring runs, but not one pair of both directions.
    RingsEnabled,
    /// At least one queue pair runs in both directions.
    Forwarding,
    /// The guest broke the rules of its rings, or its frontend those of memory
    /// and notifications; nothing is taken from it or given to it until its
    /// driver starts anew, or until its frontend has connected anew.
    Quarantined,
}

impl SessionState {
    /// The name shown to users.
    pub fn name(self) -> &'static str {
        match self {
            SessionState::WaitingForSocket => "waiting-for-socket",
            SessionState::Negotiating => "negotiating",
            SessionState::MemoryMapped => "memory-mapped",
            SessionState::RingsEnabled => "rings-enabled",
            SessionState::Forwarding => "forwarding",
            SessionState::Quarantined => "quarantined",
        }
    }
}

/// A session as it is now.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// The step.
    pub state: SessionState,
    /// What it waits for, or why it is quarantined; empty while forwarding.
    pub why: String,
    /// Since when it is in this step.
    pub since: SystemTime,
    /// Acknowledged virtio features.
    pub features: u64,
    /// Bytes of guest memory mapped.
    pub memory_bytes: u64,
    /// Regions of guest memory mapped.
    pub memory_regions: usize,
    /// None of them can be truncated by the frontend.
    pub memory_sealed: bool,
    /// Connections so far.
    pub connections: u64,
    /// How the last connection ended.
    pub last_disconnect: Option<String>,
}

/// The status, written by the session's thread, read by the control plane.
pub(crate) struct StatusCell(Mutex<SessionStatus>);

impl StatusCell {
    pub(crate) fn new(why: String) -> Self {
        Self(Mutex::new(SessionStatus {
            state: SessionState::WaitingForSocket,
            why,
            since: SystemTime::now(),
            features: 0,
            memory_bytes: 0,
            memory_regions: 0,
            memory_sealed: false,
            connections: 0,
            last_disconnect: None,
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SessionStatus> {
        // A status is whole after every assignment, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, state: SessionState, why: impl Into<String>) {
        self.lock().step(state, why.into());
    }

    /// The status; quarantine, if `fault` tells of one. It is asked while nobody
    /// else can say where the session stands: whoever clears the fault says so
    /// afterwards, and has the last word.
    pub(crate) fn with_fault(&self, fault: impl FnOnce() -> Option<String>) -> SessionStatus {
        let mut status = self.lock();
        if let Some(why) = fault() {
            status.step(SessionState::Quarantined, why);
        }
        status.clone()
    }
}

impl SessionStatus {
    fn step(&mut self, state: SessionState, why: String) {
        if self.state != state {
            self.state = state;
            self.since = SystemTime::now();
        }
        self.why = why;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_asked_for_while_nobody_else_can_tell_the_state() {
        let cell = StatusCell::new(String::new());
        let status = cell.with_fault(|| {
            assert!(cell.0.try_lock().is_err(), "it could be cleared meanwhile");
            Some("broken".to_owned())
        });
        assert_eq!(status.state, SessionState::Quarantined);
        assert_eq!(status.why, "broken");
        cell.set(SessionState::WaitingForSocket, "");
        let status = cell.with_fault(|| None);
        assert_eq!(status.state, SessionState::WaitingForSocket);
    }
}
