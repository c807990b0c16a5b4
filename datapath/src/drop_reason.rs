//! Every way a packet can end other than on a port's wire.

macro_rules! drop_reasons {
    ($(#[doc = $doc:literal] $variant:ident => $name:literal,)*) => {
        /// Why a packet was dropped. Each reason has a counter per PMD, port
        /// and queue; in = out + drops holds over all of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $doc] $variant,)* }

        impl DropReason {
            /// All reasons, in counter order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name shown to users and used as a metric label.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// One sentence for people: what happened.
            pub const fn explain(self) -> &'static str {
                match self { $(DropReason::$variant => $doc,)* }
            }
        }
    };
}

drop_reasons! {
    // dequeue: the guest handed over something that is no packet.
    /// the guest's chain ends before the virtio-net header and an Ethernet header are complete
    FrameTooShort => "frame_too_short",
    /// the frame is longer than any port may carry
    FrameTooLong => "frame_too_long",
    /// the chain has more descriptors than one packet may use
    ChainTooLong => "chain_too_long",
    /// the virtio-net header asks for an offload that was not negotiated or makes no sense
    BadOffload => "bad_offload",
    /// the guest broke the ring's rules; its port is quarantined
    GuestFault => "guest_fault",
    /// the memory that the packet lay in went away: its frontend truncated the file, and that port is quarantined
    MemoryLost => "memory_lost",

    // guard: the port's options say so.
    /// its source MAC, or one that it gives as its sender's by ARP or neighbour discovery, is not among the port's allowed_macs
    SpoofedMac => "spoofed_mac",
    /// its VLAN is not among the port's allowed_vlans
    SpoofedVlan => "spoofed_vlan",
    /// the IP address that it comes from, or that it gives as its sender's by ARP or neighbour discovery, is not among the port's allowed_ips, or cannot be told
    SpoofedIp => "spoofed_ip",
    /// its port sends more than ingress_policing_rate or ingress_policing_kpkts_rate allows
    IngressPoliced => "ingress_policed",
    /// it was for many, and its port sends more of these than storm_pps allows
    StormPoliced => "storm_policed",
    /// it comes from a station beyond the port's max_macs
    FdbLimit => "fdb_limit",
    /// it comes from a station that was heard on another port, whose stations do not move (mac_move=deny)
    MacMoveDenied => "mac_move_denied",

    // lookup: the bridge decided so.
    /// the destination was learned on the port that the frame came from
    SameIngress => "same_ingress",
    /// a link-local group address (01:80:C2:00:00:0x) that bridges must not forward (IEEE 802.1Q 8.6.3)
    ReservedMulticast => "reserved_multicast",
    /// no other port on the bridge could take the frame
    NoDestination => "no_destination",
    /// the frame's VLAN is not one that its ingress port takes, or its tag is cut off
    VlanNotAllowed => "vlan_not_allowed",
    /// no other port that NORMAL could send the frame to carries its VLAN
    VlanNotCarried => "vlan_not_carried",
    /// no flow matched
    NoFlow => "no_flow",
    /// a flow says so: `drop`, or actions that send the packet nowhere
    FlowDrop => "flow_drop",
    /// the flows resubmit deeper than 64 or more often than 4,096 times
    ResubmitLimit => "resubmit_limit",
    /// `dec_ttl` met a TTL of 0 or 1
    TtlExpired => "ttl_expired",
    /// the flows' actions come to more steps than a megaflow can hold
    TooManyActions => "too_many_actions",
    /// no bucket of the group is live
    NoLiveBucket => "no_live_bucket",
    /// a flow uses a group that is not there
    NoGroup => "no_group",
    /// a flow uses a meter that is not there
    NoMeter => "no_meter",
    /// the packet was beyond its meter's rate
    MeterExceeded => "meter_exceeded",
    /// its flow was not known, and new flows had used up their share of the core's time
    UpcallLimit => "upcall_limit",
    /// it was for controllers only, and they have it
    ToController => "to_controller",
    /// it was for controllers only, and they did not take the last ones in time
    ControllerQueueFull => "controller_queue_full",

    /// more rewritten copies of a burst wait behind patch ports than a core has room for
    NoRoomForCopy => "no_room_for_copy",
    /// it crossed more patch ports, or in more copies, than one burst may: bridges joined in a loop
    PatchTooDeep => "patch_too_deep",

    // tx: the destination could not take it.
    /// the guest gave no receive buffers in time
    RingFull => "ring_full",
    /// the guest's receive buffer is smaller than the frame and buffers are not mergeable
    BufferTooSmall => "buffer_too_small",
    /// the destination's receive ring is not running
    RingStopped => "ring_stopped",
    /// another core kept the destination's ring for too long
    RingContended => "ring_contended",
    /// the destination ring was broken by its guest; its port is quarantined
    DestinationFault => "destination_fault",
    /// the NIC's transmit queue was full
    NicQueueFull => "nic_queue_full",
    /// the device's link is down
    LinkDown => "link_down",
    /// no mbuf was free for the copy towards a NIC
    NoMbuf => "no_mbuf",
    /// the frame is longer than the destination's MTU allows
    ExceedsMtu => "exceeds_mtu",
    /// the interface that the frame was for is down or gone
    HostLinkDown => "host_link_down",
    /// the interface's transmit queue in the kernel was full
    HostQueueFull => "host_queue_full",
    /// the kernel refused the frame: it is longer than the interface's MTU, or its headers make no sense
    HostRefused => "host_refused",
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_every_reason_is_explained() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(!reason.explain().trim().is_empty());
        }
    }
}
