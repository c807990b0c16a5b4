//! The way into a guest: commands over its second serial port, each answered
//! between two marks (`tests/guest/init` is the other end).

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::wait;

/// What the guest's init prints when it takes commands.
const READY: &str = "@@ready";

/// A serial port of a guest, seen from outside.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    received: String,
    next_id: u64,
}

/// How a command in a guest ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit status.
    pub status: i32,
    /// Both output streams.
    pub output: String,
}

impl Console {
    /// Connects to the serial port's socket, which QEMU makes soon after its
    /// start. `still_running` is asked meanwhile.
    pub fn connect(path: &Path, mut still_running: impl FnMut() -> Result<()>) -> Result<Self> {
        let begin = Instant::now();
        let limit = Duration::from_secs(10);
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(source) if begin.elapsed() > limit => {
                    return Err(Error::Io {
                        what: format!("connect to the guest's console {}", path.display()),
                        source,
                    });
                }
                Err(_) => still_running()?,
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .map_err(Error::io("set the console's timeout"))?;
        Ok(Self {
            stream,
            received: String::new(),
            next_id: 1,
        })
    }

    /// Waits until the guest takes commands, after its start or a reboot.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let end = self.wait_for("the guest's init to take commands", READY, limit)?;
        self.received.drain(..end);
        Ok(())
    }

    /// Runs a shell command (one line) in the guest.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        let id = self.send(command)?;
        let begin = format!("@@begin {id}");
        let end = format!("@@end {id} ");
        self.wait_for(&format!("an answer to `{command}`"), &end, limit)?;
        // The exit status follows the mark on the same line.
        let at = self.received.find(&end).unwrap_or(0);
        self.wait_for_after(at + end.len(), "\n", limit)?;
        let tail = self.received.split_off(at + end.len());
        let (status, rest) = tail.split_once('\n').unwrap_or((&tail, ""));
        let output = self.received[..at]
            .split_once(&begin)
            .map_or("", |(_, output)| output)
            .replace('\r', "");
        let answer = Answer {
            status: status.trim().parse().unwrap_or(-1),
            output: output.trim().to_owned(),
        };
        self.received = rest.to_owned();
        Ok(answer)
    }

    /// Sends a command whose answer nobody waits for (`reboot -f`).
    pub fn send(&mut self, command: &str) -> Result<u64> {
        if command.contains('\n') {
            return Err(Error::Unexpected(format!(
                "a guest command must be one line: {command:?}"
            )));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.received.clear();
        self.stream
            .write_all(format!("{id} {command}\n").as_bytes())
            .map_err(Error::io("write to the guest's console"))?;
        Ok(id)
    }

    fn wait_for(&mut self, what: &str, mark: &str, limit: Duration) -> Result<usize> {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.received.find(mark) {
                return Ok(at + mark.len());
            }
            if begin.elapsed() > limit {
                return Err(Error::Timeout {
                    what: what.to_owned(),
                    waited: begin.elapsed(),
                    seen: format!("{:?}", self.received),
                });
            }
            self.receive()?;
        }
    }

    fn wait_for_after(&mut self, from: usize, mark: &str, limit: Duration) -> Result<()> {
        wait::until("the end of a line on the console", limit, || {
            if self.received[from..].contains(mark) {
                return Ok(());
            }
            self.receive()?;
            Err(Error::Unexpected(self.received.clone()))
        })
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0u8; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Error::Unexpected(
                "the guest's console was closed: QEMU has ended".into(),
            )),
            Ok(length) => {
                self.received
                    .push_str(&String::from_utf8_lossy(&buffer[..length]));
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(())
            }
            Err(source) => Err(Error::Io {
                what: "read from the guest's console".into(),
                source,
            }),
        }
    }
}
