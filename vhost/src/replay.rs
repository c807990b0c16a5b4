//! A request handler of the `vhost` crate in the state in which another
//! process's was.
//!
//! The handler keeps for itself what was acknowledged, and takes it from
//! messages only. So it is told once more, over a socket pair; then the live
//! connection is put in that socket's place.

#![allow(unsafe_code)]
// UNSAFETY: dup3 onto a descriptor that the handler owns.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::BackendReqHandler;

use crate::session::Device;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
/// Protocol version 1, no reply asked for.
const PLAIN_FLAGS: u32 = 1;

/// A handler for a connection over which `features` and `protocol` features
/// were acknowledged. `device` hears of both once more.
pub(crate) fn handler(
    connection: OwnedFd,
    device: Arc<Mutex<Device>>,
    features: u64,
    protocol: u64,
) -> io::Result<BackendReqHandler<Mutex<Device>>> {
    let (mut frontend, backend) = UnixStream::pair()?;
    let mut handler = BackendReqHandler::from_stream(backend, device);
    let mut tell = |request: u32, value: Option<u64>| {
        let mut message = Vec::new();
        let size = if value.is_some() { 8 } else { 0 };
        for word in [request, PLAIN_FLAGS, size] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(value.into_iter().flat_map(u64::to_ne_bytes));
        frontend.write_all(&message)?;
        handler.handle_request().map_err(io::Error::other)
    };
    tell(GET_FEATURES, None)?;
    if features != 0 {
        tell(SET_FEATURES, Some(features))?;
    }
    if protocol != 0 {
        tell(GET_PROTOCOL_FEATURES, None)?;
        tell(SET_PROTOCOL_FEATURES, Some(protocol))?;
    }
    // SAFETY: both descriptors are open and ours; whoever owns the second finds
    // the connection behind it from now on.
    let replaced =
        unsafe { libc::dup3(connection.as_raw_fd(), handler.as_raw_fd(), libc::O_CLOEXEC) };
    match replaced {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(handler),
    }
}
