//! Keys → frames, as Open vSwitch's `flow_compose` makes them: what `trace
//! --generate` sends, and what tests send.
//!
//! `extract(compose(key)) == key` for keys that a frame can have. In other
//! keys, what a frame of their `dl_type` and `nw_proto` cannot carry is left
//! out. Lengths and checksums are right. Three things are done that Open
//! vSwitch leaves out: SCTP checksums, fragment headers of IPv6, and tags of
//! frames without an EtherType.

#[cfg(any(test, feature = "test-utils"))]
pub mod arbitrary;
#[cfg(test)]
mod tests;

use crate::extract::layout::{
    FRAG_ANY, FRAG_LATER, FRAGMENT, ND_ADVERT, ND_SOLICIT, ND_SOURCE, ND_TARGET, PROTO_ICMP,
    PROTO_ICMPV6, PROTO_IGMP, PROTO_SCTP, PROTO_TCP, PROTO_UDP,
};
use crate::extract::{ARP, DL_TYPE_NONE, IPV4, IPV6, RARP, TPID_8021Q, is_tpid};
use crate::key::{PacketKey, VLAN_PRESENT};

/// TCP's FIN, SYN and RST: segments with one of them get no payload.
const FIN_SYN_RST: u16 = 0x007;

/// The smallest frame that has this key.
pub fn compose(key: &PacketKey) -> Vec<u8> {
    compose_with_payload(key, &[])
}

/// A frame that has this key and, where TCP, UDP or an ICMP echo can hold it,
/// this payload (no more than 65000 bytes of it).
pub fn compose_with_payload(key: &PacketKey, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..65_000).unwrap_or(payload);
    let fields = Fields(&key.0);
    let mut frame = Vec::with_capacity(128 + payload.len());
    frame.extend(&fields.bytes::<8>(1)[..6]);
    frame.extend(&fields.bytes::<8>(2)[..6]);
    for (word, shift) in [(1, 48), (2, 32)] {
        let tci = fields.u16(word, 0);
        if tci & VLAN_PRESENT != 0 {
            let tpid = Some(fields.u16(5, shift)).filter(|tpid| is_tpid(*tpid));
            frame.extend(tpid.unwrap_or(TPID_8021Q).to_be_bytes());
            frame.extend((tci & !VLAN_PRESENT).to_be_bytes());
        }
    }
    let dl_type = fields.u16(0, 16);
    match dl_type {
        // A length: nothing follows, not even an LLC header.
        DL_TYPE_NONE => frame.extend([0, 0]),
        _ => frame.extend(dl_type.to_be_bytes()),
    }
    match dl_type {
        IPV4 => fields.ipv4(&mut frame, payload),
        IPV6 => fields.ipv6(&mut frame, payload),
        ARP | RARP => fields.arp(&mut frame),
        _ => {}
    }
    frame
}

/// A key's words.
struct Fields<'a>(&'a [u64; 14]);

