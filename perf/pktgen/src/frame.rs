//! Ethernet frames with IPv4 and UDP, and how flows differ.
//!
//! Port `p` sends from MAC `02:00:00:00:00:p+1` and `198.18.p.x` (the range
//! that RFC 2544 sets aside for benchmarks) to its peer's MAC. Flows of a
//! direction differ in UDP source port first and in the last byte of the
//! source address then.

/// Offset of the IPv4 header.
pub const IP: usize = 14;
/// Offset of the IPv4 checksum; the source address follows it.
pub const IP_CHECKSUM: usize = IP + 10;
/// Offset of the UDP header (source port first).
pub const UDP: usize = IP + 20;
/// Offset of the UDP payload.
pub const PAYLOAD: usize = UDP + 8;

const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 32768;

/// The MAC address of port `port`.
pub fn mac(port: usize) -> [u8; 6] {
    [2, 0, 0, 0, (port >> 8) as u8, port as u8 + 1]
}

/// The bytes that flow `flow` of a direction varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowFields {
    /// IPv4 checksum and source address, at [`IP_CHECKSUM`].
    pub checksum_and_source: [u8; 6],
    /// UDP source port, at [`UDP`].
    pub source_port: [u8; 2],
}

/// Frames of one direction and length.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Vec<u8>,
    /// One's complement sum of the IPv4 header without checksum and source.
    base_sum: u32,
    source: [u8; 3],
}

impl Template {
    /// A frame of `len` bytes (at least 64, without FCS) from port `from` to
    /// port `to`; the payload is a fixed pattern.
    pub fn new(from: usize, to: usize, len: usize) -> Self {
        let mut frame: Vec<u8> = Vec::with_capacity(len);
        frame.extend(mac(to));
        frame.extend(mac(from));
        frame.extend([0x08, 0x00]);
        let ip_len = (len - IP) as u16;
        frame.extend([0x45, 0]);
        frame.extend(ip_len.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        let source = [198, 18, from as u8];
        frame.extend(source);
        frame.push(0);
        frame.extend([198, 18, to as u8, 1]);
        // UDP to port 9 (discard), without checksum.
        frame.extend([0, 0, 0, 9]);
        frame.extend((ip_len - 20).to_be_bytes());
        frame.extend([0, 0]);
        frame.resize(len, 0);
        for (position, byte) in frame.iter_mut().enumerate().skip(PAYLOAD) {
            *byte = position as u8;
        }
        let mut header = frame[IP..UDP].to_vec();
        header[12..16].fill(0);
        Self {
            base_sum: sum(&header),
            source,
            frame,
        }
    }

    /// What flow `flow` puts into the frame.
    pub fn flow(&self, flow: u32) -> FlowFields {
        let [a, b, c] = self.source;
        let source = [a, b, c, 1 + (flow / PORTS) as u8];
        let checksum = !fold(self.base_sum + sum(&source));
        let [hi, lo] = checksum.to_be_bytes();
        let [s0, s1, s2, s3] = source;
        FlowFields {
            checksum_and_source: [hi, lo, s0, s1, s2, s3],
            source_port: ((FIRST_PORT + flow % PORTS) as u16).to_be_bytes(),
        }
    }

    /// The whole frame of flow `flow`.
    pub fn frame(&self, flow: u32) -> Vec<u8> {
        let mut frame = self.frame.clone();
        let fields = self.flow(flow);
        frame[IP_CHECKSUM..IP_CHECKSUM + 6].copy_from_slice(&fields.checksum_and_source);
        frame[UDP..UDP + 2].copy_from_slice(&fields.source_port);
        frame
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum()
}

fn fold(sum: u32) -> u16 {
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
        for flow in [0, 1, 32_767, 32_768, 999_999] {
            let frame = template.frame(flow);
            // A header with its checksum in it sums to all ones.
            assert_eq!(fold(sum(&frame[IP..UDP])), 0xffff, "flow {flow}");
        }
    }

    #[test]
    fn a_known_header_has_its_known_checksum() {
        // 45 00 00 32 00 00 40 00 40 11 .... c6 12 00 01 c6 12 01 01, summed by hand.
        let frame = Template::new(0, 1, 64).frame(0);
        let words = [
            0x4500_u32, 0x0032, 0, 0x4000, 0x4011, 0xc612, 0x0001, 0xc612, 0x0101,
        ];
        let total: u32 = words.iter().sum();
        let expected = !((total & 0xffff) + (total >> 16)) as u16;
        assert_eq!(frame[24..26], expected.to_be_bytes());
    }

    #[test]
    fn a_million_flows_are_a_million_five_tuples() {
        let template = Template::new(0, 1, 64);
        let mut seen = HashSet::new();
        for flow in 0..1_000_000 {
            let fields = template.flow(flow);
            assert!(seen.insert((fields.checksum_and_source[5], fields.source_port)));
        }
    }
}
