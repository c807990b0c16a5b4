//! Tap devices.

use std::os::fd::OwnedFd;

use crate::HostError;

/// How a tap is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOptions {
    /// Queues, each with its own descriptor. One makes a single-queue device,
    /// which is not the same to the kernel as several queues of which one is used.
    pub queues: u16,
    /// The device stays when its last descriptor is closed.
    pub persistent: bool,
    /// User and group that may open it besides root.
    pub owner: Option<(u32, u32)>,
}

/// An opened tap device: frames with a virtio-net header of 12 bytes before them.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<OwnedFd>,
}

impl Tap {
    /// Makes the tap, or attaches to the one that exists.
    ///
    /// # Errors
    ///
    /// A name that the kernel does not take; something else has the name;
    /// a tap that another process holds, or with other queues; the kernel's.
    pub fn open(name: &str, options: &TapOptions) -> Result<Self, HostError> {
        let _ = (name, options);
        todo!()
    }

    /// The descriptors, one a queue, nonblocking.
    #[must_use]
    pub fn queues(&self) -> &[OwnedFd] {
        &self.queues
    }

    /// The descriptors, to be kept by the caller.
    #[must_use]
    pub fn into_queues(self) -> Vec<OwnedFd> {
        self.queues
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Makes a persistent tap and lets it go, so that QEMU can open it
/// (`-netdev tap,ifname=NAME,script=no,downscript=no`). One that exists stays as
/// it is, also while QEMU holds it.
///
/// # Errors
///
/// As [`Tap::open`].
pub fn make_persistent(name: &str, owner: Option<(u32, u32)>) -> Result<(), HostError> {
    let _ = (name, owner);
    todo!()
}

/// Deletes the tap of that name. That there is none is no error.
///
/// # Errors
///
/// The name belongs to something that is no tap; the kernel's.
pub fn delete_tap(name: &str) -> Result<(), HostError> {
    let _ = name;
    todo!()
}
