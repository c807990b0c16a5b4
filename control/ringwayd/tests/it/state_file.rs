//! The state file: what is written reads back, what is damaged is told.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use ringway_datapath::spec::{BridgeSpec, DpdkSpec, FailMode, SocketMode};
use ringwayd::model::{Desired, Kind, Port, VhostUser};
use ringwayd::state::{StateError, StateFile, parse, render};

fn bridge() -> impl Strategy<Value = BridgeSpec> {
    (any::<bool>(), 1..=1_000_000u64, 1..=1_000_000u32).prop_map(|(secure, ageing, limit)| {
        let mut bridge = BridgeSpec::new("");
        bridge.fail_mode = match secure {
            true => FailMode::Secure,
            false => FailMode::Standalone,
        };
        bridge.fdb_ageing = Duration::from_secs(ageing);
        bridge.fdb_limit = limit;
        bridge
    })
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
    let dpdk = ("[!-~]{1,60}", 1..=1024u16).prop_map(|(devargs, rx_queues)| {
        Kind::Dpdk(DpdkSpec {
            rx_queues,
            ..DpdkSpec::new(devargs)
        })
    });
    prop_oneof![server, client, dpdk]
}

/// Names and sockets are made unique by numbering them.
fn desired() -> impl Strategy<Value = Desired> {
    let bridges = proptest::collection::vec(("[A-Za-z0-9_][A-Za-z0-9_.-]{0,50}", bridge()), 0..4);
    let ports = proptest::collection::vec(
        (
            "[A-Za-z0-9_][A-Za-z0-9_.-]{0,50}",
            any::<prop::sample::Index>(),
            kind(),
        ),
        0..6,
    );
    (bridges, ports).prop_map(|(bridges, ports)| {
        let mut desired = Desired::default();
        for (index, (name, mut bridge)) in bridges.into_iter().enumerate() {
            bridge.name = format!("{name}-b{index}");
            desired.bridges.push(bridge);
        }
        for (index, (name, on, mut kind)) in ports.into_iter().enumerate() {
            if desired.bridges.is_empty() {
                break;
            }
            if let Kind::VhostUser(options) = &mut kind {
                options.path.push(format!("{index}.sock"));
            }
            desired.ports.push(Port {
                name: format!("{name}-p{index}"),
                bridge: on.get(&desired.bridges).name.clone(),
                number: (index % 2 == 0).then_some(1000 - index as u32),
                kind,
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
    assert_eq!(desired.bridges, [BridgeSpec::new("br0")]);
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
            port("").replace("vhost-user", "tap"),
            4,
            "\"tap\" is not supported yet",
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
    desired.bridges.push(BridgeSpec::new("br0"));
    file.save(&desired).unwrap();
    drop(file);
    assert_eq!(StateFile::open(&path).unwrap().1, desired);
    assert!(!dir.path().join(".state.toml.new").exists());
}
