//! Packet sockets (packet(7)): an existing interface's frames, with virtio-net
//! headers.
//!
//! The kernel's header has 10 bytes here, that of our rings 12: the two bytes of
//! `num_buffers` are left out with a part of their own. What the kernel took out
//! of a frame, its VLAN tag, it tells beside it; the tag is put back by moving
//! header and addresses down by four bytes.

#![allow(unsafe_code)]
// UNSAFETY: system calls with message headers that point into ring memory, which
// other threads write to: no slices can be made of it.

mod outgoing;
mod slots;

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};

pub(crate) use outgoing::Outgoing;
use slots::{Place, Slots};

use crate::ring::{BATCH, Buffers, LARGE_BYTES, Received, SMALL_BYTES, TransmitRing};

/// The kernel's virtio-net header, and ours.
const SHORT_HEADER: usize = 10;
const HEADER: usize = 12;

/// Source and destination address of a frame.
const ADDRESSES: usize = 12;
const TAG: usize = 4;
const ETHERTYPE_VLAN: u16 = 0x8100;

/// Bytes that wait in the socket at the most, in each direction.
const QUEUE_BYTES: libc::c_int = 8 << 20;

/// A packet socket of one interface.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    slots: Slots,
    /// Place of the next slot, counted from the first frame on: the reader's alone.
    next: AtomicUsize,
    fd: OwnedFd,
    /// Frames that found no room in the socket. The kernel forgets what it told.
    dropped: AtomicU64,
}

/// What could not be done in making one.
pub(crate) type What = &'static str;

impl PacketSocket {
    /// Opens the interface with number `index`: all that it receives, whatever the
    /// destination, and nothing that it sends.
    pub(crate) fn open(index: u32) -> Result<Self, (What, io::Error)> {
        let failed = |what: What| move |errno: Errno| (what, io::Error::from(errno));
        // Without a protocol it receives nothing until it is bound.
        // SAFETY: no pointers.
        let fd = Errno::result(unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                0,
            )
        })
        .map_err(failed("open a packet socket for"))?;
        // SAFETY: just opened, nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let one: libc::c_int = 1;
        let packet = libc::SOL_PACKET;
        set(&fd, packet, libc::PACKET_VNET_HDR, &one)
            .map_err(failed("ask for virtio-net headers of"))?;
        set(&fd, packet, libc::PACKET_IGNORE_OUTGOING, &one)
            .map_err(failed("leave out what is sent by"))?;
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            set(&fd, libc::SOL_SOCKET, option, &QUEUE_BYTES)
                .map_err(failed("make long queues for"))?;
        }
        let slots = Slots::new(fd.as_fd())?;
        // SAFETY: all fields are numbers.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: an address of the length told.
        Errno::result(unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        })
        .map_err(failed("bind a packet socket to"))?;
        // SAFETY: all fields are numbers.
        let mut request: libc::packet_mreq = unsafe { zeroed() };
        request.mr_ifindex = index as i32;
        request.mr_type = libc::PACKET_MR_PROMISC as u16;
        set(&fd, packet, libc::PACKET_ADD_MEMBERSHIP, &request)
            .map_err(failed("make promiscuous"))?;
        Ok(Self {
            slots,
            next: AtomicUsize::new(0),
            fd,
            dropped: AtomicU64::new(0),
        })
    }

    /// Whether its interface is no more.
    pub(crate) fn is_gone(&self) -> bool {
        // SAFETY: all fields are numbers; the length is told.
        let address = unsafe {
            let mut address: libc::sockaddr_ll = zeroed();
            let mut len = size_of::<libc::sockaddr_ll>() as u32;
            let known =
                libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len);
            (known == 0).then_some(address)
        };
        address.is_none_or(|address| address.sll_ifindex <= 0)
    }

    /// Frames that the kernel dropped, for they were not read in time.
    pub(crate) fn dropped(&self) -> u64 {
        // SAFETY: all fields are numbers; the length is told.
        let more = unsafe {
            let mut stats: libc::tpacket_stats = zeroed();
            let mut len = size_of::<libc::tpacket_stats>() as u32;
            let told = libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            );
            if told == 0 { stats.tp_drops } else { 0 }
        };
        self.dropped.fetch_add(more.into(), Ordering::Relaxed) + u64::from(more)
    }

    /// Copies up to `limit` frames into the next buffers of `ring` and makes them
    /// available; for one thread at a time. Returns how many came, and how many of them were too long; without any, what is
    /// wrong with the socket.
    pub(crate) fn receive(
        &self,
        ring: &mut TransmitRing,
        limit: usize,
    ) -> Result<(usize, usize), Errno> {
        let mut frames = [None; BATCH];
        let (mut came, mut cut) = (0, 0);
        let mut next = self.next.load(Ordering::Relaxed);
        for frame in frames.iter_mut().take(limit) {
            let Some(filled) = self.slots.filled(next) else {
                break;
            };
            let buffers = ring.buffers(came);
            let len = match filled.place {
                Place::Here { header, len } => {
                    // SAFETY: the slot has a short header and `len` bytes of frame,
                    // no more than the buffer has room for.
                    unsafe { copy(header, buffers.small, len) };
                    Some(len)
                }
                Place::Queue => self.receive_long(buffers),
                Place::Lost => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    None
                }
            };
            self.slots.give_back(next);
            next = next.wrapping_add(1);
            came += 1;
            let Some(len) = len else { continue };
            if len >= SMALL_BYTES + LARGE_BYTES {
                cut += 1;
                continue;
            }
            let tag = filled.tag.filter(|_| len >= ADDRESSES);
            // SAFETY: the buffer has a whole header, and 4 bytes to spare before
            // it; `len` bytes of frame are behind the header.
            let grown =
                unsafe { tag.map_or(0, |(tpid, tci)| put_tag_back(buffers.small, tpid, tci)) };
            *frame = Some(Received { len, grown });
        }
        if came == 0 {
            return Err(self.error());
        }
        self.next.store(next, Ordering::Relaxed);
        ring.commit(&frames[..came]);
        Ok((came, cut))
    }

    /// Forgets what has come so far.
    pub(crate) fn forget(&self) {
        let mut next = self.next.load(Ordering::Relaxed);
        while let Some(filled) = self.slots.filled(next) {
            if filled.place == Place::Queue {
                // As long as its virtio-net header, or the kernel refuses to read.
                let flags = MsgFlags::MSG_DONTWAIT;
                let _ = recv(self.fd.as_raw_fd(), &mut [0; 64], flags);
            }
            self.slots.give_back(next);
            next = next.wrapping_add(1);
        }
        self.next.store(next, Ordering::Relaxed);
    }

    /// Reads the next frame of the queue: one that no slot holds. `None`: it is
    /// not there, so it is lost.
    fn receive_long(&self, Buffers { small, large }: Buffers) -> Option<usize> {
        let part = |base: *mut u8, len| libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        };
        let mut parts = [
            part(small, SHORT_HEADER),
            part(small.wrapping_add(HEADER), SMALL_BYTES),
            part(large, LARGE_BYTES),
        ];
        // SAFETY: zero is a value of the structure: no address, no control.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len();
        // SAFETY: a message whose parts are buffers of the lengths told.
        let read = Errno::result(unsafe {
            libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT)
        });
        let Ok(read) = read else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        // SAFETY: the header's last two bytes.
        unsafe { small.add(SHORT_HEADER).cast::<u16>().write_unaligned(0) };
        Some((read as usize).saturating_sub(SHORT_HEADER))
    }

    /// What the kernel has to say of the socket; EAGAIN if it is nothing.
    fn error(&self) -> Errno {
        match getsockopt(&self.fd, sockopt::SocketError) {
            Ok(0) => Errno::EAGAIN,
            Ok(error) => Errno::from_raw(error),
            Err(errno) => errno,
        }
    }

    /// Sends the first frames of `messages`; returns how many went.
    pub(crate) fn send(&self, messages: &mut Outgoing, from: usize) -> Result<usize, Errno> {
        let headers = messages.headers(from);
        // SAFETY: the headers, and all they point to, are valid for the lengths
        // told; nothing has moved since they were written.
        Errno::result(unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as u32,
                libc::MSG_DONTWAIT,
            )
        })
        .map(|sent| sent as usize)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set<T>(fd: impl AsFd, level: i32, option: i32, value: &T) -> Result<(), Errno> {
    // SAFETY: a value of the length told.
    Errno::result(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    })
    .map(drop)
}

