//! Waiting for a change of interfaces and addresses.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, protocols};

use crate::HostError;

// Groups of linux/rtnetlink.h.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;

/// Tells that some interface or address came, changed or went, in the network
/// namespace of the thread that made it.
#[derive(Debug)]
pub struct LinkWatch {
    socket: Socket,
}

impl LinkWatch {
    /// Starts to watch: what changes from now on is told by the next
    /// [`LinkWatch::wait`].
    ///
    /// # Errors
    ///
    /// As the netlink socket cannot be had.
    pub fn new() -> Result<Self, HostError> {
        let open = || {
            let mut socket = Socket::new(protocols::NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
                socket.add_membership(group)?;
            }
            Ok(Self { socket })
        };
        open().map_err(failed)
    }

    /// Blocks until something changed, and takes in all that is there to be told.
    /// Says not what: ask [`super::find`]. When more changed than the socket
    /// holds, it returns as well. When the descriptor polls as readable it does
    /// not block.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn wait(&mut self) -> Result<(), HostError> {
        self.take(0).map_err(failed)?;
        loop {
            match self.take(libc::MSG_DONTWAIT) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Takes one message. What it says is not looked at, so that it may be cut.
    fn take(&self, flags: libc::c_int) -> io::Result<()> {
        let mut head = [0_u8; 16];
        loop {
            match self.socket.recv(&mut head.as_mut_slice(), flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The socket overflowed: something changed, and what does not matter here.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                received => return received.map(drop),
            }
        }
    }
}

impl AsFd for LinkWatch {
    /// Readable when [`LinkWatch::wait`] would not block.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn failed(source: io::Error) -> HostError {
    HostError::Netlink {
        what: "watch the interfaces".to_owned(),
        source,
    }
}
