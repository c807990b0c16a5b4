//! Kinds of port as types and options of the Interface table.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ringway_proto::v1::{self as pb, port_spec};

use super::convert::texts;
use super::records::Row;

/// Interface types.
pub const TYPES: &[&str] = &[
    "afxdp",
    "dpdk",
    "dpdkvhostuser",
    "dpdkvhostuserclient",
    "internal",
    "patch",
    "system",
    "tap",
];

/// Interface types that Open vSwitch has and ringway has not.
const LACKED: &[&str] = &[
    "afxdp-nonpmd",
    "bareudp",
    "dpdkr",
    "dpdkring",
    "erspan",
    "geneve",
    "gre",
    "gtpu",
    "ip6erspan",
    "ip6gre",
    "lisp",
    "srv6",
    "stt",
    "vxlan",
];

/// The directory in which `dpdkvhostuser` ports listen, as Open vSwitch has it:
/// its own, or one below it that other_config:vhost-sock-dir names.
pub fn vhost_dir(switch: &Row, rundir: &Path) -> PathBuf {
    match switch.value("other_config").get("vhost-sock-dir") {
        Some(below) => rundir.join(below),
        None => rundir.to_owned(),
    }
}

/// What a `dpdkvhostuser` port of this name listens on.
pub fn vhost_path(switch: &Row, rundir: &Path, name: &str) -> String {
    vhost_dir(switch, rundir).join(name).display().to_string()
}

/// A kind's name, options and Ethernet address as Open vSwitch has them.
pub fn kind(kind: Option<&port_spec::Kind>) -> (&'static str, Vec<(&'static str, String)>, &str) {
    let unless = |value: Option<u32>, default: u32| {
        let value = value.filter(|value| *value != default);
        value.map_or(String::new(), |value| value.to_string())
    };
    match kind {
        None => ("", vec![], ""),
        Some(port_spec::Kind::VhostUser(spec)) => {
            let queues = ("n_rxq", unless(spec.queues, 1));
            match spec.mode() {
                pb::SocketMode::Client => (
                    "dpdkvhostuserclient",
                    vec![("vhost-server-path", spec.path.clone()), queues],
                    "",
                ),
                _ => (
                    "dpdkvhostuser",
                    vec![("path", spec.path.clone()), queues],
                    "",
                ),
            }
        }
        Some(port_spec::Kind::Dpdk(spec)) => (
            "dpdk",
            vec![
                ("dpdk-devargs", spec.devargs.clone()),
                ("n_rxq", unless(spec.rx_queues, 1)),
                ("n_txq", unless(spec.tx_queues, 0)),
                ("n_rxq_desc", unless(spec.rx_descriptors, 1024)),
                ("n_txq_desc", unless(spec.tx_descriptors, 1024)),
            ],
            "",
        ),
        Some(port_spec::Kind::System(spec)) => {
            let queues = ("n_rxq", unless(spec.queues, 1));
            match spec.xdp() {
                pb::XdpMode::On => ("afxdp", vec![queues], ""),
                pb::XdpMode::Off => ("", vec![("xdp", "off".into()), queues], ""),
                _ => ("", vec![queues], ""),
            }
        }
        Some(port_spec::Kind::Internal(spec)) => (
            "internal",
            vec![("n_rxq", unless(spec.queues, 1))],
            &spec.mac,
        ),
        Some(port_spec::Kind::Tap(spec)) => ("tap", vec![("owner", spec.owner.clone())], ""),
        Some(port_spec::Kind::Patch(spec)) => ("patch", vec![("peer", spec.peer.clone())], ""),
    }
}

/// The options of an Interface row, taken one by one.
struct Options<'a> {
    kind: &'a str,
    left: HashMap<String, String>,
}

