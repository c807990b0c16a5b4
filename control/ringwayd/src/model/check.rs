//! Whether options have a meaning, each by itself and together; the sentence
//! says what is wrong and what is allowed.

use ringway_datapath::spec::{DpdkSpec, InternalSpec, PatchSpec, SocketMode};

use super::{Bridge, Columns, Kind, MAX_PORT_NUMBER, Port, VhostUser};
use crate::owner;

/// Longest name of a bridge or port, in bytes.
pub const MAX_NAME: usize = 64;
/// Longest name of an interface, in bytes: IFNAMSIZ with its closing NUL is 16.
pub const MAX_INTERFACE_NAME: usize = 15;
/// Longest vhost-user path, in bytes: `sun_path` has 108 with its closing NUL.
pub const MAX_SOCKET_PATH: usize = 107;

impl Port {
    /// Checks every option by itself.
    pub fn check(&self) -> Result<(), String> {
        check_name("port", &self.name)?;
        if self.has_interface() && self.name.len() > MAX_INTERFACE_NAME {
            return Err(format!(
                "the name has {} bytes; it is also an interface's, which may have at most \
                 {MAX_INTERFACE_NAME}: choose a shorter one",
                self.name.len()
            ));
        }
        if let Some(number) = self.number {
            check_range("number", number.into(), 1, MAX_PORT_NUMBER.into())?;
        }
        if let Some(mtu) = self.mtu {
            check_range("mtu", mtu.into(), 68, u16::MAX.into())?;
        }
        self.vlan.check()?;
        self.guard.check()?;
        self.columns.check()?;
        match &self.kind {
            Kind::VhostUser(options) => options.check(),
            Kind::Dpdk(options) => check_dpdk(options),
            Kind::System(_) => Ok(()),
            Kind::Internal(options) => check_internal(options),
            Kind::Tap(options) => options.owner.as_deref().map_or(Ok(()), owner::check_form),
            Kind::Patch(options) => check_patch(self, options),
        }
    }
}

impl Bridge {
    /// Checks every option by itself.
    pub fn check(&self) -> Result<(), String> {
        check_name("bridge", self.name())?;
        let name = self.name();
        if !self.no_internal && name.len() > MAX_INTERFACE_NAME {
            return Err(format!(
                "bridge name {name} has {} bytes; the bridge's own interface would have that name, \
                 and an interface's may have at most {MAX_INTERFACE_NAME}: choose a shorter one, \
                 or have no such interface (--no-internal)",
                name.len()
            ));
        }
        let ageing = self.spec.fdb_ageing.as_secs();
        check_range("fdb-ageing", ageing, 1, 1_000_000)?;
        check_range("fdb-limit", self.spec.fdb_limit.into(), 1, 1_000_000)?;
        self.columns.check()
    }
}

impl Columns {
    /// Checks that every key is one.
    pub fn check(&self) -> Result<(), String> {
        let both = [
            ("external_ids", &self.external_ids),
            ("other_config", &self.other_config),
        ];
        for (column, map) in both {
            if map.contains_key("") {
                return Err(format!(
                    "a key of {column} is empty; write {column}:KEY=VALUE"
                ));
            }
        }
        Ok(())
    }
}

impl VhostUser {
    fn check(&self) -> Result<(), String> {
        let path = self.path.display();
        let bytes = self.path.as_os_str().len();
        if !self.path.is_absolute() {
            return Err(format!("path {path} is not absolute; begin it with /"));
        }
        if bytes > MAX_SOCKET_PATH {
            return Err(format!(
                "path {path} has {bytes} bytes; a unix socket's path may have at most \
                 {MAX_SOCKET_PATH}, so choose a shorter one"
            ));
        }
        if self.path.file_name().is_none() || self.path.to_string_lossy().contains(char::is_control)
        {
            return Err(format!("path {path} does not name a socket file"));
        }
        check_range("queues", self.queues.into(), 1, 128)?;
        if self.mode == SocketMode::Client && (self.owner.is_some() || self.permissions.is_some()) {
            return Err(
                "owner and permissions are for mode=server: with mode=client QEMU makes the socket"
                    .into(),
            );
        }
        if let Some(bits) = self.permissions.filter(|bits| *bits > 0o777) {
            return Err(format!("permissions {bits:04o} are above 0777"));
        }
        match &self.owner {
            Some(owner) => owner::check_form(owner),
            None => Ok(()),
        }
    }
}

fn check_dpdk(options: &DpdkSpec) -> Result<(), String> {
    if options.devargs.is_empty() {
        return Err(
            "devargs is missing: a PCI address or a virtual device, such as devargs=net_null0"
                .into(),
        );
    }
    if options
        .devargs
        .contains(|c: char| c.is_control() || c.is_whitespace())
    {
        return Err(format!(
            "devargs {:?} contain white space or control characters",
            options.devargs
        ));
    }
    if let Some(queues) = options.tx_queues {
        check_range("n_txq", queues.into(), 1, 1024)?;
    }
    let descriptors = [
        ("n_rxq_desc", options.rx_descriptors),
        ("n_txq_desc", options.tx_descriptors),
    ];
    for (what, number) in descriptors {
        check_range(what, number.into(), 1, 4096)?;
    }
    check_range("n_rxq", options.rx_queues.into(), 1, 1024)
}

fn check_internal(options: &InternalSpec) -> Result<(), String> {
    check_range("queues", options.queues.into(), 1, 16)?;
    match options.mac {
        Some([0, 0, 0, 0, 0, 0]) => Err("mac is all zero; no interface can have it".into()),
        Some([first, ..]) if first & 1 != 0 => Err(
            "mac is a group's address (the lowest bit of its first byte is set); an interface \
             needs one of its own"
                .into(),
        ),
        _ => Ok(()),
    }
}

fn check_patch(port: &Port, options: &PatchSpec) -> Result<(), String> {
    if options.peer.is_empty() {
        return Err("peer is missing: the name of a patch port of another bridge".into());
    }
    check_name("peer", &options.peer)?;
    if options.peer == port.name {
        return Err("peer is the port itself; a patch port joins two bridges".into());
    }
    Ok(())
}

fn check_name(object: &str, name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if begins_well && name.len() <= MAX_NAME && name.chars().all(allowed) {
        return Ok(());
    }
    Err(format!(
        "{object} name {name:?} is not allowed: 1 to {MAX_NAME} characters of A-Z a-z 0-9 _ . -, \
         the first a letter, digit or _"
    ))
}

fn check_range(what: &str, value: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{what} {value} is not between {least} and {most}"))
}
