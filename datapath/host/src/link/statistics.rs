//! What the kernel has counted for an interface.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::HostError;
use crate::netlink;

/// The interface's counters (`ip -s -s link`), by the names that
/// /sys/class/net has for them; `rx` is what the host's stack has received.
///
/// # Errors
///
/// There is no such interface; the kernel's.
pub fn statistics(index: u32) -> Result<Vec<(&'static str, u64)>, HostError> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    let answers = netlink::route(RouteNetlinkMessage::GetLink(request), 0)
        .map_err(|failure| failure.about("read the counters of", &super::name_of(index), None))?;
    let attributes = answers.into_iter().flat_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => message.attributes,
        _ => Vec::new(),
    });
    let stats = attributes.filter_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some(stats),
        _ => None,
    });
    Ok(stats
        .flat_map(|stats| {
            [
                ("rx_packets", stats.rx_packets),
                ("rx_bytes", stats.rx_bytes),
                ("rx_errors", stats.rx_errors),
                ("rx_dropped", stats.rx_dropped),
                ("rx_over_errors", stats.rx_over_errors),
                ("rx_crc_errors", stats.rx_crc_errors),
                ("rx_frame_errors", stats.rx_frame_errors),
                ("rx_missed_errors", stats.rx_missed_errors),
                ("multicast", stats.multicast),
                ("tx_packets", stats.tx_packets),
                ("tx_bytes", stats.tx_bytes),
                ("tx_errors", stats.tx_errors),
                ("tx_dropped", stats.tx_dropped),
                ("tx_carrier_errors", stats.tx_carrier_errors),
                ("collisions", stats.collisions),
            ]
        })
        .collect())
}
