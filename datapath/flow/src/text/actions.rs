//! Actions and instructions from text.

use super::TextError;
use super::arguments::{controller, controller_ids, note, resubmit, to_port};
use super::check::{Packet, needs};
use super::names::{SCTP, missing_action, only_subfield};
use super::ports::{PortNames, parse_port};
use super::scan::{Item, Items, Scan, fault, number, number16, number32, number64, table};
use super::values::{ipv4, mac};
use crate::action::{Action, Controller, Reason};
use crate::field::{Field, Prereq};
use crate::key::VLAN_PRESENT;

/// Ethernet types of VLAN tags.
const TPIDS: [u16; 2] = [0x8100, 0x88a8];

/// Reads the actions of a packet-out: `output:1,resubmit(,3)`. Instructions
/// (`goto_table`, `write_actions` …) are a flow's only.
pub fn parse_actions(text: &str, ports: &dyn PortNames) -> Result<Vec<Action>, TextError> {
    let mut reader = Reader::new(ports, Place::List);
    let mut actions = Vec::new();
    match reader.list(text, &mut actions) {
        Ok(()) => Ok(actions),
        Err(fault) => Err(TextError::new(fault, text, None)),
    }
}

/// Where the actions stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a flow of this table (if it says one): instructions may be among them.
    Flow(Option<u8>),
    /// In a bucket or packet-out: no instructions.
    List,
    /// In `write_actions(…)`: what an action set may hold.
    Set,
}

/// Instructions, in the order in which they must stand (OpenFlow 1.3, 5.9).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Meter,
    Apply,
    Clear,
    Write,
    Metadata,
    Goto,
}

impl Step {
    fn of(action: &Action) -> Self {
        match action {
            Action::Meter(_) => Self::Meter,
            Action::ClearActions => Self::Clear,
            Action::WriteActions(_) => Self::Write,
            Action::WriteMetadata { .. } => Self::Metadata,
            Action::GotoTable(_) => Self::Goto,
            _ => Self::Apply,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::Apply => "apply_actions",
            Self::Clear => "clear_actions",
            Self::Write => "write_actions",
            Self::Metadata => "write_metadata",
            Self::Goto => "goto_table",
        }
    }
}

/// Reads actions one after the other.
pub(super) struct Reader<'p, 't> {
    pub(super) ports: &'p dyn PortNames,
    pub(super) place: Place,
    /// Actions may stand in parentheses here; two deep they may not.
    may_nest: bool,
    /// The packet at this point; `None`: nothing is known, nothing is checked.
    pub(super) packet: Option<Packet>,
    /// A write that the match does not allow but OpenFlow 1.0 let pass, and an
    /// action that OpenFlow 1.0 had not: no flow may have both.
    pub(super) loose: Option<(&'t str, Prereq)>,
    strict: Option<&'t str>,
    /// `drop` was read.
    drop: Option<&'t str>,
}

impl<'p, 't> Reader<'p, 't> {
    pub fn new(ports: &'p dyn PortNames, place: Place) -> Self {
        Self {
            ports,
            place,
            may_nest: matches!(place, Place::Flow(_)),
            packet: None,
            loose: None,
            strict: None,
            drop: None,
        }
    }

    /// Checks writes against what the match tells.
    pub fn with_packet(mut self, packet: Packet) -> Self {
        self.packet = Some(packet);
        self
    }

    /// The flow has something that OpenFlow 1.0 had not.
    pub fn not_of_openflow_10(&mut self, at: &'t str) {
        self.strict.get_or_insert(at);
    }

    /// Reads a whole list.
    pub fn list(&mut self, text: &'t str, out: &mut Vec<Action>) -> Scan<'t, ()> {
        let mut items = Items::of(text);
        while let Some(item) = items.next()? {
            self.item(item, out)?;
        }
        self.finish(out)
    }

    /// What can be told only when all was read.
    pub fn finish(&self, out: &[Action]) -> Scan<'t, ()> {
        if let (Some(drop), false) = (self.drop, out.is_empty()) {
            return fault!(drop, "drop must stand alone: other actions are beside it");
        }
        // Open vSwitch lets it pass in an action set.
        if self.place == Place::Set {
            return Ok(());
        }
        if let (Some((at, prereq)), Some(strict)) = (self.loose, self.strict) {
            let key = strict.split([':', '=', '(']).next().unwrap_or(strict);
            return fault!(
                at,
                "the match does not allow this action: it needs {} \
                 (beside {key}; Open vSwitch: OFPBAC_MATCH_INCONSISTENT)",
                needs(prereq)
            );
        }
        Ok(())
    }

