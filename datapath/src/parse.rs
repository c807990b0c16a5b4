//! Heads → keys: what lookup needs to know of a frame.
//!
//! Works on our copy of the head only. Headers that are cut off or malformed
//! end the parse where they begin; what is not understood is simply not part
//! of the key.

use ringway_flow::key::PacketKey;
use ringway_vhost::HEAD_BYTES;

use crate::cpu::crc32c;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const PROTO_TCP: u8 = 6;
const PROTO_UDP: u8 = 17;

/// A station's address within a bridge: MAC in the upper 48 bits, VLAN (0 for
/// untagged) in the lower 12.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Station(u64);

impl Station {
    /// No station: bits 12 to 15 are clear in every other.
    pub const NONE: Self = Self(0xf000);

    /// The station with this MAC in this VLAN.
    #[cfg(test)]
    pub fn new(mac: [u8; 6], vlan: u16) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self(u64::from_be_bytes([a, b, c, d, e, f, 0, 0]) | u64::from(vlan & 0xfff))
    }

    /// Its MAC address.
    pub fn mac(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Its VLAN, 0 for untagged.
    pub fn vlan(self) -> u16 {
        (self.0 & 0xfff) as u16
    }

    /// Group addresses (broadcast included) have the lowest bit of their first byte set.
    #[inline(always)]
    pub fn is_group(self) -> bool {
        self.0 & (1 << 56) != 0
    }

    /// 01:80:C2:00:00:00 to :0F, which bridges must not forward (IEEE 802.1Q, 8.6.3).
    #[inline(always)]
    pub fn is_reserved(self) -> bool {
        self.0 >> 20 == 0x0180_c200_0000 >> 4
    }

    /// The same address in another VLAN.
    #[inline(always)]
    pub fn in_vlan(self, vlan: u16) -> Self {
        Self(self.0 & !0xffff | u64::from(vlan & 0xfff))
    }

    /// As one number, for tables; never 0 for a MAC that is not all zeros.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The station with these [`bits`](Self::bits).
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// Whom a packet is for and from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Destination address.
    pub destination: Station,
    /// Source address.
    pub source: Station,
}

impl Key {
    /// The same in another VLAN.
    #[inline(always)]
    pub fn in_vlan(self, vlan: u16) -> Self {
        Self {
            destination: self.destination.in_vlan(vlan),
            source: self.source.in_vlan(vlan),
        }
    }

    /// Of a packet whose flow key is known.
    #[inline(always)]
    pub fn of_flow(key: &PacketKey) -> Self {
        let words = &key.0;
        let vlan = words[1] & 0xfff;
        let station = |word: u64| Station(word & !0xffff | vlan);
        Self {
            destination: station(words[1]),
            source: station(words[2]),
        }
    }
}

/// Parses the head of a frame of which `len` bytes are valid (at least 14;
/// what lies behind is stale and not looked at) into `key`.
///
/// The key is filled in place: returned by value it went over the stack, and
/// reading it back in wider words than it was written cost 15 cycles a packet.
#[inline(always)]
pub fn parse(head: &[u8; HEAD_BYTES], len: usize, key: &mut Key) {
    let vlan = match u16_at(head, 12) {
        // A tag with VLAN 0 carries a priority only; the frame counts as untagged.
        ETHERTYPE_VLAN | ETHERTYPE_QINQ if len >= 18 => u16_at(head, 14) & 0xfff,
        _ => 0,
    };
    let station = |at: usize| Station(u64::from_be(u64_at(head, at)) & !0xffff | u64::from(vlan));
    key.destination = station(0);
    key.source = station(6);
}

/// CRC32C over addresses, VLAN, protocol and ports of a frame: packets of one flow have
/// the same. The rest as with [`parse`].
pub fn flow_hash(head: &[u8; HEAD_BYTES], len: usize) -> u32 {
    let mut key = Key::default();
    parse(head, len, &mut key);
    let mut hash = crc32c(crc32c(0, key.destination.0), key.source.0);
    let mut l3 = 14;
    while l3 < 22
        && len >= l3 + 4
        && matches!(u16_at(head, l3 - 2), ETHERTYPE_VLAN | ETHERTYPE_QINQ)
    {
        l3 += 4;
    }
    let ethertype = u16_at(head, l3 - 2);
    if ethertype == ETHERTYPE_IPV4 && len >= l3 + 20 {
        let header_bytes = usize::from(head[l3] & 0xf) * 4;
        let fragment = u16_at(head, l3 + 6) & 0x3fff != 0;
        let protocol = head[l3 + 9];
        hash = crc32c(hash, u64_at(head, l3 + 12) ^ u64::from(protocol));
        // A fragment's later parts have no ports; without them all parts of a
        // datagram stay together.
        if matches!(protocol, PROTO_TCP | PROTO_UDP)
            && !fragment
            && header_bytes >= 20
            && len >= l3 + header_bytes + 4
        {
            hash = crc32c(hash, ports_at(head, l3 + header_bytes));
        }
    } else if ethertype == ETHERTYPE_IPV6 && len >= l3 + 40 {
        let next_header = head[l3 + 6];
        for at in [8, 16, 24, 32] {
            hash = crc32c(hash, u64_at(head, l3 + at));
        }
        hash = crc32c(hash, u64::from(next_header));
        if matches!(next_header, PROTO_TCP | PROTO_UDP) && len >= l3 + 44 {
            hash = crc32c(hash, ports_at(head, l3 + 40));
        }
    }
    hash as u32
}

