//! Traces beside those of ovs-vswitchd 3.1 (`ofproto/trace` with dummy ports 1
//! to 4 and 65534) for the same rules, groups and packets.

use std::sync::Arc;

use super::*;
use crate::pipeline::FlowTables;
use crate::rule::{Change, FlowCommand};
use crate::stats::StatsTable;
use crate::text::{NoNames, parse_flow, parse_group, parse_packet};

/// Learned nothing but `00:00:00:00:00:09` on port 3.
struct Switch;

impl BridgeNow for Switch {
    fn normal(&self, packet: &PacketKey) -> NormalNow {
        match packet.0[1] >> 16 {
            9 => NormalNow::Learned(3),
            0x0180_c200_0000 => NormalNow::Drop("packet has reserved destination MAC".into()),
            _ => NormalNow::Flood(self.flood((packet.0[0] >> 32) as u16)),
        }
    }

    fn flood(&self, in_port: u16) -> Vec<u16> {
        let ports = [0xfffe, 1, 2, 3, 4].into_iter();
        ports.filter(|port| *port != in_port).collect()
    }
}

fn traced(rules: &str, groups: &str, packet: &str) -> TraceText {
    let group = |text| Change::AddGroup(parse_group(text, &NoNames).unwrap());
    let flow = |text| {
        let flow = parse_flow(text, FlowCommand::Add, &NoNames).unwrap();
        Change::Flow(FlowCommand::Add, Box::new(flow.value))
    };
    let changes: Vec<_> = (groups.lines().map(group))
        .chain(rules.lines().map(flow))
        .collect();
    let mut tables = FlowTables::new(Arc::new(StatsTable::default()));
    tables.apply(&changes, 0).unwrap();
    let packet = parse_packet(packet, &NoNames).unwrap().key.packet();
    let request = Request {
        bridge: "br0",
        packet: &packet,
        start: Start::Tables,
        ports: &NoNames,
        now: &Switch,
    };
    trace(&tables.pipeline(), &request)
}

/// The text without the lines that Open vSwitch does not have.
fn without_masks(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains(" -> mask: "));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Compares all that Open vSwitch says before `Megaflow:`.
#[track_caller]
fn check(rules: &str, groups: &str, packet: &str, expected: &str) -> TraceText {
    let trace = traced(rules, groups, packet);
    let text = without_masks(&trace.text);
    let (told, _) = text.split_once("Megaflow: ").unwrap();
    assert_eq!(told, expected.trim_start_matches('\n'), "{}", trace.text);
    trace
}

fn line<'t>(trace: &'t TraceText, start: &str) -> &'t str {
    let mut lines = trace.text.lines();
    lines.find_map(|line| line.strip_prefix(start)).unwrap()
}

const TCP: &str = "in_port=1,tcp,dl_src=00:00:00:00:00:01,dl_dst=00:00:00:00:00:02,\
                   nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_ttl=64,tp_src=1000,tp_dst=80";

const RESUBMIT_AND_GROUP: &str = "\
table=0,priority=10,in_port=1,actions=set_field:aa:bb:cc:dd:ee:ff->eth_dst,resubmit(,1),group:1,output:3
table=1,ip,cookie=5,actions=dec_ttl,set_field:1.2.3.4->ip_src,output:2,push_vlan:0x8100,set_field:4101->vlan_vid,output:1,output:3
table=1,priority=0,actions=drop";

const ALL: &str = "group_id=1,type=all,bucket=bucket_id:1,actions=set_field:9->tcp_dst,output:2,\
                   bucket=bucket_id:2,actions=pop_vlan,output:4";

