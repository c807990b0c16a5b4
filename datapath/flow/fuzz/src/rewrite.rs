//! The executor of programs, on any words and any bytes.

use arbitrary::{Result, Unstructured};
use ringway_flow::extract::{HEAD_BYTES, extract};
use ringway_flow::key::PacketKey;
use ringway_flow::program::{DpAction, Program, Steps};
use ringway_flow::rewrite::{Head, Partial, naive};

use super::input;

/// Room that the datapath gives a head.
const CAPACITY: usize = 192;

/// A packet as the datapath has it: its head apart from its body.
struct Packet {
    bytes: [u8; CAPACITY],
    /// Bytes of `bytes` that rewrites may use.
    room: usize,
    len: usize,
    frame_len: usize,
    partial: Option<Partial>,
    body: Vec<u8>,
}

impl Packet {
    fn new(frame: &[u8], room: usize) -> Self {
        let mut bytes = [0xa5; CAPACITY];
        let len = frame.len().min(HEAD_BYTES);
        bytes[..len].copy_from_slice(&frame[..len]);
        Self {
            bytes,
            room: room.clamp(len, CAPACITY),
            len,
            frame_len: frame.len(),
            partial: None,
            body: frame[len..].to_vec(),
        }
    }

    /// Does a step; `false` if there was no room for a tag.
    fn step(&mut self, step: DpAction) -> bool {
        let old = self.bytes;
        let lengths = (self.len, self.frame_len);
        let mut head = Head {
            bytes: &mut self.bytes[..self.room],
            len: &mut self.len,
            frame_len: &mut self.frame_len,
            partial: self.partial,
        };
        let done = act(&mut head, step);
        self.partial = head.partial;
        let tag = match step {
            DpAction::PushVlan { .. } if done => 4,
            DpAction::PopVlan if self.len != lengths.0 => -4,
            _ => 0,
        };
        let after = lengths.0.checked_add_signed(tag).unwrap();
        assert_eq!(self.len, after);
        assert_eq!(self.frame_len, lengths.1.checked_add_signed(tag).unwrap());
        let end = self.len.max(lengths.0);
        assert!(end <= self.room);
        assert_eq!(self.bytes[end..], old[end..], "behind the head");
        done
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

/// What the datapath does with a step that rewrites.
pub fn act(head: &mut Head<'_>, step: DpAction) -> bool {
    match step {
        DpAction::Set { word, value, mask } => head.set(word, value, mask),
        DpAction::PushVlan { tpid, tci } => return head.push_vlan(tpid, tci),
        DpAction::PopVlan => head.pop_vlan(),
        _ => {}
    }
    true
}

/// The first byte says which frames; then the frame, then the program.
pub fn law(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let _ = match input.int_in_range(0..=2_u8) {
        Ok(0) => well_formed(&mut input),
        Ok(1) => any_frame(&mut input),
        _ => any_lengths(&mut input),
    };
}

/// Words of a program, whose tags are `tpids` or, without any, whatever comes.
fn program(input: &mut Unstructured<'_>, tpids: &[u16]) -> Result<Vec<u64>> {
    let mut words = Vec::new();
    for _ in 0..input.int_in_range(0..=15_u8)? {
        let mut one = Program::default();
        let step = match input.int_in_range(0..=11_u8)? {
            0 => DpAction::PopVlan,
            1 => DpAction::PushVlan {
                tpid: match tpids {
                    [] => input.arbitrary()?,
                    _ => *input.choose(tpids)?,
                },
                tci: input.arbitrary()?,
            },
            2 if tpids.is_empty() => {
                // Whatever it stands for; half of a step ends the program.
                words.push(input.arbitrary()?);
                continue;
            }
            _ => DpAction::Set {
                word: input.int_in_range(0..=15)?,
                value: input.arbitrary()?,
                mask: match input.int_in_range(0..=4_u8)? {
                    0 => u64::MAX,
                    1 => !0xffff,
                    2 => u64::MAX << 32,
                    3 => 0xffff_ffff,
                    _ => input.arbitrary()?,
                },
            },
        };
        one.push(step).expect("room for one step");
        words.extend(one.words());
    }
    Ok(words)
}

/// Checksums stay right, partial ones too.
fn well_formed(input: &mut Unstructured<'_>) -> Result<()> {
    let (_, mut frame) = input::frame(input)?;
    let transport = naive::transport(&frame);
    // UDP over IPv4 may have no checksum (RFC 768).
    let udp = transport
        .as_ref()
        .is_some_and(|(start, field, _)| field - start == 6);
    let mut partial = None;
    match (&transport, input.int_in_range(0..=2_u8)?) {
        (Some((_, field, _)), 0) if udp => frame[*field..*field + 2].fill(0),
        (Some(_), 1) => {
            partial = naive::make_partial(&mut frame).map(|(start, field)| Partial {
                csum_start: start as u16,
                csum_offset: (field - start) as u16,
            });
        }
        _ => {}
    }
    let mut packet = Packet::new(&frame, CAPACITY);
    packet.partial = partial;
    for step in Steps::of(&program(input, &[0x8100, 0x88a8])?) {
        packet.step(step);
        let mut frame = packet.frame();
        let right = naive::right(&frame);
        if let Some(partial) = packet.partial {
            let start = usize::from(partial.csum_start);
            let (l4, field, pseudo) = naive::transport(&frame).expect("a checksum");
            assert_eq!((start, partial.field()), (l4, field));
            let sum = naive::sum(&pseudo).to_be_bytes();
            assert_eq!(frame[field..field + 2], sum, "after {step:x?}");
            naive::complete(&mut frame, start, field, udp);
        }
        assert_eq!(frame, right, "after {step:x?}");
    }
    Ok(())
}

/// Only what is asked for changes.
fn any_frame(input: &mut Unstructured<'_>) -> Result<()> {
    let frame = input::bytes(input, 255)?;
    let room = input.int_in_range(0..=CAPACITY)?;
    let mut packet = Packet::new(frame, room);
    if input.arbitrary()? {
        packet.partial = Some(Partial {
            csum_start: input.arbitrary()?,
            csum_offset: input.arbitrary()?,
        });
    }
    for step in Steps::of(&program(input, &[])?) {
        let (before, old) = (packet.key(), packet.frame());
        let room = packet.len >= 14 && packet.len + 4 <= packet.room;
        let done = packet.step(step);
        let new = packet.frame();
        match step {
            DpAction::Set { word, value, mask } => {
                // Types and codes of ICMP say what other fields there are.
                let types = word == 4 && matches!(before.0[0] as u8, 1 | 58) && mask >> 32 != 0;
                if !types {
                    only_asked(&before, &packet.key(), (word, value, mask));
                }
                packet.step(step);
                assert_eq!(packet.frame(), new, "{step:x?} once more");
            }
            DpAction::PushVlan { tpid, tci } => {
                assert_eq!(done, room);
                let tag = [tpid.to_be_bytes(), (tci & !0x1000).to_be_bytes()].concat();
                match done {
                    true => assert_eq!(new, [&old[..12], &tag, &old[12..]].concat()),
                    false => assert_eq!(new, old),
                }
            }
            DpAction::PopVlan if before.0[1] & 0x1000 != 0 => {
                assert_eq!(new, [&old[..12], &old[16..]].concat());
            }
            _ => assert_eq!(new, old),
        }
    }
    Ok(())
}

fn only_asked(before: &PacketKey, after: &PacketKey, (word, value, mask): (u8, u64, u64)) {
    for (i, (old, new)) in before.0.into_iter().zip(after.0).enumerate() {
        let asked = if i == usize::from(word) { mask } else { 0 };
        assert_eq!((old ^ new) & !asked, 0, "word {i}: {old:x} to {new:x}");
        assert_eq!(
            (old ^ new) & (new ^ value),
            0,
            "word {i}: {old:x} to {new:x}"
        );
    }
}

/// Lengths that cannot be: nothing breaks.
fn any_lengths(input: &mut Unstructured<'_>) -> Result<()> {
    let mut bytes = input::bytes(input, 255)?.to_vec();
    let small = input.int_in_range(0..=300_usize)?;
    let any = input.arbitrary::<u64>()? as usize;
    let partial = Partial {
        csum_start: input.arbitrary()?,
        csum_offset: input.arbitrary()?,
    };
    let words = program(input, &[])?;
    for (mut len, mut frame_len) in [(small, any), (any, small), (any, any)] {
        let mut head = Head {
            bytes: &mut bytes,
            len: &mut len,
            frame_len: &mut frame_len,
            partial: Some(partial),
        };
        for step in Steps::of(&words) {
            act(&mut head, step);
        }
    }
    Ok(())
}
