//! A device while anything of ours uses it.

// UNSAFETY: DPDK's device calls, by port number.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::events::{Events, told};
use super::interface::KernelInterface;
use super::name::{Bus, DeviceName};
use super::{PortInfo, PortSettings};
use crate::Mempool;
use crate::mbuf::MbufBurst;

/// Names of attached devices. Its lock is held through every call that
/// attaches, configures, starts or closes: DPDK does not lock these itself.
static ATTACHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

pub(super) fn control_lock() -> MutexGuard<'static, BTreeSet<String>> {
    ATTACHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device while anything of ours uses it.
#[derive(Debug)]
pub(super) struct Device {
    pub info: PortInfo,
    pub bus: Bus,
    pub interface: Option<KernelInterface>,
    pub mempool: Option<Mempool>,
    pub settings: PortSettings,
    pub events: Arc<Events>,
    /// The MTU that a driver was given which knows none; 0: ask the driver.
    pub mtu: AtomicU16,
    watched: bool,
    started: AtomicBool,
}

impl Device {
    pub fn new(info: PortInfo, device: &DeviceName<'_>) -> Device {
        Device {
            interface: KernelInterface::of(&info.driver, device.arguments),
            info,
            bus: device.bus,
            mempool: None,
            settings: PortSettings::default(),
            events: Arc::default(),
            mtu: AtomicU16::new(0),
            watched: false,
            started: AtomicBool::new(false),
        }
    }

    /// Has DPDK tell `events` what happens to the device. The caller holds the
    /// control lock.
    pub fn watch(&mut self) -> Result<(), i32> {
        // SAFETY: the port is ours; the events live until `unwatch`, which
        // drop calls.
        let ret =
            unsafe { dpdk_sys::rw_port_watch(self.info.id.0, Some(told), self.events_pointer()) };
        if ret != 0 {
            return Err(ret);
        }
        self.watched = true;
        if self.bus == Bus::Pci
            && let Ok(name) = CString::new(self.info.device.as_str())
        {
            // A kernel without such events is no reason to do without the
            // device: then its absence is noticed a little later.
            // SAFETY: as above, and a C string.
            unsafe { dpdk_sys::rw_device_watch(name.as_ptr(), Some(told), self.events_pointer()) };
        }
        Ok(())
    }

    fn unwatch(&mut self) {
        if !self.watched {
            return;
        }
        // SAFETY: watched with these arguments; both calls wait until nobody
        // uses the events any more.
        unsafe {
            dpdk_sys::rw_port_unwatch(self.info.id.0, self.events_pointer());
            if self.bus == Bus::Pci
                && let Ok(name) = CString::new(self.info.device.as_str())
            {
                dpdk_sys::rw_device_unwatch(name.as_ptr(), self.events_pointer());
            }
        }
    }

    fn events_pointer(&self) -> *mut c_void {
        Arc::as_ptr(&self.events).cast_mut().cast()
    }

    /// Starts it. The caller holds the control lock.
    pub fn start(&self) -> Result<(), i32> {
        // SAFETY: the port is ours and configured.
        let ret = unsafe { dpdk_sys::rte_eth_dev_start(self.info.id.0) };
        if ret != 0 {
            return Err(ret);
        }
        self.started.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Stops it. The caller holds the control lock, and nobody receives or
    /// sends until it is started again.
    pub fn stop(&self) -> Result<(), i32> {
        // SAFETY: the port is ours; the caller's promise.
        let ret = unsafe { dpdk_sys::rte_eth_dev_stop(self.info.id.0) };
        if ret != 0 {
            return Err(ret);
        }
        self.started.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// A ring device lets packets go that still lie in its rings, and their
    /// pool would never be complete again: take them out first. Whatever was
    /// sent to it by now is there; nobody else can send.
    fn drain_rings(&self) {
        let mut burst = MbufBurst::new();
        for queue in 0..self.settings.rx_queues {
            loop {
                let (places, room) = burst.free_places();
                // SAFETY: the port runs and all its queues are gone, so this is
                // the only user; there are `room` places.
                let got = unsafe {
                    let got = dpdk_sys::rw_rx_burst(self.info.id.0, queue, places, room);
                    burst.take_over(usize::from(got));
                    got
                };
                burst.clear();
                if got == 0 {
                    break;
                }
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut attached = control_lock();
        let id = self.info.id.0;
        let started = self.started.load(Ordering::Relaxed);
        if started && self.info.driver == "net_ring" {
            self.drain_rings();
        }
        self.unwatch();
        // The calls below fail only when the device has gone by itself (PCI
        // unplugged); there is nothing left to do then, and DPDK's log says so.
        // SAFETY: the port is ours and nothing uses it any more.
        unsafe {
            if started {
                // net_af_packet leaves its kernel interface as it is.
                dpdk_sys::rw_port_promiscuous(id, false);
                dpdk_sys::rte_eth_dev_stop(id);
            }
            dpdk_sys::rw_port_close(id, self.bus == Bus::Pci);
        }
        if self.bus == Bus::Virtual
            && let Ok(name) = CString::new(self.info.device.as_str())
        {
            // SAFETY: a C string; the port on this device is closed.
            unsafe { dpdk_sys::rw_vdev_detach(name.as_ptr()) };
        }
        attached.remove(&self.info.device);
    }
}
