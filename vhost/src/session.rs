//! One connection of a vhost-user frontend: the protocol's messages become
//! guest memory and rings.
//!
//! On rust-vmm's `vhost` crate, which reads and checks the messages; this is
//! its handler. Every change that a PMD could notice is published first and
//! answered only after all PMDs have let go of what was there before
//! ([`RingPublisher::publish`] returns then).

mod handover;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

pub(crate) use handover::SessionForm;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
};

use crate::dirty::DirtyLog;
use crate::features;
use crate::mark::{Mark, Marks};
use crate::memory::{GuestMemory, MAX_REGIONS, MemoryError, RegionSpec};
use crate::ring::{
    DeviceFault, Position, Ring, RingAddresses, RingError, RingFeatures, RingState, checked_size,
};
use crate::status::{SessionState, StatusCell};

/// One queue pair as PMDs see it. A ring that is not running is `None`.
#[derive(Clone, Debug, Default)]
pub struct QueuePair {
    /// The guest's transmit queue.
    pub dequeue: Option<Arc<Ring>>,
    /// The guest's receive queue.
    pub enqueue: Option<Arc<Ring>>,
}

/// All rings of a port. Immutable; a change is a new one.
#[derive(Clone, Debug, Default)]
pub struct DeviceRings {
    /// One entry per queue pair, running or not.
    pub pairs: Vec<QueuePair>,
}

impl DeviceRings {
    /// Whether some pair runs in both directions.
    pub fn is_forwarding(&self) -> bool {
        self.pairs
            .iter()
            .any(|pair| pair.dequeue.is_some() && pair.enqueue.is_some())
    }

    /// PMDs poll, and refilled receive buffers are found when needed; a PMD
    /// that goes to sleep asks for kicks itself.
    fn refuse_kicks(&self) {
        let pairs = self.pairs.iter();
        for ring in pairs
            .flat_map(|pair| [&pair.dequeue, &pair.enqueue])
            .flatten()
        {
            ring.want_kicks(false);
        }
    }

    fn any(&self) -> bool {
        self.pairs
            .iter()
            .any(|pair| pair.dequeue.is_some() || pair.enqueue.is_some())
    }
}

/// How rings reach the PMDs.
pub trait RingPublisher: Send + Sync {
    /// Makes `rings` the ones that PMDs use for this port. Returns after every
    /// PMD has let go of the rings that were published before.
    fn publish(&self, rings: Arc<DeviceRings>);

    /// The guest with this MAC address has come from another host
    /// (`SEND_RARP`): makes the network know where it is now.
    fn announce(&self, mac: [u8; 6]);
}

/// What the frontend said of one virtqueue.
#[derive(Default)]
struct Vring {
    size: u32,
    addresses: Option<RingAddresses>,
    /// Guest address at which writes to the used ring are to be noted.
    log_address: Option<u64>,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    /// `SET_VRING_KICK` came: the ring is to run once it is enabled.
    started: bool,
    /// `SET_VRING_ENABLE`.
    enabled: bool,
    /// Outlives views of the ring from start to `GET_VRING_BASE`.
    state: Option<Arc<RingState>>,
    /// Where the frontend says that the ring is to go on.
    base: u32,
}

/// The device as one frontend has configured it so far.
pub(crate) struct Device {
    publisher: Arc<dyn RingPublisher>,
    status: Arc<StatusCell>,
    /// Virtio features that the frontend is offered.
    offered: u64,
    features: u64,
    protocol: VhostUserProtocolFeatures,
    memory: Arc<GuestMemory>,
    log: Option<Arc<DirtyLog>>,
    /// Start and size of regions that were added while they were there, once
    /// for each time.
    added_again: Vec<(u64, u64)>,
    vrings: Vec<Vring>,
    published: Arc<DeviceRings>,
    fault: Arc<DeviceFault>,
    /// Where bursts under way are noted.
    marks: Option<Arc<Marks>>,
}

/// An error that ends the connection, with its reason.
fn refuse(reason: impl std::fmt::Display) -> Error {
    Error::ReqHandlerError(io::Error::other(reason.to_string()))
}

fn unsupported(request: &str) -> Error {
    refuse(format!("{request} was sent although it was not offered"))
}

impl Device {
    pub(crate) fn new(
        queue_pairs: u16,
        offered: u64,
        publisher: Arc<dyn RingPublisher>,
        status: Arc<StatusCell>,
        fault: Arc<DeviceFault>,
        marks: Option<Arc<Marks>>,
    ) -> Self {
        Self {
            publisher,
            status,
            offered,
            features: 0,
            protocol: VhostUserProtocolFeatures::empty(),
            memory: Arc::new(GuestMemory::of_device(Arc::clone(&fault))),
            log: None,
            added_again: Vec::new(),
            vrings: (0..2 * queue_pairs).map(|_| Vring::default()).collect(),
            published: Arc::default(),
            fault,
            marks,
        }
    }

