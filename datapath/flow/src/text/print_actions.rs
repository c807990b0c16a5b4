//! Actions as text, as `ovs-ofctl` prints them.

use std::fmt::Write;

use super::names::whole;
use super::ports::{PortNames, write_port};
use super::print_match::{write_hex, write_ipv4, write_ipv6, write_mac, write_tcp_flags};
use super::values::{FRAGS, full_mask};
use crate::action::{Action, Controller, Reason};
use crate::field::{Field, Form, Subfield};

/// Actions as `ovs-ofctl` prints them, separated by commas; none are `drop`.
pub fn print_actions(actions: &[Action], ports: &dyn PortNames) -> String {
    let mut out = String::new();
    write_actions(&mut out, actions, ports);
    out
}

pub(super) fn write_actions(out: &mut String, actions: &[Action], ports: &dyn PortNames) {
    if actions.is_empty() {
        out.push_str("drop");
    }
    for (i, action) in actions.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write_action(out, action, ports);
    }
}

fn write_action(out: &mut String, action: &Action, ports: &dyn PortNames) -> std::fmt::Result {
    match action {
        Action::Output(port) => {
            if *port < super::ports::PORT_MAX {
                out.push_str("output:");
            }
            write_port(out, *port, ports);
            Ok(())
        }
        Action::OutputField(bits) => {
            out.push_str("output:");
            write_subfield(out, *bits)
        }
        Action::InPort => write!(out, "IN_PORT"),
        Action::Normal => write!(out, "NORMAL"),
        Action::Flood => write!(out, "FLOOD"),
        Action::All => write!(out, "ALL"),
        Action::Controller(controller) => write_controller(out, controller),
        Action::PushVlan(tpid) => write!(out, "push_vlan:{tpid:#x}"),
        Action::PopVlan => write!(out, "pop_vlan"),
        Action::ModVlanVid(vid) => write!(out, "mod_vlan_vid:{vid}"),
        Action::ModVlanPcp(pcp) => write!(out, "mod_vlan_pcp:{pcp}"),
        Action::Mod(field, value) => write_mod(out, *field, *value),
        Action::SetField {
            field,
            value,
            mask,
            load: true,
        } => write_loads(out, *field, *value, *mask),
        Action::SetField {
            field, value, mask, ..
        } => {
            out.push_str("set_field:");
            write_value(out, *field, *value, *mask, ports)?;
            write!(out, "->{}", field.info().name)
        }
        Action::Move { from, to } => {
            out.push_str("move:");
            write_subfield(out, *from)?;
            out.push_str("->");
            write_subfield(out, *to)
        }
        Action::DecTtl(ids) => {
            out.push_str("dec_ttl");
            for (i, id) in ids.iter().enumerate() {
                write!(out, "{}{id}", if i == 0 { "(" } else { "," })?;
            }
            if !ids.is_empty() {
                out.push(')');
            }
            Ok(())
        }
        Action::Resubmit { port, table } => match (port, table) {
            (Some(port), None) => {
                out.push_str("resubmit:");
                write_port(out, *port, ports);
                Ok(())
            }
            _ => {
                out.push_str("resubmit(");
                if let Some(port) = port {
                    write_port(out, *port, ports);
                }
                out.push(',');
                if let Some(table) = table {
                    write!(out, "{table}")?;
                }
                out.push(')');
                Ok(())
            }
        },
        Action::Group(id) => write!(out, "group:{id}"),
        Action::Note(bytes) => {
            out.push_str("note:");
            for (i, byte) in bytes.iter().enumerate() {
                write!(out, "{}{byte:02x}", if i == 0 { "" } else { "." })?;
            }
            Ok(())
        }
        Action::Exit => write!(out, "exit"),
        Action::Meter(id) => write!(out, "meter:{id}"),
        Action::ClearActions => write!(out, "clear_actions"),
        Action::WriteActions(actions) => {
            out.push_str("write_actions(");
            write_actions(out, actions, ports);
            out.push(')');
            Ok(())
        }
        Action::WriteMetadata { value, mask } => {
            out.push_str("write_metadata:");
            write_hex(out, (*value).into());
            match mask {
                &u64::MAX => Ok(()),
                mask => {
                    out.push('/');
                    write_hex(out, (*mask).into());
                    Ok(())
                }
            }
        }
        Action::GotoTable(table) => write!(out, "goto_table:{table}"),
    }
}

