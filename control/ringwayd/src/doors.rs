//! Where clients come in: the control socket, and a TCP address for those that
//! show a certificate. Each door lets in so many connections at a time, each
//! connection has so many requests, and who is silent is let go.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

/// Connections at a time through one door; further ones wait to be accepted.
pub const MOST_CONNECTIONS: usize = 256;
/// Requests and answers under way on one connection; further ones wait.
pub const MOST_STREAMS: u32 = 128;
/// Requests of one connection that are worked on.
const MOST_REQUESTS: usize = 64;
/// Bytes of one request's headers.
const MOST_HEADERS: u32 = 16 << 10;
/// Longest for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A silent connection is asked for a sign of life after this …
const ASK_AFTER: Duration = Duration::from_secs(30);
/// … and closed if none comes within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Pause after a connection could not be accepted, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no door for TCP.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// A file of certificates or keys cannot be read.
    #[error("{option} {path} cannot be read: {error}")]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The key is everybody's.
    #[error("--tls-key {path} may be read by every user of this host: chmod 0600 {path}")]
    OpenKey {
        /// The file.
        path: PathBuf,
    },
    /// The files are no certificates, or do not belong together.
    #[error(
        "--tls-cert, --tls-key and --tls-client-ca do not make a TLS server ({0}): the first is to \
         have ringwayd's certificate, the second its key, the third that of who signs clients' \
         certificates, each as PEM"
    )]
    Certificates(String),
    /// The address cannot be had.
    #[error("--listen-tls {address}: {error}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

/// The doors of a daemon.
pub struct Doors {
    /// The control socket.
    pub unix: UnixListener,
    /// The TCP address, if there is one.
    pub tls: Option<TlsDoor>,
}

impl From<UnixListener> for Doors {
    fn from(unix: UnixListener) -> Self {
        Self { unix, tls: None }
    }
}

/// Files of certificates and keys, PEM each.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// ringwayd's certificate, with those between it and a known authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Certificates of those who sign clients' certificates.
    pub client_ca: PathBuf,
}

/// A TCP address at which clients and ringwayd show each other certificates.
pub struct TlsDoor {
    listener: std::net::TcpListener,
    config: ServerTlsConfig,
}

impl TlsDoor {
    /// Listens on `address`. Only who holds a certificate signed by one of
    /// `files.client_ca` gets beyond the handshake.
    pub fn open(address: SocketAddr, files: &TlsFiles) -> Result<Self, DoorError> {
        let read = |option, path: &Path| {
            fs::read(path).map_err(|error| DoorError::File {
                option,
                path: path.to_owned(),
                error,
            })
        };
        let key = read("--tls-key", &files.key)?;
        if everybody_reads(&files.key) {
            let path = files.key.clone();
            return Err(DoorError::OpenKey { path });
        }
        let identity = Identity::from_pem(read("--tls-cert", &files.cert)?, key);
        let client_ca = Certificate::from_pem(read("--tls-client-ca", &files.client_ca)?);
        let config = ServerTlsConfig::new()
            .identity(identity)
            .client_ca_root(client_ca)
            .timeout(HANDSHAKE);
        // Said at the start, not to the first client.
        Server::builder()
            .tls_config(config.clone())
            .map_err(|error| {
                let source = std::error::Error::source(&error);
                DoorError::Certificates(source.map_or(error.to_string(), ToString::to_string))
            })?;
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = listen().map_err(|error| DoorError::Address { address, error })?;
        Ok(Self { listener, config })
    }

    /// The address, with the port that the system chose if 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What to accept from, and how to greet who comes.
    pub fn into_parts(self) -> io::Result<(TcpListener, ServerTlsConfig)> {
        Ok((TcpListener::from_std(self.listener)?, self.config))
    }
}

fn everybody_reads(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// A server with the limits of every door.
pub fn limited_server() -> Server {
    Server::builder()
        .concurrency_limit_per_connection(MOST_REQUESTS)
        .max_concurrent_streams(MOST_STREAMS)
        .http2_max_header_list_size(MOST_HEADERS)
        .http2_keepalive_interval(Some(ASK_AFTER))
        .http2_keepalive_timeout(Some(ANSWER_WITHIN))
}

/// What accepts connections.
pub trait Accept: Send + Sync + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static;
    /// Waits for the next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for tokio::net::UnixListener {
    type Io = UnixStream;
    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;
    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Connections as they are let in, at most `most` at a time. It ends when it is
/// dropped, never by an error: where descriptors are short it pauses.
pub fn let_in<L: Accept>(listener: L, most: usize) -> ReceiverStream<io::Result<LetIn<L::Io>>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(most));
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let next = tokio::select! {
                () = sender.closed() => return,
                next = next => next,
            };
            match next {
                (Ok(place), Ok(io)) => {
                    if sender.send(Ok(LetIn { io, _place: place })).await.is_err() {
                        return;
                    }
                }
                (Ok(_), Err(error)) => {
                    tracing::warn!("a client's connection cannot be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
                // Nobody closes the semaphore.
                (Err(_), _) => return,
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// A connection that holds one of the door's places.
#[derive(Debug)]
pub struct LetIn<T> {
    io: T,
    _place: OwnedSemaphorePermit,
}

impl<T: Connected> Connected for LetIn<T> {
    type ConnectInfo = T::ConnectInfo;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for LetIn<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for LetIn<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
