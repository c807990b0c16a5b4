//! The few values that rules and frames are made of, so that rules overlap
//! and frames hit them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::dice::Dice;

/// Highest port number of the oracle's bridge.
pub const PORTS: u16 = 5;

/// MAC addresses: stations, groups, broadcast, and one that bridges keep to themselves.
pub const MACS: [[u8; 6]; 7] = [
    [0x02, 0, 0, 0, 0, 1],
    [0x02, 0, 0, 0, 0, 2],
    [0x02, 0, 0, 0, 1, 1],
    [0x00, 0, 0, 0, 0, 0],
    [0x01, 0, 0x5e, 0, 0, 1],
    [0x33, 0x33, 0, 0, 0, 1],
    [0xff; 6],
];

/// IPv4 addresses.
pub const IPV4: [Ipv4Addr; 7] = [
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 1, 1),
    Ipv4Addr::new(192, 168, 0, 1),
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::BROADCAST,
];

/// IPv6 addresses.
pub const IPV6: [Ipv6Addr; 6] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::UNSPECIFIED,
];

/// Ports of TCP, UDP and SCTP.
pub const L4: [u16; 6] = [0, 1, 2, 80, 443, 65535];
/// VLANs.
pub const VIDS: [u16; 5] = [0, 1, 2, 100, 4095];
/// Priorities in a tag.
pub const PCPS: [u16; 3] = [0, 3, 7];
/// TTLs and hop limits.
pub const TTLS: [u8; 5] = [0, 1, 2, 64, 255];
/// Type-of-service bytes.
pub const TOS: [u8; 5] = [0, 0x10, 0xb8, 0xb9, 0xff];
/// TCP flags.
pub const TCP_FLAGS: [u16; 5] = [0x002, 0x010, 0x012, 0x018, 0x1ff];
/// IPv6 flow labels.
pub const LABELS: [u32; 3] = [0, 1, 0xfffff];
/// ARP operations; only the lower byte is of a flow, and only while the upper is zero.
pub const ARP_OPS: [u16; 5] = [1, 2, 3, 255, 256];
/// ICMP types and codes.
pub const ICMP: [(u8, u8); 4] = [(0, 0), (8, 0), (3, 1), (255, 255)];
/// ICMPv6 types and codes, neighbour discovery apart.
pub const ICMPV6: [(u8, u8); 4] = [(128, 0), (129, 0), (1, 4), (255, 255)];
/// Values of registers and metadata: port numbers and patterns.
pub const REGISTERS: [u64; 7] = [0, 1, 2, 3, 0xff, 0xdead_beef, 0x1234_5678];
/// Ethertypes that are nothing special.
pub const ETHERTYPES: [u16; 4] = [0x1234, 0x88cc, 0x0600, 0xffff];

/// `aa:bb:cc:dd:ee:ff`
pub fn mac_text(mac: [u8; 6]) -> String {
    let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

/// A MAC address as text.
pub fn mac(dice: &mut Dice) -> String {
    mac_text(dice.of(&MACS))
}
