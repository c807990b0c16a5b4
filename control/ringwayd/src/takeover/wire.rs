//! Messages with descriptors over a stream socket.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ringway_datapath::handover::Descriptors;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Descriptors at a time; the kernel takes 253.
const AT_A_TIME: usize = 128;
/// Longest message: far more than a full table of stations and rules takes.
const MAX_BYTES: u64 = 1 << 30;
/// Most descriptors: every port with all its queues and regions.
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// Sends a message: its length, how many descriptors go with it, these with a
/// byte for each handful of them, and the message.
pub fn send(
    stream: &mut UnixStream,
    message: &impl Serialize,
    descriptors: Descriptors,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let descriptors = descriptors.into_inner();
    stream.write_all(&(bytes.len() as u64).to_le_bytes())?;
    stream.write_all(&(descriptors.len() as u64).to_le_bytes())?;
    for some in descriptors.chunks(AT_A_TIME) {
        let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_A_TIME))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&some));
        let sent = sendmsg(
            &*stream,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        if sent != 1 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    stream.write_all(&bytes)
}

/// Receives a message with its descriptors.
pub fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<(T, Descriptors)> {
    let mut number = || {
        let mut eight = [0; 8];
        stream.read_exact(&mut eight)?;
        Ok::<_, io::Error>(u64::from_le_bytes(eight))
    };
    let (length, count) = (number()?, number()?);
    if length > MAX_BYTES || count > MAX_DESCRIPTORS {
        let why = format!("a message of {length} bytes with {count} descriptors");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    while (descriptors.len() as u64) < count {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_A_TIME))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &*stream,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let before = descriptors.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        if received.bytes == 0 || descriptors.len() == before {
            let why = "fewer descriptors came than were announced (too many open files?)";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
    }
    let mut bytes = Vec::new();
    (&*stream).take(length).read_to_end(&mut bytes)?;
    Ok((serde_json::from_slice(&bytes)?, descriptors.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_message_comes_with_all_its_descriptors_in_order() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut sent = Descriptors::default();
        for number in 0..300 {
            let path = dir.path().join(number.to_string());
            let mut file = File::create(path).unwrap();
            write!(file, "{number}").unwrap();
            assert_eq!(sent.give(&file).unwrap(), number);
        }
        let sender = std::thread::spawn(move || send(&mut one, &"hello".repeat(100_000), sent));
        let (text, mut came): (String, _) = receive(&mut other).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!(text.len(), 500_000);
        for number in [0, 127, 128, 299] {
            let fd = came.take(number).unwrap();
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            assert_eq!(link.file_name().unwrap(), number.to_string().as_str());
        }
    }

    #[test]
    fn a_peer_that_goes_away_or_lies_is_an_error() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        one.write_all(&[1; 16]).unwrap();
        assert!(receive::<String>(&mut other).is_err());

        let (mut one, mut other) = UnixStream::pair().unwrap();
        let mut header = [0; 16];
        (header[0], header[8]) = (1, 1);
        one.write_all(&header).unwrap();
        one.write_all(b"x").unwrap();
        assert!(receive::<String>(&mut other).is_err());

        let (one, mut other) = UnixStream::pair().unwrap();
        drop(one);
        assert!(receive::<String>(&mut other).is_err());
    }
}
