//! Between rows and ringway's specifications of bridges and ports.

use std::collections::HashMap;

use ringway_proto::guard;
use ringway_proto::v1::{self as pb, port_spec};

use super::datum::{Atom, Datum};
use super::kinds::{TYPES, kind, new_kind, vhost_path};
use super::records::{Bridge, Database, Port, Row, World};
use super::schema::{BRIDGE, SWITCH};

/// How flows number a bridge's own interface.
pub const LOCAL: i64 = 65_534;

/// Begins the keys under which a Port row's maps are kept beside those of its
/// Interface row: ringway's ports have one of each.
const OF_PORT: &str = "Port:";
/// Begins the keys of other_config under which columns are kept that ringway
/// only remembers.
const NOTED: &str = "column:";

/// Columns that are kept as they were written, in that of other_config.
const NOTED_OF_BRIDGE: &[&str] = &["fail_mode", "protocols"];
const NOTED_OF_INTERFACE: &[&str] = &["ofport_request", "type"];

/// Columns of Interface that ringway has as options of the same name.
const POLICING: [&str; 4] = [
    "ingress_policing_rate",
    "ingress_policing_burst",
    "ingress_policing_kpkts_rate",
    "ingress_policing_kpkts_burst",
];

/// The row of Open_vSwitch.
pub fn switch(world: &World) -> Row {
    let mut row = Row::new(SWITCH, ".");
    let version = &world.version;
    row.put(
        "ovs_version",
        Datum::text(format!("ringway {}", version.ringwayd)),
    );
    row.put("dpdk_version", Datum::optional_text(&version.dpdk));
    row.put(
        "dpdk_initialized",
        Datum::one(Atom::Boolean(!version.dpdk.is_empty())),
    );
    row.put("external_ids", pairs(&world.switch.external_ids));
    row.put("other_config", pairs(&world.switch.other_config));
    row.put("iface_types", set(TYPES));
    row.put("datapath_types", set(&["netdev"]));
    row
}

fn set(texts: &[&str]) -> Datum {
    Datum(texts.iter().map(|text| (Atom::text(*text), None)).collect())
}

fn pairs(map: &HashMap<String, String>) -> Datum {
    Datum::map(
        map.iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    )
}

/// The part of a map whose keys begin so, without that beginning.
fn part(map: &HashMap<String, String>, begin: &str) -> Datum {
    Datum::map(map.iter().filter_map(|(key, value)| {
        let key = key.strip_prefix(begin)?;
        Some((key, value.as_str()))
    }))
}

/// The part of a map that is a row's own.
fn own(map: &HashMap<String, String>) -> Datum {
    let own = map
        .iter()
        .filter(|(key, _)| !key.starts_with(OF_PORT) && !key.starts_with(NOTED));
    Datum::map(own.map(|(key, value)| (key.as_str(), value.as_str())))
}

