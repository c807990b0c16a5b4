//! Starting DPDK: once per process, without privileges, without side effects on
//! the caller. A process of its own, for it must be the first to start it.

use std::collections::BTreeSet;
use std::fs;

use dpdk::{Eal, EalConfig, EalError, MemoryChoice, MemoryKind, Memzone};

/// The CPUs that a thread of this process may use, as the kernel writes them.
fn affinity(task: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{task}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("Cpus_allowed_list:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

fn threads() -> BTreeSet<String> {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        .map(|name| name.trim().to_owned())
        .collect()
}

#[test]
fn starts_once_and_leaves_the_caller_alone() {
    let too_little = Eal::init(EalConfig {
        memory_mib: 1,
        ..EalConfig::default()
    });
    assert!(matches!(
        too_little,
        Err(EalError::TooLittleMemory { memory_mib: 1 })
    ));
    let no_such_page = Eal::init(EalConfig {
        memory: MemoryChoice::PageSize(12345),
        ..EalConfig::default()
    });
    let said = no_such_page.unwrap_err().to_string();
    assert!(
        said.contains("12345 bytes") && said.contains("setup.sh"),
        "{said}"
    );

    // A configuration that cannot be is no start: the real one still works.
    let before = affinity("thread-self");
    let eal = Eal::init(EalConfig {
        memory: MemoryChoice::Auto,
        memory_mib: 64,
        pci: true,
    })
    .unwrap();
    assert_eq!(affinity("thread-self"), before);
    for name in threads() {
        assert!(
            !name.contains("worker") && !name.contains("telemetry"),
            "DPDK left a thread called {name}"
        );
    }
    assert!(eal.version().starts_with("DPDK "), "{}", eal.version());
    assert!(eal.tsc_hz() > 100_000_000, "{}", eal.tsc_hz());
    assert_eq!(eal.memory_mib(), 64);
    match eal.memory() {
        MemoryKind::Hugepages { page_bytes } => assert!(*page_bytes >= 2 << 20),
        MemoryKind::Ordinary { reason } => assert!(reason.contains("hugepages"), "{reason}"),
    }

    assert!(matches!(
        Eal::init(EalConfig::default()),
        Err(EalError::AlreadyInitialised)
    ));
    let said = EalError::AlreadyInitialised.to_string();
    assert!(said.contains("only once"), "{said}");

    // The second handle is the first's, with its memory limit.
    let again = Eal::for_tests();
    assert_eq!(again.memory_mib(), 64);
    let zone = Memzone::reserve(&again, "half", 32 << 20, 64).unwrap();
    assert_eq!(zone.len(), 32 << 20);
    let error = Memzone::reserve(&eal, "too much", 40 << 20, 64).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("64 MiB in all") && said.contains("ENOMEM"),
        "{said}"
    );
}
