//! A port, the frontend of its guest, and the poll-mode core that works on its
//! rings: all in this process, over a real socket.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use ringway_frontend::features;
use ringway_frontend::raw::{NEED_REPLY, RawMessage, VERSION};
use ringway_vhost::{
    DeviceRings, GuestPort, GuestPortConfig, LOG_PAGE, Mode, RingPublisher, SessionState,
    SessionStatus,
};
use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost::vhost_user::message::FrontendReq;

/// Bytes of each of a guest's two regions, which lie one behind the other.
pub const REGION: u64 = 64 << 10;
/// Where the first begins for the guest.
pub const GPA: u64 = 0x4000_0000;
/// Where it begins for the frontend.
pub const USER: u64 = 0x7f00_0000_0000;
/// Longest that anything takes, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port that listens.
pub struct Port {
    pub port: GuestPort,
    pub path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Port {
    /// One with two queue pairs, whose rings `publisher` is given.
    pub fn new(publisher: Arc<dyn RingPublisher>) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rw")
            .tempdir_in("/tmp")
            .expect("a folder");
        let path = dir.path().join("s");
        let config = GuestPortConfig {
            name: "fuzz".into(),
            path: path.clone(),
            mode: Mode::Server,
            queue_pairs: 2,
            owner: None,
            permissions: None,
            features: u64::MAX,
            marks: None,
            keeper: None,
            cpus: Vec::new(),
        };
        let port = GuestPort::start(config, publisher).expect("a port");
        Self {
            port,
            path,
            _dir: dir,
        }
    }

    /// A frontend's connection.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("the port listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Waits until all connections, of which there were so many, are over.
    pub fn wait_free(&self, connections: u64) {
        let status = || self.port.status();
        until(
            || status().connections >= connections,
            || format!("not accepted: {:?}", status()),
        );
        let free = || status().state == SessionState::WaitingForSocket;
        until(free, || format!("a session does not end: {:?}", status()));
    }
}

/// Waits for something that must come.
pub fn until(done: impl Fn() -> bool, what: impl Fn() -> String) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{}", what());
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// The rings as they were published last. Nobody else works on them.
#[derive(Default)]
pub struct Published(pub Mutex<Arc<DeviceRings>>);

impl RingPublisher for Published {
    fn publish(&self, rings: Arc<DeviceRings>) {
        *self.0.lock().expect("no panic") = rings;
    }

    fn announce(&self, _mac: [u8; 6]) {}
}

/// Sends bytes with descriptors. False: the other side has hung up.
pub fn send(stream: &UnixStream, bytes: &[u8], fds: &[RawFd]) -> bool {
    let slices = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() {
        &rights[..0]
    } else {
        &rights[..]
    };
    sendmsg::<()>(
        stream.as_raw_fd(),
        &slices,
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .is_ok()
}

/// Reads one answer; `None`: the other side has hung up.
pub fn answer(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut header = [0; 12];
    match stream.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("no answer within {PATIENCE:?}")
        }
        Err(_) => return None,
    }
    let size = u32::from_le_bytes(header[8..].try_into().expect("four bytes"));
    let mut body = vec![0; size as usize];
    stream.read_exact(&mut body).ok().map(|()| body)
}

/// Shared memory of a guest.
pub fn memory(bytes: u64) -> File {
    let fd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).expect("a memory file");
    let file = File::from(fd);
    file.set_len(bytes).expect("its size");
    file
}

/// The file of a dirty log, as QEMU's: it cannot be made shorter.
pub fn log(bytes: u64) -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"log", flags).expect("a memory file"));
    file.set_len(bytes).expect("its size");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("sealed");
    file
}

/// What a queue is to be set up with.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    pub size: u32,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    /// What `SET_VRING_BASE` says.
    pub base: u32,
}

/// A guest with two regions and one queue pair, whose driver is the test.
pub struct Machine {
    port: Port,
    published: Arc<Published>,
    stream: UnixStream,
    kick: EventFd,
    call: EventFd,
    pub regions: [File; 2],
    /// The dirty log, if `LOG_ALL` was acknowledged.
    log: Option<File>,
}

