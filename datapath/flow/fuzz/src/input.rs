//! Keys and frames out of a fuzzer's bytes.

use arbitrary::{Result, Unstructured};
use ringway_flow::compose::arbitrary::Shape;
use ringway_flow::compose::compose_with_payload;
use ringway_flow::key::{PACKET_WORDS, PacketKey};

/// A key that a frame can have, of bridge 0.
pub fn key(input: &mut Unstructured<'_>) -> Result<PacketKey> {
    let tags = input.int_in_range(0..=2)?;
    let tpids = (0..tags).map(|_| input.choose(&[0x8100, 0x88a8]).copied());
    let tpids = tpids.collect::<Result<_>>()?;
    let dl_type = match input.int_in_range(0..=9_u8)? {
        0..=3 => 0x0800,
        4..=6 => 0x86dd,
        7 => 0x0806,
        8 => 0x8035,
        _ => *input.choose(&[0x05ff, 0x8847, 0x88cc])?,
    };
    let proto = match input.int_in_range(0..=7_u8)? {
        0 | 1 => 6,
        2 | 3 => 17,
        4 | 5 => 1,
        6 => 132,
        _ => input.arbitrary()?,
    };
    let frag = *input.choose(&[0, 0, 0, 0, 0, 1, 3])?;
    let nd = *input.choose(&[None, Some(135), Some(136)])?;
    let shape = Shape {
        tpids,
        dl_type,
        proto,
        frag,
        nd,
    };
    // Mostly bytes of 0 and 1, of which few are needed and which rules meet.
    let few = input.ratio(3, 4)?;
    let mut words = [0; PACKET_WORDS];
    for word in &mut words {
        *word = match few {
            true => spread(input.arbitrary()?),
            false => input.arbitrary()?,
        };
    }
    let mut key = shape.key(words);
    key.0[0] &= 0xffff_ffff;
    Ok(key)
}

/// A bit a byte.
fn spread(bits: u8) -> u64 {
    (0..8).fold(0, |word, i| word | u64::from(bits >> i & 1) << (8 * i))
}

/// A well-formed frame with right checksums, and its key.
pub fn frame(input: &mut Unstructured<'_>) -> Result<(PacketKey, Vec<u8>)> {
    let key = key(input)?;
    let length = input.int_in_range(0..=300_usize)?;
    // Half of them short, whatever the fuzzer prefers.
    let length = if length < 150 { length % 8 } else { length };
    let payload = input.bytes(length.min(input.len()))?;
    Ok((key, compose_with_payload(&key, payload)))
}

/// Any bytes.
pub fn bytes<'a>(input: &mut Unstructured<'a>, most: usize) -> Result<&'a [u8]> {
    let length = input.int_in_range(0..=most)?;
    input.bytes(length.min(input.len()))
}
