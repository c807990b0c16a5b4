//! From a connected socket to running rings, in QEMU's order.

use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::VhostUserProtocolFeatures;

use crate::ring::{Ring, RingLayout};
use crate::{Backing, Error, Gpa, GuestMemory, Session, features};

/// What a guest wants.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Wanted virtio features; what is negotiated is `offered & features`.
    /// PROTOCOL_FEATURES is added if offered.
    pub features: u64,
    /// Features without which bring-up fails.
    pub required: u64,
    /// Wanted protocol features; likewise intersected.
    pub protocol: VhostUserProtocolFeatures,
    /// Queue pairs to start; each has a receiveq and a transmitq.
    pub queue_pairs: usize,
    /// Descriptors per ring, a power of two.
    pub ring_size: u16,
    /// Guest memory made when none is given: size in bytes and backing.
    pub memory_size: u64,
    /// See `memory_size`.
    pub backing: Backing,
    /// First available index of every ring (65,530 tests the wrap); of packed
    /// ones the first slot, modulo their size.
    pub base: u16,
    /// Have every request answered, when the backend can.
    pub answers: bool,
    /// Enable the rings at the end.
    pub enable: bool,
}

impl Default for SessionConfig {
    fn default() -> Self {
        use VhostUserProtocolFeatures as P;
        Self {
            features: features::VERSION_1
                | features::ANY_LAYOUT
                | features::MRG_RXBUF
                | features::INDIRECT_DESC
                | features::EVENT_IDX,
            required: features::VERSION_1,
            protocol: P::MQ
                | P::REPLY_ACK
                | P::CONFIGURE_MEM_SLOTS
                | P::RESET_DEVICE
                | P::LOG_SHMFD
                | P::RARP,
            queue_pairs: 1,
            ring_size: 256,
            memory_size: 16 << 20,
            backing: Backing::Shared,
            base: 0,
            answers: true,
            enable: true,
        }
    }
}

/// A guest whose rings run.
pub struct Guest {
    /// The connection; dropping it ends the session.
    pub session: Session,
    /// The guest's memory.
    pub memory: Arc<GuestMemory>,
    /// Negotiated virtio features.
    pub features: u64,
    /// Negotiated protocol features.
    pub protocol: VhostUserProtocolFeatures,
    /// The rings: receiveq 0, transmitq 0, receiveq 1, …
    pub rings: Vec<Ring>,
    /// First guest-physical address that the rings leave free.
    pub free_gpa: Gpa,
}

impl Session {
    /// Brings a guest up with memory of its own.
    pub fn bring_up(self, config: &SessionConfig) -> Result<Guest, Error> {
        let memory = GuestMemory::single(config.memory_size, config.backing)?;
        self.bring_up_with(config, Arc::new(memory), 0x1000)
    }

    /// Brings a guest up in `memory`, with its rings from `ring_gpa` on.
    pub fn bring_up_with(
        mut self,
        config: &SessionConfig,
        memory: Arc<GuestMemory>,
        ring_gpa: Gpa,
    ) -> Result<Guest, Error> {
        let (layouts, free_gpa) = lay_out_rings(config, &memory, ring_gpa)?;
        let (features, protocol) = self.negotiate(config)?;
        let mut rings = Vec::new();
        for layout in layouts {
            let (packed, event_idx) = layout_features(features);
            let (memory, base) = (memory.clone(), config.base);
            rings.push(Ring::new(memory, layout, packed, event_idx, base)?);
        }
        // QEMU hands over call descriptors once before anything else …
        for (queue, ring) in rings.iter().enumerate() {
            self.set_vring_call(queue, ring.call_fd())?;
        }
        // … and the rest when the driver sets DRIVER_OK.
        self.set_features(features)?;
        self.set_mem_table(&memory)?;
        for (queue, ring) in rings.iter().enumerate() {
            self.start_ring(queue, ring, ring.base())?;
        }
        if config.enable && features & features::PROTOCOL_FEATURES != 0 {
            for queue in 0..rings.len() {
                self.set_vring_enable(queue, true)?;
            }
        }
        Ok(Guest {
            session: self,
            memory,
            features,
            protocol,
            rings,
            free_gpa,
        })
    }

    /// Features, protocol features, queue count, owner; nothing is set yet
    /// but the protocol features. Returns what both sides can.
    pub fn negotiate(
        &mut self,
        config: &SessionConfig,
    ) -> Result<(u64, VhostUserProtocolFeatures), Error> {
        let offered = self.get_features()?;
        let missing = config.required & !offered;
        if missing != 0 {
            return Err(Error::MissingFeatures { missing, offered });
        }
        let features = offered & (config.features | features::PROTOCOL_FEATURES);
        let mut protocol = VhostUserProtocolFeatures::empty();
        if features & features::PROTOCOL_FEATURES != 0 {
            protocol = self.get_protocol_features()? & config.protocol;
            self.set_protocol_features(protocol)?;
            if protocol.contains(VhostUserProtocolFeatures::MQ) {
                self.get_queue_num()?;
            }
        }
        if config.answers && protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            self.want_answers(true);
        }
        self.set_owner()?;
        Ok((features, protocol))
    }

    /// NUM, BASE, ADDR, KICK, CALL of one ring.
    pub fn start_ring(&self, queue: usize, ring: &Ring, base: u16) -> Result<(), Error> {
        let layout = ring.layout();
        self.set_vring_num(queue, layout.size)?;
        self.set_vring_base(queue, base)?;
        self.set_vring_addr(queue, ring.memory(), layout)?;
        self.set_vring_kick(queue, ring.kick_fd())?;
        self.set_vring_call(queue, ring.call_fd())
    }
}

