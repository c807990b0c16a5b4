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

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

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

/// From linux/if_packet.h.
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// A packet socket of one interface.
#[derive(Debug)]
pub(crate) struct PacketSocket {
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
        set(&fd, packet, libc::PACKET_AUXDATA, &one).map_err(failed("ask for VLAN tags of"))?;
        set(&fd, packet, libc::PACKET_IGNORE_OUTGOING, &one)
            .map_err(failed("leave out what is sent by"))?;
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            set(&fd, libc::SOL_SOCKET, option, &QUEUE_BYTES)
                .map_err(failed("make long queues for"))?;
        }
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
            fd,
            dropped: AtomicU64::new(0),
        })
    }

    /// One that another process has opened.
    pub(crate) fn adopt(fd: OwnedFd) -> Self {
        Self {
            fd,
            dropped: AtomicU64::new(0),
        }
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

    /// Reads up to `limit` frames into the next buffers of `ring` and makes them
    /// available. Returns how many came, and how many of them were too long.
    pub(crate) fn receive(
        &self,
        ring: &mut TransmitRing,
        limit: usize,
        messages: &mut Incoming,
    ) -> Result<(usize, usize), Errno> {
        let limit = limit.min(BATCH);
        messages.aim(ring, limit);
        // SAFETY: the headers, and all they point to, are valid for the lengths
        // told: they were just written, and nothing has moved since.
        let came = Errno::result(unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.headers.as_mut_ptr(),
                limit as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        })? as usize;
        let mut frames = [None; BATCH];
        let mut cut = 0;
        for (nth, frame) in frames.iter_mut().enumerate().take(came) {
            let len = (messages.headers[nth].msg_len as usize).saturating_sub(SHORT_HEADER);
            if len >= SMALL_BYTES + LARGE_BYTES {
                cut += 1;
                continue;
            }
            let small = ring.buffers(nth).small;
            let tag = messages.tag(nth).filter(|_| len >= ADDRESSES);
            // SAFETY: the buffer has a whole header, and 4 bytes to spare before
            // it; `len` bytes of frame were read behind the header.
            let grown = unsafe {
                small.add(SHORT_HEADER).cast::<u16>().write_unaligned(0);
                tag.map_or(0, |(tpid, tci)| put_tag_back(small, tpid, tci))
            };
            *frame = Some(Received { len, grown });
        }
        ring.commit(&frames[..came]);
        Ok((came, cut))
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

fn set<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> Result<(), Errno> {
    // SAFETY: a value of the length told.
    Errno::result(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    })
    .map(drop)
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

/// Room for one control message with a `tpacket_auxdata`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

/// Message headers for receiving; made once.
pub(crate) struct Incoming {
    headers: Box<[libc::mmsghdr]>,
    parts: Box<[[libc::iovec; 3]]>,
    controls: Box<[Control]>,
}

// SAFETY: the pointers are written anew before each use, by the thread that uses
// them.
unsafe impl Send for Incoming {}

impl Default for Incoming {
    fn default() -> Self {
        // SAFETY: zero is a value of these structures: no parts, no control.
        let (header, part): (libc::mmsghdr, libc::iovec) = unsafe { (zeroed(), zeroed()) };
        Self {
            headers: vec![header; BATCH].into(),
            parts: vec![[part; 3]; BATCH].into(),
            controls: vec![Control([0; 64]); BATCH].into(),
        }
    }
}

impl Incoming {
    /// Lets the first `count` messages point to the ring's next buffers.
    fn aim(&mut self, ring: &TransmitRing, count: usize) {
        let messages = self.headers.iter_mut().zip(self.parts.iter_mut());
        let messages = messages.zip(self.controls.iter_mut()).take(count);
        for (nth, ((header, parts), control)) in messages.enumerate() {
            let Buffers { small, large } = ring.buffers(nth);
            let part = |base: *mut u8, len| libc::iovec {
                iov_base: base.cast(),
                iov_len: len,
            };
            *parts = [
                part(small, SHORT_HEADER),
                part(small.wrapping_add(HEADER), SMALL_BYTES),
                part(large, LARGE_BYTES),
            ];
            header.msg_hdr.msg_iov = parts.as_mut_ptr();
            header.msg_hdr.msg_iovlen = parts.len();
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.0.len();
            header.msg_hdr.msg_flags = 0;
        }
    }

    /// The VLAN tag that the kernel took out of the `nth` frame: TPID and TCI.
    fn tag(&self, nth: usize) -> Option<(u16, u16)> {
        let header = &self.headers[nth].msg_hdr;
        // SAFETY: the kernel has written the control messages that `header` tells
        // of, into our buffer, which is aligned for them.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(header);
            while let Some(control) = message.as_ref() {
                if (control.cmsg_level, control.cmsg_type)
                    == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
                {
                    let aux = libc::CMSG_DATA(message).cast::<libc::tpacket_auxdata>();
                    let aux = aux.read_unaligned();
                    let tpid = match aux.tp_status & TP_STATUS_VLAN_TPID_VALID {
                        0 => ETHERTYPE_VLAN,
                        _ => aux.tp_vlan_tpid,
                    };
                    return (aux.tp_status & TP_STATUS_VLAN_VALID != 0)
                        .then_some((tpid, aux.tp_vlan_tci));
                }
                message = libc::CMSG_NXTHDR(header, message);
            }
        }
        None
    }
}

