//! Values of fields, with their masks, in each field's form.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ports::{PortNames, parse_port};
use super::scan::{Scan, fault, integer};
use crate::field::{Field, Form, Maskable};

/// DSCP's bits in `nw_tos`.
pub(super) const TOS_MASK: u128 = 0xfc;
/// All bits of `nw_frag`; the lower says "a fragment", the upper "not the first".
pub(super) const FRAG_LATER: u128 = 2;

/// Names of TCP's flags, from the lowest bit on.
pub(super) const TCP_FLAGS: [&str; 12] = [
    "fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]",
];

/// `nw_frag`: name, mask, value. The first row that fits is the one printed.
pub(super) const FRAGS: [(&str, u128, u128); 7] = [
    ("no", 3, 0),
    ("first", 3, 1),
    ("later", 3, 3),
    ("no", 1, 0),
    ("yes", 1, 1),
    ("not_later", 2, 0),
    ("later", 2, 2),
];

/// The bits that a field has without a mask.
pub(super) fn full_mask(field: Field) -> u128 {
    match field {
        Field::IpTos => TOS_MASK,
        _ => field.ones(),
    }
}

/// Reads `VALUE` or `VALUE/MASK` (`*` and `any`: nothing matters). The value has
/// no bits beside the mask's.
pub(super) fn masked<'t>(
    field: Field,
    text: &'t str,
    ports: &dyn PortNames,
) -> Scan<'t, (u128, u128)> {
    let info = field.info();
    let full = full_mask(field);
    if text.is_empty() {
        return fault!(text, "field {} needs a value", info.name);
    }
    if text == "*" || info.form != Form::Port && text.eq_ignore_ascii_case("any") {
        return Ok((0, 0));
    }
    let (value, mask) = match info.form {
        Form::Decimal | Form::Hex => {
            let (value, mask) = split(text);
            let value = fitting(field, value, "value")?;
            let mask = match mask {
                Some(mask) => fitting(field, mask, "mask")?,
                None => full,
            };
            (value, mask)
        }
        Form::Mac => {
            let (value, mask) = split(text);
            let mask = mask.map_or(Ok(full), mac)?;
            (mac(value)?, mask)
        }
        Form::Ipv4 => {
            let (value, mask) = split(text);
            let mask = match mask {
                None => full,
                Some(mask) => match (prefix(mask, 32), mask.parse::<Ipv4Addr>()) {
                    (Some(mask), _) => mask,
                    (None, Ok(mask)) => u32::from(mask).into(),
                    _ => return fault!(mask, "an IPv4 mask is 0 to 32 or like 255.255.0.0"),
                },
            };
            (ipv4(value)?, mask)
        }
        Form::Ipv6 => {
            let (value, mask) = split(text);
            let Ok(value) = value.parse::<Ipv6Addr>() else {
                return fault!(value, "not an IPv6 address (as in 2001:db8::1)");
            };
            let mask = match mask {
                None => full,
                Some(mask) => match (prefix(mask, 128), mask.parse::<Ipv6Addr>()) {
                    (Some(mask), _) => mask,
                    (None, Ok(mask)) => mask.into(),
                    _ => return fault!(mask, "an IPv6 mask is 0 to 128 or like ffff::"),
                },
            };
            (value.into(), mask)
        }
        Form::Port => match parse_port(text, ports) {
            Some(port) => (port.into(), full),
            None => {
                return fault!(
                    text,
                    "there is no port \"{text}\"; ports are named or 0 to 65279, LOCAL …"
                );
            }
        },
        Form::Frag => {
            let found = (FRAGS.iter()).find(|(name, _, _)| name.eq_ignore_ascii_case(text));
            match found {
                Some((_, mask, value)) => (*value, *mask),
                None => {
                    return fault!(text, "{} is no, yes, first, later or not_later", info.name);
                }
            }
        }
        Form::TcpFlags => tcp_flags(text)?,
    };
    if info.maskable == Maskable::Never && mask != full && mask != 0 {
        let at = text.split_once('/').map_or(text, |(_, mask)| mask);
        return fault!(at, "field {} cannot be masked", info.name);
    }
    Ok((value & mask, mask))
}

