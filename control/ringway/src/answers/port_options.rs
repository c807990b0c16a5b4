//! A port's options, in `add-port`'s form and as JSON.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use ringway_proto::guard;
use ringway_proto::spelling::{self, Spelling};
use ringway_proto::v1::{self as pb, port_spec::Kind};
use serde_json::{Map, Value, json};

/// Descriptors of a queue when nobody said otherwise.
const DESCRIPTORS: u32 = 1024;

/// As `add-port` takes them.
pub fn text(spec: &pb::PortSpec) -> String {
    let mut out = kind_text(spec);
    if let Some(mtu) = spec.mtu {
        let _ = write!(out, " mtu={mtu}");
    }
    if let Some(vlan) = &spec.vlan {
        vlan_text(&mut out, vlan);
    }
    for (key, value) in spec.guard.iter().flat_map(guard::pairs) {
        let _ = write!(out, " {key}={value}");
    }
    if let Some(number) = spec.number {
        let _ = write!(out, " number={number}");
    }
    notes_text(&mut out, "external_ids", &spec.external_ids);
    notes_text(&mut out, "other_config", &spec.other_config);
    out
}

fn kind_text(spec: &pb::PortSpec) -> String {
    let mut text = String::new();
    match &spec.kind {
        None => {}
        Some(Kind::VhostUser(options)) => {
            let mode = options.mode().spelled();
            let (path, queues) = (&options.path, options.queues());
            let _ = write!(
                text,
                "type=vhost-user path={path} mode={mode} queues={queues}"
            );
            if !options.owner.is_empty() {
                let _ = write!(text, " owner={}", options.owner);
            }
            if let Some(bits) = options.permissions {
                let _ = write!(text, " permissions={bits:04o}");
            }
        }
        Some(Kind::Dpdk(options)) => {
            let (devargs, queues) = (&options.devargs, options.rx_queues());
            let _ = write!(text, "type=dpdk devargs={devargs} n_rxq={queues}");
            if let Some(queues) = options.tx_queues {
                let _ = write!(text, " n_txq={queues}");
            }
            let descriptors = [
                ("n_rxq_desc", options.rx_descriptors),
                ("n_txq_desc", options.tx_descriptors),
            ];
            for (key, number) in descriptors {
                if let Some(number) = number.filter(|number| *number != DESCRIPTORS) {
                    let _ = write!(text, " {key}={number}");
                }
            }
        }
        Some(Kind::System(options)) => {
            let (xdp, queues) = (options.xdp().spelled(), options.queues());
            let _ = write!(text, "type=system xdp={xdp} queues={queues}");
        }
        Some(Kind::Internal(options)) => {
            let _ = write!(text, "type=internal queues={}", options.queues());
            if !options.mac.is_empty() {
                let _ = write!(text, " mac={}", options.mac);
            }
        }
        Some(Kind::Tap(options)) => {
            text.push_str("type=tap");
            if !options.owner.is_empty() {
                let _ = write!(text, " owner={}", options.owner);
            }
        }
        Some(Kind::Patch(options)) => {
            let _ = write!(text, "type=patch peer={}", options.peer);
        }
    }
    text
}

fn vlan_text(out: &mut String, vlan: &pb::VlanSpec) {
    if let Some(tag) = vlan.tag {
        let _ = write!(out, " tag={tag}");
    }
    if !vlan.trunks.is_empty() {
        let _ = write!(out, " trunks={}", spelling::vlan_list(&vlan.trunks));
    }
    if vlan.mode() != pb::VlanMode::Unspecified {
        let _ = write!(out, " vlan_mode={}", vlan.mode().spelled());
    }
    if !vlan.cvlans.is_empty() {
        let _ = write!(out, " cvlans={}", spelling::vlan_list(&vlan.cvlans));
    }
    let tags = vlan.priority_tags();
    if !matches!(
        tags,
        pb::PriorityTags::Unspecified | pb::PriorityTags::Never
    ) {
        let _ = write!(out, " priority_tags={}", tags.spelled());
    }
    if vlan.qinq_8021q {
        let _ = write!(out, " qinq_ethtype={}", spelling::qinq_ethtype(true));
    }
}

