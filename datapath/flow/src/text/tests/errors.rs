//! Errors: what they say, where, and warnings.

use super::Ports;
use crate::rule::FlowCommand;
use crate::text::{parse_actions, parse_flow, parse_match, parse_packet};

/// The text that an error points at, and what it says.
fn refused(text: &str, command: FlowCommand) -> (String, String) {
    let error = parse_flow(text, command, &Ports).expect_err(text);
    let at = &text[error.offset..error.offset + error.length];
    (at.to_owned(), error.message)
}

#[test]
fn errors_point_at_what_is_wrong() {
    let cases = [
        (
            "ip,nw_src=1.2.3,actions=drop",
            "1.2.3",
            "not an IPv4 address",
        ),
        ("ip,nw_src=1.2.3.4/33,actions=drop", "33", "an IPv4 mask is"),
        ("dl_vlan=5000,actions=drop", "5000", "a VLAN is 0 to 4095"),
        ("ip,nw_tos=5,actions=drop", "5", "they are nw_ecn"),
        ("in_port=vm9,actions=drop", "vm9", "there is no port"),
        ("in_port=1/1,actions=drop", "1/1", "there is no port"),
        ("ip,nw_proto=6/1,actions=drop", "1", "cannot be masked"),
        ("tcp,tcp_dst=,actions=drop", "", "needs a value"),
        (
            "tcp,tcp_flags=+syn+foo,actions=drop",
            "foo",
            "TCP flags are",
        ),
        (
            "foo=1,actions=drop",
            "foo",
            "unknown field or keyword \"foo\"",
        ),
        (
            "ct_state=+trk,actions=drop",
            "ct_state",
            "no connection tracking",
        ),
        (
            "ip,actions=output:1,ct(commit)",
            "ct",
            "action ct is not supported",
        ),
        ("ip,actions=output:1,fool", "fool", "unknown action or port"),
        ("ip,actions=output:vm9", "vm9", "there is no port"),
        ("ip,actions=resubmit(1,2", "(", "not closed"),
        ("actions=set_field:1.2.3.4->nw_src", "nw_src", "it needs ip"),
        ("actions=set_field:6->nw_proto", "nw_proto", "read-only"),
        ("sctp,actions=set_field:6->sctp_src", "sctp_src", "checksum"),
        ("sctp,actions=mod_tp_src:6", "mod_tp_src:6", "SCTP"),
        (
            "actions=load:16->NXM_NX_REG0[0..3]",
            "16",
            "fit into 4 bits",
        ),
        (
            "actions=load:1->NXM_NX_REG0[4..32]",
            "4..32",
            "only 32 bits wide",
        ),
        (
            "actions=move:reg0[0..3]->reg1[0..4]",
            "reg0[0..3]->reg1[0..4]",
            "5",
        ),
        ("actions=set_field:5->reg0[", "[", "not closed"),
        ("table=5,actions=goto_table:5", "5", "goes up only"),
        (
            "actions=1,meter:1",
            "meter:1",
            "must stand before apply_actions",
        ),
        (
            "actions=output(port=1,max_len=99)",
            "output(port=1,max_len=99)",
            "not cut",
        ),
        ("cookie=1/1,actions=drop", "1/1", "has no mask"),
        (
            "udp,nw_frag=later,tp_src=5 actions=drop",
            "udp,nw_frag=later,tp_src=5",
            "later fragments",
        ),
        ("priority=5,tcp", "", "needs actions"),
    ];
    for (text, at, says) in cases {
        let (found, message) = refused(text, FlowCommand::Add);
        assert_eq!(found, at, "{text}: {message}");
        assert!(message.contains(says), "{text}: {message}");
    }
}

#[test]
fn commands_have_their_own_keywords() {
    use FlowCommand::{Add, Delete, DeleteStrict, Modify};
    let allowed = [
        ("ip,out_port=1,out_group=5,table=3,cookie=1/-1", Delete),
        ("", Delete),
        ("priority=5,ip", DeleteStrict),
        ("cookie=1/0xf,ip,actions=drop", Modify),
        ("cookie=1,idle_timeout=5,ip,actions=drop", Modify),
    ];
    for (text, command) in allowed {
        parse_flow(text, command, &Ports).unwrap_or_else(|error| panic!("{error}"));
    }
    let refused_ones = [
        ("priority=5,ip", Delete, "priority=5"),
        ("ip,idle_timeout=5", Delete, "idle_timeout=5"),
        ("ip,actions=drop", Delete, "drop"),
        ("cookie=1", Delete, "1"),
        ("out_port=1,actions=drop", Add, "out_port=1"),
        ("importance=1,actions=drop", Modify, "importance=1"),
        ("cookie=1/1,cookie=2,actions=drop", Modify, "cookie=2"),
    ];
    for (text, command, at) in refused_ones {
        assert_eq!(refused(text, command).0, at, "{text}");
    }
}

