//! Ports: attach → configure → start. Each step takes the last one's value;
//! dropping any of them stops, closes and detaches the device.

// UNSAFETY: DPDK's device calls, by port number.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt;
use std::sync::Arc;

mod device;
mod error;
mod events;
mod interface;
mod name;
mod pci;
mod running;

use device::{Device, control_lock};
pub use error::{AttachError, ConfigureError, MtuError, PortError, QueryError, StartError};
use name::{Bus, DeviceName};
pub use running::{LinkState, PortStats, RunningPort};

use crate::offload::TxOffloads;
use crate::queue::{QueueId, RxQueue, TxQueue};
use crate::{Eal, Errno, MemoryKind, Mempool, log};

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
    /// It gives received frames that do not fit one buffer as a chain.
    pub rx_scatter: bool,
    /// What it can do to packets that it sends. All of it is on.
    pub offloads: TxOffloads,
}

impl PortInfo {
    /// Its driver wants as many transmit queues as receive queues.
    pub fn equal_queues(&self) -> bool {
        ["net_tap", "net_tun", "net_af_xdp"].contains(&self.driver.as_str())
    }

    /// Whether it has so many queues each way.
    pub fn check_queues(&self, rx: u16, tx: u16) -> Result<(), ConfigureError> {
        let directions = [
            ("receive", rx, self.max_rx_queues),
            ("transmit", tx, self.max_tx_queues),
        ];
        match directions
            .into_iter()
            .find(|(_, asked, max)| *asked == 0 || asked > max)
        {
            None => Ok(()),
            Some((direction, asked, max)) => Err(ConfigureError::Queues {
                device: self.device.clone(),
                driver: self.driver.clone(),
                direction,
                asked,
                max,
            }),
        }
    }

    /// The largest MTU whose frames, with two VLAN tags, fit into the
    /// buffers of `mempool` as this device fills them.
    pub fn max_mtu_with(&self, mempool: &Mempool) -> u16 {
        if self.rx_scatter {
            return self.max_mtu;
        }
        let room = mempool.data_room().saturating_sub(FRAME_OVERHEAD);
        self.max_mtu.min(u16::try_from(room).unwrap_or(u16::MAX))
    }
}

/// Ethernet header, its checksum and two VLAN tags: what a frame has besides
/// its MTU.
const FRAME_OVERHEAD: usize = 14 + 4 + 8;

/// How to set a port up.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Receive queues, at least 1. Packets are spread over them by flow hash
    /// where the device can.
    pub rx_queues: u16,
    /// Transmit queues, at least 1.
    pub tx_queues: u16,
    /// Descriptors of each receive queue; adjusted to what the driver takes.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue; adjusted as well.
    pub tx_descriptors: u16,
    /// The MTU in bytes, without Ethernet header. `None`: the device's own.
    pub mtu: Option<u16>,
    /// Where received packets are put. Many drivers (NICs, net_tap,
    /// net_virtio_user) fill all receive descriptors from it at start: let it
    /// hold more than `rx_queues` times `rx_descriptors` buffers.
    pub mempool: Mempool,
}

impl PortConfig {
    /// One queue each way with 1024 descriptors, and the device's own MTU.
    pub fn new(mempool: Mempool) -> PortConfig {
        PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            mempool,
        }
    }
}

/// What a device has got of what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSettings {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// What packets are spread over the receive queues by.
    pub rss: RssHashes,
    /// The device tells changes of its link; others have to be asked.
    pub link_events: bool,
}

/// What a device's receive-side scaling hashes. Nothing with one queue, and
/// with devices that spread packets in a way of their own or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RssHashes {
    /// IP addresses.
    pub ip: bool,
    /// TCP ports.
    pub tcp: bool,
    /// UDP ports.
    pub udp: bool,
}

