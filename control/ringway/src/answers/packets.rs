//! `monitor`, in `ovs-ofctl monitor`'s form, with each packet's bytes.

use std::fmt::Write;

use ringway_proto::spelling::Spelling;
use ringway_proto::v1 as pb;
use serde_json::{Value, json};

/// What was told, for people.
pub fn text(told: &pb::PacketInsResponse) -> String {
    let mut out = String::new();
    if told.lost > 0 {
        let _ = writeln!(out, "{} packets for controllers were lost", told.lost);
    }
    let Some(packet) = &told.packet else {
        return out;
    };
    out.push_str("NXT_PACKET_IN2 (xid=0x0):");
    if packet.table > 0 {
        let _ = write!(out, " table_id={}", packet.table);
    }
    let _ = write!(
        out,
        " total_len={} in_port={}",
        packet.frame_length, packet.in_port
    );
    if packet.controller > 0 {
        let _ = write!(out, " controller_id={}", packet.controller);
    }
    let (via, bytes) = (packet.reason().spelled(), packet.frame.len());
    let _ = writeln!(out, " (via {via}) data_len={bytes} (unbuffered)");
    out.push_str(&packet.summary);
    out.push('\n');
    hex_dump(&mut out, &packet.frame);
    out
}

/// Sixteen bytes a line, with their place and as characters.
fn hex_dump(out: &mut String, bytes: &[u8]) {
    for (index, line) in bytes.chunks(16).enumerate() {
        let _ = write!(out, "{:08x} ", index * 16);
        for at in 0..16 {
            let gap = if at == 8 { '-' } else { ' ' };
            let gap = if at == 8 && line.len() <= 8 { ' ' } else { gap };
            let _ = match line.get(at) {
                Some(byte) => write!(out, "{gap}{byte:02x}"),
                None => write!(out, "   "),
            };
        }
        let shown = line.iter().map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        });
        let _ = writeln!(out, " |{}|", shown.collect::<String>());
    }
}

/// What was told, for programs.
pub fn json(told: &pb::PacketInsResponse) -> Value {
    let packet = told.packet.as_ref().map(|packet| {
        let hex: String = packet
            .frame
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        json!({
            "bridge": packet.bridge,
            "in_port": packet.in_port,
            "in_port_name": packet.in_port_name,
            "reason": packet.reason().spelled(),
            "table": packet.table,
            "controller": packet.controller,
            "frame_length": packet.frame_length,
            "frame": hex,
            "summary": packet.summary,
        })
    });
    json!({"lost": told.lost, "packet": packet})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_look_like_ovs_ofctls() {
        let mut frame: Vec<u8> = (0x4a..0x5a).collect();
        frame.extend([0, 0xff, b' ']);
        let told = pb::PacketInsResponse {
            lost: 0,
            packet: Some(pb::PacketIn {
                in_port: 1,
                reason: pb::PacketInReason::NoMatch.into(),
                frame_length: 53,
                frame,
                summary: "udp,dl_src=50:54:00:00:00:09".into(),
                ..Default::default()
            }),
        };
        assert_eq!(
            text(&told),
            "NXT_PACKET_IN2 (xid=0x0): total_len=53 in_port=1 (via no_match) data_len=19 (unbuffered)
udp,dl_src=50:54:00:00:00:09
00000000  4a 4b 4c 4d 4e 4f 50 51-52 53 54 55 56 57 58 59 |JKLMNOPQRSTUVWXY|
00000010  00 ff 20                                        |.. |
"
        );
        let lost = pb::PacketInsResponse {
            lost: 3,
            packet: None,
        };
        assert_eq!(text(&lost), "3 packets for controllers were lost\n");
        assert_eq!(json(&lost)["packet"], Value::Null);
    }
}
