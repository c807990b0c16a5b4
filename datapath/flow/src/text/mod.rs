//! Flow syntax: Open vSwitch's, as `ovs-ofctl` 3.1 reads and prints it
//! (ovs-ofctl(8), ovs-fields(7), ovs-actions(7)).
//!
//! ```text
//!  text ── scan ──▶ keys and values ── values ──▶ numbers, addresses, flags
//!                        │
//!                        ├─ matching ──▶ Match   (fields, shorthands, normalization)
//!                        ├─ actions  ──▶ Action  (prerequisites, order of instructions)
//!                        └─ flow, groups, meters ──▶ FlowSpec, GroupSpec, MeterSpec
//! ```
//!
//! Whatever is printed reads back as the same thing. Where ringway and
//! `ovs-ofctl` differ in what they accept:
//!
//! - Values that do not fit their field (`dl_vlan=5000`, `nw_tos=5`) are
//!   refused; Open vSwitch cuts them off.
//! - Fields without a value, and parentheses that are not closed, are refused;
//!   Open vSwitch reads something into them.
//! - `apply_actions(…)` is read as the actions in it.
//! - Every action may be used with every other: there is no OpenFlow version
//!   to choose. Actions are printed as they were written.

mod actions;
mod arguments;
mod check;
mod error;
mod flow;
mod groups;
mod matching;
mod meters;
mod names;
mod ports;
mod print;
mod print_actions;
mod print_match;
mod scan;
#[cfg(test)]
mod tests;
mod values;
mod writes;

pub use actions::parse_actions;
pub use error::TextError;
pub use flow::{parse_bundle_file, parse_flow, parse_flow_file};
pub use groups::{parse_group, parse_group_id};
pub use matching::{parse_match, parse_packet};
pub use meters::{parse_meter, parse_meter_id};
pub use ports::{NoNames, PortNames};
pub use print::{FlowAges, print_flow, print_group, print_meter, print_spec};
pub use print_actions::print_actions;
pub use print_match::{print_match, print_port};
pub(crate) use print_match::{write_hex, write_ipv6_address, write_mac, write_tcp_flags};

/// What a text stands for, and what its author should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The thing itself.
    pub value: T,
    /// Warnings, such as fields that were left out because the match does not
    /// have their prerequisites.
    pub warnings: Vec<String>,
}
