//! Changes against a list of rules that is gone through.

use proptest::prelude::*;

use super::*;
use crate::rule::FlowFlags;

/// A rule of the model: what a list of rules would know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Model {
    table: u8,
    priority: u16,
    port: Option<u16>,
    ip: bool,
    cookie: u64,
    action: String,
    created_ms: u64,
    modified_ms: u64,
}

#[derive(Clone, Debug)]
struct Step {
    command: FlowCommand,
    table: Option<u8>,
    priority: u16,
    port: Option<u16>,
    ip: bool,
    cookie: u64,
    cookie_mask: u64,
    action: Action,
    out_port: Option<u16>,
    check_overlap: bool,
}

impl Step {
    fn spec(&self) -> FlowSpec {
        let mut matching = self.port.map(in_port).unwrap_or_default();
        if self.ip {
            matching.exact(Field::EthType, 0x800);
        }
        FlowSpec {
            table: self.table,
            priority: self.priority,
            cookie: self.cookie,
            cookie_mask: self.cookie_mask,
            matching,
            actions: vec![self.action.clone()],
            out_port: self.out_port,
            flags: FlowFlags {
                check_overlap: self.check_overlap,
                ..FlowFlags::default()
            },
            ..FlowSpec::default()
        }
    }

    fn selects(&self, rule: &Model) -> bool {
        let strict = matches!(
            self.command,
            FlowCommand::ModifyStrict | FlowCommand::DeleteStrict
        );
        let deletes = matches!(
            self.command,
            FlowCommand::Delete | FlowCommand::DeleteStrict
        );
        let matching = match strict {
            true => (self.priority, self.port, self.ip) == (rule.priority, rule.port, rule.ip),
            false => (self.port.is_none() || self.port == rule.port) && (!self.ip || rule.ip),
        };
        let output = self
            .out_port
            .map(|port| format!("{:?}", Action::Output(port)));
        matching
            && self.table.is_none_or(|table| table == rule.table)
            && (rule.cookie ^ self.cookie) & self.cookie_mask == 0
            && (!deletes || output.is_none_or(|output| output == rule.action))
    }

    fn apply(&self, rules: &mut Vec<Model>, now_ms: u64) -> Result<(), ErrorCode> {
        let new = Model {
            table: self.table.unwrap_or(0),
            priority: self.priority,
            port: self.port,
            ip: self.ip,
            cookie: self.cookie,
            action: format!("{:?}", self.action),
            created_ms: now_ms,
            modified_ms: now_ms,
        };
        let known = |action: &Action| match action {
            Action::Group(id) if *id > 1 => Err(ErrorCode::BadOutGroup),
            _ => Ok(()),
        };
        match self.command {
            FlowCommand::Delete | FlowCommand::DeleteStrict => {
                rules.retain(|rule| !self.selects(rule));
                return Ok(());
            }
            FlowCommand::Modify | FlowCommand::ModifyStrict => {
                if rules.iter().any(|rule| self.selects(rule)) {
                    known(&self.action)?;
                    for rule in rules.iter_mut().filter(|rule| self.selects(rule)) {
                        rule.action = new.action.clone();
                        rule.modified_ms = now_ms;
                        if self.cookie_mask == 0 && self.cookie != 0 {
                            rule.cookie = self.cookie;
                        }
                    }
                    return Ok(());
                }
                if self.cookie_mask != 0 {
                    return Ok(());
                }
            }
            FlowCommand::Add => {}
        }
        known(&self.action)?;
        let place = |rule: &Model| (rule.table, rule.priority, rule.port, rule.ip);
        let meets = |rule: &Model| {
            (rule.table, rule.priority) == (new.table, new.priority)
                && (rule.port.is_none() || new.port.is_none() || rule.port == new.port)
        };
        let same = rules.iter().position(|rule| place(rule) == place(&new));
        if same.is_none() && self.check_overlap && rules.iter().any(meets) {
            return Err(ErrorCode::Overlap);
        }
        if let Some(same) = same {
            rules.remove(same);
        }
        rules.push(new);
        Ok(())
    }
}

