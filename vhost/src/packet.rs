//! A burst of packets on its way through one PMD iteration.
//!
//! The head of every packet (virtio-net header and the first
//! [`HEAD_BYTES`] of the frame) is copied into a slot of ours: parsing,
//! lookup and rewriting see this copy only, and it is what gets delivered.
//! The rest stays where it is, as bounds-checked segments, until it is copied
//! to where it goes.
//!
//! ```text
//! slot (256 bytes, 64-aligned)
//! |-- headroom 52 --|-- virtio-net header 12 --|-- head of the frame 128 --|-- room to grow 64 --|
//!                                              ^ cache line boundary
//! ```

#![allow(unsafe_code)]
// UNSAFETY: segments are raw pointers into guest memory, copied from here.

use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;

use crate::ring::DeviceFault;

/// Packets per burst. 8 cost a third more per packet, 64 brought nothing.
pub const BURST: usize = 32;

/// Bytes of a frame that parser and rewrites can see.
pub const HEAD_BYTES: usize = 128;

/// Bytes that a head may grow to, when tags are put into it.
pub const HEAD_CAPACITY: usize = HEAD_BYTES + 64;

/// Packets that a burst can hold: those that came, and copies of them that
/// were made to be rewritten in another way, and segments of oversized frames.
/// As many as an index has values; places are used from the lowest on, so those
/// that are not needed cost nothing.
pub const BURST_PACKETS: usize = 256;

/// Length of virtio_net_hdr with `num_buffers` (VirtIO 1.2, 5.1.6).
pub const VNET_HEADER_BYTES: usize = 12;

/// Space in front of the virtio-net header, for headers pushed later.
const HEADROOM: usize = 52;
pub(crate) const FRAME_START: usize = HEADROOM + VNET_HEADER_BYTES;

/// Longest frame: the longest IP packet with an Ethernet header and two tags.
pub const MAX_FRAME_BYTES: usize = 65_535 + 22;

/// Most segments one packet may have: the ring size that QEMU allows at most.
pub const MAX_SEGMENTS: usize = 1024;

/// Segments that a whole burst may have. A burst ends early when fewer than
/// [`MAX_SEGMENTS`] are left, so one packet always fits.
pub(crate) const BURST_SEGMENTS: usize = 2 * MAX_SEGMENTS;

/// Segments of oversized frames that can be in the burst at a time: as many as
/// are delivered at a time.
pub(crate) const CUT_PACKETS: usize = BURST;

/// Parts that their bodies may have together. A cut adds one to what the
/// frame has, so one frame's segments always fit.
pub(crate) const CUT_SEGMENTS: usize = MAX_SEGMENTS + CUT_PACKETS;

/// Their places are the last ones.
pub(crate) const CUT_START: usize = BURST_PACKETS - CUT_PACKETS;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Slot(pub(crate) [u8; HEADROOM + VNET_HEADER_BYTES + HEAD_CAPACITY]);

/// A part of a packet's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) ptr: *const u8,
    pub(crate) len: u32,
}

/// What the switch knows of one packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Packet {
    /// Frame bytes, without the virtio-net header.
    pub(crate) len: u32,
    /// Of these, bytes in the slot.
    pub(crate) head_len: u16,
    pub(crate) first_segment: u16,
    pub(crate) segment_count: u16,
}

/// virtio_net_hdr (VirtIO 1.2, 5.1.6), read once from the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Length of the headers, a hint.
    pub hdr_len: u16,
    /// Segment size.
    pub gso_size: u16,
    /// Where checksumming starts, from the frame's first byte.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
}

/// The checksum at `csum_start + csum_offset` is partial: only the pseudo header is summed.
pub const VNET_F_NEEDS_CSUM: u8 = 1;
/// The checksum was verified.
pub const VNET_F_DATA_VALID: u8 = 2;

/// A set of packets of a burst, by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketSet([u64; BURST_PACKETS / 64]);