impl Guest {
    /// Disables and stops every ring as a guest's driver unload does; returns
    /// the next available index that the backend reports per ring.
    pub fn stop(&mut self) -> Result<Vec<u32>, Error> {
        let mut bases = Vec::new();
        for queue in 0..self.rings.len() {
            if self.features & features::PROTOCOL_FEATURES != 0 {
                self.session.set_vring_enable(queue, false)?;
            }
            bases.push(self.session.get_vring_base(queue)?);
        }
        Ok(bases)
    }

    /// Starts every ring anew after [`Guest::stop`], empty and from index
    /// `base` on, as a guest's driver does when it is loaded again.
    pub fn start_again(&mut self, base: u16) -> Result<(), Error> {
        let (packed, event_idx) = layout_features(self.features);
        for queue in 0..self.rings.len() {
            let layout = *self.rings[queue].layout();
            let ring = Ring::new(self.memory.clone(), layout, packed, event_idx, base)?;
            self.session.start_ring(queue, &ring, ring.base())?;
            self.rings[queue] = ring;
            if self.features & features::PROTOCOL_FEATURES != 0 {
                self.session.set_vring_enable(queue, true)?;
            }
        }
        Ok(())
    }

    /// Goes on with its rings over a new connection, as QEMU does when the backend
    /// was killed: nobody can say where it stood (see [`Ring::base_after_crash`]).
    /// Fails if the backend offers less than before.
    pub fn reconnect(&mut self, mut session: Session, config: &SessionConfig) -> Result<(), Error> {
        let wanted = SessionConfig {
            features: self.features,
            required: self.features,
            protocol: self.protocol,
            ..config.clone()
        };
        let (features, _) = session.negotiate(&wanted)?;
        for (queue, ring) in self.rings.iter().enumerate() {
            session.set_vring_call(queue, ring.call_fd())?;
        }
        session.set_features(features)?;
        session.set_mem_table(&self.memory)?;
        for (queue, ring) in self.rings.iter().enumerate() {
            session.start_ring(queue, ring, ring.base_after_crash())?;
        }
        if features & features::PROTOCOL_FEATURES != 0 {
            for queue in 0..self.rings.len() {
                session.set_vring_enable(queue, true)?;
            }
        }
        self.session = session;
        Ok(())
    }

    /// Waits until the call descriptor of `queue` is signalled; false on timeout.
    pub fn wait_call(&self, queue: usize, timeout: Duration) -> bool {
        self.rings[queue].wait_call(timeout)
    }
}

/// Packed rings, and EVENT_IDX.
fn layout_features(features: u64) -> (bool, bool) {
    let has = |bit| features & bit != 0;
    (has(features::RING_PACKED), has(features::EVENT_IDX))
}

fn lay_out_rings(
    config: &SessionConfig,
    memory: &GuestMemory,
    ring_gpa: Gpa,
) -> Result<(Vec<RingLayout>, Gpa), Error> {
    let mut layouts = Vec::new();
    let mut gpa = ring_gpa;
    for _ in 0..config.queue_pairs * 2 {
        let layout = RingLayout::at(gpa, config.ring_size);
        gpa = layout.end().next_multiple_of(0x1000);
        layouts.push(layout);
    }
    let need = gpa - ring_gpa;
    if !memory.contains(ring_gpa, need as usize) {
        return Err(Error::NoRoom {
            gpa: ring_gpa,
            need,
        });
    }
    Ok((layouts, gpa))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_follow_each_other_without_overlap() {
        let config = SessionConfig {
            queue_pairs: 2,
            ring_size: 1024,
            ..SessionConfig::default()
        };
        let memory = GuestMemory::single(1 << 20, Backing::Shared).unwrap();
        let (layouts, end) = lay_out_rings(&config, &memory, 0x1000).unwrap();
        assert_eq!(layouts.len(), 4);
        for pair in layouts.windows(2) {
            assert!(pair[0].end() <= pair[1].desc);
        }
        assert!(layouts[3].end() <= end);
    }

    #[test]
    fn too_little_memory_is_said() {
        let config = SessionConfig::default();
        let memory = GuestMemory::single(0x2000, Backing::Shared).unwrap();
        let error = lay_out_rings(&config, &memory, 0x1000).unwrap_err();
        assert!(matches!(error, Error::NoRoom { gpa: 0x1000, .. }));
    }
}
