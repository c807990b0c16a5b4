//! The verbs and their flags, with Open vSwitch's names where it has them.

mod flows;

pub use flows::*;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ringway_proto::spelling::Spelling;
use ringway_proto::v1::FailMode;

use crate::client::{Error, TlsTarget};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, failed, or ringwayd cannot be reached; the reason is on stderr
  2  the command line has no meaning; diff-flows: the flows differ
  3  show: desired and actual state differ; doctor: something is wrong";

/// Tells ringwayd, the virtual switch, what to do and asks what it does
#[derive(Debug, Parser)]
#[command(name = "ringway", version, about, after_help = EXIT_CODES)]
#[command(disable_version_flag = true)]
pub struct Cli {
    /// The daemon's control socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "RINGWAY_SOCKET",
        default_value = "/run/ringway/control.sock"
    )]
    pub socket: PathBuf,

    /// A ringwayd elsewhere that has --listen-tls, instead of the socket
    #[arg(
        long,
        global = true,
        value_name = "https://HOST:PORT",
        env = "RINGWAY_CONNECT"
    )]
    pub connect: Option<String>,

    /// Certificates (PEM) of who signed that ringwayd's certificate
    #[arg(long, global = true, value_name = "FILE", env = "RINGWAY_TLS_CA")]
    pub tls_ca: Option<PathBuf>,

    /// The certificate (PEM) to show it
    #[arg(long, global = true, value_name = "FILE", env = "RINGWAY_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// The key of that certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "RINGWAY_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// The name in its certificate, if that is not HOST
    #[arg(long, global = true, value_name = "NAME", env = "RINGWAY_TLS_NAME")]
    pub tls_name: Option<String>,

    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// The ringwayd to be reached over TCP, if `--connect` names one.
    pub fn tls_target(&self) -> Result<Option<TlsTarget>, Error> {
        let Some(url) = self.connect.clone() else {
            return Ok(None);
        };
        let file = |option: &str, path: &Option<PathBuf>| {
            let missing = || Error::Usage(format!("--connect needs {option} FILE"));
            path.clone().ok_or_else(missing)
        };
        Ok(Some(TlsTarget {
            url,
            ca: file("--tls-ca", &self.tls_ca)?,
            cert: file("--tls-cert", &self.tls_cert)?,
            key: file("--tls-key", &self.tls_key)?,
            name: self.tls_name.clone(),
        }))
    }
}

