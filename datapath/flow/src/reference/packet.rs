//! A packet as the model keeps it: addresses, tags, the rest, and the key.
//!
//! Frames are taken to be well formed: what the key says is there.

use crate::extract::extract_slice;
use crate::field::Field;
use crate::key::FlowKey;

#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// What is known of it, metadata and registers too.
    pub(super) key: FlowKey,
    /// TPID and TCI (without the bit that says that there is one), the
    /// outermost first.
    pub(super) tags: Vec<(u16, u16)>,
    macs: [u8; 12],
    /// From the EtherType on (behind the tags that the key shows).
    rest: Vec<u8>,
}

/// Where headers are in `rest`.
struct Places {
    /// The network header.
    l3: usize,
    /// The transport header, its protocol, and where the packet ends.
    l4: usize,
    proto: u8,
    end: usize,
}

impl Packet {
    pub(super) fn new(frame: &[u8], in_port: u16) -> Self {
        let key = extract_slice(frame, 0, in_port).to_flow();
        let mut macs = [0; 12];
        macs.copy_from_slice(&frame[..12]);
        let mut rest = frame[12..].to_vec();
        let mut tags = Vec::new();
        for word in [1, 2] {
            if key.0[word] & 0x1000 != 0 {
                let four: Vec<_> = rest.drain(..4).collect();
                let number = |at: usize| u16::from_be_bytes([four[at], four[at + 1]]);
                tags.push((number(0), number(2)));
            }
        }
        Self {
            key,
            tags,
            macs,
            rest,
        }
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        let mut frame = self.macs.to_vec();
        for (tpid, tci) in &self.tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        frame.extend(&self.rest);
        frame
    }

    pub(super) fn in_port(&self) -> u16 {
        Field::InPort.get(&self.key) as u16
    }

    pub(super) fn push_tag(&mut self, tpid: u16, tci: u16) {
        self.tags.insert(0, (tpid, tci));
        self.show_tags();
    }

    pub(super) fn pop_tag(&mut self) {
        if !self.tags.is_empty() {
            self.tags.remove(0);
        }
        self.show_tags();
    }

    /// Writes the outer tag's TCI; `make`: makes one if there is none.
    pub(super) fn write_tci(&mut self, value: u16, mask: u16, make: bool) {
        if self.tags.is_empty() && make {
            self.tags.push((0x8100, 0));
        }
        if let Some((_, tci)) = self.tags.first_mut() {
            *tci = (*tci & !mask | value & mask) & !0x1000;
        }
        self.show_tags();
    }

    fn show_tags(&mut self) {
        for place in 0..2 {
            let (tpid, tci) = match self.tags.get(place) {
                Some((tpid, tci)) => (*tpid, *tci | 0x1000),
                None => (0, 0),
            };
            let tci_word = &mut self.key.0[1 + place];
            *tci_word = *tci_word & !0xffff | u64::from(tci);
            let shift = 48 - 16 * place;
            self.key.0[5] = self.key.0[5] & !(0xffff << shift) | u64::from(tpid) << shift;
        }
    }

    /// Writes a field that the packet has.
    pub(super) fn write(&mut self, field: Field, value: u128, mask: u128) {
        let mask = mask & field.ones();
        match field {
            Field::VlanTci | Field::VlanVid | Field::VlanPcp => {
                let shift = field.info().shift;
                let (value, mask) = ((value << shift) as u16, (mask << shift) as u16);
                if mask & 0x1000 != 0 && value & 0x1000 == 0 {
                    self.tags.clear();
                    self.show_tags();
                } else {
                    self.write_tci(value, mask, mask & 0x1000 != 0);
                }
                return;
            }
            Field::IpTos => field.set_masked(&mut self.key, value, mask & 0xfc),
            _ => field.set_masked(&mut self.key, value, mask),
        }
        self.write_bytes(field);
    }

