//! Changes of flows, groups and meters, and their expiry.

use ringway_datapath::flows::FlowsChanged;
use ringway_datapath::spec::BridgeSpec;
use ringway_flow::rule::FlowSpec;
use ringway_proto::v1 as pb;

use super::{ChangeError, Control, lock, not_found};
use crate::flow_text::{self, Fault, Names, Read};
use crate::flows::{FlowsError, is_same, spec_of};
use crate::reconcile::{Note, Now};
use crate::switch::Switch;

/// The number by which flows know a bridge's own interface.
const LOCAL: u32 = 65_534;

/// What a change of flows did.
#[derive(Debug, Default)]
pub struct Modified {
    /// Numbers of flows.
    pub changed: FlowsChanged,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// Changes as they are asked for.
#[derive(Debug)]
pub enum Asked {
    /// One after another.
    Changes(Vec<pb::FlowChange>),
    /// A file of them.
    File(pb::FlowFileKind, String),
}

/// A side of `diff-flows`.
#[derive(Debug)]
pub enum Side {
    /// The flows that the datapath has for a bridge.
    Bridge(String),
    /// A file, whose port names are those of the other side's bridge.
    File(String),
}

impl From<Fault> for ChangeError {
    fn from(fault: Fault) -> Self {
        let Fault { why, line, at } = fault;
        ChangeError::Text { why, line, at }
    }
}

impl<S: Switch> Control<S> {
    /// The names of a bridge's ports, desired ones too; of every bridge's if
    /// none is given.
    pub fn port_names(&self, bridge: Option<&str>) -> Names {
        let desired = lock(&self.book).desired.clone();
        let of_bridge = |on: &str| bridge.is_none_or(|bridge| bridge == on);
        let ports = desired.ports.iter().filter(|port| of_bridge(&port.bridge));
        let by_flows = |local: bool, number: u32| match local {
            true => LOCAL,
            false => number,
        };
        let wanted = ports.filter_map(|port| {
            let number = by_flows(port.is_local(), port.number?);
            Some((port.name.clone(), number))
        });
        let there = self.switch.ports().into_iter();
        let there = there
            .filter(|port| of_bridge(&port.bridge))
            .map(|port| (port.name, by_flows(port.local, port.number)));
        Names::of(there.chain(wanted))
    }

    /// The names of the datapath's ports by their numbers there, which bridges'
    /// own interfaces have as well.
    pub fn datapath_names(&self) -> Names {
        let ports = self.switch.port_places().into_iter();
        Names::of(ports.map(|port| (port.name, port.number)))
    }

    /// Makes changes of a bridge's flows, groups and meters: all, or none.
    pub fn modify_flows(&self, bridge: &str, asked: Asked) -> Result<Modified, ChangeError> {
        let names = self.names_of(bridge)?;
        let Read { value, warnings } = match &asked {
            Asked::Changes(changes) => flow_text::read_changes(changes, &names)?,
            Asked::File(kind, text) => flow_text::read_file(*kind, text, &names)?,
        };
        let changed = self.change(bridge, |flows, unix_ms| {
            flows.change(&*self.switch, bridge, &value, unix_ms)
        });
        let changed = changed.map_err(|error| match (error, &asked) {
            (ChangeError::Refused { line, why }, Asked::File(_, text)) => ChangeError::Refused {
                line: line.and_then(|nth| flow_text::line_number(text, nth)),
                why,
            },
            (ChangeError::Refused { why, .. }, Asked::Changes(changes)) if changes.len() == 1 => {
                ChangeError::Refused { line: None, why }
            }
            (error, _) => error,
        })?;
        Ok(Modified { changed, warnings })
    }

    /// Makes a bridge's flows exactly those of a file.
    pub fn replace_flows(&self, bridge: &str, text: &str) -> Result<Modified, ChangeError> {
        let names = self.names_of(bridge)?;
        let Read { value, warnings } = flow_text::read_flows(text, &names)?;
        let changed = self.change(bridge, |flows, unix_ms| {
            flows.replace(&*self.switch, bridge, value, unix_ms)
        });
        // What is refused is no line of the file but a step on the way.
        let changed = changed.map_err(|error| match error {
            ChangeError::Refused { why, .. } => ChangeError::Refused { line: None, why },
            error => error,
        })?;
        Ok(Modified { changed, warnings })
    }

    /// The flows that one side has and the other has not, or has otherwise, in
    /// the order of the tables.
    pub fn diff_flows(
        &self,
        first: &Side,
        second: &Side,
    ) -> Result<Vec<pb::FlowDifference>, ChangeError> {
        let names = match (first, second) {
            (Side::Bridge(bridge), _) | (_, Side::Bridge(bridge)) => self.names_of(bridge)?,
            _ => self.port_names(None),
        };
        let (first, second) = (self.side(first, &names)?, self.side(second, &names)?);
        let (mut first, mut second) = (first.into_iter().peekable(), second.into_iter().peekable());
        let mut differences = Vec::new();
        let mut differs = |second, spec: &FlowSpec| {
            let text = flow_text::diff_line(spec);
            differences.push(pb::FlowDifference { second, text });
        };
        loop {
            use std::cmp::Ordering::{Equal, Greater, Less};
            let order = match (first.peek(), second.peek()) {
                (None, None) => return Ok(differences),
                (Some(_), None) => Less,
                (None, Some(_)) => Greater,
                (Some(one), Some(other)) => key(one).cmp(&key(other)),
            };
            let (one, other) = (
                first.next_if(|_| order != Greater),
                second.next_if(|_| order != Less),
            );
            let same = order == Equal
                && matches!((&one, &other), (Some(one), Some(other)) if is_same(one, other));
            if !same {
                one.iter().for_each(|spec| differs(false, spec));
                other.iter().for_each(|spec| differs(true, spec));
            }
        }
    }