    fn mark(&self, ring: usize) -> Option<Mark> {
        Mark::of_transmit_ring(self.marks.as_ref(), ring)
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring> {
        let count = self.vrings.len();
        self.vrings.get_mut(index as usize).ok_or_else(|| {
            refuse(format!(
                "virtqueue {index:#x} does not exist, this port has {count}; \
                 set queues= of the port to as many queue pairs as the guest uses"
            ))
        })
    }

    /// Resolves the rings anew, publishes them and says where the session
    /// stands. On error nothing runs that the frontend did not set up right.
    fn republish(&mut self) -> Result<()> {
        let (rings, failure) = match self.resolve() {
            Ok(rings) => (rings, None),
            Err(reason) => (DeviceRings::default(), Some(reason)),
        };
        if rings.any() || self.published.any() {
            rings.refuse_kicks();
            self.published = Arc::new(rings);
            self.publisher.publish(Arc::clone(&self.published));
        }
        self.tell_state();
        failure.map_or(Ok(()), |reason| Err(refuse(reason)))
    }

    /// The rings that are to run, or why one of them cannot.
    fn resolve(&mut self) -> std::result::Result<DeviceRings, String> {
        let ring_features = features::for_ring(self.features);
        let mut rings = DeviceRings {
            pairs: vec![QueuePair::default(); self.vrings.len() / 2],
        };
        let mut failure = None;
        let log = self
            .log
            .as_ref()
            .filter(|_| features::wants_log(self.features));
        for (index, vring) in self.vrings.iter_mut().enumerate() {
            if !vring.started || !vring.enabled {
                continue;
            }
            let mark = Mark::of_transmit_ring(self.marks.as_ref(), index);
            let ring = match vring.resolve(ring_features, &self.memory, log, &self.fault, mark) {
                Ok(Some(ring)) => Arc::new(ring),
                Ok(None) => continue,
                Err(_) if self.memory.region_count() == 0 => {
                    failure.get_or_insert(
                        "rings are started, but no guest memory was shared: give QEMU \
                         -object memory-backend-memfd,id=mem,size=…,share=on -numa node,memdev=mem"
                            .to_owned(),
                    );
                    continue;
                }
                Err(error) => {
                    failure.get_or_insert(format!("virtqueue {index}: {error}"));
                    continue;
                }
            };
            let pair = &mut rings.pairs[index / 2];
            // VirtIO 1.2, 5.1.2: receiveq1, transmitq1, receiveq2, …
            if index % 2 == 0 {
                pair.enqueue = Some(ring);
            } else {
                pair.dequeue = Some(ring);
            }
        }
        failure.map_or(Ok(rings), Err)
    }

    fn tell_state(&self) {
        {
            let mut status = self.status.lock();
            status.features = self.features;
            status.memory_bytes = self.memory.size();
            status.memory_regions = self.memory.region_count();
            status.memory_sealed = self.memory.is_sealed();
        }
        let unshared = self.memory.looks_unshared();
        let (state, why) = if self.published.is_forwarding() {
            (SessionState::Forwarding, String::new())
        } else if self.published.any() {
            (
                SessionState::RingsEnabled,
                "the guest's driver has enabled only one direction so far".to_owned(),
            )
        } else if self.memory.region_count() > 0 {
            (
                SessionState::MemoryMapped,
                "the guest's driver has not started its queues".to_owned(),
            )
        } else {
            (
                SessionState::Negotiating,
                "the frontend has not shared the guest's memory; \
                 with QEMU this comes when the guest's driver starts"
                    .to_owned(),
            )
        };
        if unshared && state >= SessionState::RingsEnabled {
            self.status.set(
                SessionState::RingsEnabled,
                "the guest's memory seems not to be shared (its file is empty although the driver \
                 runs): give QEMU share=on, as in -object memory-backend-memfd,id=mem,size=…,share=on \
                 -numa node,memdev=mem",
            );
        } else {
            self.status.set(state, why);
        }
    }

    /// Stops every ring; PMDs have let go of them when this returns.
    pub(crate) fn stop(&mut self) {
        for vring in &mut self.vrings {
            *vring = Vring::default();
        }
        if self.published.any() {
            self.published = Arc::default();
            self.publisher.publish(Arc::default());
        }
        // Bursts were finished: another guest's ring may stand at the same place.
        for ring in 0..self.vrings.len() {
            self.mark(ring).iter().for_each(Mark::clear);
        }
    }

    /// `SEND_RARP`, which the `vhost` crate does not know.
    pub(crate) fn announce(&self, mac: [u8; 6]) -> Result<()> {
        if !self.protocol.contains(VhostUserProtocolFeatures::RARP) {
            return Err(unsupported("SEND_RARP"));
        }
        self.publisher.announce(mac);
        Ok(())
    }

    /// `SET_LOG_FD`, likewise: an eventfd by which we could say that there is
    /// something new in the log. The frontend looks by itself, so it is not kept.
    pub(crate) fn log_fd(&self) -> Result<()> {
        if self.protocol.contains(VhostUserProtocolFeatures::LOG_SHMFD) {
            return Ok(());
        }
        Err(unsupported("SET_LOG_FD"))
    }

    /// Whether the frontend has acknowledged features yet.
    pub(crate) fn features_acked(&self) -> bool {
        self.features != 0
    }

    fn replace_memory(
        &mut self,
        memory: std::result::Result<GuestMemory, MemoryError>,
    ) -> Result<()> {
        let memory = memory.map_err(refuse)?;
        if let Some(log) = &self.log
            && features::wants_log(self.features)
        {
            log.covers(memory.end()).map_err(refuse)?;
        }
        self.memory = Arc::new(memory);
        self.republish()
    }
}

impl Vring {
    /// The ring as it is to run, or `None` while the frontend has not said enough.
    fn resolve(
        &mut self,
        ring_features: RingFeatures,
        memory: &Arc<GuestMemory>,
        log: Option<&Arc<DirtyLog>>,
        fault: &Arc<DeviceFault>,
        mark: Option<Mark>,
    ) -> std::result::Result<Option<Ring>, RingError> {
        let Some(addresses) = self.addresses else {
            return Ok(None);
        };
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().and_then(|fd| fd.try_clone().ok());
        let packed = ring_features.packed;
        // A frontend that changes its mind about the layout starts a new ring.
        self.state.take_if(|state| state.is_packed() != packed);
        let known = self.state.clone();
        let state = known.unwrap_or_else(|| {
            Arc::new(RingState::new(Position::default(), packed, fault.clone()))
        });
        let mut ring = Ring::resolve(
            self.size,
            addresses,
            ring_features,
            Arc::clone(memory),
            state,
            copy(&self.kick),
            copy(&self.call),
        )?;
        if let Some(log) = log {
            ring.log_to(Arc::clone(log), self.log_address)?;
        }
        if self.state.is_none() {
            ring.restart(self.base, fault, mark);
            let lost = ring.give_back_unfinished();
            if lost > 0 {
                tracing::info!(
                    "{lost} packets were being delivered when ringwayd was killed: they are not \
                     delivered again"
                );
            }
            self.state = Some(Arc::clone(ring.state()));
        }
        Ok(Some(ring))
    }
}

/// Takes a descriptor that PMDs will write to or wait on: it must be an
/// eventfd, since writing to anything else could block a core.
fn eventfd(file: Option<File>, what: &str) -> Result<Option<OwnedFd>> {
    let Some(file) = file else { return Ok(None) };
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(refuse)?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(refuse(format!(
            "the {what} descriptor is {}, not an eventfd",
            link.display()
        )));
    }
    let fd = OwnedFd::from(file);
    let flags = nix::fcntl::OFlag::from_bits_retain(
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFL).map_err(refuse)?,
    );
    nix::fcntl::fcntl(
        &fd,
        nix::fcntl::FcntlArg::F_SETFL(flags | nix::fcntl::OFlag::O_NONBLOCK),
    )
    .map_err(refuse)?;
    Ok(Some(fd))
}