    /// Brings the frame's bytes of a field to what the key says.
    fn write_bytes(&mut self, field: Field) {
        let value = field.get(&self.key);
        let bytes = value.to_be_bytes();
        let mac = &bytes[10..];
        let v6 = u16::from_be_bytes([self.rest[0], self.rest[1]]) == 0x86dd;
        let places = self.places();
        let l3 = places.l3;
        match field {
            Field::EthDst => self.macs[..6].copy_from_slice(mac),
            Field::EthSrc => self.macs[6..].copy_from_slice(mac),
            Field::IpSrc => self.put(l3 + 12, &bytes[12..]),
            Field::IpDst => self.put(l3 + 16, &bytes[12..]),
            Field::Ipv6Src => self.put(l3 + 8, &bytes),
            Field::Ipv6Dst => self.put(l3 + 24, &bytes),
            Field::Ipv6Label => {
                self.rest[l3 + 1] = self.rest[l3 + 1] & 0xf0 | bytes[13];
                self.put(l3 + 2, &bytes[14..]);
            }
            Field::IpTos | Field::IpDscp | Field::IpEcn => {
                let tos = (self.key.0[4] >> 8) as u8;
                if v6 {
                    self.rest[l3] = 0x60 | tos >> 4;
                    self.rest[l3 + 1] = tos << 4 | self.rest[l3 + 1] & 0x0f;
                } else {
                    self.rest[l3 + 1] = tos;
                }
            }
            Field::IpTtl => self.rest[l3 + if v6 { 7 } else { 8 }] = bytes[15],
            Field::ArpOp => self.put(l3 + 6, &bytes[14..]),
            Field::ArpSha => self.put(l3 + 8, mac),
            Field::ArpSpa => self.put(l3 + 14, &bytes[12..]),
            Field::ArpTha => self.put(l3 + 18, mac),
            Field::ArpTpa => self.put(l3 + 24, &bytes[12..]),
            Field::TcpSrc | Field::UdpSrc => self.put(places.l4, &bytes[14..]),
            Field::TcpDst | Field::UdpDst => self.put(places.l4 + 2, &bytes[14..]),
            Field::IcmpType | Field::Icmpv6Type => self.put(places.l4, &bytes[15..]),
            Field::IcmpCode | Field::Icmpv6Code => self.put(places.l4 + 1, &bytes[15..]),
            Field::NdTarget => self.put(places.l4 + 8, &bytes),
            Field::NdSll => self.put_option(&places, 1, mac),
            Field::NdTll => self.put_option(&places, 2, mac),
            // Metadata, registers, in_port: not in the frame.
            _ => {}
        }
        self.sum_up();
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.rest[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A link-layer address of neighbour discovery, if its option is there.
    fn put_option(&mut self, places: &Places, kind: u8, mac: &[u8]) {
        let mut at = places.l4 + 24;
        while at + 8 <= places.end {
            if self.rest[at] == kind {
                self.put(at + 2, mac);
                return;
            }
            at += 8 * usize::from(self.rest[at + 1]).max(1);
        }
    }

    fn places(&self) -> Places {
        let rest = &self.rest;
        let number = |at: usize| usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
        let nothing = Places {
            l3: 2,
            l4: rest.len(),
            proto: 0,
            end: rest.len(),
        };
        match number(0) {
            0x0800 => Places {
                l3: 2,
                l4: 2 + 4 * usize::from(rest[2] & 0x0f),
                proto: rest[2 + 9],
                end: 2 + number(4),
            },
            0x86dd => {
                let (mut proto, mut l4) = (rest[2 + 6], 2 + 40);
                let end = l4 + number(2 + 4);
                // Only fragment headers stand before what compose makes.
                while proto == 44 {
                    proto = rest[l4];
                    l4 += 8;
                }
                Places {
                    l3: 2,
                    l4,
                    proto,
                    end,
                }
            }
            _ => nothing,
        }
    }

    /// Computes all checksums anew.
    fn sum_up(&mut self) {
        let Places { l3, l4, proto, end } = self.places();
        let v4 = match self.rest[..2] {
            [0x08, 0x00] => true,
            [0x86, 0xdd] => false,
            _ => return,
        };
        if v4 {
            self.put(l3 + 10, &[0, 0]);
            let sum = checksum(&self.rest[l3..l4]);
            self.put(l3 + 10, &sum);
        }
        let field = match (proto, v4) {
            (6, _) => l4 + 16,
            (17, _) => l4 + 6,
            (1, true) | (58, false) => l4 + 2,
            _ => return,
        };
        if Field::IpFrag.get(&self.key) & 2 != 0 || field + 2 > end {
            return;
        }
        if proto == 17 && self.rest[field..field + 2] == [0, 0] {
            return;
        }
        self.put(field, &[0, 0]);
        let mut covered = Vec::new();
        if proto != 1 {
            let addresses = if v4 {
                l3 + 12..l3 + 20
            } else {
                l3 + 8..l3 + 40
            };
            covered.extend(&self.rest[addresses]);
            covered.extend([0, proto]);
            covered.extend(((end - l4) as u16).to_be_bytes());
        }
        covered.extend(&self.rest[l4..end]);
        let mut sum = checksum(&covered);
        if proto == 17 && sum == [0, 0] {
            sum = [0xff, 0xff];
        }
        self.put(field, &sum);
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
