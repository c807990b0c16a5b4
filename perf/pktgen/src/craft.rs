//! Headers crafted to make a switch keep as many masks as it can.
//!
//! A switch that looks only at as many bits of a field as tell a packet from
//! the rules' values makes a mask of n bits for a packet whose bit n differs
//! first. With several fields the numbers multiply: rules that match nw_src,
//! tp_src and tp_dst exactly give up to 32 × 16 × 16 masks. (Csikor et al.,
//! "Tuple Space Explosion", CoNEXT 2019.)
//!
//! Frame n of the attacker therefore differs from its flow 0 in one bit of
//! each field to vary, all combinations in turn; the bits below are random, so
//! that no exact-match cache helps.

use clap::ValueEnum;

use crate::frame::{IP, IP_CHECKSUM, PAYLOAD, Template, UDP, fold, sum};

/// A header field that an attacker varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Field {
    /// Ethernet source address.
    DlSrc,
    /// IPv4 time to live.
    NwTtl,
    /// IPv4 source address.
    NwSrc,
    /// IPv4 destination address.
    NwDst,
    /// UDP source port.
    TpSrc,
    /// UDP destination port.
    TpDst,
}

impl Field {
    /// Offset in the frame and length, in bytes.
    fn place(self) -> (usize, usize) {
        match self {
            Self::DlSrc => (6, 6),
            Self::NwTtl => (IP + 8, 1),
            Self::NwSrc => (IP + 12, 4),
            Self::NwDst => (IP + 16, 4),
            Self::TpSrc => (UDP, 2),
            Self::TpDst => (UDP + 2, 2),
        }
    }
}

/// The headers of a frame, Ethernet to UDP.
pub type Headers = [u8; PAYLOAD];

/// The attacker's sequence of headers.
#[derive(Clone, Debug)]
pub struct Craft {
    base: Headers,
    fields: Vec<Field>,
    number: u64,
    random: u64,
}

impl Craft {
    /// Headers that differ from those of `template`'s flow 0 in `fields`.
    pub fn new(template: &Template, fields: &[Field]) -> Self {
        let mut base = [0; PAYLOAD];
        base.copy_from_slice(&template.frame(0)[..PAYLOAD]);
        Self {
            base,
            fields: fields.to_vec(),
            number: 0,
            random: 0x2545_f491_4f6c_dd1d,
        }
    }

    /// The next frame's headers.
    pub fn next_headers(&mut self) -> Headers {
        let mut headers = self.base;
        let mut rest = self.number;
        self.number += 1;
        for &field in &self.fields {
            let (offset, len) = field.place();
            let bits = 8 * len as u64;
            // Which bit differs first, counted from the top.
            let first = rest % bits;
            rest /= bits;
            let flipped = 1_u64 << (bits - 1 - first);
            let noise = noise(&mut self.random) & (flipped - 1);
            let change = (flipped | noise).to_be_bytes();
            let bytes = &mut headers[offset..offset + len];
            for (byte, change) in bytes.iter_mut().zip(&change[8 - len..]) {
                *byte ^= change;
            }
        }
        headers[IP_CHECKSUM..IP_CHECKSUM + 2].fill(0);
        let checksum = !fold(sum(&headers[IP..UDP]));
        headers[IP_CHECKSUM..IP_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
        headers
    }
}

/// Marsaglia's xorshift64.
fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn port_at(headers: &Headers, offset: usize) -> u16 {
        u16::from_be_bytes([headers[offset], headers[offset + 1]])
    }

    #[test]
    fn every_combination_of_first_different_bits_comes_once() {
        let template = Template::new(2, 0, 64);
        let base = template.frame(0);
        let base: &Headers = base.first_chunk().unwrap();
        let mut craft = Craft::new(&template, &[Field::TpSrc, Field::TpDst]);
        let mut seen = HashSet::new();
        for _ in 0..16 * 16 {
            let headers = craft.next_headers();
            let first =
                |offset| (port_at(&headers, offset) ^ port_at(base, offset)).leading_zeros();
            assert!(seen.insert((first(UDP), first(UDP + 2))));
        }
        assert!(seen.iter().all(|&(a, b)| a < 16 && b < 16));
    }

    #[test]
    fn all_else_stays_and_checksums_are_right() {
        let template = Template::new(2, 0, 64);
        let base = template.frame(0);
        let fields = [Field::NwSrc, Field::NwTtl, Field::TpDst];
        let mut craft = Craft::new(&template, &fields);
        for _ in 0..1000 {
            let headers = craft.next_headers();
            assert_eq!(fold(sum(&headers[IP..UDP])), 0xffff);
            assert_eq!(headers[..IP + 8], base[..IP + 8]);
            assert_eq!(headers[IP + 16..UDP + 2], base[IP + 16..UDP + 2]);
            assert_ne!(headers[IP + 8], base[IP + 8]);
        }
    }

    #[test]
    fn the_bits_below_are_not_always_the_same() {
        let mut craft = Craft::new(&Template::new(2, 0, 64), &[Field::NwSrc]);
        let sources: HashSet<Vec<u8>> = (0..3200)
            .map(|_| craft.next_headers()[IP + 12..IP + 16].to_vec())
            .collect();
        assert!(sources.len() > 2000, "{}", sources.len());
    }
}
