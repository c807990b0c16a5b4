//! One table: which rule matches a packet best, and what had to be looked at
//! to know.

use std::sync::Arc;

use crate::key::FlowKey;
use crate::rule::Rule;

/// A table at one version. Cloning is cheap: what did not change is shared.
#[derive(Clone, Default)]
pub struct Table {
    rules: Vec<Arc<Rule>>,
}

impl Table {
    /// The rule of highest priority that matches `flow`. Adds to `looked_at`
    /// every bit that the answer depends on: whatever agrees with `flow` there
    /// gets the same answer.
    pub fn lookup(&self, flow: &FlowKey, looked_at: &mut FlowKey) -> Option<&Arc<Rule>> {
        let mut best: Option<&Arc<Rule>> = None;
        for rule in &self.rules {
            let full = rule.matching.full();
            looked_at.or(&full.mask);
            if full.matches(flow) && best.is_none_or(|best| rule.priority > best.priority) {
                best = Some(rule);
            }
        }
        best
    }

    /// Puts a rule in, in place of one with the same priority and match.
    pub fn insert(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let same =
            |other: &Arc<Rule>| other.priority == rule.priority && other.matching == rule.matching;
        match self.rules.iter().position(same) {
            Some(at) => Some(std::mem::replace(&mut self.rules[at], rule)),
            None => {
                self.rules.push(rule);
                None
            }
        }
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}
