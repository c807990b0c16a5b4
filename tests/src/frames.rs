//! Frames put together field by field, with checksums computed in the plainest
//! way: what comes out of the switch is compared with what these make.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Length of `virtio_net_hdr`.
const VNET: usize = ringway_frontend::net::HEADER_LEN;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
const NEEDS_CSUM: u8 = 1;

/// A MAC address whose last byte tells whose it is.
pub const fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

/// An Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
    /// VLAN tags: TPID and TCI, outermost first.
    pub tags: Vec<(u16, u16)>,
    /// What it carries.
    pub body: Body,
    /// Bytes behind it, as padding to the shortest length is.
    pub padding: usize,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// An Ethernet type and its payload.
    Other(u16, Vec<u8>),
    /// An ARP packet.
    Arp(Arp),
    /// An IPv4 packet.
    V4(V4),
    /// An IPv6 packet.
    V6(V6),
}

/// An ARP packet over Ethernet and IPv4 (RFC 826).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 asks, 2 answers.
    pub op: u16,
    /// Sender's MAC address.
    pub sha: [u8; 6],
    /// Sender's IP address.
    pub spa: Ipv4Addr,
    /// Target's MAC address.
    pub tha: [u8; 6],
    /// Target's IP address.
    pub tpa: Ipv4Addr,
}

/// An IPv4 packet (RFC 791).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V4 {
    /// DSCP and ECN.
    pub tos: u8,
    /// Flags and offset of a fragment.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// What it carries.
    pub payload: Payload,
}

/// An IPv6 packet (RFC 8200).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V6 {
    /// Traffic class.
    pub class: u8,
    /// Flow label.
    pub label: u32,
    /// Hop limit.
    pub hops: u8,
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// Extension headers: kind and content without the next header's number.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What it carries.
    pub payload: Payload,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// TCP: ports, flags, data.
    Tcp(u16, u16, u16, Vec<u8>),
    /// UDP: ports, data.
    Udp(u16, u16, Vec<u8>),
    /// UDP over IPv4 without a checksum (RFC 768: zero).
    UdpUnchecked(u16, u16, Vec<u8>),
    /// ICMP: type, code, the rest. Over IPv6 it is ICMPv6.
    Icmp(u8, u8, Vec<u8>),
    /// Protocol number and bytes that no checksum of ours covers.
    Other(u8, Vec<u8>),
}

impl Payload {
    fn protocol(&self, v6: bool) -> u8 {
        match self {
            Self::Tcp(..) => 6,
            Self::Udp(..) | Self::UdpUnchecked(..) => 17,
            Self::Icmp(..) if v6 => 58,
            Self::Icmp(..) => 1,
            Self::Other(protocol, _) => *protocol,
        }
    }

    /// Its bytes with zero for the checksum, and where that stands.
    fn unsummed(&self) -> (Vec<u8>, Option<usize>) {
        let mut out = Vec::new();
        match self {
            Self::Tcp(src, dst, flags, data) => {
                out.extend(src.to_be_bytes());
                out.extend(dst.to_be_bytes());
                out.extend([0, 0, 0, 9, 0, 0, 0, 8]);
                out.extend((0x5000 | flags).to_be_bytes());
                out.extend([0x20, 0, 0, 0, 0, 0]);
                out.extend(data);
                (out, Some(16))
            }
            Self::Udp(src, dst, data) | Self::UdpUnchecked(src, dst, data) => {
                out.extend(src.to_be_bytes());
                out.extend(dst.to_be_bytes());
                out.extend((data.len() as u16 + 8).to_be_bytes());
                out.extend([0, 0]);
                out.extend(data);
                (out, matches!(self, Self::Udp(..)).then_some(6))
            }
            Self::Icmp(kind, code, data) => {
                out.extend([*kind, *code, 0, 0]);
                out.extend(data);
                (out, Some(2))
            }
            Self::Other(_, data) => (data.clone(), None),
        }
    }

    /// Its bytes; the checksum covers `pseudo` too, or only that when it is
    /// left partial.
    fn bytes(&self, pseudo: &[u8], partial: bool) -> Vec<u8> {
        let (mut out, at) = self.unsummed();
        if let Some(at) = at {
            let sum = match partial {
                true => sum(pseudo),
                false => whole(!sum(&[pseudo, &out].concat())),
            };
            // ICMP knows no "no checksum", so zero stays zero there.
            let sum = match self {
                Self::Icmp(..) if sum == 0xffff => 0,
                _ => sum,
            };
            out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }
}

/// One's complement sum of 16-bit words (RFC 1071), not inverted.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        total += u32::from(pair[0]) << 8 | u32::from(low);
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Zero is sent as all ones.
fn whole(checksum: u16) -> u16 {
    match checksum {
        0 => 0xffff,
        checksum => checksum,
    }
}

impl Frame {
    /// A frame from station 1 to station 2.
    pub fn new(body: Body) -> Self {
        Self {
            dst: mac(2),
            src: mac(1),
            tags: Vec::new(),
            body,
            padding: 0,
        }
    }

