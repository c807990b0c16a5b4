//! `key=value` options of ports and bridges, as `add-port`, `set-port` and
//! `set-br` take them.

use std::collections::HashMap;

use ringway_proto::guard;
use ringway_proto::spelling::{self, Spelling};
use ringway_proto::v1::{self as pb, PortKind, port_spec::Kind};

/// The options, as `add-port --help` tells them.
pub const HELP: &str = "\
Options of every type:
  number=N              number by which flows know the port, 1 to 1023, also
                        ofport_request=N [default: the lowest that is free]
  mtu=N                 bytes behind the Ethernet header, 68 to 65535, also
                        mtu_request=N [default: the device's; none for a guest]
  tag=N                 VLAN of an access port, or the native VLAN
  trunks=N,N-N,…        VLANs of a trunk [default: all]
  vlan_mode=MODE        access, trunk, native-tagged, native-untagged or
                        dot1q-tunnel [default: access with a tag, else trunk]
  cvlans=N,N-N,…        inner VLANs that a dot1q-tunnel takes [default: all]
  priority_tags=WHEN    802.1p tags of frames without a VLAN: never, if-nonzero,
                        always [default: never]
  qinq_ethtype=TYPE     outer tag of a dot1q-tunnel: 802.1ad or 802.1q
                        [default: 802.1ad]
  allowed_macs=MAC,…    addresses that frames may come from [default: any]
  allowed_vlans=N,N-N,… VLANs that frames may come with, 0: no tag [default: any]
  allowed_ips=IP[/N],…  addresses that IP packets, ARP and neighbour discovery may
                        come from [default: any]
  max_macs=N            stations that may be learned on it [default: 7/8 of the
                        bridge's fdb_limit, without dropping frames of others]
  mac_move=allow|deny   whether its stations may move to other ports
  storm_pps=N           frames to many (broadcast, multicast, to unknown stations)
                        that it may send a second [default: any number]
  storm_burst=N         how many at once [default: a tenth of storm_pps]
  ingress_policing_rate=KBITS, ingress_policing_burst=KBITS
                        kilobits that it may send a second [default: any number],
                        and at once [default: 8000]
  ingress_policing_kpkts_rate=N, ingress_policing_kpkts_burst=N
                        thousands of packets that it may send a second [default:
                        any number], and at once [default: 16]
  external_ids:KEY=TEXT whatever you want to note
  other_config:KEY=TEXT kept under Open vSwitch's name

Options of type=vhost-user, a guest's virtio-net device:
  path=PATH             unix socket [default: /run/ringway/NAME.sock]
  mode=server|client    who listens: ringwayd (server, the default) or QEMU (client)
  queues=N              queue pairs, 1 to 128 [default: 1]
  owner=USER[:GROUP]    owner of the socket file (mode=server), names or ids
  permissions=0660      permissions of the socket file (mode=server)

Options of type=dpdk, a NIC or virtual device of DPDK:
  devargs=ARGS          PCI address or virtual device with its arguments; all that
                        follows devargs= belongs to it, commas and = too
  n_rxq=N               receive queues [default: 1]
  n_txq=N               transmit queues [default: one for each polling CPU]
  n_rxq_desc=N          descriptors of a receive queue [default: 1024]
  n_txq_desc=N          descriptors of a transmit queue [default: 1024]

Options of type=system, an interface that the kernel has, named like the port:
  xdp=auto|on|off       frames through AF_XDP where the driver does it without a
                        copy (auto, the default), always, or never
  queues=N              queues that share what it receives by flow, 1 to 16
                        [default: 1]

Options of type=internal, an interface that ringwayd makes for the host itself:
  mac=xx:xx:xx:xx:xx:xx its Ethernet address [default: the kernel's choice]
  queues=N              queues, 1 to 16 [default: 1]

Options of type=tap, a tap device that ringwayd makes for QEMU to open:
  owner=USER[:GROUP]    who may open it without privileges

Options of type=patch, one end of a pair that joins two bridges:
  peer=NAME             the other end, a patch port of another bridge";

/// The options of a bridge, as `set-br --help` tells them.
pub const BRIDGE_HELP: &str = "\
Options; an empty value gives the default back:
  fail_mode=MODE        what passes when no flow says so: standalone or secure;
                        a change begins the bridge's flows anew
  fdb_ageing=SECONDS    until a silent station is forgotten [default: 300]
  fdb_limit=N           most stations to learn [default: 8192]
  no_internal=BOOL      have no internal port of the bridge's own name
  external_ids:KEY=TEXT whatever you want to note
  other_config:KEY=TEXT kept under Open vSwitch's name";

const EVERY_TYPES_KEYS: &[&str] = &[
    "number",
    "mtu",
    "tag",
    "trunks",
    "vlan_mode",
    "cvlans",
    "priority_tags",
    "qinq_ethtype",
    "external_ids:KEY",
    "other_config:KEY",
];
const VHOST_USER_KEYS: &[&str] = &["path", "mode", "queues", "owner", "permissions"];
const DPDK_KEYS: &[&str] = &["devargs", "n_rxq", "n_txq", "n_rxq_desc", "n_txq_desc"];
const SYSTEM_KEYS: &[&str] = &["xdp", "queues"];
const INTERNAL_KEYS: &[&str] = &["mac", "queues"];
const TAP_KEYS: &[&str] = &["owner"];
const PATCH_KEYS: &[&str] = &["peer"];

/// A port from its name and options; the sentence says which option is wrong
/// and what is allowed.
pub fn parse(bridge: &str, name: &str, options: &[String]) -> Result<pb::PortSpec, String> {
    let mut pairs = pairs(options)?;
    let Some(at) = pairs.iter().position(|(key, _)| *key == "type") else {
        let types: Vec<_> = PortKind::TABLE.iter().map(|(_, text)| *text).collect();
        let types = types.join(", ");
        return Err(format!("option type= is missing: one of {types}"));
    };
    let (_, type_name) = pairs.remove(at);
    let mut spec = pb::PortSpec {
        name: name.to_owned(),
        bridge: bridge.to_owned(),
        kind: Some(of_type(type_name)?),
        ..pb::PortSpec::default()
    };
    for (key, value) in pairs {
        if value.is_empty() {
            return Err(format!("option {key}= is empty"));
        }
        set(&mut spec, key, Some(value))?;
    }
    let missing = match &spec.kind {
        Some(Kind::Dpdk(options)) if options.devargs.is_empty() => {
            "option devargs= is missing: a PCI address or virtual device, e.g. devargs=net_null0"
        }
        Some(Kind::Patch(options)) if options.peer.is_empty() => {
            "option peer= is missing: the name of a patch port of another bridge"
        }
        _ => return Ok(spec),
    };
    Err(missing.into())
}

/// Changes options of a port; an empty value takes an option away.
pub fn change(spec: &mut pb::PortSpec, options: &[String]) -> Result<(), String> {
    let mut pairs = pairs(options)?;
    if let Some(at) = pairs.iter().position(|(key, _)| *key == "type") {
        let (_, type_name) = pairs.remove(at);
        let kind = of_type(type_name)?;
        let same = |kind: &Kind| std::mem::discriminant(kind);
        if spec.kind.as_ref().map(same) != Some(same(&kind)) {
            spec.kind = Some(kind);
        }
    }
    for (key, value) in pairs {
        if value.is_empty() && matches!(key, "number" | "ofport_request") {
            return Err(format!(
                "option {key}= is empty: a port has a number always"
            ));
        }
        set(spec, key, Some(value).filter(|value| !value.is_empty()))?;
    }
    Ok(())
}

/// Changes options of a bridge; an empty value gives the default back.
pub fn change_bridge(spec: &mut pb::BridgeSpec, options: &[String]) -> Result<(), String> {
    for (key, value) in pairs(options)? {
        let given = Some(value).filter(|value| !value.is_empty());
        if note(&mut spec.external_ids, &mut spec.other_config, key, given)? {
            continue;
        }
        match key.replace('-', "_").as_str() {
            "fail_mode" => spec.fail_mode = spelled::<pb::FailMode>(given)?.into(),
            "fdb_ageing" => spec.fdb_ageing_seconds = numbered(key, given)?,
            "fdb_limit" => spec.fdb_limit = numbered(key, given)?,
            "no_internal" => {
                spec.no_internal = match given {
                    Some("true") => true,
                    Some("false") | None => false,
                    Some(other) => return Err(format!("{key} {other:?} is not true or false")),
                }
            }
            _ => {
                return Err(format!(
                    "option {key}= is not known for a bridge; its options: fail_mode, fdb_ageing, \
                     fdb_limit, no_internal, external_ids:KEY, other_config:KEY"
                ));
            }
        }
    }
    Ok(())
}

/// Each option once, as key and value.
fn pairs(options: &[String]) -> Result<Vec<(&str, &str)>, String> {
    let same = |key| match key {
        "ofport_request" => "number",
        "mtu_request" => "mtu",
        key => key,
    };
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for option in options {
        let Some((key, value)) = option.split_once('=') else {
            return Err(format!("option {option:?} is not of the form key=value"));
        };
        match pairs.iter().find(|(known, _)| same(known) == same(key)) {
            Some((known, _)) if *known == key => {
                return Err(format!("option {key}= is given twice"));
            }
            Some((known, _)) => {
                return Err(format!("option {key}= says what {known}= says already"));
            }
            None => pairs.push((key, value)),
        }
    }
    Ok(pairs)
}

/// A port of that type, without options.
fn of_type(name: &str) -> Result<Kind, String> {
    Ok(match spelling::port_kind(name)? {
        PortKind::Dpdk => Kind::Dpdk(pb::DpdkSpec::default()),
        PortKind::System => Kind::System(pb::SystemSpec::default()),
        PortKind::Internal => Kind::Internal(pb::InternalSpec::default()),
        PortKind::Tap => Kind::Tap(pb::TapSpec::default()),
        PortKind::Patch => Kind::Patch(pb::PatchSpec::default()),
        PortKind::VhostUser | PortKind::Unspecified => {
            Kind::VhostUser(pb::VhostUserSpec::default())
        }
    })
}

/// Sets an option of a port, or takes it away.
pub fn set(spec: &mut pb::PortSpec, key: &str, value: Option<&str>) -> Result<(), String> {
    if note(&mut spec.external_ids, &mut spec.other_config, key, value)? {
        return Ok(());
    }
    match key {
        "number" | "ofport_request" => spec.number = numbered(key, value)?,
        "mtu" | "mtu_request" => spec.mtu = numbered(key, value)?,
        "tag" | "trunks" | "vlan_mode" | "cvlans" | "priority_tags" | "qinq_ethtype" => {
            let vlan = spec.vlan.get_or_insert_default();
            set_vlan(vlan, key, value)?;
        }
        _ if guard::KEYS.contains(&key) => {
            guard::set(spec.guard.get_or_insert_default(), key, value)?;
            spec.guard = spec
                .guard
                .take()
                .filter(|guard| *guard != pb::GuardSpec::default());
        }
        _ => match &mut spec.kind {
            Some(Kind::VhostUser(options)) => set_vhost_user(options, key, value)?,
            Some(Kind::Dpdk(options)) => set_dpdk(options, key, value)?,
            Some(Kind::System(options)) => match key {
                "xdp" => options.xdp = spelled::<pb::XdpMode>(value)?.into(),
                "queues" => options.queues = numbered(key, value)?,
                _ => return Err(unknown(key, "system", SYSTEM_KEYS)),
            },
            Some(Kind::Internal(options)) => match key {
                "mac" => {
                    let mac = value.map(spelling::mac).transpose()?;
                    options.mac = mac.map(spelling::mac_text).unwrap_or_default();
                }
                "queues" => options.queues = numbered(key, value)?,
                _ => return Err(unknown(key, "internal", INTERNAL_KEYS)),
            },
            Some(Kind::Tap(options)) => match key {
                "owner" => options.owner = value.unwrap_or_default().to_owned(),
                _ => return Err(unknown(key, "tap", TAP_KEYS)),
            },
            Some(Kind::Patch(options)) => match key {
                "peer" => options.peer = value.unwrap_or_default().to_owned(),
                _ => return Err(unknown(key, "patch", PATCH_KEYS)),
            },
            None => return Err(format!("option {key}= needs a type=")),
        },
    }
    Ok(())
}

/// Sets `external_ids:KEY` or `other_config:KEY`, if that is what it is.
fn note(
    external_ids: &mut HashMap<String, String>,
    other_config: &mut HashMap<String, String>,
    key: &str,
    value: Option<&str>,
) -> Result<bool, String> {
    let (map, name) = match key.split_once(':') {
        Some(("external_ids" | "external-ids", name)) => (external_ids, name),
        Some(("other_config" | "other-config", name)) => (other_config, name),
        _ => return Ok(false),
    };
    if name.is_empty() {
        return Err(format!("option {key}= names no key; write {key}KEY=TEXT"));
    }
    match value {
        Some(value) => map.insert(name.to_owned(), value.to_owned()),
        None => map.remove(name),
    };
    Ok(true)
}

fn set_vlan(vlan: &mut pb::VlanSpec, key: &str, value: Option<&str>) -> Result<(), String> {
    let list = |value: Option<&str>| {
        let vlans = value.map_or(Ok(vec![]), spelling::vlans);
        vlans.map_err(|why| format!("option {key}: {why}"))
    };
    match key {
        "tag" => vlan.tag = numbered(key, value)?,
        "trunks" => vlan.trunks = list(value)?,
        "cvlans" => vlan.cvlans = list(value)?,
        "vlan_mode" => vlan.mode = spelled::<pb::VlanMode>(value)?.into(),
        "priority_tags" => vlan.priority_tags = spelled::<pb::PriorityTags>(value)?.into(),
        _ => vlan.qinq_8021q = value.map_or(Ok(false), spelling::qinq_from_ethtype)?,
    }
    Ok(())
}

fn set_vhost_user(
    spec: &mut pb::VhostUserSpec,
    key: &str,
    value: Option<&str>,
) -> Result<(), String> {
    match key {
        "path" => spec.path = value.unwrap_or_default().to_owned(),
        "mode" => spec.mode = spelled::<pb::SocketMode>(value)?.into(),
        "queues" => spec.queues = numbered(key, value)?,
        "owner" => spec.owner = value.unwrap_or_default().to_owned(),
        "permissions" => spec.permissions = value.map(spelling::permissions).transpose()?,
        _ => return Err(unknown(key, "vhost-user", VHOST_USER_KEYS)),
    }
    Ok(())
}

fn set_dpdk(spec: &mut pb::DpdkSpec, key: &str, value: Option<&str>) -> Result<(), String> {
    match key {
        "devargs" => spec.devargs = value.unwrap_or_default().to_owned(),
        "n_rxq" => spec.rx_queues = numbered(key, value)?,
        "n_txq" => spec.tx_queues = numbered(key, value)?,
        "n_rxq_desc" => spec.rx_descriptors = numbered(key, value)?,
        "n_txq_desc" => spec.tx_descriptors = numbered(key, value)?,
        _ => return Err(unknown(key, "dpdk", DPDK_KEYS)),
    }
    Ok(())
}

/// What is spelled so; not said is the default.
fn spelled<T: Spelling + Default>(value: Option<&str>) -> Result<T, String> {
    value.map_or(Ok(T::default()), T::from_spelling)
}

fn numbered(key: &str, value: Option<&str>) -> Result<Option<u32>, String> {
    let number = value.map(|value| {
        let number = value.parse();
        number.map_err(|_| format!("option {key}={value} is not a number"))
    });
    number.transpose()
}

fn unknown(key: &str, kind: &str, allowed: &[&str]) -> String {
    format!(
        "option {key}= is not known for type={kind}; its options: {}; of every type: {}, {}",
        allowed.join(", "),
        EVERY_TYPES_KEYS.join(", "),
        guard::KEYS.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ringway_proto::v1::port_spec;

    fn parsed(line: &str) -> Result<port_spec::Kind, String> {
        let options: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let port = parse("br0", "vm1", &options)?;
        assert_eq!((port.name.as_str(), port.bridge.as_str()), ("vm1", "br0"));
        Ok(port.kind.unwrap())
    }

    #[test]
    fn every_vhost_user_option_is_taken() {
        let kind = parsed(
            "queues=4 type=vhost-user path=/x.sock mode=client owner=libvirt:kvm permissions=0660",
        );
        let expected = pb::VhostUserSpec {
            path: "/x.sock".into(),
            mode: pb::SocketMode::Client.into(),
            queues: Some(4),
            owner: "libvirt:kvm".into(),
            permissions: Some(0o660),
        };
        assert_eq!(kind, Ok(port_spec::Kind::VhostUser(expected)));
    }

    #[test]
    fn a_number_is_an_option_of_every_type() {
        for line in [
            "type=vhost-user number=7",
            "ofport_request=7 type=dpdk devargs=net_null0",
        ] {
            let options: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(
                parse("br0", "p0", &options).unwrap().number,
                Some(7),
                "{line}"
            );
        }
        let why = parsed("type=vhost-user number=x").unwrap_err();
        assert_eq!(why, "option number=x is not a number");
        let why = parsed("type=vhost-user number=1 ofport_request=1").unwrap_err();
        assert!(why.contains("says what number= says"), "{why}");
    }

    #[test]
    fn devargs_keep_their_commas_and_equals_signs() {
        let kind = parsed("type=dpdk devargs=net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap n_rxq=2");
        let expected = pb::DpdkSpec {
            devargs: "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap".into(),
            rx_queues: Some(2),
            ..Default::default()
        };
        assert_eq!(kind, Ok(port_spec::Kind::Dpdk(expected)));
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        for (line, telling) in [
            ("", "type= is missing"),
            ("vhost-user", "\"vhost-user\" is not of the form key=value"),
            ("type=bond", "no ports of type \"bond\""),
            ("type=vxlan", "no ports of type \"vxlan\""),
            ("type=foo", "not one of vhost-user, dpdk"),
            (
                "type=vhost-user speed=9",
                "speed= is not known for type=vhost-user; its options: path, mode",
            ),
            ("type=vhost-user devargs=x", "devargs= is not known"),
            (
                "type=dpdk devargs=x path=/y",
                "path= is not known for type=dpdk; its options: devargs, n_rxq, n_txq",
            ),
            ("type=dpdk", "devargs= is missing"),
            ("type=vhost-user queues=two", "queues=two is not a number"),
            (
                "type=vhost-user queues=1 queues=2",
                "queues= is given twice",
            ),
            ("type=vhost-user mode=both", "not one of server, client"),
            ("type=vhost-user permissions=999", "octal"),
            ("type=vhost-user path=", "path= is empty"),
            ("type=vhost-user tag=", "tag= is empty"),
            ("type=vhost-user tag=x", "tag=x is not a number"),
            ("type=vhost-user trunks=1,5000", "option trunks: "),
            ("type=vhost-user vlan_mode=acc", "not one of access, trunk"),
            ("type=vhost-user priority_tags=yes", "not one of never"),
            ("type=vhost-user qinq_ethtype=0x8100", "802.1ad, 802.1q"),
            ("type=vhost-user external_ids:=x", "names no key"),
            (
                "type=system mac=52:54:00:00:00:01",
                "its options: xdp, queues;",
            ),
            ("type=system xdp=yes", "not one of auto, on, off"),
            ("type=internal mac=1:2", "xx:xx:xx:xx:xx:xx"),
            ("type=internal owner=root", "its options: mac, queues;"),
            ("type=tap mac=1:2", "its options: owner;"),
            ("type=patch", "peer= is missing"),
        ] {
            let why = parsed(line).unwrap_err();
            assert!(why.contains(telling), "{line:?}: {why}");
        }
    }

    #[test]
    fn every_type_has_its_options_and_those_of_all() {
        let options = |line: &str| -> pb::PortSpec {
            let options: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            parse("br0", "x", &options).unwrap()
        };
        let spec = options("type=internal mac=02:00:00:00:00:0A queues=4 mtu=9000 tag=7");
        let expected = pb::InternalSpec {
            mac: "02:00:00:00:00:0a".into(),
            queues: Some(4),
        };
        assert_eq!(spec.kind, Some(Kind::Internal(expected)));
        assert_eq!((spec.mtu, spec.vlan.unwrap().tag), (Some(9000), Some(7)));

        let spec = options(
            "type=system xdp=off vlan_mode=native-untagged tag=5 trunks=10,20-22 cvlans=9 \
             priority_tags=if-nonzero qinq_ethtype=802.1q external_ids:vm=a=b other_config:x=y",
        );
        let Some(Kind::System(system)) = spec.kind else {
            panic!("{spec:?}")
        };
        assert_eq!(system.xdp(), pb::XdpMode::Off);
        let vlan = spec.vlan.unwrap();
        assert_eq!(vlan.mode(), pb::VlanMode::NativeUntagged);
        assert_eq!(vlan.trunks, [10, 20, 21, 22]);
        assert_eq!((vlan.tag, vlan.cvlans.as_slice()), (Some(5), &[9][..]));
        assert_eq!(vlan.priority_tags(), pb::PriorityTags::IfNonzero);
        assert!(vlan.qinq_8021q);
        assert_eq!(spec.external_ids["vm"], "a=b");
        assert_eq!(spec.other_config["x"], "y");

        let mut spec = options("type=tap allowed_ips=10.0.0.5,10.0.0.0/24 mac_move=deny");
        let guard = spec.guard.clone().unwrap();
        assert_eq!(guard.allowed_ips, ["10.0.0.0/24", "10.0.0.5"]);
        assert_eq!(guard.mac_move(), pb::MacMove::Deny);
        change(&mut spec, &["allowed_ips=".into(), "mac_move=allow".into()]).unwrap();
        assert_eq!(spec.guard.unwrap().allowed_ips, [""; 0]);

        let spec = options("type=dpdk devargs=x n_rxq=2 n_txq=3 n_rxq_desc=512 n_txq_desc=256");
        let expected = pb::DpdkSpec {
            devargs: "x".into(),
            rx_queues: Some(2),
            tx_queues: Some(3),
            rx_descriptors: Some(512),
            tx_descriptors: Some(256),
        };
        assert_eq!(spec.kind, Some(Kind::Dpdk(expected)));
        let spec = options("type=tap owner=qemu:kvm");
        let owner = "qemu:kvm".into();
        assert_eq!(spec.kind, Some(Kind::Tap(pb::TapSpec { owner })));
        let spec = options("type=patch peer=p1");
        let peer = "p1".into();
        assert_eq!(spec.kind, Some(Kind::Patch(pb::PatchSpec { peer })));
    }

    #[test]
    fn an_empty_value_takes_an_option_away() {
        let words =
            |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        let mut spec = parse(
            "br0",
            "vm1",
            &words("type=vhost-user queues=4 tag=7 trunks=1 mtu=9000 external_ids:a=b"),
        )
        .unwrap();
        let before = spec.clone();
        change(&mut spec, &words("type=vhost-user")).unwrap();
        assert_eq!(spec, before, "the same type keeps its options");
        change(
            &mut spec,
            &words("queues= tag= mtu= external_ids:a= trunks=3"),
        )
        .unwrap();
        let mut expected = parse("br0", "vm1", &words("type=vhost-user trunks=3")).unwrap();
        assert_eq!(spec, expected);
        change(&mut spec, &words("type=tap owner=root trunks=")).unwrap();
        expected.kind = Some(Kind::Tap(pb::TapSpec {
            owner: "root".into(),
        }));
        expected.vlan = Some(pb::VlanSpec::default());
        assert_eq!(spec, expected);
        for bad in ["number=", "queues=3", "owner", "type=vxlan", "tag=1 tag=2"] {
            assert!(change(&mut spec, &words(bad)).is_err(), "{bad}");
        }

        let mut bridge = pb::BridgeSpec::default();
        let line = "fail-mode=secure fdb_ageing=10 fdb-limit=9 no-internal=true other_config:a=b";
        change_bridge(&mut bridge, &words(line)).unwrap();
        assert_eq!(bridge.fail_mode(), pb::FailMode::Secure);
        assert!(bridge.no_internal && bridge.other_config["a"] == "b");
        let line = "fail_mode= fdb_ageing= fdb_limit= no_internal= other_config:a=";
        change_bridge(&mut bridge, &words(line)).unwrap();
        assert_eq!(bridge, pb::BridgeSpec::default());
        for bad in [
            "speed=9",
            "no_internal=maybe",
            "fdb_limit=x",
            "fail_mode=open",
        ] {
            assert!(change_bridge(&mut bridge, &words(bad)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn devargs_are_never_altered(devargs in "[!-~]{1,80}") {
            let options = ["type=dpdk".to_owned(), format!("devargs={devargs}")];
            let port = parse("br0", "p0", &options).unwrap();
            let Some(port_spec::Kind::Dpdk(spec)) = port.kind else { panic!("{port:?}") };
            prop_assert_eq!(spec.devargs, devargs);
        }

        #[test]
        fn no_input_panics(options in proptest::collection::vec(".{0,20}", 0..6)) {
            let _ = parse("br0", "p0", &options);
            let _ = change(&mut pb::PortSpec::default(), &options);
            let _ = change_bridge(&mut pb::BridgeSpec::default(), &options);
        }
    }
}
