//! Oversized frames (TSO): what their virtio-net header says, and how they
//! lie in guest memory, as Linux' driver has it.
//!
//! A transmit slot:
//!
//! ```text
//! | table of descriptors | virtio-net header, headers | payload in pages … |
//! 0                      1024                         4096
//! ```
//!
//! The ring's descriptor is an indirect one: it names the table, and that
//! names the headers and each page of the payload. Linux lays a socket buffer
//! out so: headers in its linear part, with the virtio-net header in front,
//! and payload in pages of 4 KiB (sendfile) to 32 KiB (what a socket
//! allocates for write) and more where they happen to lie side by side.
//!
//! What arrives fills as many receive buffers as it needs, one behind the
//! other ([`Merger`]).

use ringway_frontend::ring::fast::Slots;
use ringway_frontend::ring::{DESC_INDIRECT, DESC_NEXT};
use ringway_frontend::{Descriptor, FastRing, Gpa, GuestMemory};

use crate::frame::{TCP, TCP_CHECKSUM, TCP_PAYLOAD};

/// Length of `virtio_net_hdr` with VERSION_1, in bytes.
pub const HEADER: usize = 12;
/// Payload of a segment in bytes: Ethernet's 1,500 without the headers.
pub const GSO_SIZE: usize = 1500 - (TCP_PAYLOAD - 14);
/// Longest frame that is not oversized.
pub const LONGEST_SEGMENT: usize = TCP_PAYLOAD + GSO_SIZE;
/// Longest frame: IPv4 counts 16 bits.
pub const LONGEST: usize = 14 + 65_535;

/// Header flag: the checksum is partial.
pub const NEEDS_CSUM: u8 = 1;
/// Kind of oversized frame: TCP over IPv4.
pub const GSO_TCP4: u8 = 1;

/// Where in a slot the headers begin, the virtio-net header first.
const HEADERS_AT: usize = 1024;
/// Where in a slot the payload begins.
const PAYLOAD_AT: usize = 4096;

/// The virtio-net header of an oversized frame: `gso_size`, where TCP's
/// payload and checksum are, and that this is partial.
pub fn vnet_header() -> [u8; HEADER] {
    let words = [TCP_PAYLOAD, GSO_SIZE, TCP, TCP_CHECKSUM - TCP];
    let mut header = [0; HEADER];
    header[0] = NEEDS_CSUM;
    header[1] = GSO_TCP4;
    for (bytes, word) in header[2..10].chunks_exact_mut(2).zip(words) {
        bytes.copy_from_slice(&(word as u16).to_le_bytes());
    }
    header
}

/// How many segments a frame of `len` bytes is cut into.
pub fn segments(len: usize) -> usize {
    (len - TCP_PAYLOAD).div_ceil(GSO_SIZE)
}

/// Transmit slots for `count` frames of `len` bytes from `gpa` on.
pub fn transmit_slots(gpa: Gpa, len: usize, count: u16) -> Slots {
    Slots {
        gpa,
        stride: PAYLOAD_AT + (len - TCP_PAYLOAD).next_multiple_of(4096),
        offset: HEADERS_AT,
        count,
    }
}

/// Writes the table of the slot that begins `HEADERS_AT` before `start`, for
/// a frame of `len` bytes whose payload is in pages of `page` bytes; returns
/// the descriptor that names it.
pub fn describe(memory: &GuestMemory, start: Gpa, len: usize, page: usize) -> Descriptor {
    let slot = start - HEADERS_AT as u64;
    let payload = len - TCP_PAYLOAD;
    let pages = payload.div_ceil(page);
    let headers = (start, HEADER + TCP_PAYLOAD);
    let page = |nth: usize| {
        let at = nth * page;
        (slot + (PAYLOAD_AT + at) as u64, page.min(payload - at))
    };
    let buffers = std::iter::once(headers).chain((0..pages).map(page));
    for (nth, (addr, len)) in buffers.enumerate() {
        let more = nth < pages;
        let descriptor = Descriptor {
            addr,
            len: len as u32,
            flags: if more { DESC_NEXT } else { 0 },
            next: if more { nth as u16 + 1 } else { 0 },
        };
        memory.write(slot + 16 * nth as u64, descriptor);
    }
    Descriptor {
        addr: slot,
        len: 16 * (pages as u32 + 1),
        flags: DESC_INDIRECT,
        next: 0,
    }
}

