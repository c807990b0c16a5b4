//! Actions and instructions from text.

use super::TextError;
use super::check::{Packet, needs};
use super::names::{SCTP, field, missing_action, only_subfield, subfield, unknown_field};
use super::ports::{self, PORT_MAX, PortNames, parse_port};
use super::scan::{Item, Items, Scan, fault, integer, number, number16, number32, number64, table};
use super::values::{full_mask, ipv4, mac, masked};
use crate::action::{Action, Controller, Reason};
use crate::field::{Field, FieldInfo, Prereq, Subfield};
use crate::key::VLAN_PRESENT;

/// Ethernet types of VLAN tags.
const TPIDS: [u16; 2] = [0x8100, 0x88a8];
/// Bytes of a note in an OpenFlow message: 6, and 8 for each further step.
const NOTE_FIRST: usize = 6;

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
    ports: &'p dyn PortNames,
    place: Place,
    /// The packet at this point; `None`: nothing is known, nothing is checked.
    packet: Option<Packet>,
    /// A write that the match does not allow but OpenFlow 1.0 let pass, and an
    /// action that OpenFlow 1.0 had not: no flow may have both.
    loose: Option<(&'t str, Prereq)>,
    strict: Option<&'t str>,
    /// `drop` was read.
    drop: Option<&'t str>,
}