impl PacketSet {
    /// Puts a packet in.
    #[inline(always)]
    pub fn insert(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// Whether a packet is in it.
    #[inline(always)]
    pub fn contains(&self, index: usize) -> bool {
        (self.0.get(index / 64)).is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    /// What is in one or the other.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        self
    }

    /// The lowest index from `from` on that is not in it.
    fn first_free(&self, from: usize) -> Option<usize> {
        let words = self.0.iter().enumerate().skip(from / 64);
        for (nth, word) in words {
            let below = if nth == from / 64 {
                (1 << (from % 64)) - 1
            } else {
                0
            };
            let taken = word | below;
            if taken != u64::MAX {
                return Some(nth * 64 + taken.trailing_ones() as usize);
            }
        }
        None
    }
}

/// Of packets in memory of our own.
static NEVER_LOST: DeviceFault = DeviceFault::none();

/// Storage for one burst; allocated once per PMD.
pub struct Burst {
    pub(crate) slots: Box<[Slot; BURST_PACKETS]>,
    pub(crate) packets: [Packet; BURST_PACKETS],
    pub(crate) segments: Box<[Segment; BURST_SEGMENTS + CUT_SEGMENTS]>,
    pub(crate) segments_used: usize,
    /// Packets that came and can be delivered.
    pub(crate) len: usize,
    /// Places behind them that hold copies.
    pub(crate) copies: PacketSet,
    /// Segments of oversized frames, from [`CUT_START`] on, and the parts of
    /// their bodies, behind [`BURST_SEGMENTS`].
    pub(crate) cuts: usize,
    pub(crate) cut_segments: usize,
    /// Some packet has a partial checksum.
    pub(crate) any_partial: bool,
    /// Some packet is an oversized frame.
    pub(crate) any_gso: bool,
    /// No frame is longer.
    pub(crate) longest: u32,
    /// Of all frames that came, as they came.
    pub(crate) bytes: u64,
    /// Number of the next IPv6 datagram that is cut into fragments.
    pub(crate) fragment_id: u32,
}

// SAFETY: the raw pointers in `segments` are only followed through
// `Packets`, whose lifetime is bound to the memory they point into.
unsafe impl Send for Burst {}

impl Default for Burst {
    fn default() -> Self {
        let empty = Segment {
            ptr: std::ptr::null(),
            len: 0,
        };
        Self {
            slots: Box::new([Slot([0; _]); BURST_PACKETS]),
            packets: [Packet::default(); BURST_PACKETS],
            segments: Box::new([empty; BURST_SEGMENTS + CUT_SEGMENTS]),
            segments_used: 0,
            len: 0,
            copies: PacketSet::default(),
            cuts: 0,
            cut_segments: 0,
            any_partial: false,
            any_gso: false,
            longest: 0,
            bytes: 0,
            // RFC 7739: not to be foreseen from outside.
            fragment_id: RandomState::new().hash_one(0) as u32,
        }
    }
}

impl Burst {
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.copies = PacketSet::default();
        self.segments_used = 0;
        self.cuts = 0;
        self.cut_segments = 0;
        self.any_partial = false;
        self.any_gso = false;
        self.longest = 0;
        self.bytes = 0;
    }

    /// Notes the longest frame and the bytes of all, once all have come.
    #[inline(always)]
    pub(crate) fn note_lengths(&mut self) {
        let lens = self.packets[..self.len].iter().map(|packet| packet.len);
        let all = |(longest, bytes): (u32, u64), len| (longest.max(len), bytes + u64::from(len));
        (self.longest, self.bytes) = lens.fold((0, 0), all);
    }

    /// Where the guest's header and frame are copied to.
    #[inline(always)]
    pub(crate) fn vnet_ptr(&mut self, index: usize) -> *mut u8 {
        debug_assert!(index < BURST);
        self.slots[index].0[HEADROOM..].as_mut_ptr()
    }