/// A frame's pieces, each with its offset from the slot's `start`: header and
/// headers, and the payload.
pub fn place<'f>(vnet: &'f [u8], frame: &'f [u8]) -> [(usize, &'f [u8]); 3] {
    let (headers, payload) = frame.split_at(TCP_PAYLOAD);
    [
        (0, vnet),
        (HEADER, headers),
        (PAYLOAD_AT - HEADERS_AT, payload),
    ]
}

/// How many buffers a frame takes, as said in receive buffer `slot`, its first.
pub fn announced(receive: &FastRing, slot: u16) -> u16 {
    let mut buffers = [0; 2];
    receive.read_slot(slot, HEADER - 2, &mut buffers);
    u16::from_le_bytes(buffers)
}

/// Puts mergeable buffers together: how many a frame takes is said in the
/// virtio-net header, in its first one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Merger {
    left: u16,
    len: usize,
}

impl Merger {
    /// Takes the next used buffer, into which `len` bytes were written;
    /// `announced` reads how many buffers the frame takes, and is asked at
    /// its first. The frame's length, without virtio-net header, at its last.
    #[inline]
    pub fn buffer(&mut self, len: u32, announced: impl FnOnce() -> u16) -> Option<usize> {
        if self.left == 0 {
            self.left = announced().max(1);
            self.len = 0;
        }
        self.len += len as usize;
        self.left -= 1;
        (self.left == 0).then(|| self.len.saturating_sub(HEADER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_frontend::Backing;

    #[test]
    fn the_header_says_what_the_frame_is() {
        let word = |at: usize| {
            let header = vnet_header();
            u16::from_le_bytes([header[at], header[at + 1]])
        };
        // hdr_len, gso_size, csum_start, csum_offset, num_buffers
        assert_eq!([2, 4, 6, 8, 10].map(word), [66, 1448, 34, 16, 0]);
        assert_eq!(vnet_header()[..2], [1, 1]);
        assert_eq!(LONGEST_SEGMENT, 1514);
    }

    #[test]
    fn frames_are_cut_into_as_many_segments_as_their_payload_needs() {
        assert_eq!(segments(66 + 1448), 1);
        assert_eq!(segments(66 + 1449), 2);
        assert_eq!(segments(65_226), 45);
        assert_eq!(segments(LONGEST), 46);
    }

    #[test]
    fn the_table_names_every_byte_of_the_frame_once_and_in_order() {
        let memory = GuestMemory::single(1 << 20, Backing::Shared).unwrap();
        for (len, page) in [
            (65_226, 32_768),
            (LONGEST, 4096),
            (1515, 65_536),
            (4162, 4096),
        ] {
            let slots = transmit_slots(0x8000, len, 4);
            let start = slots.start(2);
            let frame: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let vnet = vnet_header();
            for (offset, bytes) in place(&vnet, &frame) {
                memory.write_bytes(start + offset as u64, bytes);
            }
            let named = describe(&memory, start, len, page);
            assert_eq!(named.flags, DESC_INDIRECT);
            let count = u64::from(named.len / 16);
            assert_eq!(count as usize, 1 + (len - 66).div_ceil(page));
            let mut there = Vec::new();
            for nth in 0..count {
                let descriptor: Descriptor = memory.read(named.addr + 16 * nth);
                let last = nth + 1 == count;
                let flags = if last { 0 } else { DESC_NEXT };
                assert_eq!(descriptor.flags, flags);
                assert!(last || u64::from(descriptor.next) == nth + 1);
                there.extend(memory.read_bytes(descriptor.addr, descriptor.len as usize));
            }
            assert_eq!(there[..HEADER], vnet);
            assert!(there[HEADER..] == frame, "{len} bytes in pages of {page}");
            // … and the next slot is not touched.
            assert!(named.addr + slots.stride as u64 == slots.start(3) - HEADERS_AT as u64);
        }
    }

    #[test]
    fn buffers_become_frames_by_what_the_first_announces() {
        let mut merger = Merger::default();
        let mut buffer = |len, announced| merger.buffer(len, || announced);
        assert_eq!(buffer(1536, 3), None);
        assert_eq!(buffer(1536, 99), None);
        assert_eq!(buffer(100, 99), Some(3172 - HEADER));
        assert_eq!(buffer(76, 1), Some(64));
        // A switch that announces none has used one all the same.
        assert_eq!(buffer(76, 0), Some(64));
    }
}
