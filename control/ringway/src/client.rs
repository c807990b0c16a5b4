//! The connection to ringwayd, and what may go wrong with it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use ringway_proto::v1::ringway_client::RingwayClient;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use crate::{EXIT_FAILED, EXIT_USAGE};

/// Longest time to wait for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// A client of the control service.
pub type Rpc = RingwayClient<Channel>;

/// A connection to ringwayd.
pub struct Client {
    /// The control service.
    pub rpc: Rpc,
}

/// A ringwayd that is reached over TCP: both sides show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsTarget {
    /// `https://HOST:PORT`.
    pub url: String,
    /// Certificates (PEM) of who signed ringwayd's.
    pub ca: PathBuf,
    /// The client's certificate (PEM).
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The name in ringwayd's certificate, if it is not the URL's.
    pub name: Option<String>,
}

/// Longest until a connection over TCP is there.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line has no meaning.
    #[error("{0}")]
    Usage(String),
    /// ringwayd cannot be reached.
    #[error("{}", connect_remedy(path, error))]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something else than ringwayd answers.
    #[error("what answers on {path} does not speak gRPC ({error}); is that ringwayd's socket?")]
    Protocol {
        /// The control socket.
        path: PathBuf,
        /// What was wrong.
        error: tonic::transport::Error,
    },
    /// There is no connection over TCP.
    #[error("{}", tls_remedy(url, why))]
    Tls {
        /// The daemon's address.
        url: String,
        /// What was wrong.
        why: String,
    },
    /// ringwayd refused.
    #[error("{}", refusal(.0))]
    Refused(#[from] Status),
    /// A file cannot be read.
    #[error("{path} cannot be read: {error}")]
    Input {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

fn connect_remedy(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no {path}: is ringwayd running? Start it with: systemctl start ringwayd, \
             or: ringwayd --socket {path}\n\
             If it runs with another --socket, name it: ringway --socket PATH, or RINGWAY_SOCKET"
        ),
        io::ErrorKind::ConnectionRefused => format!(
            "nobody answers on {path}: ringwayd is not running any more. Start it with: \
             systemctl start ringwayd, or: ringwayd --socket {path}"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to connect to {path}: run ringway as root (sudo) or as a member of \
             the socket's group (ls -l {path})"
        ),
        _ => format!("{path} cannot be connected to: {error}"),
    }
}

fn tls_remedy(url: &str, why: &str) -> String {
    format!(
        "{url} cannot be connected to: {why}. Is ringwayd there with --listen-tls? Its certificate \
         must be signed by --tls-ca and be for the host's name (or --tls-name), and --tls-cert by \
         ringwayd's --tls-client-ca"
    )
}

/// The innermost of an error's causes: the outer ones say "transport error".
fn cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => cause(source),
        None => error.to_string(),
    }
}

fn refusal(status: &Status) -> String {
    use std::error::Error;
    match status.code() {
        // The transport's own failures carry their source, the daemon's answers do not.
        Code::Unavailable | Code::Unknown | Code::Cancelled if status.source().is_some() => {
            format!(
                "the connection to ringwayd broke off ({}): it stopped or was restarted; \
                 `ringway show` tells whether it did what was asked",
                status.message()
            )
        }
        Code::Unimplemented => format!(
            "this ringwayd does not know the request ({}): it is older than this ringway; compare \
             with `ringway version`",
            status.message()
        ),
        _ => status.message().to_owned(),
    }
}

impl Error {
    /// The exit code that tells it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => EXIT_USAGE,
            _ => EXIT_FAILED,
        }
    }

    /// The gRPC status code's name, or one of the command line's own.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Usage(_) => "USAGE",
            Error::Connect { .. } | Error::Protocol { .. } | Error::Tls { .. } => "UNREACHABLE",
            Error::Input { .. } => "INPUT",
            Error::Output(_) => "OUTPUT",
            Error::Refused(status) => match status.code() {
                Code::InvalidArgument => "INVALID_ARGUMENT",
                Code::NotFound => "NOT_FOUND",
                Code::AlreadyExists => "ALREADY_EXISTS",
                Code::FailedPrecondition => "FAILED_PRECONDITION",
                Code::Internal => "INTERNAL",
                Code::Unavailable => "UNAVAILABLE",
                Code::Unimplemented => "UNIMPLEMENTED",
                Code::Cancelled => "CANCELLED",
                Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
                Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
                _ => "UNKNOWN",
            },
        }
    }

    /// Where in a text (byte, from 0) the daemon did not understand it.
    pub fn at(&self) -> Option<u64> {
        self.trailer(ringway_proto::AT_TRAILER)
    }

    /// In which line of a file, or change of a list (from 1), that is.
    pub fn line(&self) -> Option<u64> {
        self.trailer(ringway_proto::LINE_TRAILER)
    }

    fn trailer(&self, name: &str) -> Option<u64> {
        match self {
            Error::Refused(status) => status.metadata().get(name)?.to_str().ok()?.parse().ok(),
            _ => None,
        }
    }

    /// Whether the daemon keeps the wish and goes on trying.
    pub fn kept(&self) -> bool {
        match self {
            Error::Refused(status) => status.metadata().contains_key(ringway_proto::KEPT_TRAILER),
            _ => false,
        }
    }
}

impl Client {
    /// Connects to ringwayd on its control socket.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        Self::connect_for(socket, TIMEOUT).await
    }

    /// Connects to ringwayd for questions whose answers may take so long.
    pub async fn connect_for(socket: &Path, patience: Duration) -> Result<Self, Error> {
        let path = || socket.to_owned();
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|error| Error::Connect {
            path: path(),
            error,
        })?;
        // One connection, made already: there is no second one to make.
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
            let stream = stream.take().ok_or(io::ErrorKind::ConnectionAborted);
            async move { stream.map_err(io::Error::from) }
        });
        let channel = Endpoint::from_static("http://ringwayd")
            .timeout(patience)
            .connect_with_connector(connector)
            .await
            .map_err(|error| Error::Protocol {
                path: path(),
                error,
            })?;
        Ok(Self::over(channel))
    }

    /// Connects to a ringwayd over TCP, for questions whose answers may take so
    /// long.
    pub async fn connect_tls(target: &TlsTarget, patience: Duration) -> Result<Self, Error> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| Error::Input {
                path: path.display().to_string(),
                error,
            })
        };
        let failed = |error: tonic::transport::Error| Error::Tls {
            url: target.url.clone(),
            why: cause(&error),
        };
        if !target.url.starts_with("https://") {
            let url = &target.url;
            let why = format!("--connect {url} is not of the form https://HOST:PORT");
            return Err(Error::Usage(why));
        }
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&target.ca)?))
            .identity(Identity::from_pem(read(&target.cert)?, read(&target.key)?));
        if let Some(name) = &target.name {
            tls = tls.domain_name(name);
        }
        let channel = Endpoint::from_shared(target.url.clone())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(failed)?
            .connect_timeout(CONNECT_WITHIN)
            .timeout(patience)
            .connect()
            .await
            .map_err(failed)?;
        Ok(Self::over(channel))
    }

    fn over(channel: Channel) -> Self {
        Self {
            rpc: RingwayClient::new(channel)
                .max_decoding_message_size(ringway_proto::MAX_MESSAGE)
                .max_encoding_message_size(ringway_proto::MAX_MESSAGE),
        }
    }
}
