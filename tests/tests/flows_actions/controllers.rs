//! Packets for controllers (`monitor`) and from them (`packet-out`).

use ringway_tests::frames::{Payload, hex, plain, tcp, udp, v4};
use ringway_tests::lab::{BRIDGE, Failures, Lab, Monitor, Sent};
use serde_json::Value;
use std::net::Ipv4Addr;

/// What the monitor must say of one frame.
struct Told {
    reason: &'static str,
    table: u64,
    controller: u64,
    /// Bytes of the frame that it has.
    frame: Vec<u8>,
    /// How long the whole was.
    length: usize,
}

impl Told {
    fn of(frame: Vec<u8>) -> Self {
        Self {
            reason: "action",
            table: 0,
            controller: 0,
            length: frame.len(),
            frame,
        }
    }

    fn check(&self, told: &Value) -> Result<(), String> {
        let packet = &told["packet"];
        let same = packet["reason"] == self.reason
            && packet["table"] == self.table
            && packet["controller"] == self.controller
            && packet["frame_length"] == self.length
            && packet["frame"] == hex(&self.frame)
            && packet["bridge"] == BRIDGE
            && packet["in_port_name"] == "vm1";
        match same {
            true => Ok(()),
            false => {
                let frame = hex(&self.frame);
                Err(format!(
                    "expected {} {} {frame}, told {told}",
                    self.reason, self.table
                ))
            }
        }
    }
}

/// `controller` with all its arguments, beside other outputs and after rewrites.
pub fn packet_ins(lab: &mut Lab, failures: &mut Failures) {
    let mut monitor = Monitor::start(lab).unwrap();
    let nat = udp().v4(|p| p.dst = Ipv4Addr::new(10, 0, 0, 9));
    let old = udp().v4(|p| p.ttl = 1);
    let long = v4(Payload::Tcp(1, 2, 0x10, vec![7; 1400]));
    let whole = |frame: &ringway_tests::frames::Frame| Told::of(frame.bytes());
    let cases = [
        (
            "actions=controller",
            Sent::from(&udp()),
            whole(&udp()),
            vec![],
        ),
        (
            "actions=controller,vm2",
            Sent::from(&udp()),
            whole(&udp()),
            vec![("vm2", udp().bytes())],
        ),
        (
            "actions=controller(reason=no_match,id=5,max_len=65535),vm2",
            Sent::from(&udp()),
            Told {
                reason: "no_match",
                controller: 5,
                ..whole(&udp())
            },
            vec![("vm2", udp().bytes())],
        ),
        (
            "actions=controller:16",
            Sent::from(&udp()),
            Told {
                frame: udp().bytes()[..16].to_vec(),
                ..whole(&udp())
            },
            vec![],
        ),
        (
            "actions=goto_table:3\ntable=3,udp,actions=mod_nw_dst:10.0.0.9,controller,vm2",
            Sent::from(&udp()),
            Told {
                table: 3,
                ..whole(&nat)
            },
            vec![("vm2", nat.bytes())],
        ),
        (
            "ip,actions=dec_ttl,vm2",
            Sent::from(&old),
            Told {
                reason: "invalid_ttl",
                ..whole(&old)
            },
            vec![],
        ),
        (
            "actions=controller",
            Sent::from(&long),
            whole(&long),
            vec![],
        ),
        // A controller has no use for a checksum that is not there yet.
        (
            "actions=controller",
            Sent::partial(&tcp()),
            whole(&tcp()),
            vec![],
        ),
        (
            "actions=vm2,controller,vm5",
            Sent::partial(&tcp()),
            whole(&tcp()),
            vec![("vm2", tcp().bytes()), ("vm5", tcp().bytes())],
        ),
        (
            "udp,actions=vm2,mod_nw_dst:10.0.0.9,controller,vm5",
            Sent::partial(&udp()),
            whole(&nat),
            vec![("vm2", udp().bytes()), ("vm5", nat.bytes())],
        ),
    ];
    for (rules, sent, told, outputs) in cases {
        lab.load(rules)
            .unwrap_or_else(|error| panic!("{rules}: {error}"));
        for _ in 0..2 {
            failures.note(rules, lab.expect("vm1", &sent, &outputs));
            let outcome = monitor.next_event().map_err(|error| error.to_string());
            failures.note(rules, outcome.and_then(|packet| told.check(&packet)));
        }
    }
    failures.note("no more than was sent", monitor.silent());
}

/// `packet-out` through actions and through the tables.
pub fn packet_outs(lab: &mut Lab, failures: &mut Failures) {
    lab.load(
        "priority=2,in_port=vm3,actions=vm4
         priority=1,in_port=controller,actions=vm5",
    )
    .unwrap();
    let nat = udp().v4(|p| p.dst = Ipv4Addr::new(10, 0, 0, 9));
    let cases = [
        ("in_port=vm1,", "vm2", vec![("vm2", udp().bytes())]),
        (
            "",
            "mod_nw_dst:10.0.0.9,vm2,vm3",
            vec![("vm2", nat.bytes()), ("vm3", nat.bytes())],
        ),
        ("in_port=vm3,", "table", vec![("vm4", udp().bytes())]),
        ("", "table", vec![("vm5", udp().bytes())]),
        ("in_port=vm1,", "in_port", vec![("vm1", udp().bytes())]),
        (
            "in_port=vm2,",
            "flood",
            ["vm1", "vm3", "vm4", "vm5"]
                .map(|port| (port, udp().bytes()))
                .to_vec(),
        ),
    ];
    for (in_port, actions, expected) in cases {
        let text = format!("{in_port}packet={},actions={actions}", hex(&udp().bytes()));
        let done = lab.daemon.ok(&["packet-out", BRIDGE, &text]);
        let outcome = done.map_err(|error| error.to_string());
        failures.note(&text, outcome.and_then(|_| lab.came_out(&text, &expected)));
    }
    // The older form.
    let bytes = plain().bytes();
    let done = lab
        .daemon
        .ok(&["packet-out", BRIDGE, "vm1", "vm2", &hex(&bytes)]);
    failures.note(
        "packet-out in words",
        done.map(drop).map_err(|error| error.to_string()),
    );
    failures.note(
        "packet-out in words",
        lab.came_out("packet-out", &[("vm2", bytes)]),
    );
}
