//! The state file: what is written reads back, what is damaged is told.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use ringway_datapath::spec::{
    DpdkSpec, FailMode, GuardSpec, InternalSpec, MacMove, PatchSpec, PriorityTags, RateSpec,
    SocketMode, SystemSpec, VlanMode, VlanSpec, XdpMode,
};
use ringwayd::model::{Bridge, Columns, Desired, Kind, Port, Tap, VhostUser};
use ringwayd::state::{StateError, StateFile, parse, render};

fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[ -~äß]{1,12}", "[ -~äß\n\t]{0,12}", 0..3)
}

fn columns() -> impl Strategy<Value = Columns> {
    (map(), map()).prop_map(|(external_ids, other_config)| Columns {
        external_ids,
        other_config,
    })
}

fn bridge() -> impl Strategy<Value = Bridge> {
    let options = (any::<bool>(), 1..=1_000_000u64, 1..=1_000_000u32);
    (options, any::<bool>(), columns()).prop_map(|((secure, ageing, limit), none, columns)| {
        let mut bridge = Bridge::new("");
        bridge.spec.fail_mode = match secure {
            true => FailMode::Secure,
            false => FailMode::Standalone,
        };
        bridge.spec.fdb_ageing = Duration::from_secs(ageing);
        bridge.spec.fdb_limit = limit;
        bridge.no_internal = none;
        bridge.columns = columns;
        bridge
    })
}

/// Guards with any of their options.
fn guard() -> impl Strategy<Value = GuardSpec> {
    let macs = proptest::collection::btree_set(0..9u8, 0..3);
    let ips = proptest::collection::btree_set((0..9u8, 8..=32u8), 0..3);
    let rate = || (0..3u32, 0..3u32).prop_map(|(rate, burst)| RateSpec { rate, burst });
    let most = proptest::option::of(1..9u32);
    let vlans = proptest::collection::btree_set(0..4096u16, 0..3);
    (
        macs,
        ips,
        vlans,
        most,
        any::<bool>(),
        [rate(), rate(), rate()],
    )
        .prop_map(
            |(macs, ips, vlans, max_macs, deny, [mut storm, kbits, kpkts])| {
                if storm.rate == 0 {
                    storm.burst = 0;
                }
                let net = |(n, prefix): (u8, u8)| format!("10.{n}.0.0/{}", prefix.max(16));
                GuardSpec {
                    allowed_macs: macs.into_iter().map(|n| [2, 0, 0, 0, 0, n]).collect(),
                    allowed_vlans: vlans.into_iter().collect(),
                    allowed_ips: {
                        let nets: std::collections::BTreeSet<_> = ips
                            .into_iter()
                            .map(|ip| ringway_proto::guard::network(&net(ip)).unwrap())
                            .collect();
                        nets.into_iter().collect()
                    },
                    max_macs,
                    mac_move: if deny { MacMove::Deny } else { MacMove::Allow },
                    storm,
                    ingress_kbits: kbits,
                    ingress_kpkts: kpkts,
                }
            },
        )
}

