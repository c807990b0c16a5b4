//! A port as the control plane holds it.

use std::sync::Arc;
use std::time::SystemTime;

use ringway_flow::key::PORT_LOCAL;
use ringway_host::link::Link;
use ringway_vhost::{DeviceRings, GuestPort, Mode, Ring, SessionState, features};

use crate::counters::PortCounterTable;
use crate::fdb::Fdb;
use crate::guard::{Guard, storm_bucket};
use crate::host::{self, HostBacking};
use crate::meter::TokenBucket;
use crate::nic::Nic;
use crate::nic_status::{nic_link, nic_status};
use crate::snapshot::{NO_LIMIT, Output};
use crate::spec::{GuardSpec, PortKind, PortSpec, SocketMode};
use crate::status::{PortState, PortStatus, QueueStatus};

/// A port with what runs for it.
pub struct Port {
    pub number: u32,
    pub spec: PortSpec,
    pub backing: Backing,
    pub counters: Arc<PortCounterTable>,
    /// Its guard and the rate of its frames to many, as PMDs have them.
    pub guarding: Guarding,
    /// Index of the PMD that polls each queue.
    pub assignment: Vec<usize>,
    pub since: SystemTime,
}

/// What PMDs ask of a port's packets. It lasts as long as the options do: token
/// buckets remember what has passed.
#[derive(Clone, Default)]
pub struct Guarding {
    pub guard: Option<Arc<Guard>>,
    pub storm: Option<Arc<TokenBucket>>,
}

impl Guarding {
    /// As `spec` has it.
    pub fn of(spec: &GuardSpec, tsc_hz: u64) -> Self {
        Self {
            guard: Guard::of(spec, tsc_hz).map(Arc::new),
            storm: storm_bucket(spec, tsc_hz).map(Arc::new),
        }
    }
}

/// What is behind a port.
pub enum Backing {
    /// A guest. `session` is `None` only while the port is being made.
    Guest {
        session: Option<GuestPort>,
        rings: Arc<DeviceRings>,
    },
    /// A DPDK device.
    Nic(Arc<Nic>),
    /// A kernel interface.
    Host(Box<HostBacking>),
    /// The other end of a pair that joins two bridges.
    Patch(PatchBacking),
}

/// What a patch port knows of its peer.
pub struct PatchBacking {
    /// Its number, or why frames do not get there.
    pub peer: Result<u32, String>,
    /// Since when that is so.
    pub since: SystemTime,
}

impl Default for PatchBacking {
    fn default() -> Self {
        Self {
            peer: Err("the port is being made".to_owned()),
            since: SystemTime::now(),
        }
    }
}

impl PatchBacking {
    fn told(&self, peer: &str) -> Told {
        let state = match &self.peer {
            Ok(_) => PortState::Forwarding,
            Err(why) => PortState::Waiting {
                state: "waiting-for-peer",
                why: why.clone(),
            },
        };
        (
            state,
            self.since,
            vec![("peer".to_owned(), peer.to_owned())],
        )
    }
}

impl Backing {
    /// The rings behind it; `None`: a device without.
    pub fn rings(&self) -> Option<&DeviceRings> {
        match self {
            Self::Guest { rings, .. } => Some(rings),
            Self::Host(host) => Some(&host.rings),
            Self::Nic(_) | Self::Patch(_) => None,
        }
    }
}

impl Port {
    /// What flows call it.
    pub fn flow_number(&self) -> u16 {
        if self.spec.is_local() {
            PORT_LOCAL
        } else {
            self.number as u16
        }
    }

    /// The peer's name, if it is a patch port.
    pub fn patch_peer(&self) -> Option<&str> {
        match &self.spec.kind {
            PortKind::Patch(patch) => Some(&patch.peer),
            _ => None,
        }
    }

    /// Where frames for this port go now.
    pub fn output(&self) -> Output {
        match &self.backing {
            Backing::Nic(nic) => Output::Nic(Arc::clone(nic)),
            Backing::Patch(patch) => Output::Patch(patch.peer.as_ref().ok().copied()),
            backing => Output::Guest(
                (backing.rings().into_iter())
                    .flat_map(|rings| &rings.pairs)
                    .zip(0u16..)
                    .filter_map(|(pair, queue)| Some((queue, Arc::clone(pair.enqueue.as_ref()?))))
                    .collect(),
            ),
        }
    }

    /// Longest frame that it takes, without VLAN tags: its MTU, set or the
    /// device's, and an Ethernet header. A guest's rings have no limit of
    /// their own.
    pub fn max_frame(&self) -> u32 {
        let mtu = self.spec.mtu.or(match &self.backing {
            Backing::Nic(nic) => Some(nic.mtu()),
            Backing::Host(host) => Some(host.mtu),
            Backing::Guest { .. } | Backing::Patch(_) => None,
        });
        mtu.map_or(NO_LIMIT, |mtu| u32::from(mtu) + 14)
    }

