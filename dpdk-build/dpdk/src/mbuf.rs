//! Bursts of packet buffers, owned, and views of the packets in them.

// UNSAFETY: reads and writes rte_mbuf fields at the offsets that the C compiler
// gave, and hands out the bytes they describe.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr;

use dpdk_sys::{rte_mbuf, rte_mempool};

use crate::Mempool;
use crate::offload::TxOffload;

/// The most packets in a burst.
///
/// 32 as everywhere in the field: measured on this project's machines, 8 costs
/// a third more per packet and 64 brings nothing.
pub const BURST: usize = 32;

/// One buffer of a packet. Valid while some burst owns it.
#[derive(Clone, Copy)]
struct Mbuf(*mut rte_mbuf);

impl Mbuf {
    /// Reads a field.
    ///
    /// # Safety
    /// `self` is a live mbuf; `offset` is that of a field of type T.
    #[inline]
    unsafe fn field<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the caller's promise; fields are aligned within an mbuf.
        unsafe { self.0.byte_add(offset as usize).cast::<T>().read() }
    }

    /// Writes a field.
    ///
    /// # Safety
    /// As [`field`](Self::field), and nobody else looks at this mbuf.
    #[inline]
    unsafe fn set_field<T: Copy>(self, offset: u32, value: T) {
        // SAFETY: the caller's promise.
        unsafe { self.0.byte_add(offset as usize).cast::<T>().write(value) }
    }

    /// Bytes of the packet in this one buffer.
    ///
    /// # Safety
    /// `self` is a live mbuf.
    #[inline]
    unsafe fn data_len(self) -> usize {
        // SAFETY: the caller's promise; data_len is a u16 in every release.
        usize::from(unsafe { self.field::<u16>(dpdk_sys::RW_MBUF_DATA_LEN) })
    }

    /// # Safety
    /// `self` is a live mbuf.
    #[inline]
    unsafe fn data(self) -> *mut u8 {
        // SAFETY: the caller's promise; data_off is a u16 within the buffer.
        unsafe {
            let buffer: *mut u8 = self.field(dpdk_sys::RW_MBUF_BUF_ADDR);
            let offset: u16 = self.field(dpdk_sys::RW_MBUF_DATA_OFF);
            buffer.add(usize::from(offset))
        }
    }

    /// Bytes free behind the data.
    ///
    /// # Safety
    /// `self` is a live mbuf.
    #[inline]
    unsafe fn tailroom(self) -> usize {
        // SAFETY: the caller's promise; both are u16.
        unsafe {
            let length: u16 = self.field(dpdk_sys::RW_MBUF_BUF_LEN);
            let offset: u16 = self.field(dpdk_sys::RW_MBUF_DATA_OFF);
            usize::from(length).saturating_sub(usize::from(offset) + self.data_len())
        }
    }

    /// # Safety
    /// `self` is a live mbuf.
    #[inline]
    unsafe fn next(self) -> Option<Mbuf> {
        // SAFETY: the caller's promise; `next` is NULL or a live mbuf.
        let next: *mut rte_mbuf = unsafe { self.field(dpdk_sys::RW_MBUF_NEXT) };
        (!next.is_null()).then_some(Mbuf(next))
    }

    /// # Safety
    /// `self` is a live mbuf.
    #[inline]
    unsafe fn last(self) -> Mbuf {
        let mut last = self;
        // SAFETY: every link of a live chain is live.
        while let Some(next) = unsafe { last.next() } {
            last = next;
        }
        last
    }
}

/// Up to [`BURST`] packets, owned: dropping the burst gives their buffers back
/// to their pools, all at once. Indexes beyond [`len`](Self::len) panic, as a
/// slice's do.
pub struct MbufBurst {
    packets: [*mut rte_mbuf; BURST],
    len: usize,
    /// Some packet may ask for an offload.
    offloads: bool,
}

// SAFETY: the burst owns its buffers alone, and buffers are tied to no thread.
unsafe impl Send for MbufBurst {}
// SAFETY: shared access only reads.
unsafe impl Sync for MbufBurst {}

impl MbufBurst {
    /// An empty burst.
    pub const fn new() -> MbufBurst {
        MbufBurst {
            packets: [ptr::null_mut(); BURST],
            len: 0,
            offloads: false,
        }
    }

    /// Packets in the burst.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Packets that can still be added.
    #[inline]
    pub fn room(&self) -> usize {
        BURST - self.len
    }

