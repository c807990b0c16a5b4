//! Megaflows over a takeover. Those of the old process are its own: they lie in its
//! memory and count in its cells. But a megaflow's key is as good as a packet of it
//! (no other bit was looked at), so the new process translates the keys while the
//! old one still forwards, and begins with the megaflows that it would otherwise
//! make at the cost of a miss each.
//!
//! ```text
//! old: read the living megaflows ─▶ memory file of keys ─▶ new: plans with some keys each
//!                                                            ─▶ core: translate, install
//! ```
//!
//! What is in the file is believed no more than a packet: any key is translated by
//! the rules that are here.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use ringway_flow::key::{PACKET_WORDS, PacketKey};
use ringway_vhost::{Descriptors, HandoverError};
use serde::{Deserialize, Serialize};

use crate::actual::{Actual, Inner, lock};
use crate::cache::{BRIDGE_BITS, FlowCache};
use crate::cpu::tsc;
use crate::engine::Datapath;
use crate::snapshot::Plan;

/// Keys that a core is given at a time: the control plane waits for one plan while
/// it makes the next.
const KEYS: usize = 8192;
const KEY_BYTES: usize = 8 * PACKET_WORDS;

/// Where the keys are. Fields may be added.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MegaflowForm {
    /// Place of the memory file. It has keys, one after the other, in words of 64
    /// bits, little-endian; instead of the bridge's id its place in `bridges`.
    file: u32,
    /// Words of a key: a process with other keys passes them over.
    words: usize,
    bridges: Vec<String>,
    /// Each core, and how many keys are of it, in the order of the file.
    cores: Vec<(usize, u64)>,
}

/// What a core makes megaflows of before its first packet.
pub struct WarmUp {
    keys: Vec<PacketKey>,
    /// Where it does that: on its own CPU it would take the old process's time.
    cpus: Vec<usize>,
}

impl Inner {
    /// Tells of all living megaflows.
    pub(crate) fn export_megaflows(
        &self,
        actual: &Actual,
        descriptors: &mut Descriptors,
    ) -> Result<MegaflowForm, HandoverError> {
        let bridges: Vec<String> = actual.bridges.keys().cloned().collect();
        let ids: Vec<u16> = actual.bridges.values().map(|bridge| bridge.id).collect();
        let mut cores: Vec<(usize, u64)> = self.pmds.iter().map(|pmd| (pmd.core, 0)).collect();
        let file = memfd_create(c"ringway-megaflows", MFdFlags::MFD_CLOEXEC)
            .map_err(HandoverError::system("make a file for megaflows"))?;
        let file = File::from(file);
        let mut writer = BufWriter::with_capacity(64 * KEY_BYTES, &file);
        let mut outcome = Ok(());
        let held = self.read_megaflows(|core, record| {
            let Some(place) = ids.iter().position(|id| *id == record.bridge) else {
                return;
            };
            let mut words = record.key.0;
            words[0] = words[0] & !BRIDGE_BITS | (place as u64) << 48;
            for word in words {
                if outcome.is_ok() {
                    outcome = writer.write_all(&word.to_le_bytes());
                }
            }
            cores[core].1 += 1;
        });
        drop(held);
        outcome
            .and_then(|()| writer.flush())
            .map_err(HandoverError::system("write megaflows"))?;
        drop(writer);
        Ok(MegaflowForm {
            file: descriptors.give(&file)?,
            words: PACKET_WORDS,
            bridges,
            cores,
        })
    }
}

impl Datapath {
    /// Has the cores make the megaflows that another process had, while it goes on.
    /// To be called when all bridges and rules are there.
    pub fn warm_up(&self) {
        let mut actual = lock(&self.inner.actual);
        let began = Instant::now();
        match self.inner.warm_up(&mut actual) {
            Ok(0) => {}
            Ok(keys) => tracing::info!(
                "translated {keys} megaflows of the ringwayd before in {} ms",
                began.elapsed().as_millis()
            ),
            // Nothing is lost but time: the first packet of each is a miss.
            Err(error) => tracing::warn!(%error, "megaflows are made anew, packet by packet"),
        }
    }
}

