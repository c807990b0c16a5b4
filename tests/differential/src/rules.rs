//! Random rule sets as people write them.

mod actions;
mod matches;

use crate::dice::Dice;

/// How a rule is written, and with that the OpenFlow version it must be told
/// to Open vSwitch in: another would turn its actions into others
/// (`mod_vlan_vid` into `push_vlan`, `set_field` into `load`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// OpenFlow 1.0 with Nicira's extensions: `mod_*`, `load`, `move`, `resubmit`.
    Nicira,
    /// OpenFlow 1.4: groups, instructions, `set_field` of whole fields, `load`.
    Standard,
    /// OpenFlow 1.5: as 1.4, but masked `set_field` and no `load`.
    Latest,
}

impl Dialect {
    /// All of them, in the order in which their rules are added.
    pub const ALL: [Self; 3] = [Self::Nicira, Self::Standard, Self::Latest];

    /// The version to add and print rules in.
    pub fn version(self) -> &'static str {
        match self {
            Self::Nicira => "OpenFlow10",
            Self::Standard => "OpenFlow14",
            Self::Latest => "OpenFlow15",
        }
    }

    /// Whether it has groups and instructions.
    pub fn is_standard(self) -> bool {
        self != Self::Nicira
    }
}

/// A rule as `add-flow` takes it. Its cookie tells it from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    /// How it is written.
    pub dialect: Dialect,
    /// What `add-flow` takes.
    pub text: String,
}

/// A group as `add-group` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupText {
    /// `group_id`
    pub id: u32,
    /// `type=`
    pub kind: &'static str,
    /// What follows.
    pub rest: String,
    text: String,
}

impl GroupText {
    /// A group with these buckets.
    pub fn new(id: u32, kind: &'static str, rest: String) -> Self {
        let text = format!("group_id={id},type={kind}{rest}");
        Self {
            id,
            kind,
            rest,
            text,
        }
    }

    /// What `add-group` takes.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a hash chooses the bucket.
    pub fn is_select(&self) -> bool {
        self.kind == "select"
    }
}

/// Groups and rules of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Added first.
    pub groups: Vec<GroupText>,
    /// Added then: dialect after dialect.
    pub rules: Vec<RuleText>,
}

/// Highest table that rules are put in.
const TABLES: usize = 4;

impl RuleSet {
    /// A random one with about `size` rules.
    pub fn random(dice: &mut Dice, size: usize) -> Self {
        let groups: Vec<GroupText> = if dice.one_in(2) {
            let count = dice.between(1, 4) as u32;
            (1..=count).map(|id| group(dice, id)).collect()
        } else {
            Vec::new()
        };
        let count = dice.between(size / 2, size * 3 / 2);
        let mut rules: Vec<RuleText> = (0..count).map(|_| rule(dice, groups.len())).collect();
        rules.sort_by_key(|rule| rule.dialect);
        for (i, rule) in rules.iter_mut().enumerate() {
            // Which of two rules of the same priority wins is not defined.
            let priority = (dice.below(256) * 256) | i;
            rule.text = format!("cookie={:#x},priority={priority},{}", i + 1, rule.text);
        }
        if dice.one_in(3) && !rules.is_empty() {
            replace_one(dice, &mut rules);
        }
        Self { groups, rules }
    }
}

impl std::fmt::Display for RuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for group in &self.groups {
            writeln!(
                f,
                "ovs-ofctl -O OpenFlow15 add-group br0 '{}'",
                group.text()
            )?;
        }
        for rule in &self.rules {
            let version = rule.dialect.version();
            let text = &rule.text;
            writeln!(f, "ovs-ofctl -O {version} add-flow br0 '{text}'")?;
        }
        Ok(())
    }
}

/// Where actions stand, and what they may count on.
#[derive(Clone, Copy, Debug)]
struct Place {
    dialect: Dialect,
    kind: matches::Kind,
    /// The match asks for a VLAN tag.
    tagged: bool,
    table: usize,
    /// Groups 1 to this number are there.
    groups: usize,
}

/// One rule gets another's priority and match, and with them its place; another
/// may get the priority that a rule has whose text says none.
fn replace_one(dice: &mut Dice, rules: &mut [RuleText]) {
    let parts = |rule: &RuleText| {
        let (_, rest) = rule.text.split_once(',')?;
        let (matching, actions) = rest.split_once("actions=")?;
        Some((matching.to_owned(), actions.to_owned()))
    };
    let (from, to) = (dice.below(rules.len()), dice.below(rules.len()));
    if let (Some((matching, _)), Some((_, actions))) = (parts(&rules[from]), parts(&rules[to]))
        && rules[from].dialect == rules[to].dialect
    {
        rules[to].text = format!("cookie={:#x},{matching}actions={actions}", to + 1);
    }
    let plain = dice.below(rules.len());
    if plain != from && plain != to {
        let text = &rules[plain].text;
        let mut parts: Vec<&str> = text.split(',').collect();
        parts.retain(|part| !part.starts_with("priority="));
        rules[plain].text = parts.join(",");
    }
}

fn rule(dice: &mut Dice, groups: usize) -> RuleText {
    let dialect = dice.of(&Dialect::ALL);
    let table = if dice.percent(55) {
        0
    } else {
        dice.between(1, TABLES)
    };
    let mut parts = Vec::new();
    if table > 0 || dice.one_in(3) {
        parts.push(format!("table={table}"));
    }
    let (kind, tagged, mut fields) = matches::random(dice, table);
    if dice.one_in(8) {
        // Any order is good, except that prerequisites come first.
        let reverse_from = fields.iter().position(|field| !field.contains('='));
        if reverse_from.is_none() {
            parts.reverse();
        }
    }
    parts.append(&mut fields);
    let place = Place {
        dialect,
        kind,
        tagged,
        table,
        groups,
    };
    parts.push(format!("actions={}", actions::of_rule(dice, place)));
    RuleText {
        dialect,
        text: parts.join(","),
    }
}

fn group(dice: &mut Dice, id: u32) -> GroupText {
    let kind = dice.of(&["all", "select", "indirect", "ff"]);
    let mut rest = String::new();
    if kind == "select" && dice.one_in(2) {
        rest += ",selection_method=hash";
        if dice.one_in(2) {
            rest += dice.pick(&[",fields(ip_dst)", ",fields(eth_src,ip_src)"]);
        }
    }
    let buckets = match kind {
        "indirect" => 1,
        _ => dice.between(0, 3),
    };
    for _ in 0..buckets {
        rest += ",bucket=";
        match kind {
            "select" if dice.one_in(2) => {
                rest += &format!("weight:{},", dice.of(&[0, 1, 10, 100]));
            }
            "ff" => rest += &format!("watch_port:{},", dice.between(1, 6)),
            _ => {}
        }
        rest += &actions::of_bucket(dice, id);
    }
    GroupText::new(id, kind, rest)
}
