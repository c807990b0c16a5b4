pub(crate) mod pieces;

use proptest::prelude::*;

use self::pieces::pieces;
use super::*;
use crate::compose::arbitrary::packet_key;
use crate::compose::compose_with_payload;

/// `frame`'s head, cut off at `len`, with `stale` behind it.
fn head_of(frame: &[u8], len: usize, stale: u8) -> ([u8; HEAD_BYTES], usize) {
    let len = len.min(frame.len()).min(HEAD_BYTES);
    let mut head = [stale; HEAD_BYTES];
    head[..len].copy_from_slice(&frame[..len]);
    (head, len)
}

fn check(frame: &[u8], cut: usize, more: usize, stale: u8) -> Result<(), TestCaseError> {
    let (head, len) = head_of(frame, cut, stale);
    let frame_len = frame.len() + more;
    let mut key = PacketKey::ALL;
    extract(&head, len, frame_len, 0xb00b, 7, &mut key);
    prop_assert_eq!(key, naive::extract(&frame[..len], frame_len, 0xb00b, 7));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn reads_as_the_naive_parser_does(frame in pieces(), stale: u8) {
        check(&frame, usize::MAX, 0, stale)?;
    }

    #[test]
    fn reads_cut_and_padded_frames_as_the_naive_parser_does(
        frame in pieces(),
        cut in 0..160usize,
        more in prop_oneof![0..100usize, 60_000..70_000usize],
        stale: u8,
    ) {
        check(&frame, cut, more, stale)?;
        check(&frame[..cut.min(frame.len())], cut, 0, stale)?;
    }

    #[test]
    fn reads_frames_cut_off_anywhere(key in packet_key(), stale: u8) {
        let frame = compose_with_payload(&key, b"body");
        for cut in 0..=frame.len() {
            check(&frame, cut, 0, stale)?;
            check(&frame[..cut], cut, 0, stale)?;
        }
    }

    #[test]
    fn reads_anything(
        head in proptest::collection::vec(any::<u8>(), HEAD_BYTES),
        len: usize,
        small in 0..200usize,
        frame_len: usize,
    ) {
        let head: [u8; HEAD_BYTES] = head.try_into().unwrap();
        let mut key = PacketKey::ALL;
        for len in [len, small] {
            for frame_len in [frame_len, small, 0, usize::MAX] {
                extract(&head, len, frame_len, 1, 2, &mut key);
                prop_assert_eq!(key.0[0] >> 32, 0x1_0002);
            }
        }
    }
}

/// What stands in a trace: `macs`, then words of 16 bits.
fn frame_of(parts: &[&[u8]]) -> Vec<u8> {
    let macs = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    [&macs[..], &parts.concat()].concat()
}

const UDP: &[u8] = &[
    0x45, 0xb8, 0, 30, 0, 0, 0x40, 0, 63, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
    0x12, 0x34, 0, 53, 0, 10, 0, 0, b'h', b'i',
];

fn with<const N: usize>(bytes: &[u8], at: usize, new: [u8; N]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + N].copy_from_slice(&new);
    bytes
}

#[test]
fn udp_in_all_its_words() {
    let key = extract_slice(&frame_of(&[&[8, 0], UDP]), 3, 9);
    let expected = [
        0x0003_0009_0800_0011,
        0x0200_0000_0001_0000,
        0x0200_0000_0002_0000,
        0xc000_0201_c000_0202,
        0x1234_0035_0000_b83f,
    ];
    assert_eq!(key.0[..5], expected);
    assert_eq!(key.0[5..], [0; 9]);
}

