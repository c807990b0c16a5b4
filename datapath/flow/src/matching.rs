//! What a rule matches.

use crate::field::Field;
use crate::key::{FLOW_WORDS, FlowKey};

/// A match: the bits of `mask` must be those of `key`, which has no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// Values; zero where the mask is.
    pub key: FlowKey,
    /// Which bits matter.
    pub mask: FlowKey,
}

impl Match {
    /// Requires a whole field to have a value.
    pub fn exact(&mut self, field: Field, value: u128) -> &mut Self {
        self.masked(field, value, field.ones())
    }

    /// Requires bits of a field.
    pub fn masked(&mut self, field: Field, value: u128, mask: u128) -> &mut Self {
        field.set_masked(&mut self.key, value & mask, mask);
        field.set_masked(&mut self.mask, u128::MAX, mask);
        self
    }

    /// Whether it matches.
    pub fn matches(&self, flow: &FlowKey) -> bool {
        self.key.matches(flow, &self.mask)
    }

    /// Whether whatever matches `self` also matches `other` (`other` is the
    /// wider one): what a loose `del-flows` looks for.
    pub fn is_within(&self, other: &Self) -> bool {
        (0..FLOW_WORDS).all(|i| {
            let mask = other.mask.0[i];
            self.mask.0[i] & mask == mask && (self.key.0[i] ^ other.key.0[i]) & mask == 0
        })
    }

    /// Whether some packet could match both.
    pub fn overlaps(&self, other: &Self) -> bool {
        (0..FLOW_WORDS).all(|i| {
            let both = self.mask.0[i] & other.mask.0[i];
            (self.key.0[i] ^ other.key.0[i]) & both == 0
        })
    }
}
