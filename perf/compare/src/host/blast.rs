//! Frames as fast as a packet socket takes them.

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, socket,
};

use super::lab::End;
use crate::error::Error;

/// Frames given to the kernel at once.
const BATCH: usize = 64;
/// IEEE's "local experimental" type: no stack answers it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Sends frames of `size` bytes from one end to the other for `duration`;
/// returns how many the kernel took and the seconds it lasted.
pub fn blast(
    from: &End<'_>,
    to: &End<'_>,
    size: usize,
    duration: Duration,
) -> Result<(u64, f64), Error> {
    let destination = hardware(to)?;
    let source = hardware(from)?;
    let addresses = [destination, source].map(|address| address.addr().unwrap_or_default());
    let mut frame = [&addresses[0][..], &addresses[1], &ETHERTYPE].concat();
    frame.resize(size, 0);
    let fail = |errno: Errno| from.namespace.error("send frames", errno.into());
    from.namespace
        .within(|| send(&source, &frame, duration).map_err(fail))
}

fn hardware(end: &End<'_>) -> Result<LinkAddr, Error> {
    let missing = || end.namespace.no_interface(end.interface);
    end.namespace.within(|| {
        let mut addresses = getifaddrs().map_err(|_| missing())?;
        let link = addresses.find_map(|found| {
            let ours = found.interface_name == end.interface;
            found.address?.as_link_addr().copied().filter(|_| ours)
        });
        link.ok_or_else(missing)
    })
}

fn send(interface: &LinkAddr, frame: &[u8], duration: Duration) -> Result<(u64, f64), Errno> {
    // Protocol 0: it receives nothing.
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(socket.as_raw_fd(), interface)?;
    let parts = [IoSlice::new(frame)];
    let batch = [&parts; BATCH];
    let nowhere = [None::<LinkAddr>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let (mut sent, start) = (0, Instant::now());
    while start.elapsed() < duration {
        let result = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            batch,
            nowhere,
            [],
            MsgFlags::empty(),
        );
        match result {
            Ok(taken) => sent += taken.count() as u64,
            // The way is full.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok((sent, start.elapsed().as_secs_f64()))
}