/// Message headers for sending; made once.
#[derive(Default)]
pub(crate) struct Outgoing {
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
    frames: Vec<Frame>,
}

/// A frame to be sent.
struct Frame {
    /// Where its parts begin.
    start: usize,
    /// Its buffers in the ring.
    buffers: u16,
    /// Its bytes without header.
    len: usize,
}

// SAFETY: as for `Incoming`.
unsafe impl Send for Outgoing {}

impl Outgoing {
    /// Takes up to [`BATCH`] frames out of `ring`; returns how many.
    pub(crate) fn fill(&mut self, ring: &mut crate::ring::ReceiveRing) -> usize {
        self.headers.clear();
        self.parts.clear();
        self.frames.clear();
        while self.frames.len() < BATCH {
            let start = self.parts.len();
            // The frame's first part is to become two.
            self.parts.push(libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            });
            let Some(buffers) = ring.next(&mut self.parts) else {
                self.parts.truncate(start);
                break;
            };
            let len: usize = self.parts[start..].iter().map(|part| part.iov_len).sum();
            self.frames.push(Frame {
                start,
                buffers,
                len: len.saturating_sub(HEADER),
            });
        }
        self.frames.len()
    }

    /// Writes the headers: without `num_buffers`.
    pub(crate) fn shorten(&mut self) {
        for (nth, frame) in self.frames.iter().enumerate() {
            let next = self.frames.get(nth + 1);
            let end = next.map_or(self.parts.len(), |next| next.start);
            let parts = &mut self.parts[frame.start..end];
            let base = parts[1].iov_base.cast::<u8>();
            parts[0] = libc::iovec {
                iov_base: base.cast(),
                iov_len: SHORT_HEADER,
            };
            parts[1].iov_base = base.wrapping_add(HEADER).cast();
            parts[1].iov_len = parts[1].iov_len.saturating_sub(HEADER);
            // SAFETY: zero is a value of the structure.
            let mut header: libc::mmsghdr = unsafe { zeroed() };
            header.msg_hdr.msg_iov = parts.as_mut_ptr();
            header.msg_hdr.msg_iovlen = parts.len();
            self.headers.push(header);
        }
    }

    /// The parts of the `nth` frame, whole header first, as long as they are not
    /// [`shortened`](Self::shorten).
    pub(crate) fn parts(&self, nth: usize) -> &[libc::iovec] {
        let next = self.frames.get(nth + 1);
        let end = next.map_or(self.parts.len(), |next| next.start);
        &self.parts[self.frames[nth].start + 1..end]
    }

    /// Buffers of the ring that the `nth` frame takes.
    pub(crate) fn buffers(&self, nth: usize) -> u16 {
        self.frames[nth].buffers
    }

    /// Bytes of the `nth` frame without its header.
    pub(crate) fn frame_len(&self, nth: usize) -> usize {
        self.frames[nth].len
    }

    fn headers(&mut self, from: usize) -> &mut [libc::mmsghdr] {
        &mut self.headers[from..]
    }
}
