//! How people spell the protocol's enums: one table per enum, used by the
//! command line, the state file and every listing.

use crate::v1::{
    FailMode, MacMove, PacketInReason, PortKind, PriorityTags, Side, SocketMode, VlanMode, XdpMode,
};

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

impl Spelling for XdpMode {
    const WHAT: &'static str = "xdp";
    const TABLE: &'static [(Self, &'static str)] = &[
        (XdpMode::Auto, "auto"),
        (XdpMode::On, "on"),
        (XdpMode::Off, "off"),
    ];
}

impl Spelling for VlanMode {
    const WHAT: &'static str = "vlan_mode";
    const TABLE: &'static [(Self, &'static str)] = &[
        (VlanMode::Access, "access"),
        (VlanMode::Trunk, "trunk"),
        (VlanMode::NativeTagged, "native-tagged"),
        (VlanMode::NativeUntagged, "native-untagged"),
        (VlanMode::Dot1qTunnel, "dot1q-tunnel"),
    ];
}

impl Spelling for PriorityTags {
    const WHAT: &'static str = "priority_tags";
    const TABLE: &'static [(Self, &'static str)] = &[
        (PriorityTags::Never, "never"),
        (PriorityTags::IfNonzero, "if-nonzero"),
        (PriorityTags::Always, "always"),
    ];
}

impl Spelling for MacMove {
    const WHAT: &'static str = "mac_move";
    const TABLE: &'static [(Self, &'static str)] =
        &[(MacMove::Allow, "allow"), (MacMove::Deny, "deny")];
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

/// The EtherType of a dot1q-tunnel's outer tag as Open vSwitch spells it; true
/// is 0x8100.
pub fn qinq_ethtype(is_8021q: bool) -> &'static str {
    match is_8021q {
        true => "802.1q",
        false => "802.1ad",
    }
}

/// The reverse of [`qinq_ethtype`].
pub fn qinq_from_ethtype(text: &str) -> Result<bool, String> {
    match text {
        "802.1q" => Ok(true),
        "802.1ad" => Ok(false),
        _ => Err(format!(
            "qinq_ethtype {text:?} is not one of 802.1ad, 802.1q"
        )),
    }
}

/// VLANs as `10,20,30-40`, in order and each once; at least one.
pub fn vlans(text: &str) -> Result<Vec<u32>, String> {
    let bad = || format!("{text:?} is not a list of VLANs from 0 to 4095, such as 10,20,30-40");
    let number = |text: &str| match text.parse::<u32>() {
        Ok(vlan) if vlan <= 4095 && !text.starts_with('+') => Ok(vlan),
        _ => Err(bad()),
    };
    let mut vlans = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(bad());
        }
        vlans.extend(first..=last);
    }
    Ok(vlans.into_iter().collect())
}

/// The reverse of [`vlans`], for VLANs in order.
pub fn vlan_list(vlans: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for vlan in vlans {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *vlan => *last = *vlan,
            _ => runs.push((*vlan, *vlan)),
        }
    }
    let text = |(first, last): &(u32, u32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    let runs: Vec<_> = runs.iter().map(text).collect();
    runs.join(",")
}

/// An Ethernet address such as `52:54:00:12:34:56`.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let bad = || format!("mac {text:?} is not of the form xx:xx:xx:xx:xx:xx");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2);
        let part = part.filter(|part| part.chars().all(|c| c.is_ascii_hexdigit()));
        let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte = value.ok_or_else(bad)?;
    }
    match parts.next() {
        None => Ok(bytes),
        Some(_) => Err(bad()),
    }
}

/// The reverse of [`mac`], in lower case.
pub fn mac_text(mac: [u8; 6]) -> String {
    let bytes: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

/// Types of port that people know from Open vSwitch and ringway has not.
pub const ABSENT_TYPES: &[&str] = &["vxlan", "geneve", "gre", "bond"];

/// The kind of port spelled so; a type of [`ABSENT_TYPES`] is refused by name.
pub fn port_kind(text: &str) -> Result<PortKind, String> {
    if ABSENT_TYPES.contains(&text) {
        let supported: Vec<_> = PortKind::TABLE.iter().map(|(_, text)| *text).collect();
        return Err(format!(
            "ringway has no ports of type {text:?}; it has {}",
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
        round_trip::<XdpMode>();
        round_trip::<VlanMode>();
        round_trip::<PriorityTags>();
        round_trip::<MacMove>();
        round_trip::<Side>();
        round_trip::<PacketInReason>();
        assert_eq!(FailMode::Unspecified.spelled(), "");
    }

    #[test]
    fn unknown_spellings_name_the_allowed_ones() {
        let why = SocketMode::from_spelling("srv").unwrap_err();
        assert_eq!(why, "mode \"srv\" is not one of server, client");
        let why = port_kind("vxlan").unwrap_err();
        assert!(why.contains("no ports of type \"vxlan\""), "{why}");
        assert!(port_kind("tapp").unwrap_err().contains("not one of"));
    }

    #[test]
    fn lists_of_vlans_read_back() {
        for (text, expected) in [
            ("7", &[7][..]),
            ("30-32,4095,0", &[0, 30, 31, 32, 4095]),
            ("5,5,4-6", &[4, 5, 6]),
        ] {
            let read = vlans(text).unwrap();
            assert_eq!(read, expected, "{text}");
            assert_eq!(vlans(&vlan_list(&read)), Ok(read));
        }
        assert_eq!(vlan_list(&[1, 2, 5, 6, 7, 9]), "1,2,5-7,9");
        for bad in ["", "4096", "-1", "+1", "2-1", "1-", "1,,2", "a", "1 2"] {
            assert!(vlans(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn macs_and_ethertypes_read_back() {
        let bytes = [0x52, 0x54, 0, 0x12, 0x34, 0xab];
        assert_eq!(mac("52:54:00:12:34:AB"), Ok(bytes));
        assert_eq!(mac_text(bytes), "52:54:00:12:34:ab");
        for bad in [
            "",
            "1:2:3:4:5:6",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:+6",
        ] {
            assert!(mac(bad).is_err(), "{bad}");
        }
        for is_8021q in [true, false] {
            assert_eq!(qinq_from_ethtype(qinq_ethtype(is_8021q)), Ok(is_8021q));
        }
        assert!(qinq_from_ethtype("0x8100").is_err());
    }

    #[test]
    fn permissions_are_octal_and_bounded() {
        assert_eq!(permissions("0660"), Ok(0o660));
        for bad in ["", "rw", "1000", "0888", "-1", "+7", "0x1f"] {
            assert!(permissions(bad).is_err(), "{bad}");
        }
    }
}