    fn side(&self, side: &Side, names: &Names) -> Result<Vec<FlowSpec>, ChangeError> {
        let mut specs: Vec<FlowSpec> = match side {
            Side::File(text) => {
                let mut specs = flow_text::read_flows(text, names)?.value;
                // Of the same flow twice the later counts, as if both were added.
                specs.reverse();
                specs
            }
            Side::Bridge(bridge) => {
                self.names_of(bridge)?;
                let rules = self.switch.rules(bridge, &FlowSpec::default());
                let rules = rules.map_err(|_| self.bridge_not_up(bridge))?;
                rules.iter().map(|status| spec_of(&status.rule)).collect()
            }
        };
        specs
            .iter_mut()
            .for_each(|spec| spec.table = Some(spec.table.unwrap_or(0)));
        specs.sort_by_key(key);
        specs.dedup_by(|later, kept| key(later) == key(kept));
        Ok(specs)
    }

    /// Takes away the flows whose time has come.
    pub fn expire_flows(&self) {
        let _changing = lock(&self.changing);
        if self.flows.expire(&*self.switch, Now::read().unix_ms()) > 0 {
            self.changed.send_replace(());
        }
    }

    /// Rewrites the flow journal if there is much more history than content in
    /// it.
    pub fn compact_flows(&self, at_start: bool) {
        let _changing = lock(&self.changing);
        let desired = self.desired();
        let is_desired = |name: &str| desired.bridge(name).is_some();
        let now = Now::read().unix_ms();
        if let Err(error) = self
            .flows
            .compact(&*self.switch, &is_desired, at_start, now)
        {
            tracing::warn!("{error}");
        }
    }

    /// The names of a desired bridge's ports.
    pub fn names_of(&self, bridge: &str) -> Result<Names, ChangeError> {
        if lock(&self.book).desired.bridge(bridge).is_none() {
            return Err(not_found("bridge", bridge));
        }
        Ok(self.port_names(Some(bridge)))
    }

    /// The names of the ports of a port's bridge.
    pub fn names_of_port(&self, port: &str) -> Result<Names, ChangeError> {
        let bridge = lock(&self.book)
            .desired
            .port(port)
            .map(|port| port.bridge.clone());
        let bridge = bridge.ok_or_else(|| not_found("port", port))?;
        Ok(self.port_names(Some(&bridge)))
    }

    fn change(
        &self,
        bridge: &str,
        work: impl FnOnce(&crate::flows::Flows, u64) -> Result<FlowsChanged, FlowsError>,
    ) -> Result<FlowsChanged, ChangeError> {
        let _changing = lock(&self.changing);
        let changed = work(&self.flows, Now::read().unix_ms());
        let changed = changed.map_err(|error| match error {
            FlowsError::NoBridge(bridge) => self.bridge_not_up(&bridge),
            FlowsError::Refused { index, why } => ChangeError::Refused {
                line: Some(index + 1),
                why,
            },
            FlowsError::Journal(error) => error.into(),
        })?;
        tracing::debug!(bridge, ?changed, "flows changed");
        self.changed.send_replace(());
        Ok(changed)
    }

    /// The flows with which a bridge begins, in place of what it has, as Open
    /// vSwitch does it when the fail mode of a bridge without controllers
    /// changes. The caller holds `changing`.
    pub(super) fn begin_flows_anew(
        &self,
        bridge: &BridgeSpec,
        unix_ms: u64,
    ) -> Result<(), ChangeError> {
        let begun = self.flows.begin_anew(&*self.switch, bridge, unix_ms);
        begun.map_err(|error| match error {
            FlowsError::Journal(error) => error.into(),
            error => ChangeError::Refused {
                line: None,
                why: format!(
                    "bridge {}: its flows do not begin anew: {error}",
                    bridge.name
                ),
            },
        })?;
        self.changed.send_replace(());
        Ok(())
    }

    fn bridge_not_up(&self, bridge: &str) -> ChangeError {
        let book = lock(&self.book);
        if book.desired.bridge(bridge).is_none() {
            return not_found("bridge", bridge);
        }
        let of_bridge = book.notes.bridges.get(bridge).map_or("", Note::reason);
        let of_flows = book.notes.flows.get(bridge).map_or("", Note::reason);
        let reason = [of_bridge, of_flows, "the datapath does not have it"];
        let reason = reason.into_iter().find(|reason| !reason.is_empty());
        ChangeError::BridgeNotUp {
            bridge: bridge.to_owned(),
            reason: reason.unwrap_or_default().to_owned(),
        }
    }
}

/// What a flow is known by, in the order in which flows are shown: by table,
/// the highest priority first.
fn key(spec: &FlowSpec) -> (u8, std::cmp::Reverse<u16>, [u64; 24], [u64; 24]) {
    let (key, mask) = (spec.matching.key.0, spec.matching.mask.0);
    let priority = std::cmp::Reverse(spec.priority);
    (spec.table.unwrap_or(0), priority, key, mask)
}
