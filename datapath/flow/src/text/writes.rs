//! Actions that write fields: `set_field`, `load`, `move`; and whether the packet
//! has the field and an action may write it.

use super::actions::Reader;
use super::check::needs;
use super::names::{field, only_subfield, subfield, unknown_field};
use super::scan::{Item, Scan, fault, integer, number};
use super::values::{full_mask, masked};
use crate::action::Action;
use crate::field::{Field, FieldInfo, Prereq, Subfield};
use crate::key::VLAN_PRESENT;

impl<'t> Reader<'_, 't> {
    /// The action writes what the packet may not have; OpenFlow 1.0 lets it pass.
    pub(super) fn loosely(&mut self, at: &'t str, prereq: Prereq) {
        if self
            .packet
            .as_ref()
            .is_some_and(|packet| !packet.has(prereq))
        {
            self.loose.get_or_insert((at, prereq));
        }
    }

    /// The same, of an action that Open vSwitch makes a `set_field` in some places:
    /// there the packet must have the field.
    pub(super) fn as_set_field(
        &mut self,
        at: &'t str,
        field: Field,
        in_place: bool,
    ) -> Scan<'t, ()> {
        let info = field.info();
        if in_place {
            return self.strictly(at, info, info.prereq);
        }
        self.loosely(at, info.prereq);
        Ok(())
    }

    /// The packet must have a field.
    pub(super) fn strictly(&self, at: &'t str, info: &FieldInfo, prereq: Prereq) -> Scan<'t, ()> {
        match &self.packet {
            Some(packet) if !packet.has(prereq) => fault!(
                at,
                "the match does not allow {}: it needs {} \
                 (Open vSwitch: OFPBAC_MATCH_INCONSISTENT)",
                info.name,
                needs(prereq)
            ),
            _ => Ok(()),
        }
    }

    fn writable(&self, at: &'t str, field: Field) -> Scan<'t, ()> {
        match field.info() {
            info if info.writable => Ok(()),
            info if matches!(info.prereq, Prereq::Sctp) => {
                fault!(
                    at,
                    "{} cannot be written: its checksum covers the whole packet",
                    info.name
                )
            }
            info => fault!(at, "{} is read-only", info.name),
        }
    }

    pub(super) fn set_field(&mut self, item: Item<'t>) -> Scan<'t, Action> {
        let (value, target) = arrow(item)?;
        match target {
            // OpenFlow 1.0 calls the tag's parts so; writing them adds a tag.
            "dl_vlan" => {
                let vid = number(value, "a VLAN", 0xfff)?;
                self.know(|packet| packet.set_tag(true));
                return Ok(Action::ModVlanVid(vid as u16));
            }
            "dl_vlan_pcp" => {
                let pcp = number(value, "a VLAN's priority", 7)?;
                self.know(|packet| packet.set_tag(true));
                return Ok(Action::ModVlanPcp(pcp as u8));
            }
            _ => {}
        }
        if target.contains('[') {
            let bits = only_subfield(target)?;
            let number = fitting(value, bits)?;
            return self.set(
                target,
                bits.field,
                number << bits.offset,
                bits.ones(),
                false,
            );
        }
        let Some(field) = field(target) else {
            return Err(unknown_field(target, "field"));
        };
        self.writable(target, field)?;
        let (mut number, mask) = masked(field, value, self.ports)?;
        if mask == 0 {
            return fault!(value, "this sets no bit of {}", field.info().name);
        }
        if field == Field::VlanVid && mask == field.ones() {
            number |= u128::from(VLAN_PRESENT);
        }
        self.set(target, field, number, mask, false)
    }

    pub(super) fn load(&mut self, item: Item<'t>, out: &mut Vec<Action>) -> Scan<'t, ()> {
        let (value, target) = arrow(item)?;
        let bits = only_subfield(target)?;
        let number = fitting(value, bits)? << bits.offset;
        let mask = bits.ones() & full_mask(bits.field);
        // An OpenFlow load writes at most 64 bits.
        for from in [bits.offset, bits.offset.saturating_add(64)] {
            let part = u128::from(u64::MAX).checked_shl(from.into()).unwrap_or(0) & mask;
            if part != 0 {
                out.push(self.set(target, bits.field, number & part, part, true)?);
            }
        }
        Ok(())
    }

    /// A write of a field's bits, checked.
    pub(super) fn set(
        &mut self,
        at: &'t str,
        field: Field,
        value: u128,
        mask: u128,
        load: bool,
    ) -> Scan<'t, Action> {
        self.writable(at, field)?;
        let info = field.info();
        let prereq = match field {
            Field::VlanVid => Prereq::Vlan,
            _ => info.prereq,
        };
        self.strictly(at, info, prereq)?;
        let present = u128::from(VLAN_PRESENT);
        if field == Field::VlanTci && mask & present != 0 {
            self.know(|packet| packet.set_tag(value & present != 0));
        }
        Ok(Action::SetField {
            field,
            value: value & mask,
            mask,
            load,
        })
    }

    pub(super) fn copy(&self, item: Item<'t>) -> Scan<'t, Action> {
        let (from, rest) = subfield(item.value)?;
        let Some(target) = rest.strip_prefix("->") else {
            return fault!(item.value, "move is written move:FROM->TO");
        };
        let to = only_subfield(target)?;
        if from.width != to.width {
            return fault!(
                item.value,
                "the source is {} bits wide but the destination {}",
                from.width,
                to.width
            );
        }
        let source = &item.value[..item.value.len() - rest.len()];
        self.strictly(source, from.field.info(), from.field.info().prereq)?;
        self.writable(target, to.field)?;
        self.strictly(target, to.field.info(), to.field.info().prereq)?;
        Ok(Action::Move { from, to })
    }
}

/// `VALUE->FIELD`
fn arrow<'t>(item: Item<'t>) -> Scan<'t, (&'t str, &'t str)> {
    match item.value.split_once("->") {
        Some((_, "")) | None => {
            fault!(item.all, "{} is written {0}:VALUE->FIELD", item.key)
        }
        Some(parts) => Ok(parts),
    }
}

/// A number for some bits of a field.
fn fitting(text: &str, bits: Subfield) -> Scan<'_, u128> {
    match integer(text) {
        None => fault!(text, "the value must be a number"),
        Some(number) if number & !(bits.ones() >> bits.offset) != 0 => {
            fault!(text, "the value does not fit into {} bits", bits.width)
        }
        Some(number) => Ok(number),
    }
}