#[test]
fn modify_says_whether_it_sets_the_cookie() {
    let sets = |text| {
        let flow = parse_flow(text, FlowCommand::Modify, &Ports).unwrap().value;
        (flow.sets_cookie, flow.cookie, flow.cookie_mask)
    };
    assert_eq!(sets("actions=drop"), (false, 0, 0));
    assert_eq!(sets("cookie=0,actions=drop"), (true, 0, 0));
    assert_eq!(sets("cookie=0xff/0xf,actions=drop"), (false, 0xf, 0xf));
}

#[test]
fn an_error_shows_the_place() {
    let text = "ip,actions=drop,fool";
    let error = parse_flow(text, FlowCommand::Add, &Ports).unwrap_err();
    let shown = error.to_string();
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].starts_with("byte 16: unknown action or port \"fool\""));
    assert_eq!(lines[1], "  ip,actions=drop,fool");
    assert_eq!(lines[2], "                  ^^^^");

    // Long texts are cut around it, on whole characters.
    let long = format!("{}xyzzy,{}", "ö,".repeat(80), "ä".repeat(200));
    let error = parse_actions(&long, &Ports).unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.lines().all(|line| line.chars().count() < 200),
        "{shown}"
    );
}

#[test]
fn what_a_match_cannot_have_is_left_out_with_a_warning() {
    // As ovs-ofctl logs it (ofp_match|INFO), line by line.
    let cases = [
        ("nw_src=1.2.3.4", "nw_src=1.2.3.4", ""),
        ("ip,tp_src=80", "ip,tp_src=80", "ip"),
        ("icmp_type=8", "tp_src=8", ""),
        (
            "icmp6,icmp_type=136,nd_sll=00:11:22:33:44:55",
            "icmp6,icmp_type=136,nd_sll=00:11:22:33:44:55",
            "icmp6,icmp_type=136",
        ),
    ];
    for (text, pre, post) in cases {
        let parsed = parse_match(text, &Ports).unwrap();
        let expected =
            format!("normalization changed ofp_match, details:\n pre: {pre}\npost: {post}");
        assert_eq!(parsed.warnings, [expected], "{text}");
    }
    for (text, name) in [
        ("nw_frag=yes", "nw_frag"),
        ("udp,tcp_flags=+syn", "tcp_flags"),
    ] {
        let parsed = parse_match(text, &Ports).unwrap();
        assert_eq!(parsed.warnings.len(), 1);
        assert!(
            parsed.warnings[0].starts_with(name),
            "{:?}",
            parsed.warnings
        );
    }
    let clean = parse_match("tcp,nw_src=1.2.3.4,tp_src=80,dl_vlan=3", &Ports);
    assert_eq!(clean.unwrap().warnings, [""; 0]);
}

#[test]
fn nesting_does_not_go_deep() {
    for word in ["write_actions(", "apply_actions(", "output("] {
        let text = format!("actions={}{}", word.repeat(100_000), ")".repeat(100_000));
        assert!(parse_flow(&text, FlowCommand::Add, &Ports).is_err());
    }
    let flow = parse_flow("actions=apply_actions(1,2),3", FlowCommand::Add, &Ports);
    assert_eq!(flow.unwrap().value.actions.len(), 3);
}

#[test]
fn a_traced_packet_is_whole() {
    let good = "in_port=p-2,dl_vlan=5,dl_vlan_pcp=3,tcp,nw_src=1.2.3.4,nw_ttl=64,tcp_dst=80";
    let packet = parse_packet(good, &Ports).unwrap();
    let shown = crate::text::print_match(&packet, &Ports);
    assert_eq!(
        shown,
        "tcp,in_port=2,dl_vlan=5,dl_vlan_pcp=3,nw_src=1.2.3.4,nw_ttl=64,tp_dst=80"
    );
    // What a trace prints of a packet can be traced.
    for protocol in ["tcp", "udp", "sctp", "udp6"] {
        let text = format!("{protocol},tp_src=7,tp_dst=53");
        let packet = parse_packet(&text, &Ports).unwrap();
        assert_eq!(crate::text::print_match(&packet, &Ports), text);
    }
    // Each refused by `ovs-appctl ofproto/trace` too.
    let bad = [
        "nw_src=1.2.3.4,ip",
        "tcp,nw_src=1.2.3.0/24",
        "tcp,udp",
        "ip,tcp",
        "tcp,tcp_src=1,tcp_src=2",
        "udp,tcp_src=1",
        "icmp,tp_src=1",
        "tp_dst=1",
        "tcp,foo=1",
        "tcp,tcp_flags=+syn",
        "vlan_pcp=3",
        "ip,nw_frag=yes",
        "in_port=nobody",
    ];
    for text in bad {
        let packet = parse_packet(text, &Ports);
        assert!(packet.is_err(), "{text} was read as {packet:?}");
    }
}
