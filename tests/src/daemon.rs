//! A real `ringwayd` in a folder of its own, and the `ringway` command on it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::counters::{self, Balance};
use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::process::Process;
use crate::{machine, wait};

/// Longest the daemon takes from its start to its first answer.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Longest a port takes until it forwards.
const FORWARDING_LIMIT: Duration = Duration::from_secs(60);

/// How to start the daemon.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// How many poll-mode cores.
    pub pmds: usize,
    /// `--hugepages`.
    pub hugepages: &'static str,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// The name of the network namespace to run in; `None`: one of its own.
    pub namespace: Option<String>,
    /// The folder of the state file; `None`: the daemon's own.
    pub state_dir: Option<PathBuf>,
    /// Not root, but this user and group, with the capabilities that the systemd
    /// unit gives.
    pub user: Option<u32>,
    /// The folder with ringwayd and ringway; `None`: see [`machine::bin_dir`].
    pub bin_dir: Option<PathBuf>,
}

impl DaemonOptions {
    /// A daemon that keeps what AF_XDP needs.
    pub fn with_xdp() -> Self {
        Self {
            arguments: ["--keep-capabilities", "xdp"].map(str::to_owned).to_vec(),
            ..Self::default()
        }
    }
}

/// As in ringwayd.service.
const CAPABILITIES: &str = "+net_admin,+net_raw,+ipc_lock,+chown";

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            pmds: 1,
            hugepages: "auto",
            arguments: Vec::new(),
            namespace: None,
            state_dir: None,
            user: None,
            bin_dir: None,
        }
    }
}

/// A daemon and its folder (sockets, state file, logs). Both are gone when it
/// is dropped.
#[derive(Debug)]
pub struct Daemon {
    // Dropped before the namespace, and that before the folder with its log.
    process: Process,
    namespace: Option<Namespace>,
    dir: TempDir,
    options: DaemonOptions,
    bin_dir: PathBuf,
}

/// How a `ringway` command ended.
#[derive(Clone, Debug)]
pub struct CommandOutput {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed for programs or people.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Daemon {
    /// Starts a daemon with one poll-mode core and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::start_with(DaemonOptions::default())
    }

    /// As [`Daemon::start`], with options.
    pub fn start_with(mut options: DaemonOptions) -> Result<Self> {
        machine::need_root()?;
        let namespace = match &options.namespace {
            Some(_) => None,
            None => Some(Namespace::new("switch")?),
        };
        if let Some(namespace) = &namespace {
            options.namespace = Some(namespace.name().to_owned());
        }
        // A short path: unix sockets allow 107 bytes.
        let dir = tempfile::Builder::new()
            .prefix("ringway-")
            .tempdir_in("/tmp")
            .map_err(Error::io("make a temporary folder"))?;
        if options.user.is_some() {
            std::os::unix::fs::chown(dir.path(), options.user, options.user)
                .map_err(Error::io("give the temporary folder away"))?;
        }
        let bin_dir = match &options.bin_dir {
            Some(given) => given.clone(),
            None => machine::bin_dir()?,
        };
        let process = launch(&bin_dir, dir.path(), &options)?;
        let mut daemon = Self {
            dir,
            options,
            process,
            namespace,
            bin_dir,
        };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts a daemon again after [`Daemon::kill`] or [`Daemon::terminate`],
    /// with the state file and all else that the last one left.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = launch(&self.bin_dir, self.dir.path(), &self.options)?;
        self.wait_ready()
    }

    /// Starts a second daemon that takes over from this one, and waits until the
    /// first has ended and the second answers.
    pub fn take_over(&mut self) -> Result<()> {
        let mut options = self.options.clone();
        options.arguments.push("--takeover".to_owned());
        let successor = launch(&self.bin_dir, self.dir.path(), &options)?;
        let ended = self.process.wait_exit(READY_LIMIT);
        let mut old = std::mem::replace(&mut self.process, successor);
        if ended.is_err() {
            // The new one says why.
            self.process.check_running()?;
        }
        let status = ended?;
        if !status.success() {
            let (pid, tail) = (old.pid(), old.log_tail());
            old.kill();
            return Err(Error::Unexpected(format!(
                "the daemon taken over from ({pid}) ended with {status}: {tail}"
            )));
        }
        self.wait_ready()
    }

    /// Starts a second daemon that is to take over, and leaves it to the caller.
    pub fn start_successor(&self) -> Result<Process> {
        let mut options = self.options.clone();
        options.arguments.push("--takeover".to_owned());
        launch(&self.bin_dir, self.dir.path(), &options)
    }

