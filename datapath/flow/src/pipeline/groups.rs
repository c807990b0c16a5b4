//! Changes of groups and meters.

use std::collections::HashSet;
use std::sync::Arc;

use super::edit::Edit;
use super::error::{ChangeError, ErrorCode};
use super::index::for_each_action;
use super::{Group, Pipeline};
use crate::action::{Action, GroupSpec, MeterSpec};

/// The highest number of a group (OFPG_MAX); those above are reserved.
const MAX_GROUP: u32 = 0xffff_ff00;

impl Edit<'_> {
    pub(super) fn add_group(&mut self, spec: &GroupSpec) -> Result<(), ChangeError> {
        if self.state.pipeline.group(spec.id).is_some() {
            return Err(ErrorCode::GroupExists.because(format!(
                "group {}: there is one already; modify or delete it",
                spec.id
            )));
        }
        self.put_group(spec, self.now_ms)
    }

    /// Counts start anew, as in Open vSwitch, which makes a new group.
    pub(super) fn modify_group(
        &mut self,
        spec: &GroupSpec,
        may_create: bool,
    ) -> Result<(), ChangeError> {
        let Some(old) = self.state.pipeline.group(spec.id).cloned() else {
            if may_create {
                return self.put_group(spec, self.now_ms);
            }
            return Err(ErrorCode::UnknownGroup.because(format!(
                "group {}: there is none; add it, or say --may-create",
                spec.id
            )));
        };
        self.put_group(spec, old.created_ms)?;
        self.free_group(&old);
        Ok(())
    }

    /// One or all, and the rules that use them.
    pub(super) fn delete_groups(&mut self, id: Option<u32>) {
        let ids = match id {
            Some(id) => vec![id],
            None => self.state.pipeline.groups.keys().copied().collect(),
        };
        for id in ids {
            let Some(group) = self.state.pipeline.groups.remove(&id) else {
                continue;
            };
            self.touched = true;
            self.changed.groups = true;
            self.free_group(&group);
            for rule in self.state.index.of_group(id) {
                self.remove(&rule);
            }
        }
    }

    fn put_group(&mut self, spec: &GroupSpec, created_ms: u64) -> Result<(), ChangeError> {
        if spec.id > MAX_GROUP {
            return Err(ErrorCode::InvalidGroup.because(format!(
                "group {}: the number is reserved; the highest is {MAX_GROUP}",
                spec.id
            )));
        }
        let mut ids = HashSet::new();
        if let Some(twice) = spec.buckets.iter().find(|bucket| !ids.insert(bucket.id)) {
            return Err(ErrorCode::BucketExists.because(format!(
                "group {}: two buckets have bucket_id {}",
                spec.id, twice.id
            )));
        }
        if let Some(through) = self.state.pipeline.leads_back(spec) {
            return Err(ErrorCode::GroupLoop.because(format!(
                "group {}: it would lead back to itself through group {through}",
                spec.id
            )));
        }
        let stats = self.take_cell()?;
        let cells = spec.buckets.iter().map(|_| self.take_cell());
        let bucket_stats = cells.collect::<Result<_, _>>()?;
        let group = Group {
            spec: spec.clone(),
            stats,
            bucket_stats,
            created_ms,
        };
        let groups = &mut self.state.pipeline.groups;
        groups.insert(spec.id, Arc::new(group));
        self.touched = true;
        self.changed.groups = true;
        Ok(())
    }

    fn free_group(&mut self, group: &Group) {
        self.freed.push(group.stats);
        self.freed.extend(&group.bucket_stats);
    }

    pub(super) fn add_meter(&mut self, spec: &MeterSpec) -> Result<(), ChangeError> {
        if self.state.pipeline.meter(spec.id).is_some() {
            return Err(ErrorCode::MeterExists.because(format!(
                "meter {}: there is one already; modify or delete it",
                spec.id
            )));
        }
        self.put_meter(spec);
        Ok(())
    }

    pub(super) fn modify_meter(&mut self, spec: &MeterSpec) -> Result<(), ChangeError> {
        if self.state.pipeline.meter(spec.id).is_none() {
            return Err(ErrorCode::UnknownMeter
                .because(format!("meter {}: there is none; add it", spec.id)));
        }
        self.put_meter(spec);
        Ok(())
    }

    fn put_meter(&mut self, spec: &MeterSpec) {
        self.touched = true;
        let meters = &mut self.state.pipeline.meters;
        meters.insert(spec.id, Arc::new(spec.clone()));
    }

    /// One or all, and the rules that use them. Verdicts name meters by number,
    /// whichever way they came to it: all are stale when one vanishes.
    pub(super) fn delete_meters(&mut self, id: Option<u32>) {
        let ids = match id {
            Some(id) => vec![id],
            None => self.state.pipeline.meters.keys().copied().collect(),
        };
        for id in ids {
            if self.state.pipeline.meters.remove(&id).is_none() {
                continue;
            }
            self.touched = true;
            self.changed.everything = true;
            for rule in self.state.index.of_meter(id) {
                self.remove(&rule);
            }
        }
    }
}

impl Pipeline {
    /// The group through which a new group would lead back to itself, by
    /// actions or by what it watches.
    fn leads_back(&self, spec: &GroupSpec) -> Option<u32> {
        let mut seen = HashSet::new();
        let mut ahead = leads_to(spec);
        while let Some((id, from)) = ahead.pop() {
            if id == spec.id {
                return Some(from);
            }
            if seen.insert(id)
                && let Some(group) = self.group(id)
            {
                ahead.extend(leads_to(&group.spec));
            }
        }
        None
    }
}

/// The groups that a group's buckets use or watch, with the group's own number.
fn leads_to(spec: &GroupSpec) -> Vec<(u32, u32)> {
    let mut to = Vec::new();
    for bucket in &spec.buckets {
        to.extend(bucket.watch_group.map(|id| (id, spec.id)));
        for_each_action(&bucket.actions, &mut |action| {
            if let Action::Group(id) = action {
                to.push((*id, spec.id));
            }
        });
    }
    to
}
