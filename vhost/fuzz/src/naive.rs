//! The chains of a ring, read the plain way out of a copy of guest memory: what
//! a device may take from them, at most, and where it stands after each.

use super::machine::{GPA, REGION};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Bit 15 of a packed ring's positions.
const WRAP: u16 = 1 << 15;

/// A ring in a guest's memory, by offsets from where that begins.
#[derive(Clone, Copy, Debug)]
pub struct RingAt {
    pub packed: bool,
    pub size: u16,
    pub descriptors: usize,
    pub available: usize,
    pub used: usize,
}

/// A chain that the driver has made available.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Head, or buffer id.
    pub id: u16,
    /// Packed: its first slot.
    pub slot: u16,
    /// Packed: the wrap counter with which it is returned.
    pub wrap: bool,
    /// Its buffers (offset and bytes), if all are in guest memory and have the
    /// ring's direction.
    pub buffers: Option<Vec<(usize, usize)>>,
    /// Where the ring stands after it.
    pub next: u16,
}

struct Descriptor {
    addr: u64,
    len: u32,
    /// Flags and next, or id and flags.
    words: [u16; 2],
}

fn number<const BYTES: usize>(memory: &[u8], at: usize) -> [u8; BYTES] {
    *memory[at..].first_chunk().expect("within guest memory")
}

/// The two bytes there.
pub fn word(memory: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(memory, at))
}

/// The four bytes there.
pub fn double(memory: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(memory, at))
}

fn descriptor(memory: &[u8], at: usize) -> Descriptor {
    Descriptor {
        addr: u64::from_le_bytes(number(memory, at)),
        len: double(memory, at + 8),
        words: [word(memory, at + 12), word(memory, at + 14)],
    }
}

/// Where a buffer lies in guest memory, if it does.
fn place(addr: u64, len: u32) -> Option<(usize, usize)> {
    let end = addr.checked_add(len.into())?;
    let within = addr >= GPA && end <= GPA + 2 * REGION;
    (within || len == 0).then_some((addr.wrapping_sub(GPA) as usize, len as usize))
}

impl RingAt {
    /// How many entries of the available ring (split) or slots are to be looked
    /// at from `position` on.
    pub fn entries(&self, memory: &[u8], position: u16) -> u16 {
        let available = word(memory, self.available + 2).wrapping_sub(position);
        match self.packed {
            true => self.size,
            false if available > self.size => 0,
            false => available,
        }
    }

    /// The chains from `position` on, as far as they can be told, at most so many.
    pub fn chains(&self, memory: &[u8], position: u16, writable: bool, most: u16) -> Vec<Chain> {
        let mut chains = Vec::new();
        let mut at = position;
        for _ in 0..most {
            let chain = match self.packed {
                true => self.packed_chain(memory, at, writable),
                false => self.split_chain(memory, at, writable),
            };
            let Some(chain) = chain else { break };
            at = chain.next;
            chains.push(chain);
        }
        chains
    }

    fn split_chain(&self, memory: &[u8], at: u16, writable: bool) -> Option<Chain> {
        let entry = usize::from(at % self.size);
        let head = word(memory, self.available + 4 + 2 * entry);
        (head < self.size).then(|| Chain {
            id: head,
            slot: 0,
            wrap: false,
            buffers: split_buffers(memory, (self.descriptors, self.size), head, writable, true)
                .map(without_empty),
            next: at.wrapping_add(1),
        })
    }

    /// The slot's descriptor, if it is available.
    fn slot(&self, memory: &[u8], at: u16) -> Option<Descriptor> {
        let slot = usize::from(at & !WRAP);
        let descriptor = descriptor(memory, self.descriptors + 16 * slot);
        let wanted = if at & WRAP != 0 { AVAIL } else { USED };
        (descriptor.words[1] & (AVAIL | USED) == wanted).then_some(descriptor)
    }

    fn after(&self, at: u16) -> u16 {
        match at & !WRAP {
            last if last + 1 == self.size => (at & WRAP) ^ WRAP,
            _ => at + 1,
        }
    }

