//! Cuts oversized frames into segments that are packets of the same burst.

#![allow(unsafe_code)]
// UNSAFETY: slices of segments, which are raw pointers into guest memory.

use super::headers::{Network, TCP_CHECKSUM, TCP_HEADER, UDP_CHECKSUM, UDP_HEADER, kinds, tags};
use super::{GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UFO, GSO_USO, GsoKinds};
use crate::checksum::Sum;
use crate::packet::{
    BURST_SEGMENTS, CUT_PACKETS, CUT_SEGMENTS, CUT_START, FRAME_START, HEAD_CAPACITY, Packet,
    Packets, Segment, VNET_F_NEEDS_CSUM, VnetHeader,
};
use crate::ring::RingFeatures;

const ETHERNET: usize = 14;
/// IPv6's header for fragments (RFC 8200, 4.5).
const FRAGMENT_HEADER: usize = 8;
const PROTO_FRAGMENT: u8 = 44;

// TCP's flags.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What somebody takes who is to get frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// Frames with partial checksums.
    pub partial: bool,
    /// Oversized frames of these kinds.
    pub gso: GsoKinds,
    /// Longest frame or segment, without VLAN tags: MTU and Ethernet header.
    /// `u32::MAX`: no limit.
    pub max_frame: u32,
}

impl Taker {
    /// A ring with these features.
    pub fn of_ring(features: RingFeatures, max_frame: u32) -> Self {
        Self {
            partial: features.guest_csum,
            gso: features.guest_gso,
            max_frame,
        }
    }
}

/// How a frame goes to a taker.
#[derive(Debug)]
pub enum Offer {
    /// As it is (a partial checksum is to be completed if the taker takes none).
    Whole,
    /// As packets that [`Packets::next_cut`] makes.
    Cut(Cut),
    /// Not at all: it is longer than the taker's MTU allows.
    TooLong,
}

/// What [`Packets::next_cut`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next packet has this index.
    Packet(usize),
    /// There is no room until [`Packets::clear_cuts`].
    Full,
    /// There are no more.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// One oversized frame of smaller segments.
    Resize,
    Tcp,
    /// UDP datagrams.
    Datagrams,
    /// IP fragments.
    Fragments,
}

/// A frame that is being cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    packet: usize,
    how: How,
    network: Network,
    /// Where the transport header begins.
    l4: usize,
    /// Bytes of headers that each segment has of the frame's.
    headers: usize,
    /// Bytes of payload for each segment, of all, and in those that are made.
    size: usize,
    total: usize,
    done: usize,
    /// Segments that are made.
    made: u32,
    /// Segment of the body that comes next, and what of it has gone.
    body: (usize, usize),
    partial: bool,
    /// Of fragments: the datagram's number (IPv6) and its checksum.
    id: u32,
    checksum: [u8; 2],
}

impl Cut {
    /// How many packets it comes to, those that are made among them.
    pub fn count(&self) -> u32 {
        match self.how {
            How::Resize => 1,
            _ => self.total.div_ceil(self.size) as u32,
        }
    }

    /// How many are still to be made.
    pub fn left(&self) -> u32 {
        self.count() - self.made
    }

    /// Nobody wants the rest of them. Returns how many they were.
    pub fn give_up(&mut self) -> u32 {
        let left = self.left();
        self.made = self.count();
        left
    }
}

