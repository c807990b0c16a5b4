//! What NORMAL and FLOOD come to on a bridge at this moment.

use std::collections::BTreeMap;

use ringway_flow::key::{PORT_LOCAL, PacketKey};
use ringway_flow::program::DpAction;
use ringway_flow::trace::{BridgeNow, NormalNow};

use crate::actual::{Actual, Bridge};
use crate::drop_reason::DropReason;
use crate::fdb::Fdb;
use crate::lookup::{self, Destination};
use crate::parse::{Key, Station};
use crate::vlan::{PortVlans, Tags};

/// A bridge's stations and ports.
pub struct Now<'a> {
    pub fdb: &'a Fdb,
    /// Ports that take frames.
    pub members: Vec<u32>,
    /// See [`crate::snapshot::BridgeView::local`].
    pub local: u32,
    /// Of ports that are not simply trunks of all VLANs.
    pub vlans: BTreeMap<u32, PortVlans>,
}

impl<'a> Now<'a> {
    pub fn of(actual: &Actual, bridge: &'a Bridge) -> Self {
        let name = &bridge.spec.name;
        let ports = || {
            actual
                .ports
                .values()
                .filter(|port| port.spec.bridge == *name)
        };
        let members = ports().filter(|port| port.takes_frames());
        let vlans = ports().filter_map(|port| Some((port.number, PortVlans::of(&port.spec.vlan)?)));
        Self {
            fdb: &bridge.fdb,
            members: members.map(|port| port.number).collect(),
            local: actual.local(name),
            vlans: vlans.collect(),
        }
    }

    /// Learns from a packet, as NORMAL does.
    pub fn learn(&self, packet: &PacketKey, second: u32) {
        let ingress = self.number((packet.0[0] >> 32) as u16);
        let source = Key::of_flow(packet).source;
        let Some((_, inside)) = self.inside(packet) else {
            return;
        };
        if source.in_vlan(0) != Station::default() && !source.is_group() {
            let vlan = inside.map_or(source.vlan(), |inside| inside.vlan());
            self.fdb.learn(source.in_vlan(vlan), ingress, second);
        }
    }

    /// The number of the port that flows call so.
    fn number(&self, port: u16) -> u32 {
        match port {
            PORT_LOCAL => self.local,
            port => port.into(),
        }
    }

    /// What flows call the port with this number.
    fn flow_port(&self, number: u32) -> u16 {
        if number == self.local {
            PORT_LOCAL
        } else {
            number as u16
        }
    }

    fn vlans(&self, port: u32) -> &PortVlans {
        const ALL: &PortVlans = &PortVlans::ALL;
        self.vlans.get(&port).unwrap_or(ALL)
    }

    /// A packet's tags and, on a bridge with VLANs, those inside the bridge.
    /// `None`: it may not come in.
    fn inside(&self, packet: &PacketKey) -> Option<(Tags, Option<Tags>)> {
        let frame = Tags::of_key(packet);
        if self.vlans.is_empty() {
            return Some((frame, None));
        }
        let ingress = self.vlans(self.number((packet.0[0] >> 32) as u16));
        let inside = ingress.admits(&frame).then(|| ingress.inside(&frame));
        inside.map(|inside| (frame, Some(inside)))
    }

    /// NORMAL to some ports on a bridge with VLANs.
    fn tagged(&self, learned: bool, ports: &[u32], frame: &Tags, inside: &Tags) -> NormalNow {
        let (mut steps, mut tags) = (Vec::new(), *frame);
        for port in ports.iter().copied() {
            let vlans = self.vlans(port);
            if vlans.carries(inside) {
                let outside = vlans.outside(inside, frame);
                steps.extend(tags.changes(&outside));
                steps.push(DpAction::Output(self.flow_port(port)));
                tags = outside;
            }
        }
        if steps.is_empty() {
            return drop(DropReason::VlanNotCarried);
        }
        NormalNow::Tagged {
            learned,
            steps,
            restore: tags.changes(frame).collect(),
        }
    }

    fn others(&self, ingress: u32) -> Vec<u32> {
        let others = self.members.iter().copied();
        others.filter(|port| *port != ingress).collect()
    }
}

fn drop(reason: DropReason) -> NormalNow {
    NormalNow::Drop(reason.explain().trim().to_owned())
}

impl BridgeNow for Now<'_> {
    fn normal(&self, packet: &PacketKey) -> NormalNow {
        let ingress = self.number((packet.0[0] >> 32) as u16);
        let Some((frame, inside)) = self.inside(packet) else {
            return NormalNow::Drop("disallowed VLAN VID for this input port".to_owned());
        };
        let mut destination = Key::of_flow(packet).destination;
        if let Some(inside) = &inside {
            destination = destination.in_vlan(inside.vlan());
        }
        match (lookup::normal(destination, self.fdb, ingress), inside) {
            (Destination::Drop(reason), _) => drop(reason),
            (Destination::Port(port), None) => NormalNow::Learned(self.flow_port(port)),
            (Destination::Flood, None) => NormalNow::Flood(self.flood(self.flow_port(ingress))),
            (Destination::Port(port), Some(inside)) => self.tagged(true, &[port], &frame, &inside),
            (Destination::Flood, Some(inside)) => {
                self.tagged(false, &self.others(ingress), &frame, &inside)
            }
        }
    }

    fn flood(&self, in_port: u16) -> Vec<u16> {
        let others = self.others(self.number(in_port));
        others
            .into_iter()
            .map(|port| self.flow_port(port))
            .collect()
    }
}
