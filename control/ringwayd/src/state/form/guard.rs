//! The keys of a port's guard.

use ringway_datapath::spec::GuardSpec;
use ringway_proto::spelling::Spelling;
use ringway_proto::v1 as pb;

use super::{PortForm, spelled_or_default};
use crate::convert;

impl PortForm {
    /// With the keys that say what `spec` does.
    pub(super) fn with_guard(self, spec: &GuardSpec) -> Self {
        let Some(guard) = convert::guard_to_proto(spec) else {
            return self;
        };
        let number = |number: u32| (number > 0).then_some(number);
        let mac_move = match guard.mac_move() {
            pb::MacMove::Unspecified => None,
            how => Some(how.spelled().to_owned()),
        };
        Self {
            allowed_macs: some_list(guard.allowed_macs),
            allowed_vlans: some_list(guard.allowed_vlans),
            allowed_ips: some_list(guard.allowed_ips),
            max_macs: guard.max_macs,
            mac_move,
            storm_pps: number(guard.storm_pps),
            storm_burst: number(guard.storm_burst),
            ingress_policing_rate: number(guard.ingress_policing_rate),
            ingress_policing_burst: number(guard.ingress_policing_burst),
            ingress_policing_kpkts_rate: number(guard.ingress_policing_kpkts_rate),
            ingress_policing_kpkts_burst: number(guard.ingress_policing_kpkts_burst),
            ..self
        }
    }

    /// What these keys say.
    pub(super) fn guard(&self) -> Result<GuardSpec, String> {
        let number = |number: Option<u32>| number.unwrap_or(0);
        convert::guard_from_proto(&pb::GuardSpec {
            allowed_macs: self.allowed_macs.clone().unwrap_or_default(),
            allowed_vlans: self.allowed_vlans.clone().unwrap_or_default(),
            allowed_ips: self.allowed_ips.clone().unwrap_or_default(),
            max_macs: self.max_macs,
            mac_move: spelled_or_default::<pb::MacMove>(self.mac_move.as_deref())?.into(),
            storm_pps: number(self.storm_pps),
            storm_burst: number(self.storm_burst),
            ingress_policing_rate: number(self.ingress_policing_rate),
            ingress_policing_burst: number(self.ingress_policing_burst),
            ingress_policing_kpkts_rate: number(self.ingress_policing_kpkts_rate),
            ingress_policing_kpkts_burst: number(self.ingress_policing_kpkts_burst),
        })
    }
}

/// Nothing for what is not written.
fn some_list<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