impl Packets<'_> {
    /// Whether some frame of the burst may be oversized: false means none is.
    #[inline(always)]
    pub fn any_gso(&self) -> bool {
        self.burst.any_gso
    }

    /// No frame of the burst is longer than this.
    #[inline(always)]
    pub fn longest(&self) -> u32 {
        self.burst.longest
    }

    /// Whether frame `index` is to be cut for whoever does not take it whole.
    #[inline(always)]
    pub fn is_gso(&self, index: usize) -> bool {
        self.vnet_header(index).gso_type != 0
    }

    /// How frame `index` goes to `taker`.
    pub fn offer(&self, index: usize, taker: &Taker) -> Offer {
        let header = self.vnet_header(index);
        let head = self.head(index);
        let max_frame = taker.max_frame as usize;
        if header.gso_type == 0 {
            let len = self.frame_len(index);
            return match len <= max_frame || len - 4 * tags(head) <= max_frame {
                true => Offer::Whole,
                false => Offer::TooLong,
            };
        }
        let (l4, hdr_len) = (usize::from(header.csum_start), usize::from(header.hdr_len));
        let frame_len = self.frame_len(index);
        let least = match header.gso_type & !GSO_ECN {
            GSO_TCP4 | GSO_TCP6 => TCP_HEADER,
            _ => UDP_HEADER,
        };
        // What was checked when it came still holds: rewrites change values
        // only, and where things are moves with tags that come and go.
        let Some(network) = Network::find(head).filter(|network| {
            network.l3 + 20 <= l4
                && l4 + least <= hdr_len
                && hdr_len <= head.len()
                && hdr_len < frame_len
        }) else {
            return Offer::TooLong;
        };
        let is_taken = kinds(header.gso_type, network.is_ipv6)
            .is_some_and(|kinds| taker.partial && taker.gso.has(kinds));
        let is_ufo = header.gso_type == GSO_UFO;
        let headers = if is_ufo { l4 } else { hdr_len };
        let more = match is_ufo && network.is_ipv6 {
            true => FRAGMENT_HEADER,
            false => 0,
        };
        // What is left of the taker's MTU for payload.
        let limit = max_frame.saturating_sub(headers + more - network.l3 + ETHERNET);
        let (total, mut size) = (frame_len - headers, usize::from(header.gso_size));
        let mut how = match header.gso_type & !GSO_ECN {
            GSO_TCP4 | GSO_TCP6 => How::Tcp,
            GSO_USO if size.min(total) > limit => return Offer::TooLong,
            GSO_USO => How::Datagrams,
            _ => How::Fragments,
        };
        size = size.min(limit);
        if how == How::Fragments {
            size &= !7;
            if self.head_len(index) + more > HEAD_CAPACITY {
                return Offer::TooLong;
            }
        }
        if size == 0 {
            return Offer::TooLong;
        }
        if is_taken {
            if usize::from(header.gso_size).min(total) <= limit {
                return Offer::Whole;
            }
            how = How::Resize;
        }
        let checksum = match how {
            How::Fragments => self.whole_checksum(index),
            _ => None,
        };
        Offer::Cut(Cut {
            packet: index,
            how,
            network,
            l4,
            headers,
            size,
            total,
            done: 0,
            made: 0,
            body: (0, 0),
            partial: taker.partial,
            id: 0,
            checksum: checksum.map_or([0; 2], |(_, checksum)| checksum),
        })
    }

    /// Makes the next packet of `cut`. It has the index that is returned until
    /// [`clear_cuts`](Self::clear_cuts).
    pub fn next_cut(&mut self, cut: &mut Cut) -> Next {
        if cut.left() == 0 {
            return Next::Done;
        }
        if self.burst.cuts == CUT_PACKETS {
            return Next::Full;
        }
        let index = CUT_START + self.burst.cuts;
        if cut.how == How::Resize {
            self.burst.packets[index] = self.burst.packets[cut.packet];
            self.burst.slots[index] = self.burst.slots[cut.packet];
            let mut header = self.vnet_header(index);
            header.gso_size = cut.size as u16;
            self.set_vnet_header(index, header);
        } else if !self.make_segment(cut, index) {
            return Next::Full;
        }
        cut.made += 1;
        self.burst.cuts += 1;
        Next::Packet(index)
    }

    /// Makes room for more packets: those that were made are delivered.
    pub fn clear_cuts(&mut self) {
        self.burst.cuts = 0;
        self.burst.cut_segments = 0;
    }

    /// False: its body has more parts than there is room for.
    fn make_segment(&mut self, cut: &mut Cut, index: usize) -> bool {
        let burst = &mut *self.burst;
        let from = burst.packets[cut.packet];
        let len = cut.size.min(cut.total - cut.done);
        // Some of the payload is in the frame's head.
        let payload_in_head = usize::from(from.head_len).saturating_sub(cut.headers);
        let in_head = payload_in_head.saturating_sub(cut.done).min(len);

        let first_segment = BURST_SEGMENTS + burst.cut_segments;
        let (mut next, mut left, mut body) = (first_segment, len - in_head, cut.body);
        while left > 0 && body.0 < usize::from(from.segment_count) {
            if next == BURST_SEGMENTS + CUT_SEGMENTS {
                return false;
            }
            let whole = burst.segments[usize::from(from.first_segment) + body.0];
            let part = left.min(whole.len as usize - body.1);
            burst.segments[next] = Segment {
                // SAFETY: `body.1` is less than the segment's length.
                ptr: unsafe { whole.ptr.add(body.1) },
                len: part as u32,
            };
            next += 1;
            left -= part;
            body = match body.1 + part == whole.len as usize {
                true => (body.0 + 1, 0),
                false => (body.0, body.1 + part),
            };
        }
        cut.body = body;
        burst.cut_segments = next - BURST_SEGMENTS;

        let more = match cut.how == How::Fragments && cut.network.is_ipv6 {
            true => FRAGMENT_HEADER,
            false => 0,
        };
        let headers = cut.headers + more;
        burst.slots[index] = burst.slots[cut.packet];
        let (_, head) = burst.slots[index].0.split_at_mut(FRAME_START);
        let at = cut.headers + cut.done.min(payload_in_head);
        head.copy_within(at..at + in_head, headers);
        burst.packets[index] = Packet {
            len: (headers + len) as u32,
            head_len: (headers + in_head) as u16,
            first_segment: first_segment as u16,
            segment_count: (next - first_segment) as u16,
        };

        if cut.how == How::Fragments {
            if cut.done == 0 {
                cut.id = burst.fragment_id;
                burst.fragment_id = burst.fragment_id.wrapping_add(1);
                let at = headers + UDP_CHECKSUM;
                head[at..at + 2].copy_from_slice(&cut.checksum);
            }
            cut.write_network(head, len);
            self.set_vnet_header(index, VnetHeader::default());
        } else {
            cut.write_network(head, len);
            cut.write_transport(head, len);
            let frame = self.vnet_header(index);
            let header = VnetHeader {
                flags: VNET_F_NEEDS_CSUM,
                csum_start: frame.csum_start,
                csum_offset: frame.csum_offset,
                ..VnetHeader::default()
            };
            self.set_vnet_header(index, header);
            if !cut.partial {
                self.complete_checksum(index);
            }
        }
        cut.done += len;
        true
    }
}