impl Fields<'_> {
    fn u16(&self, word: usize, shift: u32) -> u16 {
        (self.0[word] >> shift) as u16
    }

    fn u8(&self, word: usize, shift: u32) -> u8 {
        (self.0[word] >> shift) as u8
    }

    /// `N / 8` words from `word` on.
    fn bytes<const N: usize>(&self, word: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[word + i / 8].to_be_bytes()[i % 8])
    }

    fn arp(&self, frame: &mut Vec<u8>) {
        frame.extend([0, 1, 8, 0, 6, 4, 0, self.u8(0, 0)]);
        let addresses = self.bytes::<8>(3);
        frame.extend(&self.bytes::<8>(6)[..6]);
        frame.extend(&addresses[..4]);
        frame.extend(&self.bytes::<8>(7)[..6]);
        frame.extend(&addresses[4..]);
    }

    fn ipv4(&self, frame: &mut Vec<u8>, payload: &[u8]) {
        let proto = self.u8(0, 0);
        let addresses = self.bytes::<8>(3);
        let transport = self.transport(payload, || {
            let pseudo = [&addresses[..], &[0, proto]].concat();
            sum(&pseudo)
        });
        // As in Open vSwitch: a later fragment begins at 100 times 8 bytes.
        let fragment: u16 = match self.frag() {
            frag if frag & FRAG_ANY == 0 => 0,
            frag if frag & FRAG_LATER == 0 => 0x2000,
            _ => 0x2000 | 100,
        };
        let length = (20 + transport.len()) as u16;
        let mut header = [0; 20];
        header[0] = 0x45;
        header[1] = self.u8(4, 8);
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[8] = self.u8(4, 0);
        header[9] = proto;
        header[12..].copy_from_slice(&addresses);
        let checksum = finish(sum(&header));
        header[10..12].copy_from_slice(&checksum);
        frame.extend(header);
        frame.extend(transport);
    }

    fn ipv6(&self, frame: &mut Vec<u8>, payload: &[u8]) {
        let proto = self.u8(0, 0);
        let addresses = self.bytes::<32>(8);
        let transport = self.transport(payload, || {
            let pseudo = [&addresses[..], &[0, proto]].concat();
            sum(&pseudo)
        });
        let frag = self.frag();
        let fragment: &[u8] = match frag & FRAG_ANY {
            0 => &[],
            // 100 times 8 bytes, more follow.
            _ if frag & FRAG_LATER != 0 => &[59, 0, 3, 0x21, 0, 0, 0, 1],
            _ => &[proto, 0, 0, 1, 0, 0, 0, 1],
        };
        let next = match fragment {
            [] => proto,
            _ => FRAGMENT,
        };
        let class = u32::from(self.u8(4, 8)) << 20;
        let label = self.0[5] as u32 & 0xf_ffff;
        frame.extend((6 << 28 | class | label).to_be_bytes());
        frame.extend(((fragment.len() + transport.len()) as u16).to_be_bytes());
        frame.extend([next, self.u8(4, 0)]);
        frame.extend(addresses);
        frame.extend(fragment);
        frame.extend(transport);
    }

    fn frag(&self) -> u8 {
        self.u8(0, 8)
    }

    /// What IP carries. `pseudo` sums up addresses and protocol.
    fn transport(&self, payload: &[u8], pseudo: impl Fn() -> u64) -> Vec<u8> {
        if self.frag() == FRAG_ANY | FRAG_LATER {
            return Vec::new();
        }
        let ports = self.0[4].to_be_bytes();
        let ports = &ports[..4];
        let (kind, code) = (self.u8(4, 48), self.u8(4, 32));
        // Where the checksum is, and whether it covers the pseudo header.
        let (mut bytes, at, with_pseudo) = match self.u8(0, 0) {
            PROTO_TCP => {
                let flags = self.u16(4, 16) & 0xfff;
                let mut tcp = [ports, &[0; 8], &(5 << 12 | flags).to_be_bytes(), &[0; 6]].concat();
                if flags & FIN_SYN_RST == 0 {
                    tcp.extend(payload);
                }
                (tcp, 16, true)
            }
            PROTO_UDP => {
                let length = (8 + payload.len()) as u16;
                let udp = [ports, &length.to_be_bytes(), &[0, 0], payload].concat();
                (udp, 6, true)
            }
            PROTO_SCTP => {
                let mut sctp = [ports, &[0; 8]].concat();
                let checksum = crc32c(&sctp);
                sctp[8..].copy_from_slice(&checksum.to_le_bytes());
                return sctp;
            }
            PROTO_ICMP => {
                let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
                if matches!((kind, code), (0 | 8, 0)) {
                    icmp.extend(payload);
                }
                (icmp, 2, false)
            }
            PROTO_IGMP => (vec![kind, code, 0, 0, 0, 0, 0, 0], 2, false),
            PROTO_ICMPV6 => {
                let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
                match (kind, code) {
                    (128 | 129, 0) => icmp.extend(payload),
                    (ND_SOLICIT | ND_ADVERT, 0) => self.nd(&mut icmp),
                    _ => {}
                }
                (icmp, 2, true)
            }
            _ => return Vec::new(),
        };
        let length = bytes.len() as u64;
        let pseudo = if with_pseudo { pseudo() + length } else { 0 };
        let mut checksum = finish(pseudo + sum(&bytes));
        if self.u8(0, 0) == PROTO_UDP && checksum == [0, 0] {
            checksum = [0xff, 0xff];
        }
        bytes[at..at + 2].copy_from_slice(&checksum);
        bytes
    }

    /// Target and options of neighbour discovery.
    fn nd(&self, icmp: &mut Vec<u8>) {
        icmp.extend(self.bytes::<16>(12));
        for (word, option) in [(6, ND_SOURCE), (7, ND_TARGET)] {
            let mac = &self.bytes::<8>(word)[..6];
            if mac != [0; 6] {
                icmp.extend([option, 1]);
                icmp.extend(mac);
            }
        }
    }
}

/// RFC 1071: words of 16 bits, added up.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u64::from(u16::from_be_bytes([high, low])),
        [high] => u64::from(high) << 8,
        _ => 0,
    });
    words.sum()
}

/// The checksum that makes a sum complete.
fn finish(mut sum: u64) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => crc >> 1 ^ 0x82f6_3b78,
        })
    })
}
