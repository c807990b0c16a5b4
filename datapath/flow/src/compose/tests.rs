use proptest::prelude::*;

use super::arbitrary::{packet_key, packet_key_of_few};
use super::*;
use crate::extract::extract_slice;

fn read_back(key: &PacketKey, frame: &[u8]) -> PacketKey {
    extract_slice(frame, (key.0[0] >> 48) as u16, (key.0[0] >> 32) as u16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn frames_have_the_key(key in prop_oneof![packet_key(), packet_key_of_few()]) {
        let frame = compose(&key);
        prop_assert_eq!(read_back(&key, &frame), key);
    }

    #[test]
    fn frames_with_payload_have_the_key(
        key in packet_key(),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let frame = compose_with_payload(&key, &payload);
        prop_assert_eq!(read_back(&key, &frame), key);
    }

    #[test]
    fn any_words_make_a_frame(words: [u64; 14], payload in proptest::collection::vec(any::<u8>(), 0..9)) {
        // Whatever the frame's own key is, its frame is the same again.
        for dl_type in [0x800, 0x86dd, 0x806, 0x5ff, 0] {
            let mut key = PacketKey(words);
            key.0[0] = key.0[0] & !(0xffff << 16) | dl_type << 16;
            let frame = compose_with_payload(&key, &payload);
            let read = read_back(&key, &frame);
            prop_assert_eq!(compose(&read).len() <= frame.len(), true);
            prop_assert_eq!(read_back(&read, &compose(&read)), read);
        }
    }
}

#[test]
fn a_known_frame() {
    // UDP 192.0.2.1:4660 > 192.0.2.2:53 "hi"; checksums summed up by hand.
    let key = PacketKey([
        0x0000_0001_0800_0011,
        0x0200_0000_0001_2005 | 0x1000,
        0x0200_0000_0002_0000,
        0xc000_0201_c000_0202,
        0x1234_0035_0000_b83f,
        0x8100 << 48,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    let expected = [
        &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0x20, 5, 8, 0][..],
        &[0x45, 0xb8, 0, 30, 0, 0, 0, 0, 63, 17],
        &[0xf7, 0x13],
        &[192, 0, 2, 1, 192, 0, 2, 2],
        &[0x12, 0x34, 0, 53, 0, 10],
        &[0x01, 0x04],
        b"hi",
    ]
    .concat();
    assert_eq!(compose_with_payload(&key, b"hi"), expected);
}

#[test]
fn sctp_checksums() {
    // RFC 3720, B.4: 32 bytes of zeros.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    // And of ones.
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
}
