//! Megaflows as `dpctl dump-flows` shows them: conversations instead of one
//! megaflow for all, port numbers instead of NORMAL, FLOOD and LOCAL.

use std::collections::HashMap;
use std::time::Duration;

use ringway_flow::key::{PORT_LOCAL, PacketKey, VLAN_PRESENT};
use ringway_flow::program::{DpAction, DropCause, Program, Steps};

use crate::actual::{Actual, Bridge, Inner};
use crate::cache::{Conversation, ConversationRecord, MegaflowRecord};
use crate::flows::MegaflowStatus;
use crate::lookup::{Destination, normal};
use crate::parse::Station;

const PORT: u64 = 0xffff << 32;
const ADDRESS: u64 = !0xffff;
/// Of a TCI: whether there is a tag, and its VLAN.
const VLAN: u64 = 0x0fff | VLAN_PRESENT as u64;

/// What of a packet is known, and how.
#[derive(Clone, Copy)]
struct Known {
    key: PacketKey,
    mask: PacketKey,
}

/// A bridge, by which NORMAL and FLOOD are told.
struct View<'a> {
    name: &'a String,
    bridge: &'a Bridge,
    /// Number of its own interface.
    local: Option<u16>,
    /// Ports that take frames now.
    members: Vec<u16>,
}

impl Inner {
    /// All living megaflows of all cores.
    pub(crate) fn shown_megaflows(&self, actual: &Actual) -> Vec<MegaflowStatus> {
        let views: HashMap<u16, View<'_>> = (actual.bridges.iter())
            .map(|(name, bridge)| (bridge.id, View::new(actual, name, bridge)))
            .collect();
        let mut shown = Vec::new();
        let each = |core: usize, record: MegaflowRecord| {
            let Some(view) = views.get(&record.bridge) else {
                return;
            };
            let MegaflowRecord { key, mask, .. } = record;
            let pipeline = view.bridge.tables.pipeline();
            if !pipeline.is_stale(record.version, &record.dependencies, &key.0, &mask.0) {
                view.show(record, &mut |status, idle_cycles| {
                    let idle = idle_cycles as f64 / self.eal.tsc_hz().max(1) as f64;
                    shown.push(MegaflowStatus {
                        core: self.pmds[core].core,
                        used: (status.packets > 0).then(|| Duration::from_secs_f64(idle)),
                        ..status
                    });
                });
            }
        };
        drop(self.read_megaflows(each));
        shown
    }
}

impl<'a> View<'a> {
    fn new(actual: &'a Actual, name: &'a String, bridge: &'a Bridge) -> Self {
        let ports = || (actual.ports.values()).filter(|port| port.spec.bridge == *name);
        let local = ports().find(|port| port.spec.is_local());
        let members = ports().filter(|port| port.takes_frames());
        Self {
            name,
            bridge,
            local: local.map(|port| port.number as u16),
            members: members.map(|port| port.number as u16).collect(),
        }
    }

    /// Calls `each` with what is shown of a megaflow, and the cycles since its
    /// last packet.
    fn show(&self, record: MegaflowRecord, each: &mut dyn FnMut(MegaflowStatus, u64)) {
        let MegaflowRecord {
            key,
            mask,
            ref program,
            packets,
            bytes,
            idle_cycles,
            conversations,
            ..
        } = record;
        let own = Known { key, mask };
        let Some(mut conversations) = conversations else {
            let status = self.status(own, own, program, (packets, bytes));
            return each(status, idle_cycles);
        };
        let order = |record: &ConversationRecord| {
            let Conversation {
                destination,
                source,
                kind,
            } = record.conversation;
            (record.port, source.bits(), destination.bits(), kind.bits())
        };
        conversations.all.sort_by_key(order);
        for record in conversations.all {
            let (shown, known) = own.with(&record);
            let counts = (record.packets, record.bytes);
            let status = self.status(shown, known, program, counts);
            each(status, record.idle_cycles);
        }
        if conversations.rest_packets > 0 {
            let counts = (conversations.rest_packets, conversations.rest_bytes);
            let status = self.status(own, own, program, counts);
            each(status, conversations.rest_idle_cycles);
        }
    }

    /// Of `core` and `used` it knows nothing.
    fn status(
        &self,
        mut shown: Known,
        known: Known,
        program: &[u64],
        (packets, bytes): (u64, u64),
    ) -> MegaflowStatus {
        if shown.mask.0[0] & PORT == PORT {
            let port = u64::from(self.number(shown.port()));
            shown.key.0[0] = shown.key.0[0] & !PORT | port << 32;
        }
        MegaflowStatus {
            bridge: self.name.clone(),
            core: 0,
            key: shown.key,
            mask: shown.mask,
            program: self.program(program, known),
            packets,
            bytes,
            used: None,
        }
    }

