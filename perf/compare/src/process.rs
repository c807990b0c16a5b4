//! Child processes that never outlive us: ended by their pid when dropped,
//! and by the kernel if we are killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How long a child has to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A running child with its output as lines.
pub struct Process {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<(Instant, String)>,
    /// Last lines, for error messages.
    recent: Vec<String>,
    /// Whether the child has been waited for; its pid is not ours then.
    reaped: bool,
}

/// Wraps a command so that the kernel ends it when we end.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The same, pinned to a core.
pub fn pinned(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = command("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// A command that enters a network namespace; the program is to be added.
pub fn entering(namespace: &Path) -> Command {
    let mut command = command("nsenter");
    command
        .arg(format!("--net={}", namespace.display()))
        .arg("--");
    command
}

impl Process {
    /// Starts `command` with its standard streams connected to us.
    pub fn start(name: &'static str, mut command: Command) -> Result<Self, Error> {
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let fail = |source| Error::Start { name, source };
        let mut child = command.spawn().map_err(fail)?;
        let (sender, lines) = channel();
        let streams: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child.stdout.take().map(|s| Box::new(s) as _),
            child.stderr.take().map(|s| Box::new(s) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send((Instant::now(), line)).is_err() {
                        break;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Self {
            name,
            child,
            stdin,
            lines,
            recent: Vec::new(),
            reaped: false,
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to the child's standard input.
    pub fn say(&mut self, line: &str) -> Result<(), Error> {
        let stdin = self.stdin.as_mut().ok_or(Error::Ended {
            name: self.name,
            output: String::new(),
        })?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .map_err(|source| Error::Talk {
                name: self.name,
                source,
            })
    }

    /// The next line of output, with the time of its arrival.
    pub fn line(&mut self, timeout: Duration) -> Result<(Instant, String), Error> {
        match self.lines.recv_timeout(timeout) {
            Ok((when, line)) => {
                if self.recent.len() >= 30 {
                    self.recent.remove(0);
                }
                self.recent.push(line.clone());
                Ok((when, line))
            }
            Err(RecvTimeoutError::Timeout) => Err(Error::Silent {
                name: self.name,
                seconds: timeout.as_secs_f64(),
                output: self.recent.join("\n"),
            }),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Ended {
                name: self.name,
                output: self.recent.join("\n"),
            }),
        }
    }

    /// Lines up to and with the first that contains `mark`; also the arrival
    /// time of the first of them.
    pub fn lines_until(
        &mut self,
        mark: &str,
        timeout: Duration,
    ) -> Result<(Instant, Vec<String>), Error> {
        let start = Instant::now();
        let mut first = None;
        let mut lines = Vec::new();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let (when, line) = self.line(left)?;
            let first = *first.get_or_insert(when);
            let last = line.contains(mark);
            lines.push(line);
            if last {
                return Ok((first, lines));
            }
        }
    }

    /// Throws away the output so far.
    pub fn forget_output(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// All output until the child ends by itself, and whether it succeeded.
    pub fn finish(mut self, timeout: Duration) -> Result<(bool, Vec<String>), Error> {
        let start = Instant::now();
        let mut lines = Vec::new();
        loop {
            match self.line(timeout.saturating_sub(start.elapsed())) {
                Ok((_, line)) => lines.push(line),
                Err(Error::Ended { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        // Its output is closed, so it is about to end.
        self.await_end();
        Ok((self.reap(), lines))
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.reap();
    }

    /// Gives the child some time to end by itself.
    pub fn await_end(&self) {
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the child has ended. It stays a zombie until it is reaped, so
    /// that its pid and group remain ours.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(
            waitid(Id::Pid(self.group()), flags),
            Ok(WaitStatus::StillAlive)
        )
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Ends what is left of the group and reaps the child.
    fn reap(&mut self) -> bool {
        self.reaped = true;
        let _ = killpg(self.group(), Signal::SIGKILL);
        self.child.wait().is_ok_and(|status| status.success())
    }
    /// Sends SIGTERM, waits, and makes sure; grandchildren included.
    fn stop(&mut self) {
        if self.reaped {
            return;
        }
        let _ = killpg(self.group(), Signal::SIGTERM);
        self.await_end();
        self.reap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a short command to its end; its standard output if it succeeded.
pub fn output(name: &'static str, command: &mut Command) -> Result<String, Error> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start { name, source })?;
    if !status.success() {
        return Err(Error::Failed {
            name,
            output: String::from_utf8_lossy(&stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// The same for a command that may take long: it is ended after `timeout`.
pub fn output_within(
    name: &'static str,
    command: Command,
    timeout: Duration,
) -> Result<String, Error> {
    let (success, lines) = Process::start(name, command)?.finish(timeout)?;
    let output = lines.join("\n");
    if success {
        Ok(output)
    } else {
        Err(Error::Failed { name, output })
    }
}

/// Memory of a process (or what it has grown by), in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident, without hugepages.
    pub resident: u64,
    /// On hugepages, its guests' included.
    pub huge: u64,
}

impl Memory {
    /// What it has grown by since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            resident: self.resident.saturating_sub(before.resident),
            huge: self.huge.saturating_sub(before.huge),
        }
    }
}

/// Memory of process `pid`, if it is there.
pub fn memory(pid: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |label| {
        let line = status.lines().find(|line| line.starts_with(label))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some(Memory {
        resident: 1024 * kib("VmRSS:")?,
        huge: 1024 * kib("HugetlbPages:").unwrap_or(0),
    })
}

/// Waits until something exists at `path`.
pub fn wait_for_path(path: &Path, timeout: Duration) -> Result<(), Error> {
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > timeout {
            return Err(Error::NoSocket {
                path: path.to_owned(),
                seconds: timeout.as_secs_f64(),
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// CPU time and run-queue time of a process' busiest thread since a start.
pub struct SchedWatch {
    pid: u32,
    start: Instant,
    before: Vec<(u32, u64, u64)>,
}

impl SchedWatch {
    /// Begins to watch.
    pub fn start(pid: u32) -> Self {
        Self {
            pid,
            start: Instant::now(),
            before: thread_times(pid),
        }
    }

    /// Share of the time since the start that the busiest thread was kept
    /// waiting for its core by others; `None` if the kernel does not say.
    pub fn waited(&self) -> Option<f64> {
        let elapsed = self.start.elapsed().as_nanos() as f64;
        thread_times(self.pid)
            .into_iter()
            .filter_map(|(thread, ran, waited)| {
                let (_, ran0, waited0) = self.before.iter().find(|before| before.0 == thread)?;
                Some((ran.saturating_sub(*ran0), waited.saturating_sub(*waited0)))
            })
            .max()
            .map(|(_, waited)| waited as f64 / elapsed)
    }
}

/// `(thread, ns on a core, ns waiting for one)` of every thread.
pub fn thread_times(pid: u32) -> Vec<(u32, u64, u64)> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|entry| {
            let thread = entry.file_name().to_str()?.parse().ok()?;
            let text = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
            let mut words = text.split_whitespace().map(str::parse);
            Some((thread, words.next()?.ok()?, words.next()?.ok()?))
        })
        .collect()
}

/// Holds an exclusive lock on a file, so that whoever else honours it does
/// not measure or build meanwhile.
pub fn lock(path: &Path) -> Result<nix::fcntl::Flock<File>, Error> {
    let fail = |source| Error::Lock {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(fail)?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| fail(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        let mut command = command("sh");
        command.args(["-c", script]);
        Process::start("sh", command).unwrap()
    }

    #[test]
    fn a_conversation() {
        let mut process = shell("while read word; do echo got $word; done");
        process.say("hello").unwrap();
        let (_, lines) = process.lines_until("hello", SOON).unwrap();
        assert_eq!(lines, ["got hello"]);
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let mut process = shell("sleep 1000 & echo up; wait");
        process.lines_until("up", SOON).unwrap();
        let group = Pid::from_raw(process.pid() as i32);
        assert!(killpg(group, None).is_ok());
        drop(process);
        // Its own child too: nobody is left in the group. (An orphan that has
        // ended is in it until init has collected it.)
        let start = Instant::now();
        while killpg(group, None).is_ok() {
            assert!(start.elapsed() < SOON, "a grandchild is left");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_end_of_a_child_carries_its_last_words() {
        let mut process = shell("echo no hugepages >&2; exit 1");
        let error = process.lines_until("ready", SOON).unwrap_err();
        assert!(error.to_string().contains("no hugepages"), "{error}");
    }

    #[test]
    fn finish_tells_success() {
        assert!(shell("echo a; echo b").finish(SOON).unwrap().0);
        assert!(!shell("exit 3").finish(SOON).unwrap().0);
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let mut sleep = command("sleep");
        sleep.arg("1000");
        let error = output_within("sleep", sleep, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Error::Silent { .. }), "{error}");
        let mut echo = command("echo");
        echo.arg("done");
        assert_eq!(output_within("echo", echo, SOON).unwrap(), "done");
    }

    #[test]
    fn memory_of_a_process() {
        let own = memory(std::process::id()).unwrap();
        assert!(own.resident > 100_000, "{own:?}");
        assert_eq!(memory(u32::MAX), None);
    }

    #[test]
    fn a_failing_command_says_why() {
        let mut failing = command("sh");
        failing.args(["-c", "echo wrong flag >&2; exit 1"]);
        let error = output("sh", &mut failing).unwrap_err();
        assert!(error.to_string().contains("wrong flag"));
    }
}
