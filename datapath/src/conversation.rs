//! Conversations: who sends what to whom.

use ringway_flow::extract::{
    DL_TYPE_NONE, ETHERTYPE_MIN, IPV4, IPV6, TPID_8021AD, TPID_8021Q, is_tpid,
};
use ringway_flow::key::{PacketKey, VLAN_PRESENT};
use ringway_vhost::{HEAD_BYTES, Packets};

use crate::parse::{Key, Station, parse};
use crate::patch::Which;

/// What tells conversations of two stations apart: the type behind the outer
/// tag if there is one, that tag's TPID, and which part of a datagram it is.
///
/// ```text
/// 0 … 15  EtherType or length
/// 16 … 29 of IP: fragment offset (0, 1 for any other, 0x1fff if it is not known) and, 29, whether
///         it is a fragment
/// 30      tagged; with 31 set by a service tag, without it by a customer's
/// ```
///
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kind(u32);

impl Kind {
    const MORE_FOLLOW: u32 = 0x2000;
    const OFFSET: u32 = 0x1fff;
    /// An offset that is not told.
    const UNKNOWN: u32 = 0x1fff;
    const TAGGED: u32 = 1 << 30;
    const SERVICE_TAG: u32 = 1 << 31;

    /// `fragment`: flag and offset, 14 bits. Lengths are all one type, and all
    /// parts of a datagram but the first are one.
    #[inline(always)]
    fn new(dl_type: u16, fragment: u32) -> Self {
        let fragment = match fragment {
            0 | Self::UNKNOWN => fragment,
            first if first & Self::OFFSET == 0 => Self::MORE_FOLLOW,
            _ => Self::MORE_FOLLOW | 1,
        };
        let dl_type = match dl_type {
            length if length < ETHERTYPE_MIN => DL_TYPE_NONE,
            dl_type => dl_type,
        };
        Self(u32::from(dl_type) | fragment << 16)
    }

    /// Of a head of which `len` bytes are valid.
    #[inline]
    pub fn of_head(head: &[u8; HEAD_BYTES], len: usize) -> Self {
        let dl_type = u16_at(head, 12);
        if is_tpid(dl_type) && len >= 18 {
            let inner = u16_at(head, 16);
            let part = fragment(head, len, 18, inner);
            return Self(Self::new(inner, part).0 | tag_kind(dl_type));
        }
        Self::new(dl_type, fragment(head, len, 14, dl_type))
    }

    /// Of a packet whose flow key is known.
    #[inline(always)]
    pub fn of_flow(key: &PacketKey) -> Self {
        let words = &key.0;
        let present = u64::from(VLAN_PRESENT);
        // Any: more follow. Not the first: offset 1.
        let fragment = ((words[0] >> 8 & 1) << 13 | words[0] >> 9 & 1) as u32;
        let untagged = Self::new((words[0] >> 16) as u16, fragment);
        if words[1] & present == 0 {
            return untagged;
        }
        let tag = tag_kind((words[5] >> 48) as u16);
        match words[2] & present {
            0 => Self(untagged.0 | tag),
            _ => Self(u32::from((words[5] >> 32) as u16) | tag),
        }
    }

    /// As a number, for tables.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The kind with these [`bits`](Self::bits).
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The EtherType as flows know it, behind the outer tag.
    pub fn dl_type(self) -> u16 {
        self.0 as u16
    }

    /// TPID of the outer tag, if there is one.
    pub fn tpid(self) -> Option<u16> {
        let tpid = match self.0 & Self::SERVICE_TAG {
            0 => TPID_8021Q,
            _ => TPID_8021AD,
        };
        (self.0 & Self::TAGGED != 0).then_some(tpid)
    }

    /// `nw_frag` of an IP packet, if it is known.
    pub fn fragment(self) -> Option<u64> {
        let is_ip = matches!(self.0 as u16, IPV4 | IPV6);
        match self.0 >> 16 & 0x3fff {
            _ if !is_ip => None,
            Self::UNKNOWN => None,
            0 => Some(0),
            Self::MORE_FOLLOW => Some(1),
            _ => Some(3),
        }
    }
}

