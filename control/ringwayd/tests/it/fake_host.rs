//! A host with the interfaces that a test gives it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ringwayd::host::{Host, Interface};

#[derive(Clone, Default)]
pub struct FakeHost(Arc<Mutex<BTreeMap<String, Interface>>>);

impl FakeHost {
    /// An interface that is up.
    pub fn add(&self, name: &str, change: impl FnOnce(&mut Interface)) {
        let mut interface = Interface {
            mtu: 1500,
            admin_up: true,
            ..Interface::default()
        };
        change(&mut interface);
        self.0.lock().unwrap().insert(name.into(), interface);
    }

    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

impl Host for FakeHost {
    fn interface(&self, name: &str) -> Result<Option<Interface>, String> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }

    fn move_addresses(&self, from: &str, to: &str) -> Result<Vec<String>, String> {
        let interfaces = self.0.lock().unwrap();
        let Some(interface) = interfaces.get(from) else {
            return Err(format!("no interface {from}"));
        };
        let moved = interface.addresses.iter().flat_map(|address| {
            [
                format!("ip address del {address} dev {from}"),
                format!("ip address add {address} dev {to}"),
            ]
        });
        Ok(moved.chain([format!("ip link set {to} up")]).collect())
    }
}
