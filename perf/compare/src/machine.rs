//! Where and of what the figures are.

use std::fs::read_to_string;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine and the versions on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Cores online.
    pub cores: usize,
    /// Whether it is a virtual machine.
    pub virtualised: bool,
    /// Kernel release.
    pub kernel: String,
    /// Hugepages reserved and their size in KiB.
    pub hugepages: (u64, u64),
    /// First line of `ovs-vswitchd --version`.
    pub open_vswitch: String,
    /// Version of the package dpdk-dev.
    pub dpdk: String,
    /// `rustc --version`.
    pub rust: String,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = |label| field(&meminfo, label).and_then(|v| v.split(' ').next()?.parse().ok());
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").into(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            virtualised: field(&cpuinfo, "flags").is_some_and(|f| f.contains(" hypervisor")),
            kernel: read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .into(),
            hugepages: (
                kib("HugePages_Total").unwrap_or(0),
                kib("Hugepagesize").unwrap_or(0),
            ),
            open_vswitch: first_line("ovs-vswitchd", &["--version"]),
            dpdk: first_line("dpkg-query", &["-W", "-f=${Version}", "dpdk-dev"]),
            rust: first_line("rustc", &["--version"]),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let kind = if self.virtualised { "virtual" } else { "real" };
        format!(
            "{}, {} {kind} cores, Linux {}, {} hugepages of {} KiB; {}; DPDK {}; {}",
            self.cpu,
            self.cores,
            self.kernel,
            self.hugepages.0,
            self.hugepages.1,
            self.open_vswitch,
            self.dpdk,
            self.rust
        )
    }
}

/// The value behind `label :` in the style of /proc.
fn field<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(label))?;
    Some(line.split_once(':')?.1.trim())
}

/// The first line that a program prints, or "unknown".
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let line = text.ok().and_then(|t| t.lines().next().map(str::to_owned));
    line.unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files() {
        let text = "HugePages_Total:    1024\nmodel name\t: AMD EPYC\n";
        assert_eq!(field(text, "HugePages_Total"), Some("1024"));
        assert_eq!(field(text, "model name"), Some("AMD EPYC"));
        assert_eq!(field(text, "Hugepagesize"), None);
    }

    #[test]
    fn a_program_that_is_not_there_is_unknown() {
        assert_eq!(first_line("no-such-program-here", &[]), "unknown");
    }
}
