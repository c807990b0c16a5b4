//! What is done with a message before the `vhost` crate sees it.
//!
//! All of it has to be there: the crate reads a body with one call, and takes one
//! that comes in two parts for a bad message. These are taken off the socket:
//!
//! - SET_VRING_ENABLE before SET_FEATURES: QEMU enables a net device's rings
//!   before it acknowledges features. The crate refuses that message while bit 30
//!   is not acknowledged (and drops the connection); its request handler has no
//!   way to be told otherwise.
//! - SEND_RARP and SET_LOG_FD, which the crate does not know.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, recv};

/// Message numbers.
const SET_LOG_FD: u32 = 7;
const SET_VRING_ENABLE: u32 = 18;
const SEND_RARP: u32 = 19;
/// Protocol version 1; no reply asked for.
const PLAIN_FLAGS: u32 = 1;
/// A reply is asked for.
const NEED_REPLY: u32 = 1 << 3;
/// This is a reply.
const REPLY: u32 = 1 << 2;
/// Request, flags and size, 4 bytes each.
const HEADER: usize = 12;
/// Ring index and whether it is to be enabled, 4 bytes each; or a MAC address
/// and two bytes.
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
        let asked = wanted;
        let Some(place) = message.get_mut(..asked) else {
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
        // The header was all that was asked for.
        if there == asked {
            continue;
        }
        silent = if there > seen {
            Duration::ZERO
        } else {
            silent + PAUSE
        };
        seen = there;
        // Data that is there is no event; the other side's end is one.
        let mut ended = [PollFd::new(
            stream.as_fd(),
            PollFlags::from_bits_retain(libc::POLLRDHUP),
        )];
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

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// SET_VRING_ENABLE: the ring's index, and whether it is to be enabled.
    Enable(u32, bool),
    /// SEND_RARP: the guest's MAC address.
    Announce([u8; 6]),
    /// SET_LOG_FD, by which we could tell the frontend that there is something
    /// new in the log. It looks by itself.
    LogFd,
}

/// Waits for the next message. One of those above is taken and given; any other
/// is left there, whole, for the crate to judge. `features_acked`: the crate
/// knows SET_VRING_ENABLE now. The second value: a reply is asked for.
pub fn take(stream: &UnixStream, features_acked: bool) -> Option<(Early, bool)> {
    let fd = stream.as_raw_fd();
    let peek = MsgFlags::MSG_PEEK;
    let mut message = [0u8; HEADER + BODY];
    let header = recv(fd, &mut message[..HEADER], peek).ok()?;
    let (request, flags) = (word(&message, 0), word(&message, 4));
    let wants_reply = flags & NEED_REPLY != 0;
    let size = word(&message, 8) as usize;
    let is_ours = match request {
        SET_VRING_ENABLE => !features_acked && size == BODY && !wants_reply,
        SEND_RARP => size == BODY,
        SET_LOG_FD => size == 0 || size == BODY,
        _ => false,
    };
    if header != HEADER || !is_ours || flags & !NEED_REPLY != PLAIN_FLAGS {
        return None;
    }
    let whole = &mut message[..HEADER + size];
    if recv(fd, whole, peek).ok()? != whole.len() {
        return None;
    }
    let early = match (request, word(&message, HEADER + 4)) {
        (SET_VRING_ENABLE, enable @ 0..=1) => Early::Enable(word(&message, HEADER), enable == 1),
        (SET_VRING_ENABLE, _) => return None,
        (SEND_RARP, _) => Early::Announce(*message[HEADER..].first_chunk()?),
        _ => Early::LogFd,
    };
    let whole = &mut message[..HEADER + size];
    // A descriptor that comes with it is closed by the kernel: nobody takes it.
    let taken = recv(fd, whole, MsgFlags::MSG_WAITALL).ok()?;
    (taken == whole.len()).then_some((early, wants_reply))
}

/// Answers a message that was taken and asked for it: it was done.
pub fn reply(mut stream: &UnixStream, early: Early) -> std::io::Result<()> {
    let request = match early {
        Early::Enable(..) => SET_VRING_ENABLE,
        Early::Announce(_) => SEND_RARP,
        Early::LogFd => SET_LOG_FD,
    };
    let words = [request, PLAIN_FLAGS | REPLY, BODY as u32, 0, 0];
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    stream.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

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
        let enable = Some((Early::Enable(3, true), false));
        assert_eq!(take(&backend, false), enable);

        // With a reply asked for, another request, no 0 or 1: left for the crate.
        for other in [
            message(SET_VRING_ENABLE, PLAIN_FLAGS | 8, 3, 1),
            message(SEND_RARP + 1, PLAIN_FLAGS, 3, 1),
            message(SET_VRING_ENABLE, PLAIN_FLAGS, 3, 2),
        ] {
            send(&other);
            assert_eq!(take(&backend, false), None);
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
    fn a_message_that_is_there_is_not_waited_for() {
        let (mut frontend, backend) = UnixStream::pair().expect("a socket pair");
        let begin = std::time::Instant::now();
        for _ in 0..500 {
            frontend
                .write_all(&message(SET_VRING_ENABLE, PLAIN_FLAGS, 3, 1))
                .expect("write");
            wait_for_message(&backend);
            let mut got = [0; HEADER + BODY];
            (&backend).read_exact(&mut got).expect("there");
        }
        // Half of the pauses that there would be.
        assert!(begin.elapsed() < 250 * PAUSE, "{:?}", begin.elapsed());
    }

    #[test]
    fn announcements_and_log_descriptors_are_taken_and_answered() {
        let (mut frontend, backend) = UnixStream::pair().expect("a socket pair");
        let mac = [2, 0, 0, 0, 0, 9];
        let (low, high) = (
            u32::from_ne_bytes([2, 0, 0, 0]),
            u32::from_ne_bytes([0, 9, 0, 0]),
        );
        for flags in [PLAIN_FLAGS, PLAIN_FLAGS | NEED_REPLY] {
            let message = message(SEND_RARP, flags, low, high);
            frontend.write_all(&message).expect("write");
            let wanted = Some((Early::Announce(mac), flags != PLAIN_FLAGS));
            assert_eq!(take(&backend, true), wanted);
        }
        reply(&backend, Early::Announce(mac)).expect("answered");
        let mut answer = [0; HEADER + BODY];
        frontend.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[..], message(SEND_RARP, PLAIN_FLAGS | REPLY, 0, 0));
        let words = [SET_LOG_FD, PLAIN_FLAGS, 0].map(u32::to_ne_bytes);
        frontend.write_all(words.as_flattened()).expect("write");
        assert_eq!(take(&backend, true), Some((Early::LogFd, false)));
        // Known to the crate by now.
        let enable = message(SET_VRING_ENABLE, PLAIN_FLAGS, 3, 1);
        frontend.write_all(&enable).expect("write");
        assert_eq!(take(&backend, true), None);
    }

    #[test]
    fn a_frontend_that_goes_away_ends_the_wait() {
        let (mut frontend, backend) = UnixStream::pair().expect("a socket pair");
        frontend.write_all(&[18, 0, 0, 0, 1]).expect("write");
        drop(frontend);
        assert_eq!(take(&backend, false), None);
    }
}
