//! What is done with a message before the `vhost` crate sees it.
//!
//! **All of it has to be there.** The crate reads a body with one call, and takes
//! one that comes in two parts for a bad message.
//!
//! **SET_VRING_ENABLE before SET_FEATURES.** QEMU enables a net device's rings before it acknowledges features. The
//! `vhost` crate refuses that message while bit 30 is not acknowledged (and
//! drops the connection); its request handler has no way to be told otherwise.
//! So this one message is taken off the socket before the crate sees it.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, recv};

/// Message number of VHOST_USER_SET_VRING_ENABLE.
const SET_VRING_ENABLE: u32 = 18;
/// Protocol version 1; no reply asked for.
const PLAIN_FLAGS: u32 = 1;
/// Request, flags and size, 4 bytes each.
const HEADER: usize = 12;
/// Ring index and whether it is to be enabled, 4 bytes each.
const BODY: usize = 8;

/// Longest message (`MAX_MSG_SIZE` of the crate); it refuses longer ones by
/// their header.
const MAX_MESSAGE: usize = 4096;

/// How long a message that has begun is waited for while nothing more comes.
const PATIENCE: Duration = Duration::from_millis(200);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(PAUSE_MS as u64);
const PAUSE_MS: u8 = 2;

/// Waits until the whole next message can be read, or the connection ends, or
/// nothing more of it comes: the crate judges what is there then. (A look never
/// goes beyond a part that came with descriptors.)
pub fn wait_for_message(stream: &UnixStream) {
    let mut message = [0u8; HEADER + MAX_MESSAGE];
    let fd = stream.as_raw_fd();
    let (mut wanted, mut seen, mut silent) = (HEADER, 0, Duration::ZERO);
    while silent < PATIENCE {
        let Some(place) = message.get_mut(..wanted) else {
            return;
        };
        // Waits for the first byte only.
        let there = match recv(fd, place, MsgFlags::MSG_PEEK) {
            Err(_) | Ok(0) => return,
            Ok(there) => there,
        };
        if there >= HEADER {
            wanted = HEADER.saturating_add(word(&message, 8) as usize);
        }
        if there >= wanted {
            return;
        }
        silent = if there > seen {
            Duration::ZERO
        } else {
            silent + PAUSE
        };
        seen = there;
        // Data that is there is no event; the other side's end is one.
        let mut ended = [PollFd::new(stream.as_fd(), PollFlags::POLLRDHUP)];
        if poll(&mut ended, PAUSE_MS) != Ok(0) {
            return;
        }
    }
}

/// The four bytes at `at`.
fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|bytes| bytes.first_chunk::<4>());
    four.map_or(0, |four| u32::from_ne_bytes(*four))
}

/// Looks at the next message, waiting for its first byte. When it is a SET_VRING_ENABLE that wants no
/// reply and says 0 or 1, takes it and gives its ring index and wish; else
/// leaves it there, whole, for the crate to judge.
pub fn take_vring_enable(stream: &UnixStream) -> Option<(u32, bool)> {
    let fd = stream.as_raw_fd();
    let peek = MsgFlags::MSG_PEEK;
    let mut message = [0u8; HEADER + BODY];
    let header = recv(fd, &mut message[..HEADER], peek).ok()?;
    if header != HEADER
        || word(&message, 0) != SET_VRING_ENABLE
        || word(&message, 4) != PLAIN_FLAGS
        || word(&message, 8) as usize != BODY
        || recv(fd, &mut message, peek).ok()? != message.len()
    {
        return None;
    }
    let wish = match word(&message, HEADER + 4) {
        0 => false,
        1 => true,
        _ => return None,
    };
    let taken = recv(fd, &mut message, MsgFlags::MSG_WAITALL).ok()?;
    (taken == message.len()).then(|| (word(&message, HEADER), wish))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn message(request: u32, flags: u32, index: u32, enable: u32) -> Vec<u8> {
        [request, flags, BODY as u32, index, enable]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect()
    }

    #[test]
    fn takes_this_message_and_leaves_every_other() {
        let (mut frontend, backend) = UnixStream::pair().expect("a socket pair");
        let mut send = |message: &[u8]| frontend.write_all(message).expect("write");
        send(&message(SET_VRING_ENABLE, PLAIN_FLAGS, 3, 1));
        assert_eq!(take_vring_enable(&backend), Some((3, true)));

        // With a reply asked for, another request, no 0 or 1: left for the crate.
        for other in [
            message(SET_VRING_ENABLE, PLAIN_FLAGS | 8, 3, 1),
            message(SET_VRING_ENABLE + 1, PLAIN_FLAGS, 3, 1),
            message(SET_VRING_ENABLE, PLAIN_FLAGS, 3, 2),
        ] {
            send(&other);
            assert_eq!(take_vring_enable(&backend), None);
            let mut left = vec![0; other.len()];
            (&backend).read_exact(&mut left).expect("still there");
            assert_eq!(left, other);
        }
    }

    #[test]
    fn a_message_in_parts_is_waited_for() {
        let (mut frontend, backend) = UnixStream::pair().expect("a socket pair");
        let sent = message(SET_VRING_ENABLE, PLAIN_FLAGS | 8, 3, 1);
        let parts = sent.clone();
        let sender = std::thread::spawn(move || {
            for part in [&parts[..5], &parts[5..14], &parts[14..]] {
                frontend.write_all(part).expect("write");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            frontend
        });
        wait_for_message(&backend);
        let mut got = vec![0; sent.len()];
        let len = (&backend).read(&mut got).expect("read");
        assert_eq!((len, got), (sent.len(), sent));
        // An end, or a length that no message has, ends the wait.
        let mut frontend = sender.join().expect("no panic");
        let lie = [SET_VRING_ENABLE, PLAIN_FLAGS, u32::MAX].map(u32::to_ne_bytes);
        frontend.write_all(lie.as_flattened()).expect("write");
        wait_for_message(&backend);
        drop(frontend);
        (&backend)
            .read_exact(&mut [0; HEADER])
            .expect("still there");
        wait_for_message(&backend);
    }

    #[test]
    fn a_frontend_that_goes_away_ends_the_wait() {
        let (mut frontend, backend) = UnixStream::pair().expect("a socket pair");
        frontend.write_all(&[18, 0, 0, 0, 1]).expect("write");
        drop(frontend);
        assert_eq!(take_vring_enable(&backend), None);
    }
}
