//! The control socket: taken at start, also from a daemon that was killed, and
//! removed at the end.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::atomic::directory;
use crate::model::MAX_SOCKET_PATH;

/// Who may connect: the socket's owner and group.
const MODE: u32 = 0o660;

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error(
        "another ringwayd answers on {path}: stop it first, or give this one another --socket and \
         --state"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else of that name.
    #[error("{path} is there and is not a socket: choose another --socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Longer than the system allows.
    #[error(
        "--socket {path} has {bytes} bytes; a unix socket's path may have at most {MAX_SOCKET_PATH}"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The system refused.
    #[error("control socket {path}: cannot {what}: {error}")]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A listening control socket. Its file goes when this is dropped, if it is
/// still ours.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    identity: (u64, u64),
}

impl ControlSocket {
    /// Listens on `path`; makes its directory if that is missing.
    pub fn claim(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let system = |what: &'static str| {
            let path = path.to_owned();
            move |error| SocketError::System { path, what, error }
        };
        let bytes = path.as_os_str().len();
        if bytes > MAX_SOCKET_PATH {
            let path = path.to_owned();
            return Err(SocketError::TooLong { path, bytes });
        }
        fs::create_dir_all(directory(path)).map_err(system("make its directory"))?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(system("listen"))?;
        fs::set_permissions(path, Permissions::from_mode(MODE))
            .map_err(system("set its permissions"))?;
        listener
            .set_nonblocking(true)
            .map_err(system("make it non-blocking"))?;
        Ok((Self::owned(path)?, listener))
    }

    /// The socket file that another daemon has left to this one.
    pub fn owned(path: &Path) -> Result<Self, SocketError> {
        let metadata = fs::symlink_metadata(path).map_err(|error| SocketError::System {
            path: path.to_owned(),
            what: "look at it",
            error,
        })?;
        Ok(Self {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(
                "control socket {}: not removed: {error}",
                self.path.display()
            );
        }
    }
}

/// Removes a socket file that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let system = |what: &'static str| {
        let path = path.to_owned();
        move |error| SocketError::System { path, what, error }
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at it")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse { path: path.into() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!("control socket {}: removing a stale file", path.display());
            fs::remove_file(path).map_err(system("remove a stale one"))
        }
        Err(error) => Err(system("tell whether it is in use")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_made_with_its_directory_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let (socket, _listener) = ControlSocket::claim(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o660);
        let error = ControlSocket::claim(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_taken_over_and_anothers_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (socket, listener) = ControlSocket::claim(&path).unwrap();

        fs::rename(&path, dir.path().join("ours")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop((socket, listener));
        assert!(path.exists(), "another daemon's socket was removed");
    }

    #[test]
    fn other_files_and_long_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        let error = ControlSocket::claim(&path).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        let error = ControlSocket::claim(&dir.path().join("x".repeat(108))).unwrap_err();
        assert!(matches!(error, SocketError::TooLong { .. }), "{error}");
    }
}
