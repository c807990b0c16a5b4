//! NORMAL in a program, and on bridges with VLANs: where the frame goes, and with
//! which tags.

use ringway_flow::program::DpAction;

use super::Run;
use crate::drop_reason::DropReason;
use crate::lookup::Destination;
use crate::parse::{self, Key};
use crate::vlan::Tags;

impl Run<'_, '_, '_, '_> {
    /// What NORMAL knows of the packet as it is now.
    fn key(&self) -> Key {
        let mut key = Key::default();
        let len = self.packets.head(self.index).len();
        parse::parse(self.packets.head_slot(self.index), len, &mut key);
        key
    }

    pub(super) fn normal(&mut self) {
        if self.learning.bridge.has_vlans {
            return self.normal_in_vlans();
        }
        match self.learning.decide(&self.key()) {
            Destination::Port(port) => self.output(port),
            Destination::Drop(reason) => self.reason = reason,
            Destination::Flood => self.flood(),
        }
    }

    fn normal_in_vlans(&mut self) {
        let (snapshot, bridge) = (self.with.snapshot, self.learning.bridge);
        let vlans = |port: u32| snapshot.vlans(bridge.id, port);
        let ingress = vlans(self.with.ingress);
        let frame = Tags::read(self.packets.head(self.index));
        let Some(frame) = frame.filter(|frame| ingress.admits(frame)) else {
            self.reason = DropReason::VlanNotAllowed;
            return;
        };
        let inside = ingress.inside(&frame);
        let key = self.key().in_vlan(inside.vlan());
        self.forms.clear();
        match self.learning.decide(&key) {
            Destination::Drop(reason) => self.reason = reason,
            Destination::Port(port) if !vlans(port).carries(&inside) => {
                self.reason = DropReason::VlanNotCarried;
            }
            Destination::Port(port) => {
                let outside = vlans(port).outside(&inside, &frame);
                if self.is_last && !self.listed {
                    self.retag(self.index, frame.changes(&outside));
                    self.output(port);
                } else {
                    self.output_as(port, &frame, outside);
                }
            }
            Destination::Flood if self.with.stops_storm() => {
                self.reason = DropReason::StormPoliced;
            }
            Destination::Flood => {
                self.reason = DropReason::NoDestination;
                for port in bridge.members.iter().copied() {
                    if port == self.with.ingress {
                        continue;
                    }
                    if !vlans(port).carries(&inside) {
                        self.reason = DropReason::VlanNotCarried;
                        continue;
                    }
                    self.output_as(port, &frame, vlans(port).outside(&inside, &frame));
                }
            }
        }
    }

    /// To a port with the tags `outside`. The packet itself, which has those of
    /// `frame`, stays what it is.
    fn output_as(&mut self, port: u32, frame: &Tags, outside: Tags) {
        let mut changes = frame.changes(&outside).peekable();
        if changes.peek().is_none() {
            return self.output(port);
        }
        let known = self.forms.iter().find(|(tags, _)| *tags == outside);
        if let Some((_, copy)) = known {
            self.list(port, usize::from(*copy));
            return;
        }
        let Some(copy) = self.copy() else {
            return self.lose(DropReason::NoRoomForCopy);
        };
        self.retag(copy, changes);
        if self.forms.is_full() {
            self.forms.clear();
        }
        self.forms.push((outside, copy as u8));
        self.list(port, copy);
    }

    fn retag(&mut self, index: usize, changes: impl Iterator<Item = DpAction>) {
        for change in changes {
            self.change(index, |head| match change {
                DpAction::PushVlan { tpid, tci } => {
                    head.push_vlan(tpid, tci);
                }
                _ => head.pop_vlan(),
            });
        }
    }
}