    /// Lends the burst with packets whose bytes are ordinary memory, such as
    /// mbufs: `frames(i, push)` calls `push` with each part of frame `i`.
    /// Frames longer than [`MAX_FRAME_BYTES`] or in more than
    /// [`MAX_SEGMENTS`] parts are left out; their number is returned.
    pub fn lend_slices<'m, F>(
        &mut self,
        count: usize,
        mut parts: impl FnMut(usize) -> F,
        use_packets: impl FnOnce(&mut Packets<'_>),
    ) -> usize
    where
        F: Iterator<Item = &'m [u8]>,
    {
        self.clear();
        let mut refused = 0;
        for index in 0..count.min(BURST) {
            if !self.push_slices(parts(index)) {
                refused += 1;
            }
        }
        self.note_lengths();
        let mut packets = Packets {
            burst: self,
            source: &NEVER_LOST,
            memory: PhantomData,
        };
        use_packets(&mut packets);
        self.clear();
        refused
    }

    fn push_slices<'m>(&mut self, parts: impl Iterator<Item = &'m [u8]>) -> bool {
        let index = self.len;
        let first_segment = self.segments_used;
        let slot = &mut self.slots[index].0;
        slot[HEADROOM..FRAME_START].fill(0);
        let (mut len, mut head_len) = (0usize, 0usize);
        for mut part in parts {
            len += part.len();
            let in_head = part.len().min(HEAD_BYTES - head_len);
            slot[FRAME_START + head_len..][..in_head].copy_from_slice(&part[..in_head]);
            head_len += in_head;
            part = &part[in_head..];
            if part.is_empty() {
                continue;
            }
            if self.segments_used == BURST_SEGMENTS
                || self.segments_used - first_segment == MAX_SEGMENTS
            {
                self.segments_used = first_segment;
                return false;
            }
            self.segments[self.segments_used] = Segment {
                ptr: part.as_ptr(),
                len: part.len() as u32,
            };
            self.segments_used += 1;
        }
        if len > MAX_FRAME_BYTES {
            self.segments_used = first_segment;
            return false;
        }
        self.packets[index] = Packet {
            len: len as u32,
            head_len: head_len as u16,
            first_segment: first_segment as u16,
            segment_count: (self.segments_used - first_segment) as u16,
        };
        self.len += 1;
        true
    }
}

/// The packets of a burst while the memory behind them is held: from dequeue
/// until their descriptors go back to the guest.
pub struct Packets<'m> {
    pub(crate) burst: &'m mut Burst,
    /// Of the device that they come from.
    pub(crate) source: &'m DeviceFault,
    pub(crate) memory: PhantomData<&'m [u8]>,
}

