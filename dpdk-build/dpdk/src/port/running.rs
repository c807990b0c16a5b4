//! A started port: what it tells of itself, and what can change while it runs.

// UNSAFETY: DPDK's device calls, by port number.
#![allow(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::device::{Device, control_lock};
use super::interface::KernelInterface;
use super::name::Bus;
use super::{MtuError, PortId, PortInfo, PortSettings, QueryError, text};
use crate::queue::{RxQueue, TxQueue};
use crate::{Errno, log};

/// The device's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets lost for want of free descriptors.
    pub rx_missed: u64,
    /// Packets received damaged.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets lost for want of buffers in the mempool.
    pub rx_no_mbuf: u64,
}

/// The device's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Whether it is up.
    pub up: bool,
    /// Its speed in Mbit/s, if the device knows.
    pub speed_mbps: Option<u32>,
    /// Whether both ends may send at once.
    pub full_duplex: bool,
}

/// A handle on a started device. Cheap to clone. The last of its handles and
/// queues to be dropped stops, closes and detaches it; that takes a while, so
/// let a control thread hold a handle until the poll-mode threads have dropped
/// their queues.
#[derive(Clone, Debug)]
pub struct RunningPort(pub(super) Arc<Device>);

impl RunningPort {
    /// What is known of it.
    pub fn info(&self) -> &PortInfo {
        &self.0.info
    }

    /// Its number in DPDK.
    pub fn id(&self) -> PortId {
        self.0.info.id
    }

    /// What it has got of what was asked for.
    pub fn settings(&self) -> &PortSettings {
        &self.0.settings
    }

    /// Has `listener` called, on one of DPDK's threads that must not be kept
    /// waiting, whenever the device tells that its link changed or that it
    /// goes away. Ask [`link`](Self::link) and [`removed`](Self::removed) then.
    /// Only the first listener is taken; false for all others.
    pub fn on_event(&self, listener: impl Fn() + Send + Sync + 'static) -> bool {
        self.0.events.listen(Box::new(listener))
    }

    /// Whether the device is going or gone: it told so, its PCI address is empty
    /// now, or the kernel interface under it is not there any more. Drop all
    /// handles and queues then.
    pub fn removed(&self) -> bool {
        let device = &self.0;
        let pci = || Path::new("/sys/bus/pci/devices").join(&device.info.device);
        device.events.removed()
            || (device.bus == Bus::Pci && !pci().exists())
            || device.interface.as_ref().is_some_and(KernelInterface::gone)
    }

    /// Name and index of the kernel interface under a net_af_packet or
    /// net_af_xdp device.
    pub fn kernel_interface(&self) -> Option<(&str, u32)> {
        let interface = self.0.interface.as_ref()?;
        Some((interface.name(), interface.index()))
    }

    /// Its Ethernet address.
    pub fn mac(&self) -> Result<[u8; 6], QueryError> {
        let mut mac = [0; 6];
        // SAFETY: our port, and six bytes to write.
        let ret = unsafe { dpdk_sys::rw_port_mac(self.id().0, mac.as_mut_ptr()) };
        self.answer(ret, "Ethernet address", mac)
    }

