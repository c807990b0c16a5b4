//! Makes oversized frames of the segments that the switch cut them into, to
//! verify them: whatever a right cut changed is checked and put back, so that
//! the frame's CRC, which covers all of it, holds again.

use crate::frame::{
    IP, IP_CHECKSUM, TCP, TCP_CHECKSUM, TCP_PAYLOAD, TCP_SEQUENCE, fold, pseudo_sum, sum,
};
use crate::oversized::{GSO_SIZE, HEADER, LONGEST_SEGMENT, NEEDS_CSUM, vnet_header};

/// Offset of IPv4's total length.
const IP_LEN: usize = IP + 2;
/// Offset of IPv4's identification.
const IP_ID: usize = IP + 4;
/// Offset of the addresses.
const ADDRESSES: usize = IP + 12;
/// Offset of TCP's sequence number.
const SEQUENCE: usize = TCP + 4;
/// Offset of TCP's flags.
const FLAGS: usize = TCP + 13;
/// "Push": set by the sender, and left to the last segment.
const PSH: u8 = 0x08;

/// What an arrival makes of the frame it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'f> {
    /// There are segments to come.
    More,
    /// It is whole: this is what was sent, if its CRC is right.
    Whole(&'f [u8]),
    /// It will not become whole, or was not to come so.
    Wrong,
}

/// The frame under way in one direction, in which segments of different
/// frames do not mix.
#[derive(Clone, Debug)]
pub struct Reassembly {
    /// Length of the frames sent.
    len: usize,
    /// Whether they are to arrive uncut.
    uncut: bool,
    frame: Vec<u8>,
    segments: usize,
}

impl Reassembly {
    /// For frames of `len` bytes. `uncut`: the receiver takes them whole.
    pub fn new(len: usize, uncut: bool) -> Self {
        Self {
            len,
            uncut,
            frame: Vec::with_capacity(len),
            segments: 0,
        }
    }

    /// Takes what arrived, virtio-net header and frame.
    pub fn arrived<'f>(&'f mut self, bytes: &'f [u8]) -> Frame<'f> {
        let Some((header, frame)) = bytes.split_first_chunk::<HEADER>() else {
            return Frame::Wrong;
        };
        if header[1] != 0 || self.uncut {
            // Only the number of buffers is the switch's.
            let is_right = self.uncut && header[..10] == vnet_header()[..10];
            return match is_right && frame.len() == self.len {
                true => Frame::Whole(frame),
                false => Frame::Wrong,
            };
        }
        let left_over = std::mem::take(&mut self.segments);
        if left_over > 0 && !starts(frame) {
            self.segments = left_over;
        }
        if !self.append(header, frame) {
            self.segments = 0;
            return Frame::Wrong;
        }
        if self.frame.len() == self.len {
            self.segments = 0;
            return Frame::Whole(&self.frame);
        }
        match left_over > 0 && self.segments == 1 {
            // The one before will not become whole any more.
            true => Frame::Wrong,
            false => Frame::More,
        }
    }

    /// False if it is not the next segment, cut as it should be.
    fn append(&mut self, header: &[u8; HEADER], segment: &[u8]) -> bool {
        let done = self.segments * GSO_SIZE;
        let payload = (self.len - TCP_PAYLOAD).saturating_sub(done).min(GSO_SIZE);
        let is_last = TCP_PAYLOAD + done + payload == self.len;
        if segment.len() != TCP_PAYLOAD + payload || segment.len() > LONGEST_SEGMENT {
            return false;
        }
        let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let sequence = TCP_SEQUENCE.wrapping_add(done as u32);
        let pushes = segment[FLAGS] & PSH != 0;
        if usize::from(word(IP_LEN)) != segment.len() - IP
            || usize::from(word(IP_ID)) != self.segments
            || fold(sum(&segment[IP..TCP])) != 0xffff
            || segment[SEQUENCE..SEQUENCE + 4] != sequence.to_be_bytes()
            || pushes != is_last
            || !checksum_is_right(header, segment)
        {
            return false;
        }
        let headers = self.restored(segment);
        if self.segments == 0 {
            self.frame.clear();
            self.frame.extend(headers);
        } else if self.frame[..TCP_PAYLOAD] != headers {
            return false;
        }
        self.frame.extend(&segment[TCP_PAYLOAD..]);
        self.segments += 1;
        true
    }

