//! Waiting for a change of interfaces and addresses.

use std::os::fd::{AsFd, BorrowedFd};

use crate::HostError;

/// Tells that some interface or address came, changed or went.
pub struct LinkWatch;

impl LinkWatch {
    /// Starts to watch the calling thread's network namespace: what changes
    /// from now on is told by the next [`LinkWatch::wait`].
    ///
    /// # Errors
    ///
    /// As the netlink socket cannot be had.
    pub fn new() -> Result<Self, HostError> {
        todo!()
    }

    /// Blocks until something changed, and takes in all that is there to be told.
    /// Says not what: ask [`super::find`]. When more changed than the socket
    /// holds, it returns as well.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn wait(&mut self) -> Result<(), HostError> {
        todo!()
    }
}

impl AsFd for LinkWatch {
    /// Readable when [`LinkWatch::wait`] would not block.
    fn as_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
}
