//! A running port whose other end is the kernel.

mod kernel;
mod pump;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use nix::unistd::{Pid, gettid};
use ringway_vhost::{DeviceFault, DeviceRings, keep_to};

use crate::link::{self, Link};
use crate::packet::PacketSocket;
use crate::ring::Pair;
use crate::tap::{self, Tap, TapOptions};
use crate::{HostError, fanout, ingress};
use kernel::Kernel;
use pump::{Counters, Pump, Shared};

/// The MTU that Linux gives to an Ethernet interface.
const ETHERNET_MTU: u32 = 1500;
/// Most queues of an internal or a system port.
pub const MAX_QUEUES: u16 = 16;

/// A port to be started.
#[derive(Clone, Debug)]
pub struct HostPortConfig {
    /// The interface's name.
    pub name: String,
    /// What it is.
    pub kind: HostPortKind,
    /// Bytes behind the Ethernet header; `None`: as the interface has it.
    pub mtu: Option<u16>,
    /// CPUs that its threads may run on; empty: as the caller's. To be changed by
    /// [`HostPort::keep_to`].
    pub cpus: Vec<usize>,
}

/// What is at the kernel's end of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPortKind {
    /// A tap device that we hold: the host's stack is at its other end. It is
    /// made if it is not there.
    Internal {
        /// Its queues, 1 to [`MAX_QUEUES`].
        queues: u16,
        /// Its Ethernet address; `None`: as it has it or the kernel chooses.
        mac: Option<[u8; 6]>,
    },
    /// A tap device for somebody else (QEMU) to hold. It is made, and set up, if
    /// it is not there.
    Tap {
        /// User and group that may open it besides root.
        owner: Option<(u32, u32)>,
    },
    /// An interface that is there.
    System {
        /// Packet sockets that share what it receives by flow, 1 to [`MAX_QUEUES`].
        queues: u16,
    },
}

/// Why a port cannot be started or changed. A port that cannot be started has
/// changed nothing but that a device it makes may be there.
#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    /// An interface cannot be had as asked.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An option has no possible meaning.
    #[error("{0}")]
    BadOption(String),
    /// The interface cannot be a port.
    #[error("{name} cannot be a port of a bridge: {why}")]
    Unfit {
        /// The interface.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// The system refused something else.
    #[error("cannot {what} {name}: {source}")]
    System {
        /// What was asked, as a verb.
        what: &'static str,
        /// The interface.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// What a port says of itself.
#[derive(Clone, Debug)]
pub struct HostPortStatus {
    /// The interface as the kernel has it; `None` while it is not in this network
    /// namespace.
    pub link: Option<Link>,
    /// Why the interface is no more. Such a port does not come back: it is to be
    /// made anew.
    pub gone: Option<String>,
    /// Frames that the kernel dropped, for they were not read in time.
    pub dropped_by_kernel: u64,
    /// By queue.
    pub queues: Vec<HostQueueCounters>,
}

/// What went through a queue. Frames that the switch delivered are written or
/// refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostQueueCounters {
    /// Frames read and made available to the switch.
    pub from_kernel: u64,
    /// Frames written.
    pub to_kernel: u64,
    /// Their bytes, without virtio-net headers.
    pub to_kernel_bytes: u64,
    /// Frames not written: the interface was down or gone.
    pub refused_down: u64,
    /// Frames not written: its queue was full.
    pub refused_full: u64,
    /// Frames not written: the kernel did not like them.
    pub refused_rejected: u64,
    /// Bytes of all frames not written.
    pub refused_bytes: u64,
    /// Frames that the kernel had but could not give: of an offload that a
    /// virtio-net header cannot tell of.
    pub unreadable: u64,
    /// Frames from the kernel that are longer than any port takes.
    pub too_long: u64,
    /// Times that the thread waited.
    pub sleeps: u64,
}

impl HostQueueCounters {
    /// Frames that the switch delivered and the kernel did not take.
    pub fn refused(&self) -> u64 {
        self.refused_down + self.refused_full + self.refused_rejected
    }
}

impl Counters {
    fn read(&self) -> HostQueueCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HostQueueCounters {
            from_kernel: get(&self.from_kernel),
            to_kernel: get(&self.to_kernel),
            to_kernel_bytes: get(&self.to_kernel_bytes),
            refused_down: get(&self.refused_down),
            refused_full: get(&self.refused_full),
            refused_rejected: get(&self.refused_rejected),
            refused_bytes: get(&self.refused_bytes),
            unreadable: get(&self.unreadable),
            too_long: get(&self.too_long),
            sleeps: get(&self.sleeps),
        }
    }
}

