//! Ports whose other end is the kernel: system interfaces, the bridges' own
//! interfaces, taps.
//!
//! To the poll-mode cores they are rings like a guest's; what is behind them is
//! [`ringway_host`]'s. Frames that the kernel refuses were delivered as far as the
//! cores know: a port's counters tell of them as dropped, with the reason.

use std::sync::Arc;
use std::time::SystemTime;

use ringway_host::link::{self, Link};
use ringway_host::port::{
    HostPort, HostPortConfig, HostPortError, HostPortKind, HostPortStatus, HostQueueCounters,
};
use ringway_host::{HostError, xdp};
use ringway_vhost::DeviceRings;

use crate::actual::{Actual, Inner, lock};
use crate::counters::merge;
use crate::drop_reason::DropReason;
use crate::engine::Datapath;
use crate::error::DatapathError;
use crate::nic_bring_up::{change_mtu, device_counters};
use crate::port::{Backing, Guarding, Told};
use crate::snapshot::Plan;
use crate::spec::{DpdkSpec, PortKind, PortSpec, SystemSpec, XdpMode};
use crate::status::{LINK_DOWN, LinkStatus, PortCounters, PortState};

/// A port whose other end is the kernel.
pub struct HostBacking {
    pub port: HostPort,
    pub rings: Arc<DeviceRings>,
    /// The interface's MTU when it was last looked at.
    pub mtu: u16,
    /// It was up and had a carrier.
    pub up: bool,
    gone: bool,
    /// Since when that is so.
    since: SystemTime,
    /// Megabits per second of its link.
    speed: Option<u32>,
}

/// What is at the kernel's end of a port of that kind; `None`: nothing, or a
/// device of DPDK's.
pub fn kind(kind: &PortKind) -> Option<HostPortKind> {
    match kind {
        PortKind::Internal(options) => Some(HostPortKind::Internal {
            queues: options.queues,
            mac: options.mac,
        }),
        PortKind::Tap(options) => Some(HostPortKind::Tap {
            owner: options.owner,
        }),
        PortKind::System(options) => Some(HostPortKind::System {
            queues: options.queues,
        }),
        _ => None,
    }
}

impl HostBacking {
    pub fn new(port: HostPort) -> Self {
        let port_name = port.config().name.clone();
        let mut backing = Self {
            rings: port.rings(),
            port,
            mtu: 1500,
            up: false,
            gone: false,
            since: SystemTime::now(),
            speed: link::speed(&port_name),
        };
        let link = backing.port.status().link;
        backing.look(link.as_ref());
        backing
    }

    /// Takes over what cores are to know of the interface. True: it has changed.
    fn look(&mut self, link: Option<&Link>) -> bool {
        let gone = self.port.gone().is_some();
        let (mtu, up) = match link.filter(|link| link.index == self.port.index()) {
            Some(link) => (
                u16::try_from(link.mtu).unwrap_or(u16::MAX),
                link.admin_up && link.carrier,
            ),
            // In another network namespace it may be anything.
            None => (self.mtu, !gone),
        };
        let now = (mtu, up, gone);
        let changed = now != (self.mtu, self.up, self.gone);
        if (up, gone) != (self.up, self.gone) {
            self.since = SystemTime::now();
            self.speed = link::speed(&self.port.config().name);
        }
        (self.mtu, self.up, self.gone) = now;
        changed
    }

    /// Where it stands.
    pub fn told(&self, status: Option<&HostPortStatus>) -> Told {
        let mut details = Vec::new();
        let mut detail = |name: &str, value: String| details.push((name.to_owned(), value));
        if let HostPortKind::Internal { queues, .. } | HostPortKind::System { queues } =
            self.port.config().kind
        {
            detail("queues", queues.to_string());
        }
        for (name, count) in status.map(counters).unwrap_or_default() {
            if count > 0 && name != "sleeps" {
                detail(name, count.to_string());
            }
        }
        let state = match status {
            Some(HostPortStatus {
                gone: Some(why), ..
            }) => PortState::Failed { why: why.clone() },
            Some(HostPortStatus {
                link: Some(link), ..
            }) => link_state(link),
            // In another network namespace it may be anything.
            _ => PortState::Forwarding,
        };
        (state, self.since, details)
    }
}

