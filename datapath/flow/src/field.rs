//! The fields that rules match and actions write: names, place in the key,
//! prerequisites. One row of [`FIELDS`] is all there is to say of a field.
//!
//! Names and prerequisites are Open vSwitch's (ovs-fields(7)).

use crate::key::FlowKey;

/// What a packet must be for a field to have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prereq {
    /// Nothing.
    None,
    /// A VLAN tag.
    Vlan,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// IPv4 or IPv6.
    Ip,
    /// ARP (or RARP).
    Arp,
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP over IPv4 or IPv6.
    Udp,
    /// SCTP over IPv4 or IPv6.
    Sctp,
    /// ICMP over IPv4.
    Icmp,
    /// ICMPv6.
    Icmpv6,
    /// Neighbour solicitation or advertisement.
    Nd,
    /// Neighbour solicitation.
    NdSolicit,
    /// Neighbour advertisement.
    NdAdvert,
}

/// How values are written and read in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Decimal, `0x` accepted.
    Decimal,
    /// `0x…`, decimal accepted.
    Hex,
    /// `aa:bb:cc:dd:ee:ff`
    Mac,
    /// `192.0.2.1`
    Ipv4,
    /// `2001:db8::1`
    Ipv6,
    /// A port's number or name, or a reserved port's name.
    Port,
    /// `no`, `yes`, `first`, `later`, `not_later`
    Frag,
    /// `+syn-ack`, or a number
    TcpFlags,
}

/// How a field may be masked in a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maskable {
    /// Any bits.
    Any,
    /// All bits or none.
    Never,
}

/// One field.
#[derive(Debug)]
pub struct FieldInfo {
    /// Which one.
    pub field: Field,
    /// The name that ovs-ofctl prints in matches and `set_field`.
    pub name: &'static str,
    /// Other names that are accepted.
    pub aliases: &'static [&'static str],
    /// Name in `load` and `move` (NXM or OXM), for printing; both are accepted.
    pub nxm: &'static str,
    /// First word; a field of 128 bits goes on in the next.
    pub word: u8,
    /// Lowest bit in the word.
    pub shift: u8,
    /// Bits.
    pub width: u8,
    /// Its prerequisite.
    pub prereq: Prereq,
    /// Masks.
    pub maskable: Maskable,
    /// Whether actions may write it.
    pub writable: bool,
    /// Text form.
    pub form: Form,
}

macro_rules! fields {
    ($($field:ident $name:literal [$($alias:literal),*] $nxm:literal
       @ $word:literal : $shift:literal + $width:literal
       $prereq:ident $maskable:ident $writable:literal $form:ident;)*) => {
        /// A field.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs)] // The rows of FIELDS say what they are.
        pub enum Field { $($field,)* }

        /// Every field, in the enum's order.
        pub const FIELDS: &[FieldInfo] = &[$(FieldInfo {
            field: Field::$field, name: $name, aliases: &[$($alias),*], nxm: $nxm,
            word: $word, shift: $shift, width: $width,
            prereq: Prereq::$prereq, maskable: Maskable::$maskable, writable: $writable,
            form: Form::$form,
        },)*];
    };
}

