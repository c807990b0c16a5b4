//! Traces: what the rules would do with a packet, and what a poll-mode core
//! really did with one.

use std::fmt::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ringway_flow::datapath_text::{MegaflowCounts, print_megaflow};
use ringway_flow::extract::{extract, extract_slice};
use ringway_flow::field::Field;
use ringway_flow::key::PacketKey;
use ringway_flow::matching::Match;
use ringway_flow::program::{DpAction, Steps};
use ringway_flow::text::PortNames;
use ringway_flow::trace::{Request, trace};
use ringway_flow::translate::Start;

use crate::actual::{Actual, Inner, lock};
use crate::cpu::tsc;
use crate::engine::Datapath;
use crate::error::DatapathError;
use crate::patch;
use crate::port::Port;
use crate::snapshot::Output;
use crate::watch::{Caught, FoundBy, Watch};

mod now;
#[cfg(test)]
mod tests;

use self::now::Now;

/// Between two looks at whether the packet has come.
const LOOK: Duration = Duration::from_millis(1);

/// The names of a bridge's ports, by what flows call them.
struct Names(Vec<(u16, String)>);

impl Names {
    fn of(actual: &Actual, bridge: &str) -> Self {
        let ports = actual.ports.values();
        let ports = ports.filter(|port| port.spec.bridge == bridge);
        Self(
            ports
                .map(|port| (port.flow_number(), port.spec.name.clone()))
                .collect(),
        )
    }
}

/// A port's name and number, for people.
fn tell_port(actual: &Actual, number: u32) -> String {
    match actual.ports.get(&number) {
        Some(port) if port.spec.is_local() => format!("{} (LOCAL)", port.spec.name),
        Some(port) => format!("{} ({number})", port.spec.name),
        None => number.to_string(),
    }
}

impl PortNames for Names {
    fn number(&self, name: &str) -> Option<u16> {
        let found = self.0.iter().find(|(_, known)| known == name);
        found.map(|(number, _)| *number)
    }

    fn name(&self, number: u16) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| *known == number);
        found.map(|(_, name)| name.as_str())
    }
}

impl Datapath {
    /// What the rules would do with a packet now, in `ovs-appctl
    /// ofproto/trace`'s form. `matching` is the flow that was asked for;
    /// `frame` the whole packet, if one was given (of the flow only `in_port`
    /// counts then). Where it goes out by a patch port its way on the other bridge is
    /// told, too. With `generate` NORMAL learns from it, on each bridge of its way.
    pub fn trace(
        &self,
        bridge: &str,
        matching: &Match,
        frame: Option<&[u8]>,
        generate: bool,
    ) -> Result<String, DatapathError> {
        let actual = lock(&self.inner.actual);
        let known = actual.bridges.get(bridge);
        let known = known.ok_or_else(|| DatapathError::not_found("bridge", bridge))?;
        let in_port = Field::InPort.get(&matching.key) as u16;
        let mut key = match frame {
            None => matching.key.packet(),
            Some(frame) if frame.len() < 14 => {
                return Err(DatapathError::BadPacket(format!(
                    "a packet of {} bytes cannot be traced: an Ethernet header has 14",
                    frame.len()
                )));
            }
            Some(frame) => extract_slice(frame, known.id, in_port),
        };
        key.0[0] = key.0[0] & !(0xffff << 48) | u64::from(known.id) << 48;
        Ok(self.inner.trace_from(&actual, bridge, &key, generate, 0))
    }

