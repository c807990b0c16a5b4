//! Frames → keys, as Open vSwitch 3.1's `flow_extract` reads them.
//!
//! Two VLAN tags, SNAP, ARP and RARP, IPv4, IPv6 with its extension headers,
//! TCP, UDP, SCTP, ICMP, IGMP, ICMPv6 and neighbour discovery. Of MPLS only
//! the EtherType is read. What is cut off or malformed is not part of the key.
//!
//! One difference remains: Open vSwitch looks at the whole frame, we at its
//! head. Lengths are checked against the whole frame, but a header (of TCP and
//! IPv4: the part without options) or an option of neighbour discovery that is
//! not wholly within the head counts as not there. 128 bytes hold all that is
//! read unless IPv6 extension headers or further options stand before it.

pub(crate) mod layout;
#[cfg(any(test, feature = "test-utils"))]
pub mod naive;
#[cfg(test)]
pub(crate) mod tests;

use self::layout::{Layout, Network, PROTO_TCP, PROTO_UDP, Transport, bytes_at};
use crate::key::{PacketKey, VLAN_PRESENT};

/// Bytes of a frame that are looked at.
pub const HEAD_BYTES: usize = 128;

/// `dl_type` of IPv4.
pub const IPV4: u16 = 0x0800;
/// `dl_type` of ARP.
pub const ARP: u16 = 0x0806;
/// `dl_type` of RARP.
pub const RARP: u16 = 0x8035;
/// `dl_type` of IPv6.
pub const IPV6: u16 = 0x86dd;
/// TPID of a customer VLAN tag.
pub const TPID_8021Q: u16 = 0x8100;
/// TPID of a service VLAN tag.
pub const TPID_8021AD: u16 = 0x88a8;
/// `dl_type` of frames with an IEEE 802.3 length and no SNAP header.
pub const DL_TYPE_NONE: u16 = 0x05ff;
/// Smaller values in an EtherType's place are lengths.
pub const ETHERTYPE_MIN: u16 = 0x0600;

/// Whether `ethertype` says: a VLAN tag follows.
#[inline(always)]
pub const fn is_tpid(ethertype: u16) -> bool {
    matches!(ethertype, TPID_8021Q | TPID_8021AD)
}

/// Fills `key` from the first `len` bytes of `head` (what lies behind is stale
/// and not looked at) of a frame of `frame_len` bytes. `bridge` and `in_port`
/// are the caller's, in word 0.
///
/// TCP and UDP over IPv4 without options or over IPv6 without extension
/// headers, behind no more than two tags, are read at fixed places; all else
/// takes [`unusual`].
#[inline]
pub fn extract(
    head: &[u8; HEAD_BYTES],
    len: usize,
    frame_len: usize,
    bridge: u16,
    in_port: u16,
    key: &mut PacketKey,
) {
    let frame = Frame {
        head,
        len: len.min(frame_len).min(HEAD_BYTES),
        frame_len,
        word0: u64::from(bridge) << 48 | u64::from(in_port) << 32,
    };
    let done = match frame.u16_at(12) {
        TPID_8021Q | TPID_8021AD => tagged(&frame, key),
        dl_type => usual::<14>(&frame, Tags::default(), dl_type, key),
    };
    if !done {
        unusual(&frame, key);
    }
}

/// The key of a frame that is there as a whole. Sees no more of it than
/// [`extract`] does.
pub fn extract_slice(frame: &[u8], bridge: u16, in_port: u16) -> PacketKey {
    let mut head = [0; HEAD_BYTES];
    let len = frame.len().min(HEAD_BYTES);
    for (to, from) in head.iter_mut().zip(frame) {
        *to = *from;
    }
    let mut key = PacketKey::default();
    extract(&head, len, frame.len(), bridge, in_port, &mut key);
    key
}

/// What `extract` was given.
struct Frame<'a> {
    head: &'a [u8; HEAD_BYTES],
    /// At most `frame_len` and the head's length.
    len: usize,
    frame_len: usize,
    /// Bridge and port, where they belong.
    word0: u64,
}

/// The tags' part of words 1, 2 and 5.
#[derive(Clone, Copy, Default)]
struct Tags {
    outer: u64,
    inner: u64,
    tpids: u64,
}