#[test]
fn resubmits_and_buckets() {
    let trace = check(
        RESUBMIT_AND_GROUP,
        ALL,
        TCP,
        r#"
Flow: tcp,in_port=1,vlan_tci=0x0000,dl_src=00:00:00:00:00:01,dl_dst=00:00:00:00:00:02,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_tos=0,nw_ecn=0,nw_ttl=64,nw_frag=no,tp_src=1000,tp_dst=80,tcp_flags=0

bridge("br0")
-------------
 0. in_port=1, priority 10
    set_field:aa:bb:cc:dd:ee:ff->eth_dst
    resubmit(,1)
     1. ip, priority 32768, cookie 0x5
            dec_ttl
            set_field:1.2.3.4->ip_src
            output:2
            push_vlan:0x8100
            set_field:4101->vlan_vid
            output:1
             >> skipping output to input port
            output:3
    group:1
    bucket 1
            set_field:9->tcp_dst
            output:2
    bucket 2
            pop_vlan
            output:4
    output:3

Final flow: tcp,in_port=1,dl_vlan=5,dl_vlan_pcp=0,vlan_tci1=0x0000,dl_src=00:00:00:00:00:01,dl_dst=aa:bb:cc:dd:ee:ff,nw_src=1.2.3.4,nw_dst=10.0.0.2,nw_tos=0,nw_ecn=0,nw_ttl=63,nw_frag=no,tp_src=1000,tp_dst=80,tcp_flags=0
"#,
    );
    // As Open vSwitch has it, to the letter.
    assert_eq!(
        line(&trace, "Datapath actions: "),
        "set(eth(dst=aa:bb:cc:dd:ee:ff)),set(ipv4(src=1.2.3.4,ttl=63)),2,\
         push_vlan(vid=5,pcp=0),3,set(tcp(dst=9)),2,set(tcp(dst=80)),pop_vlan,4,\
         push_vlan(vid=5,pcp=0),3"
    );
    // What was only overwritten is not in it: dl_dst, nw_src.
    assert_eq!(
        line(&trace, "Megaflow: "),
        "recirc_id=0,eth,tcp,in_port=1,vlan_tci=0x0000/0x1000,nw_ttl=64,nw_frag=not_later,tp_dst=80"
    );
    assert_eq!(line(&trace, "     -> mask: "), "in_port");
    assert!(!trace.text.contains("Megaflow actions"));
}

#[test]
fn a_packet_that_lacks_what_is_set() {
    check(
        RESUBMIT_AND_GROUP,
        ALL,
        "in_port=1,arp",
        r#"
Flow: arp,in_port=1,vlan_tci=0x0000,dl_src=00:00:00:00:00:00,dl_dst=00:00:00:00:00:00,arp_spa=0.0.0.0,arp_tpa=0.0.0.0,arp_op=0,arp_sha=00:00:00:00:00:00,arp_tha=00:00:00:00:00:00

bridge("br0")
-------------
 0. in_port=1, priority 10
    set_field:aa:bb:cc:dd:ee:ff->eth_dst
    resubmit(,1)
     1. priority 0
            drop
    group:1
    bucket 1
            set_field:9->tcp_dst
             >> unmet prerequisites for tcp_dst, set_field ignored
            output:2
    bucket 2
            pop_vlan
            output:4
    output:3

Final flow: arp,in_port=1,vlan_tci=0x0000,dl_src=00:00:00:00:00:00,dl_dst=aa:bb:cc:dd:ee:ff,arp_spa=0.0.0.0,arp_tpa=0.0.0.0,arp_op=0,arp_sha=00:00:00:00:00:00,arp_tha=00:00:00:00:00:00
"#,
    );
}

#[test]
fn nothing_matches() {
    let trace = check(
        RESUBMIT_AND_GROUP,
        ALL,
        "in_port=2,udp",
        r#"
Flow: udp,in_port=2,vlan_tci=0x0000,dl_src=00:00:00:00:00:00,dl_dst=00:00:00:00:00:00,nw_src=0.0.0.0,nw_dst=0.0.0.0,nw_tos=0,nw_ecn=0,nw_ttl=0,nw_frag=no,tp_src=0,tp_dst=0

bridge("br0")
-------------
 0. No match.
    drop

Final flow: unchanged
"#,
    );
    assert_eq!(line(&trace, "Megaflow: "), "recirc_id=0,eth,in_port=2");
    assert_eq!(line(&trace, "Datapath actions: "), "drop");
}

