//! The state file: desired state as TOML that people can read and, while the
//! daemon is stopped, edit.

mod form;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;

use self::form::{BridgeForm, ColumnsForm, FileForm, PortForm};
use crate::atomic::{self, directory};
use crate::model::{Columns, Desired, Port};

/// The format that this daemon writes and reads.
const VERSION: u32 = 1;

const HEADER: &str = "\
# Desired state of ringwayd: every bridge and port that shall be.
# ringwayd rewrites this file at each change; edit it only while it is stopped.

";

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The content has no meaning.
    #[error(
        "{path}, line {line}: {why}\nringwayd does not start with a damaged state file and leaves \
         it as it is: repair that line, or move the file away to start without bridges"
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// Line from 1.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// The file is there but cannot be read.
    #[error("state file {path} cannot be read: {error}")]
    Read {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file could not be replaced.
    #[error("state file {path} cannot be written: {error}; the desired state is as it was")]
    Write {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another daemon works with this file.
    #[error(
        "state file {path} is in use by another ringwayd: stop it, or give this one another --state"
    )]
    InUse {
        /// The state file.
        path: PathBuf,
    },
}

/// The state file, held by this daemon alone.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Locked as long as it is open, here or in another process.
    lock: File,
}

impl StateFile {
    /// Takes the file (which need not exist yet) and reads it. Makes its
    /// directory if that is missing; writes nothing else.
    pub fn open(path: &Path) -> Result<(Self, Desired), StateError> {
        let read_error = |error| StateError::Read {
            path: path.into(),
            error,
        };
        fs::create_dir_all(directory(path)).map_err(read_error)?;
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".lock");
        let lock = File::create(directory(path).join(name)).map_err(read_error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse { path: path.into() }),
            Err(TryLockError::Error(error)) => return Err(read_error(error)),
        }
        let desired = read(path)?;
        let file = Self {
            path: path.into(),
            lock,
        };
        Ok((file, desired))
    }

    /// Takes the file over from another daemon with its lock, and reads it.
    pub fn adopt(path: &Path, lock: File) -> Result<(Self, Desired), StateError> {
        let desired = read(path)?;
        let path = path.into();
        Ok((Self { path, lock }, desired))
    }

    /// The lock, for a daemon that takes over.
    pub fn lock(&self) -> &File {
        &self.lock
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores the desired state durably, or leaves the old one. An error at the
    /// very last step (making the new name durable) may leave the new one.
    pub fn save(&self, desired: &Desired) -> Result<(), StateError> {
        let write = || {
            let text = render(desired).map_err(io::Error::other)?;
            atomic::replace(&self.path, text.as_bytes(), &mut |_| Ok(()))
        };
        write().map_err(|error| StateError::Write {
            path: self.path.clone(),
            error,
        })
    }
}

fn read(path: &Path) -> Result<Desired, StateError> {
    match fs::read(path) {
        Ok(bytes) => parse(&bytes).map_err(|(line, why)| StateError::Damaged {
            path: path.into(),
            line,
            why,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Desired::default()),
        Err(error) => Err(StateError::Read {
            path: path.into(),
            error,
        }),
    }
}

/// The desired state as the file's text.
pub fn render(desired: &Desired) -> Result<String, toml::ser::Error> {
    let form = FileForm {
        version: Spanned::new(0..0, VERSION),
        switch: (desired.switch != Columns::default()).then(|| {
            let Columns {
                external_ids,
                other_config,
            } = desired.switch.clone();
            let form = ColumnsForm {
                external_ids,
                other_config,
            };
            Spanned::new(0..0, form)
        }),
        bridge: desired
            .bridges
            .iter()
            .map(|bridge| Spanned::new(0..0, BridgeForm::from_model(bridge)))
            .collect(),
        port: desired
            .ports
            .iter()
            .map(|port| Spanned::new(0..0, PortForm::from_model(port)))
            .collect(),
    };
    Ok(format!("{HEADER}{}", toml::to_string(&form)?))
}

/// The file's text as desired state, or the line that has no meaning and why.
pub fn parse(bytes: &[u8]) -> Result<Desired, (usize, String)> {
    let line_of = |at: usize| 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count();
    let text = std::str::from_utf8(bytes)
        .map_err(|error| (line_of(error.valid_up_to()), "not UTF-8 text".to_owned()))?;
    let form: FileForm = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        (line_of(at), error.message().to_owned())
    })?;
    if *form.version.get_ref() != VERSION {
        let why = format!(
            "version {} is not known here; this ringwayd knows version {VERSION}",
            form.version.get_ref()
        );
        return Err((line_of(form.version.span().start), why));
    }

    let mut desired = Desired::default();
    if let Some(spanned) = form.switch {
        let line = line_of(spanned.span().start);
        let ColumnsForm {
            external_ids,
            other_config,
        } = spanned.into_inner();
        desired.switch = Columns {
            external_ids,
            other_config,
        };
        let of_switch = |why| (line, format!("switch: {why}"));
        desired.switch.check().map_err(of_switch)?;
    }
    for spanned in form.bridge {
        let line = line_of(spanned.span().start);
        let bridge = spanned
            .into_inner()
            .into_model()
            .map_err(|why| (line, why))?;
        if let Some(object) = desired.taken(bridge.name()) {
            return Err((line, format!("a second {object} named {}", bridge.name())));
        }
        desired.bridges.push(bridge);
    }
    for spanned in form.port {
        let line = line_of(spanned.span().start);
        let port = spanned
            .into_inner()
            .into_model()
            .map_err(|why| (line, why))?;
        if let Some(object) = desired.taken_for(&port) {
            let name = &port.name;
            return Err((line, format!("port {name}: there is a {object} {name}")));
        }
        if desired.bridge(&port.bridge).is_none() {
            let Port { name, bridge, .. } = &port;
            return Err((line, format!("port {name}: there is no bridge {bridge}")));
        }
        if let Some(other) = port.number.and_then(|number| desired.port_numbered(number)) {
            let (name, other) = (&port.name, &other.name);
            return Err((line, format!("port {name}: number is port {other}'s")));
        }
        if let Some(other) = port.socket().and_then(|path| desired.port_on_socket(path)) {
            let (name, other) = (&port.name, &other.name);
            return Err((line, format!("port {name}: path is port {other}'s")));
        }
        desired.ports.push(port);
    }
    Ok(desired)
}
