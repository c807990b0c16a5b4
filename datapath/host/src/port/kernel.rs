//! The kernel's end of a queue: a tap's descriptor or a packet socket.

#![allow(unsafe_code)]
// UNSAFETY: system calls with parts that point into ring memory, which other
// threads write to: no slices can be made of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use ringway_vhost::VNET_HEADER_BYTES;

use crate::packet::{Outgoing, PacketSocket};
use crate::ring::{BATCH, Buffers, LARGE_BYTES, Received, SMALL_BYTES, TransmitRing};

/// What frames are read from and written to.
#[derive(Debug)]
pub(crate) enum Kernel {
    Tap(OwnedFd),
    Packet(PacketSocket),
}

/// Why the kernel did not take or give a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Not now.
    Later,
    /// The interface is down.
    Down,
    /// The interface is no more.
    Gone,
    /// Its queue is full.
    Full,
    /// It does not like this frame.
    Rejected,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Came {
    pub(crate) frames: usize,
    /// Of these, frames longer than any port takes. They are lost.
    pub(crate) cut: usize,
}

impl Kernel {
    /// Reads up to `limit` frames, for which there must be room, and makes them
    /// available.
    pub(crate) fn read(&self, ring: &mut TransmitRing, limit: usize) -> Result<Came, Trouble> {
        match self {
            Self::Tap(fd) => self.read_tap(fd, ring, limit),
            Self::Packet(socket) => {
                let (frames, cut) = socket
                    .receive(ring, limit.min(BATCH))
                    .map_err(|errno| self.trouble(errno))?;
                ring.kick();
                Ok(Came { frames, cut })
            }
        }
    }

    /// One call per frame, and each is made available at once.
    fn read_tap(
        &self,
        fd: &OwnedFd,
        ring: &mut TransmitRing,
        limit: usize,
    ) -> Result<Came, Trouble> {
        let mut came = Came::default();
        while came.frames < limit.min(BATCH) {
            let Buffers { small, large } = ring.buffers(0);
            let part = |base: *mut u8, len| libc::iovec {
                iov_base: base.cast(),
                iov_len: len,
            };
            let parts = [
                part(small, VNET_HEADER_BYTES + SMALL_BYTES),
                part(large, LARGE_BYTES),
            ];
            // SAFETY: buffers of our memory of the lengths told.
            let read = Errno::result(unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), 2) });
            let len = match read {
                Ok(read) => (read as usize).saturating_sub(VNET_HEADER_BYTES),
                Err(_) if came.frames > 0 => break,
                Err(errno) => return Err(self.trouble(errno)),
            };
            came.frames += 1;
            if len >= SMALL_BYTES + LARGE_BYTES {
                came.cut += 1;
                continue;
            }
            ring.commit(&[Some(Received { len, grown: 0 })]);
            ring.kick();
        }
        Ok(came)
    }

    /// Writes frames of `messages` from `first` on; returns how many went.
    pub(crate) fn write(&self, messages: &mut Outgoing, first: usize) -> Result<usize, Trouble> {
        match self {
            Self::Tap(fd) => {
                let parts = messages.parts(first);
                // SAFETY: buffers of our memory of the lengths told.
                Errno::result(unsafe {
                    libc::writev(fd.as_raw_fd(), parts.as_ptr(), parts.len() as i32)
                })
                .map(|_| 1)
            }
            Self::Packet(socket) => socket.send(messages, first),
        }
        .map_err(|errno| self.trouble(errno))
    }

    fn trouble(&self, errno: Errno) -> Trouble {
        let gone = match self {
            Self::Tap(_) => errno == Errno::EBADFD,
            Self::Packet(socket) => {
                matches!(errno, Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) && socket.is_gone()
            }
        };
        match errno {
            _ if gone => Trouble::Gone,
            Errno::EAGAIN | Errno::EINTR => Trouble::Later,
            // A tap that is down says EIO, another interface ENETDOWN.
            Errno::EIO | Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV => Trouble::Down,
            Errno::ENOBUFS | Errno::ENOMEM => Trouble::Full,
            _ => Trouble::Rejected,
        }
    }

    /// Whether the interface is no more, as far as can be told without trying.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Tap(_) => false,
            Self::Packet(socket) => socket.is_gone(),
        }
    }

    /// Frames that the kernel dropped before they could be read, if it counts
    /// them here.
    pub(crate) fn dropped(&self) -> u64 {
        match self {
            Self::Tap(_) => 0,
            Self::Packet(socket) => socket.dropped(),
        }
    }

    /// Lets the tap, wherever it is now, end with its last descriptor.
    pub(crate) fn forget(&self) -> nix::Result<()> {
        match self {
            Self::Tap(fd) => {
                let none: libc::c_ulong = 0;
                // SAFETY: takes a number and no address.
                Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, none) })
                    .map(drop)
            }
            Self::Packet(_) => Ok(()),
        }
    }
}

impl AsFd for Kernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tap(fd) => fd.as_fd(),
            Self::Packet(socket) => socket.as_fd(),
        }
    }
}
