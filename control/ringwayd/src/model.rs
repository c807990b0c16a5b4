//! The desired state: what was asked for, before the datapath has any of it.

mod check;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringway_datapath::spec::{
    BridgeSpec, DpdkSpec, GuardSpec, InternalSpec, PatchSpec, SocketMode, SystemSpec, VlanSpec,
};

pub use check::{MAX_INTERFACE_NAME, MAX_NAME, MAX_SOCKET_PATH};

/// Highest number of a port.
pub const MAX_PORT_NUMBER: u32 = 1023;
/// Directory of the sockets that are not given a `path`.
pub const DEFAULT_SOCKET_DIR: &str = "/run/ringway";

/// Every bridge and port that shall be, in the order they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What is noted about the switch as a whole.
    pub switch: Columns,
    /// Bridges; names are unique.
    pub bridges: Vec<Bridge>,
    /// Ports; names are unique over ports and bridges, but for a bridge's own
    /// interface, which is named like the bridge.
    pub ports: Vec<Port>,
}

/// What is kept for those who ask for it, under the names of Open vSwitch's
/// columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Whatever the user wants to note.
    pub external_ids: BTreeMap<String, String>,
    /// Settings, as they were written.
    pub other_config: BTreeMap<String, String>,
}

/// A bridge that shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// What the datapath is told of it.
    pub spec: BridgeSpec,
    /// What is noted about it.
    pub columns: Columns,
    /// It has no internal port of its own name.
    pub no_internal: bool,
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
    /// Which VLANs NORMAL takes from it and gives to it.
    pub vlan: VlanSpec,
    /// Bytes that a frame may have behind its Ethernet header and VLAN tags.
    pub mtu: Option<u16>,
    /// What it may send, and how much of it.
    pub guard: GuardSpec,
    /// What is noted about it.
    pub columns: Columns,
}

/// Kinds of port with their options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `type=vhost-user`
    VhostUser(VhostUser),
    /// `type=dpdk`
    Dpdk(DpdkSpec),
    /// `type=system`
    System(SystemSpec),
    /// `type=internal`
    Internal(InternalSpec),
    /// `type=tap`
    Tap(Tap),
    /// `type=patch`
    Patch(PatchSpec),
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

/// Options of a tap port. The owner stays as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tap {
    /// `USER[:GROUP]` that may open it without privileges.
    pub owner: Option<String>,
}

impl Desired {
    /// The bridge of that name.
    pub fn bridge(&self, name: &str) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.name() == name)
    }

    /// The port of that name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// The ports of a bridge.
    pub fn ports_of<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = &'a Port> {
        self.ports.iter().filter(move |port| port.bridge == bridge)
    }

    /// What has the name that a new bridge shall have.
    pub fn taken(&self, name: &str) -> Option<&'static str> {
        match (self.bridge(name), self.port(name)) {
            (Some(_), _) => Some("bridge"),
            (_, Some(_)) => Some("port"),
            _ => None,
        }
    }

    /// What has the name that `port` shall have. A bridge's own interface may
    /// have the bridge's.
    pub fn taken_for(&self, port: &Port) -> Option<&'static str> {
        match (self.bridge(&port.name), self.port(&port.name)) {
            (Some(_), _) if !port.is_local() => Some("bridge"),
            (_, Some(_)) => Some("port"),
            _ => None,
        }
    }

    /// The port of that number.
    pub fn port_numbered(&self, number: u32) -> Option<&Port> {
        let mut ports = self.ports.iter();
        ports.find(|port| port.number == Some(number))
    }

    /// The number that a port gets which asks for none: the lowest that is
    /// free, for a bridge's own interface the highest.
    pub fn free_number(&self, local: bool) -> Option<u32> {
        let is_free = |number: &u32| self.port_numbered(*number).is_none();
        let mut numbers = 1..=MAX_PORT_NUMBER;
        match local {
            true => numbers.rev().find(is_free),
            false => numbers.find(is_free),
        }
    }

    /// Gives every port without a number the one it would get, in the ports'
    /// order, so that a file without numbers gives the same ones each time.
    pub fn assign_numbers(&mut self) {
        let without = |port: &Port| port.number.is_none().then(|| port.is_local());
        for index in 0..self.ports.len() {
            let Some(local) = self.ports.get(index).and_then(without) else {
                continue;
            };
            let number = self.free_number(local);
            if let Some(port) = self.ports.get_mut(index) {
                port.number = number;
            }
        }
    }

    /// Gives every bridge its own interface that has none and is not said to
    /// have none: those of a file that an older ringwayd wrote. Returns their
    /// names. A bridge whose name no interface can have is noted to have none.
    pub fn give_local_ports(&mut self) -> Vec<String> {
        let mut given = Vec::new();
        let without = |bridge: &&Bridge| !bridge.no_internal && self.port(bridge.name()).is_none();
        let without = self.bridges.iter().filter(without);
        let names: Vec<String> = without.map(|bridge| bridge.name().to_owned()).collect();
        for name in names {
            let mut local = Port::local(&name);
            local.number = self.free_number(true);
            if local.check().is_ok() && local.number.is_some() {
                self.ports.push(local);
                given.push(name);
                continue;
            }
            let bridges = self.bridges.iter_mut();
            for bridge in bridges.filter(|bridge| bridge.name() == name) {
                bridge.no_internal = true;
            }
        }
        given
    }

    /// The vhost-user port on that socket, if there is one.
    pub fn port_on_socket(&self, path: &Path) -> Option<&Port> {
        self.ports.iter().find(|port| port.socket() == Some(path))
    }
}

