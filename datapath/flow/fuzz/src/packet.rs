//! The packet parser: two implementations agree on any bytes, and what is
//! behind them does not matter.

use arbitrary::Unstructured;
use ringway_flow::compose::compose;
use ringway_flow::extract::{HEAD_BYTES, extract, extract_slice, naive};
use ringway_flow::key::PacketKey;

use super::input;

/// The first byte says how much of the frame is in the head, the next two
/// (twice that) how many more bytes the frame has, the rest is its beginning.
pub fn law(data: &[u8]) {
    let Some((&[len, more_high, more_low], frame)) = data.split_first_chunk() else {
        return;
    };
    let more = 2 * usize::from(u16::from_be_bytes([more_high, more_low]));
    whole(frame);
    cut(frame, usize::from(len), frame.len() + more);
    any_lengths(frame, usize::from(len), more);
    // The same bytes, taken as a key.
    if let Ok((key, composed)) = input::frame(&mut Unstructured::new(frame)) {
        assert_eq!(extract_slice(&composed, 0, 0), key);
        cut(&composed, usize::from(len), composed.len());
    }
}

/// A frame that is there as a whole.
fn whole(frame: &[u8]) {
    let key = extract_slice(frame, 3, 9);
    cut(frame, HEAD_BYTES, frame.len());
    let head = &frame[..frame.len().min(HEAD_BYTES)];
    assert_eq!(key, naive::extract(head, frame.len(), 3, 9));
    // Not every frame's key can be composed (headers cut off, for one). But
    // what is composed has a key that can.
    let composed = extract_slice(&compose(&key), 3, 9);
    assert_eq!(composed, extract_slice(&compose(&composed), 3, 9));
    if frame.len() >= 14 {
        let ethernet = |key: &PacketKey| (key.0[0] >> 16, key.0[1], key.0[2], key.0[5] >> 32);
        assert_eq!(ethernet(&composed), ethernet(&key), "{key:x?}");
    }
}

/// Its first `len` bytes.
fn cut(frame: &[u8], len: usize, frame_len: usize) {
    let len = len.min(frame.len()).min(HEAD_BYTES);
    let expected = naive::extract(&frame[..len], frame_len, 3, 9);
    for stale in [0, 0xff, 0x45, 0x81] {
        let mut head = [stale; HEAD_BYTES];
        head[..len].copy_from_slice(&frame[..len]);
        let mut key = PacketKey::ALL;
        extract(&head, len, frame_len, 3, 9, &mut key);
        assert_eq!(key, expected, "{len} of {frame_len} bytes");
    }
}

/// Lengths that cannot be: only that nothing breaks.
fn any_lengths(frame: &[u8], len: usize, more: usize) {
    let mut head = [0x81; HEAD_BYTES];
    let given = frame.len().min(HEAD_BYTES);
    head[..given].copy_from_slice(&frame[..given]);
    for (len, frame_len) in [
        (len, more),
        (more, len),
        (usize::MAX, more),
        (len, usize::MAX),
        (usize::MAX, usize::MAX),
    ] {
        let mut key = PacketKey::ALL;
        extract(&head, len, frame_len, 3, 9, &mut key);
        assert_eq!(key.0[0] >> 32, 3 << 16 | 9);
    }
}
