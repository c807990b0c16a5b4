//! A switch in a namespace of its own, between two neighbours' namespaces and
//! the host (the switch's namespace) itself.
//!
//! ```text
//! left: veth0 ── vleft ┐            ┌ vright ── veth0 :right
//!                      └── bridge ──┘
//!                            │
//!                      br0, the host
//! ```

use super::namespace::Namespace;
use super::switch::Running;
use super::{HostSwitch, Way};
use crate::error::Error;
use crate::switches::SwitchSetup;

/// The bridge, and its interface in the host.
pub const BRIDGE: &str = "br0";
/// A neighbour's interface.
const NEIGHBOUR: &str = "veth0";
const LEFT: &str = "10.77.0.1";
const RIGHT: &str = "10.77.0.2";
const HOST: &str = "10.77.0.3";

/// One end of traffic.
pub struct End<'a> {
    /// Where.
    pub namespace: &'a Namespace,
    /// Its interface there.
    pub interface: &'static str,
    /// The interface's address.
    pub address: &'static str,
}

/// A switch with neighbours.
pub struct Lab {
    // Dropped in this order: the switch before its namespace.
    /// The switch.
    pub switch: Running,
    host: Namespace,
    left: Namespace,
    right: Namespace,
}

impl Lab {
    /// Brings everything up and has all ends ping each other, so that the
    /// switch has learned where they are.
    pub fn new(kind: HostSwitch, setup: &SwitchSetup, offloads: bool) -> Result<Self, Error> {
        let host = Namespace::new("host")?;
        let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
        let neighbours = [(&left, "vleft", LEFT), (&right, "vright", RIGHT)];
        for (neighbour, near, address) in neighbours {
            let far = ["peer", "name", NEIGHBOUR, "netns", neighbour.name()];
            host.ip(&[&["link", "add", near, "type", "veth"], &far[..]].concat())?;
            host.ip(&["link", "set", near, "up"])?;
            configure(neighbour, NEIGHBOUR, address)?;
        }
        let switch = Running::start(kind, setup, &host, offloads)?;
        for (_, near, _) in neighbours {
            switch.add_system(&host, near)?;
        }
        configure(&host, BRIDGE, HOST)?;
        let lab = Self {
            switch,
            host,
            left,
            right,
        };
        for way in [Way::Between, Way::ToHost, Way::FromHost] {
            let (from, to) = lab.ends(way);
            from.reaches(to.address)?;
        }
        Ok(lab)
    }

    /// Sender and receiver.
    pub fn ends(&self, way: Way) -> (End<'_>, End<'_>) {
        let end = |namespace, interface, address| End {
            namespace,
            interface,
            address,
        };
        let host = || end(&self.host, BRIDGE, HOST);
        let left = end(&self.left, NEIGHBOUR, LEFT);
        let right = end(&self.right, NEIGHBOUR, RIGHT);
        match way {
            Way::Between => (left, right),
            Way::ToHost => (left, host()),
            Way::FromHost => (host(), right),
        }
    }
}

impl End<'_> {
    /// Pings an address until it answers; the first ones may find the switch
    /// not ready yet.
    pub fn reaches(&self, to: &'static str) -> Result<(), Error> {
        for _ in 0..10 {
            let ping = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", to];
            if self.namespace.exec("ping", &ping).is_ok() {
                return Ok(());
            }
        }
        Err(Error::NoAnswer {
            from: self.namespace.name().to_owned(),
            to,
        })
    }
}

fn configure(namespace: &Namespace, interface: &str, address: &str) -> Result<(), Error> {
    let address = format!("{address}/24");
    namespace.ip(&["address", "add", &address, "dev", interface])?;
    namespace.ip(&["link", "set", interface, "up"]).map(drop)
}
