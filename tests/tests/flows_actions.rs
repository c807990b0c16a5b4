//! Per match field and per action: a frame in, exactly these bytes out of
//! exactly these ports. What comes out is compared with frames that are made
//! field by field, their checksums computed in the plainest way.

#[path = "flows_actions/actions.rs"]
mod actions;
#[path = "flows_actions/controllers.rs"]
mod controllers;
#[path = "flows_actions/fields.rs"]
mod fields;
#[path = "flows_actions/groups.rs"]
mod groups;
#[path = "flows_actions/partial.rs"]
mod partial;

use ringway_frontend::features;
use ringway_tests::lab::{Failures, Lab};

/// The guests of every table of cases: vm5 checks checksums, the others do not.
fn lab() -> Lab {
    Lab::start(&[
        ("vm1", 0),
        ("vm2", 0),
        ("vm3", 0),
        ("vm4", 0),
        ("vm5", features::GUEST_CSUM),
    ])
    .unwrap()
}

/// One daemon for all tables of cases; nothing may be lost in between.
fn run(tables: &[fn(&mut Lab, &mut Failures)]) {
    let mut lab = lab();
    let mut failures = Failures::default();
    for table in tables {
        table(&mut lab, &mut failures);
    }
    let balance = lab.daemon.settled_balance().unwrap();
    assert!(balance.holds(), "packets were lost unseen: {balance:?}");
    failures.none();
}

#[test]
fn every_field_is_matched() {
    run(&[
        fields::packet_fields,
        fields::pipeline_fields,
        fields::in_port,
    ]);
}

#[test]
fn every_action_is_done() {
    run(&[
        actions::single_rules,
        actions::tables,
        actions::normal,
        actions::drops_have_names,
        partial::rewritten,
    ]);
}

#[test]
fn groups_and_meters() {
    run(&[
        groups::all_and_indirect,
        groups::select,
        groups::fast_failover,
        groups::meters,
    ]);
}

#[test]
fn controllers_get_and_send_packets() {
    run(&[controllers::packet_ins, controllers::packet_outs]);
}
