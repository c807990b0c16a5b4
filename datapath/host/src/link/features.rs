//! What an interface's driver does for us, by the ethtool requests of ioctl(2)
//! (linux/ethtool.h).
//!
//! UNSAFETY: an ioctl is handed a buffer that the kernel reads and writes. Its
//! length follows from what the request says in the buffer itself; [`Request`]
//! makes each buffer as long as that.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::name_fault;
use crate::HostError;

// Commands and sizes of linux/ethtool.h.
const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const GLINKSETTINGS: u32 = 0x4c;
/// The names of the features (ETH_SS_FEATURES).
const FEATURE_NAMES: u32 = 4;
const STRING_BYTES: usize = 32;
const DRVINFO_BYTES: usize = 196;
const LINK_SETTINGS_BYTES: usize = 48;
/// Bytes of one `ethtool_get_features_block`, for 32 features: what the driver can
/// do, what is wished, what is in use, what never changes.
const BLOCK_BYTES: usize = 16;
const SPEED_UNKNOWN: u32 = u32::MAX;

/// What ethtool tells about an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// The driver's name (`ethtool -i`); empty if it has none.
    pub driver: String,
    /// Megabits per second, if the link has a speed now.
    pub speed: Option<u32>,
    /// It computes checksums of what it sends.
    pub tx_checksum: bool,
    /// It cuts large TCP frames over IPv4 while it sends them.
    pub tso4: bool,
    /// It cuts large TCP frames over IPv6 while it sends them.
    pub tso6: bool,
    /// The kernel joins TCP frames that came in (generic receive offload).
    pub gro: bool,
    /// The driver takes VLAN tags off what it received; the kernel tells them aside.
    pub rx_vlan: bool,
}

/// What ethtool tells about the interface of that name. What the driver does not
/// tell is false, empty or none.
///
/// # Errors
///
/// There is no such interface; no socket can be had.
pub fn features(name: &str) -> Result<Features, HostError> {
    let refused = |source| HostError::refused("ask the driver of", name, source, None, None);
    let request = Request::new(name).map_err(refused)?;
    if !matches!(super::find(name)?, Some(link) if link.name == name) {
        return Err(HostError::NoInterface {
            interface: name.to_owned(),
        });
    }
    let active = request.active_features().unwrap_or_default();
    let has = |wanted: &str| active.iter().any(|feature| feature == wanted);
    Ok(Features {
        driver: request.driver().unwrap_or_default(),
        speed: request.speed().unwrap_or_default(),
        tx_checksum: has("tx-checksum-ip-generic") || has("tx-checksum-ipv4"),
        tso4: has("tx-tcp-segmentation"),
        tso6: has("tx-tcp6-segmentation"),
        gro: has("rx-gro"),
        rx_vlan: has("rx-vlan-hw-parse"),
    })
}

/// Megabits per second of the interface's link, if its driver tells them.
pub fn speed(name: &str) -> Option<u32> {
    Request::new(name).ok()?.speed().ok()?
}

/// The driver's name, if the interface has a driver that tells it.
pub(super) fn driver(name: &str) -> Option<String> {
    Request::new(name).ok()?.driver().ok()
}

/// Requests about one interface.
struct Request {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Request {
    fn new(name: &str) -> io::Result<Self> {
        if name_fault(name).is_some() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        Ok(Self {
            socket,
            name: crate::tap::interface_name(name),
        })
    }

    fn driver(&self) -> io::Result<String> {
        let mut info = buffer(DRVINFO_BYTES, &[GDRVINFO]);
        self.ask(&mut info)?;
        Ok(text(&info[4..4 + STRING_BYTES]))
    }

    fn speed(&self) -> io::Result<Option<u32>> {
        // The first answer tells, as a negative number, how many words each mask has.
        const MASK_WORDS: usize = 15;
        let mut settings = buffer(LINK_SETTINGS_BYTES, &[GLINKSETTINGS]);
        self.ask(&mut settings)?;
        let words = i8::from_ne_bytes([settings[MASK_WORDS]]).unsigned_abs();
        let mut settings = buffer(
            LINK_SETTINGS_BYTES + 3 * 4 * usize::from(words),
            &[GLINKSETTINGS],
        );
        settings[MASK_WORDS] = words;
        self.ask(&mut settings)?;
        let speed = number(&settings, 1);
        Ok((speed != SPEED_UNKNOWN && speed != 0).then_some(speed))
    }

    /// The names of the features that are in use.
    fn active_features(&self) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: command, reserved, mask of 64 bits, one count.
        let mut info = buffer(20, &[GSSET_INFO, 0, 1 << FEATURE_NAMES]);
        self.ask(&mut info)?;
        let count = number(&info, 4);
        let names_bytes = usize::try_from(count).unwrap_or(0) * STRING_BYTES;
        let mut names = buffer(12 + names_bytes, &[GSTRINGS, FEATURE_NAMES, count]);
        self.ask(&mut names)?;
        let blocks = count.div_ceil(32);
        let blocks_bytes = usize::try_from(blocks).unwrap_or(0) * BLOCK_BYTES;
        let mut features = buffer(8 + blocks_bytes, &[GFEATURES, blocks]);
        self.ask(&mut features)?;
        Ok(names[12..]
            .chunks_exact(STRING_BYTES)
            .enumerate()
            .filter(|(bit, _)| {
                let active = number(&features, 2 + bit / 32 * 4 + 2);
                active & (1 << (bit % 32)) != 0
            })
            .map(|(_, name)| text(name))
            .collect())
    }

    fn ask(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_data: buffer.as_mut_ptr().cast(),
            },
        };
        // SAFETY: the request and the buffer live over the call, and the buffer is as
        // long as the command and the counts at its start say (see the callers).
        let done =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// A buffer of zeros that begins with these numbers.
fn buffer(bytes: usize, numbers: &[u32]) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    for (place, number) in buffer.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    buffer
}

/// The number at that place, counted in words of four bytes.
fn number(buffer: &[u8], word: usize) -> u32 {
    buffer
        .get(word * 4..word * 4 + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
