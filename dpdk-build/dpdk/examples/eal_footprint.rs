//! Says how long DPDK takes to start and what it costs in memory:
//! `cargo run --release -p dpdk --example eal_footprint -- auto|off|2097152`.

use std::time::Instant;

use dpdk::{Eal, EalConfig, MemoryChoice, Mempool, Port, PortConfig};

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = match std::env::args().nth(1).as_deref() {
        None | Some("auto") => MemoryChoice::Auto,
        Some("off") => MemoryChoice::Off,
        Some(bytes) => MemoryChoice::PageSize(bytes.parse()?),
    };
    println!("before: resident {} KiB", resident_kib());
    let start = Instant::now();
    let eal = Eal::init(EalConfig {
        memory,
        memory_mib: 256,
        pci: true,
    })?;
    println!(
        "{} with {}: started in {:.0?}, resident {} KiB",
        eal.version(),
        eal.memory(),
        start.elapsed(),
        resident_kib()
    );
    let pool = Mempool::create(&eal, "packets", 4096, 2048, 256)?;
    let port = Port::attach(&eal, "net_null0")?;
    let running = port.configure(&PortConfig::new(pool.clone()))?.start()?;
    println!(
        "a pool of {} MiB and port {}: {:.0?} since the start, resident {} KiB",
        pool.memory_bytes() >> 20,
        running.0.info().device,
        start.elapsed(),
        resident_kib()
    );
    for line in eal.take_log() {
        println!("DPDK ({:?}): {}", line.level, line.text);
    }
    Ok(())
}