fields! {
    // The order is the one in which ovs-ofctl prints a match, roughly.
    Reg0  "reg0"  [] "NXM_NX_REG0"  @ 16:32+32 None Any true Hex;
    Reg1  "reg1"  [] "NXM_NX_REG1"  @ 16:0+32  None Any true Hex;
    Reg2  "reg2"  [] "NXM_NX_REG2"  @ 17:32+32 None Any true Hex;
    Reg3  "reg3"  [] "NXM_NX_REG3"  @ 17:0+32  None Any true Hex;
    Reg4  "reg4"  [] "NXM_NX_REG4"  @ 18:32+32 None Any true Hex;
    Reg5  "reg5"  [] "NXM_NX_REG5"  @ 18:0+32  None Any true Hex;
    Reg6  "reg6"  [] "NXM_NX_REG6"  @ 19:32+32 None Any true Hex;
    Reg7  "reg7"  [] "NXM_NX_REG7"  @ 19:0+32  None Any true Hex;
    Reg8  "reg8"  [] "NXM_NX_REG8"  @ 20:32+32 None Any true Hex;
    Reg9  "reg9"  [] "NXM_NX_REG9"  @ 20:0+32  None Any true Hex;
    Reg10 "reg10" [] "NXM_NX_REG10" @ 21:32+32 None Any true Hex;
    Reg11 "reg11" [] "NXM_NX_REG11" @ 21:0+32  None Any true Hex;
    Reg12 "reg12" [] "NXM_NX_REG12" @ 22:32+32 None Any true Hex;
    Reg13 "reg13" [] "NXM_NX_REG13" @ 22:0+32  None Any true Hex;
    Reg14 "reg14" [] "NXM_NX_REG14" @ 23:32+32 None Any true Hex;
    Reg15 "reg15" [] "NXM_NX_REG15" @ 23:0+32  None Any true Hex;
    Xreg0 "xreg0" [] "OXM_OF_PKT_REG0" @ 16:0+64 None Any true Hex;
    Xreg1 "xreg1" [] "OXM_OF_PKT_REG1" @ 17:0+64 None Any true Hex;
    Xreg2 "xreg2" [] "OXM_OF_PKT_REG2" @ 18:0+64 None Any true Hex;
    Xreg3 "xreg3" [] "OXM_OF_PKT_REG3" @ 19:0+64 None Any true Hex;
    Xreg4 "xreg4" [] "OXM_OF_PKT_REG4" @ 20:0+64 None Any true Hex;
    Xreg5 "xreg5" [] "OXM_OF_PKT_REG5" @ 21:0+64 None Any true Hex;
    Xreg6 "xreg6" [] "OXM_OF_PKT_REG6" @ 22:0+64 None Any true Hex;
    Xreg7 "xreg7" [] "OXM_OF_PKT_REG7" @ 23:0+64 None Any true Hex;
    TunId "tun_id" ["tunnel_id"] "NXM_NX_TUN_ID" @ 15:0+64 None Any true Hex;
    Metadata "metadata" [] "OXM_OF_METADATA" @ 14:0+64 None Any true Hex;
    InPort "in_port" [] "NXM_OF_IN_PORT" @ 0:32+16 None Never true Port;
    // dl_vlan and dl_vlan_pcp mean a TCI with its CFI bit; the text module
    // turns them into matches on the TCI.
    VlanTci "vlan_tci" [] "NXM_OF_VLAN_TCI" @ 1:0+16 None Any true Hex;
    VlanVid "vlan_vid" [] "OXM_OF_VLAN_VID" @ 1:0+13 None Any true Decimal;
    VlanPcp "vlan_pcp" ["dl_vlan_pcp"] "OXM_OF_VLAN_PCP" @ 1:13+3 Vlan Never true Decimal;
    EthSrc "eth_src" ["dl_src"] "NXM_OF_ETH_SRC" @ 2:16+48 None Any true Mac;
    EthDst "eth_dst" ["dl_dst"] "NXM_OF_ETH_DST" @ 1:16+48 None Any true Mac;
    EthType "eth_type" ["dl_type"] "NXM_OF_ETH_TYPE" @ 0:16+16 None Never false Hex;
    IpSrc "ip_src" ["nw_src"] "NXM_OF_IP_SRC" @ 3:32+32 Ipv4 Any true Ipv4;
    IpDst "ip_dst" ["nw_dst"] "NXM_OF_IP_DST" @ 3:0+32 Ipv4 Any true Ipv4;
    Ipv6Src "ipv6_src" [] "NXM_NX_IPV6_SRC" @ 8:0+128 Ipv6 Any true Ipv6;
    Ipv6Dst "ipv6_dst" [] "NXM_NX_IPV6_DST" @ 10:0+128 Ipv6 Any true Ipv6;
    Ipv6Label "ipv6_label" [] "NXM_NX_IPV6_LABEL" @ 5:0+20 Ipv6 Any true Hex;
    IpProto "nw_proto" ["ip_proto"] "NXM_OF_IP_PROTO" @ 0:0+8 Ip Never false Decimal;
    // The upper six bits only; the lower two are nw_ecn.
    IpTos "nw_tos" [] "NXM_OF_IP_TOS" @ 4:8+8 Ip Never true Decimal;
    IpDscp "ip_dscp" [] "OXM_OF_IP_DSCP" @ 4:10+6 Ip Never true Decimal;
    IpEcn "nw_ecn" ["ip_ecn"] "NXM_NX_IP_ECN" @ 4:8+2 Ip Never true Decimal;
    IpTtl "nw_ttl" [] "NXM_NX_IP_TTL" @ 4:0+8 Ip Never true Decimal;
    IpFrag "ip_frag" ["nw_frag"] "NXM_NX_IP_FRAG" @ 0:8+2 Ip Any false Frag;
    ArpOp "arp_op" [] "NXM_OF_ARP_OP" @ 0:0+8 Arp Never true Decimal;
    ArpSpa "arp_spa" [] "NXM_OF_ARP_SPA" @ 3:32+32 Arp Any true Ipv4;
    ArpTpa "arp_tpa" [] "NXM_OF_ARP_TPA" @ 3:0+32 Arp Any true Ipv4;
    ArpSha "arp_sha" [] "NXM_NX_ARP_SHA" @ 6:16+48 Arp Any true Mac;
    ArpTha "arp_tha" [] "NXM_NX_ARP_THA" @ 7:16+48 Arp Any true Mac;
    TcpSrc "tcp_src" ["tp_src"] "NXM_OF_TCP_SRC" @ 4:48+16 Tcp Any true Decimal;
    TcpDst "tcp_dst" ["tp_dst"] "NXM_OF_TCP_DST" @ 4:32+16 Tcp Any true Decimal;
    TcpFlags "tcp_flags" [] "NXM_NX_TCP_FLAGS" @ 4:16+12 Tcp Any false TcpFlags;
    UdpSrc "udp_src" [] "NXM_OF_UDP_SRC" @ 4:48+16 Udp Any true Decimal;
    UdpDst "udp_dst" [] "NXM_OF_UDP_DST" @ 4:32+16 Udp Any true Decimal;
    // Rewriting SCTP ports would need its CRC over the whole body.
    SctpSrc "sctp_src" [] "OXM_OF_SCTP_SRC" @ 4:48+16 Sctp Any false Decimal;
    SctpDst "sctp_dst" [] "OXM_OF_SCTP_DST" @ 4:32+16 Sctp Any false Decimal;
    IcmpType "icmp_type" [] "NXM_OF_ICMP_TYPE" @ 4:48+8 Icmp Never true Decimal;
    IcmpCode "icmp_code" [] "NXM_OF_ICMP_CODE" @ 4:32+8 Icmp Never true Decimal;
    Icmpv6Type "icmpv6_type" [] "NXM_NX_ICMPV6_TYPE" @ 4:48+8 Icmpv6 Never true Decimal;
    Icmpv6Code "icmpv6_code" [] "NXM_NX_ICMPV6_CODE" @ 4:32+8 Icmpv6 Never true Decimal;
    NdTarget "nd_target" [] "NXM_NX_ND_TARGET" @ 12:0+128 Nd Any true Ipv6;
    NdSll "nd_sll" [] "NXM_NX_ND_SLL" @ 6:16+48 NdSolicit Any true Mac;
    NdTll "nd_tll" [] "NXM_NX_ND_TLL" @ 7:16+48 NdAdvert Any true Mac;
}