impl Options<'_> {
    fn text(&mut self, key: &str) -> String {
        self.left.remove(key).unwrap_or_default()
    }

    fn number(&mut self, key: &str) -> Result<Option<u32>, String> {
        let Some(text) = self.left.remove(key) else {
            return Ok(None);
        };
        let number = text.parse();
        number
            .map(Some)
            .map_err(|_| format!("options:{key}={text} is not a number"))
    }

    fn needed(&mut self, key: &str, what: &str) -> Result<String, String> {
        match self.text(key) {
            text if text.is_empty() => {
                Err(format!("type={} needs options:{key}={what}", self.kind))
            }
            text => Ok(text),
        }
    }

    /// What is left is not known.
    fn done(self, kind: port_spec::Kind, known: &str) -> Result<port_spec::Kind, String> {
        let mut left: Vec<_> = self.left.keys().map(String::as_str).collect();
        left.sort_unstable();
        match left.first() {
            None => Ok(kind),
            Some(key) => Err(format!(
                "options:{key} is not supported for type={}; supported: {known}",
                self.kind
            )),
        }
    }
}

/// The kind of port that an Interface row says.
pub fn new_kind(row: &Row, switch: &Row, rundir: &Path) -> Result<port_spec::Kind, String> {
    let (name, value) = (row.name(), row.value("type"));
    let kind = match value.as_text() {
        "" => "system",
        kind => kind,
    };
    let mut options = Options {
        kind,
        left: texts(&row.value("options")),
    };
    let mac = row.value("mac");
    if !mac.0.is_empty() && kind != "internal" {
        return Err(format!(
            "column mac is not supported for type={kind}, only for internal"
        ));
    }
    match kind {
        "dpdkvhostuser" => {
            let path = match options.text("path") {
                path if path.is_empty() => vhost_path(switch, rundir, &name),
                path => path,
            };
            let spec = pb::VhostUserSpec {
                path,
                mode: pb::SocketMode::Server.into(),
                queues: options.number("n_rxq")?,
                ..Default::default()
            };
            options.done(port_spec::Kind::VhostUser(spec), "n_rxq, path")
        }
        "dpdkvhostuserclient" => {
            let spec = pb::VhostUserSpec {
                path: options.needed(
                    "vhost-server-path",
                    "PATH, the socket on which QEMU listens",
                )?,
                mode: pb::SocketMode::Client.into(),
                queues: options.number("n_rxq")?,
                ..Default::default()
            };
            options.done(port_spec::Kind::VhostUser(spec), "vhost-server-path, n_rxq")
        }
        "dpdk" => {
            let spec = pb::DpdkSpec {
                devargs: options.needed("dpdk-devargs", "a PCI address or virtual device")?,
                rx_queues: options.number("n_rxq")?,
                tx_queues: options.number("n_txq")?,
                rx_descriptors: options.number("n_rxq_desc")?,
                tx_descriptors: options.number("n_txq_desc")?,
            };
            let known = "dpdk-devargs, n_rxq, n_txq, n_rxq_desc, n_txq_desc";
            options.done(port_spec::Kind::Dpdk(spec), known)
        }
        "internal" => {
            let spec = pb::InternalSpec {
                mac: mac.as_text().to_ascii_lowercase(),
                queues: options.number("n_rxq")?,
            };
            options.done(port_spec::Kind::Internal(spec), "n_rxq")
        }
        "system" => {
            let xdp = match options.text("xdp").as_str() {
                "" | "auto" => pb::XdpMode::Unspecified,
                "on" => pb::XdpMode::On,
                "off" => pb::XdpMode::Off,
                other => return Err(format!("options:xdp={other} is not one of auto, on, off")),
            };
            let spec = pb::SystemSpec {
                xdp: xdp.into(),
                queues: options.number("n_rxq")?,
            };
            options.done(port_spec::Kind::System(spec), "xdp, n_rxq")
        }
        "afxdp" => {
            let spec = pb::SystemSpec {
                xdp: pb::XdpMode::On.into(),
                queues: options.number("n_rxq")?,
            };
            options.done(port_spec::Kind::System(spec), "n_rxq")
        }
        "tap" => {
            let owner = options.text("owner");
            options.done(port_spec::Kind::Tap(pb::TapSpec { owner }), "owner")
        }
        "patch" => {
            let peer = options.needed("peer", "the other end's name")?;
            options.done(port_spec::Kind::Patch(pb::PatchSpec { peer }), "peer")
        }
        _ if LACKED.contains(&kind) => Err(format!(
            "type={kind} is not supported; supported: {}",
            TYPES.join(", ")
        )),
        _ => Err(format!(
            "type={kind} is not known; supported: {}",
            TYPES.join(", ")
        )),
    }
}
