//! Field by field.

use super::*;

const UDP_KEY: [u64; 14] = [
    0x0800_0011,
    0x0200_0000_0001_0000,
    0x0200_0000_0002_0000,
    0xc000_0201_c000_0202,
    0x1234_0035_0000_b83f,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

/// A key with `words` changed.
fn key_with(words: &[(usize, u64)]) -> PacketKey {
    let mut key = UDP_KEY;
    for (word, value) in words {
        key[*word] = *value;
    }
    PacketKey(key)
}

/// Sets `mask` of `word` to `value`; the frame must become that of a key in
/// which just this is different, and nothing else.
fn becomes(key: PacketKey, word: u8, value: u64, mask: u64) {
    let mut packet = Packet::new(&compose_with_payload(&key, b"body"));
    packet.edit(|head| head.set(word, value, mask));
    let mut expected = key;
    let old = &mut expected.0[usize::from(word)];
    *old = *old & !mask | value & mask;
    assert_ne!(expected, key);
    assert_eq!(packet.frame(), compose_with_payload(&expected, b"body"));
    assert_eq!(packet.key(), expected);
}

/// Sets it, and nothing happens.
fn is_ignored(key: PacketKey, word: u8, mask: u64) {
    let frame = compose_with_payload(&key, b"body");
    for value in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
        let mut packet = Packet::new(&frame);
        packet.edit(|head| head.set(word, value, mask));
        assert_eq!(packet.frame(), frame);
    }
}

#[test]
fn every_field() {
    let udp = key_with(&[]);
    let tcp = key_with(&[(0, 0x0800_0006), (4, 0x1234_0050_0012_003f)]);
    let tagged = key_with(&[
        (1, 0x0200_0000_0001_3005),
        (2, 0x0200_0000_0002_1006),
        (5, 0x88a8_8100 << 32),
    ]);
    let arp = key_with(&[(0, 0x0806_0001), (4, 0), (6, 7 << 16), (7, 8 << 16)]);
    let icmp = key_with(&[(0, 0x0800_0001), (4, 0x0003_0000_0000_003f)]);
    let udp6 = key_with(&[
        (0, 0x86dd_0011),
        (3, 0),
        (5, 0x12345),
        (8, 1),
        (9, 2),
        (10, 3),
        (11, 4),
    ]);
    let nd = key_with(&[
        (0, 0x86dd_003a),
        (3, 0),
        (4, 0x0087_0000_0000_00ff),
        (6, 0x0200_0000_0007_0000),
        (7, 0x0200_0000_0008_0000),
        (9, 2),
        (11, 4),
        (12, 0xfe80 << 48),
        (13, 9),
    ]);
    for key in [udp, tcp, tagged, arp, icmp, udp6, nd] {
        becomes(key, 1, 0x00aa_bbcc_ddee_0000, MAC);
        becomes(key, 2, 0x00aa_bbcc_ddee_0000, MAC);
        becomes(key, 2, 0x00aa_0000_0000_0000, 0xff << 48);
    }
    becomes(tagged, 1, 0x0000_0000_0000_1fff, 0x1fff); // VID
    becomes(tagged, 1, 0x0000_0000_0000_e000, 0xe000); // PCP
    for key in [udp, tcp, tagged, icmp, arp] {
        becomes(key, 3, 0x0a00_0001 << 32, 0xffff_ffff << 32); // source
        becomes(key, 3, 0x0a00_0001, 0xffff_ffff); // destination
        becomes(key, 3, 0x0a00_0000, 0xff00_0000); // a part of it
        becomes(key, 3, 0xffff_ffff_0000_0000, u64::MAX);
    }
    becomes(arp, 0, 2, 0xff);
    for word in [6, 7] {
        becomes(arp, word, 0x00aa_bbcc_ddee_0000, MAC);
        becomes(nd, word, 0x00aa_bbcc_ddee_0000, MAC);
    }
    for key in [udp, tcp, icmp, tagged, udp6, nd] {
        becomes(key, 4, 0x0400, 0xfc00); // DSCP
        becomes(key, 4, 0x0300, 0x0300); // ECN
        becomes(key, 4, 0x0001, 0x00ff); // TTL
    }
    for key in [udp, tcp, tagged, udp6] {
        becomes(key, 4, 0x00ab_0000_0000_0000, 0xffff << 48);
        becomes(key, 4, 0x0000_00cd_0000_0000, 0xffff << 32);
    }
    becomes(icmp, 4, 0x000b_0000_0000_0000, 0xff << 48);
    becomes(icmp, 4, 0x0000_0001_0000_0000, 0xff << 32);
    for key in [udp6, nd] {
        becomes(key, 5, 0xf_edcb, 0xf_ffff);
        for word in 8..12 {
            becomes(key, word, u64::MAX, u64::MAX);
            becomes(key, word, 0xff00, 0xff00);
        }
    }
    becomes(nd, 12, 0x2001_0db8 << 32, u64::MAX);
    becomes(nd, 13, 0x00ff, u64::MAX);
    becomes(nd, 4, 0x0088_0000_0000_0000, 0xff << 48);
}