const INSTRUCTIONS: &str = "\
table=0,priority=10,in_port=1,ip,actions=write_actions(group:1),goto_table:2
table=0,priority=9,in_port=2,actions=write_actions(output:1),goto_table:3
table=0,priority=9,ip,in_port=3,actions=write_actions(output:3),goto_table:2
table=2,ip,actions=controller(max_len=128,id=5),clear_actions,write_actions(set_field:5->ip_dscp,dec_ttl,pop_vlan,output:2),write_metadata:0x5/0xf,goto_table:5
table=5,ip actions=move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[],move:NXM_OF_IP_SRC[0..7]->NXM_NX_REG1[4..11],set_field:0x5/0xff->reg0,output:NXM_NX_REG0[0..15],normal,dec_ttl,write_actions(output:2)";

const FIRST: &str = "group_id=1,type=all,bucket=bucket_id:1,actions=output:2";

#[test]
fn instructions_moves_and_the_action_set() {
    // Open vSwitch knew no port 5; whether a port is there is for the datapath
    // to say here, so that line is not ours.
    let trace = check(
        INSTRUCTIONS,
        FIRST,
        TCP,
        r#"
Flow: tcp,in_port=1,vlan_tci=0x0000,dl_src=00:00:00:00:00:01,dl_dst=00:00:00:00:00:02,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_tos=0,nw_ecn=0,nw_ttl=64,nw_frag=no,tp_src=1000,tp_dst=80,tcp_flags=0

bridge("br0")
-------------
 0. ip,in_port=1, priority 10
    write_actions(group:1)
     -> action set is: group:1
    goto_table:2
     2. ip, priority 32768
            controller(max_len=128,id=5)
            clear_actions
             -> action set was: group:1
            write_actions(set_field:5->ip_dscp,dec_ttl,pop_vlan,output:2)
             -> action set is: pop_vlan,dec_ttl,set_field:5->ip_dscp,output:2
            write_metadata:0x5/0xf
            goto_table:5
         5. ip, priority 32768
            move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[]
             -> NXM_OF_IP_DST[] is now 10.0.0.1
            move:NXM_OF_IP_SRC[0..7]->NXM_NX_REG1[4..11]
             -> NXM_NX_REG1[4..11] is now 0x1
            set_field:0x5/0xff->reg0
            output:NXM_NX_REG0[0..15]
             -> output port is 5
            NORMAL
             -> no learned MAC for destination, flooding
            dec_ttl
            write_actions(output:2)
             -> action set is: pop_vlan,dec_ttl,set_field:5->ip_dscp,output:2
--. Executing action set:
    pop_vlan
    dec_ttl
    set_field:5->ip_dscp
    output:2

Final flow: tcp,reg0=0x5,reg1=0x10,metadata=0x5,in_port=1,vlan_tci=0x0000,dl_src=00:00:00:00:00:01,dl_dst=00:00:00:00:00:02,nw_src=10.0.0.1,nw_dst=10.0.0.1,nw_tos=20,nw_ecn=0,nw_ttl=62,nw_frag=no,tp_src=1000,tp_dst=80,tcp_flags=0
"#,
    );
    assert_eq!(
        line(&trace, "Datapath actions: "),
        "userspace(controller(reason=1,controller_id=5,max_len=128)),set(ipv4(dst=10.0.0.1)),5,\
         65534,2,3,4,set(ipv4(tos=0x14/0xfc,ttl=62)),2"
    );
    assert_eq!(
        line(&trace, "Megaflow actions: "),
        "userspace(controller(reason=1,controller_id=5,max_len=128)),set(ipv4(dst=10.0.0.1)),5,\
         normal,set(ipv4(tos=0x14/0xfc,ttl=62)),2 (normal and flood are looked up for each packet)"
    );
}