    /// The frame's headers, made from those of a segment.
    fn restored(&self, segment: &[u8]) -> [u8; TCP_PAYLOAD] {
        let mut headers = [0; TCP_PAYLOAD];
        headers.copy_from_slice(&segment[..TCP_PAYLOAD]);
        let mut put = |at: usize, word: u16| {
            headers[at..at + 2].copy_from_slice(&word.to_be_bytes());
        };
        put(IP_LEN, (self.len - IP) as u16);
        put(IP_ID, 0);
        put(IP_CHECKSUM, 0);
        let partial = pseudo_sum(&segment[ADDRESSES..TCP], self.len - TCP);
        put(TCP_CHECKSUM, partial);
        headers[SEQUENCE..SEQUENCE + 4].copy_from_slice(&TCP_SEQUENCE.to_be_bytes());
        headers[FLAGS] |= PSH;
        let checksum = !fold(sum(&headers[IP..TCP]));
        headers[IP_CHECKSUM..IP_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
        headers
    }
}

/// Whether a frame may be another's first segment.
fn starts(frame: &[u8]) -> bool {
    frame.get(SEQUENCE..SEQUENCE + 4) == Some(&TCP_SEQUENCE.to_be_bytes()[..])
}

/// Whether a segment's TCP checksum is right, whole or partial as its
/// virtio-net header says.
fn checksum_is_right(header: &[u8; HEADER], segment: &[u8]) -> bool {
    let pseudo = pseudo_sum(&segment[ADDRESSES..TCP], segment.len() - TCP);
    if header[0] & NEEDS_CSUM == 0 {
        return fold(u32::from(pseudo) + sum(&segment[TCP..])) == 0xffff;
    }
    header[6..10] == vnet_header()[6..10]
        && segment[TCP_CHECKSUM..TCP_CHECKSUM + 2] == pseudo.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Template;
    use crate::stamp::{self, Stamp};
    use ringway_vhost::{Burst, GsoKinds, Next, Offer, Taker, VnetHeader};

    const STAMP: Stamp = Stamp {
        from: 0,
        flow: 3,
        sequence: 77,
        sent_at: 5,
    };

    fn sealed(len: usize) -> Vec<u8> {
        let mut frame = Template::tcp(0, 1, len).frame(3);
        stamp::seal(&mut frame, TCP_PAYLOAD, STAMP);
        frame
    }

    /// What a ring of the switch's gets of `frame`, with virtio-net headers,
    /// cut by the switch's own code.
    fn through_switch(frame: &[u8], takes_oversized: bool, takes_partial: bool) -> Vec<Vec<u8>> {
        let taker = Taker {
            partial: takes_partial,
            gso: match takes_oversized {
                true => GsoKinds::TCP4,
                false => GsoKinds::NONE,
            },
            max_frame: 1514,
        };
        let said = vnet_header();
        let word = |at: usize| u16::from_le_bytes([said[at], said[at + 1]]);
        let header = VnetHeader {
            flags: said[0],
            gso_type: said[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        };
        let mut out = Vec::new();
        let parts = || frame.chunks(7000);
        Burst::default().lend_slices(
            1,
            |_| parts(),
            |packets| {
                packets.set_vnet_header(0, header);
                let mut take = |packets: &ringway_vhost::Packets<'_>, index| {
                    let VnetHeader {
                        flags, gso_type, ..
                    } = packets.vnet_header(index);
                    let header = packets.vnet_header(index);
                    let words = [
                        header.hdr_len,
                        header.gso_size,
                        header.csum_start,
                        header.csum_offset,
                        1,
                    ];
                    let mut bytes = vec![flags, gso_type];
                    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                    let start = bytes.len();
                    bytes.resize(start + packets.frame_len(index), 0);
                    assert!(packets.copy_frame(index, &mut bytes[start..]));
                    out.push(bytes);
                };
                match packets.offer(0, &taker) {
                    Offer::Whole => take(packets, 0),
                    Offer::TooLong => panic!("segments fit into 1,514 bytes"),
                    Offer::Cut(mut cut) => loop {
                        match packets.next_cut(&mut cut) {
                            Next::Packet(index) => take(packets, index),
                            Next::Full => packets.clear_cuts(),
                            Next::Done => break,
                        }
                    },
                }
            },
        );
        out
    }

    #[test]
    fn what_the_switch_cuts_becomes_the_frame_again() {
        for len in [1515, 2962, 2963, 65_226, 65_549] {
            for takes_partial in [true, false] {
                let frame = sealed(len);
                let pieces = through_switch(&frame, false, takes_partial);
                assert_eq!(pieces.len(), crate::oversized::segments(len));
                let mut reassembly = Reassembly::new(len, false);
                let (last, others) = pieces.split_last().unwrap();
                for piece in others {
                    assert_eq!(reassembly.arrived(piece), Frame::More, "{len}");
                }
                let Frame::Whole(got) = reassembly.arrived(last) else {
                    panic!("{len} bytes, partial {takes_partial}: not whole");
                };
                assert!(got == frame);
                assert_eq!(stamp::open(got, TCP_PAYLOAD), Some(STAMP));
            }
        }
    }

    #[test]
    fn whole_frames_are_what_was_sent_and_only_where_they_are_taken() {
        let frame = sealed(65_226);
        let pieces = through_switch(&frame, true, true);
        assert_eq!(pieces.len(), 1);
        let mut takes = Reassembly::new(65_226, true);
        assert_eq!(takes.arrived(&pieces[0]), Frame::Whole(&frame));
        let mut takes_none = Reassembly::new(65_226, false);
        assert_eq!(takes_none.arrived(&pieces[0]), Frame::Wrong);
        let mut other_size = pieces[0].clone();
        other_size[4] ^= 1;
        assert_eq!(takes.arrived(&other_size), Frame::Wrong);
        assert_eq!(takes.arrived(&pieces[0][..65_000]), Frame::Wrong);
        // A segment is not what a guest that takes all of it should get.
        let segments = through_switch(&frame, false, true);
        assert_eq!(takes.arrived(&segments[0]), Frame::Wrong);
    }

    #[test]
    fn a_segment_that_is_cut_wrong_is_noticed() {
        let frame = sealed(5000);
        // Length, identification, checksum, sequence, flags, TCP checksum; header.
        for (piece, at) in [
            (0, 12 + 17),
            (1, 12 + 19),
            (1, 12 + 24),
            (2, 12 + 40),
            (2, 12 + 47),
            (1, 12 + 50),
            (1, 12 + 30),
            (3, 8),
        ] {
            let mut pieces = through_switch(&frame, false, true);
            pieces[piece][at] ^= 8;
            let mut reassembly = Reassembly::new(5000, false);
            let wrong = pieces
                .iter()
                .any(|piece| reassembly.arrived(piece) == Frame::Wrong);
            assert!(wrong, "byte {at} of segment {piece}");
        }
        // Of payload only the CRC tells, if the checksum is partial.
        let mut pieces = through_switch(&frame, false, true);
        pieces[1][12 + 500] ^= 8;
        let mut reassembly = Reassembly::new(5000, false);
        let (last, others) = pieces.split_last().unwrap();
        others.iter().for_each(|piece| {
            reassembly.arrived(piece);
        });
        let Frame::Whole(got) = reassembly.arrived(last) else {
            panic!("not whole");
        };
        assert_eq!(stamp::open(got, TCP_PAYLOAD), None);
    }

    #[test]
    fn a_lost_segment_costs_one_frame_and_not_the_next() {
        let frame = sealed(5000);
        let pieces = through_switch(&frame, false, true);
        let mut reassembly = Reassembly::new(5000, false);
        assert_eq!(reassembly.arrived(&pieces[0]), Frame::More);
        // The rest of it is lost, and the next frame comes.
        assert_eq!(reassembly.arrived(&pieces[0]), Frame::Wrong);
        assert_eq!(reassembly.arrived(&pieces[1]), Frame::More);
        assert_eq!(reassembly.arrived(&pieces[2]), Frame::More);
        assert_eq!(reassembly.arrived(&pieces[3]), Frame::Whole(&frame));
    }
}