/// Puts the columns that were noted into the row.
fn read_notes(row: &mut Row, names: &[&'static str], map: &HashMap<String, String>) {
    for name in names {
        let noted = map.get(&format!("{NOTED}{name}"));
        let column = row.table.columns.iter().find(|column| column.name == *name);
        if let (Some(noted), Some(column)) = (noted, column)
            && let Ok(value) = Datum::parse(noted, &column.ty)
        {
            row.put(name, value);
        }
    }
}

/// Notes the columns of the row.
fn note(row: &Row, names: &[&'static str], map: &mut HashMap<String, String>) {
    for name in names {
        let column = row.table.columns.iter().find(|column| column.name == *name);
        let Some(column) = column else { continue };
        let (key, value) = (format!("{NOTED}{name}"), row.get(column));
        match value == column.ty.default_datum() {
            true => map.remove(&key),
            false => map.insert(key, value.shown(&column.ty)),
        };
    }
}

/// A bridge's rows.
pub fn bridge(world: &World, bridge: &pb::Bridge, spec: &pb::BridgeSpec) -> Bridge {
    let mut row = Row::new(BRIDGE, &spec.name);
    row.put("datapath_type", Datum::text("netdev"));
    row.put("datapath_version", Datum::text("<built-in>"));
    row.put("external_ids", pairs(&spec.external_ids));
    row.put("other_config", bridge_config(spec));
    read_notes(&mut row, NOTED_OF_BRIDGE, &spec.other_config);
    if spec.fail_mode() == pb::FailMode::Secure {
        row.put("fail_mode", Datum::text("secure"));
    }
    let local = bridge.ports.iter().find(|port| port.name == spec.name);
    let mac = local.and_then(|port| port.actual.as_ref()?.link.as_ref());
    let id = mac.map(|link| link.mac.replace(':', ""));
    let id = id
        .filter(|mac| mac.len() == 12)
        .map(|mac| format!("0000{mac}"));
    row.put("datapath_id", Datum::optional_text(&id.unwrap_or_default()));
    let ports = bridge.ports.iter().filter_map(|port| {
        let spec = port.desired.as_ref()?;
        Some(self::port(world, bridge, port, spec))
    });
    Bridge {
        row,
        was: Some(spec.clone()),
        ports: ports.collect(),
    }
}

/// What a bridge's other_config says beside what is noted there, with ringway's
/// own options under Open vSwitch's names as far as they were said.
fn bridge_config(spec: &pb::BridgeSpec) -> Datum {
    let mut config = own(&spec.other_config);
    for (key, value, default) in [
        ("mac-aging-time", spec.fdb_ageing_seconds, 300),
        ("mac-table-size", spec.fdb_limit, 8192),
    ] {
        if let Some(value) = value.filter(|value| *value != default) {
            let value = Atom::text(value.to_string());
            config.0.entry(Atom::text(key)).or_insert(Some(value));
        }
    }
    config
}

/// A bridge as its row says.
pub fn bridge_spec(bridge: &Bridge) -> Result<pb::BridgeSpec, String> {
    let (row, name) = (&bridge.row, bridge.name());
    let config = row.value("other_config");
    let number = |key: &str| match config.get(key) {
        None => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!(
                "bridge {name}: other_config:{key}={text} is not a number"
            )),
        },
    };
    let mut spec = bridge.was.clone().unwrap_or_default();
    spec.fail_mode = match row.value("fail_mode").as_text() {
        "secure" => pb::FailMode::Secure.into(),
        _ => pb::FailMode::Standalone.into(),
    };
    spec.fdb_ageing_seconds = number("mac-aging-time")?;
    spec.fdb_limit = number("mac-table-size")?;
    spec.external_ids = texts(&row.value("external_ids"));
    spec.other_config = texts(&config);
    // These are options of ringway's own.
    spec.other_config
        .retain(|key, _| !matches!(key.as_str(), "mac-aging-time" | "mac-table-size"));
    note(row, NOTED_OF_BRIDGE, &mut spec.other_config);
    if spec.fail_mode() == pb::FailMode::Secure {
        spec.other_config.remove(&format!("{NOTED}fail_mode"));
    }
    spec.name = name;
    Ok(spec)
}

