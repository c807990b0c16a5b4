//! What `ovs-ofctl` 3.1.0 (Debian) prints for a flow, and what it refuses.
//!
//! How the table was made: an `ovs-vswitchd --enable-dummy` with a bridge of two
//! dummy ports (p1 = 1, p-2 = 2); each text was given to `ovs-ofctl add-flow br0
//! TEXT` (with `-O OpenFlow13` or `-O OpenFlow15` for what OpenFlow 1.0 has not) and
//! what `ovs-ofctl --no-stats dump-flows br0`, plain or with the same `-O`, printed
//! stands beside it. The OpenFlow version decides how Open vSwitch spells some
//! actions (`mod_dl_src` or `set_field`); the table has the spelling of the text.

use super::Ports;
use crate::rule::FlowCommand;
use crate::text::{parse_flow, print_spec};

/// Text, and what is printed for it.
const PRINTED: &[(&str, &str)] = &[
    ("actions=goto_table:5", "actions=goto_table:5"),
    (
        "table=5,actions=goto_table:6",
        "table=5, actions=goto_table:6",
    ),
    (
        "actions=write_actions(output:1,set_field:5->reg0,group:3),goto_table:1",
        "actions=write_actions(output:1,set_field:0x5->reg0,group:3),goto_table:1",
    ),
    (
        "actions=write_actions(drop),goto_table:1",
        "actions=goto_table:1",
    ),
    (
        "actions=write_actions(resubmit(,3))",
        "actions=write_actions(resubmit(,3))",
    ),
    (
        "actions=write_actions(controller:5)",
        "actions=write_actions(CONTROLLER:5)",
    ),
    (
        "actions=write_actions(move:reg0->reg1,load:5->reg3[])",
        "actions=write_actions(move:NXM_NX_REG0[]->NXM_NX_REG1[],load:0x5->NXM_NX_REG3[])",
    ),
    ("actions=clear_actions", "actions=clear_actions"),
    (
        "actions=output:1,clear_actions,write_actions(2),write_metadata:0x5/0xf,goto_table:3",
        "actions=output:1,clear_actions,write_actions(output:2),write_metadata:0x5/0xf,goto_table:3",
    ),
    ("actions=write_metadata:0/1", "actions=write_metadata:0/0x1"),
    ("actions=write_metadata:0", "actions=write_metadata:0"),
    (
        "actions=write_actions(normal,1)",
        "actions=write_actions(NORMAL,output:1)",
    ),
    (
        "actions=write_actions(output:1,output:2,dec_ttl,group:5)",
        "actions=write_actions(output:1,output:2,dec_ttl,group:5)",
    ),
    (
        "dl_vlan=4,actions=set_vlan_vid:5",
        "dl_vlan=4 actions=set_field:4101->vlan_vid",
    ),
    (
        "actions=write_actions(mod_nw_ttl:5,dec_ttl,pop_vlan,mod_tp_src:5)",
        "actions=write_actions(mod_nw_ttl:5,dec_ttl,pop_vlan,mod_tp_src:5)",
    ),
    (
        "actions=set_field:00:11:22:33:44:55->eth_src",
        "actions=set_field:00:11:22:33:44:55->eth_src",
    ),
    (
        "actions=set_field:01:00:00:00:00:00/01:00:00:00:00:00->eth_dst",
        "actions=set_field:01:00:00:00:00:00/01:00:00:00:00:00->eth_dst",
    ),
    (
        "ip,actions=set_field:1.2.3.4->nw_src,set_field:1.2.3.0/24->ip_dst,set_field:1->ip_dscp,set_field:3->nw_ttl",
        "ip actions=set_field:1.2.3.4->ip_src,set_field:1.2.3.0/24->ip_dst,set_field:1->ip_dscp,set_field:3->nw_ttl",
    ),
    (
        "ip,actions=set_field:1.0.3.0/255.0.255.0->ip_dst",
        "ip actions=set_field:1.0.3.0/255.0.255.0->ip_dst",
    ),
    (
        "ipv6,actions=set_field:::1->ipv6_src,set_field:fe80::/16->ipv6_dst",
        "ipv6 actions=set_field:::1->ipv6_src,set_field:fe80::/16->ipv6_dst",
    ),
    (
        "ipv6,actions=set_field:5/0xf->ipv6_label",
        "ipv6 actions=set_field:0x5/0xf->ipv6_label",
    ),
    (
        "tcp,actions=set_field:80->tcp_src,set_field:80/0xf0->tcp_dst",
        "tcp actions=set_field:80->tcp_src,set_field:80/0xf0->tcp_dst",
    ),
    (
        "udp6,actions=set_field:80->udp_src,set_field:80->udp_dst",
        "udp6 actions=set_field:80->udp_src,set_field:80->udp_dst",
    ),
    (
        "arp,actions=set_field:2->arp_op,set_field:1.2.3.4->arp_spa,set_field:00:00:00:00:00:01->arp_sha",
        "arp actions=set_field:2->arp_op,set_field:1.2.3.4->arp_spa,set_field:00:00:00:00:00:01->arp_sha",
    ),
    (
        "icmp,actions=set_field:0->icmp_type,set_field:1->icmp_code",
        "icmp actions=set_field:0->icmp_type,set_field:1->icmp_code",
    ),
    (
        "icmp6,actions=set_field:0->icmpv6_type,set_field:1->icmpv6_code",
        "icmp6 actions=set_field:0->icmpv6_type,set_field:1->icmpv6_code",
    ),
    (
        "icmp6,icmp_type=135,actions=set_field:00:00:00:00:00:01->nd_sll,set_field:::1->nd_target",
        "icmp6,icmp_type=135 actions=set_field:00:00:00:00:00:01->nd_sll,set_field:::1->nd_target",
    ),
    (
        "icmp6,icmp_type=136,actions=set_field:00:00:00:00:00:01->nd_tll",
        "icmp6,icmp_type=136 actions=set_field:00:00:00:00:00:01->nd_tll",
    ),
    (
        "dl_vlan=3,actions=set_field:4101->vlan_vid,set_field:3->vlan_pcp",
        "dl_vlan=3 actions=set_field:4101->vlan_vid,set_field:3->vlan_pcp",
    ),
    (
        "actions=set_field:2->in_port,set_field:p-2->in_port,set_field:LOCAL->in_port",
        "actions=set_field:2->in_port,set_field:2->in_port,set_field:LOCAL->in_port",
    ),
    (
        "dl_vlan=5,actions=pop_vlan,1",
        "dl_vlan=5 actions=pop_vlan,output:1",
    ),
    ("importance=5,actions=drop", "importance=5, actions=drop"),
    (
        "send_flow_rem,importance=5,idle_timeout=3,hard_timeout=4,actions=drop",
        "idle_timeout=3, hard_timeout=4, send_flow_rem importance=5, actions=drop",
    ),
    (
        "priority=5,cookie=0x12,idle_timeout=3,hard_timeout=7,tcp,nw_src=10.0.0.0/8,tp_dst=80,actions=output:1",
        "cookie=0x12, idle_timeout=3, hard_timeout=7, priority=5,tcp,nw_src=10.0.0.0/8,tp_dst=80 actions=output:1",
    ),
    ("priority=0,actions=NORMAL", "priority=0 actions=NORMAL"),
    (
        "table=3,priority=0,actions=normal",
        "table=3, priority=0 actions=NORMAL",
    ),
    (
        "in_port=p-2,actions=output:p1,p1,\"p-2\",output:\"p-2\"",
        "in_port=2 actions=output:1,output:1,output:2,output:2",
    ),
    (
        "in_port=LOCAL,dl_src=00:11:22:33:44:55,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=local",
        "in_port=LOCAL,dl_src=00:11:22:33:44:55,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00 actions=LOCAL",
    ),
    (
        "dl_type=0x88cc,actions=controller",
        "dl_type=0x88cc actions=CONTROLLER:65535",
    ),
    ("dl_type=0x0800,nw_proto=6,actions=drop", "tcp actions=drop"),
    (
        "dl_type=0x86dd,nw_proto=58,icmp_type=128,icmp_code=0,actions=drop",
        "icmp6,icmp_type=128,icmp_code=0 actions=drop",
    ),
    (
        "dl_vlan=5,dl_vlan_pcp=3,actions=strip_vlan,output:1",
        "dl_vlan=5,dl_vlan_pcp=3 actions=pop_vlan,output:1",
    ),
    (
        "dl_vlan=0xffff,actions=mod_vlan_vid:10,mod_vlan_pcp:3,1",
        "vlan_tci=0x0000 actions=mod_vlan_vid:10,mod_vlan_pcp:3,output:1",
    ),
    ("dl_vlan_pcp=7,actions=drop", "dl_vlan_pcp=7 actions=drop"),
    (
        "vlan_tci=0x1000/0x1000,actions=pop_vlan,2",
        "vlan_tci=0x1000/0x1000 actions=pop_vlan,output:2",
    ),
    ("vlan_tci=0,actions=drop", "vlan_tci=0x0000 actions=drop"),
    (
        "vlan_tci=0x1123,actions=drop",
        "dl_vlan=291,dl_vlan_pcp=0 actions=drop",
    ),
    (
        "vlan_vid=0x1005/0x100f,actions=drop",
        "vlan_tci=0x1005/0x100f actions=drop",
    ),
    (
        "vlan_vid=0x1005,vlan_pcp=2,actions=drop",
        "dl_vlan=5,dl_vlan_pcp=2 actions=drop",
    ),
    (
        "vlan_tci=0x6000/0xe000,actions=drop",
        "vlan_tci=0x6000/0xe000 actions=drop",
    ),
    (
        "arp,arp_op=1,arp_spa=1.2.3.4,arp_tpa=10.0.0.0/8,arp_sha=00:11:22:33:44:55,arp_tha=00:00:00:00:00:01/00:00:00:00:00:ff,actions=FLOOD",
        "arp,arp_spa=1.2.3.4,arp_tpa=10.0.0.0/8,arp_op=1,arp_sha=00:11:22:33:44:55,arp_tha=00:00:00:00:00:01/00:00:00:00:00:ff actions=FLOOD",
    ),
    ("rarp,arp_op=3,actions=all", "rarp,arp_op=3 actions=ALL"),
    (
        "arp,nw_src=1.2.3.4,nw_proto=2,actions=drop",
        "arp,arp_spa=1.2.3.4,arp_op=2 actions=drop",
    ),
    (
        "ip,nw_src=10.0.0.0/255.0.255.0,nw_dst=1.2.3.4/0,nw_tos=16,nw_ecn=2,nw_ttl=64,actions=drop",
        "ip,nw_src=10.0.0.0/255.0.255.0,nw_tos=16,nw_ecn=2,nw_ttl=64 actions=drop",
    ),
    (
        "ip,ip_dscp=4,ip_ecn=1,actions=drop",
        "ip,nw_tos=16,nw_ecn=1 actions=drop",
    ),
    (
        "ip,ip_src=1.2.3.4,ip_dst=2.0.0.0/7,ip_proto=47,actions=drop",
        "ip,nw_src=1.2.3.4,nw_dst=2.0.0.0/7,nw_proto=47 actions=drop",
    ),
    ("ip,nw_frag=no,actions=drop", "ip,nw_frag=no actions=drop"),
    ("ip,nw_frag=yes,actions=drop", "ip,nw_frag=yes actions=drop"),
    (
        "ip,nw_frag=first,actions=drop",
        "ip,nw_frag=first actions=drop",
    ),
    (
        "ipv6,ip_frag=later,actions=drop",
        "ipv6,nw_frag=later actions=drop",
    ),
    (
        "ip,nw_frag=not_later,actions=drop",
        "ip,nw_frag=not_later actions=drop",
    ),
    (
        "icmp,icmp_type=8,icmp_code=0,actions=IN_PORT",
        "icmp,icmp_type=8,icmp_code=0 actions=IN_PORT",
    ),
    (
        "icmp,tp_src=3,actions=in_port",
        "icmp,icmp_type=3 actions=IN_PORT",
    ),
    (
        "tcp,tcp_src=80,tcp_dst=0x1f40/0xfff8,actions=drop",
        "tcp,tp_src=80,tp_dst=0x1f40/0xfff8 actions=drop",
    ),
    (
        "udp,udp_src=53,udp_dst=1000/0xffff,actions=drop",
        "udp,tp_src=53,tp_dst=1000 actions=drop",
    ),
    ("sctp,sctp_dst=5,actions=drop", "sctp,tp_dst=5 actions=drop"),
    (
        "tcp6,ipv6_src=2001:db8::/32,ipv6_dst=::1,tp_src=1/1,actions=drop",
        "tcp6,ipv6_src=2001:db8::/32,ipv6_dst=::1,tp_src=0x1/0x1 actions=drop",
    ),
    (
        "udp6,ipv6_label=0x12345,actions=drop",
        "udp6,ipv6_label=0x12345 actions=drop",
    ),
    (
        "ipv6,ipv6_label=0x5/0xf,actions=drop",
        "ipv6,ipv6_label=0x00005/0x0000f actions=drop",
    ),
    ("sctp6,actions=drop", "sctp6 actions=drop"),
    (
        "ipv6,ipv6_src=::1.2.3.4,ipv6_dst=::ffff:1.2.3.4,actions=drop",
        "ipv6,ipv6_src=::1.2.3.4,ipv6_dst=::ffff:1.2.3.4 actions=drop",
    ),
    (
        "ipv6,ipv6_src=::1:0:0/ffff::ffff,actions=drop",
        "ipv6,ipv6_src=::/ffff::ffff actions=drop",
    ),
    (
        "ipv6,ipv6_dst=fe80:0:0:1::/64,actions=drop",
        "ipv6,ipv6_dst=fe80:0:0:1::/64 actions=drop",
    ),
    (
        "ipv6,ipv6_dst=1:0:0:1:0:0:0:1,actions=drop",
        "ipv6,ipv6_dst=1:0:0:1::1 actions=drop",
    ),
    (
        "icmp6,icmp_type=135,nd_sll=00:11:22:33:44:55,nd_target=fe80::1,actions=drop",
        "icmp6,icmp_type=135,nd_target=fe80::1,nd_sll=00:11:22:33:44:55 actions=drop",
    ),
    (
        "icmp6,icmp_type=136,icmpv6_code=0,nd_tll=00:11:22:33:44:55/ff:ff:00:00:00:00,nd_target=fe80::/16,actions=drop",
        "icmp6,icmp_type=136,icmp_code=0,nd_target=fe80::/16,nd_tll=00:11:00:00:00:00/ff:ff:00:00:00:00 actions=drop",
    ),
    (
        "icmp6,icmpv6_type=136,nd_sll=00:11:22:33:44:55,actions=drop",
        "icmp6,icmp_type=136 actions=drop",
    ),
    (
        "tcp,tcp_flags=+syn-ack,actions=drop",
        "tcp,tcp_flags=+syn-ack actions=drop",
    ),
    (
        "tcp,tcp_flags=syn|ack,actions=drop",
        "tcp,tcp_flags=syn|ack actions=drop",
    ),
    (
        "tcp,tcp_flags=0x12,actions=drop",
        "tcp,tcp_flags=syn|ack actions=drop",
    ),
    (
        "tcp,tcp_flags=0x2/0x12,actions=drop",
        "tcp,tcp_flags=+syn-ack actions=drop",
    ),
    (
        "tcp,tcp_flags=0,actions=drop",
        "tcp,tcp_flags=0 actions=drop",
    ),
    (
        "tcp,tcp_flags=0xfff,actions=drop",
        "tcp,tcp_flags=fin|syn|rst|psh|ack|urg|ece|cwr|ns|[200]|[400]|[800] actions=drop",
    ),
    (
        "tcp,tcp_flags=+[200]-ns+cwr,actions=drop",
        "tcp,tcp_flags=+cwr-ns+[200] actions=drop",
    ),
    (
        "tcp6,tcp_flags=-fin,actions=drop",
        "tcp6,tcp_flags=-fin actions=drop",
    ),
    (
        "metadata=5/7,tun_id=1,reg0=5,reg1=0/1,reg15=0x10/0xf0,actions=drop",
        "reg0=0x5,reg1=0/0x1,reg15=0x10/0xf0,tun_id=0x1,metadata=0x5/0x7 actions=drop",
    ),
    (
        "tunnel_id=0/1,metadata=0,xreg3=5,actions=drop",
        "reg6=0,reg7=0x5,tun_id=0/0x1,metadata=0 actions=drop",
    ),
    (
        "xreg1=0x500000001/0xff00000001,actions=drop",
        "reg2=0x5/0xff,reg3=0x1/0x1 actions=drop",
    ),
    (
        "reg0[0..3]=5,reg0[8]=1,actions=drop",
        "reg0=0x105/0x10f actions=drop",
    ),
    (
        "NXM_NX_REG2[4..7]=3,actions=drop",
        "reg2=0x30/0xf0 actions=drop",
    ),
    ("mpls,actions=normal", "mpls actions=NORMAL"),
    ("mplsm,actions=normal", "mplsm actions=NORMAL"),
    ("nw_src=1.2.3.4,actions=drop", "actions=drop"),
    ("tcp_flags=+syn,actions=drop", "actions=drop"),
    ("ip,tp_src=80,actions=drop", "ip actions=drop"),
    ("ip,ipv6_src=::1,actions=drop", "ip actions=drop"),
    ("icmp_type=8,actions=drop", "actions=drop"),
    ("nw_frag=yes,actions=drop", "actions=drop"),
    (
        "nw_src=*,tp_src=*,dl_src=*,in_port=*,actions=drop",
        "actions=drop",
    ),
    (
        "actions=output:65534,output:LOCAL,output:IN_PORT,output:NORMAL,output:FLOOD,output:ALL,output:CONTROLLER",
        "actions=LOCAL,LOCAL,IN_PORT,NORMAL,FLOOD,ALL,CONTROLLER:65535",
    ),
    (
        "actions=controller:128,controller:0,CONTROLLER",
        "actions=CONTROLLER:128,CONTROLLER:0,CONTROLLER:65535",
    ),
    (
        "actions=controller(max_len=100),controller(reason=no_match),controller(reason=invalid_ttl,id=5,max_len=44),controller()",
        "actions=CONTROLLER:100,controller(reason=no_match),controller(reason=invalid_ttl,max_len=44,id=5),CONTROLLER:65535",
    ),
    (
        "actions=output:reg0[0..15],output:NXM_NX_REG1[],output:reg2",
        "actions=output:NXM_NX_REG0[0..15],output:NXM_NX_REG1[],output:NXM_NX_REG2[]",
    ),
    (
        "actions=push_vlan:0x8100,set_field:0x1005->vlan_vid,set_field:3->vlan_pcp,output:1",
        "actions=push_vlan:0x8100,set_field:4101->vlan_vid,set_field:3->vlan_pcp,output:1",
    ),
    (
        "actions=push_vlan:0x88a8,push_vlan:0x8100,1",
        "actions=push_vlan:0x88a8,push_vlan:0x8100,output:1",
    ),
    (
        "dl_vlan=3,actions=set_field:4->vlan_vid,set_field:4101->vlan_vid",
        "dl_vlan=3 actions=set_field:4100->vlan_vid,set_field:4101->vlan_vid",
    ),
    (
        "actions=set_field:2->in_port,set_field:p-2->in_port",
        "actions=set_field:2->in_port,set_field:2->in_port",
    ),
    (
        "actions=load:0x5->NXM_NX_REG0[0..3],load:1->NXM_NX_REG0[5],load:0->NXM_NX_REG0[],load:5->reg1[],load:5->NXM_OF_IN_PORT[]",
        "actions=load:0x5->NXM_NX_REG0[0..3],load:0x1->NXM_NX_REG0[5],load:0->NXM_NX_REG0[],load:0x5->NXM_NX_REG1[],load:0x5->NXM_OF_IN_PORT[]",
    ),
    (
        "ipv6,actions=load:0x20010db8000000000000000000000001->NXM_NX_IPV6_SRC[],load:0x1->NXM_NX_IPV6_DST[60..127],load:5->NXM_NX_IPV6_DST[0..63]",
        "ipv6 actions=load:0x1->NXM_NX_IPV6_SRC[0..63],load:0x20010db800000000->NXM_NX_IPV6_SRC[64..127],load:0x1->NXM_NX_IPV6_DST[60..123],load:0->NXM_NX_IPV6_DST[124..127],load:0x5->NXM_NX_IPV6_DST[0..63]",
    ),
    (
        "ip,actions=load:4->NXM_OF_IP_TOS[],load:0xa000001->NXM_OF_IP_SRC[],load:5->NXM_NX_IP_TTL[]",
        "ip actions=load:0x4->NXM_OF_IP_TOS[],load:0xa000001->NXM_OF_IP_SRC[],load:0x5->NXM_NX_IP_TTL[]",
    ),
    (
        "dl_vlan=5,actions=load:3->OXM_OF_VLAN_VID[],load:3->OXM_OF_VLAN_PCP[]",
        "dl_vlan=5 actions=load:0x3->OXM_OF_VLAN_VID[],load:0x3->OXM_OF_VLAN_PCP[]",
    ),
    (
        "actions=load:5->NXM_OF_ETH_SRC[],load:5->NXM_NX_TUN_ID[],load:5->OXM_OF_METADATA[0..31]",
        "actions=load:0x5->NXM_OF_ETH_SRC[],load:0x5->NXM_NX_TUN_ID[],load:0x5->OXM_OF_METADATA[0..31]",
    ),
    (
        "actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],move:NXM_NX_REG0[0..15]->NXM_NX_REG1[16..31],move:reg0->reg1,move:NXM_OF_IN_PORT[]->NXM_NX_REG3[0..15]",
        "actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],move:NXM_NX_REG0[0..15]->NXM_NX_REG1[16..31],move:NXM_NX_REG0[]->NXM_NX_REG1[],move:NXM_OF_IN_PORT[]->NXM_NX_REG3[0..15]",
    ),
    (
        "ip,actions=move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[],move:OXM_OF_IPV4_SRC[0..7]->NXM_NX_REG0[8..15]",
        "ip actions=move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[],move:NXM_OF_IP_SRC[0..7]->NXM_NX_REG0[8..15]",
    ),
    (
        "dl_vlan=5,actions=move:OXM_OF_VLAN_VID[]->NXM_NX_REG0[0..11]",
        "dl_vlan=5 actions=move:OXM_OF_VLAN_VID[]->NXM_NX_REG0[0..11]",
    ),
    (
        "actions=mod_dl_src:00:11:22:33:44:55,mod_dl_dst:0:1:2:3:4:5",
        "actions=mod_dl_src:00:11:22:33:44:55,mod_dl_dst:00:01:02:03:04:05",
    ),
    ("actions=mod_nw_src:1.2.3.4", "actions=mod_nw_src:1.2.3.4"),
    ("actions=dec_ttl", "actions=dec_ttl"),
    ("actions=strip_vlan", "actions=pop_vlan"),
    ("actions=mod_tp_src:5", "actions=mod_tp_src:5"),
    (
        "actions=resubmit:1,resubmit:p-2,resubmit(1,2),resubmit(,3),resubmit(LOCAL,4),resubmit(in_port,5),resubmit(2)",
        "actions=resubmit:1,resubmit:2,resubmit(1,2),resubmit(,3),resubmit(LOCAL,4),resubmit(,5),resubmit:2",
    ),
    (
        "actions=write_actions(push_vlan:0x8100,set_field:4101->vlan_vid,dec_ttl)",
        "actions=write_actions(push_vlan:0x8100,set_field:4101->vlan_vid,dec_ttl)",
    ),
    ("actions=meter:1,output:1", "actions=meter:1,output:1"),
    (
        "actions=write_metadata:0xffffffffffffffff",
        "actions=write_metadata:0xffffffffffffffff",
    ),
    ("actions=group:5", "actions=group:5"),
    (
        "actions=note:01.02,note:,note:0102030405060708",
        "actions=note:01.02.00.00.00.00,note:00.00.00.00.00.00,note:01.02.03.04.05.06.07.08.00.00.00.00.00.00",
    ),
    ("actions=exit", "actions=exit"),
    ("actions=output:1,exit", "actions=output:1,exit"),
    ("actions=drop", "actions=drop"),
    ("actions=", "actions=drop"),
    ("actions=65000", "actions=output:65000"),
    ("ip actions=output:1", "ip actions=output:1"),
    (
        "ip, nw_src=1.2.3.4 , tcp actions=output:1, output:2",
        "tcp,nw_src=1.2.3.4 actions=output:1,output:2",
    ),
    ("send_flow_rem,actions=drop", "send_flow_rem actions=drop"),
    (
        "cookie=-1,actions=drop",
        "cookie=0xffffffffffffffff, actions=drop",
    ),
    ("table=255,actions=drop", "actions=drop"),
    (
        "idle_timeout=010,actions=drop",
        "idle_timeout=8, actions=drop",
    ),
    (
        "in_port=4294967294,actions=drop",
        "in_port=LOCAL actions=drop",
    ),
    ("in_port=ANY,actions=drop", "in_port=ANY actions=drop"),
    (
        "duration=5s, n_packets=3, n_bytes=5, idle_age=3, priority=5,ip actions=drop",
        "priority=5,ip actions=drop",
    ),
    (
        "udp,nw_frag=later,actions=mod_tp_src:5",
        "udp,nw_frag=later actions=mod_tp_src:5",
    ),
];