impl<'p, 't> Reader<'p, 't> {
    pub fn new(ports: &'p dyn PortNames, place: Place) -> Self {
        Self {
            ports,
            place,
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
                self.modifies(all, Prereq::Ipv4)?;
                let source = lower.ends_with("src");
                let field = if source { Field::IpSrc } else { Field::IpDst };
                Action::Mod(field, ipv4(value)?)
            }
            "mod_nw_tos" => {
                self.modifies(all, Prereq::Ip)?;
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
                self.modifies(all, Prereq::Ip)?;
                Action::Mod(Field::IpEcn, number(value, "the ECN", 3)?.into())
            }
            "mod_nw_ttl" | "set_nw_ttl" => {
                self.loosely(all, Prereq::Ip);
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
                let mut items = Items::of(value);
                while let Some(item) = items.next()? {
                    self.item(item, out)?;
                }
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
    fn know(&mut self, change: impl FnOnce(&mut Packet)) {
        if let Some(packet) = &mut self.packet {
            change(packet);
        }
    }

    /// The action writes what the packet may not have; OpenFlow 1.0 lets it pass.
    fn loosely(&mut self, at: &'t str, prereq: Prereq) {
        // When an action set is done is not known here, nor what precedes it;
        // but `mod_…` is `set_field` there, which is strict.
        let start = at.get(..4).unwrap_or_default();
        if self.place == Place::Set && !start.eq_ignore_ascii_case("mod_") {
            return;
        }
        if self
            .packet
            .as_ref()
            .is_some_and(|packet| !packet.has(prereq))
        {
            self.loose.get_or_insert((at, prereq));
        }
    }

    /// The same, of an action that is a `set_field` where it stands in a set.
    fn modifies(&mut self, at: &'t str, prereq: Prereq) -> Scan<'t, ()> {
        self.loosely(at, prereq);
        match self.loose {
            Some((at, prereq)) if self.place == Place::Set => fault!(
                at,
                "the match does not allow this action: it needs {} \
                 (Open vSwitch: OFPBAC_MATCH_INCONSISTENT)",
                needs(prereq)
            ),
            _ => Ok(()),
        }
    }

    /// The packet must have a field.
    fn strictly(&self, at: &'t str, info: &FieldInfo, prereq: Prereq) -> Scan<'t, ()> {
        match &self.packet {
            Some(packet) if !packet.has(prereq) => fault!(
                at,
                "the match does not allow {}: it needs {} \
                 (Open vSwitch: OFPBAC_MATCH_INCONSISTENT)",
                info.name,
                needs(prereq)
            ),
            _ => Ok(()),
        }
    }

    fn writable(&self, at: &'t str, field: Field) -> Scan<'t, ()> {
        match field.info() {
            info if info.writable => Ok(()),
            info if matches!(info.prereq, Prereq::Sctp) => {
                fault!(
                    at,
                    "{} cannot be written: its checksum covers the whole packet",
                    info.name
                )
            }
            info => fault!(at, "{} is read-only", info.name),
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

    fn set_field(&mut self, item: Item<'t>) -> Scan<'t, Action> {
        let (value, target) = arrow(item)?;
        match target {
            // OpenFlow 1.0 calls the tag's parts so; writing them adds a tag.
            "dl_vlan" => {
                let vid = number(value, "a VLAN", 0xfff)?;
                self.know(|packet| packet.set_tag(true));
                return Ok(Action::ModVlanVid(vid as u16));
            }
            "dl_vlan_pcp" => {
                let pcp = number(value, "a VLAN's priority", 7)?;
                self.know(|packet| packet.set_tag(true));
                return Ok(Action::ModVlanPcp(pcp as u8));
            }
            _ => {}
        }
        if target.contains('[') {
            let bits = only_subfield(target)?;
            let number = fitting(value, bits)?;
            return self.set(
                target,
                bits.field,
                number << bits.offset,
                bits.ones(),
                false,
            );
        }
        let Some(field) = field(target) else {
            return Err(unknown_field(target, "field"));
        };
        self.writable(target, field)?;
        let (mut number, mask) = masked(field, value, self.ports)?;
        if mask == 0 {
            return fault!(value, "this sets no bit of {}", field.info().name);
        }
        if field == Field::VlanVid && mask == field.ones() {
            number |= u128::from(VLAN_PRESENT);
        }
        self.set(target, field, number, mask, false)
    }

    fn load(&mut self, item: Item<'t>, out: &mut Vec<Action>) -> Scan<'t, ()> {
        let (value, target) = arrow(item)?;
        let bits = only_subfield(target)?;
        let number = fitting(value, bits)? << bits.offset;
        let mask = bits.ones() & full_mask(bits.field);
        // An OpenFlow load writes at most 64 bits.
        for from in [bits.offset, bits.offset.saturating_add(64)] {
            let part = u128::from(u64::MAX).checked_shl(from.into()).unwrap_or(0) & mask;
            if part != 0 {
                out.push(self.set(target, bits.field, number & part, part, true)?);
            }
        }
        Ok(())
    }

    /// A write of a field's bits, checked.
    fn set(
        &mut self,
        at: &'t str,
        field: Field,
        value: u128,
        mask: u128,
        load: bool,
    ) -> Scan<'t, Action> {
        self.writable(at, field)?;
        let info = field.info();
        let prereq = match field {
            Field::VlanVid => Prereq::Vlan,
            _ => info.prereq,
        };
        self.strictly(at, info, prereq)?;
        let present = u128::from(VLAN_PRESENT);
        if field == Field::VlanTci && mask & present != 0 {
            self.know(|packet| packet.set_tag(value & present != 0));
        }
        Ok(Action::SetField {
            field,
            value: value & mask,
            mask,
            load,
        })
    }

    fn copy(&self, item: Item<'t>) -> Scan<'t, Action> {
        let (from, rest) = subfield(item.value)?;
        let Some(target) = rest.strip_prefix("->") else {
            return fault!(item.value, "move is written move:FROM->TO");
        };
        let to = only_subfield(target)?;
        if from.width != to.width {
            return fault!(
                item.value,
                "the source is {} bits wide but the destination {}",
                from.width,
                to.width
            );
        }
        let source = &item.value[..item.value.len() - rest.len()];
        self.strictly(source, from.field.info(), from.field.info().prereq)?;
        self.writable(target, to.field)?;
        self.strictly(target, to.field.info(), to.field.info().prereq)?;
        Ok(Action::Move { from, to })
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

/// `VALUE->FIELD`
fn arrow<'t>(item: Item<'t>) -> Scan<'t, (&'t str, &'t str)> {
    match item.value.split_once("->") {
        Some((_, "")) | None => {
            fault!(item.all, "{} is written {0}:VALUE->FIELD", item.key)
        }
        Some(parts) => Ok(parts),
    }
}

/// A number for some bits of a field.
fn fitting(text: &str, bits: Subfield) -> Scan<'_, u128> {
    match integer(text) {
        None => fault!(text, "the value must be a number"),
        Some(number) if number & !(bits.ones() >> bits.offset) != 0 => {
            fault!(text, "the value does not fit into {} bits", bits.width)
        }
        Some(number) => Ok(number),
    }
}

/// An output to a port, which may be a reserved one.
fn to_port(at: &str, port: u16) -> Scan<'_, Action> {
    Ok(match port {
        ports::IN_PORT => Action::InPort,
        // The tables, from the first on.
        ports::TABLE => Action::Resubmit {
            port: None,
            table: Some(0),
        },
        ports::NORMAL => Action::Normal,
        ports::FLOOD => Action::Flood,
        ports::ALL => Action::All,
        ports::CONTROLLER => Action::Controller(Controller::default()),
        ports::LOCAL => Action::Output(port),
        PORT_MAX.. => return fault!(at, "nothing can be sent to port {at}"),
        _ => Action::Output(port),
    })
}

/// `controller`, `controller:128`, `controller(reason=…,max_len=…,id=…)`
fn controller(value: &str) -> Scan<'_, Controller> {
    let mut controller = Controller::default();
    if value.is_empty() {
        return Ok(controller);
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        controller.max_len = number16(value, "max_len")?;
        return Ok(controller);
    }
    let mut items = Items::of(value);
    while let Some(Item { key, value, all }) = items.next()? {
        match key {
            "max_len" => controller.max_len = number16(value, "max_len")?,
            "id" => controller.id = number16(value, "a controller's id")?,
            "reason" => {
                controller.reason = match value {
                    "no_match" => Reason::NoMatch,
                    "action" => Reason::Action,
                    "invalid_ttl" => Reason::InvalidTtl,
                    _ => return fault!(value, "reasons are no_match, action and invalid_ttl"),
                }
            }
            "userdata" | "pause" | "meter_id" => {
                return fault!(
                    all,
                    "{key} is not supported: controller has reason, max_len and id"
                );
            }
            _ => return fault!(key, "controller has reason, max_len and id, not \"{key}\""),
        }
    }
    Ok(controller)
}

/// `dec_ttl(1,2)`: the ids.
fn controller_ids(value: &str) -> Scan<'_, Vec<u16>> {
    let parts = value.split([',', ' ']).filter(|part| !part.is_empty());
    parts
        .map(|part| number16(part, "a controller's id"))
        .collect()
}

/// `resubmit:PORT`, `resubmit(PORT,TABLE)`, `resubmit(,TABLE)`
fn resubmit<'t>(item: Item<'t>, names: &dyn PortNames) -> Scan<'t, Action> {
    let mut parts = item.value.splitn(3, ',');
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let (port, target, more) = (part(), part(), part());
    if let Some(more) = more {
        return fault!(
            more,
            "resubmit has a port and a table only (no connection tracking)"
        );
    }
    let port = match port {
        None => None,
        Some(name) => match parse_port(name, names) {
            None => return fault!(name, "there is no port \"{name}\""),
            Some(ports::IN_PORT) => None,
            port => port,
        },
    };
    let table = target.map(table).transpose()?.flatten();
    if port.is_none() && table.is_none() {
        return fault!(item.all, "resubmit needs a port, a table or both");
    }
    Ok(Action::Resubmit { port, table })
}

/// Hexadecimal digits, with dots or spaces between the bytes, filled up with
/// zeros as OpenFlow's messages are.
fn note(value: &str) -> Scan<'_, Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = value.trim_start_matches(['.', ' ']);
    while !rest.is_empty() {
        match rest
            .get(..2)
            .map(|byte| (byte, u8::from_str_radix(byte, 16)))
        {
            Some((text, Ok(byte))) if !text.starts_with('+') => bytes.push(byte),
            _ => {
                return fault!(
                    rest,
                    "a note is bytes of two hexadecimal digits: note:01.ff"
                );
            }
        }
        rest = rest[2..].trim_start_matches(['.', ' ']);
    }
    // One OpenFlow message has at most 64 KiB.
    if bytes.len() > 0xffff - 64 {
        return fault!(value, "the note is too long for one OpenFlow message");
    }
    let past = bytes.len().saturating_sub(NOTE_FIRST).next_multiple_of(8);
    bytes.resize(NOTE_FIRST + past, 0);
    Ok(bytes)
}
