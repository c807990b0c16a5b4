//! What the datapath says of flows, groups, meters, megaflows and packets for
//! controllers, as the answers carry it.

use std::cmp::Ordering;

use ringway_datapath::DatapathError;
use ringway_datapath::flows::{
    CacheStatus, GroupStatus, MegaflowStatus, MeterStatus, PacketIn, RuleStatus, TableStatus,
};
use ringway_flow::action::Reason;
use ringway_flow::datapath_text::{print_megaflow_key, print_steps};
use ringway_flow::extract::extract_slice;
use ringway_flow::field::Field;
use ringway_flow::key::VLAN_PRESENT;
use ringway_flow::matching::Match;
use ringway_flow::program::Steps;
use ringway_flow::rule::FlowFlags;
use ringway_flow::text::{self, NoNames, PortNames};
use ringway_proto::v1 as pb;

use crate::convert;
use crate::flow_text::Names;
use crate::switch::Switch;

/// Ports by name, or by number.
fn ports(names: &Names, by_name: bool) -> &dyn PortNames {
    match by_name {
        true => names,
        false => &NoNames,
    }
}

/// A sort key of flows.
#[derive(Clone, Copy, Debug)]
pub struct SortKey {
    /// `None`: the priority.
    field: Option<Field>,
    descending: bool,
}

impl SortKey {
    /// The key that is asked for.
    pub fn from_proto(asked: &pb::FlowSort) -> Result<Self, String> {
        let field = match asked.field.as_str() {
            "" | "priority" => None,
            // A VLAN is a part of the tag.
            "dl_vlan" => Some(Field::VlanVid),
            name => Some(Field::from_name(name).ok_or_else(|| {
                format!("{name:?} is no field to sort by: priority, or one that a match may have")
            })?),
        };
        Ok(Self {
            field,
            descending: asked.descending,
        })
    }
}

/// Sorts flows by the keys, as ovs-ofctl does: what does not match on a field
/// comes behind what does, or before it in descending order.
pub fn sort(rules: &mut [RuleStatus], keys: &[SortKey]) {
    rules.sort_by(|one, other| {
        let orders = keys.iter().map(|key| {
            let order = match key.field {
                None => one.rule.priority.cmp(&other.rule.priority),
                Some(field) => {
                    let (one, other) = (one.rule.matching.full(), other.rule.matching.full());
                    by_field(field, &one, &other)
                }
            };
            match key.descending {
                true => order.reverse(),
                false => order,
            }
        });
        let mut orders = orders.filter(|order| *order != Ordering::Equal);
        orders.next().unwrap_or(Ordering::Equal)
    });
}

fn by_field(field: Field, one: &Match, other: &Match) -> Ordering {
    // Fields that share a place (nw_src, arp_spa) are told apart by what the
    // flow says of its Ethernet type.
    let is_set = |matching: &Match| field.get(&matching.mask) != 0;
    match (is_set(one), is_set(other)) {
        (true, true) => field.get(&one.key).cmp(&field.get(&other.key)),
        (one, other) => other.cmp(&one),
    }
}

