//! A child process: pinned, logged, killed by its own pid, and read through /proc.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::{machine, wait};

/// How many lines of a log are shown when something fails.
const TAIL_LINES: usize = 60;

/// A running child. Killed when dropped; when a test panics, the end of its
/// log is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` on the given CPUs with both output streams in `log`
    /// (appended). It dies with the thread that started it, so that no test,
    /// however it ends, leaves a poll-mode core or a guest behind.
    pub fn spawn<I, S>(
        name: &str,
        program: &Path,
        args: I,
        cpus: &[usize],
        log: &Path,
    ) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        machine::need_tools(&["setpriv", "taskset"])?;
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .map_err(Error::io(format!("open {}", log.display())))
        };
        let cpu_list: Vec<String> = cpus.iter().map(usize::to_string).collect();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", &cpu_list.join(",")])
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(open()?)
            .stderr(open()?)
            .spawn()
            .map_err(Error::io(format!("start {}", program.display())))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id: setpriv and taskset have replaced themselves by it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// The child's standard input, once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Fails, with the log, when the process has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error::Died {
                name: self.name.clone(),
                status: status.to_string(),
                log: self.log.clone(),
                tail: self.log_tail(),
            }),
            Err(source) => Err(Error::Io {
                what: format!("ask after {}", self.name),
                source,
            }),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal::kill(Pid::from_raw(self.pid() as i32), signal).map_err(|errno| {
            Error::Unexpected(format!("cannot send {signal} to {}: {errno}", self.name))
        })
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        // An error means that it has ended already, which is what was asked for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for it to end by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait::until(&what, limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Resident memory in KiB, without hugepages (VmRSS).
    pub fn rss_kib(&self) -> Result<u64> {
        self.status_field("VmRSS:")
    }

    /// Hugepage memory in KiB (HugetlbPages).
    pub fn hugetlb_kib(&self) -> Result<u64> {
        self.status_field("HugetlbPages:")
    }

    fn status_field(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
        text.lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| Error::Unexpected(format!("{path} has no {field}")))
    }

    /// How many file descriptors it has open.
    pub fn open_fds(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.pid());
        Ok(fs::read_dir(&path)
            .map_err(Error::io(format!("list {path}")))?
            .count())
    }

    /// Its threads: id, name and the CPUs each may run on, as the kernel
    /// writes them (`1`, `0-3`).
    pub fn threads(&self) -> Result<Vec<Thread>> {
        let path = format!("/proc/{}/task", self.pid());
        let mut threads = Vec::new();
        for entry in fs::read_dir(&path).map_err(Error::io(format!("list {path}")))? {
            let task = entry.map_err(Error::io(format!("list {path}")))?;
            // A thread may end between listing and reading.
            let Ok(status) = fs::read_to_string(task.path().join("status")) else {
                continue;
            };
            let field = |name: &str| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim().to_owned())
                    .unwrap_or_default()
            };
            threads.push(Thread {
                tid: task.file_name().to_string_lossy().parse().unwrap_or(0),
                name: field("Name:"),
                cpus: field("Cpus_allowed_list:"),
            });
        }
        Ok(threads)
    }
}

/// One thread of a process.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Kernel thread id.
    pub tid: i32,
    /// Its name, cut to 15 characters by the kernel.
    pub name: String,
    /// The CPUs that it may run on.
    pub cpus: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- the end of {}'s log ---\n{}",
                self.name,
                self.log_tail()
            );
        }
    }
}