/// The command line's words, with `-generate` written as Open vSwitch also has
/// it.
pub fn words(words: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    words.map(|word| match word.to_str() {
        Some("-generate") => "--generate".into(),
        _ => word,
    })
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add a bridge
    AddBr(AddBr),
    /// Change a bridge's options
    #[command(after_help = crate::options::BRIDGE_HELP)]
    SetBr(SetBr),
    /// Delete a bridge and its ports
    DelBr(DelBr),
    /// List the bridges' names
    ListBr,
    /// Add a port to a bridge
    #[command(after_help = crate::options::HELP)]
    AddPort(AddPort),
    /// Change a port's options; an empty value takes an option away
    ///
    /// VLANs, MTU, the address of an internal port, external_ids and
    /// other_config change while packets flow; for other options the port is
    /// taken down and made anew.
    #[command(after_help = crate::options::HELP)]
    SetPort(SetPort),
    /// Delete a port
    DelPort(DelPort),
    /// List the names of a bridge's ports
    ListPorts {
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Print the bridge that a port is on
    PortToBr {
        /// The port
        #[arg(value_name = "NAME")]
        port: String,
    },
    /// Show every bridge and port: desired, actual, reason, since
    ///
    /// Exits with 3 while something differs from what is desired: an object is
    /// absent or surplus, or a port failed or is quarantined. A port that waits
    /// for its guest does not differ.
    Show {
        /// Print again at every change, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// The stations that bridges have learned
    #[command(subcommand)]
    Fdb(Fdb),
    /// The datapath as it is
    #[command(subcommand)]
    Dpctl(Dpctl),
    /// Packet counters of ports, in ovs-ofctl's form
    ///
    /// `drop` counts well-formed packets, `errs` malformed ones; `?` marks what
    /// a port does not count.
    DumpPorts {
        /// Only this bridge's ports
        #[arg(value_name = "BR")]
        bridge: Option<String>,
        /// Only this port
        #[arg(value_name = "PORT")]
        port: Option<String>,
        /// Add drops by reason and each device's own counters
        #[arg(long)]
        detail: bool,
    },
    /// The poll-mode cores
    #[command(subcommand)]
    Pmd(Pmd),
    /// Where packets were dropped, and why
    Drops,
    /// Find what keeps traffic from passing, with the commands that mend it
    ///
    /// Exits with 3 if there is an error or a warning; notes do not count.
    Doctor,
    /// Flows, groups, meters
    #[command(flatten)]
    Flows(FlowVerb),
    /// Versions of this program, the daemon and DPDK
    Version,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `add-br`.
#[derive(Debug, Args)]
pub struct AddBr {
    /// The bridge's name
    #[arg(value_name = "BR")]
    pub name: String,
    /// What passes when no flow says so: standalone learns and forwards, secure drops
    #[arg(long, value_name = "standalone|secure", value_parser = FailMode::from_spelling)]
    pub fail_mode: Option<FailMode>,
    /// Seconds until a silent station is forgotten
    #[arg(long, value_name = "SECONDS")]
    pub fdb_ageing: Option<u32>,
    /// Most stations to learn
    #[arg(long, value_name = "N")]
    pub fdb_limit: Option<u32>,
    /// Make no internal port of the bridge's name: the host is not on the bridge
    #[arg(long)]
    pub no_internal: bool,
    /// Do nothing if there is such a bridge already
    #[arg(long)]
    pub may_exist: bool,
    /// Do not wait until the datapath has it
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `set-br`.
#[derive(Debug, Args)]
pub struct SetBr {
    /// The bridge
    #[arg(value_name = "BR")]
    pub name: String,
    /// Options
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub options: Vec<String>,
    /// Do not wait until the datapath has it so
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `set-port`.
#[derive(Debug, Args)]
pub struct SetPort {
    /// The port
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Options
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub options: Vec<String>,
    /// Do not wait until the datapath has it so
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `del-br`.
#[derive(Debug, Args)]
pub struct DelBr {
    /// The bridge's name
    #[arg(value_name = "BR")]
    pub name: String,
    /// Do nothing if there is no such bridge
    #[arg(long)]
    pub if_exists: bool,
    /// Do not wait until the datapath has let it go
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `add-port`.
#[derive(Debug, Args)]
pub struct AddPort {
    /// The bridge
    #[arg(value_name = "BR")]
    pub bridge: String,
    /// The port's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Options, type= among them
    #[arg(value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Do nothing if the bridge has such a port already
    #[arg(long)]
    pub may_exist: bool,
    /// Do not wait until the datapath has it
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `del-port`.
#[derive(Debug, Args)]
#[command(override_usage = "ringway del-port [OPTIONS] [BR] <NAME>")]
pub struct DelPort {
    /// The port's name, after the bridge it must be on if that is given
    #[arg(value_name = "[BR] NAME", required = true, num_args = 1..=2)]
    pub names: Vec<String>,
    /// Do nothing if there is no such port
    #[arg(long)]
    pub if_exists: bool,
    /// Do not wait until the datapath has let it go
    #[arg(long)]
    pub no_wait: bool,
}

/// Verbs of `fdb`.
#[derive(Debug, Subcommand)]
pub enum Fdb {
    /// Print a bridge's stations, in ovs-appctl fdb/show's form
    Show {
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: String,
    },
    /// Forget the stations of a bridge, or of all
    Flush {
        /// The bridge
        #[arg(value_name = "BR")]
        bridge: Option<String>,
    },
}

/// Verbs of `dpctl`.
#[derive(Debug, Subcommand)]
pub enum Dpctl {
    /// Lookups, megaflows, memory, FDBs, and ports by number
    Show,
    /// Print the megaflows, in ovs-dpctl dump-flows's form
    DumpFlows {
        /// Only those of this bridge, or of packets from this port
        #[arg(value_name = "BR|PORT")]
        filter: Option<String>,
        /// How ports are shown
        #[command(flatten)]
        names: Names,
    },
    /// Forget all megaflows: the next packet of each is translated anew
    DelFlows,
}

/// Verbs of `pmd`.
#[derive(Debug, Subcommand)]
pub enum Pmd {
    /// Which core polls which ring
    Show,
    /// Cycles and packets of each core
    Stats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_verb() {
        for line in [
            "ringway --json --socket /s show",
            "ringway show --json --socket /s",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.json && cli.socket.as_os_str() == "/s", "{line}");
        }
        for line in [
            "ringway",
            "ringway del-port",
            "ringway del-port a b c",
            "ringway fdb show",
            "ringway add-flow br0",
            "ringway dump-flows br0 --names --no-names",
            "ringway trace --next arp",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
    #[test]
    fn generate_may_have_one_dash() {
        let line = "ringway trace br0 in_port=1,arp -generate 00ff";
        let given = line.split(' ').map(OsString::from);
        let cli = Cli::try_parse_from(words(given)).unwrap();
        let Verb::Flows(FlowVerb::Trace(trace)) = cli.verb else {
            panic!("{cli:?}")
        };
        assert!(trace.generate);
        assert_eq!(trace.packet.as_deref(), Some("00ff"));
    }

    #[test]
    fn sort_keys_keep_their_order() {
        let line = "ringway dump-flows br0 --rsort=nw_src --sort --rsort=tp_dst";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Verb::Flows(FlowVerb::DumpFlows(dump)) = cli.verb else {
            panic!("{cli:?}")
        };
        let keys: Vec<_> = dump
            .sort_keys()
            .map(|key| (key.field, key.descending))
            .collect();
        let expected = [("nw_src", true), ("", false), ("tp_dst", true)];
        let expected = expected.map(|(field, descending)| (field.to_owned(), descending));
        assert_eq!(keys, expected);
    }
}
