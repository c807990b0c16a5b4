//! QEMU's monitor (QMP): what is asked of QEMU itself, not of the guest.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::wait;

/// Longest that QEMU takes to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Longest that a guest takes to move to another QEMU.
const MOVE_LIMIT: Duration = Duration::from_secs(120);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

/// How a guest was moved, as its old QEMU tells it.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// How long it ran nowhere, in ms.
    pub downtime_ms: u64,
    /// How long all of it took, in ms.
    pub total_ms: u64,
}

impl Monitor {
    /// Connects to a monitor's socket.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(Error::io("connect to QEMU's monitor"))?;
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .map_err(Error::io("set the monitor's timeout"))?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
        };
        monitor.read()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Executes a command; what it returned.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .map_err(Error::io("write to QEMU's monitor"))?;
        loop {
            let mut answer = self.read()?;
            // Events come whenever something happens.
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if answer.get("error").is_some() {
                return Err(Error::Unexpected(format!("{command}: {answer}")));
            }
        }
    }

    /// Moves the guest to the QEMU that listens at `to`.
    pub fn move_to(&mut self, to: &Path) -> Result<Moved> {
        let uri = format!("unix:{}", to.display());
        self.execute("migrate", json!({ "uri": uri }))?;
        let done = wait::until("the guest to be moved", MOVE_LIMIT, || {
            match self.execute("query-migrate", json!({})) {
                Err(error) => Ok(Err(error)),
                Ok(state) => match state["status"].as_str() {
                    Some("completed") => Ok(Ok(state)),
                    Some("failed" | "cancelled") => {
                        Ok(Err(Error::Unexpected(format!("migrate: {state}"))))
                    }
                    _ => Err(state.to_string()),
                },
            }
        })??;
        let number = |name: &str| {
            let value = done[name].as_u64();
            value.ok_or_else(|| Error::Unexpected(format!("query-migrate: {done}")))
        };
        Ok(Moved {
            downtime_ms: number("downtime")?,
            total_ms: number("total-time")?,
        })
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream
            .read_line(&mut line)
            .map_err(Error::io("read from QEMU's monitor"))?;
        serde_json::from_str(&line)
            .map_err(|_| Error::Unexpected(format!("QEMU's monitor said {line:?}")))
    }
}
