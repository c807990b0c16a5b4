//! Open vSwitch's own commands, for those who type them without thinking and for
//! scripts: `ovs-vsctl`, `ovs-ofctl`, `ovs-dpctl` and `ovs-appctl`, by which
//! names `ringway` may be called. Each reads its words as Open vSwitch's command
//! of that name does and speaks gRPC to ringwayd; `control/OVS-NAMES.md` lists
//! what is there and what is refused.

pub mod appctl;
mod convert;
pub mod datum;
pub mod dpctl;
pub mod getopt;
mod kinds;
pub mod ofctl;
mod ports;
pub mod records;
mod rows;
pub mod schema;
mod show;
pub mod syntax;
pub mod table;
mod transaction;
pub mod vsctl;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::client::{Client, Error};
use crate::verbs::{self, Printer, Request};
use crate::{EXIT_FAILED, EXIT_OK};

/// Where ringwayd is spoken to if nothing else is said.
const SOCKET: &str = "/run/ringway/control.sock";

/// Open vSwitch's directory for sockets.
const RUNDIR: &str = "/run/openvswitch";

/// One of Open vSwitch's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `ovs-vsctl`
    Vsctl,
    /// `ovs-ofctl`
    Ofctl,
    /// `ovs-dpctl`
    Dpctl,
    /// `ovs-appctl`
    Appctl,
}

impl Tool {
    /// All of them.
    pub const ALL: [Tool; 4] = [Tool::Vsctl, Tool::Ofctl, Tool::Dpctl, Tool::Appctl];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Vsctl => "ovs-vsctl",
            Tool::Ofctl => "ovs-ofctl",
            Tool::Dpctl => "ovs-dpctl",
            Tool::Appctl => "ovs-appctl",
        }
    }

    fn named(name: &str) -> Option<Tool> {
        Tool::ALL.into_iter().find(|tool| tool.name() == name)
    }
}

/// A call of one of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub tool: Tool,
    /// ringwayd's control socket.
    pub socket: PathBuf,
    /// Open vSwitch's directory for sockets, in which `dpdkvhostuser` ports
    /// listen.
    pub rundir: PathBuf,
    /// The words behind the name.
    pub words: Vec<String>,
}

impl Call {
    /// The call that a command line is: by the name of the program, or as
    /// `ringway [--socket PATH] ovs-… …`. None if it is one of ringway's own.
    pub fn of(words: &[OsString]) -> Option<Call> {
        let socket = std::env::var_os("RINGWAY_SOCKET").filter(|path| !path.is_empty());
        let mut socket = PathBuf::from(socket.unwrap_or(SOCKET.into()));
        let text = |word: &OsString| word.to_string_lossy().into_owned();
        let (program, mut rest) = words.split_first()?;
        let file = Path::new(program).file_name()?.to_string_lossy();
        let tool = match Tool::named(&file) {
            Some(tool) => tool,
            None => {
                while let Some(word) = rest.first().map(text) {
                    if word == "--socket" {
                        socket = rest.get(1)?.into();
                        rest = rest.get(2..)?;
                    } else if let Some(path) = word.strip_prefix("--socket=") {
                        socket = path.into();
                        rest = &rest[1..];
                    } else {
                        break;
                    }
                }
                let (name, others) = rest.split_first()?;
                rest = others;
                Tool::named(&text(name))?
            }
        };
        let rundir = std::env::var_os("OVS_RUNDIR").filter(|dir| !dir.is_empty());
        Some(Call {
            tool,
            socket,
            rundir: rundir.unwrap_or(RUNDIR.into()).into(),
            words: rest.iter().map(text).collect(),
        })
    }
}

/// Where results and complaints go.
pub struct Io<'a> {
    /// The name that complaints begin with.
    pub name: &'static str,
    /// For results.
    pub out: &'a mut dyn Write,
    /// For complaints.
    pub err: &'a mut dyn Write,
    /// Results go to a terminal: there ports are shown by name.
    pub terminal: bool,
}

impl Io<'_> {
    /// Prints a result.
    fn print(&mut self, text: &str) -> Result<u8, Error> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(EXIT_OK)
    }

    /// Complains, or warns.
    fn complain(&mut self, sentence: &str) {
        let _ = writeln!(self.err, "{}: {sentence}", self.name);
    }

    /// Sends a request of ringway's own and prints its answer as ringway does.
    async fn perform(&mut self, socket: &Path, request: Request) -> Result<u8, Error> {
        let mut client = Client::connect_for(socket, request.patience()).await?;
        let mut printer = Printer {
            json: false,
            name: self.name,
            out: self.out,
            err: self.err,
        };
        verbs::perform(request, &mut client, &mut printer).await
    }
}

/// Does what the call says. Results go to `out`, complaints to `err`. Returns
/// the exit code.
pub async fn run(call: &Call, terminal: bool, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut io = Io {
        name: call.tool.name(),
        out,
        err,
        terminal,
    };
    let (words, socket) = (call.words.as_slice(), call.socket.as_path());
    let outcome = match call.tool {
        Tool::Vsctl => vsctl::run(words, socket, &call.rundir, &mut io).await,
        Tool::Ofctl => ofctl::run(words, socket, &mut io).await,
        Tool::Dpctl => dpctl::run(words, socket, &mut io).await,
        Tool::Appctl => appctl::run(words, socket, &mut io).await,
    };
    match outcome {
        Ok(code) => code,
        // The reader of a pipe went away: nobody is left to tell.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_OK,
        Err(error) => {
            io.complain(&error.to_string());
            EXIT_FAILED
        }
    }
}

/// Versions, as all of Open vSwitch's commands tell them.
fn version(name: &str) -> String {
    format!("{name} (ringway) {}\n", env!("CARGO_PKG_VERSION"))
}

/// A refusal by name.
fn refuse<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Usage(what.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Option<Call> {
        let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        Call::of(&words)
    }

    #[test]
    fn the_programs_name_tells_what_it_is() {
        let found = call("/usr/local/bin/ovs-vsctl --may-exist add-br br0").unwrap();
        assert_eq!(found.tool, Tool::Vsctl);
        assert_eq!(found.words, ["--may-exist", "add-br", "br0"]);
        for line in [
            "ringway show",
            "ovs-nix show",
            "ringway --socket",
            "ringway",
            "",
        ] {
            assert_eq!(call(line), None, "{line}");
        }
    }

    #[test]
    fn the_names_are_verbs_of_ringway_too() {
        let found = call("ringway --socket /s ovs-ofctl dump-flows br0 -- --json").unwrap();
        assert_eq!(
            (found.tool, found.socket.to_str()),
            (Tool::Ofctl, Some("/s"))
        );
        assert_eq!(found.words, ["dump-flows", "br0", "--", "--json"]);
        let found = call("ringway --socket=/s ovs-dpctl show").unwrap();
        assert_eq!(
            (found.tool, found.socket.to_str()),
            (Tool::Dpctl, Some("/s"))
        );
    }
}
