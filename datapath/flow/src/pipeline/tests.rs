mod model;
mod semantics;
mod staleness;

use std::sync::Arc;

use super::*;
use crate::action::Action;
use crate::field::Field;
use crate::matching::Match;
use crate::rule::{Change, FlowCommand, FlowSpec};
use crate::stats::StatsTable;

fn tables() -> FlowTables {
    FlowTables::new(Arc::new(StatsTable::default()))
}

/// A flow in table 0 that outputs to a port.
fn flow(priority: u16, matching: Match, port: u16) -> FlowSpec {
    FlowSpec {
        table: Some(0),
        priority,
        matching,
        actions: vec![Action::Output(port)],
        ..FlowSpec::default()
    }
}

fn in_port(port: u16) -> Match {
    *Match::default().exact(Field::InPort, port.into())
}

fn change(command: FlowCommand, spec: FlowSpec) -> Change {
    Change::Flow(command, Box::new(spec))
}

fn add(spec: FlowSpec) -> Change {
    change(FlowCommand::Add, spec)
}

fn bucket(id: u32, actions: Vec<Action>) -> Bucket {
    Bucket {
        id,
        weight: 1,
        watch_port: None,
        watch_group: None,
        actions,
    }
}

fn group(id: u32, buckets: Vec<Bucket>) -> GroupSpec {
    GroupSpec {
        id,
        kind: GroupType::FastFailover,
        hash_fields: Vec::new(),
        buckets,
    }
}

fn meter(id: u32, rate: u32) -> MeterSpec {
    MeterSpec {
        id,
        packets: true,
        rate,
        burst: 0,
        stats: false,
        has_burst: false,
    }
}
