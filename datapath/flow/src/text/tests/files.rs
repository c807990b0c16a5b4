//! Files of flows and of bundles.

use super::Ports;
use crate::rule::{Change, FlowCommand};
use crate::text::{parse_bundle_file, parse_flow_file};

#[test]
fn a_file_has_comments_and_commands() {
    let text = "# all of it\n\n  priority=1,actions=NORMAL  # learn\n\
                add table=1,ip,actions=drop\r\n\
                modify ip,actions=1\nmodify_strict priority=5,ip,actions=1\n\
                delete ip\ndelete_strict priority=5,ip\n   \t\ndelete\n";
    let flows = parse_flow_file(text, FlowCommand::Add, &Ports).unwrap();
    let commands: Vec<_> = flows.iter().map(|(command, _)| *command).collect();
    use FlowCommand::{Add, Delete, DeleteStrict, Modify, ModifyStrict};
    assert_eq!(
        commands,
        [Add, Add, Modify, ModifyStrict, Delete, DeleteStrict, Delete]
    );
    assert_eq!(flows[0].1.value.priority, 1);
    assert_eq!(flows[1].1.value.table, Some(1));
}

#[test]
fn an_error_names_its_line() {
    let text = "ip,actions=drop\n# no\nip,actions=fool\n";
    let error = parse_flow_file(text, FlowCommand::Add, &Ports).unwrap_err();
    assert_eq!((error.line, error.offset), (Some(3), 11));
    assert!(error.to_string().starts_with("line 3, byte 11: "));
}

#[test]
fn a_bundle_holds_flows_and_groups() {
    let text = "flow add ip,actions=group:1\ngroup add group_id=1,type=all,bucket=1\n\
                group modify group_id=1,type=all,bucket=2\n\
                group add_or_mod group_id=1,type=all\ngroup delete group_id=1\n\
                flow delete ip\nip,actions=drop\n";
    let changes = parse_bundle_file(text, &Ports).unwrap();
    let kinds: Vec<_> = (changes.iter())
        .map(|change| match &change.value {
            Change::Flow(FlowCommand::Add, _) => "add",
            Change::Flow(FlowCommand::Delete, _) => "delete",
            Change::AddGroup(_) => "group",
            Change::ModifyGroup(_, false) => "modify",
            Change::ModifyGroup(_, true) => "add or modify",
            Change::DeleteGroups(Some(1)) => "no group",
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        "add",
        "group",
        "modify",
        "add or modify",
        "no group",
        "delete",
        "add",
    ];
    assert_eq!(kinds, expected);
    let error = parse_bundle_file("\nflow add ip", &Ports).unwrap_err();
    assert_eq!(error.line, Some(2));
}
