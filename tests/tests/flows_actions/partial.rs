//! Checksums that a guest left to the switch (virtio's NEEDS_CSUM), and what
//! becomes of them when the packet is rewritten: whole for a guest that does
//! not check, still partial and right for one that does.

use std::net::{Ipv4Addr, Ipv6Addr};

use ringway_tests::frames::{Body, Frame, Payload, tcp, tcp6, udp, udp6, v4};
use ringway_tests::lab::{Failures, Lab, Sent, whole};

/// Actions before the outputs, what is sent, and what it becomes.
fn cases() -> Vec<(&'static str, Frame, Frame)> {
    let nat = |frame: Frame| frame.v4(|p| p.src = Ipv4Addr::new(192, 0, 2, 1));
    let nat6 = |frame: Frame| frame.v6(|p| p.dst = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
    let port = |frame: Frame, port| match frame == tcp() {
        true => frame.payload(Payload::Tcp(1000, port, 2, b"some data".to_vec())),
        false => frame.payload(Payload::Udp(1000, port, b"a question".to_vec())),
    };
    let long = |dst| v4(Payload::Tcp(1000, dst, 0x10, vec![0xa7; 1401]));
    vec![
        ("", tcp(), tcp()),
        ("", udp6(), udp6()),
        ("mod_nw_src:192.0.2.1,", tcp(), nat(tcp())),
        ("mod_nw_src:192.0.2.1,", udp(), nat(udp())),
        ("mod_tp_dst:8080,", tcp(), port(tcp(), 8080)),
        ("mod_tp_dst:8080,", udp(), port(udp(), 8080)),
        (
            "mod_nw_src:192.0.2.1,mod_tp_dst:8080,dec_ttl,",
            long(80),
            nat(long(8080)).v4(|p| p.ttl = 63),
        ),
        ("set_field:2001:db8::9->ipv6_dst,", tcp6(), nat6(tcp6())),
        (
            "set_field:2001:db8::9->ipv6_dst,mod_tp_dst:8080,",
            udp6(),
            port(nat6(udp6()), 8080),
        ),
        // The transport header moves by four bytes.
        (
            "push_vlan:0x8100,mod_vlan_vid:5,",
            udp(),
            udp().tagged(0x8100, 5),
        ),
        (
            "push_vlan:0x8100,mod_vlan_vid:5,push_vlan:0x88a8,mod_vlan_vid:6,mod_nw_src:192.0.2.1,",
            tcp(),
            nat(tcp()).tagged(0x8100, 5).tagged(0x88a8, 6),
        ),
        ("pop_vlan,", udp().tagged(0x8100, 5), udp()),
        (
            "pop_vlan,pop_vlan,mod_nw_src:192.0.2.1,",
            tcp().tagged(0x8100, 5).tagged(0x88a8, 6),
            nat(tcp()),
        ),
        (
            "mod_tp_dst:8080,pop_vlan,",
            tcp().tagged(0x8100, 5),
            port(tcp(), 8080),
        ),
    ]
}

/// vm2 takes whole checksums only, vm5 has negotiated GUEST_CSUM.
pub fn rewritten(lab: &mut Lab, failures: &mut Failures) {
    for (actions, sent, got) in cases() {
        let kind = match &sent.body {
            Body::V6(p) if matches!(p.payload, Payload::Tcp(..)) => "tcp6",
            Body::V6(_) => "udp6",
            Body::V4(p) if matches!(p.payload, Payload::Tcp(..)) => "tcp",
            _ => "udp",
        };
        // An output before, in between and behind: each has its own copy.
        let tagged = match sent.tags.first() {
            Some(_) => "vlan_tci=0x1000/0x1000,",
            None => "",
        };
        let rules = format!("{kind},{tagged}actions=vm3,{actions}vm2,vm5");
        if let Err(error) = lab.load(&rules) {
            failures.note(&rules, Err(error.to_string()));
            continue;
        }
        for sent_as in [Sent::partial(&sent), Sent::from(&sent)] {
            let expected = [
                ("vm3", sent.bytes()),
                ("vm2", got.bytes()),
                ("vm5", got.bytes()),
            ];
            for _ in 0..2 {
                failures.note(&rules, lab.expect("vm1", &sent_as, &expected));
            }
        }
        failures.note(&rules, left_partial(lab, &sent, &got));
    }
}

/// The guest that checks gets it as it was sent, the others whole.
fn left_partial(lab: &mut Lab, sent: &Frame, got: &Frame) -> Result<(), String> {
    let outputs = lab
        .send("vm1", &Sent::partial(sent))
        .map_err(|error| error.to_string())?;
    let header = |port: &str| outputs.get(port).map(|frames| frames[0].header[0]);
    if (header("vm2"), header("vm3"), header("vm5")) != (Some(0), Some(0), Some(1)) {
        return Err(format!("who got a partial checksum? {outputs:?}"));
    }
    match whole(&outputs)["vm5"] == [got.bytes()] {
        true => Ok(()),
        false => Err(format!("vm5 completes it to something else: {outputs:?}")),
    }
}