#[test]
fn tags_and_their_limit() {
    let tags: &[&[u8]] = &[
        &[0x88, 0xa8, 0xe0, 5],
        &[0x81, 0, 0x30, 6],
        &[0x81, 0, 0, 7],
    ];
    let key = |count: usize| {
        let frame = frame_of(&[&tags[..count].concat(), &[8, 0], UDP]);
        extract_slice(&frame, 0, 0)
    };
    for (count, tcis, tpids) in [
        (1, (0xf005, 0), 0x88a8_0000),
        (2, (0xf005, 0x3006), 0x88a8_8100),
    ] {
        let key = key(count);
        assert_eq!((key.0[1] & 0xffff, key.0[2] & 0xffff), tcis);
        assert_eq!(key.0[5] >> 32, tpids);
        assert_eq!(key.0[0], 0x0800_0011);
        assert_eq!(key.0[4], 0x1234_0035_0000_b83f);
    }
    // A third tag is no tag but what the frame carries.
    let third = key(3);
    assert_eq!(third.0[0], 0x8100_0000);
    assert_eq!(third.0[3..5], [0, 0]);
    // 0x9100 is no tag at all.
    let other = extract_slice(&frame_of(&[&[0x91, 0, 0, 5, 8, 0], UDP]), 0, 0);
    assert_eq!((other.0[0], other.0[1] & 0xffff), (0x9100_0000, 0));
    // A tag without an EtherType behind it neither.
    let cut = extract_slice(&frame_of(&[&[0x81, 0, 0, 5]]), 0, 0);
    assert_eq!((cut.0[0], cut.0[1] & 0xffff), (0x8100_0000, 0));
}

#[test]
fn lengths_instead_of_ethertypes() {
    let dl_type = |parts: &[&[u8]]| extract_slice(&frame_of(parts), 0, 0).0[0] >> 16;
    let snap: &[u8] = &[0xaa, 0xaa, 3, 0, 0, 0];
    assert_eq!(dl_type(&[&[0, 38], snap, &[8, 0], UDP]), 0x0800);
    assert_eq!(dl_type(&[&[0, 38], snap, &[5, 0], UDP]), 0x05ff);
    assert_eq!(dl_type(&[&[0, 38, 0x42, 0x42, 3], UDP]), 0x05ff);
    assert_eq!(dl_type(&[&[0, 0]]), 0x05ff);
    let key = extract_slice(&frame_of(&[&[0, 38], snap, &[8, 0], UDP]), 0, 0);
    assert_eq!(key.0[4], 0x1234_0035_0000_b83f);
}

#[test]
fn what_ipv4_must_be_like() {
    let key = |ip: &[u8]| extract_slice(&frame_of(&[&[8, 0], ip]), 0, 0).0;
    let nothing = |ip: &[u8]| {
        let key = key(ip);
        assert_eq!(key[0], 0x0800_0000);
        assert_eq!(key[3..5], [0, 0]);
    };
    nothing(&with(UDP, 0, [0x44]));
    nothing(&with(UDP, 2, [0, 31]));
    nothing(&with(UDP, 2, [0, 19]));
    nothing(&UDP[..19]);
    // IHL beyond the datagram.
    nothing(&with(UDP, 0, [0x4f]));
    // The version is not looked at, by Open vSwitch neither.
    assert_eq!(key(&with(UDP, 0, [0x65]))[4], 0x1234_0035_0000_b83f);
    // Ports must be within the datagram; padding does not count.
    assert_eq!(key(&with(UDP, 2, [0, 27]))[4], 0xb83f);
    assert_eq!(key(&with(UDP, 2, [0, 28]))[4], 0x1234_0035_0000_b83f);
    // Options.
    let options = [&with(UDP, 0, [0x46])[..20], &[1, 1, 1, 1], &UDP[20..]].concat();
    let options = with(&options, 2, [0, 34]);
    assert_eq!(key(&options)[4], 0x1234_0035_0000_b83f);
}

#[test]
fn fragments() {
    let key = |offset: u16| {
        let ip = with(UDP, 6, offset.to_be_bytes());
        let key = extract_slice(&frame_of(&[&[8, 0], &ip]), 0, 0).0;
        (key[0] & 0xffff, key[4])
    };
    assert_eq!(key(0x2000), (0x0111, 0x1234_0035_0000_b83f));
    assert_eq!(key(0x2001), (0x0311, 0xb83f));
    assert_eq!(key(0x0001), (0x0311, 0xb83f));
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let mut frame = frame_of(&[&[0x86, 0xdd, 0x6b, 0x81, 0x23, 0x45, high, low, next, 64]]);
    frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend(payload);
    frame
}