/// Reads a value without a mask.
pub(super) fn exact<'t>(field: Field, text: &'t str, ports: &dyn PortNames) -> Scan<'t, u128> {
    match masked(field, text, ports)? {
        (value, mask) if mask == full_mask(field) => Ok(value),
        _ => fault!(
            text,
            "the whole value of {} is needed here",
            field.info().name
        ),
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((value, mask)) => (value, Some(mask)),
        None => (text, None),
    }
}

/// A number that fits the field.
fn fitting<'t>(field: Field, text: &'t str, what: &str) -> Scan<'t, u128> {
    let name = field.info().name;
    let width = field.info().width;
    let number = match text.strip_prefix('-') {
        // As C's strtoull has it: -1 has all of 64 bits.
        Some(negative) if width == 64 => {
            integer(negative).map(|value| u128::from((value as u64).wrapping_neg()))
        }
        _ => integer(text),
    };
    match number {
        None => fault!(text, "the {what} of {name} must be a number"),
        Some(number) if number & !field.ones() != 0 => {
            fault!(
                text,
                "the {what} does not fit into {name}: it has {width} bits"
            )
        }
        Some(number) if number & !full_mask(field) != 0 => fault!(
            text,
            "the lower two bits of {name} are not its own; they are nw_ecn"
        ),
        Some(number) => Ok(number),
    }
}

/// The mask of a prefix length.
fn prefix(text: &str, width: u32) -> Option<u128> {
    let bits = text.parse::<u32>().ok().filter(|bits| *bits <= width)?;
    let ones = u128::MAX >> (128 - width);
    Some(ones & !ones.checked_shr(bits).unwrap_or(0))
}

/// `aa:bb:cc:dd:ee:ff`
pub(super) fn mac(text: &str) -> Scan<'_, u128> {
    let mut value = 0;
    let mut octets = 0;
    for octet in text.split(':') {
        let plain = matches!(octet.len(), 1 | 2) && octet.bytes().all(|b| b.is_ascii_hexdigit());
        match u8::from_str_radix(octet, 16) {
            Ok(octet) if plain => value = value << 8 | u128::from(octet),
            _ => octets = 6,
        }
        octets += 1;
    }
    if octets != 6 {
        return fault!(text, "not an Ethernet address (as in 52:54:00:12:34:56)");
    }
    Ok(value)
}

/// `192.0.2.1`
pub(super) fn ipv4(text: &str) -> Scan<'_, u128> {
    match text.parse::<Ipv4Addr>() {
        Ok(address) => Ok(u32::from(address).into()),
        Err(_) => fault!(text, "not an IPv4 address (as in 192.0.2.1)"),
    }
}

/// `+syn-ack`, `syn|ack`, `0x12`, `0x12/0x12`
fn tcp_flags(text: &str) -> Scan<'_, (u128, u128)> {
    let full = Field::TcpFlags.ones();
    if text.starts_with(['+', '-']) {
        let (mut value, mut mask) = (0, 0);
        let mut rest = text;
        while let Some(sign) = rest.chars().next() {
            let name = &rest[1..];
            let len = name.find(['+', '-']).unwrap_or(name.len());
            let bit = tcp_flag(&name[..len])?;
            if mask & bit != 0 {
                return fault!(&name[..len], "this flag is there twice");
            }
            mask |= bit;
            if sign == '+' {
                value |= bit;
            }
            rest = &name[len..];
        }
        return Ok((value, mask));
    }
    if let (value, Some(mask)) = split(text) {
        let value = fitting(Field::TcpFlags, value, "value")?;
        return Ok((value, fitting(Field::TcpFlags, mask, "mask")?));
    }
    let mut value = 0;
    for part in text.split('|') {
        value |= match integer(part) {
            Some(_) => fitting(Field::TcpFlags, part, "value")?,
            None => tcp_flag(part)?,
        };
    }
    Ok((value, full))
}

fn tcp_flag(name: &str) -> Scan<'_, u128> {
    match TCP_FLAGS.iter().position(|flag| *flag == name) {
        Some(bit) => Ok(1 << bit),
        None => fault!(
            name,
            "TCP flags are fin, syn, rst, psh, ack, urg, ece, cwr and ns, as in +syn-ack"
        ),
    }
}