/// Whether frames pass an interface. One that its administrator has not set up, or a
/// tap that no guest has opened, is waited for, as a guest is that is not started; a
/// link that has failed is a fault.
fn link_state(link: &Link) -> PortState {
    let name = &link.name;
    let waiting = |why| PortState::Waiting {
        state: LINK_DOWN,
        why,
    };
    match (link.admin_up, link.carrier) {
        (true, true) => PortState::Forwarding,
        (false, _) => waiting(format!(
            "interface {name} is down, so no frame passes; to set it up: ip link set dev {name} up"
        )),
        (true, false) if link.kind == "tun" => waiting(format!(
            "nobody has opened the tap {name}: it waits for the guest (QEMU: -netdev \
             tap,ifname={name},script=no)"
        )),
        (true, false) => PortState::LinkDown {
            why: format!(
                "interface {name} has no carrier: check the cable, or whether the other end (of a \
                 veth) is up; the port forwards again by itself when it has"
            ),
        },
    }
}

/// What the port's threads have counted that cores know nothing of.
fn counters(status: &HostPortStatus) -> Vec<(&'static str, u64)> {
    let sum = |of: fn(&HostQueueCounters) -> u64| status.queues.iter().map(of).sum();
    vec![
        ("kernel_dropped", status.dropped_by_kernel),
        ("unreadable", sum(|queue| queue.unreadable)),
        ("too_long", sum(|queue| queue.too_long)),
        ("sleeps", sum(|queue| queue.sleeps)),
    ]
}

/// Frames that the kernel refused did not reach the port's peer.
pub fn fold<'q>(
    counters: &mut PortCounters,
    queues: impl IntoIterator<Item = &'q HostQueueCounters>,
) {
    for queue in queues {
        counters.tx_packets = counters.tx_packets.saturating_sub(queue.refused());
        counters.tx_bytes = counters.tx_bytes.saturating_sub(queue.refused_bytes);
        let refused = [
            (DropReason::HostLinkDown, queue.refused_down),
            (DropReason::HostQueueFull, queue.refused_full),
            (DropReason::HostRefused, queue.refused_rejected),
        ];
        let refused = refused.into_iter().filter(|(_, count)| *count > 0);
        merge(&mut counters.tx_drops, refused.collect());
    }
}

/// The interface, for people.
pub fn link_status(
    kind: &PortKind,
    host: &HostBacking,
    status: &HostPortStatus,
) -> Option<LinkStatus> {
    let link = status.link.as_ref()?;
    Some(LinkStatus {
        mac: link.mac,
        mtu: link.mtu,
        admin_up: link.admin_up,
        link_up: link.admin_up && link.carrier,
        speed_mbps: host.speed,
        ifindex: Some(link.index),
        driver: link.kind.clone(),
        via: match kind {
            PortKind::Internal(_) => "tap",
            _ => "af_packet",
        },
    })
}

impl Inner {
    /// Starts a port whose other end is the kernel.
    pub fn start_host(
        &self,
        spec: &PortSpec,
        kind: HostPortKind,
    ) -> Result<(Backing, usize), DatapathError> {
        let config = HostPortConfig {
            name: spec.name.clone(),
            kind,
            mtu: spec.mtu,
            cpus: self.other_cpus(),
        };
        let port = HostPort::start(config).map_err(|error| refused(&spec.name, &error))?;
        let queues = port.rings().pairs.len();
        let backing = Backing::Host(Box::new(HostBacking::new(port)));
        Ok((backing, queues))
    }

