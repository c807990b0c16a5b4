//! Megaflows, as the control plane reads them while the core goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ringway_flow::key::PacketKey;
use ringway_flow::pipeline::Dependencies;

use super::USED_SHIFT;
use super::table::{CacheTable, Record};

/// A megaflow as it was read.
#[derive(Clone, Debug)]
pub struct MegaflowRecord {
    /// Id of its bridge.
    pub bridge: u16,
    pub key: PacketKey,
    pub mask: PacketKey,
    /// Words of its program.
    pub program: Vec<u64>,
    /// Cells in which its packets count.
    pub counted: Vec<u32>,
    pub packets: u64,
    pub bytes: u64,
    /// TSC cycles since its last packet, within some milliseconds.
    pub idle_cycles: u64,
    /// Version of the rules that it is known to follow.
    pub version: u32,
    pub dependencies: Dependencies,
}

/// While it lives no counts move from megaflows to rules' cells: both can be
/// read and added up.
pub struct Hold<'t>(Vec<&'t AtomicU64>);

/// Asks the cores of these tables not to move counts, and waits until none does.
pub fn hold<'t>(tables: impl Iterator<Item = &'t CacheTable> + Clone) -> Hold<'t> {
    for table in tables.clone() {
        table.holds.fetch_add(1, Ordering::SeqCst);
    }
    for table in tables.clone() {
        while table.moving.load(Ordering::SeqCst) % 2 == 1 {
            thread::sleep(Duration::from_micros(5));
        }
    }
    Hold(tables.map(|table| &table.holds).collect())
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        for holds in &self.0 {
            holds.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Calls `each` with every megaflow of a table.
pub fn read_all(table: &CacheTable, now: u64, mut each: impl FnMut(MegaflowRecord)) {
    let parts = table.parts();
    for entry in 0..table.high_water.load(Ordering::Relaxed) as usize {
        let Some(record) = parts.read(entry) else {
            continue;
        };
        let Record {
            meta,
            key,
            mask,
            packets,
            bytes,
            made,
            dependencies,
            program,
            counted,
        } = record;
        let idle = ((now >> USED_SHIFT) as u16).wrapping_sub(meta.used);
        each(MegaflowRecord {
            bridge: (key.0[0] >> 48) as u16,
            key,
            mask,
            program,
            counted,
            packets,
            bytes,
            idle_cycles: u64::from(idle) << USED_SHIFT,
            version: made,
            dependencies,
        });
    }
}
