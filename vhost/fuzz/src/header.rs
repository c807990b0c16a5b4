//! virtio-net headers of any kind before frames of any kind: cutting and
//! checksums against the naive way.

use std::sync::Mutex;

use arbitrary::{Arbitrary, Result, Unstructured};
use ringway_frontend::features;
use ringway_vhost::{Burst, GsoKinds, HEAD_BYTES, Next, Offer, Packets, Taker, VNET_F_NEEDS_CSUM};

use super::machine::{GPA, Machine, Queue, USER};

const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const FRAME: u64 = 0x8000;
/// Longest frame of a test.
const MOST: usize = 12_000;
/// Parts of a frame.
const PARTS: usize = 8;

/// A guest of which every offload was negotiated, and how many chains it sent.
static MACHINE: Mutex<Option<(Machine, u16)>> = Mutex::new(None);

/// A header, then where the frame is cut into buffers, then the frame.
pub fn law(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

/// Ends the guest that is kept.
pub fn end() {
    *MACHINE.lock().expect("no panic") = None;
}

fn machine() -> Machine {
    let acked = features::CSUM
        | features::GUEST_CSUM
        | features::HOST_TSO4
        | features::HOST_TSO6
        | features::HOST_ECN
        | features::HOST_UFO
        | features::HOST_USO
        | features::MRG_RXBUF;
    let mut machine = Machine::new(acked);
    let queue = |at| Queue {
        size: 16,
        descriptors: USER + at + DESCRIPTORS,
        available: USER + at + AVAILABLE,
        used: USER + at + USED,
        base: 0,
    };
    assert!(machine.start([queue(0x4000), queue(0)]));
    machine
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let (header, frame) = frame(input)?;
    let parts = parts(input, frame.len())?;
    let max_frame = input.int_in_range(60..=3_000)?;
    let mut kept = MACHINE.lock().expect("no panic");
    let (machine, sent) = kept.take().unwrap_or_else(|| (machine(), 0));
    machine.write(GPA + FRAME, &header);
    machine.write(GPA + FRAME + 12, &frame);
    let mut at = FRAME;
    for (index, length) in parts.iter().enumerate() {
        let flags = u16::from(index + 1 < parts.len());
        let next = index as u16 + 1;
        let mut descriptor = (GPA + at).to_le_bytes().to_vec();
        descriptor.extend((*length as u32).to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend(next.to_le_bytes());
        machine.write(GPA + DESCRIPTORS + 16 * index as u64, &descriptor);
        at += *length as u64;
    }
    machine.write(GPA + AVAILABLE + 4 + 2 * u64::from(sent % 16), &[0, 0]);
    let sent = sent.wrapping_add(1);
    machine.write(GPA + AVAILABLE + 2, &sent.to_le_bytes());
    let rings = machine.rings();
    let ring = rings.pairs[0].dequeue.as_ref().expect("a ring");
    let mut burst: Box<Burst> = Box::default();
    let outcome = ring.dequeue(&mut burst, |packets| check(packets, &frame, max_frame));
    assert_eq!(outcome.fault, None, "a sound chain is a fault");
    let done = outcome.packets
        + outcome.too_short
        + outcome.too_long
        + outcome.too_many_parts
        + outcome.bad_offload;
    assert_eq!(done, 1, "{outcome:?}");
    let mut used = [0; 2];
    machine.read(GPA + USED + 2, &mut used);
    assert_eq!(
        u16::from_le_bytes(used),
        sent,
        "the chain did not come back"
    );
    drop(rings);
    *kept = Some((machine, sent));
    Ok(())
}

/// Where a frame's buffers end; with the header's 12 bytes.
fn parts(input: &mut Unstructured<'_>, frame: usize) -> Result<Vec<usize>> {
    let mut ends = vec![12 + frame];
    for _ in 0..input.int_in_range(0..=PARTS - 1)? {
        ends.push(match input.ratio(1, 2)? {
            true => input.int_in_range(0..=200.min(11 + frame))?,
            false => input.int_in_range(0..=11 + frame)?,
        });
    }
    ends.sort_unstable();
    let mut before = 0;
    let lengths = ends
        .into_iter()
        .map(|end| end - std::mem::replace(&mut before, end));
    Ok(lengths.collect())
}

/// A header and a frame: often such that it makes sense.
fn frame(input: &mut Unstructured<'_>) -> Result<([u8; 12], Vec<u8>)> {
    let ipv6 = input.arbitrary::<bool>()?;
    let tcp = input.arbitrary::<bool>()?;
    let tags = input.int_in_range(0..=2_usize)?;
    let mut frame = vec![2; 12];
    for _ in 0..tags {
        frame.extend([0x81, 0, 0, 5]);
    }
    frame.extend(if ipv6 { [0x86, 0xdd] } else { [8, 0] });
    let l3 = frame.len();
    let payload = match input.ratio(1, 8)? {
        true => input.int_in_range(0..=MOST - 200)?,
        false => input.int_in_range(0..=2_000)?,
    };
    let l4_header = if tcp {
        20 + 4 * input.int_in_range(0..=5)?
    } else {
        8
    };
    let below = l4_header + payload;
    if ipv6 {
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((below as u16).to_be_bytes());
        frame.extend([if tcp { 6 } else { 17 }, 64]);
        frame.extend([7; 32]);
    } else {
        frame.extend([0x45, 0]);
        frame.extend((20 + below as u16).to_be_bytes());
        frame.extend([1, 2, 0, 0, 64, if tcp { 6 } else { 17 }, 0, 0]);
        frame.extend([9; 8]);
    }
    let l4 = frame.len();
    frame.extend([3; 20].iter().take(l4_header.min(20)));
    frame.resize(l4 + l4_header, 1);
    if tcp {
        frame[l4 + 12] = (l4_header as u8 / 4) << 4;
    } else {
        frame[l4 + 4..l4 + 6].copy_from_slice(&(below as u16).to_be_bytes());
    }
    let field = l4 + if tcp { 16 } else { 6 };
    // As a driver leaves it: the sum of the pseudo-header.
    let pseudo = pseudo_sum(&frame, l3, ipv6, if tcp { 6 } else { 17 }, below);
    frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    let seed: u8 = input.arbitrary()?;
    frame.extend((0..payload).map(|at| seed.wrapping_mul(at as u8).wrapping_add(at as u8)));

    let gso_type = match (input.int_in_range(0..=7_u8)?, ipv6, tcp) {
        (0..=2, ..) => 0,
        (3..=5, false, true) => 1,
        (3..=5, true, true) => 4,
        (3..=5, _, false) => *input.choose(&[3, 5])?,
        _ => input.arbitrary()?,
    };
    let mut header = [0; 12];
    let put = |header: &mut [u8; 12], at: usize, value: usize| {
        header[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    };
    header[0] = u8::from(gso_type != 0 || input.arbitrary()?) * VNET_F_NEEDS_CSUM;
    header[1] = gso_type;
    put(&mut header, 2, l4 + l4_header);
    put(&mut header, 4, input.int_in_range(1..=2_000)?);
    put(&mut header, 6, l4);
    put(&mut header, 8, field - l4);
    // And what does not.
    for _ in 0..input.int_in_range(0..=3_u8)?.saturating_sub(1) {
        let at = input.int_in_range(0..=11_usize)?;
        header[at] = input.arbitrary()?;
    }
    for _ in 0..input.int_in_range(0..=4_u8)?.saturating_sub(2) {
        let at = input.int_in_range(0..=frame.len().min(90) - 1)?;
        frame[at] = u8::arbitrary(input)?;
    }
    if input.ratio(1, 8)? {
        frame.truncate(input.int_in_range(0..=frame.len())?);
    }
    Ok((header, frame))
}

/// The sum of 16-bit words, folded.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    words.map(word).fold(0, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    })
}

fn pseudo_sum(frame: &[u8], l3: usize, ipv6: bool, protocol: u8, length: usize) -> u16 {
    let addresses = match ipv6 {
        true => &frame[l3 + 8..l3 + 40],
        false => &frame[l3 + 12..l3 + 20],
    };
    let sum = sum(addresses) + u32::from(protocol) + length as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

fn whole(packets: &Packets<'_>, index: usize) -> Vec<u8> {
    let mut frame = vec![0; packets.frame_len(index)];
    assert!(packets.copy_frame(index, &mut frame));
    frame
}

fn check(packets: &mut Packets<'_>, sent: &[u8], max_frame: u32) {
    let header = packets.vnet_header(0);
    let gso = header.gso_type != 0;
    // The checksum of an oversized frame that is said to be valid is made a
    // partial one.
    let mut expected = sent.to_vec();
    if gso {
        let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
        let came = whole(packets, 0);
        expected[field..field + 2].copy_from_slice(&came[field..field + 2]);
    }
    let sent = &expected;
    assert_eq!(whole(packets, 0), *sent, "what was sent is not what came");
    assert!(!gso || packets.any_gso());
    for taker in [
        Taker {
            partial: false,
            gso: GsoKinds::NONE,
            max_frame,
        },
        Taker {
            partial: true,
            gso: GsoKinds::ALL,
            max_frame,
        },
        Taker {
            partial: true,
            gso: GsoKinds::NONE,
            max_frame: u32::MAX,
        },
    ] {
        match packets.offer(0, &taker) {
            Offer::TooLong => {}
            Offer::Whole => assert_eq!(whole(packets, 0), *sent),
            Offer::Cut(mut cut) => {
                assert!(gso, "a frame that is not to be cut is");
                let count = cut.count();
                let mut payload: Vec<u8> = Vec::new();
                let mut made = 0;
                loop {
                    match packets.next_cut(&mut cut) {
                        Next::Packet(index) => {
                            made += 1;
                            let len = packets.frame_len(index);
                            let resized = packets.is_gso(index);
                            let tags = 8;
                            assert!(
                                resized || len <= taker.max_frame as usize + tags,
                                "a segment of {len} bytes for {taker:?}"
                            );
                            let headers = usize::from(header.hdr_len).min(len);
                            assert!(headers <= HEAD_BYTES);
                            payload.extend(&whole(packets, index)[headers..]);
                        }
                        Next::Full => packets.clear_cuts(),
                        Next::Done => break,
                    }
                }
                packets.clear_cuts();
                assert_eq!(made, count);
                // Fragments have headers of their own length.
                let fragments = header.gso_type & 0x7f == 3;
                if !fragments {
                    assert_eq!(
                        payload,
                        sent[usize::from(header.hdr_len)..],
                        "payload is not kept"
                    );
                }
            }
        }
        assert_eq!(whole(packets, 0), *sent, "cutting changed the frame");
    }
    if !gso && packets.has_partial_checksum(0) {
        let (start, offset) = (
            usize::from(header.csum_start),
            usize::from(header.csum_offset),
        );
        let mut expected = sent.to_vec();
        let checksum = !(sum(&sent[start..]) as u16);
        packets.complete_checksum(0);
        let done = whole(packets, 0);
        let field = start + offset..start + offset + 2;
        // 0 and 0xffff are the same number; UDP's 0 means that there is none.
        let got = u16::from_be_bytes([done[field.start], done[field.start + 1]]);
        assert_eq!(
            got % 0xffff,
            checksum % 0xffff,
            "checksum {got:#06x}, naively {checksum:#06x}"
        );
        expected[field.clone()].copy_from_slice(&done[field]);
        assert_eq!(done, expected, "more than the checksum changed");
    }
}