impl Inner {
    fn warm_up(&self, actual: &mut Actual) -> Result<u64, HandoverError> {
        let Some(adopting) = &mut actual.adopting else {
            return Ok(0);
        };
        let Some(form) = adopting.forms.megaflows.take() else {
            return Ok(0);
        };
        let file = File::from(adopting.descriptors.take(form.file)?);
        if form.words != PACKET_WORDS {
            return Err(HandoverError::Unfit(format!(
                "keys have {} words there and {PACKET_WORDS} here",
                form.words
            )));
        }
        let bridges = form.bridges.iter();
        let ids: Vec<Option<u16>> = bridges
            .map(|name| actual.bridges.get(name).map(|bridge| bridge.id))
            .collect();
        let (mut at, mut translated) = (0, 0);
        for (nth, (core, count)) in form.cores.iter().enumerate() {
            let place = self.pmds.iter().position(|pmd| pmd.core == *core);
            let place = place.unwrap_or(nth % self.pmds.len().max(1));
            let mut left = *count;
            while left > 0 {
                let now = left.min(KEYS as u64);
                let keys = read_keys(&file, at, now as usize, &ids)?;
                translated += keys.len() as u64;
                let cpus = self.other_cpus();
                actual.warm = Some((place, WarmUp { keys, cpus }));
                self.publish(actual);
                at += now * KEY_BYTES as u64;
                left -= now;
            }
        }
        if translated > 0 {
            // Returns when the cores have done what the plans before were for.
            self.publish(actual);
        }
        Ok(translated)
    }
}

/// Keys of bridges that are here.
fn read_keys(
    file: &File,
    at: u64,
    count: usize,
    ids: &[Option<u16>],
) -> Result<Vec<PacketKey>, HandoverError> {
    let mut bytes = vec![0; count * KEY_BYTES];
    file.read_exact_at(&mut bytes, at)
        .map_err(HandoverError::system("read megaflows"))?;
    let keys = bytes.chunks_exact(KEY_BYTES).filter_map(|bytes| {
        let mut key = PacketKey::default();
        for (word, bytes) in key.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        let id = *ids.get((key.0[0] >> 48) as usize)?;
        key.0[0] = key.0[0] & !BRIDGE_BITS | u64::from(id?) << 48;
        Some(key)
    });
    Ok(keys.collect())
}

/// The core's part; it has no queue to poll yet.
#[cold]
pub fn translate(cache: &mut FlowCache, plan: &Plan, warm: &WarmUp, core: usize) {
    run_on(&warm.cpus);
    for key in &warm.keys {
        let id = (key.0[0] >> 48) as u16;
        let bridge = plan.snapshot.bridges.iter().find(|view| view.id == id);
        if let Some(view) = bridge {
            cache.prepare(view, key, tsc());
        }
    }
    run_on(&[core]);
}

/// Moves the calling thread to some CPUs; it stays where it is if there are none,
/// or if the system does not want it.
fn run_on(cpus: &[usize]) {
    let mut set = CpuSet::new();
    let all = cpus.iter().all(|cpu| set.set(*cpu).is_ok());
    if all && !cpus.is_empty() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_bridges_that_are_here_are_read() {
        let file = File::from(memfd_create(c"keys", MFdFlags::MFD_CLOEXEC).unwrap());
        // Of bridges that are here under another id, that are gone, that never were.
        for (place, port) in [(0_u64, 5), (1, 6), (2, 7), (0xffff, 8)] {
            let mut words = [9; PACKET_WORDS];
            words[0] = place << 48 | port << 32 | 1;
            let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
            (&file).write_all(&bytes).unwrap();
        }
        let ids = [Some(40), None, Some(42)];
        let keys = read_keys(&file, 0, 4, &ids).unwrap();
        let heads: Vec<u64> = keys.iter().map(|key| key.0[0]).collect();
        assert_eq!(heads, [40 << 48 | 5 << 32 | 1, 42 << 48 | 7 << 32 | 1]);
        assert!(keys.iter().all(|key| key.0[1..] == [9; PACKET_WORDS - 1]));
        assert_eq!(
            read_keys(&file, 2 * KEY_BYTES as u64, 2, &ids)
                .unwrap()
                .len(),
            1
        );
        assert!(read_keys(&file, 0, 5, &ids).is_err(), "shorter than told");
    }
}
