//! Megaflows as text, as `ovs-dpctl dump-flows` 3.1 prints datapath flows
//! (lib/odp-util.c):
//!
//! ```text
//! recirc_id(0),in_port(1),packet_type(ns=0,id=0),eth(dst=00:00:00:00:00:02),eth_type(0x0800),
//! ipv4(src=10.0.0.0/255.0.0.0,proto=6,frag=no),tcp(dst=80), packets:3, bytes:180, used:0.512s, actions:2
//! ```
//!
//! It is the same in form; two things are said that Open vSwitch has no need
//! to say, as it always looks at the EtherType and therefore at tags:
//!
//! - A field that is not there was not looked at, `in_port` and `eth_type` too.
//!   Without `vlan(…)`, packets with and without tags are meant.
//!   `vlan(cfi=0)` is a packet that has none, `vlan(cfi=1)` one that has any.
//!   A conversation's line is as Open vSwitch's: without `vlan(…)` it has no tag.
//! - `normal` and `flood` stand as such in `actions:` where the megaflow does not
//!   say which ports they are, and controllers as `userspace(controller(…))`,
//!   without what only Open vSwitch knows of them.

#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::field::{Field, Form};
use crate::key::{FlowKey, PACKET_WORDS, PacketKey, VLAN_PRESENT};
use crate::program::DpAction;
use crate::text::{PortNames, write_hex, write_ipv6_address, write_mac, write_tcp_flags};

const IPV4: u128 = 0x0800;
const IPV6: u128 = 0x86dd;

/// A megaflow's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MegaflowCounts {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// How long ago the last packet was, in milliseconds; `None`: never.
    pub idle_ms: Option<u64>,
}

/// A megaflow on one line. Ports are named as `ports` knows them; with
/// [`NoNames`](crate::text::NoNames) they are numbers.
pub fn print_megaflow(
    key: &PacketKey,
    mask: &PacketKey,
    counts: MegaflowCounts,
    steps: impl Iterator<Item = DpAction>,
    ports: &dyn PortNames,
) -> String {
    let mut out = print_megaflow_key(key, mask, ports);
    let MegaflowCounts {
        packets,
        bytes,
        idle_ms,
    } = counts;
    let _ = write!(out, ", packets:{packets}, bytes:{bytes}, used:");
    let _ = match idle_ms {
        None => write!(out, "never"),
        Some(ms) => write!(out, "{}.{:03}s", ms / 1000, ms % 1000),
    };
    out.push_str(", actions:");
    out.push_str(&print_steps(steps, key, ports));
    out
}

/// What a megaflow matches.
pub fn print_megaflow_key(key: &PacketKey, mask: &PacketKey, ports: &dyn PortNames) -> String {
    let mut out = Printer::new(key, mask, ports);
    out.text.push_str("recirc_id(0),");
    if out.has(Field::InPort) {
        let port = Field::InPort.get(&out.key) as u16;
        out.text.push_str("in_port(");
        out.port(port);
        out.text.push_str("),");
    }
    out.text.push_str("packet_type(ns=0,id=0),");
    out.header("eth", &[("src", Field::EthSrc), ("dst", Field::EthDst)]);
    let tags = out.tags();
    out.eth_type(Field::EthType.get(&out.key) as u16, out.mask.0[0] >> 16);
    out.network();
    out.transport();
    out.end_of_header();
    out.text.extend(std::iter::repeat_n(')', tags));
    out.text
}

/// A program's steps, for packets of this key.
pub fn print_steps(
    steps: impl Iterator<Item = DpAction>,
    key: &PacketKey,
    ports: &dyn PortNames,
) -> String {
    let mut out = String::new();
    // What is set in one go; the types decide which headers the bits are of.
    let (mut values, mut set) = (*key, PacketKey::default());
    for step in steps {
        if let DpAction::Set { word, value, mask } = step {
            let word = usize::from(word);
            if word < PACKET_WORDS {
                values.0[word] = values.0[word] & !mask | value & mask;
                set.0[word] |= mask;
            }
            continue;
        }
        print_sets(&mut out, &values, &std::mem::take(&mut set), ports);
        print_step(&mut out, step, ports);
        out.push(',');
    }
    print_sets(&mut out, &values, &set, ports);
    out.pop();
    out
}

