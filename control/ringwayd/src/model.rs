//! The desired state: what was asked for, before the datapath has any of it.

use std::path::{Path, PathBuf};

use ringway_datapath::spec::{BridgeSpec, DpdkSpec, SocketMode};

use crate::owner;

/// Highest number of a port.
pub const MAX_PORT_NUMBER: u32 = 1023;
/// Longest name of a bridge or port, in bytes.
pub const MAX_NAME: usize = 64;
/// Longest vhost-user path, in bytes: `sun_path` has 108 with its closing NUL.
pub const MAX_SOCKET_PATH: usize = 107;
/// Directory of the sockets that are not given a `path`.
pub const DEFAULT_SOCKET_DIR: &str = "/run/ringway";

/// Every bridge and port that shall be, in the order they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Bridges; names are unique.
    pub bridges: Vec<BridgeSpec>,
    /// Ports; names are unique over ports and bridges.
    pub ports: Vec<Port>,
}

/// A port that shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The bridge it belongs to.
    pub bridge: String,
    /// The number by which flows know it; `None` until one is assigned.
    pub number: Option<u32>,
    /// Its kind and that kind's options.
    pub kind: Kind,
}

/// Kinds of port with their options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `type=vhost-user`
    VhostUser(VhostUser),
    /// `type=dpdk`
    Dpdk(DpdkSpec),
}

/// Options of a vhost-user port. The owner stays as it was written: names may
/// get other ids between two starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUser {
    /// The unix socket.
    pub path: PathBuf,
    /// Who listens.
    pub mode: SocketMode,
    /// Queue pairs offered to the guest.
    pub queues: u16,
    /// `USER[:GROUP]` of the socket file.
    pub owner: Option<String>,
    /// Permission bits of the socket file.
    pub permissions: Option<u32>,
}

impl Desired {
    /// The bridge of that name.
    pub fn bridge(&self, name: &str) -> Option<&BridgeSpec> {
        self.bridges.iter().find(|bridge| bridge.name == name)
    }

    /// The port of that name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// Whether a bridge or port has that name, and which.
    pub fn taken(&self, name: &str) -> Option<&'static str> {
        match (self.bridge(name), self.port(name)) {
            (Some(_), _) => Some("bridge"),
            (_, Some(_)) => Some("port"),
            _ => None,
        }
    }

    /// The port of that number.
    pub fn port_numbered(&self, number: u32) -> Option<&Port> {
        let mut ports = self.ports.iter();
        ports.find(|port| port.number == Some(number))
    }

    /// The lowest number that no port has.
    pub fn free_number(&self) -> Option<u32> {
        (1..=MAX_PORT_NUMBER).find(|number| self.port_numbered(*number).is_none())
    }

    /// Gives every port without a number the lowest that is free, in the ports'
    /// order, so that a file without numbers gives the same ones each time.
    pub fn assign_numbers(&mut self) {
        for index in 0..self.ports.len() {
            if self.ports[index].number.is_none() {
                self.ports[index].number = self.free_number();
            }
        }
    }

    /// The vhost-user port on that socket, if there is one.
    pub fn port_on_socket(&self, path: &Path) -> Option<&Port> {
        self.ports.iter().find(|port| port.socket() == Some(path))
    }
}

impl Port {
    /// Whether `asked` would be this port: a number that was not asked for may
    /// be any.
    pub fn is_as_asked(&self, asked: &Port) -> bool {
        let number = asked.number.or(self.number);
        *self
            == Port {
                number,
                ..asked.clone()
            }
    }

    /// Its vhost-user socket.
    pub fn socket(&self) -> Option<&Path> {
        match &self.kind {
            Kind::VhostUser(options) => Some(&options.path),
            Kind::Dpdk(_) => None,
        }
    }

    /// Checks every option by itself; the sentence says what is wrong and what
    /// is allowed.
    pub fn check(&self) -> Result<(), String> {
        check_name("port", &self.name)?;
        if let Some(number) = self.number {
            check_range("number", number.into(), 1, MAX_PORT_NUMBER.into())?;
        }
        match &self.kind {
            Kind::VhostUser(options) => options.check(),
            Kind::Dpdk(options) => check_dpdk(options),
        }
    }
}

impl VhostUser {
    /// The socket of a port that is not given a path.
    pub fn default_path(port: &str) -> PathBuf {
        Path::new(DEFAULT_SOCKET_DIR).join(format!("{port}.sock"))
    }

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
    check_range("n_rxq", options.rx_queues.into(), 1, 1024)
}

/// Checks a bridge's options by themselves.
pub fn check_bridge(bridge: &BridgeSpec) -> Result<(), String> {
    check_name("bridge", &bridge.name)?;
    let ageing = bridge.fdb_ageing.as_secs();
    check_range("fdb-ageing", ageing, 1, 1_000_000)?;
    check_range("fdb-limit", bridge.fdb_limit.into(), 1, 1_000_000)
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