/// Texts that are refused, by ovs-ofctl or by the switch.
const REFUSED: &[&str] = &[
    "actions=write_actions(note:01)",
    "actions=write_actions(exit)",
    "actions=write_actions(output:reg0)",
    "actions=write_actions(controller(reason=no_match))",
    "actions=write_actions(mod_nw_src:1.2.3.4)",
    "actions=write_actions(push_vlan:0x8100,mod_nw_src:1.2.3.4)",
    "actions=clear_actions,clear_actions",
    "actions=write_actions(1),write_actions(2)",
    "actions=set_vlan_vid:5",
    "actions=write_actions(mod_nw_tos:4)",
    "actions=write_actions(mod_nw_ecn:1)",
    "actions=write_actions(dec_ttl,mod_nw_tos:4)",
    "actions=push_vlan:0x88a8,push_vlan:0x8100,push_vlan:0x8100",
    "actions=push_vlan:0x9100",
    "actions=push_vlan:33024,pop_vlan,pop_vlan",
    "actions=set_field:4->vlan_vid",
    "actions=set_field:4->vlan_pcp",
    "dl_vlan=3,actions=strip_vlan,set_field:4->vlan_pcp",
    "udp,actions=set_field:80->tcp_src",
    "actions=set_field:80->tcp_src",
    "icmp6,icmp_type=135,icmp_code=1,actions=set_field:00:00:00:00:00:01->nd_sll",
    "icmp6,icmp_type=135,actions=set_field:00:00:00:00:00:01->nd_tll",
    "actions=set_field:6->nw_proto",
    "ip,actions=set_field:6->nw_proto",
    "actions=set_field:0x800->eth_type",
    "actions=set_field:5/3->in_port",
    "actions=load:16->NXM_NX_REG0[0..3]",
    "actions=load:0x1->NXM_NX_REG0[4..32]",
    "actions=load:0x1->NXM_NX_REG0[4..3]",
    "actions=load:4->NXM_OF_VLAN_TCI[],load:3->OXM_OF_VLAN_VID[]",
    "actions=move:NXM_OF_IP_SRC[]->NXM_NX_REG0[]",
    "actions=move:NXM_NX_REG0[]->NXM_OF_IP_SRC[]",
    "actions=move:NXM_NX_REG0[0..7]->NXM_NX_REG1[0..8]",
    "ip,actions=mod_nw_tos:5",
    "ip,actions=mod_nw_ecn:4",
    "actions=mod_vlan_vid:4096",
    "actions=mod_vlan_pcp:8",
    "actions=push_vlan:0x8100,mod_nw_src:1.2.3.4",
    "actions=push_vlan:0x8100,dec_ttl",
    "actions=push_vlan:0x8100,mod_tp_src:5",
    "tcp,nw_frag=later,actions=set_field:4->tcp_src",
    "actions=resubmit(,)",
    "actions=resubmit:IN_PORT",
    "actions=resubmit(,255)",
    "table=5,actions=goto_table:5",
    "table=5,actions=goto_table:4",
    "actions=write_actions(goto_table:3)",
    "actions=write_actions(meter:3)",
    "actions=write_actions(write_actions(output:1))",
    "actions=output:1,meter:1",
    "actions=meter:1,meter:2",
    "actions=meter:0",
    "actions=clear_actions,output:1",
    "actions=goto_table:1,output:1",
    "actions=goto_table:1,goto_table:2",
    "actions=write_metadata:5,write_metadata:6",
    "actions=note:1",
    "actions=drop,output:1",
    "actions=output:65535",
    "actions=output:70000",
    "actions=output:65280",
    "actions=foo",
    "actions=output:",
    "actions=ct(commit)",
    "foo=1,actions=drop",
    "cookie=1/2,actions=drop",
    "priority=65536,actions=drop",
    "priority=-1,actions=drop",
    "table=256,actions=drop",
    "out_port=1,actions=drop",
    "nw_src=1.2.3,actions=drop",
    "ip,nw_src=1.2.3.4/33,actions=drop",
    "dl_src=00:11:22:33:44,actions=drop",
    "in_port=foo,actions=drop",
    "in_port=70000,actions=drop",
    "tcp,tcp_dst=65536,actions=drop",
    "tcp,tcp_dst=x,actions=drop",
    "tcp,tcp_flags=+foo,actions=drop",
    "tcp,tcp_flags=+syn+syn,actions=drop",
    "ip,nw_frag=foo,actions=drop",
    "in_port=1/1,actions=drop",
    "ip,nw_proto=6/1,actions=drop",
    "dl_vlan=5/1,actions=drop",
    "ip",
    "ip,actions",
    "actions=mod_nw_ecn:1",
    "actions=mod_nw_ttl:5",
    "arp,actions=mod_nw_ttl:5,mod_tp_src:5",
];

#[test]
fn flows_are_printed_as_open_vswitch_prints_them() {
    for (text, printed) in PRINTED {
        let flow = parse_flow(text, FlowCommand::Add, &Ports);
        let flow = flow.unwrap_or_else(|error| panic!("{text}:\n{error}"));
        assert_eq!(print_spec(&flow.value, &Ports), *printed, "{text}");
    }
}

#[test]
fn what_open_vswitch_refuses_is_refused() {
    for text in REFUSED {
        let flow = parse_flow(text, FlowCommand::Add, &Ports);
        assert!(flow.is_err(), "{text} was read as {flow:?}");
    }
}
