use proptest::prelude::*;

use super::*;

/// A second parser, as plain as can be: headers are cut off the front of a
/// slice, one after the other.
mod naive {
    use super::*;

    /// What is left of a packet: bytes that can be read, and how many there
    /// are in the whole frame.
    #[derive(Clone)]
    struct Rest<'a> {
        bytes: &'a [u8],
        size: usize,
    }

    impl<'a> Rest<'a> {
        fn peek(&self, count: usize) -> Option<&'a [u8]> {
            (self.size >= count && self.bytes.len() >= count).then(|| &self.bytes[..count])
        }

        fn skip(&mut self, count: usize) -> Option<()> {
            self.size = self.size.checked_sub(count)?;
            self.bytes = &self.bytes[count.min(self.bytes.len())..];
            Some(())
        }

        fn take(&mut self, count: usize) -> Option<&'a [u8]> {
            let bytes = self.peek(count)?;
            self.skip(count)?;
            Some(bytes)
        }
    }

    fn number(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    pub fn extract(bytes: &[u8], frame_len: usize, bridge: u16, in_port: u16) -> PacketKey {
        let mut key = PacketKey::default();
        key.0[0] = number(&[bridge.to_be_bytes(), in_port.to_be_bytes()].concat()) << 32;
        let rest = Rest {
            bytes,
            size: frame_len,
        };
        let _ = ethernet(&mut key.0, rest);
        key
    }

    fn ethernet(key: &mut [u64; 14], mut rest: Rest<'_>) -> Option<()> {
        rest.peek(14)?;
        key[1] = number(rest.take(6)?) << 16;
        key[2] = number(rest.take(6)?) << 16;
        for (word, shift) in [(1, 48), (2, 32)] {
            let Some(tag) = rest.peek(6) else { break };
            if tag[..2] != [0x81, 0] && tag[..2] != [0x88, 0xa8] {
                break;
            }
            key[word] |= number(&tag[2..4]) | 0x1000;
            key[5] |= number(&tag[..2]) << shift;
            rest.skip(4)?;
        }
        let mut dl_type = number(rest.take(2)?);
        if dl_type < 0x600 {
            let snap = rest.take(8).unwrap_or(&[0; 8]);
            let is_snap = snap[..6] == [0xaa, 0xaa, 3, 0, 0, 0];
            dl_type = match number(&snap[6..]) {
                inner if is_snap && inner >= 0x600 => inner,
                _ => 0x5ff,
            };
        }
        key[0] |= dl_type << 16;
        match dl_type {
            0x800 => ipv4(key, rest),
            0x806 | 0x8035 => arp(key, rest),
            0x86dd => ipv6(key, rest),
            _ => None,
        }
    }

    fn arp(key: &mut [u64; 14], mut rest: Rest<'_>) -> Option<()> {
        let arp = rest.take(28)?;
        if arp[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        if arp[6] == 0 {
            key[0] |= u64::from(arp[7]);
        }
        key[3] = number(&arp[14..18]) << 32 | number(&arp[24..28]);
        key[6] = number(&arp[8..14]) << 16;
        key[7] = number(&arp[18..24]) << 16;
        Some(())
    }

    fn ipv4(key: &mut [u64; 14], mut rest: Rest<'_>) -> Option<()> {
        let ip = rest.peek(20)?;
        let header = (ip[0] as usize % 16) * 4;
        let total = number(&ip[2..4]) as usize;
        let padding = rest.size.checked_sub(total)?;
        if header < 20 || total < header || padding >= 0x10000 {
            return None;
        }
        rest.size = total;
        rest.skip(header)?;
        key[3] = number(&ip[12..20]);
        key[4] = u64::from(ip[1]) << 8 | u64::from(ip[8]);
        key[0] |= u64::from(ip[9]);
        let later = number(&ip[6..8]) & 0x1fff != 0;
        if later {
            key[0] |= 0x300;
        } else if ip[6] & 0x20 != 0 {
            key[0] |= 0x100;
        }
        match later {
            true => None,
            false => transport(key, rest, ip[9]),
        }
    }

    fn ipv6(key: &mut [u64; 14], mut rest: Rest<'_>) -> Option<()> {
        let ip = rest.take(40)?;
        let payload = number(&ip[4..6]) as usize;
        let padding = rest.size.checked_sub(payload)?;
        if padding >= 0x10000 {
            return None;
        }
        rest.size = payload;
        for i in 0..4 {
            key[8 + i] = number(&ip[8 + 8 * i..][..8]);
        }
        let (mut proto, mut frag) = (ip[6], 0);
        while [0, 43, 44, 51, 60].contains(&proto) {
            let start = rest.peek(8)?;
            rest.skip(match proto {
                44 => 8,
                51 => usize::from(start[1]) * 4 + 8,
                _ => usize::from(start[1]) * 8 + 8,
            })?;
            if proto == 44 && number(&start[2..4]) != 0 {
                frag = 1;
                if number(&start[2..4]) >> 3 != 0 {
                    frag = 3;
                    break;
                }
            }
            proto = start[0];
        }
        key[0] |= frag << 8 | u64::from(proto);
        key[4] = (number(&ip[..2]) >> 4 & 0xff) << 8 | u64::from(ip[7]);
        key[5] |= number(&ip[..4]) & 0xf_ffff;
        match frag {
            3 => None,
            _ => transport(key, rest, proto),
        }
    }

    fn transport(key: &mut [u64; 14], mut rest: Rest<'_>, proto: u8) -> Option<()> {
        match proto {
            6 => {
                let tcp = rest.peek(20)?;
                let header = usize::from(tcp[12] >> 4) * 4;
                if header < 20 || header > rest.size {
                    return None;
                }
                key[4] |= number(&tcp[..4]) << 32 | (number(&tcp[12..14]) & 0xfff) << 16;
            }
            17 => key[4] |= number(&rest.peek(8)?[..4]) << 32,
            132 => key[4] |= number(&rest.peek(12)?[..4]) << 32,
            1 | 2 | 58 => {
                let icmp = rest.take(8)?;
                key[4] |= u64::from(icmp[0]) << 48 | u64::from(icmp[1]) << 32;
                if proto == 58 && (icmp[0] == 135 || icmp[0] == 136) && icmp[1] == 0 {
                    let target = rest.take(16)?;
                    key[12] = number(&target[..8]);
                    key[13] = number(&target[8..]);
                    nd_options(key, rest);
                }
            }
            _ => {}
        }
        Some(())
    }

    fn nd_options(key: &mut [u64; 14], mut rest: Rest<'_>) {
        while let Some(option) = rest.peek(8) {
            let length = usize::from(option[1]) * 8;
            if length == 0 || rest.skip(length).is_none() {
                return;
            }
            let word = match option[0] {
                1 => 6,
                2 => 7,
                _ => continue,
            };
            if length != 8 {
                continue;
            }
            if key[word] != 0 {
                for word in [6, 7, 12, 13] {
                    key[word] = 0;
                }
                return;
            }
            key[word] = number(&option[2..]) << 16;
        }
    }
}

/// Pieces that make parsers go deep; the numbers in them are right by chance
/// or not at all.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let ethertype = prop_oneof![
        Just(0x0800u16),
        Just(0x86dd),
        Just(0x8100),
        Just(0x88a8),
        Just(0x0806),
        Just(0x8035),
        Just(0x8847),
        0..0x700u16,
    ];
    let proto = prop_oneof![
        Just(0u8),
        Just(43),
        Just(44),
        Just(51),
        Just(60),
        Just(1),
        Just(2),
        Just(6),
        Just(17),
        Just(58),
        Just(132),
        any::<u8>(),
    ];
    let small_length = prop_oneof![0..4u8, Just(5), 0..16u8];
    let bytes = |count| proptest::collection::vec(any::<u8>(), count);
    let macs = bytes(12);
    let tags = proptest::collection::vec(
        (prop_oneof![Just(0x8100u16), Just(0x88a8)], any::<u16>()),
        0..4,
    );
    let ipv4 = (
        (prop_oneof![4 => Just(0x45u8), 1 => 0x40..0x50u8]),
        any::<u8>(),
        prop_oneof![3 => 20..120u16, 1 => any::<u16>()],
        prop_oneof![4 => Just(0u16), 1 => Just(0x4000), 1 => Just(0x2000), 1 => any::<u16>()],
        proto.clone(),
        bytes(8),
    )
        .prop_map(|(ihl, tos, total, fragment, proto, addresses)| {
            let [t0, t1] = total.to_be_bytes();
            let [f0, f1] = fragment.to_be_bytes();
            [
                vec![ihl, tos, t0, t1, 1, 2, f0, f1, 64, proto, 3, 4],
                addresses,
            ]
            .concat()
        });
    let ipv6 = (
        any::<u32>(),
        prop_oneof![3 => 8..110u16, 1 => any::<u16>()],
        proto.clone(),
        bytes(33),
    )
        .prop_map(|(first, payload, proto, rest)| {
            let first = first.to_be_bytes();
            [&first[..], &payload.to_be_bytes(), &[proto], &rest].concat()
        });
    let extension = (
        proto,
        small_length,
        prop_oneof![Just(0u16), Just(1), Just(2), Just(8), any::<u16>()],
        bytes(4),
    )
        .prop_map(|(next, units, offset, rest)| {
            let [o0, o1] = offset.to_be_bytes();
            [vec![next, units, o0, o1], rest].concat()
        });
    let tcp = (bytes(12), prop_oneof![3 => 5..7u8, 1 => 0..16u8], bytes(7))
        .prop_map(|(start, offset, rest)| [start, vec![offset << 4 | 9], rest].concat());
    let nd = (
        prop_oneof![Just(135u8), Just(136), any::<u8>()],
        bytes(22),
        proptest::collection::vec(
            (
                1..4u8,
                prop_oneof![5 => Just(1u8), 1 => 0..3u8],
                prop_oneof![1 => Just(vec![0; 6]), 3 => bytes(6)],
            ),
            0..4,
        ),
    )
        .prop_map(|(kind, body, options)| {
            let mut nd = vec![kind, 0];
            nd.extend(body);
            for (kind, units, mac) in options {
                nd.extend([kind, units]);
                nd.extend(mac);
            }
            nd
        });
    let snap = prop_oneof![
        Just(vec![0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
        Just(vec![0xaa, 0xaa, 3, 0, 0, 0, 5, 0xff]),
        Just(vec![0xaa, 0xaa, 3, 0, 0, 1, 8, 0]),
    ];
    let arp = (
        prop_oneof![4 => Just(6u8), 1 => any::<u8>()],
        prop_oneof![4 => Just(0u8), 1 => any::<u8>()],
        bytes(21),
    )
        .prop_map(|(length, opcode, rest)| [vec![0, 1, 8, 0, length, 4, opcode], rest].concat());
    let network = prop_oneof![4 => ipv4, 4 => ipv6, 1 => arp, 1 => snap];
    let after = prop_oneof![extension, tcp, nd, bytes(12), bytes(3)];
    (
        macs,
        tags,
        ethertype,
        network,
        proptest::collection::vec(after, 0..5),
        any::<bool>(),
    )
        .prop_map(|(macs, tags, ethertype, network, after, fitting)| {
            let mut frame = macs;
            for (tpid, tci) in tags {
                frame.extend(tpid.to_be_bytes());
                frame.extend(tci.to_be_bytes());
            }
            let ethertype = match network.len() {
                20 if fitting => 0x0800,
                40 if fitting => 0x86dd,
                28 if fitting => 0x0806,
                8 if fitting => 40,
                _ => ethertype,
            };
            frame.extend(ethertype.to_be_bytes());
            frame.extend(network);
            frame.extend(after.concat());
            frame
        })
}

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