    /// Whether frames can be sent to it now.
    pub fn takes_frames(&self) -> bool {
        match &self.backing {
            Backing::Nic(nic) => nic.health().takes_frames(),
            Backing::Patch(patch) => patch.peer.is_ok(),
            // One that is down, as a bridge's own interface is at first, is not flooded.
            Backing::Host(host) => host.up && host.port.gone().is_none(),
            Backing::Guest { rings, .. } => rings.pairs.iter().any(|pair| pair.enqueue.is_some()),
        }
    }

    /// What the port is doing. `links`: interfaces that were just asked for, by
    /// their numbers; others are asked for here. `fdb`: its bridge's.
    pub fn status(&self, cores: &[usize], links: &[Link], fdb: Option<&Fdb>) -> PortStatus {
        let host = match &self.backing {
            Backing::Host(host) => Some(host.port.status_among(links)),
            _ => None,
        };
        let (state, since, details) = match &self.backing {
            Backing::Guest {
                session: Some(session),
                ..
            } => guest_status(session),
            Backing::Guest { session: None, .. } => (
                PortState::Waiting {
                    state: SessionState::WaitingForSocket.name(),
                    why: "the port is being made".to_owned(),
                },
                self.since,
                Vec::new(),
            ),
            Backing::Nic(nic) => nic_status(nic),
            Backing::Host(backing) => backing.told(host.as_ref()),
            Backing::Patch(patch) => patch.told(self.patch_peer().unwrap_or_default()),
        };
        let queues = self
            .assignment
            .iter()
            .zip(0u16..)
            .map(|(pmd, queue)| {
                let rings = self.backing.rings();
                let pair = rings.and_then(|rings| rings.pairs.get(usize::from(queue)));
                let size = |ring: Option<&Arc<Ring>>| ring.map_or(0, |ring| ring.size());
                let mut counters = self.counters.queue_total(usize::from(queue));
                if let Some(host) = &host {
                    host::fold(&mut counters, host.queues.get(usize::from(queue)));
                }
                QueueStatus {
                    queue,
                    pmd_core: cores.get(*pmd).copied(),
                    dequeue_size: size(pair.and_then(|pair| pair.dequeue.as_ref())),
                    enqueue_size: size(pair.and_then(|pair| pair.enqueue.as_ref())),
                    counters,
                }
            })
            .collect();
        let mut counters = self.counters.total();
        if let Some(host) = &host {
            host::fold(&mut counters, &host.queues);
        }
        let (stations, stations_refused) = fdb.map_or((0, 0), |fdb| fdb.of_port(self.number));
        PortStatus {
            number: self.number,
            name: self.spec.name.clone(),
            bridge: self.spec.bridge.clone(),
            local: self.spec.is_local(),
            kind: match self.spec.kind {
                PortKind::VhostUser(_) => "vhost-user",
                PortKind::Dpdk(_) => "dpdk",
                PortKind::System(_) => "system",
                PortKind::Internal(_) => "internal",
                PortKind::Tap(_) => "tap",
                PortKind::Patch(_) => "patch",
            },
            state,
            since,
            details,
            link: match &self.backing {
                Backing::Nic(nic) => Some(nic_link(nic)),
                Backing::Host(backing) => (host.as_ref())
                    .and_then(|status| host::link_status(&self.spec.kind, backing, status)),
                _ => None,
            },
            queues,
            counters,
            stations,
            stations_refused,
        }
    }
}

/// State, since when, details.
pub type Told = (PortState, SystemTime, Vec<(String, String)>);

fn guest_status(session: &GuestPort) -> Told {
    let status = session.status();
    let config = session.config();
    let mode = match config.mode {
        Mode::Server => "server",
        Mode::Client => "client",
    };
    let mut details = vec![
        ("path".to_owned(), config.path.display().to_string()),
        ("mode".to_owned(), mode.to_owned()),
        ("queue_pairs".to_owned(), config.queue_pairs.to_string()),
        ("connections".to_owned(), status.connections.to_string()),
    ];
    let withheld = features::OFFERED & !config.features;
    if withheld != 0 {
        let names = features::names(withheld);
        let why =
            format!("{names} (new since the port was added; del-port and add-port offer them)");
        details.push(("features_withheld".to_owned(), why));
    }
    if status.memory_regions > 0 {
        details.push(("features".to_owned(), features::names(status.features)));
        details.push((
            "guest_memory".to_owned(),
            format!(
                "{} MiB in {} regions{}",
                status.memory_bytes >> 20,
                status.memory_regions,
                match status.memory_sealed {
                    true => ", sealed",
                    false => "",
                }
            ),
        ));
    }
    if let Some(reason) = status.last_disconnect {
        details.push(("last_disconnect".to_owned(), reason));
    }
    let state = match status.state {
        SessionState::Forwarding => PortState::Forwarding,
        SessionState::Quarantined => PortState::Quarantined { why: status.why },
        waiting => PortState::Waiting {
            state: waiting.name(),
            why: status.why,
        },
    };
    (state, status.since, details)
}

/// The socket mode in the vhost crate's words.
pub fn vhost_mode(mode: SocketMode) -> Mode {
    match mode {
        SocketMode::Server => Mode::Server,
        SocketMode::Client => Mode::Client,
    }
}