    /// Waits for the next packet from `port` that `matching` matches and tells
    /// what was really done with it. `None`: there was none in time.
    pub fn trace_next(
        &self,
        port: &str,
        matching: &Match,
        timeout: Duration,
    ) -> Result<Option<String>, DatapathError> {
        let inner = &self.inner;
        let watch = {
            let mut actual = lock(&inner.actual);
            let mut ports = actual.ports.values();
            let known = ports.find(|known| known.spec.name == port);
            let number = known.map(|known| known.number);
            let number = number.ok_or_else(|| DatapathError::not_found("port", port))?;
            if actual.watch.is_some() {
                return Err(DatapathError::BadPacket(
                    "somebody else waits for a packet already: try again when that is done"
                        .to_owned(),
                ));
            }
            let watch = Arc::new(Watch::new(number, *matching));
            actual.watch = Some(Arc::clone(&watch));
            inner.publish(&mut actual);
            watch
        };
        let deadline = Instant::now() + timeout;
        let caught = loop {
            let caught = watch.caught();
            if caught.is_some() || Instant::now() >= deadline {
                break caught;
            }
            thread::sleep(LOOK);
        };
        let mut actual = lock(&inner.actual);
        actual.watch = None;
        // After this no core can be writing into the watch any more.
        inner.publish(&mut actual);
        let caught = caught.or_else(|| watch.caught());
        Ok(caught.map(|caught| inner.tell(&actual, &watch, &caught)))
    }
}

/// Where steps send a packet out by patch ports whose peers are there: those ports,
/// and the packet as it comes in by the peer.
fn crossings<'a>(
    actual: &'a Actual,
    key: &PacketKey,
    steps: &[DpAction],
) -> Vec<(&'a Port, PacketKey)> {
    let mut key = *key;
    let mut crossings = Vec::new();
    for step in steps {
        match step {
            DpAction::Output(number) => {
                let port = actual.ports.get(&u32::from(*number));
                let peer = port.and_then(|port| match port.output() {
                    Output::Patch(peer) => Some((port, actual.ports.get(&peer?)?)),
                    _ => None,
                });
                if let Some((port, peer)) = peer {
                    let bridge = actual.bridges.get(&peer.spec.bridge);
                    let id = bridge.map_or(0, |bridge| bridge.id);
                    let mut key = key;
                    let place = u64::from(id) << 48 | u64::from(peer.flow_number()) << 32;
                    key.0[0] = key.0[0] & 0xffff_ffff | place;
                    crossings.push((port, key));
                }
            }
            DpAction::Set { word, value, mask } => {
                let word = &mut key.0[usize::from(*word)];
                *word = *word & !mask | value & mask;
            }
            DpAction::PushVlan { tpid, tci } => {
                let (outer, tpids) = (key.0[1] & 0xffff, key.0[5] >> 48);
                key.0[1] = key.0[1] & !0xffff | u64::from(*tci);
                key.0[2] = key.0[2] & !0xffff | outer;
                key.0[5] = key.0[5] & 0xffff_ffff | u64::from(*tpid) << 48 | tpids << 32;
            }
            DpAction::PopVlan => {
                let (inner, tpid) = (key.0[2] & 0xffff, key.0[5] >> 32 & 0xffff);
                key.0[1] = key.0[1] & !0xffff | inner;
                key.0[2] &= !0xffff;
                key.0[5] = key.0[5] & 0xffff_ffff | tpid << 48;
            }
            _ => {}
        }
    }
    crossings
}

impl Inner {
    /// The trace of a packet that went through `depth` patch ports. With `generate`
    /// NORMAL, if it is part of it, learns from it.
    fn trace_from(
        &self,
        actual: &Actual,
        bridge: &str,
        key: &PacketKey,
        generate: bool,
        depth: u8,
    ) -> String {
        let Some(known) = actual.bridges.get(bridge) else {
            return String::new();
        };
        let now = Now::of(actual, known);
        let traced = trace(
            &known.tables.pipeline(),
            &Request {
                bridge,
                packet: key,
                start: Start::Tables,
                ports: &Names::of(actual, bridge),
                now: &now,
            },
        );
        let mut steps = traced.translation.program.steps();
        if generate && steps.any(|step| step == DpAction::Normal) {
            now.learn(key, self.second());
        }
        let mut text = traced.text;
        let in_port = (key.0[0] >> 32) as u16;
        let mut ports = actual.ports.values();
        let ingress =
            ports.find(|port| port.spec.bridge == bridge && port.flow_number() == in_port);
        if let Some(port) = ingress
            && let Some(guard) = &port.guarding.guard
            && let Some(reason) = guard.refuses(key)
        {
            let (name, why) = (&port.spec.name, reason.explain().trim());
            let _ = writeln!(
                text,
                "Port {name}'s guard refuses it before that, as {}: {why}",
                reason.name()
            );
        }
        for (port, key) in crossings(actual, key, &traced.steps) {
            let Some(peer) = (port.patch_peer())
                .and_then(|name| actual.ports.values().find(|port| port.spec.name == name))
            else {
                continue;
            };
            let (from, to) = (&port.spec.name, &peer.spec.name);
            let bridge = &peer.spec.bridge;
            let _ = writeln!(
                text,
                "\nPatch port {from} leads to {to} of bridge {bridge}:\n"
            );
            match depth {
                patch::MAX_DEPTH => {
                    let _ = writeln!(text, "Too many patch ports: the packet is dropped.");
                }
                depth => text += &self.trace_from(actual, bridge, &key, generate, depth + 1),
            }
        }
        text
    }

