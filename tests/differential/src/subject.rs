//! ringway's flow tables, asked the same as the oracle.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway_flow::action::{Action, GroupSpec, GroupType};
use ringway_flow::extract::extract;
use ringway_flow::field::{Field, Prereq, Subfield};
use ringway_flow::key::{FlowKey, PacketKey, VLAN_PRESENT};
use ringway_flow::pipeline::{FlowTables, Pipeline};
use ringway_flow::rule::{Change, FlowCommand, FlowSpec, Rule};
use ringway_flow::stats::StatsTable;
use ringway_flow::text::{self, FlowAges, NoNames};
use ringway_flow::trace::{BridgeNow, NormalNow, Request, trace};
use ringway_flow::translate::{Note, Start, Tracer, Translation, Untraced, translate};

use crate::execute::{Executed, execute, head_of};
use crate::oracle::{LOCAL, Outputs};
use crate::rules::{GroupText, RuleSet};

/// Which bucket each select group is to choose, by group and index.
pub type Choices = BTreeMap<u32, usize>;

/// Tables of one bridge with ports.
pub struct Subject {
    tables: FlowTables,
    pipeline: Pipeline,
    ports: Vec<u16>,
    groups: Vec<GroupSpec>,
    now_ms: u64,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}

impl Subject {
    /// Empty tables.
    pub fn new(ports: impl Iterator<Item = u16>) -> Self {
        let mut tables = FlowTables::new(Arc::new(StatsTable::default()));
        let ports: Vec<u16> = ports.collect();
        let mut live = [0; 16];
        for port in ports.iter().filter(|port| **port != LOCAL) {
            live[usize::from(port / 64)] |= 1 << (port % 64);
        }
        tables.set_live_ports(&live);
        let pipeline = tables.pipeline();
        Self {
            tables,
            pipeline,
            ports,
            groups: Vec::new(),
            now_ms: 1,
        }
    }

    /// Adds a group. The error is why it was refused.
    pub fn add_group(&mut self, text: &str) -> Result<(), String> {
        let group = text::parse_group(text, &NoNames).map_err(|error| error.to_string())?;
        self.apply(Change::AddGroup(group.clone()))?;
        self.groups.push(group);
        Ok(())
    }

    /// Adds a rule. The error is why it was refused.
    pub fn add_flow(&mut self, text: &str) -> Result<FlowSpec, String> {
        let flow = text::parse_flow(text, FlowCommand::Add, &NoNames)
            .map_err(|error| error.to_string())?;
        let add = Change::Flow(FlowCommand::Add, Box::new(flow.value.clone()));
        self.apply(add).map(|()| flow.value)
    }

    /// Adds groups and rules; leaves out what is refused.
    pub fn add_all(&mut self, set: &RuleSet) {
        for group in &set.groups {
            let _ = self.add_group(group.text());
        }
        for rule in &set.rules {
            let _ = self.add_flow(&rule.text);
        }
    }

    /// Makes select groups choose these buckets.
    pub fn choose(&mut self, choices: &Choices) -> Result<(), String> {
        for (id, bucket) in choices {
            let mut group = (self.groups.iter())
                .find(|group| group.id == *id)
                .ok_or("no such group")?
                .clone();
            for (i, other) in group.buckets.iter_mut().enumerate() {
                other.weight = u16::from(i == *bucket);
            }
            self.apply(Change::ModifyGroup(group, false))?;
        }
        Ok(())
    }

    /// Every way in which the select groups can choose, up to a bound.
    pub fn all_choices(&self) -> Vec<Choices> {
        let mut all = vec![Choices::new()];
        for group in self
            .groups
            .iter()
            .filter(|group| group.kind == GroupType::Select)
        {
            let buckets = group.buckets.iter().enumerate();
            let live: Vec<usize> = buckets
                .filter(|(_, b)| b.weight > 0)
                .map(|(i, _)| i)
                .collect();
            let with = |choices: &Choices, bucket: usize| {
                let mut choices = choices.clone();
                choices.insert(group.id, bucket);
                choices
            };
            if !live.is_empty() {
                all = (all.iter())
                    .flat_map(|choices| live.iter().map(|bucket| with(choices, *bucket)))
                    .collect();
            }
        }
        all.truncate(256);
        all
    }

