mod fields;

use proptest::prelude::*;

use super::*;
use crate::compose::arbitrary::packet_key;
use crate::compose::compose_with_payload;
use crate::extract::{HEAD_BYTES, extract};
use crate::key::PacketKey;

/// Room that the executor gives a head.
const CAPACITY: usize = 192;

/// A packet as the executor has it: its head apart from its body.
#[derive(Clone)]
struct Packet {
    bytes: [u8; CAPACITY],
    len: usize,
    frame_len: usize,
    partial: Option<Partial>,
    body: Vec<u8>,
}

impl Packet {
    fn new(frame: &[u8]) -> Self {
        // Stale bytes behind the head must never matter.
        let mut bytes = [0xa5; CAPACITY];
        let len = frame.len().min(HEAD_BYTES);
        bytes[..len].copy_from_slice(&frame[..len]);
        Self {
            bytes,
            len,
            frame_len: frame.len(),
            partial: None,
            body: frame[len..].to_vec(),
        }
    }

    fn edit<T>(&mut self, edit: impl FnOnce(&mut Head<'_>) -> T) -> T {
        let mut head = Head {
            bytes: &mut self.bytes,
            len: &mut self.len,
            frame_len: &mut self.frame_len,
            partial: self.partial,
        };
        let result = edit(&mut head);
        self.partial = head.partial;
        result
    }

    fn frame(&self) -> Vec<u8> {
        let frame = [&self.bytes[..self.len], &self.body].concat();
        assert_eq!(frame.len(), self.frame_len);
        frame
    }

    fn key(&self) -> PacketKey {
        let frame = self.frame();
        let mut head = [0x5a; HEAD_BYTES];
        let len = self.len.min(HEAD_BYTES);
        head[..len].copy_from_slice(&frame[..len]);
        let mut key = PacketKey::default();
        extract(&head, len, frame.len(), 0, 0, &mut key);
        key
    }
}

/// What is done to a packet.
#[derive(Clone, Debug)]
enum Edit {
    Set(u8, u64, u64),
    Push(u16, u16),
    Pop,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let mask = prop_oneof![
        Just(u64::MAX),
        Just(!0xffff),
        Just(0xffff_ffff << 32),
        Just(0xffff_ffff),
        Just(0xff),
        any::<u64>(),
        any::<u64>().prop_flat_map(|mask| any::<u64>().prop_map(move |more| mask & more)),
    ];
    let value = prop_oneof![4 => any::<u64>(), 1 => Just(0), 1 => Just(u64::MAX)];
    let set = (0..15u8, value, mask).prop_map(|(word, value, mask)| Edit::Set(word, value, mask));
    let tpid = prop_oneof![Just(0x8100u16), Just(0x88a8)];
    let push = (tpid, any::<u16>()).prop_map(|(tpid, tci)| Edit::Push(tpid, tci));
    proptest::collection::vec(
        prop_oneof![8 => set, 1 => push, 1 => Just(Edit::Pop)],
        1..12,
    )
}

const MAC: u64 = !0xffff;
const PORTS: u64 = 0xffff_ffff << 32;
const TYPE_CODE: u64 = 0x00ff_00ff << 32;

/// What a packet's key has to become.
#[derive(Clone)]
struct Model {
    /// As without tags.
    key: [u64; 14],
    /// TPID and TCI, the outermost first.
    tags: Vec<(u16, u16)>,
    /// It has these link-layer address options.
    options: [bool; 2],
}

impl Model {
    fn new(key: &PacketKey) -> Self {
        let mut key = key.0;
        let mut tags = Vec::new();
        for (word, shift) in [(1, 48), (2, 32)] {
            if key[word] & 0x1000 != 0 {
                tags.push(((key[5] >> shift) as u16, key[word] as u16));
            }
            key[word] &= MAC;
        }
        key[5] &= 0xf_ffff;
        Self {
            key,
            tags,
            options: [key[6] != 0, key[7] != 0],
        }
    }

    fn is_nd(&self) -> bool {
        let kind = self.key[4] >> 32;
        self.key[0] as u8 == 58
            && self.key[0] & 0x200 == 0
            && (kind == 135 << 16 || kind == 136 << 16)
    }

