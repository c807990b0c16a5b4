use std::collections::BTreeMap;

use ringway_flow::extract::extract_slice;
use ringway_flow::program::DpAction;
use ringway_flow::trace::{BridgeNow, NormalNow};

use super::now::Now;
use crate::fdb::Fdb;
use crate::spec::VlanSpec;
use crate::table_memory::TableMemory;
use crate::vlan::PortVlans;

fn access(tag: u16) -> PortVlans {
    let spec = VlanSpec {
        tag: Some(tag),
        ..VlanSpec::default()
    };
    PortVlans::of(&spec).unwrap()
}

fn frame(destination: u8, source: u8) -> Vec<u8> {
    let mut frame = vec![
        2,
        0,
        0,
        0,
        0,
        destination,
        2,
        0,
        0,
        0,
        0,
        source,
        0x12,
        0x34,
    ];
    frame.resize(60, 0);
    frame
}

#[test]
fn normal_tells_tags_and_learns_in_the_ports_vlan() {
    let fdb = Fdb::new(TableMemory::ordinary(Fdb::words_for(64)), 64);
    let now = Now {
        fdb: &fdb,
        members: vec![1, 2, 3, 4],
        local: u32::MAX,
        // 4 is a trunk.
        vlans: BTreeMap::from([(1, access(10)), (2, access(10)), (3, access(20))]),
    };
    let from = |port: u16, to: u8, source: u8| extract_slice(&frame(to, source), 1, port);
    let push = DpAction::PushVlan {
        tpid: 0x8100,
        tci: 0x100a,
    };
    let flood = NormalNow::Tagged {
        learned: false,
        steps: vec![DpAction::Output(2), push, DpAction::Output(4)],
        restore: vec![DpAction::PopVlan],
    };
    assert_eq!(now.normal(&from(1, 8, 9)), flood);
    now.learn(&from(2, 9, 8), 1);
    let learned = NormalNow::Tagged {
        learned: true,
        steps: vec![DpAction::Output(2)],
        restore: Vec::new(),
    };
    assert_eq!(now.normal(&from(1, 8, 9)), learned);
    // In another VLAN it is another station.
    let other = now.normal(&from(3, 8, 9));
    assert!(
        matches!(other, NormalNow::Tagged { learned: false, .. }),
        "{other:?}"
    );
    let mut tagged = frame(8, 9);
    tagged.splice(12..12, [0x81, 0, 0, 10]);
    let dropped = now.normal(&extract_slice(&tagged, 1, 1));
    assert_eq!(
        dropped,
        NormalNow::Drop("disallowed VLAN VID for this input port".to_owned())
    );
}