#[test]
fn ipv6_extension_headers() {
    let udp = &UDP[20..];
    let chain = [
        &[60, 0, 0, 0, 0, 0, 0, 0][..],                     // hop-by-hop
        &[43, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // destination
        &[51, 0, 0, 1, 0, 0, 0, 0],                         // routing
        &[44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],             // authentication
        &[17, 0, 0, 1, 0, 0, 0, 1],                         // fragment
        udp,
    ]
    .concat();
    let key = extract_slice(&ipv6(0, &chain), 0, 0).0;
    assert_eq!(key[0], 0x86dd_0111);
    assert_eq!(key[4], 0x1234_0035_0000_b840);
    assert_eq!(key[5], 0x1_2345);
    assert_eq!(key[8..12], [0x2001_0db8 << 32, 1, 0x2001_0db8 << 32, 2]);

    let later = [&[17, 0, 0, 8, 0, 0, 0, 1], udp].concat();
    let key = extract_slice(&ipv6(44, &later), 0, 0).0;
    assert_eq!((key[0], key[4]), (0x86dd_032c, 0xb840));
    // An atomic fragment is a whole packet.
    let atomic = [&[17, 0, 0, 0, 0, 0, 0, 1], udp].concat();
    let key = extract_slice(&ipv6(44, &atomic), 0, 0).0;
    assert_eq!((key[0], key[4]), (0x86dd_0011, 0x1234_0035_0000_b840));

    // A header that is cut off leaves the addresses only.
    let key = extract_slice(&ipv6(0, &[17, 1, 0, 0, 0, 0, 0, 0]), 0, 0).0;
    assert_eq!((key[0], key[4], key[5]), (0x86dd_0000, 0, 0));
    assert_eq!(key[8..12], [0x2001_0db8 << 32, 1, 0x2001_0db8 << 32, 2]);
}

#[test]
fn neighbour_discovery() {
    let message = |options: &[u8]| {
        let target = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target, options].concat();
        extract_slice(&ipv6(58, &message), 0, 0).0
    };
    let sll = [1, 1, 2, 0, 0, 0, 0, 7];
    let tll = [2, 1, 2, 0, 0, 0, 0, 8];
    let key = message(&[sll, tll].concat());
    assert_eq!(key[4] >> 32, 135 << 16);
    assert_eq!(key[6..8], [0x0200_0000_0007_0000, 0x0200_0000_0008_0000]);
    assert_eq!(key[12..], [0xfe80 << 48, 9]);
    // An address of zeros may be given once more, as if there were none.
    let none = [1, 1, 0, 0, 0, 0, 0, 0];
    let key = message(&[none, sll].concat());
    assert_eq!(key[6], 0x0200_0000_0007_0000);
    // The same option twice: all of it is worthless.
    let key = message(&[sll, tll, sll].concat());
    assert_eq!((&key[6..8], &key[12..]), (&[0, 0][..], &[0, 0][..]));
    // Options of length zero and cut off ones end the list.
    let key = message(&[sll, [9, 0, 0, 0, 0, 0, 0, 0], tll].concat());
    assert_eq!(key[6..8], [0x0200_0000_0007_0000, 0]);
    let key = message(&[sll, [9, 2, 0, 0, 0, 0, 0, 0]].concat());
    assert_eq!(key[6..8], [0x0200_0000_0007_0000, 0]);
    assert_eq!(key[12..], [0xfe80 << 48, 9]);
}

#[test]
fn arp_and_its_opcodes() {
    let arp = |opcode: u16, ethertype: [u8; 2]| {
        let mut arp = vec![0, 1, 8, 0, 6, 4];
        arp.extend(opcode.to_be_bytes());
        arp.extend([
            2, 0, 0, 0, 0, 3, 192, 0, 2, 1, 2, 0, 0, 0, 0, 4, 192, 0, 2, 2,
        ]);
        extract_slice(&frame_of(&[&ethertype, &arp]), 0, 0).0
    };
    let key = arp(2, [8, 6]);
    assert_eq!(key[0], 0x0806_0002);
    assert_eq!(key[3], 0xc000_0201_c000_0202);
    assert_eq!(key[6..8], [0x0200_0000_0003_0000, 0x0200_0000_0004_0000]);
    assert_eq!(arp(3, [0x80, 0x35])[0], 0x8035_0003);
    // Only eight bits of an opcode can be matched.
    let key = arp(0x102, [8, 6]);
    assert_eq!((key[0], key[3]), (0x0806_0000, 0xc000_0201_c000_0202));
}
