//! Sockets that we listen on: made for those alone who may connect, and never in
//! the place of something that is in use or is no socket.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchownat};

/// Longest path of a unix socket: `sun_path` has 108 bytes with its final zero.
pub const MAX_PATH_BYTES: usize = 107;

/// Who may connect to a socket. What is not said is as the process makes files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Permission bits of its file; connecting takes the right to write.
    pub permissions: Option<u32>,
    /// Owner of its file.
    pub user: Option<u32>,
    /// Group of its file.
    pub group: Option<u32>,
}

/// Why there is nothing to listen on. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path does not fit a socket address.
    #[error("the path has {0} bytes, and a unix socket's may have {MAX_PATH_BYTES}")]
    TooLong(usize),
    /// Something other than a socket is there.
    #[error("it exists and is not a socket")]
    NotASocket,
    /// Another process listens there.
    #[error("another process is listening on it")]
    InUse,
    /// A system call failed.
    #[error("cannot {action} it: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// The file of a socket of ours. Removed when this is dropped, unless another
/// file has its name by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

/// Listens on `path`, without blocking on `accept`. A socket that a killed
/// process left there is replaced.
///
/// Nobody can connect before all of `access` is in force: it is given to the
/// bound socket's file, and connections are refused until we listen.
pub fn listen_on(path: &Path, access: &Access) -> Result<(UnixListener, SocketFile), ListenError> {
    let address = address(path)?;
    remove_stale(path, &address)?;
    let socket = unix_stream()?;
    bind(socket.as_raw_fd(), &address).map_err(failed("listen on"))?;
    let file = SocketFile::just_bound(path)?;
    file.give(access)?;
    let backlog = Backlog::MAXCONN;
    listen(&socket, backlog).map_err(failed("listen on"))?;
    Ok((UnixListener::from(socket), file))
}

fn failed<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> ListenError {
    move |error| ListenError::System {
        action,
        source: error.into(),
    }
}

fn address(path: &Path) -> Result<UnixAddr, ListenError> {
    let length = path.as_os_str().len();
    if length > MAX_PATH_BYTES {
        return Err(ListenError::TooLong(length));
    }
    UnixAddr::new(path).map_err(failed("listen on"))
}

fn unix_stream() -> Result<OwnedFd, ListenError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed("make"))
}

