//! Ports: attach → configure → start. Each step takes the last one's value;
//! dropping any of them stops, closes and detaches the device.

// UNSAFETY: DPDK's device calls, by port number.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod error;
mod name;

pub use error::{AttachError, ConfigureError, PortError, QueryError, StartError};
use name::{Bus, DeviceName};

use crate::mbuf::MbufBurst;
use crate::offload::TxOffloads;
use crate::queue::{QueueId, RxQueue, TxQueue};
use crate::{Eal, Errno, Mempool, log};

/// A port's number in DPDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of a port from the start.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Its number in DPDK.
    pub id: PortId,
    /// The device's name: `net_pcap0`, `0000:01:00.0`.
    pub device: String,
    /// The driver's name: `net_pcap`.
    pub driver: String,
    /// What was given to [`Port::attach`].
    pub devargs: String,
    /// The most receive queues.
    pub max_rx_queues: u16,
    /// The most transmit queues.
    pub max_tx_queues: u16,
    /// The smallest MTU, in bytes.
    pub min_mtu: u16,
    /// The largest MTU, in bytes.
    pub max_mtu: u16,
    /// What it can do to packets that it sends. All of it is on.
    pub offloads: TxOffloads,
}

/// How to set a port up.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Receive queues, at least 1. Packets are spread over them by flow hash
    /// where the device can.
    pub rx_queues: u16,
    /// Transmit queues, at least 1.
    pub tx_queues: u16,
    /// Descriptors per queue; adjusted to what the driver takes.
    pub descriptors: u16,
    /// The MTU in bytes, without Ethernet header. `None`: the device's own.
    pub mtu: Option<u16>,
    /// Where received packets are put. Many drivers (NICs, net_tap,
    /// net_virtio_user) fill all receive descriptors from it at start: let it
    /// hold more than `rx_queues` times `descriptors` buffers.
    pub mempool: Mempool,
}

impl PortConfig {
    /// One queue each way with 1024 descriptors, and the device's own MTU.
    pub fn new(mempool: Mempool) -> PortConfig {
        PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            descriptors: 1024,
            mtu: None,
            mempool,
        }
    }
}

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

/// Names of attached devices. Its lock is held through every call that
/// attaches, configures, starts or closes: DPDK does not lock these itself.
static ATTACHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn control_lock() -> MutexGuard<'static, BTreeSet<String>> {
    ATTACHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device while anything of ours uses it.
#[derive(Debug)]
struct Device {
    info: PortInfo,
    bus: Bus,
    mempool: Option<Mempool>,
    rx_queues: u16,
    started: bool,
}

/// An attached device, not yet configured.
#[derive(Debug)]
pub struct Port {
    device: Device,
}

impl Port {
    /// Attaches a device: a virtual one (`net_pcap0,rx_pcap=in.pcap`,
    /// `net_af_packet0,iface=veth0`, `net_null0`, …; see [`Eal::drivers`]) or a
    /// PCI address with or without arguments (`0000:01:00.0`). A failure leaves
    /// nothing behind.
    pub fn attach(eal: &Eal, devargs: &str) -> Result<Port, AttachError> {
        let device = DeviceName::parse(devargs, eal.drivers())?;
        if device.bus == Bus::Pci && !eal.pci() {
            return Err(AttachError::PciOff {
                devargs: devargs.to_owned(),
            });
        }
        let mut attached = control_lock();
        if attached.contains(&device.name) {
            return Err(AttachError::AlreadyAttached {
                devargs: devargs.to_owned(),
                device: device.name,
            });
        }
        let port = attach_device(&device, devargs)?;
        attached.insert(device.name);
        Ok(port)
    }

    /// What is known of it.
    pub fn info(&self) -> &PortInfo {
        &self.device.info
    }

    /// Sets up queues and MTU. On failure the device is detached.
    pub fn configure(mut self, config: &PortConfig) -> Result<ConfiguredPort, ConfigureError> {
        let info = &self.device.info;
        check_queues(info, "receive", config.rx_queues, info.max_rx_queues)?;
        check_queues(info, "transmit", config.tx_queues, info.max_tx_queues)?;
        if let Some(mtu) = config.mtu
            && (mtu < info.min_mtu || mtu > info.max_mtu)
        {
            return Err(ConfigureError::Mtu {
                device: info.device.clone(),
                mtu,
                min: info.min_mtu,
                max: info.max_mtu,
            });
        }
        // The driver keeps the pool's address from here on.
        let pool = self.device.mempool.insert(config.mempool.clone()).raw();
        let raw = dpdk_sys::rw_port_config {
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            descriptors: config.descriptors,
            mtu: config.mtu.unwrap_or(0),
            pool,
        };
        let mark = log::mark();
        let mut step = 0;
        let ret = {
            let _lock = control_lock();
            // SAFETY: the port is ours and not started; the pool lives as long
            // as the device.
            unsafe { dpdk_sys::rw_port_configure(self.device.info.id.0, &raw, &mut step) }
        };
        if ret != 0 {
            return Err(ConfigureError::refused(
                &self.device.info,
                config,
                step,
                Errno::from_negative(ret),
                log::errors_since(mark),
            ));
        }
        self.device.rx_queues = config.rx_queues;
        Ok(ConfiguredPort {
            device: self.device,
            tx_queues: config.tx_queues,
        })
    }
}

fn check_queues(
    info: &PortInfo,
    direction: &'static str,
    asked: u16,
    max: u16,
) -> Result<(), ConfigureError> {
    if asked == 0 || asked > max {
        return Err(ConfigureError::Queues {
            device: info.device.clone(),
            driver: info.driver.clone(),
            direction,
            asked,
            max,
        });
    }
    Ok(())
}

