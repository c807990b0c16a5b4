//! Megaflows, as the control plane reads them while the core goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ringway_flow::key::PacketKey;
use ringway_flow::pipeline::Dependencies;

use super::conversations::{ConversationRecord, read_conversations};
use super::table::{CacheTable, Record};
use super::{USED_SHIFT, used_now};

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
    /// All that it counted, conversations included.
    pub packets: u64,
    pub bytes: u64,
    /// TSC cycles since its last packet, within some milliseconds.
    pub idle_cycles: u64,
    /// Counts by conversation, if it counts so.
    pub conversations: Option<Conversations>,
    /// Version of the rules that it is known to follow.
    pub version: u32,
    pub dependencies: Dependencies,
}

/// What a megaflow of NORMAL counted, by conversation.
#[derive(Clone, Debug)]
pub struct Conversations {
    pub all: Vec<ConversationRecord>,
    /// Packets of conversations that found no room.
    pub rest_packets: u64,
    pub rest_bytes: u64,
    /// TSC cycles since the last of these.
    pub rest_idle_cycles: u64,
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

/// Calls `each` with every megaflow of a table. For what counts it says to add
/// up, no counts may move meanwhile ([`hold`]).
pub fn read_all(table: &CacheTable, now: u64, mut each: impl FnMut(MegaflowRecord)) {
    let parts = table.parts();
    let mut conversations = read_conversations(table, now);
    let idle = |used: u16| u64::from(used_now(now).wrapping_sub(used)) << USED_SHIFT;
    for entry in 0..table.high_water.load(Ordering::Relaxed) as usize {
        let Some(record) = parts.read(entry) else {
            continue;
        };
        let Record {
            meta,
            key,
            mask,
            mut packets,
            mut bytes,
            rest_used,
            made,
            dependencies,
            program,
            counted,
        } = record;
        let conversations = meta.tells_apart().then(|| {
            let rest = (packets, bytes);
            let all = conversations.remove(&entry).unwrap_or_default();
            packets += all.iter().map(|record| record.packets).sum::<u64>();
            bytes += all.iter().map(|record| record.bytes).sum::<u64>();
            Conversations {
                all,
                rest_packets: rest.0,
                rest_bytes: rest.1,
                rest_idle_cycles: idle(rest_used),
            }
        });
        each(MegaflowRecord {
            bridge: (key.0[0] >> 48) as u16,
            key,
            mask,
            program,
            counted,
            packets,
            bytes,
            idle_cycles: idle(meta.used),
            conversations,
            version: made,
            dependencies,
        });
    }
}