/// A map of texts.
pub fn texts(map: &Datum) -> HashMap<String, String> {
    let pairs = map.as_map();
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A port's rows.
fn port(world: &World, bridge: &pb::Bridge, shown: &pb::Port, spec: &pb::PortSpec) -> Port {
    let mut port = Port::new(&spec.name);
    let row = &mut port.row;
    row.put("external_ids", part(&spec.external_ids, OF_PORT));
    let mut config = part(&spec.other_config, OF_PORT);
    if let Some(vlan) = &spec.vlan {
        row.put("tag", Datum::optional_number(vlan.tag));
        row.put("trunks", Datum::numbers(&vlan.trunks));
        row.put("cvlans", Datum::numbers(&vlan.cvlans));
        row.put("vlan_mode", Datum::optional_text(vlan_mode(vlan.mode())));
        let tags = priority_tags(vlan.priority_tags());
        let inner = if vlan.qinq_8021q { "802.1q" } else { "" };
        for (key, value) in [("priority-tags", tags), ("qinq-ethtype", inner)] {
            if !value.is_empty() {
                let value = Some(Atom::text(value));
                config.0.entry(Atom::text(key)).or_insert(value);
            }
        }
    }
    row.put("other_config", config);

    let interface = &mut port.interface;
    interface.put("external_ids", own(&spec.external_ids));
    interface.put("other_config", own(&spec.other_config));
    interface.put("mtu_request", Datum::optional_number(spec.mtu));
    let guarded = spec.guard.iter().flat_map(guard::pairs);
    for (key, value) in guarded.filter(|(key, _)| POLICING.contains(key)) {
        interface.put(key, Datum::optional_number(value.parse::<i64>().ok()));
    }
    let (name, mut options, mac) = kind(spec.kind.as_ref());
    // Where Open vSwitch's daemon listens if nothing else is said.
    let usual = vhost_path(&switch(world), &world.rundir, &spec.name);
    options.retain(|(key, value)| !value.is_empty() && (*key != "path" || *value != usual));
    interface.put("type", Datum::text(name));
    interface.put("options", Datum::map(options.into_iter()));
    interface.put("mac", Datum::optional_text(mac));
    read_notes(interface, NOTED_OF_INTERFACE, &spec.other_config);
    told(interface, world, bridge, shown, spec);
    port.was = Some(spec.clone());
    port
}

/// What the datapath tells of a port.
fn told(row: &mut Row, world: &World, bridge: &pb::Bridge, shown: &pb::Port, spec: &pb::PortSpec) {
    let up = |up: bool| Datum::text(if up { "up" } else { "down" });
    if shown.differs {
        let reason = match shown.reason.as_str() {
            "" => "the datapath does not have it as desired",
            reason => reason,
        };
        row.put("error", Datum::text(reason));
    }
    let Some(actual) = &shown.actual else {
        row.put("ofport", Datum::one(Atom::Integer(-1)));
        return;
    };
    let failed = actual.state() == pb::PortState::Failed;
    let number = match spec.name == bridge.name {
        true => LOCAL,
        false => actual.number.into(),
    };
    row.put(
        "ofport",
        Datum::one(Atom::Integer(if failed { -1 } else { number })),
    );
    let forwards = actual.state() == pb::PortState::Forwarding;
    match &actual.link {
        Some(link) => {
            row.put("mac_in_use", Datum::optional_text(&link.mac));
            row.put(
                "mtu",
                Datum::optional_number(Some(link.mtu).filter(|mtu| *mtu > 0)),
            );
            row.put("admin_state", up(link.admin_up));
            row.put("link_state", up(link.link_up));
            row.put(
                "ifindex",
                Datum::optional_number(Some(link.ifindex).filter(|i| *i > 0)),
            );
            if link.speed_mbps > 0 {
                let speed = i64::from(link.speed_mbps) * 1_000_000;
                row.put("link_speed", Datum::one(Atom::Integer(speed)));
                row.put("duplex", Datum::text("full"));
            }
        }
        None => {
            row.put("mac_in_use", Datum::text("00:00:00:00:00:00"));
            row.put(
                "mtu",
                Datum::optional_number(Some(spec.mtu.unwrap_or(1500))),
            );
            row.put("admin_state", up(true));
            row.put("link_state", up(forwards));
        }
    }
    let link = actual.link.iter();
    let link = link.flat_map(|link| [("driver_name", &link.driver), ("via", &link.via)]);
    let link = link.filter(|(_, value)| !value.is_empty());
    let details = actual.details.iter();
    let details = details.map(|detail| (detail.name.as_str(), &detail.value));
    let status = [("state", &actual.state_name)]
        .into_iter()
        .chain(link)
        .chain(details);
    row.put(
        "status",
        Datum::map(status.map(|(key, value)| (key.replace(' ', "_"), value.as_str()))),
    );
    let counters = world
        .counters
        .ports
        .iter()
        .find(|port| port.name == spec.name);
    if let Some(total) = counters.and_then(|port| port.total.as_ref()) {
        row.put("statistics", statistics(total));
    }
}

fn statistics(total: &pb::Counters) -> Datum {
    let pairs = [
        ("rx_bytes", total.rx_bytes),
        ("rx_dropped", total.rx_dropped),
        ("rx_errors", total.rx_errors),
        ("rx_packets", total.rx_packets),
        ("tx_bytes", total.tx_bytes),
        ("tx_dropped", total.tx_dropped),
        ("tx_errors", total.tx_errors),
        ("tx_packets", total.tx_packets),
    ];
    let count = |count: u64| Atom::Integer(count.try_into().unwrap_or(i64::MAX));
    let pairs = pairs.map(|(name, value)| (Atom::text(name), Some(count(value))));
    Datum(pairs.into())
}

fn vlan_mode(mode: pb::VlanMode) -> &'static str {
    match mode {
        pb::VlanMode::Unspecified => "",
        pb::VlanMode::Access => "access",
        pb::VlanMode::Trunk => "trunk",
        pb::VlanMode::NativeTagged => "native-tagged",
        pb::VlanMode::NativeUntagged => "native-untagged",
        pb::VlanMode::Dot1qTunnel => "dot1q-tunnel",
    }
}