/// Removes a socket file that nobody listens on.
fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), ListenError> {
    let there = match fs::symlink_metadata(path) {
        // A folder that is missing, or closed to us, is told when it is used.
        Err(_) => return Ok(()),
        Ok(there) => there,
    };
    if !there.file_type().is_socket() {
        return Err(ListenError::NotASocket);
    }
    match connect(unix_stream()?.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => {}
        // EAGAIN: it has more connections waiting than it wants.
        Ok(()) | Err(Errno::EAGAIN) => return Err(ListenError::InUse),
        Err(errno) => return Err(failed("tell whether anybody listens on")(errno)),
    }
    // Not what somebody may have put there since.
    match fs::symlink_metadata(path) {
        Ok(now) if identity(&now) == identity(&there) => {
            tracing::info!(path = %path.display(), "replacing a stale socket");
            fs::remove_file(path).map_err(failed("remove the stale socket in the place of"))
        }
        _ => Ok(()),
    }
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl SocketFile {
    fn just_bound(path: &Path) -> Result<Self, ListenError> {
        let metadata = fs::symlink_metadata(path).map_err(failed("look at"))?;
        Ok(Self {
            path: path.to_owned(),
            identity: identity(&metadata),
        })
    }

    /// Sets permissions and owner: of this very file, whatever its name may have
    /// been given to meanwhile.
    fn give(&self, access: &Access) -> Result<(), ListenError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = open(&self.path, flags, Mode::empty()).map_err(failed("look at"))?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(failed("look at"))?;
        if identity(&metadata) != self.identity {
            return Err(failed("keep")(io::Error::other(
                "another file took its name",
            )));
        }
        // While it is ours: who gives a file away may not change it any more.
        if let Some(bits) = access.permissions {
            let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
            fs::set_permissions(by_descriptor, Permissions::from_mode(bits))
                .map_err(failed("change the permissions of"))?;
        }
        if access.user.is_some() || access.group.is_some() {
            let (user, group) = (
                access.user.map(Uid::from_raw),
                access.group.map(Gid::from_raw),
            );
            fchownat(&file, "", user, group, AtFlags::AT_EMPTY_PATH)
                .map_err(failed("change the owner of"))?;
        }
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |metadata: fs::Metadata| identity(&metadata) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a socket file is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn path(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("s.sock")
    }

    #[test]
    fn it_has_its_permissions_and_owner_and_goes_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let access = Access {
            permissions: Some(0o606),
            // A change to what it is needs no privilege.
            user: Some(Uid::effective().as_raw()),
            group: Some(Gid::effective().as_raw()),
        };
        let (listener, file) = listen_on(&path(&dir), &access).unwrap();
        let metadata = fs::symlink_metadata(path(&dir)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o606);
        assert_eq!(metadata.uid(), Uid::effective().as_raw());
        let _frontend = UnixStream::connect(path(&dir)).unwrap();
        listener.accept().unwrap();
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        drop(file);
        assert!(!path(&dir).exists());
    }

    #[test]
    fn what_cannot_be_given_leaves_nothing_behind() {
        if Uid::effective().is_root() {
            return; // Root can give everything.
        }
        let dir = tempfile::tempdir().unwrap();
        let user = Some(0);
        let access = Access {
            user,
            ..Access::default()
        };
        assert!(listen_on(&path(&dir), &access).is_err());
        assert!(!path(&dir).exists());
    }

    #[test]
    fn only_what_nobody_listens_on_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let listen = || listen_on(&path(&dir), &Access::default());
        drop(UnixListener::bind(path(&dir)).unwrap());
        assert!(path(&dir).exists(), "std leaves the file: it is stale");
        let (_listener, file) = listen().unwrap();
        assert!(matches!(listen(), Err(ListenError::InUse)));
        drop(file);

        fs::write(path(&dir), "precious").unwrap();
        assert!(matches!(listen(), Err(ListenError::NotASocket)));
        assert_eq!(fs::read(path(&dir)).unwrap(), b"precious");
        fs::remove_file(path(&dir)).unwrap();

        // A link is not followed, wherever it leads.
        let elsewhere = dir.path().join("elsewhere");
        drop(UnixListener::bind(&elsewhere).unwrap());
        std::os::unix::fs::symlink(&elsewhere, path(&dir)).unwrap();
        assert!(matches!(listen(), Err(ListenError::NotASocket)));
        assert!(elsewhere.exists());
    }

    #[test]
    fn a_full_queue_is_a_socket_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let other = unix_stream().unwrap();
        let address = address(&path(&dir)).unwrap();
        bind(other.as_raw_fd(), &address).unwrap();
        listen(&other, Backlog::new(0).unwrap()).unwrap();
        let mut waiting = Vec::new();
        loop {
            let socket = unix_stream().unwrap();
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => waiting.push(socket),
                Err(errno) => break assert_eq!(errno, Errno::EAGAIN),
            }
        }
        let error = listen_on(&path(&dir), &Access::default()).unwrap_err();
        assert!(matches!(error, ListenError::InUse), "{error}");
        assert!(path(&dir).exists());
    }

    #[test]
    fn anothers_file_of_its_name_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (_listener, file) = listen_on(&path(&dir), &Access::default()).unwrap();
        fs::rename(path(&dir), dir.path().join("ours")).unwrap();
        let _other = UnixListener::bind(path(&dir)).unwrap();
        drop(file);
        assert!(path(&dir).exists(), "another's socket was removed");
    }

    #[test]
    fn a_path_may_have_107_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let rest = MAX_PATH_BYTES - dir.path().as_os_str().len() - 1;
        let longest = dir.path().join("x".repeat(rest));
        listen_on(&longest, &Access::default()).unwrap();
        let error = listen_on(&dir.path().join("x".repeat(rest + 1)), &Access::default());
        assert!(matches!(error, Err(ListenError::TooLong(108))), "{error:?}");
    }
}