#[test]
fn what_the_packet_lacks_is_ignored() {
    let udp = key_with(&[]);
    is_ignored(udp, 0, u64::MAX);
    is_ignored(udp, 1, 0xffff);
    is_ignored(udp, 4, 0xffff << 16);
    for word in 5..=14 {
        is_ignored(udp, word, u64::MAX);
    }
    // Ports of SCTP, of later fragments, and of IGMP's type and code.
    for kind in [0x0800_0084, 0x0800_0311, 0x0800_0002] {
        is_ignored(key_with(&[(0, kind), (4, 0x3f)]), 4, PORTS);
    }
    // A link-layer address option is not made.
    let nd = key_with(&[(0, 0x86dd_003a), (3, 0), (4, 0x0087_0000_0000_00ff)]);
    is_ignored(nd, 6, MAC);
    is_ignored(nd, 7, MAC);
    // TPIDs, the inner tag, types.
    let tagged = key_with(&[
        (1, 0x0200_0000_0001_3005),
        (2, 0x0200_0000_0002_1006),
        (5, 0x88a8_8100 << 32),
    ]);
    is_ignored(tagged, 0, u64::MAX);
    is_ignored(tagged, 2, 0xffff);
    is_ignored(tagged, 5, u64::MAX);
}

#[test]
fn a_tag_that_changes_loses_its_dei() {
    let key = key_with(&[(1, 0x0200_0000_0001_3005), (5, 0x8100 << 48)]);
    let mut frame = compose_with_payload(&key, b"");
    frame[14] |= 0x10;
    let tci = |value: u64, mask| {
        let mut packet = Packet::new(&frame);
        packet.edit(|head| head.set(1, value, mask));
        packet.frame()[14..16].to_vec()
    };
    assert_eq!(tci(0x1005, 0x1fff), [0x30, 5]);
    assert_eq!(tci(0x1006, 0x1fff), [0x20, 6]);
}

#[test]
fn an_opcode_beyond_a_byte_is_replaced() {
    let arp = key_with(&[(0, 0x0806_0001), (4, 0)]);
    let mut frame = compose_with_payload(&arp, b"");
    frame[20] = 5;
    let mut packet = Packet::new(&frame);
    packet.edit(|head| head.set(0, 2, 0xff));
    assert_eq!(packet.key().0[0] & 0xff, 2);
}

#[test]
fn a_tag_needs_room() {
    let frame = compose_with_payload(&key_with(&[]), &[7; 200]);
    let mut bytes = frame[..HEAD_BYTES].to_vec();
    bytes.extend([0; 5]);
    let (mut len, mut frame_len) = (HEAD_BYTES, frame.len());
    let mut head = Head {
        bytes: &mut bytes,
        len: &mut len,
        frame_len: &mut frame_len,
        partial: None,
    };
    assert!(head.push_vlan(0x8100, 0xffff));
    assert!(!head.push_vlan(0x8100, 0xffff));
    assert_eq!((len, frame_len), (HEAD_BYTES + 4, frame.len() + 4));
    assert_eq!(bytes[12..18], [0x81, 0, 0xef, 0xff, 8, 0]);
    assert_eq!(bytes[16..HEAD_BYTES + 4], frame[12..HEAD_BYTES]);
}

/// UDP over IPv6 with a routing header that has `left` segments left.
fn routed(left: u8) -> (Vec<u8>, usize) {
    let mut frame = compose_with_payload(
        &key_with(&[(0, 0x86dd_0011), (3, 0), (9, 2), (11, 4)]),
        b"body",
    );
    let mut routing = vec![17, 2, 4, left, 0, 0, 0, 0];
    routing.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    frame[20] = 43;
    frame[19] += routing.len() as u8;
    let udp = 14 + 40 + routing.len();
    frame.splice(54..54, routing);
    (frame, udp)
}

