//! Ethernet frames with IPv4 and UDP or TCP, and how flows differ.
//!
//! Port `p` sends from MAC `02:00:00:00:00:p+1` and `198.18.p.x` (the range
//! that RFC 2544 sets aside for benchmarks) to its peer's MAC and
//! `198.18.peer.y`. Flows of a direction differ in `x`, `y` and both
//! ports; [`Tuple::of`] tells them, for whoever writes rules for them.

use std::net::Ipv4Addr;

/// Offset of the IPv4 header.
pub const IP: usize = 14;
/// Offset of the IPv4 checksum; addresses and ports follow it.
pub const IP_CHECKSUM: usize = IP + 10;
/// Offset of the UDP header (source port first).
pub const UDP: usize = IP + 20;
/// Offset of the UDP payload.
pub const PAYLOAD: usize = UDP + 8;

/// Offset of the TCP header.
pub const TCP: usize = UDP;
/// Offset of the TCP checksum.
pub const TCP_CHECKSUM: usize = TCP + 16;
/// Offset of the TCP payload: as Linux does, with time stamps for options.
pub const TCP_PAYLOAD: usize = TCP + 32;
/// Sequence number of every TCP frame; it wraps within a frame of 64 KiB.
pub const TCP_SEQUENCE: u32 = 0xffff_8000;
/// IP protocol number of TCP.
const PROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
const PROTO_UDP: u8 = 17;

/// Lowest source and destination port.
const FIRST_PORTS: (u16, u16) = (1024, 2000);

/// The MAC address of port `port`.
pub fn mac(port: usize) -> [u8; 6] {
    [2, 0, 0, 0, (port >> 8) as u8, port as u8 + 1]
}

/// What tells a flow from others, with its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// IPv4 source address.
    pub nw_src: Ipv4Addr,
    /// IPv4 destination address.
    pub nw_dst: Ipv4Addr,
    /// UDP or TCP source port.
    pub tp_src: u16,
    /// UDP or TCP destination port.
    pub tp_dst: u16,
}

impl Tuple {
    /// Flow `flow` from port `from` to port `to`. All 2^32 differ, and each
    /// field takes many values however few flows there are.
    #[inline]
    pub fn of(from: usize, to: usize, flow: u32) -> Self {
        // Multiplying by an odd number permutes the numbers of 32 bits. The
        // bits are dealt out as 8 of nw_src, 12 of tp_src, 8 of nw_dst and 4
        // of tp_dst.
        let bits = flow.wrapping_mul(0x9e37_79b1);
        Self {
            nw_src: Ipv4Addr::new(198, 18, from as u8, (bits >> 24) as u8),
            nw_dst: Ipv4Addr::new(198, 18, to as u8, (bits >> 4) as u8),
            tp_src: FIRST_PORTS.0 + (bits >> 12 & 0xfff) as u16,
            tp_dst: FIRST_PORTS.1 + (bits & 0xf) as u16,
        }
    }
}

/// What a flow puts into a frame at [`IP_CHECKSUM`]: IPv4 checksum, addresses,
/// ports.
pub type FlowBytes = [u8; 14];

/// Frames of one direction and length.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Vec<u8>,
    /// One's complement sum of the IPv4 header without checksum and addresses.
    base_sum: u32,
    /// Offset of the payload.
    payload: usize,
    from: usize,
    to: usize,
}

impl Template {
    /// A UDP frame of `len` bytes (at least 64, without FCS) from port `from`
    /// to port `to`; the payload is a fixed pattern.
    pub fn new(from: usize, to: usize, len: usize) -> Self {
        let udp_len = (len - UDP) as u16;
        let [high, low] = udp_len.to_be_bytes();
        // Ports are each flow's; no checksum.
        let udp = [0, 0, 0, 0, high, low, 0, 0];
        Self::with(from, to, len, PROTO_UDP, &udp)
    }

    /// A TCP frame of `len` bytes, at most 65,549, likewise. Its checksum is
    /// partial: the sum of the pseudo header.
    pub fn tcp(from: usize, to: usize, len: usize) -> Self {
        let mut tcp = vec![0; 4];
        tcp.extend(TCP_SEQUENCE.to_be_bytes());
        tcp.extend(1_u32.to_be_bytes());
        // Eight words; ACK and PSH; window, checksum, urgent pointer.
        tcp.extend([8 << 4, 0x18, 0x10, 0, 0, 0, 0, 0]);
        // Two fillers and time stamps (RFC 7323).
        tcp.extend([1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 5]);
        Self::with(from, to, len, PROTO_TCP, &tcp)
    }

