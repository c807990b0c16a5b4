//! Starts what a datapath stands on: PMD threads and guests' sessions.

use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use core_affinity::CoreId;
use ringway_flow::translate::Start;
use ringway_vhost::{DeviceRings, GuestPort, GuestPortConfig, MAX_QUEUE_PAIRS, RingPublisher};

use crate::actual::{Actual, Inner, lock};
use crate::counters::PortCounterTable;
use crate::error::DatapathError;
use crate::pmd::{self, Patience};
use crate::port::{Backing, Guarding, Port, vhost_mode};
use crate::spec::{PortSpec, VhostUserSpec};

pub fn check_cores(wanted: &[usize]) -> Result<(), DatapathError> {
    let there: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect();
    if wanted.is_empty() {
        return Err(DatapathError::Start(
            "no PMD core was given: name at least one CPU, as in --pmd-cores 1".to_owned(),
        ));
    }
    for (index, core) in wanted.iter().enumerate() {
        if !there.contains(core) {
            return Err(DatapathError::Start(format!(
                "PMD core {core} is not a CPU this process may run on (these are: {there:?}); \
                 choose others with --pmd-cores"
            )));
        }
        if wanted[..index].contains(core) {
            return Err(DatapathError::Start(format!(
                "PMD core {core} is named twice in --pmd-cores"
            )));
        }
    }
    Ok(())
}

pub fn start_pmd(inner: &Arc<Inner>, index: usize) -> std::io::Result<JoinHandle<()>> {
    let shared = Arc::clone(&inner.pmds[index]);
    let eal = inner.eal.clone();
    let clock = inner.clock;
    let max_idle = inner.config.max_idle;
    let patience = Patience::new(inner.config.sleep_after, inner.eal.tsc_hz());
    thread::Builder::new()
        .name(format!("pmd-{}", shared.core))
        .spawn(move || {
            if !core_affinity::set_for_current(CoreId { id: shared.core }) {
                tracing::warn!(core = shared.core, "could not pin the PMD to its CPU");
            }
            // Without a DPDK id the mempool works too, only without its cache.
            let registered = eal
                .register_thread()
                .inspect_err(|error| tracing::warn!(core = shared.core, %error, "PMD"));
            pmd::run(&shared, index, clock, &patience, max_idle);
            drop(registered);
        })
}

impl Inner {
    /// Puts a port among the others; PMDs do not know it yet.
    pub fn insert_port(
        &self,
        actual: &mut Actual,
        number: u32,
        spec: PortSpec,
        backing: Backing,
        queues: usize,
    ) {
        let assignment = actual.assign(queues, self.pmds.len());
        // One row more: for packets that the control plane sends.
        let counters = PortCounterTable::new(self.pmds.len() + 1, queues.max(1));
        let port = Port {
            number,
            guarding: Guarding::of(&spec.guard, self.eal.tsc_hz()),
            spec,
            backing,
            counters: Arc::new(counters),
            assignment,
            since: SystemTime::now(),
        };
        actual.ports.insert(number, port);
    }

    /// What a guest's port is made of.
    pub fn guest_parts(
        self: &Arc<Self>,
        number: u32,
        name: &str,
        options: &VhostUserSpec,
    ) -> Result<(GuestPortConfig, Arc<dyn RingPublisher>), DatapathError> {
        if options.queues == 0 || options.queues > MAX_QUEUE_PAIRS {
            return Err(DatapathError::BadOption {
                port: name.to_owned(),
                why: format!(
                    "queues={} is not between 1 and {MAX_QUEUE_PAIRS}",
                    options.queues
                ),
            });
        }
        let config = GuestPortConfig {
            name: name.to_owned(),
            path: options.path.clone(),
            mode: vhost_mode(options.mode),
            queue_pairs: options.queues,
            owner: options.owner,
            permissions: options.permissions,
            features: options.features,
            marks: (self.config.marks.as_ref()).map(|folder| folder.join(format!("port-{number}"))),
            keeper: self.config.keeper.clone(),
            cpus: self.other_cpus(),
        };
        let publisher = Arc::new(PortPublisher {
            inner: Arc::downgrade(self),
            number,
            name: name.to_owned(),
        });
        Ok((config, publisher))
    }

    pub fn start_guest(
        self: &Arc<Self>,
        number: u32,
        name: &str,
        options: &VhostUserSpec,
    ) -> Result<(Backing, usize), DatapathError> {
        let (config, publisher) = self.guest_parts(number, name, options)?;
        let session = GuestPort::start(config, publisher).map_err(|error| {
            let (port, why) = (name.to_owned(), error.to_string());
            match error {
                ringway_vhost::GuestPortError::PathTooLong { .. } => {
                    DatapathError::BadOption { port, why }
                }
                _ => DatapathError::Unavailable { port, why },
            }
        })?;
        let backing = Backing::Guest {
            session: Some(session),
            rings: Arc::default(),
        };
        Ok((backing, usize::from(options.queues)))
    }
}

/// A guest port's way to the PMDs.
struct PortPublisher {
    inner: Weak<Inner>,
    number: u32,
    name: String,
}

impl RingPublisher for PortPublisher {
    fn publish(&self, rings: Arc<DeviceRings>) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        let mut actual = lock(&inner.actual);
        // The port may be gone, and its number another's.
        match actual.ports.get_mut(&self.number) {
            Some(port) if port.spec.name == self.name => {
                if let Backing::Guest { rings: current, .. } = &mut port.backing {
                    *current = rings;
                }
                inner.publish(&mut actual);
            }
            _ => {}
        }
    }

    fn announce(&self, mac: [u8; 6]) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        let actual = lock(&inner.actual);
        let port = actual.ports.get(&self.number);
        if let Some(port) = port.filter(|port| port.spec.name == self.name) {
            // Ports have numbers below 1024.
            let in_port = port.number as u16;
            inner.inject(
                &actual,
                &port.spec.bridge,
                in_port,
                Start::Tables,
                &rarp(mac),
            );
        }
    }
}

/// What tells switches where a station is now: a reverse ARP request for its
/// own address (RFC 903), to everybody.
fn rarp(mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    // Type; Ethernet, IPv4, their address lengths, "request reverse".
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}