#[test]
fn a_routed_destination_is_not_in_the_checksum() {
    for (left, destination_counts) in [(0, true), (1, false)] {
        let (frame, udp) = routed(left);
        let mut packet = Packet::new(&frame);
        packet.edit(|head| head.set(11, 77, u64::MAX));
        let after = packet.frame();
        assert_eq!(after[46..54], [0, 0, 0, 0, 0, 0, 0, 77]);
        assert_eq!(
            after[udp + 6..udp + 8] != frame[udp + 6..udp + 8],
            destination_counts
        );
        // The source always is.
        packet.edit(|head| head.set(9, 78, u64::MAX));
        let field = |frame: &[u8]| u16::from_be_bytes([frame[udp + 6], frame[udp + 7]]);
        let change = if destination_counts { 73 + 76 } else { 76 };
        assert_eq!(field(&packet.frame()), field(&frame) - change);
    }
}

#[test]
fn a_later_fragment_has_no_checksum_but_ipv4s() {
    let frame = compose_with_payload(&key_with(&[]), b"body");
    let mut later = frame.clone();
    later[21] = 1;
    let later = naive::right(&later);
    let mut packet = Packet::new(&later);
    packet.edit(|head| head.set(3, 0x0a00_0001, 0xffff_ffff));
    packet.edit(|head| head.set(4, 0x4321 << 48, 0xffff << 48));
    assert_eq!(packet.frame()[34..], frame[34..]);
    assert_eq!(packet.frame()[30..34], [10, 0, 0, 1]);
    assert_eq!(naive::right(&packet.frame()), packet.frame());
    // The first one has.
    let mut first = frame.clone();
    first[20] = 0x20;
    let mut packet = Packet::new(&naive::right(&first));
    packet.edit(|head| head.set(3, 0x0a00_0001, 0xffff_ffff));
    assert_ne!(packet.frame()[34..], frame[34..]);
    assert_eq!(naive::right(&packet.frame()), packet.frame());
}

#[test]
fn a_zero_udp_checksum_means_none_and_is_never_made() {
    let key = key_with(&[]);
    let frame = compose_with_payload(&key, b"body");
    let field = 14 + 20 + 6;
    // None stays none.
    let mut none = frame.clone();
    none[field..field + 2].fill(0);
    let mut packet = Packet::new(&none);
    packet.edit(|head| head.set(4, 0x4321 << 48, 0xffff << 48));
    assert_eq!(packet.frame()[field..field + 2], [0, 0]);
    // The port that brings the sum to 0xffff, whose complement is zero.
    let checksum = u16::from_be_bytes([frame[field], frame[field + 1]]);
    let port = u64::from(0x1234u16 + checksum) << 48;
    let mut packet = Packet::new(&frame);
    packet.edit(|head| head.set(4, port, 0xffff << 48));
    assert_eq!(packet.frame()[field..field + 2], [0xff, 0xff]);
    assert_eq!(naive::right(&packet.frame()), packet.frame());
}

#[test]
fn an_empty_echo_reply_of_zeros() {
    let key = key_with(&[(0, 0x0800_0001), (4, 0x0008_0000_0000_003f)]);
    let mut packet = Packet::new(&compose_with_payload(&key, b""));
    packet.edit(|head| head.set(4, 0, TYPE_CODE));
    assert_eq!(packet.frame()[34..], [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    packet.edit(|head| head.set(4, 8 << 48, TYPE_CODE));
    assert_eq!(packet.frame()[34..], [8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    // Ones to zeros add nothing to the sum, and yet it is another zero.
    packet.edit(|head| head.set(4, u64::MAX, TYPE_CODE));
    assert_eq!(packet.frame()[34..], [0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    packet.edit(|head| head.set(4, 0, TYPE_CODE));
    assert_eq!(packet.frame()[34..], [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
}

#[test]
fn an_inner_partial_checksum_leaves_the_outer_one_as_it_is_meant() {
    // A tunnel's UDP checksum is whole, the guest's partial one is within.
    let key = key_with(&[]);
    let mut packet = Packet::new(&compose_with_payload(&key, &[3; 100]));
    packet.partial = Some(Partial {
        csum_start: 70,
        csum_offset: 16,
    });
    packet.edit(|head| head.set(3, 0x0a00_0001, 0xffff_ffff));
    assert_eq!(naive::right(&packet.frame()), packet.frame());
    packet.edit(|head| head.push_vlan(0x8100, 5));
    assert_eq!(packet.partial.map(Partial::field), Some(90));
}
