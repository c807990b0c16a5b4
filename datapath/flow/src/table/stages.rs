//! Stages of a lookup: a packet that no rule of a subtable matches in an early
//! stage is not looked at in the later ones, so that masks stay wide.
//!
//! The order is Open vSwitch's (`struct flow` in its flow.h): where a packet
//! comes from, then L2, L3, L4. Words hold bits of several stages, so that a
//! stage is a mask over words.

use crate::key::FLOW_WORDS;

/// How many there are.
pub(super) const STAGES: usize = 4;

const ALL: u64 = u64::MAX;

/// Bits of `bridge` and `in_port` in word 0.
const ORIGIN: u64 = 0xffff_ffff_0000_0000;
/// Bits of `dl_type` in word 0.
pub(super) const ETH_TYPE: u64 = 0xffff_0000;
/// Bits of `nw_frag` and `nw_proto` in word 0.
pub(super) const PROTOCOL: u64 = 0xffff;
/// Bits of `nw_tos` and `nw_ttl` in word 4.
const TOS_TTL: u64 = 0xffff;
/// Bits of the TPIDs in word 5.
const TPIDS: u64 = 0xffff_ffff_0000_0000;

/// The bits of each stage. Each bit is in exactly one.
pub(super) const STAGE_MASKS: [[u64; FLOW_WORDS]; STAGES] = {
    let mut masks = [[0; FLOW_WORDS]; STAGES];
    masks[0][0] = ORIGIN;
    let mut word = crate::key::PACKET_WORDS;
    while word < FLOW_WORDS {
        masks[0][word] = ALL; // metadata, tunnel, registers
        word += 1;
    }
    masks[1][0] = ETH_TYPE;
    masks[1][1] = ALL; // dl_dst, outer tag
    masks[1][2] = ALL; // dl_src, inner tag
    masks[1][5] = TPIDS;
    masks[2][0] = PROTOCOL;
    masks[2][3] = ALL; // IPv4 addresses
    masks[2][4] = TOS_TTL;
    masks[2][5] = !TPIDS; // ipv6_label
    masks[2][8] = ALL; // IPv6 addresses
    masks[2][9] = ALL;
    masks[2][10] = ALL;
    masks[2][11] = ALL;
    masks[3][4] = !TOS_TTL; // ports, TCP flags
    masks[3][6] = ALL; // ARP's and neighbour discovery's
    masks[3][7] = ALL;
    masks[3][12] = ALL;
    masks[3][13] = ALL;
    masks
};

/// A field of whose values a subtable keeps a set, to know how few leading
/// bits tell that no rule has the packet's.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrackedField {
    /// Its (first) word.
    pub word: u8,
    /// Its bits in the word; all of two words if `long`.
    pub bits: u64,
    /// It is 128 bits long.
    pub long: bool,
    /// Its stage.
    pub stage: u8,
    /// Bits of word 0 that give it its meaning; a mask with bits of the field
    /// has these too.
    pub prerequisite: u64,
}

/// Addresses and ports. Both ports together are one field, too: then a pair
/// that no rule has is told by few bits even if others have each of its ports.
pub(super) const TRACKED: [TrackedField; 6] = [
    TrackedField {
        word: 3,
        bits: 0xffff_ffff_0000_0000,
        long: false,
        stage: 2,
        prerequisite: ETH_TYPE,
    },
    TrackedField {
        word: 3,
        bits: 0xffff_ffff,
        long: false,
        stage: 2,
        prerequisite: ETH_TYPE,
    },
    TrackedField {
        word: 8,
        bits: ALL,
        long: true,
        stage: 2,
        prerequisite: ETH_TYPE,
    },
    TrackedField {
        word: 10,
        bits: ALL,
        long: true,
        stage: 2,
        prerequisite: ETH_TYPE,
    },
    TrackedField {
        word: 4,
        bits: 0xffff_ffff_0000_0000,
        long: false,
        stage: 3,
        prerequisite: ETH_TYPE | PROTOCOL,
    },
    TrackedField {
        word: 4,
        bits: 0x0000_ffff_0000_0000,
        long: false,
        stage: 3,
        prerequisite: ETH_TYPE | PROTOCOL,
    },
];

/// Bits of `tp_src` in word 4: without them the ports are `tp_dst` alone.
pub(super) const TP_SRC: u64 = 0xffff_0000_0000_0000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::FIELDS;

    #[test]
    fn every_bit_of_a_field_is_in_one_stage() {
        for word in 0..FLOW_WORDS {
            let bits = STAGE_MASKS.iter().fold((0, 0), |(all, twice), stage| {
                (all | stage[word], twice | all & stage[word])
            });
            assert_eq!(bits, (ALL, 0), "word {word}");
        }
    }

    #[test]
    fn no_field_is_torn_between_stages() {
        for info in FIELDS {
            let (words, _, bits) = info.field.spread(0, u128::MAX);
            let word = words.start;
            let stages = STAGE_MASKS.iter().filter(|mask| mask[word] & bits[0] != 0);
            assert_eq!(stages.count(), 1, "{}", info.name);
        }
    }
}