impl Cut {
    /// Whether this segment is the last one.
    fn is_last(&self, len: usize) -> bool {
        self.done + len >= self.total
    }

    /// Writes what is different in the network header of the next segment,
    /// which has `len` bytes of payload.
    fn write_network(&self, head: &mut [u8], len: usize) {
        let (l3, l4) = (self.network.l3, self.l4);
        let behind_l3 = self.headers - l3 + len;
        let fragment = self.how == How::Fragments;
        // RFC 791, 3.1: 8 bytes to a unit, and whether more fragments follow.
        let (units, more) = ((self.done / 8) as u16, !self.is_last(len));
        if self.network.is_ipv6 {
            let more_header = if fragment { FRAGMENT_HEADER } else { 0 };
            put(head, l3 + 4, (behind_l3 - 40 + more_header) as u16);
            if fragment {
                let next = std::mem::replace(&mut head[l3 + 6], PROTO_FRAGMENT);
                head[l4..l4 + 2].copy_from_slice(&[next, 0]);
                put(head, l4 + 2, units << 3 | u16::from(more));
                head[l4 + 4..l4 + 8].copy_from_slice(&self.id.to_be_bytes());
            }
            return;
        }
        put(head, l3 + 2, behind_l3 as u16);
        if fragment {
            put(head, l3 + 6, units | u16::from(more) << 13);
        } else {
            // Each is a datagram with a number of its own.
            let id = get(head, l3 + 4).wrapping_add(self.made as u16);
            put(head, l3 + 4, id);
        }
        put(head, l3 + 10, 0);
        let mut sum = Sum::default();
        sum.add(&head[l3..l4]);
        put(head, l3 + 10, !sum.fold());
    }

    /// Writes what is different in the transport header, with a partial
    /// checksum of the segment's own length.
    fn write_transport(&self, head: &mut [u8], len: usize) {
        let l4 = self.l4;
        let field = match self.how {
            How::Datagrams => {
                put(head, l4 + 4, (UDP_HEADER + len) as u16);
                l4 + UDP_CHECKSUM
            }
            _ => {
                let sequence = head[l4 + 4..].first_chunk().copied();
                let sequence = u32::from_be_bytes(sequence.unwrap_or_default());
                let sequence = sequence.wrapping_add(self.done as u32);
                head[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
                if !self.is_last(len) {
                    head[l4 + 13] &= !(FIN | PSH);
                }
                if self.done > 0 {
                    head[l4 + 13] &= !CWR;
                }
                l4 + TCP_CHECKSUM
            }
        };
        // The frame's pseudo header has the length of all. (Addresses may
        // have been rewritten: the sum knows of it.)
        let header = self.headers - l4;
        let mut sum = Sum::default();
        sum.add_number(get(head, field));
        sum.add_number(!((header + self.total) as u16));
        sum.add_number((header + len) as u16);
        put(head, field, sum.fold());
    }
}

fn put(head: &mut [u8], at: usize, number: u16) {
    if let Some(place) = head.get_mut(at..at + 2) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

fn get(head: &[u8], at: usize) -> u16 {
    head.get(at..)
        .and_then(|bytes| bytes.first_chunk().copied())
        .map_or(0, u16::from_be_bytes)
}
