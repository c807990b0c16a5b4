//! The state file's tables as serde sees them, and what they mean.

mod guard;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringway_datapath::spec::{DpdkSpec, InternalSpec, PatchSpec, SystemSpec, VlanSpec};
use ringway_proto::spelling::{self, Spelling};
use ringway_proto::v1 as pb;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::convert;
use crate::model::{Bridge, Columns, Kind, Port, Tap, VhostUser};

/// The file as serde sees it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileForm {
    pub(super) version: Spanned<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) switch: Option<Spanned<ColumnsForm>>,
    #[serde(default)]
    pub(super) bridge: Vec<Spanned<BridgeForm>>,
    #[serde(default)]
    pub(super) port: Vec<Spanned<PortForm>>,
}

/// What is noted about the switch as a whole: `[switch.external_ids]`,
/// `[switch.other_config]`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ColumnsForm {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) external_ids: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) other_config: BTreeMap<String, String>,
}

/// A `[[bridge]]`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct BridgeForm {
    name: String,
    fail_mode: Option<String>,
    fdb_ageing: Option<u64>,
    fdb_limit: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_internal: bool,
    #[serde(default, rename = "external_ids")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    external_ids: BTreeMap<String, String>,
    #[serde(default, rename = "other_config")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    other_config: BTreeMap<String, String>,
}

/// A `[[port]]` of any type; [`PortForm::only`] refuses the keys of others.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct PortForm {
    name: String,
    bridge: String,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devargs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_rxq: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_txq: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_rxq_desc: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_txq_desc: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xdp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trunks: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cvlans: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority_tags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qinq_ethtype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_macs: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_vlans: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_ips: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_macs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_move: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storm_pps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storm_burst: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_policing_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_policing_burst: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_policing_kpkts_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_policing_kpkts_burst: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_ids: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_config: Option<BTreeMap<String, String>>,
}

impl BridgeForm {
    pub(super) fn from_model(bridge: &Bridge) -> Self {
        let mode = convert::fail_mode_to_proto(bridge.spec.fail_mode);
        Self {
            name: bridge.name().to_owned(),
            fail_mode: Some(mode.spelled().into()),
            fdb_ageing: Some(bridge.spec.fdb_ageing.as_secs()),
            fdb_limit: Some(bridge.spec.fdb_limit),
            no_internal: bridge.no_internal,
            external_ids: bridge.columns.external_ids.clone(),
            other_config: bridge.columns.other_config.clone(),
        }
    }

    pub(super) fn into_model(self) -> Result<Bridge, String> {
        let name = self.name.clone();
        self.try_into_model()
            .map_err(|why| format!("bridge {name}: {why}"))
    }

    fn try_into_model(self) -> Result<Bridge, String> {
        let mut bridge = Bridge::new(self.name);
        if let Some(mode) = self.fail_mode {
            let mode = pb::FailMode::from_spelling(&mode)?;
            bridge.spec.fail_mode = convert::fail_mode_from_proto(mode);
        }
        if let Some(seconds) = self.fdb_ageing {
            bridge.spec.fdb_ageing = Duration::from_secs(seconds);
        }
        bridge.spec.fdb_limit = self.fdb_limit.unwrap_or(bridge.spec.fdb_limit);
        bridge.columns = Columns {
            external_ids: self.external_ids,
            other_config: self.other_config,
        };
        // A name that an older ringwayd took may be too long for an interface.
        bridge.no_internal = true;
        bridge.check()?;
        bridge.no_internal = self.no_internal;
        Ok(bridge)
    }
}

/// Nothing for what is not written.
fn some<T>(map: &BTreeMap<String, T>) -> Option<BTreeMap<String, T>>
where
    T: Clone,
{
    (!map.is_empty()).then(|| map.clone())
}

