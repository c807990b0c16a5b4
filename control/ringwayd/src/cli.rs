//! ringwayd's command line.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ringway_datapath::spec::{DatapathConfig, Hugepages};
use ringway_proto::spelling;
use ringway_vhost::listen::Access;

use crate::confine::{Keep, Seccomp, keep};
use crate::doors::{DoorError, TlsDoor, TlsFiles};
use crate::owner;

/// The ringway daemon: moves packets between guests and NICs, and is told what
/// to do by `ringway` over a unix socket.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// Unix socket on which `ringway` is served
    #[arg(long, value_name = "PATH", default_value = "/run/ringway/control.sock")]
    pub socket: PathBuf,

    /// Group, by name or number, that may use the socket [default: ringwayd's own]
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,

    /// Permissions of the socket, in octal
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = spelling::permissions)]
    pub socket_mode: u32,

    /// TCP address on which `ringway` is served as well, to clients with a
    /// certificate only, e.g. 192.0.2.1:6640
    #[arg(long, value_name = "ADDR:PORT", requires_all = ["tls_cert", "tls_key", "tls_client_ca"])]
    pub listen_tls: Option<SocketAddr>,

    /// ringwayd's certificate (PEM), with those between it and a known authority
    #[arg(long, value_name = "FILE", requires = "listen_tls")]
    pub tls_cert: Option<PathBuf>,

    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "listen_tls")]
    pub tls_key: Option<PathBuf>,

    /// Certificates (PEM) of those who sign clients' certificates
    #[arg(long, value_name = "FILE", requires = "listen_tls")]
    pub tls_client_ca: Option<PathBuf>,

    /// File of the desired state: every bridge and port that shall be
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/ringway/state.toml"
    )]
    pub state: PathBuf,

    /// Take over from the ringwayd that runs: guests stay connected, and it ends
    #[arg(long)]
    pub takeover: bool,

    /// Only hold guests' connections and memory, and start ringwayd with the other arguments: if it is killed it is started again, at SIGUSR2 another takes over from it, and guests stay connected
    #[arg(long, conflicts_with = "takeover")]
    pub hold_fds: bool,

    /// CPUs that poll, one pinned thread each, e.g. 1,2 or 1-3 [default: the last CPU]
    #[arg(long, value_name = "CPUS", value_parser = pmd_cores)]
    pub pmd_cores: Option<PmdCores>,

    /// Where tables and packets lie: auto, off, or a page size such as 2M or 1G
    #[arg(long, value_name = "auto|off|SIZE", default_value = "auto", value_parser = hugepages)]
    pub hugepages: Hugepages,

    /// Memory for tables and packets, in MiB
    #[arg(long, value_name = "MIB", default_value_t = DatapathConfig::default().memory_mib)]
    pub memory: u32,

    /// What to log: error, warn, info, debug, trace, also per module
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "RINGWAY_LOG"
    )]
    pub log: String,

    /// Microseconds without work after which a polling CPU sleeps until a guest kicks; at
    /// most 50 while it polls none but the kernel's interfaces
    #[arg(long, value_name = "MICROS|off", default_value = "500", value_parser = sleep_after)]
    pub sleep_after: Duration,

    /// Most megaflows of each polling CPU
    #[arg(long, value_name = "N", default_value_t = DatapathConfig::default().flow_limit)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub flow_limit: u32,

    /// Entries of each polling CPU's exact-match cache, rounded up to a power of two
    #[arg(long, value_name = "N", default_value_t = DatapathConfig::default().emc_entries)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub emc_entries: u32,

    /// Seconds without a packet after which a megaflow is forgotten, at most 200
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = max_idle)]
    pub max_idle: Duration,

    /// System calls that ringwayd does not make: on: they fail, hostile ones
    /// end it; log: they are logged; off: they are made
    #[arg(long, value_name = "on|off|log", default_value = "on")]
    pub seccomp: Seccomp,

    /// Capabilities to keep beside those that most ports need: xdp for AF_XDP,
    /// sys_admin,sys_rawio for NICs without an IOMMU, dac_override for sockets of
    /// users that share no group with ringwayd; or all
    #[arg(
        long,
        value_name = "LIST|all",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(value_parser = keep)]
    pub keep_capabilities: Keep,
}

/// CPUs to poll on, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PmdCores(pub Vec<usize>);

impl Cli {
    /// What the datapath is to be started with.
    pub fn datapath(&self) -> DatapathConfig {
        DatapathConfig {
            pmd_cores: match &self.pmd_cores {
                Some(PmdCores(cores)) => cores.clone(),
                None => vec![last_cpu()],
            },
            hugepages: self.hugepages,
            memory_mib: self.memory,
            sleep_after: self.sleep_after,
            flow_limit: self.flow_limit,
            emc_entries: self.emc_entries,
            max_idle: self.max_idle,
            started_tsc: None,
            marks: None,
            keeper: None,
        }
    }
}

