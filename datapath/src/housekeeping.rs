//! What has to be done now and then, off the PMD cores.

use std::collections::BTreeSet;
use std::sync::{Weak, mpsc};
use std::time::Duration;

use crate::actual::{Inner, lock};
use crate::port::Backing;
use crate::status::PortState;

/// Once a second: ages the FDBs, looks at interfaces and reports quarantined ports.
pub fn keep_house(inner: &Weak<Inner>, stopped: &mpsc::Receiver<()>) {
    let mut quarantined = BTreeSet::new();
    while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_secs(1)) {
        let Some(inner) = inner.upgrade() else { return };
        let mut actual = lock(&inner.actual);
        inner.look_at_links(&mut actual);
        let now = inner.second();
        for bridge in actual.bridges.values() {
            let ageing = u32::try_from(bridge.spec.fdb_ageing.as_secs()).unwrap_or(u32::MAX);
            bridge
                .fdb
                .retain(|_, _, second| now.saturating_sub(second) <= ageing);
        }
        // Only a guest can break its rings.
        let guests =
            (actual.ports.values()).filter(|port| matches!(port.backing, Backing::Guest { .. }));
        for port in guests {
            let status = port.status(&inner.config.pmd_cores);
            if let PortState::Quarantined { why } = &status.state {
                if quarantined.insert(port.number) {
                    tracing::warn!(port = port.spec.name, "quarantined: {why}");
                }
            } else {
                quarantined.remove(&port.number);
            }
        }
    }
}
