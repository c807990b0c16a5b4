//! What a port is made of, as one process hands it to another: numbers that
//! serde writes, and descriptors that go beside them.
//!
//! ```text
//! old process                                    new process
//! ask_to_park, is_parked   no more messages
//! export                   ───────────────────▶  GuestPort::adopt      maps memory, resolves rings
//! PMDs let go, positions   ───────────────────▶  set_positions
//!                                                go_on                 PMDs begin, messages are read again
//! ```
//!
//! Until the new one goes on the old one still can: [`GuestPort::go_on`] there
//! means that nothing has happened.
//!
//! [`GuestPort::go_on`]: crate::GuestPort::go_on

use std::os::fd::{AsFd, OwnedFd};

/// Keeps what ports are made of outside of this process, for the next one if this
/// one is killed.
pub trait SessionKeeper: Send + Sync + std::fmt::Debug {
    /// This is what the port is made of now.
    fn keep(&self, port: &str, form: &crate::GuestPortForm, descriptors: Descriptors);
    /// The port is gone.
    fn forget(&self, port: &str);
}

/// Why something cannot be taken over. Its frontend has to connect anew.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// A descriptor was announced and did not come, or is used twice.
    #[error("descriptor {0} of the handover is not there")]
    NoDescriptor(u32),
    /// The numbers and what is there do not agree.
    #[error("{0}")]
    Unfit(String),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
}

impl HandoverError {
    /// For `map_err` of a system call.
    pub fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System {
            what,
            source: error.into(),
        }
    }
}

/// Descriptors that go with a handover; its numbers name them by their place.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    /// Adds a duplicate of a descriptor; its place.
    ///
    /// # Errors
    ///
    /// The system's: too many open files.
    pub fn give(&mut self, fd: impl AsFd) -> Result<u32, HandoverError> {
        let fd = fd
            .as_fd()
            .try_clone_to_owned()
            .map_err(HandoverError::system("duplicate a descriptor"))?;
        let place = self.0.len() as u32;
        self.0.push(Some(fd));
        Ok(place)
    }

    /// Takes the descriptor at a place, once.
    ///
    /// # Errors
    ///
    /// It is not there (any more).
    pub fn take(&mut self, place: u32) -> Result<OwnedFd, HandoverError> {
        let slot = self.0.get_mut(place as usize);
        slot.and_then(Option::take)
            .ok_or(HandoverError::NoDescriptor(place))
    }

    /// All that are there, in order.
    pub fn into_inner(self) -> Vec<OwnedFd> {
        self.0.into_iter().flatten().collect()
    }
}

impl From<Vec<OwnedFd>> for Descriptors {
    fn from(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_taken_once_and_by_its_place() {
        let mut descriptors = Descriptors::default();
        let (one, other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(descriptors.give(&one).expect("room"), 0);
        assert_eq!(descriptors.give(&other).expect("room"), 1);
        assert!(descriptors.take(1).is_ok());
        assert!(matches!(
            descriptors.take(1),
            Err(HandoverError::NoDescriptor(1))
        ));
        assert!(descriptors.take(2).is_err());
        assert_eq!(descriptors.into_inner().len(), 1);
    }
}
