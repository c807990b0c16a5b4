//! A ringwayd in this process, over a fake datapath.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use clap::Parser;
use ringway::cli::Cli;
use ringway::client::{Client, Rpc};
use ringway_vhost::listen::Access;
use ringwayd::control::Control;
use ringwayd::doors::Doors;
use ringwayd::journal::Journal;
use ringwayd::serve::serve;
use ringwayd::socket::ControlSocket;
use ringwayd::state::StateFile;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fake::Fake;
use crate::fake_host::FakeHost;

pub struct Daemon {
    pub fake: Fake,
    pub host: FakeHost,
    pub rpc: Rpc,
    pub dir: PathBuf,
    links: Weak<Control<Fake>>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    socket: ControlSocket,
}

/// What `ringway` printed and how it ended.
#[derive(Debug)]
pub struct Printed {
    pub code: u8,
    pub out: String,
    pub err: String,
}

impl Daemon {
    /// Starts in `dir`, with the state file that is there.
    pub async fn start(dir: &TempDir) -> Self {
        Self::start_over(dir, Fake::default()).await
    }

    pub async fn start_over(dir: &TempDir, fake: Fake) -> Self {
        Self::start_on(dir, fake, FakeHost::default()).await
    }

    pub async fn start_on(dir: &TempDir, fake: Fake, host: FakeHost) -> Self {
        Self::start_all(dir, fake, host, Doors::from).await
    }

    /// With whatever doors are made of the socket.
    pub async fn start_with_doors(
        dir: &TempDir,
        doors: impl FnOnce(UnixListener) -> Doors,
    ) -> Self {
        Self::start_all(dir, Fake::default(), FakeHost::default(), doors).await
    }

    async fn start_all(
        dir: &TempDir,
        fake: Fake,
        host: FakeHost,
        doors: impl FnOnce(UnixListener) -> Doors,
    ) -> Self {
        let dir = dir.path().to_owned();
        let (file, desired) = StateFile::open(&dir.join("state.toml")).unwrap();
        let journal = Journal::open(&dir.join("state.toml")).unwrap();
        let path = dir.join("control.sock");
        let (socket, listener) = ControlSocket::claim(&path, Access::default()).unwrap();
        let doors = doors(listener);
        let (switch, shared) = (Arc::new(fake.clone()), Arc::new(host.clone()));
        let control = Control::new(switch, shared, file, journal, desired, &path);
        let control = Arc::new(control);
        let links = Arc::downgrade(&control);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let served = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            let ready = || ready.send(()).unwrap();
            serve(control, doors, stopped, ready).await.unwrap();
        });
        is_ready.await.unwrap();
        let rpc = Client::connect(&path).await.unwrap().rpc;
        Self {
            fake,
            host,
            links,
            rpc,
            dir,
            stop,
            served,
            socket,
        }
    }

    /// Stops as on SIGTERM.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap();
        drop(self.socket);
    }

    /// Tells the daemon what the kernel would: some interface came or went.
    pub fn links_changed(&self) {
        self.links
            .upgrade()
            .expect("a running daemon")
            .links_changed();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    pub fn state_file(&self) -> String {
        std::fs::read_to_string(self.dir.join("state.toml")).unwrap_or_default()
    }

    /// The flow journal without its comments.
    pub fn journal(&self) -> String {
        journal(&self.dir)
    }

    /// Runs `ringway` with these words.
    pub async fn ringway(&self, line: &str) -> Printed {
        ringway(&self.socket(), line).await
    }

    /// Runs `ringway` with these words, which may have white space.
    pub async fn words(&self, words: &[&str]) -> Printed {
        run(&self.socket(), words.iter().copied()).await
    }

    /// As [`Daemon::ringway`], of a line that succeeds: what it printed.
    pub async fn ok(&self, line: &str) -> String {
        let printed = self.ringway(line).await;
        assert_eq!((printed.code, printed.err.as_str()), (0, ""), "{line}");
        printed.out
    }

    /// As [`Daemon::ok`] with `--json`.
    pub async fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&format!("--json {line}")).await).unwrap()
    }
}

/// The flow journal of a daemon in this directory, without comments.
pub fn journal(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("state.toml.flows")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

pub async fn ringway(socket: &Path, line: &str) -> Printed {
    run(socket, line.split_whitespace()).await
}

async fn run<'a>(socket: &'a Path, words: impl Iterator<Item = &'a str>) -> Printed {
    let socket = socket.to_str().unwrap();
    let before = ["ringway", "--socket", socket].into_iter();
    let words = before.chain(words).map(std::ffi::OsString::from);
    let cli = Cli::try_parse_from(ringway::cli::words(words)).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = ringway::run(&cli, &mut out, &mut err).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Printed {
        code,
        out: text(out),
        err: text(err),
    }
}
