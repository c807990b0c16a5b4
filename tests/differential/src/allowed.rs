//! The decisions of `DECISIONS.md`, each as narrow as it can be put: what may
//! differ, and nothing else.

use crate::compare::Sent;
use crate::execute::HEAD;
use crate::oracle::Outputs;
use crate::printed;
use crate::rules::{GroupText, RuleSet};
use crate::subject::Subject;

/// A heading of `DECISIONS.md`.
pub type Decision = &'static str;

/// Whether a frame may be read in two ways, as [`crate::printed`] writes them.
pub fn extracted(frame: &[u8], oracle: &str, ringway: &str) -> Option<Decision> {
    // Fields of transport and neighbour discovery that lie, in part, beyond
    // the head: zero with us, the rest the same.
    let beyond = |(theirs, ours): (&str, &str)| {
        let (Some((name, _)), Some((same, value))) = (theirs.split_once('='), ours.split_once('='))
        else {
            return false;
        };
        let zero = matches!(value, "0" | "::" | "00:00:00:00:00:00");
        let late = [
            "tp_src",
            "tp_dst",
            "tcp_flags",
            "nd_target",
            "nd_sll",
            "nd_tll",
        ];
        name == same && zero && late.contains(&name)
    };
    let fields = oracle.split(',').zip(ringway.split(','));
    let allowed = frame.len() > HEAD
        && oracle != ringway
        && oracle.split(',').count() == ringway.split(',').count()
        && fields.into_iter().all(|(a, b)| a == b || beyond((a, b)));
    allowed.then_some("Headers beyond the head")
}

/// Whether one of both may refuse a text, and the other not.
pub fn acceptance(text: &str, oracle: Option<&str>, ringway: Option<&str>) -> Option<Decision> {
    let tci = text.contains("->NXM_OF_VLAN_TCI[");
    let arp_op = text.contains("NXM_OF_ARP_OP[");
    match (oracle, ringway) {
        (Some(why), None) if why.contains("none of the usable flow formats") => {
            Some("One version of OpenFlow")
        }
        (None, Some(why)) if why.contains("the value does not fit") => {
            Some("Values that do not fit")
        }
        (None, Some(why)) if why.contains("ICMP's type and code are 0 to 255") => {
            Some("Values that do not fit")
        }
        (None, Some(why)) if arp_op && why.contains("wide") => Some("Values that do not fit"),
        (None, Some(why)) if why.contains("SCTP's ports") => Some("Ports of TCP and UDP only"),
        (Some(why), None) if tci && why.contains("set_field vlan_") => {
            Some("What is known of tags")
        }
        (Some(why), None) if why.contains("BAD_PREREQ") && text.contains("ipv6_label=") => {
            Some("Fields without their prerequisites")
        }
        _ => None,
    }
}

/// Whether a frame may come to something else, and to what.
pub fn outputs(
    subject: &Subject,
    set: &RuleSet,
    sent: &Sent,
    outputs: [&Outputs; 2],
) -> Option<Decision> {
    let met = subject.met(sent.port, &sent.frame);
    let executed = subject.execute(sent.port, &sent.frame);
    let has_select = set.groups.iter().any(GroupText::is_select);
    let mut others = subject.with_other_choices(set);
    match () {
        () if met.mod_ports => Some("Ports of TCP and UDP only"),
        () if executed.normal_in_vlan_0 => Some("NORMAL and priority tags"),
        () if met.wrote_rarp => Some("RARP is written, too"),
        () if met.later_icmp => Some("Later fragments"),
        () if met.later_fragment && differ_in_a_word(outputs) => Some("Later fragments"),
        () if is_routed(&sent.frame) && differ_in_a_word(outputs) => Some("Routing headers"),
        () if met.tags > 2 => Some("A third tag"),
        () if met.wrote_tci => Some("A TCI without a tag"),
        // Not every combination of choices was tried.
        () if met.groups > 1 && has_select => Some("A select group's hash"),
        () if others.any(|other| other.met(sent.port, &sent.frame).tags > 2) => Some("A third tag"),
        () => None,
    }
}

/// Whether a trace may tell something else of a frame.
pub fn trace(subject: &Subject, sent: &Sent, oracle: &str) -> Option<Decision> {
    let met = subject.met(sent.port, &sent.frame);
    let ours = printed::key(&subject.key(sent.port, &sent.frame));
    match () {
        () if met.tags > 2 => Some("A third tag"),
        () if met.wrote_tci => Some("A TCI without a tag"),
        () if met.mod_ports => Some("Ports of TCP and UDP only"),
        () if met.later_icmp => Some("Later fragments"),
        () => extracted(&sent.frame, &printed::traced_flow(oracle), &ours),
    }
}

/// Whether an IPv6 packet has a routing header with segments left.
fn is_routed(frame: &[u8]) -> bool {
    let byte = |at: usize| frame.get(at).copied().map(usize::from);
    let is_tag = |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8]));
    let mut at = 12;
    while at < 20 && is_tag(at) {
        at += 4;
    }
    if frame.get(at..at + 2) != Some(&[0x86, 0xdd]) {
        return false;
    }
    let mut next = byte(at + 8);
    at += 42;
    while let (Some(kind), Some(following), Some(length)) = (next, byte(at), byte(at + 1)) {
        at += match kind {
            43 if byte(at + 3) > Some(0) => return true,
            0 | 43 | 60 | 135 => (length + 1) * 8,
            44 => 8,
            51 => (length + 2) * 4,
            _ => return false,
        };
        next = Some(following);
    }
    false
}

/// Whether the same frames came out but for two adjacent bytes of each: a checksum.
fn differ_in_a_word([theirs, ours]: [&Outputs; 2]) -> bool {
    let near = |a: &[u8], b: &[u8]| {
        let differ = || (0..a.len()).filter(|i| a.get(*i) != b.get(*i));
        match (differ().next(), differ().next_back()) {
            (Some(first), Some(last)) => a.len() == b.len() && last - first <= 1,
            _ => a.len() == b.len(),
        }
    };
    let all_near = |a: &Vec<Vec<u8>>, b: &Vec<Vec<u8>>| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b))
    };
    theirs.keys().eq(ours.keys())
        && theirs
            .values()
            .zip(ours.values())
            .all(|(a, b)| all_near(a, b))
}
