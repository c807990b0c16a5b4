//! The kernel interface under a virtual device. net_af_packet and net_af_xdp say
//! that their link is up whatever becomes of it, so the kernel is asked.

// UNSAFETY: if_nametoindex and one ioctl.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// An interface, known by name and index: another one may get its name.
#[derive(Debug)]
pub(super) struct KernelInterface {
    name: CString,
    index: u32,
}

impl KernelInterface {
    /// That of the `iface=` in a device's arguments, if its driver needs it
    /// looked after.
    pub fn of(driver: &str, arguments: &str) -> Option<KernelInterface> {
        if !["net_af_packet", "net_af_xdp"].contains(&driver) {
            return None;
        }
        let name = arguments
            .split(',')
            .find_map(|it| it.strip_prefix("iface="))?;
        let name = CString::new(name).ok()?;
        let index = index_of(&name)?;
        Some(KernelInterface { name, index })
    }

    /// Whether it is not there any more.
    pub fn gone(&self) -> bool {
        index_of(&self.name) != Some(self.index)
    }

    /// Whether it is set up and has a carrier; `None` when the kernel does not
    /// say.
    pub fn is_up(&self) -> Option<bool> {
        const UP: i32 = libc::IFF_UP | libc::IFF_RUNNING;
        // SAFETY: makes a descriptor, which is ours.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))?
        };
        // SAFETY: ifreq is plain data, all zeroes a valid one.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room]
            .iter_mut()
            .zip(self.name.as_bytes())
        {
            *to = *from as libc::c_char;
        }
        // SAFETY: a socket, and an ifreq with a terminated name, to which the
        // kernel writes the flags.
        let flags = unsafe {
            if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) != 0 {
                return None;
            }
            i32::from(request.ifr_ifru.ifru_flags)
        };
        Some(flags & UP == UP)
    }

    /// Its index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.to_str().unwrap_or_default()
    }
}

fn index_of(name: &CString) -> Option<u32> {
    // SAFETY: a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_that_tell_their_link_are_not_looked_after() {
        assert!(KernelInterface::of("net_tap", "iface=lo").is_none());
        assert!(KernelInterface::of("net_af_packet", "qpairs=1").is_none());
        assert!(KernelInterface::of("net_af_packet", "iface=no-such-if").is_none());
    }

    #[test]
    fn an_interface_is_found_behind_other_arguments() {
        let lo = KernelInterface::of("net_af_xdp", "start_queue=0,iface=lo").unwrap();
        assert_eq!(lo.name(), "lo");
        assert!(!lo.gone());
        assert!(lo.is_up().is_some());
    }
}