/// Open vSwitch's spelling; never is what it has if nothing is said.
fn priority_tags(tags: pb::PriorityTags) -> &'static str {
    match tags {
        pb::PriorityTags::Unspecified | pb::PriorityTags::Never => "",
        pb::PriorityTags::IfNonzero => "if-nonzero",
        pb::PriorityTags::Always => "always",
    }
}

/// A port as its rows say; what they say as before stays as ringwayd has it.
/// `rows` are the port's rows as they were, if it is not new.
pub fn port_spec(
    bridge: &str,
    port: &Port,
    rows: Option<&Port>,
    db: &Database,
) -> Result<pb::PortSpec, String> {
    let name = port.name();
    let explain = |why: String| format!("port {name}: {why}");
    let mut spec = port.was.clone().unwrap_or_default();
    spec.name.clone_from(&name);
    spec.bridge = bridge.to_owned();
    let is_changed =
        |columns: &[&str]| rows.is_none_or(|rows| port.interface.differs(&rows.interface, columns));
    if is_changed(&["type", "options", "mac"]) {
        let kind = new_kind(&port.interface, &db.switch, &db.rundir).map_err(explain)?;
        spec.kind = Some(kept_options(kind, spec.kind.take()));
    }
    if is_changed(&["ofport_request"]) {
        let asked = port.interface.value("ofport_request").as_number();
        spec.number = asked
            .and_then(|number| number.try_into().ok())
            .or(spec.number);
    }
    let mtu = port.interface.value("mtu_request").as_number();
    let mtu =
        mtu.map(|mtu| u32::try_from(mtu).map_err(|_| format!("mtu_request {mtu} is too large")));
    spec.mtu = mtu.transpose().map_err(explain)?;
    spec.guard = policed(spec.guard.take(), &port.interface).map_err(explain)?;
    let of_vlans = ["tag", "trunks", "cvlans", "vlan_mode", "other_config"];
    if rows.is_none_or(|rows| port.row.differs(&rows.row, &of_vlans)) {
        spec.vlan = vlan(&port.row).map_err(explain)?;
    }
    spec.external_ids = both(port, "external_ids");
    spec.other_config = both(port, "other_config");
    note(&port.interface, NOTED_OF_INTERFACE, &mut spec.other_config);
    unnote_type(&mut spec);
    Ok(spec)
}

/// A guard with the rates that an Interface row says.
fn policed(guard: Option<pb::GuardSpec>, row: &Row) -> Result<Option<pb::GuardSpec>, String> {
    let mut guard = guard.unwrap_or_default();
    for key in POLICING {
        let number = row.value(key).as_number().filter(|number| *number > 0);
        let text = number.map(|number| number.to_string());
        guard::set(&mut guard, key, text.as_deref())?;
    }
    Ok(Some(guard).filter(|guard| *guard != pb::GuardSpec::default()))
}

/// Only a type that does not follow from the kind is noted.
fn unnote_type(spec: &mut pb::PortSpec) {
    let key = format!("{NOTED}type");
    if spec
        .other_config
        .get(&key)
        .is_some_and(|noted| noted == kind(spec.kind.as_ref()).0)
    {
        spec.other_config.remove(&key);
    }
}