fn attach_device(device: &DeviceName, devargs: &str) -> Result<Port, AttachError> {
    let mark = log::mark();
    let c_string = |text: &str| {
        CString::new(text).map_err(|_| AttachError::Malformed {
            devargs: devargs.to_owned(),
            why: "they hold a NUL byte".to_owned(),
        })
    };
    let name = c_string(&device.name)?;
    let ret = match device.bus {
        Bus::Virtual => {
            let arguments = c_string(device.arguments)?;
            // SAFETY: two C strings; the caller holds the control lock.
            unsafe { dpdk_sys::rw_vdev_attach(name.as_ptr(), arguments.as_ptr()) }
        }
        Bus::Pci => {
            let whole = c_string(&format!("{},{}", device.name, device.arguments))?;
            // SAFETY: a C string; the caller holds the control lock.
            unsafe { dpdk_sys::rw_bus_attach(whole.as_ptr()) }
        }
    };
    if ret != 0 {
        return Err(AttachError::refused(
            devargs,
            device,
            ret,
            log::errors_since(mark),
        ));
    }
    // SAFETY: a C string; the caller holds the control lock.
    let id = unsafe { dpdk_sys::rw_port_of_device(name.as_ptr()) };
    let mut raw = dpdk_sys::rw_port_info::default();
    let ret = match u16::try_from(id) {
        // SAFETY: a valid port and an out parameter of ours.
        Ok(id) => unsafe { dpdk_sys::rw_port_info_get(id, &mut raw) },
        Err(_) => id,
    };
    if ret != 0 {
        if device.bus == Bus::Virtual {
            // SAFETY: attached above, and nothing of ours uses it.
            unsafe { dpdk_sys::rw_vdev_detach(name.as_ptr()) };
        }
        return Err(AttachError::NoPort {
            devargs: devargs.to_owned(),
            device: device.name.clone(),
            errno: Errno::from_negative(ret),
        });
    }
    Ok(Port {
        device: Device {
            info: PortInfo {
                id: PortId(id as u16),
                device: device.name.clone(),
                driver: text(&raw.driver),
                devargs: devargs.to_owned(),
                max_rx_queues: raw.max_rx_queues,
                max_tx_queues: raw.max_tx_queues,
                min_mtu: raw.min_mtu,
                max_mtu: raw.max_mtu,
                offloads: TxOffloads::from_raw(&raw),
            },
            bus: device.bus,
            mempool: None,
            rx_queues: 0,
            started: false,
        },
    })
}

fn text(field: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = field.iter().map(|&c| c as u8).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// A device with queues, not yet started.
#[derive(Debug)]
pub struct ConfiguredPort {
    device: Device,
    tx_queues: u16,
}

impl ConfiguredPort {
    /// What is known of it.
    pub fn info(&self) -> &PortInfo {
        &self.device.info
    }

    /// Starts the device, promiscuous where the driver knows that (a switch
    /// port takes every frame), and gives its queues, by number. On failure the
    /// device is detached.
    pub fn start(mut self) -> Result<(RunningPort, Vec<RxQueue>, Vec<TxQueue>), StartError> {
        let id = self.device.info.id.0;
        let mark = log::mark();
        let failed = |device: &Device, what, ret| StartError {
            device: device.info.device.clone(),
            devargs: device.info.devargs.clone(),
            what,
            errno: Errno::from_negative(ret),
            log: log::errors_since(mark),
        };
        {
            // Goes before the device does, whose drop takes it again.
            let _lock = control_lock();
            // SAFETY: the port is ours and configured.
            let ret = unsafe { dpdk_sys::rte_eth_dev_start(id) };
            if ret != 0 {
                return Err(failed(&self.device, "it did not start", ret));
            }
            self.device.started = true;
            // SAFETY: the port is ours and runs.
            let ret = unsafe { dpdk_sys::rw_port_promiscuous(id, true) };
            if ret != 0 {
                return Err(failed(&self.device, "promiscuous mode was refused", ret));
            }
        }
        let (rx_queues, tx_queues) = (self.device.rx_queues, self.tx_queues);
        let port = RunningPort(Arc::new(self.device));
        let rx = (0..rx_queues)
            .map(|queue| RxQueue::new(port.clone(), QueueId(queue)))
            .collect();
        let tx = (0..tx_queues)
            .map(|queue| TxQueue::new(port.clone(), QueueId(queue)))
            .collect();
        Ok((port, rx, tx))
    }
}

/// A handle on a started device. Cheap to clone. The last of its handles and
/// queues to be dropped stops, closes and detaches it; that takes a while, so
/// let a control thread hold a handle until the poll-mode threads have dropped
/// their queues.
#[derive(Clone, Debug)]
pub struct RunningPort(Arc<Device>);

impl RunningPort {
    /// What is known of it.
    pub fn info(&self) -> &PortInfo {
        &self.0.info
    }

    /// Its number in DPDK.
    pub fn id(&self) -> PortId {
        self.0.info.id
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
        let link = LinkState {
            up: raw.up,
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

impl Device {
    /// A ring device lets packets go that still lie in its rings, and their
    /// pool would never be complete again: take them out first. Whatever was
    /// sent to it by now is there; nobody else can send.
    fn drain_rings(&self) {
        let mut burst = MbufBurst::new();
        for queue in 0..self.rx_queues {
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
        if self.started && self.info.driver == "net_ring" {
            self.drain_rings();
        }
        // The calls below fail only when the device has gone by itself (PCI
        // unplugged); there is nothing left to do then, and DPDK's log says so.
        // SAFETY: the port is ours and nothing uses it any more.
        unsafe {
            if self.started {
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