    /// The same, changed.
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut frame = self.clone();
        change(&mut frame);
        frame
    }

    /// The same in a VLAN: one more tag, outermost.
    pub fn tagged(&self, tpid: u16, tci: u16) -> Self {
        self.with(|frame| frame.tags.insert(0, (tpid, tci)))
    }

    /// The same with the IPv4 packet changed.
    pub fn v4(&self, change: impl FnOnce(&mut V4)) -> Self {
        self.with(|frame| match &mut frame.body {
            Body::V4(packet) => change(packet),
            other => panic!("{other:?} is not IPv4"),
        })
    }

    /// The same with the IPv6 packet changed.
    pub fn v6(&self, change: impl FnOnce(&mut V6)) -> Self {
        self.with(|frame| match &mut frame.body {
            Body::V6(packet) => change(packet),
            other => panic!("{other:?} is not IPv6"),
        })
    }

    /// The same with the ARP packet changed.
    pub fn arp(&self, change: impl FnOnce(&mut Arp)) -> Self {
        self.with(|frame| match &mut frame.body {
            Body::Arp(packet) => change(packet),
            other => panic!("{other:?} is not ARP"),
        })
    }

    /// The same with another payload of IP.
    pub fn payload(&self, payload: Payload) -> Self {
        self.with(|frame| match &mut frame.body {
            Body::V4(packet) => packet.payload = payload,
            Body::V6(packet) => packet.payload = payload,
            other => panic!("{other:?} is not IP"),
        })
    }

    /// Its bytes, checksums right.
    pub fn bytes(&self) -> Vec<u8> {
        self.put(false).0
    }

    /// The header and bytes that a guest with checksum offload hands over: the
    /// transport's checksum covers only the pseudo header.
    pub fn partial(&self) -> ([u8; VNET], Vec<u8>) {
        let (bytes, start) = self.put(true);
        let (_, at) = match &self.body {
            Body::V4(packet) => packet.payload.unsummed(),
            Body::V6(packet) => packet.payload.unsummed(),
            _ => (Vec::new(), None),
        };
        let offset = at.expect("a transport with a checksum") as u16;
        let mut header = [0; VNET];
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&(start as u16).to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        (header, bytes)
    }

