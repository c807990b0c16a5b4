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
    /// frame whose checksum is whole, nor to an oversized one, whose segments
    /// have checksums of their own.
    pub fn complete_checksum(&mut self, index: usize) {
        if self.vnet_header(index).gso_type != 0 {
            return;
        }
        let Some((field, checksum)) = self.whole_checksum(index) else {
            return;
        };
        if let Some(bytes) = self.head_mut(index).get_mut(field..field + 2) {
            bytes.copy_from_slice(&checksum);
        }
        self.set_vnet_header(index, VnetHeader::default());
    }

    /// The checksum that frame `index` would have if it were whole, and where
    /// its field is from the frame's first byte. `None`: it is whole.
    pub fn whole_checksum(&self, index: usize) -> Option<(usize, [u8; 2])> {
        let header = self.vnet_header(index);
        if header.flags & VNET_F_NEEDS_CSUM == 0 {
            return None;
        }
        let start = usize::from(header.csum_start);
        let mut sum = Sum::default();
        sum.add(self.head(index).get(start..).unwrap_or(&[]));
        for segment in self.segments(index) {
            // SAFETY: a segment is readable for its length for as long as
            // this `Packets` lives.
            unsafe { sum.add_memory(segment.ptr, segment.len as usize) };
        }
        // A checksum that comes out as zero is sent as all ones (RFC 768);
        // to TCP both mean the same.
        let checksum = match !sum.fold() {
            0 => 0xffff,
            checksum => checksum,
        };
        Some((
            start + usize::from(header.csum_offset),
            checksum.to_be_bytes(),
        ))
    }
}

/// A running one's complement sum over bytes that come in pieces.
///
/// It is made of words as the processor has them: the sum is the same in
/// either byte order, but for the order of its own two bytes (RFC 1071, 2).
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    total: u64,
    odd: bool,
}

impl Sum {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        // SAFETY: a slice is readable for its length.
        unsafe { self.add_memory(bytes.as_ptr(), bytes.len()) };
    }

    /// Adds a number of 16 bits; what was added before is of even length.
    pub(crate) fn add_number(&mut self, number: u16) {
        self.total += u64::from(number.to_be());
    }

    /// Adds bytes that may be a guest's and change meanwhile.
    ///
    /// # Safety
    /// `from` must be readable for `len` bytes.
    pub(crate) unsafe fn add_memory(&mut self, from: *const u8, len: usize) {
        // SAFETY: the caller's guarantee.
        let sum = fold(unsafe { sum_words(from, len) });
        // Behind an odd byte each byte stands in the other half of its word.
        let sum = if self.odd { sum.swap_bytes() } else { sum };
        self.total += u64::from(sum);
        self.odd ^= len % 2 == 1;
    }

    /// The sum as a number, not complemented.
    pub(crate) fn fold(&self) -> u16 {
        u16::from_be(fold(self.total))
    }
}

fn fold(mut total: u64) -> u16 {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total as u16
}

/// The sum of memory's words, a last odd byte being padded with a zero.
///
/// JUSTIFICATION: 32-bit words into 64-bit lanes become vector additions, in
/// which nothing can overflow; the test `time_of_sums`
/// tells by how much that is faster than word by word.
///
/// # Safety
/// `from` must be readable for `len` bytes.
#[inline]
unsafe fn sum_words(from: *const u8, len: usize) -> u64 {
    const LANES: usize = 16;
    const BLOCK: usize = 4 * LANES;
    let (mut total, mut at) = (0u64, 0);
    if len >= 2 * BLOCK {
        let mut lanes = [0u64; LANES];
        while at + BLOCK <= len {
            // SAFETY: BLOCK bytes are left.
            let words = unsafe { from.add(at).cast::<[u32; LANES]>().read_unaligned() };
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(word);
            }
            at += BLOCK;
        }
        total = lanes.iter().sum();
    }
    while at + 4 <= len {
        // SAFETY: four bytes are left.
        total += u64::from(unsafe { from.add(at).cast::<u32>().read_unaligned() });
        at += 4;
    }
    let mut last = [0u8; 4];
    for (nth, byte) in last.iter_mut().enumerate().take(len - at) {
        // SAFETY: `at + nth` is below `len`.
        *byte = unsafe { from.add(at + nth).read() };
    }
    total + u64::from(u32::from_ne_bytes(last))
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
        fn sums_in_pieces_are_the_sum_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            high in any::<bool>(),
            cuts in proptest::collection::vec(0usize..700, 0..5),
        ) {
            let mut bytes = bytes;
            if high {
                bytes.fill(0xff);
            }
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut sum = Sum::default();
            for piece in cuts.windows(2) {
                sum.add(&bytes[piece[0]..piece[1]]);
            }
            // Zero has two forms; which one comes out does not matter here.
            prop_assert_eq!(sum.fold() % 0xffff, naive(&bytes) % 0xffff);
            prop_assert_eq!(sum.fold() == 0, naive(&bytes) == 0);
        }

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

    /// `cargo test --release -p ringway-vhost time_of_sums -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn time_of_sums() {
        let bytes: Vec<u8> = (0..65_536u32).map(|i| (i * 7) as u8).collect();
        let word_by_word = |bytes: &[u8]| {
            let pairs = bytes.as_chunks::<2>().0.iter();
            pairs
                .map(|pair| u64::from(u16::from_be_bytes(*pair)))
                .sum::<u64>()
        };
        let vectors = |bytes: &[u8]| {
            let mut sum = Sum::default();
            sum.add(bytes);
            sum.total
        };
        let time = |sum: &dyn Fn(&[u8]) -> u64, len: usize| {
            let rounds = (1 << 27) / len;
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                std::hint::black_box(sum(std::hint::black_box(&bytes[..len])));
            }
            start.elapsed().as_nanos() as f64 / rounds as f64
        };
        for len in [64, 256, 1448, 9000, 65_536] {
            let (before, after) = (time(&word_by_word, len), time(&vectors, len));
            println!("{len:6} bytes: {before:8.1} ns word by word, {after:8.1} ns in vectors");
        }
    }
}