    /// What was done with a packet, and what the rules say of it.
    fn tell(&self, actual: &Actual, watch: &Watch, caught: &Caught) -> String {
        let Some(port) = actual.ports.get(&watch.port) else {
            return "the port is gone\n".to_owned();
        };
        let bridge = port.spec.bridge.clone();
        let names = Names::of(actual, &bridge);
        let id = actual.bridges.get(&bridge).map_or(0, |bridge| bridge.id);
        let mut head = [0; 128];
        head[..caught.head.len()].copy_from_slice(&caught.head);
        let mut key = PacketKey::default();
        let in_port = port.flow_number();
        extract(
            &head,
            caught.head.len(),
            caught.frame_len,
            id,
            in_port,
            &mut key,
        );

        let hex: String = (caught.head.iter())
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let cut = if caught.head.len() < caught.frame_len {
            "…"
        } else {
            ""
        };
        let core = self.pmds.get(caught.pmd).map_or(0, |pmd| pmd.core);
        let found = match caught.found_by {
            FoundBy::CatchAll => "the megaflow of all the bridge's packets",
            FoundBy::Emc => "a megaflow known to the exact-match cache",
            FoundBy::Mask => "a megaflow found by its mask",
            FoundBy::Upcall => {
                "no megaflow: the packet was translated, and one installed if there was room"
            }
            FoundBy::Lost => "no megaflow, and no time to translate the packet",
            FoundBy::NotLookedFor => "looked for none: the port's guard did not let the packet in",
        };
        let mut text = format!(
            "Packet: {} bytes from {}: {hex}{cut}\n\nThe poll-mode core on CPU {core} had {found}.\n",
            caught.frame_len,
            tell_port(actual, watch.port),
        );
        if let Some(megaflow) = self.megaflow(caught, &key, &names) {
            let _ = writeln!(text, "{megaflow}");
        }
        let ports: Vec<String> = (caught.ports.iter())
            .map(|port| tell_port(actual, *port))
            .collect();
        let _ = match caught.dropped {
            Some(reason) => writeln!(text, "Dropped: {}:{}", reason.name(), reason.explain()),
            None if ports.is_empty() => writeln!(text, "Sent to no port."),
            None => writeln!(text, "Sent to: {}", ports.join(", ")),
        };
        let traced = self.trace_from(actual, &bridge, &key, false, 0);
        let _ = write!(text, "\nWhat the rules say of it now:\n\n{traced}");
        text
    }

    /// The megaflow that a caught packet belonged to, if it still lives.
    fn megaflow(&self, caught: &Caught, key: &PacketKey, names: &Names) -> Option<String> {
        let table = &self.pmds.get(caught.pmd)?.cache;
        let record = table.parts().read(caught.entry? as usize)?;
        if !record.key.matches(key, &record.mask) {
            return None;
        }
        let now = (tsc() >> crate::cache::USED_SHIFT) as u16;
        let idle = u64::from(now.wrapping_sub(record.meta.used)) << crate::cache::USED_SHIFT;
        let counts = MegaflowCounts {
            packets: record.packets,
            bytes: record.bytes,
            idle_ms: (record.packets > 0).then(|| idle * 1000 / self.eal.tsc_hz().max(1)),
        };
        let steps = Steps::of(&record.program);
        Some(print_megaflow(
            &record.key,
            &record.mask,
            counts,
            steps,
            names,
        ))
    }
}
