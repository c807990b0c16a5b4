//! A naive model of a bridge, which the real one is tested against: linear
//! search, one packet at a time, headers written where they are, checksums
//! computed anew. No cache, no mask, no program.
//!
//! It shares with [`translate`](crate::translate) and
//! [`rewrite`](crate::rewrite) the types of keys, fields and actions, and
//! [`extract`](crate::extract) reads the frame as it comes in; nothing else.

pub mod arbitrary;
mod packet;
#[cfg(test)]
mod tests;

use crate::action::{Action, Bucket, Controller, GroupSpec, GroupType, Reason};
use crate::field::{Field, Prereq};
use crate::key::FlowKey;
use crate::rule::FlowSpec;

use packet::Packet;

/// A bridge.
pub struct Bridge<'a> {
    /// Its rules. Of those that match, the one with the highest priority is
    /// met; the first of equals.
    pub rules: &'a [FlowSpec],
    /// Its groups.
    pub groups: &'a [GroupSpec],
    /// Its meters.
    pub meters: &'a [u32],
    /// Whether a bucket is live.
    pub is_live: &'a dyn Fn(&Bucket) -> bool,
    /// Which bucket a select group takes for a packet (an index).
    pub choose: &'a dyn Fn(&GroupSpec, &FlowKey) -> Option<usize>,
}

/// Where a frame is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To a port.
    Port(u16),
    /// As a learning switch does.
    Normal,
    /// To every port but the one it came from.
    Flood,
    /// To controllers; the table is that of the rule.
    Controller(Controller, u8),
    /// Nowhere yet: what follows is within the meter's rate.
    Meter(u32),
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where.
    pub to: To,
    /// The frame.
    pub frame: Vec<u8>,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is sent, in this order; nothing: the packet is dropped.
    Sent(Vec<Sent>),
    /// Resubmits went beyond their limits.
    ResubmitLimit,
    /// A meter that is not there.
    NoMeter,
}

const MAX_DEPTH: usize = 64;
const MAX_RESUBMITS: usize = 4096;

/// A packet on its way.
struct Way<'a> {
    bridge: &'a Bridge<'a>,
    packet: Packet,
    sent: Vec<Sent>,
    action_set: Vec<&'a Action>,
    table: u8,
    depth: usize,
    resubmits: usize,
    exit: bool,
}

/// Why a packet is lost as a whole.
struct Lost(Outcome);

impl Bridge<'_> {
    /// Sends a frame that came in on a port through the tables.
    pub fn receive(&self, frame: &[u8], in_port: u16) -> Outcome {
        let mut way = Way {
            bridge: self,
            packet: Packet::new(frame, in_port),
            sent: Vec::new(),
            action_set: Vec::new(),
            table: 0,
            depth: 0,
            resubmits: 0,
            exit: false,
        };
        match way.go() {
            Ok(()) => Outcome::Sent(way.sent),
            Err(Lost(outcome)) => outcome,
        }
    }
}

impl<'a> Way<'a> {
    fn go(&mut self) -> Result<(), Lost> {
        if let Some(rule) = self.look_up(0, self.packet.in_port()) {
            self.list(&rule.actions)?;
        }
        let set = std::mem::take(&mut self.action_set);
        self.set(&set)
    }

