//! What the last versions changed, to tell which cached verdicts still hold.

use std::sync::Arc;

use super::Dependencies;
use crate::key::PACKET_WORDS;
use crate::rule::Rule;

/// Versions that are remembered. Verdicts of older ones are stale.
const REMEMBERED: usize = 128;
/// Most changed rules of one version that are remembered one by one; of more,
/// their tables are.
const MAX_RULES: usize = 32;
/// Most rules that one verdict is compared with; beyond it is taken as stale,
/// which costs a translation.
const MAX_COMPARED: usize = 256;

/// What one version changed.
#[derive(Clone, Default)]
pub(super) struct Changed {
    /// Every verdict may be another.
    pub everything: bool,
    /// Groups, or ports that they watch.
    pub groups: bool,
    /// Tables that changed as a whole: bit `table % 64`.
    tables: u64,
    /// Rules that came, went or became others.
    rules: Vec<Arc<Rule>>,
}

impl Changed {
    /// A rule came, went or became another.
    pub(super) fn rule(&mut self, rule: &Arc<Rule>) {
        let bit = table_bit(rule.table);
        if self.tables & bit != 0 {
            return;
        }
        if self.rules.len() < MAX_RULES {
            self.rules.push(rule.clone());
            return;
        }
        let bits = self.rules.drain(..).map(|rule| table_bit(rule.table));
        self.tables |= bits.fold(bit, |all, bit| all | bit);
    }
}

/// The bit of a table in [`Dependencies::tables`].
fn table_bit(table: u8) -> u64 {
    1 << (table % 64)
}

/// The last versions' changes, by version. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Log {
    ring: Arc<[Arc<Changed>]>,
}

impl Default for Log {
    fn default() -> Self {
        let nothing = Arc::new(Changed::default());
        Self {
            ring: (0..REMEMBERED).map(|_| nothing.clone()).collect(),
        }
    }
}

impl Log {
    /// Remembers what made `version` of the one before.
    pub(super) fn record(&mut self, version: u32, mut changed: Changed) {
        changed.rules.shrink_to_fit();
        let ring = Arc::make_mut(&mut self.ring);
        ring[version as usize % REMEMBERED] = Arc::new(changed);
    }

    /// See [`super::Pipeline::is_stale`]; `now` is the log's last version.
    pub(super) fn is_stale(
        &self,
        now: u32,
        version: u32,
        dependencies: &Dependencies,
        key: &[u64; PACKET_WORDS],
        mask: &[u64; PACKET_WORDS],
    ) -> bool {
        // A version to come is none that this log knows of.
        let behind = match now.checked_sub(version) {
            Some(behind) if behind as usize <= REMEMBERED => behind,
            _ => return true,
        };
        let mut compared = 0;
        for version in now - behind..now {
            // What led from `version` to the next.
            let at = (version as usize + 1) % REMEMBERED;
            let Some(changed) = self.ring.get(at) else {
                return true;
            };
            compared += changed.rules.len();
            if compared > MAX_COMPARED
                || changed.everything
                || changed.groups && dependencies.groups
                || changed.tables & dependencies.tables != 0
                || (changed.rules.iter()).any(|rule| may_meet(rule, dependencies, key, mask))
            {
                return true;
            }
        }
        false
    }
}

/// Whether some packet of a megaflow may meet the rule: it was looked up in the
/// rule's table, and no word that it had unchanged there says otherwise.
fn may_meet(
    rule: &Rule,
    dependencies: &Dependencies,
    key: &[u64; PACKET_WORDS],
    mask: &[u64; PACKET_WORDS],
) -> bool {
    let matching = &rule.matching;
    let mut words = matching.words().zip(matching.keys()).zip(matching.masks());
    dependencies.tables & table_bit(rule.table) != 0
        && words.all(|((word, rule_key), rule_mask)| {
            let (Some(key), Some(mask)) = (key.get(word), mask.get(word)) else {
                return true; // metadata or a register
            };
            dependencies.modified >> word & 1 == 1 || (key ^ rule_key) & mask & rule_mask == 0
        })
}
