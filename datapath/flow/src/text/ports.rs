//! Ports: numbers, names, and the names that OpenFlow reserves.

use std::fmt::Write;

/// Who knows the ports of a bridge.
pub trait PortNames {
    /// The port with this name.
    fn number(&self, name: &str) -> Option<u16>;
    /// The name of the port with this number.
    fn name(&self, number: u16) -> Option<&str>;
}

/// Nobody: ports are numbers.
pub struct NoNames;

impl PortNames for NoNames {
    fn number(&self, _: &str) -> Option<u16> {
        None
    }

    fn name(&self, _: u16) -> Option<&str> {
        None
    }
}

/// First number that is no port's (OFPP_MAX).
pub(super) const PORT_MAX: u16 = 0xff00;
pub(super) const IN_PORT: u16 = 0xfff8;
pub(super) const TABLE: u16 = 0xfff9;
pub(super) const NORMAL: u16 = 0xfffa;
pub(super) const FLOOD: u16 = 0xfffb;
pub(super) const ALL: u16 = 0xfffc;
pub(super) const CONTROLLER: u16 = 0xfffd;
pub(super) const LOCAL: u16 = crate::key::PORT_LOCAL;
pub(super) const ANY: u16 = 0xffff;

/// Reserved ports; the last is an old name that is only read.
const RESERVED: [(&str, u16); 10] = [
    ("IN_PORT", IN_PORT),
    ("TABLE", TABLE),
    ("NORMAL", NORMAL),
    ("FLOOD", FLOOD),
    ("ALL", ALL),
    ("CONTROLLER", CONTROLLER),
    ("LOCAL", LOCAL),
    ("ANY", ANY),
    ("UNSET", 0xfff7),
    ("NONE", ANY),
];

/// A port's number from text: a number, a reserved name (in any case), or a
/// name that `ports` knows, plain or in quotes.
pub(super) fn parse_port(text: &str, ports: &dyn PortNames) -> Option<u16> {
    if text.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(number) = text.parse::<u32>()
    {
        // OpenFlow 1.1 writes the reserved ports in 32 bits.
        return match number {
            0xffff_ff00.. => Some(number as u16),
            _ => u16::try_from(number).ok(),
        };
    }
    let reserved = RESERVED
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    if let Some((_, number)) = reserved {
        return Some(*number);
    }
    match text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
    {
        None => ports.number(text),
        Some(quoted) if !quoted.contains('\\') => ports.number(quoted),
        Some(quoted) => {
            let mut name = String::with_capacity(quoted.len());
            let mut chars = quoted.chars();
            while let Some(c) = chars.next() {
                name.push(if c == '\\' { chars.next()? } else { c });
            }
            ports.number(&name)
        }
    }
}

/// Prints a port: a reserved name, a name that `ports` knows (in quotes unless
/// it is a letter followed by letters and digits), or the number.
pub(super) fn write_port(out: &mut String, port: u16, ports: &dyn PortNames) {
    let reserved = RESERVED.iter().find(|(_, number)| *number == port);
    if let Some((name, _)) = reserved {
        out.push_str(name);
    } else if let Some(name) = ports.name(port) {
        let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric());
        if plain {
            out.push_str(name);
        } else {
            out.push('"');
            for c in name.chars() {
                if matches!(c, '"' | '\\') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('"');
        }
    } else {
        let _ = write!(out, "{port}");
    }
}