/// What was noted, by key; in quotes where a shell would cut it.
pub fn notes_text(out: &mut String, column: &str, notes: &HashMap<String, String>) {
    for (key, value) in notes.iter().collect::<BTreeMap<_, _>>() {
        let pair = format!("{column}:{key}={value}");
        let plain = |c: char| c.is_alphanumeric() || "_-+=:,./@%".contains(c);
        let _ = match pair.chars().all(plain) {
            true => write!(out, " {pair}"),
            false => write!(out, " '{}'", pair.replace('\'', "'\\''")),
        };
    }
}

fn guard_json(guard: &pb::GuardSpec) -> Value {
    let number = |number: u32| (number > 0).then_some(number);
    json!({
        "allowed_macs": guard.allowed_macs,
        "allowed_vlans": guard.allowed_vlans,
        "allowed_ips": guard.allowed_ips,
        "max_macs": guard.max_macs,
        "mac_move": match guard.mac_move() {
            pb::MacMove::Unspecified => pb::MacMove::Allow.spelled(),
            how => how.spelled(),
        },
        "storm_pps": number(guard.storm_pps),
        "storm_burst": number(guard.storm_burst),
        "ingress_policing_rate": number(guard.ingress_policing_rate),
        "ingress_policing_burst": number(guard.ingress_policing_burst),
        "ingress_policing_kpkts_rate": number(guard.ingress_policing_kpkts_rate),
        "ingress_policing_kpkts_burst": number(guard.ingress_policing_kpkts_burst),
    })
}

/// For programs.
pub fn json(spec: &pb::PortSpec) -> Value {
    let Some(kind) = &spec.kind else {
        return Value::Null;
    };
    let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let of_kind = match kind {
        Kind::VhostUser(options) => json!({
            "type": "vhost-user",
            "path": options.path,
            "mode": options.mode().spelled(),
            "queues": options.queues(),
            "owner": filled(&options.owner),
            "permissions": options.permissions.map(|bits| format!("{bits:04o}")),
        }),
        Kind::Dpdk(options) => json!({
            "type": "dpdk",
            "devargs": options.devargs,
            "n_rxq": options.rx_queues(),
            "n_txq": options.tx_queues,
            "n_rxq_desc": options.rx_descriptors.unwrap_or(DESCRIPTORS),
            "n_txq_desc": options.tx_descriptors.unwrap_or(DESCRIPTORS),
        }),
        Kind::System(options) => json!({
            "type": "system",
            "xdp": options.xdp().spelled(),
            "queues": options.queues(),
        }),
        Kind::Internal(options) => json!({
            "type": "internal",
            "mac": filled(&options.mac),
            "queues": options.queues(),
        }),
        Kind::Tap(options) => json!({"type": "tap", "owner": filled(&options.owner)}),
        Kind::Patch(options) => json!({"type": "patch", "peer": options.peer}),
    };
    let vlan = spec.vlan.clone().unwrap_or_default();
    let of_all = json!({
        "number": spec.number,
        "mtu": spec.mtu,
        "tag": vlan.tag,
        "trunks": vlan.trunks,
        "vlan_mode": filled(vlan.mode().spelled()),
        "cvlans": vlan.cvlans,
        "priority_tags": match vlan.priority_tags() {
            pb::PriorityTags::Unspecified => pb::PriorityTags::Never.spelled(),
            tags => tags.spelled(),
        },
        "qinq_ethtype": spelling::qinq_ethtype(vlan.qinq_8021q),
        "external_ids": spec.external_ids,
        "other_config": spec.other_config,
    });
    let maps = [
        of_kind,
        of_all,
        guard_json(&spec.guard.clone().unwrap_or_default()),
    ]
    .into_iter()
    .filter_map(|value| match value {
        Value::Object(map) => Some(map),
        _ => None,
    });
    Value::Object(maps.flatten().collect::<Map<_, _>>())
}
