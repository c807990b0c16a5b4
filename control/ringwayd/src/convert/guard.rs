//! A port's guard between the protocol and the datapath's types.

use std::collections::BTreeSet;

use ringway_datapath::spec::{GuardSpec, MacMove, RateSpec};
use ringway_proto::v1 as pb;
use ringway_proto::{guard, spelling};

use super::{known, narrow};

/// The datapath's guard.
pub fn guard_from_proto(asked: &pb::GuardSpec) -> Result<GuardSpec, String> {
    let of = |key: &'static str| move |why: String| format!("{key}: {why}");
    let macs = asked.allowed_macs.iter().map(|text| spelling::mac(text));
    let macs: BTreeSet<_> = macs.collect::<Result<_, _>>().map_err(of("allowed_macs"))?;
    let vlans = asked.allowed_vlans.iter();
    let vlans: BTreeSet<_> = vlans
        .map(|vlan| narrow("allowed_vlans: VLAN", *vlan))
        .collect::<Result<_, _>>()?;
    let ips = asked.allowed_ips.iter().map(|text| guard::network(text));
    let ips: BTreeSet<_> = ips.collect::<Result<_, _>>().map_err(of("allowed_ips"))?;
    let rate = |rate, burst| RateSpec { rate, burst };
    Ok(GuardSpec {
        allowed_macs: macs.into_iter().collect(),
        allowed_vlans: vlans.into_iter().collect(),
        allowed_ips: ips.into_iter().collect(),
        max_macs: asked.max_macs,
        mac_move: match known("mac_move", asked.mac_move)? {
            pb::MacMove::Unspecified | pb::MacMove::Allow => MacMove::Allow,
            pb::MacMove::Deny => MacMove::Deny,
        },
        storm: rate(asked.storm_pps, asked.storm_burst),
        ingress_kbits: rate(asked.ingress_policing_rate, asked.ingress_policing_burst),
        ingress_kpkts: rate(
            asked.ingress_policing_kpkts_rate,
            asked.ingress_policing_kpkts_burst,
        ),
    })
}

/// The guard as answers carry it; unset for a port without.
pub fn guard_to_proto(spec: &GuardSpec) -> Option<pb::GuardSpec> {
    let macs = spec.allowed_macs.iter().copied();
    let ips = spec.allowed_ips.iter().copied();
    (*spec != GuardSpec::default()).then(|| pb::GuardSpec {
        allowed_macs: macs.map(spelling::mac_text).collect(),
        allowed_vlans: spec.allowed_vlans.iter().copied().map(u32::from).collect(),
        allowed_ips: ips.map(guard::network_text).collect(),
        max_macs: spec.max_macs,
        mac_move: match spec.mac_move {
            MacMove::Allow => pb::MacMove::Unspecified,
            MacMove::Deny => pb::MacMove::Deny,
        }
        .into(),
        storm_pps: spec.storm.rate,
        storm_burst: spec.storm.burst,
        ingress_policing_rate: spec.ingress_kbits.rate,
        ingress_policing_burst: spec.ingress_kbits.burst,
        ingress_policing_kpkts_rate: spec.ingress_kpkts.rate,
        ingress_policing_kpkts_burst: spec.ingress_kpkts.burst,
    })
}
