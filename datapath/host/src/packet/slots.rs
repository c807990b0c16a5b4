//! The slots that the kernel puts a packet socket's frames into
//! (Documentation/networking/packet_mmap.rst, TPACKET_V2): read without a system
//! call.
//!
//! ```text
//! slot, 2 KiB: ┌ status, lengths, tag ┬ address ┬ virtio-net header, 10 bytes ┬ frame … ┐
//!              └ tpacket2_hdr         ┴─────────┴ ends where the frame begins ┴─ tp_mac ┘
//! ```
//!
//! The kernel fills one slot after the other, by the CPU that the frame came on,
//! and says so in its status (`TP_STATUS_USER`); we say there when it may be
//! filled again. A frame that does not fit also goes to the socket's queue, whole
//! (`TP_STATUS_COPY`): read from there, in the slots' order.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::{SHORT_HEADER, What, set};

/// Bytes of a slot. A frame of 1,500 bytes and its tags fits behind the heads.
const SLOT_BYTES: usize = 2048;
/// Frames that can wait: 2 MiB of the kernel's memory for each port.
const SLOTS: usize = 1024;
/// Memory that must be in one piece.
const BLOCK_BYTES: usize = 64 << 10;

/// A packet socket's slots.
#[derive(Debug)]
pub(super) struct Slots {
    base: NonNull<u8>,
}

// SAFETY: a shared mapping. What both sides touch is the status, an atomic; the
// rest of a slot is its owner's, and the thread that reads the socket is the only
// one to own slots.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

/// A filled slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) place: Place,
    /// The VLAN tag that the kernel took out of the frame: TPID and TCI.
    pub(super) tag: Option<(u16, u16)>,
}

/// Where a slot's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the slot: so many bytes, behind [`SHORT_HEADER`] bytes of header.
    Here { header: *const u8, len: usize },
    /// In the socket's queue.
    Queue,
    /// Nowhere: it was too long for the slot, and the queue was full.
    Lost,
}

impl Slots {
    /// Makes them for a socket that receives nothing yet.
    pub(super) fn new(fd: BorrowedFd<'_>) -> Result<Self, (What, io::Error)> {
        let failed = |what: What| move |errno: Errno| (what, io::Error::from(errno));
        let packet = libc::SOL_PACKET;
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set(fd, packet, libc::PACKET_VERSION, &version).map_err(failed("choose slots for"))?;
        let longer: libc::c_int = libc::c_int::MAX;
        set(fd, packet, libc::PACKET_COPY_THRESH, &longer)
            .map_err(failed("ask for long frames of"))?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: (SLOTS * SLOT_BYTES / BLOCK_BYTES) as u32,
            tp_frame_size: SLOT_BYTES as u32,
            tp_frame_nr: SLOTS as u32,
        };
        set(fd, packet, libc::PACKET_RX_RING, &request).map_err(failed("make slots for"))?;
        // SAFETY: a new mapping, wherever the kernel likes.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SLOTS * SLOT_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(base.cast()) {
            Some(mapped) if base != libc::MAP_FAILED => Ok(Self { base: mapped }),
            _ => Err(("map slots of", io::Error::last_os_error())),
        }
    }

    fn slot(&self, position: usize) -> *mut u8 {
        let offset = position % SLOTS * SLOT_BYTES;
        self.base.as_ptr().wrapping_add(offset)
    }

    fn status(&self, position: usize) -> &AtomicU32 {
        let at = offset_of!(libc::tpacket2_hdr, tp_status);
        // SAFETY: within the mapping, aligned, and atomic for both sides.
        unsafe { AtomicU32::from_ptr(self.slot(position).add(at).cast()) }
    }

    /// The slot at `position`, counted from the first frame on, if it is filled.
    /// What it tells of holds until it is [given back](Self::give_back).
    pub(super) fn filled(&self, position: usize) -> Option<Filled> {
        // What is in the slot was written before its status.
        let status = self.status(position).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let slot = self.slot(position);
        // SAFETY: a header that the kernel has written and does not touch now.
        let head = unsafe { slot.cast::<libc::tpacket2_hdr>().read() };
        let start = usize::from(head.tp_mac).saturating_sub(SHORT_HEADER);
        let len =
            (head.tp_snaplen as usize).min(SLOT_BYTES - usize::from(head.tp_mac).min(SLOT_BYTES));
        let place = if status & libc::TP_STATUS_COPY != 0 {
            Place::Queue
        } else if head.tp_len > head.tp_snaplen || start < size_of::<libc::tpacket2_hdr>() {
            Place::Lost
        } else {
            Place::Here {
                header: slot.wrapping_add(start),
                len,
            }
        };
        Some(Filled {
            place,
            tag: super::tag(status, head.tp_vlan_tpid, head.tp_vlan_tci),
        })
    }

    /// Lets the kernel fill the slot at `position` again.
    pub(super) fn give_back(&self, position: usize) {
        let kernel = libc::TP_STATUS_KERNEL;
        self.status(position).store(kernel, Ordering::Release);
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nothing points into it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), SLOTS * SLOT_BYTES) };
    }
}
