//! What a DPDK device tells of itself, in the words of a port's status.

use crate::nic::Nic;
use crate::nic_health::Condition;
use crate::port::Told;
use crate::status::{LinkStatus, PortState};

/// Where the device stands, since when, and facts worth showing.
pub fn nic_status(nic: &Nic) -> Told {
    let port = nic.port();
    let (info, settings) = (port.info(), port.settings());
    let (condition, since) = nic.health().known();
    let mut details = vec![
        ("devargs", info.devargs.clone()),
        ("driver", info.driver.clone()),
        ("rx_queues", settings.rx_queues.to_string()),
        ("tx_queues", settings.tx_queues.to_string()),
        ("rx_descriptors", settings.rx_descriptors.to_string()),
        ("tx_descriptors", settings.tx_descriptors.to_string()),
    ];
    if settings.rx_queues > 1 {
        details.push(("rss", settings.rss.to_string()));
    }
    if let Ok(mac) = port.mac() {
        let mac = mac.map(|byte| format!("{byte:02x}"));
        details.push(("mac", mac.join(":")));
    }
    details.push(("mtu", nic.mtu().to_string()));
    details.push(("max_mtu", port.max_mtu().to_string()));
    details.push(("tx_offloads", info.offloads.to_string()));
    if let Condition::Up(link) = &condition
        && let Some(mbps) = link.speed_mbps
    {
        let duplex = if link.full_duplex { "full" } else { "half" };
        details.push(("link_speed", format!("{mbps} Mbit/s, {duplex} duplex")));
    }
    let events = if settings.link_events {
        "interrupt"
    } else {
        "asked once a second"
    };
    details.push(("link_changes", events.to_owned()));
    let pool = nic.mempool();
    details.push((
        "mbufs",
        format!("{} of {} bytes", pool.count(), pool.data_room()),
    ));
    let details = details
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let state = match condition {
        Condition::Up(_) => PortState::Forwarding,
        Condition::Down => PortState::LinkDown {
            why: format!(
                "the link of {} is down: check the cable, or the other end of the device; the \
                 port forwards again by itself when the link is up",
                info.device
            ),
        },
        Condition::Failed(why) => PortState::Failed { why },
    };
    (state, since, details)
}

/// The device's link.
pub fn nic_link(nic: &Nic) -> LinkStatus {
    let port = nic.port();
    let (condition, _) = nic.health().known();
    let link = match condition {
        Condition::Up(link) => Some(link),
        Condition::Down | Condition::Failed(_) => None,
    };
    LinkStatus {
        mac: port.mac().ok(),
        mtu: u32::from(nic.mtu()),
        admin_up: true,
        link_up: link.is_some(),
        speed_mbps: link.and_then(|link| link.speed_mbps),
        ifindex: port.kernel_interface().map(|(_, index)| index),
        driver: port.info().driver.clone(),
        via: match port.info().driver.as_str() {
            "net_af_xdp" => "af_xdp",
            _ => "dpdk",
        },
    }
}