    /// The bits of `word` that can be written.
    fn writable(&self, word: u8) -> u64 {
        let hidden = self.tags.len() > 2;
        let later = self.key[0] & 0x200 != 0;
        match ((self.key[0] >> 16) as u16, word) {
            (_, 1 | 2) => MAC,
            _ if hidden => 0,
            (0x0806 | 0x8035, 0) => 0xff,
            (0x0806 | 0x8035, 6 | 7) => MAC,
            (0x0806 | 0x8035 | 0x0800, 3) => u64::MAX,
            (0x0800 | 0x86dd, 4) => match self.key[0] as u8 {
                6 | 17 if !later => 0xffff | PORTS,
                1 | 58 if !later => 0xffff | TYPE_CODE,
                _ => 0xffff,
            },
            (0x86dd, 5) => 0xf_ffff,
            (0x86dd, 6 | 7) if self.is_nd() && self.options[usize::from(word) - 6] => MAC,
            (0x86dd, 8..=11) => u64::MAX,
            (0x86dd, 12 | 13) if self.is_nd() => u64::MAX,
            _ => 0,
        }
    }

    fn set(&mut self, word: u8, value: u64, mask: u64) {
        if let Some((_, tci)) = self.tags.first_mut()
            && word == 1
        {
            let mask = mask as u16 & !0x1000;
            *tci = *tci & !mask | value as u16 & mask;
        }
        let mask = mask & self.writable(word);
        if let Some(old) = self.key.get_mut(usize::from(word)) {
            *old = *old & !mask | value & mask;
        }
    }