fn print_sets(out: &mut String, values: &PacketKey, set: &PacketKey, ports: &dyn PortNames) {
    let mut printer = Printer::new(values, set, ports);
    printer.header("eth", &[("src", Field::EthSrc), ("dst", Field::EthDst)]);
    printer.network();
    printer.transport();
    printer.tci(1);
    // Each header is a step of its own.
    let headers = printer.text.split_inclusive("),");
    for header in headers.filter_map(|header| header.strip_suffix(',')) {
        let _ = write!(out, "set({header}),");
    }
}

fn print_step(out: &mut String, step: DpAction, ports: &dyn PortNames) {
    let _ = match step {
        DpAction::Output(port) => {
            write_port(out, port, ports);
            Ok(())
        }
        DpAction::Normal => write!(out, "normal"),
        DpAction::Flood => write!(out, "flood"),
        DpAction::PushVlan { tpid, tci } => {
            let tpid = match tpid {
                0x8100 => String::new(),
                _ => format!("tpid={tpid:#06x},"),
            };
            let (vid, pcp) = (tci & 0xfff, tci >> 13);
            write!(out, "push_vlan({tpid}vid={vid},pcp={pcp})")
        }
        DpAction::PopVlan => write!(out, "pop_vlan"),
        DpAction::Controller {
            reason,
            max_len,
            id,
            ..
        } => {
            let reason = reason as u8;
            write!(
                out,
                "userspace(controller(reason={reason},controller_id={id},max_len={max_len}))"
            )
        }
        DpAction::Meter(id) => write!(out, "meter({id})"),
        DpAction::Drop(_) => write!(out, "drop"),
        // Printed with those that follow it.
        DpAction::Set { .. } => Ok(()),
    };
}

fn write_port(out: &mut String, port: u16, ports: &dyn PortNames) {
    match ports.name(port) {
        Some(name) => out.push_str(name),
        None => {
            let _ = write!(out, "{port}");
        }
    }
}

/// Writes headers, each followed by a comma.
struct Printer<'p> {
    text: String,
    key: FlowKey,
    mask: FlowKey,
    ports: &'p dyn PortNames,
}

impl<'p> Printer<'p> {
    fn new(key: &PacketKey, mask: &PacketKey, ports: &'p dyn PortNames) -> Self {
        Self {
            text: String::new(),
            key: key.to_flow(),
            mask: mask.to_flow(),
            ports,
        }
    }

    fn port(&mut self, port: u16) {
        write_port(&mut self.text, port, self.ports);
    }

    fn has(&self, field: Field) -> bool {
        field.get(&self.mask) != 0
    }

    fn end_of_header(&mut self) {
        if self.text.ends_with(',') {
            self.text.pop();
        }
    }

    /// A header with those of its fields that are in the mask, if any is.
    fn header(&mut self, name: &str, fields: &[(&str, Field)]) {
        if !fields.iter().any(|(_, field)| self.has(*field)) {
            return;
        }
        self.text.push_str(name);
        self.text.push('(');
        for (name, field) in fields {
            if self.has(*field) {
                self.text.push_str(name);
                self.text.push('=');
                self.value(*field);
                self.text.push(',');
            }
        }
        self.end_of_header();
        self.text.push_str("),");
    }

    fn value(&mut self, field: Field) {
        let (value, mask) = (field.get(&self.key), field.get(&self.mask));
        let out = &mut self.text;
        let part = mask != field.ones();
        match field.info().form {
            Form::Mac => write_mac(out, value, mask),
            Form::Ipv4 => {
                let _ = write!(out, "{}", Ipv4Addr::from(value as u32));
                if part {
                    let _ = write!(out, "/{}", Ipv4Addr::from(mask as u32));
                }
            }
            Form::Ipv6 => {
                write_ipv6_address(out, value);
                if part {
                    out.push('/');
                    write_ipv6_address(out, mask);
                }
            }
            Form::Frag => out.push_str(match (mask, value) {
                (1 | 3, 0) => "no",
                (3, 1) => "first",
                (2, 0) => "not_later",
                (1, _) => "yes",
                _ => "later",
            }),
            Form::TcpFlags => write_tcp_flags(out, value, mask),
            Form::Hex | Form::Decimal | Form::Port => {
                let hex = matches!(field, Field::IpTos | Field::Ipv6Label);
                if hex {
                    write_hex(out, value);
                } else {
                    let _ = write!(out, "{value}");
                }
                if part {
                    let _ = write!(out, "/{mask:#x}");
                }
            }
        }
    }