    /// Its bytes and where the transport header begins.
    fn put(&self, partial: bool) -> (Vec<u8>, usize) {
        let mut out = [self.dst, self.src].concat();
        for (tpid, tci) in &self.tags {
            out.extend(tpid.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        let mut start = 0;
        match &self.body {
            Body::Other(kind, payload) => {
                out.extend(kind.to_be_bytes());
                out.extend(payload);
            }
            Body::Arp(arp) => {
                out.extend([8, 6, 0, 1, 8, 0, 6, 4]);
                out.extend(arp.op.to_be_bytes());
                out.extend(arp.sha);
                out.extend(arp.spa.octets());
                out.extend(arp.tha);
                out.extend(arp.tpa.octets());
            }
            Body::V4(packet) => start = packet.put(&mut out, partial),
            Body::V6(packet) => start = packet.put(&mut out, partial),
        }
        out.resize(out.len() + self.padding, 0);
        (out, start)
    }
}

impl V4 {
    fn put(&self, out: &mut Vec<u8>, partial: bool) -> usize {
        let protocol = self.payload.protocol(false);
        let (unsummed, _) = self.payload.unsummed();
        let mut pseudo = [self.src.octets(), self.dst.octets()].concat();
        pseudo.extend([0, protocol]);
        pseudo.extend((unsummed.len() as u16).to_be_bytes());
        if protocol == 1 {
            pseudo.clear();
        }
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, self.tos];
        bytes.extend(((header + unsummed.len()) as u16).to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, protocol, 0, 0]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        let checksum = !sum(&bytes);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        out.extend([8, 0]);
        out.extend(bytes);
        let start = out.len();
        out.extend(self.payload.bytes(&pseudo, partial));
        start
    }
}

impl V6 {
    fn put(&self, out: &mut Vec<u8>, partial: bool) -> usize {
        let protocol = self.payload.protocol(true);
        let (unsummed, _) = self.payload.unsummed();
        let mut pseudo = [self.src.octets(), self.dst.octets()].concat();
        pseudo.extend((unsummed.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        let mut extensions = Vec::new();
        for (i, (_, content)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(i + 1).map_or(protocol, |next| next.0);
            extensions.push(next);
            extensions.extend(content);
        }
        let first = self.extensions.first().map_or(protocol, |first| first.0);
        let word = 6 << 28 | u32::from(self.class) << 20 | self.label;
        out.extend([0x86, 0xdd]);
        out.extend(word.to_be_bytes());
        out.extend(((extensions.len() + unsummed.len()) as u16).to_be_bytes());
        out.extend([first, self.hops]);
        out.extend(self.src.octets());
        out.extend(self.dst.octets());
        out.extend(extensions);
        let start = out.len();
        out.extend(self.payload.bytes(&pseudo, partial));
        start
    }
}

/// Does what a driver does with a frame whose checksum the switch left partial:
/// sums it from where the header says.
pub fn completed(header: &[u8; VNET], frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if header[0] & NEEDS_CSUM != 0 {
        let start = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let offset = usize::from(u16::from_le_bytes([header[8], header[9]]));
        let checksum = whole(!sum(&frame[start..]));
        let at = start + offset;
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

/// As people and commands write bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// TCP over IPv4: 10.0.0.1 port 1000 to 10.0.0.2 port 80, SYN.
pub fn tcp() -> Frame {
    v4(Payload::Tcp(1000, 80, 0x002, b"some data".to_vec()))
}

/// UDP over IPv4: 10.0.0.1 port 1000 to 10.0.0.2 port 53.
pub fn udp() -> Frame {
    v4(Payload::Udp(1000, 53, b"a question".to_vec()))
}

/// An ICMP echo request.
pub fn icmp() -> Frame {
    v4(Payload::Icmp(8, 0, vec![0, 7, 0, 1, 0xaa, 0xbb]))
}

/// IPv4 with a payload.
pub fn v4(payload: Payload) -> Frame {
    Frame::new(Body::V4(V4 {
        tos: 0,
        fragment: 0,
        ttl: 64,
        src: Ipv4Addr::new(10, 0, 0, 1),
        dst: Ipv4Addr::new(10, 0, 0, 2),
        options: Vec::new(),
        payload,
    }))
}

/// TCP over IPv6, from 2001:db8::1 port 1000 to 2001:db8::2 port 80.
pub fn tcp6() -> Frame {
    v6(Payload::Tcp(1000, 80, 0x010, b"some data".to_vec()))
}

/// UDP over IPv6.
pub fn udp6() -> Frame {
    v6(Payload::Udp(1000, 53, b"a question".to_vec()))
}

/// An ICMPv6 echo request.
pub fn icmp6() -> Frame {
    v6(Payload::Icmp(128, 0, vec![0, 7, 0, 1, 0xaa, 0xbb]))
}

/// A neighbour's address is asked for (type 135) or told (136); RFC 4861.
pub fn neighbour(kind: u8, target: Ipv6Addr, lladdr: [u8; 6]) -> Frame {
    let mut rest = vec![0; 4];
    rest.extend(target.octets());
    // Source link-layer address in a solicitation, target's in an answer.
    rest.extend([if kind == 135 { 1 } else { 2 }, 1]);
    rest.extend(lladdr);
    v6(Payload::Icmp(kind, 0, rest)).v6(|packet| packet.hops = 255)
}

/// IPv6 with a payload.
pub fn v6(payload: Payload) -> Frame {
    Frame::new(Body::V6(V6 {
        class: 0,
        label: 0,
        hops: 64,
        src: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        dst: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
        extensions: Vec::new(),
        payload,
    }))
}

/// 10.0.0.1 asks for 10.0.0.2.
pub fn arp() -> Frame {
    Frame::new(Body::Arp(Arp {
        op: 1,
        sha: mac(1),
        spa: Ipv4Addr::new(10, 0, 0, 1),
        tha: [0; 6],
        tpa: Ipv4Addr::new(10, 0, 0, 2),
    }))
}

/// An Ethernet type that means nothing to the switch.
pub fn plain() -> Frame {
    Frame::new(Body::Other(0x88b5, (0..46).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_rfc() {
        // RFC 1071's example.
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        let bytes = udp().bytes();
        assert_eq!(sum(&bytes[14..34]), 0xffff);
        let pseudo = [&bytes[26..34], &[0, 17, 0, 18], &bytes[34..]].concat();
        assert_eq!(sum(&pseudo), 0xffff);
    }

    #[test]
    fn a_partial_checksum_completes_to_the_whole_one() {
        for frame in [tcp(), udp(), tcp6(), udp6(), tcp().tagged(0x8100, 5)] {
            let (header, bytes) = frame.partial();
            assert_ne!(bytes, frame.bytes());
            assert_eq!(completed(&header, &bytes), frame.bytes());
        }
    }
}
