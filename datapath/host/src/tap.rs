//! Tap devices: interfaces of the host whose other end is a file descriptor
//! (Documentation/networking/tuntap.rst of the kernel).
//!
//! **Who holds it.** A frame that the host sends through the interface is read from
//! the descriptor; a frame that is written there the host receives. An *internal*
//! port's tap is held by us. A *tap* port's is made by us and left to QEMU
//! ([`make_persistent`]); we are then at the interface's side of it, as with any
//! other interface.
//!
//! **Persistence.** A persistent device stays when its last descriptor is closed,
//! with its index, address, MTU, IP addresses and routes; only its carrier goes.
//! So ringwayd can be restarted under a host's network: the next [`Tap::open`]
//! attaches to the same device.
//!
//! **Offloads.** Each frame has a virtio-net header of 12 bytes before it, both
//! ways. The kernel may leave checksums to be made and TCP or UDP to be cut by
//! whom it hands the frame, and takes such frames itself.
//!
//! **Buffers.** What is written is charged to the device's send buffer, whose
//! default (TUNSETSNDBUF) is without limit in effect, and is left so: a write is not refused
//! because the host's stack is slow, and the frame is dropped there and counted there.
//! What the host sends is queued up to `txqueuelen` frames (1000 by default) until
//! it is read, and dropped beyond that (`tx_dropped` of the interface).
//!
//! UNSAFETY: ioctl(2) on a tun descriptor is handed a structure or a number.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};

use crate::HostError;
use crate::link::{self, Link, TunFacts, name_fault};

/// Bytes of the header before each frame: the one of virtio 1, with `num_buffers`.
pub const VNET_HEADER_BYTES: libc::c_int = 12;
/// As many queues as the tun driver has for a device.
pub const MAX_QUEUES: u16 = 256;

/// MTUs that a tap takes: the kernel's least, and what fits 64 KiB with a frame's head.
pub const MTU: std::ops::RangeInclusive<u32> = 68..=65_521;

/// How a tap is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOptions {
    /// Queues, each with its own descriptor, 1 to [`MAX_QUEUES`]. One makes a
    /// single-queue device, which is another thing to the kernel than a multi-queue
    /// device of which one queue is open.
    pub queues: u16,
    /// The device stays when its last descriptor is closed. One that was persistent
    /// already stays so in either case.
    pub persistent: bool,
    /// User and group that may open it besides root.
    pub owner: Option<(u32, u32)>,
}

/// An opened tap device: frames with a virtio-net header of 12 bytes before them.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<OwnedFd>,
    udp_segmentation: bool,
}

impl Tap {
    /// Makes the tap, or attaches to the one that exists, with all offloads.
    ///
    /// # Errors
    ///
    /// A name that the kernel does not take; something else has the name; a tap
    /// that another process holds, or that is single-queue where several are asked
    /// for, or the other way round; no tun driver; no privilege. Nothing has
    /// changed then.
    pub fn open(name: &str, options: &TapOptions) -> Result<Self, HostError> {
        let count = options.queues.clamp(1, MAX_QUEUES);
        let multi_queue = count > 1;
        let existing = existing(name)?;
        if let Some((_, facts)) = &existing {
            if facts.multi_queue != multi_queue {
                return Err(HostError::TapQueues {
                    name: name.to_owned(),
                    found: queues_word(facts.multi_queue),
                    wanted: queues_word(multi_queue),
                });
            }
            // The driver would let us share the queues with their owner.
            if facts.open_queues > 0 {
                return Err(HostError::TapBusy {
                    name: name.to_owned(),
                });
            }
        }
        let queues = (0..count)
            .map(|_| attach(name, multi_queue))
            .collect::<Result<Vec<File>, _>>()?;
        let udp_segmentation = prepare(&queues[0])
            .and_then(|granted| {
                keep(&queues[0], options.persistent, options.owner)?;
                Ok(granted)
            })
            .map_err(|source| HostError::refused("prepare the tap", name, source, None, None))?;
        Ok(Self {
            name: name.to_owned(),
            queues: queues.into_iter().map(OwnedFd::from).collect(),
            udp_segmentation,
        })
    }

    /// The descriptors, one a queue, nonblocking.
    #[must_use]
    pub fn queues(&self) -> &[OwnedFd] {
        &self.queues
    }

