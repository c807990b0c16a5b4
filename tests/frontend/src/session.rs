//! The vhost-user socket from the frontend's side: every protocol step as a
//! call of its own, and raw bytes with raw file descriptors beside them.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag, VhostUserVringAddrFlags};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::raw::RawMessage;
use crate::ring::RingLayout;
use crate::{Error, GuestMemory};

/// How long an answer may take before a request fails.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One vhost-user connection, frontend side.
pub struct Session {
    frontend: Frontend,
    socket: UnixStream,
}

/// A listening socket, for backends in client mode. Removes its file when dropped.
pub struct SessionListener {
    listener: UnixListener,
    path: PathBuf,
}

impl SessionListener {
    /// Waits for the backend to connect.
    pub fn accept(&self, timeout: Duration) -> Result<Session, Error> {
        let raise = |source| Error::Socket {
            path: self.path.clone(),
            source,
        };
        if !readable(&self.listener, timeout).map_err(raise)? {
            return Err(Error::Timeout {
                what: "the backend's connection",
                millis: timeout.as_millis(),
            });
        }
        let (socket, _) = self.listener.accept().map_err(raise)?;
        Session::from_stream(socket)
    }
}

impl Drop for SessionListener {
    fn drop(&mut self) {
        // The backend may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Calls one of the `vhost` crate's requests and names it in the error.
macro_rules! request {
    ($name:literal, $call:expr) => {
        $call.map_err(|source| Error::Request {
            request: $name,
            source,
        })
    };
}

impl Session {
    /// Connects to a backend that listens at `path`.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let socket = UnixStream::connect(path).map_err(|source| Error::Socket {
            path: path.to_owned(),
            source,
        })?;
        Self::from_stream(socket)
    }

    /// Connects as soon as a backend listens at `path`.
    pub fn connect_within(path: impl AsRef<Path>, timeout: Duration) -> Result<Self, Error> {
        let start = Instant::now();
        loop {
            match Self::connect(&path) {
                Err(Error::Socket { .. }) if start.elapsed() < timeout => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    /// Listens at `path` for a backend in client mode.
    pub fn listen(path: impl AsRef<Path>) -> Result<SessionListener, Error> {
        let path = path.as_ref().to_owned();
        let listener = UnixListener::bind(&path).map_err(|source| Error::Socket {
            path: path.clone(),
            source,
        })?;
        Ok(SessionListener { listener, path })
    }

    /// Takes over a connected socket.
    pub fn from_stream(socket: UnixStream) -> Result<Self, Error> {
        socket
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(Error::Raw)?;
        let protocol = socket.try_clone().map_err(Error::Raw)?;
        Ok(Self {
            // Queue indices are not checked on this side: they may be wrong on purpose.
            frontend: Frontend::from_stream(protocol, u64::MAX),
            socket,
        })
    }

    /// The `vhost` crate's frontend, for requests without a call here.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Asks for (or stops asking for) an answer to every request; works once
    /// REPLY_ACK is negotiated. A refused request is then an error at once.
    pub fn want_answers(&self, wanted: bool) {
        self.frontend.set_hdr_flags(if wanted {
            VhostUserHeaderFlag::NEED_REPLY
        } else {
            VhostUserHeaderFlag::empty()
        });
    }

    /// SET_OWNER.
    pub fn set_owner(&self) -> Result<(), Error> {
        request!("SET_OWNER", self.frontend.set_owner())
    }

    /// GET_FEATURES.
    pub fn get_features(&self) -> Result<u64, Error> {
        request!("GET_FEATURES", self.frontend.get_features())
    }

    /// SET_FEATURES.
    pub fn set_features(&self, features: u64) -> Result<(), Error> {
        request!("SET_FEATURES", self.frontend.set_features(features))
    }

    /// GET_PROTOCOL_FEATURES; needs GET_FEATURES before it.
    pub fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures, Error> {
        request!(
            "GET_PROTOCOL_FEATURES",
            self.frontend.get_protocol_features()
        )
    }

    /// SET_PROTOCOL_FEATURES.
    pub fn set_protocol_features(&mut self, f: VhostUserProtocolFeatures) -> Result<(), Error> {
        request!(
            "SET_PROTOCOL_FEATURES",
            self.frontend.set_protocol_features(f)
        )
    }

    /// GET_QUEUE_NUM: how many queues (DPDK: queue pairs) the backend has.
    ///
    /// Sent raw: the crate's own call takes the answer as the limit for later
    /// queue indices, and DPDK answers in pairs.
    pub fn get_queue_num(&self) -> Result<u64, Error> {
        self.send(
            &RawMessage::new(FrontendReq::GET_QUEUE_NUM, Vec::new()),
            &[],
        )?;
        let answer = self.recv_bytes(ANSWER_TIMEOUT)?;
        let value = answer.get(12..20).and_then(|b| b.try_into().ok());
        value.map(u64::from_le_bytes).ok_or_else(|| {
            let short = format!("GET_QUEUE_NUM: answer of {} bytes", answer.len());
            Error::Raw(io::Error::new(ErrorKind::UnexpectedEof, short))
        })
    }

    /// SET_MEM_TABLE with all regions of `memory`.
    pub fn set_mem_table(&self, memory: &GuestMemory) -> Result<(), Error> {
        self.set_mem_regions(&memory.region_infos())
    }

    /// SET_MEM_TABLE with regions as given.
    pub fn set_mem_regions(&self, regions: &[VhostUserMemoryRegionInfo]) -> Result<(), Error> {
        request!("SET_MEM_TABLE", self.frontend.set_mem_table(regions)).map(drop)
    }

    /// ADD_MEM_REG; needs CONFIGURE_MEM_SLOTS.
    pub fn add_mem_reg(&mut self, region: &VhostUserMemoryRegionInfo) -> Result<(), Error> {
        request!("ADD_MEM_REG", self.frontend.add_mem_region(region)).map(drop)
    }

    /// REM_MEM_REG; needs CONFIGURE_MEM_SLOTS.
    pub fn rem_mem_reg(&mut self, region: &VhostUserMemoryRegionInfo) -> Result<(), Error> {
        request!("REM_MEM_REG", self.frontend.remove_mem_region(region))
    }

    /// GET_MAX_MEM_SLOTS; needs CONFIGURE_MEM_SLOTS.
    pub fn get_max_mem_slots(&mut self) -> Result<u64, Error> {
        request!("GET_MAX_MEM_SLOTS", self.frontend.get_max_mem_slots())
    }

    /// SET_VRING_NUM: ring size in descriptors.
    pub fn set_vring_num(&self, queue: usize, size: u16) -> Result<(), Error> {
        request!("SET_VRING_NUM", self.frontend.set_vring_num(queue, size))
    }

    /// SET_VRING_BASE: the next available index.
    pub fn set_vring_base(&self, queue: usize, base: u16) -> Result<(), Error> {
        request!("SET_VRING_BASE", self.frontend.set_vring_base(queue, base))
    }

    /// SET_VRING_ADDR from guest-physical ring addresses, which must be in `memory`.
    pub fn set_vring_addr(
        &self,
        queue: usize,
        memory: &GuestMemory,
        layout: &RingLayout,
    ) -> Result<(), Error> {
        let config = VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: VhostUserVringAddrFlags::empty().bits(),
            desc_table_addr: memory.user_addr(layout.desc),
            used_ring_addr: memory.user_addr(layout.used),
            avail_ring_addr: memory.user_addr(layout.avail),
            log_addr: None,
        };
        request!(
            "SET_VRING_ADDR",
            self.frontend.set_vring_addr(queue, &config)
        )
    }

    /// SET_VRING_KICK.
    pub fn set_vring_kick(&self, queue: usize, fd: &EventFd) -> Result<(), Error> {
        request!("SET_VRING_KICK", self.frontend.set_vring_kick(queue, fd))
    }

    /// SET_VRING_CALL.
    pub fn set_vring_call(&self, queue: usize, fd: &EventFd) -> Result<(), Error> {
        request!("SET_VRING_CALL", self.frontend.set_vring_call(queue, fd))
    }

    /// SET_VRING_ERR.
    pub fn set_vring_err(&self, queue: usize, fd: &EventFd) -> Result<(), Error> {
        request!("SET_VRING_ERR", self.frontend.set_vring_err(queue, fd))
    }

    /// SET_VRING_ENABLE; needs PROTOCOL_FEATURES.
    pub fn set_vring_enable(&mut self, queue: usize, enable: bool) -> Result<(), Error> {
        request!(
            "SET_VRING_ENABLE",
            self.frontend.set_vring_enable(queue, enable)
        )
    }

    /// GET_VRING_BASE: stops the ring; returns the backend's next available index.
    pub fn get_vring_base(&self, queue: usize) -> Result<u32, Error> {
        request!("GET_VRING_BASE", self.frontend.get_vring_base(queue))
    }

    /// RESET_OWNER.
    pub fn reset_owner(&self) -> Result<(), Error> {
        request!("RESET_OWNER", self.frontend.reset_owner())
    }

    /// RESET_DEVICE; needs the protocol feature of that name.
    pub fn reset_device(&mut self) -> Result<(), Error> {
        request!("RESET_DEVICE", self.frontend.reset_device())
    }

    /// Puts any message on the socket, with any file descriptors.
    pub fn send(&self, message: &RawMessage, fds: &[RawFd]) -> Result<(), Error> {
        self.send_bytes(&message.to_bytes(), fds)
    }

    /// Puts any bytes on the socket, with any file descriptors (at most 253,
    /// the kernel's limit per message).
    pub fn send_bytes(&self, bytes: &[u8], fds: &[RawFd]) -> Result<(), Error> {
        let sent = self
            .socket
            .send_with_fds(&[bytes], fds)
            .map_err(|errno| Error::Raw(errno.into()))?;
        if sent < bytes.len() {
            let short = format!("{sent} of {} bytes sent", bytes.len());
            return Err(Error::Raw(io::Error::new(ErrorKind::WriteZero, short)));
        }
        Ok(())
    }

    /// Bytes of the backend's next answer, or an empty vector if it closed
    /// the connection. Use it only with [`Session::send`]: the calls above
    /// read their own answers.
    pub fn recv_bytes(&self, timeout: Duration) -> Result<Vec<u8>, Error> {
        if !readable(&self.socket, timeout).map_err(Error::Raw)? {
            return Err(Error::Timeout {
                what: "the backend's answer",
                millis: timeout.as_millis(),
            });
        }
        let mut bytes = vec![0; 4096];
        match (&self.socket).read(&mut bytes) {
            Ok(len) => {
                bytes.truncate(len);
                Ok(bytes)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Vec::new()),
            Err(error) => Err(Error::Raw(error)),
        }
    }

    /// Whether the backend hangs up within `timeout`. Answers that arrive
    /// meanwhile are thrown away.
    pub fn closed_within(&self, timeout: Duration) -> bool {
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            match self.recv_bytes(left) {
                Ok(bytes) if bytes.is_empty() => return true,
                Ok(_) => {}
                Err(Error::Timeout { .. }) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Shuts the socket down in both directions, as a killed guest does.
    pub fn hang_up(&self) {
        // Already closed by the other side is just as good.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// Waits until `fd` has something to read (or is closed).
fn readable(fd: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut fds, timeout)? > 0)
}
