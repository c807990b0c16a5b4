//! Packets of a burst into mbufs, with what the device can do for them:
//! checksums and TCP segmentation. What it cannot is done here.

use dpdk::{BURST, MbufBurst};
use dpdk::{Mempool, Network, Transport, TxOffload, TxOffloads, TxQueue};
use ringway_vhost::{GsoKinds, Headers, Next, Offer, Packets, Taker};

use crate::counters::{PmdCounterCells, QueueCounters};
use crate::drop_reason::DropReason;

/// A transmit queue with a burst of mbufs that is being filled.
pub struct Outgoing<'a> {
    pub queue: &'a mut TxQueue,
    pub mbufs: &'a mut MbufBurst,
    pub mempool: &'a Mempool,
    pub offloads: TxOffloads,
    pub counters: &'a QueueCounters,
    pub own: &'a PmdCounterCells,
}

impl Outgoing<'_> {
    /// Sends the packets of `list`, of at most `limit` bytes without VLAN tags.
    #[inline]
    pub fn transmit(&mut self, limit: u32, packets: &mut Packets<'_>, list: &[u8]) {
        if packets.any_gso() || packets.longest() > limit {
            self.transmit_mixed(limit, packets, list);
        } else {
            for index in list {
                self.put(packets, usize::from(*index));
            }
        }
        self.send(packets);
    }

    /// The same packet by packet: as it is, cut, or not at all.
    #[inline(never)]
    fn transmit_mixed(&mut self, limit: u32, packets: &mut Packets<'_>, list: &[u8]) {
        for index in list {
            let index = usize::from(*index);
            let gso = match self.takes_segments(packets.frame_len(index)) {
                true => GsoKinds::TCP4 | GsoKinds::TCP6 | GsoKinds::ECN,
                false => GsoKinds::NONE,
            };
            let taker = Taker {
                partial: true,
                gso,
                max_frame: limit,
            };
            match packets.offer(index, &taker) {
                Offer::Whole => self.put(packets, index),
                Offer::TooLong => self.drop(DropReason::ExceedsMtu, 1),
                Offer::Cut(mut cut) => {
                    self.own.replicated.add(u64::from(cut.count() - 1));
                    while let Next::Packet(segment) = packets.next_cut(&mut cut) {
                        self.put(packets, segment);
                        // It was copied.
                        packets.clear_cuts();
                    }
                }
            }
        }
    }

    fn drop(&self, reason: DropReason, n: usize) {
        self.own.drop_tx(self.counters, reason, n as u32);
    }

    /// Whether the device cuts TCP frames of this length.
    fn takes_segments(&self, len: usize) -> bool {
        let buffers = len.div_ceil(self.mempool.data_room().max(1));
        self.offloads.tcp_tso && buffers <= usize::from(self.offloads.max_segs)
    }

    /// What the device is to do with packet `index`. `None`: nothing, or what
    /// it cannot.
    fn offload(&self, packets: &Packets<'_>, index: usize) -> Option<TxOffload> {
        let Headers {
            l3,
            l4,
            payload,
            is_ipv6,
            is_tcp,
            gso_size,
        } = packets.partial_headers(index)?;
        let transport = match (is_tcp, gso_size) {
            (true, 0) if self.offloads.tcp_cksum => Transport::TcpChecksum,
            (false, 0) if self.offloads.udp_cksum => Transport::UdpChecksum,
            (true, segment_len) if segment_len > 0 => Transport::TcpSegments {
                header_len: payload - l4,
                segment_len,
            },
            _ => return None,
        };
        Some(TxOffload {
            l2_len: l3,
            l3_len: l4 - l3,
            network: match is_ipv6 {
                true => Network::Ipv6,
                false => Network::Ipv4,
            },
            transport,
        })
    }

    /// Copies one packet, which counts from now on.
    #[inline]
    fn put(&mut self, packets: &mut Packets<'_>, index: usize) {
        if self.mbufs.len() == BURST {
            self.send(packets);
        }
        let at = self.mbufs.len();
        if self.mempool.alloc_burst(self.mbufs, 1) == 0 {
            self.drop(DropReason::NoMbuf, 1);
            return;
        }
        if packets.any_partial_checksum() {
            let offload = self.offload(packets, index);
            if !offload.is_some_and(|offload| self.mbufs.set_tx_offload(at, offload)) {
                packets.complete_checksum(index);
            }
        }
        if let Err(reason) = self.copy(packets, index, at) {
            self.mbufs.truncate(at);
            self.drop(reason, 1);
        }
    }

    #[inline]
    fn copy(&mut self, packets: &Packets<'_>, index: usize, at: usize) -> Result<(), DropReason> {
        let mut left = packets.frame_len(index);
        let mut reader = packets.reader(index);
        let mut buffers = 1;
        loop {
            let part = left.min(self.mbufs.tailroom(at));
            if let Some(room) = self.mbufs.append(at, part) {
                reader.read(room);
                left -= part;
            }
            if left == 0 {
                return Ok(());
            }
            if buffers == self.offloads.max_segs {
                return Err(DropReason::ExceedsMtu);
            }
            if !self.mbufs.extend_chain(at, self.mempool) {
                return Err(DropReason::NoMbuf);
            }
            buffers += 1;
        }
    }

    /// Gives all to the device.
    fn send(&mut self, packets: &Packets<'_>) {
        if packets.are_lost() {
            self.drop(DropReason::MemoryLost, self.mbufs.len());
            self.mbufs.clear();
            return;
        }
        let refused = self.queue.prepare(self.mbufs);
        self.drop(DropReason::BadOffload, refused);
        let mut lengths = [0; BURST];
        for (length, mbuf) in lengths.iter_mut().zip(self.mbufs.iter()) {
            *length = mbuf.packet_len() as u64;
        }
        let sent = self.queue.tx_burst(self.mbufs);
        self.drop(DropReason::NicQueueFull, self.mbufs.len());
        self.mbufs.clear();
        let bytes = lengths[..sent].iter().sum();
        self.own.sent(self.counters, sent as u32, bytes);
    }
}