/// VLANs of every mode, with the options that go with it.
fn vlan() -> impl Strategy<Value = VlanSpec> {
    let vlans = || proptest::collection::btree_set(1..=4094u16, 0..5);
    let tags = prop_oneof![
        Just(PriorityTags::Never),
        Just(PriorityTags::IfNonzero),
        Just(PriorityTags::Always)
    ];
    (0..7u8, 1..=4094u16, vlans(), tags, any::<bool>()).prop_map(
        |(which, tag, vlans, priority_tags, qinq_8021q)| {
            let vlans: Vec<u16> = vlans.into_iter().collect();
            let spec = VlanSpec {
                priority_tags,
                ..VlanSpec::default()
            };
            let of = |mode, tag, trunks| VlanSpec {
                mode,
                tag,
                trunks,
                ..spec.clone()
            };
            match which {
                0 => spec,
                1 => of(None, Some(tag), vec![]),
                2 => of(Some(VlanMode::Access), Some(tag), vec![]),
                3 => of(Some(VlanMode::Trunk), None, vlans),
                4 => of(Some(VlanMode::NativeTagged), Some(tag), vlans),
                5 => of(Some(VlanMode::NativeUntagged), Some(tag), vlans),
                _ => VlanSpec {
                    cvlans: vlans,
                    qinq_8021q,
                    ..of(Some(VlanMode::Dot1qTunnel), Some(tag), vec![])
                },
            }
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let server = (
        "/[ -~äß\u{1f980}]{1,20}/x",
        1..=128u16,
        proptest::option::of("[a-z0-9]{1,8}(:[a-z0-9]{1,8})?"),
        proptest::option::of(0..=0o777u32),
    );
    let server = server.prop_map(|(path, queues, owner, permissions)| {
        Kind::VhostUser(VhostUser {
            path: path.into(),
            mode: SocketMode::Server,
            queues,
            owner,
            permissions,
        })
    });
    let client = ("/[a-z]{1,90}", 1..=128u16).prop_map(|(path, queues)| {
        Kind::VhostUser(VhostUser {
            path: path.into(),
            mode: SocketMode::Client,
            queues,
            owner: None,
            permissions: None,
        })
    });
    let some = || proptest::option::of(1..=1024u16);
    let dpdk = ("[!-~]{1,60}", 1..=1024u16, some(), 1..=4096u16, 1..=4096u16);
    let dpdk = dpdk.prop_map(
        |(devargs, rx_queues, tx_queues, rx_descriptors, tx_descriptors)| {
            Kind::Dpdk(DpdkSpec {
                rx_queues,
                tx_queues,
                rx_descriptors,
                tx_descriptors,
                ..DpdkSpec::new(devargs)
            })
        },
    );
    let xdp = prop_oneof![Just(XdpMode::Auto), Just(XdpMode::On), Just(XdpMode::Off)];
    let system =
        (xdp, 1..=16u16).prop_map(|(xdp, queues)| Kind::System(SystemSpec { xdp, queues }));
    let mac = proptest::option::of(any::<[u8; 5]>());
    let internal = (mac, 1..=16u16).prop_map(|(mac, queues)| {
        let mac = mac.map(|[a, b, c, d, e]| [2, a, b, c, d, e]);
        Kind::Internal(InternalSpec { mac, queues })
    });
    let owner = proptest::option::of("[a-z0-9]{1,8}(:[a-z0-9]{1,8})?");
    let tap = owner.prop_map(|owner| Kind::Tap(Tap { owner }));
    let peer = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,50}";
    let patch = peer.prop_map(|peer| Kind::Patch(PatchSpec { peer }));
    prop_oneof![server, client, dpdk, system, internal, tap, patch]
}

/// Names and sockets are made unique by numbering them.
fn desired() -> impl Strategy<Value = Desired> {
    let bridges = proptest::collection::vec(("[A-Za-z0-9_][A-Za-z0-9_.-]{0,50}", bridge()), 0..4);
    let ports = proptest::collection::vec(
        (
            "[A-Za-z0-9_][A-Za-z0-9_.-]{0,11}",
            any::<prop::sample::Index>(),
            kind(),
            vlan(),
            proptest::option::of(68..=u16::MAX),
            guard(),
            columns(),
        ),
        0..6,
    );
    (columns(), bridges, ports).prop_map(|(switch, bridges, ports)| {
        let mut desired = Desired {
            switch,
            ..Desired::default()
        };
        for (index, (name, mut bridge)) in bridges.into_iter().enumerate() {
            bridge.spec.name = format!("{name}-b{index}");
            if let (0, false) = (index, bridge.no_internal) {
                bridge.spec.name.truncate(15);
                desired.ports.push(Port::local(bridge.name()));
            }
            desired.bridges.push(bridge);
        }
        for (index, (name, on, mut kind, vlan, mtu, guard, columns)) in
            ports.into_iter().enumerate()
        {
            if desired.bridges.is_empty() {
                break;
            }
            if let Kind::VhostUser(options) = &mut kind {
                options.path.push(format!("{index}.sock"));
            }
            let bridge = on.get(&desired.bridges).name().to_owned();
            desired.ports.push(Port {
                number: (index % 2 == 0).then_some(1000 - index as u32),
                vlan,
                mtu,
                guard,
                columns,
                ..Port::new(format!("{name}-p{index}"), bridge, kind)
            });
        }
        desired
    })
}

proptest! {
    #[test]
    fn what_is_rendered_parses_to_the_same(desired in desired()) {
        let text = render(&desired).unwrap();
        prop_assert_eq!(parse(text.as_bytes()), Ok(desired));
    }

    #[test]
    fn what_is_saved_opens_to_the_same(desired in desired()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/state.toml");
        let (file, empty) = StateFile::open(&path).unwrap();
        prop_assert_eq!(empty, Desired::default());
        file.save(&desired).unwrap();
        drop(file);
        prop_assert_eq!(StateFile::open(&path).unwrap().1, desired);
    }

    #[test]
    fn no_content_panics(desired in desired(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = render(&desired).unwrap().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = parse(&bytes);
        bytes.truncate(at);
        let _ = parse(&bytes);
    }
}

#[test]
fn a_file_as_people_write_it() {
    let text = "
        version = 1
        [[bridge]]
        name = 'br0'
        [[port]]
        name = 'vm1'
        bridge = 'br0'
        type = 'vhost-user'
        permissions = '0660'
        [[port]]
        name = 'p0'
        bridge = 'br0'
        type = 'dpdk'
        devargs = 'net_pcap0,rx_pcap=in.pcap'
    ";
    let desired = parse(text.as_bytes()).unwrap();
    assert_eq!(desired.bridges, [Bridge::new("br0")]);
    let expected = VhostUser {
        path: PathBuf::from("/run/ringway/vm1.sock"),
        mode: SocketMode::Server,
        queues: 1,
        owner: None,
        permissions: Some(0o660),
    };
    assert_eq!(desired.ports[0].kind, Kind::VhostUser(expected));
    let expected = DpdkSpec::new("net_pcap0,rx_pcap=in.pcap");
    assert_eq!(desired.ports[1].kind, Kind::Dpdk(expected));
}

#[test]
fn damage_is_told_by_line_and_name() {
    let bridge = "version = 1\n[[bridge]]\nname = 'br0'\n";
    let port = |rest: &str| {
        format!("{bridge}[[port]]\nname = 'vm1'\nbridge = 'br0'\ntype = 'vhost-user'\n{rest}\n")
    };
    let dpdk = |rest: &str| port(rest).replace("vhost-user", "dpdk");
    let of_type = |kind: &str, rest: &str| port(rest).replace("vhost-user", kind);
    let cases = [
        (String::new(), 1, "missing field `version`"),
        ("version = 2".into(), 1, "version 2 is not known"),
        ("# hello\nversion = ".into(), 2, ""),
        ("version = 1\nbogus = 3".into(), 2, "unknown field `bogus`"),
        (
            format!("{bridge}fail-mood = 'secure'"),
            4,
            "unknown field `fail-mood`",
        ),
        (
            format!("{bridge}fail-mode = 'open'"),
            2,
            "not one of standalone, secure",
        ),
        (
            format!("{bridge}fdb-limit = 0"),
            2,
            "fdb-limit 0 is not between",
        ),
        (
            format!("{bridge}[[bridge]]\nname = 'br0'"),
            4,
            "a second bridge named br0",
        ),
        (
            format!("{bridge}[[bridge]]\nname = 'b r'"),
            4,
            "not allowed",
        ),
        (
            format!("{bridge}[[bridge]]\nfail-mode = 'secure'"),
            4,
            "missing field `name`",
        ),
        (port("queues = 0"), 4, "port vm1: queues 0"),
        (port("queues = 'two'"), 8, "invalid type"),
        (port("speed = 9"), 8, "unknown field `speed`"),
        (
            port("devargs = 'x'"),
            4,
            "devargs is no option of type vhost-user",
        ),
        (port("mode = 'srv'"), 4, "not one of server, client"),
        (port("permissions = '999'"), 4, "octal"),
        (port("path = 'vm1.sock'"), 4, "not absolute"),
        (
            port(&format!("path = '/{}'", "x".repeat(107))),
            4,
            "108 bytes",
        ),
        (dpdk(""), 4, "devargs is missing"),
        (
            dpdk("devargs = 'x'\nmode = 'server'"),
            4,
            "mode is no option of type dpdk",
        ),
        (
            port("").replace("vhost-user", "vxlan"),
            4,
            "no ports of type \"vxlan\"",
        ),
        (
            port("").replace("bridge = 'br0'", "bridge = 'br9'"),
            4,
            "there is no bridge br9",
        ),
        (
            port("").replace("'vm1'", "'br0'"),
            4,
            "there is a bridge br0",
        ),
        (
            port("tag = 4096"),
            4,
            "tag=4096: a VLAN is a number from 0 to",
        ),
        (port("trunks = [1, 70000]"), 8, "invalid value"),
        (port("vlan_mode = 'acess'"), 4, "not one of access, trunk"),
        (
            port("vlan_mode = 'dot1q-tunnel'"),
            4,
            "vlan_mode=dot1q-tunnel needs the VLAN",
        ),
        (port("allowed_macs = ['1:2']"), 4, "allowed_macs"),
        (port("allowed_ips = ['10.0.0.5/8']"), 4, "10.0.0.0/8"),
        (port("max_macs = 0"), 4, "max_macs"),
        (port("mac_move = 'no'"), 4, "allow, deny"),
        (port("storm_burst = 5"), 4, "storm_pps"),
        (port("mtu = 60"), 4, "mtu 60 is not between 68"),
        (port("priority_tags = 'yes'"), 4, "not one of never"),
        (port("qinq_ethtype = '0x8100'"), 4, "802.1ad, 802.1q"),
        (
            port("peer = 'x'"),
            4,
            "peer is no option of type vhost-user",
        ),
        (of_type("patch", ""), 4, "peer is missing"),
        (
            of_type("patch", "peer = 'vm1'"),
            4,
            "peer is the port itself",
        ),
        (
            of_type("system", "xdp = 'yes'"),
            4,
            "not one of auto, on, off",
        ),
        (of_type("internal", "mac = '1:2'"), 4, "xx:xx:xx:xx:xx:xx"),
        (
            of_type("internal", "mac = '01:00:5e:00:00:01'"),
            4,
            "a group's address",
        ),
        (of_type("internal", "queues = 17"), 4, "between 1 and 16"),
        (of_type("tap", "owner = 'a:b:c'"), 4, "USER[:GROUP]"),
        (
            of_type("tap", "").replace("'vm1'", "'a-name-of-16-long'"),
            4,
            "which may have at most 15",
        ),
        (dpdk("devargs = 'x'\nn_txq = 0"), 4, "n_txq 0"),
        (
            dpdk("devargs = 'x'\nn_rxq_desc = 4097"),
            4,
            "n_rxq_desc 4097",
        ),
        (
            "version = 1\n[switch.external_ids]\n'' = 'x'".into(),
            2,
            "a key of external_ids is empty",
        ),
    ];
    for (text, line, telling) in cases {
        let (at, why) = parse(text.as_bytes()).expect_err(&text);
        assert_eq!(at, line, "{why}\n{text}");
        assert!(why.contains(telling), "{telling:?} not in {why:?}\n{text}");
    }
    let (line, why) = parse(b"version = 1\n\xff").unwrap_err();
    assert_eq!((line, why.as_str()), (2, "not UTF-8 text"));
    let twice = port("path = '/a'") + &port("path = '/a'").replace("vm1", "vm2")[bridge.len()..];
    let (line, why) = parse(twice.as_bytes()).unwrap_err();
    assert_eq!((line, why.as_str()), (9, "port vm2: path is port vm1's"));
}

#[test]
fn a_damaged_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.toml");
    fs::write(&path, "version = 1\n[[bridge]\n").unwrap();
    let error = StateFile::open(&path).unwrap_err();
    assert!(
        matches!(error, StateError::Damaged { line: 2, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("state.toml, line 2: "),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"version = 1\n[[bridge]\n");
}

#[test]
fn one_daemon_at_a_time_holds_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.toml");
    let held = StateFile::open(&path).unwrap();
    let error = StateFile::open(&path).unwrap_err();
    assert!(matches!(error, StateError::InUse { .. }), "{error}");
    drop(held);
    StateFile::open(&path).unwrap();
}

#[test]
fn what_a_killed_writer_left_beside_the_file_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.toml");
    fs::write(dir.path().join(".state.toml.new"), "half a fi").unwrap();
    let (file, mut desired) = StateFile::open(&path).unwrap();
    desired.bridges.push(Bridge::new("br0"));
    file.save(&desired).unwrap();
    drop(file);
    assert_eq!(StateFile::open(&path).unwrap().1, desired);
    assert!(!dir.path().join(".state.toml.new").exists());
}