    /// Its ports.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        self.ports.clone().into_iter()
    }

    /// The rules as `dump-flows` prints them.
    pub fn dump_flows(&self) -> Vec<String> {
        let tables = (0..=u8::MAX).filter_map(|table| self.pipeline.table(table));
        let rules = tables.flat_map(|table| table.iter());
        let ages = FlowAges::default();
        rules
            .map(|rule| text::print_flow(rule, Some(&ages), &NoNames))
            .collect()
    }

    /// The same rules with every choice that the select groups could make.
    pub fn with_other_choices<'a>(&'a self, set: &'a RuleSet) -> impl Iterator<Item = Self> + 'a {
        let has_select = set.groups.iter().any(GroupText::is_select);
        let choices = has_select.then(|| self.all_choices());
        choices.into_iter().flatten().filter_map(|choices| {
            let mut other = Self::new(self.ports());
            other.add_all(set);
            other.choose(&choices).ok()?;
            Some(other)
        })
    }

    /// A frame's key.
    pub fn key(&self, port: u16, frame: &[u8]) -> PacketKey {
        let mut key = PacketKey::default();
        let (head, len) = head_of(frame);
        extract(&head, len, frame.len(), 0, port, &mut key);
        key
    }

    /// What becomes of a frame.
    pub fn translate(&self, port: u16, frame: &[u8]) -> Translation {
        let mut out = Translation::default();
        let key = self.key(port, frame);
        translate(&self.pipeline, &key, Start::Tables, &mut out, &mut Untraced);
        out
    }

    /// What of a frame's way is of interest to decisions.
    pub fn met(&self, port: u16, frame: &[u8]) -> Met {
        let key = self.key(port, frame);
        let present = |word: usize| key.0[word] as u16 & VLAN_PRESENT != 0;
        let mut met = Met {
            tags: usize::from(present(1)) + usize::from(present(2)),
            ..Met::default()
        };
        let mut out = Translation::default();
        translate(&self.pipeline, &key, Start::Tables, &mut out, &mut met);
        let flow = key.to_flow();
        let protocol = Field::IpProto.get(&flow);
        met.mod_ports &= !matches!(protocol, 6 | 17);
        met.later_fragment = Field::IpFrag.get(&flow) & 2 != 0;
        met.later_icmp &= met.later_fragment && matches!(protocol, 1 | 58);
        met.wrote_rarp &= Field::EthType.get(&flow) == 0x8035;
        met
    }

    /// A frame's way in words. NORMAL knows no stations.
    pub fn trace(&self, port: u16, frame: &[u8]) -> String {
        let request = Request {
            bridge: "br0",
            packet: &self.key(port, frame),
            start: Start::Tables,
            ports: &NoNames,
            now: self,
        };
        trace(&self.pipeline, &request).text
    }

    /// Puts a frame into a port.
    pub fn execute(&self, port: u16, frame: &[u8]) -> Executed {
        execute(
            &self.translate(port, frame).program,
            frame,
            port,
            &self.ports,
        )
    }

    /// Puts a frame into a port and gives what came out.
    pub fn send(&self, port: u16, frame: &[u8]) -> Outputs {
        self.execute(port, frame).outputs
    }

    fn apply(&mut self, change: Change) -> Result<(), String> {
        self.now_ms += 1;
        let applied = self.tables.apply(&[change], self.now_ms);
        applied.map_err(|(_, error)| error.to_string())?;
        self.pipeline = self.tables.pipeline();
        Ok(())
    }
}

impl BridgeNow for Subject {
    fn normal(&self, packet: &PacketKey) -> NormalNow {
        let in_port = (packet.0[0] >> 32) as u16;
        NormalNow::Flood(self.flood(in_port))
    }

    fn flood(&self, in_port: u16) -> Vec<u16> {
        self.ports().filter(|port| *port != in_port).collect()
    }
}

/// What a frame met on its way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// How many tags it may have had: those that it came with, of the two that
    /// are read, and one for each action that may add one.
    pub tags: usize,
    /// An action wrote into the whole TCI.
    pub wrote_tci: bool,
    /// It is a fragment that has no transport header.
    pub later_fragment: bool,
    /// ICMP's type or code was written, and it is such a fragment.
    pub later_icmp: bool,
    /// A field of ARP was written, and it is RARP.
    pub wrote_rarp: bool,
    /// How often a group was met.
    pub groups: usize,
    /// `mod_tp_src` or `mod_tp_dst`, and it is neither TCP nor UDP.
    pub mod_ports: bool,
}

impl Tracer for Met {
    fn action(&mut self, _: usize, action: &Action) {
        self.tags += usize::from(matches!(action, Action::PushVlan(_)));
        let written = match action {
            Action::SetField { field, .. } | Action::Mod(field, _) => Some(*field),
            Action::Move { to, .. } => Some(to.field),
            _ => None,
        };
        self.wrote_tci |= written == Some(Field::VlanTci);
        let has = |prereq: Prereq| written.is_some_and(|field| field.info().prereq == prereq);
        self.later_icmp |= has(Prereq::Icmp) || has(Prereq::Icmpv6);
        self.wrote_rarp |= has(Prereq::Arp);
        self.groups += usize::from(matches!(action, Action::Group(_)));
        self.mod_ports |= matches!(action, Action::Mod(Field::TcpSrc | Field::TcpDst, _));
    }

    fn table(&mut self, _: usize, _: u8, _: &FlowKey, _: Option<&Rule>, _: &PacketKey) {}
    fn nothing(&mut self, _: usize) {}
    fn bucket(&mut self, _: usize, _: u32) {}
    fn action_set(&mut self, _: usize) {}
    fn note(&mut self, _: usize, _: Note, _: std::fmt::Arguments<'_>) {}
    fn action_set_now(&mut self, _: usize, _: &str, _: &mut dyn Iterator<Item = &Action>) {}
    fn moved(&mut self, _: usize, _: Subfield, _: &FlowKey) {}
    fn normal(&mut self, _: usize, _: &FlowKey) {}
}
