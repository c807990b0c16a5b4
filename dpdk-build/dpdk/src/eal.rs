//! DPDK's environment (EAL): started once per process, never stopped; the
//! kernel takes its memory back when the process ends.

// UNSAFETY: calls rte_eal_init and reads what it set up.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io, mem, ptr, thread};

use thiserror::Error;

use crate::hugepages::{self, human};
use crate::{Errno, LogLine, RegisteredThread, ThreadError, log};

/// Which memory DPDK gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryChoice {
    /// Hugepages when enough are free, else ordinary memory.
    #[default]
    Auto,
    /// Ordinary memory.
    Off,
    /// Hugepages of this many bytes each, or an error.
    PageSize(u64),
}

/// How to start DPDK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalConfig {
    /// Which memory to use.
    pub memory: MemoryChoice,
    /// The most memory that memzones and mempools may take together, in MiB.
    /// Taken from the system when needed, not at start. Counts per NUMA node.
    pub memory_mib: u32,
    /// Whether PCI devices may be attached later (with the bus scanned for
    /// them). No device is ever taken at start.
    pub pci: bool,
}

impl Default for EalConfig {
    fn default() -> EalConfig {
        EalConfig {
            memory: MemoryChoice::Auto,
            memory_mib: 512,
            pci: false,
        }
    }
}

/// Which memory DPDK has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Hugepages.
    Hugepages {
        /// Bytes of one page.
        page_bytes: u64,
    },
    /// Ordinary 4 KiB pages: everything works, lookups in large tables cost more.
    Ordinary {
        /// Why, for a person: `hugepages are switched off`.
        reason: String,
    },
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryKind::Hugepages { page_bytes } => {
                write!(f, "hugepages of {}", human(*page_bytes))
            }
            MemoryKind::Ordinary { reason } => write!(f, "ordinary memory: {reason}"),
        }
    }
}

/// Why DPDK did not start.
#[derive(Debug, Error)]
pub enum EalError {
    /// `Eal::init` was called before, with or without success.
    #[error("DPDK was already started in this process; it can be started only once")]
    AlreadyInitialised,
    /// `memory_mib` is too small to hold anything.
    #[error("DPDK cannot work with {memory_mib} MiB of memory; give it at least 16 MiB")]
    TooLittleMemory {
        /// What was asked for.
        memory_mib: u32,
    },
    /// The page size asked for is not to be had.
    #[error(
        "hugepages of {} cannot be used: {reason}; reserve them with dpdk-build/setup.sh, \
         or choose `auto` or `off`",
        human(*.page_bytes)
    )]
    Hugepages {
        /// Bytes per page asked for.
        page_bytes: u64,
        /// What is missing.
        reason: String,
    },
    /// The thread that starts DPDK could not run.
    #[error("no thread could be started for DPDK: {0}")]
    Thread(#[source] io::Error),
    /// `rte_eal_init` failed.
    #[error("DPDK did not start with arguments `{arguments}`: {errno}. DPDK says: {log}")]
    Init {
        /// EAL's command line.
        arguments: String,
        /// Its error number.
        errno: Errno,
        /// What DPDK logged.
        log: String,
    },
}

#[derive(Debug)]
struct Inner {
    memory: MemoryKind,
    memory_mib: u32,
    pci: bool,
    version: String,
    tsc_hz: u64,
}

/// A handle on the running environment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Eal(Arc<Inner>);

enum State {
    Untouched,
    Running(Eal),
    Failed,
}

static STATE: Mutex<State> = Mutex::new(State::Untouched);

/// A test's memory, in MiB; pages are only touched when used.
const TEST_MEMORY_MIB: u32 = 256;

