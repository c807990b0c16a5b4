//! `dump-flows`: rules with their counts and ages.

use super::{Named, Ports};
use crate::field::Field;
use crate::rule::{FlowCommand, MiniMatch, Rule};
use crate::stats::Counts;
use crate::text::{FlowAges, parse_flow, print_flow, print_match};

fn rule(text: &str) -> Rule {
    let flow = parse_flow(text, FlowCommand::Add, &Ports).unwrap().value;
    Rule {
        stats: 0,
        table: flow.table.unwrap_or(0),
        priority: flow.priority,
        cookie: flow.cookie,
        matching: MiniMatch::new(&flow.matching),
        actions: flow.actions.into(),
        idle_timeout: flow.idle_timeout,
        hard_timeout: flow.hard_timeout,
        importance: flow.importance,
        flags: flow.flags,
        created_ms: 1000,
        modified_ms: 1000,
    }
}

#[test]
fn a_line_of_dump_flows() {
    // As `ovs-ofctl dump-flows br0` printed them, 2.015 s after add-flow.
    let ages = FlowAges {
        counts: Counts::default(),
        now_ms: 3015,
        ages: true,
    };
    let mut flow = rule("in_port=2,actions=output:2");
    flow.modified_ms = 3010;
    assert_eq!(
        print_flow(&flow, Some(&ages), &Ports),
        " cookie=0x0, duration=2.015s, table=0, n_packets=0, n_bytes=0, idle_age=2, hard_age=0, \
         in_port=2 actions=output:2"
    );
    let ages = FlowAges {
        ages: false,
        now_ms: 4000,
        counts: Counts {
            packets: 7,
            bytes: 420,
            used_ms: 3500,
        },
    };
    // And with --names.
    assert_eq!(
        print_flow(&flow, Some(&ages), &Named),
        " cookie=0x0, duration=3s, table=0, n_packets=7, n_bytes=420, \
         in_port=\"p-2\" actions=output:\"p-2\""
    );
    let used = FlowAges { ages: true, ..ages };
    let shown = print_flow(&rule("actions=drop"), Some(&used), &Ports);
    assert!(shown.ends_with("idle_age=0, actions=drop"), "{shown}");
}

#[test]
fn without_statistics() {
    // As `ovs-ofctl --no-stats dump-flows br0` printed them.
    let shown = |text| print_flow(&rule(text), None, &Ports);
    assert_eq!(
        shown("cookie=0x12,idle_timeout=3,table=0,priority=5,tcp,actions=output:1"),
        " cookie=0x12, idle_timeout=3, priority=5,tcp actions=output:1"
    );
    assert_eq!(
        shown("table=3,priority=0,actions=NORMAL"),
        " table=3, priority=0 actions=NORMAL"
    );
    assert_eq!(shown("actions=drop"), " actions=drop");
    assert_eq!(
        shown("check_overlap,reset_counts,send_flow_rem,importance=5,ip,actions=drop"),
        " send_flow_rem importance=5, ip actions=drop"
    );
}

#[test]
fn names_are_quoted_unless_they_are_plain() {
    let text = "in_port=p1,actions=output:p1,output:\"p-2\",resubmit(p-2,1),LOCAL,output:3";
    assert_eq!(
        print_flow(&rule(text), None, &Named),
        " in_port=p1 actions=output:p1,output:\"p-2\",resubmit(\"p-2\",1),LOCAL,output:3"
    );
}

#[test]
fn a_dumped_line_reads_back() {
    let ages = FlowAges {
        counts: Counts {
            packets: 1,
            bytes: 60,
            used_ms: 1500,
        },
        now_ms: 9999,
        ages: true,
    };
    let flow = rule("cookie=5,table=2,idle_timeout=9,priority=7,udp,tp_dst=53,actions=1,dec_ttl");
    let again = rule(&print_flow(&flow, Some(&ages), &Named));
    assert_eq!(
        print_flow(&again, None, &Ports),
        print_flow(&flow, None, &Ports)
    );
}

#[test]
fn a_packet_of_two_tags() {
    // The beginning of `ofproto/trace`'s `Flow:` line for dl_vlan=5,dl_vlan_pcp=3.
    let mut packet = crate::matching::Match::default();
    packet
        .exact(Field::VlanTci, 0x7005)
        .exact(Field::EthSrc, 0)
        .exact(Field::EthType, 0);
    packet.mask.0[2] |= 0xffff;
    assert_eq!(
        print_match(&packet, &Ports),
        "dl_vlan=5,dl_vlan_pcp=3,vlan_tci1=0x0000,dl_src=00:00:00:00:00:00,dl_type=0x0000"
    );
    packet.key.0[2] |= 0x3007;
    assert!(print_match(&packet, &Ports).contains(",dl_vlan1=7,dl_vlan_pcp1=1,"));
}
