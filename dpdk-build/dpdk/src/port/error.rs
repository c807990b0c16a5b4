//! What can go wrong with a port, one type per operation.

use std::fmt;

use thiserror::Error;

use super::name::DeviceName;
use super::{PortConfig, PortInfo};
use crate::Errno;

/// Why a device could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The string cannot be devargs.
    #[error(
        "devargs `{devargs}` cannot be read: {why}. They are a device name and arguments, as in \
         `net_pcap0,rx_pcap=in.pcap` or `0000:01:00.0`",
        devargs = devargs.escape_debug()
    )]
    Malformed {
        /// What was given.
        devargs: String,
        /// What is wrong.
        why: String,
    },
    /// Neither a PCI address nor a virtual device of a driver that is built in.
    #[error(
        "devargs `{devargs}`: `{device}` is neither a PCI address nor a virtual device of a \
         driver built in; these start with one of {drivers}. A kernel interface goes through \
         net_af_packet0,iface={device}"
    )]
    UnknownDriver {
        /// What was given.
        devargs: String,
        /// The name in it.
        device: String,
        /// Drivers built in.
        drivers: String,
    },
    /// The device is attached already.
    #[error(
        "devargs `{devargs}`: device `{device}` is attached already; a second virtual device needs \
         another number at the end of its name"
    )]
    AlreadyAttached {
        /// What was given.
        devargs: String,
        /// The device's name.
        device: String,
    },
    /// A PCI device, and DPDK was started without PCI.
    #[error(
        "devargs `{devargs}`: DPDK was started without PCI (EalConfig::pci), so no PCI device can \
         be attached"
    )]
    PciOff {
        /// What was given.
        devargs: String,
    },
    /// There is no device at this PCI address.
    #[error("devargs `{devargs}`: there is no PCI device {address} in this machine. {there}")]
    NoSuchDevice {
        /// What was given.
        devargs: String,
        /// The address in it.
        address: String,
        /// Which network devices there are.
        there: String,
    },
    /// A PCI device that another driver has, or none.
    #[error("devargs `{devargs}`: {address} ({what}) is {binding}. {remedy}")]
    WrongDriver {
        /// What was given.
        devargs: String,
        /// The address in it.
        address: String,
        /// Vendor and device, e.g. `8086:1572`.
        what: String,
        /// Which driver has it.
        binding: String,
        /// The commands that give it to DPDK.
        remedy: String,
    },
    /// A PCI device that is bound as it should be, and refused.
    #[error("devargs `{devargs}`: {device} was refused: {reason}. {remedy}")]
    PciRefused {
        /// What was given.
        devargs: String,
        /// Its address, vendor, device and the driver that has it.
        device: String,
        /// The error number and what DPDK logged.
        reason: Refusal,
        /// What may help.
        remedy: String,
    },
    /// The driver refused the device.
    #[error("devargs `{devargs}`: device `{device}` was refused: {reason}. {remedy}")]
    Refused {
        /// What was given.
        devargs: String,
        /// The device's name.
        device: String,
        /// The error number and what DPDK logged.
        reason: Refusal,
        /// What may help.
        remedy: &'static str,
    },
    /// The device came up without an Ethernet port.
    #[error(
        "devargs `{devargs}`: device `{device}` was probed, but has no Ethernet port ({errno}): is \
         it a network device, and is its driver built in (RINGWAY_DPDK_DRIVERS)?"
    )]
    NoPort {
        /// What was given.
        devargs: String,
        /// The device's name.
        device: String,
        /// DPDK's error number.
        errno: Errno,
    },
}

/// Why a driver said no.
#[derive(Debug)]
pub struct Refusal {
    /// The error number; `None` where the driver only said -1.
    pub errno: Option<Errno>,
    /// Warnings and errors that DPDK logged meanwhile.
    pub log: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => write!(f, "{errno}")?,
            None => write!(f, "the driver gives no error number")?,
        }
        if !self.log.is_empty() {
            write!(f, "; DPDK says: {}", self.log.trim_end_matches('.'))?;
        }
        Ok(())
    }
}

impl Refusal {
    pub(super) fn new(ret: i32, log: String) -> Refusal {
        Refusal {
            // Drivers return a bare -1 for all kinds of reasons; it would
            // read "Operation not permitted".
            errno: (ret != -1).then(|| Errno::from_negative(ret)),
            log,
        }
    }
}

impl AttachError {
    pub(super) fn refused(
        devargs: &str,
        device: &DeviceName<'_>,
        ret: i32,
        log: String,
    ) -> AttachError {
        AttachError::Refused {
            devargs: devargs.to_owned(),
            device: device.name.clone(),
            reason: Refusal::new(ret, log),
            remedy: remedy(device),
        }
    }
}

