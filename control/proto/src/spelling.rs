//! How people spell the protocol's enums: one table per enum, used by the
//! command line, the state file and every listing.

use crate::v1::{FailMode, PacketInReason, PortKind, Side, SocketMode};

/// An enum with a spelling for each of its values.
pub trait Spelling: Copy + PartialEq + 'static {
    /// What the enum is called in messages, e.g. `mode`.
    const WHAT: &'static str;
    /// Every value with its spelling.
    const TABLE: &'static [(Self, &'static str)];

    /// The value's spelling; empty for a value that has none.
    fn spelled(self) -> &'static str {
        Self::TABLE
            .iter()
            .find(|(value, _)| *value == self)
            .map_or("", |(_, text)| text)
    }

    /// The value spelled so, or a sentence with the allowed spellings.
    fn from_spelling(text: &str) -> Result<Self, String> {
        match Self::TABLE.iter().find(|(_, known)| *known == text) {
            Some((value, _)) => Ok(*value),
            None => {
                let known: Vec<_> = Self::TABLE.iter().map(|(_, text)| *text).collect();
                let known = known.join(", ");
                Err(format!("{} {text:?} is not one of {known}", Self::WHAT))
            }
        }
    }
}

impl Spelling for FailMode {
    const WHAT: &'static str = "fail mode";
    const TABLE: &'static [(Self, &'static str)] = &[
        (FailMode::Standalone, "standalone"),
        (FailMode::Secure, "secure"),
    ];
}

impl Spelling for SocketMode {
    const WHAT: &'static str = "mode";
    const TABLE: &'static [(Self, &'static str)] = &[
        (SocketMode::Server, "server"),
        (SocketMode::Client, "client"),
    ];
}

impl Spelling for PortKind {
    const WHAT: &'static str = "type";
    const TABLE: &'static [(Self, &'static str)] = &[
        (PortKind::VhostUser, "vhost-user"),
        (PortKind::Dpdk, "dpdk"),
        (PortKind::System, "system"),
        (PortKind::Internal, "internal"),
        (PortKind::Tap, "tap"),
        (PortKind::Patch, "patch"),
    ];
}

impl Spelling for Side {
    const WHAT: &'static str = "side";
    const TABLE: &'static [(Self, &'static str)] = &[(Side::Rx, "rx"), (Side::Tx, "tx")];
}

impl Spelling for PacketInReason {
    const WHAT: &'static str = "reason";
    const TABLE: &'static [(Self, &'static str)] = &[
        (PacketInReason::NoMatch, "no_match"),
        (PacketInReason::Action, "action"),
        (PacketInReason::InvalidTtl, "invalid_ttl"),
    ];
}

/// Types of port that Open vSwitch or the design has and this version has not.
pub const LATER_TYPES: &[&str] = &["vxlan", "bond"];

/// The kind of port spelled so; a type of [`LATER_TYPES`] is refused by name.
pub fn port_kind(text: &str) -> Result<PortKind, String> {
    if LATER_TYPES.contains(&text) {
        let supported: Vec<_> = PortKind::TABLE.iter().map(|(_, text)| *text).collect();
        return Err(format!(
            "type {text:?} is not supported yet; supported: {}",
            supported.join(", ")
        ));
    }
    PortKind::from_spelling(text)
}

/// Octal permission bits such as `0660`, at most 0777.
pub fn permissions(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o777 && !text.starts_with('+') => Ok(bits),
        _ => Err(format!(
            "permissions {text:?} are not octal bits from 0000 to 0777, such as 0660"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Spelling + std::fmt::Debug>() {
        for (value, text) in T::TABLE {
            assert_eq!(value.spelled(), *text);
            assert_eq!(T::from_spelling(text), Ok(*value));
        }
    }

    #[test]
    fn every_spelling_reads_back() {
        round_trip::<FailMode>();
        round_trip::<SocketMode>();
        round_trip::<PortKind>();
        round_trip::<Side>();
        round_trip::<PacketInReason>();
        assert_eq!(FailMode::Unspecified.spelled(), "");
    }

    #[test]
    fn unknown_spellings_name_the_allowed_ones() {
        let why = SocketMode::from_spelling("srv").unwrap_err();
        assert_eq!(why, "mode \"srv\" is not one of server, client");
        let why = port_kind("vxlan").unwrap_err();
        assert!(why.contains("\"vxlan\" is not supported yet"), "{why}");
        assert!(port_kind("tapp").unwrap_err().contains("not one of"));
    }

    #[test]
    fn permissions_are_octal_and_bounded() {
        assert_eq!(permissions("0660"), Ok(0o660));
        for bad in ["", "rw", "1000", "0888", "-1", "+7", "0x1f"] {
            assert!(permissions(bad).is_err(), "{bad}");
        }
    }
}
