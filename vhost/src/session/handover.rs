//! A frontend's session as another process takes it over.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vhost::vhost_user::VhostUserProtocolFeatures;

use super::{Device, DeviceRings, Vring, eventfd};
use crate::dirty::DirtyLog;
use crate::features;
use crate::handover::{Descriptors, HandoverError};
use crate::mark::Mark;
use crate::memory::RegionSpec;
use crate::ring::{Position, RingAddresses, RingState};

/// All that the frontend has said. Fields may be added; what an older process
/// does not tell has the value of a session that has just begun.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SessionForm {
    features: u64,
    protocol: u64,
    regions: Vec<RegionForm>,
    added_again: Vec<(u64, u64)>,
    /// While the guest is moved to another host.
    log: Option<LogForm>,
    vrings: Vec<VringForm>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct RegionForm {
    gpa: u64,
    size: u64,
    user_addr: u64,
    file_offset: u64,
    /// Place of its file's descriptor.
    file: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct LogForm {
    size: u64,
    file_offset: u64,
    /// Place of its file's descriptor.
    file: u32,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct VringForm {
    size: u32,
    /// Descriptor table, available ring, used ring.
    addresses: Option<[u64; 3]>,
    log_address: Option<u64>,
    kick: Option<u32>,
    call: Option<u32>,
    started: bool,
    enabled: bool,
    base: u32,
    /// It has run: where it stands is told when the poll-mode cores have let go.
    runs: bool,
}

impl SessionForm {
    /// Rings stand where their used index, or their descriptors' flags, say.
    pub(crate) fn forget_positions(&mut self) {
        self.vrings.iter_mut().for_each(|vring| vring.runs = false);
    }

    /// What the frontend has acknowledged: virtio and protocol features.
    pub(crate) fn acknowledged(&self) -> (u64, u64) {
        (self.features, self.protocol)
    }
}

impl Device {
    /// What the frontend has said so far, with its descriptors.
    pub(crate) fn export(
        &self,
        descriptors: &mut Descriptors,
    ) -> Result<SessionForm, HandoverError> {
        let mut regions = Vec::new();
        for (spec, file) in self.memory.files() {
            let RegionSpec {
                gpa,
                size,
                user_addr,
                file_offset,
            } = spec;
            regions.push(RegionForm {
                gpa,
                size,
                user_addr,
                file_offset,
                file: descriptors.give(file)?,
            });
        }
        let log = self.log.as_ref().and_then(|log| log.source());
        let log = log
            .map(|(file, size, file_offset)| -> Result<_, HandoverError> {
                let file = descriptors.give(file)?;
                Ok(LogForm {
                    size,
                    file_offset,
                    file,
                })
            })
            .transpose()?;
        let mut vrings = Vec::new();
        for vring in &self.vrings {
            let mut give = |fd: &Option<OwnedFd>| -> Result<_, HandoverError> {
                fd.as_ref().map(|fd| descriptors.give(fd)).transpose()
            };
            vrings.push(VringForm {
                size: vring.size,
                addresses: vring
                    .addresses
                    .map(|at| [at.descriptor, at.available, at.used]),
                log_address: vring.log_address,
                kick: give(&vring.kick)?,
                call: give(&vring.call)?,
                started: vring.started,
                enabled: vring.enabled,
                base: vring.base,
                runs: vring.state.is_some(),
            });
        }
        Ok(SessionForm {
            features: self.features,
            protocol: self.protocol.bits(),
            regions,
            added_again: self.added_again.clone(),
            log,
            vrings,
        })
    }

    /// Takes over what the frontend has said to another process. The rings are
    /// resolved and not published: [`Device::adopted_rings`].
    pub(crate) fn restore(
        &mut self,
        form: SessionForm,
        descriptors: &mut Descriptors,
    ) -> Result<(), HandoverError> {
        if form.vrings.len() != self.vrings.len() {
            return Err(HandoverError::Unfit(format!(
                "the session has {} virtqueues, the port {}",
                form.vrings.len(),
                self.vrings.len()
            )));
        }
        let unfit = |error: &dyn std::fmt::Display| HandoverError::Unfit(error.to_string());
        let mut table = Vec::new();
        for region in form.regions {
            let spec = RegionSpec {
                gpa: region.gpa,
                size: region.size,
                user_addr: region.user_addr,
                file_offset: region.file_offset,
            };
            table.push((spec, File::from(descriptors.take(region.file)?)));
        }
        self.memory = Arc::new(
            self.memory
                .replaced_by(table)
                .map_err(|error| unfit(&error))?,
        );
        self.features = form.features;
        self.protocol = VhostUserProtocolFeatures::from_bits_truncate(form.protocol);
        self.added_again = form.added_again;
        if let Some(log) = form.log {
            let file = File::from(descriptors.take(log.file)?);
            let log =
                DirtyLog::map(file, log.size, log.file_offset).map_err(|error| unfit(&error))?;
            log.covers(self.memory.end())
                .map_err(|error| unfit(&error))?;
            self.log = Some(Arc::new(log));
        }
        let packed = features::for_ring(self.features).packed;
        for (index, form) in form.vrings.into_iter().enumerate() {
            let mark = Mark::of_transmit_ring(self.marks.as_ref(), index);
            let mut take = |place: Option<u32>, what| -> Result<_, HandoverError> {
                let file = place.map(|place| descriptors.take(place)).transpose()?;
                eventfd(file.map(File::from), what).map_err(|error| unfit(&error))
            };
            let base = Position::from_base(form.base, packed)
                .ok_or_else(|| unfit(&format!("base {:#x} of a split ring", form.base)))?;
            self.vrings[index] = Vring {
                size: form.size,
                addresses: (form.addresses).map(|[descriptor, available, used]| RingAddresses {
                    descriptor,
                    available,
                    used,
                }),
                log_address: form.log_address,
                kick: take(form.kick, "kick")?,
                call: take(form.call, "call")?,
                started: form.started,
                enabled: form.enabled,
                // One that has run goes on where the poll-mode cores of the other
                // process stop, which comes later.
                state: form
                    .runs
                    .then(|| RingState::new(base, packed, Arc::clone(&self.fault)).noting(mark))
                    .map(Arc::new),
                base: form.base,
            };
        }
        self.published = Arc::new(self.resolve().map_err(|why| unfit(&why))?);
        Ok(())
    }

    /// The rings of a session that was taken over, for the port's first plan.
    pub(crate) fn adopted_rings(&self) -> Arc<DeviceRings> {
        Arc::clone(&self.published)
    }

    /// Where each ring that has run stands, as its base. The poll-mode cores must have
    /// let go; `None` where one has not.
    pub(crate) fn positions(&self) -> Vec<Option<u32>> {
        self.vrings
            .iter()
            .map(|vring| vring.state.as_ref()?.base())
            .collect()
    }

    /// Lets each ring go on where it stood in the other process.
    pub(crate) fn set_positions(&mut self, positions: &[Option<u32>]) {
        let pairs = self.published.pairs.iter();
        let rings = pairs.flat_map(|pair| [&pair.enqueue, &pair.dequeue]);
        for ((vring, ring), position) in self.vrings.iter().zip(rings).zip(positions) {
            if let (Some(state), Some(position)) = (&vring.state, position) {
                // Of one that is not enabled it is not known.
                let has_long_chains = match ring {
                    Some(ring) => ring.has_long_chains(),
                    None => state.is_packed(),
                };
                state.move_to(*position, has_long_chains);
            }
        }
    }

    /// The poll-mode cores begin: kicks are not wanted, and `show` tells.
    pub(crate) fn begin_adopted(&self) {
        self.published.refuse_kicks();
        self.tell_state();
    }
}