    /// Reads one action and checks its place among the others.
    pub fn item(&mut self, item: Item<'t>, out: &mut Vec<Action>) -> Scan<'t, ()> {
        let before = out.len();
        self.action(item, out)?;
        for i in before.max(1)..out.len() {
            let (last, next) = (Step::of(&out[i - 1]), Step::of(&out[i]));
            if next == last && last != Step::Apply {
                return fault!(item.all, "{} is there twice", next.name());
            }
            if next < last {
                return fault!(
                    item.all,
                    "{} must stand before {}: the order is meter, actions, clear_actions, \
                     write_actions, write_metadata, goto_table",
                    next.name(),
                    last.name()
                );
            }
        }
        Ok(())
    }

    fn action(&mut self, item: Item<'t>, out: &mut Vec<Action>) -> Scan<'t, ()> {
        let Item { key, value, all } = item;
        // Open vSwitch takes actions' names in any case.
        let mut small = [0u8; 16];
        let lower = match small.get_mut(..key.len()) {
            Some(small) => {
                small.copy_from_slice(key.as_bytes());
                small.make_ascii_lowercase();
                std::str::from_utf8(small).unwrap_or(key)
            }
            None => key,
        };
        let in_set = self.place == Place::Set;
        let action = match lower {
            "output" => self.output(item)?,
            "controller" => Action::Controller(controller(value)?),
            "drop" => {
                self.drop = Some(all);
                return Ok(());
            }
            "group" => Action::Group(number32(value, "a group")?),
            "push_vlan" => {
                self.strict.get_or_insert(all);
                let tpid = number16(value, "push_vlan")?;
                if !TPIDS.contains(&tpid) {
                    return fault!(value, "a VLAN tag has the type 0x8100 or 0x88a8");
                }
                if self
                    .packet
                    .as_mut()
                    .is_some_and(|packet| !packet.push_tag())
                {
                    return fault!(all, "there are two tags already; a third is not possible");
                }
                Action::PushVlan(tpid)
            }
            "pop_vlan" | "strip_vlan" => {
                self.loosely(all, Prereq::Vlan);
                self.know(Packet::pop_tag);
                Action::PopVlan
            }
            "mod_vlan_vid" => {
                let vid = number(value, "a VLAN", 0xfff)?;
                self.know(|packet| packet.set_tag(true));
                Action::ModVlanVid(vid as u16)
            }
            "mod_vlan_pcp" => {
                let pcp = number(value, "a VLAN's priority", 7)?;
                self.know(|packet| packet.set_tag(true));
                Action::ModVlanPcp(pcp as u8)
            }
            "set_vlan_vid" => {
                let vid = u128::from(number(value, "a VLAN", 0xfff)?);
                let vid = vid | u128::from(VLAN_PRESENT);
                self.set(all, Field::VlanVid, vid, Field::VlanVid.ones(), false)?
            }
            "set_vlan_pcp" => {
                let pcp = number(value, "a VLAN's priority", 7)?;
                self.set(all, Field::VlanPcp, pcp.into(), 7, false)?
            }
            "mod_dl_src" => Action::Mod(Field::EthSrc, mac(value)?),
            "mod_dl_dst" => Action::Mod(Field::EthDst, mac(value)?),
            "mod_nw_src" | "mod_nw_dst" => {
                let source = lower.ends_with("src");
                let field = if source { Field::IpSrc } else { Field::IpDst };
                self.as_set_field(all, field, in_set)?;
                Action::Mod(field, ipv4(value)?)
            }
            "mod_nw_tos" => {
                self.as_set_field(all, Field::IpTos, in_set)?;
                let tos = number(value, "the TOS", 0xff)?;
                if tos & 3 != 0 {
                    return fault!(
                        value,
                        "the lower two bits are not the TOS's; use mod_nw_ecn"
                    );
                }
                Action::Mod(Field::IpTos, tos.into())
            }
            "mod_nw_ecn" => {
                self.as_set_field(all, Field::IpEcn, true)?;
                Action::Mod(Field::IpEcn, number(value, "the ECN", 3)?.into())
            }
            "mod_nw_ttl" | "set_nw_ttl" => {
                self.as_set_field(all, Field::IpTtl, !in_set)?;
                Action::Mod(Field::IpTtl, number(value, "the TTL", 0xff)?.into())
            }
            "mod_tp_src" | "mod_tp_dst" => {
                let known = self.packet.as_ref();
                if known.is_some_and(|packet| packet.has(Prereq::Sctp)) {
                    return fault!(all, "SCTP's ports (protocol {SCTP}) cannot be written");
                }
                if known.is_some_and(|packet| !packet.has_ports()) {
                    self.loose.get_or_insert((all, Prereq::Tcp));
                }
                let source = lower.ends_with("src");
                let field = if source { Field::TcpSrc } else { Field::TcpDst };
                Action::Mod(field, number16(value, "a port")?.into())
            }
            "set_field" => self.set_field(item)?,
            "load" => return self.load(item, out),
            "move" => self.copy(item)?,
            "dec_ttl" => {
                self.loosely(all, Prereq::Ip);
                Action::DecTtl(controller_ids(value)?)
            }
            "resubmit" => resubmit(item, self.ports)?,
            "note" => Action::Note(note(value)?),
            "exit" => Action::Exit,
            "meter" => {
                self.strict.get_or_insert(all);
                match number32(value, "a meter")? {
                    0 | 0xffff_0001.. => {
                        return fault!(value, "meters are 1 to 4294901760");
                    }
                    id => Action::Meter(id),
                }
            }
            "clear_actions" => Action::ClearActions,
            "write_actions" | "apply_actions" if !self.may_nest => {
                return fault!(
                    all,
                    "{key} is an instruction: it stands in a flow, in no other action"
                );
            }
            "write_actions" => {
                let mut inner = Reader::new(self.ports, Place::Set);
                inner.packet = self.packet;
                let mut actions = Vec::new();
                inner.list(value, &mut actions)?;
                if actions.is_empty() {
                    // Nothing goes into the action set.
                    return Ok(());
                }
                self.strict = self.strict.or(inner.strict);
                Action::WriteActions(actions)
            }
            "apply_actions" => {
                self.may_nest = false;
                let mut items = Items::of(value);
                while let Some(item) = items.next()? {
                    self.item(item, out)?;
                }
                self.may_nest = true;
                return Ok(());
            }
            "write_metadata" => {
                let (number, mask) = match value.split_once('/') {
                    Some((number, mask)) => (number, number64(mask, "the mask of metadata")?),
                    None => (value, u64::MAX),
                };
                // Bits beyond the mask do nothing and are printed again.
                let value = number64(number, "metadata")?;
                Action::WriteMetadata { value, mask }
            }
            "goto_table" => self.goto_table(value)?,
            _ => {
                if let Some(why) = missing_action(key) {
                    return fault!(key, "action {key} is not supported: {why}");
                }
                match parse_port(key, self.ports) {
                    Some(port) => to_port(key, port)?,
                    None => {
                        return fault!(
                            key,
                            "unknown action or port \"{key}\" (ovs-actions(7) has the actions)"
                        );
                    }
                }
            }
        };
        self.allowed(&action, all)?;
        out.push(action);
        Ok(())
    }

    /// Whether an action may stand here.
    fn allowed(&self, action: &Action, at: &'t str) -> Scan<'t, ()> {
        let step = Step::of(action);
        match self.place {
            Place::Flow(_) => Ok(()),
            Place::List if matches!(step, Step::Apply | Step::Meter) => Ok(()),
            Place::List => fault!(at, "{} is allowed in flows only", step.name()),
            Place::Set => {
                // Open vSwitch takes CONTROLLER as an output, with a length only.
                let plain = |controller: &Controller| {
                    controller.reason == Reason::Action && controller.id == 0
                };
                let fits = match action {
                    Action::OutputField(_) | Action::Note(_) | Action::Exit => false,
                    Action::Controller(controller) => plain(controller),
                    _ => step == Step::Apply,
                };
                if !fits {
                    let name = at.split([':', '(']).next().unwrap_or(at);
                    return fault!(at, "an action set cannot hold {name}");
                }
                Ok(())
            }
        }
    }

    /// What an action changes in the packet.
    pub(super) fn know(&mut self, change: impl FnOnce(&mut Packet)) {
        if let Some(packet) = &mut self.packet {
            change(packet);
        }
    }

    fn output(&self, item: Item<'t>) -> Scan<'t, Action> {
        let Item { value, .. } = item;
        if value.contains("max_len") {
            return fault!(
                item.all,
                "output(port=…,max_len=…) is not supported: packets are not cut; use output:PORT"
            );
        }
        if value.is_empty() {
            return fault!(item.all, "output needs a port, as in output:1");
        }
        if let Some(port) = parse_port(value, self.ports) {
            return to_port(value, port);
        }
        match only_subfield(value) {
            Ok(bits) => {
                self.strictly(value, bits.field.info(), bits.field.info().prereq)?;
                Ok(Action::OutputField(bits))
            }
            Err(fault) if value.contains('[') => Err(fault),
            Err(_) => fault!(value, "there is no port (and no field) \"{value}\""),
        }
    }

    fn goto_table(&self, value: &'t str) -> Scan<'t, Action> {
        let Some(to) = table(value)? else {
            return fault!(value, "a table is a number from 0 to 254");
        };
        match self.place {
            Place::Flow(Some(from)) if to <= from => fault!(
                value,
                "goto_table goes up only: this flow is in table {from} \
                 (resubmit(,{to}) goes anywhere)"
            ),
            _ => Ok(Action::GotoTable(to)),
        }
    }
}