/// A port that runs. Dropped, it stops: an internal or tap device stays, with its
/// addresses and routes, and an interface stays taken from the host's stack.
#[derive(Debug)]
pub struct HostPort {
    config: HostPortConfig,
    /// The interface's number.
    index: u32,
    /// Its MTU if nobody had asked for another.
    own_mtu: u32,
    rings: Arc<DeviceRings>,
    kernels: Vec<Arc<Kernel>>,
    counters: Vec<Arc<Counters>>,
    shared: Arc<Shared>,
    threads: Vec<(JoinHandle<()>, Pid)>,
}

impl HostPort {
    /// Makes or opens the interface and starts a thread for each queue.
    ///
    /// # Errors
    ///
    /// Options without meaning; an interface that is not there or cannot be a
    /// port; what the kernel refuses.
    pub fn start(config: HostPortConfig) -> Result<Self, HostPortError> {
        check(&config)?;
        let (link, own_mtu, kernels) = open(&config)?;
        let failed = |what: &'static str| {
            let name = config.name.clone();
            move |source| HostPortError::System { what, name, source }
        };
        let mut port = Self {
            index: link.index,
            own_mtu,
            rings: Arc::default(),
            kernels: kernels.into_iter().map(Arc::new).collect(),
            counters: Vec::new(),
            shared: Arc::new(Shared::new(&config.name).map_err(failed("make an eventfd for"))?),
            threads: Vec::new(),
            config: config.clone(),
        };
        let mut rings = DeviceRings::default();
        let fault = Arc::<DeviceFault>::default();
        for kernel in &port.kernels {
            let pair = Pair::new(&fault).map_err(failed("make rings for"))?;
            let counters = Arc::<Counters>::default();
            let pump = Pump::new(
                Arc::clone(kernel),
                pair.transmit,
                pair.receive,
                &pair.call,
                Arc::clone(&port.shared),
                Arc::clone(&counters),
            )
            .map_err(failed("watch"))?;
            let (tell, told) = mpsc::sync_channel(1);
            let thread = thread::Builder::new()
                .name(thread_name(&config.name))
                .spawn(move || {
                    // Whoever started us waits for it.
                    let _ = tell.send(gettid());
                    pump.run();
                })
                .map_err(failed("start a thread for"))?;
            let id = (told.recv())
                .map_err(|_| failed("start a thread for")(io::ErrorKind::BrokenPipe.into()))?;
            keep_to(id, &config.cpus);
            port.threads.push((thread, id));
            port.counters.push(counters);
            rings.pairs.push(pair.device);
        }
        port.rings = Arc::new(rings);
        Ok(port)
    }

    /// The rings, for poll-mode cores.
    pub fn rings(&self) -> Arc<DeviceRings> {
        Arc::clone(&self.rings)
    }

    /// What it was started with, and what was changed since.
    pub fn config(&self) -> &HostPortConfig {
        &self.config
    }

    /// The interface's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Why the interface is no more, if it is: as far as the threads have noticed.
    pub fn gone(&self) -> Option<String> {
        self.shared.gone()
    }

    /// What it says of itself now.
    pub fn status(&self) -> HostPortStatus {
        self.status_among(&[])
    }

    /// As [`HostPort::status`], for who has just asked for many interfaces: one that
    /// is not among `links` is asked for.
    pub fn status_among(&self, links: &[Link]) -> HostPortStatus {
        if self.kernels.iter().any(|kernel| kernel.is_gone()) {
            self.shared.set_gone();
        }
        let gone = self.shared.gone();
        let known = links.iter().find(|link| link.index == self.index);
        let link = match (&gone, known) {
            (Some(_), _) => None,
            (None, Some(link)) => Some(link.clone()),
            (None, None) => link::find(&self.config.name).ok().flatten(),
        };
        HostPortStatus {
            link: link.filter(|link| link.index == self.index),
            gone,
            dropped_by_kernel: self.kernels.iter().map(|kernel| kernel.dropped()).sum(),
            queues: self.counters.iter().map(|queue| queue.read()).collect(),
        }
    }

    /// What the kernel has counted for the interface; empty once it is gone, and
    /// while it is in another network namespace.
    pub fn device_counters(&self) -> Vec<(&'static str, u64)> {
        let link = self.status().link;
        link.and_then(|link| link::statistics(link.index).ok())
            .unwrap_or_default()
    }

    /// Sets the interface's MTU.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), HostPortError> {
        link::set_mtu(self.index, mtu.into())?;
        self.config.mtu = Some(mtu);
        Ok(())
    }

    /// Puts the interface's own MTU back: the one it had when the port was started,
    /// or Ethernet's, if it had the port's already.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn reset_mtu(&mut self) -> Result<u32, HostPortError> {
        link::set_mtu(self.index, self.own_mtu)?;
        self.config.mtu = None;
        Ok(self.own_mtu)
    }

    /// Sets the interface's Ethernet address.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set_mac(&mut self, address: [u8; 6]) -> Result<(), HostPortError> {
        link::set_mac(self.index, address)?;
        if let HostPortKind::Internal { mac, .. } = &mut self.config.kind {
            *mac = Some(address);
        }
        Ok(())
    }

    /// Lets its threads run on these CPUs only.
    pub fn keep_to(&mut self, cpus: &[usize]) {
        if self.config.cpus == cpus {
            return;
        }
        self.config.cpus = cpus.to_vec();
        for (_, thread) in &self.threads {
            keep_to(*thread, cpus);
        }
    }

    /// Stops it and undoes what it made: an internal or tap device is deleted, a
    /// system interface belongs to the host's stack again.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn remove(mut self) -> Result<(), HostPortError> {
        self.end_threads();
        if self.status().gone.is_some() {
            return Ok(());
        }
        match self.config.kind {
            HostPortKind::Internal { .. } => {
                // By its descriptor: it may be in another network namespace.
                for kernel in self.kernels.iter().take(1) {
                    kernel.forget().map_err(|errno| HostPortError::System {
                        what: "delete",
                        name: self.config.name.clone(),
                        source: errno.into(),
                    })?;
                }
                self.kernels.clear();
                // A process that is just forking may still hold it.
                if let Some(link) = link::find(&self.config.name)?
                    && link.index == self.index
                {
                    link::delete(link.index)?;
                }
            }
            HostPortKind::Tap { .. } => tap::delete_tap(&self.config.name)?,
            HostPortKind::System { .. } => ingress::give_back(self.index)?,
        }
        Ok(())
    }

    fn end_threads(&mut self) {
        self.shared.stop();
        for (thread, _) in self.threads.drain(..) {
            // One that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for HostPort {
    fn drop(&mut self) {
        self.end_threads();
    }
}

fn check(config: &HostPortConfig) -> Result<(), HostPortError> {
    if let HostPortKind::Internal { queues, .. } | HostPortKind::System { queues } = config.kind
        && !(1..=MAX_QUEUES).contains(&queues)
    {
        return Err(HostPortError::BadOption(format!(
            "queues={queues} is not between 1 and {MAX_QUEUES}"
        )));
    }
    if let HostPortKind::Internal { mac: Some(mac), .. } = config.kind
        && (mac[0] & 1 != 0 || mac == [0; 6])
    {
        return Err(HostPortError::BadOption(
            "mac: an interface cannot have the address of a group, or none".to_owned(),
        ));
    }
    Ok(())
}

/// The interface, its own MTU, and its queues. What cannot be is refused before
/// anything is made or changed.
fn open(config: &HostPortConfig) -> Result<(Link, u32, Vec<Kernel>), HostPortError> {
    let name = &config.name;
    let there = || -> Result<Link, HostPortError> {
        Ok(link::find(name)?.ok_or_else(|| HostError::NoInterface {
            interface: name.clone(),
        })?)
    };
    check_mtu(config, link::find(name)?.as_ref())?;
    let (link, kernels) = match config.kind {
        HostPortKind::Internal { queues, mac } => {
            let options = TapOptions {
                queues,
                persistent: true,
                owner: None,
            };
            let tap = Tap::open(name, &options)?;
            let link = there()?;
            if let Some(mac) = mac.filter(|mac| link.mac != Some(*mac)) {
                link::set_mac(link.index, mac)?;
            }
            announce_addresses(name);
            let kernels = tap.into_queues().into_iter().map(Kernel::Tap).collect();
            (link, kernels)
        }
        HostPortKind::Tap { owner } => {
            tap::make_persistent(name, owner)?;
            let link = there()?;
            // Nobody else would: QEMU runs no script for it.
            link::set_up(link.index, true)?;
            (link.clone(), attach(&link, 1)?)
        }
        HostPortKind::System { queues } => {
            let link = there()?;
            (link.clone(), attach(&link, queues)?)
        }
    };
    let own_mtu = match config.mtu.map(u32::from) {
        // It was set by a ringwayd before this one.
        Some(mtu) if mtu == link.mtu => ETHERNET_MTU,
        Some(mtu) => {
            link::set_mtu(link.index, mtu)?;
            link.mtu
        }
        None => link.mtu,
    };
    Ok((link, own_mtu, kernels))
}

/// Asks the kernel to announce the interface's addresses when it is set up: one
/// that was moved here from an attached interface is known to the neighbours
/// under that one's Ethernet address, for up to a minute (ip-sysctl: `arp_notify`,
/// `ndisc_notify`). It is no more than a courtesy: where it cannot be had, the
/// neighbours find out later.
fn announce_addresses(name: &str) {
    for (family, setting) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
        let path = format!("/proc/sys/net/{family}/conf/{name}/{setting}");
        if let Err(error) = std::fs::write(&path, "1") {
            tracing::debug!(interface = name, %error, "{path} cannot be set");
        }
    }
}