#[test]
fn a_ttl_that_has_run_out_and_a_miss_before_the_action_set() {
    check(
        INSTRUCTIONS,
        FIRST,
        "in_port=3,tcp,nw_ttl=1,dl_dst=00:00:00:00:00:09",
        r#"
Flow: tcp,in_port=3,vlan_tci=0x0000,dl_src=00:00:00:00:00:00,dl_dst=00:00:00:00:00:09,nw_src=0.0.0.0,nw_dst=0.0.0.0,nw_tos=0,nw_ecn=0,nw_ttl=1,nw_frag=no,tp_src=0,tp_dst=0,tcp_flags=0

bridge("br0")
-------------
 0. ip,in_port=3, priority 9
    write_actions(output:3)
     -> action set is: output:3
    goto_table:2
     2. ip, priority 32768
            controller(max_len=128,id=5)
            clear_actions
             -> action set was: output:3
            write_actions(set_field:5->ip_dscp,dec_ttl,pop_vlan,output:2)
             -> action set is: pop_vlan,dec_ttl,set_field:5->ip_dscp,output:2
            write_metadata:0x5/0xf
            goto_table:5
         5. ip, priority 32768
            move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[]
             -> NXM_OF_IP_DST[] is now 0.0.0.0
            move:NXM_OF_IP_SRC[0..7]->NXM_NX_REG1[4..11]
             -> NXM_NX_REG1[4..11] is now 0
            set_field:0x5/0xff->reg0
            output:NXM_NX_REG0[0..15]
             -> output port is 5
            NORMAL
             -> forwarding to learned port
            dec_ttl
             >> IPv4 decrement TTL exception
--. Executing action set:
    pop_vlan
    dec_ttl
     >> IPv4 decrement TTL exception

Final flow: tcp,reg0=0x5,metadata=0x5,in_port=3,vlan_tci=0x0000,dl_src=00:00:00:00:00:00,dl_dst=00:00:00:00:00:09,nw_src=0.0.0.0,nw_dst=0.0.0.0,nw_tos=0,nw_ecn=0,nw_ttl=1,nw_frag=no,tp_src=0,tp_dst=0,tcp_flags=0
"#,
    );
    check(
        INSTRUCTIONS,
        FIRST,
        "in_port=2,udp",
        r#"
Flow: udp,in_port=2,vlan_tci=0x0000,dl_src=00:00:00:00:00:00,dl_dst=00:00:00:00:00:00,nw_src=0.0.0.0,nw_dst=0.0.0.0,nw_tos=0,nw_ecn=0,nw_ttl=0,nw_frag=no,tp_src=0,tp_dst=0

bridge("br0")
-------------
 0. in_port=2, priority 9
    write_actions(output:1)
     -> action set is: output:1
    goto_table:3
     3. No match.
            drop
--. Executing action set:
    output:1

Final flow: unchanged
"#,
    );
}

#[test]
fn normal_that_drops() {
    let trace = check(
        "actions=mod_dl_src:00:00:00:00:00:07,normal",
        "",
        "in_port=1,dl_dst=01:80:c2:00:00:00,dl_type=0x1234",
        r#"
Flow: in_port=1,vlan_tci=0x0000,dl_src=00:00:00:00:00:00,dl_dst=01:80:c2:00:00:00,dl_type=0x1234

bridge("br0")
-------------
 0. priority 32768
    mod_dl_src:00:00:00:00:00:07
    NORMAL
     -> packet has reserved destination MAC, dropping

Final flow: in_port=1,vlan_tci=0x0000,dl_src=00:00:00:00:00:07,dl_dst=01:80:c2:00:00:00,dl_type=0x1234
"#,
    );
    assert_eq!(line(&trace, "Datapath actions: "), "drop");
    assert_eq!(line(&trace, "Megaflow: "), "recirc_id=0,eth");
    let held = "set(eth(src=00:00:00:00:00:07)),normal";
    assert!(line(&trace, "Megaflow actions: ").starts_with(held));
}

#[test]
fn too_deep() {
    let trace = traced("actions=output:2,resubmit(,0),output:3", "", TCP);
    assert!(
        trace
            .text
            .contains(" >>>> over max translation depth 64 <<<<\n")
    );
    let end = "Datapath actions: drop\n\
               Translation failed (Too many resubmits, or nested too deep), packet is dropped.\n";
    assert!(trace.text.ends_with(end), "{}", trace.text);
}

#[test]
fn masks_name_fields() {
    let trace = traced(
        "priority=5,ip,nw_dst=10.0.0.0/8,actions=output:2\npriority=6,dl_vlan=5,actions=output:3",
        "",
        TCP,
    );
    let mask = line(&trace, "     -> mask: ");
    assert!(mask.contains("dl_type"), "{mask}");
    assert!(mask.contains("nw_dst/0x"), "{mask}");
}