/// A flow with its counters.
pub fn flow(status: &RuleStatus, names: &Names, by_name: bool) -> pb::Flow {
    let rule = &status.rule;
    let ports = ports(names, by_name);
    pb::Flow {
        table: rule.table.into(),
        priority: rule.priority.into(),
        cookie: rule.cookie,
        idle_timeout: rule.idle_timeout.into(),
        hard_timeout: rule.hard_timeout.into(),
        importance: rule.importance.into(),
        flags: flags(rule.flags),
        packets: status.counts.packets,
        bytes: status.counts.bytes,
        duration_ms: millis(status.age),
        idle_ms: millis(status.idle),
        r#match: text::print_match(&rule.matching.full(), ports),
        actions: text::print_actions(&rule.actions, ports),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn flags(flags: FlowFlags) -> Vec<String> {
    let FlowFlags {
        send_flow_rem,
        check_overlap,
        reset_counts,
        no_packet_counts,
        no_byte_counts,
    } = flags;
    let all = [
        (send_flow_rem, "send_flow_rem"),
        (check_overlap, "check_overlap"),
        (reset_counts, "reset_counts"),
        (no_packet_counts, "no_packet_counts"),
        (no_byte_counts, "no_byte_counts"),
    ];
    let set = all.into_iter().filter(|(set, _)| *set);
    set.map(|(_, name)| name.to_owned()).collect()
}

/// A table.
pub fn table(status: &TableStatus) -> pb::Table {
    pb::Table {
        table: status.table.into(),
        active: status.active as u64,
        lookups: status.lookups,
        matched: status.matched,
    }
}

/// A group with its counters.
pub fn group(status: &GroupStatus, names: &Names, by_name: bool) -> pb::Group {
    pb::Group {
        group: status.spec.id,
        text: text::print_group(&status.spec, ports(names, by_name)),
        packets: status.counts.packets,
        bytes: status.counts.bytes,
        duration_ms: millis(status.age),
        buckets: status
            .buckets
            .iter()
            .map(|counts| pb::BucketCounters {
                packets: counts.packets,
                bytes: counts.bytes,
            })
            .collect(),
    }
}

/// A meter with its counters.
pub fn meter(status: &MeterStatus) -> pb::Meter {
    let spec = &status.spec;
    pb::Meter {
        meter: spec.id,
        packets_per_second: spec.packets,
        rate: spec.rate,
        burst: spec.has_burst.then_some(spec.burst),
        stats: spec.stats,
        flows: status.flows,
        packets: status.packets,
        bytes: status.bytes,
        band_packets: status.band_packets,
        band_bytes: status.band_bytes,
        duration_ms: millis(status.age),
    }
}

/// The megaflows of a bridge, or of packets from a port; all if the filter is
/// empty.
pub fn megaflows<S: Switch>(
    switch: &S,
    filter: &str,
) -> Result<Vec<MegaflowStatus>, DatapathError> {
    let mut megaflows = switch.megaflows();
    megaflows.sort_by(|one, other| (one.core, &one.bridge).cmp(&(other.core, &other.bridge)));
    if filter.is_empty() {
        return Ok(megaflows);
    }
    if switch.bridges().iter().any(|bridge| bridge.name == filter) {
        megaflows.retain(|megaflow| megaflow.bridge == filter);
        return Ok(megaflows);
    }
    let ports = switch.port_places();
    let Some(port) = ports.iter().find(|port| port.name == filter) else {
        return Err(DatapathError::NotFound {
            object: "bridge or port",
            name: filter.to_owned(),
        });
    };
    megaflows.retain(|megaflow| {
        let in_port = Field::InPort.get(&megaflow.key.to_flow());
        in_port == u128::from(port.number)
    });
    Ok(megaflows)
}

/// A megaflow.
pub fn megaflow(status: &MegaflowStatus, names: &Names, by_name: bool) -> pb::Megaflow {
    let ports = ports(names, by_name);
    pb::Megaflow {
        bridge: status.bridge.clone(),
        core: status.core.try_into().unwrap_or(u32::MAX),
        flow: print_megaflow_key(&status.key, &status.mask, ports),
        packets: status.packets,
        bytes: status.bytes,
        used_ms: status.used.map(millis),
        actions: print_steps(Steps::of(&status.program), &status.key, ports),
    }
}

/// The flow caches.
pub fn cache(status: &CacheStatus) -> pb::CacheStatus {
    pb::CacheStatus {
        emc_hits: status.emc_hits,
        megaflow_hits: status.megaflow_hits,
        missed: status.missed,
        lost: status.lost,
        not_installed: status.not_installed,
        flows: status.flows,
        flow_limit: status.flow_limit,
        masks: status.masks,
        mask_limit: status.mask_limit,
        mask_probes: status.mask_probes,
        emc_entries: status.emc_entries,
        bytes: status.bytes,
        megaflow_bytes: status.megaflow_bytes,
        memory: Some(convert::memory_to_proto(&status.memory)),
        rules: status.rules,
        rule_bytes: status.rule_bytes,
    }
}

/// A packet for controllers.
pub fn packet_in(packet: &PacketIn, names: &Names) -> pb::PacketIn {
    let reason = match packet.reason {
        Reason::NoMatch => pb::PacketInReason::NoMatch,
        Reason::Action => pb::PacketInReason::Action,
        Reason::InvalidTtl => pb::PacketInReason::InvalidTtl,
    };
    let number = u16::try_from(packet.in_port).ok();
    let name = number.and_then(|number| names.name(number));
    pb::PacketIn {
        bridge: packet.bridge.clone(),
        in_port: packet.in_port,
        in_port_name: name.unwrap_or_default().to_owned(),
        reason: reason.into(),
        table: packet.table.into(),
        controller: packet.controller.into(),
        frame_length: packet.frame_len.try_into().unwrap_or(u32::MAX),
        frame: packet.frame.clone(),
        summary: summary(&packet.frame),
    }
}

/// A frame's fields in one line, as `ovs-ofctl monitor` prints them.
pub fn summary(frame: &[u8]) -> String {
    use Field::*;
    let key = extract_slice(frame, 0, 0).to_flow();
    let mut fields = Match::default();
    let mut tell = |told: &[Field]| {
        for field in told {
            fields.exact(*field, field.get(&key));
        }
    };
    tell(&[EthType, EthSrc, EthDst]);
    if VlanTci.get(&key) & u128::from(VLAN_PRESENT) == 0 {
        tell(&[VlanTci]);
    } else {
        tell(&[VlanVid, VlanPcp]);
    }
    let (eth_type, protocol) = (EthType.get(&key), IpProto.get(&key));
    match eth_type {
        0x0800 => tell(&[IpSrc, IpDst]),
        0x86dd => tell(&[Ipv6Src, Ipv6Dst, Ipv6Label]),
        0x0806 | 0x8035 => tell(&[ArpSpa, ArpTpa, ArpOp, ArpSha, ArpTha]),
        _ => {}
    }
    if matches!(eth_type, 0x0800 | 0x86dd) {
        tell(&[IpProto, IpDscp, IpEcn, IpTtl, IpFrag]);
        match (protocol, eth_type) {
            (6, _) => tell(&[TcpSrc, TcpDst, TcpFlags]),
            (17, _) => tell(&[UdpSrc, UdpDst]),
            (132, _) => tell(&[SctpSrc, SctpDst]),
            (1, 0x0800) => tell(&[IcmpType, IcmpCode]),
            (58, 0x86dd) => tell(&[Icmpv6Type, Icmpv6Code]),
            _ => {}
        }
    }
    text::print_match(&fields, &NoNames)
}