impl Field {
    /// All there is to say of it.
    pub const fn info(self) -> &'static FieldInfo {
        &FIELDS[self as usize]
    }

    /// The field of that name, alias or NXM/OXM name.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = FIELDS
            .iter()
            .find(|info| info.name == name || info.nxm == name || info.aliases.contains(&name));
        found.map(|info| info.field)
    }

    /// All bits of the field, as a value.
    pub const fn ones(self) -> u128 {
        match self.info().width {
            128 => u128::MAX,
            width => (1 << width) - 1,
        }
    }

    /// The field's value in a key (or its bits in a mask).
    pub fn get(self, key: &FlowKey) -> u128 {
        let info = self.info();
        let word = usize::from(info.word);
        match info.width {
            128 => u128::from(key.0[word]) << 64 | u128::from(key.0[word + 1]),
            _ => u128::from(key.0[word] >> info.shift) & self.ones(),
        }
    }

    /// Sets the bits of `mask` to those of `value`.
    pub fn set_masked(self, key: &mut FlowKey, value: u128, mask: u128) {
        let (words, value, mask) = self.spread(value, mask);
        for (i, word) in words.enumerate() {
            key.0[word] = key.0[word] & !mask[i] | value[i] & mask[i];
        }
    }

    /// Sets the whole field.
    pub fn set(self, key: &mut FlowKey, value: u128) {
        self.set_masked(key, value, self.ones());
    }

    /// The words that the field lies in, with a value's and a mask's bits in
    /// their places. The second word counts only if the range has it.
    pub fn spread(self, value: u128, mask: u128) -> (std::ops::Range<usize>, [u64; 2], [u64; 2]) {
        let info = self.info();
        let word = usize::from(info.word);
        match info.width {
            128 => (
                word..word + 2,
                [(value >> 64) as u64, value as u64],
                [(mask >> 64) as u64, mask as u64],
            ),
            _ => {
                let place = |bits: u128| ((bits & self.ones()) as u64) << info.shift;
                (word..word + 1, [place(value), 0], [place(mask), 0])
            }
        }
    }
}

