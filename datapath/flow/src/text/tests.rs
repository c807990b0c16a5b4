mod errors;
mod files;
mod groups_meters;
mod oracle;
mod properties;
mod shown;

use super::PortNames;

/// The ports of the oracle's bridge.
struct Ports;

impl PortNames for Ports {
    fn number(&self, name: &str) -> Option<u16> {
        match name {
            "p1" => Some(1),
            "p-2" => Some(2),
            _ => None,
        }
    }

    /// Ports are printed by number.
    fn name(&self, _: u16) -> Option<&str> {
        None
    }
}

/// The same ports, printed by name.
struct Named;

impl PortNames for Named {
    fn number(&self, name: &str) -> Option<u16> {
        Ports.number(name)
    }

    fn name(&self, number: u16) -> Option<&str> {
        match number {
            1 => Some("p1"),
            2 => Some("p-2"),
            _ => None,
        }
    }
}