impl Eal {
    /// Starts DPDK: no PCI device taken, no worker threads, no telemetry socket,
    /// nothing written to the file system. The calling thread keeps its CPU
    /// affinity.
    pub fn init(config: EalConfig) -> Result<Eal, EalError> {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, State::Untouched) {
            return Err(EalError::AlreadyInitialised);
        }
        start(&mut state, &config)
    }

    /// The environment for tests: ordinary memory, no privileges. Shared by all
    /// tests of a process; whatever runs already is taken as it is.
    ///
    /// # Panics
    /// When DPDK cannot start, for that is the end of the test.
    pub fn for_tests() -> Eal {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Running(eal) => return eal.clone(),
            State::Failed => panic!("DPDK failed to start before"),
            State::Untouched => {}
        }
        let config = EalConfig {
            memory: MemoryChoice::Off,
            memory_mib: TEST_MEMORY_MIB,
            pci: false,
        };
        match start(&mut state, &config) {
            Ok(eal) => eal,
            Err(error) => panic!("{error}"),
        }
    }

    /// Which memory DPDK got, and why.
    pub fn memory(&self) -> &MemoryKind {
        &self.0.memory
    }

    /// The most memory it may take, in MiB.
    pub fn memory_mib(&self) -> u32 {
        self.0.memory_mib
    }

    /// Whether PCI devices can be attached.
    pub fn pci(&self) -> bool {
        self.0.pci
    }

    /// For example `DPDK 22.11.11`.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Ticks of the time stamp counter per second.
    pub fn tsc_hz(&self) -> u64 {
        self.0.tsc_hz
    }

    /// Makes the calling thread known to DPDK, so that it gets a mempool cache
    /// of its own. Once per poll-mode thread; ends with the guard.
    pub fn register_thread(&self) -> Result<RegisteredThread, ThreadError> {
        RegisteredThread::new()
    }

    /// What DPDK logged since the last call, at most the last 256 lines.
    pub fn take_log(&self) -> Vec<LogLine> {
        log::take()
    }

    /// The virtual drivers built in, by the start of their devices' names.
    pub fn drivers(&self) -> &'static [&'static str] {
        dpdk_sys::VDEV_DRIVERS
    }
}

/// This thread's `rte_errno`.
pub(crate) fn raw_errno() -> i32 {
    // SAFETY: reads a thread-local variable.
    unsafe { dpdk_sys::rw_errno() }
}

/// Where EAL is to take memory from.
struct Plan {
    kind: MemoryKind,
    arguments: Vec<String>,
}

fn start(state: &mut State, config: &EalConfig) -> Result<Eal, EalError> {
    if config.memory_mib < 16 {
        return Err(EalError::TooLittleMemory {
            memory_mib: config.memory_mib,
        });
    }
    let plan = plan_memory(config)?;
    let mut arguments: Vec<String> = [
        "ringway",
        "--no-telemetry",
        "--log-level=notice",
        &main_lcore(),
    ]
    .map(str::to_owned)
    .to_vec();
    if config.pci {
        // An allowlist of nobody: the bus is known, and no device is taken.
        arguments.extend(["-a".to_owned(), "0000:00:00.0".to_owned()]);
    } else {
        arguments.extend(["--no-pci".to_owned(), "--iova-mode=va".to_owned()]);
    }
    arguments.extend(plan.arguments);

    // rte_eal_init pins the thread that calls it: let that be one that ends.
    let started = thread::Builder::new()
        .name("eal-init".to_owned())
        .spawn({
            let arguments = arguments.clone();
            move || call_eal_init(arguments)
        })
        .map_err(EalError::Thread)?
        .join()
        .unwrap_or(Err((Errno::from_raw(libc::EIO), String::new())));
    match started {
        Ok((version, tsc_hz)) => {
            let eal = Eal(Arc::new(Inner {
                memory: plan.kind,
                memory_mib: config.memory_mib,
                pci: config.pci,
                version,
                tsc_hz,
            }));
            *state = State::Running(eal.clone());
            Ok(eal)
        }
        Err((errno, log)) => {
            *state = State::Failed;
            Err(EalError::Init {
                arguments: arguments[1..].join(" "),
                errno,
                log,
            })
        }
    }
}

fn call_eal_init(arguments: Vec<String>) -> Result<(String, u64), (Errno, String)> {
    let mark = log::mark();
    // DPDK keeps pointers to its arguments: they are never freed.
    let mut argv: Vec<*mut c_char> = arguments
        .into_iter()
        .filter_map(|argument| CString::new(argument).ok())
        .map(CString::into_raw)
        .collect();
    let argc = argv.len() as c_int;
    argv.push(ptr::null_mut());
    let argv = Vec::leak(argv);
    // SAFETY: `sink` stays valid for ever, argv is a leaked, null-terminated
    // array of leaked strings, and STATE's lock makes this the only call.
    let (captured, ret) = unsafe {
        let captured = dpdk_sys::rw_log_capture(Some(log::sink));
        (captured, dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()))
    };
    if captured != 0 {
        return Err((Errno::from_negative(captured), String::new()));
    }
    if ret < 0 {
        return Err((Errno::last(), log::errors_since(mark)));
    }
    // SAFETY: EAL runs; the version is a static C string.
    let (version, tsc_hz) = unsafe {
        (
            CStr::from_ptr(dpdk_sys::rw_version()),
            dpdk_sys::rw_tsc_hz(),
        )
    };
    Ok((version.to_string_lossy().into_owned(), tsc_hz))
}