    /// Starts a system port by AF_XDP, if it is to be had so; `None`: a packet socket
    /// is to do.
    pub fn start_xdp(
        &self,
        spec: &PortSpec,
        options: &SystemSpec,
    ) -> Result<Option<(Backing, usize)>, DatapathError> {
        let by_xdp = match options.xdp {
            XdpMode::On if !xdp::permitted() => {
                return Err(DatapathError::Unavailable {
                    port: spec.name.clone(),
                    why: "xdp=on: AF_XDP takes capabilities that ringwayd has given up; start it \
                          with --keep-capabilities xdp, or use xdp=off"
                        .to_owned(),
                });
            }
            XdpMode::On => true,
            XdpMode::Off => false,
            XdpMode::Auto if !xdp::permitted() => false,
            XdpMode::Auto => {
                let link = link::find(&spec.name)
                    .map_err(|error| refused(&spec.name, &error.into()))?
                    .filter(|link| link.name != "lo");
                // A kernel that cannot tell has no zero-copy either.
                link.is_some_and(|link| xdp::zero_copy(link.index).unwrap_or(false))
            }
        };
        if !by_xdp {
            return Ok(None);
        }
        if spec.name.contains([',', '=']) {
            return Err(DatapathError::BadOption {
                port: spec.name.clone(),
                why: "xdp: DPDK takes no interface with ',' or '=' in its name; use xdp=off"
                    .to_owned(),
            });
        }
        let devargs = format!("net_af_xdp_{0},iface={0}", spec.name);
        let mut device = DpdkSpec::new(devargs);
        device.rx_queues = options.queues;
        let device = self.start_nic(&spec.name, spec.mtu, &device)?;
        Ok(Some(device))
    }

    /// CPUs that are no poll-mode core's.
    pub fn other_cpus(&self) -> Vec<usize> {
        let all = core_affinity::get_core_ids().unwrap_or_default();
        let all = all.into_iter().map(|core| core.id);
        all.filter(|core| !self.config.pmd_cores.contains(core))
            .collect()
    }

    /// Lets the threads of host ports run on the CPUs of poll-mode cores that lend
    /// theirs by these plans, and on those that are no poll-mode core's. If there is
    /// only one of the latter, all else has to live on it: only where no core lends.
    pub fn share_cpus(&self, actual: &mut Actual, plans: &[Plan]) {
        let mut cpus = self.other_cpus();
        let mut lent = Vec::new();
        if !self.config.sleep_after.is_zero() {
            let cores = self.pmds.iter().zip(plans);
            lent.extend(cores.filter_map(|(pmd, plan)| plan.only_kernel.then_some(pmd.core)));
        }
        if cpus.len() == 1 && !lent.is_empty() {
            cpus.clear();
        }
        cpus.append(&mut lent);
        for port in actual.ports.values_mut() {
            if let Backing::Host(host) = &mut port.backing {
                host.port.keep_to(&cpus);
            }
        }
    }

    /// Looks at the interfaces of all host ports, and tells the cores if something
    /// has changed.
    pub fn look_at_links(&self, actual: &mut Actual) {
        let mut hosts = (actual.ports.values_mut())
            .filter_map(|port| match &mut port.backing {
                Backing::Host(host) => Some(host),
                _ => None,
            })
            .peekable();
        if hosts.peek().is_none() {
            return;
        }
        let Ok(links) = link::all() else { return };
        let mut changed = false;
        for host in hosts {
            let link = links.iter().find(|link| link.index == host.port.index());
            changed |= host.look(link);
        }
        if changed {
            self.publish(actual);
        }
    }
}

fn refused(port: &str, error: &HostPortError) -> DatapathError {
    let (port, why) = (port.to_owned(), error.to_string());
    match error {
        HostPortError::BadOption(_) | HostPortError::Host(HostError::BadName { .. }) => {
            DatapathError::BadOption { port, why }
        }
        _ => DatapathError::Unavailable { port, why },
    }
}

impl Datapath {
    /// Some interface has changed: its MTU and whether it is up are looked at
    /// again. It is done once a second without being asked for.
    pub fn links_changed(&self) {
        self.inner.look_at_links(&mut lock(&self.inner.actual));
    }

