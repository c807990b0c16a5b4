//! What both print, brought into one form: without counters and ages.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use ringway_flow::field::Field;
use ringway_flow::key::{PORT_LOCAL, PacketKey, VLAN_PRESENT};

use crate::domain::mac_text;

/// What a line of `dump-flows` begins with and no two runs have in common.
const COUNTERS: [&str; 6] = [
    "cookie=",
    "duration=",
    "n_packets=",
    "n_bytes=",
    "idle_age=",
    "hard_age=",
];

/// The cookie of a rule, as text.
pub fn cookie(text: &str) -> Option<String> {
    let cookie = text.split("cookie=").nth(1)?;
    Some(cookie.split([',', ' ']).next()?.to_owned())
}

/// Lines of `dump-flows` by cookie, without counters.
pub fn by_cookie(lines: &[String]) -> BTreeMap<String, String> {
    let without = |line: &String| {
        let parts = line.trim().split(", ");
        let kept = parts.filter(|part| !COUNTERS.iter().any(|name| part.starts_with(name)));
        kept.collect::<Vec<_>>().join(", ")
    };
    let keyed = |line: &String| Some((cookie(line)?, without(line)));
    lines.iter().filter_map(keyed).collect()
}

/// A rule's line with the names that its author, or ringway, chose: one action
/// and one match have two, by version of OpenFlow.
pub fn renamed(line: &str) -> String {
    line.replace("strip_vlan", "pop_vlan")
        .replace("vlan_tci=0x0000/0x1fff", "vlan_tci=0x0000")
}

/// The line `Flow:` of a trace, without what ringway does not read of a packet.
pub fn traced_flow(trace: &str) -> String {
    let line = trace.lines().find_map(|line| line.strip_prefix("Flow: "));
    let unread = ["mpls_", "nd_reserved=", "nd_options_type="];
    let fields = line.unwrap_or_default().split(',');
    let read = fields.filter(|field| !unread.iter().any(|name| field.starts_with(name)));
    // The C library writes `::1:0` as `::0.1.0.0`, Rust's does not.
    let respelt = |field: &str| match field.split_once('=') {
        Some((name, value)) => match value.parse::<Ipv6Addr>() {
            Ok(address) => format!("{name}={address}"),
            Err(_) => field.to_owned(),
        },
        None => field.to_owned(),
    };
    read.map(respelt).collect::<Vec<_>>().join(",")
}

/// The lines of a trace, without what each prints in its own way: masks, fields
/// that ringway does not read, how the datapath sets a field.
pub fn trace(text: &str) -> Vec<String> {
    let own = [
        "-> mask:",
        "Megaflow:",
        "Megaflow actions:",
        // ringway's ports come and go without its rules being translated anew.
        ">> Nonexistent output port",
        "This flow is handled by the userspace slow path",
        "- Uses action(s) not supported by datapath.",
        "- Sends \"packet-in\" messages",
    ];
    let lines = text.lines().map(str::trim_end);
    let kept = lines.filter(|line| !own.iter().any(|start| line.trim_start().starts_with(start)));
    let comparable = |line: &str| match line.split_once(": ") {
        Some((name @ ("Flow" | "Final flow"), fields)) => {
            format!("{name}: {}", read_fields(fields))
        }
        Some((name @ "Datapath actions", actions)) => {
            format!("{name}: {}", outputs_in(actions))
        }
        _ if line.starts_with("Translation failed (") => "Translation failed".to_owned(),
        _ => renamed(line),
    };
    let mut lines: Vec<String> = kept.map(comparable).collect();
    // What changed may be something that is not shown.
    let flow = lines
        .iter()
        .find_map(|line| line.strip_prefix("Flow: "))
        .map(str::to_owned);
    for line in &mut lines {
        if flow.is_some() && line.strip_prefix("Final flow: ") == flow.as_deref() {
            *line = "Final flow: unchanged".to_owned();
        }
    }
    lines
}

/// A flow's fields, without those that ringway does not show.
fn read_fields(fields: &str) -> String {
    let without_ports = fields.starts_with("ip,")
        || fields.starts_with("ipv6,")
        || fields.contains("nw_frag=later");
    let shown = |field: &&str| {
        let name = field.split('=').next().unwrap_or(field);
        match name {
            // Both of them there, the one that belongs to the message here.
            "nd_sll" | "nd_tll" => false,
            "nd_reserved" | "nd_options_type" => false,
            "tp_src" | "tp_dst" | "tcp_flags" | "icmp_type" | "icmp_code" => !without_ports,
            _ => !name.starts_with("mpls_"),
        }
    };
    fields
        .split(',')
        .filter(shown)
        .collect::<Vec<_>>()
        .join(",")
}

/// To which ports datapath actions send, and how often; the frames themselves
/// are compared elsewhere.
fn outputs_in(actions: &str) -> String {
    let mut depth = 0;
    let mut at_top = String::new();
    for c in actions.chars() {
        depth -= i32::from(c == ')');
        if depth == 0 {
            at_top.push(c);
        }
        depth += i32::from(c == '(');
    }
    let port = |action: &str| action.parse::<u16>().ok();
    let mut ports: Vec<u16> = at_top.split(',').filter_map(port).collect();
    for port in &mut ports {
        // The dummy datapath's number of the bridge's own port.
        *port = if *port == 100 { PORT_LOCAL } else { *port };
    }
    ports.retain(|port| *port <= crate::domain::PORTS || *port == PORT_LOCAL);
    ports.sort_unstable();
    format!("{ports:?}")
}

