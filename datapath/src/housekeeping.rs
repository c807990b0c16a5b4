//! What has to be done now and then, off the PMD cores.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::actual::{Actual, Inner, lock};
use crate::port::Backing;
use crate::status::PortState;

/// How often the housekeeper looks without being called.
const ROUND: Duration = Duration::from_secs(1);

/// Calls the housekeeper before its time: something happened to a device. Any
/// thread may ring; nobody who rings waits.
#[derive(Default)]
pub struct Bell {
    asked: Mutex<Asked>,
    rung: Condvar,
}

#[derive(Default)]
struct Asked {
    look: bool,
    stop: bool,
}

/// Why the housekeeper woke up.
#[derive(PartialEq, Eq)]
enum Call {
    /// Something happened.
    Rung,
    /// Another second has passed.
    Round,
    Stop,
}

impl Bell {
    /// Something happened to a device.
    pub fn ring(&self) {
        lock(&self.asked).look = true;
        self.rung.notify_one();
    }

    /// The housekeeper shall end.
    pub fn stop(&self) {
        lock(&self.asked).stop = true;
        self.rung.notify_one();
    }

    fn wait(&self) -> Call {
        let asked = lock(&self.asked);
        let idle = |asked: &mut Asked| !asked.look && !asked.stop;
        let (mut asked, _) = self
            .rung
            .wait_timeout_while(asked, ROUND, idle)
            .unwrap_or_else(PoisonError::into_inner);
        match (asked.stop, std::mem::take(&mut asked.look)) {
            (true, _) => Call::Stop,
            (false, true) => Call::Rung,
            (false, false) => Call::Round,
        }
    }
}

/// Looks after the devices when the bell rings and once a second; once a second
/// it also ages the FDBs and reports quarantined ports.
pub fn keep_house(inner: &Weak<Inner>, bell: &Bell) {
    let mut quarantined = BTreeSet::new();
    loop {
        let call = bell.wait();
        if call == Call::Stop {
            return;
        }
        let Some(inner) = inner.upgrade() else { return };
        let mut actual = lock(&inner.actual);
        inner.look_at_links(&mut actual);
        if look_after_devices(&actual) {
            inner.publish(&mut actual);
        }
        inner.look_at_links(&mut actual);
        if call == Call::Round {
            age_stations(&inner, &actual);
            report_quarantined(&inner, &actual, &mut quarantined);
        }
    }
}

/// Asks all NICs how they are; true when one begins or ceases to take frames.
fn look_after_devices(actual: &Actual) -> bool {
    let mut changed = false;
    for port in actual.ports.values() {
        if let Backing::Nic(nic) = &port.backing {
            changed |= nic.health().look(nic.port(), &port.spec.name);
        }
    }
    changed
}

fn age_stations(inner: &Inner, actual: &Actual) {
    let now = inner.second();
    for bridge in actual.bridges.values() {
        let ageing = u32::try_from(bridge.spec.fdb_ageing.as_secs()).unwrap_or(u32::MAX);
        bridge
            .fdb
            .retain(|_, _, second| now.saturating_sub(second) <= ageing);
    }
}

fn report_quarantined(inner: &Inner, actual: &Actual, quarantined: &mut BTreeSet<u32>) {
    // Only a guest can break its rings.
    let guests =
        (actual.ports.values()).filter(|port| matches!(port.backing, Backing::Guest { .. }));
    for port in guests {
        let status = port.status(&inner.config.pmd_cores, &[], None);
        if let PortState::Quarantined { why } = &status.state {
            if quarantined.insert(port.number) {
                tracing::warn!(port = port.spec.name, "quarantined: {why}");
            }
        } else {
            quarantined.remove(&port.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn who_rings_is_heard_once() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert!(bell.wait() == Call::Rung);
        assert!(bell.wait() == Call::Round);
        bell.ring();
        bell.stop();
        assert!(bell.wait() == Call::Stop);
    }

    #[test]
    fn a_bell_wakes_a_sleeper() {
        let bell = Arc::new(Bell::default());
        let sleeper = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || bell.wait() == Call::Stop)
        };
        bell.stop();
        assert!(sleeper.join().unwrap());
    }
}