    /// Changes a running port: its VLANs, its guard, its MTU, and an internal port's
    /// address.
    ///
    /// # Errors
    ///
    /// There is no such port; [`DatapathError::NotLive`] for what can only be had by
    /// removing the port and adding it again; what the device refuses. Nothing was
    /// changed then.
    pub fn set_port(&self, spec: PortSpec) -> Result<(), DatapathError> {
        let mut actual = lock(&self.inner.actual);
        let port = (actual.ports.values_mut()).find(|port| port.spec.name == spec.name);
        let Some(port) = port else {
            return Err(DatapathError::not_found("port", &spec.name));
        };
        let (old, number) = (&port.spec, port.number);
        let not_live = |what| {
            let port = spec.name.clone();
            Err(DatapathError::NotLive { port, what })
        };
        if old.bridge != spec.bridge {
            return not_live("its bridge");
        }
        if spec.number.is_some_and(|wanted| wanted != number) {
            return not_live("its number");
        }
        let mac = match (&old.kind, &spec.kind) {
            (old, new) if old == new => None,
            (PortKind::Internal(old), PortKind::Internal(new)) if old.queues == new.queues => {
                new.mac
            }
            _ => return not_live("what it is, or an option of its device,"),
        };
        let mtu = spec.mtu.filter(|mtu| old.mtu != Some(*mtu));
        if let Backing::Nic(nic) = &port.backing {
            match (old.mtu, spec.mtu) {
                (Some(_), None) => return not_live("that its MTU is the device's own"),
                _ => mtu.map_or(Ok(()), |mtu| change_mtu(nic, &spec.name, mtu))?,
            }
        }
        if let Backing::Host(host) = &mut port.backing {
            let refused = |error: HostPortError| refused(&spec.name, &error);
            let before = host.port.status().link;
            if let Some(mtu) = mtu {
                host.port.set_mtu(mtu).map_err(refused)?;
                host.mtu = mtu;
            }
            let is_unset = old.mtu.is_some() && spec.mtu.is_none();
            if is_unset {
                let own = host.port.reset_mtu().map_err(refused)?;
                host.mtu = u16::try_from(own).unwrap_or(u16::MAX);
            }
            if let Some(mac) = mac
                && let Err(error) = host.port.set_mac(mac)
            {
                // Nothing is changed if not everything is.
                let before = before.and_then(|link| u16::try_from(link.mtu).ok());
                if let Some(before) = before.filter(|_| mtu.is_some() || is_unset) {
                    let _ = host.port.set_mtu(before);
                    host.mtu = before;
                }
                return Err(refused(error));
            }
        }
        let vlans_changed = old.vlan != spec.vlan;
        if old.guard != spec.guard {
            port.guarding = Guarding::of(&spec.guard, self.inner.eal.tsc_hz());
        }
        let bridge = spec.bridge.clone();
        port.spec = spec;
        self.inner.publish(&mut actual);
        if vlans_changed && let Some(bridge) = actual.bridges.get(&bridge) {
            // What was learned there was learned in other VLANs. No core learns
            // by the old ones any more.
            bridge.fdb.forget_port(number);
        }
        Ok(())
    }

    /// What a port's device has counted itself, by its own names: the kernel
    /// interface's statistics and those of the port's threads, or DPDK's xstats.
    ///
    /// # Errors
    ///
    /// There is no such port, or its device does not tell.
    pub fn port_device_counters(&self, name: &str) -> Result<Vec<(String, u64)>, DatapathError> {
        let actual = lock(&self.inner.actual);
        let port = (actual.ports.values()).find(|port| port.spec.name == name);
        let port = port.ok_or_else(|| DatapathError::not_found("port", name))?;
        let host = match &port.backing {
            Backing::Host(host) => host,
            Backing::Nic(nic) => return device_counters(nic, name),
            _ => return Ok(Vec::new()),
        };
        let own = counters(&host.port.status());
        let device = host.port.device_counters();
        let all = device.into_iter().chain(own);
        Ok(all.map(|(name, count)| (name.to_owned(), count)).collect())
    }
}