/// Copies a frame of `len` bytes and its short header to `to`, where it gets a
/// whole one.
///
/// # Safety
/// At `header` must be [`SHORT_HEADER`] and at `to` [`HEADER`] bytes, with `len` bytes
/// behind each.
unsafe fn copy(header: *const u8, to: *mut u8, len: usize) {
    // SAFETY: what the caller guarantees.
    unsafe {
        std::ptr::copy_nonoverlapping(header, to, SHORT_HEADER);
        to.add(SHORT_HEADER).cast::<u16>().write_unaligned(0);
        std::ptr::copy_nonoverlapping(header.add(SHORT_HEADER), to.add(HEADER), len);
    }
}

/// Puts a VLAN tag back between a frame's addresses and its type: what is in
/// front moves down by four bytes. Returns by how many it did.
///
/// # Safety
/// At `small` must be a header of 12 bytes and a frame of at least 12, and 4
/// bytes to spare in front of it.
unsafe fn put_tag_back(small: *mut u8, tpid: u16, tci: u16) -> usize {
    // SAFETY: all within what the caller guarantees.
    unsafe {
        let start = small.sub(TAG);
        std::ptr::copy(small, start, HEADER + ADDRESSES);
        let tag = [tpid.to_be_bytes(), tci.to_be_bytes()];
        start
            .add(HEADER + ADDRESSES)
            .cast::<[[u8; 2]; 2]>()
            .write_unaligned(tag);
        // hdr_len and csum_start count from the frame's first byte.
        for field in [2, 6] {
            let field = start.add(field).cast::<u16>();
            let value = u16::from_le(field.read_unaligned());
            if value != 0 {
                field.write_unaligned(value.saturating_add(TAG as u16).to_le());
            }
        }
    }
    TAG
}

/// The VLAN tag that the kernel took out of a frame: TPID and TCI.
fn tag(status: u32, tpid: u16, tci: u16) -> Option<(u16, u16)> {
    let tpid = match status & libc::TP_STATUS_VLAN_TPID_VALID {
        0 => ETHERTYPE_VLAN,
        _ => tpid,
    };
    (status & libc::TP_STATUS_VLAN_VALID != 0).then_some((tpid, tci))
}
