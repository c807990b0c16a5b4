//! The control socket: taken at start, also from a daemon that was killed, and
//! removed at the end.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use ringway_vhost::listen::{Access, ListenError, SocketFile, listen_on};

use crate::atomic::directory;
use crate::model::MAX_SOCKET_PATH;

/// Who may connect if nothing is said: the socket's owner and group.
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
    #[error("control socket {path}: cannot {what} it: {error}")]
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
pub struct ControlSocket(#[expect(dead_code, reason = "kept for its end")] SocketFile);

impl ControlSocket {
    /// Listens on `path` for those whom `access` lets; makes its directory if
    /// that is missing.
    pub fn claim(path: &Path, access: Access) -> Result<(Self, UnixListener), SocketError> {
        let system = |what: &'static str| {
            let path = path.to_owned();
            move |error| SocketError::System { path, what, error }
        };
        fs::create_dir_all(directory(path)).map_err(system("make the directory of"))?;
        let access = Access {
            permissions: access.permissions.or(Some(MODE)),
            ..access
        };
        let (listener, file) = listen_on(path, &access).map_err(|error| {
            let path = path.to_owned();
            match error {
                ListenError::TooLong(bytes) => SocketError::TooLong { path, bytes },
                ListenError::NotASocket => SocketError::NotASocket { path },
                ListenError::InUse => SocketError::InUse { path },
                ListenError::System { action, source } => system(action)(source),
            }
        })?;
        Ok((Self(file), listener))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn claim(path: &Path) -> Result<(ControlSocket, UnixListener), SocketError> {
        ControlSocket::claim(path, Access::default())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_socket_is_made_with_its_directory_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let (socket, _listener) = claim(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
        let error = claim(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn its_permissions_are_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let access = Access {
            permissions: Some(0o600),
            ..Access::default()
        };
        let _claimed = ControlSocket::claim(&path, access).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn other_files_and_long_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        let error = claim(&path).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        let error = claim(&dir.path().join("x".repeat(108))).unwrap_err();
        assert!(matches!(error, SocketError::TooLong { .. }), "{error}");
    }
}