    /// Packet `i`.
    #[inline]
    pub fn packet(&self, i: usize) -> MbufRef<'_> {
        MbufRef {
            first: self.mbuf(i),
            burst: PhantomData,
        }
    }

    /// All packets, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MbufRef<'_>> {
        (0..self.len).map(|i| self.packet(i))
    }

    /// Bytes that [`append`](Self::append) can still give to packet `i`.
    #[inline]
    pub fn tailroom(&self, i: usize) -> usize {
        // SAFETY: the burst's packets are live.
        unsafe { self.mbuf(i).last().tailroom() }
    }

    /// Makes packet `i` longer by `len` bytes, in one piece, and gives them to
    /// be written: they hold whatever was there before. `None`, with nothing
    /// changed, when the packet's last buffer has not that much room.
    #[inline]
    pub fn append(&mut self, i: usize, len: usize) -> Option<&mut [u8]> {
        let first = self.mbuf(i);
        // SAFETY: the burst's packets are live and its alone. The bytes lie
        // behind the data and within the buffer (tailroom), which DPDK's heap
        // has initialised. `len` fits u16 for the tailroom does.
        unsafe {
            let last = first.last();
            if len > last.tailroom() {
                return None;
            }
            let old_len = last.data_len();
            let room = last.data().add(old_len);
            last.set_field(dpdk_sys::RW_MBUF_DATA_LEN, (old_len + len) as u16);
            let packet_len: u32 = first.field(dpdk_sys::RW_MBUF_PKT_LEN);
            first.set_field(dpdk_sys::RW_MBUF_PKT_LEN, packet_len + len as u32);
            Some(std::slice::from_raw_parts_mut(room, len))
        }
    }

    /// Chains one more empty buffer onto packet `i`, for frames that do not fit
    /// one: the next `append` fills it. False when the pool is exhausted (or
    /// the chain has DPDK's maximum of buffers).
    pub fn extend_chain(&mut self, i: usize, pool: &Mempool) -> bool {
        let first = self.mbuf(i);
        // SAFETY: the pool lives; the result is NULL or an mbuf of ours.
        let more = unsafe { dpdk_sys::rw_mbuf_alloc(pool.raw()) };
        if more.is_null() {
            return false;
        }
        // SAFETY: the burst's packets are live and its alone; `more` is fresh
        // (one segment, next NULL) and joins exactly one chain.
        unsafe {
            let segments: u16 = first.field(dpdk_sys::RW_MBUF_NB_SEGS);
            if u32::from(segments) >= dpdk_sys::RW_MAX_SEGS {
                let mut unused = more;
                dpdk_sys::rw_mbuf_free_bulk(&mut unused, 1);
                return false;
            }
            first.last().set_field(dpdk_sys::RW_MBUF_NEXT, more);
            first.set_field(dpdk_sys::RW_MBUF_NB_SEGS, segments + 1);
        }
        true
    }

    /// Asks the device to complete packet `i` while sending it:
    /// [`TxQueue::prepare`](crate::TxQueue::prepare) must follow once for the
    /// burst, and the port's [`TxOffloads`](crate::TxOffloads) must have it. False, with nothing
    /// changed, when a length does not fit DPDK's fields.
    #[inline]
    pub fn set_tx_offload(&mut self, i: usize, offload: TxOffload) -> bool {
        let mbuf = self.mbuf(i);
        let Some((flags, lengths)) = offload.words() else {
            return false;
        };
        // SAFETY: the burst's packets are live and its alone; both are u64.
        unsafe {
            let others: u64 = mbuf.field(dpdk_sys::RW_MBUF_OL_FLAGS);
            mbuf.set_field(dpdk_sys::RW_MBUF_OL_FLAGS, others | flags);
            mbuf.set_field(dpdk_sys::RW_MBUF_TX_OFFLOAD, lengths);
        }
        self.offloads = true;
        true
    }

    /// Whether some packet may ask for an offload.
    #[inline]
    pub(crate) fn any_offload(&self) -> bool {
        self.offloads
    }

    /// Keeps the first `len` packets and frees the others.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let count = (self.len - len) as u32;
        self.len = len;
        self.offloads &= len > 0;
        // SAFETY: `count` live packets from `len` on, which the line above
        // took out of the burst.
        unsafe { dpdk_sys::rw_mbuf_free_bulk(self.packets.as_mut_ptr().add(len), count) };
    }

    /// Frees all packets.
    #[inline]
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    #[inline]
    fn mbuf(&self, i: usize) -> Mbuf {
        Mbuf(self.packets[..self.len][i])
    }

    /// Adds up to `n` fresh packets; see [`Mempool::alloc_burst`].
    #[inline]
    pub(crate) fn fill(&mut self, n: usize, pool: *mut rte_mempool) -> usize {
        let n = n.min(self.room());
        if n == 0 {
            return 0;
        }
        // SAFETY: the pool lives; there is room for n pointers behind len.
        let all = unsafe {
            let free = self.packets.as_mut_ptr().add(self.len);
            dpdk_sys::rw_mbuf_alloc_bulk(pool, free, n as u32)
        };
        if all == 0 {
            self.len += n;
            return n;
        }
        self.fill_singly(n, pool)
    }

    /// The bulk call gives all or nothing: takes what little is left.
    #[cold]
    fn fill_singly(&mut self, n: usize, pool: *mut rte_mempool) -> usize {
        for got in 0..n {
            // SAFETY: the pool lives; NULL when exhausted.
            let packet = unsafe { dpdk_sys::rw_mbuf_alloc(pool) };
            if packet.is_null() {
                return got;
            }
            self.packets[self.len] = packet;
            self.len += 1;
        }
        n
    }

    /// The free places at the end, for a device to write packets to.
    #[inline]
    pub(crate) fn free_places(&mut self) -> (*mut *mut rte_mbuf, u16) {
        let room = self.room() as u16;
        // SAFETY: len is at most BURST.
        (unsafe { self.packets.as_mut_ptr().add(self.len) }, room)
    }

    /// Takes over `n` packets that were written to the free places.
    ///
    /// # Safety
    /// The first `n` free places hold packets that nobody else owns.
    #[inline]
    pub(crate) unsafe fn take_over(&mut self, n: usize) {
        debug_assert!(n <= self.room());
        self.len += n;
    }

    /// The packets, for a device to take from the front.
    #[inline]
    pub(crate) fn packets(&mut self) -> (*mut *mut rte_mbuf, u16) {
        (self.packets.as_mut_ptr(), self.len as u16)
    }

    /// Forgets the first `n` packets, which have another owner now, and moves
    /// the rest to the front.
    #[inline]
    pub(crate) fn forget_front(&mut self, n: usize) {
        self.packets.copy_within(n..self.len, 0);
        self.len -= n;
        self.offloads &= self.len > 0;
    }

    /// Frees packet `i` and moves those behind it forward.
    #[cold]
    pub(crate) fn remove(&mut self, i: usize) {
        let mut packet = self.mbuf(i).0;
        self.packets.copy_within(i + 1..self.len, i);
        self.len -= 1;
        // SAFETY: a live packet, which the lines above took out of the burst.
        unsafe { dpdk_sys::rw_mbuf_free_bulk(&mut packet, 1) };
    }
}