fn remedy(device: &DeviceName<'_>) -> &'static str {
    let drivers = [
        (
            "net_pcap",
            "Does the file of rx_pcap exist and hold a capture, can tx_pcap's be written, and are \
             the arguments spelled rx_pcap=, tx_pcap=, rx_iface=, tx_iface= or iface=?",
        ),
        (
            "net_af_packet",
            "Does the interface of iface= exist (ip link), and has this process CAP_NET_RAW?",
        ),
        (
            "net_af_xdp",
            "Does the interface of iface= exist (ip link), and has this process CAP_NET_ADMIN and \
             CAP_BPF? net_af_packet needs less",
        ),
        (
            "net_t",
            "Is there /dev/net/tun, is the name of iface= free, and has this process CAP_NET_ADMIN?",
        ),
        (
            "net_virtio_user",
            "Does the socket of path= exist, and does a vhost-user backend listen on it?",
        ),
    ];
    drivers
        .iter()
        .find(|(driver, _)| device.name.starts_with(driver))
        .map_or(
            "Are its arguments spelled as the driver's guide has them?",
            |&(_, text)| text,
        )
}

/// Why a port could not be configured.
#[derive(Debug, Error)]
pub enum ConfigureError {
    /// More queues than the device has, or none.
    #[error(
        "port `{device}`: {asked} {direction} queues were asked for, its driver {driver} offers 1 \
         to {max}"
    )]
    Queues {
        /// The device's name.
        device: String,
        /// Its driver.
        driver: String,
        /// `receive` or `transmit`.
        direction: &'static str,
        /// Queues asked for.
        asked: u16,
        /// The most there can be.
        max: u16,
    },
    /// An MTU that the device cannot have.
    #[error("port `{device}`: an MTU of {mtu} is not possible, {min} to {max} is")]
    Mtu {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        mtu: u16,
        /// The smallest possible.
        min: u16,
        /// The largest possible.
        max: u16,
    },
    /// DPDK or the driver refused.
    #[error("port `{device}` (devargs `{devargs}`): {what} was refused: {errno}. DPDK says: {log}")]
    Refused {
        /// The device's name.
        device: String,
        /// What it was attached with.
        devargs: String,
        /// Which step.
        what: String,
        /// The error number.
        errno: Errno,
        /// What DPDK logged.
        log: String,
    },
}

impl ConfigureError {
    pub(super) fn refused(
        info: &PortInfo,
        config: &PortConfig,
        step: i32,
        errno: Errno,
        log: String,
    ) -> ConfigureError {
        let what = match u32::try_from(step).unwrap_or(0) {
            dpdk_sys::RW_STEP_MTU => format!("an MTU of {}", config.mtu.unwrap_or(0)),
            dpdk_sys::RW_STEP_RX_QUEUE => {
                format!("a receive queue with {} descriptors", config.rx_descriptors)
            }
            dpdk_sys::RW_STEP_TX_QUEUE => {
                format!(
                    "a transmit queue with {} descriptors",
                    config.tx_descriptors
                )
            }
            _ => format!(
                "a configuration of {} receive and {} transmit queues",
                config.rx_queues, config.tx_queues
            ),
        };
        ConfigureError::Refused {
            device: info.device.clone(),
            devargs: info.devargs.clone(),
            what,
            errno,
            log,
        }
    }
}

/// Why a port could not be started.
#[derive(Debug, Error)]
#[error("port `{device}` (devargs `{devargs}`): {what}: {errno}. DPDK says: {log}")]
pub struct StartError {
    /// The device's name.
    pub device: String,
    /// What it was attached with.
    pub devargs: String,
    /// What failed.
    pub what: &'static str,
    /// The error number.
    pub errno: Errno,
    /// What DPDK logged.
    pub log: String,
}

/// Why a running port could not be given another MTU.
#[derive(Debug, Error)]
pub enum MtuError {
    /// An MTU that the device cannot have. Nothing was changed.
    #[error("port `{device}`: an MTU of {mtu} is not possible, {min} to {max} is")]
    OutOfBounds {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        mtu: u16,
        /// The smallest possible.
        min: u16,
        /// The largest possible.
        max: u16,
    },
    /// The driver refused. The device runs on with the MTU it had.
    #[error("port `{device}`: an MTU of {mtu} was refused: {errno}. DPDK says: {log}")]
    Refused {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        mtu: u16,
        /// The error number.
        errno: Errno,
        /// What DPDK logged.
        log: String,
    },
    /// The device does not run any more: detach it and attach it again.
    #[error("port `{device}` {what} for an MTU of {mtu}: {errno}. DPDK says: {log}")]
    Stopped {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        mtu: u16,
        /// Which step failed.
        what: &'static str,
        /// The error number.
        errno: Errno,
        /// What DPDK logged.
        log: String,
    },
}

/// Why a port could not be asked.
#[derive(Debug, Error)]
#[error("port `{device}`: its {what} could not be read: {errno}")]
pub struct QueryError {
    /// The device's name.
    pub device: String,
    /// What was asked.
    pub what: &'static str,
    /// The error number.
    pub errno: Errno,
}

/// Any of a port's errors, for callers that go through all the steps.
#[derive(Debug, Error)]
pub enum PortError {
    /// It could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// It could not be configured.
    #[error(transparent)]
    Configure(#[from] ConfigureError),
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It could not be asked.
    #[error(transparent)]
    Query(#[from] QueryError),
}
