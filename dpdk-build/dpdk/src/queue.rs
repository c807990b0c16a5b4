//! Receive and transmit queues of a running port: one thread at a time.

// UNSAFETY: hands packet pointers to and from rte_eth_rx_burst/tx_burst.
#![allow(unsafe_code)]

use std::fmt;

use crate::mbuf::MbufBurst;
use crate::port::{PortId, RunningPort};

/// A queue's number on its port, from 0. Receive and transmit are numbered apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u16);

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One receive queue. Moves between threads, but serves one at a time. Keeps
/// its port running.
#[derive(Debug)]
pub struct RxQueue {
    port_id: u16,
    queue: QueueId,
    port: RunningPort,
}

impl RxQueue {
    pub(crate) fn new(port: RunningPort, queue: QueueId) -> RxQueue {
        RxQueue {
            port_id: port.id().0,
            queue,
            port,
        }
    }

    /// Its number.
    pub fn id(&self) -> QueueId {
        self.queue
    }

    /// Its port's number.
    pub fn port(&self) -> PortId {
        self.port.id()
    }

    /// Adds received packets at the end of `burst`, as many as there are and as
    /// it has room for; says how many. Give it an empty burst: some drivers
    /// take nothing when asked for fewer than 4 packets.
    #[inline]
    pub fn rx_burst(&mut self, burst: &mut MbufBurst) -> usize {
        let (places, room) = burst.free_places();
        // SAFETY: the port runs while `self.port` lives, `&mut self` makes this
        // the queue's only user, and there are `room` places. The driver gives
        // the packets away.
        unsafe {
            let got = dpdk_sys::rw_rx_burst(self.port_id, self.queue.0, places, room);
            burst.take_over(usize::from(got));
            usize::from(got)
        }
    }
}

/// One transmit queue. Moves between threads, but serves one at a time. Keeps
/// its port running.
#[derive(Debug)]
pub struct TxQueue {
    port_id: u16,
    queue: QueueId,
    port: RunningPort,
}

impl TxQueue {
    pub(crate) fn new(port: RunningPort, queue: QueueId) -> TxQueue {
        TxQueue {
            port_id: port.id().0,
            queue,
            port,
        }
    }

    /// Its number.
    pub fn id(&self) -> QueueId {
        self.queue
    }

    /// Its port's number.
    pub fn port(&self) -> PortId {
        self.port.id()
    }

    /// Makes packets ready that ask for offloads
    /// ([`MbufBurst::set_tx_offload`]): their checksum fields get what this
    /// driver wants there (mostly the pseudo header's sum). Those that the
    /// driver refuses are freed and gone from the burst, the others keep their
    /// order; says how many were refused. Costs nothing when none asks.
    #[inline]
    pub fn prepare(&mut self, burst: &mut MbufBurst) -> usize {
        if !burst.any_offload() {
            return 0;
        }
        let before = burst.len();
        let mut ready = 0;
        loop {
            let (packets, count) = burst.packets();
            let left = count - ready;
            // SAFETY: as in `tx_burst`; `left` packets lie behind the first
            // `ready`. The packets stay the burst's.
            ready += unsafe {
                let packets = packets.add(usize::from(ready));
                dpdk_sys::rw_tx_prepare(self.port_id, self.queue.0, packets, left)
            };
            if ready >= count {
                return before - burst.len();
            }
            burst.remove(usize::from(ready));
        }
    }

    /// Gives packets from the front of `burst` to the device; says how many it
    /// took. Those are gone from the burst; the others move to the front, in
    /// order, and are the caller's to send again or to drop.
    #[inline]
    pub fn tx_burst(&mut self, burst: &mut MbufBurst) -> usize {
        let (packets, count) = burst.packets();
        // SAFETY: the port runs while `self.port` lives, `&mut self` makes this
        // the queue's only user, and there are `count` packets.
        let sent = unsafe { dpdk_sys::rw_tx_burst(self.port_id, self.queue.0, packets, count) };
        burst.forget_front(usize::from(sent));
        usize::from(sent)
    }
}