    /// A port's number in the datapath.
    fn number(&self, port: u16) -> u16 {
        match port {
            PORT_LOCAL => self.local.unwrap_or(port),
            port => port,
        }
    }

    /// A program with the ports that NORMAL and FLOOD mean now, as far as `known`
    /// says which.
    fn program(&self, program: &[u64], mut known: Known) -> Vec<u64> {
        let mut steps = Vec::new();
        for step in Steps::of(program) {
            match step {
                DpAction::Output(port) => steps.push(DpAction::Output(self.number(port))),
                DpAction::Normal | DpAction::Flood => match self.ports(step, &known) {
                    Some(ports) => steps.extend(ports.into_iter().map(DpAction::Output)),
                    None => steps.push(step),
                },
                step => {
                    known.change(step);
                    steps.push(step);
                }
            }
        }
        if steps.is_empty() && !program.is_empty() {
            steps.push(DpAction::Drop(DropCause::Rule));
        }
        // Steps one by one: there may be more ports than a program has room for.
        let words = steps.into_iter().flat_map(|step| {
            let mut program = Program::default();
            let _ = program.push(step);
            program.words().to_vec()
        });
        words.collect()
    }

    /// Where NORMAL or FLOOD sends a packet; `None`: not enough is known of it.
    fn ports(&self, step: DpAction, known: &Known) -> Option<Vec<u16>> {
        let Known { key, mask } = known;
        if mask.0[0] & PORT != PORT {
            return None;
        }
        let ingress = self.number(known.port());
        let others = || {
            let members = self.members.iter().copied();
            members.filter(|port| *port != ingress).collect()
        };
        if step == DpAction::Flood {
            return Some(others());
        }
        if mask.0[1] & (ADDRESS | VLAN) != ADDRESS | VLAN {
            return None;
        }
        let station = Station::from_bits(key.0[1] & (ADDRESS | 0xfff));
        Some(match normal(station, &self.bridge.fdb, ingress.into()) {
            Destination::Port(port) => vec![port as u16],
            Destination::Flood => others(),
            Destination::Drop(_) => Vec::new(),
        })
    }
}

impl Known {
    /// As flows know it.
    fn port(&self) -> u16 {
        (self.key.0[0] >> 32) as u16
    }

    /// What is to be shown, and what is known, of a conversation's packets.
    fn with(self, record: &ConversationRecord) -> (Self, Self) {
        let Conversation {
            destination,
            source,
            kind,
        } = record.conversation;
        let (mut key, mut mask) = (PacketKey::default(), PacketKey::default());
        let fragment = kind.fragment();
        key.0[0] = u64::from(record.port) << 32
            | u64::from(kind.dl_type()) << 16
            | fragment.unwrap_or(0) << 8;
        mask.0[0] = PORT | 0xffff << 16 | fragment.map_or(0, |_| 3 << 8);
        (key.0[1], mask.0[1]) = (destination.bits() & ADDRESS, ADDRESS);
        (key.0[2], mask.0[2]) = (source.bits() & ADDRESS, ADDRESS);
        if let Some(tpid) = kind.tpid() {
            key.0[1] |= u64::from(destination.vlan() | VLAN_PRESENT);
            mask.0[1] |= VLAN;
            (key.0[5], mask.0[5]) = (u64::from(tpid) << 48, 0xffff << 48);
        }
        // What the megaflow says itself stays as it says it.
        let word = |i: usize| self.key.0[i] | key.0[i] & mask.0[i] & !self.mask.0[i];
        let shown = Self {
            key: PacketKey(std::array::from_fn(word)),
            mask: PacketKey(std::array::from_fn(|i| self.mask.0[i] | mask.0[i])),
        };
        let mut known = shown;
        known.mask.0[1] |= VLAN;
        (shown, known)
    }

    /// What is known after a step.
    fn change(&mut self, step: DpAction) {
        let Self { key, mask } = self;
        let outer = |word: u64| word & 0xffff;
        match step {
            DpAction::Set {
                word,
                value,
                mask: bits,
            } => {
                if let Some(word) = key.0.get_mut(usize::from(word)) {
                    *word = *word & !bits | value & bits;
                }
                if let Some(word) = mask.0.get_mut(usize::from(word)) {
                    *word |= bits;
                }
            }
            DpAction::PushVlan { tci, .. } => {
                for (words, tci) in [(&mut key.0, u64::from(tci)), (&mut mask.0, 0xffff)] {
                    words[2] = words[2] & ADDRESS | outer(words[1]);
                    words[1] = words[1] & ADDRESS | tci;
                }
                key.0[1] |= u64::from(VLAN_PRESENT);
            }
            DpAction::PopVlan => {
                for words in [&mut key.0, &mut mask.0] {
                    words[1] = words[1] & ADDRESS | outer(words[2]);
                    words[2] &= ADDRESS;
                }
            }
            _ => {}
        }
    }
}