    /// The descriptors, to be kept by the caller. When all are closed, the device
    /// goes unless it is persistent.
    #[must_use]
    pub fn into_queues(self) -> Vec<OwnedFd> {
        self.queues
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel may hand us large UDP frames to be cut (VIRTIO_NET_HDR_GSO_UDP_L4;
    /// since 6.2). It takes them from us in either case.
    #[must_use]
    pub fn udp_segmentation(&self) -> bool {
        self.udp_segmentation
    }
}

/// Makes a persistent single-queue tap and lets it go, so that QEMU can open it
/// (`-netdev tap,ifname=NAME,script=no,downscript=no`). A tap that exists stays as
/// it is, also while QEMU holds it.
///
/// # Errors
///
/// As [`Tap::open`].
pub fn make_persistent(name: &str, owner: Option<(u32, u32)>) -> Result<(), HostError> {
    if existing(name)?.is_some() {
        return Ok(());
    }
    let file = attach(name, false)?;
    keep(&file, true, owner)
        .map_err(|source| HostError::refused("make persistent the tap", name, source, None, None))
}

/// Deletes the tap of that name, also while somebody holds it. That there is none
/// is no error.
///
/// # Errors
///
/// The name belongs to something that is no tap; the kernel's.
pub fn delete_tap(name: &str) -> Result<(), HostError> {
    if name_fault(name).is_some() {
        return Ok(());
    }
    existing(name)?.map_or(Ok(()), |(link, _)| link::delete(link.index))
}

/// The tap of that name, if there is one.
fn existing(name: &str) -> Result<Option<(Link, TunFacts)>, HostError> {
    // To the tun driver a name with '%' is a pattern that it fills in.
    let fault = name_fault(name).or(name.contains('%').then_some("it is a pattern"));
    if let Some(why) = fault {
        return Err(HostError::BadName {
            name: name.to_owned(),
            why,
        });
    }
    let not_a_tap = |what: String| HostError::NotATap {
        name: name.to_owned(),
        what,
    };
    match link::tun_facts(name)? {
        None => Ok(None),
        Some((link, Some(facts))) if facts.tap => Ok(Some((link, facts))),
        Some((_, Some(_))) => Err(not_a_tap(
            "a tun device, which carries packets without frames".to_owned(),
        )),
        Some((link, None)) if link.kind.is_empty() => {
            Err(not_a_tap("an interface of another kind".to_owned()))
        }
        Some((link, None)) => Err(not_a_tap(format!("an interface of kind {}", link.kind))),
    }
}

fn queues_word(several: bool) -> &'static str {
    if several {
        "several queues"
    } else {
        "a single queue"
    }
}

/// A descriptor of one queue of the tap, which is made if it does not exist.
fn attach(name: &str, multi_queue: bool) -> Result<File, HostError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|source| HostError::NoTun {
            remedy: match source.raw_os_error() {
                Some(libc::ENOENT) => {
                    "make it: `mkdir -p /dev/net && mknod /dev/net/tun c 10 200` (in a container, pass it in: `--device /dev/net/tun`)"
                }
                Some(libc::ENODEV | libc::ENXIO) => "load the driver: `modprobe tun`",
                _ => "ringwayd needs read and write access to it",
            },
            source,
        })?;
    let several = if multi_queue { IFF_MULTI_QUEUE } else { 0 };
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | several;
    let mut request = libc::ifreq {
        ifr_name: interface_name(name),
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            // The flags of a tun device are the lower 16 bits, without a sign.
            ifru_flags: i16::from_ne_bytes(u16::try_from(flags).unwrap_or_default().to_ne_bytes()),
        },
    };
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives over the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if done < 0 {
        let source = io::Error::last_os_error();
        return Err(if source.raw_os_error() == Some(libc::EBUSY) {
            HostError::TapBusy {
                name: name.to_owned(),
            }
        } else {
            HostError::refused("open the tap", name, source, None, None)
        });
    }
    Ok(file)
}

/// Sets header and offloads of the device. Tells whether UDP may come uncut.
fn prepare(file: &File) -> io::Result<bool> {
    let header = VNET_HEADER_BYTES;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives over the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    // Kernels before 6.2 know no UDP segmentation, and refuse all if it is among them.
    match set(file, libc::TUNSETOFFLOAD, (tcp | udp).into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            set(file, libc::TUNSETOFFLOAD, tcp.into())?;
            Ok(false)
        }
        granted => granted.map(|()| true),
    }
}

fn keep(file: &File, persistent: bool, owner: Option<(u32, u32)>) -> io::Result<()> {
    if let Some((user, group)) = owner {
        set(file, libc::TUNSETOWNER, user.into())?;
        set(file, libc::TUNSETGROUP, group.into())?;
    }
    if persistent {
        set(file, libc::TUNSETPERSIST, 1)?;
    }
    Ok(())
}

/// A request that takes a number.
fn set(file: &File, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these requests take a number and no address.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request, value) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The name as the kernel's structures have it. At most 15 bytes of it are taken.
pub(crate) fn interface_name(name: &str) -> [libc::c_char; libc::IFNAMSIZ] {
    let mut bytes = [0; libc::IFNAMSIZ];
    for (place, byte) in bytes[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    bytes
}