fn write_controller(out: &mut String, controller: &Controller) -> std::fmt::Result {
    let Controller {
        reason,
        max_len,
        id,
    } = *controller;
    if reason == Reason::Action && id == 0 {
        return write!(out, "CONTROLLER:{max_len}");
    }
    out.push_str("controller(");
    let start = out.len();
    match reason {
        Reason::NoMatch => out.push_str("reason=no_match,"),
        Reason::Action => {}
        Reason::InvalidTtl => out.push_str("reason=invalid_ttl,"),
    }
    if max_len != u16::MAX {
        write!(out, "max_len={max_len},")?;
    }
    if id != 0 {
        write!(out, "id={id},")?;
    }
    if out.len() > start {
        out.pop();
    }
    out.push(')');
    Ok(())
}

fn write_mod(out: &mut String, field: Field, value: u128) -> std::fmt::Result {
    let name = match field {
        Field::EthSrc => "mod_dl_src",
        Field::EthDst => "mod_dl_dst",
        Field::IpSrc => "mod_nw_src",
        Field::IpDst => "mod_nw_dst",
        Field::IpTos => "mod_nw_tos",
        Field::IpEcn => "mod_nw_ecn",
        Field::IpTtl => "mod_nw_ttl",
        Field::TcpSrc => "mod_tp_src",
        Field::TcpDst => "mod_tp_dst",
        // No such action is read; set_field says the same.
        _ => {
            out.push_str("set_field:");
            write_value(out, field, value, field.ones(), &super::NoNames)?;
            return write!(out, "->{}", field.info().name);
        }
    };
    write!(out, "{name}:")?;
    match field.info().form {
        Form::Mac => write_mac(out, value, field.ones()),
        Form::Ipv4 => write_ipv4(out, value, field.ones()),
        _ => write!(out, "{value}")?,
    }
    Ok(())
}

/// One `load` for each run of bits.
fn write_loads(out: &mut String, field: Field, value: u128, mask: u128) -> std::fmt::Result {
    let mut rest = mask;
    while rest != 0 {
        let offset = rest.trailing_zeros();
        let width = (!(rest >> offset)).trailing_zeros().min(64);
        let bits = match field {
            // The lower two bits are nobody's here.
            Field::IpTos if rest == full_mask(field) => Subfield::whole(field),
            _ => Subfield {
                field,
                offset: offset as u8,
                width: width as u8,
            },
        };
        if rest != mask {
            out.push(',');
        }
        out.push_str("load:");
        write_hex(out, (value & bits.ones()) >> bits.offset);
        out.push_str("->");
        write_subfield(out, bits)?;
        rest &= !bits.ones();
    }
    Ok(())
}

fn write_subfield(out: &mut String, bits: Subfield) -> std::fmt::Result {
    let name = bits.field.info().nxm;
    let first = bits.offset;
    match bits.width {
        _ if bits == whole(bits.field) => write!(out, "{name}[]"),
        1 => write!(out, "{name}[{first}]"),
        width => write!(out, "{name}[{first}..{}]", first + width - 1),
    }
}

/// A value with its mask, in the field's form.
fn write_value(
    out: &mut String,
    field: Field,
    value: u128,
    mask: u128,
    ports: &dyn PortNames,
) -> std::fmt::Result {
    let full = mask == full_mask(field) || mask == field.ones();
    match field.info().form {
        Form::Port if full => write_port(out, value as u16, ports),
        Form::Mac => write_mac(out, value, mask),
        Form::Ipv4 => write_ipv4(out, value, mask),
        Form::Ipv6 => write_ipv6(out, value, mask),
        Form::TcpFlags => write_tcp_flags(out, value, mask),
        Form::Frag => {
            let row = FRAGS.iter().find(|row| (row.1, row.2) == (mask, value));
            out.push_str(row.map_or("<error>", |row| row.0));
        }
        form => {
            match form {
                Form::Decimal => write!(out, "{value}")?,
                _ => write_hex(out, value),
            }
            if !full {
                write!(out, "/{mask:#x}")?;
            }
        }
    }
    Ok(())
}