/// Some bits of a field, as in `reg0[0..15]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subfield {
    /// The field.
    pub field: Field,
    /// Lowest bit.
    pub offset: u8,
    /// Bits.
    pub width: u8,
}

impl Subfield {
    /// The whole field.
    pub const fn whole(field: Field) -> Self {
        Self {
            field,
            offset: 0,
            width: field.info().width,
        }
    }

    /// Its bits within the field.
    pub const fn ones(self) -> u128 {
        let ones = match self.width {
            128 => u128::MAX,
            width => (1 << width) - 1,
        };
        ones << self.offset
    }

    /// Its value in a key.
    pub fn get(self, key: &FlowKey) -> u128 {
        (self.field.get(key) & self.ones()) >> self.offset
    }

    /// Writes its value into a key.
    pub fn set(self, key: &mut FlowKey, value: u128) {
        self.field
            .set_masked(key, value << self.offset, self.ones());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::FLOW_WORDS;
    use std::collections::HashSet;

    #[test]
    fn rows_are_in_order_named_once_and_within_the_key() {
        let mut names = HashSet::new();
        for (index, info) in FIELDS.iter().enumerate() {
            assert_eq!(info.field as usize, index);
            for name in [&info.name, &info.nxm].into_iter().chain(info.aliases) {
                assert!(names.insert(*name), "{name} twice");
                assert_eq!(Field::from_name(name), Some(info.field));
            }
            let words = usize::from(info.width).div_ceil(64);
            assert!(
                usize::from(info.word) + words <= FLOW_WORDS,
                "{}",
                info.name
            );
            assert!(info.width == 128 || info.shift + info.width <= 64);
        }
    }

    #[test]
    fn values_come_back_and_leave_the_rest_alone() {
        for info in FIELDS {
            let mut key = FlowKey([u64::MAX; FLOW_WORDS]);
            info.field.set(&mut key, 5);
            assert_eq!(info.field.get(&key), 5 & info.field.ones(), "{}", info.name);
            info.field.set(&mut key, u128::MAX);
            assert_eq!(key, FlowKey([u64::MAX; FLOW_WORDS]), "{}", info.name);
        }
    }

    #[test]
    fn registers_overlap_as_the_specification_says() {
        let mut key = FlowKey::default();
        Field::Xreg1.set(&mut key, 0x1111_2222_3333_4444);
        assert_eq!(Field::Reg2.get(&key), 0x1111_2222);
        assert_eq!(Field::Reg3.get(&key), 0x3333_4444);
        let bits = Subfield {
            field: Field::Reg3,
            offset: 4,
            width: 8,
        };
        bits.set(&mut key, 0xff);
        assert_eq!(Field::Reg3.get(&key), 0x3333_4ff4);
        assert_eq!(bits.get(&key), 0xff);
    }
}