/// A key as Open vSwitch prints the flow that it traces.
pub fn key(packet: &PacketKey) -> String {
    let flow = packet.to_flow();
    let get = |field: Field| field.get(&flow);
    let mut out = String::new();
    let ethertype = get(Field::EthType);
    let proto = get(Field::IpProto);
    let later = get(Field::IpFrag) & 2 != 0;
    let named = match (ethertype, proto) {
        (0x0800, 1) => "icmp",
        (0x0800, 6) => "tcp",
        (0x0800, 17) => "udp",
        (0x0800, 132) => "sctp",
        (0x0800, _) => "ip",
        (0x86dd, 58) => "icmp6",
        (0x86dd, 6) => "tcp6",
        (0x86dd, 17) => "udp6",
        (0x86dd, 132) => "sctp6",
        (0x86dd, _) => "ipv6",
        (0x0806, _) => "arp",
        (0x8035, _) => "rarp",
        (0x8847, _) => "mpls",
        (0x8848, _) => "mplsm",
        _ => "",
    };
    if !named.is_empty() {
        out += named;
        out.push(',');
    }
    match get(Field::InPort) as u16 {
        PORT_LOCAL => out += "in_port=LOCAL",
        port => drop(write!(out, "in_port={port}")),
    }
    tags(&mut out, packet);
    let mac = |field: Field| {
        let mut mac = [0; 6];
        mac.copy_from_slice(&(get(field) as u64).to_be_bytes()[2..]);
        mac_text(mac)
    };
    let _ = write!(
        out,
        ",dl_src={},dl_dst={}",
        mac(Field::EthSrc),
        mac(Field::EthDst)
    );
    if named.is_empty() {
        let _ = write!(out, ",dl_type={ethertype:#06x}");
    }
    let ipv4 = |field: Field| Ipv4Addr::from(get(field) as u32);
    let ipv6 = |field: Field| Ipv6Addr::from(get(field));
    match ethertype {
        0x0806 | 0x8035 => {
            let (spa, tpa) = (ipv4(Field::ArpSpa), ipv4(Field::ArpTpa));
            let (sha, tha) = (mac(Field::ArpSha), mac(Field::ArpTha));
            let op = get(Field::ArpOp);
            let _ = write!(
                out,
                ",arp_spa={spa},arp_tpa={tpa},arp_op={op},arp_sha={sha},arp_tha={tha}"
            );
            return out;
        }
        0x0800 => {
            let _ = write!(
                out,
                ",nw_src={},nw_dst={}",
                ipv4(Field::IpSrc),
                ipv4(Field::IpDst)
            );
        }
        0x86dd => {
            let (src, dst) = (ipv6(Field::Ipv6Src), ipv6(Field::Ipv6Dst));
            let label = get(Field::Ipv6Label);
            let _ = write!(
                out,
                ",ipv6_src={src},ipv6_dst={dst},ipv6_label={label:#07x}"
            );
        }
        _ => return out,
    }
    if matches!(named, "ip" | "ipv6") {
        let _ = write!(out, ",nw_proto={proto}");
    }
    let frag = ["no", "first", "?", "later"][get(Field::IpFrag) as usize];
    let tos = get(Field::IpDscp) << 2;
    let (ecn, ttl) = (get(Field::IpEcn), get(Field::IpTtl));
    let _ = write!(
        out,
        ",nw_tos={tos},nw_ecn={ecn},nw_ttl={ttl},nw_frag={frag}"
    );
    if later {
        return out;
    }
    let (src, dst) = (get(Field::TcpSrc), get(Field::TcpDst));
    match proto {
        1 | 58 if named.starts_with("icmp") => {
            let _ = write!(out, ",icmp_type={src},icmp_code={dst}");
            if named == "icmp6" && matches!(src, 135 | 136) && dst == 0 {
                let target = ipv6(Field::NdTarget);
                let (sll, tll) = (mac(Field::NdSll), mac(Field::NdTll));
                let _ = write!(out, ",nd_target={target},nd_sll={sll},nd_tll={tll}");
            }
        }
        6 | 17 | 132 => {
            let _ = write!(out, ",tp_src={src},tp_dst={dst}");
            if proto == 6 {
                let _ = write!(out, ",tcp_flags={}", tcp_flags(get(Field::TcpFlags)));
            }
        }
        // ICMP's number over the other version of IP.
        1 | 58 => {
            let _ = write!(out, ",tp_src={src},tp_dst={dst}");
        }
        2 if named == "ip" => {
            let _ = write!(out, ",tp_src={src},tp_dst={dst}");
        }
        _ => {}
    }
    out
}

fn tags(out: &mut String, packet: &PacketKey) {
    let [outer, inner] = [packet.0[1] as u16, packet.0[2] as u16];
    if outer == 0 {
        *out += ",vlan_tci=0x0000";
    }
    for (tci, level) in [(outer, ""), (inner, "1")] {
        if tci & VLAN_PRESENT != 0 {
            let (vid, pcp) = (tci & 0xfff, tci >> 13);
            let _ = write!(out, ",dl_vlan{level}={vid},dl_vlan_pcp{level}={pcp}");
        } else if outer != 0 {
            let _ = write!(out, ",vlan_tci{level}={tci:#06x}");
        }
    }
}

fn tcp_flags(flags: u128) -> String {
    let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];
    let known = names
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1);
    let mut said: Vec<String> = known.map(|(_, name)| (*name).to_owned()).collect();
    if flags >> 9 != 0 {
        said.push(format!("{:#x}", flags >> 9 << 9));
    }
    match said.is_empty() {
        true => "0".into(),
        false => said.join("|"),
    }
}
