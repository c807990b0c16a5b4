//! The state file: desired state as TOML that people can read and, while the
//! daemon is stopped, edit.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway_datapath::spec::{BridgeSpec, DpdkSpec};
use ringway_proto::spelling::{self, Spelling};
use ringway_proto::v1 as pb;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::atomic::{self, directory};
use crate::convert;
use crate::model::{self, Desired, Kind, Port, VhostUser};

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
    /// Locked as long as it is open.
    _lock: File,
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
        let desired = match fs::read(path) {
            Ok(bytes) => parse(&bytes).map_err(|(line, why)| StateError::Damaged {
                path: path.into(),
                line,
                why,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Desired::default(),
            Err(error) => return Err(read_error(error)),
        };
        let file = Self {
            path: path.into(),
            _lock: lock,
        };
        Ok((file, desired))
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

/// The file as serde sees it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    version: Spanned<u32>,
    #[serde(default)]
    bridge: Vec<Spanned<BridgeForm>>,
    #[serde(default)]
    port: Vec<Spanned<PortForm>>,
}

/// A `[[bridge]]`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BridgeForm {
    name: String,
    fail_mode: Option<String>,
    fdb_ageing: Option<u64>,
    fdb_limit: Option<u32>,
}

/// A `[[port]]` of any type; [`PortForm::only`] refuses the keys of others.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PortForm {
    name: String,
    bridge: String,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devargs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_rxq: Option<u16>,
}

/// The desired state as the file's text.
pub fn render(desired: &Desired) -> Result<String, toml::ser::Error> {
    let form = FileForm {
        version: Spanned::new(0..0, VERSION),
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
    for spanned in form.bridge {
        let line = line_of(spanned.span().start);
        let bridge = spanned
            .into_inner()
            .into_model()
            .map_err(|why| (line, why))?;
        if let Some(object) = desired.taken(&bridge.name) {
            return Err((line, format!("a second {object} named {}", bridge.name)));
        }
        desired.bridges.push(bridge);
    }
    for spanned in form.port {
        let line = line_of(spanned.span().start);
        let port = spanned
            .into_inner()
            .into_model()
            .map_err(|why| (line, why))?;
        if let Some(object) = desired.taken(&port.name) {
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

impl BridgeForm {
    fn from_model(bridge: &BridgeSpec) -> Self {
        Self {
            name: bridge.name.clone(),
            fail_mode: Some(
                convert::fail_mode_to_proto(bridge.fail_mode)
                    .spelled()
                    .into(),
            ),
            fdb_ageing: Some(bridge.fdb_ageing.as_secs()),
            fdb_limit: Some(bridge.fdb_limit),
        }
    }

    fn into_model(self) -> Result<BridgeSpec, String> {
        let mut bridge = BridgeSpec::new(self.name);
        let of_bridge = |why| format!("bridge {}: {why}", bridge.name);
        if let Some(mode) = self.fail_mode {
            let mode = pb::FailMode::from_spelling(&mode).map_err(of_bridge)?;
            bridge.fail_mode = convert::fail_mode_from_proto(mode);
        }
        if let Some(seconds) = self.fdb_ageing {
            bridge.fdb_ageing = Duration::from_secs(seconds);
        }
        bridge.fdb_limit = self.fdb_limit.unwrap_or(bridge.fdb_limit);
        model::check_bridge(&bridge).map_err(|why| format!("bridge {}: {why}", bridge.name))?;
        Ok(bridge)
    }
}

impl PortForm {
    fn from_model(port: &Port) -> Self {
        let (name, bridge) = (port.name.clone(), port.bridge.clone());
        let kind = convert::kind_to_proto(&port.kind).spelled().to_owned();
        let form = Self {
            name,
            bridge,
            r#type: kind,
            number: port.number,
            ..Self::default()
        };
        match &port.kind {
            Kind::VhostUser(options) => Self {
                path: Some(options.path.to_string_lossy().into_owned()),
                mode: Some(convert::socket_mode_to_proto(options.mode).spelled().into()),
                queues: Some(options.queues),
                owner: options.owner.clone(),
                permissions: options.permissions.map(|bits| format!("{bits:04o}")),
                ..form
            },
            Kind::Dpdk(options) => Self {
                devargs: Some(options.devargs.clone()),
                n_rxq: Some(options.rx_queues),
                ..form
            },
        }
    }

    fn into_model(self) -> Result<Port, String> {
        let name = self.name.clone();
        self.try_into_model()
            .map_err(|why| format!("port {name}: {why}"))
    }

    fn try_into_model(self) -> Result<Port, String> {
        let kind = match spelling::port_kind(&self.r#type)? {
            pb::PortKind::Dpdk => {
                self.only(&["devargs", "n_rxq"])?;
                Kind::Dpdk(DpdkSpec {
                    rx_queues: self.n_rxq.unwrap_or(1),
                    ..DpdkSpec::new(self.devargs.unwrap_or_default())
                })
            }
            _ => {
                self.only(&["path", "mode", "queues", "owner", "permissions"])?;
                let mode = match &self.mode {
                    Some(mode) => pb::SocketMode::from_spelling(mode)?,
                    None => pb::SocketMode::Server,
                };
                Kind::VhostUser(VhostUser {
                    path: match self.path {
                        Some(path) => path.into(),
                        None => VhostUser::default_path(&self.name),
                    },
                    mode: convert::socket_mode_from_proto(mode),
                    queues: self.queues.unwrap_or(1),
                    owner: self.owner,
                    permissions: match &self.permissions {
                        Some(bits) => Some(spelling::permissions(bits)?),
                        None => None,
                    },
                })
            }
        };
        let port = Port {
            name: self.name,
            bridge: self.bridge,
            number: self.number,
            kind,
        };
        port.check()?;
        Ok(port)
    }

    /// Refuses the keys that belong to another type of port.
    fn only(&self, allowed: &[&str]) -> Result<(), String> {
        let given = [
            ("path", self.path.is_some()),
            ("mode", self.mode.is_some()),
            ("queues", self.queues.is_some()),
            ("owner", self.owner.is_some()),
            ("permissions", self.permissions.is_some()),
            ("devargs", self.devargs.is_some()),
            ("n_rxq", self.n_rxq.is_some()),
        ];
        match given
            .iter()
            .find(|(key, set)| *set && !allowed.contains(key))
        {
            Some((key, _)) => Err(format!(
                "{key} is no option of type {}; its options: {}",
                self.r#type,
                allowed.join(", ")
            )),
            None => Ok(()),
        }
    }
}
