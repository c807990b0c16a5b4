//! Ways to rules that spare a search through all: by what they use, by their
//! cookie, by when they may expire. All persistent, so that a copy is what was.

use std::sync::Arc;

use imbl::OrdMap;

use crate::action::Action;
use crate::rule::Rule;
use crate::stats::StatsId;

/// Rules by a key; a rule is known by its statistics cell.
#[derive(Clone)]
struct RulesBy<K> {
    rules: OrdMap<(K, StatsId), Arc<Rule>>,
}

impl<K: Ord + Copy> Default for RulesBy<K> {
    fn default() -> Self {
        Self {
            rules: OrdMap::new(),
        }
    }
}

impl<K: Ord + Copy> RulesBy<K> {
    fn of(&self, key: K) -> Vec<Arc<Rule>> {
        let range = self.rules.range((key, 0)..=(key, StatsId::MAX));
        range.map(|(_, rule)| rule.clone()).collect()
    }
}

/// The ways.
#[derive(Clone, Default)]
pub(super) struct Index {
    groups: RulesBy<u32>,
    meters: RulesBy<u32>,
    /// Cookies but 0, which is what rules have that nobody marked.
    cookies: RulesBy<u64>,
    /// By the first moment at which a rule may expire, if it is not used.
    deadlines: RulesBy<u64>,
    /// The same, by rule.
    deadline_of: OrdMap<StatsId, u64>,
}

/// When a rule expires.
pub(super) struct Deadlines {
    /// Its `hard_timeout` after it was added or modified.
    pub hard_ms: u64,
    /// Its `idle_timeout` after it was last used.
    pub idle_ms: u64,
}

/// When a rule expires that was last used at `used_ms`.
pub(super) fn deadlines(rule: &Rule, used_ms: u64) -> Deadlines {
    let after = |since: u64, seconds: u16| match seconds {
        0 => u64::MAX,
        seconds => since.saturating_add(u64::from(seconds) * 1_000),
    };
    Deadlines {
        hard_ms: after(rule.modified_ms, rule.hard_timeout),
        idle_ms: after(rule.created_ms.max(used_ms), rule.idle_timeout),
    }
}

/// Calls `each` with every action, those within `write_actions` included.
pub(super) fn for_each_action<'a>(actions: &'a [Action], each: &mut dyn FnMut(&'a Action)) {
    for action in actions {
        each(action);
        if let Action::WriteActions(inner) = action {
            for_each_action(inner, each);
        }
    }
}

/// Whether some action is such.
pub(super) fn any_action(actions: &[Action], is: impl Fn(&Action) -> bool) -> bool {
    let mut found = false;
    for_each_action(actions, &mut |action| found |= is(action));
    found
}

impl Index {
    /// Enters a rule.
    pub(super) fn add(&mut self, rule: &Arc<Rule>) {
        for_each_action(&rule.actions, &mut |action| {
            let (by, id) = match action {
                Action::Group(id) => (&mut self.groups, *id),
                Action::Meter(id) => (&mut self.meters, *id),
                _ => return,
            };
            by.rules.insert((id, rule.stats), rule.clone());
        });
        if rule.cookie != 0 {
            let key = (rule.cookie, rule.stats);
            self.cookies.rules.insert(key, rule.clone());
        }
        let Deadlines { hard_ms, idle_ms } = deadlines(rule, 0);
        self.expect(rule, hard_ms.min(idle_ms));
    }

    /// Takes a rule out.
    pub(super) fn remove(&mut self, rule: &Rule) {
        for_each_action(&rule.actions, &mut |action| {
            let (by, id) = match action {
                Action::Group(id) => (&mut self.groups, *id),
                Action::Meter(id) => (&mut self.meters, *id),
                _ => return,
            };
            by.rules.remove(&(id, rule.stats));
        });
        if rule.cookie != 0 {
            self.cookies.rules.remove(&(rule.cookie, rule.stats));
        }
        if let Some(deadline) = self.deadline_of.remove(&rule.stats) {
            self.deadlines.rules.remove(&(deadline, rule.stats));
        }
    }

    /// Rules that use a group.
    pub(super) fn of_group(&self, id: u32) -> Vec<Arc<Rule>> {
        self.groups.of(id)
    }

    /// Rules that use a meter.
    pub(super) fn of_meter(&self, id: u32) -> Vec<Arc<Rule>> {
        self.meters.of(id)
    }

    /// Rules with a cookie; 0 has no index.
    pub(super) fn of_cookie(&self, cookie: u64) -> Vec<Arc<Rule>> {
        self.cookies.of(cookie)
    }

    /// A rule may expire after `deadline`, not before.
    pub(super) fn expect(&mut self, rule: &Arc<Rule>, deadline: u64) {
        if deadline == u64::MAX {
            return;
        }
        if let Some(old) = self.deadline_of.insert(rule.stats, deadline) {
            self.deadlines.rules.remove(&(old, rule.stats));
        }
        (self.deadlines.rules).insert((deadline, rule.stats), rule.clone());
    }

    /// The rule that may be the first to expire, if its time has come.
    pub(super) fn due(&self, now_ms: u64) -> Option<Arc<Rule>> {
        let ((deadline, _), rule) = self.deadlines.rules.get_min()?;
        (*deadline < now_ms).then(|| rule.clone())
    }

    /// Bytes, about.
    pub(super) fn memory(&self) -> usize {
        let entry = |size: usize| size * 3 / 2; // B-tree leaves are two thirds full
        let ids = self.groups.rules.len() + self.meters.rules.len();
        let longs = self.cookies.rules.len() + self.deadlines.rules.len();
        ids * entry(16) + longs * entry(24) + self.deadline_of.len() * entry(16)
    }
}
