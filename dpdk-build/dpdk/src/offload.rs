//! What a device does to packets while it sends them: checksums and TCP
//! segmentation.

use std::fmt;

/// What a device can do to packets that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffloads {
    /// Completes IPv4 header checksums.
    pub ipv4_cksum: bool,
    /// Completes TCP checksums, over IPv4 and IPv6.
    pub tcp_cksum: bool,
    /// Completes UDP checksums, over IPv4 and IPv6.
    pub udp_cksum: bool,
    /// Cuts large TCP packets into segments, over IPv4 and IPv6.
    pub tcp_tso: bool,
    /// Takes packets in chains of several buffers.
    pub multi_segs: bool,
    /// The most buffers of one packet; 1 without `multi_segs`.
    pub max_segs: u16,
}

impl TxOffloads {
    pub(crate) fn from_raw(raw: &dpdk_sys::rw_port_info) -> TxOffloads {
        TxOffloads {
            ipv4_cksum: raw.tx_ipv4_cksum,
            tcp_cksum: raw.tx_tcp_cksum,
            udp_cksum: raw.tx_udp_cksum,
            tcp_tso: raw.tx_tcp_tso,
            multi_segs: raw.tx_multi_segs,
            max_segs: if raw.tx_multi_segs {
                raw.tx_max_segs
            } else {
                1
            },
        }
    }
}

impl fmt::Display for TxOffloads {
    /// `ip-cksum tcp-cksum udp-cksum tso multi-segs`, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = [
            (self.ipv4_cksum, "ip-cksum"),
            (self.tcp_cksum, "tcp-cksum"),
            (self.udp_cksum, "udp-cksum"),
            (self.tcp_tso, "tso"),
            (self.multi_segs, "multi-segs"),
        ]
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
        .collect();
        if names.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&names.join(" "))
    }
}

/// What is asked for one packet. Its headers lie in its first buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxOffload {
    /// Bytes in front of the IP header: Ethernet and VLAN tags, at most 127.
    pub l2_len: usize,
    /// Bytes of the IP header with its options or extension headers, at most 511.
    pub l3_len: usize,
    /// Which IP it is.
    pub network: Network,
    /// What is to be done.
    pub transport: Transport,
}

/// The network layer of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What the device is to do to the transport layer of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Complete the TCP checksum.
    TcpChecksum,
    /// Complete the UDP checksum.
    UdpChecksum,
    /// Cut the packet into TCP segments, each with whole checksums (that of
    /// IPv4 too).
    TcpSegments {
        /// Bytes of the TCP header with its options, at most 255.
        header_len: usize,
        /// Bytes of payload in each segment but the last.
        segment_len: u16,
    },
}

impl TxOffload {
    /// The words `ol_flags` and `tx_offload` of the packet's first buffer;
    /// `None` when a length has too many bits.
    #[inline]
    pub(crate) fn words(&self) -> Option<(u64, u64)> {
        let network = match self.network {
            Network::Ipv4 => dpdk_sys::RW_TX_IPV4,
            Network::Ipv6 => dpdk_sys::RW_TX_IPV6,
        };
        let (transport, l4_len, segment) = match self.transport {
            Transport::TcpChecksum => (dpdk_sys::RW_TX_TCP_CKSUM, 0, 0),
            Transport::UdpChecksum => (dpdk_sys::RW_TX_UDP_CKSUM, 0, 0),
            Transport::TcpSegments {
                header_len,
                segment_len,
            } => {
                let ip = match self.network {
                    Network::Ipv4 => dpdk_sys::RW_TX_IP_CKSUM,
                    Network::Ipv6 => 0,
                };
                let flags = dpdk_sys::RW_TX_TCP_SEG | dpdk_sys::RW_TX_TCP_CKSUM | ip;
                (flags, header_len, usize::from(segment_len))
            }
        };
        let lengths = field(
            self.l2_len,
            dpdk_sys::RW_L2_LEN_SHIFT,
            dpdk_sys::RW_L2_LEN_BITS,
        )? | field(
            self.l3_len,
            dpdk_sys::RW_L3_LEN_SHIFT,
            dpdk_sys::RW_L3_LEN_BITS,
        )? | field(l4_len, dpdk_sys::RW_L4_LEN_SHIFT, dpdk_sys::RW_L4_LEN_BITS)?
            | field(
                segment,
                dpdk_sys::RW_TSO_SEGSZ_SHIFT,
                dpdk_sys::RW_TSO_SEGSZ_BITS,
            )?;
        Some((network | transport, lengths))
    }
}

/// `value` in its place in the word, if it fits there.
#[inline]
fn field(value: usize, shift: u32, bits: u32) -> Option<u64> {
    let value = value as u64;
    (value >> bits == 0).then_some(value << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let mut offload = TxOffload {
            l2_len: 127,
            l3_len: 511,
            network: Network::Ipv6,
            transport: Transport::TcpSegments {
                header_len: 255,
                segment_len: u16::MAX,
            },
        };
        let (flags, lengths) = offload.words().unwrap();
        assert_eq!(lengths.count_ones(), 7 + 9 + 8 + 16);
        assert_eq!(flags & dpdk_sys::RW_TX_IP_CKSUM, 0, "IPv6 has none");
        offload.l3_len = 512;
        assert_eq!(offload.words(), None);
        offload = TxOffload {
            l2_len: 128,
            l3_len: 20,
            ..offload
        };
        assert_eq!(offload.words(), None);
    }

    #[test]
    fn capabilities_have_names() {
        let mut offloads = TxOffloads::default();
        assert_eq!(offloads.to_string(), "none");
        offloads.tcp_cksum = true;
        offloads.tcp_tso = true;
        assert_eq!(offloads.to_string(), "tcp-cksum tso");
    }
}