/// Bytes of a log for all of a machine's memory.
const LOG_BYTES: u64 = (GPA + 2 * REGION) / LOG_PAGE / 8;

impl Machine {
    /// A frontend that acknowledged `acked` and shares its memory, and with
    /// `LOG_ALL` a log of what is written to it.
    pub fn new(acked: u64) -> Self {
        let published = Arc::new(Published::default());
        let port = Port::new(Arc::clone(&published) as Arc<dyn RingPublisher>);
        let stream = port.connect();
        let mut machine = Self {
            port,
            published,
            stream,
            kick: EventFd::new().expect("an eventfd"),
            call: EventFd::new().expect("an eventfd"),
            regions: [memory(REGION), memory(REGION)],
            log: (acked & features::LOG_ALL != 0).then(|| log(LOG_BYTES)),
        };
        machine.greet(acked);
        machine
    }

    fn greet(&mut self, acked: u64) {
        let acked = acked | features::PROTOCOL_FEATURES | features::VERSION_1;
        self.say(RawMessage::new(FrontendReq::SET_OWNER, Vec::new()), &[]);
        self.say(RawMessage::new(FrontendReq::GET_FEATURES, Vec::new()), &[]);
        answer(&mut self.stream).expect("features");
        self.say(RawMessage::with_u64(FrontendReq::SET_FEATURES, acked), &[]);
        self.say(
            RawMessage::new(FrontendReq::GET_PROTOCOL_FEATURES, Vec::new()),
            &[],
        );
        answer(&mut self.stream).expect("protocol features");
        // REPLY_ACK: a message can ask to be answered.
        let protocol = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::LOG_SHMFD;
        self.say(
            RawMessage::with_u64(FrontendReq::SET_PROTOCOL_FEATURES, protocol.bits()),
            &[],
        );
        let table = [
            (GPA, REGION, USER, 0),
            (GPA + REGION, REGION, USER + REGION, 0),
        ];
        let files = [self.regions[0].as_raw_fd(), self.regions[1].as_raw_fd()];
        self.say(RawMessage::mem_table(2, &table), &files);
        if let Some(log) = &self.log {
            let body = [LOG_BYTES, 0].map(u64::to_le_bytes).concat();
            let message = RawMessage::new(FrontendReq::SET_LOG_BASE, body);
            self.say(message, &[log.as_raw_fd()]);
            answer(&mut self.stream).expect("the log is there");
        }
    }

    fn say(&self, message: RawMessage, fds: &[RawFd]) {
        assert!(
            send(&self.stream, &message.to_bytes(), fds),
            "hung up: {:?}",
            self.port.port.status()
        );
    }

    /// Stops both queues, as a driver that resets its device; where they stood.
    pub fn stop(&mut self) -> [u32; 2] {
        [0, 1].map(|index| {
            self.say(
                RawMessage::vring_state(FrontendReq::GET_VRING_BASE, index, 0),
                &[],
            );
            let body = answer(&mut self.stream).expect("a base");
            u32::from_le_bytes(body[4..].try_into().expect("four bytes"))
        })
    }

    /// Starts queue 0 (receive) and 1 (transmit). False: the port refused and
    /// hung up; the machine is no more.
    pub fn start(&mut self, queues: [Queue; 2]) -> bool {
        for (index, queue) in (0..).zip(queues) {
            let state = |request, number| RawMessage::vring_state(request, index, number);
            let fd = |request| RawMessage::with_u64(request, index.into());
            // Writes to the ring itself are noted at its guest address.
            let address = RawMessage::vring_addr(
                index,
                self.log.is_some().into(),
                queue.descriptors,
                queue.used,
                queue.available,
                queue.used - USER + GPA,
            );
            let bytes = [
                (state(FrontendReq::SET_VRING_NUM, queue.size), None),
                (address, None),
                (state(FrontendReq::SET_VRING_BASE, queue.base), None),
                (
                    fd(FrontendReq::SET_VRING_CALL),
                    Some(self.call.as_fd().as_raw_fd()),
                ),
                (
                    fd(FrontendReq::SET_VRING_KICK),
                    Some(self.kick.as_fd().as_raw_fd()),
                ),
            ];
            for (message, fd) in bytes {
                let fds: Vec<RawFd> = fd.into_iter().collect();
                if !send(&self.stream, &message.to_bytes(), &fds) {
                    return false;
                }
            }
            let enable = state(FrontendReq::SET_VRING_ENABLE, 1).flags(VERSION | NEED_REPLY);
            if !send(&self.stream, &enable.to_bytes(), &[]) {
                return false;
            }
            match answer(&mut self.stream) {
                Some(body) if body == [0; 8] => {}
                _ => return false,
            }
        }
        true
    }

