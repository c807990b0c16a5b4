//! Strategies: keys that frames can have, for property tests.

use proptest::prelude::*;

use crate::extract::layout::{
    AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ND_ADVERT, ND_SOLICIT, PROTO_ICMP,
    PROTO_ICMPV6, PROTO_IGMP, PROTO_SCTP, PROTO_TCP, PROTO_UDP, ROUTING,
};
use crate::extract::{ARP, DL_TYPE_NONE, IPV4, IPV6, RARP, TPID_8021AD, TPID_8021Q};
use crate::key::{PACKET_WORDS, PacketKey, VLAN_PRESENT};

/// Any key that a frame can have: bridge and port any, up to two tags, every
/// kind of packet that is looked into, and others.
pub fn packet_key() -> impl Strategy<Value = PacketKey> {
    (shape(), any::<[u64; PACKET_WORDS]>()).prop_map(|(shape, words)| shape.key(words))
}

/// The same, but each byte of a field (type, TPIDs, protocol and a lot of
/// ICMP types excepted) is 0 or 1, so that keys meet rules and each other.
pub fn packet_key_of_few() -> impl Strategy<Value = PacketKey> {
    (shape(), any::<[u64; PACKET_WORDS]>()).prop_map(|(shape, words)| {
        let few = words.map(|word| word & 0x0101_0101_0101_0101);
        shape.key(few)
    })
}

/// What decides which fields there are.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Of the tags, at most two.
    pub tpids: Vec<u16>,
    /// As in the key; no TPID and no length but [`DL_TYPE_NONE`].
    pub dl_type: u16,
    /// `nw_proto`; one that cannot be is made another.
    pub proto: u8,
    /// `nw_frag`: 0, 1 or 3.
    pub frag: u8,
    /// For ICMPv6: type and code, if it is to be neighbour discovery.
    pub nd: Option<u8>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let tpid = prop_oneof![3 => Just(TPID_8021Q), 1 => Just(TPID_8021AD)];
    let dl_type = prop_oneof![
        8 => Just(IPV4),
        6 => Just(IPV6),
        3 => Just(ARP),
        1 => Just(RARP),
        1 => Just(DL_TYPE_NONE),
        1 => Just(0x8847),
        1 => 0x9000..0xa000u16,
    ];
    let frag = prop_oneof![6 => Just(0u8), 1 => Just(1), 1 => Just(3)];
    let proto = prop_oneof![
        4 => Just(PROTO_TCP),
        4 => Just(PROTO_UDP),
        1 => Just(PROTO_SCTP),
        // ICMP or ICMPv6, as it fits.
        3 => Just(PROTO_ICMP),
        1 => Just(PROTO_IGMP),
        1 => any::<u8>(),
    ];
    let nd = proptest::option::of(prop_oneof![Just(ND_SOLICIT), Just(ND_ADVERT)]);
    let tpids = proptest::collection::vec(tpid, 0..=2);
    (tpids, dl_type, proto, frag, nd).prop_map(|(tpids, dl_type, proto, frag, nd)| Shape {
        tpids,
        dl_type,
        proto,
        frag,
        nd,
    })
}

impl Shape {
    /// Takes out of `words` what such a packet has.
    pub fn key(self, words: [u64; PACKET_WORDS]) -> PacketKey {
        const MAC: u64 = !0xffff;
        let mut key = [0; PACKET_WORDS];
        key[0] = words[0] & 0xffff_ffff << 32 | u64::from(self.dl_type) << 16;
        key[1] = words[1] & MAC;
        key[2] = words[2] & MAC;
        for (i, tpid) in self.tpids.iter().enumerate() {
            key[1 + i] = words[1 + i] | u64::from(VLAN_PRESENT);
            key[5] |= u64::from(*tpid) << (48 - 16 * i);
        }
        let proto = match (self.dl_type, self.proto) {
            (IPV6, _) if self.frag == 3 => FRAGMENT,
            (IPV6, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) => 59,
            (IPV6, PROTO_ICMP | PROTO_IGMP) => PROTO_ICMPV6,
            (IPV4, PROTO_ICMPV6) => PROTO_ICMP,
            (_, proto) => proto,
        };
        match self.dl_type {
            ARP | RARP => {
                key[0] |= u64::from(words[0] as u8);
                key[3] = words[3];
                key[6] = words[6] & MAC;
                key[7] = words[7] & MAC;
            }
            IPV4 | IPV6 => {
                key[0] |= u64::from(self.frag) << 8 | u64::from(proto);
                key[4] = words[4] & 0xffff;
                if self.dl_type == IPV4 {
                    key[3] = words[3];
                } else {
                    key[5] |= words[5] & 0xf_ffff;
                    key[8..12].copy_from_slice(&words[8..12]);
                }
                if self.frag != 3 {
                    self.transport(proto, &words, &mut key);
                }
            }
            _ => {}
        }
        PacketKey(key)
    }

    fn transport(self, proto: u8, words: &[u64; PACKET_WORDS], key: &mut [u64; PACKET_WORDS]) {
        const PORTS: u64 = 0xffff_ffff << 32;
        const TYPE_CODE: u64 = 0x00ff_00ff << 32;
        match (proto, self.nd) {
            (PROTO_TCP, _) => key[4] |= words[4] & (PORTS | 0xfff << 16),
            (PROTO_UDP | PROTO_SCTP, _) => key[4] |= words[4] & PORTS,
            (PROTO_ICMP | PROTO_IGMP, _) => key[4] |= words[4] & TYPE_CODE,
            (PROTO_ICMPV6, Some(kind)) => {
                key[4] |= u64::from(kind) << 48;
                key[6] = words[6] & !0xffff;
                key[7] = words[7] & !0xffff;
                key[12..].copy_from_slice(&words[12..]);
            }
            (PROTO_ICMPV6, None) => {
                key[4] |= words[4] & TYPE_CODE;
                let kind = (words[4] >> 48) as u8;
                if matches!(kind, ND_SOLICIT | ND_ADVERT) {
                    key[4] |= 1 << 32;
                }
            }
            _ => {}
        }
    }
}