fn region_spec(gpa: u64, size: u64, user_addr: u64, file_offset: u64) -> RegionSpec {
    RegionSpec {
        gpa,
        size,
        user_addr,
        file_offset,
    }
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    /// Deprecated by the specification; older QEMU sends it at a device reset.
    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop();
        self.fault.forgive();
        self.tell_state();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered)
    }

    fn set_features(&mut self, acked: u64) -> Result<()> {
        let unknown = acked & !self.offered;
        if unknown != 0 {
            return Err(refuse(format!(
                "the frontend acknowledged features {unknown:#x} that were not offered"
            )));
        }
        self.features = acked;
        if !features::has_protocol_features(acked) {
            // Without them there is no SET_VRING_ENABLE: rings are born enabled.
            self.vrings
                .iter_mut()
                .for_each(|vring| vring.enabled = true);
        }
        self.republish()
    }

    fn set_mem_table(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<vhost::VhostUserMemoryRegionBase>>> {
        let specs = table.iter().map(|region| {
            region_spec(
                region.guest_phys_addr,
                region.memory_size,
                region.user_addr,
                region.mmap_offset,
            )
        });
        self.added_again.clear();
        self.replace_memory(self.memory.replaced_by(specs.zip(files).collect()))?;
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<vhost::VhostUserMemoryRegionBase>> {
        let spec = region_spec(
            region.guest_phys_addr,
            region.memory_size,
            region.user_addr,
            region.mmap_offset,
        );
        // QEMU before 8 adds each region once for every queue pair.
        if self.memory.has_region(&spec) {
            if self.added_again.len() >= MAX_REGIONS * self.vrings.len() {
                return Err(refuse(
                    "the same memory region was added more often than there are queues",
                ));
            }
            self.added_again
                .push((region.guest_phys_addr, region.memory_size));
            return Ok(None);
        }
        self.replace_memory(self.memory.with_region(spec, file))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let removed = (region.guest_phys_addr, region.memory_size);
        if let Some(at) = self.added_again.iter().position(|added| *added == removed) {
            self.added_again.swap_remove(at);
            return Ok(());
        }
        self.replace_memory(
            self.memory
                .without_region(region.guest_phys_addr, region.memory_size),
        )
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let packed = features::for_ring(self.features).packed;
        let vring = self.vring(index)?;
        checked_size(num, packed).map_err(|error| refuse(format!("virtqueue {index}: {error}")))?;
        vring.size = num;
        self.republish()
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        let vring = self.vring(index)?;
        vring.log_address = logged.then_some(log);
        vring.addresses = Some(RingAddresses {
            descriptor,
            available,
            used,
        });
        self.republish()
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let packed = features::for_ring(self.features).packed;
        let vring = self.vring(index)?;
        if Position::from_base(base, packed).is_none() {
            return Err(refuse(format!(
                "virtqueue {index}: base {base:#x} does not fit a split ring's 16 bits"
            )));
        }
        vring.base = base;
        Ok(())
    }

    /// Stops the ring. The PMDs have let go when the index is read.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let vring = self.vring(index)?;
        vring.started = false;
        vring.kick = None;
        vring.call = None;
        let (state, base) = (vring.state.take(), vring.base);
        self.republish()?;
        let next = match &state {
            None => base,
            Some(state) => state
                .base()
                .ok_or_else(|| refuse("a PMD still holds the ring; this is a bug in ringway"))?,
        };
        self.vring(index)?.base = next;
        self.mark(index as usize).iter().for_each(Mark::clear);
        if self.vrings.iter().all(|vring| !vring.started) {
            // The driver starts anew: what it did before is forgiven.
            self.fault.forgive();
            self.tell_state();
        }
        Ok(VhostUserVringState::new(index, next))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = eventfd(fd, "kick")?;
        let vring = self.vring(index.into())?;
        vring.kick = fd;
        vring.started = true;
        self.republish()
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = eventfd(fd, "call")?;
        self.vring(index.into())?.call = fd;
        self.republish()
    }

    /// Errors are shown, not signalled.
    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.vring(index.into()).map(|_| ())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.vring(index)?.enabled = enable;
        self.republish()
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(features::offered_protocol())
    }

    fn set_protocol_features(&mut self, acked: u64) -> Result<()> {
        let unknown = acked & !features::offered_protocol().bits();
        if unknown != 0 {
            return Err(refuse(format!(
                "the frontend acknowledged protocol features {unknown:#x} that were not offered"
            )));
        }
        self.protocol = VhostUserProtocolFeatures::from_bits_truncate(acked);
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64 / 2)
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(unsupported("GET_CONFIG"))
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(unsupported("SET_CONFIG"))
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(unsupported("GPU_SET_SOCKET"))
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(unsupported("GET_SHARED_OBJECT"))
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(unsupported("GET_INFLIGHT_FD"))
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(unsupported("SET_INFLIGHT_FD"))
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(unsupported("SET_DEVICE_STATE_FD"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(unsupported("CHECK_DEVICE_STATE"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(unsupported("GET_SHMEM_CONFIG"))
    }

    /// Answered after all PMDs note what they write in the new log.
    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let log = DirtyLog::map(file, log.mmap_size, log.mmap_offset).map_err(refuse)?;
        log.covers(self.memory.end()).map_err(refuse)?;
        self.log = Some(Arc::new(log));
        self.republish()
    }
}