impl Cli {
    /// Opens the door for TCP, if there is to be one.
    pub fn tls_door(&self) -> Result<Option<TlsDoor>, DoorError> {
        let files = (&self.tls_cert, &self.tls_key, &self.tls_client_ca);
        match (self.listen_tls, files) {
            (Some(address), (Some(cert), Some(key), Some(client_ca))) => {
                let files = TlsFiles {
                    cert: cert.clone(),
                    key: key.clone(),
                    client_ca: client_ca.clone(),
                };
                TlsDoor::open(address, &files).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Who may use the control socket. Fails if there is no such group.
    pub fn socket_access(&self) -> Result<Access, String> {
        let group = self.socket_group.as_deref().map(owner::group_id);
        Ok(Access {
            permissions: Some(self.socket_mode),
            user: None,
            group: group
                .transpose()
                .map_err(|why| format!("--socket-group: {why}"))?,
        })
    }
}

/// The highest CPU that this process may run on.
fn last_cpu() -> usize {
    use nix::sched::{CpuSet, sched_getaffinity};
    let allowed = sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .unwrap_or(0)
}

fn pmd_cores(text: &str) -> Result<PmdCores, String> {
    let number = |text: &str| {
        let cpu = text.parse::<usize>();
        cpu.map_err(|_| format!("{text:?} is no CPU number"))
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= nix::sched::CpuSet::count() {
            return Err(format!("{part:?} is no range of CPUs"));
        }
        cores.extend(first..=last);
    }
    let mut seen = HashSet::new();
    match cores.iter().find(|cpu| !seen.insert(**cpu)) {
        Some(cpu) => Err(format!("CPU {cpu} is named twice")),
        None => Ok(PmdCores(cores)),
    }
}

fn hugepages(text: &str) -> Result<Hugepages, String> {
    match text {
        "auto" => return Ok(Hugepages::Auto),
        "off" => return Ok(Hugepages::Off),
        _ => {}
    }
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let shift = match unit {
        "" => 0,
        "k" | "K" | "kB" | "KiB" => 10,
        "m" | "M" | "MB" | "MiB" => 20,
        "g" | "G" | "GB" | "GiB" => 30,
        _ => 64,
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.and_then(|n| n.checked_mul(1u64.checked_shl(shift)?));
    match bytes {
        Some(bytes) if bytes.is_power_of_two() && bytes >= 1 << 16 => Ok(Hugepages::Size(bytes)),
        _ => Err("neither auto, off nor a page size such as 2M or 1G".into()),
    }
}

fn sleep_after(text: &str) -> Result<Duration, String> {
    if text == "off" {
        return Ok(Duration::ZERO);
    }
    match text.parse() {
        Ok(micros) if micros > 0 => Ok(Duration::from_micros(micros)),
        _ => Err("neither off nor a number of microseconds above 0".into()),
    }
}

fn max_idle(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 200.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("not a number of seconds above 0 and at most 200".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_the_documented_line_parses() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let line = "ringwayd --socket /s --state /t --pmd-cores 1,2 --hugepages off --memory 64 \
                    --log warn --sleep-after off --flow-limit 1000 --emc-entries 4096 \
                    --max-idle 2.5 --seccomp log --keep-capabilities sys_admin \
                    --socket-group 7 --socket-mode 0666";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(cli.seccomp, Seccomp::Log);
        assert_eq!(Ok(cli.keep_capabilities.clone()), keep("sys_admin"));
        let access = cli.socket_access().unwrap();
        assert_eq!((access.permissions, access.group), (Some(0o666), Some(7)));
        let config = cli.datapath();
        assert_eq!(config.pmd_cores, [1, 2]);
        assert_eq!(config.hugepages, Hugepages::Off);
        assert_eq!(config.memory_mib, 64);
        assert!(config.sleep_after.is_zero());
        assert_eq!((config.flow_limit, config.emc_entries), (1000, 4096));
        assert_eq!(config.max_idle, Duration::from_millis(2500));

        let defaults = Cli::try_parse_from(["ringwayd"]).unwrap();
        assert_eq!(defaults.seccomp, Seccomp::On);
        assert_eq!(defaults.keep_capabilities, Keep::default());
        let defaults = defaults.datapath();
        assert_eq!(defaults.pmd_cores, [last_cpu()]);
        assert_eq!(defaults.hugepages, Hugepages::Auto);
        assert_eq!(defaults.max_idle, Duration::from_secs(10));
    }

    #[test]
    fn tcp_is_with_certificates_or_not_at_all() {
        let files = "--tls-cert c --tls-key k --tls-client-ca a";
        let parse = |line: String| Cli::try_parse_from(line.split_whitespace());
        assert!(parse(format!("ringwayd --listen-tls 127.0.0.1:1 {files}")).is_ok());
        for part in ["--tls-cert c", "--tls-key k", "--tls-client-ca a"] {
            let without = files.replace(part, "");
            assert!(parse(format!("ringwayd --listen-tls 127.0.0.1:1 {without}")).is_err());
        }
        assert!(parse(format!("ringwayd {files}")).is_err());
    }

    #[test]
    fn cores_are_lists_and_ranges_without_repetition() {
        assert_eq!(pmd_cores("3"), Ok(PmdCores(vec![3])));
        assert_eq!(pmd_cores("4,1-3"), Ok(PmdCores(vec![4, 1, 2, 3])));
        for bad in ["", "1,", "1,1", "2-1", "a", "-1", "1-2-3", "99999999"] {
            assert!(pmd_cores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn page_sizes_take_suffixes() {
        assert_eq!(hugepages("2M"), Ok(Hugepages::Size(2 << 20)));
        assert_eq!(hugepages("1GiB"), Ok(Hugepages::Size(1 << 30)));
        assert_eq!(hugepages("2097152"), Ok(Hugepages::Size(2 << 20)));
        for bad in ["", "M", "3M", "4K", "2X", "2M2", "99999999999G", "on"] {
            assert!(hugepages(bad).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "201", "NaN", "inf", "x", ""] {
            assert!(max_idle(bad).is_err(), "{bad}");
        }
        assert!(sleep_after("0").is_err() && sleep_after("-1").is_err());
    }
}