#[inline(always)]
fn u16_at(head: &[u8; HEAD_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

#[inline(always)]
fn u64_at(head: &[u8; HEAD_BYTES], at: usize) -> u64 {
    match head[at..].first_chunk::<8>() {
        Some(bytes) => u64::from_ne_bytes(*bytes),
        None => 0,
    }
}

/// Source and destination port.
#[inline(always)]
fn ports_at(head: &[u8; HEAD_BYTES], at: usize) -> u64 {
    match head[at..].first_chunk::<4>() {
        Some(bytes) => u64::from(u32::from_ne_bytes(*bytes)),
        None => 0,
    }
}

/// CRC32C of one word: the hash of all tables.
#[inline(always)]
pub fn hash_word(word: u64) -> u32 {
    crc32c(0x9e37_79b9, word) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(frame: &[u8]) -> [u8; HEAD_BYTES] {
        let mut head = [0xaa; HEAD_BYTES];
        let len = frame.len().min(HEAD_BYTES);
        head[..len].copy_from_slice(&frame[..len]);
        head
    }

    fn parse(head: &[u8; HEAD_BYTES], len: usize) -> Key {
        let mut key = Key::default();
        super::parse(head, len, &mut key);
        key
    }

    fn udp(vlan: Option<u16>, ports: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if let Some(vlan) = vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, PROTO_UDP, 0, 0]);
        frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(ports);
        frame.extend([0, 8, 0, 0]);
        frame
    }

    #[test]
    fn stations_and_vlans() {
        let key = parse(&slot(&udp(None, [1, 2, 3, 4])), 42);
        assert_eq!(key.destination, Station::new([2, 0, 0, 0, 0, 1], 0));
        assert_eq!(key.source, Station::new([2, 0, 0, 0, 0, 2], 0));
        assert_eq!(key.source.mac(), [2, 0, 0, 0, 0, 2]);
        let tagged = parse(&slot(&udp(Some(0xe064), [1, 2, 3, 4])), 46);
        assert_eq!(tagged.source.vlan(), 100, "priority bits are not the VLAN");
        assert_ne!(tagged.source, key.source);
        let priority = parse(&slot(&udp(Some(0xe000), [1, 2, 3, 4])), 46);
        assert_eq!(priority.source, key.source, "a priority tag is no VLAN");
    }

    #[test]
    fn flows_differ_by_their_ports_and_not_by_their_payload() {
        let hash = |frame: &[u8]| flow_hash(&slot(frame), frame.len());
        for vlan in [None, Some(5)] {
            let ports = [[1, 2, 3, 4], [1, 2, 3, 5]].map(|ports| hash(&udp(vlan, ports)));
            assert_ne!(ports[0], ports[1], "{vlan:?}");
        }
        let one = udp(None, [1, 2, 3, 4]);
        let other = udp(None, [1, 2, 3, 5]);
        let mut payload = one.clone();
        payload.extend([7; 20]);
        assert_eq!(hash(&one), hash(&payload));
        let mut fragment = other.clone();
        fragment[20] = 0x20;
        let mut second = one.clone();
        second[20] = 0x00;
        second[21] = 0x03;
        assert_eq!(hash(&fragment), hash(&second), "fragments stay together");
    }

    #[test]
    fn group_and_reserved_addresses() {
        assert!(Station::new([0xff; 6], 0).is_group());
        assert!(!Station::new([2, 0, 0, 0, 0, 1], 0).is_group());
        assert!(Station::new([1, 0x80, 0xc2, 0, 0, 0], 5).is_reserved());
        assert!(Station::new([1, 0x80, 0xc2, 0, 0, 0xf], 0).is_reserved());
        assert!(!Station::new([1, 0x80, 0xc2, 0, 0, 0x10], 0).is_reserved());
        assert!(!Station::new([1, 0x80, 0xc2, 1, 0, 0], 0).is_reserved());
    }

    proptest! {
        /// What lies behind the valid bytes must not matter, whatever the frame.
        #[test]
        fn nothing_behind_the_frame_is_looked_at(
            mut frame in proptest::collection::vec(any::<u8>(), 14..HEAD_BYTES),
            kind in 0usize..6,
            stale in any::<u8>(),
        ) {
            let types = [0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x0806, 0x1234];
            frame[12..14].copy_from_slice(&types[kind].to_be_bytes());
            let mut one = slot(&frame);
            let mut other = one;
            one[frame.len()..].fill(stale);
            other[frame.len()..].fill(!stale);
            prop_assert_eq!(parse(&one, frame.len()), parse(&other, frame.len()));
            prop_assert_eq!(flow_hash(&one, frame.len()), flow_hash(&other, frame.len()));
        }
    }
}
