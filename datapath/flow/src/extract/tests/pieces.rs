//! Frames that make parsers go deep.

use proptest::prelude::*;

/// Frames of pieces that fit together or do not; the numbers in them are right
/// by chance or not at all.
pub(crate) fn pieces() -> impl Strategy<Value = Vec<u8>> {
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
