//! What ringway offers to a guest: only what works.

use vhost::vhost_user::VhostUserProtocolFeatures;
use virtio_bindings::virtio_config::{
    VIRTIO_F_ANY_LAYOUT, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::gso::GsoKinds;
use crate::ring::RingFeatures;

/// Bit 30: the frontend and we speak of protocol features (vhost-user).
const PROTOCOL_FEATURES: u32 = 30;

/// Bit 26: pages that we write to are to be noted (vhost's `VHOST_F_LOG_ALL`).
const LOG_ALL: u32 = 26;

/// Feature bits with the names shown to users.
const NAMES: &[(u32, &str)] = &[
    (VIRTIO_NET_F_CSUM, "CSUM"),
    (VIRTIO_NET_F_GUEST_CSUM, "GUEST_CSUM"),
    // Frames of up to 64 KiB, to be cut by whoever cannot take them whole.
    (VIRTIO_NET_F_GUEST_TSO4, "GUEST_TSO4"),
    (VIRTIO_NET_F_GUEST_TSO6, "GUEST_TSO6"),
    (VIRTIO_NET_F_GUEST_ECN, "GUEST_ECN"),
    (VIRTIO_NET_F_GUEST_UFO, "GUEST_UFO"),
    (VIRTIO_NET_F_GUEST_USO4, "GUEST_USO4"),
    (VIRTIO_NET_F_GUEST_USO6, "GUEST_USO6"),
    (VIRTIO_NET_F_HOST_TSO4, "HOST_TSO4"),
    (VIRTIO_NET_F_HOST_TSO6, "HOST_TSO6"),
    (VIRTIO_NET_F_HOST_ECN, "HOST_ECN"),
    (VIRTIO_NET_F_HOST_UFO, "HOST_UFO"),
    (VIRTIO_NET_F_HOST_USO, "HOST_USO"),
    (VIRTIO_NET_F_MRG_RXBUF, "MRG_RXBUF"),
    (VIRTIO_NET_F_MQ, "MQ"),
    (VIRTIO_F_ANY_LAYOUT, "ANY_LAYOUT"),
    (VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC"),
    (VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX"),
    (PROTOCOL_FEATURES, "PROTOCOL_FEATURES"),
    // The guest announces itself where it was moved to.
    (VIRTIO_NET_F_GUEST_ANNOUNCE, "GUEST_ANNOUNCE"),
    (LOG_ALL, "LOG_ALL"),
    (VIRTIO_F_VERSION_1, "VERSION_1"),
    (VIRTIO_F_RING_PACKED, "RING_PACKED"),
    // Every chain is returned in the order it was made available, on any ring.
    (VIRTIO_F_IN_ORDER, "IN_ORDER"),
];

/// The virtio features offered (`GET_FEATURES`).
pub const OFFERED: u64 = {
    let mut bits = 0;
    let mut i = 0;
    while i < NAMES.len() {
        bits |= 1 << NAMES[i].0;
        i += 1;
    }
    bits
};

/// The protocol features offered (`GET_PROTOCOL_FEATURES`).
pub fn offered_protocol() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::RARP
}

/// Whether the frontend acknowledged protocol features.
pub fn has_protocol_features(acked: u64) -> bool {
    acked & (1 << PROTOCOL_FEATURES) != 0
}

/// Whether what we write is to be noted in the log.
pub fn wants_log(acked: u64) -> bool {
    acked & (1 << LOG_ALL) != 0
}

/// What a ring needs to know of the acknowledged features.
pub fn for_ring(acked: u64) -> RingFeatures {
    let has = |bit: u32| acked & (1 << bit) != 0;
    // A feature that needs another means nothing without it (VirtIO 1.2, 5.1.3.1).
    let kinds = |needed: u32, bits: &[(u32, GsoKinds)]| {
        bits.iter()
            .filter(|(bit, _)| has(needed) && has(*bit))
            .fold(GsoKinds::NONE, |all, (_, kind)| all | *kind)
    };
    RingFeatures {
        packed: has(VIRTIO_F_RING_PACKED),
        indirect: has(VIRTIO_RING_F_INDIRECT_DESC),
        event_idx: has(VIRTIO_RING_F_EVENT_IDX),
        mergeable: has(VIRTIO_NET_F_MRG_RXBUF),
        long_header: has(VIRTIO_F_VERSION_1) || has(VIRTIO_NET_F_MRG_RXBUF),
        csum: has(VIRTIO_NET_F_CSUM),
        guest_csum: has(VIRTIO_NET_F_GUEST_CSUM),
        host_gso: kinds(
            VIRTIO_NET_F_CSUM,
            &[
                (VIRTIO_NET_F_HOST_TSO4, GsoKinds::TCP4),
                (VIRTIO_NET_F_HOST_TSO6, GsoKinds::TCP6),
                (VIRTIO_NET_F_HOST_ECN, GsoKinds::ECN),
                (VIRTIO_NET_F_HOST_UFO, GsoKinds::UFO),
                (VIRTIO_NET_F_HOST_USO, GsoKinds::USO4 | GsoKinds::USO6),
            ],
        ),
        guest_gso: kinds(
            VIRTIO_NET_F_GUEST_CSUM,
            &[
                (VIRTIO_NET_F_GUEST_TSO4, GsoKinds::TCP4),
                (VIRTIO_NET_F_GUEST_TSO6, GsoKinds::TCP6),
                (VIRTIO_NET_F_GUEST_ECN, GsoKinds::ECN),
                (VIRTIO_NET_F_GUEST_UFO, GsoKinds::UFO),
                (VIRTIO_NET_F_GUEST_USO4, GsoKinds::USO4),
                (VIRTIO_NET_F_GUEST_USO6, GsoKinds::USO6),
            ],
        ),
    }
}

/// Names of feature bits, for people.
pub fn names(bits: u64) -> String {
    NAMES
        .iter()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_bit_has_a_name() {
        assert_eq!(
            names(OFFERED).split(' ').count() as u32,
            OFFERED.count_ones()
        );
        assert_eq!(names(0), "");
    }

    #[test]
    fn oversized_frames_need_partial_checksums_by_direction() {
        let host = 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_USO;
        let guest = 1 << VIRTIO_NET_F_GUEST_TSO6 | 1 << VIRTIO_NET_F_GUEST_ECN;
        let csum = 1 << VIRTIO_NET_F_CSUM;
        let guest_csum = 1 << VIRTIO_NET_F_GUEST_CSUM;
        let gso = |acked| (for_ring(acked).host_gso, for_ring(acked).guest_gso);
        assert_eq!(gso(host | guest), (GsoKinds::NONE, GsoKinds::NONE));
        let uso = GsoKinds::USO4 | GsoKinds::USO6;
        assert_eq!(gso(host | csum), (GsoKinds::TCP4 | uso, GsoKinds::NONE));
        let tcp6 = GsoKinds::TCP6 | GsoKinds::ECN;
        assert_eq!(gso(guest | guest_csum), (GsoKinds::NONE, tcp6));
        assert_eq!(gso(OFFERED), (GsoKinds::ALL, GsoKinds::ALL));
    }

    #[test]
    fn legacy_guests_have_the_short_header() {
        assert_eq!(for_ring(0).header_bytes(), 10);
        assert_eq!(for_ring(1 << VIRTIO_NET_F_MRG_RXBUF).header_bytes(), 12);
        assert_eq!(for_ring(1 << VIRTIO_F_VERSION_1).header_bytes(), 12);
    }
}