impl Packets<'_> {
    /// How many packets there are, at most [`BURST`].
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.burst.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.burst.len == 0
    }

    /// Bytes of all frames as they came, without the virtio-net headers.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        self.burst.bytes
    }

    /// Whether the memory that they lie in is gone, so that what was copied out
    /// of it up to now may be zeroes in the place of what was sent. To be asked
    /// after copying and before anybody is given the copy.
    #[inline(always)]
    pub fn are_lost(&self) -> bool {
        self.source.has_lost_memory()
    }

    /// Bytes of frame `index`, without the virtio-net header.
    #[inline(always)]
    pub fn frame_len(&self, index: usize) -> usize {
        self.burst.packets[index].len as usize
    }

    /// The head of frame `index`: its first bytes, at most [`HEAD_BYTES`] as
    /// it came and [`HEAD_CAPACITY`] once it has grown.
    #[inline(always)]
    pub fn head(&self, index: usize) -> &[u8] {
        let len = usize::from(self.burst.packets[index].head_len).min(HEAD_CAPACITY);
        &self.burst.slots[index].0[FRAME_START..FRAME_START + len]
    }

    /// The head of frame `index`, to be rewritten.
    pub fn head_mut(&mut self, index: usize) -> &mut [u8] {
        let len = usize::from(self.burst.packets[index].head_len).min(HEAD_CAPACITY);
        &mut self.burst.slots[index].0[FRAME_START..FRAME_START + len]
    }

    /// All [`HEAD_BYTES`] of the slot, whatever the frame's length: bytes
    /// behind the frame are left from earlier packets and mean nothing.
    #[inline(always)]
    pub fn head_slot(&self, index: usize) -> &[u8; HEAD_BYTES] {
        let slot = &self.burst.slots[index].0;
        // The slice has HEAD_BYTES bytes by the slot's layout.
        slot[FRAME_START..]
            .first_chunk::<HEAD_BYTES>()
            .unwrap_or(&[0; HEAD_BYTES])
    }

    /// The head of frame `index` with the room behind it, to be rewritten;
    /// what grows or shrinks is told with [`set_lengths`](Self::set_lengths).
    #[cfg_attr(
        not(any(test, feature = "test-utils")),
        expect(
            clippy::unreachable,
            reason = "the slot's layout is fixed; nothing a guest says changes it"
        )
    )]
    pub fn head_room(&mut self, index: usize) -> &mut [u8; HEAD_CAPACITY] {
        let (_, head) = self.burst.slots[index].0.split_at_mut(FRAME_START);
        // The slot has HEAD_CAPACITY bytes there by its layout.
        match head.first_chunk_mut() {
            Some(head) => head,
            None => unreachable!("a slot is longer than its head"),
        }
    }

    /// Bytes of frame `index` that are in its head.
    pub fn head_len(&self, index: usize) -> usize {
        usize::from(self.burst.packets[index].head_len)
    }

    /// The head of frame `index` has grown or shrunk: its bytes, and the whole
    /// frame's. Bytes beyond [`HEAD_CAPACITY`] are not taken.
    pub fn set_lengths(&mut self, index: usize, head_len: usize, frame_len: usize) {
        let packet = &mut self.burst.packets[index];
        packet.head_len = head_len.min(HEAD_CAPACITY) as u16;
        packet.len = frame_len as u32;
        self.burst.longest = self.burst.longest.max(frame_len as u32);
    }

    /// Makes a copy of packet `index`, whose head can be rewritten without the
    /// other's being changed; the body is the same memory. `None`: there is no
    /// room for one more until [`keep_copies`](Self::keep_copies) makes some.
    pub fn copy_packet(&mut self, index: usize) -> Option<usize> {
        let burst = &mut *self.burst;
        let copy = burst.copies.first_free(burst.len)?;
        if copy >= CUT_START {
            return None;
        }
        burst.copies.insert(copy);
        burst.packets[copy] = burst.packets[index];
        burst.slots[copy] = burst.slots[index];
        Some(copy)
    }

    /// Nobody needs the copies that are not in `kept` any more.
    pub fn keep_copies(&mut self, kept: &PacketSet) {
        self.burst.copies = *kept;
    }

    /// Copies as much of frame `index` into `out` as fits; returns how much.
    pub fn copy_prefix(&self, index: usize, out: &mut [u8]) -> usize {
        self.reader(index).read(out)
    }

    /// Frame `index`, to be copied piece by piece.
    pub fn reader(&self, index: usize) -> Reader<'_> {
        Reader {
            head: self.head(index),
            segments: self.segments(index),
            gone: 0,
        }
    }

    /// The virtio-net header that came with frame `index` (zero for frames
    /// from a NIC).
    #[inline(always)]
    pub fn vnet_header(&self, index: usize) -> VnetHeader {
        let bytes = &self.burst.slots[index].0[HEADROOM..FRAME_START];
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        VnetHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// Whether it has a partial checksum or belongs to an oversized frame.
    #[inline(always)]
    pub(crate) fn asks_offload(&self, index: usize) -> bool {
        let bytes = &self.burst.slots[index].0[HEADROOM..FRAME_START];
        bytes[0] & VNET_F_NEEDS_CSUM != 0 || bytes[1] != 0
    }

    /// Replaces the virtio-net header of frame `index`.
    #[inline(always)]
    pub fn set_vnet_header(&mut self, index: usize, header: VnetHeader) {
        let bytes = &mut self.burst.slots[index].0[HEADROOM..FRAME_START];
        bytes[0] = header.flags;
        bytes[1] = header.gso_type;
        bytes[2..4].copy_from_slice(&header.hdr_len.to_le_bytes());
        bytes[4..6].copy_from_slice(&header.gso_size.to_le_bytes());
        bytes[6..8].copy_from_slice(&header.csum_start.to_le_bytes());
        bytes[8..10].copy_from_slice(&header.csum_offset.to_le_bytes());
        // num_buffers is ours to fill at enqueue.
        bytes[10..12].fill(0);
        self.burst.any_partial |= header.flags & VNET_F_NEEDS_CSUM != 0;
        self.burst.any_gso |= header.gso_type != 0;
    }

    /// Pointer to virtio-net header and head, contiguous.
    #[inline(always)]
    pub(crate) fn vnet_and_head(&self, index: usize) -> (*const u8, usize) {
        let head_len = usize::from(self.burst.packets[index].head_len);
        (
            self.burst.slots[index].0[HEADROOM..].as_ptr(),
            VNET_HEADER_BYTES + head_len,
        )
    }

    #[inline(always)]
    pub(crate) fn segments(&self, index: usize) -> &[Segment] {
        let packet = &self.burst.packets[index];
        let first = usize::from(packet.first_segment);
        &self.burst.segments[first..first + usize::from(packet.segment_count)]
    }

    /// Copies frame `index` into `out` (head and body). `out` must have room
    /// for [`frame_len`](Self::frame_len) bytes, else nothing is copied and
    /// the answer is false.
    pub fn copy_frame(&self, index: usize, out: &mut [u8]) -> bool {
        let len = self.frame_len(index);
        if out.len() < len {
            return false;
        }
        self.copy_prefix(index, out) == len
    }
}