    /// Its MTU in bytes, without Ethernet header. Drivers that know no MTU
    /// (net_null, net_pcap, net_ring) repeat what was configured.
    pub fn mtu(&self) -> Result<u16, QueryError> {
        match self.0.mtu.load(Ordering::Relaxed) {
            0 => {}
            mtu => return Ok(mtu),
        }
        let mut mtu = 0;
        // SAFETY: our port, and an out parameter of ours.
        let ret = unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.id().0, &mut mtu) };
        self.answer(ret, "MTU", mtu)
    }

    /// Its link, as the device knows it now.
    pub fn link(&self) -> Result<LinkState, QueryError> {
        let mut raw = dpdk_sys::rw_port_link::default();
        // SAFETY: our port, and an out parameter of ours.
        let ret = unsafe { dpdk_sys::rw_port_link_get(self.id().0, &mut raw) };
        let interface = self.0.interface.as_ref().and_then(KernelInterface::is_up);
        let link = LinkState {
            up: interface.unwrap_or(raw.up),
            speed_mbps: raw.speed_known.then_some(raw.speed_mbps),
            full_duplex: raw.full_duplex,
        };
        self.answer(ret, "link", link)
    }

    /// Its counters since it was started.
    pub fn stats(&self) -> Result<PortStats, QueryError> {
        let mut raw = dpdk_sys::rw_port_stats::default();
        // SAFETY: our port, and an out parameter of ours.
        let ret = unsafe { dpdk_sys::rw_port_stats_get(self.id().0, &mut raw) };
        let stats = PortStats {
            rx_packets: raw.rx_packets,
            tx_packets: raw.tx_packets,
            rx_bytes: raw.rx_bytes,
            tx_bytes: raw.tx_bytes,
            rx_missed: raw.rx_missed,
            rx_errors: raw.rx_errors,
            tx_errors: raw.tx_errors,
            rx_no_mbuf: raw.rx_no_mbuf,
        };
        self.answer(ret, "counters", stats)
    }

    /// The device's own counters by name, in the device's order: what
    /// [`stats`](Self::stats) has and whatever else the driver counts.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, QueryError> {
        let get = |stats: &mut [dpdk_sys::rw_xstat]| {
            let len = u32::try_from(stats.len()).unwrap_or(u32::MAX);
            // SAFETY: our port, and `len` structures to write.
            unsafe { dpdk_sys::rw_port_xstats_get(self.id().0, stats.as_mut_ptr(), len) }
        };
        let count = get(&mut []);
        let mut raw = vec![dpdk_sys::rw_xstat::default(); usize::try_from(count).unwrap_or(0)];
        let count = if raw.is_empty() { count } else { get(&mut raw) };
        // A driver may have fewer by now.
        raw.truncate(usize::try_from(count).unwrap_or(0));
        let stats = raw
            .iter()
            .map(|stat| (text(&stat.name), stat.value))
            .collect();
        self.answer(count.min(0), "counters", stats)
    }

    /// Gives it another MTU while it runs. Some devices refuse that with
    /// [`MtuError::Refused`]; [`set_mtu_stopped`](Self::set_mtu_stopped) is for them.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), MtuError> {
        self.check_mtu(mtu)?;
        let _lock = control_lock();
        self.call_set_mtu(mtu)
    }

    /// Stops it, gives it another MTU and starts it again, with the MTU it had
    /// if it refuses the new one. Takes all its queues, for nobody may use them
    /// meanwhile; packets that lie in them may be lost.
    ///
    /// # Panics
    /// When one of its queues is missing.
    pub fn set_mtu_stopped(
        &self,
        mtu: u16,
        rx: &mut [&mut RxQueue],
        tx: &mut [&mut TxQueue],
    ) -> Result<(), MtuError> {
        self.check_mtu(mtu)?;
        // Exclusive borrows of as many queues as there are: of all.
        assert_eq!(rx.len(), usize::from(self.settings().rx_queues));
        assert_eq!(tx.len(), usize::from(self.settings().tx_queues));
        assert!(rx.iter().all(|queue| queue.port() == self.id()));
        assert!(tx.iter().all(|queue| queue.port() == self.id()));
        let _lock = control_lock();
        let mark = log::mark();
        let failed = |what, ret| MtuError::Stopped {
            device: self.info().device.clone(),
            mtu,
            what,
            errno: Errno::from_negative(ret),
            log: log::errors_since(mark),
        };
        self.0.stop().map_err(|ret| failed("did not stop", ret))?;
        let changed = self.call_set_mtu(mtu);
        self.0
            .start()
            .map_err(|ret| failed("did not start again", ret))?;
        changed
    }

    /// The largest MTU it can be given.
    pub fn max_mtu(&self) -> u16 {
        let max = |pool| self.info().max_mtu_with(pool);
        self.0.mempool.as_ref().map_or(0, max)
    }

    fn check_mtu(&self, mtu: u16) -> Result<(), MtuError> {
        let (min, max) = (self.info().min_mtu, self.max_mtu());
        if (min..=max).contains(&mtu) {
            return Ok(());
        }
        Err(MtuError::OutOfBounds {
            device: self.info().device.clone(),
            mtu,
            min,
            max,
        })
    }

    /// The caller holds the control lock.
    fn call_set_mtu(&self, mtu: u16) -> Result<(), MtuError> {
        let mark = log::mark();
        // SAFETY: our port.
        match unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.id().0, mtu) } {
            0 => Ok(()),
            // A driver that knows no MTU passes every size.
            ret if ret == -libc::ENOTSUP => {
                self.0.mtu.store(mtu, Ordering::Relaxed);
                Ok(())
            }
            ret => Err(MtuError::Refused {
                device: self.info().device.clone(),
                mtu,
                errno: Errno::from_negative(ret),
                log: log::errors_since(mark),
            }),
        }
    }

    fn answer<T>(&self, ret: i32, what: &'static str, value: T) -> Result<T, QueryError> {
        if ret == 0 {
            return Ok(value);
        }
        Err(QueryError {
            device: self.0.info.device.clone(),
            what,
            errno: Errno::from_negative(ret),
        })
    }
}
