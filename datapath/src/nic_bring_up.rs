//! Brings a DPDK device up, from its options to running queues, and changes it.

use std::sync::Arc;

use dpdk::{ConfigureError, Mempool, MtuError, Port as DpdkDevice, PortConfig, PortInfo};
use ringway_vhost::BURST;

use crate::actual::Inner;
use crate::error::DatapathError;
use crate::nic::Nic;
use crate::port::Backing;
use crate::spec::DpdkSpec;

/// Largest frame one mbuf holds: jumbo frames fit without chaining.
const MBUF_DATA_BYTES: u16 = 9_728;
/// AF_XDP's buffers lie within one page, with their headers.
const AF_XDP_DATA_BYTES: u16 = 3_072;
/// Mbufs that each poll-mode core may keep for itself (DPDK lets a cache grow
/// to one and a half times its size).
const MBUF_CACHE: u32 = 256;
/// Descriptors that a virtual driver may have in use whatever it was asked for.
const LEAST_DESCRIPTORS: u16 = 1024;
/// The same for net_af_xdp, which fills rings of this size.
const AF_XDP_DESCRIPTORS: u16 = 4096;

impl Inner {
    /// Attaches, configures and starts the device of `options`. Returns it and
    /// the number of queues to poll.
    pub fn start_nic(
        &self,
        name: &str,
        mtu: Option<u16>,
        options: &DpdkSpec,
    ) -> Result<(Backing, usize), DatapathError> {
        let unavailable = |error: &dyn std::fmt::Display| DatapathError::Unavailable {
            port: name.to_owned(),
            why: error.to_string(),
        };
        check(name, options)?;
        let device =
            DpdkDevice::attach(&self.eal, &options.devargs).map_err(|error| unavailable(&error))?;
        let pmds = u16::try_from(self.pmds.len()).unwrap_or(u16::MAX);
        let tx_queues = options
            .tx_queues
            .unwrap_or_else(|| default_tx_queues(device.info(), options.rx_queues, pmds));
        device
            .info()
            .check_queues(options.rx_queues, tx_queues)
            .map_err(|error| refused(name, error))?;
        let mempool = self
            .mempool_for(device.info(), options, tx_queues)
            .map_err(|error| unavailable(&error))?;
        let mut config = PortConfig::new(mempool.clone());
        config.rx_queues = options.rx_queues;
        config.tx_queues = tx_queues;
        config.rx_descriptors = options.rx_descriptors;
        config.tx_descriptors = options.tx_descriptors;
        config.mtu = mtu;
        let (running, rx, tx) = device
            .configure(&config)
            .map_err(|error| refused(name, error))?
            .start()
            .map_err(|error| unavailable(&error))?;
        let nic = Nic::new(running, rx, tx, mempool, Arc::clone(&self.bell));
        let queues = nic.rx_queues();
        Ok((Backing::Nic(Arc::new(nic)), queues))
    }

    /// A pool of the device's own: no other port's frames can use it up. It
    /// has a buffer for each descriptor, and for what the cores have in hand.
    fn mempool_for(
        &self,
        info: &PortInfo,
        options: &DpdkSpec,
        tx_queues: u16,
    ) -> Result<Mempool, dpdk::MempoolError> {
        let af_xdp = info.driver == "net_af_xdp";
        let (least, data_bytes) = match af_xdp {
            true => (AF_XDP_DESCRIPTORS, AF_XDP_DATA_BYTES),
            false => (LEAST_DESCRIPTORS, MBUF_DATA_BYTES),
        };
        let held =
            |queues: u16, descriptors: u16| u32::from(queues) * u32::from(descriptors.max(least));
        let per_core = MBUF_CACHE * 3 / 2 + 2 * BURST as u32;
        let count = held(options.rx_queues, options.rx_descriptors)
            + held(tx_queues, options.tx_descriptors)
            + per_core * self.pmds.len() as u32;
        Mempool::create(&self.eal, &info.device, count, data_bytes, MBUF_CACHE)
    }
}

/// Finds what no device can have.
fn check(name: &str, options: &DpdkSpec) -> Result<(), DatapathError> {
    let zero = [
        ("n_rxq", options.rx_queues, "receive queue"),
        (
            "n_txq",
            options.tx_queues.unwrap_or(1),
            "transmit queue (or leave the option out)",
        ),
        (
            "n_rxq_desc",
            options.rx_descriptors,
            "descriptor of each receive queue",
        ),
        (
            "n_txq_desc",
            options.tx_descriptors,
            "descriptor of each transmit queue",
        ),
    ];
    match zero.iter().find(|(_, value, _)| *value == 0) {
        None => Ok(()),
        Some((option, _, what)) => Err(DatapathError::BadOption {
            port: name.to_owned(),
            why: format!("{option}=0: a DPDK port needs at least one {what}"),
        }),
    }
}

/// One transmit queue for each poll-mode core, as far as the device goes.
fn default_tx_queues(info: &PortInfo, rx_queues: u16, pmds: u16) -> u16 {
    if info.equal_queues() {
        return rx_queues;
    }
    pmds.min(info.max_tx_queues).max(1)
}

/// More queues than there are and the like are the options' fault.
fn refused(name: &str, error: ConfigureError) -> DatapathError {
    let (port, why) = (name.to_owned(), error.to_string());
    match error {
        ConfigureError::Queues { .. } | ConfigureError::Mtu { .. } => {
            DatapathError::BadOption { port, why }
        }
        ConfigureError::Refused { .. } => DatapathError::Unavailable { port, why },
    }
}

/// Gives a running device another MTU. On failure it keeps the one it had; one
/// that does not come up again says so in its state.
pub fn change_mtu(nic: &Nic, name: &str, mtu: u16) -> Result<(), DatapathError> {
    nic.set_mtu(mtu).map_err(|error| {
        let (port, why) = (name.to_owned(), error.to_string());
        match error {
            MtuError::OutOfBounds { .. } | MtuError::Refused { .. } => {
                DatapathError::BadOption { port, why }
            }
            MtuError::Stopped { .. } => DatapathError::Unavailable { port, why },
        }
    })
}

/// The device's own counters.
pub fn device_counters(nic: &Nic, name: &str) -> Result<Vec<(String, u64)>, DatapathError> {
    nic.device_counters()
        .map_err(|error| DatapathError::Unavailable {
            port: name.to_owned(),
            why: error.to_string(),
        })
}