impl fmt::Display for RssHashes {
    /// `ip tcp udp`, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = [(self.ip, "ip"), (self.tcp, "tcp"), (self.udp, "udp")]
            .into_iter()
            .filter_map(|(has, name)| has.then_some(name))
            .collect();
        if names.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&names.join(" "))
    }
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
        if device.bus == Bus::Pci {
            pci::check(devargs, &device.name, has_hugepages(eal))?;
        }
        let mut attached = control_lock();
        if attached.contains(&device.name) {
            return Err(AttachError::AlreadyAttached {
                devargs: devargs.to_owned(),
                device: device.name,
            });
        }
        let port = attach_device(&device, devargs, eal)?;
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
        info.check_queues(config.rx_queues, config.tx_queues)?;
        let max_mtu = info.max_mtu_with(&config.mempool);
        if let Some(mtu) = config.mtu
            && (mtu < info.min_mtu || mtu > max_mtu)
        {
            return Err(ConfigureError::Mtu {
                device: info.device.clone(),
                mtu,
                min: info.min_mtu,
                max: max_mtu,
            });
        }
        // The driver keeps the pool's address from here on.
        let pool = self.device.mempool.insert(config.mempool.clone()).raw();
        let mut raw = dpdk_sys::rw_port_config {
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mtu: config.mtu.unwrap_or(0),
            rss_ip: false,
            rss_tcp: false,
            rss_udp: false,
            link_events: false,
            pool,
        };
        let mark = log::mark();
        let mut step = 0;
        let ret = {
            let _lock = control_lock();
            // SAFETY: the port is ours and not started; the pool lives as long
            // as the device.
            unsafe { dpdk_sys::rw_port_configure(self.device.info.id.0, &mut raw, &mut step) }
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
        self.device.settings = PortSettings {
            rx_queues: raw.rx_queues,
            tx_queues: raw.tx_queues,
            rx_descriptors: raw.rx_descriptors,
            tx_descriptors: raw.tx_descriptors,
            rss: RssHashes {
                ip: raw.rss_ip,
                tcp: raw.rss_tcp,
                udp: raw.rss_udp,
            },
            link_events: raw.link_events,
        };
        Ok(ConfiguredPort {
            device: self.device,
        })
    }
}

fn has_hugepages(eal: &Eal) -> bool {
    matches!(eal.memory(), MemoryKind::Hugepages { .. })
}

fn attach_device(device: &DeviceName, devargs: &str, eal: &Eal) -> Result<Port, AttachError> {
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
        let log = log::errors_since(mark);
        if device.bus == Bus::Pci {
            let address = device.name.as_str();
            return Err(pci::explain(devargs, address, ret, log, has_hugepages(eal)));
        }
        return Err(AttachError::refused(devargs, device, ret, log));
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
        device: Device::new(
            PortInfo {
                id: PortId(id as u16),
                device: device.name.clone(),
                driver: text(&raw.driver),
                devargs: devargs.to_owned(),
                max_rx_queues: raw.max_rx_queues,
                max_tx_queues: raw.max_tx_queues,
                min_mtu: raw.min_mtu,
                max_mtu: raw.max_mtu,
                rx_scatter: raw.rx_scatter,
                offloads: TxOffloads::from_raw(&raw),
            },
            device,
        ),
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
            if let Err(ret) = self.device.watch() {
                return Err(failed(&self.device, "its events are not to be had", ret));
            }
            if let Err(ret) = self.device.start() {
                return Err(failed(&self.device, "it did not start", ret));
            }
            // SAFETY: the port is ours and runs.
            let ret = unsafe { dpdk_sys::rw_port_promiscuous(id, true) };
            if ret != 0 {
                return Err(failed(&self.device, "promiscuous mode was refused", ret));
            }
        }
        let settings = self.device.settings;
        let port = RunningPort(Arc::new(self.device));
        let rx = (0..settings.rx_queues)
            .map(|queue| RxQueue::new(port.clone(), QueueId(queue)))
            .collect();
        let tx = (0..settings.tx_queues)
            .map(|queue| TxQueue::new(port.clone(), QueueId(queue)))
            .collect();
        Ok((port, rx, tx))
    }
}