fn step() -> impl Strategy<Value = Step> {
    let command = prop_oneof![
        6 => Just(FlowCommand::Add),
        1 => Just(FlowCommand::Modify),
        1 => Just(FlowCommand::ModifyStrict),
        1 => Just(FlowCommand::Delete),
        2 => Just(FlowCommand::DeleteStrict),
    ];
    let action = prop_oneof![
        8 => (1..4u16).prop_map(Action::Output),
        2 => Just(Action::Group(1)),
        1 => Just(Action::Group(2)),
    ];
    let place = (
        prop::option::of(0..2u8),
        0..3u16,
        prop::option::of(1..4u16),
        any::<bool>(),
    );
    let cookie = (
        0..3u64,
        prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(u64::MAX)],
    );
    let rest = (
        action,
        prop::option::weighted(0.2, 1..4u16),
        prop::bool::weighted(0.1),
    );
    (command, place, cookie, rest).prop_map(|(command, place, cookie, rest)| {
        let (table, priority, port, ip) = place;
        let (cookie, cookie_mask) = cookie;
        let (action, out_port, check_overlap) = rest;
        Step {
            command,
            table,
            priority,
            port,
            ip,
            cookie,
            cookie_mask: if command == FlowCommand::Add {
                0
            } else {
                cookie_mask
            },
            action,
            out_port,
            check_overlap,
        }
    })
}

fn models(tables: &FlowTables) -> Vec<Model> {
    let rules = tables.rules(&FlowSpec::default());
    let models = rules.iter().map(|rule| {
        let matching = rule.matching.full();
        Model {
            table: rule.table,
            priority: rule.priority,
            port: (matching.mask.0[0] >> 32 != 0).then_some((matching.key.0[0] >> 32) as u16),
            ip: matching.mask.0[0] as u32 != 0,
            cookie: rule.cookie,
            action: format!("{:?}", rule.actions[0]),
            created_ms: rule.created_ms,
            modified_ms: rule.modified_ms,
        }
    });
    let mut models: Vec<_> = models.collect();
    models.sort();
    models
}

proptest! {
    /// Bundles of changes leave what going through a list leaves, or are
    /// refused for the same reason and leave everything; copies stay.
    #[test]
    fn changes_do_what_they_do_to_a_list(
        bundles in prop::collection::vec(prop::collection::vec(step(), 1..5), 1..20),
    ) {
        let mut tables = tables();
        tables.apply(&[Change::AddGroup(group(1, vec![]))], 0).unwrap();
        let mut rules: Vec<Model> = Vec::new();
        let mut in_use = 0;
        for (now_ms, steps) in bundles.iter().enumerate() {
            let now_ms = now_ms as u64 * 1_000;
            let mut after = rules.clone();
            let mut expected = Ok(());
            for (index, step) in steps.iter().enumerate() {
                if let Err(code) = step.apply(&mut after, now_ms) {
                    expected = Err((index, code));
                    break;
                }
            }
            let changes: Vec<_> = steps.iter().map(|step| change(step.command, step.spec())).collect();
            let before = tables.pipeline();
            let count = |pipeline: &Pipeline| -> usize {
                (0..2).filter_map(|table| pipeline.table(table)).map(Table::len).sum()
            };
            let result = tables.apply(&changes, now_ms);
            prop_assert_eq!(count(&before), rules.len());
            match result {
                Ok(applied) => {
                    prop_assert_eq!(expected, Ok(()));
                    let grown = applied.added as isize - applied.removed.len() as isize;
                    prop_assert_eq!(after.len() as isize - rules.len() as isize, grown);
                    rules = after;
                    in_use += grown;
                }
                Err((index, error)) => prop_assert_eq!(expected, Err((index, error.code))),
            }
            let mut sorted = rules.clone();
            sorted.sort();
            prop_assert_eq!(models(&tables), sorted);
            prop_assert_eq!(tables.len(), rules.len());
            // Each rule has a cell of its own, and no cell is lost.
            let cells: std::collections::HashSet<_> = tables.rules(&FlowSpec::default()).iter().map(|rule| rule.stats).collect();
            prop_assert_eq!(cells.len(), rules.len());
            prop_assert_eq!(tables.ids.used() as isize, TABLES as isize + 1 + in_use);
        }
        // The ways to rules end with the rules.
        tables.apply(&[Change::DeleteGroups(None), change(FlowCommand::Delete, FlowSpec::default())], 0).unwrap();
        prop_assert!(tables.is_empty());
        prop_assert_eq!(tables.state.index.memory(), 0);
    }
}