impl PortForm {
    pub(super) fn from_model(port: &Port) -> Self {
        let form = Self {
            name: port.name.clone(),
            bridge: port.bridge.clone(),
            r#type: convert::kind_to_proto(&port.kind).spelled().to_owned(),
            number: port.number,
            mtu: port.mtu,
            external_ids: some(&port.columns.external_ids),
            other_config: some(&port.columns.other_config),
            ..Self::default()
        }
        .with_vlan(&port.vlan)
        .with_guard(&port.guard);
        match &port.kind {
            Kind::VhostUser(options) => Self {
                path: Some(options.path.to_string_lossy().into_owned()),
                mode: Some(convert::socket_mode_to_proto(options.mode).spelled().into()),
                queues: Some(options.queues),
                owner: options.owner.clone(),
                permissions: options.permissions.map(|bits| format!("{bits:04o}")),
                ..form
            },
            Kind::Dpdk(options) => {
                let defaults = DpdkSpec::new("");
                let set = |value: u16, default| (value != default).then_some(value);
                Self {
                    devargs: Some(options.devargs.clone()),
                    n_rxq: Some(options.rx_queues),
                    n_txq: options.tx_queues,
                    n_rxq_desc: set(options.rx_descriptors, defaults.rx_descriptors),
                    n_txq_desc: set(options.tx_descriptors, defaults.tx_descriptors),
                    ..form
                }
            }
            Kind::System(options) => Self {
                xdp: Some(convert::xdp_to_proto(options.xdp).spelled().into()),
                queues: Some(options.queues),
                ..form
            },
            Kind::Internal(options) => Self {
                mac: options.mac.map(spelling::mac_text),
                queues: Some(options.queues),
                ..form
            },
            Kind::Tap(options) => Self {
                owner: options.owner.clone(),
                ..form
            },
            Kind::Patch(options) => Self {
                peer: Some(options.peer.clone()),
                ..form
            },
        }
    }

    fn with_vlan(self, vlan: &VlanSpec) -> Self {
        let spelled = |text: &'static str| (!text.is_empty()).then(|| text.to_owned());
        let list = |vlans: &Vec<u16>| (!vlans.is_empty()).then(|| vlans.clone());
        let tags = vlan.priority_tags;
        let default = VlanSpec::default();
        Self {
            vlan_mode: spelled(convert::vlan_mode_to_proto(vlan.mode).spelled()),
            tag: vlan.tag,
            trunks: list(&vlan.trunks),
            cvlans: list(&vlan.cvlans),
            priority_tags: match tags == default.priority_tags {
                true => None,
                false => spelled(convert::priority_tags_to_proto(tags).spelled()),
            },
            qinq_ethtype: match vlan.qinq_8021q {
                true => spelled(spelling::qinq_ethtype(true)),
                false => None,
            },
            ..self
        }
    }

    pub(super) fn into_model(self) -> Result<Port, String> {
        let name = self.name.clone();
        self.try_into_model()
            .map_err(|why| format!("port {name}: {why}"))
    }

