//! Several packet sockets of one interface that share what it receives
//! (PACKET_FANOUT of packet(7)): the kernel gives each frame to one of them, all
//! frames of a flow to the same.

#![allow(unsafe_code)]
// UNSAFETY: a socket option is an integer that is passed by its address.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::packet::PacketSocket;

// From linux/if_packet.h.
const HASH: u32 = 0;
const UNIQUE_ID: u32 = 0x2000;
const IGNORE_OUTGOING: u32 = 0x4000;

/// Makes these sockets, each bound to the interface already, a group.
///
/// # Errors
///
/// The kernel's. The sockets then each receive all frames: they are to be closed.
pub(crate) fn share(sockets: &[PacketSocket]) -> io::Result<()> {
    let Some((first, others)) = sockets.split_first() else {
        return Ok(());
    };
    if others.is_empty() {
        return Ok(());
    }
    // The kernel chooses a number that no other group has in this network namespace.
    join(first.as_fd(), (HASH | UNIQUE_ID | IGNORE_OUTGOING) << 16)?;
    let id = group(first.as_fd())?;
    for socket in others {
        join(socket.as_fd(), (HASH | IGNORE_OUTGOING) << 16 | id)?;
        // What came before it was in the group came to all of the sockets: a frame is
        // better lost while a port comes up than had twice.
        socket.forget();
    }
    Ok(())
}

fn join(socket: BorrowedFd<'_>, group: u32) -> io::Result<()> {
    // SAFETY: the option is an integer, whose address and size are told.
    Errno::result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            (&raw const group).cast(),
            size_of::<u32>() as u32,
        )
    })
    .map(drop)
    .map_err(io::Error::from)
}

/// The number of a socket's group.
fn group(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let (mut group, mut len) = (0_u32, size_of::<u32>() as u32);
    // SAFETY: as above; the length is told.
    Errno::result(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            (&raw mut group).cast(),
            &raw mut len,
        )
    })?;
    Ok(group & 0xffff)
}