    fn look_up(&self, table: u8, port: u16) -> Option<&'a FlowSpec> {
        let mut flow = self.packet.key;
        Field::InPort.set(&mut flow, port.into());
        if Field::IpFrag.get(&flow) != 0 {
            // Of fragments, ports are not known.
            Field::TcpSrc.set(&mut flow, 0);
            Field::TcpDst.set(&mut flow, 0);
        }
        let mut best: Option<&FlowSpec> = None;
        for rule in self.bridge.rules {
            let better = best.is_none_or(|best| rule.priority > best.priority);
            if rule.table.unwrap_or(0) == table && better && rule.matching.matches(&flow) {
                best = Some(rule);
            }
        }
        best
    }

    fn limit(&mut self) -> Result<(), Lost> {
        self.resubmits += 1;
        if self.depth >= MAX_DEPTH || self.resubmits > MAX_RESUBMITS {
            return Err(Lost(Outcome::ResubmitLimit));
        }
        Ok(())
    }

    fn resubmit(&mut self, port: u16, table: u8) -> Result<(), Lost> {
        self.limit()?;
        let Some(rule) = self.look_up(table, port) else {
            return Ok(());
        };
        let (old, deeper) = (self.table, usize::from(table <= self.table));
        self.table = table;
        self.depth += deeper;
        self.list(&rule.actions)?;
        self.depth -= deeper;
        self.table = old;
        Ok(())
    }

    fn list(&mut self, actions: &'a [Action]) -> Result<(), Lost> {
        for action in actions {
            if self.exit || !self.act(action)? {
                break;
            }
        }
        Ok(())
    }

    /// Does a set of actions in OpenFlow's order.
    fn set(&mut self, set: &[&'a Action]) -> Result<(), Lost> {
        let last = |which: fn(&Action) -> bool| set.iter().rfind(|action| which(action)).copied();
        let group = last(|action| matches!(action, Action::Group(_)));
        let output = last(|action| {
            use Action::{All, Controller, Flood, InPort, Normal, Output};
            matches!(
                action,
                Output(_) | InPort | Normal | Flood | All | Controller(_)
            )
        });
        let resubmit = last(|action| matches!(action, Action::Resubmit { .. }));
        let Some(end) = group.or(output).or(resubmit) else {
            return Ok(());
        };
        let mut list = Vec::new();
        list.extend(last(|action| matches!(action, Action::PopVlan)));
        list.extend(last(|action| matches!(action, Action::PushVlan(_))));
        list.extend(last(|action| matches!(action, Action::DecTtl(_))));
        list.extend(set.iter().filter(|action| {
            use Action::{Mod, ModVlanPcp, ModVlanVid, Move, SetField};
            matches!(
                action,
                Mod(..) | ModVlanPcp(_) | ModVlanVid(_) | Move { .. } | SetField { .. }
            )
        }));
        list.push(end);
        for action in list {
            if self.exit || !self.act(action)? {
                break;
            }
        }
        Ok(())
    }

    fn send(&mut self, to: To) {
        let frame = match to {
            To::Meter(_) => Vec::new(),
            _ => self.packet.frame(),
        };
        self.sent.push(Sent { to, frame });
    }

    fn output(&mut self, port: u16) {
        match port {
            0xfff8 => match self.packet.in_port() {
                0 | 0xff00..=0xfffd | 0xffff => {}
                port => self.send(To::Port(port)),
            },
            0xfffa => self.send(To::Normal),
            0xfffb | 0xfffc => self.send(To::Flood),
            0xfffd => self.send(To::Controller(Controller::default(), self.table)),
            0 | 0xff00..=0xfffc | 0xffff => {}
            port if port == self.packet.in_port() => {}
            port => self.send(To::Port(port)),
        }
    }

    /// Does one action; false: the list ends.
    fn act(&mut self, action: &'a Action) -> Result<bool, Lost> {
        match action {
            Action::Output(port) => self.output(*port),
            Action::OutputField(from) => {
                if let Ok(port) = u16::try_from(from.get(&self.packet.key)) {
                    self.output(port);
                }
            }
            Action::InPort => self.output(0xfff8),
            Action::Normal => self.output(0xfffa),
            Action::Flood | Action::All => self.output(0xfffc),
            Action::Controller(to) => self.send(To::Controller(*to, self.table)),
            Action::PushVlan(tpid) => self.packet.push_tag(*tpid, 0),
            Action::PopVlan => self.packet.pop_tag(),
            Action::ModVlanVid(vid) => self.packet.write_tci(*vid, 0x0fff, true),
            Action::ModVlanPcp(pcp) => {
                self.packet.write_tci(u16::from(*pcp) << 13, 0xe000, true);
            }
            Action::Mod(Field::TcpSrc, port) => {
                if self.has(Prereq::Udp) {
                    self.packet.write(Field::UdpSrc, *port, u128::MAX);
                } else if self.has(Prereq::Tcp) {
                    self.packet.write(Field::TcpSrc, *port, u128::MAX);
                }
            }
            Action::Mod(Field::TcpDst, port) => {
                if self.has(Prereq::Udp) {
                    self.packet.write(Field::UdpDst, *port, u128::MAX);
                } else if self.has(Prereq::Tcp) {
                    self.packet.write(Field::TcpDst, *port, u128::MAX);
                }
            }
            Action::Mod(field, value) => self.write(*field, *value, u128::MAX),
            Action::SetField {
                field, value, mask, ..
            } => self.write(*field, *value, *mask),
            Action::Move { from, to } => {
                if self.has(from.field.info().prereq) {
                    let value = from.get(&self.packet.key);
                    self.write(to.field, value << to.offset, to.ones());
                }
            }
            Action::DecTtl(controllers) => {
                if self.has(Prereq::Ip) {
                    let ttl = Field::IpTtl.get(&self.packet.key);
                    if ttl <= 1 {
                        self.expired(controllers);
                        return Ok(false);
                    }
                    self.write(Field::IpTtl, ttl - 1, 0xff);
                }
            }
            Action::Resubmit { port, table } => {
                let port = port.unwrap_or(self.packet.in_port());
                self.resubmit(port, table.unwrap_or(self.table))?;
            }
            Action::GotoTable(table) => self.resubmit(self.packet.in_port(), *table)?,
            Action::Group(id) => {
                let groups = self.bridge.groups;
                match groups.iter().find(|group| group.id == *id) {
                    Some(group) => self.group(group)?,
                    None => return Ok(false),
                }
            }
            Action::Note(_) => {}
            Action::Exit => self.exit = true,
            Action::Meter(id) => {
                if !self.bridge.meters.contains(id) {
                    return Err(Lost(Outcome::NoMeter));
                }
                self.send(To::Meter(*id));
            }
            Action::ClearActions => self.action_set.clear(),
            Action::WriteActions(actions) => self.action_set.extend(actions),
            Action::WriteMetadata { value, mask } => {
                self.write(Field::Metadata, (*value).into(), (*mask).into());
            }
        }
        Ok(true)
    }

    fn expired(&mut self, controllers: &[u16]) {
        let ids = if controllers.is_empty() {
            &[0]
        } else {
            controllers
        };
        for id in ids {
            let to = Controller {
                reason: Reason::InvalidTtl,
                max_len: u16::MAX,
                id: *id,
            };
            self.send(To::Controller(to, self.table));
        }
    }

    fn group(&mut self, group: &'a GroupSpec) -> Result<(), Lost> {
        let chosen: Vec<_> = match group.kind {
            GroupType::All | GroupType::Indirect => group.buckets.iter().collect(),
            GroupType::Select => {
                let index = (self.bridge.choose)(group, &self.packet.key);
                index
                    .map(|index| &group.buckets[index])
                    .into_iter()
                    .collect()
            }
            GroupType::FastFailover => {
                let mut buckets = group.buckets.iter();
                let live = buckets.find(|bucket| (self.bridge.is_live)(bucket));
                live.into_iter().collect()
            }
        };
        for bucket in chosen {
            if self.exit {
                break;
            }
            self.limit()?;
            let packet = self.packet.clone();
            self.depth += 1;
            self.set(&bucket.actions.iter().collect::<Vec<_>>())?;
            self.depth -= 1;
            self.packet = packet;
            self.exit = false;
        }
        Ok(())
    }

    fn write(&mut self, field: Field, value: u128, mask: u128) {
        if self.has(field.info().prereq) {
            self.packet.write(field, value, mask);
        }
    }

    /// Whether the packet has what a field needs.
    fn has(&self, prereq: Prereq) -> bool {
        let get = |field: Field| field.get(&self.packet.key);
        let kind = get(Field::EthType);
        let ip = matches!(kind, 0x0800 | 0x86dd);
        let carries = |proto| get(Field::IpProto) == proto && get(Field::IpFrag) & 2 == 0;
        let nd = |types: &[u128]| {
            let (kind_of, code) = (get(Field::TcpSrc), get(Field::TcpDst));
            kind == 0x86dd && carries(58) && code == 0 && types.contains(&kind_of)
        };
        match prereq {
            Prereq::None => true,
            Prereq::Vlan => !self.packet.tags.is_empty(),
            Prereq::Ipv4 => kind == 0x0800,
            Prereq::Ipv6 => kind == 0x86dd,
            Prereq::Ip => ip,
            Prereq::Arp => matches!(kind, 0x0806 | 0x8035),
            Prereq::Tcp => ip && carries(6),
            Prereq::Udp => ip && carries(17),
            Prereq::Sctp => ip && carries(132),
            Prereq::Icmp => kind == 0x0800 && carries(1),
            Prereq::Icmpv6 => kind == 0x86dd && carries(58),
            Prereq::Nd => nd(&[135, 136]),
            Prereq::NdSolicit => nd(&[135]),
            Prereq::NdAdvert => nd(&[136]),
        }
    }
}
