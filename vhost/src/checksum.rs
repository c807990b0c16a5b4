//! Completes the checksums that a guest left partial (`VIRTIO_NET_HDR_F_NEEDS_CSUM`,
//! VirtIO 1.2, 5.1.6.2) for a peer that wants them whole.

#![allow(unsafe_code)]
// UNSAFETY: reads a packet's body where it lies, in guest memory.

use crate::packet::{Packets, VNET_F_NEEDS_CSUM, VnetHeader};

impl Packets<'_> {
    /// Whether some frame of the burst may have a partial checksum: false means none has.
    #[inline(always)]
    pub fn any_partial_checksum(&self) -> bool {
        self.burst.any_partial
    }

    /// Whether frame `index` has a partial checksum.
    #[inline(always)]
    pub fn has_partial_checksum(&self, index: usize) -> bool {
        self.vnet_header(index).flags & VNET_F_NEEDS_CSUM != 0
    }

    /// Sums frame `index` from `csum_start` to its end, stores the Internet
    /// checksum (RFC 1071) and clears the virtio-net header. Does nothing to a
    /// frame whose checksum is whole.
    pub fn complete_checksum(&mut self, index: usize) {
        let header = self.vnet_header(index);
        if header.flags & VNET_F_NEEDS_CSUM == 0 {
            return;
        }
        let start = usize::from(header.csum_start);
        let field = start + usize::from(header.csum_offset);
        let mut sum = Sum::default();
        sum.add(self.head(index).get(start..).unwrap_or(&[]));
        for segment in self.segments(index) {
            let (mut from, mut left) = (segment.ptr, segment.len as usize);
            let mut chunk = [0u8; 256];
            while left > 0 {
                let len = left.min(chunk.len());
                // SAFETY: `len` bytes are left in the segment and fit the chunk.
                unsafe {
                    std::ptr::copy_nonoverlapping(from, chunk.as_mut_ptr(), len);
                    from = from.add(len);
                }
                sum.add(&chunk[..len]);
                left -= len;
            }
        }
        // A checksum that comes out as zero is sent as all ones (RFC 768);
        // to TCP both mean the same.
        let checksum = match !sum.fold() {
            0 => 0xffff,
            checksum => checksum,
        };
        if let Some(bytes) = self.head_mut(index).get_mut(field..field + 2) {
            bytes.copy_from_slice(&checksum.to_be_bytes());
        }
        self.set_vnet_header(index, VnetHeader::default());
    }
}

/// A running one's complement sum over bytes that come in pieces.
#[derive(Default)]
struct Sum {
    total: u64,
    odd: bool,
}

impl Sum {
    fn add(&mut self, mut bytes: &[u8]) {
        if self.odd
            && let Some((first, rest)) = bytes.split_first()
        {
            self.total += u64::from(*first);
            self.odd = false;
            bytes = rest;
        }
        let (pairs, rest) = bytes.as_chunks::<2>();
        for pair in pairs {
            self.total += u64::from(u16::from_be_bytes(*pair));
        }
        if let [last] = rest {
            self.total += u64::from(*last) << 8;
            self.odd = true;
        }
    }

    fn fold(&self) -> u16 {
        let mut total = self.total;
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Burst, VNET_F_NEEDS_CSUM};
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(2), 0);
        let mut total: u32 = 0;
        for pair in padded.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    proptest! {
        #[test]
        fn completed_frames_sum_to_all_ones(
            frame in proptest::collection::vec(any::<u8>(), 60..2000),
            cut in 1usize..59, start in 14usize..40,
        ) {
            let mut burst = Burst::default();
            let parts = [&frame[..cut], &frame[cut..]];
            let mut result = Ok(());
            burst.lend_slices(1, |_| parts.iter().copied(), |packets| result = (|| {
                packets.set_vnet_header(0, VnetHeader {
                    flags: VNET_F_NEEDS_CSUM,
                    csum_start: start as u16,
                    csum_offset: 6,
                    ..VnetHeader::default()
                });
                packets.complete_checksum(0);
                prop_assert!(!packets.has_partial_checksum(0));
                let mut out = vec![0; frame.len()];
                prop_assert!(packets.copy_frame(0, &mut out));
                // What was in the field before is part of the sum, as the
                // pseudo header's share is in a real frame.
                let mut sum = Sum::default();
                sum.add(&frame[start..]);
                let field = u16::from_be_bytes([out[start + 6], out[start + 7]]);
                prop_assert!(field == !naive(&frame[start..]) || field == 0xffff);
                prop_assert_eq!(sum.fold(), naive(&frame[start..]));
                out[start + 6..start + 8].copy_from_slice(&frame[start + 6..start + 8]);
                prop_assert_eq!(&out, &frame);
                Ok(())
            })());
            result?;
        }
    }
}