impl Default for MbufBurst {
    fn default() -> MbufBurst {
        MbufBurst::new()
    }
}

impl Drop for MbufBurst {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A packet in a burst: one buffer, or a chain of them.
#[derive(Clone, Copy)]
pub struct MbufRef<'a> {
    first: Mbuf,
    burst: PhantomData<&'a MbufBurst>,
}

impl<'a> MbufRef<'a> {
    /// Bytes in all its buffers.
    #[inline]
    pub fn packet_len(&self) -> usize {
        // SAFETY: the burst keeps its packets live; pkt_len is a u32.
        unsafe { self.first.field::<u32>(dpdk_sys::RW_MBUF_PKT_LEN) as usize }
    }

    /// Buffers in the chain.
    #[inline]
    pub fn segment_count(&self) -> usize {
        // SAFETY: the burst keeps its packets live; nb_segs is a u16.
        usize::from(unsafe { self.first.field::<u16>(dpdk_sys::RW_MBUF_NB_SEGS) })
    }

    /// The packet's bytes, one slice per buffer, in order.
    #[inline]
    pub fn segments(&self) -> Segments<'a> {
        Segments {
            next: Some(self.first),
            burst: PhantomData,
        }
    }
}

/// The bytes of a packet, buffer by buffer.
#[derive(Clone)]
pub struct Segments<'a> {
    next: Option<Mbuf>,
    burst: PhantomData<&'a MbufBurst>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let mbuf = self.next?;
        // SAFETY: the burst is borrowed for 'a, so its packets stay live and
        // unchanged; data_len bytes from data on are the driver's (or ours).
        unsafe {
            self.next = mbuf.next();
            Some(std::slice::from_raw_parts(mbuf.data(), mbuf.data_len()))
        }
    }
}
