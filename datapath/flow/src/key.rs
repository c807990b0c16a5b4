//! Keys: what is known of a packet, as words.
//!
//! A field is a run of bits in a word (see [`crate::field`]); a mask is a key
//! whose set bits are the ones that matter. The first eight words are all that
//! an Ethernet, IPv4 or ARP packet needs.
//!
//! ```text
//! word  63........48 47........32 31........16 15.........0
//!   0   bridge       in_port      dl_type      nw_frag, nw_proto (8 bits each)
//!   1   dl_dst .................................  outer VLAN TCI (CFI bit: there is a tag)
//!   2   dl_src .................................  inner VLAN TCI
//!   3   nw_src / arp_spa ......   nw_dst / arp_tpa ........
//!   4   tp_src       tp_dst       tcp_flags    nw_tos, nw_ttl (8 bits each)
//!   5   outer TPID   inner TPID   ipv6_label ..............
//!   6   arp_sha / nd_sll .......................  0
//!   7   arp_tha / nd_tll .......................  0
//!   8,9 ipv6_src     10,11 ipv6_dst     12,13 nd_target
//!  ---- of the pipeline only, zero when a packet enters it:
//!  14   metadata    15 tun_id    16 … 23 reg0,reg1 … reg14,reg15 (reg0 in the upper half)
//! ```
//!
//! ICMP type and code are in `tp_src` and `tp_dst`, an ARP opcode in `nw_proto`.

/// Words that describe a packet.
pub const PACKET_WORDS: usize = 14;
/// Words that a pipeline works on: the packet's, metadata, tunnel and registers.
pub const FLOW_WORDS: usize = 24;

/// `in_port` of the bridge's own interface (OFPP_LOCAL).
pub const PORT_LOCAL: u16 = 0xfffe;
/// The bit of a TCI that says: there is a tag.
pub const VLAN_PRESENT: u16 = 0x1000;

/// What is known of a packet, or which of it matters (a mask).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(align(64))]
pub struct PacketKey(pub [u64; PACKET_WORDS]);

/// What a pipeline works on: a packet's key with metadata and registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowKey(pub [u64; FLOW_WORDS]);

impl PacketKey {
    /// Every bit matters.
    pub const ALL: Self = Self([u64::MAX; PACKET_WORDS]);

    /// Whether `self` and `other` agree wherever `mask` has bits.
    #[inline(always)]
    pub fn matches(&self, other: &Self, mask: &Self) -> bool {
        let differ = |i: usize| (self.0[i] ^ other.0[i]) & mask.0[i];
        (0..PACKET_WORDS).fold(0, |bits, i| bits | differ(i)) == 0
    }

    /// The bits that `mask` leaves.
    pub fn masked(&self, mask: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & mask.0[i]))
    }

    /// As the beginning of a pipeline: metadata and registers are zero.
    pub fn to_flow(&self) -> FlowKey {
        let mut flow = FlowKey::default();
        flow.0[..PACKET_WORDS].copy_from_slice(&self.0);
        flow
    }
}

impl FlowKey {
    /// The packet's part.
    pub fn packet(&self) -> PacketKey {
        PacketKey(std::array::from_fn(|i| self.0[i]))
    }

    /// Whether `self` and `other` agree wherever `mask` has bits.
    pub fn matches(&self, other: &Self, mask: &Self) -> bool {
        (0..FLOW_WORDS).all(|i| (self.0[i] ^ other.0[i]) & mask.0[i] == 0)
    }

    /// The bits that `mask` leaves.
    pub fn masked(&self, mask: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & mask.0[i]))
    }

    /// Adds the bits of `other`.
    pub fn or(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }
}

/// Shows the words that are not zero.
fn debug_words(words: &[u64], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let words = words.iter().enumerate().filter(|(_, word)| **word != 0);
    f.debug_map()
        .entries(words.map(|(i, word)| (i, format_args!("{word:#018x}").to_string())))
        .finish()
}

impl std::fmt::Debug for PacketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        debug_words(&self.0, f)
    }
}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        debug_words(&self.0, f)
    }
}