/// Whether the interface, or the tap that is to be made, takes the MTU.
fn check_mtu(config: &HostPortConfig, link: Option<&Link>) -> Result<(), HostPortError> {
    let made = !matches!(config.kind, HostPortKind::System { .. });
    let limits = match link {
        // A driver that tells no limits is asked when it is set.
        Some(link) if link.max_mtu > 0 => link.min_mtu..=link.max_mtu,
        None if made => tap::MTU,
        _ => return Ok(()),
    };
    match config.mtu {
        Some(mtu) if !limits.contains(&mtu.into()) => Err(HostPortError::BadOption(format!(
            "mtu={mtu}: {} takes {} to {}",
            config.name,
            limits.start(),
            limits.end()
        ))),
        _ => Ok(()),
    }
}

/// Takes over what an interface receives, by so many queues.
fn attach(link: &Link, queues: u16) -> Result<Vec<Kernel>, HostPortError> {
    let unfit = |why| HostPortError::Unfit {
        name: link.name.clone(),
        why,
    };
    if link.name == "lo" {
        return Err(unfit("the host's own traffic goes through it"));
    }
    if link.mac.is_none() {
        return Err(unfit("it has no Ethernet frames"));
    }
    let failed = |(what, source)| HostPortError::System {
        what,
        name: link.name.clone(),
        source,
    };
    let sockets = (0..queues)
        .map(|_| PacketSocket::open(link.index).map_err(failed))
        .collect::<Result<Vec<_>, _>>()?;
    fanout::share(&sockets)
        .map_err(|source| failed(("share among several queues the frames of", source)))?;
    ingress::take(link.index)?;
    Ok(sockets.into_iter().map(Kernel::Packet).collect())
}

/// `host-NAME`, as much of it as a thread's name may have.
fn thread_name(port: &str) -> String {
    const BYTES: usize = 15;
    let mut name = format!("host-{port}");
    while name.len() > BYTES {
        name.pop();
    }
    name
}