impl Frame<'_> {
    // With a constant `at`, these are one load each.
    #[inline(always)]
    fn u16_at(&self, at: usize) -> u16 {
        bytes_at(self.head, at).map_or(0, u16::from_be_bytes)
    }

    #[inline(always)]
    fn u32_at(&self, at: usize) -> u32 {
        bytes_at(self.head, at).map_or(0, u32::from_be_bytes)
    }

    #[inline(always)]
    fn u64_at(&self, at: usize) -> u64 {
        bytes_at(self.head, at).map_or(0, u64::from_be_bytes)
    }

    /// A MAC address, in the upper bits.
    #[inline(always)]
    fn mac_at(&self, at: usize) -> u64 {
        self.u64_at(at) & !0xffff
    }

    /// A tag's TCI.
    #[inline(always)]
    fn tci_at(&self, at: usize) -> u64 {
        u64::from(self.u16_at(at) | VLAN_PRESENT)
    }
}

/// One or two tags before IP. False: something else; the key is as it was.
#[inline(never)]
fn tagged(frame: &Frame<'_>, key: &mut PacketKey) -> bool {
    let one = Tags {
        outer: frame.tci_at(14),
        inner: 0,
        tpids: u64::from(frame.u16_at(12)) << 48,
    };
    match frame.u16_at(16) {
        inner @ (TPID_8021Q | TPID_8021AD) => {
            let two = Tags {
                inner: frame.tci_at(18),
                tpids: one.tpids | u64::from(inner) << 32,
                ..one
            };
            usual::<22>(frame, two, frame.u16_at(20), key)
        }
        dl_type => usual::<18>(frame, one, dl_type, key),
    }
}

/// TCP or UDP, right behind IP, which begins at `L3`. False: something else;
/// the key is as it was.
#[inline(always)]
fn usual<const L3: usize>(
    frame: &Frame<'_>,
    tags: Tags,
    dl_type: u16,
    key: &mut PacketKey,
) -> bool {
    match dl_type {
        IPV4 => usual_ipv4::<L3>(frame, tags, key),
        IPV6 => usual_ipv6::<L3>(frame, tags, key),
        _ => false,
    }
}

