//! The headers of an oversized frame, as far as cutting it needs them, and
//! what must be right about them before it is let in.

use crate::checksum::Sum;
use crate::packet::{Packets, VNET_F_DATA_VALID, VNET_F_NEEDS_CSUM, VnetHeader};

use super::{GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UFO, GSO_USO, GsoKinds};

/// Most segments that one frame may be cut into. A sender whose MTU is the
/// smallest that Linux allows (68) needs 1,820 for 64 KiB; more would let a
/// guest keep a core busy with a single descriptor.
const MAX_CUTS: usize = 4096;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const PROTO_TCP: u8 = 6;
const PROTO_UDP: u8 = 17;
const MACS: usize = 12;
const TAG: usize = 4;

/// Where the field of the checksum is in a TCP and in a UDP header.
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_CHECKSUM: usize = 6;

/// Shortest headers.
pub(super) const TCP_HEADER: usize = 20;
pub(super) const UDP_HEADER: usize = 8;

/// The network header behind an Ethernet header and its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// VLAN tags.
    pub tags: usize,
    /// Where it begins.
    pub l3: usize,
    pub is_ipv6: bool,
}

fn u16_at(head: &[u8], at: usize) -> Option<u16> {
    head.get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_be_bytes)
}

/// How many VLAN tags a frame has.
pub(crate) fn tags(head: &[u8]) -> usize {
    let is_tag = |nth: &usize| matches!(u16_at(head, MACS + TAG * nth), Some(0x8100 | 0x88a8));
    (0..).take_while(is_tag).count()
}

impl Network {
    pub(crate) fn find(head: &[u8]) -> Option<Self> {
        let tags = tags(head);
        let l3 = MACS + TAG * tags + 2;
        let is_ipv6 = match u16_at(head, l3 - 2)? {
            IPV4 => false,
            IPV6 => true,
            _ => return None,
        };
        Some(Self { tags, l3, is_ipv6 })
    }

    /// What IP carries, if the frame is one whole packet that ends where its
    /// network header says: its number and where it begins.
    fn transport(&self, head: &[u8], frame_len: usize) -> Option<(u8, usize)> {
        let header = head.get(self.l3..)?;
        if !self.is_ipv6 {
            let header = header.first_chunk::<20>()?;
            let ihl = usize::from(header[0] & 15) * 4;
            let total = usize::from(u16_at(header, 2)?);
            let is_fragment = u16_at(header, 6)? & 0x3fff != 0;
            let is_right = header[0] >> 4 == 4 && ihl >= 20 && !is_fragment;
            return (is_right && self.l3 + total == frame_len)
                .then_some((header[9], self.l3 + ihl));
        }
        let header = header.first_chunk::<40>()?;
        let payload = usize::from(u16_at(header, 4)?);
        if header[0] >> 4 != 6 || self.l3 + 40 + payload != frame_len {
            return None;
        }
        // RFC 8200, 4: hop-by-hop options, routing and destination options.
        let (mut next, mut at) = (header[6], self.l3 + 40);
        while matches!(next, 0 | 43 | 60) {
            let &[behind, units] = head.get(at..)?.first_chunk()?;
            (next, at) = (behind, at + (usize::from(units) + 1) * 8);
        }
        Some((next, at))
    }
}

/// Checks the virtio-net header of an oversized frame against the frame, of
/// which `head` is our copy. Returns it as it is to go on: with nothing in it
/// that was not checked, and with our own length of the headers. `None`: the
/// sender may not send such a frame, or it is not what its header says.
pub(crate) fn accept(
    header: VnetHeader,
    head: &[u8],
    frame_len: usize,
    allowed: GsoKinds,
) -> Option<(VnetHeader, Option<u16>)> {
    let network = Network::find(head).filter(|network| network.tags <= 2)?;
    let (proto, l4) = network.transport(head, frame_len)?;
    if !allowed.has(kinds(header.gso_type, network.is_ipv6)?) {
        return None;
    }
    let (header_len, checksum) = match header.gso_type & !GSO_ECN {
        GSO_TCP4 if network.is_ipv6 => return None,
        GSO_TCP6 if !network.is_ipv6 => return None,
        GSO_TCP4 | GSO_TCP6 if proto == PROTO_TCP => {
            let words = head.get(l4 + 12)? >> 4;
            (usize::from(words) * 4, TCP_CHECKSUM)
        }
        // Extension headers would have to be in every fragment or in the
        // first only, depending on what they are.
        GSO_UFO if network.is_ipv6 && l4 != network.l3 + 40 => return None,
        GSO_UFO | GSO_USO if proto == PROTO_UDP => (UDP_HEADER, UDP_CHECKSUM),
        _ => return None,
    };
    let least = match checksum {
        TCP_CHECKSUM => TCP_HEADER,
        _ => UDP_HEADER,
    };
    let hdr_len = l4 + header_len;
    if header_len < least || hdr_len > head.len() || hdr_len >= frame_len {
        return None;
    }
    let size = match header.gso_type {
        // Fragments are of 8 bytes and more.
        GSO_UFO => header.gso_size & !7,
        _ => header.gso_size,
    };
    if size == 0 || (frame_len - hdr_len).div_ceil(size.into()) > MAX_CUTS {
        return None;
    }
    let pseudo = match header.flags & (VNET_F_NEEDS_CSUM | VNET_F_DATA_VALID) {
        VNET_F_DATA_VALID => Some(pseudo_sum(head, network, l4, proto, frame_len)?),
        0 => return None,
        _ if usize::from(header.csum_start) != l4 => return None,
        _ if usize::from(header.csum_offset) != checksum => return None,
        _ => None,
    };
    let header = VnetHeader {
        flags: VNET_F_NEEDS_CSUM,
        gso_type: header.gso_type,
        hdr_len: hdr_len as u16,
        gso_size: header.gso_size,
        csum_start: l4 as u16,
        csum_offset: checksum as u16,
    };
    Some((header, pseudo))
}

