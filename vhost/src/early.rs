//! Messages that are taken off the socket before the `vhost` crate sees them.
//!
//! - SET_VRING_ENABLE before SET_FEATURES: QEMU enables a net device's rings
//!   before it acknowledges features. The crate refuses that message while bit 30
//!   is not acknowledged (and drops the connection); its request handler has no
//!   way to be told otherwise.
//! - SEND_RARP and SET_LOG_FD, which the crate does not know.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

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
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_WAITALL;
    let mut message = [0u8; HEADER + BODY];
    let word = |bytes: &[u8], at: usize| {
        let mut four = [0; 4];
        four.copy_from_slice(&bytes[at..at + 4]);
        u32::from_ne_bytes(four)
    };
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