#[inline(always)]
fn usual_ipv4<const L3: usize>(frame: &Frame<'_>, tags: Tags, key: &mut PacketKey) -> bool {
    if frame.len < L3 + 28 {
        return false;
    }
    // Version, IHL, TOS, total length, identification, flags and offset.
    let first = frame.u64_at(L3);
    let no_options_no_fragment = first & 0x0f00_0000_0000_3fff == 0x0500_0000_0000_0000;
    let total = usize::from((first >> 32) as u16);
    let padding = (frame.frame_len - L3).wrapping_sub(total);
    if !no_options_no_fragment || padding > 0xffff {
        return false;
    }
    let (tos, ttl_proto) = (first >> 48 & 0xff, frame.u16_at(L3 + 8));
    let proto = ttl_proto as u8;
    let Some(transport) = usual_transport(frame, L3 + 20, total.wrapping_sub(20), proto) else {
        return false;
    };
    *key = PacketKey([
        frame.word0 | u64::from(IPV4) << 16 | u64::from(proto),
        frame.mac_at(0) | tags.outer,
        frame.mac_at(6) | tags.inner,
        frame.u64_at(L3 + 12),
        transport | tos << 8 | u64::from(ttl_proto >> 8),
        tags.tpids,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    true
}

#[inline(never)]
fn usual_ipv6<const L3: usize>(frame: &Frame<'_>, tags: Tags, key: &mut PacketKey) -> bool {
    if frame.len < L3 + 48 {
        return false;
    }
    // Version, traffic class, label, payload length, next header, hop limit.
    let first = frame.u64_at(L3);
    let payload = usize::from((first >> 16) as u16);
    let padding = (frame.frame_len - L3 - 40).wrapping_sub(payload);
    if padding > 0xffff {
        return false;
    }
    let (class, label) = (first >> 52 & 0xff, first >> 32 & 0xf_ffff);
    let proto = (first >> 8) as u8;
    let Some(transport) = usual_transport(frame, L3 + 40, payload, proto) else {
        return false;
    };
    *key = PacketKey([
        frame.word0 | u64::from(IPV6) << 16 | u64::from(proto),
        frame.mac_at(0) | tags.outer,
        frame.mac_at(6) | tags.inner,
        0,
        transport | class << 8 | first & 0xff,
        tags.tpids | label,
        0,
        0,
        frame.u64_at(L3 + 8),
        frame.u64_at(L3 + 16),
        frame.u64_at(L3 + 24),
        frame.u64_at(L3 + 32),
        0,
        0,
    ]);
    true
}

/// Ports and flags of word 4, from a header at `l4` of a packet of `size`
/// bytes (beyond 65535: fewer than none). Eight of them are within the head.
#[inline(always)]
fn usual_transport(frame: &Frame<'_>, l4: usize, size: usize, proto: u8) -> Option<u64> {
    if size > 0xffff {
        return None;
    }
    let ports = u64::from(frame.u32_at(l4)) << 32;
    match proto {
        PROTO_TCP if size >= 20 && frame.len >= l4 + 20 => {
            let offset_flags = frame.u16_at(l4 + 12);
            let header_len = usize::from(offset_flags >> 12) * 4;
            let whole = header_len >= 20 && header_len <= size;
            whole.then_some(ports | u64::from(offset_flags & 0xfff) << 16)
        }
        PROTO_UDP if size >= 8 => Some(ports),
        _ => None,
    }
}

/// Any frame.
#[cold]
#[inline(never)]
fn unusual(frame: &Frame<'_>, key: &mut PacketKey) {
    *key = PacketKey::default();
    let words = &mut key.0;
    words[0] = frame.word0;
    let head = frame.head.get(..frame.len).unwrap_or(frame.head);
    let mut layout = Layout::NONE;
    if !layout.find(head, frame.frame_len) {
        return;
    }
    words[0] |= u64::from(layout.dl_type) << 16;
    words[1] = frame.mac_at(0);
    words[2] = frame.mac_at(6);
    if layout.tags > 0 {
        words[1] |= frame.tci_at(14);
        words[5] = u64::from(frame.u16_at(12)) << 48;
    }
    if layout.tags > 1 {
        words[2] |= frame.tci_at(18);
        words[5] |= u64::from(frame.u16_at(16)) << 32;
    }
    let l3 = layout.l3;
    match layout.network {
        Network::None => return,
        Network::Arp => {
            // Only opcodes of eight bits can be matched.
            let opcode = u64::from(frame.u16_at(l3 + 6));
            words[0] |= if opcode <= 0xff { opcode } else { 0 };
            words[3] = u64::from(frame.u32_at(l3 + 14)) << 32 | u64::from(frame.u32_at(l3 + 24));
            words[6] = frame.mac_at(l3 + 8);
            words[7] = frame.mac_at(l3 + 18);
            return;
        }
        Network::Ipv4 => {
            words[3] = frame.u64_at(l3 + 12);
            words[4] = frame.u64_at(l3) >> 40 & 0xff00 | u64::from(frame.u16_at(l3 + 8) >> 8);
        }
        Network::Ipv6 | Network::Ipv6Addresses => {
            for i in 0..4 {
                words[8 + i] = frame.u64_at(l3 + 8 + 8 * i);
            }
            if layout.network == Network::Ipv6Addresses {
                return;
            }
            let first = frame.u64_at(l3);
            words[4] = first >> 44 & 0xff00 | first & 0xff;
            words[5] |= first >> 32 & 0xf_ffff;
        }
    }
    let payload = &layout.payload;
    words[0] |= u64::from(payload.frag) << 8 | u64::from(payload.proto);
    let ports = u64::from(frame.u32_at(payload.l4)) << 32;
    // Type and code are bytes, each at the lower end of a port's place.
    let type_code = ports >> 8 & 0xff << 48 | ports >> 16 & 0xff << 32;
    match payload.transport {
        Transport::None => {}
        Transport::Tcp => {
            let flags = u64::from(frame.u16_at(payload.l4 + 12) & 0xfff);
            words[4] |= ports | flags << 16;
        }
        Transport::Udp | Transport::Sctp => words[4] |= ports,
        Transport::Icmp | Transport::Icmpv6 => words[4] |= type_code,
        Transport::Nd => {
            words[4] |= type_code;
            let nd = layout.nd(head);
            if let Some(at) = nd.target {
                words[12] = frame.u64_at(at);
                words[13] = frame.u64_at(at + 8);
            }
            let mac = |at: Option<usize>| match at.and_then(|at| bytes_at::<6>(head, at)) {
                Some([a, b, c, d, e, f]) => u64::from_be_bytes([a, b, c, d, e, f, 0, 0]),
                None => 0,
            };
            words[6] = mac(nd.sll);
            words[7] = mac(nd.tll);
        }
    }
}