/// Where the headers of a frame with a partial checksum are, if it is what NICs
/// can complete: TCP or UDP right behind IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Where IP begins.
    pub l3: usize,
    /// Where TCP or UDP begins.
    pub l4: usize,
    /// Where its payload begins; of oversized frames only, else 0.
    pub payload: usize,
    /// IPv6, or IPv4.
    pub is_ipv6: bool,
    /// TCP, or UDP.
    pub is_tcp: bool,
    /// Payload of each segment of an oversized frame, else 0.
    pub gso_size: u16,
}

impl Packets<'_> {
    /// Where the headers of frame `index` are. `None`: its checksum is whole,
    /// or of another kind.
    pub fn partial_headers(&self, index: usize) -> Option<Headers> {
        let header = self.vnet_header(index);
        if header.flags & VNET_F_NEEDS_CSUM == 0 {
            return None;
        }
        let head = self.head(index);
        let Network { l3, is_ipv6, .. } = Network::find(head)?;
        let (proto, l4) = match is_ipv6 {
            true => (*head.get(l3 + 6)?, l3 + 40),
            // Of a fragment the checksum is nobody's business.
            false if u16_at(head, l3 + 6)? & 0x3fff != 0 => return None,
            false => (
                *head.get(l3 + 9)?,
                l3 + usize::from(*head.get(l3)? & 15) * 4,
            ),
        };
        let is_tcp = match (proto, usize::from(header.csum_offset)) {
            (PROTO_TCP, TCP_CHECKSUM) => true,
            (PROTO_UDP, UDP_CHECKSUM) => false,
            _ => return None,
        };
        (usize::from(header.csum_start) == l4).then_some(Headers {
            l3,
            l4,
            payload: header.hdr_len.into(),
            is_ipv6,
            is_tcp,
            gso_size: header.gso_size,
        })
    }
}

/// The features that a frame of this type needs. `None`: there is no such type.
pub(super) fn kinds(gso_type: u8, is_ipv6: bool) -> Option<GsoKinds> {
    let kinds = match gso_type & !GSO_ECN {
        GSO_TCP4 => GsoKinds::TCP4,
        GSO_TCP6 => GsoKinds::TCP6,
        GSO_UFO => GsoKinds::UFO,
        GSO_USO if is_ipv6 => GsoKinds::USO6,
        GSO_USO => GsoKinds::USO4,
        _ => return None,
    };
    match gso_type & GSO_ECN {
        0 => Some(kinds),
        _ if kinds == GsoKinds::TCP4 || kinds == GsoKinds::TCP6 => Some(kinds | GsoKinds::ECN),
        _ => None,
    }
}

/// The sum of the pseudo header, which a whole checksum is replaced with: the
/// sender vouches for it, and segments need checksums of their own. `None`:
/// the final destination is not the one in the header (RFC 8200, 8.1).
fn pseudo_sum(
    head: &[u8],
    network: Network,
    l4: usize,
    proto: u8,
    frame_len: usize,
) -> Option<u16> {
    let addresses = match network.is_ipv6 {
        false => head.get(network.l3 + 12..network.l3 + 20)?,
        true if l4 != network.l3 + 40 => return None,
        true => head.get(network.l3 + 8..network.l3 + 40)?,
    };
    let mut sum = Sum::default();
    sum.add(addresses);
    sum.add_number(proto.into());
    sum.add_number((frame_len - l4) as u16);
    Some(sum.fold())
}
