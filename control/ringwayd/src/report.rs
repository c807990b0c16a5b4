//! What the datapath says of itself, as the answers carry it.

use std::collections::BTreeMap;

use ringway_datapath::DropReason;
use ringway_datapath::status::{PortCounters, PortStatus};
use ringway_proto::v1 as pb;
use tonic::Status;

use crate::convert;
use crate::flow_report;
use crate::switch::Switch;

/// `DatapathShow`
pub fn datapath<S: Switch>(switch: &S) -> pb::DatapathShowResponse {
    let mut packets = pb::Packets::default();
    for pmd in switch.pmds() {
        let of_core = convert::packets_to_proto(&pmd.counters);
        packets.received += of_core.received;
        packets.replicated += of_core.replicated;
        packets.transmitted += of_core.transmitted;
        packets.dropped += of_core.dropped;
    }
    let mut bridges = switch.bridges();
    bridges.sort_by(|a, b| a.name.cmp(&b.name));
    pb::DatapathShowResponse {
        memory: Some(convert::memory_to_proto(&switch.info().memory)),
        packets: Some(packets),
        bridges: bridges
            .iter()
            .map(|bridge| pb::DatapathBridge {
                name: bridge.name.clone(),
                status: Some(convert::bridge_status_to_proto(bridge)),
            })
            .collect(),
        ports: switch
            .ports()
            .iter()
            .map(convert::port_status_to_proto)
            .collect(),
        cache: Some(flow_report::cache(&switch.cache())),
    }
}

/// `DumpPorts`; an empty name stands for all.
pub fn ports<S: Switch>(
    switch: &S,
    request: &pb::DumpPortsRequest,
) -> Result<pb::DumpPortsResponse, Status> {
    let pb::DumpPortsRequest {
        bridge,
        port,
        detail,
    } = request;
    let known = switch.bridges().iter().any(|status| status.name == *bridge);
    if !bridge.is_empty() && !known {
        let why = format!("the datapath has no bridge named {bridge}");
        return Err(Status::not_found(why));
    }
    let mut ports = switch.ports();
    ports.retain(|status| bridge.is_empty() || status.bridge == *bridge);
    ports.retain(|status| port.is_empty() || status.name == *port);
    if !port.is_empty() && ports.is_empty() {
        let place = match bridge.is_empty() {
            true => "the datapath".to_owned(),
            false => format!("bridge {bridge}"),
        };
        let why = format!("{place} has no port named {port}; `ringway show` may tell why");
        return Err(Status::not_found(why));
    }
    Ok(pb::DumpPortsResponse {
        ports: (ports.iter())
            .map(|status| pb::PortCounters {
                device: match detail {
                    true => device_counters(switch, &status.name),
                    false => vec![],
                },
                ..port_counters(status)
            })
            .collect(),
    })
}

/// None of a port that has just gone.
fn device_counters<S: Switch>(switch: &S, port: &str) -> Vec<pb::DeviceCounter> {
    let counters = switch.device_counters(port).unwrap_or_default().into_iter();
    counters
        .map(|(name, value)| pb::DeviceCounter { name, value })
        .collect()
}

fn port_counters(status: &PortStatus) -> pb::PortCounters {
    pb::PortCounters {
        number: status.number,
        name: status.name.clone(),
        bridge: status.bridge.clone(),
        total: Some(convert::counters_to_proto(&status.counters)),
        queues: status
            .queues
            .iter()
            .map(|queue| pb::QueueCounters {
                queue: queue.queue.into(),
                counters: Some(convert::counters_to_proto(&queue.counters)),
            })
            .collect(),
        device: Vec::new(),
    }
}

/// `PmdShow`
pub fn pmds<S: Switch>(switch: &S) -> pb::PmdShowResponse {
    let ports = switch.ports();
    let rings = |port: &str, queue: u16| {
        let status = ports.iter().find(|status| status.name == port);
        status.and_then(|status| status.queues.iter().find(|found| found.queue == queue))
    };
    let pmds = switch.pmds();
    let polled = |(port, queue): &(String, u16)| {
        let rings = rings(port, *queue);
        pb::PolledQueue {
            port: port.clone(),
            queue: (*queue).into(),
            dequeue_size: rings.map_or(0, |rings| rings.dequeue_size.into()),
            enqueue_size: rings.map_or(0, |rings| rings.enqueue_size.into()),
        }
    };
    pb::PmdShowResponse {
        pmds: pmds
            .iter()
            .map(|pmd| pb::Pmd {
                core: core_number(pmd.core),
                sleeping: pmd.sleeping,
                polls: pmd.polls.iter().map(polled).collect(),
            })
            .collect(),
    }
}

/// `PmdStats`
pub fn pmd_stats<S: Switch>(switch: &S) -> pb::PmdStatsResponse {
    let pmds = switch.pmds();
    let of_core = pmds.iter().map(|pmd| {
        let counters = &pmd.counters;
        pb::PmdCounters {
            core: core_number(pmd.core),
            iterations: counters.iterations,
            busy_polls: counters.busy_polls,
            busy_cycles: counters.busy_cycles,
            idle_cycles: counters.idle_cycles,
            sleep_cycles: counters.sleep_cycles,
            sleeps: counters.sleeps,
            packets: Some(convert::packets_to_proto(counters)),
            drops: counters
                .dropped
                .iter()
                .filter(|(_, packets)| *packets > 0)
                .map(|(reason, packets)| convert::drop_count(*reason, *packets))
                .collect(),
        }
    });
    pb::PmdStatsResponse {
        pmds: of_core.collect(),
        tsc_hz: switch.info().tsc_hz,
    }
}

fn core_number(core: usize) -> u32 {
    core.try_into().unwrap_or(u32::MAX)
}

/// `Drops`
pub fn drops<S: Switch>(switch: &S) -> pb::DropsResponse {
    let mut drops = Vec::new();
    for port in switch.ports() {
        for queue in &port.queues {
            let number = Some(queue.queue.into());
            push_drops(&mut drops, &port.name, number, &queue.counters);
        }
        push_drops(&mut drops, &port.name, None, &beyond_queues(&port));
    }
    pb::DropsResponse { drops }
}

/// Drops counted at the port but at none of its queues.
fn beyond_queues(port: &PortStatus) -> PortCounters {
    let mut rest = PortCounters {
        rx_drops: port.counters.rx_drops.clone(),
        tx_drops: port.counters.tx_drops.clone(),
        ..PortCounters::default()
    };
    for queue in &port.queues {
        subtract(&mut rest.rx_drops, &queue.counters.rx_drops);
        subtract(&mut rest.tx_drops, &queue.counters.tx_drops);
    }
    rest
}

fn subtract(total: &mut [(DropReason, u64)], part: &[(DropReason, u64)]) {
    let part: BTreeMap<_, _> = part.iter().copied().collect();
    for (reason, packets) in total {
        *packets = packets.saturating_sub(part.get(reason).copied().unwrap_or(0));
    }
}

fn push_drops(drops: &mut Vec<pb::Drop>, port: &str, queue: Option<u32>, counters: &PortCounters) {
    let sides = [
        (pb::Side::Rx, &counters.rx_drops),
        (pb::Side::Tx, &counters.tx_drops),
    ];
    for (side, counted) in sides {
        for (reason, packets) in counted.iter().filter(|(_, packets)| *packets > 0) {
            drops.push(pb::Drop {
                port: port.to_owned(),
                queue,
                side: side.into(),
                count: Some(convert::drop_count(*reason, *packets)),
            });
        }
    }
}
