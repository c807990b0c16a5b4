//! What each action does, but for those that look into another table.

use crate::action::{Action, Controller, Reason};
use crate::field::{Field, Subfield};
use crate::key::PORT_LOCAL;
use crate::program::{DpAction, DropCause};

use super::{IN_PORT, Note, Then, Tracer, Way};

/// OFPP_MAX: port numbers from here on are reserved.
const PORT_MAX: u16 = 0xff00;
/// OFPP_IN_PORT
const PORT_IN_PORT: u16 = 0xfff8;
/// OFPP_NORMAL
const PORT_NORMAL: u16 = 0xfffa;
/// OFPP_FLOOD
const PORT_FLOOD: u16 = 0xfffb;
/// OFPP_ALL
const PORT_ALL: u16 = 0xfffc;
/// OFPP_CONTROLLER
const PORT_CONTROLLER: u16 = 0xfffd;

impl<'p, T: Tracer> Way<'p, '_, T> {
    /// Does one action.
    pub(super) fn act(&mut self, action: &'p Action) -> Then {
        match action {
            Action::Output(port) => self.output(*port),
            Action::OutputField(from) => self.output_field(*from),
            Action::InPort => self.output(PORT_IN_PORT),
            Action::Normal => self.output(PORT_NORMAL),
            Action::Flood => self.output(PORT_FLOOD),
            Action::All => self.output(PORT_ALL),
            Action::Controller(to) => self.controller(*to),
            Action::PushVlan(tpid) => self.push_tag(*tpid),
            Action::PopVlan => self.pop_tag(),
            Action::ModVlanVid(vid) => self.modify_tci(*vid, 0x0fff),
            Action::ModVlanPcp(pcp) => self.modify_tci(u16::from(*pcp) << 13, 0xe000),
            Action::Mod(field, value) => self.modify(*field, *value),
            Action::SetField {
                field, value, mask, ..
            } => self.set_field(*field, *value, *mask),
            Action::Move { from, to } => self.move_field(*from, *to),
            Action::DecTtl(controllers) => return self.dec_ttl(controllers),
            Action::Group(id) => return self.group(*id),
            Action::Meter(id) => self.meter(*id),
            Action::Exit => self.exit = true,
            Action::ClearActions => self.clear_action_set(),
            Action::WriteActions(actions) => self.write_action_set(actions),
            Action::WriteMetadata { value, mask } => {
                self.write_field(Field::Metadata, (*value).into(), (*mask).into());
            }
            // The loop over the list does these itself.
            Action::Resubmit { .. } | Action::GotoTable(_) => {}
            Action::Note(_) => {}
        }
        Then::GoOn
    }

    fn warn(&mut self, note: std::fmt::Arguments<'_>) {
        self.tracer.note(self.level, Note::Warning, note);
    }

    pub(super) fn detail(&mut self, note: std::fmt::Arguments<'_>) {
        self.tracer.note(self.level, Note::Detail, note);
    }

    /// Commits what was written and adds a step that sends the packet somewhere.
    fn send(&mut self, step: DpAction) {
        self.commit();
        self.emit(step);
        self.sent = true;
    }

    /// To a port, which may be a reserved one.
    fn output(&mut self, port: u16) {
        match port {
            PORT_IN_PORT => {
                let in_port = (self.read(0, IN_PORT) >> 32) as u16;
                self.output_to(in_port);
            }
            PORT_NORMAL => {
                self.commit();
                self.tracer.normal(self.level, &self.out.flow);
                self.send(DpAction::Normal);
            }
            PORT_FLOOD | PORT_ALL => self.send(DpAction::Flood),
            PORT_CONTROLLER => self.controller(Controller::default()),
            _ if u64::from(port) == self.read(0, IN_PORT) >> 32 => {
                self.warn(format_args!("skipping output to input port"));
                self.note_cause(DropCause::SameIngress);
            }
            _ => self.output_to(port),
        }
    }

    fn output_to(&mut self, port: u16) {
        match port {
            1..PORT_MAX | PORT_LOCAL => self.send(DpAction::Output(port)),
            _ => {
                self.warn(format_args!("Nonexistent output port"));
                self.note_cause(DropCause::NoPort);
            }
        }
    }

    #[inline(never)]
    fn output_field(&mut self, from: Subfield) {
        let port = self.read_field(from);
        match u16::try_from(port) {
            Ok(port) => {
                self.detail(format_args!("output port is {port}"));
                self.output(port);
            }
            Err(_) => {
                self.warn(format_args!("output port {port} is out of range"));
                self.note_cause(DropCause::NoPort);
            }
        }
    }

    #[inline(never)]
    fn controller(&mut self, to: Controller) {
        self.send(DpAction::Controller {
            reason: to.reason,
            max_len: to.max_len,
            id: to.id,
            table: self.table,
        });
    }

    /// Writes bits of a field if the packet has it.
    #[inline(never)]
    fn set_field(&mut self, field: Field, value: u128, mask: u128) {
        if self.has(field.info().prereq) {
            self.write_field(field, value, mask);
        } else {
            let name = field.info().name;
            self.warn(format_args!(
                "unmet prerequisites for {name}, set_field ignored"
            ));
        }
    }

    /// `mod_…`: those of ports are TCP's and UDP's alike.
    fn modify(&mut self, field: Field, value: u128) {
        if matches!(field, Field::TcpSrc | Field::TcpDst) {
            if self.has_ports() {
                self.write_field(field, value, field.ones());
            }
        } else {
            self.set_field(field, value, field.ones());
        }
    }

    /// Copies bits of a field into another if the packet has both.
    #[inline(never)]
    fn move_field(&mut self, from: Subfield, to: Subfield) {
        if self.has(to.field.info().prereq) && self.has(from.field.info().prereq) {
            let value = self.read_field(from);
            let value = value.checked_shl(to.offset.into()).unwrap_or(0);
            self.write_field(to.field, value, to.ones());
        }
        self.tracer.moved(self.level, to, &self.out.flow);
    }

    /// A TTL that has run out ends this list of actions.
    #[inline(never)]
    fn dec_ttl(&mut self, controllers: &[u16]) -> Then {
        if !self.is_ip() {
            return Then::GoOn;
        }
        let ttl = self.read(4, 0xff);
        if ttl > 1 {
            self.write(4, ttl - 1, 0xff);
            return Then::GoOn;
        }
        self.note_cause(DropCause::TtlExpired);
        let ids = if controllers.is_empty() {
            &[0]
        } else {
            controllers
        };
        for id in ids {
            self.controller(Controller {
                reason: Reason::InvalidTtl,
                max_len: u16::MAX,
                id: *id,
            });
        }
        let version = if self.dl_type() == super::fields::IPV4 {
            4
        } else {
            6
        };
        self.warn(format_args!("IPv{version} decrement TTL exception"));
        Then::Stop
    }

    /// Rules with a meter go when the meter goes, so it is there; a packet-out
    /// may name one that is not.
    fn meter(&mut self, id: u32) {
        if self.pipeline.meter(id).is_some() {
            self.emit(DpAction::Meter(id));
        } else {
            self.warn(format_args!("nonexistent meter {id}"));
            self.fail(DropCause::NoMeter);
        }
    }
}