    /// Tags, and how many `encap(` they open.
    fn tags(&mut self) -> usize {
        let mut open = 0;
        for place in 0..2 {
            let mask = self.mask.0[1 + place];
            if mask & u64::from(VLAN_PRESENT) == 0 {
                break;
            }
            if self.key.0[1 + place] & u64::from(VLAN_PRESENT) == 0 {
                self.text.push_str("vlan(cfi=0),");
                break;
            }
            let shift = 48 - 16 * place;
            let tpid = (self.key.0[5] >> shift) as u16;
            self.eth_type(tpid, self.mask.0[5] >> shift);
            self.tci(1 + place);
            self.text.push_str("encap(");
            open += 1;
        }
        open
    }

    /// A type, of the packet or of a tag; the mask's lower 16 bits count.
    fn eth_type(&mut self, value: u16, mask: u64) {
        let _ = match mask as u16 {
            0 => Ok(()),
            0xffff => write!(self.text, "eth_type({value:#06x}),"),
            mask => write!(self.text, "eth_type({value:#06x}/{mask:#06x}),"),
        };
    }

    /// The tag whose TCI is in this word.
    fn tci(&mut self, word: usize) {
        let (tci, mask) = (self.key.0[word], self.mask.0[word]);
        if mask & 0xffff == 0 {
            return;
        }
        self.text.push_str("vlan(");
        for (name, shift, ones) in [("vid", 0, 0xfff), ("pcp", 13, 7)] {
            let (value, mask) = (tci >> shift & ones, mask >> shift & ones);
            if mask != 0 {
                let _ = write!(self.text, "{name}={value}");
                if mask != ones {
                    let _ = write!(self.text, "/{mask:#x}");
                }
                self.text.push(',');
            }
        }
        if mask & 0xefff == 0 {
            self.text.push_str("cfi=1");
        }
        self.end_of_header();
        self.text.push_str("),");
    }

    fn network(&mut self) {
        match Field::EthType.get(&self.key) {
            IPV4 => self.header(
                "ipv4",
                &[
                    ("src", Field::IpSrc),
                    ("dst", Field::IpDst),
                    ("proto", Field::IpProto),
                    ("tos", Field::IpTos),
                    ("ttl", Field::IpTtl),
                    ("frag", Field::IpFrag),
                ],
            ),
            IPV6 => self.header(
                "ipv6",
                &[
                    ("src", Field::Ipv6Src),
                    ("dst", Field::Ipv6Dst),
                    ("label", Field::Ipv6Label),
                    ("proto", Field::IpProto),
                    ("tclass", Field::IpTos),
                    ("hlimit", Field::IpTtl),
                    ("frag", Field::IpFrag),
                ],
            ),
            0x0806 | 0x8035 => self.header(
                "arp",
                &[
                    ("sip", Field::ArpSpa),
                    ("tip", Field::ArpTpa),
                    ("op", Field::ArpOp),
                    ("sha", Field::ArpSha),
                    ("tha", Field::ArpTha),
                ],
            ),
            _ => {}
        }
    }

    fn transport(&mut self) {
        let ports = |src, dst| [("src", src), ("dst", dst)];
        let types = |kind, code| [("type", kind), ("code", code)];
        let dl_type = Field::EthType.get(&self.key);
        if !matches!(dl_type, IPV4 | IPV6) {
            return;
        }
        match (dl_type, Field::IpProto.get(&self.key)) {
            (_, 6) => {
                self.header("tcp", &ports(Field::TcpSrc, Field::TcpDst));
                if self.has(Field::TcpFlags) {
                    self.text.push_str("tcp_flags(");
                    self.value(Field::TcpFlags);
                    self.text.push_str("),");
                }
            }
            (_, 17) => self.header("udp", &ports(Field::UdpSrc, Field::UdpDst)),
            (_, 132) => self.header("sctp", &ports(Field::SctpSrc, Field::SctpDst)),
            (IPV4, 1) => self.header("icmp", &types(Field::IcmpType, Field::IcmpCode)),
            (IPV6, 58) => {
                self.header("icmpv6", &types(Field::Icmpv6Type, Field::Icmpv6Code));
                self.header(
                    "nd",
                    &[
                        ("target", Field::NdTarget),
                        ("sll", Field::NdSll),
                        ("tll", Field::NdTll),
                    ],
                );
            }
            _ => {}
        }
    }
}