/// What of a frame is still to be copied.
pub struct Reader<'p> {
    head: &'p [u8],
    segments: &'p [Segment],
    /// Bytes of the first segment that are copied.
    gone: usize,
}

impl Reader<'_> {
    /// Copies what comes next, as much as `out` takes; returns how much.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut at = self.head.len().min(out.len());
        let (now, later) = self.head.split_at(at);
        out[..at].copy_from_slice(now);
        self.head = later;
        while let Some((segment, rest)) = self.segments.split_first() {
            let left = segment.len as usize - self.gone;
            let len = left.min(out.len() - at);
            // SAFETY: a segment is readable for as long as the `Packets` that
            // this borrows from, and `gone + len` is no more than its length;
            // it cannot overlap `out`, which is ours.
            unsafe {
                let from = segment.ptr.add(self.gone);
                std::ptr::copy_nonoverlapping(from, out[at..].as_mut_ptr(), len);
            }
            at += len;
            if len < left {
                self.gone += len;
                break;
            }
            (self.segments, self.gone) = (rest, 0);
        }
        at
    }
}

/// Copies `len` bytes, 1 to 256, in whole vectors that may overlap.
///
/// JUSTIFICATION: heads are short and of varying length; a call of memcpy
/// per packet costs more than the few overlapping vector moves inlined here.
///
/// # Safety
/// `src` must be readable and `dst` writable for `len` bytes, not overlapping.
#[inline(always)]
pub(crate) unsafe fn copy_short(src: *const u8, dst: *mut u8, len: usize) {
    type Vector = [u8; 32];
    type Half = [u8; 16];
    // SAFETY: every access is at an offset of at most `len - its size`; the
    // caller guarantees `len` bytes on both sides.
    unsafe {
        let mv = |at: usize| {
            dst.add(at)
                .cast::<Vector>()
                .write_unaligned(src.add(at).cast::<Vector>().read_unaligned());
        };
        if len >= 32 {
            mv(0);
            if len > 64 {
                mv(32);
                let mut at = 64;
                while at + 32 < len {
                    mv(at);
                    at += 32;
                }
            }
            mv(len - 32);
        } else if len >= 16 {
            let half = |at: usize| {
                dst.add(at)
                    .cast::<Half>()
                    .write_unaligned(src.add(at).cast::<Half>().read_unaligned());
            };
            half(0);
            half(len - 16);
        } else {
            std::ptr::copy_nonoverlapping(src, dst, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_short_copies_every_length_and_nothing_more() {
        let src: Vec<u8> = (0..=255).collect(); // 256 bytes
        for len in 1..=256 {
            let mut dst = vec![0xee; 320];
            // SAFETY: both have 256 bytes.
            unsafe { copy_short(src.as_ptr(), dst.as_mut_ptr(), len) };
            assert_eq!(dst[..len], src[..len], "length {len}");
            assert!(dst[len..].iter().all(|byte| *byte == 0xee), "length {len}");
        }
    }

    #[test]
    fn slices_become_head_and_body() {
        let frame: Vec<u8> = (0..1500u32).map(|i| i as u8).collect();
        let mut burst = Burst::default();
        let parts = [&frame[..100], &frame[100..101], &frame[101..]];
        let refused = burst.lend_slices(
            1,
            |_| parts.iter().copied(),
            |packets| {
                assert_eq!(packets.len(), 1);
                assert_eq!(packets.head(0), &frame[..HEAD_BYTES]);
                let mut out = vec![0; 1500];
                assert!(packets.copy_frame(0, &mut out));
                assert_eq!(out, frame);
                assert!(!packets.copy_frame(0, &mut out[..1499]));
            },
        );
        assert_eq!(refused, 0);
    }

    #[test]
    fn a_copy_has_its_own_head_and_the_same_body() {
        let frame: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
        let mut burst = Burst::default();
        burst.lend_slices(
            BURST,
            |_| std::iter::once(&frame[..]),
            |packets| {
                let copy = packets.copy_packet(3).unwrap();
                packets.head_room(copy)[0] = 0xee;
                packets.set_lengths(copy, HEAD_BYTES + 4, 304);
                let mut out = vec![0; 304];
                assert!(packets.copy_frame(3, &mut out[..300]));
                assert_eq!(&out[..300], frame);
                assert!(packets.copy_frame(copy, &mut out));
                assert_eq!((out[0], &out[132..]), (0xee, &frame[128..]));
                assert_eq!(packets.copy_prefix(copy, &mut out[..7]), 7);
                let more = std::iter::from_fn(|| packets.copy_packet(0)).count();
                assert_eq!(more, CUT_START - BURST - 1);
                let mut kept = PacketSet::default();
                kept.insert(copy);
                kept.insert(200);
                packets.keep_copies(&kept);
                assert!(packets.copy_frame(copy, &mut out));
                assert_eq!((out[0], &out[132..]), (0xee, &frame[128..]));
                let again: Vec<_> = std::iter::from_fn(|| packets.copy_packet(0)).collect();
                assert_eq!(again.len(), CUT_START - BURST - 2);
                assert!(!again.contains(&copy) && !again.contains(&200));
                packets.keep_copies(&PacketSet::default());
                assert_eq!(packets.copy_packet(0), Some(BURST));
            },
        );
    }

    #[test]
    fn a_frame_is_read_in_pieces_of_any_size() {
        let frame: Vec<u8> = (0..700u32).map(|i| i as u8).collect();
        let parts = [&frame[..200], &frame[200..201], &frame[201..]];
        Burst::default().lend_slices(
            1,
            |_| parts.iter().copied(),
            |packets| {
                for size in [1, 7, 72, 128, 129, 699, 700, 701] {
                    let (mut reader, mut out) = (packets.reader(0), vec![0; size]);
                    let mut all = Vec::new();
                    loop {
                        let len = reader.read(&mut out);
                        all.extend_from_slice(&out[..len]);
                        if len < size {
                            break;
                        }
                    }
                    assert_eq!(all, frame, "pieces of {size}");
                    assert_eq!(reader.read(&mut out), 0);
                }
            },
        );
    }

    #[test]
    fn vnet_header_survives_a_round_trip() {
        let mut burst = Burst::default();
        burst.lend_slices(
            1,
            |_| std::iter::once(&[0u8; 60][..]),
            |packets| {
                let header = VnetHeader {
                    flags: VNET_F_NEEDS_CSUM,
                    gso_type: 1,
                    hdr_len: 54,
                    gso_size: 1448,
                    csum_start: 34,
                    csum_offset: 16,
                };
                packets.set_vnet_header(0, header);
                assert_eq!(packets.vnet_header(0), header);
            },
        );
    }
}
