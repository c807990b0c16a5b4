//! The machine under the tests: its tools, CPUs, hugepages and folders, and
//! the lock by which only one end-to-end test uses them at a time.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// What to do when a tool or hugepages are missing.
pub const SETUP: &str = "run `make setup`";

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where made things are kept between runs (ignored by git).
pub fn build_dir() -> PathBuf {
    workspace().join("build")
}

/// The folder with `ringwayd` and `ringway`: `RINGWAY_BIN_DIR`, or the newer
/// of the release and debug builds in the target folder that runs this test.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("RINGWAY_BIN_DIR") {
        return Ok(dir.into());
    }
    let exe = std::env::current_exe().map_err(Error::io("find the test's own executable"))?;
    // …/target/<profile>/deps/<test> or …/target/<profile>/<binary>
    let target = exe
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .map(Path::to_owned)
        .unwrap_or_else(|| workspace().join("target"));
    let built = |profile: &str| fs::metadata(target.join(profile).join("ringwayd"))?.modified();
    let newest = ["release", "debug"]
        .into_iter()
        .filter_map(|profile| Some((built(profile).ok()?, profile)))
        .max();
    match newest {
        Some((_, profile)) => Ok(target.join(profile)),
        None => Err(Error::Missing {
            what: format!("ringwayd under {}", target.display()),
            remedy: "run `make build`".into(),
        }),
    }
}

/// Fails with the remedy unless every tool is on the path.
pub fn need_tools(tools: &[&str]) -> Result<()> {
    for tool in tools {
        find_tool(tool)?;
    }
    Ok(())
}

/// The full path of a tool, also looked for where only root's path leads. Where
/// `make install` made ringway's links by the names of Open vSwitch's commands,
/// these are passed over: tests mean the real ones.
pub fn find_tool(tool: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|dir| dir.join(tool))
        .find(|file| {
            let link = std::fs::read_link(file).unwrap_or_default();
            file.is_file() && link.file_name() != Some("ringway".as_ref())
        })
        .ok_or_else(|| Error::Missing {
            what: format!("the tool {tool}"),
            remedy: SETUP.into(),
        })
}

/// Fails with the remedy unless the tests run as root.
pub fn need_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Missing {
        what: "root's permission (hugepages, namespaces, pinned cores)".into(),
        remedy: "run the tests as root or with sudo".into(),
    })
}

/// Fails with the remedy unless this many MiB of hugepages are free; testpmd
/// shares its memory with the switch through them.
pub fn need_hugepages(mib: u64) -> Result<()> {
    let free = free_hugepages_mib()?;
    if free >= mib {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("{mib} MiB of free hugepages ({free} MiB are free)"),
        remedy: SETUP.into(),
    })
}

/// Free hugepages of all sizes, in MiB.
pub fn free_hugepages_mib() -> Result<u64> {
    let root = "/sys/kernel/mm/hugepages";
    let mut total = 0;
    for entry in fs::read_dir(root).map_err(Error::io(format!("list {root}")))? {
        let dir = entry.map_err(Error::io(format!("list {root}")))?;
        let name = dir.file_name().to_string_lossy().into_owned();
        let kib: u64 = name
            .trim_start_matches("hugepages-")
            .trim_end_matches("kB")
            .parse()
            .unwrap_or(0);
        let pages: u64 = read_number(&dir.path().join("free_hugepages"))?;
        total += pages * kib / 1024;
    }
    Ok(total)
}

fn read_number(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())))?;
    text.trim()
        .parse()
        .map_err(|_| Error::Unexpected(format!("{} holds no number: {text:?}", path.display())))
}

/// The CPUs this process may use, in order.
pub fn cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))
        .map_err(|errno| Error::Unexpected(format!("cannot read the CPU affinity: {errno}")))?;
    Ok((0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect())
}

/// Which CPUs the switch polls on and which are left to guests.
#[derive(Clone, Debug)]
pub struct Cores {
    /// One per PMD.
    pub pmd: Vec<usize>,
    /// For QEMU, testpmd and the test itself.
    pub guests: Vec<usize>,
}

/// Gives the last `pmds` CPUs to the switch and the others to the guests;
/// where there are no others, the guests share with the PMDs.
pub fn cores(pmds: usize) -> Result<Cores> {
    let all = cpus()?;
    if all.len() < pmds {
        return Err(Error::Missing {
            what: format!("{pmds} CPUs ({} are there)", all.len()),
            remedy: "use a machine with more CPUs".into(),
        });
    }
    let (guests, pmd) = all.split_at(all.len() - pmds);
    let guests = if guests.is_empty() { &all } else { guests };
    Ok(Cores {
        pmd: pmd.to_vec(),
        guests: guests.to_vec(),
    })
}

/// Held by the one end-to-end test that runs.
#[derive(Debug)]
pub struct Exclusive(#[expect(dead_code)] Flock<File>);

/// Waits until no other end-to-end test runs, in this process or another.
/// Poll-mode cores cannot be shared: two tests at a time would both crawl.
pub fn exclusive() -> Result<Exclusive> {
    need_root()?;
    let path = std::env::temp_dir().join("ringway-e2e.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io(format!("open {}", path.display())))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map(Exclusive)
        .map_err(|(_, errno)| Error::Unexpected(format!("cannot lock {}: {errno}", path.display())))
}

/// Runs a command to its end; its output when it exits with 0.
pub fn sh(program: &str, args: &[&str]) -> Result<String> {
    let tool = find_tool(program)?;
    let output = Command::new(&tool)
        .args(args)
        .output()
        .map_err(Error::io(format!("start {}", tool.display())))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(Error::Command {
        command: format!("{program} {}", args.join(" ")),
        status: output.status,
        output: stdout + &String::from_utf8_lossy(&output.stderr),
    })
}
