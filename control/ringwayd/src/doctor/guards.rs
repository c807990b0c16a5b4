//! Ports that are refused something by their guards, now.

use ringway_datapath::DropReason;

use super::facts::Refused;
use super::{Facts, Found};

/// What guards are refusing while the doctor looks.
pub fn refused(facts: &Facts) -> Vec<Found> {
    let limited = |port: &str| {
        let mut all = facts.refused.iter();
        all.any(|other| other.port == port && other.reason == Some(DropReason::FdbLimit))
    };
    let told = facts.refused.iter();
    // One that has as many stations as it may is told of so already.
    let told = told.filter(|refused| refused.reason.is_some() || !limited(&refused.port));
    told.map(|refused| found(facts, refused)).collect()
}

fn found(facts: &Facts, refused: &Refused) -> Found {
    let Refused {
        port,
        reason,
        count,
    } = refused;
    let object = format!("port {port}");
    let name = reason.map_or("", DropReason::name);
    let dropped = format!("{count} frames were dropped as {name} just now");
    let look = vec![
        format!("ringway trace --port {port} --next"),
        "ringway drops".to_owned(),
    ];
    match reason {
        Some(DropReason::SpoofedMac | DropReason::SpoofedVlan | DropReason::SpoofedIp) => {
            let list = match reason {
                Some(DropReason::SpoofedMac) => "allowed_macs",
                Some(DropReason::SpoofedVlan) => "allowed_vlans",
                _ => "allowed_ips",
            };
            let why =
                format!("its guest sends what is not its own, or has what {list} does not list");
            Found::warning(object, dropped, why).mended_by(look)
        }
        Some(DropReason::MacMoveDenied) => {
            let why = "its guest says to be a station of another port, whose stations do not move \
                       (mac_move=deny)";
            Found::warning(object, dropped, why).mended_by(look)
        }
        Some(DropReason::FdbLimit) => {
            let why = "there are more stations behind it than max_macs allows, or its guest makes \
                       up addresses";
            Found::warning(object, dropped, why).mended_by(look)
        }
        Some(_) => {
            let why = "it sends more than its rate allows, as it was asked to be";
            Found::note(object, dropped, why)
        }
        None => {
            let what = format!("{count} stations were not learned on it just now");
            let why = "it has as many as one port may, or the table is full: its guest makes up \
                       addresses, or there are more stations than fdb_limit; frames for those are \
                       sent to all ports";
            let mut bridges = facts.shown.bridges.iter();
            let bridge = bridges.find(|bridge| bridge.ports.iter().any(|one| one.name == *port));
            let larger =
                bridge.map(|bridge| format!("ringway set-br {} fdb_limit=65536", bridge.name));
            let bounded = format!("ringway set-port {port} max_macs=16");
            Found::warning(object, what, why)
                .mended_by(larger.into_iter().chain([bounded]).collect())
        }
    }
}