/// The maps of both rows in one.
fn both(port: &Port, name: &str) -> HashMap<String, String> {
    let mut map = texts(&port.interface.value(name));
    let of_port = port.row.value(name);
    map.extend(
        of_port
            .as_map()
            .map(|(key, value)| (format!("{OF_PORT}{key}"), value.to_owned())),
    );
    // These are options of ringway's own.
    map.retain(|key, _| !matches!(key.as_str(), "Port:priority-tags" | "Port:qinq-ethtype"));
    map
}

/// What the rows cannot say stays.
fn kept_options(kind: port_spec::Kind, was: Option<port_spec::Kind>) -> port_spec::Kind {
    match (kind, was) {
        (port_spec::Kind::VhostUser(mut new), Some(port_spec::Kind::VhostUser(was))) => {
            if new.mode == was.mode {
                (new.owner, new.permissions) = (was.owner, was.permissions);
            }
            port_spec::Kind::VhostUser(new)
        }
        (kind, _) => kind,
    }
}

fn vlan(row: &Row) -> Result<Option<pb::VlanSpec>, String> {
    let numbers = |name: &str| -> Vec<u32> {
        let value = row.value(name);
        value
            .as_numbers()
            .filter_map(|number| number.try_into().ok())
            .collect()
    };
    let mode = row.value("vlan_mode");
    let modes = [
        pb::VlanMode::Unspecified,
        pb::VlanMode::Access,
        pb::VlanMode::Trunk,
        pb::VlanMode::NativeTagged,
        pb::VlanMode::NativeUntagged,
        pb::VlanMode::Dot1qTunnel,
    ];
    let mode = modes
        .into_iter()
        .find(|known| vlan_mode(*known) == mode.as_text());
    let config = row.value("other_config");
    let priority_tags = match config.get("priority-tags") {
        None | Some("never" | "false") => pb::PriorityTags::Unspecified,
        Some("if-nonzero" | "true") => pb::PriorityTags::IfNonzero,
        Some("always") => pb::PriorityTags::Always,
        Some(other) => {
            return Err(format!(
                "other_config:priority-tags={other} is not one of never, if-nonzero, always"
            ));
        }
    };
    let qinq_8021q = match config.get("qinq-ethtype") {
        None | Some("802.1ad") => false,
        Some("802.1q") => true,
        Some(other) => {
            return Err(format!(
                "other_config:qinq-ethtype={other} is not one of 802.1ad, 802.1q"
            ));
        }
    };
    let vlan = pb::VlanSpec {
        mode: mode.unwrap_or_default().into(),
        tag: numbers("tag").first().copied(),
        trunks: numbers("trunks"),
        cvlans: numbers("cvlans"),
        priority_tags: priority_tags.into(),
        qinq_8021q,
    };
    Ok(Some(vlan).filter(|vlan| *vlan != pb::VlanSpec::default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringway_proto::v1::desired_change::Change;

    use super::*;
    use crate::ovs::records::Database;
    use crate::ovs::transaction::changes;

    fn vhost_user(client: bool, queues: Option<u32>) -> port_spec::Kind {
        let mode = match client {
            true => pb::SocketMode::Client,
            false => pb::SocketMode::Server,
        };
        port_spec::Kind::VhostUser(pb::VhostUserSpec {
            path: "/run/openvswitch/p".into(),
            mode: mode.into(),
            queues,
            ..Default::default()
        })
    }

    fn dpdk(
        [rx_queues, tx_queues, rx_descriptors, tx_descriptors]: [Option<u32>; 4],
    ) -> port_spec::Kind {
        port_spec::Kind::Dpdk(pb::DpdkSpec {
            devargs: "net_null0".into(),
            rx_queues,
            tx_queues,
            rx_descriptors,
            tx_descriptors,
        })
    }

    /// Any kind, with no option that says the default in so many words.
    fn kinds() -> impl Strategy<Value = port_spec::Kind> {
        let number = || proptest::option::of(2u32..9);
        let xdp = prop_oneof![Just(0), Just(2), Just(3)];
        prop_oneof![
            (any::<bool>(), number()).prop_map(|(client, queues)| vhost_user(client, queues)),
            [number(), number(), number(), number()].prop_map(dpdk),
            (xdp, number()).prop_map(|(xdp, queues)| {
                port_spec::Kind::System(pb::SystemSpec { xdp, queues })
            }),
            ("(02:00:00:00:00:0[1-9])?", number()).prop_map(|(mac, queues)| {
                port_spec::Kind::Internal(pb::InternalSpec { mac, queues })
            }),
            "([a-z]{1,4})?".prop_map(|owner| port_spec::Kind::Tap(pb::TapSpec { owner })),
            "[a-z]{1,4}".prop_map(|peer| port_spec::Kind::Patch(pb::PatchSpec { peer })),
        ]
    }

    prop_compose! {
        fn vlans()(
            mode in 0i32..6,
            tag in proptest::option::of(0u32..4096),
            trunks in proptest::collection::btree_set(0u32..4096, 0..3),
            cvlans in proptest::collection::btree_set(0u32..4096, 0..3),
            priority_tags in prop_oneof![Just(0), Just(2), Just(3)],
            qinq_8021q in any::<bool>(),
        ) -> Option<pb::VlanSpec> {
            let vlan = pb::VlanSpec {
                mode,
                tag,
                trunks: trunks.into_iter().collect(),
                cvlans: cvlans.into_iter().collect(),
                priority_tags,
                qinq_8021q,
            };
            Some(vlan).filter(|vlan| *vlan != pb::VlanSpec::default())
        }
    }

    prop_compose! {
        fn specs()(
            kind in kinds(),
            vlan in vlans(),
            mtu in proptest::option::of(68u32..9000),
            rates in proptest::array::uniform4(0u32..3),
            external_ids in proptest::collection::hash_map("(Port:)?[a-z]{1,3}", "[ -~]{0,5}", 0..3),
            other_config in proptest::collection::hash_map("(Port:)?[a-z]{1,3}", "[ -~]{0,5}", 0..3),
        ) -> pb::PortSpec {
            pb::PortSpec {
                name: "p".into(),
                bridge: "br0".into(),
                kind: Some(kind),
                number: Some(7),
                vlan,
                mtu,
                guard: Some(pb::GuardSpec {
                    ingress_policing_rate: rates[0],
                    ingress_policing_burst: rates[1],
                    ingress_policing_kpkts_rate: rates[2],
                    ingress_policing_kpkts_burst: rates[3],
                    ..Default::default()
                })
                .filter(|guard| *guard != Default::default()),
                external_ids,
                other_config,
            }
        }
    }

    fn database(spec: &pb::PortSpec) -> Database {
        let port = pb::Port {
            name: spec.name.clone(),
            desired: Some(spec.clone()),
            ..Default::default()
        };
        let bridge = pb::Bridge {
            name: "br0".into(),
            desired: Some(pb::BridgeSpec {
                name: "br0".into(),
                fail_mode: pb::FailMode::Secure.into(),
                fdb_ageing_seconds: Some(60),
                ..Default::default()
            }),
            ports: vec![port],
            ..Default::default()
        };
        Database::load(&World {
            shown: pb::ShowResponse {
                bridges: vec![bridge],
                ..Default::default()
            },
            rundir: "/run/openvswitch".into(),
            ..Default::default()
        })
    }

    proptest! {
        #[test]
        fn rows_say_all_that_a_port_is(spec in specs()) {
            let db = database(&spec);
            let mut anew = db.bridges[0].ports[0].clone();
            anew.was = None;
            let said = port_spec("br0", &anew, None, &db).unwrap();
            prop_assert_eq!(pb::PortSpec { number: Some(7), ..said }, spec);
        }

        #[test]
        fn what_is_not_written_does_not_change(spec in specs(), tag in 0u32..4096) {
            let before = database(&spec);
            prop_assert_eq!(changes(&before, &before), Ok(vec![]));
            let mut after = before.clone();
            let tags = Datum::optional_number(Some(tag));
            after.bridges[0].ports[0].row.put("tag", tags);
            let mut expected = spec.clone();
            expected.vlan.get_or_insert_default().tag = Some(tag);
            let expected = match expected == spec {
                true => vec![],
                false => vec![Change::SetPort(expected)],
            };
            prop_assert_eq!(changes(&before, &after), Ok(expected));
        }
    }
}
