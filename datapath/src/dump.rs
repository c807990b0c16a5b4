//! Megaflows as `dpctl dump-flows` shows them: conversations instead of one
//! megaflow for all, port numbers instead of NORMAL, FLOOD and LOCAL.

use std::collections::HashMap;
use std::time::Duration;

use ringway_flow::extract::is_tpid;
use ringway_flow::key::{PORT_LOCAL, PacketKey, VLAN_PRESENT};
use ringway_flow::program::{DpAction, DropCause, Program, Steps};

use crate::actual::{Actual, Bridge, Inner};
use crate::cache::{ConversationRecord, MegaflowRecord, name_station};
use crate::conversation::Conversation;
use crate::flows::MegaflowStatus;
use crate::lookup::{Destination, normal};
use crate::parse::Station;
use crate::vlan::{PortVlans, Tags};

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
    /// By port; who is not named carries all. Empty if nobody is.
    vlans: HashMap<u16, PortVlans>,
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
        let vlans =
            ports().filter_map(|port| Some((port.number as u16, PortVlans::of(&port.spec.vlan)?)));
        Self {
            name,
            bridge,
            local: local.map(|port| port.number as u16),
            members: members.map(|port| port.number as u16).collect(),
            vlans: vlans.collect(),
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
                DpAction::Normal | DpAction::Flood => match self.outputs(step, &known) {
                    Some(outputs) => steps.extend(outputs),
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

    /// What NORMAL or FLOOD does with a packet; `None`: not enough is known of it.
    fn outputs(&self, step: DpAction, known: &Known) -> Option<Vec<DpAction>> {
        let Known { key, mask } = known;
        if mask.0[0] & PORT != PORT {
            return None;
        }
        let ingress = self.number(known.port());
        if step == DpAction::Flood {
            let others = self.others(ingress);
            return Some(others.map(DpAction::Output).collect());
        }
        if !name_station(key.0[1], mask.0[1]) {
            return None;
        }
        let all = PortVlans::ALL;
        let vlans = |port: u16| self.vlans.get(&port).unwrap_or(&all);
        let (frame, inside) = match self.vlans.is_empty() {
            true => (Tags::default(), Tags::default()),
            false => {
                let frame = known.tags()?;
                if !vlans(ingress).admits(&frame) {
                    return Some(Vec::new());
                }
                (frame, vlans(ingress).inside(&frame))
            }
        };
        let vlan = match self.vlans.is_empty() {
            true => key.0[1] & 0xfff,
            false => inside.vlan().into(),
        };
        let station = Station::from_bits(key.0[1] & ADDRESS | vlan);
        let ports = match normal(station, &self.bridge.fdb, ingress.into()) {
            Destination::Port(port) => vec![port as u16],
            Destination::Flood => self.others(ingress).collect(),
            Destination::Drop(_) => Vec::new(),
        };
        let (mut steps, mut tags) = (Vec::new(), frame);
        for port in ports
            .into_iter()
            .filter(|port| vlans(*port).carries(&inside))
        {
            let outside = vlans(port).outside(&inside, &frame);
            steps.extend(tags.changes(&outside));
            steps.push(DpAction::Output(port));
            tags = outside;
        }
        Some(steps)
    }

    /// Ports that take frames, but for one.
    fn others(&self, ingress: u16) -> impl Iterator<Item = u16> {
        let members = self.members.iter().copied();
        members.filter(move |port| *port != ingress)
    }
}

impl Known {
    /// As flows know it.
    fn port(&self) -> u16 {
        (self.key.0[0] >> 32) as u16
    }

    /// The packet's tags; `None`: it has two, and the second is not known. Priorities
    /// are not known either: they are shown as 0.
    fn tags(&self) -> Option<Tags> {
        let mut head = [0; 18];
        let (key, mask) = (&self.key.0, &self.mask.0);
        if key[1] & u64::from(VLAN_PRESENT) != 0 {
            let dl_type = (key[0] >> 16) as u16;
            let second = mask[2] & u64::from(VLAN_PRESENT) != 0 || is_tpid(dl_type);
            if second || mask[5] >> 48 != 0xffff {
                return None;
            }
            head[12..14].copy_from_slice(&((key[5] >> 48) as u16).to_be_bytes());
            head[14..16].copy_from_slice(&((key[1] & 0xfff) as u16).to_be_bytes());
        }
        Tags::read(&head)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{hold, read_all};
    use crate::rig::{Rig, standalone};
    use crate::spec::{BridgeSpec, VlanSpec};
    use ringway_flow::datapath_text::{print_megaflow_key, print_steps};
    use ringway_flow::text::NoNames;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// What is shown of a rig, as text; its own interface is port 1000.
    fn shown(rig: &mut Rig) -> Vec<String> {
        shown_with(rig, &[])
    }

    /// The same if ports have these VLANs.
    fn shown_with(rig: &mut Rig, vlans: &[(u16, VlanSpec)]) -> Vec<String> {
        let bridge = Bridge {
            spec: BridgeSpec::new("br0"),
            fdb: Arc::clone(&rig.bridge().fdb),
            id: 1,
            tables: std::mem::replace(&mut rig.tables, {
                ringway_flow::pipeline::FlowTables::new(Arc::default())
            }),
            stats: Arc::clone(&rig.bridge().stats),
            meters: BTreeMap::new(),
        };
        let name = "br0".to_owned();
        let view = View {
            name: &name,
            bridge: &bridge,
            local: Some(1000),
            members: vec![1, 2, 3, 1000],
            vlans: (vlans.iter())
                .filter_map(|(port, spec)| Some((*port, PortVlans::of(spec)?)))
                .collect(),
        };
        let mut lines = Vec::new();
        let held = hold(std::iter::once(&*rig.table));
        read_all(&rig.table, rig.now(), |record| {
            view.show(record, &mut |status, _| {
                let MegaflowStatus {
                    key,
                    mask,
                    program,
                    packets,
                    bytes,
                    ..
                } = status;
                let matching = print_megaflow_key(&key, &mask, &NoNames);
                let actions = print_steps(Steps::of(&program), &key, &NoNames);
                lines.push(format!(
                    "{matching}, packets:{packets}, bytes:{bytes}, actions:{actions}"
                ));
            });
        });
        drop(held);
        rig.tables = bridge.tables;
        lines
    }

    fn frame(to: u8, from: u8, rest: &[u8]) -> Vec<u8> {
        let mac = |station| match station {
            0xff => [0xff; 6],
            0xfe => [1, 0x80, 0xc2, 0, 0, 0xe],
            station => [0x52, 0x54, 0, 0, 0, station],
        };
        let mut frame = [&mac(to)[..], &mac(from), rest].concat();
        frame.resize(98, 0);
        frame
    }

    fn ipv4(fragment: u16) -> Vec<u8> {
        let mut packet = vec![0x08, 0, 0x45, 0, 0, 84, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet
    }

    /// Open vSwitch 3.1 (dummy datapath) prints the same of the same packets,
    /// but for `pcp=3/0x0` behind a VLAN and what its counts are.
    #[test]
    fn a_learning_bridge_shows_who_talks_to_whom() {
        let mut rig = Rig::new(standalone(), &[1, 2, 3, 1000]);
        let tagged = |tags: &[u8]| [tags, &ipv4(0)].concat();
        let ipv6 = [&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 44, 17, 64][..], &[0; 36]].concat();
        let arp = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
        rig.burst(1, &[frame(0xff, 1, &arp)]);
        rig.burst(2, &[frame(1, 2, &arp)]);
        for _ in 0..5 {
            rig.burst(1, &[frame(2, 1, &ipv4(0)), frame(2, 1, &ipv4(0))]);
        }
        rig.burst(
            1,
            &[
                frame(1, 1, &ipv4(0)),
                frame(9, 1, &ipv6),
                frame(2, 1, &tagged(&[0x81, 0, 0x60, 7])),
                frame(2, 1, &ipv4(0x2000)),
                frame(2, 1, &ipv4(0x2010)),
                frame(0xfe, 1, &[0x88, 0xcc]),
                frame(2, 1, &tagged(&[0x81, 0, 0x60, 0])),
                frame(2, 1, &tagged(&[0x88, 0xa8, 0x60, 7, 0x81, 0, 0, 8])),
            ],
        );
        let begin = "recirc_id(0),in_port(1),packet_type(ns=0,id=0),eth(src=52:54:00:00:00:01,dst=";
        let ours = |to: &str, rest: &str| format!("{begin}{to}),{rest}");
        let one = |to: &str, what: &str, actions: &str| {
            ours(
                to,
                &format!("{what}, packets:1, bytes:98, actions:{actions}"),
            )
        };
        let (first, second) = ("52:54:00:00:00:01", "52:54:00:00:00:02");
        let mut expected = vec![
            "recirc_id(0),in_port(2),packet_type(ns=0,id=0),eth(src=52:54:00:00:00:02,\
             dst=52:54:00:00:00:01),eth_type(0x0806), packets:1, bytes:98, actions:1"
                .to_owned(),
            ours(
                second,
                "eth_type(0x0800),ipv4(frag=no), packets:10, bytes:980, actions:2",
            ),
            one("ff:ff:ff:ff:ff:ff", "eth_type(0x0806)", "2,3,1000"),
            one(first, "eth_type(0x0800),ipv4(frag=no)", "drop"),
            one(
                "52:54:00:00:00:09",
                "eth_type(0x86dd),ipv6(frag=no)",
                "2,3,1000",
            ),
            one(
                second,
                "eth_type(0x8100),vlan(vid=7),encap(eth_type(0x0800),ipv4(frag=no))",
                "2,3,1000",
            ),
            one(second, "eth_type(0x0800),ipv4(frag=first)", "2"),
            one(second, "eth_type(0x0800),ipv4(frag=later)", "2"),
            one("01:80:c2:00:00:0e", "eth_type(0x88cc)", "drop"),
            one(
                second,
                "eth_type(0x8100),vlan(vid=0),encap(eth_type(0x0800),ipv4(frag=no))",
                "2",
            ),
            one(
                second,
                "eth_type(0x88a8),vlan(vid=7),encap(eth_type(0x8100))",
                "2,3,1000",
            ),
        ];
        let mut lines = shown(&mut rig);
        lines.sort();
        expected.sort();
        assert_eq!(lines, expected);
        // The station moves: from now on it is shown there.
        rig.burst(3, &[frame(1, 2, &arp)]);
        let moved = shown(&mut rig);
        let line = moved.iter().find(|line| line.contains("packets:10,"));
        assert!(
            line.is_some_and(|line| line.ends_with("actions:3")),
            "{line:?}"
        );
    }

    #[test]
    fn ports_stand_for_local_and_for_what_is_known() {
        use ringway_flow::rule::{Change, FlowCommand};
        use ringway_flow::text::parse_flow;
        let rules = [
            "priority=9,in_port=LOCAL,actions=output:2",
            "priority=8,in_port=2,actions=LOCAL",
            "priority=7,in_port=1,dl_dst=52:54:00:00:00:02,vlan_tci=0,actions=mod_vlan_vid:5,NORMAL",
            "priority=6,in_port=1,actions=strip_vlan,FLOOD",
            "priority=5,in_port=3,actions=mod_dl_src:52:54:00:00:00:03,NORMAL",
        ];
        let change = |text: &&str| {
            let flow = parse_flow(text, FlowCommand::Add, &NoNames).expect("a flow");
            Change::Flow(FlowCommand::Add, Box::new(flow.value))
        };
        let mut rig = Rig::new(rules.iter().map(change).collect(), &[1, 2, 3]);
        let arp = [0x08, 0x06];
        rig.burst(0xfffe, &[frame(9, 3, &arp)]);
        rig.burst(2, &[frame(9, 3, &arp)]);
        rig.burst(1, &[frame(2, 1, &arp)]);
        rig.burst(1, &[frame(9, 1, &arp)]);
        rig.burst(3, &[frame(9, 1, &arp)]);
        let lines = shown(&mut rig);
        for (begin, actions) in [
            ("recirc_id(0),in_port(1000),", "2"),
            ("recirc_id(0),in_port(2),", "1000"),
            (
                "eth(dst=52:54:00:00:00:02)",
                "push_vlan(vid=5,pcp=0),2,3,1000",
            ),
            ("recirc_id(0),in_port(1),", "2,3,1000"),
            (
                "recirc_id(0),in_port(3),",
                "set(eth(src=52:54:00:00:00:03)),normal",
            ),
        ] {
            let end = format!("actions:{actions}");
            let found = lines
                .iter()
                .any(|line| line.contains(begin) && line.ends_with(&end));
            assert!(found, "no {begin} with {end} in {lines:#?}");
        }
    }

    #[test]
    fn tags_are_shown_as_ports_vlans_change_them() {
        let mut rig = Rig::new(standalone(), &[1, 2, 3, 1000]);
        let access = |tag| VlanSpec {
            tag: Some(tag),
            ..VlanSpec::default()
        };
        let vlans = [(1, access(7)), (2, access(7)), (3, access(8))];
        let arp = [0x08, 0x06];
        rig.burst(1, &[frame(0xff, 1, &arp)]);
        rig.burst(1000, &[frame(0xff, 4, &[0x81, 0, 0, 8, 0x08, 0x06])]);
        rig.burst(3, &[frame(0xff, 3, &[0x81, 0, 0, 8, 0x08, 0x06])]);
        let lines = shown_with(&mut rig, &vlans);
        for (from, actions) in [
            ("in_port(1)", "2,push_vlan(vid=7,pcp=0),1000"),
            ("in_port(1000)", "pop_vlan,3"),
            ("in_port(3)", "drop"),
        ] {
            let end = format!("actions:{actions}");
            let found = (lines.iter()).any(|line| line.contains(from) && line.ends_with(&end));
            assert!(found, "no {from} with {end} in {lines:#?}");
        }
    }
}