impl Bridge {
    /// A bridge with the defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            spec: BridgeSpec::new(name),
            columns: Columns::default(),
            no_internal: false,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}

impl Port {
    /// A trunk of all VLANs, without a number.
    pub fn new(name: impl Into<String>, bridge: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            bridge: bridge.into(),
            number: None,
            kind,
            vlan: VlanSpec::default(),
            mtu: None,
            guard: GuardSpec::default(),
            columns: Columns::default(),
        }
    }

    /// A bridge's own interface.
    pub fn local(bridge: &str) -> Self {
        Self::new(bridge, bridge, Kind::Internal(InternalSpec::default()))
    }

    /// Whether it is its bridge's own interface.
    pub fn is_local(&self) -> bool {
        self.name == self.bridge && matches!(self.kind, Kind::Internal(_))
    }

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

    /// Whether `other` may become this port while packets flow: different are
    /// its VLANs, its MTU, its guard or its Ethernet address.
    pub fn differs_in_live_options_only(&self, other: &Port) -> bool {
        let Port {
            name,
            bridge,
            number,
            kind,
            ..
        } = other;
        let same_device = match (&self.kind, kind) {
            (Kind::Internal(own), Kind::Internal(other)) => own.queues == other.queues,
            (own, other) => own == other,
        };
        same_device && (&self.name, &self.bridge, self.number) == (name, bridge, *number)
    }

    /// Whether the datapath is told the same of both.
    pub fn is_same_to_datapath(&self, other: &Port) -> bool {
        self.differs_in_live_options_only(other)
            && (&self.kind, &self.vlan, self.mtu) == (&other.kind, &other.vlan, other.mtu)
            && self.guard == other.guard
    }

    /// Its vhost-user socket.
    pub fn socket(&self) -> Option<&Path> {
        match &self.kind {
            Kind::VhostUser(options) => Some(&options.path),
            _ => None,
        }
    }

    /// The interface that it stands on comes and goes, or is made, in the
    /// kernel.
    pub fn has_interface(&self) -> bool {
        matches!(
            self.kind,
            Kind::System(_) | Kind::Internal(_) | Kind::Tap(_)
        )
    }
}

impl VhostUser {
    /// The socket of a port that is not given a path.
    pub fn default_path(port: &str) -> PathBuf {
        Path::new(DEFAULT_SOCKET_DIR).join(format!("{port}.sock"))
    }
}