    fn packed_chain(&self, memory: &[u8], first: u16, writable: bool) -> Option<Chain> {
        let right = |flags: u16| (flags & WRITE != 0) == writable;
        let mut buffers = Some(Vec::new());
        let mut add = |buffer: Option<(usize, usize)>| match (&mut buffers, buffer) {
            (Some(all), Some(buffer)) => all.push(buffer),
            (all, None) => *all = None,
            _ => {}
        };
        let mut at = first;
        for _ in 0..self.size {
            let Descriptor { addr, len, words } = self.slot(memory, at)?;
            let [id, flags] = words;
            if flags & INDIRECT != 0 {
                match place(addr, len) {
                    Some((table, bytes)) if bytes > 0 => {
                        for entry in 0..bytes / 16 {
                            let entry = descriptor(memory, table + 16 * entry);
                            let buffer = place(entry.addr, entry.len);
                            add(buffer.filter(|_| right(entry.words[1])));
                        }
                    }
                    _ => add(None),
                }
            } else {
                add(place(addr, len).filter(|_| right(flags)));
            }
            at = self.after(at);
            if flags & NEXT == 0 {
                return Some(Chain {
                    id,
                    slot: first & !WRAP,
                    wrap: first & WRAP != 0,
                    buffers: buffers.map(without_empty),
                    next: at,
                });
            }
        }
        None
    }

    /// What the device told of the chain that it returned as the `nth` since
    /// `position`: id and bytes written. `None`: it did not return it.
    pub fn used(
        &self,
        memory: &[u8],
        position: u16,
        nth: u16,
        chain: &Chain,
    ) -> Option<(u16, u32)> {
        if self.packed {
            let slot = descriptor(memory, self.descriptors + 16 * usize::from(chain.slot));
            let [id, flags] = slot.words;
            let wanted = if chain.wrap { AVAIL | USED } else { 0 };
            return (flags & (AVAIL | USED) == wanted).then_some((id, slot.len));
        }
        let index = position.wrapping_add(nth);
        let behind = word(memory, self.used + 2).wrapping_sub(index);
        let entry = self.used + 4 + 8 * usize::from(index % self.size);
        let id = u16::try_from(double(memory, entry)).ok()?;
        (1..=self.size)
            .contains(&behind)
            .then(|| (id, double(memory, entry + 4)))
    }

    /// Where the device may write in the ring itself.
    pub fn written(&self) -> [(usize, usize); 2] {
        let size = usize::from(self.size);
        match self.packed {
            true => [(self.descriptors, 16 * size), (self.used, 4)],
            false => [(self.used, 4 + 8 * size + 2), (0, 0)],
        }
    }

    /// Everything that a device could ever take for a buffer to write to: of
    /// every descriptor in the ring and its tables, available or not.
    pub fn writable(&self, memory: &[u8]) -> Vec<(usize, usize)> {
        let mut all = Vec::new();
        let flags_at = usize::from(self.packed);
        for slot in 0..usize::from(self.size) {
            let own = descriptor(memory, self.descriptors + 16 * slot);
            let mut entries = Vec::new();
            if own.words[flags_at] & INDIRECT != 0
                && let Some((table, bytes)) = place(own.addr, own.len)
            {
                entries.extend((0..bytes / 16).map(|at| descriptor(memory, table + 16 * at)));
            }
            entries.push(own);
            for entry in entries {
                let end = entry.addr.saturating_add(entry.len.into());
                let begin = entry.addr.clamp(GPA, GPA + 2 * REGION) - GPA;
                let end = end.clamp(GPA, GPA + 2 * REGION) - GPA;
                if entry.words[flags_at] & WRITE != 0 && begin < end {
                    all.push((begin as usize, (end - begin) as usize));
                }
            }
        }
        all
    }
}

/// Empty buffers may be anywhere.
fn without_empty(mut buffers: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    buffers.retain(|(_, bytes)| *bytes > 0);
    buffers
}

fn split_buffers(
    memory: &[u8],
    (table, entries): (usize, u16),
    first: u16,
    writable: bool,
    may_lead_on: bool,
) -> Option<Vec<(usize, usize)>> {
    let mut buffers = Vec::new();
    let mut at = first;
    for _ in 0..entries {
        if at >= entries {
            return None;
        }
        let Descriptor { addr, len, words } = descriptor(memory, table + 16 * usize::from(at));
        let [flags, next] = words;
        if flags & INDIRECT != 0 {
            let (table, bytes) = place(addr, len).filter(|_| may_lead_on && len > 0)?;
            let entries = u16::try_from(bytes / 16).ok()?;
            buffers.extend(split_buffers(memory, (table, entries), 0, writable, false)?);
            return Some(buffers);
        }
        if (flags & WRITE != 0) != writable {
            return None;
        }
        buffers.push(place(addr, len)?);
        if flags & NEXT == 0 {
            return Some(buffers);
        }
        at = next;
    }
    None
}
