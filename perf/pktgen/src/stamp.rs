//! What `--verify` and `--latency` write into a frame.
//!
//! | offset in the payload | bytes | |
//! |---|---|---|
//! | 0 | 2 | magic, with the sending port |
//! | 2 | 4 | flow |
//! | 6 | 4 | sequence number within the flow |
//! | 10 | 8 | time-stamp counter when sent |
//! | end − 4 | 4 | CRC-32 of everything before it, headers too |
//!
//! A UDP frame of 64 bytes is just long enough.

/// Length of the stamp at the payload's start, in bytes, without the CRC.
pub const LEN: usize = 18;
/// Length of the CRC at the frame's end, in bytes.
pub const CRC_LEN: usize = 4;

const MAGIC: u16 = 0xb600;

/// The stamp of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Port that sent the frame.
    pub from: u8,
    /// Flow within the direction.
    pub flow: u32,
    /// Sequence number within the flow.
    pub sequence: u32,
    /// Time-stamp counter when sent.
    pub sent_at: u64,
}

impl Stamp {
    /// The stamp's bytes.
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..2].copy_from_slice(&(MAGIC | u16::from(self.from)).to_be_bytes());
        bytes[2..6].copy_from_slice(&self.flow.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[10..].copy_from_slice(&self.sent_at.to_be_bytes());
        bytes
    }

    /// The stamp in bytes, if it is one of ours.
    pub fn from_bytes(bytes: &[u8; LEN]) -> Option<Self> {
        let number = |from: usize, to: usize| {
            bytes[from..to]
                .iter()
                .fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
        };
        if number(0, 2) & 0xff00 != u64::from(MAGIC) {
            return None;
        }
        Some(Self {
            from: bytes[1],
            flow: number(2, 6) as u32,
            sequence: number(6, 10) as u32,
            sent_at: number(10, 18),
        })
    }
}

/// Writes stamp and CRC into a whole frame, whose payload begins at `payload`
/// and has room for them.
pub fn seal(frame: &mut [u8], payload: usize, stamp: Stamp) {
    frame[payload..payload + LEN].copy_from_slice(&stamp.to_bytes());
    let body = frame.len() - CRC_LEN;
    let crc = crc32fast::hash(&frame[..body]);
    frame[body..].copy_from_slice(&crc.to_be_bytes());
}

/// The stamp of a frame whose CRC is right.
pub fn open(frame: &[u8], payload: usize) -> Option<Stamp> {
    let (body, crc) = frame.split_last_chunk::<CRC_LEN>()?;
    if crc32fast::hash(body).to_be_bytes() != *crc {
        return None;
    }
    Stamp::from_bytes(body.get(payload..)?.first_chunk()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{PAYLOAD, TCP_PAYLOAD, Template};

    const STAMP: Stamp = Stamp {
        from: 1,
        flow: 999_999,
        sequence: 0xdead_beef,
        sent_at: 0x0123_4567_89ab_cdef,
    };

    #[test]
    fn a_sealed_frame_opens_at_every_size() {
        for len in [64, 65, 594, 1518] {
            let mut frame = Template::new(1, 0, len).frame(7);
            seal(&mut frame, PAYLOAD, STAMP);
            assert_eq!(open(&frame, PAYLOAD), Some(STAMP));
        }
        let mut frame = Template::tcp(1, 0, 65_549).frame(7);
        seal(&mut frame, TCP_PAYLOAD, STAMP);
        assert_eq!(open(&frame, TCP_PAYLOAD), Some(STAMP));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let mut frame = Template::new(1, 0, 64).frame(7);
        seal(&mut frame, PAYLOAD, STAMP);
        for position in 0..frame.len() {
            frame[position] ^= 0x10;
            assert_eq!(open(&frame, PAYLOAD), None, "byte {position}");
            frame[position] ^= 0x10;
        }
        assert_eq!(open(&frame[..63], PAYLOAD), None, "cut short");
    }

    #[test]
    fn a_frame_without_stamp_is_not_taken_for_one() {
        let frame = Template::new(0, 1, 64).frame(0);
        assert_eq!(open(&frame, PAYLOAD), None);
    }
}
