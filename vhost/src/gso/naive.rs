//! Packets built from what is to be in them, whole or in segments, without a
//! look at how `cut` does it.

use super::{GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UFO, GSO_USO};
use crate::packet::{VNET_F_NEEDS_CSUM, VnetHeader};

/// What an oversized frame is, from 02:00:00:00:00:02 to 02:00:00:00:00:01.
#[derive(Clone, Debug)]
pub struct Flow {
    /// VLAN tags, the outer first: TPID and TCI.
    pub tags: Vec<u32>,
    /// Over IPv6, or IPv4.
    pub is_ipv6: bool,
    /// IP options or extension headers.
    pub options: usize,
    /// TCP, or UDP.
    pub tcp: bool,
    /// Words of TCP options.
    pub tcp_options: usize,
    /// Source and destination port.
    pub ports: [u16; 2],
    /// The last byte of the destination address.
    pub to: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP's flags.
    pub flags: u8,
    /// TCP's sequence number.
    pub sequence: u32,
    /// Identification in the IPv4 header.
    pub id: u16,
    /// Bytes of payload for each segment.
    pub gso_size: u16,
    /// All of it.
    pub payload: Vec<u8>,
}

/// One segment's own values.
struct Own<'p> {
    payload: &'p [u8],
    flags: u8,
    sequence: u32,
    id: u16,
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for (i, byte) in bytes.iter().enumerate() {
        sum += u32::from(*byte) << (8 * ((i + 1) % 2));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Flow {
    /// Without tags and options.
    pub fn new(is_ipv6: bool, tcp: bool, gso_size: u16, payload: Vec<u8>) -> Self {
        Self {
            tags: Vec::new(),
            is_ipv6,
            options: 0,
            tcp,
            tcp_options: 0,
            ports: [4660, 22136],
            to: 99,
            ttl: 64,
            flags: 0x18,
            sequence: 0,
            id: 0,
            gso_size,
            payload,
        }
    }

    fn proto(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    /// Both addresses, the source first.
    pub fn addresses(&self) -> Vec<u8> {
        let others = if self.is_ipv6 { 31 } else { 7 };
        (1..).take(others).chain([self.to]).collect()
    }

    fn ethernet(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(if self.is_ipv6 { [0x86, 0xdd] } else { [8, 0] });
        frame
    }

    /// An IP header with its options in front of `content`. IPv6: `next` is
    /// the first header behind those of `options`.
    fn network(&self, id: u16, fragment: u16, next: u8, content: &[u8]) -> Vec<u8> {
        let mut header = if self.is_ipv6 {
            let len = (self.options * 8 + content.len()) as u16;
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(len.to_be_bytes());
            header.extend([if self.options > 0 { 60 } else { next }, self.ttl]);
            header.extend(self.addresses());
            for nth in 1..=self.options {
                let next = if nth == self.options { next } else { 60 };
                header.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
            header
        } else {
            let words = 5 + self.options;
            let len = (4 * words + content.len()) as u16;
            let mut header = vec![0x40 | words as u8, 0];
            header.extend(len.to_be_bytes());
            header.extend(id.to_be_bytes());
            header.extend(fragment.to_be_bytes());
            header.extend([self.ttl, next, 0, 0]);
            header.extend(self.addresses());
            header.extend(vec![1; 4 * self.options]);
            let checksum = !sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        };
        header.extend(content);
        header
    }

    /// Transport header and payload; the checksum's field has the pseudo
    /// header's sum, or the whole checksum.
    fn transport(&self, own: &Own<'_>, whole: bool) -> Vec<u8> {
        let mut out = self.ports.map(u16::to_be_bytes).concat();
        let field = if self.tcp { 16 } else { 6 };
        if self.tcp {
            out.extend(own.sequence.to_be_bytes());
            out.extend([0, 0, 0, 9]);
            out.extend([((5 + self.tcp_options) << 4) as u8, own.flags]);
            out.extend([1, 2, 0, 0, 0, 0]);
            out.extend(vec![1; 4 * self.tcp_options]);
        } else {
            out.extend((8 + own.payload.len() as u16).to_be_bytes());
            out.extend([0, 0]);
        }
        out.extend(own.payload);
        let len = (out.len() as u16).to_be_bytes();
        let pseudo = [&self.addresses()[..], &[0, self.proto()], &len].concat();
        out[field..field + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
        if whole {
            let checksum = match !sum(&out) {
                0 => 0xffff,
                checksum => checksum,
            };
            out[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        out
    }

    fn frame(&self, own: &Own<'_>, whole: bool) -> Vec<u8> {
        let content = self.transport(own, whole);
        let packet = self.network(own.id, 0x4000, self.proto(), &content);
        [self.ethernet(), packet].concat()
    }

    fn all(&self) -> Own<'_> {
        Own {
            payload: &self.payload,
            flags: self.flags,
            sequence: self.sequence,
            id: self.id,
        }
    }

    /// The oversized frame, with a partial checksum or a whole one.
    pub fn oversized(&self, whole: bool) -> Vec<u8> {
        self.frame(&self.all(), whole)
    }

    /// Where the transport header begins.
    pub fn l4(&self) -> usize {
        let options = self.options * if self.is_ipv6 { 8 } else { 4 };
        14 + 4 * self.tags.len() + if self.is_ipv6 { 40 } else { 20 } + options
    }

    /// Bytes of all headers.
    pub fn headers(&self) -> usize {
        self.l4()
            + if self.tcp {
                20 + 4 * self.tcp_options
            } else {
                8
            }
    }

    /// What a sender says of the frame; fragments if `fragments`.
    pub fn header(&self, fragments: bool) -> VnetHeader {
        let cwr = if self.flags & 0x80 != 0 { GSO_ECN } else { 0 };
        VnetHeader {
            flags: VNET_F_NEEDS_CSUM,
            gso_type: match (self.tcp, self.is_ipv6) {
                (true, false) => GSO_TCP4 | cwr,
                (true, true) => GSO_TCP6 | cwr,
                _ if fragments => GSO_UFO,
                _ => GSO_USO,
            },
            hdr_len: self.headers() as u16,
            gso_size: self.gso_size,
            csum_start: self.l4() as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        }
    }

    /// The segments of TCP, or UDP datagrams, with whole checksums.
    pub fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let chunks = self.payload.chunks(size);
        let last = chunks.len() - 1;
        let cut = |(nth, payload): (usize, _)| {
            let mut own = Own {
                payload,
                sequence: self.sequence.wrapping_add((nth * size) as u32),
                id: self.id.wrapping_add(nth as u16),
                ..self.all()
            };
            if nth > 0 {
                own.flags &= 0x7f;
            }
            if nth < last {
                own.flags &= !0x09;
            }
            self.frame(&own, true)
        };
        chunks.enumerate().map(cut).collect()
    }

    /// IP fragments of one datagram; `id6` is what IPv6 has for a number.
    pub fn fragments(&self, size: usize, id6: u32) -> Vec<Vec<u8>> {
        let datagram = self.transport(&self.all(), true);
        let count = datagram.len().div_ceil(size);
        let cut = |(nth, part): (usize, &[u8])| {
            let more = nth + 1 < count;
            let offset = nth * size / 8;
            let packet = if self.is_ipv6 {
                let bits = (offset << 3) as u16 | u16::from(more);
                let fragment =
                    [&[17, 0][..], &bits.to_be_bytes(), &id6.to_be_bytes(), part].concat();
                self.network(0, 0, 44, &fragment)
            } else {
                let bits = offset as u16 | if more { 0x2000 } else { 0 };
                self.network(self.id, bits, 17, part)
            };
            [self.ethernet(), packet].concat()
        };
        datagram.chunks(size).enumerate().map(cut).collect()
    }
}