    fn with(from: usize, to: usize, len: usize, protocol: u8, transport: &[u8]) -> Self {
        let mut frame: Vec<u8> = Vec::with_capacity(len);
        frame.extend(mac(to));
        frame.extend(mac(from));
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0]);
        frame.extend(((len - IP) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol]);
        let base_sum = sum(&frame[IP..]);
        // Checksum and addresses are each flow's.
        frame.extend([0; 10]);
        frame.extend(transport);
        let payload = frame.len();
        frame.resize(len, 0);
        for (position, byte) in frame.iter_mut().enumerate().skip(payload) {
            *byte = position as u8;
        }
        Self {
            frame,
            base_sum,
            payload,
            from,
            to,
        }
    }

    /// Offset of the payload.
    pub fn payload(&self) -> usize {
        self.payload
    }

    /// What flow `flow` puts into the frame.
    #[inline]
    pub fn flow(&self, flow: u32) -> FlowBytes {
        let tuple = Tuple::of(self.from, self.to, flow);
        let mut bytes = FlowBytes::default();
        bytes[2..6].copy_from_slice(&tuple.nw_src.octets());
        bytes[6..10].copy_from_slice(&tuple.nw_dst.octets());
        bytes[10..12].copy_from_slice(&tuple.tp_src.to_be_bytes());
        bytes[12..].copy_from_slice(&tuple.tp_dst.to_be_bytes());
        let checksum = !fold(self.base_sum + sum(&bytes[2..10]));
        bytes[..2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// The TCP checksum of flow `flow`, left partial; `None`: it is UDP.
    #[inline]
    pub fn partial_checksum(&self, flow: u32) -> Option<[u8; 2]> {
        if self.payload != TCP_PAYLOAD {
            return None;
        }
        let addresses = &self.flow(flow)[2..10];
        Some(pseudo_sum(addresses, self.frame.len() - TCP).to_be_bytes())
    }

    /// The whole frame of flow `flow`.
    pub fn frame(&self, flow: u32) -> Vec<u8> {
        let mut frame = self.frame.clone();
        let bytes = self.flow(flow);
        frame[IP_CHECKSUM..IP_CHECKSUM + bytes.len()].copy_from_slice(&bytes);
        if let Some(checksum) = self.partial_checksum(flow) {
            frame[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&checksum);
        }
        frame
    }
}

/// Sum of TCP's pseudo header: both addresses, and `len` bytes of TCP.
#[inline]
pub fn pseudo_sum(addresses: &[u8], len: usize) -> u16 {
    fold(sum(addresses) + u32::from(PROTO_TCP) + len as u32)
}

/// One's complement sum of 16-bit words, not yet folded; of at most 128 KiB.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    // A last odd byte is the upper half of a word.
    let odd = words.remainder().iter().map(|&byte| u32::from(byte) << 8);
    let whole = words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    whole.chain(odd).sum()
}

/// A sum as 16 bits, carries added.
#[inline]
pub fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_frame_has_the_length_asked_for_and_right_headers() {
        for len in [64, 256, 1518] {
            let frame = Template::new(0, 1, len).frame(5);
            assert_eq!(frame.len(), len);
            assert_eq!(frame[..6], mac(1));
            assert_eq!(frame[6..12], mac(0));
            let ip_len = u16::from_be_bytes([frame[16], frame[17]]);
            assert_eq!(usize::from(ip_len), len - 14);
            let udp_len = u16::from_be_bytes([frame[38], frame[39]]);
            assert_eq!(usize::from(udp_len), len - 34);
        }
    }

    #[test]
    fn every_flow_has_a_right_checksum() {
        let template = Template::new(1, 0, 64);
        for flow in [0, 1, 32_767, 32_768, 999_999, u32::MAX] {
            let frame = template.frame(flow);
            // A header with its checksum in it sums to all ones.
            assert_eq!(fold(sum(&frame[IP..UDP])), 0xffff, "flow {flow}");
        }
    }

    #[test]
    fn a_known_header_has_its_known_checksum() {
        // 45 00 00 32 00 00 40 00 40 11 .... c6 12 00 00 c6 12 01 00, summed by hand.
        let frame = Template::new(0, 1, 64).frame(0);
        let words = [
            0x4500_u32, 0x0032, 0, 0x4000, 0x4011, 0xc612, 0x0000, 0xc612, 0x0100,
        ];
        let total: u32 = words.iter().sum();
        let expected = !((total & 0xffff) + (total >> 16)) as u16;
        assert_eq!(frame[24..26], expected.to_be_bytes());
    }

    #[test]
    fn a_frame_carries_its_tuple() {
        let frame = Template::new(0, 1, 64).frame(12_345);
        let tuple = Tuple::of(0, 1, 12_345);
        assert_eq!(frame[26..30], tuple.nw_src.octets());
        assert_eq!(frame[30..34], tuple.nw_dst.octets());
        assert_eq!(frame[34..36], tuple.tp_src.to_be_bytes());
        assert_eq!(frame[36..38], tuple.tp_dst.to_be_bytes());
    }

    #[test]
    fn a_million_flows_are_a_million_five_tuples() {
        let seen: HashSet<Tuple> = (0..1_000_000).map(|flow| Tuple::of(0, 1, flow)).collect();
        assert_eq!(seen.len(), 1_000_000);
    }

    #[test]
    fn a_thousand_flows_vary_every_field() {
        let tuples: Vec<Tuple> = (0..1000).map(|flow| Tuple::of(0, 1, flow)).collect();
        let values =
            |field: fn(&Tuple) -> u32| tuples.iter().map(field).collect::<HashSet<u32>>().len();
        assert!(values(|t| t.nw_src.into()) > 200);
        assert!(values(|t| t.nw_dst.into()) > 200);
        assert!(values(|t| t.tp_src.into()) > 600);
        assert_eq!(values(|t| t.tp_dst.into()), 16);
    }
}