    /// Where the port stands.
    pub fn status(&self) -> SessionStatus {
        self.port.port.status()
    }

    /// The rings as a core sees them.
    pub fn rings(&self) -> Arc<DeviceRings> {
        Arc::clone(&self.published.0.lock().expect("no panic"))
    }

    /// The guest writes. What lies beyond its memory is left out.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        write_to(&self.regions, gpa, bytes);
    }

    /// The guest reads.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) {
        let (region, at) = place(gpa);
        self.regions[region]
            .read_exact_at(bytes, at)
            .expect("guest memory");
    }

    /// All of the guest's memory.
    pub fn all(&self) -> Vec<u8> {
        let mut bytes = vec![0; 2 * REGION as usize];
        self.read_all(&mut bytes);
        bytes
    }

    /// The same, into room for it.
    pub fn read_all(&self, bytes: &mut [u8]) {
        for (region, bytes) in self.regions.iter().zip(bytes.chunks_mut(REGION as usize)) {
            region.read_exact_at(bytes, 0).expect("guest memory");
        }
    }

    /// The guest's pages that are noted in its log, which is cleared; `None`:
    /// there is no log.
    pub fn take_marked(&self) -> Option<Vec<bool>> {
        let log = self.log.as_ref()?;
        let mut bits = vec![0; LOG_BYTES as usize];
        log.read_exact_at(&mut bits, 0).expect("the log");
        let none = vec![0; LOG_BYTES as usize];
        log.write_all_at(&none, 0).expect("the log");
        let (below, of_guest) = bits.split_at((GPA / LOG_PAGE / 8) as usize);
        assert!(*below == none[..below.len()], "pages that are none");
        let pages = 0..2 * REGION / LOG_PAGE;
        Some(
            pages
                .map(|page| of_guest[page as usize / 8] >> (page % 8) & 1 == 1)
                .collect(),
        )
    }
}

fn place(gpa: u64) -> (usize, u64) {
    let at = gpa - GPA;
    ((at / REGION) as usize, at % REGION)
}

/// Writes to a guest's memory, whoever does it.
pub fn write_to(regions: &[File; 2], gpa: u64, bytes: &[u8]) {
    if !(GPA..GPA + 2 * REGION).contains(&gpa) {
        return;
    }
    let (region, at) = place(gpa);
    let here = bytes.len().min((REGION - at) as usize);
    regions[region]
        .write_all_at(&bytes[..here], at)
        .expect("guest memory");
    if here < bytes.len() && region == 0 {
        write_to(regions, GPA + REGION, &bytes[here..]);
    }
}

/// How many sockets, event and memory files this process has. Pipes are the
/// fuzzer's own, to whoever tells it functions' names.
pub fn open_descriptors() -> usize {
    let files = std::fs::read_dir("/proc/self/fd").expect("/proc").flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let ours = ["socket:", "anon_inode:", "/memfd:"];
    links
        .filter(|link| {
            let name = link.to_string_lossy();
            ours.iter().any(|ours| name.starts_with(ours))
        })
        .count()
}

/// A descriptor of some kind, for messages that need one or do not.
pub fn some_descriptor(kind: u8) -> OwnedFd {
    match kind % 6 {
        0 => EventFd::new().expect("an eventfd").into(),
        1 => memory(REGION).into(),
        2 => memory(0).into(),
        3 => File::open("/dev/null").expect("/dev/null").into(),
        4 => log(LOG_BYTES).into(),
        _ => UnixStream::pair().expect("sockets").0.into(),
    }
}