    fn expected(&self) -> PacketKey {
        let mut key = self.key;
        if let Some((tpid, _)) = self.tags.get(2) {
            key = [0; 14];
            key[..3].copy_from_slice(&self.key[..3]);
            key[0] = u64::from(*tpid) << 16;
        }
        for ((word, shift), (tpid, tci)) in [(1, 48), (2, 32)].into_iter().zip(&self.tags) {
            key[word] |= u64::from(tci | 0x1000);
            key[5] |= u64::from(*tpid) << shift;
        }
        PacketKey(key)
    }
}

/// Does `edits` to the frame of `key`, checking the key and the checksums
/// after each of them.
fn check(
    key: &PacketKey,
    payload: &[u8],
    edits: &[Edit],
    no_udp_checksum: bool,
    partial: bool,
) -> Result<(), TestCaseError> {
    let mut key = *key;
    key.0[0] &= 0xffff_ffff;
    let mut frame = compose_with_payload(&key, payload);
    let udp = key.0[0] as u8 == 17;
    let transport = naive::transport(&frame);
    if let Some((_, field, _)) = &transport
        && udp
        && no_udp_checksum
        && !partial
    {
        frame[*field..*field + 2].fill(0);
    }
    let partial = match partial {
        true => naive::make_partial(&mut frame),
        false => None,
    };
    let mut packet = Packet::new(&frame);
    packet.partial = partial.map(|(start, field)| Partial {
        csum_start: start as u16,
        csum_offset: (field - start) as u16,
    });
    let mut model = Model::new(&key);
    // Another ICMP type may mean another body; compose would leave it out.
    let mut same_body = true;
    for edit in edits {
        match *edit {
            Edit::Set(word, value, mut mask) => {
                if key.0[0] as u8 == 58 && word == 4 {
                    // Other types of ICMPv6 have other fields: a case of its own.
                    mask &= 0xffff;
                }
                same_body &= !(word == 4 && mask & TYPE_CODE != 0 && key.0[0] as u8 == 1);
                same_body &= !(matches!(word, 6 | 7) && model.is_nd());
                packet.edit(|head| head.set(word, value, mask));
                model.set(word, value, mask);
            }
            Edit::Push(tpid, tci) => {
                // Three tags hide the packet: that is enough.
                if model.tags.len() < 3 {
                    prop_assert!(packet.edit(|head| head.push_vlan(tpid, tci)));
                    model.tags.insert(0, (tpid, tci & !0x1000));
                }
            }
            Edit::Pop => {
                packet.edit(|head| head.pop_vlan());
                if !model.tags.is_empty() {
                    model.tags.remove(0);
                }
            }
        }
        prop_assert_eq!(packet.key(), model.expected(), "after {:?}", edit);
        let mut frame = packet.frame();
        let right = naive::right(&frame);
        if let Some(partial) = packet.partial {
            let start = usize::from(partial.csum_start);
            let (l4, field, pseudo) = naive::transport(&frame).unwrap();
            prop_assert_eq!((start, partial.field()), (l4, field));
            prop_assert_eq!(&frame[field..field + 2], naive::sum(&pseudo).to_be_bytes());
            naive::complete(&mut frame, start, field, udp);
        }
        prop_assert_eq!(&frame, &right, "after {:?}", edit);
        if same_body && model.tags.len() < 3 && !no_udp_checksum {
            let composed = compose_with_payload(&model.expected(), payload);
            prop_assert_eq!(&frame, &composed, "after {:?}", edit);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn keys_and_checksums_are_right(
        key in packet_key(),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        edits in edits(),
        no_udp_checksum: bool,
    ) {
        check(&key, &payload, &edits, no_udp_checksum, false)?;
    }

    #[test]
    fn partial_checksums_complete_to_right_ones(
        key in packet_key(),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        edits in edits(),
    ) {
        check(&key, &payload, &edits, false, true)?;
    }

    #[test]
    fn whatever_the_bytes_only_what_is_asked_changes(
        frame in prop_oneof![
            crate::extract::tests::pieces::pieces(),
            proptest::collection::vec(any::<u8>(), 0..200),
        ],
        edits in edits(),
        partial in proptest::option::of((0..200u16, any::<u16>())),
    ) {
        let mut packet = Packet::new(&frame);
        packet.partial = partial.map(|(csum_start, csum_offset)| Partial { csum_start, csum_offset });
        for edit in edits {
            let (before, frame) = (packet.key(), packet.frame());
            match edit {
                Edit::Set(word, value, mut mask) => {
                    // Types and codes say what other fields there are.
                    if word == 4 && matches!(before.0[0] as u8, 1 | 58) {
                        mask &= 0xffff;
                    }
                    packet.edit(|head| head.set(word, value, mask));
                    prop_assert_eq!(packet.frame().len(), frame.len());
                    let after = packet.key();
                    for (i, (old, new)) in before.0.into_iter().zip(after.0).enumerate() {
                        let asked = if i == usize::from(word) { mask } else { 0 };
                        prop_assert_eq!((old ^ new) & !asked, 0);
                        prop_assert_eq!((old ^ new) & (new ^ value), 0);
                    }
                    // Once written, it stays.
                    let frame = packet.frame();
                    packet.edit(|head| head.set(word, value, mask));
                    prop_assert_eq!(packet.frame(), frame);
                }
                Edit::Push(tpid, tci) => {
                    let room = packet.len >= 14 && packet.len + 4 <= CAPACITY;
                    let pushed = packet.edit(|head| head.push_vlan(tpid, tci));
                    prop_assert_eq!(pushed, room);
                    let tag = [tpid.to_be_bytes(), (tci & !0x1000).to_be_bytes()].concat();
                    match pushed {
                        true => prop_assert_eq!(packet.frame(), [&frame[..12], &tag, &frame[12..]].concat()),
                        false => prop_assert_eq!(packet.frame(), frame),
                    }
                }
                Edit::Pop => {
                    packet.edit(|head| head.pop_vlan());
                    match before.0[1] & 0x1000 {
                        0 => prop_assert_eq!(packet.frame(), frame),
                        _ => prop_assert_eq!(packet.frame(), [&frame[..12], &frame[16..]].concat()),
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        len: usize,
        small in 0..300usize,
        frame_len: usize,
        edits in edits(),
        csum_start: u16,
        csum_offset: u16,
    ) {
        for (mut len, mut frame_len) in [(small, frame_len), (len, small), (len, frame_len)] {
            let mut head = Head {
                bytes: &mut bytes,
                len: &mut len,
                frame_len: &mut frame_len,
                partial: Some(Partial { csum_start, csum_offset }),
            };
            for edit in &edits {
                match *edit {
                    Edit::Set(word, value, mask) => head.set(word, value, mask),
                    Edit::Push(tpid, tci) => { head.push_vlan(tpid, tci); }
                    Edit::Pop => head.pop_vlan(),
                }
            }
            head.set(u8::MAX, 0, u64::MAX);
        }
    }
}