    fn wait_ready(&mut self) -> Result<()> {
        wait::until("ringwayd to answer", READY_LIMIT, || {
            if let Err(died) = self.process.check_running() {
                return Ok(Err(died));
            }
            self.ok(&["version"]).map(|_| Ok(()))
        })?
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has written to its log so far.
    pub fn log(&self) -> Result<String> {
        let log = self.path("ringwayd.log");
        std::fs::read_to_string(&log).map_err(Error::io(format!("read {}", log.display())))
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        socket_in(self.dir.path())
    }

    /// The state file.
    pub fn state_file(&self) -> PathBuf {
        state_in(self.options.state_dir.as_deref().unwrap_or(self.dir.path()))
    }

    /// The namespace of its own, in which its interfaces are.
    ///
    /// # Panics
    /// The daemon was started in another's.
    pub fn namespace(&self) -> &Namespace {
        let own = self.namespace.as_ref();
        own.unwrap_or_else(|| panic!("the daemon runs in {:?}", self.options.namespace))
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM; how it ended.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait_exit(Duration::from_secs(20))
    }

    /// Runs `ringway --socket … ARGS`.
    pub fn ringway(&self, args: &[&str]) -> Result<CommandOutput> {
        let program = self.bin_dir.join("ringway");
        let output = Command::new(&program)
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .output()
            .map_err(Error::io(format!("start {}", program.display())))?;
        Ok(CommandOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a line of shell in its namespace, with Open vSwitch's commands being
    /// ringway: `ovs-vsctl show`, `ringway show`, `ip link set br0 up`.
    pub fn shell(&self, line: &str) -> Result<CommandOutput> {
        let commands = self.path("commands");
        if !commands.exists() {
            let link = |from: &Path, name: &str| {
                std::os::unix::fs::symlink(from, commands.join(name))
                    .map_err(Error::io(format!("link {name}")))
            };
            std::fs::create_dir(&commands).map_err(Error::io("make a folder of commands"))?;
            for name in ["ovs-vsctl", "ovs-ofctl", "ovs-dpctl", "ovs-appctl"] {
                link(&self.bin_dir.join("ringway"), name)?;
            }
            for name in ["ringway", "ringwayd"] {
                link(&self.bin_dir.join(name), name)?;
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let (program, args) = self.namespace().entered(&["bash", "-c", line])?;
        let output = Command::new(&program)
            .args(args)
            .env(
                "PATH",
                format!("{}:/usr/sbin:/sbin:{path}", commands.display()),
            )
            .env("RINGWAY_SOCKET", self.socket())
            .output()
            .map_err(Error::io(format!("start {}", program.display())))?;
        Ok(CommandOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// [`Daemon::shell`] of a line that must succeed; all that it printed,
    /// warnings first.
    pub fn shell_ok(&self, line: &str) -> Result<String> {
        let output = self.shell(line)?;
        if output.status.success() {
            return Ok(output.stderr + &output.stdout);
        }
        Err(Error::Command {
            command: line.to_owned(),
            status: output.status,
            output: output.stdout + &output.stderr,
        })
    }

    /// Runs a `ringway` command that must succeed; what it printed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.ringway(args)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::Command {
            command: format!("ringway {}", args.join(" ")),
            status: output.status,
            output: output.stdout + &output.stderr,
        })
    }

    /// Runs a `ringway` command that must fail; what it complained about.
    pub fn fails(&self, args: &[&str]) -> Result<String> {
        let output = self.ringway(args)?;
        if output.status.success() {
            return Err(Error::Unexpected(format!(
                "`ringway {}` succeeded and should have failed; it printed: {}",
                args.join(" "),
                output.stdout
            )));
        }
        Ok(output.stderr)
    }

    /// Runs `ringway --json ARGS`, whatever its exit status.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.ringway(&[&["--json"], args].concat())?;
        serde_json::from_str(&output.stdout).map_err(|error| {
            Error::Unexpected(format!(
                "`ringway --json {}` printed no JSON ({error}): {}{}",
                args.join(" "),
                output.stdout,
                output.stderr
            ))
        })
    }

    /// Adds a vhost-user port to a bridge; its socket's path.
    pub fn add_vhost_port(&self, bridge: &str, port: &str, options: &[&str]) -> Result<PathBuf> {
        let socket = self.path(&format!("{port}.sock"));
        let path = format!("path={}", socket.display());
        let mut args = vec!["add-port", bridge, port, "type=vhost-user", &path];
        args.extend(options);
        self.ok(&args)?;
        Ok(socket)
    }

    /// Whether `show` says that all is as desired: it exits with 3 if not.
    pub fn as_desired(&self) -> Result<bool> {
        let output = self.ringway(&["show"])?;
        match output.status.code() {
            Some(0) => Ok(true),
            Some(3) => Ok(false),
            _ => Err(Error::Command {
                command: "ringway show".into(),
                status: output.status,
                output: output.stdout + &output.stderr,
            }),
        }
    }

    /// `show` of one port.
    pub fn show_port(&self, port: &str) -> Result<Value> {
        let shown = self.json(&["show"])?;
        counters::list(&shown, "bridges")?
            .iter()
            .filter_map(|bridge| bridge["ports"].as_array())
            .flatten()
            .find(|entry| entry["name"] == port)
            .cloned()
            .ok_or_else(|| Error::Unexpected(format!("`show` has no port {port}: {shown}")))
    }

    /// The state's name of a port as `show` has it.
    pub fn port_state(&self, port: &str) -> Result<String> {
        counters::text(&self.show_port(port)?["actual"], "state")
    }

    /// Waits until `show` has a port in this state.
    pub fn wait_state(&self, port: &str, state: &str) -> Result<()> {
        let what = format!("port {port} to be {state}");
        wait::until(&what, FORWARDING_LIMIT, || match self.port_state(port) {
            Ok(now) if now == state => Ok(()),
            Ok(_) => Err(self
                .show_port(port)
                .map_or_else(|error| error.to_string(), |shown| shown.to_string())),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Waits until all these ports forward.
    pub fn wait_forwarding(&self, ports: &[&str]) -> Result<()> {
        ports
            .iter()
            .try_for_each(|port| self.wait_state(port, "forwarding"))
    }

    /// The counters of a port.
    pub fn port(&self, name: &str) -> Result<counters::Port> {
        self.ports()?
            .into_iter()
            .find(|port| port.name == name)
            .ok_or_else(|| Error::Unexpected(format!("dump-ports has no port {name}")))
    }

    /// The counters of all ports.
    pub fn ports(&self) -> Result<Vec<counters::Port>> {
        counters::ports(&self.json(&["dump-ports"])?)
    }

    /// The counters of all poll-mode cores.
    pub fn pmds(&self) -> Result<Vec<counters::Pmd>> {
        counters::pmds(&self.json(&["pmd", "stats"])?)
    }

    /// All drops.
    pub fn drops(&self) -> Result<Vec<counters::Drop>> {
        counters::drops(&self.json(&["drops"])?)
    }

    /// The balance over all poll-mode cores, while packets move.
    pub fn balance(&self) -> Result<Balance> {
        let mut sum = Balance::default();
        for pmd in self.pmds()? {
            sum.received += pmd.balance.received;
            sum.replicated += pmd.balance.replicated;
            sum.transmitted += pmd.balance.transmitted;
            sum.dropped += pmd.balance.dropped;
        }
        Ok(sum)
    }

    /// The balance over all poll-mode cores once nothing moves any more.
    pub fn settled_balance(&self) -> Result<Balance> {
        wait::settled(
            "the switch's counters",
            Duration::from_millis(200),
            Duration::from_secs(20),
            || self.balance(),
        )
    }
}

fn socket_in(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

fn state_in(dir: &Path) -> PathBuf {
    dir.join("state.toml")
}

fn launch(bin_dir: &Path, dir: &Path, options: &DaemonOptions) -> Result<Process> {
    let program = bin_dir.join("ringwayd");
    let cores: Vec<String> = machine::cores(options.pmds)?
        .pmd
        .iter()
        .map(usize::to_string)
        .collect();
    let mut args: Vec<String> = [
        ("--socket", socket_in(dir).to_string_lossy().into_owned()),
        (
            "--state",
            state_in(options.state_dir.as_deref().unwrap_or(dir))
                .to_string_lossy()
                .into_owned(),
        ),
        ("--pmd-cores", cores.join(",")),
        ("--hugepages", options.hugepages.to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    args.extend_from_slice(&options.arguments);
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.append(&mut args);
    if let Some(user) = options.user {
        let as_user = [
            "setpriv".to_owned(),
            // Lost with the change of user.
            "--pdeathsig=KILL".to_owned(),
            format!("--reuid={user}"),
            format!("--regid={user}"),
            "--clear-groups".to_owned(),
            format!("--inh-caps=-all,{CAPABILITIES}"),
            format!("--ambient-caps=-all,{CAPABILITIES}"),
        ];
        words.splice(0..0, as_user);
    }
    if let Some(namespace) = &options.namespace {
        words.splice(
            0..0,
            [
                "nsenter".to_owned(),
                format!("--net=/run/netns/{namespace}"),
            ],
        );
    }
    let log = dir.join("ringwayd.log");
    // The daemon may use every CPU; it pins its poll-mode threads by itself.
    let cpus = machine::cpus()?;
    let (program, args) = words.split_at(1);
    let program = match program {
        [tool] if !tool.contains('/') => machine::find_tool(tool)?,
        own => PathBuf::from(own.concat()),
    };
    Process::spawn("ringwayd", &program, args, &cpus, &log)
}
