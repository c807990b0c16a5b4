//! Open vSwitch's control socket (ovs-appctl(8)): JSON-RPC over a Unix socket.
//! One connection for thousands of commands, where a process each would take
//! most of the time.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ringway_tests::{Error, Result};
use serde_json::de::IoRead;
use serde_json::{StreamDeserializer, Value, json};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection to a daemon's control socket.
pub struct Unixctl {
    socket: UnixStream,
    answers: StreamDeserializer<'static, IoRead<BufReader<UnixStream>>, Value>,
    next_id: u64,
}

impl std::fmt::Debug for Unixctl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unixctl").finish_non_exhaustive()
    }
}

impl Unixctl {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Self> {
        let what = || format!("connect to {}", path.display());
        let socket = UnixStream::connect(path).map_err(Error::io(what()))?;
        (socket.set_read_timeout(Some(LIMIT))).map_err(Error::io(what()))?;
        let reader = socket.try_clone().map_err(Error::io(what()))?;
        let answers = serde_json::Deserializer::from_reader(BufReader::new(reader)).into_iter();
        Ok(Self {
            socket,
            answers,
            next_id: 0,
        })
    }

    /// Runs a command. The inner error is the daemon's refusal.
    pub fn run(
        &mut self,
        command: &str,
        arguments: &[&str],
    ) -> Result<std::result::Result<String, String>> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "id": id, "method": command, "params": arguments });
        let sent = self.socket.write_all(request.to_string().as_bytes());
        sent.map_err(Error::io(format!("send `{command}`")))?;
        let broken = |why: String| Error::Unexpected(format!("`{command}`: {why}"));
        let answer = match self.answers.next() {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Err(broken(error.to_string())),
            None => return Err(broken("the daemon closed the connection".into())),
        };
        if answer["id"] != id {
            return Err(broken(format!("an answer to something else: {answer}")));
        }
        if let Some(refusal) = answer["error"].as_str() {
            return Ok(Err(refusal.trim_end().to_owned()));
        }
        Ok(Ok(answer["result"].as_str().unwrap_or_default().to_owned()))
    }

    /// Runs a command that must succeed.
    pub fn must(&mut self, command: &str, arguments: &[&str]) -> Result<String> {
        self.run(command, arguments)?.map_err(|refusal| {
            Error::Unexpected(format!("`{command} {}`: {refusal}", arguments.join(" ")))
        })
    }
}