#[inline(always)]
fn tag_kind(tpid: u16) -> u32 {
    match tpid {
        TPID_8021AD => Kind::TAGGED | Kind::SERVICE_TAG,
        _ => Kind::TAGGED,
    }
}

fn u16_at(head: &[u8; HEAD_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

/// An IPv6 fragment header follows (RFC 8200, 4.5).
const FRAGMENT: u8 = 44;

/// Flag and offset, as IPv4 has them, of a packet whose network header is at `l3`.
fn fragment(head: &[u8; HEAD_BYTES], len: usize, l3: usize, dl_type: u16) -> u32 {
    match dl_type {
        IPV4 if len >= l3 + 20 => u32::from(u16_at(head, l3 + 6) & 0x3fff),
        IPV6 if len >= l3 + 40 => ipv6_fragment(head, len, l3),
        IPV4 | IPV6 => Kind::UNKNOWN,
        _ => 0,
    }
}

/// Headers that stand before a fragment's are not walked.
fn ipv6_fragment(head: &[u8; HEAD_BYTES], len: usize, l3: usize) -> u32 {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    match head[l3 + 6] {
        FRAGMENT if len >= l3 + 48 => match u16_at(head, l3 + 42) {
            // A fragment that is a whole packet.
            0 => 0,
            offset if offset & 0xfff8 == 0 => Kind::MORE_FOLLOW,
            _ => Kind::MORE_FOLLOW | 1,
        },
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION => Kind::UNKNOWN,
        _ => 0,
    }
}

/// What packets of one conversation have in common, beside their port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// To whom.
    pub destination: Station,
    /// From whom.
    pub source: Station,
    /// What.
    pub kind: Kind,
}

impl Conversation {
    /// That of all packets, if it is seen at once that they are of one: of most bursts
    /// it is, without looking at more than the heads' beginnings.
    #[inline(always)]
    pub fn of_all(which: impl Which, packets: &Packets<'_>) -> Option<Self> {
        let first = which.index(0);
        let head = packets.head_slot(first);
        let differs = |differs, nth| differs | differ(packets.head_slot(which.index(nth)), head);
        if !is_seen_at_once(head) || (1..which.count()).fold(0, differs) != 0 {
            return None;
        }
        let (mut key, len) = (Key::default(), packets.head(first).len());
        parse(head, len, &mut key);
        Some(Self::of(&key, head, len))
    }

    /// Whom its packets are for and from.
    pub fn key(&self) -> Key {
        Key {
            destination: self.destination,
            source: self.source,
        }
    }

    /// Of a packet with this key and head, of which `len` bytes are valid.
    #[inline]
    pub fn of(key: &Key, head: &[u8; HEAD_BYTES], len: usize) -> Self {
        Self {
            destination: key.destination,
            source: key.source,
            kind: Kind::of_head(head, len),
        }
    }

    /// Of a packet whose flow key is known.
    #[inline(always)]
    pub fn of_flow(key: &PacketKey) -> Self {
        let Key {
            destination,
            source,
        } = Key::of_flow(key);
        Self {
            destination,
            source,
            kind: Kind::of_flow(key),
        }
    }
}

/// Whether packets whose heads are alike to this one (see [`differ`]) are of one
/// conversation: not with tags, nor with IPv6's fragment header.
#[inline(always)]
fn is_seen_at_once(head: &[u8; HEAD_BYTES]) -> bool {
    let dl_type = u16_at(head, 12);
    !is_tpid(dl_type) && (dl_type != IPV6 || head[14 + 6] != FRAGMENT)
}

/// 0 if two heads are alike in addresses, type and the two bytes that are IPv4's fragment
/// offset, or hold IPv6's next header: the cheapest that tells most packets of one
/// conversation from others.
#[inline(always)]
fn differ(one: &[u8; HEAD_BYTES], other: &[u8; HEAD_BYTES]) -> u64 {
    let wide = |head: &[u8; HEAD_BYTES], at: usize| match head[at..].first_chunk() {
        Some(bytes) => u64::from_ne_bytes(*bytes),
        None => 0,
    };
    let part = |head: &[u8; HEAD_BYTES]| u64::from(u16::from_ne_bytes([head[20], head[21]]));
    (wide(one, 0) ^ wide(other, 0)) | (wide(one, 6) ^ wide(other, 6)) | (part(one) ^ part(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ringway_flow::extract::extract_slice;

    /// Heads near to one another, of tagged and untagged frames.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let types = prop_oneof![Just(IPV4), Just(IPV6), Just(0x0806), Just(0x88b5), Just(40)];
        let tags = prop_oneof![
            4 => Just(vec![]),
            1 => Just(vec![0x81, 0, 0, 7]),
            1 => Just(vec![0x81, 0, 0x60, 7]),
            1 => Just(vec![0x88, 0xa8, 0, 7]),
            1 => Just(vec![0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]),
        ];
        let parts =
            prop_oneof![3 => Just(0u16), 1 => Just(0x4000), 1 => Just(0x2000), 1 => Just(3)];
        (0u8..2, 0u8..2, tags, types, parts, 0u8..2).prop_map(
            |(to, from, tags, dl_type, part, more)| {
                let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from];
                frame.extend(tags);
                frame.extend(dl_type.to_be_bytes());
                match dl_type {
                    IPV4 => {
                        frame.extend([0x45, more, 0, 20 + more, 0, more]);
                        frame.extend(part.to_be_bytes());
                        frame.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
                    }
                    IPV6 => {
                        let next = [17, 44][usize::from(more)];
                        frame.extend([0x60, 0, 0, 0, 0, 16, next, 64]);
                        frame.extend([0; 32]);
                        frame.extend([17, 0]);
                        frame.extend((part & !0x4000).to_be_bytes());
                        frame.extend([0; 12]);
                    }
                    _ => frame.extend([0xaa; 8]),
                }
                let len = frame.len().max(80);
                frame.resize(len, 0);
                frame
            },
        )
    }

    fn of_head(frame: &[u8]) -> ([u8; HEAD_BYTES], Conversation) {
        let mut head = [0; HEAD_BYTES];
        let len = frame.len().min(HEAD_BYTES);
        head[..len].copy_from_slice(&frame[..len]);
        let mut key = Key::default();
        crate::parse::parse(&head, len, &mut key);
        (head, Conversation::of(&key, &head, len))
    }

    proptest! {
        /// A packet is of one conversation, however it was parsed.
        #[test]
        fn heads_and_flow_keys_say_the_same(frame in frame()) {
            let (_, of_head) = of_head(&frame);
            prop_assert_eq!(of_head, Conversation::of_flow(&extract_slice(&frame, 1, 1)));
            prop_assert_eq!(Kind::from_bits(of_head.kind.bits()), of_head.kind);
        }

        /// What is seen at once is seen right.
        #[test]
        fn alike_heads_are_of_one_conversation(one in frame(), other in frame()) {
            let ((one, first), (other, second)) = (of_head(&one), of_head(&other));
            if is_seen_at_once(&one) && differ(&one, &other) == 0 {
                prop_assert_eq!(first, second);
            }
        }

        /// Nor is a packet sent another's way because a frame is too short to tell.
        #[test]
        fn alike_heads_are_for_one_station(
            mut frames in proptest::collection::vec(frame(), 2),
            lens in proptest::collection::vec(14usize..40, 2),
        ) {
            let whole = frames.iter().map(|frame| of_head(frame).0).collect::<Vec<_>>();
            for (frame, len) in frames.iter_mut().zip(lens) {
                frame.truncate(len);
            }
            let conversations = frames.iter().zip(&whole).map(|(frame, head)| {
                let mut key = Key::default();
                parse(head, frame.len(), &mut key);
                Conversation::of(&key, head, frame.len())
            });
            let [first, second] = *conversations.collect::<Vec<_>>() else { unreachable!() };
            if is_seen_at_once(&whole[0]) && differ(&whole[0], &whole[1]) == 0 {
                prop_assert_eq!(first.key(), second.key());
            }
        }
    }
}