    fn try_into_model(self) -> Result<Port, String> {
        let (vlan, guard) = (self.vlan()?, self.guard()?);
        let kind = match spelling::port_kind(&self.r#type)? {
            pb::PortKind::Dpdk => {
                self.only(&["devargs", "n_rxq", "n_txq", "n_rxq_desc", "n_txq_desc"])?;
                let mut spec = DpdkSpec::new(self.devargs.unwrap_or_default());
                spec.rx_queues = self.n_rxq.unwrap_or(spec.rx_queues);
                spec.tx_queues = self.n_txq;
                spec.rx_descriptors = self.n_rxq_desc.unwrap_or(spec.rx_descriptors);
                spec.tx_descriptors = self.n_txq_desc.unwrap_or(spec.tx_descriptors);
                Kind::Dpdk(spec)
            }
            pb::PortKind::System => {
                self.only(&["xdp", "queues"])?;
                let xdp = spelled_or_default::<pb::XdpMode>(self.xdp.as_deref())?;
                Kind::System(SystemSpec {
                    xdp: convert::xdp_from_proto(xdp),
                    queues: self.queues.unwrap_or(1),
                })
            }
            pb::PortKind::Internal => {
                self.only(&["mac", "queues"])?;
                Kind::Internal(InternalSpec {
                    mac: self.mac.as_deref().map(spelling::mac).transpose()?,
                    queues: self.queues.unwrap_or(1),
                })
            }
            pb::PortKind::Tap => {
                self.only(&["owner"])?;
                Kind::Tap(Tap { owner: self.owner })
            }
            pb::PortKind::Patch => {
                self.only(&["peer"])?;
                Kind::Patch(PatchSpec {
                    peer: self.peer.unwrap_or_default(),
                })
            }
            pb::PortKind::VhostUser | pb::PortKind::Unspecified => {
                self.only(&["path", "mode", "queues", "owner", "permissions"])?;
                let mode = spelled_or_default::<pb::SocketMode>(self.mode.as_deref())?;
                let bits = self.permissions.as_deref().map(spelling::permissions);
                Kind::VhostUser(VhostUser {
                    path: match self.path {
                        Some(path) => path.into(),
                        None => VhostUser::default_path(&self.name),
                    },
                    mode: convert::socket_mode_from_proto(mode),
                    queues: self.queues.unwrap_or(1),
                    owner: self.owner,
                    permissions: bits.transpose()?,
                })
            }
        };
        let port = Port {
            name: self.name,
            bridge: self.bridge,
            number: self.number,
            kind,
            vlan,
            mtu: self.mtu,
            guard,
            columns: Columns {
                external_ids: self.external_ids.unwrap_or_default(),
                other_config: self.other_config.unwrap_or_default(),
            },
        };
        port.check()?;
        Ok(port)
    }

    fn vlan(&self) -> Result<VlanSpec, String> {
        let mode = spelled_or_default::<pb::VlanMode>(self.vlan_mode.as_deref())?;
        let tags = spelled_or_default::<pb::PriorityTags>(self.priority_tags.as_deref())?;
        let ethtype = self.qinq_ethtype.as_deref();
        let list = |vlans: &Option<Vec<u16>>| {
            let vlans: BTreeSet<_> = vlans.iter().flatten().copied().collect();
            vlans.into_iter().collect()
        };
        Ok(VlanSpec {
            mode: convert::vlan_mode_from_proto(mode),
            tag: self.tag,
            trunks: list(&self.trunks),
            cvlans: list(&self.cvlans),
            priority_tags: convert::priority_tags_from_proto(tags),
            qinq_8021q: ethtype.map_or(Ok(false), spelling::qinq_from_ethtype)?,
        })
    }

    /// Refuses the keys that belong to another type of port.
    fn only(&self, allowed: &[&str]) -> Result<(), String> {
        let given = [
            ("path", self.path.is_some()),
            ("mode", self.mode.is_some()),
            ("queues", self.queues.is_some()),
            ("owner", self.owner.is_some()),
            ("permissions", self.permissions.is_some()),
            ("devargs", self.devargs.is_some()),
            ("n_rxq", self.n_rxq.is_some()),
            ("n_txq", self.n_txq.is_some()),
            ("n_rxq_desc", self.n_rxq_desc.is_some()),
            ("n_txq_desc", self.n_txq_desc.is_some()),
            ("xdp", self.xdp.is_some()),
            ("mac", self.mac.is_some()),
            ("peer", self.peer.is_some()),
        ];
        match given
            .iter()
            .find(|(key, set)| *set && !allowed.contains(key))
        {
            Some((key, _)) => Err(format!(
                "{key} is no option of type {}; its options: {}",
                self.r#type,
                allowed.join(", ")
            )),
            None => Ok(()),
        }
    }
}

/// What is spelled so; not said is the default.
fn spelled_or_default<T: Spelling + Default>(text: Option<&str>) -> Result<T, String> {
    text.map_or(Ok(T::default()), T::from_spelling)
}
