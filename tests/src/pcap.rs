//! Capture files: reads the classic pcap format, which is what DPDK's
//! net_pcap device reads and writes.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// All frames of a capture file, in order.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path).map_err(Error::io(format!("read {}", path.display())))?;
    parse(&bytes).map_err(|why| Error::Unexpected(format!("{}: {why}", path.display())))
}

fn parse(bytes: &[u8]) -> std::result::Result<Vec<Vec<u8>>, String> {
    let magic = bytes.get(..4).ok_or("too short for a pcap file")?;
    let word: fn([u8; 4]) -> u32 = match magic {
        // Microseconds or nanoseconds; both in either byte order.
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => u32::from_le_bytes,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => u32::from_be_bytes,
        _ => return Err(format!("no pcap file: it begins with {magic:02x?}")),
    };
    let mut frames = Vec::new();
    let mut rest = bytes.get(FILE_HEADER..).ok_or("its file header is cut")?;
    while !rest.is_empty() {
        let header = rest.get(..RECORD_HEADER).ok_or("a record header is cut")?;
        let number = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&header[at..at + 4]);
            word(four) as usize
        };
        let (captured, original) = (number(8), number(12));
        if captured != original {
            return Err(format!("a frame of {original} bytes was cut to {captured}"));
        }
        let end = RECORD_HEADER + captured;
        let frame = rest.get(RECORD_HEADER..end).ok_or("a frame is cut")?;
        frames.push(frame.to_vec());
        rest = &rest[end..];
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; FILE_HEADER];
        bytes[..4].copy_from_slice(&0xa1b2_c3d4u32.to_le_bytes());
        for frame in frames {
            bytes.extend([0; 8]);
            let length = (frame.len() as u32).to_le_bytes();
            bytes.extend(length);
            bytes.extend(length);
            bytes.extend(*frame);
        }
        bytes
    }

    #[test]
    fn frames_come_back_as_written() {
        let frames: [&[u8]; 3] = [b"one", b"", b"three"];
        assert_eq!(parse(&file(&frames)).unwrap(), frames);
    }

    #[test]
    fn cut_files_are_refused() {
        let whole = file(&[b"frame"]);
        for length in 1..whole.len() {
            if length == FILE_HEADER {
                continue; // a file without frames
            }
            assert!(parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