fn plan_memory(config: &EalConfig) -> Result<Plan, EalError> {
    let bytes = u64::from(config.memory_mib) << 20;
    let sizes = hugepages::sizes();
    match config.memory {
        MemoryChoice::Off => Ok(ordinary(config, "hugepages are switched off".to_owned())),
        MemoryChoice::Auto => {
            let mut shortages = Vec::new();
            for size in &sizes {
                match hugepages::shortage(*size, bytes) {
                    None => return Ok(huge(config, size.bytes, in_memory())),
                    Some(shortage) => shortages.push(shortage),
                }
            }
            if shortages.is_empty() {
                shortages.push("the kernel has no hugepages".to_owned());
            }
            let reason = format!(
                "{} (dpdk-build/setup.sh reserves hugepages)",
                shortages.join(", ")
            );
            Ok(ordinary(config, reason))
        }
        MemoryChoice::PageSize(page_bytes) => {
            let missing = |reason: String| EalError::Hugepages { page_bytes, reason };
            let size = sizes
                .iter()
                .find(|size| size.bytes == page_bytes)
                .ok_or_else(|| missing("the kernel offers no pages of this size".to_owned()))?;
            if let Some(shortage) = hugepages::shortage(*size, bytes) {
                return Err(missing(shortage));
            }
            let others = sizes
                .iter()
                .any(|size| size.bytes != page_bytes && size.free > 0);
            if !others {
                return Ok(huge(config, page_bytes, in_memory()));
            }
            // Without a mount, EAL takes pages of any size; with one, only its.
            let mount = hugepages::mount_point(page_bytes).ok_or_else(|| {
                missing(format!(
                    "pages of other sizes are free as well, so a mount must name the size: \
                     mount -t hugetlbfs -o pagesize={}K none /mnt/huge",
                    page_bytes >> 10
                ))
            })?;
            let only_these = vec![
                "--no-shconf".to_owned(),
                "--huge-unlink".to_owned(),
                format!("--huge-dir={}", mount.display()),
            ];
            Ok(huge(config, page_bytes, only_these))
        }
    }
}

fn in_memory() -> Vec<String> {
    vec!["--in-memory".to_owned()]
}

fn huge(config: &EalConfig, page_bytes: u64, mut arguments: Vec<String>) -> Plan {
    let limit = config.memory_mib.to_string();
    let limits = vec![limit; numa_nodes()].join(",");
    arguments.push("--single-file-segments".to_owned());
    arguments.push(format!("--socket-limit={limits}"));
    Plan {
        kind: MemoryKind::Hugepages { page_bytes },
        arguments,
    }
}

fn ordinary(config: &EalConfig, reason: String) -> Plan {
    // Not --in-memory, which this kind of memory does not go with; without
    // shared configuration nothing is written either.
    let mut arguments = vec!["--no-shconf".to_owned()];
    arguments.extend([
        "--no-huge".to_owned(),
        "-m".to_owned(),
        config.memory_mib.to_string(),
    ]);
    Plan {
        kind: MemoryKind::Ordinary { reason },
        arguments,
    }
}

fn numa_nodes() -> usize {
    let nodes = std::fs::read_dir("/sys/devices/system/node")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix("node"))
                .is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .count();
    nodes.max(1)
}

/// One lcore, allowed on every CPU that this process may use: no workers are
/// started, and DPDK's own threads are not tied to one CPU.
fn main_lcore() -> String {
    // SAFETY: cpu_set_t is plain data, all zeroes an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: writes at most the given size to `set`.
    let known = unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) } == 0;
    let cpus: Vec<String> = (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below CPU_SETSIZE.
        .filter(|&cpu| known && unsafe { libc::CPU_ISSET(cpu, &set) })
        .map(|cpu| cpu.to_string())
        .collect();
    if cpus.is_empty() {
        return "--lcores=0".to_owned();
    }
    format!("--lcores=0@({})", cpus.join(","))
}
